//! How long to wait before another try.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use time::PrimitiveDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

use super::options::NetOptions;

/// `IMF-fixdate` (RFC 9110, section 5.6.7), the only form that a server may send.
const HTTP_DATE: StaticFormatDescription =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// Returns an HTTP date in seconds since 1970.
pub(super) fn parse_http_date(text: &str) -> Option<u64> {
    let time = PrimitiveDateTime::parse(text.trim(), HTTP_DATE).ok()?;
    u64::try_from(time.assume_utc().unix_timestamp()).ok()
}

/// Returns how long a `Retry-After` (RFC 9110, section 10.2.3) asks to wait, `now` being seconds since 1970.
pub(super) fn parse_retry_after(text: &str, now: u64) -> Option<Duration> {
    let seconds = match text.trim().parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => parse_http_date(text)?.saturating_sub(now),
    };
    Some(Duration::from_secs(seconds))
}

/// Returns the wait before try `round` (1 is the first repetition): exponential, with up to half of it left to chance
/// so that many machines do not come back at once.
pub(super) fn backoff(options: &NetOptions, round: u32) -> Duration {
    let factor = 1_u32.checked_shl(round.saturating_sub(1)).unwrap_or(u32::MAX);
    let full = options.backoff.saturating_mul(factor).min(options.backoff_limit);
    // The standard library's hash seeds are its only source of chance.
    let chance = (RandomState::new().hash_one(round) % 1024) as u32;
    full / 2 + full / 2 * chance / 1024
}

/// Waits as before try `round` of something short that others may be doing, too: up to some hundred milliseconds.
pub fn pause(round: u32) {
    let options = NetOptions { backoff: Duration::from_millis(50), ..NetOptions::default() };
    std::thread::sleep(backoff(&options, round));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_takes_seconds_and_dates() {
        assert_eq!(parse_retry_after("7", 0), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_767), Some(Duration::from_secs(10)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_800), Some(Duration::ZERO));
        for text in ["", "-1", "soon", "Sunday, 06-Nov-94 08:49:37 GMT"] {
            assert_eq!(parse_retry_after(text, 0), None, "{text}");
        }
    }

    #[test]
    fn backoff_doubles_within_its_limit() {
        let options = NetOptions::default();
        for (round, full) in [(1, 500), (2, 1000), (3, 2000), (6, 10_000), (99, 10_000)] {
            let wait = backoff(&options, round);
            let full = Duration::from_millis(full);
            assert!(wait >= full / 2 && wait <= full, "{round}: {wait:?}");
        }
    }
}
