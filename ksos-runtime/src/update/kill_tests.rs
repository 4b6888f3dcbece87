//! The update process is killed, or the power is cut, before every single change that it makes: to a slot, the boot state,
//! a mark, or a file. Whatever comes then, the node starts, and it ends with the version that it should have.

#![expect(clippy::disallowed_methods, reason = "a test that runs itself as another process")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use ksos_formats::bootstate::{BootState, Slot};

use super::apply::{Done, Options};
use super::gate::Verdicts;
use super::machine::Outcome;
use super::quarantine::Quarantine;
use super::testing::{DIRECTORY, Fault, Made, World, image, make, version};
use super::{floor, history, rollback};
use crate::agent::health::Verdict;
use crate::sys::double::{CUT_ENDS, CutEnds};

/// What happens after the kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The process is started again.
    Again,
    /// The machine restarts.
    Restart,
}

fn release() -> Made {
    static RELEASE: OnceLock<Made> = OnceLock::new();
    RELEASE.get_or_init(|| make("2.0.0", image(2, 2 << 20))).clone()
}

/// Does `work`, which ends before change number `kill`; whether it did not get that far.
fn killed(world: &World, kill: u32, work: impl FnOnce(&World)) -> bool {
    world.sys.cut.set(Some(kill));
    CUT_ENDS.set(CutEnds::Call);
    let ended = catch_unwind(AssertUnwindSafe(|| work(world)));
    CUT_ENDS.set(CutEnds::Change);
    world.sys.cut.set(None);
    match ended {
        Ok(()) => false,
        Err(cause) if cause.is::<CutEnds>() => true,
        Err(cause) => std::panic::resume_unwind(cause),
    }
}

fn results(world: &World) -> Vec<Outcome> {
    history::read(&world.sys, DIRECTORY).expect("readable").into_iter().map(|entry| entry.result).collect()
}

fn count(world: &World, outcome: Outcome) -> usize {
    results(world).into_iter().filter(|result| *result == outcome).count()
}

/// One slot is active, nothing is on trial, one mark is set, and the slot has what runs.
fn at_rest(world: &World, slot: Slot, text: &str) {
    let copies = world.copies();
    assert!(copies.agree(), "{copies:?}");
    assert_eq!((world.boot().active, world.boot().trial, world.booted.get()), (slot, None, slot));
    assert_eq!(copies.confirmed, [Some(slot == Slot::A), Some(slot == Slot::B)]);
    assert_eq!(world.content(slot), Some(version(text)));
    assert_eq!(world.journal().state.name(), "idle");
}

fn settle(world: &World) {
    world.settle().expect("settled");
}

/// Whatever was interrupted: goes on until 2.0.0 is kept.
fn go_on(world: &World, then: Then) {
    if then == Then::Restart {
        world.restart();
    }
    settle(world);
    for _ in 0..3 {
        if world.content(world.booted.get()) == Some(version("2.0.0")) && world.boot().trial.is_none() {
            break;
        }
        world.apply().expect("it goes on");
        world.restart();
        settle(world);
    }
    at_rest(world, Slot::B, "2.0.0");
    assert_eq!(floor::read(&world.sys, DIRECTORY).expect("readable"), Some(version("2.0.0")));
    assert_eq!(count(world, Outcome::Succeeded), 1, "{:?}", results(world));
    assert_eq!(count(world, Outcome::RolledBack), 0, "{:?}", results(world));
}

#[test]
fn killed_before_every_change_of_an_installation() {
    for then in [Then::Again, Then::Restart] {
        let mut kills = 0;
        loop {
            let world = World::new();
            world.publish(&[release()]);
            let was_killed = killed(&world, kills, |world| drop(world.apply().expect("installed")));
            if !was_killed {
                world.restart();
            }
            go_on(&world, then);
            if !was_killed {
                break;
            }
            kills += 1;
        }
        assert!(kills >= 18, "only {kills} changes");
    }
}

#[test]
fn killed_twice_in_an_installation() {
    for (first, second) in [(6, 3), (9, 9), (12, 4), (14, 13), (16, 16)] {
        let world = World::new();
        world.publish(&[release()]);
        killed(&world, first, |world| drop(world.apply()));
        killed(&world, second, |world| drop(world.apply()));
        go_on(&world, Then::Again);
    }
}

#[test]
fn killed_before_every_change_of_a_commit() {
    for then in [Then::Again, Then::Restart] {
        let mut kills = 0;
        loop {
            let world = World::new();
            world.publish(&[release()]);
            world.apply().expect("installed");
            world.restart();
            let was_killed = killed(&world, kills, settle);
            go_on(&world, then);
            if !was_killed {
                break;
            }
            kills += 1;
        }
        assert!(kills >= 8, "only {kills} changes");
    }
}

