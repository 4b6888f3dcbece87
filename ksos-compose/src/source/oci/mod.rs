//! The `oci` source: container images from registries, OCI archives, `docker save` archives and OCI layouts.
//!
//! ```text
//! registry   manifests and blobs over HTTP (OCI distribution specification 1.1)
//! auth       tokens and passwords for a registry; `credentials` reads Docker's configuration
//! archive    a tar: an OCI layout, or what `docker save` wrote before it had one
//! layout     an OCI layout directory
//! ```
//!
//! [`resolve`] follows what a reference names to one image of one architecture, and pins it: every digest and size down
//! to the layers. Documents are small, read whole with a limit, and used only after their digest was checked; layers
//! are streamed into the cache. Nothing a registry or an archive says is used as a path.

mod archive;
mod auth;
mod credentials;
mod error;
mod layout;
mod registry;
#[cfg(test)]
mod tests;

use ksos_formats::{Arch, Digest};

pub use self::archive::Archive;
pub(crate) use self::auth::{Access, Answering};
pub use self::auth::{Action, Registries};
pub use self::error::ImageError;
pub use self::layout::Layout;
pub use self::registry::{Place, Pull, is_loopback};
use crate::cache::{Blob, Cache};
use crate::oci::document::{self, Descriptor, Document, ImageBlob, ImageManifest, MAX_CONFIG, MAX_DOCUMENT};
use crate::oci::reference::Reference;

/// How deep an index may be within an index.
const MAX_DEPTH: usize = 3;

/// A container image that is asked for.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Its name in the manifest.
    pub name: &'a str,
    /// Its reference.
    pub reference: &'a Reference,
    /// Digest that it must have, of the index or of the image.
    pub digest: Option<Digest>,
    /// Architecture.
    pub arch: Arch,
}

/// An image with everything pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedImage {
    /// What was resolved, written out.
    pub reference: String,
    /// Digest of what it named then: an index, or the image itself.
    pub named: Digest,
    /// The image's manifest.
    pub manifest: ImageBlob,
    /// Its configuration.
    pub config: ImageBlob,
    /// Its layers, the lowest first. One may be there twice.
    pub layers: Vec<ImageBlob>,
}

impl PinnedImage {
    /// Returns every blob once: manifest, configuration, layers.
    pub fn blobs(&self) -> Vec<&ImageBlob> {
        let mut blobs: Vec<&ImageBlob> = vec![&self.manifest, &self.config];
        for layer in &self.layers {
            if !blobs.iter().any(|blob| blob.digest == layer.digest) {
                blobs.push(layer);
            }
        }
        blobs
    }
}

/// What a reference names, before an architecture is chosen.
#[derive(Debug, Clone)]
pub struct Named {
    /// Media type that came with it; empty when none did.
    pub media_type: String,
    /// Index or manifest.
    pub bytes: Vec<u8>,
}

/// Where documents of images come from.
pub trait Documents {
    /// Returns what `wanted` names, of at most [`MAX_DOCUMENT`] bytes.
    ///
    /// # Errors
    /// [`ImageError`].
    fn named(&self, wanted: &Wanted<'_>) -> Result<Named, ImageError>;

    /// Returns an index or a manifest by digest. The caller checks it.
    ///
    /// # Errors
    /// [`ImageError`].
    fn manifest(&self, blob: &ImageBlob) -> Result<Vec<u8>, ImageError>;

    /// Returns a configuration by digest. The caller checks it.
    ///
    /// # Errors
    /// [`ImageError`].
    fn config(&self, blob: &ImageBlob) -> Result<Vec<u8>, ImageError>;
}

/// Pins the image that `wanted` names, and puts its manifest and configuration into the cache.
///
/// # Errors
/// [`ImageError`].
pub fn resolve(cache: &Cache, documents: &dyn Documents, wanted: &Wanted<'_>) -> Result<PinnedImage, ImageError> {
    let Named { media_type, bytes } = documents.named(wanted)?;
    let named = Digest::of(&bytes);
    let (image, manifest, bytes) = follow(documents, wanted, &media_type, bytes)?;
    if let Some(expected) = wanted.digest.filter(|digest| ![named, manifest.digest].contains(digest)) {
        return Err(ImageError::OtherDigest { expected, named, manifest: manifest.digest });
    }
    let config = documents.config(&image.config)?;
    verify("configuration", &image.config, &config)?;
    document::check_config(&config, image.layers.len(), wanted.arch)
        .map_err(|source| ImageError::Document { digest: image.config.digest, source })?;
    cache.insert(&bytes)?;
    cache.insert(&config)?;
    Ok(PinnedImage {
        reference: wanted.reference.to_string(),
        named,
        manifest,
        config: image.config,
        layers: image.layers,
    })
}

/// Follows indexes to the image for the architecture; returns it with its own blob.
fn follow(
    documents: &dyn Documents,
    wanted: &Wanted<'_>,
    media_type: &str,
    bytes: Vec<u8>,
) -> Result<(ImageManifest, ImageBlob, Vec<u8>), ImageError> {
    let (mut media_type, mut bytes) = (media_type.to_owned(), bytes);
    for _ in 0..MAX_DEPTH {
        let digest = Digest::of(&bytes);
        let fault = |source| ImageError::Document { digest, source };
        match Document::parse(&bytes, &media_type).map_err(fault)? {
            Document::Image(image) => {
                let media_type = stored_type(&bytes, &media_type);
                return Ok((image, ImageBlob { media_type, digest, size: bytes.len() as u64 }, bytes));
            }
            Document::Index(entries) => {
                let entry = of_index(&entries, wanted).map_err(fault)?;
                let blob = entry.blob(MAX_DOCUMENT).map_err(fault)?;
                bytes = documents.manifest(&blob)?;
                verify("manifest", &blob, &bytes)?;
                media_type = blob.media_type;
            }
        }
    }
    Err(ImageError::Depth { depth: MAX_DEPTH })
}

/// Chooses an entry: the one with the digest that is wanted, else by architecture.
fn of_index(entries: &[Descriptor], wanted: &Wanted<'_>) -> Result<Descriptor, document::DocumentError> {
    let by_digest = wanted.digest.map(|digest| format!("sha256:{digest}"));
    let exact = entries.iter().find(|entry| Some(&entry.digest) == by_digest.as_ref());
    match exact {
        Some(entry) => Ok(entry.clone()),
        None => document::choose(&entries.iter().collect::<Vec<_>>(), wanted.arch),
    }
}

/// Returns the media type that a manifest has in an index of ours: its own, else what it came with.
fn stored_type(bytes: &[u8], stated: &str) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        #[serde(default)]
        media_type: String,
    }
    let own = serde_json::from_slice::<Typed>(bytes).map(|typed| typed.media_type).unwrap_or_default();
    [own.as_str(), stated, document::MANIFEST].into_iter().find(|text| !text.is_empty()).unwrap_or_default().to_owned()
}

