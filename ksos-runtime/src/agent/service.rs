//! The loop: opens and closes what is to be listened on, and answers.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ksos_formats::config::{KubeconfigAccess, Metrics};
use ksos_formats::layout;
use ksos_formats::runtime::RuntimeConfig;

use crate::sys::Sys;

use super::HEALTH_AGE_MS;
use super::access::Access;
use super::facts;
use super::health::{self, Health};
use super::http::server::{Answer, Server, parse_address};
use super::http::{Request, Response};
use super::metrics::text::Format;
use super::metrics::{self, Own};

/// First and longest pause before an address that is refused is tried again, in milliseconds.
const RETRY_MS: (u64, u64) = (1000, 60_000);

/// What is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/metrics`.
    Metrics,
    /// The kubeconfig.
    Kubeconfig,
}

impl Endpoint {
    fn name(self) -> &'static str {
        match self {
            Endpoint::Metrics => "metrics",
            Endpoint::Kubeconfig => "kubeconfig",
        }
    }
}

/// An address to listen on that is not open yet.
struct Wanted {
    endpoint: Endpoint,
    address: SocketAddr,
    due_ms: u64,
    pause_ms: u64,
    said: String,
}

/// Serves until there is nothing to serve any more. Returns the exit status.
pub(super) fn run(sys: &dyn Sys, metrics: &Metrics, kubeconfig: KubeconfigAccess, out: &mut dyn Write) -> i32 {
    match Service::new(sys, metrics, kubeconfig, out) {
        Ok(mut service) => service.run(out),
        Err(status) => status,
    }
}

/// Everything but the loop, for tests to turn by hand.
pub(super) struct Service<'a> {
    sys: &'a dyn Sys,
    server: Server<Endpoint>,
    wanted: Vec<Wanted>,
    pages: Pages<'a>,
}

impl<'a> Service<'a> {
    /// Takes the configuration; an error is an exit status: nothing to serve, or no usable address.
    pub(super) fn new(
        sys: &'a dyn Sys,
        metrics: &Metrics,
        kubeconfig: KubeconfigAccess,
        out: &mut dyn Write,
    ) -> Result<Self, i32> {
        let mut wanted = Vec::new();
        let mut invalid = false;
        let mut want = |endpoint: Endpoint, listen: &str| match parse_address(listen) {
            Ok(address) => {
                let pause_ms = RETRY_MS.0;
                wanted.push(Wanted { endpoint, address, due_ms: 0, pause_ms, said: String::new() });
            }
            Err(error) => {
                invalid = true;
                log(out, &format!("{}: {error}", endpoint.name()));
            }
        };
        if metrics.enabled {
            want(Endpoint::Metrics, &metrics.listen);
        }
        if kubeconfig.enabled {
            want(Endpoint::Kubeconfig, &kubeconfig.listen);
        }
        let access = kubeconfig_access(sys, kubeconfig, out);
        if access.is_none() {
            wanted.retain(|wanted| wanted.endpoint != Endpoint::Kubeconfig);
        }
        if wanted.is_empty() {
            log(out, "nothing to serve");
            return Err(i32::from(invalid));
        }
        let pages = Pages { sys, access, health: None, rejected: 0 };
        Ok(Service { sys, server: Server::new(), wanted, pages })
    }

    fn run(&mut self, out: &mut dyn Write) -> i32 {
        loop {
            let next = self.prepare(out);
            if self.wanted.is_empty() && self.server.is_idle() {
                log(out, "nothing more to serve");
                return 0;
            }
            let now = self.sys.uptime_ms();
            let timeout = next.map(|at| Duration::from_millis(at.saturating_sub(now)));
            if let Err(error) = self.turn(timeout, out) {
                log(out, &format!("poll: {error}"));
                return 1;
            }
        }
    }

    /// Opens and closes listeners as it is time; returns when it is to be called again, in milliseconds since the kernel
    /// started.
    pub(super) fn prepare(&mut self, out: &mut dyn Write) -> Option<u64> {
        let mut next = self.pages.access.as_mut().and_then(Access::tick);
        if self.pages.access.as_ref().is_some_and(|access| !access.is_open()) {
            self.server.close(Endpoint::Kubeconfig);
            self.wanted.retain(|wanted| wanted.endpoint != Endpoint::Kubeconfig);
        }
        let now = self.sys.uptime_ms();
        let server = &mut self.server;
        self.wanted.retain_mut(|wanted| wanted.due_ms > now || !wanted.open(server, now, out));
        for wanted in &self.wanted {
            next = Some(next.map_or(wanted.due_ms, |at| at.min(wanted.due_ms)));
        }
        self.write_log(out);
        next
    }

