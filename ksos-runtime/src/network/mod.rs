//! The process that sets interfaces, addresses, names and the clock.
//!
//! - `plan`: which interface belongs to which entry of the configuration.
//! - `dhcp`, `sntp`: protocols as pure state machines. `ready`, `resolv`: decisions and texts, pure.
//! - `netlink`: interfaces, addresses and routes of the kernel.
//! - `daemon`: the loop; `port`, `clock`, `fallback`, `publish`: its parts. `store`: files. `resolver`: names.
//! - `status`: the document that other processes read.
//!
//! One process, one poll(2), no ticks. A thread exists only while a name is resolved. Each claimed interface is set up
//! on its own, so that one that hangs holds up none of the others.
//!
//! IPv6 is the kernel's: link-local addresses, and router advertisements where the configuration takes them.

mod clock;
mod daemon;
pub mod dhcp;
mod fallback;
pub mod netlink;
pub mod plan;
mod port;
mod publish;
pub mod random;
pub mod ready;
pub mod resolv;
mod resolver;
pub mod sntp;
pub mod status;
mod store;

use std::io::{self, Write};

use ksos_formats::config::NodeConfig;

use crate::sys::Sys;
use daemon::Daemon;
pub use store::clock_path;

/// Why the process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a netlink socket.
    #[error(transparent)]
    Netlink(#[from] netlink::NetlinkError),
    /// The kernel refused a pipe.
    #[error("open a pipe: {0}")]
    Pipe(io::Error),
    /// No interface got an address in time.
    #[error("no interface got an address within {0} ms")]
    NoAddress(u64),
}

/// Runs the process. Returns its exit status, which is never good: it runs for ever.
///
/// With the arguments `--once MILLISECONDS` it is [`bring_up_once`], and the status tells whether an interface has an
/// address.
pub fn main(sys: &dyn Sys, arguments: &[String], out: &mut dyn Write) -> i32 {
    if let [flag, timeout] = arguments
        && flag == "--once"
        && let Ok(timeout_ms) = timeout.parse()
    {
        let result = bring_up_once(sys, out, timeout_ms);
        return result.map_err(|error| writeln!(out, "network: {error}")).map_or(1, |()| 0);
    }
    let (config, failure) = store::configuration(sys);
    let mut told = |text: &dyn std::fmt::Display| drop(writeln!(out, "network: {text}"));
    if let Some(reason) = failure {
        told(&format_args!("the default configuration is used: {reason}"));
    }
    match Daemon::open(sys, out, config) {
        Ok(mut daemon) => daemon.run(),
        Err(error) => {
            let _ = writeln!(out, "network: {error}");
            1
        }
    }
}

/// Brings up Ethernet interfaces by DHCPv4 and returns as soon as one has an address and a carrier; for sources of
/// configuration that need the network before there is a configuration.
///
/// Interfaces stay configured and `resolv.conf` is written; [`main`], started later, takes the lease over. Blocks at most
/// `timeout_ms`; meant for a child process. What happens is told on `out`.
pub fn bring_up_once(sys: &dyn Sys, out: &mut dyn Write, timeout_ms: u64) -> Result<(), Error> {
    let mut daemon = Daemon::open(sys, out, NodeConfig::default())?;
    let deadline = sys.uptime_ms().saturating_add(timeout_ms);
    if daemon.run_once(deadline) { Ok(()) } else { Err(Error::NoAddress(timeout_ms)) }
}
