//! Puts trees over one another, as packages are unpacked one after the other into one root.
//!
//! Later trees win over earlier ones, and every file that replaced a different one is reported with both origins.
//! Symbolic links to directories in what is there are followed for the *parents* of what comes, inside the tree and
//! as a package manager does: where `lib` is a link to `usr/lib`, `lib/x` goes to `usr/lib/x`, and a directory `lib`
//! merges into `usr/lib`. The last component is never followed: a file over a symbolic link replaces the link.
//! A directory over a directory leaves the metadata of the first, as `dpkg` does, so that a tree that has `tmp` only
//! as a parent does not take its sticky bit. When a link of a merged `/usr` comes late, over a directory that is
//! already there, the directory's content moves to the link's target.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::tree::{Entry, Node, Tree, TreeError, parent};

/// A file that replaced a different one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The path in the merged tree.
    pub path: String,
    /// Whose file was there.
    pub loser: String,
    /// Whose file is there now.
    pub winner: String,
}

/// What one merge did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MergeReport {
    /// Files that were replaced by different ones, in the order of the paths.
    pub conflicts: Vec<Conflict>,
}

/// Two trees do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// A directory and something else at one path.
    #[error("{path:?} is a {there} of {loser} and a {comes} of {winner}")]
    KindConflict {
        /// The path in the merged tree.
        path: String,
        /// What is there.
        there: &'static str,
        /// Whose it is.
        loser: String,
        /// What comes.
        comes: &'static str,
        /// Whose it is.
        winner: String,
    },
    /// A directory comes over a symbolic link that leads to no directory.
    #[error("{path:?} of {winner} is a directory, but {loser} has a symbolic link there that leads to no directory")]
    DanglingLink {
        /// The path in the merged tree.
        path: String,
        /// Whose link it is.
        loser: String,
        /// Whose directory it is.
        winner: String,
    },
    /// The tree cannot hold an entry.
    #[error("from {origin}: {error}")]
    Tree {
        /// Whose entry it is.
        origin: String,
        /// The cause.
        error: TreeError,
    },
}

/// Merges trees and keeps whose each entry is.
#[derive(Debug, Default)]
pub struct Merger {
    tree: Tree,
    origins: BTreeMap<String, Arc<str>>,
    conflicts: Vec<Conflict>,
}

/// A finished merge.
#[derive(Debug)]
pub struct Merged {
    /// The tree.
    pub tree: Tree,
    /// Whose each entry is: path to origin. Directories belong to the first that had them.
    pub origins: BTreeMap<String, Arc<str>>,
    /// All files that were replaced by different ones, in the order of the merges.
    pub conflicts: Vec<Conflict>,
}

/// Links of a merged `/usr` (Debian's `usr-is-merged`): path and where it must point.
const MERGED_USR: [(&str, &str); 6] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib32", "usr/lib32"),
    ("lib64", "usr/lib64"),
    ("libx32", "usr/libx32"),
];

/// Puts `other` over `base`. In the report, what was in `base` is of origin `base`; use a [`Merger`] to keep origins
/// over several merges.
///
/// # Errors
/// [`MergeError`]; `base` is then partly merged.
pub fn merge(base: &mut Tree, other: Tree, origin: &str) -> Result<MergeReport, MergeError> {
    let mut merger = Merger { tree: std::mem::take(base), ..Merger::default() };
    let result = merger.merge(other, origin);
    *base = merger.tree;
    result
}

fn kind(node: &Node) -> &'static str {
    match node {
        Node::Directory => "directory",
        Node::File(_) | Node::HardLink(_) => "file",
        Node::Symlink(_) => "symbolic link",
        Node::CharacterDevice { .. } | Node::BlockDevice { .. } => "device",
        Node::Fifo => "FIFO",
        Node::Socket => "socket",
    }
}

impl Merger {
    /// Starts with an empty root directory with time `mtime`.
    pub fn new(mtime: i64) -> Self {
        Merger { tree: Tree::new(mtime), ..Merger::default() }
    }

