//! `push` of what a build wrote: disk and CD images as artifacts, OCI layouts and archives as they are, several of them as
//! one index.
//!
//! ```text
//! layout     OCI layouts: every document, and where every blob is
//! compress   raw disk images, compressed for the way
//! known      which repository of the registry has a blob
//! attach     SBOM, provenance and other files that refer to what is pushed
//! ```
//!
//! Blobs first, several at once; then manifests, those that others name first; then what refers to them, and signatures;
//! the tag comes last, so that who sees it sees everything. Running the same command again does what is left to do.

pub mod attach;
mod compress;
mod known;
mod layout;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ksos_formats::update::{Blob, RELEASE_FILE};
use ksos_formats::{Arch, Digest};

use self::attach::{Attached, Attachment, attach};
use super::error::of_registry;
use super::{Problem, Session};
use crate::cache::CacheError;
use crate::cache::stat::StatCache;
use crate::effects::fs::{self, FsError};
use crate::effects::net::Downloader;
use crate::oci::artifact::{self, FILE_ARTIFACT};
use crate::oci::document::Platform;
use crate::registry::manifest::{Descriptor, EMPTY, EMPTY_BYTES, INDEX, Index, MANIFEST, TITLE};
use crate::registry::name::{Named, stem};
use crate::registry::push::{Brought, Layer, push_blobs};
use crate::registry::signatures::{self, CosignSigner};
use crate::registry::{Registry, RegistryError};
use crate::source::oci::{Place, Registries};

