//! `verify` of what is published: a release's directory, a channel, or an artifact in a registry.
//!
//! Signatures first, then the size and digest of every blob, the chunk index, and the slot image as a node would put it
//! together. What is wrong is a finding; that something cannot be had is an error.

use std::path::{Path, PathBuf};

use ksos_formats::Digest;
use ksos_formats::update::cosign::Key;
use ksos_formats::update::envelope::{Envelope, Payload, Verified};
use ksos_formats::update::keys::KeySet;
use ksos_formats::update::{
    self, Blob, CHANNEL_ARTIFACT, CHUNKS_FILE, CHUNKS_MEDIA_TYPE, Channel, ENVELOPE_LIMIT, INDEX_FILE, INDEX_LIMIT,
    INDEX_MEDIA_TYPE, KEYS_ARTIFACT, RELEASE_ARTIFACT, RELEASE_FILE, RELEASE_SUFFIX, Release,
};

use super::publish::release::parse_index;
use super::trust::Trust;
use super::{OpError, Session, publish};
use crate::artifact;
use crate::effects::net::{Downloader, Fetch, NetOptions, ProxyVariables, Request};
use crate::effects::{clock, fs};
use crate::registry::manifest::Manifest;
use crate::registry::{Found, Location, Registry, RegistryError, hash_file, signatures};
use crate::source::oci::{Action, Registries};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub what: String,
    /// What is good about it, or what is wrong.
    pub result: Result<String, String>,
}

/// What verification found, in the order in which it was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// Whether everything is good.
    pub fn is_good(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|finding| finding.result.is_ok())
    }

    /// Adds a result; returns its value when it is good.
    pub(super) fn add<T>(&mut self, what: &str, result: Result<(T, String), String>) -> Option<T> {
        let (value, result) = match result {
            Ok((value, text)) => (Some(value), Ok(text)),
            Err(reason) => (None, Err(reason)),
        };
        self.0.push(Finding { what: what.to_owned(), result });
        value
    }
}

/// Whether `text` names something published, rather than a manifest to build from.
pub fn is_artifact(text: &str) -> bool {
    let is_url = text.contains("://");
    is_url || Path::new(text).extension().is_none_or(|extension| extension != "toml")
}

/// Whether `text` is a file that is neither a release nor a channel: an artifact of a build, or any other.
pub fn is_file(session: &Session, text: &str) -> bool {
    let path = session.environment.directory.join(text);
    !text.contains("://")
        && tree_of(&path.to_string_lossy()).is_err()
        && fs::metadata(&path).is_ok_and(|found| found.is_file())
}

/// What is trusted.
#[derive(Debug)]
pub struct Trusted<'a> {
    /// Keys of releases, channels and key sets.
    pub trust: &'a Trust,
    /// Keys of `cosign`: a release in a registry must be signed by one of them.
    pub cosign: &'a [Key],
}

/// Verifies what `target` names: a directory, the file or URL of a channel, or `oci://HOST/REPOSITORY:TAG`.
///
/// # Errors
/// What cannot be read or fetched.
pub fn verify(session: &Session, target: &str, trusted: &Trusted<'_>) -> Result<Findings, OpError> {
    let net = downloader(session);
    let verifier = Verifier { net: &net, trusted, now: clock::now_seconds(), findings: Findings::default() };
    if let Some(location) = Location::parse(target) {
        let registries = Registries::new(|name| session.environment.variable(name).map(str::to_owned));
        let location = location?;
        let registry = Registry::new(&net, &registries, &location.place, Action::Pull);
        return verifier.artifact(&registry, &location, target);
    }
    if target.contains("://") {
        return verifier.channel(&Base::Url(tree_of(target)?), target);
    }
    let path = session.environment.directory.join(target);
    if fs::metadata(&path)?.is_dir() {
        return verifier.directory(&path, target);
    }
    let text = path.to_string_lossy();
    let base = tree_of(&text)?;
    verifier.channel(&Base::Directory(PathBuf::from(base)), &text)
}

