//! Every way in which the power can go while a node updates, keeps, falls back or is rolled back, against the model of the
//! boot loader: it always boots, to the old or the new version as a whole, and gets to rest.

use std::collections::BTreeSet;

use ksos_formats::bootstate::Slot;
use ksos_formats::update::Version;

use crate::machine::{Image, Machine, SLOT_SIZE};
use crate::world::{Cut, Recording, World, boot_changes};

/// Size of a slot image in bytes.
const IMAGE: usize = 256 << 10;
/// Boots after which a node that is left alone must be at rest.
const BOOTS: usize = 6;
/// Of so many different worlds one is given back to a node that goes on, unless all are to be.
const GO_ON_STEP: usize = 9;

/// Numbers of what was tried.
#[derive(Default)]
pub struct Tally {
    /// Ways to lose power.
    pub cuts: usize,
    /// Of these, while the boot loader itself wrote.
    pub in_loader: usize,
    /// Different disks that were left.
    pub worlds: usize,
    /// Boots of the model.
    pub boots: usize,
    /// Nodes that went on until they were at rest.
    pub went_on: usize,
}

/// Whether all cases are to be tried, however long that takes.
pub fn all() -> bool {
    std::env::var("KSOS_POWER_CUTS").is_ok_and(|value| value == "all")
}

/// A node with two versions.
pub fn machine() -> Machine {
    let images = vec![Image::noise("1.0.0", 3, IMAGE), Image::noise("1.1.0", 200, IMAGE)];
    Machine::new(images, SLOT_SIZE)
}

/// What a node does in its life, recorded piece by piece.
pub fn recordings(machine: &Machine) -> Vec<Recording> {
    let mut all = Vec::new();
    let fresh = machine.world();
    machine.boot("fresh");
    all.push(machine.record("first settling", || drop(machine.settle(true).expect("nothing to settle"))));
    all.push(machine.record("install", || assert!(machine.apply().expect("it is installed"), "it restarts")));
    let installed = machine.world();
    assert_eq!(machine.boot("trial"), (Slot::B, machine.images[1].version.clone()));
    all.push(machine.record("commit", || drop(machine.settle(true).expect("kept"))));
    all.push(machine.record("roll back", || machine.roll_back().expect("the old one is there")));
    assert_eq!(machine.boot("rolled back").0, Slot::A);
    all.push(machine.record("commit of the way back", || drop(machine.settle(true).expect("kept"))));
    machine.load(&installed);
    for left in [2, 1, 0] {
        assert_eq!(machine.boot("unhealthy").0, Slot::B, "{left}");
        all.push(machine.record("unhealthy trial", || drop(machine.settle(false).expect("not kept"))));
    }
    assert_eq!(machine.boot("fallen back").0, Slot::A, "three tries, then the old version");
    all.push(machine.record("fall back", || drop(machine.settle(true).expect("settled"))));
    // A slot that has something: what is left of an older version is overwritten.
    let mut used = fresh;
    used.slots[1][..IMAGE].copy_from_slice(&Image::noise("0.9.0", 77, IMAGE).bytes);
    machine.load(&used);
    machine.boot("with an older version in slot B");
    all.push(machine.record("install over another version", || assert!(machine.apply().expect("installed"))));
    all
}

/// Boots what a cut has left until nothing changes any more, the node doing nothing: every trial fails.
///
/// # Panics
/// When it does not boot, boots anything but a whole version, or does not come to rest.
fn left_alone(machine: &Machine, cut: &Cut, tally: &mut Tally) -> (Slot, Version) {
    let mut world = cut.world.clone();
    for count in 0..BOOTS {
        let before = world.clone();
        let slot = world.boot().unwrap_or_else(|| panic!("{}, boot {count}: no slot starts", cut.what));
        let version = machine.content(&world, slot);
        let version = version.unwrap_or_else(|| panic!("{}, boot {count}: slot {slot} is a mix", cut.what));
        tally.boots += 1;
        if world == before {
            return (slot, version.clone());
        }
    }
    panic!("{}: {BOOTS} boots and still no rest", cut.what);
}

/// A healthy node goes on from what a cut has left: it ends at rest with the new version in use and both copies equal.
fn goes_on(machine: &Machine, cut: &Cut, tally: &mut Tally) {
    machine.load(&cut.world);
    for _ in 0..BOOTS {
        let (slot, version) = machine.boot(&cut.what);
        machine.settle(true).unwrap_or_else(|error| panic!("{}: {error}", cut.what));
        let newest = &machine.images.last().expect("an image").version;
        let copies = machine.copies();
        let state = copies.state().unwrap_or_else(|| panic!("{}: no state", cut.what));
        assert!(copies.agree() && state.trial.is_none() && state.active == slot, "{}: {copies:?}", cut.what);
        let confirmed = [Slot::A, Slot::B].map(|slot| copies.is_confirmed(slot));
        assert_eq!(confirmed, [slot == Slot::A, slot == Slot::B], "{}", cut.what);
        // A refusal is an end as well: what failed does not come again.
        if version == *newest || !machine.apply().unwrap_or(false) {
            tally.went_on += 1;
            return;
        }
    }
    panic!("{}: {BOOTS} updates and still no rest", cut.what);
}

/// Tries every way to end a recording.
fn try_all(machine: &Machine, recording: &Recording, seen: &mut BTreeSet<u64>, tally: &mut Tally) -> Vec<World> {
    let mut different = Vec::new();
    let mut visit = |cut: Cut| {
        if !seen.insert(cut.world.fingerprint()) {
            return;
        }
        left_alone(machine, &cut, tally);
        let changes = boot_changes(&cut.world, &machine.sectors);
        if !changes.is_empty() {
            let name = format!("{}, then in the boot loader", cut.what);
            let loader = Recording { name, before: cut.world.clone(), changes };
            tally.in_loader += loader.cuts(&machine.sectors, &mut |cut| drop(left_alone(machine, &cut, tally)));
        }
        if different.len() % GO_ON_STEP == 0 || all() {
            goes_on(machine, &cut, tally);
        }
        different.push(cut.world);
    };
    let count = recording.cuts(&machine.sectors, &mut visit);
    tally.cuts += count;
    different
}

#[test]
fn no_power_cut_leaves_a_node_that_does_not_boot() {
    let machine = machine();
    let (mut tally, mut seen) = (Tally::default(), BTreeSet::new());
    for recording in recordings(&machine) {
        let before = tally.cuts;
        let different = try_all(&machine, &recording, &mut seen, &mut tally);
        println!("{}: {} cuts, {} new disks", recording.name, tally.cuts - before, different.len());
        tally.worlds += different.len();
    }
    let Tally { cuts, in_loader, worlds, boots, went_on } = tally;
    println!(
        "power cuts: {} cases ({in_loader} of them in the boot loader), {worlds} different disks, {boots} boots, \
         {went_on} nodes that went on",
        cuts + in_loader
    );
    assert!(cuts + in_loader >= 1000 && went_on >= 50, "too few cases");
}
