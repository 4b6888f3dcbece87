//! The binary index files that kmod's `modprobe` reads (kmod `libkmod/libkmod-index.h` describes the format).
//!
//! ```text
//! u32 magic 0xB007F457, u32 version 0x00020001, u32 reference to the root node; all numbers big-endian
//! node: [prefix, NUL] [u8 first, u8 last, u32 reference per byte first..=last] [u32 count, (u32 priority, value, NUL)...]
//! ```
//! A reference is the node's offset with flags in the upper bits that tell which of the three parts are there.

use std::collections::BTreeMap;

const MAGIC: u32 = 0xB007_F457;
const VERSION: u32 = 0x0002_0001;
const PREFIX: u32 = 0x8000_0000;
const VALUES: u32 = 0x4000_0000;
const CHILDREN: u32 = 0x2000_0000;

/// Keys with their values, each with a priority: lower ones are found first.
#[derive(Debug, Default)]
pub(super) struct KmodIndex {
    entries: BTreeMap<Vec<u8>, Vec<(u32, String)>>,
}

impl KmodIndex {
    /// Adds a value. Keys that the format cannot hold (not ASCII) are left out, as they are by `depmod`.
    pub(super) fn insert(&mut self, key: &str, value: &str, priority: u32) {
        if key.is_ascii() && !key.is_empty() {
            self.entries.entry(key.as_bytes().to_vec()).or_default().push((priority, value.to_owned()));
        }
    }

    /// Returns the file.
    pub(super) fn encode(mut self) -> Vec<u8> {
        let mut file = Vec::new();
        for word in [MAGIC, VERSION, 0] {
            file.extend(word.to_be_bytes());
        }
        for values in self.entries.values_mut() {
            values.sort();
            values.dedup();
        }
        let entries: Vec<_> = self.entries.iter().map(|(key, values)| (key.as_slice(), values.as_slice())).collect();
        let root = write_node(&mut file, &entries, 0);
        file[8..12].copy_from_slice(&root.to_be_bytes());
        file
    }
}

/// A key with its values.
type Item<'a> = (&'a [u8], &'a [(u32, String)]);

/// Writes the node for entries that share their first `depth` bytes, after the nodes below it; returns its reference.
fn write_node(file: &mut Vec<u8>, entries: &[Item<'_>], depth: usize) -> u32 {
    let shared = match (entries.first(), entries.last()) {
        // In a sorted list, what the first and the last share is shared by all.
        (Some((first, _)), Some((last, _))) => {
            first[depth..].iter().zip(&last[depth..]).take_while(|(left, right)| left == right).count()
        }
        _ => 0,
    };
    let end = depth + shared;
    let (own, rest): (&[_], &[_]) = match entries.first() {
        Some((key, _)) if key.len() == end => entries.split_at(1),
        _ => (&[], entries),
    };
    let children: BTreeMap<u8, u32> = rest
        .chunk_by(|left, right| left.0[end] == right.0[end])
        .map(|group| (group[0].0[end], write_node(file, group, end + 1)))
        .collect();
    let mut reference = u32::try_from(file.len()).expect("an index of modules is far below 256 MiB");
    if shared > 0 {
        reference |= PREFIX;
        file.extend(&entries[0].0[depth..end]);
        file.push(0);
    }
    if let (Some((&first, _)), Some((&last, _))) = (children.first_key_value(), children.last_key_value()) {
        reference |= CHILDREN;
        file.extend([first, last]);
        for byte in first..=last {
            file.extend(children.get(&byte).copied().unwrap_or(0).to_be_bytes());
        }
    }
    if let Some((_, values)) = own.first() {
        reference |= VALUES;
        file.extend((values.len() as u32).to_be_bytes());
        for (priority, value) in *values {
            file.extend(priority.to_be_bytes());
            file.extend(value.as_bytes());
            file.push(0);
        }
    }
    // A root without keys still needs a place that can be read.
    if entries.is_empty() {
        file.extend([0; 4]);
        reference |= VALUES;
    }
    reference
}
