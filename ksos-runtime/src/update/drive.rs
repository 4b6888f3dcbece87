//! The loop that does what [`super::machine`] asks for.
//!
//! A new state is in the journal before anything of it is done. While an update is installed, a journal that cannot be
//! written ends the installation; once it is on trial, nothing on the data partition keeps it from being kept.

use ksos_formats::bootstate::{BootState, Slot};
use ksos_formats::update::Version;

use super::bootblocks::Copies;
use super::error::{InstallError, Refusal, UpdateError};
use super::history;
use super::journal::{Journal, SlotContent};
use super::machine::{self, Action, Event, Found, State};
use super::places::Places;
use super::platform::Platform;
use super::quarantine::{self, Quarantine};
use super::settings::Settings;
use super::status::Status;
use super::writer::BootableSlot;
use super::{floor, mend, writer};
use crate::sys::Disk;

/// The kernel's id of this boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What drives an update.
pub struct Driver<'a> {
    /// The node.
    pub platform: &'a dyn Platform,
    /// What is in force.
    pub settings: &'a Settings,
    /// The partitions.
    pub places: Places,
    /// The journal as it is in memory; on the data partition too, if that can be written.
    pub journal: Journal,
    /// What went wrong and is not worth to stop for.
    pub notes: Vec<String>,
}

impl<'a> Driver<'a> {
    /// Reads the journal, and brings it in line with the boot state.
    ///
    /// # Errors
    /// The partitions or the boot state cannot be read.
    pub fn open(platform: &'a dyn Platform, settings: &'a Settings) -> Result<Self, UpdateError> {
        let places = platform.places()?;
        let (journal, damage) = Journal::read(platform.sys(), &settings.directory);
        let mut driver = Driver { platform, settings, places, journal, notes: damage.into_iter().collect() };
        let found = driver.found()?;
        driver.notes.extend(mend::mend(platform, settings));
        driver.know_running_slot();
        driver.advance(Event::Started(found))?;
        driver.conclude()?;
        Ok(driver)
    }

    /// The version that runs, if it is one.
    pub fn running(&self) -> Option<Version> {
        self.settings.image.version.parse().ok()
    }

    /// Reads the boot state.
    ///
    /// # Errors
    /// The EFI system partition cannot be read.
    pub fn copies(&self) -> Result<Copies, UpdateError> {
        Ok(self.platform.boot_state(&self.places)?)
    }

    fn found(&self) -> Result<Found, UpdateError> {
        Ok(Found {
            booted: self.places.booted,
            boot: self.copies()?.state(),
            boot_id: boot_id(self.platform),
            now: self.platform.sys().wall_clock(),
            running: self.running(),
        })
    }

    /// What came with the disk image is noted as soon as something runs that can.
    fn know_running_slot(&mut self) {
        let booted = self.places.booted;
        if self.journal.state == State::Idle
            && self.journal.slot(booted).is_none()
            && let Some(version) = self.running()
        {
            self.journal.set_slot(booted, Some(SlotContent { version, release: None, image: None }));
        }
    }

    /// Takes a step, and writes it down.
    ///
    /// # Errors
    /// The journal cannot be written while nothing was tried yet.
    pub fn advance(&mut self, event: Event) -> Result<Vec<Action>, UpdateError> {
        let (state, actions) = machine::step(self.journal.state.clone(), event);
        if state != self.journal.state {
            self.journal.state = state;
            self.save()?;
        }
        Ok(actions)
    }

