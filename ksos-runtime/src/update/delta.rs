//! Which chunks of a release the node has, and where.
//!
//! The slot that runs is cut as the composer cuts ([`chunks::first`]); a chunk whose digest the index has is noted by its
//! offset and is hashed again whenever it is used. Per entry of the index 24 bytes are kept, whatever the slots hold.

use std::cmp::Ordering;

use ksos_formats::Digest;
use ksos_formats::update::ChunkIndex;
use ksos_formats::update::chunks::{self, MAX_CHUNK, Piece};
use ksos_formats::update::index::Entry;

use crate::disk::probe::{self, Content};
use crate::sys::{self, Disk};

/// Bytes that are read at once.
const READ: usize = 1 << 20;
const NOWHERE: u64 = u64::MAX;

/// What is known about the chunks of an index.
pub struct Chunks<'a> {
    index: &'a ChunkIndex,
    /// Numbers of the entries that are chunks, by digest, then by number.
    by_digest: Vec<u32>,
    /// Numbers of the first entry of each chunk, which is also their order in the chunk file.
    firsts: Vec<u32>,
    /// Where each entry begins in the image.
    offsets: Vec<u64>,
    /// Where the chunk of an entry is in the slot that runs; kept at the first entry of each chunk.
    copies: Vec<u64>,
}

impl<'a> Chunks<'a> {
    /// Looks at an index; nothing of it is known to be there.
    pub fn new(index: &'a ChunkIndex) -> Self {
        let entries = index.entries();
        let numbers = || (0..entries.len() as u32).filter(|number| !entries[*number as usize].is_zeros());
        let mut by_digest: Vec<u32> = numbers().collect();
        by_digest.sort_unstable_by_key(|number| (entries[*number as usize].sha256, *number));
        let mut stored = 0;
        let is_first = |number: &u32| {
            let entry = &entries[*number as usize];
            let first = entry.offset >= stored;
            stored = stored.max(entry.offset + u64::from(entry.stored));
            first
        };
        let firsts = numbers().filter(is_first).collect();
        let mut offset = 0;
        let begin = |entry: &Entry| {
            offset += u64::from(entry.length);
            offset - u64::from(entry.length)
        };
        let offsets = entries.iter().map(begin).collect();
        Chunks { index, by_digest, firsts, offsets, copies: vec![NOWHERE; entries.len()] }
    }

    /// Returns the entries of the index.
    pub fn entries(&self) -> &'a [Entry] {
        self.index.entries()
    }

    /// Returns where an entry begins in the image.
    pub fn offset(&self, number: usize) -> u64 {
        self.offsets[number]
    }

    /// Returns the number of the first entry with this digest.
    pub fn first_with(&self, digest: &Digest) -> Option<usize> {
        let entries = self.index.entries();
        let before = |number: &u32| entries[*number as usize].sha256.cmp(digest) == Ordering::Less;
        let found = *self.by_digest.get(self.by_digest.partition_point(before))? as usize;
        (entries[found].sha256 == *digest).then_some(found)
    }

    /// Returns the place in [`Chunks::firsts`] of the first chunk that is stored at `offset` or behind it.
    pub fn first_stored_at(&self, offset: u64) -> usize {
        let entries = self.index.entries();
        self.firsts.partition_point(|number| entries[*number as usize].offset < offset)
    }

    /// Returns the number of the entry that is the `place`th in the chunk file.
    pub fn first(&self, place: usize) -> Option<usize> {
        self.firsts.get(place).map(|number| *number as usize)
    }

    /// Returns where the chunk of an entry is in the slot that runs.
    pub fn copy(&self, number: usize) -> Option<u64> {
        let first = self.first_with(&self.index.entries()[number].sha256)?;
        Some(self.copies[first]).filter(|offset| *offset != NOWHERE)
    }

    /// Forgets that the slot that runs has the chunk of an entry: it has something else there.
    pub fn lose(&mut self, number: usize) {
        if let Some(first) = self.first_with(&self.index.entries()[number].sha256) {
            self.copies[first] = NOWHERE;
        }
    }

    /// Cuts the slot that runs, and notes what of it the index has.
    ///
    /// # Errors
    /// The partition cannot be read.
    pub fn cut(&mut self, active: &dyn Disk) -> sys::Result<()> {
        let size = image_size(active)?;
        let mut window = Vec::with_capacity(READ + MAX_CHUNK);
        let (mut begin, mut read) = (0, 0_u64);
        loop {
            if window.len() - begin < MAX_CHUNK && read < size {
                window.drain(..begin);
                begin = 0;
                let (old, part) = (window.len(), (size - read).min(READ as u64));
                window.resize(old + part as usize, 0);
                active.read_at(read, &mut window[old..])?;
                read += part;
            }
            let rest = &window[begin..];
            if rest.is_empty() {
                return Ok(());
            }
            let piece = chunks::first(rest);
            if let Piece::Data(bytes) = piece {
                self.note(bytes, read - rest.len() as u64);
            }
            begin += piece.len();
        }
    }

    fn note(&mut self, bytes: &[u8], offset: u64) {
        let Some(first) = self.first_with(&Digest::of(bytes)) else { return };
        if self.copies[first] == NOWHERE && self.index.entries()[first].length as usize == bytes.len() {
            self.copies[first] = offset;
        }
    }
}

/// Returns the size of the file system on a partition; without one, that of the partition.
fn image_size(disk: &dyn Disk) -> sys::Result<u64> {
    let mut head = vec![0; probe::PROBE_SIZE.min(disk.size() as usize)];
    disk.read_at(0, &mut head)?;
    let size = match probe::identify(&head) {
        Content::Ext4(ext4) => ext4.blocks.saturating_mul(ext4.block_size),
        _ => disk.size(),
    };
    Ok(size.min(disk.size()))
}
