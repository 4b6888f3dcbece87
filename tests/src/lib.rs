//! Shared helpers for the command-line, reproducibility and boot tests: they run the real binary as a user would.
#![expect(clippy::disallowed_methods, reason = "tests run the real binary in a directory of their own")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Returns the top directory of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is inside the repository").to_owned()
}

/// Returns the composer to test: `KSOS_COMPOSE`, or the release build of this workspace.
pub fn composer() -> PathBuf {
    if let Some(path) = std::env::var_os("KSOS_COMPOSE") {
        return path.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from);
    let path = target.join("release/ksos-compose");
    assert!(path.exists(), "{} is missing: run `cargo build --release -p ksos-compose`", path.display());
    path
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; -1 when it was killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Outcome {
    /// Fails the test unless the command ended with `code`, showing what it printed.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// Runs `command` to its end.
pub fn run(command: &mut Command) -> Outcome {
    command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}")).into()
}

/// Returns a command that runs the composer in `directory`, with the caller's cache.
pub fn compose(directory: &Path) -> Command {
    let mut command = Command::new(composer());
    command.current_dir(directory).env("NO_COLOR", "1");
    command
}

/// Returns a static runtime for x86_64: `KSOS_RUNTIME`, or the one that the build of the example put into its cache.
/// Tests of images in copies of the project take it by `--component`, so that nothing is compiled twice.
pub fn runtime() -> PathBuf {
    static RUNTIME: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(find_runtime).clone()
}

fn find_runtime() -> PathBuf {
    if let Some(path) = std::env::var_os("KSOS_RUNTIME") {
        return path.into();
    }
    let target = repository().join("target/runtime-for-tests");
    let mut command = Command::new("cargo");
    command.args([
        "build",
        "--locked",
        "--profile",
        "runtime",
        "-p",
        "ksos-runtime",
        "--target",
        "x86_64-unknown-linux-gnu",
    ]);
    command.env("RUSTFLAGS", "-Ctarget-feature=+crt-static").arg("--target-dir").arg(&target);
    run(command.current_dir(repository())).expect_code(0);
    let built = target.join("x86_64-unknown-linux-gnu/runtime/ksos-runtime");
    // Another user must be able to read it.
    let shared = std::env::temp_dir().join(format!("ksos-runtime-{}", std::process::id()));
    std::fs::copy(built, &shared).expect("the runtime can be copied");
    shared
}

/// Copies what an image is composed from, without lock files, to `to`.
pub fn copy_project(to: &Path) {
    for directory in ["manifests", "examples", "kernel", "firmware"] {
        copy(&repository().join(directory), &to.join(directory));
    }
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        std::fs::create_dir_all(to).expect("a directory can be made");
        for entry in std::fs::read_dir(from).expect("the project can be read") {
            let entry = entry.expect("the project can be read");
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else if from.extension().is_none_or(|extension| extension != "lock") {
        std::fs::copy(from, to).expect("a file can be copied");
    }
}
