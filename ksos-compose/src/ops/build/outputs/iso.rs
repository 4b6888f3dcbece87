//! The ISO image: the files of the system slot, what else the disk holds for the installer, and the boot loaders.
//!
//! The disk image is taken apart into pieces ([`ksos_formats::install`]): the extents of the slot's large files lead to
//! those files on the volume, which are there once; every other block that is not zero goes into one file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ksos_formats::digest::Hasher;
use ksos_formats::install::{self, DATA_FILE, DIRECTORY, DOCUMENT_FILE, HEAD, Install, Piece};
use ksos_formats::layout;

use super::super::{bios, disk};
use super::Source;
use crate::artifact::disk::{data_ranges, layout as place};
use crate::artifact::fat::{self, FatKind, FatSpec};
use crate::artifact::iso::{self, Bios, IsoSpec};
use crate::boot::{GRUB_CONFIG, LiveConfig, live_config};
use crate::effects::fs::{self, Context};
use crate::image::Part;
use crate::image::ext4::FileSystem;
use crate::ops::OpError;
use crate::tree::{Content, Entry, Meta, Node, Tree};

/// Files of the slot that are on the volume as themselves.
const SLOT_FILES: [&str; 3] = [layout::SLOT_KERNEL, layout::SLOT_INITRAMFS, layout::SLOT_ROOT];
/// What is looked at for being zero, in bytes.
const BLOCK: u64 = 4096;
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;
/// Seconds that the menu waits at the least: long enough to ask for an installation.
const TIMEOUT: u32 = 5;
/// Room in the EFI image beside its files, and what its size is a multiple of, in bytes. FAT16 begins at 8.4 MB.
const EFI_ROOM: u64 = 1 << 20;
const EFI_LEAST: u64 = 9 << 20;
/// Most bytes of one file that is held in memory.
const FILE_LIMIT: u64 = 256 << 20;

/// Writes the ISO image as the new file `path`.
///
/// # Errors
/// When the disk image cannot be read, or the image not be written.
pub fn write(source: &Source<'_>, path: &Path) -> Result<(), OpError> {
    let Source { session, project, plan, steps, .. } = source;
    let executor = super::super::Executor::new(session, project, plan, false);
    let files = disk::files(session, project, plan, steps)?;
    let data = source.work.join("iso-data");
    let install = take_apart(source, &data)?;
    let document = serde_json::to_vec_pretty(&install).expect("the document can be serialised");
    let volume = Install::volume_name(&document);
    let config = live_config(&LiveConfig {
        name: &plan.image.name,
        version: &plan.image.version,
        arch: plan.image.arch,
        cmdline: &plan.cmdline,
        volume: &volume,
        timeout: project.manifest().boot.timeout.max(TIMEOUT),
    })?;
    let in_directory = |name: &str| format!("{DIRECTORY}/{name}");
    let kernel = files.kernel.read(FILE_LIMIT).context("read", Path::new(layout::SLOT_KERNEL))?;
    let metadata = serde_json::to_vec_pretty(&disk::metadata(plan, &files)).expect("slot metadata can be serialised");
    let tree = BTreeMap::from([
        (GRUB_CONFIG.to_owned(), iso::Source::Bytes(config.clone().into_bytes())),
        (in_directory(DOCUMENT_FILE), iso::Source::Bytes(document)),
        (in_directory(DATA_FILE), iso::Source::File(data)),
        (in_directory(layout::SLOT_KERNEL), iso::Source::Bytes(kernel)),
        (in_directory(layout::SLOT_INITRAMFS), iso::Source::File(files.initramfs.path.clone())),
        (in_directory(layout::SLOT_ROOT), iso::Source::File(files.root.path.clone())),
        (in_directory(layout::SLOT_METADATA), iso::Source::Bytes(metadata)),
    ]);
    let efi = efi_image(source, &files, &config)?;
    let bios = project.manifest().boot.bios.as_ref();
    let bios = bios.map(|file| bios::Files::of(&executor, file, steps)).transpose()?;
    let core = bios.as_ref().map(bios::Files::medium_core).transpose()?;
    let bios = bios.as_ref().zip(core.as_deref()).map(|(package, core)| Bios { package, core });
    let spec =
        IsoSpec { name: &volume, epoch: plan.image.epoch as i64, files: tree, efi: iso::Source::File(efi), bios };
    iso::write(&mut fs::create_new(path)?, &spec)?;
    Ok(())
}

/// Writes the FAT image with the signed boot loaders.
fn efi_image(source: &Source<'_>, files: &disk::Files, config: &str) -> Result<PathBuf, OpError> {
    let plan = source.plan;
    let epoch = plan.image.epoch as i64;
    let mut tree = Tree::new(epoch);
    disk::put_loaders(&mut tree, plan, files);
    let entry = Entry { meta: Meta::root(0o644, epoch), node: Node::File(Content::inline(config.as_bytes())) };
    tree.insert(GRUB_CONFIG, entry).expect("the project's own file names are valid paths");
    let size = (files.shim.size + files.grub.size + EFI_ROOM).next_multiple_of(1 << 20).max(EFI_LEAST);
    let id = plan.disk.guid.as_bytes();
    let spec = FatSpec {
        size,
        kind: FatKind::Fat16,
        label: "KSOSLIVE".to_owned(),
        volume_id: u32::from_be_bytes([id[0], id[1], id[2], id[3]]),
        epoch,
    };
    let path = source.work.join("iso-efi");
    fat::write(&tree, &spec, &mut fs::create_new(&path)?)?;
    Ok(path)
}

