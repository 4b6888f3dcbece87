#![expect(clippy::disallowed_methods, reason = "tests write files and run foreign tools")]

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::testing::has_tool;
use crate::tree::{Entry, Meta, Node};

const MIB: u64 = 1 << 20;

fn spec() -> FatSpec {
    FatSpec {
        size: 256 * MIB,
        kind: FatKind::Fat32,
        label: "KSOSEFI".into(),
        volume_id: 0x1234_abcd,
        epoch: 1_700_000_001,
    }
}

fn tree(files: &[(&str, Vec<u8>)]) -> Tree {
    let mut tree = Tree::new(0);
    for (path, bytes) in files {
        let node = Node::File(Content::inline(bytes.as_slice()));
        tree.insert(path, Entry { meta: Meta::root(0o600, 5), node }).unwrap();
    }
    tree
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index % 251) as u8).collect()
}

fn esp() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("EFI/BOOT/BOOTX64.EFI", pattern(900_001)),
        ("EFI/BOOT/grubx64.efi", pattern(4_000_000)),
        ("EFI/BOOT/mmx64.efi", pattern(2048)),
        ("EFI/debian/grub.cfg", b"set timeout=0\n".to_vec()),
        ("EFI/ksos/state1/state", pattern(512)),
        ("EFI/ksos/state2/state", pattern(512)),
        ("EFI/ksos/a rather long name with ünïcode.json", pattern(4097)),
        ("EFI/ksos/a rather long name too.json", pattern(1)),
        ("EFI/ksos/empty", Vec::new()),
        ("EFI/ksos/exactly-13ch", pattern(5)),
        ("sparse", [vec![0; 300_000], b"end".to_vec()].concat()),
    ]
}

fn error(files: &[(&str, Vec<u8>)], spec: &FatSpec) -> String {
    write(&tree(files), spec, &mut io::Cursor::new(Vec::new())).unwrap_err().to_string()
}

fn run(directory: &Path, program: &str, arguments: &[&str]) -> String {
    let command = Command::new(program).args(arguments).current_dir(directory).output().unwrap();
    let text = String::from_utf8_lossy(&command.stdout).into_owned();
    assert!(command.status.success(), "{program} {arguments:?}: {text}{}", String::from_utf8_lossy(&command.stderr));
    text
}

fn image(directory: &Path, tree: &Tree, spec: &FatSpec) -> FatSummary {
    write(tree, spec, &mut std::fs::File::create(directory.join("esp")).unwrap()).unwrap()
}

#[test]
fn foreign_tools_agree() {
    if !has_tool("fsck.vfat") || !has_tool("mdir") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    for (kind, size, cluster_size) in [
        (FatKind::Fat16, 9 * MIB, 2048),
        (FatKind::Fat16, 32 * MIB, 4096),
        (FatKind::Fat32, 34 * MIB, 512),
        (FatKind::Fat32, 100 * MIB, 1024),
        (FatKind::Fat32, 256 * MIB, 2048),
        (FatKind::Fat32, 260 * MIB, 4096),
        (FatKind::Fat32, 1024 * MIB, 4096),
    ] {
        let spec = FatSpec { size, kind, ..spec() };
        let summary = image(directory, &tree(&esp()), &spec);
        assert_eq!(summary.cluster_size, cluster_size);
        let report = run(directory, "fsck.vfat", &["-n", "-v", "esp"]);
        let entries = if kind == FatKind::Fat32 { "32 bit entries" } else { "16 bit entries" };
        assert!(report.contains(entries), "{report}");
        assert!(!report.contains("differences") && !report.contains("wrong"), "{report}");
        let used = summary.clusters - summary.free / cluster_size;
        assert!(report.contains(&format!("{used}/{} clusters", summary.clusters)), "{report}");
        for (path, bytes) in esp() {
            run(directory, "mcopy", &["-n", "-o", "-i", "esp", &format!("::{path}"), "out"]);
            assert_eq!(std::fs::read(directory.join("out")).unwrap(), bytes, "{path}");
        }
        let info = run(directory, "minfo", &["-i", "esp"]);
        assert!(info.contains("serial number: 1234ABCD") && info.contains("disk label=\"KSOSEFI    \""), "{info}");
        let listing = run(directory, "mdir", &["-i", "esp", "-/", "::"]);
        assert!(listing.contains("Volume in drive : is KSOSEFI") && listing.contains("2023-11-14  22:13"), "{listing}");
        assert!(listing.contains("a rather long name with ünïcode.json"), "{listing}");
        // A volume of another tool takes more files, and stays sound.
        run(directory, "mmd", &["-i", "esp", "::new"]);
        run(directory, "mcopy", &["-i", "esp", "out", "::new/another long name"]);
        run(directory, "fsck.vfat", &["-n", "esp"]);
    }
}

