//! What goes where before any content is read: inode numbers, directories, and the blocks that are sure to be needed.

use std::collections::{BTreeMap, HashMap};

use super::attribute::Attributes;
use super::directory::{Child, Directory, LOST_FOUND_BLOCKS};
use super::extent::Allocator;
use super::geometry::{BLOCK, Geometry, MAXIMUM_BLOCKS};
use super::hash::NameHash;
use super::inode::{self, Kind};
use super::{Error, Options};
use crate::tree::{self, Entry, Meta, Node, Tree};

/// A symbolic link target up to this length, in bytes, is in the inode.
pub(super) const FAST_SYMLINK: usize = 59;
/// The longest symbolic link target, in bytes: it must fit a block with a NUL byte behind it.
const LONGEST_SYMLINK: usize = BLOCK - 1;
/// Names that a file may have.
const MAXIMUM_LINKS: u32 = 65000;
/// Bytes of the largest file: logical block numbers have 32 bits and the last one is not used.
const MAXIMUM_FILE: u64 = (u32::MAX as u64) * BLOCK as u64;

/// An inode to be written, other than the journal's.
#[derive(Debug)]
pub(super) struct Item<'t> {
    pub(super) path: &'t str,
    pub(super) meta: &'t Meta,
    pub(super) node: &'t Node,
    pub(super) inode: u32,
    pub(super) links: u16,
    /// Set for directories only.
    pub(super) directory: Option<(Directory<'t>, u32)>,
    /// Whether the extended attributes need a block of their own.
    pub(super) attribute_block: bool,
}

/// All inodes of a tree.
#[derive(Debug)]
pub(super) struct Plan<'t> {
    /// Directories first (the root, then by path), then everything else by path.
    pub(super) items: Vec<Item<'t>>,
    /// The highest inode number in use.
    pub(super) last_inode: u32,
}

/// Metadata of entries that a tree does not name: the root of an empty tree and `lost+found`.
#[derive(Debug)]
pub(super) struct Defaults {
    root: Entry,
    lost_found: Entry,
}

impl Defaults {
    /// Returns the default root (mode 0755) and `lost+found` (mode 0700) at time `epoch`.
    pub(super) fn new(epoch: u64) -> Self {
        let directory = |mode| Entry { meta: Meta::root(mode, epoch as i64), node: Node::Directory };
        Defaults { root: directory(0o755), lost_found: directory(0o700) }
    }
}

const LOST_FOUND: &str = "lost+found";

/// One line of the numbered tree; `inode` is 0 for a hard link until its target is known.
struct Numbered<'t> {
    path: &'t str,
    entry: &'t Entry,
    inode: u32,
}

impl<'t> Plan<'t> {
    /// Numbers the inodes of `tree` in the order of its paths and arranges its directories.
    ///
    /// # Errors
    /// When an entry is something that ext4 cannot hold; see [`Error`].
    pub(super) fn new(tree: &'t Tree, defaults: &'t Defaults, options: &Options) -> Result<Self, Error> {
        let (mut entries, last_inode) = number(tree, defaults)?;
        let known: HashMap<&str, (u32, Kind)> =
            entries.iter().filter_map(|line| Some((line.path, (line.inode, kind(&line.entry.node)?)))).collect();
        for line in &mut entries {
            if let Node::HardLink(target) = &line.entry.node {
                line.inode = match known.get(target.as_str()) {
                    Some((inode, Kind::File)) => *inode,
                    _ => return Err(Error::HardLinkTarget { path: line.path.into(), target: target.clone() }),
                };
            }
        }
        let children = children(&entries, &known)?;
        let links = tree.link_counts();
        let mut plan = Plan { items: Vec::with_capacity(entries.len()), last_inode };
        let hash = NameHash::new(&options.hash_seed);
        for (path, names) in children {
            plan.push_directory(path, names, &known, &entries, &hash)?;
        }
        for line in &entries {
            if !matches!(line.entry.node, Node::Directory | Node::HardLink(_)) {
                let count = links.get(line.path).copied().unwrap_or(1);
                if count > MAXIMUM_LINKS {
                    return Err(Error::TooManyLinks { path: line.path.into(), count, limit: MAXIMUM_LINKS });
                }
                plan.items.push(item(line, count as u16)?);
            }
        }
        Ok(plan)
    }

    fn push_directory(
        &mut self,
        path: &'t str,
        names: Vec<Child<'t>>,
        known: &HashMap<&str, (u32, Kind)>,
        entries: &[Numbered<'t>],
        hash: &NameHash,
    ) -> Result<(), Error> {
        let count = names.len();
        let minimum_blocks = if path == LOST_FOUND { LOST_FOUND_BLOCKS } else { 1 };
        let Some(directory) = Directory::new(names, hash, minimum_blocks) else {
            return Err(Error::DirectoryTooLarge { path: path.into(), count });
        };
        let position = entries.binary_search_by_key(&path, |line| line.path).expect("children come from the entries");
        let parent = tree::parent(path).map_or(inode::ROOT, |parent| known[parent].0);
        // `dir_nlink`: more than can be counted is stored as 1.
        let links = directory.subdirectories + 2;
        let links = if links > u64::from(MAXIMUM_LINKS) { 1 } else { links as u16 };
        let mut item = item(&entries[position], links)?;
        item.directory = Some((directory, parent));
        self.items.push(item);
        Ok(())
    }

    /// Takes from `allocator` what the directories, long links and attribute blocks of the plan need, and what the
    /// files need if none has a hole.
    /// Ends early when no file system could hold more: sizes are only what the tree declares.
    pub(super) fn take_all(&self, allocator: &mut Allocator<'_>) {
        for item in &self.items {
            if allocator.end() > MAXIMUM_BLOCKS {
                return;
            }
            take(allocator, u64::from(item.attribute_block));
            take(allocator, item.known_blocks());
            if let Node::File(content) = item.node {
                take(allocator, content.size.div_ceil(BLOCK as u64));
            }
        }
    }

    /// Takes the same without the files.
    pub(super) fn take_known(&self, allocator: &mut Allocator<'_>) {
        for item in &self.items {
            take(allocator, u64::from(item.attribute_block));
            take(allocator, item.known_blocks());
        }
    }
}

impl Item<'_> {
    fn known_blocks(&self) -> u64 {
        match (&self.directory, self.node) {
            (Some((directory, _)), _) => directory.blocks() as u64,
            (None, Node::Symlink(target)) => u64::from(target.len() > FAST_SYMLINK),
            _ => 0,
        }
    }
}

