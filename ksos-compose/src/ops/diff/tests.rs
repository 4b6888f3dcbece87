#![expect(clippy::disallowed_methods, reason = "tests change files of their own")]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ksos_formats::boot::{self, ImageId, RootImage, SlotMetadata, Verity};
use ksos_formats::update::{self, Blob, CHUNKS_FILE, Envelope, INDEX_FILE, RELEASE_FILE, Release};
use ksos_formats::{Arch, Digest, layout};
use uuid::Uuid;

use super::*;
use crate::artifact::disk::{self, DiskSpec, PartitionContent};
use crate::artifact::squashfs::{Compression, NoBlockCache};
use crate::artifact::window::Window;
use crate::artifact::{cpio, ext4, release, squashfs};
use crate::tree::{Content, Entry, Meta, Node};

const MIB: u64 = 1 << 20;
const EPOCH: u64 = 1_700_000_000;
/// Where the slot is: behind the first partition.
const SLOT_OFFSET: u64 = 3 * MIB;

/// What a small disk is made of.
#[derive(Debug, Clone)]
pub struct Disk {
    pub root: Tree,
    pub initramfs: Tree,
    pub kernel: &'static [u8],
    pub cmdline: &'static str,
    pub data_size: u64,
}

impl Disk {
    pub fn new() -> Self {
        let mut root = Tree::new(EPOCH as i64);
        for (path, bytes) in [("etc/hosts", "127.0.0.1 localhost\n"), ("etc/motd", "hello\n"), ("usr/bin/a", "a")] {
            put(&mut root, path, bytes);
        }
        root.insert("bin", Entry { meta: meta(0o777), node: Node::Symlink("usr/bin".into()) }).unwrap();
        root.insert("usr/bin/b", Entry { meta: meta(0o644), node: Node::HardLink("usr/bin/a".into()) }).unwrap();
        let mut initramfs = Tree::new(EPOCH as i64);
        put(&mut initramfs, "init", "the first process");
        Disk { root, initramfs, kernel: b"the kernel", cmdline: "quiet", data_size: MIB }
    }

    pub fn write(&self, directory: &Path, name: &str) -> PathBuf {
        let path = directory.join(name);
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let partition = |number: u128, label: &str, size| disk::Partition {
            label: label.to_owned(),
            type_guid: layout::LINUX_TYPE_GUID.parse().unwrap(),
            guid: Uuid::from_u128(number),
            size,
            content: PartitionContent::Empty,
        };
        let partitions =
            vec![partition(1, "ESP", 2 * MIB), partition(2, "SLOT", 8 * MIB), partition(3, "DATA", self.data_size)];
        let written =
            disk::write(&mut file, &DiskSpec { disk_guid: Uuid::from_u128(9), partitions, bios: None }).unwrap();
        assert_eq!(written.partitions[1].offset, SLOT_OFFSET);
        let mut options = ext4::Options::new(8 * MIB, "SLOT", [1; 16], [2; 16], EPOCH);
        options.journal = Some(0);
        ext4::write(&self.slot(), &mut Window::new(&file, SLOT_OFFSET, 8 * MIB), &options).unwrap();
        path
    }

    fn slot(&self) -> Tree {
        let mut root = std::io::Cursor::new(Vec::new());
        let options = squashfs::Options {
            compression: Compression::Zstd(1),
            block_size: 4096,
            epoch: EPOCH as u32,
            workers: 1,
            cache: &NoBlockCache,
            progress: None,
        };
        squashfs::write(&self.root, &mut root, &options).unwrap();
        let mut root = root.into_inner();
        // As with the hash tree behind it.
        root.extend_from_slice(&[0x55; 4096]);
        let metadata = self.metadata(&root);
        let mut tree = Tree::new(EPOCH as i64);
        put(&mut tree, layout::SLOT_KERNEL, self.kernel);
        let (mut initramfs, gzip) = (Vec::new(), cpio::Compression::Gzip(6));
        cpio::write_compressed(&self.initramfs, &mut initramfs, EPOCH as u32, gzip, 1).unwrap();
        put(&mut tree, layout::SLOT_INITRAMFS, initramfs);
        put(&mut tree, layout::SLOT_METADATA, serde_json::to_vec(&metadata).unwrap());
        put(&mut tree, layout::SLOT_ROOT, root);
        tree
    }