#[test]
fn every_file_starts_at_4_kib_and_is_contiguous() {
    if !has_tool("mshowfat") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    for size in [34 * MIB, 256 * MIB, 512 * MIB] {
        let summary = image(directory, &tree(&esp()), &FatSpec { size, ..spec() });
        let bytes = std::fs::read(directory.join("esp")).unwrap();
        let mut blocks = std::collections::BTreeSet::new();
        for (path, content) in esp().iter().filter(|(_, content)| !content.is_empty()) {
            let at = summary.files[*path];
            assert_eq!(at % 4096, 0, "{path}");
            assert_eq!(&bytes[at as usize..at as usize + content.len()], content, "{path}");
            for block in at / 4096..(at + content.len() as u64).div_ceil(4096) {
                assert!(blocks.insert(block), "{path} shares a block");
            }
            // mshowfat prints one range of clusters for a contiguous file.
            let chain = run(directory, "mshowfat", &["-i", "esp", &format!("::{path}")]);
            assert_eq!(chain.matches('<').count(), 1, "{chain}");
        }
    }
}

#[test]
fn the_same_tree_gives_the_same_bytes_and_a_sparse_file() {
    let directory = tempfile::tempdir().unwrap();
    image(directory.path(), &tree(&esp()), &spec());
    let first = std::fs::read(directory.path().join("esp")).unwrap();
    let taken = std::fs::metadata(directory.path().join("esp")).unwrap().blocks() * 512;
    assert!(taken < 6 * MIB, "{taken} bytes on disk");
    let mut files = esp();
    files.reverse();
    let mut second = io::Cursor::new(Vec::new());
    write(&tree(&files), &spec(), &mut second).unwrap();
    assert!(first == second.into_inner());
    assert_eq!(first.len() as u64, 256 * MIB);
}

#[test]
fn large_directories_and_colliding_short_names() {
    if !has_tool("fsck.vfat") {
        return;
    }
    let names: Vec<String> = (0..3000).map(|index| format!("d/kernel-module-{index:05}.ko.xz")).collect();
    let files: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (name.as_str(), vec![1])).collect();
    let directory = tempfile::tempdir().unwrap();
    image(directory.path(), &tree(&files), &spec());
    run(directory.path(), "fsck.vfat", &["-n", "esp"]);
    let listing = run(directory.path(), "mdir", &["-b", "-i", "esp", "::d"]);
    assert_eq!(listing.lines().count(), 3000);
}

#[test]
fn what_fat_cannot_hold_is_refused_by_name() {
    let one = |name| vec![(name, vec![1])];
    assert!(error(&one("a/b:c"), &spec()).starts_with("\"a/b:c\" cannot be on FAT: its name has a control character"));
    assert!(error(&one("a."), &spec()).contains("ends with a dot"));
    let twice = vec![("EFI/x", vec![1]), ("efi/y", vec![2])];
    assert_eq!(
        error(&twice, &spec()),
        "\"EFI\" and \"efi\" are one name on FAT, which does not tell upper from lower case"
    );
    let mut tree = Tree::new(0);
    let link = Entry { meta: Meta::root(0o777, 0), node: Node::Symlink("x".into()) };
    tree.insert("EFI/link", link).unwrap();
    let refused = check(&tree, &spec()).unwrap_err().to_string();
    assert_eq!(refused, "\"EFI/link\" is a symbolic link; FAT holds directories and regular files only");
    let huge = Content::host_file("/none".into(), ksos_formats::Digest::of(b""), 1 << 32);
    tree.insert("EFI/link", Entry { meta: Meta::root(0, 0), node: Node::File(huge) }).unwrap();
    let refused = check(&tree, &spec()).unwrap_err().to_string();
    assert_eq!(refused, "\"EFI/link\" has 4294967296 bytes; FAT holds files below 4294967296 bytes");
}

