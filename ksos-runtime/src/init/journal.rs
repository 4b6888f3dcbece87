//! The boot log: one block of lines per boot, on the data partition, for those who come after the fact.
//!
//! ```text
//! == boot 12, 2026-11-03T08:15:02Z, demo 1.2.3 x86_64, slot a
//!     0.412 stage 00 kernel: ok 12 ms
//!     5.871 ready name=demo ...
//! ```
//!
//! Numbers are seconds since the kernel started. Lines from before the data partition is there are kept in memory and
//! written with stage 70. The file is `boot.log` in the directory of the services' logs, or, when that does not
//! persist, in `ksos/` on the data partition; it is renamed to `boot.log.1` when it is larger than [`ROTATE_AT`].
//! A failure to write is told once and has no other effect.

use crate::sys::{Result, Sys};

use super::handover::Said;
use super::node::Node;
use super::reserve;

/// Name of the file.
pub(super) const NAME: &str = "boot.log";
/// Size at which it is renamed, in bytes.
const ROTATE_AT: u64 = 256 << 10;
/// Most lines that are kept in memory.
const LINES: usize = 400;

/// The boot log.
#[derive(Debug, Default)]
pub(super) struct Journal {
    waiting: Vec<String>,
    path: Option<String>,
}

impl Journal {
    /// Returns a log that begins with what the initramfs said.
    pub(super) fn of(said: &[Said]) -> Self {
        let lines = said.iter().map(|said| entry(said.ms, &said.line));
        Journal { waiting: lines.collect(), path: None }
    }

    /// Adds a line.
    pub(super) fn line(&mut self, sys: &dyn Sys, text: &str) {
        let line = entry(sys.uptime_ms(), text);
        match &self.path {
            // The failure that matters, the first of a boot, is told by `open`; the console has the line.
            Some(path) => drop(write(sys, path, &line)),
            None if self.waiting.len() < LINES => self.waiting.push(line),
            None => {}
        }
    }

    /// Returns where the log is, once it is open.
    pub(super) fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }
}

fn entry(ms: u64, text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("{:5}.{:03} {text}\n", ms / 1000, ms % 1000)
}

/// Begins the block of this boot and writes what waited.
pub(super) fn open(node: &mut Node<'_>) -> Result<()> {
    let path = place(node);
    let image = &node.config.image;
    let head = format!(
        "== boot {}, {}, {} {} {}, slot {}\n",
        node.boot,
        utc(node.sys.wall_clock()),
        image.name,
        image.version,
        image.arch,
        node.handover.slot
    );
    let text = head + &node.journal.waiting.concat();
    let mut written = write(node.sys, &path, &text);
    if node.data.persistent && written.as_ref().is_err_and(crate::sys::Error::is_full) {
        reserve::release(node.sys, &node.data.path);
        written = write(node.sys, &path, &text);
    }
    if written.is_ok() {
        node.journal.waiting = Vec::new();
        node.journal.path = Some(path);
    }
    written
}

/// Returns the path of the log: where it outlives a restart, if there is such a place.
fn place(node: &Node<'_>) -> String {
    let covers = |path: &&String| node.logs.starts_with(&format!("{}/", path.trim_end_matches('/')));
    let persists = node.config.data.persist.iter().find(covers).is_some();
    match node.data.persistent && !persists {
        true => format!("{}/ksos/{NAME}", node.data.path),
        false => format!("{}/{NAME}", node.logs),
    }
}

fn write(sys: &dyn Sys, path: &str, text: &str) -> Result<()> {
    if sys.append(path, text.as_bytes())? > ROTATE_AT {
        sys.rename(path, &format!("{path}.1"))?;
    }
    Ok(())
}

/// Returns seconds since 1970 as a date and time (ISO 8601; the proleptic Gregorian calendar, years of 365.2425 days).
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (mut year, mut day) = (1970, days);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while day >= 365 + u64::from(leap(year)) && year < 9999 {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}T{:02}:{:02}:{:02}Z", day + 1, rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::node;
    use super::*;
    use crate::sys::double::Double;

    #[test]
    fn lines_wait_for_the_disk_and_each_boot_has_a_block() {
        let sys = Double::new();
        sys.put("/var/log/ksos/x", "");
        for _ in 0..2 {
            let mut node = node(&sys);
            node.config.data.persist = vec!["/var/log".to_owned()];
            node.journal = Journal::of(&[Said { ms: 700, line: "stage 00 kernel: ok 600 ms".to_owned() }]);
            node.say("one");
            open(&mut node).expect("written");
            node.say("two\nlines");
        }
        let block = "== boot 3, 1970-01-01T00:00:01Z, demo 1.2.3 x86_64, slot a\n    \
            0.700 stage 00 kernel: ok 600 ms\n    1.000 one\n    1.000 two lines\n";
        assert_eq!(sys.text("/var/log/ksos/boot.log"), block.repeat(2));
    }

    #[test]
    fn it_is_rotated_by_size_and_is_on_the_partition_when_logs_are_not() {
        let sys = Double::new();
        sys.put("/data/ksos/boot.log", vec![b'x'; ROTATE_AT as usize]);
        let mut node = node(&sys);
        open(&mut node).expect("written");
        assert_eq!(node.journal.path(), Some("/data/ksos/boot.log"));
        assert!(sys.text("/data/ksos/boot.log.1").ends_with("slot a\n"));
        node.say("next");
        assert_eq!(sys.text("/data/ksos/boot.log"), "    1.000 next\n");
    }

    #[test]
    fn dates() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (u64::from(u32::MAX), "2106-02-07T06:28:15Z"),
        ] {
            assert_eq!(utc(seconds), expected);
        }
    }
}
