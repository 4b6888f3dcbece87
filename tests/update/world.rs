//! What survives a power cut, and every way in which one can end a row of changes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use ksos_formats::bootstate::Slot;
use ksos_runtime::sys::double::Change;

use crate::grub::{self, Esp};

/// Device nodes of the node under test: ESP, slot A, slot B.
pub const DEVICES: [&str; 3] = ["/dev/vda1", "/dev/vda2", "/dev/vda3"];
/// A larger write reaches the medium in pieces, at most [`PIECES`] of at least this size, in any order.
const REQUEST: usize = 32 << 10;
const PIECES: usize = 8;
/// Most pending writes of which every subset is tried.
const ALL_SUBSETS: usize = 6;
/// Subsets that are tried where there are more.
const SAMPLED_SUBSETS: usize = 24;

/// Everything that outlives a power cut.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The sectors of both copies, then of both marks.
    pub esp: [Vec<u8>; 4],
    /// Slots A and B.
    pub slots: [Vec<u8>; 2],
    /// Files on the data partition.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl World {
    /// Returns what the boot loader reads.
    pub fn grub(&self) -> Esp {
        let [one, two, a, b] = self.esp.clone();
        Esp { copies: [Some(one), Some(two)], marks: [Some(a), Some(b)] }
    }

    /// Whether GRUB finds a file system in a slot: the magic number of ext2 and its successors.
    pub fn is_readable(&self, slot: Slot) -> bool {
        self.slots[slot as usize][1080..1082] == [0x53, 0xef]
    }

    /// Boots: applies what GRUB writes; returns the slot that starts.
    pub fn boot(&mut self) -> Option<Slot> {
        let decision = grub::decide(&self.grub());
        for (copy, block) in decision.writes {
            self.esp[copy] = block;
        }
        [decision.first, decision.first.other()].into_iter().find(|slot| self.is_readable(*slot))
    }

    /// Returns a number that tells worlds apart.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// Part of a world: where a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Sector(usize),
    Slot(usize),
}

impl Target {
    fn device(self) -> &'static str {
        match self {
            Target::Sector(_) => DEVICES[0],
            Target::Slot(number) => DEVICES[1 + number],
        }
    }
}

/// One write to the disk.
#[derive(Debug, Clone)]
struct Write {
    target: Target,
    offset: usize,
    bytes: Vec<u8>,
}

impl Write {
    /// Applies the bytes that `keep` says have arrived.
    fn apply(&self, world: &mut World, arrived: Arrived) {
        let target = match self.target {
            Target::Sector(number) => &mut world.esp[number],
            Target::Slot(number) => &mut world.slots[number],
        };
        let (length, bytes) = (self.bytes.len(), &self.bytes);
        let place = &mut target[self.offset..self.offset + length];
        // Whole sectors arrive or not, but for the one that the power went in.
        let half = if length > 512 { length / 1024 * 512 } else { length / 2 };
        match arrived {
            Arrived::All => place.copy_from_slice(bytes),
            Arrived::FirstHalf => place[..half].copy_from_slice(&bytes[..half]),
            Arrived::SecondHalf => place[half..].copy_from_slice(&bytes[half..]),
            Arrived::Garbage => {
                place[..half / 512 * 512].copy_from_slice(&bytes[..half / 512 * 512]);
                let start = half / 512 * 512;
                place[start..start + 512].fill(0xa5);
            }
        }
    }
}

/// How much of a write has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrived {
    All,
    FirstHalf,
    SecondHalf,
    Garbage,
}

/// One way in which a row of changes can end.
pub struct Cut {
    /// What happened, for a person.
    pub what: String,
    /// What is left.
    pub world: World,
}

/// Changes in order, from a world on.
pub struct Recording {
    /// What it is, for a person.
    pub name: String,
    /// The world before the first change.
    pub before: World,
    /// The changes.
    pub changes: Vec<Change>,
}

