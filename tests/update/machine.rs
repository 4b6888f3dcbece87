//! A node whose disk is in memory, driven by what runs on a real one: `ksos_runtime::update`. Its disk is made by the
//! composer's writers; every change is recorded; the boot loader is the model.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Cursor;

use ed25519_dalek::{Signer, SigningKey};
use ksos_compose::artifact::{disk, fat};
use ksos_compose::boot::{GrubConfig, esp_files};
use ksos_compose::tree::{Content, Entry, Meta, Node, Tree};
use ksos_formats::boot::ImageId;
use ksos_formats::bootstate::{BootState, COPIES, MARKS, Slot};
use ksos_formats::update::chunks::{self, Piece};
use ksos_formats::update::fetch::Range;
use ksos_formats::update::index::Stored;
use ksos_formats::update::{
    Blob, Channel, ChannelRelease, ChunkIndex, Envelope, KeySet, Payload, PublicKey, Release, Version,
};
use ksos_formats::{Arch, Digest, layout};
use ksos_runtime::agent::health::{FORMAT, Health, Verdict};
use ksos_runtime::sys::double::{Double, MemoryDisk};
use ksos_runtime::sys::{self, Disk, Sys};
use ksos_runtime::update::apply::{self, Options};
use ksos_runtime::update::bootblocks::{BootBlockError, BootBlocks, Copies};
use ksos_runtime::update::error::UpdateError;
use ksos_runtime::update::gate::{self, Verdicts};
use ksos_runtime::update::lock::{self, Lock};
use ksos_runtime::update::places::{Places, PlacesError, SlotPlace};
use ksos_runtime::update::platform::{Live, Platform};
use ksos_runtime::update::rollback;
use ksos_runtime::update::settings::Settings;
use ksos_runtime::update::source::{ChannelName, Served, Sink, Source, SourceError, SourceSettings};
use serde::Serialize;

use crate::world::{DEVICES, Recording, World};

/// When all this takes place, seconds since 1970.
const NOW: u64 = 1_900_000_000;
/// Size of a slot in bytes; an image fills a part of it.
pub const SLOT_SIZE: u64 = 320 << 10;
/// Size of the EFI system partition in bytes: about the smallest that is FAT32.
const ESP_SIZE: u64 = 36 << 20;
const ESP_GUID: &str = "11111111-2222-3333-4444-55555555AAAA";
const NAME: &str = "edge";

