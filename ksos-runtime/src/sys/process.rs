//! Starting processes: what happens between fork and exec.

#![expect(
    unsafe_code,
    reason = "code between fork and exec must be async-signal-safe, which the compiler cannot check"
)]
#![expect(clippy::disallowed_methods, reason = "`sys` is where the runtime starts processes")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command as Process, Stdio};

use rustix::process::{Resource, Rlimit};

use super::{Command, Error, Exit, Feed, Limits, Pid, Result, Streams};

/// How much of the end of a program's output [`run`] keeps, in bytes.
const OUTPUT_LIMIT: usize = 64 << 10;
/// Search path of everything that the runtime starts.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Files that services create are not writable for others.
const UMASK: u32 = 0o022;
/// Where a process says which AppArmor profile its next program is confined by (kernel
/// `Documentation/admin-guide/LSM/index.rst`, "Process attributes"; apparmor `aa_change_onexec(2)`).
const APPARMOR_EXEC: &std::ffi::CStr = c"/proc/self/attr/apparmor/exec";

/// What a child does with itself before exec. Everything is prepared before fork.
struct Child {
    cgroup: Option<File>,
    oom_score_adjust: Option<String>,
    limits: Limits,
    terminal: bool,
    /// What is written to [`APPARMOR_EXEC`].
    apparmor: Option<String>,
}

impl Child {
    /// Runs in the child, between fork and exec: system calls on prepared values only, no allocation.
    fn prepare(&self) -> io::Result<()> {
        rustix::process::setsid()?;
        if let Some(cgroup) = &self.cgroup {
            rustix::io::write(cgroup, b"0")?;
        }
        if let Some(text) = &self.oom_score_adjust {
            let file = rustix::fs::open(c"/proc/self/oom_score_adj", rustix::fs::OFlags::WRONLY, 0.into())?;
            rustix::io::write(&file, text.as_bytes())?;
        }
        set_limit(Resource::Nofile, self.limits.nofile)?;
        set_limit(Resource::Nproc, self.limits.nproc)?;
        set_limit(Resource::Core, self.limits.core)?;
        if self.terminal {
            // SAFETY: descriptor 0 is the terminal, and TIOCSCTTY takes an integer. Failure costs job control only.
            unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
        }
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(UMASK));
        unblock_signals();
        if let Some(text) = &self.apparmor {
            // The last thing: it confines what is executed next. A failure is the failure of the start.
            let file = rustix::fs::open(APPARMOR_EXEC, rustix::fs::OFlags::WRONLY, 0.into())?;
            rustix::io::write(&file, text.as_bytes())?;
        }
        Ok(())
    }
}

fn set_limit(resource: Resource, value: Option<u64>) -> io::Result<()> {
    let Some(_) = value else { return Ok(()) };
    Ok(rustix::process::setrlimit(resource, Rlimit { current: value, maximum: value })?)
}

/// Gives a child an empty signal mask: PID 1 blocks what it reads from its signal descriptor.
fn unblock_signals() {
    // SAFETY: `set` is a live signal set that sigemptyset initialises before sigprocmask reads it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Starts `command`; `output` is the writing end for captured streams.
pub(super) fn spawn(command: &Command, output: Option<OwnedFd>) -> Result<Pid> {
    let name = command.arguments.first().map_or("", String::as_str);
    start(command, output).map_err(|source| Error::new("start", name, source))
}

fn start(command: &Command, output: Option<OwnedFd>) -> io::Result<Pid> {
    let Some((program, arguments)) = command.arguments.split_first() else {
        return Err(io::Error::other("the command is empty"));
    };
    let mut process = Process::new(program);
    process.args(arguments).env_clear().env("PATH", PATH).envs(&command.environment);
    process.current_dir(command.directory.as_deref().unwrap_or("/"));
    process.stdin(Stdio::null());
    if let Streams::Terminal(path) = &command.streams {
        let terminal = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path)?;
        process.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal);
    } else if let Some(output) = output {
        process.stdout(output.try_clone()?).stderr(output);
    } else {
        process.stdout(Stdio::null()).stderr(Stdio::null());
    }
    let cgroup =
        command.cgroup.as_ref().map(|path| OpenOptions::new().write(true).open(format!("{path}/cgroup.procs")));
    let child = Child {
        cgroup: cgroup.transpose()?,
        oom_score_adjust: command.oom_score_adjust.map(|value| value.to_string()),
        limits: command.limits,
        terminal: matches!(command.streams, Streams::Terminal(_)),
        apparmor: command.apparmor.as_ref().map(|profile| format!("exec {profile}")),
    };
    // SAFETY: `prepare` makes system calls on values that were prepared before fork; it neither allocates nor locks.
    unsafe { process.pre_exec(move || child.prepare()) };
    // The child is reaped by `Sys::reap`, like every other process that PID 1 is the parent of.
    Pid::try_from(process.spawn()?.id()).map_err(io::Error::other)
}

