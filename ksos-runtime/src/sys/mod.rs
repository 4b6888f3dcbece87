//! What the runtime asks of the machine: one trait, passed in.
//!
//! [`Sys`] is implemented by [`linux::Linux`] (the only place with `unsafe` code and raw system calls) and, in
//! tests, by `double::Double`, which keeps files below a temporary directory and records everything else.
//! Methods do one thing each and report failures as [`Error`]: the action, its object, and the kernel's reason.
//! Reads have size limits. Nothing here retries or decides.

mod below;
mod block;
#[cfg(any(test, feature = "double"))]
pub mod double;
mod files;
pub mod linux;
pub mod net;
mod process;
mod uevent;
mod wake;
mod watchdog;

use std::collections::BTreeMap;
use std::fmt;

use ksos_formats::boot::Verity;

pub use uevent::Uevent;

/// Largest text file that the runtime reads whole: configuration, `/proc` and `/sys` files, `modules.alias`.
pub const TEXT_LIMIT: u64 = 16 << 20;

/// A failed action on the machine.
#[derive(Debug, thiserror::Error)]
#[error("{action} {object}: {source}")]
pub struct Error {
    /// What was tried, e.g. `mount`.
    pub action: &'static str,
    /// What it was tried on, normally a path.
    pub object: String,
    /// The reason.
    pub source: std::io::Error,
}

impl Error {
    /// Returns an error of `action` on `object`.
    pub fn new(action: &'static str, object: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Error { action, object: object.into(), source: source.into() }
    }

    /// Returns an error whose reason is a sentence of ours rather than the kernel's.
    pub fn stated(action: &'static str, object: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::new(action, object, std::io::Error::other(reason.into()))
    }

    /// Returns whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::NotFound
    }

    /// Returns whether there is no room left for what was to be written.
    pub fn is_full(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
    }

    /// Returns whether the medium does not give back what was written: EIO, what ext4 says of wrong checksums and
    /// structures (EBADMSG, EUCLEAN), or a file that is larger than any of its kind.
    pub fn is_damage(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::EIO | libc::EBADMSG | libc::EUCLEAN))
            || self.source.kind() == std::io::ErrorKind::FileTooLarge
    }

    /// Returns whether the object is on a read-only file system.
    pub fn is_read_only(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EROFS)
    }
}

/// Result of an action on the machine.
pub type Result<T> = std::result::Result<T, Error>;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// Returns whether the process ended with status 0.
    pub fn success(self) -> bool {
        self == Exit::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit status {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A process id.
pub type Pid = i32;

/// The signals that the runtime sends and receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: to a service, end; to PID 1, restart the machine.
    Term,
    /// SIGKILL.
    Kill,
    /// SIGINT: Ctrl-Alt-Del was pressed.
    Int,
    /// SIGUSR1: to PID 1, halt.
    Usr1,
    /// SIGUSR2: to PID 1, power off.
    Usr2,
}

/// How the machine goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// Restart.
    Reboot,
    /// Power off.
    PowerOff,
    /// Stop the processors and leave the power on.
    Halt,
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Down::Reboot => "reboot",
            Down::PowerOff => "poweroff",
            Down::Halt => "halt",
        })
    }
}

/// Mount flags that the runtime uses (mount(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountFlags {
    /// `MS_RDONLY`.
    pub read_only: bool,
    /// `MS_NOSUID`.
    pub no_suid: bool,
    /// `MS_NODEV`.
    pub no_dev: bool,
    /// `MS_NOEXEC`.
    pub no_exec: bool,
    /// `MS_NOATIME`.
    pub no_atime: bool,
}

/// One file system to mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Device or a name for it.
    pub source: &'a str,
    /// Where it appears.
    pub target: &'a str,
    /// File system type.
    pub kind: &'a str,
    /// Flags.
    pub flags: MountFlags,
    /// Options of the file system, comma-separated.
    pub options: &'a str,
}

/// A process to start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    /// Executable path and arguments; the first must be absolute.
    pub arguments: Vec<String>,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
    /// Working directory.
    pub directory: Option<String>,
    /// cgroup directory that the process joins before it runs.
    pub cgroup: Option<String>,
    /// `oom_score_adj`.
    pub oom_score_adjust: Option<i32>,
    /// RLIMIT_NOFILE, RLIMIT_NPROC and RLIMIT_CORE.
    pub limits: Limits,
    /// AppArmor profile that it is confined by from its first instruction on. It does not start without.
    pub apparmor: Option<String>,
    /// Where its standard streams go.
    pub streams: Streams,
}

