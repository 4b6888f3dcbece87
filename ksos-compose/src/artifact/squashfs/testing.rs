//! What the tests of the writers share: foreign tools, a tree with one of everything, and the comparison of a tree
//! with what a foreign tool or the kernel made of an image.
#![expect(clippy::disallowed_methods, reason = "tests run foreign tools and look at what they made")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use ksos_formats::Digest;
use proptest::prelude::*;

use crate::tree::{Content, Entry, Meta, Node, Tree};

/// Latest modification time in the test images: 2024-01-01T00:00:00Z.
pub(crate) const EPOCH: u32 = 1_704_067_200;

/// Tells whether `tool` is there. With `KSOS_REQUIRE_TOOLS=1` its absence is a failure.
pub(crate) fn has_tool(tool: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path.split(':').chain(["/usr/sbin", "/sbin"]);
    if places.into_iter().any(|place| Path::new(place).join(tool).is_file()) {
        return true;
    }
    assert_ne!(std::env::var("KSOS_REQUIRE_TOOLS").as_deref(), Ok("1"), "{tool} is not installed");
    println!("skipped: {tool} is not installed");
    false
}

/// Tells whether the test runs as root, which devices and owners need.
pub(crate) fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: {what} needs root");
    }
    root
}

/// Runs a tool that must succeed and returns its standard output.
pub(crate) fn run(tool: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(tool);
    command.args(arguments).env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{tool} {arguments:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout
}

/// Returns `size` bytes that compress to about half, different for every seed.
pub(crate) fn text(seed: u32, size: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::with_capacity(size + 64);
    let mut counter = 0_u32;
    while bytes.len() < size {
        bytes.extend(Digest::of(&[seed.to_le_bytes(), counter.to_le_bytes()].concat()).hex().bytes());
        counter += 1;
    }
    bytes.truncate(size);
    bytes
}

/// Returns `size` bytes that do not compress.
pub(crate) fn noise(seed: u32, size: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::with_capacity(size + 32);
    let mut counter = 0_u32;
    while bytes.len() < size {
        bytes.extend(Digest::of(&[seed.to_le_bytes(), counter.to_be_bytes()].concat()).0);
        counter += 1;
    }
    bytes.truncate(size);
    bytes
}

/// Returns a tree that has one of everything, with files around `block_size`; `xattrs` adds extended attributes.
pub(crate) fn everything(block_size: usize, xattrs: bool) -> Tree {
    let mut tree = Tree::new(1_600_000_000);
    let mut add = |path: &str, mode: u32, uid: u32, gid: u32, mtime: i64, node: Node| {
        let meta = Meta { mode, uid, gid, mtime, xattrs: BTreeMap::new() };
        tree.insert(path, Entry { meta, node }).unwrap();
    };
    let file = |bytes: Vec<u8>| Node::File(Content::inline(bytes));
    add("etc/empty", 0o644, 0, 0, 1, file(Vec::new()));
    add("etc/passwd", 0o600, 1000, 100, 1_650_000_000, file(text(1, 700)));
    add("etc/future", 0o644, 0, 0, 4_000_000_000, file(text(2, 10)));
    add("etc/past", 0o644, 0, 0, -5, file(text(3, 11)));
    for (number, size) in [block_size - 1, block_size, block_size + 1, 5 * block_size + 77].into_iter().enumerate() {
        add(&format!("usr/sizes/text-{size}"), 0o755, 0, 0, 7, file(text(10 + number as u32, size)));
        add(&format!("usr/sizes/noise-{size}"), 0o755, 0, 0, 7, file(noise(10 + number as u32, size)));
    }
    add("usr/sizes/copy", 0o444, 1, 2, 8, file(text(13, 5 * block_size + 77)));
    add("usr/small-copy", 0o444, 1, 2, 8, file(text(1, 700)));
    let mut sparse = vec![0; 4 * block_size + 9];
    sparse[block_size + 3] = 1;
    add("usr/sparse/middle", 0o644, 0, 0, 9, file(sparse));
    add("usr/sparse/all", 0o644, 0, 0, 9, file(vec![0; 3 * block_size]));
    add("usr/sparse/small", 0o644, 0, 0, 9, file(vec![0; block_size / 2]));
    for number in 0..600 {
        let path = format!("usr/share/many/file-{number:03}-{}", "n".repeat(number % 200));
        add(&path, 0o640, 0, 0, 10, file(text(100 + number as u32, number * 13 % 900)));
    }
    add("usr/share/empty", 0o1777, 0, 0, 11, Node::Directory);
    add("usr/share/empty-too", 0o2750, 7, 4_294_967_294, 11, Node::Directory);
    add("usr-local", 0o700, 0, 0, 11, Node::Directory);
    add("usr/bin/sudo", 0o4755, 0, 0, 12, file(text(4, 100)));
    add("bin", 0o777, 0, 0, 13, Node::Symlink("usr/bin".to_owned()));
    add("usr/long", 0o777, 5, 5, 13, Node::Symlink("x/".repeat(1000)));
    add("a-link", 0o644, 0, 0, 0, file(Vec::new()));
    add("dev/null", 0o666, 0, 0, 14, Node::CharacterDevice { major: 1, minor: 3 });
    add("dev/nvme", 0o660, 0, 6, 14, Node::BlockDevice { major: 259, minor: 0x12345 });
    add("dev/pipe", 0o600, 3, 0, 14, Node::Fifo);
    add("dev/log", 0o660, 0, 4, 14, Node::Socket);
    add("öäü/日本", 0o644, 0, 0, 15, file(text(5, 20)));
    tree.remove("a-link");
    let mut link = |path: &str, target: &str| {
        tree.insert(path, Entry { meta: Meta::root(0, 0), node: Node::HardLink(target.to_owned()) }).unwrap();
    };
    link("a-link", "usr/bin/sudo");
    link("usr/bin/visudo", "usr/bin/sudo");
    link("zz-big", &format!("usr/sizes/text-{}", 5 * block_size + 77));
    link("zz-empty", "etc/empty");
    if xattrs {
        add_xattrs(&mut tree);
    }
    tree
}

fn add_xattrs(tree: &mut Tree) {
    let mut set = |path: &str, name: &str, value: &[u8]| {
        tree.get_mut(path).unwrap().meta.xattrs.insert(name.to_owned(), value.to_vec());
    };
    // A valid `struct vfs_cap_data`, revision 2: cap_net_raw permitted and effective.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set("usr/bin/sudo", "security.capability", &capability);
    set("etc/passwd", "security.capability", &capability);
    set("etc/passwd", "user.comment", b"hello");
    set("etc/passwd", "trusted.overlay.opaque", b"y");
    set("etc/past", "user.long", &[b'v'; 3000]);
    set("usr/share", "user.on-directory", b"");
    set("usr/share/empty", "trusted.x", b"1");
    set("bin", "trusted.on-link", b"2");
    set("dev/null", "trusted.on-device", b"3");
    set("dev/pipe", "trusted.on-pipe", b"4");
}

/// What [`compare`] leaves out, because the tool that made the directory does not keep it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ignore {
    /// Times of directories and symbolic links, which some tools do not restore.
    pub(crate) directory_times: bool,
    /// Numbers of links of directories, which the test's file system may count in another way.
    pub(crate) directory_links: bool,
}

