//! Unpacks tar archives onto disk, for toolchains: regular files, directories, links. Nothing leaves the root.
//!
//! Names with `..` or a leading slash, links whose target lies outside, writing through a symbolic link and devices are
//! errors. Owners and times are not kept; of the mode, only whether a file is executable.
#![expect(clippy::disallowed_methods, reason = "writes a tree of its own making, checked path by path")]

use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// The largest unpacked archive, in bytes.
const LIMIT: u64 = 4 << 30;

/// An archive that is not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The archive cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// An entry would be, or lead, outside the root, or is of a kind that has no place here.
    #[error("entry {path:?} {cause}")]
    Entry {
        /// Its name.
        path: String,
        /// What is wrong.
        cause: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// It is not a Debian package.
    #[error("{0}")]
    Deb(#[from] crate::source::apt::deb::DebError),
}

/// Unpacks the tar archive in `reader` below `root`, which exists. Returns the time of its newest regular file, in seconds
/// since 1970.
///
/// # Errors
/// [`ExtractError`]; what was unpacked until then stays.
pub fn unpack(reader: impl Read, root: &Path) -> Result<u64, ExtractError> {
    let mut archive = tar::Archive::new(reader.take(LIMIT));
    let mut newest = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            newest = newest.max(entry.header().mtime()?.min(u32::MAX.into()));
        }
        unpack_entry(&mut entry, root)?;
    }
    Ok(newest)
}

/// Makes the symbolic link `path` below `root`, if `target` stays inside.
///
/// # Errors
/// [`ExtractError`].
pub fn symbolic_link(root: &Path, path: &Path, target: &Path) -> Result<(), ExtractError> {
    let outside = || ExtractError::Entry {
        path: path.display().to_string(),
        cause: "is a symbolic link to outside the archive's root".to_owned(),
    };
    let target = relative_target(path, target).ok_or_else(outside)?;
    let at = root.join(path);
    std::os::unix::fs::symlink(target, &at).map_err(|source| ExtractError::Write { path: at, source })
}

fn unpack_entry(entry: &mut tar::Entry<'_, impl Read>, root: &Path) -> Result<(), ExtractError> {
    let shown = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let error = |cause: &str| ExtractError::Entry { path: shown.clone(), cause: cause.to_owned() };
    let path = entry.path()?.into_owned();
    let Some(path) = inside(&path) else { return Err(error("lies outside the archive's root")) };
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let at = root.join(&path);
    let write = |source| ExtractError::Write { path: at.clone(), source };
    let kind = entry.header().entry_type();
    if kind.is_dir() {
        return make_directory(root, &path).map_err(|cause| error(&cause));
    }
    if let Some(parent) = path.parent() {
        make_directory(root, parent).map_err(|cause| error(&cause))?;
    }
    let link = || -> Result<PathBuf, ExtractError> {
        let name = entry.link_name()?.ok_or_else(|| error("is a link without a target"))?;
        Ok(name.into_owned())
    };
    match kind {
        tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
            let executable = entry.header().mode()? & 0o111 != 0;
            remove(&at).map_err(write)?;
            let mut file = new_file(&at, executable).map_err(write)?;
            io::copy(entry, &mut file)?;
        }
        tar::EntryType::Symlink => {
            let outside = || error("is a symbolic link to outside the archive's root");
            let target = relative_target(&path, &link()?).ok_or_else(outside)?;
            remove(&at).map_err(write)?;
            std::os::unix::fs::symlink(target, &at).map_err(write)?;
        }
        tar::EntryType::Link => {
            let outside = || error("is a hard link to outside the archive's root");
            let target = inside(&link()?).ok_or_else(outside)?;
            if let Some(parent) = target.parent() {
                make_directory(root, parent).map_err(|cause| error(&cause))?;
            }
            remove(&at).map_err(write)?;
            fs::hard_link(root.join(target), &at).map_err(write)?;
        }
        _ => return Err(error("is a device or something else that a toolchain has no use for")),
    }
    Ok(())
}

/// Returns `path` without `.` components; none if it is absolute or has `..`.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(result)
}

