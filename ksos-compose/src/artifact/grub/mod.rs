//! Assembles GRUB 2 for BIOS (`i386-pc`) from the files of the distribution's package: what `grub-mkimage` and
//! `grub-bios-setup` do (formats: GRUB 2.12, `include/grub/offsets.h`, `include/grub/kernel.h`, `util/mkimage.c`,
//! `grub-core/boot/i386/pc/{boot,cdboot,diskboot}.S`).
//!
//! ```text
//! core     lzma_decompress.img | LZMA( kernel.img as loaded at 0x9000 | module header | modules | prefix )
//! disk     diskboot.img with its block list | core            in the BIOS boot partition; boot.img in sector 0
//! CD       cdboot.img | diskboot.img | core                   El Torito image; boot_hybrid.img in sector 0
//! ```
//!
//! `boot.img` loads one sector, `diskboot.img`, which loads the sectors of its block list; `cdboot.img` loads the rest
//! of the El Torito image by the boot information table in it, which who places the image writes.
//!
//! Limits: no Reed-Solomon redundancy (`grub-bios-setup` adds it where sectors are not reserved; here they are), no
//! memory disk, no embedded configuration. The core has at most 444 KiB.

use std::collections::BTreeMap;
use std::io;

use liblzma::stream::{Action, Filters, LzmaOptions, Status, Stream};
use object::elf;
use object::read::elf::{FileHeader, SectionHeader};

/// Bytes per sector.
const SECTOR: usize = 512;
/// `GRUB_KERNEL_I386_PC_LINK_ADDR`.
const LINK_ADDRESS: u64 = 0x9000;
/// The core is loaded from 0x8200 on and ends below this (`util/mkimage.c`).
const UPPER: u64 = 0x78000;
/// Where the decompressor has the size of what is compressed, and that of what it becomes (`offsets.h`).
const COMPRESSED_SIZE: usize = 0x08;
const UNCOMPRESSED_SIZE: usize = 0x0c;
/// Largest decompressor: it ends before what it makes begins.
const MOST_DECOMPRESSOR: usize = (LINK_ADDRESS - 0x8200) as usize;
/// `GRUB_MODULE_MAGIC`, and the types of module headers (`kernel.h`).
const MODULE_MAGIC: u32 = 0x676d_696d;
const MODULE_ELF: u32 = 0;
const MODULE_PREFIX: u32 = 3;
/// Where `boot.img` has the sector that it loads, and the jump that makes it believe the BIOS about the drive.
const BOOT_KERNEL_SECTOR: usize = 0x5c;
const BOOT_DRIVE_CHECK: usize = 0x66;
/// Where `boot_hybrid.img` has the sector that it loads.
const HYBRID_KERNEL_SECTOR: usize = 0x1b0;
/// Bytes of boot code in sector 0: a disk signature and a partition table follow.
const BOOT_CODE: usize = 440;
/// The last block list of `diskboot.img`: start (8 bytes), length (2), segment (2).
const BLOCK_LIST: usize = SECTOR - 12;
/// Size of `cdboot.img`.
const CDBOOT: usize = 2048;
/// What is read of a file of the package at most, in bytes.
const FILE_LIMIT: u64 = 4 << 20;

