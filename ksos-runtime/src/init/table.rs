//! The stages of the boot as one table: what each does, and what its failure means.
//!
//! Stages below 10 run in the initramfs (`initramfs`), 10 to 70 in the real root (`stages`), 80 to 90 are what the
//! supervisor reaches (`services`). `docs/boot-flow.md` shows the table; a test compares the two.

use super::initramfs::{self, Boot};
use super::node::Node;
use super::{
    Error, apparmor, cgroup, clones, configuration, data, identity, live, mounts, persist, stages, trial, watchdog,
};

/// What a failed stage means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The node cannot go on: emergency.
    Fatal,
    /// The node goes on, degraded. What is lost.
    Degraded(&'static str),
    /// It is tried again.
    Retried {
        /// Longest pause between two attempts, in milliseconds.
        every_ms: u64,
        /// For how long, in milliseconds; `None` is for ever.
        for_ms: Option<u64>,
        /// What it means that it does not succeed in that time, or in five attempts if there is no end to it.
        then: &'static Failure,
    },
}

impl Failure {
    /// Returns the word for how a stage went that failed.
    pub(super) fn outcome(self) -> &'static str {
        match self {
            Failure::Fatal => "failed",
            Failure::Degraded(_) => "degraded",
            Failure::Retried { then, .. } => then.outcome(),
        }
    }

    /// Returns what it means, in words.
    pub(super) fn meaning(self) -> String {
        match self {
            Failure::Fatal => "emergency".to_owned(),
            Failure::Degraded(lost) => format!("degraded: {lost}"),
            Failure::Retried { every_ms, for_ms, then } => {
                let (long, count) = match for_ms {
                    Some(ms) => (format!("for {}", time(ms)), "that"),
                    None => ("for ever".to_owned(), "five failures in a row"),
                };
                format!("tried again at the latest every {} {long}; after {count} {}", time(every_ms), then.meaning())
            }
        }
    }
}

fn time(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{} s", ms / 1000) } else { format!("{ms} ms") }
}

