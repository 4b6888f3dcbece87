//! The update process is killed, or the power is cut, before every single change that it makes: to a slot, the boot state,
//! a mark, or a file. Whatever comes then, the node starts, and it ends with the version that it should have.

#![expect(clippy::disallowed_methods, reason = "a test that runs itself as another process")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;

use ksos_formats::bootstate::{BootState, Slot};

use super::apply::Options;
use super::gate::Verdicts;
use super::machine::Outcome;
use super::quarantine::Quarantine;
use super::testing::{DIRECTORY, Made, World, image, make, version};
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

/// What [`child_that_is_killed`] does, in the directory that it runs in.
const PLAN: &str = "plan";

/// Not a test by itself: runs as another process in the directory of a node, and ends by SIGKILL before a change.
#[test]
#[ignore = "the test below runs it"]
fn child_that_is_killed() {
    let Ok(plan) = std::fs::read_to_string(PLAN) else { return };
    let (work, kill) = plan.split_once(' ').expect("two words");
    let root = std::env::current_dir().expect("a directory");
    let world = World::at(&root);
    world.publish(&[release()]);
    if world.content(Slot::B) == Some(version("2.0.0")) && world.boot().trial == Some(2) {
        world.booted.set(Slot::B);
        world.settings.borrow_mut().image.version = "2.0.0".to_owned();
    }
    world.sys.cut.set(Some(kill.trim().parse().expect("a number")));
    CUT_ENDS.set(CutEnds::Process);
    match work {
        "apply" => drop(world.apply().expect("installed")),
        _ => settle(&world),
    }
}

/// Runs the child; whether SIGKILL ended it.
fn run_child(root: &Path, work: &str, kill: u32) -> bool {
    use std::os::unix::process::ExitStatusExt;
    std::fs::write(root.join(PLAN), format!("{work} {kill}")).expect("written");
    let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "update::kill_tests::child_that_is_killed", "--ignored"]);
    let output = command.current_dir(root).output().expect("it runs");
    let killed = output.status.signal() == Some(libc::SIGKILL);
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    killed
}

#[test]
fn kill_9_of_a_process_before_every_fourth_change() {
    let mut kills = 0;
    for kill in (0..).step_by(4) {
        let world = World::new();
        world.publish(&[release()]);
        let was_killed = run_child(world.root(), "apply", kill);
        kills += u32::from(was_killed);
        if !was_killed {
            world.restart();
        }
        go_on(&world, Then::Again);
        if !was_killed {
            break;
        }
    }
    assert!(kills >= 5, "only {kills} kills");
    for kill in [0, 1, 2, 3, 5] {
        let world = World::new();
        world.publish(&[release()]);
        world.apply().expect("installed");
        world.restart();
        assert_eq!(world.boot(), BootState { generation: 2, active: Slot::A, trial: Some(2) });
        assert!(run_child(world.root(), "settle", kill), "change {kill} of a commit");
        go_on(&world, Then::Restart);
    }
}
