//! Fixtures of sysfs and disks that are plain files. What needs a real device is in `tests/cli/flash.rs`.
#![expect(clippy::disallowed_methods, reason = "tests make files of their own and run tools")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::Command;

use super::disks::{DiskFacts, Facts, Mount, Transport, Volume, candidates, member};
use super::source::Compression;
use super::*;
use crate::artifact::disk::{DiskSpec, Partition, PartitionContent};
use crate::effects::block::DeviceNumber;
use crate::effects::progress::Silent;

const MIB: u64 = 1 << 20;

fn volume(name: &str, minor: u32) -> Volume {
    Volume { name: name.to_owned(), number: DeviceNumber(8, minor), holders: Vec::new(), member: None }
}

fn disk(name: &str, minor: u32, place: &str) -> DiskFacts {
    DiskFacts {
        whole: volume(name, minor),
        place: format!("/sys/devices/{place}/block/{name}"),
        size: 32 << 30,
        sector: 512,
        removable: false,
        read_only: false,
        model: None,
        serial: None,
        partitions: vec![volume(&format!("{name}1"), minor + 1), volume(&format!("{name}2"), minor + 2)],
    }
}

fn usb() -> DiskFacts {
    disk("sdb", 16, "pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6")
}

fn mount(minor: u32, source: &str, target: &str) -> Mount {
    Mount { number: DeviceNumber(8, minor), source: source.to_owned(), target: target.to_owned() }
}

/// What is said of the one disk of `facts` with and without `--force`.
fn said(facts: &Facts) -> (Vec<String>, Vec<String>) {
    let found = candidates(facts);
    let texts = |force| found[0].refusals(force).into_iter().map(ToString::to_string).collect();
    (texts(false), texts(true))
}

#[test]
fn only_what_is_removable_is_written_to_unless_forced() {
    let of = |disk: DiskFacts| Facts { disks: vec![disk], ..Facts::default() };
    let fixed = vec!["it is neither removable nor attached by USB".to_owned()];
    for (disk, transport, refused) in [
        (usb(), Transport::Usb, vec![]),
        (disk("mmcblk0", 0, "platform/soc/mmc_host/mmc0"), Transport::Mmc, vec![]),
        (disk("sda", 0, "pci0000:00/0000:00:17.0/ata1/host0"), Transport::Ata, fixed.clone()),
        (disk("nvme0n1", 0, "pci0000:00/0000:01:00.0/nvme/nvme0"), Transport::Nvme, fixed.clone()),
        (disk("vda", 0, "pci0000:00/0000:00:02.0/virtio1"), Transport::Virtio, fixed.clone()),
        (disk("loop3", 0, "virtual"), Transport::Loop, fixed.clone()),
        // Not a bus: a name that begins like one.
        (disk("sdc", 0, "usbip/vhci_hcd.0"), Transport::Other, fixed.clone()),
        (DiskFacts { removable: true, ..disk("sdd", 0, "pci0000:00/ata2/host1") }, Transport::Ata, vec![]),
    ] {
        let name = disk.whole.name.clone();
        let facts = of(disk);
        assert_eq!(candidates(&facts)[0].transport, transport, "{name}");
        assert_eq!(said(&facts), (refused, vec![]), "{name}");
    }
}

