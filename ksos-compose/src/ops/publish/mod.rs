//! `publish` and `push`: releases into a directory that any HTTP server can serve, or into a registry, and then into a
//! channel.
//!
//! ```text
//! release   a release's directory: read, verified, its files checked
//! channel   pure: from a channel as it is to the channel as it shall be
//! tree      a directory
//! oci       a repository of a registry
//! ```
//!
//! Releases first, pointers last: whatever happens between, a channel leads to nothing that is not there whole. Running
//! the same command again does what is left to do, and nothing when all is done.

pub mod channel;
mod oci;
pub mod release;
mod tree;

use std::path::{Path, PathBuf};

use ksos_formats::update::envelope::{Envelope, EnvelopeError, Verified};
use ksos_formats::update::keys::{KeySet, KeySetError};
use ksos_formats::update::{self, Channel, ENVELOPE_LIMIT, Version};
use ksos_formats::{Arch, Digest};

use self::channel::Change;
pub use self::channel::ChannelError;
pub use self::oci::Repository;
pub(super) use self::oci::envelope as envelope_of;
use self::release::LocalRelease;
pub use self::tree::Tree;
use super::trust::Trust;
use super::{OpError, Problem};
use crate::effects::{clock, fs};
use crate::sign::{OpenedKey, sign_envelope};

/// Something cannot be signed, published or believed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A file is not the document that it should be.
    #[error("{}: {reason}", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A document is not signed by those who are trusted.
    #[error("{place}: {source}")]
    Unverified {
        /// File or URL.
        place: String,
        /// The cause.
        source: EnvelopeError,
    },
    /// A release has ended.
    #[error("{place}: has expired")]
    Expired {
        /// What has.
        place: String,
    },
    /// A file of a release is another than its document says.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A key set cannot be made or used.
    #[error(transparent)]
    KeySet(KeySetError),
    /// What is trusted is not said, or makes no sense.
    #[error("trusted keys: {0}")]
    Trust(String),
    /// No key of the set has this name.
    #[error("{text:?} is no key of the key set, or not one alone")]
    UnknownKey {
        /// What was asked for.
        text: String,
    },
    /// The channel cannot become what is asked for.
    #[error("{place}: {source}")]
    Channel {
        /// The channel.
        place: String,
        /// The cause.
        source: Box<ChannelError>,
    },
    /// What is there differs from what would be put there.
    #[error("{place} is there already, with other content ({found}, not {expected})")]
    Differs {
        /// Where.
        place: String,
        /// What is there.
        found: Digest,
        /// What would come.
        expected: Digest,
    },
    /// A name that cannot stand in a path or a tag.
    #[error("{what} {text:?}: expected lower-case letters, digits and hyphens, at most 63")]
    Name {
        /// What it names.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// A tag would be too long.
    #[error("the tag {0:?} is longer than 128 characters")]
    Tag(String),
    /// The command line says too little, or too much.
    #[error("{0}")]
    Usage(&'static str),
}

impl PublishError {
    /// Returns where the failure belongs.
    pub fn problem(&self) -> Problem {
        match self {
            PublishError::Trust(_)
            | PublishError::UnknownKey { .. }
            | PublishError::KeySet(_)
            | PublishError::Name { .. }
            | PublishError::Tag(_)
            | PublishError::Usage(_) => Problem::Manifest,
            PublishError::Document { .. }
            | PublishError::Unverified { .. }
            | PublishError::Expired { .. }
            | PublishError::File { .. }
            | PublishError::Channel { .. }
            | PublishError::Differs { .. } => Problem::Build,
        }
    }

    /// Returns suggestions.
    pub fn hints(&self) -> Vec<String> {
        match self {
            PublishError::Unverified { source: EnvelopeError::Unsigned | EnvelopeError::Threshold { .. }, .. } => {
                vec!["ksos-compose sign adds signatures; --keys says which keys are trusted".to_owned()]
            }
            PublishError::Differs { .. } => vec!["--replace puts the new one in its place".to_owned()],
            _ => Vec::new(),
        }
    }
}

/// A document that others look for by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pointer {
    /// A channel.
    Channel {
        /// Its name.
        channel: String,
        /// Image name.
        name: String,
        /// Architecture.
        arch: Arch,
    },
    /// The key set of a version.
    Keys(u64),
    /// A release, by [`update::release_name`].
    Release(String),
}

