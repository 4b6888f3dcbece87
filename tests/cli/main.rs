//! The command line as a user meets it: exit codes, messages, what stays when something fails. Uses real packages from
//! the Debian mirror through the caller's cache, and a loopback server for what a bad mirror sends.
#![expect(clippy::disallowed_methods, reason = "tests make and change files of their own")]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod commands;
mod documents;
mod flash;
mod hostile;
mod images;
mod init;
mod outputs;
mod publish;
mod push;
mod registry;
mod release;
mod remote_cache;
mod signatures;
mod sources;
mod supply;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use ksos_tests::{COMPRESSION, compose, copy_project, run, runtime};

const EXAMPLE: &str = "examples/containerd-node.toml";

/// Whether what only root may do must work here: root with `KSOS_REQUIRE_TOOLS` skips nothing.
fn root_must() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::env::var_os("KSOS_REQUIRE_TOOLS").is_some() && fs::metadata("/proc/self").is_ok_and(|data| data.uid() == 0)
}

/// A copy of the project that a test may change.
struct Project {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Project {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("project");
        copy_project(&path);
        Project { path, _directory: directory }
    }

    /// Builds the example with the tests' runtime.
    fn build(&self) -> Command {
        self.command("build", EXAMPLE)
    }

    fn command(&self, verb: &str, manifest: &str) -> Command {
        let mut command = compose(&self.path);
        command.args([verb, manifest, "--component"]).arg(format!("runtime={}", runtime().display()));
        command
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.path.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Has root images left as they are.
    fn compress_nothing(&self) {
        self.edit("manifests/base.toml", COMPRESSION, "compression = \"none\"\n");
    }

    fn image(&self) -> PathBuf {
        self.path.join("out/containerd-node-0.1.0-x86_64.img")
    }
}

/// Returns the names of artifacts with these ends, and of what an unsigned build writes about them, in order.
fn with_documents(stem: &str, suffixes: &[&str]) -> Vec<String> {
    let about = [".spdx.json", ".cdx.json", ".intoto.json"];
    let mut names: Vec<String> = suffixes.iter().chain(&about).map(|suffix| format!("{stem}{suffix}")).collect();
    names.push("SHA256SUMS".to_owned());
    names.sort();
    names
}

#[test]
fn the_committed_schema_is_current() {
    let outcome = run(compose(&ksos_tests::repository()).arg("schema")).expect_code(0);
    let committed = fs::read_to_string(ksos_tests::repository().join("docs/schema/manifest.schema.json")).unwrap();
    assert!(outcome.stdout == committed, "run: cargo run -p ksos-compose -- schema > docs/schema/manifest.schema.json");
}

#[test]
fn configurations_of_nodes_are_checked() {
    let examples = ksos_tests::repository().join("examples/cloud-init");
    let good = ["full.yaml", "nocloud/user-data", "nocloud/meta-data", "nocloud/network-config"];
    let mut command = compose(&examples);
    let outcome = run(command.args(["check", "--config"]).args(good)).expect_code(0);
    assert_eq!(outcome.stdout, good.map(|name| format!("{name}: ok\n")).concat());

    let directory = tempfile::tempdir().unwrap();
    let text = "hostname: edge-01\nnetwork:\n  adress: 192.0.2.7/24\nkubesolo:\n  portainer-edge-key: S3cr3t S3cr3t\n";
    fs::write(directory.path().join("site.yaml"), text).unwrap();
    let outcome = run(compose(directory.path()).args(["check", "--config", "site.yaml"])).expect_code(2);
    for text in ["site.yaml:3:3", "adress: 192.0.2.7/24", "did you mean address?", "site.yaml:5:3"] {
        assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
    }
    assert!(outcome.stdout.is_empty() && !outcome.stderr.contains("S3cr3t"), "{}", outcome.stderr);
    let json = run(compose(directory.path()).args(["check", "--json", "--config", "site.yaml"])).expect_code(2);
    let listed: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&listed[0]["ok"], &listed[0]["diagnostics"][0]["line"]), (&false.into(), &3.into()));
    run(compose(directory.path()).args(["check", "--config", "missing.yaml"])).expect_code(2);

    let outcome = run(compose(directory.path()).args(["schema", "--config"])).expect_code(0);
    let committed = fs::read_to_string(ksos_tests::repository().join("docs/schema/config.schema.json")).unwrap();
    assert!(outcome.stdout == committed, "docs/schema/config.schema.json is stale");
}

