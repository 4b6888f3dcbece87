//! Extended attributes: name-value pairs, and the table of the sets of them that inodes refer to.

use std::collections::{BTreeMap, HashMap};

use super::Error;
use super::codec::Compressor;
use super::inode::NONE;
use super::metadata::{IndexedTable, MetadataWriter, indexed_table};

/// Linux `XATTR_SIZE_MAX`.
const MAXIMUM_VALUE: usize = 65536;

/// Prefixes that the format knows, with their numbers.
const PREFIXES: [(&str, u16); 3] = [("user.", 0), ("trusted.", 1), ("security.", 2)];

/// Collects the sets of attributes; equal sets are stored once.
pub struct XattrTable<'a> {
    pairs: MetadataWriter<'a>,
    sets: Vec<u8>,
    count: u32,
    known: HashMap<BTreeMap<String, Vec<u8>>, u32>,
}

impl<'a> XattrTable<'a> {
    /// Returns a table without sets.
    pub fn new(compressor: &'a mut Compressor) -> Self {
        XattrTable { pairs: MetadataWriter::new(compressor), sets: Vec::new(), count: 0, known: HashMap::new() }
    }

    /// Returns the index of the set of the entry at `path`, [`NONE`] for an empty one.
    ///
    /// # Errors
    /// [`Error::Xattr`] for an attribute that cannot be stored.
    pub fn add(&mut self, path: &str, xattrs: &BTreeMap<String, Vec<u8>>) -> Result<u32, Error> {
        if xattrs.is_empty() {
            return Ok(NONE);
        }
        if let Some(index) = self.known.get(xattrs) {
            return Ok(*index);
        }
        let mut bytes = Vec::new();
        for (name, value) in xattrs {
            encode(name, value, &mut bytes).map_err(|reason| {
                let (path, name) = (path.to_owned(), name.clone());
                Error::Xattr { path, name, reason }
            })?;
        }
        let index = self.count;
        self.sets.extend(self.pairs.position().reference().to_le_bytes());
        self.sets.extend((xattrs.len() as u32).to_le_bytes());
        self.sets.extend((bytes.len() as u32).to_le_bytes());
        self.pairs.write(&bytes).map_err(Error::Compress)?;
        self.count += 1;
        self.known.insert(xattrs.clone(), index);
        Ok(index)
    }

    /// Returns the tables as they go to byte `position` of the image, or `None` when there are no attributes.
    ///
    /// # Errors
    /// When the compressor fails.
    pub fn finish(self, compressor: &mut Compressor, position: u64) -> Result<Option<IndexedTable>, Error> {
        if self.count == 0 {
            return Ok(None);
        }
        let (mut bytes, _) = self.pairs.finish().map_err(Error::Compress)?;
        let mut header = position.to_le_bytes().to_vec();
        header.extend(self.count.to_le_bytes());
        header.extend(0_u32.to_le_bytes());
        let sets_position = position + bytes.len() as u64;
        let sets = indexed_table(compressor, sets_position, &header, &self.sets).map_err(Error::Compress)?;
        bytes.extend(sets.bytes);
        Ok(Some(IndexedTable { bytes, start: sets.start }))
    }
}

fn encode(name: &str, value: &[u8], bytes: &mut Vec<u8>) -> Result<(), &'static str> {
    let found = PREFIXES.iter().find_map(|(prefix, number)| Some((name.strip_prefix(prefix)?, *number)));
    let (rest, number) = found.ok_or("SquashFS has only user., trusted. and security. attributes")?;
    if rest.is_empty() || name.len() > 255 || name.contains('\0') {
        return Err("the name is empty, longer than 255 bytes, or has a NUL byte");
    }
    if value.len() > MAXIMUM_VALUE {
        return Err("the value is longer than 65536 bytes");
    }
    bytes.extend(number.to_le_bytes());
    bytes.extend((rest.len() as u16).to_le_bytes());
    bytes.extend(rest.as_bytes());
    bytes.extend((value.len() as u32).to_le_bytes());
    bytes.extend(value);
    Ok(())
}
