//! Requests that change something at a server, with the same proxies, certificates, credentials and patience as
//! downloads have. A body is sent from its place again when credentials are asked for, or another attempt is made.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::{HeaderMap, HeaderName, Method, header};

use super::client::{Content, Response};
use super::download::Downloader;
use super::failure::Failure;
use super::url::Url;
use super::{Authorize, FetchError, redact, retry};
use crate::effects::clock;
use crate::effects::progress::Task;

/// Most bytes of an answer that are read.
const ANSWER_LIMIT: u64 = 64 << 10;
/// Longest text of a server that is shown, in characters.
const SAID_LIMIT: usize = 300;

/// The method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// HEAD; redirects are followed.
    Head,
    /// GET; redirects are followed.
    Get,
    /// POST.
    Post,
    /// PATCH.
    Patch,
    /// PUT.
    Put,
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// Nothing.
    None,
    /// These bytes.
    Bytes(&'a [u8]),
    /// Bytes of a file.
    File {
        /// It.
        file: &'a File,
        /// First byte.
        start: u64,
        /// How many bytes.
        length: u64,
        /// Gives up soon after this becomes true.
        cancel: &'a AtomicBool,
    },
}

/// One request.
#[derive(Clone, Copy)]
pub struct Exchange<'a> {
    /// Method.
    pub verb: Verb,
    /// Absolute URL.
    pub url: &'a str,
    /// Further fields of the header.
    pub headers: &'a [(&'static str, String)],
    /// What is sent.
    pub body: Body<'a>,
    /// Who answers for credentials.
    pub authorize: Option<&'a dyn Authorize>,
    /// How long the answer may take, when that is longer than a stall elsewhere.
    pub patience: Option<Duration>,
}

/// What a server answered.
#[derive(Debug)]
pub struct Answered {
    /// The status code.
    pub status: u16,
    /// The body, cut at a limit.
    pub body: Vec<u8>,
    headers: HeaderMap,
    url: Url,
}

/// One attempt failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SendFailure(Failure);

impl SendFailure {
    /// Whether the same request can work a little later.
    pub fn is_temporary(&self) -> bool {
        self.0.is_temporary()
    }

    /// Returns the status of the answer, when the failure is one.
    pub fn status(&self) -> Option<u16> {
        match self.0 {
            Failure::NotFound(status)
            | Failure::Status(status)
            | Failure::Busy { status, .. }
            | Failure::TooBusy { status, .. }
            | Failure::Refused { status, .. } => Some(status),
            _ => None,
        }
    }

    /// Says of an upload that is not known any more, or is known otherwise, that it can begin again.
    pub fn or_lost(self) -> Self {
        match self.status() {
            Some(status @ (404 | 410 | 416)) => SendFailure(Failure::Lost(status)),
            _ => self,
        }
    }
}

impl From<FetchError> for SendFailure {
    fn from(error: FetchError) -> Self {
        SendFailure(Failure::Fatal(error))
    }
}

impl Answered {
    /// Returns a field of the header, when it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns `Location`, absolute. It never leads from https to http.
    ///
    /// # Errors
    /// When there is none that can be used.
    pub fn location(&self) -> Result<String, SendFailure> {
        let location = self.header("location").ok_or(SendFailure(Failure::NoLocation(self.status)))?;
        Ok(self.url.redirect(location).map_err(SendFailure)?.to_string())
    }

    /// Returns it when its status is one of `expected`, else the failure that it is.
    ///
    /// # Errors
    /// [`SendFailure`].
    pub fn expect(self, net: &Downloader, expected: &[u16]) -> Result<Self, SendFailure> {
        if expected.contains(&self.status) {
            return Ok(self);
        }
        let status = self.status;
        Err(SendFailure(match status {
            404 | 410 => Failure::NotFound(status),
            408 | 425 | 429 | 500..=599 => {
                let after =
                    self.header("retry-after").and_then(|text| retry::parse_retry_after(text, clock::now_seconds()));
                match after {
                    Some(after) if after > net.options().retry_after_limit => Failure::TooBusy { status, after },
                    after => Failure::Busy { status, after },
                }
            }
            _ => match said(&self.body) {
                Some(said) => Failure::Refused { status, said },
                None => Failure::Status(status),
            },
        }))
    }
}

