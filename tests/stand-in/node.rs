//! What the node must have for KubeSolo, and the hardening that must hold while it runs.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Check;
use crate::options::Options;

/// Runs everything.
pub fn checks(options: &Options) -> Vec<(String, Check)> {
    let mut all: Vec<(String, Check)> = vec![
        ("root-read-only".to_owned(), read_only_root()),
        ("mounts".to_owned(), mounts()),
        ("mount-options".to_owned(), mount_options()),
        ("shared".to_owned(), shared()),
        ("cgroups".to_owned(), cgroups()),
        ("modules".to_owned(), modules()),
        ("programs".to_owned(), programs()),
        ("modprobe".to_owned(), modprobe()),
        ("nftables".to_owned(), nftables()),
        ("writable".to_owned(), writable()),
        ("identity".to_owned(), identity()),
        ("clock".to_owned(), clock()),
        ("default-route".to_owned(), default_route()),
        ("resolver".to_owned(), resolver()),
        ("limits".to_owned(), limits()),
        ("environment".to_owned(), environment()),
        ("apparmor".to_owned(), apparmor()),
        ("sysctl".to_owned(), sysctl()),
        ("secrets".to_owned(), secrets(options)),
    ];
    all.retain(|(name, _)| !name.is_empty());
    all
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|error| format!("{path}: {error}"))
}

fn none(missing: Vec<String>, what: &str) -> Check {
    if missing.is_empty() { Ok(String::new()) } else { Err(format!("{what}: {}", missing.join(", "))) }
}

/// FEATURES 10 and 17: nothing of the system can be written.
fn read_only_root() -> Check {
    let written: Vec<String> = ["/usr/x", "/etc/x", "/x", "/lib/x", "/boot/x"]
        .iter()
        .filter(|path| fs::write(path, "x").is_ok())
        .map(|path| (*path).to_owned())
        .collect();
    none(written, "could be written")
}

/// Mount point, type and options of every mount (proc(5), `/proc/PID/mountinfo`).
fn mount_table() -> Result<Vec<(String, String, String)>, String> {
    let text = read("/proc/self/mountinfo")?;
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let dash = fields.iter().position(|field| *field == "-")?;
        Some((fields.get(4)?.to_string(), fields.get(dash + 1)?.to_string(), fields.get(5)?.to_string()))
    };
    Ok(text.lines().filter_map(row).collect())
}

fn mounts() -> Check {
    let table = mount_table()?;
    let wanted = [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev", "devtmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/sys/fs/cgroup", "cgroup2"),
        ("/sys/kernel/security", "securityfs"),
        ("/run", "tmpfs"),
        ("/tmp", "tmpfs"),
        ("/", "squashfs"),
    ];
    let has = |(point, kind): &&(&str, &str)| table.iter().any(|(at, of, _)| at == point && of == kind);
    none(wanted.iter().filter(|row| !has(row)).map(|(point, kind)| format!("{point} ({kind})")).collect(), "missing")
}

/// Which places let programs run, change users or hold devices.
fn mount_options() -> Check {
    let table = mount_table()?;
    let wanted: [(&str, &[&str]); 13] = [
        ("/", &["ro", "nodev"]),
        ("/dev/pts", &["nosuid", "noexec"]),
        ("/dev/mqueue", &["nosuid", "nodev", "noexec"]),
        ("/sys/fs/cgroup", &["nosuid", "nodev", "noexec"]),
        ("/proc", &["nosuid", "nodev", "noexec"]),
        ("/sys", &["nosuid", "nodev", "noexec"]),
        ("/dev", &["nosuid", "noexec"]),
        ("/dev/shm", &["nosuid", "nodev", "noexec"]),
        ("/run", &["nosuid", "nodev"]),
        ("/tmp", &["nosuid", "nodev", "noexec"]),
        ("/data", &["nosuid", "nodev", "noexec"]),
        ("/etc/kubesolo", &["nosuid", "nodev", "noexec"]),
        ("/var/log", &["nosuid", "nodev", "noexec"]),
    ];
    let mut wrong = Vec::new();
    for (point, options) in wanted {
        // The last mount on a point is the one that is seen.
        let Some((_, _, found)) = table.iter().rev().find(|(at, _, _)| at == point) else {
            wrong.push(format!("{point} is no mount"));
            continue;
        };
        let missing = options.iter().filter(|option| !found.split(',').any(|other| other == **option));
        wrong.extend(missing.map(|option| format!("{point} lacks {option}")));
    }
    none(wrong, "mount options")
}

