//! A published tree over HTTP(S): `channels/CHANNEL/NAME-ARCH.json`, `keys/VERSION.json` and, for each release, a directory
//! `NAME-VERSION-ARCH.update` with its envelope, chunk index and chunks.

use ksos_formats::Digest;
use ksos_formats::update::fetch::Range;
use ksos_formats::update::{self, Blob};

use super::client::{Client, Request, Response};
use super::fetch::{RemoteBlob, Sender, Size, document};
use super::settings::Credentials;
use super::url::{Url, encode};
use super::{ChannelName, Served, Sink, Source, SourceError};

/// Media types of documents.
const JSON: &str = "application/json, application/octet-stream;q=0.9, */*;q=0.5";

/// A published tree.
#[derive(Debug)]
pub(super) struct Tree {
    sender: TreeSender,
    base: Url,
    release: Option<Url>,
    chunks: Option<RemoteBlob>,
}

struct TreeSender {
    client: Client,
    credentials: Credentials,
}

impl std::fmt::Debug for TreeSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TreeSender").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Sender for TreeSender {
    fn send(&mut self, request: &Request<'_>) -> Result<Response, SourceError> {
        self.client.get(&Request { authorization: self.credentials.value(), ..*request })
    }

    fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    fn credentials(&self) -> &'static str {
        self.credentials.words()
    }
}

impl Tree {
    pub(super) fn new(client: Client, base: Url, credentials: Credentials) -> Self {
        Tree { sender: TreeSender { client, credentials }, base, release: None, chunks: None }
    }

    fn envelope(&mut self, url: &Url) -> Result<Vec<u8>, SourceError> {
        Ok(document(&mut self.sender, url, JSON, Size::AtMost(update::ENVELOPE_LIMIT))?.bytes)
    }

    fn file(&self, name: &str) -> Result<Url, SourceError> {
        Ok(self.release.as_ref().ok_or(SourceError::NotOpen)?.below(name))
    }
}

impl Source for Tree {
    fn channel(&mut self, name: &ChannelName) -> Result<Vec<u8>, SourceError> {
        let path = update::channel_path(&name.channel, &name.name, name.arch);
        self.envelope(&self.base.below(&path))
    }

    fn keys(&mut self, version: u64) -> Result<Option<Vec<u8>>, SourceError> {
        match self.envelope(&self.base.below(&update::keys_path(version))) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(SourceError::NotFound(_)) => Ok(None),
            // Object stores that do not list say so of what does not exist. Whoever can forge it can forge a 404.
            Err(SourceError::NotAllowed { status: 403, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open_release(&mut self, name: &str) -> Result<Vec<u8>, SourceError> {
        (self.release, self.chunks) = (None, None);
        // A version may have a `+`, which some servers take for a space.
        let directory = self.base.below(&encode(&format!("{name}{}", update::RELEASE_SUFFIX)));
        let bytes = self.envelope(&directory.below(update::RELEASE_FILE))?;
        self.release = Some(directory);
        Ok(bytes)
    }

    fn index(&mut self, blob: &Blob) -> Result<Vec<u8>, SourceError> {
        let url = self.file(update::INDEX_FILE)?;
        verified(&mut self.sender, &url, blob, update::INDEX_LIMIT)
    }

    fn chunks(&mut self, blob: &Blob, range: Range, sink: &mut Sink<'_>) -> Result<Served, SourceError> {
        let url = self.file(update::CHUNKS_FILE)?;
        let chunks = self.chunks.get_or_insert_with(|| RemoteBlob::new(url, blob.size));
        chunks.size = blob.size;
        chunks.range(&mut self.sender, range, sink)
    }
}

/// Gets a blob of at most `limit` bytes and compares size and digest.
pub(super) fn verified(sender: &mut dyn Sender, url: &Url, blob: &Blob, limit: u64) -> Result<Vec<u8>, SourceError> {
    if blob.size > limit {
        return Err(SourceError::Large { url: url.to_string(), limit });
    }
    let bytes = document(sender, url, "*/*", Size::Exactly(blob.size))?.bytes;
    let found = Digest::of(&bytes);
    if found != blob.sha256 {
        return Err(SourceError::Digest { url: url.to_string(), expected: blob.sha256, found });
    }
    Ok(bytes)
}
