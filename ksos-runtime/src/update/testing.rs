//! A node for the tests of updates: partitions and boot state are files, releases are made here, and the machine can
//! be restarted as the boot loader would.
//!
//! Every write to a slot is checked against the invariant: no copy of the boot state that can be read could select it.

#![expect(clippy::disallowed_methods, reason = "test code")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ed25519_dalek::{Signer, SigningKey};
use ksos_formats::boot::ImageId;
use ksos_formats::bootstate::{BLOCK_SIZE, BootState, Slot};
use ksos_formats::update::chunks::{self, Piece};
use ksos_formats::update::fetch::Range;
use ksos_formats::update::index::Stored;
use ksos_formats::update::{
    Blob, Channel, ChannelRelease, ChunkIndex, Envelope, KeySet, Payload, PublicKey, Release, Version, Window,
    release_name,
};
use ksos_formats::{Arch, Digest, layout};
use serde::Serialize;

use super::apply::{self, Done, Options};
use super::bootblocks::{BootBlockError, Copies};
use super::error::UpdateError;
use super::lock::{self, Lock};
use super::places::{Places, PlacesError, SlotPlace};
use super::platform::Platform;
use super::settings::Settings;
use super::source::{ChannelName, Served, Sink, Source, SourceError, SourceSettings};
use super::{gate, journal};
use crate::agent::health::{self, Health, Verdict};
use crate::sys::double::{Double, use_power};
use crate::sys::{self, Disk, Sys};

/// Size of a slot of the tests.
pub(super) const SLOT_SIZE: u64 = 3 << 20;
/// When the tests take place, seconds since 1970.
pub(super) const NOW: u64 = 1_900_000_000;
/// Where updates keep what they keep.
pub(super) const DIRECTORY: &str = "/data/ksos/update";
const NAME: &str = "edge";
const BOARD: &str = "generic";

/// Settings of a node that runs version 1.0.0.
pub(super) fn settings() -> Settings {
    Settings {
        image: ImageId { name: NAME.to_owned(), version: "1.0.0".to_owned(), arch: Arch::X86_64, epoch: NOW - 1000 },
        board: BOARD.to_owned(),
        channel: "stable".to_owned(),
        source: SourceSettings { url: "https://updates.example/os".to_owned(), ..SourceSettings::default() },
        automatic: true,
        interval_ms: 6 * 3_600_000,
        gate_ms: 600_000,
        hold_ms: 60_000,
        windows: Vec::new(),
        directory: DIRECTORY.to_owned(),
        persistent: true,
    }
}

/// A window that opens every day at `start_minute`, UTC, for `length_minutes`.
pub(super) fn window(start_minute: u16, length_minutes: u16) -> Window {
    Window { days: Vec::new(), start_minute, length_minutes, time_zone: "UTC".to_owned() }
}

/// A version.
pub(super) fn version(text: &str) -> Version {
    text.parse().expect("a version")
}

/// The key that signs, and its set.
pub(super) fn key(seed: u8) -> (SigningKey, PublicKey) {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = PublicKey::from_bytes(key.verifying_key().as_bytes()).expect("a key");
    (key, public)
}

/// The envelope of a document, signed by keys of these seeds.
pub(super) fn sign<T: Payload + Serialize>(document: &T, seeds: &[u8]) -> Vec<u8> {
    let mut envelope = Envelope::new(document);
    for seed in seeds {
        let (key, public) = key(*seed);
        let signature = key.sign(&envelope.message()).to_bytes();
        envelope.add(&public, signature);
    }
    envelope.to_json()
}

/// The key set of the image: seed 1.
pub(super) fn key_set() -> KeySet {
    KeySet::new(vec![key(1).1], 1).expect("a set")
}

/// The slot image that a new node has.
fn first_image() -> Vec<u8> {
    static IMAGE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    IMAGE.get_or_init(|| image(1, 2 << 20)).clone()
}

