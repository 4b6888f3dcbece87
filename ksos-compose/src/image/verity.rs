//! Checks a dm-verity hash tree as the kernel would, block by block, without a device (Linux
//! `Documentation/admin-guide/device-mapper/verity.rst`, hash type 1).

use std::io;

use ksos_formats::Digest;
use ksos_formats::boot::Verity;
use ksos_formats::digest::Hasher;

/// Size of data and hash blocks in bytes.
const BLOCK: u64 = 4096;
/// Digests in a hash block.
const DIGESTS: u64 = BLOCK / 32;
/// Blocks that are read at a time.
const BATCH: u64 = 256;
/// The most data blocks that are checked: 256 GiB, whose digests take 2 GiB. More than any partition here has.
const MOST_BLOCKS: u64 = 1 << 26;

/// Why a hash tree does not hold.
#[derive(Debug, thiserror::Error)]
pub enum VerityFault {
    /// The image has another size than data and tree.
    #[error("it has {found} bytes; data and hash tree have {expected}")]
    Size {
        /// The size that it should have.
        expected: u64,
        /// The size that it has.
        found: u64,
    },
    /// A data block is not what the tree says.
    #[error("block {block} (byte {}) is not what the hash tree says", block * BLOCK)]
    Data {
        /// Its number.
        block: u64,
    },
    /// A block of the tree is not what the level above says.
    #[error("block {block} of the hash tree is not what the level above says")]
    Tree {
        /// Its number in the image.
        block: u64,
    },
    /// The tree is good, and of something else.
    #[error("the root hash is {found}, not {expected}")]
    Root {
        /// The root hash that was asked for.
        expected: Digest,
        /// The root hash that it has.
        found: Digest,
    },
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// Checks data and hash tree of `size` bytes; `read` fills a buffer from a position.
///
/// # Errors
/// [`VerityFault`].
pub fn check(read: impl Fn(&mut [u8], u64) -> io::Result<()>, size: u64, verity: &Verity) -> Result<(), VerityFault> {
    let Verity { data_blocks, root_hash, salt } = verity;
    if *data_blocks == 0 || *data_blocks > MOST_BLOCKS {
        return Err(VerityFault::Size { expected: data_blocks.saturating_mul(BLOCK), found: size });
    }
    let levels = levels(*data_blocks);
    let expected = (data_blocks + levels.iter().map(|(_, count)| count).sum::<u64>()) * BLOCK;
    if size != expected {
        return Err(VerityFault::Size { expected, found: size });
    }
    let mut digests = hash(&read, 0, *data_blocks, salt)?;
    let mut below = 0;
    for (start, count) in levels {
        digests.resize((count * BLOCK) as usize, 0);
        let mut stored = vec![0; digests.len()];
        read(&mut stored, start * BLOCK)?;
        if let Some(place) = digests.iter().zip(&stored).position(|(computed, stored)| computed != stored) {
            let block = below + place as u64 / 32;
            return Err(if below == 0 { VerityFault::Data { block } } else { VerityFault::Tree { block } });
        }
        digests = hash(&read, start, count, salt)?;
        below = start;
    }
    let found = Digest(digests.try_into().map_err(|_| io::Error::other("the top has one digest"))?);
    if found == *root_hash { Ok(()) } else { Err(VerityFault::Root { expected: *root_hash, found }) }
}

/// Returns first block and number of blocks of each level, the bottom one first; in the image they are in the opposite
/// order behind the data.
fn levels(data_blocks: u64) -> Vec<(u64, u64)> {
    let mut counts = Vec::new();
    let mut count = data_blocks;
    while count > 1 {
        count = count.div_ceil(DIGESTS);
        counts.push(count);
    }
    let mut start = data_blocks;
    let mut levels = Vec::new();
    for count in counts.into_iter().rev() {
        levels.push((start, count));
        start += count;
    }
    levels.reverse();
    levels
}

/// Returns the digests of `count` blocks from block `start`.
fn hash(
    read: &impl Fn(&mut [u8], u64) -> io::Result<()>,
    start: u64,
    count: u64,
    salt: &Digest,
) -> io::Result<Vec<u8>> {
    let mut digests = Vec::with_capacity((count * 32) as usize);
    let mut buffer = vec![0; (BATCH.min(count) * BLOCK) as usize];
    let mut done = 0;
    while done < count {
        let batch = BATCH.min(count - done);
        let buffer = &mut buffer[..(batch * BLOCK) as usize];
        read(buffer, (start + done) * BLOCK)?;
        for block in buffer.chunks(BLOCK as usize) {
            let mut hasher = Hasher::new();
            hasher.update(&salt.0);
            hasher.update(block);
            digests.extend(hasher.finish().0);
        }
        done += batch;
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::artifact::squashfs::testing::noise;
    use crate::artifact::verity::append;

    fn check_bytes(bytes: &[u8], verity: &Verity) -> Result<(), VerityFault> {
        let read = |buffer: &mut [u8], position: u64| {
            let start = position as usize;
            let part = bytes.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(part);
            Ok(())
        };
        check(read, bytes.len() as u64, verity)
    }

    #[test]
    fn what_the_writer_appends_holds_and_a_changed_bit_is_found_at_its_place() {
        let data = noise(1, 16_385 * 4096);
        // One block without a tree; one and two hash blocks; two and three levels; data that was padded.
        for size in [4096, 2 * 4096, 128 * 4096, 129 * 4096, 16_385 * 4096, 1_000_001] {
            let mut file = Cursor::new(data[..size].to_vec());
            let verity = append(&mut file, size as u64, Digest::of(b"salt"), 2).unwrap().verity;
            let mut bytes = file.into_inner();
            check_bytes(&bytes, &verity).unwrap();
            let blocks = verity.data_blocks;
            let place = (blocks - 1) * BLOCK + 7;
            bytes[place as usize] ^= 1;
            let error = check_bytes(&bytes, &verity).unwrap_err();
            match error {
                VerityFault::Data { block } => assert_eq!(block, blocks - 1),
                VerityFault::Root { .. } => assert_eq!(blocks, 1),
                other => panic!("{size}: {other}"),
            }
            bytes[place as usize] ^= 1;
            let other = Verity { root_hash: Digest::of(b"other"), ..verity.clone() };
            assert!(matches!(check_bytes(&bytes, &other), Err(VerityFault::Root { .. })));
            assert!(matches!(check_bytes(&bytes[4096..], &verity), Err(VerityFault::Size { .. })));
        }
    }

    #[test]
    fn hostile_parameters_are_refused_before_anything_is_allocated() {
        for data_blocks in [0, u64::MAX, u64::MAX / BLOCK, 1 << 52] {
            let verity = Verity { data_blocks, root_hash: Digest::of(b""), salt: Digest::of(b"") };
            assert!(matches!(check_bytes(&[0; 4096], &verity), Err(VerityFault::Size { .. })), "{data_blocks}");
        }
    }
}
