//! Whole documents and ranges of blobs: with limits, attempts, and resumption from the byte reached.

use ksos_formats::update::fetch::Range;

use super::client::{Client, Request, Response};
use super::message::Head;
use super::url::Url;
use super::{Served, Sink, SourceError};

/// Bytes that are read and passed on at once.
const BUFFER: usize = 16 << 10;
/// Bytes after which a connection that breaks was worth it: attempts are counted anew.
const PROGRESS: u64 = 64 << 10;

/// Something that sends requests with the credentials of a source.
pub(super) trait Sender {
    /// Sends a request.
    fn send(&mut self, request: &Request<'_>) -> Result<Response, SourceError>;
    /// What it sends them with.
    fn client(&mut self) -> &mut Client;
    /// With which credentials, in words.
    fn credentials(&self) -> &'static str;
}

/// How many bytes a document has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// Up to so many.
    AtMost(u64),
    /// As was declared.
    Exactly(u64),
}

impl Size {
    fn most(self) -> u64 {
        match self {
            Size::AtMost(size) | Size::Exactly(size) => size,
        }
    }
}

/// A document and the head that it came with.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) bytes: Vec<u8>,
    pub(super) head: Head,
}

/// Gets a document; failures that may heal are tried again.
pub(super) fn document(sender: &mut dyn Sender, url: &Url, accept: &str, size: Size) -> Result<Document, SourceError> {
    let mut failures = 0;
    loop {
        let request = Request { url, accept, authorization: None, range: None, if_range: None };
        match document_once(sender, &request, size) {
            Err(error) if error.is_transient() => again(sender, &mut failures, error)?,
            result => return result,
        }
    }
}

/// Pauses before another attempt; returns `error` when there were enough.
fn again(sender: &mut dyn Sender, failures: &mut u32, error: SourceError) -> Result<(), SourceError> {
    *failures += 1;
    let client = sender.client();
    let patience = client.patience.take();
    if *failures >= client.pace().limits.attempts {
        return Err(error);
    }
    client.pace().pause(*failures, patience);
    Ok(())
}

