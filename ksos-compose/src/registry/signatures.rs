//! Signatures of `cosign` (sigstore): found and verified, and made so that `cosign verify --key` takes them.
//!
//! Two forms, as `ksos_formats::update::cosign` describes them: a manifest under a tag made of the digest that is signed
//! (classic), and a bundle that refers to the signed manifest. Only keys count: no certificates, no transparency log.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ksos_formats::Digest;
use ksos_formats::update::cosign::{self, BUNDLE_MEDIA_TYPE, Claim, Key, SIGN_PREDICATE, SIGNATURE_ANNOTATION};
use ksos_formats::update::envelope::pre_authentication;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde_json::json;

use super::manifest::{Descriptor, Index, MANIFEST, Manifest};
use super::push::{Artifact, Layer, push};
use super::{Found, Registry, RegistryError};
use crate::effects::fs;
use crate::oci::document::CONFIG;
use crate::sign::{KeySource, LocalSigner, SignError, Signer as _, Surroundings};

const IN_TOTO: &str = "application/vnd.in-toto+json";
const KEY_LIMIT: u64 = 64 << 10;

/// A key does not sign as `cosign` would.
#[derive(Debug, thiserror::Error)]
pub enum CosignSignError {
    /// It cannot be read.
    #[error(transparent)]
    Key(#[from] SignError),
    /// It is of another kind.
    #[error("{place}: neither an ECDSA P-256 nor an Ed25519 private key (PKCS#8 in PEM, not encrypted): {reason}")]
    Kind {
        /// Where it is.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A command cannot sign here.
    #[error("{0}: a key of cosign is a file or env:NAME")]
    Command(String),
    /// The signature was not made, or is wrong.
    #[error("{0}: no signature was made")]
    Failed(String),
}

/// A private key that signs as `cosign` does.
pub struct CosignSigner {
    secret: Secret,
    key: Key,
    place: String,
}

enum Secret {
    Ecdsa(EcdsaKeyPair),
    Ed25519(LocalSigner),
}

/// Secrets are not shown.
impl fmt::Debug for CosignSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CosignSigner").field("key", &self.key).finish_non_exhaustive()
    }
}

impl CosignSigner {
    /// Opens a key: ECDSA P-256 or Ed25519.
    ///
    /// # Errors
    /// [`CosignSignError`].
    pub fn open(source: &KeySource, surroundings: Surroundings<'_>) -> Result<Self, CosignSignError> {
        let place = source.to_string();
        let text = match source {
            KeySource::File(path) => {
                fs::read_to_string(&surroundings.directory.join(path), KEY_LIMIT).map_err(SignError::from)?
            }
            KeySource::Variable(name) => {
                let value = surroundings.variables.get(name).filter(|value| !value.is_empty());
                value.cloned().ok_or_else(|| SignError::NoVariable { name: name.clone() })?
            }
            KeySource::Command(_) => return Err(CosignSignError::Command(place)),
        };
        CosignSigner::from_pem(&text, &place)
    }

