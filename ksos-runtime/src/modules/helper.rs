//! Loading modules in a second process beside PID 1, which has no threads.
//!
//! The kernel checks signatures and links modules in the process that hands them over: two of them use two processors. A
//! helper is only ahead of PID 1: what it was asked for PID 1 goes through itself when the helper has ended, finds most of
//! it done, and reports what fails. Without a helper (one processor, or no process to be had) nothing is different but the
//! time. The kernel lets one wait where two want the same module (`kernel/module/main.c`, `idempotent_init_module`).

use crate::sys::{Command, Pid, Sys, read_line};

/// The argument that asks the applet for all hardware.
pub const HARDWARE: &str = "--hardware";

/// A process that loads modules.
#[derive(Debug)]
pub struct Helper(Option<Pid>);

impl Helper {
    /// Starts a helper, if there is a processor for it. `program` is this binary; `names` are modules or [`HARDWARE`].
    pub fn start(sys: &dyn Sys, program: &str, names: &[&str]) -> Self {
        if names.is_empty() || !several_processors(sys) {
            return Helper(None);
        }
        Helper(start(sys, program, names))
    }

    /// Waits until it has ended.
    pub fn join(self, sys: &dyn Sys) {
        if let Some(pid) = self.0 {
            // What it could not do is done, and told, by the one who waited.
            let _ = sys.join(pid);
        }
    }
}

/// Starts a process that loads modules.
pub fn start(sys: &dyn Sys, program: &str, names: &[&str]) -> Option<Pid> {
    let arguments = [program, "modprobe", "-q", "-a"].into_iter().chain(names.iter().copied());
    let command = Command { arguments: arguments.map(str::to_owned).collect(), ..Command::default() };
    sys.spawn(&command).ok()
}

/// `/sys/devices/system/cpu/online` is a list of ranges: `0`, `0-1`, `0,2`.
fn several_processors(sys: &dyn Sys) -> bool {
    read_line(sys, "/sys/devices/system/cpu/online").is_some_and(|list| list.contains(['-', ',']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::double::Double;

    #[test]
    fn there_is_one_where_there_is_a_processor_for_it() {
        let sys = Double::new();
        Helper::start(&sys, "/init", &[HARDWARE]).join(&sys);
        sys.put("/sys/devices/system/cpu/online", "0\n");
        Helper::start(&sys, "/init", &[HARDWARE]).join(&sys);
        assert!(sys.calls.borrow().is_empty());
        sys.put("/sys/devices/system/cpu/online", "0-1\n");
        Helper::start(&sys, "/init", &[]).join(&sys);
        Helper::start(&sys, "/init", &["a", "b"]).join(&sys);
        sys.fail("spawn", "no");
        Helper::start(&sys, "/init", &["c"]).join(&sys);
        assert_eq!(*sys.calls.borrow(), ["spawn /init modprobe -q -a a b", "join 101", "spawn /init modprobe -q -a c"]);
    }
}
