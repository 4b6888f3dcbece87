//! Inodes (kernel documentation, "Index Nodes"): 256 bytes each, with nanosecond fields and a checksum.

use super::bytes::{high16, high32, low16, low32, put};
use super::crc32c::crc32c;
use super::geometry::{BLOCK, INODE_SIZE};

/// The root directory.
pub(super) const ROOT: u32 = 2;
/// The journal.
pub(super) const JOURNAL: u32 = 8;
/// The first inode that is not reserved; `lost+found` has it.
pub(super) const LOST_FOUND: u32 = 11;

/// The inode has an extent tree.
pub(super) const FLAG_EXTENTS: u32 = 0x8_0000;
/// The directory has a hash tree.
pub(super) const FLAG_INDEX: u32 = 0x1000;

/// Fields in use behind the first 128 bytes of an inode.
pub(super) const EXTRA_SIZE: u16 = 32;
/// Room for extended attributes in an inode.
pub(super) const ATTRIBUTE_ROOM: usize = INODE_SIZE - 128 - EXTRA_SIZE as usize;

/// Times that 34 bits, counted from 1901, can hold.
pub(super) const TIMES: std::ops::RangeInclusive<i64> = -(1 << 31)..=(1 << 34) - (1 << 31) - 1;

/// The kind bits of `i_mode`, with the value that directory entries use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    CharacterDevice,
    BlockDevice,
    Fifo,
    Socket,
    Symlink,
}

impl Kind {
    /// Returns the bits above the permissions in `i_mode`.
    pub(super) fn mode_bits(self) -> u16 {
        match self {
            Kind::Fifo => 0x1000,
            Kind::CharacterDevice => 0x2000,
            Kind::Directory => 0x4000,
            Kind::BlockDevice => 0x6000,
            Kind::File => 0x8000,
            Kind::Symlink => 0xA000,
            Kind::Socket => 0xC000,
        }
    }

    /// Returns the file type in a directory entry (`filetype`).
    pub(super) fn entry_type(self) -> u8 {
        match self {
            Kind::File => 1,
            Kind::Directory => 2,
            Kind::CharacterDevice => 3,
            Kind::BlockDevice => 4,
            Kind::Fifo => 5,
            Kind::Socket => 6,
            Kind::Symlink => 7,
        }
    }
}

/// One inode before it is encoded.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    /// Kind and permission bits.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Bytes of content.
    pub(super) size: u64,
    pub(super) links: u16,
    /// Blocks in use, those of extent tree and extended attributes included.
    pub(super) blocks: u64,
    pub(super) flags: u32,
    /// Extent tree root, symbolic link target or device number.
    pub(super) area: [u8; 60],
    /// Modification and access time, seconds since 1970.
    pub(super) modified: i64,
    /// Change and creation time, seconds since 1970.
    pub(super) created: i64,
    /// Block of extended attributes; 0 when there is none.
    pub(super) attribute_block: u64,
    /// Extended attributes behind the fields.
    pub(super) attributes: [u8; ATTRIBUTE_ROOM],
}

/// Returns the checksum seed of inode `number`, whose generation is always 0.
pub(super) fn seed(file_system_seed: u32, number: u32) -> u32 {
    crc32c(crc32c(file_system_seed, &number.to_le_bytes()), &0u32.to_le_bytes())
}

impl Inode {
    /// Returns the stored form; `seed` is what [`seed`] returns for it.
    pub(super) fn encode(&self, seed: u32) -> [u8; INODE_SIZE] {
        let mut bytes = [0; INODE_SIZE];
        let (modified, modified_extra) = split_time(self.modified);
        let (created, created_extra) = split_time(self.created);
        let sectors = self.blocks * (BLOCK as u64 / 512);
        put(&mut bytes, 0x00, self.mode.to_le_bytes());
        put(&mut bytes, 0x02, low16(self.uid).to_le_bytes());
        put(&mut bytes, 0x04, low32(self.size).to_le_bytes());
        put(&mut bytes, 0x08, modified);
        put(&mut bytes, 0x0C, created);
        put(&mut bytes, 0x10, modified);
        put(&mut bytes, 0x18, low16(self.gid).to_le_bytes());
        put(&mut bytes, 0x1A, self.links.to_le_bytes());
        put(&mut bytes, 0x1C, low32(sectors).to_le_bytes());
        put(&mut bytes, 0x20, self.flags.to_le_bytes());
        put(&mut bytes, 0x28, self.area);
        put(&mut bytes, 0x68, low32(self.attribute_block).to_le_bytes());
        put(&mut bytes, 0x6C, high32(self.size).to_le_bytes());
        put(&mut bytes, 0x74, low16(high32(sectors)).to_le_bytes());
        put(&mut bytes, 0x76, low16(high32(self.attribute_block)).to_le_bytes());
        put(&mut bytes, 0x78, high16(self.uid).to_le_bytes());
        put(&mut bytes, 0x7A, high16(self.gid).to_le_bytes());
        put(&mut bytes, 0x80, EXTRA_SIZE.to_le_bytes());
        put(&mut bytes, 0x84, created_extra);
        put(&mut bytes, 0x88, modified_extra);
        put(&mut bytes, 0x8C, modified_extra);
        put(&mut bytes, 0x90, created);
        put(&mut bytes, 0x94, created_extra);
        put(&mut bytes, 128 + EXTRA_SIZE as usize, self.attributes);
        let checksum = crc32c(seed, &bytes);
        put(&mut bytes, 0x7C, low16(checksum).to_le_bytes());
        put(&mut bytes, 0x82, high16(checksum).to_le_bytes());
        bytes
    }
}

/// Splits a time of [`TIMES`] into the signed 32-bit field and the field whose lowest two bits extend it.
fn split_time(seconds: i64) -> ([u8; 4], [u8; 4]) {
    let low = seconds as i32;
    let epoch = ((seconds - i64::from(low)) >> 32) & 3;
    (low.to_le_bytes(), (epoch as u32).to_le_bytes())
}

/// Returns the inode's area for a device, or `None` when the numbers do not fit the kernel's 12 and 20 bits.
pub(super) fn device_area(major: u32, minor: u32) -> Option<[u8; 60]> {
    if major > 0xfff || minor > 0xf_ffff {
        return None;
    }
    let mut area = [0; 60];
    if major < 256 && minor < 256 {
        put(&mut area, 0, ((major << 8) | minor).to_le_bytes());
    } else {
        let number = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
        put(&mut area, 4, number.to_le_bytes());
    }
    Some(area)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_split() {
        for seconds in [0, -1, 1, *TIMES.start(), *TIMES.end(), 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 33] {
            let (low, extra) = split_time(seconds);
            // The kernel's rule (kernel documentation, "Inode Timestamps"): signed 32 bits plus the extra bits.
            let back = i64::from(i32::from_le_bytes(low)) + (i64::from(u32::from_le_bytes(extra) & 3) << 32);
            assert_eq!(back, seconds);
        }
    }

    #[test]
    fn device_numbers_too_large_for_the_kernel_are_refused() {
        assert!(device_area(0xfff, 0xf_ffff).is_some());
        assert!(device_area(0x1000, 0).is_none());
        assert!(device_area(0, 0x10_0000).is_none());
    }
}