#[test]
fn killed_before_every_change_of_a_fall_back() {
    for then in [Then::Again, Then::Restart] {
        let mut kills = 0;
        loop {
            let world = World::new();
            world.publish(&[release()]);
            world.apply().expect("installed");
            world.health.replace([Verdict::Unhealthy].into());
            for _ in 0..3 {
                world.restart();
                assert!(matches!(world.settle(), Ok(Verdicts::Over(_))));
            }
            world.restart();
            world.health.replace([Verdict::Healthy].into());
            let was_killed = killed(&world, kills, settle);
            if was_killed && then == Then::Restart {
                world.restart();
            }
            settle(&world);
            at_rest(&world, Slot::A, "1.0.0");
            assert_eq!(count(&world, Outcome::RolledBack), 1);
            assert_eq!(Quarantine::read(&world.sys, DIRECTORY).expect("readable").entries.len(), 1);
            assert!(matches!(world.apply(), Ok(super::apply::Done::UpToDate { .. })));
            if !was_killed {
                break;
            }
            kills += 1;
        }
        assert!(kills >= 7, "only {kills} changes");
    }
}

#[test]
fn killed_before_every_change_of_a_rollback() {
    let mut kills = 0;
    loop {
        let world = World::new();
        world.publish(&[release()]);
        world.apply().expect("2.0.0");
        world.restart();
        settle(&world);
        world.publish(&[release(), make("2.1.0", image(4, 2 << 20))]);
        world.apply().expect("2.1.0");
        world.restart();
        settle(&world);
        let settings = world.settings.borrow().clone();
        let back = |world: &World| drop(rollback::rollback(world, &settings, &Options::default()));
        let was_killed = killed(&world, kills, back);
        world.restart();
        settle(&world);
        // Killed before the trial: the node stays where it was; afterwards: it goes back.
        match world.booted.get() {
            Slot::A => at_rest_or_chosen(&world),
            Slot::B => at_rest(&world, Slot::B, "2.0.0"),
        }
        if !was_killed {
            assert_eq!(world.booted.get(), Slot::B);
            break;
        }
        kills += 1;
    }
    assert!(kills >= 4, "only {kills} changes");
}

/// 2.1.0 still runs; the journal may have a rollback that was not begun.
fn at_rest_or_chosen(world: &World) {
    assert_eq!(world.content(Slot::A), Some(version("2.1.0")));
    assert_eq!((world.boot().active, world.boot().trial), (Slot::A, None));
    assert!(matches!(world.journal().state.name(), "idle" | "chosen" | "activating"));
    world.apply().expect("nothing is in the way");
    assert_eq!(world.content(Slot::B), Some(version("2.0.0")));
}

/// Every change fails from some point on, and the process goes on: a medium that has died. The node still starts.
#[test]
fn everything_fails_from_some_change_on() {
    for kill in 0..40 {
        let world = World::new();
        world.publish(&[release()]);
        world.sys.cut.set(Some(kill));
        let _ = world.apply();
        world.sys.cut.set(None);
        world.restart();
        settle(&world);
        assert!(world.content(world.booted.get()).is_some());
        if world.content(world.booted.get()) == Some(version("1.0.0")) {
            world.apply().expect("nothing is in the way");
            world.restart();
            settle(&world);
        }
        at_rest(&world, Slot::B, "2.0.0");
    }
}

/// What [`child_that_is_killed`] does, in the directory that it runs in: what, before which change or after how many
/// fetched bytes, in which slot and version.
const PLAN: &str = "plan";

/// Not a test by itself: runs as another process in the directory of a node, and ends by SIGKILL before a change.
#[test]
#[ignore = "the tests below run it"]
fn child_that_is_killed() {
    let Ok(plan) = std::fs::read_to_string(PLAN) else { return };
    let [work, kill, slot, running] = plan.split(' ').collect::<Vec<_>>()[..] else { panic!("four words: {plan}") };
    let root = std::env::current_dir().expect("a directory");
    let world = World::at(&root);
    world.publish(&[release()]);
    world.booted.set(Slot::from_name(slot).expect("a slot"));
    running.clone_into(&mut world.settings.borrow_mut().image.version);
    let kill: u32 = kill.parse().expect("a number");
    if work == "fetch" {
        world.fault(Some(Fault::KillsAfter(kill.into())));
    } else {
        world.sys.cut.set(Some(kill));
    }
    CUT_ENDS.set(CutEnds::Process);
    match work {
        "rollback" => {
            let settings = world.settings.borrow().clone();
            drop(rollback::rollback(&world, &settings, &Options::default()).expect("back"));
        }
        "settle" => settle(&world),
        _ => drop(world.apply().expect("installed")),
    }
}