#[test]
fn what_is_in_use_is_never_written_to() {
    let on_partition = |change: fn(&mut Volume)| {
        let mut disk = usb();
        change(&mut disk.partitions[1]);
        Facts { disks: vec![disk], ..Facts::default() }
    };
    let with = |mounts: Vec<Mount>, swaps: &[&str]| Facts {
        disks: vec![usb()],
        mounts,
        swaps: swaps.iter().map(|swap| (*swap).to_owned()).collect(),
    };
    for (facts, reason) in [
        (with(vec![mount(17, "/dev/sdb1", "/media/stick")], &[]), "sdb1 is mounted on /media/stick"),
        (with(vec![mount(16, "/dev/disk/by-uuid/1", "/mnt")], &[]), "sdb is mounted on /mnt"),
        (with(vec![mount(17, "/dev/sdb1", "/")], &[]), "the running system is on it (sdb1 is mounted on /)"),
        (
            with(vec![mount(18, "/dev/sdb2", "/boot/efi")], &[]),
            "the running system is on it (sdb2 is mounted on /boot/efi)",
        ),
        // btrfs has device numbers of its own.
        (
            with(vec![Mount { number: DeviceNumber(0, 34), ..mount(0, "/dev/sdb2", "/srv") }], &[]),
            "sdb2 is mounted on /srv",
        ),
        (with(vec![], &["/dev/sdb2"]), "sdb2 is swap space in use"),
        (on_partition(|it| it.holders = vec!["dm-0".to_owned()]), "sdb2 is part of dm-0"),
        (
            on_partition(|it| it.member = Some("an LVM2 volume group".to_owned())),
            "sdb2 belongs to an LVM2 volume group",
        ),
    ] {
        assert_eq!(said(&facts), (vec![reason.to_owned()], vec![reason.to_owned()]));
    }
    // A disk of another name that begins the same is no reason.
    assert_eq!(said(&with(vec![mount(33, "/dev/sdb11", "/mnt")], &["/dev/sdbb"])), (vec![], vec![]));
}

#[test]
fn what_cannot_hold_an_image_is_not_written_to() {
    let of = |disk: DiskFacts| said(&Facts { disks: vec![disk], ..Facts::default() }).1;
    assert_eq!(of(DiskFacts { read_only: true, ..usb() }), ["it is read-only"]);
    assert_eq!(of(DiskFacts { size: 0, ..usb() }), ["it has no medium"]);
    assert_eq!(of(DiskFacts { sector: 4096, ..usb() }), ["it has sectors of 4096 bytes; images are made for 512"]);
}

#[test]
fn signatures_of_volumes_and_arrays_are_found() {
    let size = 64 * MIB + 3 * 512;
    let magic = 0xa92b_4efc_u32.to_le_bytes();
    let found = |place: u64, bytes: &[u8]| {
        let (mut head, mut tail) = (vec![0; 8 << 10], vec![0; 128 << 10]);
        let start = size - tail.len() as u64;
        let (part, at) = if place < start { (&mut head, place) } else { (&mut tail, place - start) };
        part[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        member(&head, &tail, size)
    };
    let mut label = b"LABELONE".to_vec();
    label.extend([0; 16]);
    label.extend(b"LVM2 001");
    for (place, bytes, kind) in [
        (512, &label[..], Some("an LVM2 volume group")),
        (3 * 512, &label, Some("an LVM2 volume group")),
        (4 * 512, &label, None),
        (512, b"LABELONE", None),
        (0, &magic, Some("a Linux RAID array")),
        (4096, &magic, Some("a Linux RAID array")),
        ((size / 512 - 16) / 8 * 8 * 512, &magic, Some("a Linux RAID array")),
        (size / 65536 * 65536 - 65536, &magic, Some("a Linux RAID array")),
        (8192 - 4, &magic, None),
    ] {
        assert_eq!(found(place, bytes), kind, "at {place}");
    }
    for size in [0, 3, 512, 4096, 9000] {
        let bytes = vec![0; size];
        assert_eq!(member(&bytes[..size.min(8 << 10)], &bytes, size as u64), None);
    }
}

/// Tools that make arrays and volume groups agree with what is looked for.
#[test]
fn the_signature_that_mdadm_or_lvm_writes_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pv");
    File::create(&path).unwrap().set_len(8 * MIB).unwrap();
    // libblkid knows both formats; it is in every Debian.
    let mut bytes = vec![0; 8 << 10];
    bytes[512..520].copy_from_slice(b"LABELONE");
    bytes[512 + 24..512 + 32].copy_from_slice(b"LVM2 001");
    bytes[512 + 8..512 + 16].copy_from_slice(&1_u64.to_le_bytes());
    bytes[512 + 20..512 + 24].copy_from_slice(&32_u32.to_le_bytes());
    bytes[512 + 32..512 + 64].copy_from_slice(b"0123456789abcdefghijklmnopqrstuv");
    // lvm2 lib/misc/crc.c: CRC-32 without the final inversion, of the sector behind the field.
    let crc = lvm_checksum(&bytes[512 + 20..1024]);
    bytes[512 + 16..512 + 20].copy_from_slice(&crc.to_le_bytes());
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&bytes, 0).unwrap();
    assert_eq!(member(&bytes, &[0; 128 << 10], 8 * MIB), Some("an LVM2 volume group"));
    let Ok(output) = Command::new("/sbin/blkid").args(["-p", "-o", "value", "-s", "TYPE"]).arg(&path).output() else {
        assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "blkid is not installed");
        eprintln!("skipped: blkid is not installed");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "LVM2_member");
}

