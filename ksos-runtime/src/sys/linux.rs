//! The real machine.

#![expect(unsafe_code, reason = "a few system calls have no safe form in rustix")]
#![expect(clippy::disallowed_methods, reason = "`sys` is where the runtime touches files and clocks")]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use ksos_formats::Digest;
use ksos_formats::boot::Verity;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::Timespec as FileTime;
use rustix::mount::{MountFlags as Flags, MountPropagationFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Signal as KernelSignal, WaitOptions};
use rustix::system::RebootCommand;
use rustix::time::ClockId;

use super::files::{Files, delete_below};
use super::wake::Sources;
use super::{
    Command, Disk, Down, Error, Exit, Feed, FileKind, Loaded, LoopFile, Mount, MountFlags, Pid, PlacedFile, Result,
    Signal, Space, Streams, Sys, Wake, Watchdog, block, process, watchdog,
};

/// `MODULE_INIT_COMPRESSED_FILE` (`include/uapi/linux/module.h`).
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;
/// File system types that an initramfs is unpacked to (`include/uapi/linux/magic.h`).
const INITRAMFS_TYPES: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// The real machine.
#[derive(Debug)]
pub struct Linux {
    files: Files,
    sources: Sources,
}

impl Default for Linux {
    fn default() -> Self {
        Linux { files: Files::below("/"), sources: Sources::default() }
    }
}

impl Linux {
    /// Returns access to the machine. Nothing is opened yet.
    pub fn new() -> Self {
        Self::default()
    }
}

fn kernel_flags(flags: MountFlags) -> Flags {
    let MountFlags { read_only, no_suid, no_dev, no_exec, no_atime } = flags;
    let pairs = [
        (read_only, Flags::RDONLY),
        (no_suid, Flags::NOSUID),
        (no_dev, Flags::NODEV),
        (no_exec, Flags::NOEXEC),
        (no_atime, Flags::NOATIME),
    ];
    pairs.into_iter().filter(|(set, _)| *set).fold(Flags::empty(), |all, (_, flag)| all | flag)
}

fn kernel_signal(signal: Signal) -> KernelSignal {
    match signal {
        Signal::Term => KernelSignal::TERM,
        Signal::Kill => KernelSignal::KILL,
        Signal::Int => KernelSignal::INT,
        Signal::Usr1 => KernelSignal::USR1,
        Signal::Usr2 => KernelSignal::USR2,
    }
}

fn text(action: &'static str, value: &str) -> Result<CString> {
    CString::new(value).map_err(|_| Error::stated(action, value, "the text holds a zero byte"))
}

