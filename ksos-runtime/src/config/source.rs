//! What configuration is found, and in which order it is looked for.
//!
//! The first of these that is there is used; what is there but cannot be read or understood is refused, and nothing
//! after it is looked at, because a configuration that half of the fleet takes from elsewhere is worse than an old one:
//!
//! 1. `/etc/kubesolo/cloud-init.yaml` on the data partition (`data`);
//! 2. a NoCloud volume (`nocloud`);
//! 3. EC2 instance metadata (`ec2`), only on EC2 or when the kernel command line says so;
//! 4. none of them: the image's default (`default`).
//!
//! `ksos.datasource=` on the kernel command line restricts this to one of `data`, `nocloud`, `ec2`, or to `none`;
//! `auto` is what holds without it.

use ksos_formats::config::{Diagnostic, document_text};
use serde::{Deserialize, Serialize};

use crate::cmdline::Cmdline;

use super::{Context, data, ec2, nocloud};

/// Kernel parameter that restricts where configuration is looked for.
pub const PARAM_DATASOURCE: &str = "ksos.datasource";

/// Where a configuration comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The data partition.
    Data,
    /// A NoCloud volume.
    Nocloud,
    /// EC2 instance metadata.
    Ec2,
    /// The image.
    Default,
}

impl Source {
    /// Returns the name as status and kernel parameter have it.
    pub fn name(self) -> &'static str {
        match self {
            Source::Data => "data",
            Source::Nocloud => "nocloud",
            Source::Ec2 => "ec2",
            Source::Default => "default",
        }
    }
}

/// A configuration as it was found. Stored as it is once it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Where it comes from.
    pub source: Source,
    /// A path, a device or an address.
    pub place: String,
    /// The document.
    pub user_data: String,
    /// NoCloud's `meta-data`, or the same made of what EC2 says.
    #[serde(default)]
    pub meta_data: Option<String>,
    /// NoCloud's `network-config`.
    #[serde(default)]
    pub network_config: Option<String>,
    /// Public keys that the source names beside the document.
    #[serde(default)]
    pub public_keys: Vec<String>,
}

impl Found {
    /// Returns an empty configuration, which leaves the image's default as it is.
    pub fn empty(source: Source, place: &str) -> Self {
        let place = place.to_owned();
        Found {
            source,
            place,
            user_data: String::new(),
            meta_data: None,
            network_config: None,
            public_keys: Vec::new(),
        }
    }
}

/// What looking for a configuration came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gathered {
    /// This one is used.
    Found(Found),
    /// There is one, but it is refused. Not empty.
    Refused(Vec<String>),
    /// There is none; what the kernel command line asked for and is not there has a reason.
    Absent(Option<String>),
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Selection {
    /// All, in order.
    #[default]
    Auto,
    /// Nothing: the image's default is in force.
    Nothing,
    /// One source.
    Only(Source),
}

impl Selection {
    /// Reads the kernel command line. An unknown value is an error; `auto` then holds.
    pub fn of(cmdline: &Cmdline) -> Result<Self, String> {
        match cmdline.value(PARAM_DATASOURCE) {
            None | Some("auto") => Ok(Selection::Auto),
            Some("none") => Ok(Selection::Nothing),
            Some("data") => Ok(Selection::Only(Source::Data)),
            Some("nocloud") => Ok(Selection::Only(Source::Nocloud)),
            Some("ec2") => Ok(Selection::Only(Source::Ec2)),
            Some(other) => Err(format!(
                "kernel parameter {PARAM_DATASOURCE}: {other:?} is none of auto, none, data, nocloud, ec2; auto is taken"
            )),
        }
    }
}

impl Selection {
    /// Returns whether something applied from `source` may stay in force.
    pub fn allows(self, source: Source) -> bool {
        match self {
            Selection::Auto => true,
            Selection::Nothing => false,
            Selection::Only(only) => source == only,
        }
    }
}

/// Looks in one place. The flag says whether the kernel command line asks for this one alone.
type Provider = fn(&Context<'_>, bool, &mut Vec<String>) -> Gathered;

/// Looks for a configuration. `warnings` takes what is odd about what was found.
pub fn gather(context: &Context<'_>, selection: Selection, warnings: &mut Vec<String>) -> Gathered {
    let providers: &[Provider] = match selection {
        Selection::Auto => &[data::look, nocloud::look, ec2::look],
        Selection::Nothing => &[],
        Selection::Only(Source::Data) => &[data::look],
        Selection::Only(Source::Nocloud) => &[nocloud::look],
        Selection::Only(Source::Ec2) => &[ec2::look],
        Selection::Only(Source::Default) => &[],
    };
    let insist = matches!(selection, Selection::Only(_));
    let mut reason = None;
    for provider in providers {
        match provider(context, insist, warnings) {
            Gathered::Absent(why) => reason = reason.or(why),
            other => return other,
        }
    }
    Gathered::Absent(reason)
}

/// Makes text of what was read.
///
/// # Errors
/// What the bytes are instead, each line beginning with `name`.
pub fn text_of(name: &str, bytes: &[u8]) -> Result<String, Vec<String>> {
    document_text(bytes).map(str::to_owned).map_err(|diagnostics| named(name, &diagnostics))
}

/// Returns diagnostics as lines that begin with `name:LINE:COLUMN:`.
pub fn named(name: &str, diagnostics: &[Diagnostic]) -> Vec<String> {
    let line = |diagnostic: &Diagnostic| {
        let Diagnostic { line, column, message, hint, .. } = diagnostic;
        let hint = hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{name}:{line}:{column}: {message}{hint}")
    };
    diagnostics.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_selects() {
        for (line, expected) in [
            ("", Selection::Auto),
            ("ksos.datasource=auto", Selection::Auto),
            ("ksos.datasource=none", Selection::Nothing),
            ("ksos.datasource=ec2 ksos.datasource=data", Selection::Only(Source::Data)),
            ("ksos.datasource=nocloud", Selection::Only(Source::Nocloud)),
            ("ksos.datasource=ec2", Selection::Only(Source::Ec2)),
        ] {
            assert_eq!(Selection::of(&Cmdline::parse(line)), Ok(expected), "{line}");
        }
        let error = Selection::of(&Cmdline::parse("ksos.datasource=Azure")).expect_err("unknown");
        assert!(error.contains("\"Azure\" is none of"), "{error}");
    }
}
