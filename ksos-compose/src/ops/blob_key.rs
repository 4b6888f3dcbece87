//! Keys that sign files: ECDSA P-256 or Ed25519, so that `cosign verify-blob --key` and OpenSSL take their signatures.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ksos_formats::Digest;
use ksos_formats::update::cosign::{self, Claim, Key};
use serde_json::json;

use crate::registry::signatures::{CosignSignError, CosignSigner, verifies};
use crate::sign::{self, KeySource, OpenedKey, SignError, Signer, Surroundings};

/// A key that signs files.
#[derive(Debug)]
pub enum BlobKey {
    /// Ed25519: it signs releases, too.
    Ed25519(OpenedKey),
    /// ECDSA P-256.
    Ecdsa(Box<CosignSigner>),
}

impl BlobKey {
    /// Opens the keys at `sources`. Each `exec:` takes the next of `public_keys`, files with the public keys.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn open(
        sources: &[KeySource],
        public_keys: &[PathBuf],
        surroundings: Surroundings<'_>,
    ) -> Result<Vec<BlobKey>, SignError> {
        let mut public_keys = public_keys.iter();
        let mut opened = Vec::new();
        for source in sources {
            let own: Vec<PathBuf> = match source {
                KeySource::Command(_) => public_keys.next().cloned().into_iter().collect(),
                KeySource::File(_) | KeySource::Variable(_) => Vec::new(),
            };
            opened.push(open_one(source, &own, surroundings)?);
        }
        match public_keys.next() {
            Some(path) => Err(SignError::ExtraPublicKey { path: path.clone() }),
            None => Ok(opened),
        }
    }

    /// Returns what signs releases, which ECDSA does not.
    pub fn release_signer(&self) -> Option<&dyn Signer> {
        match self {
            BlobKey::Ed25519(key) => Some(key.signer.as_ref()),
            BlobKey::Ecdsa(_) => None,
        }
    }

    /// Returns what the user should know of the key.
    pub fn warning(&self) -> Option<&str> {
        match self {
            BlobKey::Ed25519(key) => key.warning.as_deref(),
            BlobKey::Ecdsa(_) => None,
        }
    }

    /// Returns the public key.
    pub fn public_key(&self) -> Key {
        match self {
            BlobKey::Ed25519(key) => Key::Ed25519(*key.signer.public_key()),
            BlobKey::Ecdsa(key) => *key.public_key(),
        }
    }

    /// Returns the name of the key: of Ed25519 the one that releases have, of ECDSA the SHA-256 of the public key in DER.
    pub fn id(&self) -> String {
        match self {
            BlobKey::Ed25519(key) => key.signer.public_key().id().hex(),
            BlobKey::Ecdsa(key) => Digest::of(&key.public_key().to_der()).hex(),
        }
    }

    /// Signs `message`, and checks the signature. ECDSA is over SHA-256, in ASN.1.
    ///
    /// # Errors
    /// [`CosignSignError`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match self {
            BlobKey::Ed25519(key) => Ok(sign::sign(key.signer.as_ref(), message)?.to_vec()),
            BlobKey::Ecdsa(key) => {
                key.sign(message.to_vec()).map(|claim| claim.signature).map_err(|error| match error {
                    CosignSignError::Key(error) => error,
                    error => SignError::Key { place: "--sign-key".to_owned(), reason: error.to_string() },
                })
            }
        }
    }

    /// Whether `signature` over `message` is by this key.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        has_signed(&self.public_key(), message, signature)
    }
}

/// Whether `signature` over `message` is by `key`.
pub fn has_signed(key: &Key, message: &[u8], signature: &[u8]) -> bool {
    verifies(key, &Claim { message: message.to_vec(), signature: signature.to_vec() })
}

/// A key in PEM may be of either kind.
fn open_one(source: &KeySource, public_keys: &[PathBuf], surroundings: Surroundings<'_>) -> Result<BlobKey, SignError> {
    match sign::open(std::slice::from_ref(source), public_keys, surroundings) {
        Ok(mut keys) => Ok(BlobKey::Ed25519(keys.remove(0))),
        Err(error @ SignError::Key { .. }) => {
            CosignSigner::open(source, surroundings).map(|key| BlobKey::Ecdsa(Box::new(key))).map_err(|_| error)
        }
        Err(error) => Err(error),
    }
}

/// Returns a signature as `cosign verify-blob --bundle` reads it (sigstore "Bundle Format", version 0.3).
pub fn bundle(key: &Key, message: &[u8], signature: &[u8]) -> Vec<u8> {
    let document = json!({
        "mediaType": cosign::BUNDLE_MEDIA_TYPE,
        "verificationMaterial": {
            "publicKey": { "hint": STANDARD.encode(Digest::of(&key.to_der()).0) },
        },
        "messageSignature": {
            "messageDigest": { "algorithm": "SHA2_256", "digest": STANDARD.encode(Digest::of(message).0) },
            "signature": STANDARD.encode(signature),
        },
    });
    let mut text = serde_json::to_vec_pretty(&document).expect("a bundle is JSON");
    text.push(b'\n');
    text
}
