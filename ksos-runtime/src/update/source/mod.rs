//! Where channels, key sets and releases come from: a published tree over HTTP(S), or a repository of an OCI registry.
//!
//! Nothing that comes from here is believed because of where it comes from: envelopes are verified by the caller
//! ([`ksos_formats::update::Envelope::verify`]), blobs by the digests in them. What this module promises is that it
//! reads no more than was declared, that it ends, that credentials stay where they belong, and that a broken connection
//! costs no more than what was on its way.

//!
//! - `url`, `settings`: what is configured. `challenge`: what registries want to see.
//! - `pace`, `connection`, `message`, `client`: HTTP/1.1 over TCP or TLS (rustls), directly or through a proxy.
//! - `fetch`: documents and ranges, with limits, attempts and resumption.
//! - `tree`: a published tree. `registry`, `manifest`, `signed`: a registry, and the signatures of `cosign` there.
//!
//! Blocking, one thread, some hundred kilobytes of memory whatever is fetched but for the chunk index.

mod challenge;
mod client;
mod connection;
mod fetch;
#[cfg(fuzzing)]
pub mod fuzzing;
mod manifest;
mod message;
mod pace;
mod registry;
mod settings;
mod signed;
mod tree;
mod url;

use std::fmt;

use ksos_formats::update::Blob;
use ksos_formats::update::fetch::Range;
use ksos_formats::{Arch, Digest};

use self::pace::{Clock, Limits, Monotonic};
use self::registry::Registry;
use self::settings::Credentials;
use self::tree::Tree;
use self::url::Url;
use crate::sys::{self, Sys};

/// What a source is opened with.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SourceSettings {
    /// `https://HOST[:PORT]/PATH`, `http://HOST[:PORT]/PATH`, `oci://HOST[:PORT]/REPOSITORY`, or `oci+http://...`.
    pub url: String,
    /// User name.
    pub username: Option<String>,
    /// Password; without a user name, a bearer token.
    pub password: Option<String>,
    /// `http://[USER:PASSWORD@]HOST:PORT`.
    pub proxy: Option<String>,
    /// Most bytes per second that are fetched; 0 is no limit.
    pub bandwidth: Option<u64>,
    /// Paths of PEM files with the certificate authorities that are trusted; those that do not exist are left out.
    pub ca_bundle: Vec<String>,
    /// Public keys (PEM) of `cosign`; a release must also be signed by one of them. Empty: it need not.
    pub cosign_keys: Vec<String>,
}

/// Shows no password.
impl fmt::Debug for SourceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SourceSettings { url, username, password, proxy, bandwidth, ca_bundle, cosign_keys } = self;
        f.debug_struct("SourceSettings")
            .field("url", url)
            .field("username", username)
            .field("password", &password.as_ref().map(|_| "(secret)"))
            .field("proxy", &proxy.as_ref().map(|_| "(set)"))
            .field("bandwidth", bandwidth)
            .field("ca_bundle", ca_bundle)
            .field("cosign_keys", &cosign_keys.len())
            .finish()
    }
}

/// Which channel of which image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelName {
    /// Name of the channel.
    pub channel: String,
    /// Image name.
    pub name: String,
    /// Architecture.
    pub arch: Arch,
}

/// How a range was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// As asked for.
    Range,
    /// The server does not do ranges: the whole blob has passed, from offset 0 on.
    Whole,
}

/// The receiver takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop;

/// Takes bytes of a blob: their offset in it, and them. Offsets ascend without a gap.
pub type Sink<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Stop> + 'a;

/// A place where releases are.
pub trait Source {
    /// Returns a channel's envelope, of at most [`ksos_formats::update::ENVELOPE_LIMIT`] bytes.
    ///
    /// # Errors
    /// [`SourceError`].
    fn channel(&mut self, name: &ChannelName) -> Result<Vec<u8>, SourceError>;

