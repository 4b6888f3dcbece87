//! Releases: what a build writes beside the disk image of a node that takes updates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use ksos_formats::Digest;
use ksos_formats::update::keys::{KeySet, PublicKey};
use ksos_formats::update::{ChunkIndex, Envelope, Release, cosign};
use ksos_tests::{compose, run};

use super::{Project, with_documents};

const EXAMPLE: &str = "examples/updating-node.toml";
const KEY: &str = "tests/fixtures/keys/test-only-update.key";
const NAMES: [&str; 3] = ["release.json", "slot.chunks", "slot.index"];

fn release(project: &Project) -> PathBuf {
    project.path.join("out/updating-node-0.1.0-x86_64.update")
}

fn key(name: &str) -> PublicKey {
    let path = ksos_tests::repository().join(format!("tests/fixtures/keys/test-only-{name}.pub"));
    match cosign::Key::from_pem(&fs::read_to_string(path).unwrap()).unwrap() {
        cosign::Key::Ed25519(key) => key,
        cosign::Key::EcdsaP256(_) => panic!("an Ed25519 key"),
    }
}

/// Checks everything that a release says of itself, and returns its document.
fn checked(directory: &Path) -> (Envelope, Release) {
    let envelope = Envelope::parse(&fs::read(directory.join("release.json")).unwrap()).unwrap();
    let document: Release = serde_json::from_slice(&envelope.payload).unwrap();
    let index = fs::read(directory.join("slot.index")).unwrap();
    let chunks = fs::read(directory.join("slot.chunks")).unwrap();
    assert_eq!((document.index.size, document.index.sha256), (index.len() as u64, Digest::of(&index)));
    assert_eq!((document.chunks.size, document.chunks.sha256), (chunks.len() as u64, Digest::of(&chunks)));
    let index = ChunkIndex::parse(&index).unwrap();
    assert_eq!((index.slot_size(), index.chunks_size()), (document.slot.size, document.chunks.size));
    (envelope, document)
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_build_writes_a_release_that_signing_does_not_make_stale() {
    let project = Project::new();
    let build = || project.command("build", EXAMPLE);
    let outcome = run(build().arg("--json")).expect_code(0);
    let listed: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let artifact = &listed["artifacts"][1];
    let (envelope, document) = checked(&release(&project));
    assert_eq!(
        (artifact["format"].as_str(), &artifact["sha256"]),
        (Some("update"), &Digest::of(&envelope.payload).hex().into())
    );
    for file in artifact["files"].as_array().unwrap() {
        let bytes = fs::read(release(&project).join(file["name"].as_str().unwrap())).unwrap();
        assert_eq!((&file["size"], &file["sha256"]), (&bytes.len().into(), &Digest::of(&bytes).hex().into()));
    }
    assert_eq!(names(&release(&project)), NAMES);
    assert_eq!(envelope.signatures, []);
    assert_eq!((document.name.as_str(), document.board.as_str(), document.expires), ("updating-node", "example", None));

    // The slot is the one in the disk image.
    let image = fs::read(project.path.join("out/updating-node-0.1.0-x86_64.img")).unwrap();
    let start = 257 << 20;
    assert_eq!(Digest::of(&image[start..start + document.slot.size as usize]), document.slot.sha256);

    let signed = run(build().args(["--sign-key", KEY])).expect_code(0);
    let keys = KeySet::new(vec![key("update")], 1).unwrap();
    let (envelope, _) = checked(&release(&project));
    assert_eq!(envelope.verify::<Release>(&keys).unwrap().value(), &document, "{}", signed.stderr);
    let bytes = fs::read(release(&project).join("release.json")).unwrap();
    // The first build may have been too soon after the copy for its stamp to count.
    run(&mut build()).expect_code(0);
    let again = run(&mut build()).expect_code(0);
    assert!(again.stderr.contains("nothing changed"), "{}", again.stderr);
    assert!(fs::read(release(&project).join("release.json")).unwrap() == bytes, "the signature stays");
    // Every step again: the same bytes, so the signature stays, and a second key's comes to it.
    let second = format!("env:{}", "SECOND_KEY");
    let pem = fs::read_to_string(project.path.join("tests/fixtures/keys/test-only-second.key")).unwrap();
    run(build().args(["--fresh", "--sign-key", &second]).env("SECOND_KEY", pem)).expect_code(0);
    let both = KeySet::new(vec![key("update"), key("second")], 2).unwrap();
    assert!(checked(&release(&project)).0.verify::<Release>(&both).is_ok());

    // Another content: another release, which nobody has signed.
    project.edit("examples/containerd-node.toml", "hello from a container on", "greetings from a container on");
    run(&mut build()).expect_code(0);
    let (envelope, changed) = checked(&release(&project));
    assert_eq!(envelope.signatures, []);
    assert_ne!(changed.slot, document.slot);
    assert_eq!(names(&project.path.join("out")), with_documents("updating-node-0.1.0-x86_64", &[".img", ".update"]));
}

#[test]
fn the_number_of_workers_changes_no_release() {
    let project = Project::new();
    run(&mut project.command("build", EXAMPLE)).expect_code(0);
    let first = NAMES.map(|name| fs::read(release(&project).join(name)).unwrap());
    fs::remove_dir_all(release(&project)).unwrap();
    run(project.command("build", EXAMPLE).args(["--jobs", "1"])).expect_code(0);
    assert!(NAMES.map(|name| fs::read(release(&project).join(name)).unwrap()) == first);
}

#[test]
fn a_killed_build_leaves_no_half_release() {
    let project = Project::new();
    run(&mut project.command("build", EXAMPLE)).expect_code(0);
    let first = checked(&release(&project));
    project.edit("examples/containerd-node.toml", "hello from a container on", "greetings from a container on");
    let left = project.path.join("out/.updating-node-0.1.0-x86_64.update.tmp");
    let mut build = project.command("build", EXAMPLE);
    let mut child = build.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while !left.exists() && child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(600) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // The old one or, when the build was quicker than this test, the new one: whole.
    let found = checked(&release(&project));
    assert_eq!(names(&release(&project)), NAMES);
    run(&mut project.command("build", EXAMPLE)).expect_code(0);
    assert!(!left.exists());
    let next = checked(&release(&project));
    assert_ne!(next.1.slot, first.1.slot);
    assert!(found == first || found == next);
}

#[test]
fn an_image_without_keys_has_no_release_and_says_so_once() {
    let project = Project::new();
    let outcome = run(&mut project.build()).expect_code(0);
    let note = "no `update.keys`: the node takes no updates, and no release is written";
    assert_eq!(outcome.stderr.matches(note).count(), 1, "{}", outcome.stderr);
    assert_eq!(names(&project.path.join("out")), with_documents("containerd-node-0.1.0-x86_64", &[".img"]));
}

#[test]
fn a_window_in_a_time_zone_that_the_image_does_not_have_fails_the_build() {
    let project = Project::new();
    let window = "windows = [{ start = \"02:00\", length = \"3h\", time-zone = \"Europe/Atlantis\" }]\n";
    let path = project.path.join(EXAMPLE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}{window}")).unwrap();
    let outcome = run(&mut project.command("build", EXAMPLE)).expect_code(1);
    let expected = "time zone Europe/Atlantis is not in the image: there is no /usr/share/zoneinfo/Europe/Atlantis";
    assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    fs::write(&path, format!("{text}{}", window.replace("Atlantis", "Berlin"))).unwrap();
    run(&mut project.command("build", EXAMPLE)).expect_code(0);
}

#[test]
fn a_version_that_cannot_be_released_is_an_error_with_its_place() {
    let project = Project::new();
    let long = format!("1.0.0-{}", "x".repeat(64));
    project.edit(EXAMPLE, "hostname = ", &format!("version = \"{long}\"\nhostname = "));
    let outcome = run(&mut project.command("check", EXAMPLE)).expect_code(2);
    assert!(outcome.stderr.contains("examples/updating-node.toml:7:11"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("longer than 64 characters"), "{}", outcome.stderr);
}

#[test]
fn diff_tells_what_an_update_fetches() {
    let project = Project::new();
    run(&mut project.command("build", EXAMPLE)).expect_code(0);
    project.edit("examples/containerd-node.toml", "hello from a container on", "greetings from a container on");
    run(project.command("build", EXAMPLE).args(["--out", "next"])).expect_code(0);
    let next = project.path.join("next/updating-node-0.1.0-x86_64.update");
    let diff = |json: &[&str]| {
        let mut command = compose(&project.path);
        run(command.arg("diff").arg(release(&project)).arg(&next).args(json)).expect_code(1)
    };
    let text = diff(&[]).stdout;
    assert!(text.lines().last().unwrap().starts_with("an update fetches "), "{text}");
    let json: serde_json::Value = serde_json::from_str(&diff(&["--json"]).stdout).unwrap();
    let (fetched, whole) = (json["update"]["fetched"].as_u64().unwrap(), json["update"]["whole"].as_u64().unwrap());
    // A line of the runtime's configuration: far below the limit for a changed package, 15 %.
    assert!(fetched > 0 && fetched * 100 < whole * 2, "{fetched} of {whole}");
}

/// One package changed in a root of 150 MB takes 15 % or less of the compressed image. Debian's update of runc;
/// once the main archive has it as well, umoci in its place.
#[test]
fn an_update_of_one_package_fetches_little() {
    let project = Project::new();
    project.edit(
        "examples/containerd-node.toml",
        "packages = [\"containerd\", \"runc\", \"containernetworking-plugins\"]\nexclude-packages = [\"libc6\", \"iptables\"]",
        "packages = [\"containerd\", \"libseccomp2\", \"containernetworking-plugins\"]\nexclude-packages = [\"libc6\", \"iptables\", \"runc\"]",
    );
    let path = project.path.join("examples/containerd-node.toml");
    let rest = fs::read_to_string(&path).unwrap();
    let build = |package: &str, repositories: &str, out: &str| {
        let component = format!(
            "[components.changed]\nsource = \"apt\"\npackages = [{package:?}]\ndependencies = false\n\
             repositories = [{repositories}]\nexclude = [\"usr/share/**\"]\n"
        );
        fs::write(&path, format!("{rest}\n{component}")).unwrap();
        run(project.command("build", EXAMPLE).args(["--out", out])).expect_code(0);
        let lock = fs::read_to_string(project.path.join(EXAMPLE).with_extension("lock")).unwrap();
        (lock, project.path.join(out).join("updating-node-0.1.0-x86_64.update"))
    };
    let (old_lock, old) = build("runc", "\"debian\"", "old");
    let (mut new_lock, mut new) = build("runc", "\"debian\", \"debian-security\"", "new");
    if versions(&old_lock) == versions(&new_lock) {
        (new_lock, new) = build("umoci", "\"debian\"", "other");
    }
    let (before, after) = (versions(&old_lock), versions(&new_lock));
    let changed: Vec<_> = after.iter().filter(|package| !before.contains(package)).collect();
    assert_eq!(changed.len(), 1, "one package differs: {changed:?}");

    let outcome = run(compose(&project.path).arg("diff").arg(&old).arg(&new).arg("--json")).expect_code(1);
    let json: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let (fetched, whole) = (json["update"]["fetched"].as_u64().unwrap(), json["update"]["whole"].as_u64().unwrap());
    println!("{changed:?}: {fetched} bytes of {whole}, {} in a thousand", fetched * 1000 / whole);
    // More than the line of the runtime's configuration that says what the image is made of.
    assert!(fetched > 100_000 && fetched * 100 <= whole * 15, "{fetched} of {whole}");
}

/// Returns the paths of the packages in a lock, which have names and versions.
fn versions(lock: &str) -> Vec<String> {
    let paths = lock.split('"').filter(|text| text.ends_with(".deb"));
    let mut paths: Vec<String> = paths.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect();
    paths.sort();
    paths.dedup();
    paths
}
