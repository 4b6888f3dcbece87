//! Pulls from a registry (OCI distribution specification 1.1, "Pull"), through the downloader that every other source
//! uses: its proxies, certificates, retries, resumption, progress and checks hold here too.

use std::sync::atomic::AtomicBool;

use super::auth::{Action, Answering, Registries};
use super::{Documents, ImageError, Named, Wanted};
use crate::cache::Blob;
use crate::effects::fs;
use crate::effects::net::{Downloader, FetchError, Manner, Request};
use crate::oci::document::{self, ImageBlob, MAX_CONFIG, MAX_DOCUMENT};
use crate::oci::reference::{DOCKER_HUB, Reference};

/// A repository of a registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Host and port.
    pub registry: String,
    /// Repository.
    pub repository: String,
    /// By http instead of https.
    pub plain: bool,
}

impl Place {
    /// Returns the repository of a reference. A registry on this machine is spoken to by http unless `plain_http` says
    /// otherwise, every other by https.
    pub fn of(reference: &Reference, plain_http: Option<bool>) -> Self {
        let Reference { registry, repository, .. } = reference;
        let plain = plain_http.unwrap_or_else(|| is_loopback(registry));
        Place { registry: registry.clone(), repository: repository.clone(), plain }
    }

    /// Returns the URL that all of the repository is below.
    pub fn base(&self) -> String {
        let Place { registry, repository, plain } = self;
        let scheme = if *plain { "http" } else { "https" };
        // Docker's registry has another host than its name says (distribution project, `registry/proxy`).
        let host = if registry == DOCKER_HUB { "registry-1.docker.io" } else { registry };
        format!("{scheme}://{host}/v2/{repository}")
    }
}

/// Whether a registry, by its host and port, is on this machine: RFC 6761, section 6.3; RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.3.
pub fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(inside) => inside.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Pulls one image.
#[derive(Debug)]
pub struct Pull<'a> {
    /// What fetches.
    pub fetch: &'a Downloader,
    /// What registries are told.
    pub registries: &'a Registries,
    /// The repository.
    pub place: Place,
    /// The image, for messages: its name in the manifest and its reference.
    pub label: String,
}

impl<'a> Pull<'a> {
    /// Returns a pull of the image called `name` in the manifest.
    pub fn new(
        fetch: &'a Downloader,
        registries: &'a Registries,
        name: &str,
        reference: &Reference,
        plain_http: Option<bool>,
    ) -> Self {
        let label = format!("container image {name} ({reference})");
        Pull { fetch, registries, place: Place::of(reference, plain_http), label }
    }

    /// Fetches one blob of the image into the cache, unless the cache has it. `is_manifest`: it is the manifest.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn blob(&self, blob: &ImageBlob, is_manifest: bool, limit: u64) -> Result<Blob, FetchError> {
        let kind = if is_manifest { "manifests" } else { "blobs" };
        let urls = [format!("{}/{kind}/sha256:{}", self.place.base(), blob.digest)];
        let name = format!("{} blob {}", self.label, &blob.digest.hex()[..12]);
        let (digest, size) = (Some(blob.digest), Some(blob.size));
        let request = Request { name: &name, urls: &urls, digest, size, limit };
        let accept = (is_manifest && !blob.media_type.is_empty()).then_some(blob.media_type.as_str());
        let access = self.registries.access(&self.place, Action::Pull);
        let answering = Answering { access: &access, fetch: self.fetch, name: &self.label };
        let manner = Manner { accept, authorize: Some(&answering), form: None };
        self.fetch.blob_as(&request, manner, &AtomicBool::new(false))
    }

    fn read(&self, blob: &ImageBlob, is_manifest: bool, limit: u64) -> Result<Vec<u8>, ImageError> {
        let fetched = self.blob(blob, is_manifest, limit)?;
        Ok(fs::read(&fetched.path, limit)?)
    }
}

impl Documents for Pull<'_> {
    fn named(&self, wanted: &Wanted<'_>) -> Result<Named, ImageError> {
        let identifier = match (wanted.digest, &wanted.reference.tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".to_owned()),
        };
        let urls = [format!("{}/manifests/{identifier}", self.place.base())];
        let request =
            Request { name: &self.label, urls: &urls, digest: wanted.digest, size: None, limit: MAX_DOCUMENT };
        let accept = [document::INDEX, document::MANIFEST, document::DOCKER_LIST, document::DOCKER_MANIFEST].join(", ");
        let access = self.registries.access(&self.place, Action::Pull);
        let answering = Answering { access: &access, fetch: self.fetch, name: &self.label };
        let manner = Manner { accept: Some(&accept), authorize: Some(&answering), form: None };
        let document = self.fetch.document_as(&request, manner)?;
        Ok(Named { media_type: document.media_type, bytes: document.bytes })
    }

    fn manifest(&self, blob: &ImageBlob) -> Result<Vec<u8>, ImageError> {
        self.read(blob, true, MAX_DOCUMENT)
    }

    fn config(&self, blob: &ImageBlob) -> Result<Vec<u8>, ImageError> {
        self.read(blob, false, MAX_CONFIG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_registries_of_this_machine_are_spoken_to_by_http() {
        for (text, plain, base) in [
            ("hello:1", None, "https://registry-1.docker.io/v2/library/hello"),
            ("localhost:5000/a:1", None, "http://localhost:5000/v2/a"),
            ("127.1.2.3:5000/a:1", None, "http://127.1.2.3:5000/v2/a"),
            ("[::1]:5000/a:1", None, "http://[::1]:5000/v2/a"),
            ("localhost:5000/a:1", Some(false), "https://localhost:5000/v2/a"),
            ("reg.lan/a/b:1", Some(true), "http://reg.lan/v2/a/b"),
            ("localhost.example.com/a:1", None, "https://localhost.example.com/v2/a"),
            ("127.example.com/a:1", None, "https://127.example.com/v2/a"),
        ] {
            assert_eq!(Place::of(&text.parse().unwrap(), plain).base(), base, "{text}");
        }
    }
}
