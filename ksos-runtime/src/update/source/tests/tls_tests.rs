//! HTTPS: whose certificates are taken, and that nothing leads away from it.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::server::{Reply, Server, Then};
use super::*;

/// A certificate authority.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed"))
    }

    /// Returns a server's configuration with a certificate for `name`, valid in the years given.
    fn server(
        &self,
        name: &str,
        years: std::ops::Range<i32>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .expect("a certificate");
        Arc::new(config)
    }

    /// Returns a good one.
    pub(super) fn good(&self) -> Arc<ServerConfig> {
        self.server("127.0.0.1", 1975..4095, rustls::ALL_VERSIONS)
    }

    /// Returns a machine that trusts this authority among others.
    pub(super) fn machine(&self) -> Double {
        let sys = Double::new();
        let text = format!("# others\n{}\n# site\n{}", Authority::new().0.pem(), self.0.pem());
        sys.put(CA, text);
        sys
    }
}

#[test]
fn the_bundle_of_the_system_is_trusted_with_both_versions_of_tls() {
    let authority = Authority::new();
    for version in rustls::ALL_VERSIONS {
        let server =
            Server::start_tls(authority.server("127.0.0.1", 1975..4095, &[version]), |seen| match seen.range() {
                Some(_) => server::file(seen, &bytes(300_000), ""),
                None => Reply::new(200, "", "envelope"),
            });
        let settings = settings(server.url("https", "os"));
        let mut source = open_on(&settings, &authority.machine(), limits()).expect("a source");
        assert_eq!(source.channel().expect("a channel"), b"envelope");
        source.open_release().expect("a release");
        assert_eq!(source.chunks(&blob(&bytes(300_000)), 1000, 290_000).2, bytes(300_000)[1000..290_000]);
        assert!(server.seen().iter().all(|seen| seen.connection == 0), "the connection is kept");
    }
}

#[test]
fn certificates_that_do_not_fit_are_refused() {
    let authority = Authority::new();
    let all = rustls::ALL_VERSIONS;
    for (config, expected) in [
        (authority.server("127.0.0.1", 1975..2001, all), "xpired"),
        (authority.server("127.0.0.1", 4090..4095, all), "NotValidYet"),
        (authority.server("other.example", 1975..4095, all), "not valid for"),
        (Authority::new().good(), "invalid peer certificate"),
    ] {
        let server = Server::start_tls(config, |_| Reply::new(200, "", "envelope"));
        let settings = SourceSettings { password: Some("secret".to_owned()), ..settings(server.url("https", "os")) };
        let mut source = open_on(&settings, &authority.machine(), limits()).expect("a source");
        let error = source.channel().expect_err(expected);
        assert!(matches!(error, SourceError::Tls { .. }), "{error}");
        let text = error.to_string().replace("not valid yet", "NotValidYet");
        assert!(text.contains(expected), "{expected}: {text}");
        assert!(server.seen().is_empty(), "nothing was sent");
        assert_eq!(source.clock.slept.get(), Duration::ZERO, "nothing was tried again");
    }
}

#[test]
fn a_server_without_tls_is_an_error() {
    let authority = Authority::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = std::io::Read::read_to_end(&mut stream, &mut Vec::new());
        }
    });
    let settings = settings(format!("https://127.0.0.1:{port}/os"));
    let mut source = open_on(&settings, &authority.machine(), limits()).expect("a source");
    assert!(matches!(source.channel(), Err(SourceError::Tls { .. })));
}

#[test]
fn no_redirect_leads_to_plain_text() {
    let authority = Authority::new();
    let plain = Server::start(|_| Reply::new(200, "", "envelope"));
    let location = format!("Location: {}\r\n", plain.url("http", "x?token=secret"));
    let server = Server::start_tls(authority.good(), move |_| Reply::new(302, &location, ""));
    let mut source = open_on(&settings(server.url("https", "os")), &authority.machine(), limits()).expect("a source");
    let error = source.channel().expect_err("refused");
    assert!(matches!(error, SourceError::Redirect { reason: "from https to http", .. }), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(plain.seen().is_empty());
    // The other direction is fine.
    let secure = Server::start_tls(authority.good(), |_| Reply::new(200, "", "envelope"));
    let location = format!("Location: {}\r\n", secure.url("https", "x"));
    let server = Server::start(move |_| Reply::new(302, &location, ""));
    let mut source = open_on(&settings(server.url("http", "os")), &authority.machine(), limits()).expect("a source");
    assert_eq!(source.channel().expect("a channel"), b"envelope");
}

#[test]
fn proxies_make_a_tunnel() {
    let authority = Authority::new();
    let server = Server::start_tls(authority.good(), |_| Reply::new(200, "", "envelope"));
    let port = server.port;
    let proxy = Server::start(move |seen| match seen.field("proxy-authorization") {
        Some(_) => Reply::raw("HTTP/1.1 200 Established\r\n\r\n", Then::Tunnel(port)),
        None => Reply::new(407, "", "who are you"),
    });
    let with = |user: &str| {
        let proxy = Some(format!("http://{user}127.0.0.1:{}", proxy.port));
        let password = Some("for-the-server".to_owned());
        let settings = SourceSettings { proxy, password, ..settings(server.url("https", "os")) };
        open_on(&settings, &authority.machine(), limits()).expect("a source")
    };
    assert_eq!(with("user:pw@").channel().expect("through the tunnel"), b"envelope");
    let error = with("").channel().expect_err("no password");
    assert!(matches!(error, SourceError::NotAllowed { status: 407, .. }), "{error}");
    let seen = proxy.seen();
    assert!(seen.iter().all(|seen| seen.line == format!("CONNECT 127.0.0.1:{port}")), "{seen:?}");
    assert!(seen.iter().all(|seen| seen.field("authorization").is_none()), "{seen:?}");
    assert_eq!(server.seen()[0].field("proxy-authorization"), None);
    assert_eq!(server.seen()[0].field("authorization"), Some("Bearer for-the-server"));
}
