//! `update`: takes new versions into the lock file.

use std::collections::BTreeSet;
use std::path::Path;

use ksos_formats::Arch;

use super::build::Project;
use super::{LockMode, OpError, Session, Target};
use crate::lock::{self, Lock, Mode, Update};
use crate::manifest::{self, ImageContent};

pub use crate::lock::Change;

/// Local components are not looked at: their sources may be elsewhere.
const FILES: manifest::DiskWithout = manifest::DiskWithout { replaced: BTreeSet::new(), all: true };

/// Resolves `components` (all of them when there are none) anew and writes the lock file of `manifest`; returns what
/// changed. With `dry_run` nothing is written. `arches` defaults to those that the lock has, or the manifest's own.
///
/// # Errors
/// Manifest errors; components that cannot be resolved.
pub fn update(
    session: &Session,
    manifest: &Path,
    arches: &[Arch],
    components: &[String],
    dry_run: bool,
) -> Result<Vec<Change>, OpError> {
    let loaded = manifest::load(manifest, None, &FILES)?;
    let path = lock::path_for(&loaded.path);
    let _guard = session.cache.exclusive(&path)?;
    let old = lock::read(&path)?.unwrap_or_default();
    let update = Update::of(components.iter().cloned());
    let arches = match (arches, old.arches.is_empty()) {
        ([], true) => vec![loaded.arch],
        ([], false) => old.arches.keys().copied().collect(),
        (arches, _) => arches.to_vec(),
    };
    let mut new = old.clone();
    for arch in arches {
        new = update_arch(session, manifest, arch, &new, &update)?;
    }
    if !dry_run && new != old {
        lock::write(&path, &new)?;
    }
    Ok(lock::changes(&old, &new))
}

fn update_arch(session: &Session, manifest: &Path, arch: Arch, lock: &Lock, update: &Update) -> Result<Lock, OpError> {
    let target = Target { manifest: manifest.to_owned(), arch: Some(arch), ..Target::default() };
    let project = Project::load(session, &target, LockMode::default(), &FILES)?;
    let manifest = project.manifest();
    let components = manifest.components.iter().filter(|(_, component)| component.source.is_locked());
    let components = components.map(|(name, _)| (name.clone(), manifest.component_request_digest(name)));
    let images = manifest.container_images.iter();
    let images = images.filter(|(_, image)| !matches!(image.content, ImageContent::Built(_)));
    let images = images.map(|(name, _)| (lock::image_key(name), manifest.container_image_request_digest(name)));
    let wanted: Vec<lock::Wanted> = components
        .chain(images)
        .map(|(component, request)| {
            // An update of named components leaves alone what was never locked: it may not be reachable here.
            let named = !matches!(update, Update::Only(_)) || update.takes(&component);
            let request = request.filter(|_| named || lock.get(arch, &component).is_some());
            lock::Wanted { component, request }
        })
        .collect();
    project.locked(session, &wanted, lock, Mode::Default, update)
}
