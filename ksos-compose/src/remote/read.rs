//! Reading: records when a step is decided on, blobs when they are needed.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ksos_formats::Digest;
use ksos_formats::update;

use super::record::{self, RecordError, Stored};
use super::{Known, Remote, lock};
use crate::cache::Blob;
use crate::effects::net::FetchError;
use crate::effects::{clock, fs};
use crate::graph::{self, Description, Outputs};
use crate::registry::RegistryError;

/// The largest window of a compressed blob, as a power of two of bytes: what `zstd` takes without being told.
const WINDOW: u32 = 27;

/// A blob cannot be had.
#[derive(Debug, thiserror::Error)]
enum BlobError {
    /// It cannot be fetched.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What is stored is not what it should be.
    #[error("blob {digest}: {reason}")]
    Content {
        /// Digest of the content.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
}

impl Remote {
    /// Looks up what a step gives. `known` is what this machine knows of it, whose blobs it has lost; without that, only a
    /// record that can be believed counts. The blobs are not fetched.
    pub fn look_up(&self, step: &str, description: &Description, known: Option<Outputs>) -> Option<Outputs> {
        // Without a key that is trusted, only what is known can be asked for.
        if !self.reading.is_on() || (known.is_none() && !self.trusts()) {
            return None;
        }
        let key = description.key();
        if let Some(earlier) = lock(&self.looked_up).get(&key) {
            return earlier.as_ref().map(|known| known.outputs.clone());
        }
        let found = match self.registry(&self.ask).manifest(&record::tag(&key)) {
            Ok(found) => found,
            Err(error) => {
                self.failed(&self.reading, step, &error);
                return None;
            }
        };
        self.reading.works();
        let found = found.and_then(|found| match self.understand(&found.bytes, description, known) {
            Ok(known) => Some(Arc::new(known)),
            Err(error) => {
                self.warn(&format!("{step} is ignored: {error}"));
                None
            }
        });
        let outputs = found.as_ref().map(|known| known.outputs.clone());
        lock(&self.looked_up).insert(key, found);
        outputs
    }

    fn understand(
        &self,
        bytes: &[u8],
        description: &Description,
        known: Option<Outputs>,
    ) -> Result<Known, RecordError> {
        let is_new = known.is_none();
        let manifest = record::parse(bytes)?;
        let stored = record::stored(&manifest);
        let outputs = match known {
            Some(outputs) => outputs,
            None => {
                let now = clock::now_seconds();
                let believed = record::believed(&manifest, description, &self.settings.trusted, now)?;
                let blob = |blob: update::Blob| {
                    let update::Blob { size, sha256 } = blob;
                    Blob { digest: sha256, size, path: self.cache.blob_path(&sha256) }
                };
                believed.into_iter().map(|(name, output)| (name, blob(output))).collect()
            }
        };
        let lacks = |blob: &&Blob| {
            !stored.contains_key(&blob.digest) && self.cache.blob(&blob.digest, Some(blob.size)).is_none()
        };
        if let Some(blob) = outputs.values().find(lacks) {
            return Err(RecordError::Blob(blob.digest));
        }
        if is_new {
            // The next build needs nobody to tell it so. A record that cannot be written costs a question.
            let _ = graph::record(&self.cache, &description.key(), &description.kind, &outputs);
        }
        Ok(Known { outputs, stored })
    }

    /// Brings the outputs of a step into the cache; `false` when they cannot be had.
    pub fn bring(&self, step: &str, description: &Description, outputs: &Outputs) -> bool {
        let key = description.key();
        let known = lock(&self.looked_up).get(&key).cloned().flatten();
        let stored = known.as_ref().map(|known| &known.stored);
        let is_here = outputs.values().all(|blob| self.bring_blob(step, blob, stored));
        if !is_here {
            lock(&self.lost).insert(key);
            lock(&self.looked_up).insert(key, None);
        }
        is_here
    }

    /// Brings the outputs of a step that was looked up into the cache; `false` when they cannot be had.
    pub fn bring_again(&self, step: &str, outputs: &Outputs) -> bool {
        let known: Vec<Arc<Known>> = lock(&self.looked_up).values().flatten().cloned().collect();
        let known = known.iter().find(|known| known.outputs == *outputs);
        known.is_some_and(|known| outputs.values().all(|blob| self.bring_blob(step, blob, Some(&known.stored))))
    }

    fn bring_blob(&self, step: &str, blob: &Blob, stored: Option<&BTreeMap<Digest, Stored>>) -> bool {
        if self.cache.blob(&blob.digest, Some(blob.size)).is_some() {
            return true;
        }
        let Some(stored) = stored.and_then(|stored| stored.get(&blob.digest)).filter(|_| self.reading.is_on()) else {
            return false;
        };
        match self.fetch(blob, stored) {
            Ok(()) => {
                self.reading.works();
                true
            }
            Err(BlobError::Registry(error)) if !matches!(error, RegistryError::Fetch(FetchError::NotFound { .. })) => {
                self.failed(&self.reading, step, &error);
                false
            }
            Err(error) => {
                self.warn(&format!("{step} is ignored: {}", error.to_string().replace('\n', " ")));
                false
            }
        }
    }

    /// Brings bytes whose digest is known from elsewhere; `false` when they are not there.
    pub fn bring_known(&self, name: &str, digest: Digest, size: u64) -> bool {
        let blob = Blob { digest, size, path: self.cache.blob_path(&digest) };
        let stored = Stored { blob: update::Blob { size, sha256: digest }, compressed: false };
        if !self.reading.is_on() {
            return false;
        }
        match self.fetch(&blob, &stored) {
            Ok(()) => {
                self.reading.works();
                true
            }
            Err(BlobError::Registry(RegistryError::Fetch(FetchError::NotFound { .. }))) => false,
            Err(BlobError::Registry(error)) => {
                self.failed(&self.reading, name, &error);
                false
            }
            Err(error) => {
                self.warn(&format!("{name} is ignored: {error}"));
                false
            }
        }
    }

    fn fetch(&self, wanted: &Blob, stored: &Stored) -> Result<(), BlobError> {
        // Nothing is stored compressed that becomes larger by it.
        let most = wanted.size;
        if stored.blob.size > most || (!stored.compressed && stored.blob.size != most) {
            let reason = format!("{} bytes are stored for {most}", stored.blob.size);
            return Err(BlobError::Content { digest: wanted.digest, reason });
        }
        let fetched = self.registry(&self.net).blob(&stored.blob)?;
        self.fetched.fetch_add(stored.blob.size, Ordering::Relaxed);
        if !stored.compressed {
            return Ok(());
        }
        let result = self.unpack(&fetched, wanted);
        // It was a means only.
        let _ = fs::remove_file(&fetched.path);
        result.map_err(|error| BlobError::Content { digest: wanted.digest, reason: error.to_string() })
    }

    /// Unpacks a blob; at most the size that is wanted is written.
    fn unpack(&self, compressed: &Blob, wanted: &Blob) -> io::Result<()> {
        let file = fs::open(&compressed.path).map_err(io::Error::other)?;
        let mut decoder = zstd::stream::read::Decoder::new(file)?;
        decoder.window_log_max(WINDOW)?;
        let mut writer = self.cache.writer().map_err(io::Error::other)?;
        io::copy(&mut decoder.take(wanted.size.saturating_add(1)), &mut writer)?;
        if writer.size() != wanted.size {
            return Err(io::Error::other(format!("it has not the size that it should have, {} bytes", wanted.size)));
        }
        writer.commit_as(&wanted.digest)
    }
}
