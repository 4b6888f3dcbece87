//! Downloads against a loopback server with scripted faults.

mod faults;
mod resume;
pub(crate) mod server;
mod tls;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ksos_formats::Digest;

use super::{Downloader, FetchError, NetOptions, Request};
use crate::cache::Cache;
use crate::effects::progress::Silent;

/// A cache, a downloader that loses no time, and the folder that holds them.
pub(crate) struct Fixture {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) cache: Arc<Cache>,
    pub(crate) downloader: Downloader,
}

/// Settings that lose no time.
pub(crate) fn quick() -> NetOptions {
    NetOptions {
        backoff: Duration::from_millis(2),
        stall_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(2),
        ..NetOptions::default()
    }
}

impl Fixture {
    pub(crate) fn new(options: NetOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cache = Arc::new(Cache::open(directory.path()).unwrap());
        let downloader = Downloader::new(cache.clone(), options, Arc::new(Silent));
        Fixture { directory, cache, downloader }
    }

    fn partials(&self) -> Vec<String> {
        let names = crate::effects::fs::list(&self.cache.bucket("partial")).unwrap();
        names.into_iter().map(|name| name.into_string().unwrap()).collect()
    }
}

/// Bytes that are the same each time and compress to nothing special.
pub(crate) fn body(length: usize) -> Vec<u8> {
    (0..length as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn request<'a>(urls: &'a [String], bytes: &[u8]) -> Request<'a> {
    let digest = Some(Digest::of(bytes));
    Request { name: "component kubesolo", urls, digest, size: Some(bytes.len() as u64), limit: 1 << 24 }
}

fn content(path: &Path) -> Vec<u8> {
    crate::effects::fs::read(path, 1 << 24).unwrap()
}

/// Returns the only cause of a failure.
fn cause(error: &FetchError) -> &str {
    match error {
        FetchError::Unreachable { failures, .. } if failures.len() == 1 => &failures[0].1,
        other => panic!("{other}"),
    }
}
