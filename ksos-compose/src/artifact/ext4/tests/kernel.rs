//! The running kernel mounts an image and shows the same tree. Needs root and loop devices; skipped without.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use super::*;

/// A loop mount that goes away with the value.
struct Mounted(tempfile::TempDir);

impl Mounted {
    /// Mounts read-write, so that the kernel opens the journal; `None` when this process may not mount.
    fn new(image: &Image) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (path, point) = (image.path(), folder.path().to_owned());
        let arguments = ["-t", "ext4", "-o", "loop,noatime", path.to_str().unwrap(), point.to_str().unwrap()];
        let output = run("mount", &arguments)?;
        if !output.success {
            assert!(!output.text.contains("wrong fs type"), "{}", output.text);
            // Root that has loop devices and no right to use them is in a container.
            println!("skipped: cannot mount: {}", output.text.trim());
            let required = std::env::var_os("KSOS_REQUIRE_TOOLS").is_some() && Path::new("/dev/loop-control").exists();
            assert!(!(required && rustix::process::geteuid().is_root()), "{}", output.text);
            return None;
        }
        Some(Mounted(folder))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[self.0.path().to_str().unwrap()]);
    }
}

fn varied_tree() -> Tree {
    let mut tree = tree();
    for (number, size) in [0, 1, 4095, 4096, 4097, 1 << 20, (3 << 20) + 17].into_iter().enumerate() {
        tree.insert(&format!("files/{size}"), file(noise(number as u64, size))).unwrap();
    }
    let mut holes = noise(9, 4000 * 4096);
    holes.chunks_mut(8192).for_each(|pair| pair[..4096].fill(0));
    tree.insert("files/holes", file(holes)).unwrap();
    tree.insert("links/hard", entry(Node::HardLink("files/4097".into()))).unwrap();
    tree.insert("links/fast", entry(Node::Symlink("../files/1".into()))).unwrap();
    tree.insert("links/slow", entry(Node::Symlink("x/".repeat(500)))).unwrap();
    tree.insert("dev/null", entry(Node::CharacterDevice { major: 1, minor: 3 })).unwrap();
    tree.insert("dev/large", entry(Node::BlockDevice { major: 259, minor: 100_000 })).unwrap();
    tree.insert("dev/fifo", entry(Node::Fifo)).unwrap();
    tree.insert("dev/socket", entry(Node::Socket)).unwrap();
    let meta = Meta { uid: 100_000, gid: 70_000, ..Meta::root(0o6751, 1 << 32) };
    tree.insert("meta", Entry { meta, node: Node::Directory }).unwrap();
    for number in 0..20_000 {
        tree.insert(&format!("many/a-rather-long-name-{number}"), file("")).unwrap();
    }
    tree
}

#[test]
fn the_kernel_shows_the_same_tree() {
    let tree = varied_tree();
    let image = Image::write(&tree, &options(256 * MIB));
    let Some(mounted) = Mounted::new(&image) else { return };
    let names = |folder: &str| std::fs::read_dir(mounted.0.path().join(folder)).unwrap().count();
    assert_eq!((names(""), names("many"), names("lost+found")), (6, 20_000, 0));
    for (path, entry) in tree.iter() {
        let host = mounted.0.path().join(path);
        let found = std::fs::symlink_metadata(&host).unwrap_or_else(|error| panic!("{path}: {error}"));
        let entry = tree.resolve_link(entry);
        let same = match &entry.node {
            Node::Directory => found.is_dir(),
            Node::File(content) => std::fs::read(&host).unwrap() == content.read(1 << 30).unwrap(),
            Node::Symlink(target) => std::fs::read_link(&host).unwrap().to_str() == Some(target),
            Node::CharacterDevice { major, minor } | Node::BlockDevice { major, minor } => {
                found.rdev() == rustix::fs::makedev(*major, *minor)
            }
            Node::Fifo => found.file_type().is_fifo(),
            Node::Socket => found.file_type().is_socket(),
            Node::HardLink(_) => unreachable!(),
        };
        let meta = &entry.meta;
        assert!(same, "{path}");
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (meta.mode, meta.uid, meta.gid), "{path}");
        assert_eq!((found.mtime(), found.mtime_nsec()), (meta.mtime, 0), "{path}");
    }
    assert_eq!(std::fs::metadata(mounted.0.path().join("links/hard")).unwrap().nlink(), 2);
}

#[test]
fn the_kernel_can_go_on_writing() {
    let image = Image::write(&varied_tree(), &Options { inodes: Some(40_000), ..options(256 * MIB) });
    {
        let Some(mounted) = Mounted::new(&image) else { return };
        let root = mounted.0.path();
        for number in 0..3000 {
            std::fs::write(root.join(format!("many/new-{number}")), "new").unwrap();
            std::fs::remove_file(root.join(format!("many/a-rather-long-name-{}", number * 5))).unwrap();
        }
        std::fs::create_dir_all(root.join("a/b/c")).unwrap();
        std::fs::write(root.join("a/b/c/large"), noise(1, 20 << 20)).unwrap();
        std::fs::write(root.join("files/holes"), noise(2, 30 << 20)).unwrap();
    }
    assert!(image.check());
    assert!(image.dump("/files/holes") == noise(2, 30 << 20));
}

#[test]
fn the_kernel_shows_the_same_attributes() {
    let mut tree = tree();
    let mut node = file("1");
    node.meta.xattrs.insert("user.small".into(), b"abc".to_vec());
    node.meta.xattrs.insert("user.large".into(), vec![b'x'; 3000]);
    node.meta.xattrs.insert("trusted.overlay.opaque".into(), b"y".to_vec());
    node.meta.xattrs.insert("system.posix_acl_access".into(), ACCESS_LIST.to_vec());
    node.meta.xattrs.insert("security.capability".into(), CAPABILITY.to_vec());
    node.meta.mode = 0o674;
    tree.insert("f", node).unwrap();
    let image = Image::write(&tree, &options(16 * MIB));
    let Some(mounted) = Mounted::new(&image) else { return };
    let path = mounted.0.path().join("f");
    for (name, value) in &tree.get("f").unwrap().meta.xattrs {
        let mut buffer = vec![0; 4096];
        let count = rustix::fs::getxattr(&path, name.as_str(), &mut buffer[..]).unwrap();
        assert_eq!(&buffer[..count], value, "{name}");
    }
}
