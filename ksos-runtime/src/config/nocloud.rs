//! A NoCloud volume: a FAT or ISO 9660 file system labelled `cidata` or `CIDATA` with the files `user-data`, `meta-data`
//! and `network-config` (<https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html>).
//!
//! Every disk and partition there is has its label read. Sticks and drives that are still being found are waited for
//! ([`super::storage`]), 5 s at most, and nothing else, unless the kernel command line has `ksos.datasource=nocloud`: then up to
//! 10 s. If a whole disk carries the label, its partitions are not looked at (an
//! ISO on a USB stick shows on both). Two volumes: both are refused, because which one is meant cannot be told and the
//! order of disks changes between boots. The volume is mounted read-only, nosuid, nodev, noexec, read and unmounted;
//! links on it are refused. `vendor-data` is not read.

use ksos_formats::config::DOCUMENT_LIMIT;

use crate::modules::Loader;
use crate::sys::{FileKind, Mount, MountFlags, Sys, read_line, read_text};

use super::Context;
use super::label::{self, Volume};
use super::source::{Found, Gathered, Source, text_of};
use super::storage::Storage;

/// Labels that mark a volume.
const LABELS: [&str; 2] = ["cidata", "CIDATA"];
/// Where the volume is mounted while it is read.
const MOUNT: &str = "/run/ksos/nocloud";
/// How long a volume that the kernel command line asks for is waited for, in milliseconds.
const WAIT_MS: u64 = 10_000;
/// How long devices that are still being found are waited for, in milliseconds.
const PENDING_MS: u64 = 5000;
/// Pause between two looks, in milliseconds.
const PAUSE_MS: u64 = 100;
/// Block devices that carry no such volume: memory, mappings, and floppy disks, which take seconds to say so.
const NEVER: [&str; 8] = ["loop", "ram", "dm-", "zram", "fd", "md", "nbd", "mtdblock"];

/// Looks for a volume and reads it.
pub(super) fn look(context: &Context<'_>, insist: bool, warnings: &mut Vec<String>) -> Gathered {
    match wait_for_volumes(context, insist).as_slice() {
        [] => Gathered::Absent(insist.then(|| "no volume is labelled cidata or CIDATA".to_owned())),
        [(device, volume)] => read(context, device, volume, warnings),
        several => {
            let names: Vec<&str> = several.iter().map(|(device, _)| device.as_str()).collect();
            let names = names.join(", ");
            Gathered::Refused(vec![format!("{names}: several volumes are labelled cidata; none is used")])
        }
    }
}

/// Returns all volumes, by device, as soon as there are some, or no more can be expected.
fn wait_for_volumes(context: &Context<'_>, insist: bool) -> Vec<(String, Volume)> {
    let sys = context.sys;
    if insist {
        super::load_hardware_drivers(sys, context.cmdline);
    }
    let mut storage = Storage::of(context);
    let start = sys.uptime_ms();
    loop {
        // In this order: what is found after the first has its driver and its disk by the last.
        let pending = storage.is_pending();
        storage.load();
        let found = volumes(sys);
        let waited = sys.uptime_ms().saturating_sub(start);
        let goes_on = if insist { waited < WAIT_MS } else { waited < PENDING_MS && pending };
        if !found.is_empty() || !goes_on {
            return found;
        }
        sys.sleep_ms(PAUSE_MS);
        (context.progress)();
    }
}

/// Returns all volumes there are, by device.
fn volumes(sys: &dyn Sys) -> Vec<(String, Volume)> {
    let mut found = Vec::new();
    let disks = sys.list("/sys/block").unwrap_or_default();
    for disk in disks.iter().filter(|name| !NEVER.iter().any(|prefix| name.starts_with(prefix))) {
        let directory = format!("/sys/block/{disk}");
        if read_line(sys, &format!("{directory}/size")).as_deref() == Some("0") {
            continue;
        }
        if let Some(volume) = labelled(sys, disk) {
            found.push(volume);
            continue;
        }
        let names = sys.list(&directory).unwrap_or_default();
        let partitions = names.iter().filter(|name| sys.kind(&format!("{directory}/{name}/partition")).is_some());
        found.extend(partitions.filter_map(|name| labelled(sys, name)));
    }
    found
}

/// Returns a device and its volume if that carries the label; `!` stands for `/` in `/sys/block`.
fn labelled(sys: &dyn Sys, name: &str) -> Option<(String, Volume)> {
    let path = format!("/dev/{}", name.replace('!', "/"));
    let device = sys.open_disk(&path, false).ok()?;
    let volume = label::read(device.as_ref()).filter(|volume| LABELS.contains(&volume.label.as_str()))?;
    Some((path, volume))
}

