//! As much of HTTP/1.1 (RFC 9112) as the node's two endpoints need.
//!
//! `GET` and `HEAD`, no request bodies, one request per connection: every answer says `Connection: close`. This module
//! is pure: [`parse`] takes the bytes received so far, [`Response::encode`] gives the bytes to send. `server` has the
//! sockets.

pub(super) mod server;

/// Largest request head in bytes, request line and field lines together.
pub(super) const HEAD_LIMIT: usize = 8 << 10;
/// Most field lines of a request.
const FIELD_LIMIT: usize = 48;

/// A request. Its fields may hold secrets, so it has no debug form.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Whether only the head of the answer is wanted.
    pub(super) head: bool,
    /// Path without query.
    pub(super) path: String,
    /// The `Accept` field, several joined by commas.
    pub(super) accept: String,
    /// The `Authorization` field, if there is exactly one.
    pub(super) authorization: Option<String>,
}

/// What the bytes received so far are.
pub(super) enum Parsed {
    /// The beginning of a request.
    Partial,
    /// A request.
    Complete(Request),
    /// Something that is answered with this status.
    Refused(u16),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    /// Status code.
    pub(super) status: u16,
    /// Fields beside the length and `Connection`.
    pub(super) fields: Vec<(&'static str, String)>,
    /// Body.
    pub(super) body: Vec<u8>,
}

impl Response {
    /// Returns an answer with a text.
    pub(super) fn text(status: u16, text: &str) -> Self {
        let fields = vec![("Content-Type", "text/plain; charset=utf-8".to_owned())];
        Response { status, fields, body: format!("{text}\n").into_bytes() }
    }

    /// Returns the usual answer of a status.
    pub(super) fn refusal(status: u16) -> Self {
        let response = Response::text(status, reason(status));
        // RFC 9110, section 15.5.6: "The origin server MUST generate an Allow header field in a 405 response".
        if status == 405 { response.with("Allow", "GET, HEAD") } else { response }
    }

    /// Adds a field.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// Returns the bytes to send; without the body if only the head is wanted.
    pub(super) fn encode(&self, head: bool) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("Content-Length: {}\r\nConnection: close\r\n\r\n", self.body.len()));
        let mut bytes = text.into_bytes();
        if !head {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// Returns the phrase of a status (RFC 9110, section 15).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}

/// Parses what was received so far.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; FIELD_LIMIT];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length > HEAD_LIMIT => Parsed::Refused(431),
        Ok(httparse::Status::Complete(_)) => accept(&request),
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_LIMIT => Parsed::Refused(431),
        Ok(httparse::Status::Partial) => Parsed::Partial,
        Err(httparse::Error::TooManyHeaders) => Parsed::Refused(431),
        Err(httparse::Error::Version) => Parsed::Refused(505),
        Err(_) => Parsed::Refused(400),
    }
}

fn accept(request: &httparse::Request<'_, '_>) -> Parsed {
    let values = |name: &str| -> Vec<&[u8]> {
        request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value).collect()
    };
    // RFC 9112, section 3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request
    // message that lacks a Host header field and to any request message that contains more than one".
    let hosts = values("host").len();
    if hosts > 1 || (hosts == 0 && request.version == Some(1)) {
        return Parsed::Refused(400);
    }
    let head = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Parsed::Refused(405),
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let authorization = match values("authorization").as_slice() {
        [] => None,
        [value] => Some(text(value)),
        _ => return Parsed::Refused(400),
    };
    let accept = values("accept").into_iter().map(text).collect::<Vec<_>>().join(",");
    Parsed::Complete(Request { head, path: path_of(request.path.unwrap_or("/")), accept, authorization })
}

/// Returns the path of a request target in origin form or absolute form (RFC 9112, section 3.2), without query.
fn path_of(target: &str) -> String {
    let target = match target.split_once("://") {
        Some(("http", rest)) => rest.find('/').map_or("/", |start| rest.get(start..).unwrap_or("/")),
        _ => target,
    };
    target.split(['?', '#']).next().unwrap_or(target).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(bytes: &[u8]) -> u16 {
        match parse(bytes) {
            Parsed::Partial => 0,
            Parsed::Complete(_) => 200,
            Parsed::Refused(status) => status,
        }
    }

    #[test]
    fn requests_by_their_fault() {
        let huge = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(HEAD_LIMIT));
        let complete_but_huge = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(HEAD_LIMIT));
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(FIELD_LIMIT));
        let cases: [(&str, u16); 17] = [
            ("", 0),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n", 0),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 200),
            ("HEAD / HTTP/1.0\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("GET / HTTP/9.9\r\n\r\n", 505),
            ("\u{16}\u{3}\u{1}\u{2}\u{0}", 400),
            ("GET / HTTP/1.1\r\nbad name: a\r\n\r\n", 400),
            ("\0\0\0\0\r\n\r\n", 400),
            (&huge, 431),
            (&complete_but_huge, 431),
            (&many, 431),
        ];
        for (bytes, expected) in cases {
            assert_eq!(status(bytes.as_bytes()), expected, "{:?}", bytes.get(..60).unwrap_or(bytes));
        }
    }

    #[test]
    fn any_bytes_are_handled() {
        let request = b"GET /metrics?a=b HTTP/1.1\r\nHost: a\r\nAccept: x\r\n\r\n";
        for position in 0..request.len() {
            for byte in [0, 0xff, b'\n', b' ', b':'] {
                let mut bytes = request.to_vec();
                bytes[position] = byte;
                status(&bytes);
                assert_eq!(status(&request[..position]), 0);
            }
        }
    }

    #[test]
    fn fields_and_paths() {
        let Parsed::Complete(request) =
            parse(b"GET /a?x HTTP/1.1\r\nhost: a\r\naccept: b\r\nACCEPT: c\r\nauthorization: Bearer d\r\n\r\n")
        else {
            panic!("not complete");
        };
        assert_eq!((request.path.as_str(), request.accept.as_str(), request.head), ("/a", "b,c", false));
        assert_eq!(request.authorization.as_deref(), Some("Bearer d"));
        for (target, path) in [("/", "/"), ("http://a:1/b?c", "/b"), ("http://a", "/"), ("*", "*"), ("/x#y", "/x")] {
            assert_eq!(path_of(target), path);
        }
    }

    #[test]
    fn answers_have_a_length_and_close() {
        let response = Response::refusal(405);
        let text = String::from_utf8(response.encode(false)).expect("text");
        assert_eq!(
            text,
            "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain; charset=utf-8\r\nAllow: GET, HEAD\r\n\
             Content-Length: 19\r\nConnection: close\r\n\r\nMethod Not Allowed\n"
        );
        assert!(response.encode(true).ends_with(b"close\r\n\r\n"));
    }
}
