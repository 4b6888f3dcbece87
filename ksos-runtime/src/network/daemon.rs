//! The loop: what the kernel, servers and timers say goes to the state machines, and what they want is done.
//!
//! One poll(2); between events the process sleeps until the next timer that is due, however far that is. SIGTERM ends
//! it where it stands: addresses stay, and the next process takes them over.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use ksos_formats::config::{Interface, NodeConfig};
use ksos_formats::layout;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::clock::Clock;
use super::dhcp::{Action, Client, Event};
use super::netlink::{Address, Link, Monitor, Netlink};
use super::plan::{self, Candidate, Claim};
use super::port::Port;
use super::publish::Published;
use super::ready::{self, Verdict, View};
use super::resolver::Resolver;
use super::store::{self, Image};
use super::{Error, fallback};
use crate::sys::Sys;

/// How often newly claimed interfaces are looked for in one go: a VLAN may be on one that was just claimed.
const ROUNDS: usize = 4;

/// What woke the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Monitor,
    Port(u32),
    Names,
    Clock,
    Probe,
}

/// The process.
pub struct Daemon<'a> {
    pub(super) sys: &'a dyn Sys,
    out: &'a mut dyn Write,
    pub(super) netlink: Netlink,
    monitor: Monitor,
    pub(super) config: NodeConfig,
    pub(super) entries: Vec<Interface>,
    pub(super) image: Image,
    hostname: Option<String>,
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    pub(super) ports: BTreeMap<u32, Port>,
    pub(super) clock: Clock,
    listener: Option<UnixListener>,
    started_ms: u64,
    dark_since: Option<u64>,
    /// The wait is over.
    pub(super) ready: bool,
    pub(super) fallback: fallback::State,
    pub(super) problems: BTreeMap<String, String>,
    pub(super) published: Published,
}

impl<'a> Daemon<'a> {
    /// Opens sockets and reads the configuration; nothing is changed yet.
    pub fn open(sys: &'a dyn Sys, out: &'a mut dyn Write, config: NodeConfig) -> Result<Self, Error> {
        let image = store::image(sys);
        let now = sys.uptime_ms();
        Ok(Daemon {
            netlink: Netlink::open()?,
            monitor: Monitor::open()?,
            entries: plan::entries(&config.network),
            hostname: store::hostname(sys, &config),
            clock: Clock::new(config.ntp.enabled, image.epoch, seed(sys), Resolver::new().map_err(Error::Pipe)?),
            links: Vec::new(),
            addresses: Vec::new(),
            ports: BTreeMap::new(),
            listener: None,
            started_ms: now,
            dark_since: Some(now),
            ready: false,
            fallback: fallback::State::default(),
            problems: BTreeMap::new(),
            published: Published::read(sys),
            sys,
            out,
            config,
            image,
        })
    }

    /// Runs for ever.
    pub fn run(&mut self) -> ! {
        self.refresh();
        loop {
            self.judge();
            self.publish();
            self.turn(self.due());
        }
    }

    /// Runs until an interface has an address, at most up to `deadline_ms` of uptime; returns whether one has.
    pub fn run_once(&mut self, deadline_ms: u64) -> bool {
        self.refresh();
        loop {
            if self.ports.values().any(|port| self.is_satisfied(port)) {
                self.publish_resolvers();
                return true;
            }
            if self.sys.uptime_ms() >= deadline_ms {
                return false;
            }
            self.turn(Some(self.due().map_or(deadline_ms, |due| due.min(deadline_ms))));
        }
    }

    /// Tells people.
    pub(super) fn say(&mut self, subject: &str, text: impl Display) {
        // The log is all there is to tell; where it cannot be written, nobody is left to be told.
        let _ = writeln!(self.out, "{subject}: {text}");
        let _ = self.out.flush();
    }

    /// Notes a problem under a name, or that it is gone; says what is new.
    pub(super) fn problem(&mut self, subject: &str, reason: Option<String>) {
        match reason {
            Some(reason) => {
                if self.problems.insert(subject.to_owned(), reason.clone()).as_ref() != Some(&reason) {
                    self.say(subject, reason);
                }
            }
            None => drop(self.problems.remove(subject)),
        }
    }

    /// Returns the moment of the next timer, in milliseconds of uptime.
    fn due(&self) -> Option<u64> {
        let clients = self.ports.values().filter_map(|port| port.client.as_ref()?.due());
        let wait = match (self.ready, ready::judge(&self.view())) {
            (false, Verdict::Wait(rest)) => Some(self.sys.uptime_ms().saturating_add(rest)),
            _ => None,
        };
        clients.chain(self.clock.due()).chain(wait).min()
    }

