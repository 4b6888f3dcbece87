//! Running from a medium: an ISO image on a CD or a stick (`ksos.live=VOLUME`).
//!
//! The medium is the device whose volume has the name that the boot loader passes; the name is made of the digest of what
//! the image holds, so that several devices with it hold the same. In the initramfs (stages 03 to 05) it takes the place
//! of the slot. In the real root, stage 28 installs from it if that is asked for, and stage 30 uses a data partition that
//! some disk has, if it is the only one.

use ksos_formats::install::{CONFIG_FILE, DIRECTORY, DOCUMENT_FILE, DOCUMENT_LIMIT, Install};

use crate::config::{self, Context};
use crate::console::say;
use crate::disk::find::{self, FindError};
use crate::install::{InstallError, MEDIUM, Request, Then, live_volume, media, target, write};
use crate::sys::{Down, FileKind, Mount, MountFlags, Sys, Wake};

use super::initramfs::Boot;
use super::node::Node;
use super::{Error, shutdown};

/// After the medium, other disks are waited for until none has appeared for so long, in milliseconds.
const QUIET_MS: u64 = 1000;
/// How long that may go on, in milliseconds.
const SETTLE_MS: u64 = 10_000;
/// Most bytes of a configuration on the medium.
const CONFIG_LIMIT: u64 = ksos_formats::config::DOCUMENT_LIMIT as u64;

/// Finds the medium that holds `volume`.
pub(super) fn find_medium(sys: &dyn Sys, volume: &str) -> Result<String, FindError> {
    media(sys, volume)
        .into_iter()
        .next()
        .ok_or_else(|| FindError::NotFound { wanted: format!("the volume {volume}"), seen: find::names(sys) })
}

/// Waits until no more disks appear: the one with the data, or to install to, may be slower than the medium.
pub(super) fn settle(boot: &Boot<'_>, sys: &dyn Sys) {
    let deadline = sys.uptime_ms() + SETTLE_MS;
    loop {
        let left = deadline.saturating_sub(sys.uptime_ms());
        let wakes = sys.wait(Some(QUIET_MS.min(left)));
        wakes.iter().for_each(|wake| boot.load_for(wake));
        let announced = wakes.iter().any(|wake| matches!(wake, Wake::Uevent(_)));
        if !announced || left == 0 {
            return;
        }
    }
}

/// Mounts the medium.
pub(super) fn mount_medium(sys: &dyn Sys, device: &str) -> Result<(), Error> {
    sys.make_directory(MEDIUM, 0o755)?;
    let flags = MountFlags { read_only: true, no_suid: true, no_dev: true, no_exec: true, ..MountFlags::default() };
    Ok(sys.mount(&Mount { source: device, target: MEDIUM, kind: "iso9660", flags, options: "" })?)
}

/// Whether the system runs from a medium.
pub(super) fn is_live(node: &Node<'_>) -> bool {
    node.handover.medium.is_some()
}

/// Stage 28: installs, if that is asked for.
pub(super) fn install(node: &mut Node<'_>) -> Result<String, Error> {
    let device = node.handover.medium.clone().unwrap_or_default();
    // In RAM mode the initramfs has unmounted it.
    let mounted = node.sys.kind(&format!("{MEDIUM}/{DIRECTORY}")) == Some(FileKind::Directory);
    if !mounted {
        mount_medium(node.sys, &device)?;
    }
    let result = request(node).and_then(|request| match request {
        None => Ok(None),
        Some(request) => carry_out(node, &request).map(|path| Some((path, request.then))),
    });
    if !mounted {
        // Busy or not: it is mounted read-only.
        let _ = node.sys.unmount(MEDIUM);
    }
    match result? {
        None => Ok("not asked for".to_owned()),
        Some((path, Then::Live)) => Ok(format!("{path} is installed")),
        Some((_, Then::PowerOff)) => Err(shutdown::finish(node.sys, Down::PowerOff, &mut node.watchdog).into()),
        Some((_, Then::Reboot)) => Err(shutdown::finish(node.sys, Down::Reboot, &mut node.watchdog).into()),
    }
}

/// Finds what is asked for: on the kernel command line, on the medium, on an attached volume.
fn request(node: &Node<'_>) -> Result<Option<Request>, InstallError> {
    if let Some(request) = Request::of_cmdline(&node.cmdline)? {
        return Ok(Some(request));
    }
    let path = format!("{MEDIUM}/{DIRECTORY}/{CONFIG_FILE}");
    if node.sys.kind(&path) == Some(FileKind::File) {
        let text = String::from_utf8_lossy(&node.sys.read(&path, CONFIG_LIMIT)?).into_owned();
        return Request::of_document(&text, &format!("the medium's {CONFIG_FILE}"));
    }
    let (cmdline, image, data) = (&node.cmdline, &node.config, node.data.path.as_str());
    let context = Context { sys: node.sys, cmdline, image, data, boot: node.boot, progress: &|| {} };
    match config::attached(&context) {
        // What is wrong with a volume or its document is said by the stage that applies it.
        Some((place, text)) => Ok(Request::of_document(&text, &place).unwrap_or(None)),
        None => Ok(None),
    }
}

/// Installs; returns the disk.
fn carry_out(node: &mut Node<'_>, request: &Request) -> Result<String, InstallError> {
    let sys = node.sys;
    let path = format!("{MEDIUM}/{DIRECTORY}/{DOCUMENT_FILE}");
    let bytes = sys.read(&path, DOCUMENT_LIMIT)?;
    let install: Install =
        serde_json::from_slice(&bytes).map_err(|source| InstallError::Json { path: path.clone(), source })?;
    install.check().map_err(|source| InstallError::Fault { path, source })?;
    let volume = live_volume(&node.cmdline).ok().flatten().unwrap_or_default();
    if Install::volume_name(&bytes) != volume {
        return Err(InstallError::Medium("its document is another than the one that its name is made of"));
    }
    let target = target::choose(sys, request, &install, &media(sys, &volume))?;
    let image = &install.image;
    node.say(&format!("install: {} {} to {}, as {} asks for", image.name, image.version, target.path, request.place));
    if let Some(content) = &target.content {
        node.say(&format!("install: {} holds {content}; it is overwritten", target.path));
    }
    write::write(sys, &install, (&target.path, target.disk.as_ref()), &|line| say(sys, line))?;
    let then = match request.then {
        Then::PowerOff => "the machine is switched off",
        Then::Reboot => "the machine restarts",
        Then::Live => "the system on the medium goes on",
    };
    node.say(&format!("install: {} is installed and was read back; {then}", target.path));
    Ok(target.path)
}

/// Returns the only disk with a data partition besides the medium, or why there is none.
pub(super) fn data_disk(node: &Node<'_>) -> Result<String, String> {
    let label = &node.config.data.label;
    let medium = node.handover.medium.as_deref().unwrap_or_default();
    let mut disks = find::disks_with(node.sys, label);
    disks.retain(|disk| disk != medium);
    match (disks.len(), disks.pop()) {
        (1, Some(disk)) => Ok(disk),
        (_, None) => Err(format!("no disk has a partition named {label}")),
        (_, Some(last)) => {
            disks.push(last);
            Err(format!("several disks have a partition named {label}: {}", disks.join(", ")))
        }
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
