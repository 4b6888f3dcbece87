//! Which mirrors to ask, in which order: `KSOS_APT_MIRROR`, what the host's own apt is configured with, the manifest.
//!
//! A mirror is the URL of one archive, e.g. `http://ftp.debian.org/debian`. Archives of one host often stand beside each
//! other: a host configured with `.../debian` is asked for `.../debian-security` too. Only `http` and `https` count;
//! other methods of apt (`cdrom:`, `file:`, `mirror+...:`) are passed over.

use std::path::Path;

use super::deb822;
use crate::effects::fs;

/// The largest sources file read, in bytes.
const SOURCES_LIMIT: u64 = 1 << 20;

/// Returns the mirrors of the archive called `path` (`debian`, `debian-security`), in the order to try.
///
/// `environment` is the value of `KSOS_APT_MIRROR`: the URL of an archive, or of the directory that holds archives.
/// `host` is what [`host_uris`] gave. `manifest` are full URLs. Each URL stands once, without a slash at its end.
pub fn order(environment: Option<&str>, host: &[String], path: &str, manifest: &[String]) -> Vec<String> {
    let mut mirrors = Vec::new();
    if let Some(url) = environment.map(str::trim).filter(|url| !url.is_empty()) {
        mirrors.push(format!("{}/{path}", root(url).unwrap_or(url.trim_end_matches('/'))));
    }
    let has_name = |url: &&String| split_last(url).is_some_and(|(_, name)| name == path);
    mirrors.extend(host.iter().filter(has_name).cloned());
    mirrors.extend(host.iter().filter_map(|url| Some(format!("{}/{path}", root(url)?))));
    mirrors.extend(manifest.iter().cloned());
    let mut unique: Vec<String> = Vec::new();
    for mirror in mirrors {
        let mirror = mirror.trim_end_matches('/');
        if !unique.iter().any(|other| other == mirror) {
            unique.push(mirror.to_owned());
        }
    }
    unique
}

/// Returns Debian's own public mirror of the archive `debian` or `debian-security`.
pub fn public(path: &str) -> String {
    let host = if path == "debian-security" { "security" } else { "ftp" };
    format!("http://{host}.debian.org/{path}")
}

fn split_last(url: &str) -> Option<(&str, &str)> {
    let url = url.trim_end_matches('/');
    let (head, name) = url.rsplit_once('/')?;
    (!head.ends_with('/')).then_some((head, name))
}

/// Returns the directory that holds the archive at `url`, if its name is one of Debian's (`debian`, `debian-...`).
fn root(url: &str) -> Option<&str> {
    let (head, name) = split_last(url)?;
    (name == "debian" || name.starts_with("debian-")).then_some(head)
}

/// Returns the URIs of binary packages in a one-line-style file (sources.list(5)).
pub fn list_uris(text: &str) -> Vec<String> {
    let uri = |line: &str| {
        let line = line.split('#').next().unwrap_or("").trim();
        let rest = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t', '[']))?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        rest.split_whitespace().next().filter(|uri| is_web(uri)).map(str::to_owned)
    };
    text.lines().filter_map(uri).collect()
}

/// Returns the URIs of binary packages in a deb822-style file (sources.list(5)). A malformed file gives none: it is the
/// host's business.
pub fn deb822_uris(text: &str) -> Vec<String> {
    let paragraphs = deb822::parse(text).unwrap_or_default();
    let enabled = |paragraph: &&deb822::Paragraph<'_>| {
        let off = paragraph.value("Enabled").is_some_and(|value| matches!(value, "no" | "false" | "off" | "0"));
        !off && paragraph.words("Types").contains(&"deb")
    };
    let uris = paragraphs.iter().filter(enabled).flat_map(|paragraph| paragraph.words("URIs"));
    uris.filter(|uri| is_web(uri)).map(str::to_owned).collect()
}

fn is_web(uri: &str) -> bool {
    uri.starts_with("http://") || uri.starts_with("https://")
}

