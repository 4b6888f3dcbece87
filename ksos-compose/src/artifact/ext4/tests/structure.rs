//! The file system as a whole: superblock, features, groups, journal, sparseness, determinism.

use std::io::{Cursor, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use super::*;

fn small_tree() -> Tree {
    let mut tree = tree();
    tree.insert("boot/vmlinuz", file(noise(1, 3 << 20))).unwrap();
    tree.insert("etc/hostname", file("kubesolo\n")).unwrap();
    tree.insert("etc/alias", entry(Node::Symlink("hostname".into()))).unwrap();
    tree
}

#[test]
fn the_superblock_says_what_was_asked_for() {
    let options = Options { reserved_percent: 5, inodes: Some(5000), journal: Some(8 * MIB), ..options(256 * MIB) };
    let image = Image::write(&small_tree(), &options);
    let Some(fields) = superblock(&image.path()) else { return };
    let expected = [
        ("Filesystem volume name", "KSOSSYSA"),
        ("Filesystem UUID", "01234567-89ab-4def-8123-456789abcdef"),
        ("Directory Hash Seed", "fedcba98-7654-4e10-8fed-cba987654321"),
        ("Default directory hash", "half_md4"),
        ("Filesystem state", "clean"),
        ("Inode count", "5024"),
        ("Block count", "65536"),
        ("Reserved block count", "3276"),
        ("Block size", "4096"),
        ("Inode size", "256"),
        ("Group descriptor size", "64"),
        ("Flex block group size", "16"),
        ("Journal inode", "8"),
        ("Journal backup", "inode blocks"),
        ("Total journal blocks", "2048"),
        ("Checksum type", "crc32c"),
        ("Filesystem created", "Tue Nov 14 22:13:20 2023"),
    ];
    for (name, value) in expected {
        assert_eq!(fields.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(fields["Free blocks"], image.summary.free_blocks.to_string());
    let features = "has_journal ext_attr dir_index filetype extent 64bit flex_bg sparse_super large_file huge_file \
                    dir_nlink extra_isize metadata_csum";
    assert_eq!(fields["Filesystem features"], features);
    assert!(image.check());
}

#[test]
fn every_superblock_copy_is_valid() {
    let image = Image::write(&small_tree(), &options(1300 * MIB));
    if !image.check() {
        return;
    }
    let file = File::open(image.path()).unwrap();
    let descriptors = |block: usize| {
        let mut bytes = vec![0; 11 * 64];
        file.read_exact_at(&mut bytes, (block as u64 + 1) * 4096).unwrap();
        bytes
    };
    for group in [1, 3, 5, 7, 9] {
        let block = group * 32768;
        let (option, path) = (format!("superblock={block}"), image.path());
        let arguments = ["-h", "-o", &option, "-o", "blocksize=4096", path.to_str().unwrap()];
        let output = run("dumpe2fs", &arguments).unwrap();
        assert!(output.success && output.text.contains("KSOSSYSA"), "{}", output.text);
        assert_eq!(descriptors(0), descriptors(block), "{group}");
    }
}

#[test]
fn sizes_around_group_boundaries_are_clean() {
    let group = 128 * MIB;
    let extra = [0, 4096, 50 * 4096, 600 * 4096, 5 * MIB];
    for base in [0, 1, 2, 15, 16, 17, 25] {
        for extra in extra {
            let size = base * group + extra;
            if size < 5 * MIB {
                continue;
            }
            let image = Image::write(&small_tree_without_kernel(), &options(size));
            assert!(image.disk_usage() < 2 * MIB, "{size}: {}", image.disk_usage());
            if !image.check() {
                return;
            }
        }
    }
}

fn small_tree_without_kernel() -> Tree {
    let mut tree = small_tree();
    tree.remove("boot/vmlinuz");
    tree
}

#[test]
fn a_large_file_system_takes_little_disk() {
    let image = Image::write(&small_tree(), &options(64 << 30));
    assert!(image.disk_usage() < 4 * MIB, "{}", image.disk_usage());
    image.check();
}

#[test]
fn inode_tables_go_around_the_superblock_copies() {
    // The tables of sixteen full groups are longer than a group, and the second group starts with a copy.
    let image = Image::write(&small_tree(), &Options { inodes: Some(18 * 32768), ..options(18 * 128 * MIB) });
    image.check();
    assert_eq!(image.summary.inodes, 18 * 32768);
}

#[test]
fn an_image_without_journal_is_clean() {
    let image = Image::write(&small_tree(), &Options { journal: Some(0), ..options(16 * MIB) });
    image.check();
    assert_eq!(image.summary.journal_blocks, 0);
}

#[test]
fn a_journal_beyond_the_inode_is_clean() {
    let image = Image::write(&small_tree(), &Options { journal: Some(1024 * MIB), ..options(1500 * MIB) });
    image.check();
}

#[test]
fn the_journal_is_what_mke2fs_takes() {
    for size in [4, 64, 200, 700, 1500, 3000].map(|size| size * MIB) {
        let image = Image::write(&tree(), &options(size));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reference");
        File::create_new(&path).unwrap().set_len(size).unwrap();
        let Some(output) = run("mke2fs", &["-q", "-t", "ext4", "-b", "4096", path.to_str().unwrap()]) else { return };
        assert!(output.success, "{}", output.text);
        let theirs = superblock(&path).unwrap();
        let blocks = theirs.get("Total journal blocks").map_or(0, |blocks| blocks.parse().unwrap());
        assert_eq!(image.summary.journal_blocks, blocks, "{size}");
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let mut with_all = small_tree();
    for number in 0..500 {
        let mut node = file(noise(number, 100));
        node.meta.xattrs.insert("user.number".into(), noise(number, 200));
        with_all.insert(&format!("many/{number}"), node).unwrap();
    }
    let first = Image::write(&with_all, &options(32 * MIB)).bytes();
    let second = Image::write(&with_all, &options(32 * MIB)).bytes();
    assert!(first == second);
}

#[test]
fn a_file_system_in_the_middle_of_a_disk_is_the_same() {
    let alone = Image::write(&small_tree(), &options(32 * MIB)).bytes();
    let mut disk = Cursor::new(vec![0; 3 * MIB as usize]);
    disk.seek(SeekFrom::Start(MIB)).unwrap();
    write(&small_tree(), &mut disk, &options(32 * MIB)).unwrap();
    let disk = disk.into_inner();
    assert_eq!(disk.len() as u64, 33 * MIB);
    assert!(disk[..MIB as usize].iter().all(|byte| *byte == 0));
    assert!(disk[MIB as usize..] == alone);
}
