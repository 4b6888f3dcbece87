//! The node's metrics: what `/metrics` says.
//!
//! Everything is read when it is asked for. Numbers of samples are bounded ([`SERIES_LIMIT`] per metric), lengths of
//! label values too. A fact that is not known has no sample, with these exceptions, so that the names are always there:
//!
//! - `boot_success` and `boot_counter` come from the boot loader's state (`/run/ksos/bootstate.json`): no trial, and
//!   tries left. While nothing exposes it: whether the node is ready, and 0.
//! - `update_available` is 0 while nothing looks for updates (`/run/ksos/update.json`).

pub(super) mod text;

use crate::sys::Sys;

use super::facts::{self, Facts};
use super::health::{Health, Outcome, Verdict};
use serde_json::{Value, json};
use text::{Format, Kind, Metric, Sample, append, finish};

/// Most samples of one metric.
const SERIES_LIMIT: usize = 64;
/// Longest label value in characters; the rest is cut, so that somebody else's text cannot blow up the answer.
const LABEL_LIMIT: usize = 200;

/// What this process knows about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Own {
    /// Connections closed because there were too many.
    pub(super) rejected: u64,
    /// Whether the kubeconfig is served, and how often it was fetched.
    pub(super) kubeconfig: (bool, u32),
}

/// The current value of the field `format` of [`document`].
const DOCUMENT_FORMAT: u32 = 1;

/// Returns what `/metrics` answers.
pub(super) fn render(sys: &dyn Sys, facts: &Facts, health: &Health, own: Own, format: Format) -> String {
    let mut page = collect(sys, facts, health);
    agent(&mut page, own);
    let mut text = String::with_capacity(8 << 10);
    page.metrics.iter().for_each(|(metric, samples)| append(&mut text, format, metric, samples));
    finish(&mut text, format);
    text
}

/// Returns the document of `kubesolo-update metrics --json`: the metrics as they are now, but for what only the process
/// that serves them knows. Readers ignore fields that they do not know.
pub(super) fn document(sys: &dyn Sys, facts: &Facts, health: &Health) -> Value {
    let sample = |sample: &Sample| {
        let labels: serde_json::Map<String, Value> =
            sample.labels.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
        json!({"labels": labels, "value": sample.value})
    };
    let metric = |(metric, samples): &(Metric, Vec<Sample>)| {
        let samples: Vec<Value> = samples.iter().map(sample).collect();
        json!({"name": metric.name, "type": metric.kind.name(), "help": metric.help, "samples": samples})
    };
    let metrics: Vec<Value> = collect(sys, facts, health).metrics.iter().map(metric).collect();
    json!({"format": DOCUMENT_FORMAT, "metrics": metrics})
}

fn collect(sys: &dyn Sys, facts: &Facts, health: &Health) -> Page {
    let mut page = Page::default();
    identity(&mut page, sys, facts);
    boot(&mut page, sys, facts);
    services(&mut page, facts);
    health_checks(&mut page, health);
    configuration(&mut page, facts);
    machine(&mut page, sys, facts);
    data(&mut page, sys, facts);
    network(&mut page, sys, facts);
    update(&mut page, sys);
    page
}

/// Metrics with their samples, in the order in which they are shown.
#[derive(Default)]
struct Page {
    metrics: Vec<(Metric, Vec<Sample>)>,
}

impl Page {
    /// Adds a metric; one without samples is left out. Of samples with the same labels, which may be so only because they were cut, the first is taken:
    /// one series must not be there twice.
    fn samples(&mut self, name: &'static str, kind: Kind, help: &'static str, samples: Vec<Sample>) {
        let mut kept: Vec<Sample> = Vec::new();
        for mut sample in samples {
            if kept.len() == SERIES_LIMIT {
                break;
            }
            for (_, value) in &mut sample.labels {
                *value = value.chars().take(LABEL_LIMIT).collect();
            }
            if !kept.iter().any(|other| other.labels == sample.labels) {
                kept.push(sample);
            }
        }
        if !kept.is_empty() {
            self.metrics.push((Metric { name, kind, help }, kept));
        }
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, value: impl Into<Option<f64>>) {
        let sample = value.into().map(|value| Sample { labels: Vec::new(), value });
        self.samples(name, Kind::Gauge, help, sample.into_iter().collect());
    }

