//! The DHCPv4 client as a pure state machine (RFC 2131, section 4.4): [`Client::step`] takes an event and returns actions.
//!
//! ```text
//! Stopped -carrier-> Rebooting (an address is remembered) -ack-> Bound -T1-> Renewing -T2-> Rebinding
//!         \-carrier-> Selecting -offer-> Requesting -ack-> Bound        (any ack -> Bound)
//! refused (DHCPNAK), expired, or no answer while Rebooting or Requesting -> Selecting
//! any state -no carrier-> Stopped
//! ```
//!
//! - The lease that is in use ([`Client::lease`]) is held apart from the state: it is given up when it ends or is refused,
//!   and not before. A cable that was out for a minute costs no connection.
//! - DHCPDECLINE is not sent: the address is not probed before it is used.
//! - The first sound offer is taken.
//!
//! No clock, no I/O: times are milliseconds passed in; [`Client::due`] says when an [`Event::Due`] is wanted.

use std::net::Ipv4Addr;

use super::super::random::Random;
use super::lease::Lease;
use super::message::{Kind, Message, option};

/// First and longest pause between DHCPDISCOVERs, in milliseconds. Doubled each time, a quarter more or less.
const DISCOVER_PAUSE_MS: (u64, u64) = (2000, 64_000);
/// DHCPDISCOVERs without an answer after which people are told, once.
const SILENT_DISCOVERS: u32 = 3;
/// First pause between DHCPREQUESTs for an offer, in milliseconds; and how many are sent.
const REQUEST_PAUSE_MS: u64 = 1000;
const REQUESTS: u32 = 4;
/// How many DHCPREQUESTs for a remembered address are sent before any other address will do.
const REBOOT_REQUESTS: u32 = 2;
/// "... down to a minimum of 60 seconds, before retransmitting" (RFC 2131, section 4.4.5).
const RENEW_PAUSE_MS: u64 = 60_000;
/// First and longest pause after a refusal, in milliseconds.
const REFUSED_PAUSE_MS: (u64, u64) = (1000, 60_000);
/// Longest message that is taken, in bytes (option 57): what fits an Ethernet frame.
const MAXIMUM_SIZE: u16 = 1472;
/// What servers are asked for.
const PARAMETERS: [u8; 10] = [
    option::SUBNET_MASK,
    option::CLASSLESS_ROUTES,
    option::ROUTER,
    option::DOMAIN_NAME_SERVER,
    option::DOMAIN_NAME,
    option::DOMAIN_SEARCH,
    option::INTERFACE_MTU,
    option::NTP_SERVERS,
    option::RENEWAL_TIME,
    option::REBINDING_TIME,
];

/// Where the client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// There is no carrier.
    Stopped,
    /// It asked for any address this many times.
    Selecting(u32),
    /// It asked for what was offered this many times.
    Requesting(u32, Box<Lease>),
    /// It asked for the address it had before this many times.
    Rebooting(u32, Ipv4Addr),
    /// It has a lease.
    Bound,
    /// It asks the lease's server for more time.
    Renewing,
    /// It asks any server for more time.
    Rebinding,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// The link came or went.
    Carrier(bool),
    /// A message arrived.
    Received(&'a Message),
    /// The moment of [`Client::due`] has come.
    Due,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send to every server on the link, from the client's address in the message or from none.
    Broadcast(Message),
    /// Send to this server.
    Unicast(Ipv4Addr, Message),
    /// Set address and routes, in place of those of the lease before it, or set anew the time they have.
    Configure(Box<Lease>),
    /// Remove address and routes.
    Withdraw(Box<Lease>),
    /// Tell people.
    Note(String),
}

/// Where answers arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// None are expected.
    Nowhere,
    /// On the link, at an interface that may have no address.
    Link,
    /// At the client's port of the interface's address.
    Address,
}

/// A lease that is in use, and its moments in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    lease: Lease,
    renew_ms: Option<u64>,
    rebind_ms: u64,
    expires_ms: Option<u64>,
}

/// The client of one interface.
#[derive(Debug)]
pub struct Client {
    hardware: [u8; 6],
    hostname: Option<String>,
    random: Random,
    state: State,
    held: Option<Held>,
    remembered: Option<Ipv4Addr>,
    next_ms: Option<u64>,
    xid: u32,
    began_ms: u64,
    refusals: u32,
    complaint: Option<String>,
}

impl Client {
    /// Returns a client without carrier. `hostname` is what it tells servers.
    pub fn new(hardware: [u8; 6], hostname: Option<String>, seed: u64) -> Self {
        Client {
            hardware,
            hostname: hostname.filter(|name| (1..=255).contains(&name.len())),
            random: Random::new(seed),
            state: State::Stopped,
            held: None,
            remembered: None,
            next_ms: None,
            xid: 0,
            began_ms: 0,
            refusals: 0,
            complaint: None,
        }
    }

