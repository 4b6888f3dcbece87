//! Registries (OCI distribution specification 1.1) as the place of artifacts: what is pushed there, and what is read back.
//!
//! - [`name`]: what the name of a file says of it.
//! - [`manifest`]: the document that names an artifact's blobs.
//! - [`push`]: blobs, then the manifest by digest or tag: a pointer never leads to what is not there.
//! - [`upload`]: one blob, however often it takes.
//! - `referrers`: the list of what refers to a manifest, for registries that keep none.
//! - [`signatures`]: what `cosign` signs and verifies of a manifest, in both of its forms.
//!
//! Credentials, proxies, certificates and retries are those of `source::oci` and `effects::net`. A tag is resolved once;
//! whatever is read is compared with the digest that it was asked for by.

pub mod manifest;
pub mod name;
pub mod push;
mod referrers;
pub mod signatures;
pub mod upload;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ksos_formats::Digest;
use ksos_formats::update::Blob;

use self::manifest::{INDEX, MANIFEST};
use crate::cache;
use crate::effects::fs::{self, FsError};
use crate::effects::net::{Answered, Body, Downloader, Exchange, FetchError, Manner, Request, SendFailure, Verb};
use crate::oci::document::{DOCKER_LIST, DOCKER_MANIFEST};
use crate::oci::reference::{Reference, ReferenceError};
use crate::source::oci::{Access, Action, Answering, Place, Registries};

/// Largest manifest or index that is read, in bytes: what registries take at least (OCI distribution specification 1.1,
/// "Pushing Manifests").
pub const MANIFEST_LIMIT: u64 = 4 << 20;

/// Something is wrong at or with a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A text that is no place in a registry.
    #[error("{text:?} is not oci://HOST/REPOSITORY: {reason}")]
    Place {
        /// The text.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// It cannot be asked or told.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A file cannot be read.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A document is not what it must be.
    #[error("{url}: {reason}")]
    Document {
        /// Where it is.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The registry has taken something else than what was sent.
    #[error("{url}: the registry has stored {found}, not {expected}")]
    Stored {
        /// Where.
        url: String,
        /// What was sent.
        expected: String,
        /// What it says it has stored.
        found: String,
    },
    /// A file is not what its digest says.
    #[error("{}: does not have SHA-256 {expected}: it is damaged, or changed while it was pushed", path.display())]
    Changed {
        /// The file.
        path: std::path::PathBuf,
        /// Its digest before.
        expected: Digest,
    },
    /// A signature cannot be made.
    #[error(transparent)]
    Sign(#[from] signatures::CosignSignError),
}

/// A place in a registry, as the command line states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The repository.
    pub place: Place,
    /// Tag, when there is one.
    pub tag: Option<String>,
    /// Digest, when there is one.
    pub digest: Option<Digest>,
}

impl Location {
    /// Reads `oci://HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST]`; `oci+http://` is not encrypted, nor is a registry on
    /// this machine. None when `text` is of another scheme.
    ///
    /// # Errors
    /// [`RegistryError::Place`].
    pub fn parse(text: &str) -> Option<Result<Self, RegistryError>> {
        let (rest, plain) = match (text.strip_prefix("oci://"), text.strip_prefix("oci+http://")) {
            (Some(rest), _) => (rest, None),
            (None, Some(rest)) => (rest, Some(true)),
            (None, None) => return None,
        };
        let wrong = |reason: &str| RegistryError::Place { text: text.to_owned(), reason: reason.to_owned() };
        let has_host = rest.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost");
        if !has_host {
            return Some(Err(wrong("it has no host")));
        }
        let parsed = rest.trim_end_matches('/').parse::<Reference>();
        Some(parsed.map_err(|error: ReferenceError| wrong(error.reason)).map(|reference| Location {
            place: Place::of(&reference, plain),
            tag: reference.tag,
            digest: reference.digest,
        }))
    }

    /// Returns digest or tag, as it stands in URLs.
    pub fn reference(&self) -> Option<String> {
        self.digest.map(|digest| format!("sha256:{digest}")).or_else(|| self.tag.clone())
    }
}

/// A repository of a registry.
#[derive(Debug)]
pub struct Registry<'a> {
    net: &'a Downloader,
    access: Arc<Access>,
    place: Place,
    mounts: Vec<String>,
}

