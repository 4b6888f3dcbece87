//! `(manifest, resolved components) -> plan`: pure. The plan is immutable and leaves no choice for execution: every
//! step with its parameters and inputs, the partitions with their identifiers, the artifacts with their names.
//! [`check`] checks its invariants in a module of its own.

pub mod check;
pub mod identity;
pub mod packages;
pub mod resolved;
mod steps;

use std::collections::BTreeMap;

use ksos_formats::boot::ImageId;
use ksos_formats::{Arch, Digest};
use serde::Serialize;

use crate::graph::{Input, Step};
use crate::manifest::{Manifest, OutputFormat, PartitionRole};
pub use resolved::{
    Download, ImageSource, KernelBuild, KernelBuildBase, LocalTree, Package, Program, Resolved, ResolvedComponent,
    ResolvedImage, TinyCoreFile, TinyCorePlace, Trust, update_config,
};
pub use steps::{ImageBlobs, KernelTask, ModulesTask, Part, SYSTEM_IMAGE, Selection, Task};

/// A plan.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Image name, version, architecture and epoch.
    pub image: ImageId,
    /// Steps; inputs name earlier steps only.
    pub steps: Vec<Step>,
    /// What each step does, by its name.
    #[serde(skip)]
    pub tasks: BTreeMap<String, Task>,
    /// Every component's pieces, by component.
    #[serde(skip)]
    pub parts: BTreeMap<String, (Part, BTreeMap<String, Input>)>,
    /// Kernel command line, without what the boot loader adds.
    pub cmdline: Vec<String>,
    /// The disk.
    pub disk: DiskPlan,
    /// What the system is made of, by name and version.
    pub packages: Vec<packages::ListedPackage>,
    /// Blobs of every container image.
    #[serde(skip)]
    pub images: Vec<ImageBlobs>,
    /// Artifacts that are files.
    pub artifacts: Vec<PlannedArtifact>,
    /// The release for updates, when it is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleasePlan>,
}

/// The release of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReleasePlan {
    /// Name of its directory in the output directory.
    pub directory_name: String,
    /// What kind of machine the image is for.
    pub board: String,
    /// The oldest version that may update to it.
    pub minimum_version: Option<String>,
    /// When it ends to be installed, seconds since 1970.
    pub expires: Option<u64>,
}

/// One artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedArtifact {
    /// Format.
    pub format: OutputFormat,
    /// File name in the output directory.
    pub file_name: String,
}

/// The disk's identifiers and partitions, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskPlan {
    /// GPT disk GUID.
    pub guid: uuid::Uuid,
    /// Partitions in disk order; their GPT numbers are 1, 2, ...
    pub partitions: Vec<PartitionPlan>,
    /// GPT partition GUID of the BIOS boot partition, which has the number behind the last one, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bios: Option<uuid::Uuid>,
    /// Size in bytes of the smallest disk that the image may be written to.
    pub minimum_size: u64,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionPlan {
    /// Name in the manifest.
    pub name: String,
    /// GPT name and file system label.
    pub label: String,
    /// What it is for.
    pub role: PartitionRole,
    /// Size in bytes in the image file.
    pub size: u64,
    /// GPT partition GUID.
    pub guid: uuid::Uuid,
    /// File system UUID (ext4) or the volume serial number in its first four bytes (FAT).
    pub filesystem: uuid::Uuid,
}

impl Plan {
    /// Returns what the names of all outputs begin with.
    pub fn stem(&self) -> String {
        stem(&self.image)
    }
}

fn stem(image: &ImageId) -> String {
    format!("{}-{}-{}", image.name, image.version, image.arch)
}

impl DiskPlan {
    /// Returns the GPT number, from 1, and the plan of the partition with `role`.
    pub fn partition(&self, role: PartitionRole) -> Option<(u32, &PartitionPlan)> {
        let position = self.partitions.iter().position(|partition| partition.role == role)?;
        Some((position as u32 + 1, &self.partitions[position]))
    }
}

/// What a plan is made from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The manifest, resolved for one architecture.
    pub manifest: &'a Manifest,
    /// The architecture.
    pub arch: Arch,
    /// Build epoch, seconds since 1970.
    pub epoch: u64,
    /// Every component, resolved.
    pub components: &'a BTreeMap<String, ResolvedComponent>,
    /// Overlay directories.
    pub overlays: &'a BTreeMap<String, LocalTree>,
    /// Container images that are not built here, resolved.
    pub images: &'a BTreeMap<String, ResolvedImage>,
    /// What the root file system has of keys for updates.
    pub trust: Option<&'a Trust>,
    /// Contents of the required-option files.
    pub required_options: &'a [(String, String)],
    /// Version of the composer, part of every key.
    pub composer: &'a str,
}

/// Makes the plan.
pub fn plan(inputs: &Inputs<'_>) -> Plan {
    let Inputs { manifest, arch, epoch, .. } = inputs;
    let image = ImageId {
        name: manifest.image.name.clone(),
        version: manifest.image.version.clone(),
        arch: *arch,
        epoch: *epoch,
    };
    let stem = stem(&image);
    let wanted = manifest.outputs.wanted(manifest.update.is_enabled());
    let artifact = |format: &OutputFormat| {
        let file_name = format!("{stem}{}", format.suffix());
        (*format != OutputFormat::Update).then_some(PlannedArtifact { format: *format, file_name })
    };
    let artifacts = wanted.iter().filter_map(artifact).collect();
    let disk = disk(manifest, &image);
    let steps::Steps { steps, tasks, parts, images } = steps::steps(inputs, &image);
    let release = wanted.contains(&OutputFormat::Update).then(|| release(manifest, &image, &stem));
    let packages = packages::list(inputs);
    let cmdline = manifest.kernel.cmdline.clone();
    Plan { image, steps, tasks, parts, cmdline, disk, packages, images, artifacts, release }
}

fn release(manifest: &Manifest, image: &ImageId, stem: &str) -> ReleasePlan {
    let update = &manifest.update;
    ReleasePlan {
        directory_name: format!("{stem}{}", ksos_formats::update::RELEASE_SUFFIX),
        board: update.board.clone(),
        minimum_version: update.minimum_version.clone(),
        expires: update.valid_for.map(|time| image.epoch.saturating_add(time.milliseconds / 1000)),
    }
}

fn disk(manifest: &Manifest, image: &ImageId) -> DiskPlan {
    let mut partitions: Vec<_> = manifest.partitions.iter().collect();
    partitions.sort_by_key(|(_, partition)| partition.order);
    let partitions = partitions.into_iter().map(|(name, partition)| PartitionPlan {
        name: name.clone(),
        label: partition.label.clone(),
        role: partition.role,
        size: partition.size.bytes(),
        guid: identity::uuid(image, &format!("partition {name}")),
        filesystem: identity::uuid(image, &format!("file system {name}")),
    });
    DiskPlan {
        guid: identity::uuid(image, "disk"),
        partitions: partitions.collect(),
        bios: manifest.boot.bios.as_ref().map(|_| identity::uuid(image, "partition for BIOS boot")),
        minimum_size: manifest.disk.minimum_size.bytes(),
    }
}

/// Returns the digest of a serialisable value: for parameters that are too long to print.
pub fn digest_of<T: Serialize>(value: &T) -> Digest {
    Digest::of(&serde_json::to_vec(value).expect("the project's own types can be serialised"))
}

#[cfg(test)]
mod tests;
