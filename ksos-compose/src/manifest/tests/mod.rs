//! Tests over whole manifests: the full one, merging, broken ones, arbitrary ones, and the schema.

mod broken;
mod documents;
mod merging;
mod mutated;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ksos_formats::Arch;
use ksos_formats::runtime::ReadyProbe;

use super::*;

/// The fixtures, relative to the directory of the crate, in which tests run.
const FIXTURES: &str = "../tests/fixtures/manifest";

fn full(arch: Arch) -> Loaded {
    load(&Path::new(FIXTURES).join("full.toml"), Some(arch), &DiskFiles)
        .unwrap_or_else(|errors| panic!("{}", errors.render(Style::default())))
}

/// A complete manifest in memory, as `/m/base.toml`, beside the files of a test; loads `/m/main.toml`.
fn load_text(text: &str) -> Result<Loaded, Errors> {
    load_texts(&[("main.toml", text)])
}

fn load_texts(texts: &[(&str, &str)]) -> Result<Loaded, Errors> {
    load(Path::new("/m/main.toml"), None, &memory(texts))
}

fn memory(texts: &[(&str, &str)]) -> Memory {
    let base = include_bytes!("../../../../tests/fixtures/manifest/valid.toml").to_vec();
    let fixed = [("base.toml", base), ("keys/archive.asc", Vec::new()), ("vendor/extra", Vec::new())];
    let given = texts.iter().map(|(name, text)| (*name, text.as_bytes().to_vec()));
    let files = fixed.into_iter().chain(given).map(|(name, bytes)| (Path::new("/m").join(name), bytes));
    Memory(files.collect())
}

fn codes(errors: &Errors) -> Vec<String> {
    let errors = errors.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
    errors.map(|diagnostic| json!(diagnostic.code).as_str().expect("codes are strings").to_owned()).collect()
}

#[test]
fn the_full_manifest_is_valid_for_both_architectures() {
    for arch in Arch::ALL {
        let loaded = full(arch);
        assert_eq!(loaded.arch, arch);
        assert_eq!(loaded.manifest.image.arch, arch);
        assert_eq!(loaded.warnings, []);
        let names: Vec<_> = loaded.files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
        assert_eq!(names, ["full.toml", "base.toml"]);
    }
}

#[test]
fn values_are_read_into_types() {
    let Manifest { kernel, components, partitions, services, container_images, sysctl, root, .. } =
        full(Arch::X86_64).manifest;
    let names = [
        "boot-loader",
        "built-kernel",
        "extra",
        "kernel",
        "kubesolo",
        "like-packaged",
        "local-tiny-core",
        "other-kernel",
        "runtime",
        "tiny-core",
    ];
    assert_eq!(components.keys().collect::<Vec<_>>(), names);
    let Source::Http(http) = &components["kubesolo"].source else { panic!("kubesolo is a download") };
    assert_eq!(http.max_size, Size(512 << 20));
    assert_eq!(
        http.urls(Arch::Arm64),
        [
            "https://github.com/portainer/kubesolo/releases/download/v1.2.0/kubesolo-v1.2.0-linux-arm64-musl.tar.gz",
            "https://mirror.example/aarch64/kubesolo-1.2.0-arm64.tar.gz"
        ]
    );
    let install = http.unpack.install.as_ref().expect("kubesolo installs files");
    assert_eq!((install[0].to.relative(), install[0].mode), ("usr/bin/kubesolo", Some(Mode(0o755))));
    assert_eq!(kernel.initramfs_modules[3], ModulePattern { pattern: "ext4".to_owned(), optional: true });
    assert_eq!(kernel.required_options[0].requirement, OptionRequirement::BuiltIn);
    assert_eq!(partitions["data"].size, Size(64 << 20));
    assert_eq!(services["containerd"].restart_delay_max.milliseconds, 60_000);
    assert_eq!(services["containerd"].ready, ReadyProbe::Socket("/run/containerd/containerd.sock".to_owned()));
    assert_eq!(services["ssh"].ready, ReadyProbe::Tcp(22));
    assert!(matches!(&container_images["extra"].content, ImageContent::Built(built) if built.component == "extra"));
    assert_eq!(sysctl["vm.max_map_count"], "262144");
    assert_eq!(root.persist[0].absolute(), "/var/lib/kubesolo");
}

