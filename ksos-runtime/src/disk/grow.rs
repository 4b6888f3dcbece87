//! GUID partition tables: fitting a table to a larger disk, growing its last partition, marking it, repairing a copy.
//!
//! [`plan`] is pure: it returns the writes. [`Plan::apply`] does them, each made durable before the next. Their order
//! keeps at least one valid copy on the disk at any moment, also when a write is torn between two sectors:
//!
//! 1. the backup's entry array, then its header, at the end of the disk (the primary copy is untouched);
//! 2. the primary entry array, then its header (the backup copy is complete);
//! 3. the protective MBR's size, which is one sector and of no importance to Linux or UEFI firmware.
//!
//! A power cut leaves a table that [`super::gpt::Table::read`] accepts, old or new, and the next boot plans again.

use crate::sys::{self, Disk};

use super::gpt::{Copy, Partition, Table, header_checksum};
use super::{little, put_little};

/// Partition attribute: the file system is being made, and what is there may be half of one. Bits 48 to 63 belong to
/// the partition type (UEFI 2.10, table 5-8); the Discoverable Partitions Specification uses 59, 60 and 63.
pub const FORMATTING: u64 = 1 << 48;
/// Partition attribute: the file system is to be made anew, whatever is there.
pub const WIPING: u64 = 1 << 49;
/// Ends of grown partitions are multiples of this many bytes.
const ALIGNMENT: u64 = 1 << 20;

/// What should change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// Name of the partition that may grow, if it is the last one on the disk.
    pub name: &'a str,
    /// What its attributes are to say; `None` leaves them.
    pub mark: Option<Mark>,
}

/// What a partition's attributes say about the file system on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It is whole.
    Done,
    /// It is being made where nothing was ([`FORMATTING`]): one that is found is whole.
    Formatting,
    /// It is being made in place of another ([`FORMATTING`] and [`WIPING`]): one that is found may be the old one.
    Wiping,
}

/// Why a table cannot be fitted to its disk.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GrowError {
    /// There is no room for the backup copy behind the partitions.
    #[error("the table uses {needed} sectors and the disk has {sectors}")]
    DiskTooSmall {
        /// Sectors needed.
        needed: u64,
        /// Sectors there are.
        sectors: u64,
    },
    /// The primary entry array would reach into the first usable sector.
    #[error("there is no room for {0} sectors of entries before the first usable sector")]
    NoRoomForEntries(u64),
}

/// Writes that change a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Byte offset and bytes, in order.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// The partition named in the change, as it is afterwards.
    pub partition: Option<Partition>,
    /// Whether that partition grew.
    pub grew: bool,
}

impl Plan {
    /// Does the writes, each durable before the next. See the module for what a crash leaves.
    pub fn apply(&self, disk: &dyn Disk) -> sys::Result<()> {
        for (offset, bytes) in &self.writes {
            disk.write_at(*offset, bytes)?;
            disk.flush()?;
        }
        Ok(())
    }
}

/// Returns what has to be written to fit `table` to its disk and make `change`; `None` if nothing.
pub fn plan(table: &Table, mbr: &[u8], change: Change<'_>) -> Result<Option<Plan>, GrowError> {
    let Table { used, sector, sectors, .. } = table;
    let array_sectors = (used.entries.len() as u64).div_ceil(*sector);
    let needed = table.partitions.iter().map(|partition| partition.last + 1).max().unwrap_or(0) + array_sectors + 1;
    if needed > *sectors {
        return Err(GrowError::DiskTooSmall { needed, sectors: *sectors });
    }
    let last_usable = sectors.saturating_sub(array_sectors + 2);
    let primary_array = if table.from_primary { used.entries_lba() } else { 2 };
    if primary_array + array_sectors > used.first_usable() {
        return Err(GrowError::NoRoomForEntries(array_sectors));
    }
    let (entries, partition, grew) = changed_entries(table, change, last_usable);
    let primary = header(used, &entries, 1, sectors - 1, last_usable, primary_array);
    let backup = header(used, &entries, sectors - 1, 1, last_usable, sectors - 1 - array_sectors);
    if table.from_primary
        && same(used, &primary, &entries)
        && table.at_end.as_ref().is_some_and(|copy| same(copy, &backup, &entries))
    {
        return Ok(None);
    }
    let mut writes = vec![
        ((sectors - 1 - array_sectors) * sector, padded(&entries, *sector)),
        ((sectors - 1) * sector, padded(&backup, *sector)),
        (primary_array * sector, padded(&entries, *sector)),
        (*sector, padded(&primary, *sector)),
    ];
    writes.extend(protective_mbr(mbr, *sectors).map(|mbr| (0, mbr)));
    Ok(Some(Plan { writes, partition, grew }))
}

