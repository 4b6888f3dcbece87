//! OCI layouts as outputs, each a tar that `skopeo`, `podman` and `ctr` read: the container image of the root file
//! system, the same for several architectures at once, and the compressed disk image as an artifact.

use std::collections::BTreeMap;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use ksos_formats::boot::ImageId;
use ksos_formats::{Arch, Digest};

use super::Source;
use super::record::Record;
use crate::cache;
use crate::effects::fs::{self, Context};
use crate::manifest::OutputFormat;
use crate::oci::artifact::{self, Identity};
use crate::oci::document::{INDEX, ImageBlob, MANIFEST, MAX_DOCUMENT};
use crate::oci::layout::{self, Item};
use crate::oci::reference::parse_digest;
use crate::ops::build::{Artifact, Built, Options, hash, sizes};
use crate::ops::{OpError, Session};
use crate::plan::SYSTEM_IMAGE;
use crate::registry::manifest::{EMPTY_BYTES, Index};
use crate::tree::{Content, Location};

/// Returns the tag of a version: what a tag cannot have is an underscore, as in Helm and in `publish`.
fn tag(version: &str) -> String {
    version.replace('+', "_")
}

fn name(image: &str, version: &str) -> String {
    format!("localhost/{image}:{}", tag(version))
}

/// Returns the full name of the container image of a system.
pub fn reference(image: &ImageId) -> String {
    name(&image.name, &image.version)
}

fn content(blob: &cache::Blob) -> Content {
    Content::host_file(blob.path.clone(), blob.digest, blob.size)
}

/// Writes a layout to the new file `path`.
fn write(path: &Path, index: Vec<u8>, blobs: Vec<Content>, epoch: u64) -> Result<(), OpError> {
    let mut target = BufWriter::with_capacity(1 << 20, fs::create_new(path)?);
    layout::write_tar(index, blobs, epoch, &mut target).map_err(crate::oci::OciError::from)?;
    Ok(target.flush().context("write", path)?)
}

/// Writes the container image of the root file system.
///
/// # Errors
/// When a blob cannot be read, or `path` not be written.
pub fn write_image(source: &Source<'_>, path: &Path) -> Result<(), OpError> {
    let image = &source.plan.image;
    let outputs = &source.steps[SYSTEM_IMAGE];
    let manifest = &outputs["manifest"];
    let item = Item {
        document: ImageBlob { media_type: MANIFEST.to_owned(), digest: manifest.digest, size: manifest.size },
        arch: Some(image.arch),
        artifact_type: None,
        tag: Some(tag(&image.version)),
        name: Some(reference(image)),
    };
    write(path, layout::index_of(&[item]), outputs.values().map(content).collect(), image.epoch)
}

/// Writes the compressed disk image as an artifact.
///
/// # Errors
/// When the disk image cannot be read, or `path` not be written.
pub fn write_artifact(source: &Source<'_>, path: &Path) -> Result<(), OpError> {
    let (compressed, blob) = source.compressed()?;
    let image = &source.plan.image;
    let identity = Identity { name: image.name.clone(), version: image.version.clone(), arch: image.arch };
    let file_name = format!("{}{}", source.plan.stem(), OutputFormat::DiskZst.suffix());
    let disk = Content::host_file(compressed.clone(), blob.sha256, blob.size);
    let manifest = artifact::of_file(&file_name, blob, compressed, Some(&identity)).manifest();
    let item = Item {
        document: ImageBlob {
            media_type: MANIFEST.to_owned(),
            digest: Digest::of(&manifest),
            size: manifest.len() as u64,
        },
        arch: None,
        artifact_type: Some(artifact::DISK_ARTIFACT.to_owned()),
        tag: Some(tag(&image.version)),
        name: None,
    };
    let blobs = vec![Content::inline(manifest), Content::inline(EMPTY_BYTES), disk];
    write(path, layout::index_of(&[item]), blobs, image.epoch)
}

/// Writes one image for all architectures of each image of which several were built as container images, and adds it to
/// the artifacts of the last of them.
///
/// # Errors
/// When one of the images cannot be read, or theirs not be written.
pub fn join(session: &Session, results: &mut [Result<Built, OpError>], options: &Options) -> Result<(), OpError> {
    let mut images: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    for (position, built) in results.iter().enumerate() {
        if let Ok(built) = built
            && image_of(built).is_some()
        {
            images.entry((built.name.clone(), built.version.clone())).or_default().push(position);
        }
    }
    for ((name, version), positions) in images.into_iter().filter(|(_, positions)| positions.len() > 1) {
        let members: Vec<&Built> = positions.iter().filter_map(|position| results[*position].as_ref().ok()).collect();
        let joined = join_one(session, &name, &version, &members, options)?;
        if let Some(Ok(built)) = positions.last().map(|position| &mut results[*position]) {
            built.artifacts.push(joined);
        }
    }
    Ok(())
}

