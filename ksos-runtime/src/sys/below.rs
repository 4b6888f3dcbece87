//! Files below a directory that may hold links which lead elsewhere: no link is followed on the way to them.
//!
//! Each directory on the way is opened relative to the one before with `O_NOFOLLOW` (open(2)), so that nobody can swap
//! one for a link between a check and its use.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};

use super::PlacedFile;

/// Name of the file before it is complete, in the directory that it goes to.
const TEMPORARY: &str = ".ksos-new";

/// Returns the names on the way from `tree` to `path`, which must be below it.
fn names<'a>(tree: &str, path: &'a str) -> io::Result<(Vec<&'a str>, &'a str)> {
    let inside = path.strip_prefix(tree.trim_end_matches('/')).and_then(|rest| rest.strip_prefix('/'));
    let mut names: Vec<&str> = inside.unwrap_or("").split('/').collect();
    if names.iter().any(|name| matches!(*name, "" | "." | "..")) {
        return Err(io::Error::other(format!("the path is not below {tree}")));
    }
    let last = names.pop().unwrap_or("");
    Ok((names, last))
}

/// Opens the directory `names` below `tree`; with `make`, creates what is missing (0755).
fn open_directory(tree: &Path, names: &[&str], make: bool) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut directory = rustix::fs::open(tree, flags, Mode::empty())?;
    for name in names {
        let open = || rustix::fs::openat(&directory, *name, flags | OFlags::NOFOLLOW, Mode::empty());
        let opened = match open() {
            Err(rustix::io::Errno::NOENT) if make => {
                rustix::fs::mkdirat(&directory, *name, Mode::from_raw_mode(0o755))?;
                open()
            }
            other => other,
        };
        directory = opened.map_err(|error| in_directory(name, error))?;
    }
    Ok(directory)
}

/// Says which name on the way it was. A link opened as a directory gives `ENOTDIR` or `ELOOP`.
fn in_directory(name: &str, error: rustix::io::Errno) -> io::Error {
    match error {
        rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP => {
            io::Error::other(format!("{name} on the way is a symbolic link or no directory"))
        }
        error => error.into(),
    }
}

/// Reads a regular file of at most `limit` bytes.
pub(super) fn read(host: &Path, tree: &str, path: &str, limit: u64) -> io::Result<Vec<u8>> {
    let (names, last) = names(tree, path)?;
    let directory = open_directory(host, &names, false)?;
    // Without O_NONBLOCK a fifo would wait for somebody who writes to it.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(&directory, last, flags, Mode::empty()).map_err(|error| in_directory(last, error))?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::from(file).take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("the file has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Places a file: temporary file in the same directory, owner, mode, fsync, rename.
pub(super) fn place(host: &Path, file: &PlacedFile<'_>) -> io::Result<()> {
    let (names, last) = names(file.tree, file.path)?;
    let directory = open_directory(host, &names, true)?;
    match rustix::fs::unlinkat(&directory, TEMPORARY, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let written = rustix::fs::openat(&directory, TEMPORARY, flags, Mode::from_raw_mode(0o600))?;
    let mut written = File::from(written);
    let mut finish = || {
        written.write_all(file.bytes)?;
        if let Some((user, group)) = file.owner {
            rustix::fs::fchown(&written, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        // After the owner: changing it takes the set-user-id bit away (chown(2)).
        rustix::fs::fchmod(&written, Mode::from_raw_mode(file.mode & 0o7777))?;
        written.sync_all()?;
        rustix::fs::renameat(&directory, TEMPORARY, &directory, last)?;
        Ok(rustix::fs::fsync(&directory)?)
    };
    let result: io::Result<()> = finish();
    if result.is_err() {
        // What the failure left is of no use; a second failure here has nobody to be told to.
        let _ = rustix::fs::unlinkat(&directory, TEMPORARY, AtFlags::empty());
    }
    result
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "test code")]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn file<'a>(tree: &'a str, path: &'a str) -> PlacedFile<'a> {
        PlacedFile { tree, path, bytes: b"text", mode: 0o640, owner: None }
    }

    #[test]
    fn files_and_directories_are_made_and_replaced() {
        let host = tempfile::tempdir().expect("a directory");
        place(host.path(), &file("/t", "/t/a/b/c")).expect("placed");
        place(host.path(), &PlacedFile { bytes: b"more", ..file("/t", "/t/a/b/c") }).expect("replaced");
        let metadata = std::fs::metadata(host.path().join("a/b/c")).expect("there");
        assert_eq!((metadata.mode() & 0o7777, metadata.len()), (0o640, 4));
        assert_eq!(read(host.path(), "/t", "/t/a/b/c", 4).expect("read"), b"more");
        assert!(read(host.path(), "/t", "/t/a/b/c", 3).expect_err("large").to_string().contains("more than 3 bytes"));
        assert!(!host.path().join("a/b").join(TEMPORARY).exists());
    }

    #[test]
    fn links_are_not_followed() {
        let (host, outside) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        std::fs::write(outside.path().join("victim"), "kept").expect("written");
        symlink(outside.path(), host.path().join("out")).expect("linked");
        let error = place(host.path(), &file("/t", "/t/out/victim")).expect_err("a link on the way");
        assert_eq!(error.to_string(), "out on the way is a symbolic link or no directory");
        read(host.path(), "/t", "/t/out/victim", 9).expect_err("a link on the way");
        symlink(outside.path().join("victim"), host.path().join("name")).expect("linked");
        symlink(outside.path().join("victim"), host.path().join(TEMPORARY)).expect("linked");
        read(host.path(), "/t", "/t/name", 9).expect_err("a link");
        place(host.path(), &file("/t", "/t/name")).expect("the link itself is replaced");
        assert_eq!(std::fs::read_to_string(outside.path().join("victim")).expect("read"), "kept");
        assert_eq!(std::fs::read_to_string(host.path().join("name")).expect("read"), "text");
    }

    #[test]
    fn paths_outside_and_odd_files_are_refused() {
        let host = tempfile::tempdir().expect("a directory");
        for path in ["/t", "/t/", "/tx/a", "/t/../a", "/t/a/./b", "/t//a", "/t/a/", "t/a"] {
            assert!(place(host.path(), &file("/t", path)).is_err(), "{path}");
        }
        std::fs::create_dir(host.path().join("directory")).expect("made");
        place(host.path(), &file("/t", "/t/directory")).expect_err("a directory is there");
        assert!(!host.path().join(TEMPORARY).exists());
        assert!(read(host.path(), "/t", "/t/directory", 9).expect_err("a directory").to_string().contains("regular"));
    }
}
