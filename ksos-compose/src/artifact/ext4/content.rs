//! Reads the contents of all files, in order, on a thread of its own, so that reading and hashing go on while the
//! blocks of the file before are written. A few buffers go round; a file is never held.

use std::io;

use crossbeam_channel::{Receiver, Sender};
use ksos_formats::digest::Hasher;

use super::Error;
use super::geometry::BLOCK;
use super::plan::Item;
use crate::tree::{Content, Location, Node};

/// Bytes of a buffer; whole blocks.
pub(super) const CHUNK: usize = 128 * BLOCK;
/// Buffers in flight.
pub(super) const CHUNKS: usize = 8;

/// Part of a file: whole blocks, zero behind the end of the file.
#[derive(Debug)]
pub(super) struct Chunk {
    buffer: Vec<u8>,
    used: usize,
    /// Whether the file ends here.
    pub(super) last: bool,
}

impl Chunk {
    /// Returns the blocks.
    pub(super) fn blocks(&self) -> &[[u8; BLOCK]] {
        self.buffer[..self.used].as_chunks().0
    }

    /// Gives the buffer back.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}

/// Sends the contents of all files of `items` that are not empty, using the buffers from `pool`, until the end, an
/// error or until the other side hangs up.
pub(super) fn read_all(
    items: &[Item<'_>],
    verify: bool,
    pool: &Receiver<Vec<u8>>,
    sender: &Sender<Result<Chunk, Error>>,
) {
    for item in items {
        let Node::File(content) = item.node else { continue };
        match read_file(item.path, content, verify, pool, sender) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                // The other side may be gone because of an error of its own, which then is the one to report.
                let _ = sender.send(Err(error));
                return;
            }
        }
    }
}

/// Returns whether the other side still listens.
fn read_file(
    path: &str,
    content: &Content,
    verify: bool,
    pool: &Receiver<Vec<u8>>,
    sender: &Sender<Result<Chunk, Error>>,
) -> Result<bool, Error> {
    if content.size == 0 {
        return Ok(true);
    }
    let fail = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::ContentShort { path: path.to_owned(), size: content.size },
        _ => Error::Content { path: path.to_owned(), source: error },
    };
    let reader = content.open().map_err(fail)?;
    // Bytes in memory cannot have changed since their digest was made.
    let mut hasher = (verify && !matches!(content.location, Location::Inline(_))).then(Hasher::new);
    let mut position = 0;
    while position < content.size {
        let Ok(mut buffer) = pool.recv() else { return Ok(false) };
        let count = (content.size - position).min(CHUNK as u64) as usize;
        let used = count.next_multiple_of(BLOCK);
        reader.read_exact_at(&mut buffer[..count], position).map_err(fail)?;
        buffer[count..used].fill(0);
        position += count as u64;
        if let Some(hasher) = &mut hasher {
            hasher.update(&buffer[..count]);
        }
        let last = position == content.size;
        if last && hasher.take().is_some_and(|hasher| hasher.finish() != content.digest) {
            return Err(Error::ContentChanged { path: path.to_owned(), digest: content.digest.hex() });
        }
        if sender.send(Ok(Chunk { buffer, used, last })).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}
