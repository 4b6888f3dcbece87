#![expect(clippy::disallowed_methods, reason = "a foreign tool makes packages")]

use super::super::codec::tests::encode;
use super::*;
use crate::cache::Cache;
use crate::source::archive::{Limits, Owner, Policy, unpack_tar};

/// Returns a tar archive of regular files.
fn tarball(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Returns one member, with `size` as its declared size.
fn sized_member(name: &str, content: &[u8], size: u64) -> Vec<u8> {
    let mut bytes = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, "100644").into_bytes();
    bytes.extend_from_slice(content);
    if content.len() % 2 == 1 {
        bytes.push(b'\n');
    }
    bytes
}

fn member(name: &str, content: &[u8]) -> Vec<u8> {
    sized_member(name, content, content.len() as u64)
}

fn package(members: &[Vec<u8>]) -> Vec<u8> {
    [b"!<arch>\n".to_vec(), members.concat()].concat()
}

const CONTROL: &str = "Package: hello\nVersion: 1.0\nDescription: short\n long\n .\n end\n";

fn control_member() -> Vec<u8> {
    let files = [
        ("./control", CONTROL),
        ("./conffiles", "/etc/hello.conf\nremove-on-upgrade /etc/old\n"),
        ("./postinst", "#!/bin/sh\n"),
        ("./md5sums", "x"),
        ("./config", ""),
    ];
    member("control.tar.gz", &encode(Compression::Gzip, &tarball(&files)))
}

fn format_member() -> Vec<u8> {
    member("debian-binary", b"2.0\n")
}

/// Reads a package whole: control, and the paths and sizes in `data.tar`.
fn read(bytes: &[u8]) -> Result<(Control, Vec<(String, u64)>), String> {
    let mut deb = open(bytes).map_err(|error| error.to_string())?;
    let mut archive = tar::Archive::new(&mut deb.data);
    let mut files = Vec::new();
    for entry in archive.entries().map_err(|error| error.to_string())? {
        let mut entry = entry.map_err(|error| error.to_string())?;
        let size = io::copy(&mut entry, &mut io::sink()).map_err(|error| error.to_string())?;
        files.push((entry.path().unwrap().display().to_string(), size));
    }
    io::copy(&mut deb.data, &mut io::sink()).map_err(|error| error.to_string())?;
    Ok((deb.control, files))
}

#[test]
fn a_package_is_read_in_every_compression() {
    let data = tarball(&[("./usr/bin/hello", "hello world")]);
    for (name, compression) in [
        ("data.tar", Compression::None),
        ("data.tar.gz", Compression::Gzip),
        ("data.tar.xz", Compression::Xz),
        ("data.tar.zst", Compression::Zstd),
        ("data.tar.xz/", Compression::Xz),
    ] {
        let data = member(name, &encode(compression, &data));
        let members = [format_member(), member("_gpgorigin", b"odd"), control_member(), data, member("_extra", b"x")];
        let (control, files) = read(&package(&members)).unwrap();
        assert_eq!(files, [("usr/bin/hello".to_owned(), 11)], "{name}");
        assert_eq!(control.field("Version"), "1.0");
        assert_eq!(control.field("Description"), "short\nlong\n.\nend");
        assert_eq!(control.conffiles, ["/etc/hello.conf"]);
        assert_eq!(control.scripts, ["config", "postinst"]);
    }
}

#[test]
fn hostile_packages_are_refused() {
    let content = encode(Compression::Xz, &tarball(&[("./a", "b")]));
    let data = member("data.tar.xz", &content);
    let good = package(&[format_member(), control_member(), data.clone()]);
    let control_at = 8 + format_member().len();
    let huge = 9_999_999_999;
    let control_of =
        |files: &[(&str, &str)]| package(&[format_member(), member("control.tar", &tarball(files)), data.clone()]);
    for (fault, bytes, error) in [
        ("html", b"<html></html>".to_vec(), "not a Debian package: it starts with \"<html></\"".to_owned()),
        ("empty", Vec::new(), "not a Debian package: it starts with \"\"".to_owned()),
        ("no members", package(&[]), "expected member debian-binary, found the end".to_owned()),
        (
            "no data",
            package(&[format_member(), control_member()]),
            "expected member data.tar, found the end".to_owned(),
        ),
        (
            "wrong order",
            package(&[format_member(), data.clone(), control_member()]),
            "expected member control.tar, found data.tar.xz".to_owned(),
        ),
        (
            "no format",
            package(&[control_member(), data.clone()]),
            "expected member debian-binary, found control.tar.gz".to_owned(),
        ),
        (
            "format 3",
            package(&[member("debian-binary", b"3.0\n"), control_member(), data.clone()]),
            "package format \"3.0\"; only 2.x is known".to_owned(),
        ),
        (
            "huge format",
            package(&[sized_member("debian-binary", b"2.0\n", huge)]),
            format!("damaged member header at byte 68: member debian-binary is {huge} bytes large; the limit is 64"),
        ),
        (
            "huge control",
            package(&[format_member(), sized_member("control.tar.gz", b"", huge)]),
            format!("control archive: it is {huge} bytes large; the limit is 33554432"),
        ),
        ("control cut", good[..control_at + 100].to_vec(), "the package ends in member control.tar.gz".to_owned()),
        (
            "header cut",
            good[..control_at + 30].to_vec(),
            format!("the package ends in the member header at byte {control_at}"),
        ),
        (
            "data longer than declared by the file",
            package(&[format_member(), control_member(), sized_member("data.tar.xz", &content, huge)]),
            String::new(),
        ),
        ("data cut", good[..good.len() - 40].to_vec(), String::new()),
        (
            "no end mark",
            [&good[..66], b"xx", &good[68..]].concat(),
            "damaged member header at byte 8: its end mark is missing".to_owned(),
        ),
        (
            "negative size",
            [&good[..56], b"-1        ", &good[66..]].concat(),
            "damaged member header at byte 8: its size is not a number".to_owned(),
        ),
        (
            "bzip2",
            package(&[format_member(), control_member(), member("data.tar.bz2", b"BZh9")]),
            "member data.tar.bz2: its compression is not known (gzip, xz and zstd are)".to_owned(),
        ),
        ("no control file", control_of(&[("./md5sums", "")]), "control file: it is missing".to_owned()),
        (
            "two paragraphs",
            control_of(&[("./control", "A: 1\n\nB: 2\n")]),
            "control file: it has 2 paragraphs instead of one".to_owned(),
        ),
        (
            "malformed control",
            control_of(&[("./control", "A: 1\nB\n")]),
            "control file: line 2: expected `Name: value`, found \"B\"".to_owned(),
        ),
    ] {
        let found = read(&bytes).map(|(_, files)| files);
        let found = found.expect_err(fault);
        assert!(if error.is_empty() { found.contains("it ends after") } else { found == error }, "{fault}: {found}");
    }
}

