use std::collections::BTreeSet;

use ksos_formats::Digest;
use ksos_formats::update::fetch::{FetchPlan, GAP, MAX_RANGE};
use ksos_formats::update::index::{ChunkIndex, Entry, Stored};
use ksos_formats::update::{Channel, Choice, Envelope, KeySet, Release};
use proptest::prelude::*;

use super::{fixture, generate};

/// A piece of an image: zeros, or the chunk of a number.
#[derive(Debug, Clone)]
enum Piece {
    Zeros(u64),
    Chunk(u16, u32, u32),
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = prop_oneof![
        1 => (1..1_000_000_u64).prop_map(Piece::Zeros),
        4 => (0..200_u16, 1..=131_072_u32, 0..=100_u32).prop_map(|(name, length, percent)| {
            Piece::Chunk(name, length, (u64::from(length) * u64::from(percent) / 100).max(1) as u32)
        }),
    ];
    prop::collection::vec(piece, 0..120)
}

fn index(pieces: &[Piece]) -> ChunkIndex {
    let mut index = ChunkIndex::new();
    let mut known: Vec<(u16, u32, u32, u64)> = Vec::new();
    for piece in pieces {
        match *piece {
            Piece::Zeros(length) => index.push_zeros(length),
            Piece::Chunk(name, length, stored) => {
                let digest = Digest::of(&name.to_le_bytes());
                match known.iter().find(|(other, ..)| *other == name) {
                    Some((_, length, stored, offset)) => {
                        index.push_chunk(digest, *length, Stored::As { stored: *stored, offset: *offset });
                    }
                    None => {
                        known.push((name, length, stored, index.chunks_size()));
                        index.push_chunk(digest, length, Stored::New(stored));
                    }
                }
            }
        }
    }
    index
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_index_is_read_as_it_was_written(pieces in pieces()) {
        let index = index(&pieces);
        let bytes = index.to_bytes();
        let read = ChunkIndex::parse(&bytes).unwrap();
        prop_assert_eq!(read.to_bytes(), bytes);
        prop_assert_eq!(read, index);
    }

    #[test]
    fn a_changed_byte_of_an_index_never_passes_for_another_writing(pieces in pieces(), at: prop::sample::Index, byte: u8) {
        let mut bytes = index(&pieces).to_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = ChunkIndex::parse(&bytes) {
            prop_assert_eq!(read.to_bytes(), bytes);
        }
    }

    #[test]
    fn the_fetch_covers_what_is_missing_and_little_else(pieces in pieces(), have in prop::collection::btree_set(0..200_u16, 0..200)) {
        let index = index(&pieces);
        let have: BTreeSet<Digest> = have.iter().map(|name| Digest::of(&name.to_le_bytes())).collect();
        let has = |entry: &Entry| have.contains(&entry.sha256);
        let plan = FetchPlan::new(&index, &has);
        for pair in plan.ranges.windows(2) {
            prop_assert!(pair[0].end <= pair[1].start);
        }
        for range in &plan.ranges {
            prop_assert!(range.start < range.end && range.end - range.start <= MAX_RANGE);
            prop_assert!(range.end <= index.chunks_size());
        }
        prop_assert_eq!(plan.bytes, plan.ranges.iter().map(|range| range.end - range.start).sum::<u64>());
        let missing: BTreeSet<(u64, u64)> = index
            .entries()
            .iter()
            .filter(|entry| !entry.is_zeros() && !has(entry))
            .map(|entry| (entry.offset, entry.offset + u64::from(entry.stored)))
            .collect();
        for (start, end) in &missing {
            prop_assert!(plan.ranges.iter().any(|range| range.start <= *start && *end <= range.end));
        }
        // Every range begins and ends with something missing, and what it takes along is in gaps that are small.
        for range in &plan.ranges {
            prop_assert!(missing.iter().any(|(start, _)| *start == range.start));
            prop_assert!(missing.iter().any(|(_, end)| *end == range.end));
            let mut position = range.start;
            for (start, end) in missing.iter().filter(|(start, _)| (range.start..range.end).contains(start)) {
                prop_assert!(*start - position <= GAP);
                position = *end;
            }
        }
        if missing.is_empty() {
            prop_assert_eq!(&plan, &FetchPlan::default());
        }
        // Never more than the whole, and by what requests cost, no more than each chunk alone.
        prop_assert!(plan.bytes <= index.chunks_size());
        let cost = |bytes: u64, requests: usize| bytes + GAP * requests as u64;
        let found = cost(plan.bytes, plan.ranges.len());
        prop_assert!(found <= cost(missing.iter().map(|(start, end)| end - start).sum(), missing.len()));
    }

    /// For few chunks: no way to put them into ranges costs less.
    #[test]
    fn no_other_ranges_cost_less(sizes in prop::collection::vec((1..60_000_u32, any::<bool>()), 1..9)) {
        let mut index = ChunkIndex::new();
        for (number, (size, _)) in sizes.iter().enumerate() {
            index.push_chunk(Digest([number as u8 + 1; 32]), (*size).max(1), Stored::New(*size));
        }
        let wanted: Vec<bool> = sizes.iter().map(|(_, wanted)| *wanted).collect();
        let plan = FetchPlan::new(&index, &|entry: &Entry| !wanted[usize::from(entry.sha256.0[0]) - 1]);
        // Every set of chunks that has the wanted ones; neighbours are one range.
        let least = (0..1_u32 << sizes.len())
            .map(|bits| (0..sizes.len()).map(|number| bits >> number & 1 == 1).collect::<Vec<bool>>())
            .filter(|taken| wanted.iter().zip(taken).all(|(wanted, taken)| taken >= wanted))
            .map(|taken| {
                let bytes: u64 = sizes.iter().zip(&taken).filter(|(_, taken)| **taken).map(|((size, _), _)| u64::from(*size)).sum();
                let begins = (0..taken.len()).filter(|at| taken[*at] && (*at == 0 || !taken[at - 1])).count();
                bytes + GAP * begins as u64
            })
            .min();
        prop_assert_eq!(Some(plan.bytes + GAP * plan.ranges.len() as u64), least);
    }

    #[test]
    fn nothing_that_comes_in_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let set = generate::first_set();
        let _ = ChunkIndex::parse(&bytes);
        let _ = KeySet::from_trusted(&bytes);
        let _ = set.rotate(&bytes);
        let envelope = Envelope { payload_type: String::new(), payload: bytes.clone(), signatures: Vec::new() };
        let _ = Envelope::parse(&envelope.to_json()).unwrap();
        prop_assert!(Envelope::parse(&bytes).and_then(|envelope| envelope.verify::<Release>(&set)).is_err());
    }

    /// Flips, cuts and copies within a good document: it is refused, or says the same.
    #[test]
    fn a_damaged_document_says_nothing_else(at: prop::sample::Index, byte: u8, cut in 0..3_usize) {
        let set = generate::first_set();
        let mut bytes = fixture("release.json");
        let at = at.index(bytes.len());
        match cut {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            _ => drop(bytes.remove(at)),
        }
        if let Ok(verified) = Envelope::parse(&bytes).and_then(|envelope| envelope.verify::<Release>(&set)) {
            prop_assert_eq!(verified.into_value(), generate::release());
        }
    }

    /// The rule of rotation, over all who may have signed and all thresholds.
    #[test]
    fn a_set_follows_when_both_thresholds_are_met(
        old in prop::collection::btree_set(1..6_u8, 1..5),
        new in prop::collection::btree_set(1..6_u8, 1..5),
        by in prop::collection::btree_set(1..7_u8, 0..6),
        thresholds in (1..4_u32, 1..4_u32),
        version in 0..4_u64,
    ) {
        let keys = |set: &BTreeSet<u8>| set.iter().map(|byte| generate::public(*byte)).collect::<Vec<_>>();
        let threshold = |set: &BTreeSet<u8>, threshold: u32| threshold.min(set.len() as u32);
        let current = KeySet::new(keys(&old), threshold(&old, thresholds.0)).unwrap();
        let next = KeySet { version, ..KeySet::new(keys(&new), threshold(&new, thresholds.1)).unwrap() };
        let envelope = generate::sign(Envelope::new(&next), &by.iter().copied().collect::<Vec<_>>());
        let met = |set: &BTreeSet<u8>, threshold: u32| set.intersection(&by).count() >= threshold as usize;
        let expected = version == 2 && met(&old, current.threshold) && met(&new, next.threshold);
        let rotated = current.rotate(&envelope.to_json());
        prop_assert_eq!(rotated.is_ok(), expected, "{:?}", rotated);
        if let Ok(rotated) = rotated {
            prop_assert_eq!(rotated, next);
        }
    }

    /// Whatever a channel holds: a node that follows it only goes up, ends, and ends at the newest that can be reached.
    #[test]
    fn following_a_channel_ends_at_the_top(
        releases in prop::collection::btree_map(1..30_u64, prop::option::of(0..30_u64), 0..12),
        start in 0..30_u64,
    ) {
        let version = |number: u64| format!("1.{number}.0").parse().unwrap();
        let mut channel = generate::channel();
        channel.releases = releases
            .iter()
            .map(|(number, minimum)| ksos_formats::update::ChannelRelease {
                version: version(*number),
                minimum_version: minimum.map(version),
                release: Digest::of(&number.to_le_bytes()),
            })
            .collect();
        let mut current = version(start);
        for _ in 0..=releases.len() {
            match channel.choose(&current, None, &|_| false) {
                Choice::Take { next, .. } => {
                    prop_assert!(next.version.is_newer_than(&current) && next.is_reachable_from(&current));
                    current = next.version.clone();
                }
                Choice::UpToDate => {
                    prop_assert!(!newer(&channel, &current).any(|_| true));
                    return Ok(());
                }
                Choice::Unreachable { wanted } => {
                    prop_assert!(!newer(&channel, &current).any(|release| release.is_reachable_from(&current)
                        && release.version.is_older_than(&wanted.version)));
                    prop_assert!(!wanted.is_reachable_from(&current));
                    return Ok(());
                }
            }
        }
        prop_assert!(false, "it goes round");
    }
}

fn newer<'a>(
    channel: &'a Channel,
    current: &'a ksos_formats::update::Version,
) -> impl Iterator<Item = &'a ksos_formats::update::ChannelRelease> {
    channel.releases.iter().filter(|release| release.version.is_newer_than(current))
}
