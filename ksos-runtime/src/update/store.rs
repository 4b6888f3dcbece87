//! Documents on the data partition: JSON with a format number, replaced as a whole.
//!
//! What must not be lost, the floor, the quarantine and the sequences seen, is kept twice: `NAME.json`, then
//! `NAME-2.json`. The first copy that can be read counts. A copy that is no document of its format, or that the medium
//! does not give back, is damaged; [`super::mend`] says what becomes of it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::UpdateError;
use crate::sys::{self, Sys};

/// Largest document in bytes.
pub const DOCUMENT_LIMIT: u64 = 4 << 20;
/// The current format of documents that are kept twice.
const FORMAT: u32 = 1;
/// What follows the name of a damaged document that was set aside.
const DAMAGED: &str = ".damaged";

/// Reads a document; `None` when there is none.
///
/// # Errors
/// A file that cannot be read, or is not what it should be.
pub fn read<T: DeserializeOwned>(sys: &dyn Sys, path: &str) -> Result<Option<T>, UpdateError> {
    let bytes = match sys.read(path, DOCUMENT_LIMIT) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let wrong = |error: serde_json::Error| UpdateError::Document { path: path.to_owned(), reason: error.to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(wrong)
}

/// Replaces a document.
///
/// # Errors
/// As [`Sys::replace`].
pub fn write<T: Serialize>(sys: &dyn Sys, path: &str, document: &T) -> sys::Result<()> {
    let mut bytes =
        serde_json::to_vec(document).map_err(|error| sys::Error::stated("write", path, error.to_string()))?;
    bytes.push(b'\n');
    sys.replace(path, &bytes, 0o600)
}

/// A document with the number of its format. Those of version 0.1 had none and were the first.
#[derive(Serialize, Deserialize)]
struct Numbered<T> {
    #[serde(default = "first")]
    format: u32,
    #[serde(flatten)]
    content: T,
}

fn first() -> u32 {
    1
}

/// What there is of a document that is kept twice.
#[derive(Debug)]
pub struct Twice<T> {
    /// The first copy that can be read.
    pub document: Option<T>,
    /// Damaged copies: path and reason.
    pub damaged: Vec<(String, String)>,
    /// Copies that can be read.
    pub good: usize,
}

impl<T> Twice<T> {
    /// Whether there was a document, and no copy of it can be read.
    pub fn is_lost(&self) -> bool {
        self.document.is_none() && !self.damaged.is_empty()
    }
}

/// Returns the places of both copies.
pub fn copies(directory: &str, name: &str) -> [String; 2] {
    [format!("{directory}/{name}.json"), format!("{directory}/{name}-2.json")]
}

/// Reads a document that is kept twice.
///
/// # Errors
/// A file that cannot be read for a reason that may pass.
pub fn read_twice<T: DeserializeOwned>(sys: &dyn Sys, directory: &str, name: &str) -> Result<Twice<T>, UpdateError> {
    let mut found = Twice { document: None, damaged: Vec::new(), good: 0 };
    for path in copies(directory, name) {
        match read::<Numbered<T>>(sys, &path) {
            Ok(None) => {}
            Ok(Some(Numbered { format: FORMAT, content })) => {
                found.good += 1;
                found.document.get_or_insert(content);
            }
            Ok(Some(Numbered { format, .. })) => found.damaged.push((path, format!("it has format {format}"))),
            Err(error) => {
                let reason = damage(error)?;
                found.damaged.push((path, reason));
            }
        }
    }
    Ok(found)
}

/// Returns why what was read is damaged.
///
/// # Errors
/// The error itself, when another attempt may not have it.
pub fn damage(error: UpdateError) -> Result<String, UpdateError> {
    match error {
        UpdateError::Document { reason, .. } => Ok(reason),
        UpdateError::Sys(error) if error.is_damage() => Ok(error.to_string()),
        error => Err(error),
    }
}

/// Replaces both copies of a document, the first one first.
///
/// # Errors
/// As [`Sys::replace`].
pub fn write_twice<T: Serialize>(sys: &dyn Sys, directory: &str, name: &str, content: &T) -> sys::Result<()> {
    let document = Numbered { format: FORMAT, content };
    copies(directory, name).iter().try_for_each(|path| write(sys, path, &document))
}

/// Keeps what can be read of a damaged document beside it, for people.
///
/// # Errors
/// As [`Sys::replace`].
pub fn set_aside(sys: &dyn Sys, path: &str) -> sys::Result<()> {
    let bytes = sys.read(path, DOCUMENT_LIMIT).unwrap_or_default();
    sys.replace(&format!("{path}{DAMAGED}"), &bytes, 0o600)
}

/// Returns the names of what was set aside and nobody has removed.
pub fn damaged(sys: &dyn Sys, directory: &str) -> Vec<String> {
    let mut names = sys.list(directory).unwrap_or_default();
    names.retain(|name| name.ends_with(DAMAGED));
    names.sort();
    names
}
