//! The chunks of a release: a slot image cut by content ([`ksos_formats::update::chunks`]), each chunk stored once.
//!
//! The image is read once, from its first byte to its last, in batches of [`BATCH`] bytes, whose chunks are hashed and
//! compressed side by side: memory is bounded by the batch, whatever the image and however many the workers. What comes
//! out does not hang on their number.
//!
//! Most of a slot is compressed already, so a chunk is tried at a fast level first; only one that shrinks by
//! [`SAVING`] percent is worth the node's time, and gets the slow level.

mod batch;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;
use ksos_formats::update::Blob;
use ksos_formats::update::index::{ChunkIndex, Entry, Stored};

pub use batch::BATCH;
use batch::{Batches, Extent};

/// Percent that compression must save.
pub const SAVING: usize = 3;
/// Level of the trial.
const FAST: i32 = 1;
/// Level of what is stored.
const LEVEL: i32 = 15;

/// A slot image cannot be cut or put together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image cannot be read, or ends early.
    #[error("cannot read the slot image: {0}")]
    Read(#[source] io::Error),
    /// What is made cannot be written.
    #[error("cannot write the {what}: {source}")]
    Write {
        /// Chunk file or slot image.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A chunk cannot be compressed.
    #[error("cannot compress a chunk: {0}")]
    Compress(#[source] io::Error),
    /// A stored chunk cannot be read.
    #[error("chunk {sha256} at byte {offset} of the chunk file: {source}")]
    Chunk {
        /// The chunk.
        sha256: Digest,
        /// Where it is.
        offset: u64,
        /// The cause.
        source: io::Error,
    },
    /// A stored chunk is another.
    #[error("the bytes at {offset} of the chunk file are not chunk {sha256}")]
    Digest {
        /// The chunk.
        sha256: Digest,
        /// Where it is.
        offset: u64,
    },
}

/// What a slot image was cut into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The chunks in order.
    pub index: ChunkIndex,
    /// The image.
    pub slot: Blob,
    /// The chunk file.
    pub chunks: Blob,
}

/// Cuts the `size` bytes of `slot`, and writes its chunks to `chunks`.
///
/// # Errors
/// [`Error::Read`], [`Error::Write`], [`Error::Compress`].
pub fn write(slot: &mut dyn Read, size: u64, chunks: &mut dyn Write, jobs: usize) -> Result<Cut, Error> {
    let mut writer = ChunkWriter { index: ChunkIndex::new(), places: HashMap::new(), hasher: Hasher::new(), chunks };
    let mut hasher = Hasher::new();
    let mut batches = Batches::new(slot, size);
    while let Some(batch) = batches.next().map_err(Error::Read)? {
        let packed = std::thread::scope(|scope| {
            let hash = scope.spawn(|| hasher.update(batch.bytes));
            let packed = batch.map(jobs, &Packer::new, &|packer, bytes| packer.pack(bytes));
            hash.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            packed
        });
        for (extent, packed) in batch.extents.iter().zip(packed) {
            writer.add(batch.bytes, extent, packed.transpose()?)?;
        }
    }
    let chunks = Blob { size: writer.index.chunks_size(), sha256: writer.hasher.finish() };
    Ok(Cut { index: writer.index, slot: Blob { size, sha256: hasher.finish() }, chunks })
}

/// Returns the digests of the chunks of the `size` bytes of `slot`: what a node that runs it has.
///
/// # Errors
/// [`Error::Read`].
pub fn digests(slot: &mut dyn Read, size: u64, jobs: usize) -> Result<BTreeSet<Digest>, Error> {
    let mut digests = BTreeSet::new();
    let mut batches = Batches::new(slot, size);
    while let Some(batch) = batches.next().map_err(Error::Read)? {
        digests.extend(batch.map(jobs, &|| (), &|(), bytes| Digest::of(bytes)).into_iter().flatten());
    }
    Ok(digests)
}

/// Puts the slot image of `index` together from its chunk file, checking every chunk. Zeros are not written: `slot` is
/// an empty file, and gets holes.
///
/// # Errors
/// [`Error::Write`], [`Error::Chunk`], [`Error::Digest`].
pub fn restore(index: &ChunkIndex, chunks: &File, slot: &mut File) -> Result<(), Error> {
    let failed = |source| Error::Write { what: "slot image", source };
    slot.set_len(index.slot_size()).map_err(failed)?;
    let mut position = 0;
    for entry in index.entries() {
        if !entry.is_zeros() {
            let bytes = read_chunk(entry, chunks)?;
            slot.seek(SeekFrom::Start(position)).and_then(|_| slot.write_all(&bytes)).map_err(failed)?;
        }
        position += u64::from(entry.length);
    }
    Ok(())
}

/// Returns the digest of the slot image of `index`, put together from its chunk file without writing it. Every chunk is
/// checked.
///
/// # Errors
/// [`Error::Chunk`], [`Error::Digest`].
pub fn slot_digest(index: &ChunkIndex, chunks: &File) -> Result<Digest, Error> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let mut hasher = Hasher::new();
    for entry in index.entries() {
        if !entry.is_zeros() {
            hasher.update(&read_chunk(entry, chunks)?);
            continue;
        }
        let mut left = entry.length as usize;
        while left > 0 {
            let part = left.min(ZEROS.len());
            hasher.update(&ZEROS[..part]);
            left -= part;
        }
    }
    Ok(hasher.finish())
}

