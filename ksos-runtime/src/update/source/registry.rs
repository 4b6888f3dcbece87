//! A repository of an OCI registry (OCI distribution specification 1.1): channels and key sets by tag; a release by tag once,
//! and by digest from there on.

use ksos_formats::Digest;
use ksos_formats::update::cosign::Key;
use ksos_formats::update::fetch::Range;
use ksos_formats::update::{self, Blob};

use super::challenge::{self, Challenge};
use super::client::{Client, Request, Response};
use super::fetch::{Document, RemoteBlob, Sender, Size, document};
use super::manifest::{INDEX, MANIFEST, MANIFEST_LIMIT, Manifest, content_digest};
use super::settings::Credentials;
use super::tree::verified;
use super::url::{Origin, Scheme, Url, encode};
use super::{ChannelName, Served, Sink, Source, SourceError, signed};

/// Largest answer of a token server in bytes.
const TOKEN_ANSWER_LIMIT: u64 = 64 << 10;

/// A repository.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) sender: RegistrySender,
    cosign_keys: Vec<Key>,
    release: Option<Release>,
}

/// The open release.
#[derive(Debug)]
struct Release {
    url: Url,
    index: Blob,
    chunks: Blob,
    remote: Option<RemoteBlob>,
}

/// Sends requests to a registry, with a token when it wants one.
pub(super) struct RegistrySender {
    client: Client,
    /// `SCHEME://HOST/v2/REPOSITORY`.
    base: Url,
    repository: String,
    credentials: Credentials,
    /// Value of `Authorization` that was taken last.
    authorization: Option<String>,
}

impl std::fmt::Debug for RegistrySender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistrySender").field("client", &self.client).field("base", &self.base).finish_non_exhaustive()
    }
}

impl Sender for RegistrySender {
    fn send(&mut self, request: &Request<'_>) -> Result<Response, SourceError> {
        let authorization = self.authorization.clone();
        let response = self.client.get(&Request { authorization: authorization.as_deref(), ..*request })?;
        // Storage that a blob is redirected to has nothing to ask for.
        if response.head.status != 401 || response.url.origin != self.base.origin {
            return Ok(response);
        }
        let challenges: Vec<_> = response.head.fields("www-authenticate").flat_map(challenge::parse).collect();
        let Some(authorization) = self.answer(&challenges)? else { return Ok(response) };
        self.client.finish(response);
        let again = self.client.get(&Request { authorization: Some(&authorization), ..*request });
        self.authorization = Some(authorization);
        again
    }

    fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    fn credentials(&self) -> &'static str {
        self.credentials.words()
    }
}

impl RegistrySender {
    /// Returns the value of `Authorization` that answers a challenge; `None` when there is none to give.
    fn answer(&mut self, challenges: &[Challenge]) -> Result<Option<String>, SourceError> {
        if let Credentials::Bearer(value) = &self.credentials {
            return Ok(Some(value.clone()));
        }
        if let Some(bearer) = challenges.iter().find(|challenge| challenge.scheme == "bearer") {
            return self.token(bearer).map(Some);
        }
        let basic = challenges.iter().any(|challenge| challenge.scheme == "basic");
        Ok(self.credentials.value().filter(|_| basic).map(str::to_owned))
    }

    /// Gets a token (CNCF Distribution, "Token Authentication Specification"). The registry names the server that has
    /// tokens, so user name and password go there, but never in plain text when the registry is spoken to with TLS. The
    /// scope is ours: to pull from this repository.
    fn token(&mut self, challenge: &Challenge) -> Result<String, SourceError> {
        let invalid = |reason: String| SourceError::Document { url: self.base.to_string(), reason };
        let realm = challenge.parameter("realm").unwrap_or_default();
        let realm = Url::parse(realm).map_err(|reason| invalid(format!("its token server {realm:.120?}: {reason}")))?;
        if self.base.origin.scheme == Scheme::Https && realm.origin.scheme == Scheme::Http {
            return Err(invalid(format!("its token server {realm} has no TLS")));
        }
        let mut url = realm.clone();
        url.target.push(if url.target.contains('?') { '&' } else { '?' });
        if let Some(service) = challenge.parameter("service") {
            url.target += &format!("service={}&", encode(service));
        }
        url.target += &format!("scope={}", encode(&format!("repository:{}:pull", self.repository)));
        let mut sender = TokenSender { client: &mut self.client, credentials: &self.credentials };
        let answer = document(&mut sender, &url, "application/json", Size::AtMost(TOKEN_ANSWER_LIMIT))?;
        let token = challenge::token(&answer.bytes);
        let reason = "the answer has no token".to_owned();
        let token = token.ok_or(SourceError::Document { url: realm.to_string(), reason })?;
        Ok(format!("Bearer {token}"))
    }

