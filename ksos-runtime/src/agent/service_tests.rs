use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use serde_json::json;

use super::*;
use crate::sys::double::Double;

const KUBECONFIG: &str = "/var/lib/kubesolo/pki/admin/admin.kubeconfig";

fn machine() -> Double {
    let sys = Double::new();
    let runtime = json!({
        "format": 1, "image": {"name": "demo", "version": "1.2.3", "arch": "x86_64", "epoch": 0}, "hostname": "demo",
        "modules": [], "sysctl": {}, "data": {"label": "KSOLODATA", "mount": "/data", "persist": []},
        "directories": [], "container_images": [], "services": {}, "console_shell": false,
        "kubernetes": {"service": "kubesolo", "kubeconfig": KUBECONFIG},
    });
    sys.put("/usr/lib/ksos/runtime.json", runtime.to_string());
    sys
}

/// Returns an address that was free a moment ago.
fn free() -> String {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string()
}

fn metrics_on(listen: &str) -> Metrics {
    Metrics { enabled: true, listen: listen.to_owned() }
}

fn kubeconfig_on(listen: &str, fetches: u32) -> KubeconfigAccess {
    KubeconfigAccess { enabled: true, listen: listen.to_owned(), fetches, ..KubeconfigAccess::default() }
}

fn fetch(address: &str, path: &str) -> JoinHandle<String> {
    let (address, path) = (address.to_owned(), path.to_owned());
    std::thread::spawn(move || {
        let Ok(mut stream) = TcpStream::connect(address) else { return "refused".to_owned() };
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    })
}

/// Turns the service until the client has its answer.
fn serve(service: &mut Service<'_>, client: JoinHandle<String>, out: &mut Vec<u8>) -> String {
    while !client.is_finished() {
        service.prepare(out);
        service.turn(Some(Duration::from_millis(10)), out).expect("poll");
    }
    service.prepare(out);
    client.join().expect("no panic")
}

