//! A guest that one looks at while it runs: its console line by line, its reset and power buttons.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::machine::{FollowError, Guest, collect, command, pieces, power_button};
use super::watch::{Event, Watcher};
use super::{Outcome, RunError, RunOptions, Setup, start};

/// What comes of waiting for the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// A line, without terminal control; what it means comes before it, as an event of its own.
    Event(Event),
    /// Nothing until the deadline.
    Quiet,
    /// QEMU has ended.
    Ended {
        /// Its exit status; `None` when a signal ended it.
        status: Option<i32>,
        /// The end of what it said on its standard error.
        message: String,
    },
}

/// A running guest. Dropped, it is gone.
#[derive(Debug)]
pub struct Live {
    guest: Guest,
    program: PathBuf,
    output: Receiver<Vec<u8>>,
    messages: Option<Receiver<String>>,
    watcher: Watcher,
    seen: VecDeque<Event>,
    started: bool,
}

impl Live {
    /// Boots `image`.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn start(image: &Path, options: &RunOptions, setup: &Setup) -> Result<Self, RunError> {
        let (mut child, work) = start(image, options, setup)?;
        let Some(output) = child.stdout.take().map(pieces) else { unreachable!("it is piped") };
        let messages = child.stderr.take().map(collect);
        let guest = Guest::new(child, work, options.persist);
        let program = setup.program.clone();
        // Every line holds the empty text.
        let watcher = Watcher::for_line("");
        Ok(Live { guest, program, output, messages, watcher, seen: VecDeque::new(), started: false })
    }

    /// Waits for the next line of the console. Everything that the guest writes goes to `serial`.
    ///
    /// # Errors
    /// [`RunError::Sink`], [`RunError::Start`].
    pub fn next(&mut self, deadline: Instant, serial: &mut dyn Write) -> Result<Sight, RunError> {
        loop {
            if let Some(event) = self.seen.pop_front() {
                return Ok(Sight::Event(event));
            }
            match self.output.recv_deadline(deadline) {
                Ok(piece) => {
                    serial.write_all(&piece).and_then(|()| serial.flush()).map_err(RunError::Sink)?;
                    if !self.started {
                        self.started = true;
                        self.guest.work.release();
                    }
                    self.seen.extend(self.watcher.feed(&piece));
                }
                Err(RecvTimeoutError::Timeout) => return Ok(Sight::Quiet),
                Err(RecvTimeoutError::Disconnected) => return self.ended(),
            }
        }
    }

    fn ended(&mut self) -> Result<Sight, RunError> {
        match self.guest.ended(self.messages.take()) {
            Ok(Outcome::QemuExit { status, message }) => Ok(Sight::Ended { status, message }),
            Ok(_) | Err(FollowError::Kubeconfig(_)) => Ok(Sight::Ended { status: None, message: String::new() }),
            Err(FollowError::Sink(error)) => Err(RunError::Sink(error)),
            Err(FollowError::Wait(source)) => Err(RunError::Start { program: self.program.clone(), source }),
        }
    }

    /// Resets the machine as the button does: what the guest has not written is lost.
    ///
    /// # Errors
    /// QEMU cannot be asked.
    pub fn reset(&self) -> io::Result<()> {
        command(&self.guest.work.monitor, "system_reset")
    }

    /// Presses the power button: the guest shuts down in its own time.
    ///
    /// # Errors
    /// QEMU cannot be asked.
    pub fn power_button(&self) -> io::Result<()> {
        power_button(&self.guest.work.monitor)
    }
}
