//! A metadata service on loopback, well-behaved and not.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::*;
use crate::sys::double::Double;

const ID: &str = "i-0123456789abcdef0";

/// Starts a server that answers each request line with what `answer` writes; returns its address and the requests.
fn server(answer: impl Fn(&str, &str, &mut TcpStream) + Send + 'static) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut lines = BufReader::new(stream.try_clone().expect("cloned")).lines();
            let Some(Ok(first)) = lines.next() else { continue };
            let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let find = |name: &str| {
                head.iter().find_map(|line| line.to_lowercase().strip_prefix(name).map(|value| value.trim().to_owned()))
            };
            let token = find("x-aws-ec2-metadata-token:").or_else(|| find("x-aws-ec2-metadata-token-ttl-seconds:"));
            let first = first.trim_end_matches(" HTTP/1.0").to_owned();
            seen.lock().expect("sound").push(format!("{first} [{}]", token.clone().unwrap_or_default()));
            answer(&first, &token.unwrap_or_default(), &mut stream);
            // Closing with unread bytes would reset the connection under the answer.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
            let _ = stream.read(&mut [0; 64]);
        }
    });
    (address, requests)
}

fn send(stream: &mut TcpStream, status: &str, body: &str) {
    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
}

/// Answers as EC2 does.
fn well_behaved(first: &str, token: &str, stream: &mut TcpStream) {
    match (first, token) {
        ("PUT /latest/api/token", "300") => send(stream, "200 OK", "dG9rZW4tb2YtdGVzdA=="),
        (_, token) if token != "dg9rzw4tb2ytdgvzda==" => send(stream, "401 Unauthorized", ""),
        ("GET /latest/meta-data/instance-id", _) => send(stream, "200 OK", ID),
        ("GET /latest/meta-data/local-hostname", _) => send(stream, "200 OK", "ip-10-0-0-7.ec2.internal"),
        ("GET /latest/user-data", _) => send(stream, "200 OK", "#cloud-config\nhostname: n1\n"),
        ("GET /latest/meta-data/public-keys/0/openssh-key", _) => send(stream, "200 OK", "ssh-ed25519 AAAA me\n"),
        _ => send(stream, "404 Not Found", "<html>"),
    }
}

fn quick() -> Timeouts {
    Timeouts { connect: Duration::from_millis(500), request: Duration::from_millis(700) }
}

fn run(address: &str, budget: u64) -> Report {
    report(&Double::new(), address, budget, &quick(), &|_, _| Ok(()))
}

fn reason(report: Report) -> String {
    match report {
        Report::Failure(failure) => failure.reason,
        Report::Answer(answer) => panic!("{answer:?}"),
    }
}

#[test]
fn everything_is_fetched_with_a_token() {
    let (address, requests) = server(well_behaved);
    let Report::Answer(answer) = run(&address, 1000) else { panic!("an answer") };
    assert_eq!(answer.user_data().expect("base64"), b"#cloud-config\nhostname: n1\n");
    assert_eq!((answer.instance_id.as_str(), answer.public_key.as_deref()), (ID, Some("ssh-ed25519 AAAA me")));
    assert_eq!(answer.local_hostname.as_deref(), Some("ip-10-0-0-7.ec2.internal"));
    let requests = requests.lock().expect("sound").clone();
    assert_eq!(requests[0], "PUT /latest/api/token [300]");
    assert_eq!(requests.len(), 5);
}

#[test]
fn what_the_service_does_not_have_is_none() {
    let (address, _) = server(|first, token, stream| match first {
        "GET /latest/user-data"
        | "GET /latest/meta-data/local-hostname"
        | "GET /latest/meta-data/public-keys/0/openssh-key" => send(stream, "404 Not Found", "<html>"),
        _ => well_behaved(first, token, stream),
    });
    assert_eq!(run(&address, 1000), Report::Answer(Answer::new(ID, None, b"", None)));
}

#[test]
fn the_network_is_waited_for_and_brought_up_once() {
    let (address, _) = server(well_behaved);
    let calls = std::cell::Cell::new(0);
    let bring_up = |_: &dyn Sys, left: u64| {
        calls.set(calls.get() + 1);
        assert!(left <= 5000);
        if calls.get() < 3 { Err("no link".to_owned()) } else { Ok(()) }
    };
    let sys = Double::new();
    assert!(matches!(report(&sys, &address, 5000, &quick(), &bring_up), Report::Answer(_)));
    assert_eq!((calls.get(), sys.now.get()), (3, 2000));
    let never = report(&sys, &address, 5000, &quick(), &|_, _| Err("no link".to_owned()));
    assert_eq!(reason(never), "no link");
    assert!(sys.now.get() <= 7000, "the budget holds: {}", sys.now.get());
}

