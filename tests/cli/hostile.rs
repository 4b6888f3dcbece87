//! Sources that cannot be reached or that lie.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use ksos_tests::run;

use super::Project;

#[test]
fn an_unreachable_component_exits_with_3_and_names_the_way_out() {
    let project = Project::new();
    let url = "http://127.0.0.1:9/kubesolo.tar.gz";
    let manifest = project.path.join("manifests/kubesolo.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("checksums = "))
        .map(|line| if line.starts_with("url = ") { format!("url = \"{url}\"") } else { line.to_owned() });
    fs::write(&manifest, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let outcome = run(&mut project.command("build", "manifests/x86_64-cloud.toml")).expect_code(3);
    for text in ["kubesolo", url, "--component kubesolo=PATH"] {
        assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
    }
    assert!(!project.path.join("out").exists(), "nothing is half-written");
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
fn with_mirror(content_type: &str, body: &str, declared: usize) -> (Project, Command) {
    let project = Project::new();
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
    (project, command)
}

#[test]
fn a_mirror_that_serves_html_with_200_is_named() {
    let page = "<html><body>log in first</body></html>";
    let (project, mut command) = with_mirror("text/html", page, page.len());
    let outcome = run(&mut command).expect_code(3);
    assert!(outcome.stderr.contains("http://127.0.0.1:"), "{}", outcome.stderr);
    assert!(outcome.stderr.to_lowercase().contains("html"), "{}", outcome.stderr);
    assert!(!project.image().exists());
}

#[test]
fn an_unsigned_index_is_refused() {
    let text = "Origin: Debian\nSuite: stable\nCodename: trixie\n";
    let (project, mut command) = with_mirror("text/plain", text, text.len());
    let outcome = run(&mut command).expect_code(3);
    assert!(outcome.stderr.contains("InRelease"), "{}", outcome.stderr);
    assert!(outcome.stderr.to_lowercase().contains("sign"), "{}", outcome.stderr);
    assert!(!project.path.join("examples/containerd-node.lock").exists(), "no lock without a good index");
}

#[test]
fn a_truncated_index_is_refused() {
    let (project, mut command) = with_mirror("text/plain", "-----BEGIN PGP SIGNED MESSAGE-----\n", 5000);
    let outcome = run(&mut command).expect_code(3);
    assert!(outcome.stderr.contains("InRelease"), "{}", outcome.stderr);
    assert!(!project.image().exists());
}
