//! Signed documents: DSSE v1.0 (Dead Simple Signing Envelope) with Ed25519.
//!
//! What is signed is the pre-authentication encoding of type and payload, so a document of one kind never passes for
//! another. A payload is parsed only after its signatures were counted, and by type: the type that a reader asks for
//! must be the one in the envelope. Key ids are hints; what counts is which different keys of the trusted set verify.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::keys::{KeyId, KeySet, PublicKey};
use crate::Digest;

/// Most signatures in an envelope.
pub const MAX_SIGNATURES: usize = 64;

/// A document that is signed.
pub trait Payload: DeserializeOwned {
    /// Its `payloadType`.
    const TYPE: &'static str;
}

/// An envelope. Nothing in it is to be believed before [`Envelope::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// What the payload is.
    pub payload_type: String,
    /// The document.
    pub payload: Vec<u8>,
    /// Signatures over [`pre_authentication`].
    pub signatures: Vec<Signature>,
}

/// One signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// A hint at the key.
    pub key_id: String,
    /// The 64 bytes (RFC 8032), or whatever somebody put there.
    pub bytes: Vec<u8>,
}

/// An envelope, or what is in it, that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not an envelope.
    #[error("not a signed document (DSSE): {0}")]
    Form(String),
    /// More signatures than are looked at.
    #[error("{0} signatures; at most {MAX_SIGNATURES} are looked at")]
    TooManySignatures(usize),
    /// Another kind of document.
    #[error("the signed document is {found:?}, not {expected:?}")]
    Type {
        /// The type that was asked for.
        expected: &'static str,
        /// The type found.
        found: String,
    },
    /// Nobody has signed.
    #[error("the document is not signed")]
    Unsigned,
    /// Too few different keys of the trusted set have signed.
    #[error(
        "{valid} of {threshold} signatures needed are valid; {unknown} are by keys that are not trusted, {invalid} are wrong"
    )]
    Threshold {
        /// Different trusted keys whose signature verifies.
        valid: usize,
        /// How many are needed.
        threshold: u32,
        /// Signatures whose key id no trusted key has, and that none of them has made.
        unknown: usize,
        /// Signatures that name a trusted key and are wrong.
        invalid: usize,
    },
    /// The payload is not the document that its type says.
    #[error("the signed document cannot be read: {0}")]
    Payload(String),
    /// A document of a later format.
    #[error("the signed document has format {found}; this version reads format {known}")]
    Format {
        /// Format found.
        found: u64,
        /// Format known.
        known: u32,
    },
}

/// A document whose signatures were verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    digest: Digest,
    keys: Vec<KeyId>,
}

impl<T> Verified<T> {
    /// Returns the document.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Returns the document alone.
    pub fn into_value(self) -> T {
        self.value
    }

    /// Returns the SHA-256 of the payload: the name of the document, however often it is signed.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the different trusted keys that have signed.
    pub fn keys(&self) -> &[KeyId] {
        &self.keys
    }
}

#[derive(Serialize, Deserialize)]
struct Form {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<SignatureForm>,
}

#[derive(Serialize, Deserialize)]
struct SignatureForm {
    #[serde(default)]
    keyid: String,
    sig: String,
}

impl Envelope {
    /// Returns an envelope without signatures.
    pub fn new<T: Payload + Serialize>(document: &T) -> Self {
        let mut payload = serde_json::to_vec(document).expect("documents are JSON");
        payload.push(b'\n');
        Envelope { payload_type: T::TYPE.to_owned(), payload, signatures: Vec::new() }
    }