#[test]
fn paths_keep_their_text_and_are_resolved_from_the_file_that_states_them() {
    let manifest = full(Arch::X86_64).manifest;
    let fixtures = std::path::absolute(FIXTURES).map(|path| layers::normalize(&path)).expect("there is a directory");
    let keyring = &manifest.apt["debian"].keyring;
    assert_eq!(
        (keyring.text.as_str(), keyring.path()),
        ("keys/archive.asc", fixtures.join("keys/archive.asc").as_path())
    );
    let Source::Cargo(cargo) = &manifest.components["runtime"].source else { panic!("runtime is a program") };
    assert_eq!(cargo.path.path(), fixtures.join("../../..").canonicalize().expect("the workspace exists"));
}

#[test]
fn partitions_and_services_have_defaults() {
    let loaded = load_text("extends = \"base.toml\"").expect("valid");
    let labels: Vec<_> = loaded.manifest.partitions.values().map(|partition| partition.label.as_str()).collect();
    assert_eq!(labels, ["KSOLODATA", "KSOSEFI", "KSOSSYSA", "KSOSSYSB"]);
    assert_eq!(loaded.manifest.root, Root::default());
    assert_eq!(loaded.manifest.image.hostname, "kubesolo");
    let service = &loaded.manifest.services["containerd"];
    assert!(service.required && service.restart_delay == Duration::seconds(3));
}

/// What decides a component changes its digest; what does not, does not.
#[test]
fn the_request_digest_follows_what_decides_a_component() {
    let extra = "extends = \"base.toml\"\n[components.a]\nsource = \"http\"\nversion = \"1\"\n\
                 url = \"https://example.com/{version}/{arch}\"\n";
    let digest = |component: &str, change: &str| {
        let text = format!("{extra}{change}");
        let loaded = load_text(&text).unwrap_or_else(|errors| panic!("{}", errors.render(Style::default())));
        loaded.manifest.component_request_digest(component).expect("the component exists")
    };
    let same = [
        ("kernel", "[components.kernel]\ninclude = [\"boot/**\"]\n"),
        ("kernel", "[components.kernel]\nrepositories = [\"debian\"]\n"),
        ("kernel", "[apt.debian]\nmirrors = [\"https://example.com/debian\"]\n"),
        ("a", "mirrors = [\"https://example.org/\"]\nmax-size = 5\n"),
        ("a", "[components.kernel]\nrecommends = true\n"),
    ];
    for (component, change) in same {
        assert_eq!(digest(component, ""), digest(component, change), "{change}");
    }
    let different = [
        ("kernel", "[components.kernel]\nrecommends = true\n"),
        ("kernel", "[components.kernel]\npackages = [\"linux-image-amd64\"]\n"),
        ("kernel", "[components.kernel]\nexclude-packages = [\"x1\"]\n"),
        ("kernel", "[apt.debian]\nsuites = { add = [\"trixie-updates\"] }\n"),
        ("kernel", "[image]\narch = \"arm64\"\n"),
        ("a", "checksums = \"https://example.com/SHA256SUMS\"\n"),
        ("a", "[image]\narch = \"arm64\"\n"),
        ("a", "[components.a.sha256]\nx86_64 = \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"\n"),
    ];
    for (component, change) in different {
        assert_ne!(digest(component, ""), digest(component, change), "{change}");
    }
    let loaded = load_text(extra).expect("valid");
    assert_eq!(loaded.manifest.component_request_digest("none"), None);
}

/// The written form is the one that a manifest has, without paths of this machine.
#[test]
fn a_manifest_is_serialized_without_machine_paths() {
    let manifest = full(Arch::X86_64).manifest;
    let text = serde_json::to_string(&manifest).expect("a manifest is JSON");
    assert!(!text.contains(env!("CARGO_MANIFEST_DIR")));
    assert!(text.contains(r#""ready":{"socket":"/run/containerd/containerd.sock"}"#), "{text}");
    assert!(text.contains(r#""minimum-size":"8GiB""#), "{text}");
}

#[test]
fn files_in_memory_know_directories() {
    let files = Memory(BTreeMap::from([(PathBuf::from("/a/b"), Vec::new())]));
    assert_eq!(files.kind(Path::new("/a")), Some(PathKind::Directory));
    assert_eq!(files.kind(Path::new("/a/b")), Some(PathKind::File));
    assert_eq!(files.kind(Path::new("/a/c")), None);
}
