//! Writes tar archives: ustar with PAX records where ustar is too small (POSIX.1-2017, `pax`, "ustar Interchange
//! Format" and "pax Interchange Format").
//!
//! The same tree gives the same bytes: entries in byte order of the paths, no user or group names, whole seconds.
//! Numbers and names that fit ustar stay there. Of the names of one file, the first in byte order carries the content.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use crate::tree::{Entry, Meta, Node, Tree};

const BLOCK: usize = 512;
/// Largest value of a field of 7 octal digits.
const SEVEN_DIGITS: u64 = 0o777_7777;
/// Largest value of a field of 11 octal digits.
const ELEVEN_DIGITS: u64 = 0o777_7777_7777;

/// A tree could not be written as tar.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// Tar has no sockets.
    #[error("{path:?} is a socket, which tar cannot hold")]
    Socket {
        /// The path.
        path: String,
    },
    /// A device number over 2097151.
    #[error("{path:?} has the device number {major}:{minor}, which tar cannot hold")]
    DeviceNumber {
        /// The path.
        path: String,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// The content of a file cannot be read, or is not as long as the tree says.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// The path.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Writes `tree`, without its root directory, and the end marker.
///
/// # Errors
/// [`TarError`].
pub fn write(tree: &Tree, output: &mut impl Write) -> Result<(), TarError> {
    // The name that stands for each file with several, once it is written.
    let mut written: BTreeMap<&str, &str> = BTreeMap::new();
    let linked = tree.link_counts();
    for (path, entry) in tree.iter().filter(|(path, _)| !path.is_empty()) {
        let file = match &entry.node {
            Node::HardLink(target) => target,
            _ => path,
        };
        if linked.contains_key(file) {
            if let Some(first) = written.get(file) {
                let resolved = tree.resolve_link(entry);
                put_header(output, path, &resolved.meta, b'1', 0, first, (0, 0))?;
                continue;
            }
            written.insert(file, path);
        }
        put_entry(output, path, tree.resolve_link(entry))?;
    }
    output.write_all(&[0; 2 * BLOCK])?;
    Ok(())
}

/// Writes a regular file of `size` bytes from `reader`.
///
/// # Errors
/// [`TarError::Read`] also when `reader` ends early.
fn put_stream(
    output: &mut impl Write,
    path: &str,
    meta: &Meta,
    size: u64,
    reader: &mut dyn Read,
) -> Result<(), TarError> {
    put_header(output, path, meta, b'0', size, "", (0, 0))?;
    let fail = |source| TarError::Read { path: path.to_owned(), source };
    let mut buffer = vec![0; 128 * 1024];
    let mut left = size;
    while left > 0 {
        let count = left.min(buffer.len() as u64) as usize;
        reader.read_exact(&mut buffer[..count]).map_err(fail)?;
        output.write_all(&buffer[..count])?;
        left -= count as u64;
    }
    pad(output, size)
}

/// Writes a directory.
///
/// # Errors
/// [`TarError::Write`].
fn put_directory(output: &mut impl Write, path: &str, meta: &Meta) -> Result<(), TarError> {
    put_header(output, &format!("{path}/"), meta, b'5', 0, "", (0, 0))
}

fn put_entry(output: &mut impl Write, path: &str, entry: &Entry) -> Result<(), TarError> {
    let meta = &entry.meta;
    match &entry.node {
        Node::Directory => put_directory(output, path, meta),
        Node::File(content) => {
            let mut reader = content.open().map_err(|source| TarError::Read { path: path.to_owned(), source })?;
            put_stream(output, path, meta, content.size, &mut reader)
        }
        Node::Symlink(target) => put_header(output, path, meta, b'2', 0, target, (0, 0)),
        // A link that was resolved to nothing: the tree keeps this from happening.
        Node::HardLink(target) => put_header(output, path, meta, b'1', 0, target, (0, 0)),
        Node::CharacterDevice { major, minor } => put_header(output, path, meta, b'3', 0, "", (*major, *minor)),
        Node::BlockDevice { major, minor } => put_header(output, path, meta, b'4', 0, "", (*major, *minor)),
        Node::Fifo => put_header(output, path, meta, b'6', 0, "", (0, 0)),
        Node::Socket => Err(TarError::Socket { path: path.to_owned() }),
    }
}

/// Fills `size` up to whole blocks.
fn pad(output: &mut impl Write, size: u64) -> Result<(), TarError> {
    let count = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    output.write_all(&[0; BLOCK][..count as usize])?;
    Ok(())
}

fn put_header(
    output: &mut impl Write,
    path: &str,
    meta: &Meta,
    kind: u8,
    size: u64,
    link: &str,
    (major, minor): (u32, u32),
) -> Result<(), TarError> {
    if u64::from(major.max(minor)) > SEVEN_DIGITS {
        return Err(TarError::DeviceNumber { path: path.to_owned(), major, minor });
    }
    let mut records = Records::default();
    let (prefix, name) = split(path).unwrap_or_else(|| {
        records.put("path", path.as_bytes());
        ("", "")
    });
    let link_fits = link.len() <= 100 && link.is_ascii();
    if !link_fits {
        records.put("linkpath", link.as_bytes());
    }
    let uid = records.number("uid", u64::from(meta.uid), SEVEN_DIGITS);
    let gid = records.number("gid", u64::from(meta.gid), SEVEN_DIGITS);
    let size_field = records.number("size", size, ELEVEN_DIGITS);
    let mtime = match u64::try_from(meta.mtime) {
        Ok(mtime) => records.number("mtime", mtime, ELEVEN_DIGITS),
        Err(_) => {
            records.put("mtime", meta.mtime.to_string().as_bytes());
            0
        }
    };
    for (name, value) in &meta.xattrs {
        records.put(&format!("SCHILY.xattr.{name}"), value);
    }
    if !records.bytes.is_empty() {
        let header = Header { size: records.bytes.len() as u64, kind: b'x', ..Header::default() };
        output.write_all(&header.bytes(("", "PaxHeaders/entry"), "", (0, 0)))?;
        output.write_all(&records.bytes)?;
        pad(output, records.bytes.len() as u64)?;
    }
    let header = Header { mode: meta.mode & 0o7777, uid, gid, size: size_field, mtime, kind };
    output.write_all(&header.bytes((prefix, name), if link_fits { link } else { "" }, (major, minor)))?;
    Ok(())
}

/// Splits a path into the fields prefix (155 bytes) and name (100 bytes), if it fits.
fn split(path: &str) -> Option<(&str, &str)> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= 100 {
        return Some(("", path));
    }
    // The slash between the two is not stored; the name may not be empty.
    let slash = path.bytes().enumerate().skip(path.len() - 101).find(|(_, byte)| *byte == b'/')?.0;
    let (prefix, name) = (&path[..slash], &path[slash + 1..]);
    (prefix.len() <= 155 && !prefix.is_empty() && !name.is_empty()).then_some((prefix, name))
}

