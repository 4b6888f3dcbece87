//! `run`: boots a disk image in QEMU and follows its serial console.
//!
//! The image is not changed: QEMU gets a sparse copy, grown to the size of a disk, in a temporary directory that is
//! gone afterwards, unless the caller wants changes kept. KVM or HVF is used when it works, which is tried and not
//! assumed; otherwise QEMU emulates, which is slower and can run the other architecture.
//!
//! [`arguments`] and [`firmware`] are pure; [`watch`] turns serial output into what became of the boot.
#![expect(clippy::disallowed_methods, reason = "starts QEMU and looks for its files")]

pub mod arguments;
mod disk;
pub mod firmware;
pub mod kubeconfig;
pub mod live;
mod machine;
pub(in crate::ops) mod request;
pub mod seed;
pub mod watch;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ksos_formats::Arch;

pub use arguments::{Accelerator, Forward, Medium, ParseForwardError};
pub use kubeconfig::KubeconfigRequest;
pub use request::{EdgeOptions, Request, boot};
pub use seed::{Seed, SeedError};
pub use watch::{Event, Watcher};

use crate::effects::fs::FsError;

/// When a run ends, if not by QEMU's own end or the timeout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Until {
    /// When QEMU ends.
    #[default]
    Exit,
    /// As soon as the node says that it is ready, or that it never will be.
    Ready,
    /// As soon as a line on the console holds this text.
    Line(String),
}

/// How to run an image.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Architecture of the image.
    pub arch: Arch,
    /// When to end.
    pub until: Until,
    /// Give up after this time.
    pub timeout: Option<Duration>,
    /// Use firmware that enforces Secure Boot with Microsoft's keys.
    pub secure_boot: bool,
    /// Use QEMU's BIOS and not UEFI firmware.
    pub bios: bool,
    /// The image is an ISO image, and what it is to the machine. It is not changed.
    pub medium: Option<Medium>,
    /// A disk beside the medium, made blank when it does not exist; it keeps its changes.
    pub disk: Option<PathBuf>,
    /// Memory in bytes.
    pub memory: u64,
    /// Number of processors.
    pub processors: u32,
    /// Size of the disk in bytes; an image that is larger keeps its size.
    pub disk_size: u64,
    /// Ports of this host that lead to ports of the guest.
    pub forwards: Vec<Forward>,
    /// Whether the guest has a network card.
    pub network: bool,
    /// The node's configuration, on a volume beside the disk.
    pub seed: Option<Seed>,
    /// The kubeconfig to fetch from the node.
    pub kubeconfig: Option<KubeconfigRequest>,
    /// Further arguments of QEMU, behind all others.
    pub extra: Vec<String>,
    /// Work on the image itself, so that changes stay (and the file grows to `disk_size`, sparse).
    pub persist: bool,
    /// Connect the terminal's input to the serial console; Ctrl-A X ends QEMU.
    pub interactive: bool,
    /// Value of `PATH`: where QEMU is looked for.
    pub search_path: OsString,
    /// Accelerator; `None` takes the best one that works.
    pub accelerator: Option<Accelerator>,
    /// Directory for the temporary copy; `None` takes the system's.
    pub temporary: Option<PathBuf>,
}

impl RunOptions {
    /// Returns the defaults: 1 GiB, 2 processors, an 8 GiB disk, no Secure Boot, until QEMU ends.
    pub fn new(arch: Arch, search_path: OsString) -> Self {
        RunOptions {
            arch,
            until: Until::Exit,
            timeout: None,
            secure_boot: false,
            bios: false,
            medium: None,
            disk: None,
            memory: 1 << 30,
            processors: 2,
            disk_size: 8 << 30,
            forwards: Vec::new(),
            network: true,
            seed: None,
            kubeconfig: None,
            extra: Vec::new(),
            persist: false,
            interactive: false,
            search_path,
            accelerator: None,
            temporary: None,
        }
    }
}