/// A slot image and its version.
#[derive(Debug, Clone)]
pub struct Image {
    /// The version.
    pub version: Version,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Image {
    /// Makes an image of `size` bytes: the beginning of an ext4 file system, noise that most versions share, zeros.
    pub fn noise(version: &str, salt: u8, size: usize) -> Self {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut bytes: Vec<u8> = (0..size / 8).flat_map(|_| next().to_le_bytes()).collect();
        bytes[size / 2..size / 2 + 20_000].iter_mut().for_each(|byte| *byte = byte.wrapping_add(salt));
        bytes[size - 30_000..].fill(0);
        bytes[..4096].fill(salt);
        bytes[1024..2048].fill(0);
        bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
        bytes[1048] = 2;
        bytes[1028..1032].copy_from_slice(&((size / 4096) as u32).to_le_bytes());
        Image { version: version.parse().expect("a version"), bytes }
    }
}

/// A release as its source has it.
#[derive(Clone)]
struct Made {
    envelope: Vec<u8>,
    index: Vec<u8>,
    chunks: Vec<u8>,
}

fn key() -> (SigningKey, PublicKey) {
    let key = SigningKey::from_bytes(&[1; 32]);
    let public = PublicKey::from_bytes(key.verifying_key().as_bytes()).expect("a key");
    (key, public)
}

fn sign<T: Payload + Serialize>(document: &T) -> Vec<u8> {
    let (key, public) = key();
    let mut envelope = Envelope::new(document);
    let signature = key.sign(&envelope.message()).to_bytes();
    envelope.add(&public, signature);
    envelope.to_json()
}

fn blob(bytes: &[u8]) -> Blob {
    Blob { size: bytes.len() as u64, sha256: Digest::of(bytes) }
}

/// Cuts an image as the composer does; chunks are stored as they are.
fn cut(image: &[u8]) -> (ChunkIndex, Vec<u8>) {
    let (mut index, mut file, mut known) = (ChunkIndex::new(), Vec::new(), BTreeMap::new());
    let mut rest = image;
    while !rest.is_empty() {
        let piece = chunks::first(rest);
        match piece {
            Piece::Zeros(count) => index.push_zeros(count as u64),
            Piece::Data(bytes) => {
                let (digest, stored) = (Digest::of(bytes), bytes.len() as u32);
                let place = match known.get(&digest) {
                    Some(offset) => Stored::As { stored, offset: *offset },
                    None => Stored::New(stored),
                };
                if known.insert(digest, file.len() as u64).is_none() {
                    file.extend_from_slice(bytes);
                }
                index.push_chunk(digest, stored, place);
            }
        }
        rest = &rest[piece.len()..];
    }
    (index, file)
}

fn make(image: &Image) -> (Release, Made) {
    let (index, chunks) = cut(&image.bytes);
    let index = index.to_bytes();
    let release = Release {
        format: ksos_formats::update::FORMAT,
        name: NAME.to_owned(),
        version: image.version.clone(),
        arch: Arch::X86_64,
        board: "generic".to_owned(),
        minimum_version: None,
        created: NOW - 500,
        expires: Some(NOW + 86_400_000),
        kernel_release: "6.12.0".to_owned(),
        slot: blob(&image.bytes),
        index: blob(&index),
        chunks: blob(&chunks),
    };
    let made = Made { envelope: sign(&release), index, chunks };
    (release, made)
}

/// A source with one release.
struct OneRelease {
    channel: Vec<u8>,
    made: Made,
}

impl Source for OneRelease {
    fn channel(&mut self, _name: &ChannelName) -> Result<Vec<u8>, SourceError> {
        Ok(self.channel.clone())
    }

    fn keys(&mut self, _version: u64) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(None)
    }

    fn open_release(&mut self, _name: &str) -> Result<Vec<u8>, SourceError> {
        Ok(self.made.envelope.clone())
    }

    fn index(&mut self, _blob: &Blob) -> Result<Vec<u8>, SourceError> {
        Ok(self.made.index.clone())
    }

    fn chunks(&mut self, _blob: &Blob, range: Range, sink: &mut Sink<'_>) -> Result<Served, SourceError> {
        let bytes = &self.made.chunks[range.start as usize..range.end as usize];
        sink(range.start, bytes).map_err(|_| SourceError::Stopped)?;
        Ok(Served::Range)
    }
}

/// The node.
pub struct Machine {
    sys: Double,
    /// Places of the four blocks on the ESP.
    pub sectors: [u64; 4],
    /// What slots may hold, oldest first; the last is published.
    pub images: Vec<Image>,
    /// In how many pieces a write reaches the medium ([`Recording::pieces`]).
    pub pieces: usize,
    published: (Vec<u8>, Made),
    healthy: Cell<bool>,
    boots: Cell<u64>,
    version: RefCell<String>,
    reboots: Cell<u32>,
    directory: tempfile::TempDir,
}

/// The files of a new image's EFI system partition that do not come from packages, `others` beside them.
pub fn esp(size: u64, config: &GrubConfig<'_>, others: &[(&str, Vec<u8>)]) -> (Vec<u8>, BTreeMap<String, u64>) {
    let mut tree = Tree::new(NOW as i64);
    let files = esp_files(config).expect("a valid configuration");
    let others = others.iter().map(|(path, bytes)| (*path, bytes.clone()));
    for (path, bytes) in files.into_iter().chain(others) {
        let entry = Entry { meta: Meta::root(0o644, NOW as i64), node: Node::File(Content::inline(bytes)) };
        tree.insert(path, entry).expect("a path");
    }
    let spec = fat::FatSpec {
        size,
        kind: fat::FatKind::Fat32,
        label: layout::ESP_LABEL.to_owned(),
        volume_id: 7,
        epoch: NOW as i64,
    };
    let mut bytes = Cursor::new(Vec::new());
    let summary = fat::write(&tree, &spec, &mut bytes).expect("it fits");
    let mut bytes = bytes.into_inner();
    bytes.resize(size as usize, 0);
    (bytes, summary.files)
}

