//! The artifact of one step in a registry.
//!
//! ```text
//! tag           v1-KEY                            the step's key, 64 digits
//! artifactType  application/vnd.kubesolo.os.cache.step.v1
//! layers        the blobs of the outputs, as they are or compressed (zstd); digest and size of the content are
//!               annotations of each
//! annotation    org.kubesolo.cache.record: the record in a signed envelope (DSSE), as JSON
//! ```
//!
//! Record and blobs' places come with one request. Layers and their annotations are not signed and need not be: what
//! is unpacked from them must have a digest that the record states.

use std::collections::BTreeMap;

use ksos_formats::Digest;
use ksos_formats::update::envelope::{Envelope, EnvelopeError, Payload};
use ksos_formats::update::{Blob, KeySet};
use serde::{Deserialize, Serialize};

use crate::graph::{Description, Outputs};
use crate::registry::manifest::{Descriptor, Manifest};

/// `artifactType` of a step.
pub const ARTIFACT: &str = "application/vnd.kubesolo.os.cache.step.v1";
/// Media type of a blob as it is.
pub const PLAIN: &str = "application/vnd.kubesolo.os.cache.blob.v1";
/// Media type of a compressed blob.
pub const COMPRESSED: &str = "application/vnd.kubesolo.os.cache.blob.v1+zstd";
/// Annotation of the manifest: the record in its envelope.
pub const RECORD: &str = "org.kubesolo.cache.record";
/// Annotation of a layer: SHA-256 of the content.
pub const CONTENT_DIGEST: &str = "org.kubesolo.cache.digest";
/// Annotation of a layer: size of the content in bytes.
pub const CONTENT_SIZE: &str = "org.kubesolo.cache.size";
/// A tag that is asked for to see whether the registry answers; it need not exist.
pub const PROBE_TAG: &str = "v1-probe";

/// Most outputs of a step.
const MAX_OUTPUTS: usize = 10_000;
/// The largest output, in bytes.
const MAX_SIZE: u64 = 64 << 30;

/// What is signed: a step with this key gives these outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`ksos_formats::update::FORMAT`].
    pub format: u32,
    /// Key of the step.
    pub key: Digest,
    /// Kind of the step.
    pub kind: String,
    /// Version of the kind.
    pub version: u32,
    /// Outputs by name.
    pub outputs: BTreeMap<String, Blob>,
    /// When it ends to be valid, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

impl Payload for Record {
    const TYPE: &'static str = "application/vnd.kubesolo.os.cache.record.v1+json";
}

/// What a registry has under a step's tag cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not the artifact of a step.
    #[error("{0}")]
    Artifact(String),
    /// No record, or none in an envelope.
    #[error("there is no signed record")]
    Unsigned,
    /// Nobody trusted has signed it, or it is something else.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// It is about another step.
    #[error("its record is about another key, {found}")]
    Key {
        /// The key in it.
        found: Digest,
    },
    /// The key is right, and what it is about is not.
    #[error("its record is about {kind} version {version}")]
    Step {
        /// Kind in it.
        kind: String,
        /// Version in it.
        version: u32,
    },
    /// It has ended.
    #[error("its record has expired")]
    Expired,
    /// More or larger than a step gives.
    #[error("its record has {outputs} outputs, the largest of {largest} bytes")]
    Size {
        /// How many.
        outputs: usize,
        /// Size of the largest.
        largest: u64,
    },
    /// A blob that the record names is not among the layers.
    #[error("it lacks the blob {0}")]
    Blob(Digest),
}

/// Where the bytes of a blob are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Size and digest of what the registry has.
    pub blob: Blob,
    /// It is compressed.
    pub compressed: bool,
}

/// Returns the tag of a step.
pub fn tag(key: &Digest) -> String {
    format!("v1-{key}")
}

/// Makes the record of what a step gave.
pub fn record(description: &Description, outputs: &Outputs, expires: Option<u64>) -> Record {
    let outputs = outputs.iter().map(|(name, blob)| (name.clone(), Blob { size: blob.size, sha256: blob.digest }));
    Record {
        format: ksos_formats::update::FORMAT,
        key: description.key(),
        kind: description.kind.clone(),
        version: description.version,
        outputs: outputs.collect(),
        expires,
    }
}

/// Reads the manifest under a step's tag, without believing it.
///
/// # Errors
/// [`RecordError::Artifact`].
pub fn parse(bytes: &[u8]) -> Result<Manifest, RecordError> {
    let manifest = Manifest::parse(bytes).map_err(RecordError::Artifact)?;
    if manifest.kind() != ARTIFACT {
        let reason = format!("it is an artifact of type {:.120?}, not {ARTIFACT:?}", manifest.kind());
        return Err(RecordError::Artifact(reason));
    }
    Ok(manifest)
}

/// Returns where blobs are, as the manifest says: by the digest of their content. Layers that make no sense are left out.
pub fn stored(manifest: &Manifest) -> BTreeMap<Digest, Stored> {
    manifest.layers.iter().take(MAX_OUTPUTS).filter_map(stored_layer).collect()
}

fn stored_layer(layer: &Descriptor) -> Option<(Digest, Stored)> {
    let blob = layer.blob().ok()?;
    match layer.media_type.as_str() {
        PLAIN => Some((blob.sha256, Stored { blob, compressed: false })),
        COMPRESSED => {
            let content = layer.annotations.get(CONTENT_DIGEST)?.parse().ok()?;
            Some((content, Stored { blob, compressed: true }))
        }
        _ => None,
    }
}

/// Returns the outputs that the manifest's record states for a step, when it can be believed at `now`, seconds since
/// 1970.
///
/// # Errors
/// [`RecordError`].
pub fn believed(
    manifest: &Manifest,
    description: &Description,
    trusted: &[KeySet],
    now: u64,
) -> Result<BTreeMap<String, Blob>, RecordError> {
    let text = manifest.annotations.get(RECORD).ok_or(RecordError::Unsigned)?;
    let envelope = Envelope::parse(text.as_bytes())?;
    let sets = || trusted.iter().filter(|set| !set.has_expired(now));
    let mut failure = RecordError::Unsigned;
    for set in sets() {
        match envelope.verify::<Record>(set) {
            Ok(verified) => return check(verified.into_value(), description, now),
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

fn check(record: Record, description: &Description, now: u64) -> Result<BTreeMap<String, Blob>, RecordError> {
    let Record { format: _, key, kind, version, outputs, expires } = record;
    if key != description.key() {
        return Err(RecordError::Key { found: key });
    }
    if kind != description.kind || version != description.version {
        return Err(RecordError::Step { kind: kind.chars().take(60).collect(), version });
    }
    if expires.is_some_and(|end| now >= end) {
        return Err(RecordError::Expired);
    }
    let largest = outputs.values().map(|blob| blob.size).max().unwrap_or_default();
    if outputs.len() > MAX_OUTPUTS || largest > MAX_SIZE {
        return Err(RecordError::Size { outputs: outputs.len(), largest });
    }
    Ok(outputs)
}
