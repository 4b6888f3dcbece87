//! Everything behind the data: inodes, directories, fragments, inode references, owners, extended attributes.

use std::collections::HashMap;
use std::io::{Seek, Write};

use super::codec::Compressor;
use super::data::Contents;
use super::directory::{self, Listing, ListingEntry};
use super::inode::{self, Common, kind};
use super::metadata::{IndexedTable, MetadataWriter, Position, indexed_table};
use super::model::{Child, ChildKind, Directory, Model};
use super::superblock::{NO_TABLE, Superblock};
use super::xattr::XattrTable;
use super::{Error, Options, Output};
use crate::tree::{Entry, Node};

/// Longest target of a symbolic link: the kernel takes no more than a page with the final NUL.
const MAXIMUM_TARGET: usize = 4095;

/// Writes all tables and returns the superblock, in which only the image's size is missing.
///
/// # Errors
/// For entries that the format cannot hold, and when `out` cannot be written.
pub fn write<W: Write + Seek>(
    model: &Model<'_>,
    contents: &Contents,
    out: &mut Output<'_, W>,
    options: &Options<'_>,
) -> Result<Superblock, Error> {
    let new = || Compressor::new(options.compression, options.block_size).map_err(Error::Compress);
    let (mut compressor, mut for_inodes, mut for_directories, mut for_xattrs) = (new()?, new()?, new()?, new()?);
    let mut builder = Builder {
        contents,
        epoch: options.epoch,
        inodes: MetadataWriter::new(&mut for_inodes),
        directories: MetadataWriter::new(&mut for_directories),
        xattrs: XattrTable::new(&mut for_xattrs),
        ids: Ids::default(),
        positions: vec![Position { block: 0, offset: 0 }; model.inodes as usize],
        listings: HashMap::new(),
    };
    builder.write(model)?;
    let Builder { inodes, directories, xattrs, ids, positions, .. } = builder;
    let inode_table = write_plain(out, inodes)?;
    let directory_table = write_plain(out, directories)?;
    let mut table = |out: &mut Output<'_, W>, records: Vec<u8>| {
        let table = indexed_table(&mut compressor, out.position, &[], &records).map_err(Error::Compress)?;
        write_indexed(out, &table)
    };
    let fragment_table = table(out, fragment_records(contents))?;
    let references = positions.iter().flat_map(|position| position.reference().to_le_bytes()).collect();
    let export_table = table(out, references)?;
    let id_table = table(out, ids.list.iter().flat_map(|id| id.to_le_bytes()).collect())?;
    let xattr_table = match xattrs.finish(&mut compressor, out.position)? {
        Some(table) => write_indexed(out, &table)?,
        None => NO_TABLE,
    };
    Ok(Superblock {
        compression: options.compression,
        block_size: options.block_size,
        epoch: options.epoch,
        inodes: model.inodes,
        fragments: contents.fragments.len() as u32,
        ids: ids.list.len() as u16,
        root_inode: positions.last().expect("a tree has a root").reference(),
        bytes_used: 0,
        id_table,
        xattr_table,
        inode_table,
        directory_table,
        fragment_table,
        export_table,
    })
}

fn write_plain<W: Write + Seek>(out: &mut Output<'_, W>, table: MetadataWriter<'_>) -> Result<u64, Error> {
    let start = out.position;
    let (bytes, _) = table.finish().map_err(Error::Compress)?;
    out.write(&bytes)?;
    Ok(start)
}

fn write_indexed<W: Write + Seek>(out: &mut Output<'_, W>, table: &IndexedTable) -> Result<u64, Error> {
    out.write(&table.bytes)?;
    Ok(table.start)
}

fn fragment_records(contents: &Contents) -> Vec<u8> {
    let mut records = Vec::with_capacity(16 * contents.fragments.len());
    for fragment in &contents.fragments {
        records.extend(fragment.start.to_le_bytes());
        records.extend(fragment.size.to_le_bytes());
        records.extend(0_u32.to_le_bytes());
    }
    records
}

/// The different owners and groups, in order of their first use.
#[derive(Default)]
struct Ids {
    list: Vec<u32>,
    places: HashMap<u32, u16>,
}

impl Ids {
    fn index(&mut self, id: u32) -> Result<u16, Error> {
        if let Some(place) = self.places.get(&id) {
            return Ok(*place);
        }
        // The superblock counts them in 16 bit.
        let maximum = u16::MAX;
        let place = u16::try_from(self.list.len()).ok().filter(|place| *place < maximum);
        let place = place.ok_or(Error::TooMany { what: "different owners and groups", maximum: maximum.into() })?;
        self.list.push(id);
        self.places.insert(id, place);
        Ok(place)
    }
}