/// A slot image: the beginning is never zero, parts are noise that `salt` changes in one place, parts are zero.
pub(super) fn image(salt: u8, size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = (0..size / 8).flat_map(|_| next().to_le_bytes()).collect();
    // What compresses.
    let quarter = bytes.len() / 4;
    bytes[quarter..quarter + quarter / 2].iter_mut().for_each(|byte| *byte = b'a' + *byte % 4);
    // What is zero: long, short, at the end.
    bytes[2 * quarter + 5000..2 * quarter + 205_000].fill(0);
    bytes[2 * quarter + 300_000..2 * quarter + 310_000].fill(0);
    let end = bytes.len();
    bytes[end - 150_000..].fill(0);
    // A repetition.
    let (from, to) = (quarter, 3 * quarter);
    bytes.copy_within(from..from + 200_000, to);
    bytes[0] = salt;
    for place in [quarter / 2, 3 * quarter + 210_000] {
        bytes[place..place + 60_000].iter_mut().for_each(|byte| *byte = byte.wrapping_mul(17).wrapping_add(salt));
    }
    bytes
}

/// A release as it is published.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) release: Release,
    pub(super) index: Vec<u8>,
    pub(super) chunks: Vec<u8>,
    pub(super) image: Vec<u8>,
}

fn blob(bytes: &[u8]) -> Blob {
    Blob { size: bytes.len() as u64, sha256: Digest::of(bytes) }
}

/// Cuts an image into chunks, as the composer does.
pub(super) fn cut(image: &[u8]) -> (ChunkIndex, Vec<u8>) {
    let (mut index, mut file, mut places) = (ChunkIndex::new(), Vec::new(), BTreeMap::new());
    let mut rest = image;
    while !rest.is_empty() {
        let piece = chunks::first(rest);
        match piece {
            Piece::Zeros(count) => index.push_zeros(count as u64),
            Piece::Data(bytes) => {
                let digest = Digest::of(bytes);
                let stored = *places.entry(digest).or_insert_with(|| {
                    let compressed = zstd::bulk::compress(bytes, 3).expect("compressed");
                    let stored = if compressed.len() < bytes.len() { &compressed } else { bytes };
                    file.extend_from_slice(stored);
                    (stored.len() as u32, (file.len() - stored.len()) as u64, false)
                });
                let (stored, offset, known) = stored;
                let place = if known { Stored::As { stored, offset } } else { Stored::New(stored) };
                places.insert(digest, (stored, offset, true));
                index.push_chunk(digest, bytes.len() as u32, place);
            }
        }
        rest = &rest[piece.len()..];
    }
    (index, file)
}

/// Makes a release of an image.
pub(super) fn make(text: &str, image: Vec<u8>) -> Made {
    let (index, chunks) = cut(&image);
    let index = index.to_bytes();
    let release = Release {
        format: ksos_formats::update::FORMAT,
        name: NAME.to_owned(),
        version: version(text),
        arch: Arch::X86_64,
        board: BOARD.to_owned(),
        minimum_version: None,
        created: NOW - 500,
        expires: Some(NOW + 30 * 86_400),
        kernel_release: "6.12.0".to_owned(),
        slot: blob(&image),
        index: blob(&index),
        chunks: blob(&chunks),
    };
    Made { release, index, chunks, image }
}

/// What a source does besides what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Ranges are not served: the whole file is.
    Whole,
    /// The connection breaks for good after so many bytes in all.
    BreaksAfter(u64),
    /// This process is killed after so many bytes in all.
    KillsAfter(u64),
    /// One byte of the chunk file is another.
    Flips(u64),
    /// Other bytes than were asked for.
    WrongRange,
    /// Nothing comes, and that is said to be all.
    Empty,
}

/// What is published.
#[derive(Default)]
pub(super) struct Published {
    pub(super) channels: BTreeMap<String, Vec<u8>>,
    pub(super) keys: BTreeMap<u64, Vec<u8>>,
    pub(super) releases: BTreeMap<String, (Vec<u8>, Made)>,
    pub(super) fault: Cell<Option<Fault>>,
    /// Bytes of chunks that were sent.
    pub(super) sent: Cell<u64>,
    /// Names under which something was asked for.
    pub(super) asked: RefCell<Vec<String>>,
}

struct DoubleSource {
    published: Rc<RefCell<Published>>,
    open: Option<Made>,
}

fn not_found(what: impl Into<String>) -> SourceError {
    SourceError::NotFound(what.into())
}

