//! OCI layout directories (OCI image specification 1.1, "OCI Image Layout").

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Documents, ImageError, Local, Named, PinnedImage, Wanted, document_limit, of_layout};
use crate::cache::{Blob, Cache};
use crate::effects::fs::{self, FsError};
use crate::oci::document::{self, Descriptor, ImageBlob, MAX_DOCUMENT};

/// An OCI layout directory.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    entries: Vec<Descriptor>,
}

/// `oci-layout`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

/// `index.json`.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// Reads `oci-layout` and `index.json` of the layout at `path`, which is for messages.
///
/// # Errors
/// [`ImageError::Malformed`].
pub(super) fn parse(path: &Path, marker: &[u8], index: &[u8]) -> Result<Vec<Descriptor>, ImageError> {
    let marker: Marker = serde_json::from_slice(marker)
        .map_err(|error| ImageError::malformed(path, format!("oci-layout is malformed: {error}")))?;
    // "imageLayoutVersion ... Its value MUST be 1.0.0 for this version of the specification", and stays compatible
    // within 1.
    if !marker.image_layout_version.starts_with("1.") {
        let version = marker.image_layout_version;
        return Err(ImageError::malformed(path, format!("has layout version {version:?}, expected \"1.0.0\"")));
    }
    let index: Index = serde_json::from_slice(index)
        .map_err(|error| ImageError::malformed(path, format!("index.json is malformed: {error}")))?;
    if index.manifests.is_empty() {
        return Err(ImageError::malformed(path, "index.json names no image"));
    }
    Ok(index.manifests)
}

/// Chooses the entry that `wanted` names.
///
/// # Errors
/// [`ImageError`].
pub(super) fn entry(path: &Path, entries: &[Descriptor], wanted: &Wanted<'_>) -> Result<ImageBlob, ImageError> {
    let candidates = of_layout(entries, wanted)?;
    let chosen = match candidates[..] {
        [only] => only.clone(),
        _ => document::choose(&candidates, wanted.arch)
            .map_err(|source| ImageError::malformed(path, format!("index.json {source}")))?,
    };
    chosen.blob(MAX_DOCUMENT).map_err(|source| ImageError::malformed(path, format!("index.json {source}")))
}

impl Layout {
    /// Opens the layout at `path`.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let read = |name: &str| match fs::read(&path.join(name), MAX_DOCUMENT) {
            Err(error) if is_missing(&error) => {
                Err(ImageError::Missing { path: path.to_owned(), entry: name.to_owned() })
            }
            other => Ok(other?),
        };
        let entries = parse(path, &read("oci-layout")?, &read("index.json")?)?;
        Ok(Layout { path: path.to_owned(), entries })
    }

    fn blob_path(&self, blob: &ImageBlob) -> PathBuf {
        self.path.join("blobs/sha256").join(blob.digest.hex())
    }

    fn missing(&self, blob: &ImageBlob) -> ImageError {
        ImageError::Missing { path: self.path.clone(), entry: format!("blobs/sha256/{}", blob.digest) }
    }

    fn document(&self, blob: &ImageBlob) -> Result<Vec<u8>, ImageError> {
        match fs::read(&self.blob_path(blob), document_limit(blob)) {
            Err(error) if is_missing(&error) => Err(self.missing(blob)),
            other => Ok(other?),
        }
    }
}

fn is_missing(error: &FsError) -> bool {
    error.source.kind() == std::io::ErrorKind::NotFound
}

impl Documents for Layout {
    fn named(&self, wanted: &Wanted<'_>) -> Result<Named, ImageError> {
        let blob = entry(&self.path, &self.entries, wanted)?;
        let bytes = self.document(&blob)?;
        super::verify("manifest", &blob, &bytes)?;
        Ok(Named { media_type: blob.media_type, bytes })
    }

    fn manifest(&self, blob: &ImageBlob) -> Result<Vec<u8>, ImageError> {
        self.document(blob)
    }

    fn config(&self, blob: &ImageBlob) -> Result<Vec<u8>, ImageError> {
        self.document(blob)
    }
}

impl Local for Layout {
    fn take(&self, cache: &Cache, image: &PinnedImage) -> Result<Vec<Blob>, ImageError> {
        let mut blobs = Vec::new();
        for blob in image.blobs() {
            blobs.push(match cache.blob(&blob.digest, Some(blob.size)) {
                Some(cached) => cached,
                None => {
                    let mut file = match fs::open(&self.blob_path(blob)) {
                        Err(error) if is_missing(&error) => return Err(self.missing(blob)),
                        other => other?,
                    };
                    copy(cache, blob, &mut file, &self.blob_path(blob))?
                }
            });
        }
        Ok(blobs)
    }
}

/// Streams a blob into the cache; what is not what its descriptor says does not get there under its name.
///
/// # Errors
/// [`ImageError::Digest`], [`ImageError::Size`].
pub(super) fn copy(
    cache: &Cache,
    blob: &ImageBlob,
    reader: &mut dyn std::io::Read,
    shown: &Path,
) -> Result<Blob, ImageError> {
    use crate::effects::fs::Context;
    use std::io::Read;
    let mut writer = cache.writer()?;
    let copied = std::io::copy(&mut reader.take(blob.size.saturating_add(1)), &mut writer).context("copy", shown)?;
    if copied != blob.size {
        return Err(ImageError::Size { what: "blob", digest: blob.digest, expected: blob.size, actual: copied });
    }
    let written = writer.commit()?;
    if written.digest != blob.digest {
        return Err(ImageError::Digest { what: "blob", expected: blob.digest, actual: written.digest });
    }
    Ok(written)
}
