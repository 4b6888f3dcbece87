//! Where PID 1 goes when it cannot go on: it says why on every console, and stays or restarts the machine.

use crate::cmdline::OnEmergency;
use crate::console::{quoted, say, terminals};
use crate::sys::{Command, Down, FileKind, Pid, Signal, Streams, Sys, Wake};

use super::watchdog::Keeper;
use super::{kernel_cmdline, shutdown};

/// How long the reason stays on the screen before a restart, in milliseconds.
const REBOOT_AFTER_MS: u64 = 60_000;
/// Pause before a shell that ended is started again, in milliseconds.
const SHELL_PAUSE_MS: u64 = 1000;

/// Says why, and waits or restarts as the kernel command line has it. Never returns.
pub(super) fn enter(sys: &dyn Sys, reason: &str, shell: bool) -> ! {
    let down = hold(sys, reason, shell);
    let failure = shutdown::finish(sys, down, &mut Keeper::default());
    say(sys, &format!("emergency reason={}", quoted(&failure.to_string())));
    loop {
        sys.sleep_ms(REBOOT_AFTER_MS);
    }
}

/// Says why, and stays until it is time to go down or somebody asks for it.
fn hold(sys: &dyn Sys, reason: &str, shell: bool) -> Down {
    let policy = kernel_cmdline(sys).on_emergency();
    say(sys, &format!("emergency reason={}", quoted(reason)));
    let deadline = (policy == OnEmergency::Reboot).then(|| sys.uptime_ms() + REBOOT_AFTER_MS);
    say(
        sys,
        match policy {
            OnEmergency::Reboot => "emergency: restart in 60 s",
            OnEmergency::Wait => "emergency: the node stays here",
        },
    );
    let listening = sys.listen().is_ok();
    let mut shell_pid = shell.then(|| console_shell(sys)).flatten();
    loop {
        let left = deadline.map(|deadline| deadline.saturating_sub(sys.uptime_ms()));
        if left == Some(0) {
            return Down::Reboot;
        }
        let wakes = if listening { sys.wait(left) } else { pause(sys) };
        for wake in wakes {
            if let Some(down) = asked(&wake) {
                return down;
            }
        }
        while let Some((pid, _)) = sys.reap() {
            if shell_pid == Some(pid) {
                sys.sleep_ms(SHELL_PAUSE_MS);
                shell_pid = console_shell(sys);
            }
        }
    }
}

fn pause(sys: &dyn Sys) -> Vec<Wake> {
    sys.sleep_ms(SHELL_PAUSE_MS);
    Vec::new()
}

/// Returns what a wake-up asks PID 1 to do with the machine.
pub(super) fn asked(wake: &Wake) -> Option<Down> {
    match wake {
        Wake::Signal(Signal::Term | Signal::Int) => Some(Down::Reboot),
        Wake::Signal(Signal::Usr1) => Some(Down::Halt),
        Wake::Signal(Signal::Usr2) | Wake::PowerButton => Some(Down::PowerOff),
        _ => None,
    }
}

/// Starts a root shell on the main console, if the image has one.
pub(super) fn console_shell(sys: &dyn Sys) -> Option<Pid> {
    if sys.kind("/bin/sh") != Some(FileKind::File) {
        return None;
    }
    let terminal = terminals(sys).pop()?;
    let mut environment = super::services::base_environment();
    environment.insert("PS1".to_owned(), "ksos# ".to_owned());
    let command = Command {
        arguments: vec!["/bin/sh".to_owned()],
        environment,
        streams: Streams::Terminal(terminal),
        ..Command::default()
    };
    sys.spawn(&command).map_err(|error| say(sys, &format!("console shell: {error}"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::double::Double;

    #[test]
    fn says_why_and_restarts_after_a_minute_when_the_kernel_would() {
        let sys = Double::new();
        sys.put("/proc/cmdline", "panic=10");
        assert_eq!(hold(&sys, "no disk", false), Down::Reboot);
        assert_eq!(sys.now.get(), 61_000);
        let said = sys.terminal.borrow().clone();
        assert!(said.starts_with("ksos: emergency reason=\"no disk\"\n"), "{said}");
    }

    #[test]
    fn otherwise_stays_until_asked_and_respawns_the_shell() {
        let sys = Double::new();
        sys.put("/bin/sh", "");
        sys.exits.borrow_mut().push_back((101, crate::sys::Exit::Code(0)));
        sys.wakes.borrow_mut().extend([vec![Wake::Child], vec![Wake::Signal(Signal::Usr2)]]);
        assert_eq!(hold(&sys, "x", true), Down::PowerOff);
        assert_eq!(sys.calls_of("spawn"), ["spawn /bin/sh", "spawn /bin/sh"]);
    }
}
