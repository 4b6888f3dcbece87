//! The index of every module in a kernel package, made without `depmod`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::archive::{parallel, read_module};
use super::modinfo::Modinfo;
use super::{KernelError, KernelFiles, module_name, regular_file};
use crate::tree::{Content, Node, Tree};

/// The current value of [`ModuleIndex::format`].
pub const FORMAT: u32 = 1;

/// Every module of a kernel, by name. Depends on the package alone, so it can be kept by the package's digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleIndex {
    /// [`FORMAT`].
    pub format: u32,
    /// Kernel release.
    pub release: String,
    /// Modules by name, with underscores.
    pub modules: BTreeMap<String, ModuleInfo>,
    /// Modules that are built into the kernel image: name and path, from `modules.builtin`.
    pub builtin: BTreeMap<String, String>,
    /// Aliases of built-in modules, from `modules.builtin.modinfo`: alias and module name.
    pub builtin_aliases: BTreeSet<(String, String)>,
    /// Load order of the kernel's build, from `modules.order`: path without compression suffix.
    pub order: Vec<String>,
}

/// One module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleInfo {
    /// Path below the module directory, compression suffix included: `kernel/fs/ext4/ext4.ko.xz`.
    pub path: String,
    /// Names of the modules whose symbols it uses.
    pub depends: Vec<String>,
    /// Alias patterns.
    pub aliases: Vec<String>,
    /// `softdep` texts.
    pub softdeps: Vec<String>,
    /// Firmware files that it may ask for.
    pub firmware: Vec<String>,
    /// License.
    pub license: Option<String>,
    /// Whether it was built with the kernel.
    pub intree: bool,
    /// Size in bytes, decompressed.
    pub size: u64,
}

impl ModuleInfo {
    /// Returns the path below the module directory without the compression suffix: where the module is installed.
    pub fn installed_path(&self) -> &str {
        plain_path(&self.path)
    }
}

/// Strips the compression suffix of a module path.
pub(super) fn plain_path(path: &str) -> &str {
    path.find(".ko.").map_or(path, |dot| &path[..dot + 3])
}

/// Reads every module of the package, on all processors.
///
/// # Errors
/// [`KernelError::Read`] and [`KernelError::Modinfo`] for a module that cannot be read,
/// [`KernelError::DuplicateModule`].
pub fn index(tree: &Tree, files: &KernelFiles) -> Result<ModuleIndex, KernelError> {
    let found: Vec<(&str, &Content)> = tree
        .below(&files.modules)
        .filter(|(path, _)| module_name(path).is_some())
        .filter_map(|(path, entry)| match &tree.resolve_link(entry).node {
            Node::File(content) => Some((path, content)),
            _ => None,
        })
        .collect();
    let read = parallel(&found, |(path, content)| {
        let bytes =
            read_module(path, content).map_err(|source| KernelError::Read { path: (*path).to_owned(), source })?;
        let info =
            Modinfo::from_elf(&bytes).map_err(|source| KernelError::Modinfo { path: (*path).to_owned(), source })?;
        Ok::<_, KernelError>((info, bytes.len() as u64))
    })?;
    let mut modules = BTreeMap::new();
    for ((path, _), (info, size)) in found.iter().zip(read) {
        let relative = path[files.modules.len() + 1..].to_owned();
        let name = module_name(path).unwrap_or_default();
        let module = ModuleInfo {
            path: relative,
            depends: info.depends,
            aliases: info.aliases,
            softdeps: info.softdeps,
            firmware: info.firmware,
            license: info.license,
            intree: info.intree,
            size,
        };
        if let Some(first) = modules.insert(name.clone(), module) {
            return Err(KernelError::DuplicateModule { name, first: first.path, second: (*path).to_owned() });
        }
    }
    let builtin = list(tree, files, "modules.builtin")?
        .into_iter()
        .filter_map(|path| module_name(&path).map(|name| (name, path)))
        .collect();
    let builtin_aliases = builtin_aliases(&text(tree, files, "modules.builtin.modinfo")?);
    let order = list(tree, files, "modules.order")?.iter().map(|path| plain_path(path).to_owned()).collect();
    Ok(ModuleIndex { format: FORMAT, release: files.release.clone(), modules, builtin, builtin_aliases, order })
}

fn text(tree: &Tree, files: &KernelFiles, name: &str) -> Result<String, KernelError> {
    let path = format!("{}/{name}", files.modules);
    let Some(content) = regular_file(tree, &path) else { return Ok(String::new()) };
    let bytes = content.read(16 << 20).map_err(|source| KernelError::Read { path, source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn list(tree: &Tree, files: &KernelFiles, name: &str) -> Result<Vec<String>, KernelError> {
    Ok(text(tree, files, name)?.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Reads `name.alias=pattern` records, each ended by NUL.
fn builtin_aliases(modinfo: &str) -> BTreeSet<(String, String)> {
    modinfo
        .split('\0')
        .filter_map(|record| record.split_once(".alias="))
        .filter(|(_, alias)| !alias.is_empty() && !alias.contains(char::is_control))
        .map(|(name, alias)| (alias.to_owned(), name.replace('-', "_")))
        .collect()
}
