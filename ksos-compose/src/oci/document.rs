//! Reads the documents of an image that others made: indexes, manifests and configurations of the OCI image
//! specification 1.1, and Docker's forms of them (image manifest version 2, schema 2).
//!
//! Everything is checked before it is used: digests, sizes, media types, numbers of layers.

use std::collections::BTreeMap;

use ksos_formats::{Arch, Digest};
use serde::{Deserialize, Serialize};

use super::reference::parse_digest;

/// The largest index or manifest, in bytes: what registries take at most (OCI distribution specification 1.1,
/// "Pushing Manifests": "at least 4 megabytes").
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// The largest configuration, in bytes.
pub const MAX_CONFIG: u64 = 8 << 20;
/// The largest layer, in bytes: the most that the size field of a tar header holds, as which the node passes it on.
pub const MAX_LAYER: u64 = (8 << 30) - 1;
/// The most layers of an image.
pub const MAX_LAYERS: usize = 256;

/// OCI image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI image configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Layers that containerd unpacks.
const LAYERS: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

/// One blob of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageBlob {
    /// Media type.
    pub media_type: String,
    /// SHA-256.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
}

/// A descriptor ("OCI Content Descriptors") as it was read.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type; some writers leave it out.
    #[serde(default)]
    pub media_type: String,
    /// Digest with its algorithm.
    pub digest: String,
    /// Size in bytes.
    pub size: u64,
    /// What it runs on.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// Annotations.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What an image runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Platform {
    /// As Go names it: `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// As Go names it: `linux`.
    #[serde(default)]
    pub os: String,
    /// Variant of the architecture: `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl Platform {
    /// Returns how well this fits `arch`: 0 is best, nothing is not at all.
    fn fit(&self, arch: Arch) -> Option<u32> {
        if self.os != "linux" || self.architecture != arch.debian() {
            return None;
        }
        match (arch, self.variant.as_deref().unwrap_or_default()) {
            (_, "") | (Arch::Arm64, "v8") | (Arch::X86_64, "v1") => Some(0),
            // Runs on newer processors only; better than nothing on none of ours.
            _ => None,
        }
    }
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON of this form.
    #[error("is not what its media type says: {0}")]
    Json(String),
    /// Neither an image nor an index.
    #[error("has the media type {0:?}, which is neither an image nor an index")]
    MediaType(String),
    /// Docker's oldest form.
    #[error("is in Docker's schema 1, which no longer holds images")]
    SchemaOne,
    /// A digest that is not SHA-256, or malformed.
    #[error("names {0:?}, which is not a SHA-256 digest")]
    Digest(String),
    /// A size over its limit.
    #[error("names {digest}, of {size} bytes; at most {limit} are accepted")]
    Size {
        /// The blob.
        digest: Digest,
        /// Size stated.
        size: u64,
        /// Largest accepted.
        limit: u64,
    },
    /// Something else than an image: a chart, a signature.
    #[error("is an artifact of type {0:?}, not a container image")]
    Artifact(String),
    /// A layer that is encrypted, not distributed, or of a kind that containerd does not unpack.
    #[error("has a layer of type {0:?}, which cannot be unpacked")]
    Layer(String),
    /// More layers than [`MAX_LAYERS`], or none.
    #[error("has {0} layers; expected 1 to {MAX_LAYERS}")]
    Layers(usize),
    /// An index without an image for the architecture.
    #[error("has no image for linux/{}; there are {}", arch.debian(), if available.is_empty() { "none".to_owned() } else { available.join(", ") })]
    Platform {
        /// Architecture wanted.
        arch: Arch,
        /// What there is.
        available: Vec<String>,
    },
    /// The configuration is for another machine.
    #[error("is for {found}, expected linux/{}", arch.debian())]
    OtherPlatform {
        /// Architecture wanted.
        arch: Arch,
        /// What it is for.
        found: String,
    },
    /// Layers and their digests in the configuration do not agree.
    #[error("has {diff_ids} digests of unpacked layers for {layers} layers")]
    DiffIds {
        /// Digests in the configuration.
        diff_ids: usize,
        /// Layers in the manifest.
        layers: usize,
    },
}

impl Descriptor {
    /// Returns the blob with its digest checked, of at most `limit` bytes.
    ///
    /// # Errors
    /// [`DocumentError::Digest`], [`DocumentError::Size`].
    pub fn blob(&self, limit: u64) -> Result<ImageBlob, DocumentError> {
        let digest = parse_digest(&self.digest).map_err(|_| DocumentError::Digest(self.digest.clone()))?;
        if self.size > limit {
            return Err(DocumentError::Size { digest, size: self.size, limit });
        }
        Ok(ImageBlob { media_type: self.media_type.clone(), digest, size: self.size })
    }

