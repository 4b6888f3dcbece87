//! The node's configuration: what a site says about one machine.
//!
//! [`NodeConfig`] is the effective configuration: sources are read, parsed and merged into it (kernel command line over
//! the first document found over the image's default), and it is what the node's processes read. The document that
//! people write is YAML; [`parse_document`] makes a [`Document`] of it or says everything that is wrong, with line and
//! column; [`resolve`] merges documents. Pure: reading sources, instance identifiers and applying are the runtime's.
//!
//! The image's tools check the same documents with the same code (`ksos-compose check --config`).

mod diagnostic;
mod document;
mod types;

pub use diagnostic::{Diagnostic, Place};
pub use document::{
    CaCertificatesDocument, Document, KubeconfigDocument, MetricsDocument, Mode, NetworkDocument, NtpDocument,
    SimpleNetwork,
};
pub use types::{
    Action, CaCertificates, Interface, InterfaceKind, KubeSolo, KubeconfigAccess, Match, Metrics, Network, NodeConfig,
    Ntp, Route, WriteFile,
};

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

/// Returns the text of a document: at most [`DOCUMENT_LIMIT`] bytes of UTF-8, not compressed.
pub fn document_text(_bytes: &[u8]) -> Result<&str, Vec<Diagnostic>> {
    Ok("")
}

/// Parses a document: `cloud-init.yaml`, or user-data.
///
/// # Errors
/// Everything that is wrong, in the order of the places.
pub fn parse_document(_text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    Ok(Parsed::default())
}

/// Parses NoCloud's `network-config`, version 2, with or without the key `network` around it.
///
/// # Errors
/// Everything that is wrong, in the order of the places.
pub fn parse_network_config(_text: &str) -> Result<ParsedNetwork, Vec<Diagnostic>> {
    Ok(ParsedNetwork { network: NetworkDocument::Simple(SimpleNetwork::default()), warnings: Vec::new() })
}

/// Parses NoCloud's `meta-data`, YAML or JSON. Unknown keys are ignored, as in NoCloud.
///
/// # Errors
/// Everything that is wrong, in the order of the places.
pub fn parse_meta_data(_text: &str) -> Result<MetaData, Vec<Diagnostic>> {
    Ok(MetaData::default())
}

/// Reads the kernel parameters that configure the node; others are passed over. Warnings name the parameter.
pub fn from_cmdline<'a>(_parameters: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> (Document, Vec<String>) {
    (Document::default(), Vec::new())
}

/// Merges the sources key by key: the command line over the document found, over the network configuration found
/// beside it, over the image's default.
pub fn resolve(
    _default: Option<&Document>,
    _found: Option<&Document>,
    _network_config: Option<&NetworkDocument>,
    _cmdline: &Document,
) -> Resolved {
    Resolved { config: NodeConfig::default(), warnings: Vec::new() }
}

/// Returns the text of KubeSolo's configuration file, `/etc/kubesolo/config.yaml`. Holds secrets: mode 0600.
pub fn kubesolo_file(_kubesolo: &KubeSolo) -> String {
    String::new()
}

/// Returns KubeSolo's command line arguments, without secrets: they are for the file.
pub fn kubesolo_arguments(_kubesolo: &KubeSolo) -> Vec<String> {
    Vec::new()
}

/// Returns KubeSolo's environment variables. Holds secrets.
pub fn kubesolo_environment(_kubesolo: &KubeSolo) -> Vec<(String, String)> {
    Vec::new()
}
