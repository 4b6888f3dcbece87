//! `flash` on a real block device: a loop device, which needs root. What it decides, and disks that fail while they are
//! written, are tested beside the code.
#![expect(clippy::print_stderr, reason = "tests tell what they skip")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use ksos_compose::artifact::disk::{DiskSpec, Partition, PartitionContent, write};
use ksos_tests::{Outcome, compose, run};

const MIB: usize = 1 << 20;

/// A loop device, gone with the value.
struct Loop {
    path: String,
    mounted: Option<PathBuf>,
}

impl Loop {
    /// Attaches `file`; `None` when this user or machine has no loop devices.
    fn attach(file: &Path) -> Option<Self> {
        let mut command = Command::new("losetup");
        let output = command.args(["--find", "--show", "--partscan"]).arg(file).output().ok()?;
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            eprintln!("skipped: losetup: {}", String::from_utf8_lossy(&output.stderr).trim());
            return None;
        }
        Some(Loop { path, mounted: None })
    }

    fn mount(&mut self, partition: &str, at: PathBuf) {
        fs::create_dir(&at).unwrap();
        run(Command::new("mount").arg(partition).arg(&at)).expect_code(0);
        self.mounted = Some(at);
    }

    fn unmount(&mut self) {
        if let Some(at) = self.mounted.take() {
            run(Command::new("umount").arg(at)).expect_code(0);
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Some(at) = self.mounted.take() {
            let _ = Command::new("umount").arg(at).status();
        }
        let _ = Command::new("losetup").args(["--detach", &self.path]).status();
    }
}

/// Writes an image with an ext2 file system in its first partition.
fn write_image(path: &Path) {
    let content = path.with_extension("ext2");
    run(Command::new("mke2fs").args(["-q", "-t", "ext2"]).arg(&content).arg("4M").env("PATH", tools())).expect_code(0);
    let partition = |label: &str, number: u8, size: usize, content| Partition {
        label: label.to_owned(),
        type_guid: "0FC63DAF-8483-4772-8E79-3D69D8477DE4".parse().unwrap(),
        guid: format!("00000000-0000-4000-8000-0000000000{number:02}").parse().unwrap(),
        size: size as u64,
        content,
    };
    let spec = DiskSpec {
        disk_guid: "00000000-0000-4000-8000-000000000099".parse().unwrap(),
        partitions: vec![
            partition("FULL", 1, 4 * MIB, PartitionContent::File(content)),
            partition("DATA", 2, 3 * MIB, PartitionContent::Empty),
        ],
        bios: None,
    };
    let mut file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    write(&mut file, &spec).unwrap();
}

fn tools() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn has(outcome: &Outcome, text: &str) {
    assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
}

