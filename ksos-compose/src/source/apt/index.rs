//! Fetches and verifies the indexes of an archive: `InRelease`, then the `Packages` files that it vouches for.
//!
//! `InRelease` is asked of each mirror in turn until one gives a good one: well-framed, signed by the keyring, of the
//! suite asked for, not expired. `Packages` is then known by size and SHA-256, comes from any mirror (by that digest where
//! the archive offers it) and stays in the cache under it. Suites load in parallel.

use std::io::{self, BufReader};
use std::sync::atomic::{AtomicUsize, Ordering};

use ksos_formats::Digest;

use super::codec::{Compression, Limited};
use super::openpgp::{self, Keyring};
use super::packages::{Packages, PackagesError};
use super::release::Release;
use super::{AptError, cleartext};
use crate::effects::fs;
use crate::effects::net::{Fetch, FetchError, Request};

/// The largest `InRelease` accepted, in bytes (Debian's are 40 to 160 KB).
const RELEASE_LIMIT: u64 = 16 << 20;

/// The largest `Packages` accepted, compressed or not, in bytes (Debian's are 57 MB).
const PACKAGES_LIMIT: u64 = 512 << 20;

/// The most suites read at once.
const THREADS: usize = 4;

/// One package archive, as a manifest's `[apt.NAME]` states it.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Its name in the manifest.
    pub name: String,
    /// URLs to try, in order: see [`super::mirror::order`].
    pub mirrors: Vec<String>,
    /// E.g. `trixie`, `trixie-updates`.
    pub suites: Vec<String>,
    /// E.g. `main`.
    pub components: Vec<String>,
    /// The keys that may sign it.
    pub keyring: Keyring,
}

/// The packages of one component of one suite for one architecture.
#[derive(Debug)]
pub struct Index {
    /// [`Repository::name`].
    pub repository: String,
    /// The suite as the manifest names it.
    pub suite: String,
    /// The packages; those of architecture `all` are among them.
    pub packages: Packages,
}

/// Everything that can be chosen from.
#[derive(Debug, Default)]
pub struct Archive {
    /// The indexes in the order of repositories, suites, components and architectures.
    pub indexes: Vec<Index>,
}

/// Loads the indexes of `repositories` for `architectures` (`amd64`, `arm64`). `now` is in seconds since 1970.
///
/// # Errors
/// The first failure in the order of the arguments.
pub fn load(
    fetch: &dyn Fetch,
    repositories: &[Repository],
    architectures: &[&str],
    now: u64,
) -> Result<Archive, AptError> {
    let suites: Vec<(&Repository, &str)> = repositories
        .iter()
        .flat_map(|repository| repository.suites.iter().map(move |suite| (repository, suite.as_str())))
        .collect();
    let loaded = in_parallel(&suites, |(repository, suite)| load_suite(fetch, repository, suite, architectures, now));
    let mut archive = Archive::default();
    for indexes in loaded {
        archive.indexes.extend(indexes?);
    }
    Ok(archive)
}

/// Applies `work` to each item on a few threads; the results are in the order of the items.
pub(crate) fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut results = Vec::new();
        while let Some((position, item)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, items.get(n)?)))
        {
            results.push((position, work(item)));
        }
        results
    };
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..items.len().min(THREADS)).map(|_| scope.spawn(worker)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Vec<(usize, R)>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().flat_map(join).collect()
    });
    results.sort_by_key(|(position, _)| *position);
    results.into_iter().map(|(_, result)| result).collect()
}

fn load_suite(
    fetch: &dyn Fetch,
    repository: &Repository,
    suite: &str,
    architectures: &[&str],
    now: u64,
) -> Result<Vec<Index>, AptError> {
    let release = fetch_release(fetch, repository, suite, now)?;
    let mut indexes = Vec::new();
    for component in &repository.components {
        for architecture in architectures {
            let offer = release.check_offer(component, architecture);
            offer.map_err(|source| AptError::NotOffered {
                repository: repository.name.clone(),
                suite: suite.to_owned(),
                source,
            })?;
            let packages = fetch_packages(fetch, repository, suite, &release, component, architecture)?;
            indexes.push(Index { repository: repository.name.clone(), suite: suite.to_owned(), packages });
        }
    }
    Ok(indexes)
}

