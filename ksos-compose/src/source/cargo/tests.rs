#![expect(clippy::disallowed_methods, reason = "tests run what they built and copy workspaces")]

use std::process::Command;

use super::*;
use crate::source::apt::mirror;
use crate::source::apt::testing::NetFetch;

fn variables() -> Vec<(OsString, OsString)> {
    ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME"]
        .into_iter()
        .filter_map(|name| Some((name.into(), std::env::var_os(name)?)))
        .collect()
}

/// Makes a workspace with a program that has a build script and prints its own source path.
fn workspace(directory: &Path) {
    for (path, text) in [
        (
            "Cargo.toml",
            "[package]\nname = \"probe\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[profile.small]\ninherits = \"release\"\nstrip = true\npanic = \"abort\"\n",
        ),
        ("Cargo.lock", "version = 4\n\n[[package]]\nname = \"probe\"\nversion = \"1.0.0\"\n"),
        ("build.rs", "fn main() { println!(\"cargo:rustc-env=OUT={}\", std::env::var(\"OUT_DIR\").unwrap()); }\n"),
        (
            "src/main.rs",
            "fn main() { println!(\"hello from {} {}\", file!(), std::env::args().count()); assert!(!std::env::args().any(|a| a == \"fail\")); }\n",
        ),
    ] {
        fs::write_atomic(&directory.join(path), text.as_bytes()).unwrap();
    }
}

fn probe<'a>(workspace: &'a Path, cache: &'a Path, arch: Arch, environment: &'a [(OsString, OsString)]) -> Build<'a> {
    Build {
        workspace,
        package: "probe",
        profile: "small",
        bin: "probe",
        arch,
        cache,
        environment,
        epoch: 1,
        offline: true,
    }
}

fn host() -> Arch {
    std::env::consts::ARCH.parse().unwrap()
}

#[test]
fn a_static_binary_is_the_same_in_any_directory() {
    let environment = variables();
    let mut digests = Vec::new();
    for name in ["a", "another/deeper"] {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join(name);
        workspace(&source);
        let cache = directory.path().join("cache");
        let build = probe(&source, &cache, host(), &environment);
        let toolchain = toolchain::installed(&build).unwrap().expect("the installed Rust builds for its own machine");
        let built = super::build(&build, &toolchain, &|_| {}).unwrap();
        let output = Command::new(&built.path).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hello from src/main.rs 1\n");
        let bytes = std::fs::read(&built.path).unwrap();
        let place = directory.path().to_str().unwrap().as_bytes();
        assert!(!bytes.windows(place.len()).any(|window| window == place), "the binary names its directory");
        digests.push(built.digest);
    }
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn failures_are_told() {
    let environment = variables();
    let directory = tempfile::tempdir().unwrap();
    workspace(directory.path());
    fs::write_atomic(&directory.path().join("src/main.rs"), b"fn main() { let x: u8 = \"text\"; }\n").unwrap();
    let cache = directory.path().join("cache");
    let build = probe(directory.path(), &cache, host(), &environment);
    let toolchain = toolchain::installed(&build).unwrap().unwrap();
    let lines = std::cell::RefCell::new(Vec::new());
    let error =
        super::build(&build, &toolchain, &|line| lines.borrow_mut().push(line.to_owned())).unwrap_err().to_string();
    assert!(error.contains("mismatched types"), "{error}");
    assert!(!lines.borrow().is_empty());

    let empty = [("PATH".into(), OsString::new())];
    let build = probe(directory.path(), &cache, host(), &empty);
    let error = toolchain::installed(&build).unwrap_err();
    assert_eq!(error.to_string(), "cargo is not in PATH, and building probe from source needs it");
    assert_eq!(error.hint("runtime"), "`--component runtime=FILE` takes a static binary that was built elsewhere");
}

#[test]
fn unsuitable_binaries_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x");
    fs::write_atomic(&path, b"#!/bin/sh\n").unwrap();
    assert!(matches!(inspect(path, host()), Err(CargoError::Unsuitable { .. })));
    let own = std::env::current_exe().unwrap();
    let error = inspect(own.clone(), host()).unwrap_err().to_string();
    assert!(error.contains("it needs "), "{error}");
    let other = Arch::ALL.into_iter().find(|arch| *arch != host()).unwrap();
    let error = inspect(own, other).unwrap_err().to_string();
    assert!(error.contains("it is for "), "{error}");
}

