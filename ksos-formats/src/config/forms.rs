//! Forms of texts: what is expected, in words, and the check.

use std::net::{IpAddr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::update::window;

/// A form of texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// What is expected, to follow "expected".
    pub(super) expected: &'static str,
    pub(super) check: fn(&str) -> bool,
    /// What JSON Schema can say of it: a regular expression.
    #[cfg(feature = "schema")]
    pub(super) pattern: Option<&'static str>,
}

#[cfg_attr(not(feature = "schema"), expect(unused_variables, reason = "only the schema has patterns"))]
const fn form(expected: &'static str, pattern: Option<&'static str>, check: fn(&str) -> bool) -> Form {
    Form {
        expected,
        check,
        #[cfg(feature = "schema")]
        pattern,
    }
}

/// Any text.
pub(super) const ANY: Form = form("a text", None, |_| true);
/// A word.
pub(super) const WORD: Form = form("printable ASCII without blanks", Some("^[!-~]+$"), is_word);
/// A bearer token (RFC 6750, section 2.1).
pub(super) const TOKEN: Form = form(
    "at least 16 letters, digits and characters of -._~+/ with = at the end only",
    Some(r"^(?=.{16})[A-Za-z0-9._~+/-]+=*$"),
    is_token,
);
/// A host name that Kubernetes takes as a node's name.
pub(super) const HOSTNAME: Form = form(
    "a host name of at most 63 lower-case letters, digits, - and ., each part beginning and ending with a letter or digit (RFC 1123)",
    Some(r"^(?=.{1,63}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"),
    is_hostname,
);
/// A domain name.
pub(super) const DOMAIN: Form =
    form("a domain name", Some(r"^(?=.{1,253}\.?$)[A-Za-z0-9_][A-Za-z0-9_.-]*$"), is_domain);
/// A host: a name or an address.
pub(super) const HOST: Form = form("a host name or an IP address", Some(r"^[A-Za-z0-9_:][A-Za-z0-9_.:-]*$"), |text| {
    is_domain(text) || is_ip(text)
});
/// A subject alternative name of the API server: a name, with a wildcard in front if need be, or an address.
pub(super) const SAN: Form = form(
    "a DNS name or an IP address, without scheme and port",
    Some(r"^(\*\.)?[A-Za-z0-9_:][A-Za-z0-9_.:-]*$"),
    |text| is_ip(text) || is_domain(text.strip_prefix("*.").unwrap_or(text)),
);
/// An IP address.
pub(super) const IP: Form = form("an IP address", Some("^[0-9A-Fa-f:.]+$"), is_ip);
/// An IPv4 address.
pub(super) const IPV4: Form =
    form("an IPv4 address", Some(r"^[0-9]{1,3}(\.[0-9]{1,3}){3}$"), |text| text.parse::<std::net::Ipv4Addr>().is_ok());
/// An IP address with prefix length, if need be.
pub(super) const ADDRESS: Form = form(
    "an IP address, or one with prefix length as in 192.0.2.7/24",
    Some("^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"),
    |text| is_ip(text) || parse_cidr(text).is_some(),
);
/// An IP address with prefix length.
pub(super) const CIDR: Form =
    form("an IP address with prefix length, as in 192.0.2.7/24", Some("^[0-9A-Fa-f:.]+/[0-9]{1,3}$"), is_cidr);
/// The destination of a route.
pub(super) const DESTINATION: Form = form(
    "\"default\" or a network with prefix length, as in 192.0.2.0/24",
    Some("^(default|[0-9A-Fa-f:.]+/[0-9]{1,3})$"),
    |text| text == "default" || is_cidr(text),
);
/// A MAC address.
pub(super) const MAC: Form =
    form("a MAC address, as in 52:54:00:12:34:56", Some("^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$"), is_mac);
/// A name of an interface, or a pattern of names (at most 15 bytes: linux/if.h, IFNAMSIZ).
pub(super) const INTERFACE: Form = form(
    "the name of an interface (at most 15 characters without blanks, / and :), * and ? as in a shell",
    Some("^[!-.0-9;-~]{1,15}$"),
    is_interface,
);
/// An identifier of an interface in the document.
pub(super) const INTERFACE_ID: Form =
    form("a name of letters, digits, -, _ and .", Some("^[A-Za-z0-9._-]{1,64}$"), |text| is_id(text, 64));
