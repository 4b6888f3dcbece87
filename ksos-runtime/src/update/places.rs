//! Where the EFI system partition and the two system slots are: on the disk that the node booted from, and nowhere else.

use ksos_formats::bootstate::Slot;
use ksos_formats::layout;

use crate::cmdline::Cmdline;
use crate::disk::find::{BootDisk, FindError, boot_disk};
use crate::disk::gpt::{Guid, Partition};
use crate::sys::{self, Sys, read_text};

/// A system slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotPlace {
    /// Device node of its partition.
    pub device: String,
    /// Size of the partition in bytes.
    pub size: u64,
}

/// What an update works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The slot that runs.
    pub booted: Slot,
    /// Device node of the EFI system partition.
    pub esp: String,
    /// Slots A and B.
    pub slots: [SlotPlace; 2],
}

impl Places {
    /// Returns a slot's place.
    pub fn slot(&self, slot: Slot) -> &SlotPlace {
        match slot {
            Slot::A => &self.slots[0],
            Slot::B => &self.slots[1],
        }
    }
}

/// Why the places are not known.
#[derive(Debug, thiserror::Error)]
pub enum PlacesError {
    /// The boot loader did not pass a parameter, or passed something else.
    #[error("{name}={value} on the kernel command line: expected {expected}, as the boot loader passes it")]
    Parameter {
        /// Its name.
        name: &'static str,
        /// Its value; empty when it is missing.
        value: String,
        /// What is expected.
        expected: &'static str,
    },
    /// The boot disk.
    #[error(transparent)]
    Disk(#[from] FindError),
    /// A partition is missing.
    #[error("{disk} has no partition named {name}")]
    NoPartition {
        /// The boot disk.
        disk: String,
        /// The name.
        name: &'static str,
    },
    /// The kernel refused something.
    #[error(transparent)]
    Sys(#[from] sys::Error),
}

/// Returns the kernel command line.
fn cmdline(sys: &dyn Sys) -> Cmdline {
    Cmdline::parse(&read_text(sys, "/proc/cmdline").unwrap_or_default())
}

/// Returns the slot that runs, if the boot loader said which.
pub fn booted(sys: &dyn Sys) -> Option<Slot> {
    cmdline(sys).value(layout::PARAM_SLOT).and_then(Slot::from_name)
}

/// Finds the EFI system partition by the GUID that the boot loader passes, and the slots on the same disk by their names.
///
/// # Errors
/// [`PlacesError`]. Two disks that have the partition are an error: what is written to one may not be what boots.
pub fn find(sys: &dyn Sys) -> Result<Places, PlacesError> {
    let cmdline = cmdline(sys);
    let parameter = |name, expected| {
        let value = cmdline.value(name).unwrap_or_default().to_owned();
        PlacesError::Parameter { name, value, expected }
    };
    let slot = cmdline.value(layout::PARAM_SLOT).and_then(Slot::from_name);
    let booted = slot.ok_or_else(|| parameter(layout::PARAM_SLOT, "a or b"))?;
    let guid = cmdline.value(layout::PARAM_ESP).and_then(Guid::parse);
    let guid = guid.ok_or_else(|| parameter(layout::PARAM_ESP, "the GUID of a partition"))?;
    let disk = boot_disk(sys, Some(guid))?;
    let esp = disk.table.by_guid(guid).ok_or_else(|| missing(&disk, layout::ESP_LABEL))?;
    let slots = [slot_place(sys, &disk, layout::SLOT_A_LABEL)?, slot_place(sys, &disk, layout::SLOT_B_LABEL)?];
    Ok(Places { booted, esp: disk.partition_path(sys, esp)?, slots })
}

fn missing(disk: &BootDisk, name: &'static str) -> PlacesError {
    PlacesError::NoPartition { disk: disk.path(), name }
}

fn slot_place(sys: &dyn Sys, disk: &BootDisk, name: &'static str) -> Result<SlotPlace, PlacesError> {
    let partition: &Partition = disk.table.by_name(name).ok_or_else(|| missing(disk, name))?;
    let (_, size) = disk.table.extent(partition);
    Ok(SlotPlace { device: disk.partition_path(sys, partition)?, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::gpt::tests::image;
    use crate::sys::double::Double;

    fn machine(cmdline: &str, disks: &[(&str, u8)]) -> Double {
        let sys = Double::new();
        sys.put("/proc/cmdline", cmdline);
        for (name, seed) in disks {
            sys.put(&format!("/sys/block/{name}/size"), "1");
            sys.disks.borrow_mut().insert(format!("/dev/{name}"), image(8, *seed));
        }
        sys
    }

    fn line(slot: &str, seed: u8) -> String {
        format!("quiet ksos.slot={slot} ksos.esp={}\n", Guid([seed; 16]))
    }

    #[test]
    fn partitions_are_those_of_the_boot_disk_though_another_has_the_same_names() {
        let sys = machine(&line("b", 20), &[("vda", 10), ("nvme0n1", 20)]);
        let places = find(&sys).expect("found");
        assert_eq!((places.booted, places.esp.as_str()), (Slot::B, "/dev/nvme0n1p1"));
        assert_eq!(places.slot(Slot::A), &SlotPlace { device: "/dev/nvme0n1p2".to_owned(), size: 1 << 20 });
        assert_eq!(places.slot(Slot::B).device, "/dev/nvme0n1p3");
    }

    #[test]
    fn a_second_disk_with_the_same_guids_is_refused_with_both_named() {
        let sys = machine(&line("a", 10), &[("vda", 10), ("vdb", 10)]);
        let error = find(&sys).expect_err("ambiguous").to_string();
        assert!(error.starts_with("several disks have") && error.contains("vda") && error.contains("vdb"), "{error}");
    }

    #[test]
    fn what_the_boot_loader_did_not_say_is_not_guessed() {
        for (cmdline, expected) in [
            ("quiet", "ksos.slot= on the kernel command line: expected a or b, as the boot loader passes it"),
            ("ksos.slot=c", "ksos.slot=c on the kernel command line: expected a or b, as the boot loader passes it"),
            ("ksos.slot=a ksos.esp=x", "ksos.esp=x on the kernel command line: expected the GUID of a partition"),
        ] {
            let error = find(&machine(cmdline, &[("vda", 10)])).expect_err("refused").to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        assert_eq!(booted(&machine("ksos.slot=b", &[])), Some(Slot::B));
        assert_eq!(booted(&machine("quiet", &[])), None);
    }
}
