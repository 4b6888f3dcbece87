//! The files of one run: disk, firmware variables, monitor socket.
#![expect(clippy::disallowed_methods, reason = "copies an image, keeping its holes")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::firmware::Firmware;
use super::{RunError, RunOptions};
use crate::effects::fs::Context;

/// Paths of a run; the temporary directory goes with it.
#[derive(Debug)]
pub(super) struct WorkDirectory {
    pub(super) disk: PathBuf,
    pub(super) variables: PathBuf,
    pub(super) monitor: PathBuf,
    _directory: TempDir,
}

impl WorkDirectory {
    /// Makes the disk: a sparse copy of the image, or the image itself, of at least the size asked for.
    pub(super) fn new(image: &Path, options: &RunOptions, firmware: &Firmware) -> Result<Self, RunError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("ksos-run-");
        let directory = match &options.temporary {
            Some(parent) => builder.tempdir_in(parent).context("create a directory in", parent)?,
            None => builder.tempdir().context("create", Path::new("a temporary directory"))?,
        };
        let mut source = File::open(image).context("open", image)?;
        let metadata = source.metadata().context("stat", image)?;
        if !metadata.is_file() {
            return Err(RunError::NotImage(image.to_owned()));
        }
        let size = metadata.len().max(options.disk_size);
        let disk = if options.persist {
            let disk = std::path::absolute(image).context("resolve", image)?;
            let file = OpenOptions::new().write(true).open(&disk).context("open for writing", &disk)?;
            file.set_len(size).context("grow", &disk)?;
            disk
        } else {
            let disk = directory.path().join("disk.img");
            let mut copy = File::create(&disk).context("create", &disk)?;
            copy_sparse(&mut source, &mut copy, metadata.len()).context("copy to", &disk)?;
            copy.set_len(size).context("grow", &disk)?;
            disk
        };
        let variables = directory.path().join("variables.fd");
        std::fs::copy(&firmware.variables, &variables).context("copy", &firmware.variables)?;
        let mut permissions = variables.metadata().context("stat", &variables)?.permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
        std::fs::set_permissions(&variables, permissions).context("set mode of", &variables)?;
        Ok(WorkDirectory { disk, variables, monitor: directory.path().join("qmp"), _directory: directory })
    }

    /// Removes the copied disk's name, once QEMU has it open: the space is free whenever QEMU ends, whatever ends us.
    pub(super) fn release(&self) {
        if self.disk.starts_with(self._directory.path()) {
            // The directory is removed later in any case.
            let _ = std::fs::remove_file(&self.disk);
        }
    }
}

/// Copies `size` bytes, without what the file system or a look at the bytes says is empty.
fn copy_sparse(source: &mut File, target: &mut File, size: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if rustix::fs::ioctl_ficlone(&*target, &*source).is_ok() {
        return Ok(());
    }
    let mut buffer = vec![0; 1 << 20];
    let mut position = 0;
    while position < size {
        position = match rustix::fs::seek(&*source, rustix::fs::SeekFrom::Data(position)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => position,
        };
        source.seek(SeekFrom::Start(position))?;
        let wanted = buffer.len().min((size.saturating_sub(position)) as usize);
        let count = source.read(&mut buffer[..wanted])?;
        if count == 0 {
            break;
        }
        for (index, block) in buffer[..count].chunks(64 << 10).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                target.seek(SeekFrom::Start(position + (index as u64) * (64 << 10)))?;
                target.write_all(block)?;
            }
        }
        position += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_copy_has_the_same_bytes_and_keeps_holes() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        let mut source = OpenOptions::new().create_new(true).read(true).write(true).open(&image).unwrap();
        for (at, bytes) in [(0u64, &b"start"[..]), (40 << 20, b"middle"), ((64 << 20) - 3, b"end")] {
            source.seek(SeekFrom::Start(at)).unwrap();
            source.write_all(bytes).unwrap();
        }
        let mut copy = File::create_new(directory.path().join("copy")).unwrap();
        copy_sparse(&mut source, &mut copy, 64 << 20).unwrap();
        copy.set_len(65 << 20).unwrap();
        let (before, after) = (std::fs::read(&image).unwrap(), std::fs::read(directory.path().join("copy")).unwrap());
        assert!(before[..] == after[..64 << 20]);
        assert!(after[64 << 20..].iter().all(|byte| *byte == 0));
        assert!(copy.metadata().unwrap().blocks() * 512 < 2 << 20);
    }
}
