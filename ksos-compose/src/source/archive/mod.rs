//! Archives, images and host directories become trees.
//!
//! A format reader ([`tar`], [`cpio`], [`zip`], [`squashfs`]) finds entries; the `builder` checks each against the
//! [`Policy`] and the [`Limits`] and streams its content into one pack of the cache. An archive gives a whole tree or
//! an error that names the entry and its fault; nothing is ever written to a path that an archive names, so the worst
//! that a hostile archive can do is to fail. [`directory`] reads a directory of the host, [`select`] picks and moves
//! parts of a tree, [`merge`] puts one tree over another.
//!
//! Limits of all formats: names are UTF-8; times are clamped to 1970..2106 in whole seconds, what every writer
//! can hold; symbolic links have mode 0777.

mod builder;
mod cpio;
pub mod directory;
mod error;
pub mod merge;
pub mod select;
mod squashfs;
mod stream;
mod tar;
mod zip;

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use builder::Builder;
pub use error::{ArchiveError, Fault};
use error::{Failure, Step};
pub use squashfs::{Look, look};
use stream::{Capped, Decompressed, Source};

use crate::cache::{Blob, Cache};
use crate::effects::fs;
use crate::tree::index::TreeIndex;
use crate::tree::pack::FinishedPack;
use crate::tree::{Meta, Tree};

/// A compression around an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// None.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// xz.
    Xz,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// The format of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One regular file, taken as it is: a tree that holds it under its own name, mode 0755.
    Plain,
    /// tar: ustar, PAX and GNU (POSIX.1-2017 `pax`; GNU tar manual, "Basic Tar Format").
    Tar(Compression),
    /// cpio, formats newc and crc. Any number of archives one after another, each compressed in its own way, as in
    /// an initramfs (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`); the compression is that of
    /// the first.
    Cpio(Compression),
    /// zip, methods stored and deflate (PKWARE APPNOTE).
    Zip,
    /// SquashFS 4.0, compressed with gzip, xz or zstd.
    SquashFs,
}

impl Format {
    /// Returns the format that a file name's ending stands for; `None` for an unknown one.
    pub fn of_name(name: &str) -> Option<Format> {
        let name = name.to_ascii_lowercase();
        let name = name.rsplit('/').next().unwrap_or(&name);
        let short = [(".tgz", Compression::Gzip), (".txz", Compression::Xz), (".tzst", Compression::Zstd)];
        if let Some((_, compression)) = short.iter().find(|(suffix, _)| name.ends_with(suffix)) {
            return Some(Format::Tar(*compression));
        }
        let long = [(".gz", Compression::Gzip), (".xz", Compression::Xz), (".zst", Compression::Zstd)];
        let packed = long.iter().find_map(|(suffix, kind)| Some((name.strip_suffix(suffix)?, *kind)));
        let (stem, compression) = packed.unwrap_or((name, Compression::None));
        match stem.rsplit_once('.')?.1 {
            "tar" => Some(Format::Tar(compression)),
            "cpio" => Some(Format::Cpio(compression)),
            "zip" if compression == Compression::None => Some(Format::Zip),
            "squashfs" | "sqfs" if compression == Compression::None => Some(Format::SquashFs),
            _ => None,
        }
    }

    /// The names that [`Format::from_str`](std::str::FromStr) takes.
    pub const NAMES: [&str; 11] =
        ["file", "tar", "tar.gz", "tar.xz", "tar.zst", "cpio", "cpio.gz", "cpio.xz", "cpio.zst", "zip", "squashfs"];
}

/// A text that names no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an archive format; there are {}", Format::NAMES.join(", "))]
pub struct UnknownFormat {
    /// The text.
    pub text: String,
}

impl std::str::FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Format::NAMES.contains(&text);
        let format = if text == "file" { Some(Format::Plain) } else { Format::of_name(&format!("x.{text}")) };
        format.filter(|_| known).ok_or_else(|| UnknownFormat { text: text.to_owned() })
    }
}

/// What an archive may unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all contents, extended attributes and the like together.
    pub total: u64,
    /// Entries, directories that exist only as parents included.
    pub entries: usize,
    /// Bytes of one file.
    pub file: u64,
}

impl Default for Limits {
    /// 8 GiB in all, 4 GiB in one file, a million entries.
    fn default() -> Self {
        Limits { total: 8 << 30, entries: 1_000_000, file: 4 << 30 }
    }
}

/// Whose the entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// As in the archive.
    Keep,
    /// User and group 0.
    Root,
}

/// What an archive may hold. What is not allowed is an error, never left out in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Device nodes, FIFOs and sockets.
    pub allow_devices: bool,
    /// Set-user-ID and set-group-ID files and file capabilities. (Set-group-ID directories always may be.)
    pub allow_setid: bool,
    /// Whose the entries are.
    pub owner: Owner,
}

/// An archive that is unpacked into the cache.
#[derive(Debug)]
pub struct Unpacked {
    /// The entries.
    pub tree: Tree,
    /// The contents.
    pub pack: FinishedPack,
}

