//! What speaks against an update before anything is touched.

use ksos_formats::update::window::Open;
use ksos_formats::update::{Release, Verified};

use super::drive::Driver;
use super::error::{InstallError, Refusal, UpdateError};
use super::platform::Platform;
use super::quarantine::Quarantine;
use super::settings::Settings;
use super::trust::Trust;
use super::{floor, machine};
use crate::agent::health::Verdict;

/// Room that the journal and what is beside it need, in bytes.
pub const JOURNAL_ROOM: u64 = 1 << 20;

/// Refuses when the node itself is not fit for an update.
///
/// # Errors
/// [`Refusal`]; what cannot be read.
pub fn node(driver: &mut Driver<'_>) -> Result<(), UpdateError> {
    let (platform, settings) = (driver.platform, driver.settings);
    if let Some(pending) = driver.journal.state.pending().filter(|_| !driver.journal.state.is_installing()) {
        let version = pending.version.as_ref().map(ToString::to_string);
        return Err(Refusal::OnTrial(version.unwrap_or_else(|| "the running version".to_owned())).into());
    }
    clock(platform, settings)?;
    data(platform, settings)?;
    driver.guard(driver.places.booted.other())?;
    let health = platform.health();
    if health.verdict == Verdict::Unhealthy {
        return Err(Refusal::Unhealthy(health.reasons.join("; ")).into());
    }
    Ok(())
}

/// Refuses when the clock is before the image was built: it cannot tell what has expired.
///
/// # Errors
/// [`Refusal::Clock`].
pub fn clock(platform: &dyn Platform, settings: &Settings) -> Result<(), Refusal> {
    let (now, created) = (platform.sys().wall_clock(), settings.image.epoch);
    if now < created { Err(Refusal::Clock { now, what: "the running image", created }) } else { Ok(()) }
}

fn data(platform: &dyn Platform, settings: &Settings) -> Result<(), UpdateError> {
    if !settings.persistent {
        return Err(Refusal::NoData.into());
    }
    platform.sys().make_directory(&settings.directory, 0o700)?;
    let free = platform.sys().space(&settings.directory)?.free;
    if free < JOURNAL_ROOM { Err(Refusal::Space { free, needed: JOURNAL_ROOM }.into()) } else { Ok(()) }
}

/// Refuses when no window is open.
///
/// # Errors
/// [`Refusal::Window`], [`Refusal::BadWindow`].
pub fn window(platform: &dyn Platform, settings: &Settings, force: bool) -> Result<(), Refusal> {
    match settings.open(platform.sys()) {
        _ if force => Ok(()),
        Ok(Open::Closed { next }) => Err(Refusal::Window { next }),
        Ok(_) => Ok(()),
        Err(error) => Err(Refusal::BadWindow(error)),
    }
}

/// Refuses a release for what may have changed since it was chosen, too: this is asked again before the trial.
///
/// # Errors
/// [`Refusal`], [`super::error::Untrusted::Expired`].
pub fn release(
    platform: &dyn Platform,
    settings: &Settings,
    release: &Verified<Release>,
    retry: bool,
) -> Result<(), UpdateError> {
    let (sys, value) = (platform.sys(), release.value());
    clock(platform, settings)?;
    Trust { sys, settings }.not_expired(value)?;
    let running = running(settings)?;
    let older = |than, what| Refusal::Older { version: value.version.clone(), than, what };
    if !value.version.is_newer_than(&running) {
        return Err(older(running, "the version that runs").into());
    }
    if let Some(minimum) = value.minimum_version.as_ref().filter(|minimum| running.is_older_than(minimum)) {
        let (wanted, minimum) = (value.version.clone(), Some(minimum.clone()));
        return Err(Refusal::SteppingStone { wanted, current: running, minimum, next: None }.into());
    }
    if let Some(floor) = floor::read(sys, &settings.directory)?.filter(|floor| value.version.is_older_than(floor)) {
        return Err(older(floor, "the newest version that was ever kept").into());
    }
    let quarantine = Quarantine::read(sys, &settings.directory)?;
    let found = quarantine.find(&release.digest(), Some(&value.slot.sha256), &value.version);
    match found.filter(|_| !retry) {
        Some(entry) => {
            Err(Refusal::Quarantined { version: value.version.clone(), reason: entry.reason.clone() }.into())
        }
        None => Ok(()),
    }
}

/// Refuses an image that is larger than the slot, and a slot that cannot be written.
///
/// # Errors
/// [`Refusal::Large`]; the partition cannot be opened for writing.
pub fn slot(driver: &mut Driver<'_>, image: u64) -> Result<(), UpdateError> {
    let slot = driver.places.booted.other();
    let place = driver.places.slot(slot).clone();
    let disk = driver.open_target(slot)?;
    let room = disk.size().min(place.size);
    if image > room { Err(Refusal::Large { size: image, slot, room }.into()) } else { Ok(()) }
}

/// Returns the version that runs.
///
/// # Errors
/// [`Refusal::RunningVersion`].
pub fn running(settings: &Settings) -> Result<ksos_formats::update::Version, Refusal> {
    settings.image.version.parse().map_err(|_| Refusal::RunningVersion(settings.image.version.clone()))
}

/// Whether an error leaves what was written as it is, for the next attempt: it waits for a window, not for a better
/// release.
pub fn is_postponed(error: &UpdateError) -> bool {
    matches!(error, UpdateError::Refused(Refusal::Window { .. }))
}

/// What an installation that is given up has as its reason.
pub fn reason(error: &UpdateError) -> machine::Event {
    let reason = match error {
        UpdateError::Install(InstallError::Source(error)) => error.to_string(),
        error => error.to_string(),
    };
    machine::Event::Failed(reason)
}
