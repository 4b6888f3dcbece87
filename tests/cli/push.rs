//! `push` against Debian's `docker-registry` on loopback: with passwords, tokens and certificates, through a proxy that
//! makes every fault a network has, and read back by `skopeo` and `cosign`.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ksos_tests::{Outcome, run};
use serde_json::{Value, json};

use crate::publish::{Project, contains, cosign};
use crate::registry::{Registry, layout, sha256, tools};

/// Bytes that do not compress.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// A directory to push from, without keys.
pub struct Work {
    directory: tempfile::TempDir,
}

impl Work {
    pub fn new() -> Self {
        Work { directory: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> Vec<u8> {
        fs::write(self.path(name), bytes).unwrap();
        bytes.to_vec()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = ksos_tests::compose(self.directory.path());
        command.arg("push").args(arguments);
        command.env("KSOS_CACHE", self.path("cache")).env("DOCKER_CONFIG", self.path("docker"));
        command
    }

    pub fn push(&self, arguments: &[&str]) -> Outcome {
        run(&mut self.command(arguments))
    }

    fn log_in(&self, registry: &str, password: &str) {
        fs::create_dir_all(self.path("docker")).unwrap();
        let auth = STANDARD.encode(format!("user:{password}"));
        let text = json!({ "auths": { registry: { "auth": auth } } }).to_string();
        fs::write(self.path("docker/config.json"), text).unwrap();
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The manifest or index that `skopeo` gets, and its digest.
pub fn inspect(name: &str) -> (Value, String) {
    let mut command = Command::new("skopeo");
    let outcome = run(command.args(["inspect", "--raw", "--tls-verify=false"]).arg(format!("docker://{name}")));
    let outcome = outcome.expect_code(0);
    (parse(&outcome.stdout), sha256(outcome.stdout.as_bytes()))
}

/// Copies to an OCI layout, everything of it.
fn pull(name: &str, to: &Path) {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "-q", "--all", "--preserve-digests", "--src-tls-verify=false"]);
    run(command.arg(format!("docker://{name}")).arg(format!("oci:{}", to.display()))).expect_code(0);
}

fn http_get(address: &str, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    let accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let at = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&answer[..at]));
    answer.split_off(at + 4)
}

#[test]
fn a_disk_image_is_pushed_with_its_documents_and_comes_back() {
    if !tools() {
        return;
    }
    let registry = Registry::start(false);
    let work = Work::new();
    let mut image = vec![0; 12 << 20];
    image[5 << 20..6 << 20].copy_from_slice(&noise(1 << 20, 1));
    work.write("os-1.2.3-x86_64.img", &image);
    for name in ["spdx", "cdx", "provenance"] {
        work.write(&format!("os-1.2.3-x86_64.{name}.json"), format!("{{\"is\":\"{name}\"}}").as_bytes());
    }
    work.write("notes.txt", b"read me");
    let place = format!("oci://{}/team/os", registry.address());
    let name = format!("{}/team/os:1.2.3-x86_64", registry.address());
    let more = ["--attach", "notes.txt:text/plain", "--annotation", "org.example.board=x1"];
    let outcome = work.push(&[&["os-1.2.3-x86_64.img", &place], &more[..]].concat()).expect_code(0);
    let (manifest, digest) = inspect(&name);
    assert_eq!(outcome.stdout, format!("{name}@{digest}\n"));
    contains(&outcome.stderr, &["os-1.2.3-x86_64.spdx.json (application/spdx+json) refers to sha256:"]);
    assert_eq!(manifest["artifactType"], "application/vnd.kubesolo.os.disk.v1");
    assert_eq!(
        manifest["annotations"],
        json!({
            "org.opencontainers.image.title": "os", "org.opencontainers.image.version": "1.2.3",
            "io.kubesolo.os.architecture": "amd64", "org.example.board": "x1",
        })
    );
    let layer = &manifest["layers"][0];
    assert_eq!(layer["annotations"]["org.opencontainers.image.title"], "os-1.2.3-x86_64.img.zst");
    let stored = registry.blob(layer["digest"].as_str().unwrap());
    let mut command = Command::new("zstd");
    assert!(command.arg("-dcq").arg(&stored).output().unwrap().stdout == image, "not the image");

    // What refers to it, by the tag that stands in for the list.
    let (index, _) = inspect(&format!("{}/team/os:{}", registry.address(), digest.replace(':', "-")));
    let entries = index["manifests"].as_array().unwrap();
    let mut types: Vec<&str> = entries.iter().map(|entry| entry["artifactType"].as_str().unwrap()).collect();
    types.sort_unstable();
    let expected =
        ["application/spdx+json", "application/vnd.cyclonedx+json", "application/vnd.in-toto+json", "text/plain"];
    assert_eq!(types, expected);
    for entry in entries {
        let (about, _) = inspect(&format!("{}/team/os@{}", registry.address(), entry["digest"].as_str().unwrap()));
        assert_eq!((&about["subject"]["digest"], &about["artifactType"]), (&json!(digest), &entry["artifactType"]));
        let bytes = fs::read(registry.blob(about["layers"][0]["digest"].as_str().unwrap())).unwrap();
        let title = about["layers"][0]["annotations"]["org.opencontainers.image.title"].as_str().unwrap();
        assert_eq!(bytes, fs::read(work.path(title)).unwrap());
    }

    // Again: nothing. As JSON.
    let outcome = work.push(&[&["os-1.2.3-x86_64.img", &place, "--json"], &more[..]].concat()).expect_code(0);
    let listed = &parse(&outcome.stdout)["artifacts"][0];
    assert_eq!((&listed["changed"], &listed["bytes"], &listed["digest"]), (&json!(false), &json!(0), &json!(digest)));
    assert_eq!(listed["referrers"].as_array().unwrap().len(), 4, "{listed:#}");
    let (again, _) = inspect(&format!("{}/team/os:{}", registry.address(), digest.replace(':', "-")));
    assert_eq!(again, index);

    // Another image of the same name does not take the tag unless that is said.
    image[0] = 1;
    work.write("os-1.2.3-x86_64.img", &image);
    let outcome = work.push(&["os-1.2.3-x86_64.img", &place]).expect_code(1);
    contains(&outcome.stderr, &[":1.2.3-x86_64 is there already, with other content", "hint: --replace"]);
    assert_eq!(inspect(&name).1, digest);
    work.push(&["os-1.2.3-x86_64.img", &place, "--replace", "--no-referrers"]).expect_code(0);
    let (_, replaced) = inspect(&name);
    assert_ne!(replaced, digest);
    // As it is, and under a tag that is written out: the bytes of the file.
    work.push(&["os-1.2.3-x86_64.img", &format!("{place}:raw"), "--no-compress"]).expect_code(0);
    let (manifest, _) = inspect(&format!("{}/team/os:raw", registry.address()));
    assert_eq!(manifest["layers"][0]["digest"], sha256(&image));
    pull(&format!("{}/team/os:raw", registry.address()), &work.path("back"));
    assert!(fs::read(work.path("back/blobs/sha256").join(&sha256(&image)[7..])).unwrap() == image);
}