/// PAX records.
#[derive(Debug, Default)]
struct Records {
    bytes: Vec<u8>,
}

impl Records {
    /// Appends `LENGTH KEY=VALUE\n`; the length counts its own digits too.
    fn put(&mut self, key: &str, value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.bytes.extend_from_slice(format!("{length} {key}=").as_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.push(b'\n');
    }

    /// Returns what goes into the header's field, with a record when that is too small.
    fn number(&mut self, key: &str, value: u64, limit: u64) -> u64 {
        if value <= limit {
            return value;
        }
        self.put(key, value.to_string().as_bytes());
        0
    }
}

#[derive(Debug, Default)]
struct Header {
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    kind: u8,
}

impl Header {
    fn bytes(&self, (prefix, name): (&str, &str), link: &str, (major, minor): (u32, u32)) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, &format!("{:07o}", self.mode));
        put(108, &format!("{:07o}", self.uid));
        put(116, &format!("{:07o}", self.gid));
        put(124, &format!("{:011o}", self.size));
        put(136, &format!("{:011o}", self.mtime));
        put(148, "        ");
        put(157, link);
        put(257, "ustar\0");
        put(263, "00");
        put(329, &format!("{major:07o}"));
        put(337, &format!("{minor:07o}"));
        put(345, prefix);
        block[156] = self.kind;
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}
