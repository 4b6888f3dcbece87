//! The SNTP client as a pure state machine: [`Client::step`] takes an event and returns actions.
//!
//! ```text
//! Idle -due-> Resolving (server n) -> Asking (its addresses, in order) -answer-> Idle, for 64 s to 2048 s
//!                      \- no address \- no answer -> server n+1 ... none left -> Idle, for 8 s to 1024 s
//! ```
//!
//! Times are milliseconds since boot; the wall clock only appears in the four times of an exchange.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::super::random::Random;
use super::super::status::TimeStatus;
use super::PORT;
use super::packet::{self, LENGTH, ReplyError};

/// Shortest and longest pause between successful exchanges, in seconds (RFC 5905's `MINPOLL` 6 and 11 of `MAXPOLL`).
const POLL_S: (u64, u64) = (64, 2048);
/// First and longest pause after all servers failed, in seconds.
const RETRY_S: (u64, u64) = (8, 1024);
/// How long an answer may take, in milliseconds. A later one says too little.
const ANSWER_MS: u64 = 3000;
/// How long the resolver may take, in milliseconds.
const RESOLVE_MS: u64 = 60_000;
/// Addresses that are tried of one server.
const ADDRESSES: usize = 3;
/// Offsets above this are made up at once, in nanoseconds; below it the clock runs faster or slower.
const STEP_NS: i128 = 500_000_000;
/// The same before the first exchange, when nothing relies on the clock yet.
const FIRST_STEP_NS: i128 = 10_000_000;
/// Time after the last answer when the clock no longer counts as synchronised, in milliseconds: six longest pauses.
const STALE_MS: u64 = 6 * 2048 * 1000;

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// These servers are to be asked; none: nobody can be reached.
    Servers(Vec<String>),
    /// The resolver's answer.
    Resolved(Vec<IpAddr>),
    /// A packet arrived in answer to a request that left at `sent_ns`; wall clock, nanoseconds since 1970.
    Received {
        /// The packet.
        bytes: &'a [u8],
        /// When the request left.
        sent_ns: i128,
        /// When the packet arrived.
        arrived_ns: i128,
    },
    /// The moment of [`Client::due`] has come.
    Due,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Find the addresses of this name; answer with [`Event::Resolved`].
    Resolve(String),
    /// Send this packet; what was sent before is no longer of interest.
    Ask(SocketAddr, [u8; LENGTH]),
    /// No answer is expected any more.
    Close,
    /// Move the clock by this many nanoseconds.
    Step(i128),
    /// Make up this many microseconds little by little; the clock is right within the second number.
    Slew(i64, i64),
    /// Tell people.
    Note(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Idle,
    Resolving(usize),
    Asking { server: usize, addresses: Vec<IpAddr>, nonce: u64 },
}

/// The client.
#[derive(Debug)]
pub struct Client {
    floor: u64,
    random: Random,
    servers: Vec<String>,
    denied: BTreeSet<String>,
    state: State,
    next_ms: Option<u64>,
    poll_s: u64,
    failures: u32,
    synchronised: bool,
    status: TimeStatus,
}

impl Client {
    /// Returns a client without servers. `floor` is a time that is surely past, in seconds since 1970.
    pub fn new(enabled: bool, floor: u64, seed: u64) -> Self {
        Client {
            floor,
            random: Random::new(seed),
            servers: Vec::new(),
            denied: BTreeSet::new(),
            state: State::Idle,
            next_ms: None,
            poll_s: POLL_S.0,
            failures: 0,
            synchronised: false,
            status: TimeStatus { enabled, ..TimeStatus::default() },
        }
    }

    /// Returns when something is to be done, in milliseconds.
    pub fn due(&self) -> Option<u64> {
        let stale = self.status.last_sync_ms.filter(|_| self.synchronised).map(|last| last + STALE_MS);
        [self.next_ms, stale].into_iter().flatten().min()
    }

    /// Returns what is told about the clock.
    pub fn status(&self) -> &TimeStatus {
        &self.status
    }

    /// Takes one event and returns what follows.
    pub fn step(&mut self, now_ms: u64, event: Event<'_>) -> Vec<Action> {
        match event {
            Event::Servers(servers) => self.set_servers(now_ms, servers),
            Event::Resolved(addresses) => self.resolved(now_ms, addresses),
            Event::Received { bytes, sent_ns, arrived_ns } => self.receive(now_ms, bytes, sent_ns, arrived_ns),
            Event::Due => self.pass_time(now_ms),
        }
    }