/// Runs a program to its end; returns how it ended and the end of its output.
pub(super) fn run(arguments: &[&str]) -> Result<(Exit, String)> {
    let name = arguments.first().copied().unwrap_or("");
    run_to_end(name, arguments.get(1..).unwrap_or(&[])).map_err(|source| Error::new("run", name, source))
}

fn run_to_end(name: &str, arguments: &[&str]) -> io::Result<(Exit, String)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut process = program(name, arguments, write)?;
    let mut child = process.spawn()?;
    // It holds the writing ends; the pipe ends when the program's copies are the last ones and are closed.
    drop(process);
    let output = last_of(&mut File::from(read));
    let status = child.wait()?;
    Ok((exit_of(status), String::from_utf8_lossy(&output?).trim().to_owned()))
}

/// Returns a program that is to run for this process: without standard input, and with both outputs to `output`.
fn program(name: &str, arguments: &[&str], output: OwnedFd) -> io::Result<Process> {
    let mut process = Process::new(name);
    process.args(arguments).env_clear().env("PATH", PATH).stdin(Stdio::null());
    process.stdout(output.try_clone()?).stderr(output);
    // SAFETY: see `unblock_signals`; it only makes one system call on a value of its own.
    unsafe {
        process.pre_exec(|| {
            unblock_signals();
            Ok(())
        });
    }
    Ok(process)
}

/// Runs a program to its end while `feed` writes its standard input.
pub(super) fn run_fed(arguments: &[&str], feed: &mut Feed<'_>) -> Result<(Exit, String)> {
    let name = arguments.first().copied().unwrap_or("");
    feed_to_end(name, arguments.get(1..).unwrap_or(&[]), feed).map_err(|source| Error::new("run", name, source))
}

fn feed_to_end(name: &str, arguments: &[&str], feed: &mut Feed<'_>) -> io::Result<(Exit, String)> {
    // Output goes to memory, not to a pipe: nobody reads while the input is written, and a full pipe would stop both.
    let output = rustix::fs::memfd_create(c"output", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut child = program(name, arguments, output.try_clone()?)?.stdin(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().ok_or_else(|| io::Error::other("the program has no standard input"))?;
    let fed = feed(&mut input);
    drop(input);
    if fed.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::BrokenPipe) {
        // What it got is not whole, whatever it makes of it.
        let _ = child.kill();
    }
    let status = child.wait()?;
    match fed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut output = File::from(output);
    io::Seek::rewind(&mut output)?;
    Ok((exit_of(status), String::from_utf8_lossy(&last_of(&mut output)?).trim().to_owned()))
}

/// Reads to the end and returns the last [`OUTPUT_LIMIT`] bytes or a little more, whatever the length.
fn last_of(source: &mut impl io::Read) -> io::Result<Vec<u8>> {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 4096]);
    loop {
        let count = match source.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if count == 0 {
            return Ok(kept);
        }
        kept.extend_from_slice(buffer.get(..count).unwrap_or(&[]));
        if kept.len() > 2 * OUTPUT_LIMIT {
            kept.drain(..kept.len() - OUTPUT_LIMIT);
        }
    }
}

fn exit_of(status: std::process::ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    status.code().map_or_else(|| Exit::Signal(status.signal().unwrap_or(0)), Exit::Code)
}

/// Replaces this process; returns only on failure. The program, and what it starts, has no environment but `PATH` and
/// leaves no core dumps unless it says otherwise.
pub(super) fn exec(arguments: &[&str]) -> Error {
    let name = arguments.first().copied().unwrap_or("");
    if let Err(source) = set_limit(Resource::Core, Some(0)) {
        return Error::new("limit core dumps of", name, source);
    }
    let source = Process::new(name).args(arguments.get(1..).unwrap_or(&[])).env_clear().env("PATH", PATH).exec();
    Error::new("execute", name, source)
}

