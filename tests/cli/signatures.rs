//! Signatures in the forms of `cosign`, without it: what `push` has signed, and what the real `cosign` had signed when
//! `tests/fixtures/cosign` was made, verified by `verify`; and every way in which a signature does not count.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::Command;

use ksos_tests::{Outcome, compose, repository, run};
use serde_json::{Value, json};

use crate::publish::contains;
use crate::push::{Work, inspect, noise, read_head};
use crate::registry::{Registry, layout, sha256, tools};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

fn keys(work: &Work) {
    let openssl = |arguments: &[&str]| {
        run(Command::new("openssl").args(arguments).current_dir(work.path(""))).expect_code(0);
    };
    for name in ["ec", "other"] {
        let out = format!("{name}.pem");
        openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &out]);
    }
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "ed.pem"]);
    for name in ["ec", "ed", "other"] {
        openssl(&["pkey", "-in", &format!("{name}.pem"), "-pubout", "-out", &format!("{name}.pub")]);
    }
}

/// Verifies with a cache that has nothing.
fn verify(work: &Work, name: &str, keys: &[&str]) -> Outcome {
    let cache = tempfile::tempdir().unwrap();
    let mut command = compose(&work.path(""));
    command.args(["verify", &format!("oci://{name}")]).env("KSOS_CACHE", cache.path());
    for key in keys {
        command.args(["--cosign-key", key]);
    }
    run(command.env("DOCKER_CONFIG", work.path("docker")))
}

/// Puts a manifest or an index.
fn put(registry: &Registry, repository: &str, reference: &str, media_type: &str, document: &Value) -> String {
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
    let url = format!("http://{}/v2/{repository}/manifests/{reference}", registry.address());
    let bytes = document.to_string();
    agent.put(url).header("content-type", media_type).send(&bytes).unwrap();
    sha256(bytes.as_bytes())
}

/// Changes the first letter of the signature proper, which stays Base64.
fn spoil(signature: &Value) -> String {
    let mut text = signature.as_str().unwrap().to_owned().into_bytes();
    text[20] = if text[20] == b'A' { b'B' } else { b'A' };
    String::from_utf8(text).unwrap()
}

#[test]
fn what_was_pushed_with_a_key_verifies_with_that_key_alone() {
    if !tools() {
        return;
    }
    let registry = Registry::start(false);
    let work = Work::new();
    keys(&work);
    work.write("os-1.0.0-x86_64.qcow2", &noise(70_000, 8));
    work.write("os-1.0.0-x86_64.spdx.json", b"{}");
    layout(&work.path("app"), &["amd64", "arm64"], "app");
    for (input, repository) in [("os-1.0.0-x86_64.qcow2", "team/os"), ("app", "team/app")] {
        let name = format!("{}/{repository}:v1", registry.address());
        let place = format!("oci://{name}");
        work.push(&[input, &place]).expect_code(0);
        contains(&verify(&work, &name, &["ec.pub"]).expect_code(1).stdout, &["there is no signature by cosign"]);
        // Signed later, by two keys; twice is once.
        for _ in 0..2 {
            work.push(&[input, &place, "--cosign-key", "ec.pem", "--cosign-key", "ed.pem"]).expect_code(0);
        }
        for key in ["ec.pub", "ed.pub"] {
            let outcome = verify(&work, &name, &[key]).expect_code(0);
            contains(&outcome.stdout, &["cosign: classic by key 1, bundle by key 1\n", " blobs with "]);
        }
        contains(
            &verify(&work, &name, &["other.pub", "ec.pub"]).expect_code(0).stdout,
            &["classic by key 2, bundle by key 2"],
        );
        contains(
            &verify(&work, &name, &["other.pub"]).expect_code(1).stdout,
            &["FAILED", "of 4 signatures by cosign none counts; of the last: it is by another key, or wrong"],
        );
        // A bundle refers to what it is about as what it is: an index, or a manifest.
        let (document, digest) = inspect(&name);
        let mut signed = vec![(digest, document["mediaType"].as_str().unwrap().to_owned())];
        for entry in document["manifests"].as_array().into_iter().flatten() {
            let digest = entry["digest"].as_str().unwrap().to_owned();
            verify(&work, &format!("{}/{repository}@{digest}", registry.address()), &["ec.pub"]).expect_code(0);
            signed.push((digest, MANIFEST.to_owned()));
        }
        inspected(&work, &place, input == "app");
        assert_eq!(signed.len(), if input == "app" { 3 } else { 1 });
        assert_eq!(signed[0].1, if input == "app" { INDEX } else { MANIFEST });
        for (digest, media_type) in signed {
            let list = format!("{}/{repository}:{}", registry.address(), digest.replace(':', "-"));
            for bundle in inspect(&list).0["manifests"].as_array().unwrap() {
                let bundle = format!("{}/{repository}@{}", registry.address(), bundle["digest"].as_str().unwrap());
                let subject = &inspect(&bundle).0["subject"];
                assert_eq!((&subject["digest"], &subject["mediaType"]), (&json!(digest), &json!(media_type)));
            }
        }
    }
}