    fn set_servers(&mut self, now_ms: u64, servers: Vec<String>) -> Vec<Action> {
        if servers == self.servers || !self.status.enabled {
            return Vec::new();
        }
        self.servers = servers;
        self.failures = 0;
        self.state = State::Idle;
        self.next_ms = None;
        let mut actions = vec![Action::Close];
        if !self.servers.is_empty() {
            actions.extend(self.try_server(now_ms, 0));
        }
        actions
    }

    /// Turns to the server of this number, or to the next that has not refused.
    fn try_server(&mut self, now_ms: u64, from: usize) -> Vec<Action> {
        let mut rest = self.servers.iter().enumerate().skip(from);
        let Some((server, name)) = rest.find(|(_, name)| !self.denied.contains(*name)) else {
            return self.fail(now_ms);
        };
        let name = name.clone();
        self.state = State::Resolving(server);
        self.next_ms = Some(now_ms + RESOLVE_MS);
        match name.parse() {
            Ok(address) => self.resolved(now_ms, vec![address]),
            Err(_) => vec![Action::Resolve(name)],
        }
    }

    fn resolved(&mut self, now_ms: u64, mut addresses: Vec<IpAddr>) -> Vec<Action> {
        let State::Resolving(server) = self.state else { return Vec::new() };
        addresses.dedup();
        addresses.truncate(ADDRESSES);
        // Taken from the end.
        addresses.reverse();
        self.ask(now_ms, server, addresses)
    }

    fn ask(&mut self, now_ms: u64, server: usize, mut addresses: Vec<IpAddr>) -> Vec<Action> {
        let Some(address) = addresses.pop() else { return self.try_server(now_ms, server + 1) };
        let nonce = self.random.number();
        self.state = State::Asking { server, addresses, nonce };
        self.next_ms = Some(now_ms + ANSWER_MS);
        vec![Action::Ask(SocketAddr::new(address, PORT), packet::request(nonce))]
    }

    /// All servers were tried in vain.
    fn fail(&mut self, now_ms: u64) -> Vec<Action> {
        let (first, longest) = RETRY_S;
        let pause = first.checked_shl(self.failures.min(16)).unwrap_or(longest).min(longest) * 1000;
        self.state = State::Idle;
        self.next_ms = Some(now_ms + self.random.spread(pause, 8));
        let mut actions = vec![Action::Close];
        if self.failures == 0 {
            let problem = format!("no time server answers: {}", self.servers.join(", "));
            actions.push(Action::Note(problem.clone()));
            self.status.problem = Some(problem);
        }
        self.failures = self.failures.saturating_add(1);
        actions
    }

    fn pass_time(&mut self, now_ms: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.synchronised && self.status.last_sync_ms.is_some_and(|last| last + STALE_MS <= now_ms) {
            self.synchronised = false;
            self.status.synchronised = false;
            actions.push(Action::Note("the clock is no longer synchronised".to_owned()));
        }
        if self.next_ms.is_none_or(|next| next > now_ms) {
            return actions;
        }
        self.next_ms = None;
        actions.extend(match self.state.clone() {
            State::Idle => self.try_server(now_ms, 0),
            State::Resolving(server) => self.try_server(now_ms, server + 1),
            State::Asking { server, addresses, .. } => self.ask(now_ms, server, addresses),
        });
        actions
    }

    fn receive(&mut self, now_ms: u64, bytes: &[u8], sent_ns: i128, arrived_ns: i128) -> Vec<Action> {
        let State::Asking { server, addresses, nonce } = self.state.clone() else { return Vec::new() };
        let name = self.servers.get(server).cloned().unwrap_or_default();
        match packet::read(bytes, nonce, self.floor) {
            Ok(reply) => {
                // RFC 4330, section 5: ((T2 - T1) + (T3 - T4)) / 2 and (T4 - T1) - (T3 - T2).
                let offset_ns = ((reply.received_ns - sent_ns) + (reply.sent_ns - arrived_ns)) / 2;
                let delay_ns = (arrived_ns - sent_ns) - (reply.sent_ns - reply.received_ns);
                if !(0..=i128::from(ANSWER_MS) * 1_000_000).contains(&delay_ns) {
                    return self.give_up(now_ms, server, addresses, &name, &ReplyError::Times);
                }
                let error_us = reply.error_us + (delay_ns / 2000) as i64;
                self.status.stratum = Some(reply.stratum);
                self.correct(now_ms, &name, offset_ns, error_us, arrived_ns)
            }
            // Of somebody who did not see the request, or of an address that was asked before: it is waited on.
            Err(ReplyError::Other | ReplyError::Short(_)) => Vec::new(),
            Err(ReplyError::Rate) => {
                self.poll_s = (self.poll_s * 2).min(POLL_S.1);
                self.state = State::Idle;
                self.next_ms = Some(now_ms + self.random.spread(self.poll_s * 1000, 8));
                vec![Action::Close]
            }
            Err(error @ ReplyError::Denied(_)) => {
                self.denied.insert(name.clone());
                self.give_up(now_ms, server, Vec::new(), &name, &error)
            }
            Err(error) => self.give_up(now_ms, server, addresses, &name, &error),
        }
    }

