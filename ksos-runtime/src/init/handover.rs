//! What the initramfs tells PID 1 of the real root: `/run/ksos/boot.json`.

use ksos_formats::Digest;
use ksos_formats::boot::RootMode;
use serde::{Deserialize, Serialize};

use crate::sys::{self, Sys, TEXT_LIMIT, read_line};

use super::Error;
use super::table::Stage;

/// Where the document is.
pub const PATH: &str = "/run/ksos/boot.json";
/// Where the boot slot stays mounted, read-only, in slot mode.
pub const SLOT_MOUNT: &str = "/run/ksos/slot";

/// How one stage went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageReport {
    /// Its number.
    pub number: u8,
    /// Its name.
    pub name: String,
    /// Whether it succeeded.
    pub ok: bool,
    /// `ok`; `degraded` if it failed and the node went on; `failed` if the node could not.
    #[serde(default)]
    pub outcome: String,
    /// When it began, in milliseconds since the kernel started.
    #[serde(default)]
    pub start_ms: u64,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// How long the kernel has worked for PID 1 since its hand-over to `/init`, in milliseconds, at this stage's end; see
    /// [`KernelTime`].
    #[serde(default)]
    pub kernel_ms: u64,
    /// What it did, or why it failed.
    #[serde(default)]
    pub detail: String,
}

impl StageReport {
    /// Returns how `stage` went that began at `start_ms` and has ended now.
    pub(super) fn new(
        sys: &dyn Sys,
        stage: &Stage,
        start_ms: u64,
        kernel: KernelTime,
        result: &Result<String, Error>,
    ) -> Self {
        let (outcome, detail) = match result {
            Ok(detail) => ("ok", detail.clone()),
            Err(error) => (stage.failure.outcome(), error.to_string()),
        };
        StageReport {
            number: stage.number,
            name: stage.name.to_owned(),
            ok: result.is_ok(),
            outcome: outcome.to_owned(),
            start_ms,
            ms: sys.uptime_ms().saturating_sub(start_ms),
            kernel_ms: kernel.ms(sys),
            detail,
        }
    }

    /// Returns the line for consoles and the boot log.
    pub(super) fn line(&self) -> String {
        let StageReport { number, name, ms, detail, .. } = self;
        match (self.ok, detail.as_str()) {
            (true, "") => format!("stage {number:02} {name}: ok {ms} ms"),
            (true, _) => format!("stage {number:02} {name}: ok {ms} ms ({detail})"),
            (false, _) => format!("stage {number:02} {name}: failed {ms} ms: {detail}"),
        }
    }
}

/// What of the boot is the kernel's own work: its processor time for this process and for the programs that this process has
/// waited for (loading modules, mounting, executing), and the time in which drivers look for devices while this process has
/// nothing to do but wait for them. What the kernel does before its hand-over to `/init` is not in it, although it does that
/// as PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KernelTime {
    /// Processor time that is not counted, less what is counted without being processor time; in milliseconds.
    uncounted_ms: i64,
}

/// A point in time, by the clock and by the kernel's processor time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Since {
    uptime_ms: u64,
    processor_ms: i64,
}

impl Since {
    /// Returns now.
    pub(super) fn now(sys: &dyn Sys) -> Self {
        Since { uptime_ms: sys.uptime_ms(), processor_ms: processor_ms(sys) }
    }
}

impl KernelTime {
    /// Begins to count now.
    pub(super) fn begin(sys: &dyn Sys) -> Self {
        KernelTime { uncounted_ms: processor_ms(sys) }
    }

    /// Returns what it has come to, in milliseconds.
    pub(super) fn ms(self, sys: &dyn Sys) -> u64 {
        u64::try_from(processor_ms(sys) - self.uncounted_ms).unwrap_or(0)
    }

    /// Counts all the time since then, whatever the processor did: drivers were waited for.
    pub(super) fn count_all(&mut self, sys: &dyn Sys, since: Since) {
        let elapsed = i64::try_from(sys.uptime_ms().saturating_sub(since.uptime_ms)).unwrap_or(0);
        self.uncounted_ms += processor_ms(sys) - since.processor_ms - elapsed;
    }
}

/// Returns the kernel's processor time for this process and the programs that it waited for, in milliseconds
/// (proc_pid_stat(5), fields 15 and 17, `stime` and `cstime`, in hundredths of a second). It is not reset by executing
/// another program.
fn processor_ms(sys: &dyn Sys) -> i64 {
    let line = read_line(sys, "/proc/self/stat").unwrap_or_default();
    // The second field is a name in parentheses, which may have spaces.
    let fields = line.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = |field: usize| fields.split(' ').nth(field - 3).and_then(|ticks| ticks.parse::<i64>().ok());
    (ticks(15).unwrap_or(0) + ticks(17).unwrap_or(0)) * 10
}

/// One line on the console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// When, in milliseconds since the kernel started.
    pub ms: u64,
    /// The line.
    pub line: String,
}

/// Facts of the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// `a` or `b`; `-` when the system runs from a medium.
    pub slot: char,
    /// Path of the boot disk.
    pub disk: String,
    /// Path of the slot's partition.
    pub slot_partition: String,
    /// Path of the medium that the system runs from, when it does.
    #[serde(default)]
    pub medium: Option<String>,
    /// How the root is used.
    pub root_mode: RootMode,
    /// SHA-256 of the root image.
    pub root_sha256: Digest,
    /// The stages so far.
    pub stages: Vec<StageReport>,
    /// What of the boot was the kernel's own work.
    #[serde(default)]
    pub kernel: KernelTime,
    /// What the initramfs said, its stages included.
    #[serde(default)]
    pub said: Vec<Said>,
}

impl Handover {
    /// Writes the document.
    pub fn write(&self, sys: &dyn Sys) -> Result<(), Error> {
        let text =
            serde_json::to_vec_pretty(self).map_err(|source| Error::Document { path: PATH.to_owned(), source })?;
        Ok(sys.replace(PATH, &text, 0o644)?)
    }

    /// Reads the document.
    pub fn read(sys: &dyn Sys) -> Result<Self, Error> {
        read_document(sys, PATH)
    }
}

/// Reads a JSON document.
pub(super) fn read_document<T: for<'a> Deserialize<'a>>(sys: &dyn Sys, path: &str) -> Result<T, Error> {
    let bytes: Vec<u8> = sys.read(path, TEXT_LIMIT).map_err(|error: sys::Error| Error::Sys(error))?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Document { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::double::Double;

    /// Sets the kernel's processor time for this process and for those it has waited for, in hundredths of a second.
    fn set(sys: &Double, own: u32, children: u32) {
        sys.put("/proc/self/stat", format!("1 (a) b) S 0 1 1 0 -1 4194560 1 2 3 4 50 {own} 60 {children} 20 0 1\n"));
    }

    #[test]
    fn the_kernels_time_begins_at_the_hand_over_and_what_drivers_take_is_all_its_own() {
        let sys = Double::new();
        set(&sys, 80, 0);
        let mut kernel = KernelTime::begin(&sys);
        assert_eq!(kernel.ms(&sys), 0, "what it did before does not count");
        set(&sys, 90, 3);
        assert_eq!(kernel.ms(&sys), 130);
        let since = Since::now(&sys);
        set(&sys, 95, 3);
        sys.sleep_ms(400);
        kernel.count_all(&sys, since);
        assert_eq!(kernel.ms(&sys), 530, "130 and 400, of which 50 were processor time");
        sys.sleep_ms(100);
        assert_eq!(kernel.ms(&sys), 530, "a pause of ours is not the kernel's");
    }
}
