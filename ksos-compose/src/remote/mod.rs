//! The remote cache: finished steps of the graph in a repository of an OCI registry, for several machines.
//!
//! - [`record`]: the artifact of one step, under a tag made of the step's key: the blobs of its outputs as layers, and a
//!   signed record that says which outputs the key has.
//! - `read`: looks records up, and brings blobs when a step or an artifact needs them.
//! - `write`: sends what was made here, in the background.
//!
//! What may be believed: a record, when a trusted key has signed it (DSSE, Ed25519) for this key, kind and version of a
//! step. Everything else that a registry says is a hint at where bytes are: they are used when they have the digest and
//! size that a record, the lock or this machine's cache knows. A remote cache never fails a build: what is wrong with it
//! is told, and made here.
//!
//! Locks: each `Mutex` here is held for a look into memory alone.

pub mod record;

mod read;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ksos_formats::Digest;
use ksos_formats::update::KeySet;
use serde::{Deserialize, Serialize};

use self::record::Stored;
pub use self::write::Upload;
use self::write::Writer;
use crate::cache::Cache;
use crate::effects::net::{Downloader, FetchError, NetOptions, ProxyVariables};
use crate::effects::progress::{Progress, Silent};
use crate::manifest::CacheMode;
use crate::registry::{Registry, RegistryError};
use crate::sign::Signer;
use crate::source::oci::{Action, Place, Registries};

/// Failures in a row after which a remote cache is left alone.
const PATIENCE: u32 = 3;
/// How long a registry may take with a part of an upload: one that is busy writes to its disk before it reads on. Nobody
/// waits for that but the end of the build.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(120);

/// What a remote cache is, and whom to believe.
pub struct Settings {
    /// The repository.
    pub place: Place,
    /// What is done with it.
    pub mode: CacheMode,
    /// A record is believed when one of these sets is met.
    pub trusted: Vec<KeySet>,
    /// Signs the records of what was made here.
    pub signer: Option<Box<dyn Signer>>,
    /// For how long they are valid, in seconds; none: for ever.
    pub valid_for: Option<u64>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("place", &self.place).field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// What is told of a remote cache while it works.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// A remote cache that has answered. Shared by threads.
pub struct Remote {
    settings: Settings,
    cache: Arc<Cache>,
    /// Asks for records: not shown.
    ask: Downloader,
    /// Reads blobs.
    net: Downloader,
    /// Writes: shown as one task.
    upload: Downloader,
    registries: Registries,
    /// What is asked for when it is read: whoever may write asks for that, which can be allowed where there is no
    /// repository yet.
    action: Action,
    progress: Arc<dyn Progress>,
    tell: Tell,
    /// Where the blobs of a step are, by its key; none when the step is not there.
    looked_up: Mutex<BTreeMap<Digest, Option<Arc<Known>>>>,
    /// Keys whose blobs could not be had.
    lost: Mutex<BTreeSet<Digest>>,
    reading: Channel,
    writing: Channel,
    writer: Mutex<Option<Writer>>,
    fetched: AtomicU64,
    sent: AtomicU64,
    written: AtomicU64,
    unwritten: AtomicU64,
}

/// What is known of a step in the remote cache.
#[derive(Debug)]
struct Known {
    outputs: crate::graph::Outputs,
    stored: BTreeMap<Digest, Stored>,
}

/// One direction: on until it fails too often.
#[derive(Debug)]
struct Channel {
    off: AtomicBool,
    failures: AtomicU32,
}

impl Channel {
    fn new(on: bool) -> Self {
        Channel { off: AtomicBool::new(!on), failures: AtomicU32::new(0) }
    }

    fn is_on(&self) -> bool {
        !self.off.load(Ordering::Relaxed)
    }

    fn works(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Counts a failure; tells whether this one was too many.
    fn fails(&self, at_once: bool) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        (at_once || failures >= PATIENCE) && !self.off.swap(true, Ordering::Relaxed)
    }
}

/// What a remote cache did for a build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteUse {
    /// The repository: `HOST/REPOSITORY`.
    pub place: String,
    /// Steps that did not run because it has what they give.
    pub steps: Vec<String>,
    /// Bytes that were fetched.
    pub fetched: u64,
    /// Steps that were written to it.
    pub written: u64,
    /// Bytes that were sent.
    pub sent: u64,
    /// Steps that could not be written.
    pub unwritten: u64,
}

