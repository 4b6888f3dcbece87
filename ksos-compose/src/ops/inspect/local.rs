//! What is on this machine.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ksos_formats::boot::SlotMetadata;
use ksos_formats::layout;
use ksos_formats::update::{ENVELOPE_LIMIT, Envelope, RELEASE_FILE};

use super::{Beside, Inspection, IsoInfo, PartitionInfo, ReleaseInfo, SystemInfo};
use crate::cache::Cache;
use crate::effects::fs;
use crate::image::open::{Opened, open};
use crate::image::{DiskImage, ImageError, Partition, SLOT_FILES, System};
use crate::ops::build::release;
use crate::ops::build::supply::STATEMENT_LIMIT;
use crate::ops::verify_file::Statement;
use crate::ops::{OpError, Session, sums};
use crate::plan::packages::{self, ListedContent, ListedPackage};
use crate::source::archive::Look;

/// The largest list of contents that is read, in bytes.
const CONTENTS_LIMIT: u64 = 1 << 20;

/// Looks at the file or directory at `path`.
pub(super) fn inspect(session: &Session, path: &Path, target: &str) -> Result<Inspection, OpError> {
    let metadata = fs::metadata(path)?;
    let mut inspection = Inspection { target: target.to_owned(), ..Inspection::default() };
    if metadata.is_dir() {
        let found = release::listed(path, Path::new(target))?;
        inspection.kind = "update".to_owned();
        (inspection.size, inspection.allocated) = (found.size, Some(found.allocated));
        inspection.release = Some(release_info(path)?);
    } else {
        (inspection.size, inspection.allocated) = (metadata.size(), Some(metadata.blocks() * 512));
        image(&session.cache, path, &mut inspection)?;
    }
    inspection.beside = beside(path)?;
    Ok(inspection)
}

fn image(cache: &Cache, path: &Path, inspection: &mut Inspection) -> Result<(), OpError> {
    match open(cache, path)? {
        Opened::Disk { disk, compression } => {
            inspection.kind = "disk".to_owned();
            inspection.compression = compression.map(str::to_owned);
            inspection.disk = Some(disk.guid);
            for partition in &disk.partitions {
                inspection.partitions.push(partition_info(&disk, partition));
                let place = format!("partition {} {}", partition.number, partition.label);
                let found = System::of_slot(&disk, partition);
                take(cache, inspection, &place, found);
            }
        }
        Opened::Iso { iso, file, size } => {
            inspection.kind = "iso".to_owned();
            let files = iso.files.iter().map(|(path, file)| (path.clone(), file.size)).collect();
            inspection.iso = Some(IsoInfo { volume: iso.volume.clone(), boot: iso.boot.clone(), files });
            take(cache, inspection, "ISO 9660", System::of_iso(&iso, &file, size, path));
        }
        Opened::Other => inspection.kind = "file".to_owned(),
    }
    Ok(())
}

/// Adds the system that was found; one that is damaged is told.
fn take(cache: &Cache, inspection: &mut Inspection, place: &str, found: Result<Option<System<'_>>, ImageError>) {
    match found.and_then(|found| found.map(|system| system_info(cache, place, &system)).transpose()) {
        Ok(system) => inspection.systems.extend(system),
        Err(error) => inspection.faults.push(error.to_string()),
    }
}

fn partition_info(disk: &DiskImage, partition: &Partition) -> PartitionInfo {
    let Partition { number, label, type_guid, guid, flags: _, offset, size } = partition;
    PartitionInfo {
        number: *number,
        label: label.clone(),
        kind: type_name(&type_guid.to_string().to_uppercase()),
        guid: *guid,
        offset: *offset,
        size: *size,
        data: disk.part(partition).data(),
    }
}

fn type_name(guid: &str) -> String {
    match guid {
        layout::ESP_TYPE_GUID => "EFI system".to_owned(),
        layout::LINUX_TYPE_GUID => "Linux".to_owned(),
        // GNU GRUB manual, "BIOS installation".
        "21686148-6449-6E6F-744E-656564454649" => "BIOS boot".to_owned(),
        other => other.to_lowercase(),
    }
}