/// Where releases are published.
pub trait Destination {
    /// Returns what to call a document there.
    fn place(&self, pointer: &Pointer) -> String;

    /// Returns the envelope there; none when there is none.
    ///
    /// # Errors
    /// When that cannot be told.
    fn document(&self, pointer: &Pointer) -> Result<Option<Vec<u8>>, OpError>;

    /// Puts a release there whole, its document last. Returns how many bytes were written or sent.
    ///
    /// # Errors
    /// When it cannot be put there.
    fn put_release(&self, release: &LocalRelease) -> Result<u64, OpError>;

    /// Puts an envelope there, in place of what there was.
    ///
    /// # Errors
    /// When it cannot be put there.
    fn put_document(&self, pointer: &Pointer, envelope: &[u8]) -> Result<(), OpError>;
}

/// What to publish.
#[derive(Debug)]
pub struct Request<'a> {
    /// Directories of releases.
    pub releases: &'a [PathBuf],
    /// Name of the channel.
    pub channel: &'a str,
    /// Keys that sign the channel.
    pub signers: &'a [OpenedKey],
    /// Who has signed the releases and the channel before.
    pub trust: &'a Trust,
    /// How the list changes.
    pub change: Change<'a>,
    /// The image and architecture when there are no releases.
    pub image: Option<(&'a str, Arch)>,
    /// Directory to which the channel's document is written instead of published: others sign it there.
    pub draft: Option<&'a Path>,
    /// A document that was written so, and is signed now.
    pub drafted: Option<&'a Path>,
}

/// What became of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedRelease {
    /// Where it is.
    pub place: String,
    /// Digest of its document.
    pub digest: Digest,
    /// Bytes that were written or sent; 0: it was there.
    pub bytes: u64,
}

/// What became of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedChannel {
    /// Where it is; or the file of the draft.
    pub place: String,
    /// Its number.
    pub sequence: u64,
    /// Its versions, oldest first.
    pub versions: Vec<Version>,
    /// Whether it changed.
    pub changed: bool,
    /// Whether it is a draft.
    pub draft: bool,
}

/// What was published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// Releases.
    pub releases: Vec<PublishedRelease>,
    /// Channels, one for each image and architecture.
    pub channels: Vec<PublishedChannel>,
    /// Versions of the key sets that were put there.
    pub key_sets: Vec<u64>,
}

/// Publishes releases and leads the channel to them.
///
/// # Errors
/// [`OpError`]. What was published until then stays, and no channel leads to it.
pub fn publish(destination: &dyn Destination, request: &Request<'_>) -> Result<Published, OpError> {
    check_usage(request)?;
    let now = clock::now_seconds();
    if request.trust.current().has_expired(now) {
        return Err(PublishError::Expired { place: format!("key set {}", request.trust.current().version) }.into());
    }
    let releases = request
        .releases
        .iter()
        .map(|path| LocalRelease::load(path, request.trust, now))
        .collect::<Result<Vec<_>, _>>()?;
    // What cannot be becomes known before anything is written.
    let mut groups = groups(&releases, request)?;
    for group in &mut groups {
        group.plan(destination, request, now)?;
    }
    for release in &releases {
        check_same(destination, release, request.change.replace)?;
    }
    let mut published = Published { key_sets: key_sets(destination, request.trust)?, ..Published::default() };
    for release in &releases {
        published.releases.push(PublishedRelease {
            place: destination.place(&Pointer::Release(release.name())),
            digest: release.document.digest(),
            bytes: destination.put_release(release)?,
        });
    }
    for group in groups {
        published.channels.push(group.put(destination, request)?);
    }
    Ok(published)
}