fn read(context: &Context<'_>, device: &str, volume: &Volume, warnings: &mut Vec<String>) -> Gathered {
    let sys = context.sys;
    load_file_system(context, volume.kind);
    let flags = MountFlags { read_only: true, no_suid: true, no_dev: true, no_exec: true, no_atime: false };
    let mount = Mount { source: device, target: MOUNT, kind: volume.kind, flags, options: "" };
    if let Err(error) = sys.make_directory(MOUNT, 0o700).and_then(|()| sys.mount(&mount)) {
        return Gathered::Refused(vec![error.to_string()]);
    }
    let files = ["user-data", "meta-data", "network-config"].map(|name| read_file(sys, device, name));
    if let Err(error) = sys.unmount(MOUNT) {
        warnings.push(error.to_string());
    }
    let [user_data, meta_data, network_config] = files;
    match (user_data, meta_data, network_config) {
        (Ok(None), Ok(None), Ok(None)) => {
            Gathered::Refused(vec![format!("{device}: the volume has neither user-data nor meta-data")])
        }
        (Ok(user_data), Ok(meta_data), Ok(network_config)) => {
            if user_data.is_none() {
                warnings.push(format!("{device}: the volume has no user-data"));
            }
            let user_data = user_data.unwrap_or_default();
            Gathered::Found(Found { user_data, meta_data, network_config, ..Found::empty(Source::Nocloud, device) })
        }
        (user_data, meta_data, network_config) => {
            let results = [user_data, meta_data, network_config];
            Gathered::Refused(results.into_iter().filter_map(Result::err).flatten().collect())
        }
    }
}

/// Reads one file of the mounted volume; `None` if it is not there.
fn read_file(sys: &dyn Sys, device: &str, name: &str) -> Result<Option<String>, Vec<String>> {
    let path = format!("{MOUNT}/{name}");
    if !sys.is_link(&path) && sys.kind(&path).is_none() {
        return Ok(None);
    }
    if sys.is_link(&path) || sys.kind(&path) != Some(FileKind::File) {
        return Err(vec![format!("{device}: {name} is no regular file")]);
    }
    let bytes = sys.read(&path, DOCUMENT_LIMIT as u64).map_err(|error| vec![format!("{device}: {error}")])?;
    text_of(&format!("{device}:{name}"), &bytes).map(Some)
}

