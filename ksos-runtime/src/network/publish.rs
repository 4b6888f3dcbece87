//! What the process tells others: the status document, `resolv.conf`, and to itself who may be asked for the time.

use std::net::IpAddr;

use ksos_formats::layout;

use super::daemon::Daemon;
use super::fallback;
use super::netlink::{Address, AddressOrigin, Route};
use super::port::{Port, parse_prefix};
use super::resolv::Resolvers;
use super::sntp::DEFAULT_SERVERS;
use super::status::{AddressStatus, DefaultRoute, FORMAT, InterfaceStatus, LeaseStatus, NetworkStatus, Origin};
use crate::sys::Sys;

/// Most time servers that are asked.
const TIME_SERVERS: usize = 8;
/// Largest `resolv.conf` that is compared, in bytes.
const RESOLV_LIMIT: u64 = 64 << 10;

/// What was written last.
#[derive(Debug, Default)]
pub struct Published {
    status: Vec<u8>,
    resolv: Option<Vec<u8>>,
}

impl Published {
    /// Reads what a process before this one wrote.
    pub fn read(sys: &dyn Sys) -> Self {
        Published { status: Vec::new(), resolv: sys.read(layout::RESOLV_CONF, RESOLV_LIMIT).ok() }
    }
}

impl Daemon<'_> {
    /// Writes what changed.
    pub(super) fn publish(&mut self) {
        let routes = match self.netlink.default_routes() {
            Ok(routes) => routes,
            Err(error) => return self.problem("netlink", Some(error.to_string())),
        };
        self.fall_back(&routes);
        let route = self.best_route(&routes);
        self.publish_resolvers();
        let servers = if self.online().0 { self.time_servers(route.is_some()) } else { Vec::new() };
        self.clock_servers(servers);
        let Ok(text) = serde_json::to_vec(&self.status(route)) else { return };
        if text != self.published.status {
            // `/run` is memory; without the document the network still works.
            let result = self.sys.replace(layout::NETWORK_STATUS, &text, 0o644);
            self.problem("status", result.err().map(|error| error.to_string()));
            self.published.status = text;
        }
    }

    /// Writes `resolv.conf` when it changed or is not there.
    pub(super) fn publish_resolvers(&mut self) {
        let text = self.resolvers().text().into_bytes();
        if self.published.resolv.as_ref() == Some(&text) {
            return;
        }
        let result = self.sys.replace(layout::RESOLV_CONF, &text, 0o644);
        self.problem("resolv.conf", result.err().map(|error| error.to_string()));
        self.published.resolv = Some(text);
    }

    /// Claimed interfaces in the order of their metrics.
    fn ordered(&self) -> Vec<&Port> {
        let mut ports: Vec<&Port> = self.ports.values().collect();
        ports.sort_unstable_by_key(|port| port.claim.metric);
        ports
    }

    /// Name servers of the node, then of each interface: its configuration's, then its lease's.
    fn resolvers(&self) -> Resolvers {
        let (mut servers, mut search) = (self.config.network.nameservers.clone(), self.config.network.search.clone());
        for entry in self.ordered().iter().filter_map(|port| self.entries.get(port.claim.entry)) {
            servers.extend(&entry.nameservers);
            search.extend(entry.search.iter().cloned());
        }
        for lease in self.ordered().iter().filter_map(|port| port.applied.as_ref()) {
            servers.extend(lease.nameservers.iter().map(|server| IpAddr::from(*server)));
            search.extend(lease.search.iter().cloned());
        }
        Resolvers::collect(servers, search)
    }

    /// Time servers of the configuration, then of the leases; without any, and with a way out, the default pool.
    fn time_servers(&self, way_out: bool) -> Vec<String> {
        let mut servers = self.config.ntp.servers.clone();
        for lease in self.ordered().iter().filter_map(|port| port.applied.as_ref()) {
            servers.extend(lease.time_servers.iter().map(ToString::to_string));
        }
        if servers.is_empty() && way_out {
            servers = DEFAULT_SERVERS.map(str::to_owned).to_vec();
        }
        servers.truncate(TIME_SERVERS);
        servers
    }

    fn best_route(&self, routes: &[Route]) -> Option<DefaultRoute> {
        let name = |index: u32| self.links.iter().find(|link| link.index == index).map(|link| link.name.clone());
        let real = routes.iter().filter_map(|route| Some((name(route.index)?, route)));
        let (interface, route) =
            real.filter(|(name, _)| name != fallback::NAME).min_by_key(|(_, route)| route.metric)?;
        Some(DefaultRoute { interface, gateway: route.via, metric: route.metric })
    }

    /// Whether others can reach the node, and why or why not.
    fn online(&self) -> (bool, String) {
        let ports = self.ordered();
        for port in ports.iter().filter(|port| port.link.carrier) {
            let reachable = |address: &&Address| {
                address.index == port.link.index && !matches!(self.origin(port, address), Origin::LinkLocal)
            };
            if let Some(address) = self.addresses.iter().find(reachable) {
                return (true, format!("{} has {}", port.link.name, address.address));
            }
        }
        let reason = match ports.iter().find(|port| port.link.carrier) {
            _ if ports.is_empty() => "there is no interface that the configuration claims".to_owned(),
            None => "no interface has a carrier".to_owned(),
            Some(port) => format!("{} has no address yet", port.link.name),
        };
        (false, reason)
    }

    fn origin(&self, port: &Port, address: &Address) -> Origin {
        let own = (address.address, address.prefix);
        let entry = self.entries.get(port.claim.entry);
        let stated = entry.is_some_and(|entry| entry.addresses.iter().any(|text| parse_prefix(text) == Some(own)));
        let leased = port.applied.as_ref().is_some_and(|lease| own == (lease.address.into(), lease.prefix));
        let link_local = matches!(address.address, IpAddr::V4(address) if address.is_link_local());
        match address.origin {
            _ if leased => Origin::Dhcp,
            _ if stated => Origin::Static,
            AddressOrigin::LinkLocal => Origin::LinkLocal,
            _ if link_local => Origin::LinkLocal,
            AddressOrigin::Advertised => Origin::Ra,
            AddressOrigin::Set => Origin::Other,
        }
    }

    fn interface_status(&self, port: &Port) -> InterfaceStatus {
        let link = &port.link;
        let of_link = self.addresses.iter().filter(|address| address.index == link.index);
        let address = |address: &Address| AddressStatus {
            address: address.address,
            prefix: address.prefix,
            origin: self.origin(port, address),
        };
        let entry = self.entries.get(port.claim.entry);
        let stated = entry.and_then(|entry| {
            let default = |route: &&ksos_formats::config::Route| {
                route.via.is_ipv4() && parse_prefix(&route.to).is_some_and(|(_, prefix)| prefix == 0)
            };
            entry.routes.iter().find(default).map(|route| route.via)
        });
        let lease = port.applied.as_ref();
        InterfaceStatus {
            name: link.name.clone(),
            mac: link.mac(),
            up: link.up,
            carrier: link.carrier,
            mtu: link.mtu,
            id: entry.filter(|_| !self.config.network.interfaces.is_empty()).map(|entry| entry.id.clone()),
            dhcp: port.client.as_ref().map(|client| client.state_name().to_owned()),
            addresses: of_link.map(address).collect(),
            gateway: stated.or_else(|| lease.and_then(|lease| lease.gateway()).map(IpAddr::from)),
            lease: lease.map(|lease| LeaseStatus {
                server: lease.server.into(),
                seconds: lease.seconds,
                expires_ms: port.client.as_ref().and_then(|client| client.expires_ms()),
            }),
        }
    }

    fn status(&self, default_route: Option<DefaultRoute>) -> NetworkStatus {
        let (online, reason) = self.online();
        let Resolvers { nameservers, search } = self.resolvers();
        let problems = self.problems.iter().map(|(subject, reason)| format!("{subject}: {reason}"));
        NetworkStatus {
            format: FORMAT,
            online,
            reason,
            ready: self.ready,
            interfaces: self.ordered().into_iter().map(|port| self.interface_status(port)).collect(),
            default_route,
            fallback: self.links.iter().any(|link| link.name == fallback::NAME),
            nameservers,
            search,
            time: self.clock.status().clone(),
            problems: problems.collect(),
        }
    }
}
