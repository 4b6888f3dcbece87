//! The writer against foreign readers: `unsquashfs`, the kernel, and the `backhand` crate.
#![expect(clippy::disallowed_methods, reason = "tests look at what foreign tools made")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ksos_formats::Digest;
use proptest::prelude::*;

use super::testing::{EPOCH, Ignore, any_tree, compare, everything, has_tool, is_root, noise, run, text};
use super::*;
use crate::cache::Cache;
use crate::tree::{Content, Entry, Location, Meta, Node};

const ALL: [Compression; 5] =
    [Compression::Zstd(15), Compression::Zstd(3), Compression::Xz, Compression::Gzip(6), Compression::None];

fn options(compression: Compression, block_size: u32) -> Options<'static> {
    Options { compression, block_size, epoch: EPOCH, workers: 2, cache: &NoBlockCache, progress: None }
}

fn image(tree: &Tree, options: &Options<'_>) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let summary = write(tree, &mut out, options).unwrap();
    assert_eq!(out.position(), summary.size);
    assert_eq!(out.get_ref().len() as u64, summary.size);
    out.into_inner()
}

fn file(bytes: impl Into<std::sync::Arc<[u8]>>) -> Entry {
    Entry { meta: Meta::root(0o644, 1), node: Node::File(Content::inline(bytes)) }
}

struct ImageFile {
    directory: tempfile::TempDir,
}

impl ImageFile {
    fn new(bytes: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("image"), bytes).unwrap();
        ImageFile { directory }
    }

    fn path(&self) -> String {
        self.directory.path().join("image").to_str().unwrap().to_owned()
    }

    fn extract(&self) -> std::path::PathBuf {
        let target = self.directory.path().join("root");
        run("unsquashfs", &["-no-progress", "-quiet", "-d", target.to_str().unwrap(), &self.path()]);
        target
    }
}

/// Runs `check` on the mounted image, where the machine can mount.
fn mounted(bytes: &[u8], check: impl FnOnce(&Path)) {
    if !is_root("mounting an image") || !Path::new("/dev/loop-control").exists() {
        println!("skipped: this machine cannot loop-mount");
        return;
    }
    let image = ImageFile::new(bytes);
    let target = image.directory.path().join("mount");
    fs::create_dir(&target).unwrap();
    let target = target.to_str().unwrap();
    run("mount", &["-t", "squashfs", "-o", "ro,loop", &image.path(), target]);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(Path::new(target))));
    run("umount", &[target]);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn unsquashfs_extracts_what_the_tree_holds() {
    if !has_tool("unsquashfs") || !is_root("restoring owners and devices") {
        return;
    }
    let tree = everything(4096, true);
    for compression in ALL {
        let image = ImageFile::new(&image(&tree, &options(compression, 4096)));
        compare(&tree, &image.extract(), Ignore { directory_links: true, ..Ignore::default() });
    }
}

#[test]
fn the_kernel_sees_what_the_tree_holds() {
    let tree = everything(131_072, true);
    for compression in ALL {
        let image = image(&tree, &options(compression, 131_072));
        mounted(&image, |root| compare(&tree, root, Ignore::default()));
    }
    let tree = everything(1 << 20, true);
    mounted(&image(&tree, &options(Compression::Zstd(1), 1 << 20)), |root| compare(&tree, root, Ignore::default()));
}

#[test]
fn unsquashfs_lists_modes_owners_and_times() {
    if !has_tool("unsquashfs") {
        return;
    }
    let tree = everything(4096, false);
    let image = ImageFile::new(&image(&tree, &options(Compression::Zstd(15), 4096)));
    let listing = run("unsquashfs", &["-lln", &image.path()]);
    assert_eq!(listing.lines().filter(|line| line.contains("squashfs-root")).count(), tree.len());
    for expected in [
        "-rw------- 1000/100                700 2022-04-15 05:20 squashfs-root/etc/passwd",
        "-rw-r--r-- 0/0                      10 2024-01-01 00:00 squashfs-root/etc/future",
        "-rw-r--r-- 0/0                      11 1970-01-01 00:00 squashfs-root/etc/past",
        "crw-rw-rw- 0/0                   1,  3 1970-01-01 00:00 squashfs-root/dev/null",
        "prw------- 3/0                       0 1970-01-01 00:00 squashfs-root/dev/pipe",
        "srw-rw---- 0/4                       0 1970-01-01 00:00 squashfs-root/dev/log",
        "-rwsr-xr-x 0/0                     100 1970-01-01 00:00 squashfs-root/usr/bin/visudo",
        "drwxrwxrwt 0/0                       3 1970-01-01 00:00 squashfs-root/usr/share/empty",
        "lrwxrwxrwx 0/0                       7 1970-01-01 00:00 squashfs-root/bin -> usr/bin",
    ] {
        assert!(listing.lines().any(|line| line == expected), "{expected}\nis not in\n{listing}");
    }
}

