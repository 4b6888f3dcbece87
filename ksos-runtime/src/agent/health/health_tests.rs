use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use super::pki::{Pki, Reply, kubeconfig};
use super::*;
use crate::sys::Space;
use crate::sys::double::Double;

const KUBECONFIG: &str = "/var/lib/kubesolo/pki/admin/admin.kubeconfig";
const NODE: &str = "/api/v1/nodes/demo";

/// Returns a healthy node without engine and Kubernetes; `change` alters its documents first.
fn machine(change: impl FnOnce(&mut Value, &mut Value)) -> Double {
    let mut runtime = json!({
        "format": 1, "image": {"name": "demo", "version": "1.2.3", "arch": "x86_64", "epoch": 0}, "hostname": "demo",
        "modules": [], "sysctl": {}, "data": {"label": "KSOLODATA", "mount": "/data", "persist": []},
        "directories": [], "container_images": [], "services": {}, "console_shell": false,
    });
    let service = |name: &str, required: bool| json!({"name": name, "state": "ready", "pid": 7, "restarts": 0, "required": required});
    let mut status = json!({
        "format": 1, "state": "ready", "degraded": [], "name": "demo", "version": "1.2.3", "arch": "x86_64", "slot": "a",
        "root": "slot", "secure_boot": "on", "lockdown": "integrity", "boot": 4, "persistent": true, "ready_ms": 5320,
        "stages": [{"number": 30, "name": "data", "ok": true, "ms": 12}],
        "services": [service("kubesolo", true), service("extra", false)],
    });
    change(&mut runtime, &mut status);
    let sys = Double::new();
    sys.put("/usr/lib/ksos/runtime.json", runtime.to_string());
    sys.put("/run/ksos/status.json", status.to_string());
    sys.put("/proc/self/mountinfo", "31 22 254:4 / /data rw,nodev shared:1 - ext4 /dev/vda4 rw\n");
    sys.put("/proc/sys/kernel/hostname", "demo\n");
    sys
}

fn kubernetes(runtime: &mut Value, _: &mut Value) {
    runtime["kubernetes"] = json!({"service": "kubesolo", "kubeconfig": KUBECONFIG});
}

fn check(health: &Health, name: CheckName) -> (Outcome, &str) {
    let check = health.checks.iter().find(|check| check.name == name).expect("every check is made");
    (check.outcome, &check.detail)
}

fn api(sys: &Double) -> (Outcome, String, Outcome, String) {
    let health = evaluate(sys);
    let (ready, why) = check(&health, CheckName::ApiServer);
    let (node, node_why) = check(&health, CheckName::NodeReady);
    (ready, why.to_owned(), node, node_why.to_owned())
}

fn node_object(status: &str) -> String {
    json!({"kind": "Node", "metadata": {"name": "demo"}, "status": {"conditions": [
        {"type": "MemoryPressure", "status": "False"},
        {"type": "Ready", "status": status, "reason": "KubeletReady", "message": "posting\nready status"},
    ]}})
    .to_string()
}

#[test]
fn a_healthy_node_without_kubernetes() {
    let health = evaluate(&machine(|_, _| {}));
    assert_eq!((health.verdict, health.reasons.len()), (Verdict::Healthy, 0), "{:?}", health.reasons);
    assert_eq!(health.checks.iter().map(|check| check.name).collect::<Vec<_>>(), CheckName::ALL);
    for name in [CheckName::Engine, CheckName::ApiServer, CheckName::NodeReady] {
        assert_eq!(check(&health, name), (Outcome::NotApplicable, ""));
    }
}

#[test]
fn a_healthy_node_with_kubernetes() {
    let pki = Pki::new();
    let port = pki.serve(|path| match path {
        "/readyz" => Reply::Answer(200, "ok".to_owned()),
        NODE => Reply::Answer(200, node_object("True")),
        _ => Reply::Answer(404, String::new()),
    });
    let sys = machine(kubernetes);
    sys.put(KUBECONFIG, pki.kubeconfig(port));
    let health = evaluate(&sys);
    assert_eq!((health.verdict, health.reasons.len()), (Verdict::Healthy, 0), "{:?}", health.reasons);
    assert_eq!(check(&health, CheckName::NodeReady), (Outcome::Ok, ""));
}

