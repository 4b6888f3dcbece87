//! Components that are one file at a URL.
//!
//! [`Request::expand`] fills in version and architecture; [`resolve`] finds the digest and fetches the file;
//! [`fetch`] gets what an earlier run locked. The digest comes from the manifest, else from the lock (then [`resolve`]
//! is not called at all), else from the publisher's list of checksums, else from the first download: trust on first
//! use, which is never silent ([`Note`]).

mod checksums;
#[cfg(test)]
mod tests;

use ksos_formats::digest::Hasher;
use ksos_formats::{Arch, Digest};
use serde::{Deserialize, Serialize};

pub use self::checksums::{ChecksumsError, find_digest};
use crate::cache::Blob;
use crate::effects::net::{self, Fetch, FetchError, last_segment, redact};

/// The largest list of checksums, in bytes.
const MAX_CHECKSUMS: u64 = 1 << 20;

/// A component as the manifest states it.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The component's name.
    pub component: &'a str,
    /// What is built for.
    pub arch: Arch,
    /// Its version, for `{version}`.
    pub version: Option<&'a str>,
    /// Where the file is.
    pub url: &'a str,
    /// Other places where the same file is.
    pub mirrors: &'a [String],
    /// Where the publisher's list of checksums is.
    pub checksums: Option<&'a str>,
    /// The digest that the manifest states for this architecture.
    pub sha256: Option<Digest>,
    /// The largest file accepted, in bytes.
    pub limit: u64,
}

/// A component whose URLs are complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The component's name.
    pub component: String,
    /// Its version.
    pub version: Option<String>,
    /// Where the file is, then its mirrors.
    pub urls: Vec<String>,
    /// Where the publisher's list of checksums is.
    pub checksums: Option<String>,
    /// The digest that the manifest states.
    pub sha256: Option<Digest>,
    /// The largest file accepted, in bytes.
    pub limit: u64,
}

/// Who said that the digest is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinnedBy {
    /// The manifest.
    Manifest,
    /// The publisher's list of checksums.
    Checksums,
    /// Nobody: it is what the first download was.
    FirstUse,
}

/// What a component was resolved to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// Where the file is. Mirrors are not pinned: they may change without any change of the file.
    pub url: String,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Who said so.
    pub pinned_by: PinnedBy,
}

/// Something that the user is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The digest is that of the first download.
    FirstUse {
        /// The component.
        component: String,
        /// Where it came from.
        url: String,
        /// What it is.
        sha256: Digest,
        /// The list of checksums that should have said so but is not there.
        missing_checksums: Option<String>,
    },
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Note::FirstUse { component, url, sha256, missing_checksums } = self;
        write!(f, "component {component}: no checksum is known for {}", redact(url))?;
        if let Some(checksums) = missing_checksums {
            write!(f, " ({} does not exist)", redact(checksums))?;
        }
        write!(f, "; locked to what was downloaded now, SHA-256 {sha256}")
    }
}

/// A resolved component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// For the lock.
    pub pinned: Pinned,
    /// The file, in the cache.
    pub blob: Blob,
    /// To be told.
    pub note: Option<Note>,
}

/// A component cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// A placeholder that does not exist. A manifest error.
    #[error(
        "component {component}: unknown placeholder {{{placeholder}}} in {url}; there are {{version}}, {{arch}}, {{debian-arch}} and {{machine}}"
    )]
    Placeholder {
        /// The component.
        component: String,
        /// What stands between the braces.
        placeholder: String,
        /// The URL as the manifest has it.
        url: String,
    },
    /// A brace without its partner. A manifest error.
    #[error("component {component}: unbalanced brace in {url}")]
    Brace {
        /// The component.
        component: String,
        /// The URL as the manifest has it.
        url: String,
    },
    /// `{version}` without a version. A manifest error.
    #[error("component {component}: {{version}} in {url}, but the component has no version")]
    NoVersion {
        /// The component.
        component: String,
        /// The URL as the manifest has it.
        url: String,
    },
    /// The list of checksums does not say what the file's is.
    #[error("component {component}: {url}: {source}")]
    Checksums {
        /// The component.
        component: String,
        /// Where the list is.
        url: String,
        /// The cause.
        source: ChecksumsError,
    },
    /// It cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl Request<'_> {
    /// Fills in the placeholders.
    ///
    /// # Errors
    /// [`HttpError::Placeholder`], [`HttpError::Brace`], [`HttpError::NoVersion`].
    pub fn expand(&self) -> Result<Wanted, HttpError> {
        let all = std::iter::once(self.url).chain(self.mirrors.iter().map(String::as_str));
        Ok(Wanted {
            component: self.component.to_owned(),
            version: self.version.map(str::to_owned),
            urls: all.map(|url| self.substitute(url)).collect::<Result<_, _>>()?,
            checksums: self.checksums.map(|url| self.substitute(url)).transpose()?,
            sha256: self.sha256,
            limit: self.limit,
        })
    }

    fn substitute(&self, url: &str) -> Result<String, HttpError> {
        let component = || self.component.to_owned();
        let mut text = String::with_capacity(url.len());
        let mut rest = url;
        while let Some(start) = rest.find(['{', '}']) {
            let (before, tail) = rest.split_at(start);
            text.push_str(before);
            let placeholder = tail.strip_prefix('{').and_then(|tail| tail.split_once('}'));
            let Some((placeholder, tail)) = placeholder else {
                return Err(HttpError::Brace { component: component(), url: redact(url) });
            };
            text.push_str(match placeholder {
                "version" => match self.version {
                    Some(version) => version,
                    None => return Err(HttpError::NoVersion { component: component(), url: redact(url) }),
                },
                "arch" => self.arch.name(),
                "debian-arch" => self.arch.debian(),
                "machine" => self.arch.machine(),
                other => {
                    let placeholder = other.to_owned();
                    return Err(HttpError::Placeholder { component: component(), placeholder, url: redact(url) });
                }
            });
            rest = tail;
        }
        text.push_str(rest);
        Ok(text)
    }
}

