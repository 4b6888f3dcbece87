//! A cache that machines share, in Debian's `docker-registry` on loopback. Each machine has a cache and a directory of its
//! own; what comes from elsewhere must give the same image, and what is wrong with it must change nothing but the time.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ksos_compose::sign::{LocalSigner, sign_envelope};
use ksos_formats::Digest;
use ksos_formats::update::Envelope;
use ksos_tests::{Outcome, repository, run};
use serde_json::{Value, json};

use super::Project;
use crate::registry::{Fault, Registry, between, tools};

const EXAMPLE: &str = "examples/updating-node.toml";
const LOCK: &str = "examples/updating-node.lock";
const IMAGE: &str = "out/updating-node-0.1.0-x86_64.img";
const RECORD: &str = "org.kubesolo.cache.record";
const TITLE: &str = "org.opencontainers.image.title";
const KEY: &str = "tests/fixtures/keys/test-only-update.key";
const PUBLIC: &str = "tests/fixtures/keys/test-only-update.pub";

/// A machine: a copy of the project, and a cache.
struct Machine {
    project: Project,
    cache: tempfile::TempDir,
}

impl Machine {
    /// One that has built nothing yet; with a lock, as a checkout has it.
    fn new(lock: Option<&Path>) -> Self {
        let machine = Machine { project: Project::new(), cache: tempfile::tempdir().unwrap() };
        if let Some(lock) = lock {
            fs::copy(lock, machine.path(LOCK)).unwrap();
        }
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.project.path.join(name)
    }

    fn command(&self, verb: &[&str], remote: &str) -> Command {
        let mut command = self.project.command(verb[0], EXAMPLE);
        if verb.len() > 1 {
            command = ksos_tests::compose(&self.project.path);
            command.args(verb).arg(EXAMPLE).arg("--component");
            command.arg(format!("runtime={}", ksos_tests::runtime().display()));
        }
        command.arg("--cache").arg(self.cache.path()).args(["--remote-cache", remote]);
        // A registry is asked for no password that somebody's machine has.
        command.env("DOCKER_CONFIG", self.path("no-docker"));
        command
    }

    /// Builds and reads the remote cache.
    fn reads(&self, remote: &str) -> Command {
        let mut command = self.command(&["build"], remote);
        command.args(["--json", "--locked", "--remote-cache-key", PUBLIC]);
        command
    }

    /// Builds and writes to the remote cache, too.
    fn writes(&self, remote: &str) -> Command {
        let mut command = self.reads(remote);
        command.args(["--remote-cache-mode", "read-write", "--cache-sign-key", KEY]);
        command
    }

    fn image(&self) -> Digest {
        Digest::of(&fs::read(self.path(IMAGE)).unwrap())
    }

    fn edit(&self) {
        self.project.edit(
            "examples/containerd-node.toml",
            "hello from a container on",
            "greetings from a container on",
        );
    }

    /// Takes the locked downloads out of the caller's cache, which must have them.
    fn take_downloads(&self) {
        run(&mut self.project.command("fetch", EXAMPLE)).expect_code(0);
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let cache = variable("KSOS_CACHE")
            .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("ksos")))
            .or_else(|| Some(variable("HOME")?.join(".cache/ksos")))
            .unwrap();
        let lock = fs::read_to_string(self.path(LOCK)).unwrap();
        for hex in lock.lines().filter_map(|line| line.split("sha256 = \"").nth(1)?.split('"').next()) {
            let place = |root: &Path| root.join("v1/blobs").join(&hex[..2]).join(hex);
            let (from, to) = (place(&cache), place(self.cache.path()));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).unwrap();
        }
    }
}

/// What `build --json` says of its one build.
fn built(outcome: &Outcome) -> Value {
    let listed: Value = serde_json::from_str(&outcome.stdout).unwrap();
    listed["builds"][0].clone()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The steps in the registry.
struct Store<'a> {
    registry: &'a Registry,
    /// Tag by name of the step.
    tags: BTreeMap<String, String>,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().proxy(None).build().into()
}

impl<'a> Store<'a> {
    fn read(registry: &'a Registry) -> Self {
        let mut store = Store { registry, tags: BTreeMap::new() };
        let text = agent().get(store.url("tags/list")).call().unwrap().body_mut().read_to_string().unwrap();
        let listed: Value = serde_json::from_str(&text).unwrap();
        for tag in listed["tags"].as_array().unwrap() {
            let tag = tag.as_str().unwrap().to_owned();
            let title = store.get(&tag)["annotations"][TITLE].as_str().unwrap().to_owned();
            store.tags.insert(title, tag);
        }
        store
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/team/cache/{path}", self.registry.address())
    }

