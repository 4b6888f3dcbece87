//! Extent trees (kernel documentation, "Extent Tree").

use super::inode::Inode;
use super::{Ext4Error, FileSystem, u16_at, u32_at};

const MAGIC: u16 = 0xF30A;
const ENTRY: usize = 12;
/// "At most 5" levels below the root.
const DEEPEST: u16 = 5;
/// Lengths above this are of blocks that are reserved and read as zeros.
const LONGEST_WRITTEN: u16 = 32768;
/// The most extents of a file that are read.
const MOST_EXTENTS: usize = 1 << 20;

/// Blocks of a file that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// First block in the file.
    pub(super) logical: u64,
    /// Number of blocks.
    pub(super) length: u64,
    /// First block in the file system; `None` when it reads as zeros.
    pub(super) physical: Option<u64>,
}

/// Returns the extents of `inode` in order, none over another, all inside the file system.
pub(super) fn collect(fs: &FileSystem<'_>, inode: &Inode) -> Result<Vec<Extent>, Ext4Error> {
    let mut collector = Collector { fs, inode: inode.number, extents: Vec::new(), next: 0 };
    let depth = u16_at(&inode.area, 6);
    if depth > DEEPEST {
        return Err(collector.fail("the depth of the extent tree"));
    }
    collector.node(&inode.area, depth, true)?;
    Ok(collector.extents)
}

struct Collector<'a, 'b> {
    fs: &'a FileSystem<'b>,
    inode: u32,
    extents: Vec<Extent>,
    /// The block behind the last extent.
    next: u64,
}

impl Collector<'_, '_> {
    fn fail(&self, fault: &'static str) -> Ext4Error {
        Ext4Error::Inode { inode: self.inode, fault }
    }

    /// Reads a node. A child must be exactly one level lower and have entries, and leaves must go on where the last one
    /// ended: so a tree that names a block twice, or itself, ends in an error.
    fn node(&mut self, bytes: &[u8], depth: u16, root: bool) -> Result<(), Ext4Error> {
        let (count, maximum) = (usize::from(u16_at(bytes, 2)), usize::from(u16_at(bytes, 4)));
        if u16_at(bytes, 0) != MAGIC || u16_at(bytes, 6) != depth {
            return Err(self.fail("a node of the extent tree"));
        }
        if count > maximum || maximum > (bytes.len() - ENTRY) / ENTRY || (count == 0 && !root) {
            return Err(self.fail("the entries of a node of the extent tree"));
        }
        for entry in bytes[ENTRY..].chunks_exact(ENTRY).take(count) {
            match depth {
                0 => self.leaf(entry)?,
                _ => {
                    let block = u64::from(u32_at(entry, 4)) | u64::from(u16_at(entry, 8)) << 32;
                    let child = self.fs.block(block)?;
                    self.node(&child, depth - 1, false)?;
                }
            }
        }
        Ok(())
    }

    fn leaf(&mut self, entry: &[u8]) -> Result<(), Ext4Error> {
        let (logical, length) = (u64::from(u32_at(entry, 0)), u16_at(entry, 4));
        let physical = u64::from(u32_at(entry, 8)) | u64::from(u16_at(entry, 6)) << 32;
        let written = length <= LONGEST_WRITTEN;
        let length = u64::from(if written { length } else { length - LONGEST_WRITTEN });
        if length == 0 || logical < self.next {
            return Err(self.fail("extents that are empty or not in order"));
        }
        if physical == 0 || physical + length > self.fs.superblock.blocks {
            return Err(self.fail("an extent behind the end"));
        }
        if self.extents.len() == MOST_EXTENTS {
            return Err(Ext4Error::TooMany { what: "extents in one file", limit: MOST_EXTENTS });
        }
        self.next = logical + length;
        self.extents.push(Extent { logical, length, physical: written.then_some(physical) });
        Ok(())
    }
}
