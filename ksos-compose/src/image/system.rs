//! The system that an image has: kernel, initramfs, root file system and `image.json`, whether in a slot of a disk or among
//! the files of an ISO.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use ksos_formats::boot::SlotMetadata;
use ksos_formats::digest::Hasher;
use ksos_formats::layout;

use super::ext4::{Ext4Error, FileReader};
use super::iso::Iso;
use super::{DiskImage, ImageError, Part, Partition, Slot, SlotFile, verity};
use crate::cache::Cache;
use crate::effects::fs::Context;
use crate::source::archive::{self, Limits, Look};

/// The largest `image.json`, in bytes.
const METADATA_LIMIT: u64 = 1 << 20;

/// A system.
#[derive(Debug)]
pub struct System<'a> {
    /// What `image.json` says.
    pub metadata: SlotMetadata,
    from: Origin<'a>,
}

#[derive(Debug)]
enum Origin<'a> {
    Slot(Box<Slot<'a>>),
    Iso { iso: &'a Iso, whole: Part<'a>, directory: String, path: PathBuf },
}

/// A file of a system, read from its first byte to its last, or at positions.
#[derive(Debug)]
pub enum SystemFile<'a> {
    /// In the file system of a slot.
    Slot(FileReader<'a>),
    /// In one piece.
    Piece {
        /// Its bytes.
        part: Part<'a>,
        /// What is read next.
        position: u64,
    },
}

impl SystemFile<'_> {
    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            SystemFile::Slot(reader) => reader.size(),
            SystemFile::Piece { part, .. } => part.size(),
        }
    }

    /// Fills `buffer` from byte `position`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the file ends before.
    pub fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        match self {
            SystemFile::Slot(reader) => reader.read_exact_at(buffer, position),
            SystemFile::Piece { part, .. } => part.read_exact_at(buffer, position),
        }
    }
}

impl Read for SystemFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            SystemFile::Slot(reader) => reader.read(buffer),
            SystemFile::Piece { part, position } => {
                let count = (buffer.len() as u64).min(part.size() - *position) as usize;
                part.read_exact_at(&mut buffer[..count], *position)?;
                *position += count as u64;
                Ok(count)
            }
        }
    }
}

impl<'a> System<'a> {
    /// Opens the system in `partition` of `disk`; `None` when it has none.
    ///
    /// # Errors
    /// As [`Slot::open`].
    pub fn of_slot(disk: &'a DiskImage, partition: &Partition) -> Result<Option<Self>, ImageError> {
        let slot = Slot::open(disk, partition)?;
        Ok(slot.map(|slot| System { metadata: slot.metadata.clone(), from: Origin::Slot(Box::new(slot)) }))
    }

    /// Opens the system of an ISO in `file` of `size` bytes: the directory that has `image.json`. `None` when there is none.
    /// `path` is what the image is called in errors.
    ///
    /// # Errors
    /// [`ImageError::Iso`].
    pub fn of_iso(iso: &'a Iso, file: &'a File, size: u64, path: &Path) -> Result<Option<Self>, ImageError> {
        let wrong = |reason: String| ImageError::Iso { path: path.to_owned(), reason };
        let in_directory = |name: &String| name.rsplit('/').next() == Some(layout::SLOT_METADATA);
        let Some(name) = iso.files.keys().find(|name| in_directory(name)) else { return Ok(None) };
        let directory = name.strip_suffix(layout::SLOT_METADATA).unwrap_or_default().to_owned();
        let whole = Part::new(file, 0, size);
        let found = iso.files[name];
        if found.size > METADATA_LIMIT {
            return Err(wrong(format!("{name} has {} bytes; at most {METADATA_LIMIT} are read", found.size)));
        }
        let mut bytes = Vec::new();
        let read = whole.slice(found.offset, found.size).reader().read_to_end(&mut bytes);
        read.map_err(|error| wrong(format!("{name}: {error}")))?;
        let metadata = serde_json::from_slice(&bytes).map_err(|error| wrong(format!("{name}: {error}")))?;
        Ok(Some(System { metadata, from: Origin::Iso { iso, whole, directory, path: path.to_owned() } }))
    }

