//! Writing a release into a slot: what the node has is copied, the rest is fetched, nothing is kept aside.
//!
//! Entries of the index are written in the order of the image. What the slot has from an earlier attempt is recognised by
//! its digests and stays. The fetch is the one that [`FetchPlan`] predicts; when a copy turns out to be damaged, its chunk is
//! fetched as well. Every chunk is hashed before it is written, wherever it comes from.
//!
//! Memory: the index and 24 bytes per entry, three buffers of 1 MiB, and what the decoder needs for a chunk.

use ksos_formats::Digest;
use ksos_formats::bootstate::Slot;
use ksos_formats::update::chunks::is_zero;
use ksos_formats::update::fetch::Range;
use ksos_formats::update::index::Entry;
use ksos_formats::update::{Blob, ChunkIndex};
use ksos_formats::update::fetch::FetchPlan;
use ruzstd::decoding::FrameDecoder;

use super::delta::Chunks;
use super::error::InstallError;
use super::source::{Source, SourceError, Stop};
use super::writer::{HEAD, PIECE, SlotWriter};
use crate::sys::{self, Disk};

/// Largest window of a compressed chunk (RFC 8878, section 3.1.1.1.2: what every decoder should support).
const WINDOW_LIMIT: u64 = 8 << 20;
/// Bytes of the image between two notes of progress.
pub const PROGRESS: u64 = 32 << 20;

/// What is written where.
pub struct Job<'a> {
    /// The slot that runs.
    pub active: &'a dyn Disk,
    /// The slot that is written.
    pub slot: Slot,
    /// The slot image.
    pub image: Blob,
    /// The chunk file.
    pub chunks: Blob,
    /// The chunk index.
    pub index: &'a ChunkIndex,
}

/// How much of what was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Bytes that the plan predicted to be fetched.
    pub planned: u64,
    /// Bytes fetched.
    pub fetched: u64,
    /// Bytes of the image that were in place.
    pub kept: u64,
    /// Bytes copied from the slot that runs.
    pub copied: u64,
}

/// Takes note of progress: bytes of the image.
pub type Progress<'a> = dyn FnMut(u64) -> Result<(), InstallError> + 'a;

/// Writes the image to `target`, but for its first 4 KiB.
///
/// # Errors
/// [`InstallError`]. What was written stays and is found by the next attempt.
pub fn write(
    job: &Job<'_>,
    target: Box<dyn Disk>,
    source: &mut dyn Source,
    progress: &mut Progress<'_>,
) -> Result<(SlotWriter, Amounts), InstallError> {
    let mut chunks = Chunks::new(job.index);
    chunks.cut(job.active)?;
    let placed = Placed::find(&chunks, target.as_ref())?;
    let has = |entry: &Entry| {
        let first = chunks.first_with(&entry.sha256);
        first.is_some_and(|number| chunks.copy(number).is_some() || placed.has(number))
    };
    let plan = FetchPlan::new(job.index, &has);
    let mut installation = Installation {
        amounts: Amounts { planned: plan.bytes, kept: placed.end - placed.begin, ..Amounts::default() },
        writer: SlotWriter::new(target, job.slot, job.image, placed.begin..placed.end),
        job,
        chunks,
        placed,
        plan,
        decoder: FrameDecoder::new(),
        piece: Vec::new(),
        next: 0,
        noted: 0,
        progress,
    };
    installation.decoder.set_max_window_size(WINDOW_LIMIT);
    match installation.run(source) {
        Ok(()) => Ok((installation.writer, installation.amounts)),
        Err(error) => {
            installation.writer.leave();
            Err(error)
        }
    }
}

/// The entries that the target has from an earlier attempt: one run that begins behind the first 4 KiB.
struct Placed {
    from: usize,
    to: usize,
    /// Their bytes in the image.
    begin: u64,
    end: u64,
}

impl Placed {
    fn find(chunks: &Chunks<'_>, target: &dyn Disk) -> sys::Result<Self> {
        let entries = chunks.entries();
        let from = (0..entries.len()).find(|number| chunks.offset(*number) >= HEAD).unwrap_or(entries.len());
        let begin = entries.get(from).map_or(0, |_| chunks.offset(from));
        let mut placed = Placed { from, to: from, begin, end: begin };
        let mut piece = Vec::new();
        for entry in &entries[from..] {
            let end = placed.end + u64::from(entry.length);
            if end > target.size() || !in_place(entry, target, placed.end, &mut piece)? {
                break;
            }
            placed.to += 1;
            placed.end = end;
        }
        Ok(placed)
    }

