//! Images in tar archives, compressed or not: OCI layouts (`skopeo copy … oci-archive:`, `docker save` since version
//! 25), and what `docker save` wrote before (Docker image specification 1.2, "Combined Image JSON + Filesystem
//! Changeset Format"): `manifest.json`, configurations, and layers as plain tar.
//!
//! The archive is read in passes and never unpacked to disk: names in it are keys, links are followed in memory.
//! Limits: [`MAX_ENTRIES`] entries, [`MAX_UNPACKED`] bytes once decompressed.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;
use serde::Deserialize;
use tar::EntryType;

use super::{Documents, ImageError, Local, Named, PinnedImage, Wanted, document_limit, layout};
use crate::cache::{Blob, Cache};
use crate::effects::fs::{self, Context};
use crate::oci;
use crate::oci::document::{self, Descriptor, ImageBlob, MAX_CONFIG, MAX_DOCUMENT};
use crate::oci::reference::Reference;

/// The most entries of an archive.
const MAX_ENTRIES: usize = 100_000;
/// The most bytes of an archive once it is decompressed.
const MAX_UNPACKED: u64 = 64 << 30;
/// Entries up to this size are kept from the first pass, in bytes.
const KEEP: u64 = 256 << 10;
/// What is kept from the first pass at most, in bytes.
const KEEP_ALL: usize = 32 << 20;
/// Links that lead to a file at most.
const MAX_LINKS: usize = 8;

/// An archive whose entries are known.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    entries: BTreeMap<String, Item>,
    kept: BTreeMap<String, Vec<u8>>,
    form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    File(u64),
    Link(String),
}

#[derive(Debug)]
enum Form {
    Oci(Vec<Descriptor>),
    Docker(Vec<DockerImage>),
}

/// One image of `manifest.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

