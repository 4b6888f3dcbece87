//! The files of one run: disk, firmware variables, monitor socket.
#![expect(clippy::disallowed_methods, reason = "copies an image, keeping its holes")]

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::firmware::Firmware;
use super::{RunError, RunOptions};
use crate::artifact::disk::copy_sparse;
use crate::effects::fs::Context;

/// Paths of a run; the temporary directory goes with it.
#[derive(Debug)]
pub(super) struct WorkDirectory {
    pub(super) disk: Option<PathBuf>,
    pub(super) variables: PathBuf,
    pub(super) monitor: PathBuf,
    pub(super) seed: PathBuf,
    _directory: TempDir,
}

impl WorkDirectory {
    /// Makes the disk: a sparse copy of the image, or the image itself, of at least the size asked for. Beside a medium, the
    /// disk that is asked for, if any.
    pub(super) fn new(image: &Path, options: &RunOptions, firmware: Option<&Firmware>) -> Result<Self, RunError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("ksos-run-");
        let directory = match &options.temporary {
            Some(parent) => builder.tempdir_in(parent).context("create a directory in", parent)?,
            None => builder.tempdir().context("create", Path::new("a temporary directory"))?,
        };
        let source = File::open(image).context("open", image)?;
        let metadata = source.metadata().context("stat", image)?;
        if !metadata.is_file() {
            return Err(RunError::NotImage(image.to_owned()));
        }
        let size = metadata.len().max(options.disk_size);
        let disk = if options.medium.is_some() {
            options.disk.as_deref().map(|disk| beside_medium(disk, options.disk_size)).transpose()?
        } else if options.persist {
            let disk = std::path::absolute(image).context("resolve", image)?;
            let file = OpenOptions::new().write(true).open(&disk).context("open for writing", &disk)?;
            file.set_len(size).context("grow", &disk)?;
            Some(disk)
        } else {
            let disk = directory.path().join("disk.img");
            let copy = File::create(&disk).context("create", &disk)?;
            copy.set_len(size).context("grow", &disk)?;
            copy_sparse(&source, metadata.len(), &copy, 0).context("copy to", &disk)?;
            Some(disk)
        };
        let variables = directory.path().join("variables.fd");
        if let Some(firmware) = firmware {
            std::fs::copy(&firmware.variables, &variables).context("copy", &firmware.variables)?;
            let mut permissions = variables.metadata().context("stat", &variables)?.permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
            std::fs::set_permissions(&variables, permissions).context("set mode of", &variables)?;
        }
        let seed = directory.path().join("seed.img");
        if let Some(content) = &options.seed {
            content.write(&seed)?;
        }
        Ok(WorkDirectory { disk, variables, seed, monitor: directory.path().join("qmp"), _directory: directory })
    }

    /// Removes the copied disk's name, once QEMU has it open: the space is free whenever QEMU ends, whatever ends us.
    pub(super) fn release(&self) {
        if let Some(disk) = self.disk.as_ref().filter(|disk| disk.starts_with(self._directory.path())) {
            // The directory is removed later in any case.
            let _ = std::fs::remove_file(disk);
        }
    }
}

/// Returns the disk at `path`, made or grown to `size` bytes.
fn beside_medium(path: &Path, size: u64) -> Result<PathBuf, RunError> {
    let disk = std::path::absolute(path).context("resolve", path)?;
    let mut open = OpenOptions::new();
    let file = open.write(true).create(true).truncate(false).open(&disk).context("open for writing", &disk)?;
    let found = file.metadata().context("stat", &disk)?.len();
    file.set_len(found.max(size)).context("grow", &disk)?;
    Ok(disk)
}