    /// Returns the envelope of a key set; `None` when there is no such set.
    ///
    /// # Errors
    /// [`SourceError`].
    fn keys(&mut self, version: u64) -> Result<Option<Vec<u8>>, SourceError>;

    /// Opens the release `name` ([`ksos_formats::update::release_name`]) and returns its envelope. A tag is resolved here
    /// and not again.
    ///
    /// # Errors
    /// [`SourceError`].
    fn open_release(&mut self, name: &str) -> Result<Vec<u8>, SourceError>;

    /// Returns the chunk index of the open release, its size and digest verified.
    ///
    /// # Errors
    /// [`SourceError`].
    fn index(&mut self, blob: &Blob) -> Result<Vec<u8>, SourceError>;

    /// Passes `range` of the chunks of the open release to `sink`; what breaks on the way is resumed. The digest is not
    /// looked at: chunks have their own.
    ///
    /// # Errors
    /// [`SourceError`]; [`SourceError::Stopped`] when the sink has had enough.
    fn chunks(&mut self, blob: &Blob, range: Range, sink: &mut Sink<'_>) -> Result<Served, SourceError>;
}

/// Why a source does not give what was asked for. URLs in it have neither credentials nor a query.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The receiver of the bytes took no more.
    #[error("the receiver took no more")]
    Stopped,
    /// The URL of the source is none.
    #[error("update source {url:?}: {reason}")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The proxy is none.
    #[error("update proxy: {0}")]
    Proxy(&'static str),
    /// User name or password cannot be sent.
    #[error("update credentials: {0}")]
    Credentials(&'static str),
    /// A file with certificate authorities cannot be read.
    #[error(transparent)]
    Read(#[from] sys::Error),
    /// A file with certificate authorities has none.
    #[error("{path}: {reason}")]
    Authorities {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The image asks for signatures by `cosign`, which a published tree has not.
    #[error("update source {0:?}: the image has keys of cosign, whose signatures only an OCI registry has")]
    CosignWithoutRegistry(String),
    /// A key of `cosign` cannot be used.
    #[error("cosign key {number}: {reason}")]
    CosignKey {
        /// Which one, from 1.
        number: usize,
        /// What is wrong.
        reason: String,
    },
    /// No key of `cosign` has signed the release.
    #[error("{url}: not signed by any of the {keys} cosign keys of the image: {reason}")]
    CosignUnsigned {
        /// The manifest.
        url: String,
        /// How many keys there are.
        keys: usize,
        /// What was found instead.
        reason: String,
    },
    /// No release is open.
    #[error("no release is open")]
    NotOpen,
    /// There is no such thing.
    #[error("{0}: not found (404)")]
    NotFound(String),
    /// The server refuses.
    #[error("{url}: status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The credentials are not taken, or there are none.
    #[error("{url}: not allowed (status {status}): {reason}")]
    NotAllowed {
        /// What was asked for.
        url: String,
        /// HTTP status.
        status: u16,
        /// With which credentials.
        reason: String,
    },
    /// No connection, or one that broke.
    #[error("{url}: {reason}")]
    Network {
        /// What was asked for.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The certificate of the server is not to be trusted, or TLS failed otherwise.
    #[error("{url}: TLS: {reason}")]
    Tls {
        /// What was asked for.
        url: String,
        /// What happened.
        reason: String,
    },
    /// Not HTTP, or something in it that is not to be.
    #[error("{url}: not a valid answer: {reason}")]
    Protocol {
        /// What was asked for.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// Too few bytes for too long.
    #[error("{url}: {bytes} bytes in {seconds} s, fewer than is waited for")]
    Slow {
        /// What was asked for.
        url: String,
        /// Bytes in the last window.
        bytes: u64,
        /// Length of the window in seconds.
        seconds: u64,
    },
    /// More bytes than there may be.
    #[error("{url}: more than {limit} bytes")]
    Large {
        /// What was asked for.
        url: String,
        /// Most bytes that it may have.
        limit: u64,
    },
    /// Another size than was declared.
    #[error("{url}: {found} bytes instead of {expected}")]
    Size {
        /// What was asked for.
        url: String,
        /// Bytes that it has to have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// The connection ended too early.
    #[error("{url}: ended after {received} of {expected} bytes")]
    Truncated {
        /// What was asked for.
        url: String,
        /// Bytes of the answer.
        expected: u64,
        /// Bytes that came.
        received: u64,
    },
    /// Another range than was asked for.
    #[error("{url}: asked for bytes {asked}, the answer is {answered:?}")]
    WrongRange {
        /// What was asked for.
        url: String,
        /// The range, `FIRST-LAST/SIZE`.
        asked: String,
        /// `Content-Range` of the answer.
        answered: String,
    },
    /// The file was exchanged while it was fetched.
    #[error("{url}: changed while it was fetched")]
    Changed {
        /// What was asked for.
        url: String,
    },
    /// A redirect that is not followed.
    #[error("{url}: a redirect to {target:?} is not followed: {reason}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Where it leads.
        target: String,
        /// Why not.
        reason: &'static str,
    },
    /// An HTML page in place of the file: a portal that wants to be logged in to, an error page.
    #[error("{0}: an HTML page instead of the file")]
    Html(String),
    /// Other bytes than were declared.
    #[error("{url}: has digest {found} instead of {expected}")]
    Digest {
        /// What was asked for.
        url: String,
        /// SHA-256 that it has to have.
        expected: Digest,
        /// SHA-256 that it has.
        found: Digest,
    },
    /// A document of the registry that is not what it should be.
    #[error("{url}: {reason}")]
    Document {
        /// What was asked for.
        url: String,
        /// What is wrong.
        reason: String,
    },
}

impl SourceError {
    /// Whether the same may go well later: the network or the server, not what was asked for or what came.
    pub fn is_transient(&self) -> bool {
        match self {
            SourceError::Network { .. } | SourceError::Slow { .. } | SourceError::Truncated { .. } => true,
            SourceError::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502..=504),
            _ => false,
        }
    }
}

/// Opens a source. Nothing is fetched yet.
///
/// # Errors
/// Settings that cannot be used; a file with certificate authorities that cannot be read.
pub fn open(settings: &SourceSettings, sys: &dyn Sys) -> Result<Box<dyn Source>, SourceError> {
    open_with(settings, sys, Box::new(Monotonic::new()), Limits::default())
}

fn open_with(
    settings: &SourceSettings,
    sys: &dyn Sys,
    clock: Box<dyn Clock>,
    limits: Limits,
) -> Result<Box<dyn Source>, SourceError> {
    let invalid = |reason| SourceError::Url { url: settings.url.clone(), reason };
    let credentials = Credentials::from_settings(settings)?;
    let keys = signed::keys(&settings.cosign_keys)?;
    let registry = settings.url.strip_prefix("oci://").map(|rest| (rest, false));
    let registry = registry.or_else(|| settings.url.strip_prefix("oci+http://").map(|rest| (rest, true)));
    if let Some((rest, plain)) = registry {
        let location = registry::location(rest, plain).map_err(invalid)?;
        let client = settings::client(settings, location.0.origin.scheme, sys, clock, limits)?;
        return Ok(Box::new(Registry::new(client, location, credentials, keys)));
    }
    let base = Url::parse(&settings.url).map_err(invalid)?;
    if settings.url.contains(['?', '#']) {
        return Err(invalid("it has a query or a fragment"));
    }
    if !keys.is_empty() {
        return Err(SourceError::CosignWithoutRegistry(base.to_string()));
    }
    let client = settings::client(settings, base.origin.scheme, sys, clock, limits)?;
    Ok(Box::new(Tree::new(client, base, credentials)))
}

#[cfg(test)]
mod tests;