/// Returns the URIs that apt on this host is configured with, from `sources.list` and `sources.list.d` below `etc_apt`
/// (normally `/etc/apt`). They are only hints: a host without apt, or a file that this user may not read, gives none.
pub fn host_uris(etc_apt: &Path) -> Vec<String> {
    let read = |path: &Path| fs::read_to_string(path, SOURCES_LIMIT).unwrap_or_default();
    let mut uris = list_uris(&read(&etc_apt.join("sources.list")));
    let directory = etc_apt.join("sources.list.d");
    for name in fs::list(&directory).unwrap_or_default() {
        let path = directory.join(&name);
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => uris.extend(list_uris(&read(&path))),
            Some("sources") => uris.extend(deb822_uris(&read(&path))),
            _ => {}
        }
    }
    uris
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(urls: &[&str]) -> Vec<String> {
        urls.iter().map(|url| (*url).to_owned()).collect()
    }

    #[test]
    fn environment_then_host_then_manifest() {
        let host = strings(&["http://host.test/debian/", "http://other.test/apt", "http://host.test/debian-security"]);
        let manifest = strings(&["http://security.debian.org/debian-security", "http://host.test/debian-security/"]);
        assert_eq!(
            order(Some("http://env.test/debian"), &host, "debian-security", &manifest),
            [
                "http://env.test/debian-security",
                "http://host.test/debian-security",
                "http://security.debian.org/debian-security"
            ]
        );
    }

    #[test]
    fn environment_may_name_the_directory_of_archives() {
        for (value, mirror) in [
            ("http://env.test", "http://env.test/debian"),
            ("http://env.test/", "http://env.test/debian"),
            ("http://env.test/mirrors/", "http://env.test/mirrors/debian"),
            ("http://env.test/mirrors/debian-security/", "http://env.test/mirrors/debian"),
        ] {
            assert_eq!(order(Some(value), &[], "debian", &[]), [mirror], "{value}");
        }
        assert_eq!(order(Some(" "), &[], "debian", &[]), [""; 0]);
    }

    #[test]
    fn a_foreign_archive_of_the_host_is_not_asked() {
        let host = strings(&["https://packages.example.net/node_20.x", "https://packages.example.org/apt"]);
        assert_eq!(order(None, &host, "debian", &strings(&["http://m.test/debian"])), ["http://m.test/debian"]);
    }

    #[test]
    fn an_archive_beside_the_hosts_own_is_found() {
        let host = strings(&["http://host.test/x/debian"]);
        assert_eq!(order(None, &host, "debian-security", &[]), ["http://host.test/x/debian-security"]);
    }

    #[test]
    fn both_styles_of_sources_are_read() {
        let list = "# deb http://a.test/debian x main\ndeb http://b.test/debian trixie main # note\n\
                    deb [ arch=amd64 signed-by=/x ] https://c.test/debian trixie main\ndeb-src http://d.test/debian x y\n\
                    deb cdrom:[Debian]/ trixie main\ndeb\n";
        assert_eq!(list_uris(list), ["http://b.test/debian", "https://c.test/debian"]);
        let sources = "Types: deb deb-src\nURIs: http://a.test/debian\n http://b.test/debian\nSuites: x\n\n\
                       Types: deb\nEnabled: no\nURIs: http://c.test/debian\n\nTypes: deb-src\nURIs: http://d.test/debian\n";
        assert_eq!(deb822_uris(sources), ["http://a.test/debian", "http://b.test/debian"]);
        assert_eq!(deb822_uris("garbage"), [""; 0]);
    }

    #[test]
    fn the_hosts_files_are_read_in_order() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(host_uris(directory.path()), [""; 0]);
        fs::write_atomic(&directory.path().join("sources.list"), b"deb http://a.test/debian x main\n").unwrap();
        let parts = directory.path().join("sources.list.d");
        fs::write_atomic(&parts.join("b.sources"), b"Types: deb\nURIs: http://c.test/debian\n").unwrap();
        fs::write_atomic(&parts.join("a.list"), b"deb http://b.test/debian x main\n").unwrap();
        fs::write_atomic(&parts.join("c.list.save"), b"deb http://d.test/debian x main\n").unwrap();
        let uris = host_uris(directory.path());
        assert_eq!(uris, ["http://a.test/debian", "http://b.test/debian", "http://c.test/debian"]);
    }
}
