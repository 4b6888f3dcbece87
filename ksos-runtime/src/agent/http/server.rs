//! The sockets: one thread, one poll(2) over listeners and connections, everything bounded.
//!
//! No thread per connection, so that a client that sends one byte a second holds a few kilobytes and nothing else, and
//! no wake-up without a reason: with no connection open, [`Server::turn`] sleeps until its caller's timeout. Bounds:
//! [`CONNECTION_LIMIT`] connections in all and [`PEER_LIMIT`] from one address (more are closed at once), times for
//! receiving, sending and closing.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::{HEAD_LIMIT, Parsed, Request, Response, parse};

/// Most connections at a time.
pub(in crate::agent) const CONNECTION_LIMIT: usize = 16;
/// Most connections at a time from one address.
pub(in crate::agent) const PEER_LIMIT: usize = 8;
/// Time to receive a request.
const RECEIVE_TIME: Duration = Duration::from_secs(5);
/// Time to send an answer.
const SEND_TIME: Duration = Duration::from_secs(10);
/// Time that a client has to close after the answer.
const CLOSE_TIME: Duration = Duration::from_secs(1);
/// Bytes that are thrown away while a client closes.
const DISCARD_LIMIT: usize = 64 << 10;
/// Pause after a connection could not be accepted for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A listening address that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::agent) enum ListenError {
    /// It is none.
    #[error("listen address {0:?}: not ADDRESS:PORT, [ADDRESS]:PORT or :PORT")]
    Syntax(String),
    /// The kernel refuses it.
    #[error("listen on {0:?}: {1}")]
    Refused(String, io::Error),
}

/// Answers requests. `E` tells the listeners apart.
pub(in crate::agent) trait Answer<E> {
    /// Answers one request that arrived at `endpoint` from `peer`.
    fn answer(&mut self, endpoint: E, peer: IpAddr, request: &Request) -> Response;
}

/// Listeners and connections.
pub(in crate::agent) struct Server<E> {
    listeners: Vec<(E, TcpListener)>,
    connections: Vec<Connection<E>>,
    accept_after: Option<Instant>,
    rejected: u64,
}

struct Connection<E> {
    endpoint: E,
    stream: TcpStream,
    peer: IpAddr,
    deadline: Instant,
    phase: Phase,
}

enum Phase {
    Receiving(Vec<u8>),
    Sending {
        bytes: Vec<u8>,
        sent: usize,
    },
    /// The answer is sent. Closing with bytes unread would reset the connection and could destroy the answer on its
    /// way (RFC 9112, section 9.6), so the rest is read and thrown away.
    Closing {
        discarded: usize,
    },
    Done,
}

/// Parses `ADDRESS:PORT`, `[ADDRESS]:PORT` or `:PORT`, which is every address.
pub(in crate::agent) fn parse_address(text: &str) -> Result<SocketAddr, ListenError> {
    let every = |port: &str| Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port.parse().ok()?));
    let parsed = match text.strip_prefix(':') {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => every(port),
        _ => text.parse().ok(),
    };
    parsed.filter(|address| address.port() != 0).ok_or_else(|| ListenError::Syntax(text.to_owned()))
}

/// Opens a listener. `[::]` takes IPv4 too, and is `0.0.0.0` on a kernel without IPv6.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let every = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    match bind(address) {
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) if every => {
            Ok(bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()))?)
        }
        other => Ok(other?),
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, CONNECTION_LIMIT as i32)?;
    Ok(TcpListener::from(socket))
}

impl<E: Copy + PartialEq> Server<E> {
    /// Returns a server without listeners.
    pub(in crate::agent) fn new() -> Self {
        Server { listeners: Vec::new(), connections: Vec::new(), accept_after: None, rejected: 0 }
    }

    /// Listens on `address` for `endpoint`; returns the address with its port.
    pub(in crate::agent) fn open(&mut self, endpoint: E, address: SocketAddr) -> Result<SocketAddr, ListenError> {
        let refused = |source| ListenError::Refused(address.to_string(), source);
        let listener = listen(address).map_err(refused)?;
        let bound = listener.local_addr().map_err(refused)?;
        self.listeners.push((endpoint, listener));
        Ok(bound)
    }

    /// Stops listening for `endpoint`; its connections go on.
    pub(in crate::agent) fn close(&mut self, endpoint: E) {
        self.listeners.retain(|(other, _)| *other != endpoint);
    }

    /// Whether it listens for `endpoint`.
    #[cfg(test)]
    pub(in crate::agent) fn is_open(&self, endpoint: E) -> bool {
        self.listeners.iter().any(|(other, _)| *other == endpoint)
    }

    /// Whether nothing listens and nobody is connected.
    pub(in crate::agent) fn is_idle(&self) -> bool {
        self.listeners.is_empty() && self.connections.is_empty()
    }

    /// Connections that were closed because there were too many.
    pub(in crate::agent) fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Waits at most `timeout` (`None`: for ever) for something to do, and does it.
    ///
    /// # Errors
    ///
    /// poll(2) failed.
    pub(in crate::agent) fn turn(&mut self, timeout: Option<Duration>, answers: &mut dyn Answer<E>) -> io::Result<()> {
        let (accept, ready) = self.poll(timeout)?;
        for (index, ready) in ready.into_iter().enumerate() {
            if ready {
                self.advance(index, answers);
            }
        }
        let now = Instant::now();
        for connection in &mut self.connections {
            connection.expire(now);
        }
        self.connections.retain(|connection| !matches!(connection.phase, Phase::Done));
        for index in accept {
            self.accept(index);
        }
        Ok(())
    }

