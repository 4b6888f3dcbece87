//! A command that signs: it gets the bytes to sign on its standard input and answers with the signature, 64 bytes or
//! base64 of them, on its standard output. What it says on standard error is shown when it fails.

use std::ffi::OsStr;
use std::time::Duration;

use ksos_formats::update::PublicKey;

use super::pem::decode_base64;
use super::{SignError, Signer, Surroundings};
use crate::effects::process::{self, Invocation};

/// Most bytes of an answer.
const LIMIT: u64 = 4096;
/// How long it may take: somebody may have to touch a token.
const PATIENCE: Duration = Duration::from_secs(120);

/// Signs by a command.
#[derive(Debug)]
pub struct ExternalSigner {
    invocation: Invocation,
    place: String,
    public_key: PublicKey,
    patience: Duration,
}

impl ExternalSigner {
    /// Returns a signer by the command of these `words`, at least one; `place` is what to call it.
    ///
    /// # Errors
    /// [`SignError::NoProgram`].
    pub fn new(
        words: &[String],
        place: String,
        public_key: PublicKey,
        surroundings: Surroundings<'_>,
    ) -> Result<Self, SignError> {
        let name = words.first().map_or("", String::as_str);
        let search = surroundings.variables.get("PATH").map_or("", String::as_str);
        let relative = name.contains('/').then(|| surroundings.directory.join(name));
        let name_or_path = relative.as_deref().and_then(|path| path.to_str()).unwrap_or(name);
        let program = process::find_program(name_or_path, OsStr::new(search))
            .ok_or_else(|| SignError::NoProgram { place: place.clone(), program: name.to_owned() })?;
        let invocation = Invocation {
            program,
            arguments: words.iter().skip(1).map(Into::into).collect(),
            environment: surroundings.variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            directory: surroundings.directory.to_owned(),
            interactive: false,
        };
        Ok(ExternalSigner { invocation, place, public_key, patience: PATIENCE })
    }

    /// Sets how long the command may take.
    #[cfg(test)]
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        ExternalSigner { patience, ..self }
    }
}

impl Signer for ExternalSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let answer = process::exchange(&self.invocation, message.to_vec(), LIMIT, self.patience)
            .map_err(|source| SignError::Command { place: self.place.clone(), source })?;
        if let Ok(signature) = <[u8; 64]>::try_from(answer.as_slice()) {
            return Ok(signature);
        }
        let decoded = std::str::from_utf8(&answer).ok().and_then(|text| decode_base64(text.trim()));
        let signature = decoded.and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
        signature.ok_or(SignError::Answer { place: self.place.clone(), bytes: answer.len() })
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}
