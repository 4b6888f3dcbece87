//! Writes the OCI layout (OCI image specification 1.1, "OCI Image Layout") in which the root file system carries its
//! container images: every blob is there once, whatever number of images and names it belongs to.

use std::collections::BTreeMap;

use ksos_formats::Arch;

use super::document::{INDEX, ImageBlob};
use super::{Descriptor, Index, Platform, digest, json};

/// Content of `oci-layout`.
pub const MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Returns `index.json` with `images`: names that each is looked up by, and its manifest. An image with several names
/// has an entry for each.
pub fn index<'a>(arch: Arch, images: impl IntoIterator<Item = (&'a [String], &'a ImageBlob)>) -> Vec<u8> {
    let mut manifests = Vec::new();
    for (names, manifest) in images {
        for name in names {
            manifests.push(Descriptor {
                media_type: manifest.media_type.clone(),
                digest: digest(&manifest.digest),
                size: manifest.size,
                platform: Some(Platform { architecture: arch.debian(), os: "linux" }),
                // For containerd, and for every other tool.
                annotations: BTreeMap::from([
                    ("io.containerd.image.name", name.clone()),
                    ("org.opencontainers.image.ref.name", name.clone()),
                ]),
            });
        }
    }
    json(&Index { schema_version: 2, media_type: INDEX, manifests })
}
