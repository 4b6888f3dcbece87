//! Writing a slot image to its partition.
//!
//! The first 4 KiB, which hold what makes it a file system, stay in memory. [`SlotWriter::finish`] makes all the rest
//! durable, reads it back from the medium, and only when the digest of the whole is the expected one returns the
//! [`ProvenSlot`] that [`ProvenSlot::write_head`] completes. There is no other way to a [`BootableSlot`].
//!
//! Writes are aligned pieces of [`PIECE`] bytes. Not more than two windows of [`WINDOW`] bytes wait in memory to be
//! written; what is on the medium is dropped from the page cache.

use ksos_formats::bootstate::Slot;
use ksos_formats::digest::Hasher;
use ksos_formats::update::Blob;
use ksos_formats::update::chunks::is_zero;

use super::error::InstallError;
use crate::sys::{self, Disk};

/// Bytes that are written last.
pub const HEAD: u64 = 4096;
/// Size of a write in bytes.
pub const PIECE: usize = 1 << 20;
/// Bytes that are handed to the medium at once.
pub const WINDOW: u64 = 8 << 20;
/// Alignment of every write but the last.
const BLOCK: u64 = 4096;
/// A shorter run of zeros is written along with what is around it.
const SHORT_ZEROS: u64 = 64 << 10;

static ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// Zeros the first 4 KiB: what is there is no file system any more.
///
/// # Errors
/// [`sys::Error`].
pub fn clear(disk: &dyn Disk) -> sys::Result<()> {
    disk.write_at(0, &ZEROS)?;
    disk.flush()
}

/// A slot that is being written.
pub struct SlotWriter {
    disk: Box<dyn Disk>,
    slot: Slot,
    image: Blob,
    head: Vec<u8>,
    /// What was taken and not written yet, from `start` on.
    buffer: Vec<u8>,
    start: u64,
    /// Bytes that are in place, `begin..end`, both multiples of [`BLOCK`].
    kept: (u64, u64),
    scratch: Vec<u8>,
    /// What was last handed to the medium, `begin..end`.
    window: (u64, u64),
}

impl SlotWriter {
    /// Starts to write `image`. The bytes `kept.start..kept.end` are in place; their whole blocks are not written again.
    pub fn new(disk: Box<dyn Disk>, slot: Slot, image: Blob, kept: std::ops::Range<u64>) -> Self {
        SlotWriter {
            disk,
            slot,
            image,
            head: Vec::with_capacity(HEAD as usize),
            buffer: Vec::with_capacity(PIECE),
            start: 0,
            kept: (kept.start.next_multiple_of(BLOCK).max(HEAD), kept.end - kept.end % BLOCK),
            scratch: Vec::new(),
            window: (0, 0),
        }
    }

    /// Bytes of the image taken so far.
    pub fn position(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// Whether the next `length` bytes are in place, and [`SlotWriter::skip`] can take them.
    pub fn keeps(&self, length: u64) -> bool {
        self.buffer.is_empty() && self.start >= self.kept.0 && self.start + length <= self.kept.1
    }

    /// Takes the next bytes of the image.
    ///
    /// # Errors
    /// The partition cannot be written.
    pub fn put(&mut self, mut bytes: &[u8]) -> sys::Result<()> {
        while !bytes.is_empty() {
            let position = self.position();
            let (begin, end) = self.kept;
            let in_place = (begin..end).contains(&position);
            let room = if position < HEAD {
                HEAD - position
            } else if in_place {
                end - position
            } else {
                let before = if position < begin { begin - position } else { u64::MAX };
                (PIECE as u64 - position % PIECE as u64).min(before)
            };
            let (now, later) = bytes.split_at((room.min(bytes.len() as u64)) as usize);
            if position < HEAD {
                self.head.extend_from_slice(now);
                self.start += now.len() as u64;
            } else if in_place {
                self.start += now.len() as u64;
            } else {
                self.buffer.extend_from_slice(now);
                if now.len() as u64 == room {
                    self.write_buffer()?;
                }
            }
            bytes = later;
        }
        Ok(())
    }

    /// Takes the next bytes of the image, which [`SlotWriter::keeps`].
    pub fn skip(&mut self, length: u64) {
        self.start += length;
    }

    /// Takes a run of zeros. A long one is written only where there is something else.
    ///
    /// # Errors
    /// The partition cannot be read or written.
    pub fn zeros(&mut self, length: u64) -> sys::Result<()> {
        let end = self.position() + length;
        let put_until = |writer: &mut Self, until: u64| {
            while writer.position() < until {
                let part = (until - writer.position()).min(BLOCK);
                writer.put(&ZEROS[..part as usize])?;
            }
            Ok(())
        };
        let begin = self.position().max(HEAD).next_multiple_of(BLOCK);
        if begin >= end || end - begin < SHORT_ZEROS {
            return put_until(self, end);
        }
        put_until(self, begin)?;
        self.write_buffer()?;
        let whole = end - end % BLOCK;
        while self.start < whole {
            let part = (whole - self.start).min(PIECE as u64 - self.start % PIECE as u64);
            self.scratch.resize(part as usize, 0);
            self.disk.read_at(self.start, &mut self.scratch)?;
            if !is_zero(&self.scratch) {
                self.scratch.fill(0);
                self.disk.write_at(self.start, &self.scratch)?;
            }
            self.start += part;
            self.pace()?;
        }
        put_until(self, end)
    }

    /// Reads bytes of the image that were taken before.
    ///
    /// # Errors
    /// The partition cannot be read.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> sys::Result<()> {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (place, room) = if at < HEAD {
                (Some(&self.head[at as usize..]), HEAD - at)
            } else if at < self.start {
                (None, self.start - at)
            } else {
                (Some(&self.buffer[(at - self.start) as usize..]), u64::MAX)
            };
            let (now, later) = rest.split_at_mut(room.min(rest.len() as u64) as usize);
            match place {
                Some(memory) => now.copy_from_slice(&memory[..now.len()]),
                None => self.disk.read_at(at, now)?,
            }
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Reads bytes as they are in the partition, whether or not they were taken.
    ///
    /// # Errors
    /// The partition cannot be read.
    pub fn read_medium(&self, offset: u64, bytes: &mut [u8]) -> sys::Result<()> {
        self.disk.read_at(offset, bytes)
    }

