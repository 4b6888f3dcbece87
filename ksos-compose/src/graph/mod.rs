//! The build graph: steps with content keys, run in parallel, skipped when the cache has what they would give.
//!
//! A step is described by its kind, the kind's version, its parameters and the digests of its inputs; the SHA-256 over
//! that description is its key. Times, absolute paths and host names are never part of it. What a step gave is kept in
//! an action record `actions/ab/KEY.json`; a record whose outputs are not all in the cache counts as missing.
//! The descriptions of the last build of each manifest are kept beside it, so that [`Reason`] can say what changed.

pub mod history;
mod schedule;

use std::collections::BTreeMap;

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;
use serde::{Deserialize, Serialize};

use crate::cache::{Blob, Cache, CacheError};
use crate::effects::fs::{self, FsError};
pub use history::History;
pub use schedule::{Execute, Execution, GraphError, Options, Report, execute};

/// The largest action record or history read, in bytes.
const RECORD_LIMIT: u64 = 16 << 20;

/// Which pool a step runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Waits for the network; many at once.
    Network,
    /// Uses a processor.
    Processor,
}

/// Where an input of a step comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Input {
    /// Content that is known before the build: a pinned download, a local file.
    Digest(Digest),
    /// An output of another step.
    Output {
        /// The step's name.
        step: String,
        /// The output's name.
        output: String,
    },
}

/// One planned step.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Step {
    /// Unique name within the plan, e.g. `unpack containerd`.
    pub name: String,
    /// Kind, e.g. `unpack`.
    pub kind: &'static str,
    /// Version of the kind's code: raised when its output for the same inputs changes.
    pub version: u32,
    /// Which pool it runs in.
    #[serde(skip)]
    pub pool: Pool,
    /// Everything that decides the output besides the inputs.
    pub parameters: BTreeMap<String, String>,
    /// Inputs by name.
    pub inputs: BTreeMap<String, Input>,
}

/// A step with the digests of its inputs: what its key is computed from, and what `explain` compares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Kind.
    pub kind: String,
    /// Version of the kind.
    pub version: u32,
    /// Parameters.
    pub parameters: BTreeMap<String, String>,
    /// Digest of each input.
    pub inputs: BTreeMap<String, Digest>,
}

impl Description {
    /// Returns the key of the step.
    pub fn key(&self) -> Digest {
        let Description { kind, version, parameters, inputs } = self;
        let mut hasher = Hasher::new();
        hasher.field(b"ksos step 1");
        hasher.field(kind.as_bytes());
        hasher.field(&version.to_le_bytes());
        hasher.field(&(parameters.len() as u64).to_le_bytes());
        for (name, value) in parameters {
            hasher.field(name.as_bytes());
            hasher.field(value.as_bytes());
        }
        hasher.field(&(inputs.len() as u64).to_le_bytes());
        for (name, digest) in inputs {
            hasher.field(name.as_bytes());
            hasher.field(&digest.0);
        }
        hasher.finish()
    }
}

/// What a step gave: blobs by name.
pub type Outputs = BTreeMap<String, Blob>;

/// Why a step has to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Reason {
    /// No earlier build of this manifest had the step.
    New,
    /// The composer's code for this kind of step changed.
    Version {
        /// Version then.
        old: u32,
        /// Version now.
        new: u32,
    },
    /// A parameter differs.
    Parameter {
        /// Its name.
        name: String,
        /// Value then; `None` when it was not there.
        old: Option<String>,
        /// Value now; `None` when it is gone.
        new: Option<String>,
    },
    /// An input has other content.
    Input {
        /// Its name.
        name: String,
        /// Digest then.
        old: Option<Digest>,
        /// Digest now.
        new: Option<Digest>,
    },
    /// Nothing changed, but the cache no longer has what the step gave.
    OutputMissing,
    /// The file of an output is not there, or not as it was written.
    FileChanged,
    /// `--fresh` asked for it.
    Forced,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short =
            |digest: &Option<Digest>| digest.map_or("nothing".to_owned(), |digest| digest.hex()[..12].to_owned());
        let text = |value: &Option<String>| match value {
            Some(value) if value.chars().count() > 60 => format!("{:?}...", value.chars().take(60).collect::<String>()),
            Some(value) => format!("{value:?}"),
            None => "nothing".to_owned(),
        };
        match self {
            Reason::New => write!(f, "it was not part of the last build"),
            Reason::Version { old, new } => write!(f, "its code changed (version {old} -> {new})"),
            Reason::Parameter { name, old, new } => {
                write!(f, "parameter {name} changed: {} -> {}", text(old), text(new))
            }
            Reason::Input { name, old, new } => write!(f, "input {name} changed: {} -> {}", short(old), short(new)),
            Reason::OutputMissing => write!(f, "its output is no longer in the cache"),
            Reason::FileChanged => write!(f, "its file is not there, or not as it was written"),
            Reason::Forced => write!(f, "--fresh was given"),
        }
    }
}

