//! Serving the administrator's kubeconfig for a limited time or a limited number of fetches.
//!
//! Off unless the configuration says so. A window opens when the file exists and ends after
//! [`KubeconfigAccess::duration_s`] seconds or [`KubeconfigAccess::fetches`] fetches, whichever is first; then the port
//! is closed. What was used up is kept in [`RECORD`], so that a restart of the process neither reopens nor prolongs the
//! window; a restart of the node does (`/run` is memory). A fetch is written down before its bytes are sent, and a record
//! that cannot be read or written closes the window: in doubt nothing is served.
//!
//! | answer | when |
//! |---|---|
//! | 200 | the file, unchanged, `Cache-Control: no-store` |
//! | 401 | the configuration has a token, and the request has not (RFC 6750, section 3) |
//! | 404 | another path than `/kubeconfig` or `/` |
//! | 410 | the window has ended, on a connection from before |
//! | 503 | the file is not there yet; `Retry-After` |

use std::net::IpAddr;

use ksos_formats::config::KubeconfigAccess;
use serde::{Deserialize, Serialize};

use crate::sys::{FileKind, Sys};

use super::http::{Request, Response};

/// What was used up of the window.
pub(super) const RECORD: &str = "/run/ksos/kubeconfig-access.json";
/// The current value of [`Record::format`].
const FORMAT: u32 = 1;
/// Largest kubeconfig that is served, in bytes.
const FILE_LIMIT: u64 = 1 << 20;
/// How often the file is looked for while it does not exist, in milliseconds.
const LOOK_MS: u64 = 5000;
/// `Retry-After` of a 503, in seconds.
const RETRY_AFTER: &str = "5";
/// How many refused tokens are logged.
const REFUSALS_LOGGED: u32 = 20;

/// The content of [`RECORD`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Record {
    /// [`FORMAT`].
    format: u32,
    /// When the window opened, in milliseconds since the kernel started.
    opened_ms: u64,
    /// Fetches so far.
    fetches: u32,
}

/// Where the window is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Window {
    /// The file does not exist yet.
    Waiting,
    /// It is served.
    Open(Record),
    /// It is served no more.
    Ended,
}

/// The window and its rules.
pub(super) struct Access<'a> {
    sys: &'a dyn Sys,
    config: KubeconfigAccess,
    path: String,
    window: Window,
    fetches: u32,
    refusals: u32,
    log: Vec<String>,
}

impl<'a> Access<'a> {
    /// Returns the access to the file `path`, continuing what the record says.
    pub(super) fn new(sys: &'a dyn Sys, config: KubeconfigAccess, path: &str) -> Self {
        let mut access = Access {
            sys,
            config,
            path: path.to_owned(),
            window: Window::Waiting,
            fetches: 0,
            refusals: 0,
            log: Vec::new(),
        };
        match sys.read(RECORD, FILE_LIMIT) {
            Ok(bytes) => match serde_json::from_slice::<Record>(&bytes) {
                Ok(record) if record.format == FORMAT => {
                    access.fetches = record.fetches;
                    access.window = Window::Open(record);
                }
                Ok(record) => access.end(&format!("{RECORD}: format {} is not {FORMAT}", record.format)),
                Err(error) => access.end(&format!("{RECORD}: {error}")),
            },
            Err(error) if error.is_not_found() => {}
            Err(error) => access.end(&error.to_string()),
        }
        access
    }

    /// Moves on with time and returns when to ask again, in milliseconds since the kernel started; `None`: never.
    pub(super) fn tick(&mut self) -> Option<u64> {
        let now = self.sys.uptime_ms();
        if self.window == Window::Waiting && self.sys.kind(&self.path) == Some(FileKind::File) {
            self.open(now);
        }
        match self.window {
            Window::Waiting => Some(now + LOOK_MS),
            Window::Open(record) => {
                let end = self.end_of(record);
                if end.is_some_and(|end| end <= now) {
                    self.end(&format!("{} s have passed", self.config.duration_s));
                } else if self.config.fetches > 0 && record.fetches >= self.config.fetches {
                    self.end(&format!("it was fetched {} times", record.fetches));
                }
                if self.window == Window::Ended { None } else { end }
            }
            Window::Ended => None,
        }
    }

    /// Whether the port has to be open.
    pub(super) fn is_open(&self) -> bool {
        self.window != Window::Ended
    }

    /// Fetches since the node started.
    pub(super) fn fetches(&self) -> u32 {
        self.fetches
    }

    /// Takes what there is to log. It never holds the file's content or a token.
    pub(super) fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// Answers a request.
    pub(super) fn answer(&mut self, peer: IpAddr, request: &Request) -> Response {
        if !matches!(request.path.as_str(), "/" | "/kubeconfig") {
            return Response::refusal(404);
        }
        if !self.permits(request) {
            self.refusals = self.refusals.saturating_add(1);
            if self.refusals <= REFUSALS_LOGGED {
                self.log.push(format!("kubeconfig: refused to {peer}: no or wrong token"));
            }
            return Response::refusal(401).with("WWW-Authenticate", "Bearer realm=\"kubeconfig\"");
        }
        self.tick();
        let response = match self.window {
            Window::Waiting => not_yet(),
            Window::Ended => Response::refusal(410),
            Window::Open(record) => self.serve(peer, request, record),
        };
        response.with("Cache-Control", "no-store")
    }