fn lvm_checksum(bytes: &[u8]) -> u32 {
    let mut crc = 0xf597_a6cf_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    crc
}

/// A tree of sysfs, procfs and udev's data as the kernel and udev lay it out.
struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    fn new(files: &[(&str, &str)], links: &[(&str, &str)]) -> Self {
        let machine = Machine { directory: tempfile::tempdir().unwrap() };
        let top = machine.directory.path();
        for (path, text) in files {
            fs::create_dir_all(top.join(path).parent().unwrap()).unwrap();
            fs::write(top.join(path), text).unwrap();
        }
        for (path, target) in links {
            fs::create_dir_all(top.join(path).parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, top.join(path)).unwrap();
        }
        machine
    }

    fn places(&self) -> Places {
        let top = self.directory.path();
        Places { sys: top.join("sys"), proc: top.join("proc"), udev: top.join("udev"), dev: top.join("dev") }
    }
}

#[test]
fn facts_come_from_sysfs_procfs_and_udev() {
    const STICK: &str = "sys/devices/pci0000:00/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb";
    let path = |name: &str| format!("{STICK}/{name}");
    let machine = Machine::new(
        &[
            (&path("size"), "60088320\n"),
            (&path("dev"), "8:16\n"),
            (&path("removable"), "1\n"),
            (&path("ro"), "0\n"),
            (&path("queue/logical_block_size"), "512\n"),
            (&path("device/vendor"), "SanDisk \n"),
            (&path("device/model"), "Ultra Fit       \n"),
            (&path("sdb1/partition"), "1\n"),
            (&path("sdb1/dev"), "8:17\n"),
            (&path("sdb2/partition"), "2\n"),
            (&path("sdb2/dev"), "8:18\n"),
            (&path("sdb2/holders/dm-3"), ""),
            ("sys/devices/pci0000:00/usb2/2-1/idVendor", "0781\n"),
            ("sys/devices/pci0000:00/usb2/2-1/serial", "4C530001\n"),
            ("sys/devices/virtual/block/loop0/size", "0\n"),
            ("sys/devices/virtual/block/loop0/dev", "7:0\n"),
            ("sys/devices/virtual/block/zram0/size", "100\n"),
            ("sys/devices/virtual/block/zram0/dev", "251:0\n"),
            ("sys/devices/platform/mmc0/block/mmcblk0boot0/size", "8192\n"),
            ("sys/devices/platform/mmc0/block/mmcblk0boot0/dev", "179:8\n"),
            ("udev/b8:17", "S:disk/by-label/x\nE:ID_FS_TYPE=linux_raid_member\nE:ID_FS_USAGE=raid\n"),
            (
                "proc/self/mountinfo",
                "22 27 0:21 / /proc rw - proc proc rw\n31 22 8:18 / /media/my\\040stick rw,nosuid shared:1 - vfat /dev/sdb2 rw\nbroken\n",
            ),
            ("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/sdb1    partition\t1\t0\t-2\n"),
        ],
        &[
            ("sys/block/sdb", "../devices/pci0000:00/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb"),
            ("sys/block/loop0", "../devices/virtual/block/loop0"),
            ("sys/block/zram0", "../devices/virtual/block/zram0"),
            ("sys/block/mmcblk0boot0", "../devices/platform/mmc0/block/mmcblk0boot0"),
        ],
    );
    let found = list(&machine.places()).unwrap();
    let [disk] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((disk.name.as_str(), disk.size, disk.transport), ("sdb", 60_088_320 * 512, Transport::Usb));
    assert_eq!((disk.model.as_deref(), disk.serial.as_deref()), (Some("SanDisk Ultra Fit"), Some("4C530001")));
    assert_eq!((disk.number, &disk.partitions[..]), (DeviceNumber(8, 16), &["sdb1".to_owned(), "sdb2".to_owned()][..]));
    let said: Vec<String> = disk.obstacles.iter().map(ToString::to_string).collect();
    let expected = [
        "sdb1 is swap space in use",
        "sdb1 belongs to a Linux RAID array",
        "sdb2 is mounted on /media/my stick",
        "sdb2 is part of dm-3",
    ];
    assert_eq!(said, expected);

    let named = |path: &str| super::find(&found, Path::new(path)).map(|disk| disk.name);
    assert_eq!(named("/dev/sdb").unwrap(), "sdb");
    assert!(matches!(named("/dev/sdb2"), Err(FlashError::Partition { disk, .. }) if disk == "/dev/sdb"));
    assert!(matches!(named("/dev/sdc"), Err(FlashError::UnknownDisk { .. })));
    // Without the list of mounts nothing is known to be safe.
    fs::remove_file(machine.directory.path().join("proc/self/mountinfo")).unwrap();
    assert!(list(&machine.places()).is_err());
}

