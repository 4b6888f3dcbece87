//! The release in `tests/fixtures/tinycore`, which `generate.sh` there makes, from a directory and from a server.

use std::io::Write as _;
use std::path::PathBuf;

use super::*;
use crate::effects::net::tests::server::{Server, reply};
use crate::effects::net::tests::{Fixture, quick};
use crate::source::archive::merge::merge;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tinycore")
}

fn request<'a>(extensions: &'a [String]) -> Request<'a> {
    Request { base: "release/distribution_files/corepure64.gz", extensions, kernel_release: None }
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn place() -> (tempfile::TempDir, Cache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    (directory, cache)
}

fn from_directory(path: &Path, request: &Request<'_>) -> Result<Vec<Found>, TinyCoreError> {
    let (_directory, cache) = place();
    let mut digest_of = |path: &Path| {
        let bytes = fs::read(path, 1 << 20)?;
        Ok((Digest::of(&bytes), bytes.len() as u64))
    };
    resolve(&Local::new(path, &mut digest_of), &cache, request)
}

fn error(extensions: &[&str]) -> String {
    from_directory(&fixture(), &request(&names(extensions))).unwrap_err().to_string()
}

fn file_names(found: &[Found]) -> Vec<&str> {
    found.iter().map(|found| found.pinned.name.as_str()).collect()
}

#[test]
fn each_extension_comes_after_what_it_needs() {
    let found = from_directory(&fixture(), &request(&names(&["iptables", "nftables.tcz"]))).unwrap();
    let expected = [
        "corepure64.gz",
        "libmnl.tcz",
        "libnftnl.tcz",
        "ipv6-netfilter-6.6.8-tinycore64.tcz",
        "iptables.tcz",
        "nftables.tcz",
    ];
    assert_eq!(file_names(&found), expected);
    let PinnedFile { path, size, sha256, version, license, .. } = &found[4].pinned;
    assert_eq!(path, "tcz/iptables.tcz");
    assert_eq!((version.as_deref(), license.as_deref()), (Some("1.8.10"), Some("GPLv2")));
    let bytes = fs::read(&fixture().join(path), 1 << 20).unwrap();
    assert_eq!((*sha256, *size), (Digest::of(&bytes), bytes.len() as u64));
    assert_eq!(found[0].pinned.version, None);
}

#[test]
fn a_flat_directory_and_a_mirror_give_the_same() {
    let extensions = names(&["nftables", "ipv6-netfilter-KERNEL"]);
    let wanted: Vec<PinnedFile> =
        from_directory(&fixture(), &request(&extensions)).unwrap().into_iter().map(|found| found.pinned).collect();

    let flat = tempfile::tempdir().unwrap();
    for directory in ["tcz", "release/distribution_files"] {
        for name in fs::list(&fixture().join(directory)).unwrap() {
            let bytes = fs::read(&fixture().join(directory).join(&name), 1 << 20).unwrap();
            fs::write_atomic(&flat.path().join(&name), &bytes).unwrap();
        }
    }
    let found = from_directory(flat.path(), &request(&extensions)).unwrap();
    assert!(found.iter().map(|found| &found.pinned).eq(&wanted));

    let server = Server::start(|request, stream| {
        let path = request.target().strip_prefix("/15.x/x86_64/").unwrap_or_default().to_owned();
        match fs::read(&fixture().join(path), 1 << 20) {
            Ok(bytes) => reply(stream, 200, &[], &bytes),
            Err(_) => reply(stream, 404, &[], b"no"),
        }
    });
    let net = Fixture::new(quick());
    let (_directory, cache) = place();
    let mirror = |path: &str| Mirror { fetch: &net.downloader, component: "base", urls: vec![server.url(path)] };
    let found = resolve(&mirror("/15.x/x86_64/"), &cache, &request(&extensions)).unwrap();
    assert!(found.iter().map(|found| &found.pinned).eq(&wanted));

    let missing = names(&["nftable"]);
    let error = resolve(&mirror("/15.x/x86_64"), &cache, &request(&missing)).unwrap_err().to_string();
    assert!(error.starts_with("there is no extension nftable.tcz in http://127.0.0.1:"), "{error}");
    assert!(error.ends_with("; the nearest name is nftables.tcz"), "{error}");
    let error = resolve(&mirror("/16.x"), &cache, &request(&[])).unwrap_err().to_string();
    assert!(error.starts_with("there is no base release/distribution_files/corepure64.gz in http"), "{error}");
}

#[test]
fn what_is_wrong_with_a_release_is_named() {
    assert_eq!(
        error(&["nftables", "cycle-one"]),
        "extensions need one another: cycle-one.tcz -> cycle-two.tcz -> cycle-one.tcz"
    );
    let missing = error(&["needs-missing"]);
    assert!(missing.starts_with("there is no extension libnmnl.tcz in "), "{missing}");
    assert!(missing.ends_with("; needs-missing.tcz needs it; the nearest name is libmnl.tcz"), "{missing}");
    assert_eq!(error(&["escapes"]), "tcz/escapes.tcz.dep:2: \"../../../etc/passwd\" is not the name of an extension");
    assert_eq!(error(&["page"]), "tcz/page.tcz is not a SquashFS image");
}

