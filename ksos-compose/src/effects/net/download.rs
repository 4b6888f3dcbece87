//! The downloader: URLs in order, rounds of tries, resumption, and the checks that make a body a blob.
//!
//! Every URL is tried once per round, so that a dead mirror costs one try before the next mirror gets its turn; a
//! wait comes only between rounds. A host that could not be reached is tried last for a minute.

use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ksos_formats::Digest;
use ureq::http::header;

use super::client::{Client, Response};
use super::failure::Failure;
use super::options::NetOptions;
use super::partial::{Partial, Validators};
use super::url::{Origin, Url, redact};
use super::{Document, Fetch, FetchError, Manner, Request, retry};
use crate::cache::{Blob, Cache};
use crate::effects::clock;
use crate::effects::progress::{Progress, Task};

/// Bytes read at once.
const CHUNK: usize = 1 << 17;

/// How long a host that could not be reached is tried last.
const DEMOTION: Duration = Duration::from_secs(60);

/// Fetches over HTTP into a cache. Shared by threads.
pub struct Downloader {
    cache: Arc<Cache>,
    pub(super) client: Client,
    pub(super) progress: Arc<dyn Progress>,
    unreachable: Mutex<HashMap<Origin, Instant>>,
}

impl std::fmt::Debug for Downloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Downloader").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Downloader {
    /// Returns a downloader into `cache` that shows what it does on `progress`.
    pub fn new(cache: Arc<Cache>, options: NetOptions, progress: Arc<dyn Progress>) -> Self {
        Downloader { cache, client: Client::new(options), progress, unreachable: Mutex::default() }
    }
}

impl Fetch for Downloader {
    fn blob(&self, request: &Request<'_>) -> Result<Blob, FetchError> {
        self.blob_unless(request, &AtomicBool::new(false))
    }

    fn blob_unless(&self, request: &Request<'_>, cancel: &AtomicBool) -> Result<Blob, FetchError> {
        self.blob_as(request, Manner::default(), cancel)
    }

    fn document(&self, request: &Request<'_>) -> Result<Vec<u8>, FetchError> {
        Ok(self.document_as(request, Manner::default())?.bytes)
    }
}

impl Downloader {
    /// Like [`Fetch::blob_unless`], asked for in this manner.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn blob_as(&self, request: &Request<'_>, manner: Manner<'_>, cancel: &AtomicBool) -> Result<Blob, FetchError> {
        // Damaged is missing: the rename of a new one replaces it.
        let whole = |blob: &Blob| crate::cache::gc::is_whole(&blob.path);
        let cached = || request.digest.and_then(|digest| self.cache.blob(&digest, request.size)).filter(whole);
        if let Some(blob) = cached() {
            return Ok(blob);
        }
        let mut transfer = Transfer::start(self, request, manner, cancel)?;
        let name = request.digest.map_or_else(|| url_key(request), |digest| digest.hex());
        let mut partial = Partial::open(&self.cache.bucket("partial"), &name, |first| {
            if first {
                transfer.task.note("waiting for another process that fetches it");
            }
            transfer.check_cancelled()
        })?;
        if let Some(blob) = cached() {
            partial.discard();
            return Ok(blob);
        }
        transfer.drop_useless(&mut partial)?;
        if !transfer.is_complete(&partial)
            && let Err(error) = transfer.rounds(|transfer, url| transfer.attempt_file(url, &mut partial))
        {
            if partial.size() == 0 {
                partial.discard();
            }
            return Err(error);
        }
        let blob = partial.finish(&self.cache)?;
        transfer.task.finish();
        Ok(blob)
    }

    /// Like [`Fetch::document`], asked for in this manner, with what the server called it.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn document_as(&self, request: &Request<'_>, manner: Manner<'_>) -> Result<Document, FetchError> {
        let cancel = AtomicBool::new(false);
        let mut transfer = Transfer::start(self, request, manner, &cancel)?;
        let document = transfer.rounds(Transfer::attempt_document)?;
        transfer.task.finish();
        Ok(document)
    }
}

/// The name of a partial whose digest is not known.
fn url_key(request: &Request<'_>) -> String {
    let url = request.urls.first().map_or("", String::as_str);
    format!("url-{}", Digest::of(url.as_bytes()))
}