fn same(copy: &Copy, header: &[u8], entries: &[u8]) -> bool {
    copy.header == header && copy.entries == entries
}

/// Returns the entry array with the change made, the changed partition, and whether it grew.
fn changed_entries(table: &Table, change: Change<'_>, last_usable: u64) -> (Vec<u8>, Option<Partition>, bool) {
    let mut entries = table.used.entries.clone();
    let Some(mut partition) = table.by_name(change.name).cloned() else { return (entries, None, false) };
    let is_last = table.partitions.iter().all(|other| other.last <= partition.last);
    let unit = (ALIGNMENT / table.sector).max(1);
    let end = (last_usable + 1) / unit * unit;
    let grew = is_last && end > partition.last + 1;
    if grew {
        partition.last = end - 1;
    }
    if let Some(mark) = change.mark {
        partition.attributes &= !(FORMATTING | WIPING);
        partition.attributes |= match mark {
            Mark::Done => 0,
            Mark::Formatting => FORMATTING,
            Mark::Wiping => FORMATTING | WIPING,
        };
    }
    let start = (partition.number as usize - 1) * table.used.entry_size();
    if let Some(entry) = entries.get_mut(start..start + table.used.entry_size()) {
        put_little::<8>(entry, 40, partition.last);
        put_little::<8>(entry, 48, partition.attributes);
    }
    (entries, Some(partition), grew)
}

/// Returns a header like that of `model` for another place and other entries.
fn header(model: &Copy, entries: &[u8], lba: u64, alternate: u64, last_usable: u64, array: u64) -> Vec<u8> {
    let mut header = model.header.clone();
    for (offset, value) in [(24, lba), (32, alternate), (48, last_usable), (72, array)] {
        put_little::<8>(&mut header, offset, value);
    }
    put_little::<4>(&mut header, 88, u64::from(crc32fast::hash(entries)));
    let checksum = header_checksum(&header);
    put_little::<4>(&mut header, 16, u64::from(checksum));
    header
}

fn padded(bytes: &[u8], sector: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(sector as usize), 0);
    bytes
}

/// Returns the first sector with the protective entry's size fitted to the disk, if it is a plain protective MBR (one
/// entry of type 0xEE that begins in sector 1; UEFI 2.10, table 5-4) and the size is another.
fn protective_mbr(mbr: &[u8], sectors: u64) -> Option<Vec<u8>> {
    let others_empty = mbr.get(462..510)?.iter().all(|byte| *byte == 0);
    let plain = mbr.get(450) == Some(&0xee) && little::<4>(mbr, 454) == 1 && others_empty;
    let size = (sectors - 1).min(u64::from(u32::MAX));
    if !plain || mbr.get(510..512) != Some(&[0x55, 0xaa]) || little::<4>(mbr, 458) == size {
        return None;
    }
    let mut mbr = mbr.to_vec();
    put_little::<4>(&mut mbr, 458, size);
    Some(mbr)
}

/// Returns whether the partition is marked as being formatted.
pub fn is_formatting(partition: &Partition) -> bool {
    partition.attributes & FORMATTING != 0
}

/// Returns whether the partition is marked as being formatted in place of what was there.
pub fn is_wiping(partition: &Partition) -> bool {
    partition.attributes & WIPING != 0
}

/// Returns whether the backup header is where the primary says it is and at the end of the disk.
pub fn backup_at_end(table: &Table) -> bool {
    table.used.alternate().max(table.used.lba) == table.sectors - 1
}

#[cfg(test)]
mod tests {
    use super::super::gpt::tests::{MIB, image};
    use super::*;
    use crate::sys::double::MemoryDisk;

    const GROW: Change<'_> = Change { name: "KSOLODATA", mark: Some(Mark::Formatting) };

    /// Returns the image as written to a disk of `mebibytes`.
    fn written_to(mebibytes: u64) -> MemoryDisk {
        let disk = image(8, 1);
        disk.bytes.borrow_mut().resize((mebibytes * MIB) as usize, 0);
        disk
    }

