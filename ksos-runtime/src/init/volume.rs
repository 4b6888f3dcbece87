//! The data partition while it is made ready.
//!
//! The partition is taken by its GPT name on the boot disk. In order, each step safe against a power cut:
//!
//! 1. The table is fitted to the disk and the partition grown (`disk::grow`). In the same write the partition is
//!    marked as being formatted, if that is what follows.
//! 2. A marked partition is formatted, then the mark is taken away.
//! 3. An existing file system is checked if it is not clean, or cannot be mounted (`e2fsck -p`, once `-y` if that fails, once with the backup superblock if that
//!    fails too), mounted, and grown while mounted: the kernel journals that, the offline resizer does not.

use crate::disk::find::BootDisk;
use crate::disk::gpt::{GptError, Partition, Table};
use crate::disk::grow::{self, Change, Mark};
use crate::disk::probe::{self, Content, Ext4, PROBE_SIZE, identify};
use crate::sys::{Disk, Exit, Mount, Sys};

use super::Error;
use super::data::{FLAGS, find_program};

/// Features of a new file system (ext4(5)), whatever the image's `mke2fs.conf` has: e2fsprogs' own choice since 1.43, without
/// `orphan_file`, which 1.47 has added. Every mount reads the whole of that file, block by block (kernel `fs/ext4/orphan.c`,
/// `ext4_init_orphan_info`), 432 times for 7 GB; what it is good for is many processors that truncate files at once.
pub(super) const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// The partition.
pub(super) struct Volume<'a> {
    /// The machine.
    pub(super) sys: &'a dyn Sys,
    /// The disk that it is on.
    pub(super) disk: BootDisk,
    /// That disk, open for writing.
    pub(super) device: Box<dyn Disk>,
    /// Its entry in the table.
    pub(super) partition: Partition,
    /// Path of its device.
    pub(super) path: String,
    /// What was done to it.
    pub(super) done: Vec<String>,
}

/// Reads the table of a disk.
pub(super) fn read_table(device: &dyn Disk, path: &str) -> Result<Table, Error> {
    Table::read(device).map_err(|source: GptError| Error::Table { disk: path.to_owned(), source })
}

