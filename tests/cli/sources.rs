//! Kernels that are built, Tiny Core bases, and files for boards: whole builds with stand-ins for what is far away or slow.
#![expect(clippy::print_stderr, reason = "tests tell what they skip")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use ksos_tests::{repository, run, runtime};

use super::Project;

fn tool(name: &str) -> bool {
    let found = run(Command::new("sh").args(["-c", &format!("command -v {name}")])).code == 0;
    assert!(found || std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "{name} is not installed");
    if !found {
        eprintln!("skipped: {name} is not installed");
    }
    found
}

/// Serves a directory on loopback until the tests end, and returns its address.
pub(super) fn serve(root: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let root = root.clone();
            std::thread::spawn(move || answer(stream, &root));
        }
    });
    format!("http://{address}")
}

fn answer(mut stream: TcpStream, root: &Path) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    for line in reader.lines().map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1)?.trim_start_matches('/').to_owned();
    let (status, body) = match fs::read(root.join(path)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len()).ok()?;
    stream.write_all(&body).ok()
}

#[test]
fn a_tiny_core_base_becomes_an_image() {
    let project = Project::new();
    let server = serve(repository().join("tests/fixtures/tinycore"));
    project.edit("examples/tinycore-node.toml", "http://tinycorelinux.net/15.x/x86_64", &server);
    // KubeSolo's release is far away, too: any static program stands for it.
    let kubesolo = project.path.join("kubesolo");
    fs::copy(runtime(), &kubesolo).unwrap();
    let build = |options: &[&str]| {
        let mut command = project.command("build", "examples/tinycore-node.toml");
        command.arg("--component").arg(format!("kubesolo={}", kubesolo.display())).args(options);
        run(&mut command)
    };
    let outcome = build(&[]).expect_code(0);
    for text in [
        "7 files of http://127.0.0.1:",
        "have no signature",
        "nobody runs what is in /usr/local/tce.installed: iptables",
    ] {
        assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
    }
    let lock = fs::read_to_string(project.path.join("examples/tinycore-node.lock")).unwrap();
    for text in [
        "source = \"tinycore\"",
        "{ name = \"corepure64.gz\", path = \"release/distribution_files/corepure64.gz\", size = ",
        "path = \"tcz/ipv6-netfilter-6.6.8-tinycore64.tcz\"",
        "version = \"1.8.10\", license = \"GPLv2\" }",
    ] {
        assert!(lock.contains(text), "no {text:?} in {lock}");
    }
    assert!(project.path.join("out/tinycore-node-0.1.0-x86_64.img").exists());
    // What is locked and in the cache needs no mirror.
    project.edit("examples/tinycore-node.toml", &server, &server.replace("127.0.0.1", "127.0.0.2"));
    let outcome = build(&["--locked"]).expect_code(1);
    assert!(outcome.stderr.contains("component base is not what the manifest asks for now"), "{}", outcome.stderr);
    project.edit("examples/tinycore-node.toml", "127.0.0.2", "127.0.0.1");
    build(&["--frozen", "--fresh"]).expect_code(0);

    project.edit("examples/tinycore-node.toml", "\"nftables\"", "\"nftable\"");
    let outcome = build(&[]).expect_code(3);
    assert!(outcome.stderr.contains("the nearest name is nftables.tcz"), "{}", outcome.stderr);
}

/// What the kernel's `Makefile` answers, in small: see `ksos-compose/src/source/kernel/tests.rs`.
const MAKEFILE: &str = "VERSION = 6\n\
tinyconfig:\n\t@echo CONFIG_BASE=y > .config\n\
olddefconfig:\n\t@grep -v LOST_ .config > .new; mv .new .config\n\
\t@mkdir -p include/config; echo 6.0.0-fake > include/config/kernel.release\n\
bzImage:\n\t@mkdir -p arch/x86/boot; echo image > arch/x86/boot/bzImage\n\
\t@for name in squashfs loop dm-verity br_netfilter; do echo kernel/$$name.ko; done > modules.builtin\n";