#[test]
fn services_and_boot() {
    type Change = fn(&mut Value, &mut Value);
    let cases: [(Change, Verdict, &str); 6] = [
        (
            |_, status| status["services"][0]["state"] = json!("backoff"),
            Verdict::Unhealthy,
            "services: kubesolo is backoff",
        ),
        (|_, status| status["services"][1]["state"] = json!("failed"), Verdict::Healthy, ""),
        (|_, status| status["services"][0]["state"] = json!("done"), Verdict::Healthy, ""),
        (|_, status| status["state"] = json!("starting"), Verdict::Unhealthy, "services: the node is starting"),
        (|_, status| status["degraded"] = json!(["data: no\nroom", "b"]), Verdict::Degraded, "boot: data: no room; b"),
        (|_, status| status["stages"][0]["ok"] = json!(false), Verdict::Degraded, "boot: failed stages: data"),
    ];
    for (change, verdict, reason) in cases {
        let health = evaluate(&machine(change));
        assert_eq!((health.verdict, health.reasons.join("\n").as_str()), (verdict, reason));
    }
}

#[test]
fn without_documents_the_node_is_unhealthy() {
    let health = evaluate(&Double::new());
    assert_eq!(health.verdict, Verdict::Unhealthy);
    assert_eq!(
        check(&health, CheckName::Services),
        (Outcome::Failed, "read /run/ksos/status.json: No such file or directory (os error 2)")
    );
    assert_eq!(check(&health, CheckName::Engine).0, Outcome::Failed);
    let sys = machine(|_, _| {});
    sys.put("/run/ksos/status.json", "{\"format\":1");
    assert_eq!(evaluate(&sys).verdict, Verdict::Unhealthy);
}

#[test]
fn disk() {
    let found = |change: &dyn Fn(&Double)| {
        let sys = machine(|_, _| {});
        change(&sys);
        let health = evaluate(&sys);
        let (outcome, detail) = check(&health, CheckName::Disk);
        (outcome, detail.to_owned())
    };
    let space = |available| Space { total: 10 << 30, available, free: available };
    let mount = |text: &'static str| move |sys: &Double| sys.put("/proc/self/mountinfo", text);
    assert_eq!(found(&|sys| sys.room.set(space(1 << 30))), (Outcome::Ok, String::new()));
    type Change<'a> = &'a dyn Fn(&Double);
    let cases: [(Change<'_>, Outcome, &str); 8] = [
        (&|sys| sys.room.set(space((1 << 30) - 1)), Outcome::Degraded, "1023 of 10240 MiB are available on /data"),
        (&|sys| sys.room.set(space(63 << 20)), Outcome::Failed, "63 of 10240 MiB are available on /data"),
        (&|sys| sys.inodes.set((10_000, 100)), Outcome::Failed, "100 of 10000 inodes are free on /data"),
        (&|sys| sys.inodes.set((100_000, 4999)), Outcome::Degraded, "4999 of 100000 inodes are free on /data"),
        (&|sys| sys.inodes.set((0, 0)), Outcome::Ok, ""),
        (
            &|sys| sys.put("/sys/fs/ext4/vda4/errors_count", "2"),
            Outcome::Degraded,
            "the file system has recorded 2 errors",
        ),
        (&mount("31 22 254:4 / /data rw - ext4 /dev/vda4 ro\n"), Outcome::Failed, "/data is read-only"),
        (&mount(""), Outcome::Failed, "nothing is mounted on /data"),
    ];
    for (change, outcome, detail) in cases {
        assert_eq!(found(change), (outcome, detail.to_owned()));
    }
    let health = evaluate(&machine(|_, status| status["persistent"] = json!(false)));
    assert_eq!(health.verdict, Verdict::Degraded);
}

#[test]
fn clock() {
    let sys = machine(|runtime, _| runtime["image"]["epoch"] = json!(1_700_000_000));
    sys.now.set(1_699_999_990_000);
    let health = evaluate(&sys);
    assert_eq!(
        check(&health, CheckName::Clock),
        (Outcome::Failed, "it says 1699999990, 10 s before the image was built")
    );
    sys.now.set(1_700_000_000_000);
    sys.put("/run/ksos/network.json", "{\"time\":{\"synchronised\":false}}");
    let health = evaluate(&sys);
    assert_eq!(check(&health, CheckName::Clock), (Outcome::Ok, "not synchronised"));
}

#[test]
fn engine() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("containerd.sock").to_string_lossy().into_owned();
    let sys = machine(|runtime, _| runtime["engine"] = json!({"service": "x", "socket": path}));
    let found = || {
        let health = evaluate(&sys);
        let (outcome, detail) = check(&health, CheckName::Engine);
        (outcome, detail.trim_start_matches(&path).to_owned())
    };
    assert_eq!(found(), (Outcome::Failed, ": No such file or directory (os error 2)".to_owned()));
    let listener = UnixListener::bind(&path).expect("bound");
    let answers: [(&[u8], Outcome, &str); 5] = [
        (b"\0\0\0\x04\0\0\0\0\0", Outcome::Ok, ""),
        (b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0", Outcome::Ok, ""),
        (b"HTTP/1.1 400 Bad Request\r\n", Outcome::Failed, ": the answer is not HTTP/2"),
        (b"\0\0", Outcome::Failed, ": the answer is not HTTP/2"),
        (b"", Outcome::Failed, ": closed without an answer"),
    ];
    for (answer, outcome, detail) in answers {
        let server = std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut preface = [0; 33];
                std::io::Read::read_exact(&mut stream, &mut preface).expect("the preface");
                stream.write_all(answer).expect("sent");
                preface
            });
            assert_eq!(found(), (outcome, detail.to_owned()));
            server.join().expect("no panic")
        });
        assert!(server.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04"));
    }
    let error = checks::greet(&path, Duration::from_secs(1)).expect_err("the kernel accepts, nobody answers");
    assert_eq!(error.to_string(), "no answer within 1 s");
    drop(listener);
    assert_eq!(found().1, ": Connection refused (os error 111)");
}

