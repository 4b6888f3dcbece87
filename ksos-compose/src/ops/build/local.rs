//! Reads what is on this machine: overlays, local components, container image archives.

use std::path::Path;

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;

use super::stamp::Watch;
use crate::cache::stat::StatCache;
use crate::effects::fs;
use crate::manifest::ArchiveFormat;
use crate::ops::OpError;
use crate::plan::{LocalTree, Resolved};
use crate::source::archive::{self, Compression, Format, Limits};
use crate::tree::{Node, Tree};

/// Reads a directory as a tree: modes 0755 and 0644, owner root, times at the epoch.
///
/// # Errors
/// When a file cannot be read, or cannot be in an image.
pub fn directory(path: &Path, epoch: u64, stats: &StatCache, watch: &mut Watch) -> Result<LocalTree, OpError> {
    watch.below(path);
    let mut digest_of = |path: &Path, _: &std::fs::Metadata| stats.digest(path).map(|(digest, _)| digest);
    let tree = archive::directory::read(path, epoch as i64, &Limits::default(), &mut digest_of)?;
    let digest = listing(&tree);
    Ok(LocalTree { tree, digest })
}

/// Returns the digest over everything in a tree: paths, kinds, metadata, digests of contents.
pub fn listing(tree: &Tree) -> Digest {
    let mut hasher = Hasher::new();
    for (path, entry) in tree.iter() {
        hasher.field(path.as_bytes());
        let crate::tree::Meta { mode, uid, gid, mtime, xattrs } = &entry.meta;
        hasher.field(format!("{mode} {uid} {gid} {mtime}").as_bytes());
        hasher.field(&(xattrs.len() as u64).to_le_bytes());
        for (name, value) in xattrs {
            hasher.field(name.as_bytes());
            hasher.field(value);
        }
        match &entry.node {
            Node::Directory => hasher.field(b"directory"),
            Node::File(content) => hasher.field(format!("file {}", content.digest).as_bytes()),
            Node::Symlink(target) => hasher.field(format!("symlink {target}").as_bytes()),
            Node::HardLink(target) => hasher.field(format!("hard link {target}").as_bytes()),
            Node::CharacterDevice { major, minor } => hasher.field(format!("character {major} {minor}").as_bytes()),
            Node::BlockDevice { major, minor } => hasher.field(format!("block {major} {minor}").as_bytes()),
            Node::Fifo => hasher.field(b"fifo"),
            Node::Socket => hasher.field(b"socket"),
        }
    }
    hasher.finish()
}

/// Reads a file or directory that stands for a component.
///
/// # Errors
/// When it cannot be read.
pub fn content(
    path: &Path,
    format: Option<ArchiveFormat>,
    epoch: u64,
    stats: &StatCache,
    watch: &mut Watch,
) -> Result<Resolved, OpError> {
    if fs::metadata(path)?.is_dir() {
        return Ok(Resolved::Directory(directory(path, epoch, stats, watch)?));
    }
    watch.path(path);
    let (digest, size) = stats.digest(path)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let format = archive_format(format, &name);
    Ok(Resolved::File { path: path.to_owned(), name, digest, size, format })
}

/// Returns the format that a manifest states, or that a file name stands for; a name that says nothing is a plain file.
/// `None` is a Debian package.
pub fn archive_format(stated: Option<ArchiveFormat>, name: &str) -> Option<Format> {
    match stated {
        None if name.ends_with(".deb") => None,
        None => Some(Format::of_name(name).unwrap_or(Format::Plain)),
        Some(ArchiveFormat::Deb) => None,
        Some(ArchiveFormat::Raw) => Some(Format::Plain),
        Some(ArchiveFormat::Tar) => Some(Format::Tar(Compression::None)),
        Some(ArchiveFormat::TarGz) => Some(Format::Tar(Compression::Gzip)),
        Some(ArchiveFormat::TarXz) => Some(Format::Tar(Compression::Xz)),
        Some(ArchiveFormat::TarZst) => Some(Format::Tar(Compression::Zstd)),
        Some(ArchiveFormat::Cpio) => Some(Format::Cpio(Compression::None)),
        Some(ArchiveFormat::CpioGz) => Some(Format::Cpio(Compression::Gzip)),
        Some(ArchiveFormat::Zip) => Some(Format::Zip),
        Some(ArchiveFormat::Squashfs) => Some(Format::SquashFs),
    }
}