impl Source for DoubleSource {
    fn channel(&mut self, name: &ChannelName) -> Result<Vec<u8>, SourceError> {
        self.published.borrow().channels.get(&name.channel).cloned().ok_or_else(|| not_found(&name.channel))
    }

    fn keys(&mut self, version: u64) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(self.published.borrow().keys.get(&version).cloned())
    }

    fn open_release(&mut self, name: &str) -> Result<Vec<u8>, SourceError> {
        let published = self.published.borrow();
        published.asked.borrow_mut().push(name.to_owned());
        let (envelope, made) = published.releases.get(name).ok_or_else(|| not_found(name))?;
        self.open = Some(made.clone());
        Ok(envelope.clone())
    }

    fn index(&mut self, blob: &Blob) -> Result<Vec<u8>, SourceError> {
        let made = self.open.as_ref().ok_or(SourceError::NotOpen)?;
        let (expected, found) = (blob.sha256, Digest::of(&made.index));
        if found != expected {
            return Err(SourceError::Digest { url: "index".to_owned(), expected, found });
        }
        Ok(made.index.clone())
    }

    fn chunks(&mut self, _blob: &Blob, range: Range, sink: &mut Sink<'_>) -> Result<Served, SourceError> {
        let made = self.open.as_ref().ok_or(SourceError::NotOpen)?;
        let published = self.published.borrow();
        let fault = published.fault.get();
        let (served, start, end) = match fault {
            Some(Fault::Whole) => (Served::Whole, 0, made.chunks.len() as u64),
            Some(Fault::WrongRange) => (Served::Range, range.start + 1, range.end),
            Some(Fault::Empty) => (Served::Range, range.start, range.start),
            _ => (Served::Range, range.start, range.end),
        };
        let mut at = start;
        while at < end {
            let part = (end - at).min(7001);
            let mut bytes = made.chunks[at as usize..(at + part) as usize].to_vec();
            if let Some(Fault::Flips(place)) = fault
                && (at..at + part).contains(&place)
            {
                bytes[(place - at) as usize] ^= 1;
            }
            if let Some(Fault::BreaksAfter(limit)) = fault
                && published.sent.get() + part > limit
            {
                return Err(SourceError::Network { url: "chunks".to_owned(), reason: "it broke".to_owned() });
            }
            if let Some(Fault::KillsAfter(limit)) = fault
                && published.sent.get() + part > limit
            {
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            }
            published.sent.set(published.sent.get() + part);
            sink(at, &bytes).map_err(|_| SourceError::Stopped)?;
            at += part;
        }
        Ok(served)
    }
}

/// A partition that is a file.
struct FileDisk {
    file: File,
    slot: Slot,
    /// `None`: opened for reading.
    node: Option<Rc<Shared>>,
}

/// What the disks of a node need of it.
struct Shared {
    root: PathBuf,
    cut: Rc<Cell<Option<u32>>>,
    /// Bytes of slots that were written.
    written: Cell<u64>,
    /// A write to a slot that reaches this byte fails.
    bad_sector: Cell<Option<u64>>,
    /// Bit rot: reads of the target see another byte here.
    rot: Cell<Option<u64>>,
}

impl Shared {
    fn copies(&self) -> Copies {
        let read = |name: &str| fs::read(self.root.join(name)).unwrap_or_default();
        let mark = |name: &str| match read(name).as_slice() {
            b"yes" => Some(true),
            b"no" => Some(false),
            _ => None,
        };
        Copies {
            copies: ["boot1", "boot2"].map(|name| BootState::decode(&read(name))),
            confirmed: ["mark-a", "mark-b"].map(mark),
        }
    }

    /// Panics when the boot loader could start `slot` now.
    fn check(&self, slot: Slot) {
        let copies = self.copies();
        for state in copies.copies.iter().flatten() {
            assert_ne!(state.active, slot, "invariant: a copy of the boot state has the slot as active");
            assert!(state.trial.is_none_or(|left| left == 0), "invariant: a copy of the boot state has a trial");
        }
        let mark = if slot == Slot::A { copies.confirmed[0] } else { copies.confirmed[1] };
        assert_ne!(mark, Some(true), "invariant: the slot is confirmed");
    }
}

