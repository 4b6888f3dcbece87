//! `cache ls|gc|verify`.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::OpError;
use crate::cache::Cache;
use crate::cache::gc::{self, GcReport, Outcome, Policy, VerifyReport};
use crate::manifest::Size;

/// What one bucket holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// Its name.
    pub name: &'static str,
    /// Number of entries.
    pub entries: usize,
    /// Bytes.
    pub bytes: u64,
}

/// Lists the cache below `root` by bucket.
///
/// # Errors
/// When the cache cannot be read.
pub fn ls(root: &Path) -> Result<Vec<Bucket>, OpError> {
    let mut buckets: BTreeMap<&'static str, Bucket> = BTreeMap::new();
    for entry in gc::ls(&Cache::open(root)?)? {
        let bucket = buckets.entry(entry.bucket).or_insert(Bucket { name: entry.bucket, entries: 0, bytes: 0 });
        bucket.entries += 1;
        bucket.bytes += entry.size;
    }
    Ok(buckets.into_values().collect())
}

/// Removes what was not used for `max_age` days, then the longest unused until no more than `max_size` is left.
///
/// # Errors
/// When the size is none, another process uses the cache, or it cannot be read.
pub fn gc(root: &Path, max_age: u64, max_size: Option<&str>) -> Result<GcReport, OpError> {
    let max_size = max_size.map(|text| {
        text.parse::<Size>()
            .map(Size::bytes)
            .map_err(|error| OpError::Size { text: text.to_owned(), expected: error.to_string() })
    });
    let policy =
        Policy { max_age: Some(Duration::from_secs(max_age.saturating_mul(86_400))), max_size: max_size.transpose()? };
    match gc::gc(root, policy)? {
        Outcome::InUse => Err(OpError::CacheInUse { path: root.to_owned() }),
        Outcome::Collected(report) => Ok(report),
    }
}

/// Hashes every blob again and removes the damaged ones.
///
/// # Errors
/// When the cache cannot be read.
pub fn verify(root: &Path, jobs: usize) -> Result<VerifyReport, OpError> {
    Ok(gc::verify(&Cache::open(root)?, NonZero::new(jobs).unwrap_or(NonZero::<usize>::MIN))?)
}
