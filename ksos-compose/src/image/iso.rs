//! ISO 9660 images as far as it takes to say what they are (ECMA-119; El Torito 1.0; IEEE P1282, Rock Ridge): the volume,
//! what boots from it, and its files.
//!
//! Every position and length is checked against the size of the image before it is used. Names are those of Rock Ridge
//! where a directory has them, otherwise those of ISO 9660 in lower case without version. Limits: files in one extent,
//! nesting up to 16, 65,536 entries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::Serialize;

use super::Part;

/// Size of a sector in bytes.
const SECTOR: u64 = 2048;
/// Where the volume descriptors begin.
const DESCRIPTORS: u64 = 16;
/// The most descriptors that are read.
const MOST_DESCRIPTORS: u64 = 64;
/// The most bytes of a directory.
const DIRECTORY_LIMIT: u64 = 8 << 20;
/// The most entries of an image.
const MOST_ENTRIES: usize = 65_536;
/// The deepest nesting of directories.
const DEPTH: usize = 16;

/// What boots from the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootEntry {
    /// `BIOS`, `UEFI`, or the number of the platform.
    pub platform: String,
    /// First byte of the boot image.
    pub offset: u64,
    /// Sectors of 512 bytes that are loaded; of UEFI often 0 or 1, whatever the size is.
    pub sectors: u16,
}

/// A file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsoFile {
    /// First byte.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iso {
    /// Name of the volume.
    pub volume: String,
    /// Size of the volume in bytes.
    pub size: u64,
    /// What boots from it.
    pub boot: Vec<BootEntry>,
    /// Its files by path.
    pub files: BTreeMap<String, IsoFile>,
}

impl Iso {
    /// Whether `file` begins as an ISO 9660 image does.
    pub fn is_in(file: &File) -> bool {
        let mut descriptor = [0; 7];
        file.read_exact_at(&mut descriptor, DESCRIPTORS * SECTOR).is_ok() && descriptor[1..6] == *b"CD001"
    }

    /// Names what boots from it, for people.
    pub fn platforms(&self) -> String {
        let names: Vec<&str> = self.boot.iter().map(|entry| entry.platform.as_str()).collect();
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    }

    /// Reads the image in `file` of `size` bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(file: &File, size: u64) -> Result<Self, String> {
        let reader = Reader { part: Part::new(file, 0, size) };
        let (mut primary, mut catalog) = (None, None);
        for number in 0..MOST_DESCRIPTORS {
            let descriptor = reader.sector(DESCRIPTORS + number)?;
            if descriptor[1..6] != *b"CD001" {
                return Err(format!("sector {} is no volume descriptor", DESCRIPTORS + number));
            }
            match descriptor[0] {
                // "Boot record", "Primary volume descriptor", "Volume descriptor set terminator" (ECMA-119, section 8).
                0 if descriptor[7..].starts_with(b"EL TORITO SPECIFICATION") => catalog = Some(word(&descriptor, 71)),
                1 if primary.is_none() => primary = Some(descriptor),
                255 => break,
                _ => {}
            }
        }
        let primary = primary.ok_or("it has no primary volume descriptor")?;
        let boot = catalog.map_or(Ok(Vec::new()), |sector| boot_entries(&reader.sector(u64::from(sector))?))?;
        let mut files = BTreeMap::new();
        let root = Record::parse(&primary[156..190]).ok_or("it has no root directory")?;
        let mut walk = Walk { reader: &reader, files: &mut files, seen: BTreeSet::new(), entries: 0 };
        walk.directory("", &root, 0)?;
        let volume = String::from_utf8_lossy(&primary[40..72]).trim_end().to_owned();
        Ok(Iso { volume, size: u64::from(word(&primary, 80)) * SECTOR, boot, files })
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

struct Reader<'a> {
    part: Part<'a>,
}

