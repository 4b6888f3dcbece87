//! What can be wrong with an archive.

use std::io;

use crate::cache::CacheError;
use crate::effects::fs::FsError;
use crate::tree::TreeError;
use crate::tree::pack::PackError;

/// An archive could not be unpacked; nothing of it is kept.
#[derive(Debug, thiserror::Error)]
#[error("{archive}: {}{fault}", entry.as_ref().map(|entry| format!("entry {entry:?}: ")).unwrap_or_default())]
pub struct ArchiveError {
    /// The archive: its path, or the name that the caller gave.
    pub archive: String,
    /// The entry, when the fault is at one.
    pub entry: Option<String>,
    /// What is wrong.
    #[source]
    pub fault: Fault,
}

/// What is wrong with an archive or with one entry of it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The data ends inside an entry, a header or a compressed stream, or before the end marker.
    #[error("truncated")]
    Truncated,
    /// The data does not begin as the stated format does.
    #[error("not {expected}: it begins with {found}")]
    NotThisFormat {
        /// The format that was stated.
        expected: &'static str,
        /// What is there: the name of another format, or the first bytes escaped.
        found: String,
    },
    /// A header field has no valid value.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// Compressed data cannot be decompressed.
    #[error("damaged compressed data: {0}")]
    Compressed(#[source] io::Error),
    /// A zip archive contradicts itself or the format.
    #[error("damaged zip archive: {0}")]
    Zip(String),
    /// A checksum that the archive carries does not match.
    #[error("checksum of {0} does not match")]
    Checksum(&'static str),
    /// Something that this reader does not do, rather than doing it wrong.
    #[error("{0} not supported")]
    Unsupported(&'static str),
    /// There is data behind the end of the archive.
    #[error("data behind the end of the archive")]
    TrailingData,
    /// The path is absolute, has `..`, an over-long component or the like.
    #[error(transparent)]
    Path(TreeError),
    /// A name that is not UTF-8.
    #[error("name \"{escaped}\" is not UTF-8")]
    NotUtf8 {
        /// The name with the bytes escaped.
        escaped: String,
    },
    /// The entry would be written through a symbolic link.
    #[error("its parent {parent:?} is a symbolic link")]
    ThroughSymlink {
        /// The link.
        parent: String,
    },
    /// A parent of the entry is not a directory.
    #[error("its parent {parent:?} is not a directory")]
    ParentNotDirectory {
        /// The parent.
        parent: String,
    },
    /// The same path again, as another kind of file.
    #[error("comes a second time as another kind of file ({first}, then {second})")]
    KindChanged {
        /// The kind of the first one.
        first: &'static str,
        /// The kind of the second one.
        second: &'static str,
    },
    /// The same path again, in a format that has no reason for it.
    #[error("comes twice")]
    Duplicate,
    /// A hard link to something that is not a regular file seen before.
    #[error("hard link to {target:?}, which is not a regular file earlier in the archive")]
    HardLinkTarget {
        /// The target.
        target: String,
    },
    /// A symbolic link whose target is empty, too long or has a NUL byte.
    #[error("symbolic link target is empty, longer than 4095 bytes or has a NUL byte")]
    SymlinkTarget,
    /// A device node, FIFO or socket where none is allowed.
    #[error("{kind} not allowed here")]
    SpecialFile {
        /// What it is.
        kind: &'static str,
    },
    /// A set-user-ID or set-group-ID file or file capabilities where none are allowed.
    #[error("{0} not allowed here")]
    Privilege(&'static str),
    /// The sum of the unpacked bytes is over the limit.
    #[error("unpacks to more than the limit of {limit} bytes")]
    TotalLimit {
        /// The limit in bytes.
        limit: u64,
    },
    /// One file is over the limit.
    #[error("larger than the limit of {limit} bytes for one file")]
    FileLimit {
        /// The limit in bytes.
        limit: u64,
    },
    /// There are more entries than the limit.
    #[error("more than the limit of {limit} entries")]
    EntriesLimit {
        /// The limit.
        limit: usize,
    },
    /// The content has another size than its header says.
    #[error("content is not of the {declared} bytes that its header says")]
    SizeMismatch {
        /// The size in the header.
        declared: u64,
    },
    /// A host file changed while it was read.
    #[error("changed while it was read")]
    Changed,
    /// A file of the host cannot be used.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The archive cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The cache cannot take the contents.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The cache cannot be written.
    #[error("cannot write to the cache: {0}")]
    CacheWrite(#[source] io::Error),
}

/// A fault with the entry where it is, before the archive's name is known.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) entry: Option<String>,
    pub(super) fault: Fault,
}

pub(super) type Step<T> = Result<T, Failure>;

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Failure { entry: None, fault }
    }
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Self {
        Fault::from(error).into()
    }
}

impl From<FsError> for Failure {
    fn from(error: FsError) -> Self {
        Fault::from(error).into()
    }
}

impl Failure {
    pub(super) fn at(entry: &str, fault: Fault) -> Self {
        Failure { entry: Some(entry.chars().take(300).collect()), fault }
    }

    pub(super) fn named(self, archive: impl Into<String>) -> ArchiveError {
        ArchiveError { archive: archive.into(), entry: self.entry, fault: self.fault }
    }
}

impl Fault {
    /// Turns a read error into a fault: one of ours that travelled through [`io::Error`] comes out as it was.
    pub(super) fn from_read(error: io::Error) -> Self {
        match error.downcast::<Fault>() {
            Ok(fault) => fault,
            Err(error) => match error.kind() {
                io::ErrorKind::UnexpectedEof => Fault::Truncated,
                _ if error.raw_os_error().is_some() => Fault::Read(error),
                _ => Fault::Compressed(error),
            },
        }
    }

    /// Packs the fault into an [`io::Error`], for readers.
    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// Tells a failure of the reader (always one of our faults) from a failure to write the pack.
    pub(super) fn from_pack(error: PackError, limit: Fault) -> Self {
        match error {
            PackError::Io(error) => match error.downcast::<Fault>() {
                Ok(fault) => fault,
                Err(error) => Fault::CacheWrite(error),
            },
            PackError::TooLarge { .. } => limit,
            PackError::Cache(error) => Fault::Cache(error),
        }
    }
}

/// Returns bytes as text for a message: printable ASCII as it is, the rest escaped.
pub(super) fn escape(bytes: &[u8]) -> String {
    bytes.iter().take(300).flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect()
}

/// Returns `bytes` as text.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| Fault::NotUtf8 { escaped: escape(bytes) })
}
