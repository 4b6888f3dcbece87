//! The chunk index of a slot image: which chunks it is made of, and where each is in the chunk file.
//!
//! Binary, little-endian, so that a node reads 10,000 chunks without an allocation for each:
//!
//! ```text
//! 0   8  magic "KSOSIDX1"
//! 8   4  number of entries
//! 12  4  0
//! 16  8  size of the slot image in bytes
//! 24  8  size of the chunk file in bytes
//! 32     entries of 48 bytes:
//!        0  32  SHA-256 of the chunk; zeros for a run of zeros
//!        32  4  length of the chunk in bytes
//!        36  4  stored bytes: 0 for a run of zeros; the length: as it is; fewer: one zstd frame (RFC 8878)
//!        40  8  offset in the chunk file; 0 for a run of zeros
//! ```
//!
//! Entries cover the image from its first byte to its last. Chunks are stored in the order in which they are first
//! needed, without gaps, each once: two entries with one digest have one place.

use std::collections::BTreeMap;

use super::chunks::MAX_CHUNK;
use crate::Digest;

const MAGIC: &[u8; 8] = b"KSOSIDX1";
const HEADER: usize = 32;
const ENTRY: usize = 48;

/// One piece of the slot image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// SHA-256 of the chunk; zeros for a run of zeros.
    pub sha256: Digest,
    /// Length in the image in bytes.
    pub length: u32,
    /// Bytes in the chunk file: 0 for a run of zeros.
    pub stored: u32,
    /// Offset in the chunk file.
    pub offset: u64,
}

impl Entry {
    /// Whether it is a run of zeros.
    pub fn is_zeros(&self) -> bool {
        self.stored == 0
    }

    /// Whether the stored bytes are a zstd frame.
    pub fn is_compressed(&self) -> bool {
        self.stored != 0 && self.stored < self.length
    }
}

/// The chunk index of a slot image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChunkIndex {
    entries: Vec<Entry>,
    slot_size: u64,
    chunks_size: u64,
}

/// Bytes that are not a chunk index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The first bytes are others.
    #[error("not a chunk index")]
    Magic,
    /// It ends too early or goes on too long.
    #[error("the chunk index has {found} bytes; its header says {expected}")]
    Length {
        /// Bytes found.
        found: u64,
        /// Bytes that the header says.
        expected: u64,
    },
    /// An entry that cannot be.
    #[error("entry {number} of the chunk index: {reason}")]
    Entry {
        /// Number of the entry, from 0.
        number: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// The entries do not make up the image or the chunk file.
    #[error("the chunk index covers {covered} bytes of the {what} of {size}")]
    Cover {
        /// Image or chunk file.
        what: &'static str,
        /// Bytes that its entries cover.
        covered: u64,
        /// Size of it in bytes.
        size: u64,
    },
}

impl ChunkIndex {
    /// Returns an index without entries, to be filled by [`ChunkIndex::push_zeros`] and [`ChunkIndex::push_chunk`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a run of zeros.
    pub fn push_zeros(&mut self, length: u64) {
        self.slot_size += length;
        let mut left = length;
        if let Some(last) = self.entries.last_mut().filter(|last| last.is_zeros()) {
            let more = left.min(u64::from(u32::MAX - last.length));
            last.length += more as u32;
            left -= more;
        }
        while left > 0 {
            let part = left.min(u64::from(u32::MAX));
            self.entries.push(Entry { sha256: Digest([0; 32]), length: part as u32, stored: 0, offset: 0 });
            left -= part;
        }
    }

    /// Adds a chunk. `stored` is the number of its bytes in the chunk file when it is put there now, at the end; `None`
    /// when it is there already, at the place of `twin`.
    pub fn push_chunk(&mut self, sha256: Digest, length: u32, stored: Stored) {
        self.slot_size += u64::from(length);
        let (stored, offset) = match stored {
            Stored::New(stored) => {
                self.chunks_size += u64::from(stored);
                (stored, self.chunks_size - u64::from(stored))
            }
            Stored::As { stored, offset } => (stored, offset),
        };
        self.entries.push(Entry { sha256, length, stored, offset });
    }

