//! Where the fixed structures are: block groups, descriptor tables, bitmaps and inode tables.
//!
//! Groups have 32,768 blocks. Sixteen groups form a flexible group whose bitmaps and inode tables stand together after
//! the descriptors of its first group (kernel documentation, "Flexible Block Groups"), so that an image that is hardly
//! filled touches few places. Superblock copies are in groups 0, 1 and the powers of 3, 5 and 7 (`sparse_super`).

use std::ops::Range;

use super::extent::Allocator;
use super::{Error, Options};

/// Bytes of a block.
pub(super) const BLOCK: usize = 4096;
/// Blocks of a full group: one bit each in a bitmap block.
pub(super) const BLOCKS_PER_GROUP: u64 = 8 * BLOCK as u64;
/// Bytes of an inode in the inode table.
pub(super) const INODE_SIZE: usize = 256;
/// Bytes of a group descriptor (`64bit`).
pub(super) const DESCRIPTOR_SIZE: usize = 64;
/// Binary logarithm of the groups in a flexible group.
pub(super) const LOG_GROUPS_PER_FLEX: u8 = 4;

/// Inodes in a block of an inode table.
pub(super) const INODES_PER_BLOCK: u64 = (BLOCK / INODE_SIZE) as u64;
const BYTES_PER_INODE: u64 = 16384;
/// Blocks of the largest file system.
pub(super) const MAXIMUM_BLOCKS: u64 = 1 << 32;
/// What the last group must hold beyond its own structures to be worth having; the value that mke2fs uses.
const LAST_GROUP_MINIMUM: u64 = 50;

/// Block numbers of the structures that belong to one group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) block_bitmap: u64,
    pub(super) inode_bitmap: u64,
    pub(super) inode_table: u64,
}

/// The fixed structures of one file system.
#[derive(Debug)]
pub(super) struct Geometry {
    /// Blocks of the file system; a last group too small to be of use is left out.
    pub(super) blocks: u64,
    pub(super) groups: u32,
    pub(super) inodes_per_group: u32,
    pub(super) inode_table_blocks: u64,
    pub(super) descriptor_blocks: u64,
    /// Blocks of the journal; 0 when there is none.
    pub(super) journal_blocks: u64,
    /// One per group.
    pub(super) places: Vec<Places>,
    /// Blocks of all fixed structures, sorted, disjoint.
    pub(super) reserved: Vec<Range<u64>>,
}

/// Tells whether `group` has a copy of the superblock and the descriptors (`sparse_super`).
pub(super) fn has_superblock(group: u32) -> bool {
    let power_of = |base: u32| {
        let mut rest = group;
        while rest.is_multiple_of(base) {
            rest /= base;
        }
        rest == 1
    };
    group <= 1 || power_of(3) || power_of(5) || power_of(7)
}

/// Returns the journal size in blocks that mke2fs takes for a file system of `blocks`; 0 is none.
fn default_journal_blocks(blocks: u64) -> u64 {
    match blocks >> 10 {
        0..2 => 0,
        2..32 => 1024,
        32..256 => 4096,
        256..512 => 8192,
        512..4096 => 16384,
        4096..8192 => 32768,
        8192..16384 => 65536,
        16384..32768 => 131_072,
        _ => 262_144,
    }
}

impl Geometry {
    /// Lays out a file system of `options.size` bytes with at least `inodes_needed` inodes.
    ///
    /// # Errors
    /// When the size is out of range, or the inodes do not fit or are fewer than needed.
    pub(super) fn new(options: &Options, inodes_needed: u64) -> Result<Self, Error> {
        if !options.size.is_multiple_of(BLOCK as u64) {
            return Err(Error::SizeNotWholeBlocks { size: options.size });
        }
        let mut blocks = options.size / BLOCK as u64;
        if blocks > MAXIMUM_BLOCKS {
            return Err(Error::SizeTooLarge { size: options.size, limit: MAXIMUM_BLOCKS * BLOCK as u64 });
        }
        loop {
            let geometry = Self::without_places(options, blocks, inodes_needed)?;
            let rest = blocks % BLOCKS_PER_GROUP;
            let overhead = geometry.overhead(geometry.groups.saturating_sub(1));
            if rest == 0 || rest >= overhead + LAST_GROUP_MINIMUM {
                return Ok(geometry.with_places());
            }
            if geometry.groups <= 1 {
                return Err(Error::SizeTooSmall { size: options.size });
            }
            blocks -= rest;
        }
    }

