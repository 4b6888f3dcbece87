//! The `tinycore` source: a Tiny Core Linux base and extensions, from a mirror or a directory.
//!
//! ```text
//! RELEASE/release/distribution_files/corepure64.gz   the base: a cpio archive (newc) compressed by gzip
//! RELEASE/tcz/NAME.tcz                               an extension: a SquashFS image
//! RELEASE/tcz/NAME.tcz.dep                           names of the extensions that it needs, one a line; may be missing
//! RELEASE/tcz/NAME.tcz.info                          `Version:`, `Copying-policy:` and more; may be missing
//! RELEASE/tcz/info.lst                               names of all extensions; for hints only
//! ```
//!
//! (The layout of a mirror of tinycorelinux.net, release 15.x.) [`resolve`] follows the `.dep` files and gives the files
//! in the order in which they are laid over one another: the base, then each extension after what it needs. Mirrors
//! have `NAME.tcz.md5.txt`, too: it is not read, the lock file has SHA-256. `KERNEL` in a name (`ipv6-netfilter-KERNEL`)
//! is the release of the kernel. What an extension would run when it is loaded (`usr/local/tce.installed/NAME`) is not
//! run; [`start_scripts`] lists it. What `ldconfig` would do for libraries in `/usr/local/lib`, [`link_libraries`] does.

mod repository;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use ksos_formats::{Arch, Digest};

pub use self::repository::{Local, Mirror, Place, Repository, urls};
use crate::cache::Cache;
use crate::effects::fs::{self, Context, FsError};
use crate::effects::net::FetchError;
use crate::source::archive::{self, ArchiveError, Compression, Format, Limits, Policy, Unpacked};
use crate::tree::{Entry, Meta, Node, Tree, TreeError};

/// The most extensions of one component.
const MAX_EXTENSIONS: usize = 4096;
/// The longest chain of extensions that need one another.
const MAX_DEPTH: usize = 256;
/// Where extensions have what they would run when they are loaded.
const START_SCRIPTS: &str = "usr/local/tce.installed";

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Path of the base below the release.
    pub base: &'a str,
    /// Extensions, by name, with or without `.tcz`.
    pub extensions: &'a [String],
    /// What `KERNEL` in names stands for; from the base's modules when it is not stated.
    pub kernel_release: Option<&'a str>,
}

/// One file, pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedFile {
    /// File name: `corepure64.gz`, `iptables.tcz`.
    pub name: String,
    /// Path below the release.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256.
    pub sha256: Digest,
    /// Version, where its `.info` states one.
    pub version: Option<String>,
    /// Licence, where its `.info` states one.
    pub license: Option<String>,
}

/// A pinned file and where it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// For the lock.
    pub pinned: PinnedFile,
    /// The file.
    pub place: PathBuf,
}

