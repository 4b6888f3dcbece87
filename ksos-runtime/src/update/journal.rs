//! The journal: where an update is, and what is known of both slots. `state.json`.
//!
//! A journal that is damaged or of a later format counts as none: the boot state on the EFI system partition is the
//! truth, and [`super::machine`] settles what a node without a journal is.

use ksos_formats::Digest;
use ksos_formats::bootstate::Slot;
use ksos_formats::update::{Blob, Version};
use serde::{Deserialize, Serialize};

use super::error::UpdateError;
use super::machine::State;
use super::store;
use crate::sys::{self, Sys};

/// The current value of [`Journal::format`].
pub const FORMAT: u32 = 1;
/// Name of its file.
pub const FILE: &str = "state.json";

/// The journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// [`FORMAT`].
    pub format: u32,
    /// Where the update is.
    #[serde(flatten)]
    pub state: State,
    /// What slots A and B have that has worked. `None`: not known, or nothing that has.
    #[serde(default)]
    pub slots: [Option<SlotContent>; 2],
    /// What [`Journal::slots`] is to say of the target when it has worked.
    #[serde(default)]
    pub coming: Option<SlotContent>,
    /// Why the version on trial is not healthy, as last seen.
    #[serde(default)]
    pub trial_note: Option<String>,
}

/// What a slot has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotContent {
    /// Version.
    pub version: Version,
    /// SHA-256 of the signed release; `None`: it came with the disk image.
    pub release: Option<Digest>,
    /// The slot image.
    pub image: Option<Blob>,
}

impl Default for Journal {
    fn default() -> Self {
        Journal { format: FORMAT, state: State::Idle, slots: [None, None], coming: None, trial_note: None }
    }
}

impl Journal {
    /// Reads it from `directory`; says why there is none when it is damaged.
    pub fn read(sys: &dyn Sys, directory: &str) -> (Self, Option<String>) {
        match store::read::<Journal>(sys, &format!("{directory}/{FILE}")) {
            Ok(Some(journal)) if journal.format == FORMAT => (journal, None),
            Ok(Some(journal)) => {
                (Journal::default(), Some(format!("the update journal has format {}", journal.format)))
            }
            Ok(None) => (Journal::default(), None),
            Err(UpdateError::Document { reason, .. }) => {
                (Journal::default(), Some(format!("the update journal is damaged: {reason}")))
            }
            Err(error) => (Journal::default(), Some(error.to_string())),
        }
    }

    /// Replaces it.
    ///
    /// # Errors
    /// As [`Sys::replace`].
    pub fn write(&self, sys: &dyn Sys, directory: &str) -> sys::Result<()> {
        store::write(sys, &format!("{directory}/{FILE}"), self)
    }

    /// What a slot has.
    pub fn slot(&self, slot: Slot) -> Option<&SlotContent> {
        self.slots[index(slot)].as_ref()
    }

    /// Notes what a slot has.
    pub fn set_slot(&mut self, slot: Slot, content: Option<SlotContent>) {
        self.slots[index(slot)] = content;
    }
}

fn index(slot: Slot) -> usize {
    match slot {
        Slot::A => 0,
        Slot::B => 1,
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
