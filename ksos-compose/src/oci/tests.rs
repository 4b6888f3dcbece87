#![expect(clippy::disallowed_methods, reason = "tests write files and run foreign tools")]

use std::path::Path;
use std::process::Command;

use super::*;
use crate::source::archive::{self, Compression, Format, Limits, Owner, Policy};
use crate::testing::has_tool;
use crate::tree::{Content, Entry, Meta, Node};

fn entry(mode: u32, node: Node) -> Entry {
    Entry { meta: Meta { uid: 1000, ..Meta::root(mode, 1_700_000_000) }, node }
}

fn tree() -> Tree {
    let mut tree = Tree::new(1_700_000_000);
    let file = |text: &str| Node::File(Content::inline(text.as_bytes()));
    tree.insert("bin/app", entry(0o755, file("#!/bin/true\n"))).unwrap();
    tree.insert("a/link", entry(0o755, Node::HardLink("bin/app".into()))).unwrap();
    tree.insert("etc/conf", entry(0o777, Node::Symlink("../bin/app".into()))).unwrap();
    tree.insert("dev/null", entry(0o666, Node::CharacterDevice { major: 1, minor: 3 })).unwrap();
    tree.insert("run/pipe", entry(0o600, Node::Fifo)).unwrap();
    let long = format!("{}/{}/é", "d".repeat(120), "e".repeat(200));
    tree.insert(&long, entry(0o644, file("long"))).unwrap();
    tree.insert(&format!("{}/{}", "p".repeat(100), "n".repeat(90)), entry(0o644, file("prefix"))).unwrap();
    tree.insert("far", entry(0o777, Node::Symlink("t".repeat(200)))).unwrap();
    let mut special = entry(0o4755, file("x"));
    special.meta.uid = 3_000_000_000;
    special.meta.mtime = -5;
    special.meta.xattrs.insert("security.capability".into(), vec![1, 0, 0, 2, b'\n', b'=']);
    tree.insert("special", special).unwrap();
    tree
}

fn spec(compression: LayerCompression) -> ImageSpec {
    ImageSpec {
        name: "docker.io/library/demo:1.0".into(),
        arch: Arch::Arm64,
        entrypoint: vec!["/bin/app".into()],
        cmd: vec!["--serve".into()],
        env: vec!["PATH=/bin".into()],
        working_dir: "/run".into(),
        created: 1_700_000_000,
        compression,
        jobs: 2,
    }
}

fn run(directory: &Path, script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).current_dir(directory).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Writes the layout of an image to `layout`.
fn write_layout(directory: &Path, cache: &Cache, compression: LayerCompression) -> Image {
    let image = image(cache, &tree(), &spec(compression)).unwrap();
    let blobs = directory.join("layout/blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    for blob in [&image.manifest, &image.config, &image.layer.blob] {
        std::fs::write(blobs.join(blob.digest.hex()), std::fs::read(&blob.path).unwrap()).unwrap();
    }
    let (digest, size) = (image.manifest.digest, image.manifest.size);
    let manifest = ImageBlob { media_type: MANIFEST_TYPE.to_owned(), digest, size };
    let names = [image.name.clone(), format!("docker.io/library/demo@sha256:{digest}")];
    let index = layout::index(image.arch, [(names.as_slice(), &manifest)]);
    std::fs::write(directory.join("layout/index.json"), index).unwrap();
    std::fs::write(directory.join("layout/oci-layout"), layout::MARKER).unwrap();
    image
}

#[test]
fn a_layer_unpacks_to_the_same_tree() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let policy = Policy { allow_devices: true, allow_setid: true, owner: Owner::Keep };
    let layers = [
        (LayerCompression::None, Compression::None),
        (LayerCompression::Gzip, Compression::Gzip),
        (LayerCompression::Zstd, Compression::Zstd),
    ];
    for (compression, outer) in layers {
        let layer = layer::write(&cache, &tree(), compression, 2).unwrap();
        let limits = Limits::default();
        let unpacked = archive::unpack(&cache, &layer.blob.path, Format::Tar(outer), &policy, &limits).unwrap();
        let mut expected = tree();
        // Hard links come out under the name that is first; times before 1970 are clamped.
        let file = expected.get("bin/app").unwrap().clone();
        expected.remove("bin/app");
        expected.insert("bin/app", entry(0, Node::HardLink("a/link".into()))).unwrap();
        expected.get_mut("bin/app").unwrap().meta = file.meta;
        expected.get_mut("special").unwrap().meta.mtime = 0;
        let root = unpacked.tree.get("").unwrap().clone();
        expected.get_mut("").unwrap().meta = root.meta;
        assert_eq!(unpacked.tree, expected, "{compression:?}");
    }
}

