//! `sign`: adds signatures to a release, a channel or a key set. What is signed is read and checked first, so that
//! nobody signs something else than its name says.

use std::path::{Path, PathBuf};

use ksos_formats::Digest;
use ksos_formats::update::envelope::{Envelope, MAX_SIGNATURES, Payload};
use ksos_formats::update::keys::{KeyId, KeySet};
use ksos_formats::update::{self, Channel, ENVELOPE_LIMIT, RELEASE_FILE, Release};

use super::OpError;
use super::publish::{PublishError, release};
use crate::effects::fs;
use crate::sign::{OpenedKey, sign_envelope};

/// A document that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Its file.
    pub path: PathBuf,
    /// What it is, for people.
    pub title: String,
    /// Its digest.
    pub digest: Digest,
    /// The keys that have signed now.
    pub by: Vec<KeyId>,
    /// How many signatures there are in all.
    pub signatures: usize,
}

/// Adds signatures by `keys` to the document at `path`: a release's directory, or the file of an envelope. The file is
/// replaced as a whole.
///
/// # Errors
/// A file that cannot be used; a document that is not what it should be; [`crate::sign::SignError`].
pub fn sign(path: &Path, keys: &[OpenedKey]) -> Result<Signed, OpError> {
    let file = if fs::metadata(path)?.is_dir() { path.join(RELEASE_FILE) } else { path.to_owned() };
    let wrong = |reason: String| PublishError::Document { path: file.clone(), reason };
    let bytes = fs::read(&file, ENVELOPE_LIMIT)?;
    let mut envelope = Envelope::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
    let title = title(&envelope).map_err(&wrong)?;
    if file != path {
        release::check_files(path, &envelope.payload)?;
    }
    for key in keys {
        sign_envelope(&mut envelope, key.signer.as_ref())?;
    }
    if envelope.signatures.len() > MAX_SIGNATURES {
        return Err(wrong(format!("it would have more than {MAX_SIGNATURES} signatures")).into());
    }
    fs::write_atomic(&file, &envelope.to_json())?;
    Ok(Signed {
        path: file,
        title,
        digest: Digest::of(&envelope.payload),
        by: keys.iter().map(|key| key.signer.public_key().id()).collect(),
        signatures: envelope.signatures.len(),
    })
}

/// Reads the document in an envelope, whoever has signed it, and returns what it is.
fn title(envelope: &Envelope) -> Result<String, String> {
    match envelope.payload_type.as_str() {
        Release::TYPE => {
            let release: Release = read(&envelope.payload)?;
            Ok(format!("release {}", update::release_name(&release.name, &release.version, release.arch)))
        }
        Channel::TYPE => {
            let channel: Channel = read(&envelope.payload)?;
            let Channel { channel, name, arch, sequence, .. } = channel;
            Ok(format!("channel {channel} of {name} for {arch}, sequence {sequence}"))
        }
        KeySet::TYPE => {
            let set = KeySet::from_trusted(&envelope.payload).map_err(|error| error.to_string())?;
            Ok(format!("key set {}", set.version))
        }
        other => Err(format!("it is {other:.120?}, which is neither a release, a channel nor a key set")),
    }
}

/// Reads a document whose signatures are not looked at.
pub(super) fn read<T: Payload>(payload: &[u8]) -> Result<T, String> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u64,
    }
    let Format { format } = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    if format != u64::from(update::FORMAT) {
        return Err(format!("it has format {format}; this version reads format {}", update::FORMAT));
    }
    serde_json::from_slice(payload).map_err(|error| error.to_string())
}
