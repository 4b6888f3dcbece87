//! File operations below a root directory: `/` on a machine, a temporary directory in tests.

#![expect(clippy::disallowed_methods, reason = "`sys` is where the runtime touches files; every read has a limit")]

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;

use super::{Error, FileKind, PlacedFile, Result, below};

/// Deepest directory nesting that a tree copy or removal follows.
const DEPTH_LIMIT: u32 = 64;

/// File operations below `root`.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
}

impl Files {
    /// Returns operations below `root`.
    pub(super) fn below(root: impl Into<PathBuf>) -> Self {
        Files { root: root.into() }
    }

    /// Returns where `path` is on the host.
    pub(super) fn host(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = fs::File::open(self.host(path)).map_err(|source| Error::new("read", path, source))?;
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|source| Error::new("read", path, source))?;
        if bytes.len() as u64 > limit {
            let large = format!("the file has more than {limit} bytes");
            return Err(Error::new("read", path, io::Error::new(io::ErrorKind::FileTooLarge, large)));
        }
        Ok(bytes)
    }

    pub(super) fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let write = || fs::OpenOptions::new().write(true).open(self.host(path))?.write_all(bytes);
        write().map_err(|source| Error::new("write", path, source))
    }

    pub(super) fn replace(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.put(path, bytes, mode, true)
    }

    pub(super) fn replace_soon(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.put(path, bytes, mode, false)
    }

    fn put(&self, path: &str, bytes: &[u8], mode: u32, wait: bool) -> Result<()> {
        let target = self.host(path);
        let temporary = self.host(&format!("{path}.new"));
        let replace = || {
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
            file.write_all(bytes)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            if wait {
                file.sync_all()?;
            }
            fs::rename(&temporary, &target)?;
            if wait && let Some(parent) = target.parent() {
                fs::File::open(parent)?.sync_all()?;
            }
            Ok(())
        };
        replace().map_err(|source: io::Error| Error::new("write", path, source))
    }

    pub(super) fn append(&self, path: &str, bytes: &[u8]) -> Result<u64> {
        let append = || {
            let mut file = fs::OpenOptions::new().append(true).create(true).mode(0o640).open(self.host(path))?;
            file.write_all(bytes)?;
            Ok(file.metadata()?.len())
        };
        append().map_err(|source: io::Error| Error::new("append to", path, source))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<()> {
        fs::rename(self.host(from), self.host(to)).map_err(|source| Error::new("rename", from, source))
    }

    pub(super) fn remove(&self, path: &str) -> Result<()> {
        fs::remove_file(self.host(path)).map_err(|source| Error::new("remove", path, source))
    }

    pub(super) fn list(&self, path: &str) -> Result<Vec<String>> {
        let list = || {
            let mut names = Vec::new();
            for entry in fs::read_dir(self.host(path))? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort();
            Ok(names)
        };
        list().map_err(|source: io::Error| Error::new("list", path, source))
    }

    pub(super) fn make_directory(&self, path: &str, mode: u32) -> Result<()> {
        let host = self.host(path);
        if host.is_dir() {
            return Ok(());
        }
        let make = || {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&host)?;
            fs::set_permissions(&host, fs::Permissions::from_mode(mode))
        };
        make().map_err(|source| Error::new("create directory", path, source))
    }

    pub(super) fn set_mode(&self, path: &str, mode: u32) -> Result<()> {
        fs::set_permissions(self.host(path), fs::Permissions::from_mode(mode))
            .map_err(|source| Error::new("set mode of", path, source))
    }

    pub(super) fn symlink(&self, target: &str, path: &str) -> Result<()> {
        std::os::unix::fs::symlink(target, self.host(path)).map_err(|source| Error::new("link", path, source))
    }

    pub(super) fn kind(&self, path: &str) -> Option<FileKind> {
        let kind = fs::metadata(self.host(path)).ok()?.file_type();
        Some(match () {
            () if kind.is_file() => FileKind::File,
            () if kind.is_dir() => FileKind::Directory,
            () => FileKind::Other,
        })
    }

    pub(super) fn is_link(&self, path: &str) -> bool {
        fs::symlink_metadata(self.host(path)).is_ok_and(|metadata| metadata.is_symlink())
    }

    pub(super) fn metadata(&self, path: &str) -> Result<fs::Metadata> {
        fs::metadata(self.host(path)).map_err(|source| Error::new("stat", path, source))
    }

    pub(super) fn copy_tree(&self, from: &str, to: &str) -> Result<()> {
        copy_tree(&self.host(from), &self.host(to), 0).map_err(|source| Error::new("copy", from, source))
    }

    pub(super) fn remove_tree(&self, path: &str) -> Result<()> {
        let host = self.host(path);
        let Ok(metadata) = fs::symlink_metadata(&host) else { return Ok(()) };
        let removed = if metadata.is_dir() {
            delete_below(&host, metadata.dev(), 0);
            fs::remove_dir(&host)
        } else {
            fs::remove_file(&host)
        };
        removed.map_err(|source| Error::new("remove", path, source))
    }

    pub(super) fn read_below(&self, tree: &str, path: &str, limit: u64) -> Result<Vec<u8>> {
        below::read(&self.host(tree), tree, path, limit).map_err(|source| Error::new("read", path, source))
    }

    pub(super) fn place(&self, file: &PlacedFile<'_>) -> Result<()> {
        below::place(&self.host(file.tree), file).map_err(|source| Error::new("write", file.path, source))
    }

    pub(super) fn copy_hashed(&self, from: &str, to: &str) -> Result<Digest> {
        let copy = || {
            let mut source = fs::File::open(self.host(from))?;
            let mut target = fs::File::create(self.host(to))?;
            let mut hasher = Hasher::new();
            let mut buffer = vec![0; 1 << 20];
            loop {
                let count = source.read(&mut buffer)?;
                let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
                hasher.update(bytes);
                target.write_all(bytes)?;
            }
            Ok(hasher.finish())
        };
        copy().map_err(|source: io::Error| Error::new("copy", from, source))
    }
}

/// Copies one file, directory or link, and for a directory what is below it.
fn copy_tree(from: &Path, to: &Path, depth: u32) -> io::Result<()> {
    if depth > DEPTH_LIMIT {
        return Err(io::Error::other(format!("more than {DEPTH_LIMIT} directories deep")));
    }
    let metadata = fs::symlink_metadata(from)?;
    let kind = metadata.file_type();
    if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
    } else if kind.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy_tree(&from.join(&name), &to.join(&name), depth + 1)?;
        }
    } else if kind.is_file() {
        fs::copy(from, to)?;
    } else {
        let what = if kind.is_fifo() { "a fifo" } else { "a device or socket" };
        return Err(io::Error::other(format!("{} is {what}", from.display())));
    }
    std::os::unix::fs::lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    if !kind.is_symlink() {
        fs::set_permissions(to, metadata.permissions())?;
    }
    Ok(())
}

/// Removes all below `directory` that is on the device `device`; other mounts stay.
pub(super) fn delete_below(directory: &Path, device: u64, depth: u32) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.dev() != device || depth > DEPTH_LIMIT {
            continue;
        }
        // Failures are left alone: what stays costs memory, and nothing below the new root depends on it.
        if metadata.is_dir() {
            delete_below(&path, device, depth + 1);
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}
