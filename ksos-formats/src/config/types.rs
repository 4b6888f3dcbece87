//! The effective configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::update::Window;

/// Everything a site can say about a node, with defaults filled in. Holds secrets: files with it have mode 0600.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeConfig {
    /// Host name (RFC 1123); the image's when not stated.
    pub hostname: Option<String>,
    /// Interfaces, addresses, name servers.
    pub network: Network,
    /// Time servers.
    pub ntp: Ntp,
    /// Flags of KubeSolo.
    pub kubesolo: KubeSolo,
    /// Public keys that may log in as root, where the image has an SSH server (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
    pub ssh_authorized_keys: Vec<String>,
    /// Files to write.
    pub write_files: Vec<WriteFile>,
    /// Certificate authorities.
    pub ca_certs: CaCertificates,
    /// The metrics endpoint.
    pub metrics: Metrics,
    /// Serving the administrator's kubeconfig.
    pub kubeconfig: KubeconfigAccess,
    /// Updates.
    pub updates: Updates,
}

/// Updates: what a site says otherwise than the image ([`crate::runtime::UpdateConfig`]).
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Updates {
    /// Whether the node updates by itself.
    pub automatic: Option<bool>,
    /// Where releases come from: `https://HOST/PATH`, `http://HOST/PATH` or `oci://HOST/REPOSITORY`.
    pub source: Option<String>,
    /// Channel that is followed.
    pub channel: Option<String>,
    /// Time between two looks in milliseconds.
    pub interval_ms: Option<u64>,
    /// When the node may install and restart by itself; an empty list is always.
    pub windows: Option<Vec<Window>>,
    /// Most bytes per second that are fetched.
    pub bandwidth: Option<u64>,
    /// User name for the source.
    pub username: Option<String>,
    /// Password for the source; without a user name, a bearer token.
    pub password: Option<String>,
    /// Proxy for the source: `http://HOST:PORT`.
    pub proxy: Option<String>,
}

/// Shows no password.
impl fmt::Debug for Updates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Updates { automatic, source, channel, interval_ms, windows, bandwidth, username, password, proxy } = self;
        f.debug_struct("Updates")
            .field("automatic", automatic)
            .field("source", source)
            .field("channel", channel)
            .field("interval_ms", interval_ms)
            .field("windows", windows)
            .field("bandwidth", bandwidth)
            .field("username", username)
            .field("password", &password.as_ref().map(|_| "(secret)"))
            .field("proxy", &proxy.as_ref().map(|_| "(set)"))
            .finish()
    }
}

/// The network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Interfaces to set up. Empty: DHCPv4 on every Ethernet interface.
    pub interfaces: Vec<Interface>,
    /// Name servers that come before those that DHCP names.
    pub nameservers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// How long services that need the network wait for an address, in milliseconds. The node goes on without one.
    pub wait_ms: u64,
}

impl Default for Network {
    fn default() -> Self {
        Network { interfaces: Vec::new(), nameservers: Vec::new(), search: Vec::new(), wait_ms: 15_000 }
    }
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name in the configuration; of a VLAN also the interface's name.
    pub id: String,
    /// What it is.
    pub kind: InterfaceKind,
    /// Whether an address is asked for by DHCPv4.
    pub dhcp4: bool,
    /// Whether router advertisements are taken (kernel `accept_ra`).
    pub accept_ra: bool,
    /// Addresses with prefix length, `192.0.2.7/24`. Of several interfaces that fit [`Interface::kind`], the first (by
    /// index) has them, and carries the VLANs that are on this one.
    pub addresses: Vec<String>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Name servers.
    pub nameservers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Maximum transmission unit in bytes.
    pub mtu: Option<u32>,
    /// Nothing waits for this interface.
    pub optional: bool,
}

/// What an interface is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterfaceKind {
    /// Hardware.
    Ethernet(Match),
    /// A VLAN (IEEE 802.1Q) on another interface of the configuration.
    Vlan {
        /// [`Interface::id`] of the other interface.
        link: String,
        /// VLAN identifier, 1 to 4094.
        vlan: u16,
    },
}

