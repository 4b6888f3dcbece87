//! The appliance with a stand-in for KubeSolo. The image is built once; each test boots it with a disk of its own.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ksos_tests::{compose, repository, run, stand_in};

use crate::guest::{Guest, READY, free_port};

/// What all tests of this file share: the image, and a key that may log in.
struct Shared {
    directory: tempfile::TempDir,
    image: PathBuf,
    key: PathBuf,
    public_key: String,
}

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = compose(&repository());
        command.args(["build", "tests/fixtures/boot/node.toml", "--json", "--out"]).arg(directory.path());
        // The component takes the file by its name.
        let program = directory.path().join("kubesolo");
        fs::copy(stand_in(), &program).expect("copied");
        command.arg("--component").arg(format!("kubesolo={}", program.display()));
        let outcome = run(&mut command).expect_code(0);
        let listed: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("--json prints JSON");
        let image = PathBuf::from(listed["artifacts"][0]["path"].as_str().expect("an artifact has a path"));
        let key = directory.path().join("test-key");
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key)).expect_code(0);
        let public_key = fs::read_to_string(key.with_extension("pub")).expect("made").trim().to_owned();
        Shared { directory, image, key, public_key }
    })
}

/// Writes a file for one test and returns its path.
fn file(name: &str, text: &str) -> String {
    let path = shared().directory.path().join(name);
    fs::write(&path, text).expect("written");
    path.to_str().expect("a path of ours is UTF-8").to_owned()
}

fn disk(name: &str) -> PathBuf {
    shared().directory.path().join(name)
}

fn start(arguments: &[&str]) -> Guest {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    Guest::start(&shared().image, &shared().key, &arguments)
}

/// What the stand-in and its containers found.
#[track_caller]
fn all_checks_passed(guest: &Guest) {
    // The last output of a program may come after the news that it has ended.
    let deadline = Instant::now() + Duration::from_secs(30);
    let all_said = |console: &str| console.matches("container checks:").count() >= console.matches(READY).count();
    while !all_said(&guest.console()) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
    }
    let console = guest.console();
    let failed: Vec<&str> = console.lines().filter(|line| line.contains("FAILED")).collect();
    assert!(failed.is_empty(), "{failed:#?}\n{console}");
    assert!(console.contains(" ok, 0 failed"), "{console}");
    assert!(console.contains("container checks: 6 ok, 0 failed"), "{console}");
}

#[track_caller]
fn get(url: &str) -> String {
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
    let mut answer = agent.get(url).call().unwrap_or_else(|error| panic!("{url}: {error}"));
    answer.body_mut().read_to_string().expect("text")
}

#[test]
fn the_appliance_is_configured_observed_reached_watched_and_reset() {
    let metrics = free_port();
    let kubeconfig = disk("kubeconfig");
    let config = file(
        "appliance.yaml",
        &format!(
            "#cloud-config\nhostname: edge-7\nkubesolo:\n  apiserver-extra-sans: [edge-7.example, 192.0.2.7]\n  debug: true\n  \
             portainer-edge-id: edge-id-1\n  portainer-edge-key: edge-key-secret\n  portainer-edge-async: true\n\
             ntp: {{enabled: false}}\nssh_authorized_keys: [{}]\nwrite_files:\n- path: /var/lib/kubesolo/marker\n  content: kept\n  \
             permissions: \"0640\"\n- path: /etc/kubesolo/note\n  content: noted\nruncmd: [reboot]\n",
            shared().public_key
        ),
    );
    let mut guest = start(&[
        "--secure-boot",
        "--config",
        &config,
        "--kubeconfig",
        kubeconfig.to_str().expect("UTF-8"),
        "--forward",
        &format!("{metrics}:9100"),
        "--qemu-arg=-device",
        "--qemu-arg=i6300esb",
    ]);
    let ready = guest.wait_for(READY);
    assert!(ready.contains("secure-boot=on lockdown=integrity boot=1"), "{ready}");
    all_checks_passed(&guest);
    let console = guest.console();
    assert!(!console.contains("edge-key-secret"), "the key is on the console");
    assert!(console.contains("runcmd"), "an unsupported key is said");
    let options = console.lines().find(|line| line.contains("check options: ok")).expect("options are said");
    for part in ["apiserver-extra-sans=[\"edge-7.example\",\"192.0.2.7\"]", "debug=true", "portainer-edge-key=15 bytes"]
    {
        assert!(options.contains(part), "{part}: {options}");
    }

    reached_from_the_host(&kubeconfig);
    observed(&guest, metrics);
    assert_eq!(guest.shell("cat /var/lib/kubesolo/marker /etc/kubesolo/note"), "keptnoted");
    assert!(guest.ssh("echo x > /usr/x").code != 0, "the root can be written");
    // Once the node was ready, no module can be loaded.
    assert_eq!(guest.shell("cat /proc/sys/kernel/modules_disabled"), "1\n");

    // PID 1 makes no progress any more: the hardware restarts the machine.
    guest.shell("rm /etc/kubesolo/note && echo x > /var/lib/kubesolo/state && sync");
    guest.ssh("echo 1 > /sys/fs/cgroup/ksos/init/cgroup.freeze");
    let ready = guest.wait_for(READY);
    assert!(ready.contains("boot=2"), "{ready}");
    all_checks_passed(&guest);
    assert_ne!(guest.ssh("cat /etc/kubesolo/note").code, 0, "a configuration is applied once for an instance");
    assert_eq!(guest.shell("cat /var/lib/kubesolo/state"), "x\n", "state survives a restart");

    // Kubernetes' state goes, the configuration stays, and what it writes is written again.
    guest.ssh("kubesolo-os factory-reset --yes");
    let ready = guest.wait_for(READY);
    assert!(ready.contains("boot=3"), "{ready}");
    assert_ne!(guest.ssh("cat /var/lib/kubesolo/state").code, 0, "Kubernetes' state is gone");
    assert_eq!(guest.shell("cat /var/lib/kubesolo/marker"), "kept");
    assert_eq!(guest.shell("cat /proc/sys/kernel/hostname"), "edge-7\n");
    guest.power_off();
}

