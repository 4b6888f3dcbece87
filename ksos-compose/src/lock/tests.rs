use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ksos_formats::Digest;
use proptest::prelude::*;

use super::*;

fn package(name: &str, version: &str) -> Package {
    Package {
        name: name.into(),
        architecture: "amd64".into(),
        version: version.into(),
        repository: "debian".into(),
        path: format!("pool/main/{name}_{version}.deb"),
        size: 1234,
        sha256: Digest::of(name.as_bytes()),
        source: None,
        license: None,
    }
}

fn example() -> Lock {
    let mut lock = Lock::default();
    let pinned = Pinned {
        url: "https://host/v1/kubesolo.tar.gz".into(),
        sha256: Digest::of(b"file"),
        size: 42,
        pinned_by: PinnedBy::FirstUse,
    };
    let kernel = Package { source: Some("linux".into()), ..package("linux-image", "6.12.107-1") };
    let kernel = vec![package("zlib", "1:1.3"), kernel];
    let request = Digest::of(b"request");
    lock.insert(Arch::X86_64, "kubesolo", Component { request, resolved: Resolved::Http(pinned) });
    lock.insert(Arch::X86_64, "kernel", Component { request, resolved: Resolved::apt(kernel) });
    let all = Package { architecture: "all".into(), ..package("ca-certificates", "2025\"\\\u{7f}") };
    lock.insert(Arch::Arm64, "odd name", Component { request, resolved: Resolved::apt(vec![all]) });
    lock
}

fn parse(text: &str) -> Result<Lock, LockError> {
    Lock::parse(text, Path::new("os.lock"))
}

#[test]
fn the_text_is_canonical() {
    insta::assert_snapshot!(example().to_text());
    assert_eq!(parse(&example().to_text()).unwrap(), example());
}

#[test]
fn any_order_is_read_and_one_is_written() {
    let text = example().to_text();
    let (head, tables) = text.split_once("\n[").unwrap();
    let mut tables: Vec<_> = tables.split("\n[").map(|table| table.trim_end_matches('\n')).collect();
    tables.reverse();
    let shuffled = format!("{head}\n[{}\n", tables.join("\n["));
    let lock = parse(&shuffled.replace("\n  {", "\n\n # a comment\n  {")).unwrap();
    assert_eq!(lock.to_text(), text);
}

#[test]
fn a_newer_version_is_refused_whole() {
    let error = parse("version = 2\nnew-things = { x = 1 }\n").unwrap_err().to_string();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        error,
        format!(
            "os.lock: the lock file has version 2; ksos-compose {version} knows versions up to 1, a newer one is needed"
        )
    );
}

#[test]
fn damage_is_named_with_its_line() {
    let good = example().to_text();
    let line_of = |needle: &str| 1 + good.lines().position(|line| line.contains(needle)).unwrap();
    let digest = Digest::of(b"zlib").hex();
    let zlib = good.lines().find(|line| line.contains("zlib")).unwrap();
    let cases = [
        (good.replace("version = 1\n", ""), 1, "no version"),
        (good.replace("version = 1\n", "version = 0\n"), 1, "no version 0"),
        (good.replace(&digest, "abc"), line_of("zlib"), "64 lower-case hexadecimal digits"),
        (good.replace("size = 42", "size = -1"), line_of("size = 42"), "invalid"),
        (good.replace("size = 42\n", ""), line_of("[x86_64.kubesolo]"), "url, sha256, size and pinned-by"),
        (
            good.replace("size = 42", "size = 42\npackages = []"),
            line_of("[x86_64.kubesolo]"),
            "url, sha256, size and pinned-by",
        ),
        (good.replace("pinned-by", "pinned-bye"), line_of("pinned-by"), "unknown field `pinned-bye`"),
        (good.replace(zlib, &format!("{zlib}\n{zlib}")), line_of("zlib") + 1, "package zlib:amd64 is there twice"),
        (good.replace("pool/main/zlib", "pool/../zlib"), line_of("zlib"), "not a path below a repository"),
        (good.replace("pool/main/zlib", "/pool/main/zlib"), line_of("zlib"), "not a path below a repository"),
        (good.replace("[x86_64.kubesolo]", "[x86_64.kernel]"), line_of("[x86_64.kubesolo]"), "duplicate key"),
        (good.replace("[x86_64.kubesolo]", "[mips.kubesolo]"), line_of("[x86_64.kubesolo]"), "unknown field `mips`"),
        (good.replace("[x86_64.kubesolo]", "[x86_64.kubesolo"), line_of("[x86_64.kubesolo]"), ""),
    ];
    for (text, line, message) in cases {
        let error = parse(&text).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("os.lock:{line}: ")) && error.contains(message),
            "{error}\nexpected {line}: {message}"
        );
    }
}

