//! `verify`: builds a manifest again from nothing but its inputs and compares the result with an image, byte by byte.

use std::fmt;
use std::path::{Path, PathBuf};

use ksos_formats::Digest;

use super::diff::trees;
use super::{LockMode, OpError, Session, Target, build, diff::FileDiff};
use crate::cache::Cache;
use crate::effects::fs::Context;
use crate::image::compare::{first_difference, first_difference_of};
use crate::image::{DiskImage, ImageError, Part, Partition, SLOT_FILES, Slot};
use crate::manifest;
use crate::tree::{Node, Tree};

/// What the comparison found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The image.
    pub image: PathBuf,
    /// Its SHA-256, when a new build gives the same bytes; otherwise where the first difference is.
    pub result: Result<Digest, Mismatch>,
}

/// Where an image differs from what its manifest builds, from the outside to the inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The first byte that differs, from the start of the disk; the size of the smaller one when only sizes differ.
    pub offset: u64,
    /// Sizes of the image and of the new build, when they differ.
    pub sizes: Option<(u64, u64)>,
    /// The first partition that differs; `None` when all differences are outside of them.
    pub partition: Option<PartitionMismatch>,
}

/// Where a partition differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionMismatch {
    /// Number, from 1.
    pub number: u32,
    /// Label.
    pub label: String,
    /// The first byte that differs, from the start of the partition.
    pub offset: u64,
    /// The first file of a system slot that differs.
    pub file: Option<SlotFileMismatch>,
    /// Why it, or the file, could not be looked into.
    pub unreadable: Option<String>,
}

/// Where a file of a slot differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotFileMismatch {
    /// Its name.
    pub name: &'static str,
    /// The first byte that differs; `None` when only one side has the file.
    pub offset: Option<u64>,
    /// The first path that differs in the root file system or the initramfs, with what differs.
    pub inner: Option<(String, String)>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((image, built)) = self.sizes {
            write!(f, "the image has {image} bytes, a new build {built}; ")?;
        }
        write!(f, "the first difference is at byte {} of the disk", self.offset)?;
        let Some(partition) = &self.partition else { return write!(f, "; every partition is the same") };
        write!(f, "\npartition {} {}: byte {}", partition.number, partition.label.escape_debug(), partition.offset)?;
        if let Some(file) = &partition.file {
            match file.offset {
                Some(offset) => write!(f, "\n{}: byte {offset}", file.name)?,
                None => write!(f, "\n{}: only on one side", file.name)?,
            }
            if let Some((path, what)) = &file.inner {
                write!(f, "\n{}: {what}", path.escape_debug())?;
            }
        }
        match &partition.unreadable {
            Some(error) => write!(f, "\n{error}"),
            None => Ok(()),
        }
    }
}

/// Builds `target` again, every step of it, and compares the result with `image` (without one: where `build` would have
/// put it below `out`).
///
/// # Errors
/// What `build` can meet; an image that cannot be read.
pub fn verify(
    session: &Session,
    target: &Target,
    image: Option<&Path>,
    out: &Path,
    lock: LockMode,
) -> Result<Verified, OpError> {
    let image = match image {
        Some(image) => image.to_owned(),
        None => out.join(default_name(target)?),
    };
    let path = session.environment.directory.join(&image);
    // Before a build that takes long.
    crate::effects::fs::open(&path).map_err(ImageError::from)?;
    let target = Target { formats: vec![manifest::OutputFormat::Disk], ..target.clone() };
    let again = build_again(session, &target, lock)?;
    let built = session.environment.directory.join(again.built.disk()?);
    let result = match compare(&session.cache, &path, &built)? {
        Some(mismatch) => Err(mismatch),
        None => Ok(build::hash(&path)?),
    };
    Ok(Verified { image, result })
}