impl Volume<'_> {
    /// Tells what is on the partition.
    pub(super) fn identify(&self) -> Result<Content, Error> {
        let (_, length) = self.disk.table.extent(&self.partition);
        let mut head = vec![0; PROBE_SIZE.min(usize::try_from(length).unwrap_or(PROBE_SIZE))];
        self.read(0, &mut head)?;
        Ok(identify(&head))
    }

    /// Reads from the partition; through its own device, not the disk's: they have separate caches.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let (start, _) = self.disk.table.extent(&self.partition);
        match self.sys.open_disk(&self.path, false) {
            Ok(device) => Ok(device.read_at(offset, buffer)?),
            Err(error) if error.is_not_found() => Ok(self.device.read_at(start + offset, buffer)?),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns whether there is a backup superblock inside the partition. One beyond its end in the table is of an older
    /// installation: an image that was just written has a small partition, and what is behind it does not count.
    pub(super) fn has_backup_superblock(&self) -> bool {
        let (_, length) = self.disk.table.extent(&self.partition);
        let mut block = [0; probe::SUPERBLOCK_SIZE];
        length >= probe::BACKUP_SUPERBLOCK + probe::SUPERBLOCK_SIZE as u64
            && self.read(probe::BACKUP_SUPERBLOCK, &mut block).is_ok()
            && probe::is_backup_superblock(&block)
    }

    /// Fits the table to the disk, grows the partition, and marks it.
    pub(super) fn fit(&mut self, mark: Option<Mark>) -> Result<(), Error> {
        let name = self.partition.name.clone();
        let mut mbr = [0; 512];
        self.device.read_at(0, &mut mbr)?;
        let plan = grow::plan(&self.disk.table, &mbr, Change { name: &name, mark });
        let plan = plan.map_err(|source| Error::Grow { disk: self.disk.path(), source })?;
        let Some(plan) = plan else { return Ok(()) };
        plan.apply(self.device.as_ref())?;
        self.disk.table = read_table(self.device.as_ref(), &self.disk.path())?;
        if let Some(partition) = plan.partition {
            self.partition = partition;
        }
        if plan.grew {
            let (start, length) = self.disk.table.extent(&self.partition);
            self.sys.resize_partition(&self.disk.path(), self.partition.number, start, length)?;
            self.done.push(format!("grown to {} MiB", length >> 20));
        }
        Ok(())
    }

    /// Formats the partition and takes the mark away.
    pub(super) fn format(&mut self, label: &str) -> Result<(), Error> {
        let mke2fs = find_program(self.sys, "mke2fs")?;
        // mke2fs makes a UUID and, without a seeded generator, polls for one for 4 s (libuuid). Waiting for it in the
        // kernel seeds it from timer jitter within about 1 s.
        self.sys.random(&mut [0])?;
        let options = "lazy_itable_init=1,lazy_journal_init=1";
        // Blocks of 4096 bytes also for a partition that is small now: it may be large after the next resize.
        let arguments =
            [&mke2fs, "-q", "-F", "-t", "ext4", "-b", "4096", "-O", FEATURES, "-L", label, "-E", options, &self.path];
        let (exit, output) = self.sys.run(&arguments)?;
        if !exit.success() {
            return Err(Error::Program { program: "mke2fs".to_owned(), exit, output });
        }
        self.fit(Some(Mark::Done))?;
        self.done.push("formatted".to_owned());
        Ok(())
    }

    /// Checks the file system (e2fsck(8): status 1 is corrected, 2 corrected and to be mounted anew, 4 not corrected).
    pub(super) fn check(&mut self) -> Result<(), Error> {
        let e2fsck = match find_program(self.sys, "e2fsck") {
            Ok(path) => path,
            Err(error) => {
                self.done.push(format!("not checked: {error}"));
                return Ok(());
            }
        };
        let (exit, _) = self.sys.run(&[&e2fsck, "-p", &self.path])?;
        match exit {
            Exit::Code(0) => return Ok(()),
            Exit::Code(1..=3) => {
                self.done.push("repaired".to_owned());
                return Ok(());
            }
            _ => {}
        }
        let (exit, output) = self.sys.run(&[&e2fsck, "-y", &self.path])?;
        match exit {
            Exit::Code(0..=3) => {
                self.done.push("repaired with losses possible".to_owned());
                Ok(())
            }
            _ if self.has_backup_superblock() => self.recover(),
            _ => Err(Error::Program { program: format!("e2fsck {}", self.path), exit, output }),
        }
    }

    /// Repairs the file system from its first backup superblock.
    pub(super) fn recover(&mut self) -> Result<(), Error> {
        let e2fsck = find_program(self.sys, "e2fsck")?;
        let block = (probe::BACKUP_SUPERBLOCK / 4096).to_string();
        let (exit, output) = self.sys.run(&[&e2fsck, "-y", "-b", &block, "-B", "4096", &self.path])?;
        if !matches!(exit, Exit::Code(0..=3)) {
            return Err(Error::Program { program: format!("e2fsck -b {block} {}", self.path), exit, output });
        }
        self.done.push("repaired from the backup superblock, losses possible".to_owned());
        Ok(())
    }

    /// Mounts it. An error of the file system makes it read-only until it is checked at the next boot.
    pub(super) fn mount(&self, target: &str) -> Result<(), Error> {
        let options = "errors=remount-ro";
        Ok(self.sys.mount(&Mount { source: &self.path, target, kind: "ext4", flags: FLAGS, options })?)
    }

    /// Grows the mounted file system to its partition. A failure leaves it as large as it was.
    pub(super) fn grow_file_system(&mut self, target: &str) {
        let Ok(Content::Ext4(Ext4 { blocks, block_size, .. })) = self.identify() else { return };
        let possible = self.disk.table.extent(&self.partition).1 / block_size;
        if possible <= blocks {
            return;
        }
        self.done.push(match self.sys.resize_ext4(target, possible) {
            Ok(()) => format!("file system grown from {} MiB", (blocks * block_size) >> 20),
            Err(error) => format!("file system not grown: {error}"),
        });
    }
}
