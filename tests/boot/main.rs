//! Boots images in QEMU.
//!
//! - `example`: the containerd example for both architectures under Secure Boot.
//! - `iso`: ISO images in every mode that they boot in, and what they install; a disk image by BIOS.
//! - `node`: the appliance with a stand-in for KubeSolo: configuration, network, health, access, watchdog, reset, and what
//!   can be wrong with the data partition.
//! - `ab_update`: the same, updated, kept, and rolled back. `bad_versions`: what these come to, from a registry.
#![expect(clippy::disallowed_methods, reason = "tests run programs and look at files")]

// In this order they start: what takes longest first.
mod ab_update;
mod bad_versions;
mod disks;
mod example;
mod guest;
mod iso;
mod kernel;
mod node;
