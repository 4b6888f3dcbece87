//! A system slot: an ext4 file system with the kernel, the initramfs, the root file system and `image.json`.

use std::io::{self, Read, Seek};

use ksos_formats::boot::SlotMetadata;
use ksos_formats::digest::Hasher;
use ksos_formats::{Digest, layout};
use tempfile::NamedTempFile;

use super::ext4::{Ext4Error, FileReader, FileSystem};
use super::{DiskImage, ImageError, Partition};
use crate::cache::Cache;
use crate::effects::fs::Context;
use crate::source::archive::{self, ArchiveError, Compression, Format, Limits, Owner, Policy};
use crate::tree::Tree;

/// The files of a slot, each after those that it depends on: the initramfs has the hash of the root file system, and
/// the metadata has the digests of all others.
pub const SLOT_FILES: [&str; 4] =
    [layout::SLOT_KERNEL, layout::SLOT_ROOT, layout::SLOT_INITRAMFS, layout::SLOT_METADATA];
/// The largest `image.json`, in bytes.
const METADATA_LIMIT: u64 = 1 << 20;

/// A file of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotFile {
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the content.
    pub sha256: Digest,
}

/// An open system slot.
#[derive(Debug)]
pub struct Slot<'a> {
    disk: &'a DiskImage,
    number: u32,
    size: u64,
    fs: FileSystem<'a>,
    /// What `image.json` says.
    pub metadata: SlotMetadata,
}

impl<'a> Slot<'a> {
    /// Opens the slot in `partition` of `disk`. `None` when the partition has no ext4 file system, or one without
    /// `image.json`.
    ///
    /// # Errors
    /// [`ImageError::Slot`], [`ImageError::Metadata`].
    pub fn open(disk: &'a DiskImage, partition: &Partition) -> Result<Option<Self>, ImageError> {
        let part = disk.part(partition);
        if !FileSystem::is_in(part) {
            return Ok(None);
        }
        let number = partition.number;
        let at = |file, source| ImageError::Slot { path: disk.path().to_owned(), number, file, source };
        let fs = FileSystem::open(part).map_err(|source| at(None, source))?;
        let read = || -> Result<Option<Vec<u8>>, Ext4Error> {
            let Some(inode) = fs.find(layout::SLOT_METADATA)? else { return Ok(None) };
            if inode.size > METADATA_LIMIT {
                return Err(io::Error::from(io::ErrorKind::FileTooLarge).into());
            }
            let mut bytes = Vec::new();
            fs.open_file(&inode)?.read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        };
        let bytes = read().map_err(|source| at(Some(layout::SLOT_METADATA), source))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let metadata = serde_json::from_slice(&bytes).map_err(|source| {
            let path = disk.path().to_owned();
            ImageError::Metadata { path, number, source }
        })?;
        Ok(Some(Slot { disk, number, size: partition.size, fs, metadata }))
    }

    /// Opens file `name` of [`SLOT_FILES`]; `None` when the slot has no such file.
    ///
    /// # Errors
    /// [`ImageError::Slot`], [`ImageError::SlotFileSize`].
    pub fn file(&self, name: &'static str) -> Result<Option<FileReader<'a>>, ImageError> {
        let open = || match self.fs.find(name)? {
            Some(inode) => Ok(Some(self.fs.open_file(&inode)?)),
            None => Ok(None),
        };
        let reader = open().map_err(|source| self.at(name, source))?;
        match reader {
            Some(reader) if reader.size() > self.size => Err(ImageError::SlotFileSize {
                path: self.disk.path().to_owned(),
                number: self.number,
                file: name,
                size: reader.size(),
            }),
            reader => Ok(reader),
        }
    }

    /// Returns size and digest of file `name` of [`SLOT_FILES`]; `None` when the slot has no such file.
    ///
    /// # Errors
    /// As [`Slot::file`].
    pub fn digest(&self, name: &'static str) -> Result<Option<SlotFile>, ImageError> {
        let Some(mut reader) = self.file(name)? else { return Ok(None) };
        let mut hasher = Hasher::new();
        let size = copy(&mut reader, &mut hasher).map_err(|error| self.at(name, error.into()))?;
        Ok(Some(SlotFile { size, sha256: hasher.finish() }))
    }

    /// Unpacks the root file system or the initramfs, as `name` says, into `cache`; `None` when the slot has no such
    /// file, or it holds no files.
    ///
    /// # Errors
    /// As [`Slot::file`]; [`ImageError::Unpack`].
    pub fn tree(&self, name: &'static str, cache: &Cache) -> Result<Option<Tree>, ImageError> {
        let format = match name {
            layout::SLOT_ROOT => Format::SquashFs,
            layout::SLOT_INITRAMFS => Format::Cpio(Compression::Gzip),
            _ => return Ok(None),
        };
        let Some(image) = self.copy(name, cache)? else { return Ok(None) };
        let policy = Policy { allow_devices: true, allow_setid: true, owner: Owner::Keep };
        let unpacked = archive::unpack(cache, image.path(), format, &policy, &Limits::default());
        let unpacked = unpacked.map_err(|mut source| {
            // Not the name of the temporary file.
            source.archive = name.to_owned();
            ImageError::Unpack { path: self.disk.path().to_owned(), number: self.number, source: Box::new(source) }
        })?;
        Ok(Some(unpacked.tree))
    }

    /// Copies file `name` of [`SLOT_FILES`] to a temporary one of `cache`; `None` when the slot has no such file.
    ///
    /// # Errors
    /// As [`Slot::file`].
    pub fn copy(&self, name: &'static str, cache: &Cache) -> Result<Option<NamedTempFile>, ImageError> {
        let Some(mut reader) = self.file(name)? else { return Ok(None) };
        let mut image = cache.temporary()?;
        copy(&mut reader, image.as_file_mut()).map_err(|error| self.at(name, error.into()))?;
        image.as_file_mut().rewind().context("rewind", image.path())?;
        Ok(Some(image))
    }

    /// Returns the error of unpacking something in the slot.
    pub fn unpack_error(&self, source: ArchiveError) -> ImageError {
        ImageError::Unpack { path: self.disk.path().to_owned(), number: self.number, source: Box::new(source) }
    }

    /// Returns the error of reading `file`.
    pub fn at(&self, file: &'static str, source: Ext4Error) -> ImageError {
        ImageError::Slot { path: self.disk.path().to_owned(), number: self.number, file: Some(file), source }
    }
}

/// As [`io::copy`], in larger pieces.
fn copy(reader: &mut impl Read, writer: &mut impl io::Write) -> io::Result<u64> {
    io::copy(&mut io::BufReader::with_capacity(1 << 20, reader), writer)
}
