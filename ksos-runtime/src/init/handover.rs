//! What the initramfs tells PID 1 of the real root: `/run/ksos/boot.json`.

use ksos_formats::Digest;
use ksos_formats::boot::RootMode;
use serde::{Deserialize, Serialize};

use crate::sys::{self, Sys, TEXT_LIMIT};

use super::Error;

/// Where the document is.
pub const PATH: &str = "/run/ksos/boot.json";
/// Where the boot slot stays mounted, read-only, in slot mode.
pub const SLOT_MOUNT: &str = "/run/ksos/slot";

/// How one stage went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageReport {
    /// Its number.
    pub number: u8,
    /// Its name.
    pub name: String,
    /// Whether it succeeded.
    pub ok: bool,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// Facts of the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// `a` or `b`.
    pub slot: char,
    /// Path of the boot disk.
    pub disk: String,
    /// Path of the slot's partition.
    pub slot_partition: String,
    /// How the root is used.
    pub root_mode: RootMode,
    /// SHA-256 of the root image.
    pub root_sha256: Digest,
    /// The stages so far.
    pub stages: Vec<StageReport>,
}

impl Handover {
    /// Writes the document.
    pub fn write(&self, sys: &dyn Sys) -> Result<(), Error> {
        let text =
            serde_json::to_vec_pretty(self).map_err(|source| Error::Document { path: PATH.to_owned(), source })?;
        Ok(sys.replace(PATH, &text, 0o644)?)
    }

    /// Reads the document.
    pub fn read(sys: &dyn Sys) -> Result<Self, Error> {
        read_document(sys, PATH)
    }
}

/// Reads a JSON document.
pub(super) fn read_document<T: for<'a> Deserialize<'a>>(sys: &dyn Sys, path: &str) -> Result<T, Error> {
    let bytes: Vec<u8> = sys.read(path, TEXT_LIMIT).map_err(|error: sys::Error| Error::Sys(error))?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Document { path: path.to_owned(), source })
}
