//! Where a small file is on a FAT32 volume (Microsoft FAT specification, `fatgen103`, 1.03): reading only.
//!
//! ```text
//! boot sector | reserved sectors | file allocation tables | clusters from 2 on
//! ```
//!
//! Names are matched as GRUB matches them (`grub-core/fs/fat.c`): without regard to case, the long name where it is
//! valid, else the short one; the first entry that fits. Limits: sectors of 512 bytes, directories of 2 MiB, which also
//! ends a chain of clusters that is a cycle. Everything that the volume states is checked against the partition before it
//! is used.

use crate::disk::little;
use crate::sys::{self, Disk};

/// The one sector size that is supported, in bytes.
pub(super) const SECTOR: u64 = 512;
/// "The maximum size of a directory is 2 MiB": 65,536 entries.
const DIRECTORY_LIMIT: u64 = 2 << 20;
/// Bytes of a directory entry.
const ENTRY: usize = 32;
/// "BAD CLUSTER" mark; what is above ends a chain.
const BAD_CLUSTER: u32 = 0x0fff_fff7;
const ATTRIBUTE_VOLUME: u8 = 0x08;
const ATTRIBUTE_DIRECTORY: u8 = 0x10;
const ATTRIBUTE_LONG_NAME: u8 = 0x0f;
/// Parts that a long name has at most: 255 characters, 13 each.
const LONG_NAME_PARTS: u8 = 20;

/// Why a file was not found, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FatError {
    /// The partition cannot be read.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// It is no FAT32 volume that this module reads.
    #[error("not a FAT32 volume with sectors of 512 bytes: {0}")]
    Volume(&'static str),
    /// A directory or file is not there.
    #[error("there is no {0}")]
    Missing(String),
    /// A file where a directory should be, or a directory where a file should be.
    #[error("{path} is not a {expected}")]
    Kind {
        /// Its path.
        path: String,
        /// `file` or `directory`.
        expected: &'static str,
    },
    /// A file of another size.
    #[error("{path} has {found} bytes instead of {expected}")]
    Size {
        /// Its path.
        path: String,
        /// Its size in bytes.
        found: u64,
        /// What it should have.
        expected: u64,
    },
    /// A chain of clusters leads out of the volume, or to a free or bad cluster.
    #[error("{path} has cluster {cluster}, which is free, bad or not on the volume")]
    Cluster {
        /// The path.
        path: String,
        /// The cluster.
        cluster: u32,
    },
    /// A directory without an end.
    #[error("{path} has more than 65536 entries: its chain of clusters is damaged")]
    Endless {
        /// The path.
        path: String,
    },
    /// A file of one sector whose chain goes on.
    #[error("{path} has more than one cluster")]
    Chain {
        /// The path.
        path: String,
    },
}

/// An open volume.
pub(super) struct Volume<'a> {
    disk: &'a dyn Disk,
    /// Bytes per cluster.
    cluster_size: u64,
    /// Where the table in use is, in bytes.
    table: u64,
    /// Where cluster 2 is, in bytes.
    data: u64,
    /// Number of clusters.
    clusters: u32,
    /// First cluster of the root directory.
    root: u32,
}

/// What an entry of a directory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    directory: bool,
    cluster: u32,
    size: u64,
}

impl<'a> Volume<'a> {
    /// Reads the boot sector (section "Boot Sector and BPB").
    pub(super) fn open(disk: &'a dyn Disk) -> Result<Self, FatError> {
        let mut boot = [0; SECTOR as usize];
        if disk.sector_size() != SECTOR {
            return Err(FatError::Volume("the disk has other sectors"));
        }
        disk.read_at(0, &mut boot)?;
        let number = |offset, size| if size == 2 { little::<2>(&boot, offset) } else { little::<4>(&boot, offset) };
        if boot[510..] != [0x55, 0xaa] {
            return Err(FatError::Volume("no boot sector"));
        }
        if number(11, 2) != SECTOR {
            return Err(FatError::Volume("other sectors"));
        }
        let per_cluster = u64::from(boot[13]);
        if !per_cluster.is_power_of_two() {
            return Err(FatError::Volume("the number of sectors per cluster is no power of 2"));
        }
        let (reserved, tables, table_sectors) = (number(14, 2), u64::from(boot[16]), number(36, 4));
        // "For FAT32 volumes this field must be set to 0": BPB_RootEntCnt, BPB_TotSec16, BPB_FATSz16.
        if number(17, 2) != 0 || number(19, 2) != 0 || number(22, 2) != 0 {
            return Err(FatError::Volume("it is FAT12 or FAT16"));
        }
        if reserved == 0 || tables == 0 || table_sectors == 0 || number(42, 2) != 0 {
            return Err(FatError::Volume("impossible boot sector"));
        }
        // BPB_ExtFlags: "bits 0-3: number of active FAT, only valid if mirroring is disabled; bit 7: 1 means only one FAT".
        let active = if number(40, 2) & 0x80 == 0 { 0 } else { number(40, 2) & 0xf };
        let (sectors, data) = (number(32, 4), reserved + tables * table_sectors);
        if active >= tables || sectors <= data || sectors * SECTOR > disk.size() {
            return Err(FatError::Volume("its parts do not fit the partition"));
        }
        let clusters = ((sectors - data) / per_cluster).min(table_sectors * SECTOR / 4 - 2);
        let clusters = u32::try_from(clusters).ok().filter(|count| *count < BAD_CLUSTER - 2);
        Ok(Volume {
            disk,
            cluster_size: per_cluster * SECTOR,
            table: (reserved + active * table_sectors) * SECTOR,
            data: data * SECTOR,
            clusters: clusters.ok_or(FatError::Volume("too many clusters"))?,
            root: number(44, 4) as u32,
        })
    }

