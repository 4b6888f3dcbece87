//! The superblock, blocks and tables of an image.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::super::error::Fault;
use super::super::stream;

/// Largest uncompressed metadata block, in bytes.
pub(super) const METADATA: usize = 8192;
/// What a position that is not set looks like.
const NOT_SET: u64 = u64::MAX;

/// A place in a table of metadata blocks: the block's position from the start of the table, and the offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Reference {
    pub(super) block: u64,
    pub(super) offset: u16,
}

impl Reference {
    pub(super) fn packed(value: u64) -> Self {
        Reference { block: value >> 16, offset: (value & 0xffff) as u16 }
    }
}

#[derive(Debug, Clone, Copy)]
enum Compressor {
    Gzip,
    Xz,
    Zstd,
}

#[derive(Debug)]
pub(super) struct Superblock {
    pub(super) inode_count: u32,
    pub(super) block_size: u32,
    pub(super) root: Reference,
    pub(super) inodes: u64,
    pub(super) directories: u64,
    pub(super) xattrs: Option<u64>,
    compressor: Compressor,
    fragment_count: u32,
    fragments: u64,
    id_count: u16,
    ids: u64,
    size: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl Superblock {
    fn parse(bytes: &[u8; 96], file_size: u64) -> Result<Self, Fault> {
        let block_size = u32_at(bytes, 12);
        if !(4096..=1 << 20).contains(&block_size)
            || !block_size.is_power_of_two()
            || block_size.ilog2() != u32::from(u16_at(bytes, 22))
        {
            return Err(Fault::Damaged("the SquashFS block size"));
        }
        if (u16_at(bytes, 28), u16_at(bytes, 30)) != (4, 0) {
            return Err(Fault::Unsupported("SquashFS versions other than 4.0 are"));
        }
        let compressor = match u16_at(bytes, 20) {
            1 => Compressor::Gzip,
            4 => Compressor::Xz,
            6 => Compressor::Zstd,
            2 | 3 | 5 => return Err(Fault::Unsupported("SquashFS compressed with lzma, lzo or lz4 is")),
            _ => return Err(Fault::Damaged("the SquashFS compressor")),
        };
        let size = u64_at(bytes, 40);
        if size > file_size {
            return Err(Fault::Truncated);
        }
        let xattrs = Some(u64_at(bytes, 56)).filter(|position| *position != NOT_SET);
        Ok(Superblock {
            inode_count: u32_at(bytes, 4),
            block_size,
            root: Reference::packed(u64_at(bytes, 32)),
            inodes: u64_at(bytes, 64),
            directories: u64_at(bytes, 72),
            xattrs,
            compressor,
            fragment_count: u32_at(bytes, 16),
            fragments: u64_at(bytes, 80),
            id_count: u16_at(bytes, 26),
            ids: u64_at(bytes, 48),
            size,
        })
    }
}

/// A decompressed metadata block and the position of the one behind it.
#[derive(Debug)]
struct Metadata {
    bytes: Vec<u8>,
    next: u64,
}

/// How many metadata blocks are kept: directories and inodes are read alternately.
const CACHED: usize = 64;

#[derive(Debug)]
pub(super) struct Image<'a> {
    file: &'a File,
    pub(super) superblock: Superblock,
    metadata: Vec<(u64, Arc<Metadata>)>,
    last_fragment: Option<(u32, Arc<Vec<u8>>)>,
}

impl<'a> Image<'a> {
    pub(super) fn open(file: &'a File) -> Result<Self, Fault> {
        let mut bytes = [0; 96];
        let mut reader = file;
        let filled = stream::fill_partly(&mut reader, &mut bytes)?;
        if !bytes[..filled].starts_with(b"hsqs") {
            let found = stream::describe(&bytes[..filled]);
            return Err(Fault::NotThisFormat { expected: "a SquashFS image", found });
        }
        if filled < bytes.len() {
            return Err(Fault::Truncated);
        }
        let file_size = file.metadata().map_err(Fault::Read)?.len();
        let superblock = Superblock::parse(&bytes, file_size)?;
        Ok(Image { file, superblock, metadata: Vec::new(), last_fragment: None })
    }

