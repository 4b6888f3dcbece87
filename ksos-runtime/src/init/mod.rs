//! PID 1, in the initramfs and in the real root.
//!
//! ```text
//! kernel -> initramfs (stages 00-06) -> exec in the real root -> stages (10-70) -> services (80-90) -> shutdown
//! ```
//!
//! `table` has all stages and what their failures mean. `initramfs` finds, verifies and mounts the root; `handover` is
//! what it tells the second part; `stages` runs what is set up before services; `supervise` is the pure state machine of
//! services, `internal` the services that every node has, and `services` the loop that feeds it; `watchdog` restarts a
//! machine on which that loop hangs; `shutdown` ends everything; `emergency` is where PID 1 goes when it cannot go on;
//! `live` runs and installs from a medium; `journal` is the boot log; `trial` the boot state, and the end of a trial that nobody confirmed.
//!
//! PID 1 never exits. A panic prints its reason and goes to the emergency path; see [`initramfs_main`] and
//! [`root_main`].

mod apparmor;
mod cgroup;
mod clones;
mod configuration;
mod data;
mod drivers;
mod emergency;
mod error;
pub mod handover;
mod identity;
mod images;
mod initramfs;
mod internal;
mod journal;
mod live;
mod logs;
mod mounts;
mod node;
mod persist;
mod reserve;
mod reset;
mod services;
mod shutdown;
mod stages;
pub mod status;
mod supervise;
mod table;
mod trial;
mod volume;
mod watchdog;

pub use error::Error;
pub use images::import as import_images;
pub use reset::applet as factory_reset;

use crate::cmdline::Cmdline;
use crate::sys::linux::Linux;
use crate::sys::{Sys, read_text};

#[cfg(test)]
pub(crate) use node::tests::config as test_image;

/// Runs `/init` of the initramfs. Returns to nobody.
pub fn initramfs_main(sys: &dyn Sys) -> ! {
    guard_against_panics();
    let reason = initramfs::run(sys);
    emergency::enter(sys, &reason.to_string(), false)
}

/// Runs PID 1 of the real root. Returns to nobody.
pub fn root_main(sys: &dyn Sys) -> ! {
    guard_against_panics();
    sys.open_console();
    let (down, mut watchdog) = match node::Node::open(sys) {
        Ok(node) => services::run(node),
        Err(reason) => emergency::enter(sys, &reason.to_string(), false),
    };
    let failure = shutdown::finish(sys, down, &mut watchdog);
    emergency::enter(sys, &failure.to_string(), false)
}

/// Makes a panic end in the emergency path instead of ending PID 1, which would be a kernel panic without a reason.
fn guard_against_panics() {
    std::panic::set_hook(Box::new(|info| {
        emergency::enter(&Linux::new(), &format!("internal error: {info}"), false);
    }));
}

/// Reads the kernel command line; empty if `/proc` is not there.
fn kernel_cmdline(sys: &dyn Sys) -> Cmdline {
    Cmdline::parse(&read_text(sys, "/proc/cmdline").unwrap_or_default())
}
