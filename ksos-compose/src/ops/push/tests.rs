#![expect(clippy::disallowed_methods, reason = "tests write files of their own")]

use super::layout;
use super::*;
use crate::cache::Cache;

struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("layout/blobs/sha256")).unwrap();
        std::fs::write(directory.path().join("layout/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Fixture { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes);
        std::fs::write(self.path("layout/blobs/sha256").join(digest.hex()), bytes).unwrap();
        format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{digest}","size":{}}}"#, bytes.len())
    }

    fn image(&self, arch: &str) -> String {
        let config = self.blob(
            "application/vnd.oci.image.config.v1+json",
            format!(r#"{{"os":"linux","architecture":"{arch}"}}"#).as_bytes(),
        );
        let layer = self.blob("application/vnd.oci.image.layer.v1.tar", format!("layer for {arch}").as_bytes());
        let manifest =
            format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config},"layers":[{layer}]}}"#);
        self.blob(MANIFEST, manifest.as_bytes())
    }

    fn index(&self, entries: &[String]) {
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        std::fs::write(self.path("layout/index.json"), text).unwrap();
    }

    fn read(&self, tag: Option<&str>) -> Result<Bundle, String> {
        let cache = Cache::open(&self.path("cache")).unwrap();
        layout::read(&self.path("layout"), &cache, tag).map_err(|error| error.to_string())
    }
}

/// Adds fields to a JSON object.
fn with(descriptor: &str, more: &str) -> String {
    format!("{},{more}}}", descriptor.trim_end_matches('}'))
}

#[test]
fn a_layout_of_one_image_is_pushed_as_it_is() {
    let fixture = Fixture::new();
    let image = fixture.image("arm64");
    // The same under two names, as containerd lists it.
    let name = |name: &str| with(&image, &format!(r#""annotations":{{"org.opencontainers.image.ref.name":"{name}"}}"#));
    fixture.index(&[name("a:1"), name("a:2")]);
    let bundle = fixture.read(None).unwrap();
    assert_eq!((bundle.documents.len(), bundle.layers.len()), (1, 2));
    assert_eq!(bundle.root.digest, bundle.documents[0].descriptor().digest);
    assert_eq!(bundle.root.platform.unwrap().architecture, "arm64");
}

#[test]
fn several_images_are_one_index_or_one_of_them_is_named() {
    let fixture = Fixture::new();
    let images = [fixture.image("amd64"), fixture.image("arm64")];
    let platform = |arch: &str| format!(r#""platform":{{"os":"linux","architecture":"{arch}"}}"#);
    fixture.index(&[with(&images[0], &platform("amd64")), with(&images[1], &platform("arm64"))]);
    let bundle = fixture.read(None).unwrap();
    assert_eq!(bundle.root.media_type, INDEX);
    assert_eq!(bundle.entries().len(), 2);
    assert_eq!((bundle.documents.len(), bundle.layers.len()), (3, 4));

    let name = |image: &str, name: &str| {
        with(image, &format!(r#""annotations":{{"org.opencontainers.image.ref.name":"{name}"}}"#))
    };
    fixture.index(&[name(&images[0], "registry/app:one"), name(&images[1], "two")]);
    assert_eq!(fixture.read(Some("two")).unwrap().root.platform.unwrap().architecture, "arm64");
    assert_eq!(fixture.read(Some("one")).unwrap().root.platform.unwrap().architecture, "amd64");
    let error = fixture.read(Some("three")).unwrap_err();
    assert!(error.contains("2 images, of which the tag names none: one, two"), "{error}");
}

#[test]
fn damaged_layouts_are_refused() {
    let image = |fixture: &Fixture| fixture.image("amd64");
    let both = format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","manifests":[],"layers":[]}}"#);
    let other = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[]}}"#);
    type Make<'a> = &'a dyn Fn(&Fixture);
    let cases: [(&str, Make<'_>); 8] = [
        ("index.json is missing", &|_| {}),
        ("names no image", &|fixture| fixture.index(&[])),
        ("neither a manifest nor an index", &|fixture| fixture.index(&[fixture.blob(MANIFEST, both.as_bytes())])),
        ("calls itself", &|fixture| fixture.index(&[fixture.blob(MANIFEST, other.as_bytes())])),
        ("is missing", &|fixture| {
            let entry = image(fixture);
            let layer = Digest::of(b"layer for amd64");
            std::fs::remove_file(fixture.path("layout/blobs/sha256").join(layer.hex())).unwrap();
            fixture.index(&[entry]);
        }),
        ("has 3 bytes, expected 15", &|fixture| {
            let entry = image(fixture);
            let layer = Digest::of(b"layer for amd64");
            std::fs::write(fixture.path("layout/blobs/sha256").join(layer.hex()), b"abc").unwrap();
            fixture.index(&[entry]);
        }),
        ("is not a SHA-256 digest", &|fixture| {
            fixture.index(&[r#"{"mediaType":"x","digest":"sha256:../../etc","size":1}"#.to_owned()]);
        }),
        ("were named", &|fixture| {
            let entry = image(fixture).replace(r#""size":"#, r#""size":1"#);
            fixture.index(&[entry]);
        }),
    ];
    for (expected, make) in cases {
        let fixture = Fixture::new();
        make(&fixture);
        let error = fixture.read(None).unwrap_err();
        assert!(error.contains(expected), "no {expected:?} in {error}");
    }
}

#[test]
fn indexes_do_not_go_down_for_ever() {
    let fixture = Fixture::new();
    let mut entry = fixture.image("amd64");
    for _ in 0..4 {
        entry = fixture
            .blob(INDEX, format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{entry}]}}"#).as_bytes());
    }
    fixture.index(&[entry]);
    assert!(fixture.read(None).unwrap_err().contains("3 deep"));
}

#[test]
fn attachments_are_found_by_name() {
    let fixture = Fixture::new();
    let beside = |name: &str, suffix: &str| Attachment::beside(&fixture.path(name), suffix).unwrap();
    assert_eq!(beside("os-1.0.0-x86_64.img", ""), []);
    for name in ["os-1.0.0-x86_64.spdx.json", "os-1.0.0-x86_64.cdx.json", "os-1.0.0-x86_64.intoto.json", "os.spdx.json"]
    {
        std::fs::write(fixture.path(name), "{}").unwrap();
    }
    let found = beside("os-1.0.0-x86_64.img.zst", "");
    let types: Vec<_> = found.iter().map(|found| found.artifact_type.as_str()).collect();
    assert_eq!(types, ["application/spdx+json", "application/vnd.cyclonedx+json", "application/vnd.in-toto+json"]);
    assert_eq!(found[2].media_type, "application/vnd.in-toto+json");
    std::fs::write(fixture.path("os-1.0.0-x86_64.provenance.json"), "{}").unwrap();
    assert_eq!(beside("os-1.0.0.oci.tar", "-x86_64")[2].media_type, "application/vnd.dsse.envelope.v1+json");
    assert_eq!(beside("os-1.0.0.oci.tar", "-x86_64").len(), 3);
    assert_eq!(beside("os-1.0.0.oci.tar", "").len(), 0);
    let attachment = Attachment::parse("a:b.txt:text/plain").unwrap();
    assert_eq!((attachment.path, attachment.media_type.as_str()), ("a:b.txt".into(), "text/plain"));
    for text in ["a.txt", "a.txt:", ":text/plain", "a.txt:plain", "a.txt:text/pl ain", "a.txt:text/"] {
        assert!(Attachment::parse(text).is_err(), "{text}");
    }
}
