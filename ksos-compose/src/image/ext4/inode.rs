//! Inodes (kernel documentation, "Index Nodes").

use super::{Ext4Error, FileSystem, extent, joined, u16_at, u32_at};

const FLAG_ENCRYPTED: u32 = 0x800;
pub(super) const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_INLINE: u32 = 0x1000_0000;
/// The longest target of a symbolic link, in bytes.
const LONGEST_TARGET: u64 = 4095;

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// A character device.
    CharacterDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Its number: names with the same number are one file.
    pub number: u32,
    /// What it is.
    pub kind: Kind,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in seconds since 1970.
    pub mtime: i64,
    /// Size in bytes.
    pub size: u64,
    pub(super) flags: u32,
    pub(super) area: [u8; 60],
}

impl Inode {
    pub(super) fn read(fs: &FileSystem<'_>, number: u32) -> Result<Self, Ext4Error> {
        let fail = |fault| Ext4Error::Inode { inode: number, fault };
        let mut bytes = [0; 256];
        let size = fs.superblock.inode_size.min(256) as usize;
        fs.part.read_exact_at(&mut bytes[..size], fs.inode_position(number)?)?;
        let flags = u32_at(&bytes, 0x20);
        if flags & (FLAG_ENCRYPTED | FLAG_INLINE) != 0 {
            return Err(Ext4Error::Unsupported("encryption and inline data are"));
        }
        let mode = u16_at(&bytes, 0);
        let mut area = [0; 60];
        area.copy_from_slice(&bytes[0x28..0x28 + 60]);
        let mut inode = Inode {
            number,
            kind: Kind::File,
            mode: u32::from(mode) & 0o7777,
            uid: u32::from(u16_at(&bytes, 0x02)) | u32::from(u16_at(&bytes, 0x78)) << 16,
            gid: u32::from(u16_at(&bytes, 0x18)) | u32::from(u16_at(&bytes, 0x7A)) << 16,
            mtime: time(&bytes),
            size: joined(u32_at(&bytes, 0x04), u32_at(&bytes, 0x6C)),
            flags,
            area,
        };
        let (major, minor) = device(&area);
        inode.kind = match mode >> 12 {
            0x1 => Kind::Fifo,
            0x2 => Kind::CharacterDevice { major, minor },
            0x4 => Kind::Directory,
            0x6 => Kind::BlockDevice { major, minor },
            0x8 => Kind::File,
            0xA => Kind::Symlink(inode.target(fs)?),
            0xC => Kind::Socket,
            _ => return Err(fail("it has no kind")),
        };
        Ok(inode)
    }

    fn target(&self, fs: &FileSystem<'_>) -> Result<Vec<u8>, Ext4Error> {
        if self.size == 0 || self.size > LONGEST_TARGET {
            return Err(Ext4Error::Inode { inode: self.number, fault: "the length of a symbolic link" });
        }
        let size = self.size as usize;
        if self.flags & FLAG_EXTENTS == 0 && size < self.area.len() {
            return Ok(self.area[..size].to_vec());
        }
        let mut target = vec![0; size];
        super::FileReader::new(fs, self)?.read_exact_at(&mut target, 0)?;
        Ok(target)
    }

    /// Returns the extents of the content.
    pub(super) fn extents(&self, fs: &FileSystem<'_>) -> Result<Vec<extent::Extent>, Ext4Error> {
        match self.flags & FLAG_EXTENTS != 0 {
            true => extent::collect(fs, self),
            false if self.size == 0 => Ok(Vec::new()),
            false => Err(Ext4Error::Unsupported("files without extents are")),
        }
    }
}

/// Returns the modification time: signed 32 bits, and two more where the inode has room for them.
fn time(bytes: &[u8; 256]) -> i64 {
    let low = i64::from(u32_at(bytes, 0x10) as i32);
    // Fields in use behind the first 128 bytes; 0 in an inode of 128 bytes.
    match u16_at(bytes, 0x80) {
        12.. => low + (i64::from(u32_at(bytes, 0x88) & 3) << 32),
        _ => low,
    }
}

/// Returns major and minor number as `old_decode_dev` and `new_decode_dev` of the kernel have them.
fn device(area: &[u8; 60]) -> (u32, u32) {
    let (old, new) = (u32_at(area, 0), u32_at(area, 4));
    match old {
        0 => ((new >> 8) & 0xfff, (new & 0xff) | ((new >> 12) & 0xf_ff00)),
        old => ((old >> 8) & 0xff, old & 0xff),
    }
}
