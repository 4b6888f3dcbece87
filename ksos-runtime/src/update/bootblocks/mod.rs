//! The boot-state block and the confirmed marks on the EFI system partition, which is never mounted.
//!
//! The four files (`ksos_formats::bootstate`) are resolved to the place of their one sector when the partition is opened
//! (`fat`); after that only those sectors are read and written, so nothing here can damage the file system. A write is one
//! sector, past the page cache, flushed, and read back from the medium.
//!
//! Refused as a place: a file that is missing or not exactly 512 bytes, and two files in one block of 4 KiB, which a medium
//! may rewrite as a whole. GRUB may still read such a copy, so with one of the two places refused neither copy is written.
//!
//! What a power cut leaves is what GRUB reads: copy 1 if it is valid, else copy 2. See [`BootBlocks::write`].

mod fat;

use ksos_formats::bootstate::{BLOCK_SIZE, BootState, BootStateError, COPIES, MARKS, Mark, Slot};
use ksos_formats::layout;
use serde::Serialize;

use crate::sys::{self, Disk, Sys};

use super::places;

pub use fat::FatError;
use fat::Volume;

/// Block of the medium that no two files share, in bytes.
const MEDIUM_BLOCK: u64 = 4096;

/// What went wrong on the EFI system partition.
#[derive(Debug, thiserror::Error)]
pub enum BootBlockError {
    /// The partition cannot be opened, read or written.
    #[error("EFI system partition: {0}")]
    Sys(#[from] sys::Error),
    /// It holds something else than it should.
    #[error("EFI system partition {esp}: {source}")]
    Volume {
        /// Its device.
        esp: String,
        /// What is wrong.
        source: FatError,
    },
    /// A file has no place that can be written to.
    #[error("EFI system partition {esp}: {file}: {reason}")]
    Place {
        /// The partition's device.
        esp: String,
        /// Path of the file on it.
        file: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The medium returns something else than was written.
    #[error("EFI system partition {esp}: {file} is not what was written to it")]
    ReadBack {
        /// The partition's device.
        esp: String,
        /// Path of the file on it.
        file: &'static str,
    },
    /// Neither copy is valid, so nothing is known that they could be repaired from.
    #[error("neither copy of the boot state is valid: {0}; {1}")]
    Neither(BootStateError, BootStateError),
}

/// Copies and marks as they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copies {
    /// The two copies of the boot state.
    pub copies: [Result<BootState, BootStateError>; 2],
    /// Whether slots A and B are marked as confirmed; `None` where the mark is not valid.
    pub confirmed: [Option<bool>; 2],
}

impl Copies {
    /// Returns the state that GRUB would use.
    pub fn state(&self) -> Option<BootState> {
        self.copies.iter().find_map(|copy| copy.as_ref().ok()).copied()
    }

    /// Returns whether both copies are valid and equal.
    pub fn agree(&self) -> bool {
        matches!(self.copies, [Ok(one), Ok(two)] if one == two)
    }

    /// Returns whether a slot is marked as confirmed.
    pub fn is_confirmed(&self, slot: Slot) -> bool {
        self.confirmed[slot as usize] == Some(true)
    }

    /// Returns what is wrong with the copies, in words.
    pub fn fault(&self) -> Option<String> {
        match &self.copies {
            [Ok(one), Ok(two)] if one == two => None,
            [Ok(_), Ok(_)] => Some("the copies of the boot state differ".to_owned()),
            [Err(one), Ok(_)] => Some(format!("copy 1 of the boot state: {one}")),
            [Ok(_), Err(two)] => Some(format!("copy 2 of the boot state: {two}")),
            [Err(one), Err(two)] => Some(BootBlockError::Neither(*one, *two).to_string()),
        }
    }
}

/// The places of the four blocks on an open partition.
pub struct BootBlocks {
    device: Box<dyn Disk>,
    esp: String,
    copies: [Place; 2],
    marks: [Place; 2],
}

/// A file and where its sector is, in bytes from the start of the partition, or what is wrong with it.
#[derive(Debug)]
struct Place {
    file: &'static str,
    offset: Result<u64, String>,
}

impl std::fmt::Debug for BootBlocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BootBlocks").field("esp", &self.esp).field("copies", &self.copies).finish_non_exhaustive()
    }
}

impl BootBlocks {
    /// Opens the partition `esp` and looks for the four files.
    ///
    /// # Errors
    /// [`BootBlockError::Sys`] and [`BootBlockError::Volume`]. A file without a usable place is an error only of what
    /// needs it.
    pub fn open(sys: &dyn Sys, esp: &str) -> Result<Self, BootBlockError> {
        let device = sys.open_disk(esp, true)?;
        let volume =
            Volume::open(device.as_ref()).map_err(|source| BootBlockError::Volume { esp: esp.to_owned(), source })?;
        let place = |file| Place { file, offset: volume.sector_of(file).map_err(|error| error.to_string()) };
        let mut places = [place(COPIES[0]), place(COPIES[1]), place(MARKS[0]), place(MARKS[1])];
        refuse_shared(&mut places);
        let [one, two, a, b] = places;
        Ok(BootBlocks { device, esp: esp.to_owned(), copies: [one, two], marks: [a, b] })
    }

