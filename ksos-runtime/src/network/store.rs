//! Files that the process reads and writes: the configuration, leases, the image's build time, and a time that is surely past.

use ksos_formats::config::NodeConfig;
use ksos_formats::layout;
use ksos_formats::runtime::RuntimeConfig;

use super::dhcp::Lease;
use crate::sys::{Sys, read_line};

/// 1 January 2025: no node with this code has seen an earlier time, whatever its image says.
const EARLIEST: u64 = 1_735_689_600;
/// Largest document that is read, in bytes.
const DOCUMENT_LIMIT: u64 = 8 << 20;
/// Largest kept lease that is read, in bytes.
const LEASE_LIMIT: u64 = 64 << 10;

/// Most that the kept time may differ from the clock, in seconds: media wear out.
const CLOCK_AGE: u64 = 86_400;

/// Reads the node's configuration; the default, and why, when that fails.
pub fn configuration(sys: &dyn Sys) -> (NodeConfig, Option<String>) {
    let read = || {
        let bytes = sys.read(layout::NODE_CONFIG, DOCUMENT_LIMIT).map_err(|error| error.to_string())?;
        serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", layout::NODE_CONFIG))
    };
    match read() {
        Ok(config) => (config, None),
        Err(reason) => (NodeConfig::default(), Some(reason)),
    }
}

/// What the image says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// When it was built, seconds since 1970.
    pub epoch: u64,
    /// Where leases are kept.
    pub leases: String,
    /// Where a time is kept that a time server told.
    pub clock: String,
}

/// Reads what the image says; without it, leases are kept in memory and any time is possible.
pub fn image(sys: &dyn Sys) -> Image {
    let bytes = sys.read(layout::RUNTIME_CONFIG, DOCUMENT_LIMIT);
    let config = bytes.ok().and_then(|bytes| serde_json::from_slice::<RuntimeConfig>(&bytes).ok());
    match config {
        Some(config) => Image {
            epoch: config.image.epoch.max(EARLIEST),
            leases: format!("{}/ksos/leases", config.data.mount.trim_end_matches('/')),
            clock: clock_path(&config.data.mount),
        },
        None => Image { epoch: EARLIEST, leases: "/run/ksos/leases".to_owned(), clock: "/run/ksos/clock".to_owned() },
    }
}

/// Returns the host name that servers are told: the configuration's, or the one the kernel has.
pub fn hostname(sys: &dyn Sys, config: &NodeConfig) -> Option<String> {
    let name = config.hostname.clone().or_else(|| read_line(sys, "/proc/sys/kernel/hostname"))?;
    (!name.is_empty() && name != "(none)" && name != "localhost").then_some(name)
}

/// Reads the lease that was kept under a name. Anything wrong with it makes it none.
pub fn kept_lease(sys: &dyn Sys, directory: &str, key: &str) -> Option<Lease> {
    let bytes = sys.read(&lease_path(directory, key), LEASE_LIMIT).ok()?;
    serde_json::from_slice(&bytes).ok().filter(Lease::is_sound)
}

/// Keeps a lease. Written only when more than its times changed: media wear out.
pub fn keep_lease(sys: &dyn Sys, directory: &str, key: &str, lease: &Lease) -> Result<(), String> {
    let timeless = |lease: &Lease| Lease { seconds: None, renew_s: 0, rebind_s: 0, ..lease.clone() };
    if kept_lease(sys, directory, key).is_some_and(|kept| timeless(&kept) == timeless(lease)) {
        return Ok(());
    }
    let text = serde_json::to_vec(lease).map_err(|error| error.to_string())?;
    sys.make_directory(directory, 0o700).map_err(|error| error.to_string())?;
    sys.replace(&lease_path(directory, key), &text, 0o600).map_err(|error| error.to_string())
}

/// Returns where a time is kept that a time server told, given the mount point of the data partition.
pub fn clock_path(data: &str) -> String {
    format!("{}/ksos/clock", data.trim_end_matches('/'))
}

/// Keeps the time, in seconds since 1970, that a time server told. The next boots do not begin before it. It replaces a
/// later one too: a clock that was wrong once must not stay so.
pub fn keep_clock(sys: &dyn Sys, path: &str, unix: u64) -> Result<(), String> {
    let kept = read_line(sys, path).and_then(|text| text.parse::<u64>().ok());
    if kept.is_some_and(|kept| kept.abs_diff(unix) < CLOCK_AGE) {
        return Ok(());
    }
    sys.replace(path, format!("{unix}\n").as_bytes(), 0o644).map_err(|error| error.to_string())
}

fn lease_path(directory: &str, key: &str) -> String {
    format!("{directory}/{key}.json")
}

#[cfg(test)]
mod tests {
    use super::super::dhcp::lease::tests::answer;
    use super::super::dhcp::message::Kind;
    use super::*;
    use crate::sys::double::Double;

    #[test]
    fn an_unreadable_configuration_is_the_default_and_says_why() {
        let sys = Double::new();
        let (config, reason) = configuration(&sys);
        assert_eq!(config, NodeConfig::default());
        assert!(reason.expect("a reason").starts_with("read /run/ksos/config.json: "));
        sys.put(layout::NODE_CONFIG, "{\"network\": 5}");
        assert!(configuration(&sys).1.expect("a reason").starts_with("/run/ksos/config.json: invalid type"));
        sys.put(layout::NODE_CONFIG, "{\"hostname\": \"edge-1\"}");
        let (config, reason) = configuration(&sys);
        assert_eq!((hostname(&sys, &config).as_deref(), reason), (Some("edge-1"), None));
        assert_eq!(image(&sys).leases, "/run/ksos/leases");
    }

    #[test]
    fn a_told_time_is_kept_once_a_day_and_replaces_one_from_the_future() {
        let sys = Double::new();
        sys.put("/data/ksos/x", "");
        let path = "/data/ksos/clock";
        for (unix, kept) in [
            (1_800_000_000, 1_800_000_000_u64),
            (1_800_086_399, 1_800_000_000),
            (1_800_086_400, 1_800_086_400),
            (1_790_000_000, 1_790_000_000),
        ] {
            keep_clock(&sys, path, unix).expect("kept");
            assert_eq!(sys.text(path), format!("{kept}\n"));
        }
        sys.put(path, "damaged");
        keep_clock(&sys, path, 1_790_000_000).expect("kept");
        assert_eq!(sys.text(path), "1790000000\n");
    }

    #[test]
    fn leases_are_kept_and_damaged_ones_are_none() {
        let sys = Double::new();
        let lease = Lease::read(&answer(Kind::Ack, 1, &[])).expect("a lease");
        let (directory, key) = ("/data/ksos/leases", "020000000001");
        assert_eq!(kept_lease(&sys, directory, key), None);
        keep_lease(&sys, directory, key, &lease).expect("kept");
        assert_eq!(kept_lease(&sys, directory, key), Some(lease.clone()));
        let path = "/data/ksos/leases/020000000001.json";
        sys.put(path, sys.text(path) + "\n");
        keep_lease(&sys, directory, key, &Lease { seconds: Some(77), renew_s: 5, rebind_s: 6, ..lease.clone() })
            .expect("kept");
        assert!(sys.text(path).ends_with('\n'), "not written again for its times alone");
        for bad in ["", "{", "[]", &sys.text(path).replace("10.0.0.9", "127.0.0.9")] {
            sys.put(path, bad);
            assert_eq!(kept_lease(&sys, directory, key), None, "{bad}");
        }
        keep_lease(&sys, directory, key, &lease).expect("kept");
        assert_eq!(kept_lease(&sys, directory, key), Some(lease));
    }
}
