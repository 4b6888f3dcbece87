//! The child that asks a metadata service: `ksos-runtime fetch-ec2 ADDRESS BUDGET_MS REPORT`.
//!
//! Instance Metadata Service version 2 ("Use the Instance Metadata Service", EC2 User Guide): a session token by PUT, then
//! GETs with it. Version 1 is never used. EC2 answers a PUT with a hop limit of 1 by default: enough for the node itself,
//! not for a container that asks through a bridge.
//!
//! The address may be wrong, the answer may be anybody's: every answer has a size limit, every request a timeout, all
//! together the budget; no redirect is followed, no proxy used, nothing but plain HTTP spoken. Failures that time may
//! heal (no connection, 5xx, 429) are tried again until the budget is used up; others end it at once.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::cmdline::Cmdline;
use crate::exchange::{self, Fault, Timed};
use crate::sys::{Sys, read_text};

/// Largest report that PID 1 reads, in bytes.
pub(super) const REPORT_LIMIT: u64 = 4 << 20;
/// Largest user-data in bytes. EC2 has 16 KiB; others allow more.
const USER_DATA_LIMIT: usize = 1 << 20;
/// Largest value of anything else, in bytes.
const VALUE_LIMIT: usize = 16 << 10;
/// How long a token is asked for, in seconds.
const TOKEN_SECONDS: &str = "300";
/// Pause between attempts, in milliseconds.
const PAUSE_MS: u64 = 500;
/// Most attempts at an answer whose token is not taken.
const UNAUTHORIZED_LIMIT: u32 = 2;

/// What the service said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// `meta-data/instance-id`.
    pub(super) instance_id: String,
    /// `meta-data/local-hostname`.
    pub(super) local_hostname: Option<String>,
    /// `user-data`, base64: it may be anything.
    user_data: String,
    /// `meta-data/public-keys/0/openssh-key`.
    pub(super) public_key: Option<String>,
}

impl Answer {
    pub(super) fn new(id: &str, local_hostname: Option<&str>, user_data: &[u8], public_key: Option<&str>) -> Self {
        Answer {
            instance_id: id.to_owned(),
            local_hostname: local_hostname.map(str::to_owned),
            user_data: STANDARD.encode(user_data),
            public_key: public_key.map(str::to_owned),
        }
    }

    /// Returns the user-data.
    pub(super) fn user_data(&self) -> Result<Vec<u8>, String> {
        STANDARD.decode(&self.user_data).map_err(|error| format!("the child's report: {error}"))
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    /// Whether the service says that it is turned off.
    pub(super) turned_off: bool,
    /// What happened.
    pub(super) reason: String,
}

/// What the child leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Report {
    /// An answer.
    Answer(Answer),
    /// None.
    Failure(Failure),
}

impl Report {
    pub(super) fn failed(reason: String) -> Self {
        Report::Failure(Failure { turned_off: false, reason })
    }
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}: {1}")]
    Request(String, Fault),
    #[error("{0}: no answer within {1} ms")]
    Timeout(String, u128),
    #[error("{0}: status {1}")]
    Status(String, u16),
    #[error("the metadata service is turned off (status 403)")]
    TurnedOff,
    #[error("the token is not taken (status 401)")]
    Unauthorized,
    #[error("the answer to the request for a token is no token")]
    Token,
    #[error("{0}: the answer is no such value")]
    Value(String),
    #[error("{0}")]
    Network(String),
}

impl FetchError {
    /// Whether another attempt may go better. A value that does not fit comes from something that is no such service.
    fn may_heal(&self) -> bool {
        match self {
            FetchError::Request(_, fault) => !matches!(fault, Fault::Size(_)),
            FetchError::Status(_, status) => *status >= 500 || *status == 429,
            FetchError::Unauthorized | FetchError::Timeout(..) | FetchError::Network(_) => true,
            FetchError::TurnedOff | FetchError::Token | FetchError::Value(_) => false,
        }
    }
}

/// Gives the machine an address: called with the milliseconds that it may take; returns why there is none.
pub type BringUp<'a> = &'a dyn Fn(&dyn Sys, u64) -> Result<(), String>;

/// Runs the child. Returns its exit status.
pub fn main(sys: &dyn Sys, arguments: &[String], bring_up: BringUp<'_>, out: &mut dyn Write) -> i32 {
    let [address, budget, path] = arguments else {
        let _ = writeln!(out, "usage: fetch-ec2 ADDRESS BUDGET_MS REPORT");
        return 2;
    };
    let Ok(budget) = budget.parse::<u64>() else {
        let _ = writeln!(out, "fetch-ec2: {budget:?} is no number of milliseconds");
        return 2;
    };
    // Here and not in PID 1: a driver may take its time.
    let cmdline = Cmdline::parse(&read_text(sys, "/proc/cmdline").unwrap_or_default());
    super::load_hardware_drivers(sys, &cmdline);
    let timeouts = Timeouts { connect: Duration::from_secs(2), request: Duration::from_secs(5) };
    let report = report(sys, address, budget, &timeouts, bring_up);
    let written = serde_json::to_vec(&report).map_err(std::io::Error::other);
    let written = written.map_err(|error| error.to_string());
    let written = written.and_then(|text| sys.replace(path, &text, 0o600).map_err(|error| error.to_string()));
    match written {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(out, "fetch-ec2: {error}");
            1
        }
    }
}

/// Timeouts of one request.
struct Timeouts {
    connect: Duration,
    request: Duration,
}

