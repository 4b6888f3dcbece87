//! What the node says about itself: `/run/ksos/status.json`, and the `status` applet that shows it.

use std::fmt::Write as _;
use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::config::ConfigurationStatus;
use crate::sys::{Sys, TEXT_LIMIT, read_text};

use super::handover::StageReport;
use super::table;
use super::watchdog::{self, WatchdogStatus};

/// Where the document is.
pub const PATH: &str = "/run/ksos/status.json";
/// The current value of [`Status::format`].
pub const FORMAT: u32 = 1;

/// The node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`FORMAT`].
    pub format: u32,
    /// `starting`, `ready` or `stopping`.
    pub state: String,
    /// Why the node is degraded; empty if it is not.
    pub degraded: Vec<String>,
    /// Image name.
    pub name: String,
    /// Image version.
    pub version: String,
    /// Architecture.
    pub arch: String,
    /// `a` or `b`.
    pub slot: char,
    /// `slot` or `ram`.
    pub root: String,
    /// `on`, `off` or `unknown`.
    pub secure_boot: String,
    /// Kernel lockdown mode.
    pub lockdown: String,
    /// How often the node has booted.
    pub boot: u64,
    /// Whether data outlives a restart.
    pub persistent: bool,
    /// Where data is mounted.
    #[serde(default)]
    pub data: String,
    /// Where the boot log is.
    #[serde(default)]
    pub boot_log: Option<String>,
    /// Whether no kernel module can be loaded any more.
    #[serde(default)]
    pub modules_locked: bool,
    /// The hardware watchdog.
    #[serde(default)]
    pub watchdog: WatchdogStatus,
    /// Memory in use before the first service was started: what the OS itself needs, but for its two processes.
    #[serde(default)]
    pub memory_before_services: Option<Memory>,
    /// Milliseconds from the kernel's start to its hand-over to `/init`.
    #[serde(default)]
    pub handover_ms: u64,
    /// Milliseconds from the kernel's start to services started.
    #[serde(default)]
    pub services_ms: Option<u64>,
    /// Milliseconds from the kernel's start to ready.
    pub ready_ms: Option<u64>,
    /// The stages of the boot.
    pub stages: Vec<StageReport>,
    /// The services.
    pub services: Vec<ServiceStatus>,
    /// The configuration.
    #[serde(default)]
    pub configuration: ConfigurationStatus,
}

/// Memory of the machine (proc(5), `/proc/meminfo`), in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// `MemTotal`: without what the kernel's own image takes.
    pub total_kib: u64,
    /// What is in use and cannot be had by dropping caches: `MemTotal` without `MemFree`, `Buffers`, `Cached` (but with
    /// `Shmem`, which is counted there) and `SReclaimable`. `MemAvailable` is smaller than the rest by what the kernel
    /// holds back for itself (its watermarks), which nobody uses.
    pub used_kib: u64,
}

impl Memory {
    /// Reads what there is now.
    pub(super) fn read(sys: &dyn Sys) -> Option<Self> {
        let text = read_text(sys, "/proc/meminfo").ok()?;
        let field = |name: &str| -> Option<u64> {
            let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let caches = field("Buffers")? + field("Cached")? + field("SReclaimable")?;
        let taken = field("MemTotal")?.saturating_sub(field("MemFree")?);
        Some(Memory { total_kib: field("MemTotal")?, used_kib: (taken + field("Shmem")?).saturating_sub(caches) })
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} MiB memory in use before", self.used_kib >> 10, self.total_kib >> 10)
    }
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Its phase.
    pub state: String,
    /// Its process.
    pub pid: Option<i32>,
    /// How often it was started again.
    pub restarts: u32,
    /// Whether the node needs it to be ready.
    pub required: bool,
}

/// The applet: `kubesolo-os status [--json]`. Returns its exit status: 0 ready, 1 not ready or degraded, 2 no status.
pub fn show(sys: &dyn Sys, json: bool, out: &mut dyn Write, errors: &mut dyn Write) -> i32 {
    let status = match read(sys) {
        Ok(status) => status,
        Err(message) => {
            let _ = writeln!(errors, "ksos: {message}");
            return 2;
        }
    };
    let text = if json { serde_json::to_string_pretty(&status).unwrap_or_default() + "\n" } else { table(&status) };
    let _ = out.write_all(text.as_bytes());
    i32::from(status.state != "ready" || !status.degraded.is_empty())
}

/// Reads the document.
pub(super) fn read(sys: &dyn Sys) -> Result<Status, String> {
    let bytes = sys.read(PATH, TEXT_LIMIT).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{PATH}: {error}"))
}

fn table(status: &Status) -> String {
    let mut text = format!("{} {} {}: {}\n", status.name, status.version, status.arch, status.state);
    let data = if status.persistent { "partition" } else { "memory" };
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "slot {}, root {}, data {data}, boot {}, secure boot {}, lockdown {}",
        status.slot, status.root, status.boot, status.secure_boot, status.lockdown
    );
    for reason in &status.degraded {
        let _ = writeln!(text, "degraded: {reason}");
    }
    let _ = writeln!(text, "watchdog: {}", watchdog::describe(&status.watchdog));
    text += &stages(status);
    let width = status.services.iter().map(|service| service.name.len()).max().unwrap_or(0);
    for service in &status.services {
        let pid = service.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let _ =
            writeln!(text, "{:width$}  {:9}  pid {pid}  restarts {}", service.name, service.state, service.restarts);
    }
    text
}

