//! OCI registries: tags and digests, tokens, and signatures of the real `cosign` (tests/fixtures/cosign).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ksos_formats::update::cosign::{BUNDLE_MEDIA_TYPE, SIGNATURE_ANNOTATION};
use ksos_formats::update::{
    CHANNEL_ARTIFACT, CHUNKS_MEDIA_TYPE, ENVELOPE_MEDIA_TYPE, INDEX_MEDIA_TYPE, KEYS_ARTIFACT, RELEASE_ARTIFACT,
};
use serde_json::{Value, json};

use super::server::{Reply, Seen, Server, Then, file};
use super::tls_tests::Authority;
use super::*;

const TAG: &str = "edge-1.2.0_build.7-arm64";
const CHANNEL_TAG: &str = "channel-stable-edge-arm64";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A repository `t/os`.
#[derive(Debug, Clone, Default)]
struct Repository {
    /// By tag or digest.
    manifests: BTreeMap<String, Vec<u8>>,
    /// By digest.
    blobs: BTreeMap<String, Vec<u8>>,
    /// Answers of the referrers API, by digest. Empty: there is no such API.
    referrers: BTreeMap<String, Vec<u8>>,
}

fn name(bytes: &[u8]) -> String {
    format!("sha256:{}", Digest::of(bytes))
}

impl Repository {
    /// Returns one with a channel, a key set and a release.
    fn new() -> Self {
        let mut repository = Repository::default();
        let envelope = |text: &'static str| vec![(ENVELOPE_MEDIA_TYPE, text.as_bytes().to_vec())];
        repository.artifact(CHANNEL_TAG, CHANNEL_ARTIFACT, &envelope("channel"));
        repository.artifact("keys-2", KEYS_ARTIFACT, &envelope("keys"));
        repository.release("envelope");
        repository
    }

    fn release(&mut self, envelope: &str) {
        let layers = [
            (ENVELOPE_MEDIA_TYPE, envelope.into()),
            (INDEX_MEDIA_TYPE, bytes(3000)),
            (CHUNKS_MEDIA_TYPE, bytes(200_000)),
        ];
        self.artifact(TAG, RELEASE_ARTIFACT, &layers);
    }

    fn artifact(&mut self, tag: &str, kind: &str, layers: &[(&str, Vec<u8>)]) {
        let layer = |(kind, bytes): &(&str, Vec<u8>)| {
            self.blobs.insert(name(bytes), bytes.clone());
            json!({"mediaType": kind, "digest": name(bytes), "size": bytes.len()})
        };
        let layers: Vec<Value> = layers.iter().map(layer).collect();
        let config = json!({"mediaType": "application/vnd.oci.empty.v1+json", "digest": name(b"{}"), "size": 2});
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": config,
            "layers": layers});
        self.put(tag, manifest.to_string().into_bytes());
    }

    fn put(&mut self, tag: &str, manifest: Vec<u8>) {
        self.manifests.insert(name(&manifest), manifest.clone());
        self.manifests.insert(tag.to_owned(), manifest);
    }

    /// Changes the manifest of the release.
    fn change(&mut self, change: impl Fn(&mut Value)) {
        let mut manifest: Value = serde_json::from_slice(&self.manifests[TAG]).expect("JSON");
        change(&mut manifest);
        self.put(TAG, manifest.to_string().into_bytes());
    }

    fn answer(&self, seen: &Seen) -> Reply {
        let Some(path) = seen.target().strip_prefix("/v2/t/os/") else { return Reply::new(404, "", "") };
        let path = path.split('?').next().unwrap_or_default();
        let (kind, reference) = path.split_once('/').expect("a path");
        let found = match kind {
            "manifests" => self.manifests.get(reference),
            "blobs" => self.blobs.get(reference),
            _ => self.referrers.get(reference),
        };
        match (found, kind) {
            (Some(bytes), "blobs") => file(seen, bytes, ""),
            (Some(bytes), _) => {
                let fields = format!("Content-Type: {MANIFEST}\r\nDocker-Content-Digest: {}\r\n", name(bytes));
                Reply::new(200, &fields, bytes)
            }
            (None, _) => Reply::new(404, "Content-Type: application/json\r\n", "{\"errors\":[]}"),
        }
    }

    fn serve(self) -> (Server, Opened) {
        let server = Server::start(move |seen| self.answer(seen));
        let source = open_test(&settings(server.url("oci", "t/os")));
        (server, source)
    }
}