#[test]
fn a_control_archive_that_explodes_is_refused() {
    let bomb = encode(Compression::Xz, &tarball(&[("./control", &"A".repeat(33 << 20))]));
    assert!(bomb.len() < 100_000);
    let bytes = package(&[format_member(), member("control.tar.xz", &bomb), member("data.tar", b"")]);
    assert_eq!(read(&bytes).unwrap_err(), "control archive: more than 33554432 bytes");
}

/// Unpacks the `data.tar` as a build does, and returns the error.
fn unpack_error(name: &str, data: &[u8]) -> String {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::open(place.path()).unwrap();
    let bytes = package(&[format_member(), control_member(), member(name, data)]);
    let policy = Policy { allow_devices: false, allow_setid: true, owner: Owner::Keep };
    let limits = Limits { total: 1 << 20, entries: 1000, file: 1 << 20 };
    let mut package = open(bytes.as_slice()).unwrap();
    let error = unpack_tar(&cache, &mut package.data, "evil", &policy, &limits).unwrap_err().to_string();
    assert_eq!(std::fs::read_dir(cache.bucket("blobs")).unwrap().count(), 0, "{error}: nothing is left");
    error
}

#[test]
fn hostile_contents_of_packages_are_refused() {
    use super::super::super::archive::tests::tar::{archive, member};
    let link = member("usr/lib", b'2', b"", "/etc");
    for (fault, members, expected) in [
        ("leads out", vec![member("./../etc/passwd", b'0', b"x", "")], "is not a valid path"),
        ("writes through a link", vec![link, member("usr/lib/x", b'0', b"x", "")], "\"usr/lib\" is a symbolic link"),
        ("links out", vec![member("x", b'1', b"", "../etc/passwd")], "hard link to"),
        ("has a device", vec![member("dev/sda", b'4', b"", "")], "block device not allowed here"),
    ] {
        let error = unpack_error("data.tar", &archive(&members));
        assert!(error.contains(expected), "{fault}: {error}");
    }
    let bomb = archive(&[member("bomb", b'0', &vec![0; 64 << 20], "")]);
    for (suffix, compression) in [("xz", Compression::Xz), ("gz", Compression::Gzip), ("zst", Compression::Zstd)] {
        let error = unpack_error(&format!("data.tar.{suffix}"), &encode(compression, &bomb));
        assert!(error.contains("larger than the limit of 1048576 bytes for one file"), "{suffix}: {error}");
    }
}

#[test]
fn packages_of_dpkg_deb_are_read() {
    use std::process::Command;
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        let required = std::env::var_os("KSOS_REQUIRE_TOOLS").is_some_and(|value| value == "1");
        assert!(!required, "dpkg-deb is not installed");
        println!("skipped: dpkg-deb is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir_all(root.join("DEBIAN")).unwrap();
    std::fs::create_dir_all(root.join("usr/bin")).unwrap();
    let control = "Package: hello\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: x\n";
    std::fs::write(root.join("DEBIAN/control"), control).unwrap();
    std::fs::write(root.join("usr/bin/hello"), "hello".repeat(10_000)).unwrap();
    for compression in ["none", "gzip", "xz", "zstd"] {
        let path = directory.path().join("hello.deb");
        let status = Command::new("dpkg-deb")
            .arg(format!("-Z{compression}"))
            .arg("--root-owner-group")
            .arg("--build")
            .args([&root, &path])
            .output()
            .unwrap();
        assert!(status.status.success(), "{compression}: {}", String::from_utf8_lossy(&status.stderr));
        let (control, files) = read(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(control.field("Architecture"), "all");
        assert!(files.contains(&("./usr/bin/hello".to_owned(), 50_000)), "{compression}: {files:?}");
    }
}