/// Resource limits, soft and hard alike; `None` leaves what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// RLIMIT_NOFILE.
    pub nofile: Option<u64>,
    /// RLIMIT_NPROC.
    pub nproc: Option<u64>,
    /// RLIMIT_CORE.
    pub core: Option<u64>,
}

/// Where the standard streams of a process go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Streams {
    /// Input and output are `/dev/null`.
    #[default]
    Null,
    /// Input is `/dev/null`; output arrives as [`Wake::Output`] under this name.
    Captured(String),
    /// This terminal, as the controlling terminal of a new session.
    Terminal(String),
}

/// Something that PID 1 was waiting for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// A child may have ended; ask [`Sys::reap`].
    Child,
    /// A signal arrived.
    Signal(Signal),
    /// Output of a process that was started with [`Streams::Captured`].
    Output {
        /// The name given there.
        name: String,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The kernel announced a device.
    Uevent(Uevent),
    /// The power button was pressed.
    PowerButton,
}

/// How a module file was taken by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// It is loaded now.
    New,
    /// It was loaded before.
    Already,
}

/// A loop device to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopFile<'a> {
    /// The file, which is only read.
    pub path: &'a str,
    /// Whether to bypass the page cache of the file, where the file system can.
    pub direct: bool,
}

/// A file to place below a directory that may hold links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedFile<'a> {
    /// Directory that the file stays below, absolute. Links on the way to this directory are followed.
    pub tree: &'a str,
    /// Absolute path below `tree`. Links on the way from `tree` are refused.
    pub path: &'a str,
    /// Content.
    pub bytes: &'a [u8],
    /// Permission bits.
    pub mode: u32,
    /// User and group; `None` leaves the caller's.
    pub owner: Option<(u32, u32)>,
}

/// A block device or a disk image that is read and written by byte offset.
pub trait Disk {
    /// Fills `buffer` from `offset`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
    /// Writes `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Makes what was written durable.
    fn flush(&self) -> Result<()>;
    /// Fills `buffer` from `offset` past the page cache: what the medium has. Both are whole sectors.
    fn read_direct(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
    /// Writes whole sectors at `offset` by one request past the page cache; returns when they are durable.
    fn write_direct(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Size in bytes.
    fn size(&self) -> u64;
    /// Logical sector size in bytes.
    fn sector_size(&self) -> u64;
    /// Has what was written of `length` bytes at `offset` on its way to the medium; with `wait`, there. Flushes nothing
    /// that the medium itself holds back.
    fn write_out(&self, offset: u64, length: u64, wait: bool) -> Result<()> {
        let _ = (offset, length, wait);
        Ok(())
    }
    /// Drops what is cached of `length` bytes at `offset` and is on the medium: the next read is of the medium.
    fn forget(&self, offset: u64, length: u64) -> Result<()> {
        let _ = (offset, length);
        Ok(())
    }
}

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Its size.
    pub total: u64,
    /// What is free for everybody but root.
    pub available: u64,
    /// What is free for root.
    pub free: u64,
}

/// An open watchdog device (kernel `Documentation/watchdog/watchdog-api.rst`): unless it is fed within its timeout, the
/// machine restarts. Closing it without [`Watchdog::disarm`] leaves it running.
pub trait Watchdog {
    /// The driver's name for it.
    fn identity(&self) -> &str;
    /// Its timeout in seconds, as the driver has rounded it.
    fn timeout_s(&self) -> u32;
    /// Starts the timeout anew.
    fn feed(&self) -> Result<()>;
    /// Makes closing it stop it ("magic close"). A driver with `nowayout` takes no notice.
    fn disarm(&self) -> Result<()>;
}
/// Writes the standard input of a program.
pub type Feed<'a> = dyn FnMut(&mut dyn std::io::Write) -> std::io::Result<()> + 'a;

/// What the runtime asks of the machine.
pub trait Sys {
    // Files.

