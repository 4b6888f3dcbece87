use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::{Ext4Error, FileSystem, Inode, Kind, Part};
use crate::artifact::ext4::{Options, write};
use crate::tree::{Content, Entry, Meta, Node, Tree};

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;

/// Writes `tree` at `start` of a file.
fn image(tree: &Tree, size: u64, start: u64) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.set_len(start + size).unwrap();
    let mut options = Options::new(size, "KSOSSYSA", [7; 16], [9; 16], 1_700_000_000);
    options.journal = Some(0);
    write(tree, &mut crate::artifact::window::Window::new(&file, start, size), &options).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file
}

fn entry(mode: u32, node: Node) -> Entry {
    Entry { meta: Meta::root(mode, 1_700_000_000), node }
}

fn content(bytes: impl Into<Vec<u8>>) -> Node {
    Node::File(Content::inline(bytes.into()))
}

fn read(fs: &FileSystem<'_>, inode: &Inode) -> Vec<u8> {
    let mut bytes = Vec::new();
    fs.open_file(inode).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Compares everything that is read with `tree`.
fn assert_same(fs: &FileSystem<'_>, tree: &Tree) {
    let mut entries = fs.entries().unwrap();
    if tree.get("lost+found").is_none() {
        entries.remove("lost+found").unwrap();
    }
    let paths: Vec<&str> = tree.iter().map(|(path, _)| path).collect();
    assert_eq!(entries.keys().map(String::as_str).collect::<Vec<_>>(), paths);
    for (path, found) in &entries {
        let wanted = tree.resolve_link(tree.get(path).unwrap());
        let (meta, got) = (&wanted.meta, (found.mode, found.uid, found.gid, found.mtime));
        assert_eq!(got, (meta.mode, meta.uid, meta.gid, meta.mtime), "{path}");
        let kind = match &wanted.node {
            Node::File(content) => {
                assert!(read(fs, found) == content.read(u64::MAX).unwrap(), "{path}");
                Kind::File
            }
            Node::Directory => Kind::Directory,
            Node::Symlink(target) => Kind::Symlink(target.clone().into_bytes()),
            Node::CharacterDevice { major, minor } => Kind::CharacterDevice { major: *major, minor: *minor },
            Node::BlockDevice { major, minor } => Kind::BlockDevice { major: *major, minor: *minor },
            Node::Fifo => Kind::Fifo,
            Node::Socket => Kind::Socket,
            Node::HardLink(_) => unreachable!("links are resolved"),
        };
        assert_eq!(found.kind, kind, "{path}");
    }
}

fn random_node(rng: &mut StdRng) -> Node {
    match rng.gen_range(0..10) {
        0 => Node::Symlink("x".repeat(rng.gen_range(1..200))),
        1 => Node::CharacterDevice { major: rng.gen_range(0..4096), minor: rng.gen_range(0..1 << 20) },
        2 => Node::BlockDevice { major: rng.gen_range(1..256), minor: rng.gen_range(0..256) },
        3 => Node::Fifo,
        4 => Node::Socket,
        _ => {
            let mut bytes = vec![0; rng.gen_range(0..5 * BLOCK)];
            rng.fill_bytes(&mut bytes);
            // Some blocks of zeros, which become holes.
            for block in bytes.chunks_mut(BLOCK) {
                if rng.gen_ratio(1, 3) {
                    block.fill(0);
                }
            }
            content(bytes)
        }
    }
}

fn random_tree(seed: u64) -> Tree {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tree = Tree::new(1_600_000_000);
    let mut directories = vec![String::new()];
    let mut files: Vec<String> = Vec::new();
    for number in 0..rng.gen_range(1..300) {
        let parent = directories[rng.gen_range(0..directories.len())].clone();
        let name = format!("{}{number}", "é".repeat(rng.gen_range(0..100)));
        let path = if parent.is_empty() { name } else { format!("{parent}/{name}") };
        let mut node = if rng.gen_ratio(1, 5) { Node::Directory } else { random_node(&mut rng) };
        match &node {
            Node::Directory => directories.push(path.clone()),
            Node::File(_) if !files.is_empty() && rng.gen_ratio(1, 8) => {
                node = Node::HardLink(files[rng.gen_range(0..files.len())].clone());
            }
            Node::File(_) => files.push(path.clone()),
            _ => {}
        }
        let mode = if matches!(node, Node::Symlink(_)) { 0o777 } else { rng.gen_range(0..0o10000) };
        let (uid, gid, mtime) = (rng.r#gen(), rng.gen_range(0..70_000), rng.gen_range(-1000..1 << 33));
        tree.insert(&path, Entry { meta: Meta { mode, uid, gid, mtime, xattrs: BTreeMap::new() }, node }).unwrap();
    }
    tree
}

#[test]
fn random_trees_come_back() {
    for seed in 0..12 {
        let tree = random_tree(seed);
        let file = image(&tree, 64 * MIB, 3 * MIB);
        assert_same(&FileSystem::open(Part::new(&file, 3 * MIB, 64 * MIB)).unwrap(), &tree);
    }
}

#[test]
fn directories_with_hash_trees_of_both_depths_come_back() {
    let mut tree = Tree::new(0);
    for number in 0..3_000 {
        tree.insert(&format!("one/{number:05}"), entry(0o644, content(""))).unwrap();
    }
    // Some 16 names in a block: more leaves than the root of a hash tree can name.
    for number in 0..9_000 {
        tree.insert(&format!("two/{number:0>240}"), entry(0o600, Node::Fifo)).unwrap();
    }
    let file = image(&tree, 256 * MIB, 0);
    assert_same(&FileSystem::open(Part::new(&file, 0, 256 * MIB)).unwrap(), &tree);
}

#[test]
fn sparse_files_come_back_whatever_the_depth_of_their_extent_tree() {
    let mut tree = Tree::new(0);
    // Every second block a hole: 3, 300 and 700 extents.
    for blocks in [6, 600, 1400] {
        let bytes: Vec<u8> = (0..blocks * BLOCK).map(|at| (at / BLOCK % 2 * (1 + at % 255)) as u8).collect();
        tree.insert(&format!("{blocks}"), entry(0o644, content(bytes))).unwrap();
    }
    tree.insert("zeros", entry(0o644, content(vec![0; 3 * BLOCK + 1]))).unwrap();
    let file = image(&tree, 64 * MIB, 0);
    let fs = FileSystem::open(Part::new(&file, 0, 64 * MIB)).unwrap();
    assert_same(&fs, &tree);
    let reader = fs.open_file(&fs.find("600").unwrap().unwrap()).unwrap();
    let mut bytes = [9; 8];
    reader.read_exact_at(&mut bytes, 4092).unwrap();
    assert_eq!(bytes[..4], [0; 4]);
    assert_ne!(bytes[4..], [0; 4]);
    assert!(reader.read_exact_at(&mut bytes, reader.size() - 7).is_err());
}

/// A file system with a file of 700 extents, changed by the test.
struct Hostile {
    file: File,
    size: u64,
}

impl Hostile {
    fn new() -> Self {
        let mut tree = Tree::new(0);
        let bytes: Vec<u8> = (0..1400 * BLOCK).map(|at| (at / BLOCK % 2) as u8).collect();
        tree.insert("file", entry(0o644, content(bytes))).unwrap();
        tree.insert("directory/inner", entry(0o644, content("x"))).unwrap();
        Hostile { file: image(&tree, 32 * MIB, 0), size: 32 * MIB }
    }

    fn open(&self) -> Result<FileSystem<'_>, Ext4Error> {
        FileSystem::open(Part::new(&self.file, 0, self.size))
    }

    fn put(&self, at: u64, bytes: &[u8]) -> &Self {
        self.file.write_all_at(bytes, at).unwrap();
        self
    }

    /// Returns the position of the inode of `path`.
    fn inode(&self, path: &str) -> u64 {
        let fs = self.open().unwrap();
        let number = fs.entries().unwrap()[path].number;
        fs.inode_position(number).unwrap()
    }

    fn block_of(&self, entry: u64) -> u64 {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, entry).unwrap();
        u64::from(u32::from_le_bytes(bytes)) * BLOCK as u64
    }

    /// Reads everything there is.
    fn error(&self) -> String {
        let all = || -> Result<(), Ext4Error> {
            let fs = self.open()?;
            for inode in fs.entries()?.values().filter(|inode| inode.kind == Kind::File) {
                std::io::copy(&mut fs.open_file(inode)?, &mut std::io::sink())?;
            }
            Ok(())
        };
        all().expect_err("damage is noticed").to_string()
    }
}

