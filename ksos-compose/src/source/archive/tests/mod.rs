//! Hostile archives, named by their fault, and archives made by the tools that people use.
#![expect(clippy::disallowed_methods, reason = "tests write files and run foreign tools")]

mod cpio;
mod directory;
mod roundtrip;
mod squashfs;
pub(in crate::source) mod tar;
mod zip;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::*;
pub(super) use crate::testing::has_tool;
use crate::tree::{Entry, Node};

pub(super) const OPEN: Policy = Policy { allow_devices: true, allow_setid: true, owner: Owner::Keep };
pub(super) const STRICT: Policy = Policy { allow_devices: false, allow_setid: false, owner: Owner::Root };
pub(super) const SMALL: Limits = Limits { total: 1 << 20, entries: 1000, file: 1 << 20 };

/// A cache that goes with the test.
pub(super) struct Place {
    pub(super) directory: TempDir,
    pub(super) cache: Cache,
}

pub(super) fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(&directory.path().join("cache")).unwrap();
    Place { directory, cache }
}

impl Place {
    pub(super) fn unpack(&self, bytes: &[u8], format: Format, policy: &Policy) -> Result<Unpacked, ArchiveError> {
        let path = self.directory.path().join("archive");
        std::fs::write(&path, bytes).unwrap();
        unpack(&self.cache, &path, format, policy, &SMALL)
    }
}

/// Returns the error that `bytes` give, without the archive's path; fails when they unpack or leave anything behind.
pub(super) fn error(bytes: &[u8], format: Format, policy: &Policy) -> String {
    let place = place();
    let error = place.unpack(bytes, format, policy).map(|unpacked| unpacked.tree).unwrap_err();
    let left: Vec<_> = std::fs::read_dir(place.cache.bucket("blobs")).unwrap().collect();
    assert!(left.is_empty(), "a refused archive leaves blobs behind");
    assert_eq!(std::fs::read_dir(place.cache.bucket("tmp")).unwrap().count(), 0);
    error.to_string().split_once("archive: ").unwrap().1.to_owned()
}

pub(super) fn text_of(tree: &Tree, path: &str) -> String {
    let entry = tree.get(path).unwrap_or_else(|| panic!("{path} is there"));
    let Node::File(content) = &tree.resolve_link(entry).node else { panic!("{path} is no file") };
    String::from_utf8(content.read(1 << 20).unwrap()).unwrap()
}

pub(super) fn paths(tree: &Tree) -> Vec<&str> {
    tree.iter().map(|(path, _)| path).filter(|path| !path.is_empty()).collect()
}

/// Tells whether a foreign tool is there; without it the test says so, or fails when it must not.
pub(super) fn sh(directory: &Path, script: &str) {
    let output = Command::new("sh").args(["-ec", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A form of a tree in which it does not matter which name of a file is the first.
pub(super) fn canonical(tree: &Tree) -> BTreeMap<String, (Entry, Vec<String>)> {
    let mut names: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (path, entry) in tree.iter() {
        if let Node::HardLink(target) = &entry.node {
            names.entry(target).or_insert_with(|| vec![target.clone()]).push(path.to_owned());
        }
    }
    names.values_mut().for_each(|names| names.sort());
    let form = |(path, entry): (&str, &Entry)| {
        let first = if let Node::HardLink(target) = &entry.node { target } else { path };
        (path.to_owned(), (tree.resolve_link(entry).clone(), names.get(first).cloned().unwrap_or_default()))
    };
    tree.iter().map(form).collect()
}

/// Truncates `bytes` at each of `cuts` and demands an error each time.
pub(super) fn truncated_everywhere(bytes: &[u8], cuts: impl Iterator<Item = usize>, format: Format) {
    for cut in cuts {
        let message = error(&bytes[..cut], format, &OPEN);
        assert!(!message.is_empty(), "cut at {cut}");
    }
}

#[test]
fn formats_are_told_by_the_ending() {
    let of = Format::of_name;
    assert_eq!(of("https://host/x/kubesolo-v1.2.0-linux-amd64.tar.gz"), Some(Format::Tar(Compression::Gzip)));
    assert_eq!(of("a.TGZ"), Some(Format::Tar(Compression::Gzip)));
    assert_eq!(of("a.tar.zst"), Some(Format::Tar(Compression::Zstd)));
    assert_eq!(of("a.cpio.xz"), Some(Format::Cpio(Compression::Xz)));
    assert_eq!(of("a.squashfs"), Some(Format::SquashFs));
    assert_eq!(
        (of("a.zip"), of("a.zip.gz"), of("tar"), of("a.gz"), of("a.tar/b")),
        (Some(Format::Zip), None, None, None, None)
    );
    for name in Format::NAMES {
        assert!(name.parse::<Format>().is_ok(), "{name}");
    }
    assert!(
        "rar"
            .parse::<Format>()
            .unwrap_err()
            .to_string()
            .starts_with("\"rar\" is not an archive format; there are file, tar,")
    );
}

#[test]
fn a_web_page_is_no_archive() {
    let page = b"<!DOCTYPE html><html>".as_slice();
    let found = "it begins with \"<!DOCTYPE html><\"";
    for (format, expected) in [
        (Format::Tar(Compression::None), "a tar archive"),
        (Format::Tar(Compression::Gzip), "gzip data"),
        (Format::Cpio(Compression::None), "a cpio archive (newc)"),
        (Format::Cpio(Compression::Zstd), "zstd data"),
        (Format::Zip, "a zip archive"),
        (Format::SquashFs, "a SquashFS image"),
    ] {
        assert_eq!(error(page, format, &OPEN), format!("not {expected}: {found}"));
        let empty = error(b"", format, &OPEN);
        assert_eq!(empty, format!("not {expected}: it begins with nothing: it is empty"));
    }
}

#[test]
fn a_stored_tree_comes_back() {
    let place = place();
    let path = place.directory.path().join("tool");
    std::fs::write(&path, "#!/bin/sh\n").unwrap();
    let unpacked = unpack(&place.cache, &path, Format::Plain, &STRICT, &SMALL).unwrap();
    assert_eq!(text_of(&unpacked.tree, "tool"), "#!/bin/sh\n");
    let index = unpacked.store(&place.cache).unwrap();
    assert_eq!(load(&place.cache, &index.digest), Some(unpacked.tree));
    std::fs::remove_file(&unpacked.pack.blob.path).unwrap();
    assert_eq!(load(&place.cache, &index.digest), None);
}
