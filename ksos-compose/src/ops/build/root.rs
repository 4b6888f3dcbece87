//! Puts the root file system together in memory: components, kernel modules, container images, overlays, and what the
//! manifest states itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use ksos_formats::boot::ImageId;
use ksos_formats::layout;
use ksos_formats::runtime::{
    self, ContainerImage, DataConfig, DirectoryConfig, EngineConfig, KubernetesConfig, RuntimeConfig, ServiceConfig,
};
use ksos_formats::update::window::TimeZone;

use crate::assemble::{self, AssembleError, certificates, users};
use crate::cache::Blob;
use crate::manifest::{Manifest, PartitionRole, Service};
use crate::oci::document::ImageBlob;
use crate::oci::layout as oci_layout;
use crate::plan::packages::{self, ListedContent, ListedPackage};
use crate::plan::{Trust, update_config};
use crate::source::archive::merge::{Conflict, MergeError, Merger};
use crate::tree::{Content, Entry, Meta, Node, Tree};

/// Where container images are in the root file system.
const IMAGES: &str = "usr/lib/ksos/images";

/// Where time zones are in the root file system.
const TIME_ZONES: &str = "usr/share/zoneinfo";

/// What is memory on a node.
const IN_MEMORY: [&str; 5] = ["run", "tmp", "dev", "proc", "sys"];

/// What the root file system is made of.
pub struct Pieces<'a> {
    /// The manifest.
    pub manifest: &'a Manifest,
    /// Name, version, architecture, epoch.
    pub image: &'a ImageId,
    /// Component trees in merge order.
    pub components: Vec<(String, Tree)>,
    /// Selected kernel modules, with their index files.
    pub modules: Tree,
    /// Names of the modules to load at boot.
    pub load: Vec<String>,
    /// Container images.
    pub container_images: Vec<CarriedImage>,
    /// What the node trusts, when it takes updates.
    pub trust: Option<&'a Trust>,
    /// What the system is made of.
    pub packages: &'a [ListedPackage],
    /// Overlays in order of their names: target directory and tree.
    pub overlays: Vec<(String, String, Tree)>,
}

/// A container image that the root file system carries.
#[derive(Debug, Clone)]
pub struct CarriedImage {
    /// Names that it is imported as.
    pub names: Vec<String>,
    /// Its manifest.
    pub manifest: Blob,
    /// Media type of its manifest.
    pub media_type: String,
    /// All of its blobs.
    pub blobs: Vec<Blob>,
}

/// The root file system before it is written.
pub struct Root {
    /// The tree.
    pub tree: Tree,
    /// Whose each entry is.
    pub origins: BTreeMap<String, Arc<str>>,
    /// Files that one component replaced in another.
    pub conflicts: Vec<Conflict>,
}

/// The root file system could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Two components do not fit together.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// An entry does not fit.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// A node could not tell when a maintenance window opens.
    #[error("update.windows: time zone {name} is not in the image: there is no {path}")]
    TimeZone {
        /// The time zone.
        name: String,
        /// Its file.
        path: String,
    },
}

/// Merges everything.
///
/// # Errors
/// [`RootError`].
pub fn assemble(pieces: Pieces<'_>) -> Result<Root, RootError> {
    let Pieces { manifest, image, components, modules, load, container_images, trust, packages: listed, overlays } =
        pieces;
    let mut merger = Merger::new(image.epoch as i64);
    merger.merge(top_level_links(&components, image.epoch), "merged /usr")?;
    for (name, tree) in components {
        merger.merge(tree, &name)?;
    }
    merger.merge(modules, "kernel modules")?;
    merger.merge(layout_tree(&container_images, image)?, "container images")?;
    for (name, to, tree) in overlays {
        merger.merge(below(tree, &to, image.epoch)?, &format!("overlay {name}"))?;
    }
    let merged = merger.finish();
    let mut tree = merged.tree;
    state(&mut tree, manifest, image)?;
    put_trust(&mut tree, trust, image.epoch)?;
    let list = serde_json::to_vec_pretty(listed).expect("a list of packages can be serialised");
    assemble::put_file(&mut tree, packages::PATH, 0o644, &list, image.epoch, "packages")?;
    check_time_zones(manifest, &tree)?;
    let config = runtime_config(manifest, image, load, &container_images, &tree);
    let text = serde_json::to_vec_pretty(&config).expect("the runtime's configuration can be serialised");
    assemble::put_file(&mut tree, layout::RUNTIME_CONFIG, 0o644, &text, image.epoch, "runtime")?;
    let contents = contents(&tree, &merged.origins);
    let text = serde_json::to_vec_pretty(&contents).expect("a list of components can be serialised");
    assemble::put_file(&mut tree, packages::CONTENTS_PATH, 0o644, &text, image.epoch, "contents")?;
    assemble::clamp_times(&mut tree, image.epoch);
    Ok(Root { tree, origins: merged.origins, conflicts: merged.conflicts })
}

