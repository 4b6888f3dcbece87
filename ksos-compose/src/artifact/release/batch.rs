//! Reads an image in batches that end where a chunk ends.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};

use ksos_formats::update::chunks::{self, MAX_CHUNK, Piece};

/// Bytes of a batch, but for the part of a chunk that is left for the next.
pub const BATCH: usize = 16 << 20;

/// A piece of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the batch.
    pub start: usize,
    /// Length in bytes.
    pub length: usize,
    /// Nothing but zeros.
    pub zeros: bool,
}

/// Some of an image, cut.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Its pieces, from its first byte to its last.
    pub extents: Vec<Extent>,
}

impl Batch<'_> {
    /// Calls `work` for every chunk, with a state of each of the `jobs` workers, which `state` makes; results in order,
    /// none for zeros.
    pub fn map<S, R: Send>(
        &self,
        jobs: usize,
        state: &(impl Fn() -> S + Sync),
        work: &(impl Fn(&mut S, &[u8]) -> R + Sync),
    ) -> Vec<Option<R>> {
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut state = state();
            let mut done = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(extent) = self.extents.get(number) else { return done };
                if !extent.zeros {
                    let bytes = &self.bytes[extent.start..extent.start + extent.length];
                    done.push((number, work(&mut state, bytes)));
                }
            }
        };
        let mut results: Vec<Option<R>> = self.extents.iter().map(|_| None).collect();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs.clamp(1, 256)).map(|_| scope.spawn(worker)).collect();
            for worker in workers {
                let done = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                done.into_iter().for_each(|(number, result)| results[number] = Some(result));
            }
        });
        results
    }
}

/// An image as batches.
pub struct Batches<'a> {
    reader: &'a mut dyn Read,
    /// Bytes of the image that were not read yet.
    left: u64,
    buffer: Vec<u8>,
    /// Bytes in the buffer.
    filled: usize,
    /// Bytes at the start of the buffer that the last batch had.
    used: usize,
}

impl<'a> Batches<'a> {
    /// Reads `size` bytes from `reader`.
    pub fn new(reader: &'a mut dyn Read, size: u64) -> Self {
        let capacity = (BATCH as u64).min(size) as usize;
        Batches { reader, left: size, buffer: vec![0; capacity], filled: 0, used: 0 }
    }

    /// Returns the next batch; nothing at the end.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the image ends early.
    pub fn next(&mut self) -> io::Result<Option<Batch<'_>>> {
        self.buffer.copy_within(self.used..self.filled, 0);
        self.filled -= self.used;
        self.used = 0;
        let wanted = ((self.buffer.len() - self.filled) as u64).min(self.left) as usize;
        self.reader.read_exact(&mut self.buffer[self.filled..self.filled + wanted])?;
        self.filled += wanted;
        self.left -= wanted as u64;
        let mut extents = Vec::new();
        // A chunk is cut with as many bytes behind it as it can have.
        while self.used < self.filled && (self.left == 0 || self.filled - self.used >= MAX_CHUNK) {
            let piece = chunks::first(&self.buffer[self.used..self.filled]);
            let (length, zeros) = (piece.len(), matches!(piece, Piece::Zeros(_)));
            extents.push(Extent { start: self.used, length, zeros });
            self.used += length;
        }
        Ok((!extents.is_empty()).then_some(Batch { bytes: &self.buffer[..self.used], extents }))
    }
}
