//! The GUID partition table (UEFI 2.10, chapter 5).

use std::fs::File;
use std::os::unix::fs::FileExt;

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use uuid::Uuid;

use super::Partition;
use crate::artifact::disk::SECTOR;

/// The most entries that are read; 128 are usual.
const MOST_ENTRIES: u32 = 1024;

/// Reads the table of the disk image `file` of `size` bytes; says what is wrong otherwise.
pub(super) fn read(file: &File, size: u64) -> Result<(Uuid, Vec<Partition>), String> {
    let sectors = size / SECTOR;
    if sectors < 3 {
        return Err(format!("{size} bytes are too few for one"));
    }
    if !check_header(file, 1)? {
        return Err("there is none".to_owned());
    }
    check_header(file, sectors - 1)?;
    let config = GptConfig::new().writable(false).logical_block_size(LogicalBlockSize::Lb512);
    let disk = config.open_from_device(file).map_err(|error| error.to_string())?;
    let mut partitions = Vec::new();
    for (number, entry) in disk.partitions() {
        let place = place(entry.first_lba, entry.last_lba, sectors);
        let (offset, size) = place.ok_or_else(|| format!("partition {number} is not inside the disk"))?;
        partitions.push(Partition {
            number: *number,
            label: entry.name.clone(),
            type_guid: entry.part_type_guid.guid,
            guid: entry.part_guid,
            flags: entry.flags,
            offset,
            size,
        });
    }
    check_overlap(&partitions)?;
    Ok((*disk.guid(), partitions))
}

/// Returns offset and size in bytes.
fn place(first: u64, last: u64, sectors: u64) -> Option<(u64, u64)> {
    (first > 0 && first <= last && last < sectors).then(|| (first * SECTOR, (last - first + 1) * SECTOR))
}

/// Checks the sizes that the header in `sector` declares, before the table is allocated by them; `false` when there is
/// no header. Checksums are left to the reader of the table.
fn check_header(file: &File, sector: u64) -> Result<bool, String> {
    let mut header = [0; SECTOR as usize];
    file.read_exact_at(&mut header, sector * SECTOR).map_err(|error| error.to_string())?;
    if !header.starts_with(b"EFI PART") {
        return Ok(false);
    }
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (header_size, entries, entry_size) = (word(12), word(80), word(84));
    if !(92..=SECTOR as u32).contains(&header_size) {
        return Err(format!("a header of {header_size} bytes in sector {sector}"));
    }
    // "The size [...] shall be set to a value of 128 x 2^n" (UEFI 2.10, table 5.5); the images here have 128.
    if entry_size != 128 || entries > MOST_ENTRIES {
        return Err(format!("{entries} entries of {entry_size} bytes in sector {sector}"));
    }
    Ok(true)
}

fn check_overlap(partitions: &[Partition]) -> Result<(), String> {
    let mut sorted: Vec<&Partition> = partitions.iter().collect();
    sorted.sort_by_key(|partition| partition.offset);
    for pair in sorted.windows(2) {
        if pair[0].offset + pair[0].size > pair[1].offset {
            return Err(format!("partitions {} and {} overlap", pair[0].number, pair[1].number));
        }
    }
    Ok(())
}
