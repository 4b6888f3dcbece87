//! Value types of the manifest: what is written as a string (or a number) and means something more exact.
//!
//! Each type parses with [`FromStr`]; its error says what was expected. The JSON Schema of each carries a `format`
//! that starts with `ksos-`: the validator calls the same parser for it, so that schema and parser cannot disagree.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use ksos_formats::Arch;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A text that is not a value of the type it should be. The message says what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct ValueError(pub &'static str);

/// Implements the text form of a value type: `Display` is given by the type, parsing by `FromStr`.
macro_rules! text_form {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

/// Implements [`JsonSchema`], inlined, from a `json_schema!` body.
macro_rules! inline_schema {
    ($type:ty, $name:literal, $($body:tt)+) => {
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($($body)+)
            }
        }
    };
}

/// A number of bytes: an integer, or a string such as `"64MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

inline_schema!(Size, "Size", {
    "type": ["string", "integer"],
    "format": "ksos-size",
    "pattern": "^[0-9]+(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?$",
    "minimum": 0
});

/// Units of [`Size`], longest suffix first.
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl Size {
    /// Returns the number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (digits, unit) =
            UNITS.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit))).unwrap_or((text, 1));
        let error =
            ValueError("a number of bytes, or a number with B, KB, MB, GB, TB, KiB, MiB, GiB or TiB: \"64MiB\"");
        let number = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten();
        let too_large = ValueError("a size below 8 EiB");
        let bytes = number.ok_or(error)?.checked_mul(unit).ok_or_else(|| too_large.clone())?;
        // The manifest's integers are signed 64-bit numbers (TOML 1.0, "Integer"); the text form has the same range.
        i64::try_from(bytes).map_err(|_| too_large)?;
        Ok(Size(bytes))
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let binary = UNITS[..4].iter().rev().find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit));
        match binary {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a size")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Size, E> {
                Ok(Size(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Size, E> {
                u64::try_from(value).map(Size).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Size, E> {
                value.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A length of time with its unit, such as `"500ms"`, `"3s"` or `"2m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration {
    /// The length in milliseconds.
    pub milliseconds: u64,
}

inline_schema!(Duration, "Duration", {
    "type": "string",
    "format": "ksos-duration",
    "pattern": "^[0-9]+(ms|s|m|h|d)$"
});

impl Duration {
    /// Returns a duration of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Duration { milliseconds: seconds * 1000 }
    }
}

impl FromStr for Duration {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = ValueError("a number with ms, s, m, h or d: \"3s\", at most a year");
        let split = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let unit: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 24 * 3_600_000,
            _ => return Err(error),
        };
        let milliseconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        const YEAR: u64 = 366 * 24 * 3_600_000;
        milliseconds.filter(|value| *value <= YEAR).map(|milliseconds| Duration { milliseconds }).ok_or(error)
    }
}

impl std::fmt::Display for Duration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.milliseconds {
            value if value % 1000 == 0 => write!(f, "{}s", value / 1000),
            value => write!(f, "{value}ms"),
        }
    }
}

text_form!(Duration);

/// Permission bits, an octal string such as `"0755"`: set-id and sticky bits included, at most `7777`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mode(pub u32);

inline_schema!(Mode, "Mode", { "type": "string", "format": "ksos-mode", "pattern": "^0?[0-7]{3,4}$" });

impl FromStr for Mode {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = ValueError("permission bits as an octal string of three or four digits: \"0755\"");
        let digits = if text.len() == 5 { text.strip_prefix('0').unwrap_or(text) } else { text };
        let octal = (3..=4).contains(&digits.len()) && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten().map(Mode).ok_or(error)
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

text_form!(Mode);

/// A glob over paths in a tree, relative to its root: `*` and `?` stay in one path component, `**` crosses them,
/// `[abc]` and `{a,b}` are alternatives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Glob(String);

inline_schema!(Glob, "Glob", { "type": "string", "format": "ksos-glob", "minLength": 1 });

impl Glob {
    /// Returns the text as it stands in the manifest.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Compiles the glob with the options that every glob of a manifest has.
    pub fn compile(text: &str) -> Result<globset::Glob, globset::Error> {
        globset::GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build()
    }

    /// Returns the compiled glob, to be put in a [`globset::GlobSet`].
    pub fn to_glob(&self) -> globset::Glob {
        Glob::compile(&self.0).expect("the text was compiled when it was parsed")
    }

    /// Compiles several globs into one set.
    ///
    /// # Errors
    /// When the set as a whole is larger than the matcher's limit.
    pub fn set(globs: &[Glob]) -> Result<globset::GlobSet, globset::Error> {
        let mut builder = globset::GlobSetBuilder::new();
        for glob in globs {
            builder.add(glob.to_glob());
        }
        builder.build()
    }
}

impl FromStr for Glob {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let absolute = text.starts_with('/') || text.starts_with("./");
        if text.is_empty() || absolute || text.split('/').any(|part| part == "..") {
            return Err(ValueError("a glob relative to the tree's root, without a leading slash: \"usr/lib/**\""));
        }
        Glob::compile(text).map_err(|_| ValueError("a glob with closed brackets and braces: \"usr/{bin,lib}/**\""))?;
        Ok(Glob(text.to_owned()))
    }
}

impl std::fmt::Display for Glob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(Glob);

/// A path inside the image. Written with or without a leading slash; it names the same place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImagePath(String);

inline_schema!(ImagePath, "ImagePath", { "type": "string", "format": "ksos-image-path", "minLength": 1 });

impl ImagePath {
    /// Returns the path as trees write it: without a leading slash; the root is `""`.
    pub fn relative(&self) -> &str {
        &self.0
    }

    /// Returns the path with a leading slash.
    pub fn absolute(&self) -> String {
        format!("/{}", self.0)
    }
}

impl FromStr for ImagePath {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let relative = text.strip_prefix('/').unwrap_or(text);
        let relative = relative.strip_suffix('/').unwrap_or(relative);
        let control = relative.chars().any(char::is_control);
        if text.is_empty() || control || crate::tree::check_path(relative).is_err() {
            return Err(ValueError("a path inside the image without `.`, `..` or empty components: \"/usr/bin/tool\""));
        }
        Ok(ImagePath(relative.to_owned()))
    }
}

impl std::fmt::Display for ImagePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/{}", self.0)
    }
}

text_form!(ImagePath);

/// A path on the build host, relative to the manifest file that states it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct HostPath {
    /// The text in the manifest.
    pub text: String,
    /// `text` below the directory of the file that states it.
    pub resolved: PathBuf,
}

inline_schema!(HostPath, "HostPath", { "type": "string", "format": "ksos-host-path", "minLength": 1 });

impl HostPath {
    /// Returns the path to open.
    pub fn path(&self) -> &Path {
        &self.resolved
    }
}

impl std::fmt::Display for HostPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Only the text is written: what is serialized must not depend on the directory that the project is in.
impl Serialize for HostPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// A kernel module by name, or a glob over names (`nft_*`). A `?` at the end: no error when there is no such module.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModulePattern {
    /// Name or glob, without the `?`.
    pub pattern: String,
    /// Whether the module may be absent.
    pub optional: bool,
}

inline_schema!(ModulePattern, "ModulePattern", {
    "type": "string", "format": "ksos-module", "pattern": "^[A-Za-z0-9_*-]+\\??$"
});

impl FromStr for ModulePattern {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let pattern = text.strip_suffix('?').unwrap_or(text);
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_*-".contains(&byte);
        if pattern.is_empty() || !pattern.bytes().all(valid) {
            return Err(ValueError("a kernel module name, with `*` as wildcard and `?` at the end when optional"));
        }
        Ok(ModulePattern { pattern: pattern.to_owned(), optional: pattern.len() < text.len() })
    }
}

impl std::fmt::Display for ModulePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.pattern, if self.optional { "?" } else { "" })
    }
}

text_form!(ModulePattern);

/// What a required kernel option must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OptionRequirement {
    /// `NAME`: `y` or `m`.
    Present,
    /// `NAME=y`.
    BuiltIn,
    /// `NAME=m`.
    Module,
    /// `NAME=n`: not set.
    Unset,
}

/// One required kernel option, without the `CONFIG_` prefix: `NAME`, `NAME=y`, `NAME=m` or `NAME=n`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequiredOption {
    /// Option name without `CONFIG_`.
    pub name: String,
    /// What it must be.
    pub requirement: OptionRequirement,
}

inline_schema!(RequiredOption, "RequiredOption", {
    "type": "string", "format": "ksos-kernel-option", "pattern": "^[A-Z0-9][A-Za-z0-9_]*(=[ymn])?$"
});

impl FromStr for RequiredOption {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = ValueError("a kernel option without CONFIG_: NAME, NAME=y, NAME=m or NAME=n");
        let (name, requirement) = match text.split_once('=') {
            None => (text, OptionRequirement::Present),
            Some((name, "y")) => (name, OptionRequirement::BuiltIn),
            Some((name, "m")) => (name, OptionRequirement::Module),
            Some((name, "n")) => (name, OptionRequirement::Unset),
            Some(_) => return Err(error),
        };
        let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        let valid = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !first || !valid || name.starts_with("CONFIG_") {
            return Err(error);
        }
        Ok(RequiredOption { name: name.to_owned(), requirement })
    }
}

impl std::fmt::Display for RequiredOption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let suffix = match self.requirement {
            OptionRequirement::Present => "",
            OptionRequirement::BuiltIn => "=y",
            OptionRequirement::Module => "=m",
            OptionRequirement::Unset => "=n",
        };
        write!(f, "{}{suffix}", self.name)
    }
}

text_form!(RequiredOption);

/// A value for each architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline, rename = "PerArch_{T}")]
pub struct PerArch<T> {
    /// For 64-bit x86.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x86_64: Option<T>,
    /// For 64-bit Arm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm64: Option<T>,
}

impl<T> Default for PerArch<T> {
    fn default() -> Self {
        PerArch { x86_64: None, arm64: None }
    }
}

impl<T> PerArch<T> {
    /// Returns the value for `arch`.
    pub fn get(&self, arch: Arch) -> Option<&T> {
        match arch {
            Arch::X86_64 => self.x86_64.as_ref(),
            Arch::Arm64 => self.arm64.as_ref(),
        }
    }
}
