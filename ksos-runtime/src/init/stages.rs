//! What is set up in the real root before services start: running the table (`table`), and the stages that are short.

use std::collections::BTreeMap;

use crate::modules::Loader;
use crate::sys::{Mount, MountFlags, Sys};

use super::Error;
use super::node::Node;
use super::table::{Failure, Run, Stage};
use super::{journal, reserve};

pub(super) fn has_modules(node: &Node<'_>) -> bool {
    !node.config.modules.is_empty()
}

pub(super) fn has_sysctl(node: &Node<'_>) -> bool {
    !node.config.sysctl.is_empty()
}

pub(super) fn has_directories(node: &Node<'_>) -> bool {
    !node.config.directories.is_empty()
}

/// Runs the stages of `table` that are for the real root; returns the failure of a fatal one.
pub(super) fn run(node: &mut Node<'_>, table: &[Stage]) -> Result<(), Error> {
    for stage in table {
        let Run::Root(condition, run) = stage.run else { continue };
        if !condition(node) {
            continue;
        }
        let start = node.sys.uptime_ms();
        let result = run(node);
        node.report(stage, start, &result);
        if !matches!(stage.failure, Failure::Degraded(_)) {
            result?;
        }
        // A stage that has ended is progress.
        node.progress();
    }
    Ok(())
}

pub(super) fn load_modules(node: &mut Node<'_>) -> Result<String, Error> {
    let loader = Loader::open(node.sys, &node.cmdline)?;
    let (mut count, mut failures) = (0, Vec::new());
    for name in &node.config.modules {
        match loader.load(name) {
            Ok(paths) => count += paths.len(),
            Err(error) => failures.push(error.to_string()),
        }
    }
    Error::unless_empty(failures)?;
    Ok(format!("{count} loaded"))
}

pub(super) fn apply_sysctl(node: &mut Node<'_>) -> Result<String, Error> {
    let settings: &BTreeMap<String, String> = &node.config.sysctl;
    let write = |(key, value): (&String, &String)| node.sys.write(&sysctl_path(key), value.as_bytes()).err();
    Error::unless_empty(settings.iter().filter_map(write).map(|error| error.to_string()).collect())?;
    Ok(format!("{} settings", settings.len()))
}

/// Returns the file of a kernel setting. A key with a slash is taken as it is, as sysctl(8) does, so that names with
/// dots (`net/ipv4/conf/eth0.1/...`) can be written.
fn sysctl_path(key: &str) -> String {
    let path = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    format!("/proc/sys/{path}")
}

/// Creates directories. One that the read-only root holds becomes a tmpfs.
pub(super) fn make_directories(node: &mut Node<'_>) -> Result<String, Error> {
    let mut failures = Vec::new();
    for directory in &node.config.directories {
        let made = node.sys.make_directory(&directory.path, directory.mode);
        let result = made.and_then(|()| match node.sys.set_mode(&directory.path, directory.mode) {
            Err(error) if error.is_read_only() => mount_tmpfs(node.sys, &directory.path, directory.mode),
            other => other,
        });
        failures.extend(result.err().map(|error| error.to_string()));
    }
    Error::unless_empty(failures)?;
    Ok(format!("{} directories", node.config.directories.len()))
}

/// Mounts a tmpfs over a directory of the image.
pub(super) fn mount_tmpfs(sys: &dyn Sys, target: &str, mode: u32) -> crate::sys::Result<()> {
    let flags = MountFlags { no_suid: true, no_dev: true, ..MountFlags::default() };
    let options = format!("mode={mode:04o}");
    sys.mount(&Mount { source: "tmpfs", target, kind: "tmpfs", flags, options: &options })
}

/// Finds a place for the services' logs: the image's `/var/log` if it can be written, memory if not. Then writes the
/// boot log, and makes sure that there is a reserve for the next boot.
pub(super) fn open_logs(node: &mut Node<'_>) -> Result<String, Error> {
    let sys = node.sys;
    if sys.make_directory(&node.logs, 0o755).is_err()
        || sys.append(&format!("{}/{}", node.logs, journal::NAME), b"").is_err()
    {
        "/run/ksos/log".clone_into(&mut node.logs);
        sys.make_directory(&node.logs, 0o755)?;
    }
    // A full disk does not fail the boot.
    if let Err(error) = journal::open(node) {
        node.degrade("boot log", &format!("boot log: {error}"));
    }
    if node.data.persistent {
        reserve::ensure(sys, &node.data.path);
    }
    let memory = if node.logs.starts_with("/run/") || !node.data.persistent { ", in memory" } else { "" };
    Ok(format!("{}{memory}", node.logs))
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::node;
    use super::*;
    use crate::sys::double::Double;

    fn fails(_node: &mut Node<'_>) -> Result<String, Error> {
        Err(Error::NoPath("/x".to_owned()))
    }

    fn works(_node: &mut Node<'_>) -> Result<String, Error> {
        Ok("fine".to_owned())
    }

    #[test]
    fn degraded_stages_go_on_fatal_ones_do_not_and_conditions_hold() {
        let sys = Double::new();
        let mut node = node(&sys);
        let root = |run: fn(&mut Node<'_>) -> Result<String, Error>| Run::Root(|_| true, run);
        let stage = |number, name, failure, run| Stage { number, name, what: "", failure, run };
        let table = [
            stage(10, "one", Failure::Fatal, root(works)),
            stage(15, "skipped", Failure::Fatal, Run::Root(|_| false, fails)),
            stage(20, "two", Failure::Degraded("x"), root(fails)),
            stage(25, "elsewhere", Failure::Fatal, Run::Elsewhere),
            stage(30, "three", Failure::Fatal, root(fails)),
            stage(40, "four", Failure::Fatal, root(works)),
        ];
        run(&mut node, &table).expect_err("three is fatal");
        let said = sys.terminal.borrow().clone();
        let expected = "ksos: stage 10 one: ok 0 ms (fine)\n\
            ksos: stage 20 two: failed 0 ms: /x is not in the image\n\
            ksos: degraded reason=\"two: /x is not in the image\"\n\
            ksos: stage 30 three: failed 0 ms: /x is not in the image\n";
        assert_eq!(said, expected);
        assert_eq!(node.degraded.len(), 1);
        let outcomes: Vec<&str> = node.stages.iter().map(|report| report.outcome.as_str()).collect();
        assert_eq!(outcomes, ["ok", "degraded", "failed"]);
    }

    #[test]
    fn sysctl_keys_with_dots_or_slashes() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/forwarding"), "/proc/sys/net/ipv4/conf/eth0.1/forwarding");
    }
}
