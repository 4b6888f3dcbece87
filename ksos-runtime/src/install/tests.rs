use std::cell::RefCell;

use ksos_formats::boot::ImageId;
use ksos_formats::digest::Hasher;
use ksos_formats::install::{DATA_FILE, FORMAT, HEAD, Install, Piece};
use ksos_formats::{Arch, Digest};

use super::*;
use crate::config::label::tests::iso;
use crate::disk::gpt::Table;
use crate::disk::gpt::tests::{MIB, image};
use crate::disk::grow::backup_at_end;
use crate::sys::Disk;
use crate::sys::double::{Double, MemoryDisk};

const VOLUME: &str = "KSOS_0123456789ABCDEF01234567";
const DISK: &str = "/dev/vda";

/// A disk image of 8 MiB with something in the EFI partition and in slot A, and the files of a medium that make it up.
fn medium(sys: &Double) -> (Install, Vec<u8>) {
    let disk = image(8, 1);
    disk.bytes.borrow_mut()[..440].fill(0xb0);
    disk.bytes.borrow_mut()[20 << 10..30 << 10].fill(0xc0);
    let fill = |start: u64, bytes: &[u8]| disk.write_at(start, bytes).expect("inside");
    fill(MIB, &[0xe5; 5000]);
    fill(2 * MIB + 4096, &[0xa0; 4096]);
    fill(2 * MIB + 65536, &[0xaa; 70_000]);
    let bytes = disk.bytes.borrow().clone();
    let mut data = Vec::new();
    let mut hasher = Hasher::new();
    let mut pieces = Vec::new();
    for (start, end, file) in [
        (0, 34 * 512, DATA_FILE),
        (20 << 10, 30 << 10, DATA_FILE),
        (MIB, MIB + 5000, DATA_FILE),
        (2 * MIB + 4096, 2 * MIB + 8192, DATA_FILE),
        (2 * MIB + 65536, 2 * MIB + 65536 + 70_000, "root.squashfs"),
    ] {
        let range = &bytes[start as usize..end as usize];
        let at = if file == DATA_FILE { data.len() as u64 } else { 100 };
        pieces.push(Piece { offset: start, length: end - start, file: file.to_owned(), at });
        hasher.update(range);
        if file == DATA_FILE {
            data.extend_from_slice(range);
        } else {
            sys.put(&format!("{MEDIUM}/ksos/{file}"), [&[9; 100][..], range].concat());
        }
    }
    sys.put(&format!("{MEDIUM}/ksos/{DATA_FILE}"), data);
    let id = ImageId { name: "node".to_owned(), version: "1.0.0".to_owned(), arch: Arch::X86_64, epoch: 1 };
    let install =
        Install { format: FORMAT, image: id, size: 7 * MIB, minimum_disk: 16 * MIB, pieces, sha256: hasher.finish() };
    install.check().expect("good");
    (install, bytes)
}

fn attach(sys: &Double, name: &str, disk: MemoryDisk) {
    sys.put(&format!("/sys/block/{name}/size"), format!("{}\n", disk.bytes.borrow().len() / 512));
    sys.put(&format!("/sys/block/{name}/removable"), "0\n");
    sys.put(&format!("/sys/block/{name}/ro"), "0\n");
    sys.disks.borrow_mut().insert(format!("/dev/{name}"), disk);
}

fn blank(mebibytes: u64) -> MemoryDisk {
    MemoryDisk::new(vec![0; (mebibytes * MIB) as usize])
}

fn request(disk: Wanted, wipe: bool) -> Request {
    Request { disk, wipe, then: Then::PowerOff, place: "a test".to_owned() }
}

fn path(path: &str) -> Request {
    request(Wanted::Path(path.to_owned()), false)
}

fn install_to(sys: &Double, install: &Install, request: &Request) -> Result<String, InstallError> {
    let target = target::choose(sys, request, install, &media(sys, VOLUME))?;
    write::write(sys, install, (&target.path, target.disk.as_ref()), &|_| {})?;
    Ok(target.path)
}

/// What firmware asks for before it starts anything: the first sector.
fn is_bootable(disk: &MemoryDisk) -> bool {
    let bytes = disk.bytes.borrow();
    bytes[510..512] == [0x55, 0xaa]
}