    fn has(&self, number: usize) -> bool {
        (self.from..self.to).contains(&number)
    }
}

fn in_place(entry: &Entry, target: &dyn Disk, offset: u64, piece: &mut Vec<u8>) -> sys::Result<bool> {
    if !entry.is_zeros() {
        piece.resize(entry.length as usize, 0);
        target.read_at(offset, piece)?;
        return Ok(Digest::of(piece) == entry.sha256);
    }
    let (mut at, end) = (offset, offset + u64::from(entry.length));
    while at < end {
        piece.resize((end - at).min(PIECE as u64) as usize, 0);
        target.read_at(at, piece)?;
        if !is_zero(piece) {
            return Ok(false);
        }
        at += piece.len() as u64;
    }
    Ok(true)
}

struct Installation<'a, 'p, 'q> {
    job: &'a Job<'a>,
    chunks: Chunks<'a>,
    placed: Placed,
    plan: FetchPlan,
    writer: SlotWriter,
    decoder: FrameDecoder,
    piece: Vec<u8>,
    /// The entry that is written next.
    next: usize,
    noted: u64,
    amounts: Amounts,
    progress: &'p mut Progress<'q>,
}

/// What has come of a range.
struct Feed {
    /// Offset in the chunk file of the byte that comes next.
    at: u64,
    /// Which chunk of the file it belongs to.
    place: usize,
    /// The bytes of that chunk so far, when it is wanted.
    stored: Vec<u8>,
    begun: bool,
    /// Why the sink took no more.
    failure: Option<InstallError>,
}

/// How far local work got.
#[derive(PartialEq, Eq)]
enum Reached {
    /// As far as it was to.
    End,
    /// An entry that has to be fetched.
    Wanted,
}