/// Returns the stages, one per line, and the sums.
fn stages(status: &Status) -> String {
    let (mut text, mut before) = (String::new(), 0);
    for stage in &status.stages {
        let kernel = stage.kernel_ms.saturating_sub(before);
        before = stage.kernel_ms;
        let outcome = if stage.outcome.is_empty() { if stage.ok { "ok" } else { "failed" } } else { &stage.outcome };
        let StageReport { number, name, ms, detail, .. } = stage;
        let line = format!("{number:02} {name:13} {ms:6} ms  kernel {kernel:5} ms  {outcome:8}  {detail}");
        let _ = writeln!(text, "{}", line.trim_end());
        if let Some(row) = table::STAGES.iter().find(|row| row.number == stage.number && !stage.ok) {
            let _ = writeln!(text, "   {} If that fails: {}.", row.what, row.failure.meaning());
        }
    }
    let since = |end: u64| end.saturating_sub(status.handover_ms);
    if let Some(end) = status.services_ms {
        let kernel = status.stages.iter().find(|stage| stage.number == 80).map_or(0, |stage| stage.kernel_ms);
        let (all, own) = (since(end), since(end).saturating_sub(kernel));
        let _ = write!(
            text,
            "from the kernel's hand-over to services started {all} ms, {own} ms without the kernel's own work"
        );
        match status.ready_ms {
            Some(end) => writeln!(text, ", to ready {} ms", since(end)),
            None => writeln!(text),
        }
        .unwrap_or_default();
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sys::double::Double;

    fn stage(number: u8, name: &str, ok: bool, outcome: &str, detail: &str) -> StageReport {
        StageReport {
            number,
            name: name.to_owned(),
            ok,
            outcome: outcome.to_owned(),
            start_ms: 1800,
            ms: 12,
            kernel_ms: 10 * u64::from(number),
            detail: detail.to_owned(),
        }
    }

    /// Returns the status of a node that is ready.
    pub(crate) fn status() -> Status {
        let service = |name: &str, state: &str, pid| ServiceStatus {
            name: name.to_owned(),
            state: state.to_owned(),
            pid,
            restarts: 2,
            required: true,
        };
        Status {
            format: FORMAT,
            state: "ready".to_owned(),
            degraded: Vec::new(),
            name: "demo".to_owned(),
            version: "1.2.3".to_owned(),
            arch: "x86_64".to_owned(),
            slot: 'a',
            root: "slot".to_owned(),
            secure_boot: "on".to_owned(),
            lockdown: "integrity".to_owned(),
            boot: 4,
            persistent: true,
            data: "/data".to_owned(),
            boot_log: None,
            modules_locked: false,
            watchdog: WatchdogStatus { state: "off".to_owned(), ..WatchdogStatus::default() },
            memory_before_services: Some(Memory { total_kib: 480 << 10, used_kib: 31 << 10 }),
            handover_ms: 1800,
            services_ms: Some(2620),
            ready_ms: Some(5320),
            stages: vec![stage(0, "kernel", true, "ok", ""), stage(30, "data", false, "degraded", "/dev/vda4 is gone")],
            services: vec![service("containerd", "ready", Some(77)), service("x", "done", None)],
            configuration: ConfigurationStatus::default(),
        }
    }

    #[test]
    fn memory_in_use_is_what_no_cache_holds() {
        let sys = Double::new();
        assert_eq!(Memory::read(&sys), None);
        let text = "MemTotal: 475572 kB\nMemFree: 424332 kB\nMemAvailable: 428868 kB\nBuffers: 3036 kB\n\
            Cached: 10024 kB\nSwapCached: 9 kB\nShmem: 4 kB\nShmemHugePages: 0 kB\nSReclaimable: 1784 kB\n";
        sys.put("/proc/meminfo", text);
        let memory = Memory::read(&sys).expect("there");
        assert_eq!((memory.used_kib, memory.to_string().as_str()), (36_400, "35 of 464 MiB memory in use before"));
        sys.put("/proc/meminfo", "MemTotal: x kB\nMemAvailable\n");
        assert_eq!(Memory::read(&sys), None);
    }

    #[test]
    fn table_and_exit_status() {
        let sys = Double::new();
        let call = |json| {
            let (mut out, mut errors) = (Vec::new(), Vec::new());
            let code = show(&sys, json, &mut out, &mut errors);
            (code, String::from_utf8(out).expect("text"), String::from_utf8(errors).expect("text"))
        };
        assert_eq!(call(false).0, 2);
        sys.put(PATH, serde_json::to_vec(&status()).expect("JSON"));
        let expected = "demo 1.2.3 x86_64: ready\n\
            slot a, root slot, data partition, boot 4, secure boot on, lockdown integrity\n\
            watchdog: off\n\
            00 kernel            12 ms  kernel     0 ms  ok\n\
            30 data              12 ms  kernel   300 ms  degraded  /dev/vda4 is gone\n   \
            Finds, grows, checks or formats the data partition and mounts it; carries out a factory reset. \
            If that fails: degraded: data is kept in memory until the next restart; the partition is left as it is.\n\
            from the kernel's hand-over to services started 820 ms, 820 ms without the kernel's own work, to ready 3520 ms\n\
            containerd  ready      pid 77  restarts 2\n\
            x           done       pid -  restarts 2\n";
        assert_eq!(call(false), (0, expected.to_owned(), String::new()));
        let json: Status = serde_json::from_str(&call(true).1).expect("JSON");
        assert_eq!(json, status());
        let degraded = Status { degraded: vec!["data".to_owned()], ..status() };
        sys.put(PATH, serde_json::to_vec(&degraded).expect("JSON"));
        assert_eq!(call(false).0, 1);
    }
}
