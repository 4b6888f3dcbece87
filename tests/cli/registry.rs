//! Container images against a real registry: Debian's `docker-registry` on loopback, filled by `skopeo`.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ksos_tests::{Outcome, compose, run};

/// Whether a program is in `PATH`.
pub fn is_there(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

/// Says whether the tests can run; with `KSOS_REQUIRE_TOOLS`, they must.
pub fn tools() -> bool {
    let missing: Vec<_> = ["docker-registry", "skopeo"].into_iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty() || std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "{missing:?} are needed");
    #[expect(clippy::print_stdout, reason = "the test tells what it skips")]
    missing.iter().for_each(|name| println!("skipped: {name} is not installed"));
    missing.is_empty()
}

/// A running registry with its storage.
pub struct Registry {
    directory: tempfile::TempDir,
    address: String,
    process: Child,
    login: bool,
}

/// `user` and `secret`, as `htpasswd -nbB user secret` writes them.
const HTPASSWD: &str = "user:$2y$05$tQ.VNqKC5yzQkHeDv7NI9e4Egshbeyzlkqk476RijisG.qG9VHhpq\n";

impl Registry {
    /// Starts one on a port of its own; with `login`, for `user` with the password `secret` alone.
    pub fn start(login: bool) -> Self {
        Registry::start_with(login, "", |_| String::new())
    }

    /// Starts one with more settings: of `http`, and whatever `more` gives for its directory.
    pub fn start_with(login: bool, http: &str, more: impl Fn(&Path) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let auth = if login {
            fs::write(root.join("htpasswd"), HTPASSWD).unwrap();
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", root.join("htpasswd").display())
        } else {
            more(root)
        };
        let storage = root.join("storage");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
             http: {{addr: \"{address}\"{http}}}\n{auth}",
            storage.display()
        );
        fs::write(root.join("config.yml"), config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(root.join("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        let registry = Registry { directory, address, process, login };
        let start = Instant::now();
        while TcpStream::connect(&registry.address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "docker-registry does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        registry
    }

    /// Returns its host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Copies the layout at `from` to `name`, an image or an index with all its images.
    fn push(&self, from: &Path, name: &str) {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "-q", "--all", "--preserve-digests", "--dest-tls-verify=false"]);
        if self.login {
            command.args(["--dest-creds", "user:secret"]);
        }
        command.arg(format!("oci:{}", from.display())).arg(format!("docker://{}/{name}", self.address));
        run(&mut command).expect_code(0);
    }

    /// Where the registry stores a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.directory.path().join(format!("storage/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", ksos_formats::Digest::of(bytes))
}

/// Writes an OCI layout with an index of one image per architecture; returns the digests of its layers.
pub fn layout(path: &Path, arches: &[&str], content: &str) -> Vec<String> {
    fs::create_dir_all(path.join("blobs/sha256")).unwrap();
    let blob = |kind: &str, bytes: &[u8]| {
        let digest = sha256(bytes);
        fs::write(path.join("blobs/sha256").join(&digest[7..]), bytes).unwrap();
        format!(r#""mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{}"#, bytes.len())
    };
    let mut layers = Vec::new();
    let entries: Vec<String> = arches
        .iter()
        .map(|arch| {
            let bytes = tar(&path.join(format!("rootfs-{arch}")), &format!("{content} for {arch}\n"));
            let layer = blob("layer.v1.tar", &bytes);
            layers.push(sha256(&bytes));
            let config = format!(
                r#"{{"architecture":"{arch}","os":"linux","config":{{"Cmd":["/hello"]}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
                sha256(&bytes)
            );
            let config = blob("config.v1+json", config.as_bytes());
            let manifest = format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{{config}}},"layers":[{{{layer}}}]}}"#
            );
            let manifest = blob("manifest.v1+json", manifest.as_bytes());
            format!(r#"{{{manifest},"platform":{{"os":"linux","architecture":"{arch}"}}}}"#)
        })
        .collect();
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#,
        entries.join(",")
    );
    let index = blob("index.v1+json", index.as_bytes());
    fs::write(path.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{{{index}}}]}}"#)).unwrap();
    fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    layers
}

/// Returns a tar with one file, large enough that a connection can break in the middle of it.
fn tar(directory: &Path, content: &str) -> Vec<u8> {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("hello"), content.repeat(20_000)).unwrap();
    let mut command = Command::new("tar");
    command.args(["--mtime=@0", "--owner=0", "--group=0", "--format=ustar", "-cC"]).arg(directory).arg("hello");
    command.output().unwrap().stdout
}

/// A project whose components are files, with one container image.
struct Project {
    directory: tempfile::TempDir,
}

