//! What must not come again by itself: releases whose trial failed or that the operator left. `quarantine.json`, kept twice.
//!
//! A release is known by the digest of its document, and by that of its slot image: one that is signed anew is the same.
//! The list is bounded; the oldest entry goes first.

use ksos_formats::Digest;
use ksos_formats::update::Version;
use serde::{Deserialize, Serialize};

use super::error::UpdateError;
use super::history;
use super::machine::{Outcome, Purpose};
use super::store;
use crate::sys::Sys;

/// Name of its copies.
pub const NAME: &str = "quarantine";
/// Most entries.
pub const MAX_ENTRIES: usize = 64;

/// One entry. What of it is known must be equal for a release to be meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// SHA-256 of the signed release.
    pub release: Option<Digest>,
    /// SHA-256 of the slot image.
    pub image: Option<Digest>,
    /// Version.
    pub version: Option<Version>,
    /// Why.
    pub reason: String,
    /// Since when, seconds since 1970.
    pub since: u64,
}

impl Entry {
    /// Whether it means the release.
    pub fn means(&self, release: &Digest, image: Option<&Digest>, version: &Version) -> bool {
        let same_release = self.release.as_ref() == Some(release);
        let same_image = self.image.is_some() && self.image.as_ref() == image;
        let version_alone = self.release.is_none() && self.image.is_none() && self.version.as_ref() == Some(version);
        same_release || same_image || version_alone
    }
}

/// The list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Entries, oldest first.
    pub entries: Vec<Entry>,
}

impl Quarantine {
    /// Reads it. When both copies are damaged it is what the history knows.
    ///
    /// # Errors
    /// A file that cannot be read now.
    pub fn read(sys: &dyn Sys, directory: &str) -> Result<Self, UpdateError> {
        let found = store::read_twice(sys, directory, NAME)?;
        if found.is_lost() {
            return Ok(Self::known(&history::read(sys, directory).unwrap_or_default()));
        }
        Ok(found.document.unwrap_or_default())
    }

    /// Returns what a history tells: what was rolled back and was not kept later.
    pub fn known(entries: &[history::Entry]) -> Self {
        let mut list = Quarantine::default();
        for entry in entries {
            let (purpose, result) = (entry.purpose, entry.result);
            let left = match (purpose, result) {
                (Purpose::Update, Outcome::RolledBack) => (entry.release, entry.image, &entry.version),
                // Left by the operator; which release it was is not in the history.
                (Purpose::Rollback, Outcome::RolledBack) => (None, None, &entry.from),
                (_, Outcome::Succeeded) => {
                    if let (Some(release), Some(version)) = (&entry.release, &entry.version) {
                        list.entries.retain(|other| !other.means(release, entry.image.as_ref(), version));
                    }
                    continue;
                }
                _ => continue,
            };
            let (release, image, version) = (left.0, left.1, left.2.clone());
            if release.is_some() || version.is_some() {
                let (reason, since) = (entry.reason.clone(), entry.time);
                list.entries.push(Entry { release, image, version, reason, since });
            }
        }
        list.keep_newest();
        list
    }

    fn keep_newest(&mut self) {
        let surplus = self.entries.len().saturating_sub(MAX_ENTRIES);
        self.entries.drain(..surplus);
    }

    /// Returns the entry that means a release.
    pub fn find(&self, release: &Digest, image: Option<&Digest>, version: &Version) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.means(release, image, version))
    }

    /// Adds an entry and replaces the file.
    ///
    /// # Errors
    /// As [`Sys::replace`].
    pub fn add(&mut self, entry: Entry, sys: &dyn Sys, directory: &str) -> Result<(), UpdateError> {
        let same = |other: &Entry| {
            (&other.release, &other.image, &other.version) == (&entry.release, &entry.image, &entry.version)
        };
        if self.entries.iter().any(same) {
            return Ok(());
        }
        self.entries.push(entry);
        self.keep_newest();
        self.write(sys, directory)
    }

    /// Removes what means a release and replaces the file.
    ///
    /// # Errors
    /// As [`Sys::replace`].
    pub fn release(
        &mut self,
        (release, image, version): (&Digest, Option<&Digest>, &Version),
        sys: &dyn Sys,
        directory: &str,
    ) -> Result<(), UpdateError> {
        let before = self.entries.len();
        self.entries.retain(|entry| !entry.means(release, image, version));
        if self.entries.len() == before { Ok(()) } else { self.write(sys, directory) }
    }

    fn write(&self, sys: &dyn Sys, directory: &str) -> Result<(), UpdateError> {
        Ok(store::write_twice(sys, directory, NAME, self)?)
    }
}