fn refused(repository: Repository) -> String {
    repository.serve().1.open_release().expect_err("refused").to_string()
}

#[test]
fn everything_is_found_by_tag_and_fetched_by_digest() {
    let (server, mut source) = Repository::new().serve();
    assert!(matches!(source.source.index(&blob(&bytes(3000))), Err(SourceError::NotOpen)));
    assert_eq!(source.channel().expect("a channel"), b"channel");
    assert_eq!(source.source.keys(2).expect("an answer").as_deref(), Some(b"keys".as_slice()));
    assert_eq!(source.source.keys(3).expect("an answer"), None);
    assert!(matches!(source.source.open_release("other"), Err(SourceError::NotFound(_))));
    assert_eq!(source.open_release().expect("a release"), b"envelope");
    assert_eq!(source.source.index(&blob(&bytes(3000))).expect("an index"), bytes(3000));
    let (result, first, found) = source.chunks(&blob(&bytes(200_000)), 1000, 150_000);
    assert_eq!((result.expect("a range"), first), (Served::Range, 1000));
    assert_eq!(found, bytes(200_000)[1000..150_000]);
    let seen = server.seen();
    assert!(seen[0].field("accept").is_some_and(|accept| accept.contains(MANIFEST)), "{:?}", seen[0]);
    let by_tag = |target: &&String| target.contains("/manifests/edge-1");
    assert_eq!(server.targets().iter().filter(by_tag).count(), 1, "the tag is resolved once");
    assert!(seen.iter().all(|seen| seen.connection == 0), "the connection is kept");
}

#[test]
fn a_tag_that_moves_changes_nothing() {
    let repository = Arc::new(Mutex::new(Repository::new()));
    let shared = Arc::clone(&repository);
    let server = Server::start(move |seen| shared.lock().expect("no panic").answer(seen));
    let mut source = open_test(&settings(server.url("oci", "t/os")));
    assert_eq!(source.open_release().expect("a release"), b"envelope");
    let layers =
        [(ENVELOPE_MEDIA_TYPE, b"x".to_vec()), (INDEX_MEDIA_TYPE, b"y".to_vec()), (CHUNKS_MEDIA_TYPE, bytes(9))];
    repository.lock().expect("no panic").artifact(TAG, RELEASE_ARTIFACT, &layers);
    assert_eq!(source.source.index(&blob(&bytes(3000))).expect("an index"), bytes(3000));
    assert_eq!(source.chunks(&blob(&bytes(200_000)), 0, 200_000).2, bytes(200_000));
    // What is signed and what the manifest has are the same, or nothing is fetched.
    let asked = server.seen().len();
    let error = source.source.index(&blob(b"y")).expect_err("another index").to_string();
    assert!(error.contains("the layer with the index has 3000 bytes"), "{error}");
    let error = source.chunks(&blob(&bytes(9)), 0, 9).0.expect_err("other chunks").to_string();
    assert!(error.contains("the layer with the chunks has 200000 bytes"), "{error}");
    assert_eq!(server.seen().len(), asked);
}

#[test]
fn manifests_of_something_else_are_refused() {
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut repository = Repository::new();
        repository.change(change);
        refused(repository)
    };
    assert!(changed(&|manifest| manifest["artifactType"] = json!("application/x")).contains("artifactType"));
    assert!(changed(&|manifest| manifest["mediaType"] = json!("application/x")).contains("mediaType"));
    assert!(changed(&|manifest| manifest["layers"][1]["mediaType"] = json!("x")).contains("there is no layer"));
    assert!(
        changed(&|manifest| manifest["layers"][2]["mediaType"] = json!(INDEX_MEDIA_TYPE)).contains("several layers")
    );
    assert!(changed(&|manifest| manifest["layers"][0]["digest"] = json!("md5:1")).contains("md5:1"));
    assert!(changed(&|manifest| manifest["layers"][0]["size"] = json!(1 << 21)).contains("more than 1048576"));
    assert!(changed(&|manifest| manifest["layers"][0]["size"] = json!(7)).contains("8 bytes"));
    // A channel is no release.
    let mut repository = Repository::new();
    let channel = repository.manifests[CHANNEL_TAG].clone();
    repository.put(TAG, channel);
    assert!(refused(repository).contains(CHANNEL_ARTIFACT));
}

