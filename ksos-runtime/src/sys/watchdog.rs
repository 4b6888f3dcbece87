//! Watchdog devices (kernel `Documentation/watchdog/watchdog-api.rst`, `include/uapi/linux/watchdog.h`).

#![expect(
    unsafe_code,
    reason = "ioctl(2) has no safe form; each call passes a pointer to a live value of the right type"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use super::{Error, Result, Watchdog};

const WDIOC_GETSUPPORT: u64 = 0x8028_5700;
const WDIOC_SETTIMEOUT: u64 = 0xC004_5706;
const WDIOC_GETTIMEOUT: u64 = 0x8004_5707;

/// `struct watchdog_info`.
#[repr(C)]
struct Info {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

const _: () = assert!(size_of::<Info>() == 40);

/// An open device.
#[derive(Debug)]
struct Device {
    path: String,
    file: File,
    identity: String,
    timeout_s: u32,
}

/// Opens and starts a device with a timeout of `seconds`, or its own if it refuses that.
pub(super) fn open(path: &str, seconds: u32) -> Result<Box<dyn Watchdog>> {
    let failed = |source: io::Error| Error::new("open", path, source);
    let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
    let mut info = Info { options: 0, firmware_version: 0, identity: [0; 32] };
    // A driver that cannot tell its name is a watchdog all the same.
    let _ = ioctl(&file, WDIOC_GETSUPPORT, &mut info);
    let name = info.identity.split(|byte| *byte == 0).next().unwrap_or(&[]);
    let identity = String::from_utf8_lossy(name).trim().to_owned();
    let mut timeout = i32::try_from(seconds).unwrap_or(i32::MAX);
    if ioctl(&file, WDIOC_SETTIMEOUT, &mut timeout).is_err() {
        timeout = 0;
        ioctl(&file, WDIOC_GETTIMEOUT, &mut timeout).map_err(failed)?;
    }
    let timeout_s = u32::try_from(timeout).ok().filter(|seconds| *seconds > 0);
    let timeout_s = timeout_s.ok_or_else(|| Error::stated("open", path, format!("its timeout is {timeout} s")))?;
    Ok(Box::new(Device { path: path.to_owned(), file, identity, timeout_s }))
}

fn ioctl<T>(file: &File, request: u64, argument: &mut T) -> io::Result<()> {
    // SAFETY: the descriptor is open, and `argument` is a live, exclusively borrowed value of the type that the request
    // defines: `struct watchdog_info` for WDIOC_GETSUPPORT, `int` for the timeouts.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request as _, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Device {
    fn write(&self, byte: u8) -> Result<()> {
        match rustix::io::write(&self.file, &[byte]) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::new("write to", &self.path, error)),
        }
    }
}

impl Watchdog for Device {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn timeout_s(&self) -> u32 {
        self.timeout_s
    }

    fn feed(&self) -> Result<()> {
        self.write(b'1')
    }

    fn disarm(&self) -> Result<()> {
        self.write(b'V')
    }
}
