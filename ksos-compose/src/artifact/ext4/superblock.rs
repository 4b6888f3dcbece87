//! Superblock, group descriptors and the journal's superblock (kernel documentation, "Super Block", "Block Group
//! Descriptors", "Journal (jbd2)").

use super::Options;
use super::bytes::{high16, high32, low16, low32, put};
use super::crc32c::crc32c;
use super::directory::HASH_HALF_MD4;
use super::geometry::{BLOCK, BLOCKS_PER_GROUP, DESCRIPTOR_SIZE, Geometry, INODE_SIZE, LOG_GROUPS_PER_FLEX, Places};
use super::inode::{EXTRA_SIZE, JOURNAL, LOST_FOUND};

/// Bytes of a superblock.
pub(super) const SUPERBLOCK_SIZE: usize = 1024;

const COMPATIBLE_JOURNAL: u32 = 0x4;
/// `ext_attr`, `dir_index`.
const COMPATIBLE: u32 = 0x8 | 0x20;
/// `filetype`, `extents`, `64bit`, `flex_bg`.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x80 | 0x200;
/// `sparse_super`, `large_file`, `huge_file`, `dir_nlink`, `extra_isize`, `metadata_csum`.
const READ_ONLY_COMPATIBLE: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;

/// The inode table of the group is not initialised beyond what is in use.
pub(super) const INODE_UNINITIALISED: u16 = 1;
/// The block bitmap is not initialised: only the group's own structures are in use.
pub(super) const BLOCK_UNINITIALISED: u16 = 2;
/// The unused part of the inode table is zero.
pub(super) const INODE_ZEROED: u16 = 4;

/// What a superblock says beyond the options and the geometry.
#[derive(Debug, Clone)]
pub(super) struct Totals {
    pub(super) free_blocks: u64,
    pub(super) free_inodes: u32,
    /// The journal inode's extent tree root and size, kept a second time; `None` without a journal.
    pub(super) journal: Option<([u8; 60], u64)>,
}

/// Returns the superblock copy for `group`.
pub(super) fn superblock(options: &Options, geometry: &Geometry, totals: &Totals, group: u32) -> [u8; SUPERBLOCK_SIZE] {
    let mut bytes = [0; SUPERBLOCK_SIZE];
    put_counts(&mut bytes, options, geometry, totals);
    put_features(&mut bytes, options, totals);
    put_times(&mut bytes, options.epoch);
    put(&mut bytes, 0x5A, low16(group).to_le_bytes());
    let checksum = crc32c(!0, &bytes[..0x3FC]);
    put(&mut bytes, 0x3FC, checksum.to_le_bytes());
    bytes
}

fn put_counts(bytes: &mut [u8], options: &Options, geometry: &Geometry, totals: &Totals) {
    let reserved = (u128::from(geometry.blocks) * u128::from(options.reserved_percent) / 100) as u64;
    put(bytes, 0x00, geometry.inodes().to_le_bytes());
    put(bytes, 0x04, low32(geometry.blocks).to_le_bytes());
    put(bytes, 0x08, low32(reserved).to_le_bytes());
    put(bytes, 0x0C, low32(totals.free_blocks).to_le_bytes());
    put(bytes, 0x10, totals.free_inodes.to_le_bytes());
    put(bytes, 0x18, (BLOCK.ilog2() - 10).to_le_bytes());
    put(bytes, 0x1C, (BLOCK.ilog2() - 10).to_le_bytes());
    put(bytes, 0x20, (BLOCKS_PER_GROUP as u32).to_le_bytes());
    put(bytes, 0x24, (BLOCKS_PER_GROUP as u32).to_le_bytes());
    put(bytes, 0x28, geometry.inodes_per_group.to_le_bytes());
    put(bytes, 0x150, high32(geometry.blocks).to_le_bytes());
    put(bytes, 0x154, high32(reserved).to_le_bytes());
    put(bytes, 0x158, high32(totals.free_blocks).to_le_bytes());
    let overhead = geometry.blocks - geometry.available() + geometry.journal_blocks;
    put(bytes, 0x248, low32(overhead).to_le_bytes());
}

