//! The disk image: GPT, ESP and system slot A are written straight into one temporary file, which becomes the artifact
//! by a rename. Slot B is empty; the data partition is blank, and the node formats and grows it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ksos_formats::boot::{self, RootImage, SlotMetadata};
use ksos_formats::layout;
use serde::{Deserialize, Serialize};

use super::proof;
use super::resolve::Project;
use super::root::RootError;
use crate::artifact::disk::{self, BiosBoot, DiskSpec, Extent, PartitionContent};
use crate::artifact::window::Window;
use crate::artifact::{ext4, fat};
use crate::boot::{GrubConfig, esp_files};
use crate::cache::Blob;
use crate::effects::fs::AtomicFile;
use crate::graph::Outputs;
use crate::kernel::ModuleIndex;
use crate::manifest::PartitionRole;
use crate::ops::{OpError, Session};
use crate::plan::{PartitionPlan, Plan};
use crate::proof::{Budgets, budget};
use crate::source::archive::merge::Merger;
use crate::tree::{Content, Entry, Meta, Node, Tree};

/// How full a partition is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// What it is, e.g. `slot`.
    pub what: String,
    /// Bytes that its content needs.
    pub used: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// How full the slot and the ESP are.
    pub usage: Vec<Usage>,
    /// Where system slot A is in the image.
    pub slot: Extent,
    /// Kernel release.
    pub kernel_release: String,
}

/// Files of a disk image that come from finished steps.
pub(super) struct Files {
    pub(super) kernel: Content,
    pub(super) initramfs: Blob,
    initramfs_unpacked: u64,
    pub(super) root: Blob,
    root_image: RootImage,
    pub(super) shim: Content,
    pub(super) grub: Content,
    /// What else goes into the ESP, by component.
    esp: Vec<(String, Tree)>,
    release: String,
}

/// Writes the disk image to `path`, all or nothing.
///
/// # Errors
/// When the content does not fit, or cannot be read or written; a file that was at `path` stays then.
pub fn write(
    session: &Session,
    project: &Project,
    plan: &Plan,
    outputs: &BTreeMap<String, Outputs>,
    path: &Path,
) -> Result<Written, OpError> {
    let files = files(session, project, plan, outputs)?;
    let mut file = AtomicFile::create(path)?;
    let partitions = plan.disk.partitions.iter().map(gpt_partition).collect();
    let spec = DiskSpec { disk_guid: plan.disk.guid, partitions, bios: bios(session, project, plan, outputs)? };
    let layout = disk::write(file.file(), &spec)?;
    let (esp_number, esp) = partition(plan, PartitionRole::Esp);
    let (slot_number, slot_plan) = partition(plan, PartitionRole::SlotA);
    let esp_spec = fat::FatSpec {
        kind: fat::FatKind::Fat32,
        size: esp.size,
        label: esp.label.clone(),
        volume_id: u32::from_be_bytes(esp.filesystem.as_bytes()[..4].try_into().expect("a UUID has 16 bytes")),
        epoch: plan.image.epoch as i64,
    };
    let slot_tree = slot_tree(plan, &files);
    let esp_tree = esp_tree(project, plan, &files)?;
    let slot_options = ext4_options(plan, slot_plan);
    let contents = Contents { slot_tree: &slot_tree, slot: &slot_options, esp_tree: &esp_tree, esp: &esp_spec };
    let usage = budgets(project, plan, &files, &contents)?;
    let extent = |number: u32| layout.partitions[number as usize - 1];
    let Extent { offset, size } = extent(esp_number);
    fat::write(&esp_tree, &esp_spec, &mut Window::new(file.file(), offset, size))?;
    let slot = extent(slot_number);
    let Extent { offset, size } = slot;
    ext4::write(&slot_tree, &mut Window::new(file.file(), offset, size), &slot_options)?;
    file.commit(0o644)?;
    Ok(Written { usage, slot, kernel_release: files.release })
}

/// Returns what makes the disk boot by BIOS, when the manifest names GRUB for it.
fn bios(
    session: &Session,
    project: &Project,
    plan: &Plan,
    outputs: &BTreeMap<String, Outputs>,
) -> Result<Option<BiosBoot>, OpError> {
    let (Some(file), Some(guid)) = (&project.manifest().boot.bios, plan.disk.bios) else { return Ok(None) };
    let executor = super::Executor::new(session, project, plan, false);
    super::bios::Files::of(&executor, file, outputs)?.disk(plan, guid).map(Some)
}

