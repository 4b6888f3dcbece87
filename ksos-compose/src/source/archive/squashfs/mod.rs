//! Reads SquashFS 4.0 images (Linux `Documentation/filesystems/squashfs.rst`, `fs/squashfs/squashfs_fs.h`),
//! compressed with gzip, xz or zstd.
//!
//! Every position and length of an image is checked before use and no table is read as a whole, so memory stays at
//! a few blocks whatever an image declares. Hard links and extended attributes are kept. Refused: directories that
//! are reached twice, other versions and compressors.

mod block;
mod inode;
mod look;
mod xattr;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};

use self::block::{Image, MetadataReader, Reference};
use self::inode::{Body, Inode};
use super::builder::Builder;
use super::error::{Failure, Fault, Step, escape, text};
use super::{Limits, clamp_time};
use crate::tree::{Meta, Node};
pub use look::{Look, look};

/// Reads the image in `file`.
pub(super) fn read(file: &File, builder: &mut Builder<'_>, limits: &Limits) -> Step<()> {
    let mut image = Image::open(file)?;
    if image.superblock.inode_count as usize > limits.entries {
        return Err(Fault::EntriesLimit { limit: limits.entries }.into());
    }
    let ids = image.ids()?;
    let mut walk = Walk { ids, directories: HashSet::new(), files: HashMap::new(), image, builder };
    let root = walk.image.superblock.root;
    walk.visit("", root, 0)
}

struct Walk<'a, 'b> {
    image: Image<'a>,
    ids: Vec<u32>,
    /// Directories seen: one that is reached twice is a loop or a bomb.
    directories: HashSet<Reference>,
    /// Where each file with several names was first.
    files: HashMap<Reference, String>,
    builder: &'a mut Builder<'b>,
}

/// Nesting of directories that is accepted; keeps the stack small.
const DEPTH: usize = 256;

impl Walk<'_, '_> {
    fn visit(&mut self, path: &str, reference: Reference, depth: usize) -> Step<()> {
        let at = |fault| Failure::at(path, fault);
        if let Some(first) = self.files.get(&reference) {
            return self.builder.hard_link(path, first);
        }
        let inode = Inode::read(&mut self.image, reference).map_err(at)?;
        let meta = self.meta(&inode).map_err(at)?;
        let node = match inode.body {
            Body::Directory(directory) => {
                if !self.directories.insert(reference) || depth > DEPTH {
                    return Err(at(Fault::Damaged("a directory is in two places, or deeper than 256")));
                }
                self.builder.node(path, meta, Node::Directory)?;
                return self.children(path, &directory, depth);
            }
            Body::File(file) => {
                if inode.links > 1 {
                    self.files.insert(reference, path.to_owned());
                }
                return self.builder.file(path, meta, &mut FileReader::new(&mut self.image, file));
            }
            Body::Symlink(target) => Node::Symlink(text(&target).map_err(at)?.to_owned()),
            Body::CharacterDevice { major, minor } => Node::CharacterDevice { major, minor },
            Body::BlockDevice { major, minor } => Node::BlockDevice { major, minor },
            Body::Fifo => Node::Fifo,
            Body::Socket => Node::Socket,
        };
        self.builder.node(path, meta, node)
    }

    fn meta(&mut self, inode: &Inode) -> Result<Meta, Fault> {
        let id = |index: u16| self.ids.get(usize::from(index)).copied().ok_or(Fault::Damaged("an owner's index"));
        let (uid, gid) = (id(inode.uid)?, id(inode.gid)?);
        let xattrs = match inode.xattr {
            Some(index) => self.image.xattrs(index)?,
            None => BTreeMap::new(),
        };
        Ok(Meta { mode: u32::from(inode.mode) & 0o7777, uid, gid, mtime: clamp_time(i64::from(inode.mtime)), xattrs })
    }

    fn children(&mut self, path: &str, directory: &inode::Directory, depth: usize) -> Step<()> {
        let mut listing = Listing::new(&self.image, path, directory);
        while let Some((child, reference)) = listing.next(&mut self.image)? {
            self.visit(&child, reference, depth + 1)?;
        }
        Ok(())
    }
}