/// Writes a disk image of three partitions, with content in the second one, and returns its size.
fn write_image(path: &Path) -> u64 {
    let content = path.with_extension("content");
    let bytes: Vec<u8> = (0..3 * MIB + 700).map(|at| (at * 7 % 251) as u8).collect();
    fs::write(&content, bytes).unwrap();
    let partition = |label: &str, size, number: u128, content| Partition {
        label: label.to_owned(),
        type_guid: uuid::Uuid::from_u128(1),
        guid: uuid::Uuid::from_u128(number),
        size,
        content,
    };
    let spec = DiskSpec {
        disk_guid: uuid::Uuid::from_u128(99),
        partitions: vec![
            partition("EMPTY", 5 * MIB, 2, PartitionContent::Empty),
            partition("FULL", 6 * MIB, 3, PartitionContent::File(content)),
            partition("DATA", MIB, 4, PartitionContent::Empty),
        ],
        bios: None,
    };
    let mut file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    crate::artifact::disk::write(&mut file, &spec).unwrap().size
}

/// A disk of `size` bytes with old content everywhere.
fn used_disk(path: &Path, size: u64) -> Device {
    fs::write(path, vec![0xa5; size as usize]).unwrap();
    Device::open(path).unwrap()
}

fn write_to(device: &Device, path: &Path, source: &mut dyn Read, size: u64) -> Result<Written, FlashError> {
    writer::Target { device, path }.write(source, size, true, &Silent)
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[test]
fn a_used_disk_holds_the_image_and_a_table_that_fits_it() {
    let directory = tempfile::tempdir().unwrap();
    let (image, disk) = (directory.path().join("x.img"), directory.path().join("disk"));
    let size = write_image(&image);
    let device = used_disk(&disk, 40 * MIB);
    let opened = Image::open(&image, device.size, &Silent).unwrap();
    let written = write_to(&device, &disk, &mut *opened.content().unwrap(), opened.size).unwrap();
    assert!(written.size == size && written.fitted && written.zeroed > 4 * MIB, "{written:?}");
    let (image, flashed) = (bytes(&image), bytes(&disk));
    // The protective MBR, the header and nothing else before the end of the image.
    let differing: Vec<usize> = (0..image.len()).filter(|at| image[*at] != flashed[*at]).map(|at| at / 512).collect();
    assert!(differing.iter().all(|sector| *sector < 2), "{differing:?}");
    let tool = Command::new("/sbin/sgdisk").arg("-v").arg(&disk).output();
    let Ok(output) = tool else {
        assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "sgdisk is not installed");
        eprintln!("skipped: sgdisk is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("No problems found"), "{said}");
}

#[test]
fn a_disk_of_the_images_size_gets_the_image_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (image, disk) = (directory.path().join("x.img"), directory.path().join("disk"));
    let size = write_image(&image);
    let device = used_disk(&disk, size);
    let written = write_to(&device, &disk, &mut File::open(&image).unwrap(), size).unwrap();
    assert!(!written.fitted && bytes(&image) == bytes(&disk));
    // Not a whole number of sectors, and shorter than what is written last.
    for size in [1, 700, 4096, 4097, MIB as usize, MIB as usize + 1, 5 * MIB as usize + 3] {
        let content: Vec<u8> = (0..size).map(|at| (at % 255) as u8 + 1).collect();
        let device = used_disk(&disk, 8 * MIB);
        write_to(&device, &disk, &mut &content[..], size as u64).unwrap();
        assert!(bytes(&disk)[..size] == content, "{size}");
    }
}

/// A source that ends with an error, after looking at what the disk has by then.
struct Breaking<'a> {
    left: &'a [u8],
    disk: &'a Path,
}

