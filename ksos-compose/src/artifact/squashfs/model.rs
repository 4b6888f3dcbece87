//! The inodes of an image and their numbers.
//!
//! Directories are written in descending order of their paths, so what lies below a directory comes before it. The
//! inodes of what a directory holds are written together, in order of the names: a listing then refers to
//! neighbouring inodes and needs few headers. The root's inode is the last.

use std::collections::HashMap;

use super::Error;
use crate::tree::{Entry, Node, Tree, parent};

/// What a name in a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildKind {
    /// A directory: index into [`Model::directories`].
    Directory(usize),
    /// Anything else, whose inode is written here.
    Inode,
    /// A further name of an inode that was written before.
    Link,
}

/// A name in a directory.
#[derive(Debug)]
pub struct Child<'a> {
    /// Last component of the path.
    pub name: &'a str,
    /// Path in the tree; of a hard link, that of its target.
    pub path: &'a str,
    /// The entry, hard links followed.
    pub entry: &'a Entry,
    /// What it is.
    pub kind: ChildKind,
    /// Number of the inode, from 1.
    pub inode: u32,
    /// How many names a file has.
    pub links: u32,
}

/// A directory.
#[derive(Debug)]
pub struct Directory<'a> {
    /// Path in the tree.
    pub path: &'a str,
    /// The entry.
    pub entry: &'a Entry,
    /// What it holds, in byte order of the names.
    pub children: Vec<Child<'a>>,
    /// Number of the inode.
    pub inode: u32,
    /// Number of the inode of the directory it is in; the root has the number after the last.
    pub parent: u32,
}

impl Directory<'_> {
    /// Returns the number of links: `.`, the name in the parent, and `..` of each directory in it.
    pub fn links(&self) -> u32 {
        2 + self.children.iter().filter(|child| matches!(child.kind, ChildKind::Directory(_))).count() as u32
    }
}

/// All inodes of an image.
#[derive(Debug)]
pub struct Model<'a> {
    /// The directories in the order in which they are written, the root last.
    pub directories: Vec<Directory<'a>>,
    /// Number of inodes.
    pub inodes: u32,
}

impl<'a> Model<'a> {
    /// Lays out `tree`.
    ///
    /// # Errors
    /// When it has no root directory, an entry without a parent directory, or a hard link without a target.
    pub fn new(tree: &'a Tree) -> Result<Self, Error> {
        let directories = tree.iter().rev().filter(|(_, entry)| entry.node == Node::Directory);
        let directories: Vec<Directory<'a>> = directories
            .map(|(path, entry)| Directory { path, entry, children: Vec::new(), inode: 0, parent: 0 })
            .collect();
        let mut model = Model { directories, inodes: 0 };
        model.add_children(tree)?;
        model.number()?;
        Ok(model)
    }

    fn add_children(&mut self, tree: &'a Tree) -> Result<(), Error> {
        let places: HashMap<&str, usize> =
            self.directories.iter().enumerate().map(|(index, directory)| (directory.path, index)).collect();
        let links = tree.link_counts();
        let no_parent = |path: &str| Error::Parent { path: path.to_owned() };
        if !places.contains_key("") {
            return Err(no_parent(""));
        }
        for (path, entry) in tree.iter() {
            let Some(directory) = parent(path) else { continue };
            let place = *places.get(directory).ok_or_else(|| no_parent(path))?;
            let (target, resolved) = resolve(tree, path, entry)?;
            let kind = places.get(path).map_or(ChildKind::Inode, |index| ChildKind::Directory(*index));
            let links = links.get(target).copied().unwrap_or(1);
            let name = path.rsplit('/').next().unwrap_or(path);
            self.directories[place].children.push(Child { name, path: target, entry: resolved, kind, inode: 0, links });
        }
        Ok(())
    }

