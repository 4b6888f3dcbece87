//! The process that answers about health, metrics and the kubeconfig.

use std::io::Write;

use crate::sys::Sys;

/// Runs the process. Returns its exit status.
pub fn main(_sys: &dyn Sys, out: &mut dyn Write) -> i32 {
    let _ = writeln!(out, "not built yet");
    1
}

/// The applet `health [--json]`. Returns its exit status.
pub fn health(_sys: &dyn Sys, _arguments: &[String], out: &mut dyn Write) -> i32 {
    let _ = writeln!(out, "not built yet");
    2
}
