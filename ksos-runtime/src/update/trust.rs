//! From what a source says to a release that is verified and chosen.
//!
//! The image's key set is the first; sets that followed it are kept below `keys/` and are verified from the image's on at
//! every start, so that what is on the data partition is believed no more than what a source sends. A channel's sequence,
//! and the version of the key set, never fall below what was seen.

use std::collections::BTreeMap;

use ksos_formats::layout;
use ksos_formats::update::{
    Channel, ChannelRelease, Choice, ChunkIndex, ENVELOPE_LIMIT, Envelope, EnvelopeError, KeySet, Payload, Release,
    Verified, Version, release_name,
};
use serde::{Deserialize, Serialize};

use super::error::{Refusal, SteppingStone, Untrusted, UpdateError};
use super::quarantine::Quarantine;
use super::settings::Settings;
use super::source::{ChannelName, Source};
use super::store;
use crate::sys::Sys;

/// Name of the copies of [`Seen`].
pub const CHANNELS: &str = "channels";
/// Directory with the key sets that followed the image's.
pub const KEYS_DIRECTORY: &str = "keys";
/// Most key sets that are followed in one go.
const MAX_ROTATIONS: u64 = 256;
/// How far a document's creation may lie ahead of a clock that is right, in seconds.
const CLOCK_SLACK: u64 = 24 * 3600;

/// What was seen, and is not gone back behind.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Sequence by channel.
    sequences: BTreeMap<String, u64>,
    /// Version of the newest key set that was in use.
    keys: u64,
}

/// What speaks about the node when documents are verified.
pub struct Trust<'a> {
    /// The machine.
    pub sys: &'a dyn Sys,
    /// What is in force.
    pub settings: &'a Settings,
}

