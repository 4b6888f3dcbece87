//! Initramfs writer: cpio archives in "newc" format (Linux
//! `Documentation/driver-api/early-userspace/buffer-format.rst`), plain or compressed.
//!
//! The archive begins with the root directory as `.`, and has every directory before what it holds. Names of one file
//! share an inode number, and the content is with the last of them, as the kernel's own `gen_init_cpio` does it.
//! Inode numbers count from 1 in order; device numbers are 0; times are clamped.
//!
//! The kernel takes archives one after another, each plain or compressed by itself. A plain one must start at a
//! multiple of 4 bytes, which it does behind another plain one, since archives are padded to 512 bytes; a compressed
//! one can start anywhere. One archive may **not** be split over several gzip members, so [`write_compressed`] makes
//! a single member, in parallel.
//!
//! Limits of the format, refused with the path: extended attributes, files of 4 GiB and more, a file in the root
//! named `TRAILER!!!` (the name that ends an archive).

pub mod gzip;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{self, Read, Write};

use crate::tree::{Content, Entry, Node, Tree};

const TRAILER: &str = "TRAILER!!!";
const MAXIMUM_TARGET: usize = 4095;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// One gzip member at this level, 1 to 9.
    Gzip(u8),
    /// One Zstandard frame at this level, 1 to 19. (Higher levels make the booting kernel allocate large windows.)
    Zstd(u8),
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Size of the archive in bytes before compression.
    pub archive_bytes: u64,
    /// Bytes that went to the output.
    pub written_bytes: u64,
}

