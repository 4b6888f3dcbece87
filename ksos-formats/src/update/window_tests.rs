//! Windows on known dates, and against a second definition of what a window is.

use super::*;

const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
/// Southern summer; half an hour beside the full ones; the change is of half an hour.
const LORD_HOWE: &str = "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0";

fn no_zones(_: &str) -> Option<Vec<u8>> {
    None
}

/// Seconds since 1970 of a UTC time.
fn utc(year: i32, month: u8, day: u8, hour: u8, minute: u8) -> u64 {
    UtcDateTime::new(year, month, day, hour, minute, 0, 0).unwrap().unix_time().unsigned_abs()
}

fn window(text: &str) -> Window {
    let parts: Vec<&str> = text.split(' ').collect();
    let [days, start, length, zone] = parts[..] else { panic!("{text}") };
    Window::parse(days, start, length, zone).unwrap()
}

fn at(windows: &[&str], now: u64) -> Open {
    let windows: Vec<Window> = windows.iter().map(|text| window(text)).collect();
    is_open(&windows, now, &no_zones).unwrap()
}

/// A file of the tz database (RFC 8536, version 2) that holds nothing but a rule in its footer.
fn zone_file(rule: &str) -> Vec<u8> {
    let mut block = b"TZif2".to_vec();
    block.extend([0; 15]);
    for count in [0_u32, 0, 0, 0, 1, 4] {
        block.extend(count.to_be_bytes());
    }
    block.extend([0, 0, 0, 0, 0, 0]);
    block.extend(b"UTC\0");
    [block.clone(), block, format!("\n{rule}\n").into_bytes()].concat()
}

#[test]
fn days_are_names_ranges_and_lists() {
    use Day::*;
    let table: [(&str, &[Day]); 9] = [
        ("sat", &[Saturday]),
        ("mon-fri", &[Monday, Tuesday, Wednesday, Thursday, Friday]),
        ("fri-mon", &[Monday, Friday, Saturday, Sunday]),
        ("sun,mon", &[Monday, Sunday]),
        ("Mon, wed , FRI-Sunday", &[Monday, Wednesday, Friday, Saturday, Sunday]),
        ("tuesday", &[Tuesday]),
        ("thu-thu", &[Thursday]),
        ("mon-sun", &[Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday]),
        ("daily", &[]),
    ];
    for (text, days) in table {
        assert_eq!(parse_days(text).unwrap(), days, "{text}");
    }
    for text in ["", "mo", "mon-", "-fri", "mon-tue-wed", "mon,", "every day", "1-5", "mon fri"] {
        assert_eq!(parse_days(text), Err(WindowError::Days(text.to_owned())), "{text}");
    }
}

#[test]
fn starts_and_lengths_are_checked() {
    for (text, minutes) in [("00:00", 0), ("02:00", 120), ("2:05", 125), ("23:59", 1439)] {
        assert_eq!(parse_start(text), Ok(minutes), "{text}");
    }
    for text in ["", "2", "24:00", "02:60", "2:5", "002:00", "-1:00", "02:00:00", "2 :00", "+2:00"] {
        assert_eq!(parse_start(text), Err(WindowError::Start(text.to_owned())), "{text}");
    }
    for (text, minutes) in [("1m", 1), ("90m", 90), ("3h", 180), ("1h30m", 90), ("7d", 10_080), ("6d24h", 10_080)] {
        assert_eq!(parse_length(text), Ok(minutes), "{text}");
    }
    for text in
        ["", "0m", "3", "h", "8d", "7d1m", "30m1h", "1h1h", "1.5h", "-1h", "3 h", "10081m", "99999d", "9999999999h"]
    {
        assert_eq!(parse_length(text), Err(WindowError::Length(text.to_owned())), "{text}");
    }
}

