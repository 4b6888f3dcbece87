//! Image files as streams: raw or compressed (zstd, xz, gzip), told by their first bytes, and measured before anything
//! is written to a disk.
//!
//! Limits: 128 MiB of memory for a decoder; the caller says how many bytes it takes.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;

use super::FlashError;
use crate::effects::fs::{self, Context};
use crate::effects::progress::Progress;

const XZ_MEMORY: u64 = 128 << 20;
/// log2 of the largest zstd window: 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 27;
/// The list of checksums that a build writes beside its artifacts.
const SUMS: &str = "SHA256SUMS";
const SUMS_LIMIT: u64 = 1 << 20;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952), of several members too.
    Gzip,
    /// xz, of several streams too.
    Xz,
    /// Zstandard (RFC 8878), of several frames too.
    Zstd,
}

/// An image that can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The file.
    pub path: PathBuf,
    /// How it is compressed.
    pub compression: Compression,
    /// Size in bytes on the disk.
    pub size: u64,
    /// The file's digest is the one that `SHA256SUMS` beside it states; `false` when nothing is stated.
    pub checked: bool,
}

impl Image {
    /// Looks at the image at `path`: its compression, its size on a disk, and whether it is whole. Compressed images are
    /// decoded once for this, so that a damaged one does no harm.
    ///
    /// # Errors
    /// When it cannot be read or decoded, is empty, has more than `limit` bytes, or is not what `SHA256SUMS` says.
    pub fn open(path: &Path, limit: u64, progress: &dyn Progress) -> Result<Self, FlashError> {
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(FlashError::NotFile { path: path.to_owned() });
        }
        let mut start = [0; 6];
        let mut file = fs::open(path)?;
        let count = fs::read_full(&mut file, &mut start).context("read", path)?;
        let compression = compression_of(&start[..count]);
        let checked = check_sum(path)?;
        let mut image = Image { path: path.to_owned(), compression, size: metadata.len(), checked };
        if compression != Compression::None {
            image.size = image.measure(limit, progress)?;
        }
        match image.size {
            0 => Err(FlashError::Empty { path: path.to_owned() }),
            size if size > limit => Err(FlashError::TooLarge { path: path.to_owned(), size: Some(size), disk: limit }),
            _ => Ok(image),
        }
    }

    /// Returns its content from the beginning.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn content(&self) -> Result<Box<dyn Read>, FlashError> {
        let file = fs::open(&self.path)?;
        decoder(file, self.compression).context("decode", &self.path).map_err(FlashError::Fs)
    }

    fn measure(&self, limit: u64, progress: &dyn Progress) -> Result<u64, FlashError> {
        let mut task = progress.start("check the image", None);
        let mut content = self.content()?;
        let mut buffer = vec![0; 1 << 20];
        let mut size = 0;
        loop {
            let count = content.read(&mut buffer).context("decode", &self.path)?;
            if count == 0 {
                break;
            }
            size += count as u64;
            task.advance(count as u64);
            if size > limit {
                return Err(FlashError::TooLarge { path: self.path.clone(), size: None, disk: limit });
            }
        }
        task.finish();
        Ok(size)
    }
}

fn compression_of(bytes: &[u8]) -> Compression {
    match bytes {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Compression::Xz,
        // A frame, or a skippable one (RFC 8878, 3.1.1 and 3.1.2).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

fn decoder(file: File, compression: Compression) -> io::Result<Box<dyn Read>> {
    let reader = BufReader::with_capacity(1 << 20, file);
    Ok(match compression {
        Compression::None => Box::new(reader),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Compression::Xz => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags).map_err(io::Error::from)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(reader, stream))
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

/// Compares the file with what `SHA256SUMS` beside it says, if it does; returns whether it does.
fn check_sum(path: &Path) -> Result<bool, FlashError> {
    let sums = path.with_file_name(SUMS);
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(false) };
    if fs::metadata(&sums).is_err() {
        return Ok(false);
    }
    let text = fs::read_to_string(&sums, SUMS_LIMIT)?;
    // sha256sum(1): the digest, a space, a space or an asterisk, the name.
    let stated = text.lines().find_map(|line| {
        let (digest, rest) = line.split_once(' ')?;
        (rest.strip_prefix([' ', '*']) == Some(name)).then_some(digest)
    });
    let Some(stated) = stated else { return Ok(false) };
    let mut hasher = Hasher::new();
    let mut file = BufReader::with_capacity(1 << 20, fs::open(path)?);
    io::copy(&mut file, &mut hasher).context("read", path)?;
    let found: Digest = hasher.finish();
    if found.hex() != stated {
        let (path, stated) = (path.to_owned(), stated.to_owned());
        return Err(FlashError::Sum { path, sums, stated, found: found.hex() });
    }
    Ok(true)
}
