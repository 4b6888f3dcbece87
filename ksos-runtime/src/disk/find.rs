//! Which disk the machine booted from.
//!
//! The boot loader passes the GUID of the EFI system partition it came from (`ksos.esp=`); the disk with that
//! partition is the boot disk, and slots and data are looked for there and nowhere else. Without the parameter the
//! only disk with a partition named `KSOSEFI` is taken. Several candidates are an error that names them.

use ksos_formats::layout;

use crate::sys::{Sys, read_line};

use super::gpt::{Guid, Partition, Table};

/// Block devices that are never what a machine boots from.
const NEVER: [&str; 8] = ["loop", "ram", "dm-", "zram", "sr", "fd", "md", "nbd"];

/// A disk with a partition table.
#[derive(Debug, Clone)]
pub struct BootDisk {
    /// Kernel name, e.g. `vda`.
    pub name: String,
    /// Its table.
    pub table: Table,
}

/// Why no boot disk was chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// No disk qualifies (yet).
    #[error("no disk has {wanted}; disks: {seen}")]
    NotFound {
        /// What was looked for.
        wanted: String,
        /// The disks there are and what was found on them.
        seen: String,
    },
    /// More than one disk qualifies.
    #[error("several disks have {wanted}: {disks}")]
    Ambiguous {
        /// What was looked for.
        wanted: String,
        /// Their names.
        disks: String,
    },
}

/// Chooses the boot disk among disks with tables. `seen` describes all disks, for the error.
pub fn choose(disks: Vec<BootDisk>, esp: Option<Guid>, seen: &str) -> Result<BootDisk, FindError> {
    let wanted = match esp {
        Some(guid) => format!("the partition with GUID {guid}"),
        None => format!("a partition named {}", layout::ESP_LABEL),
    };
    let fits = |disk: &BootDisk| match esp {
        Some(guid) => disk.table.by_guid(guid).is_some(),
        None => disk.table.by_name(layout::ESP_LABEL).is_some(),
    };
    let mut found: Vec<BootDisk> = disks.into_iter().filter(fits).collect();
    match (found.pop(), found.is_empty()) {
        (None, _) => Err(FindError::NotFound { wanted, seen: seen.to_owned() }),
        (Some(disk), true) => Ok(disk),
        (Some(disk), false) => {
            found.push(disk);
            let names: Vec<&str> = found.iter().map(|disk| disk.name.as_str()).collect();
            Err(FindError::Ambiguous { wanted, disks: names.join(", ") })
        }
    }
}

/// Looks at all disks and chooses the boot disk.
pub fn boot_disk(sys: &dyn Sys, esp: Option<Guid>) -> Result<BootDisk, FindError> {
    let (mut disks, mut seen) = (Vec::new(), Vec::new());
    let names = sys.list("/sys/block").unwrap_or_default();
    for name in names.into_iter().filter(|name| !NEVER.iter().any(|prefix| name.starts_with(prefix))) {
        let table = sys.open_disk(&device_path(&name), false).map_err(|error| error.to_string());
        match table.and_then(|disk| Table::read(disk.as_ref()).map_err(|error| error.to_string())) {
            Ok(table) => {
                let partitions: Vec<&str> = table.partitions.iter().map(|partition| partition.name.as_str()).collect();
                seen.push(format!("{name} ({})", partitions.join(" ")));
                disks.push(BootDisk { name, table });
            }
            Err(error) => seen.push(format!("{name} ({error})")),
        }
    }
    let seen = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
    choose(disks, esp, &seen)
}

