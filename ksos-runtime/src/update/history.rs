//! How updates ended. `history.json`, the newest last, bounded.

use ksos_formats::Digest;
use ksos_formats::bootstate::Slot;
use ksos_formats::update::Version;
use serde::{Deserialize, Serialize};

use super::error::UpdateError;
use super::machine::{Outcome, Pending, Purpose};
use super::{slot_name, store};
use crate::sys::Sys;

/// Name of its file.
pub const FILE: &str = "history.json";
/// Most entries.
pub const MAX_ENTRIES: usize = 100;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it ended, seconds since 1970; of several like it, the last.
    pub time: u64,
    /// When the update was chosen, seconds since 1970.
    pub started: u64,
    /// What was done.
    pub purpose: Purpose,
    /// The version that came, or was to.
    pub version: Option<Version>,
    /// The version that ran.
    pub from: Option<Version>,
    /// SHA-256 of the signed release.
    pub release: Option<Digest>,
    /// SHA-256 of the slot image.
    #[serde(default)]
    pub image: Option<Digest>,
    /// The slot.
    #[serde(with = "slot_name")]
    pub slot: Slot,
    /// How it ended.
    pub result: Outcome,
    /// Why; may be empty.
    pub reason: String,
    /// How often in a row it ended like this.
    pub times: u32,
}

impl Entry {
    /// Returns the entry of an update that ends now.
    pub fn new(pending: &Pending, result: Outcome, reason: &str, now: u64) -> Self {
        Entry {
            time: now,
            started: pending.started,
            purpose: pending.purpose,
            version: pending.version.clone(),
            from: pending.from.clone(),
            release: pending.release,
            image: pending.image,
            slot: pending.target,
            result,
            reason: reason.to_owned(),
            times: 1,
        }
    }

    /// Whether it is one and the same event, recorded again after a kill.
    fn repeats(&self, other: &Entry) -> bool {
        let key = |entry: &Entry| (entry.started, entry.purpose, entry.release, entry.slot, entry.result);
        key(self) == key(other)
    }

    /// Whether the same has happened once more.
    fn resembles(&self, other: &Entry) -> bool {
        self.result == Outcome::Failed
            && other.result == Outcome::Failed
            && (self.release, &self.version, &self.reason) == (other.release, &other.version, &other.reason)
    }
}

/// Reads it.
///
/// # Errors
/// A file that cannot be read or understood.
pub fn read(sys: &dyn Sys, directory: &str) -> Result<Vec<Entry>, UpdateError> {
    Ok(store::read(sys, &format!("{directory}/{FILE}"))?.unwrap_or_default())
}

/// Adds an entry. One that is there already is not added again, and the same failure twice in a row is one entry.
///
/// # Errors
/// As [`Sys::replace`].
pub fn add(sys: &dyn Sys, directory: &str, entry: Entry) -> Result<(), UpdateError> {
    // A damaged history is no reason to lose the next one.
    let mut entries = read(sys, directory).unwrap_or_default();
    if entries.iter().any(|other| other.repeats(&entry)) {
        return Ok(());
    }
    match entries.last_mut() {
        Some(last) if entry.resembles(last) => {
            *last = Entry { times: last.times.saturating_add(1), ..entry };
        }
        _ => entries.push(entry),
    }
    let surplus = entries.len().saturating_sub(MAX_ENTRIES);
    entries.drain(..surplus);
    Ok(store::write(sys, &format!("{directory}/{FILE}"), &entries)?)
}