impl Installation<'_, '_, '_> {
    fn run(&mut self, source: &mut dyn Source) -> Result<(), InstallError> {
        let all = self.chunks.entries().len();
        while self.local(all)? == Reached::Wanted {
            self.fetch(source)?;
        }
        (self.progress)(self.writer.position())
    }

    /// Writes entries up to `end` that need not be fetched.
    fn local(&mut self, end: usize) -> Result<Reached, InstallError> {
        while self.next < end {
            let (number, entry) = (self.next, self.chunks.entries()[self.next]);
            let length = u64::from(entry.length);
            if self.placed.has(number) && self.writer.keeps(length) {
                self.writer.skip(length);
            } else if entry.is_zeros() {
                self.writer.zeros(length)?;
            } else if !self.copy(number, &entry)? {
                return Ok(Reached::Wanted);
            }
            self.written()?;
        }
        Ok(Reached::End)
    }

    /// Writes a chunk that is in one of the slots; whether it was.
    fn copy(&mut self, number: usize, entry: &Entry) -> Result<bool, InstallError> {
        self.piece.resize(entry.length as usize, 0);
        if let Some(offset) = self.chunks.copy(number) {
            // A sector that cannot be read any more is as good as one with other bytes.
            let read = self.job.active.read_at(offset, &mut self.piece);
            if read.is_ok() && Digest::of(&self.piece) == entry.sha256 {
                self.amounts.copied += u64::from(entry.length);
                self.writer.put(&self.piece)?;
                return Ok(true);
            }
            self.chunks.lose(number);
        }
        let first = self.chunks.first_with(&entry.sha256).unwrap_or(number);
        let earlier = if self.placed.has(number) { number } else { first };
        if earlier == number && !self.placed.has(number) {
            return Ok(false);
        }
        if earlier == number {
            // In place, but for where it reaches into what is written anew.
            self.writer.read_medium(self.chunks.offset(number), &mut self.piece)?;
        } else {
            self.writer.read(self.chunks.offset(earlier), &mut self.piece)?;
        }
        if Digest::of(&self.piece) != entry.sha256 {
            let reason = "it was written before and reads back otherwise".to_owned();
            return Err(InstallError::Chunk { offset: entry.offset, reason });
        }
        self.writer.put(&self.piece)?;
        Ok(true)
    }

    fn written(&mut self) -> Result<(), InstallError> {
        self.next += 1;
        let position = self.writer.position();
        if position - self.noted >= PROGRESS {
            self.noted = position;
            (self.progress)(position)?;
        }
        Ok(())
    }

    /// Fetches the rest of the planned range that the next entry is in.
    fn fetch(&mut self, source: &mut dyn Source) -> Result<(), InstallError> {
        let (wanted, entry) = (self.next, self.chunks.entries()[self.next]);
        let range = self.range(&entry);
        let mut feed = Feed {
            at: range.start,
            place: self.chunks.first_stored_at(range.start),
            stored: Vec::new(),
            begun: false,
            failure: None,
        };
        let blob = self.job.chunks;
        let mut sink = |offset: u64, bytes: &[u8]| match self.take(&mut feed, offset, bytes) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Stop),
            Err(error) => {
                feed.failure = Some(error);
                Err(Stop)
            }
        };
        let served = source.chunks(&blob, range, &mut sink);
        match (feed.failure, served) {
            (Some(failure), _) => Err(failure),
            (None, Ok(_)) | (None, Err(SourceError::Stopped)) if self.next > wanted => Ok(()),
            (None, Ok(_) | Err(SourceError::Stopped)) => Err(InstallError::Missing(entry.offset)),
            (None, Err(error)) => Err(error.into()),
        }
    }

    fn range(&self, entry: &Entry) -> Range {
        let end = entry.offset + u64::from(entry.stored);
        let number = self.plan.ranges.partition_point(|range| range.end <= entry.offset);
        match self.plan.ranges.get(number) {
            Some(range) if range.start <= entry.offset => Range { start: entry.offset, end: range.end },
            _ => Range { start: entry.offset, end },
        }
    }

    /// Takes bytes of the chunk file; whether more are wanted.
    fn take(&mut self, feed: &mut Feed, offset: u64, mut bytes: &[u8]) -> Result<bool, InstallError> {
        if offset != feed.at {
            if feed.begun || offset != 0 {
                let reason = format!("bytes at {offset} came in its place");
                return Err(InstallError::Chunk { offset: feed.at, reason });
            }
            // The whole file is on its way.
            (feed.at, feed.place) = (0, 0);
        }
        feed.begun = true;
        self.amounts.fetched += bytes.len() as u64;
        while !bytes.is_empty() {
            let Some(number) = self.chunks.first(feed.place) else {
                return Err(InstallError::Chunk { offset: feed.at, reason: "there is no such chunk".to_owned() });
            };
            let entry = self.chunks.entries()[number];
            let end = entry.offset + u64::from(entry.stored);
            let (now, later) = bytes.split_at((end - feed.at).min(bytes.len() as u64) as usize);
            let wanted = number >= self.next && self.chunks.copy(number).is_none() && !self.placed.has(number);
            if wanted {
                feed.stored.extend_from_slice(now);
            }
            feed.at += now.len() as u64;
            bytes = later;
            if feed.at == end {
                feed.place += 1;
                if wanted && !self.chunk(number, &entry, &feed.stored)? {
                    return Ok(false);
                }
                feed.stored.clear();
            }
        }
        Ok(true)
    }

    /// Writes everything up to a chunk that has come, and it. `false`: something before it has to be fetched after all.
    fn chunk(&mut self, number: usize, entry: &Entry, stored: &[u8]) -> Result<bool, InstallError> {
        if self.local(number)? == Reached::Wanted {
            return Ok(false);
        }
        let wrong = |reason: String| InstallError::Chunk { offset: entry.offset, reason };
        if entry.is_compressed() {
            self.piece.resize(entry.length as usize, 0);
            let length = self
                .decoder
                .decode_all(stored, &mut self.piece)
                .map_err(|error| wrong(format!("not a zstd frame: {error}")))?;
            self.piece.truncate(length);
        } else {
            self.piece.clear();
            self.piece.extend_from_slice(stored);
        }
        let found = Digest::of(&self.piece);
        if found != entry.sha256 || self.piece.len() != entry.length as usize {
            return Err(wrong(format!("it has digest {found} instead of {}", entry.sha256)));
        }
        self.writer.put(&self.piece)?;
        self.written()?;
        Ok(true)
    }
}
