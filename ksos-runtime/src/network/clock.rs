//! The time client's sockets and the resolver, and what the client wants done to the clock.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use super::daemon::Daemon;
use super::resolver::Resolver;
use super::sntp::{self, Action, Event};
use super::status::TimeStatus;
use super::store;
use crate::sys::Sys;

/// Largest packet that is read, in bytes; extensions are not looked at.
const PACKET: usize = 512;

/// The time client and what it waits on.
#[derive(Debug)]
pub struct Clock {
    client: sntp::Client,
    resolver: Resolver,
    /// The socket of the exchange that goes on, and when its request left.
    socket: Option<(UdpSocket, i128)>,
}

impl Clock {
    /// Returns a clock without servers.
    pub fn new(enabled: bool, floor: u64, seed: u64, resolver: Resolver) -> Self {
        Clock { client: sntp::Client::new(enabled, floor, seed), resolver, socket: None }
    }

    /// Returns the moment of the next timer.
    pub fn due(&self) -> Option<u64> {
        self.client.due()
    }

    /// Returns what tells of resolved names.
    pub fn names(&self) -> BorrowedFd<'_> {
        self.resolver.as_fd()
    }

    /// Returns the socket to wait on.
    pub fn waits_on(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(|(socket, _)| socket.as_fd())
    }

    /// Returns what is told about the clock.
    pub fn status(&self) -> &TimeStatus {
        self.client.status()
    }

    fn ask(&mut self, sys: &dyn Sys, server: SocketAddr, packet: &[u8]) -> io::Result<()> {
        let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // A port of its own for every exchange, and only the server's packets arrive.
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        let sent_ns = sys.wall_clock_ns();
        socket.send(packet)?;
        self.socket = Some((socket, sent_ns));
        Ok(())
    }
}

impl Daemon<'_> {
    /// Tells the time client who can be asked.
    pub(super) fn clock_servers(&mut self, servers: Vec<String>) {
        let actions = self.clock.client.step(self.sys.uptime_ms(), Event::Servers(servers));
        self.perform_clock(actions);
    }

    /// Takes the resolver's answer.
    pub(super) fn clock_names(&mut self) {
        if let Some(addresses) = self.clock.resolver.take() {
            let actions = self.clock.client.step(self.sys.uptime_ms(), Event::Resolved(addresses));
            self.perform_clock(actions);
        }
    }

    /// Takes a packet.
    pub(super) fn clock_answer(&mut self) {
        let Some((socket, sent_ns)) = &self.clock.socket else { return };
        let mut buffer = [0; PACKET];
        match socket.recv(&mut buffer) {
            Ok(count) => {
                let arrived_ns = self.sys.wall_clock_ns();
                let bytes = buffer.get(..count).unwrap_or(&[]);
                let event = Event::Received { bytes, sent_ns: *sent_ns, arrived_ns };
                let actions = self.clock.client.step(self.sys.uptime_ms(), event);
                self.perform_clock(actions);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Refused or unreachable: the client's timer turns to the next server.
            Err(_) => self.clock.socket = None,
        }
    }

    /// Tells the time client that its moment has come, when it has.
    pub(super) fn clock_due(&mut self, now_ms: u64) {
        if self.clock.due().is_some_and(|due| due <= now_ms) {
            let actions = self.clock.client.step(now_ms, Event::Due);
            self.perform_clock(actions);
        }
    }

    fn perform_clock(&mut self, actions: Vec<Action>) {
        for action in actions {
            let steered = matches!(action, Action::Step(_) | Action::Slew(..));
            let result = match action {
                Action::Resolve(name) => {
                    self.clock.resolver.look_up(name).map_err(|error| format!("start the resolver: {error}"))
                }
                // What cannot be sent is not answered: the client's timer turns to the next server.
                Action::Ask(server, packet) => {
                    self.clock.socket = None;
                    let _ = self.clock.ask(self.sys, server, &packet);
                    Ok(())
                }
                Action::Close => {
                    self.clock.socket = None;
                    Ok(())
                }
                Action::Step(offset) => self.sys.step_clock(offset).map_err(|error| error.to_string()),
                Action::Slew(offset, error) => self.sys.slew_clock(offset, error).map_err(|error| error.to_string()),
                Action::Note(text) => {
                    self.say("time", text);
                    Ok(())
                }
            };
            if let Err(reason) = &result {
                self.clock.client.failed_to_set(reason.clone());
                self.problem("time", Some(reason.clone()));
                return;
            }
            if steered {
                self.problem("time", None);
                let told = self.clock.status().last_sync_unix.filter(|_| self.clock.status().synchronised);
                let kept = told.map_or(Ok(()), |unix| store::keep_clock(self.sys, &self.image.clock, unix));
                self.problem("time file", kept.err());
            }
        }
    }
}