/// Loads the file system's module unless the kernel has it.
fn load_file_system(context: &Context<'_>, kind: &str) {
    let known = read_text(context.sys, "/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.split_whitespace().last() == Some(kind)) {
        return;
    }
    // With the tables that FAT wants by default (kernel `fs/fat/Kconfig`): the kernel would run modprobe for each.
    let modules: &[&str] = if kind == "iso9660" { &["isofs"] } else { &[kind, "nls_cp437", "nls_ascii"] };
    if let Ok(loader) = Loader::open(context.sys, context.cmdline) {
        for module in modules {
            // A failure shows in the mount that follows, which names the volume.
            let _ = loader.load(module);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::label::tests::{fat, iso};
    use super::super::tests::Bench;
    use super::*;
    use crate::sys::double::MemoryDisk;

    fn bench(disks: &[(&str, MemoryDisk)]) -> Bench {
        let bench = Bench::new("");
        for (path, disk) in disks {
            let name = path.trim_start_matches("/dev/");
            let whole = name.trim_end_matches(|last: char| last.is_ascii_digit());
            if whole == name || name == "sr0" {
                bench.sys.put(&format!("/sys/block/{name}/size"), "100\n");
            } else {
                bench.sys.put(&format!("/sys/block/{whole}/{name}/partition"), "1\n");
            }
            bench.sys.disks.borrow_mut().insert((*path).to_owned(), disk.clone());
        }
        bench
    }

    fn look_at(bench: &Bench) -> Gathered {
        look(&bench.context(), false, &mut Vec::new())
    }

    #[test]
    fn a_volume_is_mounted_read_and_unmounted() {
        for (path, disk, kind) in
            [("/dev/sda1", fat("NO NAME", Some("CIDATA")), "vfat"), ("/dev/sr0", iso("cidata"), "iso9660")]
        {
            let bench = bench(&[("/dev/sda", MemoryDisk::new(vec![0; 4096])), (path, disk)]);
            bench.sys.put("/run/ksos/nocloud/user-data", "#cloud-config\nhostname: n1\n");
            bench.sys.put("/run/ksos/nocloud/meta-data", "instance-id: i1\n");
            let Gathered::Found(found) = look_at(&bench) else { panic!("found") };
            assert_eq!((found.source, found.place.as_str()), (Source::Nocloud, path));
            assert_eq!(found.meta_data.as_deref(), Some("instance-id: i1\n"));
            assert_eq!(found.network_config, None);
            assert_eq!(bench.sys.calls_of("mount"), [format!("mount {path} /run/ksos/nocloud {kind} ro ")]);
            assert_eq!(bench.sys.calls_of("unmount"), ["unmount /run/ksos/nocloud"]);
        }
    }

    #[test]
    fn nothing_there_costs_no_time_and_other_labels_do_not_count() {
        let bench =
            bench(&[("/dev/sda1", fat("KSOSEFI", None)), ("/dev/sdb", iso("Debian")), ("/dev/loop", iso("cidata"))]);
        assert_eq!(look_at(&bench), Gathered::Absent(None));
        assert_eq!(bench.sys.now.get(), 1000);
        assert!(bench.sys.calls.borrow().is_empty(), "nothing was mounted or loaded");
    }

    #[test]
    fn an_image_on_a_stick_is_one_volume_and_two_volumes_are_refused() {
        let one = bench(&[("/dev/sda", iso("cidata")), ("/dev/sda1", iso("cidata"))]);
        one.sys.put("/run/ksos/nocloud/user-data", "");
        assert!(matches!(look_at(&one), Gathered::Found(found) if found.place == "/dev/sda"));
        let two = bench(&[("/dev/sda1", fat("cidata", None)), ("/dev/sr0", iso("CIDATA"))]);
        let Gathered::Refused(errors) = look_at(&two) else { panic!("refused") };
        assert_eq!(errors, ["/dev/sda1, /dev/sr0: several volumes are labelled cidata; none is used"]);
        assert!(two.sys.calls_of("mount").is_empty());
    }

    #[test]
    fn damaged_volumes_are_refused_with_their_name() {
        let volume = || bench(&[("/dev/sr0", iso("cidata"))]);
        let refused = |bench: &Bench| match look_at(bench) {
            Gathered::Refused(errors) => errors.join("; "),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&volume()), "/dev/sr0: the volume has neither user-data nor meta-data");
        let unmountable = volume();
        unmountable.sys.fail("mount", "bad superblock");
        assert!(refused(&unmountable).contains("bad superblock"));
        let binary = volume();
        binary.sys.put("/run/ksos/nocloud/user-data", [0x1f, 0x8b]);
        binary.sys.put("/run/ksos/nocloud/meta-data", vec![b'a'; DOCUMENT_LIMIT + 1]);
        let text = refused(&binary);
        assert!(text.starts_with("/dev/sr0:user-data:1:1: "), "{text}");
        assert!(text.contains("/dev/sr0: read /run/ksos/nocloud/meta-data: the file has more than"), "{text}");
        assert_eq!(binary.sys.calls_of("unmount").len(), 1, "also then it is unmounted");
        let directory = volume();
        directory.sys.put("/run/ksos/nocloud/user-data/x", "");
        assert_eq!(refused(&directory), "/dev/sr0: user-data is no regular file");
    }

    #[test]
    fn links_on_the_volume_are_refused() {
        let bench = bench(&[("/dev/sr0", iso("cidata"))]);
        bench.sys.put("/run/ksos/nocloud/meta-data", "");
        bench.sys.link("/etc/shadow", "/run/ksos/nocloud/user-data");
        assert!(matches!(look_at(&bench), Gathered::Refused(errors) if errors[0].contains("no regular file")));
    }

    #[test]
    fn an_insisted_volume_is_waited_for() {
        let bench = bench(&[]);
        let Gathered::Absent(Some(reason)) = look(&bench.context(), true, &mut Vec::new()) else { panic!("absent") };
        assert_eq!(reason, "no volume is labelled cidata or CIDATA");
        assert_eq!(bench.sys.now.get(), 11_000);
    }

    #[test]
    fn the_driver_of_a_cd_drive_and_the_file_system_are_loaded_when_needed() {
        let bench = bench(&[("/dev/sr0", iso("cidata"))]);
        bench.sys.put("/lib/modules/6.12.0-test/modules.dep", "k/sr_mod.ko:\nk/isofs.ko:\n");
        bench.sys.put("/sys/bus/scsi/devices/0:0:0:0/type", "5\n");
        bench.sys.put("/run/ksos/nocloud/user-data", "");
        bench.sys.put("/proc/filesystems", "nodev\tsysfs\n\text4\n");
        look_at(&bench);
        let loads = bench.sys.calls_of("load");
        assert_eq!(loads, ["load /lib/modules/6.12.0-test/k/sr_mod.ko", "load /lib/modules/6.12.0-test/k/isofs.ko"]);
        bench.sys.put("/proc/filesystems", "\tiso9660\n");
        bench.sys.put("/sys/bus/scsi/devices/0:0:0:0/driver/x", "");
        bench.sys.calls.borrow_mut().clear();
        look_at(&bench);
        assert!(bench.sys.calls_of("load").is_empty());
    }

    /// A stick that the kernel has found, whose disk appears later.
    fn stick(bench: &Bench) -> String {
        let interface = "/sys/bus/usb/devices/1-1:1.0";
        bench.sys.put("/sys/bus/usb/devices/usb1/power/connected_duration", "90000\n");
        bench.sys.put(&format!("{interface}/bInterfaceClass"), "08\n");
        bench.sys.put(&format!("{interface}/driver/x"), "");
        format!("{interface}/host0/target0:0:0/0:0:0:0")
    }

    #[test]
    fn sticks_that_are_being_found_are_waited_for_and_nothing_else_is() {
        let without = || bench(&[("/dev/sda", MemoryDisk::new(vec![0; 4096]))]);
        let waited = |bench: &Bench| {
            assert_eq!(look_at(bench), Gathered::Absent(None));
            bench.sys.now.get() - 1000
        };
        let none = without();
        stick(&none);
        assert_eq!(waited(&none), PENDING_MS, "its disk does not come");
        let undriven = without();
        let device = stick(&undriven);
        undriven.sys.put(&format!("{device}/type"), "0\n");
        assert_eq!(waited(&undriven), 0, "nothing will come of a disk without a driver");
        undriven.sys.put(&format!("{device}/driver/x"), "");
        assert_eq!(waited(&undriven), PENDING_MS, "its driver has just begun");
        let done = without();
        let device = stick(&done);
        for file in ["driver/x", "block/sda/size"] {
            done.sys.put(&format!("{device}/{file}"), "");
        }
        done.sys.put(&format!("{device}/type"), "0\n");
        assert_eq!(waited(&done), 0);
        done.sys.put("/sys/bus/usb/devices/usb2/power/connected_duration", "300\n");
        assert_eq!(waited(&done), PENDING_MS, "a hub that has just come");
    }

    #[test]
    fn what_drives_disks_is_loaded_for_controllers_without_a_driver() {
        let modules = "/lib/modules/6.12.0-test/kernel/drivers";
        let index = |bench: &Bench| {
            let dep = "kernel/drivers/usb/host/xhci-pci.ko:\nkernel/drivers/net/e1000.ko:\n\
                kernel/drivers/usb/storage/usb-storage.ko:\n";
            bench.sys.put("/lib/modules/6.12.0-test/modules.dep", dep);
            let aliases = "alias pci:v*bc0Csc03i30* xhci_pci\nalias pci:v*bc02* e1000\nalias usb:v*ic08* usb_storage\n";
            bench.sys.put("/lib/modules/6.12.0-test/modules.alias", aliases);
        };
        let bench = || bench(&[]);
        let stick = bench();
        index(&stick);
        for (file, text) in [("bInterfaceClass", "08\n"), ("modalias", "usb:v1ic08isc06\n")] {
            stick.sys.put(&format!("/sys/bus/usb/devices/1-1:1.0/{file}"), text);
        }
        assert_eq!(look_at(&stick), Gathered::Absent(None));
        assert_eq!(stick.sys.calls_of("load"), [format!("load {modules}/usb/storage/usb-storage.ko")]);
        let bench = bench();
        index(&bench);
        for (address, class, alias) in [("0", "0x0c0330", "pci:v1bc0Csc03i30"), ("1", "0x020000", "pci:v1bc02sc00i00")]
        {
            bench.sys.put(&format!("/sys/bus/pci/devices/{address}/class"), class);
            bench.sys.put(&format!("/sys/bus/pci/devices/{address}/modalias"), alias);
        }
        assert_eq!(look_at(&bench), Gathered::Absent(None));
        assert_eq!(bench.sys.calls_of("load"), [format!("load {modules}/usb/host/xhci-pci.ko")]);
    }
}
