//! How manifests reach the file system: through a trait, so that tests and other front ends can stand in for it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::effects::fs::{self, FsError};

/// What a path is, symbolic links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

/// Where manifest files are read from.
pub trait Files {
    /// Reads a file of at most `limit` bytes.
    ///
    /// # Errors
    /// When it cannot be read; of kind [`io::ErrorKind::FileTooLarge`] when it is larger.
    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, FsError>;

    /// Says what is at `path`, or nothing when nothing is there that can be reached.
    fn kind(&self, path: &Path) -> Option<PathKind>;

    /// Says whether a component is replaced by a local file, so that the paths that it states need not exist.
    fn is_replaced(&self, _component: &str) -> bool {
        false
    }
}

/// The file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, FsError> {
        fs::read(path, limit)
    }

    fn kind(&self, path: &Path) -> Option<PathKind> {
        match path.metadata().ok()? {
            metadata if metadata.is_file() => Some(PathKind::File),
            metadata if metadata.is_dir() => Some(PathKind::Directory),
            _ => Some(PathKind::Other),
        }
    }
}

/// The file system, with components that are replaced by local files.
#[derive(Debug, Clone, Default)]
pub struct DiskWithout {
    /// Names of the replaced components.
    pub replaced: std::collections::BTreeSet<String>,
    /// No component's own paths matter: nothing is built.
    pub all: bool,
}

impl Files for DiskWithout {
    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, FsError> {
        Disk.read(path, limit)
    }

    fn kind(&self, path: &Path) -> Option<PathKind> {
        Disk.kind(path)
    }

    fn is_replaced(&self, component: &str) -> bool {
        self.all || self.replaced.contains(component)
    }
}

/// Files in memory, by absolute path. A path that ends with `/` is a directory.
#[derive(Debug, Clone, Default)]
pub struct Memory(pub BTreeMap<PathBuf, Vec<u8>>);

impl Files for Memory {
    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, FsError> {
        let fail = |kind| FsError { action: "read", path: path.to_owned(), source: io::Error::from(kind) };
        let bytes = self.0.get(path).ok_or_else(|| fail(io::ErrorKind::NotFound))?;
        if bytes.len() as u64 > limit {
            return Err(fail(io::ErrorKind::FileTooLarge));
        }
        Ok(bytes.clone())
    }

    fn kind(&self, path: &Path) -> Option<PathKind> {
        let below = self.0.keys().any(|file| file != path && file.starts_with(path));
        match (self.0.contains_key(path), below) {
            (_, true) => Some(PathKind::Directory),
            (true, false) => Some(PathKind::File),
            (false, false) => None,
        }
    }
}