/// Reads the entries of a directory one by one.
struct Listing<'a> {
    /// Path of the directory.
    path: &'a str,
    reader: MetadataReader,
    /// Bytes that the listing still has.
    left: u32,
    /// Entries that the last header still counts, and the block of their inodes.
    entries: u32,
    block: u32,
}

impl<'a> Listing<'a> {
    fn new(image: &Image<'_>, path: &'a str, directory: &inode::Directory) -> Self {
        let reader = MetadataReader::new(image.superblock.directories, directory.listing);
        // "The size is 3 more than that of the listing", for `.` and `..`.
        Listing { path, reader, left: directory.size.saturating_sub(3), entries: 0, block: 0 }
    }

    /// Returns the path of the next entry and where its inode is.
    fn next(&mut self, image: &mut Image<'_>) -> Step<Option<(String, Reference)>> {
        let path = self.path;
        let at = |fault| Failure::at(path, fault);
        if self.entries == 0 {
            if self.left == 0 {
                return Ok(None);
            }
            let [count, block, _inode] = self.reader.u32s(image).map_err(at)?;
            self.left = self.left.checked_sub(12).ok_or_else(|| at(Fault::Damaged("a directory's size")))?;
            if count >= 256 {
                return Err(at(Fault::Damaged("a directory header counts more than 256 entries")));
            }
            (self.entries, self.block) = (count + 1, block);
        }
        self.entries -= 1;
        let (offset, name) = child(&mut self.reader, image, &mut self.left).map_err(at)?;
        let name = text(&name).map_err(|fault| Failure::at(&escape(&name), fault))?;
        if name.contains('/') {
            return Err(at(Fault::Damaged("a name with a slash")));
        }
        let child = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        Ok(Some((child, Reference { block: u64::from(self.block), offset })))
    }
}

/// Reads one directory entry: the inode's offset in its block, and the name.
fn child(reader: &mut MetadataReader, image: &mut Image<'_>, left: &mut u32) -> Result<(u16, Vec<u8>), Fault> {
    let [offset, _delta, _kind, size] = reader.u16s(image)?;
    let size = u32::from(size) + 1;
    *left = left.checked_sub(8 + size).ok_or(Fault::Damaged("a directory's size"))?;
    if size > 256 {
        return Err(Fault::Damaged("a name longer than 256 bytes"));
    }
    Ok((offset, reader.bytes(image, size as usize)?))
}

/// Yields the content of a file, block by block.
struct FileReader<'a, 'b> {
    image: &'a mut Image<'b>,
    file: inode::FileBody,
    left: u64,
    /// Position in the image of the next data block.
    position: u64,
    current: Vec<u8>,
    used: usize,
}

impl<'a, 'b> FileReader<'a, 'b> {
    fn new(image: &'a mut Image<'b>, file: inode::FileBody) -> Self {
        let (left, position) = (file.size, file.start);
        FileReader { image, file, left, position, current: Vec::new(), used: 0 }
    }

    fn next_block(&mut self) -> Result<(), Fault> {
        let block_size = u64::from(self.image.superblock.block_size);
        let wanted = self.left.min(block_size) as usize;
        self.used = 0;
        if self.left < block_size
            && let Some((fragment, offset)) = self.file.fragment
        {
            let block = self.image.fragment(fragment)?;
            let tail = block.get(offset as usize..).and_then(|tail| tail.get(..wanted));
            self.current = tail.ok_or(Fault::Damaged("a fragment's position"))?.to_vec();
        } else {
            let [size] = self.file.block_sizes.u32s(self.image)?;
            let (stored, block) = self.image.data(self.position, size, wanted)?;
            self.position += stored;
            self.current = block;
        }
        match self.current.len() == wanted {
            true => Ok(()),
            false => Err(Fault::Damaged("a data block's size")),
        }
    }
}

impl Read for FileReader<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        if self.used == self.current.len() {
            self.next_block().map_err(Fault::into_io)?;
        }
        let rest = &self.current[self.used..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.used += count;
        self.left -= count as u64;
        Ok(count)
    }
}
