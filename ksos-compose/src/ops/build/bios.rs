//! GRUB for BIOS, from the files of a component.

use std::io;

use ksos_formats::digest::Hasher;

use super::execute::Executor;
use crate::artifact::disk::{BIOS_BOOT_OFFSET, BiosBoot, SECTOR};
use crate::artifact::grub::{self, CoreSpec, MODULES, Package};
use crate::cache::Cache;
use crate::graph::{self, Outputs};
use crate::manifest::{BootFile, PartitionRole};
use crate::ops::OpError;
use crate::plan::Plan;
use crate::tree::{Node, Tree};

/// Directory of GRUB's configuration, on the EFI system partition and on ISO volumes.
const DIRECTORY: &str = "/EFI/debian";

/// Largest core: that of a disk has to fit before the first partition.
const CORE_LIMIT: u64 = 1 << 20;

/// Kind of the record of a core in the cache. Its number changes with what [`grub::core`] makes of the same files.
const CORE: &str = "grub-core-1";

/// The package's files in the tree of its component.
pub struct Files<'a> {
    cache: &'a Cache,
    tree: Tree,
    directory: String,
}

impl<'a> Files<'a> {
    /// Takes them from the component that the manifest names.
    ///
    /// # Errors
    /// When the cache lost a part of it.
    pub fn of(
        executor: &Executor<'a>,
        file: &BootFile,
        steps: &std::collections::BTreeMap<String, Outputs>,
    ) -> Result<Self, OpError> {
        let tree = executor.component_tree(&file.component, steps)?;
        Ok(Files { cache: executor.cache, tree, directory: file.path.relative().to_owned() })
    }

    /// Returns a core that looks for its configuration on what it was booted from.
    ///
    /// # Errors
    /// When a file is missing or not usable.
    pub fn medium_core(&self) -> Result<Vec<u8>, OpError> {
        self.core(DIRECTORY)
    }

    /// Makes a core, or takes it from the cache: its compression takes longer than a disk with one changed file.
    fn core(&self, prefix: &str) -> Result<Vec<u8>, OpError> {
        let mut hasher = Hasher::new();
        hasher.field(CORE.as_bytes());
        hasher.field(prefix.as_bytes());
        for (path, entry) in self.tree.below(&self.directory) {
            if let Node::File(content) = &entry.node {
                hasher.field(path.as_bytes());
                hasher.field(&content.digest.0);
            }
        }
        let key = hasher.finish();
        let kept = graph::recorded(self.cache, &key).and_then(|outputs| outputs.get("core")?.read(CORE_LIMIT).ok());
        if let Some(core) = kept {
            return Ok(core);
        }
        let core = grub::core(self, &CoreSpec { prefix, modules: &MODULES })?;
        let blob = self.cache.insert(&core)?;
        graph::record(self.cache, &key, CORE, &[("core".to_owned(), blob)].into())?;
        Ok(core)
    }

    /// Returns what makes the disk of `plan` boot by BIOS.
    ///
    /// # Errors
    /// When a file is missing or not usable.
    pub fn disk(&self, plan: &Plan, guid: uuid::Uuid) -> Result<BiosBoot, OpError> {
        let (esp, _) = plan.disk.partition(PartitionRole::Esp).expect("the plan's check found every role once");
        let core = self.core(&format!("(,gpt{esp}){DIRECTORY}"))?;
        let lba = BIOS_BOOT_OFFSET / SECTOR;
        Ok(BiosBoot { guid, code: grub::boot_code(self, lba)?, image: grub::for_disk(self, &core, lba)? })
    }
}

impl Package for Files<'_> {
    fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let path = self.tree.canonicalize(&format!("{}/{name}", self.directory));
        match path.and_then(|path| self.tree.get(&path)).map(|entry| &entry.node) {
            Some(Node::File(content)) => content.read(limit),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "its component has no such file")),
        }
    }
}
