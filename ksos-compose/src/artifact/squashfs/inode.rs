//! Stored inodes. The basic form is used wherever it can express the inode, the extended one elsewhere.

use super::Error;
use super::data::Placement;
use super::directory::{Listing, table_offset};

/// No fragment, and no extended attributes.
pub const NONE: u32 = u32::MAX;

/// Added to a basic type, gives the extended one (`SQUASHFS_LDIR_TYPE` and on).
const EXTENDED: u16 = 7;

/// Basic inode types.
pub mod kind {
    /// Directory.
    pub const DIRECTORY: u16 = 1;
    /// Regular file.
    pub const FILE: u16 = 2;
    /// Symbolic link.
    pub const SYMLINK: u16 = 3;
    /// Block device.
    pub const BLOCK_DEVICE: u16 = 4;
    /// Character device.
    pub const CHARACTER_DEVICE: u16 = 5;
    /// Named pipe.
    pub const FIFO: u16 = 6;
    /// Socket.
    pub const SOCKET: u16 = 7;
}

/// What every inode has.
#[derive(Debug, Clone, Copy)]
pub struct Common {
    /// Permission bits.
    pub mode: u32,
    /// Index of the owner in the ID table.
    pub uid: u16,
    /// Index of the group in the ID table.
    pub gid: u16,
    /// Modification time.
    pub mtime: u32,
    /// Number of the inode.
    pub number: u32,
    /// Index of the extended attributes, or [`NONE`].
    pub xattrs: u32,
}

/// Bytes of an inode being made.
struct Bytes(Vec<u8>);

impl Bytes {
    fn new(common: &Common, basic: u16, extended: bool) -> Self {
        let kind = if extended { basic + EXTENDED } else { basic };
        let mut bytes = Bytes(Vec::with_capacity(64));
        bytes.u16(kind).u16(common.mode as u16 & 0o7777).u16(common.uid).u16(common.gid);
        bytes.u32(common.mtime).u32(common.number);
        bytes
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }
}

/// Returns the inode of a directory with `links` links below the directory with inode number `parent`.
///
/// # Errors
/// When the directory table is larger than 4 GiB.
pub fn directory(common: &Common, links: u32, parent: u32, listing: &Listing) -> Result<Vec<u8>, Error> {
    let block = table_offset(listing.position.block)?;
    // The size counts three bytes for `.` and `..`, which are not stored.
    let size = listing.size + 3;
    let basic_size = u16::try_from(size).ok().filter(|_| common.xattrs == NONE && listing.index.is_empty());
    let mut bytes = Bytes::new(common, kind::DIRECTORY, basic_size.is_none());
    if let Some(size) = basic_size {
        bytes.u32(block).u32(links).u16(size).u16(listing.position.offset).u32(parent);
        return Ok(bytes.0);
    }
    bytes.u32(links).u32(size).u32(block).u32(parent);
    bytes.u16(listing.index.len() as u16).u16(listing.position.offset).u32(common.xattrs);
    for entry in &listing.index {
        bytes.u32(entry.offset).u32(entry.block).u32(entry.name.len() as u32 - 1);
        bytes.0.extend(entry.name.as_bytes());
    }
    Ok(bytes.0)
}

/// Returns the inode of a regular file of `size` bytes with `links` names; an empty one has no placement.
pub fn file(common: &Common, links: u32, size: u64, placement: Option<&Placement>) -> Vec<u8> {
    let (start, sparse, fragment, offset, sizes): (_, _, _, _, &[u32]) = match placement {
        None => (0, 0, NONE, 0, &[]),
        Some(Placement::Fragment { index, offset }) => (0, 0, *index, *offset, &[]),
        Some(Placement::Blocks { start, sizes, sparse }) => (*start, *sparse, NONE, 0, sizes),
    };
    let basic = (u32::try_from(start), u32::try_from(size));
    let plain = links == 1 && sparse == 0 && common.xattrs == NONE;
    let mut bytes = match basic {
        (Ok(start), Ok(size)) if plain => {
            let mut bytes = Bytes::new(common, kind::FILE, false);
            bytes.u32(start).u32(fragment).u32(offset).u32(size);
            bytes
        }
        _ => {
            let mut bytes = Bytes::new(common, kind::FILE, true);
            // A file of zeros alone would have no blocks at all and look damaged to some readers: as squashfs-tools
            // do, one byte counts as stored.
            let sparse = sparse.min(size.saturating_sub(1));
            bytes.u64(start).u64(size).u64(sparse).u32(links).u32(fragment).u32(offset).u32(common.xattrs);
            bytes
        }
    };
    sizes.iter().for_each(|size| bytes.0.extend(size.to_le_bytes()));
    bytes.0
}

