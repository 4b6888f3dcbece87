//! Which disk is installed to, and whether it may be.

use ksos_formats::install::{HEAD, Install};

use crate::disk::gpt::Table;
use crate::disk::probe::{Content, identify};
use crate::sys::{Disk, Sys, read_line};

use super::{InstallError, Request, Wanted, device_path, devices};

/// How long a disk that is named may take to appear, in milliseconds.
const WAIT_MS: u64 = 20_000;
/// Pause between two looks, in milliseconds.
const PAUSE_MS: u64 = 250;
/// What is looked at of the end of a disk, in bytes: the backup of a partition table, and marks of RAID members.
const TAIL: u64 = 1 << 20;

/// A disk that may be written to.
pub struct Target {
    /// Device node.
    pub path: String,
    /// The disk, open for writing.
    pub disk: Box<dyn Disk>,
    /// What is overwritten; `None` for nothing.
    pub content: Option<String>,
}

/// Chooses the disk and checks it. `media` are the devices that hold the medium.
///
/// # Errors
/// [`InstallError`]: nothing was written then.
pub fn choose(sys: &dyn Sys, request: &Request, install: &Install, media: &[String]) -> Result<Target, InstallError> {
    let path = match &request.disk {
        Wanted::Path(path) => named(sys, path)?,
        Wanted::Auto => only(sys, install, media)?,
    };
    if media.contains(&path) {
        return Err(InstallError::IsMedium { path });
    }
    if attribute(sys, &path, "ro").as_deref() == Some("1") {
        return Err(InstallError::ReadOnly { path });
    }
    let disk = sys.open_disk(&path, true)?;
    let (size, sector) = (disk.size(), disk.sector_size());
    if sector != 512 {
        return Err(InstallError::Sectors { path, sector });
    }
    // The backup of the table needs 33 sectors behind the partitions.
    let minimum = install.minimum_disk.max(install.size.saturating_add(HEAD));
    if size < minimum {
        return Err(InstallError::TooSmall { path, size, minimum });
    }
    let content = content(sys, &path, disk.as_ref())?;
    match content {
        Some(content) if !request.wipe => Err(InstallError::NotBlank { path, content }),
        content => Ok(Target { path, disk, content }),
    }
}

fn attribute(sys: &dyn Sys, path: &str, name: &str) -> Option<String> {
    let device = path.trim_start_matches("/dev/").replace('/', "!");
    read_line(sys, &format!("/sys/block/{device}/{name}"))
}

fn describe(sys: &dyn Sys, path: &str) -> String {
    let sectors = attribute(sys, path, "size").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    format!("{path} ({} MiB)", sectors >> 11)
}

fn list(sys: &dyn Sys, paths: &[String]) -> String {
    let texts: Vec<String> = paths.iter().map(|path| describe(sys, path)).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

/// Returns the path of a disk that is named, once it is there.
fn named(sys: &dyn Sys, path: &str) -> Result<String, InstallError> {
    let deadline = sys.uptime_ms() + WAIT_MS;
    loop {
        let disks: Vec<String> = devices(sys).iter().map(|name| device_path(name)).collect();
        if disks.iter().any(|disk| disk == path) {
            return Ok(path.to_owned());
        }
        if sys.uptime_ms() >= deadline {
            return Err(InstallError::NoDisk { path: path.to_owned(), seen: list(sys, &disks) });
        }
        sys.sleep_ms(PAUSE_MS);
    }
}

/// Returns the only disk that could be meant: large enough, writable, not removable, not the medium.
fn only(sys: &dyn Sys, install: &Install, media: &[String]) -> Result<String, InstallError> {
    let could_be = |path: &String| {
        let is = |name: &str| attribute(sys, path, name).as_deref() == Some("1");
        let sectors = attribute(sys, path, "size").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        // Boot areas of memory cards are devices of their own, and CD drives are removable.
        let special = ["boot0", "boot1", "rpmb"].iter().any(|end| path.ends_with(end)) || path.starts_with("/dev/sr");
        !special && !is("removable") && !is("ro") && sectors >= install.minimum_disk / 512 && !media.contains(path)
    };
    let mut disks: Vec<String> = devices(sys).iter().map(|name| device_path(name)).filter(could_be).collect();
    match (disks.len(), disks.pop()) {
        (1, Some(path)) => Ok(path),
        (_, last) => {
            disks.extend(last);
            Err(InstallError::NotOne { minimum: install.minimum_disk >> 20, seen: list(sys, &disks) })
        }
    }
}

/// Says what a disk holds, if it holds anything: a partition table, something at its beginning or at its end.
fn content(sys: &dyn Sys, path: &str, disk: &dyn Disk) -> Result<Option<String>, InstallError> {
    if let Ok(table) = Table::read(disk) {
        let names: Vec<&str> = table.partitions.iter().map(|partition| partition.name.as_str()).collect();
        return Ok(Some(format!("a partition table with {} partitions ({})", names.len(), names.join(" "))));
    }
    let mut head = vec![0; HEAD as usize];
    disk.read_at(0, &mut head)?;
    match identify(&head) {
        Content::Blank => {}
        Content::Ext4(ext4) => return Ok(Some(format!("an ext4 file system labelled {:?}", ext4.label))),
        // A signature at the end of the first sector is that of a partition table, too.
        Content::Foreign(what) => return Ok(Some(what)),
        Content::Unknown => return Ok(Some("unknown data".to_owned())),
    }
    let mut tail = vec![0; TAIL as usize];
    disk.read_at(disk.size() - TAIL, &mut tail)?;
    if tail.iter().any(|byte| *byte != 0) {
        return Ok(Some("data at its end".to_owned()));
    }
    let device = path.trim_start_matches("/dev/").replace('/', "!");
    let directory = format!("/sys/block/{device}");
    let names = sys.list(&directory).unwrap_or_default();
    let known = names.iter().any(|name| sys.kind(&format!("{directory}/{name}/partition")).is_some());
    Ok(known.then(|| "partitions that the kernel knows".to_owned()))
}
