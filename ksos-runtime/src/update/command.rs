//! `kubesolo-update`: what people and the service `update` call.

use std::io::Write;

use ksos_formats::bootstate::Slot;
use ksos_formats::update::Version;
use serde::Serialize;

use super::apply::{self, Done, Options};
use super::bootblocks::Copies;
use super::error::{self, UpdateError};
use super::history;
use super::journal::{Journal, SlotContent};
use super::machine::State;
use super::platform::{Live, Platform};
use super::quarantine::{self, Quarantine};
use super::settings::Settings;
use super::status::Status;
use super::{floor, gate, rollback, store};
use crate::sys::Sys;

const USAGE: &str = "usage: kubesolo-update VERB [--json] [OPTION...]
  check     [--version V] [--channel C] [--source URL]
            looks what can be installed
  apply     [--version V] [--channel C] [--source URL] [--no-reboot] [--retry] [--force-window]
            installs it and restarts the node
  status    says what runs, what is on trial and what can be installed
  rollback  [--no-reboot]
            gives the other slot a trial; the version that is left does not come again by itself
  history   says how updates ended
  metrics   [--listen ADDRESS:PORT]
            serves the node's metrics; with --json prints them once
Exit status: 0 done or nothing to do, 1 failed, 2 wrong usage, 3 the source could not be fetched or verified,
4 refused: nothing was touched
";

/// What the arguments ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    verb: String,
    json: bool,
    channel: Option<String>,
    source: Option<String>,
    options: Options,
}

impl Arguments {
    /// Reads the arguments; says what is wrong with them.
    ///
    /// # Errors
    /// An argument that the verb has not, or a value that is none.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let (verb, rest) = arguments.split_first().ok_or("a verb is missing")?;
        let known: &[&str] = match verb.as_str() {
            "check" => &["--version", "--channel", "--source", "--retry"],
            "apply" => {
                &["--version", "--channel", "--source", "--no-reboot", "--retry", "--force-window", "--automatic"]
            }
            "rollback" => &["--no-reboot"],
            "status" | "history" | "settle" => &[],
            other => return Err(format!("{other:?} is no verb")),
        };
        let mut parsed =
            Arguments { verb: verb.clone(), json: false, channel: None, source: None, options: Options::default() };
        let mut rest = rest.iter();
        while let Some(argument) = rest.next() {
            let (name, attached) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            if name != "--json" && !known.contains(&name) {
                return Err(format!("{verb} has no argument {argument:?}"));
            }
            let takes_value = matches!(name, "--version" | "--channel" | "--source");
            let value = match attached {
                Some(_) if !takes_value => return Err(format!("{name} takes no value")),
                None if takes_value => Some(rest.next().cloned().ok_or_else(|| format!("{name} needs a value"))?),
                attached => attached,
            };
            parsed.set(name, value.unwrap_or_default())?;
        }
        Ok(parsed)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        match name {
            "--json" => self.json = true,
            "--no-reboot" => self.options.no_reboot = true,
            "--retry" => self.options.retry = true,
            "--force-window" => self.options.force_window = true,
            "--automatic" => self.options.automatic = true,
            "--version" => self.options.version = Some(value.parse::<Version>().map_err(|error| error.to_string())?),
            "--channel" if ksos_formats::update::is_name(&value) => self.channel = Some(value),
            "--channel" => return Err(format!("{value:?} can be no channel")),
            _ => self.source = Some(value),
        }
        Ok(())
    }
}

/// `kubesolo-update VERB`, but for `metrics`. Returns its exit status.
pub fn main(sys: &dyn Sys, arguments: &[String], out: &mut dyn Write, errors: &mut dyn Write) -> i32 {
    run(&Live(sys), arguments, out, errors)
}

