//! The `format`s of the schema that start with `ksos-`: what a text must look like, as code.

use std::str::FromStr;

use ksos_formats::Digest;
use ksos_formats::update::{self, window};

use super::super::types::{Duration, Glob, ImagePath, Mode, ModulePattern, RequiredOption, Size, ValueError};
use super::suggest;
use crate::oci::reference::{Reference, parse_digest};

/// A text that does not have its format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Wrong {
    /// What was expected.
    pub(in super::super) expected: String,
    /// What may have been meant.
    pub(in super::super) hint: Option<String>,
}

impl From<&str> for Wrong {
    fn from(expected: &str) -> Self {
        Wrong { expected: expected.to_owned(), hint: None }
    }
}

/// Substitutions in addresses of downloads.
pub(in super::super) const SUBSTITUTIONS: [&str; 4] = ["version", "arch", "debian-arch", "machine"];

/// Returns `text` in quotes, shortened, control characters escaped.
pub(in super::super) fn quote(text: &str) -> String {
    match text.chars().count() {
        0..=80 => format!("{text:?}"),
        _ => format!("{:?}...", text.chars().take(77).collect::<String>()),
    }
}

/// Checks `text` against a format. Formats of others (`uint32`) say nothing about texts.
pub(in super::super) fn check(format: &str, text: &str) -> Result<(), Wrong> {
    match format.strip_prefix("ksos-") {
        Some("size") => parsed::<Size>(text).map_err(|wrong| size_hint(wrong, text)),
        Some("duration") => parsed::<Duration>(text),
        Some("mode") => parsed::<Mode>(text),
        Some("glob") => parsed::<Glob>(text),
        Some("image-path") => parsed::<ImagePath>(text),
        Some("module") => parsed::<ModulePattern>(text).map_err(|wrong| module_hint(wrong, text)),
        Some("kernel-option") => parsed::<RequiredOption>(text).map_err(|wrong| option_hint(wrong, text)),
        Some("sha256") => text.parse::<Digest>().map(drop).map_err(|_| Wrong::from("64 lower-case hexadecimal digits")),
        Some("host-path") => require(!has_control(text), "a path"),
        Some("url") => url(text),
        Some("url-template") => template(text).and_then(|plain| url(&plain)),
        Some("install-from") => template(text).and_then(|plain| install_from(&plain)),
        Some("image-reference") => image_reference(text),
        Some("image-digest") => require(parse_digest(text).is_ok(), "sha256: and 64 lower-case hexadecimal digits"),
        Some("kernel-parameter") => kernel_parameter(text),
        Some("semver") => semver(text),
        Some("days") => {
            require(window::parse_days(text).is_ok(), "days: \"sat\", \"mon-fri\", \"mon, wed\" or \"daily\"")
        }
        Some("time-of-day") => require(window::parse_start(text).is_ok(), "a time of day: \"02:00\""),
        Some("window-length") => {
            require(window::parse_length(text).is_ok(), "minutes, hours or days, at most a week: \"3h\" or \"1h30m\"")
        }
        Some("time-zone") => require(
            window::TimeZone::parse(text).is_ok(),
            "UTC, an offset such as \"+02:00\", a POSIX TZ string, or a name such as \"Europe/Berlin\"",
        ),
        Some("update-name") => {
            require(update::is_name(text), "a name of lower-case letters, digits and `-`, at most 63 long")
        }
        Some("remote-cache") => remote_cache(text),
        Some("update-source") => update_source(text),
        Some(name) => word(name, text),
        None => Ok(()),
    }
}

fn parsed<T: FromStr<Err = ValueError>>(text: &str) -> Result<(), Wrong> {
    text.parse::<T>().map(drop).map_err(|error| Wrong::from(error.0))
}

fn require(holds: bool, expected: &str) -> Result<(), Wrong> {
    holds.then_some(()).ok_or_else(|| Wrong::from(expected))
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

fn size_hint(wrong: Wrong, text: &str) -> Wrong {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let unit = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "k" | "kib" => "KiB",
        "m" | "mib" => "MiB",
        "g" | "gib" => "GiB",
        "t" | "tib" => "TiB",
        "kb" => "KB",
        "mb" => "MB",
        "gb" => "GB",
        "tb" => "TB",
        _ => return wrong,
    };
    let hint = (!digits.is_empty()).then(|| format!("did you mean \"{digits}{unit}\"?"));
    let hint = hint.filter(|_| format!("{digits}{unit}").parse::<Size>().is_ok());
    Wrong { hint, ..wrong }
}

