//! What lies beside an image: bills of materials by their schemas and by the files that are really in the image, provenance,
//! digests, signatures; and whether `verify` and `inspect` say what is wrong. Peers: `python3-jsonschema`, `unsquashfs`,
//! `debugfs`, `sfdisk`, `sha256sum`, `openssl`, `cosign`, and, where it is installed, SPDX's own `spdx-tools`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ksos_tests::{Outcome, compose, repository, run, runtime};
use serde_json::Value;

use super::{EXAMPLE, Project};
use crate::registry::is_there;

const STEM: &str = "containerd-node-0.1.0-x86_64";
/// A key that signs releases, too (Ed25519).
const UPDATE_KEY: &str = "tests/fixtures/keys/test-only-update";

/// Says whether the tools are there; with `KSOS_REQUIRE_TOOLS`, they must be.
fn tools(names: &[&str]) -> bool {
    let missing: Vec<_> = names.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty() || std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "{missing:?} are needed");
    missing.iter().for_each(|name| skipped(&format!("{name} is not installed")));
    missing.is_empty()
}

#[expect(clippy::print_stdout, reason = "the test tells what it skips")]
fn skipped(why: &str) {
    println!("skipped: {why}");
}

/// Makes `NAME.key` and `NAME.pub`, ECDSA P-256, with OpenSSL.
fn ecdsa_key(project: &Project, name: &str) {
    let script = format!(
        "umask 077; openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key 2>/dev/null && \
         openssl pkey -in {name}.key -pubout -out {name}.pub"
    );
    run(Command::new("sh").args(["-c", &script]).current_dir(&project.path)).expect_code(0);
}

/// A project with keys `one` and `other`, and the image signed by `one` and by the key of releases.
fn built() -> Project {
    let project = Project::new();
    prepare(&project);
    sign_and_build(&project);
    project
}

fn prepare(project: &Project) {
    ecdsa_key(project, "one");
    ecdsa_key(project, "other");
    let key = project.path.join(format!("{UPDATE_KEY}.key"));
    fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

fn sign_and_build(project: &Project) {
    let mut command = project.build();
    command.args(["--sign-key", "one.key", "--sign-key", &format!("{UPDATE_KEY}.key")]);
    run(&mut command).expect_code(0);
}

fn out(project: &Project, name: &str) -> PathBuf {
    project.path.join("out").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap_or_else(|| panic!("no list {name} in {value:.200}"))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no text {name} in {value:.200}"))
}

#[track_caller]
fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn a_build_writes_bills_of_materials_provenance_and_digests_that_others_read() {
    if !tools(&["python3", "unsquashfs", "debugfs", "sfdisk", "openssl"]) {
        return;
    }
    let project = built();
    let (spdx, cyclonedx) = (out(&project, &format!("{STEM}.spdx.json")), out(&project, &format!("{STEM}.cdx.json")));
    valid_by_its_schema(&spdx, "spdx-2.3.schema.json");
    valid_by_its_schema(&cyclonedx, "cyclonedx-1.6.schema.json");
    valid_by_spdx_tools(&spdx);
    let (spdx, cyclonedx) = (json(&spdx), json(&cyclonedx));
    let lock = fs::read_to_string(project.path.join("examples/containerd-node.lock")).unwrap();
    every_locked_package_is_listed(&spdx, &cyclonedx, &lock);
    every_file_of_the_image_is_listed(&project, &spdx, &cyclonedx);
    provenance(&project, &lock);
    sums(&project);
    the_same_build_elsewhere_writes_the_same(&project);
}

/// Validates a document; and that the schema refuses one that lacks something.
fn valid_by_its_schema(document: &Path, schema: &str) {
    let script = "import sys, json, jsonschema
schema, document = (json.load(open(path)) for path in sys.argv[1:])
jsonschema.Draft7Validator.check_schema(schema)
validator = jsonschema.Draft7Validator(schema)
for error in validator.iter_errors(document): print(list(error.absolute_path), error.message[:400])
packages = document.get('packages') or document['components']
for wrong in ({}, {'name': 'x'}, dict(packages[0], unknown=1)):
    packages[-1] = wrong
    assert not validator.is_valid(document), wrong";
    let available = Command::new("/usr/bin/python3").args(["-c", "import jsonschema"]).output();
    if !available.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "python3-jsonschema is not installed");
        return skipped("python3-jsonschema is not installed");
    }
    let schema = repository().join("tests/fixtures/sbom").join(schema);
    let mut command = Command::new("/usr/bin/python3");
    let outcome = run(command.args(["-c", script]).args([&schema, document])).expect_code(0);
    assert_eq!(outcome.stdout, "", "{}", document.display());
}