/// One call of [`Fetch::blob`] or [`Fetch::document`].
struct Transfer<'a> {
    downloader: &'a Downloader,
    request: &'a Request<'a>,
    manner: Manner<'a>,
    cancel: &'a AtomicBool,
    task: Box<dyn Task>,
    /// Did the last body continue an earlier one?
    resumed: bool,
}

/// One URL and how it fared.
struct Candidate<'a> {
    text: &'a str,
    url: Option<Url>,
    failure: Option<Failure>,
}

impl Candidate<'_> {
    fn may_work(&self) -> bool {
        self.url.is_some() && self.failure.as_ref().is_none_or(Failure::is_temporary)
    }
}

impl<'a> Transfer<'a> {
    fn start(
        downloader: &'a Downloader,
        request: &'a Request<'a>,
        manner: Manner<'a>,
        cancel: &'a AtomicBool,
    ) -> Result<Self, FetchError> {
        if downloader.options().offline {
            return Err(FetchError::Offline { name: request.name.to_owned() });
        }
        let task = downloader.progress.start(request.name, request.size);
        Ok(Transfer { downloader, request, manner, cancel, task, resumed: false })
    }

    /// Tries every URL, again and again while failures look temporary.
    fn rounds<T>(&mut self, mut attempt: impl FnMut(&mut Self, &Url) -> Result<T, Failure>) -> Result<T, FetchError> {
        let mut candidates = self.downloader.candidates(self.request.urls);
        let mut round = 0;
        loop {
            let mut progressed = false;
            for candidate in candidates.iter_mut().filter(|candidate| candidate.may_work()) {
                self.check_cancelled()?;
                let Some(url) = &candidate.url else { continue };
                match attempt(self, url) {
                    Ok(value) => {
                        self.downloader.reached(url);
                        return Ok(value);
                    }
                    Err(Failure::Fatal(error)) => return Err(error),
                    Err(failure) => {
                        progressed |= failure.progressed();
                        self.downloader.judge(url, &failure);
                        candidate.failure = Some(failure);
                    }
                }
            }
            // A long file over a bad line may need many tries; as long as each brings it further, none counts.
            round = if progressed { 1 } else { round + 1 };
            if round > self.downloader.options().retries || !candidates.iter().any(Candidate::may_work) {
                return Err(self.give_up(candidates));
            }
            self.wait(round, &candidates)?;
        }
    }

