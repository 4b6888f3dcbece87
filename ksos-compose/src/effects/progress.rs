//! What a long task says while it runs: bars on a terminal, plain lines elsewhere, or nothing.
//!
//! Library code never prints: it gets a [`Progress`] and starts one [`Task`] per thing that takes time. The command
//! picks [`Bars`] (standard error is a terminal), [`Lines`] (it is not) or [`Silent`] (`--quiet`, tests).

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows tasks to the user. Shared by threads.
pub trait Progress: Send + Sync {
    /// Starts a task of `total` bytes, when that is known.
    fn start(&self, name: &str, total: Option<u64>) -> Box<dyn Task>;
}

/// One running task; dropped without [`Task::finish`], it counts as failed.
pub trait Task: Send {
    /// States the size, in bytes, once it is known.
    fn total(&mut self, bytes: u64);

    /// Adds to what is done, in bytes.
    fn advance(&mut self, bytes: u64);

    /// States what is done, in bytes: a resumed download starts above zero, one that starts again is back at it.
    fn position(&mut self, bytes: u64);

    /// Says something about the task, e.g. why it waits.
    fn note(&mut self, text: &str);

    /// The task is done.
    fn finish(self: Box<Self>);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _name: &str, _total: Option<u64>) -> Box<dyn Task> {
        Box::new(SilentTask)
    }
}

struct SilentTask;

impl Task for SilentTask {
    fn total(&mut self, _bytes: u64) {}
    fn advance(&mut self, _bytes: u64) {}
    fn position(&mut self, _bytes: u64) {}
    fn note(&mut self, _text: &str) {}
    fn finish(self: Box<Self>) {}
}

/// Bars on standard error, which must be a terminal; `indicatif` draws nothing when it is not.
#[derive(Debug)]
pub struct Bars {
    bars: MultiProgress,
    color: bool,
}

impl Bars {
    /// Returns bars on standard error. `color` is false under `NO_COLOR`.
    pub fn new(color: bool) -> Self {
        Bars { bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)), color }
    }

    /// Runs `print` with the bars out of the way, so that a message on the terminal stays whole.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bars.suspend(print)
    }

    fn style(&self, sized: bool) -> ProgressStyle {
        let template = match (sized, self.color) {
            (true, true) => "{prefix:32!} {bar:24.cyan/blue} {bytes:>10} of {total_bytes:10} {bytes_per_sec:>12} {msg}",
            (true, false) => "{prefix:32!} {bar:24} {bytes:>10} of {total_bytes:10} {bytes_per_sec:>12} {msg}",
            (false, _) => "{prefix:32!} {spinner} {bytes:>10} {bytes_per_sec:>12} {msg}",
        };
        ProgressStyle::with_template(template).expect("the templates are valid")
    }
}

impl Progress for Bars {
    fn start(&self, name: &str, total: Option<u64>) -> Box<dyn Task> {
        let bar = self.bars.add(total.map_or_else(ProgressBar::no_length, ProgressBar::new));
        bar.set_style(self.style(total.is_some()));
        bar.set_prefix(name.to_owned());
        Box::new(Bar { bar, sized: self.style(true) })
    }
}

struct Bar {
    bar: ProgressBar,
    sized: ProgressStyle,
}

impl Task for Bar {
    fn total(&mut self, bytes: u64) {
        self.bar.set_length(bytes);
        self.bar.set_style(self.sized.clone());
    }

    fn advance(&mut self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn position(&mut self, bytes: u64) {
        self.bar.set_position(bytes);
        self.bar.reset_eta();
    }

    fn note(&mut self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    fn finish(self: Box<Self>) {}
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Plain lines: one per finished task, one per note, and one every ten seconds for a task that takes longer.
pub struct Lines {
    output: Arc<Mutex<dyn Write + Send>>,
    interval: Duration,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("interval", &self.interval).finish_non_exhaustive()
    }
}

impl Lines {
    /// Returns lines written to `output`, which is standard error in the command.
    pub fn new(output: impl Write + Send + 'static) -> Self {
        Lines { output: Arc::new(Mutex::new(output)), interval: Duration::from_secs(10) }
    }
}

impl Progress for Lines {
    fn start(&self, name: &str, total: Option<u64>) -> Box<dyn Task> {
        Box::new(LineTask {
            output: self.output.clone(),
            name: name.to_owned(),
            total,
            done: 0,
            interval: self.interval,
            last: Instant::now(),
            started: Instant::now(),
        })
    }
}

struct LineTask {
    output: Arc<Mutex<dyn Write + Send>>,
    name: String,
    total: Option<u64>,
    done: u64,
    interval: Duration,
    last: Instant,
    started: Instant,
}

impl LineTask {
    fn line(&mut self, text: &str) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody can be told that standard error is gone.
        let _ = writeln!(output, "{}: {text}", self.name);
        self.last = Instant::now();
    }

    fn tick(&mut self) {
        if self.last.elapsed() < self.interval {
            return;
        }
        let text = match self.total {
            Some(total) => format!("{} of {}", size(self.done), size(total)),
            None => size(self.done),
        };
        self.line(&text);
    }
}

impl Task for LineTask {
    fn total(&mut self, bytes: u64) {
        self.total = Some(bytes);
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        self.tick();
    }

    fn position(&mut self, bytes: u64) {
        self.done = bytes;
        self.tick();
    }

    fn note(&mut self, text: &str) {
        if !text.is_empty() {
            self.line(text);
        }
    }

    fn finish(mut self: Box<Self>) {
        let text = format!("{} in {:.1} s", size(self.done), self.started.elapsed().as_secs_f64());
        self.line(&text);
    }
}

/// Returns `bytes` for people, in binary units with one decimal: `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn sizes_are_readable() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (3 << 30, "3.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_task_gives_one_line_when_done_and_none_when_dropped() {
        let buffer = Buffer::default();
        let lines = Lines::new(buffer.clone());
        drop(lines.start("component lost", Some(5)));
        let mut task = lines.start("component kernel", None);
        task.total(2048);
        task.advance(1024);
        task.note("waiting 1 s: connection reset");
        task.position(2048);
        task.finish();
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let (note, done) = text.split_once('\n').unwrap();
        assert_eq!(note, "component kernel: waiting 1 s: connection reset");
        assert!(done.starts_with("component kernel: 2.0 KiB in ") && done.lines().count() == 1, "{done}");
    }

    #[test]
    fn a_slow_task_reports_between() {
        let buffer = Buffer::default();
        let lines = Lines { interval: Duration::ZERO, ..Lines::new(buffer.clone()) };
        let mut task = lines.start("component kernel", Some(4096));
        task.advance(1024);
        drop(task);
        assert_eq!(buffer.0.lock().unwrap().as_slice(), b"component kernel: 1.0 KiB of 4.0 KiB\n");
    }

    #[test]
    fn bars_accept_both_kinds_of_task() {
        let bars = Bars::new(true);
        let mut task = bars.start("component kernel", None);
        task.total(10);
        task.position(4);
        task.advance(6);
        task.note("");
        task.finish();
        bars.start("component other", Some(3)).finish();
    }
}
