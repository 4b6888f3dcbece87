//! The clock, set from time servers: SNTP (RFC 4330; packets RFC 5905, section 7.3).
//!
//! - `packet`: 48 bytes to [`packet::Reply`], checked.
//! - `client`: when which server is asked, and what is done with its answer; no clock, no I/O.

pub mod client;
pub mod packet;

pub use client::{Action, Client, Event};

/// The servers' UDP port.
pub const PORT: u16 = 123;
/// Who is asked when neither the configuration nor DHCP names a server. The second name also has IPv6 addresses.
pub const DEFAULT_SERVERS: [&str; 2] = ["pool.ntp.org", "2.pool.ntp.org"];
