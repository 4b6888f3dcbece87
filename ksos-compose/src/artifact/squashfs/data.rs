//! File contents: data blocks and fragment blocks.
//!
//! One thread reads the sources in order, or finds their blocks in the cache; a pool compresses; the calling thread
//! writes in order. The queue between reader and writer is short, which bounds the memory.

use std::collections::HashMap;
use std::io::{self, Read, Seek, Write};

use crossbeam_channel::{Receiver, Sender, bounded};
use ksos_formats::Digest;

use super::cache::{StoredBlocks, UNCOMPRESSED_BLOCK};
use super::codec::{Compressor, cache_key};
use super::packing::{Small, pack};
use super::{Error, Options, Output};
use crate::tree::content::ContentReader;
use crate::tree::{Content, Node, Tree};

/// Upper bound of the blocks waiting for the writer, in bytes, where there are more than two per worker.
const READ_AHEAD: usize = 32 << 20;

/// Where a file's content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// In blocks of its own, from byte `start` of the image.
    Blocks {
        /// Position in the image in bytes.
        start: u64,
        /// Size field of each block.
        sizes: Vec<u32>,
        /// Bytes in blocks of zeros, which are not stored.
        sparse: u64,
    },
    /// In a fragment block.
    Fragment {
        /// Number of the fragment block.
        index: u32,
        /// Offset in it, uncompressed.
        offset: u32,
    },
}

/// A fragment block in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Position in the image in bytes.
    pub start: u64,
    /// Size field.
    pub size: u32,
}

/// All file contents of an image.
#[derive(Debug, Default)]
pub struct Contents {
    /// Where each content is; empty files are not in here.
    pub placements: HashMap<Digest, Placement>,
    /// The fragment blocks in order.
    pub fragments: Vec<Fragment>,
    /// Bytes of the different contents.
    pub content_bytes: u64,
    /// The part of them that came from the cache.
    pub cached_bytes: u64,
}

/// A content and the first path that has it.
#[derive(Clone, Copy)]
struct Member<'a> {
    path: &'a str,
    content: &'a Content,
}

/// What is compressed, written and cached as one: a file in blocks of its own, or one fragment block.
enum Run<'a> {
    File(Member<'a>),
    Fragment(Vec<Member<'a>>),
}

impl Run<'_> {
    fn size(&self) -> u64 {
        match self {
            Run::File(file) => file.content.size,
            Run::Fragment(members) => members.iter().map(|member| member.content.size).sum(),
        }
    }

    fn key(&self, options: &Options<'_>) -> Digest {
        let hasher = |kind| cache_key(options.compression, options.block_size, kind);
        match self {
            Run::File(file) => {
                let mut hasher = hasher("file");
                hasher.field(&file.content.digest.0);
                hasher.finish()
            }
            Run::Fragment(members) => {
                let mut hasher = hasher("fragment");
                members.iter().for_each(|member| hasher.field(&member.content.digest.0));
                hasher.finish()
            }
        }
    }

    /// Tells whether cached blocks can be those of this run.
    fn fits(&self, sizes: &[u32], block_size: u32) -> bool {
        let blocks = self.size().div_ceil(u64::from(block_size));
        let holes_allowed = matches!(self, Run::File(_));
        let size_fits = |size: &u32| size & !UNCOMPRESSED_BLOCK <= block_size && (holes_allowed || *size != 0);
        sizes.len() as u64 == blocks && sizes.iter().all(size_fits)
    }
}

/// Writes every different content of `tree` to `out`.
///
/// # Errors
/// When a content cannot be read or is not what the tree says, and when `out` cannot be written.
pub fn write<W: Write + Seek>(tree: &Tree, out: &mut Output<'_, W>, options: &Options<'_>) -> Result<Contents, Error> {
    let runs = plan(tree, options.block_size)?;
    let workers = options.workers.max(1);
    let queue = (2 * workers + 2).min((READ_AHEAD / options.block_size as usize).max(workers + 1));
    let (messages, ordered) = bounded(queue);
    let (jobs, queued) = bounded(queue);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let queued = queued.clone();
            scope.spawn(move || compress(&queued, options));
        }
        // Once the workers are gone the reader must not wait for them.
        drop(queued);
        let reader = Reader { messages, jobs, options };
        scope.spawn(|| reader.run(&runs));
        Writer { out, options, contents: Contents::default() }.run(&runs, ordered)
    })
}

