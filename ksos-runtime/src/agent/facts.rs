//! What the node's other processes and the kernel say, read once per evaluation.
//!
//! A document that is absent or damaged is a missing fact, never a failure of this process: each reader says what that
//! means. Documents of later parts of the system are read leniently, so that an older agent lives with a newer node:
//!
//! - [`BOOT_STATE`]: `{"active": "a"|"b", "trial": "a"|"b"|null, "left": 0..3}`; absent: not known.
//! - `/run/ksos/status.json`, beside [`Status`]: `data` (mount point), `configuration` (`source`, `place`, `instance_id`,
//!   `stored`, `errors`, `warnings`), `handover_ms`, `services_ms`, `modules_locked`, `watchdog` (`state`, `timeout_s`).
//! - `/run/ksos/network.json`: `online`, `problems`, `interfaces` (`name`, `carrier`), `time` (`synchronised`,
//!   `offset_ms`, `last_sync_unix`).
//! - [`UPDATE`]: `{"available": "VERSION"|null, "last": {"version": "...", "result": "..."}|null, "damaged": ["..."]}`;
//!   absent: none.

use ksos_formats::layout;
use ksos_formats::runtime::RuntimeConfig;
use serde::Deserialize;
use serde_json::Value;

use crate::init::status::{self, Status};
use crate::sys::{Sys, read_text};

/// What the boot loader's state is.
pub(super) const BOOT_STATE: &str = "/run/ksos/bootstate.json";
/// What the update process found and did last.
pub(super) const UPDATE: &str = "/run/ksos/update.json";
/// Largest document in bytes.
const DOCUMENT_LIMIT: u64 = 4 << 20;
/// Where data is mounted if the image has no directory for it.
const FALLBACK_MOUNT: &str = "/run/ksos/data";

/// The documents.
pub(super) struct Facts {
    /// What the image says.
    pub(super) runtime: Result<RuntimeConfig, String>,
    /// What PID 1 says.
    pub(super) status: Result<Status, String>,
    /// The same document, for what only some nodes say; `Null` if it cannot be read.
    pub(super) details: Value,
    /// What the network process says; `Null` if nothing.
    pub(super) network: Value,
    /// Where data is.
    pub(super) data: Option<DataMount>,
}

/// The mount of the data partition (proc(5), `/proc/pid/mountinfo`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DataMount {
    /// Mount point.
    pub(super) path: String,
    /// Whether the mount or its file system is read-only, also because of an error.
    pub(super) read_only: bool,
    /// Errors that the file system has recorded since it was last checked.
    pub(super) errors: u64,
}

/// The content of [`BOOT_STATE`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct BootFacts {
    /// The slot on trial.
    #[serde(default)]
    pub(super) trial: Option<String>,
    /// Tries left.
    pub(super) left: u8,
}

/// The content of [`UPDATE`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct UpdateFacts {
    /// Version that can be installed.
    pub(super) available: Option<String>,
    /// The last update that ended.
    pub(super) last: Option<LastUpdate>,
    /// Damaged documents of updates that were set aside.
    pub(super) damaged: Vec<String>,
}

/// An update that ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct LastUpdate {
    /// Its version.
    pub(super) version: String,
    /// How it ended: `succeeded`, `rolled-back`, `failed`, ...
    pub(super) result: String,
}

/// Reads all documents.
pub(super) fn read_facts(sys: &dyn Sys) -> Facts {
    let runtime = document::<RuntimeConfig>(sys, layout::RUNTIME_CONFIG);
    let details = document::<Value>(sys, status::PATH);
    let status = details
        .as_ref()
        .map_err(Clone::clone)
        .and_then(|details| Status::deserialize(details).map_err(|error| format!("{}: {error}", status::PATH)));
    let details = details.unwrap_or(Value::Null);
    let stated = details.pointer("/data").and_then(Value::as_str).filter(|path| !path.is_empty());
    let wanted = stated.or_else(|| runtime.as_ref().ok().map(|config| config.data.mount.as_str()));
    let data = wanted.and_then(|path| data_mount(sys, path));
    Facts { data, runtime, status, details, network: document(sys, layout::NETWORK_STATUS).unwrap_or(Value::Null) }
}

