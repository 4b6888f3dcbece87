//! One claimed interface: its DHCP client and sockets, and what of configuration and lease the kernel was given.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ksos_formats::config::Interface;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::dhcp::{CLIENT_PORT, Client, Lease, Listen, Message, SERVER_PORT, packet};
use super::netlink::{Link, Netlink, Route, types};
use super::plan::Claim;
use crate::sys::net;

/// Largest packet that is read, in bytes.
const PACKET: usize = 4096;
/// Packets that are read in one go, so that a flood on one interface does not starve the others.
const PACKETS_PER_WAKE: usize = 16;

/// Where the client's packets come and go.
#[derive(Debug)]
enum Socket {
    /// Whole packets, on an interface that may have no address.
    Link(OwnedFd),
    /// UDP, at the interface's address.
    Address(OwnedFd),
}

/// A claimed interface.
#[derive(Debug)]
pub struct Port {
    /// Its place in the configuration.
    pub claim: Claim,
    /// The interface as it was last seen.
    pub link: Link,
    /// Its DHCP client.
    pub client: Option<Client>,
    /// What the kernel was given of a lease.
    pub applied: Option<Lease>,
    /// Whether the kernel has the configuration's addresses.
    pub settled: bool,
    socket: Option<Socket>,
}

impl Port {
    /// Returns an interface that nothing was done to yet.
    pub fn new(claim: Claim, link: Link, client: Option<Client>) -> Self {
        Port { claim, link, client, applied: None, settled: false, socket: None }
    }

    /// Returns the name that the interface's lease is kept under: a VLAN has the hardware address of what is below it.
    pub fn lease_key(&self) -> String {
        let mac = self.link.mac().replace(':', "");
        self.link.vlan.map_or(mac.clone(), |(_, vlan)| format!("{mac}-{vlan}"))
    }

    /// Opens the socket that the client's state asks for, and closes others.
    pub fn listen(&mut self) -> io::Result<()> {
        let listens = self.client.as_ref().map_or(Listen::Nowhere, Client::listens);
        match (listens, &self.socket) {
            (Listen::Nowhere, _) => self.socket = None,
            (Listen::Link, Some(Socket::Link(_))) | (Listen::Address, Some(Socket::Address(_))) => {}
            (Listen::Link, _) => {
                self.socket = None;
                self.socket = Some(Socket::Link(net::packet_socket(self.link.index, CLIENT_PORT)?));
            }
            (Listen::Address, _) => {
                self.socket = None;
                self.socket = Some(Socket::Address(client_socket(&self.link.name)?));
            }
        }
        Ok(())
    }

    /// Returns the socket to wait on.
    pub fn waits_on(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(|socket| match socket {
            Socket::Link(socket) | Socket::Address(socket) => socket.as_fd(),
        })
    }

    /// Sends a message of the client; `server`: to that one alone.
    pub fn send(&self, server: Option<Ipv4Addr>, message: &Message) -> io::Result<()> {
        let bytes = message.encode();
        match &self.socket {
            Some(Socket::Link(socket)) => {
                net::send_on_link(socket, self.link.index, &packet::wrap(message.ciaddr, &bytes))
            }
            Some(Socket::Address(socket)) => {
                let target = SocketAddrV4::new(server.unwrap_or(Ipv4Addr::BROADCAST), SERVER_PORT);
                rustix::net::sendto(socket, &bytes, SendFlags::empty(), &target)?;
                Ok(())
            }
            None => Err(io::Error::from(io::ErrorKind::NotConnected)),
        }
    }

