//! The manifest as Rust types: what the rest of the composer reads. Doc comments become the descriptions of the
//! JSON Schema, so they speak to whoever writes a manifest.

pub mod cache;
pub mod component;
pub mod service;
pub mod settings;
pub mod system;
mod texts;
pub mod update;
pub mod values;

use std::collections::BTreeMap;

use ksos_formats::Arch;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

pub use cache::{CacheMode, CacheModeError, CacheSettings};
pub use component::{
    AptRepository, AptSource, ArchiveFormat, CargoSource, Component, Destination, FileSource, HttpSource, Install,
    KernelBase, KernelCompiler, KernelSource, Source, TinyCoreSource, Unpack,
};
pub use service::{BuiltImage, ContainerImage, ImageContent, Limits, Service, Workloads};
pub use settings::{Engine, Kubernetes, NodeSettings};
pub use system::{
    Boot, BootFile, BootLoader, Compression, Directory, Disk, FileEntry, Kernel, Link, Overlay, Partition,
    PartitionRole, Root, User,
};
pub use update::{Update, UpdateWindow};
pub use values::{
    Duration, Glob, HostPath, ImagePath, Mode, ModulePattern, OptionRequirement, PerArch, RequiredOption, Size,
    ValueError,
};

/// A KubeSolo OS image, resolved for one architecture: `extends` and `[arch.*]` are merged in and what is disabled
/// is gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Manifest {
    /// Name, version and architecture of the image.
    pub image: Image,
    /// Package repositories, by name.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "ksos-name", "pattern": NAME_PATTERN }))]
    pub apt: BTreeMap<String, AptRepository>,
    /// What the image is made of, by name.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "ksos-name", "pattern": NAME_PATTERN }))]
    pub components: BTreeMap<String, Component>,
    /// The kernel, its command line and its modules.
    pub kernel: Kernel,
    /// The boot loader.
    pub boot: Boot,
    /// The root file system.
    #[serde(default)]
    pub root: Root,
    /// Partitions of the disk, by name. Without any: the ESP (256 MiB), two system slots (512 MiB each) and data.
    #[serde(default = "system::default_partitions")]
    #[schemars(extend("propertyNames" = { "format": "ksos-name", "pattern": NAME_PATTERN }))]
    pub partitions: BTreeMap<String, Partition>,
    /// The disk that the image is written to.
    #[serde(default)]
    pub disk: Disk,
    /// Directories copied over the root file system, in the order of their names; a later one replaces files of an
    /// earlier one.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "ksos-name", "pattern": NAME_PATTERN }))]
    pub overlays: BTreeMap<String, Overlay>,
    /// Files written into the root file system, by absolute path, after the overlays.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "ksos-absolute-file", "pattern": "^/." }))]
    pub files: BTreeMap<String, FileEntry>,
    /// Symbolic links in the root file system, by absolute path, after the overlays.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "ksos-absolute-file", "pattern": "^/." }))]
    pub links: BTreeMap<String, Link>,
    /// Kernel settings written at boot, e.g. `"net.ipv4.ip_forward" = "1"`. Quote the key: it has dots.
    #[serde(default, deserialize_with = "system::deserialize_sysctl")]
    #[schemars(with = "BTreeMap<String, system::SysctlValue>")]
    #[schemars(extend("propertyNames" = { "format": "ksos-sysctl-key", "pattern": "^[a-z0-9_]+([./][A-Za-z0-9_.*-]+)+$" }))]
    pub sysctl: BTreeMap<String, String>,
    /// Users, each with a group of the same name, in `/etc/passwd` and `/etc/group`. `root` is always there.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "ksos-user-name", "pattern": "^[a-z_][a-z0-9_-]{0,31}$" }))]
    pub users: BTreeMap<String, User>,
    /// Supervised services, by name.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "ksos-name", "pattern": NAME_PATTERN }))]
    pub services: BTreeMap<String, Service>,
    /// Container images that the image carries, by name.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "ksos-name", "pattern": NAME_PATTERN }))]
    pub container_images: BTreeMap<String, ContainerImage>,
    /// What the runtime does on the node beside running services.
    #[serde(default)]
    pub node: NodeSettings,
    /// Updates of the node. Without keys it takes none.
    #[serde(default)]
    pub update: Update,
    /// A cache of finished steps that machines share.
    #[serde(default)]
    pub cache: CacheSettings,
    /// What workloads may need that the image does not carry.
    #[serde(default)]
    pub workloads: Workloads,
    /// The console.
    #[serde(default)]
    pub console: Console,
    /// What a build writes.
    #[serde(default)]
    pub outputs: Outputs,
    /// Limits that a build is checked against.
    #[serde(default)]
    pub budgets: Budgets,
}

/// Names of components, services, partitions and the like.
pub(super) const NAME_PATTERN: &str = "^[a-z0-9][a-z0-9._-]*$";