    fn save(&mut self) -> Result<(), UpdateError> {
        let sys = self.platform.sys();
        let directory = &self.settings.directory;
        let written = sys.make_directory(directory, 0o700).and_then(|()| self.journal.write(sys, directory));
        match written {
            Err(error) if self.journal.state.is_installing() => Err(error.into()),
            Err(error) => {
                self.notes.push(format!("the update journal could not be written: {error}"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Does all that is to be done without waiting for anything: ends that were not written down, a commit that was
    /// begun.
    ///
    /// # Errors
    /// The boot state cannot be written.
    pub fn conclude(&mut self) -> Result<(), UpdateError> {
        while matches!(
            self.journal.state,
            State::Committing(_) | State::Committed(_) | State::Failed { .. } | State::FellBack { .. }
        ) {
            for action in machine::actions(&self.journal.state) {
                self.perform(&action)?;
            }
            self.advance(Event::Done)?;
        }
        Ok(())
    }

    /// Does one of the actions that need nothing but the node.
    fn perform(&mut self, action: &Action) -> Result<(), UpdateError> {
        match action {
            Action::Settle(slot) => self.settle(*slot)?,
            Action::Confirm(slot, confirmed) => self.confirm(*slot, *confirmed)?,
            Action::Clear(slot) => self.clear(*slot)?,
            Action::Note(slot, good) => self.note(*slot, *good)?,
            Action::RaiseFloor(version) => {
                let raised = floor::raise(self.platform.sys(), &self.settings.directory, version);
                self.tolerate("the floor could not be raised", raised);
            }
            Action::Quarantine { release, image, version, reason } => self.quarantine(quarantine::Entry {
                release: *release,
                image: *image,
                version: version.clone(),
                reason: reason.clone(),
                since: self.platform.sys().wall_clock(),
            }),
            Action::Record { result, reason } => self.record(*result, reason),
            Action::Write(_) | Action::Prove(_) | Action::Activate(_) | Action::Reboot | Action::Watch => {}
        }
        Ok(())
    }

    /// Does the actions of a step that need nothing but the node.
    ///
    /// # Errors
    /// As the actions.
    pub fn perform_all(&mut self, actions: &[Action]) -> Result<(), UpdateError> {
        actions.iter().try_for_each(|action| self.perform(action))
    }

    fn tolerate(&mut self, what: &str, result: Result<(), UpdateError>) {
        if let Err(error) = result {
            self.notes.push(format!("{what}: {error}"));
        }
    }

    /// Makes both copies say that `slot` is active and nothing is on trial.
    fn settle(&mut self, slot: Slot) -> Result<(), UpdateError> {
        let copies = self.copies()?;
        let settled = |state: BootState| state.active == slot && state.trial.is_none();
        if copies.agree() && copies.state().is_some_and(settled) {
            return Ok(());
        }
        let state = BootState { generation: next_generation(&copies), active: slot, trial: None };
        Ok(self.platform.set_boot_state(&self.places, &state)?)
    }

    fn confirm(&mut self, slot: Slot, confirmed: bool) -> Result<(), UpdateError> {
        let marks = self.copies()?.confirmed;
        let mark = if slot == Slot::A { marks[0] } else { marks[1] };
        if mark != Some(confirmed) {
            self.platform.set_confirmed(&self.places, slot, confirmed)?;
        }
        Ok(())
    }

    /// Refuses unless nothing that the boot loader can read would start `target`. Repairs copies that differ.
    ///
    /// # Errors
    /// [`Refusal`]; the boot state cannot be read or written.
    pub fn guard(&mut self, target: Slot) -> Result<(), UpdateError> {
        let booted = self.places.booted;
        let copies = self.copies()?;
        let Some(state) = copies.state() else {
            return Err(Refusal::OnTrial("the running system (the boot state was lost)".to_owned()).into());
        };
        if state.trial.is_some() {
            return Err(Refusal::OnTrial(format!("slot {}", state.active.other())).into());
        }
        if state.active != booted || target == booted {
            return Err(Refusal::Active { booted, active: state.active }.into());
        }
        if !copies.agree() {
            self.settle(booted)?;
            let copies = self.copies()?;
            if !copies.agree() || copies.state().is_none_or(|state| state.active != booted || state.trial.is_some()) {
                return Err(InstallError::BootState("its copies still differ".to_owned()).into());
            }
        }
        Ok(())
    }

    /// Opens the slot that is to be written.
    ///
    /// # Errors
    /// As [`Driver::guard`]; the partition cannot be opened.
    pub fn open_target(&mut self, target: Slot) -> Result<Box<dyn Disk>, UpdateError> {
        self.guard(target)?;
        let place = self.places.slot(target);
        if place.device == self.places.slot(target.other()).device {
            return Err(Refusal::Active { booted: self.places.booted, active: target }.into());
        }
        Ok(self.platform.open_slot(place, true)?)
    }

    fn clear(&mut self, slot: Slot) -> Result<(), UpdateError> {
        let disk = self.open_target(slot)?;
        Ok(writer::clear(disk.as_ref())?)
    }

    fn note(&mut self, slot: Slot, good: bool) -> Result<(), UpdateError> {
        let pending = self.journal.state.pending();
        let wanted = pending.map(|pending| (pending.release, pending.version.clone()));
        let is_wanted = |content: &SlotContent| {
            wanted.as_ref().is_some_and(|wanted| *wanted == (content.release, Some(content.version.clone())))
        };
        let coming = self.journal.coming.clone().filter(is_wanted);
        let version = pending.and_then(|pending| pending.version.clone());
        let plain = version.map(|version| SlotContent { version, release: None, image: None });
        let content = if good { coming.or_else(|| self.journal.slot(slot).cloned()).or(plain) } else { None };
        if self.journal.slot(slot) != content.as_ref() {
            self.journal.set_slot(slot, content);
            self.save()?;
        }
        Ok(())
    }

    fn quarantine(&mut self, entry: quarantine::Entry) {
        let (sys, directory) = (self.platform.sys(), &self.settings.directory);
        // A list that cannot be read now is begun anew: what must not come again now matters most.
        let mut list = Quarantine::read(sys, directory).unwrap_or_default();
        let added = list.add(entry, sys, directory);
        self.tolerate("the quarantine could not be written", added);
    }

    fn record(&mut self, result: machine::Outcome, reason: &str) {
        let Some(pending) = self.journal.state.pending() else { return };
        let (sys, directory) = (self.platform.sys(), &self.settings.directory);
        let reason = match (&self.journal.trial_note, result) {
            (Some(note), machine::Outcome::RolledBack) => format!("{reason}: {note}"),
            _ => reason.to_owned(),
        };
        let entry = history::Entry::new(pending, result, &reason, sys.wall_clock());
        let added = history::add(sys, directory, entry);
        self.tolerate("the history could not be written", added);
        let shown = Status::read(sys).write(sys, directory).map_err(UpdateError::from);
        self.tolerate("the update status could not be written", shown);
        if result != machine::Outcome::Installed {
            self.journal.trial_note = None;
        }
    }

    /// Gives the slot its trial. When the boot state could not be written as a whole, what the boot loader would read
    /// decides whether it has one.
    ///
    /// # Errors
    /// As [`Driver::guard`]; the boot state cannot be written.
    pub fn start_trial(&mut self, slot: &BootableSlot) -> Result<(), UpdateError> {
        self.guard(slot.slot())?;
        let copies = self.copies()?;
        let state = BootState {
            generation: next_generation(&copies),
            active: self.places.booted,
            trial: Some(ksos_formats::bootstate::MAX_TRIES),
        };
        let Err(error) = self.platform.set_boot_state(&self.places, &state) else { return Ok(()) };
        let selected = self.copies().ok().and_then(|copies| copies.state());
        if selected.is_some_and(|state| state.trial_slot() == Some(slot.slot())) {
            self.notes.push(format!("the second copy of the boot state could not be written: {error}"));
            return Ok(());
        }
        Err(InstallError::BootState(error.to_string()).into())
    }
}

/// Returns the generation after all that can be read.
fn next_generation(copies: &Copies) -> u64 {
    let newest = copies.copies.iter().filter_map(|copy| copy.as_ref().ok()).map(|state| state.generation).max();
    newest.unwrap_or(0) + 1
}

/// Returns the kernel's id of this boot.
pub fn boot_id(platform: &dyn Platform) -> String {
    crate::sys::read_line(platform.sys(), BOOT_ID).unwrap_or_default()
}
