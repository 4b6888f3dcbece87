//! Merges the sources into the effective configuration.
//!
//! Key by key, the higher source wins: the kernel command line, then the document that was found, then the network
//! configuration found beside it, then the image's default. A list is one value: the higher one replaces the lower one.
//! Of KubeSolo's flags and of the simple network form each key counts by itself; network configuration version 2 is
//! one value.

use super::Resolved;
use super::document::{Document, Mode, NetworkDocument, SimpleNetwork};
use super::network::gateway_fault;
use super::types::{
    CaCertificates, Interface, InterfaceKind, KubeSolo, KubeconfigAccess, Match, Metrics, Network, NodeConfig, Ntp,
    Route,
};

/// Identifier of the interface of the simple form when it has no name.
const SIMPLE_ID: &str = "ethernet";

/// Merges the sources key by key: the command line over the document found, over the network configuration found
/// beside it (NoCloud), over the image's default.
pub fn resolve(
    default: Option<&Document>,
    found: Option<&Document>,
    network_config: Option<&NetworkDocument>,
    cmdline: &Document,
) -> Resolved {
    let sources: Vec<&Document> = [Some(cmdline), found, default].into_iter().flatten().collect();
    let mut warnings = Vec::new();
    let mut networks = vec![cmdline.network.as_ref(), found.and_then(|found| found.network.as_ref()), network_config];
    networks.push(default.and_then(|default| default.network.as_ref()));
    let config = NodeConfig {
        hostname: first(&sources, |source| source.hostname.as_ref()),
        network: network(networks.into_iter().flatten(), &mut warnings),
        ntp: Ntp {
            enabled: first(&sources, |source| source.ntp.enabled.as_ref()).unwrap_or(true),
            servers: first(&sources, |source| source.ntp.servers.as_ref()).unwrap_or_default(),
        },
        kubesolo: flags(&sources, &mut warnings),
        ssh_authorized_keys: first(&sources, |source| source.ssh_authorized_keys.as_ref()).unwrap_or_default(),
        write_files: first(&sources, |source| source.write_files.as_ref()).unwrap_or_default(),
        ca_certs: CaCertificates {
            trusted: first(&sources, |source| source.ca_certs.trusted.as_ref()).unwrap_or_default(),
            remove_defaults: first(&sources, |source| source.ca_certs.remove_defaults.as_ref()).unwrap_or(false),
        },
        metrics: metrics(&sources),
        kubeconfig: kubeconfig(&sources),
        updates: super::updates::merge(&sources),
    };
    Resolved { config, warnings }
}

/// Returns the value of the first source that states it.
fn first<T: Clone>(sources: &[&Document], value: impl Fn(&Document) -> Option<&T>) -> Option<T> {
    sources.iter().find_map(|source| value(source)).cloned()
}

fn metrics(sources: &[&Document]) -> Metrics {
    let default = Metrics::default();
    Metrics {
        enabled: first(sources, |source| source.metrics.enabled.as_ref()).unwrap_or(default.enabled),
        listen: first(sources, |source| source.metrics.listen.as_ref()).unwrap_or(default.listen),
    }
}

fn kubeconfig(sources: &[&Document]) -> KubeconfigAccess {
    let default = KubeconfigAccess::default();
    KubeconfigAccess {
        enabled: first(sources, |source| source.kubeconfig.enabled.as_ref()).unwrap_or(default.enabled),
        listen: first(sources, |source| source.kubeconfig.listen.as_ref()).unwrap_or(default.listen),
        duration_s: first(sources, |source| source.kubeconfig.duration_s.as_ref()).unwrap_or(default.duration_s),
        fetches: first(sources, |source| source.kubeconfig.fetches.as_ref()).unwrap_or(default.fetches),
        token: first(sources, |source| source.kubeconfig.token.as_ref()),
    }
}

fn flags(sources: &[&Document], warnings: &mut Vec<String>) -> KubeSolo {
    let mut merged = KubeSolo::default();
    for source in sources.iter().rev() {
        merged.flags.extend(source.kubesolo.flags.clone());
    }
    // KubeSolo deploys the agent only when both are there, and says nothing otherwise.
    for (one, other) in [("portainer-edge-id", "portainer-edge-key"), ("portainer-edge-key", "portainer-edge-id")] {
        if merged.flags.contains_key(one) && !merged.flags.contains_key(other) {
            warnings.push(format!("kubesolo.{one} is stated and kubesolo.{other} is not: no Edge agent is deployed"));
        }
    }
    merged
}