fn module_hint(wrong: Wrong, text: &str) -> Wrong {
    let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|suffix| text.strip_suffix(suffix));
    Wrong { hint: stem.map(|stem| format!("did you mean \"{stem}\"?")), ..wrong }
}

fn option_hint(wrong: Wrong, text: &str) -> Wrong {
    let stem = text.strip_prefix("CONFIG_");
    Wrong { hint: stem.map(|stem| format!("did you mean \"{stem}\"?")), ..wrong }
}

/// Formats that are words over a set of characters.
fn word(name: &str, text: &str) -> Result<(), Wrong> {
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let alphanumeric = |byte: u8| byte.is_ascii_alphanumeric();
    let first = text.bytes().next().unwrap_or(b' ');
    let all = |extra: &[u8], base: &dyn Fn(u8) -> bool| text.bytes().all(|byte| base(byte) || extra.contains(&byte));
    let no_dots = || !text.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    match name {
        "name" => {
            let valid = lower(first) && all(b"._-", &lower) && text.len() <= 64;
            require(valid, "a name of lower-case letters, digits, `.`, `_` and `-`, at most 64 long")
        }
        "image-name" => {
            let valid = lower(first) && all(b"-", &lower) && text.len() <= 64;
            require(valid, "a name of lower-case letters, digits and `-`, at most 64 long: \"kubesolo-os\"")
        }
        "package" => {
            // Debian Policy 5.6.1: "must consist only of lower case letters, digits, plus and minus signs, and
            // periods. They must be at least two characters long and must start with an alphanumeric character."
            let valid = lower(first) && all(b"+.-", &lower) && text.len() >= 2;
            require(valid, "a package name of lower-case letters, digits, `+`, `-` and `.`")
        }
        "archive-name" => require(
            alphanumeric(first) && all(b"._/-", &alphanumeric) && no_dots(),
            "the archive's path below a mirror: \"debian\"",
        ),
        "suite" => {
            require(alphanumeric(first) && all(b"._/-", &alphanumeric) && no_dots(), "a name: \"trixie-updates\"")
        }
        "profile-name" => require(
            (alphanumeric(first) || first == b'/') && all(b"./_-", &alphanumeric),
            "the name of an AppArmor profile: \"kubesolo\"",
        ),
        "version" => require(
            alphanumeric(first) && all(b".+~_-", &alphanumeric) && !text.contains(".."),
            "a version of letters, digits, `.`, `+`, `~`, `_` and `-`",
        ),
        "extension-name" => {
            let valid = alphanumeric(first) && all(b"+._~-", &alphanumeric) && text.len() <= 128;
            require(valid, "the name of an extension: \"iptables\"")
        }
        "crate-name" => {
            let valid = (alphanumeric(first) || first == b'_') && all(b"_-", &alphanumeric);
            require(valid, "a name of letters, digits, `_` and `-`")
        }
        "label" => {
            let valid = !text.is_empty() && all(b"_-", &alphanumeric);
            require(valid, "a label of letters, digits, `_` and `-`: \"KSOSEFI\"")
        }
        "user-name" => {
            let valid = (first.is_ascii_lowercase() || first == b'_') && all(b"_-", &lower) && text.len() <= 32;
            require(valid, "a user name of lower-case letters, digits, `_` and `-`, at most 32 long")
        }
        "environment-name" => {
            let valid = (first.is_ascii_alphabetic() || first == b'_') && all(b"_", &alphanumeric);
            require(valid, "a variable name of letters, digits and `_`")
        }
        "hostname" => hostname(text),
        "absolute-path" => absolute_path(text),
        "absolute-file" => {
            require(text != "/", "the path of a file: the root is a directory").and_then(|()| absolute_path(text))
        }
        "sysctl-key" => sysctl_key(text),
        "link-target" => require(!text.contains('\0') && !has_control(text), "a path"),
        "sysctl-value" => require(!has_control(&text.replace('\t', " ")), "one line of text"),
        "argument" => require(!text.contains('\0'), "a text without NUL"),
        // The schema names a format that this function does not know: found by the test over all formats.
        _ => Err(Wrong::from("a format that is checked")),
    }
}

