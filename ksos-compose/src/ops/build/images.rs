//! The container images of a project: what is asked for, what the lock has, what stands in for it.

use std::path::PathBuf;

use super::local;
use super::resolve::Project;
use super::stamp::Watch;
use crate::cache::stat::StatCache;
use crate::effects::fs;
use crate::lock;
use crate::manifest::{self, ImageContent};
use crate::oci::reference::Reference;
use crate::ops::{OpError, Session};
use crate::plan::{ImageSource, Resolved, ResolvedImage};
use crate::proof::workloads::Preloaded;
use crate::source::oci;

/// What `--component` begins with where it means a container image.
const IMAGE_OPTION: &str = "container-images.";

pub(super) fn image_error(name: &str, source: oci::ImageError) -> OpError {
    OpError::ContainerImage { name: name.to_owned(), source: Box::new(source) }
}

impl Project {
    /// Finds archives and layouts on this machine, and hashes them.
    pub(super) fn read_local_images(
        &mut self,
        session: &Session,
        stats: &StatCache,
        watch: &mut Watch,
    ) -> Result<(), OpError> {
        for (name, image) in &self.loaded.manifest.container_images {
            let replaced = self.replaced_image(name).map(|path| session.environment.directory.join(path));
            if let Some(path) = &replaced {
                fs::metadata(path).map_err(|source| OpError::Replacement {
                    component: format!("container-images.{name}"),
                    path: path.clone(),
                    source,
                })?;
            }
            let path = match &image.content {
                ImageContent::Archive(path) | ImageContent::Layout(path) => replaced.or(Some(path.path().to_owned())),
                ImageContent::Registry { .. } | ImageContent::Built(_) => replaced,
            };
            let Some(path) = path else { continue };
            let raw = Some(manifest::ArchiveFormat::Raw);
            let digest = match local::content(&path, raw, self.epoch, stats, watch)? {
                Resolved::Directory(tree) => tree.digest,
                Resolved::File { digest, .. } => digest,
                Resolved::Packages(_)
                | Resolved::Download(_)
                | Resolved::Program(_)
                | Resolved::Kernel(_)
                | Resolved::TinyCore(_) => continue,
            };
            self.local_images.insert(name.clone(), (path, digest));
        }
        Ok(())
    }

    /// Returns what the lock must have, and takes what is replaced.
    pub(super) fn wanted_images(&mut self, session: &Session) -> Result<Vec<lock::Wanted>, OpError> {
        let manifest = self.loaded.manifest.clone();
        let mut wanted = Vec::new();
        for (name, image) in &manifest.container_images {
            if self.replaced_image(name).is_some() {
                self.replace_image(session, name)?;
            }
            if !matches!(image.content, ImageContent::Built(_)) {
                let replaced = self.images.contains_key(name);
                let request = manifest.container_image_request_digest(name).filter(|_| !replaced);
                wanted.push(lock::Wanted { component: lock::image_key(name), request });
            }
        }
        Ok(wanted)
    }

    /// Every replacement on the command line is one of something.
    pub(super) fn check_replaced(&self) -> Result<(), OpError> {
        let manifest = &self.loaded.manifest;
        let is_known = |name: &&String| {
            let image = |name: &str| manifest.container_images.contains_key(name);
            manifest.components.contains_key(*name) || image(name.strip_prefix(IMAGE_OPTION).unwrap_or(name))
        };
        if let Some(name) = self.target.components.keys().find(|name| !is_known(name)) {
            let images = manifest.container_images.keys().map(|name| format!("{IMAGE_OPTION}{name}"));
            let known = manifest.components.keys().cloned().chain(images).collect();
            return Err(OpError::UnknownComponent { name: name.clone(), known });
        }
        Ok(())
    }

    /// Returns what `--component` replaces the container image `name` by: `container-images.NAME=PATH`, or `NAME=PATH`
    /// where no component has the name.
    fn replaced_image(&self, name: &str) -> Option<&PathBuf> {
        let options = &self.target.components;
        let is_component = self.loaded.manifest.components.contains_key(name);
        options.get(&format!("{IMAGE_OPTION}{name}")).or_else(|| options.get(name).filter(|_| !is_component))
    }

    /// Takes a container image from what replaces it, whatever the lock has.
    fn replace_image(&mut self, session: &Session, name: &str) -> Result<(), OpError> {
        let Some((path, digest)) = self.local_images.get(name).cloned() else { return Ok(()) };
        let image = &self.loaded.manifest.container_images[name];
        let reference = image.parsed.clone();
        // What stands in for an image has a digest of its own, and is found under the one that is stated.
        let wanted = oci::Wanted { name, reference: &reference, digest: None, arch: self.arch() };
        let pinned = oci::open(&path).and_then(|local| oci::resolve(&session.cache, local.as_ref(), &wanted));
        let pinned = pinned.map_err(|source| image_error(name, source))?;
        let source = ImageSource::Local { path, digest, stated: None };
        self.images.insert(name.to_owned(), ResolvedImage { pinned, reference, source });
        Ok(())
    }

    /// Pins a container image that the lock does not have.
    pub(super) fn resolve_image(&self, session: &Session, name: &str) -> Result<oci::PinnedImage, OpError> {
        let image = &self.loaded.manifest.container_images[name];
        let (cache, reference) = (&session.cache, &image.parsed);
        let wanted = oci::Wanted { name, reference, digest: image.digest, arch: self.arch() };
        let pinned = match &image.content {
            ImageContent::Archive(path) | ImageContent::Layout(path) => {
                oci::open(path.path()).and_then(|local| oci::resolve(cache, local.as_ref(), &wanted))
            }
            ImageContent::Registry { plain_http } => {
                oci::resolve(cache, &self.pull(name, reference, *plain_http), &wanted)
            }
            // Needs no lock, so nobody asks.
            ImageContent::Built(_) => oci::resolve(cache, &self.pull(name, reference, None), &wanted),
        };
        pinned.map_err(|source| image_error(name, source))
    }

    /// Returns every container image that the image carries, with the digests that it is known by.
    pub fn preloaded(&self) -> Vec<Preloaded> {
        let carried = |(name, image): (&String, &manifest::ContainerImage)| {
            let pinned = self.images.get(name).map(|image| &image.pinned);
            let digests = pinned.map(|pinned| vec![pinned.named, pinned.manifest.digest]).unwrap_or_default();
            Preloaded { reference: image.parsed.clone(), digests: Some(digests) }
        };
        self.loaded.manifest.container_images.iter().map(carried).collect()
    }

    /// Returns what pulls the container image `name`.
    pub fn pull<'a>(&'a self, name: &str, reference: &Reference, plain_http: Option<bool>) -> oci::Pull<'a> {
        oci::Pull::new(&self.fetch, &self.registries, name, reference, plain_http)
    }

    /// Takes what the lock has for a container image.
    pub(super) fn take_image(&mut self, name: &str, pinned: &oci::PinnedImage) {
        let image = &self.loaded.manifest.container_images[name];
        let source = match (&image.content, self.local_images.get(name)) {
            (ImageContent::Archive(_) | ImageContent::Layout(_), Some((path, digest))) => {
                ImageSource::Local { path: path.clone(), digest: *digest, stated: image.digest }
            }
            (ImageContent::Registry { plain_http }, _) => ImageSource::Registry { plain_http: *plain_http },
            _ => ImageSource::Registry { plain_http: None },
        };
        let resolved = ResolvedImage { pinned: pinned.clone(), reference: image.parsed.clone(), source };
        self.images.insert(name.to_owned(), resolved);
    }
}
