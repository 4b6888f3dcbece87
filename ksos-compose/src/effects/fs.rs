//! File access with paths in the errors, and writes that a `kill -9` or a power cut cannot leave half done:
//! temporary file in the same directory, fsync, rename.
#![expect(clippy::disallowed_methods, reason = "this module is where the file system is touched")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A failed file operation.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FsError {
    /// What was tried, e.g. `open`.
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The operating system's answer.
    #[source]
    pub source: io::Error,
}

/// Adds an action and a path to an I/O result.
pub trait Context<T> {
    /// Turns an [`io::Error`] into an [`FsError`].
    fn context(self, action: &'static str, path: &Path) -> Result<T, FsError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, FsError> {
        self.map_err(|source| FsError { action, path: path.to_owned(), source })
    }
}

/// Opens `path` for reading.
pub fn open(path: &Path) -> Result<File, FsError> {
    File::open(path).context("open", path)
}

/// Reads the whole of `path`, refusing more than `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FsError> {
    let mut bytes = Vec::new();
    let count = open(path)?.take(limit + 1).read_to_end(&mut bytes).context("read", path)?;
    if count as u64 > limit {
        let error = io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes"));
        return Err(error).context("read", path);
    }
    Ok(bytes)
}

/// Fills `buffer` as far as the data goes, and returns how far.
///
/// # Errors
/// What the reader fails with; an interruption is none.
pub fn read_full(reader: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads `path` as UTF-8, refusing more than `limit` bytes.
pub fn read_to_string(path: &Path, limit: u64) -> Result<String, FsError> {
    let bytes = read(path, limit)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)).context("read", path)
}

/// Creates `path` and its parents.
pub fn create_dir_all(path: &Path) -> Result<(), FsError> {
    std::fs::create_dir_all(path).context("create directory", path)
}

/// How the names of temporary files of [`AtomicFile`] begin and end.
const PREFIX: &str = ".ksos-";
const SUFFIX: &str = ".tmp";

/// How long nothing was written to a temporary file that nobody works on any more.
const ABANDONED: std::time::Duration = std::time::Duration::from_secs(86_400);

/// A file that appears under its name only when [`AtomicFile::commit`] is called; dropped before that, it is gone.
#[derive(Debug)]
pub struct AtomicFile {
    temporary: NamedTempFile,
    path: PathBuf,
}

/// Removes what killed processes left of [`AtomicFile`]s in `directory`: temporary files that nothing was written to for a
/// day. What cannot be removed stays.
pub fn remove_abandoned(directory: &Path) {
    for name in list(directory).unwrap_or_default() {
        let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        let path = directory.join(&name);
        let age = symlink_metadata(&path).ok().and_then(|file| file.modified().ok()?.elapsed().ok());
        if ours && age.is_some_and(|age| age > ABANDONED) {
            let _ = remove_file(&path);
        }
    }
}

