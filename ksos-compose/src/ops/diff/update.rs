//! What a node that runs the first image fetches to get to the second: the plan that the update agent itself follows.

use std::collections::BTreeSet;
use std::io;

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;
use ksos_formats::update::RELEASE_FILE;
use ksos_formats::update::fetch::FetchPlan;
use ksos_formats::update::index::{ChunkIndex, Entry};
use serde::Serialize;

use super::side::Side;
use crate::artifact::release;
use crate::effects::fs::{self, Context};
use crate::image::Part;
use crate::ops::OpError;
use crate::ops::build::release::open;

/// What an update fetches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UpdateSize {
    /// Bytes of the chunk file that are fetched.
    pub fetched: u64,
    /// Of these, bytes of chunks that the node does not have; the rest lies between them.
    pub missing: u64,
    /// Bytes of the whole chunk file: the slot image, compressed.
    pub whole: u64,
    /// Requests that it takes.
    pub requests: usize,
    /// Bytes of the chunk index, which is fetched besides.
    pub index: u64,
    /// Bytes of `release.json`, which is fetched besides; unknown without a release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<u64>,
}

/// Returns what an update from the slot of `a` to that of `b` fetches; nothing when one of them has no system.
pub(super) fn size(a: &Side, b: &Side, jobs: usize) -> Result<Option<UpdateSize>, OpError> {
    let (Some(from), Some(to)) = (a.slot(), b.slot()) else { return Ok(None) };
    let have = match &a.release {
        Some(release) => release.index.entries().iter().map(|entry| entry.sha256).collect(),
        None => digests(a, a.disk.part(from), jobs)?,
    };
    let (index, release) = index(b, b.disk.part(to), jobs)?;
    Ok(Some(UpdateSize { release, ..planned(&index, &have) }))
}

fn planned(index: &ChunkIndex, have: &BTreeSet<Digest>) -> UpdateSize {
    let plan = FetchPlan::new(index, &|entry| have.contains(&entry.sha256));
    let missing: BTreeSet<(u64, u32)> = index
        .entries()
        .iter()
        .filter(|entry| !entry.is_zeros() && !have.contains(&entry.sha256))
        .map(|Entry { offset, stored, .. }| (*offset, *stored))
        .collect();
    UpdateSize {
        fetched: plan.bytes,
        missing: missing.iter().map(|(_, stored)| u64::from(*stored)).sum(),
        whole: index.chunks_size(),
        requests: plan.ranges.len(),
        index: index.to_bytes().len() as u64,
        release: None,
    }
}

fn failed(side: &Side) -> impl Fn(release::Error) -> OpError {
    move |source| OpError::Release { path: side.path.clone(), source }
}

fn digests(side: &Side, slot: Part<'_>, jobs: usize) -> Result<BTreeSet<Digest>, OpError> {
    release::digests(&mut slot.reader(), slot.size(), jobs).map_err(failed(side))
}

/// Returns the chunk index of `slot` and the size of its `release.json`: of the release that is compared, or of the one
/// beside the image when it has this very slot; else the image is cut as a build would.
fn index(side: &Side, slot: Part<'_>, jobs: usize) -> Result<(ChunkIndex, Option<u64>), OpError> {
    let size = |path: &std::path::Path| fs::metadata(&path.join(RELEASE_FILE)).map(|metadata| metadata.len()).ok();
    if let Some(release) = &side.release {
        return Ok((release.index.clone(), size(&side.path)));
    }
    let beside = side.release_beside();
    if let Ok(release) = open(&beside)
        && release.document.slot.size == slot.size()
        && release.document.slot.sha256 == digest(side, slot)?
    {
        return Ok((release.index, size(&beside)));
    }
    let cut = release::write(&mut slot.reader(), slot.size(), &mut io::sink(), jobs).map_err(failed(side))?;
    Ok((cut.index, None))
}

fn digest(side: &Side, slot: Part<'_>) -> Result<Digest, OpError> {
    let mut hasher = Hasher::new();
    let mut reader = io::BufReader::with_capacity(1 << 20, slot.reader());
    io::copy(&mut reader, &mut hasher).context("read", &side.path)?;
    Ok(hasher.finish())
}