fn check_usage(request: &Request<'_>) -> Result<(), PublishError> {
    let name = |what: &'static str, text: &str| match update::is_name(text) {
        true => Ok(()),
        false => Err(PublishError::Name { what, text: text.to_owned() }),
    };
    name("channel", request.channel)?;
    if let Some((image, _)) = request.image {
        name("image", image)?;
    }
    match (request.releases.is_empty(), request.image) {
        (true, None) => Err(PublishError::Usage("there is neither a release nor --image and --arch")),
        (false, Some(_)) => Err(PublishError::Usage("--image and --arch are for when there is no release")),
        _ if request.draft.is_some() && request.drafted.is_some() => {
            Err(PublishError::Usage("a draft is either written or published"))
        }
        _ => Ok(()),
    }
}

/// Refuses a release of the same name that is another.
fn check_same(destination: &dyn Destination, release: &LocalRelease, replace: bool) -> Result<(), OpError> {
    let pointer = Pointer::Release(release.name());
    let Some(bytes) = destination.document(&pointer)?.filter(|_| !replace) else { return Ok(()) };
    let expected = release.document.digest();
    match Envelope::parse(&bytes).map(|envelope| Digest::of(&envelope.payload)) {
        Ok(found) if found != expected => {
            Err(PublishError::Differs { place: destination.place(&pointer), found, expected }.into())
        }
        // What cannot be read is what an interrupted command or a bad disk left.
        _ => Ok(()),
    }
}

/// Puts signed key sets there that are not.
fn key_sets(destination: &dyn Destination, trust: &Trust) -> Result<Vec<u64>, OpError> {
    let mut put = Vec::new();
    for trusted in trust.sets() {
        let Some(bytes) = &trusted.envelope else { continue };
        let pointer = Pointer::Keys(trusted.set.version);
        let parse = |bytes: &[u8]| {
            let envelope = Envelope::parse(bytes);
            envelope.map_err(|source| PublishError::Unverified { place: destination.place(&pointer), source })
        };
        let envelope = parse(bytes)?;
        // Signed by its own keys, at least; by those before it is checked where they are known.
        envelope
            .verify::<KeySet>(&trusted.set)
            .map_err(|source| PublishError::Unverified { place: format!("key set {}", trusted.set.version), source })?;
        match destination.document(&pointer)? {
            Some(there) => {
                let (found, expected) = (Digest::of(&parse(&there)?.payload), Digest::of(&envelope.payload));
                if found != expected {
                    return Err(PublishError::Differs { place: destination.place(&pointer), found, expected }.into());
                }
            }
            None => {
                destination.put_document(&pointer, bytes)?;
                put.push(trusted.set.version);
            }
        }
    }
    Ok(put)
}

/// The releases for one channel document.
struct Group<'a> {
    name: String,
    arch: Arch,
    releases: Vec<&'a LocalRelease>,
    /// The document as it shall be, and whether it is to be put there.
    next: Option<(Channel, Envelope, bool)>,
}

fn groups<'a>(releases: &'a [LocalRelease], request: &Request<'_>) -> Result<Vec<Group<'a>>, PublishError> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    if let Some((name, arch)) = request.image {
        groups.push(Group { name: name.to_owned(), arch, releases: Vec::new(), next: None });
    }
    for release in releases {
        let document = release.document.value();
        let known = groups.iter_mut().find(|group| group.name == document.name && group.arch == document.arch);
        match known {
            Some(group) => group.releases.push(release),
            None => {
                let (name, arch) = (document.name.clone(), document.arch);
                groups.push(Group { name, arch, releases: vec![release], next: None });
            }
        }
    }
    if groups.len() > 1 && (request.draft.is_some() || request.drafted.is_some()) {
        return Err(PublishError::Usage("a draft is of one channel: one image and architecture"));
    }
    Ok(groups)
}

