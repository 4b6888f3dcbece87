//! Pushes artifacts (OCI distribution specification 1.1, "Push"): what the registry has is not sent again, a broken
//! upload goes on where it broke, and the manifest comes last.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use ksos_formats::Digest;
use ksos_formats::update::Blob;

use super::manifest::{Descriptor, EMPTY, EMPTY_BYTES, INDEX, Index, MANIFEST, Manifest, TITLE};
use super::{Registry, RegistryError, parse_digest};
use crate::effects::fs;
use crate::effects::net::{Body, SendFailure, Verb};
use crate::effects::progress::Task;

/// How long a registry may take to answer what changes something: it may copy a blob to its storage first.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The bytes of a blob.
#[derive(Debug, Clone)]
pub enum Content<'a> {
    /// In memory.
    Bytes(Cow<'a, [u8]>),
    /// In a file.
    File(PathBuf),
}

/// One blob of an artifact.
#[derive(Debug, Clone)]
pub struct Layer<'a> {
    /// Media type.
    pub media_type: String,
    /// Name of its file, for people.
    pub title: Option<String>,
    /// Further annotations.
    pub annotations: BTreeMap<String, String>,
    /// Size and digest of the bytes.
    pub blob: Blob,
    /// The bytes.
    pub content: Content<'a>,
}

impl<'a> Layer<'a> {
    /// Returns a layer of some bytes.
    pub fn bytes(media_type: &str, title: Option<&str>, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        let bytes = bytes.into();
        let blob = Blob { size: bytes.len() as u64, sha256: Digest::of(&bytes) };
        Layer::new(media_type, title, blob, Content::Bytes(bytes))
    }

    /// Returns a layer of a file, whose size and digest are known.
    pub fn file(media_type: &str, title: Option<&str>, blob: Blob, path: PathBuf) -> Self {
        Layer::new(media_type, title, blob, Content::File(path))
    }

    fn new(media_type: &str, title: Option<&str>, blob: Blob, content: Content<'a>) -> Self {
        let (media_type, title) = (media_type.to_owned(), title.map(str::to_owned));
        Layer { media_type, title, annotations: BTreeMap::new(), blob, content }
    }

    /// Returns what a manifest says of it.
    pub fn descriptor(&self) -> Descriptor {
        let mut descriptor = Descriptor::new(&self.media_type, &self.blob);
        descriptor.annotations = self.annotations.clone();
        descriptor.annotations.extend(self.title.iter().map(|title| (TITLE.to_owned(), title.clone())));
        descriptor
    }
}

/// Something that a registry can hold: a release, a channel, a disk image.
#[derive(Debug, Clone)]
pub struct Artifact<'a> {
    /// What kind of thing it is, unless its configuration says it.
    pub artifact_type: Option<String>,
    /// Its configuration; none: an empty one.
    pub config: Option<Layer<'a>>,
    /// Its blobs.
    pub layers: Vec<Layer<'a>>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// The manifest that it is about.
    pub subject: Option<Descriptor>,
}

impl<'a> Artifact<'a> {
    /// Returns an artifact of a kind, with these blobs.
    pub fn new(artifact_type: &str, layers: Vec<Layer<'a>>) -> Self {
        let artifact_type = Some(artifact_type.to_owned());
        Artifact { artifact_type, config: None, layers, annotations: BTreeMap::new(), subject: None }
    }

    /// Returns its manifest: the same artifact has the same bytes.
    pub fn manifest(&self) -> Vec<u8> {
        let empty = || Descriptor::of(EMPTY, EMPTY_BYTES);
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: self.artifact_type.clone(),
            config: self.config.as_ref().map_or_else(empty, Layer::descriptor),
            layers: self.layers.iter().map(Layer::descriptor).collect(),
            subject: self.subject.clone(),
            annotations: self.annotations.clone(),
        };
        manifest.to_bytes()
    }
}

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Bytes of blobs that were sent.
    pub sent: u64,
    /// Whether nothing was to be done: the reference led there already.
    pub unchanged: bool,
}

