//! Pushes artifacts (OCI distribution specification 1.1, "Push"): several blobs at once, then the manifests, those that
//! others name first. What the registry has is not sent again.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ksos_formats::Digest;
use ksos_formats::update::Blob;

use super::manifest::{Descriptor, EMPTY, EMPTY_BYTES, MANIFEST, Manifest, TITLE};
use super::upload::Arrival;
use super::{Registry, RegistryError, parse_digest};
use crate::effects::net::{Answered, Body, FetchError, Verb};

/// How long a registry may take to answer what changes something: it may copy a blob to its storage first.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// How many blobs are sent at once.
pub const CONCURRENT: usize = 4;

/// The bytes of a blob.
#[derive(Debug, Clone)]
pub enum Content<'a> {
    /// In memory.
    Bytes(Cow<'a, [u8]>),
    /// In a file.
    File {
        /// It.
        path: PathBuf,
        /// First byte.
        offset: u64,
    },
}

/// One blob of an artifact.
#[derive(Debug, Clone)]
pub struct Layer<'a> {
    /// Media type.
    pub media_type: String,
    /// Name of its file, for people.
    pub title: Option<String>,
    /// Further annotations.
    pub annotations: BTreeMap<String, String>,
    /// Size and digest of the bytes.
    pub blob: Blob,
    /// The bytes.
    pub content: Content<'a>,
}

impl<'a> Layer<'a> {
    /// Returns a layer of some bytes.
    pub fn bytes(media_type: &str, title: Option<&str>, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        let bytes = bytes.into();
        let blob = Blob { size: bytes.len() as u64, sha256: Digest::of(&bytes) };
        Layer::new(media_type, title, blob, Content::Bytes(bytes))
    }

    /// Returns a layer of a file, whose size and digest are known.
    pub fn file(media_type: &str, title: Option<&str>, blob: Blob, path: PathBuf) -> Self {
        Layer::part(media_type, title, blob, path, 0)
    }

    /// Returns a layer of a part of a file, from the byte `offset` on.
    pub fn part(media_type: &str, title: Option<&str>, blob: Blob, path: PathBuf, offset: u64) -> Self {
        Layer::new(media_type, title, blob, Content::File { path, offset })
    }

    fn new(media_type: &str, title: Option<&str>, blob: Blob, content: Content<'a>) -> Self {
        let (media_type, title) = (media_type.to_owned(), title.map(str::to_owned));
        Layer { media_type, title, annotations: BTreeMap::new(), blob, content }
    }

    /// Returns what a manifest says of it.
    pub fn descriptor(&self) -> Descriptor {
        let mut descriptor = Descriptor::new(&self.media_type, &self.blob);
        descriptor.annotations = self.annotations.clone();
        descriptor.annotations.extend(self.title.iter().map(|title| (TITLE.to_owned(), title.clone())));
        descriptor
    }
}

/// Something that a registry can hold: a release, a channel, a disk image.
#[derive(Debug, Clone)]
pub struct Artifact<'a> {
    /// What kind of thing it is, unless its configuration says it.
    pub artifact_type: Option<String>,
    /// Its configuration; none: an empty one.
    pub config: Option<Layer<'a>>,
    /// Its blobs.
    pub layers: Vec<Layer<'a>>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// The manifest that it is about.
    pub subject: Option<Descriptor>,
}

impl<'a> Artifact<'a> {
    /// Returns an artifact of a kind, with these blobs.
    pub fn new(artifact_type: &str, layers: Vec<Layer<'a>>) -> Self {
        let artifact_type = Some(artifact_type.to_owned());
        Artifact { artifact_type, config: None, layers, annotations: BTreeMap::new(), subject: None }
    }

    /// Returns its manifest: the same artifact has the same bytes.
    pub fn manifest(&self) -> Vec<u8> {
        let empty = || Descriptor::of(EMPTY, EMPTY_BYTES);
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: self.artifact_type.clone(),
            config: self.config.as_ref().map_or_else(empty, Layer::descriptor),
            layers: self.layers.iter().map(Layer::descriptor).collect(),
            subject: self.subject.clone(),
            annotations: self.annotations.clone(),
        };
        manifest.to_bytes()
    }
}

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Bytes of blobs that were sent.
    pub sent: u64,
    /// Whether nothing was to be done: the reference led there already.
    pub unchanged: bool,
}

