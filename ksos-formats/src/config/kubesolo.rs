//! KubeSolo's flags: what is accepted, and how they reach it.
//!
//! Names, types, environment variables and places in the configuration file are those of KubeSolo 1.2
//! (its docs/configuration/config-file.md, "Flag and environment variable equivalents"). The file is a document of
//! `apiVersion: kubesolo.io/v1alpha1`; a flag's name at its top level would be passed over with a warning. Flags win
//! over the environment, and that over the file.

use serde_json::Value;

use super::forms::*;
use super::keys::{Kind, Table, key};
use super::types::KubeSolo;

/// The flags.
pub(super) static KUBESOLO: Table = Table {
    what: "kubesolo",
    keys: &[
        key("path", Kind::Text(PATH), "Directory of KubeSolo's data (default /var/lib/kubesolo)."),
        key("apiserver-extra-sans", Kind::Texts(SAN), "Further names and addresses in the API server's certificate."),
        key(
            "startup-timeout",
            Kind::Integer { min: 1, max: 86_400 },
            "Seconds that a component may take until it is healthy (default 600).",
        ),
        key("node-ip", Kind::Text(IP), "The node's address (default: found, private ones preferred)."),
        key("mtu", Kind::Integer { min: 0, max: 65_535 }, "MTU of the pods' network (default 0: found)."),
        key("disable-ipv6", Kind::Boolean, "Switches IPv6 off (default false)."),
        key("load-balancer", Kind::Boolean, "Gives Services of type LoadBalancer an address (default true)."),
        key("load-balancer-ip", Kind::Text(IP), "That address (default: the node's)."),
        key("local-storage", Kind::Boolean, "Deploys the local-path provisioner (default true)."),
        key("local-storage-shared-path", Kind::Text(PATH), "Directory of a shared file system for it."),
        key("db-wal-repair", Kind::Boolean, "Repairs the database after a power cut (default false)."),
        key("debug", Kind::Boolean, "Logs more (default false)."),
        key("pprof-server", Kind::Boolean, "Serves Go profiles on port 6060 (default false)."),
        key("metrics-server", Kind::Boolean, "Serves KubeSolo's own metrics (default false)."),
        key("metrics-bind-address", Kind::Text(LISTEN), "Where they are served (default 127.0.0.1:9105)."),
        key("portainer-edge-id", Kind::Text(WORD), "Portainer Edge ID."),
        key("portainer-edge-key", Kind::Secret(WORD), "Portainer Edge key. Secret."),
        key("portainer-edge-async", Kind::Boolean, "The Edge agent polls instead of holding a tunnel (default false)."),
        key("portainer-edge-image", Kind::Text(IMAGE), "The agent's image (default docker.io/portainer/agent:lts)."),
        key("container-mode", Kind::Boolean, "Whether KubeSolo takes itself to be in a container (default: found)."),
        key(
            "container-runtime-endpoint",
            Kind::Text(ENDPOINT),
            "Socket of another container runtime (default: its own).",
        ),
        key(
            "cpu-manager-policy",
            Kind::Choice(&["none", "static"]),
            "The kubelet's CPU manager policy (default none).",
        ),
        key(
            "cpu-manager-policy-options",
            Kind::Map(WORD, &Kind::Text(WORD)),
            "Options of the static policy, as in {full-pcpus-only: \"true\"}.",
        ),
        key("reserved-cpus", Kind::Text(CPUSET), "Processors that pods do not get, as in \"0\" or \"0-1\"."),
        key(
            "system-reserved",
            Kind::Map(RESOURCE, &Kind::Text(QUANTITY)),
            "What the system keeps, as in {cpu: 100m, memory: 200Mi}.",
        ),
        key("d2k", Kind::Boolean, "Serves the Docker API by d2k on port 2376 (default false)."),
        key("d2k-namespace", Kind::Text(NAMESPACE), "Namespace of d2k (default d2k)."),
    ],
    unsupported: &["full"],
    required: &[],
};