/// Reads one chunk; the index has checked its sizes.
fn read_chunk(entry: &Entry, chunks: &File) -> Result<Vec<u8>, Error> {
    let Entry { sha256, length, stored, offset } = *entry;
    let failed = |source| Error::Chunk { sha256, offset, source };
    let mut bytes = vec![0; stored as usize];
    chunks.read_exact_at(&mut bytes, offset).map_err(failed)?;
    if entry.is_compressed() {
        bytes = zstd::bulk::decompress(&bytes, length as usize).map_err(failed)?;
    }
    match Digest::of(&bytes) == sha256 && bytes.len() == length as usize {
        true => Ok(bytes),
        false => Err(Error::Digest { sha256, offset }),
    }
}

/// A chunk that was hashed, and compressed where that pays.
struct Packed {
    sha256: Digest,
    frame: Option<Vec<u8>>,
}

/// Hashes and compresses; one for each worker.
struct Packer {
    compressors: io::Result<(zstd::bulk::Compressor<'static>, zstd::bulk::Compressor<'static>)>,
}

impl Packer {
    fn new() -> Self {
        let compressors =
            zstd::bulk::Compressor::new(FAST).and_then(|fast| Ok((fast, zstd::bulk::Compressor::new(LEVEL)?)));
        Packer { compressors }
    }

    fn pack(&mut self, bytes: &[u8]) -> Result<Packed, Error> {
        let (fast, slow) = self.compressors.as_mut().map_err(|error| Error::Compress(io::Error::from(error.kind())))?;
        let pays = |frame: &[u8]| frame.len() * 100 <= bytes.len() * (100 - SAVING);
        let mut frame = None;
        if pays(&fast.compress(bytes).map_err(Error::Compress)?) {
            frame = Some(slow.compress(bytes).map_err(Error::Compress)?).filter(|frame| pays(frame));
        }
        Ok(Packed { sha256: Digest::of(bytes), frame })
    }
}

/// Writes chunks in the order in which they are first needed.
struct ChunkWriter<'a> {
    index: ChunkIndex,
    /// Stored bytes and offset of every chunk.
    places: HashMap<Digest, (u32, u64)>,
    hasher: Hasher,
    chunks: &'a mut dyn Write,
}

impl ChunkWriter<'_> {
    fn add(&mut self, bytes: &[u8], extent: &Extent, packed: Option<Packed>) -> Result<(), Error> {
        let length = extent.length as u32;
        let Some(Packed { sha256, frame }) = packed else {
            self.index.push_zeros(u64::from(length));
            return Ok(());
        };
        if let Some((stored, offset)) = self.places.get(&sha256) {
            self.index.push_chunk(sha256, length, Stored::As { stored: *stored, offset: *offset });
            return Ok(());
        }
        let stored = frame.as_deref().unwrap_or(&bytes[extent.start..extent.start + extent.length]);
        self.chunks.write_all(stored).map_err(|source| Error::Write { what: "chunk file", source })?;
        self.hasher.update(stored);
        self.places.insert(sha256, (stored.len() as u32, self.index.chunks_size()));
        self.index.push_chunk(sha256, length, Stored::New(stored.len() as u32));
        Ok(())
    }
}