/// The name of a VLAN interface.
pub(super) const VLAN_ID: Form =
    form("the name of an interface: at most 15 letters, digits, -, _ and .", Some("^[A-Za-z0-9._-]{1,15}$"), |text| {
        is_id(text, 15) && text != "." && text != ".."
    });
/// An address to listen on.
pub(super) const LISTEN: Form = form(
    "an address and a port, as in :9100, 127.0.0.1:9100 or [::1]:9100",
    Some(r"^([0-9.]+|\[[0-9A-Fa-f:.]+\])?:[0-9]{1,5}$"),
    is_listen,
);
/// An absolute path.
pub(super) const PATH: Form =
    form("an absolute path without empty names, . and .. in it", Some("^/[^\u{0}]*$"), is_path);
/// A disk to install to.
pub(super) const DISK: Form = form("a path below /dev, or auto", Some("^(auto|/dev/[^\u{0}]+)$"), |text| {
    text == "auto" || (is_path(text) && text.starts_with("/dev/"))
});
/// A socket: an absolute path or a `unix://` address.
pub(super) const ENDPOINT: Form =
    form("an absolute path, or unix:// and one", Some("^(unix://)?/[^\u{0}]*$"), |text| {
        is_path(text.strip_prefix("unix://").unwrap_or(text))
    });
/// A list of processors (cpuset(7), List format).
pub(super) const CPUSET: Form =
    form("numbers of processors, as in 0 or 0-1,3", Some("^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$"), is_cpuset);
/// A Kubernetes quantity that is not negative.
pub(super) const QUANTITY: Form =
    form("a quantity, as in 100m, 1 or 200Mi", Some("^[0-9]+(\\.[0-9]+)?(m|k|[KMGTPE]i?)?$"), is_quantity);
/// A resource that the kubelet can reserve (`--system-reserved`).
pub(super) const RESOURCE: Form =
    form("cpu, memory, ephemeral-storage or pid", Some("^(cpu|memory|ephemeral-storage|pid)$"), |text| {
        matches!(text, "cpu" | "memory" | "ephemeral-storage" | "pid")
    });
/// A reference to a container image.
pub(super) const IMAGE: Form =
    form("a reference to a container image", Some("^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"), is_image);
/// A Kubernetes namespace (RFC 1123 label).
pub(super) const NAMESPACE: Form =
    form("at most 63 lower-case letters, digits and -", Some("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"), |text| {
        is_hostname(text) && !text.contains('.')
    });
/// A public key as in `authorized_keys`.
pub(super) const SSH_KEY: Form = form(
    "a public key in one line, as in \"ssh-ed25519 AAAA... name\"",
    Some("(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ AAAA[A-Za-z0-9+/]+=*"),
    is_ssh_key,
);
/// Certificates, PEM.
pub(super) const CERTIFICATES: Form = form(
    "certificates in PEM: -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----",
    Some("-----BEGIN CERTIFICATE-----"),
    is_certificates,
);
/// Where releases come from. Its messages do not show what was found: it may have a password in it.
pub(super) const UPDATE_SOURCE: Form = form(
    "https://HOST/PATH, http://HOST/PATH or oci://HOST/REPOSITORY, without user name, query and fragment",
    Some(r"^(https?|oci(\+http)?)://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~!$&'()*+,;=:%/-]*)?$"),
    is_update_source,
);
/// A name of a channel.
pub(super) const CHANNEL: Form = form(
    "a name of at most 63 lower-case letters, digits and -",
    Some("^[a-z0-9][a-z0-9-]{0,62}$"),
    crate::update::is_name,
);
/// A proxy.
pub(super) const PROXY: Form =
    form("http://HOST:PORT", Some(r"^http://([!-?A-~]+@)?[A-Za-z0-9.\[\]:_-]+:[0-9]{1,5}/?$"), is_proxy);
/// A user name in HTTP Basic authentication (RFC 7617, section 2).
pub(super) const USERNAME: Form =
    form("a user name without : and control characters", Some("^[^:\u{0}-\u{1f}\u{7f}]+$"), |text| {
        is_line(text) && !text.contains(':')
    });