/// Builds what the file at `artifact` is an output of again, and compares the file of that name with it. `manifest` is
/// built, or the one that the provenance beside the file names.
///
/// # Errors
/// [`OpError::NoManifest`]; what `build` can meet; a file that cannot be read.
pub fn rebuild(
    session: &Session,
    artifact: &Path,
    manifest: Option<&Path>,
    target: &Target,
    lock: LockMode,
) -> Result<Verified, OpError> {
    let path = session.environment.directory.join(artifact);
    let statement = super::verify_file::statement_about(&path)?;
    let named = statement.as_ref().and_then(|statement| statement.manifest()).map(PathBuf::from);
    let none = || OpError::NoManifest { path: artifact.to_owned() };
    let manifest = manifest.map(Path::to_owned).or(named).ok_or_else(none)?;
    let arch = target.arch.or(statement.and_then(|statement| statement.arch()));
    let name = path.file_name().unwrap_or_default().to_owned();
    // Formats that the command line asked for are not in the manifest.
    let text = name.to_string_lossy();
    let formats = manifest::OutputFormat::ALL.into_iter().filter(|format| text.ends_with(format.suffix()));
    let formats = formats.max_by_key(|format| format.suffix().len()).into_iter().collect();
    let target = Target { manifest, arch, formats, ..target.clone() };
    let built = build_again(session, &target, lock)?;
    let again = built.directory.path().join(&name);
    if crate::effects::fs::metadata(&again).is_err() {
        let name = name.to_string_lossy().into_owned();
        return Err(OpError::NotBuilt { name, manifest: target.manifest.clone() });
    }
    let is_disk = matches!(
        crate::image::open::open(&session.cache, &again)?,
        crate::image::open::Opened::Disk { compression: None, .. }
    );
    let mismatch = if is_disk { compare(&session.cache, &path, &again)? } else { compare_bytes(&path, &again)? };
    let result = match mismatch {
        Some(mismatch) => Err(mismatch),
        None => Ok(build::hash(&path)?),
    };
    Ok(Verified { image: artifact.to_owned(), result })
}

/// What was built again; it goes with its directory.
struct Again {
    directory: tempfile::TempDir,
    built: build::Built,
}

fn build_again(session: &Session, target: &Target, lock: LockMode) -> Result<Again, OpError> {
    let bucket = session.cache.bucket("tmp");
    let directory = tempfile::tempdir_in(&bucket).context("create a directory in", &bucket)?;
    let options = build::Options {
        out: directory.path().to_owned(),
        fresh: true,
        hash: false,
        lock,
        sign: build::SignOptions::default(),
        invocation_id: None,
    };
    let mut results = build::build(session, std::slice::from_ref(target), &options);
    let built = results.pop().expect("one target gives one result")?;
    Ok(Again { directory, built })
}

/// Compares two files byte by byte.
fn compare_bytes(image: &Path, built: &Path) -> Result<Option<Mismatch>, OpError> {
    let open = |path: &Path| crate::effects::fs::open(path).map_err(ImageError::from);
    let size = |file: &std::fs::File, path: &Path| Ok::<_, OpError>(file.metadata().context("stat", path)?.len());
    let (left, right) = (open(image)?, open(built)?);
    let (a, b) = (size(&left, image)?, size(&right, built)?);
    let found = first_difference(Part::new(&left, 0, a), Part::new(&right, 0, b)).context("compare", image)?;
    let sizes = (a != b).then_some((a, b));
    let offset = found.or(sizes.map(|(a, b)| a.min(b)));
    Ok(offset.map(|offset| Mismatch { offset, sizes, partition: None }))
}

fn default_name(target: &Target) -> Result<String, OpError> {
    // The name alone is wanted; the build says what is missing.
    let files = manifest::DiskWithout { all: true, ..Default::default() };
    let loaded = manifest::load(&target.manifest, target.arch, &files)?;
    let image = &loaded.manifest.image;
    Ok(format!("{}-{}-{}.img", image.name, image.version, loaded.arch))
}

/// Compares `image` with the new build `built`; `None` when they have the same bytes.
///
/// # Errors
/// When one of them cannot be read, or `built` is no disk image.
pub fn compare(cache: &Cache, image: &Path, built: &Path) -> Result<Option<Mismatch>, OpError> {
    let built = DiskImage::open(built)?;
    let file = crate::effects::fs::open(image).map_err(ImageError::from)?;
    let size = file.metadata().context("stat", image).map_err(ImageError::from)?.len();
    let whole = Part::new(&file, 0, size);
    let found = first_difference(built.whole(), whole).context("compare", image).map_err(ImageError::from)?;
    let sizes = (size != built.size).then_some((size, built.size));
    let offset = match (found, sizes) {
        (Some(offset), _) => offset,
        (None, Some((image, built))) => image.min(built),
        (None, None) => return Ok(None),
    };
    Ok(Some(Mismatch { offset, sizes, partition: partition(cache, &built, image, whole)? }))
}

