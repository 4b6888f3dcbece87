//! The content-addressed store.
//!
//! ```text
//! ROOT/v1/blobs/ab/abcdef...    anything, by SHA-256: downloads, packs, indexes, finished artifacts (read-only files)
//! ROOT/v1/actions/ab/KEY.json   what a step with this key gave: the digests of its outputs
//! ROOT/v1/blocks/...            compressed SquashFS blocks
//! ROOT/v1/partial/DIGEST        interrupted downloads
//! ROOT/v1/cargo/...             toolchains and target directories of programs that are built from source
//! ROOT/v1/stat/...              digests of overlay files by their stat data
//! ROOT/v1/tmp/                  files being written
//! ROOT/v1/lock                  held shared by every user, exclusively by garbage collection
//! ```
//!
//! A blob is written to `tmp/`, synced and renamed to its place, so what is there is complete; any number of processes
//! may write the same blob at once. The size is checked on every look-up, and the digest by whoever reads the bytes
//! ([`Blob::read`], [`Content`](crate::tree::Content)) and by `cache verify`.
//! Lock order: `lock` before anything else; no other lock is held across steps.
#![expect(clippy::disallowed_methods, reason = "the cache does its own crash-safe file handling")]

pub mod gc;
pub mod stat;
pub mod table;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;
use tempfile::NamedTempFile;

use crate::effects::fs::{Context, FsError};

/// The version directory: a format change of anything below it takes a new one.
const VERSION: &str = "v1";

/// The cache failed.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file of the cache cannot be used.
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// A blob that is in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// SHA-256 of the content.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Where it is.
    pub path: PathBuf,
}

impl Blob {
    /// Reads the blob into memory, refusing more than `limit` bytes and other bytes than its digest's.
    ///
    /// # Errors
    /// When it cannot be read, is larger, or is damaged.
    pub fn read(&self, limit: u64) -> io::Result<Vec<u8>> {
        let bytes = crate::effects::fs::read(&self.path, limit).map_err(|error| error.source)?;
        if Digest::of(&bytes) != self.digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", self.path.display())));
        }
        Ok(bytes)
    }
}

/// An open cache. The shared lock is held until it is dropped.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    lock: File,
}

impl Drop for Cache {
    /// Closing alone would not do while a process that another thread has just forked still has a copy of the descriptor.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.lock, rustix::fs::FlockOperation::Unlock);
    }
}

