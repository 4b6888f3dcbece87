//! One connection to a server: TCP, a tunnel through a proxy, TLS.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::SourceError;
use super::message::{HEAD_LIMIT, Head, io_error};
use super::pace::{Pace, Watch};
use super::url::{Origin, Scheme, Url};

/// Bytes that are read at once: a TLS record.
const READ_SIZE: usize = 16 << 10;
/// Most addresses of a host that are tried.
const MAX_ADDRESSES: usize = 8;

/// A proxy that is spoken to without TLS.
#[derive(Clone)]
pub(super) struct Proxy {
    /// Where it is.
    pub(super) origin: Origin,
    /// Value of `Proxy-Authorization`.
    pub(super) authorization: Option<String>,
}

/// Shows no password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// A TCP connection that is read no faster than allowed, and given up when it is too slow.
#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    pace: Rc<Pace>,
    watch: Watch,
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.pace.wait();
        let size = buffer.len().min(READ_SIZE);
        let begin = self.pace.clock.now();
        let count = self.stream.read(&mut buffer[..size])?;
        let time = self.pace.clock.now().saturating_sub(begin);
        self.pace.spend(count);
        if count > 0 {
            self.watch.add(&self.pace.limits, time, count)?;
        }
        Ok(count)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[derive(Debug)]
enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

impl Stream {
    fn socket(&mut self) -> &mut Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => &mut stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

/// What connections are opened with.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) tls: Arc<ClientConfig>,
    pub(super) proxy: Option<Proxy>,
    pub(super) pace: Rc<Pace>,
}

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Connection {
    origin: Origin,
    reader: BufReader<Stream>,
}

/// Why there was no head.
pub(super) struct NoHead {
    /// Whether nothing at all came: a connection that was kept open may have been closed meanwhile.
    pub(super) nothing: bool,
    /// What happened.
    pub(super) error: SourceError,
}

impl Dialer {
    /// Connects to the server of `url`.
    pub(super) fn open(&self, url: &Url) -> Result<Connection, SourceError> {
        let origin = &url.origin;
        let stream = match (&self.proxy, origin.scheme) {
            (None, Scheme::Http) => Stream::Plain(self.dial(url, origin)?),
            (Some(proxy), Scheme::Http) => Stream::Plain(self.dial(url, &proxy.origin)?),
            (None, Scheme::Https) => self.tls(url, self.dial(url, origin)?)?,
            (Some(proxy), Scheme::Https) => self.tls(url, self.tunnel(url, proxy)?)?,
        };
        Ok(Connection { origin: origin.clone(), reader: BufReader::with_capacity(READ_SIZE, stream) })
    }

    fn dial(&self, url: &Url, origin: &Origin) -> Result<Socket, SourceError> {
        let network = |reason: String| SourceError::Network { url: url.to_string(), reason };
        let limits = &self.pace.limits;
        let addresses = (origin.host.as_str(), origin.port).to_socket_addrs();
        let addresses = addresses.map_err(|error| network(format!("{}: {error}", origin.host)))?;
        let mut last = format!("{} has no address", origin.host);
        for address in addresses.take(MAX_ADDRESSES) {
            let stream = TcpStream::connect_timeout(&address, limits.connect).and_then(|stream| {
                stream.set_read_timeout(Some(limits.idle))?;
                stream.set_write_timeout(Some(limits.idle))?;
                stream.set_nodelay(true)?;
                Ok(stream)
            });
            match stream {
                Ok(stream) => return Ok(Socket { stream, pace: Rc::clone(&self.pace), watch: Watch::default() }),
                Err(error) => last = format!("connect to {address}: {error}"),
            }
        }
        Err(network(last))
    }

    fn tls(&self, url: &Url, socket: Socket) -> Result<Stream, SourceError> {
        let failed = |reason: String| SourceError::Tls { url: url.to_string(), reason };
        let name = ServerName::try_from(url.origin.host.clone()).map_err(|error| failed(error.to_string()))?;
        let connection =
            ClientConnection::new(Arc::clone(&self.tls), name).map_err(|error| failed(error.to_string()))?;
        Ok(Stream::Tls(Box::new(StreamOwned::new(connection, socket))))
    }

