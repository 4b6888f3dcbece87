//! Serves a published tree to the guest: plain HTTP on a free port of loopback, one request a connection, and counts what
//! it served.
//!
//! GET and HEAD of regular files below the tree, with one range (RFC 9110, section 14). QEMU's user network leads the
//! guest's 10.0.2.2 here. Nothing outside of the tree is served, no hidden file, and nothing through a symbolic link
//! out of it.

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::effects::fs::{self, Context, FsError};

/// Longest request head in bytes.
const HEAD_LIMIT: u64 = 16 << 10;
/// Time for one read or write.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most connections at a time.
const CONNECTIONS: usize = 32;

/// What was served of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Path below the tree.
    pub path: String,
    /// Status code.
    pub status: u16,
    /// Bytes of the body that went out.
    pub bytes: u64,
}

/// The server. Dropped, it takes no more connections.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    answers: Mutex<Vec<Answer>>,
    stop: AtomicBool,
    connections: Mutex<usize>,
}

/// A lock whose holder cannot leave half of a change behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Serves the tree at `root`.
    ///
    /// # Errors
    /// The tree is not there, or loopback has no free port.
    pub fn start(root: &Path) -> Result<Self, FsError> {
        let root = std::fs::canonicalize(root).context("open", root)?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("serve", &root)?;
        let address = listener.local_addr().context("serve", &root)?;
        let stop = AtomicBool::new(false);
        let shared = Arc::new(Shared { root, answers: Mutex::default(), stop, connections: Mutex::default() });
        let server = Server { address, shared: shared.clone() };
        std::thread::spawn(move || accept(&listener, &shared));
        Ok(server)
    }

    /// Returns the port on loopback.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns what was served so far, in the order in which it was asked for.
    pub fn answers(&self) -> Vec<Answer> {
        lock(&self.shared.answers).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // The listener waits for a connection; when this fails, it ends with the process.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let mut connections = lock(&shared.connections);
        if *connections < CONNECTIONS {
            *connections += 1;
            let shared = shared.clone();
            std::thread::spawn(move || {
                // A client that goes away is its own affair.
                let _ = answer(stream, &shared);
                *lock(&shared.connections) -= 1;
            });
        }
    }
}

/// Answers one request.
fn answer(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?.take(HEAD_LIMIT));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut range = None;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("range")
        {
            range = Some(value.trim().to_owned());
        }
    }
    let mut words = line.split_ascii_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path =
        target.split(['?', '#']).next().unwrap_or_default().strip_prefix('/').and_then(decode).unwrap_or_default();
    let index = {
        let mut answers = lock(&shared.answers);
        answers.push(Answer { path: path.clone(), status: 0, bytes: 0 });
        answers.len() - 1
    };
    let note = |status: u16, bytes: u64| {
        let mut answers = lock(&shared.answers);
        (answers[index].status, answers[index].bytes) = (status, bytes);
    };
    let file = if matches!(method, "GET" | "HEAD") { open(&shared.root, &path) } else { None };
    let mut out = stream;
    let Some((mut file, size)) = file else {
        note(404, 0);
        return out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let asked = range.as_deref().map_or(Asked::Whole, |range| parse_range(range, size));
    let (status, start, length, extra) = match asked {
        Asked::Whole => ("200 OK", 0, size, String::new()),
        Asked::Part { start, length } => {
            let last = start + length - 1;
            ("206 Partial Content", start, length, format!("Content-Range: bytes {start}-{last}/{size}\r\n"))
        }
        Asked::Outside => ("416 Range Not Satisfiable", 0, 0, format!("Content-Range: bytes */{size}\r\n")),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nAccept-Ranges: bytes\r\n{extra}Connection: close\r\n\r\n"
    );
    let code = status[..3].parse().unwrap_or_default();
    note(code, 0);
    out.write_all(head.as_bytes())?;
    if method == "HEAD" {
        return Ok(());
    }
    file.seek(SeekFrom::Start(start))?;
    let mut body = file.take(length);
    let (mut buffer, mut sent) = (vec![0; 64 << 10], 0);
    loop {
        let count = body.read(&mut buffer)?;
        if count == 0 {
            return out.flush();
        }
        out.write_all(&buffer[..count])?;
        sent += count as u64;
        note(code, sent);
    }
}

