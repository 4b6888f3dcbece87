//! Fixed disk images of Hyper-V and Azure (Microsoft, "Virtual Hard Disk Image Format Specification", version 1.0): the
//! raw disk and a footer of 512 bytes.
//!
//! The disk is rounded up to whole MiB, as Azure asks for. The file is as large as the disk; on a file system that knows
//! holes it takes only what the data takes.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::disk::copy::copy_sparse;

/// What Azure wants the disk to be a multiple of, in bytes, the footer not counted.
pub const ALIGNMENT: u64 = 1 << 20;
const FOOTER: usize = 512;
const SECTOR: u64 = 512;
/// 2000-01-01T00:00:00Z in seconds since 1970: the format's epoch.
const EPOCH: u64 = 946_684_800;

/// What a disk is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// "Unique ID".
    pub id: [u8; 16],
    /// Time of creation in seconds since 1970.
    pub epoch: u64,
}

/// Writes the first `size` bytes of `source` as a fixed VHD into the empty file `target`.
///
/// # Errors
/// When `source` cannot be read or `target` not be written.
pub fn write(source: &File, size: u64, identity: Identity, target: &File) -> io::Result<()> {
    let disk = size.next_multiple_of(ALIGNMENT);
    target.set_len(disk + FOOTER as u64)?;
    copy_sparse(source, size, target, 0)?;
    target.write_all_at(&footer(disk, identity), disk)
}

fn footer(size: u64, identity: Identity) -> [u8; FOOTER] {
    let Identity { id, epoch } = identity;
    let (cylinders, heads, sectors) = geometry(size / SECTOR);
    let mut footer = [0; FOOTER];
    let mut put = |at: usize, bytes: &[u8]| footer[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"conectix");
    // "Reserved. This bit must always be set to 1."
    put(8, &2u32.to_be_bytes());
    put(12, &0x0001_0000u32.to_be_bytes());
    // "For fixed disks, this field should be set to 0xFFFFFFFF", all eight bytes of it.
    put(16, &u64::MAX.to_be_bytes());
    put(24, &(epoch.saturating_sub(EPOCH) as u32).to_be_bytes());
    // Readers take the size of disks made by "win " from "Current Size", of unknown programs from the geometry.
    put(28, b"win ");
    put(32, &0x0006_0002u32.to_be_bytes());
    put(36, b"Wi2k");
    put(40, &size.to_be_bytes());
    put(48, &size.to_be_bytes());
    put(56, &cylinders.to_be_bytes());
    put(58, &[heads, sectors]);
    // "Fixed hard disk".
    put(60, &2u32.to_be_bytes());
    put(68, &id);
    let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    footer
}

/// Returns cylinders, heads and sectors of a track (appendix "CHS Calculation").
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let total = sectors.min(65_535 * 16 * 255);
    let (mut per_track, mut heads, mut rows);
    if total >= 65_535 * 16 * 63 {
        (per_track, heads) = (255, 16);
        rows = total / per_track;
    } else {
        per_track = 17;
        rows = total / per_track;
        heads = rows.div_ceil(1024).max(4);
        if rows >= heads * 1024 || heads > 16 {
            (per_track, heads) = (31, 16);
            rows = total / per_track;
        }
        if rows >= heads * 1024 {
            (per_track, heads) = (63, 16);
            rows = total / per_track;
        }
    }
    ((rows / heads) as u16, heads as u8, per_track as u8)
}
