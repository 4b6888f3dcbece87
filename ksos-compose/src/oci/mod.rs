//! Container images (OCI image specification 1.1): how they are named, what their documents say, and how one of a
//! single layer is made. `source::oci` gets those that others made.
//!
//! - `reference`: names, with short forms written out.
//! - `document`: reads indexes, manifests and configurations, and distrusts them.
//! - `artifact`: a file that is no image, as an artifact.
//! - `layer`, `tar`: a tree as a layer; [`image`] makes an image of it, whose blobs are in the cache.
//! - `layout`: the OCI layout in which the root file system carries all of its images.

pub mod artifact;
pub mod document;
pub mod layer;
pub mod layout;
pub mod reference;
pub mod tar;

use std::collections::BTreeMap;
use std::io;

use ksos_formats::{Arch, Digest};
use serde::Serialize;

use self::document::{CONFIG as CONFIG_TYPE, ImageBlob, MANIFEST as MANIFEST_TYPE};
pub use self::layer::{Layer, LayerCompression};
use self::tar::TarError;
use crate::cache::{Blob, Cache, CacheError};
use crate::tree::Tree;

/// What an image is and how its container starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpec {
    /// Full name with registry, repository and tag, such as `docker.io/library/demo:1.0`.
    pub name: String,
    /// Architecture.
    pub arch: Arch,
    /// Command that is always run.
    pub entrypoint: Vec<String>,
    /// Its default arguments, or the command when there is no entrypoint.
    pub cmd: Vec<String>,
    /// Environment, `NAME=VALUE` each.
    pub env: Vec<String>,
    /// Directory that it starts in; empty: `/`.
    pub working_dir: String,
    /// Time of creation in seconds since 1970.
    pub created: i64,
    /// Compression of the layer.
    pub compression: LayerCompression,
    /// Threads that compress.
    pub jobs: usize,
}

/// An image whose blobs are in the cache.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its full name.
    pub name: String,
    /// Architecture.
    pub arch: Arch,
    /// The manifest, `application/vnd.oci.image.manifest.v1+json`.
    pub manifest: Blob,
    /// The configuration, `application/vnd.oci.image.config.v1+json`.
    pub config: Blob,
    /// The layer.
    pub layer: Layer,
}

/// An image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// A name that is no image reference.
    #[error("{name:?} is not a full image name like docker.io/library/demo:1.0: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Neither an entrypoint nor a command.
    #[error("image {name:?} has neither an entrypoint nor a command")]
    NoCommand {
        /// The image's name.
        name: String,
    },
    /// An environment entry without a name or without `=`.
    #[error("environment entry {entry:?} is not NAME=VALUE")]
    Environment {
        /// The entry.
        entry: String,
    },
    /// A working directory that is not absolute.
    #[error("working directory {path:?} is not absolute")]
    WorkingDirectory {
        /// The path.
        path: String,
    },
    /// The tree cannot be written as a layer.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The layer cannot be written.
    #[error("cannot write the layer: {0}")]
    Write(#[from] io::Error),
}

/// "OCI Content Descriptors".
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct Platform {
    architecture: &'static str,
    os: &'static str,
}

/// "OCI Image Manifest Specification".
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// "OCI Image Index Specification".
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

/// "OCI Image Configuration".
#[derive(Serialize)]
struct Configuration<'a> {
    created: String,
    architecture: &'static str,
    os: &'static str,
    config: Execution<'a>,
    rootfs: RootFs,
    history: Vec<History>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Execution<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    env: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    entrypoint: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    cmd: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    working_dir: &'a str,
}

#[derive(Serialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: Vec<String>,
}

#[derive(Serialize)]
struct History {
    created: String,
    created_by: &'static str,
}