fn shared() -> Check {
    let text = read("/proc/self/mountinfo")?;
    let root = text.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap_or_default();
    if root.contains("shared:") { Ok(String::new()) } else { Err(format!("/ is not shared: {root}")) }
}

fn cgroups() -> Check {
    let present = read("/sys/fs/cgroup/cgroup.controllers")?;
    let enabled = read("/sys/fs/cgroup/cgroup.subtree_control")?;
    let missing = |list: &str| {
        let has = |name: &&&str| !list.split(' ').any(|other| other == **name);
        ["cpuset", "cpu", "io", "memory", "pids"].iter().filter(has).map(|name| (*name).to_owned()).collect()
    };
    none(missing(&present), "missing controllers")?;
    none(missing(&enabled), "controllers not enabled for children")?;
    if Path::new("/run/systemd/private").exists() || Path::new("/.dockerenv").exists() {
        return Err("the node looks like systemd or Docker".to_owned());
    }
    let group = "/sys/fs/cgroup/stand-in";
    fs::create_dir(group).map_err(|error| format!("{group}: {error}"))?;
    let limit = fs::write(format!("{group}/memory.max"), "33554432").map_err(|error| format!("memory.max: {error}"));
    fs::remove_dir(group).map_err(|error| format!("{group}: {error}"))?;
    limit.map(|()| present)
}

/// Kernel modules that KubeSolo needs: loaded, built in, or loaded on request.
fn modules() -> Check {
    let names = [
        "overlay",
        "br_netfilter",
        "xt_comment",
        "xt_conntrack",
        "xt_MASQUERADE",
        "xt_addrtype",
        "xt_multiport",
        "xt_nat",
        "xt_recent",
        "xt_set",
        "xt_statistic",
        "nft_compat",
        "nft_numgen",
        "nft_redir",
        "nft_limit",
        "nft_tproxy",
        "nft_ct",
        "nft_fib",
        "nft_fib_ipv4",
        "nft_fib_ipv6",
        "nft_masq",
        "nft_nat",
        "nft_reject",
        "nft_chain_nat",
    ];
    let loads = |name: &str| {
        Command::new("/sbin/modprobe").arg(name).status().is_ok_and(|status| status.success())
            && (Path::new(&format!("/sys/module/{name}")).exists() || name == "nft_nat")
    };
    none(names.iter().filter(|name| !loads(name)).map(|name| (*name).to_owned()).collect(), "cannot be loaded")
}

fn programs() -> Check {
    let names = [
        "modprobe",
        "iptables",
        "ip6tables",
        "iptables-save",
        "iptables-restore",
        "nft",
        "mount",
        "umount",
        "apparmor_parser",
    ];
    let path = std::env::var("PATH").unwrap_or_default();
    let found = |name: &str| path.split(':').any(|directory| Path::new(directory).join(name).exists());
    none(names.iter().filter(|name| !found(name)).map(|name| (*name).to_owned()).collect(), "not in PATH")
}

/// The kernel finds the program that loads modules.
fn modprobe() -> Check {
    let path = read("/proc/sys/kernel/modprobe")?;
    if Path::new(&path).exists() { Ok(path) } else { Err(format!("{path} is not there")) }
}

