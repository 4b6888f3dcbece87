//! Updates of the appliance with a stand-in for KubeSolo, through `ksos-compose test`: installed by the node itself, kept,
//! rolled back after resets on trial, and not taken again; and what the node fetched against what `diff` said before.

use std::fs;
use std::path::{Path, PathBuf};

use ksos_tests::{compose, repository, run, stand_in};

/// Seconds for one step: emulated, on a busy machine.
const STEP: &str = "1800";

/// Builds the fixture as `version`, with updates; returns the paths that the build lists, by format.
fn build(directory: &Path, version: &str) -> impl Fn(&str) -> PathBuf + use<> {
    let fixtures = repository().join("tests/fixtures");
    let manifest = directory.join(format!("node-{version}.toml"));
    let text = format!(
        "extends = [{:?}]\n[image]\nversion = {version:?}\n[update]\nkeys = [{:?}]\ngate = \"15m\"\nhold = \"10s\"\n\
         [files.\"/etc/fixture-version\"]\ncontent = {version:?}\n[services.kubesolo]\nstop-timeout = \"2s\"\n",
        fixtures.join("boot/node.toml"),
        fixtures.join("keys/test-only-update.pub"),
    );
    fs::write(&manifest, text).expect("written");
    fs::copy(fixtures.join("boot/node.lock"), manifest.with_extension("lock")).expect("copied");
    // The component takes the file by its name.
    let program = directory.join("kubesolo");
    if !program.exists() {
        fs::copy(stand_in(), &program).expect("copied");
    }
    let mut command = compose(&repository());
    command.arg("build").arg(&manifest).args(["--json", "--out"]).arg(directory);
    command.arg("--component").arg(format!("kubesolo={}", program.display()));
    if let Some(runtime) = std::env::var_os("KSOS_RUNTIME") {
        command.arg("--component").arg(format!("runtime={}", Path::new(&runtime).display()));
    }
    let outcome = run(&mut command).expect_code(0);
    let listed: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("--json prints JSON");
    move |format| {
        let artifacts = listed["artifacts"].as_array().expect("a list");
        let found = artifacts.iter().find(|artifact| artifact["format"] == format);
        PathBuf::from(found.and_then(|artifact| artifact["path"].as_str()).expect("an artifact of this format"))
    }
}

#[test]
fn an_update_is_kept_and_after_resets_on_trial_rolled_back_and_fetched_as_predicted() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let old = build(directory.path(), "1.0.0")("disk");
    let release = build(directory.path(), "1.1.0")("update");

    let outcome = run(compose(&repository()).args(["diff", "--json"]).arg(&old).arg(&release)).expect_code(1);
    let difference: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("--json prints JSON");
    let predicted = difference["update"]["fetched"].as_u64().expect("a prediction");
    let whole = difference["update"]["whole"].as_u64().expect("a size");
    // Issue 4: one changed file takes 15 % or less of the compressed image.
    assert!(predicted > 0 && predicted * 100 <= whole * 15, "{predicted} of {whole}");

    let key = repository().join("tests/fixtures/keys/test-only-update.key");
    let junit = directory.path().join("report.xml");
    let mut command = compose(&repository());
    command.arg("test").arg(&old).arg("--update").arg(&release).arg("--key").arg(&key);
    command.args(["--timeout", STEP, "--memory", "768M", "--json", "--junit"]).arg(&junit);
    let outcome = run(&mut command);
    let logs = || {
        let kept = fs::read_dir(directory.path()).expect("readable").flatten().map(|entry| entry.path());
        let logs = kept.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.filter_map(|path| fs::read_to_string(path).ok()).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(outcome.code, 0, "{}\n{}\n{}", outcome.stdout, outcome.stderr, logs());

    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("--json prints JSON");
    assert_eq!(report["passed"], true);
    let cases = report["cases"].as_array().expect("a list");
    let of = |group: &str| cases.iter().filter(|case| case["group"] == group).count();
    assert_eq!((of("update"), of("rollback")), (7, 6), "{report:#}");
    let fetched: Vec<u64> = cases.iter().filter_map(|case| case["fetched_bytes"].as_u64()).collect();
    assert_eq!(fetched, [predicted], "what the node fetched is what diff said");
    let xml = fs::read_to_string(&junit).expect("the report was written");
    assert!(xml.contains("tests=\"13\" failures=\"0\""), "{xml}");
}
