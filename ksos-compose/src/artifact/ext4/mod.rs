//! Writes ext4 file systems in a single pass over the contents: 4 KiB blocks, journal, extents, metadata checksums,
//! 64-bit block numbers, flexible groups, hashed directories, extended attributes.
//!
//! [`write()`] numbers the inodes of a [`Tree`], arranges the directories in memory, and then writes in ascending blocks:
//! journal, directories and small metadata, file contents as they stream. Inode tables, bitmaps, descriptors and
//! superblocks come last. Nothing is written where the file system is zero (unused inode tables, free blocks, the log
//! of the journal, blocks of zeros in files), so the output has holes there.
//!
//! - The output must read as zeros from where it is positioned, for `size` bytes: a new file, or a hole in a disk image.
//! - Memory: a few buffers of 512 KiB, 256 bytes for each inode, the names of the tree, one directory at a time, and 32
//!   bytes for each extent of one file at a time.
//! - The same tree and options give the same bytes. Modification and access times are the tree's, change and creation
//!   times are [`Options::epoch`].
//! - Inode 11 is `lost+found`, which is made when the tree has none; the others follow in the order of the paths.
//! - The file system cannot be grown on-line (no `resize_inode`), has no `orphan_file`, `large_dir`, `inline_data`,
//!   `ea_inode` or `metadata_csum_seed`: GRUB 2.06 and Linux 4.4 read it.
//! - Limits: 16 TiB of file system and file, 65,000 names of a file, 4 KiB of extended attributes of an entry, 258,570
//!   blocks of a directory, times from 1901 to 2446.
//!
//! The format is described in the kernel's documentation, "ext4 data structures and algorithms".

mod attribute;
mod bytes;
mod content;
mod crc32c;
mod directory;
mod extent;
mod geometry;
mod hash;
mod inode;
mod output;
mod plan;
mod superblock;
#[cfg(test)]
mod tests;
mod writer;

use std::io::{self, Seek, Write};

use extent::Allocator;
use geometry::{BLOCK, BLOCKS_PER_GROUP, Geometry};
use plan::{Defaults, Plan};
use writer::Writer;

use crate::tree::{Tree, TreeError};

/// The smallest journal that the kernel accepts, in bytes.
pub const MINIMUM_JOURNAL: u64 = 1024 * BLOCK as u64;
/// The largest journal that mke2fs makes, in bytes.
pub const MAXIMUM_JOURNAL: u64 = 10_240_000 * BLOCK as u64;
/// The longest label, in bytes.
pub const MAXIMUM_LABEL: usize = 16;

/// What a file system is like beyond its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Size of the file system in bytes, a multiple of 4096.
    pub size: u64,
    /// Volume label, at most [`MAXIMUM_LABEL`] bytes.
    pub label: String,
    /// UUID, not nil; also the seed of the checksums.
    pub uuid: [u8; 16],
    /// Seed of the directory hash, as a UUID.
    pub hash_seed: [u8; 16],
    /// Time of creation in seconds since 1970.
    pub epoch: u64,
    /// Size of the journal in bytes, a multiple of 4096; 0 for none; `None` for what mke2fs takes for the size.
    pub journal: Option<u64>,
    /// Percentage of the blocks that only root may use, at most 50.
    pub reserved_percent: u8,
    /// Number of inodes, rounded up to whole blocks; `None` for one for each 16 KiB, and as many as the tree has.
    pub inodes: Option<u32>,
}

impl Options {
    /// Returns options with default journal and inodes, and no reserved blocks.
    pub fn new(size: u64, label: &str, uuid: [u8; 16], hash_seed: [u8; 16], epoch: u64) -> Self {
        Options {
            size,
            label: label.to_owned(),
            uuid,
            hash_seed,
            epoch,
            journal: None,
            reserved_percent: 0,
            inodes: None,
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.label.len() > MAXIMUM_LABEL || self.label.contains('\0') {
            return Err(Error::Label { label: self.label.clone() });
        }
        if self.uuid == [0; 16] {
            return Err(Error::NilUuid);
        }
        if i64::try_from(self.epoch).map_or(true, |epoch| !inode::TIMES.contains(&epoch)) {
            return Err(Error::EpochOutOfRange { epoch: self.epoch });
        }
        if self.reserved_percent > 50 {
            return Err(Error::ReservedPercent { percent: self.reserved_percent });
        }
        match self.journal {
            None | Some(0) => Ok(()),
            Some(bytes) if (MINIMUM_JOURNAL..=MAXIMUM_JOURNAL).contains(&bytes) && bytes % BLOCK as u64 == 0 => Ok(()),
            Some(size) => Err(Error::JournalSize { size }),
        }
    }
}

/// What a written file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Blocks of 4096 bytes. Less than the size when a remainder is too small for a group of its own.
    pub blocks: u64,
    /// Free blocks.
    pub free_blocks: u64,
    /// Inodes.
    pub inodes: u32,
    /// Free inodes.
    pub free_inodes: u32,
    /// Blocks of the journal.
    pub journal_blocks: u64,
}