    /// Returns an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// An index or a manifest.
#[derive(Debug, Clone)]
pub enum Document {
    /// Images by platform.
    Index(Vec<Descriptor>),
    /// One image.
    Image(ImageManifest),
}

/// A manifest whose blobs are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// The configuration.
    pub config: ImageBlob,
    /// Layers, the lowest first.
    pub layers: Vec<ImageBlob>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads an index or a manifest; `stated` is the media type that came with it, empty when none did.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub fn parse(bytes: &[u8], stated: &str) -> Result<Self, DocumentError> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| DocumentError::Json(error.to_string()))?;
        if raw.schema_version == 1 {
            return Err(DocumentError::SchemaOne);
        }
        // "This field ... MUST match" what it was fetched as; what is in the document is covered by its digest.
        let media_type = raw.media_type.as_deref().filter(|text| !text.is_empty()).unwrap_or(stated).to_owned();
        match (media_type.as_str(), raw) {
            (INDEX | DOCKER_LIST, Raw { manifests: Some(manifests), config: None, layers: None, .. })
            | ("", Raw { manifests: Some(manifests), config: None, layers: None, .. }) => {
                Ok(Document::Index(manifests))
            }
            (MANIFEST | DOCKER_MANIFEST | "", raw @ Raw { config: Some(_), manifests: None, .. }) => {
                image(raw).map(Document::Image)
            }
            (INDEX | DOCKER_LIST | MANIFEST | DOCKER_MANIFEST, _) => {
                Err(DocumentError::Json("keys are missing, or of another document".to_owned()))
            }
            (other, _) => Err(DocumentError::MediaType(other.to_owned())),
        }
    }
}

fn image(raw: Raw) -> Result<ImageManifest, DocumentError> {
    let Raw { config, layers, artifact_type, .. } = raw;
    let Some(config) = config else { return Err(DocumentError::Json("it has no config".to_owned())) };
    if !matches!(config.media_type.as_str(), CONFIG | DOCKER_CONFIG) {
        return Err(DocumentError::Artifact(artifact_type.unwrap_or(config.media_type)));
    }
    let layers = layers.unwrap_or_default();
    if layers.is_empty() || layers.len() > MAX_LAYERS {
        return Err(DocumentError::Layers(layers.len()));
    }
    let layer = |descriptor: &Descriptor| {
        if LAYERS.contains(&descriptor.media_type.as_str()) {
            descriptor.blob(MAX_LAYER)
        } else {
            Err(DocumentError::Layer(descriptor.media_type.clone()))
        }
    };
    let layers = layers.iter().map(layer).collect::<Result<_, _>>()?;
    Ok(ImageManifest { config: config.blob(MAX_CONFIG)?, layers })
}

/// Chooses the image for `arch` among the entries of an index.
///
/// # Errors
/// [`DocumentError::Platform`].
pub fn choose(entries: &[&Descriptor], arch: Arch) -> Result<Descriptor, DocumentError> {
    let fit = |entry: &&&Descriptor| entry.platform.as_ref().and_then(|platform| platform.fit(arch));
    let best = entries.iter().filter(|entry| fit(entry).is_some()).min_by_key(fit);
    if let Some(best) = best {
        return Ok((**best).clone());
    }
    match entries {
        // An entry that says nothing: its configuration will.
        [only] if only.platform.is_none() => Ok((*only).clone()),
        _ => {
            let mut available: Vec<String> =
                entries.iter().filter_map(|entry| entry.platform.as_ref()).map(ToString::to_string).collect();
            // Attestations of BuildKit are entries for "unknown/unknown".
            available.retain(|platform| platform != "unknown/unknown");
            available.sort();
            available.dedup();
            Err(DocumentError::Platform { arch, available })
        }
    }
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(flatten)]
    platform: Platform,
    rootfs: RawRootFs,
}

