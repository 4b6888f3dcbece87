//! Every output format of a real image, read by the programs that it is for.
#![expect(clippy::print_stderr, reason = "tests tell what they skip")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ksos_formats::Digest;
use ksos_tests::run;
use serde_json::Value;

use super::registry::is_there;
use super::{Project, root_must, with_documents};

const EXAMPLE: &str = "examples/updating-node.toml";
const STEM: &str = "updating-node-0.1.0-x86_64";
const FORMATS: [(&str, &str); 8] = [
    ("disk", ".img"),
    ("disk-zst", ".img.zst"),
    ("oci-image", ".oci.tar"),
    ("oci-artifact", ".disk.oci.tar"),
    ("qcow2", ".qcow2"),
    ("vmdk", ".vmdk"),
    ("vhd", ".vhd"),
    ("update", ".update"),
];

fn all() -> String {
    FORMATS.map(|(format, _)| format).join(",")
}

fn out(project: &Project) -> PathBuf {
    project.path.join("out")
}

/// Names and inodes of the artifacts in a directory. What is written about them (bills of materials, provenance, digests)
/// follows the manifest's bytes and the formats of each build.
fn artifacts(directory: &Path) -> Vec<(String, u64)> {
    let about = |name: &str| name.ends_with(".json") || name == "SHA256SUMS";
    files(directory).into_iter().filter(|(name, _)| !about(name)).collect()
}

/// Names and inodes of what is in a directory.
fn files(directory: &Path) -> Vec<(String, u64)> {
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().ino())
    };
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(entry).collect();
    files.sort();
    files
}

fn names(directory: &Path) -> Vec<String> {
    files(directory).into_iter().map(|(name, _)| name).collect()
}

fn build(project: &Project, formats: &str) -> Command {
    let mut command = project.command("build", EXAMPLE);
    command.args(["--format", formats]);
    command
}

/// Runs a shell script in `directory` that must succeed; nothing without the program that it is about.
fn foreign(program: &str, directory: &Path, script: &str) -> Option<String> {
    if !is_there(program) {
        assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "{program} is needed");
        eprintln!("skipped: {program} is not installed");
        return None;
    }
    let mut command = Command::new("sh");
    Some(run(command.args(["-ec", script]).current_dir(directory)).expect_code(0).stdout)
}

#[test]
fn every_format_is_what_the_programs_expect_that_read_it() {
    let project = Project::new();
    let outcome = run(build(&project, &all()).arg("--json")).expect_code(0);
    let listed: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let artifacts = listed["artifacts"].as_array().unwrap();
    let out = out(&project);
    assert_eq!(artifacts.len(), FORMATS.len());
    for (artifact, (format, suffix)) in artifacts.iter().zip(FORMATS) {
        let name = format!("{STEM}{suffix}");
        assert_eq!((&artifact["format"], &artifact["path"]), (&format.into(), &format!("out/{name}").into()));
        if format != "update" {
            let bytes = fs::read(out.join(&name)).unwrap();
            assert_eq!(
                (&artifact["size"], &artifact["sha256"]),
                (&bytes.len().into(), &Digest::of(&bytes).hex().into())
            );
        }
    }
    assert_eq!(names(&out), with_documents(STEM, &FORMATS.map(|(_, suffix)| suffix)));

    disks(&out);
    container_image(&project);
    artifact(&out);
    nothing_is_written_twice(&project);
}

/// The disk in every form has the same bytes.
fn disks(out: &Path) {
    foreign("zstd", out, &format!("zstd -q -d -c {STEM}.img.zst | cmp - {STEM}.img"));
    foreign("qemu-img", out, &format!("qemu-img check -q {STEM}.qcow2 && qemu-img check -q {STEM}.vmdk"));
    for (format, suffix) in [("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vpc", "vhd")] {
        let script = format!("qemu-img compare -f raw -F {format} {STEM}.img {STEM}.{suffix}");
        let compared = foreign("qemu-img", out, &script);
        assert!(compared.is_none_or(|text| text.contains("Images are identical.")), "{suffix}");
        // As somebody has it who converts it for another hypervisor.
        let convert = format!("qemu-img convert -f {format} -O raw {STEM}.{suffix} back.raw");
        foreign("qemu-img", out, &format!("{convert}; cmp back.raw {STEM}.img; rm back.raw"));
    }
    let allocated = |suffix: &str| fs::metadata(out.join(format!("{STEM}{suffix}"))).unwrap().blocks() * 512;
    for suffix in [".qcow2", ".vhd"] {
        assert!(allocated(suffix) < allocated(".img") + (4 << 20), "{suffix} takes {} bytes", allocated(suffix));
    }
}

