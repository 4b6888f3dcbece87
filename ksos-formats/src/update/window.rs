//! Maintenance windows: when a node may install and restart by itself.
//!
//! A window opens on some days at one local time and stays open for a length of real time: one of three hours is three
//! hours long in the nights of the changes to and from summer time too. One that would open in the hour that a change
//! skips opens at the change; one that would open in the hour that comes twice opens the first time, once.
//!
//! A time zone is `UTC`, an offset (`+02:00`), a POSIX TZ string (`CET-1CEST,M3.5.0,M10.5.0/3`), or a name of the tz
//! database (`Europe/Berlin`), whose file (TZif, RFC 8536) the caller reads. Pure: no clock, no files.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tz::{DateTime, TimeZone as Rules, TimeZoneSettings, UtcDateTime};

/// Minutes of a day.
const DAY_MINUTES: u16 = 24 * 60;
/// Longest window in minutes: a week.
pub const MAX_LENGTH_MINUTES: u16 = 7 * DAY_MINUTES;
/// Most windows of a node.
pub const MAX_WINDOWS: usize = 64;
/// Largest file of the tz database in bytes that is read; the largest of 2025 has 3.5 kB.
pub const ZONE_FILE_LIMIT: usize = 64 << 10;
/// Latest time that is looked at: the end of the year 9998.
const LATEST: u64 = 253_370_764_799;
/// Largest offset in minutes: UTC+14, Kiritimati.
const MAX_OFFSET_MINUTES: i32 = 14 * 60;

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

/// A window that opens on some days at one local time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Days on which it opens; empty: every day.
    pub days: Vec<Day>,
    /// Local time at which it opens, in minutes from midnight.
    pub start_minute: u16,
    /// Length in minutes, at most a week.
    pub length_minutes: u16,
    /// `UTC`, an offset (`+02:00`), a POSIX TZ string, or a name of the tz database (`Europe/Berlin`).
    pub time_zone: String,
}

/// Why a window, or a part of one, is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WindowError {
    /// The days are not a list of days.
    #[error("the days {0:?} are not days such as mon-fri, sat or daily")]
    Days(String),
    /// The start is not a time of day.
    #[error("the start {0:?} is not a time of day such as 02:00")]
    Start(String),
    /// The length is not one.
    #[error("the length {0:?} is not minutes, hours or days up to a week, such as 90m, 3h or 1h30m")]
    Length(String),
    /// The text is no time zone.
    #[error(
        "the time zone {0:?} is not UTC, an offset such as +02:00, a POSIX TZ string or a name such as Europe/Berlin"
    )]
    Zone(String),
    /// There is no file of this name.
    #[error("the time zone {0} is not in the tz database")]
    UnknownZone(String),
    /// The file is damaged, or says nothing about the time that is asked for.
    #[error("the time zone {name}: {reason}")]
    ZoneFile {
        /// Name of the zone.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// There are too many.
    #[error("{0} windows, at most {MAX_WINDOWS} are taken")]
    Count(usize),
    /// The clock is beyond what calendars hold.
    #[error("the time {0} is too late")]
    Clock(u64),
}

const DAYS: [(Day, &str, &str); 7] = [
    (Day::Monday, "mon", "monday"),
    (Day::Tuesday, "tue", "tuesday"),
    (Day::Wednesday, "wed", "wednesday"),
    (Day::Thursday, "thu", "thursday"),
    (Day::Friday, "fri", "friday"),
    (Day::Saturday, "sat", "saturday"),
    (Day::Sunday, "sun", "sunday"),
];

impl Day {
    /// Reads `mon` or `monday`, in any case.
    fn from_name(text: &str) -> Option<usize> {
        DAYS.iter().position(|(_, short, long)| text.eq_ignore_ascii_case(short) || text.eq_ignore_ascii_case(long))
    }

    /// Its short name: `mon`.
    pub fn short_name(self) -> &'static str {
        DAYS[self as usize].1
    }
}

/// Reads days: `sat`, `mon-fri`, `mon, wed, fri-sun`; `daily` is the empty list. A range may go over the end of the week.
///
/// # Errors
/// [`WindowError::Days`].
pub fn parse_days(text: &str) -> Result<Vec<Day>, WindowError> {
    let wrong = || WindowError::Days(text.to_owned());
    if text.trim().eq_ignore_ascii_case("daily") {
        return Ok(Vec::new());
    }
    let mut found = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let day = |name: &str| Day::from_name(name.trim()).ok_or_else(wrong);
        let (first, last) = (day(first)?, day(last)?);
        for step in 0..=(last + 7 - first) % 7 {
            found[(first + step) % 7] = true;
        }
    }
    Ok(DAYS.iter().zip(found).filter(|(_, found)| *found).map(|(day, _)| day.0).collect())
}