fn partition(plan: &Plan, role: PartitionRole) -> (u32, &PartitionPlan) {
    plan.disk.partition(role).expect("the plan's check found every role once")
}

fn gpt_partition(partition: &PartitionPlan) -> disk::Partition {
    let type_guid = match partition.role {
        PartitionRole::Esp => layout::ESP_TYPE_GUID,
        PartitionRole::SlotA | PartitionRole::SlotB | PartitionRole::Data => layout::LINUX_TYPE_GUID,
    };
    disk::Partition {
        label: partition.label.clone(),
        type_guid: type_guid.parse().expect("the layout's GUIDs are well-formed"),
        guid: partition.guid,
        size: partition.size,
        content: PartitionContent::Empty,
    }
}

fn ext4_options(plan: &Plan, slot: &PartitionPlan) -> ext4::Options {
    let uuid = *slot.filesystem.as_bytes();
    let mut options = ext4::Options::new(slot.size, &slot.label, uuid, uuid, plan.image.epoch);
    // A slot is written once as a whole and mounted read-only: a journal would only take space.
    options.journal = Some(0);
    options.inodes = Some(128);
    options
}

pub(super) fn files(
    session: &Session,
    project: &Project,
    plan: &Plan,
    outputs: &BTreeMap<String, Outputs>,
) -> Result<Files, OpError> {
    let executor = super::Executor::new(session, project, plan, false);
    let step_outputs = outputs;
    let tree_of = |component: &str| executor.component_tree(component, step_outputs);
    let boot = &project.manifest().boot;
    let file_of = |component: &str, path: &str| -> Result<Content, OpError> {
        let tree = tree_of(component)?;
        let found = tree.canonicalize(path).and_then(|path| tree.get(&path).cloned());
        match found.map(|entry| entry.node) {
            Some(Node::File(content)) => Ok(content),
            _ => Err(OpError::NoFile { component: component.to_owned(), path: path.to_owned() }),
        }
    };
    let esp = boot.files.iter().map(|name| Ok((name.clone(), tree_of(name)?))).collect::<Result<_, OpError>>()?;
    let index: ModuleIndex = executor.json(&outputs["kernel"]["modules"])?;
    Ok(Files {
        kernel: file_of(&project.manifest().kernel.component, &format!("boot/vmlinuz-{}", index.release))?,
        initramfs: outputs["initramfs"]["initramfs"].clone(),
        initramfs_unpacked: executor.json(&outputs["initramfs-base"]["unpacked"])?,
        root: outputs["root"]["image"].clone(),
        root_image: executor.json(&outputs["root"]["root"])?,
        shim: file_of(&boot.shim.component, boot.shim.path.relative())?,
        grub: file_of(&boot.grub.component, boot.grub.path.relative())?,
        esp,
        release: index.release,
    })
}

fn file(tree: &mut Tree, path: &str, content: Content, epoch: u64) {
    let entry = Entry { meta: Meta::root(0o644, epoch as i64), node: Node::File(content) };
    tree.insert(path, entry).expect("the project's own file names are valid paths");
}

fn blob(blob: &Blob) -> Content {
    Content::host_file(blob.path.clone(), blob.digest, blob.size)
}

fn slot_tree(plan: &Plan, files: &Files) -> Tree {
    let epoch = plan.image.epoch;
    let mut tree = Tree::new(epoch as i64);
    file(&mut tree, layout::SLOT_KERNEL, files.kernel.clone(), epoch);
    file(&mut tree, layout::SLOT_INITRAMFS, blob(&files.initramfs), epoch);
    file(&mut tree, layout::SLOT_ROOT, blob(&files.root), epoch);
    let text = serde_json::to_vec_pretty(&metadata(plan, files)).expect("slot metadata can be serialised");
    file(&mut tree, layout::SLOT_METADATA, Content::inline(text), epoch);
    tree
}