/// The disk holds the image, and a table that fits it.
fn is_installed(disk: &MemoryDisk, image: &[u8]) {
    let table = Table::read(disk).expect("a table");
    assert!(table.is_from_primary() && backup_at_end(&table));
    let data = table.by_name("KSOLODATA").expect("there");
    assert_eq!(table.extent(data), (4 * MIB, 3 * MIB), "the node grows it when it finds it blank");
    let bytes = disk.bytes.borrow();
    assert!(bytes[..440] == image[..440] && is_bootable(disk), "boot code and table");
    assert!(bytes[20 << 10..7 << 20] == image[20 << 10..7 << 20], "the partitions are those of the image");
}

#[test]
fn a_blank_disk_gets_the_image_and_a_used_one_only_when_told() {
    for seed in [0, 0x77] {
        let sys = Double::new();
        let (install, bytes) = medium(&sys);
        let disk = blank(32);
        disk.bytes.borrow_mut().fill(seed);
        attach(&sys, "vda", disk.clone());
        let path = Wanted::Path(DISK.to_owned());
        if seed != 0 {
            let error = install_to(&sys, &install, &request(path.clone(), false)).expect_err("it has something");
            let expected = "/dev/vda holds unknown data; it is left as it is. ksos.install.force=yes or `wipe: true` overwrites it";
            assert_eq!(error.to_string(), expected);
            assert!(disk.bytes.borrow().iter().all(|byte| *byte == seed), "nothing was written");
        }
        install_to(&sys, &install, &request(path, seed != 0)).expect("installed");
        is_installed(&disk, &bytes);
    }
}

#[test]
fn every_kind_of_content_is_named_and_kept() {
    type Fill = fn(&mut Vec<u8>);
    let table = |bytes: &mut Vec<u8>| {
        let image = image(8, 3);
        bytes[..8 << 20].copy_from_slice(&image.bytes.borrow());
    };
    let cases: [(&str, Fill); 5] = [
        ("a partition table with 4 partitions (KSOSEFI KSOSSYSA KSOSSYSB KSOLODATA)", table),
        ("a boot sector", |bytes| bytes[510..512].copy_from_slice(&[0x55, 0xaa])),
        ("an ext4 file system labelled \"\"", |bytes| bytes[1080..1082].copy_from_slice(&[0x53, 0xef])),
        ("data at its end", |bytes| {
            let end = bytes.len();
            bytes[end - 1] = 1;
        }),
        ("unknown data", |bytes| bytes[1 << 19] = 1),
    ];
    for (expected, fill) in cases {
        let sys = Double::new();
        let (install, _) = medium(&sys);
        let disk = blank(32);
        fill(&mut disk.bytes.borrow_mut());
        let before = disk.bytes.borrow().clone();
        attach(&sys, "vda", disk.clone());
        match install_to(&sys, &install, &path(DISK)).expect_err("it has something") {
            InstallError::NotBlank { content, .. } => assert_eq!(content, expected),
            other => panic!("{other}"),
        }
        assert!(*disk.bytes.borrow() == before);
    }
    let sys = Double::new();
    let (install, _) = medium(&sys);
    attach(&sys, "vda", blank(32));
    sys.put("/sys/block/vda/vda1/partition", "1\n");
    let error = install_to(&sys, &install, &path(DISK)).expect_err("the kernel knows better").to_string();
    assert!(error.contains("partitions that the kernel knows"), "{error}");
}

#[test]
fn disks_that_cannot_be_meant_are_refused_with_the_reason() {
    let sys = Double::new();
    let (install, _) = medium(&sys);
    attach(&sys, "sr0", iso(VOLUME));
    attach(&sys, "sdb", iso(VOLUME));
    attach(&sys, "vda", blank(15));
    let mut large_sectors = blank(32);
    large_sectors.sector = 4096;
    attach(&sys, "vdb", large_sectors);
    attach(&sys, "vdc", blank(32));
    sys.put("/sys/block/vdc/ro", "1\n");
    let error = |path: &str| install_to(&sys, &install, &self::path(path)).expect_err("refused").to_string();
    assert_eq!(error("/dev/sr0"), "/dev/sr0 is the medium that the system runs from");
    assert_eq!(error("/dev/sdb"), "/dev/sdb is the medium that the system runs from", "a copy of it, too");
    assert_eq!(error("/dev/vda"), "/dev/vda has 15728640 bytes; at least 16777216 are needed");
    assert_eq!(error("/dev/vdb"), "/dev/vdb has sectors of 4096 bytes; the image is for 512");
    assert_eq!(error("/dev/vdc"), "/dev/vdc is read-only");
    let start = sys.now.get();
    let missing = error("/dev/vda1");
    assert!(missing.starts_with("there is no disk /dev/vda1; disks: "), "{missing}");
    assert!((20_000..21_000).contains(&(sys.now.get() - start)), "a disk may be late");
}

