//! What is known of contents by their digests: one table for each kind of fact, a line for each content.
//!
//! ```text
//! stat/NAME.table     "ksos table NAME\n", then lines of a SHA-256, a blank and the fact, in the order of the digests
//! ```
//!
//! A fact depends on the content alone (and on the code, whose version is part of the name), so a table that is lost,
//! damaged or written by two at once costs only finding it out again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ksos_formats::Digest;

use super::Cache;
use crate::effects::fs;

/// The largest table that is read, in bytes.
const LIMIT: u64 = 64 << 20;

/// Facts that are kept; when there are more, those that this use did not ask for go.
const MOST: usize = 100_000;

/// An open table.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    header: String,
    known: BTreeMap<Digest, String>,
    used: BTreeMap<Digest, String>,
    dirty: bool,
}

impl Table {
    /// Opens the table `name` of `cache`. A missing or damaged one is empty.
    pub fn open(cache: &Cache, name: &str) -> Self {
        let path = cache.bucket("stat").join(format!("{name}.table"));
        let header = format!("ksos table {name}\n");
        let text = fs::read_to_string(&path, LIMIT).unwrap_or_default();
        let known = text.strip_prefix(&header).and_then(parse).unwrap_or_default();
        Table { path, header, known, used: BTreeMap::new(), dirty: false }
    }

    /// Returns the fact about the content with `digest`.
    pub fn get(&mut self, digest: &Digest) -> Option<&str> {
        if !self.used.contains_key(digest) {
            let fact = self.known.get(digest)?.clone();
            self.used.insert(*digest, fact);
        }
        self.used.get(digest).map(String::as_str)
    }

    /// Adds a fact, which has no line break.
    pub fn put(&mut self, digest: Digest, fact: String) {
        debug_assert!(!fact.contains('\n'), "a fact is one line");
        self.used.insert(digest, fact);
        self.dirty = true;
    }

    /// Writes the table when something was added. Losing it costs time only, so that it cannot be written is no error.
    pub fn save(self) {
        let Table { path, header, mut known, used, dirty } = self;
        if !dirty {
            return;
        }
        if known.len() + used.len() > MOST {
            known.clear();
        }
        known.extend(used);
        let mut text = header;
        for (digest, fact) in &known {
            text.push_str(&format!("{digest} {fact}\n"));
        }
        let _ = fs::write_atomic(&path, text.as_bytes());
    }
}

fn parse(text: &str) -> Option<BTreeMap<Digest, String>> {
    let line = |line: &str| {
        let (digest, fact) = line.split_once(' ')?;
        Some((digest.parse().ok()?, fact.to_owned()))
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_stay_and_a_damaged_table_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let mut table = Table::open(&cache, "colour-1");
        assert_eq!(table.get(&a), None);
        table.put(a, "red and blue".to_owned());
        table.save();
        let mut table = Table::open(&cache, "colour-1");
        assert_eq!(table.get(&a), Some("red and blue"));
        table.put(b, "green".to_owned());
        table.save();
        let mut table = Table::open(&cache, "colour-1");
        assert_eq!((table.get(&a).map(str::to_owned), table.get(&b)), (Some("red and blue".to_owned()), Some("green")));
        assert_eq!(Table::open(&cache, "colour-2").get(&a), None);
        let path = cache.bucket("stat").join("colour-1.table");
        for damaged in ["", "ksos table colour-1\nno digest", "ksos table colour-2\n"] {
            fs::write_atomic(&path, damaged.as_bytes()).unwrap();
            assert_eq!(Table::open(&cache, "colour-1").get(&a), None, "{damaged:?}");
        }
    }
}
