//! The release of an image: a directory with the chunks of its slot, their index, and the signed document about both.
//!
//! The directory appears as a whole. One that is there and says the same stays as it is: it may have been signed since.

use std::io::{Seek, SeekFrom};
use std::path::Path;

use ksos_formats::Digest;
use ksos_formats::update::index::ChunkIndex;
use ksos_formats::update::{
    self, Blob, CHUNKS_FILE, ENVELOPE_LIMIT, Envelope, FORMAT, INDEX_FILE, Payload, RELEASE_FILE, Release,
};

use super::{Artifact, ArtifactFile, hash, sizes};
use crate::artifact::disk::Extent;
use crate::artifact::release::{self, Cut};
use crate::effects::fs::{self, AtomicDirectory, Context};
use crate::ops::{OpError, Session};
use crate::plan::{Plan, ReleasePlan};
use crate::sign::{OpenedKey, sign_envelope};

/// [`Artifact::format`] of a release.
pub const ARTIFACT: &str = "update";

/// What a release is made of.
pub struct Source<'a> {
    /// The disk image, finished.
    pub image: &'a Path,
    /// Where its slot is.
    pub slot: Extent,
    /// Kernel release.
    pub kernel_release: &'a str,
}

/// Writes the release of `plan` to `path`, all or nothing.
///
/// # Errors
/// When the image cannot be read or the directory not be written; one that was there stays then.
pub fn write(
    session: &Session,
    (plan, planned): (&Plan, &ReleasePlan),
    source: &Source<'_>,
    path: &Path,
) -> Result<(), OpError> {
    // Two builds of one image must not write one directory at once.
    let _exclusive = session.cache.exclusive(path)?;
    let directory = AtomicDirectory::create(path)?;
    let mut image = fs::open(source.image)?;
    image.seek(SeekFrom::Start(source.slot.offset)).context("read", source.image)?;
    let mut chunks = directory.create_file(CHUNKS_FILE)?;
    let Cut { index, slot, chunks } =
        release::write(&mut image, source.slot.size, &mut chunks, session.jobs).map_err(failed(path))?;
    let index = index.to_bytes();
    let document = Release {
        format: FORMAT,
        name: plan.image.name.clone(),
        version: plan.image.version.parse().expect("validation has parsed the version"),
        arch: plan.image.arch,
        board: planned.board.clone(),
        minimum_version: planned
            .minimum_version
            .as_ref()
            .map(|version| version.parse().expect("validation has parsed the version")),
        created: plan.image.epoch,
        expires: planned.expires,
        kernel_release: source.kernel_release.to_owned(),
        slot,
        index: Blob { size: index.len() as u64, sha256: Digest::of(&index) },
        chunks,
    };
    let envelope = Envelope::new(&document);
    if is_there(path, &envelope, &document) {
        return Ok(());
    }
    for (name, bytes) in [(INDEX_FILE, index), (RELEASE_FILE, envelope.to_json())] {
        std::io::Write::write_all(&mut directory.create_file(name)?, &bytes).context("write", &path.join(name))?;
    }
    Ok(directory.commit()?)
}

fn failed(path: &Path) -> impl Fn(release::Error) -> OpError {
    move |source| OpError::Release { path: path.to_owned(), source }
}

/// Whether the directory at `path` holds what `envelope` says, signed or not.
fn is_there(path: &Path, envelope: &Envelope, document: &Release) -> bool {
    let holds = |name: &str, blob: &Blob| {
        let file = path.join(name);
        fs::metadata(&file).is_ok_and(|metadata| metadata.len() == blob.size)
            && hash(&file).is_ok_and(|digest| digest == blob.sha256)
    };
    document_digest(path) == Some(Digest::of(&envelope.payload))
        && holds(INDEX_FILE, &document.index)
        && holds(CHUNKS_FILE, &document.chunks)
}

/// Returns the digest of the document of the release at `path`, whoever has signed it.
pub fn document_digest(path: &Path) -> Option<Digest> {
    let bytes = fs::read(&path.join(RELEASE_FILE), ENVELOPE_LIMIT).ok()?;
    let envelope = Envelope::parse(&bytes).ok()?;
    (envelope.payload_type == Release::TYPE).then(|| Digest::of(&envelope.payload))
}

