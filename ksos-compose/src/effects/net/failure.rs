//! Why one attempt at one URL failed, and whether another attempt can help.

use std::io;
use std::time::Duration;

use ksos_formats::Digest;

use super::FetchError;

/// One failed attempt.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The URL, or one that it redirects to, cannot be used.
    #[error("{0}")]
    BadUrl(String),
    /// A redirect would give up encryption.
    #[error("redirects from https to {to}, which is not encrypted")]
    Downgrade {
        /// The target.
        to: String,
    },
    /// Redirects did not end.
    #[error("more than {0} redirects")]
    Redirects(u32),
    /// A redirect without a usable `Location`.
    #[error("a redirect (status {0}) without a location")]
    NoLocation(u16),
    /// The proxy cannot be used.
    #[error("{0}")]
    Proxy(String),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The TLS handshake failed; most often the certificate.
    #[error("the encrypted connection failed: {0}")]
    Tls(String),
    /// The other side does not speak HTTP as it should.
    #[error("not a valid HTTP answer: {0}")]
    Protocol(String),
    /// The connection broke. `progressed` when the attempt brought the download further than any before.
    #[error("the connection broke after {at} bytes: {cause}")]
    Interrupted { at: u64, cause: String, progressed: bool },
    /// No byte for too long.
    #[error("stalled after {at} bytes: nothing came for {} s", seconds.as_secs_f32())]
    Stalled { at: u64, seconds: Duration, progressed: bool },
    /// The body ended before its declared or known size.
    #[error("truncated: {actual} bytes of {expected}")]
    Truncated { actual: u64, expected: u64, progressed: bool },
    /// 404 or 410.
    #[error("not found (status {0})")]
    NotFound(u16),
    /// 404, 410 or 416 of an upload that was begun.
    #[error("the registry has lost track of the upload (status {0})")]
    Lost(u16),
    /// A status that another attempt may change.
    #[error("the server answered with status {status}")]
    Busy { status: u16, after: Option<Duration> },
    /// A status that stays.
    #[error("the server answered with status {0}")]
    Status(u16),
    /// A status that stays, with what the server said of it.
    #[error("the server answered with status {status}: {said}")]
    Refused { status: u16, said: String },
    /// The server asks for more patience than is allowed.
    #[error("the server answered with status {status} and asks to wait {} s", after.as_secs())]
    TooBusy { status: u16, after: Duration },
    /// Larger than [`super::Request::limit`].
    #[error("larger than the limit of {limit} bytes")]
    TooLarge { limit: u64 },
    /// Not the size that is known.
    #[error("has {actual} bytes, expected {expected}")]
    Size { actual: u64, expected: u64 },
    /// Longer than the size that is known; the rest was not read.
    #[error("is longer than the expected {expected} bytes")]
    Longer { expected: u64 },
    /// Not the digest that is known.
    #[error("has SHA-256 {actual}, expected {expected}{}", if *html { "; the server sent a web page (text/html) instead of the file" } else { "" })]
    Digest { actual: Digest, expected: Digest, html: bool },
    /// A web page where nothing is known to compare it with.
    #[error("the server sent a web page (text/html) instead of the file")]
    Html,
    /// No other URL can help: the cache failed, or the user gave up.
    #[error(transparent)]
    Fatal(#[from] FetchError),
}

impl Failure {
    /// Can the same URL work a little later?
    pub(super) fn is_temporary(&self) -> bool {
        use Failure::{Busy, Connect, Interrupted, Lost, Stalled, Truncated};
        matches!(self, Connect(_) | Interrupted { .. } | Stalled { .. } | Truncated { .. } | Busy { .. } | Lost(_))
    }

    /// Did the attempt bring the download further than any before it?
    pub(super) fn progressed(&self) -> bool {
        use Failure::{Interrupted, Stalled, Truncated};
        matches!(
            self,
            Interrupted { progressed: true, .. }
                | Stalled { progressed: true, .. }
                | Truncated { progressed: true, .. }
        )
    }

    /// What the server asked to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        if let Failure::Busy { after, .. } = self { *after } else { None }
    }

    /// Classifies what went wrong before there was an answer.
    pub(super) fn before_answer(error: ureq::Error, patience: Duration) -> Self {
        match error {
            ureq::Error::Timeout(ureq::Timeout::PerRead | ureq::Timeout::RecvResponse) => {
                Failure::Stalled { at: 0, seconds: patience, progressed: false }
            }
            // rustls reports a refused certificate as invalid data.
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => Failure::Tls(error.to_string()),
            ureq::Error::Io(error) if is_broken(error.kind()) => {
                Failure::Interrupted { at: 0, cause: error.to_string(), progressed: false }
            }
            ureq::Error::Io(error) => Failure::Connect(error.to_string()),
            ureq::Error::Rustls(error) => Failure::Tls(error.to_string()),
            ureq::Error::Tls(text) => Failure::Tls(text.to_owned()),
            ureq::Error::Protocol(error) => Failure::Protocol(error.to_string()),
            ureq::Error::LargeResponseHeader(..) => Failure::Protocol("the header is too long".to_owned()),
            other => Failure::Connect(other.to_string()),
        }
    }

    /// Classifies what went wrong in the body, `at` bytes into the file.
    pub(super) fn in_body(error: io::Error, at: u64, patience: Duration, progressed: bool) -> Self {
        match ureq::Error::from(error) {
            ureq::Error::Timeout(_) => Failure::Stalled { at, seconds: patience, progressed },
            ureq::Error::Protocol(error) => Failure::Protocol(error.to_string()),
            other => Failure::Interrupted { at, cause: other.into_io().to_string(), progressed },
        }
    }
}

fn is_broken(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}
