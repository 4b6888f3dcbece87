//! Why an image was not written.

use std::path::PathBuf;

use super::disks::Obstacle;
use crate::effects::fs::FsError;
use crate::effects::progress;
use crate::ops::Problem;

/// An image was not written, or not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    /// Something cannot be read or written.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Not a file.
    #[error("{} is not a file", path.display())]
    NotFile {
        /// What was named as the image.
        path: PathBuf,
    },
    /// An image of no bytes.
    #[error("{} is empty", path.display())]
    Empty {
        /// The image.
        path: PathBuf,
    },
    /// The image is not what the list beside it says.
    #[error("{}: its SHA-256 is {found}; {} says {stated}", path.display(), sums.display())]
    Sum {
        /// The image.
        path: PathBuf,
        /// The list.
        sums: PathBuf,
        /// What it states.
        stated: String,
        /// What was found.
        found: String,
    },
    /// The image does not fit.
    #[error("{} has {} and the disk {}", path.display(), size.map_or("more".to_owned(), progress::size), progress::size(*disk))]
    TooLarge {
        /// The image.
        path: PathBuf,
        /// Its size in bytes; `None` when decoding stopped at the size of the disk.
        size: Option<u64>,
        /// Size of the disk in bytes.
        disk: u64,
    },
    /// No disk was named.
    #[error("no disk is named")]
    NoDisk,
    /// Not a disk.
    #[error("{} is not a disk of this machine", path.display())]
    UnknownDisk {
        /// What was named.
        path: PathBuf,
    },
    /// A partition.
    #[error("{} is a partition of {disk}: images are for whole disks", path.display())]
    Partition {
        /// What was named.
        path: PathBuf,
        /// The disk that it is on.
        disk: String,
    },
    /// A disk that is not written to.
    #[error("{} is not written to: {}", path.display(), reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused {
        /// The disk.
        path: PathBuf,
        /// Why.
        reasons: Vec<Obstacle>,
    },
    /// Another disk came under the name in the meantime.
    #[error("{} is another disk than a moment ago", path.display())]
    Swapped {
        /// The disk.
        path: PathBuf,
    },
    /// The kernel says that it is in use.
    #[error("{} is in use (perhaps by another container)", path.display())]
    Busy {
        /// The disk.
        path: PathBuf,
    },
    /// This user may not write to it.
    #[error("{} cannot be opened for writing: permission denied", path.display())]
    Permission {
        /// The disk.
        path: PathBuf,
    },
    /// The user did not say yes.
    #[error("not confirmed; nothing was written")]
    Unconfirmed,
    /// What was read back is not what was written.
    #[error("{}: bytes {first} to {last} read back are not what was written; the disk is bad and does not boot", path.display())]
    Differs {
        /// The disk.
        path: PathBuf,
        /// First byte of the range.
        first: u64,
        /// Last byte of the range.
        last: u64,
    },
    /// Not on this system.
    #[error("writing to disks works on Linux only")]
    System,
}

impl FlashError {
    /// Returns where the failure belongs.
    pub fn problem(&self) -> Problem {
        match self {
            FlashError::Fs(_) | FlashError::Differs { .. } | FlashError::Sum { .. } => Problem::Build,
            _ => Problem::Manifest,
        }
    }

    /// Returns suggestions.
    pub fn hints(&self) -> Vec<String> {
        let hint = match self {
            FlashError::NoDisk | FlashError::UnknownDisk { .. } => "`ksos-compose flash --list` shows the disks",
            FlashError::Refused { reasons, .. } if reasons.iter().all(Obstacle::yields_to_force) => {
                "--force writes to built-in disks"
            }
            FlashError::Refused { reasons, .. }
                if reasons.iter().any(|reason| matches!(reason, Obstacle::Mounted { .. })) =>
            {
                "umount(8) what is mounted first"
            }
            FlashError::Refused { reasons, .. }
                if reasons.iter().any(|reason| matches!(reason, Obstacle::Member { .. })) =>
            {
                "wipefs(8) removes the signature of a volume that is no longer needed"
            }
            FlashError::Permission { .. } => "sudo, or membership in the group `disk`, gives access",
            FlashError::Unconfirmed => "--yes writes without asking",
            FlashError::System => {
                "elsewhere, `diskutil unmountDisk diskN` and `dd if=IMAGE of=/dev/rdiskN bs=4m` do it unguarded"
            }
            _ => return Vec::new(),
        };
        vec![hint.to_owned()]
    }
}