/// What is around a remote cache.
pub struct Surroundings {
    /// This machine's cache.
    pub cache: Arc<Cache>,
    /// Proxies.
    pub proxy: ProxyVariables,
    /// What registries are told.
    pub registries: Registries,
    /// Where downloads are shown.
    pub progress: Arc<dyn Progress>,
    /// Where warnings go.
    pub tell: Tell,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Remote {
    /// Opens a remote cache: asks whether it answers, once and not for long.
    ///
    /// # Errors
    /// When it does not.
    pub fn open(settings: Settings, around: Surroundings) -> Result<Arc<Self>, RegistryError> {
        let Surroundings { cache, proxy, registries, progress, tell } = around;
        let options = NetOptions {
            proxy,
            connect_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(15),
            retries: 1,
            backoff_limit: Duration::from_secs(1),
            retry_after_limit: Duration::from_secs(5),
            ..NetOptions::default()
        };
        let net = Downloader::new(cache.clone(), options.clone(), progress.clone());
        let ask = Downloader::new(cache.clone(), options.clone(), Arc::new(Silent));
        let patient = NetOptions {
            stall_timeout: UPLOAD_PATIENCE,
            retries: 4,
            backoff_limit: Duration::from_secs(8),
            retry_after_limit: Duration::from_secs(30),
            ..options
        };
        let upload = Downloader::new(cache.clone(), patient, Arc::new(Silent));
        let writes = settings.mode == CacheMode::ReadWrite;
        let mut remote = Remote {
            settings,
            cache,
            ask,
            net,
            upload,
            registries,
            action: if writes { Action::Push } else { Action::Pull },
            progress,
            tell,
            looked_up: Mutex::default(),
            lost: Mutex::default(),
            reading: Channel::new(true),
            writing: Channel::new(writes),
            writer: Mutex::default(),
            fetched: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            written: AtomicU64::new(0),
            unwritten: AtomicU64::new(0),
        };
        match remote.probe() {
            Err(RegistryError::Fetch(error @ FetchError::Denied { .. })) if writes => {
                remote.action = Action::Pull;
                remote.probe()?;
                remote.failed(&remote.writing, "it is read only", &error.into());
            }
            result => result?,
        }
        Ok(Arc::new(remote))
    }

    fn probe(&self) -> Result<(), RegistryError> {
        self.registry(&self.ask).digest_of(record::PROBE_TAG).map(drop)
    }

    /// Returns the repository for people: `HOST/REPOSITORY`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.settings.place.registry, self.settings.place.repository)
    }

    /// Whether records can be believed at all. Without that, only bytes whose digest is known are taken.
    pub fn trusts(&self) -> bool {
        !self.settings.trusted.is_empty()
    }

    /// Whether the records of what is made here are signed. Without that, only downloads are written.
    pub fn signs(&self) -> bool {
        self.settings.signer.is_some()
    }

    /// Whether what is made here is written to it.
    pub fn writes(&self) -> bool {
        self.writing.is_on()
    }

    fn registry<'a>(&'a self, net: &'a Downloader) -> Registry<'a> {
        Registry::new(net, &self.registries, &self.settings.place, self.action)
    }

    fn warn(&self, text: &str) {
        (self.tell)(&format!("warning: remote cache {}: {text}", self.name()));
    }

    /// Takes note of a failure; leaves the direction alone when there were too many.
    fn failed(&self, channel: &Channel, what: &str, error: &RegistryError) {
        if !channel.is_on() {
            return;
        }
        let denied = matches!(error, RegistryError::Fetch(FetchError::Denied { .. }));
        let text = error.to_string().replace('\n', " ");
        if channel.fails(denied) {
            let verb = if std::ptr::eq(channel, &self.reading) { "read" } else { "written" };
            self.warn(&format!("{what}: {text}; nothing more is {verb}"));
        } else if channel.is_on() {
            self.warn(&format!("{what}: {text}"));
        }
    }
}

/// Locks; a thread that panicked with it has left nothing half-done in memory.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
