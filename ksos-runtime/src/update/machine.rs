//! The life of an update as a pure step machine.
//!
//! ```text
//! Idle -> Chosen -> Clearing -> Writing -> Verifying -> Activating -> AwaitingReboot -> OnTrial -> Committing -> Committed
//!            \_________\___________\___________\____________\-> Failed         \_________\___________\-> FellBack
//! ```
//!
//! The loop that drives it ([`super::drive`]) writes the new state to the journal before it does any of the actions, so
//! the journal is never behind what is on the disk. Every action can be done twice. After a kill the loop asks for
//! [`actions`] of the state in the journal and goes on; what was written of a slot is found by looking at it.
//! [`Event::Started`] settles what a restart of the machine means: the boot state on the disk is the truth, and the
//! journal is only about it.

use ksos_formats::Digest;
use ksos_formats::bootstate::{BootState, Slot};
use ksos_formats::update::Version;
use serde::{Deserialize, Serialize};

use super::slot_name;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A release is installed.
    Update,
    /// The operator wants the other slot back.
    Rollback,
    /// A trial that this node's journal knows nothing of.
    Unknown,
}

/// The update that a state is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// What is being done.
    pub purpose: Purpose,
    /// SHA-256 of the signed release; of the one in the slot, for a rollback. `None`: not known.
    pub release: Option<Digest>,
    /// SHA-256 of the slot image.
    pub image: Option<Digest>,
    /// The version that comes.
    pub version: Option<Version>,
    /// The version that ran when it was chosen.
    pub from: Option<Version>,
    /// SHA-256 of the signed release that ran, if it is known.
    pub from_release: Option<Digest>,
    /// The slot that is written or tried.
    #[serde(with = "slot_name")]
    pub target: Slot,
    /// When it was chosen, seconds since 1970.
    pub started: u64,
    /// The kernel's id of the boot in which it was chosen.
    pub boot_id: String,
    /// Whether windows are left out of account.
    pub force_window: bool,
}

/// Where an update is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// Nothing is going on.
    #[default]
    Idle,
    /// A release was verified and taken; nothing was touched.
    Chosen(Pending),
    /// The target loses its mark and its first 4 KiB.
    Clearing(Pending),
    /// The target is written.
    Writing {
        /// Of what.
        pending: Pending,
        /// Bytes of the slot image that are written. What counts is what is found in the slot.
        progress: u64,
    },
    /// The target is hashed as it is on the medium.
    Verifying(Pending),
    /// The target gets its first 4 KiB and the trial.
    Activating(Pending),
    /// The boot state has the trial.
    AwaitingReboot(Pending),
    /// The target runs, and has to prove itself.
    OnTrial(Pending),
    /// The target has proved itself.
    Committing(Pending),
    /// It was given up before its trial.
    Failed {
        /// What.
        pending: Pending,
        /// Why.
        reason: String,
    },
    /// The target is the active slot.
    Committed(Pending),
    /// The trial did not last.
    FellBack {
        /// What.
        pending: Pending,
        /// Why.
        reason: String,
    },
}

impl State {
    /// Returns its name, as in the journal.
    pub fn name(&self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Chosen(_) => "chosen",
            State::Clearing(_) => "clearing",
            State::Writing { .. } => "writing",
            State::Verifying(_) => "verifying",
            State::Activating(_) => "activating",
            State::AwaitingReboot(_) => "awaiting-reboot",
            State::OnTrial(_) => "on-trial",
            State::Committing(_) => "committing",
            State::Failed { .. } => "failed",
            State::Committed(_) => "committed",
            State::FellBack { .. } => "fell-back",
        }
    }

    /// Returns what it is about.
    pub fn pending(&self) -> Option<&Pending> {
        match self {
            State::Idle => None,
            State::Chosen(pending)
            | State::Clearing(pending)
            | State::Writing { pending, .. }
            | State::Verifying(pending)
            | State::Activating(pending)
            | State::AwaitingReboot(pending)
            | State::OnTrial(pending)
            | State::Committing(pending)
            | State::Failed { pending, .. }
            | State::Committed(pending)
            | State::FellBack { pending, .. } => Some(pending),
        }
    }

    /// Whether the target may be written: nothing can start it.
    pub fn is_installing(&self) -> bool {
        matches!(
            self,
            State::Chosen(_)
                | State::Clearing(_)
                | State::Writing { .. }
                | State::Verifying(_)
                | State::Activating(_)
        )
    }
}

/// What the node is found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The slot that runs.
    pub booted: Slot,
    /// What the boot loader would use; `None`: neither copy is valid.
    pub boot: Option<BootState>,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// Seconds since 1970.
    pub now: u64,
    /// The version that runs, if it is one.
    pub running: Option<Version>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The loop starts, perhaps after a kill or a restart of the machine.
    Started(Found),
    /// A release was verified, and nothing speaks against it.
    Chose(Pending),
    /// The actions of Chosen, Clearing, ... were done: the next state.
    Done,
    /// So many bytes of the image are written.
    Progress(u64),
    /// An action before the trial failed.
    Failed(String),
    /// The target was healthy for long enough.
    Healthy,
}

