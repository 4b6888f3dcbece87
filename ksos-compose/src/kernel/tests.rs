#![expect(clippy::disallowed_methods, reason = "runs depmod and modprobe on a tree that the test writes")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::index::ModuleInfo;
use super::modinfo::tests::module;
use super::*;
use crate::cache::Cache;
use crate::tree::{Entry, Meta};

const RELEASE: &str = "6.12.1-test";

fn file(bytes: impl Into<std::sync::Arc<[u8]>>) -> Entry {
    Entry { meta: Meta::root(0o644, 0), node: Node::File(Content::inline(bytes)) }
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// A package with modules in every compression: e -> d -> c -> b, e -> a, b; f with a soft dependency on an alias.
fn package() -> Tree {
    let mut tree = Tree::new(0);
    let directory = format!("usr/lib/modules/{RELEASE}");
    let signed = |strings: &[&str]| [module(strings), b"~Module signature appended~\n".to_vec()].concat();
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("kernel/a.ko", signed(&["name=a", "license=GPL", "alias=pci:v00001AF4d*sv*"])),
        ("kernel/b.ko.xz", xz(&signed(&["name=b", "depends=core"]))),
        ("kernel/x/c-c.ko.zst", zstd::encode_all(&signed(&["name=c_c", "depends=b", "alias=fs-c"])[..], 1).unwrap()),
        ("kernel/d.ko", signed(&["name=d", "depends=c-c"])),
        ("kernel/e.ko.xz", xz(&signed(&["name=e", "depends=a,b,d"]))),
        ("kernel/f.ko", signed(&["name=f", "depends=", "softdep=pre: crc-x none"])),
        ("kernel/g_fast.ko", signed(&["name=g_fast", "alias=crc-x"])),
        ("kernel/g_slow.ko", signed(&["name=g_slow", "alias=crc-x"])),
        ("kernel/broken.ko", signed(&["name=broken", "depends=gone"])),
        ("modules.builtin", b"kernel/core.ko\nkernel/fs/ext4.ko\n".to_vec()),
        ("modules.builtin.modinfo", b"core.license=GPL\0core.alias=core-alias\0".to_vec()),
        ("modules.order", b"kernel/e.ko\nkernel/d.ko\nkernel/x/c-c.ko\nkernel/b.ko\nkernel/a.ko\n".to_vec()),
    ];
    for (path, bytes) in files {
        tree.insert(&format!("{directory}/{path}"), file(bytes)).unwrap();
    }
    tree.insert(&format!("boot/vmlinuz-{RELEASE}"), file(*b"kernel")).unwrap();
    tree.insert(&format!("boot/config-{RELEASE}"), file(*b"CONFIG_A=y\n")).unwrap();
    tree
}

fn indexed(tree: &Tree) -> (KernelFiles, ModuleIndex) {
    let files = KernelFiles::find(tree).unwrap();
    let index = index(tree, &files).unwrap();
    (files, index)
}

#[test]
fn exactly_one_kernel_is_found() {
    let mut tree = package();
    let files = KernelFiles::find(&tree).unwrap();
    assert_eq!(files.release, RELEASE);
    assert_eq!(files.read_config(&tree).unwrap().options["A"], "y");
    tree.insert("boot/vmlinuz-7", file(*b"")).unwrap();
    assert_eq!(
        KernelFiles::find(&tree).unwrap_err().to_string(),
        format!("the kernel component has 2 kernels: {RELEASE}, 7")
    );
    assert!(matches!(KernelFiles::find(&Tree::new(0)), Err(KernelError::NoKernel)));
    let mut bare = Tree::new(0);
    bare.insert("boot/vmlinuz-7", file(*b"")).unwrap();
    assert!(matches!(KernelFiles::find(&bare), Err(KernelError::Missing { .. })));
}

