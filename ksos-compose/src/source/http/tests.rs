use std::sync::Mutex;

use super::*;
use crate::cache::Cache;

/// Answers from a table of URLs; what is not in it is not found.
struct Table {
    cache: Cache,
    files: Vec<(&'static str, Vec<u8>)>,
    asked: Mutex<Vec<String>>,
    _directory: tempfile::TempDir,
}

impl Table {
    fn new(files: Vec<(&'static str, Vec<u8>)>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        Table { cache, files, asked: Mutex::default(), _directory: directory }
    }
}

impl Fetch for Table {
    fn blob(&self, request: &net::Request<'_>) -> Result<Blob, FetchError> {
        let bytes = self.document(request)?;
        if let Some(expected) = request.digest.filter(|expected| *expected != Digest::of(&bytes)) {
            let why = format!("has SHA-256 {}, expected {expected}", Digest::of(&bytes));
            let failures = vec![(request.urls[0].clone(), why)];
            return Err(FetchError::Unreachable { name: request.name.to_owned(), failures, missing: false });
        }
        Ok(self.cache.insert(&bytes)?)
    }

    fn document(&self, request: &net::Request<'_>) -> Result<Vec<u8>, FetchError> {
        self.asked.lock().unwrap().extend_from_slice(request.urls);
        let found = self.files.iter().find(|(url, _)| request.urls.iter().any(|wanted| wanted == url));
        let missing = || FetchError::NotFound { name: request.name.to_owned(), urls: request.urls.to_vec() };
        found.map(|(_, bytes)| bytes.clone()).ok_or_else(missing)
    }
}

const FILE: &str = "https://host/v1.2.0/tool-amd64.tgz";
const SUMS: &str = "https://host/v1.2.0/SHA256SUMS";

fn request() -> Request<'static> {
    Request {
        component: "tool",
        arch: Arch::X86_64,
        version: Some("1.2.0"),
        url: "https://host/v{version}/tool-{debian-arch}.tgz",
        mirrors: &[],
        checksums: None,
        sha256: None,
        limit: 1000,
    }
}

#[test]
fn placeholders_are_filled_in() {
    let mirrors = ["http://mirror/{arch}/{machine}".to_owned()];
    let request = Request { arch: Arch::Arm64, mirrors: &mirrors, checksums: Some("{version}{version}"), ..request() };
    let wanted = request.expand().unwrap();
    assert_eq!(wanted.urls, ["https://host/v1.2.0/tool-arm64.tgz", "http://mirror/arm64/aarch64"]);
    assert_eq!(wanted.checksums.as_deref(), Some("1.2.01.2.0"));
    assert_eq!(wanted.file_name(), "tool-arm64.tgz");
}

#[test]
fn bad_placeholders_are_named() {
    let error = |url: &'static str, version| Request { url, version, ..request() }.expand().unwrap_err().to_string();
    assert!(
        error("https://u:secret@h/{ver}", None)
            .starts_with("component tool: unknown placeholder {ver} in https://h/{ver};")
    );
    assert_eq!(
        error("https://h/{version}", None),
        "component tool: {version} in https://h/{version}, but the component has no version"
    );
    for url in ["https://h/{version", "https://h/version}", "https://h/}{"] {
        assert_eq!(error(url, Some("1")), format!("component tool: unbalanced brace in {url}"));
    }
}

#[test]
fn the_manifest_pins_before_the_checksums() {
    let table = Table::new(vec![(FILE, b"data".to_vec())]);
    let pinned = Request { sha256: Some(Digest::of(b"data")), checksums: Some(SUMS), ..request() };
    let resolved = resolve(&table, &pinned.expand().unwrap()).unwrap();
    let expected = Pinned { url: FILE.into(), sha256: Digest::of(b"data"), size: 4, pinned_by: PinnedBy::Manifest };
    assert_eq!((resolved.pinned, resolved.note), (expected, None));
    assert_eq!(*table.asked.lock().unwrap(), [FILE]);
}

#[test]
fn the_checksums_pin_before_the_first_use() {
    let sums = format!("{}  tool-arm64.tgz\n{}  tool-amd64.tgz\n", Digest::of(b"x"), Digest::of(b"data"));
    let table = Table::new(vec![(FILE, b"data".to_vec()), (SUMS, sums.clone().into_bytes())]);
    let wanted = Request { checksums: Some(SUMS), ..request() }.expand().unwrap();
    let resolved = resolve(&table, &wanted).unwrap();
    assert_eq!((resolved.pinned.pinned_by, resolved.note), (PinnedBy::Checksums, None));

    let table = Table::new(vec![(FILE, b"swapped".to_vec()), (SUMS, sums.into_bytes())]);
    let error = resolve(&table, &wanted).unwrap_err().to_string();
    assert!(error.contains("has SHA-256") && error.contains("component tool"), "{error}");

    let table = Table::new(vec![(FILE, b"data".to_vec()), (SUMS, b"<html>".to_vec())]);
    let error = resolve(&table, &wanted).unwrap_err().to_string();
    assert_eq!(error, format!("component tool: {SUMS}: not a list of SHA-256 checksums"));
}

#[test]
fn the_first_use_is_never_silent() {
    let table = Table::new(vec![(FILE, b"data".to_vec())]);
    let resolved = resolve(&table, &request().expand().unwrap()).unwrap();
    assert_eq!(resolved.pinned.pinned_by, PinnedBy::FirstUse);
    let digest = Digest::of(b"data");
    let text =
        format!("component tool: no checksum is known for {FILE}; locked to what was downloaded now, SHA-256 {digest}");
    assert_eq!(resolved.note.unwrap().to_string(), text);

    let resolved = resolve(&table, &Request { checksums: Some(SUMS), ..request() }.expand().unwrap()).unwrap();
    assert!(resolved.note.unwrap().to_string().contains(&format!("({SUMS} does not exist)")));
}

#[test]
fn a_lost_file_names_component_and_url() {
    let error = resolve(&Table::new(vec![]), &request().expand().unwrap()).unwrap_err().to_string();
    assert!(error.contains("component tool") && error.contains(FILE), "{error}");
}

#[test]
fn what_is_locked_is_fetched_by_its_digest() {
    let table = Table::new(vec![(FILE, b"data".to_vec())]);
    let wanted = request().expand().unwrap();
    let pinned = resolve(&table, &wanted).unwrap().pinned;
    assert_eq!(fetch(&table, &wanted, &pinned).unwrap().digest, pinned.sha256);
    let other = Pinned { sha256: Digest::of(b"other"), ..pinned };
    assert!(fetch(&table, &wanted, &other).is_err());
}

#[test]
fn the_request_digest_changes_with_what_decides_the_file_only() {
    let base = request().expand().unwrap();
    let mirrors = ["http://mirror/x".to_owned()];
    let same = Request { mirrors: &mirrors, limit: 5, ..request() }.expand().unwrap();
    assert_eq!(base.digest(), same.digest());
    for other in [
        Request { version: Some("1.2.1"), ..request() },
        Request { arch: Arch::Arm64, ..request() },
        Request { checksums: Some(SUMS), ..request() },
        Request { sha256: Some(Digest::of(b"x")), ..request() },
        Request { url: "https://elsewhere/x", ..request() },
    ] {
        assert_ne!(base.digest(), other.expand().unwrap().digest(), "{other:?}");
    }
}
