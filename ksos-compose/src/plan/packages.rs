//! What the image is made of, by name and version: a list that the root file system carries, so that two images can be
//! compared without their lock files.

use serde::{Deserialize, Serialize};

use super::Inputs;
use super::resolved::Resolved;
use crate::manifest::Source;

/// Where the list is in the root file system.
pub const PATH: &str = "usr/lib/ksos/packages.json";
/// The largest list that is read, in bytes.
pub const LIMIT: u64 = 8 << 20;

/// Where the list of [`ListedContent`] is in the root file system.
pub const CONTENTS_PATH: &str = "usr/lib/ksos/contents.json";

/// What a component has in the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedContent {
    /// The component, `kernel modules`, `container images`, `overlay NAME`, or `manifest` for what is stated there.
    pub name: String,
    /// How many files.
    pub files: u64,
    /// Their sizes in bytes, before compression; a file with several names counts once.
    pub bytes: u64,
}

/// A package, or a download with a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ListedPackage {
    /// Name: of the package, or of the component that is one download.
    pub name: String,
    /// Version.
    pub version: String,
    /// Component that it belongs to.
    pub component: String,
}

/// Lists what the root file system, the kernel and the container images are made of, sorted. The boot loader is not in the
/// system slot, and has no part in an update.
pub fn list(inputs: &Inputs<'_>) -> Vec<ListedPackage> {
    let boot = &inputs.manifest.boot;
    let mut packages = Vec::new();
    for (component, resolved) in inputs.components {
        let bios = boot.bios.as_ref().is_some_and(|bios| bios.component == *component);
        if bios || [&boot.shim.component, &boot.grub.component].contains(&component) {
            continue;
        }
        let mut add = |name: &str, version: &str| {
            let (name, version) = (name.to_owned(), version.to_owned());
            packages.push(ListedPackage { name, version, component: component.clone() });
        };
        match (&resolved.content, inputs.manifest.components.get(component).map(|component| &component.source)) {
            (Resolved::Packages(list), _) => {
                list.iter().for_each(|package| add(&package.pinned.name, &package.pinned.version));
            }
            (Resolved::Download(_), Some(Source::Http(http))) => {
                http.version.iter().for_each(|version| add(component, version));
            }
            (Resolved::TinyCore(files), _) => {
                for file in files {
                    let digest = file.pinned.sha256.hex();
                    add(&file.pinned.name, file.pinned.version.as_deref().unwrap_or(&digest[..12]));
                }
            }
            _ => {}
        }
    }
    packages.sort();
    packages
}
