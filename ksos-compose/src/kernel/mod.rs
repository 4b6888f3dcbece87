//! The kernel package: finding the release, choosing modules, and checking the kernel's options.
//!
//! A distribution's kernel package holds `boot/vmlinuz-R`, `boot/config-R` and compressed modules below
//! `usr/lib/modules/R` (or `lib/modules/R`), but not the files that `depmod` makes on the installed system. The
//! composer makes them itself: [`index`] reads the `.modinfo` section of every module (slow on 4,000 modules, so the
//! index is kept by the package's digest), [`select`] takes what the manifest names with all that it depends on, and
//! [`install`] gives the tree with decompressed modules and `modules.*` files for those alone.

mod archive;
pub mod config;
pub mod index;
pub mod install;
mod kmod_index;
pub mod modinfo;
pub mod select;

use std::collections::BTreeSet;

pub use config::{KernelConfig, Requirement};
pub use index::{ModuleIndex, ModuleInfo, index};
pub use install::{ModuleTree, install};
pub use select::{Selection, select};

use crate::tree::pack::PackError;
use crate::tree::{Content, Node, Tree, TreeError};

/// Largest accepted module, decompressed, in bytes.
pub const MODULE_LIMIT: u64 = 128 << 20;

/// Returns the directories of modules, below `lib/modules/R/kernel`, that no image may have: sound, graphics, wireless,
/// Bluetooth.
pub fn denied_modules() -> Vec<String> {
    crate::proof::modules::parse_denied(include_str!("../../../kernel/denied-modules.txt"))
}

/// A kernel package cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// There is no `boot/vmlinuz-R`.
    #[error("the kernel component has no boot/vmlinuz-*")]
    NoKernel,
    /// There are several kernels.
    #[error("the kernel component has {} kernels: {}", releases.len(), releases.join(", "))]
    SeveralKernels {
        /// Their releases.
        releases: Vec<String>,
    },
    /// A file that belongs to the kernel is missing.
    #[error("kernel {release} has no {path}")]
    Missing {
        /// Kernel release.
        release: String,
        /// What is missing.
        path: String,
    },
    /// Two modules have the same name.
    #[error("module {name} is there twice: {first} and {second}")]
    DuplicateModule {
        /// Module name.
        name: String,
        /// One path.
        first: String,
        /// The other path.
        second: String,
    },
    /// A module could not be read or decompressed.
    #[error("cannot read module {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A module is not a kernel module.
    #[error("{path} is not a kernel module: {source}")]
    Modinfo {
        /// The file.
        path: String,
        /// The cause.
        source: modinfo::ModinfoError,
    },
    /// Modules that the manifest names are not there.
    #[error("kernel {release} lacks modules:\n{}", missing.iter().map(|miss| format!("  {miss}")).collect::<Vec<_>>().join("\n"))]
    MissingModules {
        /// Kernel release.
        release: String,
        /// All of them.
        missing: Vec<select::MissingModule>,
    },
    /// A module pattern is malformed.
    #[error("module pattern {pattern:?}: {source}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The cause.
        source: globset::Error,
    },
    /// The kernel's configuration or a list of required options is malformed.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// The tree does not take a path.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The modules could not be put into the cache.
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// Where the parts of the one kernel in a package are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFiles {
    /// Release (`uname -r`).
    pub release: String,
    /// Path of the kernel image.
    pub vmlinuz: String,
    /// Path of the configuration, where the package has it.
    pub config: Option<String>,
    /// Directory of the modules, e.g. `usr/lib/modules/R`.
    pub modules: String,
}

impl KernelFiles {
    /// Finds the kernel in the tree of a package: exactly one.
    ///
    /// # Errors
    /// [`KernelError::NoKernel`], [`KernelError::SeveralKernels`] with their releases, [`KernelError::Missing`].
    pub fn find(tree: &Tree) -> Result<Self, KernelError> {
        let releases: BTreeSet<&str> = tree
            .below("boot")
            .filter(|(_, entry)| matches!(entry.node, Node::File(_)))
            .filter_map(|(path, _)| path.strip_prefix("boot/vmlinuz-"))
            .filter(|release| !release.contains('/'))
            .collect();
        let release = match releases.len() {
            0 => return Err(KernelError::NoKernel),
            1 => releases.into_iter().next().unwrap_or_default().to_owned(),
            _ => {
                let releases = releases.into_iter().map(str::to_owned).collect();
                return Err(KernelError::SeveralKernels { releases });
            }
        };
        let modules = ["usr/lib/modules", "lib/modules"]
            .into_iter()
            .map(|parent| format!("{parent}/{release}"))
            .find(|path| matches!(tree.get(path), Some(entry) if entry.node == Node::Directory))
            .ok_or_else(|| KernelError::Missing {
                release: release.clone(),
                path: format!("usr/lib/modules/{release}"),
            })?;
        let config = Some(format!("boot/config-{release}")).filter(|path| tree.get(path).is_some());
        Ok(KernelFiles { vmlinuz: format!("boot/vmlinuz-{release}"), config, modules, release })
    }

    /// Reads and parses the kernel's configuration.
    ///
    /// # Errors
    /// [`KernelError::Missing`] when the package has none, [`KernelError::Read`], [`KernelError::Config`].
    pub fn read_config(&self, tree: &Tree) -> Result<KernelConfig, KernelError> {
        let (path, text) = self.read_config_text(tree)?;
        Ok(KernelConfig::parse(&path, &text)?)
    }

    /// Reads the kernel's configuration: its path and its text.
    ///
    /// # Errors
    /// [`KernelError::Missing`] when the package has none, [`KernelError::Read`].
    pub fn read_config_text(&self, tree: &Tree) -> Result<(String, String), KernelError> {
        let path = format!("boot/config-{}", self.release);
        let content = regular_file(tree, &path)
            .ok_or_else(|| KernelError::Missing { release: self.release.clone(), path: path.clone() })?;
        let bytes = content.read(4 << 20).map_err(|source| KernelError::Read { path: path.clone(), source })?;
        Ok((path, String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// Returns the content of the regular file at `path`, hard links resolved.
fn regular_file<'a>(tree: &'a Tree, path: &str) -> Option<&'a Content> {
    match &tree.resolve_link(tree.get(path)?).node {
        Node::File(content) => Some(content),
        _ => None,
    }
}

/// Returns the name that the kernel gives to a module file: without suffixes, dashes as underscores. `None` when it
/// is not a module.
pub fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|suffix| file.strip_suffix(suffix))?;
    Some(stem.replace('-', "_"))
}

#[cfg(test)]
mod tests;