/// Runs the child on a node; whether SIGKILL ended it.
fn run_child(world: &World, work: &str, kill: u32) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let (root, running) = (world.root(), world.settings.borrow().image.version.clone());
    std::fs::write(root.join(PLAN), format!("{work} {kill} {} {running}", world.booted.get())).expect("written");
    let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "update::kill_tests::child_that_is_killed", "--ignored"]);
    let output = command.current_dir(root).output().expect("it runs");
    let killed = output.status.signal() == Some(libc::SIGKILL);
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    killed
}

/// Kills a process that does `work` on a node of `start` before every change that it makes; `after` is what comes then, and
/// is told whether it was killed. Returns how often it was.
fn kill_before_every_change(start: impl Fn() -> World, work: &str, after: impl Fn(&World, bool)) -> u32 {
    let mut kills = 0;
    loop {
        let world = start();
        let was_killed = run_child(&world, work, kills);
        after(&world, was_killed);
        if !was_killed {
            return kills;
        }
        kills += 1;
    }
}

fn new_node() -> World {
    let world = World::new();
    world.publish(&[release()]);
    world
}

/// A node with 2.0.0 on trial.
fn on_trial() -> World {
    let world = new_node();
    world.apply().expect("installed");
    world.restart();
    assert_eq!(world.boot(), BootState { generation: 2, active: Slot::A, trial: Some(2) });
    world
}

#[test]
fn kill_9_before_every_change_of_an_installation() {
    let kills = kill_before_every_change(new_node, "apply", |world, was_killed| {
        if !was_killed {
            world.restart();
        }
        go_on(world, Then::Again);
    });
    assert!(kills >= 18, "only {kills} kills");
}

#[test]
fn kill_9_while_chunks_are_fetched() {
    let whole = new_node();
    whole.apply().expect("installed");
    let sent = whole.sent();
    let mut kept = 0;
    for part in 0..10 {
        let world = new_node();
        assert!(run_child(&world, "fetch", (sent * part / 10) as u32), "{part} tenths of {sent} bytes");
        assert_eq!(world.boot(), BootState::initial(), "nothing of the boot state was touched");
        // What had come is not asked for again, but for what a piece of the slot had not been written yet.
        let Done::Installed { kept_bytes, .. } = world.apply().expect("it goes on") else { panic!("not installed") };
        kept = kept.max(kept_bytes);
        world.restart();
        go_on(&world, Then::Again);
    }
    assert!(kept > 0, "an installation went on where it was");
}

#[test]
fn kill_9_before_every_change_of_a_commit() {
    let kills = kill_before_every_change(on_trial, "settle", |world, _| go_on(world, Then::Restart));
    assert!(kills >= 8, "only {kills} kills");
}

#[test]
fn kill_9_before_every_change_of_a_fall_back() {
    let start = || {
        let world = on_trial();
        (0..3).for_each(|_| world.restart());
        assert_eq!(world.booted.get(), Slot::A);
        world
    };
    let kills = kill_before_every_change(start, "settle", |world, _| {
        settle(world);
        at_rest(world, Slot::A, "1.0.0");
        assert_eq!(count(world, Outcome::RolledBack), 1);
        assert!(matches!(world.apply(), Ok(Done::UpToDate { .. })));
    });
    assert!(kills >= 7, "only {kills} kills");
}

#[test]
fn kill_9_before_every_change_of_a_rollback() {
    let start = || {
        let world = on_trial();
        settle(&world);
        world.publish(&[release(), make("2.1.0", image(4, 2 << 20))]);
        world.apply().expect("2.1.0");
        world.restart();
        settle(&world);
        world
    };
    let kills = kill_before_every_change(start, "rollback", |world, was_killed| {
        world.restart();
        settle(world);
        // Killed before the trial: the node stays where it was; afterwards: it goes back.
        let booted = world.booted.get();
        assert_eq!(world.content(booted), Some(version(if booted == Slot::A { "2.1.0" } else { "2.0.0" })));
        assert_eq!((world.boot().active, world.boot().trial), (booted, None));
        assert!(was_killed || booted == Slot::B, "it goes back");
    });
    assert!(kills >= 4, "only {kills} kills");
}
