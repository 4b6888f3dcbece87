//! One `kubesolo-update` at a time: flock(2) on a file in `/run`, which the kernel gives up with the process.

use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::sys::{Error, Result};

/// Where the file is.
pub const PATH: &str = "/run/ksos/update.lock";

/// Holds the lock while it lives.
#[derive(Debug)]
pub struct Lock(OwnedFd);

impl Drop for Lock {
    /// Closing alone would not do while a process that another thread has just forked still has a copy of the descriptor.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

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
