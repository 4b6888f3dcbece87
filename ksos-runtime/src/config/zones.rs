//! Files of the tz database, for the time zones of maintenance windows.

use ksos_formats::update::window::{ZONE_FILE_LIMIT, is_zone_name};

use crate::sys::Sys;

/// Directory of the tz database.
const DIRECTORY: &str = "/usr/share/zoneinfo";

/// Reads the file of a time zone (TZif, RFC 8536); `None` when there is none that can be read, or the name cannot be one.
pub fn zone_file(sys: &dyn Sys, name: &str) -> Option<Vec<u8>> {
    if !is_zone_name(name) {
        return None;
    }
    sys.read(&format!("{DIRECTORY}/{name}"), ZONE_FILE_LIMIT as u64).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::double::Double;

    #[test]
    fn only_names_of_zones_are_read() {
        let sys = Double::new();
        sys.put("/usr/share/zoneinfo/Europe/Berlin", "TZif");
        sys.put("/usr/share/secret", "x");
        sys.put("/etc/passwd", "x");
        assert_eq!(zone_file(&sys, "Europe/Berlin").as_deref(), Some(&b"TZif"[..]));
        for name in
            ["", "Europe", "Europe/Paris", "../secret", "/etc/passwd", "Europe/../Europe/Berlin", "Europe//Berlin"]
        {
            assert_eq!(zone_file(&sys, name), None, "{name}");
        }
        sys.put("/usr/share/zoneinfo/Large", "x".repeat(ZONE_FILE_LIMIT + 1));
        assert_eq!(zone_file(&sys, "Large"), None);
    }

    /// The files that distributions ship, by what is known of summer time: Berlin's ends on 2027-10-31 at 01:00 UTC.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "reads the tz database of this host")]
    fn the_files_of_the_tz_database_are_understood() {
        use ksos_formats::update::window::{Open, Window, is_open};
        let read = |name: &str| std::fs::read(format!("{DIRECTORY}/{name}")).ok();
        if read("Europe/Berlin").is_none() {
            assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "tzdata is not installed");
            println!("skipped: tzdata is not installed");
            return;
        }
        let end_of_summer_time = 1_824_944_400;
        for (zone, start) in [("Europe/Berlin", "02:00"), ("Europe/Lisbon", "01:00"), ("Asia/Kolkata", "06:30")] {
            let window = Window::parse("sun", start, "1h", zone).unwrap();
            let open = is_open(&[window], end_of_summer_time, &read).unwrap();
            let expected = match zone {
                // The hour comes twice, and was open the first time.
                "Europe/Berlin" | "Europe/Lisbon" => Open::Closed { next: end_of_summer_time + 7 * 86_400 },
                _ => Open::Until(end_of_summer_time + 3600),
            };
            assert_eq!(open, expected, "{zone}");
        }
    }
}
