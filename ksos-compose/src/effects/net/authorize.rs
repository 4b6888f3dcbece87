//! Credentials that a server asks for: what a source that knows them implements.

use super::FetchError;

/// Answers what a server asks for with status 401 (RFC 9110, section 11). Shared by threads.
///
/// The value goes to the origin of the URL alone: a redirect to another host does not carry it.
pub trait Authorize: Sync {
    /// Returns the value of `Authorization` to try first, when one is known.
    fn authorization(&self) -> Option<String>;

    /// Returns another value after `used` was refused with these values of `WWW-Authenticate`; none when there is no
    /// other.
    ///
    /// # Errors
    /// [`FetchError`] when a value cannot be had, or everything there is was refused.
    fn answer(&self, challenges: &[String], used: Option<&str>) -> Result<Option<String>, FetchError>;
}

/// How a download is asked for, beyond its URL.
#[derive(Clone, Copy, Default)]
pub struct Manner<'a> {
    /// Value of `Accept`.
    pub accept: Option<&'a str>,
    /// Who answers for credentials.
    pub authorize: Option<&'a dyn Authorize>,
    /// Fields of a form that is sent by POST instead of asking by GET. No redirect is followed then.
    pub form: Option<&'a str>,
}

/// A document and what its server called it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The body.
    pub bytes: Vec<u8>,
    /// `Content-Type` without parameters, in lower case; empty when there is none.
    pub media_type: String,
}
