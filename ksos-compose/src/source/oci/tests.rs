#![expect(clippy::disallowed_methods, reason = "tests write archives and layouts of their own")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::effects::net::tests::server::{Seen, Server, reply};
use crate::effects::net::tests::{Fixture, quick};

/// An image made for a test.
#[derive(Clone)]
struct Sample {
    config: Vec<u8>,
    layers: Vec<Vec<u8>>,
    manifest: Vec<u8>,
}

fn described(media_type: &str, bytes: &[u8]) -> String {
    format!(r#""mediaType":"{media_type}","digest":"sha256:{}","size":{}"#, Digest::of(bytes), bytes.len())
}

fn sample(arch: &str, layers: &[&[u8]]) -> Sample {
    let ids: Vec<String> = layers.iter().map(|layer| format!("\"sha256:{}\"", Digest::of(layer))).collect();
    let config = format!(
        r#"{{"architecture":"{arch}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    )
    .into_bytes();
    let tar = "application/vnd.oci.image.layer.v1.tar";
    let listed: Vec<String> = layers.iter().map(|layer| format!("{{{}}}", described(tar, layer))).collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{{}}},"layers":[{}]}}"#,
        document::MANIFEST,
        described(document::CONFIG, &config),
        listed.join(",")
    );
    let layers = layers.iter().map(|layer| layer.to_vec()).collect();
    Sample { config, layers, manifest: manifest.into_bytes() }
}

impl Sample {
    fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    fn blobs(&self) -> Vec<&[u8]> {
        [&self.manifest, &self.config].into_iter().chain(&self.layers).map(Vec::as_slice).collect()
    }
}