fn document_once(sender: &mut dyn Sender, request: &Request<'_>, size: Size) -> Result<Document, SourceError> {
    let mut response = sender.send(request)?;
    if response.head.status != 200 {
        let error = refusal(&*sender, request.url, response.head.status);
        sender.client().finish(response);
        return Err(error);
    }
    let url = || request.url.to_string();
    if response.head.is_html() {
        return Err(SourceError::Html(url()));
    }
    let expect = |found: u64| match size {
        Size::AtMost(limit) if found > limit => Err(SourceError::Large { url: url(), limit }),
        Size::Exactly(expected) if found != expected => Err(SourceError::Size { url: url(), expected, found }),
        _ => Ok(()),
    };
    response.length().map_or(Ok(()), expect)?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; BUFFER]);
    if let Size::Exactly(size) = size {
        // Declared by who signed it, and limited by the caller.
        bytes.reserve_exact(usize::try_from(size).unwrap_or(0));
    }
    loop {
        let count = response.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        if (bytes.len() + count) as u64 > size.most() {
            return Err(SourceError::Large { url: url(), limit: size.most() });
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
    expect(bytes.len() as u64)?;
    let head = response.head.clone();
    sender.client().finish(response);
    Ok(Document { bytes, head })
}

/// Says what a status other than 200 means.
fn refusal(sender: &dyn Sender, url: &Url, status: u16) -> SourceError {
    let url = url.to_string();
    match status {
        404 | 410 => SourceError::NotFound(url),
        401 | 403 | 407 => SourceError::NotAllowed { url, status, reason: sender.credentials().to_owned() },
        _ => SourceError::Status { url, status },
    }
}

/// A blob at a server.
#[derive(Debug)]
pub(super) struct RemoteBlob {
    pub(super) url: Url,
    /// Size in bytes, as was declared.
    pub(super) size: u64,
    /// Its strong entity tag (RFC 9110, section 8.8.3), once it is known.
    tag: Option<String>,
}

impl RemoteBlob {
    pub(super) fn new(url: Url, size: u64) -> Self {
        RemoteBlob { url, size, tag: None }
    }

    /// Passes `range` to `sink`, in as many attempts as it takes. A server that does not do ranges has everything from
    /// offset 0 on passed, once, whatever breaks on the way.
    pub(super) fn range(
        &mut self,
        sender: &mut dyn Sender,
        range: Range,
        sink: &mut Sink<'_>,
    ) -> Result<Served, SourceError> {
        if range.start >= range.end {
            return Ok(Served::Range);
        }
        if range.end > self.size {
            let asked = format!("{}-{}/{}", range.start, range.end - 1, self.size);
            return Err(SourceError::WrongRange { url: self.url.to_string(), asked, answered: "not asked".to_owned() });
        }
        let mut transfer = Transfer { next: range.start, end: range.end, passed: 0, served: Served::Range };
        let mut failures = 0;
        loop {
            let before = transfer.passed;
            match self.attempt(sender, &mut transfer, sink) {
                Ok(()) => return Ok(transfer.served),
                Err(error) if error.is_transient() => {
                    if transfer.passed - before >= PROGRESS {
                        failures = 0;
                    }
                    again(sender, &mut failures, error)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn attempt(
        &mut self,
        sender: &mut dyn Sender,
        transfer: &mut Transfer,
        sink: &mut Sink<'_>,
    ) -> Result<(), SourceError> {
        let request = Request {
            url: &self.url,
            accept: "*/*",
            authorization: None,
            range: Some((transfer.next, transfer.end - 1)),
            if_range: self.tag.as_deref(),
        };
        let response = sender.send(&request)?;
        let status = response.head.status;
        if matches!(status, 200 | 206) && response.head.is_html() {
            return Err(SourceError::Html(self.url.to_string()));
        }
        let from = match status {
            206 => self.check_range(&response, transfer)?,
            200 => self.check_whole(&response, transfer)?,
            416 => return Err(self.wrong_range(transfer, response.head.field("content-range").unwrap_or("status 416"))),
            status => {
                let error = refusal(&*sender, &self.url, status);
                sender.client().finish(response);
                return Err(error);
            }
        };
        self.check_tag(&response.head)?;
        let (start, whole) = (transfer.next, transfer.end == self.size);
        let mut response = self.pass(response, from, transfer, sink)?;
        // Of a whole blob of which the middle was wanted the rest is not read.
        if status == 206 || whole {
            let limit = transfer.end - if status == 206 { start } else { 0 };
            match response.read(&mut [0]) {
                Ok(0) => sender.client().finish(response),
                Ok(_) => return Err(SourceError::Large { url: self.url.to_string(), limit }),
                // Everything is there.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// "A server that generates a 206 response with a single part MUST send Content-Range" (RFC 9110, section 15.3.7.1).
    fn check_range(&self, response: &Response, transfer: &Transfer) -> Result<u64, SourceError> {
        let field = response.head.field("content-range").unwrap_or("none");
        let (first, last) = (transfer.next, transfer.end - 1);
        let sized = |size: &str| field.strip_prefix("bytes ") == Some(&format!("{first}-{last}/{size}"));
        if !sized(&self.size.to_string()) && !sized("*") {
            return Err(self.wrong_range(transfer, field));
        }
        let expected = transfer.end - transfer.next;
        match response.length() {
            Some(found) if found != expected => Err(SourceError::Size { url: self.url.to_string(), expected, found }),
            _ => Ok(transfer.next),
        }
    }

    fn wrong_range(&self, transfer: &Transfer, answered: &str) -> SourceError {
        let asked = format!("{}-{}/{}", transfer.next, transfer.end - 1, self.size);
        let answered = answered.chars().take(120).collect();
        SourceError::WrongRange { url: self.url.to_string(), asked, answered }
    }

    fn check_whole(&self, response: &Response, transfer: &mut Transfer) -> Result<u64, SourceError> {
        if let Some(found) = response.length().filter(|length| *length != self.size) {
            return Err(SourceError::Size { url: self.url.to_string(), expected: self.size, found });
        }
        if transfer.passed == 0 {
            *transfer = Transfer { next: 0, end: self.size, passed: 0, served: Served::Whole };
        }
        Ok(0)
    }

    fn check_tag(&mut self, head: &Head) -> Result<(), SourceError> {
        let found = head.field("etag").filter(|tag| tag.starts_with('"') && tag.len() <= 256);
        match (&self.tag, found) {
            (Some(known), Some(found)) if known != found => Err(SourceError::Changed { url: self.url.to_string() }),
            (None, Some(found)) if found.bytes().all(|byte| byte.is_ascii_graphic()) => {
                self.tag = Some(found.to_owned());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Passes a body that begins at `from` in the blob: what was passed before is left out.
    fn pass(
        &self,
        mut response: Response,
        mut from: u64,
        transfer: &mut Transfer,
        sink: &mut Sink<'_>,
    ) -> Result<Response, SourceError> {
        let mut buffer = [0; BUFFER];
        while transfer.next < transfer.end {
            // No byte behind the last one is read: whether there is one is for the caller to see.
            let room = usize::try_from(transfer.end - from).unwrap_or(BUFFER).min(BUFFER);
            let count = response.read(&mut buffer[..room])?;
            if count == 0 {
                let (expected, received) = (transfer.end, from);
                return Err(SourceError::Truncated { url: self.url.to_string(), expected, received });
            }
            let known = usize::try_from(transfer.next - from).unwrap_or(count).min(count);
            from += count as u64;
            if known < count {
                sink(transfer.next, &buffer[known..count]).map_err(|super::Stop| SourceError::Stopped)?;
                transfer.next = from;
                transfer.passed += (count - known) as u64;
            }
        }
        Ok(response)
    }
}

/// How far a range is.
#[derive(Debug)]
struct Transfer {
    /// Offset of the next byte to pass.
    next: u64,
    /// Behind the last one.
    end: u64,
    /// Bytes passed.
    passed: u64,
    served: Served,
}