/// Returns a downloader with the settings of the session.
pub fn downloader(session: &Session) -> Downloader {
    let environment = &session.environment;
    let proxy = ProxyVariables::from_lookup(|name| environment.variable(name).map(str::to_owned));
    let options = NetOptions { proxy, ..NetOptions::default() };
    Downloader::new(session.cache.clone(), options, session.progress.clone())
}

/// Returns the root of the tree that the file of a channel is in: three levels up.
fn tree_of(channel: &str) -> Result<String, OpError> {
    let mut parts: Vec<&str> = channel.rsplitn(4, '/').collect();
    parts.reverse();
    match parts.as_slice() {
        [base, directory, _, file] if *directory == update::CHANNELS_DIRECTORY && file.ends_with(".json") => {
            Ok((*base).to_owned())
        }
        _ => Err(publish::PublishError::Usage(
            "expected a release's directory, .../channels/CHANNEL/NAME-ARCH.json or oci://HOST/REPOSITORY:TAG",
        )
        .into()),
    }
}

/// A published tree.
enum Base {
    Url(String),
    Directory(PathBuf),
}

struct Verifier<'a> {
    net: &'a Downloader,
    trusted: &'a Trusted<'a>,
    now: u64,
    findings: Findings,
}

impl Verifier<'_> {
    /// Verifies a document, and that it has not ended.
    fn document<T: Payload>(
        &mut self,
        what: &str,
        bytes: &[u8],
        expires: impl Fn(&T) -> Option<u64>,
    ) -> Option<Verified<T>> {
        let verified = Envelope::parse(bytes).and_then(|envelope| self.trusted.trust.verify::<T>(&envelope));
        let verified = verified.map_err(|error| error.to_string()).and_then(|verified| {
            match expires(verified.value()).filter(|end| self.now >= *end) {
                Some(_) => Err("is signed, and has expired".to_owned()),
                None => Ok(verified),
            }
        });
        let told = verified.map(|verified| {
            let keys: Vec<String> = verified.keys().iter().map(|key| key.hex()[..12].to_owned()).collect();
            let text = format!("sha256 {}, signed by {}", verified.digest(), keys.join(", "));
            (verified, text)
        });
        self.findings.add(what, told)
    }

    fn release_document(&mut self, what: &str, bytes: &[u8]) -> Option<Verified<Release>> {
        self.document(what, bytes, |release: &Release| release.expires)
    }

    fn directory(mut self, path: &Path, target: &str) -> Result<Findings, OpError> {
        let bytes = fs::read(&path.join(RELEASE_FILE), ENVELOPE_LIMIT)?;
        let what = format!("{}/{RELEASE_FILE}", target.trim_end_matches('/'));
        if let Some(release) = self.release_document(&what, &bytes) {
            let prefix = format!("{}/", target.trim_end_matches('/'));
            self.blobs(&prefix, release.value(), &path.join(INDEX_FILE), &path.join(CHUNKS_FILE))?;
        }
        Ok(self.findings)
    }

    /// Verifies index, chunks and slot image; the files are whatever was had.
    fn blobs(&mut self, prefix: &str, release: &Release, index: &Path, chunks: &Path) -> Result<(), OpError> {
        let bytes = fs::read(index, INDEX_LIMIT)?;
        let found = Blob { size: bytes.len() as u64, sha256: Digest::of(&bytes) };
        let index = same(found, release.index).and_then(|()| {
            let index = parse_index(&bytes, release)?;
            let text = format!("{} pieces", index.entries().len());
            Ok((index, text))
        });
        let index = self.findings.add(&format!("{prefix}{INDEX_FILE}"), index);
        let what = format!("{prefix}{CHUNKS_FILE}");
        let told = same(hash_file(chunks)?, release.chunks).map(|()| ((), format!("{} bytes", release.chunks.size)));
        let (Some(index), Some(())) = (index, self.findings.add(&what, told)) else { return Ok(()) };
        let slot = artifact::release::slot_digest(&index, &fs::open(chunks)?);
        let told = slot.map_err(|error| error.to_string()).and_then(|digest| match digest == release.slot.sha256 {
            true => Ok(((), format!("sha256 {digest}, {} bytes", release.slot.size))),
            false => Err(format!("has SHA-256 {digest}; the release says {}", release.slot.sha256)),
        });
        self.findings.add(&format!("{prefix}slot image"), told);
        Ok(())
    }

    fn channel(mut self, base: &Base, target: &str) -> Result<Findings, OpError> {
        let bytes = match base {
            Base::Url(_) => self.fetch_document(target)?,
            Base::Directory(_) => fs::read(Path::new(target), ENVELOPE_LIMIT)?,
        };
        let Some(channel) = self.channel_document(target, &bytes) else { return Ok(self.findings) };
        let expected = update::channel_path(&channel.channel, &channel.name, channel.arch);
        if !target.ends_with(&expected) {
            let reason = format!("it is the channel that belongs at {expected}");
            self.findings.add::<()>(target, Err(reason));
        }
        for entry in &channel.releases {
            let name = update::release_name(&channel.name, &entry.version, channel.arch);
            self.channel_release(base, &name, &channel, &entry.release)?;
        }
        Ok(self.findings)
    }

    fn channel_document(&mut self, what: &str, bytes: &[u8]) -> Option<Channel> {
        self.document(what, bytes, |channel: &Channel| channel.expires).map(Verified::into_value)
    }

    fn channel_release(&mut self, base: &Base, name: &str, channel: &Channel, digest: &Digest) -> Result<(), OpError> {
        let directory = format!("{name}{RELEASE_SUFFIX}");
        // A `+` of a version is a blank to some servers.
        let url = |base: &str, file: &str| format!("{base}/{}/{file}", directory.replace('+', "%2B"));
        let bytes = match base {
            Base::Url(base) => self.fetch_document(&url(base, RELEASE_FILE))?,
            Base::Directory(base) => fs::read(&base.join(&directory).join(RELEASE_FILE), ENVELOPE_LIMIT)?,
        };
        let what = format!("{directory}/{RELEASE_FILE}");
        let Some(release) = self.release_document(&what, &bytes) else { return Ok(()) };
        if self.findings.add(&what, in_channel(&release, channel, digest)).is_none() {
            return Ok(());
        }
        let release = release.value();
        let (index, chunks) = match base {
            Base::Url(base) => (
                self.fetch(&url(base, INDEX_FILE), &release.index)?,
                self.fetch(&url(base, CHUNKS_FILE), &release.chunks)?,
            ),
            Base::Directory(base) => (base.join(&directory).join(INDEX_FILE), base.join(&directory).join(CHUNKS_FILE)),
        };
        self.blobs(&format!("{directory}/"), release, &index, &chunks)
    }

    fn fetch_document(&self, url: &str) -> Result<Vec<u8>, OpError> {
        let urls = [url.to_owned()];
        let request = Request { name: url, urls: &urls, digest: None, size: None, limit: ENVELOPE_LIMIT };
        Ok(self.net.document(&request)?)
    }

    fn fetch(&self, url: &str, blob: &Blob) -> Result<PathBuf, OpError> {
        let urls = [url.to_owned()];
        let (digest, size) = (Some(blob.sha256), Some(blob.size));
        Ok(self.net.blob(&Request { name: url, urls: &urls, digest, size, limit: blob.size })?.path)
    }

    fn artifact(mut self, registry: &Registry<'_>, location: &Location, target: &str) -> Result<Findings, OpError> {
        let usage = publish::PublishError::Usage("a tag or a digest says which artifact: oci://HOST/REPOSITORY:TAG");
        let reference = location.reference().ok_or(usage)?;
        let url = registry.manifest_url(&reference);
        let Some((found, manifest)) = self.manifest(registry, &reference)? else {
            return Err(RegistryError::Document { url, reason: "is not there".to_owned() }.into());
        };
        match manifest.kind() {
            RELEASE_ARTIFACT => self.oci_release(registry, target, &found, &manifest, None)?,
            CHANNEL_ARTIFACT => self.oci_channel(registry, target, &url, &manifest)?,
            KEYS_ARTIFACT => {
                let bytes = publish::envelope_of(registry, &url, &manifest)?;
                self.document(target, &bytes, |set: &KeySet| set.expires);
            }
            other => {
                self.findings.add::<()>(target, Err(format!("is an artifact of type {other:.120?}")));
            }
        }
        Ok(self.findings)
    }

    fn manifest(&self, registry: &Registry<'_>, reference: &str) -> Result<Option<(Found, Manifest)>, OpError> {
        let Some(found) = registry.manifest(reference)? else { return Ok(None) };
        let url = registry.manifest_url(reference);
        let manifest = Manifest::parse(&found.bytes).map_err(|reason| RegistryError::Document { url, reason })?;
        Ok(Some((found, manifest)))
    }

    fn oci_channel(
        &mut self,
        registry: &Registry<'_>,
        target: &str,
        url: &str,
        manifest: &Manifest,
    ) -> Result<(), OpError> {
        let bytes = publish::envelope_of(registry, url, manifest)?;
        let Some(channel) = self.channel_document(target, &bytes) else { return Ok(()) };
        for entry in &channel.releases {
            let tag = update::release_name(&channel.name, &entry.version, channel.arch).replace('+', "_");
            match self.manifest(registry, &tag)? {
                Some((found, manifest)) => {
                    self.oci_release(registry, &tag, &found, &manifest, Some((&channel, &entry.release)))?;
                }
                None => {
                    self.findings.add::<()>(&tag, Err("the registry has no such tag".to_owned()));
                }
            }
        }
        Ok(())
    }

    fn oci_release(
        &mut self,
        registry: &Registry<'_>,
        what: &str,
        found: &Found,
        manifest: &Manifest,
        of: Option<(&Channel, &Digest)>,
    ) -> Result<(), OpError> {
        if !self.trusted.cosign.is_empty() {
            self.cosign(registry, what, found)?;
        }
        let bytes = publish::envelope_of(registry, &registry.manifest_url(what), manifest)?;
        let Some(release) = self.release_document(what, &bytes) else { return Ok(()) };
        if let Some((channel, digest)) = of
            && self.findings.add(what, in_channel(&release, channel, digest)).is_none()
        {
            return Ok(());
        }
        let release = release.value();
        let layers = [(INDEX_MEDIA_TYPE, release.index), (CHUNKS_MEDIA_TYPE, release.chunks)];
        let mut paths = Vec::new();
        for (media_type, declared) in layers {
            let layer = manifest.layer(media_type).and_then(|layer| same(layer, declared));
            if let Err(reason) = layer {
                self.findings.add::<()>(&format!("{what} {media_type}"), Err(reason));
                return Ok(());
            }
            paths.push(registry.blob(&declared)?.path);
        }
        self.blobs(&format!("{what} "), release, &paths[0], &paths[1])
    }

    fn cosign(&mut self, registry: &Registry<'_>, what: &str, found: &Found) -> Result<(), OpError> {
        let search = signatures::search(registry, found, self.trusted.cosign)?;
        let forms: Vec<String> = search.valid.iter().map(|(form, key)| format!("{form} by key {}", key + 1)).collect();
        let told = if forms.is_empty() { Err(search.why()) } else { Ok(((), forms.join(", "))) };
        self.findings.add(&format!("{what} cosign"), told);
        Ok(())
    }
}

/// Whether a release is the one that a channel means.
fn in_channel(release: &Verified<Release>, channel: &Channel, digest: &Digest) -> Result<((), String), String> {
    let Release { name, arch, board, .. } = release.value();
    if release.digest() != *digest {
        return Err(format!("is release {}; the channel says {digest}", release.digest()));
    }
    if (name, arch, board) != (&channel.name, &channel.arch, &channel.board) {
        return Err(format!("is for {name} on {arch} {board}, which is not what the channel is for"));
    }
    Ok(((), "is what the channel says".to_owned()))
}

fn same(found: Blob, declared: Blob) -> Result<(), String> {
    if found == declared {
        return Ok(());
    }
    Err(format!(
        "has {} bytes with SHA-256 {}; the release says {} and {}",
        found.size, found.sha256, declared.size, declared.sha256
    ))
}
