//! Assembles disks: a protective MBR, a GUID partition table with its backup (UEFI 2.10, chapter 5), and the contents
//! of the partitions copied from files.
//!
//! Partitions start at multiples of 1 MiB, in the order given, and the disk ends as soon as it can behind the last one.
//! All identifiers come from the caller. The result is sparse: holes and zero blocks of the contents are not written,
//! and where the file system can share blocks between files nothing is copied at all.

pub(in crate::artifact) mod copy;
mod layout;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types::{OperatingSystem, Type};
use gpt::{GptConfig, partition};
use uuid::Uuid;

pub use self::copy::{copy_sparse, data_ranges};
pub use self::layout::{ALIGNMENT, Extent, Layout, SECTOR, layout};
use crate::effects::fs::{self, FsError};

/// [`ksos_formats::layout::BIOS_BOOT_TYPE_GUID`].
const BIOS_BOOT_TYPE: Uuid = Uuid::from_u128(0x2168_6148_6449_6e6f_744e_6565_6445_4649);
/// Most UTF-16 units in a partition's name.
const LABEL_UNITS: usize = 36;

/// What a partition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionContent {
    /// Zeros.
    Empty,
    /// A file, and zeros behind it.
    File(PathBuf),
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Name in the partition table, at most 36 UTF-16 units.
    pub label: String,
    /// Type GUID.
    pub type_guid: Uuid,
    /// Unique GUID.
    pub guid: Uuid,
    /// Size in bytes, a multiple of 512.
    pub size: u64,
    /// What it holds.
    pub content: PartitionContent,
}

/// Where the BIOS boot partition begins, in bytes: behind the partition table, at a multiple of 4 KiB. It ends where the
/// first of the other partitions begins, at 1 MiB.
pub const BIOS_BOOT_OFFSET: u64 = 20 << 10;

/// What a BIOS boots from a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BiosBoot {
    /// Unique GUID of the BIOS boot partition. Its number is the one behind those of the others.
    pub guid: Uuid,
    /// Boot code of the first sector.
    pub code: [u8; 440],
    /// What the partition holds.
    pub image: Vec<u8>,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// GUID of the disk.
    pub disk_guid: Uuid,
    /// The partitions in their order.
    pub partitions: Vec<Partition>,
    /// What a BIOS boots.
    pub bios: Option<BiosBoot>,
}

/// A disk could not be assembled.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A size that a partition cannot have.
    #[error("partition {number} cannot have {size} bytes: a positive multiple of 512 is needed")]
    PartitionSize {
        /// Number of the partition, from 1.
        number: usize,
        /// The size in bytes.
        size: u64,
    },
    /// A content that is larger than its partition.
    #[error("partition {label:?} has {size} bytes, its content {} has {content}", path.display())]
    ContentTooLarge {
        /// Label of the partition.
        label: String,
        /// Its size in bytes.
        size: u64,
        /// The content.
        path: PathBuf,
        /// Size of the content in bytes.
        content: u64,
    },
    /// More partitions than the table holds.
    #[error("{count} partitions; the table holds 128")]
    TooManyPartitions {
        /// How many.
        count: usize,
    },
    /// The sizes add up to more than a file can have.
    #[error("the partitions together have more than 9223372036854775807 bytes")]
    TooLarge,
    /// A label that is empty or too long.
    #[error("{label:?} is not a partition name: 1 to 36 UTF-16 units without NUL are allowed")]
    Label {
        /// The label.
        label: String,
    },
    /// One GUID for two things, or one that means "unused".
    #[error("GUID {guid} of partition {label:?} is nil or is used twice")]
    Guid {
        /// The GUID.
        guid: Uuid,
        /// Label of the partition.
        label: String,
    },
    /// What a BIOS boots does not fit before the first partition.
    #[error("the boot loader for BIOS has {size} bytes; {} fit before the first partition", ALIGNMENT - BIOS_BOOT_OFFSET)]
    BiosTooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// A content cannot be used.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A content cannot be copied.
    #[error("cannot copy {} into partition {label:?}: {source}", path.display())]
    Copy {
        /// The content.
        path: PathBuf,
        /// Label of the partition.
        label: String,
        /// The cause.
        source: io::Error,
    },
    /// The disk cannot be written.
    #[error("cannot write the disk: {0}")]
    Write(#[from] io::Error),
    /// The partition table cannot be written.
    #[error("cannot write the partition table: {0}")]
    Table(String),
}

