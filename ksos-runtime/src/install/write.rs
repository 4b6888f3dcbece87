//! Writes the disk of an image from a medium.
//!
//! In order, each step durable before the next:
//!
//! 1. The first and the last megabyte become zeros: what was there boots no more and is found no more.
//! 2. Everything behind the first megabyte: the pieces, and zeros where there are none and the disk has something else.
//! 3. It is read back past the cache and hashed.
//! 4. The rest of the first megabyte: boot code for BIOS; the partition table, fitted to the disk, its backup first; and
//!    last the first sector, without which neither UEFI firmware nor a BIOS takes the disk for bootable.
//!
//! A power cut before step 4 leaves a disk that looks blank and that the installer takes again.

use std::io::Read;

use ksos_formats::digest::Hasher;
use ksos_formats::install::{DIRECTORY, HEAD, Install, Piece};
use ksos_formats::update::chunks::is_zero;

use crate::disk::gpt::Table;
use crate::disk::grow::{self, Change};
use crate::sys::{self, Disk, Sys};

use super::{InstallError, MEDIUM};

/// Bytes that are read and written at once.
const CHUNK: u64 = 1 << 20;
/// How often progress is said, in percent.
const STEP: u64 = 10;
/// Where the primary partition table ends: two sectors, and 16 KiB of entries.
const TABLE_END: usize = 34 * 512;

/// Reads a file of the medium forward.
struct Source {
    file: String,
    reader: Box<dyn Read>,
    position: u64,
}

/// The files of the medium.
struct Medium<'a> {
    sys: &'a dyn Sys,
    sources: Vec<Source>,
    hasher: Hasher,
}

impl Medium<'_> {
    /// Fills `buffer` from byte `at` of `file`, and hashes it.
    fn read(&mut self, file: &str, at: u64, buffer: &mut [u8]) -> Result<(), InstallError> {
        let failed =
            |source| InstallError::Sys(sys::Error::new("read", format!("{MEDIUM}/{DIRECTORY}/{file}"), source));
        let index = match self.sources.iter().position(|source| source.file == file) {
            Some(index) => index,
            None => {
                let reader = self.sys.open_read(&format!("{MEDIUM}/{DIRECTORY}/{file}"))?;
                self.sources.push(Source { file: file.to_owned(), reader, position: 0 });
                self.sources.len() - 1
            }
        };
        let source = &mut self.sources[index];
        if let Some(skipped) = at.checked_sub(source.position).filter(|skipped| *skipped > 0) {
            std::io::copy(&mut source.reader.by_ref().take(skipped), &mut std::io::sink()).map_err(failed)?;
        }
        source.reader.read_exact(buffer).map_err(failed)?;
        source.position = at + buffer.len() as u64;
        self.hasher.update(buffer);
        Ok(())
    }
}

/// Says how far a step is.
struct Progress<'a> {
    say: &'a dyn Fn(&str),
    what: &'static str,
    total: u64,
    done: u64,
    said: u64,
}

impl Progress<'_> {
    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        let percent = self.done * 100 / self.total.max(1);
        if percent >= self.said + STEP {
            self.said = percent / STEP * STEP;
            (self.say)(&format!("install: {} {} % of {} MiB", self.what, self.said, self.total >> 20));
        }
    }
}

/// Writes the disk `path` that `install` describes. `say` gets what is done.
///
/// # Errors
/// [`InstallError`]: the disk is not bootable then.
pub fn write(
    sys: &dyn Sys,
    install: &Install,
    (path, disk): (&str, &dyn Disk),
    say: &dyn Fn(&str),
) -> Result<(), InstallError> {
    clear_ends(disk)?;
    let (head_pieces, body): (Vec<&Piece>, Vec<&Piece>) = install.pieces.iter().partition(|piece| piece.offset < HEAD);
    let mut medium = Medium { sys, sources: Vec::new(), hasher: Hasher::new() };
    let mut head = vec![0; HEAD as usize];
    for Piece { offset, length, file, at } in head_pieces {
        let range = *offset as usize..(*offset + *length) as usize;
        medium.read(file, *at, &mut head[range])?;
    }
    let total = body.iter().map(|piece| piece.length).sum();
    let cleared =
        write_body(&mut medium, disk, &body, install.size, Progress { say, what: "written", total, done: 0, said: 0 })?;
    if medium.hasher.finish() != install.sha256 {
        return Err(InstallError::Medium("its files have another SHA-256 than its document says"));
    }
    disk.flush()?;
    disk.forget(0, disk.size())?;
    let mut hasher = Hasher::new();
    install.pieces.iter().filter(|piece| piece.offset < HEAD).for_each(|piece| {
        hasher.update(&head[piece.offset as usize..(piece.offset + piece.length) as usize]);
    });
    read_back(disk, &body, &mut hasher, Progress { say, what: "read back", total, done: 0, said: 0 })?;
    if hasher.finish() != install.sha256 {
        return Err(InstallError::ReadBack { path: path.to_owned(), what: "its partitions" });
    }
    if !cleared.iter().all(|(start, end)| is_zero_there(disk, *start, *end).unwrap_or(false)) {
        return Err(InstallError::ReadBack { path: path.to_owned(), what: "what should be zeros" });
    }
    write_head(path, disk, &head)
}

