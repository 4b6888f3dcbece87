//! The hardware watchdog: it restarts the machine unless PID 1 makes progress.
//!
//! What counts as progress, and nothing else does:
//!
//! - a stage from 38 on has ended;
//! - PID 1's loop has come around: every timer that was due, every event, every ended process was handled. One handler
//!   that does not return stops the feeding, whatever else still runs;
//! - while the machine goes down: the loop as before, which stops services within their stop timeouts, then each step
//!   of the shutdown (processes ended, flushed, unmounted) once.
//!
//! It is fed at the earliest a third of its timeout after the last time, and only at those points: there is no thread
//! and no timer signal that could feed it for a loop that hangs.
//!
//! It starts after the data partition is mounted (stage 38): checking or formatting a large partition may take longer
//! than any timeout, and a reset in the middle would only start it again. Its driver is loaded there, before those of the
//! other hardware: a version on trial that hangs early is reset, too. A watchdog behind a bus that needs a driver itself
//! is taken when it appears (stage 85 and later).
//! It is stopped, with the magic close, as the last thing before the power is switched off or the processor is halted;
//! a restart leaves it running, so that one that hangs is cut short. An emergency after it was started is ended by it.
//!
//! `RuntimeConfig::watchdog_ms` asks for it, `ksos.watchdog=off|SECONDS` on the kernel command line has the last word.
//! Of several devices the first one that is not `softdog` is used. No device is said in the status; it is no fault.

use ksos_formats::layout;
use serde::{Deserialize, Serialize};

use crate::cmdline::Cmdline;
use crate::modules::Loader;
use crate::sys::{Sys, Watchdog, read_line};

use super::Error;
use super::node::Node;

/// What softdog calls itself (kernel `drivers/watchdog/softdog.c`).
const SOFTWARE: &str = "Software Watchdog";
/// Timeouts that can be asked for, in seconds: a shorter one is a restart in the middle of ordinary work.
const TIMEOUTS_S: std::ops::RangeInclusive<u32> = 10..=86_400;

/// The watchdog, for the status.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WatchdogStatus {
    /// `active`, `off` (nobody asked for it), `no device`, or `failed` (it cannot be opened).
    pub state: String,
    /// Path of the device.
    pub device: Option<String>,
    /// Its timeout in seconds.
    pub timeout_s: Option<u32>,
    /// The driver's name for it.
    pub identity: Option<String>,
}

/// Feeds the watchdog.
#[derive(Default)]
pub(super) struct Keeper {
    /// The timeout asked for, in seconds.
    wanted_s: Option<u32>,
    device: Option<(String, Box<dyn Watchdog>)>,
    fed_ms: u64,
    failed: bool,
}

