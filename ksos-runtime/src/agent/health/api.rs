//! One request to the API server on this machine.
//!
//! rustls is used directly, not through an HTTP client: the client's configuration would panic on a key that does not
//! fit its certificate. The address is always 127.0.0.1, whatever host the kubeconfig names; the server's certificate must
//! be valid for it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Stream};

use super::credentials::Credentials;
use crate::exchange::{self, Answer, Fault, Timed};

/// A request that got no usable answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// No connection.
    #[error("connect to 127.0.0.1:{0}: {1}")]
    Connect(u16, io::Error),
    /// Nothing in time.
    #[error("127.0.0.1:{0}: no answer within {1} s")]
    Timeout(u16, u64),
    /// TLS could not begin.
    #[error("127.0.0.1:{0}: {1}")]
    Tls(u16, rustls::Error),
    /// The connection failed, or the answer is none.
    #[error("127.0.0.1:{0}: {1}")]
    Exchange(u16, Fault),
}

/// Asks for `path`, which must be a valid request target; the body has at most `limit` bytes.
pub(super) fn get(credentials: &Credentials, path: &str, limit: usize, time: Duration) -> Result<Answer, ApiError> {
    let port = credentials.port;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let deadline = Instant::now() + time;
    let connected = Timed::connect(&address, time, deadline);
    let mut socket = connected.map_err(|error| ApiError::Connect(port, error))?;
    let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
    let mut tls =
        ClientConnection::new(Arc::clone(&credentials.tls), name).map_err(|error| ApiError::Tls(port, error))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nAccept: application/json\r\n\r\n");
    exchange::ask(&mut Stream::new(&mut tls, &mut socket), &request, limit).map_err(|fault| {
        if fault.is_timeout() { ApiError::Timeout(port, time.as_secs()) } else { ApiError::Exchange(port, fault) }
    })
}