/// `inspect` shows what the tag leads to, and what refers to that.
fn inspected(work: &Work, place: &str, index: bool) {
    let inspect = |more: &[&str]| {
        let mut command = compose(&work.path(""));
        command.args(["inspect", place]).args(more).env("KSOS_CACHE", work.path("cache"));
        run(command.env("DOCKER_CONFIG", work.path("docker"))).expect_code(0).stdout
    };
    let text = inspect(&[]);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    contains(&text, &[place, "In the registry", "Beside it"]);
    assert_eq!(text.matches("cosign, bundle").count(), 2, "{text}");
    assert_eq!(text.matches("cosign, classic").count(), 1, "{text}");
    let found: Value = serde_json::from_str(&inspect(&["--json"])).unwrap();
    let entries = found["artifact"]["entries"].as_array().unwrap();
    if index {
        contains(&text, &["index, ", "linux/amd64", "linux/arm64"]);
        assert!(entries.iter().all(|entry| entry["size"].as_u64() > Some(200_000)), "sizes of images: {found:#}");
        assert_eq!((&found["kind"], entries.len()), (&json!("index"), 2), "{found:#}");
        return;
    }
    contains(
        &text,
        &["artifact, 68.4 KiB", "org.opencontainers.image.version = 1.0.0", "os-1.0.0-x86_64.qcow2", "SPDX"],
    );
    assert_eq!((&found["kind"], &found["size"], entries.len()), (&json!("artifact"), &json!(70_000), 1), "{found:#}");
}

#[test]
fn a_signature_that_was_tampered_with_does_not_count() {
    if !tools() {
        return;
    }
    let registry = Registry::start(false);
    let work = Work::new();
    keys(&work);
    work.write("os-1.0.0-x86_64.qcow2", &noise(70_000, 8));
    let (repository, name) = ("team/os", format!("{}/team/os:v1", registry.address()));
    work.push(&["os-1.0.0-x86_64.qcow2", &format!("oci://{name}"), "--cosign-key", "ec.pem"]).expect_code(0);
    let (image, digest) = inspect(&name);
    let named = |tag: &str| format!("{}/{repository}:{tag}", registry.address());

    // The classic one: its bytes are changed, then it is one of other content.
    let tag = format!("{}.sig", digest.replace(':', "-"));
    let (classic, _) = inspect(&named(&tag));
    let mut changed = classic.clone();
    changed["layers"][0]["annotations"][SIGNATURE] = json!(spoil(&classic["layers"][0]["annotations"][SIGNATURE]));
    put(&registry, repository, &tag, MANIFEST, &changed);
    contains(&verify(&work, &name, &["ec.pub"]).expect_code(0).stdout, &["cosign: bundle by key 1\n"]);
    let mut moved = image.clone();
    moved["annotations"]["org.example"] = json!("another image");
    let other = put(&registry, repository, "other", MANIFEST, &moved);
    put(&registry, repository, &format!("{}.sig", other.replace(':', "-")), MANIFEST, &classic);
    let outcome = verify(&work, &named("other"), &["ec.pub"]).expect_code(1);
    contains(&outcome.stdout, &["FAILED", "of 1 signatures by cosign none counts", &digest[7..]]);

    // The bundle, too.
    let list = digest.replace(':', "-");
    let (index, _) = inspect(&named(&list));
    let (carrier, _) =
        inspect(&format!("{}/{repository}@{}", registry.address(), index["manifests"][0]["digest"].as_str().unwrap()));
    let stored = registry.blob(carrier["layers"][0]["digest"].as_str().unwrap());
    let mut bundle: Value = serde_json::from_slice(&fs::read(stored).unwrap()).unwrap();
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = json!(spoil(&bundle["dsseEnvelope"]["signatures"][0]["sig"]));
    // The blob is there under its own digest: an attachment brings it.
    work.write("bundle.json", bundle.to_string().as_bytes());
    let place = format!("oci://{}", named("carrier"));
    work.push(&["os-1.0.0-x86_64.qcow2", &place, "--attach", "bundle.json:application/json"]).expect_code(0);
    let mut carrier = carrier;
    carrier["layers"][0]["digest"] = json!(sha256(bundle.to_string().as_bytes()));
    carrier["layers"][0]["size"] = json!(bundle.to_string().len());
    let spoiled = put(&registry, repository, "spoiled", MANIFEST, &carrier);
    let mut index = index;
    index["manifests"] = json!([index["manifests"][0]]);
    index["manifests"][0]["digest"] = json!(spoiled);
    index["manifests"][0]["size"] = json!(carrier.to_string().len());
    put(&registry, repository, &list, INDEX, &index);
    let outcome = verify(&work, &name, &["ec.pub"]).expect_code(1);
    contains(
        &outcome.stdout,
        &["FAILED", "of 2 signatures by cosign none counts; of the last: it is by another key, or wrong"],
    );
    // Whoever has the key puts it right.
    work.push(&["os-1.0.0-x86_64.qcow2", &format!("oci://{name}"), "--cosign-key", "ec.pem"]).expect_code(0);
    contains(
        &verify(&work, &name, &["ec.pub"]).expect_code(0).stdout,
        &["cosign: classic by key 1, bundle by key 1\n"],
    );
}