/// An index of images by architecture.
fn index(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let entry = |(arch, bytes): &(&str, &[u8])| {
        let kind = if bytes.starts_with(b"{\"manifests\"") { document::INDEX } else { document::MANIFEST };
        let platform = format!(r#""platform":{{"os":"linux","architecture":"{arch}"}}"#);
        format!("{{{},{platform}}}", described(kind, bytes))
    };
    let entries: Vec<String> = entries.iter().map(entry).collect();
    format!(r#"{{"manifests":[{}],"schemaVersion":2}}"#, entries.join(",")).into_bytes()
}

fn annotated(bytes: &[u8], annotation: &str) -> String {
    let kind = if bytes.starts_with(b"{\"manifests\"") { document::INDEX } else { document::MANIFEST };
    format!("{{{}{annotation}}}", described(kind, bytes))
}

/// Files of a layout.
fn layout_files(entries: &[String], blobs: &[&[u8]]) -> Vec<(String, Vec<u8>)> {
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    let mut files = vec![
        ("oci-layout".to_owned(), crate::oci::layout::MARKER.to_vec()),
        ("index.json".to_owned(), index.into_bytes()),
    ];
    for blob in blobs {
        files.push((format!("blobs/sha256/{}", Digest::of(blob)), blob.to_vec()));
    }
    files.sort();
    files.dedup();
    files
}

struct Room {
    directory: tempfile::TempDir,
    cache: Cache,
}

impl Room {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(&directory.path().join("cache")).unwrap();
        Room { directory, cache }
    }

    fn layout(&self, files: &[(String, Vec<u8>)]) -> PathBuf {
        let path = self.directory.path().join("layout");
        let _ = std::fs::remove_dir_all(&path);
        for (name, bytes) in files {
            let file = path.join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, bytes).unwrap();
        }
        path
    }

    fn archive(&self, files: &[(String, Vec<u8>)]) -> PathBuf {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            put(&mut builder, name, bytes);
        }
        self.write(&builder.into_inner().unwrap())
    }

    fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join("image.tar");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn resolve(&self, path: &Path, reference: &str, arch: Arch) -> Result<PinnedImage, ImageError> {
        self.resolve_digest(path, reference, arch, None)
    }

    /// Resolves and takes: every blob must be in the cache afterwards.
    fn resolve_digest(
        &self,
        path: &Path,
        reference: &str,
        arch: Arch,
        digest: Option<Digest>,
    ) -> Result<PinnedImage, ImageError> {
        let local = open(path)?;
        let reference = reference.parse::<Reference>().unwrap().or_latest();
        let wanted = Wanted { name: "app", reference: &reference, digest, arch };
        let pinned = resolve(&self.cache, local.as_ref(), &wanted)?;
        let blobs = local.take(&self.cache, &pinned)?;
        let expected: Vec<Digest> = pinned.blobs().iter().map(|blob| blob.digest).collect();
        assert_eq!(blobs.iter().map(|blob| blob.digest).collect::<Vec<_>>(), expected);
        for blob in &blobs {
            assert_eq!(Digest::of(&std::fs::read(&blob.path).unwrap()), blob.digest);
        }
        Ok(pinned)
    }

    fn refused(&self, path: &Path, expected: &str) {
        let error = self.resolve(path, "app:1", Arch::X86_64).expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

fn put(builder: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    // As it stands: `append_data` refuses what leads out of the archive.
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    builder.append(&header, bytes).unwrap();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn layouts_and_archives_give_the_image_of_the_architecture() {
    let room = Room::new();
    let (amd64, arm64) = (sample("amd64", &[b"one", b"two"]), sample("arm64", &[b"one", b"three"]));
    let both = index(&[("amd64", &amd64.manifest), ("arm64", &arm64.manifest)]);
    let entries = [annotated(&both, r#","annotations":{"org.opencontainers.image.ref.name":"1"}"#)];
    let blobs: Vec<&[u8]> = amd64.blobs().into_iter().chain(arm64.blobs()).chain([both.as_slice()]).collect();
    let files = layout_files(&entries, &blobs);
    let plain = std::fs::read(room.archive(&files)).unwrap();
    for (path, what) in [
        (room.layout(&files), "layout"),
        (room.archive(&files), "archive"),
        (room.write(&gzip(&plain)), "gzip"),
        (room.write(&zstd::encode_all(plain.as_slice(), 1).unwrap()), "zstd"),
    ] {
        for (arch, sample) in [(Arch::X86_64, &amd64), (Arch::Arm64, &arm64)] {
            let pinned = room.resolve(&path, "app:1", arch).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!((pinned.named, pinned.manifest.digest), (Digest::of(&both), sample.digest()), "{what}");
            assert_eq!((pinned.layers.len(), pinned.layers[1].size), (2, sample.layers[1].len() as u64));
            assert_eq!(pinned.reference, "docker.io/library/app:1");
        }
    }
}

#[test]
fn of_several_images_the_one_with_the_name_or_digest_is_taken() {
    let room = Room::new();
    let samples: Vec<Sample> = [b"1", b"2", b"3"].map(|layer| sample("amd64", &[layer])).to_vec();
    let name = |key: &str, value: &str| format!(r#","annotations":{{"{key}":"{value}"}}"#);
    let entries = [
        annotated(&samples[0].manifest, &name("io.containerd.image.name", "docker.io/library/app:1")),
        annotated(&samples[1].manifest, &name("org.opencontainers.image.ref.name", "quay.io/team/app:2")),
        annotated(&samples[2].manifest, &name("org.opencontainers.image.ref.name", "v3")),
    ];
    let blobs: Vec<&[u8]> = samples.iter().flat_map(Sample::blobs).collect();
    let path = room.layout(&layout_files(&entries, &blobs));
    for (reference, expected) in [("app:1", 0), ("quay.io/team/app:2", 1), ("anything:v3", 2)] {
        let pinned = room.resolve(&path, reference, Arch::X86_64).unwrap();
        assert_eq!(pinned.manifest.digest, samples[expected].digest(), "{reference}");
    }
    let error = room.resolve(&path, "other:9", Arch::X86_64).expect_err("no such name").to_string();
    assert!(error.contains("docker.io/library/other:9") && error.contains("quay.io/team/app:2"), "{error}");
    let digest = Some(samples[1].digest());
    let pinned = room.resolve_digest(&path, "other:9", Arch::X86_64, digest).unwrap();
    assert_eq!(pinned.manifest.digest, samples[1].digest());
    let wrong = room.resolve_digest(&path, "app:1", Arch::X86_64, Some(Digest::of(b"x"))).expect_err("other");
    assert!(matches!(wrong, ImageError::OtherDigest { .. }), "{wrong}");
    // A single image is taken whatever it is called.
    let path = room.layout(&layout_files(&entries[..1], &samples[0].blobs()));
    assert!(room.resolve(&path, "renamed:7", Arch::X86_64).is_ok());
}

#[test]
fn broken_layouts_are_refused_with_their_fault() {
    let room = Room::new();
    let good = sample("amd64", &[b"layer"]);
    let entry = [annotated(&good.manifest, "")];
    let files = layout_files(&entry, &good.blobs());
    let layer = format!("blobs/sha256/{}", Digest::of(b"layer"));
    let change = |name: &str, bytes: Option<&[u8]>| {
        let mut files = files.clone();
        match bytes {
            Some(bytes) => files.iter_mut().find(|(file, _)| file == name).unwrap().1 = bytes.to_vec(),
            None => files.retain(|(file, _)| file != name),
        }
        files
    };
    let manifest = format!("blobs/sha256/{}", good.digest());
    let config = format!("blobs/sha256/{}", Digest::of(&good.config));
    let escape = br#"{"manifests":[{"digest":"sha256:../../../etc/passwd","size":1}]}"#;
    let huge = format!(r#"{{"manifests":[{{"digest":"sha256:{}","size":99999999999}}]}}"#, good.digest());
    let oversized = vec![b' '; (MAX_DOCUMENT + 1) as usize];
    for (files, expected) in [
        (change("oci-layout", None), "oci-layout is missing"),
        (change("oci-layout", Some(b"{\"imageLayoutVersion\":\"2.0.0\"}")), "has layout version \"2.0.0\""),
        (change("oci-layout", Some(b"[")), "oci-layout is malformed"),
        (change("index.json", None), "index.json"),
        (change("index.json", Some(b"{\"manifests\":[]}")), "names no image"),
        (change("index.json", Some(b"{\"manifests\":7}")), "index.json is malformed"),
        (change("index.json", Some(escape)), "is not a SHA-256 digest"),
        (change("index.json", Some(huge.as_bytes())), "at most 4194304 are accepted"),
        (change("index.json", Some(&oversized)), "larger than 4194304"),
        (change(&manifest, None), "is missing"),
        (change(&manifest, Some(&vec![b'x'; good.manifest.len()])), "its manifest has SHA-256"),
        (change(&config, None), "is missing"),
        (change(&config, Some(&vec![b'x'; good.config.len()])), "its configuration has SHA-256"),
        (change(&layer, None), "is missing"),
        (change(&layer, Some(b"LAYER")), "its blob has SHA-256"),
        (change(&layer, Some(b"longer than it was")), "bytes, expected 5"),
    ] {
        room.refused(&room.layout(&files), expected);
        if !expected.contains("larger than") && expected != "index.json" {
            room.refused(&room.archive(&files), expected);
        }
    }
    let other = sample("arm64", &[b"layer"]);
    room.refused(&room.layout(&layout_files(&[annotated(&other.manifest, "")], &other.blobs())), "is for linux/arm64");
}

#[test]
fn indexes_within_indexes_end() {
    let room = Room::new();
    let good = sample("amd64", &[b"layer"]);
    let mut levels = vec![index(&[("amd64", &good.manifest)])];
    for _ in 0..4 {
        levels.push(index(&[("amd64", levels.last().unwrap())]));
    }
    let blobs: Vec<&[u8]> = good.blobs().into_iter().chain(levels.iter().map(Vec::as_slice)).collect();
    let at = |level: usize| room.layout(&layout_files(&[annotated(&levels[level], "")], &blobs));
    assert!(room.resolve(&at(1), "app:1", Arch::X86_64).is_ok());
    room.refused(&at(4), "nested more than 3 deep");
}

/// What `docker save` wrote before version 25.
fn saved(sample: &Sample, link: bool) -> tar::Builder<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let config = format!("{}.json", Digest::of(&sample.config));
    let mut layers = Vec::new();
    for (number, layer) in sample.layers.iter().enumerate() {
        let name = format!("{number}/layer.tar");
        if number == 1 && link {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, &name, "../0/layer.tar").unwrap();
        } else {
            put(&mut builder, &name, layer);
        }
        layers.push(format!("{name:?}"));
    }
    put(&mut builder, &config, &sample.config);
    let manifest = format!(r#"[{{"Config":"{config}","RepoTags":["app:1","x/y:2"],"Layers":[{}]}}]"#, layers.join(","));
    put(&mut builder, "manifest.json", manifest.as_bytes());
    builder
}

#[test]
fn what_docker_saved_becomes_an_oci_image() {
    let room = Room::new();
    let image = sample("amd64", &[b"one", b"one"]);
    for link in [false, true] {
        let path = room.write(&saved(&image, link).into_inner().unwrap());
        let pinned = room.resolve(&path, "app:1", Arch::X86_64).unwrap();
        assert_eq!(pinned.config.digest, Digest::of(&image.config));
        assert_eq!(pinned.layers[0].digest, Digest::of(b"one"));
        // The manifest is made here, and is the same each time.
        assert_eq!(pinned.manifest.digest, image.digest());
        assert_eq!(pinned.layers.len(), 2);
    }
    let compressed = gzip(&saved(&image, true).into_inner().unwrap());
    assert_eq!(room.resolve(&room.write(&compressed), "x/y:2", Arch::X86_64).unwrap().manifest.digest, image.digest());
}

#[test]
fn broken_archives_are_refused_with_their_fault() {
    let room = Room::new();
    let good = sample("amd64", &[b"layer"]);
    let files = layout_files(&[annotated(&good.manifest, "")], &good.blobs());
    let with = |name: &str, bytes: &[u8]| {
        let mut files = files.clone();
        files.push((name.to_owned(), bytes.to_vec()));
        room.archive(&files)
    };
    room.refused(&with("../../etc/passwd", b"x"), "\"../../etc/passwd\" leads out of the archive");
    room.refused(&with("/etc/passwd", b"x"), "leads out of the archive");
    room.refused(&with("index.json", b"{}"), "\"index.json\" is there twice");
    room.refused(&with("./index.json", b"{}"), "\"index.json\" is there twice");
    room.refused(&room.write(b""), "neither index.json");
    room.refused(&room.write(&[0; 4096]), "neither index.json");
    room.refused(&room.write(b"not a tar archive, but longer than nothing"), "image.tar: ");
    let whole = std::fs::read(room.archive(&files)).unwrap();
    room.refused(&room.write(&whole[..whole.len() / 2]), "image.tar");
    let mut damaged = gzip(&whole);
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    room.refused(&room.write(&damaged), "image.tar");
    let link = |target: &str, name: &str| {
        let mut builder = saved(&good, false);
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        builder.append(&header, &[][..]).unwrap();
        room.write(&builder.into_inner().unwrap())
    };
    room.refused(&link("../../etc/shadow", "a/link"), "the link \"a/link\" leads out of the archive");
    room.refused(&link("/etc/shadow", "a/link"), "leads out of the archive");
    let json = |text: &str| {
        let mut builder = tar::Builder::new(Vec::new());
        put(&mut builder, "c.json", &good.config);
        put(&mut builder, "manifest.json", text.as_bytes());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "loop", "loop").unwrap();
        room.write(&builder.into_inner().unwrap())
    };
    room.refused(&json("[]"), "names no image");
    room.refused(&json("{"), "manifest.json is malformed");
    room.refused(&json(r#"[{"Config":"c.json","Layers":["no/layer.tar"]}]"#), "no/layer.tar is missing");
    room.refused(&json(r#"[{"Config":"../c.json","Layers":[]}]"#), "../c.json is missing");
    room.refused(&json(r#"[{"Config":"c.json","Layers":["loop"]}]"#), "leads through more than 8 links");
    room.refused(&json(r#"[{"Config":"c.json","Layers":[]}]"#), "has 0 layers");
    room.refused(
        &json(r#"[{"Config":"c.json","RepoTags":["a:1"]},{"Config":"c.json","RepoTags":["b:1"]}]"#),
        "there is no image docker.io/library/app:1; there are a:1, b:1",
    );
}

/// A registry with one image, which a test may make lie.
struct Registry {
    image: Sample,
    index: Vec<u8>,
}

impl Registry {
    fn new() -> Self {
        let image = sample("amd64", &[b"one", b"two"]);
        let index = index(&[("amd64", &image.manifest)]);
        Registry { image, index }
    }

    fn answer(&self, seen: &Seen, stream: &mut std::net::TcpStream) {
        let path = seen.target().to_owned();
        let typed = |kind: &str| format!("Content-Type: {kind}; charset=utf-8");
        if path == "/v2/team/app/manifests/1" {
            return reply(stream, 200, &[&typed(document::INDEX)], &self.index);
        }
        for bytes in self.image.blobs().into_iter().chain([self.index.as_slice()]) {
            if path.ends_with(&format!("/sha256:{}", Digest::of(bytes))) {
                let kind = if bytes == self.index { document::INDEX } else { document::MANIFEST };
                return reply(stream, 200, &[&typed(kind)], bytes);
            }
        }
        reply(stream, 404, &[], br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#);
    }
}

/// Pulls `team/app:1` whole.
fn pull(fixture: &Fixture, server: &Server, config: Option<&Path>, tag: &str) -> Result<PinnedImage, ImageError> {
    let registries = Registries::new(|name| {
        let directory = config.and_then(Path::parent).map(|path| path.display().to_string());
        directory.filter(|_| name == "DOCKER_CONFIG")
    });
    let reference: Reference = format!("{}/team/app{tag}", server.address()).parse().unwrap();
    let reference = reference.or_latest();
    let pull = Pull::new(&fixture.downloader, &registries, "app", &reference, None);
    let wanted = Wanted { name: "app", reference: &reference, digest: reference.digest, arch: Arch::X86_64 };
    let pinned = resolve(&fixture.cache, &pull, &wanted)?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = pinned
            .blobs()
            .into_iter()
            .map(|blob| scope.spawn(|| pull.blob(blob, blob.digest == pinned.manifest.digest, blob.size)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap().map(drop))
    })?;
    Ok(pinned)
}

#[test]
fn a_tag_is_pulled_with_what_it_names_and_nothing_twice() {
    let registry = Arc::new(Registry::new());
    let server = Server::start({
        let registry = registry.clone();
        move |seen, stream| registry.answer(seen, stream)
    });
    let fixture = Fixture::new(quick());
    let pinned = pull(&fixture, &server, None, ":1").unwrap();
    assert_eq!((pinned.named, pinned.manifest.digest), (Digest::of(&registry.index), registry.image.digest()));
    let mut asked: Vec<String> = server.seen().iter().map(|seen| seen.target().to_owned()).collect();
    assert_eq!(asked.len(), 5, "{asked:?}");
    assert!(server.seen()[0].header("accept").unwrap().contains(document::INDEX));
    pull(&fixture, &server, None, ":1").unwrap();
    asked = server.seen().iter().skip(5).map(|seen| seen.target().to_owned()).collect();
    assert_eq!(asked, ["/v2/team/app/manifests/1"], "only what the tag means now is asked again");
    let by_digest = format!("@sha256:{}", Digest::of(&registry.index));
    assert_eq!(
        pull(&fixture, &server, None, &by_digest).unwrap(),
        PinnedImage { reference: format!("{}/team/app{by_digest}", server.address()), ..pinned }
    );
}

#[test]
fn what_a_registry_does_not_have_or_lies_about_is_refused() {
    for (fault, expected) in [
        ("gone", "is gone from every place"),
        ("html", "web page"),
        ("manifest", "has SHA-256"),
        ("config", "has SHA-256"),
        ("layer", "has SHA-256"),
        ("short", "the connection broke after 1 bytes"),
        ("large", "larger than the limit"),
        ("status", "status 403"),
        ("chart", "artifact of type"),
    ] {
        let registry = Registry::new();
        let wrong: Vec<u8> = match fault {
            "manifest" => registry.image.manifest.clone(),
            "config" => registry.image.config.clone(),
            "layer" | "short" => registry.image.layers[0].clone(),
            _ => Vec::new(),
        };
        let wrong_path = format!("sha256:{}", Digest::of(&wrong));
        let server = Server::start(move |seen, stream| {
            let tag = seen.target().ends_with("/1");
            match fault {
                "gone" => reply(stream, 404, &[], b"{}"),
                "status" => reply(stream, 403, &[], b"{}"),
                "html" if tag => reply(stream, 200, &["Content-Type: text/html"], b"<html>log in</html>"),
                "large" if tag => reply(stream, 200, &["Content-Length: 99999999"], b"{"),
                "chart" if tag => {
                    let chart = registry.image.manifest.clone();
                    let text = String::from_utf8(chart)
                        .unwrap()
                        .replace(document::CONFIG, "application/vnd.cncf.helm.config.v1+json");
                    reply(stream, 200, &[&format!("Content-Type: {}", document::MANIFEST)], text.as_bytes());
                }
                "short" if seen.target().ends_with(&wrong_path) => {
                    reply(stream, 200, &["Content-Length: 3"], &wrong[..1])
                }
                _ if seen.target().ends_with(&wrong_path) => reply(stream, 200, &[], &vec![b'x'; wrong.len()]),
                _ => registry.answer(seen, stream),
            }
        });
        let error = pull(&Fixture::new(quick()), &server, None, ":1").expect_err(fault).to_string();
        assert!(error.contains(expected), "{fault}: {error}");
        if fault != "chart" {
            assert!(error.contains("container image app (") && error.contains("/v2/team/app/"), "{fault}: {error}");
        }
    }
}

#[test]
fn busy_registries_are_asked_again() {
    let registry = Registry::new();
    let server = Server::start(move |seen, stream| match seen.number {
        0 => reply(stream, 429, &["Retry-After: 0"], b""),
        1 => reply(stream, 503, &[], b""),
        4 => drop(stream.shutdown(std::net::Shutdown::Both)),
        _ => registry.answer(seen, stream),
    });
    assert!(pull(&Fixture::new(quick()), &server, None, ":1").is_ok());
}

fn docker_config(server: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    // user:secret
    std::fs::write(&path, format!(r#"{{"auths":{{"{server}":{{"auth":"dXNlcjpzZWNyZXQ="}}}}}}"#)).unwrap();
    (directory, path)
}

const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

#[test]
fn a_password_is_told_when_it_is_asked_for() {
    let registry = Registry::new();
    let server = Server::start(move |seen, stream| match seen.header("authorization") {
        Some(BASIC) => registry.answer(seen, stream),
        _ => reply(stream, 401, &["WWW-Authenticate: Basic realm=\"r\""], b""),
    });
    let (_directory, config) = docker_config(&server.address().to_string());
    assert!(pull(&Fixture::new(quick()), &server, Some(&config), ":1").is_ok());
    let refused = server.seen().iter().filter(|seen| seen.header("authorization").is_none()).count();
    assert_eq!(refused, 1, "it is told at once afterwards");
    let said = pull(&Fixture::new(quick()), &server, None, ":1").expect_err("no password").to_string();
    assert!(said.contains("status 401") && said.contains("there are no credentials for 127.0.0.1"), "{said}");
}

#[test]
fn a_token_is_fetched_once_and_goes_to_the_registry_alone() {
    let registry = Arc::new(Registry::new());
    let storage = Server::start({
        let registry = registry.clone();
        move |seen, stream| registry.answer(seen, stream)
    });
    let elsewhere = storage.url("");
    let server = Server::start(move |seen, stream| {
        let target = seen.target().to_owned();
        if let Some(query) = target.strip_prefix("/token?") {
            let right = query == "scope=repository%3Ateam%2Fapp%3Apull&service=reg%20istry";
            let token = br#"{"token":"T1","expires_in":300}"#;
            let known = seen.header("authorization") == Some(BASIC);
            return if right && known {
                reply(stream, 200, &[], token)
            } else {
                reply(stream, 401, &[], query.as_bytes())
            };
        }
        if seen.header("authorization") != Some("Bearer T1") {
            let host = seen.header("host").unwrap();
            // More is offered than is needed.
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"reg istry\",scope=\"repository:team/app:pull,push,delete\""
            );
            return reply(stream, 401, &[&challenge], b"");
        }
        match target.contains("/blobs/") {
            true => reply(stream, 307, &[&format!("Location: {elsewhere}{target}")], b""),
            false => registry.answer(seen, stream),
        }
    });
    let (_directory, config) = docker_config(&server.address().to_string());
    pull(&Fixture::new(quick()), &server, Some(&config), ":1").unwrap();
    let tokens = server.seen().iter().filter(|seen| seen.target().starts_with("/token")).count();
    assert_eq!(tokens, 1);
    let elsewhere = storage.seen();
    assert!(elsewhere.len() == 3 && elsewhere.iter().all(|seen| seen.header("authorization").is_none()));
    let (_directory, wrong) = docker_config("other.example");
    let said = pull(&Fixture::new(quick()), &server, Some(&wrong), ":1").expect_err("no credentials").to_string();
    assert!(said.contains("its token server gives no token (status 401)") && !said.contains("secret"), "{said}");
}

#[test]
fn a_refresh_token_is_sent_in_a_form_and_never_in_a_url() {
    let registry = Registry::new();
    let server = Server::start(move |seen, stream| {
        if seen.line.starts_with("POST /token ") {
            let form = "scope=repository%3Ateam%2Fapp%3Apull&service=s&grant_type=refresh_token&client_id=ksos-compose\
                        &refresh_token=R%2B1";
            let right = seen.body == form.as_bytes() && seen.header("authorization").is_none();
            let status = if right { 200 } else { 401 };
            return reply(stream, status, &[], br#"{"access_token":"T1"}"#);
        }
        if seen.header("authorization") == Some("Bearer T1") {
            return registry.answer(seen, stream);
        }
        let host = seen.header("host").unwrap();
        let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\"");
        reply(stream, 401, &[&challenge], b"");
    });
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.json");
    let text = format!(r#"{{"auths":{{"{}":{{"identitytoken":"R+1"}}}}}}"#, server.address());
    std::fs::write(&config, text).unwrap();
    pull(&Fixture::new(quick()), &server, Some(&config), ":1").unwrap();
    assert!(server.seen().iter().all(|seen| !seen.line.contains("R%2B1")));
}

#[test]
fn a_token_server_that_misbehaves_is_named() {
    for (challenge, token, expected) in [
        ("Bearer realm=\"ftp://evil.example/token\"", "", "evil.example/token is not reached by https"),
        ("Bearer service=\"x\"", "", "does not say whose"),
        ("Negotiate", "", "of a kind that is not known"),
        ("", "", "of a kind that is not known"),
        ("Bearer realm=\"HERE/token\"", "{}", "gave no token"),
        ("Bearer realm=\"HERE/token\"", "{\"token\":\"a\\r\\nX: y\"}", "gave no token"),
        ("Bearer realm=\"HERE/token\"", "{\"token\":\"T\"}", "wants other credentials (status 401)"),
    ] {
        let server = Server::start(move |seen, stream| {
            if seen.target().starts_with("/token") {
                return reply(stream, 200, &[], token.as_bytes());
            }
            let here = format!("http://{}", seen.header("host").unwrap());
            reply(stream, 401, &[&format!("WWW-Authenticate: {}", challenge.replace("HERE", &here))], b"");
        });
        let options = crate::effects::net::NetOptions { retries: 0, ..quick() };
        let said = pull(&Fixture::new(options), &server, None, ":1").expect_err(expected).to_string();
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn offline_needs_what_the_cache_has_not() {
    let options = crate::effects::net::NetOptions { offline: true, ..quick() };
    let server = Server::start(|_, _| {});
    let error = pull(&Fixture::new(options), &server, None, ":1").expect_err("offline");
    assert!(matches!(&error, ImageError::Fetch(crate::effects::net::FetchError::Offline { .. })), "{error}");
    assert!(server.seen().is_empty());
}