    fn flag(&mut self, name: &'static str, help: &'static str, value: impl Into<Option<bool>>) {
        self.gauge(name, help, value.into().map(|value| f64::from(u8::from(value))));
    }

    fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.samples(name, Kind::Counter, help, vec![Sample { labels: Vec::new(), value: number(value) }]);
    }
}

/// Counts above 2^53 lose their last digits; there are none.
#[expect(clippy::cast_precision_loss, reason = "the formats have floating-point values")]
fn number(value: u64) -> f64 {
    value as f64
}

fn labelled(label: &'static str, text: &str, value: f64) -> Sample {
    Sample { labels: vec![(label, text.to_owned())], value }
}

fn identity(page: &mut Page, sys: &dyn Sys, facts: &Facts) {
    let unknown = || "unknown".to_owned();
    let mut labels: Vec<(&'static str, String)> = match (&facts.status, &facts.runtime) {
        (Ok(status), _) => vec![
            ("name", status.name.clone()),
            ("version", status.version.clone()),
            ("arch", status.arch.clone()),
            ("slot", status.slot.to_string()),
            ("root", status.root.clone()),
            ("secure_boot", status.secure_boot.clone()),
            ("lockdown", status.lockdown.clone()),
        ],
        (Err(_), Ok(config)) => vec![
            ("name", config.image.name.clone()),
            ("version", config.image.version.clone()),
            ("arch", config.image.arch.to_string()),
        ],
        (Err(_), Err(_)) => ["name", "version", "arch"].map(|label| (label, unknown())).into(),
    };
    if labels.len() == 3 {
        labels.extend(["slot", "root", "secure_boot", "lockdown"].map(|label| (label, unknown())));
    }
    labels.push(("kernel", sys.kernel_release()));
    let samples = vec![Sample { labels, value: 1.0 }];
    page.samples("kubesolo_os_info", Kind::Info, "The operating system that runs.", samples);
}

fn boot(page: &mut Page, sys: &dyn Sys, facts: &Facts) {
    let status = facts.status.as_ref().ok();
    let ready = status.is_some_and(|status| status.state == "ready");
    let state = facts::boot_state(sys);
    let success = state.as_ref().map_or(ready, |state| state.trial.is_none());
    let left = state.map_or(0, |state| state.left);
    page.flag("kubesolo_os_boot_success", "Whether the running slot is confirmed and not on trial.", success);
    page.gauge("kubesolo_os_boot_counter", "Boots that are left for a slot on trial.", f64::from(left));
    page.gauge("kubesolo_os_uptime_seconds", "Time since the kernel started.", number(sys.uptime_ms()) / 1000.0);
    page.flag("kubesolo_os_ready", "Whether all services that the node needs are ready.", ready);
    let Some(status) = status else { return };
    page.flag("kubesolo_os_degraded", "Whether the node has a reason to be degraded.", !status.degraded.is_empty());
    let samples = status.degraded.iter().map(|reason| labelled("reason", reason, 1.0)).collect();
    page.samples("kubesolo_os_degraded_reason", Kind::Gauge, "Why the node is degraded.", samples);
    page.gauge("kubesolo_os_boots", "How often the node has booted.", number(status.boot));
    let ready_s = status.ready_ms.map(|ms| number(ms) / 1000.0);
    page.gauge("kubesolo_os_ready_seconds", "Time from the start of the kernel until the node was ready.", ready_s);
    let seconds = |pointer| facts::value(&facts.details, pointer).map(|ms| ms / 1000.0);
    let help = "Time from the start of the kernel until services were started.";
    page.gauge("kubesolo_os_services_started_seconds", help, seconds("/services_ms"));
    let help = "Time from the start of the kernel until it handed over.";
    page.gauge("kubesolo_os_handover_seconds", help, seconds("/handover_ms"));
    let help = "Whether no kernel module can be loaded any more.";
    page.flag("kubesolo_os_modules_locked", help, facts::flag(&facts.details, "/modules_locked"));
    stages(page, &status.stages);
}