impl Keeper {
    /// Takes the timeout from the command line or the image; an unusable parameter leaves the image's.
    fn ask(&mut self, cmdline: &Cmdline, image_ms: Option<u64>) -> Result<(), Error> {
        let seconds = |ms: u64| u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX);
        self.wanted_s = image_ms.map(|ms| seconds(ms).clamp(*TIMEOUTS_S.start(), *TIMEOUTS_S.end()));
        match cmdline.value(layout::PARAM_WATCHDOG) {
            None => {}
            Some("off") => self.wanted_s = None,
            Some(text) => {
                let value = text.parse::<u32>().ok().filter(|seconds| TIMEOUTS_S.contains(seconds));
                let wrong = || Error::Parameter {
                    name: layout::PARAM_WATCHDOG,
                    value: text.to_owned(),
                    expected: "off, or seconds from 10 to 86400",
                };
                self.wanted_s = Some(value.ok_or_else(wrong)?);
            }
        }
        Ok(())
    }

    /// Returns whether a device is wanted and none is open.
    fn lacks(&self) -> bool {
        self.wanted_s.is_some() && self.device.is_none()
    }

    /// Opens a device, if one is wanted and none is open.
    fn open(&mut self, sys: &dyn Sys) -> Result<(), Error> {
        let (Some(seconds), None) = (self.wanted_s, &self.device) else { return Ok(()) };
        let Some(path) = choose(sys) else { return Ok(()) };
        let device = sys.open_watchdog(&path, seconds);
        self.failed = device.is_err();
        let device = device?;
        self.fed_ms = sys.uptime_ms();
        self.device = Some((path, device));
        Ok(())
    }

    fn pause_ms(device: &dyn Watchdog) -> u64 {
        u64::from(device.timeout_s()) * 1000 / 3
    }

    /// Returns when it is to be fed next, in milliseconds since the kernel started.
    pub(super) fn due_ms(&self) -> Option<u64> {
        self.device.as_ref().map(|(_, device)| self.fed_ms + Self::pause_ms(device.as_ref()))
    }

    /// Feeds it if it is time. Returns why that failed.
    pub(super) fn progress(&mut self, sys: &dyn Sys) -> Option<String> {
        if self.due_ms().is_none_or(|due| sys.uptime_ms() < due) {
            return None;
        }
        self.feed(sys)
    }

    /// Feeds it. Returns why that failed.
    pub(super) fn feed(&mut self, sys: &dyn Sys) -> Option<String> {
        let (_, device) = self.device.as_ref()?;
        self.fed_ms = sys.uptime_ms();
        device.feed().err().map(|error| format!("watchdog: {error}"))
    }

    /// Stops it: the machine is about to be off.
    pub(super) fn disarm(&mut self) {
        if let Some((_, device)) = self.device.take() {
            // One that cannot be stopped restarts the machine; there is nothing else to try.
            let _ = device.disarm();
        }
    }

    /// Returns what is to be said about it.
    pub(super) fn status(&self) -> WatchdogStatus {
        let device = self.device.as_ref();
        let state = match (&self.device, self.wanted_s) {
            (Some(_), _) => "active",
            (None, Some(_)) if self.failed => "failed",
            (None, Some(_)) => "no device",
            (None, None) => "off",
        };
        WatchdogStatus {
            state: state.to_owned(),
            device: device.map(|(path, _)| path.clone()),
            timeout_s: device.map(|(_, device)| device.timeout_s()),
            identity: device.map(|(_, device)| device.identity().to_owned()),
        }
    }
}

/// Returns the device to use.
fn choose(sys: &dyn Sys) -> Option<String> {
    let names = sys.list("/sys/class/watchdog").unwrap_or_default();
    let hardware = |name: &&String| {
        read_line(sys, &format!("/sys/class/watchdog/{name}/identity")).is_none_or(|identity| identity != SOFTWARE)
    };
    let name = names.iter().find(hardware).or(names.first());
    let path = name.map_or_else(|| "/dev/watchdog".to_owned(), |name| format!("/dev/{name}"));
    sys.kind(&path).map(|_| path)
}

/// Stage 38.
pub(super) fn start(node: &mut Node<'_>) -> Result<String, Error> {
    let asked = node.watchdog.ask(&node.cmdline, node.config.watchdog_ms);
    node.watchdog.open(node.sys)?;
    if node.watchdog.lacks() {
        // An image without modules has its drivers in the kernel.
        if let Ok(loader) = Loader::open(node.sys, &node.cmdline) {
            loader.load_watchdogs();
        }
        node.watchdog.open(node.sys)?;
    }
    asked?;
    Ok(describe(&node.watchdog.status()))
}

/// Returns a line about it.
pub(super) fn describe(status: &WatchdogStatus) -> String {
    match (&status.device, status.timeout_s, &status.identity) {
        (Some(device), Some(seconds), Some(identity)) => format!("{device}, {identity}, {seconds} s"),
        _ => status.state.clone(),
    }
}

