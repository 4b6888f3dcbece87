//! One gzip member (RFC 1952) made by several threads.
//!
//! The input is cut into chunks; each is deflated with the 32 KiB before it as dictionary and ends at a byte boundary
//! (an empty stored block), so that the pieces one after another are a single Deflate stream. The cuts depend on the
//! input alone.

use std::collections::VecDeque;
use std::io::{self, Write};

use crossbeam_channel::{Receiver, Sender, bounded};
use flate2::{Compress, FlushCompress, Status};

/// Bytes of input per chunk.
const CHUNK: usize = 512 * 1024;
/// Bytes that Deflate can look back.
const WINDOW: usize = 32 * 1024;

/// Runs `produce` with a writer and writes what it gets to `out` as one gzip member.
///
/// # Errors
/// Those of `produce`, of `out`, and of the compressor.
pub fn compress<W: Write, T, E: From<io::Error>>(
    out: &mut W,
    level: u8,
    workers: usize,
    produce: impl FnOnce(&mut dyn Write) -> Result<T, E>,
) -> Result<T, E> {
    let (jobs, queued) = bounded::<Job>(workers);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let queued = queued.clone();
            scope.spawn(move || deflate(&queued, level));
        }
        drop(queued);
        let mut writer = GzipWriter::new(out, jobs, 2 * workers);
        writer.out.write_all(&header(level))?;
        let result = produce(&mut writer)?;
        writer.finish()?;
        Ok(result)
    })
}

/// Returns the member header: Deflate, no name, no time, unknown system.
fn header(level: u8) -> [u8; 10] {
    // XFL: 2 for the slowest algorithm, 4 for the fastest (RFC 1952, section 2.3.1.2).
    let flags = match level {
        9 => 2,
        1 => 4,
        _ => 0,
    };
    [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, flags, 255]
}

struct Job {
    dictionary: Vec<u8>,
    input: Vec<u8>,
    last: bool,
    reply: Sender<io::Result<Vec<u8>>>,
}

fn deflate(jobs: &Receiver<Job>, level: u8) {
    for job in jobs {
        // After an error nobody waits.
        let _ = job.reply.send(deflate_chunk(&job, level));
    }
}

fn deflate_chunk(job: &Job, level: u8) -> io::Result<Vec<u8>> {
    // A new encoder every time: zlib-rs 0.6 gives other bytes at level 1 after a reset, depending on what went before.
    let mut encoder = Compress::new(flate2::Compression::new(u32::from(level)), false);
    if !job.dictionary.is_empty() {
        encoder.set_dictionary(&job.dictionary)?;
    }
    let flush = if job.last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut output = Vec::with_capacity(job.input.len() / 2 + 1024);
    loop {
        let consumed = encoder.total_in() as usize;
        let status = encoder.compress_vec(&job.input[consumed..], &mut output, flush)?;
        let flushed = encoder.total_in() as usize == job.input.len() && output.len() < output.capacity();
        if status == Status::StreamEnd || (!job.last && flushed) {
            return Ok(output);
        }
        output.reserve(64 * 1024);
    }
}

struct GzipWriter<'a, W> {
    out: &'a mut W,
    jobs: Sender<Job>,
    results: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    /// How many chunks may be under way.
    ahead: usize,
    dictionary: Vec<u8>,
    chunk: Vec<u8>,
    checksum: crc32fast::Hasher,
    size: u64,
}

impl<'a, W: Write> GzipWriter<'a, W> {
    fn new(out: &'a mut W, jobs: Sender<Job>, ahead: usize) -> Self {
        let (dictionary, chunk) = (Vec::new(), Vec::with_capacity(CHUNK));
        let checksum = crc32fast::Hasher::new();
        GzipWriter { out, jobs, results: VecDeque::new(), ahead, dictionary, chunk, checksum, size: 0 }
    }

    fn send(&mut self, last: bool) -> io::Result<()> {
        let (reply, result) = bounded(1);
        let input = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        let tail = input[input.len().saturating_sub(WINDOW)..].to_vec();
        let dictionary = std::mem::replace(&mut self.dictionary, tail);
        self.jobs.send(Job { dictionary, input, last, reply }).map_err(|_| ended())?;
        self.results.push_back(result);
        while self.results.len() > self.ahead {
            self.write_one()?;
        }
        Ok(())
    }

    fn write_one(&mut self) -> io::Result<()> {
        let Some(result) = self.results.pop_front() else { return Ok(()) };
        let bytes = result.recv().map_err(|_| ended())??;
        self.out.write_all(&bytes)
    }

    fn finish(mut self) -> io::Result<()> {
        self.send(true)?;
        while !self.results.is_empty() {
            self.write_one()?;
        }
        self.out.write_all(&self.checksum.finalize().to_le_bytes())?;
        // ISIZE is the size modulo 2^32.
        self.out.write_all(&(self.size as u32).to_le_bytes())
    }
}

fn ended() -> io::Error {
    io::Error::other("a compressing thread ended early")
}

impl<W: Write> Write for GzipWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..count]);
        self.checksum.update(&bytes[..count]);
        self.size += count as u64;
        if self.chunk.len() == CHUNK {
            self.send(false)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Chunks end where the input says, not where someone flushes.
        Ok(())
    }
}
