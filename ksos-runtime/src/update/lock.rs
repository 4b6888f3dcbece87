//! One `kubesolo-update` at a time: flock(2) on a file in `/run`, which the kernel gives up with the process.

use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::sys::{Error, Result};

/// Where the file is.
pub const PATH: &str = "/run/ksos/update.lock";

/// Holds the lock while it lives.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing it is what gives the lock up")] OwnedFd);

/// Takes the lock; `None`: another process has it.
///
/// # Errors
/// The file cannot be made.
pub fn take(path: &str) -> Result<Option<Lock>> {
    let failed = |source: rustix::io::Errno| Error::new("lock", path, source);
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock(file))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}
