//! Keys, signing, publishing and verifying as a user meets them: openssl's keys, Debian's `docker-registry` on loopback,
//! and the real `cosign`.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ksos_formats::update::index::{ChunkIndex, Stored};
use ksos_formats::update::{Blob, Envelope, FORMAT, Release};
use ksos_formats::{Arch, Digest};
use ksos_tests::{Outcome, compose, run};

use crate::registry::{Registry, is_there, tools};

/// Whether `cosign` is there; `tests/get-cosign` brings it.
pub fn cosign() -> bool {
    let found = is_there("cosign");
    assert!(found || std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "cosign is missing");
    if !found {
        #[expect(clippy::print_stdout, reason = "the test tells what it skips")]
        {
            println!("skipped: cosign is not installed (tests/get-cosign takes it from Debian's package)");
        }
    }
    found
}

/// A directory with keys, and releases as they are asked for.
pub struct Project {
    pub directory: tempfile::TempDir,
}

impl Project {
    /// Makes a directory with the keys `a` and `b`.
    pub fn new() -> Self {
        let project = Project { directory: tempfile::tempdir().unwrap() };
        for name in ["a", "b"] {
            project.run(&["keygen", "--out", name]).expect_code(0);
        }
        project
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = compose(self.directory.path());
        command.args(arguments).env("KSOS_CACHE", self.path("cache")).env("DOCKER_CONFIG", self.path("docker"));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Outcome {
        run(&mut self.command(arguments))
    }

    /// Writes an unsigned release with one stored chunk of each number, and zeros.
    fn release(&self, version: &str, chunks: u32, fill: u8) -> String {
        let (mut index, mut slot, mut stored) = (ChunkIndex::new(), Vec::new(), Vec::new());
        for number in 0..chunks {
            let mut chunk = vec![fill; 100_000];
            chunk[..4].copy_from_slice(&number.to_le_bytes());
            index.push_chunk(Digest::of(&chunk), chunk.len() as u32, Stored::New(chunk.len() as u32));
            slot.extend_from_slice(&chunk);
            stored.extend_from_slice(&chunk);
        }
        index.push_zeros(50_000);
        slot.resize(slot.len() + 50_000, 0);
        let blob = |bytes: &[u8]| Blob { size: bytes.len() as u64, sha256: Digest::of(bytes) };
        let index = index.to_bytes();
        let release = Release {
            format: FORMAT,
            name: "node".to_owned(),
            version: version.parse().unwrap(),
            arch: Arch::X86_64,
            board: "generic".to_owned(),
            minimum_version: None,
            created: 1_700_000_000,
            expires: None,
            kernel_release: "6.12.1".to_owned(),
            slot: blob(&slot),
            index: blob(&index),
            chunks: blob(&stored),
        };
        let name = format!("node-{version}-x86_64.update");
        fs::create_dir_all(self.path(&name)).unwrap();
        fs::write(self.path(&name).join("slot.index"), index).unwrap();
        fs::write(self.path(&name).join("slot.chunks"), stored).unwrap();
        fs::write(self.path(&name).join("release.json"), Envelope::new(&release).to_json()).unwrap();
        name
    }

    pub fn signed(&self, version: &str, chunks: u32) -> String {
        let name = self.release(version, chunks, 1);
        self.run(&["sign", &name, "--key", "a.key"]).expect_code(0);
        name
    }
}

/// Fails unless `text` has all `parts`.
#[track_caller]
pub fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn a_release_is_signed_published_and_verified() {
    let project = Project::new();
    let release = project.release("1.0.0", 3, 1);
    let published = |more: &[&str]| {
        project.run(&[&["publish", &release, "--to", "www", "--channel", "stable", "--key", "a.key"], more].concat())
    };
    let outcome = published(&[]).expect_code(1);
    contains(&outcome.stderr, &["release.json", "not signed", "hint: ksos-compose sign"]);
    assert!(!project.path("www").exists());
    let outcome = project.run(&["sign", &release, "--key", "a.key", "--key", "b.key"]).expect_code(0);
    assert_eq!(outcome.stdout.matches("signed by").count(), 2, "{}", outcome.stdout);
    let outcome = published(&["--valid-for", "30d"]).expect_code(0);
    assert_eq!(outcome.stdout, "www/channels/stable/node-x86_64.json: sequence 1, newest 1.0.0, published\n");
    let outcome = published(&["--json"]).expect_code(0);
    let listed: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&listed["channels"][0]["changed"], &listed["releases"][0]["bytes"]), (&false.into(), &0.into()));

    for target in [release.as_str(), "www/channels/stable/node-x86_64.json"] {
        let outcome = project.run(&["verify", target, "--key", "a.pub"]).expect_code(0);
        contains(&outcome.stdout, &["slot image: sha256", "slot.chunks: 300000 bytes", "signed by"]);
    }
    let outcome = project.run(&["verify", &release, "--key", "a.pub", "--key", "b.pub"]).expect_code(0);
    assert!(!outcome.stdout.contains("FAILED"), "{}", outcome.stdout);
    let channel = ["verify", "www/channels/stable/node-x86_64.json", "--key", "b.pub"];
    contains(&project.run(&channel).expect_code(1).stdout, &["FAILED", "0 of 1"]);
    contains(&project.run(&["verify", &release]).expect_code(2).stderr, &["--key or --keys"]);

    // A changed chunk, wherever it is.
    let chunks = project.path("www/node-1.0.0-x86_64.update/slot.chunks");
    let mut bytes = fs::read(&chunks).unwrap();
    bytes[150_000] ^= 1;
    fs::write(&chunks, bytes).unwrap();
    let outcome = project.run(&["verify", "www/channels/stable/node-x86_64.json", "--key", "a.pub"]).expect_code(1);
    contains(&outcome.stdout, &["FAILED  node-1.0.0-x86_64.update/slot.chunks: has 300000 bytes with SHA-256"]);
}

