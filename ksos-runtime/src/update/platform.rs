//! What updates ask of the node beyond files: its partitions, its boot state, its source, its health.
//!
//! One trait, so that tests put files in the place of partitions and cut the power between any two writes.

use ksos_formats::bootstate::{BootState, Slot};

use super::bootblocks::{self, BootBlockError, BootBlocks, Copies};
use super::lock::{self, Lock};
use super::places::{self, Places, PlacesError, SlotPlace};
use super::source::{self, Source, SourceError, SourceSettings};
use crate::agent::health::{self, Health};
use crate::sys::{self, Disk, Signal, Sys};

/// What updates ask of the node.
pub trait Platform {
    /// The machine.
    fn sys(&self) -> &dyn Sys;

    /// Finds the partitions.
    ///
    /// # Errors
    /// [`PlacesError`].
    fn places(&self) -> Result<Places, PlacesError>;

    /// Reads the boot state, and shows it to the node's other processes.
    ///
    /// # Errors
    /// [`BootBlockError`].
    fn boot_state(&self, places: &Places) -> Result<Copies, BootBlockError>;

    /// Writes both copies of the boot state.
    ///
    /// # Errors
    /// [`BootBlockError`].
    fn set_boot_state(&self, places: &Places, state: &BootState) -> Result<(), BootBlockError>;

    /// Writes the mark of a slot.
    ///
    /// # Errors
    /// [`BootBlockError`].
    fn set_confirmed(&self, places: &Places, slot: Slot, confirmed: bool) -> Result<(), BootBlockError>;

    /// Opens the partition of a slot.
    ///
    /// # Errors
    /// [`sys::Error`].
    fn open_slot(&self, place: &SlotPlace, writable: bool) -> sys::Result<Box<dyn Disk>>;

    /// Opens the source of releases.
    ///
    /// # Errors
    /// [`SourceError`].
    fn open_source(&self, settings: &SourceSettings) -> Result<Box<dyn Source>, SourceError>;

    /// Evaluates the node's health.
    fn health(&self) -> Health;

    /// Takes the lock; `None`: another process has it.
    ///
    /// # Errors
    /// [`sys::Error`].
    fn lock(&self) -> sys::Result<Option<Lock>>;

    /// Asks PID 1 to restart the machine.
    ///
    /// # Errors
    /// [`sys::Error`].
    fn reboot(&self) -> sys::Result<()>;
}

/// The node that this process runs on.
pub struct Live<'a>(pub &'a dyn Sys);

impl Platform for Live<'_> {
    fn sys(&self) -> &dyn Sys {
        self.0
    }

    fn places(&self) -> Result<Places, PlacesError> {
        places::find(self.0)
    }

    fn boot_state(&self, places: &Places) -> Result<Copies, BootBlockError> {
        let copies = BootBlocks::open(self.0, &places.esp)?.read()?;
        // Metrics without a boot state are better than no update.
        let _ = bootblocks::publish(self.0, &copies);
        Ok(copies)
    }

    fn set_boot_state(&self, places: &Places, state: &BootState) -> Result<(), BootBlockError> {
        let blocks = BootBlocks::open(self.0, &places.esp)?;
        let written = blocks.write(state);
        if let Ok(copies) = blocks.read() {
            let _ = bootblocks::publish(self.0, &copies);
        }
        written
    }

    fn set_confirmed(&self, places: &Places, slot: Slot, confirmed: bool) -> Result<(), BootBlockError> {
        BootBlocks::open(self.0, &places.esp)?.set_confirmed(slot, confirmed)
    }

    fn open_slot(&self, place: &SlotPlace, writable: bool) -> sys::Result<Box<dyn Disk>> {
        self.0.open_disk(&place.device, writable)
    }

    fn open_source(&self, settings: &SourceSettings) -> Result<Box<dyn Source>, SourceError> {
        source::open(settings, self.0)
    }

    fn health(&self) -> Health {
        health::evaluate(self.0)
    }

    fn lock(&self) -> sys::Result<Option<Lock>> {
        lock::take(lock::PATH)
    }

    fn reboot(&self) -> sys::Result<()> {
        self.0.signal(1, Signal::Term)
    }
}
