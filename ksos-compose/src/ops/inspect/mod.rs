//! `inspect`: what is in an image, an ISO, a release, or behind a reference to a registry.
//!
//! Nothing is unpacked as a whole, and nothing is verified: that is what `verify` is for. What an image says of itself is
//! taken from it: `image.json` of its systems, and the lists of packages and contents in their root file systems.

mod local;
mod remote;

use std::path::PathBuf;

use ksos_formats::Digest;
use serde::Serialize;

use super::{OpError, Session};
use crate::image::iso::BootEntry;
use crate::plan::packages::{ListedContent, ListedPackage};
use crate::registry::Location;

/// What something is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// What was looked at, as the user has named it.
    pub target: String,
    /// What it is: `disk`, `iso`, `update`, `statement`, `index`, `artifact`, `container image` or `file`.
    pub kind: String,
    /// Size in bytes; of an artifact in a registry, that of its blobs.
    pub size: u64,
    /// Bytes that it takes on the disk of this machine, when it is on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocated: Option<u64>,
    /// How it is compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// GUID of the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<uuid::Uuid>,
    /// Partitions by number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionInfo>,
    /// The volume of an ISO.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iso: Option<IsoInfo>,
    /// The document of a release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseInfo>,
    /// Systems in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub systems: Vec<SystemInfo>,
    /// What a registry has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactInfo>,
    /// What lies beside it, or refers to it: digests, signatures, bills of materials, provenance.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Beside>,
    /// What could not be looked into, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionInfo {
    /// Number, from 1.
    pub number: u32,
    /// Label.
    pub label: String,
    /// What its type is called, or its GUID.
    #[serde(rename = "type")]
    pub kind: String,
    /// Unique GUID.
    pub guid: uuid::Uuid,
    /// First byte.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that its content has in the file: without its holes.
    pub data: u64,
}

/// The volume of an ISO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IsoInfo {
    /// Name of the volume.
    pub volume: String,
    /// What boots from it.
    pub boot: Vec<BootEntry>,
    /// Files with their sizes in bytes.
    pub files: Vec<(String, u64)>,
}

/// The document of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReleaseInfo {
    /// Image name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture.
    pub arch: String,
    /// What kind of machine it is for.
    pub board: String,
    /// The oldest version that may update to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_version: Option<String>,
    /// When it ends to be installed, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// SHA-256 of the document, by which channels name it.
    pub sha256: Digest,
    /// Size of the slot image in bytes.
    pub slot_size: u64,
    /// Names of the keys that have signed; nobody has checked the signatures.
    pub signed_by: Vec<String>,
}

/// A system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SystemInfo {
    /// Where it is, e.g. `partition 2 KSOSSYSA`.
    pub place: String,
    /// Image name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture.
    pub arch: String,
    /// Build epoch, in seconds since 1970.
    pub epoch: u64,
    /// Kernel release.
    pub kernel_release: String,
    /// Kernel command line.
    pub cmdline: String,
    /// Root hash of the root file system.
    pub root_hash: Digest,
    /// Its files with their sizes in bytes: kernel, root file system, initramfs, metadata.
    pub files: Vec<(String, u64)>,
    /// What components have in the root file system; without a list of that, what its directories have.
    pub contents: Vec<ListedContent>,
    /// Whether [`SystemInfo::contents`] are components.
    pub by_component: bool,
    /// Packages.
    pub packages: Vec<ListedPackage>,
}

/// What a registry has under a reference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ArtifactInfo {
    /// Digest of the manifest or index.
    pub digest: String,
    /// Media type of the manifest or index.
    pub media_type: String,
    /// What kind of artifact it is.
    pub artifact_type: String,
    /// Annotations.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Blobs, or the manifests of an index.
    pub entries: Vec<EntryInfo>,
}

/// A blob, or a manifest of an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntryInfo {
    /// Name of its file or its platform, when it has one.
    pub name: String,
    /// Media type, or the kind of the artifact.
    pub media_type: String,
    /// Digest.
    pub digest: String,
    /// Size in bytes.
    pub size: u64,
}

/// Something beside what was looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Beside {
    /// What it is: `checksums`, `signature`, `sbom`, `provenance`, ...
    pub what: String,
    /// Its name, or its digest.
    pub name: String,
    /// What it says, in short.
    pub detail: String,
}

/// Looks at `target`: a file, a release's directory, or `oci://HOST/REPOSITORY:TAG`.
///
/// # Errors
/// What cannot be read or fetched, or is not what it seems to be.
pub fn inspect(session: &Session, target: &str) -> Result<Inspection, OpError> {
    if let Some(location) = Location::parse(target) {
        return remote::inspect(session, &location?, target);
    }
    local::inspect(session, &session.environment.directory.join(PathBuf::from(target)), target)
}
