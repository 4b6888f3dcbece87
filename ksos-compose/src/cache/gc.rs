//! Looking after the cache: what it holds, whether that is whole, and throwing out what nobody uses.
//!
//! Last use is the modification time: whoever uses an entry calls [`mark_used`], which touches it at most once a day
//! (access times are often switched off). Collection holds the cache's lock exclusively, so no build runs beside it,
//! and never waits for it. A crash at any point leaves a cache that lacks entries, which builds make again.

use std::collections::BTreeSet;
use std::fs::{File, FileTimes, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;
use serde::{Deserialize, Serialize};

use super::{Blob, Cache, CacheError, VERSION};
use crate::effects::clock;
use crate::effects::fs::{self as files, Context};

/// Seconds in a day.
const DAY: u64 = 86_400;

/// Buckets whose entries are kept by use.
const KEPT_BY_USE: [&str; 4] = ["actions", "blobs", "blocks", "cargo"];

/// Every bucket.
const BUCKETS: [&str; 6] = ["actions", "blobs", "blocks", "partial", "stat", "tmp"];

/// The largest action record that is read, in bytes.
const MAX_ACTION: u64 = 16 << 20;

/// The bucket of toolchains and target directories of programs that are built from source: each is kept or goes as a
/// whole.
const CARGO: &str = "cargo";

/// One file of the cache, or one directory of the bucket `cargo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The bucket.
    pub bucket: &'static str,
    /// The file's path below its bucket.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Seconds since its last use.
    pub age: u64,
    /// The file.
    #[serde(skip)]
    pub path: PathBuf,
}

/// What an action record says of its outputs; the rest of the record is its writer's business.
#[derive(Debug, Deserialize)]
struct Action {
    outputs: std::collections::BTreeMap<String, Output>,
}

#[derive(Debug, Deserialize)]
struct Output {
    digest: Digest,
}

/// What [`verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Blobs that were hashed.
    pub blobs: usize,
    /// Their size in bytes.
    pub bytes: u64,
    /// Blobs that were damaged and are removed, by the name of their file.
    pub damaged: Vec<String>,
    /// Action records that named a damaged blob or were damaged themselves, and are removed.
    pub actions: Vec<String>,
}

/// What may stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// Entries unused for longer go.
    pub max_age: Option<Duration>,
    /// The longest unused go until all together have at most this many bytes.
    pub max_size: Option<u64>,
}

/// What [`gc`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Another process uses the cache; nothing was done.
    InUse,
    /// Done.
    Collected(GcReport),
}

/// What a collection removed and left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Files removed.
    pub removed: usize,
    /// Their size in bytes.
    pub freed: u64,
    /// Files left.
    pub kept: usize,
    /// Their size in bytes.
    pub size: u64,
    /// Files that could not be removed, with the cause. They are left for the next collection.
    pub failed: Vec<String>,
}

/// Records that the entry at `path`, whose `metadata` is at hand, is in use. Does nothing when that was recorded
/// within the last day, and never fails: at worst the entry is collected early.
pub fn mark_used(path: &Path, metadata: &Metadata) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(clock::now_seconds());
    let recent = |modified: SystemTime| match now.duration_since(modified) {
        Ok(age) => age.as_secs() < DAY,
        Err(_) => true,
    };
    if metadata.modified().is_ok_and(recent) {
        return;
    }
    // Entries are read-only, but their owner may set their times all the same.
    if let Ok(file) = files::open(path) {
        let _ = file.set_times(FileTimes::new().set_modified(now));
    }
}

/// Lists what the cache holds, by bucket and name.
///
/// # Errors
/// When a directory cannot be read.
pub fn ls(cache: &Cache) -> Result<Vec<Entry>, CacheError> {
    list(&cache.root)
}

fn list(root: &Path) -> Result<Vec<Entry>, CacheError> {
    let now = clock::now_seconds();
    let mut entries = Vec::new();
    for bucket in BUCKETS {
        walk(bucket, &root.join(bucket), "", now, &mut entries)?;
    }
    // Nothing is there before the first program is built.
    for kind in ["target", "toolchain"] {
        let directory = root.join(CARGO).join(kind);
        for name in files::list(&directory).unwrap_or_default() {
            let path = directory.join(&name);
            // A file there names the toolchain in use.
            let Some(metadata) = files::symlink_metadata(&path).ok().filter(Metadata::is_dir) else { continue };
            let mut inside = Vec::new();
            walk(CARGO, &path, "", now, &mut inside)?;
            let size = inside.iter().map(|entry| entry.size).sum();
            let name = format!("{kind}/{}", name.to_string_lossy());
            entries.push(Entry { bucket: CARGO, name, size, age: age(&metadata, now), path });
        }
    }
    Ok(entries)
}

