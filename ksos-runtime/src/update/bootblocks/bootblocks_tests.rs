//! The blocks on volumes that are made here, and by a foreign tool.

use super::*;
use crate::disk::put_little;
use crate::sys::double::{Change, Double, MemoryDisk};

const ESP: &str = "/dev/vda1";
const FILES: [&str; 4] = [COPIES[0], COPIES[1], MARKS[0], MARKS[1]];

/// A volume with sectors of 512 bytes, clusters of 512 bytes, one table. Objects are placed one by one.
struct Builder {
    bytes: Vec<u8>,
    next: u32,
}

const TABLE: usize = 32 * 512;
const DATA: usize = TABLE + 16 * 512;

impl Builder {
    fn new() -> Self {
        let sectors = 2048_u64;
        let mut bytes = vec![0; sectors as usize * 512];
        for (offset, value) in [(11, 512), (14, 32), (42, 0)] {
            put_little::<2>(&mut bytes, offset, value);
        }
        (bytes[13], bytes[16], bytes[510], bytes[511]) = (1, 1, 0x55, 0xaa);
        for (offset, value) in [(32, sectors), (36, 16), (44, 2)] {
            put_little::<4>(&mut bytes, offset, value);
        }
        let mut builder = Builder { bytes, next: 2 };
        builder.take(1);
        builder
    }

    /// Takes clusters in a chain.
    fn take(&mut self, count: u32) -> u32 {
        let first = self.next;
        for cluster in first..first + count {
            let next = if cluster + 1 == first + count { 0x0fff_ffff } else { cluster + 1 };
            self.link(cluster, next);
        }
        self.next += count;
        first
    }

    fn link(&mut self, cluster: u32, next: u32) {
        put_little::<4>(&mut self.bytes, TABLE + 4 * cluster as usize, u64::from(next));
    }

    fn cluster(&mut self, cluster: u32) -> &mut [u8] {
        let start = DATA + (cluster as usize - 2) * 512;
        &mut self.bytes[start..start + 512]
    }

    /// Adds an entry with a long name.
    fn add(&mut self, directory: u32, name: &str, attributes: u8, cluster: u32, size: u64) {
        let short: [u8; 11] = *b"X~1        ";
        let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        let mut units: Vec<u16> = name.encode_utf16().collect();
        units.push(0);
        units.resize(units.len().next_multiple_of(13), 0xffff);
        let parts = units.len() / 13;
        let at = self.cluster(directory).chunks(32).position(|entry| entry[0] == 0).expect("room") * 32;
        let place = self.cluster(directory);
        for (index, part) in units.chunks(13).rev().enumerate() {
            let entry = &mut place[at + 32 * index..at + 32 * (index + 1)];
            entry[0] = (parts - index) as u8 | if index == 0 { 0x40 } else { 0 };
            (entry[11], entry[13]) = (0x0f, sum);
            for (unit, offset) in part.iter().zip((1..11).chain(14..26).chain(28..32).step_by(2)) {
                put_little::<2>(entry, offset, u64::from(*unit));
            }
        }
        let entry = &mut place[at + 32 * parts..at + 32 * (parts + 1)];
        entry[..11].copy_from_slice(&short);
        entry[11] = attributes;
        put_little::<2>(entry, 20, u64::from(cluster >> 16));
        put_little::<2>(entry, 26, u64::from(cluster & 0xffff));
        put_little::<4>(entry, 28, size);
    }

    fn directory(&mut self, parent: u32, name: &str) -> u32 {
        let cluster = self.take(1);
        self.add(parent, name, 0x10, cluster, 0);
        cluster
    }

    /// The partition of a new image. `change` gets the builder and the cluster of `EFI/ksos`.
    fn image(change: impl FnOnce(&mut Builder, u32)) -> MemoryDisk {
        let mut builder = Builder::new();
        let efi = builder.directory(2, "EFI");
        let ksos = builder.directory(efi, "ksos");
        let state = BootState::initial().encode();
        for (path, block) in
            FILES.into_iter().zip([state, state, Mark { confirmed: true }.encode(), Mark { confirmed: false }.encode()])
        {
            let (directory, file) = path.trim_start_matches("EFI/ksos/").split_once('/').expect("two names");
            let directory = builder.directory(ksos, directory);
            builder.next = builder.next.next_multiple_of(8);
            let cluster = builder.take(1);
            builder.cluster(cluster).copy_from_slice(&block);
            builder.add(directory, file, 0x20, cluster, 512);
        }
        change(&mut builder, ksos);
        MemoryDisk::new(builder.bytes)
    }
}