/// Returns the runs in the order in which they are stored: first the files with blocks of their own, then the
/// fragment blocks, both in order of the first path.
fn plan(tree: &Tree, block_size: u32) -> Result<Vec<Run<'_>>, Error> {
    let mut sizes: HashMap<Digest, u64> = HashMap::new();
    let (mut large, mut small) = (Vec::new(), Vec::new());
    for (path, entry) in tree.iter() {
        let Node::File(content) = &entry.node else { continue };
        match sizes.insert(content.digest, content.size) {
            None if content.size == 0 => {}
            None if content.size < u64::from(block_size) => small.push(Member { path, content }),
            None => large.push(Run::File(Member { path, content })),
            Some(size) if size == content.size => {}
            Some(_) => return Err(Error::Changed { path: path.to_owned() }),
        }
    }
    let files: Vec<Small> =
        small.iter().map(|member| Small { digest: member.content.digest, size: member.content.size as u32 }).collect();
    let mut rest = small.as_slice();
    let mut start = 0;
    for end in pack(&files, block_size) {
        let (members, behind) = rest.split_at(end - start);
        large.push(Run::Fragment(members.to_vec()));
        (rest, start) = (behind, end);
    }
    Ok(large)
}

/// A block as it is stored.
struct Packed {
    size: u32,
    bytes: Vec<u8>,
}

struct Job {
    input: Vec<u8>,
    reply: Sender<io::Result<Packed>>,
}

fn compress(jobs: &Receiver<Job>, options: &Options<'_>) {
    let mut compressor = Compressor::new(options.compression, options.block_size);
    for Job { input, reply } in jobs {
        let packed = match &mut compressor {
            Ok(compressor) => compressor.compress(&input).map(|output| match output {
                Some(bytes) => Packed { size: bytes.len() as u32, bytes },
                None => Packed { size: input.len() as u32 | UNCOMPRESSED_BLOCK, bytes: input },
            }),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // A writer that failed has dropped its end.
        let _ = reply.send(packed);
    }
}

/// What the reader tells the writer, in order. Each run is `Stored`, or `Begin`, its blocks, and `End`.
enum Message {
    Stored(StoredBlocks),
    Begin(Digest),
    Block(Receiver<io::Result<Packed>>, u64),
    Hole(u64),
    End,
    Failed(Error),
}

/// The writer has failed and does not listen any more.
struct Stopped;

/// Why the reader ends early.
enum Interrupted {
    Stopped,
    Failed(Error),
}

impl From<Stopped> for Interrupted {
    fn from(_: Stopped) -> Self {
        Interrupted::Stopped
    }
}

impl From<Error> for Interrupted {
    fn from(error: Error) -> Self {
        Interrupted::Failed(error)
    }
}

struct Reader<'a> {
    messages: Sender<Message>,
    jobs: Sender<Job>,
    options: &'a Options<'a>,
}

impl Reader<'_> {
    fn run(self, runs: &[Run<'_>]) {
        for run in runs {
            match self.read(run) {
                Ok(()) => {}
                Err(Interrupted::Stopped) => return,
                Err(Interrupted::Failed(error)) => {
                    let _ = self.send(Message::Failed(error));
                    return;
                }
            }
        }
    }

    fn read(&self, run: &Run<'_>) -> Result<(), Interrupted> {
        let key = run.key(self.options);
        if let Some(stored) = self.options.cache.get(&key)
            && run.fits(&stored.sizes, self.options.block_size)
        {
            return Ok(self.send(Message::Stored(stored))?);
        }
        self.send(Message::Begin(key))?;
        match run {
            Run::File(file) => self.read_file(file)?,
            Run::Fragment(members) => self.read_fragment(members, run.size() as usize)?,
        }
        Ok(self.send(Message::End)?)
    }

    fn read_file(&self, file: &Member<'_>) -> Result<(), Interrupted> {
        let mut content = open(file)?;
        let mut left = file.content.size;
        while left > 0 {
            let length = left.min(u64::from(self.options.block_size));
            let mut block = vec![0; length as usize];
            fill(file, &mut content, &mut block)?;
            if block.iter().all(|byte| *byte == 0) {
                self.send(Message::Hole(length))?;
            } else {
                self.compress(block)?;
            }
            left -= length;
        }
        Ok(())
    }

    fn read_fragment(&self, members: &[Member<'_>], size: usize) -> Result<(), Interrupted> {
        let mut block = vec![0; size];
        let mut rest = block.as_mut_slice();
        for member in members {
            let (part, behind) = rest.split_at_mut(member.content.size as usize);
            fill(member, &mut open(member)?, part)?;
            rest = behind;
        }
        Ok(self.compress(block)?)
    }

    fn compress(&self, input: Vec<u8>) -> Result<(), Stopped> {
        let (reply, result) = bounded(1);
        let length = input.len() as u64;
        self.jobs.send(Job { input, reply }).map_err(|_| Stopped)?;
        self.send(Message::Block(result, length))
    }

    fn send(&self, message: Message) -> Result<(), Stopped> {
        self.messages.send(message).map_err(|_| Stopped)
    }
}

fn open(file: &Member<'_>) -> Result<ContentReader, Error> {
    file.content.open().map_err(|error| read_error(file, error))
}

/// Fills `buffer` with what comes next of `file`.
fn fill(file: &Member<'_>, reader: &mut ContentReader, buffer: &mut [u8]) -> Result<(), Error> {
    reader.read_exact(buffer).map_err(|error| read_error(file, error))
}

fn read_error(file: &Member<'_>, source: io::Error) -> Error {
    let path = file.path.to_owned();
    match source.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => Error::Changed { path },
        _ => Error::Read { path, source },
    }
}

