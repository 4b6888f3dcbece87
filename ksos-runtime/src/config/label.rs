//! File system labels of volumes that may carry configuration: FAT and ISO 9660, read from the device itself.
//!
//! FAT: the volume entry of the root directory, else the boot sector's field (Microsoft FAT specification 1.03, sections
//! 3.1 to 3.5 and 6): programs that rename a volume change the entry and often leave the field. Of FAT32 the root
//! directory's first cluster is looked at. ISO 9660: the volume identifier of the primary volume descriptor (ECMA-119,
//! section 8.4). Everything that a disk states is checked before it is used, and reads are bounded.

use crate::disk::little;
use crate::disk::probe::fat_label;
use crate::sys::Disk;

/// Most of a root directory that is looked at, in bytes.
const DIRECTORY_LIMIT: u64 = 64 << 10;
/// Bytes per directory entry.
const ENTRY: usize = 32;
/// Place and length of the first volume descriptor (ECMA-119, section 6.7.1: sector 16, sectors of 2048 bytes).
const DESCRIPTOR_OFFSET: u64 = 16 * 2048;
const DESCRIPTOR_LENGTH: usize = 2048;

/// A labelled file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its type, as mount(2) names it.
    pub kind: &'static str,
    /// Its label, without the spaces behind it.
    pub label: String,
}

/// Reads the label of a device; `None` without a file system that this module knows, or if it cannot be read.
pub fn read(device: &dyn Disk) -> Option<Volume> {
    if let Some(label) = iso_label(device) {
        return Some(Volume { kind: "iso9660", label });
    }
    let sector = read_at(device, 0, 512)?;
    let field = fat_label(&sector)?;
    let label = root_label(device, &sector).unwrap_or(field);
    Some(Volume { kind: "vfat", label })
}

