//! Why an update does not go on. Each kind has its exit status.

use ksos_formats::bootstate::Slot;
use ksos_formats::update::keys::KeySetError;
use ksos_formats::update::window::WindowError;
use ksos_formats::update::{EnvelopeError, IndexError, Version};
use ksos_formats::{Arch, Digest};

use super::bootblocks::BootBlockError;
use super::places::PlacesError;
use super::source::SourceError;
use crate::sys;

/// Exit status: done, or nothing to do.
pub const OK: i32 = 0;
/// Exit status: it was tried and failed.
pub const FAILED: i32 = 1;
/// Exit status: wrong usage.
pub const USAGE: i32 = 2;
/// Exit status: the source could not be fetched or verified.
pub const SOURCE: i32 = 3;
/// Exit status: something speaks against it, and nothing was touched.
pub const REFUSED: i32 = 4;

/// Why an update does not go on.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// Something speaks against it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What was fetched is not to be believed.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// Nothing could be fetched.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The machine.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// The boot state.
    #[error(transparent)]
    BootBlock(#[from] BootBlockError),
    /// The partitions.
    #[error(transparent)]
    Places(#[from] PlacesError),
    /// A document of the node itself.
    #[error("{path}: {reason}")]
    Document {
        /// Where it is.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The installation was given up.
    #[error("{0}")]
    Install(#[from] InstallError),
}

impl UpdateError {
    /// Returns the exit status of a command that ends with this.
    pub fn exit_status(&self) -> i32 {
        match self {
            UpdateError::Refused(_) => REFUSED,
            UpdateError::Untrusted(_) | UpdateError::Source(_) => SOURCE,
            UpdateError::Install(InstallError::Source(_) | InstallError::Chunk { .. } | InstallError::Missing(_)) => SOURCE,
            _ => FAILED,
        }
    }
}

/// What speaks against an update. Nothing was touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another process is at it.
    #[error("another kubesolo-update is running")]
    Locked,
    /// The image takes no updates.
    #[error("the image has no update settings: the node takes no updates")]
    NoUpdates,
    /// The node is not well.
    #[error("the node is unhealthy: {0}")]
    Unhealthy(String),
    /// A trial is going on.
    #[error("{0} is on trial: it is kept or given up first")]
    OnTrial(String),
    /// Data would not last.
    #[error("the data partition is not there: an update could not be followed over a restart")]
    NoData,
    /// The data partition has no room for the journal.
    #[error("the data partition has {free} bytes free; the journal needs {needed}")]
    Space {
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// The node runs what the boot loader would not start.
    #[error("the node runs slot {booted}; the boot state says {active}")]
    Active {
        /// The slot that runs.
        booted: Slot,
        /// The slot that would start.
        active: Slot,
    },
    /// The clock is wrong.
    #[error("the clock says {now}, which is before {what} was made ({created}); seconds since 1970")]
    Clock {
        /// What the clock says.
        now: u64,
        /// What it is compared with.
        what: &'static str,
        /// When that was made.
        created: u64,
    },
    /// No window is open.
    #[error("no maintenance window is open; the next opens at {next} (seconds since 1970)")]
    Window {
        /// When the next opens.
        next: u64,
    },
    /// A window that nobody can tell.
    #[error("maintenance windows: {0}")]
    BadWindow(WindowError),
    /// It is another image.
    #[error("{document} is for image {found:?}; this node runs {expected:?}")]
    Name {
        /// Channel or release.
        document: &'static str,
        /// This node's.
        expected: String,
        /// Found.
        found: String,
    },
    /// It is for another architecture.
    #[error("{document} is for {found}; this node is {expected}")]
    Arch {
        /// Channel or release.
        document: &'static str,
        /// This node's.
        expected: Arch,
        /// Found.
        found: Arch,
    },
    /// It is for another kind of machine.
    #[error("{document} is for board {found:?}; this node is {expected:?}")]
    Board {
        /// Channel or release.
        document: &'static str,
        /// This node's.
        expected: String,
        /// Found.
        found: String,
    },
    /// It is larger than the slot.
    #[error("the image has {size} bytes, slot {slot} only {room}")]
    Large {
        /// Size of the image in bytes.
        size: u64,
        /// The slot.
        slot: Slot,
        /// Its size in bytes.
        room: u64,
    },
    /// It is not newer.
    #[error("{version} is not newer than {than}, {what}")]
    Older {
        /// The release.
        version: Version,
        /// What it has to be newer than.
        than: Version,
        /// Why that counts.
        what: &'static str,
    },
    /// It failed before.
    #[error("{version} is in quarantine: {reason}")]
    Quarantined {
        /// The release.
        version: Version,
        /// Why.
        reason: String,
    },
    /// It cannot be reached in one step.
    #[error("{wanted} cannot be installed from {current}{}{}",
        .minimum.as_ref().map(|minimum| format!(", it needs {minimum} or later")).unwrap_or_default(),
        .next.as_ref().map_or(", and the channel has no release that leads to it".to_owned(),
            |next| format!("; the next step is {next}")))]
    SteppingStone {
        /// The wanted release.
        wanted: Version,
        /// What runs.
        current: Version,
        /// The oldest version that it can be installed from.
        minimum: Option<Version>,
        /// The release to install first.
        next: Option<Version>,
    },
    /// The channel has no such version.
    #[error("channel {channel:?} has no version {version}")]
    NotOffered {
        /// Channel.
        channel: String,
        /// Version.
        version: Version,
    },
    /// The running version is none.
    #[error("the running version {0:?} is no version that releases can be compared with")]
    RunningVersion(String),
    /// There is nothing to go back to.
    #[error("slot {slot} cannot be gone back to: {reason}")]
    NoRollback {
        /// The slot.
        slot: Slot,
        /// Why.
        reason: String,
    },
}

/// What was fetched is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// No source is configured.
    #[error("no update source is configured")]
    NoSource,
    /// A document.
    #[error("{what}: {source}")]
    Envelope {
        /// Which document.
        what: String,
        /// Why.
        source: EnvelopeError,
    },
    /// A key set.
    #[error("key set {version}: {source}")]
    Keys {
        /// Its version.
        version: u64,
        /// Why.
        source: KeySetError,
    },
    /// It has ended.
    #[error("{what} has expired at {end}; the clock says {now} (seconds since 1970)")]
    Expired {
        /// Which document.
        what: String,
        /// When.
        end: u64,
        /// What the clock says.
        now: u64,
    },
    /// The source has an older channel than it had.
    #[error("channel {channel:?} has sequence {found}; {seen} was seen before")]
    Sequence {
        /// Channel.
        channel: String,
        /// Found.
        found: u64,
        /// Seen.
        seen: u64,
    },
    /// Key sets up to a later one were in use.
    #[error("the newest key set is {found}; {seen} was in use before")]
    KeysBehind {
        /// Found.
        found: u64,
        /// Seen.
        seen: u64,
    },
    /// The channel under that name says that it is another.
    #[error("asked for channel {asked:?}, the signed document is channel {found:?}")]
    Channel {
        /// Asked for.
        asked: String,
        /// Found.
        found: String,
    },
    /// Another release than the channel says.
    #[error("the channel names release {expected} for {version}; the source has {found}")]
    Mixed {
        /// Version.
        version: Version,
        /// Digest in the channel.
        expected: Digest,
        /// Digest of what is there.
        found: Digest,
    },
    /// The release has another version or lower bound than the channel says.
    #[error("the release document of {0} says something else than the channel: {1}")]
    Differs(Version, &'static str),
    /// The chunk index.
    #[error("chunk index of {0}: {1}")]
    Index(Version, IndexError),
    /// Index and release do not fit.
    #[error("chunk index of {version}: its {what} has {found} bytes, the release says {expected}")]
    IndexSize {
        /// Version.
        version: Version,
        /// Image or chunk file.
        what: &'static str,
        /// In the index.
        found: u64,
        /// In the release.
        expected: u64,
    },
}

/// Why an installation was given up.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The slot or the machine.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// The source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A chunk is not what the index says.
    #[error("the chunk at {offset} of the chunk file: {reason}")]
    Chunk {
        /// Offset in the chunk file.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The source ended without the chunk.
    #[error("the chunk at {0} of the chunk file did not come")]
    Missing(u64),
    /// What is on the medium is not the image.
    #[error("slot {slot}: the image on the medium has digest {found} instead of {expected}")]
    Medium {
        /// The slot.
        slot: Slot,
        /// In the release.
        expected: Digest,
        /// Found.
        found: Digest,
    },
    /// The first 4 KiB on the medium are not those that were written.
    #[error("slot {0}: its first 4 KiB read back otherwise than they were written")]
    Head(Slot),
    /// The boot state could not be written.
    #[error("the boot state could not be written: {0}")]
    BootState(String),
}