#[test]
fn api_server_that_is_not_ready() {
    let pki = Pki::new();
    let port = pki.serve(|path| match path {
        "/readyz" => Reply::Answer(500, "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed".to_owned()),
        _ => Reply::Answer(200, node_object("False")),
    });
    let sys = machine(kubernetes);
    sys.put(KUBECONFIG, pki.kubeconfig(port));
    let (ready, why, node, node_why) = api(&sys);
    assert_eq!((ready, why.as_str()), (Outcome::Failed, "/readyz: 500 etcd failed: reason withheld"));
    assert_eq!((node, node_why.as_str()), (Outcome::Failed, "Ready is False: KubeletReady: posting ready status"));
}

#[test]
fn api_server_that_refuses_the_user() {
    let pki = Pki::new();
    let port = pki.serve(|_| Reply::Answer(401, "{\"message\":\"Unauthorized\"}".to_owned()));
    let sys = machine(kubernetes);
    sys.put(KUBECONFIG, pki.kubeconfig(port));
    let (ready, why, node, node_why) = api(&sys);
    assert_eq!((ready, why.as_str()), (Outcome::Failed, "/readyz: 401 {\"message\":\"Unauthorized\"}"));
    assert_eq!((node, node_why.as_str()), (Outcome::Failed, "node \"demo\": the API server answers 401"));
}

#[test]
fn certificates_that_do_not_hold() {
    let good = Pki::new();
    let (other, mut old, mut elsewhere, mut late) = (Pki::new(), Pki::new(), Pki::new(), Pki::new());
    old.server_until = 2001;
    elsewhere.server_name = "192.0.2.1";
    late.client_until = 2001;
    let ready = |_: &str| Reply::Answer(200, "ok".to_owned());
    let cases = [
        // An authority of the same name with another key.
        (good.serve(ready), &other, "BadSignature"),
        (old.serve(ready), &old, "certificate expired"),
        (elsewhere.serve(ready), &elsewhere, "not valid for name"),
        (late.serve(ready), &late, "CertificateExpired"),
    ];
    for (port, client, expected) in cases {
        let sys = machine(kubernetes);
        sys.put(KUBECONFIG, client.kubeconfig(port));
        let (outcome, why, node, node_why) = api(&sys);
        assert_eq!((outcome, node), (Outcome::Failed, Outcome::Failed));
        assert!(why.contains(expected), "{expected}: {why}");
        assert_eq!(node_why, "not asked: the API server does not answer");
    }
}

