//! Where the system slots and the EFI system partition are: on the disk that the system was booted from.

use ksos_formats::bootstate::Slot;

use crate::sys::Sys;

/// The partition of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotPlace {
    /// Its device node.
    pub device: String,
    /// Its size in bytes.
    pub size: u64,
}

/// The partitions that an update is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The slot that runs.
    pub booted: Slot,
    /// Device node of the EFI system partition.
    pub esp: String,
    /// Slots A and B.
    pub slots: [SlotPlace; 2],
}

impl Places {
    /// Returns the partition of a slot.
    pub fn slot(&self, slot: Slot) -> &SlotPlace {
        match slot {
            Slot::A => &self.slots[0],
            Slot::B => &self.slots[1],
        }
    }
}

/// Why the partitions are not found.
#[derive(Debug, thiserror::Error)]
pub enum PlacesError {
    /// The command line does not name the slot.
    #[error("the kernel command line has no {0}")]
    Parameter(&'static str),
}

/// Finds them.
///
/// # Errors
/// [`PlacesError`].
pub fn find(sys: &dyn Sys) -> Result<Places, PlacesError> {
    let _ = sys;
    Err(PlacesError::Parameter(ksos_formats::layout::PARAM_SLOT))
}
