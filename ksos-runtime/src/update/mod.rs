//! Updates: from a release at its source to a committed slot.
//!
//! - [`source`]: where channels, key sets and releases come from. [`places`], [`bootblocks`]: the partitions, and the
//!   boot state on the EFI system partition.
//! - [`machine`]: the pure steps; [`journal`]: where an update is, and what is known of both slots; [`drive`]: the loop
//!   that does what the steps ask for.
//! - [`trust`]: key sets, channel and release, up to a verified choice; [`preflight`]: what speaks against it.
//! - [`install`], [`writer`], [`delta`]: the chunks of a release, and how they get into a slot.
//! - [`gate`]: whether a new version is kept. [`daemon`]: the service that looks for updates. [`command`]:
//!   `kubesolo-update`.
//! - [`mend`]: what becomes of damaged documents. [`floor`], [`quarantine`], [`history`], [`status`], [`settings`], [`lock`], [`platform`]: what the rest stands on.
//!
//! One process at a time does anything but read: it holds [`lock`]. What is kept is below [`layout::UPDATE_DATA`] on the
//! data partition, every file replaced as a whole; the floor, the quarantine and the sequences are kept twice (`*-2.json`):
//!
//! ```text
//! state.json        the journal            floor.json       the lowest version that may come
//! history.json      how updates ended      quarantine.json  what must not come again
//! channels.json     sequences seen         keys/N.json      key sets that followed the image's
//! ```

pub mod apply;
pub mod bootblocks;
pub mod command;
pub mod daemon;
pub mod delta;
pub mod drive;
pub mod error;
pub mod floor;
pub mod gate;
pub mod history;
pub mod install;
pub mod journal;
pub mod lock;
pub mod machine;
pub mod mend;
pub mod places;
pub mod platform;
pub mod preflight;
pub mod quarantine;
pub mod rollback;
pub mod settings;
pub mod source;
pub mod status;
pub mod store;
pub mod trust;
pub mod writer;

#[cfg(test)]
mod testing;

#[cfg(doc)]
use ksos_formats::layout;

/// Slots in documents: `a` and `b`.
mod slot_name {
    use ksos_formats::bootstate::Slot;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(slot: &Slot, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(slot.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Slot, D::Error> {
        let name = String::deserialize(deserializer)?;
        Slot::from_name(&name).ok_or_else(|| de::Error::custom(format!("{name:?} is no slot")))
    }
}

#[cfg(test)]
mod adversary_tests;
#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod life_tests;
#[cfg(test)]
mod measure_tests;