/// The partition of a new image.
pub(crate) fn image() -> MemoryDisk {
    Builder::image(|_, _| {})
}

fn machine(disk: MemoryDisk) -> Double {
    let sys = Double::new();
    sys.put("/run/ksos/x", "");
    sys.put("/proc/cmdline", "ksos.slot=a\n");
    sys.disks.borrow_mut().insert(ESP.to_owned(), disk);
    sys
}

fn fresh() -> Double {
    machine(Builder::image(|_, _| {}))
}

fn state(generation: u64, active: Slot, trial: Option<u8>) -> BootState {
    BootState { generation, active, trial }
}

fn open(sys: &Double) -> BootBlocks {
    BootBlocks::open(sys, ESP).expect("a volume")
}

/// Overwrites a block where it is.
fn set(sys: &Double, file: &str, bytes: &[u8]) {
    let blocks = open(sys);
    let place = blocks.copies.iter().chain(&blocks.marks).find(|place| place.file == file).expect("a known file");
    let offset = *place.offset.as_ref().expect("there") as usize;
    sys.disks.borrow()[ESP].bytes.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn a_new_image_is_read_written_and_read_back() {
    let sys = fresh();
    let blocks = open(&sys);
    let initial = Ok(BootState::initial());
    let copies = blocks.read().expect("read");
    assert_eq!(copies, Copies { copies: [initial; 2], confirmed: [Some(true), Some(false)] });
    assert!(copies.agree() && copies.fault().is_none() && copies.is_confirmed(Slot::A));
    let next = state(2, Slot::A, Some(3));
    *sys.changes.borrow_mut() = Some(Vec::new());
    open(&sys).write(&next).expect("written");
    open(&sys).set_confirmed(Slot::B, true).expect("written");
    let copies = blocks.read().expect("read");
    assert_eq!(copies, Copies { copies: [Ok(next); 2], confirmed: [Some(true), Some(true)] });
    let changes = sys.changes.borrow_mut().take().expect("recorded");
    let writes: Vec<(usize, bool)> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Write { bytes, offset, .. } => Some((bytes.len(), offset.is_multiple_of(4096))),
            _ => None,
        })
        .collect();
    assert_eq!(writes.len(), 3);
    assert!(writes.iter().all(|(length, _)| *length == 512));
    for pair in changes.windows(2) {
        let two_writes = matches!(pair, [Change::Write { .. }, Change::Write { .. }]);
        assert!(!two_writes, "each write is durable before the next");
    }
}

#[test]
fn copies_that_disagree_become_what_the_boot_loader_would_use() {
    let (one, two) = (state(5, Slot::B, None), state(4, Slot::A, Some(2)));
    let junk = [0xff; 512];
    let cases: [([&[u8]; 2], BootState, &str); 3] = [
        ([&one.encode(), &two.encode()], one, "the copies of the boot state differ"),
        ([&junk, &two.encode()], two, "copy 1 of the boot state: the boot-state block does not begin"),
        ([&one.encode(), &junk], one, "copy 2 of the boot state: the boot-state block does not begin"),
    ];
    for (blocks, expected, fault) in cases {
        let sys = fresh();
        set(&sys, COPIES[0], blocks[0]);
        set(&sys, COPIES[1], blocks[1]);
        let copies = open(&sys).read().expect("read");
        assert!(!copies.agree() && copies.fault().expect("one").starts_with(fault), "{:?}", copies.fault());
        *sys.changes.borrow_mut() = Some(Vec::new());
        assert_eq!(open(&sys).repair(&copies).expect("repaired"), expected);
        let writes = sys.changes.borrow_mut().take().expect("recorded");
        assert_eq!(writes.iter().filter(|change| matches!(change, Change::Write { .. })).count(), 1);
        assert_eq!(open(&sys).read().expect("read").copies, [Ok(expected); 2]);
    }
    let sys = fresh();
    set(&sys, COPIES[0], &junk);
    set(&sys, COPIES[1], &[0; 512]);
    let copies = open(&sys).read().expect("read");
    assert_eq!(copies.state(), None);
    assert!(matches!(open(&sys).repair(&copies), Err(BootBlockError::Neither(..))));
}

