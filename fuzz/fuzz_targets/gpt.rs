//! The partition table of a disk, with good checksums.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_fuzz::Memory;
use ksos_runtime::disk::gpt::Table;

fuzz_target!(|bytes: &[u8]| {
    let mut disk = vec![0; 512 * 128];
    let length = bytes.len().min(512 * 120);
    disk[512..512 + length].copy_from_slice(&bytes[..length]);
    if length & 1 == 0 {
        disk[512..520].copy_from_slice(b"EFI PART");
    }
    ksos_fuzz::fix_gpt(&mut disk);
    let size = disk.len() as u64;
    let disk = Memory { bytes: disk, sector: 512 };
    let Ok(table) = Table::read(&disk) else { return };
    for partition in &table.partitions {
        let (start, length) = table.extent(partition);
        assert!(length > 0 && start + length <= size, "a partition beyond the disk");
    }
});
