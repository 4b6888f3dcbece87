//! Reads zip archives (PKWARE APPNOTE 6.3) of the methods stored and deflate.
//!
//! The central directory counts, and the local headers must agree with it: an archive with duplicate names,
//! overlapping entries or entries that only a streaming reader would see is refused. Owners are not read: everything
//! belongs to root. Times come from the extended timestamp field when there is one, else from the DOS field, taken
//! as UTC. Names with a backslash are refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};

use ::zip::read::{ZipArchive, ZipFile};
use ::zip::result::ZipError;
use ::zip::{CompressionMethod, DateTime, ExtraField, System};

use super::builder::Builder;
use super::error::{Failure, Fault, Step, escape, text};
use super::stream::{self, Source};
use super::{Limits, clamp_time, file_size};
use crate::tree::{Meta, Node, TreeError};

type Archive = ZipArchive<BufReader<File>>;

/// Reads the archive in `file`.
pub(super) fn read(mut file: File, builder: &mut Builder<'_>, limits: &Limits) -> Step<()> {
    let mut start = [0; 16];
    let filled = stream::fill_partly(&mut Source::new(&mut file), &mut start)?;
    if !matches!(start[..filled], [b'P', b'K', 3 | 5, 4 | 6, ..]) {
        let found = stream::describe(&start[..filled]);
        return Err(Fault::NotThisFormat { expected: "a zip archive", found }.into());
    }
    file_size(&mut file)?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(fault)?;
    if archive.len() > limits.entries {
        return Err(Fault::EntriesLimit { limit: limits.entries }.into());
    }
    archive.validate_header_consistency().map_err(fault)?;
    for index in 0..archive.len() {
        entry(&mut archive, index, builder)?;
    }
    Ok(())
}

fn fault(error: ZipError) -> Fault {
    match error {
        ZipError::Io(error) => Fault::from_read(error),
        ZipError::CompressionMethodNotSupported(_) => Fault::Unsupported("its compression method is"),
        ZipError::UnsupportedArchive(_) => Fault::Unsupported("a feature that this zip archive uses is"),
        error => Fault::Zip(error.to_string()),
    }
}

fn entry(archive: &mut Archive, index: usize, builder: &mut Builder<'_>) -> Step<()> {
    let data = archive.by_index_data(index).map_err(fault)?;
    let raw_name = data.name_raw().to_vec();
    let at = |fault| Failure::at(&escape(&raw_name), fault);
    if data.encrypted() {
        return Err(at(Fault::Unsupported("encrypted entries are")));
    }
    if !matches!(data.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
        return Err(at(Fault::Unsupported("its compression method is")));
    }
    let mut file = archive.by_index(index).map_err(|error| at(fault(error)))?;
    let name = text(&raw_name).map_err(at)?;
    if name.contains('\\') {
        let reason = "has a backslash";
        return Err(at(Fault::Path(TreeError::InvalidPath { path: name.to_owned(), reason })));
    }
    let path = name.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(name);
    let unix = (file.system() == System::Unix).then(|| file.external_attributes() >> 16).filter(|mode| *mode != 0);
    let directory = name.ends_with('/');
    let mode = unix.unwrap_or(if directory { 0o040755 } else { 0o100644 });
    let meta = Meta { xattrs: BTreeMap::new(), ..Meta::root(mode & 0o7777, mtime(&file)) };
    match mode & 0o170000 {
        _ if directory && file.size() == 0 => builder.node(path, meta, Node::Directory),
        0o120000 => {
            let target = symlink(&mut file).map_err(at)?;
            builder.node(path, meta, Node::Symlink(target))
        }
        0 | 0o100000 if !directory => content(&mut file, path, meta, builder),
        _ => Err(at(Fault::Unsupported("this kind of zip entry is"))),
    }
}

fn symlink(file: &mut ZipFile<'_, BufReader<File>>) -> Result<String, Fault> {
    let mut target = Vec::new();
    file.take(4097).read_to_end(&mut target).map_err(Fault::from_read)?;
    if target.len() > 4095 {
        return Err(Fault::SymlinkTarget);
    }
    Ok(text(&target)?.to_owned())
}

fn content(file: &mut ZipFile<'_, BufReader<File>>, path: &str, meta: Meta, builder: &mut Builder<'_>) -> Step<()> {
    let declared = file.size();
    let mut declared_only = Declared { inner: file, declared, left: declared };
    builder.file(path, meta, &mut declared_only)
}

/// Yields the content, which must be as long as declared.
struct Declared<'a, R> {
    inner: &'a mut R,
    declared: u64,
    left: u64,
}

impl<R: Read> Read for Declared<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let mismatch = || Fault::SizeMismatch { declared: self.declared }.into_io();
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(mismatch());
        }
        self.left = self.left.checked_sub(count as u64).ok_or_else(mismatch)?;
        Ok(count)
    }
}

fn mtime(file: &ZipFile<'_, BufReader<File>>) -> i64 {
    let extended = file.extra_data_fields().find_map(|field| match field {
        ExtraField::ExtendedTimestamp(times) => times.mod_time(),
        _ => None,
    });
    match extended {
        Some(seconds) => clamp_time(i64::from(seconds)),
        None => clamp_time(file.last_modified().map_or(0, dos_seconds)),
    }
}

/// Converts a DOS time, taken as UTC, to seconds since 1970.
fn dos_seconds(time: DateTime) -> i64 {
    let month = ::time::Month::try_from(time.month()).ok();
    let date = month.and_then(|month| ::time::Date::from_calendar_date(i32::from(time.year()), month, time.day()).ok());
    let clock = ::time::Time::from_hms(time.hour(), time.minute(), time.second().min(59)).ok();
    match (date, clock) {
        (Some(date), Some(clock)) => ::time::PrimitiveDateTime::new(date, clock).assume_utc().unix_timestamp(),
        _ => 0,
    }
}
