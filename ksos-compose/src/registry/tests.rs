#![expect(clippy::disallowed_methods, reason = "tests write files of their own")]

use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::manifest::{Descriptor, Index};
use super::push::{Artifact, Layer, push};
use super::*;
use crate::effects::net::tests::server::{Seen, Server, reply};
use crate::effects::net::tests::{Fixture, body, quick};

/// What a registry has.
#[derive(Default)]
struct State {
    blobs: HashMap<String, Vec<u8>>,
    uploads: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, Vec<u8>>,
    /// What other repositories have, by the query that mounts it.
    others: HashMap<String, Vec<u8>>,
    next: usize,
}

/// Answers a request in place of the registry; says whether it did.
type Fault = dyn Fn(&Seen, &mut TcpStream, &Mutex<State>) -> bool + Send + Sync;

/// A registry in memory, with faults.
struct Fake {
    state: Arc<Mutex<State>>,
    server: Server,
    fixture: Fixture,
}

impl Fake {
    fn new(lists_referrers: bool, fault: Box<Fault>) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let server = Server::start(move |seen, stream| {
            if !fault(seen, stream, &shared) {
                answer(seen, stream, &shared, lists_referrers);
            }
        });
        Fake { state, server, fixture: Fixture::new(quick()) }
    }

    fn good() -> Self {
        Fake::new(true, Box::new(|_, _, _| false))
    }

    fn registry(&self) -> Registry<'_> {
        let registries = Registries::new(|_| None);
        let text = format!("oci://{}/team/os", self.server.address());
        let location = Location::parse(&text).unwrap().unwrap();
        Registry::new(&self.fixture.downloader, &registries, &location.place, Action::Push)
    }

    fn methods(&self) -> Vec<String> {
        self.server.seen().iter().map(|seen| seen.line.split(' ').next().unwrap().to_owned()).collect()
    }

    fn has_blob(&self, bytes: &[u8]) -> bool {
        self.state.lock().unwrap().blobs.get(&name(bytes)).is_some_and(|there| there == bytes)
    }
}

fn name(bytes: &[u8]) -> String {
    format!("sha256:{}", Digest::of(bytes))
}