impl Disk for FileDisk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> sys::Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|source| sys::Error::new("read", "slot", source))?;
        if let Some(rot) = self.node.as_ref().and_then(|node| node.rot.get())
            && let Some(index) = rot.checked_sub(offset).filter(|index| *index < buffer.len() as u64)
        {
            buffer[index as usize] ^= 0x40;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> sys::Result<()> {
        let Some(node) = &self.node else {
            return Err(sys::Error::new("write", "slot", std::io::Error::from_raw_os_error(libc::EBADF)));
        };
        node.check(self.slot);
        use_power(&node.cut, "slot")?;
        let end = offset + bytes.len() as u64;
        if node.bad_sector.get().is_some_and(|bad| (offset..end).contains(&bad)) {
            return Err(sys::Error::new("write", "slot", std::io::Error::from_raw_os_error(libc::EIO)));
        }
        assert!(end <= SLOT_SIZE, "a write behind the end of the partition");
        node.written.set(node.written.get() + bytes.len() as u64);
        self.file.write_all_at(bytes, offset).map_err(|source| sys::Error::new("write", "slot", source))
    }

    fn flush(&self) -> sys::Result<()> {
        Ok(())
    }

    fn read_direct(&self, offset: u64, buffer: &mut [u8]) -> sys::Result<()> {
        self.read_at(offset, buffer)
    }

    fn write_direct(&self, offset: u64, bytes: &[u8]) -> sys::Result<()> {
        self.write_at(offset, bytes)
    }

    fn size(&self) -> u64 {
        SLOT_SIZE
    }

    fn sector_size(&self) -> u64 {
        512
    }
}

/// The node.
pub(super) struct World {
    pub(super) sys: Double,
    pub(super) settings: RefCell<Settings>,
    pub(super) published: Rc<RefCell<Published>>,
    pub(super) booted: Cell<Slot>,
    /// What is found of health, in order; then always the last.
    pub(super) health: RefCell<VecDeque<Verdict>>,
    pub(super) reboots: Cell<u32>,
    /// Slots cannot be opened for writing, for this reason (errno(3)).
    pub(super) read_only: Cell<Option<i32>>,
    /// Copy 2 of the boot state cannot be written.
    pub(super) bad_copy: Cell<Option<usize>>,
    /// What is known to boot, by its version.
    pub(super) images: RefCell<Vec<(Version, Vec<u8>)>>,
    shared: Rc<Shared>,
    boots: Cell<u32>,
    _directory: Option<tempfile::TempDir>,
}