impl Group<'_> {
    fn pointer(&self, request: &Request<'_>) -> Pointer {
        Pointer::Channel { channel: request.channel.to_owned(), name: self.name.clone(), arch: self.arch }
    }

    /// Makes and signs the channel as it shall be.
    fn plan(&mut self, destination: &dyn Destination, request: &Request<'_>, now: u64) -> Result<(), OpError> {
        let pointer = self.pointer(request);
        let place = destination.place(&pointer);
        let unverified = |source| PublishError::Unverified { place: place.clone(), source };
        let existing = match destination.document(&pointer)? {
            None => None,
            Some(bytes) => {
                let envelope = Envelope::parse(&bytes).map_err(unverified)?;
                let verified: Verified<Channel> = request.trust.verify_by_any(&envelope).map_err(unverified)?;
                let is_current = request.trust.verify::<Channel>(&envelope).is_ok();
                Some((verified.into_value(), envelope, is_current))
            }
        };
        let failed = |source| PublishError::Channel { place: place.clone(), source: Box::new(source) };
        let next = channel::next(
            existing.as_ref().map(|(channel, _, is_current)| (channel, *is_current)),
            (request.channel, &self.name, self.arch),
            &self.releases,
            &request.change,
            now,
        )
        .map_err(failed)?;
        self.next = Some(match (next, existing) {
            (None, Some((channel, envelope, _))) => (channel, envelope, false),
            (None, None) => unreachable!("a channel that is not there is made"),
            (Some(channel), existing) => {
                let envelope = match request.drafted {
                    Some(path) => drafted(path, &channel, request.trust)?,
                    None => signed(&channel, request, &place)?,
                };
                let channel = request.trust.verify(&envelope).map_or(channel, Verified::into_value);
                debug_assert!(existing.is_none_or(|(old, ..)| old.sequence < channel.sequence));
                (channel, envelope, true)
            }
        });
        Ok(())
    }

    fn put(self, destination: &dyn Destination, request: &Request<'_>) -> Result<PublishedChannel, OpError> {
        let pointer = self.pointer(request);
        let (channel, envelope, changed) = self.next.expect("it was planned");
        let versions = channel.releases.iter().map(|release| release.version.clone()).collect();
        let mut place = destination.place(&pointer);
        let draft = request.draft.filter(|_| changed);
        match draft {
            Some(path) => {
                fs::write_atomic(path, &envelope.to_json())?;
                place = path.display().to_string();
            }
            None if changed => destination.put_document(&pointer, &envelope.to_json())?,
            None => {}
        }
        Ok(PublishedChannel { place, sequence: channel.sequence, versions, changed, draft: draft.is_some() })
    }
}

/// Signs a channel. Unless it is a draft, it must then be one that nodes believe.
fn signed(channel: &Channel, request: &Request<'_>, place: &str) -> Result<Envelope, OpError> {
    let mut envelope = Envelope::new(channel);
    for key in request.signers {
        sign_envelope(&mut envelope, key.signer.as_ref())?;
    }
    if request.draft.is_none() {
        request
            .trust
            .verify::<Channel>(&envelope)
            .map_err(|source| PublishError::Unverified { place: format!("the new {place}"), source })?;
    }
    Ok(envelope)
}

/// Reads a draft that others have signed: it must say what would be made now.
fn drafted(path: &Path, expected: &Channel, trust: &Trust) -> Result<Envelope, OpError> {
    let wrong = |reason: String| PublishError::Document { path: path.to_owned(), reason };
    let envelope = Envelope::parse(&fs::read(path, ENVELOPE_LIMIT)?).map_err(|error| wrong(error.to_string()))?;
    let unverified = |source| PublishError::Unverified { place: path.display().to_string(), source };
    let channel: Channel = trust.verify(&envelope).map_err(unverified)?.into_value();
    let Channel { format, name, arch, board, channel: channel_name, sequence, created: _, expires: _, releases } =
        &channel;
    let same = *format == expected.format
        && (name, arch, board, channel_name) == (&expected.name, &expected.arch, &expected.board, &expected.channel)
        && *sequence == expected.sequence
        && *releases == expected.releases;
    if !same {
        return Err(wrong("the draft is not what the channel would become now".to_owned()).into());
    }
    if channel.has_expired(clock::now_seconds()) {
        return Err(PublishError::Expired { place: path.display().to_string() }.into());
    }
    Ok(envelope)
}

#[cfg(test)]
mod tests;