impl Unpacked {
    /// Puts the [`TreeIndex`] of the tree into the cache beside the pack, and returns its blob. Both together are
    /// the stored form of the tree: [`load`] reads it back.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub fn store(&self, cache: &Cache) -> Result<Blob, crate::cache::CacheError> {
        let index = TreeIndex::from_tree(&self.tree, self.pack.blob.digest);
        cache.insert(&serde_json::to_vec(&index).expect("a tree index has string keys only"))
    }
}

/// Reads back what [`Unpacked::store`] wrote. `None` when the index or its pack is missing or damaged: redo it.
pub fn load(cache: &Cache, index: &ksos_formats::Digest) -> Option<Tree> {
    let blob = cache.blob(index, None)?;
    let bytes = blob.read(1 << 30).ok()?;
    let index: TreeIndex = serde_json::from_slice(&bytes).ok()?;
    if index.format != crate::tree::index::FORMAT {
        return None;
    }
    let pack = cache.blob(&index.pack, None)?;
    index.into_tree(&pack.path).ok()
}

/// Unpacks the archive at `path` into the cache.
///
/// # Errors
/// [`ArchiveError`]: the archive is not of the format, damaged, hostile, or over a limit.
pub fn unpack(
    cache: &Cache,
    path: &Path,
    format: Format,
    policy: &Policy,
    limits: &Limits,
) -> Result<Unpacked, ArchiveError> {
    let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    unpack_as(cache, path, &file_name, format, policy, limits)
}

/// As [`unpack`], for an archive whose path (a blob in the cache) is not its name. `file_name` is used for
/// [`Format::Plain`] only.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_as(
    cache: &Cache,
    path: &Path,
    file_name: &str,
    format: Format,
    policy: &Policy,
    limits: &Limits,
) -> Result<Unpacked, ArchiveError> {
    let work = || {
        let mut builder = Builder::new(cache, policy, limits)?;
        let mut file = fs::open(path)?;
        match format {
            Format::Plain => builder.file(file_name, Meta::root(0o755, 0), &mut file)?,
            Format::Tar(compression) => read_tar(&mut file, compression, &mut builder, limits)?,
            Format::Cpio(compression) => cpio::read(&mut file, compression, &mut builder, limits)?,
            Format::Zip => zip::read(file, &mut builder, limits)?,
            Format::SquashFs => squashfs::read(&file, &mut builder, limits)?,
        }
        let (tree, pack) = builder.finish()?;
        Ok(Unpacked { tree, pack })
    };
    work().map_err(|failure: Failure| failure.named(path.display().to_string()))
}

/// Unpacks an uncompressed tar archive, such as the `data.tar` of a `.deb` package. `name` is for messages.
/// Reads to the end of `reader`.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_tar(
    cache: &Cache,
    reader: &mut dyn Read,
    name: &str,
    policy: &Policy,
    limits: &Limits,
) -> Result<Unpacked, ArchiveError> {
    let work = || {
        let mut builder = Builder::new(cache, policy, limits)?;
        tar::read(&mut Capped::new(reader, limits), &mut builder)?;
        let (tree, pack) = builder.finish()?;
        Ok(Unpacked { tree, pack })
    };
    work().map_err(|failure: Failure| failure.named(name))
}

fn read_tar(file: &mut File, compression: Compression, builder: &mut Builder<'_>, limits: &Limits) -> Step<()> {
    let mut source = Source::new(file);
    check_magic(&mut source, compression)?;
    if compression == Compression::None {
        return tar::read(&mut source, builder);
    }
    let decompressed = Decompressed::new(compression, &mut source)?;
    tar::read(&mut Capped::new(decompressed, limits), builder)?;
    stream::expect_zeros(&mut source)
}

/// Checks that data begins with the magic of `compression`.
fn check_magic<R: Read>(source: &mut Source<R>, compression: Compression) -> Result<(), Fault> {
    let start = source.peek(16).map_err(Fault::from_read)?;
    let expected = match compression {
        Compression::None => return Ok(()),
        Compression::Gzip => "gzip data",
        Compression::Xz => "xz data",
        Compression::Zstd => "zstd data",
    };
    match stream::compression_of(start) == compression {
        true => Ok(()),
        false => Err(Fault::NotThisFormat { expected, found: stream::describe(start) }),
    }
}

/// Returns the size of an open file in bytes.
fn file_size(file: &mut File) -> Result<u64, Fault> {
    let size = file.seek(std::io::SeekFrom::End(0)).map_err(Fault::Read)?;
    file.rewind().map_err(Fault::Read)?;
    Ok(size)
}

/// Clamps a time to what every writer can hold: 1970 to 2106.
fn clamp_time(seconds: i64) -> i64 {
    seconds.clamp(0, i64::from(u32::MAX))
}

#[cfg(test)]
pub(in crate::source) mod tests;
