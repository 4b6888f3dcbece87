//! Downloads: the interface that sources use.

use std::path::PathBuf;

use ksos_formats::Digest;

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
    },
    /// `--offline` forbids the network and the cache does not have it.
    #[error("{name} is not in the cache and the network is not allowed")]
    Offline {
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

    /// Returns a small document in memory, always fetched anew.
    ///
    /// # Errors
    /// [`FetchError`].
    fn document(&self, request: &Request<'_>) -> Result<Vec<u8>, FetchError>;
}