    /// Asks a proxy for a tunnel (RFC 9110, section 9.3.6).
    fn tunnel(&self, url: &Url, proxy: &Proxy) -> Result<Socket, SourceError> {
        let mut socket = self.dial(url, &proxy.origin)?;
        let host = url.origin.with_port();
        let mut request = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n");
        if let Some(authorization) = &proxy.authorization {
            request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
        }
        request.push_str("\r\n");
        socket.write_all(request.as_bytes()).map_err(|error| io_error(url, &self.pace.limits, &error))?;
        let mut reader = BufReader::with_capacity(READ_SIZE, socket);
        let head = read_head(&mut reader, url, &self.pace).map_err(|none| none.error)?;
        let url = format!("proxy {} for {url}", proxy.origin);
        match head.status {
            200..=299 if reader.buffer().is_empty() => Ok(reader.into_inner()),
            200..=299 => Err(SourceError::Protocol { url, reason: "bytes before the tunnel is used".to_owned() }),
            status @ (401 | 403 | 407) => {
                let reason = if proxy.authorization.is_some() { "with a password" } else { "without a password" };
                Err(SourceError::NotAllowed { url, status, reason: reason.to_owned() })
            }
            status => Err(SourceError::Status { url, status }),
        }
    }
}

impl Connection {
    /// Whether it leads to this server.
    pub(super) fn leads_to(&self, origin: &Origin) -> bool {
        self.origin == *origin
    }

    /// Sends a request and reads the head of the answer.
    pub(super) fn ask(&mut self, request: &[u8], url: &Url, pace: &Pace) -> Result<Head, NoHead> {
        let stream = self.reader.get_mut();
        stream.socket().watch = Watch::default();
        let sent = stream.write_all(request).and_then(|()| stream.flush());
        sent.map_err(|error| NoHead { nothing: true, error: io_error(url, &pace.limits, &error) })?;
        read_head(&mut self.reader, url, pace)
    }

    /// Returns what has come of the body, at least one byte; nothing at the end of the connection.
    pub(super) fn fill(&mut self) -> io::Result<&[u8]> {
        fill(&mut self.reader)
    }

    /// Takes bytes that [`Connection::fill`] returned.
    pub(super) fn consume(&mut self, count: usize) {
        self.reader.consume(count);
    }
}

fn fill<R: Read>(reader: &mut BufReader<R>) -> io::Result<&[u8]> {
    while reader.buffer().is_empty() {
        match reader.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The end without TLS's own end. Whether anything is missing is seen by the length.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(reader.buffer())
}

/// Reads the head of the final answer; informational ones (RFC 9110, section 15.2) are left out.
fn read_head<R: Read>(reader: &mut BufReader<R>, url: &Url, pace: &Pace) -> Result<Head, NoHead> {
    let mut bytes = Vec::new();
    // Informational answers count, so that they are not endless.
    let mut left = 2 * HEAD_LIMIT;
    loop {
        let nothing = bytes.is_empty() && left == 2 * HEAD_LIMIT;
        let came = fill(reader).map_err(|error| NoHead { nothing, error: io_error(url, &pace.limits, &error) })?;
        if came.is_empty() {
            let reason = if nothing { "closed without an answer" } else { "closed within the head of the answer" };
            let error = SourceError::Network { url: url.to_string(), reason: reason.to_owned() };
            return Err(NoHead { nothing, error });
        }
        let (before, count) = (bytes.len(), came.len());
        bytes.extend_from_slice(came);
        let protocol =
            |reason: String| NoHead { nothing: false, error: SourceError::Protocol { url: url.to_string(), reason } };
        match Head::parse(&bytes).map_err(protocol)? {
            None => reader.consume(count),
            Some((head, length)) => {
                reader.consume(length.saturating_sub(before));
                if !(100..200).contains(&head.status) {
                    return Ok(head);
                }
                left = left.saturating_sub(length);
                if head.status == 101 || left == 0 {
                    return Err(protocol(format!("status {}", head.status)));
                }
                bytes.clear();
            }
        }
    }
}