    fn permits(&self, request: &Request) -> bool {
        let Some(token) = &self.config.token else { return true };
        let sent = request.authorization.as_deref().and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        // An empty token in the configuration opens nothing.
        !token.is_empty() && same(token.as_bytes(), sent.unwrap_or_default().as_bytes())
    }

    fn serve(&mut self, peer: IpAddr, request: &Request, record: Record) -> Response {
        let body = match self.sys.read(&self.path, FILE_LIMIT) {
            Ok(body) if body.is_empty() => return not_yet(),
            Ok(body) => body,
            Err(error) if error.is_not_found() => return not_yet(),
            Err(error) => {
                self.log.push(format!("kubeconfig: {error}"));
                return Response::refusal(500);
            }
        };
        if !request.head {
            let record = Record { fetches: record.fetches.saturating_add(1), ..record };
            if !self.write(record) {
                return Response::refusal(500);
            }
            self.log.push(format!("kubeconfig: fetched by {peer}, fetch {}", record.fetches));
            self.tick();
        }
        Response { status: 200, fields: vec![("Content-Type", "application/yaml".to_owned())], body }
    }

    fn open(&mut self, now: u64) {
        if self.write(Record { format: FORMAT, opened_ms: now, fetches: 0 }) {
            let limit = |value: u64, unit: &str| (value > 0).then(|| format!("{value} {unit}"));
            let limits = [limit(self.config.duration_s, "s"), limit(self.config.fetches.into(), "fetches")];
            let limits: Vec<String> = limits.into_iter().flatten().collect();
            let limits = if limits.is_empty() { "no limit".to_owned() } else { limits.join(" or ") };
            let token = if self.config.token.is_some() { "with a token" } else { "without a token" };
            self.log.push(format!("kubeconfig: served {token}, {limits}"));
        }
    }

    /// Writes the record and takes it over; ends the window if that fails, because the limits would not hold.
    fn write(&mut self, record: Record) -> bool {
        let written = serde_json::to_vec(&record)
            .map_err(|error| error.to_string())
            .and_then(|text| self.sys.replace(RECORD, &text, 0o600).map_err(|error| error.to_string()));
        match written {
            Ok(()) => {
                self.fetches = record.fetches;
                self.window = Window::Open(record);
                true
            }
            Err(error) => {
                self.end(&error);
                false
            }
        }
    }

    fn end(&mut self, reason: &str) {
        self.window = Window::Ended;
        self.log.push(format!("kubeconfig: served no more: {reason}"));
    }

    fn end_of(&self, record: Record) -> Option<u64> {
        let duration = self.config.duration_s;
        (duration > 0).then(|| record.opened_ms.saturating_add(duration.saturating_mul(1000)))
    }
}

fn not_yet() -> Response {
    Response::text(503, "The kubeconfig does not exist yet.").with("Retry-After", RETRY_AFTER)
}

