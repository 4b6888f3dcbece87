//! From settings to what requests are sent with: trust, proxy, credentials.

use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::client::Client;
use super::connection::{Dialer, Proxy};
use super::pace::{Clock, Limits, Pace};
use super::url::{Origin, Scheme, decode};
use super::{SourceError, SourceSettings};
use crate::sys::{Sys, TEXT_LIMIT};

/// User name and password, or a token.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// None.
    Anonymous,
    /// Value of `Authorization`: Basic (RFC 7617).
    Basic(String),
    /// Value of `Authorization`: Bearer (RFC 6750).
    Bearer(String),
}

impl Credentials {
    pub(super) fn from_settings(settings: &SourceSettings) -> Result<Self, SourceError> {
        let plain = |text: &str| !text.chars().any(char::is_control);
        match (settings.username.as_deref(), settings.password.as_deref()) {
            (None, None) => Ok(Credentials::Anonymous),
            (Some(name), _) if name.contains(':') || !plain(name) => {
                Err(SourceError::Credentials("the user name has a colon or a control character (RFC 7617, section 2)"))
            }
            (Some(name), password) => {
                let password = password.unwrap_or_default();
                if !plain(password) {
                    return Err(SourceError::Credentials("the password has a control character"));
                }
                Ok(Credentials::Basic(basic(name, password)))
            }
            (None, Some(token)) if !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Credentials::Bearer(format!("Bearer {token}")))
            }
            (None, Some(_)) => Err(SourceError::Credentials("the token is empty or has a character that no token has")),
        }
    }

    /// Returns the value of `Authorization`.
    pub(super) fn value(&self) -> Option<&str> {
        match self {
            Credentials::Anonymous => None,
            Credentials::Basic(value) | Credentials::Bearer(value) => Some(value),
        }
    }

    /// Says which they are.
    pub(super) fn words(&self) -> &'static str {
        match self {
            Credentials::Anonymous => "without credentials",
            Credentials::Basic(_) => "with user name and password",
            Credentials::Bearer(_) => "with a token",
        }
    }
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

/// Returns what requests to a source of scheme `scheme` are sent with.
pub(super) fn client(
    settings: &SourceSettings,
    scheme: Scheme,
    sys: &dyn Sys,
    clock: Box<dyn Clock>,
    limits: Limits,
) -> Result<Client, SourceError> {
    let pace = Rc::new(Pace::new(clock, limits, settings.bandwidth));
    let proxy = settings.proxy.as_deref().map(proxy).transpose()?;
    let tls = tls(&settings.ca_bundle, scheme == Scheme::Https, sys)?;
    Ok(Client::new(Dialer { tls, proxy, pace }))
}

/// Reads `http://[USER:PASSWORD@]HOST:PORT`; user and password percent-encoded.
fn proxy(text: &str) -> Result<Proxy, SourceError> {
    let invalid = SourceError::Proxy;
    let rest = text.strip_prefix("http://").ok_or(invalid("not http://[USER:PASSWORD@]HOST:PORT"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user, authority) = rest.rsplit_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
    let origin = Origin::parse(Scheme::Http, authority).map_err(invalid)?;
    let authorization = user.map(|user| {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let decoded = decode(name).zip(decode(password));
        let decoded = decoded.filter(|(name, password)| !(name.clone() + password).chars().any(char::is_control));
        decoded
            .map(|(name, password)| basic(&name, &password))
            .ok_or(invalid("user or password is not percent-encoded text"))
    });
    Ok(Proxy { origin, authorization: authorization.transpose()? })
}

fn tls(paths: &[String], needed: bool, sys: &dyn Sys) -> Result<Arc<ClientConfig>, SourceError> {
    let invalid = |reason: String| SourceError::Authorities { path: paths.join(", "), reason };
    let mut roots = RootCertStore::empty();
    for path in paths {
        let bytes = match sys.read(path, TEXT_LIMIT) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        // One that this version cannot read is one that it does not trust; the others stay good.
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok));
    }
    if needed && roots.is_empty() {
        return Err(invalid("no certificate authority to be trusted".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(error.to_string()))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(name: Option<&str>, password: Option<&str>) -> Result<Credentials, SourceError> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let settings = SourceSettings { username: owned(name), password: owned(password), ..SourceSettings::default() };
        Credentials::from_settings(&settings)
    }

    #[test]
    fn credentials_become_a_field() {
        let value = |name, password| credentials(name, password).expect("valid").value().map(str::to_owned);
        assert_eq!(value(None, None), None);
        // RFC 7617, section 2.
        assert_eq!(value(Some("Aladdin"), Some("open sesame")).as_deref(), Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
        assert_eq!(value(None, Some("abc")).as_deref(), Some("Bearer abc"));
        for (name, password) in [
            (Some("a:b"), Some("c")),
            (Some("a\r\nX: y"), Some("c")),
            (Some("a"), Some("c\n")),
            (None, Some("")),
            (None, Some("a b")),
            (None, Some("a\r\nX: y")),
        ] {
            assert!(matches!(credentials(name, password), Err(SourceError::Credentials(_))), "{name:?} {password:?}");
        }
    }

    #[test]
    fn proxies_and_what_is_none() {
        let good = proxy("http://us%40er:p%3Aw@proxy:3128/").expect("a proxy");
        assert_eq!(good.origin.with_port(), "proxy:3128");
        assert_eq!(good.authorization, Some(basic("us@er", "p:w")));
        assert!(!format!("{good:?}").contains("Basic"), "{good:?}");
        assert_eq!(proxy("http://proxy:3128").expect("a proxy").authorization, None);
        for text in [
            "",
            "proxy:3128",
            "https://proxy",
            "socks5://proxy",
            "http://",
            "http://a%zz@p",
            "http://a%0a@p",
            "http://p/x",
        ] {
            assert!(matches!(proxy(text), Err(SourceError::Proxy(_))), "{text}");
        }
    }
}
