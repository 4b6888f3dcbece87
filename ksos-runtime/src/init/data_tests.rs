//! The data partition on a disk in memory, with programs and mounts recorded.

use super::super::node::tests::node;
use super::super::volume::FEATURES;
use super::*;
use crate::disk::gpt::Table;
use crate::disk::gpt::tests::{MIB, image};
use crate::disk::grow::Change;
use crate::disk::probe;
use crate::disk::put_little;
use crate::sys::double::{Double, MemoryDisk};
use crate::sys::{Disk, Exit};

/// A node whose image was written to a disk of `mebibytes`; the partition holds `content` at its start.
fn machine(mebibytes: u64, content: &[u8]) -> Double {
    let sys = Double::new();
    let disk = image(8, 1);
    disk.bytes.borrow_mut()[4 << 20..(4 << 20) + content.len()].copy_from_slice(content);
    disk.bytes.borrow_mut().resize((mebibytes * MIB) as usize, 0);
    sys.disks.borrow_mut().insert("/dev/vda".to_owned(), disk);
    sys.put("/sys/block/vda/vda4/partition", "4\n");
    sys.put("/data/.keep", "");
    for program in ["mke2fs", "e2fsck"] {
        sys.put(&format!("/usr/sbin/{program}"), "");
    }
    sys
}

/// The beginning of an ext4 file system of `mebibytes`.
fn ext4(mebibytes: u64) -> Vec<u8> {
    let mut head = vec![0; 4096];
    put_little::<2>(&mut head, 1024 + 56, 0xef53);
    put_little::<4>(&mut head, 1024 + 24, 2);
    put_little::<4>(&mut head, 1024 + 4, mebibytes * 256);
    head
}

fn disk(sys: &Double) -> MemoryDisk {
    sys.disks.borrow()["/dev/vda"].clone()
}

fn is_marked(sys: &Double) -> bool {
    grow::is_formatting(Table::read(&disk(sys)).expect("valid").by_name("KSOLODATA").expect("there"))
}

#[test]
fn a_blank_partition_is_grown_formatted_and_mounted() {
    let sys = machine(64, &[]);
    let mut node = node(&sys);
    let detail = mount(&mut node).expect("works");
    assert_eq!(detail, "/dev/vda4, grown to 59 MiB, formatted");
    assert!(node.data.persistent && !is_marked(&sys));
    let options = "-E lazy_itable_init=1,lazy_journal_init=1 /dev/vda4";
    let expected = [
        "resize-partition /dev/vda 4 4194304 61865984".to_owned(),
        format!("run /usr/sbin/mke2fs -q -F -t ext4 -b 4096 -O {FEATURES} -L KSOLODATA {options}"),
        "mount /dev/vda4 /data ext4 rw errors=remount-ro".to_owned(),
    ];
    assert_eq!(*sys.calls.borrow(), expected);
}

#[test]
fn an_existing_file_system_is_checked_mounted_and_grown() {
    let sys = machine(64, &ext4(3));
    let detail = mount(&mut node(&sys)).expect("works");
    assert_eq!(detail, "/dev/vda4, grown to 59 MiB, file system grown from 3 MiB");
    let calls = sys.calls.borrow().clone();
    assert_eq!(
        calls[1..],
        [
            "run /usr/sbin/e2fsck -p /dev/vda4",
            "mount /dev/vda4 /data ext4 rw errors=remount-ro",
            "resize-ext4 /data 15104"
        ]
    );
    sys.calls.borrow_mut().clear();
    disk(&sys).write_at(4 * MIB, &ext4(59)).expect("written");
    mount(&mut node(&sys)).expect("works");
    assert_eq!(
        *sys.calls.borrow(),
        ["run /usr/sbin/e2fsck -p /dev/vda4", "mount /dev/vda4 /data ext4 rw errors=remount-ro"],
        "nothing left to grow"
    );
}

