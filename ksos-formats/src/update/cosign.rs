//! What `cosign` (sigstore) leaves in an OCI registry when it signs a manifest with a key. Pure: no network, no ECDSA.
//!
//! Whoever verifies fetches the manifest by digest, finds the signatures, and for each:
//! 1. [`simple_signing`] (the layer's bytes and the annotation [`SIGNATURE_ANNOTATION`]) or [`bundle`] (a sigstore bundle)
//!    gives a [`Claim`]: a message, and a signature that has to be over it. The claim is about the manifest that was given,
//!    or there is an error. Nothing of it is to be believed before step 2.
//! 2. [`Key::from_pem`] gives the key, and [`Key::verifies`] whether it has signed the claim; what verifies ECDSA is
//!    handed in.
//!
//! Where signatures are:
//! - classic: tag [`signature_tag`]; an image manifest whose layers have media type [`SIMPLE_SIGNING_MEDIA_TYPE`]
//!   (sigstore "Cosign Signature Specification").
//! - bundle: what refers to the manifest (OCI distribution specification 1.1, "Listing Referrers"; without that API an
//!   index with tag [`referrers_tag`]) with `artifactType` [`BUNDLE_MEDIA_TYPE`]: an image manifest with one layer of that
//!   media type (sigstore "Bundle Format", version 0.3, and "Cosign Bundle Specification").
//!
//! Transparency logs, certificates and timestamps are not looked at: trust is in keys alone, as with
//! `cosign verify --key ... --insecure-ignore-tlog`.

use serde::Deserialize;

use super::envelope::{decode_base64, pre_authentication};
use super::keys::PublicKey;
use crate::Digest;

/// Media type of a layer whose bytes are the signed payload, classic form.
pub const SIMPLE_SIGNING_MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Annotation of such a layer: the signature, base64.
pub const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// `artifactType` of a manifest that carries a bundle, and media type of its layer.
pub const BUNDLE_MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// `predicateType` of the statement that `cosign sign` signs. One of `cosign attest` says something else: not that the
/// image may be used.
pub const SIGN_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";
/// Largest payload or bundle in bytes that is read.
pub const DOCUMENT_LIMIT: u64 = 256 << 10;
/// Most signatures of one manifest that are looked at.
pub const MAX_SIGNATURES: usize = 64;
/// Largest PEM text of a key in bytes.
pub const KEY_LIMIT: usize = 16 << 10;

const SIMPLE_SIGNING_TYPE: &str = "cosign container image signature";
const IN_TOTO_PAYLOAD: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPES: [&str; 2] = ["https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"];

/// Tag of the manifest with the classic signatures of the manifest `digest`.
pub fn signature_tag(digest: &Digest) -> String {
    format!("sha256-{digest}.sig")
}

/// Tag of the index of what refers to the manifest `digest`, in registries without the referrers API.
pub fn referrers_tag(digest: &Digest) -> String {
    format!("sha256-{digest}")
}

/// Returns whether what refers to a manifest may carry a bundle, by the `artifactType` that an index states of it. Registries
/// may list everything and leave the type out, and indexes that `cosign` 3.1 writes state the media type of the empty
/// configuration instead (OCI image specification 1.1, "Guidelines for Artifact Usage"): what it is, its manifest says.
pub fn may_be_bundle(artifact_type: Option<&str>) -> bool {
    matches!(artifact_type, None | Some("" | BUNDLE_MEDIA_TYPE | "application/vnd.oci.empty.v1+json"))
}

/// Something that was perhaps signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What the signature has to be over.
    pub message: Vec<u8>,
    /// The signature: ASN.1 `ECDSA-Sig-Value` (RFC 3279, section 2.2.3), or the 64 bytes of Ed25519.
    pub signature: Vec<u8>,
}

