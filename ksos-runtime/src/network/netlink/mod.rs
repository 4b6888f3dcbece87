//! Interfaces, addresses and routes of the kernel, by rtnetlink(7).
//!
//! - `message`: bytes.
//! - [`Netlink`]: requests, each answered before the next.
//! - [`Monitor`]: tells that something changed; what it is, a request finds out. Lost announcements cost nothing.

pub mod message;
pub mod types;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use message::{Request, kernel, messages, nested, number};
pub use types::{Address, AddressOrigin, Link, Route};

/// `RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR` (`include/uapi/linux/rtnetlink.h`).
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// Room for one read of a dump: "the kernel ... at least 8192 bytes, 32 KiB for large dumps" (netlink(7), libmnl).
const BUFFER: usize = 32 << 10;
/// Seconds without an answer after which a request failed. The kernel answers at once, or after loading a module.
const ANSWER_S: u64 = 20;
/// An interface without flags changes.
const IFF_UP: u32 = 1;

/// A failed request.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {source}")]
pub struct NetlinkError {
    /// What was asked, with its object, e.g. `set eth0 up`.
    pub action: String,
    /// The kernel's reason.
    pub source: io::Error,
}

impl NetlinkError {
    /// Returns whether the object is there already.
    pub fn is_present(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EEXIST)
    }
}

/// A socket for requests.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A socket for announcements.
#[derive(Debug)]
pub struct Monitor {
    socket: OwnedFd,
}

fn open(groups: u32, flags: SocketFlags) -> Result<OwnedFd, NetlinkError> {
    let open = || -> io::Result<OwnedFd> {
        // Protocol 0 is `NETLINK_ROUTE`.
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(socket)
    };
    open().map_err(|source| NetlinkError { action: "open a netlink socket".to_owned(), source })
}

