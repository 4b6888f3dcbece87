//! Gathers what the kernel and udev say of disks, and what their contents say where they can be read.
//!
//! Files: `/sys/block/*`, `/proc/self/mountinfo`, `/proc/swaps`, `/run/udev/data/b*` (facts about contents, also for
//! users who cannot read disks). What is missing or cannot be understood is left out.

use std::path::{Path, PathBuf};

use super::disks::{DiskFacts, Facts, Mount, SECTOR, Volume, member};
use crate::effects::block::{Buffer, Device, DeviceNumber};
use crate::effects::fs::{self, FsError};

/// Largest file of sysfs that is read, in bytes.
const ATTRIBUTE_LIMIT: u64 = 64 << 10;
/// Largest list of mounts, in bytes.
const MOUNTS_LIMIT: u64 = 16 << 20;
/// Bytes of a device's end that are looked at.
const TAIL: u64 = 128 << 10;
const HEAD: u64 = 8 << 10;
/// Prefixes of names that are no disks: memory, other devices in new clothes, optical drives.
const NO_DISKS: [&str; 7] = ["ram", "zram", "dm-", "md", "sr", "fd", "drbd"];

/// Where the kernel's files are.
#[derive(Debug, Clone)]
pub struct Places {
    /// `/sys`
    pub sys: PathBuf,
    /// `/proc`
    pub proc: PathBuf,
    /// `/run/udev/data`
    pub udev: PathBuf,
    /// `/dev`
    pub dev: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Places { sys: "/sys".into(), proc: "/proc".into(), udev: "/run/udev/data".into(), dev: "/dev".into() }
    }
}

/// Gathers the facts.
///
/// # Errors
/// When the kernel's lists of disks, mounts or swap cannot be read: without them nothing is safe.
pub fn gather(places: &Places) -> Result<Facts, FsError> {
    let block = places.sys.join("block");
    let mut disks = Vec::new();
    for name in fs::list(&block)? {
        let Ok(name) = name.into_string() else { continue };
        if NO_DISKS.iter().any(|prefix| name.starts_with(prefix)) || is_mmc_part(&name) {
            continue;
        }
        disks.extend(disk(places, &block.join(&name), name));
    }
    let mounts = fs::read_to_string(&places.proc.join("self/mountinfo"), MOUNTS_LIMIT)?;
    let swaps = fs::read_to_string(&places.proc.join("swaps"), ATTRIBUTE_LIMIT)?;
    Ok(Facts { disks, mounts: parse_mounts(&mounts), swaps: parse_swaps(&swaps) })
}

/// Boot and replay-protected areas of memory cards are disks of their own to the kernel.
fn is_mmc_part(name: &str) -> bool {
    name.strip_prefix("mmcblk").is_some_and(|rest| rest.contains("boot") || rest.contains("rpmb"))
}

fn attribute(directory: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(&directory.join(name), ATTRIBUTE_LIMIT).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|text| !text.is_empty())
}

fn number(directory: &Path, name: &str) -> Option<u64> {
    attribute(directory, name)?.parse().ok()
}

fn disk(places: &Places, directory: &Path, name: String) -> Option<DiskFacts> {
    // "The unit is always 512 bytes" (Linux Documentation/ABI, /sys/block/<disk>/size).
    let size = number(directory, "size")?.checked_mul(512)?;
    let unused = size == 0 && (name.starts_with("loop") || name.starts_with("nbd"));
    if unused || number(directory, "hidden") == Some(1) {
        return None;
    }
    let place = fs::link_target(directory).unwrap_or_else(|| directory.to_owned());
    let partitions = fs::list(directory).ok()?.into_iter().filter_map(|entry| {
        let entry = entry.into_string().ok()?;
        let below = directory.join(&entry);
        number(&below, "partition")?;
        volume(places, &below, entry)
    });
    let partitions: Vec<Volume> = partitions.collect();
    let whole = volume(places, directory, name)?;
    let udev = |key: &str| udev_value(places, whole.number, key);
    let device = directory.join("device");
    let model = [attribute(&device, "vendor"), attribute(&device, "model").or_else(|| attribute(&device, "name"))];
    let model = model.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let serial = attribute(&device, "serial").or_else(|| attribute(directory, "serial"));
    Some(DiskFacts {
        size,
        sector: number(directory, "queue/logical_block_size").and_then(|size| size.try_into().ok()).unwrap_or(SECTOR),
        removable: number(directory, "removable") == Some(1),
        read_only: number(directory, "ro") == Some(1),
        model: Some(model).filter(|model| !model.is_empty()).or_else(|| backing_file(directory)),
        serial: serial.or_else(|| usb_serial(&place)).or_else(|| udev("ID_SERIAL_SHORT")),
        place: place.to_string_lossy().into_owned(),
        whole,
        partitions,
    })
}

