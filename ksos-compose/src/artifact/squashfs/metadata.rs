//! Metadata blocks of 8 KiB, and tables of fixed-size records in them.

use std::io;

use super::codec::Compressor;

/// Uncompressed size of every metadata block but the last of a table.
pub const BLOCK: usize = 8192;

const UNCOMPRESSED: u16 = 0x8000;

/// Returns the header of a metadata block that holds `length` bytes uncompressed; 0 cannot occur, 8192 is the most.
pub fn stored_header(length: usize) -> [u8; 2] {
    (length as u16 | UNCOMPRESSED).to_le_bytes()
}

/// Where something starts in a table of metadata blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Start of the metadata block in bytes from the table's start.
    pub block: u64,
    /// Offset in the uncompressed metadata block.
    pub offset: u16,
}

impl Position {
    /// Returns the 64-bit form that refers to an inode or an attribute.
    pub fn reference(self) -> u64 {
        self.block << 16 | u64::from(self.offset)
    }
}

/// Collects bytes into compressed metadata blocks. The result stays in memory: metadata is small.
pub struct MetadataWriter<'a> {
    compressor: &'a mut Compressor,
    pending: Vec<u8>,
    stored: Vec<u8>,
    starts: Vec<u64>,
}

impl<'a> MetadataWriter<'a> {
    /// Returns an empty table.
    pub fn new(compressor: &'a mut Compressor) -> Self {
        MetadataWriter { compressor, pending: Vec::with_capacity(2 * BLOCK), stored: Vec::new(), starts: Vec::new() }
    }

    /// Returns where the next byte goes.
    pub fn position(&self) -> Position {
        Position { block: self.stored.len() as u64, offset: self.pending.len() as u16 }
    }

    /// Adds `bytes`, which may go over several blocks.
    ///
    /// # Errors
    /// When the compressor fails.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = bytes.len().min(BLOCK - self.pending.len());
            self.pending.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.pending.len() == BLOCK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.starts.push(self.stored.len() as u64);
        match self.compressor.compress(&self.pending)? {
            Some(block) => {
                self.stored.extend((block.len() as u16).to_le_bytes());
                self.stored.extend(block);
            }
            None => {
                self.stored.extend(stored_header(self.pending.len()));
                self.stored.extend_from_slice(&self.pending);
            }
        }
        self.pending.clear();
        Ok(())
    }

    /// Returns the stored blocks and where each starts.
    ///
    /// # Errors
    /// When the compressor fails.
    pub fn finish(mut self) -> io::Result<(Vec<u8>, Vec<u64>)> {
        self.flush()?;
        Ok((self.stored, self.starts))
    }
}

/// A table with a list of its blocks behind them, ready to be written.
pub struct IndexedTable {
    /// Metadata blocks, then the positions of each as 64-bit numbers.
    pub bytes: Vec<u8>,
    /// Where the list of positions starts in the image: this is what the superblock holds.
    pub start: u64,
}

/// Makes the table that holds `records` and goes to byte `position` of the image; `header` goes before the list of
/// positions.
///
/// # Errors
/// When the compressor fails.
pub fn indexed_table(
    compressor: &mut Compressor,
    position: u64,
    header: &[u8],
    records: &[u8],
) -> io::Result<IndexedTable> {
    let mut writer = MetadataWriter::new(compressor);
    writer.write(records)?;
    let (mut bytes, starts) = writer.finish()?;
    let start = position + bytes.len() as u64;
    bytes.extend_from_slice(header);
    for block in starts {
        bytes.extend((position + block).to_le_bytes());
    }
    Ok(IndexedTable { bytes, start })
}
