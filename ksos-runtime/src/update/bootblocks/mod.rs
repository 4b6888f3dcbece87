//! The boot-state blocks on the EFI system partition.

use ksos_formats::bootstate::{BootState, BootStateError, Slot};

use crate::sys::{self, Sys};

/// What is on the EFI system partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copies {
    /// The two copies.
    pub copies: [Result<BootState, BootStateError>; 2],
    /// The marks of slots a and b.
    pub confirmed: [Option<bool>; 2],
}

impl Copies {
    /// Returns what the boot loader would use.
    pub fn state(&self) -> Option<BootState> {
        self.copies.iter().find_map(|copy| copy.ok())
    }

    /// Whether both are valid and equal.
    pub fn agree(&self) -> bool {
        matches!(self.copies, [Ok(one), Ok(two)] if one == two)
    }
}

/// Why the blocks cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BootBlockError {
    /// The device.
    #[error(transparent)]
    Sys(#[from] sys::Error),
}

/// The blocks.
#[derive(Debug)]
pub struct BootBlocks {}

impl BootBlocks {
    /// Opens them.
    ///
    /// # Errors
    /// [`BootBlockError`].
    pub fn open(sys: &dyn Sys, esp: &str) -> Result<Self, BootBlockError> {
        let _ = sys;
        Err(sys::Error::stated("open", esp, "not in this version").into())
    }

    /// Reads them.
    ///
    /// # Errors
    /// [`BootBlockError`].
    pub fn read(&self) -> Result<Copies, BootBlockError> {
        Err(sys::Error::stated("read", "boot state", "not in this version").into())
    }

    /// Writes both copies.
    ///
    /// # Errors
    /// [`BootBlockError`].
    pub fn write(&self, state: &BootState) -> Result<(), BootBlockError> {
        let _ = state;
        Err(sys::Error::stated("write", "boot state", "not in this version").into())
    }

    /// Writes the mark of a slot.
    ///
    /// # Errors
    /// [`BootBlockError`].
    pub fn set_confirmed(&self, slot: Slot, confirmed: bool) -> Result<(), BootBlockError> {
        let _ = (slot, confirmed);
        Err(sys::Error::stated("write", "boot state", "not in this version").into())
    }
}

/// Shows the boot state to the node's other processes.
///
/// # Errors
/// As [`Sys::replace`].
pub fn publish(sys: &dyn Sys, copies: &Copies) -> sys::Result<()> {
    let _ = (sys, copies);
    Ok(())
}