/// Does what the OCI distribution specification 1.1 asks of a registry.
fn answer(seen: &Seen, stream: &mut TcpStream, state: &Mutex<State>, lists_referrers: bool) {
    let mut state = state.lock().unwrap();
    let method = seen.line.split(' ').next().unwrap();
    let (path, query) = seen.target().split_once('?').unwrap_or((seen.target(), ""));
    if let ("HEAD", Some(digest)) = (method, path.strip_prefix("/v2/team/base/blobs/")) {
        let is_there = state.others.values().any(|bytes| name(bytes) == digest);
        return reply(stream, if is_there { 200 } else { 404 }, &[], b"");
    }
    let rest = path.strip_prefix("/v2/team/os/").unwrap_or_default();
    let found = |stream: &mut TcpStream, bytes: Option<&Vec<u8>>| match bytes {
        Some(bytes) => {
            let digest = format!("Docker-Content-Digest: {}", name(bytes));
            reply(stream, 200, &[&digest], if method == "HEAD" { b"" } else { bytes });
        }
        None => reply(stream, 404, &[], b""),
    };
    match (method, rest.split_once('/').unwrap_or((rest, ""))) {
        ("HEAD" | "GET", ("blobs", digest)) if digest.starts_with("sha256:") => found(stream, state.blobs.get(digest)),
        ("HEAD" | "GET", ("manifests", reference)) => found(stream, state.manifests.get(reference)),
        ("GET", ("referrers", digest)) if lists_referrers => {
            let digest = serde_json::Value::from(digest);
            let about = |bytes: &&Vec<u8>| {
                let manifest: serde_json::Value = serde_json::from_slice(bytes).unwrap();
                manifest["subject"]["digest"] == digest
            };
            let mut found: Vec<_> = state.manifests.values().filter(about).map(|bytes| name(bytes)).collect();
            found.sort();
            let list: Vec<_> = found.iter().map(|digest| serde_json::json!({ "digest": digest, "size": 1 })).collect();
            let body = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": list }).to_string();
            reply(stream, 200, &[&format!("Content-Type: {INDEX}")], body.as_bytes());
        }
        ("POST", ("blobs", "uploads/")) if query.starts_with("mount=") && state.others.contains_key(query) => {
            let bytes = state.others[query].clone();
            state.blobs.insert(name(&bytes), bytes);
            reply(stream, 201, &["Location: /v2/team/os/blobs/x"], b"");
        }
        ("POST", ("blobs", "uploads/")) => {
            state.next += 1;
            let id = state.next.to_string();
            state.uploads.insert(id.clone(), Vec::new());
            reply(stream, 202, &[&format!("Location: /v2/team/os/blobs/uploads/{id}?state=x")], b"");
        }
        ("PATCH", ("blobs", upload)) => {
            let id = upload.trim_start_matches("uploads/");
            let Some(known) = state.uploads.get_mut(id) else { return reply(stream, 404, &[], b"") };
            let start = seen.header("content-range").and_then(|range| range.split_once('-')?.0.parse().ok());
            if start.unwrap_or(0) != known.len() {
                return reply(stream, 416, &[], b"");
            }
            known.extend_from_slice(&seen.body);
            reply(stream, 202, &[&format!("Location: /v2/team/os/blobs/uploads/{id}?state=y")], b"");
        }
        ("GET", ("blobs", upload)) => {
            let id = upload.trim_start_matches("uploads/");
            let Some(known) = state.uploads.get(id) else { return reply(stream, 404, &[], b"") };
            let range = format!("Range: 0-{}", known.len().saturating_sub(1));
            reply(stream, 204, &[&range, &format!("Location: /v2/team/os/blobs/uploads/{id}?state=z")], b"");
        }
        ("PUT", ("blobs", upload)) => {
            let id = upload.trim_start_matches("uploads/");
            let wanted = query.split('&').find_map(|field| field.strip_prefix("digest=")).unwrap_or_default();
            let wanted = wanted.replace("%3A", ":");
            let Some(mut bytes) = state.uploads.remove(id) else { return reply(stream, 404, &[], b"") };
            bytes.extend_from_slice(&seen.body);
            if name(&bytes) != wanted {
                let said = br#"{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}"#;
                return reply(stream, 400, &[], said);
            }
            state.blobs.insert(wanted, bytes);
            reply(stream, 201, &[], b"");
        }
        ("PUT", ("manifests", reference)) => {
            let digest = name(&seen.body);
            state.manifests.insert(reference.to_owned(), seen.body.clone());
            state.manifests.insert(digest.clone(), seen.body.clone());
            let digest = format!("Docker-Content-Digest: {digest}");
            let subject = serde_json::from_slice::<serde_json::Value>(&seen.body).unwrap()["subject"]["digest"].clone();
            match subject.as_str().filter(|_| lists_referrers) {
                Some(subject) => reply(stream, 201, &[&digest, &format!("OCI-Subject: {subject}")], b""),
                None => reply(stream, 201, &[&digest], b""),
            }
        }
        _ => reply(stream, 404, &[], b""),
    }
}

fn file(fake: &Fake, bytes: &[u8]) -> Layer<'static> {
    let path = fake.fixture.directory.path().join("layer");
    std::fs::write(&path, bytes).unwrap();
    Layer::file("application/x", Some("layer"), hash_file(&path).unwrap(), path)
}

