//! QEMU's command line (QEMU "Invocation"), built without looking at anything.

use std::fmt;
use std::path::Path;

use ksos_formats::Arch;

use super::RunError;
use super::firmware::{Firmware, Format};

/// Room for translated code under emulation, in MiB. QEMU's own choice is 1024, and what it has translated stays when the
/// machine is reset: where the system's code was, the firmware may have its stack, and QEMU takes so long for each write to
/// a page with much translated code (`page_collection_lock`, QEMU 7.2) that the firmware comes no further than the next
/// tick of its timer, for ever. With little room old code is soon gone. The price: a node is ready after 7 % more processor
/// time than with 1024, one that starts containers after half as much time again. With 16 it is 60 % for any node.
const TRANSLATED: u32 = 32;

/// What runs the guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Linux' kernel virtual machine.
    Kvm,
    /// macOS' Hypervisor.framework.
    Hvf,
    /// QEMU's emulation.
    Tcg,
}

impl Accelerator {
    /// Returns QEMU's name.
    pub fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Hvf => "hvf",
            Accelerator::Tcg => "tcg",
        }
    }
}

/// A TCP port of 127.0.0.1 on the host that leads to a port of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Port on the host.
    pub host: u16,
    /// Port on the guest.
    pub guest: u16,
}

/// A text that is not a port forward.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a port forward; expected HOST:GUEST with port numbers from 1 to 65535")]
pub struct ParseForwardError(pub String);

impl std::str::FromStr for Forward {
    type Err = ParseForwardError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        text.split_once(':')
            .and_then(|(host, guest)| Some(Forward { host: port(host)?, guest: port(guest)? }))
            .ok_or_else(|| ParseForwardError(text.to_owned()))
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.guest)
    }
}

/// What an ISO image is to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// A CD in a drive.
    Cd,
    /// A USB stick.
    Usb,
}

/// The machine to describe.
#[derive(Debug)]
pub struct Machine<'a> {
    /// Architecture.
    pub arch: Arch,
    /// Accelerator.
    pub accelerator: Accelerator,
    /// UEFI firmware; `None` is QEMU's own BIOS.
    pub firmware: Option<&'a Firmware>,
    /// Writable copy of the firmware's variables.
    pub variables: &'a Path,
    /// An ISO image, which is booted first.
    pub medium: Option<(&'a Path, Medium)>,
    /// The disk.
    pub disk: Option<&'a Path>,
    /// Volume with the node's configuration.
    pub seed: Option<&'a Path>,
    /// Socket of the machine protocol.
    pub monitor: &'a Path,
    /// Memory in bytes.
    pub memory: u64,
    /// Number of processors.
    pub processors: u32,
    /// Whether the firmware enforces Secure Boot.
    pub secure_boot: bool,
    /// Port forwards.
    pub forwards: &'a [Forward],
    /// Whether there is a network card.
    pub network: bool,
    /// Further arguments.
    pub extra: &'a [String],
    /// Whether the serial console takes input from the terminal.
    pub interactive: bool,
}