#[test]
fn the_index_reads_every_compression_and_survives_storage() {
    let (_, index) = indexed(&package());
    assert_eq!(index.modules.len(), 9);
    assert_eq!(index.modules["c_c"].path, "kernel/x/c-c.ko.zst");
    assert_eq!(index.modules["e"].depends, ["a", "b", "d"]);
    assert_eq!(index.builtin["ext4"], "kernel/fs/ext4.ko");
    let stored = serde_json::to_vec(&index).unwrap();
    assert_eq!(serde_json::from_slice::<ModuleIndex>(&stored).unwrap(), index);
}

#[test]
fn bad_modules_are_named() {
    for (bytes, text) in [
        (xz(b"not an ELF file"), "x.ko.xz is not a kernel module: not a 64-bit little-endian ELF file"),
        (xz(&module(&["name=x"]))[..40].to_vec(), "cannot read module"),
        (b"no xz".to_vec(), "cannot read module"),
    ] {
        let mut tree = package();
        tree.insert(&format!("usr/lib/modules/{RELEASE}/kernel/x.ko.xz"), file(bytes)).unwrap();
        let error = index(&tree, &KernelFiles::find(&tree).unwrap()).unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("kernel/x.ko.xz"), "{error}");
    }
    let mut tree = package();
    tree.insert(&format!("usr/lib/modules/{RELEASE}/kernel/a.ko.xz"), file(xz(&module(&["name=a"])))).unwrap();
    let error = index(&tree, &KernelFiles::find(&tree).unwrap()).unwrap_err();
    assert!(matches!(error, KernelError::DuplicateModule { .. }), "{error}");
}

#[test]
fn a_module_bomb_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..=(MODULE_LIMIT >> 20) {
        std::io::Write::write_all(&mut encoder, &zeros).unwrap();
    }
    let content = Content::inline(encoder.finish().unwrap());
    assert_eq!(archive::read_module("x.ko.zst", &content).unwrap_err().kind(), std::io::ErrorKind::FileTooLarge);
}

#[test]
fn a_selection_is_closed_over_dependencies() {
    let (_, index) = indexed(&package());
    let names = |wanted: &[&str]| select(&index, wanted).unwrap().modules.into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(names(&["e"]), "a b c_c d e");
    assert_eq!(names(&["c-c"]), "b c_c");
    assert_eq!(names(&["fs-c"]), "b c_c");
    assert_eq!(names(&["f"]), "f g_fast g_slow");
    assert_eq!(names(&["g-*", "ext?"]), "g_fast g_slow");
    assert_eq!(names(&["core", "core-alias", "none?", "no_*?"]), "");
    let selection = select(&index, &["g_*", "g_slow", "core", "none?"]).unwrap();
    assert_eq!(selection.requested_names(), ["g_fast", "g_slow"]);
    assert_eq!(selection.builtin, BTreeSet::from(["core".to_owned()]));
    assert_eq!(selection.skipped, ["none?"]);
}

#[test]
fn everything_missing_is_named_with_what_is_near() {
    let (_, index) = indexed(&package());
    let error = select(&index, &["g_fats", "zzz_*", "broken", "a"]).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "kernel {RELEASE} lacks modules:\n  g_fats (similar: g_fast)\n  zzz_*\n  gone, on which broken depends"
        )
    );
    assert!(matches!(select(&index, &["a["]), Err(KernelError::Pattern { .. })));
}

#[test]
fn the_installed_tree_holds_the_exact_modules() {
    let package = package();
    let (files, index) = indexed(&package);
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let selection = select(&index, &["e"]).unwrap();
    let first = install(&package, &files, &index, &selection, &cache, 7).unwrap();
    let read = |path: &str| {
        let entry = first.tree.get(&format!("usr/lib/modules/{RELEASE}/{path}")).unwrap();
        let Node::File(content) = &entry.node else { panic!("{path} is not a file") };
        content.read(1 << 20).unwrap()
    };
    assert!(read("kernel/e.ko").ends_with(b"~Module signature appended~\n"));
    assert_eq!(Content::inline(read("kernel/e.ko")).size, index.modules["e"].size);
    assert_eq!(
        String::from_utf8(read("modules.dep")).unwrap(),
        "kernel/a.ko:\nkernel/b.ko:\nkernel/x/c-c.ko: kernel/b.ko\nkernel/d.ko: kernel/x/c-c.ko kernel/b.ko\n\
         kernel/e.ko: kernel/d.ko kernel/x/c-c.ko kernel/b.ko kernel/a.ko\n"
    );
    let second = install(&package, &files, &index, &selection, &cache, 7).unwrap();
    assert_eq!((first.tree, first.pack), (second.tree, second.pack));
}

