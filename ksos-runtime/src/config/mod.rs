//! Where the node's configuration comes from, and what is done with it (stage 45).
//!
//! ```text
//! source: data | nocloud | ec2  ->  prepare (parse, merge, plan)  ->  state (commit)  ->  apply
//! ```
//!
//! Precedence: keys of the kernel command line override single keys of the document that is used; the document is the
//! first of `source`'s that is there; what it leaves out comes from the image's default. Nothing is done before all of a
//! configuration is known to be good.
//!
//! | found | in force |
//! |---|---|
//! | a good document | that document |
//! | a bad document | the one applied last, else the image's default; the node is degraded |
//! | nothing, but something was applied before | the one applied last: a node does not lose its address because a stick was pulled |
//! | nothing | the image's default |
//!
//! What is written once is written again when instance or content change; see `state` for power cuts. An empty document
//! takes a configuration back. `ksos.datasource=none` leaves what was applied alone and boots with the image's default.

pub mod apply;
pub mod certificates;
mod data;
mod ec2;
mod imds;
pub mod label;
mod nocloud;
pub mod plan;
mod prepare;
mod secrets;
pub mod source;
pub mod ssh_keys;
pub mod state;
mod storage;
mod zones;

use ksos_formats::config::{Document, from_cmdline};
use ksos_formats::runtime::RuntimeConfig;
use serde::{Deserialize, Serialize};

use crate::cmdline::Cmdline;
use crate::modules::Loader;
use crate::sys::Sys;

pub use imds::{BringUp, main as fetch_ec2};
pub use secrets::{Secrets, scrub};
pub use zones::zone_file;

use apply::Notes;
use prepare::{ImageDefault, Prepared};
use source::{Found, Gathered, Selection, Source};
use state::State;

/// Most lines of errors and of warnings that are kept.
const LINES_LIMIT: usize = 64;

/// What the stage works with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The machine.
    pub sys: &'a dyn Sys,
    /// The kernel command line.
    pub cmdline: &'a Cmdline,
    /// The image's configuration.
    pub image: &'a RuntimeConfig,
    /// Where the data partition is mounted.
    pub data: &'a str,
    /// Number of this boot.
    pub boot: u64,
    /// Called while something is waited for: the watchdog may be shorter than the wait.
    pub progress: &'a dyn Fn(),
}

/// What the node says about its configuration. Holds no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigurationStatus {
    /// `data`, `nocloud`, `ec2` or `default`.
    pub source: String,
    /// Path, device or address.
    pub place: String,
    /// Whether it is in force although it was not found, or not found good, at this boot.
    pub stored: bool,
    /// The instance that it is for; of a document without one, made of its content.
    pub instance_id: String,
    /// Number of the boot at which it was applied.
    pub applied_at_boot: u64,
    /// What has no effect, or should be known.
    pub warnings: Vec<String>,
    /// What is wrong; empty unless the node is degraded.
    pub errors: Vec<String>,
}

/// A configuration that is about to be in force.
struct Choice {
    found: Found,
    prepared: Prepared,
    /// Whether it comes from the state and not from its source.
    stored: bool,
}

/// Finds the configuration, applies it, and says what came of it.
pub fn set_up(context: &Context<'_>) -> ConfigurationStatus {
    let mut secrets = Secrets::of_cmdline(context.cmdline);
    let mut notes = Notes::default();
    let (cmdline, ignored) = from_cmdline(context.cmdline.parameters());
    notes.warnings.extend(ignored);
    let selection = Selection::of(context.cmdline).unwrap_or_else(|error| {
        notes.errors.push(error);
        Selection::default()
    });
    let stored = State::read(context.sys, context.data).unwrap_or_else(|error| {
        notes.errors.push(error);
        None
    });
    let default = ImageDefault::read(context, &mut secrets, &mut notes);
    let gathered = source::gather(context, selection, &mut notes.warnings);
    // The image's default is read from the image, not from the state: an update may bring another.
    let is_usable = |state: &&State| state.found.source != Source::Default && selection.allows(state.found.source);
    let usable = stored.as_ref().filter(is_usable);
    let chooser = Chooser { context, default: &default, cmdline: &cmdline, stored: usable };
    let choice = chooser.choose(gathered, &mut secrets, &mut notes);
    notes.warnings.extend(choice.prepared.warnings.iter().cloned());
    notes.errors.extend(choice.prepared.plan.problems.iter().cloned());
    secrets.add_config(&choice.prepared.config);
    let mut status = apply(context, &choice, &default, stored.as_ref(), &mut notes);
    status.errors = shown(notes.errors, &secrets);
    status.warnings = shown(notes.warnings, &secrets);
    status
}

/// Returns place and text of the user-data on an attached NoCloud volume, when there is one that can be used.
pub fn attached(context: &Context<'_>) -> Option<(String, String)> {
    let selection = Selection::of(context.cmdline).unwrap_or_default();
    if !selection.allows(Source::Nocloud) {
        return None;
    }
    match nocloud::look(context, false, &mut Vec::new()) {
        Gathered::Found(found) => Some((format!("{}:user-data", found.place), found.user_data)),
        Gathered::Refused(_) | Gathered::Absent(_) => None,
    }
}

