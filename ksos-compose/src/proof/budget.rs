//! Rules about sizes: what goes into a slot, the EFI system partition, the data partition and memory fits, with room
//! to spare.

use ksos_formats::boot::RootMode;

use super::{Finding, Place, Rule, failure};

/// Memory in bytes that the kernel itself takes on a small machine: image, page structures, per-processor data and
/// what drivers allocate. Measured on Debian's 6.12 (cloud and generic flavour, x86_64, 512 MiB, 2 processors): 48 MiB
/// never counted as total, 28 to 29 MiB more in use when the first process starts.
pub const KERNEL_MEMORY: u64 = 80 << 20;

/// Smallest data partition in bytes: an ext4 file system with its journal, and something in it.
pub const DATA_MINIMUM: u64 = 16 << 20;

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// Size of each system slot's partition; the smaller one, if they differ.
    pub slot_size: u64,
    /// What goes into a slot: kernel, initramfs, root image, metadata, file system overhead.
    pub slot_used: u64,
    /// Size of the EFI system partition.
    pub esp_size: u64,
    /// What goes into it.
    pub esp_used: u64,
    /// Size of the data partition in the image file.
    pub data_size: u64,
    /// Part of a slot, of the EFI system partition and of memory that must stay free, in percent (0 to 90).
    pub headroom: u8,
    /// Memory of the smallest machine that the image is for.
    pub memory: u64,
    /// How the root is used.
    pub root_mode: RootMode,
    /// Size of the root image.
    pub root_image: u64,
    /// Size of the compressed initramfs.
    pub initramfs: u64,
    /// Size of its unpacked content.
    pub initramfs_unpacked: u64,
    /// Memory that the services are known to need; 0 when nothing is known.
    pub services: u64,
}

impl Budgets {
    /// Returns the memory that is needed while the kernel unpacks the initramfs: both forms of it at once.
    pub fn memory_at_boot(&self) -> u64 {
        KERNEL_MEMORY + self.initramfs + self.initramfs_unpacked
    }

    /// Returns the memory that is needed once the root is mounted: the initramfs is gone; in RAM mode the root image
    /// stays, and while it is copied the initramfs is still there.
    pub fn memory_running(&self) -> u64 {
        let root = match self.root_mode {
            RootMode::Slot => 0,
            RootMode::Ram => self.root_image,
        };
        KERNEL_MEMORY + root + self.services.max(if root > 0 { self.initramfs_unpacked } else { 0 })
    }
}

/// Checks every size.
pub fn budgets(budgets: &Budgets) -> Vec<Finding> {
    let mut findings = Vec::new();
    let headroom = budgets.headroom.min(90);
    let mut check = |path: &str, used: u64, size: u64, what: &str, fix: &str| {
        let usable = (u128::from(size) * u128::from(100 - headroom) / 100) as u64;
        if used > usable {
            let message = format!(
                "{what} {}, but only {} of {} may be used (headroom {headroom} %)",
                mebibytes(used),
                mebibytes(usable),
                mebibytes(size)
            );
            findings.push(failure(Rule::Budget, Place::Plan, path, message, fix));
        }
    };
    let smaller = "make the partition larger, the content smaller, or lower budgets.headroom";
    check("partitions.slot", budgets.slot_used, budgets.slot_size, "the slot's content has", smaller);
    check("partitions.esp", budgets.esp_used, budgets.esp_size, "the EFI system partition's content has", smaller);
    let memory = "raise budgets.memory, use root.mode = \"slot\", or make the initramfs or the root smaller";
    check("budgets.memory", budgets.memory_at_boot(), budgets.memory, "unpacking the initramfs takes", memory);
    check("budgets.memory", budgets.memory_running(), budgets.memory, "running takes", memory);
    if budgets.data_size < DATA_MINIMUM {
        let message = format!(
            "the data partition has {}, at least {} are needed",
            mebibytes(budgets.data_size),
            mebibytes(DATA_MINIMUM)
        );
        findings.push(failure(Rule::Budget, Place::Plan, "partitions.data", message, "make the partition larger"));
    }
    findings
}

fn mebibytes(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10).div_ceil(1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