/// SPDX's own implementation knows every rule of the specification; it is in no Debian release, so it is never required.
fn valid_by_spdx_tools(document: &Path) {
    let script = "import sys
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
for message in validate_full_spdx_document(parse_file(sys.argv[1])): print(message.validation_message)";
    let python = std::env::var_os("KSOS_SPDX_PYTHON").unwrap_or_else(|| "python3".into());
    let available = Command::new(&python).args(["-c", "import spdx_tools"]).output();
    if !available.is_ok_and(|output| output.status.success()) {
        return skipped("spdx-tools is not installed (it is not packaged)");
    }
    let outcome = run(Command::new(python).args(["-c", script]).arg(document)).expect_code(0);
    assert_eq!(outcome.stdout, "");
}

/// The values of `key` in the lines of a lock file that pin a package.
fn pinned<'a>(lock: &'a str, key: &'a str) -> Vec<&'a str> {
    let begin = format!(" {key} = \"");
    let lines = lock.lines().filter(|line| line.starts_with("  { "));
    lines.map(|line| line.split(begin.as_str()).nth(1).and_then(|rest| rest.split('"').next()).unwrap()).collect()
}

fn every_locked_package_is_listed(spdx: &Value, cyclonedx: &Value, lock: &str) {
    let (names, versions, digests) = (pinned(lock, "name"), pinned(lock, "version"), pinned(lock, "sha256"));
    assert!(names.len() > 35, "{names:?}");
    let mut with_licence = 0;
    for ((name, version), sha256) in names.iter().zip(&versions).zip(&digests) {
        let has = |entry: &&Value, digest: &str| {
            (entry["name"] == *name).then(|| entry.pointer(digest)).flatten().is_some_and(|found| found == *sha256)
        };
        let found = list(spdx, "packages").iter().find(|entry| has(entry, "/checksums/0/checksumValue"));
        let package = found.unwrap_or_else(|| panic!("{name} is not in the SPDX document"));
        assert_eq!(package["versionInfo"], *version);
        let purl = text(&package["externalRefs"][0], "referenceLocator");
        let escaped = version.replace('+', "%2B");
        assert!(purl.starts_with(&format!("pkg:deb/debian/{}@{escaped}?arch=", name.replace('+', "%2B"))), "{purl}");
        let found = list(cyclonedx, "components").iter().find(|entry| has(entry, "/hashes/0/content"));
        let component = found.unwrap_or_else(|| panic!("{name} is not in the CycloneDX document"));
        assert_eq!((&component["version"], text(component, "purl")), (&package["versionInfo"], purl));
        let licence = text(package, "licenseDeclared");
        let stated = component["licenses"][0]["expression"].as_str().unwrap_or("NOASSERTION");
        assert_eq!(stated, licence, "both documents say the same of {name}");
        with_licence += usize::from(licence != "NOASSERTION");
    }
    // Some copyright files are plain prose, which states no identifier.
    assert!(with_licence * 10 >= names.len() * 7, "{with_licence} of {} packages have a licence", names.len());
    let licence = |name: &str| {
        let package = list(spdx, "packages").iter().find(|entry| entry["name"] == name);
        text(package.unwrap_or_else(|| panic!("no {name}")), "licenseDeclared").to_owned()
    };
    // What Debian's copyright files say.
    assert!(licence("containerd").contains("Apache-2.0"), "{}", licence("containerd"));
    assert!(licence("libseccomp2").contains("LGPL-2.1"), "{}", licence("libseccomp2"));
}

/// Returns the SHA-256 of the regular files of the root file system, by path, read by foreign tools.
fn files_of(project: &Project) -> BTreeMap<String, String> {
    let image = project.image();
    let table = run(Command::new("sfdisk").arg("--json").arg(&image)).expect_code(0);
    let table: Value = serde_json::from_str(&table.stdout).unwrap();
    let start = table["partitiontable"]["partitions"][1]["start"].as_u64().unwrap() * 512;
    let root = project.path.join("root.squashfs");
    let request = format!("dump /root.squashfs {}", root.display());
    let place = format!("{}?offset={start}", image.display());
    run(Command::new("debugfs").args(["-R", &request, &place])).expect_code(0);
    let script = "unsquashfs -quiet -no-progress -no-xattrs -ignore-errors -dest tree root.squashfs >&2; \
                  cd tree && find . -type f -print0 | xargs -0 sha256sum";
    let sums = run(Command::new("sh").args(["-c", script]).current_dir(&project.path)).expect_code(0);
    let pair = |line: &str| line.split_once("  ").map(|(sum, path)| (path.to_owned(), sum.to_owned()));
    sums.stdout.lines().map(|line| pair(line).unwrap()).collect()
}

