//! Kernel, boot loader, root file system, disk, and the files and users that a manifest states itself.

use std::collections::BTreeMap;

use ksos_formats::boot::RootMode;
use ksos_formats::layout;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use super::values::{HostPath, ImagePath, Mode, ModulePattern, RequiredOption, Size};
use super::{enabled, texts};

/// The kernel, its command line and its modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Kernel {
    /// Component with `boot/vmlinuz-R`, `boot/config-R` and `usr/lib/modules/R` (or `lib/modules/R`).
    pub component: String,
    /// Kernel parameters, one per item.
    #[serde(default)]
    #[schemars(with = "Vec<texts::KernelParameter>")]
    pub cmdline: Vec<String>,
    /// Modules in the root file system, with what they depend on: names, or globs such as `nft_*`.
    #[serde(default)]
    pub modules: Vec<ModulePattern>,
    /// Modules loaded before services start.
    #[serde(default)]
    pub load: Vec<ModulePattern>,
    /// Modules that the initramfs holds and always loads, with what they depend on.
    #[serde(default)]
    pub initramfs_modules: Vec<ModulePattern>,
    /// Modules that the initramfs holds and loads when hardware asks for them, with what they depend on.
    #[serde(default)]
    pub initramfs_drivers: Vec<ModulePattern>,
    /// Options that the kernel's configuration must have, without `CONFIG_`: `NAME` (y or m), `NAME=y`, `NAME=m`,
    /// `NAME=n` (not set).
    #[serde(default)]
    pub required_options: Vec<RequiredOption>,
    /// Files with required options, one per line; `#` starts a comment.
    #[serde(default)]
    pub required_options_files: Vec<HostPath>,
}

/// The boot loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Boot {
    /// Kind of boot loader.
    #[serde(default)]
    pub loader: BootLoader,
    /// The first stage that the firmware verifies.
    pub shim: BootFile,
    /// The boot loader that shim verifies.
    pub grub: BootFile,
    /// Directory with the files of GRUB for BIOS. Without it, the image boots by UEFI only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bios: Option<BootFile>,
    /// Components whose trees go into the EFI system partition beside the boot loader: what a board's own firmware reads.
    #[serde(default)]
    pub files: Vec<String>,
    /// Seconds that the boot menu waits.
    #[serde(default)]
    #[schemars(range(min = 0, max = 3600))]
    pub timeout: u32,
}

/// Kind of boot loader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum BootLoader {
    /// The distribution's signed shim and GRUB.
    #[default]
    Grub,
}

/// A file of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BootFile {
    /// Component with the file.
    pub component: String,
    /// Path in the component's tree.
    pub path: ImagePath,
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Root {
    /// How the root is used: `slot` mounts it from the system slot, `ram` copies it to RAM first.
    #[schemars(schema_with = "root_mode_schema")]
    pub mode: RootMode,
    /// Compression of the root image.
    pub compression: Compression,
    /// Compression level: 1 to 22 for zstd, 0 to 9 for xz, 1 to 9 for gzip. The best of the kind when not stated.
    #[schemars(with = "i32", range(min = 0, max = 22))]
    pub compression_level: Option<i32>,
    /// Block size of the root image: a power of two from 4KiB to 1MiB.
    pub block_size: Size,
    /// Absolute paths that live on the data partition and survive updates.
    pub persist: Vec<ImagePath>,
    /// Directories created in tmpfs (`/run`, `/tmp`, ...) at each boot.
    pub directories: Vec<Directory>,
    /// Writes `/etc/ssl/certs/ca-certificates.crt` from the certificates below `/usr/share/ca-certificates`.
    pub ca_bundle: bool,
}

impl Default for Root {
    fn default() -> Self {
        Root {
            mode: RootMode::Slot,
            compression: Compression::Zstd,
            compression_level: None,
            block_size: Size(256 << 10),
            persist: Vec::new(),
            directories: Vec::new(),
            ca_bundle: false,
        }
    }
}

impl Root {
    /// Returns the compression level to use: the stated one, or 15 for zstd, 6 for xz and 9 for gzip.
    pub fn level(&self) -> i32 {
        let default = match self.compression {
            Compression::Zstd => 15,
            Compression::Xz => 6,
            Compression::Gzip => 9,
            Compression::None => 0,
        };
        self.compression_level.unwrap_or(default)
    }
}

fn root_mode_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["slot", "ram"] })
}

/// Compression of the root image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Compression {
    /// Zstandard.
    Zstd,
    /// LZMA2 in an xz container.
    Xz,
    /// zlib.
    Gzip,
    /// Stored.
    None,
}

