//! Finds the Kubernetes manifests that an image carries and holds them against its container images.

use std::collections::{BTreeMap, BTreeSet};

use ksos_formats::Digest;

use super::OpError;
use crate::assemble::AssembleError;
use crate::effects::fs;
use crate::lock;
use crate::manifest::{Glob, ImageContent, Loaded, Manifest};
use crate::proof::workloads::{File, MAX_SIZE, Preloaded, Workloads};
use crate::proof::{Finding, ProofError};
use crate::source::archive::{self, Limits};
use crate::tree::{Content, Node, Tree};

/// Reads the overlays for [`scan`], without hashing the files that it does not read.
///
/// # Errors
/// When one cannot be read.
pub(super) fn overlays(manifest: &Manifest) -> Result<BTreeMap<String, Tree>, OpError> {
    let mut trees = BTreeMap::new();
    for (name, overlay) in &manifest.overlays {
        let mut digest_of = |path: &std::path::Path, metadata: &std::fs::Metadata| match metadata.len() > MAX_SIZE {
            true => Ok(Digest([0; 32])),
            false => Ok(Digest::of(&fs::read(path, MAX_SIZE)?)),
        };
        let tree = archive::directory::read(overlay.source.path(), 0, &Limits::default(), &mut digest_of)?;
        trees.insert(name.clone(), tree);
    }
    Ok(trees)
}

/// Returns the container images of a manifest, with the digests that are known without asking anybody: what it states
/// itself, and what its lock file has.
pub(super) fn stated(loaded: &Loaded) -> Vec<Preloaded> {
    let manifest = &loaded.manifest;
    // A damaged lock file is the build's to report.
    let lock = lock::read(&lock::path_for(&loaded.path)).ok().flatten().unwrap_or_default();
    let locked = |name: &str| {
        let entry = lock.get(loaded.arch, &lock::image_key(name))?;
        let current = manifest.container_image_request_digest(name) == Some(entry.request);
        match &entry.resolved {
            lock::Resolved::Oci(pinned) if current => Some(vec![pinned.named, pinned.manifest.digest]),
            _ => None,
        }
    };
    let images = manifest.container_images.iter().map(|(name, image)| {
        let digests = match &image.content {
            ImageContent::Built(_) => Some(Vec::new()),
            _ => locked(name),
        };
        Preloaded { reference: image.parsed.clone(), digests }
    });
    images.collect()
}

/// Checks the manifests among the files of `overlays` and of `[files]`, and, where it is known, all others of the image's
/// root: what components deliver.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn scan<'a>(
    manifest: &Manifest,
    overlays: impl IntoIterator<Item = (&'a str, &'a Tree)>,
    root: Option<&Tree>,
    preloaded: &[Preloaded],
) -> Result<Vec<Finding>, OpError> {
    let set = |globs: &[Glob]| Glob::set(globs).map_err(ProofError::from);
    let settings = &manifest.workloads;
    let (manifests, allow_pull) = (set(&settings.manifests)?, set(&settings.allow_pull)?);
    let workloads = Workloads { preloaded, manifests, allow_pull };
    let (mut findings, mut seen) = (Vec::new(), BTreeSet::new());
    for (name, tree) in overlays {
        let Some(overlay) = manifest.overlays.get(name) else { continue };
        for (path, entry) in tree.iter() {
            let Node::File(content) = &entry.node else { continue };
            let place = format!("{}/{path}", overlay.to.relative());
            let place = place.trim_start_matches('/');
            // What is larger is data.
            if !workloads.wants(place) || content.size > MAX_SIZE {
                continue;
            }
            let shown = format!("{}/{path}", overlay.source);
            let bytes = read(content, &shown)?;
            findings.extend(workloads.check(&File { path: place, shown, bytes: &bytes }));
            seen.insert(place.to_owned());
        }
    }
    for (path, file) in &manifest.files {
        let place = path.trim_start_matches('/');
        if workloads.wants(place) {
            let shown = format!("files.{path:?}");
            findings.extend(workloads.check(&File { path: place, shown, bytes: file.content.as_bytes() }));
            seen.insert(place.to_owned());
        }
    }
    if let Some(root) = root {
        findings.extend(delivered(&workloads, root, &seen)?);
    }
    Ok(findings)
}

/// Checks the manifests in the image's root but those that are `seen` already.
fn delivered(workloads: &Workloads<'_>, root: &Tree, seen: &BTreeSet<String>) -> Result<Vec<Finding>, OpError> {
    let mut findings = Vec::new();
    for (path, entry) in root.iter() {
        let Node::File(content) = &entry.node else { continue };
        if !workloads.wants(path) || content.size > MAX_SIZE || seen.contains(path) {
            continue;
        }
        let shown = format!("/{path}");
        let bytes = read(content, &shown)?;
        findings.extend(workloads.check(&File { path, shown, bytes: &bytes }));
    }
    Ok(findings)
}

fn read(content: &Content, shown: &str) -> Result<Vec<u8>, AssembleError> {
    content.read(MAX_SIZE).map_err(|source| AssembleError::Read { path: shown.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Entry, Meta};

    #[test]
    fn what_components_deliver_is_looked_at_once() {
        let set = |globs: &[&str]| {
            let globs: Vec<Glob> = globs.iter().map(|glob| glob.parse().expect("a glob")).collect();
            Glob::set(&globs).expect("a set")
        };
        let mut root = Tree::new(0);
        let pod = "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: missing:1}]}\n";
        for (path, text) in [
            ("usr/share/app/pod.yaml", pod),
            ("usr/share/app/chart.yaml", "{{- if .Values.on }}\napiVersion: v1\n{{- end }}\n"),
            ("usr/share/doc/notes.txt", pod),
            ("etc/overlay.yaml", pod),
        ] {
            let entry = Entry { meta: Meta::root(0o644, 0), node: Node::File(Content::inline(text.as_bytes())) };
            root.insert(path, entry).expect("a path");
        }
        let messages = |manifests: &[&str]| {
            let workloads = Workloads { preloaded: &[], manifests: set(manifests), allow_pull: set(&[]) };
            let seen = BTreeSet::from(["etc/overlay.yaml".to_owned()]);
            let found = delivered(&workloads, &root, &seen).expect("readable");
            found.into_iter().map(|finding| finding.message).collect::<Vec<_>>()
        };
        let missing = |path: &str| format!("{path}:3: container image docker.io/library/missing:1 is not preloaded");
        let template = "/usr/share/app/chart.yaml: not checked for container images: it is a template, not YAML";
        assert_eq!(messages(&[]), [template.to_owned(), missing("/usr/share/app/pod.yaml")]);
        assert_eq!(messages(&["usr/share/doc/**"]), [missing("/usr/share/doc/notes.txt")]);
    }
}