#[test]
fn auto_takes_the_only_disk() {
    let sys = Double::new();
    let (install, bytes) = medium(&sys);
    attach(&sys, "sr0", iso(VOLUME));
    attach(&sys, "sda", blank(32));
    sys.put("/sys/block/sda/removable", "1\n");
    attach(&sys, "vdb", blank(8));
    attach(&sys, "mmcblk0boot0", blank(32));
    sys.put("/sys/block/loop0/size", "65536\n");
    let auto = request(Wanted::Auto, false);
    let expected = "ksos.install=auto needs exactly one disk of at least 16 MiB that is not removable; there are: ";
    let none = install_to(&sys, &install, &auto).expect_err("none").to_string();
    assert_eq!(none, format!("{expected}none"));
    let disk = blank(32);
    attach(&sys, "vdc", disk.clone());
    assert_eq!(install_to(&sys, &install, &auto).expect("one"), "/dev/vdc");
    is_installed(&disk, &bytes);
    attach(&sys, "nvme0n1", blank(64));
    let two = install_to(&sys, &install, &auto).expect_err("two").to_string();
    assert_eq!(two, format!("{expected}/dev/nvme0n1 (64 MiB), /dev/vdc (32 MiB)"));
}

#[test]
fn a_power_cut_at_any_write_leaves_a_disk_that_does_not_boot_or_is_whole() {
    for used in [false, true] {
        for writes in 0.. {
            let sys = Double::new();
            let (install, bytes) = medium(&sys);
            let disk = blank(32);
            if used {
                disk.bytes.borrow_mut()[..8 << 20].copy_from_slice(&image(8, 7).bytes.borrow());
            }
            attach(&sys, "vda", disk.clone());
            sys.cut.set(Some(writes));
            let wanted = request(Wanted::Path(DISK.to_owned()), used);
            let done = install_to(&sys, &install, &wanted).is_ok();
            assert!(done || writes == 0 && used || !is_bootable(&disk), "after {writes} writes");
            sys.cut.set(None);
            // The next boot from the medium installs again; what is before the end looks blank.
            let again = request(Wanted::Path(DISK.to_owned()), true);
            if !used && Table::read(&disk).is_err() && disk.bytes.borrow()[..MIB as usize].iter().all(|byte| *byte == 0)
            {
                install_to(&sys, &install, &path(DISK)).expect("it is blank");
            } else {
                install_to(&sys, &install, &again).expect("installed");
            }
            is_installed(&disk, &bytes);
            if done {
                assert!(writes > 8, "there were writes to cut");
                break;
            }
        }
    }
}

#[test]
fn the_first_sector_is_written_last_and_only_after_everything_was_read_back() {
    let sys = Double::new();
    let (install, _) = medium(&sys);
    attach(&sys, "vda", blank(32));
    sys.changes.replace(Some(Vec::new()));
    install_to(&sys, &install, &path(DISK)).expect("installed");
    let writes: Vec<u64> = sys
        .changes
        .borrow()
        .iter()
        .flatten()
        .filter_map(|change| match change {
            crate::sys::double::Change::Write { offset, .. } => Some(*offset),
            _ => None,
        })
        .collect();
    let end = 32 * MIB;
    let last = [34 * 512, end - 33 * 512, end - 512, 1024, 512, 0];
    assert_eq!(writes[writes.len() - 6..], last, "boot code, backup table, table, first sector");
    assert!(writes[..writes.len() - 6].iter().all(|offset| *offset >= HEAD), "{writes:?}");
}