#[test]
fn time_zones_are_told_apart() {
    for text in ["UTC", "+02:00", "-03:30", "+14:00", "HST10", BERLIN, LORD_HOWE, "UTC0"] {
        assert!(matches!(TimeZone::parse(text), Ok(TimeZone::Known(_))), "{text}");
    }
    for text in ["Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "EST5EDT", "Zulu", "utc"] {
        assert_eq!(TimeZone::parse(text), Ok(TimeZone::Named(text.to_owned())), "{text}");
    }
    let long = "a".repeat(65);
    for text in [
        "",
        "+2",
        "+0200",
        "+14:01",
        "+24:00",
        "-",
        "CET-1CEST,",
        "CET-1CEST,M13.5.0,M10.5.0",
        "<+03",
        ":Europe/Berlin",
        "/etc/passwd",
        "../../etc/passwd",
        "Europe/../../x",
        "Europe//Berlin",
        "Europe/",
        "a.b",
        "Europe/Berlin\0",
        "é",
        " UTC",
        "localtime ",
        &long,
    ] {
        assert_eq!(TimeZone::parse(text), Err(WindowError::Zone(text.to_owned())), "{text:?}");
    }
}

#[test]
fn no_windows_are_always_open() {
    assert_eq!(at(&[], 0), Open::Always);
    assert!(Open::Always.is_open());
}

#[test]
fn a_window_opens_on_its_minute_and_closes_on_its_minute() {
    // 2026-11-20 is a Friday.
    let windows = ["mon-fri 02:00 3h UTC"];
    let table = [
        (utc(2026, 11, 20, 1, 59) + 59, Open::Closed { next: utc(2026, 11, 20, 2, 0) }),
        (utc(2026, 11, 20, 2, 0), Open::Until(utc(2026, 11, 20, 5, 0))),
        (utc(2026, 11, 20, 4, 59) + 59, Open::Until(utc(2026, 11, 20, 5, 0))),
        // The week end is between.
        (utc(2026, 11, 20, 5, 0), Open::Closed { next: utc(2026, 11, 23, 2, 0) }),
        (utc(2026, 11, 21, 3, 0), Open::Closed { next: utc(2026, 11, 23, 2, 0) }),
    ];
    for (now, expected) in table {
        assert_eq!(at(&windows, now), expected, "{now}");
    }
}

#[test]
fn a_window_goes_over_midnight_the_week_and_the_year() {
    let sunday = ["sun 23:00 4h UTC"];
    assert_eq!(at(&sunday, utc(2026, 11, 23, 1, 0)), Open::Until(utc(2026, 11, 23, 3, 0)));
    assert_eq!(at(&sunday, utc(2026, 11, 23, 3, 0)), Open::Closed { next: utc(2026, 11, 29, 23, 0) });
    let friday = ["fri 20:00 2d12h +02:00"];
    assert_eq!(at(&friday, utc(2026, 11, 23, 5, 59)), Open::Until(utc(2026, 11, 23, 6, 0)));
    let night = ["daily 22:00 4h UTC"];
    assert_eq!(at(&night, utc(2028, 1, 1, 1, 0)), Open::Until(utc(2028, 1, 1, 2, 0)));
    assert_eq!(at(&night, utc(2028, 2, 29, 23, 0)), Open::Until(utc(2028, 3, 1, 2, 0)));
}

#[test]
fn windows_that_touch_or_overlap_count_as_one() {
    let windows = ["sat 22:00 4h UTC", "sun 02:00 2h UTC", "sun 01:00 30m UTC"];
    assert_eq!(at(&windows, utc(2026, 11, 21, 22, 0)), Open::Until(utc(2026, 11, 22, 4, 0)));
    assert_eq!(at(&windows, utc(2026, 11, 22, 4, 0)), Open::Closed { next: utc(2026, 11, 28, 22, 0) });
}

#[test]
fn a_week_long_window_is_always_open() {
    let windows = ["wed 12:00 7d +05:30"];
    for hour in 0..24 {
        assert!(at(&windows, utc(2026, 11, 25, hour, 29)).is_open(), "{hour}");
    }
    let Open::Until(until) = at(&["daily 00:00 1d UTC"], utc(2026, 11, 25, 12, 0)) else { panic!("closed") };
    assert!(until > utc(2026, 12, 2, 0, 0));
}