    fn planned(disk: &MemoryDisk, change: Change<'_>) -> Option<Plan> {
        let table = Table::read(disk).expect("a valid table");
        let mbr = disk.bytes.borrow()[..512].to_vec();
        plan(&table, &mbr, change).expect("it fits")
    }

    #[test]
    fn data_grows_to_the_end_and_a_second_plan_is_empty() {
        let disk = written_to(64);
        let plan = planned(&disk, GROW).expect("work to do");
        assert!(plan.grew);
        plan.apply(&disk).expect("written");
        let table = Table::read(&disk).expect("valid");
        let data = table.by_name("KSOLODATA").expect("there");
        assert_eq!(table.extent(data), (4 * MIB, 59 * MIB));
        assert!(is_formatting(data) && backup_at_end(&table));
        assert_eq!(table.at_end.as_ref().map(|copy| &copy.entries), Some(&table.used.entries));
        assert_eq!(little::<4>(&disk.bytes.borrow(), 458), 64 * 2048 - 1);
        assert_eq!(planned(&disk, GROW), None);
        let cleared = planned(&disk, Change { name: "KSOLODATA", mark: Some(Mark::Done) }).expect("the mark");
        assert!(!cleared.grew);
        cleared.apply(&disk).expect("written");
        assert!(!is_formatting(Table::read(&disk).expect("valid").by_name("KSOLODATA").expect("there")));
    }

    #[test]
    fn every_interruption_leaves_a_valid_table_and_the_next_boot_finishes() {
        for mebibytes in [9, 64] {
            let plan = planned(&written_to(mebibytes), GROW).expect("work to do");
            let sectors: Vec<(u64, Vec<u8>)> = plan
                .writes
                .iter()
                .flat_map(|(offset, bytes)| {
                    bytes
                        .chunks(512)
                        .enumerate()
                        .map(move |(index, chunk)| (offset + 512 * index as u64, chunk.to_vec()))
                })
                .collect();
            assert!(sectors.len() > 66);
            for done in 0..=sectors.len() {
                let disk = written_to(mebibytes);
                for (offset, bytes) in &sectors[..done] {
                    disk.write_at(*offset, bytes).expect("written");
                }
                let table = Table::read(&disk).unwrap_or_else(|error| panic!("after {done} sectors: {error}"));
                assert_eq!(table.partitions.len(), 4);
                if let Some(rest) = planned(&disk, GROW) {
                    rest.apply(&disk).expect("written");
                }
                let table = Table::read(&disk).expect("valid");
                assert_eq!(planned(&disk, GROW), None, "after {done} sectors");
                assert!(table.is_from_primary() && backup_at_end(&table));
            }
        }
    }

    #[test]
    fn a_torn_sector_in_the_primary_is_covered_by_the_backup() {
        let disk = written_to(16);
        let plan = planned(&disk, GROW).expect("work to do");
        for (offset, bytes) in &plan.writes[..3] {
            disk.write_at(*offset, bytes).expect("written");
        }
        disk.write_at(512, &[0xff; 512]).expect("written");
        let table = Table::read(&disk).expect("the backup holds");
        assert!(!table.is_from_primary());
        planned(&disk, GROW).expect("repair").apply(&disk).expect("written");
        assert!(Table::read(&disk).expect("valid").is_from_primary());
    }

    #[test]
    fn a_partition_that_is_not_last_does_not_grow() {
        let disk = written_to(16);
        let plan = planned(&disk, Change { name: "KSOSSYSB", mark: None }).expect("the backup moves");
        assert!(!plan.grew);
        assert_eq!(plan.partition.map(|partition| partition.last), Some(4 * 2048 - 1));
    }

    #[test]
    fn a_smaller_disk_is_refused() {
        let disk = written_to(16);
        planned(&disk, GROW).expect("work").apply(&disk).expect("written");
        let mut table = Table::read(&disk).expect("valid");
        table.sectors = 15 * 2048;
        let error = plan(&table, &[0; 512], GROW).expect_err("too small");
        assert_eq!(error, GrowError::DiskTooSmall { needed: 15 * 2048 + 33, sectors: 15 * 2048 });
    }

    #[test]
    fn a_hybrid_mbr_is_left_alone() {
        let disk = written_to(16);
        disk.bytes.borrow_mut()[466] = 0x0c;
        let plan = planned(&disk, GROW).expect("work to do");
        assert!(plan.writes.iter().all(|(offset, _)| *offset != 0));
    }
}
