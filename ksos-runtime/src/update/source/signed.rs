//! Whether a manifest in a registry was signed by `cosign` with one of the image's keys.
//!
//! Both forms are looked for: the classic tag, and bundles that refer to the manifest. One good signature by one key is
//! enough. What cannot be fetched is an error and not an absent signature.

use ksos_formats::Digest;
use ksos_formats::update::cosign::{self, Claim, CosignKeyError, Key};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use super::SourceError;
use super::manifest::{Descriptor, INDEX, Index, MANIFEST, Manifest};
use super::registry::RegistrySender;

/// Reads the keys of the settings.
pub(super) fn keys(texts: &[String]) -> Result<Vec<Key>, SourceError> {
    let key = |(index, text): (usize, &String)| {
        let refuse = |error: CosignKeyError| SourceError::CosignKey { number: index + 1, reason: error.to_string() };
        Key::from_pem(text).map_err(refuse)
    };
    texts.iter().enumerate().map(key).collect()
}

/// What was looked at.
#[derive(Debug, Default)]
struct Search {
    looked_at: usize,
    /// Why the last one was none.
    reason: Option<String>,
}

impl Search {
    /// Takes note of a signature; returns whether it is by one of the keys.
    fn look(&mut self, keys: &[Key], claim: Result<Claim, String>) -> bool {
        self.looked_at += 1;
        match claim {
            Ok(claim) if keys.iter().any(|key| key.verifies(&claim, &ecdsa)) => return true,
            Ok(_) => self.reason = Some("it is by another key, or wrong".to_owned()),
            Err(reason) => self.reason = Some(reason),
        }
        false
    }

    fn is_full(&self) -> bool {
        self.looked_at >= cosign::MAX_SIGNATURES
    }
}

fn ecdsa(point: &[u8; 65], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature).is_ok()
}

/// Checks that one of `keys` has signed the manifest of these bytes.
pub(super) fn check(
    sender: &mut RegistrySender,
    keys: &[Key],
    manifest: &[u8],
    digest: &Digest,
) -> Result<(), SourceError> {
    let mut search = Search::default();
    if classic(sender, keys, digest, &mut search)? || bundles(sender, keys, manifest, digest, &mut search)? {
        return Ok(());
    }
    let reason = match search.reason {
        None => "no signature was found".to_owned(),
        Some(reason) => format!("{} signatures were looked at; of the last one: {reason}", search.looked_at),
    };
    let url = sender.manifest_url(&format!("sha256:{digest}")).to_string();
    Err(SourceError::CosignUnsigned { url, keys: keys.len(), reason })
}

/// Returns `None` for what is not there.
fn present<T>(result: Result<T, SourceError>) -> Result<Option<T>, SourceError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(SourceError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn classic(
    sender: &mut RegistrySender,
    keys: &[Key],
    digest: &Digest,
    search: &mut Search,
) -> Result<bool, SourceError> {
    let Some((bytes, _)) = present(sender.manifest(&cosign::signature_tag(digest), MANIFEST))? else {
        return Ok(false);
    };
    let manifest = match Manifest::parse(&bytes) {
        Ok(manifest) => manifest,
        Err(reason) => return Ok(search.look(keys, Err(reason))),
    };
    for layer in manifest.layers.iter().filter(|layer| layer.media_type == cosign::SIMPLE_SIGNING_MEDIA_TYPE) {
        if search.is_full() {
            break;
        }
        let found = layer.blob().and_then(|blob| Ok((blob, layer.signature()?)));
        let claim = match found {
            Ok((blob, signature)) => match readable(sender.blob(&blob, cosign::DOCUMENT_LIMIT))? {
                Ok(payload) => cosign::simple_signing(&payload, signature, digest).map_err(|error| error.to_string()),
                Err(reason) => Err(reason),
            },
            Err(reason) => Err(reason),
        };
        if search.look(keys, claim) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the inner error for what is no signature, the outer one for what could not be fetched.
fn readable<T>(result: Result<T, SourceError>) -> Result<Result<T, String>, SourceError> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(
            error @ (SourceError::NotFound(_)
            | SourceError::Large { .. }
            | SourceError::Size { .. }
            | SourceError::Digest { .. }
            | SourceError::Document { .. }),
        ) => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

fn bundles(
    sender: &mut RegistrySender,
    keys: &[Key],
    manifest: &[u8],
    digest: &Digest,
    search: &mut Search,
) -> Result<bool, SourceError> {
    let listed = sender.referrers(digest, cosign::BUNDLE_MEDIA_TYPE)?;
    if let Some(bytes) = listed
        && listed_bundles(sender, keys, manifest, &bytes, search)?
    {
        return Ok(true);
    }
    // Also where the API is there: `cosign` may have written the tag before the registry learnt it.
    match present(sender.manifest(&cosign::referrers_tag(digest), INDEX))? {
        Some((bytes, _)) => listed_bundles(sender, keys, manifest, &bytes, search),
        None => Ok(false),
    }
}

fn listed_bundles(
    sender: &mut RegistrySender,
    keys: &[Key],
    manifest: &[u8],
    index: &[u8],
    search: &mut Search,
) -> Result<bool, SourceError> {
    let index = match Index::parse(index) {
        Ok(index) => index,
        Err(reason) => return Ok(search.look(keys, Err(reason))),
    };
    let may_be = |descriptor: &&Descriptor| cosign::may_be_bundle(descriptor.artifact_type.as_deref());
    for descriptor in index.manifests.iter().filter(may_be) {
        if search.is_full() {
            break;
        }
        let claim = match descriptor.blob() {
            Ok(blob) => match readable(bundle(sender, &blob.sha256))? {
                Ok(Some(bytes)) => cosign::bundle(&bytes, manifest).map_err(|error| error.to_string()),
                Ok(None) => continue,
                Err(reason) => Err(reason),
            },
            Err(reason) => Err(reason),
        };
        if search.look(keys, claim) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Gets the bundle in a manifest that refers to another; `None` when it has none.
fn bundle(sender: &mut RegistrySender, digest: &Digest) -> Result<Option<Vec<u8>>, SourceError> {
    let reference = format!("sha256:{digest}");
    let (bytes, _) = sender.manifest(&reference, MANIFEST)?;
    let url = sender.manifest_url(&reference).to_string();
    let manifest = Manifest::parse(&bytes).map_err(|reason| SourceError::Document { url: url.clone(), reason })?;
    if !manifest.layers.iter().any(|layer| layer.media_type == cosign::BUNDLE_MEDIA_TYPE) {
        return Ok(None);
    }
    let layer = manifest.layer(cosign::BUNDLE_MEDIA_TYPE);
    let layer = layer.map_err(|reason| SourceError::Document { url, reason })?;
    sender.blob(&layer, cosign::DOCUMENT_LIMIT).map(Some)
}