/// A base or its extensions cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TinyCoreError {
    /// No base is known for the architecture.
    #[error("there is no default for `base` on {arch}")]
    NoBase {
        /// The architecture.
        arch: Arch,
    },
    /// The base is not there.
    #[error("there is no base {path} in {place}")]
    MissingBase {
        /// Its path below the release.
        path: String,
        /// The release.
        place: String,
    },
    /// An extension is not there.
    #[error("there is no extension {name} in {place}{}{}",
        needed_by.as_ref().map(|by| format!("; {by} needs it")).unwrap_or_default(),
        nearest.as_ref().map(|near| format!("; the nearest name is {near}")).unwrap_or_default())]
    MissingExtension {
        /// File name.
        name: String,
        /// The release.
        place: String,
        /// The extension that needs it; none when the manifest asks for it.
        needed_by: Option<String>,
        /// A name like it.
        nearest: Option<String>,
    },
    /// Extensions that need one another.
    #[error("extensions need one another: {}", names.join(" -> "))]
    Cycle {
        /// The extensions, the first one again at the end.
        names: Vec<String>,
    },
    /// A chain of needs that is too long.
    #[error("{name} is needed through more than {MAX_DEPTH} other extensions")]
    TooDeep {
        /// The extension at its end.
        name: String,
    },
    /// Too many extensions.
    #[error("more than {MAX_EXTENSIONS} extensions are needed")]
    TooMany,
    /// A line of a `.dep` file that cannot be a name.
    #[error("{file}:{line}: {text:?} is not the name of an extension")]
    Name {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// The line, shortened.
        text: String,
    },
    /// A text file that is not text.
    #[error("{path} is not text")]
    NotText {
        /// The file.
        path: String,
    },
    /// A file of another kind.
    #[error("{path} is not {expected}")]
    NotFormat {
        /// The file.
        path: String,
        /// What it should be.
        expected: &'static str,
    },
    /// `KERNEL` in a name, and no single kernel in the base.
    #[error("{name}: the base has {} in lib/modules, so KERNEL stands for nothing", if releases.is_empty() { "no kernel release".to_owned() } else { releases.join(" and ") })]
    KernelRelease {
        /// The extension.
        name: String,
        /// What the base has.
        releases: Vec<String>,
    },
    /// A device outside of `/dev`.
    #[error("{path}: /{entry} is a device outside of /dev")]
    Device {
        /// The base.
        path: String,
        /// The entry.
        entry: String,
    },
    /// It cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A local file cannot be read.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The base cannot be unpacked.
    #[error(transparent)]
    Archive(#[from] Box<ArchiveError>),
}

impl TinyCoreError {
    /// Returns what the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            TinyCoreError::NoBase { .. } => Some("`base` names the cpio archive below `url`"),
            TinyCoreError::KernelRelease { .. } => Some("`kernel-release` states it"),
            _ => None,
        }
    }
}

/// Finds the base, the extensions and everything that these need, in the order in which they are merged.
///
/// # Errors
/// [`TinyCoreError`].
pub fn resolve(repository: &dyn Repository, cache: &Cache, request: &Request<'_>) -> Result<Vec<Found>, TinyCoreError> {
    let Request { base, extensions, kernel_release } = *request;
    let missing = || TinyCoreError::MissingBase { path: base.to_owned(), place: repository.title() };
    let place = repository.file(base)?.ok_or_else(missing)?;
    if compression(&place.file)?.is_none() {
        return Err(TinyCoreError::NotFormat { path: base.to_owned(), expected: "a cpio archive" });
    }
    let mut closure = Closure {
        repository,
        cache,
        base: place.file.clone(),
        kernel_release: kernel_release.map(str::to_owned),
        done: BTreeSet::new(),
        chain: Vec::new(),
        found: vec![place.found(base, &Info::default())],
    };
    for name in extensions {
        let name = closure.file_name(name)?;
        closure.add(name)?;
    }
    Ok(closure.found)
}

/// The walk along `.dep` files.
struct Closure<'a> {
    repository: &'a dyn Repository,
    cache: &'a Cache,
    base: PathBuf,
    kernel_release: Option<String>,
    done: BTreeSet<String>,
    /// The extensions that led here.
    chain: Vec<String>,
    found: Vec<Found>,
}

