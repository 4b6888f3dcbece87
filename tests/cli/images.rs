//! Whole builds: what they need, what they skip, what they refuse.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

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
    run(project.build().env_remove("PATH")).expect_code(0);
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
fn a_killed_build_leaves_no_half_image_and_the_next_one_finishes() {
    let project = Project::new();
    for delay in [200, 700, 1500] {
        let mut child = project.build().arg("--fresh").stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        // Whole or not at all.
        assert!(!project.image().exists() || fs::metadata(project.image()).unwrap().len() > 1 << 30);
    }
    run(&mut project.build()).expect_code(0);
    assert!(project.image().exists());
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
    use ksos_compose::image::{DiskImage, Slot};
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