impl Reader<'_> {
    fn sector(&self, number: u64) -> Result<Vec<u8>, String> {
        self.bytes(number * SECTOR, SECTOR)
    }

    fn bytes(&self, offset: u64, size: u64) -> Result<Vec<u8>, String> {
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.part.size());
        if !inside {
            return Err(format!("{size} bytes at {offset} are behind its end"));
        }
        let mut bytes = vec![0; size as usize];
        let read = self.part.read_exact_at(&mut bytes, offset);
        read.map_err(|error: io::Error| error.to_string())?;
        Ok(bytes)
    }
}

/// Reads a boot catalog (El Torito, section 2): a validation entry, an initial entry, then sections.
fn boot_entries(catalog: &[u8]) -> Result<Vec<BootEntry>, String> {
    // "Header ID, must be 01", "Key byte, must be 55/AA".
    if catalog[0] != 1 || catalog[30..32] != [0x55, 0xaa] {
        return Err("the boot catalog has no validation entry".to_owned());
    }
    let (mut entries, mut platform) = (Vec::new(), catalog[1]);
    for entry in catalog[32..].chunks_exact(32) {
        match entry[0] {
            0x90 | 0x91 => platform = entry[1],
            // "88 = Bootable".
            0x88 => entries.push(BootEntry {
                platform: match platform {
                    0 => "BIOS".to_owned(),
                    0xef => "UEFI".to_owned(),
                    other => format!("platform {other}"),
                },
                offset: u64::from(word(entry, 8)) * SECTOR,
                sectors: u16::from_le_bytes([entry[6], entry[7]]),
            }),
            _ => {}
        }
    }
    Ok(entries)
}

/// A directory record (ECMA-119, section 9.1).
struct Record {
    offset: u64,
    size: u64,
    is_directory: bool,
    name: String,
}

impl Record {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let length = usize::from(*bytes.first()?);
        let record = bytes.get(..length).filter(|_| length >= 34)?;
        let name_length = usize::from(record[32]);
        let name = record.get(33..33 + name_length)?;
        // "System use", behind the name and a byte that pads it.
        let system_use = record.get(33 + name_length + usize::from(name_length % 2 == 0)..).unwrap_or_default();
        Some(Record {
            offset: u64::from(word(record, 2)) * SECTOR,
            size: u64::from(word(record, 10)),
            is_directory: record[25] & 2 != 0,
            name: rock_ridge_name(system_use).unwrap_or_else(|| plain_name(name)),
        })
    }
}

fn plain_name(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name).to_lowercase();
    text.split(';').next().unwrap_or_default().trim_end_matches('.').to_owned()
}

/// Returns what `NM` entries say (IEEE P1282, section 4.1.4).
fn rock_ridge_name(mut system_use: &[u8]) -> Option<String> {
    let mut name: Option<String> = None;
    while let [first, second, length, ..] = *system_use {
        let entry = system_use.get(..usize::from(length)).filter(|entry| entry.len() >= 4)?;
        // Flags 2 and 4 are the directory itself and its parent.
        if (first, second) == (b'N', b'M') && entry.len() > 5 && entry[4] & 6 == 0 {
            name.get_or_insert_default().push_str(&String::from_utf8_lossy(&entry[5..]));
        }
        system_use = &system_use[usize::from(length)..];
    }
    name
}

struct Walk<'a> {
    reader: &'a Reader<'a>,
    files: &'a mut BTreeMap<String, IsoFile>,
    /// Directories that were read: one that is reached twice is a loop.
    seen: BTreeSet<u64>,
    entries: usize,
}

