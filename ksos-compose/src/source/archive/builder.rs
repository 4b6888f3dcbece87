//! Takes the entries that a format reader finds, enforces policy and limits, and builds the tree and its pack.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use super::error::{Failure, Fault, Step};
use super::{Limits, Owner, Policy};
use crate::cache::Cache;
use crate::tree::pack::{FinishedPack, PackWriter, PackedFile};
use crate::tree::{Entry, Meta, Node, Tree, TreeError, check_path, parent};

/// What an entry is, while its content cannot be read yet.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    File(PackedFile),
    /// Anything else; never [`Node::File`].
    Other(Node),
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Kind::File(_) => "file",
            Kind::Other(node) => match node {
                Node::File(_) | Node::HardLink(_) => "file",
                Node::Directory => "directory",
                Node::Symlink(_) => "symbolic link",
                Node::CharacterDevice { .. } => "character device",
                Node::BlockDevice { .. } => "block device",
                Node::Fifo => "FIFO",
                Node::Socket => "socket",
            },
        }
    }
}

#[derive(Debug, Clone)]
struct Pending {
    meta: Meta,
    kind: Kind,
}

#[derive(Debug)]
pub(super) struct Builder<'a> {
    pack: PackWriter<'a>,
    entries: BTreeMap<String, Pending>,
    /// Files that hard links point to.
    linked: BTreeSet<String>,
    policy: &'a Policy,
    limits: &'a Limits,
    seen: usize,
    total: u64,
}

impl<'a> Builder<'a> {
    pub(super) fn new(cache: &'a Cache, policy: &'a Policy, limits: &'a Limits) -> Step<Self> {
        let root = Pending { meta: Meta::root(0o755, 0), kind: Kind::Other(Node::Directory) };
        Ok(Builder {
            pack: PackWriter::new(cache)?,
            entries: BTreeMap::from([(String::new(), root)]),
            linked: BTreeSet::new(),
            policy,
            limits,
            seen: 0,
            total: 0,
        })
    }

    /// Counts `bytes` of something else than file content (names, attributes) against the total.
    pub(super) fn charge(&mut self, bytes: u64) -> Result<(), Fault> {
        self.total = self.total.saturating_add(bytes);
        match self.total > self.limits.total {
            true => Err(Fault::TotalLimit { limit: self.limits.total }),
            false => Ok(()),
        }
    }

    /// Adds a regular file with the content of `reader`, which ends where the content does.
    pub(super) fn file(&mut self, path: &str, meta: Meta, reader: &mut dyn Read) -> Step<()> {
        let add = |this: &mut Self| {
            this.check(path, &meta, "file")?;
            let left = self_left(this);
            let (limit, fault) = match left < this.limits.file {
                true => (left, Fault::TotalLimit { limit: this.limits.total }),
                false => (this.limits.file, Fault::FileLimit { limit: this.limits.file }),
            };
            let mut reader = Counted { inner: reader, count: 0 };
            let file = this.pack.add(&mut reader, limit).map_err(|error| Fault::from_pack(error, fault))?;
            this.charge(reader.count)?;
            this.put(path, meta, Kind::File(file))
        };
        add(self).map_err(|fault| Failure::at(path, fault))
    }

    /// Adds an entry that is neither a regular file nor a hard link.
    pub(super) fn node(&mut self, path: &str, mut meta: Meta, node: Node) -> Step<()> {
        let kind = Kind::Other(node);
        let add = || {
            if let Kind::Other(Node::Symlink(target)) = &kind {
                check_target(target)?;
                meta.mode = 0o777;
            }
            self.check(path, &meta, kind.name())?;
            self.put(path, meta, kind)
        };
        add().map_err(|fault| Failure::at(path, fault))
    }

    /// Adds a further name of the regular file at `target`, which must be there already.
    pub(super) fn hard_link(&mut self, path: &str, target: &str) -> Step<()> {
        let mut add = || {
            let missing = || Fault::HardLinkTarget { target: target.to_owned() };
            let found = self.entries.get(target).ok_or_else(missing)?;
            let first = match &found.kind {
                Kind::File(_) => target.to_owned(),
                Kind::Other(Node::HardLink(first)) => first.clone(),
                Kind::Other(_) => return Err(missing()),
            };
            if first == path {
                return Err(missing());
            }
            let meta = found.meta.clone();
            self.check(path, &meta, "file")?;
            self.put(path, meta, Kind::Other(Node::HardLink(first.clone())))?;
            self.linked.insert(first);
            Ok(())
        };
        add().map_err(|fault| Failure::at(path, fault))
    }

