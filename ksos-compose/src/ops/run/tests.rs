#![expect(clippy::disallowed_methods, reason = "puts a script in the place of QEMU")]

use std::path::Path;

use super::firmware::{Firmware, Format};
use super::*;

fn firmware() -> Firmware {
    Firmware { code: "/fw/code.fd".into(), variables: "/fw/vars.fd".into(), format: Format::Raw }
}

fn line(change: impl FnOnce(&mut arguments::Machine<'_>)) -> String {
    let firmware = firmware();
    let mut machine = arguments::Machine {
        arch: Arch::X86_64,
        accelerator: Accelerator::Tcg,
        firmware: Some(&firmware),
        variables: Path::new("/t/vars"),
        medium: None,
        disk: Some(Path::new("/t/a,b.img")),
        monitor: Path::new("/t/qmp"),
        seed: None,
        memory: 512 << 20,
        processors: 2,
        secure_boot: false,
        forwards: &[Forward { host: 8080, guest: 80 }, Forward { host: 6443, guest: 6443 }],
        network: true,
        extra: &[],
        interactive: false,
    };
    change(&mut machine);
    arguments::arguments(&machine).unwrap().join(" ")
}

#[test]
fn the_command_line_of_an_emulated_machine() {
    assert_eq!(
        line(|_| {}),
        "-accel tcg,thread=multi,tb-size=32 -machine q35,smm=off -cpu max,la57=off -smp 1 -m 512M -nodefaults -display none \
         -drive if=pflash,unit=0,format=raw,readonly=on,file=/fw/code.fd \
         -drive if=pflash,unit=1,format=raw,file=/t/vars \
         -drive if=none,id=disk,format=raw,cache=unsafe,discard=unmap,file=/t/a,,b.img \
         -device virtio-blk-pci,drive=disk,bootindex=1 \
         -netdev user,id=net,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=tcp:127.0.0.1:6443-:6443 \
         -device virtio-net-pci,netdev=net,romfile= -device virtio-rng-pci \
         -chardev stdio,id=serial,signal=off -serial chardev:serial -qmp unix:/t/qmp,server=on,wait=off"
    );
}

#[test]
fn an_iso_image_is_a_cd_or_a_stick_and_comes_before_the_disk() {
    let iso = Path::new("/t/os.iso");
    let cd = line(|machine| (machine.medium, machine.disk, machine.firmware) = (Some((iso, Medium::Cd)), None, None));
    let expected = "-device VGA -drive if=none,id=medium,format=raw,readonly=on,media=cdrom,file=/t/os.iso \
                    -device ide-cd,drive=medium,bootindex=1 -netdev";
    assert!(cd.contains(expected) && !cd.contains("pflash"), "{cd}");
    let usb = line(|machine| machine.medium = Some((iso, Medium::Usb)));
    let expected =
        "-device qemu-xhci -device usb-storage,drive=medium,removable=on,bootindex=1 -drive if=none,id=disk,";
    assert!(usb.contains(expected) && usb.contains("-device virtio-blk-pci,drive=disk,bootindex=2"), "{usb}");
    let arm = line(|machine| (machine.medium, machine.arch) = (Some((iso, Medium::Cd)), Arch::Arm64));
    assert!(arm.contains("-device virtio-scsi-pci -device scsi-cd,drive=medium,bootindex=1"), "{arm}");
}

#[test]
fn the_command_line_follows_the_options() {
    let secure = line(|machine| machine.secure_boot = true);
    assert!(secure.contains("-machine q35,smm=on") && secure.contains("property=secure,value=on"), "{secure}");
    let kvm = line(|machine| machine.accelerator = Accelerator::Kvm);
    assert!(kvm.starts_with("-accel kvm -machine q35,smm=off -cpu host "), "{kvm}");
    let arm = line(|machine| {
        machine.arch = Arch::Arm64;
        machine.secure_boot = true;
    });
    assert!(arm.starts_with("-accel tcg,thread=multi,tb-size=32 -machine virt -cpu cortex-a72 "), "{arm}");
    assert!(!arm.contains("-global"), "{arm}");
    let interactive = line(|machine| machine.interactive = true);
    assert!(interactive.contains("mux=on,signal=off -mon chardev=serial,mode=readline"), "{interactive}");
}

#[test]
fn forwards_are_parsed_strictly() {
    assert_eq!("8080:80".parse(), Ok(Forward { host: 8080, guest: 80 }));
    for text in ["", "80", "80:", ":80", "0:1", "1:0", "65536:1", "1:2:3", "a:b", "1:-2", "1:2,x"] {
        assert!(text.parse::<Forward>().is_err(), "{text}");
    }
}

#[test]
fn firmware_is_found_as_a_pair_or_names_its_package() {
    let debian = |path: &Path| path.starts_with("/usr/share/OVMF") || path.starts_with("/usr/share/AAVMF");
    let find = |arch, secure| firmware::find(arch, secure, &debian).unwrap();
    assert_eq!(find(Arch::X86_64, true).code, Path::new("/usr/share/OVMF/OVMF_CODE_4M.ms.fd"));
    assert_eq!(find(Arch::X86_64, false).variables, Path::new("/usr/share/OVMF/OVMF_VARS_4M.fd"));
    assert_eq!(find(Arch::Arm64, true).code, Path::new("/usr/share/AAVMF/AAVMF_CODE.ms.fd"));
    let fedora = |path: &Path| path.extension().is_some_and(|extension| extension == "qcow2");
    assert_eq!(firmware::find(Arch::X86_64, true, &fedora).unwrap().format, Format::Qcow2);
    let code_only = |path: &Path| path.to_string_lossy().contains("CODE");
    let error = firmware::find(Arch::X86_64, true, &code_only).unwrap_err().to_string();
    for part in ["Microsoft's Secure Boot keys", "package ovmf (Debian", "edk2-ovmf (Fedora)", "OVMF_CODE_4M.ms.fd"] {
        assert!(error.contains(part), "{error}");
    }
    let error = firmware::find(Arch::Arm64, false, &|_| false).unwrap_err().to_string();
    assert!(error.contains("qemu-efi-aarch64") && error.contains("qemu (Homebrew)"), "{error}");
}

#[test]
fn a_missing_qemu_names_its_packages() {
    let options = RunOptions::new(Arch::Arm64, "/nowhere:relative".into());
    let error = set_up(&options).unwrap_err().to_string();
    assert_eq!(
        error,
        "qemu-system-aarch64 is not in PATH; it is in package qemu-system-arm (Debian, Ubuntu), \
         qemu-system-aarch64-core (Fedora) or qemu (Homebrew)"
    );
}

#[test]
fn serial_lines_become_events() {
    let mut watcher = Watcher::default();
    let fields = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    let mut feed = |text: &str| {
        // One byte at a time: pieces end anywhere.
        text.bytes().flat_map(|byte| watcher.feed(&[byte])).collect::<Vec<_>>()
    };
    let ready = fields(&[("name", "x"), ("slot", "a"), ("note", "a \"b\" \\ c"), ("uptime", "5.3")]);
    assert_eq!(
        feed("ksos: ready name=x slot=a flag note=\"a \\\"b\\\" \\\\ c\" uptime=5.3\r\n"),
        [Event::Ready(ready)]
    );
    assert_eq!(feed("\u{1b}[2J\u{1b}[1;1Hksos: degraded reason=\"no data\"\r\n"), [Event::Degraded("no data".into())]);
    assert_eq!(feed("ksos: emergency no root\n"), [Event::Emergency("no root".into())]);
    assert_eq!(feed("ksos: ready\n"), [Event::Ready(Vec::new())]);
    assert_eq!(
        feed("[    1.5] Kernel panic - not syncing: VFS\n"),
        [Event::Panic("Kernel panic - not syncing: VFS".into())]
    );
    assert_eq!(
        feed("BdsDxe: No bootable option or device was found.\n"),
        [Event::NoBoot("BdsDxe: No bootable option or device was found.".into())]
    );
    assert_eq!(
        feed("ksos: no system slot boots; restarting in 30 seconds\n"),
        [Event::NoBoot("no system slot boots; restarting in 30 seconds".into())]
    );
    // Neither a service's output nor a longer word is the runtime's line; an endless line stays bounded.
    assert_eq!(feed("[web] ksos: ready\nksos: readymade\nsay ksos: ready\n\n"), []);
    assert_eq!(feed(&"x".repeat(100_000)), []);
    assert_eq!(feed("\nksos: stage 10\nlogin: "), []);
    assert_eq!(watcher.last_line(), "login:");
}

#[test]
fn only_what_was_waited_for_is_a_success() {
    let ready = Outcome::Ready { fields: vec![("slot".into(), "a".into())], degraded: vec!["x".into()] };
    assert!(ready.is_success(&Until::Ready, false));
    assert!(!ready.is_success(&Until::Ready, true), "ready, but not with Secure Boot");
    assert_eq!(ready.to_string(), "ready slot=a; degraded: x");
    let off = Outcome::QemuExit { status: Some(0), message: String::new() };
    assert!(off.is_success(&Until::Exit, false) && !off.is_success(&Until::Ready, false));
    let timeout =
        Outcome::Timeout { after: Duration::from_secs(9), last_line: "EFI stub".into(), degraded: Vec::new() };
    assert_eq!(timeout.to_string(), "not ready after 9 s; the last line was: EFI stub");
    assert!(!timeout.is_success(&Until::Exit, false));
}

/// Puts a shell script in the place of QEMU: what it prints is the serial console.
/// Writes a script that is called as QEMU is.
fn fake_program(directory: &Path, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let program = directory.join("qemu-system-x86_64");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

fn run_fake(script: &str, change: impl FnOnce(&mut RunOptions)) -> (Result<Outcome, RunError>, String) {
    let directory = tempfile::tempdir().unwrap();
    let program = fake_program(directory.path(), script);
    assert_eq!(find_program("qemu-system-x86_64", directory.path().as_os_str()), Some(program.clone()));
    let image = directory.path().join("image");
    std::fs::write(&image, "image").unwrap();
    std::fs::write(directory.path().join("vars"), "vars").unwrap();
    let mut options = RunOptions::new(Arch::X86_64, directory.path().into());
    options.temporary = Some(directory.path().to_owned());
    change(&mut options);
    let firmware = Firmware { variables: directory.path().join("vars"), ..firmware() };
    let setup = Setup { program, firmware: Some(firmware), accelerator: Accelerator::Tcg, reason: None };
    let mut serial = Vec::new();
    let outcome = run(&image, &options, &setup, &mut serial);
    let size = if options.persist { options.disk_size } else { 5 };
    assert_eq!(std::fs::metadata(&image).unwrap().len(), size);
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    (outcome, String::from_utf8(serial).unwrap())
}

#[test]
fn a_ready_line_ends_the_run() {
    let script = "echo hello; echo 'ksos: degraded reason=\"slow\"'; echo 'ksos: ready slot=b'; exec sleep 60";
    let (outcome, serial) = run_fake(script, |options| options.until = Until::Ready);
    assert_eq!(
        outcome.unwrap(),
        Outcome::Ready { fields: vec![("slot".into(), "b".into())], degraded: vec!["slow".into()] }
    );
    assert!(serial.starts_with("hello\nksos: degraded"), "{serial}");
}

#[test]
fn without_waiting_qemu_runs_to_its_end() {
    let (outcome, serial) = run_fake("echo 'ksos: ready'; echo oops >&2; exit 3", |_| {});
    assert_eq!(outcome.unwrap(), Outcome::QemuExit { status: Some(3), message: "oops".into() });
    assert_eq!(serial, "ksos: ready\n");
}

#[test]
fn a_silent_guest_times_out_with_its_last_line() {
    let timeout = Duration::from_millis(400);
    let (outcome, _) = run_fake("printf 'one\\ntwo'; exec sleep 60", |options| options.timeout = Some(timeout));
    assert_eq!(outcome.unwrap(), Outcome::Timeout { after: timeout, last_line: "two".into(), degraded: Vec::new() });
}

#[test]
fn a_kept_disk_grows_in_place() {
    let (outcome, _) = run_fake("echo 'ksos: emergency reason=\"x\"'; exec sleep 60", |options| {
        options.until = Until::Ready;
        options.persist = true;
        options.disk_size = 1 << 20;
    });
    assert_eq!(outcome.unwrap(), Outcome::Emergency { reason: "x".into() });
}

/// What an accelerator has to run, on the one that always works.
#[test]
fn the_programs_of_a_trial_run_and_end() {
    let search_path = std::env::var_os("PATH").unwrap();
    for (arch, name) in [(Arch::X86_64, "qemu-system-x86_64"), (Arch::Arm64, "qemu-system-aarch64")] {
        let Some(program) = find_program(name, &search_path) else {
            assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "{name} is missing");
            println!("skipped: {name} is not installed");
            continue;
        };
        for secure_boot in [false, true] {
            assert_eq!(machine::works(&program, arch, secure_boot, Accelerator::Tcg), Ok(()), "{arch}");
        }
    }
    let fails = |script: &str| {
        let directory = tempfile::tempdir().unwrap();
        let program = fake_program(directory.path(), script);
        machine::works(&program, Arch::X86_64, false, Accelerator::Tcg).unwrap_err()
    };
    assert_eq!(fails("echo 'KVM internal error. Suberror: 1' >&2; exec sleep 60"), "KVM internal error. Suberror: 1");
    assert_eq!(fails("exec sleep 60"), "a machine does not run in 5 s");
    assert_eq!(fails("exit 0"), "exit status: 0");
}

/// Boots the disk image `KSOS_TEST_IMAGE` (whose kernel powers off by itself) in the real QEMU, when it is set.
#[test]
fn a_real_image_boots_and_powers_off() {
    let Some(image) = std::env::var_os("KSOS_TEST_IMAGE") else {
        println!("skipped: KSOS_TEST_IMAGE does not name a disk image");
        return;
    };
    let arch = std::env::var("KSOS_TEST_ARCH").unwrap_or("x86_64".to_owned()).parse().unwrap();
    let mut options = RunOptions::new(arch, std::env::var_os("PATH").unwrap());
    options.secure_boot = true;
    options.memory = 512 << 20;
    options.timeout = Some(Duration::from_secs(150));
    let setup = set_up(&options).unwrap();
    println!("{setup:?}");
    let start = std::time::Instant::now();
    let mut serial = Vec::new();
    let outcome = run(Path::new(&image), &options, &setup, &mut serial).unwrap();
    println!("{:?} {outcome}\n{}", start.elapsed(), String::from_utf8_lossy(&serial));
    assert!(outcome.is_success(&Until::Exit, false), "{outcome}");
    assert!(String::from_utf8_lossy(&serial).contains("secureboot: Secure boot enabled"));
}
