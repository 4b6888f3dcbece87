//! URLs of downloads: `http` and `https` only, with the credentials kept apart so that they reach neither a message
//! nor another host.

use std::fmt;

use ureq::http::Uri;
use ureq::http::uri::{Authority, PathAndQuery, Scheme};

use super::failure::Failure;

/// A checked URL. Its text form has no credentials.
#[derive(Debug, Clone)]
pub(super) struct Url {
    uri: Uri,
    authorization: Option<String>,
}

/// Scheme, host and port: what must be the same for credentials to go along (RFC 6454, section 4).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    /// Is it `https`?
    pub(super) secure: bool,
    /// In lower case.
    pub(super) host: String,
    /// Explicit or by scheme.
    pub(super) port: u16,
}

impl Url {
    /// Parses an absolute `http` or `https` URL. A fragment is dropped.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let bad = |why: &str| Failure::BadUrl(format!("{} is not a usable URL: {why}", redact(text)));
        let uri: Uri = text.parse().map_err(|error| bad(&format!("{error}")))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(bad("only http and https are allowed"));
        }
        let authority = uri.authority().ok_or_else(|| bad("it has no host"))?.clone();
        if authority.host().is_empty() {
            return Err(bad("it has no host"));
        }
        let (userinfo, rest) = match authority.as_str().rsplit_once('@') {
            Some((userinfo, rest)) => (Some(userinfo), rest),
            None => (None, authority.as_str()),
        };
        let rest: Authority = rest.parse().map_err(|error| bad(&format!("{error}")))?;
        let mut parts = uri.into_parts();
        parts.authority = Some(rest);
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        let uri = Uri::from_parts(parts).map_err(|error| bad(&format!("{error}")))?;
        Ok(Url { uri, authorization: userinfo.map(basic) })
    }

    /// Returns the URI without credentials.
    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Returns the value for `Authorization`, when the URL has credentials.
    pub(super) fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// Returns the URL with this value for `Authorization` in place of its own.
    pub(super) fn with_authorization(&self, value: &str) -> Self {
        Url { uri: self.uri.clone(), authorization: Some(value.to_owned()) }
    }

    /// Returns the origin.
    pub(super) fn origin(&self) -> Origin {
        let secure = self.uri.scheme() == Some(&Scheme::HTTPS);
        Origin {
            secure,
            host: self.uri.host().unwrap_or_default().to_ascii_lowercase(),
            port: self.uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
        }
    }

    /// Returns where a redirect with this `Location` leads (RFC 9110, section 10.2.2). Credentials stay only on the
    /// same origin; the location's own are ignored; `https` never becomes `http`.
    pub(super) fn redirect(&self, location: &str) -> Result<Self, Failure> {
        let mut target = Url::parse(&self.absolute(location))?;
        let (from, to) = (self.origin(), target.origin());
        if from.secure && !to.secure {
            return Err(Failure::Downgrade { to: target.to_string() });
        }
        target.authorization = if from == to { self.authorization.clone() } else { None };
        Ok(target)
    }

    /// Resolves a reference (RFC 3986, section 5.2, without dot segments: servers resolve those themselves).
    fn absolute(&self, location: &str) -> String {
        let scheme = self.uri.scheme_str().unwrap_or("http");
        let authority = self.uri.authority().map_or("", Authority::as_str);
        let path = self.uri.path();
        let has_scheme = location
            .split_once(':')
            .is_some_and(|(head, _)| !head.is_empty() && head.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        if has_scheme {
            location.to_owned()
        } else if let Some(rest) = location.strip_prefix("//") {
            format!("{scheme}://{rest}")
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else if location.starts_with('?') {
            format!("{scheme}://{authority}{path}{location}")
        } else {
            let directory = path.rfind('/').map_or("/", |slash| &path[..=slash]);
            format!("{scheme}://{authority}{directory}{location}")
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

/// Returns `text` without the credentials that a URL may have.
pub fn redact(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => text.to_owned(),
    }
}

/// Returns the last segment of a URL's path, without query and fragment: the name of the file.
pub fn last_segment(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    rest[..end].split_once('/').map_or("", |(_, path)| path.rsplit('/').next().unwrap_or_default())
}

/// Returns the value of `Authorization` with this name and password (RFC 7617).
pub fn basic_authorization(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

/// Returns the `Basic` credentials (RFC 7617) for a percent-encoded `user:password`.
pub(super) fn basic(userinfo: &str) -> String {
    let mut plain = percent_decode(userinfo);
    if !plain.contains(&b':') {
        plain.push(b':');
    }
    format!("Basic {}", base64(&plain))
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// Encodes by RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let value = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            let digit = ALPHABET[(value >> (18 - 6 * index) & 63) as usize];
            text.push(if index <= chunk.len() { digit as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn base64_has_the_vectors_of_rfc_4648() {
        let vectors =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (plain, text) in vectors {
            assert_eq!(base64(plain.as_bytes()), text);
        }
    }

    #[test]
    fn credentials_are_kept_apart() {
        let url = url("https://us%65r:p%40ss@Example.org/x?y=1#frag");
        assert_eq!(url.to_string(), "https://Example.org/x?y=1");
        assert_eq!(url.authorization(), Some(basic("user:p%40ss").as_str()));
        assert_eq!(basic("user:p%40ss"), format!("Basic {}", base64(b"user:p@ss")));
        assert_eq!(url.origin(), Origin { secure: true, host: "example.org".into(), port: 443 });
    }

    #[test]
    fn other_schemes_and_broken_urls_are_refused_without_their_credentials() {
        for text in ["file:///etc/passwd", "ftp://host/x", "/x", "http://", "http:///x", "https://a:secret@ho st/x", ""]
        {
            let error = Url::parse(text).unwrap_err().to_string();
            assert!(error.contains("not a usable URL") && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn redirects_are_resolved_like_rfc_3986() {
        let base = url("http://host:8080/a/b/c?q");
        let cases = [
            ("http://other/x", "http://other/x"),
            ("//other/x", "http://other/x"),
            ("/x", "http://host:8080/x"),
            ("x", "http://host:8080/a/b/x"),
            ("?z", "http://host:8080/a/b/c?z"),
            ("https://host/x", "https://host/x"),
        ];
        for (location, expected) in cases {
            assert_eq!(base.redirect(location).unwrap().to_string(), expected);
        }
        assert!(base.redirect("file:///etc/passwd").is_err());
    }

    #[test]
    fn a_redirect_from_https_to_http_is_refused() {
        let error = url("https://host/x").redirect("http://host/x").unwrap_err();
        assert!(matches!(&error, Failure::Downgrade { to } if to == "http://host/x"), "{error}");
    }

    #[test]
    fn credentials_stay_on_their_origin() {
        let base = url("https://user:secret@host/x");
        assert!(base.redirect("/y").unwrap().authorization().is_some());
        assert!(base.redirect("https://HOST:443/y").unwrap().authorization().is_some());
        for location in ["https://other/y", "https://host:444/y", "//sub.host/y", "https://evil:pw@other/"] {
            assert_eq!(base.redirect(location).unwrap().authorization(), None, "{location}");
        }
    }

    #[test]
    fn redaction_and_last_segment() {
        assert_eq!(redact("https://u:p@host/x@y"), "https://host/x@y");
        assert_eq!(redact("https://host/x@y"), "https://host/x@y");
        assert_eq!(redact("u:p"), "u:p");
        assert_eq!(last_segment("https://host/a/b.tar.gz?x=/y#z"), "b.tar.gz");
        assert_eq!(last_segment("https://host"), "");
        assert_eq!(last_segment("https://host/"), "");
    }
}