/// Pushes an artifact: its blobs, then its manifest under `tag`, or by its digest alone.
///
/// # Errors
/// [`RegistryError`]; a tag that there was leads to where it led.
pub fn push(registry: &Registry<'_>, artifact: &Artifact<'_>, tag: Option<&str>) -> Result<Pushed, RegistryError> {
    let manifest = artifact.manifest();
    let digest = Digest::of(&manifest);
    let by_digest = format!("sha256:{digest}");
    let reference = tag.unwrap_or(&by_digest);
    if registry.digest_of(reference)? == Some(digest) {
        registry.ensure_listed(artifact, &manifest)?;
        return Ok(Pushed { digest, sent: 0, unchanged: true });
    }
    let empty = Layer::bytes(EMPTY, None, EMPTY_BYTES);
    let config = artifact.config.as_ref().unwrap_or(&empty);
    let layers: Vec<&Layer<'_>> = std::iter::once(config).chain(&artifact.layers).collect();
    let brought = push_blobs(registry, &layers)?;
    let answered = registry.put(&manifest, reference, MANIFEST)?;
    if answered.header("oci-subject").is_none() {
        registry.list_referrer(artifact, &manifest)?;
    }
    Ok(Pushed { digest, sent: brought.sent, unchanged: false })
}

/// What became of some blobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Brought {
    /// Bytes that were sent.
    pub sent: u64,
    /// How many were sent.
    pub blobs: usize,
    /// How many were in another repository of the registry.
    pub mounted: usize,
    /// How many were there.
    pub present: usize,
}

/// Brings blobs to the registry, each once and [`CONCURRENT`] at a time. After the first failure no other is begun, and
/// the running ones are given up.
///
/// # Errors
/// [`RegistryError`]: the first failure.
pub fn push_blobs(registry: &Registry<'_>, layers: &[&Layer<'_>]) -> Result<Brought, RegistryError> {
    let mut known = BTreeSet::new();
    let mut layers: Vec<&Layer<'_>> = layers.iter().copied().filter(|layer| known.insert(layer.blob.sha256)).collect();
    // The largest takes longest.
    layers.sort_by_key(|layer| std::cmp::Reverse(layer.blob.size));
    let (next, cancel) = (AtomicUsize::new(0), AtomicBool::new(false));
    let state: Mutex<(Brought, Option<RegistryError>)> = Mutex::default();
    let work = || {
        while !cancel.load(Ordering::Relaxed) {
            let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let result = registry.bring(layer, &cancel);
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let (brought, failure) = &mut *state;
            match result {
                Ok(Arrival::Sent) => {
                    brought.blobs += 1;
                    brought.sent += layer.blob.size;
                }
                Ok(Arrival::Mounted(_)) => brought.mounted += 1,
                Ok(Arrival::Present) => brought.present += 1,
                Err(error) => {
                    cancel.store(true, Ordering::Relaxed);
                    if failure.is_none() || matches!(failure, Some(RegistryError::Fetch(FetchError::Cancelled { .. })))
                    {
                        *failure = Some(error);
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..CONCURRENT.min(layers.len()) {
            scope.spawn(work);
        }
    });
    match state.into_inner().unwrap_or_else(PoisonError::into_inner) {
        (_, Some(error)) => Err(error),
        (brought, None) => Ok(brought),
    }
}

impl Registry<'_> {
    /// Puts the bytes of a manifest or an index, and checks what the registry has stored.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn put(&self, bytes: &[u8], reference: &str, media_type: &str) -> Result<Answered, RegistryError> {
        let url = self.manifest_url(reference);
        let name = format!("{}:{reference}", self.name());
        let headers = [("content-type", media_type.to_owned())];
        let answered = self.send(&name, &url, Verb::Put, &headers, Body::Bytes(bytes), &[200, 201, 202])?;
        let expected = Digest::of(bytes);
        match answered.header("docker-content-digest") {
            Some(text) if parse_digest(text) != Some(expected) => {
                let (expected, found) = (format!("sha256:{expected}"), format!("{text:.90}"));
                Err(RegistryError::Stored { url, expected, found })
            }
            _ => Ok(answered),
        }
    }
}
