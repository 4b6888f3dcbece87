//! Extended attributes.

use std::collections::BTreeMap;

use super::super::error::{Fault, text};
use super::block::{Image, MetadataReader, Reference};

/// The value is elsewhere, shared.
const OUT_OF_LINE: u16 = 0x100;

impl Image<'_> {
    /// Reads the attributes with index `index`.
    pub(super) fn xattrs(&mut self, index: u32) -> Result<BTreeMap<String, Vec<u8>>, Fault> {
        let bad = Fault::Damaged("an index of extended attributes");
        let Some(header) = self.superblock.xattrs else { return Err(bad) };
        let [low, high, count, _unused] = self.words_at(header)?;
        if index >= count {
            return Err(bad);
        }
        let table = u64::from(low) | u64::from(high) << 32;
        let mut entry = self.table(header.saturating_add(16), u64::from(index), 16)?;
        let reference = Reference::packed(entry.u64(self)?);
        let [attributes, _size] = entry.u32s(self)?;
        let mut reader = MetadataReader::new(table, reference);
        let mut found = BTreeMap::new();
        let mut total = 0;
        for _ in 0..attributes {
            let (name, value) = self.xattr(table, &mut reader)?;
            total += name.len() + value.len();
            // Far more than Linux lists (64 KiB of names) for one file; keeps a bomb small.
            if total > 1 << 20 {
                return Err(Fault::Damaged("more than 1 MiB of extended attributes at one file"));
            }
            found.insert(name, value);
        }
        Ok(found)
    }

    fn xattr(&mut self, table: u64, reader: &mut MetadataReader) -> Result<(String, Vec<u8>), Fault> {
        let [kind, size] = reader.u16s(self)?;
        let prefix = match kind & !OUT_OF_LINE {
            0 => "user.",
            1 => "trusted.",
            2 => "security.",
            _ => return Err(Fault::Damaged("the kind of an extended attribute")),
        };
        if size == 0 || size > 255 {
            return Err(Fault::Damaged("the length of an extended attribute's name"));
        }
        let name = reader.bytes(self, usize::from(size))?;
        let name = format!("{prefix}{}", text(&name)?);
        let value = if kind & OUT_OF_LINE != 0 {
            let [_eight] = reader.u32s(self)?;
            let reference = Reference::packed(reader.u64(self)?);
            self.xattr_value(&mut MetadataReader::new(table, reference))?
        } else {
            self.xattr_value(reader)?
        };
        Ok((name, value))
    }

    fn xattr_value(&mut self, reader: &mut MetadataReader) -> Result<Vec<u8>, Fault> {
        let [size] = reader.u32s(self)?;
        if size > 65536 {
            return Err(Fault::Damaged("an extended attribute is larger than 64 KiB"));
        }
        reader.bytes(self, size as usize)
    }
}
