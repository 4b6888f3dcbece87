//! What the initramfs needs to know to find, verify and mount the root file system.

use serde::{Deserialize, Serialize};

use crate::{Arch, Digest};

/// The current value of every `format` field in this module.
pub const FORMAT: u32 = 1;

/// How the root file system is used after it was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootMode {
    /// Mounted from the slot through dm-verity: a 512 MB machine stays usable.
    Slot,
    /// Copied to RAM, verified while it is copied, and mounted from there.
    Ram,
}

/// The root file system image: a SquashFS image, padded to 4 KiB, with a dm-verity hash tree behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootImage {
    /// File name inside the slot, normally [`crate::layout::SLOT_ROOT`].
    pub file: String,
    /// Size of the whole file in bytes, hash tree included.
    pub size: u64,
    /// SHA-256 of the whole file, hash tree included.
    pub sha256: Digest,
    /// dm-verity parameters.
    pub verity: Verity,
}

/// dm-verity parameters (Linux `Documentation/admin-guide/device-mapper/verity.rst`, hash type 1, SHA-256).
/// The file holds data, then the hash tree, without a verity superblock; blocks are 4096 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verity {
    /// Number of 4096-byte data blocks; the hash tree starts at this block.
    pub data_blocks: u64,
    /// Digest of the root of the hash tree.
    pub root_hash: Digest,
    /// Salt, hexadecimal, put before each block when hashing.
    pub salt: Digest,
}

/// `/ksos/boot.json` in the initramfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootConfig {
    /// [`FORMAT`].
    pub format: u32,
    /// Image name, version and architecture.
    pub image: ImageId,
    /// Kernel release (`uname -r`): the directory below `/lib/modules`.
    pub kernel_release: String,
    /// Modules that the initramfs always loads, by name, dependencies not listed.
    pub modules: Vec<String>,
    /// How the root is used unless `ksos.root=` says otherwise.
    pub root_mode: RootMode,
    /// The root image to look for in the slot.
    pub root: RootImage,
    /// GPT partition names of the system slots.
    #[serde(default)]
    pub slots: SlotLabels,
}

/// GPT partition names of the two system slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotLabels {
    /// Slot A, normally [`crate::layout::SLOT_A_LABEL`].
    pub a: String,
    /// Slot B, normally [`crate::layout::SLOT_B_LABEL`].
    pub b: String,
}

impl Default for SlotLabels {
    fn default() -> Self {
        SlotLabels { a: crate::layout::SLOT_A_LABEL.to_owned(), b: crate::layout::SLOT_B_LABEL.to_owned() }
    }
}

/// Which image this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageId {
    /// Image name, as in the manifest.
    pub name: String,
    /// Image version, as in the manifest.
    pub version: String,
    /// Architecture.
    pub arch: Arch,
    /// Build epoch in seconds since 1970 (`SOURCE_DATE_EPOCH`): the lower bound of the node's clock.
    pub epoch: u64,
}

/// `image.json` in a slot: what the slot holds, for tools and updates. The boot path does not trust it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMetadata {
    /// [`FORMAT`].
    pub format: u32,
    /// Image name, version and architecture.
    pub image: ImageId,
    /// Kernel release.
    pub kernel_release: String,
    /// The root image beside this file.
    pub root: RootImage,
    /// SHA-256 of `vmlinuz`.
    pub kernel_sha256: Digest,
    /// SHA-256 of the initramfs.
    pub initramfs_sha256: Digest,
    /// Kernel command line of the image, without what the boot loader adds.
    pub cmdline: String,
}
