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
    static_program("ksos-runtime", "ksos-runtime", "runtime")
}

/// Returns the stand-in for KubeSolo: `KSOS_STAND_IN`, or one that is built here, static, for x86_64.
pub fn stand_in() -> PathBuf {
    static STAND_IN: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let find = || match std::env::var_os("KSOS_STAND_IN") {
        Some(path) => path.into(),
        None => static_program("ksos-tests", "kubesolo-stand-in", "dev"),
    };
    STAND_IN.get_or_init(find).clone()
}

/// Builds a static program for x86_64 and returns a copy that another user can read.
fn static_program(package: &str, name: &str, profile: &str) -> PathBuf {
    let target = repository().join("target/runtime-for-tests");
    let mut command = Command::new("cargo");
    command.args(["build", "--locked", "--target", "x86_64-unknown-linux-gnu", "--bin", name]);
    command.args(["--profile", profile, "-p", package, "--target-dir"]).arg(&target);
    command.env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    run(command.current_dir(repository())).expect_code(0);
    let directory = if profile == "dev" { "debug" } else { profile };
    let built = target.join("x86_64-unknown-linux-gnu").join(directory).join(name);
    let shared = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
    std::fs::copy(built, &shared).expect("a built program can be copied");
    shared
}

/// What the base manifest says of the root image's compression in a copy of the project.
pub const COMPRESSION: &str = "compression = \"zstd\"\ncompression-level = 3\n";

/// Copies what an image is composed from, and the keys of the example with updates, without lock files, to `to`. A root image is
/// compressed at another level there: 15, as it ships, takes four fifths of a build's processor time.
pub fn copy_project(to: &Path) {
    for directory in ["manifests", "examples", "kernel", "firmware", "tests/fixtures/keys"] {
        copy(&repository().join(directory), &to.join(directory));
    }
    let base = to.join("manifests/base.toml");
    let text = std::fs::read_to_string(&base).expect("the base manifest is text");
    let shipped = "compression = \"zstd\"\ncompression-level = 15\n";
    assert!(text.contains(shipped), "manifests/base.toml has no {shipped:?}");
    std::fs::write(base, text.replace(shipped, COMPRESSION)).expect("a copy can be changed");
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

/// A program for x86_64 that prints `text` and ends: write(1, text), exit(0).
pub fn program(text: &str) -> Vec<u8> {
    const START: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut code = vec![0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0x48, 0x8d, 0x35, 16, 0, 0, 0, 0xba];
    code.extend((text.len() as u32).to_le_bytes());
    code.extend([0x0f, 0x05, 0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]);
    code.extend(text.as_bytes());
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    // ELF-64 object file format: executable, x86-64, version 1.
    for (value, size) in [
        (2, 2),
        (62, 2),
        (1, 4),
        (START + HEADERS, 8),
        (64, 8),
        (0, 8),
        (0, 4),
        (64, 2),
        (56, 2),
        (1, 2),
        (64, 2),
        (0, 2),
        (0, 2),
    ] {
        elf.extend(&u64::to_le_bytes(value)[..size]);
    }
    let length = HEADERS + code.len() as u64;
    for (value, size) in [(1, 4), (5, 4), (0, 8), (START, 8), (START, 8), (length, 8), (length, 8), (4096, 8)] {
        elf.extend(&u64::to_le_bytes(value)[..size]);
    }
    elf.extend(code);
    elf
}