#[test]
fn several_files_become_one_index() {
    if !tools() {
        return;
    }
    let registry = Registry::start(false);
    let work = Work::new();
    let files = ["os-1.0.0-x86_64.qcow2", "os-1.0.0-arm64.qcow2", "os-1.0.0-x86_64.iso", "os-1.0.0-x86_64.img.zst"];
    for (number, file) in files.iter().enumerate() {
        work.write(file, &noise(70_000, number as u64 + 1));
    }
    work.write("os-1.0.0-arm64.spdx.json", b"{}");
    layout(&work.path("app"), &["amd64", "arm64"], "app");
    let place = format!("oci://{}/team/os", registry.address());
    work.push(&[&files[..], &[&place]].concat()).expect_code(0);
    let name = format!("{}/team/os:1.0.0", registry.address());
    let (index, _) = inspect(&name);
    assert_eq!(index["annotations"]["org.opencontainers.image.version"], "1.0.0");
    let entries = index["manifests"].as_array().unwrap();
    let told: Vec<_> = entries
        .iter()
        .map(|entry| {
            let title = entry["annotations"]["org.opencontainers.image.title"].as_str().unwrap();
            (title, entry["platform"]["architecture"].as_str().unwrap(), entry["artifactType"].as_str().unwrap())
        })
        .collect();
    let disk = "application/vnd.kubesolo.os.disk.v1";
    assert_eq!(
        told,
        [(files[0], "amd64", disk), (files[1], "arm64", disk), (files[2], "amd64", disk), (files[3], "amd64", disk)]
    );
    let mut command = ksos_tests::compose(work.directory.path());
    command.args(["inspect", &format!("{place}:1.0.0"), "--json"]).env("KSOS_CACHE", work.path("cache"));
    let inspected = parse(&run(command.env("DOCKER_CONFIG", work.path("docker"))).expect_code(0).stdout);
    let shown = inspected["artifact"]["entries"].as_array().unwrap();
    let shown: Vec<_> = shown.iter().map(|entry| (entry["name"].as_str().unwrap(), entry["size"].as_u64())).collect();
    assert_eq!(shown, files.map(|file| (file, Some(70_000))), "{inspected:#}");
    let arm = entries[1]["digest"].as_str().unwrap();
    let (about, _) = inspect(&format!("{}/team/os:{}", registry.address(), arm.replace(':', "-")));
    assert_eq!(about["manifests"][0]["artifactType"], "application/spdx+json");
    // With a container image: who asks for one by architecture gets it.
    work.push(&["app", files[0], files[2], &format!("{place}:all")]).expect_code(0);
    let (index, _) = inspect(&format!("{}/team/os:all", registry.address()));
    assert_eq!(index["manifests"].as_array().unwrap().len(), 4);
    assert!(index["manifests"][0]["artifactType"].is_null() && index["manifests"][1]["artifactType"].is_null());
    let mut command = Command::new("skopeo");
    command.args(["inspect", "--tls-verify=false", "--override-arch", "arm64"]);
    let outcome = run(command.arg(format!("docker://{}/team/os:all", registry.address()))).expect_code(0);
    assert_eq!(parse(&outcome.stdout)["Architecture"], "arm64");
    // No tag follows from such names.
    work.write("os-2.0.0-x86_64.qcow2", b"x");
    let outcome = work.push(&[files[0], "os-2.0.0-x86_64.qcow2", &place]).expect_code(2);
    contains(&outcome.stderr, &["the names do not agree on one"]);
}