impl Read for Breaking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left.is_empty() {
            let now = bytes(self.disk);
            assert!(now[..MIB as usize].iter().all(|byte| *byte == 0), "nothing that boots before the end");
            return Err(std::io::Error::other("the stick with the image is gone"));
        }
        self.left.read(buffer)
    }
}

#[test]
fn a_disk_that_is_half_written_does_not_look_like_a_system() {
    let directory = tempfile::tempdir().unwrap();
    let (image, disk) = (directory.path().join("x.img"), directory.path().join("disk"));
    let size = write_image(&image);
    let content = bytes(&image);
    for cut in [0, 512, MIB as usize, 9 * MIB as usize] {
        let device = used_disk(&disk, 20 * MIB);
        let mut source = Breaking { left: &content[..cut], disk: &disk };
        let error = write_to(&device, &disk, &mut source, size).unwrap_err();
        assert!(error.to_string().contains("gone"), "{error}");
        let now = bytes(&disk);
        let ends = now[..MIB as usize].iter().chain(&now[19 * MIB as usize..]);
        assert!(ends.copied().all(|byte| byte == 0), "cut at {cut}");
    }
    // An image that turns out larger than the disk.
    let device = used_disk(&disk, 2 * MIB);
    let error = write_to(&device, &disk, &mut &content[..], size).unwrap_err();
    assert!(matches!(error, FlashError::TooLarge { disk: 2_097_152, .. }), "{error}");
    assert!(bytes(&disk)[..MIB as usize].iter().all(|byte| *byte == 0));
}

#[test]
fn a_medium_that_keeps_other_bytes_is_found_out() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, other) = (directory.path().join("disk"), directory.path().join("other"));
    let content: Vec<u8> = (0..9 * MIB).map(|at| (at % 253) as u8).collect();
    for wrong in [MIB, 5 * MIB + 11, 9 * MIB - 1] {
        let device = used_disk(&disk, 16 * MIB);
        // What is read back comes from another file: a medium that lies.
        let mut lies = content.clone();
        lies[wrong as usize] ^= 1;
        lies.resize(16 * MIB as usize, 0);
        fs::write(&other, lies).unwrap();
        let error = write_to(&device, &other, &mut &content[..], content.len() as u64).unwrap_err();
        let FlashError::Differs { first, last, .. } = &error else { panic!("{error}") };
        assert!((*first..=*last).contains(&wrong), "{error}");
        assert!(bytes(&disk)[..MIB as usize].iter().all(|byte| *byte == 0), "it does not boot");
    }
}

