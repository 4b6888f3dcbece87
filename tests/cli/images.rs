//! Whole builds: what they need, what they skip, what they refuse.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ksos_compose::image::{DiskImage, Slot};
use ksos_tests::{compose, run, runtime};

use super::{EXAMPLE, Project};

#[test]
fn a_kubesolo_image_is_built_from_a_local_asset() {
    let project = Project::new();
    // What the release asset looks like: a tar.gz with one static binary called kubesolo.
    let assets = project.path.join("assets");
    fs::create_dir_all(&assets).unwrap();
    fs::copy(runtime(), assets.join("kubesolo")).unwrap();
    let asset = assets.join("kubesolo.tar.gz");
    let tar = Command::new("tar").arg("-czf").arg(&asset).arg("-C").arg(&assets).arg("kubesolo").status().unwrap();
    assert!(tar.success());
    // Two manifests in one call build side by side.
    let mut command = project.command("build", "manifests/x86_64-generic.toml");
    command.args(["manifests/x86_64-cloud.toml", "--json", "--component"]);
    let outcome = run(command.arg(format!("kubesolo={}", asset.display()))).expect_code(0);
    let listed: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let artifacts = listed["artifacts"].as_array().unwrap();
    assert_eq!(artifacts.len(), 2, "{}", outcome.stdout);
    for artifact in artifacts {
        let path = project.path.join(artifact["path"].as_str().unwrap());
        let sum = run(Command::new("sha256sum").arg(&path)).expect_code(0);
        assert!(sum.stdout.starts_with(artifact["sha256"].as_str().unwrap()), "--json tells the SHA-256");
        assert_eq!(artifact["size"], fs::metadata(&path).unwrap().len());
    }
}

#[test]
fn a_build_needs_no_path_and_a_further_one_does_nothing() {
    let project = Project::new();
    // Without PATH the C library would look in /bin and /usr/bin.
    let nothing = project.path.join("nothing");
    fs::create_dir(&nothing).unwrap();
    let outcome = run(project.build().arg("--fresh").env("PATH", &nothing)).expect_code(0);
    let ran = outcome.stderr.lines().find(|line| line.contains(" steps ran")).unwrap_or_default();
    assert!(!ran.is_empty() && !ran.contains(" 0 of "), "{}", outcome.stderr);
    let image = fs::metadata(project.image()).unwrap();
    assert!(image.blocks() * 512 < 150 << 20, "{} bytes on disk for less than 80 MB of content", image.blocks() * 512);
    // What was touched within the clock's granularity is looked at by content; after that, the times are enough.
    std::thread::sleep(Duration::from_millis(1500));
    run(&mut project.build()).expect_code(0);
    let outcome = run(&mut project.build()).expect_code(0);
    assert!(outcome.stderr.contains("nothing changed"), "{}", outcome.stderr);
}

#[test]
fn explain_says_which_file_changed() {
    let project = Project::new();
    run(&mut project.build()).expect_code(0);
    fs::write(project.path.join("examples/containerd-node/etc/motd"), "hello\n").unwrap();
    let outcome = run(&mut project.command("explain", EXAMPLE)).expect_code(0);
    assert!(outcome.stdout.contains("root: input overlay node changed"), "{}", outcome.stdout);
    assert!(!outcome.stdout.contains("unpack"), "{}", outcome.stdout);
}

#[test]
fn a_service_without_its_program_fails_the_build_and_keeps_the_old_image() {
    let project = Project::new();
    run(&mut project.build()).expect_code(0);
    let before = written(&project);
    project.edit(EXAMPLE, "command = [\"/usr/bin/containerd\"", "command = [\"/usr/bin/contained\"");
    let outcome = run(&mut project.build()).expect_code(1);
    for text in ["/usr/bin/contained", "[service]", "hint:"] {
        assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
    }
    assert_eq!(written(&project), before, "everything is as it was, and nothing is half-written");
}

/// Returns what is in the directory of a project's outputs: names, times and sizes.
fn written(project: &Project) -> Vec<(std::ffi::OsString, std::time::SystemTime, u64)> {
    let entries = fs::read_dir(project.path.join("out")).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        (entry.file_name(), metadata.modified().unwrap(), metadata.len())
    });
    let mut entries: Vec<_> = entries.collect();
    entries.sort();
    entries
}

