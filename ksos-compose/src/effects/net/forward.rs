//! Asking an HTTP proxy for an `http` URL.
//!
//! "A client MUST send the target URI in 'absolute-form' as the request-target" (RFC 9112, section 3.2.2). `ureq` only
//! knows CONNECT, which proxies commonly allow to port 443 alone; so here the connection goes to the proxy whatever
//! the URL's host, and the request line is completed on its way out. Uses `ureq::unversioned`, hence the pinned minor
//! version.

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport};
use ureq::{Agent, Error};

/// Returns an agent whose every request goes to `proxy`, over plain TCP.
pub(super) fn agent(config: Config, proxy: Uri) -> Agent {
    let connector = ().chain(TcpConnector::default()).chain(AbsoluteForm);
    Agent::with_parts(config, connector, ProxyAddress { proxy, resolver: DefaultResolver::default() })
}

/// Resolves every host to the proxy; only the proxy can know the real address.
#[derive(Debug)]
struct ProxyAddress {
    proxy: Uri,
    resolver: DefaultResolver,
}

impl Resolver for ProxyAddress {
    fn resolve(&self, _: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        self.resolver.resolve(&self.proxy, config, timeout)
    }
}

#[derive(Debug)]
struct AbsoluteForm;

impl<In: Transport> Connector<In> for AbsoluteForm {
    type Out = AbsoluteFormTransport<In>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let authority = details.uri.authority().map_or("", |authority| authority.as_str());
        let prefix = format!("http://{authority}").into_bytes();
        Ok(chained.map(|inner| AbsoluteFormTransport { inner, prefix, is_new: true }))
    }
}

/// Puts scheme and authority before the path of each request line.
#[derive(Debug)]
struct AbsoluteFormTransport<T> {
    inner: T,
    prefix: Vec<u8>,
    /// Whether what goes out next begins a request: nothing has gone out since an answer came in. The rest of a request
    /// is its body.
    is_new: bool,
}

impl<T: Transport> Transport for AbsoluteFormTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let output = self.inner.buffers().output();
        let mut total = amount;
        if self.is_new
            && amount > 0
            && let Some(target) = target(&output[..amount])
        {
            total += self.prefix.len();
            if total > output.len() {
                return Err(Error::BadUri("the URL is too long for the proxy".to_owned()));
            }
            output.copy_within(target..amount, target + self.prefix.len());
            output[target..][..self.prefix.len()].copy_from_slice(&self.prefix);
        }
        self.is_new &= amount == 0;
        self.inner.transmit_output(total, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let came = self.inner.await_input(timeout)?;
        self.is_new = true;
        Ok(came)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}

/// Returns where the target of a request line begins, when it is a path.
fn target(output: &[u8]) -> Option<usize> {
    let blank = output.iter().position(|byte| !byte.is_ascii_uppercase())?;
    (blank > 0 && output[blank..].starts_with(b" /")).then_some(blank + 1)
}
