//! The superblock and the group descriptors (kernel documentation, "Super Block", "Block Group Descriptors").

use super::{Ext4Error, FileSystem, Part, joined, u16_at, u32_at};

pub(super) const MAGIC: u16 = 0xEF53;
const FILE_TYPE: u32 = 0x2;
const RECOVER: u32 = 0x4;
const EXTENTS: u32 = 0x40;
const WIDE: u32 = 0x80;
const FLEXIBLE_GROUPS: u32 = 0x200;
const CHECKSUM_SEED: u32 = 0x2000;

#[derive(Debug)]
pub(super) struct Superblock {
    /// In bytes.
    pub(super) block_size: u64,
    pub(super) blocks: u64,
    pub(super) inodes: u32,
    pub(super) inodes_per_group: u32,
    /// In bytes.
    pub(super) inode_size: u64,
    first_data_block: u64,
    descriptor_size: u64,
    groups: u64,
}

impl Superblock {
    pub(super) fn read(part: Part<'_>) -> Result<Self, Ext4Error> {
        let mut bytes = [0; 1024];
        if part.size() < 2048 {
            return Err(Ext4Error::NotExt4);
        }
        part.read_exact_at(&mut bytes, 1024)?;
        if u16_at(&bytes, 0x38) != MAGIC {
            return Err(Ext4Error::NotExt4);
        }
        let features = u32_at(&bytes, 0x60);
        check_features(u32_at(&bytes, 0x4C), features)?;
        let log_block_size = u32_at(&bytes, 0x18);
        if log_block_size > 2 {
            return Err(Ext4Error::Unsupported("blocks of more than 4 KiB are"));
        }
        let wide = features & WIDE != 0;
        let superblock = Superblock {
            block_size: 1024 << log_block_size,
            blocks: joined(u32_at(&bytes, 0x04), if wide { u32_at(&bytes, 0x150) } else { 0 }),
            inodes: u32_at(&bytes, 0x00),
            inodes_per_group: u32_at(&bytes, 0x28),
            inode_size: u64::from(u16_at(&bytes, 0x58)),
            first_data_block: u64::from(u32_at(&bytes, 0x14)),
            descriptor_size: if wide { u64::from(u16_at(&bytes, 0xFE)) } else { 32 },
            groups: 0,
        };
        superblock.checked(part.size(), u64::from(u32_at(&bytes, 0x20)), if wide { 64 } else { 32 })
    }

    fn checked(mut self, size: u64, blocks_per_group: u64, descriptor_minimum: u64) -> Result<Self, Ext4Error> {
        let damaged = |what| Err(Ext4Error::Damaged(what));
        if self.blocks > size / self.block_size {
            return damaged("it claims more blocks than there are");
        }
        if self.first_data_block != u64::from(self.block_size == 1024) || self.blocks <= self.first_data_block {
            return damaged("the first data block");
        }
        if blocks_per_group == 0 || blocks_per_group > 8 * self.block_size {
            return damaged("the blocks of a group");
        }
        if !(128..=self.block_size).contains(&self.inode_size) || !self.inode_size.is_power_of_two() {
            return damaged("the size of an inode");
        }
        if !(descriptor_minimum..=1024).contains(&self.descriptor_size) || !self.descriptor_size.is_power_of_two() {
            return damaged("the size of a group descriptor");
        }
        self.groups = (self.blocks - self.first_data_block).div_ceil(blocks_per_group);
        let inodes = u64::from(self.inodes_per_group) * self.groups;
        if self.inodes_per_group == 0 || u64::from(self.inodes) > inodes {
            return damaged("the inodes of a group");
        }
        Ok(self)
    }
}

fn check_features(revision: u32, features: u32) -> Result<(), Ext4Error> {
    if revision != 1 {
        return Err(Ext4Error::Unsupported("revisions other than 1 are"));
    }
    if features & RECOVER != 0 {
        return Err(Ext4Error::Unsupported("a journal that must be replayed is"));
    }
    if features & FILE_TYPE == 0 {
        return Err(Ext4Error::Unsupported("directory entries without a file type are"));
    }
    match features & !(FILE_TYPE | EXTENTS | WIDE | FLEXIBLE_GROUPS | CHECKSUM_SEED) {
        0 => Ok(()),
        _ => Err(Ext4Error::Unsupported("incompatible features beyond extents, 64bit and flex_bg are")),
    }
}

impl FileSystem<'_> {
    /// Returns the position in bytes of inode `number`.
    pub(super) fn inode_position(&self, number: u32) -> Result<u64, Ext4Error> {
        let superblock = &self.superblock;
        let index = number.checked_sub(1).filter(|_| number <= superblock.inodes);
        let index = index.ok_or(Ext4Error::Inode { inode: number, fault: "there is no such inode" })?;
        let group = u64::from(index / superblock.inodes_per_group);
        let table = self.inode_table(group)?;
        let offset = u64::from(index % superblock.inodes_per_group) * superblock.inode_size;
        let position = table.checked_mul(superblock.block_size).and_then(|start| start.checked_add(offset));
        let end = superblock.blocks * superblock.block_size;
        position
            .filter(|position| *position <= end - superblock.inode_size)
            .ok_or(Ext4Error::Damaged("an inode table behind the end"))
    }

    fn inode_table(&self, group: u64) -> Result<u64, Ext4Error> {
        let superblock = &self.superblock;
        let mut descriptor = [0; 64];
        let used = superblock.descriptor_size.min(64) as usize;
        let start = (superblock.first_data_block + 1) * superblock.block_size;
        // `group` is below 2^32, as inode numbers are.
        self.part.read_exact_at(&mut descriptor[..used], start + group * superblock.descriptor_size)?;
        match joined(u32_at(&descriptor, 0x8), u32_at(&descriptor, 0x28)) {
            0 => Err(Ext4Error::Damaged("a group without inode table")),
            table => Ok(table),
        }
    }
}