#[test]
fn keys_are_made_once_and_wrong_ones_are_named() {
    let project = Project::new();
    let outcome = project.run(&["keygen", "--out", "a"]).expect_code(2);
    contains(&outcome.stderr, &["a.key exists already"]);
    let release = project.release("1.0.0", 1, 1);
    for (arguments, code, part) in [
        (&["--key", "missing.key"][..], 2, "missing.key"),
        (&["--key", "a.pub"], 2, "public key"),
        (&["--key", "env:NO_SUCH_KEY"], 2, "NO_SUCH_KEY"),
        (&["--key", "exec:false"], 2, "--public-key"),
        (&["--key", "exec:false", "--public-key", "a.pub"], 3, "exec:false: "),
        (&["--key", "exec:cat", "--public-key", "a.pub"], 3, "expected 64"),
        (&[], 2, "--key"),
    ] {
        let outcome = project.run(&[&["sign", release.as_str()], arguments].concat()).expect_code(code);
        contains(&outcome.stderr, &[part]);
    }
    fs::set_permissions(project.path("a.key"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let outcome = project.run(&["sign", &release, "--key", "a.key"]).expect_code(0);
    contains(&outcome.stderr, &["warning: ", "mode 0644"]);
    project.run(&["keys", "new", "a.pub", "b.pub", "--threshold", "2", "--out", "set.json"]).expect_code(0);
    let outcome = project.run(&["verify", &release, "--keys", "set.json"]).expect_code(1);
    contains(&outcome.stdout, &["1 of 2 signatures needed are valid"]);
    let seed = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    let rotate = ["keys", "rotate", "set.json", "--remove", "a.pub", "--threshold", "1", "--key", "a.key"];
    let outcome = run(project.command(&rotate).args(["--key", "env:SEED"]).env("SEED", seed)).expect_code(0);
    contains(&outcome.stderr, &["signatures are missing: 1 more of key set 1, 1 more of key set 2"]);
    project.run(&["sign", "keys-2.json", "--key", "b.key"]).expect_code(0);
    contains(&project.run(&["keys", "new", "a.pub", "a.pub", "--out", "x.json"]).expect_code(2).stderr, &["twice"]);
}

#[test]
fn releases_are_pushed_to_a_registry_and_verified_from_there() {
    if !tools() {
        return;
    }
    let registry = Registry::start(true);
    let project = Project::new();
    let release = project.signed("1.0.0+build.1", 3);
    let place = format!("oci://{}/team/os", registry.address());
    let push = |more: &[&str]| {
        project.run(&[&["push", &release, &place, "--channel", "stable", "--key", "a.key"], more].concat())
    };
    let outcome = push(&[]).expect_code(3);
    contains(&outcome.stderr, &["status 401", "there are no credentials for 127.0.0.1"]);
    fs::create_dir_all(project.path("docker")).unwrap();
    // user:secret
    let text = format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpzZWNyZXQ="}}}}}}"#, registry.address());
    fs::write(project.path("docker/config.json"), text).unwrap();
    let outcome = push(&[]).expect_code(0);
    contains(&outcome.stdout, &["channel-stable-node-x86_64: sequence 1, newest 1.0.0+build.1, published"]);
    contains(&push(&[]).expect_code(0).stdout, &["nothing changed"]);
    for tag in ["channel-stable-node-x86_64", "node-1.0.0_build.1-x86_64"] {
        let target = format!("{place}:{tag}");
        let outcome = project.run(&["verify", &target, "--key", "a.pub"]).expect_code(0);
        contains(&outcome.stdout, &["slot image: sha256", "slot.chunks: 300000 bytes"]);
        project.run(&["verify", &target, "--key", "b.pub"]).expect_code(1);
        let outcome = project.run(&["verify", &target, "--key", "a.pub", "--cosign-key", "cosign.pub"]);
        assert_eq!(outcome.code, 1, "there is no such file: {}", outcome.stderr);
    }
    contains(
        &project.run(&["verify", &format!("{place}:none"), "--key", "a.pub"]).expect_code(3).stderr,
        &["is not there"],
    );
    contains(&project.run(&["verify", &place, "--key", "a.pub"]).expect_code(2).stderr, &["a tag or a digest"]);
    // Another release of the same version.
    let other = project.release("1.0.0+build.1", 3, 2);
    project.run(&["sign", &other, "--key", "a.key"]).expect_code(0);
    contains(&push(&[]).expect_code(1).stderr, &["version 1.0.0+build.1 is"]);
    push(&["--replace"]).expect_code(0);
    let second = project.signed("1.1.0", 2);
    let outcome = project.run(&["push", &second, &place, "--channel", "stable", "--key", "a.key"]).expect_code(0);
    contains(&outcome.stdout, &["sequence 3, newest 1.1.0"]);
    let target = format!("{place}:channel-stable-node-x86_64");
    let outcome = project.run(&["verify", &target, "--key", "a.pub", "--json"]).expect_code(0);
    let listed: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(listed["findings"].as_array().unwrap().len(), 11, "{listed:#}");
}

/// Passes connections on to `to`; the first `breaks` that have brought 200 kB are closed.
fn breaking_proxy(to: &str, breaks: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (to, broken) = (to.to_owned(), Arc::new(AtomicUsize::new(0)));
    let count = broken.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&to) else { continue };
            let pairs = [(client.try_clone(), server.try_clone(), false), (Ok(server), Ok(client), true)];
            for (from, into, is_answer) in pairs {
                let (Ok(mut from), Ok(mut into), count) = (from, into, count.clone()) else { continue };
                std::thread::spawn(move || {
                    let (mut buffer, mut total) = ([0; 16 << 10], 0);
                    while let Ok(length @ 1..) = from.read(&mut buffer) {
                        total += length;
                        let is_large = !is_answer && total > 200_000;
                        if into.write_all(&buffer[..length]).is_err() {
                            break;
                        }
                        if is_large
                            && count
                                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < breaks).then_some(n + 1))
                                .is_ok()
                        {
                            break;
                        }
                    }
                    let _ = (from.shutdown(std::net::Shutdown::Both), into.shutdown(std::net::Shutdown::Both));
                });
            }
        }
    });
    (address, broken)
}