    fn get(&self, tag: &str) -> Value {
        let mut answer = agent().get(self.url(&format!("manifests/{tag}"))).header("accept", MANIFEST).call().unwrap();
        serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
    }

    fn manifest(&self, step: &str) -> Value {
        self.get(&self.tags[step])
    }

    /// Puts another manifest under the tag of a step.
    fn put(&self, step: &str, manifest: &Value) {
        let url = self.url(&format!("manifests/{}", self.tags[step]));
        agent().put(url).header("content-type", MANIFEST).send(manifest.to_string()).unwrap();
    }

    /// Changes the manifest of a step.
    fn change(&self, step: &str, change: impl FnOnce(&mut Value)) {
        let mut manifest = self.manifest(step);
        change(&mut manifest);
        self.put(step, &manifest);
    }

    /// Where the registry stores the largest blob of a step.
    fn largest(&self, step: &str) -> PathBuf {
        let manifest = self.manifest(step);
        let layers = manifest["layers"].as_array().unwrap();
        let layer = layers.iter().max_by_key(|layer| number(&layer["size"])).unwrap();
        self.registry.blob(layer["digest"].as_str().unwrap())
    }
}

/// Signs a record anew, with a key that nobody trusts.
fn sign_by_another(text: &str) -> String {
    let pem = fs::read(repository().join("tests/fixtures/keys/test-only-second.key")).unwrap();
    let mut envelope = Envelope::parse(text.as_bytes()).unwrap();
    envelope.signatures.clear();
    sign_envelope(&mut envelope, &LocalSigner::from_pem(&pem, "the second key").unwrap()).unwrap();
    String::from_utf8(envelope.to_json()).unwrap()
}

#[test]
fn machines_share_what_they_have_made() {
    if !tools() {
        return;
    }
    let registry = Registry::start(false);
    let remote = format!("oci://{}/team/cache", registry.address());
    let first = Machine::new(None);
    first.take_downloads();
    let outcome = run(&mut first.writes(&remote)).expect_code(0);
    let report = built(&outcome);
    let (ran, steps) = (number(&report["ran"]), number(&report["steps"]));
    let told = (&report["remote"]["written"], &report["remote"]["unwritten"]);
    assert_eq!(told, (&ran.into(), &0.into()), "{}", outcome.stderr);
    assert!(ran > 20 && ran < steps, "{report}");
    let image = first.image();

    // What was there before the remote cache was, downloads for one, goes by a command; once.
    let push = || {
        let mut command = first.command(&["cache", "push"], &remote);
        run(command.args(["--cache-sign-key", KEY])).expect_code(0).stdout
    };
    let pushed = push();
    assert!(pushed.contains(&format!("{} steps written", steps - ran)), "{pushed}");
    assert!(!push().contains("written"), "everything is there");

    a_password_and_settings_come_from_where_they_are_kept(&first, steps);
    another_machine_fetches(&first, &remote, steps, image);
    what_is_behind_a_change_is_made(&first, &remote);
    bytes_that_the_lock_knows_need_no_key(&first, &remote);
    what_cannot_be_written_is_told(&first, &registry);
    what_does_not_answer_is_left_alone(&first);
    poison_is_refused(&first, &registry, image);
}

/// The password from Docker's configuration; what and whom to trust from the environment, or from the manifest.
fn a_password_and_settings_come_from_where_they_are_kept(first: &Machine, steps: u64) {
    let locked = Registry::start(true);
    let remote = format!("oci://{}/team/cache", locked.address());
    let docker = tempfile::tempdir().unwrap();
    // user:secret
    let config = json!({ "auths": { locked.address(): { "auth": "dXNlcjpzZWNyZXQ=" } } });
    fs::write(docker.path().join("config.json"), config.to_string()).unwrap();
    let command = |machine: &Machine, verb: &str| {
        let mut command = ksos_tests::compose(&machine.project.path);
        command.args(["cache", verb, EXAMPLE, "--component"]);
        command.arg(format!("runtime={}", ksos_tests::runtime().display()));
        command.arg("--cache").arg(machine.cache.path()).env("DOCKER_CONFIG", docker.path());
        command
    };
    let mut push = command(first, "push");
    push.env("KSOS_REMOTE_CACHE", &remote).env("KSOS_REMOTE_CACHE_KEY", PUBLIC).env("KSOS_CACHE_SIGN_KEY", KEY);
    let pushed = run(&mut push).expect_code(0);
    assert!(pushed.stdout.contains(&format!("{steps} steps written")), "{} {}", pushed.stdout, pushed.stderr);

    let second = Machine::new(Some(&first.path(LOCK)));
    let text = fs::read_to_string(second.path(EXAMPLE)).unwrap();
    let table = format!("[cache]\nremote = \"{remote}\"\nkeys = [\"../{PUBLIC}\"]\n");
    fs::write(second.path(EXAMPLE), format!("{text}\n{table}")).unwrap();
    let refused = run(command(&second, "pull").env("DOCKER_CONFIG", second.path("no-docker"))).expect_code(3);
    assert!(refused.stderr.contains("401"), "{}", refused.stderr);
    let pulled = run(&mut command(&second, "pull")).expect_code(0);
    let expected = format!("0 of {steps} steps are in neither cache");
    assert!(pulled.stdout.contains(&expected), "{} {}", pulled.stdout, pulled.stderr);
}

