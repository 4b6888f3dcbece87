//! Component sources, one module per kind. All yield digests.

pub mod apt;
pub mod archive;
pub mod cargo;
pub mod http;
pub mod kernel;
pub mod oci;
pub mod tinycore;
