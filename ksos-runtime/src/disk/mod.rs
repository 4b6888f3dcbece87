//! Disks: partition tables, what partitions hold, which disk the machine booted from.
//!
//! Nothing here asks another program (no blkid, findfs, sfdisk); all reads are bounded, and every length that a disk
//! states is checked before it is used.

pub mod find;
pub mod gpt;
pub mod grow;
pub mod probe;

/// Reads a little-endian number of `N` bytes (at most 8) at `offset`; 0 past the end.
pub(crate) fn little<const N: usize>(bytes: &[u8], offset: usize) -> u64 {
    let field = bytes.get(offset..offset + N).unwrap_or(&[]);
    field.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// Writes a little-endian number at `offset`; a field past the end is left out.
pub(crate) fn put_little<const N: usize>(bytes: &mut [u8], offset: usize, value: u64) {
    if let Some(field) = bytes.get_mut(offset..offset + N) {
        for (index, byte) in field.iter_mut().enumerate() {
            *byte = (value >> (8 * index)) as u8;
        }
    }
}
