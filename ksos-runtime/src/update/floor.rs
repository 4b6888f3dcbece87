//! The floor: the newest version that has ever been kept. Nothing older comes any more. `floor.json`.
//!
//! It never falls. A damaged file is an error and not a floor of nothing.

use ksos_formats::update::Version;
use serde::{Deserialize, Serialize};

use super::error::UpdateError;
use super::store;
use crate::sys::Sys;

/// Name of its file.
pub const FILE: &str = "floor.json";

#[derive(Serialize, Deserialize)]
struct Floor {
    format: u32,
    version: Version,
}

/// Reads it; `None`: no update was ever kept.
///
/// # Errors
/// A file that cannot be read or understood.
pub fn read(sys: &dyn Sys, directory: &str) -> Result<Option<Version>, UpdateError> {
    Ok(store::read::<Floor>(sys, &format!("{directory}/{FILE}"))?.map(|floor| floor.version))
}

/// Raises it to `version`, when that is newer.
///
/// # Errors
/// As [`Sys::replace`].
pub fn raise(sys: &dyn Sys, directory: &str, version: &Version) -> Result<(), UpdateError> {
    // What cannot be read is written anew: the version that is kept now is a floor that is right.
    if read(sys, directory).ok().flatten().is_some_and(|floor| !version.is_newer_than(&floor)) {
        return Ok(());
    }
    let floor = Floor { format: 1, version: version.clone() };
    Ok(store::write(sys, &format!("{directory}/{FILE}"), &floor)?)
}
