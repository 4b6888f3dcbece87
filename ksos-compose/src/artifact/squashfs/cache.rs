//! Compressed blocks kept between builds.
//!
//! An object holds the compressed blocks of one file, or one fragment block, under a key made of the content's digest
//! and everything that decides the compressed bytes. [`DirectoryBlockCache`] keeps each in a file of its own:
//!
//! ```text
//! payload: the blocks, one after another | size field of each block, 32 bit | footer, 60 bytes:
//!     magic (8) | key (32) | payload bytes (64 bit) | number of blocks (64 bit) | CRC-32 of all before (32 bit)
//! ```
//!
//! Numbers are little-endian. A file is written under a temporary name and renamed, so concurrent builds see complete
//! objects only; they are not synced, and what a power cut or a bad disk left is found by length, key and CRC-32 and
//! counts as missing. The modification time of an object is its last use, for garbage collection.
#![expect(clippy::disallowed_methods, reason = "the cache does its own crash-safe file handling")]

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ksos_formats::Digest;
use tempfile::NamedTempFile;

use crate::cache::Cache;

const MAGIC: &[u8; 8] = b"ksosblk1";
const FOOTER: usize = 60;

/// In the size field of a block: the block is not compressed (`SQUASHFS_COMPRESSED_BIT_BLOCK`).
pub const UNCOMPRESSED_BLOCK: u32 = 1 << 24;

/// Blocks from the cache, checked.
pub struct StoredBlocks {
    /// Size field of each block: stored bytes, bit 24 set for an uncompressed block, 0 for a block of zeros.
    pub sizes: Vec<u32>,
    /// The blocks, one after another.
    pub data: Box<dyn Read + Send>,
}

/// An object being added; dropped before the commit, nothing is kept.
pub trait PendingBlocks {
    /// Adds one block with its size field.
    fn push(&mut self, size: u32, block: &[u8]);
    /// Keeps the object.
    fn commit(self: Box<Self>);
}

/// Keeps compressed blocks between builds. It never fails a build: what it cannot give or keep is missing.
pub trait BlockCache: Sync {
    /// Returns the object with this key, or `None` when it is missing or damaged.
    fn get(&self, key: &Digest) -> Option<StoredBlocks>;
    /// Starts adding the object with this key, or `None` when the cache cannot take it.
    fn begin(&self, key: &Digest) -> Option<Box<dyn PendingBlocks + '_>>;
}

/// Keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBlockCache;

impl BlockCache for NoBlockCache {
    fn get(&self, _: &Digest) -> Option<StoredBlocks> {
        None
    }

    fn begin(&self, _: &Digest) -> Option<Box<dyn PendingBlocks + '_>> {
        None
    }
}

/// A [`BlockCache`] in a directory, one file per object.
#[derive(Debug, Clone)]
pub struct DirectoryBlockCache {
    objects: PathBuf,
    temporary: PathBuf,
}

impl DirectoryBlockCache {
    /// Returns the cache in directory `objects`; files being written are in `temporary`, on the same file system.
    pub fn new(objects: PathBuf, temporary: PathBuf) -> Self {
        DirectoryBlockCache { objects, temporary }
    }

    /// Returns the block cache inside `cache`.
    pub fn in_cache(cache: &Cache) -> Self {
        Self::new(cache.bucket("blocks"), cache.bucket("tmp"))
    }

    fn path(&self, key: &Digest) -> PathBuf {
        let hex = key.hex();
        self.objects.join(&hex[..2]).join(hex)
    }
}

impl BlockCache for DirectoryBlockCache {
    fn get(&self, key: &Digest) -> Option<StoredBlocks> {
        let path = self.path(key);
        let file = File::open(&path).ok()?;
        match check(file, key) {
            Ok(Some(blocks)) => Some(blocks),
            Ok(None) => {
                // Damaged means missing; if it cannot be removed, the rename of the new one replaces it.
                let _ = fs::remove_file(&path);
                None
            }
            Err(_) => None,
        }
    }

    fn begin(&self, key: &Digest) -> Option<Box<dyn PendingBlocks + '_>> {
        let file = NamedTempFile::new_in(&self.temporary).ok()?;
        let path = self.path(key);
        let checksum = crc32fast::Hasher::new();
        Some(Box::new(PendingFile { key: *key, path, file, checksum, payload: 0, sizes: Vec::new(), failed: false }))
    }
}

/// Reads the whole of `file` once and returns its blocks, or `None` when it is not an undamaged object for `key`.
fn check(mut file: File, key: &Digest) -> io::Result<Option<StoredBlocks>> {
    let length = file.metadata()?.len();
    let Some(footer_start) = length.checked_sub(FOOTER as u64) else { return Ok(None) };
    let mut footer = [0; FOOTER];
    file.read_exact_at(&mut footer, footer_start)?;
    let number = |at: usize| u64::from_le_bytes(footer[at..at + 8].try_into().expect("8 bytes"));
    let (payload, count) = (number(40), number(48));
    let expected = count.checked_mul(4).and_then(|sizes| sizes.checked_add(payload));
    if footer[..8] != *MAGIC || footer[8..40] != key.0 || expected != Some(footer_start) {
        return Ok(None);
    }
    let mut stored_checksum = [0; 4];
    stored_checksum.copy_from_slice(&footer[FOOTER - 4..]);
    if checksum(&mut file, length - 4)? != u32::from_le_bytes(stored_checksum) {
        return Ok(None);
    }
    let mut sizes = vec![0; (footer_start - payload) as usize];
    file.read_exact_at(&mut sizes, payload)?;
    let sizes: Vec<u32> =
        sizes.chunks_exact(4).map(|size| u32::from_le_bytes([size[0], size[1], size[2], size[3]])).collect();
    if sizes.iter().map(|size| u64::from(size & !UNCOMPRESSED_BLOCK)).sum::<u64>() != payload {
        return Ok(None);
    }
    touch(&file);
    file.seek(SeekFrom::Start(0))?;
    Ok(Some(StoredBlocks { sizes, data: Box::new(file.take(payload)) }))
}