/// Compares in a time that depends on the length of `sent` alone.
fn same(token: &[u8], sent: &[u8]) -> bool {
    let mut difference = token.len() ^ sent.len();
    for (index, byte) in sent.iter().enumerate() {
        let expected = token.get(index % token.len().max(1)).copied().unwrap_or(0);
        difference |= usize::from(std::hint::black_box(byte ^ expected));
    }
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::double::Double;

    const PATH: &str = "/var/lib/kubesolo/pki/admin/admin.kubeconfig";
    const SECRET: &str = "client-key-data: c2VjcmV0";

    fn config(duration_s: u64, fetches: u32, token: Option<&str>) -> KubeconfigAccess {
        let token = token.map(str::to_owned);
        KubeconfigAccess { enabled: true, duration_s, fetches, token, ..KubeconfigAccess::default() }
    }

    fn machine(with_file: bool) -> Double {
        let sys = Double::new();
        sys.put("/run/ksos/x", "");
        if with_file {
            sys.put(PATH, SECRET);
        }
        sys
    }

    fn request(path: &str, authorization: Option<&str>) -> Request {
        let authorization = authorization.map(str::to_owned);
        Request { head: false, path: path.to_owned(), accept: String::new(), authorization }
    }

    fn fetch(access: &mut Access<'_>) -> u16 {
        access.answer(IpAddr::from([192, 0, 2, 7]), &request("/kubeconfig", None)).status
    }

    #[test]
    fn the_window_opens_with_the_file_and_ends_with_time() {
        let sys = machine(false);
        let mut access = Access::new(&sys, config(60, 0, None), PATH);
        assert_eq!(access.tick(), Some(6000));
        let early = access.answer(IpAddr::from([192, 0, 2, 7]), &request("/", None));
        assert_eq!(early.status, 503);
        assert!(early.fields.contains(&("Retry-After", "5".to_owned())), "{:?}", early.fields);
        sys.now.set(100_000);
        sys.put(PATH, SECRET);
        assert_eq!(access.tick(), Some(160_000));
        let response = access.answer(IpAddr::from([192, 0, 2, 7]), &request("/", None));
        assert_eq!((response.status, response.body.as_slice()), (200, SECRET.as_bytes()));
        assert!(response.fields.contains(&("Cache-Control", "no-store".to_owned())));
        sys.now.set(159_999);
        assert_eq!((fetch(&mut access), access.is_open()), (200, true));
        sys.now.set(160_000);
        assert_eq!((access.tick(), access.is_open(), fetch(&mut access)), (None, false, 410));
        let log = access.take_log().join("\n");
        assert_eq!(
            log,
            "kubeconfig: served without a token, 60 s\nkubeconfig: fetched by 192.0.2.7, fetch 1\n\
             kubeconfig: fetched by 192.0.2.7, fetch 2\nkubeconfig: served no more: 60 s have passed"
        );
    }

    #[test]
    fn fetches_are_counted_across_restarts_of_the_process() {
        let sys = machine(true);
        let mut access = Access::new(&sys, config(0, 2, None), PATH);
        assert_eq!((access.tick(), fetch(&mut access), access.is_open()), (None, 200, true));
        let mut access = Access::new(&sys, config(0, 2, None), PATH);
        assert_eq!((access.fetches(), fetch(&mut access), access.is_open()), (1, 200, false));
        assert_eq!(fetch(&mut access), 410);
        let mut access = Access::new(&sys, config(0, 2, None), PATH);
        access.tick();
        assert!(!access.is_open());
        assert_eq!(fetch(&mut access), 410);
    }

    #[test]
    fn a_restart_does_not_prolong_the_window() {
        let sys = machine(true);
        Access::new(&sys, config(60, 0, None), PATH).tick();
        sys.now.set(61_000);
        let mut access = Access::new(&sys, config(60, 0, None), PATH);
        assert_eq!((access.tick(), access.is_open()), (None, false));
    }

    #[test]
    fn a_record_that_is_damaged_or_cannot_be_written_closes() {
        for text in ["", "{", "[]", "{\"format\":2,\"opened_ms\":0,\"fetches\":0}", "{\"format\":1}"] {
            let sys = machine(true);
            sys.put(RECORD, text);
            let mut access = Access::new(&sys, config(60, 2, None), PATH);
            assert_eq!((access.is_open(), fetch(&mut access)), (false, 410), "{text:?}");
        }
        // Without the directory the record cannot be written.
        let sys = Double::new();
        sys.put(PATH, SECRET);
        let mut access = Access::new(&sys, config(60, 2, None), PATH);
        assert_eq!((fetch(&mut access), access.is_open()), (410, false));
    }

    #[test]
    fn tokens() {
        let sys = machine(true);
        let mut access = Access::new(&sys, config(0, 0, Some("correct horse")), PATH);
        let mut status = |authorization: Option<&str>| {
            let peer = IpAddr::from([192, 0, 2, 7]);
            access.answer(peer, &request("/kubeconfig", authorization)).status
        };
        assert_eq!(status(Some("Bearer correct horse")), 200);
        assert_eq!(status(Some("bearer  correct horse ")), 200);
        for wrong in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer correct"),
            Some("Bearer correct horse correct horse"),
            Some("Bearer Correct horse"),
            Some("Basic correct horse"),
        ] {
            assert_eq!(status(wrong), 401, "{wrong:?}");
        }
        let log = access.take_log().join("\n");
        assert!(log.contains("refused to 192.0.2.7") && !log.contains("horse") && !log.contains("key-data"), "{log}");
        let mut access = Access::new(&sys, config(0, 0, Some("")), PATH);
        let peer = IpAddr::from([192, 0, 2, 7]);
        assert_eq!(access.answer(peer, &request("/", Some("Bearer "))).status, 401);
    }

    #[test]
    fn other_paths_and_heads_cost_no_fetch() {
        let sys = machine(true);
        let mut access = Access::new(&sys, config(0, 1, None), PATH);
        let peer = IpAddr::from([192, 0, 2, 7]);
        assert_eq!(access.answer(peer, &request("/etc/shadow", None)).status, 404);
        let head = Request { head: true, ..request("/kubeconfig", None) };
        assert_eq!(access.answer(peer, &head).status, 200);
        assert_eq!((fetch(&mut access), fetch(&mut access)), (200, 410));
    }

    #[test]
    fn a_file_that_is_empty_or_too_large_costs_no_fetch() {
        let sys = machine(true);
        let mut access = Access::new(&sys, config(0, 1, None), PATH);
        sys.put(PATH, "");
        assert_eq!(fetch(&mut access), 503);
        sys.put(PATH, vec![b'x'; FILE_LIMIT as usize + 1]);
        assert_eq!(fetch(&mut access), 500);
        sys.put(PATH, SECRET);
        assert_eq!(fetch(&mut access), 200);
    }

    #[test]
    fn comparison() {
        assert!(same(b"abc", b"abc") && same(b"", b""));
        for sent in ["", "ab", "abcabc", "abd", "abcd", "aabc"] {
            assert!(!same(b"abc", sent.as_bytes()), "{sent}");
        }
    }
}
