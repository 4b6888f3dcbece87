//! What earlier builds wrote: which files, from which image. A file that is as it was then, from the same image, need
//! not be written again.
//!
//! The key covers everything that decides the bytes: the program, the plan, the manifest, and the digests of what the
//! steps gave. Which formats are asked for is not part of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;
use ksos_formats::update::{CHUNKS_FILE, INDEX_FILE};
use serde::{Deserialize, Serialize};

use super::super::stamp::Seen;
use super::super::{Project, disk, release};
use super::VERSION;
use crate::cache::Cache;
use crate::cache::stat::StatCache;
use crate::effects::fs;
use crate::graph;
use crate::manifest::Outputs;
use crate::ops::{OpError, Session};
use crate::plan::{Plan, Resolved, SYSTEM_IMAGE};

/// The largest record read, in bytes.
const RECORD_LIMIT: u64 = 1 << 20;

/// What was written of one image into one directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What it was made from.
    pub key: Digest,
    /// What the disk image has, when there was one.
    pub written: Option<disk::Written>,
    files: BTreeMap<String, Entry>,
}

/// One output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    seen: Vec<Seen>,
    /// Digest of the document of a release: signing it changes its file.
    document: Option<Digest>,
}

/// Returns the digest of everything that decides the outputs of `plan`.
///
/// # Errors
/// When the program cannot be read.
pub fn key(
    session: &Session,
    project: &Project,
    plan: &Plan,
    steps: &BTreeMap<String, graph::Outputs>,
) -> Result<Digest, OpError> {
    let mut hasher = Hasher::new();
    hasher.field(&VERSION.to_le_bytes());
    if let Some(program) = &session.environment.executable {
        let stats = StatCache::open(&session.cache);
        hasher.field(&stats.digest(program)?.0.0);
        // It is hashed again next time.
        let _ = stats.save();
    }
    let mut plan = Plan { artifacts: Vec::new(), release: None, ..plan.clone() };
    plan.steps.retain(|step| step.name != SYSTEM_IMAGE);
    let mut manifest = project.manifest().clone();
    manifest.outputs = Outputs::default();
    for text in [serde_json::to_vec(&plan), serde_json::to_vec(&manifest)] {
        hasher.field(&text.expect("the project's own types can be serialised"));
    }
    // Local files and directories, which the disk image and the ISO take from without a step between.
    for (name, component) in &project.components {
        let digest = match &component.content {
            Resolved::File { digest, .. } => digest,
            Resolved::Directory(tree) => &tree.digest,
            Resolved::Packages(_)
            | Resolved::Download(_)
            | Resolved::Program(_)
            | Resolved::Kernel(_)
            | Resolved::TinyCore(_) => continue,
        };
        hasher.field(name.as_bytes());
        hasher.field(&digest.0);
    }
    for (step, outputs) in steps.iter().filter(|(step, _)| *step != SYSTEM_IMAGE) {
        hasher.field(step.as_bytes());
        for (name, blob) in outputs {
            hasher.field(name.as_bytes());
            hasher.field(&blob.digest.0);
        }
    }
    Ok(hasher.finish())
}

fn place(cache: &Cache, directory: &Path, stem: &str) -> PathBuf {
    let scope = Digest::of(directory.join(stem).as_os_str().as_encoded_bytes());
    cache.bucket("stat").join(format!("outputs-{scope}.json"))
}

impl Record {
    /// Starts a record without files.
    pub fn new(key: Digest) -> Self {
        Record { key, written: None, files: BTreeMap::new() }
    }

    /// Reads what was written of the image `stem` into `directory`; a damaged record counts as none.
    pub fn load(cache: &Cache, directory: &Path, stem: &str) -> Option<Self> {
        let bytes = fs::read(&place(cache, directory, stem), RECORD_LIMIT).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Writes the record.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, cache: &Cache, directory: &Path, stem: &str) -> Result<(), fs::FsError> {
        // A path that is not UTF-8 has no JSON form; such outputs are always written.
        let Ok(text) = serde_json::to_vec(self) else { return Ok(()) };
        fs::write_atomic(&place(cache, directory, stem), &text)
    }

    /// Whether `name` was written.
    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// Whether `name` in `directory` is there as it was written.
    pub fn is_current(&self, directory: &Path, name: &str) -> bool {
        let document = || release::document_digest(&directory.join(name));
        self.files.get(name).is_some_and(|entry| {
            entry.seen.iter().all(Seen::is_current) && (entry.document.is_none() || entry.document == document())
        })
    }

    /// Keeps that `name` in `directory` was written.
    pub fn wrote(&mut self, directory: &Path, name: &str) {
        let path = directory.join(name);
        let document = release::document_digest(&path);
        let paths = match document {
            Some(_) => vec![path.join(INDEX_FILE), path.join(CHUNKS_FILE)],
            None => vec![path],
        };
        let entry = Entry { seen: paths.into_iter().map(Seen::now).collect(), document };
        self.files.insert(name.to_owned(), entry);
    }
}
