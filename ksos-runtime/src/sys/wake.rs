//! What PID 1 waits on: signals, device announcements, output of services, power buttons. One poll(2), no ticks.

#![expect(unsafe_code, reason = "signalfd(2) has no safe form")]
#![expect(clippy::disallowed_methods, reason = "`sys` is where the runtime opens files")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use super::{Error, Result, Signal, Uevent, Wake};

/// Bytes taken from one pipe per wake-up, so that one noisy service does not starve the others.
const OUTPUT_CHUNK: usize = 16 << 10;
/// Announcements taken per wake-up.
const UEVENTS_PER_WAKE: usize = 64;
/// Size of `struct input_event` on 64-bit Linux (`include/uapi/linux/input.h`).
const INPUT_EVENT: usize = 24;
/// `EV_KEY`, and `KEY_POWER`, pressed (`include/uapi/linux/input-event-codes.h`).
const POWER_PRESSED: (u16, u16, i32) = (1, 116, 1);

/// A pipe that a service writes to. PID 1 keeps both ends: restarts reuse it, and it never reports a hang-up.
#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// The descriptors that PID 1 waits on.
#[derive(Debug, Default)]
pub(super) struct Sources {
    signals: RefCell<Option<OwnedFd>>,
    uevents: RefCell<Option<OwnedFd>>,
    pipes: RefCell<BTreeMap<String, Pipe>>,
    buttons: RefCell<BTreeMap<String, OwnedFd>>,
}

/// Which source a poll entry belongs to.
enum Source {
    Signals,
    Uevents,
    Pipe(String),
    Button(String),
}

impl Sources {
    /// Opens the signal descriptor (once) and the uevent socket (once).
    pub(super) fn listen(&self) -> Result<()> {
        if self.signals.borrow().is_none() {
            let signals = open_signals().map_err(|source| Error::new("open", "signal descriptor", source))?;
            *self.signals.borrow_mut() = Some(signals);
        }
        if self.uevents.borrow().is_none() {
            let uevents = open_uevents().map_err(|source| Error::new("open", "uevent socket", source))?;
            *self.uevents.borrow_mut() = Some(uevents);
        }
        Ok(())
    }

    /// Returns a writing end of the pipe named `name`, creating it.
    pub(super) fn pipe(&self, name: &str) -> Result<OwnedFd> {
        let failed = |source: io::Error| Error::new("open pipe for", name, source);
        let mut pipes = self.pipes.borrow_mut();
        if !pipes.contains_key(name) {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
            // Only the reading end: the writing end is the service's standard output and has to block.
            rustix::io::ioctl_fionbio(&read, true).map_err(|error| failed(error.into()))?;
            pipes.insert(name.to_owned(), Pipe { read, write });
        }
        let pipe = pipes.get(name).ok_or_else(|| failed(io::Error::other("the pipe is gone")))?;
        pipe.write.try_clone().map_err(failed)
    }

