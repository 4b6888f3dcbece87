//! Component sources, one module per kind. All yield digests.

pub mod apt;
pub mod archive;
pub mod cargo;
pub mod http;
pub mod oci;