/// Sums up what each component has in the tree.
fn contents(tree: &Tree, origins: &BTreeMap<String, Arc<str>>) -> Vec<ListedContent> {
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (path, entry) in tree.iter() {
        if let Node::File(content) = &entry.node {
            let sum = sums.entry(origins.get(path).map_or("manifest", |origin| origin)).or_default();
            *sum = (sum.0 + 1, sum.1 + content.size);
        }
    }
    sums.into_iter().map(|(name, (files, bytes))| ListedContent { name: name.to_owned(), files, bytes }).collect()
}

/// Every time zone of a maintenance window that is a name must be in the image.
fn check_time_zones(manifest: &Manifest, tree: &Tree) -> Result<(), RootError> {
    for window in &manifest.update.windows {
        let Ok(TimeZone::Named(name)) = TimeZone::parse(&window.time_zone) else { continue };
        let path = format!("{TIME_ZONES}/{name}");
        let file = tree.canonicalize(&path).and_then(|path| tree.get(&path));
        if !file.is_some_and(|entry| matches!(tree.resolve_link(entry).node, Node::File(_))) {
            return Err(RootError::TimeZone { name, path: format!("/{path}") });
        }
    }
    Ok(())
}

/// The keys of updates.
fn put_trust(tree: &mut Tree, trust: Option<&Trust>, epoch: u64) -> Result<(), AssembleError> {
    let Some(Trust { keys, cosign }) = trust else { return Ok(()) };
    let text = serde_json::to_vec_pretty(keys).expect("a key set can be serialised");
    assemble::put_file(tree, layout::UPDATE_KEYS, 0o644, &text, epoch, "update.keys")?;
    for (number, key) in cosign.iter().enumerate() {
        let path = format!("{}/{}.pub", layout::UPDATE_COSIGN_KEYS, number + 1);
        assemble::put_file(tree, &path, 0o644, key.as_bytes(), epoch, "update.cosign-keys")?;
    }
    Ok(())
}

/// Symbolic links at the top (`bin -> usr/bin`) come first, so that every component is merged through them.
fn top_level_links(components: &[(String, Tree)], epoch: u64) -> Tree {
    let mut links = Tree::new(epoch as i64);
    for (path, entry) in components.iter().flat_map(|(_, tree)| tree.iter()) {
        if !path.contains('/') && matches!(entry.node, Node::Symlink(_)) {
            links.insert(path, entry.clone()).expect("a top-level link of a tree is a valid path");
        }
    }
    links
}