    fn metadata(&self, root: &[u8]) -> SlotMetadata {
        let sha256 = Digest::of(root);
        SlotMetadata {
            format: boot::FORMAT,
            image: ImageId { name: "t".into(), version: "1".into(), arch: Arch::X86_64, epoch: EPOCH },
            kernel_release: "6.1.0".into(),
            root: RootImage {
                file: layout::SLOT_ROOT.into(),
                size: root.len() as u64,
                sha256,
                verity: Verity { data_blocks: 1, root_hash: sha256, salt: sha256 },
            },
            kernel_sha256: Digest::of(self.kernel),
            initramfs_sha256: sha256,
            cmdline: self.cmdline.to_owned(),
        }
    }
}

fn meta(mode: u32) -> Meta {
    Meta::root(mode, EPOCH as i64)
}

pub fn put(tree: &mut Tree, path: &str, bytes: impl AsRef<[u8]>) {
    let node = Node::File(Content::inline(bytes.as_ref().to_vec()));
    tree.insert(path, Entry { meta: meta(0o644), node }).unwrap();
}

fn compare(a: &Disk, b: &Disk) -> Difference {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (a.write(directory.path(), "a"), b.write(directory.path(), "b"));
    let cache = Cache::open(&directory.path().join("cache")).unwrap();
    let difference = diff(&cache, &a, &b, 2).unwrap();
    let left = crate::effects::fs::list(&cache.bucket("tmp")).unwrap();
    assert_eq!(left, Vec::<std::ffi::OsString>::new(), "nothing temporary stays");
    difference
}

fn values(slot: &SlotDifference) -> Vec<&str> {
    slot.values.iter().map(|change| change.what.as_str()).collect()
}

#[test]
fn two_builds_of_one_image_are_equal() {
    let difference = compare(&Disk::new(), &Disk::new());
    assert_eq!(difference, Difference { equal: true, ..Difference::default() });
}

#[test]
fn one_changed_file_is_exactly_what_is_reported() {
    let mut b = Disk::new();
    put(&mut b.root, "etc/motd", "hello!\n");
    let difference = compare(&Disk::new(), &b);
    assert!(!difference.equal && difference.table.is_empty() && difference.outside.is_none());
    let [partition] = &difference.partitions[..] else { panic!("{difference:?}") };
    assert_eq!((partition.number, partition.label.as_str(), &partition.unreadable), (2, "SLOT", &None));
    let slot = partition.slot.as_ref().unwrap();
    assert_eq!(values(slot), ["root.squashfs SHA-256"]);
    let root = slot.root.as_ref().unwrap();
    let changed = ChangedFile { path: "/etc/motd".into(), aspects: vec![Aspect::Content], a_size: 6, b_size: 7 };
    assert_eq!(root.changed, [changed]);
    assert!(root.added.is_empty() && root.removed.is_empty() && root.time_only == 0);
    assert_eq!((root.a_total.entries, root.a_total.bytes), (root.b_total.entries, 27));
    assert_eq!(root.b_total.bytes, 28);
}

#[test]
fn the_initramfs_is_looked_into() {
    let mut b = Disk::new();
    put(&mut b.initramfs, "init", "The first process");
    let difference = compare(&Disk::new(), &b);
    let slot = difference.partitions[0].slot.as_ref().unwrap();
    assert!(values(slot).contains(&"kubesolo-os.gz SHA-256") && slot.root.is_none(), "{slot:?}");
    let changed = &slot.initramfs.as_ref().unwrap().changed;
    assert_eq!(changed.len(), 1);
    assert_eq!((changed[0].path.as_str(), &changed[0].aspects[..]), ("/init", &[Aspect::Content][..]));
}

