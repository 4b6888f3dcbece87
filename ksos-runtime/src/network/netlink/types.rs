//! Interfaces, addresses and routes as the kernel describes them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::message::{Request, attributes, number, text};
use super::octets;

/// `RT_TABLE_MAIN`, `RT_SCOPE_*`, `RTN_UNICAST`, `RTNH_F_ONLINK` (`include/uapi/linux/rtnetlink.h`).
const TABLE_MAIN: u8 = 254;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const UNICAST: u8 = 1;
const ONLINK: u32 = 4;
/// `IFF_UP`, `IFF_LOOPBACK`, `IFF_LOWER_UP` (`include/uapi/linux/if.h`).
const FLAG_UP: u32 = 1;
const FLAG_LOOPBACK: u32 = 8;
const FLAG_LOWER_UP: u32 = 1 << 16;
/// `ARPHRD_ETHER` (`include/uapi/linux/if_arp.h`).
const ETHERNET: u16 = 1;
/// `IFA_F_PERMANENT` (`include/uapi/linux/if_addr.h`).
const PERMANENT: u32 = 0x80;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Number.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address; `None` unless it has six bytes.
    pub hardware: Option<[u8; 6]>,
    /// Whether it is an Ethernet interface and not loopback.
    pub ethernet: bool,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether there is a link.
    pub carrier: bool,
    /// How often the link went away.
    pub losses: u32,
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
    /// Kind, e.g. `vlan`, `veth`; hardware has none.
    pub kind: Option<String>,
    /// The interface that it is part of (a bridge, a bond, the other half of a virtual function).
    pub master: Option<u32>,
    /// Of a VLAN: the interface below and the identifier.
    pub vlan: Option<(u32, u16)>,
}

impl Link {
    /// Reads `struct ifinfomsg` and its attributes.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let kind = super::message::short(payload, 2)?;
        let flags = number(payload, 8)?;
        let mut link = Link {
            index: number(payload, 4)?,
            ethernet: kind == ETHERNET && flags & FLAG_LOOPBACK == 0,
            up: flags & FLAG_UP != 0,
            carrier: flags & FLAG_UP != 0 && flags & FLAG_LOWER_UP != 0,
            ..Link::default()
        };
        let (mut lower, mut identifier) = (0, None);
        for (kind, value) in attributes(payload, 16) {
            match kind {
                1 => link.hardware = value.try_into().ok(),
                3 => link.name = text(value),
                4 => link.mtu = number(value, 0)?,
                5 => lower = number(value, 0)?,
                10 => link.master = number(value, 0),
                18 => (link.kind, identifier) = read_info(value),
                48 => link.losses = number(value, 0)?,
                _ => {}
            }
        }
        link.vlan = identifier.map(|identifier| (lower, identifier));
        (!link.name.is_empty()).then_some(link)
    }

    /// Returns the hardware address as people write it.
    pub fn mac(&self) -> String {
        let parts = self.hardware.iter().flatten().map(|byte| format!("{byte:02x}"));
        parts.collect::<Vec<_>>().join(":")
    }
}

/// Reads `IFLA_LINKINFO`: the kind, and the identifier of a VLAN.
fn read_info(value: &[u8]) -> (Option<String>, Option<u16>) {
    let (mut kind, mut identifier) = (None, None);
    for (number, value) in attributes(value, 0) {
        match number {
            1 => kind = Some(text(value)),
            2 if kind.as_deref() == Some("vlan") => {
                let found = attributes(value, 0).find(|(number, _)| *number == 1);
                identifier = found.and_then(|(_, value)| super::message::short(value, 0));
            }
            _ => {}
        }
    }
    (kind, identifier)
}

/// Where the kernel says that an address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressOrigin {
    /// The kernel made it from the hardware address or the like, for the link.
    LinkLocal,
    /// The kernel made it from a router advertisement.
    Advertised,
    /// A process set it.
    Set,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Number of the interface.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Where it comes from.
    pub origin: AddressOrigin,
    /// How long it is valid, in seconds; `None` for ever.
    pub valid_s: Option<u32>,
}

impl Address {
    /// Reads `struct ifaddrmsg` and its attributes.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let (family, prefix) = (i32::from(*payload.first()?), *payload.get(1)?);
        let (mut flags, index) = (u32::from(*payload.get(2)?), number(payload, 4)?);
        let (mut local, mut remote, mut valid_s, mut protocol) = (None, None, None, 0);
        for (kind, value) in attributes(payload, 8) {
            match kind {
                1 => remote = read_address(family, value),
                2 => local = read_address(family, value),
                6 => valid_s = number(value, 4).filter(|seconds| *seconds != u32::MAX),
                8 => flags = number(value, 0)?,
                11 => protocol = *value.first()?,
                _ => {}
            }
        }
        let address = local.or(remote)?;
        let origin = match address {
            IpAddr::V6(address) if address.is_unicast_link_local() => AddressOrigin::LinkLocal,
            // `IFAPROT_KERNEL_RA`, or, from kernels that do not say, what no process made permanent.
            IpAddr::V6(_) if protocol == 2 || (protocol == 0 && flags & PERMANENT == 0) => AddressOrigin::Advertised,
            _ => AddressOrigin::Set,
        };
        Some(Address { index, address, prefix, origin, valid_s })
    }
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub to: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
    /// Gateway; `None` when the destination is on the link.
    pub via: Option<IpAddr>,
    /// Number of the interface.
    pub index: u32,
    /// Metric; smaller wins.
    pub metric: u32,
    /// Address that packets are sent from.
    pub source: Option<IpAddr>,
    /// Whether the gateway is on the link although no address of the interface says so.
    pub onlink: bool,
    /// `RTPROT_*`: who set it.
    pub protocol: u8,
}