    /// Gives numbers in the order of writing.
    fn number(&mut self) -> Result<(), Error> {
        let mut linked: HashMap<&str, u32> = HashMap::new();
        let mut last = 0_u32;
        // The last number is kept free for the root's parent.
        let mut next = || {
            last = last.checked_add(1).filter(|number| *number < u32::MAX).ok_or(too_many())?;
            Ok::<u32, Error>(last)
        };
        let mut numbers = vec![(0, 0); self.directories.len()];
        for directory in &mut self.directories {
            for child in &mut directory.children {
                match linked.get(child.path) {
                    Some(number) => (child.kind, child.inode) = (ChildKind::Link, *number),
                    None => child.inode = next()?,
                }
                if child.links > 1 {
                    linked.insert(child.path, child.inode);
                }
            }
        }
        let root = next()?;
        self.inodes = root;
        for (index, directory) in self.directories.iter().enumerate() {
            for child in &directory.children {
                if let ChildKind::Directory(child_index) = child.kind {
                    numbers[child_index] = (child.inode, index);
                }
            }
        }
        self.set_directory_numbers(&numbers, root);
        Ok(())
    }

    /// `numbers` has, for each directory, the number of its inode and the index of its parent.
    fn set_directory_numbers(&mut self, numbers: &[(u32, usize)], root: u32) {
        let root_index = self.directories.len() - 1;
        for (index, directory) in self.directories.iter_mut().enumerate() {
            let (inode, parent) = numbers[index];
            let number_of = |index: usize| if index == root_index { root } else { numbers[index].0 };
            (directory.inode, directory.parent) =
                if index == root_index { (root, root + 1) } else { (inode, number_of(parent)) };
        }
    }
}

fn too_many() -> Error {
    Error::TooMany { what: "inodes", maximum: u64::from(u32::MAX) - 1 }
}

/// Returns the path and the entry that a hard link stands for, or those of any other entry.
fn resolve<'a>(tree: &'a Tree, path: &'a str, entry: &'a Entry) -> Result<(&'a str, &'a Entry), Error> {
    let Node::HardLink(target) = &entry.node else { return Ok((path, entry)) };
    match tree.get(target) {
        Some(found) if matches!(found.node, Node::File(_)) => Ok((target, found)),
        _ => Err(Error::HardLink { path: path.to_owned(), target: target.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Meta};

    #[test]
    fn inodes_are_numbered_in_writing_order() {
        let mut tree = Tree::new(0);
        let mut add = |path: &str, node| tree.insert(path, Entry { meta: Meta::root(0o644, 0), node }).unwrap();
        add("b/c/file", Node::File(Content::inline(*b"1")));
        add("b/x", Node::Fifo);
        add("a", Node::HardLink("b/c/file".to_owned()));
        let model = Model::new(&tree).unwrap();
        let numbers: Vec<_> = model
            .directories
            .iter()
            .map(|directory| {
                let children: Vec<_> = directory.children.iter().map(|child| (child.name, child.inode)).collect();
                (directory.path, directory.inode, directory.parent, directory.links(), children)
            })
            .collect();
        assert_eq!(
            numbers,
            [
                ("b/c", 2, 4, 2, vec![("file", 1)]),
                ("b", 4, 5, 3, vec![("c", 2), ("x", 3)]),
                ("", 5, 6, 3, vec![("a", 1), ("b", 4)]),
            ]
        );
        let root = model.directories.last().unwrap();
        assert_eq!((root.children[0].kind, root.children[0].links), (ChildKind::Link, 2));
        assert_eq!(model.inodes, 5);
    }

    #[test]
    fn a_tree_without_root_is_refused() {
        assert!(matches!(Model::new(&Tree::default()), Err(Error::Parent { .. })));
    }

    #[test]
    fn a_dangling_hard_link_is_refused() {
        let mut tree = Tree::new(0);
        tree.insert("a", Entry { meta: Meta::root(0o644, 0), node: Node::Fifo }).unwrap();
        tree.get_mut("a").unwrap().node = Node::HardLink("gone".to_owned());
        assert!(matches!(Model::new(&tree), Err(Error::HardLink { path, .. }) if path == "a"));
    }
}