/// Whether a step has to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freshness {
    /// The cache has its outputs.
    Fresh(Outputs),
    /// It has to run.
    Stale(Reason),
}

/// Compares a description with that of the last build.
pub fn reason(now: &Description, last: Option<&Description>) -> Reason {
    let Some(last) = last else { return Reason::New };
    if last.version != now.version || last.kind != now.kind {
        return Reason::Version { old: last.version, new: now.version };
    }
    // Inputs first: a changed file is what a person looks for.
    if let Some((name, old, new)) = first_difference(&last.inputs, &now.inputs) {
        return Reason::Input { name, old, new };
    }
    match first_difference(&last.parameters, &now.parameters) {
        Some((name, old, new)) => Reason::Parameter { name, old, new },
        None => Reason::OutputMissing,
    }
}

fn first_difference<T: Clone + PartialEq>(
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
) -> Option<(String, Option<T>, Option<T>)> {
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .find(|name| old.get(*name) != new.get(*name))
        .map(|name| (name.clone(), old.get(name).cloned(), new.get(name).cloned()))
}

#[derive(Debug, Serialize, Deserialize)]
struct ActionRecord {
    format: u32,
    kind: String,
    outputs: BTreeMap<String, RecordedOutput>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RecordedOutput {
    digest: Digest,
    size: u64,
}

fn record_path(cache: &Cache, key: &Digest) -> std::path::PathBuf {
    let hex = key.hex();
    cache.bucket("actions").join(&hex[..2]).join(format!("{hex}.json"))
}

/// Looks up what a step with this key gave. A damaged record, or one whose outputs are not all there, is missing.
pub fn recorded(cache: &Cache, key: &Digest) -> Option<Outputs> {
    let path = record_path(cache, key);
    let bytes = fs::read(&path, RECORD_LIMIT).ok()?;
    if let Ok(metadata) = fs::metadata(&path) {
        crate::cache::gc::mark_used(&path, &metadata);
    }
    let record: ActionRecord = serde_json::from_slice(&bytes).ok()?;
    let found = record
        .outputs
        .into_iter()
        .map(|(name, output)| cache.blob(&output.digest, Some(output.size)).map(|blob| (name, blob)));
    found.collect()
}

/// Records what a step with this key gave.
///
/// # Errors
/// When the record cannot be written.
pub fn record(cache: &Cache, key: &Digest, kind: &str, outputs: &Outputs) -> Result<(), FsError> {
    let outputs = outputs
        .iter()
        .map(|(name, blob)| (name.clone(), RecordedOutput { digest: blob.digest, size: blob.size }))
        .collect();
    let record = ActionRecord { format: 1, kind: kind.to_owned(), outputs };
    let text = serde_json::to_vec(&record).expect("a record of strings and numbers can be serialised");
    fs::write_atomic(&record_path(cache, key), &text)
}

/// Puts a serialisable value into the cache as JSON.
///
/// # Errors
/// When the blob cannot be written.
pub fn json_blob<T: Serialize>(cache: &Cache, value: &T) -> Result<Blob, CacheError> {
    cache.insert(&serde_json::to_vec(value).expect("the project's own types can be serialised"))
}

#[cfg(test)]
mod tests;