fn read_at(device: &dyn Disk, offset: u64, length: usize) -> Option<Vec<u8>> {
    if offset.checked_add(length as u64)? > device.size() {
        return None;
    }
    let mut bytes = vec![0; length];
    device.read_at(offset, &mut bytes).ok()?;
    Some(bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches([' ', '\0']).to_owned()
}

fn iso_label(device: &dyn Disk) -> Option<String> {
    let descriptor = read_at(device, DESCRIPTOR_OFFSET, DESCRIPTOR_LENGTH)?;
    // Type 1 (primary), standard identifier "CD001"; the volume identifier is bytes 41 to 72, counted from 1.
    (descriptor.first() == Some(&1) && descriptor.get(1..6) == Some(b"CD001")).then(|| text(&descriptor[40..72]))
}

/// Returns the name in the root directory's entry with the attribute `ATTR_VOLUME_ID`.
fn root_label(device: &dyn Disk, boot: &[u8]) -> Option<String> {
    let bytes_per_sector = little::<2>(boot, 11);
    if ![512, 1024, 2048, 4096].contains(&bytes_per_sector) {
        return None;
    }
    let (sectors_per_cluster, reserved, copies) = (little::<1>(boot, 13), little::<2>(boot, 14), little::<1>(boot, 16));
    let entries = little::<2>(boot, 17);
    let table = Some(little::<2>(boot, 22)).filter(|sectors| *sectors != 0).unwrap_or(little::<4>(boot, 36));
    let after_tables = reserved.checked_add(copies.checked_mul(table)?)?;
    let (sector, length) = if entries != 0 {
        (after_tables, entries * ENTRY as u64)
    } else {
        // "The first data cluster is 2" (section 3.5); BPB_RootClus is at 44.
        let cluster = little::<4>(boot, 44).checked_sub(2)?;
        (after_tables.checked_add(cluster.checked_mul(sectors_per_cluster)?)?, sectors_per_cluster * bytes_per_sector)
    };
    let directory = read_at(device, sector.checked_mul(bytes_per_sector)?, length.min(DIRECTORY_LIMIT) as usize)?;
    for entry in directory.chunks_exact(ENTRY) {
        // "If DIR_Name[0] == 0x00 ... there are no allocated directory entries after this one"; 0xE5 is a free one
        // (section 6). Attribute 0x0F is a part of a long name.
        match (entry[0], entry[11]) {
            (0, _) => return None,
            (0xe5, _) => {}
            (_, attributes) if attributes & 0x08 != 0 && attributes & 0x3f != 0x0f => return Some(text(&entry[..11])),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "runs foreign tools to check against")]
pub(crate) mod tests {
    use std::process::Command;

    use super::*;
    use crate::disk::put_little;
    use crate::sys::double::MemoryDisk;

    /// Returns a FAT16 volume with these labels.
    pub(crate) fn fat(field: &str, entry: Option<&str>) -> MemoryDisk {
        let mut bytes = vec![0; 64 << 10];
        for (offset, value) in [(11, 512), (14, 1), (17, 16), (22, 4)] {
            put_little::<2>(&mut bytes, offset, value);
        }
        (bytes[13], bytes[16], bytes[510], bytes[511]) = (1, 2, 0x55, 0xaa);
        bytes[43..62].copy_from_slice(format!("{field:11}FAT16   ").as_bytes());
        let root = (1 + 2 * 4) * 512;
        // A deleted entry and a part of a long name come first.
        (bytes[root], bytes[root + 11]) = (0xe5, 0x08);
        (bytes[root + 32], bytes[root + 43]) = (b'A', 0x0f);
        if let Some(entry) = entry {
            bytes[root + 64..root + 75].copy_from_slice(format!("{entry:11}").as_bytes());
            bytes[root + 75] = 0x08;
        }
        MemoryDisk::new(bytes)
    }

    /// Returns an ISO 9660 volume with this label.
    pub(crate) fn iso(label: &str) -> MemoryDisk {
        let mut bytes = vec![0; 40 << 10];
        bytes[32768..32774].copy_from_slice(b"\x01CD001");
        bytes[32808..32840].copy_from_slice(format!("{label:32}").as_bytes());
        MemoryDisk::new(bytes)
    }

    fn label(disk: &MemoryDisk) -> Option<String> {
        read(disk).map(|volume| format!("{} {}", volume.kind, volume.label))
    }

    #[test]
    fn the_entry_wins_over_the_field() {
        assert_eq!(label(&fat("CIDATA", None)).as_deref(), Some("vfat CIDATA"));
        assert_eq!(label(&fat("NO NAME", Some("cidata"))).as_deref(), Some("vfat cidata"));
        assert_eq!(label(&fat("CIDATA", Some("OTHER"))).as_deref(), Some("vfat OTHER"));
        assert_eq!(label(&iso("cidata")).as_deref(), Some("iso9660 cidata"));
        assert_eq!(label(&MemoryDisk::new(vec![0; 64 << 10])), None);
        assert_eq!(label(&MemoryDisk::new(vec![0xff; 100])), None);
    }

    #[test]
    fn impossible_numbers_are_not_believed() {
        for (offset, value) in [(11, 0xffff), (14, 0xffff), (17, 0xffff), (22, 0xffff), (13, 0xff), (16, 0xff)] {
            let disk = fat("CIDATA", None);
            put_little::<2>(&mut disk.bytes.borrow_mut(), offset, value);
            assert_eq!(label(&disk).as_deref(), Some("vfat CIDATA"), "field at {offset}");
        }
        let disk = fat("CIDATA", None);
        {
            let mut bytes = disk.bytes.borrow_mut();
            put_little::<2>(&mut bytes, 17, 0);
            put_little::<2>(&mut bytes, 22, 0);
            bytes[36..48].fill(0xff);
            bytes[71..87].copy_from_slice(b"CIDATA     FAT32");
        }
        assert_eq!(label(&disk).as_deref(), Some("vfat CIDATA"), "a root directory past the end");
    }

    /// Returns a volume that a foreign tool made; `None` if the tool is not there and need not be.
    fn made(program: &str, arguments: &[&str], size: u64) -> Option<MemoryDisk> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("image");
        if size != 0 {
            std::fs::File::create(&path).expect("made").set_len(size).expect("sized");
        }
        let path_text = path.to_str().expect("text");
        let arguments: Vec<&str> =
            arguments.iter().map(|word| if *word == "IMAGE" { path_text } else { *word }).collect();
        match Command::new(program).args(arguments).output() {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => {
                assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "{program}: {error}");
                println!("skipped: {program} is not installed");
                return None;
            }
        }
        Some(MemoryDisk::new(std::fs::read(path).expect("read")))
    }

    #[test]
    fn reads_what_mkfs_vfat_and_genisoimage_write() {
        for (bits, mebibytes) in [("12", 2), ("16", 16), ("32", 64)] {
            let arguments = ["-F", bits, "-n", "CIDATA", "IMAGE"];
            let Some(disk) = made("/usr/sbin/mkfs.vfat", &arguments, mebibytes << 20) else { continue };
            assert_eq!(label(&disk).as_deref(), Some("vfat CIDATA"), "FAT{bits}");
            // Without the field, what remains is the directory's entry.
            let field = if bits == "32" { 71 } else { 43 };
            disk.bytes.borrow_mut()[field..field + 11].copy_from_slice(b"NO NAME    ");
            assert_eq!(label(&disk).as_deref(), Some("vfat CIDATA"), "FAT{bits}");
        }
        if let Some(disk) = made("genisoimage", &["-quiet", "-V", "cidata", "-J", "-r", "-o", "IMAGE", "/dev/null"], 0)
        {
            assert_eq!(label(&disk).as_deref(), Some("iso9660 cidata"));
        }
    }
}
