//! Scenarios on machines that follow a script.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::ops::run::watch::Watcher;

/// What a scripted machine does next.
#[derive(Debug, Clone)]
enum Act {
    /// It prints this on its console.
    Say(&'static str),
    /// From now on its metrics are these.
    Metrics(&'static str),
    /// It is silent until it is reset.
    AwaitReset,
    /// It is silent until the power button is pressed, then ends.
    AwaitPower,
    /// It looks at the channel, and fetches so many bytes.
    Look(u64),
    /// QEMU ends with this status.
    End(i32),
}

#[derive(Debug, Default)]
struct World {
    now: Duration,
    served: Served,
    resets: u32,
    power: u32,
    starts: Vec<(&'static str, Disk)>,
}

struct Scripted {
    world: Rc<RefCell<World>>,
    acts: VecDeque<Act>,
    watcher: Watcher,
    pending: VecDeque<Event>,
    page: Option<&'static str>,
    /// Presses of the reset and the power button that an act waited for.
    used: (u32, u32),
}

impl Machine for Scripted {
    fn next(&mut self, limit: Duration) -> Result<Sight, String> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                self.world.borrow_mut().now += Duration::from_millis(10);
                return Ok(Sight::Event(event));
            }
            let counts = (self.world.borrow().resets, self.world.borrow().power);
            match self.acts.front().cloned() {
                Some(Act::Say(text)) => self.pending.extend(self.watcher.feed(format!("{text}\r\n").as_bytes())),
                Some(Act::Metrics(page)) => self.page = Some(page),
                Some(Act::Look(bytes)) => {
                    let mut world = self.world.borrow_mut();
                    world.served.looks += 1;
                    world.served.chunk_bytes += bytes;
                }
                Some(Act::End(status)) => return Ok(Sight::Ended { status: Some(status), message: String::new() }),
                Some(Act::AwaitReset) if counts.0 > self.used.0 => self.used.0 += 1,
                Some(Act::AwaitPower) if counts.1 > self.used.1 => self.used.1 += 1,
                Some(Act::AwaitReset | Act::AwaitPower) => return self.quiet(limit),
                None => return self.quiet(limit),
            }
            self.acts.pop_front();
            if matches!(self.acts.front(), Some(Act::Metrics(_) | Act::Look(_))) {
                continue;
            }
            if self.pending.is_empty() {
                return self.quiet(limit);
            }
        }
    }

    fn metrics(&mut self) -> Option<String> {
        self.page.map(str::to_owned)
    }

    fn reset(&mut self) -> Result<(), String> {
        self.world.borrow_mut().resets += 1;
        Ok(())
    }

    fn power_button(&mut self) -> Result<(), String> {
        self.world.borrow_mut().power += 1;
        Ok(())
    }

    fn clock(&self) -> Duration {
        self.world.borrow().now
    }

    fn served(&self) -> Served {
        self.world.borrow().served
    }
}

impl Scripted {
    fn quiet(&self, limit: Duration) -> Result<Sight, String> {
        self.world.borrow_mut().now += limit;
        Ok(Sight::Quiet)
    }
}

/// Machines by the order in which they are started.
struct Scripts {
    world: Rc<RefCell<World>>,
    scripts: VecDeque<Vec<Act>>,
}

impl Lab for Scripts {
    fn start(&mut self, group: &'static str, disk: Disk) -> Result<Box<dyn Machine>, String> {
        self.world.borrow_mut().starts.push((group, disk));
        let acts = self.scripts.pop_front().ok_or("no such machine")?;
        Ok(Box::new(Scripted {
            world: self.world.clone(),
            acts: acts.into(),
            watcher: Watcher::for_line(""),
            pending: VecDeque::new(),
            page: None,
            used: (self.world.borrow().resets, self.world.borrow().power),
        }))
    }
}

const READY_1A: Act = Act::Say("ksos: ready name=os version=1.0.0 arch=x86_64 slot=a");
const READY_2B: Act = Act::Say("ksos: ready name=os version=2.0.0 arch=x86_64 slot=b");
const BOOT_A: Act = Act::Say("\u{1b}[1;1Hksos: booting slot a");
const BOOT_B: Act = Act::Say("\u{1b}[1;1Hksos: booting slot bksos: booting slot b");
const STAGE: Act = Act::Say("ksos: stage 10 modules: ok 5 ms");
const HEALTHY_1A: Act = Act::Metrics(
    "kubesolo_os_info{version=\"1.0.0\",slot=\"a\"} 1\nkubesolo_os_boot_success 1\nkubesolo_os_health{verdict=\"healthy\"} 1\n",
);
const TRIAL_2B: Act = Act::Metrics(
    "kubesolo_os_info{version=\"2.0.0\",slot=\"b\"} 1\nkubesolo_os_boot_success 0\nkubesolo_os_health{verdict=\"healthy\"} 1\n",
);
const HEALTHY_2B: Act = Act::Metrics(
    "kubesolo_os_info{version=\"2.0.0\",slot=\"b\"} 1\nkubesolo_os_boot_success 1\nkubesolo_os_health{verdict=\"healthy\"} 1\n",
);