#[test]
fn an_artifact_is_pushed_once_with_its_manifest_last() {
    let fake = Fake::good();
    let registry = fake.registry();
    let bytes = body(300_000);
    let layers = vec![file(&fake, &bytes), Layer::bytes("application/y", None, &b"small"[..])];
    let artifact = Artifact::new("application/vnd.example", layers);
    let pushed = push(&registry, &artifact, Some("v1")).unwrap();
    assert_eq!((pushed.sent, pushed.unchanged), (300_000 + 5 + 2, false));
    assert!(fake.has_blob(&bytes) && fake.has_blob(b"small") && fake.has_blob(b"{}"));
    let seen = fake.server.seen();
    let last = seen.last().unwrap();
    assert!(last.line.starts_with("PUT /v2/team/os/manifests/v1 "), "{}", last.line);
    assert_eq!(last.header("content-type"), Some(manifest::MANIFEST));
    let found = registry.manifest("v1").unwrap().unwrap();
    assert_eq!((found.digest, &found.bytes), (pushed.digest, &artifact.manifest()));
    let read = manifest::Manifest::parse(&found.bytes).unwrap();
    assert_eq!(
        (read.kind(), read.layers[0].annotations[manifest::TITLE].as_str()),
        ("application/vnd.example", "layer")
    );
    assert_eq!(registry.small_blob(&read.layer("application/y").unwrap(), 10).unwrap(), b"small");
    assert!(registry.small_blob(&read.layer("application/y").unwrap(), 4).is_err(), "over the limit");
    let again = push(&registry, &artifact, Some("v1")).unwrap();
    assert_eq!((again.sent, again.unchanged), (0, true));
    // Under another tag, nothing but the manifest is sent.
    let before = fake.server.seen().len();
    assert_eq!(push(&registry, &artifact, Some("v2")).unwrap().sent, 0);
    assert!(!fake.methods()[before..].iter().any(|method| method == "POST"), "{:?}", fake.methods());
}

#[test]
fn an_upload_goes_on_where_it_broke() {
    let bytes = body(5_000_000);
    let half = bytes[..1_500_000].to_vec();
    let count = AtomicUsize::new(0);
    let fake = Fake::new(
        true,
        Box::new(move |seen, stream, state| {
            if !seen.line.starts_with("PATCH") || count.fetch_add(1, Ordering::SeqCst) > 0 {
                return false;
            }
            // The registry kept the first part, and is gone.
            let id = seen.target().split_once("uploads/").unwrap().1.split('?').next().unwrap().to_owned();
            state.lock().unwrap().uploads.insert(id, half.clone());
            let _ = stream.shutdown(std::net::Shutdown::Both);
            true
        }),
    );
    fake.registry().push_blob(&file(&fake, &bytes)).unwrap();
    assert!(fake.has_blob(&bytes));
    let ranges: Vec<_> =
        fake.server.seen().iter().filter_map(|seen| seen.header("content-range").map(str::to_owned)).collect();
    assert_eq!(ranges, ["1500000-4999999"]);
}

#[test]
fn an_upload_that_is_forgotten_or_wrong_begins_again() {
    for kept in [None, Some(vec![0; 9])] {
        let bytes = body(5_000_000);
        let count = AtomicUsize::new(0);
        let is_wrong = kept.is_some();
        let fake = Fake::new(
            true,
            Box::new(move |seen, stream, state| {
                if !seen.line.starts_with("PATCH") || count.fetch_add(1, Ordering::SeqCst) > 0 {
                    return false;
                }
                let id = seen.target().split_once("uploads/").unwrap().1.split('?').next().unwrap().to_owned();
                let mut state = state.lock().unwrap();
                match &kept {
                    Some(bytes) => drop(state.uploads.insert(id, bytes.clone())),
                    None => drop(state.uploads.remove(&id)),
                }
                let _ = stream.shutdown(std::net::Shutdown::Both);
                true
            }),
        );
        fake.registry().push_blob(&file(&fake, &bytes)).unwrap();
        assert!(fake.has_blob(&bytes), "{is_wrong}");
        assert_eq!(fake.methods().iter().filter(|method| *method == "POST").count(), 2);
    }
}

