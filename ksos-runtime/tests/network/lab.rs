//! Two network namespaces with a cable between them: a node that runs the real binary, and a server's side.
//!
//! The node has a mount namespace of its own, with an empty `/run`, and a `/sys/class/net` in which the cable's end looks
//! like hardware.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ksos_runtime::network::status::{InterfaceStatus, NetworkStatus};

const TOOLS: [&str; 6] = ["ip", "unshare", "nsenter", "setpriv", "dnsmasq", "ping"];
/// What is done in the node's namespaces before anything else.
const NODE: &str = "mount -t tmpfs none /run && mkdir -p /run/ksos && mount -t tmpfs none /sys/class/net && \
    mkdir -p /sys/class/net/eth0/device /sys/class/net/eth1/device && ip link set lo up && echo up && exec sleep 600";
const SERVER: &str = "ip link set lo up && echo up && exec sleep 600";

/// A process that is killed in the end.
pub struct Running(pub Child);

impl Running {
    /// Sends it a signal, by its name.
    pub fn signal(&self, name: &str) {
        output(Command::new("kill").arg(format!("-{name}")).arg(self.0.id().to_string()));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The two sides.
pub struct Lab {
    directory: tempfile::TempDir,
    node: Running,
    server: Running,
    processes: usize,
}

/// Says why a test does not run, past the test harness, which shows what a test prints only when it fails.
fn skip(reason: &str) -> Option<Lab> {
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
    None
}

/// Returns the two sides with `eth0` of the node plugged into `srv0`, 10.9.0.1/24; `None`, saying so, where that is not
/// possible.
pub fn lab() -> Option<Lab> {
    if !rustix::process::geteuid().is_root() {
        return skip("network namespaces need root");
    }
    let required = std::env::var_os("KSOS_REQUIRE_TOOLS").is_some_and(|value| value == "1");
    for tool in TOOLS {
        let found =
            ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|path| PathBuf::from(path).join(tool).exists());
        if !found {
            assert!(!required, "{tool} is not installed");
            return skip(&format!("{tool} is not installed"));
        }
    }
    let holder = |flags: &[&str], script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--kill-child", "--fork"]).args(flags).args(["sh", "-c", script]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("unshare starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        (Running(child), line == "up\n")
    };
    let (server, server_up) = holder(&[], SERVER);
    let (node, node_up) = holder(&["--mount", "--uts", "--propagation", "private"], NODE);
    if !(server_up && node_up) {
        assert!(!required, "this machine allows root no network namespaces");
        return skip("this machine allows no network namespaces");
    }
    let mut lab = Lab { directory: tempfile::tempdir().expect("a directory"), node, server, processes: 0 };
    lab.plug(0);
    lab.server("ip addr add 10.9.0.1/24 dev srv0");
    Some(lab)
}

/// `unshare --fork` keeps the namespaces in its child.
fn inner(running: &Running) -> String {
    let pid = running.0.id();
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its child");
    text.trim().to_owned()
}

impl Lab {
    /// Plugs `ethN` of the node into `srvN`, both up on the server's side.
    pub fn plug(&mut self, number: u32) {
        let node = inner(&self.node);
        self.server(&format!(
            "ip link add eth{number} address 02:00:00:00:00:0{number} netns {node} type veth peer name srv{number}"
        ));
        self.server(&format!("ip link set srv{number} up"));
    }

