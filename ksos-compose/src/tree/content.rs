//! File content by digest, and where to read it.
#![expect(clippy::disallowed_methods, reason = "opens files by the path that the tree holds")]

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;

/// Where the bytes of a file are.
#[derive(Debug, Clone)]
pub enum Location {
    /// In memory; for small generated files.
    Inline(Arc<[u8]>),
    /// At `offset` in a file on the host (a pack in the cache, or an overlay file with offset 0).
    Slice {
        /// The file.
        path: Arc<Path>,
        /// Where the content starts, in bytes.
        offset: u64,
    },
}

/// The content of a regular file. Two contents are equal when their digests are, wherever the bytes are.
#[derive(Debug, Clone)]
pub struct Content {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Where the bytes are.
    pub location: Location,
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Content {}

impl Content {
    /// Returns content that is held in memory.
    pub fn inline(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Content { digest: Digest::of(&bytes), size: bytes.len() as u64, location: Location::Inline(bytes) }
    }

    /// Returns content that is the whole of a host file, whose digest and size are known.
    pub fn host_file(path: PathBuf, digest: Digest, size: u64) -> Self {
        Content { digest, size, location: Location::Slice { path: path.into(), offset: 0 } }
    }

    /// Opens the content. The reader yields exactly `size` bytes or fails. What is read from start to end is held
    /// against the digest: the last bytes come only when all before them were right.
    ///
    /// # Errors
    /// When the host file cannot be opened.
    pub fn open(&self) -> io::Result<ContentReader> {
        let source = match &self.location {
            Location::Inline(bytes) => ReaderSource::Inline(bytes.clone()),
            Location::Slice { path, offset } => {
                let file = File::open(path).map_err(|error| with_path(error, path))?;
                ReaderSource::Slice { file, path: path.clone(), offset: *offset }
            }
        };
        Ok(ContentReader { source, position: 0, size: self.size, hasher: Some(Hasher::new()), digest: self.digest })
    }

    /// Reads the whole content into memory, refusing more than `limit` bytes.
    ///
    /// # Errors
    /// When the content is larger than `limit` or cannot be read.
    pub fn read(&self, limit: u64) -> io::Result<Vec<u8>> {
        if self.size > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
        }
        let mut bytes = Vec::with_capacity(self.size as usize);
        self.open()?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

fn with_path(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[derive(Debug)]
enum ReaderSource {
    Inline(Arc<[u8]>),
    Slice { file: File, path: Arc<Path>, offset: u64 },
}

/// Reads a [`Content`] from start to end, or at positions.
#[derive(Debug)]
pub struct ContentReader {
    source: ReaderSource,
    position: u64,
    size: u64,
    /// Of what was read in order so far; gone when it was compared.
    hasher: Option<Hasher>,
    digest: Digest,
}

impl ContentReader {
    /// Fills `buffer` from byte `position` of the content, without moving the reader and without looking at the digest.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the host file is shorter than the tree says (it changed under the build).
    pub fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        if position + buffer.len() as u64 > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &self.source {
            ReaderSource::Inline(bytes) => {
                let start = position as usize;
                buffer.copy_from_slice(&bytes[start..start + buffer.len()]);
                Ok(())
            }
            ReaderSource::Slice { file, path, offset } => {
                file.read_exact_at(buffer, offset + position).map_err(|error| with_path(error, path))
            }
        }
    }
}

impl ContentReader {
    /// Compares what was read with the digest, at the end.
    fn check(&mut self) -> io::Result<()> {
        let Some(actual) = self.hasher.take_if(|_| self.position == self.size).map(Hasher::finish) else {
            return Ok(());
        };
        if actual == self.digest {
            return Ok(());
        }
        let (path, offset) = match &self.source {
            ReaderSource::Slice { path, offset, .. } => (path.to_path_buf(), *offset),
            ReaderSource::Inline(_) => (PathBuf::from("memory"), 0),
        };
        Err(Damaged { path, offset, size: self.size, expected: self.digest, actual }.into())
    }
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size - self.position;
        let count = (buffer.len() as u64).min(left) as usize;
        if count > 0 {
            self.read_exact_at(&mut buffer[..count], self.position)?;
            self.position += count as u64;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..count]);
            }
            self.check()?;
        }
        Ok(count)
    }
}

/// Bytes on the disk are not those that were hashed: the cache is damaged, or a file changed during the build.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {size} bytes from byte {offset} have SHA-256 {actual}, not {expected}: they changed", path.display())]
pub struct Damaged {
    /// The file.
    pub path: PathBuf,
    /// Where the content starts in it, in bytes.
    pub offset: u64,
    /// Size of the content in bytes.
    pub size: u64,
    /// Its SHA-256 as it was.
    pub expected: Digest,
    /// Its SHA-256 as it is.
    pub actual: Digest,
}

impl From<Damaged> for io::Error {
    fn from(damaged: Damaged) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_changed_on_the_disk_never_come_to_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pack");
        let content = |offset| Content {
            digest: Digest::of(b"hello"),
            size: 5,
            location: Location::Slice { path: path.clone().into(), offset },
        };
        std::fs::write(&path, b"hello, hellO").unwrap();
        assert_eq!(content(0).read(5).unwrap(), b"hello");
        let error = content(7).read(5).unwrap_err();
        let text = format!(
            "{}: 5 bytes from byte 7 have SHA-256 {}, not {}: they changed",
            path.display(),
            Digest::of(b"hellO"),
            Digest::of(b"hello")
        );
        assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::InvalidData, text));
        // In small steps the last one fails; a look at a part says nothing of the whole.
        let mut reader = content(7).open().unwrap();
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).unwrap();
        reader.read_exact_at(&mut bytes, 1).unwrap();
        assert!(reader.read_exact(&mut bytes[..1]).is_err());
    }
}