/// What is to be done. All but [`Action::Watch`] and [`Action::Reboot`] end with [`Event::Done`] when they are the last of
/// their step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make both copies of the boot state equal and without a trial, with this slot active.
    Settle(Slot),
    /// Set or take the mark of a slot.
    Confirm(Slot, bool),
    /// Zero the first 4 KiB of the target.
    Clear(Slot),
    /// Write the image to the target, but for the first 4 KiB.
    Write(Slot),
    /// Hash the target as it is on the medium.
    Prove(Slot),
    /// Write the first 4 KiB, look at everything once more, and give the target its trial.
    Activate(Slot),
    /// Restart the machine, when it may be.
    Reboot,
    /// Look at the node's health until it held, or the time is over.
    Watch,
    /// No version older than this may come any more.
    RaiseFloor(Version),
    /// The slot has what it says, and it has worked; or not any more.
    Note(Slot, bool),
    /// This must not come again.
    Quarantine {
        /// The release.
        release: Option<Digest>,
        /// Its slot image.
        image: Option<Digest>,
        /// Its version.
        version: Option<Version>,
        /// Why.
        reason: String,
    },
    /// Say in the history how it ended.
    Record {
        /// How.
        result: Outcome,
        /// Why.
        reason: String,
    },
}

/// How an update ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It waits for its trial.
    Installed,
    /// It was kept.
    Succeeded,
    /// It was given up before its trial.
    Failed,
    /// The node went back to what it had.
    RolledBack,
}

impl Outcome {
    /// Returns its name, as in the history and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Installed => "installed",
            Outcome::Succeeded => "succeeded",
            Outcome::Failed => "failed",
            Outcome::RolledBack => "rolled-back",
        }
    }
}

/// Takes one step. An event that does not fit the state changes nothing.
pub fn step(state: State, event: Event) -> (State, Vec<Action>) {
    let next = match (state, event) {
        (state, Event::Started(found)) => started(state, &found),
        (State::Idle, Event::Chose(pending)) => State::Chosen(pending),
        (state, Event::Chose(pending)) if state.is_installing() => State::Chosen(pending),
        (State::Writing { pending, .. }, Event::Progress(progress)) => {
            // Nothing else is to be done: the writing goes on.
            return (State::Writing { pending, progress }, Vec::new());
        }
        (State::OnTrial(pending), Event::Healthy) => State::Committing(pending),
        (state, Event::Failed(reason)) if state.is_installing() => match state.pending().cloned() {
            Some(pending) => State::Failed { pending, reason },
            None => state,
        },
        (state, Event::Done) => done(state),
        (state, _) => return (state, Vec::new()),
    };
    let actions = actions(&next);
    (next, actions)
}

fn done(state: State) -> State {
    match state {
        // A rollback has nothing to write: what the slot has was there before.
        State::Chosen(pending) if pending.purpose == Purpose::Rollback => State::Activating(pending),
        State::Chosen(pending) => State::Clearing(pending),
        State::Clearing(pending) => State::Writing { pending, progress: 0 },
        State::Writing { pending, .. } => State::Verifying(pending),
        State::Verifying(pending) => State::Activating(pending),
        State::Activating(pending) => State::AwaitingReboot(pending),
        State::Committing(pending) => State::Committed(pending),
        State::Failed { .. } | State::Committed(_) | State::FellBack { .. } => State::Idle,
        waiting @ (State::Idle | State::AwaitingReboot(_) | State::OnTrial(_)) => waiting,
    }
}

/// Returns what is to be done in a state, from its beginning.
pub fn actions(state: &State) -> Vec<Action> {
    match state {
        State::Idle | State::Chosen(_) => Vec::new(),
        State::Clearing(pending) => vec![
            Action::Note(pending.target, false),
            Action::Confirm(pending.target, false),
            Action::Clear(pending.target),
        ],
        State::Writing { pending, .. } => vec![Action::Write(pending.target)],
        State::Verifying(pending) => vec![Action::Prove(pending.target)],
        State::Activating(pending) => vec![Action::Activate(pending.target)],
        State::AwaitingReboot(_) => {
            vec![Action::Record { result: Outcome::Installed, reason: String::new() }, Action::Reboot]
        }
        State::OnTrial(_) => vec![Action::Watch],
        State::Committing(pending) => vec![
            Action::Confirm(pending.target, true),
            Action::Settle(pending.target),
            Action::Confirm(pending.target.other(), false),
        ],
        State::Failed { reason, .. } => {
            vec![Action::Record { result: Outcome::Failed, reason: reason.clone() }]
        }
        State::Committed(pending) => committed(pending),
        State::FellBack { pending, reason } => fell_back(pending, reason),
    }
}