impl Walk<'_> {
    fn directory(&mut self, path: &str, directory: &Record, depth: usize) -> Result<(), String> {
        if depth > DEPTH || directory.size > DIRECTORY_LIMIT || !self.seen.insert(directory.offset) {
            return Err(format!("directory /{path} is in two places, too deep or too large"));
        }
        let bytes = self.reader.bytes(directory.offset, directory.size)?;
        for sector in bytes.chunks(SECTOR as usize) {
            let mut rest = sector;
            // "Each directory record shall end in the logical sector in which it begins" (section 6.8.1.1).
            while rest.first().is_some_and(|length| *length != 0) {
                let record = Record::parse(rest).ok_or_else(|| format!("directory /{path} has a damaged record"))?;
                rest = &rest[usize::from(rest[0])..];
                self.entry(path, &record, depth)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, record: &Record, depth: usize) -> Result<(), String> {
        self.entries += 1;
        if self.entries > MOST_ENTRIES {
            return Err(format!("it has more than {MOST_ENTRIES} entries"));
        }
        // A directory itself, and its parent.
        if matches!(record.name.as_str(), "" | "\0" | "\u{1}") {
            return Ok(());
        }
        if record.name.contains(['/', '\0']) {
            return Err(format!("directory /{path} has a name with a slash"));
        }
        let child = if path.is_empty() { record.name.clone() } else { format!("{path}/{}", record.name) };
        if record.is_directory {
            return self.directory(&child, record, depth + 1);
        }
        self.files.insert(child, IsoFile { offset: record.offset, size: record.size });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a foreign tool makes the image")]

    use std::process::Command;

    use super::*;
    use crate::artifact::squashfs::testing::has_tool;

    fn made(directory: &std::path::Path) -> std::path::PathBuf {
        let root = directory.join("root");
        std::fs::create_dir_all(root.join("boot/deep")).unwrap();
        std::fs::write(root.join("boot/deep/Root.squashfs"), vec![7; 5000]).unwrap();
        std::fs::write(root.join("boot/core.img"), vec![1; 2048]).unwrap();
        std::fs::write(root.join("boot/efi.img"), vec![2; 4096]).unwrap();
        let iso = directory.join("x.iso");
        let output = Command::new("xorriso")
            .args(["-as", "mkisofs", "-R", "-V", "KSOSTEST", "-b", "boot/core.img", "-no-emul-boot"])
            .args(["-boot-load-size", "4", "-eltorito-alt-boot", "-e", "boot/efi.img", "-no-emul-boot", "-o"])
            .arg(&iso)
            .arg(&root)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        iso
    }

    #[test]
    fn volume_boot_entries_and_files_are_what_xorriso_wrote() {
        if !has_tool("xorriso") {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = made(directory.path());
        let file = File::open(&path).unwrap();
        let size = file.metadata().unwrap().len();
        assert!(Iso::is_in(&file));
        let iso = Iso::read(&file, size).unwrap();
        assert_eq!(iso.volume, "KSOSTEST");
        let platforms: Vec<&str> = iso.boot.iter().map(|entry| entry.platform.as_str()).collect();
        assert_eq!(platforms, ["BIOS", "UEFI"]);
        let found = iso.files["boot/deep/Root.squashfs"];
        let mut bytes = vec![0; found.size as usize];
        file.read_exact_at(&mut bytes, found.offset).unwrap();
        assert!(bytes == vec![7; 5000], "{found:?}");
        assert_eq!(iso.boot[1].offset, iso.files["boot/efi.img"].offset);
        // Cut off anywhere: an error, and no panic.
        for end in (0..size).step_by(2048) {
            let _ = Iso::read(&file, end);
        }
        assert!(Iso::read(&file, 17 * 2048).is_err());
    }

    #[test]
    fn changed_bytes_never_panic() {
        if !has_tool("xorriso") {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let bytes = std::fs::read(made(directory.path())).unwrap();
        let path = directory.path().join("changed.iso");
        for place in (16 * 2048..40 * 2048).step_by(7) {
            let mut changed = bytes.clone();
            changed[place] ^= 0xff;
            std::fs::write(&path, &changed).unwrap();
            let _ = Iso::read(&File::open(&path).unwrap(), changed.len() as u64);
        }
    }
}