impl Closure<'_> {
    /// Adds what `name` needs, then `name`.
    fn add(&mut self, name: String) -> Result<(), TinyCoreError> {
        if let Some(start) = self.chain.iter().position(|other| *other == name) {
            let mut names = self.chain.split_off(start);
            names.push(name);
            return Err(TinyCoreError::Cycle { names });
        }
        if self.done.contains(&name) {
            return Ok(());
        }
        if self.chain.len() >= MAX_DEPTH {
            return Err(TinyCoreError::TooDeep { name });
        }
        let place = self.find(&name)?;
        self.chain.push(name.clone());
        for needed in self.needs(&name)? {
            self.add(needed)?;
        }
        self.chain.pop();
        if self.done.len() >= MAX_EXTENSIONS {
            return Err(TinyCoreError::TooMany);
        }
        let info = Info::parse(&self.repository.text(&format!("tcz/{name}.info"))?.unwrap_or_default());
        self.found.push(place.found(&format!("tcz/{name}"), &info));
        self.done.insert(name);
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Place, TinyCoreError> {
        let path = format!("tcz/{name}");
        let Some(place) = self.repository.file(&path)? else {
            let names = self.repository.names();
            let stem = name.trim_end_matches(".tcz");
            let stems = names.iter().map(|name| name.trim_end_matches(".tcz"));
            return Err(TinyCoreError::MissingExtension {
                name: name.to_owned(),
                place: self.repository.title(),
                needed_by: self.chain.last().cloned(),
                nearest: crate::manifest::nearest(stem, stems).map(|stem| format!("{stem}.tcz")),
            });
        };
        if !starts_with(&place.file, b"hsqs")? {
            return Err(TinyCoreError::NotFormat { path, expected: "a SquashFS image" });
        }
        Ok(place)
    }

    fn needs(&mut self, name: &str) -> Result<Vec<String>, TinyCoreError> {
        let file = format!("tcz/{name}.dep");
        let text = self.repository.text(&file)?.unwrap_or_default();
        let mut names = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            if !is_name(line) {
                let text = line.chars().take(80).collect();
                return Err(TinyCoreError::Name { file, line: index + 1, text });
            }
            names.push(self.file_name(line)?);
        }
        Ok(names)
    }

    /// Returns the file of an extension: `.tcz` at the end, the kernel's release for `KERNEL`.
    fn file_name(&mut self, name: &str) -> Result<String, TinyCoreError> {
        let stem = name.strip_suffix(".tcz").unwrap_or(name);
        let Some(stem) = stem.strip_suffix("-KERNEL") else { return Ok(format!("{stem}.tcz")) };
        if self.kernel_release.is_none() {
            self.kernel_release = Some(kernel_release(self.cache, &self.base, name)?);
        }
        Ok(format!("{stem}-{}.tcz", self.kernel_release.as_deref().unwrap_or_default()))
    }
}

/// What an `.info` file says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Info {
    version: Option<String>,
    license: Option<String>,
}

impl Info {
    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.trim();
            let valid = !value.is_empty() && value.len() <= 128 && !value.chars().any(char::is_control);
            valid.then(|| value.to_owned())
        };
        Info { version: field("Version"), license: field("Copying-policy") }
    }
}

/// Tells whether `name` may be part of a path and of a URL.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+._~-".contains(&byte);
    name.len() <= 128 && name.bytes().all(plain) && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}

/// Returns the one release that the base has modules for.
fn kernel_release(cache: &Cache, base: &Path, name: &str) -> Result<String, TinyCoreError> {
    let tree = unpack(cache, base, "the base", Kind::Base)?.tree;
    let releases: BTreeSet<&str> = ["lib/modules/", "usr/lib/modules/"]
        .iter()
        .flat_map(|directory| tree.iter().filter_map(move |(path, _)| path.strip_prefix(directory)?.split('/').next()))
        .collect();
    let mut releases = releases.into_iter().map(str::to_owned);
    match (releases.next(), releases.next()) {
        (Some(release), None) => Ok(release),
        (first, second) => {
            let releases = first.into_iter().chain(second).chain(releases).collect();
            Err(TinyCoreError::KernelRelease { name: name.to_owned(), releases })
        }
    }
}

/// Which of the two kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The base.
    Base,
    /// An extension.
    Extension,
}