/// Reads a JSON document; says why it cannot be used.
pub(super) fn document<T: for<'a> Deserialize<'a>>(sys: &dyn Sys, path: &str) -> Result<T, String> {
    let bytes = sys.read(path, DOCUMENT_LIMIT).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{path}: {error}"))
}

fn data_mount(sys: &dyn Sys, wanted: &str) -> Option<DataMount> {
    let table = read_text(sys, "/proc/self/mountinfo").ok()?;
    // Of two mounts on one place the last is seen.
    let find = |path: &str| table.lines().rev().find_map(|line| parse_mount(line).filter(|mount| mount.path == path));
    let found = find(wanted).or_else(|| find(FALLBACK_MOUNT))?;
    let device = found.source.rsplit('/').next().unwrap_or_default();
    let errors = crate::sys::read_line(sys, &format!("/sys/fs/ext4/{device}/errors_count"));
    let errors = errors.and_then(|text| text.parse().ok()).unwrap_or(0);
    Some(DataMount { path: found.path, read_only: found.read_only, errors })
}

struct MountLine {
    path: String,
    source: String,
    read_only: bool,
}

/// Parses `ID PARENT DEVICE ROOT PLACE OPTIONS [TAG...] - TYPE SOURCE OPTIONS`.
fn parse_mount(line: &str) -> Option<MountLine> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(4);
    let (path, options) = (mount.next()?, mount.next()?);
    let mut file_system = file_system.split(' ').skip(1);
    let source = file_system.next()?;
    let read_only = |options: &str| options.split(',').any(|option| matches!(option, "ro" | "emergency_ro"));
    let read_only = read_only(options) || file_system.next().is_some_and(read_only);
    Some(MountLine { path: path.to_owned(), source: source.to_owned(), read_only })
}

/// Whether the clock was set from a time server, as the network process says.
pub(super) fn synchronised(network: &Value) -> Option<bool> {
    flag(network, "/time/synchronised")
}

/// A Boolean in a document, by JSON pointer (RFC 6901).
pub(super) fn flag(document: &Value, pointer: &str) -> Option<bool> {
    document.pointer(pointer).and_then(Value::as_bool)
}

/// A number in a document.
pub(super) fn value(document: &Value, pointer: &str) -> Option<f64> {
    document.pointer(pointer).and_then(Value::as_f64)
}

/// A text in a document; empty if it is not there.
pub(super) fn text<'a>(document: &'a Value, pointer: &str) -> &'a str {
    document.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A list in a document.
pub(super) fn list<'a>(document: &'a Value, pointer: &str) -> Option<&'a [Value]> {
    document.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice)
}

/// Reads the boot loader's state, if it is exposed.
pub(super) fn boot_state(sys: &dyn Sys) -> Option<BootFacts> {
    document(sys, BOOT_STATE).ok()
}

/// Reads what the update process says, if there is one.
pub(super) fn update(sys: &dyn Sys) -> Option<UpdateFacts> {
    document(sys, UPDATE).ok()
}

/// Total and available memory in bytes (proc(5), `/proc/meminfo`).
pub(super) fn memory(sys: &dyn Sys) -> (Option<u64>, Option<u64>) {
    let text = read_text(sys, "/proc/meminfo").unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    (value("MemTotal"), value("MemAvailable"))
}

/// Load averages over 1, 5 and 15 minutes (proc(5), `/proc/loadavg`).
pub(super) fn load(sys: &dyn Sys) -> Option<[f64; 3]> {
    let text = read_text(sys, "/proc/loadavg").ok()?;
    let mut values = text.split_whitespace().map(|word| word.parse::<f64>().ok().filter(|value| value.is_finite()));
    Some([values.next()??, values.next()??, values.next()??])
}