#[derive(Deserialize)]
struct RawRootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// Checks the configuration of an image with `layers` layers for `arch`; returns the digests of its unpacked layers.
///
/// # Errors
/// [`DocumentError`].
pub fn check_config(bytes: &[u8], layers: usize, arch: Arch) -> Result<Vec<Digest>, DocumentError> {
    let config: RawConfig = serde_json::from_slice(bytes).map_err(|error| DocumentError::Json(error.to_string()))?;
    if config.platform.fit(arch).is_none() {
        return Err(DocumentError::OtherPlatform { arch, found: config.platform.to_string() });
    }
    let diff_ids = config.rootfs.diff_ids;
    if diff_ids.len() != layers {
        return Err(DocumentError::DiffIds { diff_ids: diff_ids.len(), layers });
    }
    diff_ids.iter().map(|text| parse_digest(text).map_err(|_| DocumentError::Digest(text.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn manifest(config_type: &str, layer_type: &str, digest: &str, size: u64) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{config_type}","digest":"sha256:{HEX}","size":2}},
               "layers":[{{"mediaType":"{layer_type}","digest":"{digest}","size":{size}}}]}}"#
        )
    }

    fn error(text: &str, media_type: &str) -> String {
        Document::parse(text.as_bytes(), media_type).expect_err("refused").to_string()
    }

    #[test]
    fn images_of_both_kinds_are_read() {
        let digest = format!("sha256:{HEX}");
        for (media_type, config, layer) in
            [(MANIFEST, CONFIG, LAYERS[2]), (DOCKER_MANIFEST, DOCKER_CONFIG, LAYERS[4]), ("", CONFIG, LAYERS[0])]
        {
            let parsed = Document::parse(manifest(config, layer, &digest, 9).as_bytes(), media_type);
            let Ok(Document::Image(image)) = parsed else { panic!("{parsed:?}") };
            assert_eq!((image.layers.len(), image.layers[0].size, image.config.size), (1, 9, 2));
        }
    }

    #[test]
    fn hostile_documents_are_refused_with_their_fault() {
        let digest = format!("sha256:{HEX}");
        let good = |size| manifest(CONFIG, LAYERS[1], &digest, size);
        let many = good(1).replace(
            "\"layers\":[",
            &format!(
                "\"layers\":[{}",
                format!(r#"{{"mediaType":"{}","digest":"{digest}","size":1}},"#, LAYERS[1]).repeat(MAX_LAYERS)
            ),
        );
        for (text, media_type, expected) in [
            ("{", MANIFEST, "is not what its media type says"),
            ("[]", MANIFEST, "is not what its media type says"),
            ("{\"schemaVersion\":1}", "", "schema 1"),
            ("{\"schemaVersion\":2}", INDEX, "keys are missing"),
            (&good(1), INDEX, "keys are missing, or of another document"),
            (&good(1), "text/html", "neither an image nor an index"),
            (&good(u64::MAX), MANIFEST, "at most 8589934591 are accepted"),
            (&good(1).replace("\"size\":1", "\"size\":-1"), MANIFEST, "is not what its media type says"),
            (&manifest(CONFIG, LAYERS[1], "sha512:00", 1), MANIFEST, "\"sha512:00\", which is not a SHA-256 digest"),
            (&manifest(CONFIG, LAYERS[1], "sha256:../../etc", 1), MANIFEST, "is not a SHA-256 digest"),
            (&manifest("application/vnd.cncf.helm.config.v1+json", LAYERS[1], &digest, 1), MANIFEST, "helm"),
            (&manifest(CONFIG, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", &digest, 1), "", "encrypted"),
            (&good(1).replace("\"layers\":[", "\"x\":["), MANIFEST, "has 0 layers"),
            (&many, MANIFEST, "has 257 layers"),
            (&"[".repeat(100_000), MANIFEST, "is not what its media type says"),
        ] {
            let said = error(text, media_type);
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }

    #[test]
    fn a_platform_is_chosen() {
        let entry = |platform: &str| Descriptor {
            media_type: MANIFEST.to_owned(),
            digest: platform.to_owned(),
            size: 1,
            platform: serde_json::from_str(platform).unwrap(),
            annotations: None,
        };
        let amd64 = entry(r#"{"os":"linux","architecture":"amd64"}"#);
        let v3 = entry(r#"{"os":"linux","architecture":"amd64","variant":"v3"}"#);
        let arm64 = entry(r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#);
        let windows = entry(r#"{"os":"windows","architecture":"amd64"}"#);
        let unknown = entry(r#"{"os":"unknown","architecture":"unknown"}"#);
        let all = [&windows, &v3, &amd64, &arm64, &unknown];
        assert_eq!(choose(&all, Arch::X86_64).unwrap().digest, amd64.digest);
        assert_eq!(choose(&all, Arch::Arm64).unwrap().digest, arm64.digest);
        let said = choose(&[&windows, &v3, &unknown], Arch::Arm64).expect_err("none").to_string();
        assert_eq!(said, "has no image for linux/arm64; there are linux/amd64/v3, windows/amd64");
        let plain = Descriptor { platform: None, ..amd64.clone() };
        assert!(choose(&[&plain], Arch::Arm64).is_ok(), "its configuration decides");
        assert!(choose(&[&plain, &plain], Arch::Arm64).is_err());
        assert!(choose(&[], Arch::Arm64).is_err());
    }

    #[test]
    fn configurations_must_fit() {
        let config = |arch: &str, ids: &str| {
            format!(r#"{{"architecture":"{arch}","os":"linux","rootfs":{{"diff_ids":[{ids}]}}}}"#)
        };
        let id = format!("\"sha256:{HEX}\"");
        assert_eq!(check_config(config("amd64", &id).as_bytes(), 1, Arch::X86_64), Ok(vec![HEX.parse().unwrap()]));
        let said = |text: String| check_config(text.as_bytes(), 1, Arch::X86_64).expect_err("refused").to_string();
        assert_eq!(said(config("arm64", &id)), "is for linux/arm64, expected linux/amd64");
        assert_eq!(said(config("amd64", "")), "has 0 digests of unpacked layers for 1 layers");
        assert!(said(config("amd64", "\"x\"")).contains("not a SHA-256 digest"));
        assert!(said("{}".to_owned()).contains("rootfs"));
    }
}