/// A password.
pub(super) const PASSWORD: Form = form("a text in one line", Some("^[^\u{0}-\u{1f}\u{7f}]+$"), is_line);
/// Days of the week.
pub(super) const DAYS: Form =
    form("days, as in sat, mon-fri or daily", Some("^([A-Za-z]{3,9}(-[A-Za-z]{3,9})?(, ?)?)+$"), |text| {
        window::parse_days(text).is_ok()
    });
/// A time of day.
pub(super) const START: Form = form("a local time, as in 02:00", Some("^([01]?[0-9]|2[0-3]):[0-5][0-9]$"), |text| {
    window::parse_start(text).is_ok()
});
/// A length of time.
pub(super) const LENGTH: Form =
    form("minutes, hours or days up to a week, as in 90m, 3h or 1h30m", Some("^([0-9]{1,5}[dhm])+$"), |text| {
        window::parse_length(text).is_ok()
    });
/// A time zone.
pub(super) const TIME_ZONE: Form = form(
    "UTC, an offset as in +02:00, a name as in Europe/Berlin, or a POSIX TZ string",
    Some("^[A-Za-z<+-][A-Za-z0-9_+,./:<>-]*$"),
    |text| window::TimeZone::parse(text).is_ok(),
);
/// User and group of a file.
pub(super) const OWNER: Form = form(
    "\"root:root\" or numbers, as in \"1000:1000\" (there are no other users to name)",
    Some("^(root|[0-9]+)(:(root|[0-9]+))?$"),
    |text| parse_owner(text).is_some(),
);

fn is_line(text: &str) -> bool {
    !text.trim().is_empty() && !text.chars().any(char::is_control)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    text.len() >= 16
        && !body.is_empty()
        && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte))
}

fn is_hostname(text: &str) -> bool {
    let is_part = |part: &str| {
        let inner = part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        !part.is_empty() && inner && !part.starts_with('-') && !part.ends_with('-')
    };
    // 63: the longest value of a Kubernetes label, and one below the kernel's limit.
    text.len() <= 63 && text.split('.').all(is_part)
}

fn is_domain(text: &str) -> bool {
    let is_part = |part: &str| {
        let inner = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        (1..=63).contains(&part.len()) && inner && !part.starts_with('-') && !part.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    // What looks like an IPv4 address and is none is a slip, not a name.
    name.len() <= 253 && name.split('.').all(is_part) && !name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// Splits an address with prefix length.
pub(super) fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let digits = !prefix.is_empty() && prefix.len() <= 3 && prefix.bytes().all(|byte| byte.is_ascii_digit());
    let prefix = prefix.parse::<u8>().ok().filter(|_| digits)?;
    (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, prefix))
}

fn is_cidr(text: &str) -> bool {
    parse_cidr(text).is_some()
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_interface(text: &str) -> bool {
    let inner = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    (1..=15).contains(&text.len()) && inner && text != "." && text != ".."
}

fn is_id(text: &str, longest: usize) -> bool {
    let inner = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    (1..=longest).contains(&text.len()) && inner
}

fn is_listen(text: &str) -> bool {
    let whole = text.strip_prefix(':').map(|port| format!("0.0.0.0:{port}"));
    let address = whole.as_deref().unwrap_or(text).parse::<SocketAddr>();
    address.is_ok_and(|address| address.port() != 0)
}

fn is_path(text: &str) -> bool {
    let absolute = text.len() > 1 && text.len() <= 4096 && text.starts_with('/');
    let names = || text[1..].split('/');
    absolute && !text.chars().any(char::is_control) && !names().any(|name| matches!(name, "" | "." | ".."))
}

fn is_update_source(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"@?#\\\"<>^`{|}".contains(&byte);
    let traverses = path.split('/').any(|part| matches!(part, "." | ".."));
    let fits = is_authority(authority, false) && path.bytes().all(plain) && !traverses;
    match scheme {
        "http" | "https" => fits,
        "oci" | "oci+http" => fits && is_repository(path),
        _ => false,
    }
}

/// Whether it can be a repository of a registry (OCI distribution specification 1.1, "Pulling manifests").
fn is_repository(path: &str) -> bool {
    let ordinary = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| {
        let inner = part.bytes().all(|byte| ordinary(byte) || b"._-".contains(&byte));
        inner && part.bytes().next().is_some_and(ordinary) && part.bytes().last().is_some_and(ordinary)
    };
    path.len() <= 255 && path.split('/').all(is_part)
}

/// Whether it is `HOST` or `HOST:PORT`; an IPv6 address is in brackets.
fn is_authority(text: &str, needs_port: bool) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_domain(host) || host.parse::<std::net::Ipv4Addr>().is_ok(),
    };
    let is_port =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0);
    is_host && port.map_or(!needs_port, is_port)
}

