//! Fetches the kubeconfig that a running node serves and points it at this host.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::RunError;
use crate::effects::fs::{AtomicFile, Context};

/// Port of the node that serves it.
pub(super) const PORT: u16 = 8080;
/// Port of the node's API server.
pub(super) const API_PORT: u16 = 6443;
/// Largest kubeconfig, in bytes.
const LIMIT: u64 = 1 << 20;
/// Time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Returns a port of this host that is free now.
///
/// # Errors
/// When loopback has none.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A fetch that goes on while the guest runs.
#[derive(Debug)]
pub(super) struct Fetch {
    result: Receiver<Result<(), RunError>>,
    done: bool,
}

/// What to fetch.
#[derive(Debug, Clone)]
pub struct KubeconfigRequest {
    /// File that it is written to, mode 0600.
    pub path: PathBuf,
    /// Port of this host that leads to the node's port 8080.
    pub port: u16,
    /// Port of this host that leads to the node's API server.
    pub api_port: u16,
    /// What the node asks for.
    pub token: String,
}

impl Fetch {
    /// Starts to ask, until the node answers. The thread ends with the process.
    pub(super) fn start(request: KubeconfigRequest) -> Self {
        let (sender, result) = channel();
        std::thread::spawn(move || {
            let text = loop {
                match ask(&request) {
                    Some(text) => break text,
                    None => std::thread::sleep(PAUSE),
                }
            };
            // Nobody may be waiting for it any more.
            let _ = sender.send(save(&text, &request));
        });
        Fetch { result, done: false }
    }

    /// Waits for the file until `limit` has passed; whether it is there.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<bool, RunError> {
        if self.done {
            return Ok(true);
        }
        match self.result.recv_timeout(limit) {
            Ok(result) => {
                self.done = true;
                result.map(|()| true)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(false),
        }
    }
}

/// Asks once; anything but a kubeconfig is no answer yet.
fn ask(request: &KubeconfigRequest) -> Option<String> {
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).proxy(None).build();
    let answer = agent
        .new_agent()
        .get(format!("http://127.0.0.1:{}/kubeconfig", request.port))
        .header("Authorization", format!("Bearer {}", request.token))
        .call();
    let mut answer = answer.ok().filter(|answer| answer.status() == 200)?;
    answer.body_mut().with_config().limit(LIMIT).read_to_string().ok()
}

fn save(text: &str, request: &KubeconfigRequest) -> Result<(), RunError> {
    let path: &Path = &request.path;
    let rewritten = point_at(text, request.api_port).ok_or_else(|| RunError::Kubeconfig(path.to_owned()))?;
    let mut file = AtomicFile::create(path)?;
    std::io::Write::write_all(file.file(), rewritten.as_bytes()).context("write", path)?;
    Ok(file.commit(0o600)?)
}

/// Replaces the address of every server; `None` when there is none.
fn point_at(text: &str, port: u16) -> Option<String> {
    let mut found = false;
    let lines = text.lines().map(|line| match line.trim_start().trim_start_matches("- ").starts_with("server:") {
        true => {
            found = true;
            let at = line.find("server:").unwrap_or(0);
            format!("{}server: https://127.0.0.1:{port}\n", &line[..at])
        }
        false => format!("{line}\n"),
    });
    let rewritten: String = lines.collect();
    found.then_some(rewritten)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    const TEXT: &str = "apiVersion: v1\nclusters:\n- cluster:\n    server: https://10.0.2.15:6443\n  name: default\n";

    #[test]
    fn the_server_becomes_the_forwarded_port() {
        let expected = TEXT.replace("https://10.0.2.15:6443", "https://127.0.0.1:7000");
        assert_eq!(point_at(TEXT, 7000), Some(expected));
        assert_eq!(point_at("<html></html>", 7000), None);
    }

    #[test]
    fn it_asks_with_the_token_until_the_node_answers() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = server.local_addr().expect("an address").port();
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("kubeconfig");
        let request = KubeconfigRequest { path: path.clone(), port, api_port: 7001, token: "secret".to_owned() };
        let mut fetch = Fetch::start(request);
        for answer in ["HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n".to_owned(), ok(TEXT)] {
            let (mut stream, _) = server.accept().expect("a caller");
            let mut head = [0; 2048];
            let length = stream.read(&mut head).expect("a request");
            let head = String::from_utf8_lossy(&head[..length]).to_lowercase();
            assert!(head.starts_with("get /kubeconfig "), "{head}");
            assert!(head.contains("authorization: bearer secret"), "{head}");
            stream.write_all(answer.as_bytes()).expect("answered");
        }
        assert!(fetch.wait(Duration::from_secs(30)).expect("written"));
        let text = std::fs::read_to_string(&path).expect("there");
        assert!(text.contains("server: https://127.0.0.1:7001\n"), "{text}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().expect("there").permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    fn ok(text: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
    }
}
