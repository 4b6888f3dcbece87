//! Machine architectures and the names that each ecosystem gives them.

use serde::{Deserialize, Serialize};

/// A machine architecture that images are built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Arch {
    /// 64-bit x86 (Debian `amd64`, ELF `EM_X86_64`).
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm (Debian `arm64`, ELF `EM_AARCH64`).
    #[serde(rename = "arm64")]
    Arm64,
}

impl Arch {
    /// Every architecture, in a fixed order.
    pub const ALL: [Arch; 2] = [Arch::X86_64, Arch::Arm64];

    /// Returns the name used in manifests and artifact names.
    pub fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Arm64 => "arm64",
        }
    }

    /// Returns the Debian (and OCI/Go) name: `amd64` or `arm64`.
    pub fn debian(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::Arm64 => "arm64",
        }
    }

    /// Returns the name that `uname -m` and Rust target triples use: `x86_64` or `aarch64`.
    pub fn machine(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Arm64 => "aarch64",
        }
    }

    /// Returns the ELF `e_machine` value (System V ABI, "ELF Header").
    pub fn elf_machine(self) -> u16 {
        match self {
            Arch::X86_64 => 62,
            Arch::Arm64 => 183,
        }
    }

    /// Returns the UEFI removable-media boot file name (UEFI 2.10, section 3.5.1.1).
    pub fn efi_boot_file(self) -> &'static str {
        match self {
            Arch::X86_64 => "BOOTX64.EFI",
            Arch::Arm64 => "BOOTAA64.EFI",
        }
    }
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "x86_64" | "amd64" => Ok(Arch::X86_64),
            "arm64" | "aarch64" => Ok(Arch::Arm64),
            other => Err(UnknownArch(other.to_owned())),
        }
    }
}

/// An architecture name that is not one of [`Arch::ALL`] or their usual aliases.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown architecture {0:?}; expected x86_64 or arm64")]
pub struct UnknownArch(pub String);
