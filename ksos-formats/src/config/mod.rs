//! The node's configuration: what a site says about one machine.
//!
//! [`NodeConfig`] is the effective configuration: sources are read, parsed and merged into it (kernel command line over
//! the first document found over the image's default), and it is what the node's processes read. The document that
//! people write is YAML.

mod types;

pub use types::{
    Action, CaCertificates, Interface, InterfaceKind, KubeSolo, KubeconfigAccess, Match, Metrics, Network, NodeConfig,
    Ntp, Route, WriteFile,
};
