//! File contents: bytes, holes, extents, links.

use std::io::{Seek as _, SeekFrom};
use std::sync::Arc;

use ksos_formats::digest::Hasher;

use super::*;
use crate::tree::Location;

const BLOCK: usize = 4096;

#[test]
fn files_of_every_size_around_a_block_come_back() {
    let mut tree = tree();
    let sizes = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 128 * BLOCK, 128 * BLOCK + 1, 300 * BLOCK - 7];
    for size in sizes {
        tree.insert(&format!("d/f{size}"), file(noise(size as u64, size))).unwrap();
    }
    let image = Image::write(&tree, &options(16 * MIB));
    if !image.check() {
        return;
    }
    for size in sizes {
        assert!(image.dump(&format!("/d/f{size}")) == noise(size as u64, size), "{size}");
    }
    assert_eq!(image.summary.inodes - image.summary.free_inodes, 11 + 1 + sizes.len() as u32);
}

#[test]
fn zero_blocks_take_no_space() {
    let mut tree = tree();
    let mut bytes = vec![0; 100 * BLOCK + 10];
    bytes[50 * BLOCK] = 1;
    tree.insert("one-in-the-middle", file(bytes.clone())).unwrap();
    tree.insert("all", file(vec![0; 100 * BLOCK + 10])).unwrap();
    let image = Image::write(&tree, &options(16 * MIB));
    if !image.check() {
        return;
    }
    assert!(image.dump("/one-in-the-middle") == bytes);
    assert_eq!(image.dump("/all"), vec![0; 100 * BLOCK + 10]);
    assert!(image.debugfs_one("stat /one-in-the-middle").contains("Blockcount: 8\n"));
    assert!(image.debugfs_one("stat /all").contains("Blockcount: 0\n"));
}

/// Every other block is a hole, so each block with data is an extent.
fn fragmented(blocks: usize) -> Vec<u8> {
    let mut bytes = noise(7, blocks * BLOCK);
    for block in bytes.chunks_mut(2 * BLOCK) {
        block[..BLOCK].fill(0);
    }
    bytes
}

#[test]
fn extent_trees_of_every_depth_are_valid() {
    let mut tree = tree();
    // 4 extents are in the inode, 340 in a block; 4 * 340 are the most that blocks named by the inode can have.
    let extents = [1, 4, 5, 340, 341, 1360, 1361, 2000];
    for count in extents {
        tree.insert(&format!("f{count}"), file(fragmented(2 * count))).unwrap();
    }
    let image = Image::write(&tree, &options(64 * MIB));
    if !image.check() {
        return;
    }
    for count in extents {
        assert!(image.dump(&format!("/f{count}")) == fragmented(2 * count), "{count}");
    }
    let depth = |count: usize| image.debugfs_one(&format!("dump_extents /f{count}"));
    assert!(depth(4).contains(" 0/ 0") && depth(1360).contains(" 1/ 1") && depth(1361).contains(" 2/ 2"));
}

/// A host file with `marks` (offset, text) in a hole of `size` bytes, as content of a tree.
fn sparse_host_file(folder: &Path, size: u64, marks: &[(u64, &str)]) -> Content {
    let path = folder.join("sparse");
    let mut out = File::create_new(&path).unwrap();
    out.set_len(size).unwrap();
    for (offset, text) in marks {
        out.seek(SeekFrom::Start(*offset)).unwrap();
        out.write_all(text.as_bytes()).unwrap();
    }
    let mut hasher = Hasher::new();
    std::io::copy(&mut File::open(&path).unwrap(), &mut hasher).unwrap();
    Content::host_file(path, hasher.finish(), size)
}

