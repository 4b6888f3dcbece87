//! Rules about scripts, symbolic links, privileged files and files that must not be there.

use std::collections::BTreeMap;

use super::facts::FileFacts;
use super::paths::{Lead, at_run_time, entry, follow};
use super::{Finding, Place, ProofError, Rule, Severity, failure, globs};
use crate::tree::{Node, Tree};

/// Where `env` looks for a program.
const SEARCH_PATH: [&str; 6] = ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"];

/// Executable scripts whose interpreter is missing.
pub fn scripts(
    place: Place,
    tree: &Tree,
    facts: &BTreeMap<String, FileFacts>,
    runtime_paths: &[String],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, fact) in facts {
        let FileFacts::Script(line) = fact else { continue };
        let executable = tree.get(path).is_some_and(|entry| tree.resolve_link(entry).meta.mode & 0o111 != 0);
        if !executable {
            continue;
        }
        let mut words = line.split_ascii_whitespace();
        let interpreter = words.next().unwrap_or_default();
        let program = words.next().unwrap_or_default();
        let message = if !interpreter.starts_with('/') {
            Some(format!("its interpreter {interpreter:?} is not an absolute path"))
        } else if !is_program(tree, interpreter) && !at_run_time(interpreter, runtime_paths) {
            Some(format!("its interpreter {interpreter} is not an executable of the image"))
        } else if interpreter.ends_with("/env") && !program.starts_with('-') && !program.contains('=') {
            let found = SEARCH_PATH.iter().any(|directory| is_program(tree, &format!("{directory}/{program}")));
            (!found).then(|| format!("its interpreter {program:?} is in no directory of PATH"))
        } else {
            None
        };
        if let Some(message) = message {
            findings.push(failure(
                Rule::Script,
                place,
                path,
                message,
                "add the interpreter's package to a component, or exclude this file",
            ));
        }
    }
    findings
}

/// Tells whether a path leads to an executable file.
pub(super) fn is_program(tree: &Tree, path: &str) -> bool {
    entry(tree, path).is_some_and(|entry| matches!(entry.node, Node::File(_)) && entry.meta.mode & 0o111 != 0)
}

/// Symbolic links that lead nowhere, neither in the image nor at run time.
pub fn links(place: Place, tree: &Tree, runtime_paths: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, entry) in tree.iter() {
        let Node::Symlink(target) = &entry.node else { continue };
        let message = match follow(tree, path) {
            Lead::Found(_) => continue,
            Lead::Missing(missing) if at_run_time(&missing, runtime_paths) => continue,
            Lead::Missing(missing) => format!("leads to {target}, but /{missing} is not in the image"),
            Lead::Loop => format!("leads to {target}, which leads back to it"),
        };
        let fix = "add the target, or leave the link out by `exclude` of its component";
        findings.push(failure(Rule::SymbolicLink, place, path, message, fix));
    }
    findings
}

/// Lists files with set-user-id, set-group-id or capabilities, and device nodes.
pub fn privileges(place: Place, tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, entry) in tree.iter() {
        let message = match &entry.node {
            Node::File(_) if entry.meta.mode & 0o4000 != 0 => format!("set-user-id to {}", entry.meta.uid),
            Node::File(_) if entry.meta.mode & 0o2000 != 0 => format!("set-group-id to {}", entry.meta.gid),
            Node::File(_) if entry.meta.xattrs.contains_key("security.capability") => {
                "has file capabilities".to_owned()
            }
            Node::CharacterDevice { major, minor } => format!("character device {major}:{minor}"),
            Node::BlockDevice { major, minor } => format!("block device {major}:{minor}"),
            _ => continue,
        };
        let note = failure(Rule::Privilege, place, path, message, "");
        findings.push(Finding { severity: Severity::Note, ..note });
    }
    findings
}

/// Files of the root that match a glob of what must not be there.
///
/// # Errors
/// [`ProofError::Glob`] for a malformed glob.
pub fn absence(tree: &Tree, absent: &[(String, String)]) -> Result<Vec<Finding>, ProofError> {
    let set = globs(absent.iter().map(|(pattern, _)| pattern.as_str()))?;
    let mut findings = Vec::new();
    for (path, entry) in tree.iter() {
        if entry.node == Node::Directory {
            continue;
        }
        if let Some(first) = set.matches(path).first() {
            let (pattern, reason) = &absent[*first];
            let message = format!("must not be in the image: {reason} ({pattern})");
            let fix = "exclude it from its component";
            findings.push(failure(Rule::Absence, Place::Root, path, message, fix));
        }
    }
    Ok(findings)
}
