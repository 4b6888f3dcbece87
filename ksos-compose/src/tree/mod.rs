//! The in-memory file tree that every stage speaks: sources yield trees, the plan merges them, writers write them.
//!
//! Paths are UTF-8, relative to the root, without a leading slash; the root directory itself is `""`. File content
//! is never held in memory (except small generated files): an entry names it by digest and says where to read it.

pub mod content;
pub mod index;
pub mod pack;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use content::{Content, Location};

/// Permission bits, ownership, time and extended attributes of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Permission, set-id and sticky bits: `mode & 0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in seconds since 1970.
    pub mtime: i64,
    /// Extended attributes: full name (`security.capability`) to value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Meta {
    /// Returns metadata of root-owned `mode` at `mtime` without extended attributes.
    pub fn root(mode: u32, mtime: i64) -> Self {
        Meta { mode, uid: 0, gid: 0, mtime, xattrs: BTreeMap::new() }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A regular file. Sparse files are files with zero blocks: writers find the holes themselves.
    File(Content),
    /// A symbolic link with its target.
    Symlink(String),
    /// A further name of the regular file at this path, whose metadata it shares. Never points to another hard link.
    HardLink(String),
    /// A character device.
    CharacterDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Metadata. Ignored for [`Node::HardLink`].
    pub meta: Meta,
    /// Kind and content.
    pub node: Node,
}

/// A path that cannot be in a tree, or an operation that does not fit what is there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Empty, absolute, with `.` or `..`, with an empty component, a NUL, or a component over 255 bytes.
    #[error("{path:?} is not a valid path: {reason}")]
    InvalidPath {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A parent of the path is not a directory.
    #[error("{path:?} cannot be created: {parent:?} is not a directory")]
    ParentNotDirectory {
        /// The path.
        path: String,
        /// The parent.
        parent: String,
    },
    /// A hard link to something that is not a regular file in the tree.
    #[error("hard link {path:?} points to {target:?}, which is not a regular file in the tree")]
    HardLinkTarget {
        /// The link.
        path: String,
        /// Its target.
        target: String,
    },
}

/// A file tree. Iteration is in byte order of the paths, so a directory comes before what it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

/// Checks that `path` is a relative, normalised path: no leading slash, no empty, `.` or `..` component, no NUL,
/// every component at most 255 bytes. The empty path (the root) is valid.
pub fn check_path(path: &str) -> Result<(), TreeError> {
    let fail = |reason| Err(TreeError::InvalidPath { path: path.chars().take(200).collect(), reason });
    if path.is_empty() {
        return Ok(());
    }
    if path.len() > 4095 {
        return fail("longer than 4095 bytes");
    }
    for component in path.split('/') {
        match component {
            "" => return fail("absolute, or with an empty component"),
            "." | ".." => return fail("has a `.` or `..` component"),
            name if name.len() > 255 => return fail("has a component longer than 255 bytes"),
            name if name.contains('\0') => return fail("has a NUL byte"),
            _ => {}
        }
    }
    Ok(())
}

/// Returns the parent of a path in the tree: `a/b` gives `a`, `a` gives `""`, the root gives `None`.
pub fn parent(path: &str) -> Option<&str> {
    match path.rfind('/') {
        Some(slash) => Some(&path[..slash]),
        None if path.is_empty() => None,
        None => Some(""),
    }
}

impl Tree {
    /// Returns a tree with only a root directory, mode 0755, root-owned, at `mtime`.
    pub fn new(mtime: i64) -> Self {
        let mut entries = BTreeMap::new();
        entries.insert(String::new(), Entry { meta: Meta::root(0o755, mtime), node: Node::Directory });
        Tree { entries }
    }

    /// Returns the number of entries, the root included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Tells whether the tree has no entries, not even a root.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the entry at `path`, symbolic links not followed.
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// Returns the entry at `path` for change.
    pub fn get_mut(&mut self, path: &str) -> Option<&mut Entry> {
        self.entries.get_mut(path)
    }

