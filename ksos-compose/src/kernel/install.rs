//! The tree of a selection: decompressed modules and the files that `modprobe` reads.
//!
//! Modules lie below `usr/lib/modules/R/kernel/...`, byte for byte as the kernel's build made them before compression,
//! so that the signature behind each stays valid. `modules.dep`, `modules.alias`, `modules.softdep` and
//! `modules.builtin` are the text files of kmod (depmod(8), modules.dep(5)), limited to the modules that are there;
//! the `.bin` files are the indexes that kmod's own `modprobe` reads instead. `modules.symbols.bin` is empty: the
//! rare `symbol_request()` of the kernel then finds only what is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::archive::{parallel, read_module};
use super::kmod_index::KmodIndex;
use super::{KernelError, KernelFiles, MODULE_LIMIT, ModuleIndex, Selection, regular_file};
use crate::cache::{Blob, Cache};
use crate::tree::pack::PackWriter;
use crate::tree::{Entry, Meta, Node, Tree};

/// Modules that are decompressed at once; bounds memory.
const BATCH: usize = 16;

/// A tree of modules whose contents are all in one pack.
#[derive(Debug)]
pub struct ModuleTree {
    /// `usr/lib/modules/R/...`.
    pub tree: Tree,
    /// The pack with the contents.
    pub pack: Blob,
}

/// Decompresses the selected modules into a pack in the cache and returns their tree, at time `epoch`.
///
/// # Errors
/// [`KernelError::Read`] for a module, [`KernelError::Pack`], [`KernelError::Tree`].
pub fn install(
    tree: &Tree,
    files: &KernelFiles,
    index: &ModuleIndex,
    selection: &Selection,
    cache: &Cache,
    epoch: i64,
) -> Result<ModuleTree, KernelError> {
    let mut pack = PackWriter::new(cache).map_err(crate::tree::pack::PackError::from)?;
    let mut placed = Vec::new();
    let modules: Vec<_> = selection.modules.iter().filter_map(|name| index.modules.get(name)).collect();
    for batch in modules.chunks(BATCH) {
        let contents = parallel(batch, |info| {
            let path = format!("{}/{}", files.modules, info.path);
            let content = regular_file(tree, &path)
                .ok_or_else(|| KernelError::Missing { release: files.release.clone(), path: path.clone() })?;
            read_module(&path, content).map_err(|source| KernelError::Read { path, source })
        })?;
        for (info, bytes) in batch.iter().zip(contents) {
            placed.push((info.installed_path().to_owned(), pack.add(&mut bytes.as_slice(), MODULE_LIMIT)?));
        }
    }
    for (name, bytes) in metadata(index, selection) {
        placed.push((name.to_owned(), pack.add(&mut bytes.as_slice(), u64::MAX)?));
    }
    let pack = pack.finish()?;
    let mut result = Tree::new(epoch);
    for (path, file) in placed {
        let entry = Entry { meta: Meta::root(0o644, epoch), node: Node::File(pack.content(file)) };
        result.insert(&format!("usr/lib/modules/{}/{path}", files.release), entry)?;
    }
    Ok(ModuleTree { tree: result, pack: pack.blob })
}

/// Returns the `modules.*` files of a selection, by name.
pub fn metadata(index: &ModuleIndex, selection: &Selection) -> BTreeMap<&'static str, Vec<u8>> {
    let order = load_order(index, selection);
    let mut texts = BTreeMap::from([
        ("modules.dep", String::new()),
        ("modules.alias", "# Aliases of the modules that are here.\n".to_owned()),
        ("modules.softdep", "# Soft dependencies of the modules that are here.\n".to_owned()),
        ("modules.order", String::new()),
    ]);
    let (mut dep_index, mut alias_index) = (KmodIndex::default(), KmodIndex::default());
    for (position, name) in order.iter().enumerate() {
        let Some(info) = index.modules.get(*name) else { continue };
        let line = dependency_line(index, &order, name);
        for (file, text) in &mut texts {
            let result = match *file {
                "modules.dep" => writeln!(text, "{line}"),
                "modules.order" => writeln!(text, "{}", info.installed_path()),
                "modules.alias" => info.aliases.iter().try_for_each(|alias| writeln!(text, "alias {alias} {name}")),
                _ => info.softdeps.iter().try_for_each(|softdep| writeln!(text, "softdep {name} {softdep}")),
            };
            result.expect("writing to a String cannot fail");
        }
        dep_index.insert(name, &line, position as u32);
        for alias in &info.aliases {
            alias_index.insert(&normalize_alias(alias), name, position as u32);
        }
    }
    let mut files: BTreeMap<&'static str, Vec<u8>> =
        texts.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    files.insert("modules.dep.bin", dep_index.encode());
    files.insert("modules.alias.bin", alias_index.encode());
    files.insert("modules.symbols.bin", KmodIndex::default().encode());
    files.extend(builtin_metadata(index));
    files
}