impl Archive {
    /// Reads what is in the archive at `path`.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let mut archive = Archive {
            path: path.to_owned(),
            entries: BTreeMap::new(),
            kept: BTreeMap::new(),
            form: Form::Docker(Vec::new()),
        };
        archive.index()?;
        archive.form = if archive.entries.contains_key("index.json") {
            let marker = archive.text("oci-layout", MAX_DOCUMENT)?;
            Form::Oci(layout::parse(path, &marker, &archive.text("index.json", MAX_DOCUMENT)?)?)
        } else if archive.entries.contains_key("manifest.json") {
            let text = archive.text("manifest.json", MAX_DOCUMENT)?;
            let images: Vec<DockerImage> = serde_json::from_slice(&text)
                .map_err(|error| ImageError::malformed(path, format!("manifest.json is malformed: {error}")))?;
            Form::Docker(images)
        } else {
            let reason = "it has neither index.json (OCI archive) nor manifest.json (docker save)";
            return Err(ImageError::malformed(path, reason));
        };
        Ok(archive)
    }

    /// Learns the names, sizes and links of all entries, and keeps small ones.
    fn index(&mut self) -> Result<(), ImageError> {
        let (mut entries, mut kept, mut total) = (BTreeMap::new(), BTreeMap::new(), 0);
        self.walk(&mut |name, kind, size, link, body| {
            let item = match kind {
                EntryType::Symlink => Item::Link(beside(&name, &link.unwrap_or_default())?),
                EntryType::Link => Item::Link(normal(&link.unwrap_or_default())?),
                _ => Item::File(size),
            };
            if size <= KEEP && item == Item::File(size) && total + size as usize <= KEEP_ALL {
                let mut bytes = Vec::new();
                body.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
                total += bytes.len();
                kept.insert(name.clone(), bytes);
            }
            match entries.insert(name.clone(), item) {
                None => Ok(true),
                // Which of two would count depends on the reader (CVE-2025-62518).
                Some(_) => Err(format!("{name:?} is there twice")),
            }
        })?;
        (self.entries, self.kept) = (entries, kept);
        Ok(())
    }

    /// Calls `visit` with name, kind, size, link target and body of every file and link, until it returns false.
    fn walk(&self, visit: &mut Visit<'_>) -> Result<(), ImageError> {
        let unreadable = |error: io::Error| ImageError::malformed(&self.path, format!("cannot be read: {error}"));
        let mut archive = tar::Archive::new(decompressed(&self.path)?);
        for (count, entry) in archive.entries().map_err(unreadable)?.enumerate() {
            let mut entry = entry.map_err(unreadable)?;
            if count >= MAX_ENTRIES {
                return Err(ImageError::malformed(&self.path, format!("has more than {MAX_ENTRIES} entries")));
            }
            let kind = entry.header().entry_type();
            if !matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::Symlink | EntryType::Link) {
                continue;
            }
            let refused = |reason: String| ImageError::malformed(&self.path, reason);
            let name = normal(&String::from_utf8_lossy(&entry.path_bytes())).map_err(refused)?;
            let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
            let size = if kind.is_file() { entry.size() } else { 0 };
            if !visit(name, kind, size, link, &mut entry).map_err(refused)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns the file that a name leads to, and its size.
    fn lead<'a>(&'a self, name: &'a str) -> Result<(&'a str, u64), ImageError> {
        let mut name = name;
        for _ in 0..MAX_LINKS {
            match self.entries.get(name) {
                Some(Item::File(size)) => return Ok((name, *size)),
                Some(Item::Link(target)) => name = target,
                None => return Err(ImageError::Missing { path: self.path.clone(), entry: name.to_owned() }),
            }
        }
        Err(ImageError::malformed(&self.path, format!("{name:?} leads through more than {MAX_LINKS} links")))
    }

    /// Returns a small file whole.
    fn text(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let (name, size) = self.lead(name)?;
        if let Some(bytes) = self.kept.get(name) {
            return Ok(bytes.clone());
        }
        if size > limit {
            let reason = format!("{name:?} has {size} bytes; at most {limit} are accepted");
            return Err(ImageError::malformed(&self.path, reason));
        }
        let mut found = None;
        self.files(&[name], &mut |_, body| {
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes).context("read", &self.path)?;
            found = Some(bytes);
            Ok(())
        })?;
        found.ok_or_else(|| ImageError::Missing { path: self.path.clone(), entry: name.to_owned() })
    }

    /// Calls `visit` with each of these files, in the order of the archive.
    fn files(
        &self,
        names: &[&str],
        visit: &mut dyn FnMut(&str, &mut dyn Read) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        let mut left = names.len();
        let mut failure = None;
        self.walk(&mut |name, kind, _, _, body| {
            if kind.is_file() && names.contains(&name.as_str()) {
                left -= 1;
                if let Err(error) = visit(&name, body) {
                    failure = Some(error);
                    return Ok(false);
                }
            }
            Ok(left > 0)
        })?;
        failure.map_or(Ok(()), Err)
    }

    /// Finds the image that `reference` names in what `docker save` wrote.
    fn docker<'a>(&self, images: &'a [DockerImage], reference: &Reference) -> Result<&'a DockerImage, ImageError> {
        let is_named = |image: &&DockerImage| {
            let tags = image.repo_tags.iter().flatten();
            tags.filter_map(|tag| tag.parse::<Reference>().ok()).any(|tag| tag.or_latest().has_tag_of(reference))
        };
        match (images.iter().find(is_named), images) {
            (Some(image), _) | (None, [image]) => Ok(image),
            (None, []) => Err(ImageError::malformed(&self.path, "manifest.json names no image")),
            (None, _) => {
                let found = images.iter().flat_map(|image| image.repo_tags.iter().flatten()).cloned().collect();
                Err(ImageError::Names { wanted: reference.to_string(), found })
            }
        }
    }

    /// Makes the manifest that a saved image has not: returns it and the file of each layer.
    fn convert(&self, image: &DockerImage) -> Result<(Vec<u8>, BTreeMap<Digest, String>), ImageError> {
        let config = self.text(&image.config, MAX_CONFIG)?;
        let digest = Digest::of(&config);
        let stem = image.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
        if let Ok(expected) = stem.parse::<Digest>()
            && expected != digest
        {
            return Err(ImageError::Digest { what: "configuration", expected, actual: digest });
        }
        let config = ImageBlob { media_type: document::CONFIG.to_owned(), digest, size: config.len() as u64 };
        let files: Vec<&str> =
            image.layers.iter().map(|layer| Ok(self.lead(layer)?.0)).collect::<Result<_, ImageError>>()?;
        let hashed = self.hash(&files)?;
        let layers: Vec<ImageBlob> = files.iter().filter_map(|file| hashed.get(*file).cloned()).collect();
        let places = hashed.into_iter().map(|(file, blob)| (blob.digest, file)).collect();
        Ok((oci::manifest_bytes(&config, &layers), places))
    }

    /// Hashes files that are layers.
    fn hash(&self, files: &[&str]) -> Result<BTreeMap<String, ImageBlob>, ImageError> {
        let mut unique = files.to_vec();
        unique.sort_unstable();
        unique.dedup();
        let mut hashed = BTreeMap::new();
        self.files(&unique, &mut |name, body| {
            let mut start = Vec::new();
            body.take(4).read_to_end(&mut start).context("read", &self.path)?;
            let mut hasher = Hasher::new();
            hasher.update(&start);
            let rest = io::copy(body, &mut hasher).context("read", &self.path)?;
            let media_type = match start[..] {
                [0x1f, 0x8b, ..] => "application/vnd.oci.image.layer.v1.tar+gzip",
                [0x28, 0xb5, 0x2f, 0xfd] => "application/vnd.oci.image.layer.v1.tar+zstd",
                _ => "application/vnd.oci.image.layer.v1.tar",
            };
            let size = start.len() as u64 + rest;
            let blob = ImageBlob { media_type: media_type.to_owned(), digest: hasher.finish(), size };
            hashed.insert(name.to_owned(), blob);
            Ok(())
        })?;
        Ok(hashed)
    }

    fn document(&self, blob: &ImageBlob) -> Result<Vec<u8>, ImageError> {
        match &self.form {
            Form::Oci(_) => self.text(&blob_name(&blob.digest), document_limit(blob)),
            // Only configurations are asked for by digest, and their files are found by it.
            Form::Docker(images) => {
                for image in images {
                    let bytes = self.text(&image.config, document_limit(blob))?;
                    if Digest::of(&bytes) == blob.digest {
                        return Ok(bytes);
                    }
                }
                Err(ImageError::Missing { path: self.path.clone(), entry: format!("sha256:{}", blob.digest) })
            }
        }
    }
}