fn another_machine_fetches(first: &Machine, remote: &str, steps: u64, image: Digest) {
    let second = Machine::new(Some(&first.path(LOCK)));
    let mut explain = second.command(&["explain"], remote);
    let explained = run(explain.args(["--locked", "--remote-cache-key", PUBLIC])).expect_code(0);
    assert!(explained.stdout.contains(&format!("0 of {steps} steps would run")), "{}", explained.stdout);
    let outcome = run(&mut second.reads(remote)).expect_code(0);
    let report = built(&outcome);
    assert_eq!((number(&report["ran"]), report["remote"]["steps"].as_array().unwrap().len() as u64), (0, steps));
    assert!(outcome.stderr.contains(&format!("{steps} steps taken")), "{}", outcome.stderr);
    assert_eq!(second.image(), image);
    // Only what the artifacts are written from came: not the packages, nor what was unpacked from most of them.
    let size = |machine: &Machine| directory_size(&machine.cache.path().join("v1/blobs"));
    assert!(size(&second) * 2 < size(first), "{} of {}", size(&second), size(first));
    // From now on it needs nobody.
    fs::remove_dir_all(second.path("out")).unwrap();
    let report = built(&run(second.reads(remote).arg("--offline")).expect_code(0));
    assert_eq!((number(&report["ran"]), second.image()), (0, image));

    // The same before the build.
    let third = Machine::new(Some(&first.path(LOCK)));
    let pulled = run(third.command(&["cache", "pull"], remote).args(["--remote-cache-key", PUBLIC])).expect_code(0);
    assert!(pulled.stdout.contains(&format!("0 of {steps} steps are in neither cache")), "{}", pulled.stdout);
    run(third.reads(remote).arg("--offline")).expect_code(0);
    assert_eq!(third.image(), image);
}

fn directory_size(path: &Path) -> u64 {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let size = |entry: fs::DirEntry| match entry.metadata().unwrap() {
        metadata if metadata.is_dir() => directory_size(&entry.path()),
        metadata => metadata.len(),
    };
    entries.map(size).sum()
}

/// Two machines make the same change at once, and write both.
fn what_is_behind_a_change_is_made(first: &Machine, remote: &str) {
    let second = Machine::new(Some(&first.path(LOCK)));
    first.edit();
    second.edit();
    let start =
        |machine: &Machine| machine.writes(remote).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (one, two) = (start(first), start(&second));
    for child in [one, two] {
        let outcome = Outcome::from(child.wait_with_output().unwrap()).expect_code(0);
        let report = built(&outcome);
        // The root file system, and the initramfs that has its hash; or what the other was quicker with.
        assert!(number(&report["ran"]) <= 2 && report["remote"]["unwritten"] == 0, "{report} {}", outcome.stderr);
    }
    assert_eq!(first.image(), second.image());
    let third = Machine::new(Some(&first.path(LOCK)));
    third.edit();
    assert_eq!(number(&built(&run(&mut third.reads(remote)).expect_code(0))["ran"]), 0);
    assert_eq!(third.image(), first.image());
}

fn bytes_that_the_lock_knows_need_no_key(first: &Machine, remote: &str) {
    let machine = Machine::new(Some(&first.path(LOCK)));
    let outcome = run(&mut machine.command(&["fetch"], remote)).expect_code(0);
    assert!(outcome.stderr.contains("no key is trusted"), "{}", outcome.stderr);
    let downloads: usize = outcome.stdout.split(' ').nth(1).unwrap().parse().unwrap();
    let place = remote.trim_start_matches("oci://");
    assert_eq!(outcome.stderr.matches(&format!("{place} blob ")).count(), downloads, "{}", outcome.stderr);
    // A record is not believed: everything would be made here.
    let explained = run(&mut machine.command(&["explain"], remote)).expect_code(0).stdout;
    assert!(!explained.contains(" 0 of "), "{explained}");
}

