//! The initramfs: the runtime as `/init`, the modules that it needs, and its boot configuration as a last segment, so
//! that a changed root file system does not compress the modules again.

use ksos_formats::boot::BootConfig;
use ksos_formats::layout;

use crate::artifact::cpio;
use crate::assemble;
use crate::cache::{Blob, Cache};
use crate::ops::OpError;
use crate::tree::{Entry, Meta, Node, Tree};

/// How the initramfs is compressed: gzip, as its name in the slot says.
const COMPRESSION: cpio::Compression = cpio::Compression::Gzip(6);

/// Empty directories that `/init` mounts on.
const DIRECTORIES: [&str; 6] = ["proc", "sys", "dev", "run", "sysroot", "ksos"];

/// Returns the tree: `/init`, modules, mount points, and `/dev/console` for messages before devtmpfs is mounted.
///
/// # Errors
/// When `runtime` (a component's tree) has no runtime binary.
pub fn base(runtime: &Tree, modules: Tree, epoch: u64) -> Result<Tree, OpError> {
    let place = layout::RUNTIME_BINARY.trim_start_matches('/');
    let binary = runtime.get(place).filter(|entry| matches!(entry.node, Node::File(_)));
    let binary = binary.ok_or(OpError::NoRuntime { path: layout::RUNTIME_BINARY })?;
    let mut tree = modules;
    let meta = |mode| Meta::root(mode, epoch as i64);
    let init = Entry { meta: meta(0o755), node: binary.node.clone() };
    assemble::put(&mut tree, "init", init, "initramfs")?;
    for path in DIRECTORIES {
        assemble::put_directory(&mut tree, path, 0o755, epoch, "initramfs")?;
    }
    let console = Entry { meta: meta(0o600), node: Node::CharacterDevice { major: 5, minor: 1 } };
    assemble::put(&mut tree, "dev/console", console, "initramfs")?;
    if tree.get("lib").is_none() {
        let link = Entry { meta: meta(0o777), node: Node::Symlink("usr/lib".to_owned()) };
        assemble::put(&mut tree, "lib", link, "initramfs")?;
    }
    assemble::clamp_times(&mut tree, epoch);
    Ok(tree)
}

/// Writes `tree` as a compressed initramfs into the cache; returns the blob and its unpacked size in bytes.
///
/// # Errors
/// When a file cannot be read or the blob not be written.
pub fn write(cache: &Cache, tree: &Tree, epoch: u64, jobs: usize) -> Result<(Blob, u64), OpError> {
    let mut writer = cache.writer()?;
    let summary = cpio::write_compressed(tree, &mut writer, epoch as u32, COMPRESSION, jobs)?;
    Ok((writer.commit()?, summary.archive_bytes))
}

/// Returns the last segment of the initramfs: a compressed cpio archive with the boot configuration.
///
/// # Errors
/// Never in practice: the segment is written to memory.
pub fn boot_config(config: &BootConfig, epoch: u64) -> Result<Vec<u8>, OpError> {
    let text = serde_json::to_vec_pretty(config).expect("the boot configuration can be serialised");
    let mut tree = Tree::new(epoch as i64);
    assemble::put_file(&mut tree, layout::BOOT_CONFIG, 0o644, &text, epoch, "initramfs")?;
    let mut segment = Vec::new();
    cpio::write_compressed(&tree, &mut segment, epoch as u32, COMPRESSION, 1)?;
    Ok(segment)
}
