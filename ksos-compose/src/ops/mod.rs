//! One function for each command. They take everything from a [`Session`], print nothing, and give typed results that
//! the command line renders.

pub mod blob_key;
pub mod build;
pub mod cache;
pub mod check;
pub mod config;
pub mod diff;
pub mod error;
pub mod flash;
mod hints;
pub mod init;
pub mod inspect;
pub mod keys;
pub mod manual;
pub mod publish;
pub mod push;
pub mod run;
pub mod session;
pub mod sign;
pub mod sums;
pub mod test;
pub mod trust;
pub mod update;
pub mod verify;
pub mod verify_artifact;
pub mod verify_file;
pub mod verify_image;
mod workloads;

pub use error::{OpError, Problem};
pub use session::{Environment, LockMode, RemoteOptions, Reporter, Session, Target};