/// RFC 1123, section 2.1, and RFC 952: labels of letters, digits and hyphens, 63 at most, no hyphen at either end.
fn hostname(text: &str) -> Result<(), Wrong> {
    let label = |label: &str| {
        let valid = label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        valid && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let valid = text.len() <= 253 && text.split('.').all(label);
    let expected = "a host name (RFC 1123) of lower-case letters, digits and `-`: \"kubesolo\"";
    let hint = || {
        let fixed = text.to_ascii_lowercase().replace(['_', ' '], "-");
        fixed.split('.').all(label).then(|| format!("did you mean \"{fixed}\"?"))
    };
    require(valid, expected).map_err(|wrong| Wrong { hint: hint(), ..wrong })
}

fn absolute_path(text: &str) -> Result<(), Wrong> {
    let normal = text == "/" || text.strip_prefix('/').is_some_and(|path| crate::tree::check_path(path).is_ok());
    let hint = (!text.starts_with('/')).then(|| format!("did you mean \"/{}\"?", text.trim_start_matches("./")));
    let hint = hint.filter(|_| crate::tree::check_path(text).is_ok());
    require(normal && !has_control(text), "an absolute path without `.`, `..` or empty components")
        .map_err(|wrong| Wrong { hint, ..wrong })
}

/// sysctl(8): "net.ipv4.ip_forward"; `/` stands for a separator when a name has a dot itself.
fn sysctl_key(text: &str) -> Result<(), Wrong> {
    let part = |part: &str| {
        let valid = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-*".contains(&byte));
        valid && !part.is_empty()
    };
    let parts: Vec<&str> = text.split(['.', '/']).collect();
    require(parts.len() >= 2 && parts.into_iter().all(part), "a kernel setting such as \"net.ipv4.ip_forward\"")
}

/// Semantic Versioning 2.0.0, sections 2, 9 and 10.
fn semver(text: &str) -> Result<(), Wrong> {
    let number = |part: &str| {
        let digits = !part.is_empty() && part.len() <= 18 && part.bytes().all(|byte| byte.is_ascii_digit());
        digits && (part == "0" || !part.starts_with('0'))
    };
    let identifier = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let numeric = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let core: Vec<&str> = core.split('.').collect();
    let valid_core = core.len() == 3 && core.iter().all(|part| number(part));
    // "Numeric identifiers MUST NOT include leading zeroes."
    let valid_pre =
        pre.is_none_or(|pre| pre.split('.').all(|part| identifier(part) && (!numeric(part) || number(part))));
    let valid_build = build.is_none_or(|build| build.split('.').all(identifier));
    let hint = match core.len() {
        1 | 2 if core.iter().all(|part| number(part)) && pre.is_none() && build.is_none() => {
            Some(format!("did you mean \"{}{}\"?", text, ".0".repeat(3 - core.len())))
        }
        _ => text.strip_prefix('v').filter(|rest| semver(rest).is_ok()).map(|rest| format!("did you mean \"{rest}\"?")),
    };
    require(valid_core && valid_pre && valid_build, "a semantic version: \"1.2.3\"")
        .map_err(|wrong| Wrong { hint, ..wrong })
}

/// Replaces the known substitutions and reports any other.
fn template(text: &str) -> Result<String, Wrong> {
    let known = || SUBSTITUTIONS.map(|name| format!("{{{name}}}")).join(", ");
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}']) {
        plain.push_str(&rest[..open]);
        let inside = rest[open..].strip_prefix('{').and_then(|tail| tail.split_once('}'));
        let Some((name, tail)) = inside else {
            return Err(Wrong::from(format!("braces only around a substitution: {}", known()).as_str()));
        };
        if !SUBSTITUTIONS.contains(&name) {
            let near = suggest::nearest(name, SUBSTITUTIONS).map(|near| format!("did you mean {{{near}}}?"));
            return Err(Wrong { expected: format!("only the substitutions {}", known()), hint: near });
        }
        plain.push('0');
        rest = tail;
    }
    plain.push_str(rest);
    Ok(plain)
}

