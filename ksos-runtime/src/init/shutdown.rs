//! Taking the machine down: end all processes, flush, unmount, tell the kernel.

use crate::console::say;
use crate::sys::{self, Down, Signal, Sys, read_line, read_text};

use super::watchdog::Keeper;

/// How long processes have after SIGTERM, and again after SIGKILL, in milliseconds.
const GRACE_MS: u64 = 2000;
/// How often it is looked whether processes remain, in milliseconds.
const LOOK_MS: u64 = 20;
/// Times all mounts are tried: one that is busy may be free after the one on top of it is gone.
const PASSES: u32 = 3;
/// Mounts that stay: the kernel's own file systems, and what the root lies on. They are read-only or in memory.
const STAY: [&str; 7] = ["/proc", "/sys", "/dev", "/run/ksos/slot", "/run/ksos/ram", "/run/ksos/medium", "/run"];

/// Ends everything and takes the machine down. Services have been stopped before. Returns only if the kernel refuses.
///
/// The watchdog is fed before each step and not during one: a step that hangs ends in a restart.
pub(super) fn finish(sys: &dyn Sys, down: Down, watchdog: &mut Keeper) -> sys::Error {
    say(sys, &format!("shutdown: {down}"));
    // Nothing that fails from here on can be helped; the kernel is asked to go down all the same.
    let steps: [&dyn Fn(); 5] = [
        &|| end_processes(sys, Signal::Term),
        &|| end_processes(sys, Signal::Kill),
        &|| sys.sync(),
        &|| unmount_all(sys),
        &|| sys.sync(),
    ];
    for step in steps {
        let _ = watchdog.feed(sys);
        step();
    }
    if down == Down::Reboot {
        let _ = watchdog.feed(sys);
    } else {
        watchdog.disarm();
    }
    sys.go_down(down)
}

fn end_processes(sys: &dyn Sys, signal: Signal) {
    let _ = sys.signal_all(signal);
    wait_for_processes(sys);
}

fn wait_for_processes(sys: &dyn Sys) {
    let deadline = sys.uptime_ms() + GRACE_MS;
    while sys.uptime_ms() < deadline {
        while sys.reap().is_some() {}
        if !processes_remain(sys) {
            return;
        }
        sys.sleep_ms(LOOK_MS);
    }
}

/// Returns whether there are processes besides PID 1, kernel threads and zombies (proc(5), `/proc/PID/stat`).
fn processes_remain(sys: &dyn Sys) -> bool {
    let names = sys.list("/proc").unwrap_or_default();
    let pids = names
        .iter()
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && !matches!(name.as_str(), "1" | "2"));
    pids.filter_map(|pid| read_line(sys, &format!("/proc/{pid}/stat"))).any(|stat| {
        // The command name is in parentheses and may hold any character: count from the last one.
        let mut fields = stat.rsplit(") ").next().unwrap_or("").split(' ');
        let (state, parent) = (fields.next(), fields.next());
        !matches!(state, None | Some("Z" | "X")) && parent != Some("2")
    })
}

fn unmount_all(sys: &dyn Sys) {
    let mut failures = Vec::new();
    for _ in 0..PASSES {
        failures.clear();
        for target in mounts_to_end(&read_text(sys, "/proc/self/mountinfo").unwrap_or_default()) {
            failures.extend(sys.unmount(&target).err().map(|error| (target, error)));
        }
        if failures.is_empty() {
            return;
        }
    }
    for (target, error) in failures {
        let remounted = sys.remount_read_only(&target);
        let state = if remounted.is_ok() { "read-only" } else { "mounted" };
        say(sys, &format!("shutdown: {target} stays {state}: {error}"));
    }
}

/// Returns the mount points to unmount, the last mounted first (proc(5), `/proc/PID/mountinfo`, field 5).
fn mounts_to_end(mountinfo: &str) -> Vec<String> {
    let targets = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let stays = |target: &String| {
        target == "/"
            || STAY.contains(&target.as_str())
            || ["/proc/", "/sys/", "/dev/"].iter().any(|prefix| target.starts_with(prefix))
    };
    let mut targets: Vec<String> = targets.filter(|target| !stays(target)).collect();
    targets.reverse();
    targets
}

/// Undoes the octal escapes of mountinfo.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, character)| text.replace(escape, character))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::double::Double;

    const MOUNTINFO: &str = "21 1 253:0 / / ro shared:1 - squashfs /dev/dm-0 ro\n\
        22 21 0:5 / /proc rw - proc proc rw\n\
        23 21 0:6 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
        24 21 0:7 / /run rw - tmpfs tmpfs rw\n\
        25 24 254:2 / /run/ksos/slot ro - ext4 /dev/vda2 ro\n\
        26 21 254:4 / /data rw - ext4 /dev/vda4 rw\n\
        27 21 254:4 /var /var/lib/a\\040b rw - ext4 /dev/vda4 rw\n";

    #[test]
    fn unmounts_in_reverse_and_leaves_what_the_root_lies_on() {
        assert_eq!(mounts_to_end(MOUNTINFO), ["/var/lib/a b", "/data"]);
    }

    #[test]
    fn order_is_processes_flush_unmount_down() {
        let sys = Double::new();
        sys.put("/proc/self/mountinfo", MOUNTINFO);
        finish(&sys, Down::Reboot, &mut Keeper::default());
        let calls = sys.calls.borrow().clone();
        let expected = [
            "signal all Term",
            "signal all Kill",
            "sync",
            "unmount /var/lib/a b",
            "unmount /data",
            "sync",
            "down reboot",
        ];
        assert_eq!(calls, expected);
        assert_eq!(*sys.terminal.borrow(), "ksos: shutdown: reboot\n");
    }

    #[test]
    fn a_busy_file_system_is_made_read_only_and_named() {
        let sys = Double::new();
        sys.put("/proc/self/mountinfo", MOUNTINFO);
        sys.fail("unmount /data", "Device or resource busy");
        finish(&sys, Down::PowerOff, &mut Keeper::default());
        assert_eq!(sys.calls_of("unmount /data").len(), 3);
        assert_eq!(sys.calls_of("remount-ro"), ["remount-ro /data"]);
        assert!(sys.terminal.borrow().contains("shutdown: /data stays read-only: "));
    }

    #[test]
    fn waits_for_processes_but_not_for_kernel_threads_and_zombies() {
        let sys = Double::new();
        sys.put("/proc/1/stat", "1 (init) S 0 1");
        sys.put("/proc/9/stat", "9 (kworker/0:1) I 2 0");
        sys.put("/proc/30/stat", "30 (a) b) Z 1 30");
        assert!(!processes_remain(&sys));
        sys.put("/proc/31/stat", "31 (x (y) z) S 1 31");
        assert!(processes_remain(&sys));
        wait_for_processes(&sys);
        assert_eq!(sys.now.get(), 1000 + GRACE_MS);
    }
}