#[test]
fn a_truncated_image_is_an_error() {
    let mut hostile = Hostile::new();
    hostile.file.set_len(8 * MIB).unwrap();
    hostile.size = 8 * MIB;
    assert_eq!(hostile.error(), "damaged ext4 file system: it claims more blocks than there are");
    hostile.size = 32 * MIB;
    hostile.file.set_len(64 << 10).unwrap();
    assert!(hostile.error().starts_with("cannot read the ext4 file system"), "{}", hostile.error());
    hostile.size = 1500;
    assert_eq!(hostile.error(), "no ext4 file system");
}

#[test]
fn a_superblock_that_contradicts_itself_is_an_error() {
    let cases: [(u64, &[u8], &str); 9] = [
        (0x38, &[0, 0], "no ext4 file system"),
        (0x18, &[31, 0, 0, 0], "blocks of more than 4 KiB"),
        (0x150, &[1, 0, 0, 0], "more blocks than there are"),
        (0x20, &[0; 4], "the blocks of a group"),
        (0x28, &[0; 4], "the inodes of a group"),
        (0x58, &[3, 0], "the size of an inode"),
        (0xFE, &[0, 0], "the size of a group descriptor"),
        (0x60, &[0xC6, 2, 0, 0], "a journal that must be replayed"),
        (0x60, &[0xC2, 2, 1, 0], "incompatible features"),
    ];
    for (offset, bytes, expected) in cases {
        let hostile = Hostile::new();
        let error = hostile.put(1024 + offset, bytes).error();
        assert!(error.contains(expected), "{offset:#x}: {error}");
    }
}