/// RFC 3986, section 3, as far as `http` and `https` use it. User information is refused: manifests are shared.
fn url(text: &str) -> Result<(), Wrong> {
    let error = || Wrong::from("an address that starts with https:// or http://");
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or_else(error)?;
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte);
    require(text.bytes().all(allowed), "an address without spaces and quotes")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    require(!authority.contains('@'), "an address without a user name or password")?;
    require(!text.contains('#'), "an address without a fragment")?;
    let (host, port) = match authority.strip_prefix('[').and_then(|inside| inside.split_once(']')) {
        Some((address, port)) => {
            require(address.parse::<std::net::Ipv6Addr>().is_ok(), "an IPv6 address between [ and ]")?;
            ("address", port.strip_prefix(':').or((!port.is_empty()).then_some("?")))
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    require(host.split('.').all(label), "an address with a host name")?;
    require(port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0)), "a port from 1 to 65535")
}

/// Where releases come from: a directory that HTTP serves, or a repository of an OCI registry without a tag.
fn update_source(text: &str) -> Result<(), Wrong> {
    let expected = "https://HOST/PATH, http://HOST/PATH or oci://HOST/REPOSITORY";
    let Some(repository) = text.strip_prefix("oci://").or_else(|| text.strip_prefix("oci+http://")) else {
        require(text.starts_with("https://") || text.starts_with("http://"), expected)?;
        require(!text.contains('?'), "an address without a query")?;
        return url(text);
    };
    let (host, path) = repository.split_once('/').unwrap_or_default();
    let part = |part: &str| {
        let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        part.bytes().all(inside) && part.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
    };
    require(!host.is_empty() && path.split('/').all(part), "oci://HOST/REPOSITORY without a tag")?;
    url(&format!("https://{host}/"))
}

fn remote_cache(text: &str) -> Result<(), Wrong> {
    let expected = "oci://HOST/REPOSITORY without a tag";
    require(text.starts_with("oci://") || text.starts_with("oci+http://"), expected)?;
    update_source(&text.replacen("oci+http://", "oci://", 1))
}

fn install_from(text: &str) -> Result<(), Wrong> {
    let valid = crate::tree::check_path(text).is_ok() && !has_control(text);
    require(valid, "a relative path in the archive without `.` or `..`: \"bin/tool\"")
}

/// The reference grammar of OCI Distribution ("Pulling manifests": name and tag) with a registry host before it. Which
/// image it is must be said: `latest` is not assumed.
fn image_reference(text: &str) -> Result<(), Wrong> {
    let error = || Wrong::from("an image reference with a tag: \"docker.io/library/hello:1\"");
    let parsed = text.parse::<Reference>().map_err(|_| error())?;
    let hint = || Some(format!("did you mean \"{text}:latest\"?"));
    let stated = parsed.tag.is_some() || parsed.digest.is_some();
    if stated { Ok(()) } else { Err(Wrong { hint: hint(), ..error() }) }
}

/// Linux `lib/cmdline.c`, `next_arg`: a parameter ends at white space outside double quotes.
fn kernel_parameter(text: &str) -> Result<(), Wrong> {
    require(text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "one line of ASCII text")?;
    let mut quoted = false;
    let mut space = false;
    for byte in text.bytes() {
        quoted ^= byte == b'"';
        space |= byte == b' ' && !quoted;
    }
    require(!quoted, "as many closing quotes as opening ones")?;
    let items: Vec<String> = text.split_whitespace().map(|item| format!("{item:?}")).collect();
    require(!space, "one kernel parameter per item")
        .map_err(|wrong| Wrong { hint: Some(format!("did you mean {}?", items.join(", "))), ..wrong })?;
    let name = text.split('=').next().unwrap_or_default();
    require(!name.is_empty() && !name.contains('"') && text != "--", "a kernel parameter: \"name\" or \"name=value\"")
}
