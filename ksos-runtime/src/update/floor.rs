//! The floor: the newest version that has ever been kept. Nothing older comes any more. `floor.json`, kept twice.
//!
//! It never falls. When both copies are damaged, it is the newest version that the history knows to have been kept; the
//! version that runs is a floor in any case.

use ksos_formats::update::Version;
use serde::{Deserialize, Serialize};

use super::error::UpdateError;
use super::machine::Outcome;
use super::{history, store};
use crate::sys::Sys;

/// Name of its copies.
pub const NAME: &str = "floor";

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The version.
    pub version: Version,
}

/// Reads it; `None`: no update was ever kept.
///
/// # Errors
/// A file that cannot be read now.
pub fn read(sys: &dyn Sys, directory: &str) -> Result<Option<Version>, UpdateError> {
    let found = store::read_twice::<Floor>(sys, directory, NAME)?;
    Ok(if found.is_lost() { known(sys, directory) } else { found.document.map(|floor| floor.version) })
}

/// Returns the newest version that the history knows to have been kept: one that succeeded, or ran before an update.
pub fn known(sys: &dyn Sys, directory: &str) -> Option<Version> {
    let entries = history::read(sys, directory).unwrap_or_default().into_iter();
    let kept = entries.flat_map(|entry| {
        let succeeded = entry.version.filter(|_| entry.result == Outcome::Succeeded);
        [succeeded, entry.from].into_iter().flatten()
    });
    kept.reduce(newest)
}

/// Returns the newer of two versions.
pub fn newest(one: Version, other: Version) -> Version {
    if other.is_newer_than(&one) { other } else { one }
}

/// Raises it to `version`, when that is newer.
///
/// # Errors
/// As [`Sys::replace`].
pub fn raise(sys: &dyn Sys, directory: &str, version: &Version) -> Result<(), UpdateError> {
    let found = store::read_twice::<Floor>(sys, directory, NAME)?;
    let lost = found.is_lost();
    let before = if lost { known(sys, directory) } else { found.document.map(|floor| floor.version) };
    // Both copies say so already.
    if found.good == 2 && before.as_ref().is_some_and(|floor| !version.is_newer_than(floor)) {
        return Ok(());
    }
    let version = before.map_or_else(|| version.clone(), |floor| newest(floor, version.clone()));
    Ok(store::write_twice(sys, directory, NAME, &Floor { version })?)
}