    /// Enforces what does not depend on the other entries.
    fn check(&mut self, path: &str, meta: &Meta, kind: &'static str) -> Result<(), Fault> {
        check_path(path).map_err(Fault::Path)?;
        self.count(1)?;
        self.charge(meta.xattrs.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum())?;
        let special = !matches!(kind, "file" | "directory" | "symbolic link");
        if special && !self.policy.allow_devices {
            return Err(Fault::SpecialFile { kind });
        }
        if !self.policy.allow_setid {
            if kind == "file" && meta.mode & 0o6000 != 0 {
                return Err(Fault::Privilege("set-user-ID or set-group-ID file"));
            }
            if meta.xattrs.contains_key("security.capability") {
                return Err(Fault::Privilege("file with capabilities"));
            }
        }
        Ok(())
    }

    /// Counts an entry that waits for another one.
    pub(super) fn wait(&mut self) -> Result<(), Fault> {
        self.count(1)
    }

    /// Says that an entry that waited is added next.
    pub(super) fn resume(&mut self) {
        self.seen -= 1;
    }

    fn count(&mut self, entries: usize) -> Result<(), Fault> {
        self.seen += entries;
        match self.seen > self.limits.entries {
            true => Err(Fault::EntriesLimit { limit: self.limits.entries }),
            false => Ok(()),
        }
    }

    fn put(&mut self, path: &str, mut meta: Meta, kind: Kind) -> Result<(), Fault> {
        if matches!(self.policy.owner, Owner::Root) {
            (meta.uid, meta.gid) = (0, 0);
        }
        self.create_parents(path, meta.mtime)?;
        if let Some(old) = self.entries.get(path) {
            let (first, second) = (old.kind.name(), kind.name());
            if first != second {
                return Err(Fault::KindChanged { first, second });
            }
            let old = old.clone();
            self.unlink(path, old);
        }
        self.entries.insert(path.to_owned(), Pending { meta, kind });
        Ok(())
    }

    fn create_parents(&mut self, path: &str, mtime: i64) -> Result<(), Fault> {
        let mut missing = Vec::new();
        let mut ancestor = parent(path);
        while let Some(directory) = ancestor {
            match self.entries.get(directory).map(|entry| &entry.kind) {
                Some(Kind::Other(Node::Directory)) => break,
                Some(Kind::Other(Node::Symlink(_))) => {
                    return Err(Fault::ThroughSymlink { parent: directory.to_owned() });
                }
                Some(_) => return Err(Fault::ParentNotDirectory { parent: directory.to_owned() }),
                None => missing.push(directory.to_owned()),
            }
            ancestor = parent(directory);
        }
        self.count(missing.len())?;
        for directory in missing {
            let entry = Pending { meta: Meta::root(0o755, mtime), kind: Kind::Other(Node::Directory) };
            self.entries.insert(directory, entry);
        }
        Ok(())
    }

    /// Before `path` is replaced: other names of the file that was there keep its content.
    fn unlink(&mut self, path: &str, old: Pending) {
        if !self.linked.remove(path) {
            return;
        }
        let is_link = |entry: &Pending| matches!(&entry.kind, Kind::Other(Node::HardLink(target)) if target == path);
        let mut names = self.entries.iter().filter(|(_, entry)| is_link(entry)).map(|(name, _)| name.clone());
        let Some(first) = names.next() else { return };
        let others: Vec<String> = names.collect();
        self.entries.insert(first.clone(), old);
        for name in &others {
            if let Some(entry) = self.entries.get_mut(name) {
                entry.kind = Kind::Other(Node::HardLink(first.clone()));
            }
        }
        if !others.is_empty() {
            self.linked.insert(first);
        }
    }

    /// Puts the pack into the cache and returns the tree.
    pub(super) fn finish(self) -> Step<(Tree, FinishedPack)> {
        let pack = self.pack.finish().map_err(|error| Fault::from_pack(error, Fault::Truncated))?;
        let mut tree = Tree::default();
        let mut links = Vec::new();
        let invalid = |path: &str, error: TreeError| Failure::at(path, Fault::Path(error));
        for (path, Pending { meta, kind }) in self.entries {
            let node = match kind {
                Kind::File(file) => Node::File(pack.content(file)),
                Kind::Other(node) => node,
            };
            match node {
                Node::HardLink(_) => links.push((path, Entry { meta, node })),
                node => tree.insert(&path, Entry { meta, node }).map_err(|error| invalid(&path, error))?,
            }
        }
        for (path, entry) in links {
            tree.insert(&path, entry).map_err(|error| invalid(&path, error))?;
        }
        Ok((tree, pack))
    }
}

fn self_left(builder: &Builder<'_>) -> u64 {
    builder.limits.total.saturating_sub(builder.total)
}

/// Checks a symbolic link's target. Where it points to is no matter: nothing is ever written through it.
fn check_target(target: &str) -> Result<(), Fault> {
    match target.is_empty() || target.len() > 4095 || target.contains('\0') {
        true => Err(Fault::SymlinkTarget),
        false => Ok(()),
    }
}

struct Counted<'a> {
    inner: &'a mut dyn Read,
    count: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer).map_err(|error| match error.kind() {
            std::io::ErrorKind::Interrupted => error,
            _ => Fault::from_read(error).into_io(),
        })?;
        self.count += count as u64;
        Ok(count)
    }
}
