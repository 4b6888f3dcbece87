//! What PID 1 knows about its node.

use std::collections::BTreeMap;

use ksos_formats::layout;
use ksos_formats::runtime::{self, RuntimeConfig};

use crate::cmdline::Cmdline;
use crate::config::ConfigurationStatus;
use crate::console::{quoted, say};
use crate::sys::Sys;

use super::handover::{Handover, StageReport, read_document};
use super::journal::Journal;
use super::table::{Failure, Stage};
use super::watchdog::Keeper;
use super::{Error, kernel_cmdline};

/// The node.
pub(super) struct Node<'a> {
    /// The machine.
    pub(super) sys: &'a dyn Sys,
    /// The kernel command line.
    pub(super) cmdline: Cmdline,
    /// The image's configuration.
    pub(super) config: RuntimeConfig,
    /// What the initramfs found.
    pub(super) handover: Handover,
    /// All stages so far, those of the initramfs first.
    pub(super) stages: Vec<StageReport>,
    /// Why the node is degraded, by cause.
    pub(super) degraded: BTreeMap<String, String>,
    /// Where data is kept, and whether it outlives a restart.
    pub(super) data: Data,
    /// How often this node has booted; 0 if that is not known.
    pub(super) boot: u64,
    /// `on`, `off` or `unknown`.
    pub(super) secure_boot: &'static str,
    /// Kernel lockdown mode: `none`, `integrity`, `confidentiality` or `unknown`.
    pub(super) lockdown: String,
    /// Directory of the services' logs.
    pub(super) logs: String,
    /// What configuration is in force.
    pub(super) configuration: ConfigurationStatus,
    /// The boot log.
    pub(super) journal: Journal,
    /// Whether the version that runs is on trial.
    pub(super) on_trial: bool,
    /// The watchdog, as far as it is wanted and there.
    pub(super) watchdog: Keeper,
}

/// Where data is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Data {
    /// Mount point.
    pub(super) path: String,
    /// Whether it is a partition and not memory.
    pub(super) persistent: bool,
}

impl<'a> Node<'a> {
    /// Reads what the image and the initramfs say. A failure leaves nothing to run.
    pub(super) fn open(sys: &'a dyn Sys) -> Result<Self, Error> {
        let config: RuntimeConfig = read_document(sys, layout::RUNTIME_CONFIG)?;
        if config.format != runtime::FORMAT {
            let path = layout::RUNTIME_CONFIG.to_owned();
            return Err(Error::Format { path, found: config.format, supported: runtime::FORMAT });
        }
        let handover = Handover::read(sys)?;
        let journal = Journal::of(&handover.said);
        Ok(Node {
            sys,
            cmdline: kernel_cmdline(sys),
            stages: handover.stages.clone(),
            data: Data { path: config.data.mount.clone(), persistent: false },
            config,
            handover,
            degraded: BTreeMap::new(),
            boot: 0,
            secure_boot: "unknown",
            lockdown: "unknown".to_owned(),
            logs: "/var/log/ksos".to_owned(),
            configuration: ConfigurationStatus::default(),
            journal,
            on_trial: false,
            watchdog: Keeper::default(),
        })
    }

    /// Says a line on the consoles and in the boot log.
    pub(super) fn say(&mut self, line: &str) {
        say(self.sys, line);
        self.journal.line(self.sys, line);
    }

    /// Notes and says how a stage went; the node is degraded when one has failed that means no more than that.
    pub(super) fn report(&mut self, stage: &Stage, start_ms: u64, result: &Result<String, Error>) {
        let report = StageReport::new(self.sys, stage, start_ms, self.handover.kernel, result);
        self.say(&report.line());
        self.stages.push(report);
        if let (Err(error), Failure::Degraded(_)) = (result, stage.failure) {
            self.degrade(stage.name, &format!("{}: {error}", stage.name));
        }
    }

    /// Something was done: feeds the watchdog, if it is time.
    pub(super) fn progress(&mut self) {
        if let Some(reason) = self.watchdog.progress(self.sys) {
            self.degrade("watchdog", &reason);
        }
    }

    /// Notes and says what of the initramfs failed without ending the boot.
    pub(super) fn degrade_by_initramfs(&mut self) {
        let failed: Vec<StageReport> = self.handover.stages.iter().filter(|stage| !stage.ok).cloned().collect();
        for StageReport { name, detail, .. } in failed {
            // The root has a stage of the same name.
            self.degrade(&format!("initramfs {name}"), &format!("{name}: {detail}"));
        }
    }

    /// Notes and says that the node is degraded; the same cause is said again only with another reason.
    pub(super) fn degrade(&mut self, cause: &str, reason: &str) {
        if self.degraded.insert(cause.to_owned(), reason.to_owned()).as_deref() != Some(reason) {
            self.say(&format!("degraded reason={}", quoted(reason)));
        }
    }

    /// Notes and says that a cause is gone.
    pub(super) fn recover(&mut self, cause: &str) {
        if self.degraded.remove(cause).is_some() {
            self.say(&format!("recovered {cause}"));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ksos_formats::boot::{ImageId, RootMode};
    use ksos_formats::runtime::DataConfig;
    use ksos_formats::{Arch, Digest};

    use super::super::handover::KernelTime;
    use super::*;

    /// Returns a configuration without services.
    pub(crate) fn config() -> RuntimeConfig {
        RuntimeConfig {
            update: None,
            format: runtime::FORMAT,
            image: ImageId {
                name: "demo".to_owned(),
                version: "1.2.3".to_owned(),
                arch: Arch::X86_64,
                epoch: 1_700_000_000,
            },
            hostname: "demo".to_owned(),
            modules: Vec::new(),
            sysctl: BTreeMap::new(),
            data: DataConfig { label: "KSOLODATA".to_owned(), mount: "/data".to_owned(), persist: Vec::new() },
            directories: Vec::new(),
            container_images: Vec::new(),
            services: BTreeMap::new(),
            console_shell: false,
            engine: None,
            kubernetes: None,
            default_config: None,
            apparmor_profiles: Vec::new(),
            lock_modules: false,
            watchdog_ms: None,
        }
    }

    /// Returns a node on `sys` whose disk is `/dev/vda`.
    pub(crate) fn node(sys: &dyn Sys) -> Node<'_> {
        let handover = Handover {
            slot: 'a',
            disk: "/dev/vda".to_owned(),
            slot_partition: "/dev/vda2".to_owned(),
            medium: None,
            root_mode: RootMode::Slot,
            root_sha256: Digest([7; 32]),
            stages: Vec::new(),
            kernel: KernelTime::default(),
            said: Vec::new(),
        };
        Node {
            sys,
            cmdline: Cmdline::default(),
            data: Data { path: "/data".to_owned(), persistent: true },
            config: config(),
            handover,
            stages: Vec::new(),
            degraded: BTreeMap::new(),
            boot: 3,
            secure_boot: "on",
            lockdown: "integrity".to_owned(),
            logs: "/var/log/ksos".to_owned(),
            configuration: ConfigurationStatus::default(),
            journal: Journal::default(),
            on_trial: false,
            watchdog: Keeper::default(),
        }
    }
}
