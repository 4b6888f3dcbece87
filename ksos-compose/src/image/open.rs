//! Opens whatever an image is kept in: raw, compressed with Zstandard, or an ISO.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use super::iso::Iso;
use super::{DiskImage, ImageError};
use crate::cache::Cache;
use crate::effects::fs::{self, Context};

/// The largest image that is decompressed, in bytes.
const LIMIT: u64 = 64 << 30;
/// Magic number of a frame (RFC 8878, section 3.1.1), and of a skippable one (section 3.1.2).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
const PIECE: usize = 1 << 20;

/// What a file is.
#[derive(Debug)]
pub enum Opened {
    /// A disk with a partition table.
    Disk {
        /// It.
        disk: DiskImage,
        /// How the file is compressed.
        compression: Option<&'static str>,
    },
    /// An ISO 9660 image.
    Iso {
        /// What it has.
        iso: Iso,
        /// The file.
        file: File,
        /// Its size in bytes.
        size: u64,
    },
    /// Something else.
    Other,
}

/// Opens the image at `path`. A compressed one is unpacked below the temporary files of `cache`, without its zeros.
///
/// # Errors
/// [`ImageError`], when it cannot be read, or is not what it seems to be.
pub fn open(cache: &Cache, path: &Path) -> Result<Opened, ImageError> {
    let mut file = fs::open(path)?;
    let mut compression = None;
    if is_compressed(&file) {
        file = decompressed(cache, path, file)?;
        compression = Some("zstd");
    }
    let size = file.metadata().context("stat", path)?.len();
    // A hybrid ISO has a partition table, too.
    if Iso::is_in(&file) {
        let iso = Iso::read(&file, size).map_err(|reason| ImageError::Iso { path: path.to_owned(), reason })?;
        return Ok(Opened::Iso { iso, file, size });
    }
    if !has_table(&file) {
        return Ok(Opened::Other);
    }
    Ok(Opened::Disk { disk: DiskImage::of_file(path, file)?, compression })
}

fn read_at(file: &File, buffer: &mut [u8], position: u64) -> bool {
    use std::os::unix::fs::FileExt;
    file.read_exact_at(buffer, position).is_ok()
}

fn has_table(file: &File) -> bool {
    let mut magic = [0; 8];
    read_at(file, &mut magic, 512) && magic == *b"EFI PART"
}

fn is_compressed(file: &File) -> bool {
    let mut magic = [0; 4];
    read_at(file, &mut magic, 0) && (magic == ZSTD || (magic[0] & 0xf0 == 0x50 && magic[1..] == SKIPPABLE))
}

fn decompressed(cache: &Cache, path: &Path, file: File) -> Result<File, ImageError> {
    // Without a name: it goes with its last handle.
    let mut target = cache.temporary()?.into_file();
    let mut decoder = zstd::stream::read::Decoder::new(file).context("decompress", path)?;
    let mut piece = vec![0; PIECE];
    let mut size = 0;
    loop {
        let count = fs::read_full(&mut decoder, &mut piece).context("decompress", path)?;
        let bytes = &piece[..count];
        match bytes.iter().all(|byte| *byte == 0) {
            true => drop(target.seek(SeekFrom::Current(count as i64)).context("decompress", path)?),
            false => target.write_all(bytes).context("decompress", path)?,
        }
        size += count as u64;
        if size > LIMIT {
            let error = io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {LIMIT} bytes"));
            return Err(error).context("decompress", path)?;
        }
        if count < PIECE {
            target.set_len(size).context("decompress", path)?;
            return Ok(target);
        }
    }
}
