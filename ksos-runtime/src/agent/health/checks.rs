//! The checks. Each returns what it found and why; nothing here fails in another way.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ksos_formats::runtime::{EngineConfig, KubernetesConfig};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Deserialize;

use crate::sys::{Sys, read_line};

use super::super::facts::{DataMount, Facts};
use super::api;
use super::credentials::Credentials;
use super::{ANSWER_TIME, Check, CheckName, DETAIL_LIMIT, Outcome};

/// Largest answer of `/readyz` in bytes: a list of what is not ready.
const READY_LIMIT: usize = 64 << 10;
/// Largest node object in bytes. With the list of a few hundred container images it has some hundred kilobytes.
const NODE_LIMIT: usize = 2 << 20;
/// What the kubelet begins to evict pods below: `nodefs.available<10%`, `nodefs.inodesFree<5%` (Kubernetes
/// documentation, "Node-pressure Eviction", hard eviction thresholds).
const LOW_BYTES_PERCENT: u64 = 10;
const LOW_INODES_PERCENT: u64 = 5;
/// Below these nothing can be written for long.
const LEAST_BYTES: u64 = 64 << 20;
const LEAST_INODES: u64 = 512;

/// What a check found.
type Found = (Outcome, String);

fn ok(detail: impl Into<String>) -> Found {
    (Outcome::Ok, detail.into())
}

fn degraded(detail: impl Into<String>) -> Found {
    (Outcome::Degraded, detail.into())
}

fn failed(detail: impl Into<String>) -> Found {
    (Outcome::Failed, detail.into())
}

fn not_applicable() -> Found {
    (Outcome::NotApplicable, String::new())
}

/// Makes all checks.
pub(super) fn all(sys: &dyn Sys, facts: &Facts) -> Vec<Check> {
    // Read for the API server's check, and used again for the node's.
    let mut api_server = None;
    CheckName::ALL
        .map(|name| {
            let start = sys.uptime_ms();
            let (outcome, detail) = match name {
                CheckName::Services => services(facts),
                CheckName::Boot => boot(facts),
                CheckName::Engine => with_engine(facts, engine),
                CheckName::ApiServer => with_kubernetes(facts, |config| ready(sys, config, &mut api_server)),
                CheckName::NodeReady => with_kubernetes(facts, |_| node_ready(sys, api_server.as_ref())),
                CheckName::Disk => disk(sys, facts),
                CheckName::Clock => clock(sys, facts),
            };
            Check { name, outcome, detail: one_line(&detail), ms: sys.uptime_ms().saturating_sub(start) }
        })
        .into()
}

/// Texts come from programs and the network.
fn one_line(text: &str) -> String {
    text.trim().chars().take(DETAIL_LIMIT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn services(facts: &Facts) -> Found {
    let status = match &facts.status {
        Ok(status) => status,
        Err(reason) => return failed(reason),
    };
    let waiting = status.services.iter().filter(|service| service.required);
    let waiting = waiting.filter(|service| !matches!(service.state.as_str(), "ready" | "done"));
    let waiting: Vec<String> = waiting.map(|service| format!("{} is {}", service.name, service.state)).collect();
    match (status.state.as_str(), waiting.is_empty()) {
        ("ready", true) => ok(""),
        (_, false) => failed(waiting.join(", ")),
        (state, true) => failed(format!("the node is {state}")),
    }
}

fn boot(facts: &Facts) -> Found {
    match &facts.status {
        // Said by `services`.
        Err(_) => ok("not known"),
        Ok(status) if status.degraded.is_empty() => {
            let stages: Vec<&str> =
                status.stages.iter().filter(|stage| !stage.ok).map(|stage| stage.name.as_str()).collect();
            if stages.is_empty() { ok("") } else { degraded(format!("failed stages: {}", stages.join(", "))) }
        }
        Ok(status) => degraded(status.degraded.join("; ")),
    }
}

fn with_engine(facts: &Facts, check: impl FnOnce(&EngineConfig) -> Found) -> Found {
    match &facts.runtime {
        Ok(config) => config.engine.as_ref().map_or_else(not_applicable, check),
        Err(reason) => failed(reason),
    }
}

fn with_kubernetes(facts: &Facts, check: impl FnOnce(&KubernetesConfig) -> Found) -> Found {
    match &facts.runtime {
        Ok(config) => config.kubernetes.as_ref().map_or_else(not_applicable, check),
        Err(reason) => failed(reason),
    }
}

fn engine(config: &EngineConfig) -> Found {
    match greet(&config.socket, ANSWER_TIME) {
        Ok(()) => ok(""),
        Err(error) => failed(format!("{}: {error}", config.socket)),
    }
}

/// Connects and exchanges the HTTP/2 prefaces that gRPC begins with (RFC 9113, section 3.4): the kernel accepts
/// connections for a process that hangs, an answer comes from one that works.
pub(super) fn greet(path: &str, time: Duration) -> io::Result<()> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const SETTINGS: u8 = 4;
    // Not blocking: connect(2) waits for room in a full queue.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let mut stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(time))?;
    // The preface fits into the socket's buffer. The head of the answer is sent, and so arrives, in one piece.
    let mut head = [0; 9];
    let received = stream.write_all(PREFACE).and_then(|()| stream.read(&mut head));
    match received {
        Ok(0) => Err(io::Error::other("closed without an answer")),
        Ok(count) if count == head.len() && head[3] == SETTINGS => Ok(()),
        Ok(_) => Err(io::Error::other("the answer is not HTTP/2")),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::Error::other(format!("no answer within {} s", time.as_secs())))
        }
        Err(error) => Err(error),
    }
}

