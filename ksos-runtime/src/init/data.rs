//! Stage 30: the data partition. What it is like decides what is done; `volume` does it.
//!
//! | it | outcome |
//! |---|---|
//! | is blank, or marked as being formatted | formatted |
//! | holds ext4 | checked if its superblock says that there is reason to, repaired if it must be, mounted, grown |
//! | holds ext4 whose superblock is gone, and a backup superblock | repaired from that |
//! | holds something else, cannot be repaired, is missing, cannot be mounted | left as it is; memory takes its place |
//! | is full | mounted; the node is degraded and says how full; PID 1's own files have a reserve (`reserve`) |
//! | is to be reset | erased or formatted first (`reset`) |
//!
//! Memory in its place, and every other lasting fault, makes the node degraded with the reason.

use crate::disk::find::BootDisk;
use crate::disk::grow::{self, Mark};
use crate::disk::probe::Content;
use crate::sys::{FileKind, Mount, MountFlags, Space, Sys};

use super::node::Node;
use super::reset::{self, Scope};
use super::volume::{Volume, read_table};
use super::{Error, live};

/// Where data is mounted if the image has no directory for it.
const FALLBACK_MOUNT: &str = "/run/ksos/data";
/// Directories that programs of the image are looked for in.
const PROGRAM_DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// Flags of what data is mounted from: what may be executed is mounted where it appears (`persist`).
pub(super) const FLAGS: MountFlags =
    MountFlags { read_only: false, no_suid: true, no_dev: true, no_exec: true, no_atime: true };

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
    let asked = reset::from_cmdline(&node.cmdline);
    let wanted = asked.as_ref().ok().copied().flatten();
    if live::is_live(node) {
        match live::data_disk(node) {
            Ok(disk) => node.handover.disk = disk,
            Err(reason) => {
                mount_memory(node)?;
                return Ok(format!("in memory: {reason}"));
            }
        }
    }
    let mounted = mount_partition(node, wanted == Some(Scope::All));
    node.data.persistent = mounted.is_ok();
    let mut done = match mounted {
        Ok(done) => done,
        Err(error) => return in_memory(node, error),
    };
    match reset::carry_out(node, wanted) {
        Ok(what) => done.extend(what),
        Err(error) if !node.data.persistent => return in_memory(node, error),
        Err(error) => node.degrade("factory reset", &format!("factory reset: {error}")),
    }
    tell_room(node);
    // The partition is in use; that a parameter cannot be read is said all the same.
    if let Err(error) = asked {
        node.degrade("factory reset", &format!("factory reset: {error}"));
    }
    Ok(done.join(", "))
}

/// Mounts memory where the partition should be.
fn in_memory(node: &Node<'_>, error: Error) -> Result<String, Error> {
    mount_memory(node)?;
    Err(error)
}

fn mount_memory(node: &Node<'_>) -> Result<(), Error> {
    let mount = Mount { source: "tmpfs", target: &node.data.path, kind: "tmpfs", flags: FLAGS, options: "mode=0755" };
    Ok(node.sys.mount(&mount)?)
}

/// Makes the partition ready and mounts it; returns what was done. With `wipe`, formats it whatever it holds.
pub(super) fn mount_partition(node: &Node<'_>, wipe: bool) -> Result<Vec<String>, Error> {
    let sys = node.sys;
    let label = &node.config.data.label;
    let device = sys.open_disk(&node.handover.disk, true)?;
    let table = read_table(device.as_ref(), &node.handover.disk)?;
    let missing = || Error::NoPartition { disk: node.handover.disk.clone(), name: label.clone() };
    let partition = table.by_name(label).ok_or_else(missing)?.clone();
    let name = node.handover.disk.trim_start_matches("/dev/").replace('/', "!");
    let disk = BootDisk { name, table };
    let path = disk.partition_path(sys, &partition)?;
    let mut volume = Volume { sys, disk, device, partition, done: vec![path.clone()], path };
    let todo = prepare(&mut volume, wipe)?;
    match &todo {
        Todo::Format(mark) => {
            volume.fit(Some(*mark))?;
            volume.format(label)?;
        }
        Todo::Use { clean } => {
            volume.fit(grow::is_formatting(&volume.partition).then_some(Mark::Done))?;
            if !clean {
                volume.check()?;
            }
        }
        Todo::Recover => {
            // Not fitted before it is whole: the backup superblock is looked for inside the partition as it was.
            volume.recover()?;
            volume.fit(None)?;
        }
    }
    match (volume.mount(&node.data.path), todo) {
        (Err(_), Todo::Use { clean: true }) => {
            // It looked clean and is not.
            volume.check()?;
            volume.mount(&node.data.path)?;
        }
        (result, _) => result?,
    }
    volume.grow_file_system(&node.data.path);
    Ok(volume.done)
}

/// What a partition needs before it can be mounted.
enum Todo {
    Format(Mark),
    /// Nothing, or a check.
    Use {
        clean: bool,
    },
    Recover,
}

fn prepare(volume: &mut Volume<'_>, wipe: bool) -> Result<Todo, Error> {
    let marked = grow::is_formatting(&volume.partition);
    if wipe || grow::is_wiping(&volume.partition) {
        return Ok(Todo::Format(Mark::Wiping));
    }
    let foreign = |content: &str| Error::ForeignData { device: volume.path.clone(), content: content.to_owned() };
    match volume.identify()? {
        Content::Ext4(ext4) => Ok(Todo::Use { clean: ext4.clean }),
        _ if marked => Ok(Todo::Format(Mark::Formatting)),
        Content::Blank | Content::Unknown if volume.has_backup_superblock() => Ok(Todo::Recover),
        Content::Blank => Ok(Todo::Format(Mark::Formatting)),
        Content::Unknown => Err(foreign("unknown data")),
        Content::Foreign(what) => Err(foreign(&what)),
    }
}

/// Says when the partition is full. The node works on: what can be removed is removed by those who own it.
fn tell_room(node: &mut Node<'_>) {
    let Ok(space) = node.sys.space(&node.data.path) else { return };
    if is_full(space) {
        let reason =
            format!("the data partition is full: {} KiB of {} MiB are free", space.available >> 10, space.total >> 20);
        node.degrade("data room", &reason);
    }
}

/// A hundredth, but at least 1 MiB and at most 64 MiB, must be free.
fn is_full(space: Space) -> bool {
    space.available < (space.total / 100).clamp(1 << 20, 64 << 20)
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;
