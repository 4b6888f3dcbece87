//! Drivers for devices that appear while the node runs, and the lock that ends loading them.
//!
//! Modules are loaded by processes of their own ([`LIMIT`] at most), as many devices at a time as were announced meanwhile:
//! a driver may take its time, and one that hangs does not hold up the others. The first such process is that of stage 85,
//! for all devices that were there: beside the services, which wait for their devices by themselves, and after their start,
//! for which it would leave half of a small machine.

use std::collections::{BTreeMap, BTreeSet};

use ksos_formats::layout;

use crate::modules::{self, process};
use crate::sys::{Pid, Sys, Uevent};

use super::Error;
use super::node::Node;

/// Name of the log of the process that loads drivers for all devices.
const LOG: &str = "drivers";
/// Most processes that load modules at the same time.
const LIMIT: usize = 4;
/// Most devices that one of them is told of.
const BATCH: usize = 64;
/// Most devices that wait; more are a fault of the hardware.
const WAITING: usize = 1024;

/// What is loading and what waits for it.
#[derive(Debug, Default)]
pub(super) struct Drivers {
    waiting: BTreeSet<String>,
    loading: BTreeSet<Pid>,
    /// The process of stage 85, and when it was started.
    first: BTreeMap<Pid, u64>,
    /// Whether modules are to be locked as soon as the process of stage 85 has ended.
    pub(super) lock_wanted: bool,
    /// Whether they are.
    pub(super) locked: bool,
}

impl Drivers {
    /// Stage 85: begins to load modules for the hardware that the initramfs had no drivers for: network, power button,
    /// watchdog.
    pub(super) fn begin(&mut self, node: &Node<'_>) -> Result<String, Error> {
        if modules::directory(node.sys, &node.sys.kernel_release()).is_none() {
            return Ok("no modules in the image".to_owned());
        }
        node.sys.watch_power_buttons();
        // Hardware that its driver refuses is no fault of the node: it is in the log of this name, and that is all.
        let pid = process::for_hardware(node.sys, layout::RUNTIME_BINARY, LOG)?;
        self.loading.insert(pid);
        self.first.insert(pid, node.sys.uptime_ms());
        Ok("begun".to_owned())
    }

    /// Notes a device that has appeared.
    pub(super) fn take(&mut self, event: &Uevent) {
        let alias = event.field("MODALIAS").filter(|_| event.action == "add" && !self.locked);
        if self.waiting.len() < WAITING {
            self.waiting.extend(alias.map(str::to_owned));
        }
    }

    /// Starts a process for what waits, if there may be another one.
    pub(super) fn load(&mut self, sys: &dyn Sys) {
        if self.waiting.is_empty() || self.loading.len() >= LIMIT {
            return;
        }
        let batch: Vec<String> = (0..BATCH).map_while(|_| self.waiting.pop_first()).collect();
        // What cannot be loaded, nobody waits for.
        self.loading.extend(process::for_devices(sys, layout::RUNTIME_BINARY, &batch));
    }

    /// Notes the end of a process; returns whether it was one of these.
    pub(super) fn ended(&mut self, node: &mut Node<'_>, pid: Pid) -> bool {
        if let Some(since) = self.first.remove(&pid) {
            node.say(&format!("drivers: looked for all devices, {} ms", node.sys.uptime_ms().saturating_sub(since)));
            node.sys.watch_power_buttons();
        }
        self.loading.remove(&pid)
    }

    /// Makes the kernel refuse modules until the next boot, if that is wanted and the devices that were there at the boot
    /// have their drivers (kernel `Documentation/admin-guide/sysctl/kernel.rst`, `modules_disabled`).
    pub(super) fn lock(&mut self, node: &mut Node<'_>) {
        if !self.lock_wanted || self.locked || !self.first.is_empty() {
            return;
        }
        match node.sys.write("/proc/sys/kernel/modules_disabled", b"1") {
            Ok(()) => {
                self.locked = true;
                self.waiting.clear();
                node.say("modules: locked until the next boot");
            }
            Err(error) => node.degrade("modules lock", &format!("modules are not locked: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::node;
    use super::*;
    use crate::sys::double::Double;

    fn added(alias: &str) -> Uevent {
        let fields = [("MODALIAS".to_owned(), alias.to_owned())].into();
        Uevent { action: "add".to_owned(), device: "/devices/x".to_owned(), fields }
    }

    fn first(pid: Pid, at_ms: u64) -> Drivers {
        Drivers { loading: [pid].into(), first: [(pid, at_ms)].into(), ..Drivers::default() }
    }

    #[test]
    fn devices_are_loaded_for_in_batches_by_few_processes() {
        let sys = Double::new();
        let mut node = node(&sys);
        let mut drivers = first(7, 1000);
        for alias in ["usb:b", "usb:a", "usb:a"] {
            drivers.take(&added(alias));
        }
        drivers.load(&sys);
        drivers.load(&sys);
        assert_eq!(sys.calls_of("spawn"), ["spawn /usr/lib/ksos/ksos-runtime modprobe -q -a -- usb:a usb:b"]);
        for alias in ["c", "d", "e", "f"] {
            drivers.take(&added(alias));
            drivers.load(&sys);
        }
        assert_eq!(sys.calls_of("spawn").len(), 3, "with the first that makes four");
        assert!(drivers.ended(&mut node, 101) && !drivers.ended(&mut node, 101));
        drivers.load(&sys);
        assert_eq!(
            sys.calls_of("spawn").last().map(String::as_str),
            Some("spawn /usr/lib/ksos/ksos-runtime modprobe -q -a -- e f")
        );
    }

    #[test]
    fn all_devices_are_looked_for_where_there_are_modules() {
        let sys = Double::new();
        let node = node(&sys);
        let mut drivers = Drivers::default();
        assert_eq!(drivers.begin(&node).expect("fine"), "no modules in the image");
        sys.put(&format!("/usr/lib/modules/{}/modules.dep", sys.kernel_release()), "");
        assert_eq!(drivers.begin(&node).expect("fine"), "begun");
        assert_eq!(sys.calls_of("spawn"), ["spawn /usr/lib/ksos/ksos-runtime modprobe --hardware"]);
        assert!(!drivers.first.is_empty() && drivers.loading.len() == 1);
        sys.fail("spawn", "no");
        drivers.begin(&node).expect_err("said and degraded by who asks");
    }

    #[test]
    fn modules_are_locked_when_the_first_look_is_over() {
        let sys = Double::new();
        sys.put("/proc/sys/kernel/modules_disabled", "0");
        let mut node = node(&sys);
        let mut drivers = first(7, 400);
        drivers.lock(&mut node);
        drivers.lock_wanted = true;
        drivers.lock(&mut node);
        assert!(!drivers.locked && sys.calls_of("write").is_empty());
        assert!(drivers.ended(&mut node, 7));
        drivers.lock(&mut node);
        drivers.take(&added("usb:a"));
        drivers.load(&sys);
        assert!(drivers.locked && sys.calls_of("spawn").is_empty());
        assert_eq!(
            *sys.terminal.borrow(),
            "ksos: drivers: looked for all devices, 600 ms\nksos: modules: locked until the next boot\n"
        );
    }
}
