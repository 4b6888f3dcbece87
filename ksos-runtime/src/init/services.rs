//! The loop of PID 1: sets the node up, runs its services, and returns when it is to go down.
//!
//! One wait (`Sys::wait`) for children, signals, devices and output, until the next timer is due; events go through
//! the state machine (`supervise`), its actions are done here. Nothing here blocks on a service.

use std::collections::{BTreeMap, VecDeque};

use ksos_formats::boot::RootMode;
use ksos_formats::runtime::{LogTarget, ReadyProbe};

use crate::sys::{Command, Down, Limits, Pid, Signal, Streams, Uevent, Wake};

use super::drivers::Drivers;
use super::logs::{Change, Logs};
use super::node::Node;
use super::status::{self, Memory, ServiceStatus, Status};
use super::supervise::{Action, Event, Machine, Phase, Role, Timer};
use super::trial::Trial;
use super::watchdog::Keeper;
use super::{apparmor, cgroup, clones, emergency, internal, mounts, stages, table, watchdog};

/// Pause before a console shell that ended is started again, in milliseconds.
const SHELL_PAUSE_MS: u64 = 1000;

/// Returns the environment that every service has.
pub(super) fn base_environment() -> BTreeMap<String, String> {
    [("HOME", "/root"), ("TERM", "linux")].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// Sets the node up and runs its services; returns how the machine is to go down, with all services stopped, and the
/// watchdog, which still runs.
pub(super) fn run(mut node: Node<'_>) -> (Down, Keeper) {
    node.degrade_by_initramfs();
    if let Err(error) = stages::run(&mut node, &table::STAGES) {
        emergency::enter(node.sys, &error.to_string(), node.config.console_shell);
    }
    if let Err(error) = node.sys.listen() {
        // Without signals and children there is no supervision.
        emergency::enter(node.sys, &error.to_string(), node.config.console_shell);
    }
    Runner::new(node).run()
}

struct Runner<'a> {
    node: Node<'a>,
    machine: Machine,
    logs: Logs,
    processes: BTreeMap<Pid, (String, Role)>,
    timers: BTreeMap<(String, Timer), u64>,
    shell: Option<Pid>,
    shell_due: Option<u64>,
    down: Option<Down>,
    stopped: bool,
    began_ms: u64,
    services_ms: Option<u64>,
    ready_early: bool,
    ready_ms: Option<u64>,
    drivers: Drivers,
    trial: Trial,
    memory: Option<Memory>,
    last_status: Vec<u8>,
}

impl<'a> Runner<'a> {
    fn new(node: Node<'a>) -> Self {
        let services = internal::services(&node.config);
        Self::of(node, services)
    }

    fn of(mut node: Node<'a>, services: internal::Services) -> Self {
        for (cause, reason) in services.problems {
            node.degrade(cause, &reason);
        }
        let (mut machine, problems) = Machine::new(services.all);
        [internal::NETWORK, internal::AGENT, internal::UPDATE].into_iter().for_each(|name| machine.own(name));
        machine.follow(super::images::SERVICE, &super::images::engine(&node.config).service);
        if !problems.is_empty() {
            node.degrade("services", &problems.join("; "));
        }
        let logs = Logs::new(&node.logs);
        let began_ms = node.sys.uptime_ms();
        let trial = Trial::begin(&node, began_ms);
        Runner {
            trial,
            node,
            machine,
            logs,
            processes: BTreeMap::new(),
            timers: BTreeMap::new(),
            shell: None,
            shell_due: None,
            down: None,
            stopped: false,
            began_ms,
            services_ms: None,
            ready_early: false,
            ready_ms: None,
            drivers: Drivers::default(),
            memory: None,
            last_status: Vec::new(),
        }
    }

    fn run(mut self) -> (Down, Keeper) {
        self.shell_due = self.node.config.console_shell.then(|| self.node.sys.uptime_ms());
        // The agent and the network process look at it as soon as they start.
        self.write_status();
        self.memory = Memory::read(self.node.sys);
        self.handle(Event::Begin);
        self.began();
        loop {
            self.fire_timers();
            self.write_status();
            if self.stopped {
                return (self.down.unwrap_or(Down::Reboot), self.node.watchdog);
            }
            // All that was due has been handled: that is progress.
            self.node.progress();
            for wake in self.node.sys.wait(self.timeout()) {
                self.wake(wake);
            }
            self.drivers.load(self.node.sys);
            // Also without an announcement: one that came while the last was handled may have been merged with it.
            self.reap();
        }
    }

