//! `sign`: adds signatures to a release, a channel, a key set or provenance; any other file gets signatures beside it. A
//! document is read and checked first, so that nobody signs something else than its name says.

use std::path::{Path, PathBuf};

use ksos_formats::Digest;
use ksos_formats::update::envelope::{Envelope, MAX_SIGNATURES, Payload};
use ksos_formats::update::keys::{KeyId, KeySet};
use ksos_formats::update::{self, Channel, ENVELOPE_LIMIT, RELEASE_FILE, Release};

use super::blob_key::BlobKey;
use super::build::supply;
use super::publish::{PublishError, release};
use super::{OpError, sums};
use crate::effects::fs;
use crate::sign::{Signer, sign_envelope};

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

/// What came of signing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A document has its signatures in it.
    Document(Signed),
    /// A file has them beside it: those that were written.
    File {
        /// The file.
        path: PathBuf,
        /// Names of the keys.
        by: Vec<String>,
        /// Files of signatures that were written; none when they were there.
        written: Vec<PathBuf>,
    },
}

/// Signs what is at `path`, whatever it is: a release's directory, a document in an envelope, a statement of provenance
/// (`.intoto.json`), or any other file.
///
/// # Errors
/// As [`sign`] and [`sums::sign_file`]; an ECDSA key for a document that only Ed25519 signs.
pub fn sign_any(path: &Path, keys: &[BlobKey]) -> Result<Outcome, OpError> {
    let is_directory = fs::metadata(path)?.is_dir();
    let small = |limit| fs::metadata(path).ok().filter(|metadata| metadata.len() <= limit);
    let envelope = || {
        small(ENVELOPE_LIMIT.max(supply::STATEMENT_LIMIT * 2))?;
        Envelope::parse(&fs::read(path, supply::STATEMENT_LIMIT * 2).ok()?).ok()
    };
    let ids = || keys.iter().map(BlobKey::id).collect();
    if let Some(sealed) = supply::sealed_name(path) {
        let written = supply::seal_to(path, &sealed, keys)?;
        return Ok(Outcome::File { path: path.to_owned(), by: ids(), written });
    }
    match if is_directory { None } else { envelope() } {
        None if !is_directory => {
            let written = sums::sign_file(path, keys)?;
            Ok(Outcome::File { path: path.to_owned(), by: ids(), written })
        }
        Some(envelope) if envelope.payload_type == supply::PAYLOAD_TYPE => {
            let written = supply::add_signatures(path, envelope, keys)?;
            Ok(Outcome::File { path: path.to_owned(), by: ids(), written })
        }
        _ => {
            let signers = keys.iter().map(|key| {
                key.release_signer().ok_or(PublishError::Usage("a document is signed by Ed25519; that key is ECDSA"))
            });
            let signed = sign_document(path, &signers.collect::<Result<Vec<_>, _>>()?)?;
            relist(&signed.path)?;
            Ok(Outcome::Document(signed))
        }
    }
}

/// A document that is listed in `SHA256SUMS` has another digest now.
fn relist(document: &Path) -> Result<(), OpError> {
    let (Some(directory), Some(name)) = (document.parent(), document.file_name()) else { return Ok(()) };
    let (Some(above), Some(release)) = (directory.parent(), directory.file_name()) else { return Ok(()) };
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let sha256 = Digest::of(&fs::read(document, ENVELOPE_LIMIT)?);
    sums::refresh(above, &format!("{}/{}", release.to_string_lossy(), name.to_string_lossy()), sha256)?;
    Ok(())
}

/// Adds signatures by `keys` to the document at `path`: a release's directory, or the file of an envelope. The file is
/// replaced as a whole.
///
/// # Errors
/// A file that cannot be used; a document that is not what it should be; [`crate::sign::SignError`].
pub fn sign_document(path: &Path, keys: &[&dyn Signer]) -> Result<Signed, OpError> {
    let file = if fs::metadata(path)?.is_dir() { path.join(RELEASE_FILE) } else { path.to_owned() };
    let wrong = |reason: String| PublishError::Document { path: file.clone(), reason };
    let bytes = fs::read(&file, ENVELOPE_LIMIT)?;
    let mut envelope = Envelope::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
    let title = title(&envelope).map_err(&wrong)?;
    if file != path {
        release::check_files(path, &envelope.payload)?;
    }
    for key in keys {
        sign_envelope(&mut envelope, *key)?;
    }
    if envelope.signatures.len() > MAX_SIGNATURES {
        return Err(wrong(format!("it would have more than {MAX_SIGNATURES} signatures")).into());
    }
    fs::write_atomic(&file, &envelope.to_json())?;
    Ok(Signed {
        path: file,
        title,
        digest: Digest::of(&envelope.payload),
        by: keys.iter().map(|key| key.public_key().id()).collect(),
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