    /// Reads a key. `place` is for messages.
    ///
    /// # Errors
    /// [`CosignSignError`].
    pub fn from_pem(text: &str, place: &str) -> Result<Self, CosignSignError> {
        let kind = |reason: &str| CosignSignError::Kind { place: place.to_owned(), reason: reason.to_owned() };
        if text.contains("-----BEGIN ENCRYPTED") {
            return Err(kind("the key is encrypted"));
        }
        let der = text
            .trim()
            .strip_prefix("-----BEGIN PRIVATE KEY-----")
            .and_then(|text| text.strip_suffix("-----END PRIVATE KEY-----"))
            .and_then(|body| STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok())
            .ok_or_else(|| kind("not one PEM block \"PRIVATE KEY\""))?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der, &SystemRandom::new());
        let (secret, key) = match pair {
            Ok(pair) => {
                let point = pair.public_key().as_ref().try_into().map_err(|_| kind("not on P-256"))?;
                (Secret::Ecdsa(pair), Key::EcdsaP256(point))
            }
            Err(rejected) => {
                let signer = LocalSigner::from_pem(text.as_bytes(), place)
                    .map_err(|_| kind(&format!("as an ECDSA key it is refused: {rejected}")))?;
                let key = Key::Ed25519(*signer.public_key());
                (Secret::Ed25519(signer), key)
            }
        };
        Ok(CosignSigner { secret, key, place: place.to_owned() })
    }

    /// Returns the public key.
    pub fn public_key(&self) -> &Key {
        &self.key
    }

    /// Signs, and checks the signature.
    ///
    /// # Errors
    /// [`CosignSignError`].
    pub fn sign(&self, message: Vec<u8>) -> Result<Claim, CosignSignError> {
        let failed = || CosignSignError::Failed(self.place.clone());
        let signature = match &self.secret {
            Secret::Ecdsa(pair) => pair.sign(&SystemRandom::new(), &message).map_err(|_| failed())?.as_ref().to_vec(),
            // Plain: with such a key `cosign sign` makes Ed25519ph, which `cosign verify` refuses (seen of v3.1).
            Secret::Ed25519(signer) => signer.sign(&message)?.to_vec(),
        };
        let claim = Claim { message, signature };
        if self.key.verifies(&claim, &ecdsa) { Ok(claim) } else { Err(failed()) }
    }
}

/// Whether `key` has signed `claim`.
pub fn verifies(key: &Key, claim: &Claim) -> bool {
    key.verifies(claim, &ecdsa)
}

fn ecdsa(point: &[u8; 65], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature).is_ok()
}

/// Where `cosign` keeps a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// A manifest under a tag made of the digest.
    Classic,
    /// A bundle that refers to the manifest.
    Bundle,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Form::Classic => "classic",
            Form::Bundle => "bundle",
        })
    }
}

/// What was found of signatures by some keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// Signatures by them: the form, and which of the keys, from 0.
    pub valid: Vec<(Form, usize)>,
    /// How many were looked at.
    pub looked_at: usize,
    /// Why the last one that is not by them is none.
    pub reason: Option<String>,
}

impl Search {
    fn look(&mut self, keys: &[Key], form: Form, claim: Result<Claim, String>) {
        self.looked_at += 1;
        match claim.map(|claim| keys.iter().position(|key| key.verifies(&claim, &ecdsa))) {
            Ok(Some(key)) => self.valid.push((form, key)),
            Ok(None) => self.reason = Some("it is by another key, or wrong".to_owned()),
            Err(reason) => self.reason = Some(reason),
        }
    }

    fn is_full(&self) -> bool {
        self.looked_at >= cosign::MAX_SIGNATURES
    }

    /// Says why nothing was found.
    pub fn why(&self) -> String {
        match &self.reason {
            None => "there is no signature by cosign".to_owned(),
            Some(reason) => format!("of {} signatures by cosign none counts; of the last: {reason}", self.looked_at),
        }
    }
}

/// Looks for signatures of `manifest` by `keys`, in both forms.
///
/// # Errors
/// [`RegistryError`] for what cannot be fetched; a signature that is none is no error.
pub fn search(registry: &Registry<'_>, manifest: &Found, keys: &[Key]) -> Result<Search, RegistryError> {
    let mut search = Search::default();
    classic(registry, &manifest.digest, keys, &mut search)?;
    bundles(registry, manifest, keys, &mut search)?;
    Ok(search)
}

fn classic(registry: &Registry<'_>, digest: &Digest, keys: &[Key], search: &mut Search) -> Result<(), RegistryError> {
    let Some(found) = registry.manifest(&cosign::signature_tag(digest))? else { return Ok(()) };
    let manifest = match Manifest::parse(&found.bytes) {
        Ok(manifest) => manifest,
        Err(reason) => {
            search.look(keys, Form::Classic, Err(reason));
            return Ok(());
        }
    };
    for layer in manifest.layers.iter().filter(|layer| layer.media_type == cosign::SIMPLE_SIGNING_MEDIA_TYPE) {
        if search.is_full() {
            break;
        }
        let claim = simple_claim(registry, layer, digest)?;
        search.look(keys, Form::Classic, claim);
    }
    Ok(())
}