#[test]
fn answers_by_their_fault() {
    let pki = Pki::new();
    type Answering = fn() -> Reply;
    let nodes: [(Answering, &str); 8] = [
        (|| Reply::Raw(b"SSH-2.0-x\r\n\r\n".to_vec()), "the answer is not HTTP"),
        (|| Reply::Raw(b"HTTP/1.0 200 OK\r\nA: b".to_vec()), "the answer ends in its head"),
        (|| Reply::Raw(b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{}".to_vec()), "not the length that it states"),
        (|| Reply::Raw(Vec::new()), "the answer ends in its head"),
        (|| Reply::Endless, "the answer has more than 2097152 bytes"),
        (|| Reply::Answer(200, "{\"status\":{".to_owned()), "EOF while parsing"),
        (|| Reply::Answer(200, "{\"status\":{}}".to_owned()), "the node has no condition Ready"),
        (|| Reply::Answer(404, String::new()), "there is no node \"demo\""),
    ];
    for (reply, expected) in nodes {
        let port = pki.serve(move |path| match path {
            "/readyz" => Reply::Answer(200, "ok".to_owned()),
            _ => reply(),
        });
        let sys = machine(kubernetes);
        sys.put(KUBECONFIG, pki.kubeconfig(port));
        let (ready, _, node, why) = api(&sys);
        assert_eq!((ready, node), (Outcome::Ok, Outcome::Failed));
        assert!(why.contains(expected), "{expected}: {why}");
    }
}

#[test]
fn a_server_that_hangs_is_left() {
    let pki = Pki::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let ports =
        [pki.serve(|_| Reply::Hang), pki.serve(|_| Reply::Trickle), silent.local_addr().expect("an address").port()];
    for port in ports {
        let sys = machine(kubernetes);
        sys.put(KUBECONFIG, pki.kubeconfig(port));
        let credentials = credentials::Credentials::read(&sys, KUBECONFIG).expect("usable");
        let start = std::time::Instant::now();
        let error = api::get(&credentials, "/readyz", 1024, Duration::from_secs(1)).expect_err("no answer");
        assert_eq!(error.to_string(), format!("127.0.0.1:{port}: no answer within 1 s"));
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }
}

#[test]
fn nothing_listens() {
    let pki = Pki::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let sys = machine(kubernetes);
    sys.put(KUBECONFIG, pki.kubeconfig(port));
    assert_eq!(api(&sys).1, format!("connect to 127.0.0.1:{port}: Connection refused (os error 111)"));
}

#[test]
fn kubeconfigs_by_their_fault() {
    let pki = Pki::new();
    let good = pki.kubeconfig(6443);
    let other_key = Pki::new().kubeconfig(6443);
    let line = |text: &str, key: &str| text.lines().find(|line| line.contains(key)).expect("there").to_owned();
    let swapped = good.replace(&line(&good, "client-key-data"), &line(&other_key, "client-key-data"));
    let replace = |from: &str, to: &str| good.replace(from, to);
    let cases = [
        (String::new(), "not a kubeconfig"),
        ("a: [".to_owned(), "not a kubeconfig"),
        ("- 1\n".to_owned(), "not a kubeconfig"),
        (good[..good.len() / 2].to_owned(), ""),
        (replace("current-context: default", "current-context: gone"), "there is no context named \"gone\""),
        (replace("user: admin", "user: gone"), "there is no user named \"gone\""),
        (replace("cluster: kubesolo", "cluster: gone"), "there is no cluster named \"gone\""),
        (replace("https://127.0.0.1:6443", "http://127.0.0.1:6443"), "is not https://HOST:PORT"),
        (replace("https://127.0.0.1:6443", "https://127.0.0.1:99999"), "is not https://HOST:PORT"),
        (good.replace(&line(&good, "client-key-data"), ""), "client-key is missing"),
        (
            good.replace(&line(&good, "client-certificate-data"), "    client-certificate-data: '%%'"),
            "client-certificate: ",
        ),
        (
            good.replace(&line(&good, "certificate-authority-data"), "    certificate-authority-data: aGVsbG8="),
            "no certificate in it",
        ),
        (swapped, "client-certificate: "),
        ("x".repeat((1 << 20) + 1), "more than 1048576 bytes"),
    ];
    for (text, expected) in cases {
        let sys = machine(kubernetes);
        sys.put(KUBECONFIG, &text);
        let (outcome, why, _, _) = api(&sys);
        assert_eq!(outcome, Outcome::Failed);
        assert!(why.contains(expected) && why.contains(KUBECONFIG), "{expected}: {why}");
        assert!(!why.contains("LS0t"), "the reason quotes the file: {why}");
    }
    let sys = machine(kubernetes);
    sys.put("/etc/x", "");
    assert_eq!(api(&sys).1, format!("read {KUBECONFIG}: No such file or directory (os error 2)"));
}

#[test]
fn servers_of_kubeconfigs() {
    let pki = Pki::new();
    for (server, port) in [
        ("https://127.0.0.1:6443", 6443),
        ("https://[::1]:7443/", 7443),
        ("https://node.example", 443),
        ("https://[2001:db8::1]", 443),
    ] {
        let sys = machine(kubernetes);
        sys.put(KUBECONFIG, pki.kubeconfig(6443).replace("https://127.0.0.1:6443", server));
        assert_eq!(credentials::Credentials::read(&sys, KUBECONFIG).expect("usable").port, port, "{server}");
    }
}

/// RSA keys in PKCS #1, in files beside the kubeconfig, as other programs make them.
#[test]
fn certificates_made_by_openssl() {
    let script = "echo extendedKeyUsage=clientAuth >usage && openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 2 &&
        openssl req -newkey rsa:2048 -nodes -keyout admin.key -out admin.csr -subj /O=system:masters/CN=admin &&
        openssl x509 -req -in admin.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out admin.crt -days 2 \\
            -extfile usage &&
        openssl rsa -in admin.key -out admin.pkcs1 -traditional";
    let directory = tempfile::tempdir().expect("a directory");
    if !super::super::tests::foreign("openssl", &["version"]) {
        return;
    }
    #[expect(clippy::disallowed_methods, reason = "a test runs a foreign tool")]
    let output = std::process::Command::new("sh").args(["-ec", script]).current_dir(directory.path()).output();
    let output = output.expect("sh runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    #[expect(clippy::disallowed_methods, reason = "a test reads what a foreign tool wrote")]
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).expect("written");
    let sys = machine(kubernetes);
    let inline = kubeconfig(1, &read("ca.crt"), &read("admin.crt"), &read("admin.pkcs1"));
    assert!(read("admin.pkcs1").contains("BEGIN RSA PRIVATE KEY"));
    sys.put(KUBECONFIG, &inline);
    assert_eq!(credentials::Credentials::read(&sys, KUBECONFIG).expect("usable").port, 1);
    let beside = "current-context: a\ncontexts: [{name: a, context: {cluster: b, user: c}}]\n\
        clusters: [{name: b, cluster: {server: 'https://127.0.0.1:2', certificate-authority: /etc/ca.crt}}]\n\
        users: [{name: c, user: {client-certificate: admin.crt, client-key: admin.key}}]\n";
    sys.put(KUBECONFIG, beside);
    sys.put("/etc/ca.crt", read("ca.crt"));
    sys.put("/var/lib/kubesolo/pki/admin/admin.crt", read("admin.crt"));
    sys.put("/var/lib/kubesolo/pki/admin/admin.key", read("admin.key"));
    assert_eq!(credentials::Credentials::read(&sys, KUBECONFIG).expect("usable").port, 2);
}

#[test]
fn the_applet_prints_and_exits_by_the_verdict() {
    let call = |sys: &Double, arguments: &[&str]| {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut out = Vec::new();
        let status = show(sys, &arguments, &mut out);
        (status, String::from_utf8(out).expect("text"))
    };
    let sys = machine(|_, status| status["degraded"] = json!(["x"]));
    let (status, text) = call(&sys, &[]);
    assert_eq!(status, 1);
    assert_eq!(
        text,
        "degraded\nservices    ok\nboot        degraded        x\nengine      not-applicable\napi-server  not-applicable\n\
         node-ready  not-applicable\ndisk        ok\nclock       ok\n"
    );
    let (status, text) = call(&sys, &["--json"]);
    let health: Health = serde_json::from_str(&text).expect("the document");
    assert_eq!((status, health), (1, evaluate(&sys)));
    assert!(text.contains("\"verdict\": \"degraded\"") && text.contains("\"format\": 1"), "{text}");
    assert_eq!(call(&machine(|_, _| {}), &[]).0, 0);
    assert_eq!(call(&Double::new(), &[]).0, 2);
    assert_eq!(call(&sys, &["--yaml"]).0, 3);
}
