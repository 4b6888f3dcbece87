//! Puts a planned tree on a laid-out file system: journal, directories, links and contents in ascending blocks, then
//! the inode tables, bitmaps, descriptors and superblocks.

use std::io::{Seek, Write};

use super::attribute::{self, Attributes};
use super::bytes::put;
use super::content::{self, Contents};
use super::crc32c::crc32c;
use super::extent::{Allocator, Extents};
use super::geometry::{BLOCK, BLOCKS_PER_GROUP, DESCRIPTOR_SIZE, Geometry, INODE_SIZE, has_superblock};
use super::inode::{self, FLAG_EXTENTS, FLAG_INDEX, Inode, Kind};
use super::output::SparseWriter;
use super::plan::{FAST_SYMLINK, Item, Plan};
use super::superblock::{
    BLOCK_UNINITIALISED, Descriptor, INODE_UNINITIALISED, INODE_ZEROED, Totals, journal_superblock, superblock,
};
use super::{Error, Options, Summary};
use crate::tree::Node;

static ZERO_BLOCK: [u8; BLOCK] = [0; BLOCK];

pub(super) struct Writer<'a, W> {
    options: &'a Options,
    geometry: &'a Geometry,
    output: SparseWriter<'a, W>,
    allocator: Allocator<'a>,
    /// Checksum seed of the file system.
    seed: u32,
    /// Inodes from number 1 on.
    inodes: Vec<u8>,
    last_inode: u32,
    /// Directories in each group of inodes.
    directories: Vec<u32>,
    journal: Option<([u8; 60], u64)>,
}

impl<'a, W: Write + Seek> Writer<'a, W> {
    pub(super) fn new(
        options: &'a Options,
        geometry: &'a Geometry,
        last_inode: u32,
        out: &'a mut W,
    ) -> Result<Self, Error> {
        Ok(Writer {
            options,
            geometry,
            output: SparseWriter::new(out, geometry.blocks * BLOCK as u64)?,
            allocator: geometry.allocator(),
            seed: crc32c(!0, &options.uuid),
            inodes: vec![0; last_inode as usize * INODE_SIZE],
            last_inode,
            directories: vec![0; geometry.groups as usize],
            journal: None,
        })
    }

    /// Writes the whole file system.
    pub(super) fn write(mut self, plan: &Plan<'_>) -> Result<Summary, Error> {
        self.write_journal()?;
        let (reader, contents) = content::pipe();
        std::thread::scope(|scope| {
            scope.spawn(|| reader.read_all(&plan.items));
            // Owned here, so that an error hangs up and the reader ends.
            let mut contents = contents;
            for item in &plan.items {
                self.write_item(item, &mut contents)?;
            }
            Ok::<_, Error>(())
        })?;
        if self.allocator.taken() > self.geometry.available() {
            let (needed, available) = (self.allocator.taken(), self.geometry.available());
            return Err(Error::NoSpace { needed_blocks: needed, available_blocks: available });
        }
        self.finish()
    }