/// An archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level in [`Compression`] is not allowed.
    #[error("{compression:?}: levels are 1 to {maximum}")]
    Level {
        /// The setting.
        compression: Compression,
        /// Highest level.
        maximum: u8,
    },
    /// The format has no extended attributes.
    #[error("/{path}: an initramfs cannot hold extended attributes, such as {name:?}")]
    Xattr {
        /// The entry.
        path: String,
        /// Full name of its first attribute.
        name: String,
    },
    /// Sizes have 32 bit.
    #[error("/{path}: an initramfs cannot hold a file of {size} bytes, only less than 4 GiB")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// The name ends an archive.
    #[error("/{path}: this name marks the end of an initramfs")]
    Trailer {
        /// The entry.
        path: String,
    },
    /// A hard link's target is not a regular file in the tree.
    #[error("/{path}: hard link to {target:?}, which is not a regular file in the tree")]
    HardLink {
        /// The link.
        path: String,
        /// Its target.
        target: String,
    },
    /// A symbolic link's target is empty or longer than 4095 bytes.
    #[error("/{path}: the target of a symbolic link must have 1 to 4095 bytes, this one has {length}")]
    SymlinkTarget {
        /// The link.
        path: String,
        /// Length of its target in bytes.
        length: usize,
    },
    /// A device number that Linux does not have.
    #[error("/{path}: device number {major}:{minor} is above 4095:1048575")]
    Device {
        /// The device node.
        path: String,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// File content does not have the digest or size that the tree says.
    #[error("/{path}: the content changed during the build")]
    Changed {
        /// The file.
        path: String,
    },
    /// File content cannot be read.
    #[error("/{path}: cannot read the content: {source}")]
    Read {
        /// The file.
        path: String,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write the initramfs: {0}")]
    Write(#[from] io::Error),
}

/// Writes `tree` as a plain archive; times later than `epoch` become `epoch`.
///
/// # Errors
/// See [`Error`]. After an error `out` holds an incomplete archive.
pub fn write<W: Write + ?Sized>(tree: &Tree, out: &mut W, epoch: u32) -> Result<Summary, Error> {
    let mut archive = Archive { out, position: 0, epoch, last_inode: 0, links: HashMap::new() };
    let link_counts = tree.link_counts();
    let directories = directory_links(tree);
    for (path, entry) in tree.iter() {
        let (target, entry) = resolve(tree, path, entry)?;
        let links = match &entry.node {
            Node::Directory => directories.get(path).copied().unwrap_or(2),
            _ => link_counts.get(target).copied().unwrap_or(1),
        };
        archive.entry(path, target, entry, links)?;
    }
    archive.trailer()?;
    Ok(Summary { archive_bytes: archive.position, written_bytes: archive.position })
}

/// Writes `tree` as a compressed archive, with `workers` threads; the bytes do not depend on their number.
///
/// # Errors
/// See [`Error`]. After an error `out` holds an incomplete archive.
pub fn write_compressed<W: Write>(
    tree: &Tree,
    out: &mut W,
    epoch: u32,
    compression: Compression,
    workers: usize,
) -> Result<Summary, Error> {
    let mut out = Counter { out, count: 0 };
    let check = |level: u8, maximum| match (1..=maximum).contains(&level) {
        true => Ok(()),
        false => Err(Error::Level { compression, maximum }),
    };
    let summary = match compression {
        Compression::None => write(tree, &mut out, epoch)?,
        Compression::Gzip(level) => {
            check(level, 9)?;
            gzip::compress(&mut out, level, workers.max(1), |archive| write(tree, archive, epoch))?
        }
        Compression::Zstd(level) => {
            check(level, 19)?;
            let mut encoder = zstd::stream::write::Encoder::new(&mut out, i32::from(level))?;
            encoder.include_checksum(true)?;
            // One worker too is the multi-threaded mode: the mode, not the number, decides the bytes.
            encoder.multithread(workers.max(1) as u32)?;
            let summary = write(tree, &mut encoder, epoch)?;
            encoder.finish()?;
            summary
        }
    };
    out.flush()?;
    Ok(Summary { written_bytes: out.count, ..summary })
}

struct Counter<'a, W> {
    out: &'a mut W,
    count: u64,
}

impl<W: Write> Write for Counter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Returns the number of links of each directory that has directories in it.
fn directory_links(tree: &Tree) -> HashMap<&str, u32> {
    let mut links = HashMap::new();
    for (path, _) in tree.iter().filter(|(_, entry)| entry.node == Node::Directory) {
        if let Some(parent) = crate::tree::parent(path) {
            *links.entry(parent).or_insert(2) += 1;
        }
    }
    links
}

fn resolve<'a>(tree: &'a Tree, path: &'a str, entry: &'a Entry) -> Result<(&'a str, &'a Entry), Error> {
    let Node::HardLink(target) = &entry.node else { return Ok((path, entry)) };
    match tree.get(target) {
        Some(found) if matches!(found.node, Node::File(_)) => Ok((target, found)),
        _ => Err(Error::HardLink { path: path.to_owned(), target: target.clone() }),
    }
}

/// Refuses what the format, or the kernel that unpacks it, cannot take.
fn refuse(path: &str, entry: &Entry) -> Result<(), Error> {
    let owned = || path.to_owned();
    if let Some(name) = entry.meta.xattrs.keys().next() {
        return Err(Error::Xattr { path: owned(), name: name.clone() });
    }
    if path == TRAILER {
        return Err(Error::Trailer { path: owned() });
    }
    match &entry.node {
        Node::File(content) if content.size > u64::from(u32::MAX) => {
            Err(Error::TooLarge { path: owned(), size: content.size })
        }
        Node::Symlink(target) if !(1..=MAXIMUM_TARGET).contains(&target.len()) => {
            Err(Error::SymlinkTarget { path: owned(), length: target.len() })
        }
        Node::CharacterDevice { major, minor } | Node::BlockDevice { major, minor }
            if *major > 0xfff || *minor > 0xf_ffff =>
        {
            Err(Error::Device { path: owned(), major: *major, minor: *minor })
        }
        _ => Ok(()),
    }
}

/// The fields of a header that differ between entries.
#[derive(Default)]
struct Header<'a> {
    name: &'a str,
    inode: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    links: u32,
    mtime: u32,
    size: u32,
    device: (u32, u32),
}