    /// Reads `size` bytes (at most a block) at `position`, which must be inside the image.
    fn read_at(&self, position: u64, size: usize) -> Result<Vec<u8>, Fault> {
        let inside = position.checked_add(size as u64).is_some_and(|end| end <= self.superblock.size);
        if !inside {
            return Err(Fault::Damaged("a position behind the end of the image"));
        }
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, position).map_err(Fault::from_read)?;
        Ok(bytes)
    }

    /// Decompresses one block to at most `limit` bytes.
    fn decompress(&self, bytes: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
        let mut output = Vec::new();
        let cap = limit as u64 + 1;
        let result: io::Result<usize> = match self.superblock.compressor {
            Compressor::Gzip => flate2::read::ZlibDecoder::new(bytes).take(cap).read_to_end(&mut output),
            Compressor::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(64 << 20, 0).map_err(io::Error::from);
                stream.and_then(|stream| {
                    liblzma::bufread::XzDecoder::new_stream(bytes, stream).take(cap).read_to_end(&mut output)
                })
            }
            Compressor::Zstd => zstd::stream::read::Decoder::with_buffer(bytes).and_then(|mut decoder| {
                decoder.window_log_max(23)?;
                decoder.take(cap).read_to_end(&mut output)
            }),
        };
        result.map_err(Fault::Compressed)?;
        match output.len() > limit {
            true => Err(Fault::Damaged("a block is larger than the block size")),
            false => Ok(output),
        }
    }

    fn metadata(&mut self, position: u64) -> Result<Arc<Metadata>, Fault> {
        if let Some((_, block)) = self.metadata.iter().find(|(at, _)| *at == position) {
            return Ok(block.clone());
        }
        let header = u16_at(&self.read_at(position, 2)?, 0);
        let size = usize::from(header & 0x7fff);
        if size == 0 || size > METADATA {
            return Err(Fault::Damaged("the size of a metadata block"));
        }
        let stored = self.read_at(position + 2, size)?;
        let bytes = if header & 0x8000 != 0 { stored } else { self.decompress(&stored, METADATA)? };
        if bytes.is_empty() {
            return Err(Fault::Damaged("the size of a metadata block"));
        }
        let block = Arc::new(Metadata { bytes, next: position + 2 + size as u64 });
        if self.metadata.len() == CACHED {
            self.metadata.remove(0);
        }
        self.metadata.push((position, block.clone()));
        Ok(block)
    }

    /// Returns a reader of entry `index` of a table that is reached through a list of metadata block positions.
    pub(super) fn table(&self, list: u64, index: u64, entry: u64) -> Result<MetadataReader, Fault> {
        let byte = index.checked_mul(entry).ok_or(Fault::Damaged("a table index"))?;
        let place = (byte / METADATA as u64).checked_mul(8).and_then(|slot| slot.checked_add(list));
        let place = place.ok_or(Fault::Damaged("a table's position"))?;
        let position = u64_at(&self.read_at(place, 8)?, 0);
        Ok(MetadataReader { position, offset: (byte % METADATA as u64) as usize })
    }

    /// Reads the table of user and group IDs.
    pub(super) fn ids(&mut self) -> Result<Vec<u32>, Fault> {
        let mut ids = Vec::new();
        for index in 0..self.superblock.id_count {
            let [id] = self.table(self.superblock.ids, u64::from(index), 4)?.u32s(self)?;
            ids.push(id);
        }
        Ok(ids)
    }

    /// Reads four numbers that lie in the image as they are.
    pub(super) fn words_at(&self, position: u64) -> Result<[u32; 4], Fault> {
        let bytes = self.read_at(position, 16)?;
        Ok(std::array::from_fn(|index| u32_at(&bytes, 4 * index)))
    }

    /// Reads a data block: how many bytes it takes in the image, and its content. A block that is not stored is
    /// `wanted` zero bytes.
    pub(super) fn data(&self, position: u64, size: u32, wanted: usize) -> Result<(u64, Vec<u8>), Fault> {
        let stored = (size & !(1 << 24)) as usize;
        if stored == 0 {
            return Ok((0, vec![0; wanted]));
        }
        let limit = self.superblock.block_size as usize;
        if stored > limit {
            return Err(Fault::Damaged("a data block is larger than the block size"));
        }
        let bytes = self.read_at(position, stored)?;
        let bytes = if size & 1 << 24 != 0 { bytes } else { self.decompress(&bytes, limit)? };
        Ok((stored as u64, bytes))
    }

    /// Reads fragment block `index`.
    pub(super) fn fragment(&mut self, index: u32) -> Result<Arc<Vec<u8>>, Fault> {
        if let Some((last, block)) = &self.last_fragment
            && *last == index
        {
            return Ok(block.clone());
        }
        if index >= self.superblock.fragment_count {
            return Err(Fault::Damaged("a fragment's index"));
        }
        let mut reader = self.table(self.superblock.fragments, u64::from(index), 16)?;
        let [low, high, size, _unused] = reader.u32s(self)?;
        let (_, block) = self.data(u64::from(low) | u64::from(high) << 32, size, 0)?;
        let block = Arc::new(block);
        self.last_fragment = Some((index, block.clone()));
        Ok(block)
    }
}

/// Reads on through metadata blocks.
#[derive(Debug, Clone)]
pub(super) struct MetadataReader {
    /// Position of the block in the image.
    position: u64,
    offset: usize,
}

impl MetadataReader {
    /// Starts at `reference` of the table at `table`.
    pub(super) fn new(table: u64, reference: Reference) -> Self {
        // A position that overflows is behind the end of the image too.
        MetadataReader { position: table.saturating_add(reference.block), offset: usize::from(reference.offset) }
    }

    pub(super) fn fill(&mut self, image: &mut Image<'_>, mut buffer: &mut [u8]) -> Result<(), Fault> {
        while !buffer.is_empty() {
            let block = image.metadata(self.position)?;
            if self.offset >= block.bytes.len() {
                if self.offset > block.bytes.len() {
                    return Err(Fault::Damaged("an offset in a metadata block"));
                }
                (self.position, self.offset) = (block.next, 0);
                continue;
            }
            let rest = &block.bytes[self.offset..];
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            self.offset += count;
            buffer = &mut buffer[count..];
        }
        Ok(())
    }

    /// Reads `size` bytes; the caller bounds `size`.
    pub(super) fn bytes(&mut self, image: &mut Image<'_>, size: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; size];
        self.fill(image, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u16s<const N: usize>(&mut self, image: &mut Image<'_>) -> Result<[u16; N], Fault> {
        let bytes = self.bytes(image, 2 * N)?;
        Ok(std::array::from_fn(|index| u16_at(&bytes, 2 * index)))
    }

    pub(super) fn u32s<const N: usize>(&mut self, image: &mut Image<'_>) -> Result<[u32; N], Fault> {
        let bytes = self.bytes(image, 4 * N)?;
        Ok(std::array::from_fn(|index| u32_at(&bytes, 4 * index)))
    }

    pub(super) fn u64(&mut self, image: &mut Image<'_>) -> Result<u64, Fault> {
        let [low, high] = self.u32s(image)?;
        Ok(u64::from(low) | u64::from(high) << 32)
    }
}
