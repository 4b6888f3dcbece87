//! What a registry has.

use ksos_formats::Digest;
use ksos_formats::update::cosign::{self, BUNDLE_MEDIA_TYPE};
use ksos_formats::update::{ENVELOPE_LIMIT, RELEASE_ARTIFACT};

use super::{ArtifactInfo, Beside, EntryInfo, Inspection, local};
use crate::ops::publish::PublishError;
use crate::ops::verify_artifact::downloader;
use crate::ops::{OpError, Session};
use crate::registry::manifest::{Descriptor, INDEX, Index, MANIFEST, Manifest, TITLE};
use crate::registry::{Found, Location, Registry, RegistryError};
use crate::source::oci::{Action, Registries};

/// Kinds of what refers to an artifact: media type, what it is, in short.
const REFERRERS: [(&str, &str, &str); 4] = [
    (BUNDLE_MEDIA_TYPE, "signature", "cosign, bundle"),
    ("application/spdx+json", "sbom", "SPDX"),
    ("application/vnd.cyclonedx+json", "sbom", "CycloneDX"),
    ("application/vnd.in-toto+json", "provenance", "in-toto"),
];

/// How many manifests of an index are looked at.
const MOST_MANIFESTS: usize = 64;

/// Looks at the artifact at `location`.
pub(super) fn inspect(session: &Session, location: &Location, target: &str) -> Result<Inspection, OpError> {
    let net = downloader(session);
    let registries = Registries::new(|name| session.environment.variable(name).map(str::to_owned));
    let registry = Registry::new(&net, &registries, &location.place, Action::Pull);
    let usage = PublishError::Usage("a tag or a digest says which artifact: oci://HOST/REPOSITORY:TAG");
    let reference = location.reference().ok_or(usage)?;
    let url = registry.manifest_url(&reference);
    let document = |reason: String| RegistryError::Document { url: url.clone(), reason };
    let found = registry.manifest(&reference)?.ok_or_else(|| document("is not there".to_owned()))?;
    let mut inspection = Inspection { target: target.to_owned(), ..Inspection::default() };
    let artifact = match Manifest::parse(&found.bytes) {
        Ok(manifest) => of_manifest(&registry, &found, &manifest, &mut inspection)?,
        Err(reason) => of_index(&registry, &found)?.ok_or_else(|| document(reason))?,
    };
    if inspection.kind.is_empty() {
        inspection.kind = "index".to_owned();
    }
    inspection.size = artifact.entries.iter().fold(0_u64, |sum, entry| sum.saturating_add(entry.size));
    inspection.artifact = Some(artifact);
    inspection.beside = referrers(&registry, &found.digest)?;
    Ok(inspection)
}

fn of_manifest(
    registry: &Registry<'_>,
    found: &Found,
    manifest: &Manifest,
    inspection: &mut Inspection,
) -> Result<ArtifactInfo, OpError> {
    let kind = manifest.kind().to_owned();
    let image = ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
    inspection.kind = if image.contains(&kind.as_str()) { "container image" } else { "artifact" }.to_owned();
    if kind == RELEASE_ARTIFACT
        && let Some(layer) = manifest.layers.first()
        && let Ok(blob) = layer.blob()
        && blob.size <= ENVELOPE_LIMIT
    {
        inspection.release = local::of_document(&registry.small_blob(&blob, ENVELOPE_LIMIT)?);
    }
    Ok(ArtifactInfo {
        digest: format!("sha256:{}", found.digest),
        media_type: MANIFEST.to_owned(),
        artifact_type: kind,
        annotations: manifest.annotations.clone(),
        entries: manifest.layers.iter().map(entry).collect(),
    })
}

/// None when it is no index. The size of an entry is that of what its manifest leads to.
fn of_index(registry: &Registry<'_>, found: &Found) -> Result<Option<ArtifactInfo>, OpError> {
    let Ok(index) = Index::parse(&found.bytes) else { return Ok(None) };
    let mut entries = Vec::new();
    for descriptor in &index.manifests {
        let mut entry = entry(descriptor);
        if let (true, Some(platform)) = (entry.name.is_empty(), &descriptor.platform) {
            entry.name = platform.to_string();
        }
        let child = match descriptor.blob() {
            Ok(_) if entries.len() < MOST_MANIFESTS => registry.manifest(&descriptor.digest)?,
            _ => None,
        };
        if let Some(manifest) = child.and_then(|child| Manifest::parse(&child.bytes).ok()) {
            entry.size = manifest.layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        }
        entries.push(entry);
    }
    Ok(Some(ArtifactInfo {
        digest: format!("sha256:{}", found.digest),
        media_type: INDEX.to_owned(),
        artifact_type: String::new(),
        annotations: index.annotations,
        entries,
    }))
}

fn entry(descriptor: &Descriptor) -> EntryInfo {
    EntryInfo {
        name: descriptor.annotations.get(TITLE).cloned().unwrap_or_default(),
        media_type: descriptor.artifact_type.clone().unwrap_or_else(|| descriptor.media_type.clone()),
        digest: descriptor.digest.clone(),
        size: descriptor.size,
    }
}

/// Lists what refers to a manifest: by the registry's own list, or the tag in its place; and signatures under their tag.
fn referrers(registry: &Registry<'_>, digest: &Digest) -> Result<Vec<Beside>, OpError> {
    let mut found = Vec::new();
    let tagged = registry.manifest(&cosign::referrers_tag(digest))?.map(|found| found.bytes);
    for (kind, what, detail) in REFERRERS {
        let listed = registry.referrers(digest, kind)?;
        for bytes in listed.iter().chain(&tagged) {
            let Ok(index) = Index::parse(bytes) else { continue };
            // Registries may list everything.
            for descriptor in index.manifests.iter().filter(|entry| entry.artifact_type.as_deref() == Some(kind)) {
                if found.iter().any(|known: &Beside| known.name == descriptor.digest) {
                    continue;
                }
                let (what, name) = (what.to_owned(), descriptor.digest.clone());
                found.push(Beside { what, name, detail: detail.to_owned() });
            }
        }
    }
    if let Some(signatures) = registry.manifest(&cosign::signature_tag(digest))? {
        let (what, name) = ("signature".to_owned(), format!("sha256:{}", signatures.digest));
        found.push(Beside { what, name, detail: "cosign, classic".to_owned() });
    }
    found.sort();
    found.dedup();
    Ok(found)
}