/// A tree that cannot be written as an ext4 file system.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The size is not a multiple of 4096.
    #[error("the file system size of {size} bytes is not a multiple of 4096")]
    SizeNotWholeBlocks {
        /// In bytes.
        size: u64,
    },
    /// The size does not hold even an empty file system.
    #[error("the file system size of {size} bytes is too small for an ext4 file system")]
    SizeTooSmall {
        /// In bytes.
        size: u64,
    },
    /// The size is more than this writer does.
    #[error("the file system size of {size} bytes is over the limit of {limit} bytes")]
    SizeTooLarge {
        /// In bytes.
        size: u64,
        /// In bytes.
        limit: u64,
    },
    /// The label is too long or has a NUL byte.
    #[error("the file system label {label:?} is longer than {MAXIMUM_LABEL} bytes or has a NUL byte")]
    Label {
        /// The label.
        label: String,
    },
    /// The UUID is nil, which e2fsck takes for a missing one.
    #[error("the file system UUID is nil")]
    NilUuid,
    /// The time of creation is after the year 2446.
    #[error("the epoch {epoch} is out of the range of ext4 times")]
    EpochOutOfRange {
        /// In seconds since 1970.
        epoch: u64,
    },
    /// The share of reserved blocks is over 50 %.
    #[error("{percent} % of reserved blocks is over the limit of 50 %")]
    ReservedPercent {
        /// The share.
        percent: u8,
    },
    /// The journal size is out of range or no multiple of 4096.
    #[error(
        "the journal size of {size} bytes is not a multiple of 4096 from {MINIMUM_JOURNAL} to {MAXIMUM_JOURNAL}, or 0"
    )]
    JournalSize {
        /// In bytes.
        size: u64,
    },
    /// More inodes are asked for than groups can have.
    #[error("{inodes} inodes are over the limit of {limit} for this size")]
    TooManyInodes {
        /// Asked for, or needed.
        inodes: u64,
        /// The most that the size allows.
        limit: u64,
    },
    /// The tree needs more inodes than were asked for.
    #[error("the tree needs {needed} inodes (11 of them reserved), the file system has {available}")]
    TooFewInodes {
        /// Of the tree, with the reserved ones.
        needed: u64,
        /// Of the file system.
        available: u64,
    },
    /// The tree has 2^32 entries or more.
    #[error("the tree has more entries than ext4 has inode numbers")]
    TooManyEntries,
    /// The tree does not fit.
    #[error(
        "the tree needs {needed_blocks} blocks of 4096 bytes, the file system has {available_blocks} besides its own \
         structures"
    )]
    NoSpace {
        /// Of contents, directories, extended attributes and journal.
        needed_blocks: u64,
        /// Of the file system, without its fixed structures.
        available_blocks: u64,
    },
    /// A path of the tree is not valid.
    #[error(transparent)]
    Path(#[from] TreeError),
    /// An entry other than a directory is where a directory must be: the root, `lost+found`, or a parent.
    #[error("{path:?} is not a directory")]
    NotDirectory {
        /// The entry.
        path: String,
    },
    /// The tree has an entry without its parent.
    #[error("the tree has {path:?}, but not its parent directory")]
    ParentMissing {
        /// The entry.
        path: String,
    },
    /// A hard link to something that is not a regular file in the tree.
    #[error("hard link {path:?} points to {target:?}, which is not a regular file in the tree")]
    HardLinkTarget {
        /// The link.
        path: String,
        /// Its target.
        target: String,
    },
    /// A file has more names than an inode can count.
    #[error("{path:?} has {count} names, the limit is {limit}")]
    TooManyLinks {
        /// The file.
        path: String,
        /// Its names.
        count: u32,
        /// The most there can be.
        limit: u32,
    },
    /// A directory has more entries than a hash tree of two levels can hold.
    #[error("directory {path:?} has {count} entries, which is more than two levels of a hash tree can hold")]
    DirectoryTooLarge {
        /// The directory.
        path: String,
        /// Its entries.
        count: usize,
    },
    /// A file is larger than 16 TiB.
    #[error("{path:?} has {size} bytes, the limit is {limit}")]
    FileTooLarge {
        /// The file.
        path: String,
        /// In bytes.
        size: u64,
        /// In bytes.
        limit: u64,
    },
    /// A symbolic link target is empty, too long, or has a NUL byte.
    #[error("the target of symbolic link {path:?} has {length} bytes; it must have 1 to {limit}, and no NUL byte")]
    SymlinkTarget {
        /// The link.
        path: String,
        /// In bytes.
        length: usize,
        /// In bytes.
        limit: usize,
    },
    /// A device number is larger than the kernel's 12 and 20 bits.
    #[error("device {path:?} has the number {major}:{minor}, the limit is 4095:1048575")]
    DeviceNumber {
        /// The device.
        path: String,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A modification time is before 1901 or after 2446.
    #[error("{path:?} has the modification time {mtime}, which is out of the range of ext4 times")]
    TimeOutOfRange {
        /// The entry.
        path: String,
        /// In seconds since 1970.
        mtime: i64,
    },
    /// An extended attribute cannot be stored.
    #[error("extended attribute {name:?} of {path:?} cannot be stored: {reason}")]
    Attribute {
        /// The entry.
        path: String,
        /// The attribute.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// The extended attributes of an entry need more than the inode and one block.
    #[error("the extended attributes of {path:?} do not fit in the inode and one block of {limit} bytes")]
    AttributesTooLarge {
        /// The entry.
        path: String,
        /// Bytes of names and values that a block can have.
        limit: usize,
    },
    /// The content of a file cannot be read.
    #[error("cannot read the content of {path:?}: {source}")]
    Content {
        /// The file in the tree.
        path: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The content of a file ends before its size.
    #[error("the content of {path:?} is shorter than its {size} bytes: it changed while the image was built")]
    ContentShort {
        /// The file in the tree.
        path: String,
        /// In bytes, as the tree says.
        size: u64,
    },
    /// The content of a file is not what its digest says.
    #[error("the content of {path:?} does not have SHA-256 {digest}: it changed while the image was built")]
    ContentChanged {
        /// The file in the tree.
        path: String,
        /// As the tree says.
        digest: String,
    },
    /// The output cannot be written.
    #[error("cannot write the ext4 file system: {0}")]
    Output(#[from] io::Error),
}

/// Writes `tree` as a file system of `options.size` bytes, from where `out` is positioned. What is there must read as
/// zeros; the last byte is written, so that a file that was shorter ends exactly there.
///
/// # Errors
/// See [`Error`]. Everything that can be known without reading contents is reported before anything is written. What
/// cannot: a tree that would fit if enough of its file blocks were zero is tried, and [`Error::NoSpace`] at its end
/// says what it needed. After an error the output is incomplete.
pub fn write<W: Write + Seek>(tree: &Tree, out: &mut W, options: &Options) -> Result<Summary, Error> {
    options.check()?;
    let defaults = Defaults::new(options.epoch);
    let plan = Plan::new(tree, &defaults, options)?;
    let geometry = Geometry::new(options, u64::from(plan.last_inode))?;
    let needed = plan::blocks_needed(&geometry, |allocator| plan.take_known(allocator));
    if needed > geometry.available() {
        let needed = plan::blocks_needed(&geometry, |allocator| plan.take_all(allocator));
        return Err(Error::NoSpace { needed_blocks: needed, available_blocks: geometry.available() });
    }
    Writer::new(options, &geometry, plan.last_inode, out)?.write(&plan)
}

/// Returns the smallest size in bytes, a multiple of 4096, that is sure to hold `tree` with `options` (whose own size
/// does not matter): zeros in files count as if they took space.
///
/// # Errors
/// When no size holds the tree; see [`Error`].
pub fn minimum_size(tree: &Tree, options: &Options) -> Result<u64, Error> {
    options.check()?;
    let defaults = Defaults::new(options.epoch);
    let plan = Plan::new(tree, &defaults, options)?;
    let mut options = options.clone();
    let mut allocator = Allocator::new(&[]);
    plan.take_all(&mut allocator);
    let mut blocks = allocator.taken() + u64::from(plan.last_inode) / geometry::INODES_PER_BLOCK;
    loop {
        options.size = blocks * BLOCK as u64;
        let missing = match Geometry::new(&options, u64::from(plan.last_inode)) {
            Ok(geometry) => {
                let needed = plan::blocks_needed(&geometry, |allocator| plan.take_all(allocator));
                needed.saturating_sub(geometry.available())
            }
            Err(Error::SizeTooSmall { .. }) => 1,
            // The inodes need another group.
            Err(Error::TooManyInodes { .. }) => BLOCKS_PER_GROUP - blocks % BLOCKS_PER_GROUP + 1,
            Err(error) => return Err(error),
        };
        if missing == 0 {
            return Ok(options.size);
        }
        blocks += missing;
    }
}
