//! Fetches pinned packages. Debian's pool drops old versions, so a locked one may be gone: then the error says what the
//! archive has now.

use super::index::{Archive, Repository, load};
use super::resolve::Pinned;
use super::{AptError, version};
use crate::cache::Blob;
use crate::effects::net::{Fetch, FetchError, Request};

/// Returns where `package` may be had, given the mirrors of its archive.
pub fn urls(package: &Pinned, mirrors: &[String]) -> Vec<String> {
    // A percent sign in a pool path is a part of the name.
    let path = package.path.replace('%', "%25");
    mirrors.iter().map(|mirror| format!("{mirror}/{path}")).collect()
}

/// Fetches `package`, locked for `component`, from `repository`. `now` is in seconds since 1970.
///
/// # Errors
/// [`AptError::Gone`] when no mirror has it, at least one says so, and the archive's present index does not list it;
/// else [`AptError::Fetch`].
pub fn fetch(
    fetch: &dyn Fetch,
    package: &Pinned,
    repository: &Repository,
    component: &str,
    now: u64,
) -> Result<Blob, AptError> {
    let name = format!("package {} {} of component {component}", package.name, package.version);
    let urls = urls(package, &repository.mirrors);
    let (digest, size) = (Some(package.sha256), Some(package.size));
    let request = Request { name: &name, urls: &urls, digest, size, limit: package.size };
    match fetch.blob(&request) {
        Ok(blob) => Ok(blob),
        Err(error @ (FetchError::NotFound { .. } | FetchError::Unreachable { missing: true, .. })) => {
            Err(explain(error, fetch, package, repository, now))
        }
        Err(error) => Err(error.into()),
    }
}

/// Turns a failed download into [`AptError::Gone`] if the present index shows that this is the reason.
fn explain(error: FetchError, fetch: &dyn Fetch, package: &Pinned, repository: &Repository, now: u64) -> AptError {
    let architecture = match package.architecture.as_str() {
        // Packages for all architectures stand in every index; any Debian suite has amd64.
        "all" => "amd64",
        other => other,
    };
    match load(fetch, std::slice::from_ref(repository), &[architecture], now) {
        Ok(archive) if !lists(&archive, package) => AptError::Gone {
            package: Box::new(package.clone()),
            now: versions(&archive, &package.name),
            failures: match error {
                FetchError::Unreachable { failures, .. } => failures,
                _ => Vec::new(),
            },
        },
        // The index cannot be had either, or it lists the package: the download's own failure says more.
        _ => error.into(),
    }
}

fn lists(archive: &Archive, package: &Pinned) -> bool {
    let mut all = archive.indexes.iter().flat_map(|index| index.packages.iter());
    all.any(|other| other.name() == package.name && other.digest() == package.sha256)
}

/// Returns the versions of `name`, newest first, with their suites.
fn versions(archive: &Archive, name: &str) -> Vec<String> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for index in &archive.indexes {
        for package in index.packages.iter().filter(|package| package.name() == name) {
            found.push((package.version(), &index.suite));
        }
    }
    found.sort_by(|a, b| version::compare(b.0, a.0));
    found.dedup();
    found.into_iter().map(|(version, suite)| format!("{version} ({suite})")).collect()
}
