//! Disks, sticks and drives that are not there yet when a volume is looked for: what drives them is loaded, and what is
//! still being found is waited for.
//!
//! SATA and IDE are found while their drivers load (kernel `kernel/module/main.c`, `do_init_module`: modules that do not
//! ask for asynchronous probing wait for all that they began). USB is not: ports are looked at one after the other, and
//! a stick's disk appears a second after the stick.

use crate::cmdline::Cmdline;
use crate::modules::Loader;
use crate::sys::{Sys, read_line};

use super::Context;

/// Classes of PCI devices that disks hang on: mass storage, USB hosts, memory-card hosts (PCI Code and ID Assignment 1.11,
/// section 1). As `class` has them.
const CONTROLLERS: [&str; 3] = ["0x01", "0x0c03", "0x0805"];
/// Where the drivers of all that are, below a module directory.
const DRIVERS: [&str; 8] = [
    "/drivers/ata/",
    "/drivers/block/",
    "/drivers/mmc/",
    "/drivers/nvme/",
    "/drivers/scsi/",
    "/drivers/usb/dwc3/",
    "/drivers/usb/host/",
    "/drivers/usb/storage/",
];
/// A SCSI device of this type is a disk, or a CD drive (SPC-5, table 151).
const SCSI_DISK: &str = "0";
const SCSI_CD: &str = "5";
/// USB devices.
const USB: &str = "/sys/bus/usb/devices";
/// The class of USB mass storage (USB-IF, "Defined Class Codes").
const USB_STORAGE: &str = "08";
/// No more USB devices come when none has come for so long, in milliseconds: a hub waits 0.1 s for power and 0.1 s for a
/// steady connection, and then asks the device (USB 2.0, sections 7.1.7.3 and 9.2.6).
const QUIET_MS: u64 = 1000;

/// What is loaded and waited for.
pub(super) struct Storage<'a> {
    sys: &'a dyn Sys,
    cmdline: &'a Cmdline,
    /// Opened when something has no driver; `None` in it for an image without modules.
    loader: Option<Option<Loader<'a>>>,
}

impl<'a> Storage<'a> {
    /// Loads drivers for what has none: what hangs on a controller shows up only then.
    pub(super) fn of(context: &Context<'a>) -> Self {
        let mut storage = Storage { sys: context.sys, cmdline: context.cmdline, loader: None };
        storage.load();
        storage
    }

    /// Loads drivers for what has none now.
    pub(super) fn load(&mut self) {
        let sys = self.sys;
        if self.loader.is_none()
            && (has_undriven_controller(sys)
                || has_undriven_stick(sys)
                || has_undriven_disk(sys, &[SCSI_DISK, SCSI_CD]))
        {
            self.loader = Some(Loader::open(sys, self.cmdline).ok());
        }
        let Some(Some(loader)) = &self.loader else { return };
        loader.load_below(&DRIVERS);
        if has_undriven_disk(sys, &[SCSI_CD]) {
            // An image without it has no CD drives; there is nothing else to do about that.
            let _ = loader.load("sr_mod");
        }
    }

    /// Whether more may be found than has been.
    pub(super) fn is_pending(&self) -> bool {
        let names = self.sys.list(USB).unwrap_or_default();
        names.iter().any(|name| self.is_new(name) || self.is_without_disk(name))
    }

    /// A USB device or root hub that has just come: its neighbours may be on their way (kernel
    /// `Documentation/ABI/stable/sysfs-bus-usb`, `connected_duration`, milliseconds).
    fn is_new(&self, name: &str) -> bool {
        let duration = read_line(self.sys, &format!("{USB}/{name}/power/connected_duration"));
        duration.and_then(|text| text.parse::<u64>().ok()).is_some_and(|duration| duration < QUIET_MS)
    }

    /// A stick or drive whose driver has not shown its disks yet.
    fn is_without_disk(&self, name: &str) -> bool {
        let interface = format!("{USB}/{name}");
        if !is_stick(self.sys, &interface) || !has_driver(self.sys, &interface) {
            return false;
        }
        let devices = self.below(&below(self.sys, &interface, "host"), "target");
        let devices = self.below(&devices, "");
        let devices: Vec<&String> =
            devices.iter().filter(|device| self.sys.kind(&format!("{device}/type")).is_some()).collect();
        // What is no disk, or has no driver in the image, shows none.
        let waits = |device: &&String| {
            let kind = read_line(self.sys, &format!("{device}/type"));
            matches!(kind.as_deref(), Some(SCSI_DISK | SCSI_CD))
                && has_driver(self.sys, device)
                && self.sys.kind(&format!("{device}/block")).is_none()
        };
        devices.is_empty() || devices.iter().any(waits)
    }

    fn below(&self, directories: &[String], prefix: &str) -> Vec<String> {
        directories.iter().flat_map(|directory| below(self.sys, directory, prefix)).collect()
    }
}

/// Returns the paths in `directory` whose names begin with `prefix`.
fn below(sys: &dyn Sys, directory: &str, prefix: &str) -> Vec<String> {
    let names = sys.list(directory).unwrap_or_default();
    names.iter().filter(|name| name.starts_with(prefix)).map(|name| format!("{directory}/{name}")).collect()
}

fn has_driver(sys: &dyn Sys, device: &str) -> bool {
    sys.kind(&format!("{device}/driver")).is_some()
}

/// Whether a USB interface is that of a stick or drive.
fn is_stick(sys: &dyn Sys, interface: &str) -> bool {
    read_line(sys, &format!("{interface}/bInterfaceClass")).as_deref() == Some(USB_STORAGE)
}

fn has_undriven_controller(sys: &dyn Sys) -> bool {
    let is_one = |device: &String| {
        let class = read_line(sys, &format!("{device}/class")).unwrap_or_default();
        CONTROLLERS.iter().any(|prefix| class.starts_with(prefix)) && !has_driver(sys, device)
    };
    below(sys, "/sys/bus/pci/devices", "").iter().any(is_one)
}

fn has_undriven_stick(sys: &dyn Sys) -> bool {
    below(sys, USB, "").iter().any(|interface| is_stick(sys, interface) && !has_driver(sys, interface))
}

/// Whether a SCSI device of one of `types` has no driver.
fn has_undriven_disk(sys: &dyn Sys, types: &[&str]) -> bool {
    let is_one = |device: &String| {
        let kind = read_line(sys, &format!("{device}/type")).unwrap_or_default();
        types.contains(&kind.as_str()) && !has_driver(sys, device)
    };
    below(sys, "/sys/bus/scsi/devices", "").iter().any(is_one)
}