/// Returns whether `tool` can be run; a missing one fails the test when `KSOS_REQUIRE_TOOLS=1`.
fn has_tool(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        assert_ne!(std::env::var("KSOS_REQUIRE_TOOLS").as_deref(), Ok("1"), "{tool} is missing");
        println!("skipped: {tool} is not installed");
    }
    found
}

fn write_tree(tree: &Tree, to: &Path) {
    for (path, entry) in tree.iter() {
        let target = to.join(path);
        match &entry.node {
            Node::Directory => std::fs::create_dir_all(target).unwrap(),
            Node::File(content) => std::fs::write(target, content.read(MODULE_LIMIT).unwrap()).unwrap(),
            other => panic!("{path}: {other:?}"),
        }
    }
    // kmod looks below lib/modules.
    std::os::unix::fs::symlink("usr/lib", to.join("lib")).unwrap();
}

/// What `modprobe --show-depends` says for each name, paths relative to the module directory.
fn show_depends(root: &Path, release: &str, names: &BTreeSet<String>) -> Vec<Vec<String>> {
    let ask = |name: &String| {
        let output = Command::new("modprobe")
            .args(["-d".as_ref(), root.as_os_str(), "-S".as_ref(), release.as_ref()])
            .args(["--show-depends", name])
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.split("/kernel/").last().unwrap_or(line).trim().to_owned()).collect()
    };
    names.iter().map(ask).collect()
}

/// The lines of a text file of kmod as a set, comments left out; for `modules.dep` also the list as a set.
fn lines(root: &Path, release: &str, name: &str) -> BTreeSet<(String, BTreeSet<String>)> {
    let text = std::fs::read_to_string(root.join("lib/modules").join(release).join(name)).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| match line.split_once(": ") {
            Some((module, needed)) if name == "modules.dep" => {
                (module.to_owned(), needed.split(' ').map(str::to_owned).collect())
            }
            _ => (line.trim_end_matches(':').to_owned(), BTreeSet::new()),
        })
        .collect()
}

/// Compares our `modules.*` files with those that `depmod` makes of the same modules, in both of kmod's views: the
/// text files, and the answers of `modprobe`, which reads the binary ones.
/// `depmod` gets the package's list of what is built in, which an installed tree does not need.
fn compare_with_depmod(
    tree: &Tree,
    release: &str,
    names: &BTreeSet<String>,
    aliases: &BTreeSet<String>,
    builtin: &[u8],
) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    write_tree(tree, root);
    let asked: BTreeSet<String> = names.union(aliases).cloned().collect();
    let ours = show_depends(root, release, &asked);
    let texts = ["modules.dep", "modules.alias", "modules.softdep"].map(|name| lines(root, release, name));
    std::fs::write(root.join("lib/modules").join(release).join("modules.builtin.modinfo"), builtin).unwrap();
    let status = Command::new("depmod").arg("-b").arg(root).arg(release).status().unwrap();
    assert!(status.success());
    let theirs = ["modules.dep", "modules.alias", "modules.softdep"].map(|name| lines(root, release, name));
    assert_eq!(texts, theirs);
    let reference = show_depends(root, release, &asked);
    for ((name, ours), theirs) in asked.iter().zip(&ours).zip(&reference) {
        let set = |list: &[String]| list.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!(set(ours), set(theirs), "{name}");
        assert_eq!(ours.last(), theirs.last(), "{name}");
    }
}