#[test]
fn wrong_digests_are_refused() {
    let mut repository = Repository::new();
    repository.blobs.insert(name(b"envelope"), b"envelopE".to_vec());
    assert!(refused(repository).contains("instead of"));
    let good = Repository::new();
    let server = Server::start(move |seen| {
        let mut other = good.clone();
        other.release("another");
        // The digest of one manifest, the bytes of another.
        let (one, two) = (good.answer(seen), other.answer(seen));
        let (start, end) = (one.body_start(), two.body_start());
        if !seen.target().contains("/manifests/") {
            one
        } else {
            Reply::raw([&one.bytes[..start], &two.bytes[end..]].concat(), Then::Close)
        }
    });
    let error = open_test(&settings(server.url("oci", "t/os"))).open_release().expect_err("refused");
    assert!(matches!(error, SourceError::Digest { .. } | SourceError::Truncated { .. }), "{error}");
    let mut repository = Repository::new();
    repository.blobs.insert(name(&bytes(3000)), bytes(3001)[1..].to_vec());
    let (_server, mut source) = repository.serve();
    source.open_release().expect("a release");
    assert!(matches!(source.source.index(&blob(&bytes(3000))), Err(SourceError::Digest { .. })));
}

#[test]
fn hostile_json_is_refused() {
    let good = String::from_utf8(Repository::new().manifests[TAG].clone()).expect("text");
    for text in [
        good.replacen('{', "{\"layers\":[],", 1),
        good.replacen('{', "{\"artifactType\":\"x\",", 1),
        good.replace("\"size\":", "\"size\":1,\"size\":"),
        good.replacen('[', &"[".repeat(200_000), 1),
        good.replacen('{', &format!("{{\"x\":{}", "{\"x\":".repeat(100_000)), 1),
        "[".repeat(500_000),
        good[..good.len() - 1].to_owned(),
        String::new(),
    ] {
        let mut repository = Repository::new();
        repository.put(TAG, text.clone().into_bytes());
        let error = refused(repository);
        assert!(error.contains("not an image manifest"), "{text:.80}: {error}");
    }
    let mut repository = Repository::new();
    repository.put(TAG, vec![b' '; (1 << 20) + 1]);
    assert!(refused(repository).contains("more than 1048576"));
}

/// Starts a registry that wants a token, and a server that gives one; `scheme` is what the token server asks for.
fn with_tokens(path: &'static str) -> (Server, Server) {
    let tokens = Server::start(move |seen| match (seen.field("authorization"), path) {
        (Some("Basic bmFtZTpwdw=="), _) | (None, "anonymous") => Reply::new(200, "", "{\"token\":\"abc\"}"),
        _ => Reply::new(401, "", ""),
    });
    let realm = tokens.url("http", "token?x=y");
    let repository = Repository::new();
    let uses = AtomicUsize::new(0);
    let registry = Server::start(move |seen| match seen.field("authorization") {
        // After four requests a token has expired.
        Some("Bearer abc") if uses.fetch_add(1, Ordering::SeqCst) % 5 != 4 => repository.answer(seen),
        _ => {
            let challenge =
                format!("Bearer realm=\"{realm}\",service=\"reg & co\",scope=\"repository:t/os:pull,push\"");
            Reply::new(401, &format!("WWW-Authenticate: {challenge}\r\n"), "{\"errors\":[]}")
        }
    });
    (tokens, registry)
}

#[test]
fn tokens_are_asked_for_with_and_without_a_name() {
    for path in ["anonymous", "named"] {
        let (tokens, registry) = with_tokens(path);
        let mut settings = settings(registry.url("oci", "t/os"));
        if path == "named" {
            (settings.username, settings.password) = (Some("name".to_owned()), Some("pw".to_owned()));
        }
        let mut source = open_test(&settings);
        for _ in 0..3 {
            assert_eq!(source.channel().expect("a channel"), b"channel");
        }
        assert_eq!(source.open_release().expect("a release"), b"envelope");
        assert_eq!(source.chunks(&blob(&bytes(200_000)), 5, 9).2, bytes(200_000)[5..9]);
        let asked = tokens.targets();
        assert_eq!(asked.len(), 3, "once, and when it had expired: {asked:?}");
        assert_eq!(asked[0], "/token?x=y&service=reg%20%26%20co&scope=repository%3At%2Fos%3Apull");
        let leaked = |seen: &Seen| seen.field("authorization").is_some_and(|value| value.starts_with("Basic"));
        assert!(!registry.seen().iter().any(leaked), "the password is for the token server alone");
    }
}

