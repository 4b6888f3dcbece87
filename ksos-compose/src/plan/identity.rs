//! Identifiers that derive from the image's identity, so that the same manifest gives the same bytes anywhere.

use ksos_formats::Digest;
use ksos_formats::boot::ImageId;
use uuid::Uuid;

/// Name space of the project's version 5 UUIDs (RFC 9562, section 5.5).
const NAMESPACE: Uuid = Uuid::from_u128(0x6b73_6f73_2d69_4d61_8765_2d69_6465_6e74);

/// Returns the UUID of `what` (a partition, a file system) of an image. The version is not part of it: an update keeps
/// the disk that it finds.
pub fn uuid(image: &ImageId, what: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, format!("{}\0{}\0{what}", image.name, image.arch).as_bytes())
}

/// Returns the dm-verity salt of an image. The version is not part of it: where a block stays, its hash stays, and an
/// update need not fetch it.
pub fn salt(image: &ImageId) -> Digest {
    Digest::of(format!("ksos verity\0{}\0{}", image.name, image.arch).as_bytes())
}
