//! Names to addresses with getaddrinfo(3), which blocks: in a thread that ends with its answer.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::pipe::PipeFlags;

/// Stack of the thread in bytes: glibc's resolver keeps packets of 64 KiB on it.
const STACK: usize = 256 << 10;

/// The number of a question and the addresses.
type Answer = (u64, Vec<IpAddr>);

/// Answers, and the pipe that tells of them.
#[derive(Debug)]
pub struct Resolver {
    read: OwnedFd,
    write: OwnedFd,
    answers: (Sender<Answer>, Receiver<Answer>),
    latest: u64,
}

impl Resolver {
    /// Returns a resolver without a thread.
    pub fn new() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Resolver { read, write, answers: channel(), latest: 0 })
    }

    /// Begins to look a name up. Answers to names before it are no longer of interest.
    pub fn look_up(&mut self, name: String) -> io::Result<()> {
        self.latest += 1;
        let (number, sender, write) = (self.latest, self.answers.0.clone(), self.write.try_clone()?);
        let task = move || {
            // No address, whatever the reason: the caller turns to the next server.
            let found = (name.as_str(), 0).to_socket_addrs();
            let addresses = found.map(|found| found.map(|address| address.ip()).collect()).unwrap_or_default();
            let _ = sender.send((number, addresses));
            let _ = rustix::io::write(&write, b"x");
        };
        std::thread::Builder::new().name("resolver".to_owned()).stack_size(STACK).spawn(task).map(drop)
    }

    /// Takes the answer to the latest name, when it is there.
    pub fn take(&mut self) -> Option<Vec<IpAddr>> {
        let mut buffer = [0; 16];
        while rustix::io::read(&self.read, &mut buffer[..]).is_ok_and(|count| count > 0) {}
        let latest = self.latest;
        let answer = self.answers.1.try_iter().filter(|(number, _)| *number == latest).last();
        answer.map(|(_, addresses)| addresses)
    }
}

impl AsFd for Resolver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags};

    #[test]
    fn answers_arrive_through_the_pipe_and_old_ones_do_not() {
        let mut resolver = Resolver::new().expect("a pipe");
        assert_eq!(resolver.take(), None);
        resolver.look_up("does-not-exist.invalid".to_owned()).expect("a thread");
        resolver.look_up("127.0.0.9".to_owned()).expect("a thread");
        let found = loop {
            let mut entries = [PollFd::new(&resolver, PollFlags::IN)];
            rustix::event::poll(&mut entries, None).expect("polled");
            if let Some(found) = resolver.take() {
                break found;
            }
        };
        assert_eq!(found, [IpAddr::from([127, 0, 0, 9])]);
    }
}
