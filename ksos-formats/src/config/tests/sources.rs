//! The kernel command line, and which source wins.

use super::*;

fn cmdline(text: &str) -> (Document, Vec<String>) {
    let words = text.split_ascii_whitespace();
    from_cmdline(words.map(|word| word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)))))
}

/// Reads parameters that must be good.
#[track_caller]
fn parameters(text: &str) -> Document {
    let (document, warnings) = cmdline(text);
    assert_eq!(warnings, Vec::<String>::new());
    document
}

fn merged(default: &str, found: &str, network: &str, line: &str) -> Resolved {
    let network = (!network.is_empty()).then(|| parse_network_config(network).unwrap().network);
    resolve(Some(&good(default)), Some(&good(found)), network.as_ref(), &parameters(line))
}

#[test]
fn parameters_are_read_and_others_are_passed_over() {
    let document = parameters(
        "console=ttyS0 ksos.slot=a quiet ksos.hostname=edge-9 ksos.address=10.0.0.9/24 ksos.gateway=10.0.0.1 \
         ksos.dns=10.0.0.1,1.1.1.1 ksos.interface=eth1 ksos.mtu=1400 ksos.vlan=5 kubesolo.debug \
         kubesolo.local-storage=false kubesolo.edge_id=id kubesolo.edge_key=key kubesolo.edge_async=1 \
         kubesolo.apiserver-extra-sans=a.example,10.0.0.9 kubesolo.system_reserved=memory=200Mi,cpu=100m",
    );
    assert_eq!(document.hostname.as_deref(), Some("edge-9"));
    let Some(NetworkDocument::Simple(network)) = document.network else { panic!("simple") };
    assert_eq!((network.mode, network.address.as_deref()), (Some(Mode::Static), Some("10.0.0.9/24")));
    assert_eq!((network.interface.as_deref(), network.mtu, network.vlan), (Some("eth1"), Some(1400), Some(5)));
    assert_eq!(network.dns.unwrap().len(), 2);
    let flags = serde_json::to_value(&document.kubesolo).unwrap();
    let expected = serde_json::json!({
        "debug": true, "local-storage": false, "portainer-edge-id": "id", "portainer-edge-key": "key",
        "portainer-edge-async": true, "apiserver-extra-sans": ["a.example", "10.0.0.9"],
        "system-reserved": {"cpu": "100m", "memory": "200Mi"},
    });
    assert_eq!(flags, expected);
}

#[test]
fn parameters_that_have_no_effect_are_named() {
    let (document, warnings) = cmdline(
        "ksos.hostname=Edge ksos.address=10.0.0.9 ksos.mtu=big ksos.vlan kubesolo.debg=1 kubesolo.debug=maybe \
         kubesolo.node-ip= kubesolo.system-reserved=disk=1",
    );
    assert_eq!(document, Document::default());
    for expected in [
        "kernel parameter ksos.hostname: expected a host name",
        "kernel parameter ksos.address: expected an IP address with prefix length",
        "kernel parameter ksos.mtu: expected a number from 576 to 65535; ignored",
        "kernel parameter ksos.vlan: it has no value; ignored",
        "kernel parameter kubesolo.debg: KubeSolo has no such flag, did you mean kubesolo.debug?; ignored",
        "kernel parameter kubesolo.debug: expected true or false; ignored",
        "kernel parameter kubesolo.node-ip: it has no value; ignored",
        "kernel parameter kubesolo.system-reserved: expected cpu, memory",
    ] {
        assert!(warnings.iter().any(|warning| warning.starts_with(expected)), "{expected}: {warnings:#?}");
    }
    assert_eq!(warnings.len(), 8);
}

#[test]
fn the_last_parameter_of_a_name_wins() {
    assert_eq!(parameters("ksos.hostname=a ksos.hostname=b").hostname.as_deref(), Some("b"));
}

#[test]
fn every_flag_of_kubesolo_is_a_parameter() {
    for key in super::super::kubesolo::KUBESOLO.keys {
        let (_, warnings) = cmdline(&format!("kubesolo.{}", key.name));
        assert!(warnings.iter().all(|warning| warning.contains("it has no value")), "{}: {warnings:?}", key.name);
    }
}

