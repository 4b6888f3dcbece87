//! DHCPv4 (RFC 2131, 2132; classless routes RFC 3442, search lists RFC 3397).
//!
//! - `message`: bytes to [`Message`] and back.
//! - `packet`: IPv4 and UDP around a message, for interfaces without an address.
//! - `lease`: what a server's answer gives, checked.
//! - `client`: the state machine; no clock, no I/O.

pub mod client;
pub mod lease;
pub mod message;
pub mod packet;

pub use client::{Action, Client, Event, Listen};
pub use lease::Lease;
pub use message::Message;

/// The server's UDP port (RFC 2131, section 4.1).
pub const SERVER_PORT: u16 = 67;
/// The client's.
pub const CLIENT_PORT: u16 = 68;
