//! Random bytes of the system.

use std::io;

use ring::rand::{SecureRandom, SystemRandom};

/// Fills `bytes`.
///
/// # Errors
/// When the system gives none.
pub fn fill(bytes: &mut [u8]) -> io::Result<()> {
    SystemRandom::new().fill(bytes).map_err(|_| io::Error::other("the system gives no random bytes"))
}
