//! `run` as the command line asks for it.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use ksos_formats::Arch;

use super::{Outcome, RunOptions, run, set_up};
use crate::artifact::disk::copy_sparse;
use crate::effects::fs::{self, AtomicFile, Context};
use crate::manifest::Size;
use crate::ops::OpError;

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Architecture; else it is read off the image's name.
    pub arch: Option<Arch>,
    /// End when the node is ready.
    pub until_ready: bool,
    /// Seconds until it gives up.
    pub timeout: Option<u64>,
    /// Enforce Secure Boot.
    pub secure_boot: bool,
    /// Memory: bytes, or with a unit (`512M`, `1GiB`).
    pub memory: &'a str,
    /// Disk size, in the same form.
    pub disk_size: &'a str,
    /// `HOST:GUEST` each.
    pub forwards: &'a [String],
    /// A disk that keeps its changes; made from the image when it does not exist.
    pub persist: Option<&'a Path>,
    /// Standard input is a terminal.
    pub interactive: bool,
    /// `PATH`.
    pub search_path: OsString,
}

/// Boots `image`. What the guest writes goes to `serial`, what the user should know to `note`.
///
/// # Errors
/// Missing programs or firmware, unusable values, an unreadable image.
pub fn boot(
    image: &Path,
    request: &Request<'_>,
    serial: &mut dyn Write,
    note: &dyn Fn(&str),
) -> Result<Outcome, OpError> {
    let name = image.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let from_name = || Arch::ALL.into_iter().find(|arch| name.contains(arch.name()));
    let arch = request.arch.or_else(from_name).ok_or_else(|| OpError::UnknownArch { path: image.to_owned() })?;
    let mut options = RunOptions::new(arch, request.search_path.clone());
    options.until_ready = request.until_ready;
    options.timeout = request.timeout.map(Duration::from_secs);
    options.secure_boot = request.secure_boot;
    options.memory = size(request.memory)?;
    options.disk_size = size(request.disk_size)?;
    options.forwards = request.forwards.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    options.interactive = request.interactive;
    let disk = match request.persist {
        Some(disk) => {
            options.persist = true;
            if !disk.exists() {
                copy(image, disk)?;
            }
            disk
        }
        None => image,
    };
    let setup = set_up(&options)?;
    if let Some(reason) = &setup.reason {
        note(&format!("{}: {reason}", setup.accelerator.name()));
    }
    Ok(run(disk, &options, &setup, serial)?)
}

/// Copies an image, all or nothing; holes stay holes.
fn copy(image: &Path, disk: &Path) -> Result<(), OpError> {
    let source = fs::open(image)?;
    let size = source.metadata().context("stat", image)?.len();
    let mut target = AtomicFile::create(disk)?;
    target.file().set_len(size).context("grow", disk)?;
    copy_sparse(&source, size, target.file(), 0).context("copy to", disk)?;
    Ok(target.commit(0o644)?)
}

/// Parses a size with the short units that QEMU users write, too: `512M` is 512 MiB.
fn size(text: &str) -> Result<u64, OpError> {
    let short = ["K", "M", "G", "T"].iter().any(|unit| text.ends_with(unit));
    let long = if short { format!("{text}iB") } else { text.to_owned() };
    let parsed = long.parse::<Size>();
    parsed.map(Size::bytes).map_err(|error| OpError::Size { text: text.to_owned(), expected: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_short_and_long_units() {
        assert_eq!(size("512M").unwrap(), 512 << 20);
        assert_eq!(size("1GiB").unwrap(), 1 << 30);
        assert_eq!(size("4096").unwrap(), 4096);
        assert!(size("lots").is_err());
    }
}
