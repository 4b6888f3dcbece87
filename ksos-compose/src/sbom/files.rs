//! The files of a root file system with what made each: kept beside the image that is built of them, so that a bill of
//! materials needs no tree.
//!
//! Where the bytes of a file are tells its package: every package is unpacked into a pack of its own in the cache, and a
//! path may move on its way into the root file system, its content does not.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ksos_formats::Digest;
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

use super::licence::Stated;
use crate::cache::Cache;
use crate::cache::table::Table;
use crate::tree::{Content, Location, Node, Tree};

/// The current value of [`RootFiles::format`].
pub const FORMAT: u32 = 1;
/// The table of SHA-1 by SHA-256.
const TABLE: &str = "sha1-1";

/// What made a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// A part of a component: a package by its title, or the component itself.
    Component {
        /// The component.
        component: String,
        /// The part.
        part: String,
    },
    /// The kernel's package: a module.
    Kernel,
    /// A container image.
    ContainerImages,
    /// The manifest, an overlay, or the composer.
    Image,
}

/// A file: its path, the index of its owner, SHA-256, SHA-1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedFile(pub String, pub usize, pub Digest, pub String);

/// The files of a root file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFiles {
    /// [`FORMAT`].
    pub format: u32,
    /// What made files.
    pub owners: Vec<Owner>,
    /// Regular files in the order of their paths; a further name of a file is a file, too.
    pub files: Vec<ListedFile>,
    /// What the packages say of their licences: component, part, statement.
    pub licences: Vec<(String, String, Stated)>,
}

/// Where the contents of a part of a component are: digest of the pack, component, part.
pub type Packs = BTreeMap<Digest, Vec<(String, String)>>;

/// Lists the files of `tree`. `origins` says which component (or what else) each path is of, `components` which of those
/// are components, `packs` which part of them each pack is. Hashes with `jobs` threads what is not known yet.
///
/// # Errors
/// When a content cannot be read.
pub fn list(
    cache: &Cache,
    tree: &Tree,
    origins: &BTreeMap<String, Arc<str>>,
    components: &[String],
    packs: &Packs,
    jobs: usize,
) -> io::Result<RootFiles> {
    let mut found: Vec<(&str, Owner, &Content)> = Vec::new();
    for (path, entry) in tree.iter() {
        if let (Node::File(content), _) | (_, Node::File(content)) = (&entry.node, &tree.resolve_link(entry).node) {
            let origin = origins.get(path).map_or("", |origin| origin);
            found.push((path, owner(origin, content, components, packs), content));
        }
    }
    let sha1 = sha1_of_all(cache, found.iter().map(|(_, _, content)| *content), jobs)?;
    let mut owners: Vec<Owner> = found.iter().map(|(_, owner, _)| owner.clone()).collect();
    owners.sort();
    owners.dedup();
    let files = found.into_iter().map(|(path, owner, content)| {
        let by = owners.binary_search(&owner).expect("every owner is listed");
        ListedFile(path.to_owned(), by, content.digest, sha1[&content.digest].clone())
    });
    let files = files.collect();
    Ok(RootFiles { format: FORMAT, owners, files, licences: Vec::new() })
}

fn owner(origin: &str, content: &Content, components: &[String], packs: &Packs) -> Owner {
    match origin {
        "kernel modules" => return Owner::Kernel,
        "container images" => return Owner::ContainerImages,
        _ if !components.iter().any(|component| component == origin) => return Owner::Image,
        _ => {}
    }
    let component = origin.to_owned();
    // The manifest may have put something else at a path that a component has, too: that is held in memory.
    let Location::Slice { path, .. } = &content.location else { return Owner::Image };
    let parts = pack_of(path).and_then(|pack| packs.get(&pack));
    let part = parts.and_then(|parts| parts.iter().find(|(of, _)| *of == component));
    let part = part.map_or_else(|| component.clone(), |(_, part)| part.clone());
    Owner::Component { component, part }
}

/// The name of a blob in the cache is its digest.
fn pack_of(path: &Path) -> Option<Digest> {
    path.file_name()?.to_str()?.parse().ok()
}

