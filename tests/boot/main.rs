//! Boots images in QEMU.
//!
//! - `example`: the containerd example for both architectures under Secure Boot.
//! - `node`: the appliance with a stand-in for KubeSolo: configuration, network, health, access, watchdog, reset, and what
//!   can be wrong with the data partition.
//! - `update`: the same, updated, kept, and rolled back. `versions`: what bad versions come to, from a registry.
#![expect(clippy::disallowed_methods, reason = "tests run programs and look at files")]

mod example;
mod guest;
mod kernel;
mod node;
mod update;
mod versions;