#[test]
fn damage_is_found_on_the_medium_and_on_the_disk() {
    let sys = Double::new();
    let (mut install, _) = medium(&sys);
    let disk = blank(32);
    attach(&sys, "vda", disk.clone());
    install.sha256 = Digest([1; 32]);
    let error = install_to(&sys, &install, &path(DISK)).expect_err("another digest").to_string();
    assert!(error.starts_with("the medium is damaged: its files have another SHA-256"), "{error}");
    assert!(!is_bootable(&disk));
    let (install, _) = medium(&sys);
    sys.put(&format!("{MEDIUM}/ksos/root.squashfs"), "short");
    assert!(install_to(&sys, &install, &path(DISK)).is_err());
    let (install, _) = medium(&sys);
    let disk = blank(32);
    attach(&sys, "vda", disk.clone());
    disk.deaf.set(true);
    let error = install_to(&sys, &install, &path(DISK)).expect_err("a disk that forgets").to_string();
    assert_eq!(error, "/dev/vda does not read back as it was written, in its partitions");
}

#[test]
fn requests_are_read_from_the_command_line_and_from_documents() {
    let of = |text: &str| Request::of_cmdline(&Cmdline::parse(text));
    assert_eq!(of("quiet ksos.live=x").expect("fine"), None);
    let asked = of("ksos.install=/dev/nvme0n1 ksos.install.force=yes ksos.install.then=reboot").expect("fine");
    let expected = Request {
        disk: Wanted::Path("/dev/nvme0n1".to_owned()),
        wipe: true,
        then: Then::Reboot,
        place: "the kernel command line".to_owned(),
    };
    assert_eq!(asked, Some(expected));
    for (text, expected) in [
        ("ksos.install=sda", "ksos.install=sda on the kernel command line: expected a path below /dev, or auto"),
        ("ksos.install", "ksos.install= on the kernel command line: expected a path below /dev, or auto"),
        (
            "ksos.install=/dev/../etc",
            "ksos.install=/dev/../etc on the kernel command line: expected a path below /dev, or auto",
        ),
        (
            "ksos.install=auto ksos.install.force=1",
            "ksos.install.force=1 on the kernel command line: expected yes or no",
        ),
        (
            "ksos.install=auto ksos.install.then=halt",
            "ksos.install.then=halt on the kernel command line: expected poweroff, reboot or live",
        ),
    ] {
        assert_eq!(of(text).expect_err("bad").to_string(), expected);
    }
    let of = |text: &str| Request::of_document(text, "/dev/sr1:user-data");
    assert_eq!(of("hostname: x\n").expect("fine"), None);
    let asked = of("install: {disk: auto, wipe: true, then: live}\n").expect("fine").expect("asked");
    assert_eq!((asked.disk, asked.wipe, asked.then), (Wanted::Auto, true, Then::Live));
    let asked = of("install:\n  disk: /dev/vda\n").expect("fine").expect("asked");
    assert_eq!((asked.disk, asked.wipe, asked.then), (Wanted::Path(DISK.to_owned()), false, Then::PowerOff));
    let error = of("install:\n  disk: vda\n").expect_err("bad").to_string();
    assert!(error.starts_with("/dev/sr1:user-data:2:9: install.disk: expected a path below /dev, or auto"), "{error}");
    assert!(of("install: {wipe: true}\n").is_err(), "which disk must be said");
}

#[test]
fn volumes_are_named_exactly() {
    let of = |text: &str| live_volume(&Cmdline::parse(text));
    assert_eq!(of("quiet"), Ok(None));
    assert_eq!(of(&format!("ksos.live={VOLUME}")), Ok(Some(VOLUME.to_owned())));
    assert_eq!(of("ksos.live=CDROM"), Err("CDROM".to_owned()));
    assert_eq!(of("ksos.live"), Err(String::new()));
    let sys = Double::new();
    attach(&sys, "sr0", iso("KSOS_0123456789ABCDEF01234568"));
    attach(&sys, "sda", blank(1));
    assert!(media(&sys, VOLUME).is_empty());
    let said: RefCell<Vec<String>> = RefCell::default();
    said.borrow_mut().extend(media(&sys, "KSOS_0123456789ABCDEF01234568"));
    assert_eq!(*said.borrow(), ["/dev/sr0"]);
}
