//! The services that every node has: the network process and the agent, and with updates the one that looks for them; all this
//! binary.
//!
//! They are added to the image's services, are not required for the node to be ready, and are started again for ever. An
//! image's service of the same name is refused. A network process that fails five times in a row no longer holds up the
//! services that are after it: the node works without a network.

use std::collections::BTreeMap;

use ksos_formats::layout;
use ksos_formats::runtime::{LogTarget, ReadyProbe, RestartPolicy, RuntimeConfig, ServiceConfig};

use super::images;

/// The process that sets interfaces, addresses, names and the clock.
pub(super) const NETWORK: &str = "network";
/// The process that answers about health, metrics and the kubeconfig.
pub(super) const AGENT: &str = "agent";
/// The process that looks for updates, in images that take any.
pub(super) const UPDATE: &str = "update";
/// The file with the profiles `ksos-network` and `ksos-agent`, where an image has it.
const PROFILES: &str = "/etc/apparmor.d/ksos";
/// Names that images cannot give to their services, and what has them: `init` is PID 1's cgroup.
const RESERVED: [(&str, &str); 5] = [
    (NETWORK, "the node's own network process"),
    (AGENT, "the node's own agent"),
    (UPDATE, "the node's own update process"),
    (images::SERVICE, "the import of container images"),
    ("init", "PID 1"),
];

/// The services of a node.
#[derive(Debug)]
pub(super) struct Services {
    /// All, by name.
    pub(super) all: BTreeMap<String, ServiceConfig>,
    /// What is wrong, by cause.
    pub(super) problems: Vec<(&'static str, String)>,
}

/// Returns the image's services and the internal ones.
pub(super) fn services(config: &RuntimeConfig) -> Services {
    let mut config = config.clone();
    let mut problems = Vec::new();
    for (name, owner) in RESERVED {
        if config.services.remove(name).is_some() {
            problems.push(format!("service {name} of the image is not started: the name belongs to {owner}"));
        }
    }
    let (mut all, problem) = images::with_import(&config);
    let own = [(NETWORK, ReadyProbe::Socket(layout::NETWORK_SOCKET.to_owned())), (AGENT, ReadyProbe::Started)];
    for (name, ready) in own {
        let profile = config.apparmor_profiles.iter().any(|path| path == PROFILES).then(|| format!("ksos-{name}"));
        all.insert(name.to_owned(), ServiceConfig { apparmor: profile, ..service(name, ready) });
    }
    if config.update.is_some() {
        // It writes to partitions, and must not be killed between two writes for want of memory before others are.
        all.insert(UPDATE.to_owned(), service(UPDATE, ReadyProbe::Started));
    }
    let names = (!problems.is_empty()).then(|| ("service names", problems.join("; ")));
    let images = problem.map(|reason| ("container-images", reason));
    Services { all, problems: names.into_iter().chain(images).collect() }
}

fn service(applet: &str, ready: ReadyProbe) -> ServiceConfig {
    ServiceConfig {
        command: vec![layout::RUNTIME_BINARY.to_owned(), applet.to_owned()],
        environment: BTreeMap::new(),
        after: Vec::new(),
        restart: RestartPolicy::Always,
        restart_delay_ms: 1000,
        restart_delay_max_ms: 30_000,
        stop_timeout_ms: 3000,
        ready,
        required: false,
        oom_score_adjust: -900,
        limit_nofile: None,
        limit_nproc: None,
        limit_core: None,
        working_directory: None,
        pre_start: Vec::new(),
        log: LogTarget::File,
        apparmor: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::config;
    use super::*;

    #[test]
    fn an_image_with_updates_has_a_process_that_looks_for_them() {
        let mut image = config();
        assert!(!services(&image).all.contains_key(UPDATE));
        image.update = Some(ksos_formats::runtime::UpdateConfig {
            board: "generic".to_owned(),
            source: None,
            channel: "stable".to_owned(),
            automatic: false,
            interval_ms: 1,
            gate_ms: 1,
            hold_ms: 1,
            windows: Vec::new(),
        });
        let found = services(&image);
        assert_eq!(found.all[UPDATE].command, [layout::RUNTIME_BINARY, "update"]);
        assert!(!found.all[UPDATE].required && found.all[UPDATE].apparmor.is_none());
    }

    #[test]
    fn they_are_there_and_their_names_are_taken() {
        let mut image = config();
        let after = ServiceConfig { after: vec![NETWORK.to_owned()], ..service("x", ReadyProbe::Started) };
        image.services.insert("app".to_owned(), after);
        let found = services(&image);
        assert_eq!(found.all.keys().collect::<Vec<_>>(), ["agent", "app", "network"]);
        assert!(found.problems.is_empty());
        assert_eq!(found.all["app"].after, ["network"]);
        let mine = ServiceConfig { command: vec!["/mine".to_owned()], ..service("x", ReadyProbe::Started) };
        for name in ["network", "init"] {
            image.services.insert(name.to_owned(), mine.clone());
        }
        let found = services(&image);
        assert_eq!(found.all["network"].command, [layout::RUNTIME_BINARY, "network"]);
        assert!(!found.all.contains_key("init"));
        let expected = "service network of the image is not started: the name belongs to the node's own network process; \
            service init of the image is not started: the name belongs to PID 1";
        assert_eq!(found.problems, [("service names", expected.to_owned())]);
    }
}