    /// Writes what was taken so far, for the next attempt to find: this one has failed.
    pub fn leave(mut self) {
        // What cannot be written is fetched again.
        let _ = self.write_buffer();
    }

    fn write_buffer(&mut self) -> sys::Result<()> {
        if !self.buffer.is_empty() {
            self.disk.write_at(self.start, &self.buffer)?;
            self.start += self.buffer.len() as u64;
            self.buffer.clear();
        }
        self.pace()
    }

    /// Has a full window written out, and waits for the one before it.
    fn pace(&mut self) -> sys::Result<()> {
        let (begin, end) = self.window;
        if self.start - end >= WINDOW {
            self.disk.write_out(end, self.start - end, false)?;
            if end > begin {
                self.disk.write_out(begin, end - begin, true)?;
                self.disk.forget(begin, end - begin)?;
            }
            self.window = (end, self.start);
        }
        Ok(())
    }

    /// Writes what is left, makes all of it durable, and hashes it as it is on the medium.
    ///
    /// # Errors
    /// The partition cannot be written or read; [`InstallError::Medium`].
    pub fn finish(mut self) -> Result<ProvenSlot, InstallError> {
        self.write_buffer()?;
        self.disk.flush()?;
        self.disk.forget(0, self.image.size)?;
        let mut hasher = Hasher::new();
        hasher.update(&self.head);
        let mut at = self.head.len() as u64;
        // What is missing is not made up for.
        let end = self.position().min(self.image.size);
        while at < end {
            let part = (end - at).min(PIECE as u64 - at % PIECE as u64);
            self.scratch.resize(part as usize, 0);
            self.disk.read_at(at, &mut self.scratch)?;
            hasher.update(&self.scratch);
            at += part;
            if at % WINDOW == 0 {
                self.disk.forget(at - WINDOW, WINDOW)?;
            }
        }
        let (expected, found) = (self.image.sha256, hasher.finish());
        if found != expected || at != self.image.size {
            return Err(InstallError::Medium { slot: self.slot, expected, found });
        }
        Ok(ProvenSlot { disk: self.disk, slot: self.slot, head: self.head })
    }
}

/// A slot whose bytes, but for the first 4 KiB, were read back from the medium and are those of the release.
pub struct ProvenSlot {
    disk: Box<dyn Disk>,
    slot: Slot,
    head: Vec<u8>,
}

impl ProvenSlot {
    /// Writes the first 4 KiB, makes them durable and reads them back.
    ///
    /// # Errors
    /// The partition cannot be written or read; [`InstallError::Head`].
    pub fn write_head(self) -> Result<BootableSlot, InstallError> {
        self.disk.write_at(0, &self.head)?;
        self.disk.flush()?;
        let mut found = [0; HEAD as usize];
        self.disk.read_direct(0, &mut found)?;
        if !found.starts_with(&self.head) {
            return Err(InstallError::Head(self.slot));
        }
        Ok(BootableSlot(self.slot))
    }
}

/// A slot that has the whole image of a verified release: what may be given a trial.
#[derive(Debug)]
pub struct BootableSlot(Slot);

impl BootableSlot {
    /// Returns the slot.
    pub fn slot(&self) -> Slot {
        self.0
    }

    /// A slot that is gone back to: it has worked before, and `disk` still has the image that worked.
    ///
    /// # Errors
    /// The partition cannot be read; [`InstallError::Medium`].
    pub fn worked_before(disk: &dyn Disk, slot: Slot, image: &Blob) -> Result<Self, InstallError> {
        let mut hasher = Hasher::new();
        let mut piece = vec![0; PIECE];
        let (mut at, end) = (0, image.size.min(disk.size()));
        while at < end {
            let part = &mut piece[..(end - at).min(PIECE as u64) as usize];
            disk.read_at(at, part)?;
            hasher.update(part);
            at += part.len() as u64;
        }
        let (expected, found) = (image.sha256, hasher.finish());
        if found != expected || at != image.size {
            return Err(InstallError::Medium { slot, expected, found });
        }
        Ok(BootableSlot(slot))
    }

    /// A slot that is gone back to and came with the disk image: what is known is that it has worked.
    pub fn came_with_the_disk(slot: Slot) -> Self {
        BootableSlot(slot)
    }
}
