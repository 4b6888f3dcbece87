//! What is known of updates: `/run/ksos/update.json`, for the metrics and for people.
//!
//! Readers ignore fields that they do not know; `available` and `last` are what the metrics read.

use ksos_formats::layout;
use ksos_formats::update::Version;
use serde::{Deserialize, Serialize};

use super::history::{self, Entry};
use super::machine::Outcome;
use super::store;
use crate::sys::{self, Sys};

/// The document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version that can be installed.
    pub available: Option<Version>,
    /// When it was last looked for, seconds since 1970.
    pub checked: Option<u64>,
    /// Why the last look failed, or why what there is was not taken; empty: it was not so.
    pub problem: String,
    /// The last update that ended.
    pub last: Option<Last>,
    /// Damaged documents that were set aside, by their names.
    pub damaged: Vec<String>,
}

/// An update that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// Its version; empty if it is not known.
    pub version: String,
    /// How it ended ([`Outcome::name`]).
    pub result: String,
    /// When, seconds since 1970.
    #[serde(default)]
    pub time: u64,
}

impl Status {
    /// Reads it; what cannot be read says nothing.
    pub fn read(sys: &dyn Sys) -> Self {
        store::read(sys, layout::UPDATE_STATUS).ok().flatten().unwrap_or_default()
    }

    /// Replaces it, with what the history below `directory` says of the last update, and what was set aside there.
    ///
    /// # Errors
    /// As [`Sys::replace`].
    pub fn write(mut self, sys: &dyn Sys, directory: &str) -> sys::Result<()> {
        let entries = history::read(sys, directory).unwrap_or_default();
        self.last = entries.iter().rev().find(|entry| entry.result != Outcome::Installed).map(last);
        self.damaged = store::damaged(sys, directory);
        let mut bytes = serde_json::to_vec(&self)
            .map_err(|error| sys::Error::stated("write", layout::UPDATE_STATUS, error.to_string()))?;
        bytes.push(b'\n');
        sys.replace(layout::UPDATE_STATUS, &bytes, 0o644)
    }
}

fn last(entry: &Entry) -> Last {
    let version = entry.version.as_ref().map(Version::to_string).unwrap_or_default();
    Last { version, result: entry.result.name().to_owned(), time: entry.time }
}
