//! The document that people write: every key optional.

use std::fmt;
use std::net::IpAddr;

use super::types::{KubeSolo, Network, Updates, WriteFile};

/// One source of configuration: `cloud-init.yaml`, user-data, the image's default, or the kernel command line.
///
/// `None` is a key that is not stated, so that [`super::resolve`] takes it from the next source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document {
    /// Host name, from `hostname` or the first label of `fqdn`.
    pub hostname: Option<String>,
    /// The network.
    pub network: Option<NetworkDocument>,
    /// Time servers.
    pub ntp: NtpDocument,
    /// Flags of KubeSolo that are stated.
    pub kubesolo: KubeSolo,
    /// Public keys that may log in as root.
    pub ssh_authorized_keys: Option<Vec<String>>,
    /// Files to write.
    pub write_files: Option<Vec<WriteFile>>,
    /// Certificate authorities.
    pub ca_certs: CaCertificatesDocument,
    /// The metrics endpoint.
    pub metrics: MetricsDocument,
    /// Serving the administrator's kubeconfig.
    pub kubeconfig: KubeconfigDocument,
    /// Updates.
    pub updates: Updates,
    /// Installing from an ISO image.
    pub install: Option<InstallDocument>,
}

/// Installing from an ISO image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallDocument {
    /// Path of the disk below `/dev`, or `auto`.
    pub disk: String,
    /// Whether what it holds may be overwritten.
    pub wipe: Option<bool>,
    /// What follows: `poweroff`, `reboot` or `live`.
    pub then: Option<String>,
}

/// The network: either of two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkDocument {
    /// One interface, in the keys of this project.
    Simple(SimpleNetwork),
    /// Network configuration version 2 (the subset of netplan that is documented).
    Version2(Network),
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SimpleNetwork {
    /// How the interface gets its address.
    pub mode: Option<Mode>,
    /// Kernel name of the interface, `*` and `?` as in a shell.
    pub interface: Option<String>,
    /// Address with prefix length.
    pub address: Option<String>,
    /// Gateway of the default route.
    pub gateway: Option<IpAddr>,
    /// Name servers.
    pub dns: Option<Vec<IpAddr>>,
    /// Search domains.
    pub search: Option<Vec<String>>,
    /// Maximum transmission unit in bytes.
    pub mtu: Option<u32>,
    /// VLAN identifier, 1 to 4094: the address is on the VLAN.
    pub vlan: Option<u16>,
}

/// How an interface gets its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By DHCPv4.
    Dhcp,
    /// It is stated.
    Static,
    /// Not at all.
    Off,
}

/// Time servers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NtpDocument {
    /// Whether the clock is set from the network.
    pub enabled: Option<bool>,
    /// Servers, then pools.
    pub servers: Option<Vec<String>>,
}

/// Certificate authorities.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CaCertificatesDocument {
    /// Certificates that are trusted beside the image's, PEM.
    pub trusted: Option<Vec<String>>,
    /// Whether the image's own are not trusted.
    pub remove_defaults: Option<bool>,
}

/// The metrics endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetricsDocument {
    /// Whether it is served.
    pub enabled: Option<bool>,
    /// Address and port.
    pub listen: Option<String>,
}

/// Serving the administrator's kubeconfig.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct KubeconfigDocument {
    /// Whether it is served.
    pub enabled: Option<bool>,
    /// Address and port.
    pub listen: Option<String>,
    /// Seconds after the file exists that it is served; 0: no limit.
    pub duration_s: Option<u64>,
    /// How often it can be fetched; 0: no limit.
    pub fetches: Option<u32>,
    /// What the caller must send. Secret.
    pub token: Option<String>,
}

impl fmt::Debug for KubeconfigDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KubeconfigDocument { enabled, listen, duration_s, fetches, token } = self;
        f.debug_struct("KubeconfigDocument")
            .field("enabled", enabled)
            .field("listen", listen)
            .field("duration_s", duration_s)
            .field("fetches", fetches)
            .field("token", &token.as_ref().map(|_| "(secret)"))
            .finish()
    }
}