/// Something that is no signature of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CosignError {
    /// Not the document that it should be.
    #[error("{what}: {reason}")]
    Form {
        /// Which document.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A document of another type.
    #[error("{what} is {found:?}, not {expected:?}")]
    Type {
        /// Which field.
        what: &'static str,
        /// The type that it has to be.
        expected: &'static str,
        /// The type found.
        found: String,
    },
    /// Not base64.
    #[error("{0} is not base64")]
    Base64(&'static str),
    /// A bundle with another number of signatures than one.
    #[error("a bundle has one signature, not {0}")]
    Signatures(usize),
    /// A bundle with neither or both of the contents that there are.
    #[error("the bundle has not one of dsseEnvelope and messageSignature")]
    Content,
    /// It is about something else.
    #[error("it signs {0}, not this manifest")]
    OtherDigest(String),
}

/// A text that is no public key to be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CosignKeyError {
    /// No PEM of a public key.
    #[error("not one PEM block \"PUBLIC KEY\"")]
    Pem,
    /// A key of another kind.
    #[error("neither an ECDSA P-256 nor an Ed25519 public key (RFC 5480, RFC 8410)")]
    Kind,
    /// An Ed25519 key that proves nothing.
    #[error(transparent)]
    Ed25519(#[from] super::keys::PublicKeyError),
}

/// A public key of `cosign`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// NIST P-256: the uncompressed point (SEC 1, section 2.3.3). Whether it is on the curve, verification tells.
    EcdsaP256([u8; 65]),
    /// Ed25519.
    Ed25519(PublicKey),
}

/// Verifies ECDSA: the point of the key, the message, the signature in ASN.1.
pub type VerifyEcdsa<'a> = dyn Fn(&[u8; 65], &[u8], &[u8]) -> bool + 'a;

/// `SubjectPublicKeyInfo` of an uncompressed point on P-256, up to the point (RFC 5480, section 2).
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// `SubjectPublicKeyInfo` of an Ed25519 key, up to the key (RFC 8410, section 4).
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

impl Key {
    /// Reads a public key, `-----BEGIN PUBLIC KEY-----` (RFC 7468, section 13).
    ///
    /// # Errors
    /// [`CosignKeyError`].
    pub fn from_pem(text: &str) -> Result<Self, CosignKeyError> {
        let body = (text.len() <= KEY_LIMIT)
            .then_some(text.trim())
            .and_then(|text| text.strip_prefix("-----BEGIN PUBLIC KEY-----"))
            .and_then(|text| text.strip_suffix("-----END PUBLIC KEY-----"))
            .ok_or(CosignKeyError::Pem)?;
        let base64: String = body.split_ascii_whitespace().collect();
        let der = decode_base64(&base64).ok_or(CosignKeyError::Pem)?;
        if let Some(point) = der.strip_prefix(&P256_PREFIX) {
            let point: [u8; 65] = point.try_into().map_err(|_| CosignKeyError::Kind)?;
            return if point[0] == 4 { Ok(Key::EcdsaP256(point)) } else { Err(CosignKeyError::Kind) };
        }
        match der.strip_prefix(&ED25519_PREFIX) {
            Some(key) => Ok(Key::Ed25519(PublicKey::from_bytes(key)?)),
            None => Err(CosignKeyError::Kind),
        }
    }

    /// Returns its `SubjectPublicKeyInfo` in DER.
    pub fn to_der(&self) -> Vec<u8> {
        match self {
            Key::EcdsaP256(point) => [&P256_PREFIX[..], point].concat(),
            Key::Ed25519(key) => [&ED25519_PREFIX[..], key.as_bytes()].concat(),
        }
    }

    /// Whether this key has signed the claim. `ecdsa_p256_sha256(point, message, signature)` verifies ECDSA on P-256 with
    /// SHA-256 (FIPS 186-5) and a signature in ASN.1, e.g. by `ring`'s `ECDSA_P256_SHA256_ASN1`.
    ///
    /// With an Ed25519 key `cosign sign` makes Ed25519ph, `cosign sign-blob` Ed25519 (seen of v3.1).
    pub fn verifies(&self, claim: &Claim, ecdsa_p256_sha256: &VerifyEcdsa<'_>) -> bool {
        let Claim { message, signature } = claim;
        match self {
            Key::EcdsaP256(point) => ecdsa_p256_sha256(point, message, signature),
            Key::Ed25519(key) => key.verifies(message, signature) || key.verifies_prehashed(message, signature),
        }
    }
}

