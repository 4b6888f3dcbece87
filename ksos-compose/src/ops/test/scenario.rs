//! What a test does, step by step, on machines that are given: QEMU's, or those of its own tests.
//!
//! ```text
//! boot:      boots -> healthy -> shuts down -> boots again -> healthy
//! update:    boots -> healthy -> update installed, restarted into the other slot -> kept -> healthy -> shuts down ->
//!            boots again
//! rollback:  boots -> update installed -> reset while on trial, three times -> the old version is back -> healthy ->
//!            the update is not installed again
//! ```
//! The cases of a group run on one disk; after one that failed, the rest of its group is skipped. Time is the machine's,
//! so that a scenario takes none in its tests.

use std::collections::VecDeque;
use std::time::Duration;

use ksos_formats::bootstate::MAX_TRIES;

use super::metrics::Metrics;
use super::report::{Case, Verdict};
use crate::effects::progress;
use crate::ops::run::live::Sight;
use crate::ops::run::watch::Event;

/// Time between two looks at a machine.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the node must have looked at the channel again before a failed update counts as refused.
const LOOKS: u64 = 2;
/// Most lines of the console in the reason of a failure.
const TAIL: usize = 15;

/// A machine that runs. Errors are sentences.
pub(super) trait Machine {
    /// Waits for a line of the console, at most `limit`.
    fn next(&mut self, limit: Duration) -> Result<Sight, String>;
    /// Asks for the node's metrics; `None` when it does not answer.
    fn metrics(&mut self) -> Option<String>;
    /// Presses the reset button.
    fn reset(&mut self) -> Result<(), String>;
    /// Presses the power button.
    fn power_button(&mut self) -> Result<(), String>;
    /// Time since some start, the same for all machines.
    fn clock(&self) -> Duration;
    /// What the update source has served so far, to all machines.
    fn served(&self) -> Served;
}

/// What the machine's disk is at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disk {
    /// As the image is.
    New,
    /// As the last machine left it.
    Kept,
}

/// Where machines come from.
pub(super) trait Lab {
    /// Starts a machine for a group of cases.
    fn start(&mut self, group: &'static str, disk: Disk) -> Result<Box<dyn Machine>, String>;
}

/// What an update source served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Served {
    /// Times that the channel was fetched.
    pub(super) looks: u64,
    /// Bytes of chunks that were fetched.
    pub(super) chunk_bytes: u64,
}

/// What the tested image and its update are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    /// Version of the image.
    pub(super) version: String,
    /// The update.
    pub(super) update: Option<ExpectedUpdate>,
}

/// What the update is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExpectedUpdate {
    /// Its version.
    pub(super) version: String,
    /// Size of its stored chunks in bytes.
    pub(super) chunks: u64,
}

type Steps = &'static [(&'static str, Step)];

const BOOT: Steps = &[
    ("the image boots", Step::Boot),
    ("the node is healthy", Step::Healthy),
    ("the node shuts down", Step::PowerOff),
    ("the node boots again", Step::Boot),
    ("the node is healthy again", Step::Healthy),
];

const UPDATE: Steps = &[
    ("the image boots", Step::Boot),
    ("the node is healthy", Step::Healthy),
    ("the update is installed and booted", Step::Install),
    ("the update is kept", Step::Commit),
    ("the node is healthy after the update", Step::Healthy),
    ("the node shuts down", Step::PowerOff),
    ("the node boots the update again", Step::Boot),
];

const ROLLBACK: Steps = &[
    ("the image boots", Step::Boot),
    ("the update is installed and tried", Step::Trial),
    ("resets on trial use up the tries", Step::Resets),
    ("the old version is back", Step::FallBack),
    ("the node is healthy after the fallback", Step::Healthy),
    ("the failed update is not installed again", Step::Quarantine),
];

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Boot,
    Healthy,
    PowerOff,
    Install,
    Commit,
    Trial,
    Resets,
    FallBack,
    Quarantine,
}

