//! Writes OCI layouts (OCI image specification 1.1, "OCI Image Layout"): that in which the root file system carries its
//! container images, and those that are outputs, in a tar. Every blob is there once, whatever number of images and names
//! it belongs to.

use std::collections::BTreeMap;
use std::io::Write;

use ksos_formats::Arch;

use super::document::{INDEX, ImageBlob};
use super::tar::{self, TarError};
use super::{Descriptor, Index, Platform, descriptor, digest, json};
use crate::tree::{Content, Entry, Meta, Node, Tree};

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
                artifact_type: None,
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

/// What an index leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Manifest or index.
    pub document: ImageBlob,
    /// What it runs on; several or nothing: none.
    pub arch: Option<Arch>,
    /// What kind of artifact it is, unless it is an image.
    pub artifact_type: Option<String>,
    /// Tag that it is looked up by.
    pub tag: Option<String>,
    /// Full name, for containerd.
    pub name: Option<String>,
}

/// Returns an index of `items`: `index.json` of a layout, or that of an image for several architectures.
pub fn index_of(items: &[Item]) -> Vec<u8> {
    let manifests = items.iter().map(|item| {
        let Item { document, arch, artifact_type, tag, name } = item;
        let tag = tag.iter().map(|tag| ("org.opencontainers.image.ref.name", tag.clone()));
        let name = name.iter().map(|name| ("io.containerd.image.name", name.clone()));
        Descriptor {
            artifact_type: artifact_type.clone(),
            platform: arch.map(|arch| Platform { architecture: arch.debian(), os: "linux" }),
            annotations: tag.chain(name).collect(),
            ..descriptor(&document.media_type, &document.digest, document.size)
        }
    });
    json(&Index { schema_version: 2, media_type: INDEX, manifests: manifests.collect() })
}

/// Writes the layout with `blobs` that `index` leads to as a tar, uncompressed; every time is `epoch`.
///
/// # Errors
/// [`TarError`].
pub fn write_tar(index: Vec<u8>, blobs: Vec<Content>, epoch: u64, output: &mut impl Write) -> Result<(), TarError> {
    let mut tree = Tree::new(epoch as i64);
    let mut put = |path: &str, content| {
        let entry = Entry { meta: Meta::root(0o644, epoch as i64), node: Node::File(content) };
        tree.insert(path, entry).expect("digests are valid names");
    };
    put("index.json", Content::inline(index));
    put("oci-layout", Content::inline(MARKER));
    for blob in blobs {
        put(&format!("blobs/sha256/{}", blob.digest), blob);
    }
    tar::write(&tree, output)
}
