use std::path::Path;

use super::*;
use crate::manifest::{DiskFiles, load};
use crate::source::apt::Pinned;
use crate::source::archive::Format;

fn example(arch: Arch) -> Manifest {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/containerd-node.toml");
    load(&path, Some(arch), &DiskFiles).unwrap().manifest
}

/// Every component resolved to something: apt components to one package each.
fn components(manifest: &Manifest, arch: Arch) -> BTreeMap<String, ResolvedComponent> {
    let resolve = |name: &String| {
        let pinned = Pinned {
            name: name.clone(),
            version: "1".into(),
            architecture: arch.debian().into(),
            repository: "debian".into(),
            path: format!("pool/{name}.deb"),
            size: 7,
            sha256: Digest::of(name.as_bytes()),
            source: name.clone(),
            section: String::new(),
        };
        let package = Package { pinned, component: name.clone(), urls: vec![format!("http://mirror/{name}.deb")] };
        match name.as_str() {
            "runtime" => Resolved::File {
                path: "/home/somebody/runtime".into(),
                name: "runtime".into(),
                digest: Digest::of(b"runtime"),
                size: 9,
                format: Some(Format::Plain),
            },
            _ => Resolved::Packages(vec![package]),
        }
    };
    manifest.components.keys().map(|name| (name.clone(), ResolvedComponent { content: resolve(name) })).collect()
}

fn planned(manifest: &Manifest, arch: Arch, epoch: u64) -> Plan {
    let overlays = BTreeMap::from([(
        "node".to_owned(),
        LocalTree { tree: crate::tree::Tree::new(0), digest: Digest::of(b"overlay") },
    )]);
    plan(&Inputs {
        manifest,
        arch,
        epoch,
        components: &components(manifest, arch),
        overlays: &overlays,
        images: &BTreeMap::new(),
        trust: None,
        required_options: &[],
        composer: "test",
    })
}

#[test]
fn the_plan_of_the_example_is_sound() {
    for arch in Arch::ALL {
        let plan = planned(&example(arch), arch, 1);
        assert_eq!(check::check(&plan), Vec::<String>::new());
        assert_eq!(plan.artifacts[0].file_name, format!("containerd-node-0.1.0-{arch}.img"));
        let labels: Vec<&str> = plan.disk.partitions.iter().map(|partition| partition.label.as_str()).collect();
        assert_eq!(labels, ["KSOSEFI", "KSOSSYSA", "KSOSSYSB", "KSOLODATA"]);
        assert_eq!(plan.disk.partition(PartitionRole::SlotB).unwrap().0, 3);
    }
}

#[test]
fn the_same_input_gives_the_same_plan_and_another_arch_other_identifiers() {
    let text = |plan: &Plan| serde_json::to_string(plan).unwrap();
    let manifest = example(Arch::X86_64);
    assert_eq!(text(&planned(&manifest, Arch::X86_64, 1)), text(&planned(&manifest, Arch::X86_64, 1)));
    let (one, two) = (planned(&manifest, Arch::X86_64, 1), planned(&example(Arch::Arm64), Arch::Arm64, 1));
    assert_ne!(one.disk.guid, two.disk.guid);
    assert_ne!(text(&planned(&manifest, Arch::X86_64, 1)), text(&planned(&manifest, Arch::X86_64, 2)));
}

#[test]
fn no_path_of_this_machine_and_no_mirror_is_in_a_plan() {
    let text = serde_json::to_string(&planned(&example(Arch::X86_64), Arch::X86_64, 1)).unwrap();
    assert!(!text.contains("/home/somebody") && !text.contains("http://mirror"), "{text}");
    assert!(!text.contains(env!("CARGO_MANIFEST_DIR")), "{text}");
}

#[test]
fn a_changed_service_concerns_the_root_alone() {
    let manifest = example(Arch::X86_64);
    let mut changed = manifest.clone();
    changed.services.get_mut("containerd").unwrap().command.push("--debug".into());
    let (one, two) = (planned(&manifest, Arch::X86_64, 1), planned(&changed, Arch::X86_64, 1));
    let differing: Vec<&str> = one
        .steps
        .iter()
        .zip(&two.steps)
        .filter(|(one, two)| one.parameters != two.parameters || one.inputs != two.inputs)
        .map(|(one, _)| one.name.as_str())
        .collect();
    assert_eq!(differing, ["root"]);
}

