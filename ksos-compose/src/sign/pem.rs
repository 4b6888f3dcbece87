//! Keys as OpenSSL has them: private ones in PKCS#8 (RFC 5958, RFC 8410), public ones as SubjectPublicKeyInfo
//! (RFC 8410, section 4), both in PEM (RFC 7468).

use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::spki::{DecodePublicKey, EncodePublicKey};
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use ksos_formats::update::PublicKey;

use super::{SignError, Signer};
use crate::effects::fs::{self, AtomicFile, Context};

/// The largest file with a public key, in bytes.
const LIMIT: u64 = 64 << 10;

/// Signs with a key in memory.
pub struct LocalSigner {
    key: SigningKey,
    public_key: PublicKey,
    place: String,
}

/// Secrets are not shown.
impl std::fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalSigner").field("public_key", &self.public_key).finish_non_exhaustive()
    }
}

impl LocalSigner {
    /// Reads a private key, PKCS#8 in PEM, as `openssl genpkey -algorithm ed25519` writes it. `place` is for messages.
    ///
    /// # Errors
    /// [`SignError::Key`].
    pub fn from_pem(text: &[u8], place: &str) -> Result<Self, SignError> {
        let fault = |reason: &str| SignError::Key { place: place.to_owned(), reason: reason.to_owned() };
        let text = std::str::from_utf8(text).map_err(|_| fault("not a private key in PEM"))?;
        if let Some(reason) = other_kind(text) {
            return Err(fault(reason));
        }
        // The causes of the decoder name ASN.1 tags; that it is a PEM of another algorithm is told by its text.
        let key = SigningKey::from_pkcs8_pem(text.trim()).map_err(|error| {
            fault(&format!("not an Ed25519 private key (PKCS#8 in PEM, as openssl genpkey writes it): {error}"))
        })?;
        LocalSigner::new(key, place)
    }

    /// Reads a private key as [`LocalSigner::from_pem`] does, or base64 of the 32 bytes of its seed (RFC 8032, section
    /// 5.1.5).
    ///
    /// # Errors
    /// [`SignError::Key`].
    pub fn from_pem_or_seed(text: &str, place: &str) -> Result<Self, SignError> {
        if text.contains("-----BEGIN") {
            return LocalSigner::from_pem(text.as_bytes(), place);
        }
        let seed = decode_base64(text.trim()).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let reason = "neither a private key in PEM nor base64 of the 32 bytes of a seed";
        let seed = seed.ok_or_else(|| SignError::Key { place: place.to_owned(), reason: reason.to_owned() })?;
        LocalSigner::new(SigningKey::from_bytes(&seed), place)
    }

    fn new(key: SigningKey, place: &str) -> Result<Self, SignError> {
        let public_key = PublicKey::from_bytes(key.verifying_key().as_bytes())
            .map_err(|error| SignError::Key { place: place.to_owned(), reason: error.to_string() })?;
        Ok(LocalSigner { key, public_key, place: place.to_owned() })
    }
}

impl Signer for LocalSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(self.key.sign(message).to_bytes())
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}

/// Says what a PEM is that is no usable private key.
fn other_kind(text: &str) -> Option<&'static str> {
    const KINDS: [(&str, &str); 5] = [
        ("-----BEGIN ENCRYPTED PRIVATE KEY", "the key is encrypted; exec: can decrypt it and sign"),
        ("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY", "the key is encrypted, by cosign"),
        ("-----BEGIN PUBLIC KEY", "that is the public key; the private one signs"),
        ("-----BEGIN OPENSSH PRIVATE KEY", "that is a key of OpenSSH, not PKCS#8"),
        ("-----BEGIN EC PRIVATE KEY", "that is an ECDSA key; releases are signed with Ed25519"),
    ];
    KINDS.iter().find(|(begin, _)| text.contains(begin)).map(|(_, reason)| *reason)
}

/// Reads a public key in PEM.
///
/// # Errors
/// [`SignError::Key`].
pub fn parse_public_key(text: &[u8], place: &str) -> Result<PublicKey, SignError> {
    let fault = |reason: String| SignError::Key { place: place.to_owned(), reason };
    let text = std::str::from_utf8(text).map_err(|_| fault("not a public key in PEM".to_owned()))?;
    if text.contains("PRIVATE KEY-----") {
        return Err(fault("that is a private key where a public one is expected".to_owned()));
    }
    let key = VerifyingKey::from_public_key_pem(text.trim())
        .map_err(|error| fault(format!("not an Ed25519 public key (SubjectPublicKeyInfo in PEM): {error}")))?;
    PublicKey::from_bytes(key.as_bytes()).map_err(|error| fault(error.to_string()))
}

/// Reads the file of a public key in PEM.
///
/// # Errors
/// [`SignError::Fs`], [`SignError::Key`].
pub fn read_public_key(path: &Path) -> Result<PublicKey, SignError> {
    parse_public_key(&fs::read(path, LIMIT)?, &path.display().to_string())
}

/// Returns a public key in PEM.
pub fn public_key_pem(key: &PublicKey) -> String {
    let key = VerifyingKey::from_bytes(key.as_bytes()).expect("a public key is the encoding of a point");
    key.to_public_key_pem(LineEnding::LF).expect("32 bytes have an encoding")
}

/// A new pair of keys.
pub struct NewKey {
    /// The public one.
    pub public_key: PublicKey,
    key: SigningKey,
}

/// Secrets are not shown.
impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey").field("public_key", &self.public_key).finish_non_exhaustive()
    }
}

impl NewKey {
    /// Makes one of the system's random bytes.
    ///
    /// # Errors
    /// [`SignError::Random`].
    pub fn generate() -> Result<Self, SignError> {
        let mut seed = [0; 32];
        crate::effects::random::fill(&mut seed).map_err(SignError::Random)?;
        let LocalSigner { key, public_key, .. } = LocalSigner::new(SigningKey::from_bytes(&seed), "a new key")?;
        Ok(NewKey { public_key, key })
    }

    /// Writes the private key to `private`, mode 0600, and the public one to `public`. What exists is not overwritten.
    /// The private one appears first: a public key without it would be of no use.
    ///
    /// # Errors
    /// [`SignError::Exists`], [`SignError::Fs`].
    pub fn write(&self, private: &Path, public: &Path) -> Result<(), SignError> {
        for path in [private, public] {
            if fs::symlink_metadata(path).is_ok() {
                return Err(SignError::Exists { path: path.to_owned() });
            }
        }
        let bytes = KeypairBytes { secret_key: self.key.to_bytes(), public_key: None };
        let text = bytes.to_pkcs8_pem(LineEnding::LF).expect("32 bytes have an encoding");
        write_new(private, text.as_bytes(), 0o600)?;
        write_new(public, public_key_pem(&self.public_key).as_bytes(), 0o644)
    }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), SignError> {
    // Made with mode 0600, whatever the umask is.
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).context("write", path)?;
    file.commit_new(mode).map_err(|error| match error.source.kind() {
        std::io::ErrorKind::AlreadyExists => SignError::Exists { path: PathBuf::from(path) },
        _ => SignError::Fs(error),
    })
}

/// Decodes base64 of either alphabet, padded or not.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let url = text.bytes().any(|byte| matches!(byte, b'-' | b'_'));
    let alphabet = if url { &base64::alphabet::URL_SAFE } else { &base64::alphabet::STANDARD };
    GeneralPurpose::new(alphabet, config).decode(text).ok()
}