#[test]
fn each_key_comes_from_the_highest_source_that_states_it() {
    let resolved = merged(
        "hostname: image\nntp: {servers: [a.example]}\nmetrics: {listen: ':1'}\nkubesolo: {debug: true, mtu: 1400}\nkubeconfig: {enabled: true}\n",
        "hostname: found\nmetrics: {enabled: false}\nkubesolo: {mtu: 1300, load-balancer: false}\nssh_authorized_keys: []\n",
        "",
        "ksos.hostname=line kubesolo.load-balancer=true",
    );
    assert_eq!(resolved.warnings, Vec::<String>::new());
    let config = resolved.config;
    assert_eq!(config.hostname.as_deref(), Some("line"));
    assert_eq!(config.ntp.servers, ["a.example"]);
    assert_eq!((config.metrics.enabled, config.metrics.listen.as_str()), (false, ":1"));
    let flags = serde_json::to_value(&config.kubesolo).unwrap();
    assert_eq!(flags, serde_json::json!({ "debug": true, "mtu": 1300, "load-balancer": true }));
    assert_eq!((config.kubeconfig.enabled, config.kubeconfig.duration_s), (true, 600));
}

#[test]
fn nothing_stated_is_the_default() {
    let resolved = resolve(None, None, None, &Document::default());
    assert_eq!(resolved, Resolved { config: NodeConfig::default(), warnings: Vec::new() });
}

#[test]
fn the_effective_configuration_survives_json() {
    let config = merged("", include_str!("../../../../examples/cloud-init/full.yaml"), "", "").config;
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<NodeConfig>(&json).unwrap(), config);
}

#[test]
fn networks_merge_key_by_key() {
    let found = "network: {interface: eth0, address: 10.0.0.5/24, gateway: 10.0.0.1, dns: [10.0.0.1]}\n";
    let interface = |resolved: &Resolved| resolved.config.network.interfaces[0].clone();

    let moved = merged("", found, "", "ksos.address=10.0.0.6/24");
    assert_eq!((interface(&moved).addresses, interface(&moved).routes.len()), (vec!["10.0.0.6/24".to_owned()], 1));
    assert_eq!(moved.warnings, Vec::<String>::new());

    let elsewhere = merged("", found, "", "ksos.address=192.0.2.6/24");
    assert_eq!(interface(&elsewhere).routes, []);
    assert_eq!(
        elsewhere.warnings,
        ["network: the gateway 10.0.0.1 of a lower source does not fit the address; ignored"]
    );

    let rescued = merged("", found, "", "ksos.address=dhcp");
    assert!(
        interface(&rescued).dhcp4 && interface(&rescued).addresses.is_empty() && interface(&rescued).routes.is_empty()
    );
    assert_eq!(rescued.config.network.nameservers.len(), 1);

    let lonely = merged("", "", "", "ksos.gateway=10.0.0.1");
    assert_eq!(lonely.config.network, Network::default());
    assert_eq!(lonely.warnings, ["network: the gateway 10.0.0.1 has no address to go with it; ignored"]);
}

#[test]
fn a_mode_of_a_higher_source_takes_no_address_from_below() {
    let default = "network: {address: 10.0.0.5/24, gateway: 10.0.0.1}\n";
    let network = merged(default, "network: {mode: dhcp}\n", "", "").config.network;
    assert_eq!(network, Network::default());
}

#[test]
fn version_2_is_one_value_but_for_name_servers() {
    let lower = "version: 2\nethernets: {eth0: {addresses: [10.0.0.5/24]}}\n";
    let with_dns = merged("", "network: {dns: [9.9.9.9]}\n", lower, "").config.network;
    assert_eq!((with_dns.interfaces.len(), with_dns.nameservers.len()), (1, 1));
    assert_eq!(with_dns.interfaces[0].addresses, ["10.0.0.5/24"]);
    let replaced = merged("", "network: {mode: dhcp, mtu: 1400}\n", lower, "").config.network;
    assert!(replaced.interfaces[0].dhcp4 && replaced.interfaces[0].addresses.is_empty());
    let from_image = merged("network: {address: 10.9.0.1/8}\n", "", lower, "").config.network;
    assert_eq!(from_image.interfaces[0].addresses, ["10.0.0.5/24"]);
}

#[test]
fn half_of_the_edge_credentials_is_warned_about() {
    let half = merged("", "kubesolo: {portainer-edge-id: a}\n", "", "");
    assert!(
        half.warnings[0].contains("kubesolo.portainer-edge-key is not: no Edge agent is deployed"),
        "{:?}",
        half.warnings
    );
    assert_eq!(
        merged("", "kubesolo: {portainer-edge-id: a}\n", "", "kubesolo.edge_key=b").warnings,
        Vec::<String>::new()
    );
}