/// Returns what `image.json` says.
pub(super) fn metadata(plan: &Plan, files: &Files) -> SlotMetadata {
    SlotMetadata {
        format: boot::FORMAT,
        image: plan.image.clone(),
        kernel_release: files.release.clone(),
        root: files.root_image.clone(),
        kernel_sha256: files.kernel.digest,
        initramfs_sha256: files.initramfs.digest,
        cmdline: plan.cmdline.join(" "),
    }
}

/// Puts the signed boot loaders into the tree of an EFI system partition.
pub(super) fn put_loaders(tree: &mut Tree, plan: &Plan, files: &Files) {
    let (arch, epoch) = (plan.image.arch, plan.image.epoch);
    // Shim loads GRUB from its own directory, under this name (shim, `DEFAULT_LOADER`).
    let grub = match arch {
        ksos_formats::Arch::X86_64 => "EFI/BOOT/grubx64.efi",
        ksos_formats::Arch::Arm64 => "EFI/BOOT/grubaa64.efi",
    };
    file(tree, &format!("EFI/BOOT/{}", arch.efi_boot_file()), files.shim.clone(), epoch);
    file(tree, grub, files.grub.clone(), epoch);
}

fn esp_tree(project: &Project, plan: &Plan, files: &Files) -> Result<Tree, OpError> {
    let epoch = plan.image.epoch;
    let mut tree = Tree::new(epoch as i64);
    let arch = plan.image.arch;
    let config = GrubConfig {
        name: &plan.image.name,
        arch,
        cmdline: &plan.cmdline,
        slot_a: partition(plan, PartitionRole::SlotA).0,
        slot_b: partition(plan, PartitionRole::SlotB).0,
        timeout: project.manifest().boot.timeout,
    };
    for (path, bytes) in esp_files(&config)? {
        file(&mut tree, path, Content::inline(bytes), epoch);
    }
    put_loaders(&mut tree, plan, files);
    board_files(tree, &files.esp, epoch)
}

/// Adds what the board's own firmware reads. FAT does not tell cases apart.
fn board_files(own: Tree, components: &[(String, Tree)], epoch: u64) -> Result<Tree, OpError> {
    let names: BTreeSet<String> = own.iter().map(|(path, _)| path.to_lowercase()).collect();
    let mut merger = Merger::new(epoch as i64);
    merger.merge(own, "boot loader").map_err(RootError::from)?;
    for (component, tree) in components {
        for (path, entry) in tree.iter() {
            if entry.node != Node::Directory && names.contains(&path.to_lowercase()) {
                return Err(OpError::BootFile { component: component.clone(), path: path.to_owned() });
            }
        }
        merger.merge(tree.clone(), component).map_err(RootError::from)?;
    }
    let mut tree = merger.finish().tree;
    crate::assemble::clamp_times(&mut tree, epoch);
    Ok(tree)
}

/// What goes into the two written partitions.
struct Contents<'a> {
    slot_tree: &'a Tree,
    slot: &'a ext4::Options,
    esp_tree: &'a Tree,
    esp: &'a fat::FatSpec,
}

/// Checks that slot, ESP and memory hold their content with the headroom that the manifest states.
fn budgets(project: &Project, plan: &Plan, files: &Files, contents: &Contents<'_>) -> Result<Vec<Usage>, OpError> {
    let Contents { slot_tree, slot, esp_tree, esp } = contents;
    let slot_used = ext4::minimum_size(slot_tree, slot)?;
    let esp_used = esp.size - fat::check(esp_tree, esp)?.free;
    let settings = &project.manifest().budgets;
    let budgets = Budgets {
        slot_size: slot.size,
        slot_used,
        esp_size: esp.size,
        esp_used,
        data_size: partition(plan, PartitionRole::Data).1.size,
        headroom: settings.headroom,
        memory: settings.memory.map_or(u64::MAX, |memory| memory.bytes()),
        root_mode: project.manifest().root.mode,
        root_image: files.root.size,
        initramfs: files.initramfs.size,
        initramfs_unpacked: files.initramfs_unpacked,
        services: 0,
    };
    proof::refuse(budget::budgets(&budgets))?;
    let usage = |what: &str, used, size| Usage { what: what.to_owned(), used, size };
    Ok(vec![usage("slot", slot_used, slot.size), usage("esp", esp_used, esp.size)])
}