#[test]
fn cargo_sees_only_known_variables() {
    let pairs =
        |names: &[&str]| names.iter().map(|name| (name.into(), "x".into())).collect::<Vec<(OsString, OsString)>>();
    let given = [
        "PATH",
        "HOME",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "TZ",
        "http_proxy",
        "CARGO_NET_RETRY",
        "RUSTC",
        "LANG",
    ];
    assert_eq!(environment(&pairs(&given)), pairs(&["PATH", "HOME", "http_proxy", "CARGO_NET_RETRY"]));
}

/// Builds the runtime for the other architecture with Debian's packages and runs it under an emulator.
///
/// `KSOS_TEST_CACHE` may name a directory that keeps the downloads and the toolchain.
#[test]
#[ignore = "needs a Debian mirror, crates and qemu-user-static"]
fn the_runtime_is_cross_built_with_debian_packages() {
    let directory = tempfile::tempdir().unwrap();
    let root = std::env::var_os("KSOS_TEST_CACHE").map_or_else(|| directory.path().to_owned(), PathBuf::from);
    let fetch = NetFetch { cache: crate::cache::Cache::open(&root).unwrap() };
    let mirror = std::env::var("KSOS_APT_MIRROR").ok();
    let repositories = debian::repositories(mirror.as_deref(), &mirror::host_uris(Path::new("/etc/apt"))).unwrap();
    let packages =
        debian::Packages { fetch: &fetch, repositories: &repositories, now: crate::effects::clock::now_seconds() };
    let environment = variables();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let arch = Arch::ALL.into_iter().find(|arch| *arch != host()).unwrap();
    let build = Build {
        workspace: &workspace,
        package: "ksos-runtime",
        profile: "runtime",
        bin: "ksos-runtime",
        arch,
        cache: &root,
        environment: &environment,
        epoch: 1,
        offline: false,
    };
    let start = std::time::Instant::now();
    let toolchain = debian::toolchain(&build, &packages, false).unwrap();
    println!("toolchain ready in {:?}", start.elapsed());
    assert_eq!(debian::toolchain(&build, &packages, false).unwrap(), toolchain, "the second time it is there");
    let start = std::time::Instant::now();
    let built = super::build(&build, &toolchain, &|line| println!("{line}")).unwrap();
    println!("built {} bytes, {} in {:?}", built.size, built.digest, start.elapsed());
    let emulator = format!("qemu-{}-static", arch.machine());
    let status = Command::new(&emulator).arg(&built.path).status().unwrap();
    println!("{emulator}: {status}");
    assert!(status.code().is_some(), "the binary runs: {status}");

    // The same bytes from another place, with another target directory.
    let copy = directory.path().join("another/place");
    fs::create_dir_all(&copy).unwrap();
    let names = ["Cargo.toml", "Cargo.lock", "ksos-formats", "ksos-compose", "ksos-runtime", "tests"];
    let sources = names.map(|name| workspace.join(name));
    assert!(Command::new("cp").arg("-r").args(sources).arg(&copy).status().unwrap().success());
    let again = Build { workspace: &copy, cache: &copy.join("cache"), ..build };
    let rebuilt = super::build(&again, &toolchain, &|_| {}).unwrap();
    assert_eq!(rebuilt.digest, built.digest);
    assert_eq!(inputs::digest(&again).unwrap(), inputs::digest(&build).unwrap());
}
