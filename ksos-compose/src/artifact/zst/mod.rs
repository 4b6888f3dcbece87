//! Disk images compressed with Zstandard (RFC 8878).
//!
//! The image is cut into pieces of [`FRAME`] bytes, each a frame of its own with its size and a checksum: threads
//! compress side by side, a reader can, too, and every `zstd -d` takes the frames one after another. What comes out does
//! not hang on the number of threads. Holes are not read, and frames of zeros are compressed once.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use super::disk::copy::next_data;
use super::ordered::ordered;

/// Bytes of the image in a frame.
pub const FRAME: u64 = 4 << 20;
/// Most of an image is compressed already: higher levels take time and save little.
const LEVEL: i32 = 3;

/// A piece of the image.
enum Piece {
    /// Bytes of data.
    Data { position: u64, length: usize },
    /// Zeros.
    Hole(usize),
}

/// Compresses the first `size` bytes of `source` into `target`, with `jobs` threads.
///
/// # Errors
/// When `source` cannot be read or `target` not be written.
pub fn write(source: &File, size: u64, target: &mut dyn Write, jobs: usize) -> io::Result<()> {
    let zeros = Worker::new()?.compress(&vec![0; FRAME as usize])?;
    ordered(
        jobs,
        &Worker::new,
        &|worker: &mut io::Result<Worker>, piece| {
            let worker = worker.as_mut().map_err(|error| io::Error::from(error.kind()))?;
            match piece {
                Piece::Hole(length) if length == FRAME as usize => Ok(zeros.clone()),
                Piece::Hole(length) => worker.compress(&vec![0; length]),
                Piece::Data { position, length } => worker.read(source, position, length),
            }
        },
        |queue| pieces(source, size, &mut |piece| queue.push(piece)),
        &mut |frame: io::Result<Vec<u8>>| target.write_all(&frame?),
    )
}

/// Cuts the image; an empty one is one empty frame, because a file without frames is none.
fn pieces(source: &File, size: u64, push: &mut dyn FnMut(Piece) -> io::Result<()>) -> io::Result<()> {
    if size == 0 {
        return push(Piece::Hole(0));
    }
    let (mut position, mut data) = (0, None);
    while position < size {
        let length = FRAME.min(size - position);
        if data.is_none_or(|(_, end)| end <= position) {
            // Behind the last data: a region that is never reached.
            data = Some(next_data(source, position, size)?.unwrap_or((u64::MAX, u64::MAX)));
        }
        let is_hole = data.is_some_and(|(start, _)| start >= position + length);
        let length_in_memory = length as usize;
        push(match is_hole {
            true => Piece::Hole(length_in_memory),
            false => Piece::Data { position, length: length_in_memory },
        })?;
        position += length;
    }
    Ok(())
}

struct Worker {
    compressor: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl Worker {
    fn new() -> io::Result<Self> {
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        Ok(Worker { compressor, buffer: Vec::new() })
    }

    fn compress(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        self.compressor.compress(bytes)
    }

    fn read(&mut self, source: &File, position: u64, length: usize) -> io::Result<Vec<u8>> {
        self.buffer.resize(length, 0);
        source.read_exact_at(&mut self.buffer, position)?;
        self.compressor.compress(&self.buffer)
    }
}