/// A container of the system's image runs in a real runtime.
fn container_image(project: &Project) {
    let work = project.path.join("container");
    fs::create_dir_all(work.join("rootfs")).unwrap();
    let archive = format!("oci-archive:../out/{STEM}.oci.tar");
    let Some(config) = foreign("skopeo", &work, &format!("skopeo inspect --config {archive}")) else { return };
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!((&config["architecture"], &config["os"]), (&"amd64".into(), &"linux".into()));
    assert_eq!(config["config"]["Cmd"][0], "/usr/bin/containerd");
    // Copying checks every digest, of the unpacked layer too.
    foreign("skopeo", &work, &format!("skopeo copy -q --insecure-policy {archive} oci:layout:0.1.0"));
    let manifest = foreign("skopeo", &work, "skopeo inspect --raw oci:layout:0.1.0").unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().replace("sha256:", "layout/blobs/sha256/");
    foreign("tar", &work, &format!("tar -xf {layer} -C rootfs"));
    run_container(&work);
}

fn run_container(bundle: &Path) {
    if foreign("runc", bundle, "runc spec").is_none() {
        return;
    }
    let path = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/usr/bin/containerd", "--version"]);
    fs::write(&path, config.to_string()).unwrap();
    let id = format!("ksos-test-{}", std::process::id());
    let mut command = Command::new("runc");
    let outcome = run(command.arg("--root").arg(bundle.join("state")).args(["run", &id]).current_dir(bundle));
    let forbidden = ["Operation not permitted", "permission denied", "Permission denied", "Read-only file system"];
    let refused = outcome.code != 0 && forbidden.iter().any(|text| outcome.stderr.contains(text));
    if refused && !root_must() {
        eprintln!("skipped: containers are not permitted here: {}", outcome.stderr.trim());
        return;
    }
    let outcome = outcome.expect_code(0);
    assert!(outcome.stdout.starts_with("containerd "), "{}", outcome.stdout);
}

/// The artifact holds the compressed disk, as it is.
fn artifact(out: &Path) {
    let file = format!("{STEM}.disk.oci.tar");
    let Some(manifest) = foreign("skopeo", out, &format!("skopeo inspect --raw oci-archive:{file}")) else { return };
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let disk = fs::read(out.join(format!("{STEM}.img.zst"))).unwrap();
    let layer = &manifest["layers"][0];
    assert_eq!(manifest["artifactType"], "application/vnd.kubesolo.os.disk.v1");
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.empty.v1+json");
    assert_eq!(
        (&layer["size"], &layer["digest"]),
        (&disk.len().into(), &format!("sha256:{}", Digest::of(&disk)).into())
    );
    foreign("tar", out, &format!("tar -xOf {file} blobs/sha256/{} | cmp - {STEM}.img.zst", Digest::of(&disk).hex()));
}

