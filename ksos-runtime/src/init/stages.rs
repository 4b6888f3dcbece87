//! What is set up in the real root before services start, as a table.
//!
//! Numbers below 10 belong to the initramfs, 80 and 90 to the services (`services`). A stage whose condition does not
//! hold is not run and not mentioned. A stage that fails is either fatal or makes the node degraded.

use std::collections::BTreeMap;

use crate::console::say;
use crate::modules::Loader;
use crate::sys::{FileKind, Mount, MountFlags, Sys};

use super::handover::StageReport;
use super::node::Node;
use super::{Error, cgroup, configuration, data, identity, mounts};

/// What a failed stage means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// The node cannot go on.
    Fatal,
    /// The node goes on, degraded.
    Degraded,
}

/// One stage.
pub(super) struct Stage {
    number: u8,
    name: &'static str,
    condition: fn(&Node<'_>) -> bool,
    run: fn(&mut Node<'_>) -> Result<String, Error>,
    severity: Severity,
}

const fn stage(
    number: u8,
    name: &'static str,
    condition: fn(&Node<'_>) -> bool,
    run: fn(&mut Node<'_>) -> Result<String, Error>,
    severity: Severity,
) -> Stage {
    Stage { number, name, condition, run, severity }
}

/// The stages, in order.
pub(super) const STAGES: [Stage; 11] = [
    stage(10, "mounts", always, mounts::mount_all, Severity::Fatal),
    stage(15, "cgroups", always, cgroup::set_up, Severity::Degraded),
    stage(20, "modules", has_modules, load_modules, Severity::Degraded),
    stage(25, "sysctl", |node| !node.config.sysctl.is_empty(), apply_sysctl, Severity::Degraded),
    stage(30, "data", always, data::mount, Severity::Degraded),
    stage(35, "persist", |node| !node.config.data.persist.is_empty(), data::persist, Severity::Degraded),
    stage(40, "identity", always, identity::set_up, Severity::Degraded),
    stage(45, "configuration", always, configuration::set_up, Severity::Degraded),
    stage(50, "directories", |node| !node.config.directories.is_empty(), make_directories, Severity::Degraded),
    stage(60, "drivers", always, load_drivers, Severity::Degraded),
    stage(70, "logs", always, open_logs, Severity::Degraded),
];

fn always(_node: &Node<'_>) -> bool {
    true
}

fn has_modules(node: &Node<'_>) -> bool {
    !node.config.modules.is_empty()
}

/// Runs all stages of `table`; returns the failure of a fatal one.
pub(super) fn run(node: &mut Node<'_>, table: &[Stage]) -> Result<(), Error> {
    for stage in table.iter().filter(|stage| (stage.condition)(node)).collect::<Vec<_>>() {
        let start = node.sys.uptime_ms();
        let result = (stage.run)(node);
        node.stages.push(report(node.sys, stage.number, stage.name, start, &result));
        match (result, stage.severity) {
            (Ok(_), _) => {}
            (Err(error), Severity::Fatal) => return Err(error),
            (Err(error), Severity::Degraded) => node.degrade(stage.name, &format!("{}: {error}", stage.name)),
        }
    }
    Ok(())
}

/// Says how a stage went.
pub(super) fn report(
    sys: &dyn Sys,
    number: u8,
    name: &str,
    start_ms: u64,
    result: &Result<String, Error>,
) -> StageReport {
    let ms = sys.uptime_ms().saturating_sub(start_ms);
    match result {
        Ok(detail) if detail.is_empty() => say(sys, &format!("stage {number:02} {name}: ok {ms} ms")),
        Ok(detail) => say(sys, &format!("stage {number:02} {name}: ok {ms} ms ({detail})")),
        Err(error) => say(sys, &format!("stage {number:02} {name}: failed {ms} ms: {error}")),
    }
    StageReport { number, name: name.to_owned(), ok: result.is_ok(), ms }
}

fn load_modules(node: &mut Node<'_>) -> Result<String, Error> {
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

/// Loads modules for the hardware that the initramfs had no drivers for: network, power button, watchdog.
fn load_drivers(node: &mut Node<'_>) -> Result<String, Error> {
    node.sys.listen()?;
    if !["/lib/modules", "/usr/lib/modules"]
        .iter()
        .any(|root| node.sys.kind(&format!("{root}/{}/modules.dep", node.sys.kernel_release())) == Some(FileKind::File))
    {
        return Ok("no modules in the image".to_owned());
    }
    let (count, failures) = Loader::open(node.sys, &node.cmdline)?.load_for_hardware();
    node.sys.watch_power_buttons();
    // Hardware that its driver refuses is no fault of the node: it is said, and that is all.
    failures.iter().for_each(|error| say(node.sys, &format!("driver: {error}")));
    Ok(format!("{count} loaded"))
}

fn apply_sysctl(node: &mut Node<'_>) -> Result<String, Error> {
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
fn make_directories(node: &mut Node<'_>) -> Result<String, Error> {
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

/// Finds a place for the services' logs: the image's `/var/log` if it can be written, memory if not.
fn open_logs(node: &mut Node<'_>) -> Result<String, Error> {
    let sys = node.sys;
    if sys.make_directory(&node.logs, 0o755).is_ok() && sys.append(&format!("{}/boot.log", node.logs), b"").is_ok() {
        return Ok(node.logs.clone());
    }
    "/run/ksos/log".clone_into(&mut node.logs);
    sys.make_directory(&node.logs, 0o755)?;
    Ok(format!("{}, in memory", node.logs))
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
        let table = [
            stage(10, "one", always, works, Severity::Fatal),
            stage(15, "skipped", |_| false, fails, Severity::Fatal),
            stage(20, "two", always, fails, Severity::Degraded),
            stage(30, "three", always, fails, Severity::Fatal),
            stage(40, "four", always, works, Severity::Fatal),
        ];
        run(&mut node, &table).expect_err("three is fatal");
        let said = sys.terminal.borrow().clone();
        let expected = "ksos: stage 10 one: ok 0 ms (fine)\n\
            ksos: stage 20 two: failed 0 ms: /x is not in the image\n\
            ksos: degraded reason=\"two: /x is not in the image\"\n\
            ksos: stage 30 three: failed 0 ms: /x is not in the image\n";
        assert_eq!(said, expected);
        assert_eq!(node.degraded.len(), 1);
    }

    #[test]
    fn sysctl_keys_with_dots_or_slashes() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/forwarding"), "/proc/sys/net/ipv4/conf/eth0.1/forwarding");
    }

    #[test]
    fn the_table_is_in_order() {
        assert!(STAGES.is_sorted_by_key(|stage| stage.number));
    }
}
