//! URLs as far as updates need them (RFC 3986): `http` and `https`, absolute, without user information.

use std::fmt;
use std::net::IpAddr;

/// Longest URL in bytes: storage behind registries signs long ones.
const URL_LIMIT: usize = 8 << 10;

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// Plain.
    Http,
    /// With TLS.
    Https,
}

/// Which server: what credentials and connections belong to (RFC 6454, section 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// How it is spoken to.
    pub(super) scheme: Scheme,
    /// Name or address, lower-case; an IPv6 address without brackets.
    pub(super) host: String,
    /// Port.
    pub(super) port: u16,
}

/// A URL. Shown without its query, which may hold a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    /// Which server.
    pub(super) origin: Origin,
    /// Path and query, from the `/` on.
    pub(super) target: String,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

impl Origin {
    /// Reads `HOST[:PORT]`.
    pub(super) fn parse(scheme: Scheme, authority: &str) -> Result<Self, &'static str> {
        if authority.contains('@') {
            return Err("user names and passwords do not belong into a URL");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or("the address has no ]")?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| "no IPv6 address between [ and ]")?;
                (host, port)
            }
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => scheme.default_port(),
            Some("") => scheme.default_port(),
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().ok().filter(|port| *port != 0).ok_or("no such port")?
            }
            _ => return Err("no such port"),
        };
        let ordinary = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
        if host.is_empty() || host.len() > 253 || !host.bytes().all(ordinary) {
            return Err("no host name or address");
        }
        Ok(Origin { scheme, host: host.to_ascii_lowercase(), port })
    }

    /// Whether it is this machine by address, or `localhost`.
    pub(super) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }

    /// Returns `HOST:PORT`.
    pub(super) fn with_port(&self) -> String {
        let (open, close) = self.brackets();
        format!("{open}{}{close}:{}", self.host, self.port)
    }

    fn brackets(&self) -> (&'static str, &'static str) {
        if self.host.contains(':') { ("[", "]") } else { ("", "") }
    }

    /// Returns the value of the field `Host` (RFC 9110, section 7.2): without the default port.
    pub(super) fn authority(&self) -> String {
        let (open, close) = self.brackets();
        match self.port == self.scheme.default_port() {
            true => format!("{open}{}{close}", self.host),
            false => self.with_port(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.authority())
    }
}

impl Url {
    /// Reads an absolute URL. A fragment is left out.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        check(text)?;
        let (scheme, rest) = split_scheme(text).ok_or("neither http:// nor https://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        Ok(Url { origin: Origin::parse(scheme, authority)?, target: absolute(target) })
    }

    /// Returns the URL of a path below this one.
    pub(super) fn below(&self, path: &str) -> Url {
        let base = self.target.trim_end_matches('/');
        Url { origin: self.origin.clone(), target: format!("{base}/{path}") }
    }

    /// Returns where `Location: reference` leads (RFC 3986, section 5.2; dots in paths are left to the server).
    pub(super) fn join(&self, reference: &str) -> Result<Url, &'static str> {
        check(reference)?;
        if split_scheme(reference).is_some() {
            return Url::parse(reference);
        }
        if let Some(rest) = reference.strip_prefix("//") {
            return Url::parse(&format!("{}://{rest}", self.origin.scheme.name()));
        }
        let path = self.target.split('?').next().unwrap_or("/");
        let target = match reference.as_bytes().first() {
            Some(b'/') => reference.to_owned(),
            Some(b'?') => format!("{path}{reference}"),
            _ if reference.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':')) => {
                return Err("neither http:// nor https://");
            }
            _ => {
                let directory = path.rfind('/').map_or("/", |end| &path[..=end]);
                format!("{directory}{reference}")
            }
        };
        Ok(Url { origin: self.origin.clone(), target: absolute(&target) })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.target.split('?').next().unwrap_or_default())
    }
}

fn check(text: &str) -> Result<(), &'static str> {
    if text.len() > URL_LIMIT {
        return Err("longer than 8 KiB");
    }
    // Nothing that would end a line or a field of a request.
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) { Err("characters that no URL has") } else { Ok(()) }
}

fn split_scheme(text: &str) -> Option<(Scheme, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Some((Scheme::Http, rest)),
        "https" => Some((Scheme::Https, rest)),
        _ => None,
    }
}

fn absolute(target: &str) -> String {
    let target = target.split('#').next().unwrap_or_default();
    if target.starts_with('/') { target.to_owned() } else { format!("/{target}") }
}

/// Returns `text` as part of a query or path: what is not unreserved is encoded (RFC 3986, section 2.1).
pub(super) fn encode(text: &str) -> String {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let one = |byte: u8| if unreserved(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

/// Undoes [`encode`].
pub(super) fn decode(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_what_is_none() {
        for (text, shown, host_field) in [
            ("https://Example.org", "https://example.org/", "example.org"),
            ("http://example.org:80/a/b?c=d#e", "http://example.org/a/b", "example.org"),
            ("https://[::1]:5000/x", "https://[::1]:5000/x", "[::1]:5000"),
            ("HTTPS://h:8443?q", "https://h:8443/", "h:8443"),
        ] {
            let url = Url::parse(text).expect(text);
            assert_eq!((url.to_string().as_str(), url.origin.authority().as_str()), (shown, host_field));
        }
        for text in [
            "",
            "ftp://h/",
            "https://",
            "https:///x",
            "http://u:p@h/",
            "http://h:0/",
            "http://h:65536/",
            "http://h:+1/",
            "http://h:x/",
            "http://[::1/",
            "http://[h]/",
            "http://a b/",
            "http://h/\r\nX: y",
            "http://h/\u{e4}",
            "/x",
            "http://h%00/",
        ] {
            assert!(Url::parse(text).is_err(), "{text:?}");
        }
        assert!(Url::parse(&format!("http://h/{}", "a".repeat(URL_LIMIT))).is_err());
    }

    #[test]
    fn references_are_resolved() {
        let base = Url::parse("https://h:1/a/b?c").expect("a URL");
        for (reference, expected) in [
            ("http://other/x", "http://other/x"),
            ("//other:2/x?y", "https://other:2/x?y"),
            ("/x", "https://h:1/x"),
            ("x/y", "https://h:1/a/x/y"),
            ("?z", "https://h:1/a/b?z"),
        ] {
            let expected = Url::parse(expected).expect("a URL");
            assert_eq!(base.join(reference), Ok(expected), "{reference}");
        }
        for reference in ["file:///etc/passwd", "javascript:x", "http://u@h/", "/a\r\nb"] {
            assert!(base.join(reference).is_err(), "{reference:?}");
        }
    }

    #[test]
    fn loopback_is_known() {
        for (host, loopback) in
            [("127.0.0.9", true), ("[::1]", true), ("localhost", true), ("127.0.0.1.example", false)]
        {
            assert_eq!(Origin::parse(Scheme::Http, host).expect(host).is_loopback(), loopback, "{host}");
        }
    }

    #[test]
    fn percent_encoding_round_trips() {
        assert_eq!(encode("repository:a/b:pull é"), "repository%3Aa%2Fb%3Apull%20%C3%A9");
        assert_eq!(decode(&encode("p@ss:w/rd%")).as_deref(), Some("p@ss:w/rd%"));
        for text in ["%", "%1", "%+1", "%zz", "%ff"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