#[test]
fn layouts_and_archives_come_back_the_same() {
    if !tools() {
        return;
    }
    let registry = Registry::start(false);
    let work = Work::new();
    layout(&work.path("app"), &["amd64", "arm64"], "app");
    let tar = |arguments: &[&str]| {
        let mut command = Command::new("tar");
        run(command.current_dir(work.directory.path()).args(arguments)).expect_code(0);
    };
    let parts = ["-C", "app", "blobs", "index.json", "oci-layout"];
    tar(&[&["-cf", "app-1.0.0.oci.tar"][..], &parts].concat());
    tar(&[&["--zstd", "-cf", "app.tar.zst"][..], &parts].concat());
    for (number, path) in ["app", "app-1.0.0.oci.tar", "app.tar.zst"].into_iter().enumerate() {
        let name = format!("{}/team/app{number}:v1", registry.address());
        let outcome = work.push(&[path, &format!("oci://{name}")]).expect_code(0);
        let (index, digest) = inspect(&name);
        assert_eq!(outcome.stdout, format!("{name}@{digest}\n"));
        assert!(work.path("app/blobs/sha256").join(&digest[7..]).is_file(), "{path}: the index as it was");
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
        let back = work.path(&format!("back{number}"));
        pull(&name, &back);
        for entry in fs::read_dir(back.join("blobs/sha256")).unwrap() {
            let blob = entry.unwrap().file_name();
            let (got, was) = (back.join("blobs/sha256").join(&blob), work.path("app/blobs/sha256").join(&blob));
            assert!(fs::read(got).unwrap() == fs::read(was).unwrap(), "{blob:?}");
        }
    }
    // What another repository has is not sent again.
    let other = format!("{}/team/other:v1", registry.address());
    let source = format!("{}/team/app0", registry.address());
    let outcome = work.push(&["app", &format!("oci://{other}"), "--mount-from", &source, "--json"]).expect_code(0);
    let listed = &parse(&outcome.stdout)["artifacts"][0];
    assert_eq!((&listed["blobs"]["mounted"], &listed["bytes"]), (&json!(4), &json!(0)), "{listed:#}");
    pull(&other, &work.path("other"));

    // Damage is named; the tag stays away.
    let layer = fs::read_dir(work.path("app/blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    let layer = layer.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&layer).unwrap();
    bytes[1000] ^= 1;
    fs::write(&layer, bytes).unwrap();
    let outcome = work.push(&["app", &format!("oci://{}/team/bad:v1", registry.address())]).expect_code(1);
    contains(&outcome.stderr, &[layer.file_name().unwrap().to_str().unwrap(), "damaged, or changed"]);
    fs::write(work.path("cut.oci.tar"), &fs::read(work.path("app-1.0.0.oci.tar")).unwrap()[..300_000]).unwrap();
    let outcome = work.push(&["cut.oci.tar", &format!("oci://{}/team/bad:v1", registry.address())]).expect_code(2);
    contains(&outcome.stderr, &["cut.oci.tar: "]);
    let mut command = Command::new("skopeo");
    command.args(["inspect", "--tls-verify=false"]).arg(format!("docker://{}/team/bad:v1", registry.address()));
    assert_ne!(run(&mut command).code, 0);
}

#[test]
fn passwords_come_from_dockers_configuration_and_helpers() {
    if !tools() {
        return;
    }
    let registry = Registry::start(true);
    let work = Work::new();
    work.write("os-1.0.0-x86_64.qcow2", &noise(5_000_000, 3));
    let place = format!("oci://{}/team/os", registry.address());
    let outcome = work.push(&["os-1.0.0-x86_64.qcow2", &place]).expect_code(3);
    contains(&outcome.stderr, &["status 401", "there are no credentials for 127.0.0.1", "config.json"]);
    work.log_in(registry.address(), "wrong");
    let outcome = work.push(&["os-1.0.0-x86_64.qcow2", &place]).expect_code(3);
    contains(&outcome.stderr, &["status 401", "are refused"]);
    assert!(!outcome.stderr.contains("wrong") || !outcome.stderr.contains("dXNlcjp3cm9uZw"), "{}", outcome.stderr);
    work.log_in(registry.address(), "secret");
    work.push(&["os-1.0.0-x86_64.qcow2", &place]).expect_code(0);
    let helper = work.path("docker-credential-ksos-push");
    fs::write(&helper, "#!/bin/sh\ncat >/dev/null\necho '{\"Username\":\"user\",\"Secret\":\"secret\"}'\n").unwrap();
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(work.path("docker/config.json"), r#"{"credsStore":"ksos-push"}"#).unwrap();
    let path = format!("{}:/usr/bin:/bin", work.directory.path().display());
    let mut command = work.command(&["os-1.0.0-x86_64.qcow2", &format!("{place}:two")]);
    run(command.env("PATH", path)).expect_code(0);
}

/// A token server: knows `user` with the password `secret`, and writes down what it was asked for.
struct TokenServer {
    address: String,
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl TokenServer {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens"]);
        run(command.args(["-keyout", "key.pem", "-out", "cert.pem"]).current_dir(directory.path())).expect_code(0);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (keys, log) = (directory.path().to_owned(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer_token(stream, &keys, &log);
            }
        });
        TokenServer { address, directory, asked }
    }

    /// The registry's settings to believe in it.
    fn settings(&self) -> String {
        format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: registry\n    issuer: tests\n    rootcertbundle: {}\n",
            self.address,
            self.directory.path().join("cert.pem").display()
        )
    }
}

pub fn read_head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn answer_token(mut stream: TcpStream, keys: &Path, log: &Mutex<Vec<String>>) {
    let Some(head) = read_head(&mut stream) else { return };
    let target = head.split(' ').nth(1).unwrap().to_owned();
    log.lock().unwrap().push(target.clone());
    let expected = format!("Basic {}", STANDARD.encode("user:secret"));
    if field(&head, "authorization") != Some(expected.as_str()) {
        let _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    }
    let query = target
        .split_once('?')
        .map_or("", |(_, query)| query)
        .replace("%3A", ":")
        .replace("%2F", "/")
        .replace("%2C", ",");
    let scopes = query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
    let access: Vec<Value> = scopes
        .map(|scope| {
            let parts: Vec<&str> = scope.split(':').collect();
            json!({ "type": parts[0], "name": parts[1], "actions": parts[2].split(',').collect::<Vec<_>>() })
        })
        .collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "tests", "sub": "user", "aud": "registry", "exp": now + 300, "nbf": now - 60, "iat": now - 60, "jti": "1",
        "access": access,
    });
    let certificate = fs::read_to_string(keys.join("cert.pem")).unwrap();
    let der: String = certificate.lines().filter(|line| !line.starts_with("-----")).collect();
    let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [der] });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encode(&header), encode(&claims));
    let file = keys.join("message");
    fs::write(&file, &message).unwrap();
    let mut command = Command::new("openssl");
    command.args(["dgst", "-sha256", "-sign"]).arg(keys.join("key.pem")).arg(&file);
    let signature = URL_SAFE_NO_PAD.encode(command.output().unwrap().stdout);
    let body = json!({ "token": format!("{message}.{signature}") }).to_string();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}

