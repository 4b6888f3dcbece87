//! The kernel command line (`/proc/cmdline`; kernel `lib/cmdline.c`, `next_arg`).
//!
//! Parameters are separated by white space; double quotes keep white space inside a value and may stand around the
//! value or around the whole parameter. A later parameter overrides an earlier one of the same name; module options
//! (`module.parameter=value`) add up. After `--` the rest belongs to init and is ignored here.

use ksos_formats::layout;

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cmdline {
    parameters: Vec<(String, Option<String>)>,
}

/// What PID 1 does when it cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnEmergency {
    /// Waits for somebody.
    Wait,
    /// Restarts after a minute, so that a boot loader that counts attempts can choose another slot.
    Reboot,
}

impl Cmdline {
    /// Reads a command line.
    pub fn parse(text: &str) -> Self {
        let mut words = Vec::new();
        let (mut word, mut quoted, mut started) = (String::new(), false, false);
        for character in text.chars() {
            match character {
                '"' => {
                    quoted = !quoted;
                    started = true;
                }
                space if space.is_ascii_whitespace() && !quoted => {
                    if std::mem::take(&mut started) {
                        words.push(std::mem::take(&mut word));
                    }
                }
                other => {
                    word.push(other);
                    started = true;
                }
            }
        }
        if started {
            words.push(word);
        }
        let words = words.into_iter().take_while(|word| word != "--");
        let split = |word: String| match word.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        Cmdline { parameters: words.map(split).collect() }
    }

    /// Returns whether the parameter is there, with or without a value.
    pub fn has(&self, key: &str) -> bool {
        self.parameters.iter().any(|(name, _)| name == key)
    }

    /// Returns the last value of a parameter.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(name, _)| name == key)?.1.as_deref()
    }

    /// Returns all parameters in order, with their values.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.parameters.iter().map(|(key, value)| (key.as_str(), value.as_deref()))
    }

    /// Returns what to do in an emergency: `ksos.emergency=`, else a restart if the kernel itself would restart
    /// after a panic (`panic=` with a number that is not 0).
    pub fn on_emergency(&self) -> OnEmergency {
        match self.value(layout::PARAM_EMERGENCY) {
            Some("reboot") => OnEmergency::Reboot,
            Some("wait") => OnEmergency::Wait,
            _ if self.value("panic").and_then(|text| text.parse::<i64>().ok()).is_some_and(|n| n != 0) => {
                OnEmergency::Reboot
            }
            _ => OnEmergency::Wait,
        }
    }

    /// Returns the options for a module, as `finit_module` takes them: `module.parameter=value`, `-` equal to `_`.
    pub fn module_options(&self, module: &str) -> String {
        let mut options = Vec::new();
        for (key, value) in &self.parameters {
            let Some((name, parameter)) = key.split_once('.') else { continue };
            if name.replace('-', "_") != module.replace('-', "_") {
                continue;
            }
            options.push(match value {
                Some(value) if value.contains(char::is_whitespace) => format!("{parameter}=\"{value}\""),
                Some(value) => format!("{parameter}={value}"),
                None => parameter.to_owned(),
            });
        }
        options.join(" ")
    }

    /// Returns the modules that hardware must not load: `modprobe.blacklist=` and `module_blacklist=`.
    pub fn blacklist(&self) -> Vec<String> {
        let lists = self.parameters.iter().filter(|(key, _)| key == "modprobe.blacklist" || key == "module_blacklist");
        let names = lists.filter_map(|(_, value)| value.as_deref()).flat_map(|value| value.split(','));
        names.filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_spaces_and_the_end_marker() {
        let line = Cmdline::parse("quiet  ksos.slot=a ksos.slot=b a=\"x y\" \"b=c d\" empty= panic=5\n -- ksos.slot=a");
        assert!(line.has("quiet") && !line.has("quie"));
        assert_eq!(line.value("ksos.slot"), Some("b"));
        assert_eq!((line.value("a"), line.value("b"), line.value("empty")), (Some("x y"), Some("c d"), Some("")));
        assert_eq!(line.value("quiet"), None);
        assert_eq!(Cmdline::parse(" \n"), Cmdline::default());
        assert_eq!(Cmdline::parse("a=\"unclosed quote").value("a"), Some("unclosed quote"));
    }

    #[test]
    fn emergencies_follow_panic_unless_told() {
        for (line, expected) in [
            ("", OnEmergency::Wait),
            ("panic=0", OnEmergency::Wait),
            ("panic=10", OnEmergency::Reboot),
            ("panic=-1", OnEmergency::Reboot),
            ("panic=10 ksos.emergency=wait", OnEmergency::Wait),
            ("ksos.emergency=reboot", OnEmergency::Reboot),
            ("ksos.emergency=nonsense", OnEmergency::Wait),
        ] {
            assert_eq!(Cmdline::parse(line).on_emergency(), expected, "{line}");
        }
    }

    #[test]
    fn module_options_and_blacklists() {
        let line = Cmdline::parse("dm-verity.a=1 dm_verity.b=\"x y\" other.c=2 loop.flag modprobe.blacklist=a-b,c,, x");
        assert_eq!(line.module_options("dm_verity"), "a=1 b=\"x y\"");
        assert_eq!(line.module_options("loop"), "flag");
        assert_eq!(line.module_options("none"), "");
        assert_eq!(line.blacklist(), ["a_b", "c"]);
    }
}
