//! Settings of downloads.

use std::time::Duration;

use super::proxy::ProxyVariables;

/// Settings of a [`super::Downloader`]. The binary fills in what comes from the environment and the command line.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// Proxy variables.
    pub proxy: ProxyVariables,
    /// Forbids every request.
    pub offline: bool,
    /// Longest wait for a connection, its proxy and TLS handshake included.
    pub connect_timeout: Duration,
    /// Longest wait without a single byte.
    pub stall_timeout: Duration,
    /// How many more times every URL is tried when failures look temporary.
    pub retries: u32,
    /// Wait before the first of these; it doubles each time, up to [`NetOptions::backoff_limit`].
    pub backoff: Duration,
    /// Longest wait between tries.
    pub backoff_limit: Duration,
    /// Longest `Retry-After` that is honoured; a server that asks for more has failed.
    pub retry_after_limit: Duration,
    /// Value of `User-Agent`.
    pub user_agent: String,
}

impl Default for NetOptions {
    fn default() -> Self {
        NetOptions {
            proxy: ProxyVariables::default(),
            offline: false,
            connect_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(30),
            retries: 3,
            backoff: Duration::from_millis(500),
            backoff_limit: Duration::from_secs(10),
            retry_after_limit: Duration::from_secs(60),
            user_agent: concat!("ksos-compose/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}