    /// Waits for events and handles them, then the timers that are due.
    fn turn(&mut self, due_ms: Option<u64>) {
        for source in self.wait(due_ms) {
            match source {
                Source::Monitor => {
                    self.monitor.drain();
                    self.refresh();
                }
                Source::Port(index) => {
                    let messages = self.ports.get(&index).map(Port::receive).unwrap_or_default();
                    for message in &messages {
                        self.feed(index, Event::Received(message));
                    }
                }
                Source::Names => self.clock_names(),
                Source::Clock => self.clock_answer(),
                Source::Probe => self.answer_probes(),
            }
        }
        let now = self.sys.uptime_ms();
        let due = |port: &Port| port.client.as_ref().and_then(Client::due).is_some_and(|due| due <= now);
        let late: Vec<u32> = self.ports.iter().filter(|(_, port)| due(port)).map(|(index, _)| *index).collect();
        for index in late {
            self.feed(index, Event::Due);
        }
        self.clock_due(now);
    }

    fn wait(&self, due_ms: Option<u64>) -> Vec<Source> {
        let mut all = vec![(Source::Monitor, self.monitor.as_fd()), (Source::Names, self.clock.names())];
        all.extend(self.ports.iter().filter_map(|(index, port)| Some((Source::Port(*index), port.waits_on()?))));
        all.extend(self.clock.waits_on().map(|socket| (Source::Clock, socket)));
        all.extend(self.listener.iter().map(|listener| (Source::Probe, listener.as_fd())));
        let mut entries: Vec<PollFd<'_>> =
            all.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let left = due_ms.map(|due| due.saturating_sub(self.sys.uptime_ms()));
        // A millisecond more than is left: the kernel's clock ticks between ours.
        let timeout = left.filter(|left| *left < u64::MAX / 2).map(|left| Timespec {
            tv_sec: i64::try_from(left / 1000).unwrap_or(i64::MAX),
            tv_nsec: (left % 1000) as i64 * 1_000_000 + if left == 0 { 0 } else { 500_000 },
        });
        // An interrupted or failed poll is a wake-up without an event.
        if rustix::event::poll(&mut entries, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let ready = all.iter().zip(&entries).filter(|(_, entry)| !entry.revents().is_empty());
        ready.map(|((source, _), _)| *source).collect()
    }

    /// Looks at interfaces and addresses anew, sets up what is new, and tells the clients what changed.
    pub(super) fn refresh(&mut self) {
        for _ in 0..ROUNDS {
            let listed = self.netlink.links().and_then(|links| Ok((links, self.netlink.addresses()?)));
            match listed {
                Ok((links, addresses)) => (self.links, self.addresses) = (links, addresses),
                Err(error) => return self.problem("netlink", Some(error.to_string())),
            }
            self.problem("netlink", None);
            self.forget_gone();
            for link in self.links.clone() {
                if self.ports.contains_key(&link.index) {
                    self.look_at(link);
                }
            }
            if !self.claim_new() {
                break;
            }
        }
        let lit = self.ports.values().any(|port| port.link.carrier);
        self.dark_since = if lit { None } else { self.dark_since.or(Some(self.sys.uptime_ms())) };
    }

    fn forget_gone(&mut self) {
        let gone: Vec<u32> =
            self.ports.keys().filter(|index| !self.links.iter().any(|link| link.index == **index)).copied().collect();
        for index in gone {
            if let Some(port) = self.ports.remove(&index) {
                let name = port.link.name;
                self.problems.retain(|subject, _| *subject != name && !subject.starts_with(&format!("{name} ")));
                self.say(&name, "the interface is gone");
            }
        }
    }

    /// Compares an interface with what it was.
    fn look_at(&mut self, link: Link) {
        let Some(port) = self.ports.get_mut(&link.index) else { return };
        let before = std::mem::replace(&mut port.link, link.clone());
        // Both ends of a short loss may be in one announcement: the kernel counts them.
        let lost = before.carrier && (!link.carrier || link.losses != before.losses);
        if lost {
            self.say(&link.name, "no carrier");
            self.feed(link.index, Event::Carrier(false));
        }
        if link.carrier && (lost || !before.carrier) {
            self.say(&link.name, "carrier");
            self.configure_static(link.index);
            self.feed(link.index, Event::Carrier(true));
        } else if link.up && !before.up {
            self.configure_static(link.index);
        }
        // It may have been set down and up between two looks: then only the lost carrier tells.
        if link.up && (!before.up || (lost && link.carrier)) {
            // The kernel dropped its routes when it was set down. The server may be slow to confirm the lease.
            self.apply_again(link.index);
        }
    }

    /// Gives the kernel the lease in use once more, for the time that is left.
    fn apply_again(&mut self, index: u32) {
        let now = self.sys.uptime_ms();
        let Some(port) = self.ports.get_mut(&index) else { return };
        let (Some(lease), Some(entry)) = (port.applied.clone(), self.entries.get(port.claim.entry)) else { return };
        let expires = port.client.as_ref().and_then(Client::expires_ms);
        let left_s = expires.map(|expires| u32::try_from(expires.saturating_sub(now) / 1000).unwrap_or(u32::MAX));
        let failures = port.apply(&mut self.netlink, &lease, left_s, entry);
        let name = port.link.name.clone();
        self.problem(&format!("{name} lease"), (!failures.is_empty()).then(|| failures.join("; ")));
    }

    /// Claims and sets up interfaces; returns whether there were any.
    fn claim_new(&mut self) -> bool {
        let claims: BTreeMap<u32, Claim> = self.ports.iter().map(|(index, port)| (*index, port.claim)).collect();
        let device = |link: &Link| self.sys.kind(&format!("/sys/class/net/{}/device", link.name)).is_some();
        let candidates: Vec<Candidate<'_>> =
            self.links.iter().map(|link| Candidate { link, device: device(link) }).collect();
        let mut new = plan::claim(&self.entries, &claims, &candidates);
        let mut created = false;
        for vlan in plan::vlans(&self.entries, &claims, &self.links) {
            match vlan {
                Ok(plan::Vlan { entry, present: Some(index), .. }) => {
                    let metric = plan::FIRST_METRIC + entry as u32 * plan::ENTRY_STEP;
                    new.insert(index, Claim { entry, metric });
                }
                Ok(vlan) => created |= self.create_vlan(&vlan),
                Err((name, reason)) => self.problem(&name, Some(reason)),
            }
        }
        for (index, claim) in &new {
            self.set_up(*index, *claim);
        }
        created || !new.is_empty()
    }

    fn create_vlan(&mut self, vlan: &plan::Vlan) -> bool {
        // Once: what failed is not tried again at every announcement.
        if self.problems.contains_key(&vlan.name) {
            return false;
        }
        let Some(parent) = self.links.iter().find(|link| link.index == vlan.parent).cloned() else { return false };
        let result = self.netlink.add_vlan(&vlan.name, &parent, vlan.vlan);
        let created = result.is_ok();
        self.problem(&vlan.name, result.err().map(|error| error.to_string()));
        created
    }

    fn set_up(&mut self, index: u32, claim: Claim) {
        let Some(link) = self.links.iter().find(|link| link.index == index).cloned() else { return };
        let Some(entry) = self.entries.get(claim.entry).cloned() else { return };
        self.accept_advertisements(&link.name, entry.accept_ra);
        let mut result = self.netlink.set_up(&link, entry.mtu);
        if result.is_err() && entry.mtu.is_some() {
            // Rather with another MTU than not at all.
            let plain = self.netlink.set_up(&link, None);
            result = plain.and(result);
        }
        let name = link.name.clone();
        self.problem(&format!("{name} up"), result.err().map(|error| error.to_string()));
        let client = entry.dhcp4.then_some(link.hardware).flatten();
        let client = client.map(|hardware| Client::new(hardware, self.hostname.clone(), seed(self.sys)));
        // Its carrier is looked at next: until then there is none.
        let mut port = Port::new(claim, Link { carrier: false, up: true, ..link }, client);
        self.take_over(&mut port);
        self.ports.insert(index, port);
        self.configure_static(index);
    }

    /// Takes over the lease that the process before this one had, as far as the interface still has its address.
    fn take_over(&self, port: &mut Port) {
        let key = port.lease_key();
        let Some(client) = &mut port.client else { return };
        let Some(lease) = store::kept_lease(self.sys, &self.image.leases, &key) else { return };
        let own = |address: &&Address| {
            address.index == port.link.index
                && (address.address, address.prefix) == (lease.address.into(), lease.prefix)
        };
        match self.addresses.iter().find(own) {
            Some(address) => {
                port.applied = Some(lease.clone());
                client.adopt(self.sys.uptime_ms(), lease, address.valid_s.map(|seconds| u64::from(seconds) * 1000));
            }
            None => client.remember(lease.address),
        }
    }

    /// With forwarding, as Kubernetes wants it, the kernel takes router advertisements only when told so by a 2 (kernel
    /// `Documentation/networking/ip-sysctl.rst`, `accept_ra`).
    fn accept_advertisements(&mut self, name: &str, accept: bool) {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
        let result = self.sys.write(&path, if accept { b"2" } else { b"0" });
        // Without IPv6 in the kernel there is nothing to set.
        let failure = result.err().filter(|error| !error.is_not_found());
        self.problem(&format!("{name} accept_ra"), failure.map(|error| error.to_string()));
    }

    fn configure_static(&mut self, index: u32) {
        let Some(port) = self.ports.get_mut(&index) else { return };
        let Some(entry) = self.entries.get(port.claim.entry) else { return };
        if entry.addresses.is_empty() && entry.routes.is_empty() {
            return;
        }
        let first = !port.settled;
        let failures = port.configure_static(&mut self.netlink, entry);
        let (name, settled) = (port.link.name.clone(), port.settled);
        if first && settled && !entry.addresses.is_empty() {
            let text = format!("{} by configuration", entry.addresses.join(", "));
            self.say(&name, text);
        }
        self.problem(&format!("{name} configuration"), (!failures.is_empty()).then(|| failures.join("; ")));
    }

    /// Gives an event to a client and does what follows.
    fn feed(&mut self, index: u32, event: Event<'_>) {
        let now = self.sys.uptime_ms();
        let Some(port) = self.ports.get_mut(&index) else { return };
        let Some(client) = &mut port.client else { return };
        let actions = client.step(now, event);
        let listening = port.listen();
        let name = port.link.name.clone();
        self.problem(&format!("{name} socket"), listening.err().map(|error| error.to_string()));
        for action in actions {
            self.perform(index, &name, action);
        }
    }

    fn perform(&mut self, index: u32, name: &str, action: Action) {
        let Some(port) = self.ports.get_mut(&index) else { return };
        let (subject, failure) = match action {
            Action::Broadcast(message) => ("send", port.send(None, &message).err().map(|error| error.to_string())),
            Action::Unicast(server, message) => {
                ("send", port.send(Some(server), &message).err().map(|error| error.to_string()))
            }
            Action::Note(text) => return self.say(name, text),
            Action::Withdraw(lease) => return port.withdraw(&mut self.netlink, &lease),
            Action::Configure(lease) => {
                let Some(entry) = self.entries.get(port.claim.entry) else { return };
                let failures = port.apply(&mut self.netlink, &lease, lease.seconds, entry);
                let kept = store::keep_lease(self.sys, &self.image.leases, &port.lease_key(), &lease).err();
                self.problem(&format!("{name} lease file"), kept);
                // Routes of the configuration may lead through the lease's network.
                self.configure_static(index);
                ("lease", (!failures.is_empty()).then(|| failures.join("; ")))
            }
        };
        self.problem(&format!("{name} {subject}"), failure);
    }

    /// Tells whether an interface has what its entry asks for.
    pub(super) fn is_satisfied(&self, port: &Port) -> bool {
        self.entries.get(port.claim.entry).is_some_and(|entry| {
            (!entry.dhcp4 || port.applied.is_some()) && (entry.addresses.is_empty() || port.settled)
        })
    }

    fn view(&self) -> View {
        let now = self.sys.uptime_ms();
        let satisfied =
            |number| self.ports.values().filter(|port| port.claim.entry == number).any(|port| self.is_satisfied(port));
        let entry = |(number, entry): (usize, &Interface)| ready::Entry {
            id: entry.id.clone(),
            optional: entry.optional,
            satisfied: satisfied(number),
        };
        View {
            elapsed_ms: now.saturating_sub(self.started_ms),
            wait_ms: self.config.network.wait_ms,
            dark_ms: self.dark_since.map(|since| now.saturating_sub(since)),
            entries: self.entries.iter().enumerate().map(entry).collect(),
        }
    }

    /// Ends the wait when it is time to.
    fn judge(&mut self) {
        if self.ready {
            return;
        }
        let Verdict::Ready(reason) = ready::judge(&self.view()) else { return };
        self.ready = true;
        self.say("network", format!("ready: {reason}"));
        match self.open_probe() {
            Ok(listener) => self.listener = Some(listener),
            Err(error) => self.problem("network socket", Some(format!("{}: {error}", layout::NETWORK_SOCKET))),
        }
    }

    fn open_probe(&self) -> std::io::Result<UnixListener> {
        // That of a process before this one; nothing else has this name.
        let _ = self.sys.remove(layout::NETWORK_SOCKET);
        let listener = UnixListener::bind(layout::NETWORK_SOCKET)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    fn answer_probes(&mut self) {
        let Some(listener) = &self.listener else { return };
        while listener.accept().is_ok() {}
    }
}

fn seed(sys: &dyn Sys) -> u64 {
    let mut bytes = [0; 8];
    // Without randomness transaction ids can be guessed; an address is worth more.
    let _ = sys.random(&mut bytes);
    u64::from_ne_bytes(bytes) ^ sys.uptime_ms()
}
