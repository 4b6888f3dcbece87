//! Writes FAT32 and FAT16 file systems (Microsoft FAT specification, revision 1.03; long names: section "Long File Name
//! Implementation").
//!
//! Single pass: everything is placed before the first byte is written. Every file and directory is contiguous and
//! starts at a multiple of 4 KiB from the start of the volume, in blocks of 4 KiB that nothing else uses, so that a
//! write to a small file in place touches no neighbour. Clusters have 4 KiB where the volume is large enough for
//! FAT32 with them (65,525 of them, 257 MiB) and fewer below; FAT16 volumes, for small images on ISO media, have 2 KiB
//! from 8 MiB on. Zero blocks are not written: the output stays sparse.
//! Space behind what is written is free, and the free-cluster hint points there.
//!
//! Limits: directories and regular files only; modes, owners and extended attributes are dropped; all times are the
//! epoch (UTC, from 1980 on).

mod names;
mod plan;

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use self::plan::{Object, Plan, Source};
use crate::tree::{Content, Tree};

pub use self::names::LABEL_LENGTH;

/// Bytes per sector.
const SECTOR: u64 = 512;
/// What every file and directory is aligned to, in bytes from the start of the volume.
const ALIGNMENT: u64 = 4096;
/// Mark of the last cluster of a chain.
const END_OF_CHAIN: u32 = 0x0fff_ffff;

/// Width of the allocation table's entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FatKind {
    /// FAT32.
    #[default]
    Fat32,
    /// FAT16, with a root directory of 512 entries.
    Fat16,
}

/// Parameters of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FatSpec {
    /// Size of the volume in bytes, a multiple of 4096.
    pub size: u64,
    /// Which FAT.
    pub kind: FatKind,
    /// Volume label: at most 11 of `A-Z`, `0-9`, space and `!#$%&'()-@^_{}~`.
    pub label: String,
    /// Volume serial number.
    pub volume_id: u32,
    /// Time of all entries, in seconds since 1970.
    pub epoch: i64,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FatSummary {
    /// Bytes per cluster.
    pub cluster_size: u64,
    /// Number of clusters.
    pub clusters: u64,
    /// Bytes that are free, gaps for alignment included.
    pub free: u64,
    /// Where each non-empty file starts, in bytes from the start of the volume.
    pub files: BTreeMap<String, u64>,
}