#[test]
fn pages() {
    let (sys, mut out, address) = (machine(), Vec::new(), free());
    let mut service = Service::new(&sys, &metrics_on(&address), KubeconfigAccess::default(), &mut out).expect("served");
    service.prepare(&mut out);
    let answer = serve(&mut service, fetch(&address, "/"), &mut out);
    assert!(answer.ends_with("\r\n\r\nKubeSolo OS. Metrics: /metrics\n"), "{answer}");
    for path in ["/kubeconfig", "/x", "/metrics/", "/../etc/shadow", "*"] {
        assert!(serve(&mut service, fetch(&address, path), &mut out).starts_with("HTTP/1.1 404 "), "{path}");
    }
    let answer = serve(&mut service, fetch(&address, "/metrics"), &mut out);
    assert!(answer.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    assert!(answer.contains("\nkubesolo_os_info{name=\"demo\",version=\"1.2.3\""), "{answer}");
    assert_eq!(String::from_utf8(out).expect("text"), format!("metrics: listening on {address}\n"));
}

#[test]
fn health_is_kept_for_a_while() {
    let (sys, mut out, address) = (machine(), Vec::new(), free());
    let mut service = Service::new(&sys, &metrics_on(&address), KubeconfigAccess::default(), &mut out).expect("served");
    service.prepare(&mut out);
    let mut evaluated = || {
        serve(&mut service, fetch(&address, "/metrics"), &mut out);
        service.pages.health.as_ref().expect("evaluated").0
    };
    assert_eq!(evaluated(), 1000);
    sys.now.set(10_999);
    assert_eq!(evaluated(), 1000);
    sys.now.set(11_000);
    assert_eq!(evaluated(), 11_000);
}

#[test]
fn the_kubeconfig_port_closes_after_its_fetches() {
    let (sys, mut out) = (machine(), Vec::new());
    sys.put("/run/ksos/x", "");
    let (address, other) = (free(), free());
    let mut service = Service::new(&sys, &metrics_on(&other), kubeconfig_on(&address, 1), &mut out).expect("served");
    assert_eq!(service.prepare(&mut out), Some(6000), "the file is looked for");
    let answer = serve(&mut service, fetch(&address, "/kubeconfig"), &mut out);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: 5\r\n"), "{answer}");
    sys.put(KUBECONFIG, "secret: 1\n");
    let answer = serve(&mut service, fetch(&address, "/kubeconfig"), &mut out);
    assert!(answer.contains("Cache-Control: no-store\r\n") && answer.ends_with("\r\n\r\nsecret: 1\n"), "{answer}");
    assert!(!service.is_open(Endpoint::Kubeconfig) && service.is_open(Endpoint::Metrics));
    assert_eq!(serve(&mut service, fetch(&address, "/kubeconfig"), &mut out), "refused");
    assert!(serve(&mut service, fetch(&other, "/kubeconfig"), &mut out).starts_with("HTTP/1.1 404 "));
    let metrics = serve(&mut service, fetch(&other, "/metrics"), &mut out);
    assert!(metrics.contains("\nkubesolo_os_kubeconfig_served 0\n"), "{metrics}");
    assert!(metrics.contains("\nkubesolo_os_kubeconfig_fetches_total 1\n"), "{metrics}");
    let log = String::from_utf8(out).expect("text");
    assert!(log.contains("kubeconfig: fetched by 127.0.0.1, fetch 1\n") && !log.contains("secret"), "{log}");
}

#[test]
fn alone_the_kubeconfig_ends_the_process() {
    let (sys, mut out) = (machine(), Vec::new());
    sys.put("/run/ksos/kubeconfig-access.json", "{\"format\":1,\"opened_ms\":0,\"fetches\":3}");
    sys.put(KUBECONFIG, "secret: 1\n");
    let metrics = Metrics { enabled: false, ..Metrics::default() };
    assert_eq!(run(&sys, &metrics, kubeconfig_on(&free(), 3), &mut out), 0);
    let log = String::from_utf8(out).expect("text");
    assert_eq!(log, "kubeconfig: served no more: it was fetched 3 times\nnothing more to serve\n");
}

#[test]
fn a_taken_address_is_tried_again() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let (sys, mut out) = (machine(), Vec::new());
    let mut service = Service::new(&sys, &metrics_on(&address), KubeconfigAccess::default(), &mut out).expect("served");
    let mut due = Vec::new();
    for _ in 0..8 {
        let next = service.prepare(&mut out).expect("a time");
        due.push(next - sys.now.get());
        sys.now.set(next);
    }
    assert_eq!(due, [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
    drop(taken);
    assert_eq!(service.prepare(&mut out), None);
    assert!(serve(&mut service, fetch(&address, "/"), &mut out).starts_with("HTTP/1.1 200 "));
    let expected = format!(
        "metrics: listen on \"{address}\": Address already in use (os error 98); trying again\n\
         metrics: listening on {address}\n"
    );
    assert_eq!(String::from_utf8(out).expect("text"), expected);
}

#[test]
fn what_cannot_be_served_is_said() {
    let call = |metrics: &Metrics, kubeconfig| {
        let mut out = Vec::new();
        let status = run(&Double::new(), metrics, kubeconfig, &mut out);
        (status, String::from_utf8(out).expect("text"))
    };
    let off = Metrics { enabled: false, ..Metrics::default() };
    assert_eq!(call(&off, KubeconfigAccess::default()), (0, "nothing to serve\n".to_owned()));
    let (status, text) = call(&metrics_on("nonsense"), KubeconfigAccess::default());
    assert_eq!(status, 1);
    assert!(text.starts_with("metrics: listen address \"nonsense\": not ADDRESS:PORT"), "{text}");
    let (status, text) = call(&off, kubeconfig_on(":8080", 1));
    assert_eq!(status, 0);
    assert!(text.contains("runtime.json: No such file"), "{text}");
}

#[test]
fn verbs_and_options() {
    let call = |arguments: &[&str]| {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut out = Vec::new();
        let status = super::super::metrics(&Double::new(), &arguments, &mut out);
        (status, String::from_utf8(out).expect("text"))
    };
    assert_eq!(call(&["--port", "1"]).0, 2);
    assert_eq!(call(&["--listen"]).0, 2);
    assert_eq!(call(&["--listen", "x"]).0, 1);
    assert_eq!(call(&["--listen=x"]).0, 1);
}
