//! Downloads: the interface that sources use, and the HTTP downloader behind it.
//!
//! - [`Fetch`] is what sources code against; [`Downloader`] is the implementation; [`fetch_all`] runs many at once.
//! - [`Authorize`] answers for credentials, for sources whose servers ask for them.
//! - `send` sends requests that change something, such as uploads to a registry.
//! - `client` sends one request (proxy, redirects, credentials), `partial` keeps interrupted downloads, `failure` says why
//!   an attempt failed and whether another can help, `retry` how long to wait before it.
//!
//! A body is hashed while it comes, may never exceed its limit, and becomes a blob only when its size and digest are
//! right. Locks: the cache's shared lock, then one partial at a time.

mod authorize;
mod batch;
mod client;
mod download;
mod failure;
mod forward;
mod options;
mod partial;
mod proxy;
mod retry;
mod send;
#[cfg(test)]
pub(crate) mod tests;
mod url;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use ksos_formats::Digest;

pub use self::authorize::{Authorize, Document, Manner};
pub use self::batch::{FetchErrors, fetch_all};
pub use self::download::Downloader;
pub use self::options::NetOptions;
pub use self::proxy::ProxyVariables;
pub use self::retry::pause as retry_pause;
pub use self::send::{Answered, Body, Exchange, SendFailure, Verb};
pub use self::url::{basic_authorization, last_segment, redact};
use crate::cache::{Blob, CacheError};

/// One thing to download.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// What it is, for messages: a component or an index, e.g. `component kubesolo`.
    pub name: &'a str,
    /// Where it may be had, in the order to try. `file://` is not allowed.
    pub urls: &'a [String],
    /// Its SHA-256, when known.
    pub digest: Option<Digest>,
    /// Its exact size in bytes, when known.
    pub size: Option<u64>,
    /// The largest size accepted, in bytes.
    pub limit: u64,
}

/// A download failed. Maps to exit code 3.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Every URL failed; the last failure of each.
    #[error("cannot fetch {name}:\n{}", failures.iter().map(|(url, why)| format!("  {url}: {why}")).collect::<Vec<_>>().join("\n"))]
    Unreachable {
        /// [`Request::name`].
        name: String,
        /// URL and cause.
        failures: Vec<(String, String)>,
        /// Whether one of them answered that there is no such file.
        missing: bool,
    },
    /// `--offline` forbids the network and the cache does not have it.
    #[error("{name} is not in the cache and the network is not allowed")]
    Offline {
        /// [`Request::name`].
        name: String,
    },
    /// Every URL answered that there is no such file (status 404 or 410).
    #[error("{name} is gone from every place it may be had:\n{}", urls.iter().map(|url| format!("  {url}")).collect::<Vec<_>>().join("\n"))]
    NotFound {
        /// [`Request::name`].
        name: String,
        /// The URLs, without credentials.
        urls: Vec<String>,
    },
    /// The server refuses access.
    #[error("cannot fetch {name}: {place} refuses access: {reason}")]
    Denied {
        /// [`Request::name`].
        name: String,
        /// The server, without credentials.
        place: String,
        /// What it was told and what it answered.
        reason: String,
    },
    /// Something could not be sent.
    #[error("cannot send {name} to {place}: {reason}")]
    Send {
        /// What.
        name: String,
        /// URL, without credentials.
        place: String,
        /// The last failure.
        reason: String,
    },
    /// Given up because something else failed; what came so far is kept.
    #[error("the download of {name} was given up")]
    Cancelled {
        /// [`Request::name`].
        name: String,
    },
    /// The cache could not take it.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A partial download could not be used.
    #[error("cannot use {}: {source}", path.display())]
    Partial {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// Fetches things into the cache.
pub trait Fetch: Sync {
    /// Returns the blob. With a digest that the cache has, no request is made. Without a digest it is always fetched.
    ///
    /// # Errors
    /// [`FetchError`].
    fn blob(&self, request: &Request<'_>) -> Result<Blob, FetchError>;

    /// Like [`Fetch::blob`], but gives up with [`FetchError::Cancelled`] soon after `cancel` becomes true.
    ///
    /// # Errors
    /// [`FetchError`].
    fn blob_unless(&self, request: &Request<'_>, cancel: &AtomicBool) -> Result<Blob, FetchError> {
        if cancel.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(FetchError::Cancelled { name: request.name.to_owned() });
        }
        self.blob(request)
    }

    /// Returns a small document in memory, always fetched anew.
    ///
    /// # Errors
    /// [`FetchError`].
    fn document(&self, request: &Request<'_>) -> Result<Vec<u8>, FetchError>;
}
