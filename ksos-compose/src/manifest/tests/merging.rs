//! Override rules.

use super::*;

fn loaded(texts: &[(&str, &str)]) -> Loaded {
    load_texts(texts).unwrap_or_else(|errors| panic!("{}", errors.render(Style::default())))
}

fn cmdline(texts: &[(&str, &str)]) -> Vec<String> {
    loaded(texts).manifest.kernel.cmdline
}

#[test]
fn tables_merge_and_lists_replace() {
    let loaded = loaded(&[("main.toml", "extends = \"base.toml\"\n[kernel]\ncmdline = [\"quiet\"]\n")]);
    assert_eq!(loaded.manifest.kernel.cmdline, ["quiet"]);
    assert_eq!(loaded.manifest.kernel.component, "kernel");
    assert_eq!(loaded.manifest.kernel.modules.len(), 2);
}

#[test]
fn lists_are_changed_in_place() {
    let text = "extends = \"base.toml\"\n[kernel]\ncmdline = { add = [\"quiet\"], remove = [\"console=ttyS0\"] }\n";
    assert_eq!(cmdline(&[("main.toml", text)]), ["quiet"]);
}

/// `a` and `b` both extend the base: the base is merged once, before both.
#[test]
fn later_files_win_and_a_shared_base_is_merged_once() {
    let a = "extends = \"base.toml\"\n[kernel]\ncmdline = { add = [\"a\"] }\n[image]\nhostname = \"a\"\n";
    let b = "extends = \"base.toml\"\n[kernel]\ncmdline = { add = [\"b\"] }\n[image]\nhostname = \"b\"\n";
    let main = "extends = [\"a.toml\", \"b.toml\"]\n[kernel]\ncmdline = { add = [\"main\"] }\n";
    let loaded = loaded(&[("main.toml", main), ("a.toml", a), ("b.toml", b)]);
    assert_eq!(loaded.manifest.kernel.cmdline, ["console=ttyS0", "a", "b", "main"]);
    assert_eq!(loaded.manifest.image.hostname, "b");
}

/// Overlays of the architecture come after all files, in the order of the files.
#[test]
fn overlays_of_the_architecture_come_last() {
    let base = "extends = \"base.toml\"\n[arch.x86_64.kernel]\ncmdline = { add = [\"one\"] }\n\
                [arch.arm64.kernel]\ncmdline = [\"arm\"]\n";
    let main = "extends = \"b.toml\"\narch.x86_64.kernel.cmdline = { add = [\"two\"] }\n\
                [kernel]\ncmdline = [\"main\"]\n";
    let texts = [("main.toml", main), ("b.toml", base)];
    assert_eq!(cmdline(&texts), ["main", "one", "two"]);
    let arm = load(Path::new("/m/main.toml"), Some(Arch::Arm64), &memory(&texts)).expect("valid");
    assert_eq!(arm.manifest.kernel.cmdline, ["arm"]);
    assert_eq!((arm.arch, arm.manifest.image.arch), (Arch::Arm64, Arch::Arm64));
}

#[test]
fn disabled_entries_are_gone() {
    let base = "extends = \"base.toml\"\n[files.\"/etc/a\"]\ncontent = \"\"\n[overlays.x]\nsource = \"keys\"\n\
                [users.u]\nuid = 5\n[components.c]\nsource = \"file\"\npath = \"vendor/extra\"\n\
                [container-images.i]\nreference = \"a:1\"\ncomponent = \"c\"\n[links.\"/b\"]\ntarget = \"a\"\n";
    let off = "files.\"/etc/a\".enabled = false\noverlays.x.enabled = false\nusers.u.enabled = false\n\
               components.c.enabled = false\ncontainer-images.i.enabled = false\nlinks.\"/b\".enabled = false\n\
               services.containerd.enabled = false\n";
    let on = loaded(&[("main.toml", base)]).manifest;
    assert_eq!((on.files.len(), on.overlays.len(), on.users.len(), on.components.len()), (1, 1, 1, 3));
    assert_eq!((on.container_images.len(), on.links.len(), on.services.len()), (1, 1, 1));
    let main = format!("extends = \"b.toml\"\n{off}");
    let off = loaded(&[("main.toml", &main), ("b.toml", base)]).manifest;
    assert_eq!((off.files.len(), off.overlays.len(), off.users.len(), off.components.len()), (0, 0, 0, 2));
    assert_eq!((off.container_images.len(), off.links.len(), off.services.len()), (0, 0, 0));
}