/// Name, version and architecture of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Image {
    /// Name of the image; output files are called `<name>-<version>-<arch>`.
    #[schemars(with = "texts::ImageName")]
    pub name: String,
    /// Version of the image (Semantic Versioning 2.0.0), e.g. `0.1.0`.
    #[schemars(with = "texts::Semver")]
    pub version: String,
    /// Architecture to build for when the command line names none; it picks the `[arch.*]` overlay.
    #[schemars(schema_with = "arch_schema")]
    pub arch: Arch,
    /// Host name until configuration gives another (RFC 1123).
    #[serde(default = "default_hostname")]
    #[schemars(with = "texts::Hostname")]
    pub hostname: String,
}

fn default_hostname() -> String {
    "kubesolo".to_owned()
}

fn arch_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["x86_64", "arm64"] })
}

/// The console.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Console {
    /// Gives everybody at the console a root shell. For development images.
    #[serde(default)]
    pub shell: bool,
}

/// What a build writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Outputs {
    /// Output formats. When none is stated: the disk image and, with `update.keys`, the release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub formats: Vec<OutputFormat>,
    /// Bills of materials beside them. `[]`: none.
    #[serde(default = "default_sbom")]
    pub sbom: Vec<crate::sbom::Format>,
    /// Digests of everything that is written in `SHA256SUMS`, and provenance. A disk image is hashed for them as a whole.
    #[serde(default = "enabled")]
    pub checksums: bool,
}

fn default_sbom() -> Vec<crate::sbom::Format> {
    vec![crate::sbom::Format::Spdx, crate::sbom::Format::Cyclonedx]
}

impl Default for Outputs {
    fn default() -> Self {
        Outputs { formats: Vec::new(), sbom: default_sbom(), checksums: true }
    }
}

impl Outputs {
    /// Returns every format to write once, in the order in which they are stated; `updates`: whether the node takes any.
    pub fn wanted(&self, updates: bool) -> Vec<OutputFormat> {
        if self.formats.is_empty() {
            let release = updates.then_some(OutputFormat::Update);
            return [OutputFormat::Disk].into_iter().chain(release).collect();
        }
        let mut wanted = Vec::new();
        for format in &self.formats {
            if !wanted.contains(format) {
                wanted.push(*format);
            }
        }
        wanted
    }
}

/// A kind of output file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum OutputFormat {
    /// A raw GPT disk image, sparse.
    Disk,
    /// The raw disk image, compressed with Zstandard.
    DiskZst,
    /// An ISO 9660 image that boots from CD and USB stick.
    Iso,
    /// A container image of the root file system, as an OCI layout in a tar.
    OciImage,
    /// The compressed disk image as an OCI artifact, as an OCI layout in a tar.
    OciArtifact,
    /// A disk image for QEMU.
    Qcow2,
    /// A disk image for VMware, stream-optimised.
    Vmdk,
    /// A fixed disk image for Hyper-V and Azure.
    Vhd,
    /// The release for nodes that take updates.
    Update,
}

impl OutputFormat {
    /// Every format.
    pub const ALL: [OutputFormat; 9] = [
        OutputFormat::Disk,
        OutputFormat::DiskZst,
        OutputFormat::Iso,
        OutputFormat::OciImage,
        OutputFormat::OciArtifact,
        OutputFormat::Qcow2,
        OutputFormat::Vmdk,
        OutputFormat::Vhd,
        OutputFormat::Update,
    ];

    /// Returns its name in manifests and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            OutputFormat::Disk => "disk",
            OutputFormat::DiskZst => "disk-zst",
            OutputFormat::Iso => "iso",
            OutputFormat::OciImage => "oci-image",
            OutputFormat::OciArtifact => "oci-artifact",
            OutputFormat::Qcow2 => "qcow2",
            OutputFormat::Vmdk => "vmdk",
            OutputFormat::Vhd => "vhd",
            OutputFormat::Update => "update",
        }
    }

    /// Returns what follows `NAME-VERSION-ARCH` in the name of its file.
    pub fn suffix(self) -> &'static str {
        match self {
            OutputFormat::Disk => ".img",
            OutputFormat::DiskZst => ".img.zst",
            OutputFormat::Iso => ".iso",
            OutputFormat::OciImage => ".oci.tar",
            OutputFormat::OciArtifact => ".disk.oci.tar",
            OutputFormat::Qcow2 => ".qcow2",
            OutputFormat::Vmdk => ".vmdk",
            OutputFormat::Vhd => ".vhd",
            OutputFormat::Update => ksos_formats::update::RELEASE_SUFFIX,
        }
    }
}

impl std::fmt::Display for OutputFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for OutputFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = OutputFormat::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| format!("expected one of {}", OutputFormat::ALL.map(OutputFormat::name).join(", ")))
    }
}

/// Limits that a build is checked against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Budgets {
    /// RAM of the smallest machine that the image must run on.
    #[serde(default)]
    pub memory: Option<Size>,
    /// Space that must stay free in each system slot and in the ESP, in percent.
    #[serde(default = "default_headroom")]
    #[schemars(range(min = 0, max = 90))]
    pub headroom: u8,
}

fn default_headroom() -> u8 {
    10
}

impl Default for Budgets {
    fn default() -> Self {
        Budgets { memory: None, headroom: default_headroom() }
    }
}

/// The value of `enabled` when it is not stated.
fn enabled() -> bool {
    true
}