/// Takes `blocks` and what a tree over them needs.
pub(super) fn take(allocator: &mut Allocator<'_>, blocks: u64) {
    let extents = allocator.take_extents(blocks);
    for _ in 0..extents.tree_blocks() {
        allocator.take_one();
    }
}

/// Returns the blocks that must be free on `geometry`: journal, and what `fill` takes.
pub(super) fn blocks_needed(geometry: &Geometry, fill: impl Fn(&mut Allocator<'_>)) -> u64 {
    let mut allocator = geometry.allocator();
    take(&mut allocator, geometry.journal_blocks);
    fill(&mut allocator);
    allocator.taken()
}

fn number<'t>(tree: &'t Tree, defaults: &'t Defaults) -> Result<(Vec<Numbered<'t>>, u32), Error> {
    let mut lines: BTreeMap<&str, &Entry> = BTreeMap::new();
    lines.insert("", &defaults.root);
    lines.insert(LOST_FOUND, &defaults.lost_found);
    for (path, entry) in tree.iter() {
        tree::check_path(path)?;
        if matches!(path, "" | LOST_FOUND) && entry.node != Node::Directory {
            return Err(Error::NotDirectory { path: path.into() });
        }
        lines.insert(path, entry);
    }
    let mut last_inode = inode::LOST_FOUND;
    let mut entries = Vec::with_capacity(lines.len());
    for (path, entry) in lines {
        let inode = match (path, &entry.node) {
            ("", _) => inode::ROOT,
            (LOST_FOUND, _) => inode::LOST_FOUND,
            (_, Node::HardLink(_)) => 0,
            _ => {
                last_inode = last_inode.checked_add(1).ok_or(Error::TooManyEntries)?;
                last_inode
            }
        };
        entries.push(Numbered { path, entry, inode });
    }
    Ok((entries, last_inode))
}

/// Returns the names in each directory, by path of the directory.
fn children<'t>(
    entries: &[Numbered<'t>],
    known: &HashMap<&str, (u32, Kind)>,
) -> Result<BTreeMap<&'t str, Vec<Child<'t>>>, Error> {
    let mut children: BTreeMap<&str, Vec<Child<'_>>> = BTreeMap::new();
    for line in entries {
        if line.entry.node == Node::Directory {
            children.insert(line.path, Vec::new());
        }
        let Some(parent) = tree::parent(line.path) else { continue };
        let Some(names) = children.get_mut(parent) else {
            return match known.contains_key(parent) {
                true => Err(Error::NotDirectory { path: parent.into() }),
                false => Err(Error::ParentMissing { path: line.path.into() }),
            };
        };
        let name = line.path.rsplit('/').next().unwrap_or(line.path);
        names.push(Child { name, inode: line.inode, kind: kind(&line.entry.node).unwrap_or(Kind::File) });
    }
    Ok(children)
}

/// Returns the kind of inode; a hard link has none of its own.
fn kind(node: &Node) -> Option<Kind> {
    Some(match node {
        Node::Directory => Kind::Directory,
        Node::File(_) => Kind::File,
        Node::Symlink(_) => Kind::Symlink,
        Node::CharacterDevice { .. } => Kind::CharacterDevice,
        Node::BlockDevice { .. } => Kind::BlockDevice,
        Node::Fifo => Kind::Fifo,
        Node::Socket => Kind::Socket,
        Node::HardLink(_) => return None,
    })
}

fn item<'t>(line: &Numbered<'t>, links: u16) -> Result<Item<'t>, Error> {
    let Numbered { path, entry, inode } = *line;
    let meta = &entry.meta;
    if !inode::TIMES.contains(&meta.mtime) {
        return Err(Error::TimeOutOfRange { path: path.into(), mtime: meta.mtime });
    }
    match &entry.node {
        Node::Symlink(target) if target.is_empty() || target.len() > LONGEST_SYMLINK || target.contains('\0') => {
            return Err(Error::SymlinkTarget { path: path.into(), length: target.len(), limit: LONGEST_SYMLINK });
        }
        Node::File(content) if content.size > MAXIMUM_FILE => {
            return Err(Error::FileTooLarge { path: path.into(), size: content.size, limit: MAXIMUM_FILE });
        }
        Node::CharacterDevice { major, minor } | Node::BlockDevice { major, minor }
            if inode::device_area(*major, *minor).is_none() =>
        {
            return Err(Error::DeviceNumber { path: path.into(), major: *major, minor: *minor });
        }
        _ => {}
    }
    let attribute_block = !meta.xattrs.is_empty() && Attributes::new(path, &meta.xattrs)?.block.is_some();
    Ok(Item { path, meta, node: &entry.node, inode, links, directory: None, attribute_block })
}

impl Item<'_> {
    /// Returns the kind of the inode.
    pub(super) fn kind(&self) -> Kind {
        kind(self.node).expect("hard links are no items")
    }
}
