//! Packs: the contents of many files, one after another, as one blob in the cache. An unpacked archive is one pack
//! and one [index](super::index), so it appears in the cache at once or not at all, and reading it opens one file.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use ksos_formats::digest::Hasher;

use super::content::{Content, Location};
use crate::cache::{Blob, BlobWriter, Cache, CacheError};

/// Writes a pack. The contents it returns can be read only after [`PackWriter::finish`].
#[derive(Debug)]
pub struct PackWriter<'a> {
    writer: BlobWriter<'a>,
    offset: u64,
    contents: Vec<Content>,
}

/// A content in an unfinished pack; [`FinishedPack::content`] exchanges it for a readable one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedFile(usize);

/// A pack that is in the cache.
#[derive(Debug)]
pub struct FinishedPack {
    /// The blob.
    pub blob: Blob,
    contents: Vec<Content>,
}

/// A pack could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The data that should go in could not be read, or the pack could not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is larger than it may be.
    #[error("larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The cache could not take the pack.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl<'a> PackWriter<'a> {
    /// Starts a pack in `cache`.
    ///
    /// # Errors
    /// When the temporary file cannot be created.
    pub fn new(cache: &'a Cache) -> Result<Self, CacheError> {
        Ok(PackWriter { writer: cache.writer()?, offset: 0, contents: Vec::new() })
    }

    /// Copies `reader` to its end into the pack, refusing more than `limit` bytes.
    ///
    /// # Errors
    /// [`PackError::TooLarge`] over the limit; I/O errors of either side.
    pub fn add(&mut self, reader: &mut dyn Read, limit: u64) -> Result<PackedFile, PackError> {
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 128 * 1024];
        let mut size = 0;
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            size += count as u64;
            if size > limit {
                return Err(PackError::TooLarge { limit });
            }
            hasher.update(&buffer[..count]);
            self.writer.write_all(&buffer[..count])?;
        }
        let location = Location::Slice { path: Path::new("").into(), offset: self.offset };
        self.offset += size;
        self.contents.push(Content { digest: hasher.finish(), size, location });
        Ok(PackedFile(self.contents.len() - 1))
    }

    /// Puts the pack into the cache.
    ///
    /// # Errors
    /// When the blob cannot be committed.
    pub fn finish(self) -> Result<FinishedPack, PackError> {
        let blob = self.writer.commit()?;
        let path: Arc<Path> = blob.path.clone().into();
        let mut contents = self.contents;
        for content in &mut contents {
            if let Location::Slice { path: place, .. } = &mut content.location {
                *place = path.clone();
            }
        }
        Ok(FinishedPack { blob, contents })
    }
}

impl FinishedPack {
    /// Returns the readable content for a file added before.
    pub fn content(&self, file: PackedFile) -> Content {
        self.contents[file.0].clone()
    }
}