impl Recording {
    /// Hands every way to end it to `visit`, in an order that is always the same; returns their number. Ways whose number
    /// is not `wanted` are only counted. `sectors` are the places of the four blocks on the ESP.
    pub fn cuts(&self, sectors: &[u64; 4], wanted: &dyn Fn(usize) -> bool, visit: &mut dyn FnMut(Cut)) -> usize {
        let (mut durable, mut pending, mut count) = (self.before.clone(), Vec::<Write>::new(), 0);
        let mut give = |what: &dyn Fn() -> String, world: &dyn Fn() -> World| {
            if wanted(count) {
                visit(Cut { what: format!("{}: {}", self.name, what()), world: world() });
            }
            count += 1;
        };
        give(&|| "before".to_owned(), &|| durable.clone());
        for (number, change) in self.changes.iter().enumerate() {
            match change {
                Change::File { path, content } => {
                    match content {
                        Some(content) => durable.files.insert(path.clone(), content.clone()),
                        None => durable.files.remove(path),
                    };
                    give(&|| format!("after change {number}, {path}"), &|| with(&durable, &pending));
                }
                Change::Flush { disk } => {
                    // A flush is of one partition: writes to others may still wait.
                    for write in pending.extract_if(.., |write| write.target.device() == disk) {
                        write.apply(&mut durable, Arrived::All);
                    }
                }
                Change::Write { disk, offset, bytes } => {
                    let size = REQUEST.max(bytes.len().div_ceil(PIECES).next_multiple_of(4096));
                    for (piece, bytes) in bytes.chunks(size).enumerate() {
                        let offset = offset + (piece * size) as u64;
                        let write = locate(disk, offset, bytes, sectors);
                        for arrived in [Arrived::FirstHalf, Arrived::SecondHalf, Arrived::Garbage] {
                            let torn = || {
                                let mut world = with(&durable, &pending);
                                write.apply(&mut world, arrived);
                                world
                            };
                            give(&|| format!("in change {number}, {disk} {offset}: {arrived:?}"), &torn);
                        }
                        pending.push(write);
                        for subset in subsets(pending.len(), number as u64) {
                            let arrived = subset.iter().filter(|arrived| **arrived).count();
                            let what = || format!("after change {number}, with {arrived} of {} writes", subset.len());
                            give(&what, &|| with_subset(&durable, &pending, &subset));
                        }
                    }
                }
            }
        }
        count
    }
}

fn with_subset(durable: &World, pending: &[Write], subset: &[bool]) -> World {
    let mut world = durable.clone();
    let arrived = pending.iter().zip(subset).filter(|(_, arrived)| **arrived);
    arrived.for_each(|(write, _)| write.apply(&mut world, Arrived::All));
    world
}

fn with(durable: &World, pending: &[Write]) -> World {
    let mut world = durable.clone();
    pending.iter().for_each(|write| write.apply(&mut world, Arrived::All));
    world
}

/// Which of `count` pending writes have arrived: every subset, or a sample, in which all, all but the last, and only the
/// last are.
fn subsets(count: usize, seed: u64) -> Vec<Vec<bool>> {
    if count <= ALL_SUBSETS {
        return (0..1_u32 << count).map(|bits| (0..count).map(|index| bits >> index & 1 == 1).collect()).collect();
    }
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state & 1 == 1
    };
    let but_last: Vec<bool> = (1..=count).map(|number| number < count).collect();
    let only_last = but_last.iter().map(|arrived| !arrived).collect();
    let sampled = (0..SAMPLED_SUBSETS).map(|_| (0..count).map(|_| next()).collect());
    [vec![true; count], but_last, only_last].into_iter().chain(sampled).collect()
}

/// Tells what a write is for. Nothing but the four blocks is ever written on the EFI system partition.
fn locate(disk: &str, offset: u64, bytes: &[u8], sectors: &[u64; 4]) -> Write {
    let device = DEVICES.iter().position(|device| *device == disk).expect("a device of the node");
    let bytes = bytes.to_vec();
    if device > 0 {
        return Write { target: Target::Slot(device - 1), offset: offset as usize, bytes };
    }
    let sector = sectors.iter().position(|sector| *sector == offset);
    let sector = sector.unwrap_or_else(|| panic!("a write to the ESP at {offset}, which is none of {sectors:?}"));
    assert_eq!(bytes.len(), 512, "a block is one sector");
    Write { target: Target::Sector(sector), offset: 0, bytes }
}

/// What the boot loader writes, as changes that can be cut.
pub fn boot_changes(world: &World, sectors: &[u64; 4]) -> Vec<Change> {
    let writes = grub::decide(&world.grub()).writes.into_iter();
    let change =
        |(copy, bytes): (usize, Vec<u8>)| Change::Write { disk: DEVICES[0].to_owned(), offset: sectors[copy], bytes };
    writes.map(change).collect()
}