/// Returns the first good `Release` of `suite` among the mirrors.
fn fetch_release(fetch: &dyn Fetch, repository: &Repository, suite: &str, now: u64) -> Result<Release, AptError> {
    let name = format!("index of {} {suite}", repository.name);
    let mut failures = Vec::new();
    for mirror in &repository.mirrors {
        let urls = [format!("{mirror}/dists/{suite}/InRelease")];
        let request = Request { name: &name, urls: &urls, digest: None, size: None, limit: RELEASE_LIMIT };
        let bytes = match fetch.document(&request) {
            Ok(bytes) => bytes,
            Err(FetchError::Unreachable { failures: causes, .. }) => {
                failures.extend(causes);
                continue;
            }
            // This mirror does not carry the suite; another may.
            Err(FetchError::NotFound { urls, .. }) => {
                failures.extend(urls.into_iter().map(|url| (url, "there is no such file".to_owned())));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let [url] = urls;
        match verify_release(&bytes, repository, suite, now) {
            Ok(release) => return Ok(release),
            Err(cause) => failures.push((url, cause)),
        }
    }
    Err(AptError::NoIndex { repository: repository.name.clone(), suite: suite.to_owned(), failures })
}

/// Verifies an `InRelease`; the error is the reason why it is not usable.
fn verify_release(bytes: &[u8], repository: &Repository, suite: &str, now: u64) -> Result<Release, String> {
    let message = cleartext::split(bytes).map_err(|error| error.to_string())?;
    openpgp::verify(&message, &repository.keyring, now).map_err(|error| error.to_string())?;
    let release = Release::parse(&message.text).map_err(|error| error.to_string())?;
    release.check(suite, now).map_err(|error| error.to_string())?;
    Ok(release)
}

/// What `Release` says about one `Packages` file.
struct Listed {
    /// Path below the suite, with the compression's suffix.
    path: String,
    compression: Compression,
    /// As it is downloaded.
    size: u64,
    digest: Digest,
    /// Uncompressed, in bytes, when it is known.
    full_size: Option<u64>,
}

/// Chooses the smallest form of an index.
fn listed(release: &Release, component: &str, architecture: &str) -> Option<Listed> {
    let plain = format!("{component}/binary-{architecture}/Packages");
    let full_size = release.files.get(&plain).map(|(size, _)| *size);
    [".xz", ".gz", ""].into_iter().find_map(|suffix| {
        let path = format!("{plain}{suffix}");
        let (size, digest) = *release.files.get(&path)?;
        Some(Listed { path, compression: Compression::from_suffix(suffix)?, size, digest, full_size })
    })
}

fn fetch_packages(
    fetch: &dyn Fetch,
    repository: &Repository,
    suite: &str,
    release: &Release,
    component: &str,
    architecture: &str,
) -> Result<Packages, AptError> {
    let name = format!("index of {} {suite} {component} {architecture}", repository.name);
    let listed = listed(release, component, architecture);
    let listed = listed.ok_or_else(|| AptError::NoPackages { index: name.clone() })?;
    let mut paths = vec![listed.path.clone()];
    if release.by_hash {
        // The digest's name stays valid while the archive changes under the plain one.
        paths.insert(0, format!("{component}/binary-{architecture}/by-hash/SHA256/{}", listed.digest));
    }
    let pairs = paths.iter().flat_map(|path| repository.mirrors.iter().map(move |mirror| (mirror, path)));
    let urls: Vec<String> = pairs.map(|(mirror, path)| format!("{mirror}/dists/{suite}/{path}")).collect();
    let (digest, size) = (Some(listed.digest), Some(listed.size));
    let blob = fetch.blob(&Request { name: &name, urls: &urls, digest, size, limit: PACKAGES_LIMIT })?;
    let file = BufReader::with_capacity(1 << 16, fs::open(&blob.path)?);
    read_packages(file, &listed).map_err(|source| AptError::Packages { index: name, source })
}

fn read_packages(file: BufReader<std::fs::File>, listed: &Listed) -> Result<Packages, PackagesError> {
    let decoded = listed.compression.decode(file)?;
    let limited = match listed.full_size {
        Some(size) if size > PACKAGES_LIMIT => {
            let message = format!("it is {size} bytes large; the limit is {PACKAGES_LIMIT}");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message).into());
        }
        Some(size) => Limited::exactly(decoded, size),
        None => Limited::at_most(decoded, PACKAGES_LIMIT),
    };
    Packages::read(BufReader::with_capacity(1 << 16, limited))
}