#[test]
fn a_busy_registry_is_asked_again_and_a_firm_no_is_told() {
    let known = Mutex::new(std::collections::HashSet::new());
    let fake = Fake::new(
        true,
        Box::new(move |seen, stream, _| {
            // Every kind of request, once: each upload has a name of its own.
            let kind = seen.line.split("uploads/").next().unwrap().to_owned();
            let is_busy = known.lock().unwrap().insert(kind);
            if is_busy {
                reply(stream, 429, &["Retry-After: 0"], b"");
            }
            is_busy
        }),
    );
    let artifact = Artifact::new("application/x", vec![file(&fake, b"content")]);
    push(&fake.registry(), &artifact, Some("v1")).unwrap();
    assert!(fake.has_blob(b"content"));

    let said = br#"{"errors":[{"code":"DENIED","message":"quota\u001b[31m exceeded"}]}"#;
    let fake = Fake::new(
        true,
        Box::new(move |seen, stream, _| {
            let is_put = seen.line.starts_with("PUT /v2/team/os/manifests");
            if is_put {
                reply(stream, 403, &[], said);
            }
            is_put
        }),
    );
    let artifact = Artifact::new("application/x", vec![]);
    let error = push(&fake.registry(), &artifact, Some("v1")).unwrap_err().to_string();
    for part in ["manifests/v1", "status 403: DENIED quota [31m exceeded"] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    assert_eq!(fake.methods().iter().filter(|method| *method == "PUT").count(), 2, "of the blob, and of the manifest");
}

#[test]
fn a_registry_that_stores_something_else_is_caught() {
    let fake = Fake::new(
        true,
        Box::new(|seen, stream, _| {
            let is_put = seen.line.starts_with("PUT /v2/team/os/manifests");
            if is_put {
                reply(stream, 201, &[&format!("Docker-Content-Digest: {}", name(b"other"))], b"");
            }
            is_put
        }),
    );
    let artifact = Artifact::new("application/x", vec![]);
    let error = push(&fake.registry(), &artifact, Some("v1")).unwrap_err();
    assert!(matches!(error, RegistryError::Stored { .. }), "{error}");
}

#[test]
fn what_refers_to_a_manifest_is_listed_where_the_registry_does_not() {
    for lists in [true, false] {
        let fake = Fake::new(lists, Box::new(|_, _, _| false));
        let registry = fake.registry();
        let subject = Descriptor::of(manifest::MANIFEST, b"subject");
        for content in [&b"one"[..], b"two", b"one"] {
            let mut artifact = Artifact::new("application/note", vec![Layer::bytes("application/x", None, content)]);
            artifact.subject = Some(subject.clone());
            push(&registry, &artifact, None).unwrap();
        }
        let tag = subject.digest.replacen(':', "-", 1);
        let listed = registry.manifest(&tag).unwrap().map(|found| Index::parse(&found.bytes).unwrap());
        let kinds =
            listed.map(|index| index.manifests.into_iter().map(|entry| entry.artifact_type).collect::<Vec<_>>());
        let note = || Some("application/note".to_owned());
        assert_eq!(kinds, (!lists).then(|| vec![note(), note()]));
    }
}

#[test]
fn credentials_do_not_follow_an_upload_to_another_host() {
    let storage = Server::start(|seen, stream| match seen.line.starts_with("PATCH") {
        true => reply(stream, 202, &["Location: /there?x=1"], b""),
        false => reply(stream, 201, &[], b""),
    });
    let place = storage.url("/there");
    let fake = Fake::new(
        true,
        Box::new(move |seen, stream, _| match (seen.header("authorization"), seen.line.starts_with("POST")) {
            (None, _) => {
                reply(stream, 401, &["WWW-Authenticate: Basic realm=\"x\""], b"");
                true
            }
            (Some(_), true) => {
                reply(stream, 202, &[&format!("Location: {place}")], b"");
                true
            }
            (Some(_), false) => false,
        }),
    );
    let directory = fake.fixture.directory.path().to_owned();
    // user:secret
    let text = format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpzZWNyZXQ="}}}}}}"#, fake.server.address());
    std::fs::write(directory.join("config.json"), text).unwrap();
    let registries = Registries::new(|name| (name == "DOCKER_CONFIG").then(|| directory.to_str().unwrap().to_owned()));
    let text = format!("oci://{}/team/os", fake.server.address());
    let location = Location::parse(&text).unwrap().unwrap();
    let registry = Registry::new(&fake.fixture.downloader, &registries, &location.place, Action::Push);
    let content = body(5_000_000);
    registry.push_blob(&file(&fake, &content)).unwrap();
    let seen = storage.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.header("authorization").is_none()), "{seen:?}");
    assert_eq!(seen[0].body, content);
    assert!(seen[1].line.starts_with("PUT /there?x=1&digest=sha256%3A"), "{}", seen[1].line);
    assert!(fake.server.seen().iter().any(|seen| seen.header("authorization").is_some()));
}