impl World {
    /// A node that was just built: version 1.0.0 in slot A, slot B empty.
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut world = Self::at(directory.path());
        let mut slot = first_image();
        slot.resize(SLOT_SIZE as usize, 0);
        fs::write(world.slot_path(Slot::A), slot).expect("written");
        fs::write(world.slot_path(Slot::B), vec![0; SLOT_SIZE as usize]).expect("written");
        world.set_boot(&BootState::initial());
        world.mark(Slot::A, true);
        world.mark(Slot::B, false);
        let keys = serde_json::to_vec(&key_set()).expect("JSON");
        world.sys.put(layout::UPDATE_KEYS, keys);
        world.sys.put("/run/ksos/there", "");
        world.sys.put("/proc/sys/kernel/random/boot_id", "boot-0\n");
        world._directory = Some(directory);
        world
    }

    /// A node whose files are below `root`: as another process has left it.
    pub(super) fn at(root: &Path) -> Self {
        let sys = Double::at(root);
        sys.now.set(NOW * 1000);
        let shared = Shared {
            root: root.to_owned(),
            cut: Rc::clone(&sys.cut),
            written: Cell::default(),
            bad_sector: Cell::default(),
            rot: Cell::default(),
        };
        World {
            sys,
            settings: RefCell::new(settings()),
            published: Rc::default(),
            booted: Cell::new(Slot::A),
            health: RefCell::new(VecDeque::from([Verdict::Healthy])),
            reboots: Cell::default(),
            read_only: Cell::default(),
            bad_copy: Cell::default(),
            images: RefCell::new(vec![(version("1.0.0"), first_image())]),
            shared: Rc::new(shared),
            boots: Cell::default(),
            _directory: None,
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.shared.root
    }

    pub(super) fn slot_path(&self, slot: Slot) -> PathBuf {
        self.root().join(format!("slot-{slot}"))
    }

    pub(super) fn slot_bytes(&self, slot: Slot) -> Vec<u8> {
        fs::read(self.slot_path(slot)).expect("readable")
    }

    pub(super) fn set_boot(&self, state: &BootState) {
        for name in ["boot1", "boot2"] {
            fs::write(self.root().join(name), state.encode()).expect("written");
        }
    }

    /// Writes garbage, or another state, to one copy.
    pub(super) fn set_copy(&self, number: usize, bytes: &[u8]) {
        fs::write(self.root().join(["boot1", "boot2"][number]), bytes).expect("written");
    }

    pub(super) fn mark(&self, slot: Slot, confirmed: bool) {
        let text = if confirmed { "yes" } else { "no" };
        fs::write(self.root().join(format!("mark-{slot}")), text).expect("written");
    }

    pub(super) fn copies(&self) -> Copies {
        self.shared.copies()
    }

    pub(super) fn boot(&self) -> BootState {
        self.copies().state().expect("a valid copy")
    }

    pub(super) fn bad_sector(&self, offset: u64) {
        self.shared.bad_sector.set(Some(offset));
    }

    pub(super) fn rot(&self, offset: Option<u64>) {
        self.shared.rot.set(offset);
    }

    pub(super) fn written(&self) -> u64 {
        self.shared.written.get()
    }

    /// Publishes releases in channel `stable`, the oldest first.
    pub(super) fn publish(&self, releases: &[Made]) {
        let sequence = self.published.borrow().channels.len() as u64 + 1;
        let sealed: Vec<(Made, Vec<u8>)> =
            releases.iter().map(|made| (made.clone(), sign(&made.release, &[1]))).collect();
        for (made, envelope) in &sealed {
            let name = release_name(NAME, &made.release.version, made.release.arch);
            let mut images = self.images.borrow_mut();
            images.retain(|(known, _)| *known != made.release.version);
            images.push((made.release.version.clone(), made.image.clone()));
            self.published.borrow_mut().releases.insert(name, (envelope.clone(), made.clone()));
        }
        let mut channel = self.channel(sequence, &[]);
        channel.releases = sealed
            .iter()
            .map(|(made, envelope)| ChannelRelease {
                version: made.release.version.clone(),
                minimum_version: made.release.minimum_version.clone(),
                release: Digest::of(&Envelope::parse(envelope).expect("an envelope").payload),
            })
            .collect();
        self.publish_channel(&channel);
    }

    /// A channel without releases.
    pub(super) fn channel(&self, sequence: u64, releases: &[ChannelRelease]) -> Channel {
        Channel {
            format: ksos_formats::update::FORMAT,
            name: NAME.to_owned(),
            arch: Arch::X86_64,
            board: BOARD.to_owned(),
            channel: "stable".to_owned(),
            sequence,
            created: NOW - 100,
            expires: Some(NOW + 7 * 86_400),
            releases: releases.to_vec(),
        }
    }

    pub(super) fn publish_channel(&self, channel: &Channel) {
        self.published.borrow_mut().channels.insert(channel.channel.clone(), sign(channel, &[1]));
    }

    pub(super) fn fault(&self, fault: Option<Fault>) {
        self.published.borrow().fault.set(fault);
        self.published.borrow().sent.set(0);
    }

    pub(super) fn sent(&self) -> u64 {
        self.published.borrow().sent.get()
    }

    pub(super) fn apply(&self) -> Result<Done, UpdateError> {
        self.apply_with(&Options::default())
    }

    pub(super) fn apply_with(&self, options: &Options) -> Result<Done, UpdateError> {
        let settings = self.settings.borrow().clone();
        apply::apply(self, &settings, options)
    }

    pub(super) fn settle(&self) -> Result<gate::Verdicts, UpdateError> {
        let settings = self.settings.borrow().clone();
        gate::settle(self, &settings).map(|(verdict, _)| verdict)
    }

    pub(super) fn journal(&self) -> journal::Journal {
        journal::Journal::read(&self.sys, DIRECTORY).0
    }

    /// The version of the image in a slot, when it is whole.
    pub(super) fn content(&self, slot: Slot) -> Option<Version> {
        let bytes = self.slot_bytes(slot);
        let images = self.images.borrow();
        images.iter().find(|(_, image)| bytes.starts_with(image)).map(|(version, _)| version.clone())
    }

    /// Restarts the machine as the boot loader does; panics when nothing starts.
    pub(super) fn restart(&self) {
        let copies = self.copies();
        let mut wanted = match copies.state() {
            Some(BootState { generation, active, trial: Some(left) }) if left > 0 => {
                self.set_boot(&BootState { generation, active, trial: Some(left - 1) });
                active.other()
            }
            Some(state) => state.active,
            None if copies.confirmed[1] == Some(true) => Slot::B,
            None => Slot::A,
        };
        if self.content(wanted).is_none() {
            wanted = wanted.other();
        }
        let version = self.content(wanted).expect("no slot starts: the node is dead");
        self.booted.set(wanted);
        self.boots.set(self.boots.get() + 1);
        self.settings.borrow_mut().image.version = version.to_string();
        self.sys.put("/proc/sys/kernel/random/boot_id", format!("boot-{}\n", self.boots.get()));
    }
}