#[test]
fn a_clean_file_system_is_checked_only_if_it_cannot_be_mounted() {
    let mut head = ext4(3);
    put_little::<2>(&mut head, 1024 + 58, 1);
    let sys = machine(8, &head);
    assert_eq!(mount(&mut node(&sys)).expect("works"), "/dev/vda4");
    assert!(sys.calls_of("run").is_empty());
    let sys = machine(8, &head);
    sys.fail("mount /dev/vda4", "Structure needs cleaning");
    mount(&mut node(&sys)).expect_err("the double fails for ever");
    let expected = ["mount /dev/vda4", "run /usr/sbin/e2fsck -p", "mount /dev/vda4", "mount tmpfs /data"];
    let calls = sys.calls.borrow().clone();
    assert!(calls.len() == 4 && calls.iter().zip(expected).all(|(call, start)| call.starts_with(start)), "{calls:?}");
}

#[test]
fn foreign_data_is_never_formatted() {
    for content in [&b"LUKS\xba\xbe"[..], b"some bytes that nobody knows"] {
        let sys = machine(64, content);
        let before = disk(&sys).bytes.borrow().clone();
        let mut node = node(&sys);
        let error = mount(&mut node).expect_err("degraded");
        assert!(error.to_string().starts_with("/dev/vda4 holds "), "{error}");
        assert!(!node.data.persistent);
        assert_eq!(*sys.calls.borrow(), ["mount tmpfs /data tmpfs rw mode=0755"]);
        assert!(*disk(&sys).bytes.borrow() == before, "the disk was not touched");
    }
}

#[test]
fn an_interrupted_format_is_done_again() {
    let sys = machine(64, b"half a file system");
    let mut head = [0; 512];
    disk(&sys).read_at(0, &mut head).expect("read");
    let table = Table::read(&disk(&sys)).expect("valid");
    let mark = Change { name: "KSOLODATA", mark: Some(Mark::Formatting) };
    grow::plan(&table, &head, mark).expect("fits").expect("work").apply(&disk(&sys)).expect("written");
    assert_eq!(mount(&mut node(&sys)).expect("works"), "/dev/vda4, formatted");
    assert!(!is_marked(&sys));
}

#[test]
fn a_format_that_fails_stays_marked() {
    let sys = machine(64, &[]);
    sys.runs.borrow_mut().insert("/usr/sbin/mke2fs".to_owned(), [(Exit::Code(1), "no space".to_owned())].into());
    let error = mount(&mut node(&sys)).expect_err("degraded");
    assert_eq!(error.to_string(), "mke2fs: exit status 1: no space");
    assert!(is_marked(&sys));
}

#[test]
fn e2fsck_has_a_defined_outcome_for_each_status() {
    for (statuses, expected) in [
        (&[0][..], Ok("/dev/vda4")),
        (&[1], Ok("/dev/vda4, repaired")),
        (&[2], Ok("/dev/vda4, repaired")),
        (&[4, 1], Ok("/dev/vda4, repaired with losses possible")),
        (&[4, 4], Err("e2fsck /dev/vda4: exit status 4: bad")),
        (&[8, 8], Err("e2fsck /dev/vda4: exit status 8: bad")),
    ] {
        let sys = machine(8, &ext4(3));
        let runs = statuses.iter().map(|code| (Exit::Code(*code), "bad".to_owned())).collect();
        sys.runs.borrow_mut().insert("/usr/sbin/e2fsck".to_owned(), runs);
        let result = mount(&mut node(&sys)).map_err(|error| error.to_string());
        assert_eq!(result.as_deref().map_err(String::as_str), expected, "{statuses:?}");
    }
}

#[test]
fn without_a_partition_or_disk_memory_takes_its_place() {
    let sys = machine(8, &[]);
    let mut unlabelled = node(&sys);
    unlabelled.config.data.label = "OTHER".to_owned();
    assert_eq!(mount(&mut unlabelled).expect_err("degraded").to_string(), "/dev/vda has no partition named OTHER");
    sys.disks.borrow_mut().clear();
    mount(&mut node(&sys)).expect_err("degraded");
    assert_eq!(sys.calls_of("mount tmpfs /data").len(), 2);
}

#[test]
fn an_image_without_the_mount_point_uses_another() {
    let sys = machine(8, &ext4(3));
    let mut node = node(&sys);
    node.data.path = "/nowhere".to_owned();
    mount(&mut node).expect("works");
    assert_eq!(sys.calls_of("mount"), ["mount /dev/vda4 /run/ksos/data ext4 rw errors=remount-ro"]);
}

