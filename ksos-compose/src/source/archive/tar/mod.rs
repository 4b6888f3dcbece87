//! Reads tar archives: ustar, PAX (POSIX.1-2017, `pax`, "ustar Interchange Format" and "pax Interchange Format") and
//! GNU long names (GNU tar manual, "Basic Tar Format").
//!
//! Where tar implementations disagree on where an entry ends, so that one sees files that another does not
//! (CVE-2025-62518), the archive is refused: content declared for an entry that has none, several extended headers
//! for one entry, sizes in global headers. An extended header's own length always comes from its own block; a PAX
//! `size` always counts over the block of the entry that it is for. Also refused: sparse files, multi-volume
//! archives, an archive without an end marker, data behind it.

mod header;
mod pax;

use std::io::Read;

use self::header::{BLOCK, Header};
use self::pax::Records;
use super::builder::Builder;
use super::clamp_time;
use super::error::{Failure, Fault, Step, escape, text};
use super::stream::{self, Exact};
use crate::tree::{Meta, Node};

/// Largest extended header or long name accepted, in bytes. Extended attributes have at most 64 KiB each.
const EXTENSION_LIMIT: u64 = 1 << 20;

/// Reads the archive to the end of `reader`.
pub(super) fn read(reader: &mut dyn Read, builder: &mut Builder<'_>) -> Step<()> {
    let mut globals = Records::default();
    let mut extensions = Extensions::default();
    let mut first = true;
    while let Some(header) = next_header(reader, first)? {
        first = false;
        match header.kind {
            b'x' | b'L' | b'K' => extensions.read(&header, reader, builder)?,
            b'g' => globals.merge_global(extension(&header, reader, builder)?)?,
            _ => entry(&header, std::mem::take(&mut extensions), &globals, reader, builder)?,
        }
    }
    if !extensions.is_empty() {
        return Err(Fault::Truncated.into());
    }
    stream::expect_zeros(reader)
}

/// Reads the next header block; `None` at the end marker. POSIX wants two zero blocks, one is enough.
fn next_header(reader: &mut dyn Read, first: bool) -> Step<Option<Header>> {
    let mut block = [0; BLOCK];
    let filled = stream::fill_partly(reader, &mut block)?;
    if filled < BLOCK && !first {
        return Err(Fault::Truncated.into());
    }
    if filled == BLOCK && block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let header = if filled == BLOCK { Header::parse(&block) } else { Err(Fault::Truncated) };
    match header {
        Ok(header) => Ok(Some(header)),
        // What is no header at the very start is no tar archive at all.
        Err(_) if first => {
            let found = stream::describe(&block[..filled]);
            Err(Fault::NotThisFormat { expected: "a tar archive", found }.into())
        }
        Err(fault) => Err(fault.into()),
    }
}

/// Reads the body of an extended header.
fn extension(header: &Header, reader: &mut dyn Read, builder: &mut Builder<'_>) -> Result<Vec<u8>, Fault> {
    if header.size > EXTENSION_LIMIT {
        return Err(Fault::Damaged("an extended header is larger than 1 MiB"));
    }
    builder.charge(header.size)?;
    let body = stream::bytes(reader, header.size)?;
    skip_padding(reader, header.size)?;
    Ok(body)
}

fn skip_padding(reader: &mut dyn Read, size: u64) -> Result<(), Fault> {
    let mut padding = [0; BLOCK];
    let count = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    stream::fill(reader, &mut padding[..count as usize])
}

/// What the extended headers before an entry say about it.
#[derive(Debug, Default)]
struct Extensions {
    records: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.records.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }

    fn read(&mut self, header: &Header, reader: &mut dyn Read, builder: &mut Builder<'_>) -> Result<(), Fault> {
        let body = extension(header, reader, builder)?;
        let until_nul = |body: Vec<u8>| body.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        let repeated = match header.kind {
            b'x' => self.records.replace(Records::parse(&body)?).is_some(),
            b'L' => self.long_name.replace(until_nul(body)).is_some(),
            _ => self.long_link.replace(until_nul(body)).is_some(),
        };
        match repeated {
            true => Err(Fault::Damaged("two extended headers of one kind for one entry")),
            false => Ok(()),
        }
    }
}

fn entry(
    header: &Header,
    extensions: Extensions,
    globals: &Records,
    reader: &mut dyn Read,
    builder: &mut Builder<'_>,
) -> Step<()> {
    let Extensions { records, long_name, long_link } = extensions;
    let records = records.unwrap_or_default();
    let raw_path = records.path.clone().or(long_name).unwrap_or_else(|| header.path.clone());
    let raw_link = records.link.clone().or(long_link).unwrap_or_else(|| header.link.clone());
    let size = records.size.unwrap_or(header.size);
    let at = |fault| Failure::at(&escape(&raw_path), fault);
    if records.sparse || header.kind == b'S' {
        return Err(at(Fault::Unsupported("sparse files are")));
    }
    let path = normalize(text(&raw_path).map_err(at)?);
    let link = text(&raw_link).map_err(at)?;
    let meta = meta(header, records, globals).map_err(at)?;
    // Before POSIX, a directory was a file whose name ends with a slash.
    let directory = header.kind == b'5' || (header.is_file() && raw_path.ends_with(b"/"));
    if header.is_file() && !directory {
        builder.file(path, meta, &mut Exact { inner: reader, left: size })?;
        return skip_padding(reader, size).map_err(at);
    }
    if size != 0 {
        return Err(at(Fault::Damaged("an entry that can have no content declares some")));
    }
    let (major, minor) = header.device;
    let node = match header.kind {
        _ if directory => Node::Directory,
        b'1' => return builder.hard_link(path, normalize(link)),
        b'2' => Node::Symlink(link.to_owned()),
        b'3' => Node::CharacterDevice { major, minor },
        b'4' => Node::BlockDevice { major, minor },
        b'6' => Node::Fifo,
        b'M' => return Err(at(Fault::Unsupported("multi-volume archives are"))),
        _ => return Err(at(Fault::Unsupported("this kind of tar entry is"))),
    };
    builder.node(path, meta, node)
}

/// Takes off the customary `./` before and `/` behind a path. Anything else unusual is left for the checks.
fn normalize(path: &str) -> &str {
    let path = path.strip_prefix("./").unwrap_or(path);
    let path = if path == "." { "" } else { path };
    match path.strip_suffix('/') {
        Some(stripped) if !stripped.is_empty() => stripped,
        _ => path,
    }
}

fn meta(header: &Header, records: Records, globals: &Records) -> Result<Meta, Fault> {
    let uid = records.uid.or(globals.uid).unwrap_or(header.uid);
    let gid = records.gid.or(globals.gid).unwrap_or(header.gid);
    let id = |id: u64, fault| u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or(fault);
    Ok(Meta {
        mode: header.mode & 0o7777,
        uid: id(uid, Fault::Damaged("user ID over 4294967294"))?,
        gid: id(gid, Fault::Damaged("group ID over 4294967294"))?,
        mtime: clamp_time(records.mtime.or(globals.mtime).unwrap_or(header.mtime)),
        xattrs: records.xattrs,
    })
}
