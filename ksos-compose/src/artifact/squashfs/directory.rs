//! Directory listings in the directory table.
//!
//! A listing is a series of headers, each followed by up to 256 entries whose inodes are in one metadata block and
//! whose numbers are within 16 bit of the header's. Large directories get an index of headers, so that a look-up
//! reads one or two metadata blocks; for that a header never has more than one metadata block of entries.

use super::Error;
use super::metadata::{BLOCK, MetadataWriter, Position};

const HEADER: usize = 12;
const ENTRY: usize = 8;
const MAXIMUM_ENTRIES: usize = 256;

/// One entry of a listing.
#[derive(Debug, Clone, Copy)]
pub struct ListingEntry<'a> {
    /// Name, 1 to 255 bytes.
    pub name: &'a str,
    /// Basic inode type.
    pub kind: u16,
    /// Where the inode is.
    pub position: Position,
    /// Number of the inode.
    pub inode: u32,
}

/// One entry of a directory's index: the header at byte `offset` of the listing starts with `name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Offset in the uncompressed listing in bytes.
    pub offset: u32,
    /// Start of the metadata block that has the header, from the start of the directory table.
    pub block: u32,
    /// The first name behind the header.
    pub name: String,
}

/// A listing that was written.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Where it starts.
    pub position: Position,
    /// Its uncompressed size in bytes.
    pub size: u32,
    /// The index; empty for small directories.
    pub index: Vec<IndexEntry>,
}

/// Writes the listing of `entries`, which are in byte order of their names.
///
/// # Errors
/// When the compressor fails or the tables grow over 4 GiB.
pub fn write(writer: &mut MetadataWriter<'_>, entries: &[ListingEntry<'_>]) -> Result<Listing, Error> {
    if entries.is_empty() {
        return Ok(Listing { position: Position { block: 0, offset: 0 }, size: 0, index: Vec::new() });
    }
    let mut listing = Listing { position: writer.position(), size: 0, index: Vec::new() };
    let mut indexed = 0;
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let (group, behind) = rest.split_at(group_length(rest));
        if listing.size - indexed >= BLOCK as u32 && listing.index.len() < usize::from(u16::MAX) {
            indexed = listing.size;
            let block = table_offset(writer.position().block)?;
            listing.index.push(IndexEntry { offset: listing.size, block, name: first.name.to_owned() });
        }
        let bytes = encode(group, table_offset(first.position.block)?);
        writer.write(&bytes).map_err(Error::Compress)?;
        let size = listing.size.checked_add(bytes.len() as u32).filter(|size| *size <= u32::MAX - 3);
        listing.size = size.ok_or(Error::TooMany { what: "bytes in one directory", maximum: u64::from(u32::MAX) })?;
        rest = behind;
    }
    Ok(listing)
}

/// Returns how many of `entries`, at least one, go behind one header.
fn group_length(entries: &[ListingEntry<'_>]) -> usize {
    let first = entries[0];
    let mut size = HEADER;
    let fits = |entry: &&ListingEntry<'_>| {
        size += ENTRY + entry.name.len();
        let distance = i64::from(entry.inode) - i64::from(first.inode);
        entry.position.block == first.position.block && size <= BLOCK && i16::try_from(distance).is_ok()
    };
    entries.iter().take(MAXIMUM_ENTRIES).take_while(fits).count()
}

fn encode(group: &[ListingEntry<'_>], block: u32) -> Vec<u8> {
    let base = group[0].inode;
    let mut bytes = Vec::with_capacity(BLOCK);
    for value in [group.len() as u32 - 1, block, base] {
        bytes.extend(value.to_le_bytes());
    }
    for entry in group {
        bytes.extend(entry.position.offset.to_le_bytes());
        bytes.extend((entry.inode.wrapping_sub(base) as u16).to_le_bytes());
        bytes.extend(entry.kind.to_le_bytes());
        bytes.extend((entry.name.len() as u16 - 1).to_le_bytes());
        bytes.extend(entry.name.as_bytes());
    }
    bytes
}

/// Returns the 32-bit form of a position in a table.
///
/// # Errors
/// When the table is larger than that.
pub fn table_offset(block: u64) -> Result<u32, Error> {
    u32::try_from(block).map_err(|_| Error::TooMany { what: "bytes of metadata", maximum: u64::from(u32::MAX) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(inode: u32, block: u64) -> ListingEntry<'static> {
        ListingEntry { name: "name", kind: 2, position: Position { block, offset: 7 }, inode }
    }

    #[test]
    fn a_header_holds_what_it_can_express() {
        let many: Vec<_> = (1..=600).map(|inode| entry(inode, 0)).collect();
        assert_eq!(group_length(&many), 256);
        assert_eq!(group_length(&[entry(1, 0), entry(2, 0), entry(3, 40)]), 2);
        assert_eq!(group_length(&[entry(1, 0), entry(32768, 0), entry(32769, 0)]), 2);
        assert_eq!(group_length(&[entry(40000, 0), entry(7232, 0), entry(7231, 0)]), 2);
        let long = "x".repeat(255);
        let long = vec![ListingEntry { name: &long, ..entry(1, 0) }; 100];
        assert_eq!(group_length(&long), (BLOCK - HEADER) / (ENTRY + 255));
    }
}