/// Returns the first partition of `built` that differs from the same bytes of the image.
fn partition(
    cache: &Cache,
    built: &DiskImage,
    image: &Path,
    whole: Part<'_>,
) -> Result<Option<PartitionMismatch>, OpError> {
    for partition in &built.partitions {
        let old = whole.slice(partition.offset, partition.size);
        let found = first_difference(built.part(partition), old).context("compare", image).map_err(ImageError::from)?;
        let cut = (old.size() < partition.size).then_some(old.size());
        let Some(offset) = found.or(cut) else { continue };
        let (number, label) = (partition.number, partition.label.clone());
        let mut mismatch = PartitionMismatch { number, label, offset, file: None, unreadable: None };
        // The difference is what was asked for; why it cannot be explained is a part of the answer.
        if let Err(error) = slot_file(cache, image, built, partition, &mut mismatch.file) {
            mismatch.unreadable = Some(error.to_string());
        }
        return Ok(Some(mismatch));
    }
    Ok(None)
}

/// Finds the first file that differs in the slot in `partition`; none when it is no slot, or no file differs. What was
/// found before an error stays in `found`.
fn slot_file(
    cache: &Cache,
    image: &Path,
    built: &DiskImage,
    partition: &Partition,
    found: &mut Option<SlotFileMismatch>,
) -> Result<(), OpError> {
    let Some(new) = Slot::open(built, partition)? else { return Ok(()) };
    let image = DiskImage::open(image)?;
    let Some(old) = image.partition(partition.number) else { return Ok(()) };
    let Some(old) = Slot::open(&image, old)? else { return Ok(()) };
    for name in SLOT_FILES {
        let (mut left, mut right) = match (old.file(name)?, new.file(name)?) {
            (Some(left), Some(right)) => (left, right),
            (None, None) => continue,
            _ => {
                *found = Some(SlotFileMismatch { name, offset: None, inner: None });
                return Ok(());
            }
        };
        let offset = first_difference_of(&mut left, &mut right).map_err(|error| old.at(name, error.into()))?;
        if offset.is_some() {
            let file = found.insert(SlotFileMismatch { name, offset, inner: None });
            file.inner = trees(cache, name, &old, &new, inner)?.flatten();
            return Ok(());
        }
    }
    Ok(())
}

/// Returns the first path that differs, with what differs, and the first byte when it is the content.
fn inner(old: &Tree, new: &Tree) -> Result<Option<(String, String)>, OpError> {
    let diff = FileDiff::of(old, new);
    let Some((path, what)) = diff.first() else { return Ok(time(old, new)) };
    let what = match what.as_str() {
        "only in the first" => "only in the image".to_owned(),
        "only in the second" => "only in the new build".to_owned(),
        _ => what,
    };
    let relative = path.trim_start_matches('/');
    let content = |tree: &Tree| match tree.get(relative).map(|entry| tree.resolve_link(entry).node.clone()) {
        Some(Node::File(content)) => Some(content),
        _ => None,
    };
    if let (Some(left), Some(right)) = (content(old), content(new))
        && left != right
    {
        let open = || first_difference_of(&mut left.open()?, &mut right.open()?);
        let offset = open().context("compare", Path::new(path))?;
        return Ok(Some((path.to_owned(), format!("{what}, byte {}", offset.unwrap_or(0)))));
    }
    Ok(Some((path.to_owned(), what)))
}