    fn wait(&mut self, round: u32, candidates: &[Candidate<'_>]) -> Result<(), FetchError> {
        let temporary =
            || candidates.iter().filter(|candidate| candidate.may_work()).filter_map(|c| c.failure.as_ref());
        let asked = temporary().map(|failure| failure.retry_after().unwrap_or_default()).min().unwrap_or_default();
        let wait = retry::backoff(self.downloader.options(), round).max(asked);
        if let Some(failure) = temporary().next() {
            self.task.note(&format!("again in {:.1} s: {failure}", wait.as_secs_f32()));
        }
        let until = Instant::now() + wait;
        while Instant::now() < until {
            self.check_cancelled()?;
            std::thread::sleep(until.saturating_duration_since(Instant::now()).min(Duration::from_millis(100)));
        }
        Ok(())
    }

    fn give_up(&self, candidates: Vec<Candidate<'_>>) -> FetchError {
        let name = self.request.name.to_owned();
        let missing = |candidate: &Candidate<'_>| matches!(candidate.failure, Some(Failure::NotFound(_)));
        let missing_somewhere = candidates.iter().any(missing);
        if missing_somewhere && candidates.iter().all(missing) {
            return FetchError::NotFound { name, urls: candidates.iter().map(|c| redact(c.text)).collect() };
        }
        let why = |candidate: &Candidate<'_>| candidate.failure.as_ref().map_or_else(String::new, ToString::to_string);
        let failures = candidates.iter().map(|candidate| (redact(candidate.text), why(candidate))).collect();
        FetchError::Unreachable { name, failures, missing: missing_somewhere }
    }

    fn check_cancelled(&self) -> Result<(), FetchError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(FetchError::Cancelled { name: self.request.name.to_owned() });
        }
        Ok(())
    }

    /// Drops a partial that can never become what is wanted.
    fn drop_useless(&self, partial: &mut Partial) -> Result<(), FetchError> {
        let most = self.request.size.map_or(self.request.limit, |size| size.saturating_sub(1));
        if partial.size() > most && !self.is_complete(partial) { partial.reset() } else { Ok(()) }
    }

    /// Is everything there already? A kill between the last byte and the rename leaves it so.
    fn is_complete(&self, partial: &Partial) -> bool {
        self.request.size.is_none_or(|size| size == partial.size()) && self.request.digest == Some(partial.digest())
    }

    /// Fetches the body into `partial`, from where it is when the server allows it.
    fn attempt_file(&mut self, url: &Url, partial: &mut Partial) -> Result<(), Failure> {
        let from = self.resume_point(url, partial)?;
        match self.attempt_from(url, partial, from) {
            // Bytes of two versions of the file may have met: the digest of a body in one piece decides.
            Err(Failure::Digest { .. }) if self.resumed => {
                self.task.note("the resumed file has the wrong digest; starting again at zero");
                self.attempt_from(url, partial, 0)
            }
            result => result,
        }
    }

    fn attempt_from(&mut self, url: &Url, partial: &mut Partial, from: u64) -> Result<(), Failure> {
        let response = self.open(url, partial, from)?;
        self.resumed = partial.size() > 0;
        let html = is_html(&response);
        let total = self.expected_total(&response, partial.size())?;
        partial.set_validators(validators(url, &response))?;
        self.show(total, partial.size());
        self.receive(response, partial, total)?;
        self.check(partial, html)
    }

    /// Returns where to resume: a partial of unknown digest only when the server can tell that it is still the same
    /// file (RFC 9110, section 13.1.5).
    fn resume_point(&self, url: &Url, partial: &mut Partial) -> Result<u64, Failure> {
        let stored = partial.validators();
        let same_url = stored.url == Some(key(url));
        let validated = same_url && (stored.etag.is_some() || stored.last_modified.is_some());
        if partial.size() > 0 && self.request.digest.is_none() && !validated {
            partial.reset()?;
        }
        Ok(partial.size())
    }

    /// Sends the request and brings `partial` to where the body starts: `from`, or zero.
    fn open(&self, url: &Url, partial: &mut Partial, from: u64) -> Result<Response, Failure> {
        if from > 0 {
            let response = self.get(url, range_headers(url, partial, from))?;
            match response.status {
                206 if self.continues(&response, from) => return Ok(response),
                // The range is not there, or not the one asked for: start again at zero.
                206 | 416 => {}
                _ => {
                    let response = self.check_status(response)?;
                    partial.reset()?;
                    return Ok(response);
                }
            }
        }
        partial.reset()?;
        let response = self.check_status(self.get(url, Vec::new())?)?;
        Ok(response)
    }

    fn continues(&self, response: &Response, from: u64) -> bool {
        let Some((start, total)) = content_range(response) else { return false };
        let known = self.request.size;
        start == from && (known.is_none() || total.is_none() || known == total)
    }

    /// Lets 200 through and sorts the rest.
    fn check_status(&self, response: Response) -> Result<Response, Failure> {
        match response.status {
            200 => Ok(response),
            status @ (404 | 410) => Err(Failure::NotFound(status)),
            status @ (408 | 425 | 429 | 500..=599) => {
                let after = response.header(header::RETRY_AFTER);
                let after = after.and_then(|text| retry::parse_retry_after(text, clock::now_seconds()));
                match after {
                    Some(after) if after > self.downloader.options().retry_after_limit => {
                        Err(Failure::TooBusy { status, after })
                    }
                    after => Err(Failure::Busy { status, after }),
                }
            }
            status => Err(Failure::Status(status)),
        }
    }

    /// Returns the size of the whole file as the server declares it, after holding it against what is known.
    fn expected_total(&self, response: &Response, from: u64) -> Result<Option<u64>, Failure> {
        let total = match content_range(response).filter(|_| response.status == 206) {
            Some((_, Some(total))) => Some(total),
            _ => response.body.content_length().map(|length| length.saturating_add(from)),
        };
        let Some(total) = total else { return Ok(self.request.size) };
        if let Some(expected) = self.request.size.filter(|expected| *expected != total) {
            // A web page has another size too, and its digest would say less.
            return Err(if is_html(response) { Failure::Html } else { Failure::Size { actual: total, expected } });
        }
        if total > self.request.limit {
            return Err(Failure::TooLarge { limit: self.request.limit });
        }
        Ok(Some(total))
    }

    fn receive(&mut self, response: Response, partial: &mut Partial, total: Option<u64>) -> Result<(), Failure> {
        let most = self.request.size.unwrap_or(self.request.limit);
        let stall = self.downloader.options().stall_timeout;
        let mut body = response.body.into_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            self.check_cancelled()?;
            let count = body
                .read(&mut buffer)
                .map_err(|error| Failure::in_body(error, partial.size(), stall, partial.progressed()))?;
            if count == 0 {
                break;
            }
            if partial.size() + count as u64 > most {
                partial.reset()?;
                return Err(match self.request.size {
                    Some(expected) => Failure::Longer { expected },
                    None => Failure::TooLarge { limit: most },
                });
            }
            partial.append(&buffer[..count])?;
            self.task.advance(count as u64);
        }
        match total {
            Some(expected) if partial.size() < expected => {
                Err(Failure::Truncated { actual: partial.size(), expected, progressed: partial.progressed() })
            }
            _ => Ok(()),
        }
    }

    /// Holds the finished file against what is known of it.
    fn check(&self, partial: &mut Partial, html: bool) -> Result<(), Failure> {
        let failure = match self.request.digest {
            Some(expected) if partial.digest() != expected => {
                Failure::Digest { actual: partial.digest(), expected, html }
            }
            None if html && !wants_html(self.request) => Failure::Html,
            _ => return Ok(()),
        };
        partial.reset()?;
        Err(failure)
    }

    /// Sends a GET in the manner of this transfer. Credentials that are refused are renewed once.
    fn get(&self, url: &Url, mut headers: Vec<(header::HeaderName, String)>) -> Result<Response, Failure> {
        let client = &self.downloader.client;
        headers.extend(self.manner.accept.map(|accept| (header::ACCEPT, accept.to_owned())));
        if let Some(form) = self.manner.form {
            return client.post(url, &headers, form);
        }
        let Some(authorize) = self.manner.authorize else { return client.get(url, &headers) };
        let mut used = authorize.authorization();
        let mut tries = 0;
        loop {
            let response = match &used {
                Some(value) => client.get(&url.with_authorization(value), &headers)?,
                None => client.get(url, &headers)?,
            };
            // What another host asks for after a redirect is no business of this one's credentials.
            if response.status != 401 || tries == 2 || response.origin != url.origin() {
                return Ok(response);
            }
            match authorize.answer(&response.challenges(), used.as_deref())? {
                Some(value) => used = Some(value),
                None => return Ok(response),
            }
            tries += 1;
        }
    }

    fn attempt_document(&mut self, url: &Url) -> Result<Document, Failure> {
        let response = self.check_status(self.get(url, Vec::new())?)?;
        let media_type = media_type(&response);
        let html = is_html(&response);
        let total = self.expected_total(&response, 0)?;
        self.show(total, 0);
        let stall = self.downloader.options().stall_timeout;
        let limit = self.request.size.unwrap_or(self.request.limit);
        let mut bytes = Vec::new();
        let mut body = response.body.into_reader().take(limit.saturating_add(1));
        let mut buffer = vec![0; CHUNK];
        loop {
            self.check_cancelled()?;
            let at = bytes.len() as u64;
            match body.read(&mut buffer).map_err(|error| Failure::in_body(error, at, stall, false))? {
                0 => break,
                count => bytes.extend_from_slice(&buffer[..count]),
            }
            self.task.position(bytes.len() as u64);
        }
        Ok(Document { bytes: self.check_document(bytes, limit, html)?, media_type })
    }

    fn check_document(&self, bytes: Vec<u8>, limit: u64, html: bool) -> Result<Vec<u8>, Failure> {
        let actual = bytes.len() as u64;
        if let Some(expected) = self.request.size.filter(|expected| *expected != actual) {
            return Err(if actual < expected {
                Failure::Truncated { actual, expected, progressed: false }
            } else {
                Failure::Longer { expected }
            });
        }
        if actual > limit {
            return Err(Failure::TooLarge { limit });
        }
        match self.request.digest {
            Some(expected) if Digest::of(&bytes) != expected => {
                Err(Failure::Digest { actual: Digest::of(&bytes), expected, html })
            }
            // Some servers call every text HTML; markup that says so itself is no index and no checksum list.
            None if html && bytes.trim_ascii_start().starts_with(b"<") => Err(Failure::Html),
            _ => Ok(bytes),
        }
    }

    fn show(&mut self, total: Option<u64>, position: u64) {
        if let Some(total) = total {
            self.task.total(total);
        }
        self.task.position(position);
        self.task.note("");
    }
}