/// Adds the signatures of `keys` to the release at `path`. One that has them already is not written.
///
/// # Errors
/// When the document cannot be read or written, or a key does not sign.
pub fn sign(path: &Path, keys: &[OpenedKey]) -> Result<(), OpError> {
    let file = path.join(RELEASE_FILE);
    let bytes = fs::read(&file, ENVELOPE_LIMIT)?;
    let mut envelope = Envelope::parse(&bytes).map_err(|_| OpError::NoRelease { path: file.clone() })?;
    let message = envelope.message();
    let mut changed = false;
    for OpenedKey { signer, .. } in keys {
        let key = signer.public_key();
        if !envelope.signatures.iter().any(|signature| key.verifies(&message, &signature.bytes)) {
            sign_envelope(&mut envelope, signer.as_ref())?;
            changed = true;
        }
    }
    if changed {
        fs::write_atomic(&file, &envelope.to_json())?;
    }
    Ok(())
}

/// Lists the release at `path`, which is shown as `shown`.
///
/// # Errors
/// When a file of it cannot be read.
pub fn listed(path: &Path, shown: &Path) -> Result<Artifact, OpError> {
    let bytes = fs::read(&path.join(RELEASE_FILE), ENVELOPE_LIMIT)?;
    let document = document(&bytes).ok_or_else(|| OpError::NoRelease { path: path.join(RELEASE_FILE) })?;
    let Blob { size, sha256 } = Blob { size: bytes.len() as u64, sha256: Digest::of(&bytes) };
    let file = |name: &str, size, sha256| ArtifactFile { name: name.to_owned(), size, sha256 };
    let files = vec![
        file(RELEASE_FILE, size, sha256),
        file(INDEX_FILE, document.index.size, document.index.sha256),
        file(CHUNKS_FILE, document.chunks.size, document.chunks.sha256),
    ];
    let allocated = files.iter().map(|file| Ok(sizes(&path.join(&file.name))?.1)).sum::<Result<u64, OpError>>()?;
    Ok(Artifact {
        format: ARTIFACT.to_owned(),
        path: shown.to_owned(),
        size: files.iter().map(|file| file.size).sum(),
        allocated,
        sha256: document_digest(path),
        files,
        platforms: Vec::new(),
    })
}

/// Returns the document in an envelope. Its signatures are not looked at: it says what its own directory holds.
pub fn document(envelope: &[u8]) -> Option<Release> {
    let envelope = Envelope::parse(envelope).ok()?;
    if envelope.payload_type != Release::TYPE {
        return None;
    }
    let release: Release = serde_json::from_slice(&envelope.payload).ok()?;
    (release.format == FORMAT && release.index.size <= update::INDEX_LIMIT).then_some(release)
}

/// A release whose index was checked against its document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRelease {
    /// The document. Nobody has looked at its signatures.
    pub document: Release,
    /// The chunk index.
    pub index: ChunkIndex,
}

/// Opens the release in the directory at `path`.
///
/// # Errors
/// When a file cannot be read, is not what it should be, or belongs to another release.
pub fn open(path: &Path) -> Result<OpenRelease, OpError> {
    let file = path.join(RELEASE_FILE);
    let bytes = fs::read(&file, ENVELOPE_LIMIT)?;
    let document = document(&bytes).ok_or(OpError::NoRelease { path: file })?;
    let file = path.join(INDEX_FILE);
    let bytes = fs::read(&file, document.index.size)?;
    if Digest::of(&bytes) != document.index.sha256 {
        return Err(OpError::OtherRelease { path: file });
    }
    let index = ChunkIndex::parse(&bytes).map_err(|source| OpError::ChunkIndex { path: file.clone(), source })?;
    let same = index.slot_size() == document.slot.size && index.chunks_size() == document.chunks.size;
    if same { Ok(OpenRelease { document, index }) } else { Err(OpError::OtherRelease { path: file }) }
}
