//! An API server for tests: TLS 1.3 that wants the client's certificate, and the kubeconfig that fits it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, Stream};

/// A certificate authority with what it signed.
pub(super) struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
    /// Subject alternative name of the server.
    pub(super) server_name: &'static str,
    /// Last year in which the server's certificate is valid.
    pub(super) server_until: i32,
    /// Last year in which the client's certificate is valid.
    pub(super) client_until: i32,
}

impl Pki {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
        Pki { authority, server_name: "127.0.0.1", server_until: 4095, client_until: 4095 }
    }

    fn leaf(&self, name: &str, usage: ExtendedKeyUsagePurpose, until: i32) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        params.extended_key_usages = vec![usage];
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.authority).expect("signed"), key)
    }

    /// Returns a kubeconfig for the server on `port`.
    pub(super) fn kubeconfig(&self, port: u16) -> String {
        let (certificate, key) = self.leaf("admin", ExtendedKeyUsagePurpose::ClientAuth, self.client_until);
        kubeconfig(port, &self.authority.pem(), &certificate.pem(), &key.serialize_pem())
    }

    fn server_config(&self) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let (certificate, key) = self.leaf(self.server_name, ExtendedKeyUsagePurpose::ServerAuth, self.server_until);
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .expect("a certificate");
        Arc::new(config)
    }

    /// Starts a server that answers as `answer` says, by request target; returns its port.
    pub(super) fn serve(&self, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let config = self.server_config();
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, answer) = (Arc::clone(&config), Arc::clone(&answer));
                std::thread::spawn(move || handle(stream, config, &*answer));
            }
        });
        port
    }
}

/// Returns a kubeconfig with everything inline.
pub(super) fn kubeconfig(port: u16, authority: &str, certificate: &str, key: &str) -> String {
    let [authority, certificate, key] = [authority, certificate, key].map(|pem| STANDARD.encode(pem));
    format!(
        "apiVersion: v1\nkind: Config\npreferences: {{}}\ncurrent-context: default\n\
         clusters:\n- name: other\n  cluster:\n    server: https://192.0.2.1:1\n\
         - name: kubesolo\n  cluster:\n    server: https://127.0.0.1:{port}\n    certificate-authority-data: {authority}\n\
         contexts:\n- name: default\n  context:\n    cluster: kubesolo\n    user: admin\n\
         users:\n- name: admin\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n"
    )
}

/// What the server does.
pub(super) enum Reply {
    /// Answers as Go's net/http answers HTTP/1.0.
    Answer(u16, String),
    /// Sends these bytes and closes.
    Raw(Vec<u8>),
    /// Sends bytes for ever.
    Endless,
    /// Sends one byte at a time, for ever.
    Trickle,
    /// Sends nothing.
    Hang,
}

fn handle(mut socket: TcpStream, config: Arc<ServerConfig>, answer: &dyn Fn(&str) -> Reply) {
    let Ok(mut connection) = ServerConnection::new(config) else { return };
    {
        let mut stream = Stream::new(&mut connection, &mut socket);
        let (mut request, mut buffer) = (Vec::new(), [0; 1024]);
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 => request.extend_from_slice(&buffer[..count]),
                _ => return,
            }
        }
        let request = String::from_utf8(request).expect("text");
        let mut words = request.split(' ');
        assert_eq!(words.next(), Some("GET"));
        send(&mut stream, answer(words.next().expect("a target")));
    }
    connection.send_close_notify();
    let _ = connection.complete_io(&mut socket);
}

fn send(stream: &mut impl Write, reply: Reply) {
    let _ = match reply {
        Reply::Answer(status, body) => stream
            .write_all(format!("HTTP/1.0 {status} Text\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes()),
        Reply::Raw(bytes) => stream.write_all(&bytes),
        Reply::Endless => {
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
            while stream.write_all(&[b'x'; 8192]).is_ok() {}
            Ok(())
        }
        Reply::Trickle => {
            while stream.write_all(b"H").and_then(|()| stream.flush()).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        }
        Reply::Hang => {
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        }
    };
}