fn image_of(built: &Built) -> Option<&Artifact> {
    built.artifacts.iter().find(|artifact| artifact.format == OutputFormat::OciImage.name())
}

fn join_one(
    session: &Session,
    image: &str,
    version: &str,
    members: &[&Built],
    options: &Options,
) -> Result<Artifact, OpError> {
    let directory = session.environment.directory.join(&options.out);
    let stem = format!("{image}-{version}");
    let file_name = format!("{stem}{}", OutputFormat::OciImage.suffix());
    let path = directory.join(&file_name);
    let _exclusive = session.cache.exclusive(&path)?;
    let mut parts = Vec::new();
    for built in members {
        let artifact = image_of(built).expect("only builds with an image are members");
        parts.push((built.arch, Part::read(&session.environment.directory.join(&artifact.path))?));
    }
    parts.sort_by_key(|(arch, _)| arch.debian());
    let mut key = ksos_formats::digest::Hasher::new();
    parts.iter().for_each(|(arch, part)| {
        key.field(arch.debian().as_bytes());
        key.field(&part.manifest.digest.0);
        key.field(&part.epoch.to_le_bytes());
    });
    let key = key.finish();
    let record = Record::load(&session.cache, &directory, &stem).filter(|record| record.key == key && !options.fresh);
    let mut record = record.unwrap_or_else(|| Record::new(key));
    if !record.is_current(&directory, &file_name) {
        let temporary = directory.join(format!(".{file_name}.tmp"));
        fs::remove_tree(&temporary)?;
        write_joined(&temporary, (image, version), &parts)?;
        fs::publish(&temporary, &path)?;
        record.wrote(&directory, &file_name);
        // Without a record it is written again.
        let _ = record.save(&session.cache, &directory, &stem);
    }
    let (size, allocated) = sizes(&path)?;
    Ok(Artifact {
        format: OutputFormat::OciImage.name().to_owned(),
        path: options.out.join(&file_name),
        size,
        allocated,
        sha256: options.hash.then(|| hash(&path)).transpose()?,
        files: Vec::new(),
        platforms: parts.iter().map(|(arch, _)| *arch).collect(),
    })
}

fn write_joined(path: &Path, (image, version): (&str, &str), parts: &[(Arch, Part)]) -> Result<(), OpError> {
    let item = |(arch, part): &(Arch, Part)| Item {
        document: part.manifest.clone(),
        arch: Some(*arch),
        artifact_type: None,
        tag: None,
        name: None,
    };
    let images = layout::index_of(&parts.iter().map(item).collect::<Vec<_>>());
    let whole = Item {
        document: ImageBlob { media_type: INDEX.to_owned(), digest: Digest::of(&images), size: images.len() as u64 },
        arch: None,
        artifact_type: None,
        tag: Some(tag(version)),
        name: Some(name(image, version)),
    };
    // One blob of several images is there once.
    let mut blobs: BTreeMap<Digest, Content> = BTreeMap::new();
    for (_, part) in parts {
        blobs.extend(part.blobs.iter().map(|blob| (blob.digest, blob.clone())));
    }
    let epoch = parts.iter().map(|(_, part)| part.epoch).max().unwrap_or_default();
    let blobs = std::iter::once(Content::inline(images)).chain(blobs.into_values()).collect();
    write(path, layout::index_of(&[whole]), blobs, epoch)
}

/// A layout of one image that this program wrote: its manifest, and where its blobs are in the tar.
struct Part {
    manifest: ImageBlob,
    blobs: Vec<Content>,
    epoch: u64,
}

impl Part {
    /// Reads names, sizes and places, and `index.json`.
    fn read(path: &Path) -> Result<Self, OpError> {
        let other = || OpError::OtherLayout { path: path.to_owned() };
        let mut archive = tar::Archive::new(fs::open(path)?);
        let (mut blobs, mut index, mut epoch) = (Vec::new(), Vec::new(), 0);
        for entry in archive.entries_with_seek().context("read", path)? {
            let mut entry = entry.context("read", path)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            epoch = entry.header().mtime().context("read", path)?;
            if let Some(digest) = name.strip_prefix("blobs/sha256/").filter(|digest| !digest.is_empty()) {
                let digest = digest.parse().map_err(|_| other())?;
                let location = Location::Slice { path: path.into(), offset: entry.raw_file_position() };
                blobs.push(Content { digest, size: entry.size(), location });
            } else if name == "index.json" {
                entry.by_ref().take(MAX_DOCUMENT).read_to_end(&mut index).context("read", path)?;
            }
        }
        let index = Index::parse(&index).map_err(|_| other())?;
        let [manifest] = index.manifests.as_slice() else { return Err(other()) };
        let digest = parse_digest(&manifest.digest).map_err(|_| other())?;
        let manifest = ImageBlob { media_type: manifest.media_type.clone(), digest, size: manifest.size };
        Ok(Part { manifest, blobs, epoch })
    }
}
