//! Whether the node does its work, with reasons.
//!
//! [`evaluate`] looks once, now, and only at this machine: files, the engine's socket, the API server on 127.0.0.1. It
//! changes nothing, uses no proxy and no name service, and ends within [`LONGEST`]. It is what `kubesolo-os health`
//! prints and what the metrics show; an update's gate calls it too.
//!
//! | check | failed (unhealthy) | degraded |
//! |---|---|---|
//! | `services` | a required service is not ready, or the node is starting or stopping | |
//! | `boot` | | a stage failed, or PID 1 has another reason |
//! | `engine` | its socket does not accept, or does not answer as containerd does | |
//! | `api-server` | `/readyz` is not 200 | |
//! | `node-ready` | the node's condition `Ready` is not `True` | |
//! | `disk` | read-only, or hardly anything left | memory in its place, recorded errors, or little left |
//! | `clock` | before the image's build epoch | |
//!
//! `engine`, `api-server` and `node-ready` do not apply to an image without an engine or without Kubernetes.

mod api;
mod checks;
mod credentials;
#[cfg(test)]
mod pki;

use std::fmt::{self, Write as _};
use std::io::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sys::Sys;

use super::facts::{Facts, read_facts};

/// The current value of [`Health::format`].
pub const FORMAT: u32 = 1;
/// Time that the engine, the API server and the node object have to answer, each.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Longest that [`evaluate`] takes: [`ANSWER_TIME`] for each of three.
pub const LONGEST: Duration = Duration::from_secs(15);

/// The document of `kubesolo-os health --json`. Readers ignore fields that they do not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// [`FORMAT`].
    pub format: u32,
    /// The verdict.
    pub verdict: Verdict,
    /// Why it is not healthy, most important first: `CHECK: DETAIL`. Empty if it is.
    pub reasons: Vec<String>,
    /// Every check, in the order of [`CheckName::ALL`].
    pub checks: Vec<Check>,
}

/// A verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every check that applies is passed.
    Healthy,
    /// The node does its work, and something is to be seen to.
    Degraded,
    /// The node does not do its work.
    Unhealthy,
}

impl Verdict {
    /// Returns its name, as in the document.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Healthy => "healthy",
            Verdict::Degraded => "degraded",
            Verdict::Unhealthy => "unhealthy",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: CheckName,
    /// What was found.
    pub outcome: Outcome,
    /// Why, or a note on a check that is passed; may be empty. At most [`DETAIL_LIMIT`] characters, one line.
    pub detail: String,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// What a check looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckName {
    /// The services that the node needs.
    Services,
    /// The stages of the boot and what PID 1 says.
    Boot,
    /// What runs containers.
    Engine,
    /// The Kubernetes API server.
    ApiServer,
    /// The node's object in the API server.
    NodeReady,
    /// The data partition.
    Disk,
    /// The wall clock.
    Clock,
}

impl CheckName {
    /// All checks, in the order in which they are made.
    pub const ALL: [CheckName; 7] = [
        CheckName::Services,
        CheckName::Boot,
        CheckName::Engine,
        CheckName::ApiServer,
        CheckName::NodeReady,
        CheckName::Disk,
        CheckName::Clock,
    ];

    /// Returns its name, as in the document.
    pub fn name(self) -> &'static str {
        match self {
            CheckName::Services => "services",
            CheckName::Boot => "boot",
            CheckName::Engine => "engine",
            CheckName::ApiServer => "api-server",
            CheckName::NodeReady => "node-ready",
            CheckName::Disk => "disk",
            CheckName::Clock => "clock",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All is well.
    Ok,
    /// To be seen to.
    Degraded,
    /// The node does not do its work.
    Failed,
    /// The image has nothing that this check is about.
    NotApplicable,
}

impl Outcome {
    /// Returns its name, as in the document.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Degraded => "degraded",
            Outcome::Failed => "failed",
            Outcome::NotApplicable => "not-applicable",
        }
    }
}

/// Longest [`Check::detail`] in characters; the rest is cut.
pub const DETAIL_LIMIT: usize = 300;

/// Evaluates the node's health now. Never fails: what cannot be read is a failed check.
pub fn evaluate(sys: &dyn Sys) -> Health {
    evaluate_facts(sys, &read_facts(sys))
}

/// Evaluates health on documents that were read before.
pub(super) fn evaluate_facts(sys: &dyn Sys, facts: &Facts) -> Health {
    let checks = checks::all(sys, facts);
    let mut reasons = Vec::new();
    for wanted in [Outcome::Failed, Outcome::Degraded] {
        let matching = checks.iter().filter(|check| check.outcome == wanted);
        reasons.extend(matching.map(|check| format!("{}: {}", check.name.name(), check.detail)));
    }
    let has = |outcome| checks.iter().any(|check| check.outcome == outcome);
    let verdict = match (has(Outcome::Failed), has(Outcome::Degraded)) {
        (true, _) => Verdict::Unhealthy,
        (false, true) => Verdict::Degraded,
        (false, false) => Verdict::Healthy,
    };
    Health { format: FORMAT, verdict, reasons, checks }
}

/// The applet `health [--json]`. Returns its exit status: 0 healthy, 1 degraded, 2 unhealthy, 3 wrong usage.
pub(super) fn show(sys: &dyn Sys, arguments: &[String], out: &mut dyn Write) -> i32 {
    let json = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => false,
        ["--json"] => true,
        _ => {
            let _ = writeln!(out, "usage: kubesolo-os health [--json]");
            return 3;
        }
    };
    let health = evaluate(sys);
    let text = if json { serde_json::to_string_pretty(&health).unwrap_or_default() + "\n" } else { table(&health) };
    let _ = out.write_all(text.as_bytes());
    match health.verdict {
        Verdict::Healthy => 0,
        Verdict::Degraded => 1,
        Verdict::Unhealthy => 2,
    }
}

fn table(health: &Health) -> String {
    let mut text = format!("{}\n", health.verdict);
    for check in &health.checks {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:10}  {:14}  {}", check.name.name(), check.outcome.name(), check.detail);
    }
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A door for `fuzz/`: the administrator's kubeconfig, and what an API server says of the node.
#[cfg(fuzzing)]
pub fn fuzz_kubernetes(sys: &dyn Sys, kubeconfig: &str, answer: &[u8]) {
    let _ = credentials::Credentials::read(sys, kubeconfig);
    let body = match crate::exchange::parse(answer, 1 << 16) {
        Ok(answer) => answer.body,
        Err(_) => answer.to_vec(),
    };
    let _ = (checks::unready(&body), checks::node(&body, "node"));
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
