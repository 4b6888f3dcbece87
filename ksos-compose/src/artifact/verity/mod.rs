//! dm-verity hash tree behind an image (Linux `Documentation/admin-guide/device-mapper/verity.rst`, hash type 1).
//!
//! ```text
//! data, padded with zeros to 4096 bytes | top level, one block | ... | bottom level: a digest per data block
//! ```
//!
//! A digest is SHA-256 of the salt followed by a block; 128 of them make a hash block, the last of a level padded with
//! zeros. There is no superblock: the parameters are in [`Verity`]. Data of a single block has no tree; its digest is
//! the root. The file is read once, in batches, for both the tree and its own digest.

use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use ksos_formats::Digest;
use ksos_formats::boot::Verity;
use ksos_formats::digest::Hasher;

/// Size of data and hash blocks in bytes.
pub const BLOCK: u64 = 4096;

/// Digests in a hash block.
const DIGESTS: u64 = BLOCK / 32;

/// Blocks that are read, and hashed by one thread, at a time.
const BATCH: u64 = 256;

/// A file with a hash tree behind its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The parameters to mount it with.
    pub verity: Verity,
    /// Size of the whole file in bytes, hash tree included.
    pub size: u64,
    /// SHA-256 of the whole file, hash tree included.
    pub sha256: Digest,
}

/// A hash tree could not be appended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no data.
    #[error("a dm-verity hash tree needs data, but the image is empty")]
    Empty,
    /// The file does not end with the data.
    #[error("the image has {found} bytes instead of {expected}")]
    Size {
        /// The data's size that the caller gave.
        expected: u64,
        /// The file's size.
        found: u64,
    },
    /// The file cannot be read or written.
    #[error("cannot append a dm-verity hash tree: {0}")]
    Io(#[from] io::Error),
}

/// Pads the `data_size` bytes of `file`, which are all it has, to whole blocks and appends their hash tree, hashing
/// with `workers` threads.
///
/// # Errors
/// See [`Error`]. After an I/O error `file` may hold a part of the tree.
pub fn append<F: Read + Write + Seek>(
    file: &mut F,
    data_size: u64,
    salt: Digest,
    workers: usize,
) -> Result<Appended, Error> {
    if data_size == 0 {
        return Err(Error::Empty);
    }
    let found = file.seek(SeekFrom::End(0))?;
    if found != data_size {
        return Err(Error::Size { expected: data_size, found });
    }
    let data_blocks = data_size.div_ceil(BLOCK);
    file.write_all(&vec![0; (data_blocks * BLOCK - data_size) as usize])?;
    let levels = levels(data_blocks);
    let mut tree = TreeWriter { file, salt, workers: workers.max(1) };
    let mut whole = Hasher::new();
    let mut digest = tree.hash(Blocks { start: 0, count: data_blocks }, levels.first(), Some(&mut whole))?;
    for (index, level) in levels.iter().enumerate() {
        digest = tree.hash(*level, levels.get(index + 1), None)?;
    }
    let end = levels.first().map_or(data_blocks, |bottom| bottom.start + bottom.count);
    file.seek(SeekFrom::Start(data_blocks * BLOCK))?;
    io::copy(&mut file.take((end - data_blocks) * BLOCK), &mut whole)?;
    let verity = Verity { data_blocks, root_hash: digest, salt };
    Ok(Appended { verity, size: end * BLOCK, sha256: whole.finish() })
}

/// A run of blocks in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Blocks {
    /// Number of the first block.
    start: u64,
    /// How many there are.
    count: u64,
}

/// Returns the levels of the tree, the bottom one first; in the file they are in the opposite order.
fn levels(data_blocks: u64) -> Vec<Blocks> {
    let mut levels = Vec::new();
    let mut count = data_blocks;
    while count > 1 {
        count = count.div_ceil(DIGESTS);
        levels.push(Blocks { start: 0, count });
    }
    let mut start = data_blocks;
    for level in levels.iter_mut().rev() {
        level.start = start;
        start += level.count;
    }
    levels
}