/// A range of the disk that is a range of a file.
struct Shared {
    offset: u64,
    length: u64,
    file: &'static str,
    at: u64,
}

/// Takes the disk image apart; what is in no file of the slot goes to the new file `data`.
fn take_apart(source: &Source<'_>, data: &Path) -> Result<Install, OpError> {
    let plan = source.plan;
    let (image, written) = source.disk();
    let disk = fs::open(image)?;
    let sizes: Vec<u64> = plan.disk.partitions.iter().map(|partition| partition.size).collect();
    let size = place(&sizes)?.partitions.iter().map(|extent| extent.offset + extent.size).max().unwrap_or(HEAD);
    let slot = Part::new(&disk, written.slot.offset, written.slot.size);
    let shared = shared_ranges(slot, written.slot.offset)
        .map_err(|error| OpError::Slot { path: image.to_owned(), reason: error.to_string() })?;
    let target = fs::create_new(data)?;
    let mut pieces = Pieces {
        list: Vec::new(),
        at: 0,
        disk: &disk,
        target: BufWriter::with_capacity(CHUNK, target),
        hasher: Hasher::new(),
    };
    pieces.walk(&shared, size).context("take apart", image)?;
    let Pieces { list, target, hasher, .. } = pieces;
    target.into_inner().map_err(std::io::IntoInnerError::into_error).context("write", data)?;
    Ok(Install {
        format: install::FORMAT,
        image: plan.image.clone(),
        size,
        minimum_disk: plan.disk.minimum_size,
        pieces: list,
        sha256: hasher.finish(),
    })
}

/// Returns where on the disk the slot's large files are, in the order of the disk.
fn shared_ranges(slot: Part<'_>, start: u64) -> Result<Vec<Shared>, crate::image::ext4::Ext4Error> {
    let fs = FileSystem::open(slot)?;
    let mut shared = Vec::new();
    for file in SLOT_FILES {
        let Some(inode) = fs.find(file)? else { continue };
        for (at, physical, length) in fs.open_file(&inode)?.extents() {
            shared.push(Shared { offset: start + physical, length, file, at });
        }
    }
    shared.sort_by_key(|range| range.offset);
    Ok(shared)
}

/// Pieces while they are made.
struct Pieces<'a> {
    list: Vec<Piece>,
    /// Bytes in the data file.
    at: u64,
    disk: &'a File,
    target: BufWriter<File>,
    hasher: Hasher,
}

impl Pieces<'_> {
    fn walk(&mut self, shared: &[Shared], size: u64) -> std::io::Result<()> {
        // What is in no file lies before, between and behind the shared ranges.
        let mut position = 0;
        for range in shared {
            self.literal(position, range.offset)?;
            self.shared(range)?;
            position = range.offset + range.length;
        }
        self.literal(position, size)
    }

    fn shared(&mut self, range: &Shared) -> std::io::Result<()> {
        let Shared { offset, length, file, at } = *range;
        let mut buffer = vec![0; CHUNK.min(length as usize)];
        let mut done = 0;
        while done < length {
            let count = (length - done).min(buffer.len() as u64) as usize;
            self.disk.read_exact_at(&mut buffer[..count], offset + done)?;
            self.hasher.update(&buffer[..count]);
            done += count as u64;
        }
        self.list.push(Piece { offset, length, file: file.to_owned(), at });
        Ok(())
    }

    /// Takes the blocks from `start` to `end` that are not zero.
    fn literal(&mut self, start: u64, end: u64) -> std::io::Result<()> {
        let mut block = [0; BLOCK as usize];
        for (from, to) in data_ranges(self.disk, start, end)? {
            let mut position = from;
            while position < to {
                // Blocks end at multiples of their size on the disk, so that none is on both sides of HEAD.
                let next = ((position / BLOCK + 1) * BLOCK).min(to);
                let bytes = &mut block[..(next - position) as usize];
                self.disk.read_exact_at(bytes, position)?;
                if bytes.iter().any(|byte| *byte != 0) {
                    self.target.write_all(bytes)?;
                    self.hasher.update(bytes);
                    self.push(position, bytes.len() as u64);
                }
                position = next;
            }
        }
        Ok(())
    }

    /// Adds a piece of the data file, or makes the last one longer.
    fn push(&mut self, offset: u64, length: u64) {
        let at = self.at;
        self.at += length;
        match self.list.last_mut() {
            Some(last) if last.file == DATA_FILE && last.offset + last.length == offset && offset != HEAD => {
                last.length += length;
            }
            _ => self.list.push(Piece { offset, length, file: DATA_FILE.to_owned(), at }),
        }
    }
}
