//! Image manifests and indexes of artifacts (OCI image specification 1.1, "Guidelines for Artifact Usage").

use std::collections::BTreeMap;

use ksos_formats::Digest;
use ksos_formats::update::Blob;
use serde::{Deserialize, Serialize};

use crate::oci::document::Platform;

/// Media type of a manifest.
pub use crate::oci::document::{INDEX, MANIFEST};

/// Media type of an empty configuration ("Guidance for an Empty Descriptor").
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The bytes of an empty configuration.
pub const EMPTY_BYTES: &[u8] = b"{}";
/// Annotation with the name of a layer's file ("Pre-Defined Annotation Keys").
pub const TITLE: &str = "org.opencontainers.image.title";

/// What is said of a blob ("OCI Content Descriptors").
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type.
    #[serde(default)]
    pub media_type: String,
    /// `sha256:` and hexadecimal digits, or what somebody put there.
    pub digest: String,
    /// Size in bytes.
    pub size: u64,
    /// What kind of artifact it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Describes a blob.
    pub fn new(media_type: &str, blob: &Blob) -> Self {
        Descriptor {
            media_type: media_type.to_owned(),
            digest: format!("sha256:{}", blob.sha256),
            size: blob.size,
            ..Descriptor::default()
        }
    }

    /// Describes some bytes.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Descriptor::new(media_type, &Blob { size: bytes.len() as u64, sha256: Digest::of(bytes) })
    }

    /// Returns size and digest.
    ///
    /// # Errors
    /// What is wrong with the digest.
    pub fn blob(&self) -> Result<Blob, String> {
        let sha256 = super::parse_digest(&self.digest);
        let sha256 = sha256.ok_or_else(|| format!("{:.90?} is not a SHA-256 digest", self.digest))?;
        Ok(Blob { size: self.size, sha256 })
    }
}

/// A manifest ("OCI Image Manifest Specification").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// [`MANIFEST`].
    #[serde(default)]
    pub media_type: String,
    /// What kind of artifact it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Configuration.
    pub config: Descriptor,
    /// The blobs.
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Manifest =
            serde_json::from_slice(bytes).map_err(|error| format!("not an image manifest: {error}"))?;
        if manifest.schema_version != 2 {
            return Err(format!("schemaVersion is {}, not 2", manifest.schema_version));
        }
        if !["", MANIFEST].contains(&manifest.media_type.as_str()) {
            return Err(format!("mediaType is {:.120?}, not {MANIFEST:?}", manifest.media_type));
        }
        Ok(manifest)
    }

    /// Returns what kind of artifact it is: without `artifactType`, the type of the configuration says it.
    pub fn kind(&self) -> &str {
        self.artifact_type.as_deref().filter(|kind| !kind.is_empty()).unwrap_or(&self.config.media_type)
    }

    /// Returns the only layer of a media type.
    ///
    /// # Errors
    /// That there is none, or several.
    pub fn layer(&self, media_type: &str) -> Result<Blob, String> {
        let mut layers = self.layers.iter().filter(|layer| layer.media_type == media_type);
        match (layers.next(), layers.next()) {
            (Some(layer), None) => layer.blob(),
            (None, _) => Err(format!("there is no layer {media_type}")),
            (Some(_), Some(_)) => Err(format!("there are several layers {media_type}")),
        }
    }

    /// Returns the bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest has string keys only")
    }
}

/// An index ("OCI Image Index Specification").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub schema_version: u32,
    /// [`INDEX`].
    #[serde(default)]
    pub media_type: String,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// Reads an index.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("not an image index: {error}"))
    }

    /// Returns the bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an index has string keys only")
    }
}
