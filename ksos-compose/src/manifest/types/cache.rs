//! A cache of finished steps that machines share. Nothing here decides what an image is.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::texts;
use super::values::{Duration, HostPath};

/// A cache of finished steps that machines share. It changes how long a build takes, never what it gives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct CacheSettings {
    /// Where it is: `oci://HOST/REPOSITORY` without a tag; `oci+http://` is not encrypted. `--remote-cache` says otherwise.
    #[schemars(with = "texts::RemoteCache")]
    pub remote: Option<String>,
    /// Whether builds write to it, too.
    pub mode: CacheMode,
    /// Public keys (PEM, Ed25519), one of which must have signed what is believed of a step; or one file with a key set
    /// (JSON). Without any, only bytes whose digest is known are taken.
    pub keys: Vec<HostPath>,
    /// How long what is written is believed. Not stated: for ever.
    #[schemars(with = "Duration")]
    pub valid_for: Option<Duration>,
}

/// What a build does with a remote cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum CacheMode {
    /// It reads.
    #[default]
    Read,
    /// It reads, and writes what it has made.
    ReadWrite,
}

/// A text that is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected read or read-write")]
pub struct CacheModeError;

impl FromStr for CacheMode {
    type Err = CacheModeError;

    fn from_str(text: &str) -> Result<Self, CacheModeError> {
        match text {
            "read" => Ok(CacheMode::Read),
            "read-write" => Ok(CacheMode::ReadWrite),
            _ => Err(CacheModeError),
        }
    }
}

impl fmt::Display for CacheMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CacheMode::Read => "read",
            CacheMode::ReadWrite => "read-write",
        })
    }
}
