//! A kernel's source onto disk, and what was built of it into the cache.

use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::KernelBuildError;
use crate::cache::Cache;
use crate::effects::fs::{self, AtomicFile, Context};
use crate::source::apt::codec::Compression;
use crate::source::archive::{self, Limits, Unpacked};
use crate::source::cargo::extract::{self, ExtractError};
use crate::tree::pack::PackWriter;
use crate::tree::{Content, Entry, Meta, Node, Tree};

/// Beginning of the names of work directories.
const WORK: &str = "work-";
/// The largest file of a kernel, in bytes.
const FILE_LIMIT: u64 = 1 << 30;

/// A directory for one build, which goes with it.
pub(super) struct WorkDirectory(tempfile::TempDir);

impl WorkDirectory {
    /// Makes one in `bucket`, and removes those that killed builds left. The caller holds the bucket's lock.
    pub(super) fn create(bucket: &Path) -> Result<Self, KernelBuildError> {
        fs::create_dir_all(bucket)?;
        for name in fs::list(bucket)? {
            if name.as_encoded_bytes().starts_with(WORK.as_bytes()) {
                // A make that outlived its build may still write there: the next build tries again.
                let _ = fs::remove_tree(&bucket.join(name));
            }
        }
        let directory = tempfile::Builder::new().prefix(WORK).tempdir_in(bucket).context("create", bucket)?;
        Ok(WorkDirectory(directory))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A source on disk.
pub(super) struct Source {
    /// Where its `Makefile` is.
    pub(super) directory: PathBuf,
    /// Time of its newest file, when it has times.
    pub(super) time: Option<u64>,
}

/// Writes the source in the tree of a component below `work`: the one tarball in it, or the tree itself.
pub(super) fn unpack(tree: &Tree, component: &str, work: &Path) -> Result<Source, KernelBuildError> {
    let no_source = |cause: String| KernelBuildError::NoSource { component: component.to_owned(), cause };
    let root = work.join("source");
    fs::create_dir_all(&root)?;
    let tarballs: Vec<(&str, Compression, &Content)> = tree
        .iter()
        .filter_map(|(path, entry)| match &tree.resolve_link(entry).node {
            Node::File(content) => Some((path, tarball(path)?, content)),
            _ => None,
        })
        .collect();
    let mut time = None;
    match tarballs.as_slice() {
        [(path, compression, content)] => {
            let failed = |source| KernelBuildError::Unpack { path: (*path).to_owned(), source };
            let open = || compression.decode(BufReader::with_capacity(1 << 17, content.open()?));
            let reader = open().map_err(|error| failed(error.into()))?;
            time = Some(extract::unpack(reader, &root).map_err(failed)?);
        }
        [] if tree.iter().any(|(path, _)| path == "Makefile" || path.ends_with("/Makefile")) => write(tree, &root)?,
        [] => return Err(no_source("there is no linux-*.tar.{xz,gz,zst} and no Makefile in it".to_owned())),
        several => {
            let names = several.iter().map(|(path, ..)| *path).collect::<Vec<_>>().join(", ");
            return Err(no_source(format!("there are {names}")));
        }
    }
    let directory =
        top(&root)?.ok_or_else(|| no_source("there is no directory with Makefile and Kconfig".to_owned()))?;
    Ok(Source { directory, time })
}

/// Returns the compression of a tarball with a kernel, by its name: `linux-6.12.1.tar.xz`, `linux-source-6.12.tar.xz`.
fn tarball(path: &str) -> Option<Compression> {
    let name = path.rsplit('/').next()?;
    let (stem, suffix) = name.split_once(".tar")?;
    stem.starts_with("linux").then(|| Compression::from_suffix(suffix)).flatten()
}

/// Returns the directory with the kernel's `Makefile`: `root` or the one directory in it.
fn top(root: &Path) -> Result<Option<PathBuf>, KernelBuildError> {
    let mut candidates = vec![root.to_owned()];
    candidates.extend(fs::list(root)?.into_iter().map(|name| root.join(name)));
    Ok(candidates.into_iter().find(|path| path.join("Makefile").is_file() && path.join("Kconfig").is_file()))
}

/// Writes a tree to disk: files, directories and links that stay inside.
fn write(tree: &Tree, root: &Path) -> Result<(), KernelBuildError> {
    for (path, entry) in tree.iter() {
        let at = root.join(path);
        match &tree.resolve_link(entry).node {
            Node::Directory => fs::create_dir_all(&at)?,
            Node::File(content) => {
                let mut file = fs::create_new(&at)?;
                let mut reader = content.open().context("open", &at)?;
                std::io::copy(&mut reader, &mut file).context("write", &at)?;
                let mode = if entry.meta.mode & 0o111 != 0 { 0o755 } else { 0o644 };
                file.set_permissions(std::fs::Permissions::from_mode(mode)).context("set mode of", &at)?;
            }
            Node::Symlink(target) => {
                let failed = |source| KernelBuildError::Unpack { path: path.to_owned(), source };
                extract::symbolic_link(root, Path::new(path), Path::new(target)).map_err(failed)?;
            }
            _ => {
                let cause = "is a device".to_owned();
                let source = ExtractError::Entry { path: path.to_owned(), cause };
                return Err(KernelBuildError::Unpack { path: path.to_owned(), source });
            }
        }
    }
    Ok(())
}

/// Puts what was built into the cache, laid out as a packaged kernel.
pub(super) fn collect(
    cache: &Cache,
    source: &Source,
    out: &Path,
    image: &str,
    release: &str,
) -> Result<Unpacked, KernelBuildError> {
    let time = source.time.unwrap_or(super::DEFAULT_TIME) as i64;
    let modules = out.join("lib/modules").join(release);
    fs::create_dir_all(&modules)?;
    // A kernel without modules installs none of these.
    for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        let (from, to) = (source.directory.join(name), modules.join(name));
        if from.is_file() && !to.is_file() {
            copy(&from, &to)?;
        }
    }
    // Links to the source and the build, which are gone soon.
    for name in ["build", "source"] {
        fs::remove_tree(&modules.join(name))?;
    }
    let mut pack = PackWriter::new(cache).map_err(crate::tree::pack::PackError::from)?;
    let mut placed = Vec::new();
    let boot = [(image, format!("boot/vmlinuz-{release}")), (".config", format!("boot/config-{release}"))];
    for (from, to) in boot {
        let path = source.directory.join(from);
        if !path.is_file() {
            return Err(KernelBuildError::NoResult { path: from.to_owned() });
        }
        placed.push((to, pack.add(&mut fs::open(&path)?, FILE_LIMIT)?));
    }
    let prefix = format!("usr/lib/modules/{release}");
    let mut tree = Tree::new(time);
    tree.insert(&prefix, Entry { meta: Meta::root(0o755, time), node: Node::Directory })?;
    // What is read is packed at once, so its digest is not asked for.
    let mut no_digest = |_: &Path, _: &std::fs::Metadata| Ok(ksos_formats::Digest([0; 32]));
    let found = archive::directory::read(&modules, time, &Limits::default(), &mut no_digest).map_err(Box::new)?;
    for (path, entry) in found.iter().filter(|(path, _)| !path.is_empty()) {
        let to = format!("{prefix}/{path}");
        match &entry.node {
            Node::File(_) => placed.push((to, pack.add(&mut fs::open(&modules.join(path))?, FILE_LIMIT)?)),
            node => tree.insert(&to, Entry { meta: Meta::root(0o755, time), node: node.clone() })?,
        }
    }
    let pack = pack.finish()?;
    for (path, file) in placed {
        let entry = Entry { meta: Meta::root(0o644, time), node: Node::File(pack.content(file)) };
        tree.insert(&path, entry)?;
    }
    Ok(Unpacked { tree, pack })
}

fn copy(from: &Path, to: &Path) -> Result<(), KernelBuildError> {
    let mut file = AtomicFile::create(to)?;
    std::io::copy(&mut fs::open(from)?, &mut file).context("copy", from)?;
    file.commit(0o644)?;
    Ok(())
}
