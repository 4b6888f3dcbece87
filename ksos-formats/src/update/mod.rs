//! Updates: what a release is, who vouches for it, and how its slot image is cut into chunks.
//!
//! - [`envelope`]: signatures (DSSE, Ed25519) and the one way to a verified value.
//! - [`keys`]: versioned key sets with a threshold, and their rotation.
//! - [`release`], [`channel`]: the two signed documents.
//! - [`version`]: the order of versions.
//! - [`chunks`]: cutting a slot image into chunks by content.
//! - [`index`]: the list of chunks of a slot image.
//! - [`fetch`]: which bytes of the chunk file a node must fetch.
//! - [`window`]: when a node may install and restart.
//! - [`cosign`]: what `cosign` leaves in a registry.
//!
//! Whoever reads a document passes it through [`envelope::Envelope::verify`] first: there is no other way to a
//! [`release::Release`] or [`channel::Channel`] that the update agent takes.

pub mod channel;
pub mod chunks;
pub mod cosign;
pub mod envelope;
pub mod fetch;
pub mod index;
pub mod keys;
pub mod release;
pub mod version;
pub mod window;

pub use channel::{Channel, ChannelRelease, Choice};
pub use envelope::{Envelope, EnvelopeError, Payload, Signature, Verified};
pub use index::{ChunkIndex, IndexError};
pub use keys::{KeyId, KeySet, PublicKey};
pub use release::{Blob, Release};
pub use version::Version;
pub use window::Window;

/// The current value of every `format` field of the signed documents.
pub const FORMAT: u32 = 1;

/// Largest envelope in bytes that is read.
pub const ENVELOPE_LIMIT: u64 = 1 << 20;
/// Largest chunk index in bytes that is read: 1.4 million chunks.
pub const INDEX_LIMIT: u64 = 64 << 20;

/// Suffix of the directory of a release: `NAME-VERSION-ARCH.update`.
pub const RELEASE_SUFFIX: &str = ".update";
/// The envelope with the [`Release`], in the directory of a release.
pub const RELEASE_FILE: &str = "release.json";
/// The chunk index in the directory of a release.
pub const INDEX_FILE: &str = "slot.index";
/// The chunks in the directory of a release.
pub const CHUNKS_FILE: &str = "slot.chunks";
/// Directory of a published tree with the channels, each `channels/CHANNEL/NAME-ARCH.json`.
pub const CHANNELS_DIRECTORY: &str = "channels";
/// Directory of a published tree with the key sets, each `keys/VERSION.json`.
pub const KEYS_DIRECTORY: &str = "keys";

/// `artifactType` of a release in an OCI registry.
pub const RELEASE_ARTIFACT: &str = "application/vnd.kubesolo.os.release.v1";
/// `artifactType` of a channel in an OCI registry.
pub const CHANNEL_ARTIFACT: &str = "application/vnd.kubesolo.os.channel.v1";
/// `artifactType` of a key set in an OCI registry.
pub const KEYS_ARTIFACT: &str = "application/vnd.kubesolo.os.keys.v1";
/// Media type of a layer that is an envelope.
pub const ENVELOPE_MEDIA_TYPE: &str = "application/vnd.dsse.envelope.v1+json";
/// Media type of the layer with the chunk index.
pub const INDEX_MEDIA_TYPE: &str = "application/vnd.kubesolo.os.slot.index.v1";
/// Media type of the layer with the chunks.
pub const CHUNKS_MEDIA_TYPE: &str = "application/vnd.kubesolo.os.slot.chunks.v1";

/// Path of a channel's pointer in a published tree.
pub fn channel_path(channel: &str, name: &str, arch: crate::Arch) -> String {
    format!("{CHANNELS_DIRECTORY}/{channel}/{name}-{}.json", arch.name())
}

/// Tag of a channel's pointer in an OCI repository.
pub fn channel_tag(channel: &str, name: &str, arch: crate::Arch) -> String {
    format!("channel-{channel}-{name}-{}", arch.name())
}

/// Name of a release: of its directory without [`RELEASE_SUFFIX`], and the tag in an OCI repository (where `+`, which
/// no tag has, is `_`).
pub fn release_name(name: &str, version: &Version, arch: crate::Arch) -> String {
    format!("{name}-{version}-{}", arch.name())
}

/// Path of a key set in a published tree.
pub fn keys_path(version: u64) -> String {
    format!("{KEYS_DIRECTORY}/{version}.json")
}

/// Tag of a key set in an OCI repository.
pub fn keys_tag(version: u64) -> String {
    format!("keys-{version}")
}

/// Whether `text` can be a channel, board or image name: `[a-z0-9][a-z0-9-]{0,62}`.
pub fn is_name(text: &str) -> bool {
    let ordinary = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 63
        && text.bytes().next().is_some_and(ordinary)
        && text.bytes().all(|byte| ordinary(byte) || byte == b'-')
}