#[test]
fn a_disabled_entry_can_be_enabled_again() {
    let middle = "extends = \"base.toml\"\n[services.containerd]\nenabled = false\n";
    let main = "extends = \"b.toml\"\n[services.containerd]\nenabled = true\n";
    assert_eq!(loaded(&[("main.toml", main), ("b.toml", middle)]).manifest.services.len(), 1);
}

/// Keys that exclude each other: stating one drops the inherited others.
#[test]
fn alternatives_replace_each_other() {
    let main = "extends = \"base.toml\"\n[services.containerd]\nready = { tcp = 5 }\n\
                [components.loader]\nsource = \"file\"\npath = \"vendor/extra\"\n";
    let manifest = loaded(&[("main.toml", main)]).manifest;
    assert_eq!(manifest.services["containerd"].ready, ReadyProbe::Tcp(5));
    assert!(matches!(manifest.components["loader"].source, Source::File(_)));
    assert_eq!(manifest.components["loader"].into, Destination::Root);
    let middle =
        "extends = \"base.toml\"\n[container-images.i]\nreference = \"a:1\"\ncomponent = \"loader\"\nfiles = [\"x\"]\n";
    let main = "extends = \"b.toml\"\n[container-images.i]\narchive = \"vendor/extra\"\n";
    let manifest = loaded(&[("main.toml", main), ("b.toml", middle)]).manifest;
    assert!(matches!(manifest.container_images["i"].content, ImageContent::Archive(_)));
    let back = "extends = \"main2.toml\"\n[container-images.i]\ncomponent = \"loader\"\n";
    let manifest = loaded(&[("main.toml", back), ("main2.toml", main), ("b.toml", middle)]).manifest;
    assert!(matches!(&manifest.container_images["i"].content, ImageContent::Built(built) if built.files.is_empty()));
    // The digest belongs to the reference that was stated with it.
    let digest = "digest = \"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"\n";
    let pinned = format!("extends = \"base.toml\"\n[container-images.i]\nreference = \"a:1\"\n{digest}");
    for (change, kept) in [("plain-http = true\n", true), ("reference = \"a:2\"\n", false)] {
        let main = format!("extends = \"b.toml\"\n[container-images.i]\n{change}");
        let manifest = loaded(&[("main.toml", &main), ("b.toml", &pinned)]).manifest;
        assert_eq!(manifest.container_images["i"].digest.is_some(), kept, "{change}");
    }
}

#[test]
fn adding_what_is_there_is_a_warning() {
    let text = "extends = \"base.toml\"\n[kernel]\ncmdline = { add = [\"console=ttyS0\"] }\n";
    let loaded = loaded(&[("main.toml", text)]);
    assert_eq!(loaded.manifest.kernel.cmdline, ["console=ttyS0"]);
    let warnings: Vec<String> = loaded.warnings.iter().map(Diagnostic::to_string).collect();
    assert_eq!(warnings, ["/m/main.toml:3:20: \"console=ttyS0\" is in the inherited list `kernel.cmdline` already"]);
}

#[test]
fn odd_things_are_warnings() {
    let text = "extends = \"base.toml\"\n[kernel]\ncmdline = [\"rootwait\"]\nmodules = [\"a\", \"a\"]\n\
                [components.x]\nsource = \"http\"\nurl = \"https://example.com/\"\nversion = \"1\"\ninto = \"none\"\n";
    let loaded = loaded(&[("main.toml", text)]);
    let codes: Vec<Code> = loaded.warnings.iter().map(|warning| warning.code).collect();
    assert_eq!(codes, [Code::KernelParameter, Code::Duplicate, Code::Conflict, Code::Conflict]);
}

/// Paths are relative to the file that states them, also items that are added to an inherited list.
#[test]
fn paths_are_relative_to_their_file() {
    let base = "extends = \"../base.toml\"\n[kernel]\nrequired-options-files = [\"here\"]\n";
    let main = "extends = \"sub/b.toml\"\n[kernel]\nrequired-options-files = { add = [\"here\"] }\n";
    let texts = [("main.toml", main), ("sub/b.toml", base), ("sub/here", ""), ("here", "")];
    let paths: Vec<PathBuf> =
        loaded(&texts).manifest.kernel.required_options_files.into_iter().map(|path| path.resolved).collect();
    assert_eq!(paths, [PathBuf::from("/m/sub/here"), PathBuf::from("/m/here")]);
}

#[test]
fn paths_are_normalized() {
    for (path, normal) in
        [("a/./b/../c", "a/c"), ("../a", "../a"), ("/../a", "/a"), ("a/..", "."), ("../../x", "../../x")]
    {
        assert_eq!(layers::normalize(Path::new(path)), Path::new(normal));
    }
}