type Batch = Arc<Vec<u8>>;

struct Job {
    batch: Batch,
    reply: Sender<Vec<u8>>,
}

struct TreeWriter<'a, F> {
    file: &'a mut F,
    salt: Digest,
    workers: usize,
}

impl<F: Read + Write + Seek> TreeWriter<'_, F> {
    /// Hashes the blocks of `from` into the level `to`, or the only block of `from` where there is none; returns the
    /// digest of the first block. `whole` takes the bytes of `from`.
    fn hash(&mut self, from: Blocks, to: Option<&Blocks>, whole: Option<&mut Hasher>) -> Result<Digest, Error> {
        let (jobs, queued) = bounded::<Job>(self.workers);
        let (whole_jobs, whole_queued) = bounded::<Batch>(self.workers);
        let salt = self.salt;
        std::thread::scope(|scope| {
            for _ in 0..self.workers {
                let queued = queued.clone();
                scope.spawn(move || hash_batches(&queued, &salt));
            }
            drop(queued);
            let whole_jobs = whole.map(|whole| {
                scope.spawn(move || whole_queued.iter().for_each(|batch| whole.update(&batch)));
                whole_jobs
            });
            // Owned here, so that the threads end with it.
            self.distribute(from, to, jobs, whole_jobs)
        })
    }

    fn distribute(
        &mut self,
        from: Blocks,
        to: Option<&Blocks>,
        jobs: Sender<Job>,
        whole: Option<Sender<Batch>>,
    ) -> Result<Digest, Error> {
        let mut level = LevelWriter { position: to.map(|to| to.start * BLOCK), first: None, pending: Vec::new() };
        let mut results: VecDeque<Receiver<Vec<u8>>> = VecDeque::new();
        let mut done = 0;
        while done < from.count {
            let count = BATCH.min(from.count - done);
            let mut batch = vec![0; (count * BLOCK) as usize];
            self.file.seek(SeekFrom::Start((from.start + done) * BLOCK))?;
            self.file.read_exact(&mut batch)?;
            done += count;
            let batch = Arc::new(batch);
            if let Some(whole) = &whole {
                whole.send(batch.clone()).map_err(|_| ended())?;
            }
            let (reply, result) = bounded(1);
            jobs.send(Job { batch, reply }).map_err(|_| ended())?;
            results.push_back(result);
            if results.len() > 2 * self.workers
                && let Some(result) = results.pop_front()
            {
                level.add(self.file, &result.recv().map_err(|_| ended())?)?;
            }
        }
        for result in results {
            level.add(self.file, &result.recv().map_err(|_| ended())?)?;
        }
        level.finish(self.file)
    }
}

fn hash_batches(jobs: &Receiver<Job>, salt: &Digest) {
    for Job { batch, reply } in jobs {
        let mut digests = Vec::with_capacity(batch.len() / BLOCK as usize * 32);
        for block in batch.chunks(BLOCK as usize) {
            let mut hasher = Hasher::new();
            hasher.update(&salt.0);
            hasher.update(block);
            digests.extend(hasher.finish().0);
        }
        // After an error nobody waits.
        let _ = reply.send(digests);
    }
}

fn ended() -> io::Error {
    io::Error::other("a hashing thread ended early")
}

/// Writes the digests of one level.
struct LevelWriter {
    /// Where the next block of the level goes, in bytes; `None` when only the digest matters.
    position: Option<u64>,
    first: Option<Digest>,
    pending: Vec<u8>,
}

impl LevelWriter {
    fn add<F: Write + Seek>(&mut self, file: &mut F, digests: &[u8]) -> io::Result<()> {
        if self.first.is_none() {
            self.first = digests.first_chunk().copied().map(Digest);
        }
        self.pending.extend_from_slice(digests);
        // A batch has a whole number of hash blocks, so what is pending does too, except at the end.
        if self.pending.len() >= 1 << 20 { self.flush(file) } else { Ok(()) }
    }

