//! OCI layouts to push, in directories and in archives (OCI image specification 1.1, "OCI Image Layout"): every document
//! that one leads to, and where every blob is. Nothing is unpacked of an archive that is not compressed.
//!
//! Names in an archive are keys and never paths. Limits: [`MAX_ENTRIES`] entries, [`MAX_DOCUMENTS`] manifests and indexes
//! nested [`MAX_DEPTH`] deep, [`MAX_UNPACKED`] bytes once decompressed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use ksos_formats::Digest;
use serde::Deserialize;

use super::{Bundle, Document, PushError};
use crate::cache::Cache;
use crate::effects::fs::{self, Context, FsError};
use crate::oci::document::{DOCKER_LIST, DOCKER_MANIFEST, INDEX, MANIFEST, MAX_CONFIG, MAX_DOCUMENT, Platform};
use crate::registry::manifest::{Descriptor, Index};
use crate::registry::push::Layer;

/// The most entries of an archive.
const MAX_ENTRIES: usize = 100_000;
/// The most manifests and indexes.
const MAX_DOCUMENTS: usize = 1000;
/// How deep indexes may be within indexes.
const MAX_DEPTH: usize = 3;
/// What a compressed archive may have at most, in bytes.
const MAX_UNPACKED: u64 = 64 << 30;
/// Annotation with the name of an image in a layout ("Pre-Defined Annotation Keys").
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Where the bytes of an entry are.
#[derive(Debug, Clone)]
struct Place {
    path: PathBuf,
    offset: u64,
    size: u64,
}

/// An OCI layout.
#[derive(Debug)]
struct Layout {
    path: PathBuf,
    /// The entries of an archive; none of a directory.
    entries: Option<BTreeMap<String, Place>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

/// A manifest or an index, as far as it leads to something.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Links {
    #[serde(default)]
    media_type: String,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    artifact_type: Option<String>,
}

/// Whether a path is an OCI layout: a directory with `oci-layout`, or a tar archive.
pub(super) fn is_layout(path: &Path, is_directory: bool) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let is_archive = [".tar", ".tar.gz", ".tgz", ".tar.zst"].iter().any(|suffix| name.ends_with(suffix));
    if is_directory { fs::metadata(&path.join("oci-layout")).is_ok() } else { is_archive }
}

/// Reads the layout at `path`. `tag` decides when it has several images.
///
/// # Errors
/// [`PushError`]; what cannot be read.
pub(super) fn read(path: &Path, cache: &Cache, tag: Option<&str>) -> Result<Bundle, PushError> {
    let is_directory = fs::metadata(path)?.is_dir();
    let entries = if is_directory { None } else { Some(archive(path, cache)?) };
    let layout = Layout { path: path.to_owned(), entries };
    let marker: Marker = layout.parse("oci-layout", &layout.read("oci-layout", MAX_DOCUMENT)?)?;
    if !marker.image_layout_version.starts_with("1.") {
        let version = marker.image_layout_version;
        return Err(layout.wrong(format!("has layout version {version:.20?}, expected \"1.0.0\"")));
    }
    let index: Index = layout.parse("index.json", &layout.read("index.json", MAX_DOCUMENT)?)?;
    let mut walk = Walk { layout: &layout, documents: Vec::new(), layers: Vec::new(), seen: BTreeSet::new() };
    let root = match choose(index.manifests, tag).map_err(|reason| layout.wrong(reason))? {
        Chosen::One(descriptor) => walk.document(*descriptor, 0)?,
        Chosen::Several(descriptors) => walk.index(descriptors)?,
    };
    let Walk { documents, layers, .. } = walk;
    Ok(Bundle::new(path, root, documents, layers))
}

enum Chosen {
    One(Box<Descriptor>),
    Several(Vec<Descriptor>),
}

/// Chooses what of a layout is meant: the only one, the one with this tag as its name, or all of them when each is for
/// another platform.
fn choose(manifests: Vec<Descriptor>, tag: Option<&str>) -> Result<Chosen, String> {
    let name = |descriptor: &Descriptor| {
        let named = descriptor.annotations.get(REF_NAME).or_else(|| descriptor.annotations.get(CONTAINERD_NAME));
        named.map(|name| name.rsplit_once(':').map_or(name.as_str(), |(_, tag)| tag).to_owned())
    };
    let mut known = BTreeSet::new();
    let mut manifests = manifests;
    let names: Vec<String> = manifests.iter().filter_map(name).collect();
    if let Some(at) = manifests.iter().position(|manifest| tag.is_some() && name(manifest).as_deref() == tag)
        && names.iter().filter(|name| Some(name.as_str()) == tag).count() == 1
    {
        return Ok(Chosen::One(Box::new(manifests.swap_remove(at))));
    }
    manifests.retain(|manifest| known.insert(manifest.digest.clone()));
    let platforms: BTreeSet<String> =
        manifests.iter().filter_map(|manifest| Some(manifest.platform.as_ref()?.to_string())).collect();
    match manifests.len() {
        0 => Err("index.json names no image".to_owned()),
        1 => Ok(Chosen::One(Box::new(manifests.remove(0)))),
        count if platforms.len() == count => {
            for manifest in &mut manifests {
                manifest.annotations.remove(REF_NAME);
                manifest.annotations.remove(CONTAINERD_NAME);
            }
            Ok(Chosen::Several(manifests))
        }
        count => Err(format!("has {count} images, of which the tag names none: {}", names.join(", "))),
    }
}