/// QEMU could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// QEMU is not installed.
    #[error(
        "{program} is not in PATH; it is in package {debian} (Debian, Ubuntu), {fedora} (Fedora) or qemu (Homebrew)"
    )]
    NoQemu {
        /// The executable.
        program: &'static str,
        /// Debian's package.
        debian: &'static str,
        /// Fedora's package.
        fedora: &'static str,
    },
    /// No firmware of this kind is installed.
    #[error(
        "no UEFI firmware for {arch}{} was found; it is in package {debian} (Debian, Ubuntu), {fedora} (Fedora) or {homebrew}\nlooked for:\n{}",
        if *secure_boot { " with Microsoft's Secure Boot keys" } else { "" },
        looked_for.iter().map(|path| format!("  {}", path.display())).collect::<Vec<_>>().join("\n")
    )]
    NoFirmware {
        /// Architecture.
        arch: Arch,
        /// Whether Secure Boot was asked for.
        secure_boot: bool,
        /// Debian's package.
        debian: &'static str,
        /// Fedora's package.
        fedora: &'static str,
        /// Homebrew's formula, or that it has none.
        homebrew: &'static str,
        /// Every firmware file that was looked for.
        looked_for: Vec<PathBuf>,
    },
    /// There is no BIOS for this architecture.
    #[error("there is no BIOS for {0}")]
    NoBios(Arch),
    /// The image is not a regular file.
    #[error("{} is not a disk image", .0.display())]
    NotImage(PathBuf),
    /// A path that QEMU's options cannot hold.
    #[error("{} cannot be given to QEMU: the path is not UTF-8", .0.display())]
    Path(PathBuf),
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// QEMU could not be started or waited for.
    #[error("cannot run {}: {source}", program.display())]
    Start {
        /// The executable.
        program: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The serial output could not be passed on.
    #[error("cannot write the serial output: {0}")]
    Sink(std::io::Error),
    /// The volume with the configuration could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Seed {
        /// The volume.
        path: PathBuf,
        /// The cause.
        source: crate::artifact::fat::FatError,
    },
    /// The configuration cannot be completed with what the options say.
    #[error(transparent)]
    Configuration(#[from] SeedError),
    /// The node served something else.
    #[error("what the node serves as kubeconfig names no server; {} was not written", .0.display())]
    Kubeconfig(PathBuf),
}

/// What became of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The node said that it is ready; its fields, and why it is degraded, if it is.
    Ready {
        /// `name=value` of the line, in its order.
        fields: Vec<(String, String)>,
        /// Reasons of `ksos: degraded` lines that came before.
        degraded: Vec<String>,
    },
    /// The node gave up.
    Emergency {
        /// Its reason.
        reason: String,
    },
    /// The kernel panicked.
    Panic {
        /// The kernel's line.
        line: String,
    },
    /// The firmware or the boot loader found nothing to start.
    NoBoot {
        /// Its line.
        line: String,
    },
    /// A line held the text that was waited for.
    Line(String),
    /// The time was over.
    Timeout {
        /// How long it was.
        after: Duration,
        /// The last line that was not empty.
        last_line: String,
        /// Reasons of `ksos: degraded` lines.
        degraded: Vec<String>,
    },
    /// QEMU ended, because the guest powered off or for a reason of its own.
    QemuExit {
        /// Its exit status; `None` when a signal ended it.
        status: Option<i32>,
        /// The end of what it said on its standard error.
        message: String,
    },
}

impl Outcome {
    /// Tells whether the run reached what it was for: ready, or, when nothing was waited for, QEMU's orderly end.
    /// With `secure_boot`, a node that says it booted without Secure Boot did not reach it.
    pub fn is_success(&self, until: &Until, secure_boot: bool) -> bool {
        match self {
            Outcome::Line(_) => true,
            Outcome::Ready { fields, .. } => {
                !secure_boot || fields.iter().any(|(name, value)| name == "secure-boot" && value == "on")
            }
            Outcome::QemuExit { status, .. } => *until == Until::Exit && *status == Some(0),
            _ => false,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Ready { fields, degraded } => {
                f.write_str("ready")?;
                fields.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))?;
                degraded.iter().try_for_each(|reason| write!(f, "; degraded: {reason}"))
            }
            Outcome::Line(line) => write!(f, "seen: {line}"),
            Outcome::Emergency { reason } => write!(f, "the node stopped with an emergency: {reason}"),
            Outcome::Panic { line } => write!(f, "the kernel panicked: {line}"),
            Outcome::NoBoot { line } => write!(f, "nothing started: {line}"),
            Outcome::Timeout { after, last_line, degraded } => {
                write!(f, "not ready after {} s; the last line was: {last_line}", after.as_secs())?;
                degraded.iter().try_for_each(|reason| write!(f, "; degraded: {reason}"))
            }
            Outcome::QemuExit { status: Some(status), message } => {
                write!(f, "QEMU ended with status {status}")?;
                if message.is_empty() { Ok(()) } else { write!(f, ": {message}") }
            }
            Outcome::QemuExit { status: None, message } => write!(f, "QEMU was ended by a signal: {message}"),
        }
    }
}