/// FEATURES 62 and 63: the kubeconfig works from here.
fn reached_from_the_host(kubeconfig: &Path) {
    for _ in 0..300 {
        if kubeconfig.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let text = fs::read_to_string(kubeconfig).expect("the kubeconfig was fetched");
    let config: serde_json::Value = serde_saphyr::from_str(&text).expect("YAML");
    let data = |value: &serde_json::Value| {
        let text = value.as_str().expect("base64");
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).expect("base64")
    };
    let cluster = &config["clusters"][0]["cluster"];
    let user = &config["users"][0]["user"];
    let directory = kubeconfig.parent().expect("in a directory");
    let pem = |name: &str, bytes: Vec<u8>| {
        let path = directory.join(name);
        fs::write(&path, bytes).expect("written");
        path
    };
    let ca = pem("ca.pem", data(&cluster["certificate-authority-data"]));
    let certificate = pem("admin.pem", data(&user["client-certificate-data"]));
    let key = pem("admin.key", data(&user["client-key-data"]));
    let server = cluster["server"].as_str().expect("an address");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail", "--noproxy", "*", "--cacert"])
        .arg(ca)
        .arg("--cert")
        .arg(certificate)
        .arg("--key")
        .arg(key);
    let outcome = run(curl.arg(format!("{server}/api/v1/nodes"))).expect_code(0);
    assert!(outcome.stdout.contains("\"edge-7\""), "{}", outcome.stdout);
}