#[test]
fn the_superblock_says_what_unsquashfs_expects() {
    if !has_tool("unsquashfs") {
        return;
    }
    let tree = everything(4096, true);
    for (compression, expected) in [
        (Compression::Zstd(15), vec!["Compression zstd\nBlock size"]),
        (Compression::Zstd(3), vec!["Compression zstd", "compression-level 3"]),
        (Compression::Xz, vec!["Compression xz"]),
        (Compression::Gzip(6), vec!["Compression gzip", "compression-level 6"]),
        (Compression::None, vec!["Inodes are uncompressed", "Data is uncompressed", "Fragments are uncompressed"]),
    ] {
        let image = ImageFile::new(&image(&tree, &options(compression, 4096)));
        let text = run("unsquashfs", &["-s", &image.path()]);
        let common = ["Block size 4096", "Mon Jan  1 00:00:00 2024", "exportable via NFS", "Duplicates are removed"];
        for expected in expected.iter().chain(&common) {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        let inodes = tree.iter().filter(|(_, entry)| !matches!(entry.node, Node::HardLink(_))).count();
        assert!(text.contains(&format!("Number of inodes {inodes}\n")), "{text}");
    }
}

#[test]
fn backhand_reads_the_same_files() {
    let mut tree = everything(4096, false);
    // backhand 0.25 refuses targets over 255 bytes.
    tree.remove("usr/long");
    let image = image(&tree, &options(Compression::Zstd(15), 4096));
    let reader = backhand::FilesystemReader::from_reader(BufReader::new(Cursor::new(image))).unwrap();
    let mut seen = 0;
    for node in reader.files() {
        seen += 1;
        let path = node.fullpath.to_str().unwrap().trim_start_matches('/').to_owned();
        let entry = tree.get(&path).unwrap_or_else(|| panic!("{path}"));
        let resolved = tree.resolve_link(entry);
        assert_eq!(u32::from(node.header.permissions), resolved.meta.mode, "{path}");
        assert_eq!((node.header.uid, node.header.gid), (resolved.meta.uid, resolved.meta.gid), "{path}");
        if let backhand::InnerNode::File(found) = &node.inner {
            let Node::File(content) = &resolved.node else { panic!("{path} is no file") };
            let mut bytes = Vec::new();
            reader.file(found).reader().read_to_end(&mut bytes).unwrap();
            assert!(bytes == content.read(u64::MAX).unwrap(), "{path}");
        }
    }
    assert_eq!(seen, tree.len());
}

#[test]
fn workers_and_cache_do_not_change_the_bytes() {
    let tree = everything(4096, true);
    let directory = tempfile::tempdir().unwrap();
    let cache = DirectoryBlockCache::in_cache(&Cache::open(directory.path()).unwrap());
    for compression in ALL.into_iter().chain([Compression::Gzip(1), Compression::Zstd(1)]) {
        let first = image(&tree, &Options { workers: 1, ..options(compression, 4096) });
        for workers in [0, 2, 7] {
            assert!(first == image(&tree, &Options { workers, ..options(compression, 4096) }), "{workers} workers");
        }
        // Filling the cache, then from the cache.
        for _ in 0..2 {
            assert!(first == image(&tree, &Options { cache: &cache, ..options(compression, 4096) }), "{compression:?}");
        }
    }
}

#[test]
fn builds_at_the_same_time_share_a_cache() {
    let tree = everything(4096, false);
    let directory = tempfile::tempdir().unwrap();
    let store = Cache::open(directory.path()).unwrap();
    let expected = image(&tree, &options(Compression::Zstd(3), 4096));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let cache = DirectoryBlockCache::in_cache(&store);
                let options = Options { cache: &cache, ..options(Compression::Zstd(3), 4096) };
                assert!(image(&tree, &options) == expected);
            });
        }
    });
    assert_eq!(fs::read_dir(store.bucket("tmp")).unwrap().count(), 0);
}