/// Berlin, 2027-03-28: 02:00 becomes 03:00 (01:00 UTC).
#[test]
fn a_window_in_the_hour_that_is_skipped_opens_at_the_change() {
    for zone in [BERLIN, "Europe/Berlin"] {
        let open =
            |text: &str, now| is_open(&[window(&format!("{text} {zone}"))], now, &|_| Some(zone_file(BERLIN))).unwrap();
        let change = utc(2027, 3, 28, 1, 0);
        assert_eq!(open("sun 02:30 2h", change - 1), Open::Closed { next: change });
        assert_eq!(open("sun 02:30 2h", change), Open::Until(change + 2 * 3600));
        assert_eq!(open("sun 02:00 2h", change), Open::Until(change + 2 * 3600));
        // Open before the change: the length is of real time.
        assert_eq!(open("sun 01:00 3h", change), Open::Until(change - 3600 + 3 * 3600));
        // The day before and the day after are as ever.
        assert_eq!(open("sat 02:30 2h", utc(2027, 3, 27, 1, 30)), Open::Until(utc(2027, 3, 27, 3, 30)));
        assert_eq!(open("mon 02:30 2h", utc(2027, 3, 29, 0, 30)), Open::Until(utc(2027, 3, 29, 2, 30)));
    }
}

/// Berlin, 2027-10-31: 03:00 becomes 02:00 (01:00 UTC), so that 02:30 comes at 00:30 and 01:30 UTC.
#[test]
fn a_window_in_the_hour_that_comes_twice_opens_once() {
    let first = utc(2027, 10, 31, 0, 30);
    let windows = [&format!("sun 02:30 30m {BERLIN}")[..]];
    assert_eq!(at(&windows, first - 1), Open::Closed { next: first });
    assert_eq!(at(&windows, first), Open::Until(first + 1800));
    let next = utc(2027, 11, 7, 1, 30);
    assert_eq!(at(&windows, first + 1800), Open::Closed { next });
    assert_eq!(at(&windows, first + 3600), Open::Closed { next });
    let long = [&format!("sun 01:00 3h {BERLIN}")[..]];
    assert_eq!(at(&long, first), Open::Until(utc(2027, 10, 30, 23, 0) + 3 * 3600));
}

#[test]
fn what_cannot_be_told_is_an_error_and_not_a_guess() {
    let now = utc(2026, 11, 20, 2, 0);
    let good = window("daily 02:00 3h UTC");
    let named = window("daily 02:00 3h Europe/Berlin");
    let check =
        |windows: &[Window], now: u64, file: Option<Vec<u8>>| is_open(windows, now, &|_| file.clone()).unwrap_err();
    assert_eq!(check(&[good.clone(), named.clone()], now, None), WindowError::UnknownZone("Europe/Berlin".to_owned()));
    let whole = zone_file(BERLIN);
    for length in 0..whole.len() {
        let error = check(std::slice::from_ref(&named), now, Some(whole[..length].to_vec()));
        assert!(matches!(error, WindowError::ZoneFile { .. }), "{length}: {error}");
    }
    let large = check(std::slice::from_ref(&named), now, Some(vec![0; ZONE_FILE_LIMIT + 1]));
    assert!(large.to_string().contains("at most 65536 are read"), "{large}");
    for time in [u64::MAX, LATEST + 1] {
        assert_eq!(check(std::slice::from_ref(&good), time, None), WindowError::Clock(time));
    }
    assert!(is_open(std::slice::from_ref(&good), LATEST, &no_zones).is_ok());
    assert!(is_open(std::slice::from_ref(&good), 0, &no_zones).is_ok());
    assert!(matches!(check(&[Window { start_minute: 1440, ..good.clone() }], now, None), WindowError::Start(_)));
    for length_minutes in [0, MAX_LENGTH_MINUTES + 1, u16::MAX] {
        assert!(matches!(check(&[Window { length_minutes, ..good.clone() }], now, None), WindowError::Length(_)));
    }
    assert_eq!(check(&vec![good; MAX_WINDOWS + 1], now, None), WindowError::Count(MAX_WINDOWS + 1));
}

