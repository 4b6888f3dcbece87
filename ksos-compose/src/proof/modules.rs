//! Rules about the kernel: required options, modules that must and must not be there.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Place, ProofError, Rule, failure};
use crate::kernel::{KernelConfig, Requirement, module_name};
use crate::tree::{Node, Tree};

/// Required options that the kernel does not have, all of them.
pub fn kernel_options(config: &KernelConfig, requirements: &[Requirement]) -> Vec<Finding> {
    let misses = config.misses(requirements).into_iter();
    misses
        .map(|miss| {
            let found = miss.found.map_or("not set".to_owned(), |value| format!("={value}"));
            let message = format!("{} is required by {}, found {found}", miss.requirement, miss.requirement.place);
            let fix = "choose a kernel that has it, or change the requirement";
            failure(Rule::KernelOption, Place::Plan, &format!("CONFIG_{}", miss.requirement.name), message, fix)
        })
        .collect()
}

/// Modules of a tree: those asked for are there, `modules.dep` and the files agree, none is in a denied directory.
///
/// # Errors
/// [`ProofError::Read`] for a `modules.*` file.
pub fn modules(
    place: Place,
    tree: &Tree,
    release: &str,
    wanted: &[String],
    denied: &[String],
) -> Result<Vec<Finding>, ProofError> {
    let directories = ["usr/lib/modules", "lib/modules"].map(|parent| format!("{parent}/{release}"));
    let Some(directory) = directories.iter().find(|path| tree.get(path).is_some()) else {
        let message = format!("no modules of kernel {release}, but {} are asked for", wanted.len());
        let missing = failure(Rule::Module, place, &directories[0], message, "install the modules of this kernel");
        return Ok(if wanted.is_empty() { Vec::new() } else { vec![missing] });
    };
    let mut check = Check { place, tree, directory, findings: Vec::new() };
    let dependencies = check.dependencies()?;
    let builtin: BTreeSet<String> =
        check.text("modules.builtin")?.unwrap_or_default().lines().filter_map(module_name).collect();
    check.files(&dependencies, denied);
    let present: BTreeSet<String> = dependencies.keys().filter_map(|path| module_name(path)).collect();
    for name in wanted.iter().map(|name| name.replace('-', "_")) {
        if !present.contains(&name) && !builtin.contains(&name) {
            let message = format!("module {name} is asked for, but not in modules.dep");
            check.report("modules.dep", message, "add it to the selection");
        }
    }
    check.other_kernels(release);
    Ok(check.findings)
}

struct Check<'a> {
    place: Place,
    tree: &'a Tree,
    directory: &'a str,
    findings: Vec<Finding>,
}

impl<'a> Check<'a> {
    fn report(&mut self, file: &str, message: String, fix: &str) {
        let path = format!("{}/{file}", self.directory);
        self.findings.push(failure(Rule::Module, self.place, &path, message, fix));
    }

    fn text(&self, name: &str) -> Result<Option<String>, ProofError> {
        let path = format!("{}/{name}", self.directory);
        let Some(entry) = self.tree.get(&path) else { return Ok(None) };
        let Node::File(content) = &self.tree.resolve_link(entry).node else { return Ok(None) };
        let bytes = content.read(16 << 20).map_err(|source| ProofError::Read { path, source })?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Reads `modules.dep`: module path to the paths of what it needs.
    fn dependencies(&mut self) -> Result<BTreeMap<String, Vec<String>>, ProofError> {
        let mut dependencies = BTreeMap::new();
        let Some(text) = self.text("modules.dep")? else {
            self.report("modules.dep", "is not in the image".to_owned(), "install the modules with their index");
            return Ok(dependencies);
        };
        for (number, line) in text.lines().enumerate() {
            let Some((module, needed)) = line.split_once(':') else {
                self.report("modules.dep", format!("line {} has no colon", number + 1), "make the index again");
                continue;
            };
            let needed = needed.split_ascii_whitespace().map(str::to_owned).collect();
            dependencies.insert(module.to_owned(), needed);
        }
        Ok(dependencies)
    }

    fn files(&mut self, dependencies: &BTreeMap<String, Vec<String>>, denied: &[String]) {
        const FIX: &str = "install the modules and modules.dep from one selection";
        for (module, needed) in dependencies {
            for path in [module].into_iter().chain(needed) {
                let found = self.tree.get(&format!("{}/{path}", self.directory));
                if !found.is_some_and(|entry| matches!(entry.node, Node::File(_) | Node::HardLink(_))) {
                    let by = if path == module { String::new() } else { format!(", which {module} needs") };
                    self.report("modules.dep", format!("lists {path}{by}, but the file is not in the image"), FIX);
                } else if !dependencies.contains_key(path) {
                    self.report("modules.dep", format!("has no line for {path}, which {module} needs"), FIX);
                }
            }
        }
        let prefix = format!("{}/", self.directory);
        for (path, _) in self.tree.below(self.directory) {
            let relative = path.strip_prefix(&prefix).unwrap_or(path);
            if module_name(path).is_none() {
                continue;
            }
            if !dependencies.contains_key(relative) {
                self.report(relative, "modules.dep has no line for this module".to_owned(), FIX);
            }
            let below = relative.strip_prefix("kernel/").unwrap_or(relative);
            let hit = denied.iter().find(|directory| {
                below.strip_prefix(directory.trim_matches('/')).is_some_and(|rest| rest.starts_with('/'))
            });
            if let Some(directory) = hit {
                let message = format!("no module of {directory} may be in the image");
                let fix = "take it, or the module that depends on it, out of the selection";
                self.findings.push(failure(Rule::ModuleDenied, self.place, path, message, fix));
            }
        }
    }

    /// Reports modules of other kernels: they would never be loaded.
    fn other_kernels(&mut self, release: &str) {
        let parent = self.directory.strip_suffix(release).unwrap_or(self.directory).trim_end_matches('/');
        let mut seen = BTreeSet::new();
        for (path, _) in self.tree.below(parent) {
            let name = path[parent.len() + 1..].split('/').next().unwrap_or_default();
            if name != release && module_name(path).is_some() && seen.insert(name) {
                let message = format!("modules of kernel {name}, but the image boots {release}");
                let fix = "exclude them from their component";
                self.findings.push(failure(Rule::Module, self.place, &format!("{parent}/{name}"), message, fix));
            }
        }
    }
}

/// Reads a list of directories: one per line, `#` to the end of the line is a comment.
pub fn parse_denied(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}
