//! Extended attributes (kernel documentation, "Extended Attributes"): in the inode as far as they fit, the others in
//! one block of their own.

use std::collections::BTreeMap;

use super::Error;
use super::bytes::put;
use super::crc32c::crc32c;
use super::geometry::BLOCK;
use super::inode::ATTRIBUTE_ROOM;

const MAGIC: u32 = 0xEA02_0000;
const HEADER: usize = 32;
const ENTRY: usize = 16;
/// Four zero bytes end a list of entries.
const END: usize = 4;

/// Names that are stored as a number and the rest after the prefix; the whole-name ones before their prefix.
const PREFIXES: [(&str, u8); 6] = [
    ("system.posix_acl_access", 2),
    ("system.posix_acl_default", 3),
    ("user.", 1),
    ("trusted.", 4),
    ("security.", 6),
    ("system.", 7),
];

#[derive(Debug)]
struct Attribute<'a> {
    prefix: u8,
    suffix: &'a [u8],
    value: Vec<u8>,
}

/// The extended attributes of one inode, laid out.
#[derive(Debug)]
pub(super) struct Attributes {
    /// What follows the fields of the inode.
    pub(super) in_inode: [u8; ATTRIBUTE_ROOM],
    /// The block, without its checksum; `None` when all are in the inode.
    pub(super) block: Option<Box<[u8; BLOCK]>>,
}

impl Attributes {
    /// Lays out `attributes`, full name to value, of the entry at `path`.
    ///
    /// # Errors
    /// When a name is not of a kind that ext4 stores, a value is not valid, or they do not fit.
    pub(super) fn new(path: &str, attributes: &BTreeMap<String, Vec<u8>>) -> Result<Self, Error> {
        let mut in_inode = Area::new(ATTRIBUTE_ROOM - 4, 0);
        let mut in_block = Area::new(BLOCK, HEADER);
        let mut hash = 0;
        for attribute in parse(path, attributes)? {
            if in_inode.put(&attribute).is_some() {
                continue;
            }
            let Some(entry_hash) = in_block.put(&attribute) else {
                return Err(Error::AttributesTooLarge { path: path.to_owned(), limit: BLOCK - HEADER - END });
            };
            hash = u32::rotate_left(hash, 16) ^ entry_hash;
        }
        let mut inode = [0; ATTRIBUTE_ROOM];
        if !in_inode.is_empty() {
            put(&mut inode, 0, MAGIC.to_le_bytes());
            inode[4..].copy_from_slice(&in_inode.bytes);
        }
        let block = (!in_block.is_empty()).then(|| {
            let mut block = Box::new([0; BLOCK]);
            block.copy_from_slice(&in_block.bytes);
            put(&mut *block, 0, MAGIC.to_le_bytes());
            put(&mut *block, 4, 1u32.to_le_bytes());
            put(&mut *block, 8, 1u32.to_le_bytes());
            put(&mut *block, 12, hash.to_le_bytes());
            block
        });
        Ok(Attributes { in_inode: inode, block })
    }
}

/// Writes the checksum of attribute block `number` into it; `seed` is that of the file system.
pub(super) fn put_checksum(block: &mut [u8; BLOCK], number: u64, seed: u32) {
    let checksum = crc32c(crc32c(seed, &number.to_le_bytes()), &block[..]);
    put(block, 16, checksum.to_le_bytes());
}

/// Splits the names and sorts as the kernel wants a block sorted: by prefix, then length, then bytes.
fn parse<'a>(path: &str, attributes: &'a BTreeMap<String, Vec<u8>>) -> Result<Vec<Attribute<'a>>, Error> {
    let mut parsed = Vec::with_capacity(attributes.len());
    for (name, value) in attributes {
        let fail = |reason| Error::Attribute { path: path.to_owned(), name: name.clone(), reason };
        let (start, prefix) = PREFIXES
            .into_iter()
            .find(|(start, _)| if start.ends_with('.') { name.starts_with(start) } else { name == start })
            .ok_or_else(|| fail("ext4 stores user., trusted., security. and system. attributes only"))?;
        let suffix = &name.as_bytes()[start.len()..];
        let is_list = matches!(prefix, 2 | 3);
        if suffix.len() > 255 || suffix.contains(&0) || (suffix.is_empty() && !is_list) {
            return Err(fail("the name is empty after its prefix, longer than 255 bytes, or holds a NUL byte"));
        }
        let value = if is_list {
            access_list(value).ok_or_else(|| fail("the value is not an access control list (version 2)"))?
        } else {
            value.clone()
        };
        parsed.push(Attribute { prefix, suffix, value });
    }
    parsed.sort_by(|a, b| (a.prefix, a.suffix.len(), a.suffix).cmp(&(b.prefix, b.suffix.len(), b.suffix)));
    Ok(parsed)
}

/// Turns an access control list from the form of the system calls (acl(5): version 2, eight bytes an entry) into that
/// of the disk: version 1, with an id only in the entries for named users and groups.
fn access_list(value: &[u8]) -> Option<Vec<u8>> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    let (version, rest) = value.split_first_chunk::<4>()?;
    let (entries, odd) = rest.as_chunks::<8>();
    if *version != 2u32.to_le_bytes() || !odd.is_empty() {
        return None;
    }
    let mut stored = 1u32.to_le_bytes().to_vec();
    for entry in entries {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        match tag {
            USER | GROUP => stored.extend_from_slice(entry),
            0x01 | 0x04 | 0x10 | 0x20 => stored.extend_from_slice(&entry[..4]),
            _ => return None,
        }
    }
    Some(stored)
}

/// Entries growing from the front and values growing from the back of some bytes; value offsets count from their start.
struct Area {
    bytes: Vec<u8>,
    front: usize,
    back: usize,
    start: usize,
}

impl Area {
    fn new(size: usize, start: usize) -> Self {
        Area { bytes: vec![0; size], front: start, back: size, start }
    }

    fn is_empty(&self) -> bool {
        self.front == self.start
    }

    /// Adds an attribute and returns its hash, or `None` when there is no room.
    fn put(&mut self, attribute: &Attribute<'_>) -> Option<u32> {
        let entry = (ENTRY + attribute.suffix.len()).next_multiple_of(4);
        let back = self.back.checked_sub(attribute.value.len().next_multiple_of(4))?;
        if self.front + entry + END > back {
            return None;
        }
        let hash = hash(attribute);
        let offset = if attribute.value.is_empty() { 0 } else { back };
        self.bytes[self.front] = attribute.suffix.len() as u8;
        self.bytes[self.front + 1] = attribute.prefix;
        put(&mut self.bytes, self.front + 2, (offset as u16).to_le_bytes());
        put(&mut self.bytes, self.front + 8, (attribute.value.len() as u32).to_le_bytes());
        put(&mut self.bytes, self.front + 12, hash.to_le_bytes());
        let name = self.front + ENTRY;
        self.bytes[name..name + attribute.suffix.len()].copy_from_slice(attribute.suffix);
        self.bytes[back..back + attribute.value.len()].copy_from_slice(&attribute.value);
        self.front += entry;
        self.back = back;
        Some(hash)
    }
}

/// Returns the hash of an entry: name bytes shifted by 5, then value words shifted by 16.
fn hash(attribute: &Attribute<'_>) -> u32 {
    let name = attribute.suffix.iter().fold(0u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
    attribute.value.chunks(4).fold(name, |hash, bytes| {
        let mut word = [0; 4];
        word[..bytes.len()].copy_from_slice(bytes);
        hash.rotate_left(16) ^ u32::from_le_bytes(word)
    })
}