/// GRUB cannot be assembled.
#[derive(Debug, thiserror::Error)]
pub enum GrubError {
    /// A file of the package cannot be read.
    #[error("cannot read {name} of GRUB for BIOS: {source}")]
    File {
        /// Its name.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// A file of the package is not what it should be.
    #[error("{name} of GRUB for BIOS is not usable: {fault}")]
    Format {
        /// Its name.
        name: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The list of dependencies does not have a module.
    #[error("GRUB for BIOS has no module {name:?}")]
    NoModule {
        /// Its name.
        name: String,
    },
    /// The core does not fit below the memory that it may use.
    #[error("GRUB's core has {size} bytes; at most {limit} can be loaded")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The compression failed.
    #[error("cannot compress GRUB's core: {0}")]
    Compress(#[from] liblzma::stream::Error),
}

/// Files of the package by name, e.g. `kernel.img` or `normal.mod`.
pub trait Package {
    /// Reads a file of at most `limit` bytes.
    ///
    /// # Errors
    /// When there is no such file, it is larger, or cannot be read.
    fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>>;
}

/// What a core holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreSpec<'a> {
    /// Where GRUB looks for `grub.cfg`: `/PATH` on what it was booted from, `(,gpt1)/PATH` on a partition of that disk.
    pub prefix: &'a str,
    /// Modules; what they depend on comes with them.
    pub modules: &'a [&'a str],
}

/// What the project's GRUB scripts and its media need.
pub const MODULES: [&str; 22] = [
    "biosdisk",
    "part_gpt",
    "part_msdos",
    "fat",
    "ext2",
    "iso9660",
    "normal",
    "linux",
    "boot",
    "echo",
    "test",
    "regexp",
    "probe",
    "loadenv",
    "search",
    "search_label",
    "search_fs_file",
    "serial",
    "terminal",
    "sleep",
    "reboot",
    "halt",
];

fn read(package: &dyn Package, name: &str) -> Result<Vec<u8>, GrubError> {
    package.read(name, FILE_LIMIT).map_err(|source| GrubError::File { name: name.to_owned(), source })
}

fn read_sized(package: &dyn Package, name: &str, size: usize) -> Result<Vec<u8>, GrubError> {
    let bytes = read(package, name)?;
    match bytes.len() == size {
        true => Ok(bytes),
        false => Err(GrubError::Format { name: name.to_owned(), fault: "its size is another" }),
    }
}

/// Returns the core: the decompressor, and the kernel with its modules, compressed.
///
/// # Errors
/// [`GrubError`].
pub fn core(package: &dyn Package, spec: &CoreSpec<'_>) -> Result<Vec<u8>, GrubError> {
    let mut image = kernel(&read(package, "kernel.img")?)?;
    image.extend(module_area(package, spec)?);
    let compressed = compress(&image)?;
    let mut core = read(package, "lzma_decompress.img")?;
    if core.len() < UNCOMPRESSED_SIZE + 4 || core.len() > MOST_DECOMPRESSOR {
        let name = "lzma_decompress.img".to_owned();
        return Err(GrubError::Format { name, fault: "a decompressor has 16 to 3584 bytes" });
    }
    put_u32(&mut core, COMPRESSED_SIZE, compressed.len() as u32);
    put_u32(&mut core, UNCOMPRESSED_SIZE, image.len() as u32);
    core.extend(compressed);
    let size = core.len() as u64;
    let limit = UPPER - LINK_ADDRESS;
    if size > limit { Err(GrubError::TooLarge { size, limit }) } else { Ok(core) }
}

/// Returns the kernel as it lies in memory from its link address on, up to the end of its data.
fn kernel(bytes: &[u8]) -> Result<Vec<u8>, GrubError> {
    let fault = |fault| GrubError::Format { name: "kernel.img".to_owned(), fault };
    let damaged = |_| fault("it is no whole ELF file");
    let header = elf::FileHeader32::<object::LittleEndian>::parse(bytes).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    let sections = header.sections(endian, bytes).map_err(damaged)?;
    let mut image = Vec::new();
    for section in sections.iter() {
        let allocated = section.sh_flags(endian).contains(elf::SHF_ALLOC);
        if !allocated || section.sh_type(endian) == elf::SHT_NOBITS {
            continue;
        }
        let data = section.data(endian, bytes).map_err(damaged)?;
        let start = u64::from(section.sh_addr(endian)).checked_sub(LINK_ADDRESS);
        let start = start.filter(|start| start + (data.len() as u64) < FILE_LIMIT);
        let start = start.ok_or_else(|| fault("it is linked for another address"))? as usize;
        let end = start + data.len();
        image.resize(image.len().max(end), 0);
        image[start..end].copy_from_slice(data);
    }
    if image.is_empty() { Err(fault("it has no code")) } else { Ok(image) }
}

/// Returns the header, the modules, each after those that it depends on, and the prefix.
fn module_area(package: &dyn Package, spec: &CoreSpec<'_>) -> Result<Vec<u8>, GrubError> {
    let list = read(package, "moddep.lst")?;
    let list = String::from_utf8_lossy(&list);
    let mut area = vec![0; 12];
    put_u32(&mut area, 0, MODULE_MAGIC);
    put_u32(&mut area, 4, 12);
    for name in in_order(&dependencies(&list), spec.modules)? {
        put_object(&mut area, MODULE_ELF, &read(package, &format!("{name}.mod"))?);
    }
    put_object(&mut area, MODULE_PREFIX, &[spec.prefix.as_bytes(), &[0]].concat());
    let size = area.len() as u32;
    put_u32(&mut area, 8, size);
    Ok(area)
}

fn put_object(area: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    let padded = bytes.len().next_multiple_of(4);
    area.extend(kind.to_le_bytes());
    area.extend((padded as u32 + 8).to_le_bytes());
    area.extend(bytes);
    area.resize(area.len() + padded - bytes.len(), 0);
}

/// Reads `moddep.lst`: `NAME: DEPENDENCY...` in each line.
fn dependencies(list: &str) -> BTreeMap<&str, Vec<&str>> {
    let lines = list.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, others)| (name.trim(), others.split_whitespace().collect())).collect()
}