/// The partitions of a disk, in the default layout without data.
pub fn disk_spec(esp: u64, slot: u64) -> disk::DiskSpec {
    let partition = |label: &str, kind: &str, guid: &str, size| disk::Partition {
        label: label.to_owned(),
        type_guid: kind.parse().expect("a GUID"),
        guid: guid.parse().expect("a GUID"),
        size,
        content: disk::PartitionContent::Empty,
    };
    let linux = layout::LINUX_TYPE_GUID;
    disk::DiskSpec {
        disk_guid: "11111111-2222-3333-4444-555555555555".parse().expect("a GUID"),
        partitions: vec![
            partition(layout::ESP_LABEL, layout::ESP_TYPE_GUID, ESP_GUID, esp),
            partition(layout::SLOT_A_LABEL, linux, "11111111-2222-3333-4444-55555555AAAB", slot),
            partition(layout::SLOT_B_LABEL, linux, "11111111-2222-3333-4444-55555555AAAC", slot),
        ],
        bios: None,
    }
}

impl Machine {
    /// A node that was just built: the first image in slot A, slot B empty, the last image published.
    pub fn new(images: Vec<Image>, slot_size: u64, pieces: usize) -> Self {
        // Every document is made durable; that need not be on a disk.
        let memory = std::path::Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let directory = directory.expect("a directory");
        let sys = Double::at(directory.path());
        sys.now.set(NOW * 1000);
        let cmdline = ["quiet".to_owned()];
        let config =
            GrubConfig { name: "kubesolo-os", arch: Arch::X86_64, cmdline: &cmdline, slot_a: 2, slot_b: 3, timeout: 0 };
        let (volume, files) = esp(ESP_SIZE, &config, &[]);
        let sectors = [COPIES[0], COPIES[1], MARKS[0], MARKS[1]].map(|path| files[path]);
        let mut file = tempfile::tempfile().expect("a file");
        disk::write(&mut file, &disk_spec(ESP_SIZE, slot_size)).expect("it fits");
        let mut table = Vec::new();
        std::io::Seek::rewind(&mut file).expect("a file");
        std::io::Read::read_to_end(&mut file, &mut table).expect("readable");
        let mut first = images[0].bytes.clone();
        first.resize(slot_size as usize, 0);
        for (device, bytes) in
            ["/dev/vda"].into_iter().chain(DEVICES).zip([table, volume, first, vec![0; slot_size as usize]])
        {
            sys.disks.borrow_mut().insert(device.to_owned(), MemoryDisk::new(bytes));
        }
        sys.put("/sys/block/vda/size", "1");
        for number in 1..=3 {
            sys.put(&format!("/sys/block/vda/vda{number}/partition"), number.to_string());
        }
        sys.put("/run/ksos/there", "");
        sys.put(layout::UPDATE_KEYS, serde_json::to_vec(&KeySet::new(vec![key().1], 1).expect("a set")).expect("JSON"));
        let (release, made) = make(images.last().expect("an image"));
        let channel = Channel {
            format: ksos_formats::update::FORMAT,
            name: NAME.to_owned(),
            arch: Arch::X86_64,
            board: "generic".to_owned(),
            channel: "stable".to_owned(),
            sequence: 1,
            created: NOW - 100,
            expires: Some(NOW + 86_400_000),
            releases: vec![ChannelRelease {
                version: release.version.clone(),
                minimum_version: None,
                release: Digest::of(&Envelope::parse(&made.envelope).expect("an envelope").payload),
            }],
        };
        Machine {
            sys,
            sectors,
            images,
            pieces,
            published: (sign(&channel), made),
            healthy: Cell::new(true),
            boots: Cell::new(0),
            version: RefCell::default(),
            reboots: Cell::new(0),
            directory,
        }
    }

