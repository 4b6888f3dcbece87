//! Stages 30 and 35: the data partition, and what of it appears where.
//!
//! The partition is taken by its GPT name on the boot disk. In order, each step safe against a power cut:
//!
//! 1. The table is fitted to the disk and the partition grown (`disk::grow`). In the same write the partition is
//!    marked as being formatted, if it is blank or was marked before.
//! 2. A blank or marked partition is formatted, then the mark is taken away. Anything else that is no ext4 file system
//!    is left alone and reported.
//! 3. An existing file system is checked (`e2fsck -p`, once `-y` if that fails), mounted, and grown while mounted: the
//!    kernel journals that, the offline resizer does not.
//!
//! Whatever fails: memory takes the partition's place, the node is degraded and says why.

use crate::disk::gpt::{Partition, Table};
use crate::disk::grow::{self, Change};
use crate::disk::probe::{Content, Ext4, PROBE_SIZE, identify};
use crate::disk::{find::BootDisk, gpt::GptError};
use crate::sys::{Disk, Exit, FileKind, Mount, MountFlags, Sys};

use super::Error;
use super::node::Node;

/// Where data is mounted if the image has no directory for it.
const FALLBACK_MOUNT: &str = "/run/ksos/data";
/// Directories that programs of the image are looked for in.
const PROGRAM_DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Returns the path of a program of the image.
pub(super) fn find_program(sys: &dyn Sys, name: &str) -> Result<String, Error> {
    let mut candidates = PROGRAM_DIRECTORIES.iter().map(|directory| format!("{directory}/{name}"));
    candidates.find(|path| sys.kind(path) == Some(FileKind::File)).ok_or_else(|| Error::NoProgram(name.to_owned()))
}

/// Mounts the data partition, or memory in its place.
pub(super) fn mount(node: &mut Node<'_>) -> Result<String, Error> {
    if node.sys.kind(&node.data.path) != Some(FileKind::Directory) {
        FALLBACK_MOUNT.clone_into(&mut node.data.path);
        node.sys.make_directory(FALLBACK_MOUNT, 0o755)?;
    }
    let result = mount_partition(node);
    node.data.persistent = result.is_ok();
    if result.is_err() {
        super::stages::mount_tmpfs(node.sys, &node.data.path, 0o755)?;
    }
    result
}

/// The data partition while it is made ready.
struct Volume<'a> {
    sys: &'a dyn Sys,
    disk: BootDisk,
    device: Box<dyn Disk>,
    partition: Partition,
    path: String,
    done: Vec<String>,
}

fn mount_partition(node: &Node<'_>) -> Result<String, Error> {
    let sys = node.sys;
    let label = &node.config.data.label;
    let device = sys.open_disk(&node.handover.disk, true)?;
    let table = read_table(device.as_ref(), &node.handover.disk)?;
    let missing = || Error::NoPartition { disk: node.handover.disk.clone(), name: label.clone() };
    let partition = table.by_name(label).ok_or_else(missing)?.clone();
    let name = node.handover.disk.trim_start_matches("/dev/").replace('/', "!");
    let disk = BootDisk { name, table };
    let path = disk.partition_path(sys, &partition)?;
    let mut volume = Volume { sys, disk, device, partition, path, done: Vec::new() };
    let marked = grow::is_formatting(&volume.partition);
    let content = volume.identify()?;
    let format = match &content {
        Content::Ext4(_) => false,
        Content::Blank => true,
        Content::Foreign(_) if marked => true,
        Content::Foreign(what) => {
            return Err(Error::ForeignData { device: volume.path.clone(), content: what.clone() });
        }
    };
    volume.fit(format.then_some(true).or(marked.then_some(false)))?;
    if format {
        volume.format(label)?;
    } else {
        volume.check()?;
    }
    volume.mount(&node.data.path)?;
    volume.grow_file_system(&node.data.path);
    Ok(format!("{}{}", volume.path, volume.done.iter().map(|what| format!(", {what}")).collect::<String>()))
}

fn read_table(device: &dyn Disk, path: &str) -> Result<Table, Error> {
    Table::read(device).map_err(|source: GptError| Error::Table { disk: path.to_owned(), source })
}

