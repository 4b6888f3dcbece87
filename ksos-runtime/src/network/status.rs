//! What the network process says about itself: [`ksos_formats::layout::NETWORK_STATUS`], JSON.
//!
//! Readers ignore fields they do not know and take missing ones as their defaults. The file is replaced as a whole, and
//! only when something changed. Moments are milliseconds since the kernel started (`CLOCK_BOOTTIME`), which no setting
//! of the clock moves.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The current value of [`NetworkStatus::format`].
pub const FORMAT: u32 = 1;

/// The document.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStatus {
    /// [`FORMAT`].
    pub format: u32,
    /// Whether a configured interface has carrier and an address that others can reach.
    pub online: bool,
    /// Why it is online, or why not.
    pub reason: String,
    /// Whether services that wait for the network may start.
    pub ready: bool,
    /// Interfaces that the configuration claims, in the order of their metrics.
    pub interfaces: Vec<InterfaceStatus>,
    /// Gateway and interface of the IPv4 default route that wins; the fallback's does not count.
    pub default_route: Option<DefaultRoute>,
    /// Whether the interface `ksos-fallback` is there.
    pub fallback: bool,
    /// Name servers in use.
    pub nameservers: Vec<IpAddr>,
    /// Search domains in use.
    pub search: Vec<String>,
    /// The clock.
    pub time: TimeStatus,
    /// What of the configuration could not be done.
    pub problems: Vec<String>,
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InterfaceStatus {
    /// Kernel name.
    pub name: String,
    /// Hardware address, lower case with colons.
    pub mac: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether there is a link.
    pub carrier: bool,
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
    /// Name in the configuration; `None` with the default configuration.
    pub id: Option<String>,
    /// Where DHCPv4 is, e.g. `bound`; `None` where it is not asked for.
    pub dhcp: Option<String>,
    /// Addresses.
    pub addresses: Vec<AddressStatus>,
    /// IPv4 gateway.
    pub gateway: Option<IpAddr>,
    /// The lease.
    pub lease: Option<LeaseStatus>,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressStatus {
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where an address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A DHCPv4 lease.
    Dhcp,
    /// The configuration.
    Static,
    /// The kernel, for this link only.
    LinkLocal,
    /// The kernel, from a router advertisement.
    Ra,
    /// Somebody else.
    Other,
}

/// A DHCPv4 lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// The server.
    pub server: IpAddr,
    /// How long it was given for, in seconds; `None` for ever.
    pub seconds: Option<u32>,
    /// When it ends; `None` never.
    pub expires_ms: Option<u64>,
}

/// A default route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRoute {
    /// The interface.
    pub interface: String,
    /// The gateway; `None` where the link itself is the way.
    pub gateway: Option<IpAddr>,
    /// Metric; smaller wins.
    pub metric: u32,
}

/// The clock.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeStatus {
    /// Whether the clock is set from the network at all.
    pub enabled: bool,
    /// Whether a time server answered and the clock follows it.
    pub synchronised: bool,
    /// The server that answered last, as the configuration names it.
    pub server: Option<String>,
    /// When it answered.
    pub last_sync_ms: Option<u64>,
    /// The same, in seconds since 1970.
    pub last_sync_unix: Option<u64>,
    /// Server's time minus the node's, in milliseconds, before the node's was corrected.
    pub offset_ms: Option<f64>,
    /// Stratum of the server (RFC 5905, section 7.3).
    pub stratum: Option<u8>,
    /// Why the clock is not synchronised.
    pub problem: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_take_older_and_newer_documents() {
        let text = r#"{"format": 9, "online": true, "later": [1], "time": {"synchronised": true, "new": {}},
            "interfaces": [{"name": "eth0", "addresses":
                [{"address": "10.0.2.15", "prefix": 24, "origin": "dhcp"},
                 {"address": "fe80::1", "prefix": 64, "origin": "link-local"}]}]}"#;
        let status: NetworkStatus = serde_json::from_str(text).expect("readable");
        assert!(status.online && status.time.synchronised && !status.fallback);
        assert_eq!(status.interfaces[0].addresses[0].origin, Origin::Dhcp);
        assert_eq!(status.interfaces[0].addresses[1].origin, Origin::LinkLocal);
        let empty: NetworkStatus = serde_json::from_str("{}").expect("readable");
        assert_eq!(empty, NetworkStatus::default());
    }
}
