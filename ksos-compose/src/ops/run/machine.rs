//! The running QEMU: trying accelerators, following the console, ending it.
#![expect(clippy::disallowed_methods, reason = "starts and ends QEMU")]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use ksos_formats::Arch;

use super::arguments::Accelerator;
use super::disk::WorkDirectory;
use super::kubeconfig::Fetch;
use super::watch::{Event, Watcher};
use super::{Outcome, RunError, Until};

/// Time that a guest gets to shut down after the power button.
const SHUTDOWN: Duration = Duration::from_secs(60);
/// Time between two presses: a node may be ready before the driver of its power button is.
const PRESS: Duration = Duration::from_secs(3);
/// Time that an accelerator gets to show that it works.
const TRIAL: Duration = Duration::from_secs(5);
/// Time that a ready node gets to serve its kubeconfig.
const KUBECONFIG: Duration = Duration::from_secs(60);
/// Most bytes of QEMU's standard error that are kept.
const MESSAGE_LIMIT: usize = 2000;

/// Returns the best accelerator that works, and why it is not a better one. A `/dev/kvm` that opens proves little: in
/// nested virtual machines the first processor often cannot be set up, has no system management mode, which the firmware
/// for Secure Boot needs, or stops at an instruction that the host emulates and does not know. So a machine is made and has
/// to run a program.
pub(super) fn best_accelerator(program: &Path, arch: Arch, secure_boot: bool) -> (Accelerator, Option<String>) {
    if std::env::consts::ARCH != arch.machine() {
        return (Accelerator::Tcg, Some(format!("this host is {}, not {arch}", std::env::consts::ARCH)));
    }
    let accelerator = if cfg!(target_os = "macos") { Accelerator::Hvf } else { Accelerator::Kvm };
    match works(program, arch, secure_boot, accelerator) {
        Ok(()) => (accelerator, None),
        Err(reason) => (Accelerator::Tcg, Some(format!("{} does not work here: {reason}", accelerator.name()))),
    }
}

/// For x86 in real mode, at the last 256 bytes of a ROM: sets up the x87 and SSE units as every firmware and kernel does, uses
/// them, and ends QEMU by its device `isa-debug-exit` (QEMU `hw/misc/debugexit.c`: status = value * 2 + 1).
const TRIAL_X86_64: &[u8] = &[
    0xdb, 0xe3, // fninit
    0x0f, 0x20, 0xe0, // mov eax, cr4
    0x66, 0x0d, 0x00, 0x06, 0x00, 0x00, // or eax, OSFXSR | OSXMMEXCPT
    0x0f, 0x22, 0xe0, // mov cr4, eax
    0x0f, 0x57, 0xc0, // xorps xmm0, xmm0
    0xb0, 0x10, // mov al, 16
    0xe6, 0xf4, // out 0xf4, al
    0xf4, // hlt
];
/// At the reset vector, 16 bytes before the end: jumps to 0xff00.
const RESET_X86_64: &[u8] = &[0xe9, 0x0d, 0xff];
/// For arm64, at the start of the flash memory: ends the machine (Arm Power State Coordination Interface, DEN0022,
/// `SYSTEM_OFF`).
const TRIAL_ARM64: &[u8] = &[
    0x00, 0x01, 0x80, 0x52, // mov w0, 0x0008
    0x00, 0x80, 0xb0, 0x72, // movk w0, 0x8400, lsl 16
    0x02, 0x00, 0x00, 0xd4, // hvc 0
    0x00, 0x00, 0x00, 0x14, // b .
];

