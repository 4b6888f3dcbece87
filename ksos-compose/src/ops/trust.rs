//! Which keys a command trusts: key sets, or single public keys.

use std::path::{Path, PathBuf};

use ksos_formats::update::envelope::{Envelope, EnvelopeError, Payload, Verified};
use ksos_formats::update::keys::{KeySet, PublicKey};

use super::OpError;
use super::publish::PublishError;
use crate::effects::fs;
use crate::manifest::keys::{KEY_FILE_LIMIT, KeyFile};
use crate::sign::OpenedKey;

/// A key set in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedSet {
    /// It.
    pub set: KeySet,
    /// The envelope that it came in, when it is signed.
    pub envelope: Option<Vec<u8>>,
}

/// Key sets that are trusted, in the order of their versions. The last is the one in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    sets: Vec<TrustedSet>,
}

impl Trust {
    /// Reads the files of key sets and of single public keys; of single keys all must have signed. None without either.
    ///
    /// # Errors
    /// [`PublishError::Trust`]; files that cannot be read.
    pub fn read(sets: &[PathBuf], keys: &[PathBuf], directory: &Path) -> Result<Option<Self>, OpError> {
        let mut single: Vec<PublicKey> = Vec::new();
        let mut trusted: Vec<TrustedSet> = Vec::new();
        for path in sets.iter().chain(keys) {
            let bytes = fs::read(&directory.join(path), KEY_FILE_LIMIT)?;
            let file = KeyFile::parse(&bytes).map_err(|source| OpError::UpdateKey { path: path.clone(), source })?;
            match file {
                KeyFile::Key(key) => single.push(key),
                KeyFile::Set(set) => {
                    let envelope = Envelope::parse(&bytes).is_ok().then_some(bytes);
                    trusted.push(TrustedSet { set, envelope });
                }
            }
        }
        match (single.is_empty(), trusted.is_empty()) {
            (true, true) => Ok(None),
            (false, false) => Err(trust("single keys and key sets are not trusted together").into()),
            (false, true) => Ok(Some(Trust::of_keys(single)?)),
            (true, false) => Ok(Some(Trust::of_sets(trusted)?)),
        }
    }

    /// Trusts the keys that sign, all of them together.
    ///
    /// # Errors
    /// [`PublishError::Trust`] when there is none, or one twice.
    pub fn of_signers(signers: &[OpenedKey]) -> Result<Self, OpError> {
        Trust::of_keys(signers.iter().map(|opened| *opened.signer.public_key()).collect())
    }

    fn of_keys(keys: Vec<PublicKey>) -> Result<Self, OpError> {
        let threshold = keys.len() as u32;
        let set = KeySet::new(keys, threshold).map_err(|error| trust(error.to_string()))?;
        Ok(Trust { sets: vec![TrustedSet { set, envelope: None }] })
    }

    fn of_sets(mut sets: Vec<TrustedSet>) -> Result<Self, OpError> {
        sets.sort_by_key(|trusted| trusted.set.version);
        for pair in sets.windows(2) {
            let (old, new) = (&pair[0], &pair[1]);
            if old.set.version == new.set.version {
                return Err(trust(format!("there are two key sets of version {}", new.set.version)).into());
            }
            if let Some(envelope) = new.envelope.as_ref().filter(|_| new.set.version == old.set.version + 1) {
                let rotated = old.set.rotate(envelope);
                rotated.map_err(|error| trust(format!("key set {}: {error}", new.set.version)))?;
            }
        }
        Ok(Trust { sets })
    }

    /// Returns the key set in use.
    pub fn current(&self) -> &KeySet {
        &self.sets.last().expect("there is at least one set").set
    }

    /// Returns all key sets.
    pub fn sets(&self) -> &[TrustedSet] {
        &self.sets
    }

    /// Verifies a document by the set in use.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn verify<T: Payload>(&self, envelope: &Envelope) -> Result<Verified<T>, EnvelopeError> {
        envelope.verify(self.current())
    }

    /// Verifies a document by any of the sets, the newest first: what was signed before keys were changed.
    ///
    /// # Errors
    /// [`EnvelopeError`], of the set in use.
    pub fn verify_by_any<T: Payload>(&self, envelope: &Envelope) -> Result<Verified<T>, EnvelopeError> {
        let older = || self.sets.iter().rev().skip(1).find_map(|trusted| envelope.verify(&trusted.set).ok());
        self.verify(envelope).or_else(|error| older().ok_or(error))
    }
}

fn trust(reason: impl Into<String>) -> PublishError {
    PublishError::Trust(reason.into())
}