impl Platform for World {
    fn sys(&self) -> &dyn Sys {
        &self.sys
    }

    fn places(&self) -> Result<Places, PlacesError> {
        let place = |slot: Slot| SlotPlace { device: format!("slot-{slot}"), size: SLOT_SIZE };
        Ok(Places { booted: self.booted.get(), esp: "esp".to_owned(), slots: [place(Slot::A), place(Slot::B)] })
    }

    fn boot_state(&self, _places: &Places) -> Result<Copies, BootBlockError> {
        Ok(self.copies())
    }

    fn set_boot_state(&self, _places: &Places, state: &BootState) -> Result<(), BootBlockError> {
        for number in [0, 1] {
            use_power(&self.sys.cut, "boot state")?;
            if self.bad_copy.get() == Some(number) {
                return Err(sys::Error::new("write", "boot state", std::io::Error::from_raw_os_error(libc::EIO)).into());
            }
            let block: [u8; BLOCK_SIZE] = state.encode();
            self.set_copy(number, &block);
        }
        Ok(())
    }

    fn set_confirmed(&self, _places: &Places, slot: Slot, confirmed: bool) -> Result<(), BootBlockError> {
        use_power(&self.sys.cut, "mark")?;
        self.mark(slot, confirmed);
        Ok(())
    }

    fn open_slot(&self, place: &SlotPlace, writable: bool) -> sys::Result<Box<dyn Disk>> {
        let slot = Slot::from_name(place.device.trim_start_matches("slot-")).expect("a slot");
        if let Some(errno) = self.read_only.get().filter(|_| writable) {
            return Err(sys::Error::new("open", &place.device, std::io::Error::from_raw_os_error(errno)));
        }
        let open = OpenOptions::new().read(true).write(writable).open(self.slot_path(slot));
        let file = open.map_err(|source| sys::Error::new("open", &place.device, source))?;
        Ok(Box::new(FileDisk { file, slot, node: writable.then(|| Rc::clone(&self.shared)) }))
    }

    fn open_source(&self, _settings: &SourceSettings) -> Result<Box<dyn Source>, SourceError> {
        Ok(Box::new(DoubleSource { published: Rc::clone(&self.published), open: None }))
    }

    fn health(&self) -> Health {
        let mut answers = self.health.borrow_mut();
        let verdict = if answers.len() > 1 { answers.pop_front() } else { answers.front().copied() };
        let verdict = verdict.unwrap_or(Verdict::Healthy);
        let reasons = if verdict == Verdict::Unhealthy { vec!["services: app failed".to_owned()] } else { Vec::new() };
        Health { format: health::FORMAT, verdict, reasons, checks: Vec::new() }
    }

    fn lock(&self) -> sys::Result<Option<Lock>> {
        lock::take(self.root().join("lock").to_str().expect("text"))
    }

    fn reboot(&self) -> sys::Result<()> {
        self.reboots.set(self.reboots.get() + 1);
        Ok(())
    }
}
