//! Versions of releases: Semantic Versioning 2.0.0, and its order of precedence.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A version. Build metadata (`+...`) is no part of its order, so two versions may be of the same rank and differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(semver::Version);

/// A text that is not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a version (MAJOR.MINOR.PATCH, Semantic Versioning 2.0.0): {reason}")]
pub struct VersionError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Version {
    /// Compares by precedence (Semantic Versioning 2.0.0, section 11).
    pub fn precedence(&self, other: &Version) -> std::cmp::Ordering {
        self.0.cmp_precedence(&other.0)
    }

    /// Whether it is of a higher rank than `other`.
    pub fn is_newer_than(&self, other: &Version) -> bool {
        self.precedence(other).is_gt()
    }

    /// Whether it is of a lower rank than `other`.
    pub fn is_older_than(&self, other: &Version) -> bool {
        self.precedence(other).is_lt()
    }

    /// Whether it is a pre-release.
    pub fn is_prerelease(&self) -> bool {
        !self.0.pre.is_empty()
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let error = |reason: String| VersionError { text: text.chars().take(80).collect(), reason };
        if text.len() > 64 {
            return Err(error("longer than 64 characters".to_owned()));
        }
        semver::Version::parse(text).map(Version).map_err(|source| error(source.to_string()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