#[test]
fn tokens_are_fetched_for_what_is_pushed() {
    if !tools() {
        return;
    }
    let tokens = TokenServer::start();
    let registry = Registry::start_with(false, "", |_| tokens.settings());
    let work = Work::new();
    work.write("os-1.0.0-x86_64.qcow2", &noise(5_000_000, 4));
    let place = format!("oci://{}/team/os", registry.address());
    let outcome = work.push(&["os-1.0.0-x86_64.qcow2", &place]).expect_code(3);
    contains(&outcome.stderr, &["its token server gives no token", "there are no credentials"]);
    work.log_in(registry.address(), "secret");
    let outcome = work.push(&["os-1.0.0-x86_64.qcow2", &place]).expect_code(0);
    contains(&outcome.stdout, &[":1.0.0-x86_64@sha256:"]);
    let asked = tokens.asked.lock().unwrap().clone();
    // One that is refused, and one for all that is pushed.
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(asked[1], "/token?scope=repository%3Ateam%2Fos%3Apull%2Cpush&service=registry");
    // From another repository, with one token for both.
    let more = ["--mount-from", "team/os", "--json"];
    let other = format!("oci://{}/team/other", registry.address());
    let outcome = work.push(&[&["os-1.0.0-x86_64.qcow2", &other], &more[..]].concat()).expect_code(0);
    let listed = &parse(&outcome.stdout)["artifacts"][0]["blobs"];
    assert_eq!(listed["mounted"], 2, "{listed}");
    let asked = tokens.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 3, "{asked:?}");
    contains(&asked[2], &["scope=repository%3Ateam%2Fother%3Apull%2Cpush&scope=repository%3Ateam%2Fos%3Apull&"]);
}

