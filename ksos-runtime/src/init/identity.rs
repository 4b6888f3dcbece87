//! Stage 40: who the node is: clock, boot count, machine-id, host name, firmware facts; the loopback interface.

use crate::network::clock_path;
use crate::sys::{FileKind, MountFlags, Sys, read_line};

use super::node::Node;
use super::{Error, mounts, reserve};

/// The machine-id of the running node (machine-id(5)).
const MACHINE_ID: &str = "/run/ksos/machine-id";
/// The UEFI variable that tells whether Secure Boot is enforced (UEFI 2.10, section 3.3): four bytes of attributes,
/// one of value.
const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// What the boot loader and the EFI stub tell an x86 kernel (kernel `Documentation/arch/x86/zero-page.rst`).
const BOOT_PARAMETERS: &str = "/sys/kernel/boot_params/data";
/// Where in it is what the EFI stub has read about Secure Boot (`secure_boot`; kernel `include/linux/efi.h`, `enum
/// efi_secureboot_mode`: 2 is disabled, by the firmware or for shim by its user, 3 enabled).
const SECURE_BOOT_MODE: usize = 0x1ec;

/// Sets everything up; returns a summary.
pub(super) fn set_up(node: &mut Node<'_>) -> Result<String, Error> {
    let sys = node.sys;
    node.secure_boot = secure_boot(sys);
    node.lockdown = lockdown(sys);
    let mut failures = Vec::new();
    let mut note = |result: Result<(), Error>| failures.extend(result.err().map(|error| error.to_string()));
    note(set_clock(node));
    note(sys.disable_ctrl_alt_del().map_err(Error::from));
    note(sys.set_hostname(&node.config.hostname).map_err(Error::from));
    note(sys.loopback_up().map_err(Error::from));
    note(count_boot(node));
    note(set_machine_id(node));
    Error::unless_empty(failures)?;
    Ok(format!("{}, boot {}, secure boot {}", node.config.hostname, node.boot, node.secure_boot))
}

/// Moves the clock forward to the image's build time, or to the time that a time server told last (the network process
/// keeps it), whichever is later: TLS and expiry dates need a clock that is not decades behind, and not every board has a
/// battery. Nothing else counts: a hardware clock that is in the future once must not move all later boots there.
fn set_clock(node: &Node<'_>) -> Result<(), Error> {
    let told = read_line(node.sys, &clock_path(&node.data.path)).and_then(|text| text.parse::<u64>().ok());
    let bound = node.config.image.epoch.max(told.unwrap_or(0));
    if node.sys.wall_clock() < bound {
        node.sys.set_wall_clock(bound)?;
    }
    Ok(())
}

fn boot_count_path(node: &Node<'_>) -> String {
    format!("{}/ksos/boot-count", node.data.path)
}

fn count_boot(node: &mut Node<'_>) -> Result<(), Error> {
    let path = boot_count_path(node);
    let before = read_line(node.sys, &path).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    node.boot = before.saturating_add(1);
    node.sys.make_directory(&format!("{}/ksos", node.data.path), 0o755)?;
    // A boot that a power cut ends within seconds need not count.
    Ok(reserve::replace_soon(node.sys, &node.data.path, &path, format!("{}\n", node.boot).as_bytes(), 0o644)?)
}

/// Takes the machine-id from the data partition, or makes one, and shows it as `/etc/machine-id`.
fn set_machine_id(node: &Node<'_>) -> Result<(), Error> {
    let sys = node.sys;
    let kept = format!("{}/ksos/machine-id", node.data.path);
    let (id, saved) = match read_line(sys, &kept).filter(|text| is_machine_id(text)) {
        Some(id) => (id, Ok(())),
        None => {
            let id = new_machine_id(sys)?;
            let saved = reserve::replace(sys, &node.data.path, &kept, format!("{id}\n").as_bytes(), 0o444);
            (id, saved)
        }
    };
    sys.replace(MACHINE_ID, format!("{id}\n").as_bytes(), 0o444)?;
    if sys.kind("/etc/machine-id") == Some(FileKind::File) && !sys.is_link("/etc/machine-id") {
        sys.bind(MACHINE_ID, "/etc/machine-id")?;
        let strict = MountFlags { read_only: true, no_suid: true, no_dev: true, no_exec: true, no_atime: false };
        sys.set_mount_flags("/etc/machine-id", strict)?;
    }
    // One that cannot be kept serves for this boot.
    Ok(saved?)
}

fn is_machine_id(text: &str) -> bool {
    text.len() == 32
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && text.bytes().any(|byte| byte != b'0')
}

/// "The machine ID ... may also be used as a UUID": version 4, variant DCE (machine-id(5)).
fn new_machine_id(sys: &dyn Sys) -> Result<String, Error> {
    let mut bytes = [0; 16];
    sys.random(&mut bytes)?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn secure_boot(sys: &dyn Sys) -> &'static str {
    // The kernel knows; not every architecture tells.
    let parameters = sys.read(BOOT_PARAMETERS, 1 << 16).unwrap_or_default();
    match parameters.get(SECURE_BOOT_MODE) {
        Some(2) => return "off",
        Some(3) => return "on",
        _ => mounts::mount_variables(sys),
    }
    match sys.read(SECURE_BOOT, 64).as_deref() {
        Ok([_, _, _, _, 1]) => "on",
        Ok([_, _, _, _, 0]) => "off",
        // Without UEFI, or without the variable although variables can be read, there is no Secure Boot.
        Err(error) if error.is_not_found() && efi_variables_known(sys) => "off",
        _ => "unknown",
    }
}