/// Returns lines without secrets, and not too many of them.
fn shown(lines: Vec<String>, secrets: &Secrets) -> Vec<String> {
    let more = lines.len().saturating_sub(LINES_LIMIT);
    let mut shown: Vec<String> = lines.iter().take(LINES_LIMIT).map(|line| scrub(line, secrets)).collect();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    shown
}

/// Decides what is in force.
struct Chooser<'a> {
    context: &'a Context<'a>,
    default: &'a ImageDefault,
    cmdline: &'a Document,
    stored: Option<&'a State>,
}

impl Chooser<'_> {
    fn choose(&self, gathered: Gathered, secrets: &mut Secrets, notes: &mut Notes) -> Choice {
        let reason = match gathered {
            Gathered::Found(found) => match self.prepare(&found, secrets) {
                Ok(prepared) => return Choice { found, prepared, stored: false },
                Err(errors) => {
                    notes.errors.extend(errors);
                    None
                }
            },
            Gathered::Refused(errors) => {
                notes.errors.extend(errors);
                None
            }
            Gathered::Absent(reason) => Some(reason),
        };
        if let Some(state) = self.stored {
            match self.prepare(&state.found, secrets) {
                Ok(prepared) => {
                    notes.warnings.extend(reason.map(|why| still_in_force(state, why)));
                    return Choice { found: state.found.clone(), prepared, stored: true };
                }
                Err(errors) => notes.errors.extend(errors),
            }
        } else if let Some(Some(why)) = reason {
            notes.errors.push(why);
        }
        self.image_default(secrets, notes)
    }

    fn prepare(&self, found: &Found, secrets: &mut Secrets) -> Result<Prepared, Vec<String>> {
        prepare::prepare(self.context.image, self.default, found, self.cmdline, secrets)
    }

    /// Returns the image's default, and if that is not good either, nothing but the kernel command line.
    fn image_default(&self, secrets: &mut Secrets, notes: &mut Notes) -> Choice {
        let found = Found::empty(Source::Default, &self.default.place);
        let prepared = self.prepare(&found, secrets).unwrap_or_else(|errors| {
            notes.errors.extend(errors);
            Prepared::without_documents(self.cmdline)
        });
        Choice { found, prepared, stored: false }
    }
}

fn still_in_force(state: &State, why: Option<String>) -> String {
    let State { found: Found { source, place, .. }, applied_at_boot, .. } = state;
    let why = why.unwrap_or_else(|| format!("{} ({place}) is not there", source.name()));
    format!("{why}; the configuration applied at boot {applied_at_boot} stays in force")
}

/// Applies a configuration: in memory at every boot, on the data partition once.
fn apply(
    context: &Context<'_>,
    choice: &Choice,
    default: &ImageDefault,
    stored: Option<&State>,
    notes: &mut Notes,
) -> ConfigurationStatus {
    let Choice { found, prepared, .. } = choice;
    let Prepared { config, plan, .. } = prepared;
    let digest = state::digest(found, &default.text);
    let instance_id = prepared.instance_id.clone().unwrap_or_else(|| format!("content-{:.16}", digest));
    let same = |state: &&State| state.digest == digest && state.instance_id == instance_id;
    let state = match stored.filter(same) {
        Some(state) => state.clone(),
        None => State::begin(found.clone(), instance_id, digest, context.boot),
    };
    let host_name = config.hostname.as_deref().unwrap_or(&context.image.hostname);
    apply::in_memory(context.sys, config, host_name, plan, notes);
    // With the image's default in place of what was applied (a bad state, `ksos.datasource=none`), the state is left
    // alone: it holds when the reason is gone.
    let stands_in =
        found.source == Source::Default && stored.is_some_and(|state| state.found.source != Source::Default);
    if !stands_in && !state.complete {
        write_once(context, state.clone(), prepared, notes);
    }
    apply::kubesolo(context.sys, config, notes);
    ConfigurationStatus {
        source: found.source.name().to_owned(),
        place: found.place.clone(),
        stored: choice.stored,
        instance_id: state.instance_id,
        applied_at_boot: state.applied_at_boot,
        ..ConfigurationStatus::default()
    }
}

/// Writes what is written once, between the two writes of the state.
fn write_once(context: &Context<'_>, mut state: State, prepared: &Prepared, notes: &mut Notes) {
    if let Err(error) = state.write(context.sys, context.data) {
        // Without it, this would be done again at every boot.
        notes.errors.push(error.to_string());
        return;
    }
    if apply::persistent_files(context.sys, &prepared.plan, notes) {
        state.complete = true;
        notes.errors.extend(state.write(context.sys, context.data).err().map(|error| error.to_string()));
    }
}

/// Loads the drivers of all hardware there is, as stage 85 does later: a network card or a USB stick that a source needs
/// has none before.
fn load_hardware_drivers(sys: &dyn Sys, cmdline: &Cmdline) {
    if let Ok(loader) = Loader::open(sys, cmdline) {
        // Stage 85 says what fails.
        let _ = loader.load_for_hardware();
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
