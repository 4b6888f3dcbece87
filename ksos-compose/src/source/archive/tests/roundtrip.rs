//! Random trees through real tools and back.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use ksos_formats::Digest;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::tree::Content;

#[derive(Debug, Clone)]
enum What {
    /// Size, and what the bytes are made of; 0: all zero.
    File(usize, u32),
    Directory,
    Symlink(String),
    HardLink(usize),
    Device(bool, u32, u32),
    Fifo,
}

#[derive(Debug, Clone)]
struct Item {
    path: Vec<String>,
    what: What,
    mode: u32,
    owner: (u32, u32),
    mtime: u32,
    xattr: Option<Vec<u8>>,
}

fn item() -> impl Strategy<Value = Item> {
    let name = prop_oneof![4 => "[a-c]{1,2}", 1 => "[ -.0-~é]{1,40}", 1 => "[a-z]{120,200}"]
        .prop_filter("special", |name: &String| name != "." && name != ".." && name.len() <= 255);
    let what = prop_oneof![
        5 => (0_usize..9000, any::<u32>()).prop_map(|(size, seed)| What::File(size, seed)),
        1 => (1_usize..200_000).prop_map(|size| What::File(size, 0)),
        2 => Just(What::Directory),
        1 => "[a-z./]{1,150}".prop_map(What::Symlink),
        2 => (0_usize..50).prop_map(What::HardLink),
        1 => (any::<bool>(), 0_u32..4095, 0_u32..1_000_000).prop_map(|(block, major, minor)| What::Device(block, major, minor)),
        1 => Just(What::Fifo),
    ];
    let owner = (prop_oneof![0_u32..70_000, 2_000_000..3_000_000_000_u32], 0_u32..70_000);
    let xattr = proptest::option::weighted(0.2, proptest::collection::vec(any::<u8>(), 1..300));
    (proptest::collection::vec(name, 1..4), what, 0_u32..0o7777, owner, 0_u32..4_000_000_000, xattr)
        .prop_map(|(path, what, mode, owner, mtime, xattr)| Item { path, what, mode, owner, mtime, xattr })
}

