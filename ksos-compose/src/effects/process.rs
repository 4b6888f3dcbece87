//! Child processes with an explicit environment, whose output is read line by line and who do not outlive their
//! handle.
//!
//! The child stays in the process group of the command, so that Ctrl-C on a terminal reaches both; when a [`Child`] is
//! dropped, the program itself is killed (its own children are its business). A line is at most 64 KiB; longer ones
//! come in pieces. Bytes that are not UTF-8 are replaced.
#![expect(clippy::disallowed_methods, reason = "this module is where processes are started")]

mod exchange;

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{self, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

pub use self::exchange::exchange;

/// Longest piece of a line, in bytes.
const MAX_LINE: u64 = 64 << 10;

/// Lines kept for the error message.
const TAIL: usize = 20;

/// How long output is still read after the program ended, should a child of its hold the pipe open.
const DRAIN: Duration = Duration::from_secs(2);

/// What to run.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The executable, as [`find_program`] gives it.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its whole environment: nothing is inherited.
    pub environment: Vec<(OsString, OsString)>,
    /// Its working directory.
    pub directory: PathBuf,
    /// Does it read the terminal? Otherwise its standard input is empty.
    pub interactive: bool,
}

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

/// A child process failed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("cannot start {}: {source}", program.display())]
    Start {
        /// The executable.
        program: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It could not be waited for.
    #[error("cannot wait for {}: {source}", program.display())]
    Wait {
        /// The executable.
        program: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{} failed ({status}){}", program.display(), tail.iter().map(|line| format!("\n  {line}")).collect::<String>())]
    Failed {
        /// The executable.
        program: PathBuf,
        /// Exit code or signal.
        status: ExitStatus,
        /// The last lines that it wrote.
        tail: Vec<String>,
    },
    /// It took too long, and was killed.
    #[error("{} did not end within {} s{}", program.display(), patience.as_secs(), tail.iter().map(|line| format!("\n  {line}")).collect::<String>())]
    TimedOut {
        /// The executable.
        program: PathBuf,
        /// How long it was waited for.
        patience: Duration,
        /// The last lines that it wrote to standard error.
        tail: Vec<String>,
    },
    /// It answered with more than can be right.
    #[error("{} wrote more than {limit} bytes", program.display())]
    TooMuch {
        /// The executable.
        program: PathBuf,
        /// Most bytes that are taken.
        limit: u64,
    },
}

/// What [`Child::next`] waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A line, or a piece of a long one, without its end.
    Line(Stream, String),
    /// All output is read; the program ends or has ended.
    End,
    /// Nothing came in time.
    Timeout,
}

/// A running program; dropped, it is killed.
#[derive(Debug)]
pub struct Child {
    program: PathBuf,
    child: process::Child,
    lines: Receiver<(Stream, String)>,
    tail: VecDeque<String>,
}

impl Child {
    /// Starts a program.
    ///
    /// # Errors
    /// [`ProcessError::Start`].
    pub fn start(invocation: &Invocation) -> Result<Self, ProcessError> {
        let Invocation { program, arguments, environment, directory, interactive } = invocation;
        let mut child = process::Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(directory)
            .stdin(if *interactive { Stdio::inherit() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| ProcessError::Start { program: program.clone(), source })?;
        let (sender, lines) = crossbeam_channel::bounded(1024);
        let pipes = (child.stdout.take(), child.stderr.take());
        let (Some(output), Some(error)) = pipes else { unreachable!("both are piped") };
        read_lines(output, Stream::Output, sender.clone());
        read_lines(error, Stream::Error, sender);
        Ok(Child { program: program.clone(), child, lines, tail: VecDeque::new() })
    }

    /// Waits for the next line, at most `timeout`.
    pub fn next(&mut self, timeout: Duration) -> Event {
        match self.lines.recv_timeout(timeout) {
            Ok((stream, line)) => {
                if self.tail.len() == TAIL {
                    self.tail.pop_front();
                }
                self.tail.push_back(line.clone());
                Event::Line(stream, line)
            }
            Err(RecvTimeoutError::Timeout) => Event::Timeout,
            Err(RecvTimeoutError::Disconnected) => Event::End,
        }
    }

    /// Returns the exit status when the program has ended.
    ///
    /// # Errors
    /// [`ProcessError::Wait`].
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        self.child.try_wait().map_err(|source| ProcessError::Wait { program: self.program.clone(), source })
    }

