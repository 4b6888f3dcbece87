//! Writes an image to a disk so that a disk that is half written never looks like a system, and reads it back.
//!
//! ```text
//! 1  zeros over the first and the last MiB of the disk          nothing to boot, no partition table
//! 2  the image from its second MiB on; blocks of zeros are zeroed on the disk, whatever was there
//! 3  everything of 2 is read back from the medium and compared
//! 4  the backup of the partition table, at the end of the disk
//! 5  the first MiB but its first 4 KiB, then these             now it boots
//! 6  4 and 5 are read back and compared
//! ```
//!
//! Each line is on the medium before the next begins. When 3 or 6 finds a difference, the first MiB is zeros again.
//! Memory: two buffers of 4 MiB, and a digest for each 4 MiB of the image.

use std::io::Read;
use std::path::Path;

use ksos_formats::Digest;
use ksos_formats::update::chunks::is_zero;

use super::FlashError;
use super::table::{self, Backup};
use crate::effects::block::{Buffer, Device};
use crate::effects::fs::{Context, read_full};
use crate::effects::progress::Progress;

const SECTOR: usize = 512;
/// Bytes that are written last.
const HEAD: usize = 1 << 20;
/// Of these, the bytes that are written at the very end.
const FIRST: usize = 4096;
/// Bytes that are read, hashed and compared at once.
const CHUNK: usize = 4 << 20;
/// Zeros are looked for in blocks of this size.
const BLOCK: usize = 256 << 10;

/// A disk to write.
pub struct Target<'a> {
    /// The device, open for writing.
    pub device: &'a Device,
    /// Its name, for messages and to open it once more.
    pub path: &'a Path,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the image.
    pub size: u64,
    /// Of these, bytes that were zeroed and not written.
    pub zeroed: u64,
    /// The partition table was fitted to the disk.
    pub fitted: bool,
}

/// What became of the image's second MiB and what follows.
#[derive(Default)]
struct Body {
    /// A digest for each [`CHUNK`].
    digests: Vec<Digest>,
    /// Bytes, of which the last chunk may have fewer than the others.
    size: u64,
    zeroed: u64,
}

