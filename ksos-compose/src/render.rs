//! What the command prints: results on standard output, everything else on standard error.
#![expect(clippy::print_stderr, reason = "the command line is what prints")]

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use ksos_compose::cache::gc::{GcReport, VerifyReport};
use ksos_compose::effects::progress::{self, Bars, Lines, Progress, Silent};
use ksos_compose::graph::Reason;
use ksos_compose::manifest::Style;
use ksos_compose::ops::build::{Built, Explanation, Fetched};
use ksos_compose::ops::check::Checked;
use ksos_compose::ops::config::CheckedConfig;
use ksos_compose::ops::diff::{Change as Value, Difference, FileDiff, Sum, UpdateSize};
use ksos_compose::ops::flash::{Candidate, Flashed, Image};
use ksos_compose::ops::inspect::Inspection;
use ksos_compose::ops::update::Change;
use ksos_compose::ops::verify::Verified;
use ksos_compose::ops::{self, OpError, Reporter};
use ksos_compose::plan::Plan;
use ksos_compose::remote::RemoteUse;
use serde_json::json;

/// Prints a line on standard output. A reader that went away ends the program as SIGPIPE would.
macro_rules! outln {
    ($($argument:tt)*) => {
        crate::render::out(&format!("{}\n", format_args!($($argument)*)))
    };
}

/// Returns what a remote cache did, for people.
fn remote_use(remote: &RemoteUse) -> String {
    let RemoteUse { place, steps, fetched, written, sent, unwritten } = remote;
    let mut text = format!("remote cache {place}: {} steps taken, {} fetched", steps.len(), progress::size(*fetched));
    if written + unwritten > 0 {
        text += &format!(", {written} steps written, {} sent", progress::size(*sent));
    }
    if *unwritten > 0 {
        text += &format!(", {unwritten} not written");
    }
    text
}

/// Writes `text` to standard output.
pub fn out(text: &str) {
    if std::io::stdout().lock().write_all(text.as_bytes()).is_err() {
        std::process::exit(128 + 13);
    }
}

/// The terminal, or whatever standard output and error are.
pub struct Terminal {
    quiet: bool,
    color: bool,
    bars: Option<Arc<Bars>>,
}

impl Terminal {
    /// Looks at standard error; `color` is false under `NO_COLOR`.
    pub fn new(quiet: bool, color: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bars = (terminal && !quiet).then(|| Arc::new(Bars::new(color)));
        Terminal { quiet, color: color && terminal, bars }
    }

    /// Returns where downloads are shown.
    pub fn progress(&self) -> Arc<dyn Progress> {
        match &self.bars {
            Some(bars) => bars.clone(),
            None if self.quiet => Arc::new(Silent),
            None => Arc::new(Lines::new(std::io::stderr())),
        }
    }

    fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    fn style(&self) -> Style {
        Style { color: self.color, ..Style::default() }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Prints a failure, with its hint.
    pub fn error(&self, error: &OpError) {
        if let OpError::Manifest(errors) = error {
            self.line(errors.render(self.style()).trim_end());
            return;
        }
        self.line(&format!("{} {error}", self.paint("1;31", "error:")));
        for hint in error.hints() {
            self.line(&format!("{} {hint}", self.paint("1;36", "hint:")));
        }
    }

    /// Prints the results of builds.
    pub fn built(&self, results: Vec<Result<Built, OpError>>, json: bool) -> Result<ExitCode, OpError> {
        let mut failure: Option<OpError> = None;
        let mut done = Vec::new();
        for result in results {
            match result {
                Ok(built) => done.push(built),
                Err(error) => {
                    // Every failure is printed; the gravest becomes the exit code.
                    let (graver, other) = match failure.take() {
                        Some(earlier) if earlier.problem() >= error.problem() => (earlier, Some(error)),
                        earlier => (error, earlier),
                    };
                    other.iter().for_each(|error| self.error(error));
                    failure = Some(graver);
                }
            }
        }
        if json {
            let artifacts: Vec<_> = done.iter().flat_map(|built| built.artifacts.iter().map(|artifact| json!({
                "image": built.name, "version": built.version, "format": artifact.format,
                "arch": artifact.platforms.is_empty().then_some(built.arch), "platforms": artifact.platforms,
                "path": artifact.path, "size": artifact.size, "allocated": artifact.allocated, "sha256": artifact.sha256,
                "files": artifact.files,
            }))).collect();
            let builds: Vec<_> = done.iter().map(|built| json!({
                "image": built.name, "version": built.version, "arch": built.arch, "ran": built.ran, "steps": built.steps,
                "remote": built.remote,
            })).collect();
            let documents: Vec<_> = done.iter().flat_map(|built| &built.documents).collect();
            outln!("{:#}", json!({ "artifacts": artifacts, "builds": builds, "documents": documents }));
        }
        for built in &done {
            self.built_one(built);
            if !json {
                built.artifacts.iter().for_each(|artifact| outln!("{}", artifact.path.display()));
            }
        }
        failure.map_or(Ok(ExitCode::SUCCESS), Err)
    }

    /// Prints one finished build.
    pub fn built_one(&self, built: &Built) {
        if self.quiet {
            return;
        }
        let title = format!("{} {} {}", built.name, built.version, built.arch);
        if built.fresh {
            self.line(&format!("{} {title}: nothing changed", self.paint("1;32", "fresh")));
            return;
        }
        let verb = self.paint("1;32", "built");
        self.line(&format!("{verb} {title}: {} of {} steps ran", built.ran, built.steps));
        if let Some(remote) = &built.remote {
            self.line(&format!("  {}", remote_use(remote)));
        }
        for artifact in &built.artifacts {
            let (size, allocated) = (progress::size(artifact.size), progress::size(artifact.allocated));
            self.line(&format!("  {} {size} ({allocated} on this disk)", artifact.format));
        }
        let documents: Vec<&str> = built.documents.iter().map(|document| document.format.as_str()).collect();
        if !documents.is_empty() {
            self.line(&format!("  beside: {}", documents.join(", ")));
        }
        for usage in &built.usage {
            let percent = usage.used * 100 / usage.size.max(1);
            self.line(&format!(
                "  {} {} of {} ({percent} %)",
                usage.what,
                progress::size(usage.used),
                progress::size(usage.size)
            ));
        }
    }

    /// Prints what `check` found.
    pub fn checked(&self, results: &[Checked], json: bool) -> ExitCode {
        let bad = results.iter().any(Checked::is_bad);
        if json {
            let list: Vec<_> = results.iter().map(Checked::to_json).collect();
            outln!("{:#}", serde_json::Value::from(list));
        } else {
            for checked in results {
                match &checked.errors {
                    Some(errors) => self.line(errors.render(self.style()).trim_end()),
                    None if checked.faults.is_empty() => {
                        outln!("{}: ok ({})", checked.manifest.display(), checked.summary);
                    }
                    None => {}
                }
                for fault in &checked.faults {
                    self.line(&format!("{} {}: {fault}", self.paint("1;31", "error:"), checked.manifest.display()));
                }
                checked.warnings.iter().for_each(|warning| self.note(warning));
            }
        }
        if bad { ExitCode::from(ops::Problem::Manifest.exit_code()) } else { ExitCode::SUCCESS }
    }

    /// Prints what `check --config` found.
    pub fn checked_configs(&self, results: &[CheckedConfig], json: bool) -> ExitCode {
        let bad = results.iter().any(CheckedConfig::is_bad);
        if json {
            let list: Vec<_> = results.iter().map(CheckedConfig::to_json).collect();
            outln!("{:#}", serde_json::Value::from(list));
        } else {
            for checked in results {
                if !checked.found.diagnostics.is_empty() {
                    self.line(checked.found.render(self.style()).trim_end());
                }
                if !checked.is_bad() {
                    outln!("{}: ok", checked.path.display());
                }
            }
        }
        if bad { ExitCode::from(ops::Problem::Manifest.exit_code()) } else { ExitCode::SUCCESS }
    }

    /// Prints plans.
    pub fn planned(&self, plans: &[Plan], json: bool) {
        if json {
            outln!("{}", serde_json::to_string_pretty(plans).expect("plans can be serialised"));
            return;
        }
        for plan in plans {
            outln!("{} {} {} (epoch {})", plan.image.name, plan.image.version, plan.image.arch, plan.image.epoch);
            outln!("  disk {}", plan.disk.guid);
            for (number, partition) in plan.disk.partitions.iter().enumerate() {
                let size = progress::size(partition.size);
                outln!("    {} {:<10} {size:>10}  {}", number + 1, partition.label, partition.guid);
            }
            outln!("  command line {}", plan.cmdline.join(" "));
            outln!("  steps");
            for step in &plan.steps {
                outln!("    {}", step.name);
            }
            for artifact in &plan.artifacts {
                outln!("  writes {}", artifact.file_name);
            }
            plan.release.iter().for_each(|release| outln!("  writes {}", release.directory_name));
        }
    }

    /// Prints why steps would run.
    pub fn explained(&self, explanations: &[Explanation], all: bool, json: bool) {
        if json {
            outln!("{}", serde_json::to_string_pretty(explanations).expect("explanations can be serialised"));
            return;
        }
        for explanation in explanations {
            let Explanation { name, arch, steps, outputs, .. } = explanation;
            let stale = |list: &[(String, Option<Reason>)]| list.iter().filter(|(_, reason)| reason.is_some()).count();
            out(&format!("{name} {arch}: {} of {} steps would run, ", stale(steps), steps.len()));
            outln!("{} of {} outputs would be written", stale(outputs), outputs.len());
            for (step, reason) in steps.iter().chain(outputs) {
                match reason {
                    // In a dry run the new digest of an input that is not made yet is open.
                    Some(Reason::Input { name, old: None, new: None }) => {
                        outln!("  {step}: its input {name} would be made again")
                    }
                    Some(reason) => outln!("  {step}: {reason}"),
                    None if all && explanation.remote.contains(step) => {
                        outln!("  {step}: known, and brought when something needs it")
                    }
                    None if all => outln!("  {step}: fresh"),
                    None => {}
                }
            }
        }
    }

    /// Prints what was fetched.
    pub fn fetched(&self, fetched: &[Fetched]) {
        for Fetched { name, downloads, cached, bytes } in fetched {
            outln!("{name}: {downloads} downloads, {} ({cached} were in the cache)", progress::size(*bytes));
        }
    }

    /// Prints what an update of the lock changes.
    pub fn updated(&self, changes: &[Change], dry_run: bool) {
        for change in changes {
            outln!("{change}");
        }
        if changes.is_empty() {
            outln!("nothing newer");
        } else if dry_run {
            self.line("nothing was written (--dry-run)");
        }
    }

    /// Prints what differs between two images.
    pub fn differed(&self, difference: &Difference, json: bool) -> ExitCode {
        let text = match json {
            true => serde_json::to_string_pretty(difference).expect("a difference can be serialised") + "\n",
            false => difference_text(difference),
        };
        // The list can be long, and who reads it may stop before its end, as head(1) does.
        match std::io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                self.line(&format!("{} standard output: {error}", self.paint("1;31", "error:")));
                ExitCode::from(ops::Problem::Manifest.exit_code())
            }
            _ => ExitCode::from(u8::from(!difference.equal)),
        }
    }

    /// Prints what was found in something.
    pub fn inspected(&self, inspection: &Inspection, json: bool) {
        // Colours go to a terminal alone, which standard output need not be.
        let color = self.color && std::io::stdout().is_terminal();
        out(&match json {
            true => serde_json::to_string_pretty(inspection).expect("an inspection can be serialised") + "\n",
            false => crate::inspect_view::show(inspection, color),
        });
    }

    /// Prints whether a new build gave the same bytes.
    pub fn verified(&self, verified: &Verified) -> ExitCode {
        match &verified.result {
            Ok(sha256) => {
                outln!("{sha256}  {}", verified.image.display());
                ExitCode::SUCCESS
            }
            Err(mismatch) => {
                outln!("{} differs from a new build: {mismatch}", verified.image.display());
                ExitCode::from(1)
            }
        }
    }

    /// Prints what became of a run.
    pub fn ran(&self, outcome: &ops::run::Outcome) {
        self.line(&outcome.to_string());
    }

    /// Says that a case of a test has ended.
    pub fn tested_case(&self, case: &ops::test::Case) {
        if !self.quiet {
            let word = match case.verdict {
                ops::test::Verdict::Passed => self.paint("1;32", "ok"),
                ops::test::Verdict::Failed { .. } => self.paint("1;31", "FAILED"),
                ops::test::Verdict::Skipped => "skipped".to_owned(),
            };
            self.line(&format!("{}: {} ... {word} ({:.0} s)", case.group, case.name, case.time.as_secs_f64()));
        }
    }

    /// Prints what a test found.
    pub fn tested(&self, report: &ops::test::Report, json: bool) -> ExitCode {
        match json {
            true => outln!("{:#}", report.to_json()),
            false => outln!("{}", report.to_table().trim_end()),
        }
        if report.passed() { ExitCode::SUCCESS } else { ExitCode::from(1) }
    }

    /// Prints what was moved between caches.
    pub fn cache_moved(&self, moved: &[ops::build::Moved]) {
        for ops::build::Moved { name, steps, missing, remote } in moved {
            outln!("{name}: {}; {missing} of {steps} steps are in neither cache", remote_use(remote));
        }
    }

    /// Prints the disks of this machine.
    pub fn disks(&self, disks: &[Candidate], json: bool) {
        if json {
            outln!("{:#}", json!({ "disks": disks }));
            return;
        }
        for disk in disks {
            let reasons: Vec<String> = disk.obstacles.iter().map(ToString::to_string).collect();
            let verdict = match reasons.as_slice() {
                [] => self.paint("1;32", "can be written to"),
                reasons if disk.refusals(true).is_empty() => format!("with --force: {}", reasons.join("; ")),
                reasons => reasons.join("; "),
            };
            outln!(
                "{:<14} {:>10} {:<6} {} ({verdict})",
                disk.path.display(),
                progress::size(disk.size),
                disk.transport,
                facts(disk)
            );
        }
        if disks.is_empty() {
            outln!("no disks");
        }
    }

    /// Prints what is about to be overwritten.
    pub fn before_flash(&self, disk: &Candidate, image: &Image) {
        if !self.quiet {
            let checked = if image.checked { ", as SHA256SUMS has it" } else { "" };
            self.line(&format!("image  {} ({}{checked})", image.path.display(), progress::size(image.size)));
            let (path, size) = (disk.path.display(), progress::size(disk.size));
            self.line(&format!("disk   {path} ({size}, {}) {}", disk.transport, facts(disk)));
            if !disk.partitions.is_empty() {
                self.line(&format!("       has partitions {}", disk.partitions.join(", ")));
            }
        }
    }

    /// Asks whether everything on the disk `name` may go.
    pub fn asked(&self, name: &str) -> bool {
        self.line(&format!("Everything on it will be lost. Type {name} to go on:"));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).is_ok() && answer.trim() == name
    }

    /// Prints what was written to a disk.
    pub fn flashed(&self, flashed: &Flashed, json: bool) {
        let Flashed { disk, written, verified } = flashed;
        if json {
            outln!(
                "{:#}",
                json!({
                    "disk": disk, "size": written.size, "zeroed": written.zeroed, "fitted": written.fitted, "verified": verified,
                })
            );
        } else if !self.quiet {
            let how = if *verified { "written and verified" } else { "written" };
            let size = progress::size(written.size);
            self.line(&format!("{} {size} on {}", self.paint("1;32", how), disk.path.display()));
        }
    }

    /// Prints what `init` wrote.
    pub fn started(&self, written: &[std::path::PathBuf]) {
        written.iter().for_each(|path| outln!("{}", path.display()));
    }

    /// Prints what the cache holds.
    pub fn cache_listed(&self, buckets: &[ops::cache::Bucket], json: bool) {
        if json {
            outln!("{}", serde_json::to_string_pretty(buckets).expect("a listing can be serialised"));
            return;
        }
        for bucket in buckets {
            outln!("{:<10} {:>8} entries {:>12}", bucket.name, bucket.entries, progress::size(bucket.bytes));
        }
    }

    /// Prints what garbage collection removed.
    pub fn cache_collected(&self, report: &GcReport) {
        outln!(
            "removed {} files, {}; {} left",
            report.removed,
            progress::size(report.freed),
            progress::size(report.size)
        );
        report.failed.iter().for_each(|failed| self.note(&format!("not removed: {failed}")));
    }

    /// Prints what verification found.
    pub fn cache_verified(&self, report: &VerifyReport) -> ExitCode {
        for name in report.damaged.iter().chain(&report.actions) {
            outln!("damaged, removed: {name}");
        }
        outln!("{} blobs, {} verified, {} damaged", report.blobs, progress::size(report.bytes), report.damaged.len());
        if report.damaged.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
    }
}