/// What is used to run an image, known before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// QEMU.
    pub program: PathBuf,
    /// Its UEFI firmware; `None` is a BIOS.
    pub firmware: Option<firmware::Firmware>,
    /// The accelerator.
    pub accelerator: Accelerator,
    /// Why it is not a faster one.
    pub reason: Option<String>,
}

/// Finds QEMU, firmware and the accelerator.
///
/// # Errors
/// [`RunError::NoQemu`] and [`RunError::NoFirmware`], naming packages.
pub fn set_up(options: &RunOptions) -> Result<Setup, RunError> {
    let (program, debian, fedora) = match options.arch {
        Arch::X86_64 => ("qemu-system-x86_64", "qemu-system-x86", "qemu-system-x86-core"),
        Arch::Arm64 => ("qemu-system-aarch64", "qemu-system-arm", "qemu-system-aarch64-core"),
    };
    let path = find_program(program, &options.search_path).ok_or(RunError::NoQemu { program, debian, fedora })?;
    let firmware = match (options.bios, options.arch) {
        (false, arch) => Some(firmware::find(arch, options.secure_boot, &|path| path.is_file())?),
        (true, Arch::X86_64) => None,
        (true, arch) => return Err(RunError::NoBios(arch)),
    };
    let (accelerator, reason) = match options.accelerator {
        Some(accelerator) => (accelerator, None),
        None => machine::best_accelerator(&path, options.arch, options.secure_boot),
    };
    Ok(Setup { program: path, firmware, accelerator, reason })
}

/// Returns the first executable file of that name in a `PATH` value.
pub fn find_program(name: &str, search_path: &OsStr) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let executable = |path: &PathBuf| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(search_path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(executable)
}

/// Runs `image` in QEMU. Everything that the guest writes on its serial console goes to `serial`.
///
/// When it ends by itself ([`RunOptions::until_ready`], timeout) a persistent disk is shut down by the power button
/// first; a temporary one is dropped.
///
/// # Errors
/// [`RunError`]. What became of the guest is the [`Outcome`].
pub fn run(image: &Path, options: &RunOptions, setup: &Setup, serial: &mut dyn Write) -> Result<Outcome, RunError> {
    let (child, work) = start(image, options, setup)?;
    let deadline = options.timeout.and_then(|timeout| Some((Instant::now().checked_add(timeout)?, timeout)));
    let mut guest = machine::Guest::new(child, work, options.persist);
    let mut kubeconfig = options.kubeconfig.clone().map(kubeconfig::Fetch::start);
    guest.follow(&options.until, deadline, kubeconfig.as_mut(), serial).map_err(|error| match error {
        machine::FollowError::Sink(error) => RunError::Sink(error),
        machine::FollowError::Wait(source) => RunError::Start { program: setup.program.clone(), source },
        machine::FollowError::Kubeconfig(error) => *error,
    })
}

/// Starts QEMU.
fn start(image: &Path, options: &RunOptions, setup: &Setup) -> Result<(Child, disk::WorkDirectory), RunError> {
    let work = disk::WorkDirectory::new(image, options, setup.firmware.as_ref())?;
    let machine = arguments::Machine {
        arch: options.arch,
        accelerator: setup.accelerator,
        firmware: setup.firmware.as_ref(),
        variables: &work.variables,
        medium: options.medium.map(|kind| (image, kind)),
        disk: work.disk.as_deref(),
        monitor: &work.monitor,
        seed: options.seed.as_ref().map(|_| work.seed.as_path()),
        memory: options.memory,
        processors: options.processors,
        secure_boot: options.secure_boot,
        forwards: &options.forwards,
        network: options.network,
        extra: &options.extra,
        interactive: options.interactive,
    };
    let mut command = Command::new(&setup.program);
    command
        .args(arguments::arguments(&machine)?)
        .stdin(if options.interactive { Stdio::inherit() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = machine::spawn(&mut command);
    Ok((child.map_err(|source| RunError::Start { program: setup.program.clone(), source })?, work))
}

#[cfg(test)]
mod tests;