    /// Gets a manifest or index by tag or digest; returns its digest as computed here.
    pub(super) fn manifest(&mut self, reference: &str, accept: &str) -> Result<(Vec<u8>, Digest), SourceError> {
        let url = self.manifest_url(reference);
        let Document { bytes, head } = document(self, &url, accept, Size::AtMost(MANIFEST_LIMIT))?;
        let found = Digest::of(&bytes);
        let asked = reference.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
        let said = head.field("docker-content-digest").and_then(content_digest);
        for expected in [asked, said].into_iter().flatten() {
            if found != expected {
                return Err(SourceError::Digest { url: url.to_string(), expected, found });
            }
        }
        Ok((bytes, found))
    }

    pub(super) fn manifest_url(&self, reference: &str) -> Url {
        self.base.below(&format!("manifests/{reference}"))
    }

    /// Gets what refers to a manifest with this `artifactType`, through the API for it; `None` where that is not.
    pub(super) fn referrers(&mut self, manifest: &Digest, kind: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let url = self.base.below(&format!("referrers/sha256:{manifest}?artifactType={}", encode(kind)));
        match document(self, &url, INDEX, Size::AtMost(MANIFEST_LIMIT)) {
            Ok(document) => Ok(Some(document.bytes)),
            // What registries without it answer.
            Err(
                SourceError::NotFound(_) | SourceError::Html(_) | SourceError::Status { status: 400 | 405 | 501, .. },
            ) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gets a blob and compares size and digest.
    pub(super) fn blob(&mut self, blob: &Blob, limit: u64) -> Result<Vec<u8>, SourceError> {
        let url = self.blob_url(blob);
        verified(self, &url, blob, limit)
    }

    fn blob_url(&self, blob: &Blob) -> Url {
        self.base.below(&format!("blobs/sha256:{}", blob.sha256))
    }
}

/// Asks for tokens.
struct TokenSender<'a> {
    client: &'a mut Client,
    credentials: &'a Credentials,
}

impl Sender for TokenSender<'_> {
    fn send(&mut self, request: &Request<'_>) -> Result<Response, SourceError> {
        self.client.get(&Request { authorization: self.credentials.value(), ..*request })
    }

    fn client(&mut self) -> &mut Client {
        self.client
    }

    fn credentials(&self) -> &'static str {
        self.credentials.words()
    }
}

/// Reads `HOST[:PORT]/REPOSITORY`: the registry's base URL and the name of the repository (OCI distribution
/// specification 1.1, "Pulling manifests").
pub(super) fn location(text: &str, plain: bool) -> Result<(Url, String), &'static str> {
    let (authority, repository) = text.split_once('/').ok_or("not HOST[:PORT]/REPOSITORY")?;
    let repository = repository.trim_end_matches('/');
    let ordinary = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let component = |part: &str| {
        let inner = |byte: u8| ordinary(byte) || matches!(byte, b'.' | b'_' | b'-');
        part.bytes().all(inner)
            && part.bytes().next().is_some_and(ordinary)
            && part.bytes().last().is_some_and(ordinary)
    };
    if repository.len() > 255 || !repository.split('/').all(component) {
        return Err("the repository is not [a-z0-9._-]+ with / between");
    }
    let mut origin = Origin::parse(Scheme::Https, authority)?;
    if plain || origin.is_loopback() {
        origin = Origin::parse(Scheme::Http, authority)?;
    }
    // Docker Hub's registry has another name than its images.
    if origin.host == "docker.io" {
        origin.host = "registry-1.docker.io".to_owned();
    }
    let target = format!("/v2/{repository}");
    Ok((Url { origin, target }, repository.to_owned()))
}