    /// Returns the pieces of the image in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the size of the slot image in bytes.
    pub fn slot_size(&self) -> u64 {
        self.slot_size
    }

    /// Returns the size of the chunk file in bytes.
    pub fn chunks_size(&self) -> u64 {
        self.chunks_size
    }

    /// Returns the canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + ENTRY * self.entries.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.slot_size.to_le_bytes());
        bytes.extend_from_slice(&self.chunks_size.to_le_bytes());
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.sha256.0);
            bytes.extend_from_slice(&entry.length.to_le_bytes());
            bytes.extend_from_slice(&entry.stored.to_le_bytes());
            bytes.extend_from_slice(&entry.offset.to_le_bytes());
        }
        bytes
    }

    /// Reads an index, and checks that it is one that [`ChunkIndex::to_bytes`] could have returned.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(IndexError::Magic)?;
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        if header[..8] != *MAGIC || header[12..16] != [0; 4] {
            return Err(IndexError::Magic);
        }
        let count = u32::from_le_bytes(header[8..12].try_into().expect("4 bytes"));
        let expected = HEADER as u64 + ENTRY as u64 * u64::from(count);
        if bytes.len() as u64 != expected {
            return Err(IndexError::Length { found: bytes.len() as u64, expected });
        }
        let (entries, _) = bytes[HEADER..].as_chunks::<ENTRY>();
        let index =
            ChunkIndex { entries: entries.iter().map(entry).collect(), slot_size: number(16), chunks_size: number(24) };
        index.check()?;
        Ok(index)
    }

    fn check(&self) -> Result<(), IndexError> {
        let (mut covered, mut stored) = (0_u64, 0_u64);
        let mut places: BTreeMap<Digest, (u64, u32, u32)> = BTreeMap::new();
        for (number, entry) in self.entries.iter().enumerate() {
            let wrong = |reason| IndexError::Entry { number, reason };
            covered = covered.checked_add(entry.length.into()).ok_or_else(|| wrong("the image is too large"))?;
            if entry.length == 0 {
                return Err(wrong("an empty piece"));
            }
            if entry.is_zeros() {
                let before = number.checked_sub(1).and_then(|before| self.entries.get(before));
                if entry.offset != 0 || entry.sha256.0 != [0; 32] {
                    return Err(wrong("a run of zeros with a place or a digest"));
                }
                if before.is_some_and(|before| before.is_zeros() && before.length != u32::MAX) {
                    return Err(wrong("two runs of zeros in a row"));
                }
                continue;
            }
            if entry.length as usize > MAX_CHUNK || entry.stored > entry.length {
                return Err(wrong("a chunk that is too large"));
            }
            let place = (entry.offset, entry.stored, entry.length);
            match places.get(&entry.sha256) {
                Some(known) if *known == place => {}
                Some(_) => return Err(wrong("a chunk with two places")),
                None if entry.offset == stored => {
                    stored += u64::from(entry.stored);
                    places.insert(entry.sha256, place);
                }
                None => return Err(wrong("a chunk that is not where the one before it ends")),
            }
        }
        if covered != self.slot_size {
            return Err(IndexError::Cover { what: "slot image", covered, size: self.slot_size });
        }
        if stored != self.chunks_size {
            return Err(IndexError::Cover { what: "chunk file", covered: stored, size: self.chunks_size });
        }
        Ok(())
    }
}

/// Where the bytes of a chunk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// At the end of the chunk file, this many bytes.
    New(u32),
    /// Where an equal chunk is.
    As {
        /// Bytes in the chunk file.
        stored: u32,
        /// Offset in the chunk file.
        offset: u64,
    },
}

fn entry(bytes: &[u8; ENTRY]) -> Entry {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    Entry {
        sha256: Digest(*bytes.first_chunk().expect("an entry has 48 bytes")),
        length: word(32),
        stored: word(36),
        offset: u64::from_le_bytes(bytes[40..48].try_into().expect("8 bytes")),
    }
}