    /// Reads all four blocks from the medium. A block that has no place or cannot be read is not valid.
    ///
    /// # Errors
    /// None at present; the type leaves room for a medium that is gone.
    pub fn read(&self) -> Result<Copies, BootBlockError> {
        let copy = |place: &Place| {
            let block = self.block(place).map_err(|_| BootStateError::Unreadable)?;
            BootState::decode(&block)
        };
        let mark = |place: &Place| Mark::decode(&self.block(place).ok()?).ok().map(|mark| mark.confirmed);
        Ok(Copies { copies: self.copies.each_ref().map(copy), confirmed: self.marks.each_ref().map(mark) })
    }

    /// Writes the state to copy 1, then to copy 2.
    ///
    /// A cut before or while copy 1 is written leaves the old state (in copy 1, or in copy 2 when copy 1 is torn); after
    /// that the new one, in copy 1. A failure ends it at the copy that failed.
    ///
    /// # Errors
    /// [`BootBlockError::Place`] before anything is written, [`BootBlockError::Sys`], [`BootBlockError::ReadBack`].
    pub fn write(&self, state: &BootState) -> Result<(), BootBlockError> {
        let block = state.encode();
        self.copies.iter().try_for_each(|place| self.offset(place).map(drop))?;
        self.copies.iter().try_for_each(|place| self.put(place, &block))
    }

    /// Makes both copies what GRUB would have used, if they differ or one is not valid; only the other copy is written, so
    /// that a cut leaves what was there. Returns the state.
    ///
    /// # Errors
    /// [`BootBlockError::Neither`], and those of [`BootBlocks::write`].
    pub fn repair(&self, copies: &Copies) -> Result<BootState, BootBlockError> {
        let (state, target) = match copies.copies {
            [Ok(one), Ok(two)] if one == two => return Ok(one),
            [Ok(one), _] => (one, &self.copies[1]),
            [Err(_), Ok(two)] => (two, &self.copies[0]),
            [Err(one), Err(two)] => return Err(BootBlockError::Neither(one, two)),
        };
        self.copies.iter().try_for_each(|place| self.offset(place).map(drop))?;
        self.put(target, &state.encode())?;
        Ok(state)
    }

    /// Writes the mark of a slot.
    ///
    /// # Errors
    /// As of [`BootBlocks::write`].
    pub fn set_confirmed(&self, slot: Slot, confirmed: bool) -> Result<(), BootBlockError> {
        self.put(&self.marks[slot as usize], &Mark { confirmed }.encode())
    }

    fn offset(&self, place: &Place) -> Result<u64, BootBlockError> {
        let failed = |reason: &String| {
            let (esp, reason) = (self.esp.clone(), reason.clone());
            BootBlockError::Place { esp, file: place.file, reason }
        };
        place.offset.as_ref().copied().map_err(failed)
    }

    fn block(&self, place: &Place) -> Result<[u8; BLOCK_SIZE], BootBlockError> {
        let mut block = [0; BLOCK_SIZE];
        self.device.read_direct(self.offset(place)?, &mut block)?;
        Ok(block)
    }

    fn put(&self, place: &Place, block: &[u8; BLOCK_SIZE]) -> Result<(), BootBlockError> {
        self.device.write_direct(self.offset(place)?, block)?;
        self.device.flush()?;
        if self.block(place)? == *block {
            Ok(())
        } else {
            Err(BootBlockError::ReadBack { esp: self.esp.clone(), file: place.file })
        }
    }
}

/// Refuses every file that shares a block of the medium with another one.
fn refuse_shared(places: &mut [Place; 4]) {
    let blocks = places.each_ref().map(|place| place.offset.as_ref().ok().map(|offset| offset / MEDIUM_BLOCK));
    for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.is_some()) {
        let other = (0..blocks.len()).find(|other| *other != index && blocks[*other] == *block);
        if let Some(other) = other {
            places[index].offset = Err(format!("it shares a block of 4096 bytes with {}", places[other].file));
        }
    }
}

/// [`layout::BOOT_STATE`].
#[derive(Debug, Serialize)]
struct Published<'a> {
    trial: Option<&'a str>,
    left: u8,
    active: Option<&'a str>,
    booted: Option<&'a str>,
    generation: Option<u64>,
    confirmed: [Option<bool>; 2],
    fault: Option<String>,
}

/// Writes [`layout::BOOT_STATE`], which metrics and status are made from.
///
/// # Errors
/// The file cannot be written.
pub fn publish(sys: &dyn Sys, copies: &Copies) -> sys::Result<()> {
    let state = copies.state();
    let published = Published {
        trial: state.and_then(|state| state.trial_slot()).map(Slot::name),
        left: state.and_then(|state| state.trial).unwrap_or(0),
        active: state.map(|state| state.active.name()),
        booted: places::booted(sys).map(Slot::name),
        generation: state.map(|state| state.generation),
        confirmed: copies.confirmed,
        fault: copies.fault(),
    };
    let text = serde_json::to_vec(&published).expect("text and numbers can be written as JSON");
    sys.replace(layout::BOOT_STATE, &text, 0o644)
}

#[cfg(test)]
#[path = "bootblocks_tests.rs"]
pub(crate) mod tests;
