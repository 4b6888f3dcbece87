//! `kubesolo-update check` and `apply`: from the source to a slot that waits for its trial.

use ksos_formats::bootstate::Slot;
use ksos_formats::update::{Channel, ChunkIndex, Release, Verified, Version};
use serde::Serialize;

use super::drive::{Driver, boot_id};
use super::error::{InstallError, Refusal, UpdateError};
use super::install::{self, Amounts, Job};
use super::journal::SlotContent;
use super::machine::{Event, Pending, Purpose, State};
use super::platform::Platform;
use super::quarantine::{self, Quarantine};
use super::settings::Settings;
use super::source::Source;
use super::status::Status;
use super::trust::{self, Chosen, Limits, Trust};
use super::{floor, mend, preflight};

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// This version, and no other.
    pub version: Option<Version>,
    /// Whether the machine is left running.
    pub no_reboot: bool,
    /// Whether what is in quarantine may come after all.
    pub retry: bool,
    /// Whether windows are left out of account.
    pub force_window: bool,
    /// Whether nobody has asked for it: then only a node that updates by itself does it.
    pub automatic: bool,
}

/// What was found or done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Done {
    /// Nothing is newer.
    UpToDate {
        /// The version that runs.
        version: Version,
    },
    /// There is something, and it was not asked to be installed.
    Available {
        /// The version that runs.
        running: Version,
        /// The version that can be installed.
        version: Version,
        /// The version that it is a step to.
        towards: Option<Version>,
    },
    /// It is installed and starts with the next restart.
    Installed {
        /// The version; not known for a slot of which nothing is.
        version: Option<Version>,
        /// The version that it is a step to.
        towards: Option<Version>,
        /// Bytes of chunks that were predicted to be fetched.
        planned_bytes: u64,
        /// Bytes of chunks fetched.
        fetched_bytes: u64,
        /// Bytes of the image copied from the slot that runs.
        copied_bytes: u64,
        /// Bytes of the image that an earlier attempt had written.
        kept_bytes: u64,
        /// Most memory that this process has used, in bytes.
        peak_memory_bytes: Option<u64>,
        /// Whether the machine restarts now.
        restarts: bool,
    },
}

/// A release that was chosen and verified.
struct Wanted {
    source: Box<dyn Source>,
    chosen: Chosen,
    release: Verified<Release>,
    index: ChunkIndex,
}

/// What a look at the source gave.
struct Look {
    source: Box<dyn Source>,
    keys: ksos_formats::update::KeySet,
    channel: Verified<Channel>,
    floor: Option<Version>,
    quarantine: Quarantine,
    chosen: Option<Chosen>,
    running: Version,
}

impl Look {
    fn choose(&mut self, options: &Options) -> Result<(), Refusal> {
        let (floor, retry) = (self.floor.as_ref(), options.retry);
        let limits = Limits { running: &self.running, floor, quarantine: &self.quarantine, retry };
        self.chosen = trust::choose(self.channel.value(), options.version.as_ref(), &limits)?;
        Ok(())
    }

    /// Leaves out a release that the quarantine knows by its image: what failed, signed anew. From now on it is known by
    /// its document, too, and one that is older may come.
    fn leave_out(&mut self, driver: &mut Driver<'_>, release: &Verified<Release>, reason: String) {
        let (sys, value) = (driver.platform.sys(), release.value());
        let entry = quarantine::Entry {
            release: Some(release.digest()),
            image: Some(value.slot.sha256),
            version: Some(value.version.clone()),
            reason,
            since: sys.wall_clock(),
        };
        if let Err(error) = self.quarantine.add(entry, sys, &driver.settings.directory) {
            driver.notes.push(format!("the quarantine could not be written: {error}"));
        }
    }
}

/// Looks what there is, and says so in the status.
///
/// # Errors
/// [`UpdateError`].
pub fn check(platform: &dyn Platform, settings: &Settings, options: &Options) -> Result<Done, UpdateError> {
    // Whoever has the lock mends what is damaged.
    if let Some(_lock) = platform.lock()? {
        mend::mend(platform, settings);
    }
    let looked = look(platform, settings, options);
    say(platform, settings, looked.as_ref().map(|look| look.chosen.as_ref()));
    let Look { chosen, running, .. } = looked?;
    Ok(match chosen {
        None => Done::UpToDate { version: running },
        Some(Chosen { next, towards }) => Done::Available { running, version: next.version, towards },
    })
}

