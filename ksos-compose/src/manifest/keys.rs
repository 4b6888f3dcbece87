//! Public keys in the files that a manifest names: Ed25519 keys and key sets for releases, and keys of `cosign`.

use ksos_formats::update::cosign::{self, CosignKeyError};
use ksos_formats::update::envelope::{Envelope, EnvelopeError, Payload};
use ksos_formats::update::keys::{KeySet, KeySetError, PublicKey};

/// The largest file with a key or a key set, in bytes.
pub const KEY_FILE_LIMIT: u64 = 1 << 20;

/// What a file in `update.keys` holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFile {
    /// One key.
    Key(PublicKey),
    /// A whole key set, plain or signed. It is trusted because the manifest names it: no signature is looked at.
    Set(KeySet),
}

/// A file that holds no key that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Not text.
    #[error("neither a public key (PEM) nor a key set (JSON)")]
    NotText,
    /// A private key.
    #[error("a private key: an image carries public keys")]
    Private,
    /// No public key.
    #[error(transparent)]
    Key(#[from] CosignKeyError),
    /// A key that only `cosign` signs with.
    #[error("an ECDSA key: releases are signed with Ed25519")]
    NotEd25519,
    /// No key set.
    #[error(transparent)]
    Set(#[from] KeySetError),
    /// Another signed document.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
}

impl KeyFile {
    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyFileError> {
        let text = text(bytes)?;
        if text.trim_start().starts_with('{') {
            return key_set_file(bytes).map(KeyFile::Set);
        }
        match cosign::Key::from_pem(text)? {
            cosign::Key::Ed25519(key) => Ok(KeyFile::Key(key)),
            cosign::Key::EcdsaP256(_) => Err(KeyFileError::NotEd25519),
        }
    }
}

/// Reads a key of `cosign`.
///
/// # Errors
/// [`KeyFileError`].
pub fn cosign_key(bytes: &[u8]) -> Result<cosign::Key, KeyFileError> {
    Ok(cosign::Key::from_pem(text(bytes)?)?)
}

/// Makes the key set of an image: the one that a file holds, or a first one of single keys.
///
/// # Errors
/// As [`KeySet::check`].
pub fn key_set(files: Vec<KeyFile>, threshold: Option<u32>) -> Result<KeySet, KeySetError> {
    let mut keys = Vec::new();
    for file in files {
        match file {
            KeyFile::Set(set) => return Ok(set),
            KeyFile::Key(key) => keys.push(key),
        }
    }
    KeySet::new(keys, threshold.unwrap_or(1))
}

fn text(bytes: &[u8]) -> Result<&str, KeyFileError> {
    let text = std::str::from_utf8(bytes).map_err(|_| KeyFileError::NotText)?;
    if text.contains("PRIVATE KEY") {
        return Err(KeyFileError::Private);
    }
    Ok(text)
}

fn key_set_file(bytes: &[u8]) -> Result<KeySet, KeyFileError> {
    let Ok(envelope) = Envelope::parse(bytes) else { return Ok(KeySet::from_trusted(bytes)?) };
    if envelope.payload_type != KeySet::TYPE {
        return Err(EnvelopeError::Type { expected: KeySet::TYPE, found: envelope.payload_type }.into());
    }
    Ok(KeySet::from_trusted(&envelope.payload)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &[u8] = include_bytes!("../../../tests/fixtures/keys/test-only-update.pub");
    const PRIVATE: &[u8] = include_bytes!("../../../tests/fixtures/keys/test-only-update.key");
    const COSIGN: &[u8] = include_bytes!("../../../tests/fixtures/keys/test-only-cosign.pub");

    #[test]
    fn keys_and_key_sets_are_told_apart() {
        let KeyFile::Key(key) = KeyFile::parse(PUBLIC).unwrap() else { panic!("one key") };
        let set = KeySet { version: 7, ..KeySet::new(vec![key], 1).unwrap() };
        let plain = serde_json::to_vec(&set).unwrap();
        assert_eq!(KeyFile::parse(&plain), Ok(KeyFile::Set(set.clone())));
        let signed = Envelope::new(&set).to_json();
        assert_eq!(KeyFile::parse(&signed), Ok(KeyFile::Set(set.clone())));
        assert_eq!(key_set(vec![KeyFile::Set(set.clone())], None), Ok(set));
        assert_eq!(key_set(vec![KeyFile::Key(key)], None).map(|set| (set.version, set.threshold)), Ok((1, 1)));
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        assert_eq!(KeyFile::parse(PRIVATE), Err(KeyFileError::Private));
        assert_eq!(KeyFile::parse(COSIGN), Err(KeyFileError::NotEd25519));
        assert!(matches!(cosign_key(COSIGN), Ok(cosign::Key::EcdsaP256(_))));
        assert_eq!(KeyFile::parse(b"\xff"), Err(KeyFileError::NotText));
        assert_eq!(KeyFile::parse(b"hello"), Err(KeyFileError::Key(CosignKeyError::Pem)));
        assert!(matches!(KeyFile::parse(b"{}"), Err(KeyFileError::Set(_))));
        let KeyFile::Key(key) = KeyFile::parse(PUBLIC).unwrap() else { panic!("one key") };
        let twice = key_set(vec![KeyFile::Key(key), KeyFile::Key(key)], None);
        assert_eq!(twice, Err(KeySetError::Duplicate(key.id())));
        // A signed document of another kind.
        let mut envelope = Envelope::new(&KeySet::new(vec![key], 1).unwrap());
        envelope.payload_type = "application/vnd.kubesolo.os.release.v1+json".to_owned();
        assert!(matches!(KeyFile::parse(&envelope.to_json()), Err(KeyFileError::Envelope(_))));
    }
}
