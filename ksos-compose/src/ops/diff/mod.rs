//! `diff`: what is different between two disk images: partition table, command line, kernel, initramfs, and the files
//! of the root file system; and what an update from the first to the second fetches. Of a release (`.update`) there is
//! the system slot alone: compared with one, an image is its slot.
//!
//! Partitions whose bytes are the same are not looked into. Two images without a difference in this report have the
//! same bytes.

mod files;
mod side;
#[cfg(test)]
pub(in crate::ops) mod tests;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::Path;

use ksos_formats::layout;
use serde::Serialize;

use super::OpError;
use crate::cache::Cache;
use crate::effects::fs::Context;
use crate::image::compare::first_difference;
use crate::image::{DiskImage, ImageError, Part, Partition, SLOT_FILES, Slot, SlotFile};
use crate::plan::packages::{self, ListedPackage};
use crate::tree::{Node, Tree};

use side::Side;
pub use update::UpdateSize;

pub use files::{Aspect, ChangedFile, FileDiff, ListedFile, Sum};

/// The difference of two images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Every byte is the same.
    pub equal: bool,
    /// Sizes, GUIDs and the like of the disk and its partitions.
    pub table: Vec<Change>,
    /// Partitions whose bytes differ, by number.
    pub partitions: Vec<PartitionDifference>,
    /// The first byte that differs outside of partitions while the partition tables say the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside: Option<u64>,
    /// What an update fetches, when the system slots differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateSize>,
}

/// One value that differs. A side that has no such thing has no value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What it is, e.g. `partition 2 size`.
    pub what: String,
    /// The value in the first image.
    pub a: Option<String>,
    /// The value in the second image.
    pub b: Option<String>,
}

/// A partition whose bytes differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionDifference {
    /// Number, from 1; 0: the slot of a release.
    pub number: u32,
    /// Its label in the first image.
    pub label: String,
    /// The first byte that differs, from the start of the partition.
    pub offset: u64,
    /// What it means, when both are system slots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotDifference>,
    /// Why it could not be looked into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// The difference of two system slots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SlotDifference {
    /// Image name, version, architecture and epoch, kernel release, command line; size and SHA-256 of kernel, initramfs
    /// and root file system.
    pub values: Vec<Change>,
    /// Packages of other versions, or that only one has, as far as both images list theirs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<Change>,
    /// The files of the root file system, when it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<FileDiff>,
    /// The files of the initramfs, when it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<FileDiff>,
}

/// Compares the images or releases at `a` and `b`, with `jobs` workers. Root file systems that differ are unpacked below the temporary files of `cache`.
///
/// # Errors
/// When an image cannot be read or has no partition table.
pub fn diff(cache: &Cache, a: &Path, b: &Path, jobs: usize) -> Result<Difference, OpError> {
    let (left_side, right_side) = both(|| Side::open(cache, a), || Side::open(cache, b));
    let (left_side, right_side) = (left_side?, right_side?);
    let (a, b) = (&left_side.disk, &right_side.disk);
    let disks = left_side.release.is_none() && right_side.release.is_none();
    let mut difference = Difference::default();
    let pairs = if disks { pairs(a, b).collect() } else { slot_pair(&left_side, &right_side)? };
    for (left, right) in pairs {
        if let Some(offset) = first(a, a.part(left), b.part(right))? {
            difference.partitions.push(partition(cache, (a, left), (b, right), offset)?);
        }
    }
    if disks {
        difference.table = table(a, b);
    }
    if disks && difference.table.is_empty() {
        difference.outside = outside(a, b)?;
    }
    if difference.partitions.iter().any(|partition| partition.slot.is_some()) {
        difference.update = update::size(&left_side, &right_side, jobs)?;
    }
    difference.equal = difference.table.is_empty() && difference.partitions.is_empty() && difference.outside.is_none();
    Ok(difference)
}