#[test]
fn an_upload_that_breaks_goes_on() {
    if !tools() {
        return;
    }
    let registry = Registry::start(false);
    let (address, broken) = breaking_proxy(registry.address(), 3);
    let project = Project::new();
    let release = project.signed("2.0.0", 20);
    let place = format!("oci://{address}/team/os");
    let outcome = project.run(&["push", &release, &place, "--channel", "stable", "--key", "a.key"]).expect_code(0);
    assert_eq!(broken.load(Ordering::SeqCst), 3, "{}", outcome.stderr);
    contains(&outcome.stderr, &["again in"]);
    let target = format!("oci://{}/team/os:channel-stable-node-x86_64", registry.address());
    project.run(&["verify", &target, "--key", "a.pub"]).expect_code(0);
}

#[test]
fn cosign_and_we_verify_each_others_signatures() {
    if !tools() || !cosign() {
        return;
    }
    let registry = Registry::start(false);
    let project = Project::new();
    let openssl = |arguments: &[&str]| {
        run(Command::new("openssl").args(arguments).current_dir(project.directory.path())).expect_code(0);
    };
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ec.pem"]);
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "ed.pem"]);
    for name in ["ec", "ed"] {
        openssl(&["pkey", "-in", &format!("{name}.pem"), "-pubout", "-out", &format!("{name}.pub")]);
    }
    let real = |arguments: &[&str], target: &str| {
        let mut command = Command::new("cosign");
        command.args(arguments).arg(target).current_dir(project.directory.path());
        command.env("HOME", project.directory.path()).env("COSIGN_PASSWORD", "only-for-tests");
        run(&mut command)
    };
    for (index, key) in ["ec", "ed"].into_iter().enumerate() {
        let repository = format!("{}/team/{key}", registry.address());
        let release = project.signed(&format!("1.{index}.0"), 2);
        let (place, source) = (format!("oci://{repository}"), format!("{key}.pem"));
        let push = ["push", &release, &place, "--channel", "stable", "--key", "a.key"];
        project.run(&push).expect_code(0);
        let tag = format!("{repository}:node-1.{index}.0-x86_64");
        let public = format!("{key}.pub");
        let verify =
            |public: &str| project.run(&["verify", &format!("oci://{tag}"), "--key", "a.pub", "--cosign-key", public]);
        contains(&verify(&public).expect_code(1).stdout, &["there is no signature by cosign"]);
        project.run(&[&push[..], &["--cosign-key", &source]].concat()).expect_code(0);
        // Twice is once.
        project.run(&[&push[..], &["--cosign-key", &source]].concat()).expect_code(0);
        let outcome = verify(&public).expect_code(0);
        contains(&outcome.stdout, &["cosign: classic by key 1, bundle by key 1\n"]);
        let other = if key == "ec" { "ed.pub" } else { "ec.pub" };
        contains(&verify(other).expect_code(1).stdout, &["none counts"]);

        let ours = ["verify", "--key", &public, "--insecure-ignore-tlog", "--allow-http-registry"];
        for form in ["--new-bundle-format=false", "--new-bundle-format=true"] {
            let outcome = real(&[&ours[..], &[form]].concat(), &tag);
            assert_eq!(outcome.code, 0, "{key} {form}: {}", outcome.stderr);
        }
        let wrong = ["verify", "--key", other, "--insecure-ignore-tlog", "--allow-http-registry"];
        assert_ne!(real(&wrong, &tag).code, 0, "cosign takes another key");
    }
    // And what it signs, we verify.
    real(&["import-key-pair", "--key", "ec.pem", "--output-key-prefix", "theirs"], "-y").expect_code(0);
    let place = format!("{}/team/theirs", registry.address());
    let release = project.signed("3.0.0", 1);
    let oci = format!("oci://{place}");
    project.run(&["push", &release, &oci, "--channel", "stable", "--key", "a.key"]).expect_code(0);
    let target = format!("{place}:node-3.0.0-x86_64");
    let sign = ["sign", "--key", "theirs.key", "--tlog-upload=false", "--use-signing-config=false", "-y"];
    for form in ["--new-bundle-format=false", "--new-bundle-format=true"] {
        real(&[&sign[..], &["--allow-http-registry", form]].concat(), &target).expect_code(0);
    }
    let target = format!("oci://{target}");
    let outcome = project.run(&["verify", &target, "--key", "a.pub", "--cosign-key", "theirs.pub"]).expect_code(0);
    contains(&outcome.stdout, &["cosign: classic by key 1, bundle by key 1"]);
}

#[test]
fn places_that_are_none_are_refused() {
    let project = Project::new();
    let release = project.signed("1.0.0", 1);
    for (place, code, part) in [
        ("oci://repository", 2, "it has no host"),
        ("oci://127.0.0.1:1/Team", 2, "lower-case"),
        ("oci://127.0.0.1:1/team/os:tag", 2, "tags are given by what is pushed"),
        ("somewhere", 2, "says where to push"),
    ] {
        let outcome = project.run(&["push", &release, place, "--channel", "stable", "--key", "a.key"]);
        contains(&outcome.expect_code(code).stderr, &[part]);
    }
    let gone = ["push", &release, "oci://127.0.0.1:1/team/os", "--channel", "stable", "--key", "a.key"];
    contains(&project.run(&gone).expect_code(3).stderr, &["127.0.0.1:1/team/os"]);
    let names = [("--channel", "../x"), ("--channel", "Stable")];
    for (option, value) in names {
        let arguments = ["publish", &release, "--to", "www", option, value, "--key", "a.key"];
        project.run(&arguments).expect_code(2);
    }
    assert!(!Path::new(&project.path("www")).exists());
}