fn stages(page: &mut Page, stages: &[crate::init::handover::StageReport]) {
    let sample = |stage: &crate::init::handover::StageReport, value| Sample {
        labels: vec![("stage", format!("{:02}", stage.number)), ("name", stage.name.clone())],
        value,
    };
    let durations = stages.iter().map(|stage| sample(stage, number(stage.ms) / 1000.0)).collect();
    let results = stages.iter().map(|stage| sample(stage, f64::from(u8::from(stage.ok)))).collect();
    page.samples("kubesolo_os_boot_stage_seconds", Kind::Gauge, "How long a stage of the boot took.", durations);
    page.samples("kubesolo_os_boot_stage_success", Kind::Gauge, "Whether a stage of the boot succeeded.", results);
}

fn configuration(page: &mut Page, facts: &Facts) {
    let count = |pointer| facts::list(&facts.details, pointer).map(|lines| number(lines.len() as u64));
    let help = "What is wrong with the node's configuration.";
    page.gauge("kubesolo_os_configuration_errors", help, count("/configuration/errors"));
    let help = "What of the node's configuration has no effect, or should be known.";
    page.gauge("kubesolo_os_configuration_warnings", help, count("/configuration/warnings"));
    let help = "Whether an older configuration is in force because there is no good one.";
    page.flag("kubesolo_os_configuration_stored", help, facts::flag(&facts.details, "/configuration/stored"));
    let Some(configuration) = facts.details.get("configuration") else { return };
    let labels = [("source", "/source"), ("place", "/place"), ("instance", "/instance_id")];
    let labels = labels.map(|(label, pointer)| (label, facts::text(configuration, pointer).to_owned()));
    let samples = vec![Sample { labels: labels.into(), value: 1.0 }];
    page.samples("kubesolo_os_configuration_info", Kind::Info, "Where the configuration is from.", samples);
}

fn services(page: &mut Page, facts: &Facts) {
    let services = facts.status.as_ref().map(|status| status.services.as_slice()).unwrap_or_default();
    let up = |state: &str| f64::from(u8::from(matches!(state, "ready" | "done")));
    let states = services.iter().map(|service| labelled("service", &service.name, up(&service.state))).collect();
    let restarts = services.iter().map(|service| labelled("service", &service.name, service.restarts.into())).collect();
    page.samples("kubesolo_os_service_up", Kind::Gauge, "Whether a service is ready, or done if it is to end.", states);
    page.samples("kubesolo_os_service_restarts_total", Kind::Counter, "Restarts of a service.", restarts);
}

fn health_checks(page: &mut Page, health: &Health) {
    let verdicts = [Verdict::Healthy, Verdict::Degraded, Verdict::Unhealthy];
    let samples =
        verdicts.map(|verdict| labelled("verdict", verdict.name(), f64::from(u8::from(verdict == health.verdict))));
    page.samples(
        "kubesolo_os_health",
        Kind::Gauge,
        "The verdict on the node: 1 for the one that holds.",
        samples.into(),
    );
    let applicable = || health.checks.iter().filter(|check| check.outcome != Outcome::NotApplicable);
    let passed = applicable().map(|check| {
        let value = match check.outcome {
            Outcome::Ok | Outcome::NotApplicable => 1.0,
            Outcome::Degraded => 0.5,
            Outcome::Failed => 0.0,
        };
        labelled("check", check.name.name(), value)
    });
    let passed = passed.collect();
    page.samples("kubesolo_os_health_check", Kind::Gauge, "A check: 1 passed, 0.5 degraded, 0 failed.", passed);
    let durations = applicable().map(|check| labelled("check", check.name.name(), number(check.ms) / 1000.0)).collect();
    page.samples("kubesolo_os_health_check_seconds", Kind::Gauge, "How long a check took.", durations);
}

fn machine(page: &mut Page, sys: &dyn Sys, facts: &Facts) {
    let (total, available) = facts::memory(sys);
    page.gauge("kubesolo_os_memory_total_bytes", "Memory that the kernel manages.", total.map(number));
    let help = "Memory that programs can have without swapping.";
    page.gauge("kubesolo_os_memory_available_bytes", help, available.map(number));
    let load = facts::load(sys).map(|values| {
        values.into_iter().zip(["1", "5", "15"]).map(|(value, minutes)| labelled("minutes", minutes, value)).collect()
    });
    page.samples("kubesolo_os_load_average", Kind::Gauge, "Load average.", load.unwrap_or_default());
    let watchdog = facts::watchdog(sys, &facts.details);
    page.flag("kubesolo_os_watchdog_active", "Whether the hardware watchdog runs.", watchdog.map(|(active, _)| active));
    let timeout = watchdog.and_then(|(_, timeout)| timeout);
    page.gauge("kubesolo_os_watchdog_timeout_seconds", "Timeout of the hardware watchdog.", timeout);
}

