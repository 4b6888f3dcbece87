//! The content of a file.

use std::io::{self, Read};

use super::extent::Extent;
use super::inode::Inode;
use super::{Ext4Error, FileSystem, Part};

/// Reads the content of a file, from start to end or at positions. Holes are zeros.
#[derive(Debug)]
pub struct FileReader<'a> {
    part: Part<'a>,
    block_size: u64,
    extents: Vec<Extent>,
    size: u64,
    position: u64,
}

impl<'a> FileReader<'a> {
    pub(super) fn new(fs: &FileSystem<'a>, inode: &Inode) -> Result<Self, Ext4Error> {
        let extents = inode.extents(fs)?;
        Ok(FileReader { part: fs.part, block_size: fs.superblock.block_size, extents, size: inode.size, position: 0 })
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from byte `position`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the file ends before.
    pub fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let inside = position.checked_add(buffer.len() as u64).is_some_and(|end| end <= self.size);
        if !inside {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < buffer.len() {
            let (physical, run) = self.run(position + done as u64);
            let count = run.min((buffer.len() - done) as u64) as usize;
            let target = &mut buffer[done..done + count];
            match physical {
                Some(physical) => self.part.read_exact_at(target, physical)?,
                None => target.fill(0),
            }
            done += count;
        }
        Ok(())
    }

    /// Returns the ranges of the file that have blocks of their own: first byte in the file, first byte in the file
    /// system, length, in order.
    pub fn extents(&self) -> Vec<(u64, u64, u64)> {
        let ranges = self.extents.iter().filter_map(|extent| {
            let start = extent.logical * self.block_size;
            let length = (extent.length * self.block_size).min(self.size.checked_sub(start)?);
            Some((start, extent.physical? * self.block_size, length)).filter(|_| length > 0)
        });
        ranges.collect()
    }

    /// Returns where byte `position` is in the file system, `None` for zeros, and how many bytes go on from there.
    fn run(&self, position: u64) -> (Option<u64>, u64) {
        let (block, within) = (position / self.block_size, position % self.block_size);
        let index = self.extents.partition_point(|extent| extent.logical + extent.length <= block);
        match self.extents.get(index) {
            Some(extent) if extent.logical <= block => {
                let skipped = block - extent.logical;
                let physical = extent.physical.map(|physical| (physical + skipped) * self.block_size + within);
                (physical, (extent.length - skipped) * self.block_size - within)
            }
            Some(extent) => (None, (extent.logical - block) * self.block_size - within),
            None => (None, u64::MAX),
        }
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (self.size - self.position).min(buffer.len() as u64) as usize;
        self.read_exact_at(&mut buffer[..count], self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}