#[test]
fn a_base_that_is_none_and_a_kernel_that_is_unknown_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write_atomic(&at("corepure64.gz"), b"<html>").unwrap();
    let error =
        |extensions: &[&str]| from_directory(directory.path(), &request(&names(extensions))).unwrap_err().to_string();
    assert_eq!(error(&[]), "release/distribution_files/corepure64.gz is not a cpio archive");

    let mut base = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tree = Tree::new(0);
    tree.insert("etc", Entry { meta: Meta::root(0o755, 0), node: Node::Directory }).unwrap();
    let mut archive = Vec::new();
    crate::artifact::cpio::write(&tree, &mut archive, 0).unwrap();
    base.write_all(&archive).unwrap();
    fs::write_atomic(&at("corepure64.gz"), &base.finish().unwrap()).unwrap();
    assert_eq!(
        error(&["x-KERNEL"]),
        "x-KERNEL: the base has no kernel release in lib/modules, so KERNEL stands for nothing"
    );
    let stated = names(&["x-KERNEL"]);
    let stated = Request { kernel_release: Some("1.2"), ..request(&stated) };
    let error = from_directory(directory.path(), &stated).unwrap_err().to_string();
    assert!(error.starts_with("there is no extension x-1.2.tcz in "), "{error}");
}

#[test]
fn long_chains_end() {
    let directory = tempfile::tempdir().unwrap();
    let base = fs::read(&fixture().join("release/distribution_files/corepure64.gz"), 1 << 20).unwrap();
    fs::write_atomic(&directory.path().join("corepure64.gz"), &base).unwrap();
    for index in 0..300 {
        let path = directory.path().join(format!("x{index}.tcz"));
        fs::write_atomic(&path, b"hsqs").unwrap();
        fs::write_atomic(&path.with_extension("tcz.dep"), format!("x{}.tcz\n", index + 1).as_bytes()).unwrap();
    }
    let error = from_directory(directory.path(), &request(&names(&["x0"]))).unwrap_err().to_string();
    assert_eq!(error, "x256.tcz is needed through more than 256 other extensions");
}

#[test]
fn base_and_extensions_become_one_tree() {
    let (_directory, cache) = place();
    let found = from_directory(&fixture(), &request(&names(&["iptables"]))).unwrap();
    let mut tree = Tree::new(0);
    for (index, found) in found.iter().enumerate() {
        let kind = if index == 0 { Kind::Base } else { Kind::Extension };
        let unpacked = unpack(&cache, &found.place, &found.pinned.name, kind).unwrap();
        merge(&mut tree, unpacked.tree, &found.pinned.name).unwrap();
    }
    link_libraries(&mut tree).unwrap();
    let mode = |path: &str| tree.get(path).unwrap_or_else(|| panic!("{path} is there")).meta.mode & 0o7777;
    assert_eq!((mode("bin/busybox"), mode("tmp"), mode("usr/local/sbin/iptables")), (0o4755, 0o1777, 0o755));
    let home = &tree.get("home/tc").unwrap().meta;
    assert_eq!((home.uid, home.gid), (1001, 50));
    assert_eq!(tree.below("dev").count(), 0, "the kernel makes the devices");
    assert!(tree.get("dev").is_some());
    let link = |path: &str| match &tree.get(path).unwrap().node {
        Node::Symlink(target) => target.clone(),
        node => panic!("{path} is {node:?}"),
    };
    assert_eq!(link("usr/lib/libnftnl.so.11"), "../local/lib/libnftnl.so.11");
    assert_eq!(link("lib64"), "lib");
    assert!(tree.canonicalize("usr/lib/libnftnl.so.11").is_some());
    assert_eq!(start_scripts(&tree), ["iptables"]);
}

#[test]
fn a_damaged_extension_and_a_device_in_one_are_refused() {
    let (_directory, cache) = place();
    let error = unpack(&cache, &fixture().join("tcz/damaged.tcz"), "damaged.tcz", Kind::Extension).unwrap_err();
    assert!(matches!(error, TinyCoreError::Archive(_)), "{error}");
    let mut tree = unpack(&cache, &fixture().join("tcz/libmnl.tcz"), "libmnl.tcz", Kind::Extension).unwrap().tree;
    let entry = Entry { meta: Meta::root(0o600, 0), node: Node::BlockDevice { major: 8, minor: 0 } };
    tree.insert("etc", Entry { meta: Meta::root(0o755, 0), node: Node::Directory }).unwrap();
    tree.insert("etc/disk", entry).unwrap();
    let error = drop_devices(&mut tree, "base").unwrap_err().to_string();
    assert_eq!(error, "base: /etc/disk is a device outside of /dev");
}
