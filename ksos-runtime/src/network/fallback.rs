//! A default route that leads nowhere, for nodes without one.
//!
//! Software of clusters picks its address from the interface of the default route and does not start without one (as
//! the air-gap chapter of k3s's documentation describes). So when the wait for the network has ended and there is no
//! IPv4 default route, a dummy interface gets an address of TEST-NET-3 (RFC 5737), which no real network has, and a
//! default route with a metric that every other route beats.
//!
//! It stays until the node restarts, also when a real default route comes: software that bound to its address keeps it,
//! and with the highest metric it takes no traffic from anybody.

use std::net::{IpAddr, Ipv4Addr};

use super::daemon::Daemon;
use super::netlink::{Link, Netlink, NetlinkError, Route, types};

/// Name of the interface.
pub const NAME: &str = "ksos-fallback";
/// Its address and the length of its prefix.
const ADDRESS: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(203, 0, 113, 254)), 31);
/// The gateway, which is not there.
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 255));
/// Metric of the route: the largest that readers with signed numbers take.
pub const METRIC: u32 = i32::MAX as u32;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Nothing was needed.
    #[default]
    None,
    /// It is there.
    Present,
    /// It could not be made, which is not tried again.
    Failed,
}

impl Daemon<'_> {
    /// Makes the interface, when there is no default route (`routes`) and the wait has ended.
    pub(super) fn fall_back(&mut self, routes: &[Route]) {
        if !self.ready || !routes.is_empty() || self.fallback != State::None {
            return;
        }
        match make(&mut self.netlink) {
            Ok(()) => {
                self.fallback = State::Present;
                self.say("network", format!("no default route: fallback to {NAME}"));
            }
            Err(error) => {
                self.fallback = State::Failed;
                self.problem(NAME, Some(error.to_string()));
            }
        }
    }
}

fn make(netlink: &mut Netlink) -> Result<(), NetlinkError> {
    match netlink.add_dummy(NAME) {
        Err(error) if !error.is_present() => return Err(error),
        _ => {}
    }
    let missing =
        || NetlinkError { action: format!("find {NAME}"), source: std::io::Error::from_raw_os_error(libc::ENODEV) };
    let link: Link = netlink.links()?.into_iter().find(|link| link.name == NAME).ok_or_else(missing)?;
    netlink.set_up(&link, None)?;
    netlink.set_address(&link, ADDRESS, None, METRIC)?;
    netlink.set_route(&Route {
        to: Ipv4Addr::UNSPECIFIED.into(),
        prefix: 0,
        via: Some(GATEWAY),
        index: link.index,
        metric: METRIC,
        source: None,
        onlink: false,
        protocol: types::PROTOCOL_STATIC,
    })
}