/// Unpacks a base or an extension into the cache. Devices of the base's `/dev` are left out: the kernel makes them.
///
/// # Errors
/// [`TinyCoreError::Archive`], [`TinyCoreError::Device`], [`TinyCoreError::Fs`].
pub fn unpack(cache: &Cache, path: &Path, name: &str, kind: Kind) -> Result<Unpacked, TinyCoreError> {
    let strict = Policy { allow_devices: false, allow_setid: true, owner: archive::Owner::Keep };
    let (format, policy) = match kind {
        Kind::Extension => (Format::SquashFs, strict),
        Kind::Base => {
            let compression = compression(path)?.unwrap_or(Compression::Gzip);
            (Format::Cpio(compression), Policy { allow_devices: true, ..strict })
        }
    };
    let mut unpacked = archive::unpack_as(cache, path, name, format, &policy, &Limits::default()).map_err(Box::new)?;
    drop_devices(&mut unpacked.tree, name)?;
    Ok(unpacked)
}

fn drop_devices(tree: &mut Tree, name: &str) -> Result<(), TinyCoreError> {
    let special = |node: &Node| {
        matches!(node, Node::CharacterDevice { .. } | Node::BlockDevice { .. } | Node::Fifo | Node::Socket)
    };
    let found: Vec<String> =
        tree.iter().filter(|(_, entry)| special(&entry.node)).map(|(path, _)| path.to_owned()).collect();
    for path in found {
        if !path.starts_with("dev/") {
            return Err(TinyCoreError::Device { path: name.to_owned(), entry: path });
        }
        tree.remove(&path);
    }
    Ok(())
}

/// Links the libraries of `usr/local/lib` into `usr/lib`: where extensions put them, the dynamic linker does not look, and
/// nobody runs `ldconfig` on a root that is never written.
///
/// # Errors
/// When the tree does not take a link.
pub fn link_libraries(tree: &mut Tree) -> Result<(), TreeError> {
    let library = |path: &str| {
        let name = path.strip_prefix("usr/local/lib/")?;
        let is_library = !name.contains('/') && name.starts_with("lib") && name.contains(".so");
        is_library.then(|| name.to_owned())
    };
    let names: Vec<String> = tree
        .below("usr/local/lib")
        .filter(|(_, entry)| matches!(entry.node, Node::File(_) | Node::Symlink(_) | Node::HardLink(_)))
        .filter_map(|(path, _)| library(path))
        .collect();
    for name in names {
        let to = format!("usr/lib/{name}");
        if tree.get(&to).is_none() && tree.get(&format!("lib/{name}")).is_none() {
            let meta = Meta::root(0o777, tree.get("").map_or(0, |root| root.meta.mtime));
            tree.insert(&to, Entry { meta, node: Node::Symlink(format!("../local/lib/{name}")) })?;
        }
    }
    Ok(())
}

/// Lists what extensions in `tree` would run when they are loaded, which nobody does here.
pub fn start_scripts(tree: &Tree) -> Vec<&str> {
    let file = |node: &Node| matches!(node, Node::File(content) if content.size > 0);
    tree.below(START_SCRIPTS)
        .filter(|(_, entry)| file(&entry.node))
        .filter_map(|(path, _)| path.strip_prefix(START_SCRIPTS)?.strip_prefix('/'))
        .collect()
}

/// Returns the compression of a cpio archive, by how it begins; `None` when it is neither.
fn compression(path: &Path) -> Result<Option<Compression>, FsError> {
    let begins: [(&[u8], Compression); 4] = [
        (b"\x1f\x8b", Compression::Gzip),
        (b"\xfd7zXZ", Compression::Xz),
        (b"\x28\xb5\x2f\xfd", Compression::Zstd),
        (b"070701", Compression::None),
    ];
    let start = start(path)?;
    Ok(begins.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, compression)| *compression))
}

fn starts_with(path: &Path, magic: &[u8]) -> Result<bool, FsError> {
    Ok(start(path)?.starts_with(magic))
}

fn start(path: &Path) -> Result<Vec<u8>, FsError> {
    let mut bytes = Vec::new();
    fs::open(path)?.take(8).read_to_end(&mut bytes).context("read", path)?;
    Ok(bytes)
}