impl Registry {
    pub(super) fn new(
        client: Client,
        (base, repository): (Url, String),
        credentials: Credentials,
        cosign_keys: Vec<Key>,
    ) -> Self {
        let sender = RegistrySender { client, base, repository, credentials, authorization: None };
        Registry { sender, cosign_keys, release: None }
    }

    /// Gets the envelope that is the only layer of the artifact `tag`.
    fn envelope(&mut self, tag: &str, kind: &str) -> Result<Vec<u8>, SourceError> {
        let url = self.sender.manifest_url(tag);
        let (bytes, _) = self.sender.manifest(tag, MANIFEST)?;
        let layer = Manifest::parse(&bytes).and_then(|manifest| {
            manifest.expect_artifact(kind)?;
            manifest.layer(update::ENVELOPE_MEDIA_TYPE)
        });
        let layer = layer.map_err(|reason| SourceError::Document { url: url.to_string(), reason })?;
        self.sender.blob(&layer, update::ENVELOPE_LIMIT)
    }

    fn open(&mut self) -> Result<&mut Release, SourceError> {
        self.release.as_mut().ok_or(SourceError::NotOpen)
    }
}

/// Checks that a layer of the manifest is what the signed release says.
fn expect_layer(url: &Url, what: &str, layer: &Blob, declared: &Blob) -> Result<(), SourceError> {
    if layer == declared {
        return Ok(());
    }
    let describe = |blob: &Blob| format!("{} bytes with digest {}", blob.size, blob.sha256);
    let reason = format!("the layer {what} has {}, the release has {}", describe(layer), describe(declared));
    Err(SourceError::Document { url: url.to_string(), reason })
}

impl Source for Registry {
    fn channel(&mut self, name: &ChannelName) -> Result<Vec<u8>, SourceError> {
        let tag = update::channel_tag(&name.channel, &name.name, name.arch);
        self.envelope(&tag, update::CHANNEL_ARTIFACT)
    }

    fn keys(&mut self, version: u64) -> Result<Option<Vec<u8>>, SourceError> {
        match self.envelope(&update::keys_tag(version), update::KEYS_ARTIFACT) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(SourceError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open_release(&mut self, name: &str) -> Result<Vec<u8>, SourceError> {
        self.release = None;
        let tag = name.replace('+', "_");
        let (bytes, digest) = self.sender.manifest(&tag, MANIFEST)?;
        // From here on the tag may lead elsewhere.
        let url = self.sender.manifest_url(&format!("sha256:{digest}"));
        let document = |reason| SourceError::Document { url: url.to_string(), reason };
        let manifest = Manifest::parse(&bytes).map_err(document)?;
        manifest.expect_artifact(update::RELEASE_ARTIFACT).map_err(document)?;
        let envelope = manifest.layer(update::ENVELOPE_MEDIA_TYPE).map_err(document)?;
        let index = manifest.layer(update::INDEX_MEDIA_TYPE).map_err(document)?;
        let chunks = manifest.layer(update::CHUNKS_MEDIA_TYPE).map_err(document)?;
        if !self.cosign_keys.is_empty() {
            signed::check(&mut self.sender, &self.cosign_keys, &bytes, &digest)?;
        }
        let envelope = self.sender.blob(&envelope, update::ENVELOPE_LIMIT)?;
        self.release = Some(Release { url, index, chunks, remote: None });
        Ok(envelope)
    }

    fn index(&mut self, blob: &Blob) -> Result<Vec<u8>, SourceError> {
        let release = self.open()?;
        expect_layer(&release.url, "with the index", &release.index, blob)?;
        self.sender.blob(blob, update::INDEX_LIMIT)
    }

    fn chunks(&mut self, blob: &Blob, range: Range, sink: &mut Sink<'_>) -> Result<Served, SourceError> {
        let url = self.sender.blob_url(blob);
        let release = self.release.as_mut().ok_or(SourceError::NotOpen)?;
        expect_layer(&release.url, "with the chunks", &release.chunks, blob)?;
        let remote = release.remote.get_or_insert_with(|| RemoteBlob::new(url, blob.size));
        remote.range(&mut self.sender, range, sink)
    }
}
