//! The kernel's configuration (`/boot/config-R`) and the options that an image requires.

use std::collections::BTreeMap;
use std::fmt;

/// The options that a kernel was built with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelConfig {
    /// Name without `CONFIG_` to value: `y`, `m`, a number, or a quoted string. Unset options are not in it.
    pub options: BTreeMap<String, String>,
}

/// A malformed configuration or requirement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file has no option at all: it is not a kernel configuration.
    #[error("{path} is not a kernel configuration: it sets no CONFIG_ option")]
    NotConfig {
        /// The file.
        path: String,
    },
    /// A requirement that is not `NAME`, `NAME=y`, `NAME=m` or `NAME=n`.
    #[error("{place}: {text:?} is not a kernel option requirement; expected NAME, NAME=y, NAME=m or NAME=n")]
    Requirement {
        /// Where it stands: a file with line, or the manifest.
        place: String,
        /// The text.
        text: String,
    },
}

impl KernelConfig {
    /// Parses the text of a configuration (Linux `Documentation/kbuild/kconfig.rst`).
    ///
    /// # Errors
    /// [`ConfigError::NotConfig`] when no line sets an option.
    pub fn parse(path: &str, text: &str) -> Result<Self, ConfigError> {
        let options: BTreeMap<String, String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("CONFIG_")?.split_once('='))
            .filter(|(_, value)| *value != "n")
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        if options.is_empty() {
            return Err(ConfigError::NotConfig { path: path.to_owned() });
        }
        Ok(KernelConfig { options })
    }

    /// Returns every requirement that this configuration does not meet, with what was found.
    pub fn misses<'a>(&self, requirements: &'a [Requirement]) -> Vec<OptionMiss<'a>> {
        let miss = |requirement: &'a Requirement| {
            let found = self.options.get(&requirement.name).map(String::as_str);
            let met = match requirement.wanted {
                Wanted::Present => matches!(found, Some("y" | "m")),
                Wanted::BuiltIn => found == Some("y"),
                Wanted::Module => found == Some("m"),
                Wanted::Unset => found.is_none(),
            };
            (!met).then(|| OptionMiss { requirement, found: found.map(str::to_owned) })
        };
        requirements.iter().filter_map(miss).collect()
    }
}

/// What is required of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Built in or a module: `NAME`.
    Present,
    /// Built in: `NAME=y`.
    BuiltIn,
    /// A module: `NAME=m`.
    Module,
    /// Not set: `NAME=n`.
    Unset,
}

/// One required option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Name without `CONFIG_`.
    pub name: String,
    /// What is required.
    pub wanted: Wanted,
    /// Where it is required: a file with line, or the manifest.
    pub place: String,
}

impl Requirement {
    /// Parses `NAME`, `NAME=y`, `NAME=m` or `NAME=n`; `CONFIG_` before the name is allowed.
    ///
    /// # Errors
    /// [`ConfigError::Requirement`].
    pub fn parse(place: &str, text: &str) -> Result<Self, ConfigError> {
        let error = || ConfigError::Requirement { place: place.to_owned(), text: text.to_owned() };
        let (name, wanted) = match text.split_once('=') {
            None => (text, Wanted::Present),
            Some((name, "y")) => (name, Wanted::BuiltIn),
            Some((name, "m")) => (name, Wanted::Module),
            Some((name, "n")) => (name, Wanted::Unset),
            Some(_) => return Err(error()),
        };
        let name = name.strip_prefix("CONFIG_").unwrap_or(name);
        let valid = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !valid {
            return Err(error());
        }
        Ok(Requirement { name: name.to_owned(), wanted, place: place.to_owned() })
    }

    /// Parses a list: one requirement per line, `#` to the end of the line is a comment.
    ///
    /// # Errors
    /// [`ConfigError::Requirement`] with file and line.
    pub fn parse_list(path: &str, text: &str) -> Result<Vec<Self>, ConfigError> {
        let lines = text
            .lines()
            .enumerate()
            .map(|(index, line)| (format!("{path}:{}", index + 1), line.split('#').next().unwrap_or_default().trim()));
        lines.filter(|(_, line)| !line.is_empty()).map(|(place, line)| Requirement::parse(&place, line)).collect()
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.wanted {
            Wanted::Present => write!(f, "CONFIG_{}=y or m", self.name),
            Wanted::BuiltIn => write!(f, "CONFIG_{}=y", self.name),
            Wanted::Module => write!(f, "CONFIG_{}=m", self.name),
            Wanted::Unset => write!(f, "CONFIG_{} not set", self.name),
        }
    }
}

/// A requirement that a kernel does not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionMiss<'a> {
    /// What was required.
    pub requirement: &'a Requirement,
    /// The value found; `None` when the option is not set.
    pub found: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str =
        "#\n# Linux\n#\nCONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_D=\"x=y\"\nCONFIG_E=64\n";

    #[test]
    fn every_miss_is_listed_with_what_was_found() {
        let config = KernelConfig::parse("boot/config-1", CONFIG).unwrap();
        let text = "A # comment\n\nA=y\nA=m\nA=n\nB\nB=y\nCONFIG_B=m\nC\nC=n\nD\nNONE=n\n";
        let requirements = Requirement::parse_list("required.txt", text).unwrap();
        let misses: Vec<String> = config
            .misses(&requirements)
            .iter()
            .map(|miss| format!("{} {} {:?}", miss.requirement.place, miss.requirement, miss.found.as_deref()))
            .collect();
        assert_eq!(
            misses,
            [
                "required.txt:4 CONFIG_A=m Some(\"y\")",
                "required.txt:5 CONFIG_A not set Some(\"y\")",
                "required.txt:7 CONFIG_B=y Some(\"m\")",
                "required.txt:9 CONFIG_C=y or m None",
                "required.txt:11 CONFIG_D=y or m Some(\"\\\"x=y\\\"\")",
            ]
        );
    }

    #[test]
    fn malformed_requirements_name_their_place() {
        for text in ["=y", "A=x", "A B", "A=", "-A", "CONFIG_"] {
            let error = Requirement::parse_list("r.txt", &format!("\n{text}\n")).unwrap_err();
            assert!(error.to_string().starts_with("r.txt:2: "), "{error}");
        }
        assert!(KernelConfig::parse("boot/config-1", "<html>").is_err());
    }
}