fn walk(
    bucket: &'static str,
    directory: &Path,
    prefix: &str,
    now: u64,
    entries: &mut Vec<Entry>,
) -> Result<(), CacheError> {
    for name in files::list(directory)? {
        let path = directory.join(&name);
        let name = format!("{prefix}{}", name.to_string_lossy());
        // What another process removes meanwhile is not there.
        let Ok(metadata) = files::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            walk(bucket, &path, &format!("{name}/"), now, entries)?;
        } else {
            entries.push(Entry { bucket, name, size: metadata.len(), age: age(&metadata, now), path });
        }
    }
    Ok(())
}

fn age(metadata: &Metadata, now: u64) -> u64 {
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    now.saturating_sub(modified.map_or(0, |time| time.as_secs()))
}

/// Hashes every blob, `jobs` at a time, and removes the damaged ones and the action records that name them.
///
/// # Errors
/// When a directory cannot be read or a damaged file not be removed.
pub fn verify(cache: &Cache, jobs: std::num::NonZero<usize>) -> Result<VerifyReport, CacheError> {
    let entries = ls(cache)?;
    let blobs: Vec<_> = entries.iter().filter(|entry| entry.bucket == "blobs").collect();
    let paths: Vec<&Path> = blobs.iter().map(|entry| entry.path.as_path()).collect();
    let damaged = find_damaged(&paths, jobs);
    let mut report =
        VerifyReport { blobs: blobs.len(), bytes: blobs.iter().map(|blob| blob.size).sum(), ..Default::default() };
    for entry in entries.iter().filter(|entry| entry.bucket == "actions") {
        let names_damaged = |action: Action| {
            action.outputs.values().any(|output| damaged.iter().any(|path| *path == cache.blob_path(&output.digest)))
        };
        let bytes = files::read(&entry.path, MAX_ACTION).ok();
        let action = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if action.is_none_or(names_damaged) {
            remove(&entry.path)?;
            report.actions.push(entry.name.clone());
        }
    }
    for path in &damaged {
        remove(path)?;
        report.damaged.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    Ok(report)
}

/// Hashes `blobs`, `jobs` at a time, and removes the damaged ones; returns these. The records that name them count as
/// missing from then on.
///
/// # Errors
/// When a damaged file cannot be removed.
pub fn drop_damaged<'a>(
    blobs: impl IntoIterator<Item = &'a Blob>,
    jobs: std::num::NonZero<usize>,
) -> Result<Vec<PathBuf>, CacheError> {
    let there = |blob: &&Blob| files::symlink_metadata(&blob.path).is_ok();
    let paths: BTreeSet<&Path> = blobs.into_iter().filter(there).map(|blob| blob.path.as_path()).collect();
    let damaged = find_damaged(&paths.into_iter().collect::<Vec<_>>(), jobs);
    damaged.iter().try_for_each(|path| remove(path))?;
    Ok(damaged.into_iter().collect())
}

fn find_damaged(blobs: &[&Path], jobs: std::num::NonZero<usize>) -> BTreeSet<PathBuf> {
    let next = AtomicUsize::new(0);
    let damaged = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.get().min(blobs.len()) {
            scope.spawn(|| {
                while let Some(path) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !is_whole(path) {
                        damaged.lock().expect("no thread panics with it").insert(path.to_path_buf());
                    }
                }
            });
        }
    });
    damaged.into_inner().expect("no thread panics with it")
}

/// Whether the content of the blob at `path` is what its name says. An unreadable blob is as good as a damaged one.
pub fn is_whole(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<Digest>().ok());
    let Some(expected) = name else { return false };
    files::open(path).is_ok_and(|file| hash(file).is_ok_and(|digest| digest == expected))
}

