//! Where distributions put UEFI firmware for QEMU.

use std::path::{Path, PathBuf};

use ksos_formats::Arch;

use super::RunError;

/// Format of firmware files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Flash content as it is.
    Raw,
    /// QEMU's own image format.
    Qcow2,
}

/// A firmware image with the template of its variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// The code; read-only.
    pub code: PathBuf,
    /// The variables to start with; a copy is made for each run.
    pub variables: PathBuf,
    /// Format of both.
    pub format: Format,
}

/// Architecture, whether Microsoft's keys are enrolled and enforced, code, variables.
type Known = (Arch, bool, &'static str, &'static str);

/// Debian and Ubuntu (`ovmf`, `qemu-efi-aarch64`), Fedora (`edk2-ovmf`, `edk2-aarch64`), Arch (`edk2-ovmf`,
/// `edk2-aarch64`), openSUSE, Homebrew on both processors. The first pair that is there is taken. Arch and Homebrew
/// have no variables with Microsoft's keys.
const KNOWN: [Known; 21] = [
    (Arch::X86_64, true, "/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    (
        Arch::X86_64,
        true,
        "/usr/share/edk2/ovmf/OVMF_CODE_4M.secboot.qcow2",
        "/usr/share/edk2/ovmf/OVMF_VARS_4M.secboot.qcow2",
    ),
    (Arch::X86_64, true, "/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"),
    (Arch::X86_64, true, "/usr/share/qemu/ovmf-x86_64-smm-ms-code.bin", "/usr/share/qemu/ovmf-x86_64-smm-ms-vars.bin"),
    (Arch::X86_64, false, "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    (Arch::X86_64, false, "/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    (Arch::X86_64, false, "/usr/share/edk2/ovmf/OVMF_CODE_4M.qcow2", "/usr/share/edk2/ovmf/OVMF_VARS_4M.qcow2"),
    (Arch::X86_64, false, "/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    (Arch::X86_64, false, "/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    (Arch::X86_64, false, "/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
    (Arch::X86_64, false, "/opt/homebrew/share/qemu/edk2-x86_64-code.fd", "/opt/homebrew/share/qemu/edk2-i386-vars.fd"),
    (Arch::X86_64, false, "/usr/local/share/qemu/edk2-x86_64-code.fd", "/usr/local/share/qemu/edk2-i386-vars.fd"),
    (Arch::X86_64, false, "/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"),
    (Arch::Arm64, true, "/usr/share/AAVMF/AAVMF_CODE.ms.fd", "/usr/share/AAVMF/AAVMF_VARS.ms.fd"),
    (Arch::Arm64, false, "/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    (Arch::Arm64, false, "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    (
        Arch::Arm64,
        false,
        "/usr/share/edk2/aarch64/QEMU_EFI-pflash.qcow2",
        "/usr/share/edk2/aarch64/vars-template-pflash.qcow2",
    ),
    (
        Arch::Arm64,
        false,
        "/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw",
        "/usr/share/edk2/aarch64/vars-template-pflash.raw",
    ),
    (Arch::Arm64, false, "/usr/share/edk2/aarch64/QEMU_CODE.fd", "/usr/share/edk2/aarch64/QEMU_VARS.fd"),
    (Arch::Arm64, false, "/opt/homebrew/share/qemu/edk2-aarch64-code.fd", "/opt/homebrew/share/qemu/edk2-arm-vars.fd"),
    (Arch::Arm64, false, "/usr/local/share/qemu/edk2-aarch64-code.fd", "/usr/local/share/qemu/edk2-arm-vars.fd"),
];

/// Finds firmware for which `exists` says that both files are there.
///
/// # Errors
/// [`RunError::NoFirmware`], naming the packages that have it.
pub fn find(arch: Arch, secure_boot: bool, exists: &dyn Fn(&Path) -> bool) -> Result<Firmware, RunError> {
    let fitting = || KNOWN.iter().filter(|(for_arch, secure, ..)| *for_arch == arch && *secure == secure_boot);
    let found = fitting().find(|(_, _, code, variables)| exists(Path::new(code)) && exists(Path::new(variables)));
    match found {
        Some((_, _, code, variables)) => {
            let format = if code.ends_with(".qcow2") { Format::Qcow2 } else { Format::Raw };
            Ok(Firmware { code: code.into(), variables: variables.into(), format })
        }
        None => {
            let (debian, fedora) = match arch {
                Arch::X86_64 => ("ovmf", "edk2-ovmf"),
                Arch::Arm64 if secure_boot => ("qemu-efi-aarch64", "none of Fedora's"),
                Arch::Arm64 => ("qemu-efi-aarch64", "edk2-aarch64"),
            };
            let homebrew = if secure_boot { "no formula of Homebrew" } else { "qemu (Homebrew)" };
            let looked_for = fitting().map(|(_, _, code, _)| PathBuf::from(code)).collect();
            Err(RunError::NoFirmware { arch, secure_boot, debian, fedora, homebrew, looked_for })
        }
    }
}