#[test]
fn a_merge_conflict_is_called_by_its_name() {
    let text = example().to_text().replace("size = 42", "<<<<<<< ours\nsize = 42\n=======\nsize = 43\n>>>>>>> theirs");
    let line = 1 + text.lines().position(|line| line.starts_with("<<<<<<<")).unwrap();
    assert_eq!(
        parse(&text).unwrap_err().to_string(),
        format!("os.lock:{line}: unresolved merge conflict in the lock file")
    );
}

#[test]
fn equal_bytes_are_not_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = path_for(&directory.path().join("os.toml"));
    assert_eq!(path.file_name().unwrap(), "os.lock");
    assert_eq!(read(&path).unwrap(), None);
    assert!(write(&path, &example()).unwrap());
    let inode = std::fs::metadata(&path).unwrap().ino();
    assert!(!write(&path, &example()).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(read(&path).unwrap(), Some(example()));
    assert!(write(&path, &Lock::default()).unwrap());
}

fn wanted(component: &str, request: &str) -> Wanted {
    Wanted { component: component.into(), request: Some(Digest::of(request.as_bytes())) }
}

#[test]
fn components_are_kept_until_their_request_changes() {
    let lock = example();
    let wanted = [wanted("kernel", "request"), wanted("kubesolo", "another"), wanted("new", "request")];
    let result = reconcile(Arch::X86_64, &wanted, &lock, Mode::Default, &Update::Nothing).unwrap();
    assert_eq!(result.decisions["kernel"], Decision::Keep(lock.get(Arch::X86_64, "kernel").unwrap()));
    assert_eq!(result.decisions["kubesolo"], Decision::Resolve(Reason::Changed));
    assert_eq!(result.decisions["new"], Decision::Resolve(Reason::Missing));
    assert_eq!(result.unused, Vec::<String>::new());
}

