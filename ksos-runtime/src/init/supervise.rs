//! The services of a node as a pure state machine: [`Machine::step`] takes an event and returns actions.
//!
//! ```text
//! Waiting -> PreStart(n) -> Starting -> Ready -> (ends) -> Backoff -> PreStart ...
//!                                            \-> Done | Failed
//! any running phase -> Stopping -> Stopped          (when the node goes down, dependents first)
//! ```
//!
//! - A service starts when all that it is `after` are ready. Those that are not known, or wait for each other, are
//!   reported by [`Machine::new`].
//! - Restart delays double up to their limit and start over after a run of [`STABLE_MS`].
//! - What a service leaves running when it ends by itself is left alone: containers outlive a restart of their
//!   manager. When the node goes down the whole cgroup is killed.
//!
//! No clock, no I/O: times are milliseconds passed in, timers are actions.

use std::collections::{BTreeMap, BTreeSet};

use ksos_formats::runtime::{ReadyProbe, RestartPolicy, ServiceConfig};

use crate::sys::Exit;

/// A run of this length makes restart delays start over, in milliseconds.
pub const STABLE_MS: u64 = 60_000;
/// Failures in a row after which a required service makes the node degraded.
pub const DEGRADED_AFTER: u32 = 5;
/// Shortest restart delay, in milliseconds.
const DELAY_FLOOR_MS: u64 = 100;
/// First and longest pause between attempts to connect, in milliseconds.
const CONNECT_PAUSE_MS: (u64, u64) = (50, 1000);
/// Pause between runs of a probe command, in milliseconds.
const COMMAND_PAUSE_MS: u64 = 1000;
/// Longest run of a probe command, in milliseconds.
const COMMAND_LIMIT_MS: u64 = 10_000;
/// Time that a killed service has to be gone, in milliseconds; after that it is left behind.
const KILLED_MS: u64 = 5000;

/// Which process of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// One of the commands before it, by index.
    PreStart(usize),
    /// The service itself.
    Main,
    /// The command that tells whether it is ready.
    Probe,
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Start it again.
    Restart,
    /// Ask whether it is ready, or give up asking.
    Probe,
    /// It had time to end.
    Kill,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Services may start.
    Begin,
    /// A process was started.
    Started(String, Role),
    /// A process could not be started.
    NotStarted(String, Role, String),
    /// A process ended.
    Exited(String, Role, Exit),
    /// An attempt to connect succeeded or failed.
    Probed(String, bool),
    /// A timer ran out.
    Timer(String, Timer),
    /// The node goes down.
    Stop,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start a process; answer with `Started` or `NotStarted`.
    Spawn(String, Role),
    /// Try to connect; answer with `Probed`.
    Connect(String),
    /// Send SIGTERM to the service's process.
    Terminate(String),
    /// Kill all that is in the service's cgroup.
    Kill(String),
    /// Kill its probe command.
    KillProbe(String),
    /// Set a timer (replacing one of the same service and purpose) to this many milliseconds from now.
    Set(String, Timer, u64),
    /// Cancel all timers of a service.
    Cancel(String),
    /// Tell people.
    Note(String),
    /// The service makes the node degraded, for this reason.
    Degraded(String, String),
    /// It no longer does.
    Recovered(String),
    /// All required services are ready, for the first time.
    NodeReady,
    /// No service runs any more.
    AllStopped,
}

/// Where a service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// For what it is `after`.
    Waiting,
    /// A command before it runs.
    PreStart(usize),
    /// It runs and is not ready.
    Starting,
    /// It runs and is ready.
    Ready,
    /// It ended and will be started again.
    Backoff,
    /// It ended as it should.
    Done,
    /// It failed and will not be started again.
    Failed,
    /// It was asked to end; killed, if `true`.
    Stopping(bool),
    /// It was stopped.
    Stopped,
}

impl Phase {
    /// Returns the word for status output.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::PreStart(_) => "pre-start",
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Backoff => "backoff",
            Phase::Done => "done",
            Phase::Failed => "failed",
            Phase::Stopping(_) => "stopping",
            Phase::Stopped => "stopped",
        }
    }

    fn runs(self) -> bool {
        matches!(self, Phase::PreStart(_) | Phase::Starting | Phase::Ready)
    }
}

