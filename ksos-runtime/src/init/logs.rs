//! Output of services: `NAME.log` in the log directory, rotated by size, and the console for those that ask for it.

use std::collections::{BTreeMap, BTreeSet};

use ksos_formats::runtime::LogTarget;

use crate::console::relay;
use crate::sys::Sys;

/// Size at which a log is renamed to `NAME.log.1`, replacing the one before, in bytes.
pub(super) const ROTATE_AT: u64 = 1 << 20;
/// Longest line that is kept together for the console, in bytes.
const LINE_LIMIT: usize = 4096;

/// What changed about writing logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// They cannot be written any more, for this reason.
    Fails(String),
    /// They can be written again.
    Works,
}

/// The logs of all services.
#[derive(Debug)]
pub(super) struct Logs {
    directory: String,
    /// The beginning of a line whose end has not come yet, by service.
    partial: BTreeMap<String, Vec<u8>>,
    /// The services whose last write failed, so that a full disk is told once.
    failing: BTreeSet<String>,
}

impl Logs {
    /// Returns logs below `directory`.
    pub(super) fn new(directory: &str) -> Self {
        Logs { directory: directory.to_owned(), partial: BTreeMap::new(), failing: BTreeSet::new() }
    }

    /// Takes output of a service. Returns what changed about writing it: the first failure since a success, or the first
    /// success since a failure.
    pub(super) fn take(&mut self, sys: &dyn Sys, name: &str, target: LogTarget, bytes: &[u8]) -> Option<Change> {
        if target == LogTarget::Console {
            self.show(sys, name, bytes);
        }
        let path = format!("{}/{name}.log", self.directory);
        let written = sys.append(&path, bytes).and_then(|size| match size {
            size if size >= ROTATE_AT => sys.rename(&path, &format!("{path}.1")),
            _ => Ok(()),
        });
        let failed_before = !self.failing.is_empty();
        match written {
            Err(error) => {
                self.failing.insert(name.to_owned());
                (!failed_before).then(|| Change::Fails(error.to_string()))
            }
            Ok(()) => (self.failing.remove(name) && self.failing.is_empty()).then_some(Change::Works),
        }
    }

    fn show(&mut self, sys: &dyn Sys, name: &str, bytes: &[u8]) {
        let partial = self.partial.entry(name.to_owned()).or_default();
        for chunk in bytes.split_inclusive(|byte| *byte == b'\n') {
            partial.extend_from_slice(chunk);
            if chunk.ends_with(b"\n") || partial.len() >= LINE_LIMIT {
                relay(sys, name, &String::from_utf8_lossy(partial));
                partial.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::double::Double;

    #[test]
    fn console_gets_whole_lines_and_the_file_everything() {
        let sys = Double::new();
        sys.put("/log/x", "");
        let mut logs = Logs::new("/log");
        for bytes in [&b"one\ntw"[..], b"o\nthr"] {
            assert_eq!(logs.take(&sys, "svc", LogTarget::Console, bytes), None);
        }
        assert_eq!(*sys.terminal.borrow(), "[svc] one\n[svc] two\n");
        assert_eq!(sys.text("/log/svc.log"), "one\ntwo\nthr");
        logs.take(&sys, "svc", LogTarget::Console, &vec![b'a'; 2 * LINE_LIMIT]);
        assert!(logs.partial["svc"].len() <= LINE_LIMIT, "a line without end is cut");
    }

    #[test]
    fn files_rotate_by_size_and_a_full_disk_is_told_once() {
        let sys = Double::new();
        sys.put("/log/x", "");
        let mut logs = Logs::new("/log");
        let chunk = vec![b'x'; (ROTATE_AT / 2) as usize];
        for _ in 0..5 {
            logs.take(&sys, "svc", LogTarget::File, &chunk);
        }
        assert_eq!(sys.file_size("/log/svc.log").expect("there"), ROTATE_AT / 2);
        assert_eq!(sys.file_size("/log/svc.log.1").expect("there"), ROTATE_AT);
        let mut logs = Logs::new("/nowhere");
        assert!(matches!(logs.take(&sys, "svc", LogTarget::File, b"x"), Some(Change::Fails(_))));
        assert_eq!(logs.take(&sys, "svc", LogTarget::File, b"x"), None);
        assert_eq!(logs.take(&sys, "other", LogTarget::File, b"x"), None, "the same disk");
        sys.put("/nowhere/x", "");
        assert_eq!(logs.take(&sys, "other", LogTarget::File, b"x"), None, "not all work again");
        assert_eq!(logs.take(&sys, "svc", LogTarget::File, b"x"), Some(Change::Works));
        assert_eq!(logs.take(&sys, "svc", LogTarget::File, b"x"), None);
    }
}
