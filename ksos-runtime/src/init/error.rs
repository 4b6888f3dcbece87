//! Why a stage of the boot failed.

use ksos_formats::Digest;

use crate::disk::find::FindError;
use crate::disk::gpt::GptError;
use crate::disk::grow::GrowError;
use crate::update::bootblocks::BootBlockError;
use crate::update::places::PlacesError;
use crate::{modules, sys};

/// A failed step of the boot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// A module.
    #[error(transparent)]
    Module(#[from] modules::Error),
    /// The boot disk.
    #[error(transparent)]
    BootDisk(#[from] FindError),
    /// The slots and the EFI system partition.
    #[error(transparent)]
    Places(#[from] PlacesError),
    /// The boot state.
    #[error(transparent)]
    BootState(#[from] BootBlockError),
    /// The partition table of the boot disk.
    #[error("{disk}: {source}")]
    Table {
        /// The disk's path.
        disk: String,
        /// What is wrong.
        source: GptError,
    },
    /// The table does not fit the disk.
    #[error("{disk}: {source}")]
    Grow {
        /// The disk's path.
        disk: String,
        /// What is wrong.
        source: GrowError,
    },
    /// A configuration document is not what it should be.
    #[error("{path}: {source}")]
    Document {
        /// Its path.
        path: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A configuration document of another format.
    #[error("{path} has format {found}; this runtime reads format {supported}")]
    Format {
        /// Its path.
        path: String,
        /// Its format.
        found: u32,
        /// What is supported.
        supported: u32,
    },
    /// The installation.
    #[error(transparent)]
    Install(#[from] crate::install::InstallError),
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
    /// The boot disk has no partition of this name.
    #[error("{disk} has no partition named {name}")]
    NoPartition {
        /// The disk's path.
        disk: String,
        /// The name.
        name: String,
    },
    /// The root image has another size than the initramfs expects.
    #[error("{path} has {found} bytes, expected {expected}")]
    ImageSize {
        /// Its path.
        path: String,
        /// Its size in bytes.
        found: u64,
        /// The size expected.
        expected: u64,
    },
    /// The root image is not the one that the initramfs expects.
    #[error("{path} has SHA-256 {found}, expected {expected}")]
    ImageDigest {
        /// Its path.
        path: String,
        /// Its digest.
        found: Digest,
        /// The digest expected.
        expected: Digest,
    },
    /// The root image does not hold what its hash tree says.
    #[error("{path} is damaged, dm-verity refuses to read it: {source}")]
    DamagedImage {
        /// Its path.
        path: String,
        /// What failed for that reason.
        source: sys::Error,
    },
    /// The data partition holds something that is not ours to overwrite.
    #[error("{device} holds {content}; it is not formatted")]
    ForeignData {
        /// The partition's path.
        device: String,
        /// What it holds.
        content: String,
    },
    /// A program of the image failed.
    #[error("{program}: {exit}: {}", last_characters(.output))]
    Program {
        /// Its name.
        program: String,
        /// How it ended.
        exit: sys::Exit,
        /// The end of its output.
        output: String,
    },
    /// The kernel has no AppArmor, or it is turned off.
    #[error("the kernel has no AppArmor")]
    NoAppArmor,
    /// A program is not in the image.
    #[error("{0} is not in the image")]
    NoProgram(String),
    /// A path that the configuration names is not in the image.
    #[error("{0} is not in the image")]
    NoPath(String),
    /// Several failures of one stage.
    #[error("{}", .0.join("; "))]
    Several(Vec<String>),
}

/// Most of a program's output that an error shows, in characters.
const SHOWN: usize = 400;

/// Returns the end of `text`: what a program says last is why it ended.
fn last_characters(text: &str) -> &str {
    text.char_indices().rev().nth(SHOWN - 1).map_or(text, |(start, _)| text.get(start..).unwrap_or(text))
}

impl Error {
    /// Returns `Ok` if nothing failed, else one error of all.
    pub fn unless_empty(failures: Vec<String>) -> Result<(), Self> {
        if failures.is_empty() { Ok(()) } else { Err(Error::Several(failures)) }
    }
}