/// A volume could not be written.
#[derive(Debug, thiserror::Error)]
pub enum FatError {
    /// Something that FAT cannot hold.
    #[error("{path:?} is a {kind}; FAT holds directories and regular files only")]
    Kind {
        /// The path.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// A name that FAT does not allow.
    #[error("{path:?} cannot be on FAT: {reason}")]
    Name {
        /// The path.
        path: String,
        /// What is wrong with the name.
        reason: &'static str,
    },
    /// Two names that FAT takes for one.
    #[error("{first:?} and {second:?} are one name on FAT, which does not tell upper from lower case")]
    SameName {
        /// The one path.
        first: String,
        /// The other path.
        second: String,
    },
    /// A file of 4 GiB or more.
    #[error("{path:?} has {size} bytes; FAT holds files below 4294967296 bytes")]
    FileTooLarge {
        /// The path.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// A directory with more entries than FAT allows.
    #[error("directory {path:?} takes {entries} directory entries (a long name takes several); at most {limit} fit")]
    DirectoryTooLarge {
        /// The path.
        path: String,
        /// Directory entries needed.
        entries: usize,
        /// Directory entries that there can be.
        limit: usize,
    },
    /// The content needs more space than the volume has.
    #[error("content needs {needed} bytes, the volume has {available}")]
    Full {
        /// Bytes needed, rounded up to whole blocks.
        needed: u64,
        /// Bytes that the volume has for content.
        available: u64,
    },
    /// The volume's size cannot be that of such a volume.
    #[error("a {} volume cannot have {size} bytes: {reason}", if *kind == FatKind::Fat32 { "FAT32" } else { "FAT16" })]
    Size {
        /// Which FAT.
        kind: FatKind,
        /// The size in bytes.
        size: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The label cannot be a volume label.
    #[error("{label:?} is not a volume label: {reason}")]
    Label {
        /// The label.
        label: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The content of a file cannot be read, or is not as long as the tree says.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// The path.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The volume cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Says what writing `tree` would give, without reading or writing any content.
///
/// # Errors
/// [`FatError`]: the tree does not fit.
pub fn check(tree: &Tree, spec: &FatSpec) -> Result<FatSummary, FatError> {
    Ok(Plan::new(tree, spec)?.summary())
}

/// Writes `tree` as a FAT volume from the start of `output`, which must be empty or zero there.
///
/// # Errors
/// [`FatError`]. What is wrong with the tree shows before the first byte is written.
pub fn write(tree: &Tree, spec: &FatSpec, output: &mut (impl Write + Seek)) -> Result<FatSummary, FatError> {
    let plan = Plan::new(tree, spec)?;
    let geometry = &plan.geometry;
    let mut writer = Sparse { output, scratch: vec![0; 64 * 1024] };
    match spec.kind {
        FatKind::Fat32 => {
            let boot = boot_sector(&plan, spec);
            let info = info_sector(&plan);
            // The boot sector and the information sector, and their copies in sectors 6 and 7.
            for copy in [0, 6] {
                writer.at(copy * SECTOR, &boot)?;
                writer.at((copy + 1) * SECTOR, &info)?;
            }
        }
        FatKind::Fat16 => {
            writer.at(0, &boot_sector_16(&plan, spec))?;
            writer.at((geometry.reserved_sectors + 2 * geometry.table_sectors) * SECTOR, &plan.root)?;
        }
    }
    let table = allocation_table(&plan);
    for copy in 0..2 {
        writer.at((geometry.reserved_sectors + copy * geometry.table_sectors) * SECTOR, &table)?;
    }
    for object in &plan.objects {
        let position = geometry.position(object.cluster);
        match &object.source {
            Source::Directory(entries) => writer.at(position, entries)?,
            Source::File(content) => writer.content(position, object, content)?,
        }
    }
    // The output gets its full length.
    writer.output.seek(SeekFrom::Start(spec.size - 1))?;
    writer.output.write_all(&[0])?;
    writer.output.flush()?;
    Ok(plan.summary())
}

/// Section 3.1, "BPB structure", and 3.3, "Extended BPB structure for FAT32 volumes".
fn boot_sector(plan: &Plan<'_>, spec: &FatSpec) -> [u8; SECTOR as usize] {
    let geometry = &plan.geometry;
    let mut sector = [0; SECTOR as usize];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xeb, 0x58, 0x90]);
    put(3, b"MSWIN4.1");
    put(11, &(SECTOR as u16).to_le_bytes());
    put(13, &[(geometry.cluster_size / SECTOR) as u8]);
    put(14, &(geometry.reserved_sectors as u16).to_le_bytes());
    put(16, &[2]);
    put(21, &[0xf8]);
    put(24, &63_u16.to_le_bytes());
    put(26, &255_u16.to_le_bytes());
    put(32, &((spec.size / SECTOR) as u32).to_le_bytes());
    put(36, &(geometry.table_sectors as u32).to_le_bytes());
    put(44, &plan::ROOT_CLUSTER.to_le_bytes());
    put(48, &1_u16.to_le_bytes());
    put(50, &6_u16.to_le_bytes());
    put(64, &[0x80, 0, 0x29]);
    put(67, &spec.volume_id.to_le_bytes());
    put(71, &plan.label);
    put(82, b"FAT32   ");
    // Booted by a BIOS, the volume halts: hlt; jmp -3.
    put(90, &[0xf4, 0xeb, 0xfd]);
    put(510, &[0x55, 0xaa]);
    sector
}

/// Section 3.1, "BPB structure", and 3.2, "Extended BPB structure for FAT12 and FAT16 volumes".
fn boot_sector_16(plan: &Plan<'_>, spec: &FatSpec) -> [u8; SECTOR as usize] {
    let geometry = &plan.geometry;
    let sectors = spec.size / SECTOR;
    let mut sector = [0; SECTOR as usize];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xeb, 0x3c, 0x90]);
    put(3, b"MSWIN4.1");
    put(11, &(SECTOR as u16).to_le_bytes());
    put(13, &[(geometry.cluster_size / SECTOR) as u8]);
    put(14, &(geometry.reserved_sectors as u16).to_le_bytes());
    put(16, &[2]);
    put(17, &(plan::ROOT_ENTRIES_16 as u16).to_le_bytes());
    // "If there are fewer than 65536 sectors, the 16-bit field has their number, else the 32-bit field."
    match u16::try_from(sectors) {
        Ok(sectors) => put(19, &sectors.to_le_bytes()),
        Err(_) => put(32, &(sectors as u32).to_le_bytes()),
    }
    put(21, &[0xf8]);
    put(22, &(geometry.table_sectors as u16).to_le_bytes());
    put(24, &63_u16.to_le_bytes());
    put(26, &255_u16.to_le_bytes());
    put(36, &[0x80, 0, 0x29]);
    put(39, &spec.volume_id.to_le_bytes());
    put(43, &plan.label);
    put(54, b"FAT16   ");
    put(62, &[0xf4, 0xeb, 0xfd]);
    put(510, &[0x55, 0xaa]);
    sector
}

/// Section 5, "File System Information (FSInfo) Structure".
fn info_sector(plan: &Plan<'_>) -> [u8; SECTOR as usize] {
    let mut sector = [0; SECTOR as usize];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0x4161_5252_u32.to_le_bytes());
    put(484, &0x6141_7272_u32.to_le_bytes());
    put(488, &(plan.free_clusters() as u32).to_le_bytes());
    put(492, &plan.next_free().to_le_bytes());
    put(508, &0xaa55_0000_u32.to_le_bytes());
    sector
}