impl Volume<'_> {
    /// Tells what is on the partition.
    fn identify(&self) -> Result<Content, Error> {
        let (start, length) = self.disk.table.extent(&self.partition);
        let mut head = vec![0; PROBE_SIZE.min(usize::try_from(length).unwrap_or(PROBE_SIZE))];
        // Through the partition's own device, not the disk's: they have separate caches.
        match self.sys.open_disk(&self.path, false) {
            Ok(device) => device.read_at(0, &mut head)?,
            Err(error) if error.is_not_found() => self.device.read_at(start, &mut head)?,
            Err(error) => return Err(error.into()),
        }
        Ok(identify(&head))
    }

    /// Fits the table to the disk, grows the partition, and sets or clears its mark.
    fn fit(&mut self, formatting: Option<bool>) -> Result<(), Error> {
        let name = self.partition.name.clone();
        let mut mbr = [0; 512];
        self.device.read_at(0, &mut mbr)?;
        let plan = grow::plan(&self.disk.table, &mbr, Change { name: &name, formatting });
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
    fn format(&mut self, label: &str) -> Result<(), Error> {
        let mke2fs = find_program(self.sys, "mke2fs")?;
        // mke2fs makes a UUID and, without a seeded generator, polls for one for 4 s (libuuid). Waiting for it in the
        // kernel seeds it from timer jitter within about 1 s.
        self.sys.random(&mut [0])?;
        let options = "lazy_itable_init=1,lazy_journal_init=1";
        // Blocks of 4096 bytes also for a partition that is small now: it may be large after the next resize.
        let arguments = [&mke2fs, "-q", "-F", "-t", "ext4", "-b", "4096", "-L", label, "-E", options, &self.path];
        let (exit, output) = self.sys.run(&arguments)?;
        if !exit.success() {
            return Err(Error::Program { program: "mke2fs".to_owned(), exit, output });
        }
        self.fit(Some(false))?;
        self.done.push("formatted".to_owned());
        Ok(())
    }

    /// Checks the file system (e2fsck(8): status 1 is corrected, 2 corrected and to be mounted anew, 4 not corrected).
    fn check(&mut self) -> Result<(), Error> {
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
            _ => Err(Error::Program { program: format!("e2fsck {}", self.path), exit, output }),
        }
    }

    fn mount(&self, target: &str) -> Result<(), Error> {
        // Containers need to execute and to change users; device nodes come from /dev.
        let flags = MountFlags { no_atime: true, no_dev: true, ..MountFlags::default() };
        Ok(self.sys.mount(&Mount { source: &self.path, target, kind: "ext4", flags, options: "" })?)
    }

    /// Grows the mounted file system to its partition. A failure leaves it as large as it was.
    fn grow_file_system(&mut self, target: &str) {
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

/// Binds what persists to its place. What the image holds there is copied to the data partition first, once.
pub(super) fn persist(node: &mut Node<'_>) -> Result<String, Error> {
    let mut paths = node.config.data.persist.clone();
    // A directory before what is below it.
    paths.sort();
    let results = paths.iter().map(|path| persist_one(node, path));
    Error::unless_empty(results.filter_map(|result| result.err().map(|error| error.to_string())).collect())?;
    Ok(format!("{} paths", paths.len()))
}

fn persist_one(node: &Node<'_>, path: &str) -> Result<(), Error> {
    let sys = node.sys;
    if sys.kind(path).is_none() {
        return Err(Error::NoPath(path.to_owned()));
    }
    let kept = format!("{}/{}", node.data.path.trim_end_matches('/'), path.trim_matches('/'));
    if sys.kind(&kept).is_none() {
        if let Some((parent, _)) = kept.rsplit_once('/') {
            sys.make_directory(parent, 0o755)?;
        }
        // Complete under another name first: half a copy would look like a whole one at the next boot.
        let staging = format!("{}/ksos/staging-{}", node.data.path, path.trim_matches('/').replace('/', "-"));
        sys.make_directory(&format!("{}/ksos", node.data.path), 0o755)?;
        sys.remove_tree(&staging)?;
        sys.copy_tree(path, &staging)?;
        sys.sync();
        sys.rename(&staging, &kept)?;
    }
    Ok(sys.bind(&kept, path)?)
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;
