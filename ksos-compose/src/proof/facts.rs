//! What a file's content says about how it runs, kept by digest.

use std::collections::BTreeMap;
use std::sync::Mutex;

use ksos_formats::Digest;
use serde::{Deserialize, Serialize};

use super::ProofError;
use super::elf::ElfInfo;
use crate::tree::{Content, Location, Node, Tree};

/// What a file's content is. Depends on the content alone. The stored form carries no version of its own: keep it
/// in a bucket that is named by [`FORMAT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileFacts {
    /// An ELF file.
    Elf(Box<ElfInfo>),
    /// An ELF magic with something behind it that cannot be read, and why.
    BadElf(String),
    /// A script: what stands behind `#!` on its first line.
    Script(String),
    /// Anything else.
    Other,
}

/// Version of [`FileFacts`] and of how they are read; a cache keeps them by it.
pub const FORMAT: u32 = 1;

/// Keeps facts by digest.
pub trait FactCache: Sync {
    /// Returns the facts of the content with this digest, if they are known.
    fn get(&self, digest: &Digest) -> Option<FileFacts>;
    /// Keeps the facts of the content with this digest.
    fn put(&self, digest: &Digest, facts: &FileFacts);
}

/// A cache in memory; serialise [`MemoryFactCache::into_map`] to keep it.
#[derive(Debug, Default)]
pub struct MemoryFactCache(Mutex<BTreeMap<Digest, FileFacts>>);

impl MemoryFactCache {
    /// Starts with what is known already.
    pub fn new(known: BTreeMap<Digest, FileFacts>) -> Self {
        MemoryFactCache(Mutex::new(known))
    }

    /// Returns everything known.
    pub fn into_map(self) -> BTreeMap<Digest, FileFacts> {
        self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl FactCache for MemoryFactCache {
    fn get(&self, digest: &Digest) -> Option<FileFacts> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(digest).cloned()
    }

    fn put(&self, digest: &Digest, facts: &FileFacts) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(*digest, facts.clone());
    }
}

/// Directories whose files are data for other machines or for the kernel, not for the dynamic linker.
const DATA_DIRECTORIES: [&str; 5] =
    ["usr/lib/firmware/", "lib/firmware/", "usr/lib/modules/", "lib/modules/", "usr/lib/debug/"];

/// Returns the facts of every regular file by path, hard links included; files that are [`FileFacts::Other`] are left
/// out.
///
/// # Errors
/// [`ProofError::Read`].
pub fn collect(tree: &Tree, cache: &dyn FactCache) -> Result<BTreeMap<String, FileFacts>, ProofError> {
    let mut facts = BTreeMap::new();
    for (path, entry) in tree.iter() {
        let Node::File(content) = &tree.resolve_link(entry).node else { continue };
        // A content of under four bytes is neither; data directories hold no program.
        if content.size < 4 || DATA_DIRECTORIES.iter().any(|directory| path.starts_with(directory)) {
            continue;
        }
        let found = match cache.get(&content.digest) {
            Some(found) => found,
            None => {
                let found = examine(content).map_err(|source| ProofError::Read { path: path.to_owned(), source })?;
                if !matches!(content.location, Location::Inline(_)) {
                    cache.put(&content.digest, &found);
                }
                found
            }
        };
        if found != FileFacts::Other {
            facts.insert(path.to_owned(), found);
        }
    }
    Ok(facts)
}

/// Longest first line of a script that the kernel reads (`BINPRM_BUF_SIZE`, Linux `include/uapi/linux/binfmts.h`).
const SCRIPT_LINE: usize = 256;

/// Looks at a content.
///
/// # Errors
/// When it cannot be read; a malformed ELF file is a fact.
pub fn examine(content: &Content) -> std::io::Result<FileFacts> {
    let reader = content.open()?;
    let mut head = [0; SCRIPT_LINE];
    let length = content.size.min(SCRIPT_LINE as u64) as usize;
    reader.read_exact_at(&mut head[..length], 0)?;
    let head = &head[..length];
    if head.starts_with(b"\x7fELF") {
        return Ok(match ElfInfo::read(&reader, content.size)? {
            Ok(info) => FileFacts::Elf(Box::new(info)),
            Err(error) => FileFacts::BadElf(error.to_string()),
        });
    }
    let Some(line) = head.strip_prefix(b"#!") else { return Ok(FileFacts::Other) };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or(line);
    Ok(FileFacts::Script(String::from_utf8_lossy(line).trim().to_owned()))
}