/// Returns the names of all disks, for messages.
pub fn names(sys: &dyn Sys) -> String {
    let names = sys.list("/sys/block").unwrap_or_default();
    let never = |name: &String| NEVER.iter().any(|prefix| name.starts_with(prefix) && *prefix != "sr");
    let names: Vec<String> = names.into_iter().filter(|name| !never(name)).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Returns the device nodes of disks that have a partition of this name.
pub fn disks_with(sys: &dyn Sys, partition: &str) -> Vec<String> {
    let names = sys.list("/sys/block").unwrap_or_default();
    let disks = names.iter().filter(|name| !NEVER.iter().any(|prefix| name.starts_with(prefix)));
    let has = |path: &String| {
        let Ok(disk) = sys.open_disk(path, false) else { return false };
        Table::read(disk.as_ref()).is_ok_and(|table| table.by_name(partition).is_some())
    };
    disks.map(|name| device_path(name)).filter(has).collect()
}

/// Returns the disks besides `own` that have a partition with the GUID of one of its partitions: byte-for-byte copies of
/// it, or of an older state of it.
pub fn clones(sys: &dyn Sys, own: &BootDisk) -> Vec<String> {
    let names = sys.list("/sys/block").unwrap_or_default();
    let others =
        names.into_iter().filter(|name| *name != own.name && !NEVER.iter().any(|prefix| name.starts_with(prefix)));
    let is_clone = |name: &String| {
        let Ok(disk) = sys.open_disk(&device_path(name), false) else { return false };
        let Ok(table) = Table::read(disk.as_ref()) else { return false };
        own.table.partitions.iter().any(|partition| table.by_guid(partition.guid).is_some())
    };
    others.filter(is_clone).collect()
}

/// Returns the device node of a kernel device name; `!` stands for `/` in `/sys/block`.
fn device_path(name: &str) -> String {
    format!("/dev/{}", name.replace('!', "/"))
}

impl BootDisk {
    /// Returns the device node of the disk.
    pub fn path(&self) -> String {
        device_path(&self.name)
    }

    /// Returns the device node of a partition, telling the kernel of it if it does not know it: the kernel reads the
    /// primary table only.
    pub fn partition_path(&self, sys: &dyn Sys, partition: &Partition) -> Result<String, crate::sys::Error> {
        if let Some(path) = self.known_partition(sys, partition.number) {
            return Ok(path);
        }
        let (start, length) = self.table.extent(partition);
        sys.add_partition(&self.path(), partition.number, start, length)?;
        let separator = if self.name.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
        let named = format!("{}{separator}{}", self.path(), partition.number);
        Ok(self.known_partition(sys, partition.number).unwrap_or(named))
    }

    fn known_partition(&self, sys: &dyn Sys, number: u32) -> Option<String> {
        let directory = format!("/sys/block/{}", self.name);
        let mut names = sys.list(&directory).ok()?;
        // It is most likely among those.
        names.sort_by_key(|name| !name.starts_with(&self.name));
        let has_number = |name: &&String| {
            read_line(sys, &format!("{directory}/{name}/partition")).is_some_and(|text| text == number.to_string())
        };
        names.iter().find(has_number).map(|name| device_path(name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::gpt::tests::image;
    use super::*;
    use crate::sys::double::Double;

    fn machine(disks: &[(&str, u8)]) -> Double {
        let sys = Double::new();
        sys.put("/sys/block/loop0/size", "0");
        sys.put("/sys/block/sda/size", "0");
        for (name, seed) in disks {
            sys.put(&format!("/sys/block/{name}/size"), "1");
            sys.disks.borrow_mut().insert(format!("/dev/{name}"), image(8, *seed));
        }
        sys
    }

    #[test]
    fn a_second_disk_with_the_same_labels_does_not_win() {
        let sys = machine(&[("vda", 10), ("vdb", 20)]);
        for (seed, expected) in [(10, "vda"), (20, "vdb")] {
            let disk = boot_disk(&sys, Some(Guid([seed; 16]))).expect("one disk has it");
            assert_eq!(disk.name, expected);
        }
    }

    #[test]
    fn without_a_guid_two_candidates_are_an_error_that_names_both() {
        let error = boot_disk(&machine(&[("vda", 10), ("vdb", 20)]), None).expect_err("ambiguous");
        assert_eq!(error.to_string(), "several disks have a partition named KSOSEFI: vda, vdb");
        assert_eq!(boot_disk(&machine(&[("nvme0n1", 1)]), None).expect("one").name, "nvme0n1");
        let twins = boot_disk(&machine(&[("vda", 10), ("vdb", 10)]), Some(Guid([10; 16]))).expect_err("copies");
        assert!(matches!(twins, FindError::Ambiguous { .. }));
    }

    #[test]
    fn clones_are_told_from_disks_with_the_same_labels() {
        let sys = machine(&[("vda", 10), ("vdb", 20), ("vdc", 10)]);
        let own = boot_disk(&sys, Some(Guid([20; 16]))).expect("one");
        assert!(clones(&sys, &own).is_empty());
        let own = BootDisk { name: "vda".to_owned(), table: Table::read(&image(8, 10)).expect("valid") };
        assert_eq!(clones(&sys, &own), ["vdc"]);
    }

    #[test]
    fn an_absent_disk_is_reported_with_what_is_there() {
        let error = boot_disk(&machine(&[("vda", 1)]), Some(Guid([9; 16]))).expect_err("not there");
        let text = error.to_string();
        assert!(text.starts_with("no disk has the partition with GUID 09090909-0909-"), "{text}");
        assert!(text.contains("sda (open /dev/sda: "), "{text}");
        assert!(text.ends_with("vda (KSOSEFI KSOSSYSA KSOSSYSB KSOLODATA)"), "{text}");
        let none = choose(Vec::new(), None, "none").expect_err("nothing");
        assert_eq!(none.to_string(), "no disk has a partition named KSOSEFI; disks: none");
    }

    #[test]
    fn partition_nodes_come_from_sysfs_or_are_added() {
        let sys = machine(&[("nvme0n1", 1)]);
        let disk = boot_disk(&sys, None).expect("one");
        let slot = disk.table.by_name("KSOSSYSA").expect("there").clone();
        assert_eq!(disk.partition_path(&sys, &slot).expect("added"), "/dev/nvme0n1p2");
        assert_eq!(sys.calls_of("add-partition"), ["add-partition /dev/nvme0n1 2 2097152 1048576"]);
        sys.put("/sys/block/nvme0n1/odd-name/partition", "2\n");
        assert_eq!(disk.partition_path(&sys, &slot).expect("known"), "/dev/odd-name");
    }
}