/// Asks `/readyz`; leaves the credentials of a server that answered.
fn ready(sys: &dyn Sys, config: &KubernetesConfig, server: &mut Option<Credentials>) -> Found {
    let credentials = match Credentials::read(sys, &config.kubeconfig) {
        Ok(credentials) => credentials,
        Err(error) => return failed(error.to_string()),
    };
    match api::get(&credentials, "/readyz", READY_LIMIT, ANSWER_TIME) {
        Ok(answer) => {
            *server = Some(credentials);
            match answer.status {
                200 => ok(""),
                status => failed(format!("/readyz: {status} {}", unready(&answer.body))),
            }
        }
        Err(error) => failed(error.to_string()),
    }
}

/// Returns what is not ready: the lines `[-]NAME failed: ...` of the answer, or its first line.
pub(super) fn unready(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let parts: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("[-]")).collect();
    if parts.is_empty() { text.lines().next().unwrap_or_default().to_owned() } else { parts.join(", ") }
}

/// What is read of a node object (Kubernetes API, `core/v1`, `NodeCondition`).
#[derive(Deserialize)]
struct NodeObject {
    status: NodeStatus,
}

#[derive(Deserialize)]
struct NodeStatus {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

fn node_ready(sys: &dyn Sys, server: Option<&Credentials>) -> Found {
    let Some(server) = server else { return failed("not asked: the API server does not answer") };
    let name = read_line(sys, "/proc/sys/kernel/hostname").unwrap_or_default().to_ascii_lowercase();
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')) {
        return failed(format!("the host name {name:?} is no node name"));
    }
    let answer = match api::get(server, &format!("/api/v1/nodes/{name}"), NODE_LIMIT, ANSWER_TIME) {
        Ok(answer) => answer,
        Err(error) => return failed(error.to_string()),
    };
    match answer.status {
        200 => {}
        404 => return failed(format!("there is no node {name:?}")),
        status => return failed(format!("node {name:?}: the API server answers {status}")),
    }
    node(&answer.body, &name)
}

/// Looks at a node object.
pub(super) fn node(body: &[u8], name: &str) -> Found {
    match serde_json::from_slice::<NodeObject>(body) {
        Ok(node) => condition(&node),
        Err(error) => failed(format!("node {name:?}: {error}")),
    }
}

fn condition(node: &NodeObject) -> Found {
    match node.status.conditions.iter().find(|condition| condition.kind == "Ready") {
        Some(condition) if condition.status == "True" => ok(""),
        Some(Condition { status, reason, message, .. }) => failed(format!("Ready is {status}: {reason}: {message}")),
        None => failed("the node has no condition Ready"),
    }
}

fn disk(sys: &dyn Sys, facts: &Facts) -> Found {
    let runtime = match &facts.runtime {
        Ok(runtime) => runtime,
        Err(reason) => return failed(reason),
    };
    let Some(mount) = &facts.data else {
        return failed(format!("nothing is mounted on {}", runtime.data.mount));
    };
    if mount.read_only {
        return failed(format!("{} is read-only", mount.path));
    }
    let room = match room(sys, mount) {
        Ok(room) => room,
        Err(reason) => return failed(reason),
    };
    let persistent = facts.status.as_ref().is_ok_and(|status| status.persistent);
    match room {
        (Outcome::Failed, _) => room,
        _ if !persistent => degraded("data is kept in memory and lost when the node restarts"),
        _ if mount.errors > 0 => degraded(format!("the file system has recorded {} errors", mount.errors)),
        _ => room,
    }
}

fn room(sys: &dyn Sys, mount: &DataMount) -> Result<Found, String> {
    let space = sys.space(&mount.path).map_err(|error| error.to_string())?;
    let (inodes, free) = sys.inodes(&mount.path).map_err(|error| error.to_string())?;
    let low = |available: u64, total: u64, percent: u64| {
        u128::from(available) * 100 < u128::from(total) * u128::from(percent)
    };
    let bytes = format!("{} of {} MiB are available on {}", space.available >> 20, space.total >> 20, mount.path);
    let files = format!("{free} of {inodes} inodes are free on {}", mount.path);
    let fixed = inodes > 0;
    Ok(match () {
        () if space.available < LEAST_BYTES => failed(bytes),
        () if fixed && free < LEAST_INODES => failed(files),
        () if low(space.available, space.total, LOW_BYTES_PERCENT) => degraded(bytes),
        () if fixed && low(free, inodes, LOW_INODES_PERCENT) => degraded(files),
        () => ok(""),
    })
}

fn clock(sys: &dyn Sys, facts: &Facts) -> Found {
    let (now, epoch) = match &facts.runtime {
        Ok(runtime) => (sys.wall_clock(), runtime.image.epoch),
        Err(reason) => return failed(reason),
    };
    if now < epoch {
        return failed(format!("it says {now}, {} s before the image was built", epoch - now));
    }
    match super::super::facts::synchronised(&facts.network) {
        Some(true) => ok("synchronised"),
        Some(false) => ok("not synchronised"),
        None => ok(""),
    }
}
