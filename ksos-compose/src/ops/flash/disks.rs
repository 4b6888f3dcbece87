//! Which disks an image may be written to: pure, from what the kernel says of them.
//!
//! Never one that is in use in any way that can be seen: mounted, swap, part of a volume or array, the one that the
//! system runs from. Not without being told: one that cannot be taken out. The rest is offered.

use serde::Serialize;

use crate::effects::block::DeviceNumber;

/// Size of the sectors that images are made for, in bytes.
pub const SECTOR: u32 = 512;

/// What the kernel says of one partition, or of a disk as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Name below `/dev`, e.g. `sdb1`.
    pub name: String,
    /// Its number.
    pub number: DeviceNumber,
    /// Devices that are built on it, e.g. `dm-0`.
    pub holders: Vec<String>,
    /// The kind of volume or array that its content says it belongs to, e.g. `LVM2`.
    pub member: Option<String>,
}

/// What the kernel says of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFacts {
    /// The disk as a whole.
    pub whole: Volume,
    /// Where it is in sysfs, e.g. `/sys/devices/pci0000:00/0000:00:14.0/usb2/...`.
    pub place: String,
    /// Size in bytes.
    pub size: u64,
    /// Size of its sectors in bytes.
    pub sector: u32,
    /// The medium can be taken out.
    pub removable: bool,
    /// It cannot be written.
    pub read_only: bool,
    /// Vendor and model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Its partitions.
    pub partitions: Vec<Volume>,
}

/// A mount: what and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Number of the device; of some file systems (btrfs, ZFS) it is none of a disk.
    pub number: DeviceNumber,
    /// What is mounted, e.g. `/dev/sda1`.
    pub source: String,
    /// Where.
    pub target: String,
}

/// Everything that decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The disks.
    pub disks: Vec<DiskFacts>,
    /// What is mounted.
    pub mounts: Vec<Mount>,
    /// Devices that are swapped to, e.g. `/dev/sda2`.
    pub swaps: Vec<String>,
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// USB.
    Usb,
    /// A memory card, or memory of that kind on the board.
    Mmc,
    /// NVMe.
    Nvme,
    /// Of a virtual machine.
    Virtio,
    /// SATA or PATA.
    Ata,
    /// A file as a disk.
    Loop,
    /// Something else.
    Other,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Transport::Usb => "usb",
            Transport::Mmc => "mmc",
            Transport::Nvme => "nvme",
            Transport::Virtio => "virtio",
            Transport::Ata => "ata",
            Transport::Loop => "loop",
            Transport::Other => "other",
        })
    }
}

/// Why a disk is not written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Obstacle {
    /// The running system is on it.
    #[error("the running system is on it ({volume} is mounted on {target})")]
    System {
        /// Partition or disk.
        volume: String,
        /// Where it is mounted.
        target: String,
    },
    /// Something on it is mounted.
    #[error("{volume} is mounted on {target}")]
    Mounted {
        /// Partition or disk.
        volume: String,
        /// Where.
        target: String,
    },
    /// It is swapped to.
    #[error("{volume} is swap space in use")]
    Swap {
        /// Partition or disk.
        volume: String,
    },
    /// Another device is built on it.
    #[error("{volume} is part of {holder}")]
    Held {
        /// Partition or disk.
        volume: String,
        /// The device, e.g. `dm-0`.
        holder: String,
    },
    /// It belongs to a volume group, an array or a pool, which may not be active.
    #[error("{volume} belongs to {kind}")]
    Member {
        /// Partition or disk.
        volume: String,
        /// Of what kind.
        kind: String,
    },
    /// It cannot be written.
    #[error("it is read-only")]
    ReadOnly,
    /// A drive without a medium.
    #[error("it has no medium")]
    Empty,
    /// Sectors of another size than images are made for.
    #[error("it has sectors of {size} bytes; images are made for {SECTOR}")]
    Sectors {
        /// Their size in bytes.
        size: u32,
    },
    /// It is built in. The only obstacle that `--force` removes.
    #[error("it is neither removable nor attached by USB")]
    Fixed,
}

impl Obstacle {
    /// Whether `--force` removes it.
    pub fn yields_to_force(&self) -> bool {
        *self == Obstacle::Fixed
    }
}

/// A disk, and whether it may be written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Name below `/dev`, e.g. `sdb`.
    pub name: String,
    /// The device.
    pub path: std::path::PathBuf,
    /// Its number.
    #[serde(skip)]
    pub number: DeviceNumber,
    /// Size in bytes.
    pub size: u64,
    /// How it is attached.
    pub transport: Transport,
    /// Vendor and model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Why it is not written to; empty when it may be.
    pub obstacles: Vec<Obstacle>,
    /// Names of its partitions.
    pub partitions: Vec<String>,
}