/// Returns `wanted` and what it depends on, in the order of `grub-mkimage`: dependencies first, the last one first.
fn in_order<'a>(list: &BTreeMap<&'a str, Vec<&'a str>>, wanted: &[&'a str]) -> Result<Vec<&'a str>, GrubError> {
    let mut order: Vec<&str> = Vec::new();
    // A module on the stack twice has its dependencies done by then; a cycle ends because each is expanded once.
    let mut expanded = std::collections::BTreeSet::new();
    for root in wanted {
        let mut stack = vec![(*root, false)];
        while let Some((name, done)) = stack.pop() {
            if done {
                order.push(name);
            } else if expanded.insert(name) {
                let others = list.get(name).ok_or_else(|| GrubError::NoModule { name: name.to_owned() })?;
                stack.push((name, true));
                stack.extend(others.iter().map(|other| (*other, false)));
            }
        }
    }
    Ok(order)
}

/// Compresses with the parameters that the decompressor is built for: a raw LZMA stream, lc=3, lp=0, pb=2.
fn compress(bytes: &[u8]) -> Result<Vec<u8>, GrubError> {
    let mut options = LzmaOptions::new_preset(9)?;
    options.dict_size(1 << 20).literal_context_bits(3).literal_position_bits(0).position_bits(2);
    let mut filters = Filters::new();
    filters.lzma1(&options);
    let mut stream = Stream::new_raw_encoder(&filters)?;
    let mut output = Vec::with_capacity(bytes.len() + 4096);
    loop {
        let consumed = stream.total_in() as usize;
        match stream.process_vec(&bytes[consumed..], &mut output, Action::Finish)? {
            Status::StreamEnd => return Ok(output),
            _ => output.reserve(1 << 16),
        }
    }
}

/// Returns what goes into the BIOS boot partition that begins at sector `lba`: a whole number of sectors.
///
/// # Errors
/// [`GrubError`].
pub fn for_disk(package: &dyn Package, core: &[u8], lba: u64) -> Result<Vec<u8>, GrubError> {
    let mut image = with_block_list(package, core, lba + 1)?;
    image.resize(image.len().next_multiple_of(SECTOR), 0);
    Ok(image)
}

/// Returns an El Torito image without its boot information table, and without the start of the block list at byte 2548,
/// which depend on where it is placed.
///
/// # Errors
/// [`GrubError`].
pub fn for_cd(package: &dyn Package, core: &[u8]) -> Result<Vec<u8>, GrubError> {
    let mut image = read_sized(package, "cdboot.img", CDBOOT)?;
    image.extend(with_block_list(package, core, 1)?);
    Ok(image)
}

fn with_block_list(package: &dyn Package, core: &[u8], lba: u64) -> Result<Vec<u8>, GrubError> {
    let mut image = read_sized(package, "diskboot.img", SECTOR)?;
    image[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&lba.to_le_bytes());
    // The core has at most 888 sectors.
    let sectors = core.len().div_ceil(SECTOR) as u16;
    image[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&sectors.to_le_bytes());
    image.extend(core);
    Ok(image)
}

/// Returns the boot code of a disk whose BIOS boot partition begins at sector `lba`.
///
/// # Errors
/// [`GrubError`].
pub fn boot_code(package: &dyn Package, lba: u64) -> Result<[u8; BOOT_CODE], GrubError> {
    let mut sector = read_sized(package, "boot.img", SECTOR)?;
    sector[BOOT_KERNEL_SECTOR..BOOT_KERNEL_SECTOR + 8].copy_from_slice(&lba.to_le_bytes());
    // Two `nop`: a drive number that cannot be one of a hard disk is taken as the first (`grub-bios-setup` does this
    // for hard disks; some BIOSes pass nonsense).
    sector[BOOT_DRIVE_CHECK..BOOT_DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    Ok(code(&sector))
}

/// Returns the boot code of an ISO 9660 image on a stick whose El Torito image, of [`for_cd`], begins at the block
/// `block` of 2048 bytes.
///
/// # Errors
/// [`GrubError`].
pub fn hybrid_boot_code(package: &dyn Package, block: u64) -> Result<[u8; BOOT_CODE], GrubError> {
    let mut sector = read_sized(package, "boot_hybrid.img", SECTOR)?;
    // Behind the 2048 bytes of `cdboot.img`.
    let lba = block * 4 + 4;
    sector[HYBRID_KERNEL_SECTOR..HYBRID_KERNEL_SECTOR + 8].copy_from_slice(&lba.to_le_bytes());
    Ok(code(&sector))
}

fn code(sector: &[u8]) -> [u8; BOOT_CODE] {
    sector[..BOOT_CODE].try_into().expect("a sector has 512 bytes")
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests;
