//! GUID partition tables (UEFI specification 2.10, section 5.3): reading.
//!
//! Layout: a protective MBR in sector 0, the primary header in sector 1 with its entry array behind it, the backup
//! header in the last sector with its array before it. Limits: 1024 entries, entry arrays of 1 MiB.

use std::fmt;

use crate::sys::{self, Disk};

use super::{little, put_little};

/// Smallest header (UEFI 2.10, table 5-5).
pub(super) const HEADER_SIZE: usize = 92;
/// Most entries that are read.
const ENTRY_COUNT_LIMIT: u64 = 1024;
/// Largest entry that is read, in bytes.
const ENTRY_SIZE_LIMIT: u64 = 1024;

/// A GUID in its on-disk byte order (first three fields little-endian).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// Reads the text form, upper or lower case.
    pub fn parse(text: &str) -> Option<Self> {
        let groups: Vec<&str> = text.trim().split('-').collect();
        if groups.iter().map(|group| group.len()).ne([8, 4, 4, 4, 12]) {
            return None;
        }
        let digits = groups.concat();
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 16];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        Some(Guid(bytes))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Guid([a, b, c, d, e, g, h, i, rest @ ..]) = self;
        write!(f, "{d:02X}{c:02X}{b:02X}{a:02X}-{g:02X}{e:02X}-{i:02X}{h:02X}-")?;
        for (index, byte) in rest.iter().enumerate() {
            write!(f, "{}{byte:02X}", if index == 2 { "-" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

/// Why a disk has no usable table.
#[derive(Debug, thiserror::Error)]
pub enum GptError {
    /// The disk cannot be read.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// Neither copy is valid.
    #[error("no valid partition table: primary: {primary}; backup: {backup}")]
    Invalid {
        /// What is wrong with the primary copy.
        primary: Fault,
        /// What is wrong with the backup copy.
        backup: Fault,
    },
}

/// What is wrong with one copy of a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No `EFI PART` there.
    #[error("no signature")]
    NoSignature,
    /// The sectors are not on the disk or cannot be read.
    #[error("sectors cannot be read")]
    Unreadable,
    /// The header's checksum does not match.
    #[error("wrong header checksum")]
    HeaderChecksum,
    /// The entry array's checksum does not match.
    #[error("wrong entry checksum")]
    EntryChecksum,
    /// A field has a value that the specification or this module excludes.
    #[error("{0}")]
    Field(&'static str),
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Number, from 1.
    pub number: u32,
    /// Partition type GUID.
    pub kind: Guid,
    /// Unique partition GUID.
    pub guid: Guid,
    /// First sector.
    pub first: u64,
    /// Last sector, inclusive.
    pub last: u64,
    /// Attribute bits.
    pub attributes: u64,
    /// Name.
    pub name: String,
}

/// One valid copy of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The header, `HeaderSize` bytes.
    pub(super) header: Vec<u8>,
    /// The entry array.
    pub(super) entries: Vec<u8>,
    /// Sector of the header.
    pub(super) lba: u64,
}

/// A disk's partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The copy that is used: the primary one if it is valid.
    pub(super) used: Copy,
    /// Whether `used` is the primary copy.
    pub(super) from_primary: bool,
    /// The backup copy at the end of the disk, if there is a valid one.
    pub(super) at_end: Option<Copy>,
    /// Sector size in bytes.
    pub(super) sector: u64,
    /// Sectors on the disk.
    pub(super) sectors: u64,
    /// The partitions, by number.
    pub partitions: Vec<Partition>,
}

impl Copy {
    pub(super) fn first_usable(&self) -> u64 {
        little::<8>(&self.header, 40)
    }

    pub(super) fn last_usable(&self) -> u64 {
        little::<8>(&self.header, 48)
    }

    pub(super) fn entries_lba(&self) -> u64 {
        little::<8>(&self.header, 72)
    }

    pub(super) fn alternate(&self) -> u64 {
        little::<8>(&self.header, 32)
    }

    pub(super) fn entry_size(&self) -> usize {
        little::<4>(&self.header, 84) as usize
    }
}

/// Returns the checksum of a header, its checksum field taken as zero.
pub(super) fn header_checksum(header: &[u8]) -> u32 {
    let mut header = header.to_vec();
    put_little::<4>(&mut header, 16, 0);
    crc32fast::hash(&header)
}

impl Table {
    /// Reads the table of a disk; the primary copy if it is valid, else the backup copy in the last sector.
    pub fn read(disk: &dyn Disk) -> Result<Self, GptError> {
        let sector = disk.sector_size();
        let sectors = disk.size() / sector;
        let primary = read_copy(disk, 1);
        let at_end = read_copy(disk, sectors.saturating_sub(1));
        match (primary, at_end) {
            (Ok((used, partitions)), at_end) => {
                let at_end = at_end.ok().map(|(copy, _)| copy);
                Ok(Table { used, from_primary: true, at_end, sector, sectors, partitions })
            }
            (Err(_), Ok((used, partitions))) => {
                Ok(Table { at_end: Some(used.clone()), used, from_primary: false, sector, sectors, partitions })
            }
            (Err(primary), Err(backup)) => Err(GptError::Invalid { primary, backup }),
        }
    }

    /// Returns the first partition of this name.
    pub fn by_name(&self, name: &str) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.name == name)
    }

    /// Returns the partition with this unique GUID.
    pub fn by_guid(&self, guid: Guid) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.guid == guid)
    }

    /// Returns whether the kernel, which reads the primary copy only, has seen this table by itself.
    pub fn is_from_primary(&self) -> bool {
        self.from_primary
    }

    /// Returns start and length of a partition in bytes.
    pub fn extent(&self, partition: &Partition) -> (u64, u64) {
        (partition.first * self.sector, (partition.last - partition.first + 1) * self.sector)
    }
}

