//! Block compressors, one per thread, and the options block after the superblock.

use std::io;

use flate2::{Compress, FlushCompress, Status};
use ksos_formats::digest::Hasher;
use liblzma::stream::{Action, Check, Filters, LzmaOptions, Stream};

use super::Compression;

/// Names the encoders that have no version number at run time: a new zlib-rs or liblzma that gives other bytes
/// takes a new number, so that old cached blocks do not mix with new ones.
const ENCODERS: u32 = 1;

/// Levels at which squashfs-tools write no options block.
const DEFAULT_ZSTD_LEVEL: u8 = 15;
const DEFAULT_GZIP_LEVEL: u8 = 9;

/// Returns the compressor options as a stored metadata block, or `None` where they are the defaults.
pub fn options_block(compression: Compression) -> Option<Vec<u8>> {
    let options = match compression {
        Compression::Zstd(level) if level != DEFAULT_ZSTD_LEVEL => u32::from(level).to_le_bytes().to_vec(),
        Compression::Gzip(level) if level != DEFAULT_GZIP_LEVEL => {
            // Level, window size as a power of two, strategies (0: the default one).
            let mut options = u32::from(level).to_le_bytes().to_vec();
            options.extend(15_u16.to_le_bytes());
            options.extend(0_u16.to_le_bytes());
            options
        }
        _ => return None,
    };
    let mut block = super::metadata::stored_header(options.len()).to_vec();
    block.extend(options);
    Some(block)
}

/// Starts a cache key that depends on everything that decides the compressed bytes, except the content.
pub fn cache_key(compression: Compression, block_size: u32, kind: &str) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.field(b"squashfs blocks 1");
    hasher.field(kind.as_bytes());
    let (name, level, version) = match compression {
        Compression::Zstd(level) => ("zstd", level, zstd::zstd_safe::version_number()),
        Compression::Xz => ("xz", 0, ENCODERS),
        Compression::Gzip(level) => ("gzip", level, ENCODERS),
        Compression::None => ("none", 0, ENCODERS),
    };
    hasher.field(name.as_bytes());
    hasher.field(&[level]);
    hasher.field(&version.to_le_bytes());
    hasher.field(&block_size.to_le_bytes());
    hasher
}

/// Compresses blocks.
pub enum Compressor {
    /// Zstandard; the working memory is used again from block to block.
    Zstd(Box<zstd::bulk::Compressor<'static>>),
    /// XZ with a dictionary of this many bytes.
    Xz(u32),
    /// Deflate in zlib framing at this level.
    Gzip(u8),
    /// None.
    None,
}

impl Compressor {
    /// Returns a compressor for blocks of up to `block_size` bytes.
    ///
    /// # Errors
    /// When the encoder cannot be set up.
    pub fn new(compression: Compression, block_size: u32) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zstd(level) => Compressor::Zstd(Box::new(zstd::bulk::Compressor::new(i32::from(level))?)),
            // The kernel takes no dictionary larger than a block and no smaller than a metadata block.
            Compression::Xz => Compressor::Xz(block_size.max(8192)),
            Compression::Gzip(level) => Compressor::Gzip(level),
            Compression::None => Compressor::None,
        })
    }

    /// Returns the compressed form of `input`, or `None` when that is not smaller.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn compress(&mut self, input: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let output = match self {
            Compressor::Zstd(compressor) => Some(compressor.compress(input)?),
            Compressor::Xz(dictionary) => compress_xz(input, *dictionary)?,
            Compressor::Gzip(level) => compress_zlib(input, *level)?,
            Compressor::None => None,
        };
        Ok(output.filter(|output| output.len() < input.len()))
    }
}

fn compress_xz(input: &[u8], dictionary: u32) -> io::Result<Option<Vec<u8>>> {
    let mut options = LzmaOptions::new_preset(6)?;
    options.dict_size(dictionary);
    let mut filters = Filters::new();
    filters.lzma2(&options);
    // The kernel's decoder knows no check but CRC32.
    let mut stream = Stream::new_stream_encoder(&filters, Check::Crc32)?;
    let mut output = Vec::with_capacity(input.len());
    let status = stream.process_vec(input, &mut output, Action::Finish)?;
    // Anything but the end means that the output is full: not smaller than the input.
    Ok((status == liblzma::stream::Status::StreamEnd).then_some(output))
}

fn compress_zlib(input: &[u8], level: u8) -> io::Result<Option<Vec<u8>>> {
    // A new encoder every time: zlib-rs 0.6 gives other bytes at level 1 after a reset, depending on what went before.
    let mut encoder = Compress::new(flate2::Compression::new(u32::from(level)), true);
    let mut output = Vec::with_capacity(input.len());
    let status = encoder.compress_vec(input, &mut output, FlushCompress::Finish)?;
    Ok((status == Status::StreamEnd).then_some(output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_written_only_when_they_are_not_the_default() {
        assert_eq!(options_block(Compression::Zstd(15)), None);
        assert_eq!(options_block(Compression::Gzip(9)), None);
        assert_eq!(options_block(Compression::Xz), None);
        assert_eq!(options_block(Compression::Zstd(3)), Some(vec![4, 0x80, 3, 0, 0, 0]));
        assert_eq!(options_block(Compression::Gzip(6)), Some(vec![8, 0x80, 6, 0, 0, 0, 15, 0, 0, 0]));
    }

    #[test]
    fn noise_is_left_uncompressed() {
        let noise: Vec<u8> = (0..64_u32).flat_map(|seed| ksos_formats::Digest::of(&seed.to_le_bytes()).0).collect();
        for compression in [Compression::Zstd(15), Compression::Xz, Compression::Gzip(9), Compression::None] {
            let mut compressor = Compressor::new(compression, 4096).unwrap();
            assert_eq!(compressor.compress(&noise).unwrap(), None, "{compression:?}");
            let zeros = compressor.compress(&[0; 4096]).unwrap();
            assert_eq!(zeros.is_some(), compression != Compression::None, "{compression:?}");
        }
    }

    #[test]
    fn keys_differ_by_every_setting() {
        let key = |compression, size, kind| cache_key(compression, size, kind).finish();
        let base = key(Compression::Zstd(15), 4096, "file");
        assert_ne!(base, key(Compression::Zstd(14), 4096, "file"));
        assert_ne!(base, key(Compression::Gzip(9), 4096, "file"));
        assert_ne!(base, key(Compression::Zstd(15), 8192, "file"));
        assert_ne!(base, key(Compression::Zstd(15), 4096, "fragment"));
    }
}
