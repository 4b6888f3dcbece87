//! Runs real containers in the engine: a bridge with a port, a memory limit, AppArmor, seccomp.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, ExitCode, Output};
use std::time::Duration;

use crate::server::SOCKET;
use crate::{Check, node, say};

const IMAGE: &str = "docker.io/library/tools:1";
/// A bridge with addresses of the node's pod network; port 8081 of the node leads to port 80 of the container.
const NETWORK: &str = r#"{
  "cniVersion": "1.0.0", "name": "bridge",
  "plugins": [
    { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
      "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.42.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
    { "type": "portmap", "runtimeConfig": { "portMappings": [{ "hostPort": 8081, "containerPort": 80, "protocol": "tcp" }] } }
  ]
}"#;

/// Runs everything and says the results.
pub fn run() -> ExitCode {
    let started = start();
    let mut results = vec![say("container-start", &started)];
    if started.is_ok() {
        for (name, result) in [
            ("container-apparmor", inside(&["cat", "/proc/self/attr/current"], "cri-containerd.apparmor.d (enforce)")),
            ("container-seccomp", inside(&["grep", "Seccomp:", "/proc/self/status"], "Seccomp:\t2")),
            ("container-memory-limit", memory_limit()),
            ("container-network", inside(&["ip", "-4", "-o", "addr", "show", "eth0"], "10.42.0.")),
            ("container-port", port()),
        ] {
            results.push(say(name, &result));
        }
    }
    let failed = results.iter().filter(|ok| !**ok).count();
    println!("container checks: {} ok, {failed} failed", results.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn ctr(arguments: &[&str]) -> Result<Output, String> {
    Command::new("/usr/bin/ctr")
        .args(["-a", SOCKET, "-n", "k8s.io"])
        .args(arguments)
        .output()
        .map_err(|error| format!("ctr: {error}"))
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).trim().to_owned()
}

/// Starts a web server in a container of its own network, with 64 MiB of memory.
fn start() -> Check {
    fs::write("/etc/cni/net.d/10-bridge.conflist", NETWORK).map_err(|error| format!("/etc/cni/net.d: {error}"))?;
    // What an earlier start of this program left.
    let _ = ctr(&["task", "kill", "-s", "SIGKILL", "web"]);
    let _ = ctr(&["task", "rm", "-f", "web"]);
    let _ = ctr(&["container", "rm", "web"]);
    let output = ctr(&[
        "run",
        "-d",
        "--cni",
        "--memory-limit",
        "67108864",
        "--seccomp",
        "--apparmor-default-profile",
        "cri-containerd.apparmor.d",
        IMAGE,
        "web",
        "/usr/bin/busybox",
        "sh",
        "-c",
        "mkdir -p /www && echo hello > /www/index.html && exec busybox httpd -f -p 80 -h /www",
    ])?;
    if output.status.success() { Ok(String::new()) } else { Err(text(&output)) }
}

/// Runs a program in the container; its output must hold `expected`.
fn inside(arguments: &[&str], expected: &str) -> Check {
    let mut all = vec!["task", "exec", "--exec-id", "check", "web", "/usr/bin/busybox"];
    all.extend(arguments);
    let output = text(&ctr(&all)?);
    if output.contains(expected) { Ok(expected.to_owned()) } else { Err(format!("{output:?}")) }
}

/// More memory than the limit ends the process that wants it.
fn memory_limit() -> Check {
    let limit =
        fs::read_to_string("/sys/fs/cgroup/k8s.io/web/memory.max").map_err(|error| format!("memory.max: {error}"))?;
    if limit.trim() != "67108864" {
        return Err(format!("memory.max is {}", limit.trim()));
    }
    let output = ctr(&[
        "task",
        "exec",
        "--exec-id",
        "hog",
        "web",
        "/usr/bin/busybox",
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=200M",
        "count=1",
    ])?;
    if output.status.success() { Err("200 MiB could be used".to_owned()) } else { Ok(text(&output).replace('\n', " ")) }
}

/// The port of the node leads to the container.
fn port() -> Check {
    let address = SocketAddr::from((node::address()?, 8081));
    let mut last = String::new();
    for _ in 0..20 {
        match fetch(address) {
            Ok(answer) if answer.ends_with("hello\n") => return Ok(address.to_string()),
            Ok(answer) => last = answer,
            Err(error) => last = error.to_string(),
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    Err(format!("{address}: {last:?}"))
}

fn fetch(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