fn backing_file(directory: &Path) -> Option<String> {
    attribute(directory, "loop/backing_file")
}

/// Returns the serial number of the USB device that a disk is in: the nearest directory above with a vendor's number.
fn usb_serial(place: &Path) -> Option<String> {
    let above = place.ancestors().find(|above| attribute(above, "idVendor").is_some())?;
    attribute(above, "serial")
}

fn volume(places: &Places, directory: &Path, name: String) -> Option<Volume> {
    let number = parse_number(&attribute(directory, "dev")?)?;
    let holders = fs::list(&directory.join("holders")).unwrap_or_default();
    let holders = holders.into_iter().filter_map(|holder| holder.into_string().ok()).collect();
    let told = udev_value(places, number, "ID_FS_TYPE").and_then(|kind| member_of(&kind));
    let member = told.or_else(|| looked_at(&places.dev.join(&name)));
    Some(Volume { name, number, holders, member })
}

fn parse_number(text: &str) -> Option<DeviceNumber> {
    let (major, minor) = text.split_once(':')?;
    Some(DeviceNumber(major.parse().ok()?, minor.parse().ok()?))
}

fn udev_value(places: &Places, number: DeviceNumber, key: &str) -> Option<String> {
    let text = fs::read_to_string(&places.udev.join(format!("b{number}")), ATTRIBUTE_LIMIT).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("E:")?.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.to_owned()).filter(|value| !value.is_empty())
}

/// Kinds as libblkid names them.
fn member_of(kind: &str) -> Option<String> {
    match kind {
        "LVM2_member" | "LVM1_member" => Some("an LVM2 volume group".to_owned()),
        "linux_raid_member" => Some("a Linux RAID array".to_owned()),
        "bcache" | "ceph_bluestore" | "drbd" | "stratis" | "VMFS_volume_member" => Some(kind.to_owned()),
        kind if kind.ends_with("_member") => Some(kind.trim_end_matches("_member").to_owned()),
        _ => None,
    }
}

/// Looks at the content of a device, when this user can read it.
fn looked_at(path: &Path) -> Option<String> {
    let device = Device::open_to_read(path).ok()?;
    device.number?;
    let mut head = Buffer::new(HEAD.min(device.size) as usize);
    device.read_at(&mut head, 0).ok()?;
    let mut tail = Buffer::new(TAIL.min(device.size) as usize);
    let start = device.size - tail.len() as u64;
    device.read_at(&mut tail, start).ok()?;
    member(&head, &tail, device.size).map(str::to_owned)
}

/// Parses `/proc/self/mountinfo` (proc(5)).
pub(super) fn parse_mounts(text: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (fixed, rest) = line.split_once(" - ")?;
        let fixed: Vec<&str> = fixed.split(' ').collect();
        let number = parse_number(fixed.get(2)?)?;
        Some(Mount { number, source: unescape(rest.split(' ').nth(1)?), target: unescape(fixed.get(4)?) })
    };
    text.lines().filter_map(parse).collect()
}

pub(super) fn parse_swaps(text: &str) -> Vec<String> {
    let first = |line: &str| line.split_whitespace().next().map(unescape);
    let resolve = |path: String| match fs::link_target(Path::new(&path)) {
        Some(target) => target.to_string_lossy().into_owned(),
        None => path,
    };
    text.lines().skip(1).filter_map(first).map(resolve).collect()
}

/// Undoes the kernel's escapes of spaces, tabs, line ends and backslashes: a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if bytes[at] == b'\\' => {
                out.push(byte);
                at += 4;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
