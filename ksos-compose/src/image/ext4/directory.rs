//! Directories (kernel documentation, "Directory Entries"). The inner blocks of a hash tree look like entries without
//! an inode to who does not know them, so all directories are read as lists.

use std::collections::BTreeMap;

use super::inode::{Inode, Kind};
use super::{Ext4Error, FileReader, FileSystem, MOST_ENTRIES, u16_at, u32_at};

/// Bytes of an entry before its name.
const HEADER: usize = 8;
/// The largest directory that is read, in bytes: what two levels of a hash tree can hold.
const LARGEST: u64 = 2 << 30;

pub(super) fn list(fs: &FileSystem<'_>, directory: &Inode) -> Result<BTreeMap<String, u32>, Ext4Error> {
    let fail = |fault| Ext4Error::Inode { inode: directory.number, fault };
    let block_size = fs.superblock.block_size;
    if directory.kind != Kind::Directory {
        return Err(fail("not a directory"));
    }
    if !directory.size.is_multiple_of(block_size) || directory.size > LARGEST {
        return Err(fail("the size of a directory"));
    }
    let reader = FileReader::new(fs, directory)?;
    let mut entries = BTreeMap::new();
    let mut block = vec![0; block_size as usize];
    for number in 0..directory.size / block_size {
        reader.read_exact_at(&mut block, number * block_size)?;
        parse(&block, &mut entries).map_err(fail)?;
        if entries.len() > MOST_ENTRIES {
            return Err(Ext4Error::TooMany { what: "entries in a directory", limit: MOST_ENTRIES });
        }
    }
    Ok(entries)
}

fn parse(block: &[u8], entries: &mut BTreeMap<String, u32>) -> Result<(), &'static str> {
    let mut rest = block;
    while !rest.is_empty() {
        if rest.len() < HEADER {
            return Err("a directory entry that does not fit its block");
        }
        let (inode, record, length) = (u32_at(rest, 0), usize::from(u16_at(rest, 4)), usize::from(rest[6]));
        if record < HEADER + length || !record.is_multiple_of(4) || record > rest.len() {
            return Err("the size of a directory entry");
        }
        let name = &rest[HEADER..HEADER + length];
        rest = &rest[record..];
        if inode == 0 || name == b"." || name == b".." {
            continue;
        }
        let name = std::str::from_utf8(name).map_err(|_| "a name that is not UTF-8")?;
        if name.is_empty() || name.contains(['/', '\0']) {
            return Err("a name that is empty or has a slash or NUL byte");
        }
        if entries.insert(name.to_owned(), inode).is_some() {
            return Err("a name that comes twice");
        }
    }
    Ok(())
}