#[test]
fn a_medium_that_loses_writes_is_found_out() {
    let sys = fresh();
    let blocks = open(&sys);
    sys.disks.borrow()[ESP].deaf.set(true);
    let error = open(&sys).write(&state(2, Slot::B, None)).expect_err("lost").to_string();
    assert_eq!(error, "EFI system partition /dev/vda1: EFI/ksos/state1/boot.env is not what was written to it");
    let error = blocks.set_confirmed(Slot::B, true).expect_err("lost");
    assert!(matches!(error, BootBlockError::ReadBack { file, .. } if file == MARKS[1]));
    assert_eq!(open(&sys).read().expect("read").state(), Some(BootState::initial()));
}

#[test]
fn a_write_that_fails_ends_there() {
    let sys = fresh();
    sys.cut.set(Some(1));
    open(&sys).write(&state(2, Slot::B, None)).expect_err("no power");
    assert_eq!(open(&sys).read().expect("read").copies, [Ok(state(2, Slot::B, None)), Ok(BootState::initial())]);
}

/// Sets the size that the entry of the last file of a directory states.
fn resize(builder: &mut Builder, directory: u32, size: u64) {
    let place = builder.cluster(directory);
    let last = place.chunks(32).position(|entry| entry[0] == 0).expect("an end") - 1;
    put_little::<4>(place, 32 * last + 28, size);
}

#[test]
fn files_that_cannot_be_written_in_place_are_refused_and_nothing_is_written() {
    type Damage = fn(&mut Builder, u32);
    // Clusters: 2 root, 3 EFI, 4 ksos, 5 state1, 8 its file, 9 state2, 16 its file, 17 slot-a, 24, 25 slot-b, 32.
    let cases: [(&str, &str, Damage); 11] = [
        ("state1/boot.env has 511 bytes instead of 512", COPIES[0], |b, _| resize(b, 5, 511)),
        ("state2/boot.env has 1024 bytes instead of 512", COPIES[1], |b, _| resize(b, 9, 1024)),
        ("state1/boot.env has more than one cluster", COPIES[0], |b, _| b.link(8, 33)),
        ("state1/boot.env has cluster 0, which is free", COPIES[0], |b, _| b.link(8, 0)),
        ("state1/boot.env has cluster 268435447, which is free, bad", COPIES[0], |b, _| b.link(8, 0x0fff_fff7)),
        ("there is no EFI/ksos/state2/boot.env", COPIES[1], |b, _| b.cluster(9).fill(0)),
        ("it shares a block of 4096 bytes with EFI/ksos/state2/boot.env", COPIES[0], |b, _| {
            // Both entries name one cluster.
            let entries = b.cluster(5).to_vec();
            b.cluster(9).copy_from_slice(&entries);
        }),
        ("has cluster 70000, which is", COPIES[0], |b, _| {
            let place = b.cluster(5);
            put_little::<2>(place, 32 + 20, 1);
            put_little::<2>(place, 32 + 26, 70000 - 65536);
        }),
        ("EFI/ksos/state1 has more than 65536 entries", COPIES[0], |b, _| {
            b.cluster(5).fill(0xe5);
            b.link(5, 5);
        }),
        ("EFI/ksos/state1 is not a directory", COPIES[0], |b, ksos| {
            let place = b.cluster(ksos);
            place[32 + 11] = 0x20;
        }),
        ("EFI/ksos/state1/boot.env is not a file", COPIES[0], |b, _| {
            let place = b.cluster(5);
            place[32 + 11] = 0x10;
        }),
    ];
    for (expected, file, damage) in cases {
        let sys = machine(Builder::image(damage));
        let before = sys.disks.borrow()[ESP].bytes.borrow().clone();
        let error = open(&sys).write(&state(2, Slot::B, None)).expect_err(expected);
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        assert!(matches!(error, BootBlockError::Place { file: named, .. } if named == file), "{text}");
        assert_eq!(*sys.disks.borrow()[ESP].bytes.borrow(), before, "{expected}");
        let copies = open(&sys).read().expect("read");
        let index = COPIES.iter().position(|copy| *copy == file).expect("a copy");
        assert_eq!(copies.copies[index], Err(BootStateError::Unreadable), "{expected}");
        assert!(open(&sys).repair(&copies).is_err());
    }
}