impl Trust<'_> {
    fn now(&self) -> u64 {
        self.sys.wall_clock()
    }

    fn seen(&self) -> Result<Seen, UpdateError> {
        let found = store::read_twice(self.sys, &self.settings.directory, CHANNELS)?;
        Ok(found.document.unwrap_or_default())
    }

    /// Notes what was seen. A data partition that takes nothing more is no reason not to believe what is verified.
    fn note(&self, change: impl FnOnce(&mut Seen)) -> Result<(), UpdateError> {
        let mut seen = self.seen()?;
        change(&mut seen);
        let _ = self.sys.make_directory(&self.settings.directory, 0o700);
        let _ = store::write_twice(self.sys, &self.settings.directory, CHANNELS, &seen);
        Ok(())
    }

    /// Returns the newest key set, and keeps those that are new.
    ///
    /// # Errors
    /// The image has none; one that does not follow; the newest has expired.
    pub fn keys(&self, source: &mut dyn Source) -> Result<KeySet, UpdateError> {
        let seen = self.seen()?;
        let mut keys = self.image_keys()?;
        let directory = format!("{}/{KEYS_DIRECTORY}", self.settings.directory);
        for _ in 0..MAX_ROTATIONS {
            let version = keys.version.saturating_add(1);
            let path = format!("{directory}/{version}.json");
            let stored = self.sys.read(&path, ENVELOPE_LIMIT).ok().and_then(|bytes| keys.rotate(&bytes).ok());
            if let Some(next) = stored {
                keys = next;
                continue;
            }
            let Some(envelope) = source.keys(version)? else { break };
            keys = keys.rotate(&envelope).map_err(|source| Untrusted::Keys { version, source })?;
            // Without it the set is fetched once more.
            let made = self.sys.make_directory(&self.settings.directory, 0o700);
            let made = made.and_then(|()| self.sys.make_directory(&directory, 0o700));
            let _ = made.and_then(|()| self.sys.replace(&path, &envelope, 0o600));
        }
        if keys.version < seen.keys {
            return Err(Untrusted::KeysBehind { found: keys.version, seen: seen.keys }.into());
        }
        if keys.version > seen.keys {
            self.note(|seen| seen.keys = keys.version)?;
        }
        if let Some(end) = keys.expires.filter(|_| keys.has_expired(self.now())) {
            return Err(Untrusted::Expired { what: format!("key set {}", keys.version), end, now: self.now() }.into());
        }
        Ok(keys)
    }

    fn image_keys(&self) -> Result<KeySet, UpdateError> {
        let bytes = match self.sys.read(layout::UPDATE_KEYS, ENVELOPE_LIMIT) {
            Err(error) if error.is_not_found() => return Err(Refusal::NoUpdates.into()),
            bytes => bytes?,
        };
        KeySet::from_trusted(&bytes).map_err(|source| Untrusted::Keys { version: 0, source }.into())
    }

    /// Returns the channel that is followed.
    ///
    /// # Errors
    /// [`Untrusted`]; [`Refusal`] for a channel of another image, board or architecture.
    pub fn channel(&self, source: &mut dyn Source, keys: &KeySet) -> Result<Verified<Channel>, UpdateError> {
        let Settings { image, channel: name, .. } = self.settings;
        let asked = ChannelName { channel: name.clone(), name: image.name.clone(), arch: image.arch };
        let what = format!("channel {name:?}");
        let channel: Verified<Channel> = open(&what, &source.channel(&asked)?, keys)?;
        let value = channel.value();
        if value.channel != *name {
            return Err(Untrusted::Channel { asked: name.clone(), found: value.channel.clone() }.into());
        }
        self.fits("the channel", &value.name, value.arch, &value.board)?;
        self.sequence(value)?;
        if let Some(end) = value.expires.filter(|_| value.has_expired(self.now())) {
            return Err(Untrusted::Expired { what, end, now: self.now() }.into());
        }
        self.not_before("the channel", value.created)?;
        Ok(channel)
    }

    fn sequence(&self, channel: &Channel) -> Result<(), UpdateError> {
        let seen = self.seen()?;
        let seen = seen.sequences.get(&channel.channel).copied().unwrap_or(0);
        let (name, found) = (channel.channel.clone(), channel.sequence);
        if found < seen {
            return Err(Untrusted::Sequence { channel: name, found, seen }.into());
        }
        if found > seen {
            self.note(|seen| {
                seen.sequences.insert(name, found);
            })?;
        }
        Ok(())
    }

    fn fits(&self, document: &'static str, name: &str, arch: ksos_formats::Arch, board: &str) -> Result<(), Refusal> {
        let Settings { image, board: our_board, .. } = self.settings;
        if name != image.name {
            return Err(Refusal::Name { document, expected: image.name.clone(), found: name.to_owned() });
        }
        if arch != image.arch {
            return Err(Refusal::Arch { document, expected: image.arch, found: arch });
        }
        if board != our_board {
            return Err(Refusal::Board { document, expected: our_board.clone(), found: board.to_owned() });
        }
        Ok(())
    }

    /// A clock that is far before what was signed cannot tell what has expired.
    fn not_before(&self, what: &'static str, created: u64) -> Result<(), Refusal> {
        let now = self.now();
        if now.saturating_add(CLOCK_SLACK) < created { Err(Refusal::Clock { now, what, created }) } else { Ok(()) }
    }

    /// Returns the release that a channel names.
    ///
    /// # Errors
    /// [`Untrusted`]; [`Refusal`] for a release of another image, board or architecture.
    pub fn release(
        &self,
        source: &mut dyn Source,
        keys: &KeySet,
        wanted: &ChannelRelease,
    ) -> Result<Verified<Release>, UpdateError> {
        let image = &self.settings.image;
        let envelope = source.open_release(&release_name(&image.name, &wanted.version, image.arch))?;
        let release: Verified<Release> = open(&format!("release {}", wanted.version), &envelope, keys)?;
        let (version, expected, found) = (wanted.version.clone(), wanted.release, release.digest());
        if found != expected {
            return Err(Untrusted::Mixed { version, expected, found }.into());
        }
        let value = release.value();
        if value.version != wanted.version {
            return Err(Untrusted::Differs(version, "version").into());
        }
        if value.minimum_version != wanted.minimum_version {
            return Err(Untrusted::Differs(version, "minimum_version").into());
        }
        self.fits("the release", &value.name, value.arch, &value.board)?;
        self.not_expired(value)?;
        self.not_before("the release", value.created)?;
        Ok(release)
    }

    /// Whether a release may still be installed.
    ///
    /// # Errors
    /// [`Untrusted::Expired`].
    pub fn not_expired(&self, release: &Release) -> Result<(), Untrusted> {
        match release.expires.filter(|_| release.has_expired(self.now())) {
            Some(end) => Err(Untrusted::Expired { what: format!("release {}", release.version), end, now: self.now() }),
            None => Ok(()),
        }
    }

    /// Returns the chunk index of a release.
    ///
    /// # Errors
    /// [`Untrusted`].
    pub fn index(&self, source: &mut dyn Source, release: &Release) -> Result<ChunkIndex, UpdateError> {
        let version = || release.version.clone();
        let bytes = source.index(&release.index)?;
        let index = ChunkIndex::parse(&bytes).map_err(|error| Untrusted::Index(version(), error))?;
        let sizes = [
            ("slot image", index.slot_size(), release.slot.size),
            ("chunk file", index.chunks_size(), release.chunks.size),
        ];
        for (what, found, expected) in sizes {
            if found != expected {
                return Err(Untrusted::IndexSize { version: version(), what, found, expected }.into());
            }
        }
        Ok(index)
    }
}

