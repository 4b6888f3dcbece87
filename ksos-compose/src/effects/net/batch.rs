//! Many downloads at once.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Fetch, FetchError, Request};
use crate::cache::Blob;

/// Some downloads failed.
#[derive(Debug, thiserror::Error)]
#[error("{}", failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct FetchErrors {
    /// Each failure, in the order of the requests; those given up because of another are not among them.
    pub failures: Vec<FetchError>,
    /// How many were given up or never begun.
    pub cancelled: usize,
}

/// Fetches all `requests`, `jobs` at a time, and returns their blobs in order. After the first failure no other is
/// begun and the running ones are given up; what came so far stays for the next call.
///
/// # Errors
/// [`FetchErrors`].
pub fn fetch_all(fetch: &dyn Fetch, requests: &[Request<'_>], jobs: NonZero<usize>) -> Result<Vec<Blob>, FetchErrors> {
    let next = AtomicUsize::new(0);
    let cancel = AtomicBool::new(false);
    let results: Mutex<Vec<Option<Result<Blob, FetchError>>>> = Mutex::new(requests.iter().map(|_| None).collect());
    let work = || {
        while !cancel.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(request) = requests.get(index) else { break };
            let result = fetch.blob_unless(request, &cancel);
            if result.is_err() {
                cancel.store(true, Ordering::Relaxed);
            }
            results.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.get().min(requests.len()) {
            scope.spawn(work);
        }
    });
    let mut blobs = Vec::with_capacity(requests.len());
    let mut errors = FetchErrors { failures: Vec::new(), cancelled: 0 };
    for result in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        match result {
            Some(Ok(blob)) => blobs.push(blob),
            Some(Err(FetchError::Cancelled { .. })) | None => errors.cancelled += 1,
            Some(Err(error)) => errors.failures.push(error),
        }
    }
    if blobs.len() == requests.len() { Ok(blobs) } else { Err(errors) }
}