fn hash(mut file: File) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Collects in the cache below `root`, the path that [`Cache::open`] takes; the caller must not have it open. Partial
/// downloads go after a week, temporary files of dead processes after a day, and what is kept about host files, builds and
/// locks after 90 days without a change (a build then looks closer once), whatever the policy.
///
/// # Errors
/// When the cache cannot be locked or listed. A file that cannot be removed is reported, not an error.
pub fn gc(root: &Path, policy: Policy) -> Result<Outcome, CacheError> {
    let root = root.join(VERSION);
    let path = root.join("lock");
    if files::symlink_metadata(&path).is_err() {
        return Ok(Outcome::Collected(GcReport::default()));
    }
    let lock = File::options().read(true).write(true).open(&path).context("open", &path)?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Outcome::InUse),
        Err(error) => return Err(io::Error::from(error)).context("lock", &path).map_err(CacheError::from),
    }
    let (doomed, kept) = choose(list(&root)?, policy);
    let mut report =
        GcReport { kept: kept.len(), size: kept.iter().map(|entry| entry.size).sum(), ..Default::default() };
    for entry in doomed {
        match files::remove_tree(&entry.path) {
            Ok(()) => {
                report.removed += 1;
                report.freed += entry.size;
            }
            Err(error) => report.failed.push(error.to_string()),
        }
    }
    Ok(Outcome::Collected(report))
}

/// Splits `entries` into those that go, action records first and the longest unused first among the same kind, and
/// those that stay.
fn choose(entries: Vec<Entry>, policy: Policy) -> (Vec<Entry>, Vec<Entry>) {
    let too_old = |entry: &Entry| match entry.bucket {
        "tmp" => entry.age > DAY,
        "partial" => entry.age > 7 * DAY,
        "stat" => entry.age > 90 * DAY,
        _ => policy.max_age.is_some_and(|limit| entry.age > limit.as_secs()),
    };
    let (mut doomed, mut kept): (Vec<_>, Vec<_>) = entries.into_iter().partition(too_old);
    if let Some(limit) = policy.max_size {
        let mut size: u64 = kept.iter().map(|entry| entry.size).sum();
        kept.sort_by(|a, b| b.age.cmp(&a.age).then_with(|| (a.bucket, &a.name).cmp(&(b.bucket, &b.name))));
        let goes = |entry: &Entry| {
            let goes = size > limit && KEPT_BY_USE.contains(&entry.bucket);
            if goes {
                size -= entry.size;
            }
            goes
        };
        let (more, rest): (Vec<_>, Vec<_>) = kept.into_iter().partition(goes);
        doomed.extend(more);
        kept = rest;
    }
    doomed.sort_by_key(|entry| (entry.bucket != "actions", u64::MAX - entry.age));
    (doomed, kept)
}

