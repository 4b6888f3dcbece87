//! Block allocation and extent trees (kernel documentation, "Extent Tree").

use std::ops::Range;

use super::bytes::{high32, low16, low32, put};
use super::crc32c::crc32c;
use super::geometry::BLOCK;

/// Entries that fit in the inode.
const INLINE_ENTRIES: usize = 4;
/// Entries that fit in an extent block: 12 bytes each, after a header of 12 bytes, before the checksum.
const BLOCK_ENTRIES: usize = (BLOCK - 12) / 12;
const ENTRY_SIZE: usize = 12;
const MAGIC: u16 = 0xF30A;
/// The longest initialised extent, in blocks.
const MAXIMUM_LENGTH: u64 = 32768;

/// Blocks of a file that follow one another both in the file and in the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// First block in the file.
    pub(super) logical: u32,
    /// Number of blocks, at most [`MAXIMUM_LENGTH`].
    pub(super) length: u16,
    /// First block in the file system.
    pub(super) physical: u64,
}

/// Hands out the blocks that are not reserved, in ascending order and without a gap. It goes on past the end of the
/// file system, so that a caller learns how much would have been needed.
#[derive(Debug, Clone)]
pub(super) struct Allocator<'r> {
    next: u64,
    reserved: &'r [Range<u64>],
    taken: u64,
}

impl<'r> Allocator<'r> {
    /// Returns an allocator of all blocks outside the sorted, disjoint ranges `reserved`.
    pub(super) fn new(reserved: &'r [Range<u64>]) -> Self {
        Allocator { next: 0, reserved, taken: 0 }
    }

    /// Takes up to `wanted` (at least 1) consecutive blocks; returns the first and how many there are.
    pub(super) fn take(&mut self, wanted: u64) -> (u64, u64) {
        while let [first, rest @ ..] = self.reserved
            && self.next >= first.start
        {
            self.next = self.next.max(first.end);
            self.reserved = rest;
        }
        let start = self.next;
        let free = self.reserved.first().map_or(u64::MAX, |range| range.start) - start;
        let count = wanted.min(free);
        self.next += count;
        self.taken += count;
        (start, count)
    }

    /// Takes one block.
    pub(super) fn take_one(&mut self) -> u64 {
        self.take(1).0
    }

    /// Takes `count` blocks for the logical blocks of a file without holes.
    pub(super) fn take_extents(&mut self, count: u64) -> Extents {
        let mut extents = Extents::default();
        let mut logical = 0;
        while logical < count {
            let (physical, length) = self.take(count - logical);
            extents.push(logical, physical, length);
            logical += length;
        }
        extents
    }

    /// Returns how many blocks were taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Returns the block before which every block is reserved or taken.
    pub(super) fn end(&self) -> u64 {
        self.next
    }
}

/// The extents of one file, in order.
#[derive(Debug, Default)]
pub(super) struct Extents {
    list: Vec<Extent>,
    blocks: u64,
}

impl Extents {
    /// Adds `count` blocks after all those before; adjoining extents become one.
    pub(super) fn push(&mut self, logical: u64, physical: u64, count: u64) {
        self.blocks += count;
        let (mut logical, mut physical, mut count) = (logical, physical, count);
        if let Some(last) = self.list.last_mut() {
            let length = u64::from(last.length);
            if u64::from(last.logical) + length == logical && last.physical + length == physical {
                let joined = count.min(MAXIMUM_LENGTH - length);
                last.length += joined as u16;
                (logical, physical, count) = (logical + joined, physical + joined, count - joined);
            }
        }
        while count > 0 {
            let length = count.min(MAXIMUM_LENGTH);
            self.list.push(Extent { logical: low32(logical), length: length as u16, physical });
            (logical, physical, count) = (logical + length, physical + length, count - length);
        }
    }

    /// Returns the blocks of data.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Iterates over the extents in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.list.iter()
    }

    /// Returns how many blocks the tree above the extents needs outside the inode.
    pub(super) fn tree_blocks(&self) -> u64 {
        let mut entries = self.list.len();
        let mut blocks = 0;
        while entries > INLINE_ENTRIES {
            entries = entries.div_ceil(BLOCK_ENTRIES);
            blocks += entries as u64;
        }
        blocks
    }

    /// Builds the tree: takes its blocks from `allocator`, hands each with its number to `write`, and returns the part
    /// that is in the inode. `seed` is the checksum seed of the inode.
    pub(super) fn build<E>(
        &self,
        allocator: &mut Allocator<'_>,
        seed: u32,
        mut write: impl FnMut(u64, &[u8; BLOCK]) -> Result<(), E>,
    ) -> Result<[u8; 60], E> {
        let mut level: Vec<(u32, [u8; ENTRY_SIZE])> =
            self.list.iter().map(|extent| (extent.logical, extent.encode())).collect();
        let mut depth = 0;
        while level.len() > INLINE_ENTRIES {
            let mut above = Vec::with_capacity(level.len().div_ceil(BLOCK_ENTRIES));
            for entries in level.chunks(BLOCK_ENTRIES) {
                let mut block = [0; BLOCK];
                put_entries(&mut block, entries, BLOCK_ENTRIES, depth);
                let checksum = crc32c(seed, &block[..BLOCK - 4]);
                put(&mut block, BLOCK - 4, checksum.to_le_bytes());
                let number = allocator.take_one();
                write(number, &block)?;
                let logical = entries[0].0;
                above.push((logical, encode_index(logical, number)));
            }
            level = above;
            depth += 1;
        }
        let mut root = [0; 60];
        put_entries(&mut root, &level, INLINE_ENTRIES, depth);
        Ok(root)
    }
}

impl Extent {
    fn encode(&self) -> [u8; ENTRY_SIZE] {
        let mut bytes = [0; ENTRY_SIZE];
        put(&mut bytes, 0, self.logical.to_le_bytes());
        put(&mut bytes, 4, self.length.to_le_bytes());
        put(&mut bytes, 6, low16(high32(self.physical)).to_le_bytes());
        put(&mut bytes, 8, low32(self.physical).to_le_bytes());
        bytes
    }
}

fn encode_index(logical: u32, block: u64) -> [u8; ENTRY_SIZE] {
    let mut bytes = [0; ENTRY_SIZE];
    put(&mut bytes, 0, logical.to_le_bytes());
    put(&mut bytes, 4, low32(block).to_le_bytes());
    put(&mut bytes, 8, low16(high32(block)).to_le_bytes());
    bytes
}

fn put_entries(bytes: &mut [u8], entries: &[(u32, [u8; ENTRY_SIZE])], maximum: usize, depth: u16) {
    put(bytes, 0, MAGIC.to_le_bytes());
    put(bytes, 2, (entries.len() as u16).to_le_bytes());
    put(bytes, 4, (maximum as u16).to_le_bytes());
    put(bytes, 6, depth.to_le_bytes());
    for (position, (_, entry)) in entries.iter().enumerate() {
        put(bytes, (position + 1) * ENTRY_SIZE, *entry);
    }
}