/// Like [`main`], on any platform.
pub fn run(platform: &dyn Platform, arguments: &[String], out: &mut dyn Write, errors: &mut dyn Write) -> i32 {
    let arguments = match Arguments::parse(arguments) {
        Ok(arguments) => arguments,
        Err(reason) => {
            let _ = write!(errors, "kubesolo-update: {reason}\n{USAGE}");
            return error::USAGE;
        }
    };
    match perform(platform, &arguments, out) {
        Ok(status) => status,
        Err(error) => {
            let status = error.exit_status();
            if arguments.json {
                print(out, &serde_json::json!({"result": "error", "exit_status": status, "error": error.to_string()}));
            }
            let _ = writeln!(errors, "kubesolo-update: {error}");
            status
        }
    }
}

fn perform(platform: &dyn Platform, arguments: &Arguments, out: &mut dyn Write) -> Result<i32, UpdateError> {
    let mut settings = Settings::read(platform.sys())?;
    if let Some(channel) = &arguments.channel {
        settings.channel.clone_from(channel);
    }
    if let Some(source) = &arguments.source {
        settings.use_source(source);
    }
    let done = match arguments.verb.as_str() {
        "check" => apply::check(platform, &settings, &arguments.options)?,
        "apply" => apply::apply(platform, &settings, &arguments.options)?,
        "rollback" => rollback::rollback(platform, &settings, &arguments.options)?,
        "settle" => return settle(platform, &settings, out),
        "history" => return show_history(platform, &settings, arguments.json, out),
        _ => return show_status(platform, &settings, arguments.json, out),
    };
    if arguments.json {
        print(out, &done);
    } else {
        let _ = writeln!(out, "{}", sentence(&done));
    }
    Ok(error::OK)
}

fn print<T: Serialize>(out: &mut dyn Write, document: &T) {
    let _ = writeln!(out, "{}", serde_json::to_string_pretty(document).unwrap_or_default());
}

fn sentence(done: &Done) -> String {
    let step = |towards: &Option<Version>| {
        towards.as_ref().map(|version| format!(", a step to {version}")).unwrap_or_default()
    };
    match done {
        Done::UpToDate { version } => format!("{version} runs; nothing is newer"),
        Done::Available { running, version, towards } => {
            format!("{running} runs; {version} can be installed{}", step(towards))
        }
        Done::Installed {
            version,
            towards,
            fetched_bytes,
            copied_bytes,
            kept_bytes,
            peak_memory_bytes,
            restarts,
            ..
        } => {
            let version = version.as_ref().map_or("a version that is not known".to_owned(), Version::to_string);
            let now = if *restarts { "the node restarts" } else { "it starts with the next restart" };
            let memory = peak_memory_bytes.map(|bytes| format!("; {} MiB of memory", bytes >> 20)).unwrap_or_default();
            let bytes = match fetched_bytes + copied_bytes + kept_bytes {
                0 => String::new(),
                _ => {
                    format!(" ({fetched_bytes} bytes fetched, {copied_bytes} copied, {kept_bytes} were there{memory})")
                }
            };
            format!("{version} is installed{}{bytes}; {now}", step(towards))
        }
    }
}

/// What the service does first: see [`gate::settle`].
fn settle(platform: &dyn Platform, settings: &Settings, out: &mut dyn Write) -> Result<i32, UpdateError> {
    let (verdict, notes) = gate::settle(platform, settings)?;
    for note in notes {
        let _ = writeln!(out, "update: {note}");
    }
    match verdict {
        gate::Verdicts::NoTrial => {}
        gate::Verdicts::Kept => {
            let _ = writeln!(out, "update: {} is kept", settings.image.version);
        }
        gate::Verdicts::Over(reason) => {
            let _ = writeln!(out, "update: {} is not kept: {reason}", settings.image.version);
        }
    }
    // The metrics have a status from now on.
    let _ = Status::read(platform.sys()).write(platform.sys(), &settings.directory);
    Ok(error::OK)
}

