//! ISO images: live from a CD and from a stick, by UEFI (with Secure Boot where it says so) and by BIOS; installed from
//! there, and what is installed booted by both; disks that the installer leaves alone. And a disk image booted by BIOS.
//!
//! Each architecture is built once. What a person does in the boot loader's menu is edited into a copy of the image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ksos_tests::{Outcome, compose, repository, run};

/// Seconds for one boot. TCG on two busy processors is slow; a boot alone takes a tenth of it.
const TIMEOUT: &str = "600";
/// Where the first partition begins, in bytes: behind it, an installed disk is what the disk image is.
const HEAD: &str = "1048576";

/// What a build wrote.
struct Images {
    directory: tempfile::TempDir,
    disk: PathBuf,
    iso: PathBuf,
}

fn build(arch: &str) -> Images {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = compose(&repository());
    command.args(["build", "tests/fixtures/boot/iso.toml", "--locked", "--json", "--arch", arch, "--out"]);
    let outcome = run(command.arg(directory.path())).expect_code(0);
    let listed: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("--json prints JSON");
    let path = |index: usize, format: &str| {
        let artifact = &listed["artifacts"][index];
        assert_eq!(artifact["format"], format);
        PathBuf::from(artifact["path"].as_str().expect("an artifact has a path"))
    };
    Images { disk: path(0, "disk"), iso: path(1, "iso"), directory }
}

/// Returns the images for x86_64, which go when the last test lets go of them.
fn images() -> Arc<Images> {
    static IMAGES: Mutex<Weak<Images>> = Mutex::new(Weak::new());
    let mut shared = IMAGES.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let images = Arc::new(build("x86_64"));
        *shared = Arc::downgrade(&images);
        images
    })
}

/// Returns the path of a copy of `iso` whose menu is as `edit` makes it, without a pause.
fn edited(iso: &Path, directory: &Path, edit: &dyn Fn(&str) -> String) -> PathBuf {
    let mut bytes = fs::read(iso).expect("it was built");
    // Files begin at blocks of the volume and at clusters of the EFI image.
    let sectors = (0..bytes.len()).step_by(512);
    let starts: Vec<usize> = sectors.filter(|at| bytes[*at..].starts_with(b"# KubeSolo OS test-iso 1.0.0 (")).collect();
    assert_eq!(starts.len(), 2, "one on the volume, one in the EFI image");
    for start in starts {
        // The rest of the block is zeros.
        let length = bytes[start..].iter().position(|byte| *byte == 0).expect("a file ends");
        let text = String::from_utf8(bytes[start..start + length].to_vec()).expect("a script");
        // Comments make room.
        let code: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let changed = edit(&code.join("\n").replace("set timeout=5", "set timeout=0"));
        assert!(changed.contains("timeout=0") && changed.len() <= length, "{changed}");
        bytes[start..start + length].copy_from_slice(format!("{changed:length$}").as_bytes());
    }
    let path = directory.join(iso.file_name().expect("it has a name"));
    fs::write(&path, bytes).expect("written");
    path
}

/// The menu as it is.
fn plain(script: &str) -> String {
    script.to_owned()
}

fn boot(image: &Path, arguments: &[&str]) -> Outcome {
    let mut command = compose(&repository());
    command.arg("run").arg(image).args(["--memory", "512M", "--timeout", TIMEOUT]).args(arguments);
    run(&mut command)
}

/// Asserts that the node is ready, and that its line has all these facts.
#[track_caller]
fn expect_ready(outcome: Outcome, facts: &[&str]) -> Outcome {
    let outcome = outcome.expect_code(0);
    let line = outcome.stdout.lines().find(|line| line.contains("ksos: ready "));
    let line = line.unwrap_or_else(|| panic!("no ready line:\n{}\n{}", outcome.stdout, outcome.stderr));
    for fact in facts {
        assert!(line.split(' ').any(|word| word.trim() == *fact), "{fact} is not in: {line}");
    }
    outcome
}

#[track_caller]
fn expect_line(outcome: &Outcome, text: &str) {
    assert!(outcome.stdout.contains(text), "{text:?} is not in:\n{}\n{}", outcome.stdout, outcome.stderr);
}

