//! A repository of an OCI registry: an artifact for each release, channel and key set, each under a tag of its own.

use ksos_formats::update::{
    self, CHANNEL_ARTIFACT, CHUNKS_MEDIA_TYPE, ENVELOPE_LIMIT, ENVELOPE_MEDIA_TYPE, INDEX_MEDIA_TYPE, KEYS_ARTIFACT,
    RELEASE_ARTIFACT, RELEASE_FILE,
};

use super::release::LocalRelease;
use super::{Destination, Pointer, PublishError};
use crate::ops::OpError;
use crate::ops::push::attach::{Attachment, attach};
use crate::registry::manifest::{Descriptor, MANIFEST, Manifest};
use crate::registry::push::{Artifact, Layer, push};
use crate::registry::signatures::{self, CosignSigner};
use crate::registry::{Registry, RegistryError};

/// A repository that releases are pushed to.
#[derive(Debug)]
pub struct Repository<'a> {
    /// The registry's side of it.
    pub registry: &'a Registry<'a>,
    /// Keys with which the manifests of releases are signed as `cosign` does.
    pub cosign: &'a [CosignSigner],
    /// Whether SBOM and provenance that lie beside a release are attached to it.
    pub referrers: bool,
}

/// Returns the tag of a document, and what kind of artifact it is in.
fn tag(pointer: &Pointer) -> (String, &'static str) {
    match pointer {
        Pointer::Channel { channel, name, arch } => (update::channel_tag(channel, name, *arch), CHANNEL_ARTIFACT),
        Pointer::Keys(version) => (update::keys_tag(*version), KEYS_ARTIFACT),
        Pointer::Release(name) => (name.replace('+', "_"), RELEASE_ARTIFACT),
    }
}

/// Reads the envelope that an artifact has as a layer.
///
/// # Errors
/// [`RegistryError`].
pub(in crate::ops) fn envelope(
    registry: &Registry<'_>,
    url: &str,
    manifest: &Manifest,
) -> Result<Vec<u8>, RegistryError> {
    let layer = manifest.layer(ENVELOPE_MEDIA_TYPE);
    let layer = layer.map_err(|reason| RegistryError::Document { url: url.to_owned(), reason })?;
    registry.small_blob(&layer, ENVELOPE_LIMIT)
}

/// Refuses an artifact of another kind.
fn expect_kind(url: &str, manifest: &Manifest, expected: &str) -> Result<(), RegistryError> {
    if manifest.kind() == expected {
        return Ok(());
    }
    let reason = format!("is an artifact of type {:.120?}, not {expected:?}", manifest.kind());
    Err(RegistryError::Document { url: url.to_owned(), reason })
}

fn annotate(artifact: &mut Artifact<'_>, title: &str, version: &str) {
    let name = |key: &str| format!("org.opencontainers.image.{key}");
    artifact.annotations.insert(name("title"), title.to_owned());
    artifact.annotations.insert(name("version"), version.to_owned());
}

impl Destination for Repository<'_> {
    fn place(&self, pointer: &Pointer) -> String {
        format!("{}:{}", self.registry.name(), tag(pointer).0)
    }

    fn document(&self, pointer: &Pointer) -> Result<Option<Vec<u8>>, OpError> {
        let (tag, kind) = tag(pointer);
        if tag.len() > 128 {
            return Err(PublishError::Tag(tag).into());
        }
        let Some(found) = self.registry.manifest(&tag)? else { return Ok(None) };
        let url = self.registry.manifest_url(&tag);
        let manifest =
            Manifest::parse(&found.bytes).map_err(|reason| RegistryError::Document { url: url.clone(), reason })?;
        expect_kind(&url, &manifest, kind)?;
        Ok(Some(envelope(self.registry, &url, &manifest)?))
    }

    fn put_release(&self, release: &LocalRelease) -> Result<u64, OpError> {
        let [index, chunks] = release.blobs();
        let layers = vec![
            Layer::bytes(ENVELOPE_MEDIA_TYPE, Some(RELEASE_FILE), release.envelope.as_slice()),
            Layer::file(INDEX_MEDIA_TYPE, Some(index.0), index.1, index.2),
            Layer::file(CHUNKS_MEDIA_TYPE, Some(chunks.0), chunks.1, chunks.2),
        ];
        let document = release.document.value();
        let mut artifact = Artifact::new(RELEASE_ARTIFACT, layers);
        annotate(&mut artifact, &document.name, &document.version.to_string());
        let (tag, _) = tag(&Pointer::Release(release.name()));
        // The tag comes last: who sees it sees the signatures, too.
        let by_digest = push(self.registry, &artifact, None)?;
        let bytes = artifact.manifest();
        let subject = Descriptor::of(MANIFEST, &bytes);
        if self.referrers {
            attach(self.registry, &subject, &Attachment::beside(&release.path, "")?)?;
        }
        for signer in self.cosign {
            signatures::sign(self.registry, (MANIFEST, &bytes), signer)?;
        }
        let by_tag = push(self.registry, &artifact, Some(&tag))?;
        Ok(if by_tag.unchanged { 0 } else { by_digest.sent })
    }

    fn put_document(&self, pointer: &Pointer, envelope: &[u8]) -> Result<(), OpError> {
        let (tag, kind) = tag(pointer);
        let artifact = Artifact::new(kind, vec![Layer::bytes(ENVELOPE_MEDIA_TYPE, None, envelope)]);
        push(self.registry, &artifact, Some(&tag))?;
        Ok(())
    }
}
