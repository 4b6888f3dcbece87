//! Cutting a slot image into chunks by content: FastCDC (Xia et al., USENIX ATC 2016; "v2020" of crate `fastcdc`) with
//! normalisation level 1, chunks of [`MIN_CHUNK`] to [`MAX_CHUNK`] bytes, [`AVERAGE_CHUNK`] on average.
//!
//! The composer cuts the image of a release, and a node cuts what is in its own slot: where both have the same bytes,
//! wherever they are, the cuts fall alike, and nothing needs to be fetched. The parameters are part of the format:
//! a node that cuts otherwise finds nothing, and fetches everything. Zeros are no chunk: see [`Piece::Zeros`]. A run of
//! zeros of [`ZERO_RUN`] bytes or more at the start of a piece is a piece, so that what follows unused space is cut from
//! its own first byte, and a slot of which most is unused is cut as fast as it is read.

use fastcdc::v2020::{Normalization, select_masks};

/// Smallest chunk in bytes (the last of an image may be smaller).
pub const MIN_CHUNK: usize = 8 << 10;
/// Average size of a chunk in bytes.
pub const AVERAGE_CHUNK: usize = 32 << 10;
/// Largest chunk in bytes.
pub const MAX_CHUNK: usize = 128 << 10;

/// Shortest run of zeros, in bytes, that is taken out before a cut is looked for.
pub const ZERO_RUN: usize = 4 << 10;

/// What an image is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A chunk.
    Data(&'a [u8]),
    /// This many zero bytes. Neighbouring pieces of zeros are one in an index.
    Zeros(usize),
}

impl Piece<'_> {
    /// Returns the size in bytes.
    pub fn len(&self) -> usize {
        match self {
            Piece::Data(bytes) => bytes.len(),
            Piece::Zeros(count) => *count,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Returns the first piece of `bytes`, which are the next [`MAX_CHUNK`] bytes of the image, or all that are left.
pub fn first(bytes: &[u8]) -> Piece<'_> {
    let bytes = &bytes[..bytes.len().min(MAX_CHUNK)];
    let zeros = leading_zeros(bytes);
    if zeros >= ZERO_RUN {
        return Piece::Zeros(zeros);
    }
    let piece = &bytes[..cut(bytes)];
    if is_zero(piece) { Piece::Zeros(piece.len()) } else { Piece::Data(piece) }
}

fn cut(bytes: &[u8]) -> usize {
    if bytes.len() <= MIN_CHUNK {
        return bytes.len();
    }
    let (strict, relaxed) = select_masks(AVERAGE_CHUNK, Normalization::Level1);
    let (strict_shifted, relaxed_shifted) = (strict << 1, relaxed << 1);
    let (_, length) = fastcdc::v2020::cut(
        bytes,
        MIN_CHUNK,
        AVERAGE_CHUNK,
        MAX_CHUNK,
        strict,
        relaxed,
        strict_shifted,
        relaxed_shifted,
    );
    length.clamp(1, bytes.len())
}

/// Returns the number of zero bytes at the start.
fn leading_zeros(bytes: &[u8]) -> usize {
    let (words, _) = bytes.as_chunks::<16>();
    let start = 16 * words.iter().take_while(|word| **word == [0; 16]).count();
    start + bytes[start..].iter().take_while(|byte| **byte == 0).count()
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    rest.iter().all(|byte| *byte == 0) && words.iter().all(|word| *word == [0; 16])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes without a pattern.
    fn noise(size: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        (0..size).map(|_| next()).collect()
    }

    /// What [`the_cuts_are_the_format`] was cut into when the format was made.
    const LENGTHS: [usize; 14] =
        [37531, 43334, 50544, 33500, 40575, 45580, 131_072, 131_072, 86792, 37531, 43334, 26811, 33950, 12469];

    fn pieces(mut bytes: &[u8]) -> Vec<Piece<'_>> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            pieces.push(first(bytes));
            bytes = &bytes[pieces[pieces.len() - 1].len()..];
        }
        pieces
    }

    #[test]
    fn the_cuts_are_the_format() {
        let image = [noise(300_000), vec![0; 300_000], noise(100_000), vec![0; ZERO_RUN - 1], noise(50_000)].concat();
        let found = pieces(&image);
        let lengths: Vec<usize> = found.iter().map(Piece::len).collect();
        assert_eq!(lengths.iter().sum::<usize>(), image.len());
        assert!(found.iter().all(|piece| piece.len() <= MAX_CHUNK));
        assert_eq!(lengths, LENGTHS);
    }

    #[test]
    fn what_follows_unused_space_is_cut_from_its_first_byte() {
        let content = noise(200_000);
        let alone: Vec<Vec<u8>> = chunks(&content);
        for before in [ZERO_RUN, 100_000, 5 * MAX_CHUNK + ZERO_RUN] {
            assert_eq!(chunks(&[vec![0; before], content.clone()].concat()), alone, "{before}");
        }
    }

    fn chunks(bytes: &[u8]) -> Vec<Vec<u8>> {
        let data = |piece: Piece<'_>| match piece {
            Piece::Data(bytes) => Some(bytes.to_vec()),
            Piece::Zeros(_) => None,
        };
        pieces(bytes).into_iter().filter_map(data).collect()
    }
}
