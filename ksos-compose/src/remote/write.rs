//! Writing: what was made here is sent while the build goes on: blobs first, then the manifest that names them. Two
//! machines may write the same step at once: blobs have the names of their contents, and either manifest is right.
//!
//! Memory holds names and digests of what waits, and a compressor's window for each worker; bytes are read from the
//! cache, and compressed into a temporary file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};
use ksos_formats::digest::Hasher;
use ksos_formats::update::{self, Envelope};
use tempfile::NamedTempFile;

use super::record::{self, COMPRESSED, CONTENT_DIGEST, CONTENT_SIZE, PLAIN};
use super::{Remote, RemoteUse, lock};
use crate::cache::{Blob, CacheError};
use crate::effects::clock;
use crate::effects::fs::{self, Context, FsError};
use crate::graph::{Description, Outputs};
use crate::manifest::CacheMode;
use crate::registry::push::{Artifact, Layer, push};
use crate::registry::{Registry, RegistryError};
use crate::sign::{SignError, sign_envelope};
use crate::source::oci::Action;

/// Steps that are sent at once.
const WORKERS: usize = 3;
/// Level of compression: fast, for most of what it reaches.
const LEVEL: i32 = 3;
/// Below this size in bytes, compressing does not pay.
const SMALL: u64 = 4096;
/// Bytes of each of the parts that are tried before the whole is compressed.
const SAMPLE: usize = 64 << 10;

/// What a step gave, to be written.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Name of the step, for people.
    pub step: String,
    /// What it is.
    pub description: Description,
    /// What it gave. The blobs are in the cache.
    pub outputs: Outputs,
    /// Its content was known before: whoever asks for it needs no record.
    pub download: bool,
}

/// The workers, and what they are given.
pub(super) struct Writer {
    waiting: Sender<Upload>,
    done: Receiver<u64>,
    /// Bytes of all that was given to them.
    total: u64,
    workers: Vec<JoinHandle<()>>,
}

/// A step cannot be written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// A blob as it is sent. The temporary file lives as long.
struct Prepared {
    layer: Layer<'static>,
    _temporary: Option<NamedTempFile>,
}