/// `RTPROT_STATIC`.
pub const PROTOCOL_STATIC: u8 = 4;
/// `RTPROT_DHCP`.
pub const PROTOCOL_DHCP: u8 = 16;

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.to, self.prefix)?;
        self.via.map_or(Ok(()), |via| write!(f, " via {via}"))
    }
}

impl Route {
    /// Returns whether every destination without a better route takes it.
    pub fn is_default(&self) -> bool {
        self.prefix == 0
    }

    /// Reads `struct rtmsg` and its attributes; `None` for routes of other tables and kinds.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let [family, prefix, _, _, table, protocol, _, kind, ..] = *payload.first_chunk::<12>()?;
        if table != TABLE_MAIN || kind != UNICAST {
            return None;
        }
        let none = if i32::from(family) == libc::AF_INET { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { return None };
        let mut route = Route {
            to: none,
            prefix,
            via: None,
            index: 0,
            metric: 0,
            source: None,
            onlink: number(payload, 8)? & ONLINK != 0,
            protocol,
        };
        for (kind, value) in attributes(payload, 12) {
            match kind {
                1 => route.to = read_address(i32::from(family), value)?,
                4 => route.index = number(value, 0)?,
                5 => route.via = read_address(i32::from(family), value),
                6 => route.metric = number(value, 0)?,
                7 => route.source = read_address(i32::from(family), value),
                _ => {}
            }
        }
        Some(route)
    }

    pub(super) fn request(&self, kind: u16, flags: u16) -> Request {
        let scope = if self.via.is_none() && self.to.is_ipv4() { SCOPE_LINK } else { SCOPE_UNIVERSE };
        let mut header = vec![family(self.to), self.prefix, 0, 0, TABLE_MAIN, self.protocol, scope, UNICAST];
        header.extend(if self.onlink { ONLINK } else { 0 }.to_ne_bytes());
        let mut request = Request::new(kind, flags, &header);
        if self.prefix > 0 {
            request = request.with(1, &octets(self.to));
        }
        if let Some(via) = self.via {
            request = request.with(5, &octets(via));
        }
        if let Some(source) = self.source {
            request = request.with(7, &octets(source));
        }
        request.with_number(4, self.index).with_number(6, self.metric)
    }
}

/// Returns the address family of an address.
pub(super) fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

fn read_address(family: i32, value: &[u8]) -> Option<IpAddr> {
    match family {
        libc::AF_INET => Some(<[u8; 4]>::try_from(value).ok()?.into()),
        libc::AF_INET6 => Some(<[u8; 16]>::try_from(value).ok()?.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{kernel, messages};
    use super::*;

    #[test]
    fn routes_are_read_as_they_are_written() {
        let route = Route {
            to: Ipv4Addr::UNSPECIFIED.into(),
            prefix: 0,
            via: Some(Ipv4Addr::new(10, 0, 0, 1).into()),
            index: 3,
            metric: 100,
            source: Some(Ipv4Addr::new(10, 0, 0, 9).into()),
            onlink: true,
            protocol: PROTOCOL_DHCP,
        };
        let bytes = route.request(kernel::NEWROUTE, 0).finish(1);
        let message = messages(&bytes).next().expect("a message");
        assert_eq!(Route::read(message.payload), Some(route.clone()));
        assert_eq!(route.to_string(), "0.0.0.0/0 via 10.0.0.1");
    }

    #[test]
    fn truncated_descriptions_are_none_or_less() {
        let bytes: Vec<u8> = (0..=255).collect();
        for length in 0..bytes.len() {
            Link::read(&bytes[..length]);
            Address::read(&bytes[..length]);
            Route::read(&bytes[..length]);
        }
        assert_eq!(Link::read(&[0; 15]), None);
        assert_eq!(Address::read(&[2; 7]), None);
        assert_eq!(Route::read(&[2; 11]), None);
    }

    #[test]
    fn the_kernels_own_interfaces_are_read() {
        let mut netlink = super::super::Netlink::open().expect("a socket");
        let links = netlink.links().expect("interfaces");
        let loopback = links.iter().find(|link| link.name == "lo").expect("loopback");
        assert!(!loopback.ethernet && loopback.mtu > 0 && loopback.kind.is_none());
        let addresses = netlink.addresses().expect("addresses");
        if loopback.up {
            let own = addresses.iter().find(|address| address.index == loopback.index && address.address.is_ipv4());
            assert_eq!(own.map(|own| (own.address.to_string(), own.prefix)), Some(("127.0.0.1".to_owned(), 8)));
        }
        netlink.default_routes().expect("routes");
    }
}
