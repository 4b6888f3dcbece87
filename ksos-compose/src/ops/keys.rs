//! `keygen`, `keys new` and `keys rotate`: keys, and sets of them.

use std::path::{Path, PathBuf};

use ksos_formats::update::envelope::{Envelope, EnvelopeError};
use ksos_formats::update::keys::{KeyId, KeySet, KeySetError, PublicKey};

use super::OpError;
use super::publish::PublishError;
use crate::effects::{clock, fs};
use crate::manifest::keys::{KEY_FILE_LIMIT, KeyFile};
use crate::sign::{NewKey, OpenedKey, pem, sign_envelope};

/// A key that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// Its name.
    pub id: KeyId,
    /// File of the private key.
    pub private: PathBuf,
    /// File of the public key.
    pub public: PathBuf,
}

/// Makes a pair of keys: `PREFIX.key` and `PREFIX.pub`.
///
/// # Errors
/// [`crate::sign::SignError`]; files that exist stay as they are.
pub fn generate(prefix: &Path) -> Result<Generated, OpError> {
    let with = |suffix: &str| {
        let mut name = prefix.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let (private, public) = (with(".key"), with(".pub"));
    let key = NewKey::generate()?;
    key.write(&private, &public)?;
    Ok(Generated { id: key.public_key.id(), private, public })
}

/// A key set that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenSet {
    /// The file.
    pub path: PathBuf,
    /// The set.
    pub set: KeySet,
    /// What it still lacks before it can be used.
    pub missing: Option<String>,
}

/// Writes the first key set, of the public keys in `files`. With `signers` it is signed, else it is the plain document
/// that an image carries.
///
/// # Errors
/// [`PublishError::KeySet`]; files that cannot be used; a file at `out`.
pub fn new_set(
    files: &[PathBuf],
    threshold: u32,
    valid_for: Option<u64>,
    signers: &[OpenedKey],
    out: &Path,
) -> Result<WrittenSet, OpError> {
    let keys = files.iter().map(|path| Ok(pem::read_public_key(path)?)).collect::<Result<Vec<_>, OpError>>()?;
    let mut set = KeySet::new(keys, threshold).map_err(PublishError::KeySet)?;
    set.expires = expires(valid_for);
    let bytes = match signers {
        [] => {
            let mut text = serde_json::to_vec_pretty(&set).expect("a key set is JSON");
            text.push(b'\n');
            text
        }
        signers => signed(&set, signers)?.to_json(),
    };
    write_new(out, &bytes)?;
    Ok(WrittenSet { path: out.to_owned(), set, missing: None })
}

/// What changes with the next key set.
#[derive(Debug, Clone, Default)]
pub struct Rotation {
    /// Files of public keys that come.
    pub add: Vec<PathBuf>,
    /// Keys that go: files of public keys, or names of keys (at least the first 8 digits).
    pub remove: Vec<String>,
    /// How many keys must sign from then on.
    pub threshold: Option<u32>,
    /// For how many seconds from now it is valid; none: for ever.
    pub valid_for: Option<u64>,
}

/// Writes the key set that follows the one in the file `old`, signed by `signers`. It is written when signatures are
/// still missing, too: others add theirs with `sign`.
///
/// # Errors
/// [`PublishError::KeySet`]; files that cannot be used; a file at `out`.
pub fn rotate(
    old: &Path,
    rotation: &Rotation,
    signers: &[OpenedKey],
    out: Option<&Path>,
) -> Result<WrittenSet, OpError> {
    let bytes = fs::read(old, KEY_FILE_LIMIT)?;
    let file = KeyFile::parse(&bytes).map_err(|source| OpError::UpdateKey { path: old.to_owned(), source })?;
    let KeyFile::Set(old_set) = file else {
        let reason = "it is one key, not a key set".to_owned();
        return Err(PublishError::Document { path: old.to_owned(), reason }.into());
    };
    let next = next_set(&old_set, rotation)?;
    let envelope = signed(&next, signers)?;
    let missing = match old_set.rotate(&envelope.to_json()) {
        Ok(_) => None,
        Err(KeySetError::Envelope(error @ (EnvelopeError::Threshold { .. } | EnvelopeError::Unsigned))) => {
            Some(missing(&old_set, &next, &envelope).unwrap_or_else(|| error.to_string()))
        }
        Err(error) => return Err(PublishError::KeySet(error).into()),
    };
    let default = PathBuf::from(format!("keys-{}.json", next.version));
    let path = out.map_or(default, Path::to_owned);
    write_new(&path, &envelope.to_json())?;
    Ok(WrittenSet { path, set: next, missing })
}

fn next_set(old: &KeySet, rotation: &Rotation) -> Result<KeySet, OpError> {
    let mut keys = old.keys.clone();
    for text in &rotation.remove {
        let gone = find(&keys, text)?;
        keys.retain(|key| key.id() != gone);
    }
    for path in &rotation.add {
        keys.push(pem::read_public_key(path)?);
    }
    let version = old
        .version
        .checked_add(1)
        .ok_or(PublishError::KeySet(KeySetError::Version { current: old.version, found: old.version }))?;
    let threshold = rotation.threshold.unwrap_or(old.threshold);
    let next = KeySet { format: old.format, version, threshold, keys, expires: expires(rotation.valid_for) };
    next.check().map_err(PublishError::KeySet)?;
    Ok(next)
}

/// Returns the one key that `text` names: by a file with it, or by the first digits of its name.
fn find(keys: &[PublicKey], text: &str) -> Result<KeyId, OpError> {
    let unknown = || PublishError::UnknownKey { text: text.to_owned() };
    let is_hex = text.len() >= 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = if is_hex {
        let prefix = text.to_ascii_lowercase();
        let mut found = keys.iter().map(PublicKey::id).filter(|id| id.hex().starts_with(&prefix));
        match (found.next(), found.next()) {
            (Some(id), None) => id,
            _ => return Err(unknown().into()),
        }
    } else {
        pem::read_public_key(Path::new(text))?.id()
    };
    if keys.iter().any(|key| key.id() == id) { Ok(id) } else { Err(unknown().into()) }
}

fn signed(set: &KeySet, signers: &[OpenedKey]) -> Result<Envelope, OpError> {
    let mut envelope = Envelope::new(set);
    for key in signers {
        sign_envelope(&mut envelope, key.signer.as_ref())?;
    }
    Ok(envelope)
}

/// Says how many signatures of which set are missing.
fn missing(old: &KeySet, next: &KeySet, envelope: &Envelope) -> Option<String> {
    let lacks = |set: &KeySet| {
        let have = match envelope.verify::<KeySet>(set) {
            Ok(_) => return None,
            Err(EnvelopeError::Threshold { valid, .. }) => valid,
            Err(_) => 0,
        };
        Some(format!("{} more of key set {}", set.threshold as usize - have.min(set.threshold as usize), set.version))
    };
    let parts: Vec<String> = [old, next].into_iter().filter_map(lacks).collect();
    (!parts.is_empty()).then(|| format!("signatures are missing: {}", parts.join(", ")))
}

fn expires(valid_for: Option<u64>) -> Option<u64> {
    valid_for.map(|seconds| clock::now_seconds().saturating_add(seconds))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), OpError> {
    use std::io::Write;

    use crate::effects::fs::Context;
    let mut file = fs::AtomicFile::create(path)?;
    file.write_all(bytes).context("write", path)?;
    Ok(file.commit_new(0o644)?)
}
