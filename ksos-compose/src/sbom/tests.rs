use ksos_formats::boot::ImageId;
use ksos_formats::{Arch, Digest};
use serde_json::Value;

use super::*;

fn package(kind: Kind, name: &str, component: &str) -> Package {
    Package {
        kind,
        name: name.to_owned(),
        version: Some("1.0".to_owned()),
        purl: format!("pkg:x/{name}@1.0"),
        component: component.to_owned(),
        download: None,
        sha256: Some(Digest::of(name.as_bytes())),
        supplier: None,
        source: None,
        licence: None,
        uses: Vec::new(),
    }
}

/// A bill with one of everything.
pub(crate) fn bom() -> Bom {
    let file = |path: &str, package| File {
        path: path.to_owned(),
        package,
        sha256: Digest::of(path.as_bytes()),
        sha1: files::sha1(path.as_bytes()),
    };
    let mut libc = package(Kind::Debian, "libc6", "base, mount");
    libc.supplier = Some("Debian".to_owned());
    libc.source = Some("glibc".to_owned());
    let reference = ("LicenseRef-libc6-x".to_owned(), "x".to_owned());
    libc.licence =
        Some(OrderedLicence { expression: "MIT AND LicenseRef-libc6-x".to_owned(), references: vec![reference] });
    let mut program = package(Kind::Program, "ksos-runtime", "runtime");
    program.uses = vec!["pkg:x/rustix@1.0".to_owned()];
    let mut other = package(Kind::Debian, "libc6", "other");
    other.purl = "pkg:x/libc6@1.0?arch=b".to_owned();
    Bom {
        image: ImageId {
            name: "edge".to_owned(),
            version: "1.2.3".to_owned(),
            arch: Arch::Arm64,
            epoch: 1_767_225_600,
        },
        composer: "0.1.0",
        distribution: Some(distribution("trixie-security")),
        packages: vec![
            libc,
            other,
            package(Kind::Generic, "a b+c", "a"),
            package(Kind::ContainerImage, "docker.io/library/hello", "container-images.hello"),
            program,
            package(Kind::Crate, "rustix", "runtime"),
        ],
        files: vec![file("etc/passwd", None), file("usr/lib/libc.so.6", Some(0)), file("usr/lib/x", Some(0))],
    }
}

fn parsed(format: Format) -> Value {
    serde_json::from_slice(&format.document(&bom())).unwrap()
}

#[test]
fn spdx_names_every_package_and_file_once_and_relates_them() {
    let document = parsed(Format::Spdx);
    assert_eq!(document["creationInfo"]["created"], "2026-01-01T00:00:00Z");
    let ids: Vec<&str> = ["packages", "files"]
        .iter()
        .flat_map(|list| document[list].as_array().unwrap())
        .map(|entry| entry["SPDXID"].as_str().unwrap())
        .collect();
    let distinct: std::collections::BTreeSet<&&str> = ids.iter().collect();
    assert_eq!((ids.len(), distinct.len()), (10, 10));
    let plain = |id: &str| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    assert!(ids.iter().all(|id| plain(id)), "{ids:?}");
    let relationships = document["relationships"].as_array().unwrap();
    let related = |from: &str, kind: &str| {
        let of = |entry: &&Value| entry["spdxElementId"] == from && entry["relationshipType"] == kind;
        relationships.iter().filter(of).count()
    };
    assert_eq!(related("SPDXRef-DOCUMENT", "DESCRIBES"), 1);
    // Five packages, for a crate is a part of its program; and the file that is of no package.
    assert_eq!(related("SPDXRef-Image", "CONTAINS"), 6);
    assert_eq!(related("SPDXRef-Package-libc6-1.0", "CONTAINS"), 2);
    assert_eq!(related("SPDXRef-Package-ksos-runtime-1.0", "STATIC_LINK"), 1);
    let libc = &document["packages"][1];
    assert_eq!(
        (&libc["filesAnalyzed"], &libc["licenseDeclared"]),
        (&true.into(), &"MIT AND LicenseRef-libc6-x".into())
    );
    // SPDX 2.3, section 7.9.4: the SHA-1 of the sorted SHA-1 values.
    let mut sums = [files::sha1(b"usr/lib/libc.so.6"), files::sha1(b"usr/lib/x")];
    sums.sort();
    let code = &libc["packageVerificationCode"]["packageVerificationCodeValue"];
    assert_eq!(code, &files::sha1(sums.concat().as_bytes()));
    assert_eq!(document["hasExtractedLicensingInfos"][0]["licenseId"], "LicenseRef-libc6-x");
    assert_eq!(files::sha1(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
}

#[test]
fn cyclonedx_names_every_package_once_with_its_files() {
    let document = parsed(Format::Cyclonedx);
    let components = document["components"].as_array().unwrap();
    let refs: std::collections::BTreeSet<&str> =
        components.iter().map(|entry| entry["bom-ref"].as_str().unwrap()).collect();
    assert_eq!((components.len(), refs.len()), (7, 7));
    assert_eq!((&components[0]["type"], &components[0]["version"]), (&"operating-system".into(), &"13".into()));
    assert_eq!(components[1]["evidence"]["occurrences"][0]["location"], "/usr/lib/libc.so.6");
    let dependencies = document["dependencies"].as_array().unwrap();
    assert_eq!(
        (&dependencies[0]["ref"], dependencies[0]["dependsOn"].as_array().unwrap().len()),
        (&"edge@1.2.3".into(), 5)
    );
    assert_eq!(dependencies[1]["dependsOn"], serde_json::json!(["pkg:x/rustix@1.0"]));
}

#[test]
fn the_same_content_has_the_same_name_and_another_content_another() {
    for (format, key) in [(Format::Spdx, "documentNamespace"), (Format::Cyclonedx, "serialNumber")] {
        assert!(format.document(&bom()) == format.document(&bom()));
        let mut other = bom();
        other.packages[0].version = Some("1.1".to_owned());
        let other: Value = serde_json::from_slice(&format.document(&other)).unwrap();
        assert_ne!(other[key], parsed(format)[key], "{format:?}");
    }
}

#[test]
fn releases_are_known_by_their_suites() {
    let known = |suite: &str| {
        let (name, version) = distribution(suite);
        format!("{name}-{version}")
    };
    assert_eq!(known("trixie-updates"), "debian-13");
    assert_eq!(known("noble"), "ubuntu-24.04");
    assert_eq!(known("stable/updates"), "debian-stable");
}