#[test]
fn refused_tokens_and_passwords_end() {
    let (tokens, registry) = with_tokens("named");
    let mut settings = settings(registry.url("oci", "t/os"));
    let error = open_test(&settings).channel().expect_err("no name");
    assert!(matches!(error, SourceError::NotAllowed { status: 401, .. }), "{error}");
    (settings.username, settings.password) = (Some("name".to_owned()), Some("wrong".to_owned()));
    let error = open_test(&settings).channel().expect_err("wrong password");
    assert!(error.to_string().contains("with user name and password"), "{error}");
    assert_eq!(tokens.seen().len(), 2);
    // A token that is never taken is asked for once.
    let server = Server::start(|seen| match seen.target().starts_with("/token") {
        true => Reply::new(200, "", "{\"token\":\"abc\"}"),
        false => {
            let realm = format!("Bearer realm=\"http://{}/token\"", seen.field("host").unwrap_or_default());
            Reply::new(401, &format!("WWW-Authenticate: {realm}\r\n"), "")
        }
    });
    let mut source = open_test(&super::settings(server.url("oci", "t/os")));
    assert!(matches!(source.channel(), Err(SourceError::NotAllowed { status: 401, .. })));
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn basic_and_bearer_credentials_answer_a_challenge() {
    for (username, scheme, expected) in [(Some("name"), "Basic", "Basic bmFtZTpwdw=="), (None, "Bearer", "Bearer pw")] {
        let repository = Repository::new();
        let server = Server::start(move |seen| match seen.field("authorization") {
            Some(value) if value == expected => repository.answer(seen),
            _ => Reply::new(401, &format!("WWW-Authenticate: {scheme} realm=\"x\"\r\n"), ""),
        });
        let (username, password) = (username.map(str::to_owned), Some("pw".to_owned()));
        let settings = SourceSettings { username, password, ..settings(server.url("oci", "t/os")) };
        assert_eq!(open_test(&settings).channel().expect("a channel"), b"channel");
        let unasked = server.seen().iter().filter(|seen| seen.field("authorization").is_none()).count();
        assert_eq!(unasked, 1, "credentials are sent when they are asked for, and from then on");
    }
    let (_server, mut source) = {
        let server = Server::start(|_| Reply::new(401, "WWW-Authenticate: Negotiate\r\n", ""));
        let source = open_test(&settings(server.url("oci", "t/os")));
        (server, source)
    };
    assert!(source.channel().expect_err("401").to_string().contains("without credentials"));
}

#[test]
fn token_servers_without_tls_get_nothing() {
    let authority = Authority::new();
    let tokens = Server::start(|_| Reply::new(200, "", "{\"token\":\"abc\"}"));
    for realm in [tokens.url("http", "token"), "ftp://x/".to_owned(), String::new()] {
        let challenge = format!("WWW-Authenticate: Bearer realm=\"{realm}\"\r\n");
        let server = Server::start_tls(authority.good(), move |_| Reply::new(401, &challenge, ""));
        // Loopback registries are spoken to without TLS, so the sender is asked directly.
        let mut settings = settings(server.url("https", "t/os"));
        (settings.username, settings.password) = (Some("name".to_owned()), Some("pw".to_owned()));
        let credentials = Credentials::from_settings(&settings).expect("credentials");
        let base = Url::parse(&server.url("https", "v2/t/os")).expect("a URL");
        let clock = Box::new(Rc::new(Hand::default()));
        let client =
            super::super::settings::client(&settings, base.origin.scheme, &authority.machine(), clock, limits());
        let mut source = Registry::new(client.expect("a client"), (base, "t/os".to_owned()), credentials, Vec::new());
        let error = source.keys(1).expect_err("refused");
        assert!(matches!(error, SourceError::Document { .. }), "{error}");
        assert!(error.to_string().contains("token server"), "{error}");
        assert!(server.seen().iter().all(|seen| seen.field("authorization").is_none()));
    }
    assert!(tokens.seen().is_empty());
}

#[test]
fn blobs_in_storage_are_fetched_without_credentials() {
    let repository = Repository::new();
    let blobs = repository.clone();
    let storage = Server::start(move |seen| {
        let digest = seen.target().split(['/', '?']).nth(2).expect("a digest").to_owned();
        file(seen, &blobs.blobs[&digest], "")
    });
    let base = storage.url("http", "storage");
    let registry =
        Server::start(move |seen| match (seen.field("authorization"), seen.target().split_once("/blobs/")) {
            (None, _) => Reply::new(401, "WWW-Authenticate: Basic realm=\"x\"\r\n", ""),
            (_, Some((_, digest))) => {
                Reply::new(307, &format!("Location: {base}/{digest}?signature=secret\r\n"), "moved")
            }
            _ => repository.answer(seen),
        });
    let (username, password) = (Some("name".to_owned()), Some("pw".to_owned()));
    let settings = SourceSettings { username, password, ..settings(registry.url("oci", "t/os")) };
    let mut source = open_test(&settings);
    assert_eq!(source.open_release().expect("a release"), b"envelope");
    for start in [0, 100_000] {
        let (result, _, found) = source.chunks(&blob(&bytes(200_000)), start, start + 50_000);
        assert_eq!(result.expect("a range"), Served::Range);
        assert_eq!(found, bytes(200_000)[start as usize..start as usize + 50_000]);
    }
    let seen = storage.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|seen| seen.field("authorization").is_none() && seen.connection == 0), "{seen:?}");
    assert!(registry.seen().iter().all(|seen| seen.connection == 0), "its connection is kept too");
    // Storage that wants to see something gets nothing.
    let storage = Server::start(|_| Reply::new(401, "WWW-Authenticate: Basic realm=\"x\"\r\n", ""));
    let location = format!("Location: {}\r\n", storage.url("http", "x?signature=secret"));
    let repository = Repository::new();
    let registry = Server::start(move |seen| match seen.target().contains("/blobs/") {
        true => Reply::new(307, &location, ""),
        false => repository.answer(seen),
    });
    let settings = SourceSettings { url: registry.url("oci", "t/os"), ..settings };
    let error = open_test(&settings).open_release().expect_err("401");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(storage.seen().iter().all(|seen| seen.field("authorization").is_none()));
}

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../../../../tests/fixtures/cosign/", $name))
    };
}

