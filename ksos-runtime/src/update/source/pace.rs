//! Time: how fast may be read, how slow is too slow, and how long is waited before another attempt.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

/// A clock that does not go back.
pub(super) trait Clock {
    /// Returns the time since some beginning.
    fn now(&self) -> Duration;
    /// Waits.
    fn sleep(&self, time: Duration);
}

/// The machine's clock.
#[derive(Debug)]
pub(super) struct Monotonic(Instant);

impl Monotonic {
    pub(super) fn new() -> Self {
        Monotonic(Instant::now())
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// What is waited for, and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// For a connection, per address.
    pub(super) connect: Duration,
    /// For the next byte.
    pub(super) idle: Duration,
    /// Time of waiting in which [`Limits::minimum`] bytes have to come.
    pub(super) window: Duration,
    /// Fewer bytes than these in a window are too slow.
    pub(super) minimum: u64,
    /// Attempts in a row that may fail.
    pub(super) attempts: u32,
    /// Pause before the second attempt; it doubles with each further one.
    pub(super) pause: Duration,
    /// Longest pause.
    pub(super) longest_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(30),
            window: Duration::from_secs(60),
            minimum: 60 << 10,
            attempts: 5,
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// Clock, limits and bandwidth, shared by all connections of a source.
pub(super) struct Pace {
    pub(super) clock: Box<dyn Clock>,
    pub(super) limits: Limits,
    /// Bytes per second.
    rate: Option<u64>,
    /// When what has been read so far may have been read.
    due: Cell<Duration>,
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace").field("limits", &self.limits).field("rate", &self.rate).finish_non_exhaustive()
    }
}

/// Bytes that may be saved up, as time: of a second in which nothing was read.
const BURST: Duration = Duration::from_secs(1);

impl Pace {
    pub(super) fn new(clock: Box<dyn Clock>, limits: Limits, rate: Option<u64>) -> Self {
        let due = Cell::new(clock.now());
        Pace { clock, limits, rate: rate.filter(|rate| *rate > 0), due }
    }

    /// Waits until more may be read (token bucket).
    pub(super) fn wait(&self) {
        let now = self.clock.now();
        if self.rate.is_some() && self.due.get() > now {
            self.clock.sleep(self.due.get() - now);
        }
    }

    /// Notes that `bytes` were read.
    pub(super) fn spend(&self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let earliest = self.clock.now().saturating_sub(BURST);
        let nanoseconds = (bytes as u128 * 1_000_000_000).div_ceil(u128::from(rate));
        let time = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.due.set(self.due.get().max(earliest).saturating_add(time));
    }

    /// Waits before attempt `failures` + 1; a server may ask for longer, up to the longest pause.
    pub(super) fn pause(&self, failures: u32, asked: Option<Duration>) {
        let doubled = self.limits.pause.saturating_mul(1 << failures.saturating_sub(1).min(16));
        self.clock.sleep(doubled.max(asked.unwrap_or_default()).min(self.limits.longest_pause));
    }
}

/// Too few bytes in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes in {seconds} s")]
pub(super) struct TooSlow {
    pub(super) bytes: u64,
    pub(super) seconds: u64,
}

/// Watches that a server is not too slow. Only time that is spent waiting for it counts, not what the bandwidth limit or
/// the receiver of the bytes take.
#[derive(Debug, Default)]
pub(super) struct Watch {
    waited: Duration,
    bytes: u64,
}

impl Watch {
    /// Notes that after a wait of `time` there came `bytes`.
    pub(super) fn add(&mut self, limits: &Limits, time: Duration, bytes: usize) -> io::Result<()> {
        self.waited += time;
        self.bytes += bytes as u64;
        if self.waited < limits.window {
            return Ok(());
        }
        let Watch { waited, bytes } = std::mem::take(self);
        if bytes < limits.minimum {
            return Err(io::Error::new(io::ErrorKind::TimedOut, TooSlow { bytes, seconds: waited.as_secs() }));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::rc::Rc;

    use super::*;

    /// A clock that tests move: sleeping moves it, and every look at it by `step`.
    #[derive(Debug, Default)]
    pub(crate) struct Hand {
        pub(crate) now: Cell<Duration>,
        pub(crate) slept: Cell<Duration>,
        pub(crate) step: Cell<Duration>,
    }

    impl Clock for Rc<Hand> {
        fn now(&self) -> Duration {
            self.now.set(self.now.get() + self.step.get());
            self.now.get()
        }

        fn sleep(&self, time: Duration) {
            self.now.set(self.now.get() + time);
            self.slept.set(self.slept.get() + time);
        }
    }

    #[test]
    fn bandwidth_is_kept() {
        let clock = Rc::new(Hand::default());
        let pace = Pace::new(Box::new(Rc::clone(&clock)), Limits::default(), Some(1000));
        for _ in 0..100 {
            pace.wait();
            pace.spend(500);
        }
        pace.wait();
        assert_eq!(clock.now.get(), Duration::from_secs(50), "50,000 bytes at 1,000 per second");
        // After an hour without reading, one second's bytes come at once and no more.
        clock.now.set(clock.now.get() + Duration::from_secs(3600));
        clock.slept.set(Duration::ZERO);
        pace.spend(3000);
        pace.wait();
        assert_eq!(clock.slept.get(), Duration::from_secs(2));
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        for rate in [None, Some(0)] {
            let clock = Rc::new(Hand::default());
            let pace = Pace::new(Box::new(Rc::clone(&clock)), Limits::default(), rate);
            pace.spend(usize::MAX);
            pace.wait();
            assert_eq!(clock.slept.get(), Duration::ZERO);
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let clock = Rc::new(Hand::default());
        let pace = Pace::new(Box::new(Rc::clone(&clock)), Limits::default(), None);
        let paused = |failures, asked: Option<u64>| {
            clock.slept.set(Duration::ZERO);
            pace.pause(failures, asked.map(Duration::from_secs));
            clock.slept.get().as_secs()
        };
        assert_eq!([1, 2, 3, 4, 7, 1000].map(|failures| paused(failures, None)), [1, 2, 4, 8, 60, 60]);
        assert_eq!([paused(1, Some(7)), paused(1, Some(86_400))], [7, 60]);
    }

    #[test]
    fn slow_is_noticed_and_fast_is_not() {
        let limits = Limits::default();
        let mut watch = Watch::default();
        for _ in 0..600 {
            watch.add(&limits, Duration::from_secs(1), 1024).expect("1 KiB per second");
        }
        let mut watch = Watch::default();
        let slow = (0..60).find_map(|_| watch.add(&limits, Duration::from_secs(1), 1023).err()).expect("too slow");
        let slow = slow.get_ref().and_then(|error| error.downcast_ref()).copied();
        assert_eq!(slow, Some(TooSlow { bytes: 60 * 1023, seconds: 60 }));
    }
}