/// Returns the system slots of two sides, of which one is a release.
fn slot_pair<'a>(a: &'a Side, b: &'a Side) -> Result<Vec<(&'a Partition, &'a Partition)>, OpError> {
    let slot = |side: &'a Side| side.slot().ok_or_else(|| OpError::NoSlot { path: side.path.clone() });
    Ok(vec![(slot(a)?, slot(b)?)])
}

/// Returns the partitions that both have, by number.
fn pairs<'a>(a: &'a DiskImage, b: &'a DiskImage) -> impl Iterator<Item = (&'a Partition, &'a Partition)> {
    a.partitions.iter().filter_map(|left| Some((left, b.partition(left.number)?)))
}

fn first(disk: &DiskImage, a: Part<'_>, b: Part<'_>) -> Result<Option<u64>, OpError> {
    Ok(first_difference(a, b).context("compare", disk.path()).map_err(ImageError::from)?)
}

/// Adds to a list what differs.
#[derive(Debug, Default)]
struct Changes(Vec<Change>);

impl Changes {
    fn compare<T: PartialEq + Display>(&mut self, what: impl Display, a: Option<T>, b: Option<T>) {
        if a != b {
            let text = |value: Option<T>| value.map(|value| value.to_string());
            self.0.push(Change { what: what.to_string(), a: text(a), b: text(b) });
        }
    }
}

fn table(a: &DiskImage, b: &DiskImage) -> Vec<Change> {
    let mut changes = Changes::default();
    changes.compare("disk size", Some(a.size), Some(b.size));
    changes.compare("disk GUID", Some(a.guid), Some(b.guid));
    let numbers: BTreeSet<u32> = [a, b].iter().flat_map(|disk| &disk.partitions).map(|found| found.number).collect();
    for number in numbers {
        let (left, right) = (a.partition(number), b.partition(number));
        let mut compare = |what: &str, value: &dyn Fn(&Partition) -> String| {
            changes.compare(format_args!("partition {number} {what}"), left.map(value), right.map(value));
        };
        compare("label", &|partition| partition.label.clone());
        compare("type GUID", &|partition| partition.type_guid.to_string());
        compare("GUID", &|partition| partition.guid.to_string());
        compare("flags", &|partition| format!("{:#x}", partition.flags));
        compare("offset", &|partition| partition.offset.to_string());
        compare("size", &|partition| partition.size.to_string());
    }
    changes.0
}

/// Compares what is before, between and behind the partitions of two disks with the same table.
fn outside(a: &DiskImage, b: &DiskImage) -> Result<Option<u64>, OpError> {
    let mut taken: Vec<(u64, u64)> = a.partitions.iter().map(|found| (found.offset, found.size)).collect();
    taken.push((a.size, 0));
    taken.sort_unstable();
    let mut start = 0;
    for (offset, size) in taken {
        let gap = offset.saturating_sub(start);
        if let Some(found) = first(a, a.whole().slice(start, gap), b.whole().slice(start, gap))? {
            return Ok(Some(start + found));
        }
        start = offset + size;
    }
    Ok(None)
}

type InDisk<'a> = (&'a DiskImage, &'a Partition);

fn partition(cache: &Cache, a: InDisk<'_>, b: InDisk<'_>, offset: u64) -> Result<PartitionDifference, OpError> {
    let (number, label) = (a.1.number, a.1.label.clone());
    let mut difference = PartitionDifference { number, label, offset, slot: None, unreadable: None };
    match slots(cache, a, b) {
        Ok(slot) => difference.slot = slot,
        // There is a difference, whether it can be explained or not.
        Err(OpError::Image(error)) if !matches!(*error, ImageError::Fs(_) | ImageError::Cache(_)) => {
            difference.unreadable = Some(error.to_string());
        }
        Err(error) => return Err(error),
    }
    Ok(difference)
}

