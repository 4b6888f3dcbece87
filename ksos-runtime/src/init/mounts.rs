//! Stage 10: the file systems of the real root.
//!
//! Nothing is executed from `/tmp` and `/dev`: container engines, which bring their programs to `/var/lib` and `/run`, do
//! not need it (containerd and runc use `/run/containerd` and memory files).

use crate::console::say;
use crate::sys::{Mount, MountFlags, Sys};

use super::Error;
use super::node::Node;

const STRICT: MountFlags = MountFlags { read_only: false, no_suid: true, no_dev: true, no_exec: true, no_atime: false };
const READ_ONLY: MountFlags =
    MountFlags { read_only: true, no_suid: true, no_dev: true, no_exec: true, no_atime: false };
const TERMINALS: MountFlags =
    MountFlags { read_only: false, no_suid: true, no_dev: false, no_exec: true, no_atime: false };

/// What services and the runtime cannot do without.
const NEEDED: [(&str, &str, MountFlags, &str); 3] = [
    ("tmpfs", "/tmp", STRICT, "mode=1777,size=25%"),
    ("devpts", "/dev/pts", TERMINALS, "gid=5,mode=0620,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", STRICT, "mode=1777"),
];

/// What is there if the kernel has it.
const OPTIONAL: [(&str, &str, MountFlags, &str); 4] = [
    ("mqueue", "/dev/mqueue", STRICT, ""),
    ("securityfs", "/sys/kernel/security", STRICT, ""),
    ("bpf", "/sys/fs/bpf", STRICT, "mode=0700"),
    ("pstore", "/sys/fs/pstore", STRICT, ""),
];

/// Variables of the firmware.
pub(super) const VARIABLES: &str = "/sys/firmware/efi/efivars";

/// Mounts everything; devtmpfs has none of the links that programs expect, so those are made too.
pub(super) fn mount_all(node: &mut Node<'_>) -> Result<String, Error> {
    let sys = node.sys;
    if !node.cmdline.has("debug") && !node.cmdline.has("ignore_loglevel") && node.cmdline.value("loglevel").is_none() {
        // Errors of the kernel and worse: less would hide what matters, more would cut our lines in two.
        let _ = sys.set_console_level(4);
    }
    // Containers need mounts of the host to reach them, and the other way round.
    sys.make_shared("/")?;
    // Without a program the kernel runs none: mounting `bpf` would have it look for a module that hardly any kernel has
    // (kernel `kernel/bpf/inode.c`, `populate_bpffs`).
    let _ = sys.write("/proc/sys/kernel/modprobe", b"\n");
    for (kind, target, flags, options) in NEEDED {
        sys.make_directory(target, 0o755)?;
        sys.mount(&Mount { source: kind, target, kind, flags, options })?;
    }
    for (kind, target, flags, options) in OPTIONAL {
        mount_optional(sys, &Mount { source: kind, target, kind, flags, options });
    }
    let modprobe =
        if sys.kind("/sbin/modprobe").is_some() { "/sbin/modprobe" } else { ksos_formats::layout::RUNTIME_BINARY };
    let _ = sys.write("/proc/sys/kernel/modprobe", modprobe.as_bytes());
    for (path, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        if !sys.is_link(path) {
            sys.symlink(target, path)?;
        }
    }
    Ok(String::new())
}

/// Mounts the firmware's variables, read-only, if there are any. The firmware is asked for each, which takes it a tenth of a
/// second and more: this is not done before it is needed.
pub(super) fn mount_variables(sys: &dyn Sys) {
    if sys.list(VARIABLES).is_ok_and(|names| names.is_empty()) {
        mount_optional(
            sys,
            &Mount { source: "efivarfs", target: VARIABLES, kind: "efivarfs", flags: READ_ONLY, options: "" },
        );
    }
}

/// Mounts what may be missing: no mount point (only `/dev` lets us make one) or no such file system is no news.
fn mount_optional(sys: &dyn Sys, mount: &Mount<'_>) {
    if mount.target.starts_with("/dev/") && sys.make_directory(mount.target, 0o755).is_err() {
        return;
    }
    if sys.kind(mount.target).is_none() {
        return;
    }
    if let Err(error) = sys.mount(mount)
        && !matches!(error.source.raw_os_error(), Some(libc::ENODEV | libc::EBUSY))
    {
        say(sys, &error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::node;
    use super::*;
    use crate::sys::double::Double;

    #[test]
    fn needed_mounts_are_fatal_optional_ones_are_not() {
        let sys = Double::new();
        sys.put("/proc/sys/kernel/modprobe", "/init\n");
        sys.put("/sys/fs/bpf/x", "");
        sys.fail("mount bpf", "no");
        mount_all(&mut node(&sys)).expect("fine without");
        let calls = sys.calls.borrow().clone();
        assert_eq!(calls[..2], ["console level 4".to_owned(), "share /".to_owned()]);
        assert!(calls.contains(&"mount tmpfs /tmp tmpfs rw mode=1777,size=25%".to_owned()));
        let position = |text: &str| calls.iter().position(|call| call.starts_with(text)).expect(text);
        assert!(position("write /proc/sys/kernel/modprobe") < position("mount bpf"), "the kernel runs nothing for it");
        assert_eq!(sys.text("/proc/sys/kernel/modprobe"), "/usr/lib/ksos/ksos-runtime");
        assert_eq!(sys.calls_of("symlink").len(), 4);
        sys.fail("mount devpts", "no");
        mount_all(&mut node(&sys)).expect_err("terminals are needed");
    }

    #[test]
    fn variables_are_mounted_once_and_only_where_there_are_any() {
        let sys = Double::new();
        mount_variables(&sys);
        assert!(sys.calls_of("mount").is_empty(), "no UEFI");
        sys.make_directory(VARIABLES, 0o755).expect("made");
        mount_variables(&sys);
        assert_eq!(sys.calls_of("mount"), [format!("mount efivarfs {VARIABLES} efivarfs ro ")]);
        sys.put(&format!("{VARIABLES}/Boot0001"), "");
        mount_variables(&sys);
        assert_eq!(sys.calls_of("mount").len(), 1);
    }
}
