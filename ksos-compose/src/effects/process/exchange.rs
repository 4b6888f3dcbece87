//! A program that is given some bytes and answers with some.

use std::io::{Read, Write};
use std::process::{self, ChildStderr, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::{Invocation, ProcessError, TAIL};

/// Most bytes of standard error that are kept.
const MAX_ERRORS: u64 = 64 << 10;
/// How long what it said is waited for after it has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// How often its end is looked for.
const TICK: Duration = Duration::from_millis(10);

/// Runs a program with `input` as its standard input, and returns what it writes to its standard output: at most
/// `limit` bytes, within `patience`. It is killed when it takes longer or writes more.
///
/// # Errors
/// [`ProcessError`]; what it wrote to standard error is in it.
pub fn exchange(
    invocation: &Invocation,
    input: Vec<u8>,
    limit: u64,
    patience: Duration,
) -> Result<Vec<u8>, ProcessError> {
    let program = || invocation.program.clone();
    let deadline = Instant::now() + patience;
    let mut child = spawn(invocation)?;
    let (stdin, stdout, stderr) = (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else { unreachable!("all are piped") };
    // A program that does not read it says by its answer or exit code what came of that.
    std::thread::spawn(move || drop(stdin.write_all(&input)));
    let errors = read(stderr);
    let (sender, answer) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let result = stdout.take(limit + 1).read_to_end(&mut bytes);
        drop(sender.send(result.map(|_| bytes)));
    });
    let timed_out = |tail| ProcessError::TimedOut { program: program(), patience, tail };
    let Ok(answer) = answer.recv_deadline(deadline) else {
        child.kill();
        return Err(timed_out(tail(&errors)));
    };
    let answer = answer.map_err(|source| ProcessError::Wait { program: program(), source })?;
    if answer.len() as u64 > limit {
        return Err(ProcessError::TooMuch { program: program(), limit });
    }
    match child.wait(deadline).map_err(|source| ProcessError::Wait { program: program(), source })? {
        None => {
            child.kill();
            Err(timed_out(tail(&errors)))
        }
        Some(status) if status.success() => Ok(answer),
        Some(status) => Err(ProcessError::Failed { program: program(), status, tail: tail(&errors) }),
    }
}

/// Dropped, it is killed.
struct Running(process::Child);

impl Running {
    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    fn wait(&mut self, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
        loop {
            let status = self.0.try_wait()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            std::thread::sleep(TICK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(invocation: &Invocation) -> Result<Running, ProcessError> {
    let Invocation { program, arguments, environment, directory, interactive: _ } = invocation;
    process::Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map(Running)
        .map_err(|source| ProcessError::Start { program: program.clone(), source })
}

fn read(stderr: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut stderr = stderr;
        let _ = stderr.by_ref().take(MAX_ERRORS).read_to_end(&mut bytes);
        drop(sender.send(String::from_utf8_lossy(&bytes).into_owned()));
        // A pipe that is full would stop it.
        let _ = std::io::copy(&mut stderr, &mut std::io::sink());
    });
    receiver
}

fn tail(errors: &Receiver<String>) -> Vec<String> {
    let text = errors.recv_timeout(DRAIN).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Invocation {
        Invocation {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            directory: "/".into(),
            interactive: false,
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn bytes_go_through_whether_it_reads_them_or_not() {
        let input: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        assert_eq!(exchange(&shell("cat"), input.clone(), 1 << 20, LONG).unwrap(), input);
        assert_eq!(exchange(&shell("printf yes; exec >&-; exec <&-"), input, 64, LONG).unwrap(), b"yes");
    }

    #[test]
    fn failures_say_what_it_said() {
        let text = exchange(&shell("echo no token >&2; exit 7"), vec![], 64, LONG).unwrap_err().to_string();
        assert_eq!(text, "/bin/sh failed (exit status: 7)\n  no token");
        let error = exchange(&shell("yes"), vec![], 64, LONG).unwrap_err();
        assert_eq!(error.to_string(), "/bin/sh wrote more than 64 bytes");
    }

    #[test]
    fn one_that_does_not_end_is_killed() {
        for script in ["echo waiting >&2; exec sleep 100", "echo waiting >&2; echo x; exec >&-; exec sleep 100"] {
            let error = exchange(&shell(script), vec![], 64, Duration::from_secs(1)).unwrap_err();
            assert!(matches!(error, ProcessError::TimedOut { .. }), "{error}");
        }
    }
}