struct Archive<'a, W: ?Sized> {
    out: &'a mut W,
    position: u64,
    epoch: u32,
    last_inode: u32,
    /// Inode number and names still to come of files with several names, by path of the file.
    links: HashMap<String, (u32, u32)>,
}

impl<W: Write + ?Sized> Archive<'_, W> {
    fn entry(&mut self, path: &str, target: &str, entry: &Entry, links: u32) -> Result<(), Error> {
        refuse(path, entry)?;
        let meta = &entry.meta;
        let is_file = matches!(entry.node, Node::File(_));
        let (inode, is_last_name) = self.inode(target, if is_file { links } else { 1 });
        let size = match &entry.node {
            Node::File(content) if is_last_name => content.size as u32,
            Node::Symlink(target) => target.len() as u32,
            _ => 0,
        };
        let device = match &entry.node {
            Node::CharacterDevice { major, minor } | Node::BlockDevice { major, minor } => (*major, *minor),
            _ => (0, 0),
        };
        self.header(&Header {
            name: if path.is_empty() { "." } else { path },
            inode,
            mode: meta.mode & 0o7777 | file_type(&entry.node),
            uid: meta.uid,
            gid: meta.gid,
            links,
            mtime: meta.mtime.clamp(0, i64::from(self.epoch)) as u32,
            size,
            device,
        })?;
        match &entry.node {
            Node::File(content) if is_last_name => self.content(path, content)?,
            Node::Symlink(target) => self.bytes(target.as_bytes())?,
            _ => {}
        }
        self.pad(4)
    }

    /// Returns the inode number for a name of the file `target`, and whether it is the last one.
    fn inode(&mut self, target: &str, links: u32) -> (u32, bool) {
        if let Some((inode, left)) = self.links.get_mut(target) {
            *left -= 1;
            return (*inode, *left == 0);
        }
        self.last_inode += 1;
        if links > 1 {
            self.links.insert(target.to_owned(), (self.last_inode, links - 1));
        }
        (self.last_inode, links <= 1)
    }

    fn header(&mut self, header: &Header<'_>) -> Result<(), Error> {
        let Header { name, inode, mode, uid, gid, links, mtime, size, device: (major, minor) } = header;
        let name_size = name.len() as u32 + 1;
        let fields = [inode, mode, uid, gid, links, mtime, size, &0, &0, major, minor, &name_size, &0];
        let mut text = String::from("070701");
        for field in fields {
            text.push_str(&format!("{field:08X}"));
        }
        text.push_str(name);
        text.push('\0');
        self.bytes(text.as_bytes())?;
        self.pad(4)
    }

    fn content(&mut self, path: &str, content: &Content) -> Result<(), Error> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => Error::Changed { path: path.to_owned() },
            _ => Error::Read { path: path.to_owned(), source },
        };
        let mut reader = content.open().map_err(failed)?;
        let mut buffer = vec![0; content.size.min(128 * 1024) as usize];
        let mut left = content.size;
        while left > 0 {
            let count = left.min(buffer.len() as u64) as usize;
            reader.read_exact(&mut buffer[..count]).map_err(failed)?;
            self.bytes(&buffer[..count])?;
            left -= count as u64;
        }
        Ok(())
    }

    fn trailer(&mut self) -> Result<(), Error> {
        self.header(&Header { name: TRAILER, links: 1, ..Header::default() })?;
        self.pad(512)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, alignment: u64) -> Result<(), Error> {
        let missing = self.position.next_multiple_of(alignment) - self.position;
        self.bytes(&[0; 512][..missing as usize])
    }
}

/// Returns the file type bits of `st_mode`.
fn file_type(node: &Node) -> u32 {
    match node {
        Node::Fifo => 0o010_000,
        Node::CharacterDevice { .. } => 0o020_000,
        Node::Directory => 0o040_000,
        Node::BlockDevice { .. } => 0o060_000,
        Node::File(_) | Node::HardLink(_) => 0o100_000,
        Node::Symlink(_) => 0o120_000,
        Node::Socket => 0o140_000,
    }
}
