//! One request to the API server on this machine.
//!
//! rustls is used directly, not through an HTTP client: the client's configuration would panic on a key that does not
//! fit its certificate, resolve names in a thread of its own, and keep buffers. The request is HTTP/1.0, to which "a
//! server MUST NOT send" chunks (RFC 9112, section 7.1), so the answer is a head and bytes up to the end.
//!
//! The address is always 127.0.0.1, whatever host the kubeconfig names; the server's certificate must be valid for it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Stream};

use super::credentials::Credentials;

/// Largest head of an answer in bytes.
const HEAD_LIMIT: usize = 16 << 10;
/// Most field lines of an answer.
const FIELD_LIMIT: usize = 64;

/// A request that got no usable answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// No connection.
    #[error("connect to 127.0.0.1:{0}: {1}")]
    Connect(u16, io::Error),
    /// Nothing in time.
    #[error("127.0.0.1:{0}: no answer within {1} s")]
    Timeout(u16, u64),
    /// TLS or the connection failed.
    #[error("127.0.0.1:{0}: {1}")]
    Connection(u16, io::Error),
    /// TLS could not begin.
    #[error("127.0.0.1:{0}: {1}")]
    Tls(u16, rustls::Error),
    /// It is not HTTP, or not whole.
    #[error("127.0.0.1:{0}: {1}")]
    Answer(u16, &'static str),
    /// It is too large.
    #[error("127.0.0.1:{0}: the answer has more than {1} bytes")]
    Size(u16, usize),
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// Status code.
    pub(super) status: u16,
    /// Body.
    pub(super) body: Vec<u8>,
}

/// Asks for `path`, which must be a valid request target; the body has at most `limit` bytes.
pub(super) fn get(credentials: &Credentials, path: &str, limit: usize, time: Duration) -> Result<Answer, ApiError> {
    let port = credentials.port;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ApiError::Timeout(port, time.as_secs()),
        _ => ApiError::Connection(port, error),
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let deadline = Instant::now() + time;
    let stream = TcpStream::connect_timeout(&address, time).map_err(|error| ApiError::Connect(port, error))?;
    let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
    let mut tls =
        ClientConnection::new(Arc::clone(&credentials.tls), name).map_err(|error| ApiError::Tls(port, error))?;
    let mut socket = Timed { stream, deadline };
    let mut stream = Stream::new(&mut tls, &mut socket);
    let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let bytes = read_to_end(&mut stream, port, limit, &failed)?;
    parse(&bytes, port, limit)
}

fn read_to_end(
    stream: &mut impl Read,
    port: u16,
    limit: usize,
    failed: &dyn Fn(io::Error) -> ApiError,
) -> Result<Vec<u8>, ApiError> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(buffer.get(..count).unwrap_or(&[])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The end without TLS's own end. Whether anything is missing is seen by the length.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !bytes.is_empty() => return Ok(bytes),
            Err(error) => return Err(failed(error)),
        }
        if bytes.len() > limit + HEAD_LIMIT {
            return Err(ApiError::Size(port, limit));
        }
    }
}

/// Parses all that came.
pub(super) fn parse(bytes: &[u8], port: u16, limit: usize) -> Result<Answer, ApiError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELD_LIMIT];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(ApiError::Answer(port, "the answer ends in its head")),
        Err(_) => return Err(ApiError::Answer(port, "the answer is not HTTP")),
    };
    let body = bytes.get(length..).unwrap_or(&[]);
    if body.len() > limit {
        return Err(ApiError::Size(port, limit));
    }
    let field = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let stated =
        field.map(|field| std::str::from_utf8(field.value).ok().and_then(|text| text.trim().parse::<usize>().ok()));
    match stated {
        Some(Some(stated)) if body.len() == stated => {}
        None => {}
        Some(_) => return Err(ApiError::Answer(port, "the answer has not the length that it states")),
    }
    Ok(Answer { status: response.code.unwrap_or(0), body: body.to_vec() })
}

/// A connection whose operations end at a time, however slowly the other side sends.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