/// Pushes an artifact: its blobs, then its manifest under `tag`, or by its digest alone.
///
/// # Errors
/// [`RegistryError`]; a tag that there was leads to where it led.
pub fn push(registry: &Registry<'_>, artifact: &Artifact<'_>, tag: Option<&str>) -> Result<Pushed, RegistryError> {
    let manifest = artifact.manifest();
    let digest = Digest::of(&manifest);
    let by_digest = format!("sha256:{digest}");
    if registry.digest_of(tag.unwrap_or(&by_digest))? == Some(digest) {
        return Ok(Pushed { digest, sent: 0, unchanged: true });
    }
    let mut sent = 0;
    let empty = Layer::bytes(EMPTY, None, EMPTY_BYTES);
    let config = artifact.config.as_ref().unwrap_or(&empty);
    for layer in std::iter::once(config).chain(&artifact.layers) {
        sent += registry.push_blob(layer)?;
    }
    registry.put_manifest(&manifest, tag.unwrap_or(&by_digest), artifact)?;
    Ok(Pushed { digest, sent, unchanged: false })
}

impl Registry<'_> {
    /// Sends a blob, unless the registry has it. Returns how many bytes of it were sent.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn push_blob(&self, layer: &Layer<'_>) -> Result<u64, RegistryError> {
        let blob = &layer.blob;
        let url = self.blob_url(&blob.sha256);
        let name = match &layer.title {
            Some(title) => format!("{title} to {}", self.name()),
            None => self.blob_name(blob),
        };
        let answered = self.send(&name, &url, Verb::Head, &[], Body::None, &[200, 404])?;
        if answered.status == 200 {
            return Ok(0);
        }
        let file = match &layer.content {
            Content::Bytes(_) => None,
            Content::File(path) => Some(fs::open(path)?),
        };
        let mut task = self.net.task(&name, Some(blob.size));
        let mut upload = Upload { registry: self, name: &name, layer, file: file.as_ref(), session: None, done: 0 };
        self.net.attempts((&name, &url), task.as_mut(), |task| upload.attempt(task))?;
        task.finish();
        Ok(blob.size)
    }

    /// Puts a manifest; where the registry does not keep the list of what refers to its subject, keeps it.
    fn put_manifest(&self, bytes: &[u8], reference: &str, artifact: &Artifact<'_>) -> Result<(), RegistryError> {
        let url = self.put(bytes, reference, MANIFEST)?;
        let Some(subject) = &artifact.subject else { return Ok(()) };
        // "If the registry does not set the OCI-Subject header [...] the client MUST: pull the current referrers list
        // using the referrers tag schema, [...] push the modified or created image index" (distribution specification
        // 1.1, "Pushing Manifests with Subject").
        if url.header("oci-subject").is_some() {
            return Ok(());
        }
        let tag = subject.digest.replacen(':', "-", 1);
        let mut index = match self.manifest(&tag)? {
            Some(found) => Index::parse(&found.bytes)
                .map_err(|reason| RegistryError::Document { url: self.manifest_url(&tag), reason })?,
            None => Index { schema_version: 2, media_type: INDEX.to_owned(), manifests: Vec::new() },
        };
        let mut entry = Descriptor::of(MANIFEST, bytes);
        entry.artifact_type = artifact.artifact_type.clone();
        entry.annotations = artifact.annotations.clone();
        if index.manifests.iter().any(|known| known.digest == entry.digest) {
            return Ok(());
        }
        index.manifests.push(entry);
        self.put(&index.to_bytes(), &tag, INDEX)?;
        Ok(())
    }

    /// Puts the bytes of a manifest or an index, and checks what the registry has stored.
    pub(super) fn put(
        &self,
        bytes: &[u8],
        reference: &str,
        media_type: &str,
    ) -> Result<crate::effects::net::Answered, RegistryError> {
        let url = self.manifest_url(reference);
        let name = format!("{}:{reference}", self.name());
        let headers = [("content-type", media_type.to_owned())];
        let answered = self.send(&name, &url, Verb::Put, &headers, Body::Bytes(bytes), &[200, 201, 202])?;
        let expected = Digest::of(bytes);
        match answered.header("docker-content-digest") {
            Some(text) if parse_digest(text) != Some(expected) => {
                let (expected, found) = (format!("sha256:{expected}"), format!("{text:.90}"));
                Err(RegistryError::Stored { url, expected, found })
            }
            _ => Ok(answered),
        }
    }
}

/// One blob on its way.
struct Upload<'a> {
    registry: &'a Registry<'a>,
    name: &'a str,
    layer: &'a Layer<'a>,
    file: Option<&'a File>,
    /// Where the rest is to go, once the registry has said.
    session: Option<String>,
    /// Bytes that the registry has, as it says.
    done: u64,
}