/// Reads a time of day, `02:00`, as minutes from midnight.
///
/// # Errors
/// [`WindowError::Start`].
pub fn parse_start(text: &str) -> Result<u16, WindowError> {
    let minutes = || {
        let (hour, minute) = text.split_once(':')?;
        let minute = digits(minute).filter(|value| minute.len() == 2 && *value < 60)?;
        let hour = digits(hour).filter(|value| hour.len() <= 2 && *value < 24)?;
        u16::try_from(hour * 60 + minute).ok()
    };
    minutes().ok_or_else(|| WindowError::Start(text.to_owned()))
}

/// Reads a length, `90m`, `3h`, `1d` or `1h30m`, in minutes: at least one, at most a week.
///
/// # Errors
/// [`WindowError::Length`].
pub fn parse_length(text: &str) -> Result<u16, WindowError> {
    let minutes = || {
        let (mut rest, mut minutes, mut largest) = (text, 0, u32::MAX);
        while !rest.is_empty() {
            let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
            let unit = match after.bytes().next()? {
                b'm' => 1,
                b'h' => 60,
                b'd' => 24 * 60,
                _ => return None,
            };
            if unit >= largest {
                return None;
            }
            minutes += digits(number)?.checked_mul(unit)?;
            (rest, largest) = (&after[1..], unit);
        }
        u16::try_from(minutes).ok().filter(|minutes| (1..=MAX_LENGTH_MINUTES).contains(minutes))
    };
    minutes().ok_or_else(|| WindowError::Length(text.to_owned()))
}

/// Reads a number of one to five decimal digits.
fn digits(text: &str) -> Option<u32> {
    let plain = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

/// A time zone whose text has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeZone {
    /// Coordinated Universal Time, or an offset from it, or a POSIX TZ string: all that is to know of it is here.
    Known(Box<Rules>),
    /// A name of the tz database: letters, digits, `_`, `-`, `+` and `/`, never a path out of its directory.
    Named(String),
}

impl TimeZone {
    /// Reads the text of a time zone. Of a name only the form is checked.
    ///
    /// # Errors
    /// [`WindowError::Zone`].
    pub fn parse(text: &str) -> Result<Self, WindowError> {
        let wrong = || WindowError::Zone(text.to_owned());
        let known = |rules| Ok(TimeZone::Known(Box::new(rules)));
        if text == "UTC" {
            return known(Rules::utc());
        }
        if text.starts_with(['+', '-']) {
            let minutes = offset(text).ok_or_else(wrong)?;
            return known(Rules::fixed(minutes * 60).map_err(|_| wrong())?);
        }
        if text.contains([',', '<']) {
            return known(posix(text).ok_or_else(wrong)?);
        }
        match posix(text) {
            Some(rules) if !text.contains('/') => known(rules),
            _ if is_zone_name(text) => Ok(TimeZone::Named(text.to_owned())),
            _ => Err(wrong()),
        }
    }

    /// Returns the rules; `zones` reads the file of a name, at most [`ZONE_FILE_LIMIT`] bytes.
    fn rules(self, zones: &dyn Fn(&str) -> Option<Vec<u8>>) -> Result<Rules, WindowError> {
        match self {
            TimeZone::Known(rules) => Ok(*rules),
            TimeZone::Named(name) => {
                let Some(bytes) = zones(&name) else { return Err(WindowError::UnknownZone(name)) };
                if bytes.len() > ZONE_FILE_LIMIT {
                    let reason = format!("its file has {} bytes, at most {ZONE_FILE_LIMIT} are read", bytes.len());
                    return Err(WindowError::ZoneFile { name, reason });
                }
                // A file that is cut off before its footer would be taken as one that has no rule (RFC 8536, section 3.3).
                let [.., before, b'\n'] = bytes[..] else { return Err(fault(&name, &"its file has no footer")) };
                if before != b'\n' && before.is_ascii_control() {
                    return Err(fault(&name, &"its file has no footer"));
                }
                Rules::from_tz_data(&bytes).map_err(|error| fault(&name, &error))
            }
        }
    }
}

fn fault(name: &str, error: &dyn fmt::Display) -> WindowError {
    WindowError::ZoneFile { name: name.to_owned(), reason: error.to_string() }
}

/// Whether `text` can be a name of the tz database: parts of letters, digits, `_`, `-` and `+` with `/` between, so that
/// it leads nowhere but into its directory.
pub fn is_zone_name(text: &str) -> bool {
    let inner = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-+".contains(&byte));
    let part = |part: &str| part.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic()) && inner(part);
    text.len() <= 64 && text.split('/').all(part)
}

/// Reads `+HH:MM` or `-HH:MM` as minutes.
fn offset(text: &str) -> Option<i32> {
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits = text.get(1..).filter(|digits| digits.len() == 5)?;
    let minutes = i32::from(parse_start(digits).ok()?);
    (minutes <= MAX_OFFSET_MINUTES).then_some(sign * minutes)
}

/// Reads a POSIX TZ string (POSIX.1-2017, 8.3).
fn posix(text: &str) -> Option<Rules> {
    if text.len() > 128 || text.starts_with(':') || text == "localtime" || text.trim() != text {
        return None;
    }
    // The library looks for a file of that name first: there is none.
    TimeZoneSettings::new(&[], |_| Err("no files".into())).parse_posix_tz(text).ok()
}