fn put_features(bytes: &mut [u8], options: &Options, totals: &Totals) {
    let journal = if totals.journal.is_some() { COMPATIBLE_JOURNAL } else { 0 };
    put(bytes, 0x36, u16::MAX.to_le_bytes()); // never check because of the number of mounts
    put(bytes, 0x38, 0xEF53u16.to_le_bytes());
    put(bytes, 0x3A, 1u16.to_le_bytes()); // cleanly unmounted
    put(bytes, 0x3C, 1u16.to_le_bytes()); // on errors: continue
    put(bytes, 0x4C, 1u32.to_le_bytes()); // dynamic revision
    put(bytes, 0x54, LOST_FOUND.to_le_bytes()); // first inode that is not reserved
    put(bytes, 0x58, (INODE_SIZE as u16).to_le_bytes());
    put(bytes, 0x5C, (COMPATIBLE | journal).to_le_bytes());
    put(bytes, 0x60, INCOMPATIBLE.to_le_bytes());
    put(bytes, 0x64, READ_ONLY_COMPATIBLE.to_le_bytes());
    put(bytes, 0x68, options.uuid);
    bytes[0x78..0x78 + options.label.len()].copy_from_slice(options.label.as_bytes());
    put(bytes, 0xEC, options.hash_seed);
    bytes[0xFC] = HASH_HALF_MD4;
    put(bytes, 0xFE, (DESCRIPTOR_SIZE as u16).to_le_bytes());
    put(bytes, 0x100, 0xCu32.to_le_bytes()); // mount with user_xattr, acl
    put(bytes, 0x15C, EXTRA_SIZE.to_le_bytes());
    put(bytes, 0x15E, EXTRA_SIZE.to_le_bytes());
    put(bytes, 0x160, 2u32.to_le_bytes()); // directory hashes over unsigned bytes
    bytes[0x174] = LOG_GROUPS_PER_FLEX;
    bytes[0x175] = 1; // checksums are CRC-32C
    if let Some((area, size)) = &totals.journal {
        put(bytes, 0xE0, JOURNAL.to_le_bytes());
        bytes[0xFD] = 1; // the copy that follows is valid
        put(bytes, 0x10C, *area);
        put(bytes, 0x10C + 60, high32(*size).to_le_bytes());
        put(bytes, 0x10C + 64, low32(*size).to_le_bytes());
    }
}

/// Writes creation, write and check time, each with its upper byte elsewhere.
fn put_times(bytes: &mut [u8], epoch: u64) {
    for (low, high) in [(0x30, 0x274), (0x108, 0x276), (0x40, 0x277)] {
        put(bytes, low, low32(epoch).to_le_bytes());
        bytes[high] = (high32(epoch) & 0xff) as u8;
    }
}

/// One group's descriptor before it is encoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptor {
    pub(super) places: Places,
    pub(super) free_blocks: u32,
    pub(super) free_inodes: u32,
    pub(super) directories: u32,
    pub(super) flags: u16,
    /// Checksum of the block bitmap; 0 when it is not initialised.
    pub(super) block_bitmap_checksum: u32,
    /// Checksum of the inode bitmap; 0 when it is not initialised.
    pub(super) inode_bitmap_checksum: u32,
    /// Inodes after the last one in use.
    pub(super) unused_inodes: u32,
}

impl Descriptor {
    /// Returns the stored form for group number `group`; `seed` is the checksum seed of the file system.
    pub(super) fn encode(&self, group: u32, seed: u32) -> [u8; DESCRIPTOR_SIZE] {
        let mut bytes = [0; DESCRIPTOR_SIZE];
        let blocks = [self.places.block_bitmap, self.places.inode_bitmap, self.places.inode_table];
        for (position, block) in blocks.into_iter().enumerate() {
            put(&mut bytes, position * 4, low32(block).to_le_bytes());
            put(&mut bytes, 0x20 + position * 4, high32(block).to_le_bytes());
        }
        let split = [
            (0x0C, 0x2C, self.free_blocks),
            (0x0E, 0x2E, self.free_inodes),
            (0x10, 0x30, self.directories),
            (0x18, 0x38, self.block_bitmap_checksum),
            (0x1A, 0x3A, self.inode_bitmap_checksum),
            (0x1C, 0x32, self.unused_inodes),
        ];
        for (low, high, value) in split {
            put(&mut bytes, low, low16(value).to_le_bytes());
            put(&mut bytes, high, high16(value).to_le_bytes());
        }
        put(&mut bytes, 0x12, self.flags.to_le_bytes());
        let checksum = crc32c(crc32c(seed, &group.to_le_bytes()), &bytes);
        put(&mut bytes, 0x1E, low16(checksum).to_le_bytes());
        bytes
    }
}

/// Returns the first block of an empty journal of `blocks` blocks; its numbers are big-endian.
pub(super) fn journal_superblock(blocks: u64) -> [u8; SUPERBLOCK_SIZE] {
    let mut bytes = [0; SUPERBLOCK_SIZE];
    put(&mut bytes, 0x00, 0xC03B_3998u32.to_be_bytes());
    put(&mut bytes, 0x04, 4u32.to_be_bytes()); // superblock, version 2
    put(&mut bytes, 0x0C, (BLOCK as u32).to_be_bytes());
    put(&mut bytes, 0x10, low32(blocks).to_be_bytes());
    put(&mut bytes, 0x14, 1u32.to_be_bytes()); // first block of the log
    put(&mut bytes, 0x18, 1u32.to_be_bytes()); // first commit expected
    put(&mut bytes, 0x40, 1u32.to_be_bytes()); // users of the journal
    bytes
}