fn every_file_of_the_image_is_listed(project: &Project, spdx: &Value, cyclonedx: &Value) {
    let digest = |entry: &Value| text(&entry["checksums"][1], "checksumValue").to_owned();
    let named = list(spdx, "files").iter().map(|entry| (text(entry, "fileName").to_owned(), digest(entry)));
    let named: BTreeMap<String, String> = named.collect();
    let real = files_of(project);
    assert!(real.len() > 500, "{} files", real.len());
    let differs = |(path, sum): &(&String, &String)| named.get(*path) != Some(sum);
    let wrong: Vec<_> = real.iter().filter(differs).collect();
    assert!(wrong.is_empty(), "other digests, or not listed: {wrong:?}");
    let gone: Vec<_> = named.keys().filter(|path| !real.contains_key(*path)).collect();
    assert!(gone.is_empty(), "listed and not in the image: {gone:?}");
    // Its package says so in the other document, too.
    let path = "./usr/bin/containerd";
    let component = list(cyclonedx, "components").iter().find(|entry| entry["name"] == "containerd").unwrap();
    let place = list(&component["evidence"], "occurrences").iter().find(|entry| entry["location"] == path[1..]);
    assert_eq!(place.unwrap()["additionalContext"], format!("sha256:{}", real[path]));
}

/// Verifies an ECDSA signature over SHA-256 with OpenSSL.
fn openssl_verifies(project: &Project, message: &[u8], signature: &[u8], key: &str) -> bool {
    fs::write(project.path.join("message"), message).unwrap();
    fs::write(project.path.join("signature"), signature).unwrap();
    let mut command = Command::new("openssl");
    command.args(["dgst", "-sha256", "-verify", key, "-signature", "signature", "message"]);
    run(command.current_dir(&project.path)).code == 0
}

fn provenance(project: &Project, lock: &str) {
    let envelope = json(&out(project, &format!("{STEM}.provenance.json")));
    let payload_type = text(&envelope, "payloadType");
    assert_eq!(payload_type, "application/vnd.in-toto+json");
    let payload = STANDARD.decode(text(&envelope, "payload")).unwrap();
    // DSSE 1.0, "Signature Definition": what is signed.
    let mut message = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    message.extend_from_slice(&payload);
    let signatures = list(&envelope, "signatures");
    assert_eq!(signatures.len(), 2);
    let signature = STANDARD.decode(text(&signatures[0], "sig")).unwrap();
    assert!(openssl_verifies(project, &message, &signature, "one.pub"));
    assert!(!openssl_verifies(project, &message, &signature, "other.pub"));
    assert!(
        payload == fs::read(out(project, &format!("{STEM}.intoto.json"))).unwrap(),
        "the plain statement is this one"
    );

    let statement: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let sum = run(Command::new("sha256sum").arg(project.image())).expect_code(0);
    let subject = &statement["subject"][0];
    assert_eq!(
        (text(subject, "name"), &subject["digest"]["sha256"]),
        (format!("{STEM}.img").as_str(), &Value::from(&sum.stdout[..64]))
    );
    let definition = &statement["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["manifest"]["path"], EXAMPLE);
    let builder = &statement["predicate"]["runDetails"]["builder"];
    assert!(text(definition, "buildType").starts_with("https://") && text(builder, "id").starts_with("https://"));
    let materials = list(definition, "resolvedDependencies");
    for sha256 in pinned(lock, "sha256") {
        assert!(materials.iter().any(|one| one["digest"]["sha256"] == sha256), "no material has {sha256}");
    }
    let manifest = run(Command::new("sha256sum").arg(project.path.join(EXAMPLE))).expect_code(0);
    assert!(materials.iter().any(|one| one["digest"]["sha256"] == manifest.stdout[..64]), "the manifest is a material");
    let here = project.path.to_string_lossy();
    assert!(!String::from_utf8_lossy(&payload).contains(&*here), "no path of this machine");
}

fn sums(project: &Project) {
    let directory = project.path.join("out");
    let outcome = run(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&directory));
    let outcome = outcome.expect_code(0);
    for suffix in [".img", ".spdx.json", ".cdx.json", ".intoto.json", ".provenance.json"] {
        contains(&outcome.stdout, &[&format!("{STEM}{suffix}: OK\n")]);
    }
    let list = fs::read(directory.join("SHA256SUMS")).unwrap();
    let base64 = fs::read_to_string(directory.join("SHA256SUMS.sig")).unwrap();
    let signature = STANDARD.decode(base64.trim()).unwrap();
    assert!(openssl_verifies(project, &list, &signature, "one.pub"));
    assert!(!openssl_verifies(project, &list, &signature, "other.pub"));
    // Ed25519 signs the file itself, not its digest.
    let second = fs::read_to_string(directory.join("SHA256SUMS.2.sig")).unwrap();
    fs::write(project.path.join("signature"), STANDARD.decode(second.trim()).unwrap()).unwrap();
    let mut command = Command::new("openssl");
    command.args(["pkeyutl", "-verify", "-pubin", "-inkey", &format!("{UPDATE_KEY}.pub"), "-rawin"]);
    command.args(["-in", "out/SHA256SUMS", "-sigfile", "signature"]);
    run(command.current_dir(&project.path)).expect_code(0);
    // Any other file.
    let sign = |file: &str| run(compose(&project.path).args(["sign", file, "--key", "one.key"])).expect_code(0);
    assert_eq!(sign(EXAMPLE).stdout, format!("{EXAMPLE}.sig\n{EXAMPLE}.sigstore.json\n"));
    cosign_verifies(project, "out/SHA256SUMS");
    cosign_verifies(project, EXAMPLE);
}