/// Whether a node may install and restart by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// There are no windows: always.
    Always,
    /// At least until then, seconds since 1970: windows that touch or overlap count as one.
    Until(u64),
    /// Not now.
    Closed {
        /// When the next one opens, seconds since 1970.
        next: u64,
    },
}

impl Open {
    /// Whether the node may now.
    pub fn is_open(self) -> bool {
        !matches!(self, Open::Closed { .. })
    }
}

/// Tells whether one of the windows is open at `now`, seconds since 1970. `zones` reads the file of a name of the tz
/// database, at most [`ZONE_FILE_LIMIT`] bytes; `None`: there is none.
///
/// # Errors
/// What is wrong with a window. The others are not looked at then: a node with a window that nobody can tell does not
/// guess.
pub fn is_open(windows: &[Window], now: u64, zones: &dyn Fn(&str) -> Option<Vec<u8>>) -> Result<Open, WindowError> {
    if windows.is_empty() {
        return Ok(Open::Always);
    }
    if windows.len() > MAX_WINDOWS {
        return Err(WindowError::Count(windows.len()));
    }
    let now = i64::try_from(now).ok().filter(|now| now.unsigned_abs() <= LATEST).ok_or(WindowError::Clock(now))?;
    let mut spans = Vec::new();
    for window in windows {
        spans.extend(window.spans(now, zones)?);
    }
    spans.sort_unstable();
    let covers = |time: i64| spans.iter().filter(move |(start, end)| *start <= time && time < *end);
    let mut until = now;
    while let Some(end) = covers(until).map(|span| span.1).max() {
        until = end;
    }
    let next = spans.iter().map(|span| span.0).find(|start| *start > now);
    match (until > now, next) {
        (true, _) => Ok(Open::Until(until.unsigned_abs())),
        (false, Some(next)) => Ok(Open::Closed { next: next.unsigned_abs() }),
        (false, None) => Err(WindowError::Clock(now.unsigned_abs())),
    }
}

impl Window {
    /// Makes a window of the texts that people write.
    ///
    /// # Errors
    /// What is wrong with the first of them that is wrong.
    pub fn parse(days: &str, start: &str, length: &str, time_zone: &str) -> Result<Self, WindowError> {
        let days = parse_days(days)?;
        let (start_minute, length_minutes) = (parse_start(start)?, parse_length(length)?);
        TimeZone::parse(time_zone)?;
        Ok(Window { days, start_minute, length_minutes, time_zone: time_zone.to_owned() })
    }

    /// Returns when it is open, from a week and a day before `now` to as much after it: start and end.
    fn spans(&self, now: i64, zones: &dyn Fn(&str) -> Option<Vec<u8>>) -> Result<Vec<(i64, i64)>, WindowError> {
        if self.start_minute >= DAY_MINUTES {
            return Err(WindowError::Start(format!("minute {}", self.start_minute)));
        }
        if !(1..=MAX_LENGTH_MINUTES).contains(&self.length_minutes) {
            return Err(WindowError::Length(format!("{}m", self.length_minutes)));
        }
        let rules = TimeZone::parse(&self.time_zone)?.rules(zones)?;
        let fault = |error: &dyn fmt::Display| fault(&self.time_zone, error);
        let local = now + i64::from(rules.find_local_time_type(now).map_err(|error| fault(&error))?.ut_offset());
        let mut spans = Vec::new();
        for day in -8..=8 {
            let date = UtcDateTime::from_timespec(local + day * 86_400, 0).map_err(|error| fault(&error))?;
            if !self.is_on(date.week_day()) {
                continue;
            }
            let (hour, minute) = ((self.start_minute / 60) as u8, (self.start_minute % 60) as u8);
            let (year, month, day) = (date.year(), date.month(), date.month_day());
            let found = DateTime::find(year, month, day, hour, minute, 0, 0, rules.as_ref());
            // The first of two, or the moment of the change that skips it.
            let start = found.map_err(|error| fault(&error))?.earliest().map(|time| time.unix_time());
            let start = start.ok_or_else(|| fault(&"it says nothing about this time"))?;
            spans.push((start, start + i64::from(self.length_minutes) * 60));
        }
        Ok(spans)
    }

    /// Whether it opens on a day of the week, 0 being Sunday.
    fn is_on(&self, week_day: u8) -> bool {
        let day = DAYS[usize::from(week_day + 6) % 7].0;
        self.days.is_empty() || self.days.contains(&day)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Window { days, start_minute, length_minutes, time_zone } = self;
        let days: Vec<&str> = days.iter().map(|day| day.short_name()).collect();
        let days = if days.is_empty() { "daily".to_owned() } else { days.join(",") };
        let (hours, minutes) = (length_minutes / 60, length_minutes % 60);
        let length = match (hours, minutes) {
            (0, minutes) => format!("{minutes}m"),
            (hours, 0) => format!("{hours}h"),
            (hours, minutes) => format!("{hours}h{minutes}m"),
        };
        write!(f, "{days} {:02}:{:02} {length} {time_zone}", start_minute / 60, start_minute % 60)
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