/// Health, metrics, status, memory.
fn observed(guest: &Guest, metrics: u16) {
    let health = guest.ssh("kubesolo-os health --json");
    let health: serde_json::Value = serde_json::from_str(&health.stdout).expect("JSON");
    for check in ["engine", "api-server", "node-ready", "disk"] {
        let state = health["checks"].as_array().and_then(|checks| checks.iter().find(|other| other["name"] == check));
        assert_eq!(state.map(|state| state["outcome"].clone()), Some("ok".into()), "{check}: {health:#}");
    }
    let text = get(&format!("http://127.0.0.1:{metrics}/metrics"));
    for name in [
        "kubesolo_os_info{",
        "kubesolo_os_boot_success",
        "kubesolo_os_boot_counter",
        "kubesolo_os_uptime_seconds",
        "kubesolo_os_update_available",
        "kubesolo_os_memory_total_bytes",
        "kubesolo_os_memory_available_bytes",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is missing:\n{text}");
    }
    let mut promtool = Command::new("sh");
    let path = file("metrics.txt", &text);
    // Its one remark is about a name that dashboards know (FEATURES 85).
    let remarks = run(promtool.args(["-c", &format!("promtool check metrics < {path} 2>&1")])).stdout;
    let unexpected: Vec<&str> = remarks.lines().filter(|line| !line.contains("kubesolo_os_boot_counter")).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    let status = guest.ssh("kubesolo-os status").stdout;
    assert!(status.contains("configuration"), "{status}");
    // The OS itself: everything but KubeSolo and what it starts.
    let table = guest.shell(
        "for p in /proc/[0-9]*; do if [ \"$(cat $p/comm)\" = ksos-runtime ]; then \
         grep -E '^(Name|Pid|VmRSS|RssAnon)' $p/status; fi; done; cat /proc/meminfo",
    );
    let rss: u64 = table
        .lines()
        .filter_map(|line| line.strip_prefix("VmRSS:"))
        .filter_map(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .sum();
    assert!(rss > 0 && rss < 40 << 10, "the runtime's processes take {rss} KiB");
}

#[test]
fn a_bad_configuration_leaves_a_node_that_says_so() {
    let config = file("bad.yaml", "hostname: edge-8\nnetwrok:\n  mode: dhcp\nkubesolo:\n  debug: maybe\n");
    let mut guest = start(&["--config", &config]);
    guest.wait_for(READY);
    let console = guest.console();
    assert!(console.contains("ksos: degraded reason="), "{console}");
    assert!(console.contains("2:1"), "the place is named:\n{console}");
    assert!(console.contains("netwrok") && console.contains("5:10"), "every fault is named:\n{console}");
    all_checks_passed(&guest);
}

#[test]
fn without_any_network_the_node_is_ready() {
    let mut guest = start(&["--no-network"]);
    guest.wait_for(READY);
    all_checks_passed(&guest);
    let console = guest.console();
    assert!(console.contains("check default-route: ok (203.0.113.254)"), "{console}");
    assert!(!console.contains("ksos: degraded"), "no network is no fault:\n{console}");
}

/// A NoCloud volume as other tools make it: ISO 9660 with a network configuration; then a full data partition, and one
/// whose superblock is lost.
#[test]
fn static_network_from_an_iso_and_a_data_partition_that_is_full_then_damaged() {
    let seed = disk("seed");
    fs::create_dir_all(&seed).expect("made");
    let user_data = format!("#cloud-config\nhostname: iso-node\nssh_authorized_keys: [{}]\n", shared().public_key);
    fs::write(seed.join("user-data"), user_data).expect("written");
    fs::write(seed.join("meta-data"), "instance-id: iso-1\nlocal-hostname: other\n").expect("written");
    let network = "version: 2\nethernets:\n  lan:\n    match: {name: \"e*\"}\n    addresses: [10.0.2.15/24]\n    gateway4: 10.0.2.2\n    \
                   mtu: 1400\n    nameservers: {addresses: [10.0.2.3], search: [example.org]}\nvlans:\n  lan5:\n    id: 5\n    \
                   link: lan\n    addresses: [192.0.2.1/24]\n";
    fs::write(seed.join("network-config"), network).expect("written");
    let iso = disk("seed.iso");
    let mut xorriso = Command::new("xorriso");
    xorriso.args(["-as", "mkisofs", "-quiet", "-V", "cidata", "-J", "-r", "-o"]).arg(&iso).arg(&seed);
    run(&mut xorriso).expect_code(0);
    let drive = format!("--qemu-arg=if=none,id=iso,format=raw,readonly=on,file={}", iso.display());
    let state = disk("static.img");
    let persist = state.to_str().expect("UTF-8").to_owned();
    let arguments = [
        "--persist",
        &persist,
        "--disk-size",
        "3G",
        "--qemu-arg=-drive",
        &drive,
        "--qemu-arg=-device",
        "--qemu-arg=virtio-blk-pci,drive=iso",
    ];
    let mut guest = start(&arguments);
    guest.wait_for(READY);
    all_checks_passed(&guest);
    let addresses = guest.shell("ip addr");
    for part in ["10.0.2.15/24", "mtu 1400", "lan5", "192.0.2.1/24"] {
        assert!(addresses.contains(part), "{part}:\n{addresses}");
    }
    let resolver = guest.shell("cat /etc/resolv.conf");
    assert!(resolver.contains("nameserver 10.0.2.3") && resolver.contains("search example.org"), "{resolver}");
    assert_eq!(guest.shell("cat /proc/sys/kernel/hostname"), "iso-node\n");

    guest.ssh("dd if=/dev/zero of=/var/lib/kubesolo/fill bs=1M; sync");
    guest.ssh("reboot");
    // KubeSolo cannot start without room; the node says so, and can be reached and helped.
    guest.wait_for("ksos: degraded reason=\"the data partition is full");
    guest.wait_for("service ssh: ready");
    let health = guest.ssh("kubesolo-os health");
    assert!(health.code != 0 && health.stdout.contains("disk"), "{}", health.stdout);
    guest.shell("rm /var/lib/kubesolo/fill && sync");
    guest.power_off();

    // The primary superblock is gone; its copies are not.
    let disk = OpenOptions::new().write(true).open(&state).expect("the disk is there");
    disk.write_all_at(&[0xff; 1024], data_offset(&state) + 1024).expect("written");
    drop(disk);
    let mut guest = start(&arguments);
    let ready = guest.wait_for(READY);
    assert!(ready.contains("boot=3"), "the data was kept: {ready}\n{}", guest.console());
    assert!(guest.console().contains("repaired"), "{}", guest.console());
}

/// Returns where the data partition starts on a disk, in bytes.
fn data_offset(disk: &Path) -> u64 {
    let outcome = run(Command::new("sgdisk").args(["-i", "4"]).arg(disk)).expect_code(0);
    let line =
        outcome.stdout.lines().find(|line| line.starts_with("First sector:")).expect("sgdisk tells it").to_owned();
    line.split_whitespace().nth(2).and_then(|text| text.parse::<u64>().ok()).expect("a number") * 512
}

#[test]
fn a_clone_of_the_disk_stops_the_boot_with_both_named() {
    let drive = format!("--qemu-arg=if=none,id=twin,format=raw,readonly=on,file={}", shared().image.display());
    let mut guest = start(&["--qemu-arg=-drive", &drive, "--qemu-arg=-device", "--qemu-arg=virtio-blk-pci,drive=twin"]);
    let line = guest.wait_for("ksos: emergency reason=");
    assert!(line.contains("several disks") && line.contains("vda") && line.contains("vdb"), "{line}");
}

/// Passes its standard input to a port of this host, and what comes back to its standard output.
const RELAY: &str = r#"
import os, select, socket, sys
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while True:
    ready, _, _ = select.select([0, peer], [], [])
    for source in ready:
        data = os.read(0, 65536) if source == 0 else peer.recv(65536)
        if not data:
            sys.exit()
        peer.sendall(data) if source == 0 else os.write(1, data)
"#;

/// EC2's instance metadata service, version 2, at its own address on the virtual network.
#[test]
fn ec2_user_data_needs_a_token_and_is_applied() {
    let server = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = server.local_addr().expect("it is bound").port();
    let user_data = format!("#cloud-config\nhostname: ec2-node\nssh_authorized_keys: [{}]\n", shared().public_key);
    std::thread::spawn(move || metadata_service(&server, &user_data));
    // QEMU starts the program once for each connection of the guest.
    let relay = file("relay.py", RELAY);
    let network = format!(
        "--qemu-arg=user,id=imds,net=169.254.169.0/24,host=169.254.169.2,dns=169.254.169.3,dhcpstart=169.254.169.15,\
         guestfwd=tcp:169.254.169.254:80-cmd:python3 {relay} {port}"
    );
    let mut guest = start(&[
        "--no-network",
        "--qemu-arg=-netdev",
        &network,
        "--qemu-arg=-device",
        "--qemu-arg=virtio-net-pci,netdev=imds,romfile=",
        "--qemu-arg=-smbios",
        "--qemu-arg=type=1,manufacturer=Amazon EC2",
    ]);
    guest.wait_for(READY);
    let console = guest.console();
    assert!(console.contains("i-0123456789abcdef0"), "the instance is named:\n{console}");
    all_checks_passed(&guest);
    assert!(console.contains("check identity: ok (ec2-node)"), "{console}");
}

fn metadata_service(server: &TcpListener, user_data: &str) {
    for stream in server.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut head = [0; 4096];
        let length = stream.read(&mut head).unwrap_or(0);
        let head = String::from_utf8_lossy(&head[..length]).to_lowercase();
        let authorised = head.contains("x-aws-ec2-metadata-token: token-1");
        let body = match head.split(' ').nth(1) {
            Some("/latest/api/token") if head.starts_with("put ") && head.contains("token-ttl-seconds") => {
                Some("token-1")
            }
            Some("/latest/user-data") if authorised => Some(user_data),
            Some("/latest/meta-data/instance-id") if authorised => Some("i-0123456789abcdef0"),
            Some("/latest/meta-data/local-hostname") if authorised => Some("ip-192-0-2-1.internal"),
            _ => None,
        };
        let status = match (body, authorised || head.starts_with("put ")) {
            (Some(_), _) => "200 OK",
            (None, true) => "404 Not Found",
            (None, false) => "401 Unauthorized",
        };
        let body = body.unwrap_or_default();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        let _ = stream.write_all(answer.as_bytes());
    }
}