    /// Returns what is merged so far.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Returns the result.
    pub fn finish(self) -> Merged {
        let Merger { tree, origins, conflicts } = self;
        Merged { tree, origins, conflicts }
    }

    /// Puts `other` over what is there. The metadata of `other`'s root directory is not taken.
    ///
    /// # Errors
    /// [`MergeError`]; what is there is then partly merged.
    pub fn merge(&mut self, other: Tree, origin: &str) -> Result<MergeReport, MergeError> {
        let origin: Arc<str> = origin.into();
        let before = self.conflicts.len();
        // Where each directory of `other` is in the merged tree. Parents come before what they hold.
        let mut places = BTreeMap::from([(String::new(), String::new())]);
        let mut links = Vec::new();
        if self.tree.is_empty() {
            self.tree = Tree::new(other.get("").map_or(0, |root| root.meta.mtime));
        }
        for (path, entry) in other.iter().filter(|(path, _)| !path.is_empty()) {
            let place = place(&places, path);
            match &entry.node {
                Node::Directory => {
                    let place = self.directory(&place, entry, &origin)?;
                    places.insert(path.to_owned(), place);
                }
                // A hard link may come before its file.
                Node::HardLink(target) => links.push((place, self::place(&places, target), entry)),
                _ => self.node(&place, entry.clone(), &origin)?,
            }
        }
        for (place, target, entry) in links {
            if place != target {
                self.node(&place, Entry { meta: entry.meta.clone(), node: Node::HardLink(target) }, &origin)?;
            }
        }
        Ok(MergeReport { conflicts: self.conflicts[before..].to_vec() })
    }

    fn origin_of(&self, path: &str) -> String {
        self.origins.get(path).map_or("base", |origin| origin).to_owned()
    }

    fn insert(&mut self, place: &str, entry: Entry, origin: &Arc<str>) -> Result<(), MergeError> {
        let error = |error| MergeError::Tree { origin: origin.to_string(), error };
        self.tree.insert(place, entry).map_err(error)?;
        self.origins.insert(place.to_owned(), origin.clone());
        Ok(())
    }

    /// Merges a directory and returns where it is.
    fn directory(&mut self, place: &str, entry: &Entry, origin: &Arc<str>) -> Result<String, MergeError> {
        match self.tree.get(place).map(|there| &there.node) {
            None => {
                self.insert(place, entry.clone(), origin)?;
                Ok(place.to_owned())
            }
            Some(Node::Directory) => Ok(place.to_owned()),
            Some(Node::Symlink(_)) => {
                let target = self.tree.canonicalize(place);
                let is_directory = |path: &String| self.tree.get(path).is_some_and(|at| at.node == Node::Directory);
                target.filter(is_directory).ok_or_else(|| MergeError::DanglingLink {
                    path: place.to_owned(),
                    loser: self.origin_of(place),
                    winner: origin.to_string(),
                })
            }
            Some(there) => Err(self.kind_conflict(place, there, &entry.node, origin)),
        }
    }

    fn kind_conflict(&self, place: &str, there: &Node, comes: &Node, origin: &Arc<str>) -> MergeError {
        MergeError::KindConflict {
            path: place.to_owned(),
            there: kind(there),
            loser: self.origin_of(place),
            comes: kind(comes),
            winner: origin.to_string(),
        }
    }

    /// Merges anything but a directory.
    fn node(&mut self, place: &str, entry: Entry, origin: &Arc<str>) -> Result<(), MergeError> {
        let Some(there) = self.tree.get(place) else {
            return self.insert(place, entry, origin);
        };
        if there.node == Node::Directory {
            return match &entry.node {
                Node::Symlink(target) if is_merged_usr(place, target) => self.move_into_link(place, entry, origin),
                node => Err(self.kind_conflict(place, &there.node, node, origin)),
            };
        }
        if self.differ(there, &entry) {
            let (path, loser, winner) = (place.to_owned(), self.origin_of(place), origin.to_string());
            self.conflicts.push(Conflict { path, loser, winner });
        }
        self.insert(place, entry, origin)
    }

