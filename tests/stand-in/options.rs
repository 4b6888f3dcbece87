//! The configuration file, the environment and the flags.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;

/// The configuration file.
const FILE: &str = "/etc/kubesolo/config.yaml";
/// Flags with a value, and Booleans.
const VALUES: [&str; 18] = [
    "path",
    "apiserver-extra-sans",
    "startup-timeout",
    "node-ip",
    "mtu",
    "load-balancer-ip",
    "local-storage-shared-path",
    "metrics-bind-address",
    "portainer-edge-id",
    "portainer-edge-key",
    "portainer-edge-image",
    "container-runtime-endpoint",
    "cpu-manager-policy",
    "cpu-manager-policy-options",
    "d2k-namespace",
    "reserved-cpus",
    "system-reserved",
    "config",
];
const BOOLEANS: [&str; 10] = [
    "disable-ipv6",
    "load-balancer",
    "local-storage",
    "db-wal-repair",
    "debug",
    "pprof-server",
    "metrics-server",
    "portainer-edge-async",
    "container-mode",
    "d2k",
];

/// What was asked for.
#[derive(Debug, Default)]
pub struct Options {
    /// By flag.
    pub values: BTreeMap<String, Value>,
}

impl Options {
    /// Returns the texts of a list or of one text.
    pub fn texts(&self, name: &str) -> Vec<String> {
        match self.values.get(name) {
            Some(Value::String(text)) => text.split(',').map(str::to_owned).collect(),
            Some(Value::Array(items)) => items.iter().filter_map(|item| Some(item.as_str()?.to_owned())).collect(),
            _ => Vec::new(),
        }
    }

    /// Returns everything but what is secret.
    pub fn summary(&self) -> String {
        let shown = |(name, value): (&String, &Value)| match name.as_str() {
            "portainer-edge-key" => format!("{name}={} bytes", value.as_str().map_or(0, str::len)),
            _ => format!("{name}={value}"),
        };
        self.values.iter().map(shown).collect::<Vec<_>>().join(" ")
    }
}

/// Reads all three; flags win over the environment, which wins over the file.
pub fn read(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    if std::path::Path::new(FILE).exists() {
        from_file(&mut options)?;
    }
    for (name, value) in std::env::vars() {
        let Some(flag) = name.strip_prefix("KUBESOLO_") else { continue };
        set_text(&mut options, &flag.to_lowercase().replace('_', "-"), &value)?;
    }
    from_flags(&mut options, arguments)?;
    Ok(options)
}

/// Where each flag is in the file (KubeSolo's documentation, `docs/configuration/config-file.md`).
const PLACES: [(&str, &str); 27] = [
    ("/path", "path"),
    ("/kubernetes/apiServer/extraSANs", "apiserver-extra-sans"),
    ("/kubernetes/apiServer/startupTimeoutSeconds", "startup-timeout"),
    ("/kubernetes/kubelet/cpuManager/policy", "cpu-manager-policy"),
    ("/kubernetes/kubelet/cpuManager/policyOptions", "cpu-manager-policy-options"),
    ("/kubernetes/kubelet/cpuManager/reservedCPUs", "reserved-cpus"),
    ("/kubernetes/kubelet/systemReserved", "system-reserved"),
    ("/network/nodeIP", "node-ip"),
    ("/network/mtu", "mtu"),
    ("/network/disableIPv6", "disable-ipv6"),
    ("/network/loadBalancer/enabled", "load-balancer"),
    ("/network/loadBalancer/ip", "load-balancer-ip"),
    ("/runtime/endpoint", "container-runtime-endpoint"),
    ("/runtime/containerMode", "container-mode"),
    ("/storage/localPath/enabled", "local-storage"),
    ("/storage/localPath/sharedPath", "local-storage-shared-path"),
    ("/storage/dbWALRepair", "db-wal-repair"),
    ("/logging/debug", "debug"),
    ("/logging/pprof", "pprof-server"),
    ("/metrics/enabled", "metrics-server"),
    ("/metrics/bindAddress", "metrics-bind-address"),
    ("/portainer/edgeID", "portainer-edge-id"),
    ("/portainer/edgeKey", "portainer-edge-key"),
    ("/portainer/async", "portainer-edge-async"),
    ("/portainer/image", "portainer-edge-image"),
    ("/d2k/enabled", "d2k"),
    ("/d2k/namespace", "d2k-namespace"),
];

fn from_file(options: &mut Options) -> Result<(), String> {
    let metadata = std::fs::metadata(FILE).map_err(|error| format!("{FILE}: {error}"))?;
    if metadata.mode() & 0o7777 != 0o600 || metadata.uid() != 0 {
        return Err(format!("{FILE} has mode {:04o} and owner {}", metadata.mode() & 0o7777, metadata.uid()));
    }
    let text = std::fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"))?;
    let document: Value = serde_saphyr::from_str(&text).map_err(|error| format!("{FILE}: {error}"))?;
    if document["apiVersion"] != "kubesolo.io/v1alpha1" || document["kind"] != "Config" {
        return Err(format!("{FILE} has apiVersion {} and kind {}", document["apiVersion"], document["kind"]));
    }
    let mut leaves = Vec::new();
    collect(&document, "", &mut leaves);
    for (place, value) in leaves.into_iter().filter(|(place, _)| !matches!(place.as_str(), "/apiVersion" | "/kind")) {
        let flag = PLACES.iter().find(|(known, _)| *known == place).map(|(_, flag)| *flag);
        let flag = flag.ok_or_else(|| format!("{FILE}: unknown key {place}"))?;
        if value.is_boolean() != BOOLEANS.contains(&flag) {
            return Err(format!("{FILE}: {place} cannot be {value}"));
        }
        options.values.insert(flag.to_owned(), value);
    }
    Ok(())
}

/// Returns everything that is no mapping, with its place.
fn collect(value: &Value, place: &str, leaves: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(entries) if !PLACES.iter().any(|(known, _)| *known == place) => {
            entries.iter().for_each(|(key, value)| collect(value, &format!("{place}/{key}"), leaves));
        }
        _ => leaves.push((place.to_owned(), value.clone())),
    }
}

fn from_flags(options: &mut Options, arguments: &[String]) -> Result<(), String> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let flag = argument.strip_prefix("--").ok_or_else(|| format!("unexpected argument {argument}"))?;
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        match (BOOLEANS.contains(&name), name.strip_prefix("no-"), value) {
            (true, _, None) => drop(options.values.insert(name.to_owned(), Value::Bool(true))),
            (true, _, Some(_)) => return Err(format!("unexpected value for --{name}")),
            (_, Some(name), None) if BOOLEANS.contains(&name) => {
                options.values.insert(name.to_owned(), Value::Bool(false));
            }
            (_, _, value) if VALUES.contains(&name) => {
                let value = value.map(str::to_owned).or_else(|| rest.next().cloned());
                let value = value.ok_or_else(|| format!("expected a value for --{name}"))?;
                options.values.insert(name.to_owned(), Value::String(value));
            }
            _ => return Err(format!("unknown flag --{name}")),
        }
    }
    Ok(())
}

fn set_text(options: &mut Options, name: &str, value: &str) -> Result<(), String> {
    let value = match (BOOLEANS.contains(&name), value) {
        (true, "true") => Value::Bool(true),
        (true, "false") => Value::Bool(false),
        (false, text) if VALUES.contains(&name) => Value::String(text.to_owned()),
        _ => return Err(format!("the environment sets {name}={value:?}")),
    };
    options.values.insert(name.to_owned(), value);
    Ok(())
}