fn cosign_verifies(project: &Project, file: &str) {
    if !tools(&["cosign"]) {
        return;
    }
    let verified = |form: &str, suffix: &str, key: &str| {
        let mut command = Command::new("cosign");
        command.args(["verify-blob", "--insecure-ignore-tlog=true", "--key", key, form]);
        run(command.arg(format!("{file}{suffix}")).arg(file).current_dir(&project.path))
    };
    verified("--bundle", ".sigstore.json", "one.pub").expect_code(0);
    verified("--signature", ".sig", "one.pub").expect_code(0);
    assert_ne!(verified("--bundle", ".sigstore.json", "other.pub").code, 0, "cosign takes another key");
}

/// In another directory, without keys: what is not a signature has the same bytes.
fn the_same_build_elsewhere_writes_the_same(project: &Project) {
    let other = Project::new();
    let lock = "examples/containerd-node.lock";
    fs::copy(project.path.join(lock), other.path.join(lock)).unwrap();
    run(&mut other.build()).expect_code(0);
    for suffix in [".spdx.json", ".cdx.json", ".intoto.json"] {
        let name = format!("{STEM}{suffix}");
        run(Command::new("cmp").arg(out(project, &name)).arg(out(&other, &name))).expect_code(0);
    }
    assert!(!out(&other, &format!("{STEM}.provenance.json")).exists(), "nobody has signed it");
}

/// Changes the byte at `offset`.
fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[test]
fn verify_and_inspect_say_what_an_image_is_and_what_is_wrong_with_it() {
    if !tools(&["openssl"]) {
        return;
    }
    let project = Project::new();
    prepare(&project);
    // It is built from nothing again, quickly; and a byte of the root file system is a byte of a file.
    project.compress_nothing();
    sign_and_build(&project);
    let image = format!("out/{STEM}.img");
    let verify = |target: &str, more: &[&str]| run(compose(&project.path).args(["verify", target]).args(more));
    let ed25519 = format!("{UPDATE_KEY}.pub");
    for keys in [&[][..], &["--key", "one.pub"], &["--key", "one.pub", "--key", &ed25519]] {
        let outcome = verify(&image, keys).expect_code(0);
        contains(
            &outcome.stdout,
            &["SHA256SUMS: lists", ".intoto.json: is about", "vmlinuz: has the digest", "root hash"],
        );
    }
    contains(&verify("out/SHA256SUMS", &["--key", "one.pub"]).expect_code(0).stdout, &[".img: has its digest"]);
    let outcome = verify(&image, &["--key", "one.pub", "--key", "other.pub"]).expect_code(1);
    contains(&outcome.stdout, &["nothing that is signed by key 2 vouches for it"]);
    let outcome = verify(&image, &["--key", "other.pub"]).expect_code(1);
    contains(&outcome.stdout, &["FAILED  SHA256SUMS: none of its 2 signatures", "nothing that is signed by key 1"]);
    contains(&verify("one.pub", &[]).expect_code(1).stdout, &["nothing says what it should be"]);
    contains(&verify("out/missing.img", &[]).expect_code(1).stderr, &["out/missing.img", "No such file"]);
    inspected(&project, &image);
    tampered(&project, &image, verify);
}