/// Runs scripts; returns the cases as `name: verdict` and the world.
fn run_scripts(update: bool, scripts: Vec<Vec<Act>>) -> (Vec<Case>, Rc<RefCell<World>>) {
    let world = Rc::new(RefCell::new(World::default()));
    let mut lab = Scripts { world: world.clone(), scripts: scripts.into() };
    let update = update.then(|| ExpectedUpdate { version: "2.0.0".to_owned(), chunks: 2 << 20 });
    let expected = Expected { version: "1.0.0".to_owned(), update };
    let noted = RefCell::new(0);
    let cases = run(&mut lab, &expected, Duration::from_secs(300), &|_| *noted.borrow_mut() += 1);
    assert_eq!(*noted.borrow(), cases.len());
    (cases, world)
}

fn verdicts(cases: &[Case]) -> Vec<&'static str> {
    let word = |case: &Case| match case.verdict {
        Verdict::Passed => "passed",
        Verdict::Failed { .. } => "failed",
        Verdict::Skipped => "skipped",
    };
    cases.iter().map(word).collect()
}

/// Returns the first failure.
fn failure(cases: &[Case]) -> (&'static str, String) {
    let failed = cases.iter().find_map(|case| match &case.verdict {
        Verdict::Failed { reason } => Some((case.name, reason.clone())),
        _ => None,
    });
    failed.expect("a case failed")
}

fn good_update() -> Vec<Act> {
    vec![
        BOOT_A,
        STAGE,
        READY_1A,
        HEALTHY_1A,
        Act::Look(1 << 20),
        Act::Say("ksos: stopping for reboot"),
        BOOT_B,
        STAGE,
        READY_2B,
        TRIAL_2B,
        Act::Say("x"),
        Act::Say("y"),
        HEALTHY_2B,
        Act::AwaitPower,
        Act::End(0),
    ]
}

fn good_rollback() -> Vec<Act> {
    vec![
        BOOT_A,
        STAGE,
        READY_1A,
        HEALTHY_1A,
        Act::Look(1 << 20),
        BOOT_B,
        BOOT_B,
        STAGE,
        STAGE,
        Act::AwaitReset,
        BOOT_B,
        STAGE,
        STAGE,
        STAGE,
        STAGE,
        Act::AwaitReset,
        BOOT_B,
        STAGE,
        STAGE,
        STAGE,
        STAGE,
        STAGE,
        STAGE,
        Act::AwaitReset,
        BOOT_A,
        STAGE,
        READY_1A,
        HEALTHY_1A,
        Act::Say("x"),
        Act::Look(0),
        Act::Say("y"),
        Act::Look(0),
    ]
}

#[test]
fn without_an_update_the_image_boots_twice() {
    let boot = || vec![BOOT_A, STAGE, READY_1A, HEALTHY_1A, Act::AwaitPower, Act::End(0)];
    let (cases, world) = run_scripts(false, vec![boot(), boot()]);
    assert_eq!(verdicts(&cases), ["passed"; 5], "{cases:#?}");
    assert_eq!(cases[0].detail, "version 1.0.0, slot a");
    assert_eq!(world.borrow().starts, [("boot", Disk::New), ("boot", Disk::Kept)]);
}

#[test]
fn an_update_is_installed_kept_and_rolled_back() {
    let again = vec![BOOT_B, STAGE, READY_2B];
    let (cases, world) = run_scripts(true, vec![good_update(), again, good_rollback()]);
    assert_eq!(verdicts(&cases), ["passed"; 13], "{cases:#?}");
    assert_eq!(cases[2].detail, "version 2.0.0, slot b; fetched 1.0 MiB of 2.0 MiB");
    assert_eq!(cases[2].fetched_bytes, Some(1 << 20));
    assert_eq!(cases[9].detail, "3 resets");
    assert_eq!(world.borrow().resets, 3);
    assert_eq!(world.borrow().starts, [("update", Disk::New), ("update", Disk::Kept), ("rollback", Disk::New)]);
}