    /// Returns where the one sector of a file of exactly 512 bytes is, in bytes from the start of the volume.
    pub(super) fn sector_of(&self, path: &str) -> Result<u64, FatError> {
        let (mut cluster, mut walked) = (self.root, String::new());
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            let found = self.lookup(cluster, name, &walked)?;
            walked = if walked.is_empty() { name.to_owned() } else { format!("{walked}/{name}") };
            let entry = found.ok_or_else(|| FatError::Missing(walked.clone()))?;
            let last = names.peek().is_none();
            if entry.directory == last {
                let expected = if last { "file" } else { "directory" };
                return Err(FatError::Kind { path: walked, expected });
            }
            if last {
                return self.only_sector(entry, walked);
            }
            cluster = entry.cluster;
        }
        Err(FatError::Missing(path.to_owned()))
    }

    fn only_sector(&self, entry: Entry, path: String) -> Result<u64, FatError> {
        if entry.size != SECTOR {
            return Err(FatError::Size { path, found: entry.size, expected: SECTOR });
        }
        let position = self.position(entry.cluster, &path)?;
        match self.next(entry.cluster, &path)? {
            None => Ok(position),
            Some(_) => Err(FatError::Chain { path }),
        }
    }

    /// Returns where a cluster is, in bytes.
    fn position(&self, cluster: u32, path: &str) -> Result<u64, FatError> {
        match cluster.checked_sub(2) {
            Some(index) if index < self.clusters => Ok(self.data + u64::from(index) * self.cluster_size),
            _ => Err(FatError::Cluster { path: path.to_owned(), cluster }),
        }
    }

    /// Returns the next cluster of a chain; `None` at its end.
    fn next(&self, cluster: u32, path: &str) -> Result<Option<u32>, FatError> {
        let mut entry = [0; 4];
        self.disk.read_at(self.table + 4 * u64::from(cluster), &mut entry)?;
        // "A FAT32 FAT entry is actually only a 28-bit entry."
        match u32::from_le_bytes(entry) & 0x0fff_ffff {
            next if next > BAD_CLUSTER => Ok(None),
            next => self.position(next, path).map(|_| Some(next)),
        }
    }

    /// Looks for a name in the directory that begins at `cluster`.
    fn lookup(&self, first: u32, name: &str, path: &str) -> Result<Option<Entry>, FatError> {
        let path = if path.is_empty() { "the root directory" } else { path };
        let (mut cluster, mut read, mut long) = (first, 0, LongName::default());
        let mut sector = [0; SECTOR as usize];
        loop {
            let start = self.position(cluster, path)?;
            for offset in (0..self.cluster_size).step_by(SECTOR as usize) {
                self.disk.read_at(start + offset, &mut sector)?;
                for entry in sector.as_chunks::<ENTRY>().0 {
                    match (entry[0], entry[11] & 0x3f) {
                        (0, _) => return Ok(None),
                        (0xe5, _) => long = LongName::default(),
                        (_, ATTRIBUTE_LONG_NAME) => long.take(entry),
                        (_, attributes) if attributes & ATTRIBUTE_VOLUME != 0 => long = LongName::default(),
                        _ if std::mem::take(&mut long).or_short(entry).eq_ignore_ascii_case(name) => {
                            return Ok(Some(Entry::of(entry)));
                        }
                        _ => {}
                    }
                }
            }
            read += self.cluster_size;
            if read > DIRECTORY_LIMIT {
                return Err(FatError::Endless { path: path.to_owned() });
            }
            match self.next(cluster, path)? {
                Some(next) => cluster = next,
                None => return Ok(None),
            }
        }
    }
}

impl Entry {
    fn of(entry: &[u8; ENTRY]) -> Self {
        let cluster = (little::<2>(entry, 20) << 16) | little::<2>(entry, 26);
        let directory = entry[11] & ATTRIBUTE_DIRECTORY != 0;
        Entry { directory, cluster: cluster as u32, size: little::<4>(entry, 28) }
    }
}

/// A long name as far as it was read: its parts stand before the entry, the last first (section "FAT Long Directory
/// Entries").
#[derive(Debug, Default)]
struct LongName {
    units: Vec<u16>,
    checksum: u8,
    /// Number of the part that was read last; `None` when there is no valid one.
    part: Option<u8>,
}

impl LongName {
    fn take(&mut self, entry: &[u8; ENTRY]) {
        let number = entry[0] & 0x3f;
        let first = entry[0] & 0x40 != 0;
        let follows = self.part == Some(number.wrapping_add(1)) && self.checksum == entry[13];
        if number == 0 || number > LONG_NAME_PARTS || !(first || follows) {
            *self = LongName::default();
            return;
        }
        if first {
            *self = LongName { units: Vec::new(), checksum: entry[13], part: None };
        }
        let places = (1..11).chain(14..26).chain(28..32).step_by(2);
        let units = places.map(|place| little::<2>(entry, place) as u16);
        self.units.splice(0..0, units);
        self.part = Some(number);
    }

    /// Returns the long name if it is whole and belongs to `entry`, else the entry's short name.
    fn or_short(self, entry: &[u8; ENTRY]) -> String {
        let sum = entry[..11].iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if self.part == Some(1) && self.checksum == sum {
            let units = self.units.into_iter().take_while(|unit| *unit != 0);
            return char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches(' ').to_owned();
        match (text(&entry[..8]), text(&entry[8..11])) {
            (name, extension) if extension.is_empty() => name,
            (name, extension) => format!("{name}.{extension}"),
        }
    }
}