fn remove(path: &Path) -> Result<(), CacheError> {
    Ok(files::remove_file(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZero;

    const JOBS: NonZero<usize> = NonZero::new(2).unwrap();

    fn write(path: &Path, bytes: &[u8], age: u64) {
        files::write_atomic(path, bytes).unwrap();
        set_age(path, age);
    }

    fn set_age(path: &Path, age: u64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(clock::now_seconds() - age);
        files::open(path).unwrap().set_modified(time).unwrap();
    }

    fn action(cache: &Cache, key: &str, outputs: &[Digest]) -> PathBuf {
        let outputs: std::collections::BTreeMap<_, _> =
            outputs.iter().map(|digest| (digest.hex(), serde_json::json!({ "digest": digest, "size": 1 }))).collect();
        let path = cache.bucket("actions").join(&key[..2]).join(format!("{key}.json"));
        let record = serde_json::json!({ "kind": "pack", "outputs": outputs });
        files::write_atomic(&path, record.to_string().as_bytes()).unwrap();
        path
    }

    #[test]
    fn ls_names_every_entry_with_size_and_age() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let blob = cache.insert(b"hello").unwrap();
        set_age(&blob.path, 100);
        write(&cache.bucket("partial").join("x"), b"123", 0);
        let entries = ls(&cache).unwrap();
        let hex = blob.digest.hex();
        assert_eq!((entries[0].bucket, entries[0].name.clone()), ("blobs", format!("{}/{hex}", &hex[..2])));
        assert!(entries[0].size == 5 && (100..110).contains(&entries[0].age), "{entries:?}");
        assert_eq!((entries[1].bucket, entries[1].name.as_str(), entries[1].size), ("partial", "x", 3));
        assert_eq!(entries.len(), 2);
    }

    #[test]
    fn verify_removes_damaged_blobs_and_the_actions_that_name_them() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let (good, bad) = (cache.insert(b"good").unwrap(), cache.insert(b"bad!").unwrap());
        write(&bad.path, b"BAD!", 0);
        let rubbish = cache.bucket("blobs").join("zz").join("not-a-digest");
        write(&rubbish, b"x", 0);
        let fine = action(&cache, "aa11", &[good.digest]);
        let broken = action(&cache, "bb22", &[good.digest, bad.digest]);
        let torn = cache.bucket("actions").join("cc").join("cc33.json");
        write(&torn, b"{\"outputs\": {", 0);

        let report = verify(&cache, JOBS).unwrap();
        assert_eq!((report.blobs, report.bytes), (3, 9));
        let mut expected = vec![bad.digest.hex(), "not-a-digest".to_owned()];
        expected.sort();
        assert_eq!(report.damaged, expected);
        assert_eq!(report.actions, ["bb/bb22.json", "cc/cc33.json"]);
        assert!(good.path.exists() && fine.exists());
        assert!(!bad.path.exists() && !broken.exists() && !rubbish.exists() && !torn.exists());
        assert_eq!(verify(&cache, JOBS).unwrap().damaged, Vec::<String>::new());
    }

    #[test]
    fn gc_says_when_the_cache_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let blob = cache.insert(b"hello").unwrap();
        let all = Policy { max_age: None, max_size: Some(0) };
        assert_eq!(gc(directory.path(), all).unwrap(), Outcome::InUse);
        drop(cache);
        let Outcome::Collected(report) = gc(directory.path(), all).unwrap() else { panic!("in use") };
        assert_eq!((report.removed, report.freed, report.kept, report.size), (1, 5, 0, 0));
        assert!(!blob.path.exists());
        assert_eq!(Cache::open(directory.path()).unwrap().blob(&blob.digest, None), None);
    }

    #[test]
    fn gc_of_a_cache_that_never_was_creates_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(gc(directory.path(), Policy::default()).unwrap(), Outcome::Collected(GcReport::default()));
        assert_eq!(files::list(directory.path()).unwrap().len(), 0);
    }

    #[test]
    fn gc_goes_by_last_use_and_size() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let blobs: Vec<_> = (0..4_u8).map(|number| cache.insert(&[number; 100]).unwrap()).collect();
        for (blob, days) in blobs.iter().zip([40, 3, 2, 1]) {
            set_age(&blob.path, days * DAY);
        }
        let expected = [
            (cache.bucket("tmp").join("old"), 2 * DAY, false),
            (cache.bucket("tmp").join("new"), DAY / 2, true),
            (cache.bucket("partial").join("old"), 8 * DAY, false),
            (cache.bucket("partial").join("new"), 6 * DAY, true),
            (cache.bucket("stat").join("digests"), 89 * DAY, true),
            (cache.bucket("stat").join("lock-0"), 91 * DAY, false),
        ];
        for (path, age, _) in &expected {
            write(path, b"", *age);
        }
        drop(cache);
        let policy = Policy { max_age: Some(Duration::from_secs(30 * DAY)), max_size: Some(250) };
        let Outcome::Collected(report) = gc(directory.path(), policy).unwrap() else { panic!("in use") };
        assert_eq!((report.removed, report.freed, report.size), (5, 200, 200));
        assert_eq!(blobs.iter().map(|blob| blob.path.exists()).collect::<Vec<_>>(), [false, false, true, true]);
        for (path, _, kept) in &expected {
            assert_eq!(path.exists(), *kept, "{}", path.display());
        }
    }

    #[test]
    fn what_cargo_made_goes_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let place = |name: &str, days: u64| {
            let path = cache.bucket("cargo").join(name);
            write(&path.join("deep/object"), &[0; 100], 0);
            set_age(&path, days * DAY);
            path
        };
        let paths = [place("target/old", 40), place("target/new", 2), place("toolchain/old", 31)];
        drop(cache);
        let policy = Policy { max_age: Some(Duration::from_secs(30 * DAY)), max_size: None };
        let Outcome::Collected(report) = gc(directory.path(), policy).unwrap() else { panic!("in use") };
        assert_eq!(paths.map(|path| path.exists()), [false, true, false]);
        assert_eq!((report.removed, report.freed, report.size), (2, 200, 100));
    }

    #[test]
    fn use_is_recorded_once_a_day() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let blob = cache.insert(b"hello").unwrap();
        let age_of = || age(&files::symlink_metadata(&blob.path).unwrap(), clock::now_seconds());
        set_age(&blob.path, 10 * DAY);
        cache.blob(&blob.digest, Some(5)).unwrap();
        assert!(age_of() < 10);
        set_age(&blob.path, DAY / 2);
        cache.blob(&blob.digest, Some(5)).unwrap();
        assert!(age_of() >= DAY / 2);
    }
}
