//! One container image for several architectures, from those that single builds wrote.
#![expect(clippy::disallowed_methods, reason = "tests write files and run foreign tools")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc as Shared;

use ksos_formats::Arch;

use super::super::{Artifact, Built, Options, SignOptions};
use super::image_layout::join;
use crate::cache::Cache;
use crate::effects::progress::Silent;
use crate::graph::Reason;
use crate::oci::document::{ImageBlob, MANIFEST};
use crate::oci::layout::{self, Item};
use crate::oci::{self, ImageSpec, LayerCompression};
use crate::ops::{Environment, LockMode, OpError, RemoteOptions, Reporter, Session};
use crate::testing::has_tool;
use crate::tree::{Content, Entry, Meta, Node, Tree};

struct Nobody;

impl Reporter for Nobody {
    fn note(&self, _: &str) {}
    fn step(&self, _: &str, _: &str, _: &Reason) {}
}

fn session(directory: &Path) -> Session {
    Session {
        cache: Shared::new(Cache::open(&directory.join("cache")).unwrap()),
        environment: Environment { directory: directory.to_owned(), ..Environment::default() },
        jobs: 2,
        reporter: Shared::new(Nobody),
        progress: Shared::new(Silent),
        remote: RemoteOptions::default(),
    }
}

fn options() -> Options {
    let (lock, sign) = (LockMode::default(), SignOptions::default());
    Options { out: "out".into(), fresh: false, hash: true, lock, sign, invocation_id: None }
}

/// Writes the image of one architecture, whose only file says `text`, as a build does.
fn built(session: &Session, arch: Arch, text: &str) -> Result<Built, OpError> {
    let mut tree = Tree::new(1);
    let put = |tree: &mut Tree, path: &str, text: &str| {
        let node = Node::File(Content::inline(text.as_bytes()));
        tree.insert(path, Entry { meta: Meta::root(0o755, 1), node }).unwrap();
    };
    put(&mut tree, "bin/sh", text);
    let spec = ImageSpec {
        name: "localhost/edge:1.2.3_4".into(),
        arch,
        entrypoint: Vec::new(),
        cmd: vec!["/bin/sh".into()],
        env: Vec::new(),
        working_dir: String::new(),
        created: 1,
        compression: LayerCompression::Gzip,
        jobs: 1,
    };
    let oci::Image { manifest, config, layer, .. } = oci::image(&session.cache, &tree, &spec).unwrap();
    let document = ImageBlob { media_type: MANIFEST.into(), digest: manifest.digest, size: manifest.size };
    let item = Item { document, arch: Some(arch), artifact_type: None, tag: None, name: None };
    let blobs = [manifest, config, layer.blob].map(|blob| Content::host_file(blob.path, blob.digest, blob.size));
    let mut bytes = Vec::new();
    layout::write_tar(layout::index_of(&[item]), blobs.to_vec(), 1, &mut bytes).unwrap();
    let name = format!("out/edge-1.2.3+4-{arch}.oci.tar");
    std::fs::create_dir_all(session.environment.directory.join("out")).unwrap();
    std::fs::write(session.environment.directory.join(&name), &bytes).unwrap();
    let artifact = Artifact {
        format: "oci-image".into(),
        path: name.into(),
        size: bytes.len() as u64,
        allocated: 0,
        sha256: None,
        files: Vec::new(),
        platforms: Vec::new(),
    };
    let (name, version) = ("edge".to_owned(), "1.2.3+4".to_owned());
    Ok(Built {
        name,
        version,
        arch,
        artifacts: vec![artifact],
        documents: Vec::new(),
        checksums: false,
        fresh: false,
        ran: 0,
        steps: 0,
        usage: Vec::new(),
        remote: None,
    })
}

#[test]
fn skopeo_finds_the_image_of_each_architecture_in_the_joined_one() {
    let directory = tempfile::tempdir().unwrap();
    let session = session(directory.path());
    let mut results = vec![built(&session, Arch::X86_64, "amd64"), built(&session, Arch::Arm64, "arm64")];
    join(&session, &mut results, &options()).unwrap();
    let last = results[1].as_ref().unwrap();
    let joined = last.artifacts.last().unwrap();
    assert_eq!(joined.path, Path::new("out/edge-1.2.3+4.oci.tar"));
    assert_eq!(joined.platforms, [Arch::X86_64, Arch::Arm64]);
    assert_eq!(results[0].as_ref().unwrap().artifacts.len(), 1);
    if !has_tool("skopeo") {
        return;
    }
    let run = |script: &str| {
        let output = Command::new("sh").args(["-ec", script]).current_dir(directory.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    for arch in ["amd64", "arm64"] {
        let config =
            run(&format!("skopeo --override-arch {arch} inspect --config oci-archive:out/edge-1.2.3+4.oci.tar"));
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["architecture"], arch);
    }
    // By its tag, with everything that it leads to, and every digest checked.
    run("skopeo copy -q --all --insecure-policy oci-archive:out/edge-1.2.3+4.oci.tar:1.2.3_4 oci:copy:x");
    let index: serde_json::Value = serde_json::from_str(&run("skopeo inspect --raw oci:copy:x")).unwrap();
    let platforms: Vec<&serde_json::Value> =
        index["manifests"].as_array().unwrap().iter().map(|one| &one["platform"]["architecture"]).collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
}

#[test]
fn the_joined_image_is_written_again_when_one_of_its_parts_is_another() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir().unwrap();
    let session = session(directory.path());
    let make = |text: &str| {
        // In another order: the same bytes.
        let mut results = vec![built(&session, Arch::Arm64, text), built(&session, Arch::X86_64, "amd64")];
        join(&session, &mut results, &options()).unwrap();
        let path = directory.path().join("out/edge-1.2.3+4.oci.tar");
        let sha256 = results[1].as_ref().unwrap().artifacts[1].sha256;
        (std::fs::metadata(path).unwrap().ino(), sha256)
    };
    let first = make("arm64");
    assert_eq!(make("arm64"), first);
    let (inode, sha256) = make("other");
    assert!(inode != first.0 && sha256 != first.1);
    let left: Vec<_> = std::fs::read_dir(directory.path().join("out")).unwrap().collect();
    assert_eq!(left.len(), 3, "nothing temporary stays");
}

#[test]
fn one_architecture_alone_is_not_joined_and_a_replaced_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let session = session(directory.path());
    let mut results = vec![built(&session, Arch::X86_64, "amd64")];
    join(&session, &mut results, &options()).unwrap();
    assert!(!directory.path().join("out/edge-1.2.3+4.oci.tar").exists());
    results.push(built(&session, Arch::Arm64, "arm64"));
    for bytes in [&b"no tar at all"[..], &[0; 1024]] {
        std::fs::write(directory.path().join("out/edge-1.2.3+4-arm64.oci.tar"), bytes).unwrap();
        let error = join(&session, &mut results, &options()).unwrap_err().to_string();
        assert!(error.contains("edge-1.2.3+4-arm64.oci.tar"), "{error}");
        assert!(!directory.path().join("out/edge-1.2.3+4.oci.tar").exists());
    }
}
