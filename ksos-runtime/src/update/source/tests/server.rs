//! The server: one thread per connection, answers as a test says, notes what it was asked.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Method and request target.
    pub(super) line: String,
    fields: Vec<(String, String)>,
    /// Which connection it came on, from 0.
    pub(super) connection: usize,
}

impl Seen {
    /// Returns the value of a field; `name` is lower-case.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// Returns the request target of a GET.
    pub(super) fn target(&self) -> &str {
        self.line.strip_prefix("GET ").unwrap_or(&self.line)
    }

    /// Returns first and last byte asked for.
    pub(super) fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.field("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

/// What happens behind the bytes of an answer.
#[derive(Debug, Clone)]
pub(super) enum Then {
    /// The next request.
    Go,
    /// The connection is closed.
    Close,
    /// It is reset.
    Reset,
    /// Nothing more comes, and the connection stays.
    Hang,
    /// The same few bytes again and again, with pauses or without, until the other side closes.
    Repeat(Vec<u8>, Duration),
    /// A tunnel to this port.
    Tunnel(u16),
}

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) bytes: Vec<u8>,
    pub(super) then: Then,
}

impl Reply {
    /// Returns an answer with these fields, each ended by CRLF, and this body, whose length is stated.
    pub(super) fn new(status: u16, fields: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{fields}\r\n", body.len());
        Reply { bytes: [head.as_bytes(), body].concat(), then: Then::Go }
    }

    /// Returns these bytes.
    pub(super) fn raw(bytes: impl AsRef<[u8]>, then: Then) -> Self {
        Reply { bytes: bytes.as_ref().to_vec(), then }
    }

    /// Returns the first `count` bytes of this answer, and what happens then.
    pub(super) fn cut(mut self, count: usize, then: Then) -> Self {
        self.bytes.truncate(count);
        Reply { then, ..self }
    }

    /// Returns where the body begins.
    pub(super) fn body_start(&self) -> usize {
        self.bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4
    }
}

/// Answers a request for a file, or for a range of it.
pub(super) fn file(seen: &Seen, bytes: &[u8], fields: &str) -> Reply {
    match seen.range() {
        Some((first, last)) => {
            let fields = format!("Content-Range: bytes {first}-{last}/{}\r\n{fields}", bytes.len());
            Reply::new(206, &fields, &bytes[first..=last])
        }
        None => Reply::new(200, fields, bytes),
    }
}

type Answer = dyn Fn(&Seen) -> Reply + Send + Sync;

/// A running server. It ends with the process.
pub(super) struct Server {
    pub(super) port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Starts a server.
    pub(super) fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Server::start_with(None, Arc::new(answer))
    }

    /// Starts a server with TLS.
    pub(super) fn start_tls(tls: Arc<ServerConfig>, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Server::start_with(Some(tls), Arc::new(answer))
    }

    fn start_with(tls: Option<Arc<ServerConfig>>, answer: Arc<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().flatten().enumerate() {
                let (tls, answer, all) = (tls.clone(), Arc::clone(&answer), Arc::clone(&all));
                std::thread::spawn(move || {
                    let tcp = stream.try_clone().expect("a second handle");
                    let _ = match tls {
                        None => talk(stream, &tcp, &*answer, &all, connection),
                        Some(config) => {
                            let session = ServerConnection::new(config).expect("a session");
                            talk(StreamOwned::new(session, stream), &tcp, &*answer, &all, connection)
                        }
                    };
                });
            }
        });
        Server { port, seen }
    }

    /// Returns what was asked so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }

    /// Returns the request targets so far.
    pub(super) fn targets(&self) -> Vec<String> {
        self.seen().iter().map(|seen| seen.target().to_owned()).collect()
    }

    /// Returns `SCHEME://127.0.0.1:PORT/PATH`.
    pub(super) fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/{path}", self.port)
    }
}

fn talk(
    mut stream: impl Read + Write,
    tcp: &TcpStream,
    answer: &Answer,
    all: &Mutex<Vec<Seen>>,
    connection: usize,
) -> io::Result<()> {
    while let Some(seen) = read_request(&mut stream, connection)? {
        all.lock().expect("no panic").push(seen.clone());
        let reply = answer(&seen);
        stream.write_all(&reply.bytes)?;
        stream.flush()?;
        match reply.then {
            Then::Go => {}
            Then::Close => return tcp.shutdown(std::net::Shutdown::Both),
            Then::Reset => {
                rustix::net::sockopt::set_socket_linger(tcp, Some(Duration::ZERO))?;
                return Ok(());
            }
            Then::Hang => {
                let _ = stream.read(&mut [0]);
                return Ok(());
            }
            Then::Repeat(bytes, pause) => loop {
                stream.write_all(&bytes)?;
                stream.flush()?;
                std::thread::sleep(pause);
            },
            Then::Tunnel(port) => return tunnel(tcp, port),
        }
    }
    Ok(())
}

fn tunnel(tcp: &TcpStream, port: u16) -> io::Result<()> {
    let other = TcpStream::connect(("127.0.0.1", port))?;
    let (mut from, mut to) = (tcp.try_clone()?, other.try_clone()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        to.shutdown(std::net::Shutdown::Write)
    });
    io::copy(&mut &other, &mut &*tcp)?;
    tcp.shutdown(std::net::Shutdown::Both)
}

fn read_request(stream: &mut impl Read, connection: usize) -> io::Result<Option<Seen>> {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        bytes.push(byte[0]);
    }
    let text = String::from_utf8(bytes).expect("text");
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    let fields = lines.filter_map(|line| line.split_once(": "));
    let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Ok(Some(Seen { line, fields, connection }))
}
