use ksos_formats::Digest;

use super::super::node::tests::config;
use super::*;
use crate::sys::Exit;
use crate::sys::double::Double;

const LAYOUT: &str = "/usr/lib/ksos/images";

/// Two images that share a layer, one of them under two names.
fn layout(sys: &Double) -> Vec<ContainerImage> {
    let blob = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        sys.put(&format!("{LAYOUT}/blobs/sha256/{digest}"), bytes);
        format!(r#""digest":"sha256:{digest}","size":{}"#, bytes.len())
    };
    let (shared, own) = (blob(&[7; 700]), blob(b"own"));
    let (mut entries, mut images) = (Vec::new(), Vec::new());
    for (config, layers, names) in [
        ("{}", format!("{{{shared}}}"), vec!["docker.io/library/a:1", "docker.io/library/a@sha256:x"]),
        ("{ }", format!("{{{shared}}},{{{own}}}"), vec!["docker.io/library/b:1"]),
    ] {
        let text = format!(r#"{{"config":{{{}}},"layers":[{layers}]}}"#, blob(config.as_bytes()));
        let descriptor = blob(text.as_bytes());
        for name in names {
            entries.push(format!(r#"{{{descriptor},"annotations":{{"io.containerd.image.name":"{name}"}}}}"#));
            let manifest = Digest::of(text.as_bytes());
            images.push(ContainerImage { reference: name.to_owned(), layout: LAYOUT.to_owned(), manifest });
        }
    }
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    sys.put(&format!("{LAYOUT}/index.json"), index);
    images
}

fn machine() -> (Double, Vec<ContainerImage>) {
    let sys = Double::new();
    sys.put("/usr/bin/ctr", "");
    let images = layout(&sys);
    let config = RuntimeConfig { container_images: images.clone(), ..config() };
    sys.put(layout::RUNTIME_CONFIG, serde_json::to_vec(&config).expect("JSON"));
    (sys, images)
}

fn table(images: &[&ContainerImage], labels: &str) -> String {
    let mut text = "REF TYPE DIGEST SIZE PLATFORMS LABELS\n".to_owned();
    for image in images {
        let ContainerImage { reference, manifest, .. } = image;
        text.push_str(&format!("{reference} application/x sha256:{manifest} 1.2 MiB linux/amd64 {labels}\n"));
    }
    text
}

const LABELLED: &str = "io.cri-containerd.image=managed,io.cri-containerd.pinned=pinned";

/// Runs the applet with these answers of `ctr`; returns its exit status and what it said.
fn run(sys: &Double, answers: &[&str]) -> (i32, String) {
    sys.calls.borrow_mut().clear();
    sys.fed.borrow_mut().clear();
    let answers = answers.iter().map(|text| (Exit::Code(0), (*text).to_owned())).collect();
    sys.runs.borrow_mut().insert("/usr/bin/ctr".to_owned(), answers);
    let mut out = Vec::new();
    let status = import(sys, &mut out);
    (status, String::from_utf8(out).expect("text"))
}

#[test]
fn services_after_the_engine_wait_for_the_import() {
    let mut config = RuntimeConfig { container_images: machine().1, ..config() };
    assert!(with_import(&config).1.expect("a problem").contains("no service named containerd"));
    let after = |names: &[&str]| ServiceConfig {
        after: names.iter().map(|name| (*name).to_owned()).collect(),
        ..import_service()
    };
    config.services = [
        ("containerd", after(&[])),
        ("hello", after(&["containerd"])),
        ("kubesolo", after(&[])),
        ("other", after(&[])),
    ]
    .map(|(name, service)| (name.to_owned(), service))
    .into();
    let (services, problem) = with_import(&config);
    assert_eq!(problem, None);
    assert_eq!(services["hello"].after, ["containerd", SERVICE]);
    assert!(services["other"].after.is_empty());
    assert!(services[SERVICE].after.is_empty(), "it waits for the socket itself");
    config.engine = Some(EngineConfig { service: "kubesolo".to_owned(), socket: "/run/k/containerd.sock".to_owned() });
    assert_eq!(with_import(&config).0["hello"].after, ["containerd"]);
    assert_eq!(engine(&config).socket, "/run/k/containerd.sock");
    config.container_images.clear();
    assert_eq!(with_import(&config).0, config.services);
}

#[test]
fn what_is_there_is_left_alone() {
    let (sys, images) = machine();
    let all = table(&images.iter().collect::<Vec<_>>(), LABELLED);
    assert_eq!(run(&sys, &[&all, &all]), (0, String::new()));
    let calls = sys.calls_of("run ");
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(calls[0].starts_with("run /usr/bin/ctr -a /run/containerd/containerd.sock -n k8s.io images ls name=="));
}

#[test]
fn what_is_missing_or_another_image_is_imported_from_one_archive_with_each_blob_once() {
    let (sys, images) = machine();
    let (all, a_only) = (images.iter().collect::<Vec<_>>(), vec![&images[0]]);
    let other = table(&a_only, LABELLED).replace(&images[0].manifest.hex(), &Digest::of(b"old").hex());
    for (before, files, names) in [(table(&[], ""), 8, 3), (other, 8, 3), (table(&a_only, LABELLED), 8, 2)] {
        let (status, said) = run(&sys, &[&before, "", &table(&all, LABELLED)]);
        assert_eq!((status, said.lines().count()), (0, names), "{said}");
        assert_eq!(
            sys.calls_of("run /usr/bin/ctr -a /run/containerd/containerd.sock -n k8s.io images import -").len(),
            1
        );
        let fed = sys.fed.borrow();
        assert_eq!((fed.len(), fed[0].len() % 512), (1, 0));
        let listing = unpack(&fed[0]);
        // oci-layout, index.json, two manifests, two configurations, two layers.
        assert_eq!(listing.len(), files, "{:?}", listing.keys());
        for (name, bytes) in listing.iter().filter(|(name, _)| name.starts_with("blobs/")) {
            assert_eq!(*name, format!("blobs/sha256/{}", Digest::of(bytes)));
        }
        let index: Index = serde_json::from_slice(&listing["index.json"]).expect("an index");
        assert_eq!(index.manifests.len(), names);
    }
}

/// Reads an archive with the system's tar.
fn unpack(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.tar");
    #[expect(clippy::disallowed_methods, reason = "runs a foreign tool on a file of its own")]
    {
        std::fs::write(&path, bytes).expect("written");
        let script = "tar -xf a.tar && find oci-layout index.json blobs -type f";
        let output = std::process::Command::new("sh").args(["-ec", script]).current_dir(directory.path()).output();
        let output = output.expect("tar runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let names = String::from_utf8(output.stdout).expect("text");
        let read = |name: &str| (name.to_owned(), std::fs::read(directory.path().join(name)).expect("readable"));
        names.lines().map(read).collect()
    }
}

#[test]
fn images_are_marked_once() {
    let (sys, images) = machine();
    let all: Vec<_> = images.iter().collect();
    let unmarked = table(&all, "-");
    assert_eq!(run(&sys, &[&unmarked, &unmarked]).0, 0);
    let calls = sys.calls_of("run /usr/bin/ctr -a /run/containerd/containerd.sock -n k8s.io images label");
    assert_eq!(calls.len(), 3);
    assert!(
        calls[0].ends_with("docker.io/library/a:1 io.cri-containerd.image=managed io.cri-containerd.pinned=pinned")
    );
}

#[test]
fn failures_are_named() {
    let (sys, images) = machine();
    let all = table(&images.iter().collect::<Vec<_>>(), LABELLED);
    let (status, said) = run(&sys, &["", "", ""]);
    assert!(status == 1 && said.contains("docker.io/library/a:1") && said.contains("not there after"), "{said}");
    sys.fail("connect", "refused");
    let before = sys.uptime_ms();
    let (status, said) = run(&sys, &[&all]);
    assert!(status == 1 && said.contains("containerd.sock does not accept connections for 60 s"), "{said}");
    assert!((60_000..62_000).contains(&(sys.uptime_ms() - before)));
    let (sys, _) = machine();
    sys.put(
        &format!("{LAYOUT}/index.json"),
        r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:../../etc","size":1,
        "annotations":{"io.containerd.image.name":"docker.io/library/a:1"}}]}"#,
    );
    let (status, said) = run(&sys, &[""]);
    assert!(status == 1 && said.contains("\"sha256:../../etc\" is not a SHA-256 digest"), "{said}");
    let sys = Double::new();
    sys.put(layout::RUNTIME_CONFIG, serde_json::to_vec(&config()).expect("JSON"));
    assert_eq!(run(&sys, &[]), (1, "ctr is not in the image\n".to_owned()));
}

#[test]
fn a_blob_that_is_shorter_than_its_descriptor_ends_the_import() {
    let (sys, _) = machine();
    sys.put(&format!("{LAYOUT}/blobs/sha256/{}", Digest::of(&[7; 700])), "short");
    let (status, said) = run(&sys, &[""]);
    assert!(status == 1 && said.contains("has 5 bytes, expected 700"), "{said}");
}

/// Says whether `name` is installed; with `KSOS_REQUIRE_TOOLS`, it must be.
#[expect(clippy::disallowed_methods, reason = "the variable says what a missing tool means")]
fn has_tool(path: &str) -> bool {
    let is_there = std::path::Path::new(path).is_file();
    assert!(is_there || std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "{path} is needed");
    if !is_there {
        println!("skipped: {path} is not installed");
    }
    is_there
}

/// A containerd of its own; dropped, it ends.
struct Containerd {
    directory: tempfile::TempDir,
    process: std::process::Child,
}

#[expect(clippy::disallowed_methods, reason = "runs a foreign tool in a directory of its own")]
impl Containerd {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        let text = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{0}/socket\"\n",
            root.display()
        );
        std::fs::write(root.join("config.toml"), text).expect("written");
        let mut command = std::process::Command::new("/usr/bin/containerd");
        command.arg("-c").arg(root.join("config.toml"));
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let process = command.spawn().expect("containerd starts");
        Containerd { directory, process }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, bytes).expect("written");
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A layout with one real image under two names.
fn real_layout(containerd: &Containerd) -> Vec<ContainerImage> {
    let blob = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        containerd.write(&format!("layout/blobs/sha256/{digest}"), bytes);
        format!(r#""digest":"sha256:{digest}","size":{}"#, bytes.len())
    };
    // One empty file, as the runtime itself writes archives.
    let mut layer = header("hello", 0).to_vec();
    layer.extend([0; 1024]);
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = format!(
        r#"{{"architecture":"{arch}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        Digest::of(&layer)
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{{"mediaType":"application/vnd.oci.image.config.v1+json",{}}},
        "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar",{}}}]}}"#,
        blob(config.as_bytes()),
        blob(&layer)
    );
    let descriptor = blob(manifest.as_bytes());
    let digest = Digest::of(manifest.as_bytes());
    let names = ["docker.io/library/a:1".to_owned(), format!("docker.io/library/a@sha256:{digest}")];
    let entry = |name: &String| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json",{descriptor},
            "platform":{{"os":"linux","architecture":"{arch}"}},"annotations":{{"io.containerd.image.name":"{name}"}}}}"#
        )
    };
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#, entry(&names[0]), entry(&names[1]));
    containerd.write("layout/index.json", index.as_bytes());
    let layout = containerd.directory.path().join("layout").display().to_string();
    names.map(|reference| ContainerImage { reference, layout: layout.clone(), manifest: digest }).into()
}

#[test]
fn a_real_containerd_takes_the_archive() {
    if !has_tool("/usr/bin/containerd") || !has_tool("/usr/bin/ctr") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: containerd needs root");
        return;
    }
    let containerd = Containerd::start();
    let images = real_layout(&containerd);
    let sys = crate::sys::linux::Linux::new();
    let socket = containerd.directory.path().join("socket").display().to_string();
    let ctr = Ctr { sys: &sys, program: "/usr/bin/ctr".to_owned(), socket };
    ctr.wait().expect("containerd answers");
    let mut out = Vec::new();
    for round in 0..2 {
        ctr.bring(&images, &mut out).expect("imported");
        let listed = ctr.list(&images).expect("listed");
        assert!(missing(&images, &listed).is_empty());
        assert!(listed.values().all(|listed| LABELS.iter().all(|label| listed.labels.contains(label))));
        let said = String::from_utf8_lossy(&out).into_owned();
        assert_eq!(said.lines().count(), 2, "round {round}: nothing is imported twice: {said}");
    }
    ctr.run(&["rm", &images[0].reference]).expect("removed");
    ctr.bring(&images, &mut out).expect("imported again");
    assert_eq!(String::from_utf8_lossy(&out).lines().count(), 3);
}