/// Who runs a stage.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// The initramfs.
    Initramfs(fn(&mut Boot<'_>) -> Result<String, Error>),
    /// PID 1 of the real root, if the condition holds. Otherwise the stage is not mentioned.
    Root(fn(&Node<'_>) -> bool, fn(&mut Node<'_>) -> Result<String, Error>),
    /// Code that does more than one stage: the beginning and end of the initramfs, and the supervisor.
    Elsewhere,
}

/// One stage.
#[derive(Clone, Copy)]
pub(super) struct Stage {
    /// Its number.
    pub(super) number: u8,
    /// Its name.
    pub(super) name: &'static str,
    /// What it does, one sentence.
    pub(super) what: &'static str,
    /// What its failure means.
    pub(super) failure: Failure,
    /// Who runs it.
    pub(super) run: Run,
}

use Failure::{Degraded, Fatal, Retried};
use Run::{Elsewhere, Initramfs, Root};

/// How the boot disk is waited for.
const DISK: Failure =
    Retried { every_ms: initramfs::DISK_LOOK_MS, for_ms: Some(initramfs::DISK_TIMEOUT_MS), then: &Fatal };
/// How services are started again, unless their own settings say otherwise.
const SERVICES: Failure =
    Retried { every_ms: 30_000, for_ms: None, then: &Degraded("what the service does, and what starts after it") };

/// All stages, in order.
pub(super) static STAGES: [Stage; 25] = [
    stage(
        0,
        "kernel",
        "Mounts the kernel's file systems and reads the initramfs's configuration and the kernel \
        command line.",
        Fatal,
        Elsewhere,
    ),
    stage(
        1,
        "modules",
        "Loads the modules that the root file system needs.",
        Degraded("nothing yet: the stage that needs a missing module fails"),
        Initramfs(|boot| boot.load_modules()),
    ),
    stage(2, "drivers", "Loads drivers for the hardware that is there.", Fatal, Initramfs(|boot| boot.load_drivers())),
    stage(
        3,
        "disk",
        "Finds the disk that the boot loader came from, and the slot on it; or the medium that the system runs from.",
        DISK,
        Initramfs(|boot| boot.find_disk()),
    ),
    stage(
        4,
        "slot",
        "Mounts the slot, or the medium, read-only and checks the size of the root image in it.",
        Fatal,
        Initramfs(|boot| boot.mount_slot()),
    ),
    stage(
        5,
        "root",
        "Mounts the root image through dm-verity, or copies it to memory while hashing it.",
        Fatal,
        Initramfs(|boot| boot.mount_root()),
    ),
    stage(6, "handover", "Makes the image the root and executes PID 1 from it.", Fatal, Elsewhere),
    stage(
        10,
        "mounts",
        "Mounts what programs expect below `/tmp`, `/dev` and `/sys`.",
        Fatal,
        Root(always, mounts::mount_all),
    ),
    stage(
        15,
        "cgroups",
        "Mounts cgroup2, turns its controllers on, and moves PID 1 to a group of its own.",
        Degraded("limits and accounting of services and containers"),
        Root(always, cgroup::set_up),
    ),
    stage(
        20,
        "modules",
        "Loads the modules that the image lists.",
        Degraded("what the modules are for"),
        Root(stages::has_modules, stages::load_modules),
    ),
    stage(
        25,
        "sysctl",
        "Writes the image's kernel settings.",
        Degraded("the settings that are named"),
        Root(stages::has_sysctl, stages::apply_sysctl),
    ),
    stage(
        28,
        "install",
        "Run from a medium: writes the disk that is asked for, reads it back, and ends or restarts the machine.",
        Degraded("nothing: the system on the medium goes on, and the disk is not bootable"),
        Root(live::is_live, live::install),
    ),
    stage(
        30,
        "data",
        "Finds, grows, checks or formats the data partition and mounts it; carries out a factory reset.",
        Degraded("data is kept in memory until the next restart; the partition is left as it is"),
        Root(always, data::mount),
    ),
    stage(
        35,
        "persist",
        "Puts what persists in its place, copying the image's content there the first time.",
        Degraded("what cannot be put there does not outlive a restart"),
        Root(persist::has_paths, persist::bind_all),
    ),
    stage(
        38,
        "watchdog",
        "Starts the hardware watchdog, if there is one and the image or the command line asks for it.",
        Degraded("nobody restarts a machine that hangs"),
        Root(always, watchdog::start),
    ),
    stage(
        40,
        "identity",
        "Sets clock, host name and machine-id, counts the boot, brings the loopback interface up.",
        Degraded("the facts that are named; what cannot be kept is made anew for this boot"),
        Root(always, identity::set_up),
    ),
    stage(
        45,
        "configuration",
        "Finds the site's configuration and applies it.",
        Degraded("the configuration that is named; the image's default holds in its place"),
        Root(always, configuration::set_up),
    ),
    stage(
        50,
        "directories",
        "Creates the directories that the image lists.",
        Degraded("the directories that are named"),
        Root(stages::has_directories, stages::make_directories),
    ),
    stage(
        55,
        "apparmor",
        "Loads the image's AppArmor profiles.",
        Degraded("services that are confined by the profile do not start"),
        Root(apparmor::has_profiles, apparmor::load),
    ),
    stage(
        65,
        "clones",
        "Looks for other disks with the identifiers of the boot disk.",
        Degraded("nothing now; the next boot cannot tell the disks apart"),
        Root(always, clones::look),
    ),
    stage(
        68,
        "bootstate",
        "Reads the boot state, makes its two copies equal, and sees whether this version is on trial.",
        Degraded("updates; the boot loader goes by what it can read"),
        Root(trial::has_boot_state, trial::look),
    ),
    stage(
        70,
        "logs",
        "Opens the logs and writes what was said so far to the boot log.",
        Degraded("logs are in memory"),
        Root(always, stages::open_logs),
    ),
    stage(80, "services", "Starts the services, each when those that it is after are ready.", SERVICES, Elsewhere),
    stage(
        85,
        "drivers",
        "Begins to load drivers for the hardware that the initramfs had none for, in a process of its own.",
        Degraded("the hardware"),
        Elsewhere,
    ),
    stage(90, "ready", "All required services are ready.", SERVICES, Elsewhere),
];

const fn stage(number: u8, name: &'static str, what: &'static str, failure: Failure, run: Run) -> Stage {
    Stage { number, name, what, failure, run }
}

fn always(_node: &Node<'_>) -> bool {
    true
}

/// Returns a stage of the table.
pub(super) fn by_number(number: u8) -> &'static Stage {
    STAGES.iter().find(|stage| stage.number == number).expect("callers name stages that the table has")
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