/// Runs all cases; each step has `limit`. `note` gets each case as it ends.
pub(super) fn run(lab: &mut dyn Lab, expected: &Expected, limit: Duration, note: &dyn Fn(&Case)) -> Vec<Case> {
    let groups: &[(&'static str, Steps)] = match expected.update {
        None => &[("boot", BOOT)],
        Some(_) => &[("update", UPDATE), ("rollback", ROLLBACK)],
    };
    let mut cases = Vec::new();
    for (group, steps) in groups {
        let mut add = |case: Case| {
            note(&case);
            cases.push(case);
        };
        run_group(lab, group, steps, expected, limit, &mut add);
    }
    cases
}

/// Runs a group of cases on a disk of its own.
fn run_group(
    lab: &mut dyn Lab,
    group: &'static str,
    steps: Steps,
    expected: &Expected,
    limit: Duration,
    add: &mut dyn FnMut(Case),
) {
    let mut state = State { version: expected.version.clone(), slot: None, served: Served::default() };
    let mut machine: Option<Box<dyn Machine>> = None;
    let mut failed = false;
    let case =
        |name, verdict| Case { group, name, verdict, time: Duration::ZERO, detail: String::new(), fetched_bytes: None };
    for (index, (name, step)) in steps.iter().enumerate() {
        if failed {
            add(case(name, Verdict::Skipped));
            continue;
        }
        let disk = if index == 0 { Disk::New } else { Disk::Kept };
        let mut running = match machine.take().map_or_else(|| lab.start(group, disk), Ok) {
            Ok(running) => running,
            Err(reason) => {
                add(case(name, Verdict::Failed { reason }));
                failed = true;
                continue;
            }
        };
        let start = running.clock();
        let mut run = Run { machine: running.as_mut(), limit, expected, state: &mut state, tail: VecDeque::new() };
        let result = run.step(*step);
        let time = running.clock().saturating_sub(start);
        failed = result.is_err();
        match result {
            Ok(Done { detail, fetched_bytes }) => {
                add(Case { time, detail, fetched_bytes, ..case(name, Verdict::Passed) });
            }
            Err(reason) => add(Case { time, ..case(name, Verdict::Failed { reason }) }),
        }
        // After the power is off, the next step starts a machine on the same disk.
        machine = Some(running).filter(|_| *step != Step::PowerOff);
    }
}

/// What is known of the node.
#[derive(Debug)]
struct State {
    /// The version that it should have.
    version: String,
    /// The slot that it should run.
    slot: Option<String>,
    /// What had been served when the last restart was over.
    served: Served,
}

/// A machine in a step.
struct Run<'a> {
    machine: &'a mut dyn Machine,
    limit: Duration,
    expected: &'a Expected,
    state: &'a mut State,
    tail: VecDeque<String>,
}

/// What a step says when it went as it should.
#[derive(Debug, Default)]
struct Done {
    detail: String,
    fetched_bytes: Option<u64>,
}

impl From<String> for Done {
    fn from(detail: String) -> Self {
        Done { detail, fetched_bytes: None }
    }
}

/// What a step says in the end: what was seen, or what was seen instead.
type StepResult = Result<Done, String>;