#[test]
fn a_certificate_of_ones_own_authority_is_believed_when_it_is_named() {
    if !tools() {
        return;
    }
    let keys = tempfile::tempdir().unwrap();
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    command.args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]);
    run(command.args(["-keyout", "key.pem", "-out", "cert.pem"]).current_dir(keys.path())).expect_code(0);
    let pem = |name: &str| keys.path().join(name).display().to_string();
    let tls = format!(", tls: {{certificate: \"{}\", key: \"{}\"}}", pem("cert.pem"), pem("key.pem"));
    let registry = Registry::start_with(false, &tls, |_| String::new());
    let work = Work::new();
    work.write("os-1.0.0-x86_64.iso", &noise(100_000, 5));
    let port = registry.address().rsplit_once(':').unwrap().1;
    let place = format!("oci://localhost:{port}/team/os");
    let arguments = ["os-1.0.0-x86_64.iso", &place, "--plain-http=never"];
    let outcome = work.push(&arguments).expect_code(3);
    contains(&outcome.stderr, &["encrypted connection failed"]);
    run(work.command(&arguments).env("SSL_CERT_FILE", pem("cert.pem"))).expect_code(0);
}

#[test]
fn http_is_for_this_machine_unless_it_is_forced() {
    let work = Work::new();
    work.write("os-1.0.0-x86_64.iso", b"x");
    for (place, more, code, part) in [
        ("oci://registry.invalid/os", "--plain-http", 2, "--plain-http=force"),
        ("oci://registry.invalid/os", "--plain-http=force", 3, "http://registry.invalid/v2/os"),
        ("oci://registry.invalid/os", "--no-referrers", 3, "https://registry.invalid/v2/os"),
        ("oci+http://registry.invalid/os", "--no-referrers", 2, "--plain-http=force"),
        ("oci+http://registry.invalid/os", "--plain-http=force", 3, "http://registry.invalid/v2/os"),
        ("oci+http://127.0.0.1:1/os", "--no-referrers", 3, "http://127.0.0.1:1/v2/os"),
        ("oci+http://127.0.0.1:1/os", "--plain-http=never", 2, "asks for http"),
        (
            "oci://127.0.0.1:1/os@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "--plain-http",
            2,
            "a tag says where",
        ),
        ("oci://127.0.0.1:1/os", "--mount-from=UPPER", 2, "lower-case"),
        ("oci://127.0.0.1:1/os", "--attach=x", 2, "FILE:TYPE"),
    ] {
        // No name is looked up where there is a proxy.
        let mut command = work.command(&["os-1.0.0-x86_64.iso", place, more]);
        command.env("http_proxy", "http://127.0.0.1:1").env("https_proxy", "http://127.0.0.1:1");
        let outcome = run(&mut command).expect_code(code);
        contains(&outcome.stderr, &[part]);
    }
    work.write("os.txt", b"x");
    fs::create_dir(work.path("empty")).unwrap();
    for (path, code, part) in
        [("os.txt", 2, "no kind of image"), ("empty", 2, "neither an OCI layout"), ("none.img", 1, "none.img")]
    {
        let outcome = work.push(&[path, "oci://127.0.0.1:1/os:v1"]).expect_code(code);
        contains(&outcome.stderr, &[part]);
    }
}

/// What a proxy does to a request.
#[derive(Clone)]
enum Fault {
    None,
    /// This status line and header instead of the registry's answer.
    Answer(&'static str),
    /// The connection is cut after so many bytes of the body.
    Cut(usize),
    /// The body is passed on slowly.
    Slow,
    /// The upload is ended behind the client's back.
    Forget,
    /// The registry's answer says another digest.
    Lie,
    /// The answer of the registry does not come.
    Silence,
}

/// A proxy that speaks HTTP, one request for each connection. `fault` gets method, path, and the number of requests like
/// it before.
struct Proxy {
    address: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(registry: &str, fault: impl Fn(&str, &str, usize) -> Fault + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let counts: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let (registry, fault, log) = (registry.to_owned(), Arc::new(fault), seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (registry, fault, log, counts) = (registry.clone(), fault.clone(), log.clone(), counts.clone());
                std::thread::spawn(move || {
                    let mut stream = stream;
                    let Some(head) = read_head(&mut stream) else { return };
                    let mut words = head.split(' ');
                    let (method, path) = (words.next().unwrap(), words.next().unwrap());
                    log.lock().unwrap().push(head.lines().next().unwrap().to_owned() + "\n" + &head);
                    // Uploads have names of their own.
                    let kind = path.split("uploads/").next().unwrap().to_owned();
                    let number = {
                        let mut counts = counts.lock().unwrap();
                        let count = counts.entry(format!("{method} {kind}")).or_default();
                        *count += 1;
                        *count - 1
                    };
                    pass_on(stream, &registry, &head, fault(method, path, number));
                });
            }
        });
        Proxy { address, seen }
    }

    fn lines(&self, method: &str) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|head| head.starts_with(&format!("{method} "))).cloned().collect()
    }
}

