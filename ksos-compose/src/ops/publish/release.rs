//! A release in its directory.

use std::path::{Path, PathBuf};

use ksos_formats::Digest;
use ksos_formats::update::envelope::{Envelope, Verified};
use ksos_formats::update::{
    self, Blob, CHUNKS_FILE, ChunkIndex, ENVELOPE_LIMIT, INDEX_FILE, INDEX_LIMIT, RELEASE_FILE, Release,
};

use super::PublishError;
use crate::effects::fs;
use crate::ops::OpError;
use crate::ops::trust::Trust;
use crate::registry::hash_file;

/// A release that is verified, and whose files are what it says.
#[derive(Debug, Clone)]
pub struct LocalRelease {
    /// The directory.
    pub path: PathBuf,
    /// The document.
    pub document: Verified<Release>,
    /// The bytes of its envelope.
    pub envelope: Vec<u8>,
}

impl LocalRelease {
    /// Reads the release in the directory `path`, signed by those who are trusted. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// [`PublishError`]; files that cannot be read.
    pub fn load(path: &Path, trust: &Trust, now: u64) -> Result<Self, OpError> {
        let file = path.join(RELEASE_FILE);
        let bytes = fs::read(&file, ENVELOPE_LIMIT)?;
        let unverified = |source| PublishError::Unverified { place: file.display().to_string(), source };
        let envelope = Envelope::parse(&bytes).map_err(unverified)?;
        let document: Verified<Release> = trust.verify(&envelope).map_err(unverified)?;
        if document.value().has_expired(now) {
            return Err(PublishError::Expired { place: file.display().to_string() }.into());
        }
        check_names(document.value()).map_err(|reason| PublishError::Document { path: file, reason })?;
        check(path, document.value())?;
        Ok(LocalRelease { path: path.to_owned(), document, envelope: bytes })
    }

    /// Returns its name.
    pub fn name(&self) -> String {
        let Release { name, version, arch, .. } = self.document.value();
        update::release_name(name, version, *arch)
    }

    /// Returns its index and its chunks: file name, what it must be, and where it is.
    pub fn blobs(&self) -> [(&'static str, Blob, PathBuf); 2] {
        let Release { index, chunks, .. } = self.document.value();
        [(INDEX_FILE, *index, self.path.join(INDEX_FILE)), (CHUNKS_FILE, *chunks, self.path.join(CHUNKS_FILE))]
    }
}

/// Checks the names that become parts of paths and tags.
fn check_names(release: &Release) -> Result<(), String> {
    match [&release.name, &release.board].into_iter().find(|name| !update::is_name(name)) {
        Some(name) => Err(format!("{name:.100?} cannot be the name of an image or a board")),
        None => Ok(()),
    }
}

/// Checks the files of a release whose document has this payload, whoever has signed it.
///
/// # Errors
/// [`PublishError::Document`], [`PublishError::File`]; files that cannot be read.
pub fn check_files(path: &Path, payload: &[u8]) -> Result<(), OpError> {
    let wrong = |reason| PublishError::Document { path: path.join(RELEASE_FILE), reason };
    let release: Release = crate::ops::sign::read(payload).map_err(wrong)?;
    check(path, &release)
}

fn check(path: &Path, release: &Release) -> Result<(), OpError> {
    let index = path.join(INDEX_FILE);
    let bytes = fs::read(&index, INDEX_LIMIT)?;
    let found = Blob { size: bytes.len() as u64, sha256: Digest::of(&bytes) };
    expect(&index, found, release.index)?;
    parse_index(&bytes, release).map_err(|reason| PublishError::File { path: index, reason })?;
    let chunks = path.join(CHUNKS_FILE);
    expect(&chunks, hash_file(&chunks)?, release.chunks)?;
    Ok(())
}

fn expect(path: &Path, found: Blob, declared: Blob) -> Result<(), PublishError> {
    if found == declared {
        return Ok(());
    }
    let reason = format!(
        "has {} bytes with SHA-256 {}; the release says {} and {}",
        found.size, found.sha256, declared.size, declared.sha256
    );
    Err(PublishError::File { path: path.to_owned(), reason })
}

/// Reads the index of a release, and checks that it is about its image and its chunks.
///
/// # Errors
/// What is wrong.
pub fn parse_index(bytes: &[u8], release: &Release) -> Result<ChunkIndex, String> {
    let index = ChunkIndex::parse(bytes).map_err(|error| error.to_string())?;
    for (what, found, said) in
        [("slot image", index.slot_size(), release.slot.size), ("chunk file", index.chunks_size(), release.chunks.size)]
    {
        if found != said {
            return Err(format!("is about a {what} of {found} bytes; the release says {said}"));
        }
    }
    Ok(index)
}
