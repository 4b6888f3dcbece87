//! Digests of host files by their stat data, so that an unchanged overlay is not read again.
//!
//! One file, `stat/digests`: `KSOSSTA1`, then entries of 92 bytes in the order of their keys, then the SHA-256 of all
//! before it. An entry is device, inode, size, mtime and ctime (seconds and nanoseconds), the day of last use, and the
//! digest; numbers are little-endian. A file that is damaged in any way counts as empty. Two processes may save at
//! once: the later one wins and the other's entries are computed again some day.
//!
//! Git's "racy" problem: a file changed again within one tick of the clock, after it was hashed, would keep its times.
//! So a file whose mtime or ctime is within two seconds of the hashing is hashed each time. ctime cannot be set back
//! by `touch`, so restoring an old mtime does not deceive it.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;

use super::Cache;
use crate::effects::clock;
use crate::effects::fs::{self, Context, FsError};

const MAGIC: &[u8; 8] = b"KSOSSTA1";
const ENTRY: usize = 92;

/// Entries that are kept; the ones used longest ago go first.
const MAX_ENTRIES: usize = 100_000;

/// Seconds for which a changed file is not trusted.
const RACY: i64 = 2;

/// Days after which a use is written down again.
const USE_RESOLUTION: u32 = 7;

/// What identifies a file.
type Key = (u64, u64);

/// What must be unchanged for the digest to hold, and the digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
    used: u32,
    digest: Digest,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Key, Entry>,
    dirty: bool,
}

/// An open stat cache. Shared by threads.
#[derive(Debug)]
pub struct StatCache {
    path: PathBuf,
    state: Mutex<State>,
}

impl StatCache {
    /// Loads the stat cache of `cache`. A missing or damaged one is empty.
    pub fn open(cache: &Cache) -> Self {
        let path = cache.bucket("stat").join("digests");
        let limit = (MAGIC.len() + MAX_ENTRIES * ENTRY + 32) as u64;
        let entries = fs::read(&path, limit).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        StatCache { path, state: Mutex::new(State { entries, dirty: false }) }
    }

    /// Returns digest and size of the regular file at `path` (symbolic links are followed), reading it only when it
    /// is not known.
    ///
    /// # Errors
    /// When it cannot be read, is not a regular file, or keeps changing while it is read.
    pub fn digest(&self, path: &Path) -> Result<(Digest, u64), FsError> {
        let metadata = stat(path)?;
        if let Some(digest) = self.look_up(&metadata) {
            return Ok((digest, metadata.len()));
        }
        // A file that is being written while it is read has no digest; a second look catches an editor's save.
        for _ in 0..3 {
            let now = clock::now_seconds() as i64;
            let mut file = fs::open(path)?;
            let before = file.metadata().context("stat", path)?;
            let (digest, size) = hash(&mut file).context("read", path)?;
            let after = stat(path)?;
            if size == before.len() && entry(&before, digest) == entry(&after, digest) && key(&before) == key(&after) {
                self.remember(&after, digest, now);
                return Ok((digest, size));
            }
        }
        Err(io::Error::other("it changes while it is read")).context("read", path)
    }

    /// Writes what was learnt, if anything was.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> Result<(), FsError> {
        let mut state = self.lock();
        if state.dirty {
            trim(&mut state.entries, MAX_ENTRIES);
            fs::write_atomic(&self.path, &encode(&state.entries))?;
            state.dirty = false;
        }
        Ok(())
    }

    fn look_up(&self, metadata: &Metadata) -> Option<Digest> {
        let mut state = self.lock();
        let known = *state.entries.get(&key(metadata))?;
        if (Entry { used: known.used, ..entry(metadata, known.digest) }) != known {
            return None;
        }
        if today().saturating_sub(known.used) >= USE_RESOLUTION {
            state.entries.insert(key(metadata), Entry { used: today(), ..known });
            state.dirty = true;
        }
        Some(known.digest)
    }

    fn remember(&self, metadata: &Metadata, digest: Digest, now: i64) {
        if metadata.mtime().max(metadata.ctime()) + RACY < now {
            let mut state = self.lock();
            state.entries.insert(key(metadata), entry(metadata, digest));
            state.dirty = true;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stat(path: &Path) -> Result<Metadata, FsError> {
    let metadata = std::fs::metadata(path).context("stat", path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")).context("hash", path);
    }
    Ok(metadata)
}

fn hash(file: &mut std::fs::File) -> io::Result<(Digest, u64)> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 17];
    let mut size = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hasher.finish(), size)),
            count => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
        }
    }
}

fn today() -> u32 {
    u32::try_from(clock::now_seconds() / 86_400).unwrap_or(u32::MAX)
}

fn key(metadata: &Metadata) -> Key {
    (metadata.dev(), metadata.ino())
}

fn entry(metadata: &Metadata, digest: Digest) -> Entry {
    let nanoseconds = |value: i64| u32::try_from(value).unwrap_or(0);
    Entry {
        size: metadata.len(),
        modified: (metadata.mtime(), nanoseconds(metadata.mtime_nsec())),
        changed: (metadata.ctime(), nanoseconds(metadata.ctime_nsec())),
        used: today(),
        digest,
    }
}

/// Keeps the `limit` entries that were used last.
fn trim(entries: &mut BTreeMap<Key, Entry>, limit: usize) {
    if entries.len() > limit {
        let mut used: Vec<_> = entries.iter().map(|(key, entry)| (entry.used, *key)).collect();
        used.sort_unstable();
        for (_, key) in &used[..entries.len() - limit] {
            entries.remove(key);
        }
    }
}

