//! The stored form of a tree whose file contents are in one pack: JSON, kept as a blob in the cache.

use std::path::Path;
use std::sync::Arc;

use ksos_formats::Digest;
use serde::{Deserialize, Serialize};

use super::{Content, Entry, Location, Meta, Node, Tree, TreeError};

/// The current value of [`TreeIndex::format`].
pub const FORMAT: u32 = 1;

/// The stored form of a tree.
#[derive(Debug, Serialize, Deserialize)]
pub struct TreeIndex {
    /// [`FORMAT`].
    pub format: u32,
    /// Digest of the pack that holds the contents.
    pub pack: Digest,
    entries: Vec<IndexEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct IndexEntry {
    path: String,
    #[serde(flatten)]
    meta: Meta,
    node: IndexNode,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum IndexNode {
    Directory,
    File { digest: Digest, size: u64, offset: u64 },
    Symlink(String),
    HardLink(String),
    CharacterDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
    Socket,
}

impl TreeIndex {
    /// Returns the stored form of `tree`, whose contents are all slices of the pack with digest `pack`.
    /// Inline contents are not allowed here: they would be lost. Callers put them into the pack.
    pub fn from_tree(tree: &Tree, pack: Digest) -> Self {
        let entries = tree.iter().map(|(path, entry)| IndexEntry {
            path: path.to_owned(),
            meta: entry.meta.clone(),
            node: match &entry.node {
                Node::Directory => IndexNode::Directory,
                Node::File(content) => {
                    let offset = match &content.location {
                        Location::Slice { offset, .. } => *offset,
                        Location::Inline(_) => unreachable!("contents of an indexed tree are in its pack"),
                    };
                    IndexNode::File { digest: content.digest, size: content.size, offset }
                }
                Node::Symlink(target) => IndexNode::Symlink(target.clone()),
                Node::HardLink(target) => IndexNode::HardLink(target.clone()),
                Node::CharacterDevice { major, minor } => IndexNode::CharacterDevice { major: *major, minor: *minor },
                Node::BlockDevice { major, minor } => IndexNode::BlockDevice { major: *major, minor: *minor },
                Node::Fifo => IndexNode::Fifo,
                Node::Socket => IndexNode::Socket,
            },
        });
        TreeIndex { format: FORMAT, pack, entries: entries.collect() }
    }

    /// Returns the tree; `pack_path` is where the pack is on this machine.
    ///
    /// # Errors
    /// When an entry's path is not valid (a damaged index).
    pub fn into_tree(self, pack_path: &Path) -> Result<Tree, TreeError> {
        let pack_path: Arc<Path> = pack_path.into();
        let mut tree = Tree::default();
        let mut links = Vec::new();
        for IndexEntry { path, meta, node } in self.entries {
            let node = match node {
                IndexNode::Directory => Node::Directory,
                IndexNode::File { digest, size, offset } => {
                    let location = Location::Slice { path: pack_path.clone(), offset };
                    Node::File(Content { digest, size, location })
                }
                IndexNode::Symlink(target) => Node::Symlink(target),
                IndexNode::HardLink(target) => Node::HardLink(target),
                IndexNode::CharacterDevice { major, minor } => Node::CharacterDevice { major, minor },
                IndexNode::BlockDevice { major, minor } => Node::BlockDevice { major, minor },
                IndexNode::Fifo => Node::Fifo,
                IndexNode::Socket => Node::Socket,
            };
            match node {
                // A hard link may sort before its target.
                Node::HardLink(_) => links.push((path, Entry { meta, node })),
                node => tree.insert(&path, Entry { meta, node })?,
            }
        }
        for (path, entry) in links {
            tree.insert(&path, entry)?;
        }
        Ok(tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::tree::pack::PackWriter;

    #[test]
    fn a_tree_survives_the_cache() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let mut pack = PackWriter::new(&cache).unwrap();
        let first = pack.add(&mut &b"hello"[..], 10).unwrap();
        let second = pack.add(&mut &b"world!"[..], 10).unwrap();
        assert!(pack.add(&mut &b"too long for this"[..], 4).is_err());
        let pack = pack.finish().unwrap();
        let mut tree = Tree::new(7);
        let entry = |node| Entry { meta: Meta::root(0o640, 3), node };
        tree.insert("z", entry(Node::File(pack.content(first)))).unwrap();
        tree.insert("a", entry(Node::HardLink("z".into()))).unwrap();
        tree.insert("d/null", entry(Node::CharacterDevice { major: 1, minor: 3 })).unwrap();
        tree.insert("d/w", entry(Node::File(pack.content(second)))).unwrap();
        let text = serde_json::to_string(&TreeIndex::from_tree(&tree, pack.blob.digest)).unwrap();
        let index: TreeIndex = serde_json::from_str(&text).unwrap();
        let back = index.into_tree(&pack.blob.path).unwrap();
        assert_eq!(back, tree);
        let Node::File(content) = &back.get("d/w").unwrap().node else { panic!() };
        assert_eq!(content.read(100).unwrap(), b"world!");
    }
}