/// A directory created at boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Directory {
    /// Absolute path.
    pub path: ImagePath,
    /// Permission bits.
    #[serde(default = "directory_mode")]
    pub mode: Mode,
}

fn directory_mode() -> Mode {
    Mode(0o755)
}

/// A partition of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Partition {
    /// Size. Of the data partition: its size in the image file; it is grown to the end of the disk on first boot.
    pub size: Size,
    /// Label of the partition and of the file system in it.
    #[schemars(with = "texts::Label")]
    pub label: String,
    /// What the partition is for.
    pub role: PartitionRole,
    /// Place on the disk: partitions are numbered from 1 in this order.
    #[schemars(range(min = 1, max = 128))]
    pub order: u32,
}

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum PartitionRole {
    /// The EFI system partition (FAT32).
    Esp,
    /// System slot A (ext4).
    SlotA,
    /// System slot B (ext4).
    SlotB,
    /// The data partition (ext4).
    Data,
}

/// The layout of a manifest that states no partitions.
pub(super) fn default_partitions() -> BTreeMap<String, Partition> {
    let partition = |name: &str, mebibytes: u64, label: &str, role, order| {
        (name.to_owned(), Partition { size: Size(mebibytes << 20), label: label.to_owned(), role, order })
    };
    BTreeMap::from([
        partition("esp", 256, layout::ESP_LABEL, PartitionRole::Esp, 1),
        partition("system-a", 512, layout::SLOT_A_LABEL, PartitionRole::SlotA, 2),
        partition("system-b", 512, layout::SLOT_B_LABEL, PartitionRole::SlotB, 3),
        partition("data", 64, layout::DATA_LABEL, PartitionRole::Data, 4),
    ])
}

/// The disk that the image is written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Disk {
    /// Smallest disk that the image supports.
    #[serde(default = "minimum_size")]
    pub minimum_size: Size,
}

fn minimum_size() -> Size {
    Size(8 << 30)
}

impl Default for Disk {
    fn default() -> Self {
        Disk { minimum_size: minimum_size() }
    }
}

/// A directory copied over the root file system. Everything in it belongs to root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Overlay {
    /// The directory.
    pub source: HostPath,
    /// Where in the image its content goes.
    #[serde(default = "root_path")]
    pub to: ImagePath,
    /// `false` drops an inherited overlay.
    #[serde(default = "enabled", skip_serializing)]
    pub enabled: bool,
}

fn root_path() -> ImagePath {
    "/".parse().expect("the root is a path")
}

/// A file whose content the manifest states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FileEntry {
    /// Content, as UTF-8, written as it stands.
    pub content: String,
    /// Permission bits.
    #[serde(default = "file_mode")]
    pub mode: Mode,
    /// Owner.
    #[serde(default)]
    pub uid: u32,
    /// Group.
    #[serde(default)]
    pub gid: u32,
    /// `false` drops an inherited file.
    #[serde(default = "enabled", skip_serializing)]
    pub enabled: bool,
}

fn file_mode() -> Mode {
    Mode(0o644)
}

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Link {
    /// What it points to.
    #[schemars(with = "texts::LinkTarget")]
    pub target: String,
    /// `false` drops an inherited link.
    #[serde(default = "enabled", skip_serializing)]
    pub enabled: bool,
}

/// A user with a group of the same name and number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct User {
    /// User number.
    #[schemars(range(min = 1, max = 4_294_967_293_u32))]
    pub uid: u32,
    /// Group number. The same as `uid` when it is not stated.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 1, max = 4_294_967_293_u32))]
    pub gid: Option<u32>,
    /// Home directory.
    #[serde(default = "default_home")]
    #[schemars(with = "texts::AbsolutePath")]
    pub home: String,
    /// Shell.
    #[serde(default = "default_shell")]
    #[schemars(with = "texts::AbsolutePath")]
    pub shell: String,
    /// `false` drops an inherited user.
    #[serde(default = "enabled", skip_serializing)]
    pub enabled: bool,
}

impl User {
    /// Returns the group number.
    pub fn group(&self) -> u32 {
        self.gid.unwrap_or(self.uid)
    }
}

fn default_home() -> String {
    "/".to_owned()
}

fn default_shell() -> String {
    "/usr/sbin/nologin".to_owned()
}

/// Schema of a value below `sysctl`: a string, or an integer.
pub(super) struct SysctlValue;

impl JsonSchema for SysctlValue {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SysctlValue".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "format": "ksos-sysctl-value" })
    }
}

/// Reads the sysctl table; integers become their decimal text.
pub(super) fn deserialize_sysctl<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let values = BTreeMap::<String, serde_json::Value>::deserialize(deserializer)?;
    let text = |value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(values.into_iter().map(|(key, value)| (key, text(value))).collect())
}