/// A project whose example has a kernel from that source, and tools that need not be installed.
fn kernel_project() -> (Project, PathBuf) {
    let project = Project::new();
    let source = project.path.join("linux");
    fs::create_dir(&source).unwrap();
    // No earlier run has built this one.
    fs::write(source.join("Makefile"), format!("# {}\n{MAKEFILE}", project.path.display())).unwrap();
    fs::write(source.join("Kconfig"), "config LOST_A\n\tdepends on NET\n").unwrap();
    fs::write(project.path.join("own.config"), "CONFIG_OWN=y\n").unwrap();
    let manifest = "extends = \"containerd-node.toml\"\n[components.linux]\nsource = \"file\"\npath = \"../linux\"\n\
                    into = \"none\"\n[components.kernel]\nsource = \"kernel\"\nfrom = \"linux\"\nbase = \"tinyconfig\"\n\
                    config = [\"../own.config\"]\n[kernel]\nmodules = []\nload = []\ninitramfs-modules = [\"squashfs\"]\n\
                    initramfs-drivers = []\nrequired-options-files = []\nrequired-options = [\"OWN=y\"]\n";
    fs::write(project.path.join("examples/kernel.toml"), manifest).unwrap();
    let tools = project.path.join("tools");
    fs::create_dir(&tools).unwrap();
    for name in ["make", "grep", "mv", "mkdir"] {
        let found = run(Command::new("sh").args(["-c", &format!("command -v {name}")])).stdout;
        symlink(found.trim(), tools.join(name)).unwrap();
    }
    for name in ["gcc", "ld", "flex", "bison", "bc"] {
        fs::write(tools.join(name), "#!/bin/sh\necho 1\n").unwrap();
        fs::set_permissions(tools.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    (project, tools)
}

#[test]
fn a_kernel_is_built_once_and_then_taken_from_the_cache() {
    if !tool("make") {
        return;
    }
    let (project, tools) = kernel_project();
    let compose = |verb: &str| {
        let mut command = project.command(verb, "examples/kernel.toml");
        run(command.env("PATH", &tools))
    };
    let outcome = compose("check").expect_code(0);
    assert!(outcome.stderr.contains("is not signed: Secure Boot refuses it"), "{}", outcome.stderr);
    let outcome = compose("build").expect_code(0);
    for text in ["is not signed: Secure Boot refuses it", "component kernel: kernel 6.0.0-fake built in "] {
        assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
    }
    // Another requirement does not build it again, another option does.
    project.edit("examples/kernel.toml", "\"OWN=y\"", "\"OWN\"");
    let outcome = compose("build").expect_code(0);
    assert!(!outcome.stderr.contains("built in"), "{}", outcome.stderr);
    fs::write(project.path.join("own.config"), "CONFIG_OWN=m\n").unwrap();
    let outcome = compose("explain").expect_code(0);
    assert!(outcome.stdout.contains("kernel kernel: parameter fragments changed"), "{}", outcome.stdout);

    fs::write(project.path.join("own.config"), "# mine\nCONFIG_LOST_A=y\n").unwrap();
    let outcome = compose("build").expect_code(1);
    let lost = "../own.config:2: CONFIG_LOST_A=y became not set (Kconfig:1: depends on NET)";
    assert!(outcome.stderr.contains(lost), "{}", outcome.stderr);
    fs::write(project.path.join("own.config"), "CONFIG_LOST_A\n").unwrap();
    let outcome = compose("build").expect_code(1);
    assert!(outcome.stderr.contains("../own.config:1: \"CONFIG_LOST_A\" is not a kernel option"), "{}", outcome.stderr);
    fs::write(project.path.join("own.config"), "CONFIG_OTHER=y\n").unwrap();
    fs::remove_file(tools.join("flex")).unwrap();
    let outcome = compose("build").expect_code(1);
    assert!(outcome.stderr.contains("building a kernel needs what is not installed: flex"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("apt-get install flex"), "{}", outcome.stderr);
}

/// The card's layout: what the board reads first, then what every arm64 machine reads. Programs and firmware are stand-ins.
#[test]
fn the_manifest_for_the_raspberry_pi_becomes_a_card_with_all_that_the_board_reads() {
    if !tool("mcopy") {
        return;
    }
    let project = Project::new();
    project.compress_nothing();
    // A static program that says it is for arm64 (ELF: e_machine 183); nothing runs it.
    let mut program = ksos_tests::program("x\n");
    program[18] = 183;
    let mut command = ksos_tests::compose(&project.path);
    command.args(["build", "manifests/arm64-rpi.toml"]);
    for name in ["runtime", "kubesolo"] {
        fs::write(project.path.join(name), &program).unwrap();
        command.arg("--component").arg(format!("{name}={name}"));
    }
    let firmware = project.path.join("rpi-firmware");
    fs::create_dir_all(firmware.join("overlays")).unwrap();
    for name in ["RPI_EFI.fd", "start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb", "overlays/miniuart-bt.dtbo"] {
        fs::write(firmware.join(name), format!("stand-in for {name}")).unwrap();
    }
    let outcome = run(command.args(["--component", "rpi-firmware=rpi-firmware"])).expect_code(0);
    let image = project.path.join(outcome.stdout.lines().find(|line| line.ends_with("-arm64.img")).unwrap());
    let place = format!("{}@@1M", image.display());
    let read =
        |name: &str| run(Command::new("mtype").args(["-i", &place]).arg(format!("::{name}"))).expect_code(0).stdout;
    for name in ["RPI_EFI.fd", "start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb", "overlays/miniuart-bt.dtbo"] {
        assert_eq!(read(name), format!("stand-in for {name}"));
    }
    let config = read("config.txt");
    for line in ["arm_64bit=1", "armstub=RPI_EFI.fd"] {
        assert!(config.lines().any(|found| found == line), "{line}: {config}");
    }
    assert!(read("EFI/debian/grub.cfg").contains("menuentry"));
    let listed =
        run(Command::new("mdir").args(["-i", &place, "-b", "::EFI/BOOT"])).expect_code(0).stdout.to_lowercase();
    assert!(listed.contains("bootaa64.efi"), "{listed}");
    let json = run(ksos_tests::compose(&project.path).arg("inspect").arg(&image).arg("--json")).expect_code(0).stdout;
    let found: serde_json::Value = serde_json::from_str(&json).unwrap();
    let labels: Vec<_> =
        found["partitions"].as_array().unwrap().iter().map(|one| one["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["KSOSEFI", "KSOSSYSA", "KSOSSYSB", "KSOLODATA"], "{found:#}");
    assert_eq!(
        (&found["systems"][0]["name"], &found["systems"][0]["arch"]),
        (&"kubesolo-os-rpi".into(), &"arm64".into())
    );
}

#[test]
fn what_a_board_reads_lies_beside_the_boot_loader() {
    if !tool("mcopy") {
        return;
    }
    let project = Project::new();
    let firmware = project.path.join("board/overlays");
    fs::create_dir_all(&firmware).unwrap();
    fs::write(firmware.join("miniuart-bt.dtbo"), "overlay").unwrap();
    fs::copy(project.path.join("firmware/rpi/config.txt"), project.path.join("board/config.txt")).unwrap();
    let manifest = "extends = \"containerd-node.toml\"\n[components.board]\nsource = \"file\"\npath = \"../board\"\n\
                    into = \"none\"\n[boot]\nfiles = [\"board\"]\n";
    fs::write(project.path.join("examples/board.toml"), manifest).unwrap();
    run(&mut project.command("build", "examples/board.toml")).expect_code(0);
    let image = project.path.join("out/containerd-node-0.1.0-x86_64.img");
    let read = |name: &str| {
        run(Command::new("mtype").arg("-i").arg(format!("{}@@1M", image.display())).arg(format!("::{name}")))
            .expect_code(0)
            .stdout
    };
    assert!(read("config.txt").contains("armstub=RPI_EFI.fd"));
    assert_eq!(read("overlays/miniuart-bt.dtbo"), "overlay");
    assert!(read("EFI/debian/grub.cfg").contains("menuentry"));

    let efi = project.path.join("board/efi/boot");
    fs::create_dir_all(&efi).unwrap();
    fs::write(efi.join("bootx64.efi"), "not shim").unwrap();
    let outcome = run(&mut project.command("build", "examples/board.toml")).expect_code(1);
    assert!(outcome.stderr.contains("component board has /efi/boot/bootx64.efi"), "{}", outcome.stderr);
}