fn committed(pending: &Pending) -> Vec<Action> {
    // What a power cut may have left of the commit: doing it again changes nothing.
    let mut actions = vec![
        Action::Confirm(pending.target, true),
        Action::Settle(pending.target),
        Action::Confirm(pending.target.other(), false),
        Action::Note(pending.target, true),
    ];
    actions.extend(pending.version.clone().map(Action::RaiseFloor));
    if pending.purpose == Purpose::Rollback {
        let reason = "rolled back by the operator".to_owned();
        actions.push(Action::Note(pending.target.other(), false));
        actions.push(Action::Quarantine {
            release: pending.from_release,
            image: None,
            version: pending.from.clone(),
            reason: reason.clone(),
        });
        actions.push(Action::Record { result: Outcome::RolledBack, reason });
    } else {
        actions.push(Action::Record { result: Outcome::Succeeded, reason: String::new() });
    }
    actions
}

fn fell_back(pending: &Pending, reason: &str) -> Vec<Action> {
    let kept = pending.target.other();
    let mut actions = vec![
        Action::Note(pending.target, false),
        Action::Confirm(kept, true),
        Action::Settle(kept),
        Action::Confirm(pending.target, false),
    ];
    let known = pending.release.is_some() || pending.image.is_some();
    if pending.purpose == Purpose::Update && known {
        actions.push(Action::Quarantine {
            release: pending.release,
            image: pending.image,
            version: pending.version.clone(),
            reason: reason.to_owned(),
        });
    }
    actions.push(Action::Record { result: Outcome::RolledBack, reason: reason.to_owned() });
    actions
}

/// Brings the journal in line with the boot state that is found.
fn started(state: State, found: &Found) -> State {
    let trial = found.boot.and_then(|boot| boot.trial_slot());
    let same_boot = state.pending().is_some_and(|pending| pending.boot_id == found.boot_id);
    match state {
        State::Idle => idle(found),
        // The outcome is settled on the disk, or is being settled.
        state @ (State::Failed { .. } | State::Committed(_) | State::FellBack { .. }) => state,
        State::Activating(pending) if trial == Some(pending.target) => {
            let not_yet = same_boot && found.booted != pending.target;
            if not_yet { State::AwaitingReboot(pending) } else { after_boot(pending, found) }
        }
        state if state.is_installing() => interrupted(state, found),
        State::AwaitingReboot(pending) if same_boot && found.booted != pending.target => {
            // Somebody took the trial away, or both copies were lost: there is nothing to restart for.
            if trial == Some(pending.target) {
                State::AwaitingReboot(pending)
            } else {
                State::Failed { pending, reason: "the boot state has lost the trial".to_owned() }
            }
        }
        State::Committing(pending) if found.booted == pending.target && trial.is_some() => State::Committing(pending),
        State::AwaitingReboot(pending) | State::OnTrial(pending) | State::Committing(pending) => {
            after_boot(pending, found)
        }
        state => state,
    }
}

/// An installation that did not get as far as its trial goes on; unless the node runs what it would write.
fn interrupted(state: State, found: &Found) -> State {
    match state.pending() {
        Some(pending) if found.booted == pending.target => {
            let reason = "the node has started from the slot that was to be written".to_owned();
            State::Failed { pending: pending.clone(), reason }
        }
        _ => state,
    }
}

/// Where an update with a trial is, once the machine has restarted.
fn after_boot(pending: Pending, found: &Found) -> State {
    let (target, booted) = (pending.target, found.booted);
    match found.boot {
        Some(boot) if booted == target && boot.active == target => State::Committed(pending),
        // Also without a valid copy: what runs has to hold, and then the boot state is written anew.
        _ if booted == target => State::OnTrial(pending),
        Some(boot) if boot.trial == Some(0) => {
            State::FellBack { pending, reason: "it was started three times and never became healthy".to_owned() }
        }
        Some(boot) => {
            let used = boot.trial.map_or(0, |left| ksos_formats::bootstate::MAX_TRIES.saturating_sub(left));
            State::FellBack { pending, reason: format!("it did not start (after {used} tries), or its time was over") }
        }
        None => State::FellBack { pending, reason: "the boot state was lost before it became healthy".to_owned() },
    }
}

/// What the boot state says when the journal says nothing: it was lost, or somebody else wrote it.
fn idle(found: &Found) -> State {
    match found.boot {
        Some(boot) if boot.trial.is_none() && boot.active == found.booted => State::Idle,
        Some(boot) if boot.trial.is_some() => after_boot(unknown(boot.active.other(), found), found),
        // The boot loader could not start the active slot, or neither copy is valid: what runs is kept when it holds.
        _ => State::OnTrial(unknown(found.booted, found)),
    }
}

fn unknown(target: Slot, found: &Found) -> Pending {
    Pending {
        purpose: Purpose::Unknown,
        release: None,
        image: None,
        version: found.running.clone().filter(|_| found.booted == target),
        from: found.running.clone().filter(|_| found.booted != target),
        from_release: None,
        target,
        started: found.now,
        boot_id: found.boot_id.clone(),
        force_window: false,
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
