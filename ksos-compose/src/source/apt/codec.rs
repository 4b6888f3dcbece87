//! Decompression with limits: what indexes and `.deb` members are compressed with.

use std::io::{self, BufRead, Read};

/// The most memory the xz decoder may take, in bytes: `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, any number of members.
    Gzip,
    /// xz, any number of streams.
    Xz,
    /// Zstandard, any number of frames.
    Zstd,
}

impl Compression {
    /// Returns the compression that a file name's suffix stands for: `""`, `.gz`, `.xz` or `.zst`.
    pub fn from_suffix(suffix: &str) -> Option<Self> {
        match suffix {
            "" => Some(Compression::None),
            ".gz" => Some(Compression::Gzip),
            ".xz" => Some(Compression::Xz),
            ".zst" => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// Returns a reader of the decompressed stream. A stream that ends early is an error, not an end.
    ///
    /// # Errors
    /// When the decoder cannot be set up.
    pub fn decode<'a>(self, reader: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Compression::None => Box::new(reader),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
            Compression::Xz => {
                let flags = liblzma::stream::CONCATENATED;
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(reader, stream))
            }
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(reader)?),
        })
    }
}

/// Reads at most `limit` bytes of `inner`; more is an error. With `exact`, less is an error too.
#[derive(Debug)]
pub struct Limited<R> {
    inner: R,
    left: u64,
    limit: u64,
    exact: bool,
}

impl<R: Read> Limited<R> {
    /// Refuses more than `limit` bytes.
    pub fn at_most(inner: R, limit: u64) -> Self {
        Limited { inner, left: limit, limit, exact: false }
    }

    /// Refuses anything but `size` bytes.
    pub fn exactly(inner: R, size: u64) -> Self {
        Limited { inner, left: size, limit: size, exact: true }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            let more = self.inner.read(&mut [0])?;
            let error = || io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {} bytes", self.limit));
            return if more == 0 { Ok(0) } else { Err(error()) };
        }
        let wanted = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.inner.read(&mut buffer[..wanted])?;
        if count == 0 && self.exact {
            let found = self.limit - self.left;
            let message = format!("it ends after {found} of {} bytes", self.limit);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    pub(crate) fn encode(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        match compression {
            Compression::None => bytes.to_vec(),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
        }
    }

    #[test]
    fn every_codec_decodes_and_notices_a_truncated_stream() {
        let text = b"hello ".repeat(5000);
        for compression in [Compression::Gzip, Compression::Xz, Compression::Zstd] {
            let encoded = encode(compression, &text);
            let decode = |bytes: &[u8]| {
                let mut out = Vec::new();
                compression.decode(bytes)?.read_to_end(&mut out).map(|_| out)
            };
            assert_eq!(decode(&encoded).unwrap(), text, "{compression:?}");
            for length in [1, 10, encoded.len() / 2, encoded.len() - 1] {
                assert!(decode(&encoded[..length]).is_err(), "{compression:?} cut at {length}");
            }
            assert_eq!(decode(&[encoded.clone(), encoded].concat()).unwrap().len(), 2 * text.len(), "{compression:?}");
        }
    }

    #[test]
    fn limits_are_kept() {
        let read = |mut reader: Limited<&[u8]>| {
            let mut out = Vec::new();
            reader.read_to_end(&mut out).map(|_| out.len()).map_err(|error| error.to_string())
        };
        assert_eq!(read(Limited::at_most(b"12345", 5)), Ok(5));
        assert_eq!(read(Limited::at_most(b"12345", 6)), Ok(5));
        assert_eq!(read(Limited::at_most(b"12345", 4)), Err("more than 4 bytes".to_owned()));
        assert_eq!(read(Limited::exactly(b"12345", 5)), Ok(5));
        assert_eq!(read(Limited::exactly(b"12345", 4)), Err("more than 4 bytes".to_owned()));
        assert_eq!(read(Limited::exactly(b"12345", 6)), Err("it ends after 5 of 6 bytes".to_owned()));
    }
}
