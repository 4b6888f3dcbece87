//! A raw disk image compressed for the way: most of it is nothing. The result is kept in the cache by the digest of the
//! image, so that pushing again compresses nothing.

use std::io::{self, Read, Write};
use std::path::Path;

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;
use ksos_formats::update::Blob;

use super::PushError;
use crate::cache;
use crate::effects::fs::{self, Context};
use crate::graph;
use crate::ops::Session;
use crate::registry::RegistryError;

/// Zstandard's level. A part of an image is a SquashFS that no level makes smaller.
const LEVEL: i32 = 3;
const OUTPUT: &str = "image";

/// Returns a raw image compressed with Zstandard: the same bytes for the same image, on any number of processors.
///
/// # Errors
/// [`PushError`]; that the image changes.
pub(super) fn compressed(session: &Session, path: &Path, raw: &Blob) -> Result<cache::Blob, PushError> {
    let key = Digest::of(format!("push zstd {} {LEVEL} {}", zstd::zstd_safe::VERSION_NUMBER, raw.sha256).as_bytes());
    if let Some(blob) = graph::recorded(&session.cache, &key).and_then(|mut outputs| outputs.remove(OUTPUT)) {
        return Ok(blob);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut task = session.progress.start(&format!("compressing {name}"), Some(raw.size));
    let mut reader = fs::open(path)?;
    let mut writer = session.cache.writer()?;
    let mut hasher = Hasher::new();
    let mut copy = || -> io::Result<u64> {
        let mut encoder = zstd::stream::write::Encoder::new(&mut writer, LEVEL)?;
        // With at least one worker the frame does not depend on how many there are.
        encoder.multithread(u32::try_from(session.jobs).unwrap_or(1).max(1))?;
        encoder.include_checksum(true)?;
        encoder.set_pledged_src_size(Some(raw.size))?;
        let (mut buffer, mut total) = (vec![0; 1 << 20], 0);
        loop {
            let count = reader.read(&mut buffer)?;
            if count == 0 || total + count as u64 > raw.size {
                break;
            }
            hasher.update(&buffer[..count]);
            encoder.write_all(&buffer[..count])?;
            total += count as u64;
            task.advance(count as u64);
        }
        if total == raw.size {
            encoder.finish()?;
        }
        Ok(total)
    };
    let total = copy().context("compress", path)?;
    if (Blob { size: total, sha256: hasher.finish() }) != *raw {
        return Err(RegistryError::Changed { path: path.to_owned(), expected: raw.sha256 }.into());
    }
    let blob = writer.commit()?;
    task.finish();
    graph::record(&session.cache, &key, "push", &[(OUTPUT.to_owned(), blob.clone())].into())?;
    Ok(blob)
}
