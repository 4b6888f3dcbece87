//! Stream-optimised disk images of VMware (VMware, "Virtual Disk Format 5.0", section "Stream-Optimized Compressed Sparse
//! Extents"): what OVF packages hold, and what ESXi, vCenter and AWS import. One pass, every grain of 64 KiB compressed
//! by itself:
//!
//! ```text
//! header, descriptor, up to 64 KiB
//! for each 32 MiB with data: its grains, each behind its marker, then the table of where they are
//! marker, directory of the tables
//! marker, footer (the header again, with the place of the directory), end marker
//! ```
//!
//! The capacity is rounded up to whole grains, of which there is at least one.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Write};

use flate2::{Compress, Compression, FlushCompress, Status};

use super::ordered::ordered;
use super::sparse;

const SECTOR: u64 = 512;
const GRAIN: u64 = 64 << 10;
const GRAIN_SECTORS: u64 = GRAIN / SECTOR;
/// Grains of a table.
const TABLE: u64 = 512;
/// Sectors before the first grain.
const OVERHEAD: u64 = 128;
const DESCRIPTOR_SECTORS: u64 = 20;
/// "Grain directory is at the end."
const AT_END: u64 = u64::MAX;
/// Line ends are tested; grains are compressed; there are markers.
const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;
/// Most of an image is compressed already: more effort finds little.
const LEVEL: u32 = 1;

/// Types of markers.
const END_OF_STREAM: u32 = 0;
const GRAIN_TABLE: u32 = 1;
const GRAIN_DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;

/// What the descriptor says of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The name of its file.
    pub file_name: &'a str,
    /// "Content ID".
    pub content_id: u32,
}

/// Writes the first `size` bytes of `source` as a VMDK into the empty file `target`, with `jobs` threads.
///
/// # Errors
/// When `source` cannot be read or `target` not be written.
pub fn write(source: &File, size: u64, identity: &Identity<'_>, target: &mut dyn Write, jobs: usize) -> io::Result<()> {
    let capacity = size.next_multiple_of(GRAIN).max(GRAIN) / SECTOR;
    let mut start = header(capacity, AT_END);
    start.extend(descriptor(capacity, identity).as_bytes());
    start.resize((OVERHEAD * SECTOR) as usize, 0);
    target.write_all(&start)?;
    let tables = capacity.div_ceil(TABLE * GRAIN_SECTORS);
    let mut writer = Writer { target, sector: OVERHEAD, directory: vec![0; tables as usize], open: None };
    ordered(
        jobs,
        &|| (),
        &|(), (offset, bytes): (u64, Vec<u8>)| Ok((offset / GRAIN, deflate(&bytes)?)),
        |queue| sparse::blocks(source, size, GRAIN, &mut |offset, bytes| queue.push((offset, bytes.to_vec()))),
        &mut |grain: io::Result<(u64, Vec<u8>)>| {
            let (number, data) = grain?;
            writer.grain(number, &data)
        },
    )?;
    writer.finish(capacity)
}

/// Compresses a grain (RFC 1950). Always by a new encoder: the bytes of one that was used hang on what went before.
fn deflate(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = Compress::new(Compression::new(LEVEL), true);
    let mut output = Vec::with_capacity(bytes.len() + 1024);
    loop {
        let consumed = encoder.total_in() as usize;
        if encoder.compress_vec(&bytes[consumed..], &mut output, FlushCompress::Finish)? == Status::StreamEnd {
            return Ok(output);
        }
        output.reserve(GRAIN as usize);
    }
}

struct Writer<'a> {
    target: &'a mut dyn Write,
    /// Where the next thing goes, in sectors.
    sector: u64,
    /// Where the tables are, in sectors; 0: there is none.
    directory: Vec<u32>,
    open: Option<(u64, Vec<u32>)>,
}

impl Writer<'_> {
    fn grain(&mut self, number: u64, data: &[u8]) -> io::Result<()> {
        let table = number / TABLE;
        if self.open.as_ref().is_none_or(|(open, _)| *open != table) {
            self.close()?;
            self.open = Some((table, vec![0; TABLE as usize]));
        }
        let sector = self.place()?;
        if let Some((_, entries)) = &mut self.open {
            entries[(number % TABLE) as usize] = sector;
        }
        let mut bytes = (number * GRAIN_SECTORS).to_le_bytes().to_vec();
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(data);
        self.put(bytes)
    }

    /// Returns the sector that comes next, as tables have it.
    fn place(&self) -> io::Result<u32> {
        let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "a VMDK cannot be larger than 2 TiB");
        u32::try_from(self.sector).map_err(|_| too_large())
    }

    /// Writes `bytes` filled up to whole sectors.
    fn put(&mut self, mut bytes: Vec<u8>) -> io::Result<()> {
        bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
        self.sector += bytes.len() as u64 / SECTOR;
        self.target.write_all(&bytes)
    }

    /// Writes a marker and the metadata that it announces, and returns the sector of the latter.
    fn metadata(&mut self, kind: u32, bytes: Vec<u8>) -> io::Result<u32> {
        let mut marker = (bytes.len() as u64).div_ceil(SECTOR).to_le_bytes().to_vec();
        marker.extend([0; 4]);
        marker.extend(kind.to_le_bytes());
        self.put(marker)?;
        let place = self.place()?;
        self.put(bytes)?;
        Ok(place)
    }

    fn close(&mut self) -> io::Result<()> {
        let Some((number, entries)) = self.open.take() else { return Ok(()) };
        self.directory[number as usize] = self.metadata(GRAIN_TABLE, little_endian(&entries))?;
        Ok(())
    }

    fn finish(mut self, capacity: u64) -> io::Result<()> {
        self.close()?;
        let directory = self.metadata(GRAIN_DIRECTORY, little_endian(&self.directory))?;
        self.metadata(FOOTER, header(capacity, u64::from(directory)))?;
        self.metadata(END_OF_STREAM, Vec::new())?;
        Ok(())
    }
}

fn little_endian(entries: &[u32]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

/// Returns the header; the directory of the tables is at sector `directory`.
fn header(capacity: u64, directory: u64) -> Vec<u8> {
    let mut header = b"KDMV".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend(FLAGS.to_le_bytes());
    for number in [capacity, GRAIN_SECTORS, 1, DESCRIPTOR_SECTORS] {
        header.extend(number.to_le_bytes());
    }
    header.extend((TABLE as u32).to_le_bytes());
    // There is no second directory.
    for number in [0, directory, OVERHEAD] {
        header.extend(number.to_le_bytes());
    }
    // Shut down cleanly; these characters do not survive a transfer as text.
    header.extend(b"\0\n \r\n");
    // Deflate.
    header.extend(1u16.to_le_bytes());
    header.resize(SECTOR as usize, 0);
    header
}

fn descriptor(capacity: u64, identity: &Identity<'_>) -> String {
    let Identity { file_name, content_id } = identity;
    // All ones: no parent.
    let content_id = content_id & 0x7fff_ffff;
    let (heads, sectors) = (255, 63);
    let cylinders = capacity.div_ceil(heads * sectors);
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={content_id:08x}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRW {capacity} SPARSE \"{file_name}\"\n\n\
         # The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"10\"\nddb.adapterType = \"lsilogic\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"{sectors}\"\n"
    )
}