/// Decodes `%2B` and the like (RFC 3986, section 2.1).
fn decode(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok()
}

/// Opens a regular file of the tree; its size.
fn open(root: &Path, path: &str) -> Option<(std::fs::File, u64)> {
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', '\0']);
    if !path.split('/').all(plain) {
        return None;
    }
    let path = std::fs::canonicalize(root.join(path)).ok().filter(|path| path.starts_with(root))?;
    let file = fs::open(&path).ok()?;
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some((file, metadata.len()))
}

/// What part of a file is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part { start: u64, length: u64 },
    Outside,
}

/// Reads `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-LENGTH`; anything else, several ranges among it, is the whole
/// (RFC 9110, section 14.2: a server may ignore the field).
fn parse_range(text: &str, size: u64) -> Asked {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Asked::Whole;
    };
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (start, end) = match (number(first), number(last)) {
        (Some(start), Some(last)) if start <= last => (start, last.saturating_add(1).min(size)),
        (Some(start), None) if last.is_empty() => (start, size),
        (None, Some(length)) if first.is_empty() => (size.saturating_sub(length), size),
        _ => return Asked::Whole,
    };
    if start < end { Asked::Part { start, length: end - start } } else { Asked::Outside }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let part = |start, length| Asked::Part { start, length };
        let table = [
            ("bytes=0-0", part(0, 1)),
            ("bytes=2-5", part(2, 4)),
            ("bytes=2-", part(2, 8)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-30", part(0, 10)),
            ("bytes=8-99", part(8, 2)),
            ("bytes=10-", Asked::Outside),
            ("bytes=10-12", Asked::Outside),
            ("bytes=-0", Asked::Outside),
            ("bytes=5-2", Asked::Whole),
            ("bytes=0-1,4-5", Asked::Whole),
            ("bytes=", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("lines=0-1", Asked::Whole),
            ("bytes=0-18446744073709551615", part(0, 10)),
        ];
        for (text, expected) in table {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
    }

    fn ask(port: u16, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "makes a tree, and what is beside it")]
    fn it_serves_the_tree_and_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let tree = directory.path().join("tree");
        std::fs::create_dir_all(tree.join("channels/stable")).expect("made");
        std::fs::write(tree.join("channels/stable/os-x86_64.json"), "0123456789").expect("written");
        std::fs::write(tree.join(".key"), "secret").expect("written");
        std::fs::write(directory.path().join("outside"), "secret").expect("written");
        std::os::unix::fs::symlink("../outside", tree.join("link")).expect("linked");
        let server = Server::start(&tree).expect("it starts");
        let get =
            |path: &str, header: &str| ask(server.port(), &format!("GET /{path} HTTP/1.1\r\nHost: x\r\n{header}\r\n"));
        let path = "channels/stable/os-x86_64.json";
        let whole = get(path, "");
        assert!(
            whole.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n") && whole.ends_with("\r\n\r\n0123456789")
        );
        assert!(get("channels/stable/os%2Dx86_64.json", "").ends_with("\r\n\r\n0123456789"));
        let part = get(path, "range: bytes=2-4\r\n");
        assert!(part.starts_with("HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n"), "{part}");
        assert!(part.contains("Content-Range: bytes 2-4/10\r\n") && part.ends_with("\r\n\r\n234"), "{part}");
        assert!(get(path, "Range: bytes=10-\r\n").starts_with("HTTP/1.1 416 "));
        let head = ask(server.port(), &format!("HEAD /{path} HTTP/1.1\r\n\r\n"));
        assert!(head.contains("Content-Length: 10\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        for path in [
            "",
            "channels",
            "nothing",
            "../outside",
            "channels/../.key",
            ".key",
            "link",
            "channels//stable",
            "%2e%2e/outside",
            "channels%",
            "%zz",
            "%ff",
            "channels/stable%2F..%2F..%2F.key",
        ] {
            assert!(get(path, "").starts_with("HTTP/1.1 404 "), "{path}");
        }
        assert!(ask(server.port(), &format!("POST /{path} HTTP/1.1\r\n\r\n")).starts_with("HTTP/1.1 404 "));
        let answers = server.answers();
        let of =
            |status| answers.iter().filter(|answer| answer.status == status).map(|answer| answer.bytes).sum::<u64>();
        assert_eq!((of(200), of(206), of(416), of(404)), (20, 3, 0, 0));
    }
}
