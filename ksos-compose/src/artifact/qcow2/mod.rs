//! QEMU's disk images, version 3 (QEMU, `docs/interop/qcow2.txt`).
//!
//! One pass over the raw image: clusters with data are appended in order, uncompressed, and a table of the second level
//! is kept in memory until its 512 MiB are done. Layout, in clusters of 64 KiB:
//!
//! ```text
//! 0      header
//! 1..    table of the first level
//! ...    for each 512 MiB with data: table of the second level, then its clusters
//! ...    reference counts (every cluster: 1), then the table of their blocks
//! ```
//!
//! The virtual size is that of the raw image, rounded up to whole sectors of 512 bytes: the format has no other.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::sparse;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of a table in one cluster.
const ENTRIES: u64 = CLUSTER / 8;
/// Reference counts of 16 bits in one cluster.
const COUNTS: u64 = CLUSTER / 2;
/// Bit 63 of an entry: "reference count is exactly 1".
const COPIED: u64 = 1 << 63;
/// "Length of the header structure in bytes" of version 3 without optional fields.
const HEADER: u32 = 104;
/// 16-bit reference counts: the logarithm of their width.
const REFCOUNT_ORDER: u32 = 4;

/// Writes the first `size` bytes of `source` as a qcow2 image into the empty file `target`.
///
/// # Errors
/// When `source` cannot be read or `target` not be written.
pub fn write(source: &File, size: u64, target: &File) -> io::Result<()> {
    let virtual_size = size.next_multiple_of(512);
    let tables = virtual_size.div_ceil(CLUSTER * ENTRIES);
    let first_level = Place { offset: CLUSTER, clusters: tables.div_ceil(ENTRIES) };
    let mut writer = Writer { target, next: first_level.end(), tables: vec![0; tables as usize], open: None };
    sparse::blocks(source, size, CLUSTER, &mut |offset, bytes| writer.put(offset, bytes))?;
    writer.close()?;
    let Writer { next, tables: entries, .. } = writer;
    target.write_all_at(&big_endian(&entries), first_level.offset)?;
    let counts = reference_counts(target, next)?;
    let header = header(virtual_size, &first_level, tables as u32, &counts);
    target.write_all_at(&header, 0)?;
    // The table of reference counts is last, and a table ends with its cluster.
    target.set_len(counts.end())
}

/// Where something of whole clusters is.
struct Place {
    offset: u64,
    clusters: u64,
}

impl Place {
    fn end(&self) -> u64 {
        self.offset + self.clusters * CLUSTER
    }
}

struct Writer<'a> {
    target: &'a File,
    /// Where the next cluster goes.
    next: u64,
    /// The table of the first level.
    tables: Vec<u64>,
    open: Option<Table>,
}

/// A table of the second level that is being filled.
struct Table {
    number: u64,
    offset: u64,
    entries: Vec<u64>,
}

impl Writer<'_> {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let cluster = offset / CLUSTER;
        let number = cluster / ENTRIES;
        if self.open.as_ref().is_none_or(|table| table.number != number) {
            self.close()?;
            let table = Table { number, offset: self.take(), entries: vec![0; ENTRIES as usize] };
            self.tables[number as usize] = table.offset | COPIED;
            self.open = Some(table);
        }
        let place = self.take();
        if let Some(table) = &mut self.open {
            table.entries[(cluster % ENTRIES) as usize] = place | COPIED;
        }
        self.target.write_all_at(bytes, place)
    }

    fn take(&mut self) -> u64 {
        let place = self.next;
        self.next += CLUSTER;
        place
    }

    fn close(&mut self) -> io::Result<()> {
        match self.open.take() {
            Some(table) => self.target.write_all_at(&big_endian(&table.entries), table.offset),
            None => Ok(()),
        }
    }
}

/// Writes the reference counts of everything before `end`, of themselves and of their table, and returns where that is.
fn reference_counts(target: &File, end: u64) -> io::Result<Place> {
    let before = end / CLUSTER;
    // Blocks and table count themselves: the smallest numbers that hold all.
    let (mut blocks, mut table) = (1, 1);
    loop {
        let all = before + blocks + table;
        let (more_blocks, more_table) = (all.div_ceil(COUNTS), blocks.div_ceil(ENTRIES));
        if (more_blocks, more_table) == (blocks, table) {
            break;
        }
        (blocks, table) = (more_blocks.max(blocks), more_table.max(table));
    }
    let all = before + blocks + table;
    let ones = 1u16.to_be_bytes().repeat(COUNTS as usize);
    let mut entries = Vec::new();
    for block in 0..blocks {
        let count = COUNTS.min(all - block * COUNTS);
        let offset = end + block * CLUSTER;
        target.write_all_at(&ones[..2 * count as usize], offset)?;
        entries.push(offset);
    }
    let place = Place { offset: end + blocks * CLUSTER, clusters: table };
    target.write_all_at(&big_endian(&entries), place.offset)?;
    Ok(place)
}

fn big_endian(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

fn header(size: u64, first_level: &Place, tables: u32, counts: &Place) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER as usize);
    header.extend(b"QFI\xfb");
    header.extend(3u32.to_be_bytes());
    // No backing file.
    header.extend([0; 12]);
    header.extend(CLUSTER_BITS.to_be_bytes());
    header.extend(size.to_be_bytes());
    // No encryption.
    header.extend(0u32.to_be_bytes());
    header.extend(tables.to_be_bytes());
    header.extend(first_level.offset.to_be_bytes());
    header.extend(counts.offset.to_be_bytes());
    header.extend((counts.clusters as u32).to_be_bytes());
    // No snapshots; no incompatible, compatible or self-clearing features.
    header.extend([0; 12 + 3 * 8]);
    header.extend(REFCOUNT_ORDER.to_be_bytes());
    header.extend(HEADER.to_be_bytes());
    // The end of the header extensions is eight zeros, which the rest of the cluster has.
    header
}