#[test]
fn after_a_failure_the_rest_of_the_group_is_skipped_and_the_next_group_runs() {
    let stuck = vec![BOOT_A, READY_1A, HEALTHY_1A, Act::Look(0), Act::Say("update: refused: wrong key")];
    let (cases, _) = run_scripts(true, vec![stuck, good_rollback()]);
    assert_eq!(
        verdicts(&cases)[..8],
        ["passed", "passed", "failed", "skipped", "skipped", "skipped", "skipped", "passed"]
    );
    let (name, reason) = failure(&cases);
    assert_eq!(name, "the update is installed and booted");
    assert!(
        reason.starts_with("the restart with the update did not come in 300 s\nthe console's last lines:\n"),
        "{reason}"
    );
    assert!(reason.ends_with("update: refused: wrong key"), "{reason}");
    assert!(verdicts(&cases)[7..].iter().all(|verdict| *verdict == "passed"), "{cases:#?}");
}

#[test]
fn what_a_bad_node_does_is_said() {
    let boot = |acts: Vec<Act>| [vec![BOOT_A, STAGE, READY_1A, HEALTHY_1A, Act::Say("up")], acts].concat();
    let ready_1b = Act::Say("ksos: ready version=1.0.0 slot=b");
    let table: Vec<(Vec<Act>, &str, &str)> = vec![
        (
            vec![BOOT_A, Act::Say("Kernel panic - not syncing: VFS")],
            "the image boots",
            "the kernel panicked: Kernel panic",
        ),
        (vec![Act::Say("ksos: emergency reason=\"no root\"")], "the image boots", "an emergency: no root"),
        (vec![Act::Say("BdsDxe: No bootable option or device was found.")], "the image boots", "nothing started"),
        (vec![Act::End(1)], "the image boots", "QEMU ended with status 1"),
        (vec![BOOT_A], "the image boots", "did not come in 300 s"),
        (vec![READY_2B], "the image boots", "version 2.0.0 runs instead of 1.0.0"),
        (vec![READY_1A], "the node is healthy", "it served no metrics"),
        (
            vec![
                READY_1A,
                Act::Metrics(
                    "kubesolo_os_info{version=\"1.0.0\",slot=\"a\"} 1\nkubesolo_os_health_check{check=\"disk\"} 0\n",
                ),
            ],
            "the node is healthy",
            "check disk is not passed",
        ),
        (boot(vec![BOOT_A, READY_1A]), "the update is installed and booted", "restarted from slot a, not from b"),
        (boot(vec![BOOT_B, ready_1b]), "the update is installed and booted", "version 1.0.0 runs instead of 2.0.0"),
        (
            boot(vec![BOOT_B, READY_2B, TRIAL_2B, Act::Say("x"), BOOT_B]),
            "the update is kept",
            "the node restarted instead",
        ),
        (boot(vec![BOOT_B, READY_2B, TRIAL_2B]), "the update is kept", "the end of the trial did not come"),
    ];
    for (script, name, part) in table {
        let shown = format!("{script:?}");
        let (cases, _) = run_scripts(true, vec![script, Vec::new()]);
        let (found, reason) = failure(&cases);
        assert!(found == name && reason.contains(part), "{shown}\n{found}: {reason}");
    }
}

#[test]
fn a_node_that_does_not_fall_back_or_takes_the_update_again_fails() {
    let change = |from: usize, acts: Vec<Act>| {
        let mut script = good_rollback();
        script.truncate(from);
        script.extend(acts);
        let (cases, _) = run_scripts(true, vec![good_update(), vec![BOOT_B, READY_2B], script]);
        failure(&cases)
    };
    let last_reset = good_rollback().iter().rposition(|act| matches!(act, Act::AwaitReset)).unwrap() + 1;
    let (name, reason) = change(last_reset, vec![BOOT_B, STAGE, READY_2B]);
    assert_eq!((name, reason.lines().next()), ("the old version is back", Some("slot b was tried once more")));
    let first_reset = good_rollback().iter().position(|act| matches!(act, Act::AwaitReset)).unwrap() + 1;
    let (name, reason) = change(first_reset, vec![BOOT_A, STAGE, READY_1A]);
    assert_eq!(
        (name, reason.lines().next()),
        ("resets on trial use up the tries", Some("slot a was booted after 1 tries"))
    );
    let all = good_rollback().len();
    let (name, reason) = change(all - 1, vec![Act::Look(4096)]);
    assert_eq!(name, "the failed update is not installed again");
    assert!(reason.starts_with("the node fetched 4096 bytes"), "{reason}");
    let (name, reason) = change(all - 1, vec![BOOT_B]);
    assert_eq!((name, reason.lines().next()), ("the failed update is not installed again", Some("the node restarted")));
}