/// One call for two architectures: each has its file, and an index leads to both; a registry takes it as it is.
#[test]
fn architectures_that_build_together_share_an_index() {
    let project = Project::new();
    // Nothing is compressed well here, and what the container does not need is there in name only.
    project.compress_nothing();
    let from_source = "[components.runtime]\nsource = \"cargo\"\npath = \"..\"\npackage = \"ksos-runtime\"\n\
                       bin = \"ksos-runtime\"\nprofile = \"runtime\"\ninstall-to = \"usr/lib/ksos/ksos-runtime\"\n";
    let mut stand_ins = String::new();
    for (arch, machine) in [("x86_64", 62), ("arm64", 183)] {
        let mut program = ksos_tests::program("x\n");
        program[18] = machine; // ELF: e_machine
        let path = project.path.join(format!("runtime-{arch}/usr/lib/ksos/ksos-runtime"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, program).unwrap();
        stand_ins += &format!(
            "[arch.{arch}.components.runtime]\nsource = \"file\"\npath = \"../runtime-{arch}\"\ninstall = [{{ from = \
             \"usr/lib/ksos/ksos-runtime\", to = \"/usr/lib/ksos/ksos-runtime\", mode = \"0755\" }}]\n"
        );
    }
    project.edit("manifests/base.toml", from_source, &stand_ins);
    let mut command = ksos_tests::compose(&project.path);
    command.args([
        "build",
        "examples/containerd-node.toml",
        "--arch",
        "x86_64,arm64",
        "--format",
        "oci-image",
        "--json",
    ]);
    let listed: Value = serde_json::from_str(&run(&mut command).expect_code(0).stdout).unwrap();
    let together = listed["artifacts"].as_array().unwrap().iter().find(|artifact| artifact["arch"].is_null());
    let together = together.unwrap_or_else(|| panic!("{listed:#}"));
    assert_eq!(together["path"], "out/containerd-node-0.1.0.oci.tar");
    assert_eq!(together["platforms"], serde_json::json!(["x86_64", "arm64"]));
    let archive = "oci-archive:containerd-node-0.1.0.oci.tar";
    let out = out(&project);
    let Some(raw) = foreign("skopeo", &out, &format!("skopeo inspect --raw {archive}")) else { return };
    let platforms = |raw: &str| -> Vec<String> {
        let index: Value = serde_json::from_str(raw).unwrap();
        let entries = index["manifests"].as_array().unwrap_or_else(|| panic!("{raw}")).iter();
        entries.map(|entry| entry["platform"]["architecture"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(platforms(&raw), ["amd64", "arm64"]);
    if !crate::registry::tools() {
        return;
    }
    let registry = crate::registry::Registry::start(false);
    let place = format!("oci://{}/team/node:0.1.0", registry.address());
    let mut command = ksos_tests::compose(&out);
    command.args(["push", "containerd-node-0.1.0.oci.tar", &place]).env("DOCKER_CONFIG", out.join("no-docker"));
    run(&mut command).expect_code(0);
    let name = format!("docker://{}/team/node:0.1.0", registry.address());
    let pushed = foreign("skopeo", &out, &format!("skopeo inspect --raw --tls-verify=false {name}")).unwrap();
    assert_eq!(platforms(&pushed), ["amd64", "arm64"]);
    // Each architecture's bill of materials refers to its image.
    for entry in serde_json::from_str::<Value>(&pushed).unwrap()["manifests"].as_array().unwrap() {
        let list = entry["digest"].as_str().unwrap().replace(':', "-");
        let script =
            format!("skopeo inspect --raw --tls-verify=false docker://{}/team/node:{list}", registry.address());
        assert!(foreign("skopeo", &out, &script).unwrap().contains("application/spdx+json"));
    }
    for arch in ["amd64", "arm64"] {
        let script = format!("skopeo inspect --config --tls-verify=false --override-arch {arch} {name}");
        let config: Value = serde_json::from_str(&foreign("skopeo", &out, &script).unwrap()).unwrap();
        assert_eq!(config["architecture"], arch);
    }
}

fn nothing_is_written_twice(project: &Project) {
    let out = out(project);
    // The first build may have been too soon after the copy for its stamp to count.
    run(&mut build(project, &all())).expect_code(0);
    let first = artifacts(&out);
    let again = run(&mut build(project, &all())).expect_code(0);
    assert!(again.stderr.contains("nothing changed"), "{}", again.stderr);
    let path = project.path.join(EXAMPLE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}\n# Says nothing.\n")).unwrap();
    run(&mut build(project, &all())).expect_code(0);
    // Fewer formats than before.
    run(&mut build(project, "qcow2,disk-zst")).expect_code(0);
    assert_eq!(artifacts(&out), first, "nothing was written again");

    fs::remove_file(out.join(format!("{STEM}.vhd"))).unwrap();
    fs::write(out.join(format!("{STEM}.qcow2")), "something else").unwrap();
    let explained = run(project.command("explain", EXAMPLE).args(["--format", &all()])).expect_code(0);
    let writes: Vec<&str> = explained.stdout.lines().filter(|line| line.contains(" write ")).collect();
    let reason = "its file is not there, or not as it was written";
    assert_eq!(writes, [format!("  write {STEM}.qcow2: {reason}"), format!("  write {STEM}.vhd: {reason}")]);
    run(&mut build(project, &all())).expect_code(0);
    let changed: Vec<String> =
        artifacts(&out).into_iter().filter(|file| !first.contains(file)).map(|(name, _)| name).collect();
    assert_eq!(changed, [format!("{STEM}.qcow2"), format!("{STEM}.vhd")]);
    disks(&out);
}

#[test]
fn a_manifest_lists_the_formats_and_a_disk_that_nobody_asked_for_does_not_stay() {
    let project = Project::new();
    let path = project.path.join(EXAMPLE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}\n[outputs]\nformats = [\"qcow2\", \"update\"]\n")).unwrap();
    let outcome = run(&mut project.command("build", EXAMPLE)).expect_code(0);
    assert_eq!(outcome.stdout, format!("out/{STEM}.qcow2\nout/{STEM}.update\n"));
    assert_eq!(names(&out(&project)), with_documents(STEM, &[".qcow2", ".update"]));
    foreign("qemu-img", &out(&project), &format!("qemu-img check -q {STEM}.qcow2"));
}

#[test]
fn a_release_without_keys_and_an_unknown_format_are_errors_with_their_places() {
    let project = Project::new();
    let example = "examples/containerd-node.toml";
    let outcome = run(project.command("build", example).args(["--format", "disk,update"])).expect_code(2);
    assert!(outcome.stderr.contains("containerd-node has no `update.keys`"), "{}", outcome.stderr);
    let outcome = run(project.command("build", example).args(["--format", "qcow"])).expect_code(2);
    assert!(outcome.stderr.contains("disk, disk-zst, iso, oci-image"), "{}", outcome.stderr);
    let path = project.path.join(example);
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.lines().count();
    fs::write(&path, format!("{text}[outputs]\nformats = [\"disk\", \"update\"]\n")).unwrap();
    let outcome = run(&mut project.command("check", example)).expect_code(2);
    let place = format!("{example}:{}:20", lines + 2);
    assert!(outcome.stderr.contains(&place) && outcome.stderr.contains("no `update.keys`"), "{}", outcome.stderr);
    fs::write(&path, format!("{text}[outputs]\nformats = [\"qcow\"]\n")).unwrap();
    let outcome = run(&mut project.command("check", example)).expect_code(2);
    assert!(outcome.stderr.contains("qcow2"), "{}", outcome.stderr);
}

#[test]
fn a_killed_build_leaves_whole_files_and_the_next_one_tidies_up() {
    let project = Project::new();
    run(&mut build(&project, "disk")).expect_code(0);
    let formats = "disk,disk-zst,vmdk,qcow2";
    let work = out(&project).join(format!(".{STEM}.tmp"));
    let mut command = build(&project, formats);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while !work.join(format!("{STEM}.vmdk")).exists()
        && child.try_wait().unwrap().is_none()
        && start.elapsed() < Duration::from_secs(600)
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What has its name is whole, whatever was finished.
    for (format, suffix) in [("qcow2", "qcow2"), ("vmdk", "vmdk")] {
        if out(&project).join(format!("{STEM}.{suffix}")).exists() {
            let script = format!("qemu-img compare -f raw -F {format} {STEM}.img {STEM}.{suffix}");
            foreign("qemu-img", &out(&project), &script);
        }
    }
    run(&mut build(&project, formats)).expect_code(0);
    assert!(!work.exists());
    foreign("qemu-img", &out(&project), &format!("qemu-img compare -f raw -F vmdk {STEM}.img {STEM}.vmdk"));
    foreign("zstd", &out(&project), &format!("zstd -q -d -c {STEM}.img.zst | cmp - {STEM}.img"));
}
