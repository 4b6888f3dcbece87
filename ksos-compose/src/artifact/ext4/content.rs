//! Reads the contents of all files, in order, on a thread of its own, so that reading and hashing go on while what
//! was read before is written. A few buffers go round, each with many small files or a part of a large one.

use std::io::{self, Read};

use crossbeam_channel::{Receiver, Sender};

use super::Error;
use super::geometry::BLOCK;
use super::plan::Item;
use crate::tree::{Content, Node};

/// Bytes of a buffer; whole blocks.
const BUFFER: usize = 128 * BLOCK;
/// Buffers in flight.
const BUFFERS: usize = 8;

/// A full buffer.
#[derive(Debug)]
struct Chunk {
    buffer: Vec<u8>,
    /// Bytes in use; whole blocks.
    used: usize,
    parts: Vec<Part>,
}

/// Part of a file: whole blocks, zero behind the end of the file.
#[derive(Debug, Clone, Copy)]
struct Part {
    start: usize,
    end: usize,
    /// Whether the file ends here.
    last: bool,
}

/// The reading side.
#[derive(Debug)]
pub(super) struct Reader {
    pool: Receiver<Vec<u8>>,
    sender: Sender<Result<Chunk, Error>>,
    chunk: Option<Chunk>,
}

/// The receiving side.
#[derive(Debug)]
pub(super) struct Contents {
    pool: Sender<Vec<u8>>,
    receiver: Receiver<Result<Chunk, Error>>,
    chunk: Option<Chunk>,
    next: usize,
}

/// The receiving side is gone, because of an error of its own.
struct Disconnected;

enum Stop {
    Disconnected,
    Error(Error),
}

impl From<Disconnected> for Stop {
    fn from(_: Disconnected) -> Self {
        Stop::Disconnected
    }
}

/// Returns both sides.
pub(super) fn pipe() -> (Reader, Contents) {
    let (pool_sender, pool) = crossbeam_channel::bounded(BUFFERS);
    let (sender, receiver) = crossbeam_channel::bounded(BUFFERS);
    for _ in 0..BUFFERS {
        pool_sender.send(vec![0; BUFFER]).expect("the pool has room for all buffers, and a receiver");
    }
    let reader = Reader { pool, sender, chunk: None };
    (reader, Contents { pool: pool_sender, receiver, chunk: None, next: 0 })
}

impl Reader {
    /// Sends the contents of all files of `items` that are not empty, until the end, an error, or until the receiving
    /// side is gone.
    pub(super) fn read_all(mut self, items: &[Item<'_>]) {
        for item in items {
            let Node::File(content) = item.node else { continue };
            match self.read_file(item.path, content) {
                Ok(()) => {}
                Err(Stop::Disconnected) => return,
                Err(Stop::Error(error)) => {
                    // When the other side is gone, its own error is the one to report.
                    let _ = self.sender.send(Err(error));
                    return;
                }
            }
        }
        let _ = self.send();
    }

    fn read_file(&mut self, path: &str, content: &Content) -> Result<(), Stop> {
        if content.size == 0 {
            return Ok(());
        }
        let fail = |error: io::Error| {
            Stop::Error(match error.kind() {
                io::ErrorKind::UnexpectedEof => Error::ContentShort { path: path.to_owned(), size: content.size },
                io::ErrorKind::InvalidData => {
                    Error::ContentChanged { path: path.to_owned(), digest: content.digest.hex() }
                }
                _ => Error::Content { path: path.to_owned(), source: error },
            })
        };
        let mut reader = content.open().map_err(fail)?;
        let mut position = 0;
        while position < content.size {
            let chunk = self.chunk_with_room()?;
            let start = chunk.used;
            let count = (content.size - position).min((BUFFER - start) as u64) as usize;
            let end = start + count.next_multiple_of(BLOCK);
            let bytes = &mut chunk.buffer[start..end];
            reader.read_exact(&mut bytes[..count]).map_err(fail)?;
            bytes[count..].fill(0);
            position += count as u64;
            chunk.parts.push(Part { start, end, last: position == content.size });
            chunk.used = end;
        }
        Ok(())
    }

    fn chunk_with_room(&mut self) -> Result<&mut Chunk, Disconnected> {
        if self.chunk.as_ref().is_some_and(|chunk| chunk.used == BUFFER) {
            self.send()?;
        }
        if self.chunk.is_none() {
            let buffer = self.pool.recv().map_err(|_| Disconnected)?;
            self.chunk = Some(Chunk { buffer, used: 0, parts: Vec::new() });
        }
        self.chunk.as_mut().ok_or(Disconnected)
    }

    fn send(&mut self) -> Result<(), Disconnected> {
        match self.chunk.take() {
            Some(chunk) => self.sender.send(Ok(chunk)).map_err(|_| Disconnected),
            None => Ok(()),
        }
    }
}

impl Contents {
    /// Returns the next blocks, and whether they end a file.
    ///
    /// # Errors
    /// What the reading side met.
    pub(super) fn next(&mut self) -> Result<(&[[u8; BLOCK]], bool), Error> {
        if let Some(chunk) = self.chunk.take_if(|chunk| self.next == chunk.parts.len()) {
            // The reader is gone when it has sent everything; then the buffer is not needed any more.
            let _ = self.pool.send(chunk.buffer);
        }
        if self.chunk.is_none() {
            let chunk = self.receiver.recv().expect("the reader sends every file to its end, or an error")?;
            self.chunk = Some(chunk);
            self.next = 0;
        }
        let chunk = self.chunk.as_ref().expect("a chunk was just received");
        let part = chunk.parts[self.next];
        self.next += 1;
        Ok((chunk.buffer[part.start..part.end].as_chunks().0, part.last))
    }
}