#[test]
fn a_service_that_recovers_is_asked_again_and_one_that_does_not_is_given_up() {
    let failures = Mutex::new(2);
    let (address, _) = server(move |first, token, stream| {
        let mut left = failures.lock().expect("sound");
        if *left > 0 {
            *left -= 1;
            return send(stream, "503 Service Unavailable", "");
        }
        well_behaved(first, token, stream);
    });
    assert!(matches!(run(&address, 5000), Report::Answer(_)));
    let (address, requests) = server(|_, _, stream| send(stream, "500 Internal Server Error", ""));
    assert_eq!(reason(run(&address, 3000)), "api/token: status 500");
    assert_eq!(requests.lock().expect("sound").len(), 6);
    // The port of a server that is gone.
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let text = reason(run(&format!("http://127.0.0.1:{port}"), 1200));
    assert!(text.starts_with("api/token: "), "{text}");
}

#[test]
fn final_answers_end_it_at_once() {
    for (status, expected, turned_off) in [
        ("403 Forbidden", "the metadata service is turned off (status 403)", true),
        ("400 Bad Request", "api/token: status 400", false),
        ("404 Not Found", "api/token: status 404", false),
        ("302 Found", "api/token: status 302", false),
    ] {
        let (address, requests) = server(move |_, _, stream| send(stream, status, ""));
        let expected = Failure { turned_off, reason: expected.to_owned() };
        assert_eq!(run(&address, 5000), Report::Failure(expected), "{status}");
        assert_eq!(requests.lock().expect("sound").len(), 1, "{status}");
    }
}

#[test]
fn a_captive_portal_is_no_metadata_service() {
    let (address, _) = server(|_, _, stream| send(stream, "200 OK", "<html><body>Please log in</body></html>"));
    assert_eq!(reason(run(&address, 5000)), "the answer to the request for a token is no token");
    let (address, _) = server(|first, token, stream| match first {
        "GET /latest/meta-data/instance-id" => send(stream, "200 OK", "<html>"),
        _ => well_behaved(first, token, stream),
    });
    assert_eq!(reason(run(&address, 5000)), "meta-data/instance-id: the answer is no such value");
}

#[test]
fn a_token_that_is_not_taken_is_asked_for_twice() {
    let (address, requests) = server(|first, token, stream| match first {
        "PUT /latest/api/token" => send(stream, "200 OK", "wrong"),
        _ => well_behaved(first, token, stream),
    });
    assert_eq!(reason(run(&address, 20_000)), "the token is not taken (status 401)");
    assert_eq!(requests.lock().expect("sound").len(), 4);
}

#[test]
fn endless_truncated_and_silent_answers_end() {
    let endless = |first: &str, token: &str, stream: &mut TcpStream| {
        if first != "GET /latest/user-data" {
            return well_behaved(first, token, stream);
        }
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[b'a'; 4096]).is_ok() {}
    };
    let truncated = |first: &str, token: &str, stream: &mut TcpStream| {
        if first != "GET /latest/user-data" {
            return well_behaved(first, token, stream);
        }
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\nhostname: n1\n");
    };
    let silent = |_: &str, _: &str, _: &mut TcpStream| std::thread::sleep(Duration::from_secs(2));
    let start = Instant::now();
    let text = reason(run(&server(endless).0, 5000));
    assert!(text.starts_with("user-data: ") && text.contains("1048576"), "{text}");
    let text = reason(run(&server(truncated).0, 600));
    assert!(text.starts_with("user-data: "), "{text}");
    let text = reason(run(&server(silent).0, 600));
    assert!(text.starts_with("api/token: no answer within "), "{text}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn the_child_leaves_a_report_that_only_root_reads() {
    let (address, _) = server(well_behaved);
    let sys = Double::new();
    sys.put("/run/ksos/x", "");
    sys.put("/lib/modules/6.12.0-test/modules.dep", "k/ena.ko:\n");
    sys.put("/lib/modules/6.12.0-test/modules.alias", "alias pci:v1D0F* ena\n");
    sys.put("/sys/bus/pci/devices/0000:00:05.0/modalias", "pci:v1D0Fd0000EC20\n");
    let mut out = Vec::new();
    let arguments = |words: [&str; 3]| words.map(str::to_owned);
    let bring_up: BringUp<'_> = &|_, _| Ok(());
    assert_eq!(main(&sys, &arguments([&address, "5000", "/run/ksos/ec2.json"]), bring_up, &mut out), 0);
    assert_eq!(sys.calls_of("load"), ["load /lib/modules/6.12.0-test/k/ena.ko"], "the network card has its driver");
    let report: Report = serde_json::from_str(&sys.text("/run/ksos/ec2.json")).expect("JSON");
    assert!(matches!(report, Report::Answer(_)));
    assert_eq!(sys.mode("/run/ksos/ec2.json"), 0o600);
    assert_eq!(main(&sys, &arguments(["https://x", "5000", "/run/ksos/ec2.json"]), bring_up, &mut out), 0);
    assert!(sys.text("/run/ksos/ec2.json").contains("does not begin with http://"));
    assert_eq!(main(&sys, &arguments([&address, "soon", "/x"]), bring_up, &mut out), 2);
    assert_eq!(main(&sys, &[], bring_up, &mut out), 2);
    assert_eq!(main(&sys, &arguments(["x", "5000", "/nowhere/x"]), bring_up, &mut out), 1);
}