#[test]
fn sizes_that_do_not_fit_are_refused_with_numbers() {
    let small = FatSpec { size: 34 * MIB, ..spec() };
    let full = error(&[("x", vec![1; 34 << 20])], &small);
    assert_eq!(full, "content needs 35655680 bytes, the volume has 35074048");
    assert!(error(&[], &FatSpec { size: 32 * MIB, ..spec() }).contains("at least 65525 clusters"));
    let fat16 = |size| FatSpec { size, kind: FatKind::Fat16, ..spec() };
    assert!(error(&[], &fat16(8 * MIB)).contains("at least 4085 clusters"));
    assert!(error(&[], &fat16(257 * MIB)).contains("more than 65524 clusters"));
    let many: Vec<(String, Vec<u8>)> = (0..512).map(|index| (format!("F{index}"), Vec::new())).collect();
    let many: Vec<(&str, Vec<u8>)> = many.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    assert!(
        error(&many, &fat16(16 * MIB)).contains("takes 513 directory entries (a long name takes several); at most 512")
    );
    assert!(error(&[], &FatSpec { size: 34 * MIB + 512, ..spec() }).contains("not a multiple of 4096"));
    assert!(error(&[], &FatSpec { size: 1 << 42, ..spec() }).contains("sectors"));
    assert!(error(&[], &FatSpec { label: "efi".into(), ..spec() }).starts_with("\"efi\" is not a volume label"));
}

/// Any directories and files whose names FAT can hold, by path; directories have no content.
fn any_files() -> impl Strategy<Value = BTreeMap<String, Option<Vec<u8>>>> {
    let name = prop_oneof!["[A-Z0-9]{1,8}(\\.[A-Z]{3})?", "[a-z0-9]([a-zA-Z0-9 ._+-]{0,40}[a-z0-9])?", "[à-ý]{1,9}"];
    let content = prop_oneof![
        1 => Just(None),
        2 => (0..40_000_usize).prop_map(|size| Some(pattern(size))),
        1 => (0..9000_usize).prop_map(|size| Some(vec![0; size])),
    ];
    proptest::collection::vec((any::<prop::sample::Index>(), name, content), 0..30).prop_map(|entries| {
        let (mut directories, mut names, mut files) = (vec![String::new()], BTreeSet::new(), BTreeMap::new());
        for (parent, name, content) in entries {
            let path = format!("{}{name}", parent.get::<String>(&directories));
            // FAT does not tell cases apart.
            if names.insert(path.to_lowercase()) {
                directories.extend(content.is_none().then(|| format!("{path}/")));
                files.insert(path, content);
            }
        }
        files
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 50, failure_persistence: None, ..Default::default() })]

    #[test]
    fn mtools_bring_any_files_back(files in any_files(), large in any::<bool>()) {
        if !(has_tool("fsck.vfat") && has_tool("mdir")) {
            return Ok(());
        }
        let mut tree = Tree::new(0);
        for (path, content) in &files {
            let node = content.as_ref().map_or(Node::Directory, |bytes| Node::File(Content::inline(bytes.as_slice())));
            tree.insert(path, Entry { meta: Meta::root(0o755, 5), node }).unwrap();
        }
        let (kind, size) = if large { (FatKind::Fat32, 34 * MIB) } else { (FatKind::Fat16, 9 * MIB) };
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        image(directory, &tree, &FatSpec { size, kind, ..spec() });
        run(directory, "fsck.vfat", &["-n", "esp"]);
        // It fails on a root without files.
        let list = || run(directory, "mdir", &["-i", "esp", "-/", "-b", "::"]);
        let listing = if files.is_empty() { String::new() } else { list() };
        let listed: BTreeSet<&str> = listing.lines().map(|line| line.trim_start_matches("::/")).collect();
        let shown = |(path, content): (&String, &Option<Vec<u8>>)| match content {
            None => format!("{path}/"),
            Some(_) => path.clone(),
        };
        let expected: BTreeSet<String> = files.iter().map(shown).collect();
        prop_assert_eq!(listed, expected.iter().map(String::as_str).collect());
        for (path, content) in files.iter().filter_map(|(path, content)| Some((path, content.as_ref()?))) {
            run(directory, "mcopy", &["-n", "-o", "-i", "esp", &format!("::{path}"), "out"]);
            prop_assert!(std::fs::read(directory.join("out")).unwrap() == *content, "{}", path);
        }
    }
}