#[test]
fn every_aspect_of_a_file_is_told_apart() {
    let mut b = Disk::new();
    b.root.get_mut("etc").unwrap().meta.mode = 0o700;
    b.root.get_mut("etc/hosts").unwrap().meta.uid = 7;
    b.root.get_mut("etc/motd").unwrap().meta.xattrs.insert("user.x".into(), b"y".to_vec());
    b.root.get_mut("usr").unwrap().meta.mtime -= 5;
    b.root.insert("bin", Entry { meta: meta(0o777), node: Node::Symlink("usr/sbin".into()) }).unwrap();
    b.root.remove("usr/bin/b");
    put(&mut b.root, "usr/bin/b", "a");
    put(&mut b.root, "usr/bin/new", "new!");
    put(&mut b.root, "var", "a file");
    let mut a = Disk::new();
    a.root.insert("var", Entry { meta: meta(0o644), node: Node::Fifo }).unwrap();
    put(&mut a.root, "old", "12");
    let difference = compare(&a, &b);
    let root = difference.partitions[0].slot.as_ref().unwrap().root.clone().unwrap();
    let changed: Vec<(&str, &[Aspect])> =
        root.changed.iter().map(|file| (file.path.as_str(), file.aspects.as_slice())).collect();
    let expected: [(&str, &[Aspect]); 6] = [
        ("/bin", &[Aspect::Target]),
        ("/etc", &[Aspect::Mode]),
        ("/etc/hosts", &[Aspect::Owner]),
        ("/etc/motd", &[Aspect::Xattrs]),
        ("/usr/bin/b", &[Aspect::HardLink]),
        ("/var", &[Aspect::Kind]),
    ];
    assert_eq!(changed, expected);
    assert_eq!(root.added, [ListedFile { path: "/usr/bin/new".into(), size: 4 }]);
    assert_eq!(root.removed, [ListedFile { path: "/old".into(), size: 2 }]);
    assert_eq!(root.time_only, 1);
}

#[test]
fn kernel_command_line_and_partition_table_are_compared() {
    let b = Disk { kernel: b"another kernel", cmdline: "debug", data_size: 2 * MIB, ..Disk::new() };
    let difference = compare(&Disk::new(), &b);
    let table: Vec<&str> = difference.table.iter().map(|change| change.what.as_str()).collect();
    assert_eq!(table, ["disk size", "partition 3 size"]);
    let slot = difference.partitions[0].slot.as_ref().unwrap();
    assert_eq!(values(slot), ["command line", "vmlinuz size", "vmlinuz SHA-256"]);
    assert_eq!((slot.values[0].a.as_deref(), slot.values[0].b.as_deref()), (Some("quiet"), Some("debug")));
    assert_eq!(slot.root, None);
}

#[test]
fn bytes_that_belong_to_nothing_are_a_difference_too() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (Disk::new().write(directory.path(), "a"), Disk::new().write(directory.path(), "b"));
    let cache = Cache::open(&directory.path().join("cache")).unwrap();
    let file = File::options().write(true).open(&b).unwrap();
    // In the boot code of the protective MBR.
    file.write_all_at(b"x", 100).unwrap();
    let difference = diff(&cache, &a, &b, 2).unwrap();
    assert_eq!((difference.equal, difference.outside), (false, Some(100)));
    file.write_all_at(&[0], 100).unwrap();
    file.write_all_at(b"x", MIB + 77).unwrap();
    let difference = diff(&cache, &a, &b, 2).unwrap();
    let found: Vec<(u32, u64)> = difference.partitions.iter().map(|part| (part.number, part.offset)).collect();
    assert_eq!((difference.equal, found), (false, vec![(1, 77)]));
}

#[test]
fn a_slot_that_is_damaged_says_so_and_still_differs() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (Disk::new().write(directory.path(), "a"), Disk::new().write(directory.path(), "b"));
    let cache = Cache::open(&directory.path().join("cache")).unwrap();
    let file = File::options().write(true).open(&b).unwrap();
    file.write_all_at(&[0; 4], SLOT_OFFSET + 1024 + 0x28).unwrap();
    let difference = diff(&cache, &a, &b, 2).unwrap();
    let unreadable = difference.partitions[0].unreadable.as_deref().unwrap();
    assert!(unreadable.ends_with("partition 2: damaged ext4 file system: the inodes of a group"), "{unreadable}");
}

