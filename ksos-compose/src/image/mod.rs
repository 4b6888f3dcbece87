//! Reads finished disk images, to compare them: the partition table, the ext4 file systems of the system slots, and the
//! root file system in them.
//!
//! Nothing is written and nothing is trusted: whatever an image declares is checked against its size before it is used,
//! and what does not hold is an error that says where. Images are read at positions, in buffers of fixed size; holes
//! are skipped.
//!
//! Limits: 512-byte sectors; ext4 as far as [`ext4`] says; FAT file systems are bytes here.

pub mod compare;
pub mod ext4;
pub mod iso;
pub mod open;
mod slot;
pub mod system;
mod table;
pub mod verity;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::effects::fs::{self, Context, FsError};
use crate::source::archive::ArchiveError;
use ext4::Ext4Error;
pub use slot::{SLOT_FILES, Slot, SlotFile};
pub use system::System;

/// A disk image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file cannot be used.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// There is no usable partition table.
    #[error("{}: partition table: {reason}", path.display())]
    Table {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It is no ISO 9660 image, though it begins like one.
    #[error("{}: ISO 9660: {reason}", path.display())]
    Iso {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system of a slot cannot be read.
    #[error("{}: partition {number}: {}{source}", path.display(), file.map(|file| format!("{file}: ")).unwrap_or_default())]
    Slot {
        /// The image.
        path: PathBuf,
        /// Number of the partition, from 1.
        number: u32,
        /// The file in the slot, when the fault is at one.
        file: Option<&'static str>,
        /// The cause.
        source: Ext4Error,
    },
    /// A file of a slot is larger than its partition.
    #[error("{}: partition {number}: {file} claims {size} bytes, more than the partition has", path.display())]
    SlotFileSize {
        /// The image.
        path: PathBuf,
        /// Number of the partition, from 1.
        number: u32,
        /// The file in the slot.
        file: &'static str,
        /// Its size in bytes.
        size: u64,
    },
    /// `image.json` in a slot is not what it should be.
    #[error("{}: partition {number}: image.json: {source}", path.display())]
    Metadata {
        /// The image.
        path: PathBuf,
        /// Number of the partition, from 1.
        number: u32,
        /// The cause.
        source: serde_json::Error,
    },
    /// The root file system or the initramfs in a slot cannot be read.
    #[error("{}: partition {number}: {source}", path.display())]
    Unpack {
        /// The image.
        path: PathBuf,
        /// Number of the partition, from 1.
        number: u32,
        /// The cause.
        source: Box<ArchiveError>,
    },
    /// There is no place for what is unpacked to be compared.
    #[error(transparent)]
    Cache(#[from] crate::cache::CacheError),
}

/// A partition of a disk image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Number, from 1.
    pub number: u32,
    /// Name in the partition table.
    pub label: String,
    /// Type GUID.
    pub type_guid: Uuid,
    /// Unique GUID.
    pub guid: Uuid,
    /// Attribute bits.
    pub flags: u64,
    /// First byte, from the start of the disk.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

/// An open disk image.
#[derive(Debug)]
pub struct DiskImage {
    path: PathBuf,
    file: File,
    /// Size in bytes.
    pub size: u64,
    /// GUID of the disk.
    pub guid: Uuid,
    /// The partitions by number, each inside the image, none over another.
    pub partitions: Vec<Partition>,
}

impl DiskImage {
    /// Opens the image at `path` and reads its partition table.
    ///
    /// # Errors
    /// [`ImageError::Fs`], [`ImageError::Table`].
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        DiskImage::of_file(path, fs::open(path)?)
    }

    /// Reads the partition table of the image in `file`. `path` is what it is called in errors.
    ///
    /// # Errors
    /// As [`DiskImage::open`].
    pub fn of_file(path: &Path, file: File) -> Result<Self, ImageError> {
        let metadata = file.metadata().context("stat", path)?;
        let reason = |reason: String| ImageError::Table { path: path.to_owned(), reason };
        if !metadata.is_file() {
            return Err(reason("not a regular file".to_owned()));
        }
        let size = metadata.len();
        let (guid, partitions) = table::read(&file, size).map_err(reason)?;
        Ok(DiskImage { path: path.to_owned(), file, size, guid, partitions })
    }

    /// Returns a disk of one partition, number 0: the system slot that `file` is. `path` is what it is called in errors.
    pub fn of_slot(path: &Path, file: File, size: u64) -> Self {
        let partition = Partition {
            number: 0,
            label: "slot".to_owned(),
            type_guid: Uuid::nil(),
            guid: Uuid::nil(),
            flags: 0,
            offset: 0,
            size,
        };
        DiskImage { path: path.to_owned(), file, size, guid: Uuid::nil(), partitions: vec![partition] }
    }

    /// Returns where the image is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the bytes of the whole image.
    pub fn whole(&self) -> Part<'_> {
        Part { file: &self.file, start: 0, size: self.size }
    }

    /// Returns the bytes of `partition`.
    pub fn part(&self, partition: &Partition) -> Part<'_> {
        Part { file: &self.file, start: partition.offset, size: partition.size }
    }

    /// Returns partition `number`.
    pub fn partition(&self, number: u32) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.number == number)
    }
}

/// A part of a file, read at positions.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    file: &'a File,
    start: u64,
    size: u64,
}

impl<'a> Part<'a> {
    /// Returns the `size` bytes from `start` of `file`.
    pub fn new(file: &'a File, start: u64, size: u64) -> Self {
        Part { file, start, size }
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the `size` bytes from `offset`, or fewer when the part ends before.
    pub fn slice(&self, offset: u64, size: u64) -> Self {
        let offset = offset.min(self.size);
        Part { file: self.file, start: self.start + offset, size: size.min(self.size - offset) }
    }

    /// Returns how many bytes are not in holes; all of them where the file system knows none.
    pub fn data(&self) -> u64 {
        use rustix::fs::{SeekFrom, seek};
        let (end, mut position, mut data) = (self.start + self.size, self.start, 0);
        while position < end {
            let Ok(first) = seek(self.file, SeekFrom::Data(position)) else { break };
            let hole = seek(self.file, SeekFrom::Hole(first)).unwrap_or(end);
            if first >= end || hole <= first {
                break;
            }
            data += hole.min(end) - first;
            position = hole;
        }
        data
    }

    /// Returns a reader of the bytes from the first to the last.
    pub fn reader(&self) -> impl io::Read + use<'a> {
        PartReader { part: *self, position: 0 }
    }

    /// Fills `buffer` from byte `position` of the part.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the part or the file ends before.
    pub fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let inside = position.checked_add(buffer.len() as u64).is_some_and(|end| end <= self.size);
        if !inside {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(buffer, self.start + position)
    }
}

/// Reads a part from its first byte to its last.
struct PartReader<'a> {
    part: Part<'a>,
    position: u64,
}

impl io::Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (buffer.len() as u64).min(self.part.size - self.position) as usize;
        self.part.read_exact_at(&mut buffer[..count], self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}