/// One service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its configuration.
    pub config: ServiceConfig,
    /// Where it is.
    pub phase: Phase,
    /// How often it was started again.
    pub restarts: u32,
    failures: u32,
    delay_ms: u64,
    started_ms: u64,
    connect_pause_ms: u64,
    probing: bool,
    degraded: bool,
    announced: bool,
    /// It is the node's own: its failure is told as if it were required, and nothing waits for it after that.
    internal: bool,
    /// A one-shot service that runs once more when it is done.
    again: bool,
}

impl Service {
    fn new(config: ServiceConfig) -> Self {
        Service {
            delay_ms: config.restart_delay_ms.max(DELAY_FLOOR_MS),
            config,
            phase: Phase::Waiting,
            restarts: 0,
            failures: 0,
            started_ms: 0,
            connect_pause_ms: CONNECT_PAUSE_MS.0,
            probing: false,
            degraded: false,
            announced: false,
            internal: false,
            again: false,
        }
    }

    /// Returns whether it ended and is not to be started again by itself.
    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Failed)
    }

    /// Returns whether its own process, and not one before it, was started.
    fn has_process(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Ready)
    }

    /// Returns whether services after this one may start.
    pub fn is_satisfied(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Done) || (self.internal && self.degraded)
    }
}

/// All services.
#[derive(Debug)]
pub struct Machine {
    services: BTreeMap<String, Service>,
    /// One-shot services that run again when another is started, and when it becomes ready, by their names.
    followers: BTreeMap<String, String>,
    begun: bool,
    stopping: bool,
    node_ready: bool,
    all_stopped: bool,
}

