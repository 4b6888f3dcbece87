//! A running guest: its console, and commands in it over SSH.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ksos_tests::{Outcome, compose, repository, run};

/// Longest time for one boot. TCG on two busy processors is slow; a boot alone takes a tenth of it.
pub const BOOT: Duration = Duration::from_secs(600);

/// What a node says when it is ready.
pub const READY: &str = "ksos: ready ";

/// A guest that runs until it is dropped.
pub struct Guest {
    child: Child,
    console: Arc<Mutex<Vec<String>>>,
    seen: usize,
    key: PathBuf,
    /// Port of this host that leads to the guest's SSH server.
    ssh: u16,
}

impl Guest {
    /// Boots `image` with further arguments of `run`.
    pub fn start(image: &Path, key: &Path, arguments: &[String]) -> Self {
        let ssh = free_port();
        let mut command = compose(&repository());
        command.arg("run").arg(image).args(["--memory", "768M", "--forward", &format!("{ssh}:22")]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.process_group(0).spawn().expect("the composer runs");
        let console = Arc::new(Mutex::new(Vec::new()));
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let lines = console.clone();
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                lines.lock().expect("no panic holds it").push(line);
            }
        });
        Guest { child, console, seen: 0, key: key.to_owned(), ssh }
    }

    /// Returns the console so far.
    pub fn console(&self) -> String {
        self.console.lock().expect("no panic holds it").join("\n")
    }

    /// Returns the last lines of the console.
    pub fn console_end(&self) -> String {
        const LINES: usize = 60;
        let lines = self.console.lock().expect("no panic holds it");
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    /// Waits for the next line that holds `text`.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + BOOT;
        loop {
            {
                let lines = self.console.lock().expect("no panic holds it");
                while self.seen < lines.len() {
                    self.seen += 1;
                    let line = &lines[self.seen - 1];
                    if line.contains(text) {
                        return line.clone();
                    }
                    // A check that failed keeps the node from being ready: the rest of the time would be lost.
                    let failed = text == READY && line.contains("FAILED") || line.contains("Kernel panic");
                    assert!(!failed, "{line}\nbefore {text:?}:\n{}", lines.join("\n"));
                }
            }
            assert!(Instant::now() < deadline, "{text:?} did not come:\n{}", self.console());
            assert!(matches!(self.child.try_wait(), Ok(None)), "QEMU ended before {text:?}:\n{}", self.console());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Runs a command in the guest. A machine that is reset meanwhile never says that the connection is gone.
    pub fn ssh(&self, command: &str) -> Outcome {
        let port = self.ssh.to_string();
        let mut ssh = Command::new("ssh");
        ssh.args(["-q", "-p", &port, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        ssh.args(["-o", "ConnectTimeout=60", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]);
        ssh.args(["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i"]).arg(&self.key);
        run(ssh.args(["root@127.0.0.1", command]).stdin(Stdio::null()))
    }

    /// The program of the node is below its limit (issue 3: 4 MB).
    #[track_caller]
    pub fn expect_small_runtime(&self) {
        let size: u64 = self.shell("busybox wc -c < /usr/lib/ksos/ksos-runtime").trim().parse().expect("a number");
        measured(&format!("ksos-runtime: {size} bytes"));
        assert!(size < 4_000_000, "ksos-runtime has {size} bytes");
    }

    /// Returns what the SSH client says when it has no key to offer: the ways to log in that the server allows.
    pub fn ssh_methods(&self) -> String {
        let mut ssh = Command::new("ssh");
        ssh.args(["-p", &self.ssh.to_string(), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        ssh.args(["-o", "ConnectTimeout=60", "-o", "BatchMode=yes", "-o", "PubkeyAuthentication=no"]);
        run(ssh.args(["root@127.0.0.1", "true"]).stdin(Stdio::null())).stderr
    }

    /// Runs a command in the guest that must succeed; returns what it printed.
    #[track_caller]
    pub fn shell(&self, command: &str) -> String {
        let outcome = self.ssh(command);
        assert_eq!(outcome.code, 0, "{command}\n{}{}\n{}", outcome.stdout, outcome.stderr, self.console());
        outcome.stdout
    }

    /// Nothing that the runtime's confined processes asked for was refused to them.
    #[track_caller]
    pub fn expect_nothing_denied(&self) {
        let log = self.shell("dmesg");
        let denied = log.lines().filter(|line| line.contains("DENIED") && line.contains("\"ksos-"));
        let denied: Vec<&str> = denied.collect();
        assert!(denied.is_empty(), "{denied:#?}");
    }

    /// Kills the composer and nothing else, and waits until QEMU has ended, too.
    #[track_caller]
    pub fn kill_composer(mut self) {
        let composer = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{composer}/task/{composer}/children")).expect("it runs");
        let machine: u32 = children.trim().parse().expect("one child, QEMU");
        self.child.kill().expect("it runs");
        let deadline = Instant::now() + BOOT;
        // Nobody may reap it.
        let ended = || match std::fs::read_to_string(format!("/proc/{machine}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        while !ended() {
            assert!(Instant::now() < deadline, "QEMU outlives the composer");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Shuts the guest down and waits until QEMU has ended.
    #[track_caller]
    pub fn power_off(mut self) {
        self.ssh("poweroff");
        let deadline = Instant::now() + BOOT;
        while matches!(self.child.try_wait(), Ok(None)) {
            assert!(Instant::now() < deadline, "the guest does not power off:\n{}", self.console());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // The whole group: QEMU is a child of the composer.
            let _ = run(Command::new("kill").args(["-TERM", "--", &format!("-{}", self.child.id())]));
            let _ = self.child.wait();
        }
    }
}

/// Returns a port of loopback that is free now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Returns what an address of this host serves.
#[track_caller]
pub fn get(url: &str) -> String {
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
    let mut answer = agent.get(url).call().unwrap_or_else(|error| panic!("{url}: {error}"));
    answer.body_mut().read_to_string().expect("text")
}

/// Prints what was measured, for who reads the log of the tests.
#[expect(clippy::print_stdout, reason = "figures are for people")]
pub fn measured(what: &str) {
    println!("measured: {what}");
}