/// iptables is the nftables variant, and the legacy tables are not there, so that kube-proxy takes nftables.
fn nftables() -> Check {
    let version = Command::new("iptables").arg("--version").output().map_err(|error| format!("iptables: {error}"))?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    if !version.contains("nf_tables") {
        return Err(format!("iptables is {version}"));
    }
    let add =
        ["-t", "nat", "-A", "POSTROUTING", "-s", "10.42.0.0/16", "-m", "comment", "--comment", "x", "-j", "MASQUERADE"];
    let run = |arguments: &[&str]| Command::new("iptables").args(arguments).output();
    let output = run(&add).map_err(|error| format!("iptables: {error}"))?;
    if !output.status.success() {
        return Err(format!("iptables: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let mut delete = add;
    delete[2] = "-D";
    run(&delete).map_err(|error| format!("iptables: {error}"))?;
    if Path::new("/proc/net/ip_tables_names").exists() {
        return Err("the legacy tables are loaded".to_owned());
    }
    Ok(version)
}

/// Where KubeSolo writes, and that it can run programs from its own directory.
fn writable() -> Check {
    let mut wrong = Vec::new();
    for directory in [
        "/var/lib/kubesolo",
        "/etc/kubesolo",
        "/etc/cni/net.d",
        "/run",
        "/var/log",
        "/tmp",
        "/opt/cni/bin",
        "/usr/local/bin",
    ] {
        let path = format!("{directory}/.stand-in");
        match fs::write(&path, "x") {
            Ok(()) => drop(fs::remove_file(&path)),
            Err(error) => wrong.push(format!("{directory}: {error}")),
        }
    }
    let program = "/var/lib/kubesolo/.stand-in";
    let copied = fs::copy("/proc/self/exe", program).map_err(|error| error.to_string());
    // Called wrongly on purpose: that it answers at all is what is asked.
    let ran = copied.and_then(|_| Command::new(program).arg("--unknown").output().map_err(|error| error.to_string()));
    if let Err(error) = ran {
        wrong.push(format!("run {program}: {error}"));
    }
    let _ = fs::remove_file(program);
    none(wrong, "cannot be written")
}

/// A stable host name (RFC 1123) that /etc/hosts knows, a machine-id, accounts.
fn identity() -> Check {
    let name = read("/proc/sys/kernel/hostname")?;
    let valid = !name.is_empty() && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
    if !valid {
        return Err(format!("host name {name:?}"));
    }
    if !read("/etc/hosts")?.split_whitespace().any(|word| word == name) {
        return Err(format!("/etc/hosts does not have {name}"));
    }
    if read("/etc/machine-id")?.len() != 32 {
        return Err("no machine-id".to_owned());
    }
    for file in ["/etc/passwd", "/etc/nsswitch.conf", "/etc/ssl/certs/ca-certificates.crt"] {
        if fs::metadata(file).map_or(0, |metadata| metadata.len()) == 0 {
            return Err(format!("{file} is not there"));
        }
    }
    Ok(name)
}

/// The first PKI must not be made in 1970: the image's build time is the lower bound.
fn clock() -> Check {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?.as_secs();
    // 2026-01-01, the build epoch of images.
    if now >= 1_767_225_600 { Ok(now.to_string()) } else { Err(format!("it is {now}")) }
}

/// Kubernetes looks for its address at the default route.
fn default_route() -> Check {
    address().map(|address| address.to_string())
}

/// Returns the address that packets to elsewhere leave from.
pub fn address() -> Result<Ipv4Addr, String> {
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(|error| error.to_string())?;
    // Documentation address (RFC 5737); nothing is sent.
    socket.connect("198.51.100.1:9").map_err(|error| format!("no default route: {error}"))?;
    match socket.local_addr().map_err(|error| error.to_string())?.ip() {
        std::net::IpAddr::V4(address) => Ok(address),
        other => Err(format!("{other}")),
    }
}

fn resolver() -> Check {
    let text = read("/etc/resolv.conf")?;
    match text.lines().find(|line| line.starts_with("nameserver") && (line.contains(" 127.") || line.contains(" ::1")))
    {
        Some(line) => Err(format!("loopback: {line}")),
        None => Ok(text.lines().filter(|line| line.starts_with("nameserver")).collect::<Vec<_>>().join(" ")),
    }
}

fn limits() -> Check {
    let text = read("/proc/self/limits")?;
    let row = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    if !row("Max open files").contains("65535") {
        return Err(row("Max open files"));
    }
    let core = row("Max core file size");
    if core.split_whitespace().nth(4) != Some("0") {
        return Err(core);
    }
    match read("/proc/self/oom_score_adj")?.as_str() {
        "-500" => Ok(String::new()),
        other => Err(format!("oom_score_adj is {other}")),
    }
}

fn environment() -> Check {
    if std::env::var("container").is_ok() {
        return Err("$container is set".to_owned());
    }
    match std::env::var("GODEBUG") {
        Ok(value) if value == "madvdontneed=1" => Ok(String::new()),
        other => Err(format!("GODEBUG is {other:?}")),
    }
}

/// The runtime's processes that speak to the network are confined.
fn apparmor() -> Check {
    let mut wrong = Vec::new();
    for name in ["network", "agent"] {
        let is_it = |pid: &String| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line == format!("/usr/lib/ksos/ksos-runtime\0{name}\0").as_bytes()
        };
        let entries = fs::read_dir("/proc").map_err(|error| error.to_string())?.flatten();
        let pid = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).find(is_it);
        let profile = pid.map_or(Err("is not there".to_owned()), |pid| read(&format!("/proc/{pid}/attr/current")));
        if profile != Ok(format!("ksos-{name} (enforce)")) {
            wrong.push(format!("{name} {profile:?}"));
        }
    }
    none(wrong, "not confined")
}

fn sysctl() -> Check {
    let wanted = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/bridge/bridge-nf-call-iptables", "1"),
        ("net/bridge/bridge-nf-call-ip6tables", "1"),
        ("vm/overcommit_memory", "1"),
        ("vm/panic_on_oom", "0"),
        ("kernel/panic", "10"),
        ("kernel/panic_on_oops", "1"),
        ("fs/inotify/max_user_instances", "8192"),
        ("fs/inotify/max_user_watches", "524288"),
        ("kernel/kptr_restrict", "2"),
        ("kernel/dmesg_restrict", "1"),
        ("kernel/perf_event_paranoid", "3"),
        ("kernel/unprivileged_bpf_disabled", "1"),
        ("kernel/yama/ptrace_scope", "1"),
        ("kernel/randomize_va_space", "2"),
        ("kernel/kexec_load_disabled", "1"),
        ("kernel/sysrq", "0"),
        ("net/core/bpf_jit_harden", "2"),
        ("vm/mmap_min_addr", "65536"),
        ("vm/unprivileged_userfaultfd", "0"),
        ("dev/tty/ldisc_autoload", "0"),
        ("fs/protected_hardlinks", "1"),
        ("fs/protected_symlinks", "1"),
        ("fs/protected_fifos", "2"),
        ("fs/protected_regular", "2"),
        ("fs/suid_dumpable", "0"),
        ("kernel/core_pattern", "|/bin/false"),
        ("net/ipv4/tcp_syncookies", "1"),
        ("net/ipv4/icmp_echo_ignore_broadcasts", "1"),
        ("net/ipv4/conf/all/rp_filter", "2"),
        ("net/ipv4/conf/all/accept_redirects", "0"),
        ("net/ipv4/conf/default/accept_redirects", "0"),
        ("net/ipv4/conf/all/secure_redirects", "0"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
        ("net/ipv4/conf/all/accept_source_route", "0"),
        ("net/ipv6/conf/all/accept_redirects", "0"),
        ("net/ipv6/conf/default/accept_redirects", "0"),
        ("net/ipv6/conf/all/accept_source_route", "0"),
    ];
    let wrong = |(key, value): &(&str, &str)| {
        let found = read(&format!("/proc/sys/{key}")).unwrap_or_else(|error| error);
        (found != *value).then(|| format!("{key} is {found}"))
    };
    none(wanted.iter().filter_map(wrong).collect(), "settings")
}

/// The Edge key is in no file that others can read.
fn secrets(options: &Options) -> Check {
    let Some(key) = options.values.get("portainer-edge-key").and_then(|value| value.as_str()) else {
        return Ok("no key".to_owned());
    };
    let mut leaks = Vec::new();
    for path in ["/run/ksos/status.json", "/run/ksos/network.json", "/run/ksos/boot.json", "/var/log/ksos/boot.log"] {
        if fs::read_to_string(path).is_ok_and(|text| text.contains(key)) {
            leaks.push(path.to_owned());
        }
    }
    none(leaks, "the key is in")
}
