//! `flash`: writes an image to a disk, e.g. a USB stick, and reads it back.
//!
//! ```text
//! sysfs     what the kernel says of disks, mounts, swap, volumes        -> facts
//! disks     facts -> which disks may be written to                      (pure)
//! source    raw or compressed image, measured and checked first
//! table     the image's partition table, fitted to the disk             (pure)
//! writer    nothing boots until everything else is on the medium and compared
//! ```
//!
//! Linux only. The kernel has the last word: the disk is opened exclusively, which it refuses for one that is in use in
//! any mount namespace, and while it is open nothing can begin to use it.

pub mod disks;
mod error;
mod source;
mod sysfs;
mod table;
mod writer;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use disks::{Candidate, Obstacle};
pub use error::FlashError;
pub use source::Image;
pub use sysfs::Places;
pub use writer::Written;

use super::{OpError, Reporter};
use crate::effects::block::Device;
use crate::effects::fs;
use crate::effects::progress::Progress;

/// How often and how far apart the kernel is asked to read the new partition table: others look at the disk, too.
const READ_AGAIN: (u32, Duration) = (10, Duration::from_millis(200));

/// What to write.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The image.
    pub image: &'a Path,
    /// The disk: `/dev/sdb`, or a link to it.
    pub disk: &'a Path,
    /// Built-in disks may be written to.
    pub force: bool,
    /// Read back and compare.
    pub verify: bool,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flashed {
    /// The disk.
    pub disk: Candidate,
    /// What was written.
    pub written: Written,
    /// It was read back and compared.
    pub verified: bool,
}

/// Returns every disk of this machine, and whether it may be written to.
///
/// # Errors
/// When the kernel's lists cannot be read; elsewhere than on Linux.
pub fn list(places: &Places) -> Result<Vec<Candidate>, OpError> {
    if !cfg!(target_os = "linux") {
        return Err(FlashError::System.into());
    }
    Ok(disks::candidates(&sysfs::gather(places)?))
}

/// Writes an image to a disk after `confirm` said so, which gets the disk and the image.
///
/// # Errors
/// [`FlashError`]. Before `confirm` says yes nothing is written; after it, what is left half done does not boot.
pub fn flash(
    request: &Request<'_>,
    reporter: &dyn Reporter,
    progress: &dyn Progress,
    confirm: &dyn Fn(&Candidate, &Image) -> bool,
) -> Result<Flashed, OpError> {
    let disk = find(&list(&Places::default())?, request.disk)?;
    refuse(&disk, request.force)?;
    let device = open(&disk)?;
    // From here on nobody else can begin to use it. What happened before?
    let now = find(&list(&Places::default())?, &disk.path)?;
    refuse(&now, request.force)?;
    if device.number != Some(disk.number) || device.size != disk.size || now != disk {
        return Err(FlashError::Swapped { path: disk.path }.into());
    }
    let image = Image::open(request.image, disk.size, progress)?;
    if !confirm(&disk, &image) {
        return Err(FlashError::Unconfirmed.into());
    }
    let target = writer::Target { device: &device, path: &disk.path };
    let written = target.write(&mut *image.content()?, image.size, request.verify, progress)?;
    if !read_partitions_again(&device) {
        reporter.note("the kernel has not read the new partition table; taking the disk out and in again makes it");
    }
    Ok(Flashed { disk, written, verified: request.verify })
}

/// Returns the disk that `path` names.
fn find(disks: &[Candidate], path: &Path) -> Result<Candidate, FlashError> {
    let target = fs::link_target(path).unwrap_or_else(|| path.to_owned());
    if let Some(disk) = disks.iter().find(|disk| disk.path == target) {
        return Ok(disk.clone());
    }
    let name = target.strip_prefix("/dev").ok().and_then(Path::to_str).unwrap_or_default();
    let owner = disks.iter().find(|disk| disk.partitions.iter().any(|partition| partition == name));
    let path = PathBuf::from(path);
    Err(match owner {
        Some(disk) => FlashError::Partition { path, disk: disk.path.display().to_string() },
        None => FlashError::UnknownDisk { path },
    })
}

fn refuse(disk: &Candidate, force: bool) -> Result<(), FlashError> {
    let reasons: Vec<Obstacle> = disk.refusals(force).into_iter().cloned().collect();
    if reasons.is_empty() { Ok(()) } else { Err(FlashError::Refused { path: disk.path.clone(), reasons }) }
}

fn open(disk: &Candidate) -> Result<Device, FlashError> {
    let path = disk.path.clone();
    Device::open(&disk.path).map_err(|error| match error.source.kind() {
        ErrorKind::ResourceBusy => FlashError::Busy { path },
        ErrorKind::PermissionDenied => FlashError::Permission { path },
        _ => error.into(),
    })
}

fn read_partitions_again(device: &Device) -> bool {
    let (attempts, pause) = READ_AGAIN;
    (0..attempts).any(|attempt| {
        if attempt > 0 {
            std::thread::sleep(pause);
        }
        match device.read_partitions_again() {
            // A loop device that shows no partitions.
            Err(error) => error.kind() == ErrorKind::InvalidInput,
            Ok(()) => true,
        }
    })
}

#[cfg(test)]
mod tests;