    /// Reads a file of at most `limit` bytes.
    fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>>;
    /// Writes to an existing file in one call, as `/proc` and `/sys` want it.
    fn write(&self, path: &str, bytes: &[u8]) -> Result<()>;
    /// Replaces a file: temporary file in the same directory, fsync, rename.
    fn replace(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()>;
    /// Like [`Sys::replace`], without waiting until it is durable: for seconds a power cut leaves the content of before. On
    /// ext4 there is nothing else that it can leave (ext4(5), `auto_da_alloc`).
    fn replace_soon(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()>;
    /// Appends to a file, creating it, and returns its new size in bytes.
    fn append(&self, path: &str, bytes: &[u8]) -> Result<u64>;
    /// Renames a file.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> Result<()>;
    /// Names in a directory, sorted.
    fn list(&self, path: &str) -> Result<Vec<String>>;
    /// Creates a directory and its parents (0755); sets `mode` when it was created.
    fn make_directory(&self, path: &str, mode: u32) -> Result<()>;
    /// Sets permission bits.
    fn set_mode(&self, path: &str, mode: u32) -> Result<()>;
    /// Creates a symbolic link, replacing nothing.
    fn symlink(&self, target: &str, path: &str) -> Result<()>;
    /// What is at `path`, links followed.
    fn kind(&self, path: &str) -> Option<FileKind>;
    /// Whether `path` itself is a symbolic link.
    fn is_link(&self, path: &str) -> bool;
    /// Size in bytes of a regular file.
    fn file_size(&self, path: &str) -> Result<u64>;
    /// Copies a directory tree (files, directories, links; modes and owners) to a path that does not exist.
    fn copy_tree(&self, from: &str, to: &str) -> Result<()>;
    /// Removes a directory tree, as far as it is on one file system; nothing there is no failure.
    fn remove_tree(&self, path: &str) -> Result<()>;
    /// Copies a file while hashing it; returns the SHA-256 digest of what was read.
    fn copy_hashed(&self, from: &str, to: &str) -> Result<ksos_formats::Digest>;
    /// Reads a regular file of at most `limit` bytes below `tree`, following no link.
    fn read_below(&self, tree: &str, path: &str, limit: u64) -> Result<Vec<u8>>;
    /// Places a file, and directories on the way to it, following no link; replaces as [`Sys::replace`] does.
    fn place(&self, file: &PlacedFile<'_>) -> Result<()>;
    /// Removes everything on the file system that `/` is on, when that is an initramfs.
    fn delete_initramfs(&self) -> Result<()>;

    // Mounts.

    /// Mounts a file system.
    fn mount(&self, mount: &Mount<'_>) -> Result<()>;
    /// Binds `source` to `target`.
    fn bind(&self, source: &str, target: &str) -> Result<()>;
    /// Moves a mount.
    fn move_mount(&self, source: &str, target: &str) -> Result<()>;
    /// Makes a mount and all below it shared.
    fn make_shared(&self, path: &str) -> Result<()>;
    /// Unmounts, never lazily.
    fn unmount(&self, path: &str) -> Result<()>;
    /// Makes a mount's file system read-only.
    fn remount_read_only(&self, path: &str) -> Result<()>;
    /// Sets the flags of one mount, whatever those of the same file system elsewhere are (`read_only` included; the
    /// mode of access times stays).
    fn set_mount_flags(&self, path: &str, flags: MountFlags) -> Result<()>;
    /// Room on the file system of `path` (statvfs(3)).
    fn space(&self, path: &str) -> Result<Space>;
    /// Makes `path` the root directory.
    fn switch_root(&self, path: &str) -> Result<()>;
    /// Flushes all file systems.
    fn sync(&self);
    /// Inodes of the file system of `path`, and how many of them are free (statvfs(3)); 0 where it has no fixed number.
    fn inodes(&self, path: &str) -> Result<(u64, u64)>;

    // Block devices.

    /// Opens a disk; `writable` also for writing.
    fn open_disk(&self, path: &str, writable: bool) -> Result<Box<dyn Disk>>;
    /// Tells the kernel of a partition it does not know.
    fn add_partition(&self, disk: &str, number: u32, start: u64, length: u64) -> Result<()>;
    /// Tells the kernel the new length in bytes of a partition that may be in use.
    fn resize_partition(&self, disk: &str, number: u32, start: u64, length: u64) -> Result<()>;
    /// Attaches a file to a free loop device; returns the device's path.
    fn attach_loop(&self, file: &LoopFile<'_>) -> Result<String>;
    /// Creates the read-only dm-verity device `name` over `device`; returns its path.
    fn create_verity(&self, name: &str, device: &str, verity: &Verity) -> Result<String>;
    /// Grows the mounted ext4 file system at `path` to `blocks` file system blocks.
    fn resize_ext4(&self, path: &str, blocks: u64) -> Result<()>;

    // Kernel.

    /// Loads a module file with `parameters`.
    fn load_module(&self, path: &str, parameters: &str) -> Result<Loaded>;
    /// Removes a module.
    fn unload_module(&self, name: &str) -> Result<()>;
    /// Kernel release (`uname -r`).
    fn kernel_release(&self) -> String;
    /// Sets the host name.
    fn set_hostname(&self, name: &str) -> Result<()>;
    /// Brings the loopback interface up.
    fn loopback_up(&self) -> Result<()>;
    /// Milliseconds since the kernel started.
    fn uptime_ms(&self) -> u64;
    /// Wall-clock seconds since 1970.
    fn wall_clock(&self) -> u64;
    /// Sets the wall clock to `seconds` since 1970.
    fn set_wall_clock(&self, seconds: u64) -> Result<()>;
    /// Wall-clock nanoseconds since 1970.
    fn wall_clock_ns(&self) -> i128;
    /// Moves the wall clock by `offset_ns` at once.
    fn step_clock(&self, offset_ns: i128) -> Result<()>;
    /// Lets the wall clock make up `offset_us` little by little, and tells the kernel that it is right within `error_us`.
    fn slew_clock(&self, offset_us: i64, error_us: i64) -> Result<()>;
    /// Fills `bytes` with randomness.
    fn random(&self, bytes: &mut [u8]) -> Result<()>;
    /// Makes Ctrl-Alt-Del a SIGINT to PID 1.
    fn disable_ctrl_alt_del(&self) -> Result<()>;
    /// Opens and thereby starts a watchdog device with a timeout of `seconds`, or its own if it refuses that one.
    fn open_watchdog(&self, path: &str, seconds: u32) -> Result<Box<dyn Watchdog>>;
    /// Lowers what the kernel itself prints on consoles to `level` and what is more urgent (syslog(2) action 8).
    fn set_console_level(&self, level: u8) -> Result<()>;
    /// Takes the machine down. Returns only on failure.
    fn go_down(&self, down: Down) -> Error;

    // Processes.

    /// Starts a process in its own session.
    fn spawn(&self, command: &Command) -> Result<Pid>;
    /// Runs a program to its end; returns how it ended and the end of its output. Other children are kept for
    /// [`Sys::reap`].
    fn run(&self, arguments: &[&str]) -> Result<(Exit, String)>;
    /// Like [`Sys::run`], with what `feed` writes as the program's standard input. A program that ends before it has
    /// read everything is no failure of this call: its exit status says what happened.
    fn run_fed(&self, arguments: &[&str], feed: &mut Feed<'_>) -> Result<(Exit, String)>;
    /// Opens a file for reading from its start to its end, however large it is.
    fn open_read(&self, path: &str) -> Result<Box<dyn std::io::Read>>;
    /// Takes one ended child, if there is one.
    fn reap(&self) -> Option<(Pid, Exit)>;
    /// Signals a process.
    fn signal(&self, pid: Pid, signal: Signal) -> Result<()>;
    /// Signals all processes except PID 1.
    fn signal_all(&self, signal: Signal) -> Result<()>;
    /// Replaces this process.
    fn exec(&self, arguments: &[&str]) -> Error;
    /// Whether a stream connection to a Unix socket succeeds at once.
    fn connect_socket(&self, path: &str) -> bool;
    /// Whether a TCP connection to 127.0.0.1 succeeds at once.
    fn connect_tcp(&self, port: u16) -> bool;

    // Console and waiting.

    /// Points the standard streams at `/dev/console`, or at `/dev/null` when there is none.
    fn open_console(&self);
    /// Writes to one terminal; gives up after a second when it takes nothing.
    fn write_terminal(&self, path: &str, bytes: &[u8]) -> Result<()>;
    /// Starts listening for what [`Sys::wait`] reports.
    fn listen(&self) -> Result<()>;
    /// Also listens for power buttons among the input devices there are now.
    fn watch_power_buttons(&self);
    /// Waits until something happens or `timeout_ms` has passed; `None` waits for ever.
    fn wait(&self, timeout_ms: Option<u64>) -> Vec<Wake>;
    /// Sleeps.
    fn sleep_ms(&self, milliseconds: u64);
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Anything else.
    Other,
}

/// Reads a text file of at most [`TEXT_LIMIT`] bytes, invalid UTF-8 replaced.
pub fn read_text(sys: &dyn Sys, path: &str) -> Result<String> {
    Ok(String::from_utf8_lossy(&sys.read(path, TEXT_LIMIT)?).into_owned())
}

/// Reads a one-line text file without its line end; `None` if it cannot be read.
pub fn read_line(sys: &dyn Sys, path: &str) -> Option<String> {
    read_text(sys, path).ok().map(|text| text.trim().to_owned())
}