const P256: &str = fixture!("test-key-p256.pub");
const OTHER: &str = fixture!("test-key-other.pub");
const ED25519: &str = fixture!("test-key-ed25519.pub");

impl Repository {
    /// Returns one whose release is what was signed, with text `text`.
    fn to_sign(manifest: &str, text: &str) -> Self {
        let mut repository = Repository::default();
        for blob in [text.to_owned(), format!("index of {text}"), format!("chunks of {text}")] {
            repository.blobs.insert(name(blob.as_bytes()), blob.into_bytes());
        }
        repository.put(TAG, manifest.as_bytes().to_vec());
        repository
    }

    fn signed() -> Self {
        Repository::to_sign(fixture!("release-manifest.json"), "release")
    }

    fn digest(&self) -> String {
        Digest::of(&self.manifests[TAG]).hex()
    }

    fn with_classic(mut self, manifest: &str, payload: &str) -> Self {
        self.put(&format!("sha256-{}.sig", self.digest()), manifest.as_bytes().to_vec());
        self.blobs.insert(name(payload.as_bytes()), payload.as_bytes().to_vec());
        self
    }

    /// Adds a bundle: through the API, or by the tag.
    fn with_bundle(mut self, api: bool, referrers: &str, manifest: &str, bundle: &str) -> Self {
        self.manifests.insert(name(manifest.as_bytes()), manifest.as_bytes().to_vec());
        self.blobs.insert(name(bundle.as_bytes()), bundle.as_bytes().to_vec());
        let digest = self.digest();
        match api {
            true => drop(self.referrers.insert(format!("sha256:{digest}"), referrers.as_bytes().to_vec())),
            false => self.put(&format!("sha256-{digest}"), referrers.as_bytes().to_vec()),
        }
        self
    }