/// Reads and checks the copy whose header is in sector `lba`.
fn read_copy(disk: &dyn Disk, lba: u64) -> Result<(Copy, Vec<Partition>), Fault> {
    let sector = disk.sector_size();
    let sectors = disk.size() / sector;
    if lba == 0 || lba >= sectors {
        return Err(Fault::Unreadable);
    }
    let mut header = vec![0; sector as usize];
    disk.read_at(lba * sector, &mut header).map_err(|_| Fault::Unreadable)?;
    if !header.starts_with(b"EFI PART") {
        return Err(Fault::NoSignature);
    }
    let size = little::<4>(&header, 12) as usize;
    if size < HEADER_SIZE || size > header.len() {
        return Err(Fault::Field("impossible header size"));
    }
    header.truncate(size);
    if u64::from(header_checksum(&header)) != little::<4>(&header, 16) {
        return Err(Fault::HeaderChecksum);
    }
    if little::<8>(&header, 24) != lba {
        return Err(Fault::Field("the header names another sector as its own"));
    }
    let entries = read_entries(disk, &header, sectors)?;
    let copy = Copy { header, entries, lba };
    let partitions = partitions(&copy, sectors)?;
    Ok((copy, partitions))
}

fn read_entries(disk: &dyn Disk, header: &[u8], sectors: u64) -> Result<Vec<u8>, Fault> {
    let (lba, count, size) = (little::<8>(header, 72), little::<4>(header, 80), little::<4>(header, 84));
    // "SizeOfPartitionEntry: must be set to a value of 128 x 2^n" (table 5-5).
    if !(128..=ENTRY_SIZE_LIMIT).contains(&size) || !size.is_power_of_two() {
        return Err(Fault::Field("impossible entry size"));
    }
    if count == 0 || count > ENTRY_COUNT_LIMIT {
        return Err(Fault::Field("impossible number of entries"));
    }
    let end = lba.checked_add((count * size).div_ceil(disk.sector_size()));
    if lba < 2 || end.is_none_or(|end| end > sectors) {
        return Err(Fault::Field("the entry array is not on the disk"));
    }
    let mut entries = vec![0; (count * size) as usize];
    disk.read_at(lba * disk.sector_size(), &mut entries).map_err(|_| Fault::Unreadable)?;
    if u64::from(crc32fast::hash(&entries)) != little::<4>(header, 88) {
        return Err(Fault::EntryChecksum);
    }
    Ok(entries)
}

