//! Stands in for KubeSolo in tests that boot an image: the same command line, configuration file, files and endpoints,
//! with Debian's containerd as the engine. It checks what the node gives it and says each result as a line
//! `check NAME: ok` or `check NAME: FAILED WHY`; a failure ends it.
//!
//! - `options`: the configuration file, the environment and the flags, taken as strictly as KubeSolo takes them.
//! - `node`: what the node must have: mounts, modules, cgroups, programs, places to write, hardening.
//! - `server`: the PKI, the administrator's kubeconfig and a TLS endpoint that answers like an API server.
//! - `containers`: `kubesolo containers` runs real containers.
#![expect(clippy::print_stdout, reason = "what it prints is its result")]
#![expect(clippy::disallowed_methods, reason = "it looks at the machine that it runs on")]

mod containers;
mod node;
mod options;
mod server;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// The result of one check.
pub type Check = Result<String, String>;

/// Says how a check went; whether it went well.
pub fn say(name: &str, result: &Check) -> bool {
    match result {
        Ok(detail) if detail.is_empty() => println!("check {name}: ok"),
        Ok(detail) => println!("check {name}: ok ({detail})"),
        Err(why) => println!("check {name}: FAILED {why}"),
    }
    result.is_ok()
}

/// KubeSolo 1.2.0 does not end on SIGTERM. What a shell ignores, the program that it becomes ignores too (execve(2)).
/// Without a shell in the image it is left as it is.
fn ignore_term(arguments: &[String]) {
    const TERM: u64 = 1 << 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(TERM);
    if ignored & TERM == 0
        && let Ok(program) = std::env::current_exe()
    {
        let mut shell = Command::new("/bin/sh");
        let _ = shell.args(["-c", "trap '' TERM; exec \"$0\" \"$@\""]).arg(program).args(arguments).exec();
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "containers") {
        return containers::run();
    }
    ignore_term(&arguments);
    let options = match options::read(&arguments) {
        Ok(options) => options,
        Err(why) => {
            say("options", &Err(why));
            return ExitCode::FAILURE;
        }
    };
    say("options", &Ok(options.summary()));
    let results: Vec<bool> = node::checks(&options).iter().map(|(name, result)| say(name, result)).collect();
    let failed = results.iter().filter(|ok| !**ok).count();
    println!("checks: {} ok, {failed} failed", results.len() - failed);
    if failed > 0 {
        return ExitCode::FAILURE;
    }
    match server::serve(&options) {
        Ok(never) => match never {},
        Err(why) => {
            say("server", &Err(why));
            ExitCode::FAILURE
        }
    }
}