    fn without_places(options: &Options, blocks: u64, inodes_needed: u64) -> Result<Self, Error> {
        if blocks == 0 {
            return Err(Error::SizeTooSmall { size: options.size });
        }
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let inodes = match options.inodes {
            Some(inodes) => u64::from(inodes),
            None => inodes_needed.max(blocks * BLOCK as u64 / BYTES_PER_INODE),
        };
        let inodes_per_group = inodes.div_ceil(groups).next_multiple_of(INODES_PER_BLOCK).max(INODES_PER_BLOCK);
        let available = inodes_per_group * groups;
        if inodes_per_group > BLOCKS_PER_GROUP || available > u64::from(u32::MAX) {
            return Err(Error::TooManyInodes { inodes, limit: (groups * BLOCKS_PER_GROUP).min(u64::from(u32::MAX)) });
        }
        if available < inodes_needed {
            return Err(Error::TooFewInodes { needed: inodes_needed, available });
        }
        let journal_blocks = match options.journal {
            None => default_journal_blocks(blocks),
            Some(bytes) => bytes / BLOCK as u64,
        };
        Ok(Geometry {
            blocks,
            groups: groups as u32,
            inodes_per_group: inodes_per_group as u32,
            inode_table_blocks: inodes_per_group / INODES_PER_BLOCK,
            descriptor_blocks: (groups * DESCRIPTOR_SIZE as u64).div_ceil(BLOCK as u64),
            journal_blocks,
            places: Vec::new(),
            reserved: Vec::new(),
        })
    }

    /// Returns the first block of `group`.
    pub(super) fn start(&self, group: u32) -> u64 {
        u64::from(group) * BLOCKS_PER_GROUP
    }

    /// Returns the blocks of `group`; only the last group can be short.
    pub(super) fn group_blocks(&self, group: u32) -> u64 {
        (self.blocks - self.start(group)).min(BLOCKS_PER_GROUP)
    }

    /// Returns the blocks of the superblock copy and the descriptors at the start of `group`.
    pub(super) fn base(&self, group: u32) -> u64 {
        if has_superblock(group) { 1 + self.descriptor_blocks } else { 0 }
    }

    /// Returns all inodes of the file system.
    pub(super) fn inodes(&self) -> u32 {
        self.groups * self.inodes_per_group
    }

    /// Returns the blocks that contents and directories can have, the journal included.
    pub(super) fn available(&self) -> u64 {
        self.blocks - self.reserved.iter().map(|range| range.end - range.start).sum::<u64>()
    }

    /// Returns an allocator of all blocks that are not reserved.
    pub(super) fn allocator(&self) -> Allocator<'_> {
        Allocator::new(&self.reserved)
    }

    fn overhead(&self, group: u32) -> u64 {
        self.base(group) + 2 + self.inode_table_blocks
    }

    fn with_places(mut self) -> Self {
        let copies: Vec<Range<u64>> = (0..self.groups)
            .filter(|group| has_superblock(*group))
            .map(|group| self.start(group)..self.start(group) + self.base(group))
            .collect();
        let mut reserved = copies.clone();
        let mut first = 0;
        while first < self.groups {
            let end = (first + (1 << LOG_GROUPS_PER_FLEX)).min(self.groups);
            let mut cursor = self.start(first);
            let mut place = |blocks| {
                let start = place_clear_of(&copies, cursor, blocks);
                cursor = start + blocks;
                reserved.push(start..cursor);
                start
            };
            let block_bitmaps: Vec<u64> = (first..end).map(|_| place(1)).collect();
            let inode_bitmaps: Vec<u64> = (first..end).map(|_| place(1)).collect();
            for (block_bitmap, inode_bitmap) in block_bitmaps.into_iter().zip(inode_bitmaps) {
                let inode_table = place(self.inode_table_blocks);
                self.places.push(Places { block_bitmap, inode_bitmap, inode_table });
            }
            first = end;
        }
        self.reserved = merge(reserved);
        self
    }
}

/// Returns the first block at or after `start` from where `blocks` blocks touch none of the sorted `copies`.
fn place_clear_of(copies: &[Range<u64>], mut start: u64, blocks: u64) -> u64 {
    let from = copies.partition_point(|copy| copy.end <= start);
    for copy in &copies[from..] {
        if copy.start >= start + blocks {
            break;
        }
        start = copy.end;
    }
    start
}

fn merge(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => merged.push(range),
        }
    }
    merged
}