fn slots(cache: &Cache, a: InDisk<'_>, b: InDisk<'_>) -> Result<Option<SlotDifference>, OpError> {
    let (a, b) = (Slot::open(a.0, a.1)?, Slot::open(b.0, b.1)?);
    let (Some(a), Some(b)) = (a, b) else { return Ok(None) };
    let mut changes = Changes::default();
    let mut compare = |what: &str, value: &dyn Fn(&Slot<'_>) -> String| {
        changes.compare(what, Some(value(&a)), Some(value(&b)));
    };
    compare("image name", &|slot| slot.metadata.image.name.clone());
    compare("image version", &|slot| slot.metadata.image.version.clone());
    compare("architecture", &|slot| slot.metadata.image.arch.to_string());
    compare("epoch", &|slot| slot.metadata.image.epoch.to_string());
    compare("kernel release", &|slot| slot.metadata.kernel_release.clone());
    compare("command line", &|slot| slot.metadata.cmdline.clone());
    let mut differing = Vec::new();
    for name in SLOT_FILES.into_iter().filter(|name| *name != layout::SLOT_METADATA) {
        let (left, right) = both(|| a.digest(name), || b.digest(name));
        let (left, right) = (left?, right?);
        let size = |file: SlotFile| file.size;
        let sha256 = |file: SlotFile| file.sha256;
        changes.compare(format_args!("{name} size"), left.map(size), right.map(size));
        changes.compare(format_args!("{name} SHA-256"), left.map(sha256), right.map(sha256));
        if left != right {
            differing.push(name);
        }
    }
    let mut packages = Vec::new();
    let mut files = |name| match differing.contains(&name) {
        true => trees(cache, name, &a, &b, |a, b| {
            packages.extend(changed_packages(a, b));
            Ok(FileDiff::of(a, b))
        }),
        false => Ok(None),
    };
    let (root, initramfs) = (files(layout::SLOT_ROOT)?, files(layout::SLOT_INITRAMFS)?);
    Ok(Some(SlotDifference { values: changes.0, packages, root, initramfs }))
}

/// Returns what differs between the lists of packages of two root file systems; nothing when one has none.
fn changed_packages(a: &Tree, b: &Tree) -> Vec<Change> {
    let (Some(a), Some(b)) = (packages(a), packages(b)) else { return Vec::new() };
    let mut changes = Changes::default();
    let keys: BTreeSet<&(String, String)> = a.keys().chain(b.keys()).collect();
    for key in keys {
        let (component, name) = key;
        let what = if component == name { format!("package {name}") } else { format!("package {name} ({component})") };
        changes.compare(what, a.get(key), b.get(key));
    }
    changes.0
}

/// Returns the version of every package by component and name.
fn packages(tree: &Tree) -> Option<BTreeMap<(String, String), String>> {
    let Node::File(content) = &tree.get(packages::PATH)?.node else { return None };
    let list: Vec<ListedPackage> = serde_json::from_slice(&content.read(packages::LIMIT).ok()?).ok()?;
    Some(list.into_iter().map(|package| ((package.component, package.name), package.version)).collect())
}

/// Unpacks file `name` of both slots and calls `work` with the trees; `None` when there are none. Their contents can be
/// read until `work` returns.
pub(in crate::ops) fn trees<T>(
    cache: &Cache,
    name: &'static str,
    a: &Slot<'_>,
    b: &Slot<'_>,
    work: impl FnOnce(&Tree, &Tree) -> Result<T, OpError>,
) -> Result<Option<T>, OpError> {
    let bucket = cache.bucket("tmp");
    let directory = tempfile::tempdir_in(&bucket).context("create a directory in", &bucket)?;
    let own = Cache::open(directory.path())?;
    let (left, right) = both(|| a.tree(name, &own), || b.tree(name, &own));
    match (left?, right?) {
        (Some(left), Some(right)) => work(&left, &right).map(Some),
        _ => Ok(None),
    }
}

/// Runs both side by side.
fn both<T: Send>(left: impl FnOnce() -> T + Send, right: impl FnOnce() -> T) -> (T, T) {
    std::thread::scope(|scope| {
        let left = scope.spawn(left);
        let right = right();
        (left.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), right)
    })
}
