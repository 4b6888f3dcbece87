//! A part of a file that looks like a file of its own, so that a writer can write its format straight into a partition
//! of a disk image: no copy, no temporary file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

/// The bytes `start..start + size` of a file. Reading past the end gives end of file, writing past it an error.
#[derive(Debug)]
pub struct Window<'a> {
    file: &'a File,
    start: u64,
    size: u64,
    position: u64,
}

impl<'a> Window<'a> {
    /// Returns the window of `size` bytes from `start`.
    pub fn new(file: &'a File, start: u64, size: u64) -> Self {
        Window { file, start, size, position: 0 }
    }

    fn left(&self) -> u64 {
        self.size.saturating_sub(self.position)
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = (buffer.len() as u64).min(self.left()) as usize;
        let count = self.file.read_at(&mut buffer[..wanted], self.start + self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Write for Window<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let wanted = (bytes.len() as u64).min(self.left()) as usize;
        if wanted == 0 && !bytes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("past the end of {} bytes", self.size)));
        }
        let count = self.file.write_at(&bytes[..wanted], self.start + self.position)?;
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_stays_inside() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[b'.'; 12], 0).unwrap();
        let mut window = Window::new(&file, 4, 4);
        window.write_all(b"abcd").unwrap();
        assert_eq!(window.write(b"e").unwrap_err().kind(), io::ErrorKind::StorageFull);
        window.seek(SeekFrom::End(-2)).unwrap();
        let mut text = String::new();
        window.read_to_string(&mut text).unwrap();
        assert_eq!(text, "cd");
        let mut all = [0; 12];
        file.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(&all, b"....abcd....");
    }
}
