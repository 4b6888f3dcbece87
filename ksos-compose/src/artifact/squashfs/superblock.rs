//! The superblock (`struct squashfs_super_block`) and the numbers of compressors.

use super::Compression;

/// Size of the superblock in bytes.
pub const SIZE: usize = 96;
/// Start of a table that the image does not have.
pub const NO_TABLE: u64 = u64::MAX;

const MAGIC: u32 = 0x7371_7368;

/// Inode table, data, fragments and ID table are not compressed (`SQUASHFS_NOI | NOD | NOF`, and bit 11).
const FLAGS_UNCOMPRESSED: u16 = 0x0001 | 0x0002 | 0x0008 | 0x0100 | 0x0800;
const FLAG_DUPLICATES: u16 = 0x0040;
const FLAG_EXPORTABLE: u16 = 0x0080;
const FLAG_COMPRESSOR_OPTIONS: u16 = 0x0400;

/// What the superblock says.
#[derive(Debug, Clone)]
pub struct Superblock {
    /// Compression, also decides the flags.
    pub compression: Compression,
    /// Block size in bytes.
    pub block_size: u32,
    /// Time of the image.
    pub epoch: u32,
    /// Number of inodes.
    pub inodes: u32,
    /// Number of fragment blocks.
    pub fragments: u32,
    /// Number of different owner IDs.
    pub ids: u16,
    /// Reference of the root directory's inode.
    pub root_inode: u64,
    /// Size of the image without padding.
    pub bytes_used: u64,
    /// Starts of the tables, [`NO_TABLE`] when missing.
    pub id_table: u64,
    /// The same, for extended attributes.
    pub xattr_table: u64,
    /// The same, for inodes.
    pub inode_table: u64,
    /// The same, for directory listings.
    pub directory_table: u64,
    /// The same, for fragment blocks.
    pub fragment_table: u64,
    /// The same, for the inode references by number.
    pub export_table: u64,
}

impl Superblock {
    /// Returns the stored form.
    pub fn encode(&self) -> [u8; SIZE] {
        let mut bytes = Vec::with_capacity(SIZE);
        for value in [MAGIC, self.inodes, self.epoch, self.block_size, self.fragments] {
            bytes.extend(value.to_le_bytes());
        }
        let block_log = self.block_size.trailing_zeros() as u16;
        let compressor = compressor_id(self.compression);
        for value in [compressor, block_log, self.flags(), self.ids, 4, 0] {
            bytes.extend(value.to_le_bytes());
        }
        for value in [
            self.root_inode,
            self.bytes_used,
            self.id_table,
            self.xattr_table,
            self.inode_table,
            self.directory_table,
            self.fragment_table,
            self.export_table,
        ] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.try_into().expect("the fields have 96 bytes")
    }

    fn flags(&self) -> u16 {
        let mut flags = FLAG_DUPLICATES | FLAG_EXPORTABLE;
        if self.compression == Compression::None {
            flags |= FLAGS_UNCOMPRESSED;
        }
        if super::codec::options_block(self.compression).is_some() {
            flags |= FLAG_COMPRESSOR_OPTIONS;
        }
        flags
    }
}

/// Returns the compressor number. An uncompressed image needs one too: zlib, which every kernel with SquashFS has.
fn compressor_id(compression: Compression) -> u16 {
    match compression {
        Compression::Gzip(_) | Compression::None => 1,
        Compression::Xz => 4,
        Compression::Zstd(_) => 6,
    }
}
