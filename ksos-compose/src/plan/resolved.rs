//! Components once every choice is made: what to fetch by digest, what to read from this machine.

use std::path::PathBuf;

use ksos_formats::Digest;
use ksos_formats::runtime::UpdateConfig;
use ksos_formats::update::KeySet;

use crate::manifest::{KernelCompiler, Manifest};
use crate::oci::reference::Reference;
use crate::source::apt::Pinned;
use crate::source::archive::Format;
use crate::source::kernel::{Base, Fragment};
use crate::source::oci::PinnedImage;
use crate::source::tinycore;
use crate::tree::Tree;

/// What a node trusts.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Trust {
    /// Keys of releases.
    pub keys: KeySet,
    /// Keys of `cosign` (PEM).
    pub cosign: Vec<String>,
}

/// A component with its pinned inputs.
#[derive(Debug, Clone)]
pub struct ResolvedComponent {
    /// Packages, one download, local content, or a program.
    pub content: Resolved,
}

/// Where a component's content comes from, pinned.
#[derive(Debug, Clone)]
pub enum Resolved {
    /// Debian packages, in merge order.
    Packages(Vec<Package>),
    /// A download.
    Download(Download),
    /// A file on this machine, by digest.
    File {
        /// Path on this machine.
        path: PathBuf,
        /// File name, for formats that keep it.
        name: String,
        /// SHA-256.
        digest: Digest,
        /// Size in bytes.
        size: u64,
        /// Its format; `None` for a `.deb`.
        format: Option<Format>,
    },
    /// A directory on this machine.
    Directory(LocalTree),
    /// A program to build.
    Program(Program),
    /// A kernel to build.
    Kernel(KernelBuild),
    /// A Tiny Core base and extensions, in merge order.
    TinyCore(Vec<TinyCoreFile>),
}

/// A container image with its pinned blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// Its blobs.
    pub pinned: PinnedImage,
    /// Its reference.
    pub reference: Reference,
    /// Where they come from.
    pub source: ImageSource,
}

/// Where the blobs of a container image come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// The registry of its reference; whether by http, when that is stated.
    Registry {
        /// By http.
        plain_http: Option<bool>,
    },
    /// An archive or a layout on this machine.
    Local {
        /// Where.
        path: PathBuf,
        /// Digest over the archive, or over everything in the layout.
        digest: Digest,
        /// Digest that the manifest states for the image.
        stated: Option<Digest>,
    },
}

impl ResolvedImage {
    /// Returns the names that containerd must know the image by.
    pub fn names(&self) -> Vec<String> {
        self.reference.lookup_names(&[self.pinned.named, self.pinned.manifest.digest])
    }
}

/// A pinned Debian package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Name, version, architecture, place, size and digest.
    pub pinned: Pinned,
    /// The component that it is locked for.
    pub component: String,
    /// Where it may be had.
    pub urls: Vec<String>,
}

/// A pinned download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Where it may be had.
    pub urls: Vec<String>,
    /// File name, for formats that keep it.
    pub name: String,
    /// Size in bytes, when the lock has it.
    pub size: Option<u64>,
    /// SHA-256.
    pub sha256: Digest,
    /// Largest size accepted, in bytes.
    pub limit: u64,
    /// Its format; `None` for a `.deb`.
    pub format: Option<Format>,
    /// What it is, when it is a Debian package of an archive.
    pub package: Option<Box<Package>>,
}

/// A directory that was read: its tree, and a digest over everything in it.
#[derive(Debug, Clone)]
pub struct LocalTree {
    /// The tree; contents are on the host.
    pub tree: Tree,
    /// Digest over the listing: paths, metadata, content digests.
    pub digest: Digest,
}

/// A program to build with Cargo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The component.
    pub component: String,
    /// Digest over the sources that it is built from.
    pub sources: Digest,
    /// Workspace directory.
    pub workspace: PathBuf,
    /// Package.
    pub package: String,
    /// Binary.
    pub binary: String,
    /// Profile.
    pub profile: String,
    /// What names the compiler; empty when none is installed here.
    pub toolchain: String,
}

/// A kernel to build from source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelBuild {
    /// The component.
    pub component: String,
    /// The component with the source.
    pub from: String,
    /// What the fragments are laid over.
    pub base: KernelBuildBase,
    /// Fragments, in order.
    pub fragments: Vec<Fragment>,
    /// The compiler.
    pub compiler: KernelCompiler,
    /// What names the compiler; empty when it is not installed here.
    pub toolchain: String,
}

/// What the fragments of a kernel are laid over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelBuildBase {
    /// A configuration that is there.
    Known(Base),
    /// The `boot/config-R` of a component.
    Component(String),
}

/// A base or an extension of Tiny Core Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TinyCoreFile {
    /// The file, pinned.
    pub pinned: tinycore::PinnedFile,
    /// Base or extension.
    pub kind: tinycore::Kind,
    /// Where it may be had, or where it is on this machine.
    pub place: TinyCorePlace,
}

/// Where a base or an extension is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TinyCorePlace {
    /// On mirrors.
    Urls(Vec<String>),
    /// On this machine.
    Path(PathBuf),
}

/// Returns what the node is told about updates; nothing when it takes none.
pub fn update_config(manifest: &Manifest) -> Option<UpdateConfig> {
    let update = &manifest.update;
    update.is_enabled().then(|| UpdateConfig {
        board: update.board.clone(),
        source: update.source.clone(),
        channel: update.channel.clone(),
        automatic: update.automatic,
        interval_ms: update.interval.milliseconds,
        gate_ms: update.gate.milliseconds,
        hold_ms: update.hold.milliseconds,
        windows: update.windows(),
    })
}

/// Returns what a container of the whole root file system runs when nothing else is asked for: the service that makes it
/// a Kubernetes node, or runs containers, or is the first by name; without services a shell.
pub fn container_command(manifest: &Manifest) -> Vec<String> {
    let node = &manifest.node;
    let named = [node.kubernetes.as_ref().map(|it| &it.service), node.engine.as_ref().map(|it| &it.service)];
    let named = named.into_iter().flatten().find_map(|name| manifest.services.get(name));
    let service = named.or_else(|| manifest.services.values().next());
    service.map_or_else(|| vec!["/bin/sh".to_owned()], |service| service.command.clone())
}