    /// Tells whether two entries that are no directories differ in what they are or hold. Times do not count.
    fn differ(&self, there: &Entry, comes: &Entry) -> bool {
        let (there, comes) = (self.tree.resolve_link(there), self.tree.resolve_link(comes));
        let owner = |entry: &Entry| (entry.meta.mode, entry.meta.uid, entry.meta.gid);
        let symlinks = matches!(there.node, Node::Symlink(_));
        there.node != comes.node
            || (!symlinks && (owner(there) != owner(comes) || there.meta.xattrs != comes.meta.xattrs))
    }

    /// Replaces the directory at `place` by the link `entry`, moving what it holds to the link's target.
    fn move_into_link(&mut self, place: &str, entry: Entry, origin: &Arc<str>) -> Result<(), MergeError> {
        let Node::Symlink(target) = &entry.node else { return Ok(()) };
        let target = target.trim_matches('/').to_owned();
        let mut moved: BTreeMap<Arc<str>, Tree> = BTreeMap::new();
        let whose = self.origins.get(place).cloned().unwrap_or_else(|| "base".into());
        let children: Vec<(String, Entry)> = self
            .tree
            .below(place)
            .map(|(path, entry)| (path.to_owned(), self.tree.resolve_link(entry).clone()))
            .collect();
        let directory = self.tree.get(place).cloned();
        for (path, entry) in children {
            let origin = self.origins.remove(&path).unwrap_or_else(|| whose.clone());
            let new = format!("{target}{}", &path[place.len()..]);
            let error = |error| MergeError::Tree { origin: origin.to_string(), error };
            let mtime = entry.meta.mtime;
            moved.entry(origin.clone()).or_insert_with(|| Tree::new(mtime)).insert(&new, entry).map_err(error)?;
        }
        self.insert(place, entry, origin)?;
        if let Some(directory) = directory
            && self.tree.get(&target).is_none()
        {
            self.insert(&target, directory, &whose)?;
        }
        for (origin, tree) in moved {
            self.merge(tree, &origin)?;
        }
        Ok(())
    }
}

fn is_merged_usr(place: &str, target: &str) -> bool {
    MERGED_USR.iter().any(|(path, expected)| *path == place && *expected == target.trim_matches('/'))
}

