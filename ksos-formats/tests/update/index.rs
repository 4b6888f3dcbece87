use ksos_formats::Digest;
use ksos_formats::update::chunks::MAX_CHUNK;
use ksos_formats::update::index::{ChunkIndex, IndexError};

/// An entry, field by field.
#[derive(Clone, Copy)]
struct Raw {
    sha256: [u8; 32],
    length: u32,
    stored: u32,
    offset: u64,
}

fn chunk(byte: u8, length: u32, stored: u32, offset: u64) -> Raw {
    Raw { sha256: [byte; 32], length, stored, offset }
}

fn zeros(length: u32) -> Raw {
    Raw { sha256: [0; 32], length, stored: 0, offset: 0 }
}

fn bytes(entries: &[Raw], slot: u64, chunks: u64) -> Vec<u8> {
    let mut bytes = b"KSOSIDX1".to_vec();
    bytes.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&slot.to_le_bytes());
    bytes.extend_from_slice(&chunks.to_le_bytes());
    for entry in entries {
        bytes.extend_from_slice(&entry.sha256);
        bytes.extend_from_slice(&entry.length.to_le_bytes());
        bytes.extend_from_slice(&entry.stored.to_le_bytes());
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
    }
    bytes
}

fn good() -> (Vec<Raw>, u64, u64) {
    (vec![chunk(1, 100, 60, 0), zeros(50), chunk(2, 10, 10, 60), chunk(1, 100, 60, 0)], 260, 70)
}

#[test]
fn every_fault_of_an_index_is_named() {
    let (entries, slot, chunks) = good();
    assert!(ChunkIndex::parse(&bytes(&entries, slot, chunks)).is_ok());
    assert!(ChunkIndex::parse(&bytes(&[], 0, 0)).is_ok(), "an empty image");
    let with = |number: usize, entry: Raw| {
        let mut entries = entries.clone();
        entries[number] = entry;
        ChunkIndex::parse(&bytes(&entries, slot, chunks)).expect_err("hostile")
    };
    let entry = |number, reason| IndexError::Entry { number, reason };
    let large = MAX_CHUNK as u32 + 1;
    for (number, raw, reason) in [
        (0, chunk(1, 0, 60, 0), "an empty piece"),
        (1, zeros(0), "an empty piece"),
        (1, chunk(9, 50, 0, 0), "a run of zeros with a place or a digest"),
        (1, Raw { offset: 1, ..zeros(50) }, "a run of zeros with a place or a digest"),
        (2, zeros(10), "two runs of zeros in a row"),
        (0, chunk(1, large, 60, 0), "a chunk that is too large"),
        (0, chunk(1, 100, 101, 0), "a chunk that is too large"),
        (3, chunk(1, 100, 61, 0), "a chunk with two places"),
        (3, chunk(1, 99, 60, 0), "a chunk with two places"),
        (3, chunk(1, 100, 60, 70), "a chunk with two places"),
        (0, chunk(1, 100, 60, 1), "a chunk that is not where the one before it ends"),
        (2, chunk(2, 10, 10, 61), "a chunk that is not where the one before it ends"),
        (2, chunk(2, 10, 10, 0), "a chunk that is not where the one before it ends"),
        (2, chunk(2, 10, 10, u64::MAX), "a chunk that is not where the one before it ends"),
    ] {
        assert_eq!(with(number, raw), entry(number, reason), "entry {number}");
    }
}

#[test]
fn sizes_that_the_entries_do_not_make_up_are_named() {
    let (entries, slot, chunks) = good();
    let cover = |what, covered, size| Err(IndexError::Cover { what, covered, size });
    for size in [0, slot - 1, slot + 1, u64::MAX] {
        assert_eq!(ChunkIndex::parse(&bytes(&entries, size, chunks)), cover("slot image", slot, size));
    }
    for size in [0, chunks - 1, chunks + 1, u64::MAX] {
        assert_eq!(ChunkIndex::parse(&bytes(&entries, slot, size)), cover("chunk file", chunks, size));
    }
}

#[test]
fn bytes_that_are_no_index_are_refused() {
    let (entries, slot, chunks) = good();
    let good = bytes(&entries, slot, chunks);
    for length in 0..32 {
        assert_eq!(ChunkIndex::parse(&good[..length]), Err(IndexError::Magic), "{length} bytes");
    }
    let expected = good.len() as u64;
    for length in 32..good.len() {
        let found = length as u64;
        assert_eq!(ChunkIndex::parse(&good[..length]), Err(IndexError::Length { found, expected }));
    }
    let longer = [&good[..], &[0]].concat();
    assert_eq!(ChunkIndex::parse(&longer), Err(IndexError::Length { found: expected + 1, expected }));
    for (at, byte) in [(0, b'X'), (7, b'2'), (12, 1), (15, 0x80)] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert_eq!(ChunkIndex::parse(&bad), Err(IndexError::Magic), "byte {at}");
    }
    // A number of entries that nobody could hold is refused before memory is asked for.
    let mut many = good.clone();
    many[8..12].fill(0xff);
    let expected = 32 + 48 * u64::from(u32::MAX);
    assert_eq!(ChunkIndex::parse(&many), Err(IndexError::Length { found: good.len() as u64, expected }));
}

#[test]
fn long_runs_of_zeros_are_split_in_one_way_only() {
    let mut index = ChunkIndex::new();
    let length = u64::from(u32::MAX) * 2 + 7;
    index.push_zeros(1);
    index.push_zeros(length - 1);
    assert_eq!(index.entries().len(), 3);
    assert_eq!(ChunkIndex::parse(&index.to_bytes()), Ok(index));
    let split = [zeros(u32::MAX - 1), zeros(8)];
    let size = u64::from(u32::MAX) + 7;
    assert!(ChunkIndex::parse(&bytes(&split, size, 0)).is_err(), "the first is not full");
}

#[test]
fn a_digest_of_zeros_is_no_hiding_place() {
    // A chunk that claims the digest of a run of zeros: it is stored, so it is a chunk.
    let odd = [chunk(0, 10, 10, 0)];
    let index = ChunkIndex::parse(&bytes(&odd, 10, 10)).unwrap();
    assert!(!index.entries()[0].is_zeros());
    assert_ne!(Digest::of(&[0; 10]), index.entries()[0].sha256, "and its digest is compared like any other");
}