/// A host file as an overlay gives it.
fn host_file(path: &Path, bytes: &[u8]) -> Entry {
    fs::write(path, bytes).unwrap();
    let content = Content::host_file(path.to_owned(), Digest::of(bytes), bytes.len() as u64);
    Entry { meta: Meta::root(0o644, 1), node: Node::File(content) }
}

#[test]
fn a_cached_file_is_not_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let cache = DirectoryBlockCache::in_cache(&Cache::open(directory.path()).unwrap());
    let mut tree = Tree::new(0);
    for (name, size) in [("large", 50_000), ("small", 100)] {
        tree.insert(name, host_file(&directory.path().join(name), &text(1, size))).unwrap();
    }
    let options = Options { cache: &cache, ..options(Compression::Zstd(15), 4096) };
    let first = image(&tree, &options);
    fs::remove_file(directory.path().join("large")).unwrap();
    fs::remove_file(directory.path().join("small")).unwrap();
    let mut out = Cursor::new(Vec::new());
    let summary = write(&tree, &mut out, &options).unwrap();
    assert!(out.into_inner() == first);
    assert_eq!((summary.content_bytes, summary.cached_bytes), (50_100, 50_100));
}

#[test]
fn a_damaged_cache_gives_the_same_image() {
    let directory = tempfile::tempdir().unwrap();
    let store = Cache::open(directory.path()).unwrap();
    let cache = DirectoryBlockCache::in_cache(&store);
    let tree = everything(4096, false);
    let options = Options { cache: &cache, ..options(Compression::Zstd(3), 4096) };
    let first = image(&tree, &options);
    for shard in fs::read_dir(store.bucket("blocks")).unwrap() {
        for (number, object) in fs::read_dir(shard.unwrap().path()).unwrap().enumerate() {
            let path = object.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            match number % 3 {
                0 => bytes.truncate(bytes.len() / 2),
                1 => bytes[0] ^= 1,
                _ => bytes.clear(),
            }
            fs::write(&path, bytes).unwrap();
        }
    }
    assert!(image(&tree, &options) == first);
    assert!(image(&tree, &options) == first);
}

/// A cache whose objects are well-formed and belong to something else.
struct WrongCache;

impl BlockCache for WrongCache {
    fn get(&self, _: &Digest) -> Option<StoredBlocks> {
        Some(StoredBlocks { sizes: vec![0, 1 << 25, 0], data: Box::new(std::io::empty()) })
    }

    fn begin(&self, _: &Digest) -> Option<Box<dyn PendingBlocks + '_>> {
        None
    }
}

#[test]
fn cached_blocks_that_cannot_be_the_files_are_a_miss() {
    let tree = everything(4096, false);
    let options = options(Compression::Zstd(3), 4096);
    assert!(image(&tree, &Options { cache: &WrongCache, ..options }) == image(&tree, &options));
}

#[test]
fn content_that_changed_is_refused_with_its_path() {
    for (size, new) in [(100, 100), (100, 50), (50_000, 50_000), (50_000, 20_000)] {
        let directory = tempfile::tempdir().unwrap();
        let cache = DirectoryBlockCache::in_cache(&Cache::open(directory.path()).unwrap());
        let place = directory.path().join("overlay-file");
        let mut tree = everything(4096, false);
        tree.insert("etc/changed", host_file(&place, &text(77, size))).unwrap();
        fs::write(&place, text(78, new)).unwrap();
        let options = Options { cache: &cache, ..options(Compression::Zstd(3), 4096) };
        for _ in 0..2 {
            let error = write(&tree, &mut Cursor::new(Vec::new()), &options).unwrap_err();
            assert!(matches!(&error, Error::Changed { path } if path == "etc/changed"), "{error}");
        }
        fs::remove_file(&place).unwrap();
        let error = write(&tree, &mut Cursor::new(Vec::new()), &options).unwrap_err();
        assert!(matches!(&error, Error::Read { path, .. } if path == "etc/changed"), "{error}");
        // The old content is there again: nothing wrong came into the cache.
        fs::write(&place, text(77, size)).unwrap();
        assert!(image(&tree, &options) == image(&tree, &Options { cache: &NoBlockCache, ..options }));
    }
}

#[test]
fn one_digest_with_two_sizes_is_refused() {
    let mut tree = Tree::new(0);
    tree.insert("a", file(text(1, 5000))).unwrap();
    let Node::File(content) = tree.get("a").unwrap().node.clone() else { panic!() };
    let other = Content { size: 4000, ..content };
    tree.insert("b", Entry { meta: Meta::root(0o644, 1), node: Node::File(other) }).unwrap();
    let error = write(&tree, &mut Cursor::new(Vec::new()), &options(Compression::None, 4096)).unwrap_err();
    assert!(matches!(&error, Error::Changed { path } if path == "b"), "{error}");
}