    fn write_block(&mut self, number: u64, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.output.write_at(number * BLOCK as u64, bytes)?)
    }

    fn write_journal(&mut self) -> Result<(), Error> {
        let blocks = self.geometry.journal_blocks;
        if blocks == 0 {
            return Ok(());
        }
        let extents = self.allocator.take_extents(blocks);
        let first = extents.iter().next().expect("a journal has blocks").physical;
        self.write_block(first, &journal_superblock(blocks))?;
        let mut inode = self.blank(Kind::File.mode_bits() | 0o600, self.options.epoch as i64);
        inode.size = blocks * BLOCK as u64;
        self.put_extents(&mut inode, inode::JOURNAL, &extents)?;
        self.journal = Some((inode.area, inode.size));
        self.put_inode(inode::JOURNAL, &inode);
        Ok(())
    }

    fn blank(&self, mode: u16, modified: i64) -> Inode {
        Inode {
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            links: 1,
            blocks: 0,
            flags: 0,
            area: [0; 60],
            modified,
            created: self.options.epoch as i64,
            attribute_block: 0,
            attributes: [0; inode::ATTRIBUTE_ROOM],
        }
    }

    fn write_item(&mut self, item: &Item<'_>, contents: &mut Contents) -> Result<(), Error> {
        let meta = item.meta;
        let mut inode = self.blank(item.kind().mode_bits() | (meta.mode & 0o7777) as u16, meta.mtime);
        (inode.uid, inode.gid, inode.links) = (meta.uid, meta.gid, item.links);
        self.put_attributes(&mut inode, item)?;
        match item.node {
            Node::Directory => self.write_directory(&mut inode, item)?,
            Node::Symlink(target) => self.write_symlink(&mut inode, item.inode, target)?,
            Node::File(content) => {
                inode.size = content.size;
                let extents = if content.size > 0 { self.write_content(contents)? } else { Extents::default() };
                self.put_extents(&mut inode, item.inode, &extents)?;
            }
            Node::CharacterDevice { major, minor } | Node::BlockDevice { major, minor } => {
                inode.area = inode::device_area(*major, *minor).expect("the plan refuses other numbers");
            }
            Node::Fifo | Node::Socket | Node::HardLink(_) => {}
        }
        self.put_inode(item.inode, &inode);
        Ok(())
    }

    fn put_attributes(&mut self, inode: &mut Inode, item: &Item<'_>) -> Result<(), Error> {
        if item.meta.xattrs.is_empty() {
            return Ok(());
        }
        let attributes = Attributes::new(item.path, &item.meta.xattrs)?;
        inode.attributes = attributes.in_inode;
        if let Some(mut block) = attributes.block {
            let number = self.allocator.take_one();
            attribute::put_checksum(&mut block, number, self.seed);
            self.write_block(number, &block[..])?;
            inode.attribute_block = number;
            inode.blocks += 1;
        }
        Ok(())
    }

    fn write_directory(&mut self, inode: &mut Inode, item: &Item<'_>) -> Result<(), Error> {
        let Some((directory, parent)) = &item.directory else { return Ok(()) };
        let group = (item.inode - 1) / self.geometry.inodes_per_group;
        self.directories[group as usize] += 1;
        inode.flags = if directory.indexed() { FLAG_INDEX } else { 0 };
        let bytes = directory.encode(item.inode, *parent, inode::seed(self.seed, item.inode));
        self.write_whole(inode, item.inode, &bytes)
    }

    fn write_symlink(&mut self, inode: &mut Inode, number: u32, target: &str) -> Result<(), Error> {
        if target.len() <= FAST_SYMLINK {
            inode.area[..target.len()].copy_from_slice(target.as_bytes());
            inode.size = target.len() as u64;
            return Ok(());
        }
        let mut bytes = target.as_bytes().to_vec();
        bytes.resize(BLOCK, 0);
        self.write_whole(inode, number, &bytes)?;
        inode.size = target.len() as u64;
        Ok(())
    }

    /// Writes content that is in memory, whole blocks, without looking for holes.
    fn write_whole(&mut self, inode: &mut Inode, number: u32, bytes: &[u8]) -> Result<(), Error> {
        let extents = self.allocator.take_extents((bytes.len() / BLOCK) as u64);
        for extent in extents.iter() {
            let start = extent.logical as usize * BLOCK;
            self.write_block(extent.physical, &bytes[start..start + usize::from(extent.length) * BLOCK])?;
        }
        inode.size = bytes.len() as u64;
        self.put_extents(inode, number, &extents)
    }

    /// Writes the next file that the reader sends; blocks of zeros become holes.
    fn write_content(&mut self, contents: &mut Contents) -> Result<Extents, Error> {
        let mut extents = Extents::default();
        let mut logical = 0;
        loop {
            let (blocks, last) = contents.next()?;
            let mut position = 0;
            while position < blocks.len() {
                let rest = &blocks[position..];
                let zero = rest[0] == ZERO_BLOCK;
                let run = rest.iter().position(|block| (*block == ZERO_BLOCK) != zero).unwrap_or(rest.len());
                if !zero {
                    self.write_run(&rest[..run], logical + position as u64, &mut extents)?;
                }
                position += run;
            }
            logical += blocks.len() as u64;
            if last {
                return Ok(extents);
            }
        }
    }

    fn write_run(&mut self, blocks: &[[u8; BLOCK]], logical: u64, extents: &mut Extents) -> Result<(), Error> {
        let mut done = 0;
        while done < blocks.len() {
            let (physical, count) = self.allocator.take((blocks.len() - done) as u64);
            let end = done + count as usize;
            self.write_block(physical, blocks[done..end].as_flattened())?;
            extents.push(logical + done as u64, physical, count);
            done = end;
        }
        Ok(())
    }

    fn put_extents(&mut self, inode: &mut Inode, number: u32, extents: &Extents) -> Result<(), Error> {
        let seed = inode::seed(self.seed, number);
        let output = &mut self.output;
        inode.area =
            extents.build(&mut self.allocator, seed, |block, bytes| output.write_at(block * BLOCK as u64, bytes))?;
        inode.blocks += extents.blocks() + extents.tree_blocks();
        inode.flags |= FLAG_EXTENTS;
        Ok(())
    }

    fn put_inode(&mut self, number: u32, inode: &Inode) {
        let bytes = inode.encode(inode::seed(self.seed, number));
        put(&mut self.inodes, (number as usize - 1) * INODE_SIZE, bytes);
    }

    fn finish(mut self) -> Result<Summary, Error> {
        let mut descriptors = Vec::with_capacity(self.geometry.groups as usize * DESCRIPTOR_SIZE);
        let mut totals = Totals { free_blocks: 0, free_inodes: 0, journal: self.journal };
        for group in 0..self.geometry.groups {
            let descriptor = self.write_group(group)?;
            totals.free_blocks += u64::from(descriptor.free_blocks);
            totals.free_inodes += descriptor.free_inodes;
            descriptors.extend_from_slice(&descriptor.encode(group, self.seed));
        }
        for group in (0..self.geometry.groups).filter(|group| has_superblock(*group)) {
            let offset = self.geometry.start(group) * BLOCK as u64;
            let bytes = superblock(self.options, self.geometry, &totals, group);
            // Only the first superblock leaves room for a boot sector.
            self.output.write_at(if group == 0 { 1024 } else { offset }, &bytes)?;
            self.output.write_at(offset + BLOCK as u64, &descriptors)?;
        }
        self.output.finish(self.options.size)?;
        Ok(Summary {
            blocks: self.geometry.blocks,
            free_blocks: totals.free_blocks,
            inodes: self.geometry.inodes(),
            free_inodes: totals.free_inodes,
            journal_blocks: self.geometry.journal_blocks,
        })
    }

    /// Writes bitmaps and inode table of `group` as far as they are in use, and returns the descriptor.
    fn write_group(&mut self, group: u32) -> Result<Descriptor, Error> {
        let places = self.geometry.places[group as usize];
        let per_group = self.geometry.inodes_per_group;
        let used_inodes = self.last_inode.saturating_sub(group * per_group).min(per_group);
        let (block_bitmap, free_blocks) = self.block_bitmap(group);
        let only_base = self.geometry.group_blocks(group) == free_blocks + self.geometry.base(group);
        let mut descriptor = Descriptor {
            places,
            free_blocks: free_blocks as u32,
            free_inodes: per_group - used_inodes,
            directories: self.directories[group as usize],
            flags: INODE_ZEROED,
            block_bitmap_checksum: 0,
            inode_bitmap_checksum: 0,
            unused_inodes: per_group - used_inodes,
        };
        // The last group's bitmap is always there: it may need padding.
        if only_base && group + 1 < self.geometry.groups {
            descriptor.flags |= BLOCK_UNINITIALISED;
        } else {
            descriptor.block_bitmap_checksum = crc32c(self.seed, &block_bitmap);
            self.write_block(places.block_bitmap, &block_bitmap)?;
        }
        if used_inodes == 0 {
            descriptor.flags |= INODE_UNINITIALISED;
            return Ok(descriptor);
        }
        let mut inode_bitmap = [0xff; BLOCK];
        clear_bits(&mut inode_bitmap, used_inodes as usize, per_group as usize);
        descriptor.inode_bitmap_checksum = crc32c(self.seed, &inode_bitmap[..per_group as usize / 8]);
        self.write_block(places.inode_bitmap, &inode_bitmap)?;
        let first = (group * per_group) as usize * INODE_SIZE;
        let table = &self.inodes[first..first + used_inodes as usize * INODE_SIZE];
        self.output.write_at(places.inode_table * BLOCK as u64, table)?;
        Ok(descriptor)
    }

    /// Returns the block bitmap of `group`, in which blocks beyond the end count as used, and its free blocks.
    fn block_bitmap(&self, group: u32) -> ([u8; BLOCK], u64) {
        let start = self.geometry.start(group);
        let end = start + self.geometry.group_blocks(group);
        let mut bitmap = [0xff; BLOCK];
        let mut free = 0;
        let mut cursor = self.allocator.end().max(start);
        let from = self.geometry.reserved.partition_point(|range| range.end <= cursor);
        for range in &self.geometry.reserved[from..] {
            let gap = range.start.min(end);
            if gap > cursor {
                clear_bits(&mut bitmap, (cursor - start) as usize, (gap - start) as usize);
                free += gap - cursor;
            }
            cursor = cursor.max(range.end);
            if cursor >= end {
                break;
            }
        }
        if cursor < end {
            clear_bits(&mut bitmap, (cursor - start) as usize, (end - start) as usize);
            free += end - cursor;
        }
        debug_assert!(end - start <= BLOCKS_PER_GROUP && free <= end - start);
        (bitmap, free)
    }
}

/// Clears the bits `from..to` of a bitmap.
fn clear_bits(bitmap: &mut [u8; BLOCK], from: usize, to: usize) {
    let mut bit = from;
    while bit < to {
        if bit.is_multiple_of(8) && bit + 8 <= to {
            bitmap[bit / 8] = 0;
            bit += 8;
        } else {
            bitmap[bit / 8] &= !(1 << (bit % 8));
            bit += 1;
        }
    }
}