impl Project {
    fn new(image: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("overlay/etc/manifests")).unwrap();
        fs::write(root.join("anything"), "x").unwrap();
        let project = Project { directory };
        project.state(image);
        project
    }

    /// Writes the manifest with this `[container-images.app]`.
    fn state(&self, image: &str) {
        let text = format!(
            "[image]\nname = \"air-gap\"\nversion = \"0.1.0\"\narch = \"x86_64\"\n\
             [components.all]\nsource = \"file\"\npath = \"anything\"\n\
             [kernel]\ncomponent = \"all\"\ncmdline = [\"console=ttyS0\"]\n\
             [boot]\nshim = {{ component = \"all\", path = \"anything\" }}\ngrub = {{ component = \"all\", path = \"anything\" }}\n\
             [overlays.node]\nsource = \"overlay\"\nto = \"/\"\n\
             [container-images.app]\n{image}\n"
        );
        fs::write(self.path("air-gap.toml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, verb: &str, cache: &str) -> Command {
        let mut command = compose(self.directory.path());
        command.arg(verb).env("KSOS_CACHE", self.path(cache)).env("DOCKER_CONFIG", self.path("docker"));
        command
    }

    fn fetch(&self, cache: &str, more: &[&str]) -> Outcome {
        run(self.command("fetch", cache).arg("air-gap.toml").args(more))
    }

    fn lock(&self) -> String {
        fs::read_to_string(self.path("air-gap.lock")).unwrap_or_default()
    }

    fn log_in(&self, registry: &str) {
        fs::create_dir_all(self.path("docker")).unwrap();
        // user:secret
        let text = format!(r#"{{"auths":{{"{registry}":{{"auth":"dXNlcjpzZWNyZXQ="}}}}}}"#);
        fs::write(self.path("docker/config.json"), text).unwrap();
    }

    fn has(&self, cache: &str, digest: &str) -> bool {
        self.path(cache).join("v1/blobs").join(&digest[7..9]).join(&digest[7..]).is_file()
    }
}

#[test]
fn a_tag_is_pinned_for_each_architecture_and_stays_when_it_moves() {
    if !tools() {
        return;
    }
    let registry = Registry::start(false);
    let images = tempfile::tempdir().unwrap();
    let first = layout(&images.path().join("first"), &["amd64", "arm64"], "first");
    let second = layout(&images.path().join("second"), &["amd64", "arm64"], "second");
    registry.push(&images.path().join("first"), "team/app:1");
    let project = Project::new(&format!("reference = \"{}/team/app:1\"", registry.address));
    let outcome = project.fetch("cache", &["--locked"]).expect_code(1);
    assert!(outcome.stderr.contains("container image app is not in it"), "{}", outcome.stderr);
    project.fetch("cache", &[]).expect_code(0);
    let lock = project.lock();
    assert!(lock.contains("[x86_64.\"container-image app\"]") && lock.contains(&first[0][7..]), "{lock}");
    assert!(project.has("cache", &first[0]) && !project.has("cache", &first[1]), "only what the architecture needs");
    project.fetch("cache", &["--arch", "arm64"]).expect_code(0);
    assert!(project.lock().contains(&first[1][7..]) && project.lock().contains(&first[0][7..]), "{}", project.lock());

    // The tag moves. Neither a cache that has all, nor an empty one, notices.
    registry.push(&images.path().join("second"), "team/app:1");
    let lock = project.lock();
    project.fetch("cache", &["--frozen"]).expect_code(0);
    project.fetch("empty", &["--locked"]).expect_code(0);
    assert!(project.has("empty", &first[0]) && !project.has("empty", &second[0]));
    assert_eq!(project.lock(), lock);
    let outcome = project.fetch("nothing", &["--offline"]).expect_code(3);
    assert!(outcome.stderr.contains("not in the cache and the network is not allowed"), "{}", outcome.stderr);

    let outcome = run(project.command("update", "cache").args(["-m", "air-gap.toml", "app"])).expect_code(0);
    assert!(outcome.stdout.contains("app"), "{}", outcome.stdout);
    project.fetch("cache", &[]).expect_code(0);
    assert!(project.lock().contains(&second[0][7..]) && project.has("cache", &second[0]), "{}", project.lock());

    // By digest, the old one is still there; a digest that no image has is not.
    let digest = lock.lines().find_map(|line| line.strip_prefix("sha256 = ")).unwrap().trim_matches('"').to_owned();
    project.state(&format!("reference = \"{}/team/app:1\"\ndigest = \"sha256:{digest}\"", registry.address));
    project.fetch("cache", &[]).expect_code(0);
    assert!(project.lock().contains(&first[0][7..]), "{}", project.lock());
    project.state(&format!("reference = \"{}/team/app:1\"\ndigest = \"{}\"", registry.address, sha256(b"none")));
    let outcome = project.fetch("cache", &[]).expect_code(3);
    for text in ["container image app", &registry.address, "hint: --component container-images.app=PATH"] {
        assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
    }
}

#[test]
fn a_registry_that_asks_for_a_password_gets_dockers() {
    if !tools() {
        return;
    }
    let registry = Registry::start(true);
    let images = tempfile::tempdir().unwrap();
    let layers = layout(&images.path().join("one"), &["amd64"], "one");
    registry.push(&images.path().join("one"), "private/app:1");
    let project = Project::new(&format!("reference = \"{}/private/app:1\"", registry.address));
    let outcome = project.fetch("cache", &[]).expect_code(3);
    for text in ["container image app", "status 401", "there are no credentials for 127.0.0.1", "config.json"] {
        assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
    }
    assert_eq!(project.lock(), "", "no lock without an image");
    project.log_in(&registry.address);
    project.fetch("cache", &[]).expect_code(0);
    assert!(project.has("cache", &layers[0]));
    // A helper program that has the password.
    let helper = project.path("docker-credential-ksos-test");
    fs::write(&helper, "#!/bin/sh\ncat >/dev/null\necho '{\"Username\":\"user\",\"Secret\":\"secret\"}'\n").unwrap();
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(project.path("docker/config.json"), r#"{"credsStore":"ksos-test"}"#).unwrap();
    let path = format!("{}:/usr/bin:/bin", project.path("").display());
    run(project.command("fetch", "other").env("PATH", path).arg("air-gap.toml")).expect_code(0);
    let outcome = run(project.command("fetch", "third").env("PATH", "/usr/bin").arg("air-gap.toml")).expect_code(3);
    assert!(outcome.stderr.contains("credential helper"), "{}", outcome.stderr);
}

#[test]
fn what_the_registry_damaged_or_lost_is_refused_and_named() {
    if !tools() {
        return;
    }
    let registry = Registry::start(false);
    let images = tempfile::tempdir().unwrap();
    let layers = layout(&images.path().join("one"), &["amd64"], "one");
    registry.push(&images.path().join("one"), "team/app:1");
    let project = Project::new(&format!("reference = \"{}/team/app:1\"", registry.address));
    let blob = registry.blob(&layers[0]);
    let good = fs::read(&blob).unwrap();
    let mut changed = good.clone();
    changed[1000] ^= 1;
    for (bytes, expected) in [(&changed[..], "SHA-256"), (&good[..700], "700 bytes")] {
        fs::write(&blob, bytes).unwrap();
        let outcome = project.fetch("cache", &[]).expect_code(3);
        for text in
            ["container image app", expected, &format!("http://{}/v2/team/app/blobs/{}", registry.address, layers[0])]
        {
            assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
        }
        assert!(!project.has("cache", &layers[0]));
    }
    fs::remove_file(&blob).unwrap();
    let outcome = project.fetch("cache", &[]).expect_code(3);
    assert!(outcome.stderr.contains("is gone from every place"), "{}", outcome.stderr);
    fs::write(&blob, &good).unwrap();
    project.fetch("cache", &[]).expect_code(0);
    project.state(&format!("reference = \"{}/team/gone:1\"", registry.address));
    let outcome = project.fetch("cache", &[]).expect_code(3);
    for text in ["container image app", "team/gone/manifests/1", "--component container-images.app=PATH"] {
        assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
    }
    // What stands in for it.
    let option = format!("container-images.app={}", images.path().join("one").display());
    project.fetch("cache", &["--component", &option]).expect_code(0);
    let outcome = project.fetch("cache", &["--component", "container-images.nope=/dev/null"]).expect_code(2);
    assert!(outcome.stderr.contains("no component container-images.nope"), "{}", outcome.stderr);
}

/// A server between composer and registry. `fault` says of each request (by number, and its first line) what to do.
pub fn between(
    registry: &str,
    fault: impl Fn(usize, &str) -> Fault + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (registry, fault, log) = (registry.to_owned(), Arc::new(fault), seen.clone());
    let number = Arc::new(AtomicUsize::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let (registry, fault, log, number) = (registry.clone(), fault.clone(), log.clone(), number.clone());
            std::thread::spawn(move || {
                let number = number.fetch_add(1, Ordering::SeqCst);
                relay(stream, &registry, &log, |line| fault(number, line));
            });
        }
    });
    (address, seen)
}

pub enum Fault {
    None,
    /// This status line and headers instead of the registry's answer.
    Answer(&'static str),
    /// The connection breaks after so many bytes of the answer.
    Break(usize),
}

fn relay(mut client: TcpStream, registry: &str, log: &Mutex<Vec<String>>, fault: impl Fn(&str) -> Fault) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|count| count > 0) {
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    log.lock().unwrap().push(text.clone());
    let limit = match fault(text.lines().next().unwrap_or_default()) {
        Fault::Answer(answer) => {
            let _ = client
                .write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes());
            return;
        }
        Fault::Break(after) => after,
        Fault::None => usize::MAX,
    };
    let mut server = TcpStream::connect(registry).unwrap();
    let text = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    server.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = server.read_to_end(&mut answer);
    let _ = client.write_all(&answer[..answer.len().min(limit)]);
}

