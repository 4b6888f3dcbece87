//! Certificates: the platform's store, `SSL_CERT_FILE`, and the refusal of strangers.
#![expect(clippy::disallowed_methods, reason = "runs openssl, and this test again with another environment")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::effects::net::Fetch;

struct Openssl(Child);

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes a certificate for `localhost` in `directory` and serves its files; returns the port.
fn serve(directory: &Path) -> Option<(Openssl, u16)> {
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(directory).stdin(Stdio::null()).stderr(Stdio::null());
        command
    };
    let make = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost \
                -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE";
    let made = openssl(&make.split_whitespace().collect::<Vec<_>>()).status();
    if !made.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "openssl is not installed");
        println!("skipped: openssl is not installed");
        return None;
    }
    std::fs::write(directory.join("file"), b"over TLS").unwrap();
    let serve = ["s_server", "-accept", "127.0.0.1:0", "-cert", "cert.pem", "-key", "key.pem", "-WWW"];
    let mut child = openssl(&serve).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("ACCEPT") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "openssl s_server ended");
    }
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    let port = line.trim().rsplit(':').next().unwrap().parse().unwrap();
    Some((Openssl(child), port))
}

fn fetch(port: u16) -> Result<crate::cache::Blob, FetchError> {
    let fixture = Fixture::new(NetOptions { retries: 0, stall_timeout: Duration::from_secs(5), ..quick() });
    fixture.downloader.blob(&request(&[format!("https://localhost:{port}/file")], b"over TLS"))
}

#[test]
fn a_certificate_of_a_stranger_is_refused_and_one_in_ssl_cert_file_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let Some((_server, port)) = serve(directory.path()) else { return };
    let error = fetch(port).unwrap_err();
    assert!(cause(&error).starts_with("the encrypted connection failed: "), "{error}");

    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "effects::net::tests::tls::with_ssl_cert_file", "--ignored"])
        .env("SSL_CERT_FILE", directory.path().join("cert.pem"))
        .env("KSOS_TEST_PORT", port.to_string())
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
    assert!(String::from_utf8_lossy(&again.stdout).contains("1 passed"));
}

#[test]
#[ignore = "run by the test above, with SSL_CERT_FILE set"]
fn with_ssl_cert_file() {
    let Some(port) = std::env::var("KSOS_TEST_PORT").ok() else { return };
    fetch(port.parse().unwrap()).unwrap();
}
