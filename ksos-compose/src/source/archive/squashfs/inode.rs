//! Inodes.

use super::super::error::Fault;
use super::block::{Image, MetadataReader, Reference};

/// What stands for "none" in indexes of fragments and extended attributes.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Inode {
    pub(super) mode: u16,
    pub(super) uid: u16,
    pub(super) gid: u16,
    pub(super) mtime: u32,
    pub(super) links: u32,
    pub(super) xattr: Option<u32>,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Directory(Directory),
    File(FileBody),
    Symlink(Vec<u8>),
    CharacterDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
    Socket,
}

#[derive(Debug)]
pub(super) struct Directory {
    pub(super) listing: Reference,
    /// 3 more than the bytes of the listing.
    pub(super) size: u32,
}

#[derive(Debug)]
pub(super) struct FileBody {
    /// Position of the first data block.
    pub(super) start: u64,
    pub(super) size: u64,
    /// Index of the fragment block and the offset of the file's tail in it.
    pub(super) fragment: Option<(u32, u32)>,
    /// Reads the sizes of the data blocks, one after another.
    pub(super) block_sizes: MetadataReader,
}

impl Inode {
    pub(super) fn read(image: &mut Image<'_>, reference: Reference) -> Result<Self, Fault> {
        let mut reader = MetadataReader::new(image.superblock.inodes, reference);
        let [kind, mode, uid, gid] = reader.u16s(image)?;
        let [mtime, _number] = reader.u32s(image)?;
        let (body, links, xattr) = match kind {
            1 => basic_directory(&mut reader, image)?,
            8 => extended_directory(&mut reader, image)?,
            2 => basic_file(&mut reader, image)?,
            9 => extended_file(&mut reader, image)?,
            3 | 10 => symlink(&mut reader, image, kind == 10)?,
            4 | 5 | 11 | 12 => device(&mut reader, image, kind)?,
            6 | 7 | 13 | 14 => {
                let [links] = reader.u32s(image)?;
                let body = if matches!(kind, 6 | 13) { Body::Fifo } else { Body::Socket };
                (body, links, extended_xattr(&mut reader, image, kind > 7)?)
            }
            _ => return Err(Fault::Damaged("the kind of an inode")),
        };
        Ok(Inode { mode, uid, gid, mtime, links, xattr: Some(xattr).filter(|index| *index != NONE), body })
    }
}

type Parts = (Body, u32, u32);

fn extended_xattr(reader: &mut MetadataReader, image: &mut Image<'_>, extended: bool) -> Result<u32, Fault> {
    if !extended {
        return Ok(NONE);
    }
    let [xattr] = reader.u32s(image)?;
    Ok(xattr)
}

fn basic_directory(reader: &mut MetadataReader, image: &mut Image<'_>) -> Result<Parts, Fault> {
    let [block, links] = reader.u32s(image)?;
    let [size, offset] = reader.u16s(image)?;
    let listing = Reference { block: u64::from(block), offset };
    Ok((Body::Directory(Directory { listing, size: u32::from(size) }), links, NONE))
}

fn extended_directory(reader: &mut MetadataReader, image: &mut Image<'_>) -> Result<Parts, Fault> {
    let [links, size, block, _parent] = reader.u32s(image)?;
    let [_index_count, offset] = reader.u16s(image)?;
    let [xattr] = reader.u32s(image)?;
    let listing = Reference { block: u64::from(block), offset };
    Ok((Body::Directory(Directory { listing, size }), links, xattr))
}

fn basic_file(reader: &mut MetadataReader, image: &mut Image<'_>) -> Result<Parts, Fault> {
    let [start, fragment, offset, size] = reader.u32s(image)?;
    let body = file_body(reader, u64::from(start), u64::from(size), fragment, offset);
    Ok((body, 1, NONE))
}

fn extended_file(reader: &mut MetadataReader, image: &mut Image<'_>) -> Result<Parts, Fault> {
    let start = reader.u64(image)?;
    let size = reader.u64(image)?;
    let _sparse = reader.u64(image)?;
    let [links, fragment, offset, xattr] = reader.u32s(image)?;
    Ok((file_body(reader, start, size, fragment, offset), links, xattr))
}

fn file_body(reader: &MetadataReader, start: u64, size: u64, fragment: u32, offset: u32) -> Body {
    let fragment = (fragment != NONE).then_some((fragment, offset));
    Body::File(FileBody { start, size, fragment, block_sizes: reader.clone() })
}

fn symlink(reader: &mut MetadataReader, image: &mut Image<'_>, extended: bool) -> Result<Parts, Fault> {
    let [links, size] = reader.u32s(image)?;
    if size > 4095 {
        return Err(Fault::SymlinkTarget);
    }
    let target = reader.bytes(image, size as usize)?;
    Ok((Body::Symlink(target), links, extended_xattr(reader, image, extended)?))
}

fn device(reader: &mut MetadataReader, image: &mut Image<'_>, kind: u16) -> Result<Parts, Fault> {
    let [links, number] = reader.u32s(image)?;
    // Linux `new_decode_dev`: 12 bits of major number between the two parts of the minor number.
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
    let body = match kind {
        4 | 11 => Body::BlockDevice { major, minor },
        _ => Body::CharacterDevice { major, minor },
    };
    Ok((body, links, extended_xattr(reader, image, kind > 7)?))
}