impl Candidate {
    /// Returns why it is not written to, given what `--force` removes.
    pub fn refusals(&self, force: bool) -> Vec<&Obstacle> {
        self.obstacles.iter().filter(|obstacle| !(force && obstacle.yields_to_force())).collect()
    }
}

/// Judges every disk, in the order of their names.
pub fn candidates(facts: &Facts) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = facts.disks.iter().map(|disk| candidate(disk, facts)).collect();
    found.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
    found
}

fn candidate(disk: &DiskFacts, facts: &Facts) -> Candidate {
    let transport = transport(disk);
    let mut obstacles = Vec::new();
    for volume in std::iter::once(&disk.whole).chain(&disk.partitions) {
        obstacles.extend(uses(volume, facts));
    }
    // What is worst is said first.
    obstacles.sort_by_key(|obstacle| !matches!(obstacle, Obstacle::System { .. }));
    if disk.size == 0 {
        obstacles.push(Obstacle::Empty);
    }
    if disk.read_only {
        obstacles.push(Obstacle::ReadOnly);
    }
    if disk.sector != SECTOR {
        obstacles.push(Obstacle::Sectors { size: disk.sector });
    }
    if !disk.removable && !matches!(transport, Transport::Usb | Transport::Mmc) {
        obstacles.push(Obstacle::Fixed);
    }
    Candidate {
        name: disk.whole.name.clone(),
        path: format!("/dev/{}", disk.whole.name).into(),
        number: disk.whole.number,
        size: disk.size,
        transport,
        model: disk.model.clone(),
        serial: disk.serial.clone(),
        obstacles,
        partitions: disk.partitions.iter().map(|partition| partition.name.clone()).collect(),
    }
}

fn uses(volume: &Volume, facts: &Facts) -> Vec<Obstacle> {
    let (name, path) = (&volume.name, format!("/dev/{}", volume.name));
    let mounted = facts.mounts.iter().filter(|mount| mount.number == volume.number || mount.source == path);
    let mut obstacles: Vec<Obstacle> = Vec::new();
    for Mount { target, .. } in mounted {
        let (volume, target) = (name.clone(), target.clone());
        obstacles.push(match target.as_str() {
            "/" | "/usr" | "/boot" | "/boot/efi" | "/efi" | "/sysroot" => Obstacle::System { volume, target },
            _ => Obstacle::Mounted { volume, target },
        });
    }
    if facts.swaps.contains(&path) {
        obstacles.push(Obstacle::Swap { volume: name.clone() });
    }
    let held = volume.holders.iter().map(|holder| Obstacle::Held { volume: name.clone(), holder: holder.clone() });
    obstacles.extend(held);
    if let Some(kind) = &volume.member {
        obstacles.push(Obstacle::Member { volume: name.clone(), kind: kind.clone() });
    }
    obstacles
}

fn transport(disk: &DiskFacts) -> Transport {
    let name = disk.whole.name.as_str();
    let starts = |prefix: &str| name.starts_with(prefix);
    let below = |prefix: &str| disk.place.split('/').any(|part| part.strip_prefix(prefix).is_some_and(is_number));
    match () {
        () if below("usb") => Transport::Usb,
        () if starts("mmcblk") => Transport::Mmc,
        () if starts("nvme") => Transport::Nvme,
        () if starts("vd") => Transport::Virtio,
        () if starts("loop") => Transport::Loop,
        () if below("ata") => Transport::Ata,
        () => Transport::Other,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns what kind of volume group or array the content of a device of `size` bytes says it belongs to, from its first
/// 8 KiB and its last 128 KiB (or what there is of them).
///
/// LVM2: a label in one of the first four sectors (lvm2 `lib/label/label.h`). Linux MD: a superblock at one of four
/// places (Linux `include/uapi/linux/raid/md_p.h`, md(4)).
pub fn member(head: &[u8], tail: &[u8], size: u64) -> Option<&'static str> {
    let label = |sector: usize| {
        let at = sector * SECTOR as usize;
        head.get(at..at + 32).is_some_and(|label| label.starts_with(b"LABELONE") && label.ends_with(b"LVM2 001"))
    };
    if (0..4).any(label) {
        return Some("an LVM2 volume group");
    }
    let magic = |bytes: Option<&[u8]>| bytes == Some(&0xa92b_4efc_u32.to_le_bytes()[..]);
    let at_end = |offset: u64| {
        let at = offset.checked_sub(size - (tail.len() as u64).min(size))? as usize;
        tail.get(at..at + 4)
    };
    // Versions 1.1, 1.2, 1.0 and 0.90.
    let version_1_0 = (size / 512).checked_sub(16).map(|sector| (sector & !7) * 512);
    let version_0_90 = (size & !0xffff).checked_sub(0x10000);
    let found = magic(head.get(..4))
        || magic(head.get(4096..4100))
        || version_1_0.is_some_and(|offset| magic(at_end(offset)))
        || version_0_90.is_some_and(|offset| magic(at_end(offset)));
    found.then_some("a Linux RAID array")
}