#[test]
fn tables_that_are_damaged_or_of_a_cd_stay_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("x.img");
    write_image(&image);
    let good = bytes(&image)[..MIB as usize].to_vec();
    let fitted = |change: fn(&mut Vec<u8>), disk| {
        let mut head = good.clone();
        change(&mut head);
        let before = head.clone();
        let backup = table::fit(&mut head, disk);
        assert_eq!(backup.is_some(), head != before);
        backup.is_some()
    };
    assert!(fitted(|_| (), 40 * MIB));
    let damages: [fn(&mut Vec<u8>); 8] = [
        |head| head[512] = 0,
        |head| head[512 + 40] ^= 1,
        |head| head[1024] ^= 1,
        |head| head[512 + 12] = 255,
        |head| head[512 + 80..512 + 84].fill(255),
        |head| head[0x8001..0x8006].copy_from_slice(b"CD001"),
        |head| head.truncate(1024),
        Vec::clear,
    ];
    for (index, damage) in damages.into_iter().enumerate() {
        assert!(!fitted(damage, 40 * MIB), "{index}");
    }
    for disk in [0, 512, 13 * MIB] {
        assert!(!fitted(|_| (), disk), "{disk}");
    }
}

fn compressed(content: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => content.to_vec(),
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
    }
}

#[test]
fn compressed_images_are_measured_and_damaged_ones_refused_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.img.compressed");
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let (first, second) = content.split_at(1_000_000);
    for compression in [Compression::None, Compression::Gzip, Compression::Xz, Compression::Zstd] {
        // Of two parts, as parallel compressors write them.
        let good = [compressed(first, compression), compressed(second, compression)].concat();
        fs::write(&path, &good).unwrap();
        let image = Image::open(&path, 2 * MIB, &Silent).unwrap();
        assert_eq!((image.compression, image.size), (compression, 1_200_000));
        let mut decoded = Vec::new();
        image.content().unwrap().read_to_end(&mut decoded).unwrap();
        assert!(decoded == content);
        assert!(matches!(Image::open(&path, MIB, &Silent), Err(FlashError::TooLarge { .. })), "{compression:?}");
        if compression != Compression::None {
            fs::write(&path, &good[..good.len() - 9]).unwrap();
            assert!(Image::open(&path, 2 * MIB, &Silent).is_err(), "{compression:?} cut short");
            let mut bad = good.clone();
            bad[good.len() / 2] ^= 0x10;
            fs::write(&path, bad).unwrap();
            assert!(Image::open(&path, 2 * MIB, &Silent).is_err(), "{compression:?} damaged");
        }
    }
    fs::write(&path, "").unwrap();
    assert!(matches!(Image::open(&path, MIB, &Silent), Err(FlashError::Empty { .. })));
    assert!(matches!(Image::open(directory.path(), MIB, &Silent), Err(FlashError::NotFile { .. })));
}

#[test]
fn an_image_that_sha256sums_contradicts_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.img");
    fs::write(&path, "image").unwrap();
    let open = |sums: &str| {
        fs::write(directory.path().join("SHA256SUMS"), sums).unwrap();
        Image::open(&path, MIB, &Silent)
    };
    let right = ksos_formats::Digest::of(b"image").hex();
    let wrong = ksos_formats::Digest::of(b"other").hex();
    assert!(!open(&format!("{wrong}  y.img\n")).unwrap().checked);
    assert!(open(&format!("{wrong}  y.img\n{right}  x.img\n")).unwrap().checked);
    assert!(open(&format!("{right} *x.img\n")).unwrap().checked);
    let error = open(&format!("{wrong}  x.img\n")).unwrap_err();
    assert!(matches!(error, FlashError::Sum { .. }), "{error}");
}
