//! The administrator's kubeconfig: which port the API server is on, and how it is spoken to.
//!
//! Format: Kubernetes `client-go/tools/clientcmd/api/v1`, kind `Config`. Of it the current context's cluster and user
//! are read: `server`, the certificate authority, and the client certificate with its key, each inline (base64 of PEM)
//! or as a file. Everything else is ignored. The file belongs to the administrator but may be half-written or damaged.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ksos_formats::config::{Diagnostic, read_texts};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use crate::sys::{self, Sys};

/// Largest kubeconfig, certificate or key file in bytes.
const FILE_LIMIT: u64 = 1 << 20;
/// The port when `server` names none.
const HTTPS_PORT: u16 = 443;

/// A kubeconfig that cannot be used. No variant holds any of its content but names and the server's address.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialsError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] sys::Error),
    /// It is no kubeconfig.
    #[error("{0}: not a kubeconfig{1}")]
    Syntax(String, String),
    /// The current context leads to nothing.
    #[error("{path}: there is no {what} named {name:?}")]
    Missing { path: String, what: &'static str, name: String },
    /// The server's address is not one.
    #[error("{0}: clusters[].cluster.server: {1:?} is not https://HOST:PORT")]
    Server(String, String),
    /// A certificate or key is absent.
    #[error("{0}: {1} is missing")]
    Absent(String, &'static str),
    /// A certificate or key cannot be used.
    #[error("{0}: {1}: {2}")]
    Material(String, &'static str, String),
}

/// What is needed to speak to the API server.
#[derive(Debug)]
pub(super) struct Credentials {
    /// Its port on 127.0.0.1.
    pub(super) port: u16,
    /// Trust and client certificate.
    pub(super) tls: Arc<ClientConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: String,
    contexts: Vec<Named>,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: Option<String>,
    certificate_authority: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: Option<String>,
    client_certificate: Option<String>,
    client_key_data: Option<String>,
    client_key: Option<String>,
}

impl Credentials {
    /// Reads the kubeconfig at `path`.
    pub(super) fn read(sys: &dyn Sys, path: &str) -> Result<Self, CredentialsError> {
        let bytes = sys.read(path, FILE_LIMIT)?;
        let file = File { sys, path };
        let (cluster, user) = file.parse(&bytes)?;
        let authorities = file.certificates(
            "certificate-authority",
            cluster.certificate_authority_data.as_deref(),
            cluster.certificate_authority.as_deref(),
        )?;
        let chain = file.certificates(
            "client-certificate",
            user.client_certificate_data.as_deref(),
            user.client_certificate.as_deref(),
        )?;
        let key = file.pem("client-key", user.client_key_data.as_deref(), user.client_key.as_deref())?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| file.material("client-key", error))?;
        Ok(Credentials { port: file.port(&cluster.server)?, tls: Arc::new(file.tls(authorities, chain, key)?) })
    }
}

/// The kubeconfig, for errors and for files beside it.
struct File<'a> {
    sys: &'a dyn Sys,
    path: &'a str,
}

impl File<'_> {
    fn parse(&self, bytes: &[u8]) -> Result<(Cluster, User), CredentialsError> {
        // The parser's messages quote the text, which holds a private key: only the place is told.
        let syntax = |place: String| CredentialsError::Syntax(self.path.to_owned(), place);
        let text = std::str::from_utf8(bytes).map_err(|_| syntax(String::new()))?;
        let place = |faults: Vec<Diagnostic>| {
            let at = faults.first().map(|fault| format!(" (line {}, column {})", fault.line, fault.column));
            syntax(at.unwrap_or_default())
        };
        let document = read_texts(text).map_err(place)?;
        let config: Kubeconfig = serde_json::from_value(document).map_err(|_| syntax(String::new()))?;
        let missing = |what, name: &str| CredentialsError::Missing {
            path: self.path.to_owned(),
            what,
            name: name.chars().take(64).collect(),
        };
        let name = &config.current_context;
        let context = config.contexts.into_iter().find(|entry| entry.name == *name);
        let context = context.ok_or_else(|| missing("context", name))?.context;
        let cluster = config.clusters.into_iter().find(|entry| entry.name == context.cluster);
        let user = config.users.into_iter().find(|entry| entry.name == context.user);
        Ok((
            cluster.ok_or_else(|| missing("cluster", &context.cluster))?.cluster,
            user.ok_or_else(|| missing("user", &context.user))?.user,
        ))
    }

    fn material(&self, what: &'static str, error: impl ToString) -> CredentialsError {
        CredentialsError::Material(self.path.to_owned(), what, error.to_string())
    }

    /// Returns PEM from base64 in the kubeconfig or from a file; a relative path begins at the kubeconfig.
    fn pem(&self, what: &'static str, data: Option<&str>, file: Option<&str>) -> Result<Vec<u8>, CredentialsError> {
        match (data, file) {
            (Some(data), _) => {
                let compact: String = data.split_ascii_whitespace().collect();
                STANDARD.decode(compact).map_err(|error| self.material(what, error))
            }
            (None, Some(file)) if file.starts_with('/') => Ok(self.sys.read(file, FILE_LIMIT)?),
            (None, Some(file)) => {
                let directory = self.path.rsplit_once('/').map_or("", |(directory, _)| directory);
                Ok(self.sys.read(&format!("{directory}/{file}"), FILE_LIMIT)?)
            }
            (None, None) => Err(CredentialsError::Absent(self.path.to_owned(), what)),
        }
    }

    fn certificates(
        &self,
        what: &'static str,
        data: Option<&str>,
        file: Option<&str>,
    ) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
        let pem = self.pem(what, data, file)?;
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let all = all.map_err(|error| self.material(what, error))?;
        if all.is_empty() {
            return Err(self.material(what, "no certificate in it"));
        }
        Ok(all)
    }

    /// Returns the port of `https://HOST:PORT`. The host is not used: see `api`.
    fn port(&self, server: &str) -> Result<u16, CredentialsError> {
        let port = || {
            let rest = server.strip_prefix("https://")?;
            let authority = rest.split(['/', '?', '#']).next()?;
            let after_host = match authority.strip_prefix('[') {
                Some(rest) => rest.split_once(']')?.1,
                None => authority.find(':').map_or("", |at| authority.get(at..).unwrap_or("")),
            };
            match after_host.strip_prefix(':') {
                Some(port) => port.parse().ok().filter(|port| *port != 0),
                None => (after_host.is_empty() && !authority.is_empty()).then_some(HTTPS_PORT),
            }
        };
        port().ok_or_else(|| CredentialsError::Server(self.path.to_owned(), server.chars().take(80).collect()))
    }

    fn tls(
        &self,
        authorities: Vec<CertificateDer<'static>>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<ClientConfig, CredentialsError> {
        let mut roots = RootCertStore::empty();
        for certificate in authorities {
            roots.add(certificate).map_err(|error| self.material("certificate-authority", error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| self.material("TLS", error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| self.material("client-certificate", error))?;
        // One request, then everything is dropped: nothing is resumed.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }
}
