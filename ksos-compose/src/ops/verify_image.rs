//! `verify` of an image in a registry: signatures of `cosign` on what the tag names, and size and digest of everything that
//! it leads to. What is wrong is a finding; that something cannot be had is an error.

use ksos_formats::update::cosign::Key;
use ksos_formats::update::{CHANNEL_ARTIFACT, KEYS_ARTIFACT, RELEASE_ARTIFACT};
use serde::Deserialize;

use super::publish::PublishError;
use super::verify_artifact::{Finding, Findings, downloader};
use super::{OpError, Session};
use crate::registry::manifest::Descriptor;
use crate::registry::{Found, Location, Registry, RegistryError, signatures};
use crate::source::oci::{Action, Registries};

/// How deep indexes may be within indexes.
const MAX_DEPTH: usize = 3;

/// A manifest or an index.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// Verifies the image that `target` names; none when that is no place in a registry, or what is there is a release, a
/// channel or a key set.
///
/// # Errors
/// What cannot be fetched; that no key is given.
pub fn verify(session: &Session, target: &str, keys: &[Key]) -> Result<Option<Findings>, OpError> {
    let Some(location) = Location::parse(target) else { return Ok(None) };
    let location = location?;
    let Some(reference) = location.reference() else { return Ok(None) };
    let net = downloader(session);
    let registries = Registries::new(|name| session.environment.variable(name).map(str::to_owned));
    let registry = Registry::new(&net, &registries, &location.place, Action::Pull);
    let Some(found) = registry.manifest(&reference)? else { return Ok(None) };
    let document = parse(&registry, &reference, &found)?;
    if matches!(document.artifact_type.as_deref(), Some(RELEASE_ARTIFACT | CHANNEL_ARTIFACT | KEYS_ARTIFACT)) {
        return Ok(None);
    }
    if keys.is_empty() {
        return Err(PublishError::Usage("--cosign-key says whose signatures count").into());
    }
    let mut findings = Vec::new();
    let search = signatures::search(&registry, &found, keys)?;
    let forms: Vec<String> = search.valid.iter().map(|(form, key)| format!("{form} by key {}", key + 1)).collect();
    let result = if forms.is_empty() { Err(search.why()) } else { Ok(forms.join(", ")) };
    findings.push(Finding { what: format!("{target} cosign"), result });
    contents(&registry, target, &found, document, MAX_DEPTH, &mut findings)?;
    Ok(Some(Findings(findings)))
}

fn parse(registry: &Registry<'_>, reference: &str, found: &Found) -> Result<Document, RegistryError> {
    serde_json::from_slice(&found.bytes).map_err(|error| RegistryError::Document {
        url: registry.manifest_url(reference),
        reason: format!("neither a manifest nor an index: {error}"),
    })
}

/// Verifies everything that a manifest or an index leads to.
fn contents(
    registry: &Registry<'_>,
    what: &str,
    found: &Found,
    document: Document,
    depth: usize,
    findings: &mut Vec<Finding>,
) -> Result<(), OpError> {
    let mut failed = |reason: String| findings.push(Finding { what: what.to_owned(), result: Err(reason) });
    let Some(depth) = depth.checked_sub(1) else {
        failed(format!("indexes are nested more than {MAX_DEPTH} deep"));
        return Ok(());
    };
    let (mut bytes, mut blobs) = (0, 0);
    for descriptor in document.config.iter().chain(&document.layers) {
        match descriptor.blob() {
            // What comes is compared with size and digest before it is kept.
            Ok(blob) => bytes += registry.blob(&blob)?.size,
            Err(reason) => failed(reason),
        }
        blobs += 1;
    }
    if blobs > 0 {
        let result = Ok(format!("sha256 {}, {blobs} blobs with {bytes} bytes", found.digest));
        findings.push(Finding { what: what.to_owned(), result });
    }
    for descriptor in document.manifests {
        let reference = &descriptor.digest;
        let platform = descriptor.platform.as_ref().map(|platform| format!(" ({platform})")).unwrap_or_default();
        let what = format!("{what} {}{platform}", reference.chars().take(19).collect::<String>());
        let child = match descriptor.blob() {
            Ok(_) => registry.manifest(reference)?.ok_or("the registry does not have it".to_owned()),
            Err(reason) => Err(reason),
        };
        match child {
            Ok(child) => {
                let document = parse(registry, reference, &child)?;
                contents(registry, &what, &child, document, depth, findings)?;
            }
            Err(reason) => findings.push(Finding { what, result: Err(reason) }),
        }
    }
    Ok(())
}
