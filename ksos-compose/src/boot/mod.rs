//! The boot loader's configuration and the files that go on the EFI system partition.
//!
//! The GRUB script is data: `firmware/grub/grub.cfg`, with `@NAME@` places. Rendering is pure and refuses every value
//! that could end a word or a quotation of the script (GRUB manual, "Writing GRUB configuration files directly"):
//! kernel parameters stand in single quotes, where only `'` is special; the rest is limited to names and numbers.

use std::collections::BTreeMap;

use ksos_formats::Arch;
use ksos_formats::bootstate::{BootState, COPIES, MARKS, Mark};
use ksos_formats::layout::{PARAM_ESP, PARAM_LIVE, PARAM_SLOT, SLOT_INITRAMFS, SLOT_KERNEL};

const TEMPLATE: &str = include_str!("../../../firmware/grub/grub.cfg");
const LIVE_TEMPLATE: &str = include_str!("../../../firmware/grub/live.cfg");

/// Longest command line in bytes that the composer accepts: `COMMAND_LINE_SIZE` is 2048 on both architectures, and
/// GRUB adds `BOOT_IMAGE=`, the slot and the partition.
pub const MAX_CMDLINE: usize = 1900;

/// Where the signed GRUB of Debian looks for its configuration: its built-in prefix.
pub const GRUB_CONFIG: &str = "EFI/debian/grub.cfg";

/// What the template needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrubConfig<'a> {
    /// Image name, as shown in the menu: `[a-z0-9][a-z0-9-]*`.
    pub name: &'a str,
    /// Architecture.
    pub arch: Arch,
    /// Kernel parameters, one each.
    pub cmdline: &'a [String],
    /// GPT partition number of system slot A, from 1.
    pub slot_a: u32,
    /// GPT partition number of system slot B, from 1.
    pub slot_b: u32,
    /// Seconds that the menu waits; 0 shows none.
    pub timeout: u32,
}

/// What the template of ISO images needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveConfig<'a> {
    /// Image name: `[a-z0-9][a-z0-9-]*`.
    pub name: &'a str,
    /// Image version.
    pub version: &'a str,
    /// Architecture.
    pub arch: Arch,
    /// Kernel parameters, one each.
    pub cmdline: &'a [String],
    /// Name of the volume ([`ksos_formats::install::is_volume_name`]).
    pub volume: &'a str,
    /// Seconds that the menu waits.
    pub timeout: u32,
}

/// A value that the boot loader's configuration cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootConfigError {
    /// A kernel parameter with white space, quotes, a backslash, or bytes other than printable ASCII.
    #[error(
        "kernel parameter {parameter:?} contains {found:?}; parameters are printable ASCII without spaces, quotes or backslashes"
    )]
    Parameter {
        /// The parameter.
        parameter: String,
        /// The first character that is not allowed.
        found: char,
    },
    /// An empty kernel parameter.
    #[error("a kernel parameter is empty")]
    EmptyParameter,
    /// A kernel parameter that the boot loader itself gives.
    #[error("kernel parameter {0:?} is set by the boot loader")]
    Reserved(String),
    /// The command line is too long for the kernel.
    #[error("the kernel command line has {length} bytes; at most {MAX_CMDLINE} fit")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The image name has characters that names do not have.
    #[error("{0:?} is not an image name: expected [a-z0-9][a-z0-9-]*")]
    Name(String),
    /// The version or the name of the volume has characters that they do not have.
    #[error("{0:?} is not a version or the name of a volume")]
    Text(String),
    /// The slots are one partition, or partition 0.
    #[error("system slots cannot be partitions {slot_a} and {slot_b}")]
    Partitions {
        /// Partition of slot A.
        slot_a: u32,
        /// Partition of slot B.
        slot_b: u32,
    },
}

/// Returns the GRUB configuration.
///
/// # Errors
/// [`BootConfigError`] for every value that would not be taken literally.
pub fn grub_config(config: &GrubConfig<'_>) -> Result<String, BootConfigError> {
    let GrubConfig { name, arch, cmdline, slot_a, slot_b, timeout } = config;
    check_name(name)?;
    if slot_a == slot_b || *slot_a == 0 || *slot_b == 0 {
        return Err(BootConfigError::Partitions { slot_a: *slot_a, slot_b: *slot_b });
    }
    let cmdline = quoted(cmdline)?;
    let values = [
        ("NAME", (*name).to_owned()),
        ("ARCH", arch.name().to_owned()),
        ("CMDLINE", cmdline),
        ("SLOT_A", slot_a.to_string()),
        ("SLOT_B", slot_b.to_string()),
        ("TIMEOUT", timeout.to_string()),
        ("KERNEL", SLOT_KERNEL.to_owned()),
        ("INITRAMFS", SLOT_INITRAMFS.to_owned()),
    ];
    Ok(fill(TEMPLATE, &BTreeMap::from(values)))
}