#[test]
fn a_root_that_does_not_fit_its_slot_fails_the_build() {
    let project = Project::new();
    project.edit("manifests/base.toml", "size = \"512MiB\"", "size = \"64MiB\"");
    let outcome = run(&mut project.build()).expect_code(1);
    assert!(outcome.stderr.contains("headroom") && outcome.stderr.contains("[budget]"), "{}", outcome.stderr);
    assert!(!project.image().exists());
}

#[test]
fn locked_and_frozen_refuse_what_the_lock_does_not_have() {
    let project = Project::new();
    let lock = project.path.join("examples/containerd-node.lock");
    let outcome = run(project.build().arg("--locked")).expect_code(1);
    assert!(outcome.stderr.contains("containerd is not in it"), "{}", outcome.stderr);
    assert!(!lock.exists());
    run(&mut project.build()).expect_code(0);
    let text = fs::read(&lock).unwrap();
    run(project.build().args(["--frozen", "--fresh"])).expect_code(0);
    assert_eq!(fs::read(&lock).unwrap(), text);
    // Right after the lock was made there is nothing newer.
    let outcome = run(compose(&project.path).args(["update", "--dry-run", "--manifest", EXAMPLE])).expect_code(0);
    assert!(outcome.stdout.contains("nothing newer"), "{}", outcome.stdout);
}

#[test]
fn a_killed_build_leaves_no_half_image_and_the_next_one_gives_the_same_bytes() {
    let undisturbed = Project::new();
    run(&mut undisturbed.build()).expect_code(0);
    let expected = sha256(&undisturbed.image());
    let project = Project::new();
    let lock = "examples/containerd-node.lock";
    fs::copy(undisturbed.path.join(lock), project.path.join(lock)).unwrap();
    // While steps run, as soon as the image is begun, and when a good part of it is written.
    let begun = project.path.join("out/.containerd-node-0.1.0-x86_64.tmp");
    let written = || files(&begun).map(|path| fs::metadata(path).map_or(0, |file| file.blocks() * 512)).sum::<u64>();
    let (mut reached, mut parts) = (0, Vec::new());
    for least in [0, 1, 16 << 20] {
        let mut child = project.build().arg("--fresh").stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            let part = written();
            if (least == 0 && start.elapsed() > Duration::from_millis(200)) || (least > 0 && part >= least) {
                child.kill().unwrap();
                reached += 1;
                parts.push(part);
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        child.wait().unwrap();
        assert!(!project.image().exists() || sha256(&project.image()) == expected, "whole or not at all: {parts:?}");
    }
    assert_eq!(reached, 3, "no build was quicker than its killer");
    run(&mut project.build()).expect_code(0);
    assert_eq!(sha256(&project.image()), expected);
    assert!(!begun.exists(), "what killed builds left is gone");
}

/// Returns the files below a directory, none when it is not there or goes meanwhile.
fn files(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().map_while(Result::ok);
    entries.map(|entry| entry.path())
}

fn sha256(path: &Path) -> String {
    run(Command::new("sha256sum").arg(path)).expect_code(0).stdout[..64].to_owned()
}

#[test]
fn two_builds_of_one_manifest_at_once_write_one_whole_image() {
    let project = Project::new();
    run(&mut project.build()).expect_code(0);
    let expected = sha256(&project.image());
    fs::remove_file(project.image()).unwrap();
    let start = || project.build().args(["--fresh", "--quiet"]).stdout(Stdio::null()).spawn().unwrap();
    let (mut one, mut two) = (start(), start());
    assert!(one.wait().unwrap().success() && two.wait().unwrap().success());
    assert_eq!(sha256(&project.image()), expected);
    let hidden = files(&project.path.join("out")).filter(|path| path.file_name().unwrap().as_bytes()[0] == b'.');
    assert_eq!(hidden.collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

#[test]
fn two_builds_at_once_share_a_cache() {
    let (left, right) = (Project::new(), Project::new());
    let start = |project: &Project| project.build().arg("--quiet").stdout(Stdio::null()).spawn().unwrap();
    let (mut one, mut two) = (start(&left), start(&right));
    assert!(one.wait().unwrap().success() && two.wait().unwrap().success());
    run(Command::new("cmp").arg(left.image()).arg(right.image())).expect_code(0);
}

#[test]
fn damaged_cache_entries_are_found_and_made_again() {
    let project = Project::new();
    let cache = project.path.join("cache");
    run(project.build().env("KSOS_CACHE", &cache)).expect_code(0);
    // The largest blobs: packages, packs and the root image. Same size, other bytes.
    let mut blobs = walk(&cache.join("v1/blobs"));
    blobs.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    for path in &blobs[..3] {
        let size = fs::metadata(path).unwrap().len() as usize;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(path, vec![0x5a; size]).unwrap();
    }
    let on_cache =
        |arguments: &[&str]| run(compose(&project.path).env("KSOS_CACHE", &cache).arg("cache").args(arguments));
    let outcome = on_cache(&["verify"]).expect_code(1);
    assert!(outcome.stdout.contains("3 damaged"), "{}", outcome.stdout);
    run(project.build().env("KSOS_CACHE", &cache).arg("--fresh")).expect_code(0);
    on_cache(&["verify"]).expect_code(0);
    assert!(on_cache(&["ls"]).expect_code(0).stdout.contains("blobs"));
    on_cache(&["gc", "--max-size", "1MiB"]).expect_code(0);
    let left: u64 = walk(&cache.join("v1/blobs")).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(left <= 1 << 20, "{left}");
}

/// Changes one byte of a file of the cache, as a disk does it that goes bad.
fn flip(path: &Path, position: u64) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], position).unwrap();
}