/// Asserts that `directory` holds `tree` and nothing else.
pub(crate) fn compare(tree: &Tree, directory: &Path, ignore: Ignore) {
    let mut found = 0;
    let mut pending = vec![directory.to_owned()];
    while let Some(path) = pending.pop() {
        found += 1;
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    assert_eq!(found, tree.len(), "number of entries");
    let links = tree.link_counts();
    for (path, entry) in tree.iter() {
        let (target, resolved) = match &entry.node {
            Node::HardLink(target) => (target.as_str(), tree.resolve_link(entry)),
            _ => (path, entry),
        };
        let place = directory.join(path);
        let stat = fs::symlink_metadata(&place).unwrap();
        let meta = &resolved.meta;
        assert_eq!((stat.uid(), stat.gid()), (meta.uid, meta.gid), "owner of {path:?}");
        let is_link = matches!(resolved.node, Node::Symlink(_));
        assert!(is_link || stat.mode() & 0o7777 == meta.mode, "mode of {path:?}: {:o}", stat.mode());
        if !(ignore.directory_times && (stat.is_dir() || is_link)) {
            assert_eq!(stat.mtime(), meta.mtime.clamp(0, i64::from(EPOCH)), "time of {path:?}");
        }
        let same_inode = fs::symlink_metadata(directory.join(target)).unwrap().ino() == stat.ino();
        assert!(same_inode, "{path:?} and {target:?} are not the same file");
        if !stat.is_dir() {
            assert_eq!(stat.nlink(), u64::from(links.get(target).copied().unwrap_or(1)), "links of {path:?}");
        } else if !ignore.directory_links {
            let children = tree
                .iter()
                .filter(|(child, entry)| crate::tree::parent(child) == Some(path) && entry.node == Node::Directory);
            assert_eq!(stat.nlink(), 2 + children.count() as u64, "links of {path:?}");
        }
        compare_node(&place, &stat, &resolved.node);
        assert_eq!(xattrs(&place), meta.xattrs, "attributes of {path:?}");
    }
}

fn compare_node(place: &Path, stat: &fs::Metadata, node: &Node) {
    let kind = stat.file_type();
    let device = |major, minor| {
        let number = (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
        assert_eq!(number, (major, minor), "device number of {}", place.display());
    };
    let kind_fits = match node {
        Node::Directory => kind.is_dir(),
        Node::File(content) => {
            // Not `assert_eq`, which would print megabytes.
            assert!(fs::read(place).unwrap() == content.read(u64::MAX).unwrap(), "content of {}", place.display());
            kind.is_file()
        }
        Node::Symlink(target) => {
            assert_eq!(fs::read_link(place).unwrap().to_str(), Some(target.as_str()));
            true
        }
        Node::CharacterDevice { major, minor } => {
            device(*major, *minor);
            kind.is_char_device()
        }
        Node::BlockDevice { major, minor } => {
            device(*major, *minor);
            kind.is_block_device()
        }
        Node::Fifo => kind.is_fifo(),
        Node::Socket => kind.is_socket(),
        Node::HardLink(_) => unreachable!("resolved before"),
    };
    assert!(kind_fits, "{} is {kind:?}", place.display());
}

fn xattrs(place: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0_u8; 65536];
    let length = rustix::fs::llistxattr(place, &mut names[..]).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let name = String::from_utf8(name.to_vec()).unwrap();
            let mut value = vec![0_u8; 65536];
            let length = rustix::fs::lgetxattr(place, name.as_str(), &mut value[..]).unwrap();
            value.truncate(length);
            (name, value)
        })
        .collect()
}

