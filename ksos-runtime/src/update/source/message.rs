//! Heads of HTTP/1.1 answers and the framing of their bodies (RFC 9110, RFC 9112).

use super::pace::TooSlow;
use super::url::Url;
use super::{SourceError, pace};

/// Largest head of an answer in bytes.
pub(super) const HEAD_LIMIT: usize = 32 << 10;
/// Most field lines of an answer.
const FIELD_LIMIT: usize = 128;

/// Head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Status.
    pub(super) status: u16,
    /// Whether the connection stays open behind the body.
    pub(super) keep_alive: bool,
    fields: Vec<(String, String)>,
}

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// With the connection.
    UntilClose,
}

impl Head {
    /// Reads a head; returns it and its length, or `None` when it is not whole.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, String> {
        let mut fields = [httparse::EMPTY_HEADER; FIELD_LIMIT];
        let mut response = httparse::Response::new(&mut fields);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_LIMIT => return Ok(None),
            Ok(httparse::Status::Partial) => return Err(format!("its head has more than {HEAD_LIMIT} bytes")),
            Err(error) => return Err(format!("not HTTP: {error}")),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let fields = response.headers.iter().map(|field| (field.name.to_ascii_lowercase(), text(field.value)));
        let fields: Vec<_> = fields.collect();
        let mut head = Head { status: response.code.unwrap_or(0), keep_alive: false, fields };
        let closes = head.fields("connection").any(|value| value.to_ascii_lowercase().contains("close"));
        head.keep_alive = response.version == Some(1) && !closes;
        Ok(Some((head, length)))
    }

    /// Returns the values of a field; `name` is lower-case.
    pub(super) fn fields<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// Returns the first value of a field; `name` is lower-case.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// Returns where the body ends (RFC 9112, section 6.3). What may be read in two ways is refused.
    pub(super) fn framing(&self) -> Result<Framing, String> {
        if let Some(encoding) = self.field("content-encoding").filter(|value| !value.eq_ignore_ascii_case("identity")) {
            return Err(format!("its content is encoded as {encoding:?}, which was not asked for"));
        }
        let mut lengths = self.fields("content-length");
        let length = lengths.next();
        if lengths.any(|other| Some(other) != length) {
            return Err("it states several lengths".to_owned());
        }
        match (self.field("transfer-encoding"), length) {
            (Some(_), Some(_)) => Err("it states a length and a transfer encoding".to_owned()),
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => {
                match self.fields("transfer-encoding").count() {
                    1 => Ok(Framing::Chunked),
                    _ => Err("it states several transfer encodings".to_owned()),
                }
            }
            (Some(coding), None) => Err(format!("its transfer encoding is {coding:?}")),
            (None, _) if matches!(self.status, 204 | 304) => Ok(Framing::Length(0)),
            (None, Some(length)) => {
                let digits = length.bytes().all(|byte| byte.is_ascii_digit());
                let length = length.parse().ok().filter(|_| digits);
                length.map(Framing::Length).ok_or_else(|| "its length is no number".to_owned())
            }
            (None, None) => Ok(Framing::UntilClose),
        }
    }

    /// Whether it says that the body is a page for people.
    pub(super) fn is_html(&self) -> bool {
        let kind = self.field("content-type").unwrap_or_default().to_ascii_lowercase();
        ["text/html", "application/xhtml"].iter().any(|html| kind.starts_with(html))
    }
}

/// Says what an I/O error on a connection is.
pub(super) fn io_error(url: &Url, limits: &pace::Limits, error: &std::io::Error) -> SourceError {
    let url = url.to_string();
    let inner = error.get_ref();
    if let Some(TooSlow { bytes, seconds }) = inner.and_then(|inner| inner.downcast_ref()).copied() {
        return SourceError::Slow { url, bytes, seconds };
    }
    if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return SourceError::Tls { url, reason: error.to_string() };
    }
    let reason = match error.kind() {
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => {
            format!("no byte for {} s", limits.idle.as_secs())
        }
        _ => error.to_string(),
    };
    SourceError::Network { url, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(fields: &str) -> Result<Framing, String> {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        Head::parse(text.as_bytes())?.expect("whole").0.framing()
    }

    #[test]
    fn bodies_end_in_one_way() {
        assert_eq!(framing("Content-Length: 5\r\nContent-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing("Transfer-Encoding: CHUNKED\r\n"), Ok(Framing::Chunked));
        assert_eq!(framing(""), Ok(Framing::UntilClose));
        for fields in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: -5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 18446744073709551616\r\n",
            "Content-Length: \r\n",
            "Content-Length: 5, 5\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Content-Encoding: gzip\r\nContent-Length: 5\r\n",
        ] {
            assert!(framing(fields).is_err(), "{fields:?}");
        }
    }

    #[test]
    fn heads_are_whole_or_refused() {
        assert_eq!(Head::parse(b"HTTP/1.1 200 OK\r\nA: b"), Ok(None));
        let endless = [b"HTTP/1.1 200 OK\r\nA: ".as_slice(), &vec![b'x'; HEAD_LIMIT]].concat();
        assert!(Head::parse(&endless).expect_err("too large").contains("head"));
        assert!(Head::parse(b"SSH-2.0-OpenSSH\r\n").is_err());
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(FIELD_LIMIT + 1));
        assert!(Head::parse(many.as_bytes()).is_err());
    }

    #[test]
    fn connections_stay_open_unless_said() {
        for (text, keeps) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\n\r\n", false),
        ] {
            assert_eq!(Head::parse(text.as_bytes()).expect("HTTP").expect("whole").0.keep_alive, keeps, "{text:?}");
        }
    }
}
