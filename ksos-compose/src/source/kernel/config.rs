//! Configuration fragments: laid over a base, and held against what came out.
//!
//! As the kernel's own `scripts/kconfig/merge_config.sh` does: a fragment's options replace those of the base and of
//! earlier fragments, `make olddefconfig` makes a whole configuration of that, and what was asked for is looked up in it.
//! Unlike there, an option that did not come out as asked for is an error, but for one case: `m` may become `y`, when
//! something else needs it built in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::KernelBuildError;
use crate::effects::fs;
use crate::kernel::KernelConfig;

/// The largest `Kconfig` file that is read for a hint, in bytes.
const KCONFIG_LIMIT: u64 = 4 << 20;

/// A fragment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fragment {
    /// Its path, as the manifest has it.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// One option of a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Name without `CONFIG_`.
    pub name: String,
    /// Value; `n` for "is not set".
    pub value: String,
    /// Fragment and line.
    pub place: String,
}

impl Setting {
    /// Returns the line of a configuration.
    fn line(&self) -> String {
        match self.value.as_str() {
            "n" => format!("# CONFIG_{} is not set", self.name),
            value => format!("CONFIG_{}={value}", self.name),
        }
    }
}

/// An option that did not come out as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// What was asked for.
    pub setting: Setting,
    /// What it became; none when it is not set.
    pub became: Option<String>,
    /// What this kernel knows about it.
    pub cause: Cause,
}

/// Why an option was lost, as far as the source tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// No `Kconfig` file of the source has it.
    Unknown,
    /// It is defined there: file and line, and what it depends on.
    Defined {
        /// `net/Kconfig:12`.
        place: String,
        /// The texts after `depends on`.
        depends: Vec<String>,
    },
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lost { setting: Setting { name, value, place }, became, cause } = self;
        let asked = if value == "n" { format!("CONFIG_{name} not set") } else { format!("CONFIG_{name}={value}") };
        let became = became.as_deref().unwrap_or("not set");
        write!(f, "{place}: {asked} became {became}")?;
        match cause {
            Cause::Unknown => write!(f, " (this kernel has no such option)"),
            Cause::Defined { place, depends } if depends.is_empty() => write!(f, " ({place})"),
            Cause::Defined { place, depends } => write!(f, " ({place}: depends on {})", depends.join("; ")),
        }
    }
}

/// Parses a fragment.
///
/// # Errors
/// [`KernelBuildError::Fragment`] with file and line.
pub fn parse(fragment: &Fragment) -> Result<Vec<Setting>, KernelBuildError> {
    let Fragment { name: file, text } = fragment;
    let mut settings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = format!("{file}:{}", index + 1);
        let line = line.trim();
        let unset = line.strip_prefix("# CONFIG_").and_then(|rest| rest.strip_suffix(" is not set"));
        if line.is_empty() || (line.starts_with('#') && unset.is_none()) {
            continue;
        }
        let setting = match unset {
            Some(name) => Some((name, "n")),
            None => line.strip_prefix("CONFIG_").and_then(|rest| rest.split_once('=')),
        };
        match setting.filter(|(name, value)| is_name(name) && is_value(value)) {
            Some((name, value)) => settings.push(Setting { name: name.to_owned(), value: value.to_owned(), place }),
            None => {
                let text = line.chars().take(120).collect();
                return Err(KernelBuildError::Fragment { place, text });
            }
        }
    }
    Ok(settings)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Tristates, numbers and quoted strings (Linux `Documentation/kbuild/kconfig-language.rst`).
fn is_value(value: &str) -> bool {
    let number = value.strip_prefix('-').unwrap_or(value);
    let hexadecimal = number.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let decimal = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let text = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
    matches!(value, "y" | "m" | "n") || decimal || (hexadecimal && number.len() > 2) || text
}

/// Lays fragments over a base. Returns the text for `make olddefconfig`, and what was asked for: the last word on each
/// option.
///
/// # Errors
/// [`KernelBuildError::Fragment`].
pub fn merge(base: &str, fragments: &[Fragment]) -> Result<(String, Vec<Setting>), KernelBuildError> {
    let mut asked: BTreeMap<String, Setting> = BTreeMap::new();
    for fragment in fragments {
        asked.extend(parse(fragment)?.into_iter().map(|setting| (setting.name.clone(), setting)));
    }
    let replaced = |line: &str| {
        let set = line.strip_prefix("CONFIG_").and_then(|rest| rest.split_once('=')).map(|(name, _)| name);
        let unset = line.strip_prefix("# CONFIG_").and_then(|rest| rest.strip_suffix(" is not set"));
        set.or(unset).is_some_and(|name| asked.contains_key(name))
    };
    let mut text = String::with_capacity(base.len());
    for line in base.lines().filter(|line| !replaced(line)).map(str::to_owned).chain(asked.values().map(Setting::line))
    {
        text.push_str(&line);
        text.push('\n');
    }
    Ok((text, asked.into_values().collect()))
}