/// Merges networks, the highest first.
fn network<'a>(networks: impl Iterator<Item = &'a NetworkDocument>, warnings: &mut Vec<String>) -> Network {
    let mut simple = SimpleNetwork::default();
    for network in networks {
        match network {
            NetworkDocument::Simple(lower) => simple = merge(simple, lower, warnings),
            // Name servers alone are added to what a lower source states; anything else makes it meaningless.
            NetworkDocument::Version2(lower) if is_dns_only(&simple) => {
                return Network {
                    nameservers: simple.dns.unwrap_or_else(|| lower.nameservers.clone()),
                    search: simple.search.unwrap_or_else(|| lower.search.clone()),
                    ..lower.clone()
                };
            }
            NetworkDocument::Version2(_) => break,
        }
    }
    effective(simple, warnings)
}

fn is_dns_only(network: &SimpleNetwork) -> bool {
    let SimpleNetwork { mode, interface, address, gateway, dns: _, search: _, mtu, vlan } = network;
    mode.is_none() && interface.is_none() && address.is_none() && gateway.is_none() && mtu.is_none() && vlan.is_none()
}

/// Adds what a lower source states. A mode without addresses takes no address from below.
fn merge(higher: SimpleNetwork, lower: &SimpleNetwork, warnings: &mut Vec<String>) -> SimpleNetwork {
    let lower = lower.clone();
    let stated = higher.address.is_some();
    let mode = higher.mode.or(stated.then_some(Mode::Static)).or(lower.mode);
    let takes = !matches!(higher.mode, Some(Mode::Dhcp | Mode::Off));
    let address = higher.address.or(lower.address.filter(|_| takes));
    let inherited = lower.gateway.filter(|_| takes && higher.gateway.is_none());
    let fits = |gateway: &std::net::IpAddr| {
        address.as_ref().is_none_or(|address| gateway_fault(*gateway, std::slice::from_ref(address)).is_none())
    };
    if let Some(gateway) = inherited.filter(|gateway| !fits(gateway)) {
        warnings.push(format!("network: the gateway {gateway} of a lower source does not fit the address; ignored"));
    }
    SimpleNetwork {
        mode,
        gateway: higher.gateway.or(inherited.filter(fits)),
        address,
        interface: higher.interface.or(lower.interface),
        dns: higher.dns.or(lower.dns),
        search: higher.search.or(lower.search),
        mtu: higher.mtu.or(lower.mtu),
        vlan: higher.vlan.or(lower.vlan),
    }
}

/// Makes the simple form whole.
fn effective(mut simple: SimpleNetwork, warnings: &mut Vec<String>) -> Network {
    let mut mode = simple.mode.unwrap_or(if simple.address.is_some() { Mode::Static } else { Mode::Dhcp });
    if mode == Mode::Static && simple.address.is_none() {
        warnings.push("network: the mode is static and no source states an address; DHCP is used".to_owned());
        mode = Mode::Dhcp;
    }
    let address = simple.address.take().filter(|_| mode == Mode::Static);
    let addresses: Vec<String> = address.into_iter().collect();
    let gateway = simple.gateway.take().filter(|gateway| {
        let fault = match mode {
            Mode::Static => gateway_fault(*gateway, &addresses),
            _ => Some(format!("the gateway {gateway} has no address to go with it")),
        };
        warnings.extend(fault.iter().map(|fault| format!("network: {fault}; ignored")));
        fault.is_none()
    });
    let to = |via: &std::net::IpAddr| if via.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.to_owned();
    let routes = gateway.map(|via| Route { to: to(&via), via, metric: None }).into_iter().collect();
    Network {
        interfaces: interfaces(&simple, mode, addresses, routes),
        nameservers: simple.dns.unwrap_or_default(),
        search: simple.search.unwrap_or_default(),
        wait_ms: if mode == Mode::Off { 0 } else { Network::default().wait_ms },
    }
}

fn interfaces(simple: &SimpleNetwork, mode: Mode, addresses: Vec<String>, routes: Vec<Route>) -> Vec<Interface> {
    // DHCPv4 on every Ethernet interface, with nothing to say about them.
    if mode == Mode::Dhcp && simple.interface.is_none() && simple.mtu.is_none() && simple.vlan.is_none() {
        return Vec::new();
    }
    let hardware = Match { name: simple.interface.clone(), mac: None };
    let interface = Interface {
        id: SIMPLE_ID.to_owned(),
        kind: InterfaceKind::Ethernet(hardware),
        dhcp4: mode == Mode::Dhcp,
        accept_ra: mode != Mode::Off,
        addresses,
        routes,
        nameservers: Vec::new(),
        search: Vec::new(),
        mtu: simple.mtu,
        optional: mode == Mode::Off,
    };
    let Some(vlan) = simple.vlan else { return vec![interface] };
    let below = Interface {
        dhcp4: false,
        accept_ra: false,
        addresses: Vec::new(),
        routes: Vec::new(),
        optional: true,
        ..interface.clone()
    };
    let kind = InterfaceKind::Vlan { link: SIMPLE_ID.to_owned(), vlan };
    vec![below, Interface { id: format!("vlan{vlan}"), kind, ..interface }]
}