/// Returns what a registry says of an error (OCI distribution specification 1.1, "Error Codes").
fn said(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        errors: Vec<Error>,
    }
    #[derive(Deserialize)]
    struct Error {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let said: Said = serde_json::from_slice(body).ok()?;
    let texts: Vec<String> = said.errors.iter().map(|error| format!("{} {}", error.code, error.message)).collect();
    let text: String = texts.join("; ").chars().take(SAID_LIMIT).collect();
    // It comes from outside, and goes to a terminal.
    let text: String = text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

impl Downloader {
    /// Sends one request, once; credentials that are asked for are given. `sent` is told of each part of the body that
    /// has gone out: a number of bytes, from the start of the body.
    ///
    /// # Errors
    /// [`SendFailure`]; any status is an answer.
    pub fn exchange(&self, exchange: &Exchange<'_>, sent: &mut dyn FnMut(u64)) -> Result<Answered, SendFailure> {
        let url = Url::parse(exchange.url).map_err(SendFailure)?;
        let response = self.authorized(exchange, &url, sent).map_err(SendFailure)?;
        let stall = self.options().stall_timeout;
        let mut body = Vec::new();
        let Response { status, headers, body: reader, .. } = response;
        let read = reader.into_reader().take(ANSWER_LIMIT).read_to_end(&mut body);
        let at = body.len() as u64;
        read.map_err(|error| SendFailure(Failure::in_body(error, at, stall, false)))?;
        Ok(Answered { status, body, headers, url })
    }

    fn authorized(&self, exchange: &Exchange<'_>, url: &Url, sent: &mut dyn FnMut(u64)) -> Result<Response, Failure> {
        let mut used = exchange.authorize.and_then(Authorize::authorization);
        for _ in 0..2 {
            let response = self.once(exchange, url, used.as_deref(), sent)?;
            let Some(authorize) = exchange.authorize else { return Ok(response) };
            if response.status != 401 || response.origin != url.origin() {
                return Ok(response);
            }
            match authorize.answer(&response.challenges(), used.as_deref())? {
                Some(value) => used = Some(value),
                None => return Ok(response),
            }
        }
        self.once(exchange, url, used.as_deref(), sent)
    }

    fn once(
        &self,
        exchange: &Exchange<'_>,
        url: &Url,
        authorization: Option<&str>,
        sent: &mut dyn FnMut(u64),
    ) -> Result<Response, Failure> {
        let headers: Vec<(HeaderName, String)> = exchange
            .headers
            .iter()
            .map(|(name, value)| Ok((name.parse::<HeaderName>()?, value.clone())))
            .collect::<Result<_, header::InvalidHeaderName>>()
            .map_err(|error| Failure::BadUrl(error.to_string()))?;
        let url = authorization.map_or_else(|| url.clone(), |value| url.with_authorization(value));
        let method = match exchange.verb {
            Verb::Head => return self.client.follow(Method::HEAD, &url, &headers),
            Verb::Get => return self.client.follow(Method::GET, &url, &headers),
            Verb::Post => Method::POST,
            Verb::Patch => Method::PATCH,
            Verb::Put => Method::PUT,
        };
        match exchange.body {
            Body::None => self.client.hop(method, &url, &headers, Content::Bytes(&[]), exchange.patience),
            Body::Bytes(bytes) => self.client.hop(method, &url, &headers, Content::Bytes(bytes), exchange.patience),
            Body::File { file, start, length, cancel } => {
                let mut part = Part { file, start, length, position: 0, sent, cancel };
                let content = Content::Reader(&mut part, length);
                self.client.hop(method, &url, &headers, content, exchange.patience)
            }
        }
    }

    /// Makes attempts until one works, with growing waits between, as long as failures look temporary. One
    /// that failed says whether it brought the matter further: then it is not counted.
    ///
    /// # Errors
    /// [`FetchError::Send`], about `name` and the URL `place`; what has no other cause than the one it was given.
    pub fn attempts<T>(
        &self,
        (name, place): (&str, &str),
        task: &mut dyn Task,
        mut attempt: impl FnMut(&mut dyn Task) -> Result<T, (SendFailure, bool)>,
    ) -> Result<T, FetchError> {
        let mut round = 0;
        loop {
            let (SendFailure(failure), progressed) = match attempt(task) {
                Ok(value) => return Ok(value),
                Err((SendFailure(Failure::Fatal(error)), _)) => return Err(error),
                Err(failed) => failed,
            };
            round = if progressed { 1 } else { round + 1 };
            if round > self.options().retries || !failure.is_temporary() {
                let (name, place) = (name.to_owned(), redact(place));
                return Err(match failure {
                    Failure::Refused { status: 401 | 403, .. } | Failure::Status(401 | 403) => {
                        FetchError::Denied { name, place, reason: failure.to_string() }
                    }
                    failure => FetchError::Send { name, place, reason: failure.to_string() },
                });
            }
            let wait = retry::backoff(self.options(), round).max(failure.retry_after().unwrap_or_default());
            task.note(&format!("again in {:.1} s: {failure}", wait.as_secs_f32()));
            let until = Instant::now() + wait;
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            task.note("");
        }
    }

    /// Starts to show something that takes time.
    pub fn task(&self, name: &str, total: Option<u64>) -> Box<dyn Task> {
        self.progress.start(name, total)
    }
}

/// Bytes of a file, counted.
struct Part<'a> {
    file: &'a File,
    start: u64,
    length: u64,
    position: u64,
    sent: &'a mut dyn FnMut(u64),
    cancel: &'a AtomicBool,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.length - self.position;
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        if self.cancel.load(Ordering::Relaxed) {
            return Err(io::Error::other("given up"));
        }
        let count = self.file.read_at(&mut buffer[..most], self.start + self.position)?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
        }
        self.position += count as u64;
        (self.sent)(self.position);
        Ok(count)
    }
}
