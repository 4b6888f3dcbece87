//! What the node says on its consoles.
//!
//! Every line of the runtime begins with `ksos: `, so that a program on the serial line (`ksos-compose run`, a test
//! rig) can follow the boot:
//!
//! ```text
//! ksos: stage 30 data: ok 12 ms (formatted, boot 1)
//! ksos: stage 30 data: failed 12 ms: REASON
//! ksos: ready name=N version=V arch=A slot=a secure-boot=on lockdown=integrity boot=1 uptime=5.32
//! ksos: degraded reason="..."
//! ksos: emergency reason="..."
//! ksos: shutdown: reboot
//! ```
//!
//! A line goes out in one write, to every console that the kernel prints on. A console that takes nothing for a second
//! loses the line; it never stops PID 1.

use crate::sys::{Sys, read_line};

/// What begins every line.
pub const PREFIX: &str = "ksos: ";
/// Longest line in characters; the rest is cut.
const LINE_LIMIT: usize = 900;

/// Prints one line on all consoles.
pub fn say(sys: &dyn Sys, line: &str) {
    print(sys, &format!("{PREFIX}{}\n", one_line(line)));
}

/// Prints output of the service `name` on all consoles.
pub fn relay(sys: &dyn Sys, name: &str, line: &str) {
    print(sys, &format!("[{name}] {}\n", one_line(line)));
}

/// Returns `text` as a quoted value on one line.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", one_line(text).replace('\\', "\\\\").replace('"', "\\\""))
}

/// Returns the terminals of the kernel's consoles, the one behind `/dev/console` last (kernel
/// `Documentation/ABI/testing/sysfs-tty`, `active`).
pub fn terminals(sys: &dyn Sys) -> Vec<String> {
    let active = read_line(sys, "/sys/class/tty/console/active").unwrap_or_default();
    let named = active.split_whitespace().map(|name| format!("/dev/{name}"));
    let mut found: Vec<String> = named.filter(|path| sys.kind(path).is_some()).collect();
    if found.is_empty() {
        found.push("/dev/console".to_owned());
    }
    found
}

fn print(sys: &dyn Sys, line: &str) {
    for terminal in terminals(sys) {
        // There is nobody to tell that a console does not work.
        let _ = sys.write_terminal(&terminal, line.as_bytes());
    }
}

/// Returns `text` without control characters, so that output of programs can neither forge a line nor drive a terminal.
fn one_line(text: &str) -> String {
    text.trim().chars().take(LINE_LIMIT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::double::Double;

    #[test]
    fn lines_are_single_and_go_to_every_console() {
        let sys = Double::new();
        sys.put("/sys/class/tty/console/active", "tty0 ttyS0\n");
        sys.put("/dev/tty0", "");
        sys.put("/dev/ttyS0", "");
        assert_eq!(terminals(&sys), ["/dev/tty0", "/dev/ttyS0"]);
        say(&sys, "degraded\nksos: ready \x1b[2J");
        assert_eq!(*sys.terminal.borrow(), "ksos: degraded ksos: ready  [2J\n".repeat(2));
    }

    #[test]
    fn without_a_list_the_console_device_is_used() {
        assert_eq!(terminals(&Double::new()), ["/dev/console"]);
    }

    #[test]
    fn quoted_values_stay_one_value() {
        assert_eq!(quoted("a \"b\"\nc\\"), r#""a \"b\" c\\""#);
    }
}
