//! The difference of two file trees.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::tree::{Entry, Node, Tree};

/// A part of an entry that can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// File, directory, symbolic link, device and so on.
    Kind,
    /// Permission bits.
    Mode,
    /// User or group.
    Owner,
    /// The bytes of a file.
    Content,
    /// The target of a symbolic link.
    Target,
    /// The numbers of a device.
    Device,
    /// Whether, and with which other name, a file is the same file.
    HardLink,
    /// Extended attributes.
    Xattrs,
}

impl std::fmt::Display for Aspect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Aspect::Kind => "kind",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Content => "content",
            Aspect::Target => "target",
            Aspect::Device => "device",
            Aspect::HardLink => "hard link",
            Aspect::Xattrs => "xattrs",
        })
    }
}

/// An entry that only one side has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedFile {
    /// Absolute path.
    pub path: String,
    /// Bytes of content; 0 for what is no regular file.
    pub size: u64,
}

/// An entry that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangedFile {
    /// Absolute path.
    pub path: String,
    /// What differs.
    pub aspects: Vec<Aspect>,
    /// Bytes of content in the first tree.
    pub a_size: u64,
    /// Bytes of content in the second tree.
    pub b_size: u64,
}

/// How many entries, and the bytes of their content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// Entries.
    pub entries: usize,
    /// Bytes of content.
    pub bytes: u64,
}

/// The difference of two file trees; lists are in byte order of the paths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FileDiff {
    /// Only in the second tree.
    pub added: Vec<ListedFile>,
    /// Only in the first tree.
    pub removed: Vec<ListedFile>,
    /// In both and different.
    pub changed: Vec<ChangedFile>,
    /// Entries that differ in their modification time alone: a number, as another epoch changes all of them.
    pub time_only: usize,
    /// Everything in the first tree.
    pub a_total: Sum,
    /// Everything in the second tree.
    pub b_total: Sum,
}

impl FileDiff {
    /// Compares `a` and `b`.
    pub fn of(a: &Tree, b: &Tree) -> Self {
        let mut diff = FileDiff { a_total: total(a), b_total: total(b), ..FileDiff::default() };
        let paths: BTreeSet<&str> = a.iter().chain(b.iter()).map(|(path, _)| path).collect();
        for path in paths {
            match (a.get(path), b.get(path)) {
                (Some(entry), None) => diff.removed.push(listed(path, size(entry))),
                (None, Some(entry)) => diff.added.push(listed(path, size(entry))),
                (Some(left), Some(right)) => diff.compare(path, (a, left), (b, right)),
                (None, None) => {}
            }
        }
        diff
    }

    /// Tells whether nothing differs, times included.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty() && self.time_only == 0
    }

    /// Returns the first entry that differs in more than its time, with what differs.
    pub fn first(&self) -> Option<(&str, String)> {
        let added = self.added.first().map(|file| (file.path.as_str(), "only in the second".to_owned()));
        let removed = self.removed.first().map(|file| (file.path.as_str(), "only in the first".to_owned()));
        let changed = self.changed.first().map(|file| (file.path.as_str(), join(&file.aspects)));
        [added, removed, changed].into_iter().flatten().min()
    }

    fn compare(&mut self, path: &str, a: (&Tree, &Entry), b: (&Tree, &Entry)) {
        let mut aspects = BTreeSet::new();
        if link_target(a.1) != link_target(b.1) {
            aspects.insert(Aspect::HardLink);
        }
        let (left, right) = (a.0.resolve_link(a.1), b.0.resolve_link(b.1));
        aspects.extend(node_aspect(&left.node, &right.node));
        let (left_meta, right_meta) = (&left.meta, &right.meta);
        if left_meta.mode != right_meta.mode {
            aspects.insert(Aspect::Mode);
        }
        if (left_meta.uid, left_meta.gid) != (right_meta.uid, right_meta.gid) {
            aspects.insert(Aspect::Owner);
        }
        if left_meta.xattrs != right_meta.xattrs {
            aspects.insert(Aspect::Xattrs);
        }
        if !aspects.is_empty() {
            let aspects = aspects.into_iter().collect();
            self.changed.push(ChangedFile {
                path: format!("/{path}"),
                aspects,
                a_size: size(left),
                b_size: size(right),
            });
        } else if left_meta.mtime != right_meta.mtime {
            self.time_only += 1;
        }
    }
}

/// Joins aspects to a text.
pub(in crate::ops) fn join(aspects: &[Aspect]) -> String {
    aspects.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn listed(path: &str, size: u64) -> ListedFile {
    ListedFile { path: format!("/{path}"), size }
}

fn link_target(entry: &Entry) -> Option<&str> {
    match &entry.node {
        Node::HardLink(target) => Some(target),
        _ => None,
    }
}

fn node_aspect(a: &Node, b: &Node) -> Option<Aspect> {
    if a == b {
        return None;
    }
    Some(match (a, b) {
        (Node::File(_), Node::File(_)) => Aspect::Content,
        (Node::Symlink(_), Node::Symlink(_)) => Aspect::Target,
        (Node::CharacterDevice { .. }, Node::CharacterDevice { .. })
        | (Node::BlockDevice { .. }, Node::BlockDevice { .. }) => Aspect::Device,
        _ => Aspect::Kind,
    })
}

/// Returns the bytes of a regular file's content; those of hard links count once, where the file is.
fn size(entry: &Entry) -> u64 {
    match &entry.node {
        Node::File(content) => content.size,
        _ => 0,
    }
}

fn total(tree: &Tree) -> Sum {
    tree.iter().fold(Sum::default(), |sum, (_, entry)| Sum { entries: sum.entries + 1, bytes: sum.bytes + size(entry) })
}