#[test]
fn a_bad_line_is_endured() {
    if !tools() {
        return;
    }
    let registry = Registry::start(false);
    let images = tempfile::tempdir().unwrap();
    let layers = layout(&images.path().join("one"), &["amd64"], "one");
    registry.push(&images.path().join("one"), "team/app:1");
    let layer = layers[0].clone();
    let broken = AtomicUsize::new(0);
    let (address, seen) = between(&registry.address, move |number, line| match number {
        0 => Fault::Answer("429 Too Many Requests\r\nRetry-After: 0"),
        1 => Fault::Answer("500 Internal Server Error"),
        _ if line.contains(&layer) && broken.fetch_add(1, Ordering::SeqCst) < 2 => Fault::Break(100_000),
        _ => Fault::None,
    });
    let project = Project::new(&format!("reference = \"{address}/team/app:1\""));
    project.fetch("cache", &[]).expect_code(0);
    assert!(project.has("cache", &layers[0]));
    let seen = seen.lock().unwrap();
    let resumed = seen.iter().filter(|request| request.to_lowercase().contains("range: bytes=")).count();
    assert_eq!(resumed, 2, "{seen:?}");
    drop(seen);

    let (address, _) = between(&registry.address, |_, _| Fault::Answer("500 Internal Server Error"));
    let project = Project::new(&format!("reference = \"{address}/team/app:1\""));
    let outcome = project.fetch("cache", &[]).expect_code(3);
    for text in ["container image app", &format!("http://{address}/v2/team/app/manifests/1"), "status 500"] {
        assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
    }
}