/// Section 4, "FAT": the table up to the last cluster in use.
fn allocation_table(plan: &Plan<'_>) -> Vec<u8> {
    let mut table = vec![0_u32; plan.end_cluster as usize];
    table[0] = 0x0fff_fff8;
    table[1] = END_OF_CHAIN;
    for Object { cluster, clusters, .. } in &plan.objects {
        for index in 1..*clusters {
            table[(cluster + index - 1) as usize] = cluster + index;
        }
        table[(cluster + clusters - 1) as usize] = END_OF_CHAIN;
    }
    match plan.geometry.kind {
        FatKind::Fat32 => table.into_iter().flat_map(u32::to_le_bytes).collect(),
        // The marks of the first two entries and of the ends are those of FAT32, cut off.
        FatKind::Fat16 => table.into_iter().flat_map(|entry| (entry as u16).to_le_bytes()).collect(),
    }
}

/// Writes at positions and leaves zero blocks out.
struct Sparse<'a, W> {
    output: &'a mut W,
    scratch: Vec<u8>,
}

impl<W: Write + Seek> Sparse<'_, W> {
    fn at(&mut self, position: u64, bytes: &[u8]) -> Result<(), FatError> {
        for (index, block) in bytes.chunks(ALIGNMENT as usize).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                self.output.seek(SeekFrom::Start(position + index as u64 * ALIGNMENT))?;
                self.output.write_all(block)?;
            }
        }
        Ok(())
    }

    fn content(&mut self, position: u64, object: &Object<'_>, content: &Content) -> Result<(), FatError> {
        let fail = |source| FatError::Read { path: object.path.to_owned(), source };
        let mut reader = content.open().map_err(fail)?;
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut done = 0;
        while done < content.size {
            let count = (content.size - done).min(scratch.len() as u64) as usize;
            reader.read_exact(&mut scratch[..count]).map_err(fail)?;
            self.at(position + done, &scratch[..count])?;
            done += count as u64;
        }
        self.scratch = scratch;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