/// Returns the SHA-1 of every content by its SHA-256.
fn sha1_of_all<'a>(
    cache: &Cache,
    contents: impl Iterator<Item = &'a Content>,
    jobs: usize,
) -> io::Result<BTreeMap<Digest, String>> {
    let mut table = Table::open(cache, TABLE);
    let mut known = BTreeMap::new();
    let mut unknown: BTreeMap<Digest, &Content> = BTreeMap::new();
    for content in contents {
        match table.get(&content.digest).filter(|text| text.len() == 40) {
            Some(text) => drop(known.insert(content.digest, text.to_owned())),
            None => drop(unknown.insert(content.digest, content)),
        }
    }
    let unknown: Vec<&Content> = unknown.into_values().collect();
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        while let Some(content) = unknown.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((content.digest, sha1_of(content)?));
        }
        Ok::<_, io::Error>(done)
    };
    let results: Vec<io::Result<Vec<(Digest, String)>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.min(unknown.len())).map(|_| scope.spawn(worker)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().map(join).collect()
    });
    for result in results {
        for (digest, sha1) in result? {
            table.put(digest, sha1.clone());
            known.insert(digest, sha1);
        }
    }
    table.save();
    Ok(known)
}

fn sha1_of(content: &Content) -> io::Result<String> {
    let mut reader = content.open()?;
    let mut hasher = Sha1::new();
    let mut buffer = vec![0; content.size.clamp(1, 1 << 18) as usize];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Returns the SHA-1 of `bytes`.
pub fn sha1(bytes: &[u8]) -> String {
    hex(&Sha1::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::pack::PackWriter;
    use crate::tree::{Entry, Meta};

    #[test]
    fn a_file_is_of_the_package_whose_pack_has_its_bytes_wherever_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let mut writer = PackWriter::new(&cache).unwrap();
        let stored = writer.add(&mut &b"libc"[..], 10).unwrap();
        let pack = writer.finish().unwrap();
        let entry = |node| Entry { meta: Meta::root(0o644, 0), node };
        let mut tree = Tree::new(0);
        tree.insert("usr/lib/libc.so.6", entry(Node::File(pack.content(stored)))).unwrap();
        tree.insert("usr/lib/moved", entry(Node::HardLink("usr/lib/libc.so.6".into()))).unwrap();
        tree.insert("etc/generated", entry(Node::File(Content::inline(*b"x")))).unwrap();
        tree.insert("etc/hosts", entry(Node::File(Content::inline(*b"y")))).unwrap();
        tree.insert("etc/link", entry(Node::Symlink("hosts".into()))).unwrap();
        tree.insert("lib/modules/a.ko", entry(Node::File(Content::inline(*b"m")))).unwrap();
        let origin = |path: &str, origin: &str| (path.to_owned(), Arc::from(origin));
        let origins = BTreeMap::from([
            origin("usr/lib/libc.so.6", "base"),
            origin("usr/lib/moved", "base"),
            origin("etc/generated", "base"),
            origin("etc/hosts", "overlay node"),
            origin("lib/modules/a.ko", "kernel modules"),
        ]);
        let packs = Packs::from([(
            pack.blob.digest,
            vec![("other".to_owned(), "libc6_2".to_owned()), ("base".to_owned(), "libc6_1".to_owned())],
        )]);
        let components = ["base".to_owned(), "other".to_owned()];
        let listed = list(&cache, &tree, &origins, &components, &packs, 2).unwrap();
        let owner = |path: &str| {
            let file = listed.files.iter().find(|file| file.0 == path).unwrap();
            listed.owners[file.1].clone()
        };
        let libc = Owner::Component { component: "base".to_owned(), part: "libc6_1".to_owned() };
        assert_eq!((owner("usr/lib/libc.so.6"), owner("usr/lib/moved")), (libc.clone(), libc));
        assert_eq!((owner("etc/generated"), owner("etc/hosts")), (Owner::Image, Owner::Image));
        assert_eq!(owner("lib/modules/a.ko"), Owner::Kernel);
        assert_eq!(listed.files.len(), 5, "a symbolic link is no file");
        assert_eq!(listed.files.iter().find(|file| file.0 == "etc/generated").unwrap().3, sha1(b"x"));
        // From the table now.
        assert_eq!(list(&cache, &tree, &origins, &components, &packs, 1).unwrap(), listed);
    }
}