/// Returns the machine, more arguments, the ROM and the exit status of a trial.
fn trial(arch: Arch, secure_boot: bool) -> (&'static str, &'static [&'static str], Vec<u8>, i32) {
    let mut rom = vec![0; 64 << 10];
    match arch {
        Arch::X86_64 => {
            rom[0xff00..][..TRIAL_X86_64.len()].copy_from_slice(TRIAL_X86_64);
            rom[0xfff0..][..RESET_X86_64.len()].copy_from_slice(RESET_X86_64);
            let machine = if secure_boot { "q35,smm=on" } else { "q35,smm=off" };
            (machine, &["-device", "isa-debug-exit,iobase=0xf4,iosize=4"], rom, 33)
        }
        Arch::Arm64 => {
            rom[..TRIAL_ARM64.len()].copy_from_slice(TRIAL_ARM64);
            ("virt", &[], rom, 0)
        }
    }
}

/// Starts QEMU. The kernel ends it when this program dies, however it dies (prctl(2), `PR_SET_PDEATHSIG`).
pub(super) fn spawn(command: &mut Command) -> io::Result<Child> {
    #[cfg(target_os = "linux")]
    end_with_this_program(command);
    command.spawn()
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "what runs between fork and exec must be async-signal-safe, which nobody checks")]
fn end_with_this_program(command: &mut Command) {
    use rustix::process::{Signal, set_parent_process_death_signal};
    use std::os::unix::process::CommandExt;
    // SAFETY: one system call with plain values; nothing is allocated or locked.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?)) };
}

/// Returns why a machine with this accelerator does not run, if it does not.
pub(super) fn works(program: &Path, arch: Arch, secure_boot: bool, accelerator: Accelerator) -> Result<(), String> {
    if accelerator == Accelerator::Kvm {
        let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
        device.map_err(|error| format!("/dev/kvm: {error}"))?;
    }
    let cpu = if accelerator == Accelerator::Tcg { "max" } else { "host" };
    let (machine, more, rom, expected) = trial(arch, secure_boot);
    let mut file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    file.write_all(&rom).map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command
        .args(["-accel", accelerator.name(), "-machine", machine, "-cpu", cpu, "-m", "64M"])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(more)
        .arg("-bios")
        .arg(file.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = spawn(&mut command).map_err(|error| error.to_string())?;
    let message = child.stderr.take().map(collect);
    let status = wait_until(&mut child, Instant::now() + TRIAL).map_err(|error| error.to_string())?;
    if status.is_some_and(|status| status.code() == Some(expected)) {
        return Ok(());
    }
    let ended = match status {
        Some(status) => status.to_string(),
        None => {
            let _ = child.kill();
            let _ = child.wait();
            format!("a machine does not run in {} s", TRIAL.as_secs())
        }
    };
    let message = message.and_then(|message| message.recv().ok()).unwrap_or_default();
    Err(message.lines().next().map_or(ended, str::to_owned))
}

/// Waits for a child until `deadline`; `None` when it still runs then.
fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads a stream to its end on another thread and sends the last of it.
pub(super) fn collect(mut stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            text.extend(&buffer[..count]);
            let excess = text.len().saturating_sub(MESSAGE_LIMIT);
            text.drain(..excess);
        }
        // Nobody may be waiting for it any more.
        let _ = sender.send(String::from_utf8_lossy(&text).trim().to_owned());
    });
    receiver
}

/// Reads a stream on another thread and sends every piece.
pub(super) fn pieces(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = crossbeam_channel::bounded(64);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// A running QEMU. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) child: Child,
    pub(super) work: WorkDirectory,
    persist: bool,
}

/// Following a guest failed.
#[derive(Debug)]
pub(super) enum FollowError {
    /// The serial output could not be passed on.
    Sink(io::Error),
    /// QEMU could not be waited for.
    Wait(io::Error),
    /// The kubeconfig could not be written.
    Kubeconfig(Box<RunError>),
}

impl Guest {
    pub(super) fn new(child: Child, work: WorkDirectory, persist: bool) -> Self {
        Guest { child, work, persist }
    }

