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
