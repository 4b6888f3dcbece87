//! Installing from the medium that the system runs from (an ISO image on a CD or a stick): stage 28.
//!
//! What is asked for stands on the kernel command line (`ksos.install=`), else in a document with the key `install`: the
//! file `ksos/install.yaml` on the medium, or user-data on a NoCloud volume. Nothing else, no network in particular, can
//! ask for it.
//!
//! - `target`: which disk, and whether it may be overwritten.
//! - `write`: the pieces of the disk image from the medium to the disk, read back, and made bootable last.

pub mod target;
pub mod write;

use ksos_formats::config::{InstallDocument, parse_document};
use ksos_formats::install::{InstallFault, is_volume_name};
use ksos_formats::layout;

use crate::cmdline::Cmdline;
use crate::config::{self, label};
use crate::disk::gpt::GptError;
use crate::disk::grow::GrowError;
use crate::sys::{self, Sys};

/// Where the medium is mounted.
pub const MEDIUM: &str = "/run/ksos/medium";

/// Block devices that are no media and no disks.
const NEVER: [&str; 8] = ["loop", "ram", "dm-", "zram", "fd", "md", "nbd", "mtdblock"];

/// Which disk is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The only one there is.
    Auto,
    /// The one at this path.
    Path(String),
}

/// What follows an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The machine is switched off.
    PowerOff,
    /// The machine restarts.
    Reboot,
    /// The system on the medium goes on.
    Live,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The disk.
    pub disk: Wanted,
    /// Whether what it holds may be overwritten.
    pub wipe: bool,
    /// What follows.
    pub then: Then,
    /// Where it stands.
    pub place: String,
}