impl AtomicFile {
    /// Starts a new file that will become `path`. The parent directory is created when it is missing.
    pub fn create(path: &Path) -> Result<Self, FsError> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        create_dir_all(parent)?;
        let temporary =
            tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).tempfile_in(parent).context("create", path)?;
        Ok(AtomicFile { temporary, path: path.to_owned() })
    }

    /// Returns the open file (read and write).
    pub fn file(&mut self) -> &mut File {
        self.temporary.as_file_mut()
    }

    /// Returns the path of the temporary file.
    pub fn temporary_path(&self) -> &Path {
        self.temporary.path()
    }

    /// Like [`AtomicFile::commit`], but never replaces a file that is there.
    ///
    /// # Errors
    /// With [`io::ErrorKind::AlreadyExists`] when there is one.
    pub fn commit_new(self, mode: u32) -> Result<(), FsError> {
        use std::os::unix::fs::PermissionsExt;
        let AtomicFile { temporary, path } = self;
        let file = temporary.as_file();
        file.set_permissions(std::fs::Permissions::from_mode(mode)).context("set mode of", &path)?;
        file.sync_all().context("sync", &path)?;
        temporary.persist_noclobber(&path).map_err(|error| error.error).context("create", &path)?;
        sync_parent(&path)
    }

    /// Makes the file durable under its name with permission bits `mode`. A crash before the rename leaves the old
    /// file; after it, the new one.
    pub fn commit(self, mode: u32) -> Result<(), FsError> {
        use std::os::unix::fs::PermissionsExt;
        let AtomicFile { temporary, path } = self;
        let file = temporary.as_file();
        file.set_permissions(std::fs::Permissions::from_mode(mode)).context("set mode of", &path)?;
        file.sync_all().context("sync", &path)?;
        temporary.persist(&path).map_err(|error| error.error).context("rename to", &path)?;
        sync_parent(&path)
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

/// A directory that appears under its name only when [`AtomicDirectory::commit`] is called, with everything in it. While
/// it is made it is `.NAME.tmp` beside it: what an interrupted program left there is removed first, so two must not make
/// the same directory at once.
#[derive(Debug)]
pub struct AtomicDirectory {
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl AtomicDirectory {
    /// Starts a new directory that will become `path`. The parent directory is created when it is missing.
    pub fn create(path: &Path) -> Result<Self, FsError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.tmp"));
        remove_tree(&temporary)?;
        create_dir_all(&temporary)?;
        Ok(AtomicDirectory { temporary, path: path.to_owned(), committed: false })
    }

    /// Creates the file `name` in it, open for reading and writing.
    pub fn create_file(&self, name: &str) -> Result<File, FsError> {
        let path = self.temporary.join(name);
        File::options().read(true).write(true).create_new(true).open(&path).context("create", &path)
    }

    /// Makes the directory durable under its name; one that was there is replaced as a whole, and goes. A crash leaves
    /// the old one or the new one.
    pub fn commit(mut self) -> Result<(), FsError> {
        for name in list(&self.temporary)? {
            let path = self.temporary.join(name);
            File::open(&path).and_then(|file| file.sync_all()).context("sync", &path)?;
        }
        File::open(&self.temporary).and_then(|file| file.sync_all()).context("sync", &self.temporary)?;
        if symlink_metadata(&self.path).is_ok() {
            exchange(&self.temporary, &self.path)?;
        } else {
            std::fs::rename(&self.temporary, &self.path).context("rename to", &self.path)?;
            self.committed = true;
        }
        sync_parent(&self.path)
    }
}

impl Drop for AtomicDirectory {
    fn drop(&mut self) {
        if !self.committed {
            // The next one removes what stays.
            let _ = remove_tree(&self.temporary);
        }
    }
}

/// Swaps `new` and `path` in one step. Where the file system cannot, there is a moment in which `path` does not exist.
fn exchange(new: &Path, path: &Path) -> Result<(), FsError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
            remove_tree(path)?;
            std::fs::rename(new, path).context("rename to", path)
        }
        result => result.map_err(io::Error::from).context("rename to", path),
    }
}

/// Makes the finished file `from` durable as `to`, on the same file system, with permission bits 0644. A crash leaves
/// what was at `to`, or the new file.
pub fn publish(from: &Path, to: &Path) -> Result<(), FsError> {
    use std::os::unix::fs::PermissionsExt;
    let file = open(from)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o644)).context("set mode of", from)?;
    file.sync_all().context("sync", from)?;
    std::fs::rename(from, to).context("rename to", to)?;
    sync_parent(to)
}

/// Gives the file `from` a second name `to` on the same file system; where that knows none, copies it.
pub fn link(from: &Path, to: &Path) -> Result<(), FsError> {
    if std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(from, to).context("copy to", to)?;
    Ok(())
}

/// Creates the file `path`, which must not exist, open for reading and writing.
pub fn create_new(path: &Path) -> Result<File, FsError> {
    File::options().read(true).write(true).create_new(true).open(path).context("create", path)
}

/// Removes the file or directory `path` and everything in it; that it is not there is no error.
pub fn remove_tree(path: &Path) -> Result<(), FsError> {
    let removed = match symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error.source),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.context("remove", path),
    }
}

/// Replaces `path` by `bytes`, all or nothing.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).context("write", path)?;
    file.commit(0o644)
}