    /// Stage 85.
    fn begin_drivers(&mut self) {
        let start = self.node.sys.uptime_ms();
        let result = self.drivers.begin(&self.node);
        self.node.report(table::by_number(85), start, &result);
    }

    fn timeout(&self) -> Option<u64> {
        let (watchdog, trial) = (self.node.watchdog.due_ms(), self.trial.due_ms());
        let next = self.timers.values().chain(&self.shell_due).chain(&watchdog).chain(&trial).min()?;
        Some(next.saturating_sub(self.node.sys.uptime_ms()))
    }

    fn fire_timers(&mut self) {
        let now = self.node.sys.uptime_ms();
        let due: Vec<(String, Timer)> =
            self.timers.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            // An earlier event of this round may have cancelled it.
            if self.timers.remove(&key).is_some() {
                self.handle(Event::Timer(key.0, key.1));
            }
        }
        if self.shell_due.is_some_and(|due| due <= now) && self.down.is_none() {
            self.shell_due = None;
            self.shell = emergency::console_shell(self.node.sys);
        }
        if self.trial.due_ms().is_some_and(|due| due <= now) {
            self.ask_trial();
        }
    }

    /// Restarts the machine when the version that runs was on trial for too long.
    fn ask_trial(&mut self) {
        let services = self.machine.services().iter();
        let waiting = services
            .filter(|(_, service)| service.config.required && !matches!(service.phase, Phase::Ready | Phase::Done));
        let names: Vec<&str> = waiting.map(|(name, _)| name.as_str()).collect();
        if self.trial.is_over(&mut self.node, &names) {
            self.go_down(Down::Reboot);
        }
    }

    fn wake(&mut self, wake: Wake) {
        if let Some(down) = emergency::asked(&wake) {
            self.go_down(down);
            return;
        }
        match wake {
            Wake::Output { name, bytes } => self.output(&name, &bytes),
            Wake::Uevent(event) => self.device(&event),
            Wake::Child | Wake::Signal(_) | Wake::PowerButton => {}
        }
    }

    /// Stops all services. A second request changes how the machine goes down, not that it does.
    fn go_down(&mut self, down: Down) {
        if self.down.replace(down).is_none() {
            self.node.say(&format!("stopping for {down}"));
            self.shell_due = None;
            // Whoever takes the machine down decides how; the next boot is a try of its own.
            self.trial = Trial::default();
            self.handle(Event::Stop);
        }
    }

    fn reap(&mut self) {
        while let Some((pid, exit)) = self.node.sys.reap() {
            if let Some((name, role)) = self.processes.remove(&pid) {
                self.handle(Event::Exited(name, role, exit));
            } else if self.drivers.ended(&mut self.node, pid) {
                watchdog::start_late(&mut self.node);
                self.drivers.lock(&mut self.node);
            } else if self.shell == Some(pid) {
                self.shell = None;
                self.shell_due = self.down.is_none().then(|| self.node.sys.uptime_ms() + SHELL_PAUSE_MS);
            }
        }
    }

    fn output(&mut self, name: &str, bytes: &[u8]) {
        let target = self.machine.services().get(name).map_or(LogTarget::File, |service| service.config.log);
        match self.logs.take(self.node.sys, name, target, bytes) {
            Some(Change::Fails(reason)) => self.node.degrade("logs", &format!("logs: {reason}")),
            Some(Change::Works) => self.node.recover("logs"),
            None => {}
        }
    }

    /// Has drivers loaded for devices that appear, looks for what PID 1 itself uses, and notices changed blocks of the root image.
    fn device(&mut self, event: &Uevent) {
        self.drivers.take(event);
        if event.field("SUBSYSTEM") == Some("input") && event.action == "add" {
            self.node.sys.watch_power_buttons();
        }
        if event.field("SUBSYSTEM") == Some("watchdog") && event.action == "add" {
            watchdog::start_late(&mut self.node);
        }
        clones::on_event(&mut self.node, event);
        // dm-verity announces what it finds (kernel `drivers/md/dm-verity-target.c`, `verity_handle_err`).
        if let Some(place) = event.field("DM_VERITY_ERR_BLOCK_NR") {
            let reason = format!("the root image in slot {} is damaged (type,block {place})", self.node.handover.slot);
            self.node.degrade("root", &reason);
        }
    }

    /// Feeds an event to the state machine and does what it asks for, until nothing follows.
    fn handle(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.machine.step(self.node.sys.uptime_ms(), event) {
                events.extend(self.perform(action));
            }
        }
    }

    fn perform(&mut self, action: Action) -> Option<Event> {
        let sys = self.node.sys;
        match action {
            Action::Spawn(name, role) => return Some(self.spawn(name, role)),
            Action::Connect(name) => {
                let ready = match self.machine.services().get(&name).map(|service| &service.config.ready) {
                    Some(ReadyProbe::Socket(path)) => sys.connect_socket(path),
                    Some(ReadyProbe::Tcp(port)) => sys.connect_tcp(*port),
                    _ => false,
                };
                return Some(Event::Probed(name, ready));
            }
            Action::Terminate(name) => self.signal(&name, Signal::Term, |role| role != Role::Probe),
            Action::Kill(name) => {
                self.signal(&name, Signal::Kill, |_| true);
                // Without cgroups the process itself was killed, and the rest is when the machine goes down.
                let _ = cgroup::kill(sys, &name);
            }
            Action::KillProbe(name) => self.signal(&name, Signal::Kill, |role| role == Role::Probe),
            Action::Set(name, timer, ms) => {
                self.timers.insert((name, timer), sys.uptime_ms().saturating_add(ms));
            }
            Action::Cancel(name) => self.timers.retain(|(other, _), _| *other != name),
            Action::Note(text) => self.node.say(&text),
            Action::Degraded(name, reason) => self.node.degrade(&format!("service {name}"), &reason),
            Action::Recovered(name) => self.node.recover(&format!("service {name}")),
            Action::NodeReady => self.ready(),
            Action::AllStopped => self.stopped = true,
        }
        None
    }

    fn signal(&self, name: &str, signal: Signal, wanted: impl Fn(Role) -> bool) {
        for (pid, (other, role)) in &self.processes {
            if other == name && wanted(*role) {
                // It may be gone already; its end is then on the way.
                let _ = self.node.sys.signal(*pid, signal);
            }
        }
    }

    fn spawn(&mut self, name: String, role: Role) -> Event {
        let Some(command) = self.command(&name, role) else {
            return Event::NotStarted(name, role, "there is no command".to_owned());
        };
        if let Some(reason) = command.apparmor.as_deref().and_then(|profile| apparmor::missing(self.node.sys, profile))
        {
            return Event::NotStarted(name, role, reason);
        }
        match self.node.sys.spawn(&command) {
            Ok(pid) => {
                self.processes.insert(pid, (name.clone(), role));
                Event::Started(name, role)
            }
            Err(error) => Event::NotStarted(name, role, error.to_string()),
        }
    }

    fn command(&self, name: &str, role: Role) -> Option<Command> {
        let config = &self.machine.services().get(name)?.config;
        let arguments = match (role, &config.ready) {
            (Role::Main, _) => config.command.clone(),
            (Role::PreStart(index), _) => config.pre_start.get(index)?.clone(),
            (Role::Probe, ReadyProbe::Command(command)) => command.clone(),
            (Role::Probe, _) => return None,
        };
        let mut environment = base_environment();
        environment.extend(config.environment.clone());
        Some(Command {
            arguments,
            environment,
            directory: config.working_directory.clone(),
            cgroup: cgroup::for_service(self.node.sys, name),
            oom_score_adjust: Some(config.oom_score_adjust),
            limits: Limits {
                nofile: config.limit_nofile,
                nproc: config.limit_nproc,
                // No core dumps: what a service has in memory is not for the disk.
                core: Some(config.limit_core.unwrap_or(0)),
            },
            apparmor: config.apparmor.clone().filter(|_| role == Role::Main),
            streams: if role == Role::Probe { Streams::Null } else { Streams::Captured(name.to_owned()) },
        })
    }

    /// Says that the services are started: those that nothing has to be ready for. Once.
    fn began(&mut self) {
        let (waiting, started): (Vec<_>, Vec<_>) =
            self.machine.services().values().partition(|service| service.phase == Phase::Waiting);
        let memory = self.memory.map_or_else(String::new, |memory| format!(", {memory}"));
        let detail = format!("{} started, {} to follow{memory}", started.len(), waiting.len());
        self.node.report(table::by_number(80), self.began_ms, &Ok(detail));
        self.services_ms = Some(self.node.sys.uptime_ms());
        self.begin_drivers();
        if std::mem::take(&mut self.ready_early) {
            self.ready();
        }
    }

    /// Says that the node is ready. Once.
    fn ready(&mut self) {
        let Some(services_ms) = self.services_ms else {
            self.ready_early = true;
            return;
        };
        self.node.report(table::by_number(90), services_ms, &Ok(String::new()));
        let now = self.node.sys.uptime_ms();
        self.ready_ms = Some(now);
        let Node { config, handover, secure_boot, lockdown, boot, .. } = &self.node;
        let line = format!(
            "ready name={} version={} arch={} slot={} secure-boot={secure_boot} lockdown={lockdown} boot={boot} \
             uptime={}.{:02}",
            config.image.name,
            config.image.version,
            config.image.arch,
            handover.slot,
            now / 1000,
            now % 1000 / 10,
        );
        self.node.say(&line);
        // For those who look; the node itself has no more need of them. Before modules are locked: this is one.
        mounts::mount_variables(self.node.sys);
        if self.node.config.lock_modules {
            self.drivers.lock_wanted = true;
            self.drivers.lock(&mut self.node);
        }
    }

    fn status(&self) -> Status {
        let Node { config, handover, .. } = &self.node;
        let state = match (self.down, self.ready_ms) {
            (Some(_), _) => "stopping",
            (None, Some(_)) => "ready",
            (None, None) => "starting",
        };
        Status {
            format: status::FORMAT,
            state: state.to_owned(),
            degraded: self.node.degraded.values().cloned().collect(),
            name: config.image.name.clone(),
            version: config.image.version.clone(),
            arch: config.image.arch.to_string(),
            slot: handover.slot,
            root: if handover.root_mode == RootMode::Ram { "ram" } else { "slot" }.to_owned(),
            secure_boot: self.node.secure_boot.to_owned(),
            lockdown: self.node.lockdown.clone(),
            boot: self.node.boot,
            persistent: self.node.data.persistent,
            data: self.node.data.path.clone(),
            boot_log: self.node.journal.path().map(str::to_owned),
            modules_locked: self.drivers.locked,
            watchdog: self.node.watchdog.status(),
            memory_before_services: self.memory,
            handover_ms: self.node.stages.first().map_or(0, |stage| stage.start_ms),
            services_ms: self.services_ms,
            ready_ms: self.ready_ms,
            stages: self.node.stages.clone(),
            services: self.service_statuses(),
            configuration: self.node.configuration.clone(),
        }
    }

    fn service_statuses(&self) -> Vec<ServiceStatus> {
        let pid_of = |name: &str| {
            self.processes.iter().find(|(_, (other, role))| other == name && *role == Role::Main).map(|(pid, _)| *pid)
        };
        let status = |(name, service): (&String, &super::supervise::Service)| ServiceStatus {
            name: name.clone(),
            state: service.phase.name().to_owned(),
            pid: pid_of(name),
            restarts: service.restarts,
            required: service.config.required,
        };
        self.machine.services().iter().map(status).collect()
    }

    /// Writes the status document when it changed.
    fn write_status(&mut self) {
        let Ok(text) = serde_json::to_vec(&self.status()) else { return };
        if self.last_status == text {
            return;
        }
        // `/run` is memory; without the document the node still works.
        let _ = self.node.sys.replace(status::PATH, &text, 0o644);
        self.last_status = text;
    }
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