    /// Opens file `name` of [`super::SLOT_FILES`]; `None` when there is no such file.
    ///
    /// # Errors
    /// As [`Slot::file`]; [`ImageError::Iso`] for a file that is not inside of the image.
    pub fn file(&self, name: &'static str) -> Result<Option<SystemFile<'a>>, ImageError> {
        match &self.from {
            Origin::Slot(slot) => Ok(slot.file(name)?.map(SystemFile::Slot)),
            Origin::Iso { iso, whole, directory, path } => {
                let Some(found) = iso.files.get(&format!("{directory}{name}")) else { return Ok(None) };
                let part = whole.slice(found.offset, found.size);
                if part.size() < found.size {
                    let reason = format!("{directory}{name} is cut off");
                    return Err(ImageError::Iso { path: path.clone(), reason });
                }
                Ok(Some(SystemFile::Piece { part, position: 0 }))
            }
        }
    }

    /// Returns size and digest of file `name` of [`super::SLOT_FILES`]; `None` when there is no such file.
    ///
    /// # Errors
    /// As [`System::file`].
    pub fn digest(&self, name: &'static str) -> Result<Option<SlotFile>, ImageError> {
        let Some(mut file) = self.file(name)? else { return Ok(None) };
        let mut hasher = Hasher::new();
        let size = copy(&mut file, &mut hasher).map_err(|error| self.at(name, error))?;
        Ok(Some(SlotFile { size, sha256: hasher.finish() }))
    }

    /// Checks the root file system by its hash tree, as a boot does. The inner error says what is wrong; `None` when there
    /// is no root file system.
    ///
    /// # Errors
    /// As [`System::file`].
    pub fn verity(&self) -> Result<Option<Result<(), verity::VerityFault>>, ImageError> {
        let Some(root) = self.file(layout::SLOT_ROOT)? else { return Ok(None) };
        let read = |buffer: &mut [u8], position| root.read_exact_at(buffer, position);
        Ok(Some(verity::check(read, root.size(), &self.metadata.root.verity)))
    }

    /// Looks into the root file system without unpacking it; contents of `wanted`, paths with the largest sizes that are
    /// read. `None` when there is none.
    ///
    /// # Errors
    /// As [`System::file`]; [`ImageError::Unpack`].
    pub fn look(&self, cache: &Cache, wanted: &[(&str, u64)]) -> Result<Option<Look>, ImageError> {
        let Some(mut file) = self.file(layout::SLOT_ROOT)? else { return Ok(None) };
        let mut image = cache.temporary()?;
        copy(&mut file, image.as_file_mut()).map_err(|error| self.at(layout::SLOT_ROOT, error))?;
        image.as_file_mut().rewind().context("rewind", image.path())?;
        let look = archive::look(image.as_file(), layout::SLOT_ROOT, wanted, &Limits::default());
        look.map(Some).map_err(|source| match &self.from {
            Origin::Slot(slot) => slot.unpack_error(source),
            Origin::Iso { path, .. } => ImageError::Iso { path: path.clone(), reason: source.to_string() },
        })
    }

    fn at(&self, name: &'static str, error: io::Error) -> ImageError {
        match &self.from {
            Origin::Slot(slot) => slot.at(name, Ext4Error::from(error)),
            Origin::Iso { path, .. } => ImageError::Iso { path: path.clone(), reason: format!("{name}: {error}") },
        }
    }
}

/// As [`io::copy`], in larger pieces.
fn copy(reader: &mut impl Read, writer: &mut impl io::Write) -> io::Result<u64> {
    io::copy(&mut io::BufReader::with_capacity(1 << 20, reader), writer)
}