    /// Makes the client ask for this address first.
    pub fn remember(&mut self, address: Ipv4Addr) {
        self.remembered = Some(address);
    }

    /// Takes over a lease whose address the interface has, with this much time left (`None`: for ever).
    pub fn adopt(&mut self, now_ms: u64, lease: Lease, left_ms: Option<u64>) {
        self.remembered = Some(lease.address);
        let expires_ms = left_ms.map(|left| now_ms.saturating_add(left));
        self.held = Some(Held { lease, renew_ms: None, rebind_ms: u64::MAX, expires_ms });
    }

    /// Returns the lease in use.
    pub fn lease(&self) -> Option<&Lease> {
        self.held.as_ref().map(|held| &held.lease)
    }

    /// Returns when the lease in use ends, in milliseconds; `None` if never, or if there is none.
    pub fn expires_ms(&self) -> Option<u64> {
        self.held.as_ref()?.expires_ms
    }

    /// Returns the word for status output.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Stopped => "stopped",
            State::Selecting(_) => "selecting",
            State::Requesting(..) => "requesting",
            State::Rebooting(..) => "rebooting",
            State::Bound => "bound",
            State::Renewing => "renewing",
            State::Rebinding => "rebinding",
        }
    }

    /// Returns when something is to be done, in milliseconds.
    pub fn due(&self) -> Option<u64> {
        [self.next_ms, self.expires_ms()].into_iter().flatten().min()
    }

    /// Returns where answers arrive.
    pub fn listens(&self) -> Listen {
        match self.state {
            State::Stopped | State::Bound => Listen::Nowhere,
            State::Selecting(_) | State::Requesting(..) | State::Rebooting(..) => Listen::Link,
            State::Renewing | State::Rebinding => Listen::Address,
        }
    }

    /// Takes one event and returns what follows.
    pub fn step(&mut self, now_ms: u64, event: Event<'_>) -> Vec<Action> {
        match event {
            Event::Carrier(false) => {
                self.state = State::Stopped;
                self.next_ms = None;
                Vec::new()
            }
            Event::Carrier(true) if self.state == State::Stopped => self.start(now_ms),
            Event::Carrier(true) => Vec::new(),
            Event::Received(message) => self.receive(now_ms, message),
            Event::Due => self.pass_time(now_ms),
        }
    }

    fn start(&mut self, now_ms: u64) -> Vec<Action> {
        match self.remembered {
            Some(address) => {
                self.begin(now_ms);
                self.ask_again(now_ms, 0, address)
            }
            None => self.select(now_ms, 0),
        }
    }

    /// Begins an exchange: a new transaction, and the time that `secs` counts from.
    fn begin(&mut self, now_ms: u64) {
        self.xid = self.random.number() as u32;
        self.began_ms = now_ms;
    }

    /// Begins to look for any address after `pause_ms`.
    fn select(&mut self, now_ms: u64, pause_ms: u64) -> Vec<Action> {
        self.begin(now_ms);
        self.state = State::Selecting(0);
        self.next_ms = Some(now_ms.saturating_add(pause_ms));
        if pause_ms == 0 { self.discover(now_ms, 0) } else { Vec::new() }
    }

    fn discover(&mut self, now_ms: u64, sent: u32) -> Vec<Action> {
        let (first, longest) = DISCOVER_PAUSE_MS;
        self.state = State::Selecting(sent.saturating_add(1));
        self.wait(now_ms, first.checked_shl(sent.min(16)).unwrap_or(longest).min(longest));
        let mut message = self.message(now_ms, Kind::Discover);
        if let Some(address) = self.remembered {
            message.options.insert(option::REQUESTED_ADDRESS, address.octets().to_vec());
        }
        let mut actions = vec![Action::Broadcast(message)];
        if sent == SILENT_DISCOVERS {
            actions.push(Action::Note("no DHCP server answers; it goes on asking".to_owned()));
        }
        actions
    }

    /// "The client ... includes the 'server identifier' ... 'requested IP address' ... set to the value of 'yiaddr' in the
    /// DHCPOFFER message" (RFC 2131, section 3.1, point 3).
    fn request(&mut self, now_ms: u64, sent: u32, offer: Box<Lease>) -> Vec<Action> {
        if sent >= REQUESTS {
            return self.select(now_ms, 0);
        }
        let mut message = self.message(now_ms, Kind::Request);
        message.options.insert(option::REQUESTED_ADDRESS, offer.address.octets().to_vec());
        message.options.insert(option::SERVER_IDENTIFIER, offer.server.octets().to_vec());
        self.state = State::Requesting(sent + 1, offer);
        self.wait(now_ms, REQUEST_PAUSE_MS << sent);
        vec![Action::Broadcast(message)]
    }

    /// "'server identifier' MUST NOT be filled in, 'requested IP address' option MUST be filled in with client's notion of
    /// its previously assigned address. 'ciaddr' MUST be zero" (RFC 2131, section 4.3.2).
    fn ask_again(&mut self, now_ms: u64, sent: u32, address: Ipv4Addr) -> Vec<Action> {
        if sent >= REBOOT_REQUESTS {
            return self.select(now_ms, 0);
        }
        let mut message = self.message(now_ms, Kind::Request);
        message.options.insert(option::REQUESTED_ADDRESS, address.octets().to_vec());
        self.state = State::Rebooting(sent + 1, address);
        self.wait(now_ms, REQUEST_PAUSE_MS << sent);
        vec![Action::Broadcast(message)]
    }

    /// Asks for more time. "'server identifier' MUST NOT be filled in, 'requested IP address' option MUST NOT be filled
    /// in, 'ciaddr' MUST be filled in" (RFC 2131, section 4.3.2).
    fn renew(&mut self, now_ms: u64) -> Vec<Action> {
        let Some(Held { lease, rebind_ms, expires_ms, .. }) = &self.held else { return self.select(now_ms, 0) };
        let (server, address) = (lease.server, lease.address);
        let direct = now_ms < *rebind_ms;
        let until = if direct { Some(*rebind_ms) } else { *expires_ms }.unwrap_or(u64::MAX);
        let left = until.saturating_sub(now_ms);
        self.next_ms = Some(now_ms.saturating_add((left / 2).max(RENEW_PAUSE_MS).min(left)));
        self.state = if direct { State::Renewing } else { State::Rebinding };
        let mut message = self.message(now_ms, Kind::Request);
        message.ciaddr = address;
        vec![if direct { Action::Unicast(server, message) } else { Action::Broadcast(message) }]
    }

    fn wait(&mut self, now_ms: u64, pause_ms: u64) {
        self.next_ms = Some(now_ms.saturating_add(self.random.spread(pause_ms, 4)));
    }

    fn message(&self, now_ms: u64, kind: Kind) -> Message {
        let mut message = Message::request(kind, self.xid, self.hardware);
        message.secs = u16::try_from(now_ms.saturating_sub(self.began_ms) / 1000).unwrap_or(u16::MAX);
        message.options.insert(option::PARAMETER_REQUEST_LIST, PARAMETERS.to_vec());
        message.options.insert(option::MAXIMUM_SIZE, MAXIMUM_SIZE.to_be_bytes().to_vec());
        if let Some(hostname) = &self.hostname {
            message.options.insert(option::HOST_NAME, hostname.clone().into_bytes());
        }
        message
    }

    fn pass_time(&mut self, now_ms: u64) -> Vec<Action> {
        if self.expires_ms().is_some_and(|expires| expires <= now_ms) {
            return self.expire(now_ms);
        }
        if self.next_ms.is_none_or(|next| next > now_ms) {
            return Vec::new();
        }
        match self.state.clone() {
            State::Stopped => {
                self.next_ms = None;
                Vec::new()
            }
            State::Selecting(sent) => self.discover(now_ms, sent),
            State::Requesting(sent, offer) => self.request(now_ms, sent, offer),
            State::Rebooting(sent, address) => self.ask_again(now_ms, sent, address),
            State::Bound => {
                self.begin(now_ms);
                self.renew(now_ms)
            }
            State::Renewing | State::Rebinding => self.renew(now_ms),
        }
    }

    fn expire(&mut self, now_ms: u64) -> Vec<Action> {
        let Some(held) = self.held.take() else { return Vec::new() };
        let mut actions = vec![
            Action::Note(format!("the lease of {} has ended and nobody renewed it", held.lease.address)),
            Action::Withdraw(Box::new(held.lease)),
        ];
        // In the other states it already looks for an address, or has no link.
        if matches!(self.state, State::Bound | State::Renewing | State::Rebinding) {
            actions.extend(self.select(now_ms, 0));
        }
        actions
    }

    fn receive(&mut self, now_ms: u64, message: &Message) -> Vec<Action> {
        let ours = message.reply && message.xid == self.xid && message.hardware == self.hardware;
        if !ours || self.listens() == Listen::Nowhere {
            return Vec::new();
        }
        match (message.kind, self.state.clone()) {
            (Kind::Offer, State::Selecting(sent)) if sent > 0 => match Lease::read(message) {
                Ok(offer) => self.request(now_ms, 0, Box::new(offer)),
                Err(error) => self.complain(message, &error.to_string()),
            },
            (Kind::Ack, State::Requesting(_, offer)) => {
                self.acknowledge(now_ms, message, offer.address, Some(offer.server))
            }
            (Kind::Ack, State::Rebooting(_, address)) => self.acknowledge(now_ms, message, address, None),
            (Kind::Ack, State::Renewing | State::Rebinding) => match self.lease().map(|lease| lease.address) {
                Some(address) => self.acknowledge(now_ms, message, address, None),
                None => Vec::new(),
            },
            (Kind::Nak, state) => self.refuse(now_ms, message, &state),
            _ => Vec::new(),
        }
    }

    /// Takes an acknowledgement of `address`, by `server` where only one was asked.
    fn acknowledge(
        &mut self,
        now_ms: u64,
        message: &Message,
        address: Ipv4Addr,
        server: Option<Ipv4Addr>,
    ) -> Vec<Action> {
        let lease = match Lease::read(message) {
            Ok(lease) => lease,
            Err(error) => return self.complain(message, &error.to_string()),
        };
        if lease.address != address {
            return self.complain(message, &format!("it gives {}, and {address} was asked for", lease.address));
        }
        if server.is_some_and(|server| server != lease.server) {
            return self.complain(message, "it is not the server that was asked");
        }
        self.bind(now_ms, lease)
    }

    fn bind(&mut self, now_ms: u64, lease: Lease) -> Vec<Action> {
        let before = self.held.take().map(|held| held.lease);
        let mut actions = Vec::new();
        let told = |lease: &Lease| (lease.address, lease.prefix, lease.server, lease.seconds);
        if before.as_ref().map(told) != Some(told(&lease)) {
            actions.push(Action::Note(describe(&lease)));
        }
        actions.push(Action::Configure(Box::new(lease.clone())));
        let after = |seconds: u32| now_ms.saturating_add(u64::from(seconds) * 1000);
        // Early rather than late, so that a rack of nodes does not ask in the same moment.
        let early = self.random.number() % (u64::from(lease.renew_s) * 1000 / 16 + 1);
        let renew_ms = lease.seconds.map(|_| after(lease.renew_s).saturating_sub(early));
        self.remembered = Some(lease.address);
        self.held = Some(Held {
            renew_ms,
            rebind_ms: if lease.seconds.is_some() { after(lease.rebind_s) } else { u64::MAX },
            expires_ms: lease.seconds.map(after),
            lease,
        });
        self.state = State::Bound;
        self.next_ms = renew_ms;
        self.refusals = 0;
        self.complaint = None;
        actions
    }

    /// Takes a DHCPNAK: the address is not the client's, it begins anew.
    fn refuse(&mut self, now_ms: u64, message: &Message, state: &State) -> Vec<Action> {
        let from = message.address(option::SERVER_IDENTIFIER);
        let answers = match state {
            State::Requesting(_, offer) => from == Some(offer.server),
            State::Renewing => from == self.lease().map(|lease| lease.server),
            State::Rebooting(..) | State::Rebinding => from.is_some(),
            State::Selecting(_) | State::Stopped | State::Bound => false,
        };
        if !answers {
            return Vec::new();
        }
        let reason = message.text(option::MESSAGE).unwrap_or_default();
        let from = from.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let mut actions = vec![Action::Note(format!("DHCP server {from} refuses the address: {reason:?}"))];
        actions.extend(self.held.take().map(|held| Action::Withdraw(Box::new(held.lease))));
        self.remembered = None;
        let (first, longest) = REFUSED_PAUSE_MS;
        // The first refusal, normally of an address from another network, costs no time.
        let pause = if self.refusals == 0 { 0 } else { (first << (self.refusals - 1).min(16)).min(longest) };
        self.refusals = self.refusals.saturating_add(1);
        actions.extend(self.select(now_ms, pause));
        actions
    }

    /// Says why an answer is not taken, once for each reason in a row.
    fn complain(&mut self, message: &Message, reason: &str) -> Vec<Action> {
        let from = message.address(option::SERVER_IDENTIFIER).unwrap_or(Ipv4Addr::UNSPECIFIED);
        let text = format!("an answer of DHCP server {from} is not taken: {reason}");
        if self.complaint.as_ref() == Some(&text) {
            return Vec::new();
        }
        self.complaint = Some(text.clone());
        vec![Action::Note(text)]
    }
}

fn describe(lease: &Lease) -> String {
    let time = lease.seconds.map_or("for ever".to_owned(), |seconds| format!("lease {seconds} s"));
    format!("{}/{} by DHCP from {}, {time}", lease.address, lease.prefix, lease.server)
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
