//! Composes KubeSolo OS images from a manifest, as an ordinary user and without host tools.
//!
//! Data flows in one direction and no stage imports a later one:
//! `manifest -> resolve (+ source) -> lock -> plan -> graph -> artifact`. [`tree`] is the in-memory file tree that
//! every stage speaks; [`cache`] is the content-addressed store; [`effects`] holds the only users of the file system,
//! processes, the network and the clock; [`ops`] has one function per command.

pub mod artifact;
pub mod assemble;
pub mod boot;
pub mod cache;
pub mod cli;
pub mod effects;
pub mod graph;
pub mod image;
pub mod kernel;
pub mod lock;
pub mod manifest;
pub mod oci;
pub mod ops;
pub mod plan;
pub mod proof;
pub mod registry;
pub mod remote;
pub mod sbom;
pub mod sign;
pub mod source;
#[cfg(test)]
mod testing;
pub mod tree;
