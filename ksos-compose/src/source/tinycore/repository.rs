//! Where the files of a release are: on a mirror, or in a directory of this machine.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use ksos_formats::Digest;

use super::{Found, Info, PinnedFile, TinyCoreError};
use crate::effects::fs::{self, FsError};
use crate::effects::net::{Fetch, FetchError, Request, redact};

/// The largest base or extension, in bytes.
pub const FILE_LIMIT: u64 = 1 << 30;
/// The largest `.dep` or `.info` file, in bytes.
const TEXT_LIMIT: u64 = 256 << 10;
/// The largest list of all extensions, in bytes.
const LIST_LIMIT: u64 = 4 << 20;

/// A file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where it can be read.
    pub file: PathBuf,
    /// SHA-256.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
}

impl Place {
    pub(super) fn found(&self, path: &str, info: &Info) -> Found {
        let Info { version, license } = info;
        let pinned = PinnedFile {
            name: path.rsplit('/').next().unwrap_or(path).to_owned(),
            path: path.to_owned(),
            size: self.size,
            sha256: self.digest,
            version: version.clone(),
            license: license.clone(),
        };
        Found { pinned, place: self.file.clone() }
    }
}

/// Files of a release, by their paths below it.
pub trait Repository {
    /// Returns a small text; `None` when it is not there.
    ///
    /// # Errors
    /// [`TinyCoreError`].
    fn text(&self, path: &str) -> Result<Option<String>, TinyCoreError>;

    /// Returns a file; `None` when it is not there.
    ///
    /// # Errors
    /// [`TinyCoreError`].
    fn file(&self, path: &str) -> Result<Option<Place>, TinyCoreError>;

    /// Returns the names of all extensions, as far as they can be had: for hints.
    fn names(&self) -> Vec<String>;

    /// Returns what to call it in messages.
    fn title(&self) -> String;
}

/// A mirror.
pub struct Mirror<'a> {
    /// Downloads.
    pub fetch: &'a dyn Fetch,
    /// The component, for messages.
    pub component: &'a str,
    /// Addresses of the release, in the order to try.
    pub urls: Vec<String>,
}

impl Mirror<'_> {
    fn urls(&self, path: &str) -> Vec<String> {
        urls(&self.urls, path)
    }

    fn document(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, FetchError> {
        let name = format!("{path} of component {}", self.component);
        let request = Request { name: &name, urls: &self.urls(path), digest: None, size: None, limit };
        match self.fetch.document(&request) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(FetchError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Returns the addresses of `path` below the addresses of a release.
pub fn urls(releases: &[String], path: &str) -> Vec<String> {
    releases.iter().map(|url| format!("{}/{path}", url.trim_end_matches('/'))).collect()
}

impl Repository for Mirror<'_> {
    fn text(&self, path: &str) -> Result<Option<String>, TinyCoreError> {
        let Some(bytes) = self.document(path, TEXT_LIMIT)? else { return Ok(None) };
        text(bytes, path).map(Some)
    }

    fn file(&self, path: &str) -> Result<Option<Place>, TinyCoreError> {
        let name = format!("{path} of component {}", self.component);
        let request = Request { name: &name, urls: &self.urls(path), digest: None, size: None, limit: FILE_LIMIT };
        match self.fetch.blob(&request) {
            Ok(blob) => Ok(Some(Place { file: blob.path, digest: blob.digest, size: blob.size })),
            Err(FetchError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn names(&self) -> Vec<String> {
        let list = self.document("tcz/info.lst", LIST_LIMIT).ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&list).lines().map(|line| line.trim().to_owned()).collect()
    }

    fn title(&self) -> String {
        self.urls.first().map(|url| redact(url)).unwrap_or_default()
    }
}

/// Returns the digest and size of a local file.
pub type DigestOf<'a> = dyn FnMut(&Path) -> Result<(Digest, u64), FsError> + 'a;

/// A directory: laid out like a mirror, or with all files in it.
pub struct Local<'a> {
    directory: PathBuf,
    digest_of: RefCell<&'a mut DigestOf<'a>>,
}

impl<'a> Local<'a> {
    /// Returns the release in `directory`. `digest_of` is told of every file that counts.
    pub fn new(directory: &Path, digest_of: &'a mut DigestOf<'a>) -> Self {
        Local { directory: directory.to_owned(), digest_of: RefCell::new(digest_of) }
    }

    fn find(&self, path: &str) -> Option<PathBuf> {
        let name = path.rsplit('/').next().unwrap_or(path);
        [path, name].into_iter().map(|path| self.directory.join(path)).find(|path| path.is_file())
    }
}

impl Repository for Local<'_> {
    fn text(&self, path: &str) -> Result<Option<String>, TinyCoreError> {
        let Some(file) = self.find(path) else { return Ok(None) };
        text(fs::read(&file, TEXT_LIMIT)?, path).map(Some)
    }

    fn file(&self, path: &str) -> Result<Option<Place>, TinyCoreError> {
        let Some(file) = self.find(path) else { return Ok(None) };
        let (digest, size) = (self.digest_of.borrow_mut())(&file)?;
        Ok(Some(Place { file, digest, size }))
    }

    fn names(&self) -> Vec<String> {
        let directories = [self.directory.join("tcz"), self.directory.clone()];
        let names = directories.iter().flat_map(|directory| fs::list(directory).unwrap_or_default());
        names.filter_map(|name| name.into_string().ok()).filter(|name| name.ends_with(".tcz")).collect()
    }

    fn title(&self) -> String {
        self.directory.display().to_string()
    }
}

fn text(bytes: Vec<u8>, path: &str) -> Result<String, TinyCoreError> {
    String::from_utf8(bytes).map_err(|_| TinyCoreError::NotText { path: path.to_owned() })
}