/// Why nothing, or not everything, was installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The kernel refused something.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// A kernel parameter has an unusable value.
    #[error("{name}={value} on the kernel command line: expected {expected}")]
    Parameter {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is expected.
        expected: &'static str,
    },
    /// A document that asks for it is not good.
    #[error("{fault}")]
    Document {
        /// The first thing that is wrong with it, with its place.
        fault: String,
    },
    /// The document on the medium about the disk is not what it should be.
    #[error("{path}: {source}")]
    Json {
        /// Its path.
        path: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The document on the medium about the disk contradicts itself.
    #[error("{path}: {source}")]
    Fault {
        /// Its path.
        path: String,
        /// What is wrong.
        source: InstallFault,
    },
    /// There is no such disk.
    #[error("there is no disk {path}; disks: {seen}")]
    NoDisk {
        /// Its path.
        path: String,
        /// The disks there are.
        seen: String,
    },
    /// No disk, or several, could be meant.
    #[error(
        "ksos.install=auto needs exactly one disk of at least {minimum} MiB that is not removable; there are: {seen}"
    )]
    NotOne {
        /// The smallest disk in MiB.
        minimum: u64,
        /// The disks that could be.
        seen: String,
    },
    /// It is the medium.
    #[error("{path} is the medium that the system runs from")]
    IsMedium {
        /// Its path.
        path: String,
    },
    /// It cannot be written to.
    #[error("{path} is read-only")]
    ReadOnly {
        /// Its path.
        path: String,
    },
    /// It is too small.
    #[error("{path} has {size} bytes; at least {minimum} are needed")]
    TooSmall {
        /// Its path.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// The smallest size in bytes.
        minimum: u64,
    },
    /// Its sectors are not those that the partition table is for.
    #[error("{path} has sectors of {sector} bytes; the image is for 512")]
    Sectors {
        /// Its path.
        path: String,
        /// Size of its sectors in bytes.
        sector: u64,
    },
    /// It holds something, and nobody said that this may go.
    #[error("{path} holds {content}; it is left as it is. ksos.install.force=yes or `wipe: true` overwrites it")]
    NotBlank {
        /// Its path.
        path: String,
        /// What it holds.
        content: String,
    },
    /// What the medium holds is not what was put on it.
    #[error("the medium is damaged: {0}")]
    Medium(&'static str),
    /// What was written does not read back.
    #[error("{path} does not read back as it was written, in {what}")]
    ReadBack {
        /// Its path.
        path: String,
        /// Where.
        what: &'static str,
    },
    /// The partition table of the image cannot be read.
    #[error("the partition table on the medium: {0}")]
    Table(#[from] GptError),
    /// The partition table of the image does not fit the disk.
    #[error("the partition table on the medium: {0}")]
    Grow(#[from] GrowError),
}

fn then(text: &str) -> Option<Then> {
    match text {
        "poweroff" => Some(Then::PowerOff),
        "reboot" => Some(Then::Reboot),
        "live" => Some(Then::Live),
        _ => None,
    }
}

impl Request {
    /// Reads what the kernel command line asks for.
    ///
    /// # Errors
    /// [`InstallError::Parameter`].
    pub fn of_cmdline(cmdline: &Cmdline) -> Result<Option<Self>, InstallError> {
        let wrong = |name, value: &str, expected| {
            let value = value.to_owned();
            InstallError::Parameter { name, value, expected }
        };
        let disk = match cmdline.value(layout::PARAM_INSTALL) {
            None if cmdline.has(layout::PARAM_INSTALL) => {
                return Err(wrong(layout::PARAM_INSTALL, "", "a path below /dev, or auto"));
            }
            None => return Ok(None),
            Some("auto") => Wanted::Auto,
            Some(path) if path.starts_with("/dev/") && !path.contains("/..") => Wanted::Path(path.to_owned()),
            Some(other) => return Err(wrong(layout::PARAM_INSTALL, other, "a path below /dev, or auto")),
        };
        let wipe = match cmdline.value(layout::PARAM_INSTALL_FORCE) {
            None | Some("no") => false,
            Some("yes") => true,
            Some(other) => return Err(wrong(layout::PARAM_INSTALL_FORCE, other, "yes or no")),
        };
        let text = cmdline.value(layout::PARAM_INSTALL_THEN).unwrap_or("poweroff");
        let expected = "poweroff, reboot or live";
        let then = then(text).ok_or_else(|| wrong(layout::PARAM_INSTALL_THEN, text, expected))?;
        Ok(Some(Request { disk, wipe, then, place: "the kernel command line".to_owned() }))
    }

    /// Reads what the document at `place` asks for.
    ///
    /// # Errors
    /// [`InstallError::Document`].
    pub fn of_document(text: &str, place: &str) -> Result<Option<Self>, InstallError> {
        let parsed = parse_document(text).map_err(|faults| {
            let faults = config::source::named(place, &faults);
            InstallError::Document { fault: faults.into_iter().next().unwrap_or_default() }
        })?;
        let Some(InstallDocument { disk, wipe, then: text }) = parsed.document.install else { return Ok(None) };
        Ok(Some(Request {
            disk: if disk == "auto" { Wanted::Auto } else { Wanted::Path(disk) },
            wipe: wipe.unwrap_or(false),
            then: text.and_then(|text| then(&text)).unwrap_or(Then::PowerOff),
            place: place.to_owned(),
        }))
    }
}

/// Returns the volume of `ksos.live=`.
///
/// # Errors
/// The value, when it is no name of a volume.
pub fn live_volume(cmdline: &Cmdline) -> Result<Option<String>, String> {
    match cmdline.value(layout::PARAM_LIVE) {
        None if cmdline.has(layout::PARAM_LIVE) => Err(String::new()),
        None => Ok(None),
        Some(name) if is_volume_name(name) => Ok(Some(name.to_owned())),
        Some(other) => Err(other.to_owned()),
    }
}

/// Returns the devices that hold the volume `name`: the medium, and copies of it.
pub fn media(sys: &dyn Sys, name: &str) -> Vec<String> {
    let is_medium = |path: &String| {
        let volume = sys.open_disk(path, false).ok().and_then(|device| label::read(device.as_ref()));
        volume.is_some_and(|volume| volume.kind == "iso9660" && volume.label == name)
    };
    devices(sys).into_iter().map(|device| device_path(&device)).filter(is_medium).collect()
}

/// Returns the kernel names of block devices that are not made of others.
fn devices(sys: &dyn Sys) -> Vec<String> {
    let names = sys.list("/sys/block").unwrap_or_default();
    names.into_iter().filter(|name| !NEVER.iter().any(|prefix| name.starts_with(prefix))).collect()
}

/// Returns the device node of a kernel device name; `!` stands for `/` in `/sys/block`.
fn device_path(name: &str) -> String {
    format!("/dev/{}", name.replace('!', "/"))
}

#[cfg(test)]
mod tests;
