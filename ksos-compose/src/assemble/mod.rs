//! What the root file system holds besides components: what package scripts would have made, and the runtime's
//! documents. Pure: trees and settings in, entries out.

pub mod certificates;
pub mod users;

use crate::tree::{Content, Entry, Meta, Node, Tree, TreeError};

/// A root file system could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// A path is not valid or clashes with what is there.
    #[error("{origin}: {source}")]
    Tree {
        /// What wanted the entry, e.g. `files."/etc/motd"`.
        origin: String,
        /// What is wrong.
        source: TreeError,
    },
    /// A file of the tree could not be read.
    #[error("cannot read {path} of the root file system: {source}")]
    Read {
        /// Path in the tree.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// There is no certificate to bundle.
    #[error("root.ca-bundle is true, but there is no usr/share/ca-certificates/**/*.crt")]
    NoCertificates,
    /// A certificate is not in PEM form.
    #[error("{path}: not a PEM certificate")]
    Certificate {
        /// Path in the tree.
        path: String,
    },
}

/// Returns the path that `path` (absolute or relative) has in a tree whose directories may be symbolic links, such as
/// `bin -> usr/bin`: the links of the parent are followed, the last component is not.
pub fn place(tree: &Tree, path: &str) -> String {
    let path = path.trim_matches('/');
    let Some((parent, name)) = path.rsplit_once('/') else { return path.to_owned() };
    // The nearest existing ancestor decides; what is below it does not exist yet.
    let mut existing = parent;
    loop {
        if let Some(found) = tree.canonicalize(existing) {
            let rest = parent[existing.len()..].trim_start_matches('/');
            return [found.as_str(), rest, name]
                .iter()
                .filter(|part| !part.is_empty())
                .copied()
                .collect::<Vec<_>>()
                .join("/");
        }
        existing = existing.rsplit_once('/').map_or("", |(up, _)| up);
    }
}

/// Inserts an entry at `path`, following links of its parents.
///
/// # Errors
/// [`AssembleError::Tree`] with `origin`.
pub fn put(tree: &mut Tree, path: &str, entry: Entry, origin: &str) -> Result<(), AssembleError> {
    let place = place(tree, path);
    tree.insert(&place, entry).map_err(|source| AssembleError::Tree { origin: origin.to_owned(), source })
}

/// Inserts a small regular file owned by root.
///
/// # Errors
/// [`AssembleError::Tree`] with `origin`.
pub fn put_file(
    tree: &mut Tree,
    path: &str,
    mode: u32,
    bytes: &[u8],
    epoch: u64,
    origin: &str,
) -> Result<(), AssembleError> {
    let entry = Entry { meta: Meta::root(mode, epoch as i64), node: Node::File(Content::inline(bytes)) };
    put(tree, path, entry, origin)
}

/// Makes sure that `path` is a directory that can be mounted on; an existing directory is left as it is.
///
/// # Errors
/// [`AssembleError::Tree`] when something else is there.
pub fn put_directory(tree: &mut Tree, path: &str, mode: u32, epoch: u64, origin: &str) -> Result<(), AssembleError> {
    if tree.canonicalize(path).and_then(|found| tree.get(&found).map(|entry| entry.node == Node::Directory))
        == Some(true)
    {
        return Ok(());
    }
    put(tree, path, Entry { meta: Meta::root(mode, epoch as i64), node: Node::Directory }, origin)
}

/// Directories that PID 1 mounts on, with their modes.
pub const MOUNT_POINTS: &[(&str, u32)] = &[
    ("proc", 0o555),
    ("sys", 0o555),
    ("dev", 0o755),
    ("run", 0o755),
    ("tmp", 0o1777),
    ("data", 0o755),
    ("root", 0o700),
    ("etc", 0o755),
    ("var", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/cache", 0o755),
];

/// Sets every modification time that is later than `epoch` to `epoch`, so that no wall time gets into an image.
pub fn clamp_times(tree: &mut Tree, epoch: u64) {
    let late: Vec<String> =
        tree.iter().filter(|(_, entry)| entry.meta.mtime > epoch as i64).map(|(path, _)| path.to_owned()).collect();
    for path in late {
        if let Some(entry) = tree.get_mut(&path) {
            entry.meta.mtime = epoch as i64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usr_merged() -> Tree {
        let mut tree = Tree::new(0);
        let entry = |node| Entry { meta: Meta::root(0o755, 9), node };
        tree.insert("usr/sbin", entry(Node::Directory)).unwrap();
        tree.insert("sbin", entry(Node::Symlink("usr/sbin".into()))).unwrap();
        tree
    }

    #[test]
    fn parents_that_are_links_are_followed() {
        let tree = usr_merged();
        assert_eq!(place(&tree, "/sbin/modprobe"), "usr/sbin/modprobe");
        assert_eq!(place(&tree, "/sbin/a/b/c"), "usr/sbin/a/b/c");
        assert_eq!(place(&tree, "/sbin"), "sbin");
        assert_eq!(place(&tree, "/new/x/y"), "new/x/y");
    }

    #[test]
    fn a_mount_point_that_is_a_file_is_refused() {
        let mut tree = usr_merged();
        put_file(&mut tree, "/etc", 0o644, b"", 0, "test").unwrap();
        put_directory(&mut tree, "/sbin", 0o755, 0, "test").unwrap();
        assert!(matches!(tree.get("sbin").unwrap().node, Node::Symlink(_)), "a link to a directory will do");
        let error = put_file(&mut tree, "/etc/motd", 0o644, b"", 0, "files.\"/etc/motd\"").unwrap_err();
        assert_eq!(
            error.to_string(),
            "files.\"/etc/motd\": \"etc/motd\" cannot be created: \"etc\" is not a directory"
        );
    }

    #[test]
    fn late_times_are_clamped() {
        let mut tree = usr_merged();
        clamp_times(&mut tree, 5);
        assert!(tree.iter().all(|(_, entry)| entry.meta.mtime <= 5));
    }
}