fn look(platform: &dyn Platform, settings: &Settings, options: &Options) -> Result<Look, UpdateError> {
    if settings.source.url.is_empty() {
        return Err(super::error::Untrusted::NoSource.into());
    }
    preflight::clock(platform, settings)?;
    let sys = platform.sys();
    let running = preflight::running(settings)?;
    let trust = Trust { sys, settings };
    let mut source = platform.open_source(&settings.source)?;
    let keys = trust.keys(source.as_mut())?;
    let channel = trust.channel(source.as_mut(), &keys)?;
    let floor = floor::read(sys, &settings.directory)?;
    let quarantine = Quarantine::read(sys, &settings.directory)?;
    let mut look = Look { source, keys, channel, floor, quarantine, chosen: None, running };
    look.choose(options)?;
    Ok(look)
}

/// Says what was found where the metrics read it.
fn say(platform: &dyn Platform, settings: &Settings, found: Result<Option<&Chosen>, &UpdateError>) {
    let sys = platform.sys();
    let before = Status::read(sys);
    let status = match found {
        Ok(chosen) => Status {
            available: chosen.map(|chosen| chosen.next.version.clone()),
            checked: Some(sys.wall_clock()),
            problem: String::new(),
            ..Status::default()
        },
        Err(error) => Status { problem: error.to_string(), ..before },
    };
    // A status that cannot be written is missed by the metrics alone.
    let _ = status.write(sys, &settings.directory);
}

/// Installs what there is, and restarts the machine when it may.
///
/// # Errors
/// [`UpdateError`]. The slot that runs and the boot state are as they were.
pub fn apply(platform: &dyn Platform, settings: &Settings, options: &Options) -> Result<Done, UpdateError> {
    if options.automatic && !settings.automatic {
        return check(platform, settings, options);
    }
    let _lock = platform.lock()?.ok_or(Refusal::Locked)?;
    let mut driver = Driver::open(platform, settings)?;
    if let State::AwaitingReboot(pending) = &driver.journal.state {
        let (version, force) = (pending.version.clone(), pending.force_window || options.force_window);
        return restart(&driver, version, None, Amounts::default(), options, force);
    }
    let applied = prepare(&mut driver, options).and_then(|wanted| match wanted {
        Some(wanted) => install(&mut driver, wanted, options),
        None => Ok(Done::UpToDate { version: preflight::running(settings)? }),
    });
    if let Err(error) = &applied {
        say(platform, settings, Err(error));
    }
    applied
}

/// Everything that can speak against it, before anything is touched. `None`: nothing is newer.
fn prepare(driver: &mut Driver<'_>, options: &Options) -> Result<Option<Wanted>, UpdateError> {
    let (platform, settings) = (driver.platform, driver.settings);
    let looked = look(platform, settings, options);
    say(platform, settings, looked.as_ref().map(|look| look.chosen.as_ref()));
    let mut look = looked?;
    if look.chosen.is_none() {
        return Ok(None);
    }
    preflight::node(driver)?;
    preflight::window(platform, settings, options.force_window)?;
    let trust = Trust { sys: platform.sys(), settings };
    // Each is left out once.
    for _ in 0..=look.channel.value().releases.len() {
        let Some(chosen) = look.chosen.take() else { break };
        let release = trust.release(look.source.as_mut(), &look.keys, &chosen.next)?;
        match preflight::release(platform, settings, &release, options.retry) {
            Err(UpdateError::Refused(Refusal::Quarantined { reason, .. })) if options.version.is_none() => {
                look.leave_out(driver, &release, reason);
                look.choose(options)?;
                say(platform, settings, Ok(look.chosen.as_ref()));
            }
            fits => {
                fits?;
                preflight::slot(driver, release.value().slot.size)?;
                let index = trust.index(look.source.as_mut(), release.value())?;
                return Ok(Some(Wanted { source: look.source, chosen, release, index }));
            }
        }
    }
    Ok(None)
}