fn any_node() -> impl Strategy<Value = Node> {
    let size = prop_oneof![0..200_usize, 3000..20_000_usize];
    let content = (0..4_u32, size, any::<bool>()).prop_map(|(seed, size, holes)| {
        let mut bytes = if seed < 2 { text(seed, size) } else { noise(seed, size) };
        if holes {
            bytes.iter_mut().skip(4096).take(5000).for_each(|byte| *byte = 0);
        }
        Node::File(Content::inline(bytes))
    });
    prop_oneof![
        6 => content,
        2 => Just(Node::Directory),
        1 => "[a-z/.]{1,300}".prop_map(Node::Symlink),
        1 => (0..4096_u32, 0..1_048_576_u32).prop_map(|(major, minor)| Node::CharacterDevice { major, minor }),
        1 => (0..4096_u32, 0..1_048_576_u32).prop_map(|(major, minor)| Node::BlockDevice { major, minor }),
        1 => Just(Node::Fifo),
        1 => Just(Node::Socket),
    ]
}

/// Any tree, with extended attributes where they are wanted. Those of `trusted.` can be on files of every kind.
pub(crate) fn any_tree(xattrs: bool) -> impl Strategy<Value = Tree> {
    let value = proptest::collection::vec(any::<u8>(), 0..300);
    let attributes = proptest::collection::btree_map("trusted\\.[a-c]{1,9}", value, 0..if xattrs { 4 } else { 1 });
    let meta = (0..0o10000_u32, 0..70_000_u32, 0..4_u32, 0..1_800_000_000_i64, attributes)
        .prop_map(|(mode, uid, gid, mtime, xattrs)| Meta { mode, uid, gid, mtime, xattrs });
    let path = proptest::collection::vec("[ab.-]{3,5}", 1..4).prop_map(|parts| parts.join("/"));
    let entries = proptest::collection::vec((path, meta, any_node()), 0..60);
    (entries, proptest::collection::vec("[c-d]{2}", 0..8)).prop_map(|(entries, links)| {
        let mut tree = Tree::new(5);
        for (path, meta, node) in entries {
            // A path below a file, or with a component `...`-like oddity, is simply left out.
            let _ = tree.insert(&path, Entry { meta, node });
        }
        let files: Vec<String> = tree
            .iter()
            .filter(|(_, entry)| matches!(entry.node, Node::File(_)))
            .map(|(path, _)| path.to_owned())
            .collect();
        for (number, link) in links.iter().enumerate().filter(|_| !files.is_empty()) {
            let target = files[number % files.len()].clone();
            tree.insert(link, Entry { meta: Meta::root(0, 0), node: Node::HardLink(target) }).unwrap();
        }
        tree
    })
}
