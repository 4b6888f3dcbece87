//! Interrupted downloads.
//!
//! `partial/NAME` has the bytes so far and `partial/NAME.json` what they belong to. NAME is the digest that is
//! expected or, when none is known, `url-` and the digest of the URL. The file is locked (`flock`) while it is
//! written; whoever waited looks for the blob first. A finished file is renamed into `blobs`.
//! A crash leaves a prefix, or after a power cut anything at all: the digest decides in the end.
#![expect(clippy::disallowed_methods, reason = "a partial file outlives the process by design")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;
use serde::{Deserialize, Serialize};
use tempfile::{NamedTempFile, TempPath};

use super::FetchError;
use crate::cache::{Blob, Cache};

/// How often a locked partial is looked at again.
const POLL: Duration = Duration::from_millis(50);

/// What the bytes of a partial belong to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Validators {
    /// Digest of the URL that they came from.
    pub(super) url: Option<Digest>,
    /// The strong entity tag (RFC 9110, section 8.8.3).
    pub(super) etag: Option<String>,
    /// `Last-Modified`, only when it is strong (RFC 9110, section 8.8.2.2).
    pub(super) last_modified: Option<String>,
}

/// A partial download that this thread alone writes.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    validators: Validators,
    hasher: Hasher,
    size: u64,
    /// The most bytes that there ever were.
    high: u64,
}

impl Partial {
    /// Opens and locks the partial called `name`, waiting for whoever has it; `waiting` is called now and then, with
    /// true at first, and may give up. Reads what is there into the digest.
    pub(super) fn open(
        directory: &Path,
        name: &str,
        mut waiting: impl FnMut(bool) -> Result<(), FetchError>,
    ) -> Result<Self, FetchError> {
        let path = directory.join(name);
        let mut first = true;
        let file = loop {
            match lock(&path).map_err(|source| FetchError::Partial { path: path.clone(), source })? {
                Some(file) => break file,
                None => {
                    waiting(std::mem::take(&mut first))?;
                    std::thread::sleep(POLL);
                }
            }
        };
        let validators = fs::read(sidecar(&path)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut partial =
            Partial { file, path, validators: validators.unwrap_or_default(), hasher: Hasher::new(), size: 0, high: 0 };
        partial.load()?;
        Ok(partial)
    }

    fn load(&mut self) -> Result<(), FetchError> {
        let mut buffer = vec![0; 1 << 17];
        loop {
            let count = self.file.read(&mut buffer).map_err(|source| self.error(source))?;
            if count == 0 {
                break;
            }
            self.hasher.update(&buffer[..count]);
            self.size += count as u64;
        }
        self.high = self.size;
        Ok(())
    }

    /// Returns the bytes that are there.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Returns the digest of what is there.
    pub(super) fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Returns what the bytes belong to.
    pub(super) fn validators(&self) -> &Validators {
        &self.validators
    }

    /// Appends bytes.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.file.write_all(bytes).map_err(|source| self.error(source))?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Returns true when there is now clearly more than there ever was (a mebibyte), and remembers it.
    pub(super) fn progressed(&mut self) -> bool {
        let progressed = self.size >= self.high + (1 << 20);
        self.high = self.high.max(self.size);
        progressed
    }

    /// Starts again at zero.
    pub(super) fn reset(&mut self) -> Result<(), FetchError> {
        self.validators = Validators::default();
        let _ = fs::remove_file(sidecar(&self.path));
        self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0))).map_err(|source| self.error(source))?;
        self.hasher = Hasher::new();
        self.size = 0;
        Ok(())
    }

    /// Records what the bytes that follow belong to.
    pub(super) fn set_validators(&mut self, validators: Validators) -> Result<(), FetchError> {
        if self.validators != validators {
            let path = sidecar(&self.path);
            let bytes = serde_json::to_vec(&validators).expect("strings serialize");
            fs::write(&path, bytes).map_err(|source| FetchError::Partial { path, source })?;
            self.validators = validators;
        }
        Ok(())
    }

    /// Puts what is there into the cache.
    pub(super) fn finish(self, cache: &Cache) -> Result<Blob, FetchError> {
        let _ = fs::remove_file(sidecar(&self.path));
        let digest = self.hasher.finish();
        let path = TempPath::try_from_path(&self.path);
        let path = path.map_err(|source| FetchError::Partial { path: self.path, source })?;
        Ok(cache.persist(NamedTempFile::from_parts(self.file, path), digest, self.size)?)
    }

    /// Removes it.
    pub(super) fn discard(self) {
        // What cannot be removed is found useless, or collected, later.
        let _ = fs::remove_file(sidecar(&self.path));
        let _ = fs::remove_file(&self.path);
    }

    fn error(&self, source: io::Error) -> FetchError {
        FetchError::Partial { path: self.path.clone(), source }
    }
}

fn sidecar(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".json");
    path.into()
}

/// Tries to open and lock `path`; none when another has it, or finished it between opening and locking.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let (held, there) = (file.metadata()?, fs::metadata(path));
    let same = there.is_ok_and(|there| there.ino() == held.ino() && there.dev() == held.dev());
    Ok(same.then_some(file))
}