#[test]
fn archives_and_layouts_are_pinned_too() {
    if !tools() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    layout(&images.path().join("one"), &["amd64", "arm64"], "one");
    layout(&images.path().join("two"), &["amd64"], "two");
    let project = Project::new("reference = \"team/app:1\"\nlayout = \"layout\"");
    let replace = |from: &str| {
        let _ = fs::remove_dir_all(project.path("layout"));
        run(Command::new("cp").arg("-r").arg(images.path().join(from)).arg(project.path("layout"))).expect_code(0);
    };
    replace("one");
    project.fetch("cache", &[]).expect_code(0);
    let lock = project.lock();
    assert!(lock.contains("reference = \"docker.io/team/app:1\""), "{lock}");
    let saved = |kind: &str, name: &str| {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "--override-arch", "amd64", "copy", "-q"]);
        command.arg(format!("oci:{}", images.path().join("one").display()));
        run(command.arg(format!("{kind}:{}:docker.io/team/app:1", project.path(name).display()))).expect_code(0);
    };
    for (kind, name) in [("docker-archive", "docker.tar"), ("oci-archive", "oci.tar")] {
        saved(kind, name);
        project.state(&format!("reference = \"team/app:1\"\narchive = \"{name}\""));
        project.fetch("cache", &[]).expect_code(0);
    }
    project.state("reference = \"team/app:1\"\narchive = \"anything\"");
    let outcome = project.fetch("cache", &[]).expect_code(3);
    assert!(
        outcome.stderr.contains("container image app") && outcome.stderr.contains("anything"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn check_compares_manifests_with_what_is_preloaded() {
    let project = Project::new("reference = \"registry.example/team/app:1.0\"");
    let write = |image: &str| {
        let text = format!(
            "apiVersion: apps/v1\nkind: Deployment\nspec:\n  template:\n    spec:\n      containers:\n      - image: {image}\n"
        );
        fs::write(project.path("overlay/etc/manifests/app.yaml"), text).unwrap();
    };
    let check = || run(project.command("check", "cache").arg("air-gap.toml"));
    write("registry.example/team/app:1.0");
    check().expect_code(0);
    write("registry.example/team/app:1.1");
    let outcome = check();
    assert_ne!(outcome.code, 0);
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    for text in
        ["overlay/etc/manifests/app.yaml:7", "app:1.1 is not preloaded", "registry.example/team/app:1.0 is preloaded"]
    {
        assert!(said.contains(text), "no {text:?} in {said}");
    }
    project.state(
        "reference = \"registry.example/team/app:1.0\"\n[workloads]\nallow-pull = [\"registry.example/team/*\"]",
    );
    check().expect_code(0);
}
