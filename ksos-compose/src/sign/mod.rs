//! Signing: where private keys are, and signatures by them on the documents of `ksos_formats::update`.
//!
//! - `source`: the texts that say where a key is: a file, a variable of the environment, or a command that signs.
//! - `pem`: reads and writes keys as OpenSSL has them.
//! - `external`: a command that signs, in front of a hardware module or a key service.
//!
//! No signature leaves here unverified: [`sign_envelope`] checks each with the public key first, by the function with
//! which a node does. A private key is never shown, and nowhere but in the memory of this process.

mod external;
pub mod pem;
mod source;

use std::path::PathBuf;

use ksos_formats::update::{Envelope, PublicKey};

pub use self::external::ExternalSigner;
pub use self::pem::{LocalSigner, NewKey, read_public_key};
pub use self::source::{KeySource, KeySourceError, OpenedKey, Surroundings, open};
use crate::effects::fs::FsError;
use crate::effects::process::ProcessError;

/// Signs with one key.
pub trait Signer: Send + Sync {
    /// Returns the key that verifies the signatures.
    fn public_key(&self) -> &PublicKey;

    /// Signs `message` with Ed25519 (RFC 8032, section 5.1.6: without a context, not hashed before).
    ///
    /// # Errors
    /// [`SignError`].
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError>;

    /// Returns where the key is, for messages.
    fn place(&self) -> String;
}

/// A key cannot be had, or does not sign.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A variable is not there.
    #[error("the environment has no variable {name} with a key")]
    NoVariable {
        /// Its name.
        name: String,
    },
    /// There is something else than a key. Its text is not shown.
    #[error("{place}: {reason}")]
    Key {
        /// File or variable.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A key whose public key must be given.
    #[error("{place} does not say its public key; it is read from a file (--public-key)")]
    NoPublicKey {
        /// The source.
        place: String,
    },
    /// More public keys than commands.
    #[error("{} is not the public key of any exec: key", path.display())]
    ExtraPublicKey {
        /// The file.
        path: PathBuf,
    },
    /// The program of a command is nowhere.
    #[error("{place}: there is no program {program}")]
    NoProgram {
        /// The source.
        place: String,
        /// Its name.
        program: String,
    },
    /// The command failed.
    #[error("{place}: {source}")]
    Command {
        /// The source.
        place: String,
        /// The cause.
        source: ProcessError,
    },
    /// The command answered with something else than a signature.
    #[error("{place}: answered with {bytes} bytes; expected 64, or base64 of 64")]
    Answer {
        /// The source.
        place: String,
        /// How many bytes came.
        bytes: usize,
    },
    /// The signature does not verify.
    #[error("{place}: its signature is not by key {key}")]
    Wrong {
        /// The source.
        place: String,
        /// The key that it should be by.
        key: ksos_formats::Digest,
    },
    /// A key file would be overwritten.
    #[error("{} exists already; a key is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// There is no chance to be had.
    #[error("the system gives no random bytes: {0}")]
    Random(std::io::Error),
}

impl SignError {
    /// Whether something outside failed, rather than what was asked for.
    pub fn is_external(&self) -> bool {
        matches!(self, SignError::Command { .. } | SignError::Answer { .. } | SignError::Wrong { .. })
    }
}

/// Signs `message`, and checks the signature.
///
/// # Errors
/// [`SignError`].
pub fn sign(signer: &dyn Signer, message: &[u8]) -> Result<[u8; 64], SignError> {
    let signature = signer.sign(message)?;
    if !signer.public_key().verifies(message, &signature) {
        return Err(SignError::Wrong { place: signer.place(), key: signer.public_key().id() });
    }
    Ok(signature)
}

/// Adds a signature to `envelope`, checked before. One by the same key is replaced.
///
/// # Errors
/// [`SignError`]; the envelope is as it was.
pub fn sign_envelope(envelope: &mut Envelope, signer: &dyn Signer) -> Result<(), SignError> {
    let signature = sign(signer, &envelope.message())?;
    envelope.add(signer.public_key(), signature);
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