#[test]
fn modprobe_sees_what_depmod_would_have_told_it() {
    if !has_tool("depmod") || !has_tool("modprobe") {
        return;
    }
    let Some(package) = real_package() else { return };
    let (files, index) = indexed(&package);
    let wanted =
        ["overlay", "br_netfilter", "nft_*", "xt_*?", "ext4?", "squashfs", "virtio_blk", "nvme", "vfat", "dm-verity"];
    let selection = select(&index, &wanted).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let installed = install(&package, &files, &index, &selection, &cache, 0).unwrap();
    let aliases = ["fs-overlay", "nft-expr-match", "virtio:d00000002v00001AF4"];
    let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
    let builtin = regular_file(&package, &format!("{}/modules.builtin.modinfo", files.modules)).unwrap();
    let builtin = builtin.read(16 << 20).unwrap();
    compare_with_depmod(&installed.tree, &files.release, &selection.modules, &aliases, &builtin);
}

/// The unpacked kernel package of a distribution in the directory `KSOS_TEST_KERNEL`, when it is set.
fn real_package() -> Option<Tree> {
    let Some(root) = std::env::var_os("KSOS_TEST_KERNEL") else {
        println!("skipped: KSOS_TEST_KERNEL does not name an unpacked kernel package");
        return None;
    };
    let root = Path::new(&root);
    let mut tree = Tree::new(0);
    let mut pending = vec![root.join("boot"), root.join("usr/lib/modules")];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            } else if entry.file_type().unwrap().is_file() {
                let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                let size = entry.metadata().unwrap().len();
                let content = Content::host_file(entry.path(), ksos_formats::Digest::of(path.as_bytes()), size);
                tree.insert(&path, Entry { meta: Meta::root(0o644, 0), node: Node::File(content) }).unwrap();
            }
        }
    }
    Some(tree)
}

#[test]
fn installed_paths_lose_the_compression_suffix() {
    for (path, plain) in
        [("kernel/a.ko.xz", "kernel/a.ko"), ("kernel/a.ko", "kernel/a.ko"), ("k/a.b.ko.gz", "k/a.b.ko")]
    {
        let info = ModuleInfo {
            path: path.to_owned(),
            depends: Vec::new(),
            aliases: Vec::new(),
            softdeps: Vec::new(),
            firmware: Vec::new(),
            license: None,
            intree: true,
            size: 0,
        };
        assert_eq!(info.installed_path(), plain);
    }
    assert_eq!(module_name("kernel/snd-hda.ko.zst").as_deref(), Some("snd_hda"));
    assert_eq!(module_name("modules.dep"), None);
}

#[test]
fn the_lists_of_required_options_are_well_formed_and_met() {
    let lists = [
        ("required.txt", include_str!("../../../kernel/required.txt")),
        ("required-virtio.txt", include_str!("../../../kernel/required-virtio.txt")),
    ];
    let requirements: Vec<Requirement> =
        lists.iter().flat_map(|(name, text)| Requirement::parse_list(name, text).unwrap()).collect();
    let names: BTreeSet<&str> = requirements.iter().map(|requirement| requirement.name.as_str()).collect();
    assert_eq!(names.len(), requirements.len(), "an option is listed twice");
    let Some(package) = real_package() else { return };
    let config = KernelFiles::find(&package).unwrap().read_config(&package).unwrap();
    let misses = config.misses(&requirements);
    assert!(misses.is_empty(), "{misses:?}");
}

#[test]
fn reading_every_module_of_a_distribution_takes_this_long() {
    let Some(package) = real_package() else { return };
    let start = std::time::Instant::now();
    let (_, index) = indexed(&package);
    let size = serde_json::to_vec(&index).unwrap().len();
    println!("{} modules in {:?}; the stored index has {size} bytes", index.modules.len(), start.elapsed());
    assert!(index.modules.values().all(|info| info.intree && info.license.is_some()));
}