    /// Kills the program and waits for its end.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Hands every line to `on_line` and waits for the end.
    ///
    /// # Errors
    /// [`ProcessError::Failed`] unless the exit code is 0.
    pub fn finish(mut self, mut on_line: impl FnMut(Stream, &str)) -> Result<(), ProcessError> {
        let mut ended: Option<(ExitStatus, Instant)> = None;
        let status = loop {
            match self.next(Duration::from_millis(50)) {
                Event::Line(stream, line) => on_line(stream, &line),
                Event::End => {
                    let status = self.child.wait();
                    break status.map_err(|source| ProcessError::Wait { program: self.program.clone(), source })?;
                }
                Event::Timeout if ended.is_none() => {
                    ended = self.try_wait()?.map(|status| (status, Instant::now()));
                }
                Event::Timeout => {}
            }
            if let Some((status, since)) = ended
                && since.elapsed() > DRAIN
            {
                break status;
            }
        };
        if status.success() {
            return Ok(());
        }
        let tail = std::mem::take(&mut self.tail).into();
        Err(ProcessError::Failed { program: self.program.clone(), status, tail })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a program to its end, handing each line of its output to `on_line`.
///
/// # Errors
/// [`ProcessError`].
pub fn run(invocation: &Invocation, on_line: impl FnMut(Stream, &str)) -> Result<(), ProcessError> {
    Child::start(invocation)?.finish(on_line)
}

/// Reads on a thread of its own, which ends with the pipe or with the [`Child`].
fn read_lines(pipe: impl Read + Send + 'static, stream: Stream, sender: Sender<(Stream, String)>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if sender.send((stream, String::from_utf8_lossy(text).into_owned())).is_err() {
                break;
            }
        }
    });
}

/// Finds the executable `name` in `path`, the value of `PATH`. A name with a slash is taken as it is; empty entries of
/// `PATH` (the working directory, by an old custom) are passed over.
pub fn find_program(name: &str, path: &OsStr) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|program| is_executable(program));
    }
    let directories = std::env::split_paths(path).filter(|directory| directory.is_absolute());
    directories.map(|directory| directory.join(name)).find(|program| is_executable(program))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Invocation {
        Invocation {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("PATH".into(), "/usr/bin:/bin".into()), ("COLOUR".into(), "red".into())],
            directory: "/".into(),
            interactive: false,
        }
    }

    fn lines(script: &str) -> (Vec<(Stream, String)>, Result<(), ProcessError>) {
        let mut lines = Vec::new();
        let result = run(&shell(script), |stream, line| lines.push((stream, line.to_owned())));
        (lines, result)
    }

    #[test]
    fn lines_come_from_both_streams_in_a_clean_environment() {
        let (mut seen, result) = lines("echo $COLOUR$HOME; pwd; printf 'err\\r\\nlast' >&2");
        result.unwrap();
        seen.sort_by_key(|(stream, _)| *stream == Stream::Error);
        let expected =
            [(Stream::Output, "red"), (Stream::Output, "/"), (Stream::Error, "err"), (Stream::Error, "last")];
        assert_eq!(seen, expected.map(|(stream, line)| (stream, line.to_owned())));
    }

    #[test]
    fn a_failure_names_program_status_and_last_lines() {
        let (_, result) = lines("for n in $(seq 30); do echo line $n; done; exit 3");
        let text = result.unwrap_err().to_string();
        assert!(text.starts_with("/bin/sh failed (exit status: 3)\n  line 11\n"), "{text}");
        assert!(text.ends_with("\n  line 30"), "{text}");
        let (_, result) = lines("kill -9 $$");
        assert!(result.unwrap_err().to_string().contains("signal: 9"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let missing = Invocation { program: "/no/such/program".into(), ..shell("") };
        let error = run(&missing, |_, _| ()).unwrap_err();
        assert!(error.to_string().starts_with("cannot start /no/such/program: "), "{error}");
    }

    #[test]
    fn a_dropped_child_is_killed() {
        let mut child = Child::start(&shell("echo $$; exec sleep 100")).unwrap();
        let Event::Line(_, id) = child.next(Duration::from_secs(10)) else { panic!("no line") };
        let process = PathBuf::from("/proc").join(&id);
        assert!(process.exists());
        assert_eq!(child.next(Duration::from_millis(10)), Event::Timeout);
        assert_eq!(child.try_wait().unwrap(), None);
        drop(child);
        assert!(!process.exists());
    }

    #[test]
    fn a_grandchild_that_holds_the_pipe_does_not_hang_the_wait() {
        let started = Instant::now();
        let (seen, result) = lines("sleep 20 & echo done");
        result.unwrap();
        assert_eq!(seen, [(Stream::Output, "done".to_owned())]);
        assert!(started.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn endless_lines_come_in_pieces_and_bad_bytes_are_replaced() {
        let (seen, result) = lines("head -c 100000 /dev/zero | tr '\\0' x; echo; printf 'a\\377b\\n'");
        result.unwrap();
        let lengths: Vec<_> = seen.iter().map(|(_, line)| line.len()).collect();
        assert_eq!(lengths, [65536, 100_000 - 65536, 5]);
        assert_eq!(seen[2].1, "a\u{fffd}b");
    }

    #[test]
    fn programs_are_found_in_the_path_given() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("tool");
        crate::effects::fs::write_atomic(&plain, b"#!/bin/sh\n").unwrap();
        let path = std::env::join_paths([Path::new(""), directory.path(), Path::new("/bin")]).unwrap();
        assert_eq!(find_program("sh", &path), Some("/bin/sh".into()));
        assert_eq!(find_program("tool", &path), None);
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        std::fs::set_permissions(&plain, mode).unwrap();
        assert_eq!(find_program("tool", &path), Some(plain.clone()));
        assert_eq!(find_program(plain.to_str().unwrap(), OsStr::new("")), Some(plain));
        assert_eq!(find_program("sh", OsStr::new("")), None);
    }
}
