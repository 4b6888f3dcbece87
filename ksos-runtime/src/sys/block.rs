//! Block device ioctls: sizes, partitions, loop devices, dm-verity, ext4 growth.
//!
//! Layouts and numbers: `include/uapi/linux/{fs.h,blkpg.h,loop.h,dm-ioctl.h,ext4.h}` of Linux 6.12, 64-bit.

#![expect(
    unsafe_code,
    reason = "ioctl(2) has no safe form; each call passes a pointer to a live value of the right type"
)]
#![expect(clippy::disallowed_methods, reason = "`sys` is where the runtime opens files")]

use std::cell::OnceCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use ksos_formats::boot::Verity;

use super::{Disk, Error, LoopFile, Result};

const BLKSSZGET: u64 = 0x1268;
const BLKGETSIZE64: u64 = 0x8008_1272;
const BLKPG: u64 = 0x1269;
const BLKPG_ADD_PARTITION: i32 = 1;
const BLKPG_RESIZE_PARTITION: i32 = 3;
const LOOP_CTL_GET_FREE: u64 = 0x4C82;
const LOOP_CONFIGURE: u64 = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_DIRECT_IO: u32 = 16;
const EXT4_IOC_RESIZE_FS: u64 = 0x4008_6610;
const DM_DEV_CREATE: u64 = 0xC138_FD03;
const DM_DEV_REMOVE: u64 = 0xC138_FD04;
const DM_DEV_SUSPEND: u64 = 0xC138_FD06;
const DM_TABLE_LOAD: u64 = 0xC138_FD09;
const DM_READONLY_FLAG: u32 = 1;
/// Attempts at a free loop device, when something else takes the one we were told of.
const LOOP_ATTEMPTS: u32 = 8;
/// Sectors of 512 bytes per 4096-byte verity block.
const SECTORS_PER_BLOCK: u64 = 8;

#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: i32,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

#[repr(C)]
struct BlkpgArgument {
    operation: i32,
    flags: i32,
    length: i32,
    data: *mut BlkpgPartition,
}

#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

#[repr(C)]
struct DmIoctl {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_number: u32,
    padding: u32,
    device: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

#[repr(C)]
struct DmTargetSpec {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
}

/// A `dm_ioctl` with one target and its parameter text behind it.
#[repr(C)]
struct DmTable {
    header: DmIoctl,
    spec: DmTargetSpec,
    parameters: [u8; 1024],
}

const _: () = assert!(size_of::<DmIoctl>() == 312 && size_of::<DmTargetSpec>() == 40);
const _: () = assert!(size_of::<LoopInfo64>() == 232 && size_of::<LoopConfig>() == 304);
const _: () = assert!(size_of::<BlkpgPartition>() == 152 && size_of::<BlkpgArgument>() == 24);

/// Calls ioctl(2) with a pointer to `argument`.
fn ioctl<T>(file: &File, request: u64, argument: &mut T) -> io::Result<i32> {
    // SAFETY: the descriptor is open, and `argument` is a live, exclusively borrowed value whose type is the one that
    // the request defines: the callers in this file pair them, and the assertions above check the sizes.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request as _, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Calls ioctl(2) with an integer argument.
fn ioctl_value(file: &File, request: u64, argument: u64) -> io::Result<i32> {
    // SAFETY: the requests used with this function take an integer, not a pointer.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An open block device.
#[derive(Debug)]
struct BlockDevice {
    path: String,
    file: File,
    writable: bool,
    /// The same device, opened to bypass the page cache.
    direct: OnceCell<File>,
    size: u64,
    sector_size: u64,
}

/// Alignment in memory that direct input and output want: a page is enough for every device.
const DIRECT_ALIGNMENT: usize = 4096;

/// A buffer that is aligned for direct input and output.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let bytes = vec![0; length + DIRECT_ALIGNMENT];
        let start = bytes.as_ptr().align_offset(DIRECT_ALIGNMENT).min(DIRECT_ALIGNMENT);
        Aligned { bytes, start, length }
    }

    fn slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

impl BlockDevice {
    fn direct(&self) -> io::Result<&File> {
        if let Some(file) = self.direct.get() {
            return Ok(file);
        }
        let flags = libc::O_DIRECT | libc::O_DSYNC;
        let file = OpenOptions::new().read(true).write(self.writable).custom_flags(flags).open(&self.path)?;
        Ok(self.direct.get_or_init(|| file))
    }
}

/// Opens the block device at `path`.
pub(super) fn open_disk(path: &str, writable: bool) -> Result<Box<dyn Disk>> {
    let open = || {
        let file = OpenOptions::new().read(true).write(writable).open(path)?;
        let (mut size, mut sector_size) = (0_u64, 0_i32);
        ioctl(&file, BLKGETSIZE64, &mut size)?;
        ioctl(&file, BLKSSZGET, &mut sector_size)?;
        let sector_size = u64::try_from(sector_size).ok().filter(|size| *size >= 512);
        let sector_size = sector_size.ok_or_else(|| io::Error::other("the sector size is under 512 bytes"))?;
        Ok(BlockDevice { path: path.to_owned(), file, writable, direct: OnceCell::new(), size, sector_size })
    };
    open().map(|device| Box::new(device) as Box<dyn Disk>).map_err(|source: io::Error| Error::new("open", path, source))
}

impl Disk for BlockDevice {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|source| Error::new("read", &self.path, source))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|source| Error::new("write", &self.path, source))
    }

    fn flush(&self) -> Result<()> {
        self.file.sync_all().map_err(|source| Error::new("flush", &self.path, source))
    }

    fn read_direct(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut read = || {
            let mut aligned = Aligned::new(buffer.len());
            self.direct()?.read_exact_at(aligned.slice(), offset)?;
            buffer.copy_from_slice(aligned.slice());
            Ok(())
        };
        read().map_err(|source: io::Error| Error::new("read past the cache", &self.path, source))
    }

    fn write_direct(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let write = || {
            let mut aligned = Aligned::new(bytes.len());
            aligned.slice().copy_from_slice(bytes);
            // One call: a request that the kernel takes in part is a failure, not something to go on with.
            match self.direct()?.write_at(aligned.slice(), offset)? {
                count if count == bytes.len() => Ok(()),
                count => Err(io::Error::other(format!("only {count} of {} bytes were written", bytes.len()))),
            }
        };
        write().map_err(|source: io::Error| Error::new("write past the cache", &self.path, source))
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u64 {
        self.sector_size
    }

    fn write_out(&self, offset: u64, length: u64, wait: bool) -> Result<()> {
        write_out(&self.file, offset, length, wait).map_err(|source| Error::new("write", &self.path, source))
    }

    fn forget(&self, offset: u64, length: u64) -> Result<()> {
        let advice = rustix::fs::Advice::DontNeed;
        let length = std::num::NonZeroU64::new(length);
        rustix::fs::fadvise(&self.file, offset, length, advice)
            .map_err(|source| Error::new("read", &self.path, source))
    }
}

