//! Copies files into a larger one without writing zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ksos_formats::update::chunks::is_zero;
use rustix::fs::{SeekFrom, fstat, fstatfs, seek};
use rustix::io::Errno;

/// What is looked at for being zero, and what file systems allocate at the least, in bytes.
const BLOCK: u64 = 4096;
const BUFFER: usize = 1 << 20;
/// Magic numbers (Linux `include/uapi/linux/magic.h`, `fs/xfs`, `fs/bcachefs`) of file systems that share blocks
/// between files.
const SHARING: [u32; 3] = [0x9123_683e, 0x5846_5342, 0xca45_1a4e];

/// Copies the first `size` bytes of `source` to `offset` in `target`, which holds zeros there. Holes of the source
/// and blocks of zeros stay holes; file systems that can share blocks do.
pub fn copy_sparse(source: &File, size: u64, target: &File, offset: u64) -> io::Result<()> {
    let shared = shares_blocks(source, target);
    let mut buffer = Vec::new();
    let mut position = 0;
    while position < size {
        let Some((start, end)) = next_data(source, position, size)? else { break };
        position = start;
        if shared {
            position += clone_range(source, start, target, offset, end)?;
        }
        if position < end {
            buffer.resize(BUFFER, 0);
            copy_range(source, position, end, target, offset, &mut buffer)?;
        }
        position = end;
    }
    Ok(())
}

/// Returns the ranges from `start` to `end` that hold data, in order.
pub fn data_ranges(source: &File, start: u64, end: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut position = start;
    while position < end {
        let Some(range) = next_data(source, position, end)? else { break };
        ranges.push(range);
        position = range.1;
    }
    Ok(ranges)
}

/// Returns the next range before `size` that holds data.
pub(in crate::artifact) fn next_data(source: &File, position: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match seek(source, SeekFrom::Data(position)) {
        Ok(start) => start,
        // "There are no more data regions past the supplied offset."
        Err(Errno::NXIO) => return Ok(None),
        // A file system that knows no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((position, size))),
        Err(error) => return Err(error.into()),
    };
    if start >= size {
        return Ok(None);
    }
    let end = seek(source, SeekFrom::Hole(start)).unwrap_or(size);
    Ok(Some((start, end.clamp(start + 1, size))))
}

fn shares_blocks(source: &File, target: &File) -> bool {
    let device = |file: &File| fstat(file).ok().map(|stat| stat.st_dev);
    let magic = fstatfs(target).ok().map(|stat| stat.f_type as u32);
    device(source).is_some() && device(source) == device(target) && magic.is_some_and(|magic| SHARING.contains(&magic))
}

/// Other systems than Linux share blocks of whole files only.
#[cfg(not(target_os = "linux"))]
fn clone_range(_: &File, _: u64, _: &File, _: u64, _: u64) -> io::Result<u64> {
    Ok(0)
}

/// Lets the kernel share or copy as much as it will, and returns how many bytes that was.
#[cfg(target_os = "linux")]
fn clone_range(source: &File, start: u64, target: &File, offset: u64, end: u64) -> io::Result<u64> {
    let mut done = 0;
    while start + done < end {
        let (mut from, mut to) = (start + done, offset + start + done);
        let wanted = (end - from).min(1 << 30) as usize;
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), wanted) {
            Ok(0) => break,
            Ok(count) => done += count as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

fn copy_range(source: &File, start: u64, end: u64, target: &File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut position = start;
    while position < end {
        // Chunks end at multiples of the block size in the source; partitions start at such multiples too.
        let chunk_end = ((position / BLOCK * BLOCK) + buffer.len() as u64).min(end);
        let chunk = &mut buffer[..(chunk_end - position) as usize];
        source.read_exact_at(chunk, position)?;
        write_sparse(chunk, target, offset + position)?;
        position = chunk_end;
    }
    Ok(())
}

/// Writes the runs of blocks in `chunk` that are not zero.
fn write_sparse(chunk: &[u8], target: &File, position: u64) -> io::Result<()> {
    let mut run: Option<usize> = None;
    let mut at = 0;
    while at < chunk.len() {
        let next = (at + (BLOCK - (position + at as u64) % BLOCK) as usize).min(chunk.len());
        let zero = is_zero(&chunk[at..next]);
        match (run, zero) {
            (Some(start), true) => {
                target.write_all_at(&chunk[start..at], position + start as u64)?;
                run = None;
            }
            (None, false) => run = Some(at),
            _ => {}
        }
        at = next;
    }
    match run {
        Some(start) => target.write_all_at(&chunk[start..], position + start as u64),
        None => Ok(()),
    }
}