#[test]
fn what_is_no_disk_image_is_an_error_and_not_a_difference() {
    let directory = tempfile::tempdir().unwrap();
    let good = Disk::new().write(directory.path(), "good");
    let cache = Cache::open(&directory.path().join("cache")).unwrap();
    let error = |bytes: &[u8]| {
        let bad = directory.path().join("bad");
        File::create(&bad).unwrap().write_all(bytes).unwrap();
        let error = diff(&cache, &good, &bad, 2).unwrap_err();
        assert_eq!(error.problem().exit_code(), 2);
        error.to_string()
    };
    assert!(error(b"").ends_with("partition table: 0 bytes are too few for one"));
    assert!(error(&[0; 4096]).ends_with("partition table: there is none"));
    let bytes = std::fs::read(&good).unwrap();
    let mut entry_size = bytes.clone();
    entry_size[512 + 84] = 0;
    assert!(error(&entry_size).ends_with("128 entries of 0 bytes in sector 1"));
    let mut entries = bytes.clone();
    entries[512 + 80..512 + 84].fill(0xff);
    assert!(error(&entries).ends_with("4294967295 entries of 128 bytes in sector 1"));
    // Both copies say that a partition goes on behind the end.
    assert!(error(&bytes[..4 * MIB as usize]).contains("partition"), "{}", error(&bytes[..4 * MIB as usize]));
    assert!(error(&bytes[..1024]).contains("partition table"));
}

/// Writes the release of the disk at `image` to `path`, as a build does.
fn release_of(image: &Path, path: &Path) {
    let disk = DiskImage::open(image).unwrap();
    let slot = disk.part(disk.partition(2).unwrap());
    std::fs::create_dir(path).unwrap();
    let mut chunks = File::create(path.join(CHUNKS_FILE)).unwrap();
    let cut = release::write(&mut slot.reader(), slot.size(), &mut chunks, 2).unwrap();
    let index = cut.index.to_bytes();
    let document = Release {
        format: update::FORMAT,
        name: "t".into(),
        version: "1.0.0".parse().unwrap(),
        arch: Arch::X86_64,
        board: "generic".into(),
        minimum_version: None,
        created: EPOCH,
        expires: None,
        kernel_release: "6.1.0".into(),
        slot: cut.slot,
        index: Blob { size: index.len() as u64, sha256: Digest::of(&index) },
        chunks: cut.chunks,
    };
    std::fs::write(path.join(INDEX_FILE), index).unwrap();
    std::fs::write(path.join(RELEASE_FILE), Envelope::new(&document).to_json()).unwrap();
}

/// Two disks that differ in one file, and their releases.
struct Pair {
    directory: tempfile::TempDir,
    cache: Cache,
}

impl Pair {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(&directory.path().join("cache")).unwrap();
        let (mut a, mut b) = (Disk::new(), Disk::new());
        for disk in [&mut a, &mut b] {
            put(&mut disk.root, "usr/bin/large", noise(1, 1 << 20));
        }
        put(&mut b.root, "usr/bin/small", noise(2, 60_000));
        for (name, disk) in [("a", &a), ("b", &b)] {
            let image = disk.write(directory.path(), &format!("{name}.img"));
            release_of(&image, &directory.path().join(format!("{name}-release.update")));
        }
        Pair { directory, cache }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn diff(&self, a: &str, b: &str) -> Result<Difference, OpError> {
        diff(&self.cache, &self.path(a), &self.path(b), 2)
    }
}

fn noise(seed: u64, size: usize) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    let mut bytes = vec![0; size];
    rand::rngs::StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