    /// Waits for clients and answers them.
    pub(super) fn turn(&mut self, timeout: Option<Duration>, out: &mut dyn Write) -> std::io::Result<()> {
        self.pages.rejected = self.server.rejected();
        let result = self.server.turn(timeout, &mut self.pages);
        self.write_log(out);
        result
    }

    fn write_log(&mut self, out: &mut dyn Write) {
        for line in self.pages.access.as_mut().map(Access::take_log).unwrap_or_default() {
            log(out, &line);
        }
    }

    /// Whether `endpoint` is listened on.
    #[cfg(test)]
    pub(super) fn is_open(&self, endpoint: Endpoint) -> bool {
        self.server.is_open(endpoint)
    }
}

impl Wanted {
    /// Tries to listen; returns whether it does.
    fn open(&mut self, server: &mut Server<Endpoint>, now: u64, out: &mut dyn Write) -> bool {
        match server.open(self.endpoint, self.address) {
            Ok(address) => {
                log(out, &format!("{}: listening on {address}", self.endpoint.name()));
                true
            }
            Err(error) => {
                let line = format!("{}: {error}; trying again", self.endpoint.name());
                if self.said != line {
                    log(out, &line);
                    self.said = line;
                }
                self.due_ms = now + self.pause_ms;
                self.pause_ms = (self.pause_ms * 2).min(RETRY_MS.1);
                false
            }
        }
    }
}

fn kubeconfig_access<'a>(sys: &'a dyn Sys, config: KubeconfigAccess, out: &mut dyn Write) -> Option<Access<'a>> {
    if !config.enabled {
        return None;
    }
    let path = match facts::document::<RuntimeConfig>(sys, layout::RUNTIME_CONFIG) {
        Ok(runtime) => runtime.kubernetes.map(|kubernetes| kubernetes.kubeconfig),
        Err(reason) => {
            log(out, &reason);
            None
        }
    };
    if path.is_none() {
        log(out, "kubeconfig: this image has no Kubernetes");
    }
    path.map(|path| Access::new(sys, config, &path))
}

/// Standard output is what PID 1 keeps as the service's log.
fn log(out: &mut dyn Write, line: &str) {
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// The answers.
struct Pages<'a> {
    sys: &'a dyn Sys,
    access: Option<Access<'a>>,
    health: Option<(u64, Health)>,
    rejected: u64,
}

impl Answer<Endpoint> for Pages<'_> {
    fn answer(&mut self, endpoint: Endpoint, peer: IpAddr, request: &Request) -> Response {
        match (endpoint, request.path.as_str()) {
            (Endpoint::Metrics, "/") => Response::text(200, "KubeSolo OS. Metrics: /metrics"),
            (Endpoint::Metrics, "/metrics") => self.metrics(&request.accept),
            (Endpoint::Metrics, _) => Response::refusal(404),
            (Endpoint::Kubeconfig, _) => match &mut self.access {
                Some(access) => access.answer(peer, request),
                None => Response::refusal(404),
            },
        }
    }
}

impl Pages<'_> {
    fn metrics(&mut self, accept: &str) -> Response {
        let facts = facts::read_facts(self.sys);
        let now = self.sys.uptime_ms();
        let health = match self.health.take().filter(|(at, _)| now.saturating_sub(*at) < HEALTH_AGE_MS) {
            Some(kept) => kept,
            None => {
                let health = health::evaluate_facts(self.sys, &facts);
                (self.sys.uptime_ms(), health)
            }
        };
        let kubeconfig = self.access.as_ref().map_or((false, 0), |access| (access.is_open(), access.fetches()));
        let own = Own { rejected: self.rejected, kubeconfig };
        let format = Format::negotiate(accept);
        let text = metrics::render(self.sys, &facts, &health.1, own, format);
        self.health = Some(health);
        let fields = vec![("Content-Type", format.content_type().to_owned()), ("Vary", "Accept".to_owned())];
        Response { status: 200, fields, body: text.into_bytes() }
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