impl Sys for Linux {
    fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        self.files.read(path, limit)
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.files.write(path, bytes)
    }

    fn replace(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.files.replace(path, bytes, mode)
    }

    fn replace_soon(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.files.replace_soon(path, bytes, mode)
    }

    fn append(&self, path: &str, bytes: &[u8]) -> Result<u64> {
        self.files.append(path, bytes)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.files.remove(path)
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        self.files.list(path)
    }

    fn make_directory(&self, path: &str, mode: u32) -> Result<()> {
        self.files.make_directory(path, mode)
    }

    fn set_mode(&self, path: &str, mode: u32) -> Result<()> {
        self.files.set_mode(path, mode)
    }

    fn symlink(&self, target: &str, path: &str) -> Result<()> {
        self.files.symlink(target, path)
    }

    fn kind(&self, path: &str) -> Option<FileKind> {
        self.files.kind(path)
    }

    fn is_link(&self, path: &str) -> bool {
        self.files.is_link(path)
    }

    fn file_size(&self, path: &str) -> Result<u64> {
        Ok(self.files.metadata(path)?.len())
    }

    fn copy_tree(&self, from: &str, to: &str) -> Result<()> {
        self.files.copy_tree(from, to)
    }

    fn remove_tree(&self, path: &str) -> Result<()> {
        self.files.remove_tree(path)
    }

    fn copy_hashed(&self, from: &str, to: &str) -> Result<Digest> {
        self.files.copy_hashed(from, to)
    }

    fn read_below(&self, tree: &str, path: &str, limit: u64) -> Result<Vec<u8>> {
        self.files.read_below(tree, path, limit)
    }

    fn place(&self, file: &PlacedFile<'_>) -> Result<()> {
        self.files.place(file)
    }

    fn delete_initramfs(&self) -> Result<()> {
        let failed = |source: io::Error| Error::new("delete", "the initramfs", source);
        let kind = rustix::fs::statfs("/").map_err(|error| failed(error.into()))?.f_type;
        if !INITRAMFS_TYPES.contains(&(kind as i64)) {
            return Err(Error::stated("delete", "the initramfs", format!("/ has file system type {kind:#x}")));
        }
        let device = std::fs::metadata("/").map_err(failed)?.dev();
        delete_below(Path::new("/"), device, 0);
        Ok(())
    }

    fn mount(&self, mount: &Mount<'_>) -> Result<()> {
        let Mount { source, target, kind, flags, options } = *mount;
        let data = text("mount", options)?;
        rustix::mount::mount(source, target, kind, kernel_flags(flags), data.as_c_str())
            .map_err(|error| Error::new("mount", format!("{source} ({kind}) on {target}"), error))
    }

    fn bind(&self, source: &str, target: &str) -> Result<()> {
        rustix::mount::mount_bind(source, target)
            .map_err(|error| Error::new("bind", format!("{source} to {target}"), error))
    }

    fn move_mount(&self, source: &str, target: &str) -> Result<()> {
        rustix::mount::mount_move(source, target)
            .map_err(|error| Error::new("move mount", format!("{source} to {target}"), error))
    }

    fn make_shared(&self, path: &str) -> Result<()> {
        let flags = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
        rustix::mount::mount_change(path, flags).map_err(|error| Error::new("share mount", path, error))
    }

    fn unmount(&self, path: &str) -> Result<()> {
        rustix::mount::unmount(path, UnmountFlags::empty()).map_err(|error| Error::new("unmount", path, error))
    }

    fn remount_read_only(&self, path: &str) -> Result<()> {
        rustix::mount::mount_remount(path, Flags::RDONLY, c"")
            .map_err(|error| Error::new("remount read-only", path, error))
    }

    fn set_mount_flags(&self, path: &str, flags: MountFlags) -> Result<()> {
        rustix::mount::mount_remount(path, Flags::BIND | kernel_flags(flags), c"")
            .map_err(|error| Error::new("set mount flags of", path, error))
    }

    fn space(&self, path: &str) -> Result<Space> {
        let facts = rustix::fs::statvfs(path).map_err(|error| Error::new("ask for room on", path, error))?;
        let bytes = |blocks: u64| blocks.saturating_mul(facts.f_frsize);
        Ok(Space { total: bytes(facts.f_blocks), available: bytes(facts.f_bavail), free: bytes(facts.f_bfree) })
    }

    fn switch_root(&self, path: &str) -> Result<()> {
        let switch = || {
            rustix::process::chdir(path)?;
            rustix::mount::mount_move(".", "/")?;
            rustix::process::chroot(".")?;
            rustix::process::chdir("/")
        };
        switch().map_err(|error| Error::new("switch root to", path, error))
    }

    fn sync(&self) {
        rustix::fs::sync();
    }

    fn inodes(&self, path: &str) -> Result<(u64, u64)> {
        let facts = rustix::fs::statvfs(path).map_err(|error| Error::new("ask for inodes on", path, error))?;
        Ok((facts.f_files, facts.f_ffree))
    }

    fn open_disk(&self, path: &str, writable: bool) -> Result<Box<dyn Disk>> {
        block::open_disk(path, writable)
    }

    fn add_partition(&self, disk: &str, number: u32, start: u64, length: u64) -> Result<()> {
        block::add_partition(disk, number, start, length)
    }

    fn resize_partition(&self, disk: &str, number: u32, start: u64, length: u64) -> Result<()> {
        block::resize_partition(disk, number, start, length)
    }

    fn attach_loop(&self, file: &LoopFile<'_>) -> Result<String> {
        block::attach_loop(file)
    }

    fn create_verity(&self, name: &str, device: &str, verity: &Verity) -> Result<String> {
        block::create_verity(name, device, verity)
    }

    fn resize_ext4(&self, path: &str, blocks: u64) -> Result<()> {
        block::resize_ext4(path, blocks)
    }

    fn load_module(&self, path: &str, parameters: &str) -> Result<Loaded> {
        let file = File::open(path).map_err(|source| Error::new("load module", path, source))?;
        let compressed = [".xz", ".zst", ".gz"].iter().any(|suffix| path.ends_with(suffix));
        let flags = if compressed { MODULE_INIT_COMPRESSED_FILE } else { 0 };
        match rustix::system::finit_module(&file, &text("load module", parameters)?, flags) {
            Ok(()) => Ok(Loaded::New),
            Err(rustix::io::Errno::EXIST) => Ok(Loaded::Already),
            Err(error) => Err(Error::new("load module", path, error)),
        }
    }

    fn unload_module(&self, name: &str) -> Result<()> {
        rustix::system::delete_module(&text("remove module", name)?, libc::O_NONBLOCK)
            .map_err(|error| Error::new("remove module", name, error))
    }

    fn kernel_release(&self) -> String {
        rustix::system::uname().release().to_string_lossy().into_owned()
    }

    fn set_hostname(&self, name: &str) -> Result<()> {
        rustix::system::sethostname(name.as_bytes()).map_err(|error| Error::new("set host name to", name, error))
    }

    fn loopback_up(&self) -> Result<()> {
        loopback_up().map_err(|source| Error::new("bring up", "lo", source))
    }

    fn uptime_ms(&self) -> u64 {
        let now = rustix::time::clock_gettime(ClockId::Boottime);
        u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
    }

    fn wall_clock(&self) -> u64 {
        u64::try_from(rustix::time::clock_gettime(ClockId::Realtime).tv_sec).unwrap_or(0)
    }

    fn set_wall_clock(&self, seconds: u64) -> Result<()> {
        let time = FileTime { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 };
        rustix::time::clock_settime(ClockId::Realtime, time)
            .map_err(|error| Error::new("set clock to", seconds.to_string(), error))
    }

    fn wall_clock_ns(&self) -> i128 {
        let now = rustix::time::clock_gettime(ClockId::Realtime);
        i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
    }

    fn step_clock(&self, offset_ns: i128) -> Result<()> {
        let target = self.wall_clock_ns() + offset_ns;
        let seconds = i64::try_from(target.div_euclid(1_000_000_000)).unwrap_or(i64::MAX);
        let time = FileTime { tv_sec: seconds, tv_nsec: target.rem_euclid(1_000_000_000) as i64 };
        rustix::time::clock_settime(ClockId::Realtime, time).map_err(|error| Error::new("move", "clock", error))
    }

    fn slew_clock(&self, offset_us: i64, error_us: i64) -> Result<()> {
        super::net::slew_clock(offset_us, error_us).map_err(|error| Error::new("steer", "clock", error))
    }

    fn random(&self, bytes: &mut [u8]) -> Result<()> {
        let length = bytes.len();
        let got = rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty());
        match got {
            Ok(count) if count == length => Ok(()),
            Ok(count) => Err(Error::stated("read", "random numbers", format!("{count} of {length} bytes"))),
            Err(error) => Err(Error::new("read", "random numbers", error)),
        }
    }

    fn disable_ctrl_alt_del(&self) -> Result<()> {
        rustix::system::reboot(RebootCommand::CadOff).map_err(|error| Error::new("disable", "Ctrl-Alt-Del", error))
    }

    fn open_watchdog(&self, path: &str, seconds: u32) -> Result<Box<dyn Watchdog>> {
        watchdog::open(path, seconds)
    }

    fn set_console_level(&self, level: u8) -> Result<()> {
        // SAFETY: action 8 (SYSLOG_ACTION_CONSOLE_LEVEL) ignores the buffer and takes the level as the length.
        let result = unsafe { libc::klogctl(8, std::ptr::null_mut(), i32::from(level)) };
        if result < 0 {
            return Err(Error::new("set", "console log level", io::Error::last_os_error()));
        }
        Ok(())
    }

    fn go_down(&self, down: Down) -> Error {
        let command = match down {
            Down::Reboot => RebootCommand::Restart,
            Down::PowerOff => RebootCommand::PowerOff,
            Down::Halt => RebootCommand::Halt,
        };
        let source = match rustix::system::reboot(command) {
            Ok(()) => io::Error::other("the kernel returned"),
            Err(error) => error.into(),
        };
        Error::new("take down", "the machine", source)
    }

    fn spawn(&self, command: &Command) -> Result<Pid> {
        let output = match &command.streams {
            Streams::Captured(name) => Some(self.sources.pipe(name)?),
            Streams::Null | Streams::Terminal(_) => None,
        };
        process::spawn(command, output)
    }

    fn run(&self, arguments: &[&str]) -> Result<(Exit, String)> {
        process::run(arguments)
    }

    fn run_fed(&self, arguments: &[&str], feed: &mut Feed<'_>) -> Result<(Exit, String)> {
        process::run_fed(arguments, feed)
    }

    fn open_read(&self, path: &str) -> Result<Box<dyn std::io::Read>> {
        let file = std::fs::File::open(path).map_err(|source| Error::new("open", path, source))?;
        Ok(Box::new(file))
    }

    fn reap(&self) -> Option<(Pid, Exit)> {
        let (pid, status) = rustix::process::wait(WaitOptions::NOHANG).ok().flatten()?;
        let signal = status.terminating_signal().unwrap_or(0);
        Some((pid.as_raw_pid(), status.exit_status().map_or(Exit::Signal(signal), Exit::Code)))
    }

    fn signal(&self, pid: Pid, signal: Signal) -> Result<()> {
        let target = rustix::process::Pid::from_raw(pid).filter(|_| pid > 0);
        let Some(target) = target else {
            return Err(Error::stated("signal", pid.to_string(), "the number is not a process id"));
        };
        rustix::process::kill_process(target, kernel_signal(signal))
            .map_err(|error| Error::new("signal", format!("process {pid}"), error))
    }

    fn signal_all(&self, signal: Signal) -> Result<()> {
        // SAFETY: kill(2) takes integers. -1 is every process but PID 1 and the caller.
        let result = unsafe { libc::kill(-1, kernel_signal(signal).as_raw()) };
        if result < 0 {
            return Err(Error::new("signal", "all processes", io::Error::last_os_error()));
        }
        Ok(())
    }

    fn exec(&self, arguments: &[&str]) -> Error {
        process::exec(arguments)
    }

    fn connect_socket(&self, path: &str) -> bool {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(address) = SocketAddrUnix::new(path) else { return false };
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        socket.is_ok_and(|socket| rustix::net::connect(&socket, &address).is_ok())
    }

    fn connect_tcp(&self, port: u16) -> bool {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        // A connection over loopback is made or refused at once; the limit is for a full backlog.
        std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(50)).is_ok()
    }

    fn open_console(&self) {
        process::open_console();
    }

    fn write_terminal(&self, path: &str, bytes: &[u8]) -> Result<()> {
        write_terminal(path, bytes).map_err(|source| Error::new("write to", path, source))
    }

    fn listen(&self) -> Result<()> {
        self.sources.listen()
    }

    fn watch_power_buttons(&self) {
        self.sources.watch_power_buttons();
    }

    fn wait(&self, timeout_ms: Option<u64>) -> Vec<Wake> {
        self.sources.wait(timeout_ms)
    }

    fn sleep_ms(&self, milliseconds: u64) {
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
    }
}

/// Writes to a terminal without blocking longer than a second at a time: a console without a reader (flow control,
/// a dead management card) must not stop PID 1.
fn write_terminal(path: &str, bytes: &[u8]) -> io::Result<()> {
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(&file, rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or(&[]),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let mut entries = [PollFd::new(&file, PollFlags::OUT)];
                let timeout = Timespec { tv_sec: 1, tv_nsec: 0 };
                if rustix::event::poll(&mut entries, Some(&timeout))? == 0 {
                    return Err(io::Error::from(io::ErrorKind::TimedOut));
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: an ifreq of zeroes is valid; the name is ended by a zero byte, and both requests take a pointer to it.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (target, byte) in request.ifr_name.iter_mut().zip(b"lo") {
            *target = *byte as libc::c_char;
        }
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        if libc::ioctl(fd, libc::SIOCGIFFLAGS as _, &raw mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        if libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &raw mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