impl Upload<'_> {
    /// Begins, or goes on where the attempt before broke.
    fn attempt(&mut self, task: &mut dyn Task) -> Result<(), (SendFailure, bool)> {
        let before = self.done;
        self.ask_where().map_err(|failure| (failure, false))?;
        let (resumed, progressed) = (self.done > 0, self.done > before);
        match self.send_rest(task).and_then(|()| self.finish()) {
            // What the registry had of it may have been something else: all of it decides.
            Err(failure) if resumed && !failure.is_temporary() => {
                (self.session, self.done) = (None, 0);
                task.note(&format!("starting again at zero: {failure}"));
                let sent = self.ask_where().and_then(|()| self.send_rest(task)).and_then(|()| self.finish());
                sent.map_err(|failure| (failure, false))
            }
            result => result.map_err(|failure| (failure, progressed)),
        }
    }

    /// Asks how far an upload has come, or begins one.
    fn ask_where(&mut self) -> Result<(), SendFailure> {
        let session = self.session.take().filter(|_| self.layer.blob.size > 0);
        if let Some((location, end)) = session.and_then(|session| self.status(&session)) {
            (self.session, self.done) = (Some(location), end);
            return Ok(());
        }
        // "To obtain a session ID, perform a POST request to a URL in the following format: /v2/<name>/blobs/uploads/".
        let url = format!("{}/blobs/uploads/", self.registry.place.base());
        let answered = self.once(Verb::Post, &url, &[], Body::None, &[202], &mut |_| ())?;
        (self.session, self.done) = (Some(answered.location()?), 0);
        Ok(())
    }

    /// Returns where to go on, and from which byte; none when the registry has forgotten the upload. "To get the current
    /// status after a 416 error, issue a GET request to a URL <location>".
    fn status(&self, session: &str) -> Option<(String, u64)> {
        let answered = self.once(Verb::Get, session, &[], Body::None, &[204], &mut |_| ()).ok()?;
        let location = answered.location().unwrap_or_else(|_| session.to_owned());
        let last: u64 = answered.header("range")?.rsplit_once('-')?.1.parse().ok()?;
        // "0-0" is what of an upload is said that has nothing, too.
        let end = if last == 0 { 0 } else { last + 1 };
        (end <= self.layer.blob.size && end > 0).then_some((location, end))
    }

    /// Sends all that the registry has not, in one request.
    fn send_rest(&mut self, task: &mut dyn Task) -> Result<(), SendFailure> {
        let size = self.layer.blob.size;
        let (start, length) = (self.done, size - self.done);
        task.position(start);
        if length == 0 {
            return Ok(());
        }
        let Some(session) = self.session.clone() else { return Ok(()) };
        let mut headers = vec![("content-type", "application/octet-stream".to_owned())];
        if start > 0 {
            headers.push(("content-range", format!("{start}-{}", size - 1)));
        }
        let body = match (&self.layer.content, self.file) {
            (_, Some(file)) => Body::File { file, start, length },
            (Content::Bytes(bytes), None) => Body::Bytes(&bytes[start as usize..]),
            (Content::File(_), None) => unreachable!("a file is opened before it is sent"),
        };
        let answered =
            self.once(Verb::Patch, &session, &headers, body, &[202], &mut |count| task.position(start + count))?;
        self.session = Some(answered.location()?);
        Ok(())
    }

    /// Says what the blob's digest is. The registry compares.
    fn finish(&mut self) -> Result<(), SendFailure> {
        let Some(session) = self.session.clone() else { return Ok(()) };
        let separator = if session.contains('?') { '&' } else { '?' };
        let url = format!("{session}{separator}digest=sha256%3A{}", self.layer.blob.sha256);
        let headers = [("content-type", "application/octet-stream".to_owned())];
        self.once(Verb::Put, &url, &headers, Body::None, &[201, 204], &mut |_| ())?;
        Ok(())
    }

    fn once(
        &self,
        verb: Verb,
        url: &str,
        headers: &[(&'static str, String)],
        body: Body<'_>,
        expected: &[u16],
        sent: &mut dyn FnMut(u64),
    ) -> Result<crate::effects::net::Answered, SendFailure> {
        self.registry.once(self.name, url, (verb, headers, body), expected, sent)
    }
}
