//! Public keys, and versioned sets of them.
//!
//! An image carries the first key set that its node trusts, inside the verified root file system. A later set is taken
//! when it is signed by the threshold of the set before it and by its own threshold, and its version is one more (The
//! Update Framework 1.0, section 5.3.4, has the same rule for its root role). A key that is no longer in the newest set
//! is revoked.

use std::fmt;

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Digest as _;

use super::envelope::{Envelope, EnvelopeError, Payload};
use crate::Digest;

/// Most keys in a set.
pub const MAX_KEYS: usize = 32;

/// Name of a public key: the SHA-256 of its 32 bytes, hexadecimal.
pub type KeyId = Digest;

/// An Ed25519 public key (RFC 8032): a canonical encoding of a point that is not of small order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Bytes that are no public key to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// Not 32 bytes.
    #[error("an Ed25519 public key has 32 bytes, not {0}")]
    Length(usize),
    /// Not the canonical encoding of a point (RFC 8032, section 5.1.3).
    #[error("not the canonical encoding of an Ed25519 public key")]
    Encoding,
    /// A point of small order: signatures by it prove nothing.
    #[error("an Ed25519 public key of small order")]
    Weak,
}

impl PublicKey {
    /// Reads the 32 bytes of a key.
    ///
    /// # Errors
    /// [`PublicKeyError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PublicKeyError> {
        let array: &[u8; 32] = bytes.try_into().map_err(|_| PublicKeyError::Length(bytes.len()))?;
        let key = VerifyingKey::from_bytes(array).map_err(|_| PublicKeyError::Encoding)?;
        if key.is_weak() {
            return Err(PublicKeyError::Weak);
        }
        // Decoding reduces the coordinate; a key has one name only when the bytes are the canonical ones.
        if key.to_edwards().compress().as_bytes() != array {
            return Err(PublicKeyError::Encoding);
        }
        Ok(PublicKey(key))
    }

    /// Returns its 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Returns its name.
    pub fn id(&self) -> KeyId {
        Digest::of(self.as_bytes())
    }

    /// Whether `signature` over `message` is by this key. Strict: one signature has one encoding, and the key and the
    /// commitment are not of small order (RFC 8032, section 5.1.7, without the cofactor).
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = ed25519_dalek::Signature::from_slice(signature) else { return false };
        self.0.verify_strict(message, &signature).is_ok()
    }

    /// Whether `signature` over `message` is by this key with Ed25519ph (RFC 8032, section 5.1) and an empty context, as
    /// strictly as [`PublicKey::verifies`]. No signature of one algorithm is one of the other.
    pub fn verifies_prehashed(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = ed25519_dalek::Signature::from_slice(signature) else { return false };
        let hash = sha2::Sha512::new_with_prefix(message);
        self.0.verify_prehashed_strict(hash, None, &signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::envelope::encode_base64(self.as_bytes()))
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = super::envelope::decode_base64(&text).ok_or_else(|| de::Error::custom("a key is not base64"))?;
        PublicKey::from_bytes(&bytes).map_err(de::Error::custom)
    }
}

/// A set of keys, of which [`KeySet::threshold`] different ones must have signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySet {
    /// [`super::FORMAT`].
    pub format: u32,
    /// Version, from 1.
    pub version: u64,
    /// How many different keys must have signed, from 1.
    pub threshold: u32,
    /// The keys, base64 of 32 bytes each.
    pub keys: Vec<PublicKey>,
    /// When it ends to be valid, seconds since 1970. A node whose only set has ended takes a newer set and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// A key set that cannot be used, or not after the one that is in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// The document.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// It has no key, or more than [`MAX_KEYS`].
    #[error("a key set has 1 to {MAX_KEYS} keys, not {0}")]
    Count(usize),
    /// One key twice.
    #[error("the key set has key {0} twice")]
    Duplicate(KeyId),
    /// A threshold of 0, or one that the keys cannot meet.
    #[error("the key set asks for {threshold} signatures and has {keys} keys")]
    Threshold {
        /// Signatures that it asks for.
        threshold: u32,
        /// Keys that it has.
        keys: usize,
    },
    /// Not the version that follows.
    #[error("key set {found} does not follow key set {current}")]
    Version {
        /// Version of the set in use.
        current: u64,
        /// Version found.
        found: u64,
    },
}

impl KeySet {
    /// Returns a first key set.
    ///
    /// # Errors
    /// As [`KeySet::check`].
    pub fn new(keys: Vec<PublicKey>, threshold: u32) -> Result<Self, KeySetError> {
        let set = KeySet { format: super::FORMAT, version: 1, threshold, keys, expires: None };
        set.check()?;
        Ok(set)
    }

    /// Checks what the form alone does not say.
    ///
    /// # Errors
    /// [`KeySetError::Count`], [`KeySetError::Duplicate`], [`KeySetError::Threshold`].
    pub fn check(&self) -> Result<(), KeySetError> {
        let count = self.keys.len();
        if count == 0 || count > MAX_KEYS {
            return Err(KeySetError::Count(count));
        }
        for (index, key) in self.keys.iter().enumerate() {
            if self.keys[..index].contains(key) {
                return Err(KeySetError::Duplicate(key.id()));
            }
        }
        if self.threshold == 0 || self.threshold as usize > count {
            return Err(KeySetError::Threshold { threshold: self.threshold, keys: count });
        }
        Ok(())
    }

    /// Reads a key set that is trusted because of where it is: in the verified root file system.
    ///
    /// # Errors
    /// [`EnvelopeError::Payload`] for what is not a key set; as [`KeySet::check`].
    pub fn from_trusted(bytes: &[u8]) -> Result<Self, KeySetError> {
        let set: KeySet = super::envelope::parse_payload(bytes)?;
        set.check()?;
        Ok(set)
    }

    /// Returns the key set in `envelope`, when it follows this one: its version is one more, and the thresholds of both
    /// sets are met. Whether it has expired is not looked at: a newer one may follow.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn rotate(&self, envelope: &[u8]) -> Result<KeySet, KeySetError> {
        let envelope = Envelope::parse(envelope)?;
        let next: KeySet = envelope.verify(self)?.into_value();
        next.check()?;
        if next.version.checked_sub(1) != Some(self.version) {
            return Err(KeySetError::Version { current: self.version, found: next.version });
        }
        envelope.verify::<KeySet>(&next)?;
        Ok(next)
    }

    /// Whether it has ended at `now`, seconds since 1970.
    pub fn has_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|end| now >= end)
    }
}

impl Payload for KeySet {
    const TYPE: &'static str = "application/vnd.kubesolo.os.keys.v1+json";
}