impl Machine {
    /// Returns the machine and what is wrong with its order: names that do not exist (which are then ignored) and
    /// services that wait for each other (which will not start).
    pub fn new(configs: BTreeMap<String, ServiceConfig>) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let names: Vec<String> = configs.keys().cloned().collect();
        let mut services = BTreeMap::new();
        for (name, mut config) in configs {
            for missing in config.after.iter().filter(|other| !names.contains(other)) {
                problems.push(format!("service {name} is after {missing}, which does not exist"));
            }
            config.after.retain(|other| names.contains(other));
            services.insert(name, Service::new(config));
        }
        let circle = waiting_for_each_other(&services);
        if !circle.is_empty() {
            problems.push(format!("services wait for each other: {}", circle.join(", ")));
        }
        let followers = BTreeMap::new();
        let machine =
            Machine { services, followers, begun: false, stopping: false, node_ready: false, all_stopped: false };
        (machine, problems)
    }

    /// Makes a service one of the node's own: when it failed [`DEGRADED_AFTER`] times in a row the node is degraded,
    /// although it is not required, and what is after it starts without it.
    pub fn own(&mut self, name: &str) {
        self.with(name, |service| service.internal = true);
    }

    /// Makes the one-shot service `name` follow `leader`: it starts once the leader's process runs, ready or not, and
    /// once more when the leader is ready, because what it found may have changed meanwhile; again with each further
    /// start of it.
    pub fn follow(&mut self, name: &str, leader: &str) {
        if self.services.contains_key(name) && self.services.contains_key(leader) {
            self.followers.insert(name.to_owned(), leader.to_owned());
        }
    }

    /// Returns the services by name.
    pub fn services(&self) -> &BTreeMap<String, Service> {
        &self.services
    }

    /// Takes an event at `now` (milliseconds) and returns what is to be done, in order.
    pub fn step(&mut self, now: u64, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let ready_before = self.ready_leaders();
        match event {
            Event::Begin => self.begun = true,
            Event::Stop => self.stop(&mut actions),
            Event::Started(name, role) => {
                self.with(&name, |service| started(service, &name, role, now, &mut actions));
                if role == Role::Main {
                    self.lead(&name);
                }
            }
            Event::NotStarted(name, Role::Probe, _) => {
                self.with(&name, |service| not_yet(service, &name, &mut actions))
            }
            Event::NotStarted(name, _, reason) => {
                self.with(&name, |service| ended_badly(service, &name, &reason, &mut actions));
            }
            Event::Exited(name, role, exit) => {
                self.with(&name, |service| exited(service, &name, role, exit, now, &mut actions));
            }
            Event::Probed(name, ready) => self.with(&name, |service| probed(service, &name, ready, now, &mut actions)),
            Event::Timer(name, timer) => self.with(&name, |service| timed(service, &name, timer, &mut actions)),
        }
        for leader in self.ready_leaders().difference(&ready_before) {
            self.lead(leader);
        }
        if self.stopping {
            self.stop_next(&mut actions);
        } else if self.begun {
            self.start_waiting(&mut actions);
        }
        actions
    }

    /// Lets the services that follow `leader` run again: now, or when they are done.
    fn lead(&mut self, leader: &str) {
        for name in self.followers.iter().filter(|(_, other)| *other == leader).map(|(name, _)| name) {
            let Some(service) = self.services.get_mut(name) else { continue };
            if service.is_over() {
                service.phase = Phase::Waiting;
            } else {
                service.again = service.has_process();
            }
        }
    }

    /// Returns the services that are followed and ready.
    fn ready_leaders(&self) -> BTreeSet<String> {
        let is_ready = |leader: &&String| self.services.get(*leader).is_some_and(|other| other.phase == Phase::Ready);
        self.followers.values().filter(is_ready).cloned().collect()
    }

    /// Events of services that do not exist are ignored.
    fn with(&mut self, name: &str, change: impl FnOnce(&mut Service)) {
        if let Some(service) = self.services.get_mut(name) {
            change(service);
        }
    }

    /// Starts what waited for services that are ready now, and notices when the node is ready.
    fn start_waiting(&mut self, actions: &mut Vec<Action>) {
        let satisfied: BTreeSet<String> =
            self.services.iter().filter(|(_, service)| service.is_satisfied()).map(|(name, _)| name.clone()).collect();
        let running: BTreeSet<String> =
            self.services.iter().filter(|(_, service)| service.has_process()).map(|(name, _)| name.clone()).collect();
        for (name, service) in &mut self.services {
            let led = self.followers.get(name).is_none_or(|leader| running.contains(leader));
            let after = service.config.after.iter().all(|other| satisfied.contains(other));
            if service.phase == Phase::Waiting && led && after {
                begin(service, name, actions);
            }
        }
        let ready = self.services.values().filter(|service| service.config.required).all(Service::is_satisfied);
        if ready && !std::mem::replace(&mut self.node_ready, true) {
            actions.push(Action::NodeReady);
        }
    }

    fn stop(&mut self, actions: &mut Vec<Action>) {
        self.stopping = true;
        for (name, service) in &mut self.services {
            actions.push(Action::Cancel(name.clone()));
            if !service.phase.runs() && !matches!(service.phase, Phase::Stopping(_)) {
                // What an ended service has left behind is killed with all other processes later.
                service.phase = Phase::Stopped;
            }
        }
    }

    /// Asks those services to end that nothing which still runs is after.
    fn stop_next(&mut self, actions: &mut Vec<Action>) {
        let alive = |phase: Phase| phase.runs() || matches!(phase, Phase::Stopping(_));
        let needed: BTreeSet<String> = self
            .services
            .values()
            .filter(|service| alive(service.phase))
            .flat_map(|service| service.config.after.iter().cloned())
            .collect();
        for (name, service) in &mut self.services {
            if service.phase.runs() && !needed.contains(name) {
                service.phase = Phase::Stopping(false);
                actions.push(Action::Terminate(name.clone()));
                actions.push(Action::Set(name.clone(), Timer::Kill, service.config.stop_timeout_ms));
            }
        }
        let any_alive = self.services.values().any(|service| alive(service.phase));
        if !any_alive && !std::mem::replace(&mut self.all_stopped, true) {
            actions.push(Action::AllStopped);
        }
    }
}

