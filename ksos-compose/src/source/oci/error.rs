//! Why an image cannot be had.

use std::path::PathBuf;

use ksos_formats::Digest;

use crate::cache::CacheError;
use crate::effects::fs::FsError;
use crate::effects::net::FetchError;
use crate::oci::document::DocumentError;

/// An image could not be resolved, fetched or verified.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A file cannot be read.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The cache could not take it.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A document is not what it must be.
    #[error("sha256:{digest} {source}")]
    Document {
        /// The document.
        digest: Digest,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// A blob has other bytes than its digest says.
    #[error("its {what} has SHA-256 {actual}, expected {expected}")]
    Digest {
        /// Which blob.
        what: &'static str,
        /// Digest stated.
        expected: Digest,
        /// Digest of the bytes.
        actual: Digest,
    },
    /// A blob has another size than stated.
    #[error("its {what} sha256:{digest} has {actual} bytes, expected {expected}")]
    Size {
        /// Which blob.
        what: &'static str,
        /// The blob.
        digest: Digest,
        /// Size stated.
        expected: u64,
        /// Size of the bytes.
        actual: u64,
    },
    /// It is not the image that the manifest states.
    #[error(
        "the manifest states sha256:{expected}; found sha256:{named}{}",
        if named == manifest { String::new() } else { format!(", for this architecture sha256:{manifest}") }
    )]
    OtherDigest {
        /// Stated.
        expected: Digest,
        /// What the reference names.
        named: Digest,
        /// The image of the architecture.
        manifest: Digest,
    },
    /// What is on this machine is not what the lock has.
    #[error("{} has the image sha256:{actual}, the lock file sha256:{expected}", path.display())]
    Changed {
        /// Archive or layout.
        path: PathBuf,
        /// In the lock.
        expected: Digest,
        /// On this machine.
        actual: Digest,
    },
    /// Indexes within indexes.
    #[error("indexes are nested more than {depth} deep")]
    Depth {
        /// Deepest allowed.
        depth: usize,
    },
    /// None of several images has the name.
    #[error("there is no image {wanted}; there are {}", found.join(", "))]
    Names {
        /// Reference wanted.
        wanted: String,
        /// Names found.
        found: Vec<String>,
    },
    /// An archive or layout lacks something.
    #[error("{}: {entry} is missing", path.display())]
    Missing {
        /// Archive or layout.
        path: PathBuf,
        /// What is missing.
        entry: String,
    },
    /// An archive or layout is not one.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// Archive or layout.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Credentials cannot be read.
    #[error("the credentials for {registry} cannot be read from {}: {reason}", path.display())]
    Credentials {
        /// The registry.
        registry: String,
        /// Docker's configuration.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
}

impl ImageError {
    /// Returns a [`ImageError::Malformed`].
    pub(super) fn malformed(path: &std::path::Path, reason: impl Into<String>) -> Self {
        ImageError::Malformed { path: path.to_owned(), reason: reason.into() }
    }
}