fn efi_variables_known(sys: &dyn Sys) -> bool {
    sys.kind("/sys/firmware/efi").is_none() || sys.list(mounts::VARIABLES).is_ok_and(|names| !names.is_empty())
}

/// Returns the word in brackets in `none [integrity] confidentiality`.
fn lockdown(sys: &dyn Sys) -> String {
    let text = read_line(sys, "/sys/kernel/security/lockdown").unwrap_or_default();
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    chosen.map_or("unknown", |(word, _)| word).to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::node;
    use super::*;
    use crate::sys::double::Double;

    #[test]
    fn machine_id_and_boot_count_persist() {
        let sys = Double::new();
        sys.put("/run/ksos/x", "");
        sys.put("/etc/machine-id", "uninitialized\n");
        let mut first = node(&sys);
        set_up(&mut first).expect("works");
        let id = sys.text("/data/ksos/machine-id");
        assert_eq!(id, "5a5a5a5a5a5a4a5a9a5a5a5a5a5a5a5a\n");
        assert_eq!((sys.text("/run/ksos/machine-id"), first.boot), (id, 1));
        assert_eq!(sys.calls_of("bind"), ["bind /run/ksos/machine-id /etc/machine-id"]);
        sys.put("/data/ksos/machine-id", "0123456789abcdef0123456789abcdef");
        let mut second = node(&sys);
        set_up(&mut second).expect("works");
        assert_eq!((sys.text("/run/ksos/machine-id").trim(), second.boot), ("0123456789abcdef0123456789abcdef", 2));
        assert_eq!(sys.calls_of("clock")[0], "clock 1700000000");
    }

    #[test]
    fn the_clock_begins_at_the_image_or_what_a_server_told_and_no_boot_moves_that() {
        let (epoch, told) = (1_700_000_000, 1_750_000_000);
        for (kept, now, expected) in [
            ("", 0, Some(epoch)),
            ("damaged", 0, Some(epoch)),
            ("1600000000", 0, Some(epoch)),
            ("1750000000", epoch, Some(told)),
            ("1750000000", told, None),
        ] {
            let sys = Double::new();
            sys.put("/run/ksos/x", "");
            sys.put("/data/ksos/clock", kept);
            sys.now.set(now * 1000);
            set_up(&mut node(&sys)).expect("works");
            let set: Vec<String> = expected.map(|bound: u64| format!("clock {bound}")).into_iter().collect();
            assert_eq!(sys.calls_of("clock"), set, "{kept} {now}");
        }
        // One boot in 2096, without a network: the next begins with what the hardware says then.
        let sys = Double::new();
        sys.put("/run/ksos/x", "");
        for now in [4_000_000_000, told] {
            sys.now.set(now * 1000);
            set_up(&mut node(&sys)).expect("works");
        }
        assert!(sys.calls_of("clock").is_empty());
    }

    #[test]
    fn on_a_full_partition_the_reserve_is_used_and_without_one_this_boot_has_an_id_all_the_same() {
        let sys = Double::new();
        sys.put("/run/ksos/x", "");
        sys.put("/data/ksos/reserve", "");
        sys.full_while.borrow_mut().replace("/data/ksos/reserve".to_owned());
        let mut first = node(&sys);
        set_up(&mut first).expect("there is a reserve");
        assert_eq!((first.boot, sys.text("/data/ksos/boot-count").as_str()), (1, "1\n"));
        sys.remove("/data/ksos/machine-id").expect("removed");
        sys.put("/data/full", "");
        sys.full_while.borrow_mut().replace("/data/full".to_owned());
        let mut second = node(&sys);
        let error = set_up(&mut second).expect_err("degraded").to_string();
        assert_eq!(error.matches("No space left on device").count(), 2, "{error}");
        assert_eq!((second.boot, sys.text("/run/ksos/machine-id").len()), (2, 33));
    }

    #[test]
    fn damaged_files_are_replaced() {
        for bad in ["", "xyz", "0123456789ABCDEF0123456789ABCDEF", "00000000000000000000000000000000"] {
            assert!(!is_machine_id(bad), "{bad}");
        }
        let sys = Double::new();
        sys.put("/run/ksos/x", "");
        sys.put("/data/ksos/boot-count", "99999999999999999999");
        let mut node = node(&sys);
        set_up(&mut node).expect("works");
        assert_eq!(node.boot, 1);
    }

    #[test]
    fn firmware_facts() {
        let sys = Double::new();
        assert_eq!((secure_boot(&sys), lockdown(&sys).as_str()), ("off", "unknown"));
        sys.put("/sys/firmware/efi/systab", "");
        assert_eq!(secure_boot(&sys), "unknown", "UEFI, but its variables are not there");
        for (value, expected) in [(&[6, 0, 0, 0, 1][..], "on"), (&[6, 0, 0, 0, 0], "off"), (&[6, 0, 0, 0], "unknown")] {
            sys.put(SECURE_BOOT, value);
            assert_eq!(secure_boot(&sys), expected);
        }
        for (mode, expected) in [(0, "unknown"), (1, "unknown"), (2, "off"), (3, "on")] {
            let mut parameters = [0; 4096];
            parameters[SECURE_BOOT_MODE] = mode;
            sys.put(BOOT_PARAMETERS, parameters);
            assert_eq!(secure_boot(&sys), expected, "{mode}");
        }
        sys.put("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        assert_eq!(lockdown(&sys), "integrity");
    }
}
