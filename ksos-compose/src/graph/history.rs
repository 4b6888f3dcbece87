//! The descriptions of the steps of the last build of a manifest, for [`Reason`](super::Reason). Losing a history
//! costs an explanation, never a build.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ksos_formats::Digest;
use serde::{Deserialize, Serialize};

use super::{Description, RECORD_LIMIT};
use crate::cache::Cache;
use crate::effects::fs;

/// The steps of the last build, by name.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Description of each step that ran or was fresh.
    pub steps: BTreeMap<String, Description>,
}

fn path(cache: &Cache, scope: &str) -> PathBuf {
    cache.bucket("stat").join(format!("history-{}.json", Digest::of(scope.as_bytes())))
}

impl History {
    /// Reads the history of `scope` (manifest path and architecture). Missing or damaged counts as empty.
    pub fn load(cache: &Cache, scope: &str) -> Self {
        let bytes = fs::read(&path(cache, scope), RECORD_LIMIT).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Writes the history of `scope`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, cache: &Cache, scope: &str) -> Result<(), fs::FsError> {
        let text = serde_json::to_vec(self).expect("a history of strings and numbers can be serialised");
        fs::write_atomic(&path(cache, scope), &text)
    }
}