#[test]
fn an_image_gets_onto_a_device_and_never_onto_one_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("disk");
    fs::write(&file, vec![0xa5; 24 * MIB]).unwrap();
    let Some(mut device) = Loop::attach(&file) else {
        let devices = Path::new("/dev/loop-control").exists();
        assert!(!(devices && crate::root_must()), "root, with loop devices, and none can be attached");
        eprintln!("skipped: an image on a loop device (needs root, and loop devices)");
        return;
    };
    let image = directory.path().join("x.img");
    write_image(&image);
    let disk = device.path.clone();
    let flash = |arguments: &[&str]| {
        let mut command = compose(directory.path());
        run(command.arg("flash").args(arguments).stdin(std::process::Stdio::null()))
    };

    has(&flash(&["x.img", &disk, "--yes"]).expect_code(2), "neither removable nor attached by USB");
    let outcome = flash(&["x.img", &disk, "--force"]).expect_code(2);
    has(&outcome, "not confirmed; nothing was written");
    has(&outcome, &format!("disk   {disk} (24.0 MiB, loop)"));
    has(&flash(&["x.img"]).expect_code(2), "no disk is named");
    has(&flash(&["x.img", "/dev/null", "--force", "--yes"]).expect_code(2), "/dev/null is not a disk of this machine");
    let large = directory.path().join("large.img");
    File::create(&large).unwrap().set_len(25 * MIB as u64).unwrap();
    has(&flash(&["large.img", &disk, "--force", "--yes"]).expect_code(2), "has 25.0 MiB and the disk 24.0 MiB");
    assert!(fs::read(&file).unwrap().iter().all(|byte| *byte == 0xa5), "nothing was written");

    let zst = directory.path().join("x.img.zst");
    run(Command::new("zstd").arg("-q").arg(&image).arg("-o").arg(&zst)).expect_code(0);
    let outcome = flash(&["x.img.zst", &disk, "--force", "--yes", "--json"]).expect_code(0);
    let told: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&told["verified"], &told["fitted"]), (&true.into(), &true.into()));
    let verified = run(Command::new("sgdisk").arg("-v").arg(&disk).env("PATH", tools())).expect_code(0);
    assert!(verified.stdout.contains("No problems found"), "{}", verified.stdout);
    let (image, flashed) = (fs::read(&image).unwrap(), fs::read(&disk).unwrap());
    assert!(image[1024..] == flashed[1024..image.len()], "all but the protective MBR and the header");

    // The kernel knows the new partitions.
    let partition = format!("{disk}p1");
    let name = disk.trim_start_matches("/dev/");
    let known = || Path::new(&format!("/sys/block/{name}/{name}p1")).exists();
    if !known() {
        run(Command::new("losetup").args(["--detach", &disk])).expect_code(0);
        run(Command::new("losetup").args(["--partscan", &disk]).arg(&file)).expect_code(0);
        assert!(!known(), "the kernel reads partition tables and was not asked to read this one");
        eprintln!("skipped: whether the kernel reads the new partition table (this one reads none)");
        for (number, start, length) in [("1", "2048", "8192"), ("2", "10240", "6144")] {
            run(Command::new("addpart").args([&disk, number, start, length]).env("PATH", tools())).expect_code(0);
        }
    }
    let json = run(compose(directory.path()).args(["flash", "--list", "--json"])).expect_code(0).stdout;
    let list: serde_json::Value = serde_json::from_str(&json).unwrap();
    let listed = list["disks"].as_array().unwrap().iter().find(|listed| listed["name"] == name).unwrap();
    assert_eq!(listed["partitions"], serde_json::json!([format!("{name}p1"), format!("{name}p2")]));
    has(&flash(&["x.img", &partition, "--force", "--yes"]).expect_code(2), &format!("is a partition of {disk}"));

    device.mount(&partition, directory.path().join("mounted"));
    for arguments in [&["--yes"][..], &["--yes", "--force"]] {
        has(&flash(&[&["x.img", &disk], arguments].concat()).expect_code(2), &format!("{name}p1 is mounted on "));
    }
    device.unmount();
    // What lists of mounts do not show: another mount namespace. The kernel refuses.
    let hidden = directory.path().join("hidden");
    fs::create_dir(&hidden).unwrap();
    let script = format!("mount {partition} {} && echo mounted && read line", hidden.display());
    let mut shell = Command::new("unshare");
    shell
        .args(["--mount", "sh", "-c", &script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(shell.stdout.as_mut().unwrap()), &mut line).unwrap();
    if line == "mounted\n" {
        has(&flash(&["x.img", &disk, "--force", "--yes"]).expect_code(2), "is in use");
    } else {
        eprintln!("skipped: a mount in another namespace");
    }
    drop(shell.stdin.take());
    shell.wait().unwrap();
    // LVM's label, as pvcreate writes it.
    let mut label = vec![0; 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[24..32].copy_from_slice(b"LVM2 001");
    std::os::unix::fs::FileExt::write_all_at(&File::options().write(true).open(&disk).unwrap(), &label, 512).unwrap();
    has(&flash(&["x.img", &disk, "--force", "--yes"]).expect_code(2), "belongs to an LVM2 volume group");
}

#[test]
fn the_disk_that_the_system_runs_from_is_listed_and_never_offered() {
    let directory = tempfile::tempdir().unwrap();
    let json = run(compose(directory.path()).args(["flash", "--list", "--json"])).expect_code(0).stdout;
    let list: serde_json::Value = serde_json::from_str(&json).unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    let number = root.split(' ').nth(2).unwrap();
    let holds_root = |disk: &serde_json::Value| {
        let name = disk["name"].as_str().unwrap();
        let volumes = disk["partitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|partition| format!("{name}/{}", partition.as_str().unwrap()));
        std::iter::once(name.to_owned()).chain(volumes).any(|volume| {
            fs::read_to_string(format!("/sys/block/{volume}/dev")).is_ok_and(|text| text.trim() == number)
        })
    };
    let Some(disk) = list["disks"].as_array().unwrap().iter().find(|disk| holds_root(disk)) else {
        eprintln!("skipped: the root file system of this machine is not directly on a disk");
        return;
    };
    assert_eq!(disk["obstacles"][0]["reason"], "system", "{disk}");
    fs::write(directory.path().join("x.img"), vec![1; 4096]).unwrap();
    let path = disk["path"].as_str().unwrap();
    let outcome = run(compose(directory.path()).args(["flash", "x.img", path, "--force", "--yes"])).expect_code(2);
    has(&outcome, "the running system is on it");
}
