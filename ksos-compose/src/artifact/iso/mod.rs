//! Writes hybrid ISO 9660 images that boot from CD and from USB stick, by UEFI and, where GRUB for BIOS is given, by BIOS.
//!
//! ```text
//! sector 0 (512 bytes)  boot code for sticks, a protective MBR
//! sectors 1..64         GPT: the EFI image as EFI system partition, the rest as data
//! block 16 (2 KiB)...   volume descriptors, El Torito catalog, directories with Rock Ridge, files, the EFI image
//! end                   the backup GPT
//! ```
//!
//! The crate `hadris-iso` lays the volume out and streams the files (ECMA-119, RRIP 1.12, El Torito 1.0); here is what
//! GRUB asks for beyond that. A partition table with a protective MBR has no active partition, and some BIOSes boot no
//! stick without one: an entry of type 0 is marked active, as `xorriso --mbr-force-bootable` does.
//!
//! Identifiers derive from the volume's name, all times are the epoch: the same input gives the same bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;

use hadris_fs::{Content, DateTime, DateTimeError, Node, PathError, SetAttr, Tree};
use hadris_iso::{AppendedPartition, BootEntry, BootInfo, ElTorito, Hybrid, IsoId, IsoLevel, IsoOptions};
use hadris_storage::host::FileDevice;

use super::grub::{self, GrubError};

/// Bytes per block of the volume.
pub const BLOCK: u64 = 2048;
/// Longest name of a volume.
pub const MOST_NAME: usize = 32;
/// Where El Torito images for BIOS are, and the catalog.
const BOOT_DIRECTORY: &str = "boot";
const BIOS_IMAGE: &str = "boot/bios.img";
const CATALOG: &str = "boot/boot.cat";
/// Sectors of 512 bytes that a BIOS loads by itself: `cdboot.img`, which loads the rest.
const BIOS_LOAD: u16 = 4;
/// The second entry of the MBR's partition table.
const SECOND_ENTRY: u64 = 446 + 16;

/// Where a file's bytes come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Memory.
    Bytes(Vec<u8>),
    /// A file of this machine, which is streamed.
    File(PathBuf),
}

/// GRUB for BIOS.
pub struct Bios<'a> {
    /// Its files.
    pub package: &'a dyn grub::Package,
    /// The core, which finds its configuration on what it was booted from.
    pub core: &'a [u8],
}

/// What an image holds.
pub struct IsoSpec<'a> {
    /// Name of the volume: `[A-Z0-9_]`, at most 32.
    pub name: &'a str,
    /// Time of everything, seconds since 1970.
    pub epoch: i64,
    /// Files by path.
    pub files: BTreeMap<String, Source>,
    /// The FAT image that UEFI firmware boots from.
    pub efi: Source,
    /// What a BIOS boots.
    pub bios: Option<Bios<'a>>,
}