    /// Iterates over path and entry in byte order of the paths.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// Iterates over the entries below directory `path` (not `path` itself), in byte order.
    pub fn below<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        self.entries
            .range(prefix.clone()..)
            .take_while(move |(name, _)| name.starts_with(&prefix))
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, entry)| (name.as_str(), entry))
    }

    /// Puts `entry` at `path`, replacing what was there. A directory over a directory keeps the children and takes
    /// the new metadata; anything else over a directory drops the children. Missing parents are created with mode
    /// 0755, root-owned, at the entry's time. Hard links whose target goes become regular files.
    ///
    /// # Errors
    /// [`TreeError::InvalidPath`], [`TreeError::ParentNotDirectory`], [`TreeError::HardLinkTarget`].
    pub fn insert(&mut self, path: &str, entry: Entry) -> Result<(), TreeError> {
        check_path(path)?;
        if let Node::HardLink(target) = &entry.node {
            let is_file = self.entries.get(target).is_some_and(|found| matches!(found.node, Node::File(_)));
            if !is_file || target == path {
                return Err(TreeError::HardLinkTarget { path: path.to_owned(), target: target.clone() });
            }
        }
        self.create_parents(path, entry.meta.mtime)?;
        let keeps_children = matches!(entry.node, Node::Directory);
        if let Some(old) = self.entries.get(path)
            && !(keeps_children && matches!(old.node, Node::Directory))
        {
            self.remove(path);
        }
        self.entries.insert(path.to_owned(), entry);
        Ok(())
    }

    fn create_parents(&mut self, path: &str, mtime: i64) -> Result<(), TreeError> {
        let mut missing = Vec::new();
        let mut ancestor = parent(path);
        while let Some(directory) = ancestor {
            match self.entries.get(directory).map(|entry| &entry.node) {
                Some(Node::Directory) => break,
                Some(_) => {
                    let (path, parent) = (path.to_owned(), directory.to_owned());
                    return Err(TreeError::ParentNotDirectory { path, parent });
                }
                None => missing.push(directory.to_owned()),
            }
            ancestor = parent(directory);
        }
        for directory in missing {
            self.entries.insert(directory, Entry { meta: Meta::root(0o755, mtime), node: Node::Directory });
        }
        Ok(())
    }

    /// Removes `path` and everything below it; returns how many entries went. Hard links elsewhere to a removed file
    /// keep its content: the first of them becomes the regular file.
    pub fn remove(&mut self, path: &str) -> usize {
        let mut doomed: Vec<String> = self.below(path).map(|(name, _)| name.to_owned()).collect();
        if self.entries.contains_key(path) {
            doomed.push(path.to_owned());
        }
        let removed: BTreeMap<String, Entry> =
            doomed.iter().filter_map(|name| self.entries.remove_entry(name)).collect();
        if removed.values().any(|entry| matches!(entry.node, Node::File(_))) {
            self.promote_links(&removed);
        }
        removed.len()
    }

    fn promote_links(&mut self, removed: &BTreeMap<String, Entry>) {
        let mut promoted: BTreeMap<String, String> = BTreeMap::new();
        for (name, entry) in &mut self.entries {
            let Node::HardLink(target) = &entry.node else { continue };
            let Some(old) = removed.get(target) else { continue };
            match promoted.get(target) {
                Some(first) => entry.node = Node::HardLink(first.clone()),
                None => {
                    promoted.insert(target.clone(), name.clone());
                    *entry = old.clone();
                }
            }
        }
    }

    /// Returns the entry that `path` names once hard links are resolved: content and metadata of the file.
    pub fn resolve_link<'a>(&'a self, entry: &'a Entry) -> &'a Entry {
        match &entry.node {
            Node::HardLink(target) => self.entries.get(target).unwrap_or(entry),
            _ => entry,
        }
    }

    /// Follows symbolic links in every component of `path` inside the tree (absolute targets start at the tree's
    /// root, `..` stops there) and returns the path of the entry it ends at; `None` when it dangles or loops.
    pub fn canonicalize(&self, path: &str) -> Option<String> {
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
            match &self.entries.get(&candidate)?.node {
                Node::Symlink(target) => {
                    links += 1;
                    if links > 40 {
                        return None;
                    }
                    if target.starts_with('/') {
                        done.clear();
                    }
                    pending.extend(target.split('/').rev().map(str::to_owned));
                }
                _ => done = candidate,
            }
        }
        Some(done)
    }

    /// Returns the number of names that each regular file has, by path of the regular file, where it is over 1.
    pub fn link_counts(&self) -> BTreeMap<&str, u32> {
        let mut counts = BTreeMap::new();
        for entry in self.entries.values() {
            if let Node::HardLink(target) = &entry.node {
                *counts.entry(target.as_str()).or_insert(1) += 1;
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Entry {
        Entry { meta: Meta::root(0o644, 0), node: Node::File(Content::inline(text.as_bytes())) }
    }

    fn link(target: &str) -> Entry {
        Entry { meta: Meta::root(0o777, 0), node: Node::Symlink(target.to_owned()) }
    }

    #[test]
    fn bad_paths_are_refused() {
        for path in ["/a", "a//b", "a/", "../a", "a/..", "./a", "a\0b", &"x".repeat(256)] {
            assert!(check_path(path).is_err(), "{path}");
        }
        assert_eq!(check_path("usr/lib/é"), Ok(()));
    }

    #[test]
    fn a_file_over_a_directory_drops_the_children() {
        let mut tree = Tree::new(0);
        tree.insert("a/b/c", file("1")).unwrap();
        tree.insert("a-b", file("2")).unwrap();
        tree.insert("a", file("3")).unwrap();
        assert_eq!(tree.iter().map(|(path, _)| path).collect::<Vec<_>>(), ["", "a", "a-b"]);
        assert!(tree.insert("a/x", file("4")).is_err());
    }

    #[test]
    fn hard_links_survive_their_target() {
        let mut tree = Tree::new(0);
        tree.insert("a", file("1")).unwrap();
        let hard = |target: &str| Entry { meta: Meta::root(0, 0), node: Node::HardLink(target.into()) };
        tree.insert("b", hard("a")).unwrap();
        tree.insert("c", hard("a")).unwrap();
        assert_eq!(tree.link_counts().get("a"), Some(&3));
        tree.insert("a", file("2")).unwrap();
        assert_eq!(tree.get("b"), Some(&file("1")));
        assert_eq!(tree.get("c").unwrap().node, Node::HardLink("b".into()));
        assert!(tree.insert("d", hard("missing")).is_err());
    }

    #[test]
    fn symbolic_links_are_followed_inside_the_tree() {
        let mut tree = Tree::new(0);
        tree.insert("usr/lib/x.so.1", file("1")).unwrap();
        tree.insert("lib", link("usr/lib")).unwrap();
        tree.insert("usr/lib/x.so", link("../../../../lib/x.so.1")).unwrap();
        tree.insert("loop", link("loop")).unwrap();
        assert_eq!(tree.canonicalize("lib/x.so").as_deref(), Some("usr/lib/x.so.1"));
        assert_eq!(tree.canonicalize("/lib/x.so").as_deref(), Some("usr/lib/x.so.1"));
        assert_eq!(tree.canonicalize("loop"), None);
        assert_eq!(tree.canonicalize("lib/none"), None);
    }
}
