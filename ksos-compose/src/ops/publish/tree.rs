//! A published tree: a directory that any HTTP server can serve.
//!
//! ```text
//! NAME-VERSION-ARCH.update/{slot.chunks, slot.index, release.json}
//! channels/CHANNEL/NAME-ARCH.json
//! keys/VERSION.json
//! ```
//!
//! Every file appears under its name whole; of a release, the document comes last.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ksos_formats::digest::Hasher;
use ksos_formats::update::{self, Blob, ENVELOPE_LIMIT, RELEASE_FILE, RELEASE_SUFFIX};

use super::release::LocalRelease;
use super::{Destination, Pointer, PublishError};
use crate::effects::fs::{self, AtomicFile, Context};
use crate::effects::progress::Progress;
use crate::ops::OpError;
use crate::registry::hash_file;

/// A directory with releases.
pub struct Tree<'a> {
    root: PathBuf,
    progress: &'a dyn Progress,
}

impl std::fmt::Debug for Tree<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("root", &self.root).finish_non_exhaustive()
    }
}

impl<'a> Tree<'a> {
    /// Returns the tree at `root`, which is made when it is missing.
    pub fn new(root: &Path, progress: &'a dyn Progress) -> Self {
        Tree { root: root.to_owned(), progress }
    }

    fn path(&self, pointer: &Pointer) -> PathBuf {
        self.root.join(match pointer {
            Pointer::Channel { channel, name, arch } => update::channel_path(channel, name, *arch),
            Pointer::Keys(version) => update::keys_path(*version),
            Pointer::Release(name) => format!("{name}{RELEASE_SUFFIX}/{RELEASE_FILE}"),
        })
    }

    /// Copies a file unless it is there. Returns the bytes written.
    fn copy(&self, name: &str, from: &Path, to: &Path, blob: &Blob) -> Result<u64, OpError> {
        let there = fs::metadata(to).is_ok_and(|metadata| metadata.is_file() && metadata.len() == blob.size);
        if there && hash_file(to)? == *blob {
            return Ok(0);
        }
        let mut task = self.progress.start(name, Some(blob.size));
        let mut source = fs::open(from)?;
        let mut target = AtomicFile::create(to)?;
        let (mut hasher, mut size) = (Hasher::new(), 0);
        let mut buffer = vec![0; 1 << 18];
        loop {
            let count = source.read(&mut buffer).context("read", from)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            target.write_all(&buffer[..count]).context("write", to)?;
            size += count as u64;
            task.advance(count as u64);
        }
        if (Blob { size, sha256: hasher.finish() }) != *blob {
            return Err(PublishError::File { path: from.to_owned(), reason: "changed meanwhile".to_owned() }.into());
        }
        target.commit(0o644)?;
        task.finish();
        Ok(size)
    }
}

impl Destination for Tree<'_> {
    fn place(&self, pointer: &Pointer) -> String {
        self.path(pointer).display().to_string()
    }

    fn document(&self, pointer: &Pointer) -> Result<Option<Vec<u8>>, OpError> {
        match fs::read(&self.path(pointer), ENVELOPE_LIMIT) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn put_release(&self, release: &LocalRelease) -> Result<u64, OpError> {
        let pointer = Pointer::Release(release.name());
        let document = self.path(&pointer);
        let mut bytes = 0;
        for (name, blob, from) in release.blobs() {
            let title = format!("{}/{name}", release.name());
            bytes += self.copy(&title, &from, &document.with_file_name(name), &blob)?;
        }
        if self.document(&pointer)?.as_deref() != Some(release.envelope.as_slice()) {
            fs::write_atomic(&document, &release.envelope)?;
            bytes += release.envelope.len() as u64;
        }
        Ok(bytes)
    }

    fn put_document(&self, pointer: &Pointer, envelope: &[u8]) -> Result<(), OpError> {
        Ok(fs::write_atomic(&self.path(pointer), envelope)?)
    }
}
