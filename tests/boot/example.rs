//! Builds the containerd example for both architectures and boots the disk images under Secure Boot in QEMU, with 512 MB
//! of memory: containerd answers, a container runs from an image made at build time, and data survives a reboot.

use std::path::{Path, PathBuf};

use ksos_tests::{Outcome, compose, repository, run};

/// Seconds for one boot to ready. TCG on two busy processors is slow; a boot alone takes a tenth of it.
const TIMEOUT: &str = "600";

fn build(arch: &str, out: &Path) -> PathBuf {
    let mut command = compose(&repository());
    command.args(["build", "examples/containerd-node.toml", "--json", "--arch", arch, "--out"]).arg(out);
    let outcome = run(&mut command).expect_code(0);
    let listed: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("--json prints JSON");
    let artifact = &listed["artifacts"][0];
    assert_eq!(artifact["format"], "disk");
    assert_eq!(artifact["sha256"].as_str().map(str::len), Some(64));
    PathBuf::from(artifact["path"].as_str().expect("an artifact has a path"))
}

fn boot(image: &Path, disk: &Path) -> Outcome {
    let mut command = compose(&repository());
    command.arg("run").arg(image).args(["--until", "ready", "--secure-boot", "--memory", "512M", "--timeout", TIMEOUT]);
    run(command.arg("--persist").arg(disk))
}

fn ready_line(outcome: &Outcome) -> &str {
    let line = outcome.stdout.lines().find(|line| line.contains("ksos: ready "));
    line.unwrap_or_else(|| panic!("no ready line:\n{}\n{}", outcome.stdout, outcome.stderr))
}

fn boots_twice(arch: &str) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let image = build(arch, directory.path());
    let disk = directory.path().join("disk.img");
    for count in ["boot=1", "boot=2"] {
        let outcome = boot(&image, &disk).expect_code(0);
        let ready = ready_line(&outcome);
        for fact in ["name=containerd-node", &format!("arch={arch}"), "slot=a", "secure-boot=on", count] {
            assert!(ready.split(' ').any(|word| word.trim() == fact), "{fact} is not in: {ready}");
        }
        assert!(outcome.stdout.contains("hello from a container on "), "no container ran:\n{}", outcome.stdout);
    }
}

#[test]
fn x86_64_boots_under_secure_boot_and_keeps_its_data() {
    boots_twice("x86_64");
}

#[test]
fn arm64_boots_under_secure_boot_and_keeps_its_data() {
    boots_twice("arm64");
}