    /// Opens the input devices that are not open yet.
    pub(super) fn watch_power_buttons(&self) {
        let Ok(entries) = std::fs::read_dir("/dev/input") else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with("event") || self.buttons.borrow().contains_key(&name) {
                continue;
            }
            let options = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(entry.path());
            if let Ok(file) = options {
                self.buttons.borrow_mut().insert(name, file.into());
            }
        }
    }

    /// Waits for any source, at most `timeout_ms`.
    pub(super) fn wait(&self, timeout_ms: Option<u64>) -> Vec<Wake> {
        let ready = self.poll(timeout_ms);
        let mut wakes = Vec::new();
        for (source, flags) in ready {
            match source {
                Source::Signals => self.read_signals(&mut wakes),
                Source::Uevents => self.read_uevents(&mut wakes),
                Source::Pipe(name) => self.read_pipe(name, &mut wakes),
                Source::Button(name) => self.read_button(&name, flags, &mut wakes),
            }
        }
        wakes
    }

    fn poll(&self, timeout_ms: Option<u64>) -> Vec<(Source, PollFlags)> {
        let (signals, uevents) = (self.signals.borrow(), self.uevents.borrow());
        let (pipes, buttons) = (self.pipes.borrow(), self.buttons.borrow());
        let mut all: Vec<(Source, PollFd<'_>)> = Vec::new();
        let entry = |source, fd| (source, PollFd::new(fd, PollFlags::IN));
        all.extend(signals.iter().map(|fd| entry(Source::Signals, fd)));
        all.extend(uevents.iter().map(|fd| entry(Source::Uevents, fd)));
        all.extend(pipes.iter().map(|(name, pipe)| entry(Source::Pipe(name.clone()), &pipe.read)));
        all.extend(buttons.iter().map(|(name, fd)| entry(Source::Button(name.clone()), fd)));
        let (sources, mut entries): (Vec<Source>, Vec<PollFd<'_>>) = all.into_iter().unzip();
        let timeout = timeout_ms.map(|ms| Timespec {
            tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            tv_nsec: (ms % 1000) as i64 * 1_000_000,
        });
        // An interrupted or failed poll is a wake-up without an event: the caller looks at its timers and waits again.
        if rustix::event::poll(&mut entries, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let ready = sources.into_iter().zip(entries).map(|(source, entry)| (source, entry.revents()));
        ready.filter(|(_, flags)| !flags.is_empty()).collect()
    }

    fn read_signals(&self, wakes: &mut Vec<Wake>) {
        let signals = self.signals.borrow();
        let Some(fd) = signals.as_ref() else { return };
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(fd, &mut record[..]).is_ok_and(|count| count == record.len()) {
            // `ssi_signo` is the first field, a 32-bit number (signalfd(2)).
            let [a, b, c, d, ..] = record;
            let wake = match i32::from_ne_bytes([a, b, c, d]) {
                libc::SIGCHLD => Wake::Child,
                libc::SIGTERM => Wake::Signal(Signal::Term),
                libc::SIGINT => Wake::Signal(Signal::Int),
                libc::SIGUSR1 => Wake::Signal(Signal::Usr1),
                libc::SIGUSR2 => Wake::Signal(Signal::Usr2),
                _ => continue,
            };
            wakes.push(wake);
        }
    }

    fn read_uevents(&self, wakes: &mut Vec<Wake>) {
        let uevents = self.uevents.borrow();
        let Some(fd) = uevents.as_ref() else { return };
        let mut buffer = vec![0; 8 << 10];
        for _ in 0..UEVENTS_PER_WAKE {
            match rustix::net::recvfrom(fd, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, count, Some(sender))) if from_kernel(&sender) => {
                    wakes.extend(buffer.get(..count).and_then(Uevent::parse).map(Wake::Uevent));
                }
                // Messages of processes (`sender` is not the kernel), or lost messages (ENOBUFS): go on.
                Ok(_) | Err(rustix::io::Errno::NOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    fn read_pipe(&self, name: String, wakes: &mut Vec<Wake>) {
        let pipes = self.pipes.borrow();
        let Some(pipe) = pipes.get(&name) else { return };
        let mut bytes = vec![0; OUTPUT_CHUNK];
        if let Ok(count) = rustix::io::read(&pipe.read, &mut bytes[..]) {
            bytes.truncate(count);
            wakes.push(Wake::Output { name, bytes });
        }
    }

    fn read_button(&self, name: &str, flags: PollFlags, wakes: &mut Vec<Wake>) {
        let mut buttons = self.buttons.borrow_mut();
        let Some(fd) = buttons.get(name) else { return };
        let mut records = [0; INPUT_EVENT * 64];
        let result = rustix::io::read(fd, &mut records[..]);
        if let Ok(count) = result {
            let records = records.get(..count).unwrap_or(&[]);
            if records.chunks_exact(INPUT_EVENT).any(|record| input_event(record) == Some(POWER_PRESSED)) {
                wakes.push(Wake::PowerButton);
            }
        }
        // A device that is gone would be reported as ready for ever.
        let gone = flags.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
        if gone || matches!(result, Ok(0) | Err(rustix::io::Errno::NODEV)) {
            buttons.remove(name);
        }
    }
}

/// Reads type, code and value of an input event; the 16 bytes before them are its time.
fn input_event(record: &[u8]) -> Option<(u16, u16, i32)> {
    let (kind, code) = (record.get(16..18)?, record.get(18..20)?);
    let value = record.get(20..24)?;
    Some((
        u16::from_ne_bytes(kind.try_into().ok()?),
        u16::from_ne_bytes(code.try_into().ok()?),
        i32::from_ne_bytes(value.try_into().ok()?),
    ))
}

fn from_kernel(sender: &rustix::net::SocketAddrAny) -> bool {
    SocketAddrNetlink::try_from(sender.clone()).is_ok_and(|address| address.pid() == 0)
}

fn open_signals() -> io::Result<OwnedFd> {
    // SAFETY: `set` is a live signal set, initialised by sigemptyset; the returned descriptor is new and owned by us.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGUSR2] {
            libc::sigaddset(&raw mut set, signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

fn open_uevents() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
    // Room for the burst of a cold start; what is lost all the same is found again by looking.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 1 << 20);
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 1))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_key_records_are_told_from_others() {
        let record = |kind: u16, code: u16, value: i32| {
            let mut bytes = vec![0; 16];
            bytes.extend([kind.to_ne_bytes(), code.to_ne_bytes()].concat());
            bytes.extend(value.to_ne_bytes());
            bytes
        };
        assert_eq!(input_event(&record(1, 116, 1)), Some(POWER_PRESSED));
        assert_ne!(input_event(&record(1, 116, 0)), Some(POWER_PRESSED));
        assert_eq!(input_event(&[0; 23]), None);
    }

    #[test]
    fn output_arrives_under_the_pipes_name() {
        let sources = Sources::default();
        let write = sources.pipe("demo").expect("a pipe");
        rustix::io::write(&write, b"hello\n").expect("written");
        let expected = Wake::Output { name: "demo".to_owned(), bytes: b"hello\n".to_vec() };
        assert_eq!(sources.wait(Some(1000)), [expected]);
        assert_eq!(sources.wait(Some(0)), []);
    }
}