/// Starts writing out a range of the page cache, and waits for it if asked to (sync_file_range(2)).
fn write_out(file: &File, offset: u64, length: u64, wait: bool) -> io::Result<()> {
    let number = |value: u64| i64::try_from(value).map_err(io::Error::other);
    let waiting = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let flags = libc::SYNC_FILE_RANGE_WRITE | if wait { waiting } else { 0 };
    // SAFETY: the descriptor is open, and the call takes only integers.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), number(offset)?, number(length)?, flags) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn partition(disk: &str, operation: i32, number: u32, start: u64, length: u64) -> io::Result<()> {
    let number_limited = |value: u64| i64::try_from(value).map_err(io::Error::other);
    let mut data = BlkpgPartition {
        start: number_limited(start)?,
        length: number_limited(length)?,
        number: i32::try_from(number).map_err(io::Error::other)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let length = size_of::<BlkpgPartition>() as i32;
    let mut argument = BlkpgArgument { operation, flags: 0, length, data: &raw mut data };
    ioctl(&File::open(disk)?, BLKPG, &mut argument).map(drop)
}

/// Tells the kernel of a partition.
pub(super) fn add_partition(disk: &str, number: u32, start: u64, length: u64) -> Result<()> {
    partition(disk, BLKPG_ADD_PARTITION, number, start, length)
        .map_err(|source| Error::new("add partition to", disk, source))
}

/// Tells the kernel a partition's new length.
pub(super) fn resize_partition(disk: &str, number: u32, start: u64, length: u64) -> Result<()> {
    partition(disk, BLKPG_RESIZE_PARTITION, number, start, length)
        .map_err(|source| Error::new("resize partition of", disk, source))
}

/// Attaches a file, read-only, with 4096-byte blocks, to a free loop device.
pub(super) fn attach_loop(request: &LoopFile<'_>) -> Result<String> {
    let failed = |source: io::Error| Error::new("attach loop device to", request.path, source);
    let file = File::open(request.path).map_err(failed)?;
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control").map_err(failed)?;
    let mut last = io::Error::other("no free loop device");
    for _ in 0..LOOP_ATTEMPTS {
        let number = ioctl_value(&control, LOOP_CTL_GET_FREE, 0).map_err(failed)?;
        let path = format!("/dev/loop{number}");
        let device = File::open(&path).map_err(failed)?;
        match configure_loop(&device, &file, request.direct) {
            Ok(()) => return Ok(path),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => last = error,
            Err(error) => return Err(failed(error)),
        }
    }
    Err(failed(last))
}

fn configure_loop(device: &File, file: &File, direct: bool) -> io::Result<()> {
    let flags = LO_FLAGS_READ_ONLY | if direct { LO_FLAGS_DIRECT_IO } else { 0 };
    let info = LoopInfo64 {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let fd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    let mut config = LoopConfig { fd, block_size: 4096, info, reserved: [0; 8] };
    ioctl(device, LOOP_CONFIGURE, &mut config).map(drop)
}

fn copy_text(target: &mut [u8], text: &str) -> io::Result<()> {
    let room = target.get_mut(..text.len());
    let room = room.ok_or_else(|| io::Error::other(format!("{text:?} is too long for device-mapper")))?;
    room.copy_from_slice(text.as_bytes());
    Ok(())
}

fn dm_header(name: &str, data_size: usize) -> io::Result<DmIoctl> {
    let mut header = DmIoctl {
        version: [4, 0, 0],
        data_size: u32::try_from(data_size).map_err(io::Error::other)?,
        data_start: size_of::<DmIoctl>() as u32,
        target_count: 0,
        open_count: 0,
        flags: 0,
        event_number: 0,
        padding: 0,
        device: 0,
        name: [0; 128],
        uuid: [0; 129],
        data: [0; 7],
    };
    copy_text(&mut header.name[..127], name)?;
    Ok(header)
}

/// Creates and activates a read-only dm-verity device; returns its path.
pub(super) fn create_verity(name: &str, device: &str, verity: &Verity) -> Result<String> {
    let failed = |source: io::Error| Error::new("set up dm-verity on", device, source);
    let control = OpenOptions::new().read(true).write(true).open("/dev/mapper/control").map_err(failed)?;
    let mut created = dm_header(name, size_of::<DmIoctl>()).map_err(failed)?;
    ioctl(&control, DM_DEV_CREATE, &mut created).map_err(failed)?;
    if let Err(error) = activate_verity(&control, name, device, verity) {
        if let Ok(mut header) = dm_header(name, size_of::<DmIoctl>()) {
            // The first failure is what matters; a device left behind is unused.
            let _ = ioctl(&control, DM_DEV_REMOVE, &mut header);
        }
        return Err(failed(error));
    }
    Ok(format!("/dev/dm-{}", device_minor(created.device)))
}

fn activate_verity(control: &File, name: &str, device: &str, verity: &Verity) -> io::Result<()> {
    let sectors = verity.data_blocks.checked_mul(SECTORS_PER_BLOCK);
    let length = sectors.ok_or_else(|| io::Error::other("the number of data blocks is absurd"))?;
    let mut spec = DmTargetSpec {
        sector_start: 0,
        length,
        status: 0,
        next: size_of::<DmTable>() as u32 - 312,
        target_type: [0; 16],
    };
    copy_text(&mut spec.target_type[..15], "verity")?;
    let mut parameters = [0; 1024];
    copy_text(&mut parameters[..1023], &verity_parameters(device, verity))?;
    let header = dm_header(name, size_of::<DmTable>())?;
    let mut table = DmTable { header, spec, parameters };
    table.header.target_count = 1;
    table.header.flags = DM_READONLY_FLAG;
    ioctl(control, DM_TABLE_LOAD, &mut table)?;
    // Suspend without the suspend flag is resume: it makes the loaded table the active one.
    ioctl(control, DM_DEV_SUSPEND, &mut dm_header(name, size_of::<DmIoctl>())?).map(drop)
}

/// Table parameters: `Documentation/admin-guide/device-mapper/verity.rst`, "Construction Parameters".
pub(super) fn verity_parameters(device: &str, verity: &Verity) -> String {
    let Verity { data_blocks, root_hash, salt } = verity;
    format!("1 {device} {device} 4096 4096 {data_blocks} {data_blocks} sha256 {root_hash} {salt}")
}

/// Minor number in the kernel's `huge_encode_dev` form (`include/linux/kdev_t.h`).
fn device_minor(device: u64) -> u64 {
    (device & 0xff) | ((device >> 12) & 0xfff00)
}

/// Grows a mounted ext4 file system.
pub(super) fn resize_ext4(path: &str, blocks: u64) -> Result<()> {
    let resize = || {
        let mut blocks = blocks;
        ioctl(&File::open(path)?, EXT4_IOC_RESIZE_FS, &mut blocks).map(drop)
    };
    resize().map_err(|source| Error::new("grow file system at", path, source))
}

#[cfg(test)]
mod tests {
    use ksos_formats::Digest;

    use super::*;

    #[test]
    fn verity_table_names_data_hash_and_salt() {
        let verity = Verity { data_blocks: 17, root_hash: Digest([0xab; 32]), salt: Digest([1; 32]) };
        let expected =
            format!("1 /dev/loop0 /dev/loop0 4096 4096 17 17 sha256 {} {}", "ab".repeat(32), "01".repeat(32));
        assert_eq!(verity_parameters("/dev/loop0", &verity), expected);
    }

    #[test]
    fn minor_numbers_decode() {
        assert_eq!(device_minor((254 << 8) | 3), 3);
        assert_eq!(device_minor(0x0010_fe05), 0x105);
    }
}
