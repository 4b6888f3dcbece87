//! What every operation needs: the cache, the environment's values (read once, by the binary) and where progress goes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

use ksos_formats::Arch;

use super::OpError;
use crate::cache::{Cache, gc};
use crate::effects::progress::Progress;
use crate::graph::{Outputs, Reason};
use crate::manifest::{CacheMode, OutputFormat};
use crate::sign::KeySource;

/// Values of the environment that operations use. Library code reads none itself.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `KSOS_APT_MIRROR`.
    pub apt_mirror: Option<String>,
    /// `SOURCE_DATE_EPOCH` as it stands: seconds since 1970.
    pub source_date_epoch: Option<String>,
    /// Every variable whose name and value are UTF-8, for child processes and proxies.
    pub variables: BTreeMap<String, String>,
    /// The composer's executable, to see that it changed.
    pub executable: Option<PathBuf>,
    /// The working directory.
    pub directory: PathBuf,
}

impl Environment {
    /// Returns a variable that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns every variable, for child processes.
    pub fn pairs(&self) -> Vec<(OsString, OsString)> {
        self.variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }
}

/// Is told what happens. Implemented by the command line.
pub trait Reporter: Send + Sync {
    /// Something worth a line: a note, a warning.
    fn note(&self, text: &str);
    /// A step of the build of `image` started.
    fn step(&self, image: &str, step: &str, reason: &Reason);
}

/// An open session.
#[derive(Clone)]
pub struct Session {
    /// The cache.
    pub cache: Arc<Cache>,
    /// Environment values.
    pub environment: Environment,
    /// Processor steps at once.
    pub jobs: usize,
    /// Where notes and steps go.
    pub reporter: Arc<dyn Reporter>,
    /// Where downloads are shown.
    pub progress: Arc<dyn Progress>,
    /// What the command line says of a remote cache.
    pub remote: RemoteOptions,
}

/// The remote cache that is none.
pub const NO_REMOTE: &str = "none";

/// What the command line says of a remote cache. What it does not say, the manifest's `[cache]` does.
#[derive(Debug, Clone, Default)]
pub struct RemoteOptions {
    /// Where it is, or [`NO_REMOTE`].
    pub remote: Option<String>,
    /// What is done with it.
    pub mode: Option<CacheMode>,
    /// Files with public keys that are trusted.
    pub keys: Vec<PathBuf>,
    /// The private key that signs what is written.
    pub sign_key: Option<KeySource>,
}

impl Session {
    /// Returns the same session without a remote cache.
    pub fn without_remote(&self) -> Self {
        let remote = RemoteOptions { remote: Some(NO_REMOTE.to_owned()), ..RemoteOptions::default() };
        Session { remote, ..self.clone() }
    }

    /// Looks whether damage in the cache is why work with what steps gave failed with `error`. Damaged files are removed,
    /// and are the error instead.
    pub(super) fn mend(&self, outputs: &BTreeMap<String, Outputs>, error: OpError) -> OpError {
        let jobs = NonZero::new(self.jobs).unwrap_or(NonZero::<usize>::MIN);
        match gc::drop_damaged(outputs.values().flat_map(BTreeMap::values), jobs) {
            Ok(paths) if paths.is_empty() => error,
            Ok(paths) => OpError::Damaged { paths },
            Err(failed) => failed.into(),
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("cache", &self.cache).field("jobs", &self.jobs).finish_non_exhaustive()
    }
}

/// What to build: a manifest, for an architecture, with local components.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// The manifest file.
    pub manifest: PathBuf,
    /// The architecture, when it is not the manifest's.
    pub arch: Option<Arch>,
    /// Components that are replaced by local files or directories.
    pub components: BTreeMap<String, PathBuf>,
    /// Output formats instead of the manifest's, unless empty.
    pub formats: Vec<OutputFormat>,
}

/// What may change and what may be asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LockMode {
    /// The lock file must not change.
    pub locked: bool,
    /// The network must not be used.
    pub offline: bool,
}
