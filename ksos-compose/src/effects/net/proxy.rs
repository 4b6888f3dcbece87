//! Which proxy a URL goes through, by the variables that curl and most other tools read.
//!
//! `http_proxy` (lower case only: a CGI server sets `HTTP_PROXY` from a request header), `https_proxy`, `all_proxy` and
//! `no_proxy`. An `http` URL is asked of the proxy in absolute form (RFC 9112, section 3.2.2), as proxies that allow
//! CONNECT only to port 443 require; an `https` URL goes through CONNECT.

use super::failure::Failure;
use super::url::Url;

/// Proxy settings, as the environment states them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyVariables {
    /// For `http` URLs.
    pub http: Option<String>,
    /// For `https` URLs.
    pub https: Option<String>,
    /// For URLs that have no proxy by the other two.
    pub all: Option<String>,
    /// Hosts that are reached directly: a comma-separated list of names (which cover the names below them), addresses,
    /// IPv4 networks as `10.0.0.0/8`, each with an optional `:port`, or `*`.
    pub none: Option<String>,
}

impl ProxyVariables {
    /// Reads the variables with `lookup` (the binary's environment). Empty means unset.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&str]| names.iter().filter_map(|name| lookup(name)).find(|value| !value.is_empty());
        ProxyVariables {
            http: first(&["http_proxy"]),
            https: first(&["https_proxy", "HTTPS_PROXY"]),
            all: first(&["all_proxy", "ALL_PROXY"]),
            none: first(&["no_proxy", "NO_PROXY"]),
        }
    }

    /// Returns the proxy for `url`, or none for a direct connection.
    pub(super) fn for_url(&self, url: &Url) -> Option<&str> {
        let origin = url.origin();
        let proxy = if origin.secure { &self.https } else { &self.http };
        let proxy = proxy.as_deref().or(self.all.as_deref())?;
        let excluded = self.none.as_deref().is_some_and(|list| is_excluded(list, &origin.host, origin.port));
        (!excluded).then_some(proxy)
    }
}

/// Values may have passwords.
impl std::fmt::Debug for ProxyVariables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let redacted = |value: &Option<String>| value.as_deref().map(super::url::redact);
        f.debug_struct("ProxyVariables")
            .field("http", &redacted(&self.http))
            .field("https", &redacted(&self.https))
            .field("all", &redacted(&self.all))
            .field("none", &self.none)
            .finish()
    }
}

/// Parses the value of a proxy variable, which may lack the scheme.
pub(super) fn parse(value: &str) -> Result<Url, Failure> {
    let text = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    Url::parse(&text).map_err(|error| Failure::Proxy(format!("the proxy cannot be used: {error}")))
}

fn is_excluded(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches([']', '.']);
    list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| matches(entry, host, port))
}

fn matches(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    // `::1` has colons and no port; `[::1]:80` and `host:80` have one.
    let (name, wanted) = match entry.rsplit_once(':') {
        Some((name, digits)) if !name.contains(':') || name.ends_with(']') => (name, digits.parse().ok()),
        _ => (entry, None),
    };
    if wanted.is_some_and(|wanted: u16| wanted != port) {
        return false;
    }
    let name = name.trim_matches(['[', ']']).to_ascii_lowercase();
    if let Some((network, length)) = name.split_once('/') {
        return in_network(network, length, host).unwrap_or(false);
    }
    let name = name.trim_start_matches('*').trim_start_matches('.').trim_end_matches('.');
    !name.is_empty() && (host == name || host.strip_suffix(name).is_some_and(|head| head.ends_with('.')))
}

fn in_network(network: &str, length: &str, host: &str) -> Option<bool> {
    let network: std::net::Ipv4Addr = network.parse().ok()?;
    let host: std::net::Ipv4Addr = host.parse().ok()?;
    let length: u32 = length.parse().ok().filter(|length| *length <= 32)?;
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    Some(u32::from(network) & mask == u32::from(host) & mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_the_precedence_of_curl() {
        let set = |name: &str| match name {
            "HTTP_PROXY" => Some("http://evil:1".to_owned()),
            "https_proxy" => Some(String::new()),
            "HTTPS_PROXY" => Some("tls:1".to_owned()),
            "all_proxy" => Some("any:1".to_owned()),
            _ => None,
        };
        let variables = ProxyVariables::from_lookup(set);
        assert_eq!(variables.for_url(&Url::parse("http://host/").unwrap()), Some("any:1"));
        assert_eq!(variables.for_url(&Url::parse("https://host/").unwrap()), Some("tls:1"));
        assert_eq!(ProxyVariables::default().for_url(&Url::parse("https://host/").unwrap()), None);
    }

    #[test]
    fn no_proxy_matches_names_addresses_networks_and_ports() {
        let cases = [
            ("*", "host", true),
            ("example.org", "example.org", true),
            ("example.org", "sub.example.org", true),
            (".example.org", "example.org", true),
            ("*.example.org", "a.b.example.org", true),
            ("example.org", "badexample.org", false),
            ("EXAMPLE.org:80", "example.org", true),
            ("example.org:81", "example.org", false),
            ("10.0.0.0/8", "10.20.30.40", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "11.0.0.1", true),
            ("10.0.0.0/99", "10.0.0.1", false),
            ("::1", "[::1]", true),
            ("[::1]:80", "[::1]", true),
            ("localhost, 127.0.0.1", "127.0.0.1", true),
            ("", "host", false),
            (" , .", "host", false),
        ];
        for (list, host, expected) in cases {
            assert_eq!(is_excluded(list, host, 80), expected, "{list} {host}");
        }
    }

    #[test]
    fn an_unknown_proxy_protocol_is_refused_without_its_password() {
        let error = parse("socks5://user:secret@host:1080").unwrap_err().to_string();
        assert!(error.contains("socks5://host:1080") && !error.contains("secret"), "{error}");
        assert_eq!(parse("host:3128").unwrap().to_string(), "http://host:3128/");
        assert!(
            !format!("{:?}", ProxyVariables { http: Some("http://u:secret@h".into()), ..Default::default() })
                .contains("secret")
        );
    }
}