#[test]
fn an_inode_table_behind_the_end_is_an_error() {
    let hostile = Hostile::new();
    assert!(hostile.put(4096 + 0x8, &[0xff; 4]).error().contains("an inode table behind the end"));
    assert!(hostile.put(4096 + 0x8, &[0; 4]).error().contains("a group without inode table"));
}

#[test]
fn an_extent_tree_that_loops_is_an_error() {
    // Both entries of the root name the same block.
    let hostile = Hostile::new();
    let area = hostile.inode("file") + 0x28;
    let mut first = [0; 4];
    hostile.file.read_exact_at(&mut first, area + 12 + 4).unwrap();
    let error = hostile.put(area + 24 + 4, &first).error();
    assert!(error.contains("extents that are empty or not in order"), "{error}");
    // A node that claims to be an inner one and names itself.
    let hostile = Hostile::new();
    let child = hostile.block_of(area + 12 + 4);
    hostile.put(area + 6, &[2, 0]).put(child + 6, &[1, 0]).put(child + 16, &first).put(child + 20, &[0; 2]);
    assert!(hostile.error().contains("a node of the extent tree"), "{}", hostile.error());
    // Deeper than there can be, and entries outside the node.
    let hostile = Hostile::new();
    assert!(hostile.put(area + 6, &[6, 0]).error().contains("the depth of the extent tree"));
    let error = hostile.put(area + 6, &[1, 0]).put(child + 2, &[0xff; 4]).error();
    assert!(error.contains("the entries of a node"), "{error}");
}

#[test]
fn an_extent_behind_the_end_is_an_error() {
    let hostile = Hostile::new();
    let child = hostile.block_of(hostile.inode("file") + 0x28 + 12 + 4);
    assert!(hostile.put(child + 12 + 8, &[0xff; 4]).error().contains("an extent behind the end"));
}

#[test]
fn a_directory_that_holds_itself_is_an_error() {
    let hostile = Hostile::new();
    let root = hostile.block_of(hostile.inode("") + 0x28 + 12 + 8);
    let directory = hostile.block_of(hostile.inode("directory") + 0x28 + 12 + 8);
    // The third entry, behind `.` and `..`: `inner` becomes the root.
    let error = hostile.put(directory + 24, &2u32.to_le_bytes()).error();
    assert!(error.contains("inode 2: the directory is in two places"), "{error}");
    for (at, bytes, expected) in [
        (root + 4, [0, 0], "the size of a directory entry"),
        (root + 4, [0xff, 0xff], "the size of a directory entry"),
        (root + 24 + 4, [6, 0], "the size of a directory entry"),
        (directory + 24 + 8, *b"a/", "a slash"),
        (directory + 24 + 8, [0xff, 0xff], "not UTF-8"),
    ] {
        let error = Hostile::new().put(at, &bytes).error();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_directory_that_claims_to_be_huge_is_an_error() {
    let hostile = Hostile::new();
    let size = hostile.inode("directory") + 0x6C;
    assert!(hostile.put(size, &[0xff; 3]).error().contains("the size of a directory"));
    // Small enough, but nothing is there.
    let hostile = Hostile::new();
    assert!(hostile.put(size - 0x6C + 4, &[0, 0, 1, 0]).error().contains("the size of a directory entry"));
}

#[test]
fn random_damage_never_panics() {
    let hostile = Hostile::new();
    let mut rng = StdRng::seed_from_u64(4);
    let mut places = vec![1024, 4096, hostile.inode(""), hostile.inode("file"), hostile.inode("directory")];
    places.push(hostile.block_of(hostile.inode("") + 0x28 + 12 + 8));
    places.push(hostile.block_of(hostile.inode("file") + 0x28 + 12 + 4));
    for _ in 0..400 {
        let place = places[rng.gen_range(0..places.len())] + rng.gen_range(0..128);
        let mut old = [0; 4];
        hostile.file.read_exact_at(&mut old, place).unwrap();
        hostile.put(place, &rng.r#gen::<[u8; 4]>());
        if let Ok(fs) = hostile.open()
            && let Ok(entries) = fs.entries()
        {
            for inode in entries.values().filter(|inode| inode.kind == Kind::File && inode.size <= hostile.size) {
                let _ = fs.open_file(inode).map(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
            }
        }
        hostile.put(place, &old);
    }
    assert!(hostile.open().unwrap().entries().is_ok());
}