/// Makes a rename in the parent directory of `path` durable.
pub fn sync_parent(path: &Path) -> Result<(), FsError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|directory| directory.sync_all()).context("sync directory", parent)
}

/// Lists the names in directory `path`, sorted.
pub fn list(path: &Path) -> Result<Vec<std::ffi::OsString>, FsError> {
    let entries = std::fs::read_dir(path).context("list", path)?;
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()
        .context("list", path)?;
    names.sort();
    Ok(names)
}

/// Removes the file `path`; that it is not there is no error.
pub fn remove_file(path: &Path) -> Result<(), FsError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.context("remove", path),
    }
}

/// Returns the metadata of `path` without following a symbolic link.
pub fn symlink_metadata(path: &Path) -> Result<std::fs::Metadata, FsError> {
    std::fs::symlink_metadata(path).context("stat", path)
}

/// Returns what `path` leads to when it is a symbolic link to something that exists.
pub fn link_target(path: &Path) -> Option<PathBuf> {
    symlink_metadata(path).ok().filter(std::fs::Metadata::is_symlink)?;
    std::fs::canonicalize(path).ok()
}

/// Returns the metadata of `path`, following symbolic links.
pub fn metadata(path: &Path) -> Result<std::fs::Metadata, FsError> {
    std::fs::metadata(path).context("stat", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        list(directory).unwrap().into_iter().map(|name| name.into_string().unwrap()).collect()
    }

    fn make(path: &Path, text: &str) -> Result<AtomicDirectory, FsError> {
        let directory = AtomicDirectory::create(path)?;
        directory.create_file("file").unwrap().write_all(text.as_bytes()).unwrap();
        Ok(directory)
    }

    #[test]
    fn what_killed_processes_left_goes_after_a_day() {
        let directory = tempfile::tempdir().unwrap();
        let age = |name: &str, hours: u64| {
            let file = std::fs::File::create(directory.path().join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600)).unwrap();
        };
        age(".ksos-old.tmp", 25);
        age(".ksos-young.tmp", 23);
        age(".ksos-old.img", 25);
        age("old.tmp", 25);
        remove_abandoned(directory.path());
        assert_eq!(names(directory.path()), [".ksos-old.img", ".ksos-young.tmp", "old.tmp"]);
        remove_abandoned(&directory.path().join("missing"));
    }

    #[test]
    fn a_directory_appears_as_a_whole_and_replaces_as_a_whole() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("out/thing.update");
        let first = make(&path, "first").unwrap();
        assert!(!path.exists());
        first.commit().unwrap();
        assert_eq!(read_to_string(&path.join("file"), 9).unwrap(), "first");
        std::fs::write(path.join("of-the-old-one"), "").unwrap();
        make(&path, "second").unwrap().commit().unwrap();
        assert_eq!(
            (names(&path), read_to_string(&path.join("file"), 9).unwrap()),
            (vec!["file".into()], "second".into())
        );
        assert_eq!(names(path.parent().unwrap()), ["thing.update"], "nothing temporary stays");
    }

    #[test]
    fn an_abandoned_directory_leaves_nothing_and_the_old_one_as_it_was() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("thing");
        make(&path, "first").unwrap().commit().unwrap();
        drop(make(&path, "second").unwrap());
        assert_eq!(read_to_string(&path.join("file"), 9).unwrap(), "first");
        assert_eq!(names(temporary.path()), ["thing"]);
    }

    /// A kill after any write leaves the old directory, and what it leaves beside is no obstacle.
    #[test]
    fn what_a_killed_program_left_is_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("thing");
        make(&path, "first").unwrap().commit().unwrap();
        for written in ["", "file", "file2/deeper"] {
            std::mem::forget(make(&path, "half").unwrap());
            let left = temporary.path().join(".thing.tmp");
            if !written.is_empty() {
                create_dir_all(left.join(written).parent().unwrap()).unwrap();
                std::fs::write(left.join(written), "half").unwrap();
            }
            assert_eq!(read_to_string(&path.join("file"), 9).unwrap(), "first");
        }
        make(&path, "second").unwrap().commit().unwrap();
        assert_eq!((names(&path), names(temporary.path())), (vec!["file".to_owned()], vec!["thing".to_owned()]));
    }
}