impl Wanted {
    /// Returns the digest of everything that decides which file this is. Mirrors and the size limit do not.
    pub fn digest(&self) -> Digest {
        let Wanted { component: _, version, urls, checksums, sha256, limit: _ } = self;
        let mut hasher = Hasher::new();
        hasher.field(b"http 1");
        hasher.field(version.as_deref().unwrap_or_default().as_bytes());
        hasher.field(urls.first().map_or("", String::as_str).as_bytes());
        hasher.field(checksums.as_deref().unwrap_or_default().as_bytes());
        hasher.field(sha256.map(|digest| digest.hex()).unwrap_or_default().as_bytes());
        hasher.finish()
    }

    /// Returns the name of the file: the last segment of its URL.
    pub fn file_name(&self) -> &str {
        self.urls.first().map_or("", |url| last_segment(url))
    }

    fn label(&self) -> String {
        format!("component {}", self.component)
    }
}

/// Finds the digest of a component that the lock does not have, and fetches it.
///
/// # Errors
/// [`HttpError::Checksums`], [`HttpError::Fetch`].
pub fn resolve(fetch: &dyn Fetch, wanted: &Wanted) -> Result<Resolved, HttpError> {
    let mut missing_checksums = None;
    let (digest, pinned_by) = match (wanted.sha256, &wanted.checksums) {
        (Some(digest), _) => (Some(digest), PinnedBy::Manifest),
        (None, Some(url)) => match published_digest(fetch, wanted, url) {
            Ok(digest) => (Some(digest), PinnedBy::Checksums),
            // Older releases of a project may have no list; that is said.
            Err(HttpError::Fetch(FetchError::NotFound { .. })) => {
                missing_checksums = Some(url.clone());
                (None, PinnedBy::FirstUse)
            }
            Err(error) => return Err(error),
        },
        (None, None) => (None, PinnedBy::FirstUse),
    };
    let request = net::Request { name: &wanted.label(), urls: &wanted.urls, digest, size: None, limit: wanted.limit };
    let blob = fetch.blob(&request)?;
    let url = wanted.urls.first().cloned().unwrap_or_default();
    let note = (pinned_by == PinnedBy::FirstUse).then(|| Note::FirstUse {
        component: wanted.component.clone(),
        url: url.clone(),
        sha256: blob.digest,
        missing_checksums,
    });
    Ok(Resolved { pinned: Pinned { url, sha256: blob.digest, size: blob.size, pinned_by }, blob, note })
}

fn published_digest(fetch: &dyn Fetch, wanted: &Wanted, url: &str) -> Result<Digest, HttpError> {
    let name = format!("checksums of component {}", wanted.component);
    let urls = [url.to_owned()];
    let request = net::Request { name: &name, urls: &urls, digest: None, size: None, limit: MAX_CHECKSUMS };
    let document = fetch.document(&request)?;
    find_digest(&document, wanted.file_name()).map_err(|source| HttpError::Checksums {
        component: wanted.component.clone(),
        url: redact(url),
        source,
    })
}

/// Fetches what the lock has.
///
/// # Errors
/// [`HttpError::Fetch`].
pub fn fetch(fetch: &dyn Fetch, wanted: &Wanted, pinned: &Pinned) -> Result<Blob, HttpError> {
    let request = net::Request {
        name: &wanted.label(),
        urls: &wanted.urls,
        digest: Some(pinned.sha256),
        size: Some(pinned.size),
        limit: wanted.limit.max(pinned.size),
    };
    Ok(fetch.blob(&request)?)
}
