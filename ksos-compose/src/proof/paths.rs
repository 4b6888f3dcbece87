//! Following paths in a tree the way the kernel will at run time.

use super::RUNTIME_PATHS;
use crate::tree::{Entry, Node, Tree, parent};

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lead {
    /// To this entry of the tree, links followed.
    Found(String),
    /// To nothing: the first path, links followed, that is not in the tree.
    Missing(String),
    /// Through more than 40 symbolic links (`ELOOP`).
    Loop,
}

/// Follows `path` with symbolic links in every component; absolute targets start at the tree's root.
pub(super) fn follow(tree: &Tree, path: &str) -> Lead {
    let mut pending: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut done = String::new();
    let mut links = 0;
    while let Some(component) = pending.pop() {
        match component.as_str() {
            "" | "." => continue,
            ".." => {
                done = parent(&done).unwrap_or("").to_owned();
                continue;
            }
            _ => {}
        }
        let candidate = if done.is_empty() { component } else { format!("{done}/{component}") };
        match tree.get(&candidate).map(|entry| &entry.node) {
            None => {
                let rest: Vec<&str> = pending.iter().rev().map(String::as_str).collect();
                return Lead::Missing(textual(&format!("{candidate}/{}", rest.join("/"))));
            }
            Some(Node::Symlink(target)) => {
                links += 1;
                if links > 40 {
                    return Lead::Loop;
                }
                if target.starts_with('/') {
                    done.clear();
                }
                pending.extend(target.split('/').rev().map(str::to_owned));
            }
            Some(_) => done = candidate,
        }
    }
    Lead::Found(done)
}

/// Removes empty, `.` and `..` components by their text alone.
fn textual(path: &str) -> String {
    let mut components: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()),
            name => components.push(name),
        }
    }
    components.join("/")
}

/// Returns the entry that a path leads to, hard links resolved.
pub(super) fn entry<'a>(tree: &'a Tree, path: &str) -> Option<&'a Entry> {
    match follow(tree, path) {
        Lead::Found(found) => tree.get(&found).map(|entry| tree.resolve_link(entry)),
        Lead::Missing(_) | Lead::Loop => None,
    }
}

/// Tells whether a path (with or without leading slash) is one that exists at run time only, or is below one.
pub(super) fn at_run_time(path: &str, more: &[String]) -> bool {
    let path = path.trim_start_matches('/');
    RUNTIME_PATHS.into_iter().chain(more.iter().map(String::as_str)).any(|prefix| {
        let prefix = prefix.trim_matches('/');
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}