/// Whether the watchdog runs, and its timeout in seconds: as PID 1 says, or the first one that the kernel has (kernel
/// `Documentation/ABI/testing/sysfs-class-watchdog`).
pub(super) fn watchdog(sys: &dyn Sys, details: &Value) -> Option<(bool, Option<f64>)> {
    const DIRECTORY: &str = "/sys/class/watchdog/watchdog0";
    let state = text(details, "/watchdog/state");
    if !state.is_empty() {
        return Some((state == "active", value(details, "/watchdog/timeout_s")));
    }
    let state = crate::sys::read_line(sys, &format!("{DIRECTORY}/state"))?;
    let timeout = crate::sys::read_line(sys, &format!("{DIRECTORY}/timeout")).and_then(|text| text.parse().ok());
    Some((state == "active", timeout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::double::Double;

    #[test]
    fn the_data_mount_is_the_last_one_on_its_place() {
        let sys = Double::new();
        sys.put(
            "/proc/self/mountinfo",
            "22 1 254:0 / / ro - squashfs /dev/dm-0 ro\n\
             30 22 254:4 / /data rw,nodev shared:1 - tmpfs tmpfs rw\n\
             31 22 254:4 / /data rw,nodev shared:1 - ext4 /dev/vda4 rw\n\
             garbage\n32 22 - \n33 22 0:1 / /data2 rw - ext4 /dev/vdb ro\n",
        );
        let expected = DataMount { path: "/data".to_owned(), read_only: false, errors: 0 };
        assert_eq!(data_mount(&sys, "/data"), Some(expected.clone()));
        sys.put("/sys/fs/ext4/vda4/errors_count", "3\n");
        assert_eq!(data_mount(&sys, "/data"), Some(DataMount { errors: 3, ..expected }));
        assert_eq!(data_mount(&sys, "/data2").map(|mount| mount.read_only), Some(true));
        assert_eq!(data_mount(&sys, "/other"), None);
        sys.put("/proc/self/mountinfo", "1 2 3:4 / /run/ksos/data rw - ext4 /dev/vda4 rw,emergency_ro\n");
        let fallback = data_mount(&sys, "/data").expect("the other place");
        assert_eq!((fallback.path.as_str(), fallback.read_only), (FALLBACK_MOUNT, true));
    }

    #[test]
    fn kernel_tables() {
        let sys = Double::new();
        assert_eq!((memory(&sys), load(&sys), watchdog(&sys, &Value::Null)), ((None, None), None, None));
        sys.put("/proc/meminfo", "MemTotal:        2048 kB\nMemFree: 1 kB\nMemAvailable:  1024 kB\n");
        sys.put("/proc/loadavg", "0.50 1.00 2.25 1/200 4242\n");
        sys.put("/sys/class/watchdog/watchdog0/state", "active\n");
        sys.put("/sys/class/watchdog/watchdog0/timeout", "30\n");
        assert_eq!(memory(&sys), (Some(2 << 20), Some(1 << 20)));
        assert_eq!(load(&sys), Some([0.5, 1.0, 2.25]));
        assert_eq!(watchdog(&sys, &Value::Null), Some((true, Some(30.0))));
        let said = serde_json::json!({"watchdog": {"state": "no device", "timeout_s": null}});
        assert_eq!(watchdog(&sys, &said), Some((false, None)));
        for (path, text) in [
            ("/proc/meminfo", "MemTotal: 99999999999999999999 kB\nMemTotal\nMemAvailable: x\n"),
            ("/proc/loadavg", "0.5 NaN inf"),
        ] {
            sys.put(path, text);
        }
        assert_eq!((memory(&sys), load(&sys)), ((None, None), None));
    }

    #[test]
    fn damaged_documents_are_missing_facts() {
        let sys = Double::new();
        for text in ["", "{", "[1]", "{\"left\": 300}", "{\"left\": -1}"] {
            sys.put(BOOT_STATE, text);
            assert_eq!(boot_state(&sys), None, "{text}");
        }
        sys.put(BOOT_STATE, "{\"left\": 2, \"trial\": \"b\", \"new\": 1}");
        assert_eq!(boot_state(&sys), Some(BootFacts { trial: Some("b".to_owned()), left: 2 }));
        assert_eq!(update(&sys), None);
        sys.put(UPDATE, "{\"available\": \"1.3.0\", \"last\": {\"version\": \"1.2.0\", \"result\": \"succeeded\"}}");
        assert_eq!(update(&sys).and_then(|update| update.available).as_deref(), Some("1.3.0"));
        let facts = read_facts(&sys);
        assert!(facts.network.is_null() && facts.data.is_none());
        assert_eq!(
            facts.status.expect_err("no status"),
            "read /run/ksos/status.json: No such file or directory (os error 2)"
        );
    }
}