/// Makes an image of `tree` in the cache.
///
/// # Errors
/// [`OciError`].
pub fn image(cache: &Cache, tree: &Tree, spec: &ImageSpec) -> Result<Image, OciError> {
    check(spec)?;
    let layer = layer::write(cache, tree, spec.compression, spec.jobs)?;
    let created = timestamp(spec.created);
    let configuration = Configuration {
        created: created.clone(),
        architecture: spec.arch.debian(),
        os: "linux",
        config: Execution {
            env: &spec.env,
            entrypoint: &spec.entrypoint,
            cmd: &spec.cmd,
            working_dir: &spec.working_dir,
        },
        rootfs: RootFs { kind: "layers", diff_ids: vec![digest(&layer.diff_id)] },
        history: vec![History { created, created_by: "ksos-compose" }],
    };
    let config = cache.insert(&json(&configuration))?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST_TYPE,
        config: descriptor(CONFIG_TYPE, &config.digest, config.size),
        layers: vec![descriptor(layer.compression.media_type(), &layer.blob.digest, layer.blob.size)],
    };
    let manifest = cache.insert(&json(&manifest))?;
    Ok(Image { name: spec.name.clone(), arch: spec.arch, manifest, config, layer })
}

/// Returns the manifest of an image with these blobs.
pub fn manifest_bytes(config: &ImageBlob, layers: &[ImageBlob]) -> Vec<u8> {
    let of = |blob: &ImageBlob| descriptor(&blob.media_type, &blob.digest, blob.size);
    json(&Manifest {
        schema_version: 2,
        media_type: MANIFEST_TYPE,
        config: of(config),
        layers: layers.iter().map(of).collect(),
    })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("the documents have string keys only")
}

fn digest(digest: &Digest) -> String {
    format!("sha256:{digest}")
}

fn descriptor(media_type: &str, sha256: &Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: digest(sha256),
        size,
        artifact_type: None,
        platform: None,
        annotations: BTreeMap::new(),
    }
}

/// Formats a time as RFC 3339 says, in UTC.
pub(crate) fn timestamp(seconds: i64) -> String {
    let moment = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    moment.format(format).unwrap_or_default()
}

fn check(spec: &ImageSpec) -> Result<(), OciError> {
    let ImageSpec { name, entrypoint, cmd, env, working_dir, arch: _, created: _, compression: _, jobs: _ } = spec;
    if let Some(reason) = name_fault(name) {
        return Err(OciError::Name { name: name.clone(), reason });
    }
    if entrypoint.is_empty() && cmd.is_empty() {
        return Err(OciError::NoCommand { name: name.clone() });
    }
    if let Some(entry) = env.iter().find(|entry| entry.find('=').is_none_or(|equals| equals == 0)) {
        return Err(OciError::Environment { entry: entry.clone() });
    }
    if !working_dir.is_empty() && !working_dir.starts_with('/') {
        return Err(OciError::WorkingDirectory { path: working_dir.clone() });
    }
    Ok(())
}

/// Says what is wrong with an image name (OCI distribution specification 1.1, "Pulling manifests"), if anything.
fn name_fault(name: &str) -> Option<&'static str> {
    let Some((registry, rest)) = name.split_once('/') else { return Some("there is no registry before a slash") };
    let Some((repository, tag)) = rest.rsplit_once(':') else { return Some("there is no tag behind a colon") };
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let is_host = registry == "localhost" || registry.contains(['.', ':']);
    let host_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    if !is_host || host.is_empty() || !host.bytes().all(host_byte) {
        return Some("the registry is not a host name with a dot or a port, or localhost");
    }
    let component = |text: &str| {
        let alphanumeric =
            |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let inner = |byte: u8| alphanumeric(Some(byte)) || matches!(byte, b'.' | b'_' | b'-');
        alphanumeric(text.bytes().next()) && alphanumeric(text.bytes().last()) && text.bytes().all(inner)
    };
    if !repository.split('/').all(component) {
        return Some("the repository has other things than lower-case letters, digits and . _ - inside");
    }
    let tag_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let tag_fits = (1..=128).contains(&tag.len()) && !tag.starts_with(['.', '-']) && tag.bytes().all(tag_byte);
    if tag_fits { None } else { Some("the tag has other things than letters, digits and . _ -") }
}

#[cfg(test)]
mod tests;