/// A manifest and its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Their SHA-256.
    pub digest: Digest,
}

impl<'a> Registry<'a> {
    /// Returns the repository at `place`.
    pub fn new(net: &'a Downloader, registries: &Registries, place: &Place, action: Action) -> Self {
        Registry { net, access: registries.access(place, action), place: place.clone(), mounts: Vec::new() }
    }

    /// Returns the repository at `place` to push to; what is in the repositories `mounts` of the same registry need not be
    /// sent.
    pub fn with_mounts(net: &'a Downloader, registries: &Registries, place: &Place, mounts: Vec<String>) -> Self {
        Registry { net, access: registries.access_with(place, &mounts), place: place.clone(), mounts }
    }

    /// Returns the repository for people: `HOST/REPOSITORY`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.place.registry, self.place.repository)
    }

    /// Returns the URL of a manifest.
    pub fn manifest_url(&self, reference: &str) -> String {
        format!("{}/manifests/{reference}", self.place.base())
    }

    fn blob_url(&self, digest: &Digest) -> String {
        format!("{}/blobs/sha256:{digest}", self.place.base())
    }

    /// Gets a manifest or an index by tag or digest; `None` when it is not there.
    ///
    /// # Errors
    /// [`RegistryError::Fetch`].
    pub fn manifest(&self, reference: &str) -> Result<Option<Found>, RegistryError> {
        let urls = [self.manifest_url(reference)];
        let name = format!("{}:{reference}", self.name());
        let digest = reference.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
        let request = Request { name: &name, urls: &urls, digest, size: None, limit: MANIFEST_LIMIT };
        let accept = format!("{MANIFEST}, {INDEX}");
        let answering = self.answering(&name);
        let manner = Manner { accept: Some(&accept), authorize: Some(&answering), form: None };
        match self.net.document_as(&request, manner) {
            Ok(document) => Ok(Some(Found { digest: Digest::of(&document.bytes), bytes: document.bytes })),
            Err(FetchError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the digest that a tag has, as the registry says it; `None` when there is no such tag, or it is not said.
    ///
    /// # Errors
    /// [`RegistryError::Fetch`].
    pub fn digest_of(&self, tag: &str) -> Result<Option<Digest>, RegistryError> {
        let url = self.manifest_url(tag);
        let accept = [("accept", [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST].join(", "))];
        let answered = self.send(&self.name(), &url, Verb::Head, &accept, Body::None, &[200, 404])?;
        Ok(answered.header("docker-content-digest").and_then(parse_digest).filter(|_| answered.status == 200))
    }

    /// Gets a small blob, its size and digest verified.
    ///
    /// # Errors
    /// [`RegistryError::Fetch`].
    pub fn small_blob(&self, blob: &Blob, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let urls = [self.blob_url(&blob.sha256)];
        let name = self.blob_name(blob);
        let request = Request { name: &name, urls: &urls, digest: Some(blob.sha256), size: Some(blob.size), limit };
        if blob.size > limit {
            let reason = format!("has {} bytes; at most {limit} are read", blob.size);
            return Err(RegistryError::Document { url: urls[0].clone(), reason });
        }
        let answering = self.answering(&name);
        let manner = Manner { authorize: Some(&answering), ..Manner::default() };
        Ok(self.net.document_as(&request, manner)?.bytes)
    }

    /// Gets a blob into the cache, its size and digest verified.
    ///
    /// # Errors
    /// [`RegistryError::Fetch`].
    pub fn blob(&self, blob: &Blob) -> Result<cache::Blob, RegistryError> {
        let urls = [self.blob_url(&blob.sha256)];
        let name = self.blob_name(blob);
        let (digest, size) = (Some(blob.sha256), Some(blob.size));
        let request = Request { name: &name, urls: &urls, digest, size, limit: blob.size };
        let answering = self.answering(&name);
        let manner = Manner { authorize: Some(&answering), ..Manner::default() };
        Ok(self.net.blob_as(&request, manner, &AtomicBool::new(false))?)
    }

    /// Lists what refers to a manifest with this `artifactType`; `None` where the registry has no list.
    ///
    /// # Errors
    /// [`RegistryError::Fetch`].
    pub fn referrers(&self, digest: &Digest, artifact_type: &str) -> Result<Option<Vec<u8>>, RegistryError> {
        let kind = artifact_type.replace('+', "%2B");
        let url = format!("{}/referrers/sha256:{digest}?artifactType={kind}", self.place.base());
        let accept = [("accept", INDEX.to_owned())];
        // What registries without it answer.
        let absent = [200, 400, 404, 405, 501];
        let answered = self.send(&self.name(), &url, Verb::Get, &accept, Body::None, &absent)?;
        let is_index = answered.header("content-type").is_some_and(|kind| kind.starts_with(INDEX));
        Ok((answered.status == 200 && is_index).then_some(answered.body))
    }

    fn blob_name(&self, blob: &Blob) -> String {
        format!("{} blob {}", self.name(), &blob.sha256.hex()[..12])
    }

    fn answering<'n>(&'n self, name: &'n str) -> Answering<'n> {
        Answering { access: &self.access, fetch: self.net, name }
    }

    /// Sends one small request, again when it fails for a time.
    fn send(
        &self,
        name: &str,
        url: &str,
        verb: Verb,
        headers: &[(&'static str, String)],
        body: Body<'_>,
        expected: &[u16],
    ) -> Result<Answered, FetchError> {
        let mut task = self.net.task(name, None);
        let attempt = |_: &mut dyn crate::effects::progress::Task| {
            self.once(name, url, (verb, headers, body), expected, &mut |_| ()).map_err(|failure| (failure, false))
        };
        self.net.attempts((name, url), task.as_mut(), attempt)
    }

    fn once(
        &self,
        name: &str,
        url: &str,
        (verb, headers, body): (Verb, &[(&'static str, String)], Body<'_>),
        expected: &[u16],
        sent: &mut dyn FnMut(u64),
    ) -> Result<Answered, SendFailure> {
        let answering = self.answering(name);
        // Credentials are for the registry: storage of its that an upload is sent to has a URL that says enough.
        let base = self.place.base();
        let origin = base.strip_suffix(&format!("v2/{}", self.place.repository));
        let own = origin.is_some_and(|origin| url.starts_with(origin));
        let authorize = own.then_some(&answering as &dyn crate::effects::net::Authorize);
        let patience = Some(push::PATIENCE).filter(|_| !matches!(verb, Verb::Head | Verb::Get));
        self.net.exchange(&Exchange { verb, url, headers, body, authorize, patience }, sent)?.expect(self.net, expected)
    }
}

/// Reads `sha256:` and 64 digits.
fn parse_digest(text: &str) -> Option<Digest> {
    text.trim().strip_prefix("sha256:")?.parse().ok()
}

/// Returns the size and digest of a file.
///
/// # Errors
/// [`FsError`].
pub fn hash_file(path: &std::path::Path) -> Result<Blob, FsError> {
    hash_part(path, 0, u64::MAX)
}

/// Returns the size and digest of a part of a file: at most `length` bytes from `offset` on.
///
/// # Errors
/// [`FsError`].
pub fn hash_part(path: &std::path::Path, offset: u64, length: u64) -> Result<Blob, FsError> {
    use std::io::{Read as _, Seek as _};

    use crate::effects::fs::Context;
    let mut hasher = ksos_formats::digest::Hasher::new();
    let mut file = fs::open(path)?;
    file.seek(std::io::SeekFrom::Start(offset)).context("seek in", path)?;
    let mut reader = std::io::BufReader::with_capacity(1 << 20, file.take(length));
    let size = std::io::copy(&mut reader, &mut hasher).context("read", path)?;
    Ok(Blob { size, sha256: hasher.finish() })
}

#[cfg(test)]
mod tests;