/// Looks again after a driver was loaded, and says what was found.
pub(super) fn start_late(node: &mut Node<'_>) {
    if !node.watchdog.lacks() {
        return;
    }
    match node.watchdog.open(node.sys) {
        Err(error) => node.degrade("watchdog", &format!("watchdog: {error}")),
        Ok(()) if node.watchdog.device.is_some() => {
            let line = format!("watchdog: {}", describe(&node.watchdog.status()));
            node.say(&line);
        }
        Ok(()) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::node;
    use super::*;
    use crate::sys::double::Double;

    fn machine() -> Double {
        let sys = Double::new();
        sys.put("/sys/class/watchdog/watchdog0/identity", "Software Watchdog\n");
        sys.put("/sys/class/watchdog/watchdog1/identity", "i6300ESB timer\n");
        sys.put("/dev/watchdog0", "");
        sys.put("/dev/watchdog1", "");
        sys
    }

    fn started<'a>(sys: &'a Double, cmdline: &str, image_ms: Option<u64>) -> (Node<'a>, Result<String, Error>) {
        let mut node = node(sys);
        node.cmdline = Cmdline::parse(cmdline);
        node.config.watchdog_ms = image_ms;
        let result = start(&mut node);
        (node, result)
    }

    #[test]
    fn the_image_asks_and_the_command_line_decides() {
        for (cmdline, image_ms, expected) in [
            ("", None, "off"),
            ("", Some(30_001), "/dev/watchdog1, double, 31 s"),
            ("", Some(1), "/dev/watchdog1, double, 10 s"),
            ("ksos.watchdog=off", Some(30_000), "off"),
            ("ksos.watchdog=60", None, "/dev/watchdog1, double, 60 s"),
        ] {
            let (_, result) = started(&machine(), cmdline, image_ms);
            assert_eq!(result.expect("works"), expected, "{cmdline} {image_ms:?}");
        }
        for bad in ["ksos.watchdog=on", "ksos.watchdog=", "ksos.watchdog=-1", "ksos.watchdog=9"] {
            let sys = machine();
            let (node, result) = started(&sys, bad, Some(30_000));
            assert!(result.expect_err("bad").to_string().contains("on the kernel command line: expected off, or"));
            assert_eq!(node.watchdog.status().timeout_s, Some(30), "the image's holds");
        }
    }

    #[test]
    fn without_a_device_it_is_said_and_a_late_one_is_taken() {
        let sys = Double::new();
        let (mut node, result) = started(&sys, "", Some(30_000));
        assert_eq!(result.expect("no fault"), "no device");
        sys.put("/dev/watchdog", "");
        start_late(&mut node);
        start_late(&mut node);
        assert_eq!(sys.calls_of("watchdog"), ["watchdog /dev/watchdog 30"]);
        assert_eq!(node.watchdog.status().state, "active");
    }

    #[test]
    fn its_driver_is_loaded_where_one_is_wanted() {
        let sys = Double::new();
        let modules = "/lib/modules/6.12.0-test";
        sys.put(&format!("{modules}/modules.dep"), "kernel/drivers/watchdog/sbsa_gwdt.ko:\n");
        sys.put(&format!("{modules}/modules.alias"), "alias platform:sbsa-gwdt sbsa_gwdt\n");
        sys.put("/sys/bus/platform/devices/sbsa-gwdt.0/modalias", "platform:sbsa-gwdt\n");
        started(&sys, "ksos.watchdog=off", Some(30_000)).1.expect("not wanted");
        assert!(sys.calls_of("load").is_empty());
        started(&sys, "", Some(30_000)).1.expect("works");
        assert_eq!(sys.calls_of("load"), [format!("load {modules}/kernel/drivers/watchdog/sbsa_gwdt.ko")]);
    }

    #[test]
    fn it_is_fed_at_a_third_of_the_timeout_that_the_driver_has_and_not_when_time_stands_still() {
        let sys = machine();
        sys.watchdog_limit.set(Some(12));
        let (mut node, _) = started(&sys, "", Some(60_000));
        assert_eq!(node.watchdog.due_ms(), Some(1000 + 4000));
        for _ in 0..100 {
            node.progress();
        }
        assert!(sys.feeds.borrow().is_empty(), "time stands still");
        for now in [4999, 5000, 5001, 8999, 9000, 20_000] {
            sys.now.set(now);
            node.progress();
        }
        assert_eq!(*sys.feeds.borrow(), ["5000", "9000", "20000"]);
        node.watchdog.disarm();
        node.progress();
        assert_eq!(sys.feeds.borrow().last().map(String::as_str), Some("V"));
        assert_eq!(node.watchdog.due_ms(), None);
    }

    #[test]
    fn a_device_that_cannot_be_opened_is_a_fault() {
        let sys = machine();
        sys.fail("watchdog /dev/watchdog1", "Device or resource busy");
        let (node, result) = started(&sys, "", Some(30_000));
        assert!(result.expect_err("degraded").to_string().contains("Device or resource busy"));
        assert_eq!(node.watchdog.status().state, "failed");
    }
}
