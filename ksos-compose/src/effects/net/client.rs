//! One request: proxy, redirects, credentials and the classification of what goes wrong.
//!
//! `ureq` follows no redirect and reads no environment here: both are decided per hop, because a redirect may need
//! another proxy and must not carry credentials along. Bodies are taken as they are: no content coding is asked for
//! and none is undone, so that a digest is that of the published file.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ureq::config::Config;
use ureq::http::{HeaderMap, Method, Request, header, request};
use ureq::{Agent, AsSendBody, Body, Proxy, SendBody};

use super::failure::Failure;
use super::options::NetOptions;
use super::url::{Origin, Url};
use super::{forward, proxy};

/// Redirects that one GET follows.
const MAX_REDIRECTS: u32 = 5;

/// Sends requests. Connections are reused.
#[derive(Debug)]
pub(super) struct Client {
    options: NetOptions,
    direct: Agent,
    /// One agent for each proxy and way to use it (true: by CONNECT).
    proxies: Mutex<HashMap<(bool, String), Agent>>,
}

/// What goes with a request.
pub(super) enum Content<'a> {
    /// Nothing; of a request that could have a body, none is said to come.
    None,
    /// These bytes.
    Bytes(&'a [u8]),
    /// As many bytes of this.
    Reader(&'a mut dyn Read, u64),
}

/// An answer that is not a redirect.
#[derive(Debug)]
pub(super) struct Response {
    /// The status code.
    pub(super) status: u16,
    /// The header.
    pub(super) headers: HeaderMap,
    /// The body, yet to be read.
    pub(super) body: Body,
    /// Who answered, after redirects.
    pub(super) origin: Origin,
}

impl Response {
    /// Returns a header's value, when it is text.
    pub(super) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns the values of `WWW-Authenticate`.
    pub(super) fn challenges(&self) -> Vec<String> {
        let values = self.headers.get_all(header::WWW_AUTHENTICATE);
        values.iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
    }
}

impl Client {
    pub(super) fn new(options: NetOptions) -> Self {
        let direct = config(&options, None).new_agent();
        Client { options, direct, proxies: Mutex::default() }
    }

    /// Returns the settings.
    pub(super) fn options(&self) -> &NetOptions {
        &self.options
    }

    /// Sends a GET with more `headers`, following redirects.
    pub(super) fn get(&self, url: &Url, headers: &[(header::HeaderName, String)]) -> Result<Response, Failure> {
        self.follow(Method::GET, url, headers)
    }

    /// Sends a GET or HEAD with more `headers`, following redirects.
    pub(super) fn follow(
        &self,
        method: Method,
        url: &Url,
        headers: &[(header::HeaderName, String)],
    ) -> Result<Response, Failure> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.hop(method.clone(), &url, headers, Content::None, None)?;
            if !matches!(response.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.header(header::LOCATION).ok_or(Failure::NoLocation(response.status))?;
            url = url.redirect(location)?;
        }
        Err(Failure::Redirects(MAX_REDIRECTS))
    }

    /// Sends a form by POST. A redirect is an answer like any other.
    pub(super) fn post(
        &self,
        url: &Url,
        headers: &[(header::HeaderName, String)],
        form: &str,
    ) -> Result<Response, Failure> {
        let mut headers = headers.to_vec();
        headers.push((header::CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned()));
        self.hop(Method::POST, url, &headers, Content::Bytes(form.as_bytes()), None)
    }

    /// Sends one request. `patience` is how long its answer may take, when that is longer than a stall.
    pub(super) fn hop(
        &self,
        method: Method,
        url: &Url,
        headers: &[(header::HeaderName, String)],
        content: Content<'_>,
        patience: Option<Duration>,
    ) -> Result<Response, Failure> {
        let route = self.route(url)?;
        let mut request =
            Request::builder().method(method).uri(url.uri().clone()).header(header::ACCEPT_ENCODING, "identity");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(value) = url.authorization() {
            request = request.header(header::AUTHORIZATION, value);
        }
        if let Some(value) = &route.proxy_authorization {
            request = request.header(header::PROXY_AUTHORIZATION, value);
        }
        let patience = patience.unwrap_or(self.options.stall_timeout);
        let response = match content {
            Content::None => send(&route.agent, request, (), patience),
            Content::Bytes(bytes) => send(&route.agent, request, bytes, patience),
            Content::Reader(reader, length) => {
                let request = request.header(header::CONTENT_LENGTH, length);
                send(&route.agent, request, SendBody::from_reader(reader), patience)
            }
        };
        let (parts, body) = response?.into_parts();
        Ok(Response { status: parts.status.as_u16(), headers: parts.headers, body, origin: url.origin() })
    }

    /// Returns the agent for a URL: direct, or that of its proxy.
    fn route(&self, url: &Url) -> Result<Route, Failure> {
        let Some(value) = self.options.proxy.for_url(url) else {
            return Ok(Route { agent: self.direct.clone(), proxy_authorization: None });
        };
        let proxy = proxy::parse(value)?;
        let tunnel = url.origin().secure;
        // With CONNECT, ureq sends the credentials with that, and nothing of them to the server.
        let proxy_authorization = proxy.authorization().filter(|_| !tunnel).map(str::to_owned);
        let mut agents = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        let agent = match agents.entry((tunnel, value.to_owned())) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => entry.insert(self.proxy_agent(tunnel, value, &proxy)?).clone(),
        };
        Ok(Route { agent, proxy_authorization })
    }

    fn proxy_agent(&self, tunnel: bool, value: &str, proxy: &Url) -> Result<Agent, Failure> {
        let unusable = |why: &str| Failure::Proxy(format!("the proxy {proxy} cannot be used: {why}"));
        if tunnel {
            let proxy = Proxy::new(value).map_err(|error| unusable(&error.to_string()))?;
            return Ok(config(&self.options, Some(proxy)).new_agent());
        }
        if proxy.origin().secure {
            return Err(unusable("http URLs need a proxy that is reached by http"));
        }
        Ok(forward::agent(config(&self.options, None), proxy.uri().clone()))
    }
}

fn send(
    agent: &Agent,
    request: request::Builder,
    body: impl AsSendBody,
    patience: Duration,
) -> Result<ureq::http::Response<Body>, Failure> {
    let request = request.body(body).map_err(|error| Failure::BadUrl(error.to_string()))?;
    let request = agent.configure_request(request).timeout_per_read(Some(patience)).build();
    agent.run(request).map_err(|error| Failure::before_answer(error, patience))
}

/// How a URL is reached.
struct Route {
    agent: Agent,
    proxy_authorization: Option<String>,
}

fn config(options: &NetOptions, proxy: Option<Proxy>) -> Config {
    // The platform verifier reads SSL_CERT_FILE and SSL_CERT_DIR itself; without them, the system's store.
    let tls = ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build();
    Agent::config_builder()
        .proxy(proxy)
        .tls_config(tls)
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(&options.user_agent)
        .max_idle_connections_per_host(8)
        .timeout_connect(Some(options.connect_timeout))
        .timeout_resolve(Some(options.connect_timeout))
        .timeout_per_read(Some(options.stall_timeout))
        .timeout_per_write(Some(options.stall_timeout))
        .build()
}