/// The inner error is of something that is no signature.
fn simple_claim(
    registry: &Registry<'_>,
    layer: &Descriptor,
    digest: &Digest,
) -> Result<Result<Claim, String>, RegistryError> {
    let Some(signature) = layer.annotations.get(SIGNATURE_ANNOTATION) else {
        return Ok(Err(format!("a layer without {SIGNATURE_ANNOTATION}")));
    };
    let blob = match layer.blob() {
        Ok(blob) => blob,
        Err(reason) => return Ok(Err(reason)),
    };
    let payload = match registry.small_blob(&blob, cosign::DOCUMENT_LIMIT) {
        Ok(payload) => payload,
        Err(RegistryError::Document { reason, .. }) => return Ok(Err(reason)),
        Err(error) => return Err(error),
    };
    Ok(cosign::simple_signing(&payload, signature, digest).map_err(|error| error.to_string()))
}

fn bundles(registry: &Registry<'_>, manifest: &Found, keys: &[Key], search: &mut Search) -> Result<(), RegistryError> {
    let mut entries: Vec<Descriptor> = Vec::new();
    let listed = registry.referrers(&manifest.digest, BUNDLE_MEDIA_TYPE)?;
    let tagged = registry.manifest(&cosign::referrers_tag(&manifest.digest))?.map(|found| found.bytes);
    for bytes in listed.into_iter().chain(tagged) {
        match Index::parse(&bytes) {
            Ok(index) => {
                for entry in index.manifests {
                    if !entries.iter().any(|known| known.digest == entry.digest) {
                        entries.push(entry);
                    }
                }
            }
            Err(reason) => search.look(keys, Form::Bundle, Err(reason)),
        }
    }
    for entry in entries.iter().filter(|entry| cosign::may_be_bundle(entry.artifact_type.as_deref())) {
        if search.is_full() {
            break;
        }
        if let Some(claim) = bundle_claim(registry, entry, manifest)? {
            search.look(keys, Form::Bundle, claim);
        }
    }
    Ok(())
}

/// None for what has no bundle; the inner error is of something that is no signature.
fn bundle_claim(
    registry: &Registry<'_>,
    entry: &Descriptor,
    manifest: &Found,
) -> Result<Option<Result<Claim, String>>, RegistryError> {
    let Ok(blob) = entry.blob() else { return Ok(None) };
    let Some(found) = registry.manifest(&format!("sha256:{}", blob.sha256))? else { return Ok(None) };
    let Ok(carrier) = Manifest::parse(&found.bytes) else { return Ok(None) };
    if !carrier.layers.iter().any(|layer| layer.media_type == BUNDLE_MEDIA_TYPE) {
        return Ok(None);
    }
    let bytes = match carrier.layer(BUNDLE_MEDIA_TYPE) {
        Ok(layer) => registry.small_blob(&layer, cosign::DOCUMENT_LIMIT),
        Err(reason) => return Ok(Some(Err(reason))),
    };
    Ok(Some(match bytes {
        Ok(bytes) => cosign::bundle(&bytes, &manifest.bytes).map_err(|error| error.to_string()),
        Err(RegistryError::Document { reason, .. }) => Err(reason),
        Err(error) => return Err(error),
    }))
}

