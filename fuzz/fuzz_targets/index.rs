//! The chunk index, and what is fetched by it.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_formats::update::fetch::{FetchPlan, MAX_RANGE};
use ksos_formats::update::index::{ChunkIndex, Entry};

fuzz_target!(|bytes: &[u8]| {
    let Ok(index) = ChunkIndex::parse(bytes) else { return };
    assert_eq!(index.to_bytes(), bytes);
    let have = |entry: &Entry| entry.sha256.0[0] & 1 == 1;
    let plan = FetchPlan::new(&index, &have);
    let mut end = 0;
    for range in &plan.ranges {
        assert!(range.start >= end && range.end > range.start && range.end - range.start <= MAX_RANGE);
        end = range.end;
    }
    assert!(end <= index.chunks_size());
    assert_eq!(plan.bytes, plan.ranges.iter().map(|range| range.end - range.start).sum::<u64>());
    for entry in index.entries().iter().filter(|entry| !entry.is_zeros() && !have(entry)) {
        let last = entry.offset + u64::from(entry.stored);
        assert!(plan.ranges.iter().any(|range| range.start <= entry.offset && last <= range.end));
    }
});