fn what_cannot_be_written_is_told(first: &Machine, registry: &Registry) {
    let (address, _) =
        between(registry.address(), |_, line| match line.starts_with("POST") || line.starts_with("PUT") {
            true => Fault::Answer("403 Forbidden"),
            false => Fault::None,
        });
    first.project.edit("examples/containerd-node.toml", "greetings from a container on", "regards from a container on");
    let outcome = run(&mut first.writes(&format!("oci://{address}/team/cache"))).expect_code(0);
    let report = built(&outcome);
    assert_eq!((&report["ran"], &report["remote"]["unwritten"]), (&2.into(), &2.into()), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("403") && outcome.stderr.contains("nothing more is written"), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("warning: remote cache").count(), 1, "{}", outcome.stderr);
    let mut command = first.command(&["cache", "push"], &format!("oci://{address}/team/cache"));
    let outcome = run(command.args(["--cache-sign-key", KEY])).expect_code(3);
    assert!(outcome.stderr.contains("could not be written to the remote cache"), "{}", outcome.stderr);

    // One that wants a password that nobody has given.
    let locked = Registry::start(true);
    let remote = format!("oci://{}/team/cache", locked.address());
    let outcome = run(first.writes(&remote).args(["--out", "locked"])).expect_code(0);
    let expected = format!("warning: remote cache {} is not used", remote.trim_start_matches("oci://"));
    assert!(outcome.stderr.contains(&expected) && outcome.stderr.contains("401"), "{}", outcome.stderr);
}

fn what_does_not_answer_is_left_alone(first: &Machine) {
    // Nobody listens there.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let remote = format!("oci://{address}/team/cache");
    let outcome = run(first.reads(&remote).args(["--out", "down"])).expect_code(0);
    let expected = format!("warning: remote cache {address}/team/cache is not used");
    assert!(outcome.stderr.contains(&expected), "{}", outcome.stderr);
    assert_eq!(number(&built(&outcome)["ran"]), 0);
    run(&mut first.command(&["cache", "push"], &remote)).expect_code(3);
    // Somebody listens, and is not asked.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let remote = format!("oci://{}/team/cache", listener.local_addr().unwrap());
    run(first.reads(&remote).args(["--offline", "--out", "offline"])).expect_code(0);
    assert!(listener.accept().is_err(), "--offline asks nobody");
    for (wrong, expected) in [("https://example.com/x", "oci://"), ("oci://example.com/x:1", "no tag")] {
        let outcome = run(first.reads(wrong).args(["--out", "wrong"])).expect_code(2);
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    }
}