#[test]
fn requests_with_bodies_go_through_a_proxy_whole() {
    // What begins like a request line is none where a body is.
    let content = b"PUT /v2/ HTTP/1.1\r\nHost: x\r\n\r\n".repeat(4000);
    let proxy = Server::start(|seen, stream| {
        let path = seen.target().strip_prefix("http://registry.example").unwrap_or("/bad");
        match (seen.line.split(' ').next().unwrap(), path.starts_with("/v2/team/os/blobs/")) {
            ("HEAD", true) => reply(stream, 404, &[], b""),
            ("POST", true) => reply(stream, 202, &["Location: /v2/team/os/blobs/uploads/1"], b""),
            ("PUT", true) => reply(stream, 201, &[], b""),
            _ => reply(stream, 500, &[], b""),
        }
    });
    let mut options = quick();
    options.proxy.http = Some(proxy.url(""));
    let fixture = Fixture::new(options);
    let location = Location::parse("oci+http://registry.example/team/os").unwrap().unwrap();
    let registry = Registry::new(&fixture.downloader, &Registries::new(|_| None), &location.place, Action::Push);
    registry.push_blob(&Layer::bytes("application/x", None, content.clone())).unwrap();
    let seen = proxy.seen();
    assert_eq!(
        seen.iter().map(|seen| seen.line.split(' ').next().unwrap()).collect::<Vec<_>>(),
        ["HEAD", "POST", "PUT"]
    );
    assert!(seen.iter().all(|seen| seen.target().starts_with("http://registry.example/v2/")), "{seen:?}");
    assert!(seen[2].body == content, "{} bytes", seen[2].body.len());
}

#[test]
fn places_are_read() {
    let parse = |text: &str| Location::parse(text).map(|result| result.map_err(|error| error.to_string()));
    let location = parse("oci://quay.io/team/os:v1").unwrap().unwrap();
    assert_eq!(
        (location.place.base().as_str(), location.reference().as_deref()),
        ("https://quay.io/v2/team/os", Some("v1"))
    );
    let plain = parse("oci+http://reg.lan/os").unwrap().unwrap();
    assert_eq!((plain.place.base().as_str(), plain.reference()), ("http://reg.lan/v2/os", None));
    let digest = Digest::of(b"x");
    let by_digest = parse(&format!("oci://[::1]:5000/os@sha256:{digest}")).unwrap().unwrap();
    assert_eq!((by_digest.digest, by_digest.place.plain), (Some(digest), true));
    assert!(parse("https://quay.io/x").is_none() && parse("/srv/tree").is_none());
    for text in
        ["oci://", "oci://os", "oci://quay.io", "oci://quay.io/A", "oci://quay.io/../x", "oci://user:pw@quay.io/x"]
    {
        assert!(parse(text).unwrap().is_err(), "{text}");
    }
}

#[test]
fn a_registry_that_takes_only_so_much_gets_pieces() {
    let fake = Fake::new(
        true,
        Box::new(|seen, stream, _| {
            let is_large = seen.body.len() > 17 << 20;
            if is_large {
                reply(stream, 413, &[], b"");
            }
            is_large
        }),
    );
    let bytes = body(40 << 20);
    fake.registry().push_blob(&file(&fake, &bytes)).unwrap();
    assert!(fake.has_blob(&bytes));
    let seen = fake.server.seen();
    let ranges: Vec<_> = seen.iter().filter_map(|seen| seen.header("content-range")).collect();
    assert_eq!(ranges, ["0-16777215", "16777216-33554431", "33554432-41943039"]);
}