    /// Turns from an address whose answer is of no use to the next.
    fn give_up(
        &mut self,
        now_ms: u64,
        server: usize,
        addresses: Vec<IpAddr>,
        name: &str,
        error: &ReplyError,
    ) -> Vec<Action> {
        let text = format!("time server {name}: {error}");
        let mut actions = Vec::new();
        if self.status.problem.as_ref() != Some(&text) {
            actions.push(Action::Note(text.clone()));
            self.status.problem = Some(text);
        }
        actions.extend(self.ask(now_ms, server, addresses));
        actions
    }

    fn correct(&mut self, now_ms: u64, name: &str, offset_ns: i128, error_us: i64, arrived_ns: i128) -> Vec<Action> {
        let first = !self.synchronised;
        let step = offset_ns.abs() > if first { FIRST_STEP_NS } else { STEP_NS };
        let mut actions = vec![Action::Close];
        if step {
            actions.push(Action::Step(offset_ns));
        }
        actions.push(Action::Slew(if step { 0 } else { (offset_ns / 1000) as i64 }, error_us));
        let offset_ms = offset_ns as f64 / 1e6;
        if step || first {
            let what = if step { "clock moved" } else { "clock is right" };
            actions.push(Action::Note(format!("{what} by {name}: {offset_ms:+.3} ms")));
        }
        // Steps say that the clock is not well known yet; ask again soon.
        self.poll_s = if step { POLL_S.0 } else { (self.poll_s * 2).min(POLL_S.1) };
        self.state = State::Idle;
        self.next_ms = Some(now_ms + self.random.spread(self.poll_s * 1000, 8));
        self.failures = 0;
        self.synchronised = true;
        let unix = (arrived_ns + offset_ns) / 1_000_000_000;
        self.status = TimeStatus {
            enabled: true,
            synchronised: true,
            server: Some(name.to_owned()),
            last_sync_ms: Some(now_ms),
            last_sync_unix: u64::try_from(unix).ok(),
            offset_ms: Some((offset_ms * 1000.0).round() / 1000.0),
            stratum: self.status.stratum,
            problem: None,
        };
        actions
    }

