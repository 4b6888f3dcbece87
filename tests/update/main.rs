//! Updates: what a power cut, a bad block or a bad version leaves boots.
//!
//! - `grub`: a model of the boot loader's script; `world`: what survives a power cut, and all ways to have one;
//!   `machine`: a node on a recorded disk.
//! - `power_cuts`: the model and all cases. `boots`: the real GRUB and kernel in QEMU, and a sample of the cases
//!   (`KSOS_POWER_CUTS=all`: all of them). `log`: what QEMU records of GRUB's writes.
//! - `cron_job`: the example that starts updates from Kubernetes.
#![expect(clippy::disallowed_methods, reason = "tests run programs and look at files")]
#![expect(clippy::print_stderr, reason = "tests tell what they skip, and how many cases there were")]

mod boots;
mod cron_job;
mod grub;
mod log;
mod machine;
mod power_cuts;
mod world;
