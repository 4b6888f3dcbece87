//! Reads ext4 file systems such as the composer writes into system slots (kernel documentation, "ext4 data structures
//! and algorithms").
//!
//! Every number is checked before use: blocks against the file system, extents for order, directories for loops.
//! Hash trees of directories are read as the lists of entries that their blocks are made to look like.
//!
//! Not read: extended attributes, checksums (what differs shows in the contents). Refused: file systems with a journal
//! to replay, blocks other than 1 to 4 KiB, files without extents, inline data, encryption and other features that
//! change the layout.

mod directory;
mod extent;
mod file;
mod inode;
mod superblock;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::io;

use super::Part;
pub use file::FileReader;
pub use inode::{Inode, Kind};
use superblock::Superblock;

/// Inode number of the root directory.
const ROOT: u32 = 2;
/// The most entries of a file system that are listed.
const MOST_ENTRIES: usize = 1_000_000;
/// The most bytes that the paths of a listing have.
const MOST_PATH_BYTES: usize = 256 << 20;
/// The deepest nesting of directories.
const DEPTH: usize = 256;

/// A file system cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Ext4Error {
    /// There is no ext4 file system.
    #[error("no ext4 file system")]
    NotExt4,
    /// Something is not as the format has it.
    #[error("damaged ext4 file system: {0}")]
    Damaged(&'static str),
    /// An inode is not as the format has it.
    #[error("damaged ext4 file system: inode {inode}: {fault}")]
    Inode {
        /// Its number.
        inode: u32,
        /// What is wrong.
        fault: &'static str,
    },
    /// Something that this reader does not do.
    #[error("{0} not supported in ext4 file systems")]
    Unsupported(&'static str),
    /// More than this reader takes.
    #[error("the ext4 file system has more than {limit} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many are taken.
        limit: usize,
    },
    /// The bytes cannot be read.
    #[error("cannot read the ext4 file system: {0}")]
    Read(#[from] io::Error),
}

/// An open file system.
#[derive(Debug)]
pub struct FileSystem<'a> {
    part: Part<'a>,
    superblock: Superblock,
}

impl<'a> FileSystem<'a> {
    /// Opens the file system in `part`.
    ///
    /// # Errors
    /// [`Ext4Error`].
    pub fn open(part: Part<'a>) -> Result<Self, Ext4Error> {
        let superblock = Superblock::read(part)?;
        Ok(FileSystem { part, superblock })
    }

    /// Tells whether `part` has the magic number of ext4; it may be damaged all the same.
    pub fn is_in(part: Part<'_>) -> bool {
        let mut magic = [0; 2];
        part.read_exact_at(&mut magic, 1024 + 0x38).is_ok() && magic == superblock::MAGIC.to_le_bytes()
    }

    /// Returns the root directory.
    ///
    /// # Errors
    /// [`Ext4Error`].
    pub fn root(&self) -> Result<Inode, Ext4Error> {
        let root = self.inode(ROOT)?;
        match root.kind {
            Kind::Directory => Ok(root),
            _ => Err(Ext4Error::Inode { inode: ROOT, fault: "the root is not a directory" }),
        }
    }

    /// Returns the entries of `directory` by name, without `.` and `..`.
    ///
    /// # Errors
    /// [`Ext4Error`].
    pub fn list(&self, directory: &Inode) -> Result<BTreeMap<String, u32>, Ext4Error> {
        directory::list(self, directory)
    }

    /// Returns the entry `name` of the root directory.
    ///
    /// # Errors
    /// [`Ext4Error`].
    pub fn find(&self, name: &str) -> Result<Option<Inode>, Ext4Error> {
        let number = self.list(&self.root()?)?.get(name).copied();
        number.map(|number| self.inode(number)).transpose()
    }

    /// Returns every entry by path; the root is the empty path.
    ///
    /// # Errors
    /// [`Ext4Error`].
    pub fn entries(&self) -> Result<BTreeMap<String, Inode>, Ext4Error> {
        let root = self.root()?;
        let mut entries = BTreeMap::from([(String::new(), root.clone())]);
        let mut directories = HashSet::from([ROOT]);
        let mut pending = vec![(String::new(), root, 0)];
        let mut path_bytes = 0;
        while let Some((path, directory, depth)) = pending.pop() {
            for (name, number) in self.list(&directory)? {
                let child = if path.is_empty() { name } else { format!("{path}/{name}") };
                path_bytes += child.len();
                if entries.len() == MOST_ENTRIES || path_bytes > MOST_PATH_BYTES {
                    return Err(Ext4Error::TooMany { what: "entries", limit: MOST_ENTRIES });
                }
                let inode = self.inode(number)?;
                if inode.kind == Kind::Directory {
                    if !directories.insert(number) || depth == DEPTH {
                        let fault = "the directory is in two places, or deeper than 256";
                        return Err(Ext4Error::Inode { inode: number, fault });
                    }
                    pending.push((child.clone(), inode.clone(), depth + 1));
                }
                entries.insert(child, inode);
            }
        }
        Ok(entries)
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// [`Ext4Error`].
    pub fn open_file(&self, inode: &Inode) -> Result<FileReader<'a>, Ext4Error> {
        match inode.kind {
            Kind::File => FileReader::new(self, inode),
            _ => Err(Ext4Error::Inode { inode: inode.number, fault: "not a regular file" }),
        }
    }

    fn inode(&self, number: u32) -> Result<Inode, Ext4Error> {
        Inode::read(self, number)
    }

    /// Reads block `number` as a whole.
    fn block(&self, number: u64) -> Result<Vec<u8>, Ext4Error> {
        if number == 0 || number >= self.superblock.blocks {
            return Err(Ext4Error::Damaged("a block number behind the end"));
        }
        let mut block = vec![0; self.superblock.block_size as usize];
        self.part.read_exact_at(&mut block, number * self.superblock.block_size)?;
        Ok(block)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

/// Joins a lower and an upper half of 32 bits.
fn joined(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}
