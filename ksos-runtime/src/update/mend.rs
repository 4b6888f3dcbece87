//! What becomes of damaged documents. No look may fail for ever because of one, and none may make the node believe more.
//!
//! | document | no copy can be read |
//! |---|---|
//! | `floor` | the newest version that the history knows to have been kept, or that runs and is kept |
//! | `quarantine` | what the history knows to have been rolled back, and not to have been kept later |
//! | `channels` | nothing was seen: sequences are learnt anew; key sets are still verified from the image's on |
//! | `history.json` | empty |
//!
//! What is damaged is kept beside its place as `*.damaged` before it is replaced, so that a power cut loses nothing, and
//! so that `status` and the metrics tell until somebody has looked at it and removed it.

use ksos_formats::update::Version;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::UpdateError;
use super::floor::{self, Floor};
use super::history::{self, Entry};
use super::platform::Platform;
use super::quarantine::{self, Quarantine};
use super::settings::Settings;
use super::store;
use super::trust::{self, Seen};
use crate::sys::Sys;

/// Replaces what is damaged; says what that was. The lock must be held.
pub fn mend(platform: &dyn Platform, settings: &Settings) -> Vec<String> {
    let mut notes = Vec::new();
    let (sys, directory) = (platform.sys(), settings.directory.as_str());
    let floor = || {
        let versions = [floor::known(sys, directory), kept(platform, settings)].into_iter().flatten();
        versions.reduce(floor::newest).map(|version| Floor { version })
    };
    let quarantine = || Some(Quarantine::known(&history::read(sys, directory).unwrap_or_default()));
    twice(sys, directory, floor::NAME, floor, &mut notes);
    twice(sys, directory, quarantine::NAME, quarantine, &mut notes);
    twice(sys, directory, trust::CHANNELS, || Some(Seen::default()), &mut notes);
    if let Err(error) = history::read(sys, directory) {
        let path = format!("{directory}/{}", history::FILE);
        let replace = || store::write::<Vec<Entry>>(sys, &path, &Vec::new());
        note(sys, &path, store::damage(error), replace, &mut notes);
    }
    notes
}

/// Returns the version that runs, when it is kept.
fn kept(platform: &dyn Platform, settings: &Settings) -> Option<Version> {
    let places = platform.places().ok()?;
    let state = platform.boot_state(&places).ok()?.state()?;
    let is_kept = state.trial.is_none() && state.active == places.booted;
    settings.image.version.parse().ok().filter(|_| is_kept)
}

fn twice<T: Serialize + DeserializeOwned>(
    sys: &dyn Sys,
    directory: &str,
    name: &str,
    known: impl FnOnce() -> Option<T>,
    notes: &mut Vec<String>,
) {
    let found = match store::read_twice::<T>(sys, directory, name) {
        Ok(found) => found,
        Err(error) => return notes.push(error.to_string()),
    };
    if found.damaged.is_empty() {
        return;
    }
    for (path, reason) in found.damaged {
        note(sys, &path, Ok(reason), || Ok(()), notes);
    }
    // Nothing is known: it stays damaged, and counts as such.
    let Some(document) = found.document.or_else(known) else { return };
    if let Err(error) = store::write_twice(sys, directory, name, &document) {
        notes.push(error.to_string());
    }
}

/// Sets a damaged document aside, then replaces it, and takes a note of both.
fn note(
    sys: &dyn Sys,
    path: &str,
    damage: Result<String, UpdateError>,
    replace: impl FnOnce() -> crate::sys::Result<()>,
    notes: &mut Vec<String>,
) {
    let done = damage.and_then(|reason| {
        notes.push(format!("{path} was damaged and is set aside: {reason}"));
        store::set_aside(sys, path)?;
        Ok(replace()?)
    });
    if let Err(error) = done {
        notes.push(error.to_string());
    }
}

#[cfg(test)]
#[path = "mend_tests.rs"]
mod tests;