/// Holds a document against its descriptor.
fn verify(what: &'static str, blob: &ImageBlob, bytes: &[u8]) -> Result<(), ImageError> {
    let actual = Digest::of(bytes);
    if actual != blob.digest {
        return Err(ImageError::Digest { what, expected: blob.digest, actual });
    }
    if bytes.len() as u64 != blob.size {
        return Err(ImageError::Size { what, digest: actual, expected: blob.size, actual: bytes.len() as u64 });
    }
    Ok(())
}

/// Chooses among the entries of a layout's `index.json` (image layout specification 1.1, "index.json file"): by digest
/// when one is wanted, else by name, else all of them, when none has another image's name.
///
/// # Errors
/// [`ImageError::Names`].
fn of_layout<'a>(entries: &'a [Descriptor], wanted: &Wanted<'_>) -> Result<Vec<&'a Descriptor>, ImageError> {
    if let Some(digest) = wanted.digest {
        let text = format!("sha256:{digest}");
        let exact: Vec<_> = entries.iter().filter(|entry| entry.digest == text).collect();
        if let Some(first) = exact.first() {
            return Ok(vec![first]);
        }
    }
    let named: Vec<_> = entries.iter().filter(|entry| is_named(entry, wanted.reference)).collect();
    let others: Vec<&str> = entries.iter().filter_map(name_of).collect();
    if !named.is_empty() {
        return Ok(named);
    }
    // One image under several names is one image.
    if let Some(first) = entries.first().filter(|first| entries.iter().all(|entry| entry.digest == first.digest)) {
        return Ok(vec![first]);
    }
    if others.is_empty() {
        return Ok(entries.iter().collect());
    }
    let found = others.iter().map(|name| (*name).to_owned()).collect();
    Err(ImageError::Names { wanted: wanted.reference.to_string(), found })
}

fn name_of(entry: &Descriptor) -> Option<&str> {
    entry.annotation("io.containerd.image.name").or_else(|| entry.annotation("org.opencontainers.image.ref.name"))
}

fn is_named(entry: &Descriptor, reference: &Reference) -> bool {
    let full = |text: &str| text.parse::<Reference>().is_ok_and(|parsed| parsed.or_latest().has_tag_of(reference));
    let by_name = entry.annotation("io.containerd.image.name").is_some_and(full);
    let ref_name = entry.annotation("org.opencontainers.image.ref.name");
    by_name || ref_name.is_some_and(|text| reference.tag.as_deref() == Some(text) || (text.contains('/') && full(text)))
}

/// An archive or a layout on this machine.
pub trait Local: Documents {
    /// Puts the blobs of `image` into the cache, each checked; returns them in the order of [`PinnedImage::blobs`].
    ///
    /// # Errors
    /// [`ImageError`].
    fn take(&self, cache: &Cache, image: &PinnedImage) -> Result<Vec<Blob>, ImageError>;
}

/// Opens what is at `path`: a directory is an OCI layout, a file an archive.
///
/// # Errors
/// [`ImageError`].
pub fn open(path: &std::path::Path) -> Result<Box<dyn Local>, ImageError> {
    if crate::effects::fs::metadata(path)?.is_dir() {
        return Ok(Box::new(Layout::open(path)?));
    }
    Ok(Box::new(Archive::open(path)?))
}

/// The limit for a configuration or a manifest that is read whole.
fn document_limit(blob: &ImageBlob) -> u64 {
    blob.size.min(MAX_CONFIG.max(MAX_DOCUMENT))
}