fn partitions(copy: &Copy, sectors: u64) -> Result<Vec<Partition>, Fault> {
    let mut found = Vec::new();
    for (index, entry) in copy.entries.chunks_exact(copy.entry_size()).enumerate() {
        let guid = |offset: usize| entry.get(offset..offset + 16).and_then(|bytes| bytes.try_into().ok()).map(Guid);
        let (Some(kind), Some(unique)) = (guid(0), guid(16)) else { continue };
        if kind.0 == [0; 16] {
            continue;
        }
        let (first, last) = (little::<8>(entry, 32), little::<8>(entry, 40));
        if first < copy.first_usable() || last < first || last > copy.last_usable() || last >= sectors {
            return Err(Fault::Field("a partition is outside the usable sectors"));
        }
        let name = entry.get(56..128).unwrap_or(&[]);
        found.push(Partition {
            number: index as u32 + 1,
            kind,
            guid: unique,
            first,
            last,
            attributes: little::<8>(entry, 48),
            name: utf16(name),
        });
    }
    let mut order: Vec<(u64, u64)> = found.iter().map(|partition| (partition.first, partition.last)).collect();
    order.sort_unstable();
    if order.windows(2).any(|pair| matches!(pair, [(_, last), (first, _)] if first <= last)) {
        return Err(Fault::Field("two partitions overlap"));
    }
    Ok(found)
}

