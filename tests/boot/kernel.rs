//! A kernel built from Debian's source, booted. Takes many minutes of two processors, so it runs only when it is asked
//! for: `cargo test -p ksos-tests --test boot -- --ignored built_kernel`.

use std::process::Command;
use std::time::Instant;

use ksos_tests::{compose, repository, run, runtime};

use crate::guest::{Guest, READY};

#[test]
#[ignore = "builds a kernel"]
fn a_built_kernel_boots() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let started = Instant::now();
    let mut command = compose(&repository());
    command.args(["build", "tests/fixtures/kernel/minimal.toml", "--json", "--out"]).arg(directory.path());
    command.arg("--component").arg(format!("runtime={}", runtime().display()));
    let outcome = run(&mut command).expect_code(0);
    eprintln!("{}built in {} s", outcome.stderr, started.elapsed().as_secs());
    let listed: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("--json prints JSON");
    let image = listed["artifacts"][0]["path"].as_str().expect("an artifact has a path").to_owned();
    let key = directory.path().join("test-key");
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key)).expect_code(0);

    let started = Instant::now();
    let mut guest = Guest::start(image.as_ref(), &key, &[]);
    let ready = guest.wait_for(READY);
    assert!(ready.contains("secure-boot=off"), "{ready}");
    eprintln!("ready after {} s: {ready}", started.elapsed().as_secs());
    let console = guest.console();
    assert!(console.contains("Linux version 6.12"), "{console}");
}