#[test]
fn a_lost_mark_does_not_keep_the_state_from_being_written() {
    let sys = machine(Builder::image(|b, _| b.cluster(17).fill(0)));
    open(&sys).write(&state(2, Slot::B, None)).expect("written");
    let copies = open(&sys).read().expect("read");
    assert_eq!((copies.state(), copies.confirmed), (Some(state(2, Slot::B, None)), [None, Some(false)]));
    assert!(open(&sys).set_confirmed(Slot::A, true).is_err());
}

#[test]
fn hostile_boot_sectors_are_refused_by_name_of_the_fault() {
    type Damage = fn(&mut [u8]);
    let cases: [(&str, Damage); 12] = [
        ("no boot sector", |b| b[510] = 0),
        ("other sectors", |b| put_little::<2>(b, 11, 4096)),
        ("the number of sectors per cluster is no power of 2", |b| b[13] = 0),
        ("the number of sectors per cluster is no power of 2", |b| b[13] = 3),
        ("it is FAT12 or FAT16", |b| put_little::<2>(b, 22, 9)),
        ("impossible boot sector", |b| put_little::<2>(b, 14, 0)),
        ("impossible boot sector", |b| b[16] = 0),
        ("impossible boot sector", |b| put_little::<4>(b, 36, 0)),
        ("its parts do not fit the partition", |b| put_little::<4>(b, 36, u64::from(u32::MAX))),
        ("its parts do not fit the partition", |b| put_little::<4>(b, 32, u64::from(u32::MAX))),
        ("its parts do not fit the partition", |b| put_little::<4>(b, 32, 0)),
        ("its parts do not fit the partition", |b| put_little::<2>(b, 40, 0x81)),
    ];
    for (expected, damage) in cases {
        let disk = Builder::image(|_, _| {});
        damage(&mut disk.bytes.borrow_mut());
        let error = BootBlocks::open(&machine(disk), ESP).err().expect(expected).to_string();
        assert!(error.ends_with(expected), "{error}");
    }
    let disk = Builder::image(|_, _| {});
    put_little::<4>(&mut disk.bytes.borrow_mut(), 44, u64::from(u32::MAX));
    let error = open(&machine(disk)).write(&BootState::initial()).expect_err("no root").to_string();
    assert!(error.contains("the root directory has cluster 4294967295"), "{error}");
    assert!(BootBlocks::open(&machine(MemoryDisk::new(vec![0; 100])), ESP).is_err());
    let error = BootBlocks::open(&Double::new(), ESP).err().expect("no device").to_string();
    assert!(error.starts_with("EFI system partition: open /dev/vda1: "), "{error}");
}

#[test]
fn no_changed_byte_of_the_metadata_panics_or_leads_a_write_astray() {
    let disk = Builder::image(|_, _| {});
    let good = disk.bytes.borrow().clone();
    let sys = machine(disk.clone());
    let clusters = [2, 3, 4, 5, 9, 17, 25].map(|cluster| DATA + (cluster - 2) * 512);
    let directories = clusters.into_iter().flat_map(|start| start..start + 200);
    let mut usable = 0;
    for index in (0..96).chain(TABLE..TABLE + 140).chain(directories) {
        for value in [0, 1, 0x0f, 0xe5, 0xff] {
            disk.bytes.borrow_mut()[index] = value;
            *sys.changes.borrow_mut() = Some(Vec::new());
            if let Ok(blocks) = BootBlocks::open(&sys, ESP)
                && blocks.write(&state(9, Slot::B, None)).is_ok()
            {
                usable += 1;
            }
            let changes = sys.changes.borrow_mut().take().expect("recorded");
            let mut bytes = disk.bytes.borrow_mut();
            bytes[index] = good[index];
            for change in changes {
                let Change::Write { offset, bytes: written, .. } = change else { continue };
                assert_eq!(written.len(), 512, "byte {index} is {value}");
                let place = offset as usize..offset as usize + 512;
                bytes[place.clone()].copy_from_slice(&good[place]);
            }
        }
    }
    assert!(usable > 1000, "{usable}");
    assert_eq!(*disk.bytes.borrow(), good);
}