impl Remote {
    /// Takes what a step gave, to be written in the background. Does nothing where nothing is written.
    pub fn write(self: &Arc<Self>, upload: Upload) {
        if self.settings.mode != CacheMode::ReadWrite || !(self.signs() || upload.download) {
            return;
        }
        if !self.writing.is_on() {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut writer = lock(&self.writer);
        let writer = writer.get_or_insert_with(|| self.start());
        writer.total += bytes(&upload);
        // It fails when every worker is gone, which `finish` sees.
        let _ = writer.waiting.send(upload);
    }

    fn start(self: &Arc<Self>) -> Writer {
        let ((waiting, uploads), (tell, done)) = (unbounded::<Upload>(), unbounded());
        let worker = |_| {
            let (remote, uploads, tell) = (self.clone(), uploads.clone(), tell.clone());
            std::thread::spawn(move || {
                for upload in uploads {
                    remote.write_one(&upload);
                    let _ = tell.send(bytes(&upload));
                }
            })
        };
        Writer { waiting, done, total: 0, workers: (0..WORKERS).map(worker).collect() }
    }

    /// Waits until all is written, and says what this remote cache did.
    pub fn finish(&self) -> RemoteUse {
        let writer = lock(&self.writer).take();
        if let Some(Writer { waiting, done, total, workers }) = writer {
            drop(waiting);
            let mut task = self.progress.start(&format!("writing to remote cache {}", self.name()), Some(total));
            // It ends when the last worker does.
            done.iter().for_each(|bytes| task.advance(bytes));
            task.finish();
            for worker in workers {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        }
        let load = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
        RemoteUse {
            place: self.name(),
            steps: Vec::new(),
            fetched: load(&self.fetched),
            written: load(&self.written),
            sent: load(&self.sent),
            unwritten: load(&self.unwritten),
        }
    }

    fn write_one(&self, upload: &Upload) {
        if !self.writing.is_on() {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match self.send(upload) {
            Ok(None) => self.writing.works(),
            Ok(Some(sent)) => {
                self.writing.works();
                self.written.fetch_add(1, Ordering::Relaxed);
                self.sent.fetch_add(sent, Ordering::Relaxed);
            }
            Err(error) => {
                self.unwritten.fetch_add(1, Ordering::Relaxed);
                match error {
                    WriteError::Registry(error) => self.failed(&self.writing, &upload.step, &error),
                    error => self.warn(&format!("{} is not written: {error}", upload.step)),
                }
            }
        }
    }

    /// Sends a step; `None` when the registry has it.
    fn send(&self, upload: &Upload) -> Result<Option<u64>, WriteError> {
        let registry = Registry::new(&self.upload, &self.registries, &self.settings.place, Action::Push);
        let tag = record::tag(&upload.description.key());
        if self.has(&registry, &tag, upload)? {
            return Ok(None);
        }
        let mut prepared = Vec::new();
        for blob in upload.outputs.values().map(|blob| (blob.digest, blob)).collect::<BTreeMap<_, _>>().values() {
            prepared.push(self.prepare(blob, upload.download)?);
        }
        let layers = prepared.iter().map(|prepared| prepared.layer.clone()).collect();
        let mut artifact = Artifact::new(record::ARTIFACT, layers);
        artifact.annotations.insert("org.opencontainers.image.title".to_owned(), upload.step.clone());
        if let Some(signer) = &self.settings.signer {
            let expires = self.settings.valid_for.map(|time| clock::now_seconds().saturating_add(time));
            let mut envelope = Envelope::new(&record::record(&upload.description, &upload.outputs, expires));
            sign_envelope(&mut envelope, signer.as_ref())?;
            let text = String::from_utf8_lossy(&envelope.to_json()).into_owned();
            artifact.annotations.insert(record::RECORD.to_owned(), text);
        }
        Ok(Some(push(&registry, &artifact, Some(&tag))?.sent))
    }

    /// Whether the registry has this step, as another machine that trusts the same would see it.
    fn has(&self, registry: &Registry<'_>, tag: &str, upload: &Upload) -> Result<bool, WriteError> {
        if lock(&self.lost).contains(&upload.description.key()) {
            return Ok(false);
        }
        let Some(found) = registry.manifest(tag)? else { return Ok(false) };
        let Ok(manifest) = record::parse(&found.bytes) else { return Ok(false) };
        let stored = record::stored(&manifest);
        if !upload.outputs.values().all(|blob| stored.contains_key(&blob.digest)) {
            return Ok(false);
        }
        if !self.signs() {
            return Ok(true);
        }
        let trusted = &self.settings.trusted;
        let believed = record::believed(&manifest, &upload.description, trusted, clock::now_seconds());
        let same = |outputs: BTreeMap<String, update::Blob>| {
            outputs == record::record(&upload.description, &upload.outputs, None).outputs
        };
        Ok(believed.is_ok_and(same))
    }

    /// Makes a layer of a blob: compressed where that pays. A download stays as it is, so that it is found by its digest.
    fn prepare(&self, blob: &Blob, plain: bool) -> Result<Prepared, WriteError> {
        let file = fs::open(&blob.path)?;
        if !plain && pays(&file, blob.size).context("read", &blob.path)? {
            let mut temporary = self.cache.temporary()?;
            let compressed = compress(file, &mut temporary).context("compress", &blob.path)?;
            if compressed.size < blob.size {
                let path = temporary.path().to_owned();
                let mut layer = Layer::file(COMPRESSED, None, compressed, path);
                layer.annotations.insert(CONTENT_DIGEST.to_owned(), blob.digest.hex());
                layer.annotations.insert(CONTENT_SIZE.to_owned(), blob.size.to_string());
                return Ok(Prepared { layer, _temporary: Some(temporary) });
            }
        }
        let content = update::Blob { size: blob.size, sha256: blob.digest };
        Ok(Prepared { layer: Layer::file(PLAIN, None, content, blob.path.clone()), _temporary: None })
    }
}

fn bytes(upload: &Upload) -> u64 {
    upload.outputs.values().map(|blob| blob.size).sum()
}

/// Tries beginning, middle and end: a file whose parts do not shrink by a tenth is compressed already.
fn pays(file: &File, size: u64) -> io::Result<bool> {
    if size < SMALL {
        return Ok(false);
    }
    let (mut plain, mut compressed) = (0, 0);
    let last = size.saturating_sub(SAMPLE as u64);
    for start in [0, last / 2, last] {
        let mut sample = vec![0; SAMPLE];
        let count = file.read_at(&mut sample, start)?;
        plain += count;
        compressed += zstd::bulk::compress(&sample[..count], 1)?.len();
    }
    Ok(compressed * 10 < plain * 9)
}

/// Compresses a file; returns size and digest of the result.
fn compress(file: File, to: &mut NamedTempFile) -> io::Result<update::Blob> {
    let hashed = Hashed { to, hasher: Hasher::new(), size: 0 };
    let mut encoder = zstd::stream::write::Encoder::new(hashed, LEVEL)?;
    io::copy(&mut BufReader::with_capacity(1 << 17, file), &mut encoder)?;
    let Hashed { hasher, size, .. } = encoder.finish()?;
    Ok(update::Blob { size, sha256: hasher.finish() })
}

/// Hashes what is written.
struct Hashed<'a> {
    to: &'a mut NamedTempFile,
    hasher: Hasher,
    size: u64,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