struct Builder<'a> {
    contents: &'a Contents,
    epoch: u32,
    inodes: MetadataWriter<'a>,
    directories: MetadataWriter<'a>,
    xattrs: XattrTable<'a>,
    ids: Ids,
    /// Where each inode is, by number - 1.
    positions: Vec<Position>,
    /// Listings of directories whose inode is not written yet, by index of the directory.
    listings: HashMap<usize, Listing>,
}

impl Builder<'_> {
    fn write(&mut self, model: &Model<'_>) -> Result<(), Error> {
        for (index, directory) in model.directories.iter().enumerate() {
            for child in &directory.children {
                match child.kind {
                    ChildKind::Directory(child) => self.write_directory(&model.directories[child], child)?,
                    ChildKind::Inode => self.write_other(child)?,
                    ChildKind::Link => {}
                }
            }
            let listing = self.write_listing(directory)?;
            self.listings.insert(index, listing);
        }
        let root = model.directories.len() - 1;
        self.write_directory(&model.directories[root], root)
    }

    fn write_listing(&mut self, directory: &Directory<'_>) -> Result<Listing, Error> {
        let entries: Vec<ListingEntry<'_>> = directory
            .children
            .iter()
            .map(|child| ListingEntry {
                name: child.name,
                kind: basic_kind(&child.entry.node),
                position: self.positions[child.inode as usize - 1],
                inode: child.inode,
            })
            .collect();
        directory::write(&mut self.directories, &entries)
    }

    fn write_directory(&mut self, directory: &Directory<'_>, index: usize) -> Result<(), Error> {
        let listing = self.listings.remove(&index).expect("directories come after those below them");
        let common = self.common(directory.path, directory.entry, directory.inode)?;
        let bytes = inode::directory(&common, directory.links(), directory.parent, &listing)?;
        self.write_inode(directory.inode, &bytes)
    }

    fn write_other(&mut self, child: &Child<'_>) -> Result<(), Error> {
        let common = self.common(child.path, child.entry, child.inode)?;
        let path = || child.path.to_owned();
        let bytes =
            match &child.entry.node {
                Node::File(content) => {
                    inode::file(&common, child.links, content.size, self.contents.placements.get(&content.digest))
                }
                Node::Symlink(target) if !(1..=MAXIMUM_TARGET).contains(&target.len()) => {
                    return Err(Error::SymlinkTarget { path: path(), length: target.len() });
                }
                Node::Symlink(target) => inode::symlink(&common, target),
                Node::CharacterDevice { major, minor } | Node::BlockDevice { major, minor } => {
                    let (major, minor) = (*major, *minor);
                    inode::device(&common, basic_kind(&child.entry.node), major, minor)
                        .ok_or_else(|| Error::Device { path: path(), major, minor })?
                }
                Node::Fifo | Node::Socket => inode::special(&common, basic_kind(&child.entry.node)),
                Node::Directory | Node::HardLink(_) => unreachable!("the model tells these apart"),
            };
        self.write_inode(child.inode, &bytes)
    }

    fn write_inode(&mut self, number: u32, bytes: &[u8]) -> Result<(), Error> {
        self.positions[number as usize - 1] = self.inodes.position();
        self.inodes.write(bytes).map_err(Error::Compress)
    }

    fn common(&mut self, path: &str, entry: &Entry, number: u32) -> Result<Common, Error> {
        let meta = &entry.meta;
        Ok(Common {
            mode: meta.mode,
            uid: self.ids.index(meta.uid)?,
            gid: self.ids.index(meta.gid)?,
            mtime: meta.mtime.clamp(0, i64::from(self.epoch)) as u32,
            number,
            xattrs: self.xattrs.add(path, &meta.xattrs)?,
        })
    }
}

fn basic_kind(node: &Node) -> u16 {
    match node {
        Node::Directory => kind::DIRECTORY,
        Node::File(_) | Node::HardLink(_) => kind::FILE,
        Node::Symlink(_) => kind::SYMLINK,
        Node::BlockDevice { .. } => kind::BLOCK_DEVICE,
        Node::CharacterDevice { .. } => kind::CHARACTER_DEVICE,
        Node::Fifo => kind::FIFO,
        Node::Socket => kind::SOCKET,
    }
}