/// Asserts that `disk` holds what the disk image holds, and that its partition table is good.
#[track_caller]
fn expect_installed(disk: &Path, image: &Path) {
    let size = fs::metadata(image).expect("it was built").len() - 2 * (1 << 20);
    let mut compare = Command::new("cmp");
    compare.args(["--ignore-initial", HEAD, "--bytes", &size.to_string()]).arg(disk).arg(image);
    run(&mut compare).expect_code(0);
    let table = run(Command::new("sgdisk").arg("-v").arg(disk)).expect_code(0);
    assert!(table.stdout.contains("No problems found"), "{}", table.stdout);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn from_a_cd_under_secure_boot_the_menu_installs_to_a_disk_that_is_named_which_boots_by_uefi() {
    let images = images();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = directory.path().join("disk.img");
    let install = |script: &str| {
        script.replace("set default=live", "set default=install").replace("ksos.install=auto", "ksos.install=/dev/vda")
    };
    let iso = edited(&images.iso, directory.path(), &install);
    let outcome = boot(&iso, &["--secure-boot", "--persist", text(&disk)]).expect_code(0);
    expect_line(&outcome, "install: test-iso 1.0.0 to /dev/vda, as the kernel command line asks for");
    expect_line(&outcome, "/dev/vda is installed and was read back; the machine is switched off");
    expect_installed(&disk, &images.disk);
    let outcome = boot(&disk, &["--arch", "x86_64", "--secure-boot", "--until", "ready", "--persist", text(&disk)]);
    let outcome = expect_ready(outcome, &["slot=a", "secure-boot=on", "boot=1"]);
    expect_line(&outcome, "(/dev/vda4, grown to ");
}

/// Returns a NoCloud volume as people make it: FAT on the whole stick.
fn seed_on_fat(directory: &tempfile::TempDir) -> PathBuf {
    let path = |name: &str| directory.path().join(name);
    let stick = path("stick.img");
    let mut mformat = Command::new("mformat");
    run(mformat.args(["-C", "-v", "CIDATA", "-T", "32768", "-h", "64", "-s", "32", "-i"]).arg(&stick).arg("::"))
        .expect_code(0);
    for (name, content) in [("user-data", "hostname: from-a-stick\n"), ("meta-data", "instance-id: stick-1\n")] {
        fs::write(path(name), content).expect("written");
        run(Command::new("mcopy").arg("-i").arg(&stick).arg(path(name)).arg("::")).expect_code(0);
    }
    stick
}

#[test]
fn from_a_stick_the_configuration_installs_to_the_only_disk_and_live_and_installed_system_share_the_data() {
    let images = images();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (disk, configuration) = (directory.path().join("disk.img"), directory.path().join("configuration"));
    fs::write(&configuration, "install:\n  disk: auto\n  then: live\n").expect("written");
    let iso = edited(&images.iso, directory.path(), &plain);
    let site = ["--until", "ready", "--config", text(&configuration), "--persist", text(&disk)];
    let outcome = boot(&iso, &[&["--usb", "--secure-boot"][..], &site].concat());
    let outcome = expect_ready(outcome, &["slot=-", "secure-boot=on", "boot=1"]);
    expect_line(&outcome, "(live from /dev/sd");
    expect_line(&outcome, "install: test-iso 1.0.0 to /dev/vda, as /dev/vdb:user-data asks for");
    expect_line(&outcome, "stage 30 data: ok ");

    // What is installed takes its configuration from a stick, whose disk the kernel finds late.
    let stick = format!("--qemu-arg=if=none,id=stick,format=raw,readonly=on,file={}", text(&seed_on_fat(&directory)));
    let arguments = ["--arch", "x86_64", "--bios", "--until", "ready", "--persist", text(&disk)];
    let usb = ["--qemu-arg=-device", "--qemu-arg=qemu-xhci", "--qemu-arg=-drive", &stick, "--qemu-arg=-device"];
    let arguments = [&arguments[..], &usb, &["--qemu-arg=usb-storage,drive=stick"]].concat();
    let outcome = expect_ready(boot(&disk, &arguments), &["slot=a", "boot=2"]);
    expect_line(&outcome, "stage 45 configuration: ok ");
    expect_line(&outcome, "(nocloud /dev/sda, instance stick-1, applied now)");

    // The disk has data now: nobody said that it may go, and it serves the live system.
    let outcome = boot(&iso, &[&["--usb", "--bios"][..], &site].concat());
    let outcome = expect_ready(outcome, &["slot=-", "boot=3"]);
    expect_line(&outcome, "install: failed ");
    expect_line(
        &outcome,
        "/dev/vda holds a partition table with 5 partitions (KSOSEFI KSOSSYSA KSOSSYSB KSOLODATA BIOS)",
    );
    expect_line(&outcome, "(/dev/vda4)");
}

#[test]
fn by_bios_from_a_cd_disks_that_cannot_be_meant_are_refused() {
    let images = images();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = |name: &str| directory.path().join(name);
    let second = format!("if=none,id=second,format=raw,file={}", text(&disk("second")));
    fs::File::create(disk("second")).and_then(|file| file.set_len(8 << 30)).expect("made");
    let two = ["--qemu-arg=-drive", &format!("--qemu-arg={second}"), "--qemu-arg=-device"];
    let two = [&two[..], &["--qemu-arg=virtio-blk-pci,drive=second"]].concat();
    let cases: [(&str, &[&str], &str); 3] = [
        (
            "auto",
            &two,
            "needs exactly one disk of at least 8192 MiB that is not removable; there are: /dev/vda (8192 MiB), /dev/vdb (8192 MiB)",
        ),
        ("/dev/vda", &["--disk-size", "4G"], "/dev/vda has 4294967296 bytes; at least 8589934592 are needed"),
        ("/dev/sda", &["--usb"], "/dev/sda is the medium that the system runs from"),
    ];
    for (index, (parameter, arguments, refusal)) in cases.into_iter().enumerate() {
        let target = disk(&format!("disk-{index}"));
        let asked =
            |script: &str| script.replace("\n  ksos_live\n", &format!("\n  ksos_live ksos.install={parameter}\n"));
        let iso = edited(&images.iso, directory.path(), &asked);
        let common = ["--bios", "--until", "ready", "--persist", text(&target)];
        let outcome = expect_ready(boot(&iso, &[&common, arguments].concat()), &["slot=-", "boot=1"]);
        expect_line(&outcome, refusal);
        let blank = run(Command::new("cmp").args(["--bytes", "4294967296"]).arg(&target).arg("/dev/zero"));
        blank.expect_code(0);
        fs::remove_file(&target).expect("removed");
    }
}

/// Nothing boots here: what `inspect` and `verify` say of the image.
#[test]
fn it_shows_what_it_is_and_a_wrong_byte_is_named() {
    let images = images();
    let directory = images.iso.parent().expect("a directory");
    let name = text(Path::new(images.iso.file_name().expect("it has a name")));
    let composer = |arguments: &[&str]| run(compose(directory).args(arguments));
    let shown = composer(&["inspect", name]).expect_code(0).stdout;
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    let parts =
        ["iso, ", "ISO 9660", "boots", "test-iso 1.0.0 x86_64", "root hash", "Sizes by component", "█", "SPDX 2.3"];
    for part in parts {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    let json = composer(&["inspect", name, "--json"]).expect_code(0).stdout;
    let found: serde_json::Value = serde_json::from_str(&json).expect("--json prints JSON");
    assert_eq!(found["kind"], "iso");
    assert!(found["iso"]["volume"].as_str().is_some_and(|volume| volume.starts_with("KSOS_")), "{json}");
    assert_eq!(found["iso"]["boot"].as_array().map(Vec::len), Some(2), "BIOS and UEFI: {json}");
    let system = &found["systems"][0];
    let names = |list: &str| -> Vec<&str> {
        system[list].as_array().into_iter().flatten().filter_map(|entry| entry["name"].as_str()).collect()
    };
    assert!(names("packages").contains(&"dropbear-bin") && names("contents").contains(&"runtime"), "{json}");

    let verified = composer(&["verify", name]).expect_code(0).stdout;
    for part in
        ["SHA256SUMS: lists", ".intoto.json: is about", "vmlinuz: has the digest", "root.squashfs: has the digest"]
    {
        assert!(verified.contains(part), "no {part:?} in {verified}");
    }
    let mut bytes = fs::read(&images.iso).expect("it was built");
    // Files begin at blocks of the volume; this is the magic of SquashFS.
    let root = (0..bytes.len()).step_by(2048).find(|at| bytes[*at..].starts_with(b"hsqs")).expect("a SquashFS image");
    bytes[root + (1 << 20)] ^= 1;
    let alone = tempfile::tempdir().expect("a temporary directory");
    fs::write(alone.path().join(name), bytes).expect("written");
    let refused = run(compose(alone.path()).args(["verify", name])).expect_code(1).stdout;
    assert!(refused.contains("FAILED") && refused.contains("root.squashfs: has SHA-256"), "{refused}");
}

#[test]
fn the_disk_image_boots_by_bios() {
    expect_ready(boot(&images().disk, &["--bios", "--until", "ready"]), &["slot=a", "secure-boot=off"]);
}

#[test]
fn for_arm64_it_is_live_from_a_cd_under_secure_boot_and_from_a_stick() {
    let images = build("arm64");
    let iso = edited(&images.iso, images.directory.path(), &plain);
    let outcome = boot(&iso, &["--secure-boot", "--until", "ready"]);
    expect_ready(outcome, &["arch=arm64", "slot=-", "secure-boot=on"]);
    let outcome = expect_ready(boot(&iso, &["--usb", "--until", "ready"]), &["slot=-", "secure-boot=off"]);
    expect_line(&outcome, "(live from /dev/sd");
}
