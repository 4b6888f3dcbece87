//! Buffered writes at byte offsets, with holes where nothing is written.

use std::io::{self, Seek, SeekFrom, Write};

const CAPACITY: usize = 1 << 20;

/// Joins writes that follow one another into large ones and seeks over the rest.
#[derive(Debug)]
pub(super) struct SparseWriter<'o, W> {
    out: &'o mut W,
    /// Offset in `out` of the file system's first byte.
    base: u64,
    /// Where `out` is, from `base`.
    position: u64,
    buffer: Vec<u8>,
    /// Offset of the first byte in `buffer`.
    start: u64,
    /// Writes at or beyond this offset are dropped.
    limit: u64,
    highest: u64,
}

impl<'o, W: Write + Seek> SparseWriter<'o, W> {
    /// Returns a writer whose offset 0 is where `out` is now, and that drops what lies at or beyond `limit`.
    pub(super) fn new(out: &'o mut W, limit: u64) -> io::Result<Self> {
        let base = out.stream_position()?;
        Ok(SparseWriter { out, base, position: 0, buffer: Vec::with_capacity(CAPACITY), start: 0, limit, highest: 0 })
    }

    /// Writes `bytes` at `offset`.
    pub(super) fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        if end > self.limit {
            return Ok(());
        }
        let follows = self.start + self.buffer.len() as u64 == offset;
        if !follows || self.buffer.len() + bytes.len() > CAPACITY {
            self.flush()?;
            self.start = offset;
        }
        self.highest = self.highest.max(end);
        if bytes.len() >= CAPACITY {
            self.start = end;
            return self.write_through(offset, bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes what is buffered, and a last zero byte if nothing was written up to `size`.
    pub(super) fn finish(mut self, size: u64) -> io::Result<()> {
        self.flush()?;
        if self.highest < size {
            self.write_through(size - 1, &[0])?;
        }
        self.out.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.write_through(self.start, &buffer);
        self.start += buffer.len() as u64;
        buffer.clear();
        self.buffer = buffer;
        result
    }

    fn write_through(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.position != offset {
            self.out.seek(SeekFrom::Start(self.base + offset))?;
        }
        self.out.write_all(bytes)?;
        self.position = offset + bytes.len() as u64;
        Ok(())
    }
}
