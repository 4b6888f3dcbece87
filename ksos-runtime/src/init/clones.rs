//! Stage 65, and whenever a disk appears or goes: other disks with the identifiers of the boot disk.
//!
//! The node goes on with the disk that it booted from, whose device it knows. The next boot could not tell the two apart
//! and would stop (stage 03), so the node says so while there is time to detach one.

use crate::disk::find::{self, BootDisk};
use crate::disk::gpt::Table;
use crate::sys::Uevent;

use super::Error;
use super::node::Node;

/// The cause that the node is degraded by.
const CAUSE: &str = "clones";

/// Looks at all disks.
pub(super) fn look(node: &mut Node<'_>) -> Result<String, Error> {
    // Before the look at what is there, so that no disk appears unseen in between.
    node.sys.listen()?;
    if node.handover.disk.is_empty() {
        return Ok("no boot disk".to_owned());
    }
    let disk = node.sys.open_disk(&node.handover.disk, false)?;
    let path = &node.handover.disk;
    let table = Table::read(disk.as_ref()).map_err(|source| Error::Table { disk: path.clone(), source })?;
    let name = path.trim_start_matches("/dev/").replace('/', "!");
    let clones = find::clones(node.sys, &BootDisk { name, table });
    if clones.is_empty() {
        node.recover(CAUSE);
    } else {
        let reason = format!(
            "{} has the same partition GUIDs as the boot disk {path}; the next boot cannot tell them apart",
            clones.iter().map(|name| format!("/dev/{}", name.replace('!', "/"))).collect::<Vec<_>>().join(", "),
        );
        node.degrade(CAUSE, &reason);
    }
    Ok(String::new())
}

/// Looks again when a disk has appeared, changed or gone.
pub(super) fn on_event(node: &mut Node<'_>, event: &Uevent) {
    let of_disk = event.field("SUBSYSTEM") == Some("block") && event.field("DEVTYPE") == Some("disk");
    if of_disk && matches!(event.action.as_str(), "add" | "change" | "remove") {
        // The boot disk itself can only be gone here, and then other things are in the way.
        let _ = look(node);
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::node;
    use super::*;
    use crate::disk::gpt::tests::image;
    use crate::sys::double::Double;

    #[test]
    fn a_copy_that_is_attached_later_is_named_and_its_removal_noticed() {
        let sys = Double::new();
        for (name, seed) in [("vda", 1), ("vdb", 9)] {
            sys.put(&format!("/sys/block/{name}/size"), "1");
            sys.disks.borrow_mut().insert(format!("/dev/{name}"), image(8, seed));
        }
        let mut node = node(&sys);
        look(&mut node).expect("works");
        assert!(node.degraded.is_empty(), "the same labels are no copy");
        let event = |action: &str| Uevent {
            action: action.to_owned(),
            device: "/devices/x/block/vdb".to_owned(),
            fields: [("SUBSYSTEM", "block"), ("DEVTYPE", "disk")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        };
        sys.disks.borrow_mut().insert("/dev/vdb".to_owned(), image(8, 1));
        on_event(&mut node, &event("bind"));
        assert!(node.degraded.is_empty());
        on_event(&mut node, &event("add"));
        let expected =
            "/dev/vdb has the same partition GUIDs as the boot disk /dev/vda; the next boot cannot tell them apart";
        assert_eq!(node.degraded["clones"], expected);
        sys.disks.borrow_mut().remove("/dev/vdb");
        on_event(&mut node, &event("remove"));
        assert!(node.degraded.is_empty());
    }
}