fn is_proxy(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("http://") else { return false };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user, authority) = rest.rsplit_once('@').map_or((None, rest), |(user, authority)| (Some(user), authority));
    user.is_none_or(|user| is_word(user) && !user.contains(['/', '@'])) && is_authority(authority, true)
}

fn is_cpuset(text: &str) -> bool {
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    text.split(',').all(|range| match range.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
        None => number(range).is_some(),
    })
}

fn is_quantity(text: &str) -> bool {
    let suffixes = ["m", "k", "Ki", "K", "Mi", "M", "Gi", "G", "Ti", "T", "Pi", "P", "Ei", "E"];
    let number = suffixes.iter().find_map(|suffix| text.strip_suffix(suffix)).unwrap_or(text);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match number.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(number),
    }
}

fn is_image(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first && text.len() <= 512 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/@-".contains(&byte))
}

/// Types of keys (sshd(8), AUTHORIZED_KEYS FILE FORMAT) that servers of today take.
pub const SSH_KEY_TYPES: &[&str] = &[
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

fn is_ssh_key(text: &str) -> bool {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let pair = words.windows(2).find(|pair| SSH_KEY_TYPES.contains(&pair[0]));
    // The blob begins with its type, a string with four bytes of length (RFC 4253, section 6.6).
    let fits = |pair: &&[&str]| {
        let blob = STANDARD.decode(pair[1]).unwrap_or_default();
        blob.get(4..).is_some_and(|rest| rest.len() > pair[0].len() && rest.starts_with(pair[0].as_bytes()))
    };
    is_line(text) && pair.is_some_and(|pair| fits(&pair))
}

const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const PEM_END: &str = "-----END CERTIFICATE-----";

fn is_certificates(text: &str) -> bool {
    let mut rest = text;
    let mut count = 0;
    while let Some((_, after)) = rest.split_once(PEM_BEGIN) {
        let Some((body, after)) = after.split_once(PEM_END) else { return false };
        let body: String = body.split_ascii_whitespace().collect();
        if !STANDARD.decode(body).is_ok_and(|der| is_certificate(&der)) {
            return false;
        }
        (rest, count) = (after, count + 1);
    }
    count > 0
}

/// Tells whether bytes are built as a certificate is: a sequence that begins with a sequence (RFC 5280, section 4.1). What
/// is inside is not judged.
fn is_certificate(der: &[u8]) -> bool {
    sequence(der).filter(|(_, rest)| rest.is_empty()).is_some_and(|(inner, _)| sequence(inner).is_some())
}

/// Splits a DER sequence off: its content, and what is behind it (X.690, sections 8.1.2 and 10.1).
fn sequence(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[0x30, first], rest) = bytes.split_first_chunk::<2>()? else { return None };
    if first < 0x80 {
        return rest.split_at_checked(usize::from(first));
    }
    let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
    if !(1..=4).contains(&length.len()) {
        return None;
    }
    let length = length.iter().fold(0, |value: usize, byte| (value << 8) | usize::from(*byte));
    rest.split_at_checked(length)
}

/// Reads user and group, numeric or `root`.
pub(super) fn parse_owner(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| match text {
        "root" => Some(0),
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    // A user alone leaves the group as it is: root's (cloud-init, module write_files).
    let (user, group) = text.split_once(':').unwrap_or((text, "root"));
    Some((number(user)?, number(group)?))
}

/// Returns the prefix length of a netmask, when its ones stand together.
pub(super) fn prefix_of_mask(mask: std::net::Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    (bits.leading_ones() + bits.trailing_zeros() == 32 && bits != 0).then_some(bits.leading_ones() as u8)
}

/// Tells whether an address is in the network of another one with its prefix length.
pub(super) fn is_in(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let prefix = u32::from(prefix);
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            prefix == 0 || (u32::from(a) ^ u32::from(b)).checked_shr(32 - prefix).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            prefix == 0 || (u128::from(a) ^ u128::from(b)).checked_shr(128 - prefix).unwrap_or(0) == 0
        }
        _ => false,
    }
}
