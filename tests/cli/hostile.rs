//! Sources that cannot be reached or that lie.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use ksos_tests::run;

use super::Project;

/// What an earlier build left, which no failure may touch: every file's name and bytes.
struct Old(BTreeMap<PathBuf, Vec<u8>>);

impl Old {
    /// Puts outputs of an earlier build in place.
    fn of(project: &Project) -> Self {
        let out = project.path.join("out");
        fs::create_dir_all(out.join("containerd-node-0.1.0-x86_64.update")).unwrap();
        for name in OUTPUTS {
            fs::write(out.join(name), format!("{name} of the last build")).unwrap();
        }
        Old(Self::read(project))
    }

    fn read(project: &Project) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut left = vec![project.path.join("out")];
        while let Some(path) = left.pop() {
            if path.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                let bytes = fs::read(&path).unwrap();
                files.insert(path, bytes);
            }
        }
        files
    }

    #[track_caller]
    fn assert_untouched(&self, project: &Project) {
        let now = Self::read(project);
        let names: Vec<_> = now.keys().collect();
        assert!(now == self.0, "the old outputs were changed, or there are others: {names:?}");
        let locks = fs::read_dir(project.path.join("examples")).unwrap().map(|entry| entry.unwrap().path());
        let locks: Vec<_> = locks.filter(|path| path.extension().is_some_and(|end| end == "lock")).collect();
        assert!(locks.is_empty(), "no lock is left by a failure: {locks:?}");
    }
}

const OUTPUTS: [&str; 5] = [
    "containerd-node-0.1.0-x86_64.img",
    "containerd-node-0.1.0-x86_64.update/release.json",
    "containerd-node-0.1.0-x86_64.spdx.json",
    "kubesolo-os-cloud-0.1.0-x86_64.img",
    "SHA256SUMS",
];

#[test]
fn an_unreachable_component_exits_with_3_and_names_the_way_out() {
    let project = Project::new();
    let url = "http://127.0.0.1:9/kubesolo.tar.gz";
    let old = Old::of(&project);
    take_kubesolo_from(&project, url, "");
    let outcome = run(&mut project.command("build", "manifests/x86_64-cloud.toml")).expect_code(3);
    for text in ["kubesolo", url, "--component kubesolo=PATH"] {
        assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
    }
    old.assert_untouched(&project);
}

/// Makes `url` the place of KubeSolo's release, and adds `more` to its component.
fn take_kubesolo_from(project: &Project, url: &str, more: &str) {
    let manifest = project.path.join("manifests/kubesolo.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("checksums = "))
        .map(|line| if line.starts_with("url = ") { format!("url = \"{url}\"\n{more}") } else { line.to_owned() });
    fs::write(&manifest, lines.collect::<Vec<_>>().join("\n")).unwrap();
}

#[test]
fn a_download_with_another_digest_than_the_manifest_states_is_refused() {
    let project = Project::new();
    let old = Old::of(&project);
    let body = b"not what was released";
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let url = format!("{}/kubesolo.tar.gz", serve([head.as_bytes(), body].concat()));
    let expected = "5".repeat(64);
    take_kubesolo_from(&project, &url, &format!("sha256 = {{ x86_64 = \"{expected}\", arm64 = \"{expected}\" }}"));
    let outcome = run(&mut project.command("build", "manifests/x86_64-cloud.toml")).expect_code(3);
    let actual = ksos_formats::Digest::of(body).hex();
    for text in ["kubesolo", &url, &expected, &actual, "--component kubesolo=PATH"] {
        assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
    }
    old.assert_untouched(&project);
}

#[test]
fn an_archive_that_leads_out_or_ends_early_is_refused() {
    let project = Project::new();
    let old = Old::of(&project);
    let archive = project.path.join("evil.tar.gz");
    let pack = "echo x > file && tar -czPf evil.tar.gz --transform 's,^,../,' file";
    run(Command::new("sh").args(["-c", pack]).current_dir(&project.path)).expect_code(0);
    let refused = |texts: &[&str]| {
        let outcome = run(project.build().args(["--component", "shim=evil.tar.gz"])).expect_code(1);
        for text in ["unpack shim"].iter().chain(texts) {
            assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
        }
        // The sources were all there: what they are locked to is no part of what failed.
        fs::remove_file(project.path.join("examples/containerd-node.lock")).unwrap();
        old.assert_untouched(&project);
    };
    refused(&["../file", "not a valid path"]);
    assert!(!project.path.join("../file").exists(), "nothing is written where the archive says");
    let bytes = fs::read(&archive).unwrap();
    fs::write(&archive, &bytes[..bytes.len() / 2]).unwrap();
    refused(&[]);
}

/// Answers every request with `response`, until the process ends.
fn serve(response: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(&response);
        }
    });
    format!("http://{address}")
}

/// The example with an empty cache and one mirror that gives one answer to everything.
fn with_mirror(content_type: &str, body: &str, declared: usize) -> (Project, Old, Command) {
    let project = Project::new();
    let old = Old::of(&project);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {declared}\r\nConnection: close\r\n\r\n"
    );
    let mirror = serve([head.as_bytes(), body.as_bytes()].concat());
    let mut command = project.build();
    command.env("KSOS_APT_MIRROR", format!("{mirror}/debian")).env("KSOS_CACHE", project.path.join("cache"));
    // No other mirror can help: everything but loopback goes through a proxy that is not there.
    for name in ["http_proxy", "https_proxy"] {
        command.env(name, "http://127.0.0.1:9");
    }
    command.env("no_proxy", "127.0.0.1");
    (project, old, command)
}

#[test]
fn a_mirror_that_serves_html_with_200_is_named() {
    let page = "<html><body>log in first</body></html>";
    let (project, old, mut command) = with_mirror("text/html", page, page.len());
    let outcome = run(&mut command).expect_code(3);
    assert!(outcome.stderr.contains("http://127.0.0.1:"), "{}", outcome.stderr);
    assert!(outcome.stderr.to_lowercase().contains("html"), "{}", outcome.stderr);
    old.assert_untouched(&project);
}

#[test]
fn an_unsigned_index_is_refused() {
    let text = "Origin: Debian\nSuite: stable\nCodename: trixie\n";
    let (project, old, mut command) = with_mirror("text/plain", text, text.len());
    let outcome = run(&mut command).expect_code(3);
    assert!(outcome.stderr.contains("InRelease"), "{}", outcome.stderr);
    assert!(outcome.stderr.to_lowercase().contains("sign"), "{}", outcome.stderr);
    old.assert_untouched(&project);
}

#[test]
fn a_truncated_index_is_refused() {
    let (project, old, mut command) = with_mirror("text/plain", "-----BEGIN PGP SIGNED MESSAGE-----\n", 5000);
    let outcome = run(&mut command).expect_code(3);
    assert!(outcome.stderr.contains("InRelease"), "{}", outcome.stderr);
    old.assert_untouched(&project);
}