impl Downloader {
    pub(super) fn options(&self) -> &NetOptions {
        self.client.options()
    }

    /// Parses the URLs; those of hosts that could not be reached lately come last.
    fn candidates<'u>(&self, urls: &'u [String]) -> Vec<Candidate<'u>> {
        let parse = |text: &'u String| match Url::parse(text) {
            Ok(url) => Candidate { text, url: Some(url), failure: None },
            Err(failure) => Candidate { text, url: None, failure: Some(failure) },
        };
        let mut candidates: Vec<_> = urls.iter().map(parse).collect();
        let unreachable = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
        candidates.sort_by_key(|candidate| {
            let since = candidate.url.as_ref().and_then(|url| unreachable.get(&url.origin()));
            since.is_some_and(|since| since.elapsed() < DEMOTION)
        });
        candidates
    }

    /// Returns `urls` in the order in which they would be tried.
    #[cfg(test)]
    pub(super) fn order_for_tests(&self, urls: &[String]) -> Vec<String> {
        self.candidates(urls).iter().map(|candidate| candidate.text.to_owned()).collect()
    }

    fn judge(&self, url: &Url, failure: &Failure) {
        if matches!(failure, Failure::Connect(_) | Failure::Stalled { at: 0, .. }) {
            let mut unreachable = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
            unreachable.insert(url.origin(), Instant::now());
        }
    }

    fn reached(&self, url: &Url) {
        self.unreachable.lock().unwrap_or_else(PoisonError::into_inner).remove(&url.origin());
    }
}

