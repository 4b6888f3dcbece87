//! One HTTP request over a connection of its own, and its answer.
//!
//! For servers that are near and answer shortly: the API server on this machine, a cloud's metadata service. The request is
//! HTTP/1.0, to which "a server MUST NOT send" chunks (RFC 9112, section 7.1), so the answer is a head and bytes up to the
//! end. The answer may be anybody's: it has a limit of size, and the whole exchange one of time. `update::source` has the
//! client for downloads.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Largest head of an answer in bytes.
const HEAD_LIMIT: usize = 16 << 10;
/// Most field lines of an answer.
const FIELD_LIMIT: usize = 64;

/// Why there is no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The connection failed, or TLS within it.
    #[error("{0}")]
    Connection(#[from] io::Error),
    /// It is not HTTP, or not whole.
    #[error("{0}")]
    Answer(&'static str),
    /// Its body has more than so many bytes.
    #[error("the answer has more than {0} bytes")]
    Size(usize),
}

impl Fault {
    /// Whether the time was over.
    pub fn is_timeout(&self) -> bool {
        let timeouts = [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock];
        matches!(self, Fault::Connection(error) if timeouts.contains(&error.kind()))
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

/// A connection whose operations end at a time, however slowly the other side sends.
#[derive(Debug)]
pub struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Timed {
    /// Connects within `connect`; everything with the connection ends at `deadline`.
    pub fn connect(address: &SocketAddr, connect: Duration, deadline: Instant) -> io::Result<Self> {
        Ok(Timed { stream: TcpStream::connect_timeout(address, connect)?, deadline })
    }

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

/// What an exchange goes over.
pub trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// Sends `request`, an HTTP/1.0 head, and reads the answer, whose body has at most `limit` bytes.
pub fn ask(stream: &mut dyn Stream, request: &str, limit: usize) -> Result<Answer, Fault> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(buffer.get(..count).unwrap_or(&[])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The end without TLS's own end. Whether anything is missing is seen by the length.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !bytes.is_empty() => break,
            Err(error) => return Err(error.into()),
        }
        if bytes.len() > limit + HEAD_LIMIT {
            return Err(Fault::Size(limit));
        }
    }
    parse(&bytes, limit)
}

/// Parses all that came.
pub fn parse(bytes: &[u8], limit: usize) -> Result<Answer, Fault> {
    let mut fields = [httparse::EMPTY_HEADER; FIELD_LIMIT];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(Fault::Answer("the answer ends in its head")),
        Err(_) => return Err(Fault::Answer("the answer is not HTTP")),
    };
    let body = bytes.get(length..).unwrap_or(&[]);
    if body.len() > limit {
        return Err(Fault::Size(limit));
    }
    let field = |name: &str| response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
    if field("transfer-encoding").is_some() {
        return Err(Fault::Answer("the answer comes in chunks, to a request of HTTP/1.0"));
    }
    let number = |value: &[u8]| std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<usize>().ok());
    match field("content-length").map(|field| number(field.value)) {
        Some(Some(stated)) if body.len() == stated => {}
        None => {}
        Some(_) => return Err(Fault::Answer("the answer has not the length that it states")),
    }
    Ok(Answer { status: response.code.unwrap_or(0), body: body.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_or_refused() {
        let said = |bytes: &str| parse(bytes.as_bytes(), 8).map(|answer| (answer.status, answer.body));
        let whole = said("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("whole");
        assert_eq!(whole, (200, b"ok".to_vec()));
        assert_eq!(said("HTTP/1.1 404 Not Found\r\n\r\ngone").expect("up to the end").0, 404);
        for (bytes, fault) in [
            ("", "the answer ends in its head"),
            ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n", "the answer ends in its head"),
            ("SSH-2.0-OpenSSH\r\n", "the answer is not HTTP"),
            ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok", "the answer has not the length that it states"),
            ("HTTP/1.0 200 OK\r\nContent-Length: x\r\n\r\nok", "the answer has not the length that it states"),
            ("HTTP/1.0 200 OK\r\n\r\n123456789", "the answer has more than 8 bytes"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "the answer comes in chunks, to a request of HTTP/1.0",
            ),
        ] {
            assert_eq!(said(bytes).expect_err("refused").to_string(), fault, "{bytes:?}");
        }
    }
}
