//! Maintenance windows: when a node may install and restart by itself.

use serde::{Deserialize, Serialize};

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

/// A window that opens on some days at one local time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Days on which it opens; empty: every day.
    pub days: Vec<Day>,
    /// Local time at which it opens, in minutes from midnight.
    pub start_minute: u16,
    /// Length in minutes, at most a week.
    pub length_minutes: u16,
    /// `UTC`, an offset (`+02:00`), a POSIX TZ string, or a name of the tz database (`Europe/Berlin`).
    pub time_zone: String,
}