    fn flush<F: Write + Seek>(&mut self, file: &mut F) -> io::Result<()> {
        if let Some(position) = &mut self.position {
            file.seek(SeekFrom::Start(*position))?;
            file.write_all(&self.pending)?;
            *position += self.pending.len() as u64;
        }
        self.pending.clear();
        Ok(())
    }

    fn finish<F: Write + Seek>(mut self, file: &mut F) -> Result<Digest, Error> {
        self.pending.resize(self.pending.len().next_multiple_of(BLOCK as usize), 0);
        self.flush(file)?;
        Ok(self.first.expect("at least one block is hashed"))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "tests give files to a foreign tool")]

    use std::fs;
    use std::io::Cursor;
    use std::process::Command;

    use super::*;
    use crate::artifact::squashfs::testing::{has_tool, noise};

    fn appended(data: &[u8], workers: usize) -> (Vec<u8>, Appended) {
        let mut file = Cursor::new(data.to_vec());
        let appended = append(&mut file, data.len() as u64, Digest::of(b"salt"), workers).unwrap();
        (file.into_inner(), appended)
    }

    fn veritysetup(image: &std::path::Path, verity: &Verity) -> bool {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("veritysetup")
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .args(["verify", "--no-superblock", "--format=1", "--hash=sha256"])
            .args(["--data-block-size=4096", "--hash-block-size=4096"])
            .arg(format!("--data-blocks={}", verity.data_blocks))
            .arg(format!("--hash-offset={}", verity.data_blocks * BLOCK))
            .arg(format!("--salt={}", verity.salt))
            .args([image, image])
            .arg(verity.root_hash.hex())
            .output()
            .unwrap();
        output.status.success()
    }

    #[test]
    fn veritysetup_accepts_every_tree_shape_and_refuses_a_changed_bit() {
        if !has_tool("veritysetup") {
            return;
        }
        let data = noise(1, 16_385 * 4096);
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        // One block without a tree; one and two hash blocks; two and three levels; data that needs padding.
        for size in [4096, 2 * 4096, 128 * 4096, 129 * 4096, 16_384 * 4096, 16_385 * 4096, 1_000_001, 5] {
            let (mut bytes, appended) = appended(&data[..size], 2);
            fs::write(&image, &bytes).unwrap();
            assert!(veritysetup(&image, &appended.verity), "{size}");
            assert_eq!((appended.size, appended.sha256), (bytes.len() as u64, Digest::of(&bytes)), "{size}");
            let last = bytes.len() - 1;
            for place in [0, last] {
                bytes[place] ^= 1;
                fs::write(&image, &bytes).unwrap();
                // The zeros behind the last digest are not covered, except in a data block.
                let covered = place == 0 || size == 4096 || size == 128 * 4096 || size == 16_384 * 4096;
                assert!(!covered || !veritysetup(&image, &appended.verity), "{size} {place}");
                bytes[place] ^= 1;
            }
        }
    }

    #[test]
    fn levels_are_stored_from_the_top() {
        let blocks = |start, count| Blocks { start, count };
        assert_eq!(levels(1), []);
        assert_eq!(levels(2), [blocks(2, 1)]);
        assert_eq!(levels(128), [blocks(128, 1)]);
        assert_eq!(levels(129), [blocks(130, 2), blocks(129, 1)]);
        assert_eq!(levels(16_385), [blocks(16_388, 129), blocks(16_386, 2), blocks(16_385, 1)]);
    }

    #[test]
    fn the_number_of_workers_does_not_matter() {
        let data = noise(2, 3_000_000);
        let one = appended(&data, 1);
        assert!(one == appended(&data, 0));
        assert!(one == appended(&data, 5));
    }

    #[test]
    fn a_file_that_does_not_end_with_the_data_is_refused() {
        let fails = |size| append(&mut Cursor::new(vec![0; 10]), size, Digest::of(b""), 1).unwrap_err();
        assert!(matches!(fails(0), Error::Empty));
        assert!(matches!(fails(9), Error::Size { expected: 9, found: 10 }));
        assert!(matches!(fails(11), Error::Size { expected: 11, found: 10 }));
    }
}