    /// Says that the clock could not be set.
    pub fn failed_to_set(&mut self, problem: String) {
        self.synchronised = false;
        self.status.synchronised = false;
        self.status.problem = Some(problem);
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::answer;
    use super::*;

    const FLOOR: u64 = 1_700_000_000;
    const NOW: i128 = (FLOOR as i128 + 1000) * 1_000_000_000;

    fn client(servers: &[&str]) -> (Client, Vec<Action>) {
        let mut client = Client::new(true, FLOOR, 3);
        let servers = servers.iter().map(|name| (*name).to_owned()).collect();
        let actions = client.step(0, Event::Servers(servers));
        (client, actions)
    }

    fn asked(actions: &[Action]) -> Option<(IpAddr, u64)> {
        actions.iter().find_map(|action| match action {
            Action::Ask(address, packet) => {
                assert_eq!((address.port(), packet[0]), (123, 0x23));
                Some((address.ip(), u64::from_be_bytes(packet[40..].try_into().expect("8 bytes"))))
            }
            _ => None,
        })
    }

    /// The answer of a server whose clock is `offset_ns` ahead, 20 ms away.
    fn reply(client: &mut Client, now_ms: u64, nonce: u64, offset_ns: i128) -> Vec<Action> {
        let server = NOW + 10_000_000 + offset_ns;
        let bytes = answer(nonce, server, server);
        client.step(now_ms, Event::Received { bytes: &bytes, sent_ns: NOW, arrived_ns: NOW + 20_000_000 })
    }

    #[test]
    fn the_first_answer_moves_the_clock_and_later_ones_steer_it() {
        let (mut client, actions) = client(&["192.0.2.1"]);
        let (address, nonce) = asked(&actions).expect("asked at once");
        assert_eq!(address.to_string(), "192.0.2.1");
        let actions = reply(&mut client, 20, nonce, 3_000_000_000);
        let moved = actions.iter().find_map(|action| if let Action::Step(by) = action { Some(*by) } else { None });
        assert!(moved.is_some_and(|by| (by - 3_000_000_000).abs() < 10), "{actions:?}");
        let status = client.status().clone();
        assert!(status.synchronised && status.problem.is_none());
        assert_eq!(
            (status.server.as_deref(), status.last_sync_ms, status.stratum),
            (Some("192.0.2.1"), Some(20), Some(2))
        );
        assert_eq!((status.offset_ms, status.last_sync_unix), (Some(3000.0), Some(FLOOR + 1003)));
        let mut pauses = Vec::new();
        let mut now = 20;
        for _ in 0..8 {
            let due = client.due().expect("a timer");
            pauses.push((due - now) / 1000);
            now = due;
            let (_, nonce) = asked(&client.step(now, Event::Due)).expect("asked");
            let actions = reply(&mut client, now, nonce, 400_000_000);
            assert!(
                actions.iter().any(|action| matches!(action, Action::Slew(399_990..=400_010, 10_000))),
                "{actions:?}"
            );
            assert!(!actions.iter().any(|action| matches!(action, Action::Step(_) | Action::Note(_))));
        }
        for (pause, middle) in pauses.iter().zip([64, 128, 256, 512, 1024, 2048, 2048, 2048]) {
            assert!((middle * 7 / 8 - 1..=middle * 9 / 8).contains(pause), "{pauses:?}");
        }
        let due = client.due().expect("a timer");
        let (_, nonce) = asked(&client.step(due, Event::Due)).expect("asked");
        let actions = reply(&mut client, due, nonce, -600_000_000);
        assert!(actions.iter().any(|action| matches!(action, Action::Step(_))), "half a second is not slewed");
    }

    #[test]
    fn a_clock_that_is_right_is_not_moved() {
        let (mut client, actions) = client(&["192.0.2.1"]);
        let (_, nonce) = asked(&actions).expect("asked");
        let actions = reply(&mut client, 20, nonce, 5_000_000);
        assert!(!actions.iter().any(|action| matches!(action, Action::Step(_))), "{actions:?}");
        assert!(actions.contains(&Action::Note("clock is right by 192.0.2.1: +5.000 ms".to_owned())), "{actions:?}");
    }

    #[test]
    fn names_are_resolved_and_servers_tried_in_order() {
        let (mut client, actions) = client(&["a.example", "b.example"]);
        assert!(actions.contains(&Action::Resolve("a.example".to_owned())));
        let addresses = |last: &[u8]| last.iter().map(|last| IpAddr::from([192, 0, 2, *last])).collect::<Vec<_>>();
        let actions = client.step(5, Event::Resolved(addresses(&[1, 2, 3, 4, 5])));
        let mut order = vec![asked(&actions).expect("asked").0];
        let resolve = loop {
            let due = client.due().expect("a timer");
            let actions = client.step(due, Event::Due);
            match asked(&actions) {
                Some((address, _)) => order.push(address),
                None => break actions,
            }
        };
        assert_eq!(order, addresses(&[1, 2, 3]), "no more than three");
        assert_eq!(resolve, [Action::Resolve("b.example".to_owned())]);
        let actions = client.step(10_000, Event::Resolved(Vec::new()));
        let note = "no time server answers: a.example, b.example".to_owned();
        assert_eq!(actions, [Action::Close, Action::Note(note.clone())]);
        assert_eq!(client.status().problem, Some(note));
        let mut pauses = Vec::new();
        let mut now = 10_000;
        for _ in 0..9 {
            let due = client.due().expect("a timer");
            pauses.push((due - now) / 1000);
            now = due;
            client.step(now, Event::Due);
            client.step(now, Event::Resolved(Vec::new()));
            let actions = client.step(now, Event::Resolved(Vec::new()));
            assert_eq!(actions, [Action::Close], "said once");
        }
        for (pause, middle) in pauses.iter().zip([8, 16, 32, 64, 128, 256, 512, 1024, 1024]) {
            assert!((middle * 7 / 8 - 1..=middle * 9 / 8).contains(pause), "{pauses:?}");
        }
    }

    #[test]
    fn a_resolver_that_hangs_is_not_waited_for() {
        let (mut client, _) = client(&["a.example", "192.0.2.2"]);
        assert_eq!(client.due(), Some(RESOLVE_MS));
        assert_eq!(
            asked(&client.step(RESOLVE_MS, Event::Due)).map(|(address, _)| address.to_string()).as_deref(),
            Some("192.0.2.2")
        );
        assert_eq!(client.step(RESOLVE_MS, Event::Resolved(vec![[192, 0, 2, 9].into()])), [], "too late");
    }

    #[test]
    fn forged_answers_are_not_taken_and_the_right_one_still_is() {
        let (mut client, actions) = client(&["192.0.2.1"]);
        let (_, nonce) = asked(&actions).expect("asked");
        assert_eq!(reply(&mut client, 5, nonce ^ 1, 1 << 60), []);
        assert!(!client.status().synchronised);
        assert!(!reply(&mut client, 6, nonce, 0).is_empty());
        assert!(client.status().synchronised);
        assert_eq!(reply(&mut client, 7, nonce, 1 << 60), [], "a second answer");
    }

    #[test]
    fn times_before_the_image_and_impossible_delays_are_refused() {
        let (mut client, actions) = client(&["192.0.2.1", "192.0.2.2"]);
        let (_, nonce) = asked(&actions).expect("asked");
        let actions = reply(&mut client, 5, nonce, -2_000_000_000_000);
        let text = "time server 192.0.2.1: the server's time is before the time that this image was built";
        assert_eq!(actions[0], Action::Note(text.to_owned()));
        let (second, nonce) = asked(&actions).expect("the next is asked");
        assert_eq!(second.to_string(), "192.0.2.2");
        let bytes = answer(nonce, NOW, NOW + 5_000_000_000);
        let actions = client.step(9, Event::Received { bytes: &bytes, sent_ns: NOW, arrived_ns: NOW + 1000 });
        assert!(
            actions.iter().any(|action| matches!(action, Action::Note(text) if text.contains("do not fit"))),
            "{actions:?}"
        );
        assert!(!client.status().synchronised);
    }

    #[test]
    fn kisses_of_death_are_honoured() {
        let (mut client, actions) = client(&["192.0.2.1", "192.0.2.2"]);
        let (_, nonce) = asked(&actions).expect("asked");
        let kiss = |nonce: u64, code: &[u8; 4]| {
            let mut bytes = answer(nonce, NOW, NOW);
            bytes[1] = 0;
            bytes[12..16].copy_from_slice(code);
            bytes
        };
        let deny = kiss(nonce, b"DENY");
        let actions = client.step(5, Event::Received { bytes: &deny, sent_ns: NOW, arrived_ns: NOW });
        let (second, nonce) = asked(&actions).expect("the next is asked");
        assert_eq!(second.to_string(), "192.0.2.2");
        let rate = kiss(nonce, b"RATE");
        assert_eq!(client.step(6, Event::Received { bytes: &rate, sent_ns: NOW, arrived_ns: NOW }), [Action::Close]);
        let due = client.due().expect("a timer");
        assert!(due > 100_000, "less often: {due}");
        let (again, _) = asked(&client.step(due, Event::Due)).expect("asked");
        assert_eq!(again.to_string(), "192.0.2.2", "who refused is not asked again");
    }

    #[test]
    fn without_servers_nothing_is_due_and_old_answers_age() {
        let (mut client, actions) = client(&["192.0.2.1"]);
        let (_, nonce) = asked(&actions).expect("asked");
        reply(&mut client, 20, nonce, 0);
        assert_eq!(client.step(30, Event::Servers(Vec::new())), [Action::Close]);
        assert_eq!(client.due(), Some(20 + STALE_MS));
        client.step(20 + STALE_MS, Event::Due);
        assert!(!client.status().synchronised);
        assert_eq!(client.due(), None);
        let mut off = Client::new(false, FLOOR, 1);
        assert_eq!(off.step(0, Event::Servers(vec!["192.0.2.1".to_owned()])), []);
        assert_eq!(off.due(), None);
    }
}