/// One OCI layout with all images: a blob that several of them have is there once, with the bytes of its digest.
fn layout_tree(images: &[CarriedImage], image: &ImageId) -> Result<Tree, AssembleError> {
    let epoch = image.epoch;
    let mut tree = Tree::new(epoch as i64);
    if images.is_empty() {
        return Ok(tree);
    }
    let manifests: Vec<ImageBlob> = images
        .iter()
        .map(|image| {
            let (digest, size) = (image.manifest.digest, image.manifest.size);
            ImageBlob { media_type: image.media_type.clone(), digest, size }
        })
        .collect();
    let names = images.iter().map(|image| image.names.as_slice());
    let index = oci_layout::index(image.arch, names.zip(&manifests));
    let origin = "container-images";
    assemble::put_file(&mut tree, &format!("{IMAGES}/oci-layout"), 0o644, oci_layout::MARKER, epoch, origin)?;
    assemble::put_file(&mut tree, &format!("{IMAGES}/index.json"), 0o644, &index, epoch, origin)?;
    for blob in images.iter().flat_map(|image| &image.blobs) {
        let content = Content::host_file(blob.path.clone(), blob.digest, blob.size);
        let entry = Entry { meta: Meta::root(0o644, epoch as i64), node: Node::File(content) };
        assemble::put(&mut tree, &format!("{IMAGES}/blobs/sha256/{}", blob.digest), entry, origin)?;
    }
    Ok(tree)
}

fn below(tree: Tree, to: &str, epoch: u64) -> Result<Tree, AssembleError> {
    if to.is_empty() {
        return Ok(tree);
    }
    let mut moved = Tree::new(epoch as i64);
    for (path, entry) in tree.iter() {
        let path = if path.is_empty() { to.to_owned() } else { format!("{to}/{path}") };
        let mut entry = entry.clone();
        if let Node::HardLink(target) = &mut entry.node {
            *target = format!("{to}/{target}");
        }
        moved.insert(&path, entry).map_err(|source| AssembleError::Tree { origin: "overlay".to_owned(), source })?;
    }
    Ok(moved)
}

/// Files, links, accounts, certificates and mount points that the manifest states.
fn state(tree: &mut Tree, manifest: &Manifest, image: &ImageId) -> Result<(), AssembleError> {
    let epoch = image.epoch;
    for (path, mode) in assemble::MOUNT_POINTS {
        assemble::put_directory(tree, path, *mode, epoch, "mount points")?;
    }
    for path in &manifest.root.persist {
        assemble::put_directory(tree, path.relative(), 0o755, epoch, "root.persist")?;
    }
    // A directory made at boot outside of what is memory then is a mount point in the image.
    for directory in &manifest.root.directories {
        let path = directory.path.relative();
        let below = |top: &&str| path.strip_prefix(*top).is_some_and(|rest| rest.starts_with('/'));
        if !IN_MEMORY.iter().any(below) {
            assemble::put_directory(tree, path, directory.mode.0, epoch, "root.directories")?;
        }
    }
    for (path, file) in &manifest.files {
        let meta = Meta { uid: file.uid, gid: file.gid, ..Meta::root(file.mode.0, epoch as i64) };
        let entry = Entry { meta, node: Node::File(Content::inline(file.content.as_bytes())) };
        assemble::put(tree, path, entry, &format!("files.{path:?}"))?;
    }
    for (path, link) in &manifest.links {
        let entry = Entry { meta: Meta::root(0o777, epoch as i64), node: Node::Symlink(link.target.clone()) };
        assemble::put(tree, path, entry, &format!("links.{path:?}"))?;
    }
    if manifest.root.ca_bundle {
        let bundle = certificates::bundle(tree)?;
        assemble::put_file(tree, certificates::BUNDLE, 0o644, &bundle, epoch, "root.ca-bundle")?;
    }
    accounts(tree, manifest, epoch)
}

fn accounts(tree: &mut Tree, manifest: &Manifest, epoch: u64) -> Result<(), AssembleError> {
    let mut accounts: BTreeMap<String, users::User> = manifest
        .users
        .iter()
        .map(|(name, user)| {
            let account =
                users::User { uid: user.uid, gid: user.group(), home: user.home.clone(), shell: user.shell.clone() };
            (name.clone(), account)
        })
        .collect();
    let console = if manifest.console.shell { "/bin/sh" } else { "/usr/sbin/nologin" };
    let shell = manifest.node.root_shell.as_deref().unwrap_or(console);
    let root = users::User { uid: 0, gid: 0, home: "/root".to_owned(), shell: shell.to_owned() };
    accounts.insert("root".to_owned(), root);
    assemble::put_file(tree, "etc/passwd", 0o644, users::passwd(&accounts).as_bytes(), epoch, "users")?;
    assemble::put_file(tree, "etc/group", 0o644, users::group(&accounts).as_bytes(), epoch, "users")
}