/// An image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum IsoError {
    /// A name that volumes do not have.
    #[error("{0:?} is not a volume name: 1 to 32 of A-Z, 0-9 and _ are allowed")]
    Name(String),
    /// A time that ISO 9660 cannot hold.
    #[error("{epoch} s since 1970 is no time of an ISO image: {source}")]
    Time {
        /// The time.
        epoch: i64,
        /// What is wrong with it.
        source: DateTimeError,
    },
    /// The tree cannot be laid out, a file not be read, or the image not be written.
    #[error("cannot write the volume: {0}")]
    Volume(#[source] Box<PathError>),
    /// GRUB for BIOS cannot be used.
    #[error(transparent)]
    Grub(#[from] GrubError),
    /// The image cannot be written.
    #[error("cannot write the image: {0}")]
    Write(#[from] io::Error),
}

impl From<PathError> for IsoError {
    fn from(error: PathError) -> Self {
        IsoError::Volume(Box::new(error))
    }
}

/// Writes the image into `output`, which is empty and open for reading and writing; returns its size in bytes.
///
/// # Errors
/// [`IsoError`].
pub fn write(output: &mut File, spec: &IsoSpec<'_>) -> Result<u64, IsoError> {
    let allowed = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    if spec.name.is_empty() || spec.name.len() > MOST_NAME || !spec.name.bytes().all(allowed) {
        return Err(IsoError::Name(spec.name.to_owned()));
    }
    let time = DateTime::from_unix_seconds(spec.epoch);
    let time = time.map_err(|source| IsoError::Time { epoch: spec.epoch, source })?;
    let tree = tree(spec, time)?;
    let options = options(spec, time)?;
    let device = FileDevice::new(output.try_clone()?)?;
    let report = hadris_iso::sync::write(device, &tree, &options)?;
    if let Some(bios) = &spec.bios {
        let extents = report.extents(format!("/{BIOS_IMAGE}")).or_else(|| report.extents(BIOS_IMAGE));
        let first = extents.and_then(|extents| extents.first()).expect("the image is a file of the tree");
        write_at(output, 0, &grub::hybrid_boot_code(bios.package, first.offset() / BLOCK)?)?;
        // Status, and the end: one sector from sector 0 on.
        let mut entry = [0; 16];
        (entry[0], entry[12]) = (0x80, 1);
        write_at(output, SECOND_ENTRY, &entry)?;
    }
    output.rewind()?;
    Ok(report.size())
}

fn write_at(output: &mut File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    output.seek(SeekFrom::Start(offset))?;
    output.write_all(bytes)
}

fn content(source: &Source) -> Result<Content, PathError> {
    match source {
        Source::Bytes(bytes) => Ok(Content::bytes(bytes.as_slice())),
        Source::File(path) => hadris_fs::host::file(path),
    }
}

fn tree(spec: &IsoSpec<'_>, time: DateTime) -> Result<Tree, IsoError> {
    let mut tree = Tree::new();
    // Without these, directories and files would get times of their own.
    let attributes = || SetAttr::new().with_modified(time).with_accessed(time).with_created(time);
    let insert = |tree: &mut Tree, path: &str, content: Content| {
        for (end, _) in path.match_indices('/') {
            if tree.get(&path[..end]).is_none() {
                tree.insert(&path[..end], Node::dir().with_attrs(attributes()))?;
            }
        }
        tree.insert(path, Node::file(content).with_attrs(attributes()))
    };
    for (path, source) in &spec.files {
        insert(&mut tree, path, content(source)?)?;
    }
    // The catalog is put into a directory that is there.
    if tree.get(BOOT_DIRECTORY).is_none() {
        tree.insert(BOOT_DIRECTORY, Node::dir().with_attrs(attributes()))?;
    }
    if let Some(bios) = &spec.bios {
        insert(&mut tree, BIOS_IMAGE, Content::bytes(grub::for_cd(bios.package, bios.core)?))?;
    }
    Ok(tree)
}

fn options(spec: &IsoSpec<'_>, time: DateTime) -> Result<IsoOptions, IsoError> {
    let efi = AppendedPartition::esp(content(&spec.efi)?);
    let mut el_torito = ElTorito::new();
    if spec.bios.is_some() {
        let entry = BootEntry::bios(BIOS_IMAGE).with_load_size(BIOS_LOAD).with_boot_info(BootInfo::Grub2);
        el_torito = el_torito.with_entry(entry);
    }
    el_torito = el_torito.with_entry(BootEntry::uefi_appended(0)).with_catalog_path(CATALOG);
    Ok(IsoOptions::new()
        .with_id(IsoId::Volume, spec.name)
        .with_id(IsoId::Application, "KSOS-COMPOSE")
        .with_level(IsoLevel::L3)
        .with_rock_ridge()
        .with_el_torito(el_torito)
        .with_hybrid(Hybrid::gpt().with_appended(efi))
        .with_time(time)
        .with_seed(0))
}

#[cfg(test)]
mod tests;