#[test]
fn what_the_format_cannot_hold_is_refused_with_its_path() {
    let refused = |entry: Entry| {
        let mut tree = Tree::new(0);
        tree.insert("etc/bad", entry).unwrap();
        let error = write(&tree, &mut Cursor::new(Vec::new()), &options(Compression::None, 4096)).unwrap_err();
        error.to_string()
    };
    let node = |node| Entry { meta: Meta::root(0o644, 0), node };
    let attribute = |name: &str, size| {
        let mut entry = node(Node::Fifo);
        entry.meta.xattrs = BTreeMap::from([(name.to_owned(), vec![0; size])]);
        entry
    };
    insta::assert_snapshot!(refused(attribute("system.posix_acl_access", 4)), @r#"/etc/bad: extended attribute "system.posix_acl_access" cannot be stored: SquashFS has only user., trusted. and security. attributes"#);
    insta::assert_snapshot!(refused(attribute("user.", 4)), @r#"/etc/bad: extended attribute "user." cannot be stored: the name is empty, longer than 255 bytes, or has a NUL byte"#);
    insta::assert_snapshot!(refused(attribute("user.big", 65537)), @r#"/etc/bad: extended attribute "user.big" cannot be stored: the value is longer than 65536 bytes"#);
    insta::assert_snapshot!(refused(node(Node::Symlink(String::new()))), @"/etc/bad: the target of a symbolic link must have 1 to 4095 bytes, this one has 0");
    insta::assert_snapshot!(refused(node(Node::Symlink("x".repeat(4096)))), @"/etc/bad: the target of a symbolic link must have 1 to 4095 bytes, this one has 4096");
    insta::assert_snapshot!(refused(node(Node::BlockDevice { major: 4096, minor: 0 })), @"/etc/bad: device number 4096:0 is above 4095:1048575");
}

#[test]
fn bad_settings_are_refused() {
    let tree = Tree::new(0);
    let fails = |compression, size| write(&tree, &mut Cursor::new(Vec::new()), &options(compression, size)).is_err();
    for size in [0, 1, 2048, 4097, 12288, 1 << 21] {
        assert!(fails(Compression::None, size), "{size}");
    }
    for compression in [Compression::Zstd(0), Compression::Zstd(23), Compression::Gzip(0), Compression::Gzip(10)] {
        assert!(fails(compression, 4096), "{compression:?}");
    }
}

#[test]
fn more_owners_than_the_format_counts_are_refused() {
    let mut tree = Tree::new(0);
    for uid in 0..65_536_u32 {
        let mut entry = Entry { meta: Meta::root(0o644, 0), node: Node::Fifo };
        entry.meta.uid = uid;
        tree.insert(&format!("{uid}"), entry).unwrap();
    }
    let error = write(&tree, &mut Cursor::new(Vec::new()), &options(Compression::None, 4096)).unwrap_err();
    assert!(matches!(error, Error::TooMany { maximum: 65535, .. }), "{error}");
}

#[test]
fn an_image_can_start_anywhere_in_a_file() {
    let tree = everything(4096, false);
    let plain = image(&tree, &options(Compression::Zstd(3), 4096));
    let mut out = Cursor::new(vec![1; 5]);
    out.set_position(5);
    write(&tree, &mut out, &options(Compression::Zstd(3), 4096)).unwrap();
    assert!(out.into_inner()[5..] == plain);
}

/// A cache that knows one block of one huge file.
struct HugeFileCache {
    blocks: Mutex<BTreeMap<u64, Vec<u32>>>,
    asked: AtomicU64,
}

impl BlockCache for HugeFileCache {
    fn get(&self, _: &Digest) -> Option<StoredBlocks> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let sizes = self.blocks.lock().unwrap().remove(&number)?;
        Some(StoredBlocks { sizes, data: Box::new(Cursor::new(noise(1, 100))) })
    }

    fn begin(&self, _: &Digest) -> Option<Box<dyn PendingBlocks + '_>> {
        None
    }
}

#[test]
fn a_file_over_4_gib_keeps_its_size_and_holes() {
    // The cache stands for 5 GiB of zeros and 100 bytes of noise at the end, so that nobody has to hash them.
    let size = (5_u64 << 30) + 100;
    let mut sizes = vec![0; 5 << 12];
    sizes.push(100 | 1 << 24);
    let cache = HugeFileCache { blocks: Mutex::new(BTreeMap::from([(0, sizes)])), asked: AtomicU64::new(0) };
    let mut tree = Tree::new(0);
    let content = Content { digest: Digest::of(b"huge"), size, location: Location::Inline(Vec::new().into()) };
    tree.insert("huge", Entry { meta: Meta::root(0o644, 1), node: Node::File(content) }).unwrap();
    let bytes = image(&tree, &Options { cache: &cache, ..options(Compression::Zstd(15), 1 << 18) });
    assert!(bytes.len() <= 8192, "{}", bytes.len());
    if has_tool("unsquashfs") {
        let listing = run("unsquashfs", &["-lln", &ImageFile::new(&bytes).path()]);
        assert!(listing.contains(&format!(" {size} ")), "{listing}");
    }
    mounted(&bytes, |root| {
        use std::os::unix::fs::{FileExt, MetadataExt};
        let file = fs::File::open(root.join("huge")).unwrap();
        let stat = file.metadata().unwrap();
        assert_eq!((stat.len(), stat.blocks()), (size, 1));
        let mut end = vec![1; 200];
        file.read_exact_at(&mut end, size - 200).unwrap();
        assert_eq!(end[..100], [0; 100]);
        assert!(end[100..] == noise(1, 100));
    });
}

#[test]
fn the_kernel_finds_every_name_in_a_directory_of_60000() {
    let mut tree = Tree::new(0);
    for number in 0..60_000 {
        let entry = match number % 1000 {
            0 => Entry { meta: Meta::root(0o755, 1), node: Node::Directory },
            1 => file(format!("{number}").into_bytes()),
            _ => file(Vec::new()),
        };
        tree.insert(&format!("var/lib/crowd/a-rather-long-name-{number}"), entry).unwrap();
    }
    let bytes = image(&tree, &options(Compression::Zstd(1), 131_072));
    if has_tool("unsquashfs") {
        let listing = run("unsquashfs", &["-l", &ImageFile::new(&bytes).path()]);
        assert_eq!(listing.lines().filter(|line| line.contains("a-rather-long-name")).count(), 60_000);
    }
    mounted(&bytes, |root| {
        let crowd = root.join("var/lib/crowd");
        assert_eq!(fs::read_dir(&crowd).unwrap().count(), 60_000);
        for number in (0..60_000).rev() {
            let path = crowd.join(format!("a-rather-long-name-{number}"));
            let stat = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{number}: {error}"));
            assert_eq!(stat.is_dir(), number % 1000 == 0);
            if number % 1000 == 1 {
                assert_eq!(fs::read(&path).unwrap(), format!("{number}").into_bytes());
            }
        }
        assert!(!crowd.join("a-rather-long-name-60000").exists());
        assert!(!crowd.join("a").exists());
        assert!(!crowd.join("z").exists());
    });
}

#[test]
fn progress_reaches_the_content_size() {
    let tree = everything(4096, false);
    let seen = AtomicU64::new(0);
    let progress = |bytes: u64| assert!(seen.fetch_max(bytes, Ordering::Relaxed) <= bytes);
    let options = Options { progress: Some(&progress), ..options(Compression::Zstd(1), 4096) };
    let summary = write(&tree, &mut Cursor::new(Vec::new()), &options).unwrap();
    assert_eq!(seen.into_inner(), summary.content_bytes);
}

/// A disk that is full after some bytes.
struct FullDisk(Cursor<Vec<u8>>);

impl Write for FullDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.position() > 30_000 { Err(io::ErrorKind::StorageFull.into()) } else { self.0.write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for FullDisk {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.0.seek(position)
    }
}

#[test]
fn a_full_disk_ends_the_write() {
    let tree = everything(4096, false);
    let error = write(&tree, &mut FullDisk(Cursor::default()), &options(Compression::None, 4096)).unwrap_err();
    assert!(matches!(&error, Error::Write(error) if error.kind() == io::ErrorKind::StorageFull), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back(tree in any_tree(true)) {
        if has_tool("unsquashfs") && is_root("restoring owners and devices") {
            let bytes = image(&tree, &options(Compression::Zstd(1), 4096));
            let root = ImageFile::new(&bytes);
            compare(&tree, &root.extract(), Ignore { directory_links: true, ..Ignore::default() });
            mounted(&bytes, |root| compare(&tree, root, Ignore::default()));
        }
    }
}
