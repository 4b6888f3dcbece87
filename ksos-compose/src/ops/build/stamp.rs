//! Whether a finished image is up to date, decided by `stat` alone: the manifest, lock, overlays, local components,
//! runtime sources and outputs are as they were when the last build ended. One of them changed, or was touched within
//! the clock's granularity: the build looks closer, by content.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ksos_formats::Digest;
use serde::{Deserialize, Serialize};

use super::Built;
use crate::cache::Cache;
use crate::effects::{clock, fs};

/// The largest stamp read, in bytes.
const STAMP_LIMIT: u64 = 32 << 20;

/// Stat data of one file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    path: PathBuf,
    /// `None`: the path did not exist.
    stat: Option<Stat>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stat {
    device: u64,
    inode: u64,
    mode: u32,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

fn stat(path: &Path) -> Option<Stat> {
    fs::symlink_metadata(path).ok().map(|metadata| Stat {
        device: metadata.dev(),
        inode: metadata.ino(),
        mode: metadata.mode(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// What a build saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    format: u32,
    /// Everything else that decides the result: options, environment, composer version.
    settings: String,
    seen: Vec<Seen>,
    /// What it made.
    pub built: Built,
}

/// Collects what a build sees, while it sees it.
#[derive(Debug, Default)]
pub struct Watch {
    paths: std::collections::BTreeSet<PathBuf>,
}

impl Watch {
    /// Adds one file, directory or missing path.
    pub fn path(&mut self, path: &Path) {
        self.paths.insert(path.to_owned());
    }

    /// Adds a file, or a directory and everything below it; symbolic links are not followed.
    pub fn below(&mut self, path: &Path) {
        self.paths.insert(path.to_owned());
        if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            for name in fs::list(path).unwrap_or_default() {
                self.below(&path.join(name));
            }
        }
    }

    /// Ends the watch. `None` when an input was touched so recently that a later change could look the same.
    pub fn finish(self, settings: String, built: Built) -> Option<Stamp> {
        let now = clock::now_seconds() as i64;
        let output = |path: &Path| built.artifacts.iter().any(|artifact| path.ends_with(&artifact.path));
        let seen: Vec<Seen> = self.paths.into_iter().map(|path| Seen { stat: stat(&path), path }).collect();
        // An output that somebody rewrites within the same second has another inode or change time.
        let racy = seen
            .iter()
            .filter(|seen| !output(&seen.path))
            .any(|seen| seen.stat.as_ref().is_some_and(|stat| stat.changed.0 >= now || stat.modified.0 >= now));
        (!racy).then_some(Stamp { format: 1, settings, seen, built })
    }
}

fn path(cache: &Cache, scope: &str) -> PathBuf {
    cache.bucket("stat").join(format!("build-{}.json", Digest::of(scope.as_bytes())))
}

impl Stamp {
    /// Returns the stamp of `scope` when everything is still as it was; a damaged stamp counts as none.
    pub fn if_current(cache: &Cache, scope: &str, settings: &str) -> Option<Stamp> {
        let bytes = fs::read(&path(cache, scope), STAMP_LIMIT).ok()?;
        let stamp: Stamp = serde_json::from_slice(&bytes).ok()?;
        let current = stamp.settings == settings && stamp.seen.iter().all(|seen| stat(&seen.path) == seen.stat);
        current.then_some(stamp)
    }

    /// Writes the stamp.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, cache: &Cache, scope: &str) -> Result<(), fs::FsError> {
        // A path that is not UTF-8 has no JSON form; such a build is never stamped, only slower to check.
        let Ok(text) = serde_json::to_vec(self) else { return Ok(()) };
        fs::write_atomic(&path(cache, scope), &text)
    }
}