/// A node whose partition of 135 MiB has a backup superblock, and `head` where the primary one should be.
fn with_backup(head: &[u8]) -> Double {
    let sys = machine(8, head);
    let mut disk = image(140, 1);
    disk.bytes.borrow_mut()[4 << 20..(4 << 20) + head.len()].copy_from_slice(head);
    let at = (4 * MIB + probe::BACKUP_SUPERBLOCK) as usize;
    for (offset, bytes) in [(56, [0x53, 0xef]), (24, [2, 0]), (90, [1, 0])] {
        disk.bytes.borrow_mut()[at + offset..at + offset + 2].copy_from_slice(&bytes);
    }
    std::mem::swap(sys.disks.borrow_mut().get_mut("/dev/vda").expect("there"), &mut disk);
    sys
}

#[test]
fn a_superblock_that_is_gone_is_replaced_by_its_backup() {
    let run = "run /usr/sbin/e2fsck -y -b 32768 -B 4096 /dev/vda4";
    for head in [&[0; 16][..], b"overwritten"] {
        let sys = with_backup(head);
        let detail = mount(&mut node(&sys)).expect("works");
        assert_eq!(detail, "/dev/vda4, repaired from the backup superblock, losses possible");
        assert_eq!(sys.calls_of("run"), [run]);
    }
    let sys = with_backup(&ext4(135));
    let runs = [8, 8, 1].map(|code| (Exit::Code(code), "bad".to_owned()));
    sys.runs.borrow_mut().insert("/usr/sbin/e2fsck".to_owned(), runs.into());
    mount(&mut node(&sys)).expect("works");
    assert_eq!(sys.calls_of("run").last().map(String::as_str), Some(run));
}

#[test]
fn what_no_backup_can_repair_is_left_as_it_is() {
    let sys = with_backup(b"overwritten");
    sys.runs.borrow_mut().insert("/usr/sbin/e2fsck".to_owned(), [(Exit::Code(8), "no".to_owned())].into());
    let head = |sys: &Double| disk(sys).bytes.borrow()[..8 << 20].to_vec();
    let before = head(&sys);
    let mut node = node(&sys);
    let error = mount(&mut node).expect_err("degraded").to_string();
    assert_eq!(error, "e2fsck -b 32768 /dev/vda4: exit status 8: no");
    assert!(!node.data.persistent && head(&sys) == before);
    // A volume that is known not to be ours is not touched, whatever lies behind its beginning.
    let sys = with_backup(b"LUKS\xba\xbe");
    mount(&mut super::super::node::tests::node(&sys)).expect_err("degraded");
    assert!(sys.calls_of("run").is_empty());
}

#[test]
fn an_old_backup_behind_a_new_images_partition_is_not_looked_at() {
    let sys = machine(140, &[]);
    let at = (4 * MIB + probe::BACKUP_SUPERBLOCK) as usize;
    disk(&sys).bytes.borrow_mut()[at + 56..at + 58].copy_from_slice(&[0x53, 0xef]);
    disk(&sys).bytes.borrow_mut()[at + 24] = 2;
    disk(&sys).bytes.borrow_mut()[at + 90] = 1;
    assert!(mount(&mut node(&sys)).expect("works").ends_with("formatted"));
}

#[test]
fn a_full_partition_boots_degraded_with_numbers() {
    for (total, available, full) in [(8 << 30, 63 << 20, true), (8 << 30, 64 << 20, false), (50 << 20, 1 << 20, false)]
    {
        let sys = machine(8, &ext4(3));
        sys.room.set(Space { total, available, free: available });
        let mut node = node(&sys);
        mount(&mut node).expect("works");
        assert_eq!(node.degraded.contains_key("data room"), full, "{total} {available}");
    }
    let sys = machine(8, &ext4(3));
    sys.room.set(Space { total: 8 << 30, available: 12 << 10, free: 400 << 20 });
    let mut node = node(&sys);
    mount(&mut node).expect("works");
    assert_eq!(node.degraded["data room"], "the data partition is full: 12 KiB of 8192 MiB are free");
}
