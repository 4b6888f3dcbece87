//! Wall time. Only for expiry checks, progress and cache ages; never for anything that ends up in an artifact.
#![expect(clippy::disallowed_methods, reason = "this module is where wall time is read")]

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the wall time in seconds since 1970.
pub fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
