//! Writes that QEMU has recorded with its driver `blklogwrites`, in the format of the kernel's dm-log-writes (kernel
//! `Documentation/admin-guide/device-mapper/log-writes.rst`, `drivers/md/dm-log-writes.c`).

use std::path::Path;

/// Sectors of the log, in bytes, and of what it is about.
const SECTOR: usize = 512;
/// First field of the log.
const MAGIC: u64 = 0x006a_7366_7773_6872;
/// An entry that discards what it names; it has no data.
const DISCARD: u64 = 1 << 2;

/// A write: where on the disk, in bytes, and what.
pub type Write = (u64, Vec<u8>);

/// QEMU's arguments for a disk that the machine boots from before any other, and whose writes are recorded in `log`.
pub fn disk(disk: &Path, log: &Path) -> Vec<String> {
    let file = |path: &Path| path.display().to_string().replace(',', ",,");
    [
        "-blockdev".to_owned(),
        format!("driver=raw,node-name=plain,file.driver=file,file.filename={}", file(disk)),
        "-blockdev".to_owned(),
        format!("driver=file,node-name=log,filename={}", file(log)),
        "-blockdev".to_owned(),
        "driver=blklogwrites,node-name=logged,file=plain,log=log,log-super-update-interval=1".to_owned(),
        "-device".to_owned(),
        "virtio-blk-pci,drive=logged,bootindex=0".to_owned(),
    ]
    .into()
}

/// Reads a log: every write in its order. QEMU begins it with the first write.
pub fn writes(log: &[u8]) -> Vec<Write> {
    if log.is_empty() {
        return Vec::new();
    }
    let number = |at: usize| u64::from_le_bytes(log[at..at + 8].try_into().expect("eight bytes"));
    assert_eq!((number(0), number(8)), (MAGIC, 1), "a log of dm-log-writes");
    let (count, mut at) = (number(16), SECTOR);
    let mut writes = Vec::new();
    for _ in 0..count {
        let (sector, length, flags) = (number(at), number(at + 8), number(at + 16));
        at += SECTOR;
        if flags & DISCARD == 0 && length > 0 {
            let end = at + length as usize * SECTOR;
            writes.push((sector * SECTOR as u64, log[at..end].to_vec()));
            at = end;
        }
    }
    writes
}
