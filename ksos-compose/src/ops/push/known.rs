//! Which repository of a registry a blob was pushed to, as far as this machine has done it: from there the registry takes
//! it itself. Records that are wrong by now cost one question.

use std::collections::BTreeSet;

use ksos_formats::Digest;
use ksos_formats::update::Blob;

use super::PushError;
use crate::cache::Cache;
use crate::effects::fs;
use crate::graph;
use crate::registry::push::Layer;
use crate::source::oci::Place;

/// Smaller blobs are sent as quickly as they are asked for, in bytes.
const LEAST: u64 = 1 << 20;
const OUTPUT: &str = "repository";
/// Longest name of a repository (OCI distribution specification 1.1, "Pulling manifests").
const NAME_LIMIT: u64 = 255;

fn key(place: &Place, blob: &Blob) -> Digest {
    Digest::of(format!("pushed {} {}", place.base().trim_end_matches(&place.repository), blob.sha256).as_bytes())
}

/// Returns other repositories that have some of these blobs.
pub(super) fn repositories(cache: &Cache, place: &Place, layers: &[&Layer<'_>]) -> BTreeSet<String> {
    let read = |layer: &&Layer<'_>| {
        let blob = graph::recorded(cache, &key(place, &layer.blob))?.remove(OUTPUT)?;
        fs::read_to_string(&blob.path, NAME_LIMIT).ok()
    };
    let large = layers.iter().filter(|layer| layer.blob.size >= LEAST);
    large.filter_map(read).filter(|repository| *repository != place.repository).collect()
}

/// Records that these blobs are in the repository.
pub(super) fn record(cache: &Cache, place: &Place, layers: &[&Layer<'_>]) -> Result<(), PushError> {
    for layer in layers.iter().filter(|layer| layer.blob.size >= LEAST) {
        let name = cache.insert(place.repository.as_bytes())?;
        graph::record(cache, &key(place, &layer.blob), "push", &[(OUTPUT.to_owned(), name)].into())?;
    }
    Ok(())
}
