//! What of a component decides what it resolves to: the lock file keeps a digest of it, and is stale for a component
//! whose digest changed.

use ksos_formats::digest::Hasher;
use ksos_formats::{Arch, Digest};

use super::types::{
    AptRepository, AptSource, CargoSource, ContainerImage, FileSource, HttpSource, ImageContent, KernelSource,
    Manifest, Source, TinyCoreSource,
};

/// Changed when the fields below are hashed in another way.
const VERSION: &[u8] = b"ksos component request 1";

impl Manifest {
    /// Returns the digest of everything that decides what component `name` resolves to: not where it is installed,
    /// which mirrors offer it, or what is kept of it. `None` when there is no such component.
    pub fn component_request_digest(&self, name: &str) -> Option<Digest> {
        let mut hasher = Hasher::new();
        hasher.field(VERSION);
        let source = &self.components.get(name)?.source;
        hasher.field(source.kind().as_bytes());
        hasher.field(self.image.arch.name().as_bytes());
        match source {
            Source::Apt(apt) => self.hash_apt(apt, &mut hasher),
            Source::Http(http) => hash_http(http, self.image.arch, &mut hasher),
            Source::File(file) => hash_file(file, &mut hasher),
            Source::Cargo(cargo) => hash_cargo(cargo, &mut hasher),
            Source::Kernel(kernel) => hash_kernel(kernel, &mut hasher),
            Source::TinyCore(tinycore) => hash_tinycore(tinycore, self.image.arch, &mut hasher),
        }
        Some(hasher.finish())
    }

    /// Returns the digest of everything that decides which container image `name` is. `None` when there is no such
    /// image, or when it is built here and needs no lock.
    pub fn container_image_request_digest(&self, name: &str) -> Option<Digest> {
        let ContainerImage { reference: _, parsed, digest, content } = self.container_images.get(name)?;
        let (kind, place) = match content {
            // How it is asked for does not decide what it is.
            ImageContent::Registry { plain_http: _ } => ("registry", ""),
            ImageContent::Archive(path) => ("archive", path.text.as_str()),
            ImageContent::Layout(path) => ("layout", path.text.as_str()),
            ImageContent::Built(_) => return None,
        };
        let mut hasher = Hasher::new();
        hasher.field(b"ksos container image request 1");
        hasher.field(kind.as_bytes());
        hasher.field(self.image.arch.name().as_bytes());
        hasher.field(parsed.to_string().as_bytes());
        hasher.field(place.as_bytes());
        hash_optional(digest.as_ref().map(Digest::hex).as_deref(), &mut hasher);
        Some(hasher.finish())
    }

    /// Returns the repositories that an apt component reads, by name, in the order of the names.
    pub fn repositories<'a>(&'a self, source: &'a AptSource) -> Vec<(&'a str, &'a AptRepository)> {
        let wanted = |name: &str| source.repositories.as_ref().is_none_or(|names| names.iter().any(|n| n == name));
        let pairs = self.apt.iter().map(|(name, repository)| (name.as_str(), repository));
        pairs.filter(|(name, _)| wanted(name)).collect()
    }

    fn hash_apt(&self, source: &AptSource, hasher: &mut Hasher) {
        let AptSource { packages, repositories: _, dependencies, recommends, exclude_packages } = source;
        hash_set(packages, hasher);
        hash_set(exclude_packages, hasher);
        hasher.field(&[u8::from(*recommends), u8::from(*dependencies)]);
        for (_, repository) in self.repositories(source) {
            let AptRepository { path, suites, components, mirrors: _, keyring: _, enabled: _ } = repository;
            hasher.field(path.as_bytes());
            hash_set(suites, hasher);
            hash_set(components, hasher);
        }
    }
}

/// Hashes strings whose order does not matter.
fn hash_set(items: &[String], hasher: &mut Hasher) {
    let mut sorted: Vec<&str> = items.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted.dedup();
    hasher.field(&(sorted.len() as u64).to_le_bytes());
    sorted.iter().for_each(|item| hasher.field(item.as_bytes()));
}

fn hash_optional(text: Option<&str>, hasher: &mut Hasher) {
    hasher.field(&[u8::from(text.is_some())]);
    hasher.field(text.unwrap_or_default().as_bytes());
}

fn hash_http(source: &HttpSource, arch: Arch, hasher: &mut Hasher) {
    let HttpSource { version, url, mirrors: _, checksums, sha256, max_size: _, unpack: _ } = source;
    hash_optional(version.as_deref(), hasher);
    hasher.field(source.expand(url, arch).as_bytes());
    hash_optional(checksums.as_deref().map(|url| source.expand(url, arch)).as_deref(), hasher);
    hash_optional(sha256.get(arch).map(Digest::hex).as_deref(), hasher);
}

fn hash_file(source: &FileSource, hasher: &mut Hasher) {
    let FileSource { path, unpack: _ } = source;
    // The text only: no path of this machine gets into the lock file.
    hasher.field(path.text.as_bytes());
}

fn hash_cargo(source: &CargoSource, hasher: &mut Hasher) {
    let CargoSource { path, package, profile, bin: _, install_to: _ } = source;
    hasher.field(path.text.as_bytes());
    hasher.field(package.as_bytes());
    hasher.field(profile.as_bytes());
    hasher.field(source.binary().as_bytes());
}

fn hash_kernel(source: &KernelSource, hasher: &mut Hasher) {
    let KernelSource { from, base, base_file, base_component, config, compiler } = source;
    hasher.field(from.as_bytes());
    hasher.field(format!("{base:?} {compiler:?}").as_bytes());
    hash_optional(base_file.as_ref().map(|path| path.text.as_str()), hasher);
    hash_optional(base_component.as_deref(), hasher);
    hasher.field(&(config.len() as u64).to_le_bytes());
    config.iter().for_each(|path| hasher.field(path.text.as_bytes()));
}

fn hash_tinycore(source: &TinyCoreSource, arch: Arch, hasher: &mut Hasher) {
    let TinyCoreSource { url, mirrors: _, path, base: _, extensions, kernel_release } = source;
    hash_optional(url.as_deref(), hasher);
    hash_optional(path.as_ref().map(|path| path.text.as_str()), hasher);
    hash_optional(source.base(arch), hasher);
    hash_optional(kernel_release.as_deref(), hasher);
    // The order counts: a later extension's files win.
    hasher.field(&(extensions.len() as u64).to_le_bytes());
    extensions.iter().for_each(|name| hasher.field(name.as_bytes()));
}