/// The document of `kubesolo-update status --json`. Readers ignore fields that they do not know.
#[derive(Debug, Serialize)]
struct Report {
    version: String,
    slot: &'static str,
    state: State,
    boot: Option<Boot>,
    slots: [Option<SlotContent>; 2],
    available: Option<Version>,
    checked: Option<u64>,
    problem: String,
    floor: Option<Version>,
    channel: String,
    source: String,
    automatic: bool,
    quarantine: Vec<quarantine::Entry>,
    damaged: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Boot {
    generation: u64,
    active: &'static str,
    trial: Option<&'static str>,
    left: u8,
    copies_agree: bool,
    confirmed: [Option<bool>; 2],
}

fn boot(copies: &Copies) -> Option<Boot> {
    let state = copies.state()?;
    Some(Boot {
        generation: state.generation,
        active: state.active.name(),
        trial: state.trial_slot().map(Slot::name),
        left: state.trial.unwrap_or(0),
        copies_agree: copies.agree(),
        confirmed: copies.confirmed,
    })
}

fn show_status(
    platform: &dyn Platform,
    settings: &Settings,
    json: bool,
    out: &mut dyn Write,
) -> Result<i32, UpdateError> {
    let sys = platform.sys();
    let places = platform.places()?;
    let (journal, _) = Journal::read(sys, &settings.directory);
    let status = Status::read(sys);
    let report = Report {
        version: settings.image.version.clone(),
        slot: places.booted.name(),
        state: journal.state,
        boot: boot(&platform.boot_state(&places)?),
        slots: journal.slots,
        available: status.available,
        checked: status.checked,
        problem: status.problem,
        floor: floor::read(sys, &settings.directory)?,
        channel: settings.channel.clone(),
        source: settings.source.url.clone(),
        automatic: settings.automatic,
        quarantine: Quarantine::read(sys, &settings.directory)?.entries,
        damaged: store::damaged(sys, &settings.directory),
    };
    if json {
        print(out, &report);
    } else {
        let _ = out.write_all(lines(&report).as_bytes());
    }
    Ok(error::OK)
}

fn lines(report: &Report) -> String {
    let mut lines = vec![format!("{} runs in slot {}; update: {}", report.version, report.slot, report.state.name())];
    match &report.boot {
        Some(Boot { active, trial: Some(trial), left, .. }) => {
            lines.push(format!("boot: slot {active} is active, slot {trial} on trial with {left} tries left"));
        }
        Some(Boot { active, .. }) => lines.push(format!("boot: slot {active} is active")),
        None => lines.push("boot: neither copy of the boot state is valid".to_owned()),
    }
    if let Some(version) = &report.available {
        lines.push(format!("available: {version}"));
    }
    if !report.problem.is_empty() {
        lines.push(format!("last look: {}", report.problem));
    }
    let source = if report.source.is_empty() { "none" } else { &report.source };
    let how = if report.automatic { "installed by itself" } else { "installed when asked for" };
    lines.push(format!("source: {source}, channel {}, {how}", report.channel));
    if let Some(floor) = &report.floor {
        lines.push(format!("floor: {floor}"));
    }
    for entry in &report.quarantine {
        let version = entry.version.as_ref().map_or("unknown".to_owned(), Version::to_string);
        lines.push(format!("quarantine: {version}: {}", entry.reason));
    }
    if !report.damaged.is_empty() {
        lines.push(format!("damaged, set aside: {}", report.damaged.join(", ")));
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

fn show_history(
    platform: &dyn Platform,
    settings: &Settings,
    json: bool,
    out: &mut dyn Write,
) -> Result<i32, UpdateError> {
    let entries = history::read(platform.sys(), &settings.directory)?;
    if json {
        print(out, &entries);
        return Ok(error::OK);
    }
    for entry in &entries {
        let name = |version: &Option<Version>| version.as_ref().map_or("?".to_owned(), Version::to_string);
        let times = if entry.times > 1 { format!(" ({} times)", entry.times) } else { String::new() };
        let reason = if entry.reason.is_empty() { String::new() } else { format!(": {}", entry.reason) };
        let (from, version, result) = (name(&entry.from), name(&entry.version), entry.result.name());
        let _ = writeln!(out, "{} {from} -> {version} slot {} {result}{times}{reason}", entry.time, entry.slot);
    }
    Ok(error::OK)
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
