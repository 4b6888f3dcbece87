//! The archives against GNU cpio, gzip and zstd.
#![expect(clippy::disallowed_methods, reason = "tests give files to foreign tools")]

use std::fs;
use std::path::Path;

use super::*;
use proptest::prelude::*;

use crate::artifact::squashfs::testing::{
    EPOCH, Ignore, any_tree, compare, everything, has_tool, is_root, noise, run, text,
};
use crate::tree::{Location, Meta};
use ksos_formats::Digest;

fn archive(tree: &Tree) -> Vec<u8> {
    let mut out = Vec::new();
    let summary = write(tree, &mut out, EPOCH).unwrap();
    assert_eq!(summary.archive_bytes, out.len() as u64);
    out
}

fn compressed(tree: &Tree, compression: Compression, workers: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let summary = write_compressed(tree, &mut out, EPOCH, compression, workers).unwrap();
    assert_eq!(summary.written_bytes, out.len() as u64);
    assert_eq!(summary.archive_bytes, archive(tree).len() as u64);
    out
}

fn file(bytes: Vec<u8>) -> Entry {
    Entry { meta: Meta::root(0o644, 1), node: Node::File(Content::inline(bytes)) }
}

fn shell(directory: &Path, script: &str) -> String {
    run("sh", &["-ec", &format!("cd {}; {script}", directory.display())])
}

#[test]
fn gnu_cpio_extracts_what_the_tree_holds() {
    if !has_tool("cpio") || !is_root("restoring owners and devices") {
        return;
    }
    let tree = everything(4096, false);
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("archive"), archive(&tree)).unwrap();
    shell(directory.path(), "mkdir root; cd root; cpio --quiet -idm --no-absolute-filenames < ../archive");
    let ignore = Ignore { directory_times: true, directory_links: true };
    compare(&tree, &directory.path().join("root"), ignore);
}

#[test]
fn gnu_cpio_lists_modes_links_and_devices() {
    if !has_tool("cpio") {
        return;
    }
    let tree = everything(4096, false);
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("archive"), archive(&tree)).unwrap();
    let listing = shell(directory.path(), "cpio --quiet -itvn < archive");
    assert_eq!(listing.lines().count(), tree.len());
    let words: Vec<String> =
        listing.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for expected in [
        "drwxr-xr-x 7 0 0 0 Sep 13 2020 .",
        "-rwsr-xr-x 3 0 0 0 Jan 1 1970 a-link",
        "-rwsr-xr-x 3 0 0 0 Jan 1 1970 usr/bin/sudo",
        "-rwsr-xr-x 3 0 0 100 Jan 1 1970 usr/bin/visudo",
        "-rw-r--r-- 1 0 0 10 Jan 1 2024 etc/future",
        "crw-rw-rw- 1 0 0 1, 3 Jan 1 1970 dev/null",
        "brw-rw---- 1 0 6 259, 74565 Jan 1 1970 dev/nvme",
        "prw------- 1 3 0 0 Jan 1 1970 dev/pipe",
        "srw-rw---- 1 0 4 0 Jan 1 1970 dev/log",
        "lrwxrwxrwx 1 0 0 7 Jan 1 1970 bin -> usr/bin",
    ] {
        assert!(words.iter().any(|line| line == expected), "{expected}\nis not in\n{}", words.join("\n"));
    }
}

#[test]
fn archives_can_follow_one_another() {
    assert_eq!(archive(&Tree::new(0)).len(), 512);
    assert_eq!(archive(&everything(4096, false)).len() % 512, 0);
}

#[test]
fn compressed_archives_are_what_gzip_and_zstd_expect() {
    let mut tree = everything(4096, false);
    tree.insert("large-text", file(text(90, 4_500_000))).unwrap();
    tree.insert("large-noise", file(noise(90, 600_000))).unwrap();
    let plain = archive(&tree);
    let directory = tempfile::tempdir().unwrap();
    for (compression, tool) in [
        (Compression::Gzip(1), "gzip"),
        (Compression::Gzip(9), "gzip"),
        (Compression::Zstd(3), "zstd"),
        // At this level the multi-threaded encoder splits a few megabytes.
        (Compression::Zstd(1), "zstd"),
    ] {
        let bytes = compressed(&tree, compression, 2);
        if has_tool(tool) {
            fs::write(directory.path().join("archive"), &bytes).unwrap();
            shell(directory.path(), &format!("{tool} -t < archive; {tool} -dc < archive > plain"));
            assert!(fs::read(directory.path().join("plain")).unwrap() == plain, "{compression:?}");
        }
        for workers in [0, 1, 5] {
            assert!(compressed(&tree, compression, workers) == bytes, "{compression:?}, {workers} workers");
        }
    }
    assert!(compressed(&tree, Compression::None, 2) == plain);
}

