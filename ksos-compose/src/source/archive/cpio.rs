//! Reads cpio archives in the formats newc (070701) and crc (070702), as Linux does for an initramfs: archives one
//! after another with zero bytes between them, each plain or compressed
//! (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Hard links: entries of one inode; the content is with the last of them, the others have none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use super::builder::Builder;
use super::error::{Failure, Fault, Step, escape, text};
use super::stream::{self, Capped, Decompressed, Exact, Source};
use super::{Compression, Limits, check_magic, clamp_time};
use crate::tree::{Meta, Node};

const HEADER: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";

/// Reads all archives in `file`.
pub(super) fn read(file: &mut File, first: Compression, builder: &mut Builder<'_>, limits: &Limits) -> Step<()> {
    let mut source = Source::new(file);
    check_magic(&mut source, first)?;
    let mut count = 0;
    loop {
        let start = source.peek(16).map_err(Fault::from_read)?;
        let compression = stream::compression_of(start);
        if !is_magic(start) && compression == Compression::None {
            let found = stream::describe(start);
            let other = Fault::NotThisFormat { expected: "a cpio archive (newc)", found };
            return Err(if count == 0 { other } else { Fault::TrailingData }.into());
        }
        if compression == Compression::None {
            archive(&mut source, builder)?;
        } else {
            let decompressed = Decompressed::new(compression, &mut source)?;
            piece(&mut Source::new(Capped::new(decompressed, limits)), builder)?;
        }
        count += 1;
        if !source.skip_zeros().map_err(Fault::from_read)? {
            return Ok(());
        }
    }
}

/// Reads the archives in one compressed piece.
fn piece<R: Read>(source: &mut Source<R>, builder: &mut Builder<'_>) -> Step<()> {
    loop {
        let start = source.peek(16).map_err(Fault::from_read)?;
        if !is_magic(start) {
            let found = stream::describe(start);
            return Err(Fault::NotThisFormat { expected: "a cpio archive (newc)", found }.into());
        }
        archive(source, builder)?;
        if !source.skip_zeros().map_err(Fault::from_read)? {
            return Ok(());
        }
    }
}

fn is_magic(start: &[u8]) -> bool {
    start.starts_with(b"070701") || start.starts_with(b"070702")
}

#[derive(Debug)]
struct Header {
    checked: bool,
    inode: (u32, u32, u32),
    mode: u32,
    links: u32,
    uid: u32,
    gid: u32,
    mtime: u32,
    size: u32,
    device: (u32, u32),
    name_size: u32,
    sum: u32,
}

impl Header {
    fn read(reader: &mut dyn Read) -> Result<Self, Fault> {
        let mut bytes = [0; HEADER];
        stream::fill(reader, &mut bytes)?;
        let checked = match &bytes[..6] {
            b"070701" => false,
            b"070702" => true,
            _ => return Err(Fault::Damaged("a cpio header does not begin with its magic")),
        };
        let mut fields = [0; 13];
        for (field, digits) in fields.iter_mut().zip(bytes[6..].chunks_exact(8)) {
            *field = hexadecimal(digits).ok_or(Fault::Damaged("a number in a cpio header"))?;
        }
        let [inode, mode, uid, gid, links, mtime, size, major, minor, device_major, device_minor, name_size, sum] =
            fields;
        let device = (device_major, device_minor);
        Ok(Header { checked, inode: (major, minor, inode), mode, links, uid, gid, mtime, size, device, name_size, sum })
    }