impl Layout {
    fn wrong(&self, reason: impl Into<String>) -> PushError {
        PushError::Layout { path: self.path.clone(), reason: reason.into() }
    }

    fn parse<'a, T: Deserialize<'a>>(&self, name: &str, bytes: &'a [u8]) -> Result<T, PushError> {
        serde_json::from_slice(bytes).map_err(|error| self.wrong(format!("{name} is malformed: {error}")))
    }

    fn place(&self, name: &str) -> Result<Place, PushError> {
        let missing = || self.wrong(format!("{name} is missing"));
        match &self.entries {
            Some(entries) => entries.get(name).cloned().ok_or_else(missing),
            None => {
                let path = self.path.join(name);
                let metadata = match fs::metadata(&path) {
                    Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
                    other => other?,
                };
                Ok(Place { path, offset: 0, size: metadata.len() })
            }
        }
    }

    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, PushError> {
        let Place { path, offset, size } = self.place(name)?;
        if size > limit {
            return Err(self.wrong(format!("{name} has {size} bytes; at most {limit} are read")));
        }
        let mut file = fs::open(&path)?;
        file.seek(std::io::SeekFrom::Start(offset)).context("seek in", &path)?;
        let mut bytes = Vec::new();
        file.take(size).read_to_end(&mut bytes).context("read", &path)?;
        Ok(bytes)
    }
}

/// Follows descriptors to everything that is to be pushed.
struct Walk<'a> {
    layout: &'a Layout,
    /// What others name first.
    documents: Vec<Document>,
    layers: Vec<Layer<'static>>,
    seen: BTreeSet<Digest>,
}

impl Walk<'_> {
    /// Takes a manifest or an index with everything below it; returns its descriptor, completed.
    fn document(&mut self, mut descriptor: Descriptor, depth: usize) -> Result<Descriptor, PushError> {
        let layout = self.layout;
        let blob = descriptor.blob().map_err(|reason| layout.wrong(reason))?;
        let name = format!("blobs/sha256/{}", blob.sha256);
        let bytes = layout.read(&name, MAX_DOCUMENT)?;
        if Digest::of(&bytes) != blob.sha256 || bytes.len() as u64 != blob.size {
            let (size, found) = (bytes.len(), Digest::of(&bytes));
            return Err(layout.wrong(format!("{name} has {size} bytes with SHA-256 {found}; {} were named", blob.size)));
        }
        let links: Links = layout.parse(&name, &bytes)?;
        let media_type = [&descriptor.media_type, &links.media_type].into_iter().find(|text| !text.is_empty());
        let media_type = media_type
            .cloned()
            .unwrap_or_else(|| if links.manifests.is_some() { INDEX.to_owned() } else { MANIFEST.to_owned() });
        if !links.media_type.is_empty() && links.media_type != media_type {
            return Err(layout
                .wrong(format!("{name} is called {media_type:.100?}, and calls itself {:.100?}", links.media_type)));
        }
        let is_index = [INDEX, DOCKER_LIST].contains(&media_type.as_str());
        // What is both is read differently by different readers (CVE-2021-41190).
        let has_both = links.manifests.is_some() && (links.config.is_some() || links.layers.is_some());
        if has_both || !(is_index || [MANIFEST, DOCKER_MANIFEST].contains(&media_type.as_str())) {
            return Err(layout.wrong(format!("{name} ({media_type:.100}) is neither a manifest nor an index")));
        }
        if self.documents.len() >= MAX_DOCUMENTS || depth >= MAX_DEPTH {
            return Err(
                layout.wrong(format!("more than {MAX_DOCUMENTS} manifests, or indexes more than {MAX_DEPTH} deep"))
            );
        }
        descriptor.media_type.clone_from(&media_type);
        if descriptor.artifact_type.is_none() {
            descriptor.artifact_type.clone_from(&links.artifact_type);
        }
        if self.seen.insert(blob.sha256) {
            for child in links.manifests.unwrap_or_default() {
                self.document(child, depth + 1)?;
            }
            for blob in links.config.iter().chain(links.layers.iter().flatten()) {
                self.blob(blob)?;
            }
            self.documents.push(Document { bytes, media_type });
        }
        if descriptor.platform.is_none() && !is_index {
            descriptor.platform = links.config.as_ref().and_then(|config| self.platform(config));
        }
        Ok(descriptor)
    }

    /// Makes an index of what the layout lists for several platforms.
    fn index(&mut self, descriptors: Vec<Descriptor>) -> Result<Descriptor, PushError> {
        let manifests =
            descriptors.into_iter().map(|descriptor| self.document(descriptor, 1)).collect::<Result<Vec<_>, _>>()?;
        let document = Document::index(manifests, BTreeMap::new());
        let descriptor = document.descriptor();
        self.documents.push(document);
        Ok(descriptor)
    }

    fn blob(&mut self, descriptor: &Descriptor) -> Result<(), PushError> {
        let blob = descriptor.blob().map_err(|reason| self.layout.wrong(reason))?;
        if !self.seen.insert(blob.sha256) {
            return Ok(());
        }
        let name = format!("blobs/sha256/{}", blob.sha256);
        let Place { path, offset, size } = self.layout.place(&name)?;
        if size != blob.size {
            return Err(self.layout.wrong(format!("{name} has {size} bytes, expected {}", blob.size)));
        }
        self.layers.push(Layer::part(&descriptor.media_type, None, blob, path, offset));
        Ok(())
    }

    /// Returns what an image runs on, as its configuration says it.
    fn platform(&self, config: &Descriptor) -> Option<Platform> {
        let digest = config.blob().ok()?.sha256;
        let bytes = self.layout.read(&format!("blobs/sha256/{digest}"), MAX_CONFIG).ok()?;
        let platform: Platform = serde_json::from_slice(&bytes).ok()?;
        (!platform.architecture.is_empty() && !platform.os.is_empty()).then_some(platform)
    }
}