#[test]
fn an_update_is_measured_alike_from_images_and_from_releases() {
    let pair = Pair::new();
    let images = pair.diff("a.img", "b.img").unwrap().update.unwrap();
    assert!((60_000..400_000).contains(&images.fetched), "{images:?}");
    assert!(images.missing <= images.fetched && images.whole > 1 << 20 && images.requests > 0, "{images:?}");
    for (a, b) in
        [("a-release.update", "b-release.update"), ("a.img", "b-release.update"), ("a-release.update", "b.img")]
    {
        let difference = pair.diff(a, b).unwrap();
        let update = difference.update.unwrap();
        assert_eq!(UpdateSize { release: None, ..update.clone() }, images, "{a} {b}");
        assert_eq!(update.release.is_some(), b.ends_with("update"));
        let [partition] = &difference.partitions[..] else { panic!("{a} {b}") };
        let root = partition.slot.as_ref().unwrap().root.as_ref().unwrap();
        assert_eq!(root.added, [ListedFile { path: "/usr/bin/small".into(), size: 60_000 }], "{a} {b}");
    }
    let left = crate::effects::fs::list(&pair.cache.bucket("tmp")).unwrap();
    assert_eq!(left, Vec::<std::ffi::OsString>::new(), "nothing temporary stays");
}

#[test]
fn a_release_and_its_image_are_equal() {
    let pair = Pair::new();
    let difference = pair.diff("a.img", "a-release.update").unwrap();
    assert_eq!(difference, Difference { equal: true, ..Difference::default() });
}

#[test]
fn the_release_beside_an_image_counts_when_it_is_of_that_image() {
    let pair = Pair::new();
    let fetched = |pair: &Pair| pair.diff("a.img", "b.img").unwrap().update.unwrap();
    let computed = fetched(&pair);
    // Of another image.
    std::fs::rename(pair.path("a-release.update"), pair.path("b.update")).unwrap();
    assert_eq!(fetched(&pair), computed);
    std::fs::remove_dir_all(pair.path("b.update")).unwrap();
    std::fs::rename(pair.path("b-release.update"), pair.path("b.update")).unwrap();
    let beside = fetched(&pair);
    assert!(beside.release.is_some());
    assert_eq!(UpdateSize { release: None, ..beside }, computed);
}

#[test]
fn a_release_that_is_damaged_is_an_error_and_not_a_difference() {
    let change = |file: &str, place: usize| {
        let pair = Pair::new();
        let path = pair.path("b-release.update").join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[place] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = pair.diff("a.img", "b-release.update").unwrap_err();
        assert_eq!(error.problem().exit_code(), 2, "{error}");
        error.to_string().rsplit_once("b-release.update").unwrap().1.to_owned()
    };
    assert_eq!(change(RELEASE_FILE, 0), "/release.json: not the document of a release");
    assert_eq!(change(INDEX_FILE, 40), "/slot.index: not the file that the release has");
    assert!(change(CHUNKS_FILE, 500_000).contains("of the chunk file are not chunk"));
    let pair = Pair::new();
    std::fs::write(pair.path("b-release.update").join(CHUNKS_FILE), "short").unwrap();
    let error = pair.diff("a.img", "b-release.update").unwrap_err().to_string();
    assert!(error.contains("at byte 0 of the chunk file"), "{error}");
}

#[test]
fn packages_are_compared_by_component_and_name() {
    let list = |entries: &[(&str, &str, &str)]| {
        let entry = |(component, name, version): &(&str, &str, &str)| serde_json::json!({ "component": component, "name": name, "version": version });
        serde_json::to_vec(&entries.iter().map(entry).collect::<Vec<_>>()).unwrap()
    };
    let (mut a, mut b) = (Disk::new(), Disk::new());
    put(&mut a.root, packages::PATH, list(&[("base", "libc6", "1"), ("tools", "libc6", "1"), ("old", "old", "3")]));
    put(&mut b.root, packages::PATH, list(&[("base", "libc6", "1.1"), ("tools", "libc6", "1"), ("new", "new", "4")]));
    let slot = compare(&a, &b).partitions.remove(0).slot.unwrap();
    let found: Vec<_> = slot.packages.iter().map(|it| (it.what.as_str(), it.a.as_deref(), it.b.as_deref())).collect();
    let expected = [
        ("package libc6 (base)", Some("1"), Some("1.1")),
        ("package new", None, Some("4")),
        ("package old", Some("3"), None),
    ];
    assert_eq!(found, expected);
    put(&mut b.root, packages::PATH, "not a list");
    assert_eq!(compare(&a, &b).partitions.remove(0).slot.unwrap().packages, []);
}
