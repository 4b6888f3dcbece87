//! Stage 68: the boot state on the EFI system partition; and the end of a trial that nobody has confirmed.
//!
//! The stage reads both copies, makes them equal where they are not (`update::bootblocks`), and publishes the state.
//! When neither is valid it only says so: what they should be is written once the version that runs was found healthy.
//!
//! A version on trial is kept by the update process, which then writes the boot state. Where that has not happened by the
//! deadline, for whatever reason, PID 1 restarts the machine; the boot loader falls back when there are no tries left. The
//! shutdown is the usual one: services that cannot be killed are left behind, and where a step hangs, the watchdog ends it.

use ksos_formats::bootstate::{BootState, Slot};
use ksos_formats::layout;

use crate::sys::Sys;
use crate::update::bootblocks::{self, BootBlocks, Copies};
use crate::update::places;

use super::Error;
use super::node::Node;

/// Time for a version on trial where the image says nothing, in milliseconds: to become healthy, and to stay so.
const DEADLINE_MS: u64 = 11 * 60_000;
/// The cause that the node is degraded by.
const CAUSE: &str = "boot slot";

/// Whether the boot loader passed what the stage needs. A kernel that was started in another way has no boot state.
pub(super) fn has_boot_state(node: &Node<'_>) -> bool {
    node.cmdline.has(layout::PARAM_SLOT) && node.cmdline.has(layout::PARAM_ESP)
}

/// Reads, repairs and publishes the boot state.
pub(super) fn look(node: &mut Node<'_>) -> Result<String, Error> {
    let places = places::find(node.sys)?;
    let blocks = BootBlocks::open(node.sys, &places.esp)?;
    let mut copies = blocks.read()?;
    let mut failure = None;
    if let Some(fault) = copies.fault() {
        match blocks.repair(&copies) {
            Ok(_) => {
                copies = blocks.read()?;
                node.say(&format!("boot state repaired: {fault}"));
            }
            Err(error) => failure = Some(error),
        }
    }
    node.on_trial = is_on_trial(&copies, places.booted);
    bootblocks::publish(node.sys, &copies)?;
    if let Some(error) = failure {
        return Err(error.into());
    }
    let Some(state) = copies.state() else { return Ok(String::new()) };
    if state.trial.is_none() && state.active != places.booted {
        let reason = format!("slot {} is active and does not boot; slot {} runs", state.active, places.booted);
        node.degrade(CAUSE, &reason);
    }
    Ok(describe(&state, places.booted))
}

fn is_on_trial(copies: &Copies, booted: Slot) -> bool {
    copies.state().is_some_and(|state| state.trial_slot() == Some(booted))
}

fn describe(state: &BootState, booted: Slot) -> String {
    let BootState { generation, active, trial } = state;
    match trial {
        None => format!("slot {active} is active, generation {generation}"),
        Some(left) if *active == booted => {
            format!("slot {} did not start, {left} tries left; slot {active} is active", active.other())
        }
        Some(left) => format!("slot {booted} is on trial, {left} tries left; slot {active} is active"),
    }
}

/// Returns whether the version that runs is still on trial.
fn still_on_trial(sys: &dyn Sys) -> Result<bool, Error> {
    let places = places::find(sys)?;
    Ok(is_on_trial(&BootBlocks::open(sys, &places.esp)?.read()?, places.booted))
}

/// The clock of a trial.
#[derive(Debug, Default)]
pub(super) struct Trial {
    deadline_ms: Option<u64>,
    limit_ms: u64,
}

impl Trial {
    /// Starts the clock, if the version that runs is on trial. Its services began at `began_ms`.
    pub(super) fn begin(node: &Node<'_>, began_ms: u64) -> Self {
        let update = node.config.update.as_ref();
        let limit_ms = update.map_or(DEADLINE_MS, |update| update.gate_ms.saturating_add(update.hold_ms));
        let deadline_ms = node.on_trial.then(|| began_ms.saturating_add(limit_ms));
        Trial { deadline_ms, limit_ms }
    }

    /// Returns when it wants to be asked, in milliseconds since the kernel started.
    pub(super) fn due_ms(&self) -> Option<u64> {
        self.deadline_ms
    }

    /// Returns whether the machine is to restart, because time is over; `waiting_for` names what is not ready. A partition
    /// that cannot be read holds no confirmation that anybody could have written.
    pub(super) fn is_over(&mut self, node: &mut Node<'_>, waiting_for: &[&str]) -> bool {
        let now = node.sys.uptime_ms();
        if self.deadline_ms.take_if(|due| *due <= now).is_none() {
            return false;
        }
        let reason = match still_on_trial(node.sys) {
            Ok(false) => return false,
            Ok(true) => String::new(),
            Err(error) => format!(" ({error})"),
        };
        let slot = node.handover.slot;
        let services = match waiting_for {
            [] => String::new(),
            names => format!("; not ready: {}", names.join(", ")),
        };
        let limit = self.limit_ms / 1000;
        let line = format!("trial: slot {slot} was not confirmed within {limit} s{reason}{services}; restarting");
        node.say(&line);
        true
    }
}

#[cfg(test)]
#[path = "trial_tests.rs"]
mod tests;
