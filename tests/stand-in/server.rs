//! The engine, the PKI, the administrator's kubeconfig, and an endpoint that answers like an API server.

use std::convert::Infallible;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::node;
use crate::options::Options;

/// How far the time that is told is ahead.
const AHEAD: Duration = Duration::from_secs(3600);
/// Seconds from 1900 to 1970 (RFC 4330, section 3).
const TO_NTP: u64 = 2_208_988_800;
const BASE: &str = "/var/lib/kubesolo";
/// containerd, in images that have it.
const ENGINE: &str = "/usr/bin/containerd";
/// Where it listens.
pub const SOCKET: &str = "/var/lib/kubesolo/containerd/containerd.sock";

/// Starts the engine, makes the PKI once, and serves for ever.
pub fn serve(options: &Options) -> Result<Infallible, String> {
    start_engine()?;
    tell_time()?;
    let tls = pki(options)?;
    let listener = TcpListener::bind("0.0.0.0:6443").map_err(|error| format!("port 6443: {error}"))?;
    println!("serving on 6443");
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        let tls = tls.clone();
        std::thread::spawn(move || drop(answer(stream, tls)));
    }
}

/// Serves the time to this machine alone (RFC 4330): [`AHEAD`] of what its clock was at the start.
fn tell_time() -> Result<(), String> {
    let socket = UdpSocket::bind("127.0.0.1:123").map_err(|error| format!("port 123: {error}"))?;
    let started = Instant::now();
    let base = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())? + AHEAD;
    std::thread::spawn(move || {
        let mut request = [0; 128];
        while let Ok((length, peer)) = socket.recv_from(&mut request) {
            if length < 48 {
                continue;
            }
            let now = base + started.elapsed();
            let fraction = (u64::from(now.subsec_nanos()) << 32) / 1_000_000_000;
            let stamp = ((now.as_secs() + TO_NTP) << 32 | fraction).to_be_bytes();
            let mut answer = [0; 48];
            // Version 4, server, stratum 1.
            answer[..2].copy_from_slice(&[0x24, 1]);
            answer[24..32].copy_from_slice(&request[40..48]);
            answer[32..40].copy_from_slice(&stamp);
            answer[40..48].copy_from_slice(&stamp);
            let _ = socket.send_to(&answer, peer);
        }
    });
    Ok(())
}

/// Starts Debian's containerd where KubeSolo's is, without the images of the last start. In an image without it, the socket
/// answers as HTTP/2 begins.
fn start_engine() -> Result<(), String> {
    let directory = format!("{BASE}/containerd");
    fs::create_dir_all(&directory).map_err(|error| format!("{directory}: {error}"))?;
    end_engine()?;
    let _ = fs::remove_file(SOCKET);
    if !Path::new(ENGINE).exists() {
        let listener = std::os::unix::net::UnixListener::bind(SOCKET).map_err(|error| format!("{SOCKET}: {error}"))?;
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                // HTTP/2's prefaces: what the client begins with, and empty settings.
                let _ = client.read_exact(&mut [0; 33]);
                let _ = client.write_all(b"\0\0\0\x04\0\0\0\0\0");
            }
        });
        return Ok(());
    }
    for plugin in fs::read_dir("/usr/lib/cni").map_err(|error| format!("/usr/lib/cni: {error}"))?.flatten() {
        let link = Path::new("/opt/cni/bin").join(plugin.file_name());
        if !link.exists() {
            std::os::unix::fs::symlink(plugin.path(), &link).map_err(|error| format!("{}: {error}", link.display()))?;
        }
    }
    let log = fs::File::create(format!("{directory}/containerd.log")).map_err(|error| format!("log: {error}"))?;
    Command::new(ENGINE)
        .args(["--config", "/etc/containerd/config.toml", "--address", SOCKET])
        .args(["--root", &format!("{directory}/root"), "--state", "/run/kubesolo/containerd"])
        .stdout(log.try_clone().map_err(|error| error.to_string())?)
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("containerd: {error}"))?;
    for _ in 0..600 {
        if std::os::unix::net::UnixStream::connect(SOCKET).is_ok() {
            let _ = fs::create_dir_all("/run/containerd");
            let _ = std::os::unix::fs::symlink(SOCKET, "/run/containerd/containerd.sock");
            return forget_images();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err("containerd does not answer".to_owned())
}

/// Ends the engine that an earlier start left running when it was killed: its database is locked.
fn end_engine() -> Result<(), String> {
    let is_engine = |pid: &String| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).next() == Some(ENGINE.as_bytes())
    };
    let entries = fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?.flatten();
    for pid in entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(is_engine) {
        Command::new("/usr/bin/kill").args(["-9", &pid]).status().map_err(|error| format!("kill: {error}"))?;
    }
    Ok(())
}