fn checksum(file: &mut File, length: u64) -> io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut left = length;
    while left > 0 {
        let count = left.min(buffer.len() as u64) as usize;
        file.read_exact(&mut buffer[..count])?;
        hasher.update(&buffer[..count]);
        left -= count as u64;
    }
    Ok(hasher.finalize())
}

/// Marks an object as used now. A cache that is shared read-only cannot be marked, which is fine.
fn touch(file: &File) {
    let time = |nanoseconds| rustix::fs::Timespec { tv_sec: 0, tv_nsec: nanoseconds };
    let times = rustix::fs::Timestamps {
        last_access: time(rustix::fs::UTIME_OMIT),
        last_modification: time(rustix::fs::UTIME_NOW),
    };
    let _ = rustix::fs::futimens(file, &times);
}

/// An object in its temporary file. After the first failure it takes no more and is not kept.
struct PendingFile {
    key: Digest,
    path: PathBuf,
    file: NamedTempFile,
    checksum: crc32fast::Hasher,
    payload: u64,
    sizes: Vec<u32>,
    failed: bool,
}

impl PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.checksum.update(bytes);
        self.file.write_all(bytes)
    }

    fn finish(mut self) -> io::Result<()> {
        let mut end: Vec<u8> = self.sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
        end.extend_from_slice(MAGIC);
        end.extend_from_slice(&self.key.0);
        end.extend(self.payload.to_le_bytes());
        end.extend((self.sizes.len() as u64).to_le_bytes());
        self.write(&end)?;
        let checksum = self.checksum.clone().finalize();
        self.file.write_all(&checksum.to_le_bytes())?;
        self.file.as_file().set_permissions(fs::Permissions::from_mode(0o444))?;
        fs::create_dir_all(self.path.parent().unwrap_or(Path::new(".")))?;
        self.file.persist(&self.path)?;
        Ok(())
    }
}

impl PendingBlocks for PendingFile {
    fn push(&mut self, size: u32, block: &[u8]) {
        self.sizes.push(size);
        self.payload += block.len() as u64;
        self.failed = self.failed || self.write(block).is_err();
    }

    fn commit(self: Box<Self>) {
        if !self.failed {
            // A full disk must not fail the build here: the object is missing the next time.
            let _ = self.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache_with(key: &Digest) -> (tempfile::TempDir, DirectoryBlockCache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = DirectoryBlockCache::in_cache(&Cache::open(directory.path()).unwrap());
        let mut pending = cache.begin(key).unwrap();
        pending.push(3, b"abc");
        pending.push(0, b"");
        pending.push(2 | UNCOMPRESSED_BLOCK, b"de");
        pending.commit();
        (directory, cache)
    }

    #[test]
    fn an_object_comes_back() {
        let key = Digest::of(b"key");
        let (_directory, cache) = cache_with(&key);
        let mut blocks = cache.get(&key).unwrap();
        assert_eq!(blocks.sizes, [3, 0, 2 | UNCOMPRESSED_BLOCK]);
        let mut data = Vec::new();
        blocks.data.read_to_end(&mut data).unwrap();
        assert_eq!(data, b"abcde");
        assert!(cache.get(&Digest::of(b"other")).is_none());
    }

    #[test]
    fn an_abandoned_object_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let store = Cache::open(directory.path()).unwrap();
        let cache = DirectoryBlockCache::in_cache(&store);
        let key = Digest::of(b"key");
        cache.begin(&key).unwrap().push(1, b"x");
        assert!(cache.get(&key).is_none());
        assert_eq!(fs::read_dir(store.bucket("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn every_damaged_byte_and_every_truncation_is_a_miss() {
        let key = Digest::of(b"key");
        let (_directory, cache) = cache_with(&key);
        let path = cache.path(&key);
        let good = fs::read(&path).unwrap();
        let replace = |bytes: &[u8]| {
            let _ = fs::remove_file(&path);
            fs::write(&path, bytes).unwrap();
        };
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 0x40;
            replace(&bad);
            assert!(cache.get(&key).is_none(), "byte {place}");
            replace(&good[..place]);
            assert!(cache.get(&key).is_none(), "truncated to {place}");
        }
        replace(&good);
        assert!(cache.get(&key).is_some());
    }

    #[test]
    fn an_object_under_another_name_is_a_miss() {
        let key = Digest::of(b"key");
        let (_directory, cache) = cache_with(&key);
        let other = Digest::of(b"other");
        fs::create_dir_all(cache.path(&other).parent().unwrap()).unwrap();
        fs::copy(cache.path(&key), cache.path(&other)).unwrap();
        assert!(cache.get(&other).is_none());
    }
}
