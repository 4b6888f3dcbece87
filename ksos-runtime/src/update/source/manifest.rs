//! OCI image manifests and indexes (OCI image specification 1.1), as far as updates need them.

use ksos_formats::Digest;
use ksos_formats::update::Blob;
use ksos_formats::update::cosign::SIGNATURE_ANNOTATION;
use serde::Deserialize;

/// Media type of a manifest.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an index.
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Largest manifest or index in bytes that is read.
pub(super) const MANIFEST_LIMIT: u64 = 1 << 20;

/// A manifest.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Config,
    pub(super) layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    media_type: String,
}

/// What is said of a blob.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    digest: String,
    size: u64,
    pub(super) artifact_type: Option<String>,
    #[serde(default)]
    annotations: Annotations,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Annotations {
    // A literal: what SIGNATURE_ANNOTATION is, a test compares.
    #[serde(rename = "dev.cosignproject.cosign/signature")]
    signature: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    pub(super) manifests: Vec<Descriptor>,
}

impl Descriptor {
    /// Returns size and digest.
    pub(super) fn blob(&self) -> Result<Blob, String> {
        let sha256 = self.digest.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
        let shown: String = self.digest.chars().take(90).collect();
        let sha256 = sha256.ok_or_else(|| format!("{shown:?} is not a digest sha256:..."))?;
        Ok(Blob { size: self.size, sha256 })
    }

    /// Returns the annotation with a signature of `cosign`.
    pub(super) fn signature(&self) -> Result<&str, String> {
        self.annotations.signature.as_deref().ok_or_else(|| format!("a layer without {SIGNATURE_ANNOTATION}"))
    }
}

impl Manifest {
    /// Reads a manifest.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Manifest =
            serde_json::from_slice(bytes).map_err(|error| format!("not an image manifest: {error}"))?;
        if manifest.schema_version != 2 {
            return Err(format!("schemaVersion is {}, not 2", manifest.schema_version));
        }
        match manifest.media_type.as_deref() {
            None | Some(MANIFEST) => Ok(manifest),
            Some(other) => Err(format!("mediaType is {other:.120?}, not {MANIFEST:?}")),
        }
    }

    /// Checks what kind of artifact it is: "If this [config.mediaType] is set to the empty value, artifactType MUST be
    /// defined"; without artifactType, `config.mediaType` is it (OCI image specification 1.1, "Guidelines for Artifact
    /// Usage").
    pub(super) fn expect_artifact(&self, expected: &str) -> Result<(), String> {
        let found = self.artifact_type.as_deref().filter(|kind| !kind.is_empty()).unwrap_or(&self.config.media_type);
        if found == expected { Ok(()) } else { Err(format!("artifactType is {found:.120?}, not {expected:?}")) }
    }

    /// Returns the only layer of a media type.
    pub(super) fn layer(&self, media_type: &str) -> Result<Blob, String> {
        let mut layers = self.layers.iter().filter(|layer| layer.media_type == media_type);
        match (layers.next(), layers.next()) {
            (Some(layer), None) => layer.blob(),
            (None, _) => Err(format!("there is no layer {media_type}")),
            (Some(_), Some(_)) => Err(format!("there are several layers {media_type}")),
        }
    }
}

impl Index {
    /// Reads an index.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("not an image index: {error}"))
    }
}

/// Reads `Docker-Content-Digest`; `None` for another algorithm.
pub(super) fn content_digest(field: &str) -> Option<Digest> {
    field.trim().strip_prefix("sha256:")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest() -> serde_json::Value {
        let layer = |kind: &str| json!({"mediaType": kind, "digest": format!("sha256:{}", "0".repeat(64)), "size": 7});
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "a", "config": {"mediaType": "c"},
            "layers": [layer("x"), layer("y"), layer("y")]})
    }

    #[test]
    fn layers_are_found_by_media_type() {
        let found = Manifest::parse(manifest().to_string().as_bytes()).expect("a manifest");
        assert_eq!(found.layer("x").expect("there").size, 7);
        assert!(found.layer("y").expect_err("twice").contains("several"));
        assert!(found.layer("z").expect_err("not there").contains("no layer"));
        assert_eq!(found.expect_artifact("a"), Ok(()));
        assert!(found.expect_artifact("c").is_err());
        let mut old = manifest();
        old.as_object_mut().expect("an object").remove("artifactType");
        assert_eq!(Manifest::parse(old.to_string().as_bytes()).expect("a manifest").expect_artifact("c"), Ok(()));
    }

    #[test]
    fn damaged_manifests_are_refused() {
        let change = |path: &str, value: serde_json::Value| {
            let mut changed = manifest();
            *changed.pointer_mut(path).expect("there") = value;
            Manifest::parse(changed.to_string().as_bytes())
        };
        let good = manifest().to_string();
        let again = |field: &str| good.replacen('{', &format!("{{{field},"), 1);
        for text in [
            String::new(),
            "null".to_owned(),
            again("\"layers\":[]"),
            again("\"artifactType\":\"b\""),
            good.replace("\"size\":7", "\"size\":7,\"size\":8"),
            good.replace("\"size\":7", "\"size\":-7"),
            good.replacen("[", &"[".repeat(100_000), 1),
            again(&format!("\"x\":{}", "[".repeat(100_000))),
        ] {
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{text:.100}");
        }
        assert!(change("/schemaVersion", json!(1)).is_err());
        assert!(change("/mediaType", json!(INDEX)).is_err());
        let odd = change("/layers/0/digest", json!("sha512:00")).expect("a manifest");
        assert!(odd.layer("x").expect_err("no SHA-256").contains("sha512:00"));
    }

    #[test]
    fn the_annotation_is_that_of_cosign() {
        let text = json!({"mediaType": "x", "digest": "", "size": 0, "annotations": {SIGNATURE_ANNOTATION: "s"}});
        let descriptor: Descriptor = serde_json::from_value(text).expect("a descriptor");
        assert_eq!(descriptor.signature(), Ok("s"));
    }
}