fn report(sys: &dyn Sys, address: &str, budget: u64, timeouts: &Timeouts, bring_up: BringUp<'_>) -> Report {
    let Some(address) = address.strip_prefix("http://") else {
        return Report::failed("the address does not begin with http://".to_owned());
    };
    let deadline = sys.uptime_ms() + budget;
    let (mut unauthorized, mut up) = (0, false);
    loop {
        let left = deadline.saturating_sub(sys.uptime_ms());
        let network = if up { Ok(()) } else { bring_up(sys, left).map_err(FetchError::Network) };
        up = network.is_ok();
        let answer = network.and_then(|()| Client::new(sys, address, deadline, timeouts).answer());
        let error = match answer {
            Ok(answer) => return Report::Answer(answer),
            Err(error) => error,
        };
        unauthorized += u32::from(matches!(error, FetchError::Unauthorized));
        let over = sys.uptime_ms() + PAUSE_MS >= deadline || unauthorized >= UNAUTHORIZED_LIMIT;
        if over || !error.may_heal() {
            let turned_off = matches!(error, FetchError::TurnedOff);
            return Report::Failure(Failure { turned_off, reason: error.to_string() });
        }
        sys.sleep_ms(PAUSE_MS);
    }
}

/// One attempt at all that is asked.
struct Client<'a> {
    sys: &'a dyn Sys,
    address: &'a str,
    deadline: u64,
    timeouts: &'a Timeouts,
}

impl<'a> Client<'a> {
    fn new(sys: &'a dyn Sys, address: &'a str, deadline: u64, timeouts: &'a Timeouts) -> Self {
        Client { sys, address: address.trim_end_matches('/'), deadline, timeouts }
    }

    fn answer(&self) -> Result<Answer, FetchError> {
        let token = self.token()?;
        let text = |path: &str, fits: fn(&str) -> bool| -> Result<Option<String>, FetchError> {
            let Some(bytes) = self.get(path, &token, VALUE_LIMIT)? else { return Ok(None) };
            let text = String::from_utf8(bytes).map_err(|_| FetchError::Value(path.to_owned()))?;
            let text = text.trim().to_owned();
            if fits(&text) { Ok(Some(text)) } else { Err(FetchError::Value(path.to_owned())) }
        };
        let path = "meta-data/instance-id";
        let instance_id = text(path, is_name)?.ok_or_else(|| FetchError::Status(path.to_owned(), 404))?;
        let local_hostname = text("meta-data/local-hostname", |_| true)?;
        let user_data = self.get("user-data", &token, USER_DATA_LIMIT)?.unwrap_or_default();
        // Whether it is a key is judged with those of the document.
        let public_key = text("meta-data/public-keys/0/openssh-key", |_| true)?.filter(|key| !key.is_empty());
        Ok(Answer::new(&instance_id, local_hostname.as_deref(), &user_data, public_key.as_deref()))
    }

    fn token(&self) -> Result<String, FetchError> {
        let path = "api/token";
        let field = format!("X-aws-ec2-metadata-token-ttl-seconds: {TOKEN_SECONDS}");
        let bytes = self.ask("PUT", path, &field, VALUE_LIMIT)?;
        let bytes = bytes.ok_or_else(|| FetchError::Status(path.to_owned(), 404))?;
        let token = String::from_utf8(bytes).map_err(|_| FetchError::Token)?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=+/.".contains(&byte);
        if token.is_empty() || !token.bytes().all(fits) { Err(FetchError::Token) } else { Ok(token) }
    }

    /// Gets a value; `None` for one that the service does not have.
    fn get(&self, path: &str, token: &str, limit: usize) -> Result<Option<Vec<u8>>, FetchError> {
        self.ask("GET", path, &format!("X-aws-ec2-metadata-token: {token}"), limit)
    }

    fn ask(&self, method: &str, path: &str, field: &str, limit: usize) -> Result<Option<Vec<u8>>, FetchError> {
        // Never more than what is left of all.
        let left = Duration::from_millis(self.deadline.saturating_sub(self.sys.uptime_ms()).max(1));
        let time = left.min(self.timeouts.request);
        let failed = |fault: Fault| match fault.is_timeout() {
            true => FetchError::Timeout(path.to_owned(), time.as_millis()),
            false => FetchError::Request(path.to_owned(), fault),
        };
        let deadline = Instant::now() + time;
        let (host, prefix) = self.address.split_at(self.address.find('/').unwrap_or(self.address.len()));
        let request = format!(
            "{method} {prefix}/latest/{path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: ksos\r\n{field}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let exchange = || {
            let mut stream = Timed::connect(&socket_address(host)?, time.min(self.timeouts.connect), deadline)?;
            exchange::ask(&mut stream, &request, limit)
        };
        let answer = exchange().map_err(failed)?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            404 => Ok(None),
            401 => Err(FetchError::Unauthorized),
            403 => Err(FetchError::TurnedOff),
            status => Err(FetchError::Status(path.to_owned(), status)),
        }
    }
}

/// Returns the first address of `HOST` or `HOST:PORT`.
fn socket_address(host: &str) -> Result<SocketAddr, Fault> {
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let found = if has_port { host.to_socket_addrs() } else { format!("{host}:80").to_socket_addrs() };
    found?.next().ok_or(Fault::Answer("the host has no address"))
}

/// Returns whether a text can be an instance identifier or a host name.
pub(super) fn is_name(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

#[cfg(test)]
#[path = "imds_tests.rs"]
mod tests;
