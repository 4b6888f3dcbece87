//! Sources against a server on this machine that does what a test tells it.
//!
//! Time is a hand that tests move: no pause is slept, and how fast this machine is does not matter.

mod registry_tests;
mod server;
mod tls_tests;
mod tree_tests;

use std::rc::Rc;
use std::time::Duration;

use ksos_formats::update::fetch::Range;
use ksos_formats::update::{Blob, Version, release_name};
use ksos_formats::{Arch, Digest};

use super::pace::tests::Hand;
use super::*;
use crate::sys::double::Double;

const CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A source and the clock that it looks at.
struct Opened {
    source: Box<dyn Source>,
    clock: Rc<Hand>,
}

fn settings(url: String) -> SourceSettings {
    SourceSettings { url, ca_bundle: vec!["/nowhere.pem".to_owned(), CA.to_owned()], ..SourceSettings::default() }
}

fn limits() -> Limits {
    // Longer than a loaded machine needs; what has to run into it is given a shorter one.
    Limits { idle: Duration::from_secs(300), connect: Duration::from_secs(300), ..Limits::default() }
}

fn open_test(settings: &SourceSettings) -> Opened {
    open_on(settings, &Double::new(), limits()).expect("a source")
}

fn open_on(settings: &SourceSettings, sys: &Double, limits: Limits) -> Result<Opened, SourceError> {
    let clock = Rc::new(Hand::default());
    let source = open_with(settings, sys, Box::new(Rc::clone(&clock)), limits)?;
    Ok(Opened { source, clock })
}

impl Opened {
    fn channel(&mut self) -> Result<Vec<u8>, SourceError> {
        let name = ChannelName { channel: "stable".to_owned(), name: "edge".to_owned(), arch: Arch::Arm64 };
        self.source.channel(&name)
    }

    fn open_release(&mut self) -> Result<Vec<u8>, SourceError> {
        self.source.open_release(&release())
    }

    /// Fetches a range; checks that offsets ascend without a gap.
    fn chunks(&mut self, blob: &Blob, start: u64, end: u64) -> (Result<Served, SourceError>, u64, Vec<u8>) {
        let (mut first, mut bytes) = (None, Vec::new());
        let result = self.source.chunks(blob, Range { start, end }, &mut |offset, part: &[u8]| {
            let first = *first.get_or_insert(offset);
            assert_eq!(offset, first + bytes.len() as u64, "a gap, or bytes twice");
            bytes.extend_from_slice(part);
            Ok(())
        });
        (result, first.unwrap_or(0), bytes)
    }
}

/// A version with a `+`.
fn release() -> String {
    let version: Version = "1.2.0+build.7".parse().expect("a version");
    release_name("edge", &version, Arch::Arm64)
}

fn blob(bytes: &[u8]) -> Blob {
    Blob { size: bytes.len() as u64, sha256: Digest::of(bytes) }
}

/// Bytes that differ from place to place.
fn bytes(count: usize) -> Vec<u8> {
    (0..count as u64).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn settings_that_cannot_be_used_are_refused() {
    let open = |change: &dyn Fn(&mut SourceSettings)| {
        let mut settings = settings("oci+http://registry:5000/a/b".to_owned());
        change(&mut settings);
        open_on(&settings, &Double::new(), limits()).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(open(&|_| {}), Ok(()));
    for (url, expected) in [
        ("", "neither http"),
        ("ftp://h/x", "neither http"),
        ("http://u:p@h/x", "user names"),
        ("http://h/x?y", "a query"),
        ("oci://h", "HOST[:PORT]/REPOSITORY"),
        ("oci://h/A", "the repository"),
        ("oci://h/a//b", "the repository"),
        ("oci://h/../b", "the repository"),
        ("oci://h/a:tag", "the repository"),
        ("oci://u@h/a", "user names"),
        ("https://h/x", "no certificate authority"),
        ("oci://h/x", "no certificate authority"),
    ] {
        let error = open(&|settings| settings.url = url.to_owned()).expect_err(url);
        assert!(error.contains(expected), "{url}: {error}");
    }
    let error = open(&|settings| settings.proxy = Some("https://proxy".to_owned())).expect_err("a proxy");
    assert!(error.contains("update proxy"), "{error}");
    let error = open(&|settings| settings.cosign_keys = vec!["x".to_owned()]).expect_err("a key");
    assert!(error.contains("cosign key 1"), "{error}");
    let key = include_str!("../../../../../tests/fixtures/cosign/test-key-p256.pub");
    let error = open(&|settings| {
        settings.url = "http://h/x".to_owned();
        settings.cosign_keys = vec![key.to_owned()];
    });
    assert!(error.expect_err("no registry").contains("only an OCI registry"));
}

#[test]
fn settings_show_no_secret() {
    let mut settings = settings("http://h/".to_owned());
    (settings.password, settings.proxy) = (Some("secret-1".to_owned()), Some("http://u:secret-2@p:1".to_owned()));
    let text = format!("{settings:?}");
    assert!(!text.contains("secret-1") && !text.contains("secret-2"), "{text}");
}

#[test]
fn what_may_heal_is_told_from_what_may_not() {
    let url = || "u".to_owned();
    for (error, transient) in [
        (SourceError::Network { url: url(), reason: url() }, true),
        (SourceError::Truncated { url: url(), expected: 2, received: 1 }, true),
        (SourceError::Slow { url: url(), bytes: 0, seconds: 60 }, true),
        (SourceError::Status { url: url(), status: 429 }, true),
        (SourceError::Status { url: url(), status: 503 }, true),
        (SourceError::Status { url: url(), status: 501 }, false),
        (SourceError::Status { url: url(), status: 418 }, false),
        (SourceError::NotFound(url()), false),
        (SourceError::Html(url()), false),
        (SourceError::Tls { url: url(), reason: url() }, false),
        (SourceError::Stopped, false),
    ] {
        assert_eq!(error.is_transient(), transient, "{error}");
    }
}