impl Monitor {
    /// Begins to listen.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Monitor { socket: open(GROUPS, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)? })
    }

    /// Takes all announcements there are.
    pub fn drain(&self) {
        let mut buffer = vec![0; BUFFER];
        // Also after ENOBUFS, which says that some were lost.
        while matches!(
            rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()),
            Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR)
        ) {}
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Netlink {
    /// Opens the socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = open(0, SocketFlags::CLOEXEC)?;
        let limit = std::time::Duration::from_secs(ANSWER_S);
        // Without the limit a lost answer would be waited for; it is an extra.
        let _ = rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(limit));
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Returns all interfaces.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        // `IFLA_EXT_MASK` with `RTEXT_FILTER_SKIP_STATS`: no counters.
        let request = Request::new(kernel::GETLINK, kernel::DUMP, &[0; 16]).with_number(29, 8);
        self.dump("list interfaces", request, Link::read)
    }

    /// Returns all addresses.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        self.dump("list addresses", Request::new(kernel::GETADDR, kernel::DUMP, &[0; 8]), Address::read)
    }

    /// Returns the default routes of the main table, IPv4.
    pub fn default_routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut fixed = [0; 12];
        fixed[0] = libc::AF_INET as u8;
        let routes = self.dump("list routes", Request::new(kernel::GETROUTE, kernel::DUMP, &fixed), Route::read)?;
        Ok(routes.into_iter().filter(Route::is_default).collect())
    }

    /// Sets an interface up, with this MTU where one is stated.
    pub fn set_up(&mut self, link: &Link, mtu: Option<u32>) -> Result<(), NetlinkError> {
        let mut request = Request::new(kernel::NEWLINK, kernel::ACK, &link_header(link.index, IFF_UP, IFF_UP));
        if let Some(mtu) = mtu {
            request = request.with_number(4, mtu);
        }
        let mtu = mtu.map_or(String::new(), |mtu| format!(" with MTU {mtu}"));
        self.execute(&format!("set {} up{mtu}", link.name), request)
    }

    /// Creates a VLAN on an interface. The kernel loads the module by the alias `rtnl-link-vlan`.
    pub fn add_vlan(&mut self, name: &str, parent: &Link, vlan: u16) -> Result<(), NetlinkError> {
        let data = nested(&[(1, &vlan.to_ne_bytes())]);
        let info = nested(&[(1, b"vlan\0"), (2 | kernel::NESTED, &data)]);
        let flags = kernel::ACK | kernel::CREATE | kernel::EXCLUSIVE;
        let request = Request::new(kernel::NEWLINK, flags, &link_header(0, 0, 0))
            .with_number(5, parent.index)
            .with_text(3, name)
            .with(18 | kernel::NESTED, &info);
        self.execute(&format!("create {name} as VLAN {vlan} on {}", parent.name), request)
    }

    /// Creates an interface that goes nowhere. The kernel loads the module by the alias `rtnl-link-dummy`.
    pub fn add_dummy(&mut self, name: &str) -> Result<(), NetlinkError> {
        let info = nested(&[(1, b"dummy\0")]);
        let flags = kernel::ACK | kernel::CREATE | kernel::EXCLUSIVE;
        let request = Request::new(kernel::NEWLINK, flags, &link_header(0, 0, 0))
            .with_text(3, name)
            .with(18 | kernel::NESTED, &info);
        self.execute(&format!("create {name}"), request)
    }

    /// Adds an address, or sets anew how long it is valid, in seconds (`None`: for ever), and the metric of the route to its
    /// network.
    pub fn set_address(
        &mut self,
        link: &Link,
        (address, prefix): (IpAddr, u8),
        valid_s: Option<u32>,
        metric: u32,
    ) -> Result<(), NetlinkError> {
        let octets = octets(address);
        let mut request = Request::new(
            kernel::NEWADDR,
            kernel::ACK | kernel::CREATE | kernel::REPLACE,
            &address_header(link, address, prefix),
        );
        request = request.with(2, &octets).with(1, &octets).with_number(9, metric);
        if let Some(broadcast) = broadcast(address, prefix) {
            request = request.with(4, &octets_of_v4(broadcast));
        }
        let valid = valid_s.unwrap_or(u32::MAX).to_ne_bytes();
        // `struct ifa_cacheinfo`: preferred, valid, and two times of the kernel's own.
        let request = request.with(6, &[valid, valid, [0; 4], [0; 4]].concat());
        self.execute(&format!("set address {address}/{prefix} of {}", link.name), request)
    }

    /// Removes an address.
    pub fn remove_address(&mut self, link: &Link, (address, prefix): (IpAddr, u8)) -> Result<(), NetlinkError> {
        let request = Request::new(kernel::DELADDR, kernel::ACK, &address_header(link, address, prefix));
        let request = request.with(2, &octets(address));
        self.execute(&format!("remove address {address}/{prefix} of {}", link.name), request)
    }

    /// Adds a route, or replaces the one with the same destination and metric.
    pub fn set_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let flags = kernel::ACK | kernel::CREATE | kernel::REPLACE;
        self.execute(&format!("set route {route}"), route.request(kernel::NEWROUTE, flags))
    }

    /// Removes a route.
    pub fn remove_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.execute(&format!("remove route {route}"), route.request(kernel::DELROUTE, kernel::ACK))
    }

    fn execute(&mut self, action: &str, request: Request) -> Result<(), NetlinkError> {
        let failed = |source| NetlinkError { action: action.to_owned(), source };
        self.exchange(request, |_| ()).map(|_: Vec<()>| ()).map_err(failed)
    }

    fn dump<T>(
        &mut self,
        action: &str,
        request: Request,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let failed = |source| NetlinkError { action: action.to_owned(), source };
        let all = self.exchange(request, read).map_err(failed)?;
        Ok(all.into_iter().flatten().collect())
    }

    /// Sends a request and reads answers up to the one that says that it is done.
    fn exchange<T>(&mut self, request: Request, read: impl Fn(&[u8]) -> T) -> io::Result<Vec<T>> {
        self.sequence = self.sequence.wrapping_add(1);
        rustix::net::send(&self.socket, &request.finish(self.sequence), SendFlags::empty())?;
        let (mut found, mut buffer) = (Vec::new(), vec![0; BUFFER]);
        loop {
            let count = match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((count, _)) => count,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let bytes = buffer.get(..count).unwrap_or(&[]);
            for message in messages(bytes).filter(|message| message.sequence == self.sequence) {
                match message.kind {
                    kernel::DONE => return Ok(found),
                    // `struct nlmsgerr`: a negative error number, 0 for success.
                    kernel::ERROR => match number(message.payload, 0).map(|code| (code as i32).wrapping_neg()) {
                        Some(0) => return Ok(found),
                        code => return Err(io::Error::from_raw_os_error(code.unwrap_or(libc::EBADMSG))),
                    },
                    _ => found.push(read(message.payload)),
                }
            }
        }
    }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), change.to_ne_bytes()].concat()
}

/// `struct ifaddrmsg`.
fn address_header(link: &Link, address: IpAddr, prefix: u8) -> Vec<u8> {
    let mut header = vec![types::family(address), prefix, 0, 0];
    header.extend(link.index.to_ne_bytes());
    header
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn octets_of_v4(address: std::net::Ipv4Addr) -> Vec<u8> {
    address.octets().to_vec()
}

/// Returns the broadcast address of an IPv4 network that has one.
fn broadcast(address: IpAddr, prefix: u8) -> Option<std::net::Ipv4Addr> {
    let IpAddr::V4(address) = address else { return None };
    let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    (prefix < 31).then(|| std::net::Ipv4Addr::from(u32::from(address) | host_bits))
}