/// Points the standard streams at the console, or at `/dev/null` when there is none.
pub(super) fn open_console() {
    let open = |path| OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path);
    let Ok(file) = open("/dev/console").or_else(|_| open("/dev/null")) else { return };
    for stream in 0..3 {
        // SAFETY: both descriptors are plain integers; nothing in this program owns 0 to 2.
        unsafe { libc::dup2(file.as_raw_fd(), stream) };
    }
    if file.as_raw_fd() < 3 {
        // The descriptor is now one of the standard streams and must stay open.
        std::mem::forget(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_returns_status_and_the_end_of_the_output() {
        let (exit, text) = run(&["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]).expect("sh runs");
        assert_eq!((exit, text.as_str()), (Exit::Code(3), "out\nerr"));
        let (exit, text) = run(&["/bin/sh", "-c", "yes | head -c 1000000; echo end"]).expect("sh runs");
        assert!(exit.success() && text.len() <= 2 * OUTPUT_LIMIT && text.ends_with("end"), "{}", text.len());
        let (exit, _) = run(&["/bin/sh", "-c", "kill -9 $$"]).expect("sh runs");
        assert_eq!(exit, Exit::Signal(9));
        let error = run(&["/nonexistent/tool"]).expect_err("no such program");
        assert_eq!(error.to_string(), "run /nonexistent/tool: No such file or directory (os error 2)");
    }

    #[test]
    fn run_fed_feeds_and_returns_the_output() {
        let feed = |text: &'static str| {
            move |input: &mut dyn io::Write| {
                for _ in 0..20_000 {
                    input.write_all(text.as_bytes())?;
                }
                Ok(())
            }
        };
        // Much more than a pipe holds, in both directions.
        let (exit, text) = run_fed(&["/bin/cat"], &mut feed("0123456789\n")).expect("cat runs");
        assert!(exit.success() && text.ends_with("0123456789"), "{}", text.len());
        let (exit, text) =
            run_fed(&["/bin/sh", "-c", "echo no >&2; exit 4"], &mut feed("0123456789\n")).expect("sh runs");
        assert_eq!((exit, text.as_str()), (Exit::Code(4), "no"));
        let mut failing = |_: &mut dyn io::Write| Err(io::Error::other("unreadable"));
        let error = run_fed(&["/bin/cat"], &mut failing).expect_err("the input is not whole");
        assert_eq!(error.to_string(), "run /bin/cat: unreadable");
    }

    #[test]
    fn spawn_sets_limits_session_directory_and_environment() {
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        let script = "ulimit -n; ulimit -c; umask; pwd; echo $A; test $(ps -o sid= -p $$) -eq $$ && echo leader";
        let command = Command {
            arguments: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            environment: [("A".to_owned(), "b".to_owned())].into(),
            directory: Some("/usr".to_owned()),
            limits: Limits { nofile: Some(64), nproc: None, core: Some(0) },
            ..Command::default()
        };
        let pid = spawn(&command, Some(write)).expect("sh starts");
        let text = io::read_to_string(File::from(read)).expect("output");
        assert_eq!(text, "64\n0\n0022\n/usr\nb\nleader\n");
        let pid = rustix::process::Pid::from_raw(pid);
        rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).expect("reaped");
    }

    #[test]
    fn what_cannot_be_confined_does_not_start() {
        // Without AppArmor there is nothing to write to; with it, the profile is unknown.
        let profile = "ksos-test-no-such-profile".to_owned();
        let command =
            Command { arguments: vec!["/bin/true".to_owned()], apparmor: Some(profile), ..Command::default() };
        let error = spawn(&command, None).expect_err("it must not run unconfined");
        assert!(error.to_string().starts_with("start /bin/true: "), "{error}");
    }

    #[test]
    fn spawn_names_a_missing_program() {
        let command = Command { arguments: vec!["/nonexistent".to_owned()], ..Command::default() };
        let error = spawn(&command, None).expect_err("no such program");
        assert_eq!(error.to_string(), "start /nonexistent: No such file or directory (os error 2)");
    }
}