/// Writes the disk into `output` (open for reading and writing), which is emptied first, and returns where everything is. What is wrong with `spec`
/// or the contents' sizes shows before anything is written.
///
/// # Errors
/// [`DiskError`].
pub fn write(output: &mut File, spec: &DiskSpec) -> Result<Layout, DiskError> {
    check_names(spec)?;
    if let Some(BiosBoot { image, .. }) = &spec.bios
        && image.len() as u64 > ALIGNMENT - BIOS_BOOT_OFFSET
    {
        return Err(DiskError::BiosTooLarge { size: image.len() });
    }
    let layout = layout(&spec.partitions.iter().map(|partition| partition.size).collect::<Vec<_>>())?;
    let contents = spec.partitions.iter().map(open_content).collect::<Result<Vec<_>, _>>()?;
    output.set_len(0)?;
    output.set_len(layout.size)?;
    for ((partition, content), extent) in spec.partitions.iter().zip(contents).zip(&layout.partitions) {
        let Some((file, path, size)) = content else { continue };
        copy::copy_sparse(&file, size, output, extent.offset).map_err(|source| {
            let label = partition.label.clone();
            DiskError::Copy { path, label, source }
        })?;
    }
    write_table(output, spec, &layout)?;
    if let Some(BiosBoot { code, image, .. }) = &spec.bios {
        output.write_all_at(code, 0)?;
        output.write_all_at(image, BIOS_BOOT_OFFSET)?;
    }
    output.rewind()?;
    Ok(layout)
}

fn check_names(spec: &DiskSpec) -> Result<(), DiskError> {
    let mut guids = BTreeSet::from([spec.disk_guid]);
    for Partition { label, type_guid, guid, .. } in &spec.partitions {
        if label.is_empty() || label.contains('\0') || label.encode_utf16().count() > LABEL_UNITS {
            return Err(DiskError::Label { label: label.clone() });
        }
        // "A nil type GUID marks an unused entry" (UEFI 2.10, table 5.6).
        if guid.is_nil() || type_guid.is_nil() || !guids.insert(*guid) {
            let guid = if type_guid.is_nil() { *type_guid } else { *guid };
            return Err(DiskError::Guid { guid, label: label.clone() });
        }
    }
    Ok(())
}

type OpenContent = Option<(File, PathBuf, u64)>;

fn open_content(partition: &Partition) -> Result<OpenContent, DiskError> {
    let PartitionContent::File(path) = &partition.content else { return Ok(None) };
    let file = fs::open(path)?;
    let copy_error = |source| DiskError::Copy { path: path.clone(), label: partition.label.clone(), source };
    let content = file.metadata().map_err(copy_error)?.len();
    if content > partition.size {
        let (label, size, path) = (partition.label.clone(), partition.size, path.clone());
        return Err(DiskError::ContentTooLarge { label, size, path, content });
    }
    Ok(Some((file, path.clone(), content)))
}

fn write_table(output: &mut File, spec: &DiskSpec, layout: &Layout) -> Result<(), DiskError> {
    let table_error = |error: &dyn std::fmt::Display| DiskError::Table(error.to_string());
    // "Size in logical blocks of the disk, minus one, or 0xffffffff if it is larger" (UEFI 2.10, table 5.4).
    let sectors = u32::try_from(layout.size / SECTOR - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(output).map_err(|error| table_error(&error))?;
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let disk = config.create_from_device(&mut *output, Some(spec.disk_guid));
    let mut disk = disk.map_err(|error| table_error(&error))?;
    let mut entries = BTreeMap::new();
    for (number, (partition, extent)) in (1..).zip(spec.partitions.iter().zip(&layout.partitions)) {
        let first_lba = extent.offset / SECTOR;
        let entry = partition::Partition {
            part_type_guid: Type { guid: partition.type_guid, os: OperatingSystem::None },
            part_guid: partition.guid,
            first_lba,
            last_lba: first_lba + extent.size / SECTOR - 1,
            flags: 0,
            name: partition.label.clone(),
        };
        entries.insert(number, entry);
    }
    if let Some(bios) = &spec.bios {
        let entry = partition::Partition {
            part_type_guid: Type { guid: BIOS_BOOT_TYPE, os: OperatingSystem::None },
            part_guid: bios.guid,
            first_lba: BIOS_BOOT_OFFSET / SECTOR,
            last_lba: ALIGNMENT / SECTOR - 1,
            flags: 0,
            name: "BIOS".to_owned(),
        };
        entries.insert(spec.partitions.len() as u32 + 1, entry);
    }
    disk.update_partitions(entries).map_err(|error| table_error(&error))?;
    disk.write().map_err(|error| table_error(&error))?;
    Ok(())
}

#[cfg(test)]
mod tests;