    /// Passes serial output on until something decides the outcome.
    pub(super) fn follow(
        &mut self,
        until: &Until,
        deadline: Option<(Instant, Duration)>,
        mut kubeconfig: Option<&mut Fetch>,
        serial: &mut dyn Write,
    ) -> Result<Outcome, FollowError> {
        let messages = self.child.stderr.take().map(collect);
        let Some(output) = self.child.stdout.take().map(pieces) else { return self.ended(messages) };
        let mut watcher = match until {
            Until::Line(text) => Watcher::for_line(text),
            Until::Exit | Until::Ready => Watcher::default(),
        };
        let mut degraded = Vec::new();
        let mut started = false;
        loop {
            let piece = match deadline {
                Some((deadline, _)) => output.recv_deadline(deadline),
                None => output.recv().map_err(RecvTimeoutError::from),
            };
            let piece = match (piece, deadline) {
                (Ok(piece), _) => piece,
                (Err(RecvTimeoutError::Timeout), Some((_, after))) => {
                    self.stop(self.persist, &output, serial)?;
                    return Ok(Outcome::Timeout { after, last_line: watcher.last_line(), degraded });
                }
                (Err(_), _) => return self.ended(messages),
            };
            if !started {
                started = true;
                self.work.release();
            }
            serial.write_all(&piece).and_then(|()| serial.flush()).map_err(FollowError::Sink)?;
            for event in watcher.feed(&piece) {
                let outcome = match event {
                    Event::Degraded(reason) => {
                        degraded.push(reason);
                        continue;
                    }
                    Event::Ready(fields) => Outcome::Ready { fields, degraded: degraded.clone() },
                    Event::Emergency(reason) => Outcome::Emergency { reason },
                    Event::Panic(line) => Outcome::Panic { line },
                    Event::NoBoot(line) => Outcome::NoBoot { line },
                    Event::Line(line) => Outcome::Line(line),
                };
                if let (Some(fetch), Outcome::Ready { .. }) = (&mut kubeconfig, &outcome) {
                    let limit = if *until == Until::Ready { KUBECONFIG } else { Duration::ZERO };
                    fetch.wait(limit).map_err(|error| FollowError::Kubeconfig(Box::new(error)))?;
                }
                let ends = match until {
                    Until::Exit => false,
                    Until::Ready => true,
                    Until::Line(_) => {
                        matches!(outcome, Outcome::Line(_) | Outcome::Panic { .. } | Outcome::NoBoot { .. })
                    }
                };
                if ends {
                    // Only a node that runs hears the power button.
                    let shut_down = self.persist && matches!(outcome, Outcome::Ready { .. } | Outcome::Line(_));
                    self.stop(shut_down, &output, serial)?;
                    return Ok(outcome);
                }
            }
        }
    }

    /// Waits for a QEMU that has closed its output.
    pub(super) fn ended(&mut self, messages: Option<Receiver<String>>) -> Result<Outcome, FollowError> {
        let status = self.child.wait().map_err(FollowError::Wait)?;
        let message = messages.and_then(|messages| messages.recv().ok()).unwrap_or_default();
        Ok(Outcome::QemuExit { status: status.code(), message })
    }

    /// Ends QEMU. To shut the guest down first, the power button is pressed, output still being passed on.
    fn stop(&mut self, shut_down: bool, output: &Receiver<Vec<u8>>, serial: &mut dyn Write) -> Result<(), FollowError> {
        let deadline = Instant::now() + SHUTDOWN;
        let mut over = !shut_down;
        while !over && Instant::now() < deadline && power_button(&self.work.monitor).is_ok() {
            let next = Instant::now() + PRESS;
            over = loop {
                match output.recv_deadline(next) {
                    Ok(piece) => {
                        serial.write_all(&piece).and_then(|()| serial.flush()).map_err(FollowError::Sink)?;
                    }
                    Err(error) => break error == RecvTimeoutError::Disconnected,
                }
            };
        }
        if wait_until(&mut self.child, Instant::now()).map_err(FollowError::Wait)?.is_none() {
            self.end();
        }
        Ok(())
    }

    /// Asks QEMU to end, which flushes its disks, and kills it when it does not.
    fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // Both fail only when the process has just ended.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        if !matches!(wait_until(&mut self.child, Instant::now() + Duration::from_secs(5)), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

/// Presses the power button.
pub(super) fn power_button(monitor: &Path) -> io::Result<()> {
    command(monitor, "system_powerdown")
}

/// Gives a command of the machine protocol that has no arguments (QEMU "QMP Reference Manual").
pub(super) fn command(monitor: &Path, name: &str) -> io::Result<()> {
    let mut stream = UnixStream::connect(monitor)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("{{\"execute\":\"qmp_capabilities\"}}\n{{\"execute\":\"{name}\"}}\n").as_bytes())?;
    // QEMU drops what it has not read when the connection goes: wait for both answers.
    let mut answers: Vec<u8> = Vec::new();
    let mut buffer = [0; 1024];
    while answers.windows(8).filter(|window| *window == b"\"return\"").count() < 2 && answers.len() < 64 << 10 {
        match stream.read(&mut buffer)? {
            0 => break,
            count => answers.extend(&buffer[..count]),
        }
    }
    Ok(())
}