impl Run<'_> {
    fn step(&mut self, step: Step) -> StepResult {
        match step {
            Step::Boot => self.boot(),
            Step::Healthy => self.healthy(),
            Step::PowerOff => self.power_off(),
            Step::Install => self.install(),
            Step::Commit => self.commit(),
            Step::Trial => self.trial(),
            Step::Resets => self.resets(),
            Step::FallBack => self.fall_back(),
            Step::Quarantine => self.quarantine(),
        }
    }

    /// Looks at the machine until `look` has an answer. It gets each event, and `None` about once a second.
    fn wait<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Self, Option<&Event>) -> Option<Result<T, String>>,
    ) -> Result<T, String> {
        let start = self.machine.clock();
        let mut looked = start;
        loop {
            let sight = self.machine.next(PAUSE)?;
            let answer = match &sight {
                Sight::Event(event) => {
                    self.remember(event)?;
                    look(self, Some(event))
                }
                Sight::Quiet => None,
                Sight::Ended { status, message } => {
                    let status = status.map_or("a signal".to_owned(), |status| format!("status {status}"));
                    return Err(self.with_tail(&format!("QEMU ended with {status} before {what} {message}")));
                }
            };
            let now = self.machine.clock();
            let answer = match answer {
                None if sight == Sight::Quiet || now.saturating_sub(looked) >= PAUSE => {
                    looked = now;
                    look(self, None)
                }
                answer => answer,
            };
            if let Some(answer) = answer {
                return answer.map_err(|reason| self.with_tail(&reason));
            }
            if now.saturating_sub(start) >= self.limit {
                let seconds = self.limit.as_secs();
                return Err(self.with_tail(&format!("{what} did not come in {seconds} s")));
            }
        }
    }

    /// Keeps the line; what no node recovers from ends every step.
    fn remember(&mut self, event: &Event) -> Result<(), String> {
        let reason = match event {
            Event::Line(line) if line.is_empty() => return Ok(()),
            Event::Line(line) => {
                self.tail.push_back(line.clone());
                if self.tail.len() > TAIL {
                    self.tail.pop_front();
                }
                return Ok(());
            }
            Event::Emergency(reason) => format!("the node stopped with an emergency: {reason}"),
            Event::Panic(line) => format!("the kernel panicked: {line}"),
            Event::NoBoot(line) => format!("nothing started: {line}"),
            Event::Ready(_) | Event::Degraded(_) => return Ok(()),
        };
        Err(self.with_tail(&reason))
    }

    fn with_tail(&self, reason: &str) -> String {
        let reason = reason.trim_end();
        if self.tail.is_empty() {
            return reason.to_owned();
        }
        let lines: Vec<&str> = self.tail.iter().map(String::as_str).collect();
        format!("{reason}\nthe console's last lines:\n{}", lines.join("\n"))
    }

    fn boot(&mut self) -> StepResult {
        let fields = self.wait("the node's line that it is ready", |_, event| ready(event).map(Ok))?;
        let slot = field(&fields, "slot");
        if let Some(expected) = self.state.slot.as_ref().filter(|expected| **expected != slot) {
            return Err(self.with_tail(&format!("slot {slot} was booted instead of {expected}")));
        }
        self.settle(&fields)
    }

    /// Takes a node that is ready for what it is, when it has the version that it should have.
    fn settle(&mut self, fields: &[(String, String)]) -> StepResult {
        let (version, slot) = (field(fields, "version"), field(fields, "slot"));
        if version != self.state.version {
            let expected = &self.state.version;
            return Err(self.with_tail(&format!("version {version} runs instead of {expected}")));
        }
        self.state.slot = Some(slot.clone());
        self.state.served = self.machine.served();
        Ok(format!("version {version}, slot {slot}").into())
    }

    fn healthy(&mut self) -> StepResult {
        let mut last: Option<String> = None;
        let result = self.wait("a healthy node", |run, event| {
            if event.is_some() {
                return None;
            }
            let page = run.machine.metrics()?;
            let metrics = Metrics(&page);
            let fits = metrics.info("version") == Some(&run.state.version)
                && metrics.info("slot") == run.state.slot.as_deref();
            let found = (fits && metrics.is_healthy()).then(|| Ok(Done::default()));
            last = Some(if fits { metrics.complaints().join("; ") } else { "another version or slot runs".to_owned() });
            found
        });
        let said = last.unwrap_or_else(|| "it served no metrics".to_owned());
        result.map_err(|reason| if said.is_empty() { reason } else { format!("{said}\n{reason}") })
    }

    fn power_off(&mut self) -> StepResult {
        self.machine.power_button()?;
        let start = self.machine.clock();
        loop {
            match self.machine.next(PAUSE)? {
                Sight::Ended { status: Some(0), .. } => return Ok(Done::default()),
                Sight::Ended { status, message } => return Err(format!("QEMU ended with {status:?}: {message}")),
                Sight::Event(event) => self.remember(&event)?,
                Sight::Quiet => {}
            }
            if self.machine.clock().saturating_sub(start) >= self.limit {
                return Err(self.with_tail(&format!("the node still runs after {} s", self.limit.as_secs())));
            }
        }
    }

    fn update(&self) -> Result<&ExpectedUpdate, String> {
        self.expected.update.as_ref().ok_or_else(|| "there is no update".to_owned())
    }

    /// Returns the slot that an update goes to.
    fn other_slot(&self) -> &'static str {
        if self.state.slot.as_deref() == Some("a") { "b" } else { "a" }
    }

    fn install(&mut self) -> StepResult {
        let (other, before) = (self.other_slot(), self.state.served);
        let fields = self.wait("the restart with the update", |_, event| ready(event).map(Ok))?;
        let slot = field(&fields, "slot");
        if slot != other {
            return Err(
                self.with_tail(&format!("the node restarted from slot {slot}, not from {other} with the update"))
            );
        }
        let update = self.update()?.clone();
        self.state.version = update.version;
        self.settle(&fields)?;
        let fetched = self.state.served.chunk_bytes - before.chunk_bytes;
        let (part, all) = (progress::size(fetched), progress::size(update.chunks));
        let detail = format!("version {}, slot {slot}; fetched {part} of {all}", self.state.version);
        Ok(Done { detail, fetched_bytes: Some(fetched) })
    }

    fn commit(&mut self) -> StepResult {
        self.wait("the end of the trial", |run, event| {
            if ready(event).is_some() || booting(event).is_some() {
                return Some(Err("the node restarted instead".to_owned()));
            }
            let page = if event.is_none() { run.machine.metrics()? } else { return None };
            let metrics = Metrics(&page);
            let kept = metrics.value("kubesolo_os_boot_success") == Some(1.0);
            let runs = metrics.info("slot") == run.state.slot.as_deref();
            (kept && runs).then(|| Ok(Done::default()))
        })
    }

    fn trial(&mut self) -> StepResult {
        let other = self.other_slot();
        self.wait("the restart with the update", |_, event| booting(event).map(Ok)).and_then(|slot| {
            match slot == other {
                true => Ok(format!("slot {other}").into()),
                false => Err(self.with_tail(&format!("slot {slot} was booted instead of {other}"))),
            }
        })
    }

    /// Resets the machine in every boot of the trial, each time a little later.
    fn resets(&mut self) -> StepResult {
        let other = self.other_slot();
        for number in 1..=u32::from(MAX_TRIES) {
            if number > 1 {
                let slot = self.wait("the next try", |_, event| booting(event).map(Ok))?;
                if slot != other {
                    return Err(self.with_tail(&format!("slot {slot} was booted after {} tries", number - 1)));
                }
            }
            let mut stages = 0;
            self.wait("the start of the update", |_, event| {
                stages += u32::from(matches!(event, Some(Event::Line(line)) if line.starts_with("ksos: stage ")));
                (stages >= number * 2 || ready(event).is_some()).then_some(Ok(()))
            })?;
            self.machine.reset()?;
        }
        Ok(format!("{MAX_TRIES} resets").into())
    }

    fn fall_back(&mut self) -> StepResult {
        let old = self.state.slot.clone().unwrap_or_default();
        let fields = self.wait("the old version", |_, event| match (booting(event), ready(event)) {
            (Some(slot), _) if slot != old => Some(Err(format!("slot {slot} was tried once more"))),
            (_, ready) => ready.map(Ok),
        })?;
        self.settle(&fields)
    }

    fn quarantine(&mut self) -> StepResult {
        let before = self.state.served;
        let looks = |run: &Self| run.machine.served().looks - before.looks;
        self.wait("another look at the channel", |run, event| {
            if booting(event).is_some() || ready(event).is_some() {
                return Some(Err("the node restarted".to_owned()));
            }
            let chunks = run.machine.served().chunk_bytes - before.chunk_bytes;
            if chunks > 0 {
                return Some(Err(format!("the node fetched {chunks} bytes of the update that had failed")));
            }
            (looks(run) >= LOOKS).then_some(Ok(()))
        })?;
        Ok(format!("looked {} times", looks(self)).into())
    }
}

/// Returns the fields of the line that says that the node is ready.
fn ready(event: Option<&Event>) -> Option<Vec<(String, String)>> {
    match event {
        Some(Event::Ready(fields)) => Some(fields.clone()),
        _ => None,
    }
}

/// Returns the slot that the boot loader says it boots. With two terminals on one serial port, everything that it says comes
/// twice in one line.
fn booting(event: Option<&Event>) -> Option<String> {
    let Some(Event::Line(line)) = event else { return None };
    let slot = line.split_once("ksos: booting slot ")?.1;
    Some(slot.chars().take(1).collect())
}

fn field(fields: &[(String, String)], name: &str) -> String {
    fields.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone()).unwrap_or_default()
}

#[cfg(test)]
#[path = "scenario_tests.rs"]
mod tests;