fn system_info(cache: &Cache, place: &str, system: &System<'_>) -> Result<SystemInfo, ImageError> {
    let SlotMetadata { format: _, image, kernel_release, root, kernel_sha256: _, initramfs_sha256: _, cmdline } =
        &system.metadata;
    let mut files = Vec::new();
    for name in SLOT_FILES {
        if let Some(file) = system.file(name)? {
            files.push((name.to_owned(), file.size()));
        }
    }
    let wanted = [(packages::PATH, packages::LIMIT), (packages::CONTENTS_PATH, CONTENTS_LIMIT)];
    let look = system.look(cache, &wanted)?.unwrap_or_default();
    let parsed = |path: &str| look.contents.get(path);
    let listed: Option<Vec<ListedContent>> =
        parsed(packages::CONTENTS_PATH).and_then(|bytes| serde_json::from_slice(bytes).ok());
    let packages: Option<Vec<ListedPackage>> =
        parsed(packages::PATH).and_then(|bytes| serde_json::from_slice(bytes).ok());
    let by_component = listed.is_some();
    let mut contents = listed.unwrap_or_else(|| directories(&look));
    contents.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    Ok(SystemInfo {
        place: place.to_owned(),
        name: image.name.clone(),
        version: image.version.clone(),
        arch: image.arch.to_string(),
        epoch: image.epoch,
        kernel_release: kernel_release.clone(),
        cmdline: cmdline.clone(),
        root_hash: root.verity.root_hash,
        files,
        contents,
        by_component,
        packages: packages.unwrap_or_default(),
    })
}

/// Sums up the first two levels of directories.
fn directories(look: &Look) -> Vec<ListedContent> {
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (path, size) in &look.files {
        let mut parts: Vec<&str> = path.split('/').collect();
        parts.pop();
        parts.truncate(2);
        let sum = sums.entry(format!("/{}", parts.join("/"))).or_default();
        *sum = (sum.0 + 1, sum.1 + size);
    }
    sums.into_iter().map(|(name, (files, bytes))| ListedContent { name, files, bytes }).collect()
}

fn release_info(path: &Path) -> Result<ReleaseInfo, OpError> {
    let file = path.join(RELEASE_FILE);
    let bytes = fs::read(&file, ENVELOPE_LIMIT)?;
    of_document(&bytes).ok_or(OpError::NoRelease { path: file })
}

/// Reads the document of a release in its envelope; nobody looks at the signatures.
pub(super) fn of_document(bytes: &[u8]) -> Option<ReleaseInfo> {
    let document = release::document(bytes)?;
    let envelope = Envelope::parse(bytes).ok()?;
    Some(ReleaseInfo {
        name: document.name,
        version: document.version.to_string(),
        arch: document.arch.to_string(),
        board: document.board,
        minimum_version: document.minimum_version.map(|version| version.to_string()),
        expires: document.expires,
        sha256: ksos_formats::Digest::of(&envelope.payload),
        slot_size: document.slot.size,
        signed_by: envelope.signatures.into_iter().map(|signature| signature.key_id).collect(),
    })
}

/// Looks for what a build writes beside its artifacts.
fn beside(path: &Path) -> Result<Vec<Beside>, OpError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found = Vec::new();
    let mut add = |what: &str, name: String, detail: String| {
        found.push(Beside { what: what.to_owned(), name, detail });
    };
    let signatures = |path: &Path| {
        let paths = (0..16).flat_map(|number| sums::signature_paths(path, number));
        let there = paths.filter(|path| fs::metadata(path).is_ok());
        there.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect::<Vec<_>>()
    };
    let list = directory.join(sums::FILE);
    if let Ok(text) = fs::read_to_string(&list, sums::LIMIT) {
        let lines = sums::parse(&text).unwrap_or_default();
        let listed = lines.iter().any(|line| line.name == name || line.name.starts_with(&format!("{name}/")));
        let detail = if listed { "lists it" } else { "does not list it" };
        add("checksums", sums::FILE.to_owned(), detail.to_owned());
        signatures(&list).into_iter().for_each(|name| add("signature", name, format!("of {}", sums::FILE)));
    }
    signatures(path).into_iter().for_each(|name| add("signature", name, "of the file".to_owned()));
    for other in fs::list(directory)? {
        let other = other.to_string_lossy().into_owned();
        for (suffix, what, detail) in [
            (".spdx.json", "sbom", "SPDX 2.3"),
            (".cdx.json", "sbom", "CycloneDX 1.6"),
            (".intoto.json", "provenance", "SLSA, not signed"),
            (".provenance.json", "provenance", "SLSA, signed"),
        ] {
            let Some(stem) = other.strip_suffix(suffix) else { continue };
            if !name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('.')) {
                continue;
            }
            let about = what != "provenance" || is_about(&directory.join(&other), &name);
            add(what, other.clone(), if about { detail } else { "SLSA, not about it" }.to_owned());
        }
    }
    Ok(found)
}

fn is_about(document: &Path, name: &str) -> bool {
    let Ok(bytes) = fs::read(document, 2 * STATEMENT_LIMIT) else { return false };
    let payload = Envelope::parse(&bytes).map_or(bytes, |envelope| envelope.payload);
    let about = |subject: &str| subject == name || subject.starts_with(&format!("{name}/"));
    Statement::parse(&payload).is_ok_and(|found| found.subject.iter().any(|subject| about(&subject.name)))
}
