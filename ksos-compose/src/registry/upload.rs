//! One blob to a registry (OCI distribution specification 1.1, "Pushing blobs"), however often it takes.
//!
//! What the registry has is not sent; what another repository of it has is mounted. Up to [`MONOLITHIC`] a blob goes in
//! one request, above that in one `PATCH` that goes on where it broke, or in pieces of [`CHUNK`] bytes for a registry that
//! takes no more at once (status 413). The registry compares the digest, and what it answers is compared here.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use ksos_formats::update::Blob;

use super::push::{Content, Layer};
use super::{Registry, RegistryError, hash_part, parse_digest};
use crate::effects::fs;
use crate::effects::net::{Answered, Body, FetchError, SendFailure, Verb};
use crate::effects::progress::Task;

/// Largest blob that goes in one request, in bytes: what is cheap to send again.
const MONOLITHIC: u64 = 4 << 20;
/// Size of a piece for a registry that takes only so much in a request, in bytes.
const CHUNK: u64 = 16 << 20;

/// How a blob came to be in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// It was there.
    Present,
    /// It was in another repository of the registry: this one.
    Mounted(String),
    /// It was sent.
    Sent,
}

impl Registry<'_> {
    /// Sends a blob, unless the registry has it. Returns how many bytes of it were sent.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn push_blob(&self, layer: &Layer<'_>) -> Result<u64, RegistryError> {
        let arrival = self.bring(layer, &AtomicBool::new(false))?;
        Ok(if arrival == Arrival::Sent { layer.blob.size } else { 0 })
    }

    /// Sends a blob, unless the registry has it; gives up soon after `cancel` becomes true.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn bring(&self, layer: &Layer<'_>, cancel: &AtomicBool) -> Result<Arrival, RegistryError> {
        let url = self.blob_url(&layer.blob.sha256);
        let name = match &layer.title {
            Some(title) => format!("{title} to {}", self.name()),
            None => self.blob_name(&layer.blob),
        };
        let answered = self.send(&name, &url, Verb::Head, &[], Body::None, &[200, 404])?;
        if answered.status == 200 {
            self.compare(&url, &layer.blob, &answered)?;
            return Ok(Arrival::Present);
        }
        let file = match &layer.content {
            Content::Bytes(_) => None,
            Content::File { path, .. } => Some(fs::open(path)?),
        };
        let mount = self.mounts.iter().find(|repository| self.has_elsewhere(repository, &layer.blob)).cloned();
        let mut task = self.net.task(&name, Some(layer.blob.size));
        let mut upload = Upload {
            registry: self,
            name: &name,
            layer,
            file: file.as_ref(),
            cancel,
            mount,
            session: None,
            done: 0,
            resumed: false,
            chunk: None,
            begun: false,
        };
        let sent = self.net.attempts((&name, &url), task.as_mut(), |task| upload.attempt(task));
        let (arrival, answered) = match sent {
            Ok(done) => done,
            Err(error) => return Err(changed(layer, error)),
        };
        self.compare(&url, &layer.blob, &answered)?;
        task.finish();
        Ok(arrival)
    }

    /// Holds what the registry says of a blob against what it is.
    fn compare(&self, url: &str, blob: &Blob, answered: &Answered) -> Result<(), RegistryError> {
        match answered.header("docker-content-digest") {
            Some(text) if parse_digest(text) != Some(blob.sha256) => Err(RegistryError::Stored {
                url: url.to_owned(),
                expected: format!("sha256:{}", blob.sha256),
                found: format!("{text:.90}"),
            }),
            _ => Ok(()),
        }
    }

    /// Whether another repository of the registry has a blob, and lets us see it.
    fn has_elsewhere(&self, repository: &str, blob: &Blob) -> bool {
        let place = crate::source::oci::Place { repository: repository.to_owned(), ..self.place.clone() };
        let url = format!("{}/blobs/sha256:{}", place.base(), blob.sha256);
        self.once("", &url, (Verb::Head, &[], Body::None), &[200], &mut |_| ()).is_ok()
    }
}

/// Says of an upload that failed whether its file is to blame: it is not what it was when its digest was taken.
fn changed(layer: &Layer<'_>, error: FetchError) -> RegistryError {
    if let (Content::File { path, offset }, FetchError::Send { .. }) = (&layer.content, &error) {
        match hash_part(path, *offset, layer.blob.size) {
            Ok(found) if found == layer.blob => {}
            Ok(_) => return RegistryError::Changed { path: path.clone(), expected: layer.blob.sha256 },
            Err(error) => return error.into(),
        }
    }
    error.into()
}

/// One blob on its way.
struct Upload<'a> {
    registry: &'a Registry<'a>,
    name: &'a str,
    layer: &'a Layer<'a>,
    file: Option<&'a File>,
    cancel: &'a AtomicBool,
    /// A repository that has it.
    mount: Option<String>,
    /// Where the rest is to go, once the registry has said.
    session: Option<String>,
    /// Bytes that the registry has, as it says.
    done: u64,
    /// Whether it has some of them from an attempt before.
    resumed: bool,
    /// Most bytes of one request, when the registry has a limit.
    chunk: Option<u64>,
    /// Whether there was an attempt before.
    begun: bool,
}

type Arrived = (Arrival, Answered);

