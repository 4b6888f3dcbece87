//! Which small files share a fragment block.
//!
//! Blocks filled to the brim in order would all move when one file near the start grows, and every cached block
//! behind it would be lost. So a block ends where the *contents* say: of the places at which it is at least half
//! full, the one after the file with the smallest digest. After a change the ends fall together again within a few
//! blocks, and the rest is found in the cache.

use ksos_formats::Digest;

/// A file to pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Small {
    /// Digest of the content.
    pub digest: Digest,
    /// Size in bytes, 1 to the block size - 1.
    pub size: u32,
}

/// Splits `files`, in order, into runs of at most `block_size` bytes; returns the end index of each run.
pub fn pack(files: &[Small], block_size: u32) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut start = 0;
    while start < files.len() {
        let end = block_end(&files[start..], block_size);
        start += end;
        ends.push(start);
    }
    ends
}

/// Returns how many of `files`, at least one, go into the next block.
fn block_end(files: &[Small], block_size: u32) -> usize {
    let mut fill = 0;
    let mut best: Option<(&Digest, usize)> = None;
    for (index, file) in files.iter().enumerate() {
        fill += file.size;
        if fill > block_size {
            return best.map_or(index, |(_, end)| end);
        }
        if fill >= block_size / 2 && best.is_none_or(|(digest, _)| file.digest < *digest) {
            best = Some((&file.digest, index + 1));
        }
    }
    files.len()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn files(count: u32) -> Vec<Small> {
        let file = |number: u32| {
            let digest = Digest::of(&number.to_le_bytes());
            Small { digest, size: 1 + u32::from(digest.0[31]) * u32::from(digest.0[30]) }
        };
        (0..count).map(file).collect()
    }

    fn blocks(files: &[Small]) -> Vec<Vec<Small>> {
        let mut start = 0;
        let ends = pack(files, 1 << 18);
        ends.iter().map(|end| files[std::mem::replace(&mut start, *end)..*end].to_vec()).collect()
    }

    #[test]
    fn every_file_is_packed_once_and_in_order() {
        let files = files(3000);
        let blocks = blocks(&files);
        assert_eq!(blocks.concat(), files);
        for block in &blocks {
            assert!((1..=1 << 18).contains(&block.iter().map(|file| file.size).sum::<u32>()));
        }
        let size: u64 = files.iter().map(|file| u64::from(file.size)).sum();
        // At least two thirds full on average: small blocks compress worse.
        assert!(blocks.len() as u64 * (1 << 18) * 2 / 3 < size, "{} blocks for {size} bytes", blocks.len());
    }

    #[test]
    fn a_change_moves_few_block_ends() {
        let files = files(4000);
        let before: BTreeSet<Vec<Digest>> = digests(&blocks(&files));
        let mut changed_blocks = 0;
        for place in (0..4000).step_by(100) {
            let mut changed = files.clone();
            changed[place] = Small { digest: Digest::of(b"other"), size: 60_000 };
            changed_blocks += digests(&blocks(&changed)).difference(&before).count();
        }
        let average = changed_blocks as f64 / 40.0;
        assert!(average < 4.0, "{average} blocks change on average, of {}", before.len());
    }

    fn digests(blocks: &[Vec<Small>]) -> BTreeSet<Vec<Digest>> {
        blocks.iter().map(|block| block.iter().map(|file| file.digest).collect()).collect()
    }

    #[test]
    fn a_file_that_does_not_fit_starts_the_next_block() {
        let small = |size| Small { digest: Digest::of(&[]), size };
        assert_eq!(pack(&[small(100), small(4000), small(4095)], 4096), [1, 2, 3]);
        assert_eq!(pack(&[], 4096), [0_usize; 0]);
    }
}