#[test]
fn the_check_finds_what_is_broken() {
    let mut plan = planned(&example(Arch::X86_64), Arch::X86_64, 1);
    let root = plan.steps.iter().position(|step| step.name == "root").unwrap();
    plan.steps.swap(0, root);
    let twin = plan.steps[3].clone();
    plan.steps.push(twin);
    plan.steps[5].parameters.insert("path".into(), "\"/home/somebody\"".into());
    plan.disk.partitions[1].guid = plan.disk.partitions[0].guid;
    let broken = check::check(&plan).join("\n");
    for text in ["no earlier step", "two steps are named", "a path of this machine", "two partitions have one GUID"] {
        assert!(broken.contains(text), "no {text:?} in {broken}");
    }
}

/// The example's kernel, built, and Tiny Core's base, as two components of the example.
fn with_sources(toolchain: &str, option: &str, epoch: u64) -> Plan {
    use crate::manifest::{DiskFiles, load};
    use crate::source::kernel::{Base, Fragment};
    use crate::source::tinycore::{Kind, PinnedFile};
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/custom-kernel.toml");
    let manifest = load(&path, Some(Arch::X86_64), &DiskFiles).unwrap().manifest;
    let mut components = components(&manifest, Arch::X86_64);
    let build = KernelBuild {
        component: "built-kernel".into(),
        from: "linux-source".into(),
        base: KernelBuildBase::Known(Base::Target("tinyconfig")),
        fragments: vec![Fragment { name: "own.config".into(), text: option.into() }],
        compiler: crate::manifest::KernelCompiler::Gcc,
        toolchain: toolchain.into(),
    };
    components.insert("built-kernel".into(), ResolvedComponent { content: Resolved::Kernel(build) });
    let file = |name: &str, kind| TinyCoreFile {
        pinned: PinnedFile {
            name: name.into(),
            path: format!("tcz/{name}"),
            size: 7,
            sha256: Digest::of(name.as_bytes()),
            version: None,
            license: None,
        },
        kind,
        place: TinyCorePlace::Urls(vec![format!("http://mirror/tcz/{name}")]),
    };
    let files = vec![file("core.gz", Kind::Base), file("b.tcz", Kind::Extension), file("a.tcz", Kind::Extension)];
    components.insert("base".into(), ResolvedComponent { content: Resolved::TinyCore(files) });
    let overlays = BTreeMap::new();
    plan(&Inputs {
        manifest: &manifest,
        arch: Arch::X86_64,
        epoch,
        components: &components,
        overlays: &overlays,
        images: &BTreeMap::new(),
        trust: None,
        required_options: &[],
        composer: "test",
    })
}

fn step<'a>(plan: &'a Plan, name: &str) -> &'a Step {
    plan.steps.iter().find(|step| step.name == name).unwrap_or_else(|| panic!("there is no step {name}"))
}

#[test]
fn a_kernel_is_built_after_its_source_and_from_what_counts_alone() {
    let plan = with_sources("gcc 1", "CONFIG_A=y", 1);
    assert_eq!(check::check(&plan), Vec::<String>::new());
    let built = step(&plan, "kernel built-kernel");
    assert!(built.inputs.contains_key("linux-source_1_amd64"), "{:?}", built.inputs);
    let index = step(&plan, "kernel");
    assert!(matches!(&index.inputs["built-kernel"], Input::Output { step, .. } if step == "kernel built-kernel"));
    // Another time is no other kernel; another compiler or option is.
    let parameters = |toolchain: &str, option: &str, epoch| {
        step(&with_sources(toolchain, option, epoch), "kernel built-kernel").parameters.clone()
    };
    assert_eq!(parameters("gcc 1", "CONFIG_A=y", 2), built.parameters);
    assert_ne!(parameters("gcc 2", "CONFIG_A=y", 1), built.parameters);
    assert_ne!(parameters("gcc 1", "CONFIG_A=m", 1), built.parameters);
}

#[test]
fn a_tiny_core_base_is_merged_in_its_order() {
    let plan = with_sources("gcc 1", "", 1);
    let (part, _) = &plan.parts["base"];
    assert_eq!(part.inputs, ["base core.gz", "base b.tcz", "base a.tcz"]);
    let unpack = step(&plan, "unpack base core.gz");
    assert_eq!(unpack.parameters["kind"], "\"base\"");
    assert!(matches!(&unpack.inputs["blob"], Input::Output { step, .. } if step == "fetch base core.gz"));
    let text = serde_json::to_string(&plan).unwrap();
    assert!(!text.contains("http://mirror"), "{text}");
}