/// Returns the services that are part of, or behind, a circle.
fn waiting_for_each_other(services: &BTreeMap<String, Service>) -> Vec<String> {
    let mut left: Vec<&String> = services.keys().collect();
    loop {
        let waits = |name: &&String| services[*name].config.after.iter().any(|other| left.contains(&other));
        let waiting: Vec<&String> = left.iter().copied().filter(waits).collect();
        if waiting.len() == left.len() {
            return waiting.into_iter().cloned().collect();
        }
        left = waiting;
    }
}

/// Starts a service from its first command.
fn begin(service: &mut Service, name: &str, actions: &mut Vec<Action>) {
    service.connect_pause_ms = CONNECT_PAUSE_MS.0;
    service.probing = false;
    run_from(service, name, 0, actions);
}

/// Starts pre-start command `index`, or the service after the last of them.
fn run_from(service: &mut Service, name: &str, index: usize, actions: &mut Vec<Action>) {
    let role = if index < service.config.pre_start.len() {
        service.phase = Phase::PreStart(index);
        Role::PreStart(index)
    } else {
        service.phase = Phase::Starting;
        Role::Main
    };
    actions.push(Action::Spawn(name.to_owned(), role));
}

fn started(service: &mut Service, name: &str, role: Role, now: u64, actions: &mut Vec<Action>) {
    match role {
        Role::PreStart(_) => service.started_ms = now,
        Role::Probe => {
            service.probing = true;
            actions.push(Action::Set(name.to_owned(), Timer::Probe, COMMAND_LIMIT_MS));
        }
        Role::Main if service.phase == Phase::Starting => {
            service.started_ms = now;
            match service.config.ready {
                ReadyProbe::Started => became_ready(service, name, now, actions),
                ReadyProbe::Exited => {}
                ReadyProbe::Socket(_) | ReadyProbe::Tcp(_) | ReadyProbe::Command(_) => {
                    actions.push(Action::Set(name.to_owned(), Timer::Probe, CONNECT_PAUSE_MS.0));
                }
            }
        }
        Role::Main => {}
    }
}

fn became_ready(service: &mut Service, name: &str, now: u64, actions: &mut Vec<Action>) {
    service.phase = Phase::Ready;
    // A service that ends and comes back again and again does not say so each time.
    if !std::mem::replace(&mut service.announced, true) || service.degraded {
        let ms = now.saturating_sub(service.started_ms);
        actions.push(Action::Note(format!("service {name}: ready after {ms} ms")));
    }
    recovered(service, name, actions);
}

fn recovered(service: &mut Service, name: &str, actions: &mut Vec<Action>) {
    if std::mem::take(&mut service.degraded) {
        actions.push(Action::Recovered(name.to_owned()));
    }
}

fn exited(service: &mut Service, name: &str, role: Role, exit: Exit, now: u64, actions: &mut Vec<Action>) {
    match (service.phase, role) {
        (Phase::Starting, Role::Probe) => {
            service.probing = false;
            probed(service, name, exit.success(), now, actions);
        }
        (_, Role::Probe) => service.probing = false,
        (Phase::Stopping(_), _) => {
            actions.extend([Action::Cancel(name.to_owned()), Action::Kill(name.to_owned())]);
            service.phase = Phase::Stopped;
        }
        (Phase::PreStart(running), Role::PreStart(index)) if running == index => {
            if exit.success() {
                run_from(service, name, index + 1, actions);
            } else {
                ended_badly(service, name, &format!("pre-start command {}: {exit}", index + 1), actions);
            }
        }
        (Phase::Starting | Phase::Ready, Role::Main) => main_ended(service, name, exit, now, actions),
        // A process of a run that is already over.
        _ => {}
    }
}

fn main_ended(service: &mut Service, name: &str, exit: Exit, now: u64, actions: &mut Vec<Action>) {
    actions.push(Action::Cancel(name.to_owned()));
    actions.extend(service.probing.then(|| Action::KillProbe(name.to_owned())));
    if now.saturating_sub(service.started_ms) >= STABLE_MS {
        service.failures = 0;
        service.delay_ms = service.config.restart_delay_ms.max(DELAY_FLOOR_MS);
    }
    let one_shot = service.config.ready == ReadyProbe::Exited;
    let was_ready = service.phase == Phase::Ready;
    let may_end = service.config.restart != RestartPolicy::Always && was_ready;
    if exit.success() && (one_shot || may_end) {
        service.phase = if std::mem::take(&mut service.again) { Phase::Waiting } else { Phase::Done };
        recovered(service, name, actions);
        let ms = now.saturating_sub(service.started_ms);
        actions.push(Action::Note(format!("service {name}: done after {ms} ms")));
    } else {
        let reason = if was_ready || one_shot { exit.to_string() } else { format!("{exit} before it was ready") };
        ended_badly(service, name, &reason, actions);
    }
}