fn poison_is_refused(first: &Machine, registry: &Registry, image: Digest) {
    let remote = format!("oci://{}/team/cache", registry.address());
    let store = Store::read(registry);
    let unpacked = |store: &Store<'_>, name: &str| {
        store.tags.keys().find(|step| step.starts_with(&format!("unpack {name}_"))).unwrap().clone()
    };
    let (netbase, shim) = (unpacked(&store, "netbase"), unpacked(&store, "shim-signed"));
    store.change(&netbase, |manifest| drop(manifest["annotations"].as_object_mut().unwrap().remove(RECORD)));
    store.change("initramfs-base", |manifest| {
        let signed = sign_by_another(manifest["annotations"][RECORD].as_str().unwrap());
        manifest["annotations"][RECORD] = json!(signed);
    });
    store.put("kernel", &store.manifest("modules"));
    store.change("modules", |manifest| manifest["layers"] = json!([]));
    store.change("initramfs-modules", |manifest| manifest["artifactType"] = json!("application/vnd.example"));
    let swapped = store.largest(&shim);
    let size = fs::metadata(&swapped).unwrap().len();
    fs::write(&swapped, vec![7; size as usize]).unwrap();
    let poisoned = unpacked(&store, "libc6");
    let truncated = store.largest(&poisoned);
    let whole = fs::read(&truncated).unwrap();
    fs::write(&truncated, &whole[..whole.len() / 2]).unwrap();

    let machine = Machine::new(Some(&first.path(LOCK)));
    // With a change of its own, so that the root file system is made from what came.
    machine.project.edit("examples/containerd-node.toml", "hello from a container on", "poison from a container on");
    let outcome = run(&mut machine.writes(&remote)).expect_code(0);
    let warned = |step: &str, reason: &str| {
        let found = outcome.stderr.lines().any(|line| {
            line.contains("warning: remote cache") && line.contains(&format!(": {step}")) && line.contains(reason)
        });
        assert!(found, "no warning of {step} with {reason:?} in {}", outcome.stderr);
    };
    warned(&netbase, "there is no signed record");
    warned("initramfs-base", "by keys that are not trusted");
    warned("kernel", "another key");
    warned("modules", "lacks the blob");
    warned("initramfs-modules", "application/vnd.example");
    warned(&shim, "SHA-256");
    warned(&poisoned, "bytes");
    // What is made without it is the same.
    first.project.edit("examples/containerd-node.toml", "regards from a container on", "poison from a container on");
    run(first.command(&["build"], "none").arg("--offline")).expect_code(0);
    assert_eq!(machine.image(), first.image());
    assert_ne!(machine.image(), image);
    // Whoever may write, and has made again what was poisoned, has put it right.
    for step in [netbase.as_str(), "initramfs-base", "kernel", "modules", "initramfs-modules"] {
        let manifest = store.manifest(step);
        let envelope = Envelope::parse(manifest["annotations"][RECORD].as_str().unwrap().as_bytes()).unwrap();
        let record: Value = serde_json::from_slice(&envelope.payload).unwrap();
        assert_eq!(format!("v1-{}", record["key"].as_str().unwrap()), store.tags[step], "{step}");
        assert!(!manifest["layers"].as_array().unwrap().is_empty(), "{step}");
    }
}

/// The example fans out over Kubernetes: what it applies is YAML of known kinds, and what it runs exists.
#[test]
fn the_example_of_a_matrix_says_what_the_command_takes() {
    let directory = repository().join("examples/matrix");
    let mut kinds = Vec::new();
    let mut scripts = String::new();
    for name in ["registry.yaml", "matrix.yaml"] {
        let text = fs::read_to_string(directory.join(name)).unwrap();
        for document in text.split("\n---\n") {
            let value: Value = serde_saphyr::from_str(document).unwrap();
            kinds.push(format!("{}/{}", value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap()));
            assert!(value["metadata"]["name"].is_string(), "{document}");
            if value["kind"] == "Job" {
                let spec = &value["spec"];
                assert_eq!(spec["completionMode"], "Indexed");
                let pod = &spec["template"]["spec"];
                assert_eq!(pod["restartPolicy"], "Never");
                let container = &pod["containers"][0];
                scripts += container["command"].as_array().unwrap().last().unwrap().as_str().unwrap();
                let named = |list: &Value| -> Vec<String> {
                    let names = list.as_array().unwrap().iter();
                    names.map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
                };
                let volumes = named(&pod["volumes"]);
                assert!(named(&container["volumeMounts"]).iter().all(|name| volumes.contains(name)), "{volumes:?}");
                // Every variable of the remote cache that it sets is one that the command reads.
                let help = run(std::process::Command::new(ksos_tests::composer()).args(["build", "--help"]));
                let help = help.expect_code(0).stdout;
                for name in named(&container["env"]).iter().filter(|name| name.starts_with("KSOS_")) {
                    assert!(help.contains(name.as_str()), "{name} is not in build --help");
                }
                for option in scripts.split_whitespace().filter(|word| word.starts_with("--")) {
                    assert!(help.contains(option.split('=').next().unwrap()), "{option} is not in build --help");
                }
            }
            if value["kind"] == "ConfigMap" {
                let list = value["data"]["matrix"].as_str().unwrap();
                for line in list.lines() {
                    let (manifest, arch) = line.split_once(' ').unwrap();
                    assert!(repository().join(manifest).is_file(), "{manifest}");
                    let lock = repository().join(manifest).with_extension("lock");
                    assert!(fs::read_to_string(lock).unwrap().contains(&format!("[{arch}.")), "--locked");
                    assert!(arch.parse::<ksos_formats::Arch>().is_ok(), "{arch}");
                }
            }
        }
    }
    let known = [
        "v1/ConfigMap",
        "v1/Namespace",
        "v1/PersistentVolumeClaim",
        "v1/Service",
        "apps/v1/Deployment",
        "batch/v1/Job",
    ];
    assert!(kinds.iter().all(|kind| known.contains(&kind.as_str())), "{kinds:?}");
    assert!(scripts.contains("ksos-compose build"), "{scripts}");
}