    fn open_signed(self, keys: &[&str]) -> Result<Vec<u8>, SourceError> {
        let server = Server::start(move |seen| self.answer(seen));
        let cosign_keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let settings = SourceSettings { cosign_keys, ..settings(server.url("oci", "t/os")) };
        let result = open_test(&settings).open_release();
        // Nothing of a release is fetched before it is known who signed it.
        let fetched = server.targets().iter().any(|target| target.contains(&Digest::of(b"release").hex()));
        assert_eq!(fetched, result.is_ok());
        result
    }
}

fn classic() -> Repository {
    Repository::signed().with_classic(fixture!("classic-manifest.json"), fixture!("classic-payload.json"))
}

fn bundled(api: bool) -> Repository {
    let (referrers, manifest) = (fixture!("bundle-referrers.json"), fixture!("bundle-manifest.json"));
    Repository::signed().with_bundle(api, referrers, manifest, fixture!("bundle.json"))
}

#[test]
fn what_cosign_signed_is_taken_in_all_forms() {
    // As some builds of cosign 3.1 write the index: with the media type of the configuration.
    let kind = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let referrers = fixture!("bundle-referrers.json").replace(kind, "application/vnd.oci.empty.v1+json");
    let manifest = fixture!("bundle-manifest.json");
    let mistyped = Repository::signed().with_bundle(false, &referrers, manifest, fixture!("bundle.json"));
    for (repository, form) in [
        (classic(), "classic"),
        (bundled(true), "referrers"),
        (bundled(false), "tag"),
        (mistyped, "tag, by another type"),
    ] {
        assert_eq!(repository.clone().open_signed(&[P256]).expect(form), b"release");
        assert_eq!(repository.open_signed(&[OTHER, ED25519, P256]).expect(form), b"release");
    }
}

#[test]
fn ed25519_keys_of_cosign_are_taken() {
    let release = || Repository::to_sign(fixture!("ed25519-release-manifest.json"), "edwards");
    let (manifest, payload) = (fixture!("ed25519-classic-manifest.json"), fixture!("ed25519-classic-payload.json"));
    let referrers = fixture!("ed25519-bundle-referrers.json");
    let bundle = (fixture!("ed25519-bundle-manifest.json"), fixture!("ed25519-bundle.json"));
    for repository in
        [release().with_classic(manifest, payload), release().with_bundle(true, referrers, bundle.0, bundle.1)]
    {
        let server = Server::start(move |seen| repository.answer(seen));
        let open = |key: &str| {
            let settings = SourceSettings { cosign_keys: vec![key.to_owned()], ..settings(server.url("oci", "t/os")) };
            open_test(&settings).open_release()
        };
        assert_eq!(open(ED25519).expect("signed"), b"edwards");
        assert!(matches!(open(P256), Err(SourceError::CosignUnsigned { .. })));
    }
}

#[test]
fn what_others_signed_is_refused() {
    for repository in [classic(), bundled(true), bundled(false)] {
        let error = repository.open_signed(&[OTHER, ED25519]).expect_err("another key");
        assert!(error.to_string().contains("not signed by any of the 2 cosign keys"), "{error}");
        assert!(error.to_string().contains("it is by another key"), "{error}");
    }
    let error = Repository::signed().open_signed(&[P256]).expect_err("unsigned").to_string();
    assert!(error.contains("no signature was found"), "{error}");
}

#[test]
fn signatures_of_other_manifests_are_refused() {
    let (manifest, payload) = (fixture!("other-digest-manifest.json"), fixture!("other-digest-payload.json"));
    let error = Repository::signed().with_classic(manifest, payload).open_signed(&[P256]).expect_err("another digest");
    assert!(error.to_string().contains("not this manifest"), "{error}");
    let referrers = fixture!("other-digest-bundle-referrers.json");
    let (manifest, bundle) = (fixture!("other-digest-bundle-manifest.json"), fixture!("other-digest-bundle.json"));
    let error = Repository::signed().with_bundle(true, referrers, manifest, bundle).open_signed(&[P256]);
    assert!(error.expect_err("another digest").to_string().contains("not this manifest"));
    let attested = Repository::to_sign(fixture!("attested-manifest.json"), "attested");
    let referrers = fixture!("attestation-bundle-referrers.json");
    let (manifest, bundle) = (fixture!("attestation-bundle-manifest.json"), fixture!("attestation-bundle.json"));
    let error = attested.with_bundle(true, referrers, manifest, bundle).open_signed(&[P256]);
    assert!(error.expect_err("an attestation").to_string().contains("predicateType"));
}

