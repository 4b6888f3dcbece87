//! What is compared: a disk image, or the directory of a release, whose slot is put together from its chunks and looked
//! at like a disk with one partition.

use std::path::{Path, PathBuf};

use ksos_formats::update::{CHUNKS_FILE, RELEASE_SUFFIX};

use crate::artifact::release;
use crate::cache::Cache;
use crate::effects::fs;
use crate::image::{DiskImage, Partition, Slot};
use crate::ops::OpError;
use crate::ops::build::release::{OpenRelease, open};

/// One side.
#[derive(Debug)]
pub(super) struct Side {
    /// Where it is.
    pub(super) path: PathBuf,
    /// The disk image, or the slot of the release.
    pub(super) disk: DiskImage,
    /// The release.
    pub(super) release: Option<OpenRelease>,
}

impl Side {
    /// Opens the image or release at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or is neither.
    pub(super) fn open(cache: &Cache, path: &Path) -> Result<Self, OpError> {
        if !fs::metadata(path)?.is_dir() {
            return Ok(Side { path: path.to_owned(), disk: DiskImage::open(path)?, release: None });
        }
        let release = open(path)?;
        let chunks = fs::open(&path.join(CHUNKS_FILE))?;
        // Without a name: it goes with its last handle.
        let mut slot = cache.temporary()?.into_file();
        let failed = |source| OpError::Release { path: path.to_owned(), source };
        release::restore(&release.index, &chunks, &mut slot).map_err(failed)?;
        let disk = DiskImage::of_slot(path, slot, release.index.slot_size());
        Ok(Side { path: path.to_owned(), disk, release: Some(release) })
    }

    /// Returns the partition with a system: the first whose file system has `image.json`.
    pub(super) fn slot(&self) -> Option<&Partition> {
        self.disk.partitions.iter().find(|partition| matches!(Slot::open(&self.disk, partition), Ok(Some(_))))
    }

    /// Returns the directory that a build writes the release of this disk image to.
    pub(super) fn release_beside(&self) -> PathBuf {
        self.path.with_extension(RELEASE_SUFFIX.trim_start_matches('.'))
    }
}
