//! Whether a version on trial is kept.
//!
//! It is kept when the node's health ([`crate::agent::health`]) has held for `hold_ms` without a break before `gate_ms` have passed: the node
//! does its work ([`Verdict::Healthy`] or [`Verdict::Degraded`]). Otherwise nothing is done here: PID 1 restarts the
//! machine at the same deadline, and the boot loader goes back. Why it was not kept is in the journal, where the old
//! version finds it.

use super::drive::Driver;
use super::error::UpdateError;
use super::machine::{Event, State};
use super::platform::Platform;
use super::settings::Settings;
use crate::agent::health::Verdict;

/// Longest time between two looks in milliseconds.
const LONGEST_PAUSE_MS: u64 = 5000;
/// Shortest time between two notes in the journal in milliseconds.
const NOTE_MS: u64 = 30_000;

/// How a trial went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdicts {
    /// There is none.
    NoTrial,
    /// The version is kept.
    Kept,
    /// The time was over. PID 1 restarts the machine.
    Over(String),
}

/// Settles what a restart meant; on trial, waits for the verdict. The lock is held only while something is written.
///
/// # Errors
/// The boot state cannot be read or written.
pub fn settle(platform: &dyn Platform, settings: &Settings) -> Result<(Verdicts, Vec<String>), UpdateError> {
    let began = platform.sys().uptime_ms();
    let (on_trial, notes) = open(platform, settings, |driver| Ok(is_on_trial(driver)))?;
    if !on_trial {
        return Ok((Verdicts::NoTrial, notes));
    }
    match watch(platform, settings, began) {
        Ok(()) => {
            let keep = |driver: &mut Driver<'_>| {
                driver.advance(Event::Healthy)?;
                driver.conclude()?;
                Ok(Verdicts::Kept)
            };
            open(platform, settings, keep)
        }
        Err(reason) => {
            note(platform, settings, &reason);
            Ok((Verdicts::Over(reason), notes))
        }
    }
}

fn is_on_trial(driver: &Driver<'_>) -> bool {
    matches!(driver.journal.state, State::OnTrial(_))
}

/// Does something with the journal, as soon as no other process has it.
fn open<T>(
    platform: &dyn Platform,
    settings: &Settings,
    mut work: impl FnMut(&mut Driver<'_>) -> Result<T, UpdateError>,
) -> Result<(T, Vec<String>), UpdateError> {
    let _lock = loop {
        match platform.lock()? {
            Some(lock) => break lock,
            None => platform.sys().sleep_ms(1000),
        }
    };
    let mut driver = Driver::open(platform, settings)?;
    let done = work(&mut driver)?;
    Ok((done, driver.notes))
}

/// Waits until health has held, or says why it has not.
fn watch(platform: &dyn Platform, settings: &Settings, began: u64) -> Result<(), String> {
    let sys = platform.sys();
    let pause = (settings.hold_ms / 4).clamp(100, LONGEST_PAUSE_MS);
    let (mut held_since, mut noted, mut last) = (None, None, String::from("its health was never seen"));
    loop {
        let asked = sys.uptime_ms();
        let health = platform.health();
        let now = sys.uptime_ms();
        if now.saturating_sub(began) > settings.gate_ms {
            let minutes = settings.gate_ms / 1000;
            return Err(format!("it was not healthy for long enough within {minutes} s; last: {last}"));
        }
        if health.verdict == Verdict::Unhealthy {
            held_since = None;
            last = health.reasons.join("; ");
            if noted.is_none_or(|at| now.saturating_sub(at) >= NOTE_MS) {
                noted = Some(now);
                note(platform, settings, &last);
            }
        } else {
            // From when it was asked: what it was before is not known.
            let since = *held_since.get_or_insert(asked);
            if now.saturating_sub(since) >= settings.hold_ms {
                return Ok(());
            }
            last = "it was healthy, but not for long enough".to_owned();
        }
        sys.sleep_ms(pause);
    }
}

/// Leaves the reason where the old version finds it. What cannot be written is not missed by this one.
fn note(platform: &dyn Platform, settings: &Settings, reason: &str) {
    let write = |driver: &mut Driver<'_>| {
        driver.journal.trial_note = Some(reason.chars().take(600).collect());
        driver.journal.write(platform.sys(), &settings.directory)?;
        Ok(())
    };
    let _ = open(platform, settings, write);
}