/// Signs a manifest or an index in the forms in which the key has not signed it yet; returns those.
///
/// # Errors
/// [`RegistryError`].
pub fn sign(
    registry: &Registry<'_>,
    (media_type, bytes): (&str, &[u8]),
    signer: &CosignSigner,
) -> Result<Vec<Form>, RegistryError> {
    let manifest = Found { bytes: bytes.to_vec(), digest: Digest::of(bytes) };
    let known = search(registry, &manifest, std::slice::from_ref(signer.public_key()))?;
    let mut made = Vec::new();
    for form in [Form::Classic, Form::Bundle] {
        if known.valid.iter().any(|(known, _)| *known == form) {
            continue;
        }
        match form {
            Form::Classic => sign_classic(registry, &manifest.digest, signer)?,
            Form::Bundle => sign_bundle(registry, Descriptor::of(media_type, bytes), &manifest.digest, signer)?,
        }
        made.push(form);
    }
    Ok(made)
}

fn sign_classic(registry: &Registry<'_>, digest: &Digest, signer: &CosignSigner) -> Result<(), RegistryError> {
    let tag = cosign::signature_tag(digest);
    let mut known = match registry.manifest(&tag)? {
        None => Vec::new(),
        Some(found) => {
            Manifest::parse(&found.bytes)
                .map_err(|reason| RegistryError::Document { url: registry.manifest_url(&tag), reason })?
                .layers
        }
    };
    // "Cosign Signature Specification", "Payload".
    let payload = json!({
        "critical": {
            "identity": { "docker-reference": registry.name() },
            "image": { "docker-manifest-digest": format!("sha256:{digest}") },
            "type": "cosign container image signature",
        },
        "optional": null,
    });
    let claim = signer.sign(payload.to_string().into_bytes())?;
    let mut layer = Layer::bytes(cosign::SIMPLE_SIGNING_MEDIA_TYPE, None, claim.message);
    layer.annotations.insert(SIGNATURE_ANNOTATION.to_owned(), STANDARD.encode(&claim.signature));
    registry.push_blob(&layer)?;
    known.push(layer.descriptor());
    let diff_ids: Vec<&str> = known.iter().map(|layer| layer.digest.as_str()).collect();
    let config = json!({
        "architecture": "", "os": "", "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = Layer::bytes(CONFIG, None, config.to_string().into_bytes());
    registry.push_blob(&config)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST.to_owned(),
        artifact_type: None,
        config: config.descriptor(),
        layers: known,
        subject: None,
        annotations: BTreeMap::new(),
    };
    registry.put(&manifest.to_bytes(), &tag, MANIFEST)?;
    Ok(())
}

fn sign_bundle(
    registry: &Registry<'_>,
    subject: Descriptor,
    digest: &Digest,
    signer: &CosignSigner,
) -> Result<(), RegistryError> {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "digest": { "sha256": digest.hex() }, "annotations": {} }],
        "predicateType": SIGN_PREDICATE,
        "predicate": {},
    });
    let payload = statement.to_string().into_bytes();
    let claim = signer.sign(pre_authentication(IN_TOTO, &payload))?;
    // The hint is what `cosign` writes there: the digest of the key.
    let bundle = json!({
        "mediaType": BUNDLE_MEDIA_TYPE,
        "verificationMaterial": {
            "publicKey": { "hint": STANDARD.encode(Digest::of(&signer.key.to_der()).0) },
        },
        "dsseEnvelope": {
            "payload": STANDARD.encode(&payload),
            "payloadType": IN_TOTO,
            "signatures": [{ "sig": STANDARD.encode(&claim.signature) }],
        },
    });
    let layer = Layer::bytes(BUNDLE_MEDIA_TYPE, None, bundle.to_string().into_bytes());
    let mut artifact = Artifact::new(BUNDLE_MEDIA_TYPE, vec![layer]);
    artifact.annotations = BTreeMap::from([
        ("dev.sigstore.bundle.content".to_owned(), "dsse-envelope".to_owned()),
        ("dev.sigstore.bundle.predicateType".to_owned(), SIGN_PREDICATE.to_owned()),
    ]);
    artifact.subject = Some(subject);
    push(registry, &artifact, None)?;
    Ok(())
}