/// Returns what of `asked` is not in `config`. `source` is where the kernel's `Kconfig` files are, for causes.
pub fn lost(asked: &[Setting], config: &KernelConfig, source: &Path) -> Vec<Lost> {
    let became = |setting: &Setting| config.options.get(&setting.name).cloned();
    let came_out = |setting: &&Setting| match (setting.value.as_str(), became(setting).as_deref()) {
        ("n", None) | ("m", Some("y")) => true,
        (value, Some(found)) => value == found,
        (_, None) => false,
    };
    let missing: Vec<&Setting> = asked.iter().filter(|setting| !came_out(setting)).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let mut causes: BTreeMap<&str, Cause> =
        missing.iter().map(|setting| (setting.name.as_str(), Cause::Unknown)).collect();
    definitions(source, "", &mut causes);
    let lost = |setting: &Setting| Lost {
        cause: causes.get(setting.name.as_str()).cloned().unwrap_or(Cause::Unknown),
        became: became(setting),
        setting: setting.clone(),
    };
    missing.into_iter().map(lost).collect()
}

/// Looks for the definitions of options in the `Kconfig` files below `directory`. What cannot be read is passed over:
/// this only explains.
fn definitions(root: &Path, directory: &str, causes: &mut BTreeMap<&str, Cause>) {
    for name in fs::list(&root.join(directory)).unwrap_or_default() {
        let Some(name) = name.to_str() else { continue };
        let path = if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") };
        let Ok(metadata) = fs::symlink_metadata(&root.join(&path)) else { continue };
        if metadata.is_dir() {
            definitions(root, &path, causes);
        } else if metadata.is_file() && name.starts_with("Kconfig") {
            let text = fs::read_to_string(&root.join(&path), KCONFIG_LIMIT).unwrap_or_default();
            read_kconfig(&path, &text, causes);
        }
    }
}

fn read_kconfig(path: &str, text: &str, causes: &mut BTreeMap<&str, Cause>) {
    let mut current: Option<&mut Cause> = None;
    for (index, line) in text.lines().enumerate() {
        let word = line.trim();
        if let Some(name) = word.strip_prefix("config ").or_else(|| word.strip_prefix("menuconfig ")) {
            current = causes.get_mut(name.trim()).filter(|cause| **cause == Cause::Unknown);
            if let Some(cause) = &mut current {
                **cause = Cause::Defined { place: format!("{path}:{}", index + 1), depends: Vec::new() };
            }
        } else if let (Some(Cause::Defined { depends, .. }), Some(on)) =
            (&mut current, word.strip_prefix("depends on "))
        {
            depends.push(on.trim().to_owned());
        } else if ["choice", "endchoice", "if ", "endif", "menu ", "source "].iter().any(|key| word.starts_with(key)) {
            current = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(name: &str, text: &str) -> Fragment {
        Fragment { name: name.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn the_last_word_on_an_option_counts() {
        let base = "# Linux\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\n";
        let one = fragment("one", "# a comment\nCONFIG_A=n\nCONFIG_B=m\n\nCONFIG_D=y\n");
        let two = fragment("two", "CONFIG_B=y\n# CONFIG_D is not set\nCONFIG_E=0x10\n");
        let (text, asked) = merge(base, &[one, two]).unwrap();
        assert_eq!(
            text,
            "# Linux\nCONFIG_C=\"x\"\n# CONFIG_A is not set\nCONFIG_B=y\n# CONFIG_D is not set\nCONFIG_E=0x10\n"
        );
        let places: Vec<&str> = asked.iter().map(|setting| setting.place.as_str()).collect();
        assert_eq!(places, ["one:2", "two:1", "two:2", "two:3"]);
    }

    #[test]
    fn what_is_no_option_names_its_place() {
        for line in
            ["CONFIG_A", "CONFIG_=y", "A=y", "CONFIG_A=yes", "CONFIG_A =y", "CONFIG_A=\"x", "CONFIG_A=0x", "=", "<"]
        {
            let error = parse(&fragment("k.config", &format!("CONFIG_OK=y\n{line}\n"))).unwrap_err().to_string();
            assert!(error.starts_with("k.config:2: "), "{error}");
        }
        assert_eq!(parse(&fragment("k", "CONFIG_A=\"\"\nCONFIG_B=-1\n  CONFIG_C=y  \n")).unwrap().len(), 3);
    }

    #[test]
    fn lost_options_say_what_became_of_them_and_why() {
        let directory = tempfile::tempdir().unwrap();
        let kconfig = "config A\n\tbool \"A\"\n\tdepends on B && C\n\tdepends on D\nconfig M\n\ttristate\n";
        fs::write_atomic(&directory.path().join("net/Kconfig"), kconfig.as_bytes()).unwrap();
        let text = "CONFIG_A=y\nCONFIG_M=m\nCONFIG_N=n\nCONFIG_S=\"x\"\nCONFIG_GONE=y\nCONFIG_OFF=n\nCONFIG_Y=y\n";
        let asked = parse(&fragment("f", text)).unwrap();
        let config = KernelConfig::parse("c", "CONFIG_M=y\nCONFIG_S=\"y\"\nCONFIG_OFF=y\nCONFIG_Y=m\n").unwrap();
        let lost: Vec<String> = lost(&asked, &config, directory.path()).iter().map(ToString::to_string).collect();
        assert_eq!(
            lost,
            [
                "f:1: CONFIG_A=y became not set (net/Kconfig:1: depends on B && C; D)",
                "f:4: CONFIG_S=\"x\" became \"y\" (this kernel has no such option)",
                "f:5: CONFIG_GONE=y became not set (this kernel has no such option)",
                "f:6: CONFIG_OFF not set became y (this kernel has no such option)",
                "f:7: CONFIG_Y=y became m (this kernel has no such option)",
            ]
        );
    }
}