/// Returns the inode of a symbolic link.
pub fn symlink(common: &Common, target: &str) -> Vec<u8> {
    let extended = common.xattrs != NONE;
    let mut bytes = Bytes::new(common, kind::SYMLINK, extended);
    bytes.u32(1).u32(target.len() as u32);
    bytes.0.extend(target.as_bytes());
    if extended {
        bytes.u32(common.xattrs);
    }
    bytes.0
}

/// Returns the inode of a device of basic type `basic`, or `None` when the number does not fit.
pub fn device(common: &Common, basic: u16, major: u32, minor: u32) -> Option<Vec<u8>> {
    if major > 0xfff || minor > 0xf_ffff {
        return None;
    }
    // Linux `new_encode_dev`: minor bits 0-7, major, minor bits 8-19.
    let number = minor & 0xff | major << 8 | (minor & !0xff) << 12;
    let mut bytes = special(common, basic);
    let at = bytes.len() - if common.xattrs == NONE { 0 } else { 4 };
    bytes.splice(at..at, number.to_le_bytes());
    Some(bytes)
}

/// Returns the inode of a named pipe or a socket.
pub fn special(common: &Common, basic: u16) -> Vec<u8> {
    let extended = common.xattrs != NONE;
    let mut bytes = Bytes::new(common, basic, extended);
    bytes.u32(1);
    if extended {
        bytes.u32(common.xattrs);
    }
    bytes.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: Common = Common { mode: 0o644, uid: 0, gid: 0, mtime: 0, number: 1, xattrs: NONE };

    #[test]
    fn device_numbers_are_encoded_as_linux_does() {
        let bytes = device(&COMMON, kind::BLOCK_DEVICE, 259, 0x12345).unwrap();
        assert_eq!(bytes[20..], (0x45_u32 | 259 << 8 | 0x123 << 20).to_le_bytes());
        assert_eq!(device(&COMMON, kind::BLOCK_DEVICE, 4096, 0), None);
        assert_eq!(device(&COMMON, kind::BLOCK_DEVICE, 0, 1 << 20), None);
        let extended = device(&Common { xattrs: 9, ..COMMON }, kind::CHARACTER_DEVICE, 1, 3).unwrap();
        assert_eq!(extended[..2], 12_u16.to_le_bytes());
        assert_eq!(extended[20..], [3, 1, 0, 0, 9, 0, 0, 0]);
    }

    #[test]
    fn only_what_needs_it_is_extended() {
        let kind = |bytes: Vec<u8>| bytes[0];
        let blocks = |start, sparse| Placement::Blocks { start, sizes: vec![1], sparse };
        assert_eq!(kind(file(&COMMON, 1, 5, Some(&blocks(96, 0)))), 2);
        assert_eq!(kind(file(&COMMON, 2, 5, Some(&blocks(96, 0)))), 9);
        assert_eq!(kind(file(&COMMON, 1, 5, Some(&blocks(1 << 32, 0)))), 9);
        assert_eq!(kind(file(&COMMON, 1, 1 << 32, Some(&blocks(96, 0)))), 9);
        assert_eq!(kind(file(&COMMON, 1, 5, Some(&blocks(96, 5)))), 9);
        assert_eq!(kind(file(&Common { xattrs: 0, ..COMMON }, 1, 0, None)), 9);
    }
}
