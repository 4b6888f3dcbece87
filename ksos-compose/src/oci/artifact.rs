//! Files as OCI artifacts (OCI image specification 1.1, "Guidelines for Artifact Usage"): one layer with the file as it
//! is, an empty configuration, and a type that says what the file is. The layout that a build writes and what a push
//! sends have the same manifest, byte for byte.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ksos_formats::Arch;
use ksos_formats::update::Blob;

use crate::registry::push::{Artifact, Layer};

/// `artifactType` of disk images and ISO images.
pub const DISK_ARTIFACT: &str = "application/vnd.kubesolo.os.disk.v1";
/// `artifactType` of any other file.
pub const FILE_ARTIFACT: &str = "application/vnd.kubesolo.os.file.v1";
/// Media type of a raw disk image that is compressed with Zstandard.
pub const RAW_ZST_MEDIA_TYPE: &str = "application/vnd.kubesolo.os.disk.raw.v1+zstd";
/// Annotation of the manifest with the architecture as registries name it: `amd64`, `arm64`.
pub const ARCH_ANNOTATION: &str = "io.kubesolo.os.architecture";

/// Media types of layers by the end of the file name; the first that fits counts.
const MEDIA_TYPES: [(&str, &str); 7] = [
    (".img.zst", RAW_ZST_MEDIA_TYPE),
    (".raw.zst", RAW_ZST_MEDIA_TYPE),
    (".img", "application/vnd.kubesolo.os.disk.raw.v1"),
    (".qcow2", "application/vnd.kubesolo.os.disk.qcow2.v1"),
    (".vmdk", "application/vnd.kubesolo.os.disk.vmdk.v1"),
    (".vhd", "application/vnd.kubesolo.os.disk.vhd.v1"),
    (".iso", "application/vnd.kubesolo.os.disk.iso.v1"),
];

/// What an image is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture.
    pub arch: Arch,
}

impl Identity {
    /// Returns the annotations of a manifest ("Pre-Defined Annotation Keys", and [`ARCH_ANNOTATION`]).
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let Identity { name, version, arch } = self;
        BTreeMap::from([
            ("org.opencontainers.image.title".to_owned(), name.clone()),
            ("org.opencontainers.image.version".to_owned(), version.clone()),
            (ARCH_ANNOTATION.to_owned(), arch.debian().to_owned()),
        ])
    }
}

/// Returns the type of the artifact and the media type of the layer for a file called `file_name`.
pub fn types(file_name: &str) -> (&'static str, &'static str) {
    let known = MEDIA_TYPES.iter().find(|(end, _)| file_name.ends_with(end));
    known.map_or((FILE_ARTIFACT, "application/octet-stream"), |(_, media_type)| (DISK_ARTIFACT, media_type))
}

/// Returns the artifact of the file at `path`, which has the name `file_name` for people and the bytes of `blob`.
pub fn of_file<'a>(file_name: &str, blob: Blob, path: PathBuf, identity: Option<&Identity>) -> Artifact<'a> {
    let (kind, media_type) = types(file_name);
    let mut artifact = Artifact::new(kind, vec![Layer::file(media_type, Some(file_name), blob, path)]);
    artifact.annotations = identity.map(Identity::annotations).unwrap_or_default();
    artifact
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_of_a_disk_image_is_what_the_specification_says_of_artifacts() {
        let blob = Blob { size: 7, sha256: ksos_formats::Digest::of(b"content") };
        let identity = Identity { name: "edge".into(), version: "1.2.3".into(), arch: Arch::X86_64 };
        let artifact = of_file("edge-1.2.3-x86_64.img.zst", blob, PathBuf::from("/nowhere"), Some(&identity));
        let manifest: serde_json::Value = serde_json::from_slice(&artifact.manifest()).unwrap();
        let empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(
            manifest,
            serde_json::json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "artifactType": "application/vnd.kubesolo.os.disk.v1",
                "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2 },
                "layers": [{
                    "mediaType": "application/vnd.kubesolo.os.disk.raw.v1+zstd",
                    "digest": format!("sha256:{}", blob.sha256),
                    "size": 7,
                    "annotations": { "org.opencontainers.image.title": "edge-1.2.3-x86_64.img.zst" },
                }],
                "annotations": {
                    "org.opencontainers.image.title": "edge",
                    "org.opencontainers.image.version": "1.2.3",
                    "io.kubesolo.os.architecture": "amd64",
                },
            })
        );
        assert_eq!(types("edge.tar"), (FILE_ARTIFACT, "application/octet-stream"));
        assert_eq!(types("edge.iso").1, "application/vnd.kubesolo.os.disk.iso.v1");
    }
}