fn inspected(project: &Project, image: &str) {
    let outcome = run(compose(&project.path).args(["inspect", image])).expect_code(0);
    contains(&outcome.stdout, &["KSOSSYSA", "Sizes by component", "containerd", "█", "SPDX 2.3", "SLSA, signed"]);
    assert!(outcome.stdout.lines().all(|line| line.chars().count() <= 80), "{}", outcome.stdout);
    let outcome = run(compose(&project.path).args(["inspect", image, "--json"])).expect_code(0);
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let partitions = list(&found, "partitions");
    let labels: Vec<&Value> = partitions.iter().map(|partition| &partition["label"]).collect();
    assert_eq!(labels, ["KSOSEFI", "KSOSSYSA", "KSOSSYSB", "KSOLODATA", "BIOS"], "{found:#}");
    let packages = list(&found["systems"][0], "packages");
    assert!(packages.iter().any(|package| package["name"] == "containerd"), "{found:#}");
}

/// A byte of a file of the root file system, of a document, of a signature; then files that are cut or gone.
fn tampered(project: &Project, image: &str, verify: impl Fn(&str, &[&str]) -> Outcome) {
    let path = project.path.join(image);
    let list = run(compose(&project.path).args(["inspect", image, "--json"])).expect_code(0);
    let list: Value = serde_json::from_str(&list.stdout).unwrap();
    let slot = list["partitions"][1]["offset"].as_u64().unwrap();
    // Well inside of root.squashfs, by far the largest file of the slot.
    let offset = slot + (40 << 20);
    flip(&path, offset);
    let outcome = verify(image, &[]).expect_code(1);
    let wrong =
        ["FAILED  SHA256SUMS: lists", ".intoto.json: is about", "root.squashfs: has SHA-256", "dm-verity: block"];
    contains(&outcome.stdout, &wrong);
    let runtime = format!("runtime={}", runtime().display());
    let outcome = verify(image, &["--rebuild", "--quiet", "--component", &runtime]).expect_code(1);
    contains(
        &outcome.stdout,
        &[
            &format!("the first difference is at byte {offset} of the disk\n"),
            &format!("partition 2 KSOSSYSA: byte {}\n", 40 << 20),
            "root.squashfs: byte ",
            ": content, byte ",
        ],
    );
    flip(&path, offset);
    verify(image, &["--key", "one.pub"]).expect_code(0);

    let statement = out(project, &format!("{STEM}.intoto.json"));
    let whole = fs::read(&statement).unwrap();
    fs::write(&statement, &whole[..whole.len() / 2]).unwrap();
    contains(&verify(image, &[]).expect_code(1).stdout, &[".intoto.json: not an in-toto statement: EOF", "line "]);
    fs::write(&statement, whole).unwrap();
    for suffix in [".sig", ".sigstore.json"] {
        fs::write(out(project, &format!("SHA256SUMS{suffix}")), "{\"messageSignature\": {").unwrap();
    }
    contains(&verify(image, &["--key", "one.pub"]).expect_code(1).stdout, &["FAILED  SHA256SUMS: none of its 2"]);
    fs::remove_file(out(project, &format!("{STEM}.cdx.json"))).unwrap();
    contains(&verify("out/SHA256SUMS", &[]).expect_code(1).stdout, &[".cdx.json: is missing"]);
    fs::write(out(project, "SHA256SUMS"), "nonsense\n").unwrap();
    contains(&verify(image, &[]).expect_code(1).stdout, &["FAILED  SHA256SUMS: line 1: not a digest and a name"]);
    fs::File::options().write(true).open(&path).unwrap().set_len(100 << 20).unwrap();
    contains(&verify(image, &[]).expect_code(1).stdout, &["partition table: partition 1 is not inside the disk"]);
    run(compose(&project.path).args(["inspect", image])).expect_code(2);
}