    /// Makes the node's disk and files those of `world`. Memory is lost.
    pub fn load(&self, world: &World) {
        let disks = self.sys.disks.borrow();
        let mut esp = disks[DEVICES[0]].bytes.borrow_mut();
        for (offset, sector) in self.sectors.iter().zip(&world.esp) {
            esp[*offset as usize..*offset as usize + 512].copy_from_slice(sector);
        }
        for (device, bytes) in DEVICES[1..].iter().zip(&world.slots) {
            disks[*device].bytes.borrow_mut().copy_from_slice(bytes);
        }
        let _ = self.sys.remove_tree("/data");
        for (path, bytes) in &world.files {
            self.sys.put(path, bytes);
        }
    }

    /// Returns what would be left if the power went now, everything written.
    pub fn world(&self) -> World {
        let disks = self.sys.disks.borrow();
        let esp = disks[DEVICES[0]].bytes.borrow();
        let sector = |offset: u64| esp[offset as usize..offset as usize + 512].to_vec();
        let slot = |device: &str| disks[device].bytes.borrow().clone();
        let directory = format!("/data/{}", layout::UPDATE_DATA);
        let names = self.sys.list(&directory).unwrap_or_default().into_iter();
        let read = |path: String| Some((path.clone(), self.sys.read(&path, 1 << 20).ok()?));
        World {
            esp: self.sectors.map(sector),
            slots: [slot(DEVICES[1]), slot(DEVICES[2])],
            files: names.filter_map(|name| read(format!("{directory}/{name}"))).collect(),
        }
    }