fn pass_on(mut client: TcpStream, registry: &str, head: &str, fault: Fault) {
    let length: usize = field(head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let drain = |client: &mut TcpStream| {
        let _ = std::io::copy(&mut client.take(length as u64), &mut std::io::sink());
    };
    if let Fault::Answer(answer) = fault {
        drain(&mut client);
        let _ =
            client.write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes());
        return;
    }
    if matches!(fault, Fault::Forget) {
        let path = head.split(' ').nth(1).unwrap();
        let mut server = TcpStream::connect(registry).unwrap();
        let host = field(head, "host").unwrap();
        let request = format!("DELETE {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        server.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = server.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    }
    let mut server = TcpStream::connect(registry).unwrap();
    let _ = server.write_all(head.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes());
    let (mut left, mut buffer) = (length, vec![0; 64 << 10]);
    let limit = if let Fault::Cut(limit) = fault { limit } else { usize::MAX };
    while left > 0 {
        let Ok(count @ 1..) = client.read(&mut buffer) else { return };
        let part = count.min(limit - (length - left));
        left -= count;
        let sent = length - left;
        if server.write_all(&buffer[..part]).is_err() && !matches!(fault, Fault::Forget) {
            break;
        }
        if sent >= limit {
            // What the registry has got it keeps: it is done with it when it ends the connection. The client sees a reset
            // then, for it is not read on.
            let _ = server.shutdown(Shutdown::Write);
            let _ = std::io::copy(&mut server, &mut std::io::sink());
            return;
        }
        if matches!(fault, Fault::Slow) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    let mut answer = Vec::new();
    let _ = server.read_to_end(&mut answer);
    if matches!(fault, Fault::Silence) {
        return;
    }
    if matches!(fault, Fault::Lie) {
        let text = String::from_utf8_lossy(&answer).into_owned();
        let at = text.find("Docker-Content-Digest: sha256:").expect("the registry says the digest") + 30;
        answer[at..at + 8].copy_from_slice(b"00000000");
    }
    let _ = client.write_all(&answer);
}

/// Pushes 6 MB through a proxy; returns what it said, and the proxy.
fn push_through(
    registry: &Registry,
    code: i32,
    fault: impl Fn(&str, &str, usize) -> Fault + Send + Sync + 'static,
) -> (Outcome, Proxy) {
    push_of_size(registry, 6_000_000, code, fault)
}

fn push_of_size(
    registry: &Registry,
    size: usize,
    code: i32,
    fault: impl Fn(&str, &str, usize) -> Fault + Send + Sync + 'static,
) -> (Outcome, Proxy) {
    let work = Work::new();
    let bytes = work.write("os-1.0.0-x86_64.qcow2", &noise(size, 6));
    let proxy = Proxy::start(registry.address(), fault);
    let place = format!("oci://{}/team/os:v1", proxy.address);
    let outcome = work.push(&["os-1.0.0-x86_64.qcow2", &place, "--no-referrers"]).expect_code(code);
    if code == 0 {
        let name = format!("{}/team/os:v1", registry.address());
        assert_eq!(inspect(&name).0["layers"][0]["digest"], sha256(&bytes));
        assert!(fs::read(registry.blob(&sha256(&bytes))).unwrap() == bytes);
    }
    (outcome, proxy)
}

/// A part of the upload of something large.
fn is_upload(method: &str, path: &str) -> bool {
    method == "PATCH" && path.contains("/blobs/uploads/")
}

/// What this registry (distribution 2.8) has of a request that broke it does not let go on: the address of the upload has
/// the offset from before in it, which is not that of the data any more (404, BLOB_UPLOAD_INVALID).
#[test]
fn what_a_reset_leaves_the_registry_gives_up_and_the_blob_starts_again() {
    if !tools() {
        return;
    }
    let registry = Registry::start(false);
    let (outcome, proxy) = push_through(&registry, 0, |method, path, number| match number {
        0 | 1 if is_upload(method, path) => Fault::Cut(2_000_000),
        _ => Fault::None,
    });
    contains(&outcome.stderr, &["again in"]);
    assert_eq!(ranges(&proxy), [None, None, None], "{:?}", proxy.lines("PATCH"));
    assert_eq!(proxy.lines("POST").len(), 4, "three uploads, and the one of the configuration");
    let asked = proxy.lines("GET").iter().filter(|head| head.contains("/blobs/uploads/")).count();
    assert_eq!(asked, 2, "the registry is asked how far it is");
}

/// The first byte of each part of an upload, as its `Content-Range` says.
fn ranges(proxy: &Proxy) -> Vec<Option<u64>> {
    let first = |head: &String| field(head, "content-range").and_then(|range| range.split_once('-')?.0.parse().ok());
    proxy.lines("PATCH").iter().map(first).collect()
}

#[test]
fn a_reset_between_pieces_costs_none_of_those_that_are_there() {
    if !tools() {
        return;
    }
    const PIECE: u64 = 16 << 20;
    let registry = Registry::start(false);
    let (outcome, proxy) = push_of_size(&registry, 2 * PIECE as usize + 5, 0, |method, path, number| match number {
        0 if is_upload(method, path) => Fault::Answer("413 Payload Too Large"),
        2 | 4 if is_upload(method, path) => Fault::Cut(0),
        _ => Fault::None,
    });
    contains(&outcome.stderr, &["in pieces of 16 MiB", "again in"]);
    let pieces = [None, Some(0), Some(PIECE), Some(PIECE), Some(2 * PIECE), Some(2 * PIECE)];
    assert_eq!(ranges(&proxy), pieces, "{:?}", proxy.lines("PATCH"));
    assert_eq!(proxy.lines("POST").len(), 3, "one upload is given up, for its request was too large");
}

#[test]
fn errors_of_a_busy_registry_are_waited_out() {
    if !tools() {
        return;
    }
    let registry = Registry::start(false);
    let (outcome, _) = push_through(&registry, 0, |method, _, number| match (method, number) {
        ("POST", 0 | 1) => Fault::Answer("500 Internal Server Error"),
        ("PATCH", 0) => Fault::Answer("429 Too Many Requests\r\nRetry-After: 1"),
        ("PATCH", 1) => Fault::Answer("503 Service Unavailable"),
        ("PUT", 0) => Fault::Answer("502 Bad Gateway"),
        _ => Fault::None,
    });
    contains(&outcome.stderr, &["status 500", "status 429", "status 503", "status 502"]);
    // One that stays, and one that asks for an hour.
    let (outcome, _) = push_through(&Registry::start(false), 3, |method, _, _| match method {
        "POST" => Fault::Answer("500 Internal Server Error"),
        _ => Fault::None,
    });
    contains(&outcome.stderr, &["status 500", "/v2/team/os/blobs/"]);
    let (outcome, _) = push_through(&Registry::start(false), 3, |method, _, _| match method {
        "POST" => Fault::Answer("429 Too Many Requests\r\nRetry-After: 3600"),
        _ => Fault::None,
    });
    contains(&outcome.stderr, &["asks to wait 3600 s"]);
}

#[test]
fn slow_lines_lost_uploads_and_lost_answers_are_endured() {
    if !tools() {
        return;
    }
    let registry = Registry::start(false);
    let (_, proxy) = push_through(&registry, 0, |method, path, number| match number {
        0 if is_upload(method, path) => Fault::Forget,
        1 if is_upload(method, path) => Fault::Slow,
        _ => Fault::None,
    });
    assert_eq!(proxy.lines("POST").len(), 3, "one upload begins again");
    let registry = Registry::start(false);
    let (_, proxy) = push_through(&registry, 0, |method, path, number| match (method, number) {
        ("PUT", 0) if path.contains("/blobs/uploads/") => Fault::Silence,
        ("PUT", 0) if path.contains("/manifests/") => Fault::Silence,
        _ => Fault::None,
    });
    assert_eq!(proxy.lines("POST").len(), 2, "what arrived is not sent again");
}

#[test]
fn a_digest_that_the_registry_gets_wrong_is_an_error() {
    if !tools() {
        return;
    }
    for (method, part) in [("PUT", "/blobs/"), ("PUT", "/manifests/")] {
        let (outcome, _) = push_through(&Registry::start(false), 3, move |seen, path, _| {
            if seen == method && path.contains(part) { Fault::Lie } else { Fault::None }
        });
        contains(&outcome.stderr, &["the registry has stored sha256:00000000", part]);
    }
}

#[test]
fn a_file_that_changes_during_the_push_gets_no_tag() {
    if !tools() {
        return;
    }
    let registry = Registry::start(false);
    for when in ["PATCH", "PUT"] {
        let work = Work::new();
        let mut other = work.write("os-1.0.0-x86_64.qcow2", &noise(6_000_000, 7));
        // The same other bytes whenever that is: several blobs are uploaded at once.
        *other.last_mut().unwrap() ^= 1;
        let path = work.path("os-1.0.0-x86_64.qcow2");
        let proxy = Proxy::start(registry.address(), move |method, place, _| {
            if method == when && place.contains("/uploads/") {
                fs::write(&path, &other).unwrap();
            }
            Fault::None
        });
        let place = format!("oci://{}/team/{}:v1", proxy.address, when.to_lowercase());
        let outcome = work.push(&["os-1.0.0-x86_64.qcow2", &place]).expect_code(1);
        contains(&outcome.stderr, &["os-1.0.0-x86_64.qcow2: ", "changed while it was pushed"]);
        assert!(!proxy.lines("PUT").iter().any(|line| line.contains("/manifests/")));
    }
}

#[test]
fn cosign_verifies_what_was_signed_and_sees_what_refers_to_it() {
    if !tools() || !cosign() {
        return;
    }
    let registry = Registry::start(false);
    let work = Work::new();
    let openssl = |arguments: &[&str]| {
        run(Command::new("openssl").args(arguments).current_dir(work.directory.path())).expect_code(0);
    };
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ec.pem"]);
    openssl(&["pkey", "-in", "ec.pem", "-pubout", "-out", "ec.pub"]);
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "other.pem"]);
    openssl(&["pkey", "-in", "other.pem", "-pubout", "-out", "other.pub"]);
    work.write("os-1.0.0-x86_64.qcow2", &noise(70_000, 8));
    work.write("os-1.0.0-x86_64.spdx.json", b"{}");
    layout(&work.path("app"), &["amd64", "arm64"], "app");
    let real = |arguments: &[&str], target: &str| {
        let mut command = Command::new("cosign");
        command.args(arguments).arg(target).current_dir(work.directory.path());
        run(command.env("HOME", work.directory.path()))
    };
    for input in ["os-1.0.0-x86_64.qcow2", "app"] {
        let name = format!("{}/team/{}:v1", registry.address(), if input == "app" { "app" } else { "os" });
        work.push(&[input, &format!("oci://{name}"), "--cosign-key", "ec.pem"]).expect_code(0);
        // Twice is once.
        work.push(&[input, &format!("oci://{name}"), "--cosign-key", "ec.pem"]).expect_code(0);
        let verify = ["verify", "--key", "ec.pub", "--insecure-ignore-tlog", "--allow-http-registry"];
        for form in ["--new-bundle-format=false", "--new-bundle-format=true"] {
            let outcome = real(&[&verify[..], &[form]].concat(), &name);
            assert_eq!(outcome.code, 0, "{input} {form}: {}", outcome.stderr);
        }
        let place = format!("oci://{name}");
        let verified = |key: &str| {
            let mut command = ksos_tests::compose(work.directory.path());
            run(command.args(["verify", &place, "--cosign-key", key]).env("KSOS_CACHE", work.path("other-cache")))
        };
        contains(
            &verified("ec.pub").expect_code(0).stdout,
            &["cosign: classic by key 1, bundle by key 1", " blobs with "],
        );
        contains(&verified("other.pub").expect_code(1).stdout, &["FAILED", "none counts"]);
        if input == "app" {
            // Each architecture's image, too.
            let (index, _) = inspect(&name);
            let digest = index["manifests"][1]["digest"].as_str().unwrap();
            let outcome = real(&verify, &format!("{}/team/app@{digest}", registry.address()));
            assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        }
    }
    let name = format!("{}/team/os:v1", registry.address());
    let outcome = real(&["tree", "--allow-http-registry", "--experimental-oci11"], &name).expect_code(0);
    contains(&outcome.stdout, &["application/spdx+json"]);
}

#[test]
fn images_and_releases_go_in_one_command() {
    if !tools() {
        return;
    }
    let registry = Registry::start(false);
    let project = Project::new();
    let release = project.signed("1.0.0", 2);
    let image = project.path("node-1.0.0-x86_64.iso");
    fs::write(&image, noise(50_000, 9)).unwrap();
    fs::write(project.path("node-1.0.0-x86_64.cdx.json"), "{}").unwrap();
    let place = format!("oci://{}/team/os:1.0.0", registry.address());
    let outcome = project.run(&["push", &release, "node-1.0.0-x86_64.iso", &place]).expect_code(2);
    contains(&outcome.stderr, &["--channel"]);
    let arguments =
        ["push", &release, "node-1.0.0-x86_64.iso", &place, "--channel", "stable", "--key", "a.key", "--json"];
    let outcome = project.run(&arguments).expect_code(0);
    let listed = parse(&outcome.stdout);
    assert_eq!(listed["channels"][0]["changed"], true);
    contains(listed["artifacts"][0]["place"].as_str().unwrap(), &["/team/os:1.0.0"]);
    let (_, digest) = inspect(&format!("{}/team/os:node-1.0.0-x86_64", registry.address()));
    let path = format!("/v2/team/os/manifests/{}", digest.replace(':', "-"));
    let about = parse(&String::from_utf8(http_get(registry.address(), &path)).unwrap());
    assert_eq!(about["manifests"][0]["artifactType"], "application/vnd.cyclonedx+json");
    let target = format!("oci://{}/team/os:channel-stable-node-x86_64", registry.address());
    project.run(&["verify", &target, "--key", "a.pub"]).expect_code(0);
}