    /// Reads an envelope. Fields that DSSE does not have are ignored, as it asks for.
    ///
    /// # Errors
    /// [`EnvelopeError::Form`], [`EnvelopeError::TooManySignatures`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let form: Form = serde_json::from_slice(bytes).map_err(|error| EnvelopeError::Form(error.to_string()))?;
        if form.signatures.len() > MAX_SIGNATURES {
            return Err(EnvelopeError::TooManySignatures(form.signatures.len()));
        }
        let decode = |what: &str, text: &str| {
            decode_base64(text).ok_or_else(|| EnvelopeError::Form(format!("{what} is not base64")))
        };
        let payload = decode("payload", &form.payload)?;
        let signatures = form
            .signatures
            .into_iter()
            .map(|signature| Ok(Signature { key_id: signature.keyid, bytes: decode("a signature", &signature.sig)? }));
        let signatures = signatures.collect::<Result<_, EnvelopeError>>()?;
        Ok(Envelope { payload_type: form.payload_type, payload, signatures })
    }

    /// Returns the envelope as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let signatures = self
            .signatures
            .iter()
            .map(|signature| SignatureForm { keyid: signature.key_id.clone(), sig: encode_base64(&signature.bytes) });
        let form = Form {
            payload: encode_base64(&self.payload),
            payload_type: self.payload_type.clone(),
            signatures: signatures.collect(),
        };
        let mut text = serde_json::to_vec_pretty(&form).expect("an envelope is JSON");
        text.push(b'\n');
        text
    }

    /// Returns what a key signs.
    pub fn message(&self) -> Vec<u8> {
        pre_authentication(&self.payload_type, &self.payload)
    }

    /// Adds a signature; one by the same key is replaced.
    pub fn add(&mut self, key: &PublicKey, signature: [u8; 64]) {
        let key_id = key.id().hex();
        self.signatures.retain(|other| other.key_id != key_id);
        self.signatures.push(Signature { key_id, bytes: signature.to_vec() });
    }

    /// Returns the document, when at least the threshold of `keys` has signed it and it is a `T`.
    ///
    /// # Errors
    /// All but [`EnvelopeError::Form`] and [`EnvelopeError::TooManySignatures`].
    pub fn verify<T: Payload>(&self, keys: &KeySet) -> Result<Verified<T>, EnvelopeError> {
        if self.payload_type != T::TYPE {
            let found = self.payload_type.chars().take(120).collect();
            return Err(EnvelopeError::Type { expected: T::TYPE, found });
        }
        let signed = self.signers(keys)?;
        let value = parse_payload(&self.payload)?;
        Ok(Verified { value, digest: Digest::of(&self.payload), keys: signed })
    }

    /// Returns the different keys that have signed, when they meet the threshold.
    fn signers(&self, keys: &KeySet) -> Result<Vec<KeyId>, EnvelopeError> {
        if self.signatures.is_empty() {
            return Err(EnvelopeError::Unsigned);
        }
        let message = self.message();
        let (mut signers, mut unknown, mut invalid) = (Vec::new(), 0, 0);
        for signature in &self.signatures {
            let by = keys.keys.iter().find(|key| key.verifies(&message, &signature.bytes));
            match by.map(PublicKey::id) {
                Some(id) if signers.contains(&id) => {}
                Some(id) => signers.push(id),
                None if keys.keys.iter().any(|key| key.id().hex() == signature.key_id) => invalid += 1,
                None => unknown += 1,
            }
        }
        // A set that did not pass its check is met by nothing.
        if keys.threshold == 0 || signers.len() < keys.threshold as usize {
            let (valid, threshold) = (signers.len(), keys.threshold);
            return Err(EnvelopeError::Threshold { valid, threshold, unknown, invalid });
        }
        Ok(signers)
    }
}

/// Returns the pre-authentication encoding (DSSE v1.0, protocol, "Signature definition").
pub fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

#[derive(Deserialize)]
struct FormatField {
    format: u64,
}

/// Reads a document, its format first: one of a later format may have fields that are not known here.
pub(super) fn parse_payload<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, EnvelopeError> {
    let unreadable = |error: serde_json::Error| EnvelopeError::Payload(error.to_string());
    let FormatField { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
    if format != u64::from(super::FORMAT) {
        return Err(EnvelopeError::Format { found: format, known: super::FORMAT });
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

/// Encodes as base64 (RFC 4648, section 4), padded.
pub(super) fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Decodes base64 of either alphabet (RFC 4648, sections 4 and 5), padded or not: DSSE asks readers for both.
pub(super) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let url = text.bytes().any(|byte| matches!(byte, b'-' | b'_'));
    let alphabet = if url { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    GeneralPurpose::new(alphabet, config).decode(text).ok()
}