    /// Returns the version that a slot holds, whole.
    pub fn content<'a>(&'a self, world: &World, slot: Slot) -> Option<&'a Version> {
        let bytes = &world.slots[slot as usize];
        self.images.iter().find(|image| bytes.starts_with(&image.bytes)).map(|image| &image.version)
    }

    /// Returns the bytes of a slot with an image.
    pub fn slot(&self, image: &Image) -> Vec<u8> {
        let mut bytes = image.bytes.clone();
        bytes.resize(self.sys.disks.borrow()[DEVICES[1]].bytes.borrow().len(), 0);
        bytes
    }

    /// Restarts the machine: the boot loader, then what PID 1 does with the boot state. Returns slot and version.
    ///
    /// # Panics
    /// When nothing starts, or what starts is no whole image.
    pub fn boot(&self, what: &str) -> (Slot, Version) {
        let mut world = self.world();
        let slot = world.boot().unwrap_or_else(|| panic!("{what}: no slot starts"));
        self.load(&world);
        let version = self.content(&world, slot).cloned();
        let version = version.unwrap_or_else(|| panic!("{what}: slot {slot} starts and is no version"));
        self.sys.put("/proc/cmdline", format!("quiet ksos.slot={slot} ksos.esp={ESP_GUID}\n"));
        self.boots.set(self.boots.get() + 1);
        self.sys.put("/proc/sys/kernel/random/boot_id", format!("boot-{}\n", self.boots.get()));
        *self.version.borrow_mut() = version.to_string();
        self.repair();
        (slot, version)
    }

    /// What PID 1 does with the boot state.
    pub fn repair(&self) {
        let blocks = BootBlocks::open(&self.sys, DEVICES[0]).expect("the ESP is whole");
        let copies = blocks.read().expect("readable");
        if copies.state().is_some() {
            blocks.repair(&copies).expect("it can be written");
        }
    }

    /// Runs something on the node and records what changes.
    pub fn record(&self, name: &str, work: impl FnOnce()) -> Recording {
        let before = self.world();
        *self.sys.changes.borrow_mut() = Some(Vec::new());
        work();
        let mut changes = self.sys.changes.borrow_mut().take().expect("it was recorded");
        // What is in memory is lost anyway.
        changes.retain(|change| match change {
            sys::double::Change::File { path, .. } => path.starts_with("/data/"),
            _ => true,
        });
        Recording { name: name.to_owned(), before, changes, pieces: self.pieces }
    }

    fn settings(&self) -> Settings {
        Settings {
            image: ImageId {
                name: NAME.to_owned(),
                version: self.version.borrow().clone(),
                arch: Arch::X86_64,
                epoch: NOW - 1000,
            },
            board: "generic".to_owned(),
            channel: "stable".to_owned(),
            source: SourceSettings { url: "https://updates.example/os".to_owned(), ..SourceSettings::default() },
            automatic: true,
            interval_ms: 3_600_000,
            gate_ms: 600_000,
            hold_ms: 60_000,
            windows: Vec::new(),
            directory: format!("/data/{}", layout::UPDATE_DATA),
            persistent: true,
        }
    }

    /// What the update service does first: keeps the version on trial, or settles that the node fell back.
    pub fn settle(&self, healthy: bool) -> Result<Verdicts, UpdateError> {
        self.healthy.set(healthy);
        let settled = gate::settle(self, &self.settings()).map(|(verdicts, _)| verdicts);
        self.healthy.set(true);
        settled
    }

    /// Installs what is published; returns whether the machine is to restart.
    pub fn apply(&self) -> Result<bool, UpdateError> {
        let before = self.reboots.get();
        apply::apply(self, &self.settings(), &Options::default())?;
        Ok(self.reboots.get() > before)
    }

    /// Goes back to the other slot.
    pub fn roll_back(&self) -> Result<(), UpdateError> {
        rollback::rollback(self, &self.settings(), &Options::default()).map(drop)
    }

    /// What no update does: the first 4 KiB first, and the trial before what is written is durable.
    pub fn write_slot_and_state(&self, image: &[u8], state: &BootState) {
        let disk = self.sys.open_disk(DEVICES[2], true).expect("slot B");
        disk.write_at(0, &image[..4096]).expect("written");
        disk.write_at(4096, &image[4096..]).expect("written");
        BootBlocks::open(&self.sys, DEVICES[0]).and_then(|blocks| blocks.write(state)).expect("written");
        disk.flush().expect("flushed");
    }

    /// Reads the boot state.
    pub fn copies(&self) -> Copies {
        BootBlocks::open(&self.sys, DEVICES[0]).and_then(|blocks| blocks.read()).expect("readable")
    }
}

impl Platform for Machine {
    fn sys(&self) -> &dyn Sys {
        &self.sys
    }

    fn places(&self) -> Result<Places, PlacesError> {
        Live(&self.sys).places()
    }

    fn boot_state(&self, places: &Places) -> Result<Copies, BootBlockError> {
        Live(&self.sys).boot_state(places)
    }

    fn set_boot_state(&self, places: &Places, state: &BootState) -> Result<(), BootBlockError> {
        Live(&self.sys).set_boot_state(places, state)
    }

    fn set_confirmed(&self, places: &Places, slot: Slot, confirmed: bool) -> Result<(), BootBlockError> {
        Live(&self.sys).set_confirmed(places, slot, confirmed)
    }

    fn open_slot(&self, place: &SlotPlace, writable: bool) -> sys::Result<Box<dyn Disk>> {
        Live(&self.sys).open_slot(place, writable)
    }

    fn open_source(&self, _settings: &SourceSettings) -> Result<Box<dyn Source>, SourceError> {
        let (channel, made) = self.published.clone();
        Ok(Box::new(OneRelease { channel, made }))
    }

    fn health(&self) -> Health {
        let verdict = if self.healthy.get() { Verdict::Healthy } else { Verdict::Unhealthy };
        Health { format: FORMAT, verdict, reasons: Vec::new(), checks: Vec::new() }
    }

    fn lock(&self) -> sys::Result<Option<Lock>> {
        lock::take(self.directory.path().join("lock").to_str().expect("text"))
    }

    fn reboot(&self) -> sys::Result<()> {
        self.reboots.set(self.reboots.get() + 1);
        Ok(())
    }
}