#[test]
fn what_is_published_is_what_metrics_read() {
    let sys = fresh();
    let trial = state(7, Slot::B, Some(2));
    let mut copies = Copies { copies: [Ok(trial); 2], confirmed: [Some(true), None] };
    publish(&sys, &copies).expect("written");
    assert_eq!(
        sys.text(layout::BOOT_STATE),
        r#"{"trial":"a","left":2,"active":"b","booted":"a","generation":7,"confirmed":[true,null],"fault":null}"#
    );
    copies.copies = [Err(BootStateError::Torn), Err(BootStateError::Unreadable)];
    publish(&sys, &copies).expect("written");
    let text = sys.text(layout::BOOT_STATE);
    assert!(text.starts_with(r#"{"trial":null,"left":0,"active":null,"booted":"a","generation":null"#), "{text}");
    assert!(text.contains("neither copy of the boot state is valid"), "{text}");
}

/// Runs a tool; `None` when it is not installed.
#[expect(clippy::disallowed_methods, reason = "runs a foreign tool to check against")]
fn tool(arguments: &[&str]) -> Option<()> {
    match std::process::Command::new(arguments[0])
        .args(&arguments[1..])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
    {
        Ok(output) => {
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            Some(())
        }
        Err(error) => {
            assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "{}: {error}", arguments[0]);
            println!("skipped: {} is not installed", arguments[0]);
            None
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "reads what a foreign tool has written")]
fn finds_what_mtools_writes() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    let (image, file) = (path("esp.img"), path("file"));
    std::fs::write(&file, BootState::initial().encode()).expect("written");
    let padding = path("padding");
    std::fs::write(&padding, [0; 7 * 512]).expect("written");
    for apart in [false, true] {
        std::fs::write(&image, vec![0; 34 << 20]).expect("written");
        if tool(&["mkfs.vfat", "-F", "32", "-s", "1", &image]).is_none() {
            return;
        }
        for name in ["EFI", "EFI/ksos", "EFI/ksos/state1", "EFI/ksos/state2", "EFI/ksos/slot-a", "EFI/ksos/slot-b"] {
            let Some(()) = tool(&["mmd", "-i", &image, &format!("::{name}")]) else { return };
        }
        for (index, name) in FILES.into_iter().enumerate() {
            tool(&["mcopy", "-i", &image, &file, &format!("::{name}")]).expect("there like mmd");
            if apart {
                tool(&["mcopy", "-i", &image, &padding, &format!("::padding-{index}")]).expect("there like mmd");
            }
        }
        let sys = machine(MemoryDisk::new(std::fs::read(&image).expect("read")));
        let blocks = open(&sys);
        if apart {
            blocks.write(&state(9, Slot::B, Some(1))).expect("written");
            std::fs::write(&image, &*sys.disks.borrow()[ESP].bytes.borrow()).expect("written");
            tool(&["fsck.vfat", "-n", &image]).expect("there like mkfs.vfat");
            tool(&["mcopy", "-n", "-o", "-i", &image, &format!("::{}", COPIES[1]), &file]).expect("there");
            assert_eq!(BootState::decode(&std::fs::read(&file).expect("read")), Ok(state(9, Slot::B, Some(1))));
        } else {
            // Files of one sector each side by side.
            let error = blocks.write(&BootState::initial()).expect_err("shared").to_string();
            assert!(error.contains("shares a block of 4096 bytes with"), "{error}");
        }
    }
}
