//! Builds the containerd example for both architectures and boots the disk images under Secure Boot in QEMU, with 512 MB
//! of memory: containerd answers, a container runs from an image made at build time, and data survives a reboot. On arm64
//! also the main path of the appliance: a site's configuration, health, metrics, AppArmor, the modules of kube-proxy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ksos_tests::{Outcome, compose, repository, run};

use crate::guest::{Guest, READY, free_port, get};

/// Seconds for one boot to ready. TCG on two busy processors is slow; a boot alone takes a tenth of it.
const TIMEOUT: &str = "600";

fn build(manifest: &Path, arch: &str, out: &Path) -> PathBuf {
    let mut command = compose(&repository());
    command.arg("build").arg(manifest).args(["--json", "--arch", arch, "--out"]).arg(out);
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

/// Boots until the node is ready, which must be for the `count`th time.
fn boots(image: &Path, disk: &Path, arch: &str, count: u32) {
    let outcome = boot(image, disk).expect_code(0);
    expect_facts(ready_line(&outcome), arch, count);
    assert!(outcome.stdout.contains("hello from a container on "), "no container ran:\n{}", outcome.stdout);
}

#[track_caller]
fn expect_facts(ready: &str, arch: &str, count: u32) {
    let (arch, count) = (format!("arch={arch}"), format!("boot={count}"));
    for fact in ["name=containerd-node", &arch, "slot=a", "secure-boot=on", &count] {
        assert!(ready.split(' ').any(|word| word.trim() == fact), "{fact} is not in: {ready}");
    }
}

#[test]
fn x86_64_boots_under_secure_boot_and_keeps_its_data() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let image = build(Path::new("examples/containerd-node.toml"), "x86_64", directory.path());
    let disk = directory.path().join("disk.img");
    (1..=2).for_each(|count| boots(&image, &disk, "x86_64", count));
}

#[test]
fn arm64_boots_under_secure_boot_keeps_its_data_and_is_configured_observed_and_confined() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);
    // The example, and SSH to look inside.
    let layers = ["examples/containerd-node.toml", "manifests/ssh.toml"].map(|layer| repository().join(layer));
    fs::write(path("node.toml"), format!("extends = {layers:?}\n")).expect("written");
    let image = build(&path("node.toml"), "arm64", directory.path());
    let disk = path("disk.img");
    boots(&image, &disk, "arm64", 1);

    let key = path("key");
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key)).expect_code(0);
    let public_key = fs::read_to_string(key.with_extension("pub")).expect("made");
    let config = format!("hostname: arm-edge\nssh_authorized_keys: [{}]\nntp: {{enabled: false}}\n", public_key.trim());
    fs::write(path("config.yaml"), config).expect("written");
    let metrics = free_port();
    let text = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
    let (disk, config, forward) = (text(disk), text(path("config.yaml")), format!("{metrics}:9100"));
    let arguments =
        ["--arch", "arm64", "--secure-boot", "--persist", &disk, "--config", &config, "--forward", &forward];
    let mut guest = Guest::start(&image, &key, &arguments.map(str::to_owned));
    expect_facts(&guest.wait_for(READY), "arm64", 2);
    assert!(guest.console().contains("hello from a container on aarch64"), "{}", guest.console());
    assert_eq!(guest.shell("cat /proc/sys/kernel/hostname"), "arm-edge\n");
    let health: serde_json::Value = serde_json::from_str(&guest.shell("kubesolo-os health --json")).expect("JSON");
    assert_eq!(health["verdict"], "healthy", "{health:#}");
    let page = get(&format!("http://127.0.0.1:{metrics}/metrics"));
    for part in ["arch=\"arm64\"", "kubesolo_os_configuration_info{source=\"nocloud\"", "\nkubesolo_os_ready 1\n"] {
        assert!(page.contains(part), "{part}:\n{page}");
    }
    guest.expect_small_runtime();
    let profiles = guest.shell("for p in /proc/[0-9]*; do cat $p/attr/current 2>&1; done");
    for profile in ["ksos-network (enforce)", "ksos-agent (enforce)"] {
        assert!(profiles.lines().any(|line| line == profile), "{profile}:\n{profiles}");
    }
    guest.shell(
        "iptables -t nat -A POSTROUTING -s 10.42.0.0/16 -m comment --comment x -j MASQUERADE && iptables -t nat -S && \
         for m in nf_tables nft_compat nft_chain_nat xt_MASQUERADE; do ls -d /sys/module/$m; done",
    );
    guest.expect_nothing_denied();
    guest.power_off();
}