#[test]
fn gzip_makes_a_single_member() {
    // The kernel wants a whole archive in each member.
    let mut tree = Tree::new(0);
    tree.insert("large", file(text(91, 2_000_000))).unwrap();
    let bytes = compressed(&tree, Compression::Gzip(6), 3);
    let mut decoder = flate2::bufread::GzDecoder::new(&bytes[..]);
    let mut plain = Vec::new();
    io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
    assert!(plain == archive(&tree));
    assert!(decoder.into_inner().is_empty());
}

#[test]
fn what_an_initramfs_cannot_hold_is_refused_with_its_path() {
    let refused = |path: &str, entry: Entry| {
        let mut tree = Tree::new(0);
        tree.insert(path, entry).unwrap();
        write(&tree, &mut io::sink(), EPOCH).unwrap_err().to_string()
    };
    let node = |node| Entry { meta: Meta::root(0o644, 0), node };
    let mut attributed = node(Node::Fifo);
    attributed.meta.xattrs.insert("security.capability".to_owned(), vec![1]);
    insta::assert_snapshot!(refused("bin/ping", attributed), @r#"/bin/ping: an initramfs cannot hold extended attributes, such as "security.capability""#);
    let large = Content { digest: Digest::of(b""), size: 1 << 32, location: Location::Inline(Vec::new().into()) };
    insta::assert_snapshot!(refused("large", node(Node::File(large))), @"/large: an initramfs cannot hold a file of 4294967296 bytes, only less than 4 GiB");
    insta::assert_snapshot!(refused("TRAILER!!!", node(Node::Fifo)), @"/TRAILER!!!: this name marks the end of an initramfs");
    insta::assert_snapshot!(refused("dev/x", node(Node::BlockDevice { major: 1, minor: 1 << 20 })), @"/dev/x: device number 1:1048576 is above 4095:1048575");
    insta::assert_snapshot!(refused("link", node(Node::Symlink(String::new()))), @"/link: the target of a symbolic link must have 1 to 4095 bytes, this one has 0");
    let lying = Content { digest: Digest::of(b"other"), ..Content::inline(*b"some") };
    insta::assert_snapshot!(refused("etc/changed", node(Node::File(lying))), @"/etc/changed: the content changed during the build");
    let short = Content { size: 10, ..Content::inline(*b"some") };
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("short");
    fs::write(&place, b"some").unwrap();
    let short = Content { location: Location::Slice { path: place.into(), offset: 0 }, ..short };
    insta::assert_snapshot!(refused("etc/short", node(Node::File(short))), @"/etc/short: the content changed during the build");
}

#[test]
fn levels_outside_the_range_are_refused() {
    let tree = Tree::new(0);
    for compression in [Compression::Gzip(0), Compression::Gzip(10), Compression::Zstd(0), Compression::Zstd(20)] {
        let result = write_compressed(&tree, &mut io::sink(), EPOCH, compression, 1);
        assert!(matches!(result, Err(Error::Level { .. })), "{compression:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gnu_cpio_brings_any_tree_back(tree in any_tree(false)) {
        if has_tool("cpio") && is_root("restoring owners and devices") {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("archive"), archive(&tree)).unwrap();
            let listing = shell(directory.path(), "cpio --quiet -it < archive");
            prop_assert_eq!(listing.lines().count(), tree.len());
            shell(directory.path(), "mkdir root; cd root; cpio --quiet -idm --no-absolute-filenames < ../archive");
            compare(&tree, &directory.path().join("root"), Ignore { directory_times: true, directory_links: true });
        }
    }
}