fn utf16(bytes: &[u8]) -> String {
    let units = bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)).take_while(|unit| *unit != 0);
    char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sys::double::MemoryDisk;

    const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
    pub(crate) const MIB: u64 = 1 << 20;

    /// Returns a disk of `mebibytes` with the four partitions of the default layout, scaled down; `seed` makes GUIDs.
    pub(crate) fn image(mebibytes: u64, seed: u8) -> MemoryDisk {
        let parts = [("KSOSEFI", 1, 1), ("KSOSSYSA", 2, 1), ("KSOSSYSB", 3, 1), ("KSOLODATA", 4, mebibytes - 5)];
        let sectors = mebibytes * 2048;
        let mut entries = vec![0; 128 * 128];
        for (index, (name, start, length)) in parts.into_iter().enumerate() {
            let entry = &mut entries[index * 128..(index + 1) * 128];
            entry[..16].copy_from_slice(&Guid::parse(ESP).expect("a GUID").0);
            entry[16..32].copy_from_slice(&[seed + index as u8; 16]);
            put_little::<8>(entry, 32, start * 2048);
            put_little::<8>(entry, 40, (start + length) * 2048 - 1);
            for (unit, character) in name.encode_utf16().enumerate() {
                put_little::<2>(entry, 56 + 2 * unit, u64::from(character));
            }
        }
        let disk = MemoryDisk::new(vec![0; (mebibytes * MIB) as usize]);
        for (lba, alternate, array) in [(1, sectors - 1, 2), (sectors - 1, 1, sectors - 33)] {
            let mut header = vec![0; HEADER_SIZE];
            header[..8].copy_from_slice(b"EFI PART");
            for (offset, value) in [(8, 0x1_0000), (12, 92), (80, 128), (84, 128), (88, crc32fast::hash(&entries))] {
                put_little::<4>(&mut header, offset, u64::from(value));
            }
            for (offset, value) in [(24, lba), (32, alternate), (40, 34), (48, sectors - 34), (72, array)] {
                put_little::<8>(&mut header, offset, value);
            }
            let checksum = header_checksum(&header);
            put_little::<4>(&mut header, 16, u64::from(checksum));
            disk.write_at(lba * 512, &header).expect("written");
            disk.write_at(array * 512, &entries).expect("written");
        }
        let mut mbr = [0; 512];
        (mbr[450], mbr[454], mbr[510], mbr[511]) = (0xee, 1, 0x55, 0xaa);
        put_little::<4>(&mut mbr, 458, sectors - 1);
        disk.write_at(0, &mbr).expect("written");
        disk
    }

    /// Changes header bytes of the primary copy and makes the checksum right again.
    fn forge(disk: &MemoryDisk, change: impl Fn(&mut [u8])) {
        let mut header = vec![0; 92];
        disk.read_at(512, &mut header).expect("read");
        change(&mut header);
        let checksum = header_checksum(&header);
        put_little::<4>(&mut header, 16, u64::from(checksum));
        disk.write_at(512, &header).expect("written");
    }

    fn faults(disk: &MemoryDisk) -> (Fault, Fault) {
        match Table::read(disk).expect_err("no valid copy") {
            GptError::Invalid { primary, backup } => (primary, backup),
            GptError::Sys(error) => panic!("{error}"),
        }
    }

    #[test]
    fn guids_have_the_usual_text_form() {
        let guid = Guid::parse(ESP).expect("a GUID");
        assert_eq!(guid.0[..4], [0x28, 0x73, 0x2a, 0xc1]);
        assert_eq!(guid.to_string(), ESP);
        assert_eq!(Guid::parse(&ESP.to_lowercase()), Some(guid));
        for bad in [
            "",
            "C12A7328",
            "C12A7328-F81F-11D2-BA4B-00A0C93EC93",
            "G12A7328-F81F-11D2-BA4B-00A0C93EC93B",
            "é12A732-F81F-11D2-BA4B-00A0C93EC93B",
        ] {
            assert_eq!(Guid::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn reads_names_extents_and_guids() {
        let table = Table::read(&image(8, 1)).expect("valid");
        let names: Vec<&str> = table.partitions.iter().map(|partition| partition.name.as_str()).collect();
        assert_eq!(names, ["KSOSEFI", "KSOSSYSA", "KSOSSYSB", "KSOLODATA"]);
        let data = table.by_name("KSOLODATA").expect("there");
        assert_eq!((data.number, table.extent(data)), (4, (4 * MIB, 3 * MIB)));
        assert_eq!(table.by_guid(Guid([2; 16])).map(|partition| partition.number), Some(2));
        assert!(table.is_from_primary());
    }

    #[test]
    fn backup_is_used_when_the_primary_is_damaged() {
        let disk = image(8, 1);
        disk.bytes.borrow_mut()[512..1024].fill(0xff);
        let table = Table::read(&disk).expect("the backup is valid");
        assert!(!table.is_from_primary());
        assert_eq!(table.partitions.len(), 4);
    }

    #[test]
    fn hostile_tables_are_refused_by_name_of_the_fault() {
        type Change = fn(&mut [u8]);
        let cases: [(&str, Change); 9] = [
            ("impossible header size", |h| put_little::<4>(h, 12, 4096)),
            ("impossible header size", |h| put_little::<4>(h, 12, 8)),
            ("the header names another sector as its own", |h| put_little::<8>(h, 24, 7)),
            ("impossible entry size", |h| put_little::<4>(h, 84, 0)),
            ("impossible entry size", |h| put_little::<4>(h, 84, u64::from(u32::MAX))),
            ("impossible number of entries", |h| put_little::<4>(h, 80, u64::from(u32::MAX))),
            ("the entry array is not on the disk", |h| put_little::<8>(h, 72, u64::MAX)),
            ("wrong entry checksum", |h| put_little::<8>(h, 72, 3)),
            ("a partition is outside the usable sectors", |h| put_little::<8>(h, 48, 4096)),
        ];
        for (expected, change) in cases {
            let disk = image(8, 1);
            let end = disk.bytes.borrow().len();
            disk.bytes.borrow_mut()[end - 512..].fill(0);
            forge(&disk, change);
            let (primary, backup) = faults(&disk);
            assert_eq!((primary.to_string().as_str(), backup), (expected, Fault::NoSignature));
        }
    }

    #[test]
    fn overlapping_partitions_and_tiny_disks_are_refused() {
        let disk = image(8, 1);
        let end = disk.bytes.borrow().len();
        disk.bytes.borrow_mut()[end - 512..].fill(0);
        put_little::<8>(&mut disk.bytes.borrow_mut()[1024..], 32 + 128, 2048);
        let entries = crc32fast::hash(&disk.bytes.borrow()[1024..1024 + 128 * 128]);
        forge(&disk, |header| put_little::<4>(header, 88, u64::from(entries)));
        assert_eq!(faults(&disk).0, Fault::Field("two partitions overlap"));
        assert_eq!(faults(&MemoryDisk::new(Vec::new())), (Fault::Unreadable, Fault::Unreadable));
        assert_eq!(faults(&MemoryDisk::new(vec![0; 1024])), (Fault::NoSignature, Fault::NoSignature));
    }
}