/// Model and serial number, with nothing that could move the cursor.
fn facts(disk: &Candidate) -> String {
    let model = disk.model.as_deref().unwrap_or("(no model)").escape_debug().to_string();
    match &disk.serial {
        Some(serial) => format!("{model} {}", serial.escape_debug()),
        None => model,
    }
}

fn difference_text(difference: &Difference) -> String {
    let mut lines: Vec<String> = difference.table.iter().map(changed_value).collect();
    if let Some(offset) = difference.outside {
        lines.push(format!("outside of the partitions: first difference at byte {offset} of the disk"));
    }
    for partition in &difference.partitions {
        let (number, label) = (partition.number, partition.label.escape_debug());
        let name = if number == 0 { label.to_string() } else { format!("partition {number} {label}") };
        lines.push(format!("{name}: first difference at byte {}", partition.offset));
        if let Some(error) = &partition.unreadable {
            lines.push(format!("  not looked into: {error}"));
        }
        let Some(slot) = &partition.slot else { continue };
        lines.extend(slot.values.iter().map(|value| format!("  {}", changed_value(value))));
        lines.extend(slot.packages.iter().map(|value| format!("  {}", changed_value(value))));
        for (what, files) in [("root file system", &slot.root), ("initramfs", &slot.initramfs)] {
            files.iter().for_each(|files| changed_files(&mut lines, what, files));
        }
    }
    lines.extend(difference.update.as_ref().map(update_size));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn update_size(update: &UpdateSize) -> String {
    let UpdateSize { fetched, missing: _, whole, requests, index, release } = update;
    let permille = (u128::from(*fetched) * 1000).checked_div(u128::from(*whole)).unwrap_or(0);
    let besides = progress::size(index + release.unwrap_or(0));
    format!(
        "an update fetches {} of {} ({}.{} %) in {requests} requests, and {besides} of chunk index and release.json",
        progress::size(*fetched),
        progress::size(*whole),
        permille / 10,
        permille % 10,
    )
}

fn changed_value(value: &Value) -> String {
    let text = |side: &Option<String>| match side {
        Some(text) => text.escape_debug().to_string(),
        None => "(none)".to_owned(),
    };
    format!("{}: {} -> {}", value.what, text(&value.a), text(&value.b))
}

fn changed_files(lines: &mut Vec<String>, what: &str, files: &FileDiff) {
    lines.push(format!("  {what}"));
    for (sign, list) in [('-', &files.removed), ('+', &files.added)] {
        lines.extend(
            list.iter().map(|file| format!("    {sign} {} ({})", file.path.escape_debug(), progress::size(file.size))),
        );
    }
    for file in &files.changed {
        let aspects: Vec<String> = file.aspects.iter().map(ToString::to_string).collect();
        let sizes = match (file.a_size, file.b_size) {
            (0, 0) => String::new(),
            (a, b) if a == b => format!(" ({})", progress::size(a)),
            (a, b) => format!(" ({} -> {})", progress::size(a), progress::size(b)),
        };
        lines.push(format!("    * {}: {}{sizes}", file.path.escape_debug(), aspects.join(", ")));
    }
    if files.time_only > 0 {
        lines.push(format!("    {} more differ in their time alone", files.time_only));
    }
    let total = |sum: Sum| format!("{} entries, {}", sum.entries, progress::size(sum.bytes));
    lines.push(format!(
        "  {} added, {} removed, {} changed; {} -> {}",
        files.added.len(),
        files.removed.len(),
        files.changed.len(),
        total(files.a_total),
        total(files.b_total)
    ));
}

impl Reporter for Terminal {
    fn note(&self, text: &str) {
        if !self.quiet {
            self.line(&format!("{} {text}", self.paint("1;33", "note:")));
        }
    }

    fn step(&self, image: &str, step: &str, reason: &Reason) {
        // Downloads show themselves, and in a first build everything is new.
        match reason {
            _ if self.quiet || step.starts_with("fetch ") => {}
            Reason::New => self.line(&format!("{image}: {step}")),
            reason => self.line(&format!("{image}: {step} ({reason})")),
        }
    }
}
