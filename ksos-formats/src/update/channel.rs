//! A channel: a signed list of the releases that a node of one image, board and architecture may take.

use serde::{Deserialize, Serialize};

use super::envelope::Payload;
use super::version::Version;
use crate::{Arch, Digest};

/// Most releases in a channel.
pub const MAX_RELEASES: usize = 1024;

/// What is signed of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// [`super::FORMAT`].
    pub format: u32,
    /// Image name.
    pub name: String,
    /// Architecture.
    pub arch: Arch,
    /// Board.
    pub board: String,
    /// Name of the channel: `stable`, `beta`, ...
    pub channel: String,
    /// Grows with every change; a node takes no lower number than it has seen.
    pub sequence: u64,
    /// When it was made, seconds since 1970.
    pub created: u64,
    /// When it ends to be believed, seconds since 1970: a node that is kept from newer ones notices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// The releases, oldest first: the last is the one to reach; those before are the steps to it.
    pub releases: Vec<ChannelRelease>,
}

/// A release in a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelRelease {
    /// Version.
    pub version: Version,
    /// The oldest version that may update to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_version: Option<Version>,
    /// SHA-256 of the signed [`super::Release`] document ([`super::Verified::digest`]).
    pub release: Digest,
}

/// What a channel has for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice<'a> {
    /// Nothing newer.
    UpToDate,
    /// This one.
    Take {
        /// The release to install now.
        next: &'a ChannelRelease,
        /// The release that it is a step to, when it is not the wanted one itself.
        towards: Option<&'a ChannelRelease>,
    },
    /// Something newer that no chain of releases leads to from here.
    Unreachable {
        /// The wanted one.
        wanted: &'a ChannelRelease,
    },
}

impl ChannelRelease {
    /// Whether a node of `version` may update to it.
    pub fn is_reachable_from(&self, version: &Version) -> bool {
        self.minimum_version.as_ref().is_none_or(|minimum| !version.is_older_than(minimum))
    }
}

impl Channel {
    /// Whether it has ended at `now`, seconds since 1970.
    pub fn has_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|end| now >= end)
    }

    /// Returns what a node of version `current` takes to get to the newest release, or to `wanted`: the wanted one, else
    /// the newest release before it that may be installed from here. Releases for which `refused` holds (quarantined)
    /// are as if they were not there.
    pub fn choose<'a>(
        &'a self,
        current: &Version,
        wanted: Option<&Version>,
        refused: &dyn Fn(&ChannelRelease) -> bool,
    ) -> Choice<'a> {
        let newest_first = |a: &&ChannelRelease, b: &&ChannelRelease| a.version.precedence(&b.version);
        let candidates = || {
            let newer = |release: &&ChannelRelease| release.version.is_newer_than(current) && !refused(release);
            self.releases.iter().filter(newer)
        };
        let goal = match wanted {
            Some(version) => candidates().find(|release| release.version == *version),
            None => candidates().max_by(newest_first),
        };
        let Some(goal) = goal else { return Choice::UpToDate };
        if goal.is_reachable_from(current) {
            return Choice::Take { next: goal, towards: None };
        }
        let step = |release: &&ChannelRelease| {
            release.version.is_older_than(&goal.version) && release.is_reachable_from(current)
        };
        match candidates().filter(step).max_by(newest_first) {
            Some(next) => Choice::Take { next, towards: Some(goal) },
            None => Choice::Unreachable { wanted: goal },
        }
    }
}

impl Payload for Channel {
    const TYPE: &'static str = "application/vnd.kubesolo.os.channel.v1+json";
}
