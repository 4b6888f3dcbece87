//! Every way in which the power can go while a node updates, keeps, falls back or is rolled back, against the model of the
//! boot loader: it always boots, to the old or the new version as a whole, and gets to rest.

use std::collections::BTreeSet;

use ksos_formats::bootstate::{BootState, Slot};
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
    all.extend(interrupted(machine, &fresh));
    all.extend(repairs(machine, &installed));
    // A slot that has something whole is overwritten.
    let mut used = fresh;
    let other = &machine.images[0].bytes;
    used.slots[1][..other.len()].copy_from_slice(other);
    machine.load(&used);
    machine.boot("with a version in slot B");
    all.push(machine.record("install over a whole version", || assert!(machine.apply().expect("installed"))));
    all
}

/// Installations that go on after one was interrupted: at its beginning, in the middle, before the trial.
fn interrupted(machine: &Machine, fresh: &World) -> Vec<Recording> {
    machine.load(fresh);
    machine.boot("fresh");
    let install = machine.record("install", || assert!(machine.apply().expect("installed")));
    let count = install.cuts(&machine.sectors, &|_| false, &mut |_| {});
    let mut worlds = Vec::new();
    let wanted = |number: usize| (1..6).any(|part| number == count * part / 6);
    install.cuts(&machine.sectors, &wanted, &mut |cut| worlds.push(cut.world));
    let go_on = |(part, world): (usize, &World)| {
        machine.load(world);
        machine.boot("interrupted");
        machine.record(&format!("install, interrupted at {}/6", part + 1), || {
            machine.settle(true).expect("settled");
            // One that was interrupted behind the trial's beginning waits for its restart.
            let _ = machine.apply();
        })
    };
    worlds.iter().enumerate().map(go_on).collect()
}

/// What PID 1 does with copies of the boot state that differ.
fn repairs(machine: &Machine, installed: &World) -> Vec<Recording> {
    let block = |generation, active, trial| BootState { generation, active, trial }.encode().to_vec();
    let junk = vec![0xff; 512];
    let pairs = [
        (block(3, Slot::A, Some(3)), block(2, Slot::A, None)),
        (block(4, Slot::B, None), block(3, Slot::A, Some(1))),
        (block(3, Slot::A, Some(1)), block(3, Slot::A, Some(2))),
        (junk.clone(), block(3, Slot::A, Some(2))),
        (block(3, Slot::A, None), junk),
    ];
    let repair = |(number, (one, two)): (usize, (Vec<u8>, Vec<u8>))| {
        let mut world = installed.clone();
        (world.esp[0], world.esp[1]) = (one, two);
        machine.load(&world);
        machine.record(&format!("repair {number}"), || machine.repair())
    };
    pairs.into_iter().enumerate().map(repair).collect()
}

/// Boots what a cut has left until nothing changes any more, the node doing nothing: every trial fails. Returns what it
/// comes to, or how it does not boot, boots something that is no whole version, or does not come to rest.
fn left_alone(machine: &Machine, cut: &Cut, tally: &mut Tally) -> Result<(Slot, Version), String> {
    let mut world = cut.world.clone();
    for count in 0..BOOTS {
        let before = world.esp.clone();
        let slot = world.boot().ok_or_else(|| format!("{}, boot {count}: no slot starts", cut.what))?;
        let version = machine.content(&world, slot);
        let version = version.ok_or_else(|| format!("{}, boot {count}: slot {slot} is a mix", cut.what))?;
        tally.boots += 1;
        if world.esp == before {
            return Ok((slot, version.clone()));
        }
    }
    Err(format!("{}: {BOOTS} boots and still no rest", cut.what))
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
        left_alone(machine, &cut, tally).unwrap_or_else(|error| panic!("{error}"));
        let changes = boot_changes(&cut.world, &machine.sectors);
        if !changes.is_empty() {
            let name = format!("{}, then in the boot loader", cut.what);
            let loader = Recording { name, before: cut.world.clone(), changes };
            tally.in_loader +=
                loader.cuts(&machine.sectors, &|_| true, &mut |cut| drop(left_alone(machine, &cut, tally)));
        }
        if different.len() % GO_ON_STEP == 0 || all() {
            goes_on(machine, &cut, tally);
        }
        different.push(cut.world);
    };
    let count = recording.cuts(&machine.sectors, &|_| true, &mut visit);
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

/// An update in the wrong order, with the real functions for the blocks: the harness finds the mix.
#[test]
fn a_trial_before_the_slot_is_whole_is_found_out() {
    let machine = machine();
    machine.boot("fresh");
    let trial = BootState { generation: 2, active: Slot::A, trial: Some(3) };
    let image = machine.images[1].bytes.clone();
    let wrong = machine.record("wrong order", || machine.write_slot_and_state(&image, &trial));
    let mut tally = Tally::default();
    let (mut mixes, mut whole) = (0, 0);
    wrong.cuts(&machine.sectors, &|_| true, &mut |cut| match left_alone(&machine, &cut, &mut tally) {
        Ok(_) => whole += 1,
        Err(error) => {
            assert!(error.ends_with("slot b is a mix"), "{error}");
            mixes += 1;
        }
    });
    assert!(mixes > 0 && whole > 0, "{mixes} mixes were found in {} cases", mixes + whole);
}