#[derive(Deserialize)]
struct SimpleSigning {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// Returns the claim of a classic signature: the bytes of the layer, and its annotation [`SIGNATURE_ANNOTATION`].
///
/// # Errors
/// [`CosignError`]; [`CosignError::OtherDigest`] when it is not about `manifest`.
pub fn simple_signing(payload: &[u8], signature: &str, manifest: &Digest) -> Result<Claim, CosignError> {
    let document: SimpleSigning = parse("the signed payload", payload)?;
    expect_type("critical.type", SIMPLE_SIGNING_TYPE, &document.critical.kind)?;
    let digest = &document.critical.image.digest;
    if digest.strip_prefix("sha256:").and_then(|hex| hex.parse().ok()) != Some(*manifest) {
        return Err(CosignError::OtherDigest(shorten(digest)));
    }
    let signature = decode_base64(signature).ok_or(CosignError::Base64("the signature"))?;
    Ok(Claim { message: payload.to_vec(), signature })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    dsse_envelope: Option<Dsse>,
    message_signature: Option<MessageSignature>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dsse {
    payload: String,
    payload_type: String,
    signatures: Vec<DsseSignature>,
}

#[derive(Deserialize)]
struct DsseSignature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageSignature {
    #[serde(default)]
    message_digest: MessageDigest,
    signature: String,
}

/// A hint, not signed. Of a file that an Ed25519 key has signed `cosign` leaves it empty.
#[derive(Deserialize, Default)]
struct MessageDigest {
    algorithm: Option<String>,
    digest: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: SubjectDigest,
}

#[derive(Deserialize)]
struct SubjectDigest {
    sha256: Option<String>,
}

/// Returns the claim of a sigstore bundle about the manifest of these bytes.
///
/// # Errors
/// [`CosignError`]; [`CosignError::OtherDigest`] when it is not about `manifest`.
pub fn bundle(bundle: &[u8], manifest: &[u8]) -> Result<Claim, CosignError> {
    let document: Bundle = parse("the bundle", bundle)?;
    expect_type("mediaType of the bundle", BUNDLE_MEDIA_TYPE, &document.media_type)?;
    match (document.dsse_envelope, document.message_signature) {
        (Some(envelope), None) => statement_claim(&envelope, &Digest::of(manifest)),
        (None, Some(signature)) => message_claim(&signature, manifest),
        _ => Err(CosignError::Content),
    }
}

fn statement_claim(envelope: &Dsse, manifest: &Digest) -> Result<Claim, CosignError> {
    expect_type("payloadType", IN_TOTO_PAYLOAD, &envelope.payload_type)?;
    // "DSSE envelopes in a bundle MUST have only a single signature" (sigstore, protobuf-specs, sigstore_bundle.proto).
    let [signature] = envelope.signatures.as_slice() else {
        return Err(CosignError::Signatures(envelope.signatures.len()));
    };
    let payload = decode_base64(&envelope.payload).ok_or(CosignError::Base64("payload"))?;
    let statement: Statement = parse("the signed statement", &payload)?;
    if !STATEMENT_TYPES.contains(&statement.kind.as_str()) {
        expect_type("_type of the statement", STATEMENT_TYPES[0], &statement.kind)?;
    }
    expect_type("predicateType", SIGN_PREDICATE, &statement.predicate_type)?;
    let hex = manifest.hex();
    let subjects = || statement.subject.iter().filter_map(|subject| subject.digest.sha256.as_deref());
    if !subjects().any(|digest| digest == hex) {
        return Err(CosignError::OtherDigest(subjects().next().map_or_else(|| "nothing".to_owned(), shorten)));
    }
    let signature = decode_base64(&signature.sig).ok_or(CosignError::Base64("the signature"))?;
    Ok(Claim { message: pre_authentication(&envelope.payload_type, &payload), signature })
}

fn message_claim(signature: &MessageSignature, manifest: &[u8]) -> Result<Claim, CosignError> {
    let MessageDigest { algorithm, digest } = &signature.message_digest;
    if let (Some("SHA2_256"), Some(digest)) = (algorithm.as_deref(), digest) {
        let digest = decode_base64(digest).ok_or(CosignError::Base64("digest of the message"))?;
        if digest != Digest::of(manifest).0 {
            let found: String = digest.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
            return Err(CosignError::OtherDigest(found));
        }
    }
    let signature = decode_base64(&signature.signature).ok_or(CosignError::Base64("the signature"))?;
    Ok(Claim { message: manifest.to_vec(), signature })
}

fn parse<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, CosignError> {
    serde_json::from_slice(bytes).map_err(|error| CosignError::Form { what, reason: error.to_string() })
}

fn expect_type(what: &'static str, expected: &'static str, found: &str) -> Result<(), CosignError> {
    if found == expected { Ok(()) } else { Err(CosignError::Type { what, expected, found: shorten(found) }) }
}

fn shorten(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests;