    /// Waits; returns the listeners with a new connection, and for each connection whether it can go on.
    fn poll(&mut self, timeout: Option<Duration>) -> io::Result<(Vec<usize>, Vec<bool>)> {
        let now = Instant::now();
        self.accept_after = self.accept_after.filter(|after| *after > now);
        let listeners = if self.accept_after.is_some() { &[][..] } else { &self.listeners[..] };
        let deadlines = self.connections.iter().map(|connection| connection.deadline);
        let next = deadlines.chain(self.accept_after).map(|at| at.saturating_duration_since(now)).chain(timeout).min();
        let mut entries: Vec<PollFd<'_>> =
            listeners.iter().map(|(_, listener)| PollFd::new(listener, PollFlags::IN)).collect();
        entries.extend(self.connections.iter().map(|connection| {
            let sending = matches!(connection.phase, Phase::Sending { .. });
            PollFd::new(&connection.stream, if sending { PollFlags::OUT } else { PollFlags::IN })
        }));
        let timeout = next.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match rustix::event::poll(&mut entries, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok((Vec::new(), Vec::new())),
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = entries.iter().map(|entry| !entry.revents().is_empty()).collect();
        let (first, rest) = ready.split_at(listeners.len());
        let accept = first.iter().enumerate().filter(|(_, ready)| **ready).map(|(index, _)| index).collect();
        Ok((accept, rest.to_vec()))
    }

    /// Takes new connections; those that are too many are closed.
    fn accept(&mut self, index: usize) {
        for _ in 0..2 * CONNECTION_LIMIT {
            let Some((endpoint, listener)) = self.listeners.get(index) else { return };
            match listener.accept() {
                Ok((stream, address)) => {
                    let peer = address.ip().to_canonical();
                    let same = self.connections.iter().filter(|connection| connection.peer == peer).count();
                    let full = self.connections.len() >= CONNECTION_LIMIT || same >= PEER_LIMIT;
                    if full || stream.set_nonblocking(true).is_err() {
                        self.rejected = self.rejected.saturating_add(1);
                        continue;
                    }
                    let phase = Phase::Receiving(Vec::new());
                    let deadline = Instant::now() + RECEIVE_TIME;
                    self.connections.push(Connection { endpoint: *endpoint, stream, peer, deadline, phase });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EINTR)) => {}
                Err(_) => {
                    // Out of files or memory: the connection stays in the queue and would wake us at once.
                    self.accept_after = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn advance(&mut self, index: usize, answers: &mut dyn Answer<E>) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let before = Instant::now();
        connection.advance(answers);
        // What an answer took is not the other clients' fault. The one who got it has a deadline from when it was ready.
        let spent = before.elapsed();
        if spent > Duration::from_millis(50) {
            let others = self.connections.iter_mut().enumerate().filter(|(other, _)| *other != index);
            others.for_each(|(_, connection)| connection.deadline += spent);
        }
    }
}

impl<E: Copy> Connection<E> {
    fn advance(&mut self, answers: &mut dyn Answer<E>) {
        if let Phase::Receiving(_) = self.phase {
            self.receive(answers);
        }
        match &self.phase {
            Phase::Sending { .. } => self.send(),
            Phase::Closing { .. } => self.discard(),
            Phase::Receiving(_) | Phase::Done => {}
        }
    }

    fn receive(&mut self, answers: &mut dyn Answer<E>) {
        let Phase::Receiving(bytes) = &mut self.phase else { return };
        let mut buffer = [0; 1024];
        let room = buffer.len().min(HEAD_LIMIT + 1 - bytes.len().min(HEAD_LIMIT));
        match self.stream.read(&mut buffer[..room]) {
            Ok(0) => self.phase = Phase::Done,
            Ok(count) => {
                bytes.extend_from_slice(&buffer[..count]);
                match parse(bytes) {
                    Parsed::Partial => {}
                    Parsed::Refused(status) => self.reply(&Response::refusal(status), false),
                    Parsed::Complete(request) => {
                        let response = answers.answer(self.endpoint, self.peer, &request);
                        self.reply(&response, request.head);
                    }
                }
            }
            Err(error) if retry(&error) => {}
            Err(_) => self.phase = Phase::Done,
        }
    }

    fn reply(&mut self, response: &Response, head: bool) {
        self.phase = Phase::Sending { bytes: response.encode(head), sent: 0 };
        self.deadline = Instant::now() + SEND_TIME;
    }

    fn send(&mut self) {
        let Phase::Sending { bytes, sent } = &mut self.phase else { return };
        match self.stream.write(bytes.get(*sent..).unwrap_or(&[])) {
            Ok(0) => self.phase = Phase::Done,
            Ok(count) => {
                *sent += count;
                if *sent >= bytes.len() {
                    self.finish();
                }
            }
            Err(error) if retry(&error) => {}
            Err(_) => self.phase = Phase::Done,
        }
    }

    fn finish(&mut self) {
        let closed = self.stream.shutdown(Shutdown::Write);
        self.deadline = Instant::now() + CLOSE_TIME;
        self.phase = if closed.is_ok() { Phase::Closing { discarded: 0 } } else { Phase::Done };
    }

    fn discard(&mut self) {
        let Phase::Closing { discarded } = &mut self.phase else { return };
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(count) if count > 0 && *discarded < DISCARD_LIMIT => *discarded += count,
            Err(error) if retry(&error) => {}
            _ => self.phase = Phase::Done,
        }
    }

    fn expire(&mut self, now: Instant) {
        if self.deadline > now {
            return;
        }
        match &self.phase {
            // A connection without a byte was a look whether the port is open.
            Phase::Receiving(bytes) if !bytes.is_empty() => {
                self.reply(&Response::refusal(408), false);
                self.send();
            }
            _ => self.phase = Phase::Done,
        }
    }
}

fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