impl Cache {
    /// Opens the cache below `root`, creating what is missing. Waits while garbage collection runs.
    ///
    /// # Errors
    /// When the directories cannot be created or the lock not be taken.
    pub fn open(root: &Path) -> Result<Self, CacheError> {
        let root = root.join(VERSION);
        for bucket in ["blobs", "actions", "blocks", "partial", "stat", "tmp"] {
            let path = root.join(bucket);
            fs::create_dir_all(&path).context("create directory", &path)?;
        }
        let path = root.join("lock");
        let lock = fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let lock = lock.context("open", &path)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared)
            .map_err(io::Error::from)
            .context("lock", &path)?;
        Ok(Cache { root, lock })
    }

    /// Waits until no other process or thread works on the file at `path` (a lock file of a manifest), and keeps others
    /// waiting until the result is dropped. The lock is advisory and lives in the cache, so that nothing appears beside
    /// the file.
    ///
    /// # Errors
    /// When it cannot be taken.
    pub fn exclusive(&self, path: &Path) -> Result<File, CacheError> {
        let name = Digest::of(path.as_os_str().as_encoded_bytes());
        let place = self.root.join("stat").join(format!("lock-{name}"));
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&place);
        let file = file.context("open", &place)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(io::Error::from)
            .context("lock", &place)?;
        Ok(file)
    }

    /// Returns the directory of a bucket: `blobs`, `actions`, `blocks`, `partial`, `stat` or `tmp`.
    pub fn bucket(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Returns where the blob with `digest` is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join("blobs").join(&hex[..2]).join(hex)
    }

    /// Looks up a blob. With `size`, a file of another size counts as missing.
    pub fn blob(&self, digest: &Digest, size: Option<u64>) -> Option<Blob> {
        let path = self.blob_path(digest);
        let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        if size.is_some_and(|size| size != metadata.len()) {
            // Either is wrong, the file or the expectation: the rename of a new one replaces the file.
            return None;
        }
        gc::mark_used(&path, &metadata);
        Some(Blob { digest: *digest, size: metadata.len(), path })
    }

    /// Starts writing a blob whose digest is not known yet.
    ///
    /// # Errors
    /// When the temporary file cannot be created.
    pub fn writer(&self) -> Result<BlobWriter<'_>, CacheError> {
        let tmp = self.root.join("tmp");
        let temporary = NamedTempFile::new_in(&tmp).context("create a file in", &tmp)?;
        Ok(BlobWriter { cache: self, temporary, hasher: Hasher::new(), size: 0 })
    }

    /// Puts a file that was written with random access (an artifact) into the cache under its digest, which is
    /// computed here. `temporary` must be in the `tmp` bucket.
    ///
    /// # Errors
    /// When the file cannot be read or renamed.
    pub fn adopt(&self, mut temporary: NamedTempFile) -> Result<Blob, CacheError> {
        use std::io::Seek;
        let path = temporary.path().to_owned();
        temporary.rewind().context("rewind", &path)?;
        let mut hasher = Hasher::new();
        let size = io::copy(temporary.as_file_mut(), &mut hasher).context("read", &path)?;
        self.persist(temporary, hasher.finish(), size)
    }

    /// Returns a new temporary file in the `tmp` bucket, for [`Cache::adopt`].
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn temporary(&self) -> Result<NamedTempFile, CacheError> {
        let tmp = self.root.join("tmp");
        Ok(NamedTempFile::new_in(&tmp).context("create a file in", &tmp)?)
    }

    /// Puts `temporary`, whose digest and size are known to be right, into place.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn persist(&self, temporary: NamedTempFile, digest: Digest, size: u64) -> Result<Blob, CacheError> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.blob_path(&digest);
        let parent = path.parent().expect("a blob path has a parent");
        fs::create_dir_all(parent).context("create directory", parent)?;
        temporary.as_file().set_permissions(fs::Permissions::from_mode(0o444)).context("set mode of", &path)?;
        temporary.as_file().sync_data().context("sync", &path)?;
        temporary.persist(&path).map_err(|error| error.error).context("rename to", &path)?;
        Ok(Blob { digest, size, path })
    }

    /// Puts `bytes` into the cache.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn insert(&self, bytes: &[u8]) -> Result<Blob, CacheError> {
        let mut writer = self.writer()?;
        let path = writer.temporary.path().to_owned();
        writer.write_all(bytes).context("write", &path)?;
        writer.commit()
    }
}

/// Writes one blob; dropped before [`BlobWriter::commit`], nothing stays.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    cache: &'a Cache,
    temporary: NamedTempFile,
    hasher: Hasher,
    size: u64,
}

impl BlobWriter<'_> {
    /// Returns the bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Puts the blob into the cache when what was written has this digest; otherwise nothing stays.
    ///
    /// # Errors
    /// When it has another, or cannot be renamed.
    pub fn commit_as(self, expected: &Digest) -> io::Result<()> {
        let BlobWriter { cache, temporary, hasher, size } = self;
        let digest = hasher.finish();
        if digest != *expected {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has SHA-256 {digest}")));
        }
        cache.persist(temporary, digest, size).map(drop).map_err(io::Error::other)
    }

    /// Puts the blob into the cache under the digest of what was written.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn commit(self) -> Result<Blob, CacheError> {
        self.cache.persist(self.temporary, self.hasher.finish(), self.size)
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.temporary.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_of_the_wrong_size_counts_as_missing() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let blob = cache.insert(b"hello").unwrap();
        assert_eq!(cache.blob(&blob.digest, Some(5)), Some(blob.clone()));
        assert_eq!(cache.blob(&blob.digest, Some(6)), None);
        // A wrong expectation (a lock that was merged by hand) costs no good blob.
        assert_eq!(cache.blob(&blob.digest, None), Some(blob));
    }

    #[test]
    fn an_abandoned_blob_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let mut writer = cache.writer().unwrap();
        writer.write_all(b"hello").unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(cache.bucket("tmp")).unwrap().count(), 0);
        assert_eq!(cache.blob(&Digest::of(b"hello"), None), None);
    }
}