impl Target<'_> {
    /// Writes an image of `size` bytes from `source`.
    ///
    /// # Errors
    /// When the image is larger than the disk, or something cannot be read, written or read back as it was written. What
    /// is on the disk then does not boot.
    pub fn write(
        &self,
        source: &mut dyn Read,
        size: u64,
        verify: bool,
        progress: &dyn Progress,
    ) -> Result<Written, FlashError> {
        self.invalidate()?;
        let mut head = Buffer::new(HEAD);
        let filled = read_full(source, &mut head).context("read", Path::new("the image"))?;
        let body = self.write_body(source, size, filled as u64, progress)?;
        let backup = table::fit(&mut head, self.device.size);
        let result = (|| {
            if verify {
                self.verify_body(&body, progress)?;
            }
            self.finish(&mut head, filled, backup.as_ref())?;
            if verify { self.verify_ends(&head, filled, backup.as_ref()) } else { Ok(()) }
        })();
        if let Err(error) = result {
            // The first failure is the one to tell of.
            let _ = self.invalidate();
            return Err(error);
        }
        Ok(Written { size: filled as u64 + body.size, zeroed: body.zeroed, fitted: backup.is_some() })
    }

    fn invalidate(&self) -> Result<(), FlashError> {
        let length = (HEAD as u64).min(self.device.size);
        let last = (self.device.size - length) / SECTOR as u64 * SECTOR as u64;
        self.device.zero(0, length).context("write", self.path)?;
        self.device.zero(last, length).context("write", self.path)?;
        Ok(self.device.sync().context("write", self.path)?)
    }

    fn write_body(
        &self,
        source: &mut dyn Read,
        size: u64,
        filled: u64,
        progress: &dyn Progress,
    ) -> Result<Body, FlashError> {
        let mut task = progress.start("write", Some(size));
        task.advance(filled);
        let mut body = Body::default();
        let mut chunk = Buffer::new(CHUNK);
        loop {
            let count = read_full(source, &mut chunk).context("read", Path::new("the image"))?;
            // Disks are written in sectors.
            let padded = count.next_multiple_of(SECTOR);
            chunk[count..padded].fill(0);
            let offset = HEAD as u64 + body.size;
            if offset + padded as u64 > self.device.size && count > 0 {
                let path = Path::new("the image").to_owned();
                return Err(FlashError::TooLarge { path, size: None, disk: self.device.size });
            }
            body.zeroed += self.write_chunk(&chunk[..padded], offset)?;
            if count > 0 {
                body.digests.push(Digest::of(&chunk[..padded]));
            }
            body.size += count as u64;
            task.advance(count as u64);
            if count < CHUNK {
                break;
            }
        }
        task.note("until everything is on the medium");
        self.device.sync().context("write", self.path)?;
        task.finish();
        Ok(body)
    }

    /// Writes the blocks of `chunk` that are not zero and zeroes the others; returns how many bytes these were.
    fn write_chunk(&self, chunk: &[u8], offset: u64) -> Result<u64, FlashError> {
        let (mut at, mut zeroed) = (0, 0);
        while at < chunk.len() {
            let zero = is_zero(&chunk[at..chunk.len().min(at + BLOCK)]);
            let mut end = chunk.len().min(at + BLOCK);
            while end < chunk.len() && is_zero(&chunk[end..chunk.len().min(end + BLOCK)]) == zero {
                end = chunk.len().min(end + BLOCK);
            }
            let (run, place) = (&chunk[at..end], offset + at as u64);
            if zero {
                self.device.zero(place, run.len() as u64).context("write", self.path)?;
                zeroed += run.len() as u64;
            } else {
                self.device.write_at(run, place).context("write", self.path)?;
            }
            at = end;
        }
        Ok(zeroed)
    }

    fn finish(&self, head: &mut Buffer, filled: usize, backup: Option<&Backup>) -> Result<(), FlashError> {
        let filled = filled.next_multiple_of(SECTOR);
        if let Some(backup) = backup {
            let mut bytes = Buffer::new(backup.bytes.len());
            bytes.copy_from_slice(&backup.bytes);
            self.device.write_at(&bytes, backup.offset).context("write", self.path)?;
            self.device.sync().context("write", self.path)?;
        }
        if filled > FIRST {
            self.device.write_at(&head[FIRST..filled], FIRST as u64).context("write", self.path)?;
            self.device.sync().context("write", self.path)?;
        }
        self.device.write_at(&head[..filled.min(FIRST)], 0).context("write", self.path)?;
        Ok(self.device.sync().context("write", self.path)?)
    }

    fn verify_body(&self, body: &Body, progress: &dyn Progress) -> Result<(), FlashError> {
        let mut task = progress.start("verify", Some(body.size));
        self.device.forget();
        let medium = Device::open_to_read(self.path)?;
        let mut chunk = Buffer::new(CHUNK);
        for (index, digest) in body.digests.iter().enumerate() {
            let start = (index * CHUNK) as u64;
            let count = (body.size - start).min(CHUNK as u64) as usize;
            let padded = count.next_multiple_of(SECTOR);
            let offset = HEAD as u64 + start;
            medium.read_at(&mut chunk[..padded], offset).context("read", self.path)?;
            if Digest::of(&chunk[..padded]) != *digest {
                return Err(self.differs(offset, padded));
            }
            task.advance(count as u64);
        }
        task.finish();
        Ok(())
    }

    fn verify_ends(&self, head: &Buffer, filled: usize, backup: Option<&Backup>) -> Result<(), FlashError> {
        let filled = filled.next_multiple_of(SECTOR);
        self.device.forget();
        let medium = Device::open_to_read(self.path)?;
        let ends = [Some((0, &head[..filled])), backup.map(|backup| (backup.offset, &backup.bytes[..]))];
        for (offset, expected) in ends.into_iter().flatten() {
            let mut found = Buffer::new(expected.len());
            medium.read_at(&mut found, offset).context("read", self.path)?;
            if *found != *expected {
                return Err(self.differs(offset, expected.len()));
            }
        }
        Ok(())
    }

    fn differs(&self, offset: u64, count: usize) -> FlashError {
        FlashError::Differs { path: self.path.to_owned(), first: offset, last: offset + count as u64 - 1 }
    }
}
