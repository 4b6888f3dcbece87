//! Writes a host directory as a SquashFS image and prints time, size and peak memory: the figures of
//! `docs/design/0002-own-squashfs-writer.md`.
//!
//! ```text
//! squashfs_bench DIRECTORY IMAGE [CACHE]
//! ```
//!
//! Everything is root-owned, as `mksquashfs -all-root` does; zstd level 15, 256 KiB blocks, 2 workers.
#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a measuring tool")]

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

use ksos_compose::artifact::squashfs::{BlockCache, Compression, DirectoryBlockCache, NoBlockCache, Options, write};
use ksos_compose::artifact::verity;
use ksos_compose::cache::Cache;
use ksos_compose::tree::{Content, Entry, Meta, Node, Tree};
use ksos_formats::Digest;
use ksos_formats::digest::Hasher;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, image, rest @ ..] = arguments.as_slice() else {
        return Err("usage: squashfs_bench DIRECTORY IMAGE [CACHE]".into());
    };
    let start = Instant::now();
    let mut tree = Tree::new(0);
    add(&mut tree, Path::new(directory), "")?;
    println!("tree      {:8.3} s  {} entries", start.elapsed().as_secs_f64(), tree.len());

    let store = rest.first().map(|path| Cache::open(Path::new(path))).transpose()?;
    let cache = store.as_ref().map(DirectoryBlockCache::in_cache);
    let cache: &dyn BlockCache = cache.as_ref().map_or(&NoBlockCache, |cache| cache);
    let compression = Compression::Zstd(15);
    let options = Options { compression, block_size: 256 << 10, epoch: u32::MAX, workers: 2, cache, progress: None };
    let start = Instant::now();
    let mut out = BufWriter::with_capacity(1 << 20, File::create(image)?);
    let summary = write(&tree, &mut out, &options)?;
    drop(out);
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "squashfs  {seconds:8.3} s  {} bytes, {} of content, {} of it cached",
        summary.size, summary.content_bytes, summary.cached_bytes
    );

    let start = Instant::now();
    let mut file = File::options().read(true).write(true).open(image)?;
    let appended = verity::append(&mut file, summary.size, Digest::of(b"salt"), 2)?;
    println!("verity    {:8.3} s  {} bytes", start.elapsed().as_secs_f64(), appended.size);
    println!("peak RSS  {:8} KiB", peak_memory()?);
    Ok(())
}

fn add(tree: &mut Tree, place: &Path, path: &str) -> Result<(), Box<dyn Error>> {
    let stat = fs::symlink_metadata(place)?;
    let kind = stat.file_type();
    let node = if kind.is_dir() {
        Node::Directory
    } else if kind.is_symlink() {
        Node::Symlink(fs::read_link(place)?.to_string_lossy().into_owned())
    } else if kind.is_file() {
        let mut hasher = Hasher::new();
        let size = io::copy(&mut File::open(place)?, &mut hasher)?;
        Node::File(Content::host_file(place.to_owned(), hasher.finish(), size))
    } else if kind.is_fifo() {
        Node::Fifo
    } else {
        return Ok(());
    };
    tree.insert(path, Entry { meta: Meta::root(stat.mode() & 0o7777, stat.mtime()), node })?;
    if kind.is_dir() {
        for entry in fs::read_dir(place)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let child = if path.is_empty() { name } else { format!("{path}/{name}") };
            add(tree, &entry.path(), &child)?;
        }
    }
    Ok(())
}

fn peak_memory() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