/// Returns the target of the symbolic link at `link` as a relative path that stays inside the root; an absolute one is taken
/// as below the root.
fn relative_target(link: &Path, target: &Path) -> Option<PathBuf> {
    let depth = link.components().count() - 1;
    let mut level = if target.is_absolute() { 0 } else { depth };
    let mut result: PathBuf = if target.is_absolute() { (0..depth).map(|_| "..").collect() } else { PathBuf::new() };
    for component in target.components() {
        match component {
            Component::Normal(name) => {
                level += 1;
                result.push(name);
            }
            Component::ParentDir => {
                level = level.checked_sub(1)?;
                result.push("..");
            }
            Component::RootDir | Component::CurDir => {}
            Component::Prefix(_) => return None,
        }
    }
    if result.as_os_str().is_empty() {
        result.push(".");
    }
    Some(result)
}

/// Makes the directory `path` below `root`, refusing to go through anything that is not a directory.
fn make_directory(root: &Path, path: &Path) -> Result<(), String> {
    let mut at = root.to_owned();
    for component in path.components() {
        at.push(component);
        match fs::symlink_metadata(&at) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err("would be written through something that is not a directory".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&at).map_err(|error| format!("cannot be written: {error}"))?;
            }
            Err(error) => return Err(format!("cannot be written: {error}")),
        }
    }
    Ok(())
}

/// Removes the file or link at `path`, if there is one: a later archive replaces it, never writes through it.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn new_file(path: &Path, executable: bool) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, type, link target, content.
    type Entries<'a> = &'a [(&'a str, tar::EntryType, &'a str, &'a str)];

    fn archive(entries: Entries<'_>) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, target, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_size(content.len() as u64);
            // Raw, as a hostile writer would.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    use tar::EntryType as T;

    #[test]
    fn files_and_links_are_unpacked() {
        let root = tempfile::tempdir().unwrap();
        let entries: Entries<'_> = &[
            ("./", T::Directory, "", ""),
            ("./usr/bin/", T::Directory, "", ""),
            ("./usr/bin/a", T::Regular, "", "first"),
            ("usr/bin/b", T::Symlink, "a", ""),
            ("usr/bin/c", T::Symlink, "/usr/bin/a", ""),
            ("usr/lib/d", T::Symlink, "../bin/a", ""),
            ("usr/bin/e", T::Link, "./usr/bin/a", ""),
        ];
        unpack(archive(entries).as_slice(), root.path()).unwrap();
        for name in ["usr/bin/a", "usr/bin/b", "usr/bin/c", "usr/lib/d", "usr/bin/e"] {
            assert_eq!(fs::read_to_string(root.path().join(name)).unwrap(), "first", "{name}");
        }
        // A later archive replaces a link instead of writing through it.
        unpack(archive(&[("usr/bin/b", T::Regular, "", "second")]).as_slice(), root.path()).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("usr/bin/a")).unwrap(), "first");
        assert_eq!(fs::read_to_string(root.path().join("usr/bin/b")).unwrap(), "second");
    }

    #[test]
    fn escapes_are_refused() {
        let cases: [(&str, Entries<'_>, &str); 9] = [
            ("dot dot", &[("../x", T::Regular, "", "y")], "entry \"../x\" lies outside the archive's root"),
            (
                "dot dot inside",
                &[("a/../../x", T::Regular, "", "y")],
                "entry \"a/../../x\" lies outside the archive's root",
            ),
            ("absolute", &[("/x", T::Regular, "", "y")], "entry \"/x\" lies outside the archive's root"),
            (
                "link out",
                &[("a", T::Symlink, "../x", "")],
                "entry \"a\" is a symbolic link to outside the archive's root",
            ),
            (
                "link out and in",
                &[("a/b", T::Symlink, "../../root/x", "")],
                "entry \"a/b\" is a symbolic link to outside the archive's root",
            ),
            (
                "hard link out",
                &[("a", T::Link, "../x", "")],
                "entry \"a\" is a hard link to outside the archive's root",
            ),
            (
                "write through a link",
                &[("d/", T::Directory, "", ""), ("a", T::Symlink, "d", ""), ("a/x", T::Regular, "", "y")],
                "entry \"a/x\" would be written through something that is not a directory",
            ),
            (
                "hard link through a link",
                &[("a", T::Symlink, ".", ""), ("b", T::Link, "a/x", "")],
                "entry \"b\" would be written through something that is not a directory",
            ),
            (
                "device",
                &[("a", T::Char, "", "")],
                "entry \"a\" is a device or something else that a toolchain has no use for",
            ),
        ];
        for (fault, entries, error) in cases {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path().join("root");
            fs::create_dir(&root).unwrap();
            assert_eq!(unpack(archive(entries).as_slice(), &root).unwrap_err().to_string(), error, "{fault}");
            assert!(!directory.path().join("x").exists(), "{fault}");
        }
    }
}
