//! Byte streams below the format readers: look-ahead, decompression piece by piece, exact lengths, caps.

use std::io::{self, BufRead, Read};

use super::error::{Fault, Step, escape};
use super::{Compression, Limits};
use crate::effects::fs::read_full;

/// Memory that an xz decoder may use: preset -9 needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;
/// log2 of the largest zstd window accepted: 128 MiB, what `zstd --ultra -22` makes.
const ZSTD_WINDOW_LOG: u32 = 27;

/// A buffered reader that can look ahead a few bytes whatever the size of the reads below it.
#[derive(Debug)]
pub(super) struct Source<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: Read> Source<R> {
    pub(super) fn new(inner: R) -> Self {
        Source { inner, buffer: vec![0; 64 * 1024], start: 0, end: 0 }
    }

    /// Returns the next `count` bytes without consuming them; fewer only at the end of the data.
    pub(super) fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        debug_assert!(count <= 4096, "look-ahead is small");
        if self.end - self.start < count {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            while self.end < count {
                match self.inner.read(&mut self.buffer[self.end..]) {
                    Ok(0) => break,
                    Ok(read) => self.end += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(&self.buffer[self.start..self.end.min(self.start + count)])
    }

    /// Consumes zero bytes up to the next other byte; returns whether there is one.
    pub(super) fn skip_zeros(&mut self) -> io::Result<bool> {
        loop {
            let available = self.fill_buf()?;
            if available.is_empty() {
                return Ok(false);
            }
            let zeros = available.iter().take_while(|byte| **byte == 0).count();
            let more = zeros < available.len();
            self.consume(zeros);
            if more {
                return Ok(true);
            }
        }
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.end = self.inner.read(&mut self.buffer)?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
    }
}

/// Returns the compression that data beginning with `bytes` has.
pub(super) fn compression_of(bytes: &[u8]) -> Compression {
    match bytes {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        // A skippable frame (RFC 8878, section 3.1.2).
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

enum Decoder<R: BufRead> {
    Gzip(flate2::bufread::GzDecoder<R>),
    Xz(liblzma::bufread::XzDecoder<R>),
    Zstd(zstd::stream::read::Decoder<'static, R>),
}

impl<R: BufRead> Decoder<R> {
    fn new(compression: Compression, reader: R) -> io::Result<Option<Self>> {
        Ok(match compression {
            Compression::None => None,
            Compression::Gzip => Some(Decoder::Gzip(flate2::bufread::GzDecoder::new(reader))),
            Compression::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0).map_err(io::Error::from)?;
                Some(Decoder::Xz(liblzma::bufread::XzDecoder::new_stream(reader, stream)))
            }
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?.single_frame();
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Some(Decoder::Zstd(decoder))
            }
        })
    }

    fn into_inner(self) -> R {
        match self {
            Decoder::Gzip(decoder) => decoder.into_inner(),
            Decoder::Xz(decoder) => decoder.into_inner(),
            Decoder::Zstd(decoder) => decoder.finish(),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Xz(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// Decompresses one stream and those of the same kind that follow it directly, and consumes not a byte more.
pub(super) struct Decompressed<'a, R: Read> {
    compression: Compression,
    decoder: Option<Decoder<&'a mut Source<R>>>,
}

impl<'a, R: Read> Decompressed<'a, R> {
    /// `compression` must not be [`Compression::None`].
    pub(super) fn new(compression: Compression, source: &'a mut Source<R>) -> Result<Self, Fault> {
        let decoder = Decoder::new(compression, source).map_err(Fault::from_read)?;
        Ok(Decompressed { compression, decoder })
    }
}

impl<R: Read> Read for Decompressed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let count = decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(decoder) = self.decoder.take() else { break };
            let source = decoder.into_inner();
            if compression_of(source.peek(6)?) == self.compression {
                self.decoder = Decoder::new(self.compression, source)?;
            }
        }
        Ok(0)
    }
}

/// Yields exactly `left` bytes or fails with [`Fault::Truncated`].
pub(super) struct Exact<'a> {
    pub(super) inner: &'a mut dyn Read,
    pub(super) left: u64,
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = (buffer.len() as u64).min(self.left) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(Fault::Truncated.into_io());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Fails once more has come out of a decompressor than an archive within the limits can have.
pub(super) struct Capped<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Capped<R> {
    pub(super) fn new(inner: R, limits: &Limits) -> Self {
        // Headers, names and padding come on top of the contents.
        let left = limits.total.saturating_add(limits.entries as u64 * 2048).saturating_add(1 << 20);
        Capped { inner, left, limit: limits.total }
    }
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => return Err(Fault::TotalLimit { limit: self.limit }.into_io()),
        }
        Ok(count)
    }
}

/// Reads exactly `buffer`.
pub(super) fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> Result<(), Fault> {
    reader.read_exact(buffer).map_err(Fault::from_read)
}

/// Fills `buffer` as far as the data goes and returns how far.
pub(super) fn fill_partly(reader: &mut dyn Read, buffer: &mut [u8]) -> Result<usize, Fault> {
    read_full(reader, buffer).map_err(Fault::from_read)
}

/// Reads `size` bytes into memory; the caller has checked `size`, and memory grows only as data comes.
pub(super) fn bytes(reader: &mut dyn Read, size: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    Exact { inner: reader, left: size }.read_to_end(&mut bytes).map_err(Fault::from_read)?;
    Ok(bytes)
}

/// Reads to the end, which must be zero bytes only.
pub(super) fn expect_zeros(reader: &mut dyn Read) -> Step<()> {
    let mut buffer = [0; 8192];
    loop {
        let count = fill_partly(reader, &mut buffer)?;
        if buffer[..count].iter().any(|byte| *byte != 0) {
            return Err(Fault::TrailingData.into());
        }
        if count < buffer.len() {
            return Ok(());
        }
    }
}

/// Says what data that begins with `bytes` is, for a message.
pub(super) fn describe(bytes: &[u8]) -> String {
    let name = match bytes {
        [] => "nothing: it is empty",
        [b'P', b'K', 3 | 5, 4 | 6, ..] => "a zip header",
        [b'h', b's', b'q', b's', ..] => "a SquashFS header",
        [b'0', b'7', b'0', b'7', b'0', b'1' | b'2', ..] => "a cpio header",
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => "an ar (.deb) header",
        _ => match compression_of(bytes) {
            Compression::Gzip => "a gzip header",
            Compression::Xz => "an xz header",
            Compression::Zstd => "a zstd header",
            Compression::None => return format!("\"{}\"", escape(&bytes[..bytes.len().min(16)])),
        },
    };
    name.to_owned()
}