/// Returns the first path that differs in its time.
fn time(old: &Tree, new: &Tree) -> Option<(String, String)> {
    let differs = |path: &str, mtime| new.get(path).is_some_and(|entry| entry.meta.mtime != mtime);
    let (path, entry) = old.iter().find(|(path, entry)| differs(path, entry.meta.mtime))?;
    let new = new.get(path).map_or(0, |entry| entry.meta.mtime);
    Some((format!("/{path}"), format!("modification time {} and {new}", entry.meta.mtime)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::super::diff::tests::{Disk, put};
    use super::*;

    struct Pair {
        _directory: tempfile::TempDir,
        cache: Cache,
        image: PathBuf,
        built: PathBuf,
    }

    impl Pair {
        fn new(image: &Disk, built: &Disk) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let cache = Cache::open(&directory.path().join("cache")).unwrap();
            let (image, built) = (image.write(directory.path(), "image"), built.write(directory.path(), "built"));
            Pair { _directory: directory, cache, image, built }
        }

        fn text(&self) -> Option<String> {
            compare(&self.cache, &self.image, &self.built).unwrap().map(|mismatch| {
                // All but the first line: its offset is that of an inode's checksum.
                mismatch.to_string().split_once('\n').map_or_else(|| mismatch.to_string(), |(_, rest)| rest.to_owned())
            })
        }

        fn file_lines(&self) -> Vec<String> {
            self.text().unwrap().lines().skip(1).map(str::to_owned).collect()
        }
    }

    #[test]
    fn the_same_bytes_are_no_mismatch() {
        assert_eq!(Pair::new(&Disk::new(), &Disk::new()).text(), None);
    }

    #[test]
    fn the_first_file_that_differs_is_named_with_the_byte() {
        let kernel = Disk { kernel: b"the kernal", ..Disk::new() };
        assert_eq!(Pair::new(&kernel, &Disk::new()).file_lines(), ["vmlinuz: byte 8"]);
        let mut root = Disk::new();
        put(&mut root.root, "usr/bin/a", "b");
        put(&mut root.root, "etc/hosts", "127.0.0.2 localhost\n");
        let lines = Pair::new(&root, &Disk::new()).file_lines();
        assert!(lines[0].starts_with("root.squashfs: byte "), "{lines:?}");
        assert_eq!(lines[1..], ["/etc/hosts: content, byte 8"]);
        let mut initramfs = Disk::new();
        put(&mut initramfs.initramfs, "init", "the First process");
        let lines = Pair::new(&initramfs, &Disk::new()).file_lines();
        assert!(lines[0].starts_with("kubesolo-os.gz: byte "), "{lines:?}");
        assert_eq!(lines[1..], ["/init: content, byte 4"]);
        let mut added = Disk::new();
        put(&mut added.root, "etc/extra", "x");
        assert_eq!(Pair::new(&added, &Disk::new()).file_lines()[1..], ["/etc/extra: only in the image"]);
        assert_eq!(Pair::new(&Disk::new(), &added).file_lines()[1..], ["/etc/extra: only in the new build"]);
        let mut time = Disk::new();
        time.root.get_mut("etc/motd").unwrap().meta.mtime = 5;
        let lines = Pair::new(&time, &Disk::new()).file_lines();
        assert_eq!(lines[1..], ["/etc/motd: modification time 5 and 1700000000"]);
    }

    #[test]
    fn a_partition_without_files_is_named_with_the_byte() {
        let pair = Pair::new(&Disk::new(), &Disk::new());
        let file = File::options().write(true).open(&pair.image).unwrap();
        file.write_all_at(b"x", (1 << 20) + 5).unwrap();
        assert_eq!(pair.text().unwrap(), "partition 1 ESP: byte 5");
        // In the boot code of the protective MBR.
        file.write_all_at(b"x", 7).unwrap();
        assert_eq!(pair.text().unwrap(), "partition 1 ESP: byte 5");
        file.write_all_at(&[0], (1 << 20) + 5).unwrap();
        let text = pair.text().unwrap();
        assert_eq!(text, "the first difference is at byte 7 of the disk; every partition is the same");
    }

    #[test]
    fn a_file_that_cannot_be_looked_into_is_named_all_the_same() {
        let pair = Pair::new(&Disk::new(), &Disk::new());
        let bytes = crate::effects::fs::read(&pair.image, 1 << 30).unwrap();
        let root = bytes.windows(4).position(|window| window == b"hsqs").unwrap() as u64;
        // The compression in the superblock (SquashFS 4.0).
        File::options().write(true).open(&pair.image).unwrap().write_all_at(&[0xff; 2], root + 20).unwrap();
        let lines = pair.file_lines();
        assert_eq!((lines.len(), lines[0].as_str()), (2, "root.squashfs: byte 20"));
        assert!(lines[1].contains("root.squashfs: "), "{lines:?}");
    }

    #[test]
    fn an_image_that_is_cut_off_is_a_mismatch() {
        let pair = Pair::new(&Disk::new(), &Disk::new());
        let built = DiskImage::open(&pair.built).unwrap().size;
        File::options().write(true).open(&pair.image).unwrap().set_len(built - 512).unwrap();
        let mismatch = compare(&pair.cache, &pair.image, &pair.built).unwrap().unwrap();
        assert_eq!((mismatch.offset, mismatch.sizes), (built - 512, Some((built - 512, built))));
    }
}