fn install(driver: &mut Driver<'_>, mut wanted: Wanted, options: &Options) -> Result<Done, UpdateError> {
    let target = driver.places.booted.other();
    let pending = pending(driver, &wanted, target, options);
    let release = wanted.release.value();
    driver.journal.coming = Some(SlotContent {
        version: release.version.clone(),
        release: Some(wanted.release.digest()),
        image: Some(release.slot),
    });
    if options.retry {
        let mut quarantine = Quarantine::read(driver.platform.sys(), &driver.settings.directory)?;
        let meant = (&wanted.release.digest(), Some(&release.slot.sha256), &release.version);
        quarantine.release(meant, driver.platform.sys(), &driver.settings.directory)?;
    }
    driver.advance(Event::Chose(pending))?;
    let written = write_slot(driver, &mut wanted, target, options);
    match written {
        Ok(amounts) => {
            let actions = driver.advance(Event::Done)?;
            driver.perform_all(&actions)?;
            let version = Some(wanted.chosen.next.version.clone());
            restart(driver, version, wanted.chosen.towards, amounts, options, options.force_window)
        }
        Err(error) if preflight::is_postponed(&error) => Err(error),
        Err(error) => {
            // What is in memory counts, should the journal take nothing any more.
            let _ = driver.advance(preflight::reason(&error));
            driver.conclude()?;
            Err(error)
        }
    }
}

fn pending(driver: &Driver<'_>, wanted: &Wanted, target: Slot, options: &Options) -> Pending {
    let release = wanted.release.value();
    Pending {
        purpose: Purpose::Update,
        release: Some(wanted.release.digest()),
        image: Some(release.slot.sha256),
        version: Some(release.version.clone()),
        from: driver.running(),
        from_release: driver.journal.slot(driver.places.booted).and_then(|content| content.release),
        target,
        started: driver.platform.sys().wall_clock(),
        boot_id: boot_id(driver.platform),
        force_window: options.force_window,
    }
}

/// From a release that was chosen to a slot with its trial.
fn write_slot(
    driver: &mut Driver<'_>,
    wanted: &mut Wanted,
    target: Slot,
    options: &Options,
) -> Result<Amounts, UpdateError> {
    let clearing = driver.advance(Event::Done)?;
    driver.perform_all(&clearing)?;
    driver.advance(Event::Done)?;
    let disk = driver.open_target(target)?;
    let active = driver.platform.open_slot(driver.places.slot(driver.places.booted), false)?;
    let release = wanted.release.value();
    let (image, chunks) = (release.slot, release.chunks);
    let job = Job { active: active.as_ref(), slot: target, image, chunks, index: &wanted.index };
    let mut progress = |bytes: u64| -> Result<(), InstallError> {
        match driver.advance(Event::Progress(bytes)) {
            Ok(_) => Ok(()),
            Err(UpdateError::Sys(error)) => Err(error.into()),
            Err(error) => Err(InstallError::BootState(error.to_string())),
        }
    };
    let (writer, amounts) = install::write(&job, disk, wanted.source.as_mut(), &mut progress)?;
    driver.advance(Event::Done)?;
    let proven = writer.finish()?;
    driver.advance(Event::Done)?;
    let bootable = proven.write_head()?;
    preflight::release(driver.platform, driver.settings, &wanted.release, options.retry)?;
    preflight::window(driver.platform, driver.settings, options.force_window)?;
    driver.start_trial(&bootable)?;
    Ok(amounts)
}

/// Restarts the machine into what is installed, when it may.
fn restart(
    driver: &Driver<'_>,
    version: Option<Version>,
    towards: Option<Version>,
    amounts: Amounts,
    options: &Options,
    force: bool,
) -> Result<Done, UpdateError> {
    let may = preflight::window(driver.platform, driver.settings, force).is_ok();
    let restarts = may && !options.no_reboot;
    if restarts {
        driver.platform.reboot()?;
    }
    Ok(Done::Installed {
        version,
        towards,
        planned_bytes: amounts.planned,
        fetched_bytes: amounts.fetched,
        copied_bytes: amounts.copied,
        kept_bytes: amounts.kept,
        peak_memory_bytes: peak_memory(driver.platform),
        restarts,
    })
}

/// Returns the most memory that this process has used, in bytes (proc(5), `VmHWM`).
pub fn peak_memory(platform: &dyn Platform) -> Option<u64> {
    let status = crate::sys::read_text(platform.sys(), "/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}
