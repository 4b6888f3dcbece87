//! Stage 15: the cgroup tree (kernel `Documentation/admin-guide/cgroup-v2.rst`).
//!
//! ```text
//! /sys/fs/cgroup/ksos/init      PID 1
//! /sys/fs/cgroup/ksos/NAME      service NAME
//! /sys/fs/cgroup/...            what container managers create
//! ```

use crate::sys::{Mount, MountFlags, Sys};

use super::Error;
use super::node::Node;

const ROOT: &str = "/sys/fs/cgroup";
/// Parent of PID 1's and the services' groups.
const BASE: &str = "/sys/fs/cgroup/ksos";
/// What Kubernetes needs.
const CONTROLLERS: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// Mounts cgroup2, enables the controllers and moves PID 1 to its own group.
pub(super) fn set_up(node: &mut Node<'_>) -> Result<String, Error> {
    let sys = node.sys;
    let flags = MountFlags { no_suid: true, no_dev: true, no_exec: true, ..MountFlags::default() };
    let mount = |options| sys.mount(&Mount { source: "cgroup2", target: ROOT, kind: "cgroup2", flags, options });
    // `favordynmods`: a process enters a group without waiting for all processors (10 ms and more), for services and for each
    // container; forks become a little more expensive. Kernels before 6.0 do not know it.
    mount("nsdelegate,memory_recursiveprot,favordynmods")
        .or_else(|_| mount("nsdelegate,memory_recursiveprot"))
        .or_else(|_| mount(""))?;
    let present = crate::sys::read_line(sys, &format!("{ROOT}/cgroup.controllers")).unwrap_or_default();
    let (found, missing): (Vec<&str>, Vec<&str>) =
        CONTROLLERS.iter().partition(|name| present.split(' ').any(|other| other == **name));
    sys.make_directory(BASE, 0o755)?;
    for directory in [ROOT, BASE] {
        for controller in &found {
            sys.write(&format!("{directory}/cgroup.subtree_control"), format!("+{controller}").as_bytes())?;
        }
    }
    sys.make_directory(&format!("{BASE}/init"), 0o755)?;
    sys.write(&format!("{BASE}/init/cgroup.procs"), b"1")?;
    if !missing.is_empty() {
        return Err(Error::Several(vec![format!("the kernel has no cgroup controller {}", missing.join(", "))]));
    }
    Ok(found.join(" "))
}

/// Creates the group of a service; returns its directory, or `None` if there are no cgroups.
pub(super) fn for_service(sys: &dyn Sys, name: &str) -> Option<String> {
    let directory = format!("{BASE}/{name}");
    sys.make_directory(&directory, 0o755).ok()?;
    sys.kind(&format!("{directory}/cgroup.procs")).map(|_| directory)
}

/// Kills everything in the group of a service.
pub(super) fn kill(sys: &dyn Sys, name: &str) -> crate::sys::Result<()> {
    sys.write(&format!("{BASE}/{name}/cgroup.kill"), b"1")
}