/// Which hardware an interface is; every part that is stated must fit. One without parts fits every Ethernet interface.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Match {
    /// Kernel name, `*` and `?` as in a shell: `en*`, `eth0`.
    pub name: Option<String>,
    /// MAC address, lower case, with colons.
    pub mac: Option<String>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination with prefix length; `0.0.0.0/0` or `::/0` for the default route.
    pub to: String,
    /// Gateway.
    pub via: IpAddr,
    /// Metric; smaller wins.
    pub metric: Option<u32>,
}

/// Time servers (SNTP, RFC 4330).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ntp {
    /// Whether the clock is set from the network.
    pub enabled: bool,
    /// Servers, tried in order, before those that DHCP names. Empty, and DHCP names none: the image's default pool.
    pub servers: Vec<String>,
}

impl Default for Ntp {
    fn default() -> Self {
        Ntp { enabled: true, servers: Vec::new() }
    }
}

/// Flags of KubeSolo, by name without the dashes; what is written to its configuration file.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KubeSolo {
    /// The flags that are stated: Booleans, numbers, texts, lists of texts, and objects of texts.
    pub flags: BTreeMap<String, serde_json::Value>,
}

/// Shows no secret.
impl fmt::Debug for KubeSolo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = serde_json::Value::from("(secret)");
        let shown = |flag: &str, value| if super::kubesolo::is_secret(flag) { secret.clone() } else { value };
        f.debug_map().entries(self.flags.iter().map(|(flag, value)| (flag, shown(flag, value.clone())))).finish()
    }
}

/// A file to write.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteFile {
    /// Absolute path, on the data partition or in memory.
    pub path: String,
    /// Content, base64.
    pub content: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner, numeric: user and group.
    pub owner: (u32, u32),
    /// What is done to a file that is there.
    pub action: Action,
}

/// Shows no content: it may be a key.
impl fmt::Debug for WriteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WriteFile { path, content, mode, owner, action } = self;
        f.debug_struct("WriteFile")
            .field("path", path)
            .field("content", &format_args!("({} characters of base64)", content.len()))
            .field("mode", &format_args!("{mode:#o}"))
            .field("owner", owner)
            .field("action", action)
            .finish()
    }
}

impl WriteFile {
    /// Decodes the content; `None` when it is not base64.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        super::parse::base64_bytes(&self.content)
    }
}

/// What is done to a file that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is replaced.
    Replace,
    /// The content is added at its end.
    Append,
}

/// Certificate authorities.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CaCertificates {
    /// Certificates that are trusted beside the image's, PEM.
    pub trusted: Vec<String>,
    /// Whether the image's own are not trusted.
    pub remove_defaults: bool,
}

/// The metrics endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// Whether it is served.
    pub enabled: bool,
    /// Address and port; an empty address is every address: `:9100`, `127.0.0.1:9100`, `[::1]:9100`.
    pub listen: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics { enabled: true, listen: ":9100".to_owned() }
    }
}

/// Serving the administrator's kubeconfig over HTTP: off unless the configuration or a development image says so.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KubeconfigAccess {
    /// Whether it is served.
    pub enabled: bool,
    /// Address and port, as for metrics.
    pub listen: String,
    /// Seconds after the file exists that it is served; 0: no limit.
    pub duration_s: u64,
    /// How often it can be fetched; 0: no limit.
    pub fetches: u32,
    /// What the caller must send as `Authorization: Bearer TOKEN`.
    pub token: Option<String>,
}

/// Shows no token.
impl fmt::Debug for KubeconfigAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KubeconfigAccess { enabled, listen, duration_s, fetches, token } = self;
        f.debug_struct("KubeconfigAccess")
            .field("enabled", enabled)
            .field("listen", listen)
            .field("duration_s", duration_s)
            .field("fetches", fetches)
            .field("token", &token.as_ref().map(|_| "(secret)"))
            .finish()
    }
}

impl Default for KubeconfigAccess {
    fn default() -> Self {
        KubeconfigAccess { enabled: false, listen: ":8080".to_owned(), duration_s: 600, fetches: 0, token: None }
    }
}
