//! SquashFS 4.0 writer.
//!
//! Layout of an image, in file order (Linux `fs/squashfs/squashfs_fs.h`, squashfs-tools' format description):
//!
//! ```text
//! superblock (96 bytes) | compressor options, unless they are the defaults
//! data blocks of the files of a block or more | fragment blocks: whole files smaller than a block, packed
//! inode table | directory table | fragment table | export table | ID table | xattr tables | zeros to 4 KiB
//! ```
//!
//! A write has three steps. [`model`] gives every inode its number; [`data`] writes file contents through a pool of
//! compressing threads, and takes from a [`BlockCache`] what was compressed before, without reading the sources;
//! [`tables`] writes the metadata. Files with the same digest are stored once.
//!
//! Memory: a few blocks per thread for content, plus what the tree itself needs per file, whatever the image size.
//! The bytes depend on the tree and the options alone, not on the number of threads or on what the cache holds.
//!
//! Limits of the format, each refused with the path: extended attributes other than `user.`, `trusted.` and
//! `security.`; device numbers above 12 bit (major) and 20 bit (minor); 65,535 different owners.

mod cache;
mod codec;
mod data;
mod directory;
mod inode;
mod metadata;
mod model;
mod packing;
mod superblock;
mod tables;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod xattr;

use std::io::{self, Seek, SeekFrom, Write};

use crate::tree::Tree;

pub use cache::{BlockCache, DirectoryBlockCache, NoBlockCache, PendingBlocks, StoredBlocks};

/// How blocks and metadata are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Zstandard at this level, 1 to 22. The level that squashfs-tools and this project take by default is 15.
    Zstd(u8),
    /// XZ (LZMA2, preset 6, dictionary of one block).
    Xz,
    /// Deflate in zlib framing at this level, 1 to 9.
    Gzip(u8),
    /// Everything is stored as it is.
    None,
}

/// How an image is written.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Compression of blocks and metadata.
    pub compression: Compression,
    /// Block size in bytes: a power of two, 4 KiB to 1 MiB.
    pub block_size: u32,
    /// Seconds since 1970: the image's own time, and the latest modification time of an entry.
    pub epoch: u32,
    /// Number of compressing threads; 0 counts as 1.
    pub workers: usize,
    /// Where compressed blocks are kept between builds; [`NoBlockCache`] for none.
    pub cache: &'a dyn BlockCache,
    /// Called after every block with the bytes of file content that were written so far, uncompressed.
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Size of the image in bytes, the padding to 4 KiB included.
    pub size: u64,
    /// Number of inodes.
    pub inodes: u32,
    /// Different file contents, in bytes; duplicates counted once.
    pub content_bytes: u64,
    /// The part of `content_bytes` that came compressed from the cache.
    pub cached_bytes: u64,
}

/// An image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// [`Options::block_size`] is not allowed.
    #[error("block size {0} is not a power of two from 4096 to 1048576")]
    BlockSize(u32),
    /// The level in [`Options::compression`] is not allowed.
    #[error("{compression:?}: levels are 1 to {maximum}")]
    Level {
        /// The setting.
        compression: Compression,
        /// Highest level of the format.
        maximum: u8,
    },
    /// The tree has no root directory, or an entry lies below something that is no directory.
    #[error("/{path}: the parent is not a directory in the tree")]
    Parent {
        /// The entry.
        path: String,
    },
    /// A hard link's target is not a regular file in the tree.
    #[error("/{path}: hard link to {target:?}, which is not a regular file in the tree")]
    HardLink {
        /// The link.
        path: String,
        /// Its target.
        target: String,
    },
    /// A symbolic link's target is empty or longer than 4095 bytes.
    #[error("/{path}: the target of a symbolic link must have 1 to 4095 bytes, this one has {length}")]
    SymlinkTarget {
        /// The link.
        path: String,
        /// Length of its target in bytes.
        length: usize,
    },
    /// A device number does not fit.
    #[error("/{path}: device number {major}:{minor} is above 4095:1048575")]
    Device {
        /// The device node.
        path: String,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// An extended attribute that SquashFS cannot hold.
    #[error("/{path}: extended attribute {name:?} cannot be stored: {reason}")]
    Xattr {
        /// The entry.
        path: String,
        /// Full name of the attribute.
        name: String,
        /// What the format does not allow.
        reason: &'static str,
    },
    /// Something has more parts than the format can count.
    #[error("the image has more than {maximum} {what}")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many the format allows.
        maximum: u64,
    },
    /// File content does not have the digest or size that the tree says.
    #[error("/{path}: the content changed during the build")]
    Changed {
        /// The file.
        path: String,
    },
    /// File content cannot be read.
    #[error("/{path}: cannot read the content: {source}")]
    Read {
        /// The file.
        path: String,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// The compressor failed.
    #[error("cannot compress a block: {0}")]
    Compress(#[source] io::Error),
    /// Blocks that the cache had checked cannot be read any more.
    #[error("cannot read compressed blocks from the cache: {0}")]
    Cache(#[source] io::Error),
    /// The image cannot be written.
    #[error("cannot write the SquashFS image: {0}")]
    Write(#[from] io::Error),
}

/// Writes `tree` as a SquashFS image to `out`, from its current position on, and leaves `out` at the image's end.
///
/// # Errors
/// See [`Error`]. After an error `out` holds an incomplete image, without a superblock.
pub fn write<W: Write + Seek>(tree: &Tree, out: &mut W, options: &Options<'_>) -> Result<Summary, Error> {
    check(options)?;
    let model = model::Model::new(tree)?;
    let base = out.stream_position()?;
    let mut out = Output { out, base, position: 0 };
    out.write(&[0; superblock::SIZE])?;
    if let Some(block) = codec::options_block(options.compression) {
        out.write(&block)?;
    }
    let contents = data::write(tree, &mut out, options)?;
    let mut superblock = tables::write(&model, &contents, &mut out, options)?;
    superblock.bytes_used = out.position;
    out.pad(4096)?;
    out.finish(&superblock.encode())?;
    Ok(Summary {
        size: out.position,
        inodes: superblock.inodes,
        content_bytes: contents.content_bytes,
        cached_bytes: contents.cached_bytes,
    })
}

fn check(options: &Options<'_>) -> Result<(), Error> {
    let size = options.block_size;
    if !size.is_power_of_two() || !(4096..=1 << 20).contains(&size) {
        return Err(Error::BlockSize(size));
    }
    let (level, maximum) = match options.compression {
        Compression::Zstd(level) => (level, 22),
        Compression::Gzip(level) => (level, 9),
        Compression::Xz | Compression::None => return Ok(()),
    };
    if !(1..=maximum).contains(&level) {
        return Err(Error::Level { compression: options.compression, maximum });
    }
    Ok(())
}

/// The image being written: counts positions from the image's start.
struct Output<'a, W> {
    out: &'a mut W,
    base: u64,
    position: u64,
}

impl<W: Write + Seek> Output<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Writes zeros up to the next multiple of `alignment` (at most 4096).
    fn pad(&mut self, alignment: u64) -> io::Result<()> {
        let missing = self.position.next_multiple_of(alignment) - self.position;
        self.write(&[0; 4096][..missing as usize])
    }

    /// Puts the superblock into its place and returns to the end.
    fn finish(&mut self, superblock: &[u8]) -> io::Result<()> {
        self.out.seek(SeekFrom::Start(self.base))?;
        self.out.write_all(superblock)?;
        self.out.seek(SeekFrom::Start(self.base + self.position))?;
        self.out.flush()
    }
}