    fn enter(&self, running: &Running, mounts: bool) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &inner(running), "--net"]);
        if mounts {
            command.args(["--mount", "--uts"]);
        }
        command.arg("--");
        command
    }

    /// Runs a shell command on the server's side.
    pub fn server(&self, script: &str) -> String {
        output(self.enter(&self.server, false).args(["sh", "-c", script]))
    }

    /// Runs a shell command on the node.
    pub fn node(&self, script: &str) -> String {
        output(self.enter(&self.node, true).args(["sh", "-c", script]))
    }

    /// Tells whether a shell command succeeds on the node.
    pub fn try_node(&self, script: &str) -> bool {
        let mut command = self.enter(&self.node, true);
        command.args(["sh", "-c", script]).output().expect("sh runs").status.success()
    }

    /// Path of the server side's network namespace.
    pub fn server_namespace(&self) -> String {
        format!("/proc/{}/ns/net", inner(&self.server))
    }

    /// Writes the node's configuration.
    pub fn configure(&self, json: &str) {
        let path = self.directory.path().join("config.json");
        std::fs::write(&path, json).expect("written");
        let mut command = self.enter(&self.node, true);
        command.args(["sh", "-c", "cat > /run/ksos/config.json"]).stdin(File::open(&path).expect("opened"));
        output(&mut command);
    }

    /// Starts the network process; its log is what [`Log::text`] reads.
    pub fn start(&mut self, prefix: &[&str], arguments: &[&str]) -> (Running, Log) {
        self.processes += 1;
        let log = self.directory.path().join(format!("network-{}.log", self.processes));
        let file = File::create(&log).expect("created");
        let mut command = self.enter(&self.node, true);
        command.args(prefix).arg(env!("CARGO_BIN_EXE_ksos-runtime")).arg("network").args(arguments);
        command.stdout(file.try_clone().expect("a copy")).stderr(file);
        (Running(command.spawn().expect("nsenter starts")), Log(log))
    }

    /// Starts a DHCP server for 10.9.0.50 to 10.9.0.60 on `srv0`.
    pub fn dhcp(&mut self, options: &[&str]) -> (Running, Log) {
        self.processes += 1;
        let path = self.directory.path().join(format!("dnsmasq-{}.log", self.processes));
        let leases = self.directory.path().join("leases");
        let mut command = self.enter(&self.server, false);
        command.args(["dnsmasq", "-k", "-d", "-C", "/dev/null", "--no-ping", "--log-dhcp"]);
        command.args(["--interface=srv0", "--bind-interfaces", "--except-interface=lo", "--no-resolv"]);
        command.args(["--dhcp-range=10.9.0.50,10.9.0.60,120", &format!("--dhcp-leasefile={}", leases.display())]);
        if !options.iter().any(|option| option.starts_with("--port")) {
            command.arg("--port=0");
        }
        command.args(options).stderr(File::create(&path).expect("created")).stdout(Stdio::null());
        let running = Running(command.spawn().expect("nsenter starts"));
        let log = Log(path);
        wait("dnsmasq has started", 10, || log.text().contains("started"));
        (running, log)
    }

    /// Reads the status document; the default when there is none yet.
    pub fn status(&self) -> NetworkStatus {
        let mut command = self.enter(&self.node, true);
        let output = command.args(["cat", "/run/ksos/network.json"]).output().expect("cat runs");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Reads what the status document says of one interface.
    pub fn interface(&self, name: &str) -> InterfaceStatus {
        self.status().interfaces.into_iter().find(|interface| interface.name == name).unwrap_or_default()
    }

    /// Reads the lines of `resolv.conf` that are no comments.
    pub fn resolv_conf(&self) -> Vec<String> {
        let text = self.node("cat /run/ksos/resolv.conf");
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    /// Tells whether the readiness socket takes a connection.
    pub fn is_ready(&self) -> bool {
        let path = format!("/proc/{}/root/run/ksos/network.socket", inner(&self.node));
        std::os::unix::net::UnixStream::connect(path).is_ok()
    }
}

/// What a process wrote.
pub struct Log(PathBuf);

impl Log {
    /// All of it.
    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap_or_default()
    }

    /// How many of its lines have `part` in them.
    pub fn count(&self, part: &str) -> usize {
        self.text().lines().filter(|line| line.contains(part)).count()
    }
}

fn output(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the command runs");
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

/// Waits until something holds; fails when it does not within ten times the `seconds` that an idle machine needs at most.
pub fn wait(what: &str, seconds: u64, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10 * seconds);
    while !holds() {
        assert!(Instant::now() < deadline, "not within {} s: {what}", 10 * seconds);
        std::thread::sleep(Duration::from_millis(50));
    }
}