#[test]
fn a_sparse_file_over_2_gib_is_right_in_a_small_image() {
    let folder = tempfile::tempdir().unwrap();
    let size = (1 << 31) + (1 << 20) + 5;
    let marks = [(0, "start"), ((1 << 31) - 2, "over 2 GiB"), (size - 4, "end.")];
    let mut tree = tree();
    let content = sparse_host_file(folder.path(), size, &marks);
    tree.insert("big", entry(Node::File(content))).unwrap();
    let image = Image::write(&tree, &options(16 * MIB));
    assert!(image.disk_usage() < MIB, "{}", image.disk_usage());
    if !image.check() {
        return;
    }
    let stat = image.debugfs_one("stat /big");
    assert!(stat.contains(&format!("Size: {size}\n")) && stat.contains("Blockcount: 32\n"), "{stat}");
    for (offset, text) in marks {
        let block = offset / BLOCK as u64;
        let number = image.debugfs_one(&format!("bmap /big {block}"));
        let number: u64 = number.trim().parse().unwrap();
        let start = (number * BLOCK as u64 + offset % BLOCK as u64) as usize;
        let first = text.len().min(BLOCK - (offset % BLOCK as u64) as usize);
        assert_eq!(&image.bytes()[start..start + first], &text.as_bytes()[..first], "{text}");
    }
}

#[test]
fn a_file_across_many_groups_is_in_few_extents() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large");
    let mut hasher = Hasher::new();
    let mut out = File::create_new(&path).unwrap();
    let piece = noise(3, 4 << 20);
    for _ in 0..70 {
        out.write_all(&piece).unwrap();
        hasher.update(&piece);
    }
    let mut tree = tree();
    tree.insert("large", entry(Node::File(Content::host_file(path, hasher.finish(), 280 << 20)))).unwrap();
    let image = Image::write(&tree, &options(512 * MIB));
    if !image.check() {
        return;
    }
    assert!(image.dump("/large").chunks(4 << 20).all(|part| part == piece));
    let extents = image.debugfs_one("ex /large").lines().count();
    assert!(extents <= 8, "{extents}");
}

#[test]
fn hard_links_share_an_inode() {
    let mut tree = tree();
    tree.insert("a/first", file("shared")).unwrap();
    for name in ["a/second", "b/third", "0-before"] {
        tree.insert(name, entry(Node::HardLink("a/first".into()))).unwrap();
    }
    let image = Image::write(&tree, &options(8 * MIB));
    if !image.check() {
        return;
    }
    for name in ["a/first", "a/second", "b/third", "0-before"] {
        let stat = image.debugfs_one(&format!("stat /{name}"));
        assert!(stat.contains("Links: 4 ") && image.dump(&format!("/{name}")) == b"shared", "{stat}");
    }
}

fn failure(content: Content) -> super::super::Error {
    let mut tree = tree();
    tree.insert("etc/changed", entry(Node::File(content))).unwrap();
    write(&tree, &mut std::io::Cursor::new(Vec::new()), &options(8 * MIB)).unwrap_err()
}

#[test]
fn a_file_that_is_shorter_than_the_tree_says_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("short");
    std::fs::write(&path, "12345").unwrap();
    let error = failure(Content::host_file(path, ksos_formats::Digest::of(b"123456"), 6));
    assert!(matches!(&error, super::super::Error::ContentShort { path, size: 6 } if path == "etc/changed"), "{error}");
}

#[test]
fn a_file_with_other_bytes_than_the_tree_says_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed");
    std::fs::write(&path, "12345").unwrap();
    let error = failure(Content::host_file(path, ksos_formats::Digest::of(b"54321"), 5));
    assert!(matches!(&error, super::super::Error::ContentChanged { path, .. } if path == "etc/changed"), "{error}");
}

#[test]
fn a_file_that_is_gone_is_named() {
    let path = Path::new("/nonexistent/file");
    let location = Location::Slice { path: Arc::from(path), offset: 0 };
    let error = failure(Content { digest: ksos_formats::Digest::of(b"1"), size: 1, location });
    assert!(matches!(&error, super::super::Error::Content { path, .. } if path == "etc/changed"), "{error}");
}