#[test]
fn damaged_signatures_are_refused_and_good_ones_beside_them_taken() {
    let mut repository = classic();
    let tag = format!("sha256-{}.sig", repository.digest());
    let good: Value = serde_json::from_slice(&repository.manifests[&tag]).expect("JSON");
    let with_layers = |layers: Vec<Value>| {
        let mut manifest = good.clone();
        manifest["layers"] = Value::Array(layers);
        let mut repository = classic();
        repository.put(&tag, manifest.to_string().into_bytes());
        repository
    };
    let layer = |signature: Option<&str>| {
        let mut layer = good["layers"][0].clone();
        layer["annotations"] = signature.map_or(json!({}), |text| json!({SIGNATURE_ANNOTATION: text}));
        layer
    };
    let bad = [layer(None), layer(Some("?")), layer(Some("")), layer(Some("AAAA"))];
    for layer in &bad {
        let error = with_layers(vec![layer.clone()]).open_signed(&[P256]).expect_err("damaged");
        assert!(matches!(error, SourceError::CosignUnsigned { .. }), "{error}");
    }
    let mut missing = layer(Some("AAAA"));
    missing["digest"] = json!(format!("sha256:{}", "0".repeat(64)));
    let mixed = bad.iter().cloned().chain([missing, good["layers"][0].clone()]).collect();
    assert_eq!(with_layers(mixed).open_signed(&[P256]).expect("one is good"), b"release");
    // More than anybody needs: the good one is too far behind.
    let many = (0..64).map(|_| bad[3].clone()).chain([good["layers"][0].clone()]).collect();
    let error = with_layers(many).open_signed(&[P256]).expect_err("too many").to_string();
    assert!(error.contains("64 signatures were looked at"), "{error}");
    // Both forms, one of them damaged.
    let payload = Digest::of(fixture!("classic-payload.json").as_bytes());
    repository.blobs.remove(&format!("sha256:{payload}"));
    let (referrers, manifest) = (fixture!("bundle-referrers.json"), fixture!("bundle-manifest.json"));
    let both = repository.with_bundle(true, referrers, manifest, fixture!("bundle.json"));
    assert_eq!(both.open_signed(&[P256]).expect("the bundle is good"), b"release");
}

#[test]
fn referrers_that_are_something_else_are_passed_over() {
    let good: Value = serde_json::from_str(fixture!("bundle-referrers.json")).expect("JSON");
    let mut listed = good["manifests"].as_array().expect("a list").clone();
    let mut unnamed = listed[0].clone();
    unnamed.as_object_mut().expect("an object").remove("artifactType");
    let other = |kind: &str| json!({"mediaType": MANIFEST, "digest": format!("sha256:{}", "0".repeat(64)), "size": 1, "artifactType": kind});
    listed = vec![other("application/spdx+json"), other(BUNDLE_MEDIA_TYPE), unnamed];
    let index = json!({"schemaVersion": 2, "manifests": listed}).to_string();
    let repository =
        Repository::signed().with_bundle(true, &index, fixture!("bundle-manifest.json"), fixture!("bundle.json"));
    assert_eq!(repository.open_signed(&[P256]).expect("one is good"), b"release");
}

#[test]
fn signatures_that_cannot_be_fetched_are_an_error_and_not_absent() {
    let repository = bundled(true);
    let server = Server::start(move |seen| match seen.target().ends_with(".sig") {
        true => Reply::new(503, "", ""),
        false => repository.answer(seen),
    });
    let settings = SourceSettings { cosign_keys: vec![P256.to_owned()], ..settings(server.url("oci", "t/os")) };
    let error = open_test(&settings).open_release().expect_err("not known");
    assert!(error.is_transient(), "{error}");
}
