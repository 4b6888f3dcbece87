//! Which bytes of the chunk file a node fetches: what the composer predicts and what the agent does, by one function.
//!
//! A request is not free: nothing comes for one round trip, which is [`GAP`] bytes at 10 Mbit/s and 13 ms, and it has about
//! 1 KiB of heads. So two wanted chunks with less than that between them are fetched in one range, along with what is
//! between. The cost of a plan, its bytes and [`GAP`] for each request, is the least that there is: many small holes come
//! to few ranges, and where every hole is small, to the whole.

use super::index::{ChunkIndex, Entry};

/// What a request costs, in bytes: so many between two wanted chunks are fetched along with them.
pub const GAP: u64 = 16 << 10;
/// Most bytes of one request; a longer range is fetched in several, so that a broken connection costs little.
pub const MAX_RANGE: u64 = 8 << 20;

/// Bytes of the chunk file, `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Byte behind the last one.
    pub end: u64,
}

/// What is fetched of the chunk file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FetchPlan {
    /// Ranges in ascending order, none longer than [`MAX_RANGE`].
    pub ranges: Vec<Range>,
    /// Bytes in all.
    pub bytes: u64,
}

impl FetchPlan {
    /// Plans the fetch of the chunks of `index` that the node does not have.
    pub fn new(index: &ChunkIndex, have: &dyn Fn(&Entry) -> bool) -> Self {
        let mut plan = FetchPlan::default();
        let mut stored = 0;
        for entry in index.entries() {
            // An entry whose chunk is stored further ahead is one that was seen before.
            if entry.is_zeros() || entry.offset < stored {
                continue;
            }
            stored = entry.offset + u64::from(entry.stored);
            if !have(entry) {
                plan.add(entry.offset, stored);
            }
        }
        plan.bytes = plan.ranges.iter().map(|range| range.end - range.start).sum();
        plan
    }

    fn add(&mut self, start: u64, end: u64) {
        match self.ranges.last_mut() {
            Some(last) if start - last.end <= GAP && end - last.start <= MAX_RANGE => last.end = end,
            _ => self.ranges.push(Range { start, end }),
        }
    }
}
