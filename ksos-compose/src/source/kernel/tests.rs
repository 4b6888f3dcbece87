//! A kernel source of a few lines, whose `Makefile` answers as the kernel's does, and tools that say who they are.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::testing::has_tool;
use crate::tree::{Content, Entry, Meta, Node};

/// Options whose names begin with LOST_ do not survive, MODULES is as it is set, and what make was told is in the image.
const MAKEFILE: &str = r#"VERSION = 6
PATCHLEVEL = 12
SUBLEVEL = 9
EXTRAVERSION = -test
tinyconfig defconfig:
	@printf '# $@\nCONFIG_MODULES=y\n# CONFIG_BASE is not set\n' > .config
olddefconfig:
	@grep -v LOST_ .config > .config.new; mv .config.new .config
	@mkdir -p include/config; echo 6.12.9-test > include/config/kernel.release
bzImage Image:
	@mkdir -p arch/x86/boot arch/arm64/boot
	@printf '%s|' "$(ARCH)" "$(CROSS_COMPILE)" "$(LLVM)" "$$KBUILD_BUILD_TIMESTAMP" "$$KBUILD_BUILD_USER" "$$MORE" > image
	@cp image arch/x86/boot/bzImage; cp image arch/arm64/boot/Image
	@if [ -e fail ]; then for i in 1 2 3; do echo step $$i; done; echo 'x.c:1: error: no' >&2; exit 1; fi
	@printf 'kernel/fs/built.ko\n' > modules.builtin; : > modules.order
modules:
	@printf 'module %s' '$(KCFLAGS)' | sed 's|=.*=|=DIR=|' > x.ko
modules_install:
	@mkdir -p $(INSTALL_MOD_PATH)/lib/modules/6.12.9-test/kernel/fs
	@cp x.ko $(INSTALL_MOD_PATH)/lib/modules/6.12.9-test/kernel/fs/
	@ln -s "$$PWD" $(INSTALL_MOD_PATH)/lib/modules/6.12.9-test/build
	@$(DEPMOD)
"#;

/// Source, tools and cache of one test.
struct Place {
    directory: tempfile::TempDir,
    cache: Cache,
    source: Tree,
    fragments: Vec<Fragment>,
    required: Vec<Requirement>,
    environment: Vec<(OsString, OsString)>,
    arch: Arch,
    compiler: KernelCompiler,
    base: Base,
}

/// The tools that are there: foreign ones that the `Makefile` needs, and ours.
const FOREIGN: [&str; 10] = ["make", "grep", "mv", "mkdir", "cp", "ln", "sed", "true", "printf", "sh"];
const OURS: [&str; 12] = [
    "gcc",
    "ld",
    "flex",
    "bison",
    "bc",
    "perl",
    "aarch64-linux-gnu-gcc",
    "aarch64-linux-gnu-ld",
    "x86_64-linux-gnu-gcc",
    "x86_64-linux-gnu-ld",
    "clang",
    "ld.lld",
];

fn tarball(files: &[(&str, &str)]) -> Tree {
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, format!("linux-6.12.9/{name}"), text.as_bytes()).unwrap();
    }
    let bytes = builder.into_inner().unwrap().finish().unwrap();
    component(&[("usr/src/linux-source-6.12.tar.gz", &bytes)])
}

fn component(files: &[(&str, &[u8])]) -> Tree {
    let mut tree = Tree::new(0);
    for (path, bytes) in files {
        let entry = Entry { meta: Meta::root(0o644, 0), node: Node::File(Content::inline(*bytes)) };
        tree.insert(path, entry).unwrap();
    }
    tree
}