fn runtime_config(
    manifest: &Manifest,
    image: &ImageId,
    load: Vec<String>,
    container_images: &[CarriedImage],
    tree: &Tree,
) -> RuntimeConfig {
    let data = manifest.partitions.values().find(|partition| partition.role == PartitionRole::Data);
    RuntimeConfig {
        update: update_config(manifest),
        format: runtime::FORMAT,
        image: image.clone(),
        hostname: manifest.image.hostname.clone(),
        modules: load,
        sysctl: manifest.sysctl.clone(),
        data: DataConfig {
            label: data.map_or(layout::DATA_LABEL, |partition| &partition.label).to_owned(),
            mount: "/data".to_owned(),
            persist: manifest.root.persist.iter().map(crate::manifest::ImagePath::absolute).collect(),
        },
        directories: manifest
            .root
            .directories
            .iter()
            .map(|directory| DirectoryConfig { path: directory.path.absolute(), mode: directory.mode.0 })
            .collect(),
        container_images: container_images
            .iter()
            .flat_map(|image| image.names.iter().map(|name| (name, image.manifest.digest)))
            .map(|(name, manifest)| ContainerImage { reference: name.clone(), layout: format!("/{IMAGES}"), manifest })
            .collect(),
        services: manifest.services.iter().map(|(name, service)| (name.clone(), service_config(service))).collect(),
        console_shell: manifest.console.shell,
        engine: manifest
            .node
            .engine
            .as_ref()
            .map(|engine| EngineConfig { service: engine.service.clone(), socket: engine.socket.clone() }),
        kubernetes: manifest.node.kubernetes.as_ref().map(|kubernetes| KubernetesConfig {
            service: kubernetes.service.clone(),
            kubeconfig: kubernetes.kubeconfig.clone(),
        }),
        default_config: present(tree, layout::DEFAULT_CONFIG),
        apparmor_profiles: apparmor_profiles(tree),
        lock_modules: manifest.node.lock_modules,
        watchdog_ms: manifest.node.watchdog.map(|timeout| timeout.milliseconds),
    }
}

/// Returns `path` when the image has a file there.
fn present(tree: &Tree, path: &str) -> Option<String> {
    let entry = tree.get(path.trim_start_matches('/'))?;
    matches!(entry.node, Node::File(_)).then(|| path.to_owned())
}

/// Files directly in `/etc/apparmor.d` are profiles; what they share is in directories beside them.
fn apparmor_profiles(tree: &Tree) -> Vec<String> {
    const DIRECTORY: &str = "etc/apparmor.d/";
    let profile = |(path, entry): (&str, &Entry)| {
        let name = path.strip_prefix(DIRECTORY)?;
        (matches!(entry.node, Node::File(_)) && !name.contains('/')).then(|| format!("/{path}"))
    };
    tree.iter().filter_map(profile).collect()
}

/// Returns the runtime's form of a service.
pub fn service_config(service: &Service) -> ServiceConfig {
    let Service {
        command,
        environment,
        after,
        restart,
        restart_delay,
        restart_delay_max,
        stop_timeout,
        ready,
        required,
        oom_score_adjust,
        limits,
        working_directory,
        pre_start,
        log,
        apparmor,
        enabled: _,
    } = service.clone();
    ServiceConfig {
        command,
        environment,
        after,
        restart,
        restart_delay_ms: restart_delay.milliseconds,
        restart_delay_max_ms: restart_delay_max.milliseconds,
        stop_timeout_ms: stop_timeout.milliseconds,
        ready,
        required,
        oom_score_adjust,
        limit_nofile: limits.nofile,
        limit_nproc: limits.nproc,
        limit_core: limits.core,
        working_directory,
        pre_start,
        log,
        apparmor,
    }
}