#[test]
fn gnu_tar_reads_a_layer() {
    if !has_tool("tar") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    tar::write(&tree(), &mut bytes).unwrap();
    std::fs::write(directory.path().join("layer.tar"), bytes).unwrap();
    let listing = run(directory.path(), "TZ=UTC tar --full-time --numeric-owner --xattrs -tvf layer.tar");
    let columns: Vec<String> =
        listing.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "-rwxr-xr-x 1000/0 12 2023-11-14 22:13:20 a/link",
        "hrwxr-xr-x 1000/0 0 2023-11-14 22:13:20 bin/app link to a/link",
        "crw-rw-rw- 1000/0 1,3 2023-11-14 22:13:20 dev/null",
        "prw------- 1000/0 0 2023-11-14 22:13:20 run/pipe",
        "-rwsr-xr-x 3000000000/0 1 1969-12-31 23:59:55 special",
    ] {
        assert!(columns.iter().any(|found| found == line), "{line}: {listing}");
    }
    assert!(listing.contains(&format!("far -> {}\n", "t".repeat(200))));
    assert_eq!(listing.lines().count(), tree().len() - 1);
}

#[test]
fn skopeo_reads_the_layout_by_each_name() {
    if !has_tool("skopeo") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let cache = Cache::open(&path.join("cache")).unwrap();
    for compression in [LayerCompression::None, LayerCompression::Gzip, LayerCompression::Zstd] {
        let image = write_layout(path, &cache, compression);
        let inspect = run(path, "skopeo --override-arch arm64 inspect oci:layout:docker.io/library/demo:1.0");
        let inspect: serde_json::Value = serde_json::from_str(&inspect).unwrap();
        assert_eq!(inspect["Architecture"], "arm64");
        assert_eq!(inspect["Created"], "2023-11-14T22:13:20Z");
        assert_eq!(inspect["Digest"], digest(&image.manifest.digest));
        assert_eq!(inspect["Layers"][0], digest(&image.layer.blob.digest));
        let config = run(
            path,
            &format!(
                "skopeo --override-arch arm64 inspect --config oci:layout:docker.io/library/demo@sha256:{}",
                image.manifest.digest
            ),
        );
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["config"]["Entrypoint"][0], "/bin/app");
        assert_eq!(config["config"]["WorkingDir"], "/run");
        // Copying checks every digest, of the uncompressed layer too.
        run(
            path,
            "rm -rf copy; skopeo --override-arch arm64 --insecure-policy copy -q oci:layout:docker.io/library/demo:1.0 oci:copy",
        );
    }
}

#[test]
fn the_same_image_gives_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let cache = Cache::open(&directory.path().join(name)).unwrap();
        write_layout(directory.path(), &cache, LayerCompression::Gzip).manifest.digest
    };
    assert!(make("one") == make("two"));
}

#[test]
fn what_makes_no_image_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let refused = |change: &dyn Fn(&mut ImageSpec)| {
        let mut spec = spec(LayerCompression::None);
        change(&mut spec);
        image(&cache, &tree(), &spec).unwrap_err().to_string()
    };
    for name in [
        "demo",
        "demo:1",
        "docker.io/library/demo",
        "docker.io/Library/demo:1",
        "library/demo:1",
        "docker.io//x:1",
        "docker.io/x:",
        "docker.io/x:-a",
        "host:1/x",
    ] {
        assert!(refused(&|spec| spec.name = name.into()).contains("is not a full image name"), "{name}");
    }
    for name in ["localhost/x:1", "registry:5000/a/b:v1", "ghcr.io/a-b/c_d:1.0-rc.1"] {
        assert_eq!(name_fault(name), None, "{name}");
    }
    assert!(refused(&|spec| (spec.entrypoint, spec.cmd) = (vec![], vec![])).contains("neither an entrypoint"));
    assert!(refused(&|spec| spec.env = vec!["=x".into()]).contains("is not NAME=VALUE"));
    assert!(refused(&|spec| spec.working_dir = "run".into()).contains("is not absolute"));
    let mut socket = Tree::new(0);
    socket.insert("s", entry(0, Node::Socket)).unwrap();
    assert!(image(&cache, &socket, &spec(LayerCompression::None)).unwrap_err().to_string().contains("is a socket"));
}