/// Lists the files of an archive. Those of a compressed one are put into the cache.
fn archive(path: &Path, cache: &Cache) -> Result<BTreeMap<String, Place>, PushError> {
    let wrong = |reason: String| PushError::Layout { path: path.to_owned(), reason };
    let mut file = fs::open(path)?;
    let length = file.metadata().context("stat", path)?.len();
    let mut start = [0; 4];
    let is_short = file.read_exact(&mut start).is_err();
    file.rewind().context("rewind", path)?;
    if is_short {
        return Err(wrong("is no archive".to_owned()));
    }
    let file = BufReader::with_capacity(1 << 17, file);
    let unpacked: Box<dyn Read> = match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::with_buffer(file).context("read", path)?),
        _ => {
            let mut archive = tar::Archive::new(file);
            let entries = archive.entries_with_seek().context("read", path)?;
            return list(entries, path, &mut |entry| {
                let (offset, size) = (entry.raw_file_position(), entry.size());
                match offset.checked_add(size).filter(|end| *end <= length) {
                    Some(_) => Ok(Place { path: path.to_owned(), offset, size }),
                    None => Err(wrong("is cut off".to_owned())),
                }
            });
        }
    };
    let mut archive = tar::Archive::new(unpacked.take(MAX_UNPACKED));
    let entries = archive.entries().context("read", path)?;
    list(entries, path, &mut |entry| {
        let mut writer = cache.writer().map_err(|error| wrong(error.to_string()))?;
        std::io::copy(entry, &mut writer).context("unpack", path)?;
        let blob = writer.commit().map_err(|error| wrong(error.to_string()))?;
        Ok(Place { path: blob.path, offset: 0, size: blob.size })
    })
}

type Take<'a, R> = dyn FnMut(&mut tar::Entry<'_, R>) -> Result<Place, PushError> + 'a;

fn list<R: Read>(
    entries: tar::Entries<'_, R>,
    path: &Path,
    take: &mut Take<'_, R>,
) -> Result<BTreeMap<String, Place>, PushError> {
    let wrong = |reason: String| PushError::Layout { path: path.to_owned(), reason };
    let mut places = BTreeMap::new();
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(|error| wrong(format!("cannot be read as an archive: {error}")))?;
        if count >= MAX_ENTRIES {
            return Err(wrong(format!("has more than {MAX_ENTRIES} entries")));
        }
        if !matches!(entry.header().entry_type(), tar::EntryType::Regular | tar::EntryType::Continuous) {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
        let place = take(&mut entry)?;
        // Which of two would count depends on the reader (CVE-2025-62518).
        if places.insert(name.clone(), place).is_some() {
            return Err(wrong(format!("{name:.100?} is there twice")));
        }
    }
    Ok(places)
}

impl From<FsError> for PushError {
    fn from(error: FsError) -> Self {
        PushError::Fs(error)
    }
}
