//! The node's configuration: what a site says about one machine.
//!
//! [`NodeConfig`] is the effective configuration: sources are read, parsed and merged into it (kernel command line over
//! the first document found over the image's default), and it is what the node's processes read. The document that
//! people write is YAML; [`parse_document`] makes a [`Document`] of it or says everything that is wrong, with line and
//! column; [`resolve`] merges documents. Pure: reading sources, instance identifiers and applying are the runtime's.
//!
//! The image's tools check the same documents with the same code (`ksos-compose check --config`).

mod cmdline;
mod diagnostic;
mod document;
mod forms;
mod keys;
mod kubesolo;
mod network;
mod parse;
mod read;
mod resolve;
#[cfg(feature = "schema")]
mod schema;
mod tables;
#[cfg(test)]
mod tests;
mod types;
mod updates;
mod yaml;

pub use cmdline::{
    PARAM_ADDRESS, PARAM_DNS, PARAM_GATEWAY, PARAM_HOSTNAME, PARAM_INTERFACE, PARAM_KUBESOLO, PARAM_MTU, PARAM_VLAN,
    from_cmdline, is_secret_parameter,
};

pub use diagnostic::{Diagnostic, Place};
pub use document::{
    CaCertificatesDocument, Document, InstallDocument, KubeconfigDocument, MetricsDocument, Mode, NetworkDocument,
    NtpDocument, SimpleNetwork,
};
pub use forms::SSH_KEY_TYPES;
pub use kubesolo::{kubesolo_arguments, kubesolo_environment, kubesolo_file};
pub use parse::{document_text, parse_document, parse_meta_data, parse_network_config};
pub use resolve::resolve;
#[cfg(feature = "schema")]
pub use schema::json_schema;
pub use types::{
    Action, CaCertificates, Interface, InterfaceKind, KubeSolo, KubeconfigAccess, Match, Metrics, Network, NodeConfig,
    Ntp, Route, Updates, WriteFile,
};
pub use yaml::read_texts;

/// The largest document that is read, in bytes.
pub const DOCUMENT_LIMIT: usize = 1 << 20;

/// A document that is good.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parsed {
    /// What it says.
    pub document: Document,
    /// What in it has no effect.
    pub warnings: Vec<Diagnostic>,
}

/// A network configuration that is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedNetwork {
    /// What it says.
    pub network: NetworkDocument,
    /// What in it has no effect.
    pub warnings: Vec<Diagnostic>,
}

/// What NoCloud's meta-data says about an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetaData {
    /// `instance-id`: another one is another instance, whose configuration is applied anew.
    pub instance_id: Option<String>,
    /// `local-hostname`: the host name when the document states none.
    pub local_hostname: Option<String>,
}

/// The effective configuration, and what of the sources could not be taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The configuration.
    pub config: NodeConfig,
    /// Contradictions between sources, one line each; the higher source was followed.
    pub warnings: Vec<String>,
}
