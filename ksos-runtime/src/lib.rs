//! The one binary on a node: `/init`, PID 1, supervision, module loading.
//!
//! - `sys`: what the runtime asks of the machine; the only `unsafe` code.
//! - `cmdline`, `console`, `disk`, `modules`: the kernel command line, what is said, partitions, kernel modules.
//! - `init`: PID 1 in the initramfs and in the real root.
//! - `config`: where the node's configuration comes from, and what is done with it.
//! - `network`: the process that sets interfaces, addresses, names and the clock.
//! - `agent`: the process that answers about health, metrics and the kubeconfig.
//! - `install`: writing the disk from an ISO image.
//! - `update`: from a release at its source to a committed slot.
//!
//! The first argument or the name that the binary is called by chooses what it is; see [`main`]. No
//! async; threads and TLS never in PID 1. A panic aborts, except in PID 1 (see `init`).

pub mod agent;
pub mod cmdline;
pub mod config;
pub mod console;
pub mod disk;
mod exchange;
pub mod init;
pub mod install;
pub mod modules;
pub mod network;
pub mod sys;
pub mod update;

use std::io::{Write, stderr, stdout};

use sys::linux::Linux;
use sys::{Down, Signal, Sys};

const USAGE: &str = "usage: ksos-runtime APPLET [ARGUMENT...]
  status [--json]          what the node says about itself
  health [--json]          whether the node does its work; exits with 0 healthy, 1 degraded, 2 unhealthy
  metrics [--json | --listen ADDRESS:PORT]
  kubesolo-update check|apply|status|rollback|history [--json]
  modprobe [-q] [-a] [-n] [-r] [--] NAME|ALIAS...
  factory-reset [--keep configuration,logs] [--all] [--yes] [--no-reboot]
  reboot | poweroff | halt [-f]
  import-images            import the container images that the image carries
";

/// Runs what the arguments ask for; returns the exit status.
///
/// As PID 1: the initramfs's `/init`, or, called as `.../ksos-runtime init`, PID 1 of the real root. Otherwise an
/// applet, by the name of the binary (`modprobe`, `reboot`, `poweroff`, `halt`, `kubesolo-update`) or the first
/// argument. The kernel calls what `/proc/sys/kernel/modprobe` names with `-q --` before the alias: that is `modprobe`
/// under any name.
pub fn main() -> i32 {
    let arguments: Vec<String> = std::env::args_os().map(|text| text.to_string_lossy().into_owned()).collect();
    let sys = Linux::new();
    let (name, rest) = arguments.split_first().map_or(("", &[][..]), |(name, rest)| (name.as_str(), rest));
    if std::process::id() == 1 {
        // What the kernel does not know of its command line arrives as arguments of `/init`; it is not for us.
        if name == ksos_formats::layout::RUNTIME_BINARY && rest == ["init"] {
            init::root_main(&sys);
        }
        init::initramfs_main(&sys);
    }
    let called = name.rsplit('/').next().unwrap_or(name);
    if matches!(called, "modprobe" | "reboot" | "poweroff" | "halt") {
        return applet(&sys, called, rest);
    }
    if called == "kubesolo-update" {
        return update_command(&sys, rest);
    }
    match rest.split_first() {
        Some((first, _)) if first == "-q" => applet(&sys, "modprobe", rest),
        Some((first, rest)) => applet(&sys, first, rest),
        None => applet(&sys, "", &[]),
    }
}

fn applet(sys: &dyn Sys, name: &str, arguments: &[String]) -> i32 {
    match name {
        "modprobe" => modules::modprobe(sys, arguments, &mut stdout(), &mut stderr()),
        "status" => {
            let json = arguments.iter().any(|argument| argument == "--json");
            init::status::show(sys, json, &mut stdout(), &mut stderr())
        }
        "factory-reset" => init::factory_reset(sys, arguments, &mut stdout(), &mut stderr()),
        "import-images" => init::import_images(sys, &mut stdout()),
        "fetch-ec2" => fetch_ec2(sys, arguments),
        "network" => network::main(sys, arguments, &mut stdout()),
        "agent" => agent::main(sys, &mut stdout()),
        "health" => agent::health(sys, arguments, &mut stdout()),
        "metrics" => agent::metrics(sys, arguments, &mut stdout()),
        "update" => update::daemon::main(sys, &mut stdout()),
        update::daemon::COMMAND => update_command(sys, arguments),
        "reboot" => take_down(sys, Down::Reboot, Signal::Term, arguments),
        "poweroff" => take_down(sys, Down::PowerOff, Signal::Usr2, arguments),
        "halt" => take_down(sys, Down::Halt, Signal::Usr1, arguments),
        _ => {
            let _ = stderr().write_all(USAGE.as_bytes());
            2
        }
    }
}

/// `kubesolo-update VERB`.
fn update_command(sys: &dyn Sys, arguments: &[String]) -> i32 {
    match arguments.split_first() {
        Some((verb, rest)) if verb == "metrics" => agent::metrics(sys, rest, &mut stdout()),
        _ => update::command::main(sys, arguments, &mut stdout(), &mut stderr()),
    }
}

/// Asks EC2's metadata service. Stage 45 starts it before the network process runs, so that it brings an address up by
/// itself.
fn fetch_ec2(sys: &dyn Sys, arguments: &[String]) -> i32 {
    let bring_up =
        |sys: &dyn Sys, ms: u64| network::bring_up_once(sys, &mut stdout(), ms).map_err(|error| error.to_string());
    config::fetch_ec2(sys, arguments, &bring_up, &mut stdout())
}

/// Asks PID 1 to take the machine down; with `-f`, flushes and does it at once.
fn take_down(sys: &dyn Sys, down: Down, signal: Signal, arguments: &[String]) -> i32 {
    let error = if arguments.iter().any(|argument| argument == "-f") {
        sys.sync();
        Some(sys.go_down(down))
    } else {
        sys.signal(1, signal).err()
    };
    match error {
        None => 0,
        Some(error) => {
            let _ = writeln!(stderr(), "{down}: {error}");
            1
        }
    }
}