/// Makes the items below `root` as far as they fit together and this user may.
fn make(root: &Path, items: &[Item]) {
    use rustix::fs::{CWD, FileType, Mode, XattrFlags, chownat, makedev, mknodat, setxattr};
    let is_root = rustix::process::geteuid().is_root();
    let mut files = Vec::new();
    for item in items {
        let path = root.join(item.path.join("/"));
        if std::fs::create_dir_all(path.parent().unwrap()).is_err() || path.symlink_metadata().is_ok() {
            continue;
        }
        let made = match &item.what {
            What::File(size, seed) => {
                let mut state = *seed;
                let bytes = std::iter::repeat_with(|| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(u32::from(*seed != 0));
                    (state >> 24) as u8
                });
                std::fs::write(&path, bytes.take(*size).collect::<Vec<u8>>())
            }
            What::Directory => std::fs::create_dir(&path),
            What::Symlink(target) => std::os::unix::fs::symlink(target, &path),
            What::HardLink(_) if files.is_empty() => continue,
            What::HardLink(index) => std::fs::hard_link(&files[index % files.len()], &path),
            What::Device(..) if !is_root => continue,
            What::Device(block, major, minor) => {
                let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                mknodat(CWD, &path, kind, Mode::empty(), makedev(*major, *minor)).map_err(Into::into)
            }
            What::Fifo => mknodat(CWD, &path, FileType::Fifo, Mode::empty(), 0).map_err(Into::into),
        };
        if made.is_err() || matches!(item.what, What::HardLink(_)) {
            continue;
        }
        if is_root {
            let (uid, gid) = item.owner;
            let owner = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            chownat(CWD, &path, Some(owner.0), Some(owner.1), rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        if matches!(item.what, What::Symlink(_)) {
            continue;
        }
        let mode = if is_root { item.mode } else { item.mode | 0o700 };
        sh(root, &format!("chmod {mode:o} '{}'", path.display().to_string().replace('\'', "'\\''")));
        if let (What::File(..), Some(value)) = (&item.what, &item.xattr) {
            files.push(path.clone());
            setxattr(&path, "user.test", value, XattrFlags::empty()).unwrap();
        } else if matches!(item.what, What::File(..)) {
            files.push(path.clone());
        }
    }
    for item in items {
        let path = root.join(item.path.join("/"));
        if path.symlink_metadata().is_ok_and(|found| !found.is_symlink()) {
            let time = rustix::fs::Timespec { tv_sec: i64::from(item.mtime), tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
        }
    }
}

/// What the tools should have seen.
fn host_tree(root: &Path) -> Tree {
    let mut tree = Tree::new(0);
    let mut inodes: BTreeMap<u64, String> = BTreeMap::new();
    let mut pending = vec![String::new()];
    while let Some(path) = pending.pop() {
        let host = root.join(&path);
        let metadata = host.symlink_metadata().unwrap();
        let kind = metadata.file_type();
        let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        let node = if kind.is_dir() {
            for name in std::fs::read_dir(&host).unwrap() {
                let name = name.unwrap().file_name().into_string().unwrap();
                pending.push(if path.is_empty() { name } else { format!("{path}/{name}") });
            }
            Node::Directory
        } else if kind.is_symlink() {
            Node::Symlink(std::fs::read_link(&host).unwrap().to_str().unwrap().into())
        } else if kind.is_file() {
            match inodes.get(&metadata.ino()) {
                Some(first) => Node::HardLink(first.clone()),
                None => {
                    inodes.insert(metadata.ino(), path.clone());
                    let bytes = std::fs::read(&host).unwrap();
                    Node::File(Content::host_file(host.clone(), Digest::of(&bytes), bytes.len() as u64))
                }
            }
        } else if kind.is_fifo() {
            Node::Fifo
        } else if kind.is_char_device() {
            Node::CharacterDevice { major, minor }
        } else {
            Node::BlockDevice { major, minor }
        };
        let mut value = [0; 400];
        let found = rustix::fs::lgetxattr(&host, "user.test", &mut value[..]).ok();
        let xattrs = found.map(|size| ("user.test".to_owned(), value[..size].to_vec())).into_iter().collect();
        let meta = Meta {
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: metadata.mtime(),
            xattrs,
        };
        tree.insert(&path, Entry { meta, node }).unwrap();
    }
    tree
}

fn each_random_tree(cases: u32, check: impl Fn(&Place, &Path)) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 20, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let items = proptest::collection::vec(item(), 1..25);
    let result = runner.run(&items, |items| {
        let place = place();
        let root = place.directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        make(&root, &items);
        check(&place, &root);
        Ok(())
    });
    result.unwrap();
}

fn unpacked(place: &Place, name: &str) -> Tree {
    let format = Format::of_name(name).unwrap();
    let limits = Limits { total: 64 << 20, ..SMALL };
    unpack(&place.cache, &place.directory.path().join(name), format, &OPEN, &limits).unwrap().tree
}

fn same(actual: &Tree, expected: &Tree, what: &str) {
    let (actual, expected) = (canonical(actual), canonical(expected));
    for (path, entry) in &expected {
        assert_eq!(actual.get(path), Some(entry), "{what}: {path}");
    }
    assert_eq!(actual.len(), expected.len(), "{what}");
}

#[test]
fn random_trees_survive_tar() {
    if !has_tool("tar") || !has_tool("xz") || !has_tool("zstd") {
        return;
    }
    each_random_tree(12, |place, root| {
        let expected = host_tree(root);
        let tars = [
            ("pax.tar.gz", "--format=posix --xattrs -czf"),
            ("gnu.tar.xz", "--format=gnu -cJf"),
            ("sorted.tar.zst", "--format=posix --xattrs --sort=name --pax-option=delete=atime,delete=ctime --zstd -cf"),
        ];
        for (name, options) in tars {
            sh(place.directory.path(), &format!("tar {options} {name} -C root ."));
            let mut expected = expected.clone();
            if name.starts_with("gnu") {
                for path in paths(&expected.clone()) {
                    expected.get_mut(path).unwrap().meta.xattrs.clear();
                }
            }
            same(&unpacked(place, name), &expected, name);
        }
    });
}

#[test]
fn random_trees_survive_cpio() {
    if !has_tool("cpio") {
        return;
    }
    each_random_tree(12, |place, root| {
        // GNU cpio takes `./` off link targets.
        sh(root, "find . -type l -lname './*' -delete");
        let mut expected = host_tree(root);
        for path in paths(&expected.clone()) {
            expected.get_mut(path).unwrap().meta.xattrs.clear();
        }
        for (name, format, filter) in
            [("a.cpio", "newc", "cat"), ("b.cpio.gz", "crc", "gzip"), ("c.cpio.zst", "newc", "zstd")]
        {
            let script = format!("cd root; find . -print0 | cpio -0 -o --quiet -H {format} | {filter} >../{name}");
            sh(place.directory.path(), &script);
            same(&unpacked(place, name), &expected, name);
        }
    });
}

#[test]
fn random_trees_survive_squashfs() {
    if !has_tool("mksquashfs") {
        return;
    }
    each_random_tree(12, |place, root| {
        let expected = host_tree(root);
        for (name, options) in
            [("a.squashfs", "-comp gzip -b 4096"), ("b.sqfs", "-comp zstd"), ("c.squashfs", "-comp xz -no-fragments")]
        {
            sh(place.directory.path(), &format!("mksquashfs root {name} -quiet -no-progress -processors 1 {options}"));
            same(&unpacked(place, name), &expected, name);
        }
    });
}

#[test]
fn random_trees_survive_zip() {
    if !has_tool("zip") {
        return;
    }
    each_random_tree(12, |place, root| {
        // Info-ZIP takes a backslash for a separator, and `-` for its standard input, which it stores as a FIFO.
        sh(root, "find . -depth '(' -name '*\\\\*' -o -name - ')' -exec rm -r '{}' +");
        sh(
            root,
            "find . '(' -type p -o -type b -o -type c ')' -delete; find . -type f -links +1 -delete; touch always",
        );
        // Info-ZIP keeps times from 1980 on.
        sh(root, "find . -exec touch -h -d @1000000000 '{}' +");
        let mut expected = host_tree(root);
        for path in paths(&expected.clone()) {
            let entry = expected.get_mut(path).unwrap();
            (entry.meta.uid, entry.meta.gid) = (0, 0);
            entry.meta.xattrs.clear();
        }
        sh(place.directory.path(), "cd root; zip -qry ../a.zip .");
        let mut actual = unpacked(place, "a.zip");
        actual.get_mut("").unwrap().meta = expected.get("").unwrap().meta.clone();
        same(&actual, &expected, "zip");
    });
}
