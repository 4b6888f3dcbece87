//! `kubesolo-update rollback`: a trial of the other slot, which has worked before.

use super::apply::{self, Done, Options};
use super::drive::{Driver, boot_id};
use super::error::{Refusal, UpdateError};
use super::machine::{Event, Pending, Purpose};
use super::platform::Platform;
use super::preflight;
use super::settings::Settings;
use super::writer::{BootableSlot, HEAD};
use crate::disk::probe::{self, Content};

/// Gives the other slot a trial, and restarts the machine unless it is to be left running. What is kept of the trial
/// puts the version that is left in quarantine.
///
/// # Errors
/// [`Refusal::NoRollback`] and the other reasons against an update; the boot state cannot be written.
pub fn rollback(platform: &dyn Platform, settings: &Settings, options: &Options) -> Result<Done, UpdateError> {
    let _lock = platform.lock()?.ok_or(Refusal::Locked)?;
    let mut driver = Driver::open(platform, settings)?;
    if let Some(pending) = driver.journal.state.pending().filter(|_| !driver.journal.state.is_installing()) {
        let version = pending.version.as_ref().map(ToString::to_string).unwrap_or_default();
        return Err(Refusal::OnTrial(version).into());
    }
    let target = driver.places.booted.other();
    driver.guard(target)?;
    let bootable = bootable(&driver)?;
    let content = driver.journal.slot(target).cloned();
    let left = driver.journal.slot(driver.places.booted).cloned();
    driver.journal.coming.clone_from(&content);
    let pending = Pending {
        purpose: Purpose::Rollback,
        release: content.as_ref().and_then(|content| content.release),
        image: content.as_ref().and_then(|content| content.image).map(|image| image.sha256),
        version: content.map(|content| content.version),
        from: driver.running(),
        from_release: left.and_then(|content| content.release),
        target,
        started: platform.sys().wall_clock(),
        boot_id: boot_id(platform),
        force_window: true,
    };
    let version = pending.version.clone();
    driver.advance(Event::Chose(pending))?;
    driver.advance(Event::Done)?;
    if let Err(error) = driver.start_trial(&bootable) {
        let _ = driver.advance(preflight::reason(&error));
        driver.conclude()?;
        return Err(error);
    }
    let actions = driver.advance(Event::Done)?;
    driver.perform_all(&actions)?;
    let restarts = !options.no_reboot;
    if restarts {
        platform.reboot()?;
    }
    Ok(Done::Installed {
        version,
        towards: None,
        planned_bytes: 0,
        fetched_bytes: 0,
        copied_bytes: 0,
        kept_bytes: 0,
        peak_memory_bytes: apply::peak_memory(platform),
        restarts,
    })
}

/// Whether the other slot still has what has worked.
fn bootable(driver: &Driver<'_>) -> Result<BootableSlot, UpdateError> {
    let slot = driver.places.booted.other();
    let refused = |reason: &str| Refusal::NoRollback { slot, reason: reason.to_owned() };
    let Some(content) = driver.journal.slot(slot) else {
        return Err(refused("nothing that has worked is known to be in it").into());
    };
    let disk = driver.platform.open_slot(driver.places.slot(slot), false)?;
    let Some(image) = &content.image else {
        let mut head = vec![0; probe::PROBE_SIZE.min(disk.size() as usize).max(HEAD as usize)];
        disk.read_at(0, &mut head)?;
        return match probe::identify(&head) {
            Content::Ext4(_) => Ok(BootableSlot::came_with_the_disk(slot)),
            _ => Err(refused("it has no file system").into()),
        };
    };
    BootableSlot::worked_before(disk.as_ref(), slot, image)
        .map_err(|error| refused(&format!("it is not what has worked: {error}")).into())
}
