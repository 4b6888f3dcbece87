//! Where partitions go.

use serde::{Deserialize, Serialize};

use super::DiskError;

/// What every partition starts at a multiple of, in bytes.
pub const ALIGNMENT: u64 = 1 << 20;
/// Bytes per sector (logical block).
pub const SECTOR: u64 = 512;
/// Sectors of the backup partition entries and the backup header at the end of a disk.
const BACKUP_SECTORS: u64 = 33;
/// "A minimum of 16,384 bytes must be reserved for the partition entry array" (UEFI 2.10, section 5.3.1): 128 entries.
const MOST_PARTITIONS: usize = 128;

/// Where one partition is, in bytes from the start of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

/// Where everything is on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Size of the disk in bytes, a multiple of 1 MiB.
    pub size: u64,
    /// The partitions in their order.
    pub partitions: Vec<Extent>,
}

/// Places partitions of `sizes` bytes one after another, each at a multiple of 1 MiB, on the smallest disk that holds
/// them.
///
/// # Errors
/// [`DiskError::PartitionSize`], [`DiskError::TooManyPartitions`], [`DiskError::TooLarge`].
pub fn layout(sizes: &[u64]) -> Result<Layout, DiskError> {
    if sizes.len() > MOST_PARTITIONS {
        return Err(DiskError::TooManyPartitions { count: sizes.len() });
    }
    let mut partitions = Vec::new();
    let mut end = ALIGNMENT;
    for (index, &size) in sizes.iter().enumerate() {
        if size == 0 || !size.is_multiple_of(SECTOR) {
            return Err(DiskError::PartitionSize { number: index + 1, size });
        }
        let offset = end.checked_next_multiple_of(ALIGNMENT).ok_or(DiskError::TooLarge)?;
        end = offset.checked_add(size).ok_or(DiskError::TooLarge)?;
        partitions.push(Extent { offset, size });
    }
    let size = end.checked_add(BACKUP_SECTORS * SECTOR).and_then(|size| size.checked_next_multiple_of(ALIGNMENT));
    // File offsets are signed.
    let size = size.filter(|size| i64::try_from(*size).is_ok()).ok_or(DiskError::TooLarge)?;
    Ok(Layout { size, partitions })
}