fn open<T: Payload>(what: &str, envelope: &[u8], keys: &KeySet) -> Result<Verified<T>, Untrusted> {
    let wrong = |source: EnvelopeError| Untrusted::Envelope { what: what.to_owned(), source };
    Envelope::parse(envelope).map_err(wrong)?.verify(keys).map_err(wrong)
}

/// What a node is to do about a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The release to install now.
    pub next: ChannelRelease,
    /// The version that it is a step to.
    pub towards: Option<Version>,
}

/// What limits the choice.
pub struct Limits<'a> {
    /// The version that runs.
    pub running: &'a Version,
    /// Nothing older may come.
    pub floor: Option<&'a Version>,
    /// What must not come again.
    pub quarantine: &'a Quarantine,
    /// Whether it may after all.
    pub retry: bool,
}

impl Limits<'_> {
    fn quarantined(&self, release: &ChannelRelease) -> Option<&str> {
        let entry = self.quarantine.find(&release.release, None, &release.version).filter(|_| !self.retry)?;
        Some(&entry.reason)
    }

    fn below_floor(&self, version: &Version) -> Option<&Version> {
        self.floor.filter(|floor| version.is_older_than(floor))
    }
}

/// Chooses from a channel: the newest release, or `wanted`. `None`: nothing newer.
///
/// # Errors
/// [`Refusal`]: why the wanted release, or the one thing that is newer, cannot be taken.
pub fn choose(channel: &Channel, wanted: Option<&Version>, limits: &Limits<'_>) -> Result<Option<Chosen>, Refusal> {
    if let Some(wanted) = wanted {
        explain(channel, wanted, limits)?;
    }
    let refused = |release: &ChannelRelease| {
        limits.quarantined(release).is_some() || limits.below_floor(&release.version).is_some()
    };
    match channel.choose(limits.running, wanted, &refused) {
        Choice::UpToDate => Ok(None),
        Choice::Take { next, towards: Some(towards) } if wanted.is_some() => {
            Err(stepping_stone(towards, limits.running, Some(next)))
        }
        Choice::Take { next, towards } => {
            Ok(Some(Chosen { next: next.clone(), towards: towards.map(|release| release.version.clone()) }))
        }
        Choice::Unreachable { wanted } => Err(stepping_stone(wanted, limits.running, None)),
    }
}

fn stepping_stone(wanted: &ChannelRelease, running: &Version, next: Option<&ChannelRelease>) -> Refusal {
    Refusal::SteppingStone(Box::new(SteppingStone {
        wanted: wanted.version.clone(),
        current: running.clone(),
        minimum: wanted.minimum_version.clone(),
        next: next.map(|release| release.version.clone()),
    }))
}

/// Says why a version that was asked for cannot be had.
fn explain(channel: &Channel, wanted: &Version, limits: &Limits<'_>) -> Result<(), Refusal> {
    let Some(release) = channel.releases.iter().find(|release| release.version == *wanted) else {
        return Err(Refusal::NotOffered { channel: channel.channel.clone(), version: wanted.clone() });
    };
    let older = |than: &Version, what| Refusal::Older { version: wanted.clone(), than: than.clone(), what };
    if wanted.is_older_than(limits.running) {
        return Err(older(limits.running, "the version that runs"));
    }
    if let Some(floor) = limits.below_floor(wanted) {
        return Err(older(floor, "the newest version that was ever kept"));
    }
    match limits.quarantined(release) {
        Some(reason) => Err(Refusal::Quarantined { version: wanted.clone(), reason: reason.to_owned() }),
        None => Ok(()),
    }
}