/// KubeSolo drops all images at its start.
fn forget_images() -> Result<(), String> {
    let ctr =
        |arguments: &[&str]| Command::new("/usr/bin/ctr").args(["-a", SOCKET, "-n", "k8s.io"]).args(arguments).output();
    let listed = ctr(&["images", "ls", "-q"]).map_err(|error| format!("ctr: {error}"))?;
    for name in String::from_utf8_lossy(&listed.stdout).lines() {
        ctr(&["images", "rm", name]).map_err(|error| format!("ctr: {error}"))?;
    }
    Ok(())
}

fn params(name: &str, group: Option<&str>) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(Vec::new()).map_err(|error| error.to_string())?;
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    Ok(params)
}

/// Makes a new PKI at every start, as far as the names of files go KubeSolo's.
fn pki(options: &Options) -> Result<Arc<ServerConfig>, String> {
    let text = |error: rcgen::Error| error.to_string();
    let mut ca = params("kubernetes-ca", None)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate().map_err(text)?;
    let ca_certificate = ca.self_signed(&ca_key).map_err(text)?;
    let issuer = Issuer::new(ca, ca_key);
    let mut server = params("kube-apiserver", None)?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut names = vec!["localhost".to_owned(), "kubernetes".to_owned(), "127.0.0.1".to_owned()];
    names.extend(node::address().map(|address| address.to_string()));
    names.extend(options.texts("apiserver-extra-sans"));
    for name in names {
        server.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into().map_err(text)?),
        });
    }
    let server_key = KeyPair::generate().map_err(text)?;
    let server_certificate = server.signed_by(&server_key, &issuer).map_err(text)?;
    let mut admin = params("admin", Some("system:masters"))?;
    admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let admin_key = KeyPair::generate().map_err(text)?;
    let admin_certificate = admin.signed_by(&admin_key, &issuer).map_err(text)?;
    write_kubeconfig(&ca_certificate.pem(), &admin_certificate.pem(), &admin_key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(ca_certificate.der().clone()).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| error.to_string())?;
    let chain: Vec<CertificateDer<'static>> = vec![server_certificate.der().clone()];
    let key = PrivateKeyDer::try_from(server_key.serialize_der()).map_err(str::to_owned)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(config))
}

fn write_kubeconfig(ca: &str, certificate: &str, key: &str) -> Result<(), String> {
    let encode = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    \
         server: https://127.0.0.1:6443\n  name: kubesolo\ncontexts:\n- context:\n    cluster: kubesolo\n    user: admin\n  \
         name: kubesolo\ncurrent-context: kubesolo\nusers:\n- name: admin\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\n",
        encode(ca),
        encode(certificate),
        encode(key)
    );
    let directory = format!("{BASE}/pki/admin");
    fs::create_dir_all(&directory).map_err(|error| format!("{directory}: {error}"))?;
    let path = format!("{directory}/admin.kubeconfig");
    fs::write(&path, text).map_err(|error| format!("{path}: {error}"))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&path, mode).map_err(|error| format!("{path}: {error}"))
}

fn answer(stream: TcpStream, tls: Arc<ServerConfig>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let connection = ServerConnection::new(tls).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let mut head = Vec::new();
    let mut byte = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") && head.len() < 16 << 10 {
        match stream.read(&mut byte)? {
            0 => break,
            count => head.extend(&byte[..count]),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or("/").split('?').next().unwrap_or("/").to_owned();
    let known = stream.conn.peer_certificates().is_some();
    let (status, body) = respond(&path, known);
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes())?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn respond(path: &str, known: bool) -> (&'static str, String) {
    if matches!(path, "/healthz" | "/readyz" | "/livez") {
        return ("200 OK", "ok".to_owned());
    }
    if !known {
        return ("401 Unauthorized", "{\"kind\":\"Status\",\"status\":\"Failure\",\"code\":401}".to_owned());
    }
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let node = serde_json::json!({
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": { "name": name },
        "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }] },
    });
    match path {
        "/api/v1/nodes" => {
            ("200 OK", serde_json::json!({ "kind": "NodeList", "apiVersion": "v1", "items": [node] }).to_string())
        }
        path if path.strip_prefix("/api/v1/nodes/") == Some(name.as_str()) => ("200 OK", node.to_string()),
        _ => ("404 Not Found", "{\"kind\":\"Status\",\"status\":\"Failure\",\"code\":404}".to_owned()),
    }
}