/// Returns the GRUB configuration of an ISO image.
///
/// # Errors
/// [`BootConfigError`] for every value that would not be taken literally.
pub fn live_config(config: &LiveConfig<'_>) -> Result<String, BootConfigError> {
    let LiveConfig { name, version, arch, cmdline, volume, timeout } = config;
    check_name(name)?;
    // A semantic version has no other characters (semver.org, item 9 and 10).
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-+".contains(&byte);
    if !version.bytes().all(plain) || !ksos_formats::install::is_volume_name(volume) {
        return Err(BootConfigError::Text(format!("{version} {volume}")));
    }
    let values = [
        ("NAME", (*name).to_owned()),
        ("VERSION", (*version).to_owned()),
        ("ARCH", arch.name().to_owned()),
        ("CMDLINE", quoted(cmdline)?),
        ("VOLUME", (*volume).to_owned()),
        ("DIRECTORY", ksos_formats::install::DIRECTORY.to_owned()),
        ("TIMEOUT", timeout.to_string()),
        ("KERNEL", SLOT_KERNEL.to_owned()),
        ("INITRAMFS", SLOT_INITRAMFS.to_owned()),
    ];
    Ok(fill(LIVE_TEMPLATE, &BTreeMap::from(values)))
}

/// Returns kernel parameters as words of the script.
fn quoted(cmdline: &[String]) -> Result<String, BootConfigError> {
    for parameter in cmdline {
        check_parameter(parameter)?;
    }
    let length = cmdline.iter().map(|parameter| parameter.len() + 1).sum();
    if length > MAX_CMDLINE {
        return Err(BootConfigError::TooLong { length });
    }
    let quoted: Vec<String> = cmdline.iter().map(|parameter| format!("'{parameter}'")).collect();
    Ok(quoted.join(" "))
}

/// Returns the files of the EFI system partition that do not come from packages: path to content.
///
/// # Errors
/// Those of [`grub_config`].
pub fn esp_files(config: &GrubConfig<'_>) -> Result<BTreeMap<&'static str, Vec<u8>>, BootConfigError> {
    let state = BootState::initial().encode().to_vec();
    Ok(BTreeMap::from([
        (GRUB_CONFIG, grub_config(config)?.into_bytes()),
        (COPIES[0], state.clone()),
        (COPIES[1], state),
        (MARKS[0], Mark { confirmed: true }.encode().to_vec()),
        (MARKS[1], Mark { confirmed: false }.encode().to_vec()),
    ]))
}

/// Replaces `@NAME@` in one pass, so that a value is never searched for places again.
fn fill(template: &str, values: &BTreeMap<&str, String>) -> String {
    let mut parts = template.split('@');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match values.get(part) {
            Some(value) => text.push_str(value),
            None => text.push_str(part),
        }
    }
    text
}

fn check_name(name: &str) -> Result<(), BootConfigError> {
    let ordinary = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let valid = name.bytes().next().is_some_and(ordinary) && name.bytes().all(|byte| ordinary(byte) || byte == b'-');
    if valid { Ok(()) } else { Err(BootConfigError::Name(name.to_owned())) }
}

/// Checks one kernel parameter.
///
/// # Errors
/// [`BootConfigError::Parameter`], [`BootConfigError::EmptyParameter`], [`BootConfigError::Reserved`].
pub fn check_parameter(parameter: &str) -> Result<(), BootConfigError> {
    if parameter.is_empty() {
        return Err(BootConfigError::EmptyParameter);
    }
    // GRUB joins the words and quotes those with spaces in its own way; quotes and backslashes it escapes, which the
    // kernel does not undo (Documentation/admin-guide/kernel-parameters.rst knows double quotes only).
    let allowed = |character: char| character.is_ascii_graphic() && !matches!(character, '\'' | '"' | '\\');
    if let Some(found) = parameter.chars().find(|character| !allowed(*character)) {
        return Err(BootConfigError::Parameter { parameter: parameter.to_owned(), found });
    }
    let name = parameter.split('=').next().unwrap_or(parameter);
    if [PARAM_SLOT, PARAM_ESP, PARAM_LIVE, "BOOT_IMAGE"].contains(&name) {
        return Err(BootConfigError::Reserved(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod qemu_tests;
#[cfg(test)]
mod tests;
