//! The process that answers about health, metrics and the kubeconfig.
//!
//! - `health`: whether the node does its work ([`health::evaluate`] is for others to call).
//! - `metrics`: what `/metrics` says. `access`: serving the kubeconfig for a limited time.
//! - `http`: requests and sockets. `facts`: what the node's other processes and the kernel say.
//!
//! One thread and one poll(2): a request is answered where it is read, and only looking at the API server takes longer
//! than microseconds, at most [`health::LONGEST`], kept for [`HEALTH_AGE_MS`]. Without a client nothing wakes the process
//! but timers that are due: an address to listen on that is not there yet, a kubeconfig that does not exist yet, the end
//! of its window.
//!
//! Applets: `agent` (what PID 1 runs), `health [--json]`, `metrics [--json | --listen ADDRESS]`; called by the name
//! `kubesolo-update`, `kubesolo-update metrics --listen ADDRESS` is the same as `metrics`.

mod access;
mod facts;
pub mod health;
mod http;
mod metrics;
mod service;

use std::io::Write;

use ksos_formats::config::{KubeconfigAccess, Metrics, NodeConfig};
use ksos_formats::layout;

use crate::sys::Sys;

/// How long an evaluation of the node's health is used for, in milliseconds.
pub const HEALTH_AGE_MS: u64 = 10_000;

/// Runs the process as the node's configuration says. When there is nothing (more) to serve it sleeps: its supervisor would
/// start it again. Returns its exit status, 1, when nothing of what is wanted can be served.
pub fn main(sys: &dyn Sys, out: &mut dyn Write) -> i32 {
    let config = match facts::document::<NodeConfig>(sys, layout::NODE_CONFIG) {
        Ok(config) => config,
        Err(reason) => {
            // The defaults serve metrics, which tell what is wrong, and no kubeconfig.
            let _ = writeln!(out, "{reason}; the defaults are used");
            NodeConfig::default()
        }
    };
    let status = service::run(sys, &config.metrics, config.kubeconfig, out);
    if status == 0 {
        loop {
            rustix::event::pause();
        }
    }
    status
}

/// The applet `health [--json]`. Returns its exit status: 0 healthy, 1 degraded, 2 unhealthy, 3 wrong usage.
pub fn health(sys: &dyn Sys, arguments: &[String], out: &mut dyn Write) -> i32 {
    health::show(sys, arguments, out)
}

/// The applet `metrics [--listen ADDRESS]`: serves metrics until it is ended, whether or not the configuration says so.
/// An address that is taken is tried again. `metrics --json` prints them once. Returns its exit status: 1 when the
/// address is none, 2 for wrong usage.
pub fn metrics(sys: &dyn Sys, arguments: &[String], out: &mut dyn Write) -> i32 {
    let listen = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => Metrics::default().listen,
        ["--listen", address] => (*address).to_owned(),
        [option] if option.starts_with("--listen=") => option.trim_start_matches("--listen=").to_owned(),
        ["--json"] => {
            let facts = facts::read_facts(sys);
            let document = metrics::document(sys, &facts, &health::evaluate_facts(sys, &facts));
            let _ = writeln!(out, "{}", serde_json::to_string_pretty(&document).unwrap_or_default());
            return 0;
        }
        _ => {
            let _ = writeln!(out, "usage: kubesolo-update metrics [--json | --listen ADDRESS:PORT]");
            return 2;
        }
    };
    service::run(sys, &Metrics { enabled: true, listen }, KubeconfigAccess::default(), out)
}

/// A door for `fuzz/`: a request to the agent.
#[cfg(fuzzing)]
pub fn fuzz_request(bytes: &[u8]) {
    if let http::Parsed::Complete(request) = http::parse(bytes) {
        assert!(bytes.len() >= request.path.len(), "a path that was not asked for");
    }
}

#[cfg(test)]
mod tests;