impl Upload<'_> {
    /// Begins, or goes on where the attempt before broke.
    fn attempt(&mut self, task: &mut dyn Task) -> Result<Arrived, (SendFailure, bool)> {
        let before = self.done;
        match self.whole(task) {
            Ok(arrived) => Ok(arrived),
            Err(_) if self.cancel.load(Ordering::Relaxed) => {
                Err((FetchError::Cancelled { name: self.name.to_owned() }.into(), false))
            }
            Err(failure) if failure.status() == Some(413) && self.chunk.is_none() && self.layer.blob.size > CHUNK => {
                (self.session, self.done, self.chunk) = (None, 0, Some(CHUNK));
                task.note(&format!("in pieces of {} MiB: {failure}", CHUNK >> 20));
                self.whole(task).map_err(|failure| (failure, false))
            }
            // What the registry had of it may have been something else: all of it decides.
            Err(failure) if self.resumed && !failure.is_temporary() => {
                (self.session, self.done) = (None, 0);
                task.note(&format!("starting again at zero: {failure}"));
                self.whole(task).map_err(|failure| (failure, false))
            }
            Err(failure) => Err((failure, self.done > before)),
        }
    }

    /// Does everything that is left.
    fn whole(&mut self, task: &mut dyn Task) -> Result<Arrived, SendFailure> {
        // The answer to the attempt before may be what was lost.
        if std::mem::replace(&mut self.begun, true) {
            let url = self.registry.blob_url(&self.layer.blob.sha256);
            let answered = self.once(Verb::Head, &url, &[], Body::None, &[200, 404], &mut |_| ())?;
            if answered.status == 200 {
                return Ok((Arrival::Sent, answered));
            }
        }
        if let Some((answered, repository)) = self.ask_where()? {
            return Ok((Arrival::Mounted(repository), answered));
        }
        if self.done == 0 && self.layer.blob.size <= MONOLITHIC {
            task.position(0);
            let answered = self.finish(self.body(0, self.layer.blob.size), task)?;
            return Ok((Arrival::Sent, answered));
        }
        while self.done < self.layer.blob.size {
            self.send_more(task)?;
        }
        Ok((Arrival::Sent, self.finish(Body::None, task)?))
    }

    /// Asks how far an upload has come, or begins one; returns the answer when the blob is mounted.
    fn ask_where(&mut self) -> Result<Option<(Answered, String)>, SendFailure> {
        let session = self.session.take().filter(|_| self.layer.blob.size > MONOLITHIC);
        if let Some((location, end)) = session.and_then(|session| self.status(&session)) {
            (self.session, self.done, self.resumed) = (Some(location), end, true);
            return Ok(None);
        }
        (self.done, self.resumed) = (0, false);
        // "To obtain a session ID, perform a POST request to a URL in the following format: /v2/<name>/blobs/uploads/";
        // "?mount=<digest>&from=<other_name>" mounts a blob of another repository, or begins a session all the same.
        let mut url = format!("{}/blobs/uploads/", self.registry.place.base());
        let mount = self.mount.take();
        if let Some(from) = &mount {
            url += &format!("?mount=sha256%3A{}&from={}", self.layer.blob.sha256, from.replace('/', "%2F"));
        }
        let answered = self.once(Verb::Post, &url, &[], Body::None, &[201, 202], &mut |_| ())?;
        match (answered.status, mount) {
            (201, Some(from)) => Ok(Some((answered, from))),
            _ => {
                self.session = Some(answered.location()?);
                let least = answered.header("oci-chunk-min-length").and_then(|text| text.trim().parse().ok());
                self.chunk = self.chunk.map(|chunk| chunk.max(least.unwrap_or(0)));
                Ok(None)
            }
        }
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

    /// Sends all that the registry has not, or the next piece of it.
    fn send_more(&mut self, task: &mut dyn Task) -> Result<(), SendFailure> {
        let size = self.layer.blob.size;
        let (start, left) = (self.done, size - self.done);
        let length = self.chunk.map_or(left, |chunk| chunk.min(left));
        task.position(start);
        let session = self.session.clone().expect("an upload was begun");
        let mut headers = vec![("content-type", "application/octet-stream".to_owned())];
        if start > 0 || length < size {
            headers.push(("content-range", format!("{start}-{}", start + length - 1)));
        }
        let mut count = |count| task.position(start + count);
        let answered = self.once(Verb::Patch, &session, &headers, self.body(start, length), &[202], &mut count);
        let answered = answered.map_err(SendFailure::or_lost)?;
        self.session = Some(answered.location()?);
        self.done = start + length;
        Ok(())
    }

    fn body(&self, start: u64, length: u64) -> Body<'_> {
        match (&self.layer.content, self.file) {
            (Content::File { offset, .. }, Some(file)) => {
                Body::File { file, start: offset + start, length, cancel: self.cancel }
            }
            (Content::Bytes(bytes), _) => Body::Bytes(&bytes[start as usize..(start + length) as usize]),
            (Content::File { .. }, None) => unreachable!("a file is opened before it is sent"),
        }
    }

    /// Says what the blob's digest is, and sends it when it is small. The registry compares.
    fn finish(&self, body: Body<'_>, task: &mut dyn Task) -> Result<Answered, SendFailure> {
        let session = self.session.as_deref().expect("an upload was begun");
        let separator = if session.contains('?') { '&' } else { '?' };
        let url = format!("{session}{separator}digest=sha256%3A{}", self.layer.blob.sha256);
        let headers = [("content-type", "application/octet-stream".to_owned())];
        let mut count = |count| task.position(count);
        let answered = self.once(Verb::Put, &url, &headers, body, &[201, 204], &mut count);
        answered.map_err(SendFailure::or_lost)
    }

    fn once(
        &self,
        verb: Verb,
        url: &str,
        headers: &[(&'static str, String)],
        body: Body<'_>,
        expected: &[u16],
        sent: &mut dyn FnMut(u64),
    ) -> Result<Answered, SendFailure> {
        self.registry.once(self.name, url, (verb, headers, body), expected, sent)
    }
}