fn data(page: &mut Page, sys: &dyn Sys, facts: &Facts) {
    let persistent = facts.status.as_ref().ok().map(|status| status.persistent);
    page.flag("kubesolo_os_data_persistent", "Whether data outlives a restart.", persistent);
    let Some(mount) = &facts.data else { return };
    page.flag("kubesolo_os_data_read_only", "Whether data cannot be written.", mount.read_only);
    page.gauge("kubesolo_os_data_errors", "Errors that the data file system has recorded.", number(mount.errors));
    if let Ok(space) = sys.space(&mount.path) {
        page.gauge("kubesolo_os_data_size_bytes", "Size of the data file system.", number(space.total));
        let help = "Room on the data file system.";
        page.gauge("kubesolo_os_data_available_bytes", help, number(space.available));
    }
    if let Ok((total, free)) = sys.inodes(&mount.path) {
        page.gauge("kubesolo_os_data_inodes", "Inodes of the data file system.", number(total));
        page.gauge("kubesolo_os_data_inodes_free", "Free inodes of the data file system.", number(free));
    }
}

fn network(page: &mut Page, sys: &dyn Sys, facts: &Facts) {
    let document = &facts.network;
    page.flag("kubesolo_os_network_online", "Whether the network is up.", facts::flag(document, "/online"));
    let help = "What of the network configuration could not be done.";
    let problems = facts::list(document, "/problems").map(|list| number(list.len() as u64));
    page.gauge("kubesolo_os_network_problems", help, problems);
    let carrier = facts::list(document, "/interfaces").unwrap_or_default().iter().filter_map(|interface| {
        let carrier = facts::flag(interface, "/carrier")?;
        Some(labelled("interface", facts::text(interface, "/name"), f64::from(u8::from(carrier))))
    });
    let help = "Whether an interface has a link.";
    page.samples("kubesolo_os_network_carrier", Kind::Gauge, help, carrier.collect());
    let help = "Whether the clock was set from a time server.";
    page.flag("kubesolo_os_time_synchronised", help, facts::synchronised(document));
    let help = "How far the clock was off when it was last compared.";
    let offset = facts::value(document, "/time/offset_ms").map(|ms| ms / 1000.0);
    page.gauge("kubesolo_os_time_offset_seconds", help, offset);
    let help = "When a time server answered last, since 1970.";
    page.gauge("kubesolo_os_time_last_sync_seconds", help, facts::value(document, "/time/last_sync_unix"));
    page.gauge("kubesolo_os_time_seconds", "The clock, since 1970.", number(sys.wall_clock()));
}

fn update(page: &mut Page, sys: &dyn Sys) {
    let update = facts::update(sys).unwrap_or_default();
    let help = "Whether a newer version can be installed.";
    page.flag("kubesolo_os_update_available", help, update.available.is_some());
    let help = "Damaged documents of updates that were set aside.";
    page.gauge("kubesolo_os_update_damaged_documents", help, number(update.damaged.len() as u64));
    let version = update.available.map(|version| labelled("version", &version, 1.0));
    let help = "The version that can be installed.";
    page.samples("kubesolo_os_update_available_version", Kind::Gauge, help, version.into_iter().collect());
    let last =
        update.last.map(|last| Sample { labels: vec![("version", last.version), ("result", last.result)], value: 1.0 });
    let help = "How the last update ended.";
    page.samples("kubesolo_os_update_last_result", Kind::Gauge, help, last.into_iter().collect());
}

fn agent(page: &mut Page, own: Own) {
    let (open, fetches) = own.kubeconfig;
    page.flag("kubesolo_os_kubeconfig_served", "Whether the kubeconfig can be fetched over HTTP.", open);
    page.counter(
        "kubesolo_os_kubeconfig_fetches_total",
        "Fetches of the kubeconfig since the node started.",
        fetches.into(),
    );
    let help = "Connections that were closed because there were too many.";
    page.counter("kubesolo_os_agent_connections_rejected_total", help, own.rejected);
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