fn ended_badly(service: &mut Service, name: &str, reason: &str, actions: &mut Vec<Action>) {
    if let Phase::Stopping(_) = service.phase {
        service.phase = Phase::Stopped;
        return;
    }
    service.failures = service.failures.saturating_add(1);
    let never = service.config.restart == RestartPolicy::Never;
    let told = service.config.required || service.internal;
    if told && !service.degraded && (never || service.failures >= DEGRADED_AFTER) {
        service.degraded = true;
        let reason = match service.failures {
            1 => format!("service {name}: {reason}"),
            count => format!("service {name}: {reason}, {count} times in a row"),
        };
        actions.push(Action::Degraded(name.to_owned(), reason));
    }
    if never {
        service.phase = Phase::Failed;
        actions.push(Action::Note(format!("service {name}: {reason}")));
        return;
    }
    service.phase = Phase::Backoff;
    service.restarts = service.restarts.saturating_add(1);
    let delay = service.delay_ms;
    let longest = service.config.restart_delay_max_ms.max(service.config.restart_delay_ms).max(DELAY_FLOOR_MS);
    service.delay_ms = delay.saturating_mul(2).min(longest);
    actions.push(Action::Set(name.to_owned(), Timer::Restart, delay));
    actions.push(Action::Note(format!("service {name}: {reason}, restart in {delay} ms")));
}

fn probed(service: &mut Service, name: &str, ready: bool, now: u64, actions: &mut Vec<Action>) {
    if service.phase != Phase::Starting {
        return;
    }
    if ready {
        actions.push(Action::Cancel(name.to_owned()));
        became_ready(service, name, now, actions);
    } else {
        not_yet(service, name, actions);
    }
}

/// Asks again later: attempts to connect at doubling pauses, commands once a second.
fn not_yet(service: &mut Service, name: &str, actions: &mut Vec<Action>) {
    let pause = match service.config.ready {
        ReadyProbe::Command(_) => COMMAND_PAUSE_MS,
        _ => {
            let pause = (service.connect_pause_ms * 2).min(CONNECT_PAUSE_MS.1);
            std::mem::replace(&mut service.connect_pause_ms, pause)
        }
    };
    actions.push(Action::Set(name.to_owned(), Timer::Probe, pause));
}

fn timed(service: &mut Service, name: &str, timer: Timer, actions: &mut Vec<Action>) {
    match (service.phase, timer) {
        (Phase::Backoff, Timer::Restart) => begin(service, name, actions),
        (Phase::Starting, Timer::Probe) if service.probing => actions.push(Action::KillProbe(name.to_owned())),
        (Phase::Starting, Timer::Probe) => actions.push(match service.config.ready {
            ReadyProbe::Command(_) => Action::Spawn(name.to_owned(), Role::Probe),
            _ => Action::Connect(name.to_owned()),
        }),
        (Phase::Stopping(false), Timer::Kill) => {
            service.phase = Phase::Stopping(true);
            let ms = service.config.stop_timeout_ms;
            actions.push(Action::Note(format!("service {name}: still running {ms} ms after SIGTERM, killed")));
            actions.extend([Action::Kill(name.to_owned()), Action::Set(name.to_owned(), Timer::Kill, KILLED_MS)]);
        }
        (Phase::Stopping(true), Timer::Kill) => {
            service.phase = Phase::Stopped;
            actions.push(Action::Note(format!("service {name}: cannot be killed, left behind")));
        }
        _ => {}
    }
}

#[cfg(test)]
#[path = "supervise_tests.rs"]
mod tests;