fn place() -> Option<Place> {
    if !has_tool("make") {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let tools = directory.path().join("tools");
    fs::create_dir_all(&tools).unwrap();
    for name in FOREIGN {
        let path = find_program(name, "/usr/local/bin:/usr/bin:/bin".as_ref()).unwrap();
        symlink(path, tools.join(name)).unwrap();
    }
    for name in OURS {
        let path = tools.join(name);
        fs::write_atomic(&path, format!("#!/bin/sh\necho {name} 1.0\n").as_bytes()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let environment = [("PATH", tools.as_os_str()), ("KCFLAGS", "-Dspoiled".as_ref()), ("MORE", "spoiled".as_ref())];
    Some(Place {
        cache: Cache::open(&directory.path().join("cache")).unwrap(),
        source: tarball(&[("Makefile", MAKEFILE), ("Kconfig", "config LOST_A\n\tdepends on NET\n")]),
        fragments: vec![Fragment { name: "one.config".to_owned(), text: "CONFIG_ONE=y\nCONFIG_BASE=m\n".to_owned() }],
        required: Vec::new(),
        environment: environment.map(|(name, value)| (name.into(), value.to_owned())).into(),
        arch: Arch::X86_64,
        compiler: KernelCompiler::Gcc,
        base: Base::Target("tinyconfig"),
        directory,
    })
}

impl Place {
    fn build(&self) -> Result<Built, KernelBuildError> {
        let Place { cache, source, fragments, required, environment, arch, compiler, base, .. } = self;
        let (arch, compiler) = (*arch, *compiler);
        let component = "kernel";
        let jobs = 2;
        let wanted = Build { source, base, fragments, required, arch, compiler, component, cache, environment, jobs };
        build(&wanted, &mut |_| ())
    }

    fn error(&self) -> String {
        self.build().map(|built| built.release).unwrap_err().to_string()
    }

    fn remove_tool(&self, name: &str) {
        fs::remove_file(&self.directory.path().join("tools").join(name)).unwrap();
    }

    fn left(&self) -> Vec<OsString> {
        fs::list(&self.cache.bucket("kernel")).unwrap()
    }
}

fn text(tree: &Tree, path: &str) -> String {
    let Some(Entry { node: Node::File(content), .. }) = tree.get(path) else { panic!("no {path}") };
    String::from_utf8(content.read(1 << 20).unwrap()).unwrap()
}

fn native() -> bool {
    std::env::consts::ARCH == "x86_64"
}

#[test]
fn a_kernel_is_built_and_laid_out_as_a_packaged_one() {
    let Some(place) = place() else { return };
    let built = place.build().unwrap();
    assert_eq!(built.release, "6.12.9-test");
    let tree = &built.unpacked.tree;
    let files: Vec<&str> = tree
        .iter()
        .filter(|(_, entry)| matches!(entry.node, Node::File(_) | Node::Symlink(_)))
        .map(|(path, _)| path)
        .collect();
    let expected = [
        "boot/config-6.12.9-test",
        "boot/vmlinuz-6.12.9-test",
        "usr/lib/modules/6.12.9-test/kernel/fs/x.ko",
        "usr/lib/modules/6.12.9-test/modules.builtin",
        "usr/lib/modules/6.12.9-test/modules.order",
    ];
    assert_eq!(files, expected);
    let cross = if native() { "" } else { "x86_64-linux-gnu-" };
    let image = text(tree, "boot/vmlinuz-6.12.9-test");
    // The time is that of the source's newest file; nothing else of the caller's environment gets through.
    assert_eq!(image, format!("x86_64|{cross}||2023-11-14T22:13:20Z|ksos||"));
    let config = text(tree, "boot/config-6.12.9-test");
    assert_eq!(config, "# tinyconfig\nCONFIG_MODULES=y\nCONFIG_BASE=m\nCONFIG_ONE=y\n");
    assert_eq!(text(tree, expected[2]), "module -ffile-prefix-map=DIR=/usr/src/linux");
    assert_eq!(crate::kernel::KernelFiles::find(tree).unwrap().release, "6.12.9-test");
    assert!(place.left().is_empty(), "{:?}", place.left());
    let other = super::tests::place().unwrap().build().unwrap();
    assert_eq!(other.unpacked.pack.blob.digest, built.unpacked.pack.blob.digest, "another directory, the same bytes");
}

#[test]
fn the_base_may_be_a_configuration_and_the_kernel_without_modules() {
    let Some(mut place) = place() else { return };
    let text = "CONFIG_BASE=y\nCONFIG_KEPT=\"x\"\n".to_owned();
    place.base = Base::Text(Fragment { name: "boot/config-1".to_owned(), text });
    let built = place.build().unwrap();
    let tree = &built.unpacked.tree;
    assert_eq!(super::tests::text(tree, "boot/config-6.12.9-test"), "CONFIG_KEPT=\"x\"\nCONFIG_BASE=m\nCONFIG_ONE=y\n");
    assert!(tree.get("usr/lib/modules/6.12.9-test/modules.builtin").is_some());
    assert!(tree.get("usr/lib/modules/6.12.9-test/kernel").is_none());
    place.base = Base::Text(Fragment { name: "page.html".to_owned(), text: "<html>".to_owned() });
    assert!(place.error().starts_with("page.html is not a kernel configuration"));
}

#[test]
fn a_lost_option_names_fragment_line_and_what_it_became() {
    let Some(mut place) = place() else { return };
    let text = "# two\nCONFIG_LOST_A=y\nCONFIG_KEPT=y\nCONFIG_LOST_B=m\n".to_owned();
    place.fragments.push(Fragment { name: "two.config".to_owned(), text });
    assert_eq!(
        place.error(),
        "kernel 6.12.9-test does not take every option:\n  \
         two.config:2: CONFIG_LOST_A=y became not set (Kconfig:1: depends on NET)\n  \
         two.config:4: CONFIG_LOST_B=m became not set (this kernel has no such option)"
    );
    assert!(place.left().is_empty(), "{:?}", place.left());
}

#[test]
fn what_the_image_requires_is_checked_before_anything_is_compiled() {
    let Some(mut place) = place() else { return };
    place.required = Requirement::parse_list("required.txt", "ONE=y\nBASE=y\nOTHER\n").unwrap();
    assert_eq!(
        place.error(),
        "kernel 6.12.9-test lacks options that the image requires:\n  required.txt:2: CONFIG_BASE=y, found m\n  \
         required.txt:3: CONFIG_OTHER=y or m, found not set"
    );
}

#[test]
fn every_missing_tool_is_named_with_its_packages() {
    let Some(mut place) = place() else { return };
    place.remove_tool("flex");
    place.remove_tool("bc");
    let error = place.build().map(|built| built.release).unwrap_err();
    assert_eq!(error.to_string(), "building a kernel needs what is not installed: bc, flex");
    assert_eq!(error.hint("kernel"), "Debian: apt-get install bc flex; Fedora: dnf install bc flex");
    assert!(fs::list(&place.cache.bucket("kernel")).is_err(), "nothing was unpacked");

    // What an option needs is known once there is a configuration. The gcc here finds every header.
    let Some(other) = super::tests::place() else { return };
    place = other;
    place.fragments[0].text = "CONFIG_KERNEL_ZSTD=y\nCONFIG_DEBUG_INFO_BTF=y\nCONFIG_OBJTOOL=y\n".to_owned();
    let error = place.build().map(|built| built.release).unwrap_err();
    assert_eq!(error.to_string(), "building a kernel needs what is not installed: pahole, zstd");
    let gcc = place.directory.path().join("tools/gcc");
    fs::write_atomic(&gcc, b"#!/bin/sh\n[ \"$1\" = --version ]\n").unwrap();
    std::fs::set_permissions(&gcc, std::fs::Permissions::from_mode(0o755)).unwrap();
    place.fragments[0].text = "CONFIG_OBJTOOL=y\nCONFIG_MODULE_SIG_FORMAT=y\n".to_owned();
    let error = place.build().map(|built| built.release).unwrap_err();
    assert_eq!(error.to_string(), "building a kernel needs what is not installed: libelf.h, openssl/opensslv.h");
    assert!(error.hint("kernel").contains("apt-get install libelf-dev libssl-dev;"), "{}", error.hint("kernel"));
}

#[test]
fn a_failing_make_shows_its_end_and_keeps_its_log() {
    let Some(mut place) = place() else { return };
    place.source = tarball(&[("Makefile", MAKEFILE), ("Kconfig", ""), ("fail", "")]);
    let error = place.error();
    assert!(error.starts_with("make bzImage modules: "), "{error}");
    for text in ["step 3\n", "x.c:1: error: no", "bzImage"] {
        assert!(error.contains(text), "no {text:?} in {error}");
    }
    assert_eq!(place.left(), ["kernel-x86_64.log"]);
    let path = place.cache.bucket("kernel").join("kernel-x86_64.log");
    assert!(error.ends_with(&format!("the whole log: {}", path.display())), "{error}");
    let log = fs::read_to_string(&path, 1 << 20).unwrap();
    assert!(log.starts_with("step 1\n") || log.starts_with("x.c"), "{log}");
}

#[test]
fn another_architecture_takes_its_cross_compiler() {
    let Some(mut place) = place() else { return };
    place.arch = Arch::Arm64;
    let image = |place: &Place| text(&place.build().unwrap().unpacked.tree, "boot/vmlinuz-6.12.9-test");
    let time = "2023-11-14T22:13:20Z|ksos||";
    if native() {
        assert_eq!(image(&place), format!("arm64|aarch64-linux-gnu-||{time}"));
    }
    place.compiler = KernelCompiler::Llvm;
    assert_eq!(image(&place), format!("arm64||1|{time}"));
    let identity = |place: &Place| tools::toolchain(place.arch, place.compiler, &place.environment).unwrap().identity;
    assert_eq!(identity(&place), "clang 1.0; ld.lld 1.0");
    if native() {
        place.compiler = KernelCompiler::Gcc;
        assert_eq!(identity(&place), "aarch64-linux-gnu-gcc 1.0; aarch64-linux-gnu-ld 1.0");
        place.remove_tool("aarch64-linux-gnu-gcc");
        let error = place.build().map(|built| built.release).unwrap_err();
        assert_eq!(error.to_string(), "building a kernel needs what is not installed: aarch64-linux-gnu-gcc");
        assert!(error.hint("k").contains("apt-get install gcc-aarch64-linux-gnu;"), "{}", error.hint("k"));
    }
}

#[test]
fn what_a_killed_build_left_goes() {
    let Some(place) = place() else { return };
    let left = place.cache.bucket("kernel").join("work-killed/source/linux");
    fs::create_dir_all(&left).unwrap();
    place.build().unwrap();
    assert!(place.left().is_empty(), "{:?}", place.left());
}

#[test]
fn the_source_may_be_a_directory_and_must_be_one_kernel() {
    let Some(mut place) = place() else { return };
    let from_tarball = place.build().unwrap().unpacked.tree;
    place.source = component(&[("linux/Makefile", MAKEFILE.as_bytes()), ("linux/Kconfig", b"")]);
    let built = place.build().unwrap();
    assert_eq!(text(&built.unpacked.tree, "boot/config-6.12.9-test"), text(&from_tarball, "boot/config-6.12.9-test"));
    // It has no times.
    assert!(text(&built.unpacked.tree, "boot/vmlinuz-6.12.9-test").contains("|2026-01-01T00:00:00Z|"));

    place.source = component(&[("usr/share/doc/readme", b"x")]);
    assert!(place.error().contains("has no kernel source: there is no linux-*.tar"), "{}", place.error());
    place.source = component(&[("linux-1.tar.xz", b"x"), ("linux-2.tar.gz", b"x")]);
    assert!(place.error().ends_with("there are linux-1.tar.xz, linux-2.tar.gz"), "{}", place.error());
    place.source = component(&[("linux-1.tar.xz", b"not xz")]);
    assert!(place.error().starts_with("cannot unpack linux-1.tar.xz: "), "{}", place.error());
    place.source = tarball(&[("README", "no kernel")]);
    assert!(place.error().ends_with("there is no directory with Makefile and Kconfig"), "{}", place.error());
}

#[test]
fn a_generated_key_is_said_to_be_not_reproducible() {
    let Some(mut place) = place() else { return };
    place.fragments[0].text = "CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_KEY=\"certs/signing_key.pem\"\n".to_owned();
    assert_eq!(place.build().unwrap().notes.len(), 1);
    place.fragments[0].text = "CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_KEY=\"\"\n".to_owned();
    assert!(place.build().unwrap().notes.is_empty());
}
