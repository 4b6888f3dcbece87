//! References to container images, with the short forms written out as Docker, containerd and Kubernetes do.
//!
//! `hello` is `docker.io/library/hello:latest`, `team/app@sha256:…` is `docker.io/team/app@sha256:…`. Two texts name
//! the same image when their written-out forms are equal.

use std::fmt;
use std::str::FromStr;

use ksos_formats::Digest;

/// The registry of references that name none.
pub const DOCKER_HUB: &str = "docker.io";

/// A reference with everything written out but the tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Host and port of the registry, such as `docker.io`.
    pub registry: String,
    /// Repository, such as `library/hello`.
    pub repository: String,
    /// Tag, when there is one.
    pub tag: Option<String>,
    /// Digest, when there is one.
    pub digest: Option<Digest>,
}

/// A text that is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image reference: {reason}")]
pub struct ReferenceError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Reference {
    /// Returns the reference with the tag that a reference without tag and digest has.
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// Returns registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Says whether both have the same name and tag, whatever their digests.
    pub fn has_tag_of(&self, other: &Reference) -> bool {
        self.tag.is_some()
            && (&self.registry, &self.repository, &self.tag) == (&other.registry, &other.repository, &other.tag)
    }

    /// Returns the names that containerd looks an image up by: with the tag, and with each of `digests`. A reference
    /// with tag and digest is looked up by the digest alone (containerd, `reference/docker`, `ParseDockerRef`).
    pub fn lookup_names(&self, digests: &[Digest]) -> Vec<String> {
        let mut names: Vec<String> = self.tag.iter().map(|tag| format!("{}:{tag}", self.name())).collect();
        for digest in self.digest.iter().chain(digests) {
            let name = format!("{}@sha256:{digest}", self.name());
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reference { registry, repository, tag, digest } = self;
        write!(f, "{registry}/{repository}")?;
        if let Some(tag) = tag {
            write!(f, ":{tag}")?;
        }
        digest.iter().try_for_each(|digest| write!(f, "@sha256:{digest}"))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// The grammar of the distribution project (`reference/reference.go`) and of the OCI distribution specification
    /// 1.1, "Pulling manifests".
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|reason| ReferenceError { text: text.chars().take(300).collect(), reason })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
        None => (text, None),
    };
    let slash = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[slash..].find(':') {
        Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("the tag is not 1 to 128 letters, digits, `_`, `.` and `-`");
    }
    let (registry, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => (DOCKER_HUB, name),
    };
    let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
    if !is_host(registry) {
        return Err("the registry is not a host with an optional port");
    }
    if path.len() > 255 || !path.split('/').all(is_component) {
        return Err("the repository is not made of lower-case letters, digits and single separators");
    }
    let library = registry == DOCKER_HUB && !path.contains('/');
    let repository = if library { format!("library/{path}") } else { path.to_owned() };
    Ok(Reference { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
}

/// Parses `sha256:` and 64 lower-case hexadecimal digits.
///
/// # Errors
/// What was expected.
pub fn parse_digest(text: &str) -> Result<Digest, &'static str> {
    let hex = text.strip_prefix("sha256:").ok_or("the digest is not a sha256 one")?;
    let lower = hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    hex.parse().ok().filter(|_| lower).ok_or("the digest is not sha256: and 64 hexadecimal digits")
}

fn is_tag(tag: &str) -> bool {
    let first = tag.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    first && tag.len() <= 128 && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separators = part.split(|character: char| character.is_ascii() && alphanumeric(character as u8));
    let single = |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    let ends = |byte: Option<u8>| byte.is_some_and(alphanumeric);
    ends(part.bytes().next()) && ends(part.bytes().last()) && separators.all(single)
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|inside| inside.split_once(']')) {
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("address", port),
        Some(_) => return false,
        None => text.split_once(':').map_or((text, ""), |(host, _)| (host, &text[host.len()..])),
    };
    let label = |label: &str| {
        let valid = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        valid && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    let number = |port: &str| port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    host.split('.').all(label) && (port.is_empty() || number(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn short_forms_are_written_out() {
        for (text, expected) in [
            ("hello", "docker.io/library/hello:latest"),
            ("hello:1", "docker.io/library/hello:1"),
            ("team/app:v2", "docker.io/team/app:v2"),
            ("docker.io/hello:1", "docker.io/library/hello:1"),
            ("index.docker.io/team/app", "docker.io/team/app:latest"),
            ("localhost/x:1", "localhost/x:1"),
            ("localhost:5000/a/b__c/d.e-f", "localhost:5000/a/b__c/d.e-f:latest"),
            ("[::1]:5000/x:1", "[::1]:5000/x:1"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("a--b:_1", "docker.io/library/a--b:_1"),
        ] {
            let parsed: Reference = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(parsed.or_latest().to_string(), expected);
        }
        let with_digest: Reference = format!("quay.io/a/b:1@sha256:{HEX}").parse().unwrap();
        assert_eq!(with_digest.clone().or_latest(), with_digest);
        assert_eq!(
            with_digest.lookup_names(&[Digest::of(b"x"), HEX.parse().unwrap()]),
            [
                "quay.io/a/b:1".to_owned(),
                format!("quay.io/a/b@sha256:{HEX}"),
                format!("quay.io/a/b@sha256:{}", Digest::of(b"x"))
            ]
        );
    }

    #[test]
    fn digests_do_not_matter_for_tags() {
        let parse = |text: &str| text.parse::<Reference>().unwrap();
        let digest = format!("hello:1@sha256:{HEX}");
        assert!(parse("hello:1").has_tag_of(&parse(&digest)));
        assert!(!parse("hello:2").has_tag_of(&parse(&digest)));
        assert!(!parse("hello").has_tag_of(&parse("hello")), "none is no tag");
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let upper = format!("a@sha256:{}", HEX.to_uppercase());
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a:",
            "a:-1",
            "a b",
            "a..b",
            "a._b",
            "a___b",
            "-a",
            "a-",
            "reg.io:0/x",
            "reg.io:70000/x",
            "reg_.io/x",
            "reg.io/",
            "a@",
            "a@sha256:12",
            "a@md5:12",
            "[::1/x",
            "[x]:1/y",
            "é",
            "a:é",
            "reg.io/../x",
            &upper,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        let long = "a".repeat(256);
        assert!(long.parse::<Reference>().is_err());
        assert!(format!("a:{}", "b".repeat(129)).parse::<Reference>().is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_is_parsed_is_parsed_the_same_again(text in "[a-z0-9./:@_-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                proptest::prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
