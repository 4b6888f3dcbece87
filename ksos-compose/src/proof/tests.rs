#![expect(clippy::disallowed_methods, reason = "reads the environment of the test")]

use std::collections::BTreeMap;

use ksos_formats::boot::RootMode;
use ksos_formats::runtime::{LogTarget, ReadyProbe, RestartPolicy};

use super::elf::tests::ElfBuilder;
use super::*;
use crate::tree::{Content, Entry, Meta, Node};

fn put(tree: &mut Tree, path: &str, mode: u32, bytes: impl Into<std::sync::Arc<[u8]>>) {
    tree.insert(path, Entry { meta: Meta::root(mode, 0), node: Node::File(Content::inline(bytes)) }).unwrap();
}

fn link(tree: &mut Tree, path: &str, target: &str) {
    tree.insert(path, Entry { meta: Meta::root(0o777, 0), node: Node::Symlink(target.to_owned()) }).unwrap();
}

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// A small sound root: merged /usr, glibc, a library, a program, a script, a module.
fn root() -> Tree {
    let mut tree = Tree::new(0);
    link(&mut tree, "lib", "usr/lib");
    link(&mut tree, "lib64", "usr/lib64");
    link(&mut tree, "bin", "usr/bin");
    link(&mut tree, "usr/lib64/ld-linux-x86-64.so.2", "../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
    link(&mut tree, "etc/mtab", "../proc/self/mounts");
    put(
        &mut tree,
        &format!("{LIBRARIES}/ld-linux-x86-64.so.2"),
        0o755,
        ElfBuilder::library("ld-linux-x86-64.so.2").build(),
    );
    let libc = ElfBuilder::library("libc.so.6").defines(&["GLIBC_2.2.5", "GLIBC_2.34"]);
    put(&mut tree, &format!("{LIBRARIES}/libc.so.6"), 0o755, libc.build());
    let library = ElfBuilder::library("libx.so.1").needs("libc.so.6", &["GLIBC_2.2.5"]);
    put(&mut tree, &format!("{LIBRARIES}/libx.so.1.2"), 0o644, library.build());
    link(&mut tree, &format!("{LIBRARIES}/libx.so.1"), "libx.so.1.2");
    let program = ElfBuilder::program().needs("libx.so.1", &[]).needs("libc.so.6", &["GLIBC_2.34"]);
    put(&mut tree, "usr/bin/program", 0o755, program.build());
    put(&mut tree, "usr/bin/sh", 0o755, ElfBuilder::program().needs("libc.so.6", &[]).build());
    put(&mut tree, "usr/bin/script", 0o755, *b"#! /bin/sh -e\nexit\n");
    let modules = "usr/lib/modules/6.1";
    put(&mut tree, &format!("{modules}/kernel/fs/overlay.ko"), 0o644, *b"\x7fELF not looked at");
    put(&mut tree, &format!("{modules}/modules.dep"), 0o644, *b"kernel/fs/overlay.ko:\n");
    put(&mut tree, &format!("{modules}/modules.builtin"), 0o644, *b"kernel/fs/ext4.ko\n");
    tree
}

fn service(command: &[&str]) -> ServiceConfig {
    ServiceConfig {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        environment: BTreeMap::new(),
        after: Vec::new(),
        restart: RestartPolicy::Always,
        restart_delay_ms: 0,
        restart_delay_max_ms: 0,
        stop_timeout_ms: 0,
        ready: ReadyProbe::Started,
        required: true,
        oom_score_adjust: 0,
        limit_nofile: None,
        limit_nproc: None,
        limit_core: None,
        working_directory: None,
        pre_start: Vec::new(),
        log: LogTarget::File,
        apparmor: None,
    }
}

const ROOMY: Budgets = Budgets {
    slot_size: 512 << 20,
    slot_used: 100 << 20,
    esp_size: 256 << 20,
    esp_used: 5 << 20,
    data_size: 64 << 20,
    headroom: 10,
    memory: 512 << 20,
    root_mode: RootMode::Slot,
    root_image: 90 << 20,
    initramfs: 3 << 20,
    initramfs_unpacked: 8 << 20,
    services: 0,
};

/// Owns what an [`Input`] borrows.
struct Image {
    root: Tree,
    initramfs: Tree,
    config: KernelConfig,
    requirements: Vec<Requirement>,
    root_modules: Vec<String>,
    services: BTreeMap<String, ServiceConfig>,
    cmdline: Vec<String>,
    budgets: Budgets,
    exempt: Vec<(Rule, String)>,
}

impl Image {
    fn sound() -> Self {
        let mut initramfs = Tree::new(0);
        put(&mut initramfs, "init", 0o755, ElfBuilder::static_program().build());
        Image {
            root: root(),
            initramfs,
            config: KernelConfig::parse("config", "CONFIG_A=y\n").unwrap(),
            requirements: vec![Requirement::parse("manifest", "A").unwrap()],
            root_modules: vec!["overlay".to_owned(), "ext4".to_owned()],
            services: BTreeMap::from([("main".to_owned(), service(&["/usr/bin/program", "-x"]))]),
            cmdline: vec!["console=tty0".to_owned(), "console=ttyS0".to_owned(), "quiet".to_owned()],
            budgets: ROOMY,
            exempt: Vec::new(),
        }
    }

    fn findings(&self) -> Vec<Finding> {
        let absent: Vec<_> = ABSENT.iter().map(|(glob, why)| ((*glob).to_owned(), (*why).to_owned())).collect();
        let input = Input {
            arch: Arch::X86_64,
            root: &self.root,
            initramfs: &self.initramfs,
            kernel_release: "6.1",
            kernel_config: &self.config,
            requirements: &self.requirements,
            root_modules: &self.root_modules,
            initramfs_modules: &[],
            denied_modules: &["sound".to_owned(), "drivers/gpu".to_owned()],
            services: &self.services,
            cmdline: &self.cmdline,
            budgets: self.budgets,
            runtime_paths: &["/opt/state".to_owned()],
            absent: &absent,
            exempt: &self.exempt,
        };
        prove(&input, &MemoryFactCache::default()).unwrap()
    }

    /// The failures as one line each, hints left out.
    fn failures(&self) -> Vec<String> {
        let failures = self.findings().into_iter().filter(|finding| finding.severity == Severity::Failure);
        failures.map(|finding| finding.to_string().lines().next().unwrap_or_default().to_owned()).collect()
    }
}

/// A fault, what it changes, and how the failures read.
type Fault = (&'static str, fn(&mut Image), &'static [&'static str]);

#[test]
fn a_sound_image_has_no_failure() {
    assert_eq!(Image::sound().failures(), [] as [&str; 0]);
}

#[test]
fn every_elf_fault_is_found_and_named() {
    let table: &[Fault] = &[
        (
            "missing library",
            |image| assert_eq!(image.root.remove("usr/lib/x86_64-linux-gnu/libx.so.1"), 1),
            &["/usr/bin/program: needs libx.so.1, which is not in the image [elf-library]"],
        ),
        (
            "library where ld.so does not look",
            |image| {
                image.root.remove("usr/lib/x86_64-linux-gnu/libx.so.1");
                put(&mut image.root, "usr/lib/private/libx.so.1", 0o644, ElfBuilder::library("libx.so.1").build());
            },
            &["/usr/bin/program: needs libx.so.1, which the dynamic linker does not find; \
               /usr/lib/private/libx.so.1 is not where it looks [elf-library]"],
        ),
        (
            "missing version",
            |image| {
                let libc = ElfBuilder::library("libc.so.6").defines(&["GLIBC_2.2.5"]);
                put(&mut image.root, "usr/lib/x86_64-linux-gnu/libc.so.6", 0o755, libc.build());
            },
            &["/usr/bin/program: needs version GLIBC_2.34 of libc.so.6, which \
               /usr/lib/x86_64-linux-gnu/libc.so.6 does not have [elf-version]"],
        ),
        (
            "missing interpreter",
            |image| {
                let program = ElfBuilder::program().interpreter("/lib/ld-none.so.1");
                put(&mut image.root, "usr/bin/odd", 0o755, program.build());
            },
            &["/usr/bin/odd: its interpreter /lib/ld-none.so.1 is not in the image [elf-interpreter]"],
        ),
        (
            "wrong architecture",
            |image| put(&mut image.root, "usr/bin/odd", 0o755, ElfBuilder::static_program().machine(183).build()),
            &["/usr/bin/odd: is for ELF machine 183, the image for x86_64 (62) [elf-machine]"],
        ),
        (
            "library of another architecture in the way",
            |image| {
                let foreign = ElfBuilder::library("libx.so.1").machine(183);
                put(&mut image.root, "usr/lib/x86_64-linux-gnu/libx.so.1.2", 0o644, foreign.build());
            },
            &[
                "/usr/lib/x86_64-linux-gnu/libx.so.1.2: is for ELF machine 183, the image for x86_64 (62) [elf-machine]",
                "/usr/bin/program: needs libx.so.1, which is not in the image [elf-library]",
            ],
        ),
        (
            "truncated",
            |image| put(&mut image.root, "usr/bin/odd", 0o755, ElfBuilder::program().build()[..90].to_vec()),
            &["/usr/bin/odd: cannot be read as an ELF file: its program header table lies outside the file or is too \
               large [elf-machine]"],
        ),
        (
            "second libc",
            |image| {
                put(&mut image.root, "usr/lib/ld-musl-x86_64.so.1", 0o755, ElfBuilder::library("libc.so").build());
                let program = ElfBuilder::program().interpreter("/lib/ld-musl-x86_64.so.1");
                put(&mut image.root, "usr/bin/odd", 0o755, program.needs("libc.musl-x86_64.so.1", &[]).build());
            },
            &["/usr/bin/odd: two C libraries: 3 files use glibc (/usr/bin/program), 2 use musl [one-libc]"],
        ),
        (
            "second copy of libc",
            |image| put(&mut image.root, "opt/libc.so.6", 0o755, ElfBuilder::library("libc.so.6").build()),
            &[
                "/usr/lib/x86_64-linux-gnu/libc.so.6: a second copy of the C library; the first is /opt/libc.so.6 [one-libc]",
            ],
        ),
        (
            "plugin without its library",
            |image| {
                let plugin = ElfBuilder::library("plugin.so").needs("libgone.so.2", &[]);
                put(&mut image.root, "usr/lib/plugins/plugin.so", 0o644, plugin.build());
            },
            &["/usr/lib/plugins/plugin.so: needs libgone.so.2, which is not in the image [elf-library]"],
        ),
    ];
    check(table);
}

fn check(table: &[Fault]) {
    for (name, change, expected) in table {
        let mut image = Image::sound();
        change(&mut image);
        assert_eq!(image.failures(), *expected, "{name}");
    }
}

#[test]
fn run_paths_are_searched_like_the_dynamic_linker_does() {
    let add = |image: &mut Image, program: ElfBuilder| {
        put(&mut image.root, "opt/app/bin/odd", 0o755, program.needs("libp.so", &[]).build());
        let first = ElfBuilder::library("libp.so").needs("libq.so", &[]);
        put(&mut image.root, "opt/app/lib/libp.so", 0o644, first.runpath("$ORIGIN").build());
        put(&mut image.root, "opt/app/lib/libq.so", 0o644, ElfBuilder::library("libq.so").build());
    };
    for program in [
        ElfBuilder::program().runpath("/none:$ORIGIN/../lib"),
        ElfBuilder::program().runpath("/opt/app/lib"),
        ElfBuilder::program().rpath("${ORIGIN}/../lib"),
    ] {
        let mut image = Image::sound();
        add(&mut image, program);
        assert_eq!(image.failures(), [] as [&str; 0]);
    }
    // A DT_RPATH is handed on to what is loaded; a DT_RUNPATH is not.
    for (program, failures) in
        [(ElfBuilder::program().rpath("$ORIGIN/../lib"), 0), (ElfBuilder::program().runpath("$ORIGIN/../lib"), 1)]
    {
        let mut image = Image::sound();
        add(&mut image, program);
        let first = ElfBuilder::library("libp.so").needs("libq.so", &[]);
        put(&mut image.root, "opt/app/lib/libp.so", 0o644, first.build());
        assert_eq!(image.failures().len(), failures);
    }
    // The configured directories count only with the cache that is made of them.
    let mut image = Image::sound();
    put(&mut image.root, "usr/bin/odd", 0o755, ElfBuilder::program().needs("libp.so", &[]).build());
    put(&mut image.root, "opt/lib/libp.so", 0o644, ElfBuilder::library("libp.so").build());
    put(&mut image.root, "etc/ld.so.conf", 0o644, *b"include /etc/ld.so.conf.d/*.conf\n");
    put(&mut image.root, "etc/ld.so.conf.d/opt.conf", 0o644, *b"# comment\n/opt/lib\n");
    assert_eq!(image.failures().len(), 1);
    put(&mut image.root, "etc/ld.so.cache", 0o644, *b"cache");
    assert_eq!(image.failures(), [] as [&str; 0]);
}

#[test]
fn every_file_fault_is_found_and_named() {
    let table: &[Fault] = &[
        (
            "script without interpreter",
            |image| put(&mut image.root, "usr/bin/odd", 0o755, *b"#!/usr/bin/python3\n"),
            &["/usr/bin/odd: its interpreter /usr/bin/python3 is not an executable of the image [script]"],
        ),
        (
            "env without program",
            |image| {
                put(&mut image.root, "usr/bin/env", 0o755, ElfBuilder::static_program().build());
                put(&mut image.root, "usr/bin/odd", 0o755, *b"#!/usr/bin/env perl\n");
                put(&mut image.root, "usr/bin/fine", 0o755, *b"#!/usr/bin/env sh\n");
                put(&mut image.root, "usr/share/doc/example", 0o644, *b"#!/usr/bin/perl\n");
            },
            &["/usr/bin/odd: its interpreter \"perl\" is in no directory of PATH [script]"],
        ),
        (
            "dangling and looping links",
            |image| {
                link(&mut image.root, "usr/bin/odd", "/usr/gone/../bin/none");
                link(&mut image.root, "usr/bin/ring", "ring");
                link(&mut image.root, "etc/state", "/opt/state/x");
                link(&mut image.root, "etc/resolv.conf", "../run/resolv.conf");
            },
            &[
                "/usr/bin/odd: leads to /usr/gone/../bin/none, but /usr/bin/none is not in the image [symbolic-link]",
                "/usr/bin/ring: leads to ring, which leads back to it [symbolic-link]",
            ],
        ),
        (
            "package manager and SSH server",
            |image| {
                put(&mut image.root, "usr/bin/dpkg-query", 0o755, ElfBuilder::static_program().build());
                put(&mut image.root, "usr/sbin/sshd", 0o755, ElfBuilder::static_program().build());
                put(&mut image.root, "var/lib/dpkg/status", 0o644, *b"");
            },
            &[
                "/usr/bin/dpkg-query: must not be in the image: package manager (usr/{bin,sbin}/{dpkg,dpkg-*}) [absence]",
                "/usr/sbin/sshd: must not be in the image: SSH server (usr/{bin,sbin}/sshd) [absence]",
                "/var/lib/dpkg/status: must not be in the image: package manager (var/lib/{dpkg,apt,rpm}/**) [absence]",
            ],
        ),
        (
            "dynamic init in the initramfs",
            |image| put(&mut image.initramfs, "init", 0o755, ElfBuilder::program().build()),
            &["initramfs:/init: its interpreter /lib64/ld-linux-x86-64.so.2 is not in the image [elf-interpreter]"],
        ),
    ];
    check(table);
}

#[test]
fn every_kernel_fault_is_found_and_named() {
    let table: &[Fault] = &[
        (
            "missing option",
            |image| image.requirements.push(Requirement::parse("required.txt:3", "B=y").unwrap()),
            &["CONFIG_B: CONFIG_B=y is required by required.txt:3, found not set [kernel-option]"],
        ),
        (
            "missing module",
            |image| image.root_modules.push("nf-tables".to_owned()),
            &["/usr/lib/modules/6.1/modules.dep: module nf_tables is asked for, but not in modules.dep [module]"],
        ),
        (
            "modules.dep and files disagree",
            |image| {
                let text = b"kernel/fs/overlay.ko: kernel/gone.ko\n";
                put(&mut image.root, "usr/lib/modules/6.1/modules.dep", 0o644, *text);
                put(&mut image.root, "usr/lib/modules/6.1/kernel/more.ko", 0o644, *b"");
            },
            &[
                "/usr/lib/modules/6.1/kernel/more.ko: modules.dep has no line for this module [module]",
                "/usr/lib/modules/6.1/modules.dep: lists kernel/gone.ko, which kernel/fs/overlay.ko needs, but the \
                 file is not in the image [module]",
            ],
        ),
        (
            "denied module",
            |image| {
                put(&mut image.root, "usr/lib/modules/6.1/kernel/sound/snd.ko", 0o644, *b"");
                let text = b"kernel/fs/overlay.ko:\nkernel/sound/snd.ko:\n";
                put(&mut image.root, "usr/lib/modules/6.1/modules.dep", 0o644, *text);
            },
            &["/usr/lib/modules/6.1/kernel/sound/snd.ko: no module of sound may be in the image [module-denied]"],
        ),
        (
            "another kernel's modules",
            |image| put(&mut image.root, "usr/lib/modules/5.0/kernel/x.ko", 0o644, *b""),
            &["/usr/lib/modules/5.0: modules of kernel 5.0, but the image boots 6.1 [module]"],
        ),
        (
            "no modules",
            |image| assert!(image.root.remove("usr/lib/modules") > 0),
            &["/usr/lib/modules/6.1: no modules of kernel 6.1, but 2 are asked for [module]"],
        ),
    ];
    check(table);
}

#[test]
fn every_fault_of_the_plan_is_found_and_named() {
    let table: &[Fault] = &[
        (
            "services",
            |image| {
                put(&mut image.root, "usr/bin/data", 0o644, *b"");
                for (name, command) in
                    [("a", "/usr/bin/gone"), ("b", "program"), ("c", "/usr/bin/data"), ("d", "/run/x")]
                {
                    image.services.insert(name.to_owned(), service(&[command]));
                }
                let mut late = service(&["/bin/program"]);
                late.pre_start = vec![vec!["/bin/gone".to_owned()]];
                late.ready = ReadyProbe::Command(Vec::new());
                late.working_directory = Some("/srv".to_owned());
                image.services.insert("e".to_owned(), late);
            },
            &[
                "services.a: command: /usr/bin/gone is not in the image (/usr/bin/gone is missing) [service]",
                "services.b: command: \"program\" is not an absolute path [service]",
                "services.c: command: /usr/bin/data is not an executable file (/usr/bin/data) [service]",
                "services.d: command: /run/x would exist at run time only, in a place that programs are not run from [service]",
                "services.e: pre-start: /bin/gone is not in the image (/usr/bin/gone is missing) [service]",
                "services.e: ready.command: is empty [service]",
                "services.e: working-directory: /srv is not a directory of the image [service]",
            ],
        ),
        (
            "slot and ESP too full, data too small",
            |image| image.budgets = Budgets { slot_used: 461 << 20, esp_used: 256 << 20, data_size: 1 << 20, ..ROOMY },
            &[
                "partitions.data: the data partition has 1.0 MiB, at least 16.0 MiB are needed [budget]",
                "partitions.esp: the EFI system partition's content has 256.0 MiB, but only 230.4 MiB of 256.0 MiB may \
                 be used (headroom 10 %) [budget]",
                "partitions.slot: the slot's content has 461.0 MiB, but only 460.8 MiB of 512.0 MiB may be used \
                 (headroom 10 %) [budget]",
            ],
        ),
        (
            "root in RAM too large",
            |image| image.budgets = Budgets { root_mode: RootMode::Ram, root_image: 400 << 20, ..ROOMY },
            &[
                "budgets.memory: running takes 488.0 MiB, but only 460.8 MiB of 512.0 MiB may be used (headroom 10 %) [budget]",
            ],
        ),
        (
            "no console",
            |image| image.cmdline = vec!["quiet".to_owned()],
            &["kernel.cmdline \"console=\": no console is given: nobody would see why a boot fails [command-line]"],
        ),
        (
            "bad parameters",
            |image| {
                let more = ["root=/dev/sda1", "quiet", "panic=1", "panic=2", "a b", "ksos.slot=a", "ksos.root=disk"];
                image.cmdline.extend(more.map(str::to_owned));
            },
            &[
                "kernel.cmdline \"a b\": kernel parameter \"a b\" contains ' '; parameters are printable ASCII without \
                 spaces, quotes or backslashes [command-line]",
                "kernel.cmdline \"ksos.root=disk\": is neither slot nor ram [command-line]",
                "kernel.cmdline \"ksos.slot=a\": is set by the boot loader [command-line]",
                "kernel.cmdline \"panic=2\": contradicts \"panic=1\": the kernel takes the last one [command-line]",
                "kernel.cmdline \"quiet\": is given twice [command-line]",
                "kernel.cmdline \"root=/dev/sda1\": must not be given: the initramfs finds the root itself [command-line]",
            ],
        ),
    ];
    check(table);
}

#[test]
fn privileged_files_are_listed_and_exemptions_make_notes() {
    let mut image = Image::sound();
    put(&mut image.root, "usr/bin/su", 0o4755, ElfBuilder::static_program().build());
    link(&mut image.root, "usr/bin/odd", "none");
    image.exempt.push((Rule::SymbolicLink, "usr/bin/*".to_owned()));
    let findings = image.findings();
    assert!(findings.iter().all(|finding| finding.severity == Severity::Note));
    let listed: Vec<String> = findings.iter().map(|finding| format!("{} {}", finding.rule, finding.path)).collect();
    assert_eq!(listed, ["symbolic-link usr/bin/odd", "privilege usr/bin/su"]);
}

/// A cache that counts what it is asked and what it learns.
#[derive(Default)]
struct CountingCache(MemoryFactCache, std::sync::atomic::AtomicUsize);

impl FactCache for CountingCache {
    fn get(&self, digest: &ksos_formats::Digest) -> Option<FileFacts> {
        self.0.get(digest)
    }

    fn put(&self, digest: &ksos_formats::Digest, facts: &FileFacts) {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.put(digest, facts);
    }
}

#[test]
fn a_known_content_is_not_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("program");
    let bytes = ElfBuilder::program().needs("libc.so.6", &["GLIBC_2.34"]).build();
    crate::effects::fs::write_atomic(&path, &bytes).unwrap();
    let content = Content::host_file(path, ksos_formats::Digest::of(&bytes), bytes.len() as u64);
    let mut tree = Tree::new(0);
    tree.insert("bin/x", Entry { meta: Meta::root(0o755, 0), node: Node::File(content) }).unwrap();
    let cache = CountingCache::default();
    let first = facts::collect(&tree, &cache).unwrap();
    drop(directory);
    assert_eq!(facts::collect(&tree, &cache).unwrap(), first);
    assert_eq!(cache.1.into_inner(), 1);
    let known = cache.0.into_map();
    let stored = serde_json::to_vec(&known).unwrap();
    assert_eq!(serde_json::from_slice::<BTreeMap<ksos_formats::Digest, FileFacts>>(&stored).unwrap(), known);
}

/// Measures the rules that read files on the directory `KSOS_TEST_ROOT`, when it is set.
#[test]
fn a_whole_root_is_read_in_a_moment() {
    let Some(root) = std::env::var_os("KSOS_TEST_ROOT") else {
        println!("skipped: KSOS_TEST_ROOT does not name an unpacked root");
        return;
    };
    let tree = host_tree(std::path::Path::new(&root));
    let cache = MemoryFactCache::default();
    for round in ["first", "cached"] {
        let start = std::time::Instant::now();
        let facts = facts::collect(&tree, &cache).unwrap();
        let read = start.elapsed();
        let mut findings = libraries::libraries(Place::Root, &tree, Arch::X86_64, &facts).unwrap();
        findings.extend(files::scripts(Place::Root, &tree, &facts, &[]));
        findings.extend(files::links(Place::Root, &tree, &[]));
        let bytes: u64 =
            tree.iter().map(|(_, entry)| if let Node::File(content) = &entry.node { content.size } else { 0 }).sum();
        println!(
            "{round}: {} entries, {} MB, {} programs and scripts: facts {read:?}, all {:?}, {} findings",
            tree.len(),
            bytes / 1_000_000,
            facts.len(),
            start.elapsed(),
            findings.len()
        );
        for finding in findings.iter().take(if round == "first" { 40 } else { 0 }) {
            println!("{finding}");
        }
    }
}

fn host_tree(root: &std::path::Path) -> Tree {
    use std::os::unix::fs::MetadataExt;
    let mut tree = Tree::new(0);
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in crate::effects::fs::list(&directory).unwrap() {
            let path = directory.join(entry);
            let metadata = crate::effects::fs::symlink_metadata(&path).unwrap();
            let Some(name) = path.strip_prefix(root).unwrap().to_str().map(str::to_owned) else { continue };
            let node = if metadata.is_dir() {
                pending.push(path);
                Node::Directory
            } else if metadata.is_symlink() {
                Node::Symlink(path.read_link().unwrap().to_str().unwrap().to_owned())
            } else {
                let digest = ksos_formats::Digest::of(name.as_bytes());
                Node::File(Content::host_file(path, digest, metadata.size()))
            };
            tree.insert(&name, Entry { meta: Meta::root(metadata.mode() & 0o7777, 0), node }).unwrap();
        }
    }
    tree
}