/// What is called with each entry; an error is what is wrong with the archive.
type Visit<'a> = dyn FnMut(String, EntryType, u64, Option<String>, &mut dyn Read) -> Result<bool, String> + 'a;

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{digest}")
}

/// Removes `.` components; refuses what leads out of the archive.
fn normal(name: &str) -> Result<String, String> {
    if name.starts_with('/') || name.split('/').any(|part| part == "..") {
        return Err(format!("{name:?} leads out of the archive"));
    }
    Ok(name.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/"))
}

/// Resolves the target of the symbolic link at `name`.
fn beside(name: &str, target: &str) -> Result<String, String> {
    let refused = || format!("the link {name:?} leads out of the archive");
    if target.starts_with('/') {
        return Err(refused());
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or_else(refused)?),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Opens a file and undoes its compression, if any.
fn decompressed(path: &Path) -> Result<Box<dyn Read>, ImageError> {
    let mut file = fs::open(path)?;
    let mut start = Vec::new();
    (&mut file).take(4).read_to_end(&mut start).context("read", path)?;
    io::Seek::rewind(&mut file).context("rewind", path)?;
    let file = io::BufReader::with_capacity(1 << 17, file);
    let reader: Box<dyn Read> = match start[..] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::with_buffer(file).context("read", path)?),
        _ => Box::new(file),
    };
    Ok(Box::new(Limited { reader, left: MAX_UNPACKED }))
}

/// Fails after so many bytes.
struct Limited<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {MAX_UNPACKED} bytes when decompressed"))
        })?;
        Ok(count)
    }
}

impl Documents for Archive {
    fn named(&self, wanted: &Wanted<'_>) -> Result<Named, ImageError> {
        match &self.form {
            Form::Oci(entries) => {
                let blob = layout::entry(&self.path, entries, wanted)?;
                let bytes = self.document(&blob)?;
                super::verify("manifest", &blob, &bytes)?;
                Ok(Named { media_type: blob.media_type, bytes })
            }
            Form::Docker(images) => {
                let (bytes, _) = self.convert(self.docker(images, wanted.reference)?)?;
                Ok(Named { media_type: document::MANIFEST.to_owned(), bytes })
            }
        }
    }

    fn manifest(&self, blob: &ImageBlob) -> Result<Vec<u8>, ImageError> {
        self.document(blob)
    }

    fn config(&self, blob: &ImageBlob) -> Result<Vec<u8>, ImageError> {
        self.document(blob)
    }
}

impl Local for Archive {
    fn take(&self, cache: &Cache, image: &PinnedImage) -> Result<Vec<Blob>, ImageError> {
        let cached = |blob: &ImageBlob| cache.blob(&blob.digest, Some(blob.size));
        let missing: Vec<&ImageBlob> = image.blobs().into_iter().filter(|blob| cached(blob).is_none()).collect();
        if !missing.is_empty() {
            self.copy(cache, image, &missing)?;
        }
        image
            .blobs()
            .into_iter()
            .map(|blob| {
                let lost = || ImageError::Missing { path: self.path.clone(), entry: format!("sha256:{}", blob.digest) };
                cached(blob).ok_or_else(lost)
            })
            .collect()
    }
}

impl Archive {
    /// Copies blobs into the cache in one pass.
    fn copy(&self, cache: &Cache, image: &PinnedImage, missing: &[&ImageBlob]) -> Result<(), ImageError> {
        let mut places: BTreeMap<&str, &ImageBlob> = BTreeMap::new();
        let names: Vec<(String, &ImageBlob)> = match &self.form {
            Form::Oci(_) => missing.iter().map(|blob| (blob_name(&blob.digest), *blob)).collect(),
            Form::Docker(images) => {
                let reference = image.reference.parse::<Reference>();
                let reference = reference.map_err(|error| ImageError::malformed(&self.path, error.to_string()))?;
                let saved = self.docker(images, &reference)?;
                let (manifest, mut files) = self.convert(saved)?;
                cache.insert(&manifest)?;
                files.insert(image.config.digest, saved.config.clone());
                missing.iter().filter_map(|blob| Some((files.get(&blob.digest)?.clone(), *blob))).collect()
            }
        };
        for (name, blob) in &names {
            places.insert(self.lead(name)?.0, blob);
        }
        let files: Vec<&str> = places.keys().copied().collect();
        self.files(&files, &mut |name, body| layout::copy(cache, places[name], body, &self.path).map(drop))
    }
}
