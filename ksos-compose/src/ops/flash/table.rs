//! Fits the GUID partition table of an image to a larger disk (UEFI 2.10, section 5.3): the backup goes to the disk's
//! end, and the usable space reaches up to it. Pure: from the image's first bytes to what is written instead.
//!
//! An image without a sound table, or a CD image (whose own structures may cover the table), stays as it is.

const SECTOR: u64 = 512;
/// Largest entry array that is moved, in bytes.
const ENTRIES_LIMIT: u64 = 512 << 10;

/// Bytes for the end of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Where, in bytes.
    pub offset: u64,
    /// The entry array and the header.
    pub bytes: Vec<u8>,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Sets the checksum of a header.
fn seal(header: &mut [u8]) {
    header[16..20].fill(0);
    let checksum = crc32fast::hash(header);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
}

fn is_sealed(header: &[u8]) -> bool {
    let mut copy = header.to_vec();
    seal(&mut copy);
    copy == header
}

/// Changes `head`, the first bytes of an image, so that its table fits a disk of `disk` bytes, and returns the backup.
/// Returns `None` and changes nothing when there is nothing to fit.
pub fn fit(head: &mut [u8], disk: u64) -> Option<Backup> {
    let sector = SECTOR as usize;
    let header_size = head.get(..2 * sector).filter(|head| head[sector..].starts_with(b"EFI PART"))?;
    let header_size = word(&header_size[sector..], 12) as usize;
    // ISO 9660, 8.1: the first volume descriptor is in sector 16 of 2048 bytes.
    let is_cd = head.get(0x8001..0x8006) == Some(b"CD001");
    if is_cd || !(92..=sector).contains(&header_size) {
        return None;
    }
    let mut header = head[sector..sector + header_size].to_vec();
    let (entries_at, count, entry_size) = (long(&header, 72), word(&header, 80), word(&header, 84));
    let entries_size = u64::from(count) * u64::from(entry_size);
    let sectors = disk / SECTOR;
    let entry_sectors = entries_size.div_ceil(SECTOR);
    if !is_sealed(&header) || long(&header, 24) != 1 || entries_size > ENTRIES_LIMIT || entries_at > 1 << 20 {
        return None;
    }
    let start = (entries_at * SECTOR) as usize;
    let entries = head.get(start..start + entries_size as usize)?.to_vec();
    let (alternate, last_usable) = (sectors.checked_sub(1)?, sectors.checked_sub(entry_sectors + 2)?);
    // Never less than the image says: its partitions may need it.
    if crc32fast::hash(&entries) != word(&header, 88) || last_usable <= long(&header, 48) {
        return None;
    }
    put(&mut header, 32, alternate);
    put(&mut header, 48, last_usable);
    seal(&mut header);
    head[sector..sector + header_size].copy_from_slice(&header);
    protect(head, sectors);
    let mut bytes = entries;
    bytes.resize((entry_sectors * SECTOR) as usize, 0);
    // "My LBA", "alternate LBA" and "partition entry LBA" (table 5.5) of the backup.
    for (at, value) in [(24, alternate), (32, 1), (72, alternate - entry_sectors)] {
        put(&mut header, at, value);
    }
    seal(&mut header);
    header.resize(sector, 0);
    bytes.extend(header);
    Some(Backup { offset: (alternate - entry_sectors) * SECTOR, bytes })
}

/// Lets the protective MBR cover the disk: "set to the size of the disk minus one" (UEFI 2.10, table 5.4).
fn protect(head: &mut [u8], sectors: u64) {
    for record in [446, 462, 478, 494] {
        if head[record + 4] == 0xee && word(head, record + 8) == 1 {
            let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
            head[record + 12..record + 16].copy_from_slice(&size.to_le_bytes());
        }
    }
}