/// Where each flag stands in the configuration file, in the order of the file.
const PLACES: &[(&str, &str)] = &[
    ("path", "path"),
    ("apiserver-extra-sans", "kubernetes.apiServer.extraSANs"),
    ("startup-timeout", "kubernetes.apiServer.startupTimeoutSeconds"),
    ("cpu-manager-policy", "kubernetes.kubelet.cpuManager.policy"),
    ("cpu-manager-policy-options", "kubernetes.kubelet.cpuManager.policyOptions"),
    ("reserved-cpus", "kubernetes.kubelet.cpuManager.reservedCPUs"),
    ("system-reserved", "kubernetes.kubelet.systemReserved"),
    ("node-ip", "network.nodeIP"),
    ("mtu", "network.mtu"),
    ("disable-ipv6", "network.disableIPv6"),
    ("load-balancer", "network.loadBalancer.enabled"),
    ("load-balancer-ip", "network.loadBalancer.ip"),
    ("container-runtime-endpoint", "runtime.endpoint"),
    ("container-mode", "runtime.containerMode"),
    ("local-storage", "storage.localPath.enabled"),
    ("local-storage-shared-path", "storage.localPath.sharedPath"),
    ("db-wal-repair", "storage.dbWALRepair"),
    ("debug", "logging.debug"),
    ("pprof-server", "logging.pprof"),
    ("metrics-server", "metrics.enabled"),
    ("metrics-bind-address", "metrics.bindAddress"),
    ("portainer-edge-id", "portainer.edgeID"),
    ("portainer-edge-key", "portainer.edgeKey"),
    ("portainer-edge-async", "portainer.async"),
    ("portainer-edge-image", "portainer.image"),
    ("d2k", "d2k.enabled"),
    ("d2k-namespace", "d2k.namespace"),
];

/// Tells whether a flag's value is secret.
pub(super) fn is_secret(flag: &str) -> bool {
    KUBESOLO.find(flag).is_some_and(|key| matches!(key.kind, Kind::Secret(_)))
}

/// Returns the text of KubeSolo's configuration file, `/etc/kubesolo/config.yaml`. Holds secrets: mode 0600.
///
/// The same flags give the same bytes. Flags that KubeSolo does not have are left out.
pub fn kubesolo_file(kubesolo: &KubeSolo) -> String {
    let mut text = "apiVersion: kubesolo.io/v1alpha1\nkind: Config\n".to_owned();
    let mut open: Vec<&str> = Vec::new();
    for (flag, place) in PLACES {
        let Some(value) = kubesolo.flags.get(*flag) else { continue };
        let mut sections: Vec<&str> = place.split('.').collect();
        let name = sections.pop().unwrap_or(place);
        let shared = open.iter().zip(&sections).take_while(|(a, b)| a == b).count();
        for (depth, section) in sections.iter().enumerate().skip(shared) {
            text.push_str(&format!("{}{section}:\n", "  ".repeat(depth)));
        }
        // JSON is YAML (YAML 1.2.2, section 1.3): quoted as it should be, on one line.
        text.push_str(&format!("{}{name}: {value}\n", "  ".repeat(sections.len())));
        open = sections;
    }
    text
}

/// Returns KubeSolo's command line arguments for the flags, without the secret ones: arguments are world-readable.
/// Booleans are `--x` or `--no-x`.
pub fn kubesolo_arguments(kubesolo: &KubeSolo) -> Vec<String> {
    let open = stated(kubesolo).filter(|(flag, _)| !is_secret(flag));
    open.map(|(flag, value)| match value {
        Value::Bool(true) => format!("--{flag}"),
        Value::Bool(false) => format!("--no-{flag}"),
        value => format!("--{flag}={}", plain(value)),
    })
    .collect()
}

/// Returns KubeSolo's environment variables for the flags. Holds secrets.
pub fn kubesolo_environment(kubesolo: &KubeSolo) -> Vec<(String, String)> {
    let variable = |flag: &str| format!("KUBESOLO_{}", flag.to_uppercase().replace('-', "_"));
    stated(kubesolo).map(|(flag, value)| (variable(flag), plain(value))).collect()
}

fn stated(kubesolo: &KubeSolo) -> impl Iterator<Item = (&'static str, &Value)> {
    KUBESOLO.keys.iter().filter_map(|key| Some((key.name, kubesolo.flags.get(key.name)?)))
}

/// Returns a value as KubeSolo's flags and environment variables take it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Object(pairs) => {
            let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
            pairs.join(",")
        }
        other => other.to_string(),
    }
}
