//! What a channel becomes. Pure.

use ksos_formats::update::channel::{ChannelRelease, MAX_RELEASES};
use ksos_formats::update::{Channel, FORMAT, Version};
use ksos_formats::{Arch, Digest};

use super::release::LocalRelease;

/// How a channel's list changes, beside the releases that come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'a> {
    /// Versions that go.
    pub remove: &'a [Version],
    /// A release takes the place of another of its version.
    pub replace: bool,
    /// Makes a new document even when the list stays as it is.
    pub refresh: bool,
    /// The number that the document gets; without one, the next.
    pub sequence: Option<u64>,
    /// For how many seconds from now it is valid; none: for ever.
    pub valid_for: Option<u64>,
}

/// A channel that cannot become what is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// What is there is of something else.
    #[error("it is the channel {found}, not {expected}")]
    Other {
        /// What is there.
        found: String,
        /// What is asked for.
        expected: String,
    },
    /// A release for another kind of machine.
    #[error("the channel is for board {channel:?}, the release {version} for {release:?}")]
    Board {
        /// Board of the channel.
        channel: String,
        /// Version of the release.
        version: Version,
        /// Board of the release.
        release: String,
    },
    /// A version is there with another digest.
    #[error("version {version} is {found} there, not {expected}")]
    SameVersion {
        /// The version.
        version: Version,
        /// What is there.
        found: Digest,
        /// What comes.
        expected: Digest,
    },
    /// Two different versions of the same rank: nodes could not tell which is newer.
    #[error("versions {a} and {b} are of the same rank")]
    SameRank {
        /// One.
        a: Version,
        /// The other.
        b: Version,
    },
    /// A version to remove that is not there.
    #[error("there is no version {0} to remove")]
    NotThere(Version),
    /// The number would not grow.
    #[error("sequence {asked} is not above {current}: nodes that have seen that take nothing lower")]
    Sequence {
        /// What was asked for.
        asked: u64,
        /// What is there.
        current: u64,
    },
    /// Too many releases.
    #[error("{0} releases; at most {MAX_RELEASES}")]
    TooMany(usize),
}

/// Returns the channel as it shall be; none when it is so already. `existing` is what is there, with whether it is signed
/// by the keys in use. `now` is in seconds since 1970.
///
/// # Errors
/// [`ChannelError`].
pub fn next(
    existing: Option<(&Channel, bool)>,
    (channel, name, arch): (&str, &str, Arch),
    releases: &[&LocalRelease],
    change: &Change<'_>,
    now: u64,
) -> Result<Option<Channel>, ChannelError> {
    let old = existing.map(|(channel, _)| channel);
    if let Some(old) = old.filter(|old| (old.channel.as_str(), old.name.as_str(), old.arch) != (channel, name, arch)) {
        let title = |channel: &str, name: &str, arch: Arch| format!("{channel} of {name} for {arch}");
        let found = title(&old.channel, &old.name, old.arch);
        return Err(ChannelError::Other { found, expected: title(channel, name, arch) });
    }
    let mut list = old.map(|old| old.releases.clone()).unwrap_or_default();
    for version in change.remove {
        let before = list.len();
        list.retain(|release| release.version != *version);
        if list.len() == before {
            return Err(ChannelError::NotThere(version.clone()));
        }
    }
    let first = || releases.first().map(|release| release.document.value().board.clone());
    let board = old.map(|old| old.board.clone()).or_else(first).unwrap_or_default();
    for release in releases {
        add(&mut list, release, &board, change.replace)?;
    }
    list.sort_by(|a, b| a.version.precedence(&b.version));
    if let Some(pair) = list.windows(2).find(|pair| pair[0].version.precedence(&pair[1].version).is_eq()) {
        return Err(ChannelError::SameRank { a: pair[0].version.clone(), b: pair[1].version.clone() });
    }
    if list.len() > MAX_RELEASES {
        return Err(ChannelError::TooMany(list.len()));
    }
    let is_good = |old: &Channel| old.releases == list && !old.has_expired(now);
    let fresh = existing.is_some_and(|(old, is_current)| is_current && is_good(old));
    if fresh && !change.refresh && change.sequence.is_none() {
        return Ok(None);
    }
    Ok(Some(Channel {
        format: FORMAT,
        name: name.to_owned(),
        arch,
        board,
        channel: channel.to_owned(),
        sequence: sequence(old, change.sequence)?,
        created: now,
        expires: change.valid_for.map(|seconds| now.saturating_add(seconds)),
        releases: list,
    }))
}

fn add(list: &mut Vec<ChannelRelease>, release: &LocalRelease, board: &str, replace: bool) -> Result<(), ChannelError> {
    let document = release.document.value();
    let version = document.version.clone();
    if document.board != board {
        let (channel, release) = (board.to_owned(), document.board.clone());
        return Err(ChannelError::Board { channel, version, release });
    }
    let minimum_version = document.minimum_version.clone();
    let entry = ChannelRelease { version, minimum_version, release: release.document.digest() };
    match list.iter_mut().find(|known| known.version == entry.version) {
        Some(known) if known.release == entry.release || replace => *known = entry,
        Some(known) => {
            let (found, expected) = (known.release, entry.release);
            return Err(ChannelError::SameVersion { version: entry.version, found, expected });
        }
        None => list.push(entry),
    }
    Ok(())
}

fn sequence(old: Option<&Channel>, asked: Option<u64>) -> Result<u64, ChannelError> {
    let current = old.map_or(0, |old| old.sequence);
    let sequence = asked.unwrap_or_else(|| current.saturating_add(1));
    if sequence <= current { Err(ChannelError::Sequence { asked: sequence, current }) } else { Ok(sequence) }
}
