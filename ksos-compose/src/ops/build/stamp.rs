//! Whether a finished image is up to date, decided by `stat` alone: the manifest, lock, overlays, local components,
//! runtime sources and outputs are as they were when the last build ended. One of them changed, or was touched within
//! the clock's granularity: the build looks closer, by content.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ksos_formats::Digest;
use ksos_formats::update::{CHUNKS_FILE, INDEX_FILE};
use serde::{Deserialize, Serialize};

use super::{Built, release};
use crate::cache::Cache;
use crate::effects::{clock, fs};

/// The largest stamp read, in bytes.
const STAMP_LIMIT: u64 = 32 << 20;

/// Stat data of one file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
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

impl Seen {
    /// Looks at `path`.
    pub(super) fn now(path: PathBuf) -> Self {
        Seen { stat: stat(&path), path }
    }

    /// Whether the file is there as it was then.
    pub(super) fn is_current(&self) -> bool {
        self.stat.is_some() && stat(&self.path) == self.stat
    }
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
    /// Directories of releases, with the digests of their documents: signing one changes its file.
    releases: Vec<(PathBuf, Digest)>,
    /// What it made.
    pub built: Built,
}

/// Collects what a build sees, while it sees it. Made before anything is read.
#[derive(Debug)]
pub struct Watch {
    /// When the build started, in seconds since 1970.
    started: i64,
    inputs: BTreeSet<PathBuf>,
    outputs: BTreeSet<PathBuf>,
    releases: Vec<(PathBuf, Digest)>,
}

impl Watch {
    /// Starts watching.
    pub fn new() -> Self {
        let started = clock::now_seconds() as i64;
        Watch { started, inputs: BTreeSet::new(), outputs: BTreeSet::new(), releases: Vec::new() }
    }

    /// Adds one file, directory or missing path. Of a symbolic link, the link and what it leads to.
    pub fn path(&mut self, path: &Path) {
        self.inputs.insert(path.to_owned());
        if let Some(target) = fs::link_target(path) {
            self.inputs.insert(target);
        }
    }

    /// Adds a file, or a directory and everything below it. Only `path` itself may be a link that is followed.
    pub fn below(&mut self, path: &Path) {
        self.path(path);
        self.children(&fs::link_target(path).unwrap_or_else(|| path.to_owned()));
    }

    fn children(&mut self, path: &Path) {
        if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            for name in fs::list(path).unwrap_or_default() {
                let child = path.join(name);
                self.inputs.insert(child.clone());
                self.children(&child);
            }
        }
    }

    /// Adds a file that the build itself writes.
    pub fn output(&mut self, path: &Path) {
        self.outputs.insert(path.to_owned());
    }

    /// Adds the directory of a release that the build itself writes.
    pub fn release(&mut self, path: &Path) {
        self.output(&path.join(INDEX_FILE));
        self.output(&path.join(CHUNKS_FILE));
        self.releases.extend(release::document_digest(path).map(|digest| (path.to_owned(), digest)));
    }

    /// Ends the watch. `None` when an input was touched since the second in which the build started: the build may have
    /// seen it before or after.
    pub fn finish(self, settings: String, built: Built) -> Option<Stamp> {
        let Watch { started, mut inputs, outputs, releases } = self;
        inputs.retain(|path| !outputs.contains(path));
        let mut seen: Vec<Seen> = inputs.into_iter().map(Seen::now).collect();
        let touched = |stat: &Stat| stat.changed.0 >= started || stat.modified.0 >= started;
        let racy = seen.iter().any(|seen| seen.stat.as_ref().is_some_and(touched));
        seen.extend(outputs.into_iter().map(Seen::now));
        (!racy).then_some(Stamp { format: 2, settings, seen, releases, built })
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
        let same = |(path, digest): &(PathBuf, Digest)| release::document_digest(path) == Some(*digest);
        let current = stamp.settings == settings
            && stamp.seen.iter().all(|seen| stat(&seen.path) == seen.stat)
            && stamp.releases.iter().all(same);
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
