//! Documents on the data partition: JSON with a format number, replaced as a whole.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::UpdateError;
use crate::sys::{self, Sys};

/// Largest document in bytes.
pub const DOCUMENT_LIMIT: u64 = 4 << 20;

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
    let mut bytes = serde_json::to_vec(document).map_err(|error| sys::Error::stated("write", path, error.to_string()))?;
    bytes.push(b'\n');
    sys.replace(path, &bytes, 0o600)
}