/// Makes the first and the last megabyte zeros; the first sector first.
fn clear_ends(disk: &dyn Disk) -> Result<(), InstallError> {
    let zeros = vec![0; HEAD as usize];
    for (offset, length) in [(0, 512), (0, zeros.len()), (disk.size() - HEAD, zeros.len())] {
        let mut found = vec![0; length];
        disk.read_at(offset, &mut found)?;
        if !is_zero(&found) {
            disk.write_at(offset, &zeros[..length])?;
            disk.flush()?;
        }
    }
    Ok(())
}

/// Writes pieces, and zeros between them. Returns the ranges that had something else there.
fn write_body(
    medium: &mut Medium<'_>,
    disk: &dyn Disk,
    body: &[&Piece],
    size: u64,
    mut progress: Progress<'_>,
) -> Result<Vec<(u64, u64)>, InstallError> {
    let mut cleared = Vec::new();
    let mut end = HEAD;
    let mut buffer = vec![0; CHUNK as usize];
    for Piece { offset, length, file, at } in body {
        clear(disk, end, *offset, &mut cleared)?;
        let mut done = 0;
        while done < *length {
            let chunk = &mut buffer[..CHUNK.min(length - done) as usize];
            medium.read(file, at + done, chunk)?;
            disk.write_at(offset + done, chunk)?;
            // What is behind goes to the disk while the next is read, and no more than that waits in memory.
            disk.write_out(offset + done, chunk.len() as u64, false)?;
            done += chunk.len() as u64;
            progress.add(chunk.len() as u64);
        }
        end = offset + length;
    }
    clear(disk, end, size, &mut cleared)?;
    Ok(cleared)
}

/// Makes a range zeros where it is not, and notes where that was.
fn clear(disk: &dyn Disk, start: u64, end: u64, cleared: &mut Vec<(u64, u64)>) -> Result<(), InstallError> {
    let mut buffer = vec![0; CHUNK.min(end.saturating_sub(start)) as usize];
    let mut position = start;
    while position < end {
        let chunk = &mut buffer[..CHUNK.min(end - position) as usize];
        disk.read_at(position, chunk)?;
        let next = position + chunk.len() as u64;
        if !is_zero(chunk) {
            chunk.fill(0);
            disk.write_at(position, chunk)?;
            cleared.push((position, next));
        }
        position = next;
    }
    Ok(())
}

fn read_back(
    disk: &dyn Disk,
    body: &[&Piece],
    hasher: &mut Hasher,
    mut progress: Progress<'_>,
) -> Result<(), InstallError> {
    let mut buffer = vec![0; CHUNK as usize];
    for Piece { offset, length, .. } in body {
        let mut done = 0;
        while done < *length {
            let chunk = &mut buffer[..CHUNK.min(length - done) as usize];
            disk.read_at(offset + done, chunk)?;
            hasher.update(chunk);
            done += chunk.len() as u64;
            progress.add(chunk.len() as u64);
        }
    }
    Ok(())
}

fn is_zero_there(disk: &dyn Disk, start: u64, end: u64) -> Result<bool, InstallError> {
    let mut bytes = vec![0; (end - start) as usize];
    disk.read_at(start, &mut bytes)?;
    Ok(is_zero(&bytes))
}

/// Writes what makes the disk bootable, the first sector last.
fn write_head(path: &str, disk: &dyn Disk, head: &[u8]) -> Result<(), InstallError> {
    let image = Headed { head, disk };
    let table = Table::read(&image)?;
    // No partition is named: none grows. The data partition grows when the node finds it blank.
    let plan = grow::plan(&table, &head[..512], Change { name: "", mark: None })?;
    let mut writes = plan.map(|plan| plan.writes).unwrap_or_default();
    let fitted = writes.iter().position(|(offset, _)| *offset == 0).map(|index| writes.remove(index).1);
    let first = fitted.unwrap_or_else(|| head[..512].to_vec());
    writes.insert(0, (TABLE_END as u64, head[TABLE_END..].to_vec()));
    writes.push((0, first));
    for (offset, bytes) in &writes {
        disk.write_at(*offset, bytes)?;
        disk.flush()?;
    }
    disk.forget(0, disk.size())?;
    for (offset, bytes) in &writes {
        let mut found = vec![0; bytes.len()];
        disk.read_at(*offset, &mut found)?;
        if found != *bytes {
            return Err(InstallError::ReadBack { path: path.to_owned(), what: "its partition table" });
        }
    }
    Ok(())
}

/// The disk as it will be, for reading the table that is about to be written.
struct Headed<'a> {
    head: &'a [u8],
    disk: &'a dyn Disk,
}

impl Disk for Headed<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> sys::Result<()> {
        let range = offset as usize..(offset as usize).saturating_add(buffer.len());
        match self.head.get(range) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => self.disk.read_at(offset, buffer),
        }
    }

    fn write_at(&self, _: u64, _: &[u8]) -> sys::Result<()> {
        Err(sys::Error::stated("write", "the image of a disk", "it is only read"))
    }

    fn flush(&self) -> sys::Result<()> {
        Ok(())
    }

    fn read_direct(&self, offset: u64, buffer: &mut [u8]) -> sys::Result<()> {
        self.read_at(offset, buffer)
    }

    fn write_direct(&self, offset: u64, bytes: &[u8]) -> sys::Result<()> {
        self.write_at(offset, bytes)
    }

    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn sector_size(&self) -> u64 {
        self.disk.sector_size()
    }
}