    /// Reads the messages that have arrived. What is no message of a DHCP server is dropped.
    pub fn receive(&self) -> Vec<Message> {
        let (mut found, mut buffer) = (Vec::new(), vec![0; PACKET]);
        for _ in 0..PACKETS_PER_WAKE {
            let payload = match &self.socket {
                Some(Socket::Link(socket)) => {
                    let Ok((count, _)) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) else { break };
                    buffer.get(..count).and_then(packet::unwrap).map(|(_, payload)| payload)
                }
                Some(Socket::Address(socket)) => {
                    match rustix::net::recvfrom(socket, &mut buffer[..], RecvFlags::empty()) {
                        Ok((count, _, sender)) => {
                            let sender = sender.and_then(|sender| SocketAddrV4::try_from(sender).ok());
                            let server = sender.is_some_and(|sender| sender.port() == SERVER_PORT);
                            buffer.get(..count).filter(|_| server)
                        }
                        // A server's host said that nobody listens there; it is asked again in time.
                        Err(rustix::io::Errno::CONNREFUSED) => None,
                        Err(_) => break,
                    }
                }
                None => break,
            };
            found.extend(payload.and_then(|payload| Message::decode(payload).ok()));
        }
        found
    }

    /// Gives the kernel the configuration's addresses and routes; returns what failed.
    pub fn configure_static(&mut self, netlink: &mut Netlink, entry: &Interface) -> Vec<String> {
        let mut failures = Vec::new();
        let addresses: Vec<(IpAddr, u8)> = entry.addresses.iter().filter_map(|text| parse_prefix(text)).collect();
        for text in entry.addresses.iter().filter(|text| parse_prefix(text).is_none()) {
            failures.push(format!("{}: {text:?} is no address with a prefix length", entry.id));
        }
        self.settled = failures.is_empty();
        for address in &addresses {
            if let Err(error) = netlink.set_address(&self.link, *address, None, self.claim.metric) {
                self.settled = false;
                failures.push(error.to_string());
            }
        }
        for route in &entry.routes {
            match self.static_route(entry, route, &addresses) {
                Ok(Some(route)) => failures.extend(netlink.set_route(&route).err().map(|error| error.to_string())),
                Ok(None) => {}
                Err(reason) => failures.push(reason),
            }
        }
        failures
    }

    /// Returns a route of the configuration as the kernel takes it; `None` while only a lease can lead to its gateway.
    fn static_route(
        &self,
        entry: &Interface,
        route: &ksos_formats::config::Route,
        addresses: &[(IpAddr, u8)],
    ) -> Result<Option<Route>, String> {
        let wrong = || format!("{}: {:?} is no network with a prefix length", entry.id, route.to);
        let (to, prefix) = parse_prefix(&route.to).ok_or_else(wrong)?;
        if to.is_ipv4() != route.via.is_ipv4() {
            return Err(format!("{}: {} is no gateway to {}", entry.id, route.via, route.to));
        }
        let link_local = matches!(route.via, IpAddr::V6(via) if via.is_unicast_link_local());
        let near = link_local || addresses.iter().any(|(own, prefix)| same_network(*own, route.via, *prefix));
        let leased = self.applied.is_some() || (entry.accept_ra && route.via.is_ipv6());
        if !near && entry.dhcp4 && !leased {
            return Ok(None);
        }
        Ok(Some(Route {
            to,
            prefix,
            via: Some(route.via),
            index: self.link.index,
            metric: route.metric.unwrap_or(self.claim.metric),
            source: None,
            onlink: !near && !leased,
            protocol: types::PROTOCOL_STATIC,
        }))
    }

    /// Gives the kernel a lease in place of the one before; returns what failed.
    pub fn apply(
        &mut self,
        netlink: &mut Netlink,
        lease: &Lease,
        valid_s: Option<u32>,
        entry: &Interface,
    ) -> Vec<String> {
        let mut failures: Vec<String> = Vec::new();
        let mut note = |result: Result<(), super::netlink::NetlinkError>| {
            failures.extend(result.err().map(|error| error.to_string()));
        };
        let mtu = lease.mtu.map(u32::from).filter(|mtu| entry.mtu.is_none() && *mtu != self.link.mtu);
        if let Some(mtu) = mtu {
            note(netlink.set_up(&self.link, Some(mtu)));
        }
        let own = (IpAddr::from(lease.address), lease.prefix);
        note(netlink.set_address(&self.link, own, valid_s, self.claim.metric));
        let routes = self.lease_routes(lease);
        for route in &routes {
            note(netlink.set_route(route));
        }
        if let Some(before) = self.applied.take() {
            for route in self.lease_routes(&before) {
                let same = |other: &&Route| (other.to, other.prefix) == (route.to, route.prefix);
                if !routes.iter().any(|other| same(&other)) {
                    // It is gone already when its address or gateway is.
                    let _ = netlink.remove_route(&route);
                }
            }
            let address = (IpAddr::from(before.address), before.prefix);
            if address != own {
                let _ = netlink.remove_address(&self.link, address);
            }
        }
        self.applied = Some(lease.clone());
        failures
    }

    /// Takes a lease back from the kernel. What is not there is as good as removed.
    pub fn withdraw(&mut self, netlink: &mut Netlink, lease: &Lease) {
        for route in self.lease_routes(lease) {
            let _ = netlink.remove_route(&route);
        }
        let _ = netlink.remove_address(&self.link, (lease.address.into(), lease.prefix));
        self.applied = None;
    }

    fn lease_routes(&self, lease: &Lease) -> Vec<Route> {
        let route = |route: &super::dhcp::lease::LeaseRoute| Route {
            to: route.to.into(),
            prefix: route.prefix,
            via: route.via.map(IpAddr::from),
            index: self.link.index,
            metric: self.claim.metric,
            source: Some(lease.address.into()),
            // A gateway beside the address's own network, as clouds with /32 have it.
            onlink: route.via.is_some_and(|via| !lease.is_on_link(via)),
            protocol: types::PROTOCOL_DHCP,
        };
        // Routes on the link first: a gateway may be behind them.
        let on_link = lease.routes.iter().filter(|route| route.via.is_none());
        let behind = lease.routes.iter().filter(|route| route.via.is_some());
        on_link.chain(behind).map(route).collect()
    }
}

/// Opens the UDP socket of a client whose interface has an address.
fn client_socket(name: &str) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    // Before bind: two interfaces may use the same port when each socket belongs to one of them.
    net::bind_to_device(&socket, name)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::sockopt::set_socket_broadcast(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT))?;
    Ok(socket)
}

/// Reads `ADDRESS/PREFIX`.
pub fn parse_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, prefix))
}

/// Tells whether two addresses share a network.
fn same_network(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let bits = |address| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
        IpAddr::V6(address) => u128::from(address),
    };
    let differ = bits(one) ^ bits(other);
    one.is_ipv4() == other.is_ipv4() && differ.leading_zeros() >= u32::from(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_networks() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(parse_prefix("192.0.2.7/24"), Some((address("192.0.2.7"), 24)));
        assert_eq!(parse_prefix("::/0"), Some((address("::"), 0)));
        for bad in ["192.0.2.7", "192.0.2.7/33", "192.0.2/24", "fe80::1%eth0/64", "::1/129", "1.2.3.4/-1", "/24", ""] {
            assert_eq!(parse_prefix(bad), None, "{bad}");
        }
        assert!(same_network(address("10.0.1.1"), address("10.0.1.254"), 24));
        assert!(!same_network(address("10.0.1.1"), address("10.0.2.1"), 24));
        assert!(same_network(address("2001:db8::1"), address("2001:db8::ffff"), 64));
        assert!(!same_network(address("10.0.1.1"), address("2001:db8::1"), 0));
    }
}