#[test]
fn locked_names_everything_that_would_change() {
    let lock = example();
    let wanted = [wanted("kubesolo", "another"), wanted("new", "request")];
    for mode in [Mode::Locked, Mode::Frozen] {
        let error = reconcile(Arch::X86_64, &wanted, &lock, mode, &Update::Nothing).unwrap_err();
        insta::allow_duplicates! {
            insta::assert_snapshot!(error, @r"
            the lock file would change for x86_64, which is not allowed:
              component kubesolo is not what the manifest asks for now
              component new is not in it
              component kernel is no longer in the manifest
            ");
        }
    }
    assert!(reconcile(Arch::X86_64, &wanted, &lock, Mode::Offline, &Update::Nothing).is_ok());
    let same = [super::Wanted { component: "kernel".into(), request: None }, self::wanted("kubesolo", "request")];
    assert!(reconcile(Arch::X86_64, &same, &lock, Mode::Frozen, &Update::Nothing).is_ok());
}

#[test]
fn update_takes_all_or_the_named_components() {
    let lock = example();
    let wanted = [wanted("kernel", "request"), wanted("kubesolo", "request")];
    let resolved = |update: &Update| {
        let result = reconcile(Arch::X86_64, &wanted, &lock, Mode::Default, update).unwrap();
        result.changes().len()
    };
    assert_eq!(resolved(&Update::Nothing), 0);
    assert_eq!(resolved(&Update::of([])), 2);
    assert_eq!(resolved(&Update::of(["kernel".to_owned()])), 1);
    let unknown = Update::of(["kernal".to_owned()]);
    let error = reconcile(Arch::X86_64, &wanted, &lock, Mode::Default, &unknown).unwrap_err();
    assert_eq!(error.to_string(), "there is no component kernal to update; there are kernel, kubesolo");
}

#[test]
fn a_replaced_component_is_neither_resolved_nor_dropped() {
    let lock = example();
    let wanted = [Wanted { component: "kernel".into(), request: None }, wanted("kubesolo", "request")];
    let result = reconcile(Arch::X86_64, &wanted, &lock, Mode::Default, &Update::All).unwrap();
    assert_eq!(result.decisions.keys().collect::<Vec<_>>(), ["kubesolo"]);
    assert_eq!(result.unused, Vec::<String>::new());
}

#[test]
fn modes_are_made_of_two_flags() {
    for (locked, offline) in [(false, false), (false, true), (true, false), (true, true)] {
        let mode = Mode::new(locked, offline);
        assert_eq!((mode.may_change(), mode.network()), (!locked, !offline));
    }
}

#[test]
fn changes_are_told() {
    let old = example();
    let mut new = example();
    let kernel = vec![package("linux-image", "6.12.117-1"), package("kmod", "34")];
    new.insert(Arch::X86_64, "kernel", Component { request: Digest::of(b""), resolved: Resolved::apt(kernel) });
    new.remove(Arch::Arm64, "odd name");
    let text: Vec<_> = changes(&old, &new).iter().map(ToString::to_string).collect();
    let expected = [
        "x86_64 kernel kmod: added 34",
        "x86_64 kernel linux-image: 6.12.107-1 -> 6.12.117-1",
        "x86_64 kernel zlib: removed 1:1.3",
        "arm64 odd name ca-certificates: removed 2025\"\\\u{7f}",
    ];
    assert_eq!(text, expected);
    assert_eq!(changes(&new, &new), []);
}

fn any_package() -> impl Strategy<Value = Package> {
    let text = || any::<String>();
    let path = "[a-z+~%.][a-z0-9]{0,8}(/[a-z0-9][a-z0-9.]{0,5}){0,3}";
    let names = (text(), text(), text(), text(), path);
    (names, any::<u32>(), any::<[u8; 32]>(), any::<Option<String>>(), any::<Option<String>>()).prop_filter_map(
        "a path of dots",
        |((name, architecture, version, repository, path), size, sha256, source, license)| {
            let size = u64::from(size);
            let package = Package {
                name,
                architecture,
                version,
                repository,
                path,
                size,
                sha256: Digest(sha256),
                source,
                license,
            };
            (!package.path.split('/').any(|part| part == ".")).then_some(package)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_lock_round_trips(name in any::<String>(), packages in prop::collection::vec(any_package(), 0..4), url in any::<String>()) {
        let mut packages = packages;
        packages.sort();
        packages.dedup_by(|a, b| (&a.name, &a.architecture) == (&b.name, &b.architecture));
        let mut lock = Lock::default();
        let request = Digest::of(name.as_bytes());
        let pinned = Pinned { url, sha256: request, size: 1, pinned_by: PinnedBy::Manifest };
        lock.insert(Arch::X86_64, &name, Component { request, resolved: Resolved::apt(packages) });
        lock.insert(Arch::Arm64, &name, Component { request, resolved: Resolved::Http(pinned) });
        let text = lock.to_text();
        let read = parse(&text).unwrap();
        prop_assert_eq!(&read, &lock);
        prop_assert_eq!(read.to_text(), text);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        let _ = parse(&text);
        let _ = parse(&format!("version = 1\n{text}"));
    }
}

fn with_image() -> Lock {
    use crate::oci::document::ImageBlob;
    let blob = |name: &str| ImageBlob {
        media_type: format!("application/vnd.oci.image.{name}"),
        digest: Digest::of(name.as_bytes()),
        size: name.len() as u64,
    };
    let image = PinnedImage {
        reference: "docker.io/library/hello:1".into(),
        named: Digest::of(b"index"),
        manifest: blob("manifest"),
        config: blob("config"),
        layers: vec![blob("one"), blob("two"), blob("one")],
    };
    let mut lock = Lock::default();
    let resolved = Resolved::Oci(image);
    lock.insert(Arch::X86_64, &image_key("hello"), Component { request: Digest::of(b"request"), resolved });
    lock
}

#[test]
fn container_images_are_written_and_read() {
    let text = with_image().to_text();
    assert!(text.contains("\n[x86_64.\"container-image hello\"]\nsource = \"oci\"\n"), "{text}");
    assert_eq!(text.matches("{ kind = \"layer\", media-type = \"application/vnd.oci.image.").count(), 3, "{text}");
    assert_eq!(parse(&text).unwrap(), with_image());
    let digest = Digest::of(b"manifest").hex();
    let change = &changes(&Lock::default(), &with_image())[0];
    assert_eq!(change.to_string(), format!("x86_64 container-image hello: added {digest}"));
}

fn with_tinycore() -> Lock {
    let file = |name: &str, path: &str, version: Option<&str>| PinnedFile {
        name: name.into(),
        path: path.into(),
        size: 7,
        sha256: Digest::of(name.as_bytes()),
        version: version.map(str::to_owned),
        license: version.map(|_| "GPL \"2\"".to_owned()),
    };
    // The order is that of merging, not of names.
    let files = vec![
        file("z.gz", "release/z.gz", None),
        file("b.tcz", "tcz/b.tcz", Some("1.2")),
        file("a.tcz", "tcz/a.tcz", None),
    ];
    let mut lock = Lock::default();
    let resolved = Resolved::TinyCore(files);
    lock.insert(Arch::X86_64, "base", Component { request: Digest::of(b"request"), resolved });
    lock
}

#[test]
fn tiny_core_bases_are_written_and_read() {
    let text = with_tinycore().to_text();
    assert!(text.contains("\n[x86_64.base]\nsource = \"tinycore\"\n"), "{text}");
    assert_eq!(parse(&text).unwrap(), with_tinycore());
    let shown: Vec<String> = changes(&Lock::default(), &with_tinycore()).iter().map(ToString::to_string).collect();
    assert_eq!(shown[1], "x86_64 base b.tcz: added 1.2");
    for (from, to, message) in [
        ("tcz/a.tcz", "../a.tcz", "\"../a.tcz\" is not a path below a mirror"),
        ("\"a.tcz\"", "\"b.tcz\"", "file b.tcz is there twice"),
        ("files = [", "url = \"http://x\"\nfiles = [", "a Tiny Core base has files and nothing else"),
    ] {
        let error = parse(&text.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn damaged_container_images_are_refused() {
    let text = with_image().to_text();
    for (from, to, expected) in [
        ("kind = \"config\"", "kind = \"layer\"", "one manifest, one config and layers, in this order"),
        ("kind = \"manifest\"", "kind = \"signature\"", "unknown variant"),
        ("reference = ", "url = ", "a container image has reference, sha256 and blobs"),
        ("source = \"oci\"", "source = \"apt\"", "an apt component has packages and nothing else"),
        ("size = 6", "size = -6", "invalid value"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = parse(&text.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let no_layer: String =
        text.lines().filter(|line| !line.contains("\"layer\"")).map(|line| format!("{line}\n")).collect();
    assert!(parse(&no_layer).unwrap_err().to_string().contains("one manifest, one config and layers"));
}

#[test]
fn updates_name_container_images_as_users_do() {
    for (name, expected) in
        [("hello", true), ("container-images.hello", true), ("container-image hello", true), ("hell", false)]
    {
        assert_eq!(Update::of([name.to_owned()]).takes(&image_key("hello")), expected, "{name}");
    }
    assert!(Update::of(["kernel".to_owned()]).takes("kernel"));
    assert!(!Update::of(["container-images.kernel".to_owned()]).takes("kernel"));
    let wanted = [Wanted { component: image_key("hello"), request: None }];
    let lock = Lock::default();
    let error = reconcile(Arch::X86_64, &wanted, &lock, Mode::Default, &Update::of(["x".to_owned()])).unwrap_err();
    assert!(error.to_string().contains("there is no component x"), "{error}");
    let wanted = [Wanted { component: image_key("hello"), request: Some(Digest::of(b"r")) }];
    let error = reconcile(Arch::X86_64, &wanted, &lock, Mode::Locked, &Update::Nothing).unwrap_err();
    assert!(error.to_string().ends_with("container image hello is not in it"), "{error}");
}