#[test]
fn every_manifest_passes_check() {
    let manifests: Vec<PathBuf> = ["manifests", "examples"]
        .iter()
        .flat_map(|directory| fs::read_dir(ksos_tests::repository().join(directory)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        // Not images, but what images extend.
        .filter(|path| {
            !["base.toml", "kubesolo.toml", "generic-kernel.toml", "ssh.toml", "dev.toml"]
                .iter()
                .any(|name| path.ends_with(name))
        })
        .collect();
    assert!(manifests.len() >= 5, "{manifests:?}");
    for arch in ["x86_64", "arm64"] {
        let mut command = compose(&ksos_tests::repository());
        run(command.arg("check").args(&manifests).args(["--arch", arch])).expect_code(0);
    }
}

#[test]
fn committed_locks_are_what_their_manifests_ask_for() {
    let directory = ksos_tests::repository().join("manifests");
    let locks = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let locks: Vec<PathBuf> = locks.filter(|path| path.extension().is_some_and(|end| end == "lock")).collect();
    assert!(locks.len() >= 4, "{locks:?}");
    // KubeSolo's release has no digest until a build can reach it; nothing else is left open, and nothing is fetched.
    let cache = tempfile::tempdir().unwrap();
    for lock in locks {
        let mut command = compose(&ksos_tests::repository());
        command.args(["plan", "--frozen", "--component", "kubesolo=LICENSE"]).arg(lock.with_extension("toml"));
        let outcome = run(command.env("KSOS_CACHE", cache.path())).expect_code(0);
        assert!(outcome.stdout.contains("unpack"), "{}", outcome.stdout);
    }
}

#[test]
fn check_refuses_what_a_build_would_refuse() {
    let project = Project::new();
    let manifest = project.path.join(EXAMPLE);
    let text = fs::read_to_string(&manifest).unwrap();
    for (parameters, expected, code) in [
        ("\"console=ttyS0\", \"init=/bin/sh\"", "the initramfs starts the root's init itself", 2),
        ("\"console=ttyS0\", \"root=/dev/sda1\"", "the initramfs finds the root itself", 2),
        ("\"console=ttyS0\", \"panic=1\", \"panic=2\"", "twice, with different values", 2),
        ("\"quiet\"", "no console is given", 1),
    ] {
        fs::write(&manifest, format!("{text}\n[kernel]\ncmdline = [{parameters}]\n")).unwrap();
        let checked = run(&mut project.command("check", EXAMPLE)).expect_code(2);
        assert!(checked.stderr.contains(expected), "{parameters}: {}", checked.stderr);
        let built = run(&mut project.build()).expect_code(code);
        assert!(built.stderr.contains(expected), "{parameters}: {}", built.stderr);
    }
}

#[test]
fn a_broken_manifest_names_file_line_column_and_the_nearest_key_for_every_error() {
    let project = Project::new();
    project.edit(EXAMPLE, "restart = \"always\"", "restrat = \"always\"");
    project.edit(EXAMPLE, "version = \"0.1.0\"", "version = 1");
    let outcome = run(compose(&project.path).args(["build", EXAMPLE])).expect_code(2);
    for text in ["examples/containerd-node.toml:", "restrat", "restart", "version"] {
        assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
    }
    assert!(outcome.stdout.is_empty());
    let json = run(compose(&project.path).args(["check", EXAMPLE, "--json"])).expect_code(2);
    let listed: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(listed[0]["ok"], false);
    assert!(listed[0]["diagnostics"].as_array().unwrap().iter().all(|one| one["line"].is_u64()));
}

#[test]
fn usage_errors_and_missing_manifests_exit_with_2() {
    let directory = tempfile::tempdir().unwrap();
    run(compose(directory.path()).arg("bulid")).expect_code(2);
    let outcome = run(compose(directory.path()).arg("build")).expect_code(2);
    assert!(outcome.stderr.contains("kubesolo-os.toml"), "{}", outcome.stderr);
    let project = Project::new();
    let outcome = run(project.build().args(["--component", "nope=/dev/null"])).expect_code(2);
    assert!(outcome.stderr.contains("no component nope"), "{}", outcome.stderr);
}

#[test]
fn run_without_qemu_names_the_packages() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("x-0.1.0-x86_64.img");
    fs::write(&image, [0; 4096]).unwrap();
    let outcome = run(compose(directory.path()).env_remove("PATH").arg("run").arg(&image)).expect_code(1);
    for package in ["qemu-system-x86", "qemu-system-x86-core"] {
        assert!(outcome.stderr.contains(package), "{}", outcome.stderr);
    }
}

#[test]
fn run_of_a_disk_that_does_not_boot_ends_with_1_and_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("empty-x86_64.img");
    fs::write(&image, vec![0; 1 << 20]).unwrap();
    let mut command = compose(directory.path());
    let outcome = run(command.arg("run").arg(&image).args(["--until", "ready", "--timeout", "120"])).expect_code(1);
    let said = ["nothing started", "not ready"].iter().any(|text| outcome.stderr.contains(text));
    assert!(said, "{}", outcome.stderr);
}
