//! Positioned, bounded reads of an ELF file: a few kilobytes of it, whatever its size.

use std::io;

use crate::tree::content::ContentReader;

/// Something that is read at positions.
pub trait ReadAt {
    /// Fills `buffer` from byte `position`; the caller has checked that it is inside.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()>;
}

impl ReadAt for ContentReader {
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        ContentReader::read_exact_at(self, buffer, position)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let end = usize::try_from(position).ok().and_then(|start| Some(start..start.checked_add(buffer.len())?));
        let slice = end.and_then(|range| self.get(range)).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(slice);
        Ok(())
    }
}

/// Why a read gave nothing: the file is wrong, or could not be read.
pub(super) enum Fault {
    /// The named part lies outside the file, or is larger than it may be.
    Malformed(&'static str),
    /// I/O.
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::Io(error)
    }
}

/// Size of the pages that strings are read in.
const PAGE: u64 = 1024;

/// A file with bounds, and one page of it kept, since the strings of a file lie together.
pub(super) struct Bounded<'a, R: ReadAt + ?Sized> {
    reader: &'a R,
    size: u64,
    page: Vec<u8>,
    page_at: u64,
}

impl<'a, R: ReadAt + ?Sized> Bounded<'a, R> {
    pub(super) fn new(reader: &'a R, size: u64) -> Self {
        Bounded { reader, size, page: Vec::new(), page_at: 0 }
    }

    /// Reads `length` bytes at `position`, refusing more than `limit`.
    pub(super) fn bytes(&self, position: u64, length: u64, limit: u64, what: &'static str) -> Result<Vec<u8>, Fault> {
        let inside = position.checked_add(length).is_some_and(|end| end <= self.size);
        if !inside || length > limit {
            return Err(Fault::Malformed(what));
        }
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact_at(&mut bytes, position)?;
        Ok(bytes)
    }

    /// Reads a NUL-terminated string at `position`, at most 4096 bytes long.
    pub(super) fn string(&mut self, position: u64, what: &'static str) -> Result<String, Fault> {
        let mut text = Vec::new();
        let mut position = position;
        while text.len() <= 4096 {
            let offset = self.load(position).ok_or(Fault::Malformed(what))??;
            let rest = &self.page[offset..];
            if let Some(end) = rest.iter().position(|byte| *byte == 0) {
                text.extend(&rest[..end]);
                return Ok(String::from_utf8_lossy(&text).into_owned());
            }
            text.extend(rest);
            position += rest.len() as u64;
        }
        Err(Fault::Malformed(what))
    }

    /// Makes the kept page hold `position`; returns the offset in it, or `None` outside the file.
    fn load(&mut self, position: u64) -> Option<Result<usize, Fault>> {
        if position >= self.size {
            return None;
        }
        let start = position - position % PAGE;
        if self.page.is_empty() || start != self.page_at {
            let mut page = vec![0; PAGE.min(self.size - start) as usize];
            if let Err(error) = self.reader.read_exact_at(&mut page, start) {
                return Some(Err(error.into()));
            }
            self.page = page;
            self.page_at = start;
        }
        Some(Ok((position - start) as usize))
    }
}
