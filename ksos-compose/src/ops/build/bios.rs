//! GRUB for BIOS, from the files of a component.

use std::io;

use super::execute::Executor;
use crate::artifact::disk::{BIOS_BOOT_OFFSET, BiosBoot, SECTOR};
use crate::artifact::grub::{self, CoreSpec, MODULES, Package};
use crate::graph::Outputs;
use crate::manifest::{BootFile, PartitionRole};
use crate::ops::OpError;
use crate::plan::Plan;
use crate::tree::{Node, Tree};

/// Directory of GRUB's configuration, on the EFI system partition and on ISO volumes.
const DIRECTORY: &str = "/EFI/debian";

/// The package's files in the tree of its component.
pub struct Files {
    tree: Tree,
    directory: String,
}

impl Files {
    /// Takes them from the component that the manifest names.
    ///
    /// # Errors
    /// When the cache lost a part of it.
    pub fn of(
        executor: &Executor<'_>,
        file: &BootFile,
        steps: &std::collections::BTreeMap<String, Outputs>,
    ) -> Result<Self, OpError> {
        let tree = executor.component_tree(&file.component, steps)?;
        Ok(Files { tree, directory: file.path.relative().to_owned() })
    }

    /// Returns a core that looks for its configuration on what it was booted from.
    ///
    /// # Errors
    /// When a file is missing or not usable.
    pub fn medium_core(&self) -> Result<Vec<u8>, OpError> {
        Ok(grub::core(self, &CoreSpec { prefix: DIRECTORY, modules: &MODULES })?)
    }

    /// Returns what makes the disk of `plan` boot by BIOS.
    ///
    /// # Errors
    /// When a file is missing or not usable.
    pub fn disk(&self, plan: &Plan, guid: uuid::Uuid) -> Result<BiosBoot, OpError> {
        let (esp, _) = plan.disk.partition(PartitionRole::Esp).expect("the plan's check found every role once");
        let core = grub::core(self, &CoreSpec { prefix: &format!("(,gpt{esp}){DIRECTORY}"), modules: &MODULES })?;
        let lba = BIOS_BOOT_OFFSET / SECTOR;
        Ok(BiosBoot { guid, code: grub::boot_code(self, lba)?, image: grub::for_disk(self, &core, lba)? })
    }
}

impl Package for Files {
    fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let path = self.tree.canonicalize(&format!("{}/{name}", self.directory));
        match path.and_then(|path| self.tree.get(&path)).map(|entry| &entry.node) {
            Some(Node::File(content)) => content.read(limit),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "its component has no such file")),
        }
    }
}