/// A registry that only has what it is given: manifests by tag and digest, and blobs.
struct Shelf {
    manifests: BTreeMap<String, Vec<u8>>,
    blobs: BTreeMap<String, Vec<u8>>,
}

impl Shelf {
    fn new() -> Self {
        Shelf { manifests: BTreeMap::new(), blobs: BTreeMap::new() }
    }

    /// Adds a manifest under its digest and a tag.
    fn manifest(&mut self, tag: &str, bytes: &[u8]) {
        self.manifests.insert(tag.to_owned(), bytes.to_vec());
        self.manifests.insert(sha256(bytes), bytes.to_vec());
    }

    fn blob(&mut self, bytes: &[u8]) {
        self.blobs.insert(sha256(bytes), bytes.to_vec());
    }

    /// Serves it for as long as the process lives; returns host and port.
    fn serve(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let Some(head) = read_head(&mut stream) else { continue };
                let path = head.split(' ').nth(1).unwrap();
                let (kind, name) = path.trim_start_matches("/v2/t/release/").split_once('/').unwrap_or_default();
                let found = match kind {
                    "manifests" => self.manifests.get(name),
                    "blobs" => self.blobs.get(name),
                    _ => None,
                };
                let index = found.is_some_and(|bytes| bytes.windows(11).any(|window| window == b"\"manifests\""));
                let status = if found.is_some() { "200 OK" } else { "404 Not Found" };
                let (body, kind) = (found.map_or(&b""[..], Vec::as_slice), if index { INDEX } else { MANIFEST });
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(&[head.as_bytes(), body].concat());
            }
        });
        address
    }
}

/// What the real `cosign` has signed; what is signed there is a release, which is not one of ours, so that this alone counts.
#[test]
fn what_cosign_has_signed_is_verified_and_what_is_about_something_else_is_not() {
    let fixture = |name: &str| fs::read(repository().join("tests/fixtures/cosign").join(name)).unwrap();
    let work = Work::new();
    let key = repository().join("tests/fixtures/keys/test-only-update.pub");
    let cases: [(&str, &str, &str, &str, &str); 6] = [
        ("release", "classic", "bundle", "p256", "cosign: classic by key 1, bundle by key 1\n"),
        (
            "ed25519-release",
            "ed25519-classic",
            "ed25519-bundle",
            "ed25519",
            "cosign: classic by key 1, bundle by key 1\n",
        ),
        (
            "release",
            "classic",
            "bundle",
            "other",
            "of 2 signatures by cosign none counts; of the last: it is by another",
        ),
        ("release", "other-digest", "other-digest-bundle", "p256", "of 2 signatures by cosign none counts"),
        (
            "attested",
            "",
            "attestation-bundle",
            "p256",
            "of 1 signatures by cosign none counts; of the last: predicateType",
        ),
        ("release", "", "", "p256", "there is no signature by cosign"),
    ];
    for (signed, classic, bundle, public, expected) in cases {
        let manifest = fixture(&format!("{signed}-manifest.json"));
        let name = signed.trim_end_matches("-release");
        let name = if name == "ed25519" { "edwards" } else { name };
        let tag = sha256(&manifest).replace(':', "-");
        let mut shelf = Shelf::new();
        shelf.manifest("v1", &manifest);
        for text in ["{}".to_owned(), name.to_owned(), format!("index of {name}"), format!("chunks of {name}")] {
            shelf.blob(text.as_bytes());
        }
        if !classic.is_empty() {
            shelf.manifest(&format!("{tag}.sig"), &fixture(&format!("{classic}-manifest.json")));
            shelf.blob(&fixture(&format!("{classic}-payload.json")));
        }
        if !bundle.is_empty() {
            shelf.manifest(&tag, &fixture(&format!("{bundle}-referrers.json")));
            shelf.manifest("bundle", &fixture(&format!("{bundle}-manifest.json")));
            shelf.blob(&fixture(&format!("{bundle}.json")));
        }
        let public = repository().join(format!("tests/fixtures/cosign/test-key-{public}.pub"));
        let mut command = compose(&work.path(""));
        command.args(["verify", &format!("oci://{}/t/release:v1", shelf.serve()), "--key"]).arg(&key);
        command.arg("--cosign-key").arg(public).env("KSOS_CACHE", work.path("cache"));
        let outcome = run(command.env("DOCKER_CONFIG", work.path("docker"))).expect_code(1);
        let line = outcome.stdout.lines().find(|line| line.contains(" cosign: "));
        let line = line.unwrap_or_else(|| panic!("{} {}", outcome.stdout, outcome.stderr));
        contains(&format!("{line}\n"), &[expected]);
        assert_eq!(line.contains("FAILED"), !expected.starts_with("cosign: "), "{line}");
    }
}
