//! HTTP/1.1 GET (RFC 9110, RFC 9112): redirects, connections that are kept open, bodies.
//!
//! Written on rustls directly, as the health checks' client is: the body has to be read under limits of time and
//! bandwidth that are counted where bytes come from the network, also inside of TLS records and of heads, and a general
//! client has no place for that. No cookies, no caches, no compression, no authentication by itself.

use std::time::Duration;

use super::SourceError;
use super::connection::{Connection, Dialer};
use super::message::{Framing, Head, io_error};
use super::url::{Scheme, Url};

/// Most redirects in a row.
const MAX_REDIRECTS: usize = 5;
/// Connections that are kept open: to the source, and to the storage behind it.
const MAX_IDLE: usize = 3;
/// Bytes of a body that nobody wants which are read so that its connection can be used again.
const DRAIN_LIMIT: u64 = 64 << 10;
/// Longest line in the framing of a chunked body, and most bytes of its trailer.
const CHUNK_LINE_LIMIT: usize = 4 << 10;
const TRAILER_LIMIT: usize = 16 << 10;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    /// The URL.
    pub(super) url: &'a Url,
    /// Media types.
    pub(super) accept: &'a str,
    /// Value of `Authorization`, for the server of `url` and no other.
    pub(super) authorization: Option<&'a str>,
    /// First and last byte.
    pub(super) range: Option<(u64, u64)>,
    /// The entity tag for which the range is good.
    pub(super) if_range: Option<&'a str>,
}

/// Sends requests.
#[derive(Debug)]
pub(super) struct Client {
    dialer: Dialer,
    idle: Vec<Connection>,
    /// What the last answer that asked for patience (`Retry-After`) asked for.
    pub(super) patience: Option<Duration>,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub(super) struct Response {
    /// Its head.
    pub(super) head: Head,
    /// Where it came from in the end.
    pub(super) url: Url,
    connection: Connection,
    body: Body,
    limits: super::pace::Limits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Length { left: u64, total: u64 },
    ChunkHead { first: bool },
    Chunk { left: u64 },
    UntilClose,
    Done { reusable: bool },
}

impl Client {
    pub(super) fn new(dialer: Dialer) -> Self {
        Client { dialer, idle: Vec::new(), patience: None }
    }

    pub(super) fn pace(&self) -> &super::pace::Pace {
        &self.dialer.pace
    }

    /// Sends a request and follows redirects: never from TLS to plain text, and with credentials only as long as the
    /// server is the same.
    pub(super) fn get(&mut self, request: &Request<'_>) -> Result<Response, SourceError> {
        let mut request = *request;
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.exchange(&url, &request)?;
            if !matches!(response.head.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let target = redirect(&url, &response.head)?;
            self.finish(response);
            if target.origin != url.origin {
                request.authorization = None;
            }
            url = target;
        }
        let (url, target) = (request.url.to_string(), url.to_string());
        Err(SourceError::Redirect { url, target, reason: "more than 5 in a row" })
    }

    fn exchange(&mut self, url: &Url, request: &Request<'_>) -> Result<Response, SourceError> {
        let text = self.text(url, request);
        let kept = self.idle.iter().position(|connection| connection.leads_to(&url.origin));
        let kept = kept.map(|index| self.idle.swap_remove(index));
        if let Some(mut connection) = kept {
            match connection.ask(text.as_bytes(), url, &self.dialer.pace) {
                Ok(head) => return self.response(head, url, connection),
                Err(none) if none.nothing => {}
                Err(none) => return Err(none.error),
            }
        }
        let mut connection = self.dialer.open(url)?;
        let head = connection.ask(text.as_bytes(), url, &self.dialer.pace).map_err(|none| none.error)?;
        self.response(head, url, connection)
    }

    fn text(&self, url: &Url, request: &Request<'_>) -> String {
        let proxy = self.dialer.proxy.as_ref().filter(|_| url.origin.scheme == Scheme::Http);
        let (host, target) = (url.origin.authority(), &url.target);
        let version = env!("CARGO_PKG_VERSION");
        let mut text = match proxy {
            // "a client MUST send the target URI in absolute-form" to a proxy (RFC 9112, section 3.2.2).
            Some(_) => format!("GET {}{target} HTTP/1.1\r\n", url.origin),
            None => format!("GET {target} HTTP/1.1\r\n"),
        };
        text += &format!("Host: {host}\r\nUser-Agent: ksos-runtime/{version}\r\nAccept: {}\r\n", request.accept);
        text += "Accept-Encoding: identity\r\n";
        if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization.as_ref()) {
            text += &format!("Proxy-Authorization: {authorization}\r\n");
        }
        if let Some(authorization) = request.authorization {
            text += &format!("Authorization: {authorization}\r\n");
        }
        if let Some((first, last)) = request.range {
            text += &format!("Range: bytes={first}-{last}\r\n");
            if let Some(tag) = request.if_range {
                text += &format!("If-Range: {tag}\r\n");
            }
        }
        text + "\r\n"
    }

    fn response(&mut self, head: Head, url: &Url, connection: Connection) -> Result<Response, SourceError> {
        let framing = head.framing();
        let framing = framing.map_err(|reason| SourceError::Protocol { url: url.to_string(), reason })?;
        if matches!(head.status, 429 | 503) {
            let seconds = head.field("retry-after").and_then(|value| value.parse().ok());
            self.patience = seconds.map(Duration::from_secs);
        }
        let body = match framing {
            Framing::Length(0) => Body::Done { reusable: true },
            Framing::Length(total) => Body::Length { left: total, total },
            Framing::Chunked => Body::ChunkHead { first: true },
            Framing::UntilClose => Body::UntilClose,
        };
        let limits = self.dialer.pace.limits;
        Ok(Response { head, url: url.clone(), connection, body, limits })
    }

