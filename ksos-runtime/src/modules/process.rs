//! Loading modules in a process of its own, for those that cannot wait for a driver.

use crate::sys::{Command, Pid, Streams, Sys};

/// The argument that asks the applet for all hardware.
pub const HARDWARE: &str = "--hardware";

/// Starts `program` (this binary) as a process that loads what devices need, by their aliases. It says nothing.
pub fn for_devices(sys: &dyn Sys, program: &str, aliases: &[String]) -> Option<Pid> {
    let arguments =
        [program, "modprobe", "-q", "-a", "--"].map(str::to_owned).into_iter().chain(aliases.iter().cloned());
    sys.spawn(&Command { arguments: arguments.collect(), ..Command::default() }).ok()
}

/// Starts a process that loads what all devices there are need. What it says is captured under `log`.
pub fn for_hardware(sys: &dyn Sys, program: &str, log: &str) -> crate::sys::Result<Pid> {
    let arguments = [program, "modprobe", HARDWARE].map(str::to_owned).to_vec();
    sys.spawn(&Command { arguments, streams: Streams::Captured(log.to_owned()), ..Command::default() })
}