/// Returns the arguments.
///
/// # Errors
/// [`RunError::Path`] for a path that is not UTF-8.
pub fn arguments(machine: &Machine<'_>) -> Result<Vec<String>, RunError> {
    let mut list: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| list.extend([option.to_owned(), value]);
    let accelerator = match machine.accelerator {
        Accelerator::Tcg => format!("tcg,thread=multi,tb-size={TRANSLATED}"),
        other => other.name().to_owned(),
    };
    add("-accel", accelerator);
    add("-machine", machine_type(machine));
    add("-cpu", processor(machine).to_owned());
    add("-smp", processors(machine).to_string());
    add("-m", format!("{}M", machine.memory.div_ceil(1 << 20)));
    list.push("-nodefaults".to_owned());
    let mut add = |option: &str, value: String| list.extend([option.to_owned(), value]);
    add("-display", "none".to_owned());
    if machine.arch == Arch::X86_64 && machine.secure_boot {
        // Without these the guest could write the variables behind the firmware's back (edk2 OvmfPkg/README, "SMM").
        add("-global", "driver=cfi.pflash01,property=secure,value=on".to_owned());
        add("-global", "ICH9-LPC.disable_s3=1".to_owned());
    }
    if let Some(firmware) = machine.firmware {
        let format = match firmware.format {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        };
        let code = value(&firmware.code)?;
        add("-drive", format!("if=pflash,unit=0,format={format},readonly=on,file={code}"));
        add("-drive", format!("if=pflash,unit=1,format={format},file={}", value(machine.variables)?));
    } else {
        // A BIOS's services for the screen are in the ROM of the screen's card.
        add("-device", "VGA".to_owned());
    }
    if let Some((medium, kind)) = machine.medium {
        let media = if kind == Medium::Cd { ",media=cdrom" } else { "" };
        add("-drive", format!("if=none,id=medium,format=raw,readonly=on{media},file={}", value(medium)?));
        for device in medium_devices(machine.arch, kind) {
            add("-device", (*device).to_owned());
        }
    }
    if let Some(disk) = machine.disk {
        add("-drive", format!("if=none,id=disk,format=raw,cache=unsafe,discard=unmap,file={}", value(disk)?));
        let index = 1 + u32::from(machine.medium.is_some());
        add("-device", format!("virtio-blk-pci,drive=disk,bootindex={index}"));
    }
    if let Some(seed) = machine.seed {
        add("-drive", format!("if=none,id=seed,format=raw,readonly=on,file={}", value(seed)?));
        add("-device", "virtio-blk-pci,drive=seed".to_owned());
    }
    if machine.network {
        let forwards = machine.forwards.iter();
        let forwards: String =
            forwards.map(|Forward { host, guest }| format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}")).collect();
        add("-netdev", format!("user,id=net{forwards}"));
        // Without its option ROM, the firmware does not try to boot from the network.
        add("-device", "virtio-net-pci,netdev=net,romfile=".to_owned());
    }
    add("-device", "virtio-rng-pci".to_owned());
    if machine.interactive {
        add("-chardev", "stdio,id=serial,mux=on,signal=off".to_owned());
        add("-mon", "chardev=serial,mode=readline".to_owned());
    } else {
        add("-chardev", "stdio,id=serial,signal=off".to_owned());
    }
    add("-serial", "chardev:serial".to_owned());
    add("-qmp", format!("unix:{},server=on,wait=off", value(machine.monitor)?));
    list.extend_from_slice(machine.extra);
    Ok(list)
}

/// Returns the drive or the stick, with what it hangs on. Index 0 is that of a kernel that QEMU loads itself (`-kernel`).
fn medium_devices(arch: Arch, kind: Medium) -> &'static [&'static str] {
    match (kind, arch) {
        (Medium::Cd, Arch::X86_64) => &["ide-cd,drive=medium,bootindex=1"],
        (Medium::Cd, Arch::Arm64) => &["virtio-scsi-pci", "scsi-cd,drive=medium,bootindex=1"],
        (Medium::Usb, _) => &["qemu-xhci", "usb-storage,drive=medium,removable=on,bootindex=1"],
    }
}

fn machine_type(machine: &Machine<'_>) -> String {
    match machine.arch {
        Arch::X86_64 => format!("q35,smm={}", if machine.secure_boot { "on" } else { "off" }),
        Arch::Arm64 => "virt".to_owned(),
    }
}

/// Two emulated x86 processors do not always see code that the kernel patches (jump labels) at the same time: about one
/// boot in twenty ended with an `int3` oops in `sched_clock_cpu` (QEMU 7.2, Linux 6.12). One processor sees its own writes.
fn processors(machine: &Machine<'_>) -> u32 {
    match (machine.accelerator, machine.arch) {
        (Accelerator::Tcg, Arch::X86_64) => 1,
        _ => machine.processors,
    }
}

fn processor(machine: &Machine<'_>) -> &'static str {
    match (machine.accelerator, machine.arch) {
        (Accelerator::Kvm | Accelerator::Hvf, _) => "host",
        // Five-level page tables make emulated memory accesses slower and need nothing that a small guest has.
        (Accelerator::Tcg, Arch::X86_64) => "max,la57=off",
        // `max` spends its time on emulating pointer authentication.
        (Accelerator::Tcg, Arch::Arm64) => "cortex-a72",
    }
}

/// Returns a path as the value of an option: commas are doubled.
fn value(path: &Path) -> Result<String, RunError> {
    let text = path.to_str().ok_or_else(|| RunError::Path(path.to_owned()))?;
    Ok(text.replace(',', ",,"))
}