fn key(url: &Url) -> Digest {
    Digest::of(url.to_string().as_bytes())
}

fn range_headers(url: &Url, partial: &Partial, from: u64) -> Vec<(header::HeaderName, String)> {
    let mut headers = vec![(header::RANGE, format!("bytes={from}-"))];
    let stored = partial.validators();
    if stored.url == Some(key(url)) {
        let validator = stored.etag.as_ref().or(stored.last_modified.as_ref());
        headers.extend(validator.map(|value| (header::IF_RANGE, value.clone())));
    }
    headers
}

fn validators(url: &Url, response: &Response) -> Validators {
    // "W/" marks a weak tag, which says nothing of bytes (RFC 9110, section 8.8.3).
    let etag = response.header(header::ETAG).filter(|tag| tag.starts_with('"')).map(str::to_owned);
    let date = response.header(header::DATE).and_then(retry::parse_http_date);
    let modified = response.header(header::LAST_MODIFIED);
    let strong =
        modified.and_then(retry::parse_http_date).zip(date).is_some_and(|(modified, date)| modified + 60 <= date);
    Validators { url: Some(key(url)), etag, last_modified: modified.filter(|_| strong).map(str::to_owned) }
}

/// Returns first byte and total of `bytes FIRST-LAST/TOTAL` (RFC 9110, section 14.4).
fn content_range(response: &Response) -> Option<(u64, Option<u64>)> {
    let (range, total) = response.header(header::CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, total))
}

/// Returns `Content-Type` without parameters, in lower case.
fn media_type(response: &Response) -> String {
    let value = response.header(header::CONTENT_TYPE).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_html(response: &Response) -> bool {
    media_type(response) == "text/html"
}

fn wants_html(request: &Request<'_>) -> bool {
    request.urls.iter().any(|url| super::last_segment(url).ends_with(".html"))
}
