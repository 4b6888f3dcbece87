//! What an ISO image holds of the disk that its installer writes.
//!
//! The image is that of the disk, in pieces: each a range of the disk whose bytes are those of a range of a file on the
//! medium. Everything between the pieces is zeros. Files of the system slot are on the medium once, as themselves: live
//! mode uses them, and pieces lead into them; what else the partitions hold is in [`DATA_FILE`].

use serde::{Deserialize, Serialize};

use crate::boot::ImageId;
use crate::{Digest, layout};

/// The current value of [`Install::format`].
pub const FORMAT: u32 = 1;
/// Directory of the medium with the files of the system slot and those named here.
pub const DIRECTORY: &str = "ksos";
/// The [`Install`] document in [`DIRECTORY`].
pub const DOCUMENT_FILE: &str = "install.json";
/// What pieces hold that is in no other file, in [`DIRECTORY`].
pub const DATA_FILE: &str = "install.data";
/// Configuration that a site has put on the medium, in [`DIRECTORY`]: a document with the key `install`.
pub const CONFIG_FILE: &str = "install.yaml";
/// Beginning of the name of the medium's volume; 24 digits of the digest of the document follow.
pub const VOLUME_PREFIX: &str = "KSOS_";
/// Most bytes of the document.
pub const DOCUMENT_LIMIT: u64 = 4 << 20;
/// Where the first partition that is a file system begins, in bytes. What is before is written last, for it makes the
/// disk bootable.
pub const HEAD: u64 = 1 << 20;

/// The disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Install {
    /// [`FORMAT`].
    pub format: u32,
    /// Image name, version and architecture.
    pub image: ImageId,
    /// Bytes of the disk from its start that are written: up to the end of the last partition.
    pub size: u64,
    /// The smallest disk in bytes.
    pub minimum_disk: u64,
    /// What is not zero, in the order of the disk; none over another, and none both before and behind [`HEAD`].
    pub pieces: Vec<Piece>,
    /// SHA-256 of the bytes of all pieces, in order.
    pub sha256: Digest,
}

/// A range of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// First byte on the disk.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// File in [`DIRECTORY`].
    pub file: String,
    /// First byte in the file. Pieces of one file go forward in it.
    pub at: u64,
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstallFault {
    /// Another format.
    #[error("format {0}; this program reads format {FORMAT}")]
    Format(u32),
    /// A piece that is not where it may be.
    #[error("the piece at byte {offset} {fault}")]
    Piece {
        /// Where it begins.
        offset: u64,
        /// What is wrong with it.
        fault: &'static str,
    },
}

impl Install {
    /// Checks what the document says against itself.
    ///
    /// # Errors
    /// [`InstallFault`]. Nothing of such a document is to be used.
    pub fn check(&self) -> Result<(), InstallFault> {
        if self.format != FORMAT {
            return Err(InstallFault::Format(self.format));
        }
        let files = [DATA_FILE, layout::SLOT_KERNEL, layout::SLOT_INITRAMFS, layout::SLOT_ROOT];
        let mut positions = [0; 4];
        let mut end = 0;
        for Piece { offset, length, file, at } in &self.pieces {
            let fail = |fault| Err(InstallFault::Piece { offset: *offset, fault });
            let (Some(next), Some(next_at)) = (offset.checked_add(*length), at.checked_add(*length)) else {
                return fail("is longer than any disk");
            };
            if *length == 0 || *offset < end || next > self.size {
                return fail("is empty, over another, or behind the end");
            }
            if *offset < HEAD && next > HEAD {
                return fail("is both before and behind the first megabyte");
            }
            let Some(index) = files.iter().position(|known| known == file) else {
                return fail("is in a file that an installer does not read");
            };
            if *at < positions[index] {
                return fail("goes back in its file");
            }
            (positions[index], end) = (next_at, next);
        }
        Ok(())
    }

    /// Returns the name of the volume of a medium with this document, of which `bytes` is the text.
    pub fn volume_name(bytes: &[u8]) -> String {
        let digest = Digest::of(bytes).hex().to_uppercase();
        format!("{VOLUME_PREFIX}{}", &digest[..24])
    }
}

/// Whether `name` can be the name of a medium's volume.
pub fn is_volume_name(name: &str) -> bool {
    let digits = name.strip_prefix(VOLUME_PREFIX).unwrap_or_default();
    digits.len() == 24 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arch;

    fn piece(offset: u64, length: u64, file: &str, at: u64) -> Piece {
        Piece { offset, length, file: file.to_owned(), at }
    }

    fn install(pieces: Vec<Piece>) -> Install {
        let image = ImageId { name: "x".to_owned(), version: "1.0.0".to_owned(), arch: Arch::Arm64, epoch: 1 };
        Install { format: FORMAT, image, size: 4 << 20, minimum_disk: 8 << 20, pieces, sha256: Digest([0; 32]) }
    }

    #[test]
    fn documents_that_contradict_themselves_are_refused_by_the_piece() {
        let good =
            [piece(0, 512, DATA_FILE, 0), piece(HEAD, 4096, "vmlinuz", 0), piece(HEAD + 4096, 512, DATA_FILE, 512)];
        assert_eq!(install(good.to_vec()).check(), Ok(()));
        for (bad, expected) in [
            (piece(HEAD + 4097, u64::MAX, DATA_FILE, 512), "the piece at byte 1052673 is longer than any disk"),
            (
                piece(HEAD + 4000, 512, DATA_FILE, 512),
                "the piece at byte 1052576 is empty, over another, or behind the end",
            ),
            (
                piece(HEAD + 8192, 0, DATA_FILE, 512),
                "the piece at byte 1056768 is empty, over another, or behind the end",
            ),
            (piece(4 << 20, 1, DATA_FILE, 512), "the piece at byte 4194304 is empty, over another, or behind the end"),
            (
                piece(HEAD + 8192, 1, "../x", 0),
                "the piece at byte 1056768 is in a file that an installer does not read",
            ),
            (piece(HEAD + 8192, 1, "vmlinuz", 0), "the piece at byte 1056768 goes back in its file"),
        ] {
            let fault = install([&good[..2], &[bad]].concat()).check().expect_err("bad");
            assert_eq!(fault.to_string(), expected);
        }
        let across = install(vec![piece(HEAD - 1, 2, DATA_FILE, 0)]).check().expect_err("bad");
        assert!(across.to_string().contains("both before and behind"));
        let later = Install { format: 2, ..install(Vec::new()) };
        assert_eq!(later.check(), Err(InstallFault::Format(2)));
    }

    #[test]
    fn volumes_are_named_by_the_digest() {
        let name = Install::volume_name(b"{}");
        assert_eq!(name, "KSOS_44136FA355B3678A1146AD16");
        assert!(is_volume_name(&name));
        for other in ["", "KSOS_", "KSOS_44136fa355b3678a1146ad16", "KSOS_44136FA355B3678A1146AD1", "CDROM"] {
            assert!(!is_volume_name(other), "{other}");
        }
    }
}