    /// Ends with an answer: its connection is kept for another request, when its body has ended or soon does.
    pub(super) fn finish(&mut self, mut response: Response) {
        let mut buffer = [0; 4096];
        let mut left = DRAIN_LIMIT;
        while !matches!(response.body, Body::Done { .. } | Body::UntilClose) {
            let enough = response.length().is_some_and(|length| length > DRAIN_LIMIT);
            match response.read(&mut buffer) {
                Ok(count) if !enough && (count as u64) < left => left -= count as u64,
                _ => return,
            }
        }
        if response.head.keep_alive && response.body == (Body::Done { reusable: true }) {
            if self.idle.len() == MAX_IDLE {
                self.idle.remove(0);
            }
            self.idle.push(response.connection);
        }
    }
}

/// Returns where a redirect leads, when it may be followed.
fn redirect(url: &Url, head: &Head) -> Result<Url, SourceError> {
    let location = head.field("location").unwrap_or_default();
    let shown: String = location.split(['?', '#']).next().unwrap_or_default().chars().take(200).collect();
    let refuse = |reason| SourceError::Redirect { url: url.to_string(), target: shown.clone(), reason };
    if location.is_empty() {
        return Err(refuse("it does not say where to"));
    }
    let target = url.join(location).map_err(refuse)?;
    if url.origin.scheme == Scheme::Https && target.origin.scheme == Scheme::Http {
        return Err(refuse("from https to http"));
    }
    Ok(target)
}

impl Response {
    /// Returns the length of the body, when it is stated.
    pub(super) fn length(&self) -> Option<u64> {
        match self.body {
            Body::Length { total, .. } => Some(total),
            Body::Done { .. } => Some(0),
            _ => None,
        }
    }

    /// Reads some of the body; returns 0 at its end. A body that ends before its stated length is an error.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        loop {
            match self.body {
                Body::Done { .. } => return Ok(0),
                Body::ChunkHead { first } => self.chunk_head(first)?,
                Body::UntilClose => {
                    let count = self.some(buffer, u64::MAX)?;
                    if count == 0 {
                        self.body = Body::Done { reusable: false };
                    }
                    return Ok(count);
                }
                Body::Length { left, total } => {
                    let count = self.some(buffer, left)?;
                    let received = total - left;
                    if count == 0 {
                        return Err(SourceError::Truncated { url: self.url.to_string(), expected: total, received });
                    }
                    let left = left - count as u64;
                    self.body = if left == 0 { Body::Done { reusable: true } } else { Body::Length { left, total } };
                    return Ok(count);
                }
                Body::Chunk { left } => {
                    let count = self.some(buffer, left)?;
                    if count == 0 {
                        return Err(self.ended());
                    }
                    let left = left - count as u64;
                    self.body = if left == 0 { Body::ChunkHead { first: false } } else { Body::Chunk { left } };
                    return Ok(count);
                }
            }
        }
    }

    fn some(&mut self, buffer: &mut [u8], most: u64) -> Result<usize, SourceError> {
        let came = self.connection.fill().map_err(|error| io_error(&self.url, &self.limits, &error))?;
        let count = came.len().min(buffer.len()).min(usize::try_from(most).unwrap_or(usize::MAX));
        buffer[..count].copy_from_slice(&came[..count]);
        self.connection.consume(count);
        Ok(count)
    }

    fn ended(&self) -> SourceError {
        SourceError::Network { url: self.url.to_string(), reason: "closed within a chunked body".to_owned() }
    }

    fn protocol(&self, reason: &str) -> SourceError {
        SourceError::Protocol { url: self.url.to_string(), reason: reason.to_owned() }
    }

    /// Reads the line before a chunk (RFC 9112, section 7.1), and behind the last one the trailer.
    fn chunk_head(&mut self, first: bool) -> Result<(), SourceError> {
        if !first && !self.line()?.is_empty() {
            return Err(self.protocol("a chunk is longer than it says"));
        }
        let line = self.line()?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let hexadecimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = hexadecimal.then(|| u64::from_str_radix(digits, 16).ok()).flatten();
        let size = size.ok_or_else(|| self.protocol("the size of a chunk is no number"))?;
        self.body = Body::Chunk { left: size };
        if size == 0 {
            let mut trailer = 0;
            loop {
                match self.line()?.len() {
                    0 => break,
                    length => trailer += length,
                }
                if trailer > TRAILER_LIMIT {
                    return Err(self.protocol("the trailer of a chunked body is too long"));
                }
            }
            self.body = Body::Done { reusable: true };
        }
        Ok(())
    }

    /// Reads a line without its end.
    fn line(&mut self) -> Result<String, SourceError> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            if self.some(&mut byte, 1)? == 0 {
                return Err(self.ended());
            }
            match byte[0] {
                b'\n' => break,
                other => line.push(other),
            }
            if line.len() > CHUNK_LINE_LIMIT {
                return Err(self.protocol("a line in a chunked body is too long"));
            }
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(|_| self.protocol("a line in a chunked body is no text"))
    }
}