fn encode(entries: &BTreeMap<Key, Entry>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + entries.len() * ENTRY + 32);
    bytes.extend_from_slice(MAGIC);
    for ((device, inode), entry) in entries {
        let Entry { size, modified, changed, used, digest } = entry;
        for number in [*device, *inode, *size, modified.0 as u64, changed.0 as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [modified.1, changed.1, *used, 0, 0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&digest.0);
    }
    let digest = Digest::of(&bytes);
    bytes.extend_from_slice(&digest.0);
    bytes
}

fn decode(bytes: &[u8]) -> Option<BTreeMap<Key, Entry>> {
    let (content, digest) = bytes.split_last_chunk::<32>()?;
    if Digest::of(content).0 != *digest {
        return None;
    }
    let chunks = content.strip_prefix(MAGIC)?.chunks_exact(ENTRY);
    if !chunks.remainder().is_empty() {
        return None;
    }
    chunks.map(decode_entry).collect()
}

fn decode_entry(chunk: &[u8]) -> Option<(Key, Entry)> {
    let long = |index: usize| Some(u64::from_le_bytes(chunk.get(index * 8..)?.first_chunk().copied()?));
    let short = |index: usize| Some(u32::from_le_bytes(chunk.get(40 + index * 4..)?.first_chunk().copied()?));
    let entry = Entry {
        size: long(2)?,
        modified: (long(3)? as i64, short(0)?),
        changed: (long(4)? as i64, short(1)?),
        used: short(2)?,
        digest: Digest(chunk.last_chunk().copied()?),
    };
    Some(((long(0)?, long(1)?), entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    struct Fixture {
        directory: tempfile::TempDir,
        cache: Cache,
    }

    fn fixture() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        Fixture { directory, cache }
    }

    /// Plants an entry that says `digest` for the file as it is, and saves it.
    fn plant(stats: &StatCache, path: &Path, digest: Digest) {
        stats.remember(&std::fs::metadata(path).unwrap(), digest, i64::MAX);
        stats.save().unwrap();
    }

    #[test]
    fn a_known_file_is_not_read_again_and_a_changed_one_is() {
        let fixture = fixture();
        let path = fixture.directory.path().join("file");
        fs::write_atomic(&path, b"one").unwrap();
        let lie = Digest::of(b"a digest that only the cache can have");
        plant(&StatCache::open(&fixture.cache), &path, lie);
        let stats = StatCache::open(&fixture.cache);
        assert_eq!(stats.digest(&path).unwrap(), (lie, 3));

        // Same size, same mtime: ctime tells.
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        io::Write::write_all(&mut &file, b"two").unwrap();
        file.set_modified(modified).unwrap();
        assert_eq!(stats.digest(&path).unwrap(), (Digest::of(b"two"), 3));
    }

    #[test]
    fn a_fresh_file_is_hashed_but_not_trusted() {
        let fixture = fixture();
        let path = fixture.directory.path().join("file");
        fs::write_atomic(&path, b"one").unwrap();
        let stats = StatCache::open(&fixture.cache);
        assert_eq!(stats.digest(&path).unwrap().0, Digest::of(b"one"));
        assert!(stats.lock().entries.is_empty());
        let metadata = std::fs::metadata(&path).unwrap();
        for (now, trusted) in
            [(metadata.ctime() + 2, false), (metadata.ctime() - 100, false), (metadata.ctime() + 3, true)]
        {
            stats.remember(&metadata, Digest::of(b"one"), now);
            assert_eq!(stats.lock().entries.len(), usize::from(trusted), "{now}");
        }
    }

    #[test]
    fn an_mtime_in_the_future_is_not_trusted() {
        let fixture = fixture();
        let path = fixture.directory.path().join("file");
        fs::write_atomic(&path, b"one").unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33)).unwrap();
        let stats = StatCache::open(&fixture.cache);
        stats.digest(&path).unwrap();
        assert!(stats.lock().entries.is_empty());
    }

    #[test]
    fn a_damaged_file_counts_as_empty() {
        let fixture = fixture();
        let path = fixture.directory.path().join("file");
        fs::write_atomic(&path, b"one").unwrap();
        plant(&StatCache::open(&fixture.cache), &path, Digest::of(b"lie"));
        let good = fs::read(&fixture.cache.bucket("stat").join("digests"), 1000).unwrap();
        assert_eq!(decode(&good).unwrap().len(), 1);
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1;
            assert_eq!(decode(&bad), None, "byte {position}");
            assert_eq!(decode(&good[..position]), None, "cut at {position}");
        }
        fs::write_atomic(&fixture.cache.bucket("stat").join("digests"), b"rubbish").unwrap();
        assert_eq!(StatCache::open(&fixture.cache).digest(&path).unwrap().0, Digest::of(b"one"));
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let entry = |used| Entry { size: 0, modified: (0, 0), changed: (0, 0), used, digest: Digest::of(b"") };
        let mut entries: BTreeMap<Key, Entry> =
            (0..10).map(|number| ((0, number), entry(10 - number as u32))).collect();
        trim(&mut entries, 4);
        assert_eq!(entries.keys().map(|key| key.1).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let fixture = fixture();
        let stats = StatCache::open(&fixture.cache);
        let error = stats.digest(fixture.directory.path()).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
        assert!(stats.digest(&fixture.directory.path().join("missing")).is_err());
    }
}
