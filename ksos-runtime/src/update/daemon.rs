//! The service `update`: settles what a restart meant, then looks for updates from time to time.
//!
//! It does nothing itself: `kubesolo-update settle` and `kubesolo-update apply --automatic` are children that end, so that
//! what TLS and an installation need of memory goes with them, and between two looks nothing wakes the process.

use std::io::Write;

use ksos_formats::layout;
use ksos_formats::update::window::Open;

use super::error;
use super::settings::Settings;
use crate::sys::{Exit, Sys};

/// Name of the applet that the children are.
pub const COMMAND: &str = "kubesolo-update";
/// Shortest time from the start of the service to the first look, in milliseconds: the node has its own work first.
const FIRST_LOOK_MS: u64 = 3 * 60_000;
/// Time after which a child that could not do its work is started again, in milliseconds.
const AGAIN_MS: u64 = 30_000;
/// Time between two looks after a source could not be reached, in milliseconds; doubled up to the interval.
const RETRY_MS: u64 = 10 * 60_000;

/// Runs for ever; returns the exit status 0 when the image takes no updates.
pub fn main(sys: &dyn Sys, out: &mut dyn Write) -> i32 {
    settle(sys, out);
    let mut failures = 0;
    let mut pause = None;
    loop {
        let settings = match Settings::read(sys) {
            Ok(settings) => settings,
            Err(error) => {
                let _ = writeln!(out, "update: {error}");
                return i32::from(!matches!(error, error::UpdateError::Refused(error::Refusal::NoUpdates)));
            }
        };
        let wait = pause.unwrap_or_else(|| first_look(sys, &settings));
        let _ = writeln!(out, "update: next look in {} s", wait / 1000);
        sys.sleep_ms(wait);
        if settings.source.url.is_empty() {
            pause = Some(settings.interval_ms);
            continue;
        }
        let status = child(sys, &["apply", "--automatic"], out);
        failures = if status == error::SOURCE { failures + 1 } else { 0 };
        pause = Some(next_look(sys, &settings, status, failures));
    }
}

/// Waits until it is clear what the last restart meant. Without that nothing may be installed.
fn settle(sys: &dyn Sys, out: &mut dyn Write) {
    while !matches!(child(sys, &["settle"], out), error::OK | error::REFUSED | error::USAGE) {
        sys.sleep_ms(AGAIN_MS);
    }
}

/// Returns the time to the first look: a fleet that is switched on together does not come together. Up to as long again,
/// but not more than a tenth of the interval.
fn first_look(sys: &dyn Sys, settings: &Settings) -> u64 {
    FIRST_LOOK_MS + jitter(sys, settings.interval_ms.min(10 * FIRST_LOOK_MS))
}

/// Returns the time to the next look: the interval and up to a tenth more; earlier when a window opens before, or when
/// the source could not be reached.
fn next_look(sys: &dyn Sys, settings: &Settings, status: i32, failures: u32) -> u64 {
    let retry = RETRY_MS.saturating_mul(1 << failures.min(10).saturating_sub(1));
    let base = if failures > 0 { retry.min(settings.interval_ms) } else { settings.interval_ms };
    let pause = base + jitter(sys, base);
    match settings.open(sys) {
        Ok(Open::Closed { next }) if status == error::REFUSED => {
            let opens = next.saturating_sub(sys.wall_clock()).saturating_mul(1000);
            // A fleet whose windows open together does not come together.
            pause.min(opens + 1000 + jitter(sys, AGAIN_MS * 10))
        }
        _ => pause,
    }
}

/// Returns up to a tenth of `base`, at random.
fn jitter(sys: &dyn Sys, base: u64) -> u64 {
    let mut bytes = [0; 8];
    match sys.random(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes) % (base / 10 + 1),
        Err(_) => 0,
    }
}

/// Runs a verb of `kubesolo-update` to its end; returns its exit status.
fn child(sys: &dyn Sys, verb: &[&str], out: &mut dyn Write) -> i32 {
    let arguments: Vec<&str> = [layout::RUNTIME_BINARY, COMMAND].into_iter().chain(verb.iter().copied()).collect();
    match sys.run(&arguments) {
        Ok((exit, output)) => {
            let _ = out.write_all(output.as_bytes());
            match exit {
                Exit::Code(code) => code,
                Exit::Signal(signal) => {
                    let _ = writeln!(out, "update: {} ended by signal {signal}", verb.join(" "));
                    error::FAILED
                }
            }
        }
        Err(error) => {
            let _ = writeln!(out, "update: {error}");
            error::FAILED
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::double::Double;
    use crate::update::testing::settings;

    #[test]
    fn the_first_look_of_a_fleet_is_spread() {
        let sys = Double::new();
        let mut settings = settings();
        // As the double's random number has it.
        let look = first_look(&sys, &settings);
        assert!(look > FIRST_LOOK_MS && look <= 2 * FIRST_LOOK_MS, "{look}");
        settings.interval_ms = 60_000;
        let look = first_look(&sys, &settings);
        assert!(look > FIRST_LOOK_MS && look <= FIRST_LOOK_MS + 6_000, "{look}");
    }

    #[test]
    fn the_next_look_is_within_a_tenth_of_the_interval() {
        let sys = Double::new();
        let settings = settings();
        for status in [error::OK, error::FAILED, error::REFUSED] {
            let pause = next_look(&sys, &settings, status, 0);
            assert!((settings.interval_ms..=settings.interval_ms * 11 / 10).contains(&pause), "{pause}");
        }
    }

    #[test]
    fn a_source_that_is_away_is_looked_for_again_sooner_and_then_more_seldom() {
        let sys = Double::new();
        let settings = settings();
        let pauses: Vec<u64> = (1..12).map(|failures| next_look(&sys, &settings, error::SOURCE, failures)).collect();
        assert!((RETRY_MS..=RETRY_MS * 11 / 10).contains(&pauses[0]), "{pauses:?}");
        assert!(pauses.is_sorted() && *pauses.last().expect("one") >= settings.interval_ms, "{pauses:?}");
    }

    #[test]
    fn a_closed_window_is_waited_for() {
        let sys = Double::new();
        // Thursday, 1970-01-01, 00:00:01 UTC by the double's clock; the window opens at 01:00.
        let mut settings = settings();
        settings.windows = vec![crate::update::testing::window(60, 30)];
        let pause = next_look(&sys, &settings, error::REFUSED, 0);
        assert!((3_599_000..3_700_000).contains(&pause), "{pause}");
        let pause = next_look(&sys, &settings, error::OK, 0);
        assert!(pause >= settings.interval_ms, "nothing waits for the window");
    }
}
