//! What a KubeSolo OS image and a running node must agree on.
//!
//! Types, their canonical bytes and pure verification. No I/O, no clock, no async and no signing, so that
//! `ksos-compose` (which writes these formats) and `ksos-runtime` (which reads them on a device, possibly years
//! later) can both depend on it. Every document carries a `format` number; readers ignore unknown fields, so an
//! old node can read what a newer composer writes as long as `format` is the same.

pub mod arch;
pub mod boot;
pub mod bootstate;
pub mod config;
pub mod digest;
pub mod install;
pub mod layout;
pub mod runtime;
pub mod update;

pub use arch::Arch;
pub use digest::Digest;
