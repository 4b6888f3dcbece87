//! A raw disk image compressed for the way: most of it is nothing. The result is what the build would write as `.img.zst`,
//! and is kept in the cache by the digest of the image, so that pushing again compresses nothing.

use std::path::Path;

use ksos_formats::Digest;
use ksos_formats::update::Blob;

use super::{Guard, PushError};
use crate::artifact::zst;
use crate::cache;
use crate::effects::fs::{self, Context};
use crate::graph;
use crate::ops::Session;
use crate::registry::RegistryError;

/// Changes when the same image gives other bytes.
const VERSION: u32 = 1;
const OUTPUT: &str = "image";

/// Returns a raw image compressed with Zstandard: the same bytes for the same image, on any number of processors.
///
/// # Errors
/// [`PushError`]; that the image changes.
pub(super) fn compressed(session: &Session, path: &Path, raw: &Blob, guard: &Guard) -> Result<cache::Blob, PushError> {
    let key = Digest::of(format!("push .img.zst {VERSION} {}", raw.sha256).as_bytes());
    if let Some(blob) = graph::recorded(&session.cache, &key).and_then(|mut outputs| outputs.remove(OUTPUT)) {
        return Ok(blob);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let task = session.progress.start(&format!("compressing {name}"), None);
    let mut writer = session.cache.writer()?;
    zst::write(&fs::open(path)?, raw.size, &mut writer, session.jobs).context("compress", path)?;
    let blob = writer.commit()?;
    // What is recorded holds for all time: it must be of the image whose digest this is.
    if Guard::of(path)? != *guard {
        return Err(RegistryError::Changed { path: path.to_owned(), expected: raw.sha256 }.into());
    }
    task.finish();
    graph::record(&session.cache, &key, "push", &[(OUTPUT.to_owned(), blob.clone())].into())?;
    Ok(blob)
}
