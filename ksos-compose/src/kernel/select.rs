//! Choosing modules: what the manifest names, with all that it depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use globset::GlobBuilder;

use super::modinfo::Modinfo;
use super::{KernelError, ModuleIndex};

/// The modules that an image gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Every module, dependencies included, by name.
    pub modules: BTreeSet<String>,
    /// What each entry of the list stands for, in the list's order: names of modules, built-in ones not included.
    pub requested: Vec<(String, Vec<String>)>,
    /// Built-in modules that were asked for.
    pub builtin: BTreeSet<String>,
    /// Optional entries that stand for nothing in this kernel.
    pub skipped: Vec<String>,
}

impl Selection {
    /// Returns the names asked for (not their dependencies), without repeats, in the list's order.
    pub fn requested_names(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let names = self.requested.iter().flat_map(|(_, names)| names);
        names.filter(|name| seen.insert(name.as_str())).cloned().collect()
    }
}

/// An entry that stands for no module, or a module whose dependency is not in the package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingModule {
    /// The entry, or the dependency.
    pub name: String,
    /// The module that needs it, for a dependency.
    pub needed_by: Option<String>,
    /// Names that look like it, best first.
    pub similar: Vec<String>,
}

impl fmt::Display for MissingModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(module) = &self.needed_by {
            write!(f, ", on which {module} depends")?;
        }
        if !self.similar.is_empty() {
            write!(f, " (similar: {})", self.similar.join(", "))?;
        }
        Ok(())
    }
}

/// Selects modules. An entry is a name, an alias (`xfrm-type-2-50`), or a glob over names (`nft_*`); dashes and
/// underscores are the same; a `?` at the end makes the entry optional. Dependencies and `pre` soft dependencies
/// come along, the latter only where the kernel has them. What is built in counts as present.
///
/// # Errors
/// [`KernelError::MissingModules`] with every entry that stands for nothing, [`KernelError::Pattern`].
pub fn select<S: AsRef<str>>(index: &ModuleIndex, wanted: &[S]) -> Result<Selection, KernelError> {
    let mut selection = Selection::default();
    let mut missing = Vec::new();
    for entry in wanted {
        let entry = entry.as_ref();
        let (pattern, optional) = entry.strip_suffix('?').map_or((entry, false), |pattern| (pattern, true));
        let found = matches(index, pattern)?;
        if found.is_empty() {
            if optional {
                selection.skipped.push(entry.to_owned());
            } else {
                missing.push(MissingModule {
                    similar: similar(index, pattern),
                    name: entry.to_owned(),
                    needed_by: None,
                });
            }
            continue;
        }
        let (modules, builtin): (Vec<_>, Vec<_>) = found.into_iter().partition(|name| index.modules.contains_key(name));
        selection.builtin.extend(builtin);
        selection.requested.push((entry.to_owned(), modules));
    }
    close(index, &mut selection, &mut missing);
    if missing.is_empty() {
        Ok(selection)
    } else {
        Err(KernelError::MissingModules { release: index.release.clone(), missing })
    }
}

/// Returns the modules, built in or not, that a pattern stands for.
fn matches(index: &ModuleIndex, pattern: &str) -> Result<BTreeSet<String>, KernelError> {
    let normal = normalize(pattern);
    let names = || index.modules.keys().chain(index.builtin.keys());
    if !pattern.contains(['*', '?', '[']) {
        if index.modules.contains_key(&normal) || index.builtin.contains_key(&normal) {
            return Ok(BTreeSet::from([normal]));
        }
        return Ok(by_alias(index, pattern));
    }
    let glob = GlobBuilder::new(&normal)
        .literal_separator(true)
        .build()
        .map_err(|source| KernelError::Pattern { pattern: pattern.to_owned(), source })?
        .compile_matcher();
    Ok(names().filter(|name| glob.is_match(name.as_str())).cloned().collect())
}

/// Returns the modules with exactly this alias (dashes and underscores being the same).
fn by_alias(index: &ModuleIndex, alias: &str) -> BTreeSet<String> {
    let wanted = normalize(alias);
    let same = |candidate: &str| candidate.len() == wanted.len() && normalize(candidate) == wanted;
    let modules = index.modules.iter().filter(|(_, info)| info.aliases.iter().any(|alias| same(alias)));
    let builtin = index.builtin_aliases.iter().filter(|(alias, _)| same(alias));
    modules.map(|(name, _)| name.clone()).chain(builtin.map(|(_, name)| name.clone())).collect()
}

/// Makes dashes underscores, except between brackets, where they are ranges.
fn normalize(name: &str) -> String {
    let mut brackets = false;
    name.chars()
        .map(|character| {
            match character {
                '[' => brackets = true,
                ']' => brackets = false,
                '-' if !brackets => return '_',
                _ => {}
            }
            character
        })
        .collect()
}

/// Adds everything that the requested modules depend on.
fn close(index: &ModuleIndex, selection: &mut Selection, missing: &mut Vec<MissingModule>) {
    let mut pending: Vec<String> = selection.requested_names();
    let mut soft: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    while let Some(name) = pending.pop() {
        let Some(info) = index.modules.get(&name) else { continue };
        if !selection.modules.insert(name.clone()) {
            continue;
        }
        for dependency in &info.depends {
            if index.modules.contains_key(dependency) {
                pending.push(dependency.clone());
            } else if !index.builtin.contains_key(dependency) {
                missing.push(MissingModule {
                    name: dependency.clone(),
                    needed_by: Some(name.clone()),
                    similar: Vec::new(),
                });
            }
        }
        for wanted in Modinfo::pre_softdeps(&info.softdeps) {
            let found = soft.entry(wanted).or_insert_with_key(|wanted| {
                if index.modules.contains_key(wanted) || index.builtin.contains_key(wanted) {
                    BTreeSet::from([wanted.clone()])
                } else {
                    by_alias(index, wanted)
                }
            });
            pending.extend(found.iter().cloned());
        }
    }
}

/// Returns at most three names that look like the pattern.
fn similar(index: &ModuleIndex, pattern: &str) -> Vec<String> {
    let wanted: String = normalize(pattern).chars().filter(|character| !matches!(character, '*' | '?')).collect();
    let names = index.modules.keys().chain(index.builtin.keys());
    let mut scored: Vec<(f64, &String)> =
        names.map(|name| (strsim::jaro_winkler(&wanted, name), name)).filter(|(score, _)| *score > 0.85).collect();
    scored.sort_by(|left, right| right.0.total_cmp(&left.0).then_with(|| left.1.cmp(right.1)));
    scored.into_iter().take(3).map(|(_, name)| name.clone()).collect()
}
