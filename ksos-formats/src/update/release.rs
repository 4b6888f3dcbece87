//! A release: one version of one image for one board and architecture.

use serde::{Deserialize, Serialize};

use super::envelope::Payload;
use super::version::Version;
use crate::{Arch, Digest};

/// Size and digest of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// Size in bytes.
    pub size: u64,
    /// SHA-256.
    pub sha256: Digest,
}

/// What is signed of a release. Nothing about a channel is in it: what was tested is what is promoted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// [`super::FORMAT`].
    pub format: u32,
    /// Image name, as in the manifest.
    pub name: String,
    /// Version.
    pub version: Version,
    /// Architecture.
    pub arch: Arch,
    /// What kind of machine the image is for; a node of another board refuses it.
    pub board: String,
    /// The oldest version that may update to this one; an older node needs a release between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_version: Option<Version>,
    /// Build epoch, seconds since 1970.
    pub created: u64,
    /// When it ends to be installed, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Kernel release.
    pub kernel_release: String,
    /// The slot image: an ext4 file system, to be written to a system slot from its first byte on.
    pub slot: Blob,
    /// The chunk index ([`super::index::ChunkIndex`]), file [`super::INDEX_FILE`].
    pub index: Blob,
    /// The stored chunks, file [`super::CHUNKS_FILE`].
    pub chunks: Blob,
}

impl Release {
    /// Whether it has ended at `now`, seconds since 1970.
    pub fn has_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|end| now >= end)
    }
}

impl Payload for Release {
    const TYPE: &'static str = "application/vnd.kubesolo.os.release.v1+json";
}