/// Finds a file of an unpacked package in the cache: the pack, and a byte in the middle of the file.
fn in_pack(blobs: &Path, start: &str) -> (PathBuf, u64) {
    let found = walk(blobs).iter().find_map(|path| {
        let mut head = [0; 10];
        fs::File::open(path).unwrap().read_exact_at(&mut head, 0).ok().filter(|()| head == *b"{\"format\":")?;
        let index: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).ok()?;
        let entries = index["entries"].as_array()?;
        let entry = entries.iter().find(|entry| entry["path"].as_str().unwrap().starts_with(start))?;
        let file = &entry["node"]["file"];
        let pack = index["pack"].as_str()?;
        let position = file["offset"].as_u64()? + file["size"].as_u64()? / 2;
        Some((blobs.join(&pack[..2]).join(pack), position))
    });
    found.unwrap_or_else(|| panic!("no package has {start}"))
}

#[test]
fn a_byte_that_changed_in_the_cache_never_comes_into_an_image() {
    let project = Project::new();
    let cache = project.path.join("cache");
    // A download that is one plain file stands for a release asset.
    let assets = project.path.join("assets");
    fs::create_dir(&assets).unwrap();
    fs::write(assets.join("tool"), "a plain file of some bytes\n".repeat(100)).unwrap();
    let tool = sha256(&assets.join("tool"));
    let server = super::sources::serve(assets);
    let text = fs::read_to_string(project.path.join(EXAMPLE)).unwrap();
    let component = format!(
        "\n[components.tool]\nsource = \"http\"\nurl = \"{server}/tool\"\nformat = \"raw\"\n\
         install = [{{ from = \"tool\", to = \"usr/share/tool\", mode = \"0644\" }}]\nsha256 = {{ x86_64 = \"{tool}\" }}\n"
    );
    fs::write(project.path.join(EXAMPLE), text + &component).unwrap();
    let build = |options: &[&str]| {
        let mut command = project.build();
        run(command.env("KSOS_CACHE", &cache).args(options))
    };
    build(&[]).expect_code(0);
    let expected = sha256(&project.image());
    let blobs = cache.join("v1/blobs");
    let whole = |digest: &str| {
        let path = blobs.join(&digest[..2]).join(digest);
        let middle = fs::metadata(&path).unwrap().len() / 2;
        (path, middle)
    };
    let disk = DiskImage::open(&project.image()).unwrap();
    let slot = Slot::open(&disk, disk.partition(2).unwrap()).unwrap().unwrap();
    let part = |name| whole(&slot.digest(name).unwrap().unwrap().sha256.hex());
    let lock = fs::read_to_string(project.path.join("examples/containerd-node.lock")).unwrap();
    let line = lock.lines().find(|line| line.contains("name = \"shim-signed\"")).unwrap();
    let package = whole(line.split('"').find(|text| text.len() == 64).unwrap());

    for (what, (path, position), fresh) in [
        ("root file system", part("root.squashfs"), false),
        ("initramfs", part("kubesolo-os.gz"), false),
        ("kernel", in_pack(&blobs, "boot/vmlinuz-"), false),
        ("boot loader", in_pack(&blobs, "usr/lib/shim/shimx64.efi.signed"), false),
        ("package", package.clone(), true),
        ("plain download", whole(&tool), true),
    ] {
        flip(&path, position);
        // Something must be written.
        fs::rename(project.image(), project.path.join("old.img")).unwrap();
        let outcome = build(if fresh { &["--fresh"] } else { &[] }).expect_code(0);
        let name = path.file_name().unwrap().to_str().unwrap();
        let told = outcome.stderr.lines().any(|line| line.contains("the cache was damaged") && line.contains(name));
        assert!(told, "{what}: {}", outcome.stderr);
        assert_eq!(sha256(&project.image()), expected, "{what}");
    }

    // What cannot be fetched again fails, and the image stays.
    flip(&package.0, package.1);
    let outcome = build(&["--fresh", "--offline"]).expect_code(3);
    assert!(
        outcome.stderr.contains("shim-signed") && outcome.stderr.contains("not in the cache"),
        "{}",
        outcome.stderr
    );
    assert_eq!(sha256(&project.image()), expected);
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn verify_proves_an_image_or_names_what_differs() {
    let project = Project::new();
    run(&mut project.build()).expect_code(0);
    let image = project.image();
    let outcome = run(&mut project.command("verify", EXAMPLE)).expect_code(0);
    let sum = run(Command::new("sha256sum").arg(&image)).expect_code(0);
    assert!(outcome.stdout.starts_with(&sum.stdout[..64]), "{}", outcome.stdout);
    run(compose(&project.path).arg("diff").arg(&image).arg(&image)).expect_code(0);

    // Another file in the overlay: `diff` lists exactly it.
    let old = project.path.join("old.img");
    fs::rename(&image, &old).unwrap();
    fs::write(project.path.join("examples/containerd-node/etc/motd"), "hello\n").unwrap();
    run(&mut project.build()).expect_code(0);
    let outcome = run(compose(&project.path).arg("diff").arg(&old).arg(&image).arg("--json")).expect_code(1);
    assert!(outcome.stdout.contains("etc/motd"), "{}", outcome.stdout);
    assert!(!outcome.stdout.contains("usr/bin/containerd\""), "{}", outcome.stdout);
}

#[test]
fn a_part_alone_has_the_bytes_of_the_image_and_makes_no_build_stale() {
    let project = Project::new();
    run(&mut project.build()).expect_code(0);
    let outcome =
        run(project.build().args(["--only", "kernel,initramfs", "--only", "rootfs", "--json"])).expect_code(0);
    let listed: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let disk = DiskImage::open(&project.image()).unwrap();
    let slot = Slot::open(&disk, disk.partition(2).unwrap()).unwrap().unwrap();
    for (format, name, file) in [
        ("kernel", "vmlinuz", "vmlinuz"),
        ("rootfs", "root.squashfs", "root.squashfs"),
        ("initramfs", "kubesolo-os.gz", "initrd"),
    ] {
        let artifact = listed["artifacts"].as_array().unwrap().iter().find(|one| one["format"] == format).unwrap();
        let path = format!("out/containerd-node-0.1.0-x86_64.{file}");
        assert_eq!(artifact["path"], path);
        let digest = ksos_formats::Digest::of(&fs::read(project.path.join(path)).unwrap());
        assert_eq!(digest, slot.digest(name).unwrap().unwrap().sha256, "{name}");
        assert_eq!(artifact["sha256"], digest.hex());
    }
    // Steps that a part does not need do not run: a kernel needs no root that works.
    project.edit(EXAMPLE, "/usr/bin/containerd\", \"--config\"", "/usr/bin/missing\", \"--config\"");
    run(project.build().args(["--only", "kernel"])).expect_code(0);
    run(project.build().args(["--only", "rootfs"])).expect_code(1);
    project.edit(EXAMPLE, "/usr/bin/missing", "/usr/bin/containerd");
    let outcome = run(&mut project.build()).expect_code(0);
    assert!(outcome.stderr.contains("0 of "), "{}", outcome.stderr);
    run(project.build().args(["--only", "kernel", "--format", "disk"])).expect_code(2);
}