#[test]
fn no_damaged_file_of_a_zone_panics() {
    let named = [window("daily 02:30 3h Europe/Berlin")];
    let whole = zone_file(BERLIN);
    for index in 0..whole.len() {
        for byte in [0, 1, 2, 0x2c, 0x30, 0x39, 0x4d, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[index] = byte;
            let _ = is_open(&named, utc(2027, 3, 28, 0, 30), &|_| Some(bytes.clone()));
        }
    }
}

#[test]
fn windows_show_themselves_as_they_are_written() {
    for text in ["daily 02:00 3h UTC", "mon,wed 23:05 1h30m +02:00", "sat 00:00 45m Europe/Berlin"] {
        let shown = window(text).to_string();
        assert_eq!(shown, text);
        assert_eq!(window(&shown), window(text));
    }
}

/// Numbers that look random and are the same in every run (an xorshift generator).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Minutes since 1970 as the local clock shows them, at a minute since 1970.
fn local_minute(rules: &Rules, minute: i64) -> i64 {
    minute + i64::from(rules.find_local_time_type(minute * 60).unwrap().ut_offset()) / 60
}

/// A second definition: a window of a day opens in the first minute in which the local clock shows its start or later.
/// Returns the minutes of `from..to` in which one is open.
fn open_minutes(window: &Window, rules: &Rules, from: i64, to: i64) -> Vec<bool> {
    let before = from - i64::from(MAX_LENGTH_MINUTES) - 3 * 1440;
    let mut open = vec![false; usize::try_from(to - from).unwrap()];
    let mut reached = i64::MIN;
    for minute in before..to {
        let local = local_minute(rules, minute);
        let day = (local - i64::from(window.start_minute)).div_euclid(1440);
        if day > reached && reached != i64::MIN && window.is_on(((day + 4).rem_euclid(7)) as u8) {
            for inside in minute..minute + i64::from(window.length_minutes) {
                if let Some(open) = usize::try_from(inside - from).ok().and_then(|index| open.get_mut(index)) {
                    *open = true;
                }
            }
        }
        reached = reached.max(day);
    }
    open
}

#[test]
fn windows_are_as_a_second_definition_says() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let changes = [utc(2027, 3, 28, 1, 0), utc(2027, 10, 31, 1, 0), utc(2027, 4, 3, 15, 0), utc(2027, 10, 2, 15, 30)];
    let (mut seen_open, mut seen_closed) = (0, 0);
    for round in 0..120 {
        let zone = ["UTC", BERLIN, LORD_HOWE, "-09:30"][numbers.below(4) as usize];
        let days: Vec<Day> = DAYS.iter().filter(|_| numbers.below(3) == 0).map(|day| day.0).collect();
        let window = Window {
            days,
            start_minute: if round % 2 == 0 { numbers.below(240) } else { numbers.below(1440) } as u16,
            length_minutes: (1 + numbers.below(if round % 3 == 0 { 10_080 } else { 300 })) as u16,
            time_zone: zone.to_owned(),
        };
        let rules = TimeZone::parse(zone).unwrap().rules(&no_zones).unwrap();
        let from = (changes[numbers.below(4) as usize] / 60) as i64 - 2 * 1440;
        let to = from + 10 * 1440;
        let open = open_minutes(&window, &rules, from, to);
        for minute in (from..from + 2 * 1440 + 600).step_by(7) {
            let index = usize::try_from(minute - from).unwrap();
            let rest = || open[index..].iter().position(|is| *is != open[index]);
            let found = is_open(std::slice::from_ref(&window), minute.unsigned_abs() * 60, &no_zones).unwrap();
            assert_eq!(found.is_open(), open[index], "{window} at minute {minute}");
            let change = match found {
                Open::Always => panic!("there is a window"),
                Open::Until(until) => until,
                Open::Closed { next } => next,
            };
            if let Some(rest) = rest().filter(|rest| *rest < 5 * 1440) {
                assert_eq!(change, (minute.unsigned_abs() + rest as u64) * 60, "{window} at minute {minute}");
            }
            *(if open[index] { &mut seen_open } else { &mut seen_closed }) += 1;
        }
    }
    assert!(seen_open > 1000 && seen_closed > 1000, "{seen_open} {seen_closed}");
}