struct Writer<'a, 'b, W> {
    out: &'a mut Output<'b, W>,
    options: &'a Options<'a>,
    contents: Contents,
}

impl<W: Write + Seek> Writer<'_, '_, W> {
    fn run(mut self, runs: &[Run<'_>], messages: Receiver<Message>) -> Result<Contents, Error> {
        for run in runs {
            let start = self.out.position;
            let sizes = match receive(&messages)? {
                Message::Stored(stored) => self.copy(run, stored)?,
                Message::Begin(key) => self.write_run(&key, &messages)?,
                Message::Failed(error) => return Err(error),
                Message::Block(..) | Message::Hole(_) | Message::End => unreachable!("a run starts with its key"),
            };
            self.place(run, start, sizes)?;
        }
        Ok(self.contents)
    }

    fn copy(&mut self, run: &Run<'_>, mut stored: StoredBlocks) -> Result<Vec<u32>, Error> {
        let mut left: u64 = stored.sizes.iter().map(|size| u64::from(size & !UNCOMPRESSED_BLOCK)).sum();
        let mut buffer = vec![0; left.min(256 * 1024) as usize];
        while left > 0 {
            let count = left.min(buffer.len() as u64) as usize;
            stored.data.read_exact(&mut buffer[..count]).map_err(Error::Cache)?;
            self.out.write(&buffer[..count])?;
            left -= count as u64;
        }
        self.contents.cached_bytes += run.size();
        self.advance(run.size());
        Ok(stored.sizes)
    }

    fn write_run(&mut self, key: &Digest, messages: &Receiver<Message>) -> Result<Vec<u32>, Error> {
        let mut pending = self.options.cache.begin(key);
        let mut sizes = Vec::new();
        let mut push = |size: u32, bytes: &[u8]| {
            sizes.push(size);
            if let Some(pending) = &mut pending {
                pending.push(size, bytes);
            }
        };
        loop {
            match receive(messages)? {
                Message::Block(result, length) => {
                    let packed = result.recv().map_err(|_| Error::Compress(ended()))?.map_err(Error::Compress)?;
                    self.out.write(&packed.bytes)?;
                    push(packed.size, &packed.bytes);
                    self.advance(length);
                }
                Message::Hole(length) => {
                    push(0, &[]);
                    self.advance(length);
                }
                Message::End => break,
                Message::Failed(error) => return Err(error),
                Message::Stored(_) | Message::Begin(_) => unreachable!("a run ends before the next"),
            }
        }
        if let Some(pending) = pending {
            pending.commit();
        }
        Ok(sizes)
    }

    fn advance(&mut self, length: u64) {
        self.contents.content_bytes += length;
        if let Some(progress) = self.options.progress {
            progress(self.contents.content_bytes);
        }
    }

    fn place(&mut self, run: &Run<'_>, start: u64, sizes: Vec<u32>) -> Result<(), Error> {
        match run {
            Run::File(file) => {
                let sparse = sparse_bytes(&sizes, file.content.size, self.options.block_size);
                self.contents.placements.insert(file.content.digest, Placement::Blocks { start, sizes, sparse });
            }
            Run::Fragment(members) => {
                let index = u32::try_from(self.contents.fragments.len())
                    .ok()
                    .filter(|index| *index != u32::MAX)
                    .ok_or(Error::TooMany { what: "fragment blocks", maximum: u64::from(u32::MAX) })?;
                self.contents.fragments.push(Fragment { start, size: sizes[0] });
                let mut offset = 0;
                for Member { content, .. } in members {
                    self.contents.placements.insert(content.digest, Placement::Fragment { index, offset });
                    offset += content.size as u32;
                }
            }
        }
        Ok(())
    }
}

/// Returns the bytes of a file of `size` bytes that are in blocks of zeros.
fn sparse_bytes(sizes: &[u32], size: u64, block_size: u32) -> u64 {
    let block_size = u64::from(block_size);
    let length = |index: usize| block_size.min(size - index as u64 * block_size);
    sizes.iter().enumerate().filter(|(_, stored)| **stored == 0).map(|(index, _)| length(index)).sum()
}

fn receive(messages: &Receiver<Message>) -> Result<Message, Error> {
    messages.recv().map_err(|_| Error::Compress(ended()))
}

fn ended() -> io::Error {
    io::Error::other("a thread of the compressor ended early")
}