#[test]
fn what_another_repository_has_is_mounted() {
    let fake = Fake::good();
    let bytes = body(30_000);
    let query = format!("mount=sha256%3A{}&from=team%2Fbase", Digest::of(&bytes));
    fake.state.lock().unwrap().others.insert(query, bytes.clone());
    let text = format!("oci://{}/team/os", fake.server.address());
    let place = Location::parse(&text).unwrap().unwrap().place;
    let mounts = vec!["team/none".to_owned(), "team/base".to_owned()];
    let registry = Registry::with_mounts(&fake.fixture.downloader, &Registries::new(|_| None), &place, mounts);
    assert_eq!(registry.push_blob(&file(&fake, &bytes)).unwrap(), 0);
    assert!(fake.has_blob(&bytes) && !fake.methods().iter().any(|method| method == "PATCH" || method == "PUT"));
    assert_eq!(registry.push_blob(&Layer::bytes("application/x", None, &b"other"[..])).unwrap(), 5);
}

#[test]
fn an_answer_that_is_lost_costs_no_second_upload() {
    let lost = AtomicUsize::new(0);
    let fake = Fake::new(
        true,
        Box::new(move |seen, stream, state| {
            let is_first = seen.line.contains("digest=") && lost.fetch_add(1, Ordering::SeqCst) == 0;
            if is_first {
                state.lock().unwrap().blobs.insert(name(&seen.body), seen.body.clone());
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
            is_first
        }),
    );
    assert_eq!(fake.registry().push_blob(&file(&fake, b"content")).unwrap(), 7);
    assert_eq!(fake.methods().iter().filter(|method| *method == "POST").count(), 1, "{:?}", fake.methods());
}

#[test]
fn a_file_that_is_another_by_now_is_named() {
    let fake = Fake::good();
    let layer = file(&fake, b"content");
    for other in [&b"another"[..], b"short", b"longer than it was"] {
        std::fs::write(fake.fixture.directory.path().join("layer"), other).unwrap();
        let error = fake.registry().push_blob(&layer).unwrap_err();
        assert!(matches!(&error, RegistryError::Changed { .. }), "{error}");
    }
    assert!(fake.state.lock().unwrap().blobs.is_empty());
}

#[test]
fn of_writers_at_once_both_are_listed() {
    let looked = AtomicUsize::new(0);
    let theirs = Descriptor::of(manifest::MANIFEST, b"theirs");
    let entry = theirs.clone();
    let fake = Fake::new(
        false,
        Box::new(move |seen, _, state| {
            let is_look = seen.line.starts_with("GET") && seen.line.contains("/manifests/sha256-");
            // Another writer had read the list before ours came, and has put its own over it.
            if is_look && looked.fetch_add(1, Ordering::SeqCst) == 1 {
                let tag = seen.target().rsplit('/').next().unwrap().to_owned();
                let mut state = state.lock().unwrap();
                let ours = Index::parse(&state.manifests[&tag]).unwrap();
                state.manifests.insert(tag, Index { manifests: vec![entry.clone()], ..ours }.to_bytes());
            }
            false
        }),
    );
    let registry = fake.registry();
    let subject = Descriptor::of(manifest::MANIFEST, b"subject");
    let mut artifact = Artifact::new("application/note", vec![]);
    artifact.subject = Some(subject.clone());
    push(&registry, &artifact, None).unwrap();
    let tag = subject.digest.replacen(':', "-", 1);
    let index = Index::parse(&registry.manifest(&tag).unwrap().unwrap().bytes).unwrap();
    let digests: Vec<_> = index.manifests.iter().map(|entry| entry.digest.clone()).collect();
    assert_eq!(digests, [theirs.digest, name(&artifact.manifest())]);
}