    fn meta(&self) -> Meta {
        let Header { mode, uid, gid, mtime, .. } = *self;
        Meta { mode: mode & 0o7777, uid, gid, mtime: clamp_time(i64::from(mtime)), xattrs: BTreeMap::new() }
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    let mut value = 0;
    for digit in digits {
        value = value << 4 | char::from(*digit).to_digit(16)?;
    }
    Some(value)
}

/// Names of inodes with several, in the archive at hand.
#[derive(Debug, Default)]
struct Links {
    /// Names whose content is still to come, with their metadata.
    waiting: BTreeMap<(u32, u32, u32), Vec<(String, Meta)>>,
    /// Where the content is.
    placed: BTreeMap<(u32, u32, u32), String>,
}

/// Reads one archive up to its trailer.
fn archive<R: Read>(reader: &mut Source<R>, builder: &mut Builder<'_>) -> Step<()> {
    let mut links = Links::default();
    loop {
        let header = Header::read(reader)?;
        let raw_name = name(&header, reader)?;
        if raw_name == TRAILER {
            if header.size != 0 {
                return Err(Fault::Damaged("the cpio trailer has content").into());
            }
            return links.finish(builder);
        }
        let at = |fault| Failure::at(&escape(&raw_name), fault);
        let path = text(&raw_name).map_err(at)?;
        let path = path.strip_prefix("./").unwrap_or(path);
        let path = if path == "." { "" } else { path };
        entry(&header, path, &mut links, reader, builder)?;
        skip(reader, padding(header.size)).map_err(at)?;
    }
}

/// Returns the number of bytes to the next multiple of four.
fn padding(size: u32) -> usize {
    (4 - size as usize % 4) % 4
}

fn skip(reader: &mut dyn Read, count: usize) -> Result<(), Fault> {
    stream::fill(reader, &mut [0; 4][..count])
}

fn name(header: &Header, reader: &mut dyn Read) -> Result<Vec<u8>, Fault> {
    if !(1..=4097).contains(&header.name_size) {
        return Err(Fault::Damaged("the length of a name in a cpio header"));
    }
    let mut name = stream::bytes(reader, u64::from(header.name_size))?;
    // The header's 110 bytes and the name together are padded.
    skip(reader, padding(header.name_size + HEADER as u32))?;
    match name.pop() {
        Some(0) => Ok(name),
        _ => Err(Fault::Damaged("a cpio name does not end with NUL")),
    }
}

fn entry(header: &Header, path: &str, links: &mut Links, reader: &mut dyn Read, builder: &mut Builder<'_>) -> Step<()> {
    let (major, minor) = header.device;
    let node = match header.mode & 0o170000 {
        0o100000 => return file(header, path, links, reader, builder),
        0o120000 => {
            if header.size > 4095 {
                return Err(Failure::at(path, Fault::SymlinkTarget));
            }
            let target = stream::bytes(reader, u64::from(header.size)).map_err(|fault| Failure::at(path, fault))?;
            Node::Symlink(text(&target).map_err(|fault| Failure::at(path, fault))?.to_owned())
        }
        _ if header.size != 0 => {
            return Err(Failure::at(path, Fault::Damaged("an entry that can have no content declares some")));
        }
        0o040000 => Node::Directory,
        0o020000 => Node::CharacterDevice { major, minor },
        0o060000 => Node::BlockDevice { major, minor },
        0o010000 => Node::Fifo,
        0o140000 => Node::Socket,
        _ => return Err(Failure::at(path, Fault::Damaged("the kind of file in a cpio header"))),
    };
    builder.node(path, header.meta(), node)
}

fn file(header: &Header, path: &str, links: &mut Links, reader: &mut dyn Read, builder: &mut Builder<'_>) -> Step<()> {
    if header.links > 1 && header.size == 0 {
        if let Some(first) = links.placed.get(&header.inode) {
            return builder.hard_link(path, first);
        }
        builder.wait().and_then(|()| builder.charge(path.len() as u64)).map_err(|fault| Failure::at(path, fault))?;
        links.waiting.entry(header.inode).or_default().push((path.to_owned(), header.meta()));
        return Ok(());
    }
    let mut content = Summed { inner: Exact { inner: reader, left: u64::from(header.size) }, sum: 0 };
    builder.file(path, header.meta(), &mut content)?;
    if header.checked && content.sum != header.sum {
        return Err(Failure::at(path, Fault::Checksum("the content")));
    }
    if header.links > 1 {
        links.placed.insert(header.inode, path.to_owned());
        for (name, _) in links.waiting.remove(&header.inode).unwrap_or_default() {
            builder.resume();
            builder.hard_link(&name, path)?;
        }
    }
    Ok(())
}

impl Links {
    /// What still waits at the end are empty files.
    fn finish(self, builder: &mut Builder<'_>) -> Step<()> {
        for names in self.waiting.into_values() {
            let mut names = names.into_iter();
            let Some((first, meta)) = names.next() else { continue };
            builder.resume();
            builder.file(&first, meta, &mut std::io::empty())?;
            for (name, _) in names {
                builder.resume();
                builder.hard_link(&name, &first)?;
            }
        }
        Ok(())
    }
}

/// Sums up the bytes that pass: the checksum of format 070702.
struct Summed<'a> {
    inner: Exact<'a>,
    sum: u32,
}

impl Read for Summed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.sum = buffer[..count].iter().fold(self.sum, |sum, byte| sum.wrapping_add(u32::from(*byte)));
        Ok(count)
    }
}
