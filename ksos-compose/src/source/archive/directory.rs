//! A directory of the host becomes a tree.
//!
//! What comes out depends on names, contents, links and the executable bits only: directories get mode 0755, files
//! 0755 when anyone may execute them and 0644 otherwise, everything belongs to root and has the time that the caller
//! gives. So the user, the umask and the time of a checkout do not matter. Extended attributes and hard links of the
//! host are not looked at. Contents stay where they are: the tree names them by host path and digest, and a file that
//! changes between this and the writing of an artifact shows as a wrong digest there.

use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ksos_formats::Digest;

use super::error::{ArchiveError, Failure, Fault, Step, text};
use super::{Limits, clamp_time};
use crate::effects::fs::{self, Context, FsError};
use crate::tree::{Content, Entry, Meta, Node, Tree, check_path};

/// Returns the digest of the host file at a path whose metadata is given, from a cache or by reading it.
pub type DigestOf<'a> = dyn FnMut(&Path, &Metadata) -> Result<Digest, FsError> + 'a;

/// Reads the directory at `root` (which may be a symbolic link to one), in the order of the names.
///
/// # Errors
/// [`ArchiveError`]: special files, names that are not UTF-8, more than the limits, a file that changed while it was
/// hashed.
pub fn read(root: &Path, epoch: i64, limits: &Limits, digest_of: &mut DigestOf<'_>) -> Result<Tree, ArchiveError> {
    let epoch = clamp_time(epoch);
    let mut walk = Walk { tree: Tree::new(epoch), epoch, limits, total: 0, digest_of };
    walk.directory(root, "").map_err(|failure| failure.named(root.display().to_string()))?;
    Ok(walk.tree)
}

/// Reads one regular file at `path` as a tree that holds it under `name`, with modes as [`read`] gives them.
///
/// # Errors
/// As [`read`]; also when `path` is not a regular file (symbolic links are followed).
pub fn read_file(
    path: &Path,
    name: &str,
    epoch: i64,
    limits: &Limits,
    digest_of: &mut DigestOf<'_>,
) -> Result<Tree, ArchiveError> {
    let epoch = clamp_time(epoch);
    let mut walk = Walk { tree: Tree::new(epoch), epoch, limits, total: 0, digest_of };
    let work = |walk: &mut Walk<'_, '_>| {
        check_path(name).map_err(|error| Failure::at(name, Fault::Path(error)))?;
        let metadata = std::fs::metadata(path).context("stat", path)?;
        walk.entry(path, name, &metadata)
    };
    work(&mut walk).map_err(|failure| failure.named(path.display().to_string()))?;
    Ok(walk.tree)
}

struct Walk<'a, 'b> {
    tree: Tree,
    epoch: i64,
    limits: &'a Limits,
    total: u64,
    digest_of: &'a mut DigestOf<'b>,
}

impl Walk<'_, '_> {
    fn directory(&mut self, host: &Path, path: &str) -> Step<()> {
        for name in fs::list(host)? {
            let name = text(name.as_bytes()).map_err(|fault| Failure::at(path, fault))?;
            let child = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            let host = host.join(name);
            let metadata = fs::symlink_metadata(&host)?;
            check_path(&child).map_err(|error| Failure::at(&child, Fault::Path(error)))?;
            self.entry(&host, &child, &metadata)?;
            if metadata.is_dir() {
                self.directory(&host, &child)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, host: &Path, path: &str, metadata: &Metadata) -> Step<()> {
        let at = |fault| Failure::at(path, fault);
        if self.tree.len() > self.limits.entries {
            return Err(at(Fault::EntriesLimit { limit: self.limits.entries }));
        }
        let kind = metadata.file_type();
        let (mode, node) = if kind.is_dir() {
            (0o755, Node::Directory)
        } else if kind.is_symlink() {
            (0o777, Node::Symlink(link_target(host, path)?))
        } else if kind.is_file() {
            let mode = if metadata.mode() & 0o111 != 0 { 0o755 } else { 0o644 };
            (mode, Node::File(self.content(host, metadata).map_err(at)?))
        } else {
            let kind = match kind {
                _ if kind.is_fifo() => "FIFO",
                _ if kind.is_socket() => "socket",
                _ => "device",
            };
            return Err(at(Fault::SpecialFile { kind }));
        };
        let entry = Entry { meta: Meta::root(mode, self.epoch), node };
        self.tree.insert(path, entry).map_err(|error| at(Fault::Path(error)))
    }

    fn content(&mut self, host: &Path, metadata: &Metadata) -> Result<Content, Fault> {
        let size = metadata.len();
        if size > self.limits.file {
            return Err(Fault::FileLimit { limit: self.limits.file });
        }
        self.total = self.total.saturating_add(size);
        if self.total > self.limits.total {
            return Err(Fault::TotalLimit { limit: self.limits.total });
        }
        let digest = (self.digest_of)(host, metadata)?;
        let after = std::fs::metadata(host).context("stat", host)?;
        let state = |metadata: &Metadata| {
            (
                metadata.dev(),
                metadata.ino(),
                metadata.len(),
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime_nsec(),
            )
        };
        match state(&after) == state(metadata) {
            true => Ok(Content::host_file(PathBuf::from(host), digest, size)),
            false => Err(Fault::Changed),
        }
    }
}

fn link_target(host: &Path, path: &str) -> Step<String> {
    let target = std::fs::read_link(host).context("read link", host)?;
    let target = text(target.as_os_str().as_bytes()).map_err(|fault| Failure::at(path, fault))?;
    Ok(target.to_owned())
}
