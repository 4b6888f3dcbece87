//! Block devices of Linux: exclusive access, zeroing, reading past the page cache, partition tables.
//!
//! Elsewhere devices are files: nothing is exclusive, and zeros are written. Plain files work the same way, which is what most tests use. No limits of its own: callers check sizes.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::fs::{Context, FsError};

/// Alignment in memory and on the device that direct input and output want: a page is enough for every device.
pub const ALIGNMENT: usize = 4096;
/// Zeros that are written where the device cannot make them, in bytes.
const ZEROS: usize = 1 << 20;

/// A number that the kernel knows a device by: major, minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceNumber(pub u32, pub u32);

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.0, self.1)
    }
}

/// Bytes whose address is a multiple of [`ALIGNMENT`].
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    size: usize,
}

impl Buffer {
    /// Returns `size` zeros.
    pub fn new(size: usize) -> Self {
        let bytes = vec![0; size + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Buffer { bytes, start, size }
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.size]
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.size]
    }
}

/// A device, or a plain file in its place, that nothing else uses.
#[derive(Debug)]
pub struct Device {
    file: File,
    /// Size in bytes.
    pub size: u64,
    /// Its number; `None` for a plain file.
    pub number: Option<DeviceNumber>,
}

impl Device {
    /// Opens the device at `path` for writing past the page cache. As long as it is open, the kernel lets nobody mount
    /// it or one of its partitions.
    ///
    /// # Errors
    /// Among others, with [`io::ErrorKind::ResourceBusy`] when the device or one of its partitions is mounted, is swap,
    /// or belongs to a volume, in this mount namespace or in another.
    pub fn open(path: &Path) -> Result<Self, FsError> {
        // "O_EXCL can be used without O_CREAT if pathname refers to a block device. If the block device is in use by
        // the system (e.g., mounted), open() fails with the error EBUSY" (open(2)).
        Self::open_with(path, true, linux::O_EXCL)
    }

    /// Opens the device at `path` for reading past the page cache.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_to_read(path: &Path) -> Result<Self, FsError> {
        Self::open_with(path, false, 0)
    }

    fn open_with(path: &Path, write: bool, flags: i32) -> Result<Self, FsError> {
        let open = |flags| File::options().read(true).write(write).custom_flags(flags).open(path);
        let mut file = match open(flags | linux::O_DIRECT) {
            // A file system that knows only buffered files.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => open(flags),
            result => result,
        }
        .context("open", path)?;
        let metadata = file.metadata().context("stat", path)?;
        let number = linux::number(&metadata);
        let size = file.seek(SeekFrom::End(0)).context("find the size of", path)?;
        Ok(Device { file, size, number })
    }

    /// Writes `bytes`, whose address and length must be aligned, at `offset`.
    ///
    /// # Errors
    /// As write(2).
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Fills `bytes`, whose address and length must be aligned, from `offset`.
    ///
    /// # Errors
    /// As read(2).
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    /// Makes `length` bytes at `offset` zero: without writing them, where the device promises that they read as zeros
    /// then.
    ///
    /// # Errors
    /// As write(2).
    pub fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        if linux::zero(&self.file, offset, length) {
            return Ok(());
        }
        let zeros = Buffer::new(ZEROS);
        let mut done = 0;
        while done < length {
            let count = (length - done).min(ZEROS as u64);
            self.write_at(&zeros[..count as usize], offset + done)?;
            done += count;
        }
        Ok(())
    }

    /// Returns when everything is on the medium.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Drops what the page cache holds of it, so that reads ask the medium where direct reads cannot be had.
    pub fn forget(&self) {
        linux::forget(&self.file);
    }

    /// Returns the size of its sectors in bytes; 512 for a plain file.
    pub fn sector_size(&self) -> u32 {
        linux::sector_size(&self.file).unwrap_or(512)
    }

    /// Makes the kernel read the partition table again.
    ///
    /// # Errors
    /// When the kernel cannot, or a partition of the old table is in use.
    pub fn read_partitions_again(&self) -> io::Result<()> {
        linux::read_partitions_again(&self.file)
    }
}

/// What only Linux has.
#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use rustix::fs::{Advice, FallocateFlags as Flags, OFlags};

    use super::DeviceNumber;

    pub(super) const O_EXCL: i32 = OFlags::EXCL.bits() as i32;
    pub(super) const O_DIRECT: i32 = OFlags::DIRECT.bits() as i32;

    pub(super) fn number(metadata: &std::fs::Metadata) -> Option<DeviceNumber> {
        let device = metadata.rdev();
        metadata
            .file_type()
            .is_block_device()
            .then(|| DeviceNumber(rustix::fs::major(device), rustix::fs::minor(device)))
    }

    /// Linux block/fops.c, blkdev_fallocate: the first way is refused unless the device unmaps to zeros, the second is
    /// done by writing when the device cannot.
    pub(super) fn zero(file: &File, offset: u64, length: u64) -> bool {
        let zero = |how| rustix::fs::fallocate(file, how | Flags::KEEP_SIZE, offset, length).is_ok();
        zero(Flags::PUNCH_HOLE) || zero(Flags::ZERO_RANGE)
    }

    pub(super) fn forget(file: &File) {
        // A hint, and nothing depends on it where reads are direct.
        let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
    }

    pub(super) fn sector_size(file: &File) -> Option<u32> {
        rustix::fs::ioctl_blksszget(file).ok()
    }

    #[expect(unsafe_code, reason = "ioctl(2) has no safe form")]
    pub(super) fn read_partitions_again(file: &File) -> io::Result<()> {
        /// Linux `include/uapi/linux/fs.h`: `_IO(0x12, 95)`.
        const BLKRRPART: rustix::ioctl::Opcode = 0x125f;
        // SAFETY: the request takes no argument and touches no memory of this process.
        unsafe { rustix::ioctl::ioctl(file, rustix::ioctl::NoArg::<BLKRRPART>::new()) }.map_err(io::Error::from)
    }
}

/// What stands for it elsewhere.
#[cfg(not(target_os = "linux"))]
mod linux {
    use std::fs::File;
    use std::io;

    use super::DeviceNumber;

    pub(super) const O_EXCL: i32 = 0;
    pub(super) const O_DIRECT: i32 = 0;

    pub(super) fn number(_: &std::fs::Metadata) -> Option<DeviceNumber> {
        None
    }

    pub(super) fn zero(_: &File, _: u64, _: u64) -> bool {
        false
    }

    pub(super) fn forget(_: &File) {}

    pub(super) fn sector_size(_: &File) -> Option<u32> {
        None
    }

    pub(super) fn read_partitions_again(_: &File) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make files of their own")]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned() {
        for size in [512, 4096, 5 << 20] {
            let buffer = Buffer::new(size);
            assert_eq!((buffer.as_ptr().align_offset(ALIGNMENT), buffer.len()), (0, size));
        }
    }

    #[test]
    fn zeros_replace_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, vec![7; 64 << 10]).unwrap();
        let device = Device::open(&path).unwrap();
        device.zero(4096, 8192).unwrap();
        device.sync().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let expected: Vec<u8> = (0..64 << 10).map(|at| if (4096..12288).contains(&at) { 0 } else { 7 }).collect();
        assert!(bytes == expected && device.size == 64 << 10 && device.number.is_none());
    }
}