/// Returns where `path` of the tree being merged goes: where its parent is, and its name.
fn place(places: &BTreeMap<String, String>, path: &str) -> String {
    let above = parent(path).unwrap_or("");
    let directory = places.get(above).map_or(above, String::as_str);
    let name = path.rsplit('/').next().unwrap_or(path);
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Meta};

    fn tree(entries: &[(&str, Node)]) -> Tree {
        let mut tree = Tree::new(0);
        for (path, node) in entries {
            tree.insert(path, Entry { meta: Meta::root(0o755, 0), node: node.clone() }).unwrap();
        }
        tree
    }

    fn file(text: &str) -> Node {
        Node::File(Content::inline(text.as_bytes()))
    }

    fn link(target: &str) -> Node {
        Node::Symlink(target.into())
    }

    fn merged(trees: &[(&str, Tree)]) -> Result<Merged, MergeError> {
        let mut merger = Merger::new(0);
        for (origin, tree) in trees {
            merger.merge(tree.clone(), origin)?;
        }
        Ok(merger.finish())
    }

    #[test]
    fn later_files_win_and_are_reported_with_both_origins() {
        let one = tree(&[("etc/a", file("1")), ("etc/same", file("s"))]);
        let two = tree(&[("etc/a", file("2")), ("etc/same", file("s"))]);
        let result = merged(&[("one", one), ("two", two)]).unwrap();
        assert_eq!(result.tree.get("etc/a").unwrap().node, file("2"));
        let conflict = Conflict { path: "etc/a".into(), loser: "one".into(), winner: "two".into() };
        assert_eq!(result.conflicts, [conflict]);
        assert_eq!(result.origins["etc/same"].as_ref(), "two");
        assert_eq!(result.origins["etc"].as_ref(), "one");
    }

    #[test]
    fn a_merged_usr_takes_what_old_packages_ship_in_lib() {
        let base = tree(&[("usr/lib", Node::Directory), ("lib", link("usr/lib"))]);
        let package = tree(&[
            ("lib/modules/x.ko", file("x")),
            ("lib/hard", Node::File(Content::inline(&b"h"[..]))),
            ("lib/link", Node::HardLink("lib/hard".into())),
        ]);
        let result = merged(&[("base-files", base), ("kernel", package)]).unwrap();
        let paths: Vec<_> = result.tree.iter().map(|(path, _)| path).collect();
        let expected =
            ["", "lib", "usr", "usr/lib", "usr/lib/hard", "usr/lib/link", "usr/lib/modules", "usr/lib/modules/x.ko"];
        assert_eq!(paths, expected);
        assert_eq!(result.tree.get("usr/lib/link").unwrap().node, Node::HardLink("usr/lib/hard".into()));
        assert!(result.conflicts.is_empty());
    }

    #[test]
    fn a_merged_usr_link_that_comes_late_moves_what_is_there() {
        let package = tree(&[
            ("lib/x", file("old")),
            ("lib/y", file("y")),
            ("lib/z", Node::HardLink("lib/y".into())),
            ("usr/lib/x", file("new")),
        ]);
        let base = tree(&[("lib", link("usr/lib"))]);
        let result = merged(&[("kernel", package), ("base-files", base)]).unwrap();
        assert_eq!(result.tree.get("lib").unwrap().node, link("usr/lib"));
        assert_eq!(result.tree.get("usr/lib/x").unwrap().node, file("old"));
        assert_eq!(result.tree.get("usr/lib/z").unwrap().node, file("y"));
        assert_eq!(result.origins["usr/lib/y"].as_ref(), "kernel");
        assert_eq!(result.conflicts.len(), 1);
    }

    #[test]
    fn other_links_over_directories_are_refused() {
        let one = tree(&[("etc/a", file("1"))]);
        let two = tree(&[("etc", link("usr/etc"))]);
        let error = merged(&[("one", one), ("two", two)]).unwrap_err();
        assert_eq!(error.to_string(), r#""etc" is a directory of one and a symbolic link of two"#);
    }

    #[test]
    fn links_are_followed_inside_the_tree_only() {
        let base = tree(&[("etc", Node::Directory), ("out", link("../../../../etc")), ("gone", link("nowhere"))]);
        let result = merged(&[("a", base.clone()), ("b", tree(&[("out/x", file("x"))]))]).unwrap();
        assert_eq!(result.tree.get("etc/x").unwrap().node, file("x"));
        let error = merged(&[("a", base), ("b", tree(&[("gone/x", file("x"))]))]).unwrap_err();
        assert!(matches!(error, MergeError::DanglingLink { .. }), "{error}");
    }

    #[test]
    fn a_file_replaces_a_link_and_never_goes_through_it() {
        let base = tree(&[("etc/passwd", file("root")), ("alias", link("etc/passwd"))]);
        let mut base_copy = base.clone();
        let report = merge(&mut base_copy, tree(&[("alias", file("x"))]), "b").unwrap();
        assert_eq!(base_copy.get("etc/passwd"), base.get("etc/passwd"));
        assert_eq!(base_copy.get("alias").unwrap().node, file("x"));
        assert_eq!(report.conflicts[0].loser, "base");
    }

    #[test]
    fn a_directory_keeps_the_metadata_of_the_first() {
        let mut base = Tree::new(0);
        base.insert("tmp", Entry { meta: Meta::root(0o1777, 0), node: Node::Directory }).unwrap();
        merge(&mut base, tree(&[("tmp/x", file("x"))]), "overlay").unwrap();
        assert_eq!(base.get("tmp").unwrap().meta.mode, 0o1777);
        let error = merge(&mut base, tree(&[("tmp/x/y", file("y"))]), "other").unwrap_err();
        assert!(matches!(error, MergeError::KindConflict { there: "file", .. }), "{error}");
    }
}
