//! `test`: boots an image in QEMU and, with an update, lets the node install it, keep it, and fall back from it.
//!
//! [`scenario`] is the steps, on machines that are given; [`machine`] is QEMU's; [`server`] serves the update to the guest;
//! [`report`] is what comes of it.

mod machine;
mod metrics;
pub mod report;
mod request;
mod scenario;
pub mod server;
mod tree;

pub use report::{Case, Report, Verdict};
pub use request::{Request, TestError, Update, test, write_junit};
