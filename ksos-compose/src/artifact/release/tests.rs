use std::io::Cursor;

use ksos_formats::update::chunks::{MAX_CHUNK, MIN_CHUNK};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};

use super::*;

/// Bytes that do not compress.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    rand::rngs::StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

fn cut(image: &[u8], jobs: usize) -> (Cut, Vec<u8>) {
    let mut chunks = Vec::new();
    let cut = write(&mut Cursor::new(image), image.len() as u64, &mut chunks, jobs).unwrap();
    assert_eq!(cut.slot, Blob { size: image.len() as u64, sha256: Digest::of(image) });
    assert_eq!(cut.chunks, Blob { size: chunks.len() as u64, sha256: Digest::of(&chunks) });
    assert_eq!(ChunkIndex::parse(&cut.index.to_bytes()).as_ref(), Ok(&cut.index), "an index that nodes take");
    (cut, chunks)
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn restored(index: &ChunkIndex, chunks: &[u8]) -> Result<Vec<u8>, Error> {
    let mut slot = tempfile::tempfile().unwrap();
    restore(index, &file(chunks), &mut slot)?;
    let mut bytes = Vec::new();
    slot.rewind().unwrap();
    slot.read_to_end(&mut bytes).unwrap();
    Ok(bytes)
}

/// Larger than two batches: noise, text, zeros, the same noise again.
fn image() -> Vec<u8> {
    let text: Vec<u8> = (0..200_000_u32).flat_map(|number| format!("line {number}\n").into_bytes()).collect();
    let twice = noise(1, 3 << 20);
    [noise(2, BATCH + 12_345), twice.clone(), text, vec![0; BATCH / 2 + 77], twice, noise(3, 4 << 20), vec![0; 5000]]
        .concat()
}

#[test]
fn an_image_comes_back_from_its_chunks() {
    let image = image();
    let (cut, chunks) = cut(&image, 2);
    assert!(restored(&cut.index, &chunks).unwrap() == image);
    let entries = cut.index.entries();
    assert!(entries.iter().any(Entry::is_compressed), "the text is compressed");
    assert!(entries.iter().any(|entry| entry.stored == entry.length), "noise is stored as it is");
    assert!(entries.iter().any(|entry| entry.is_zeros() && u64::from(entry.length) > BATCH as u64 / 4));
    // Zeros, the second noise and most of the text cost nothing.
    assert!(chunks.len() < BATCH + (8 << 20), "{}", chunks.len());
}

#[test]
fn the_number_of_workers_changes_nothing() {
    let image = image();
    let (one, chunks) = cut(&image, 1);
    for jobs in [2, 7] {
        let (other, other_chunks) = cut(&image, jobs);
        assert!(other == one && other_chunks == chunks, "{jobs} workers");
    }
}

#[test]
fn the_digests_of_an_image_are_those_of_its_index() {
    let image = image();
    let (cut, _) = cut(&image, 2);
    let digests = digests(&mut Cursor::new(&image), image.len() as u64, 2).unwrap();
    let listed: BTreeSet<Digest> =
        cut.index.entries().iter().filter(|entry| !entry.is_zeros()).map(|entry| entry.sha256).collect();
    assert_eq!(digests, listed);
}

#[test]
fn bytes_that_move_are_the_same_chunks() {
    let image = noise(4, 8 << 20);
    let moved = [noise(5, 12_345), image.clone()].concat();
    let have = digests(&mut Cursor::new(&image), image.len() as u64, 2).unwrap();
    let (cut, _) = cut(&moved, 2);
    let new: u64 =
        cut.index.entries().iter().filter(|entry| !have.contains(&entry.sha256)).map(|e| u64::from(e.length)).sum();
    assert!(new < 12_345 + 3 * MAX_CHUNK as u64, "{new} bytes are new");
}

#[test]
fn small_and_empty_images_are_cut() {
    for image in [vec![], vec![7], vec![0], noise(6, MIN_CHUNK), noise(7, MAX_CHUNK + 1), vec![0; MAX_CHUNK * 3]] {
        let (cut, chunks) = cut(&image, 2);
        assert!(restored(&cut.index, &chunks).unwrap() == image, "{} bytes", image.len());
    }
}

#[test]
fn an_image_that_ends_early_is_refused() {
    let error = write(&mut Cursor::new([1; 10]), 11, &mut io::sink(), 1).unwrap_err();
    assert!(matches!(&error, Error::Read(source) if source.kind() == io::ErrorKind::UnexpectedEof), "{error}");
}

#[test]
fn a_full_disk_is_reported() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let error = write(&mut Cursor::new([1; 10]), 10, &mut Full, 1).unwrap_err();
    assert_eq!(error.to_string(), "cannot write the chunk file: no storage space");
}

#[test]
fn a_damaged_chunk_file_is_refused() {
    let (cut, mut chunks) = cut(&image(), 2);
    let raw = *cut.index.entries().iter().find(|entry| entry.stored == entry.length).unwrap();
    let frame = *cut.index.entries().iter().find(|entry| entry.is_compressed()).unwrap();
    for entry in [raw, frame] {
        let place = (entry.offset + u64::from(entry.stored) / 2) as usize;
        chunks[place] ^= 1;
        let error = restored(&cut.index, &chunks).unwrap_err();
        let here =
            matches!(error, Error::Digest { offset, .. } | Error::Chunk { offset, .. } if offset == entry.offset);
        assert!(here, "{error}");
        chunks[place] ^= 1;
    }
    chunks.truncate(chunks.len() - 1);
    assert!(matches!(restored(&cut.index, &chunks), Err(Error::Chunk { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_image_comes_back(parts in proptest::collection::vec((0_u64..4, 0_usize..300_000), 0..12)) {
        let image: Vec<u8> = parts
            .into_iter()
            .flat_map(|(seed, size)| if seed == 0 { vec![0; size] } else { noise(seed, size) })
            .collect();
        let (cut, chunks) = cut(&image, 2);
        prop_assert!(restored(&cut.index, &chunks).unwrap() == image);
    }
}