/// Returns the files about built-in modules: all of them, since they are there whatever is selected.
fn builtin_metadata(index: &ModuleIndex) -> [(&'static str, Vec<u8>); 3] {
    let (mut list, mut names, mut aliases) = (String::new(), KmodIndex::default(), KmodIndex::default());
    for (name, path) in &index.builtin {
        list.push_str(path);
        list.push('\n');
        names.insert(name, "", 0);
    }
    for (alias, name) in &index.builtin_aliases {
        aliases.insert(&normalize_alias(alias), name, 0);
    }
    [
        ("modules.builtin", list.into_bytes()),
        ("modules.builtin.bin", names.encode()),
        ("modules.builtin.alias.bin", aliases.encode()),
    ]
}

/// Makes dashes underscores outside brackets, as `modprobe` does with what it looks up.
fn normalize_alias(alias: &str) -> String {
    let mut brackets = false;
    let normal = alias.chars().map(|character| {
        brackets = match character {
            '[' => true,
            ']' => false,
            _ => brackets,
        };
        if character == '-' && !brackets { '_' } else { character }
    });
    normal.collect()
}

/// Returns the selected modules so that each comes after what it depends on; otherwise in the order of the kernel's
/// build, then by path.
fn load_order<'a>(index: &'a ModuleIndex, selection: &'a Selection) -> Vec<&'a str> {
    let position: BTreeMap<&str, usize> =
        index.order.iter().enumerate().map(|(position, path)| (path.as_str(), position)).collect();
    let mut names: Vec<&str> = selection.modules.iter().map(String::as_str).collect();
    names.sort_by_key(|name| {
        let path = index.modules.get(*name).map_or("", |info| info.installed_path());
        (position.get(path).copied().unwrap_or(usize::MAX), path)
    });
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    for name in names {
        // Depth first without recursion: the second time a module is on top, everything below it is placed.
        let mut pending = vec![(name, false)];
        while let Some((name, ready)) = pending.pop() {
            if ready {
                order.push(name);
            } else if seen.insert(name) {
                pending.push((name, true));
                let depends = index.modules.get(name).map_or(&[][..], |info| &info.depends);
                let selected = depends.iter().filter(|name| selection.modules.contains(*name));
                pending.extend(selected.rev().map(|name| (name.as_str(), false)));
            }
        }
    }
    order
}

/// Returns the line of `modules.dep`: everything that the module needs, directly or not. `modprobe` loads from the
/// end, so what is needed most comes last.
fn dependency_line(index: &ModuleIndex, order: &[&str], name: &str) -> String {
    let path = |name: &str| index.modules.get(name).map_or("", |info| info.installed_path());
    let mut needed = BTreeSet::new();
    let mut pending = vec![name];
    while let Some(module) = pending.pop() {
        for dependency in index.modules.get(module).map_or(&[][..], |info| &info.depends) {
            if needed.insert(dependency.as_str()) {
                pending.push(dependency);
            }
        }
    }
    let mut line = format!("{}:", path(name));
    for dependency in order.iter().rev().filter(|module| needed.contains(*module) && **module != name) {
        line.push(' ');
        line.push_str(path(dependency));
    }
    line
}
