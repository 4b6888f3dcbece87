//! Helpers of this module's tests.

#![expect(clippy::disallowed_methods, reason = "tests run foreign tools")]

use std::io::Write;
use std::process::{Command, Stdio};

/// Whether a foreign tool is installed; where tools are required its absence is a failure.
pub(super) fn foreign(program: &str, probe: &[&str]) -> bool {
    let found = Command::new(program).args(probe).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let required = std::env::var_os("KSOS_REQUIRE_TOOLS").is_some_and(|value| value == "1");
    assert!(found || !required, "{program} is not installed");
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// Runs a program with `input`; returns its exit status and everything that it wrote.
pub(super) fn run(program: &str, arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("taken");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}