/// Something cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// A file cannot be used.
    #[error(transparent)]
    Fs(FsError),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It is nothing that can be pushed.
    #[error("{}: {reason}", path.display())]
    Kind {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// An OCI layout or archive is damaged, or more than one image.
    #[error("{}: {reason}", path.display())]
    Layout {
        /// Directory or archive.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is no tag, and none that follows from the names.
    #[error("there is no tag, and the names do not agree on one: oci://HOST/REPOSITORY:TAG")]
    NoTag,
    /// The tag leads to something else.
    #[error("{place} is there already, with other content ({found}, not {expected})")]
    Differs {
        /// Where.
        place: String,
        /// What is there.
        found: Digest,
        /// What would come.
        expected: Digest,
    },
}

impl PushError {
    /// Returns where the failure belongs.
    pub fn problem(&self) -> Problem {
        match self {
            PushError::Kind { .. } | PushError::Layout { .. } | PushError::NoTag => Problem::Manifest,
            PushError::Registry(error) => of_registry(error),
            PushError::Fs(_) | PushError::Cache(_) | PushError::Differs { .. } => Problem::Build,
        }
    }

    /// Returns suggestions.
    pub fn hints(&self) -> Vec<String> {
        match self {
            PushError::Differs { .. } => {
                vec!["--replace puts the new one in its place; so does a tag that is written out".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

/// What to push.
#[derive(Debug)]
pub struct Request<'a> {
    /// The repository.
    pub place: &'a Place,
    /// Other repositories of the registry to take blobs from.
    pub mounts: &'a [String],
    /// Files, OCI layouts and archives.
    pub inputs: &'a [PathBuf],
    /// The tag; none: what follows from the names.
    pub tag: Option<&'a str>,
    /// Whether a tag that follows from the names may be taken from something else.
    pub replace: bool,
    /// Whether raw disk images are compressed.
    pub compress: bool,
    /// Annotations of the manifests that are made here, over those that follow from the names.
    pub annotations: &'a BTreeMap<String, String>,
    /// Files that refer to what the tag names.
    pub attachments: &'a [Attachment],
    /// Whether files beside the artifacts are attached to them.
    pub referrers: bool,
    /// Keys that sign as `cosign` does.
    pub cosign: &'a [CosignSigner],
}

/// What was pushed under a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// `HOST/REPOSITORY:TAG`.
    pub place: String,
    /// Digest of what the tag names.
    pub digest: Digest,
    /// Whether the tag led there already.
    pub unchanged: bool,
    /// What became of the blobs.
    pub brought: Brought,
    /// The manifests and indexes.
    pub documents: Vec<Descriptor>,
    /// Files that were attached.
    pub attached: Vec<Attached>,
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Document {
    bytes: Vec<u8>,
    media_type: String,
}

impl Document {
    fn index(manifests: Vec<Descriptor>, annotations: BTreeMap<String, String>) -> Self {
        let index = Index { schema_version: 2, media_type: INDEX.to_owned(), manifests, annotations };
        Document { bytes: index.to_bytes(), media_type: INDEX.to_owned() }
    }

    fn descriptor(&self) -> Descriptor {
        Descriptor::of(&self.media_type, &self.bytes)
    }
}

/// Everything that one input is.
#[derive(Debug)]
struct Bundle {
    path: PathBuf,
    named: Named,
    /// What stands for it in an index.
    root: Descriptor,
    /// What others name first; the last one is the root.
    documents: Vec<Document>,
    layers: Vec<Layer<'static>>,
    guards: Vec<Guard>,
}

impl Bundle {
    fn new(path: &Path, root: Descriptor, documents: Vec<Document>, layers: Vec<Layer<'static>>) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let named = Named::of(stem(&name));
        Bundle { path: path.to_owned(), named, root, documents, layers, guards: Vec::new() }
    }

    /// Returns what it adds to an index: itself, or what an index of its own lists.
    fn entries(&self) -> Vec<Descriptor> {
        let root = self.documents.last().filter(|_| self.root.media_type == INDEX);
        match root.and_then(|document| Index::parse(&document.bytes).ok()) {
            Some(index) => index.manifests,
            None => vec![self.root.clone()],
        }
    }
}

/// A file as it was before it was read.
#[derive(Debug, PartialEq, Eq)]
struct Guard {
    path: PathBuf,
    state: (u64, u64, u64, (i64, i64), (i64, i64)),
}

impl Guard {
    fn of(path: &Path) -> Result<Self, FsError> {
        let data = fs::metadata(path)?;
        let times = ((data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec()));
        Ok(Guard { path: path.to_owned(), state: (data.dev(), data.ino(), data.len(), times.0, times.1) })
    }
}

/// Whether a path is a release: `publish` knows what to do with it.
pub fn is_release(path: &Path) -> bool {
    let is_directory = fs::metadata(path).is_ok_and(|data| data.is_dir());
    let is_named = path.extension().is_some_and(|extension| extension == "update");
    (is_directory && fs::metadata(&path.join(RELEASE_FILE)).is_ok()) || is_named
}

/// Pushes files, layouts and archives under one tag.
///
/// # Errors
/// [`PushError`]. What was sent until then stays, and the tag leads where it led.
pub fn push(
    session: &Session,
    (net, registries): (&Downloader, &Registries),
    request: &Request<'_>,
) -> Result<Pushed, PushError> {
    let stats = StatCache::open(&session.cache);
    let bundles =
        request.inputs.iter().map(|path| bundle(session, &stats, path, request)).collect::<Result<Vec<_>, _>>();
    // Lost digests are taken again.
    let _ = stats.save();
    let bundles = bundles?;
    let layers: Vec<&Layer<'_>> = bundles.iter().flat_map(|bundle| &bundle.layers).collect();
    let known = known::repositories(&session.cache, request.place, &layers);
    let known = known.into_iter().filter(|repository| !request.mounts.contains(repository));
    let mounts = request.mounts.iter().cloned().chain(known).collect();
    let registry = &Registry::with_mounts(net, registries, request.place, mounts);
    let together = together(&bundles, request);
    let root = together.as_ref().map_or_else(|| bundles[0].root.clone(), Document::descriptor);
    let tag = match request.tag {
        Some(tag) => tag.to_owned(),
        None => tag_of(&bundles)?,
    };
    let place = format!("{}:{tag}", registry.name());
    let digest = root.blob().map_err(|reason| document_error(&place, reason))?.sha256;
    let there = registry.digest_of(&tag)?;
    if let Some(found) = there.filter(|found| *found != digest && request.tag.is_none() && !request.replace) {
        return Err(PushError::Differs { place, found, expected: digest });
    }
    let unchanged = there == Some(digest);
    let mut brought = Brought::default();
    if !unchanged {
        brought = push_blobs(registry, &layers)?;
        known::record(&session.cache, request.place, &layers)?;
    }
    for guard in bundles.iter().flat_map(|bundle| &bundle.guards) {
        check(guard, &bundles)?;
    }
    let mut put = BTreeSet::new();
    let documents: Vec<&Document> = bundles.iter().flat_map(|bundle| &bundle.documents).chain(&together).collect();
    for document in documents.iter().filter(|document| put.insert(document.descriptor().digest)) {
        if !unchanged {
            registry.put(&document.bytes, &document.descriptor().digest, &document.media_type)?;
        }
    }
    let attached = refer(registry, request, &bundles, &root)?;
    for document in &documents {
        for signer in request.cosign {
            signatures::sign(registry, (&document.media_type, &document.bytes), signer)?;
        }
    }
    if let Some(document) = documents.last().filter(|_| !unchanged) {
        registry.put(&document.bytes, &tag, &document.media_type)?;
    }
    let documents = documents.iter().map(|document| document.descriptor()).collect();
    Ok(Pushed { place, digest, unchanged, brought, documents, attached })
}

fn document_error(place: &str, reason: String) -> RegistryError {
    RegistryError::Document { url: place.to_owned(), reason }
}

/// Reads one input.
fn bundle(session: &Session, stats: &StatCache, path: &Path, request: &Request<'_>) -> Result<Bundle, PushError> {
    let is_directory = fs::metadata(path)?.is_dir();
    let guard = Guard::of(path)?;
    let mut bundle = if layout::is_layout(path, is_directory) {
        layout::read(path, &session.cache, request.tag)?
    } else if is_directory {
        let reason = "neither an OCI layout (it has no oci-layout) nor a release (it has no release.json)";
        return Err(PushError::Kind { path: path.to_owned(), reason });
    } else {
        file(session, stats, path, &guard, request)?
    };
    if !is_directory {
        bundle.guards.push(guard);
    }
    Ok(bundle)
}

/// Makes the artifact of one file. A raw disk image is what it is when it is compressed, the same as if the build had
/// written it so.
fn file(
    session: &Session,
    stats: &StatCache,
    path: &Path,
    guard: &Guard,
    request: &Request<'_>,
) -> Result<Bundle, PushError> {
    let mut name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if artifact::types(&name).0 == FILE_ARTIFACT {
        let reason = "no kind of image that is known by its name (.img, .img.zst, .iso, .qcow2, .vmdk, .vhd, .oci.tar; \
                      directories: OCI layouts, .update)";
        return Err(PushError::Kind { path: path.to_owned(), reason });
    }
    let named = Named::of(stem(&name));
    let (sha256, size) = stats.digest(path)?;
    let (mut blob, mut place) = (Blob { size, sha256 }, path.to_owned());
    if request.compress && name.ends_with(".img") {
        let compressed = compress::compressed(session, path, &blob, guard)?;
        (blob, place) = (Blob { size: compressed.size, sha256: compressed.digest }, compressed.path);
        name += ".zst";
    }
    let mut artifact = artifact::of_file(&name, blob, place, None);
    artifact.annotations = named.annotations();
    artifact.annotations.extend(request.annotations.clone());
    let document = Document { bytes: artifact.manifest(), media_type: MANIFEST.to_owned() };
    let mut root = document.descriptor();
    root.artifact_type.clone_from(&artifact.artifact_type);
    root.platform = named.arch.map(platform);
    root.annotations.insert(TITLE.to_owned(), name);
    let mut layers = artifact.layers;
    layers.push(Layer::bytes(EMPTY, None, EMPTY_BYTES));
    Ok(Bundle::new(path, root, vec![document], layers))
}

fn platform(arch: Arch) -> Platform {
    Platform { architecture: arch.debian().to_owned(), os: "linux".to_owned(), variant: None }
}

/// Makes the index of several inputs; none for one. Container images come first: who looks for one by architecture takes
/// the first that fits.
fn together(bundles: &[Bundle], request: &Request<'_>) -> Option<Document> {
    if bundles.len() == 1 {
        return None;
    }
    let mut manifests: Vec<Descriptor> = bundles.iter().flat_map(Bundle::entries).collect();
    let mut known = BTreeSet::new();
    manifests.retain(|manifest| known.insert(manifest.digest.clone()));
    manifests.sort_by_key(|manifest| manifest.artifact_type.is_some());
    let mut annotations = common(bundles).annotations();
    annotations.extend(request.annotations.clone());
    Some(Document::index(manifests, annotations))
}

/// Returns what the names of all inputs say alike.
fn common(bundles: &[Bundle]) -> Named {
    let mut common = bundles[0].named.clone();
    for Bundle { named, .. } in bundles {
        let Named { name, version, arch } = named;
        common.name = common.name.filter(|common| Some(common) == name.as_ref());
        common.version = common.version.filter(|common| Some(common) == version.as_ref());
        common.arch = common.arch.filter(|common| Some(*common) == *arch);
    }
    common
}

/// Returns the tag that follows from the names: the version, and the architecture where it is one.
fn tag_of(bundles: &[Bundle]) -> Result<String, PushError> {
    let Named { version, arch, .. } = common(bundles);
    let version = version.ok_or(PushError::NoTag)?.to_string().replace('+', "_");
    let tag = arch.map_or_else(|| version.clone(), |arch| format!("{version}-{arch}"));
    Some(tag).filter(|tag| tag.len() <= 128).ok_or(PushError::NoTag)
}

/// Refuses what changed since its digest was taken.
fn check(guard: &Guard, bundles: &[Bundle]) -> Result<(), PushError> {
    if Guard::of(&guard.path)? == *guard {
        return Ok(());
    }
    let of = bundles.iter().find(|bundle| bundle.path == guard.path).and_then(|bundle| bundle.layers.first());
    let expected = of.map_or(Digest([0; 32]), |layer| layer.blob.sha256);
    Err(RegistryError::Changed { path: guard.path.clone(), expected }.into())
}

/// Attaches what lies beside the inputs to each of them, and what is named to what the tag names.
fn refer(
    registry: &Registry<'_>,
    request: &Request<'_>,
    bundles: &[Bundle],
    root: &Descriptor,
) -> Result<Vec<Attached>, PushError> {
    let mut attached = attach(registry, root, request.attachments)?;
    if !request.referrers {
        return Ok(attached);
    }
    for bundle in bundles {
        attached.extend(attach(registry, &bundle.root, &Attachment::beside(&bundle.path, "")?)?);
        // Of an archive for several architectures, those of each.
        for entry in bundle.entries().iter().filter(|entry| entry.digest != bundle.root.digest) {
            let architecture = entry.platform.as_ref().and_then(|platform| platform.architecture.parse::<Arch>().ok());
            if let Some(arch) = architecture {
                attached.extend(attach(registry, entry, &Attachment::beside(&bundle.path, &format!("-{arch}"))?)?);
            }
        }
    }
    Ok(attached)
}

#[cfg(test)]
mod tests;
