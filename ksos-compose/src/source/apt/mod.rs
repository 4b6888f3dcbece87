//! The `apt` source: packages from Debian archives, without apt, dpkg or gpg.
//!
//! ```text
//! mirror    which mirrors to ask, in which order
//! index     InRelease and Packages of each suite, verified   (cleartext, openpgp, release, packages, deb822, codec)
//! resolve   requests -> pinned packages                      (relation, version)
//! pool      fetches a pinned package; says what is there now when it is gone
//! deb       reads a .deb
//! ```
//!
//! Trust: a signature by a key of the manifest's keyring covers `InRelease`, which holds the digests of `Packages`, which
//! holds the digests of packages. Nothing else that a mirror says is believed. Maintainer scripts are never run.

pub mod cleartext;
pub mod codec;
pub mod deb;
pub mod deb822;
pub mod index;
pub mod mirror;
pub mod openpgp;
pub mod packages;
pub mod pool;
pub mod relation;
pub mod release;
pub mod resolve;
pub mod version;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use index::{Archive, Repository, load};
pub use openpgp::Keyring;
pub use resolve::{Options, Pinned, ResolveError, Universe};

use crate::effects::fs::FsError;
use crate::effects::net::FetchError;

/// A package archive cannot be used. Maps to exit code 3.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// A download failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A downloaded file cannot be opened.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A keyring cannot be read.
    #[error(transparent)]
    Keyring(#[from] openpgp::OpenPgpError),
    /// No mirror has a good `InRelease`.
    #[error("no good index of {repository} {suite}:{}", list(failures))]
    NoIndex {
        /// The manifest's name of the archive.
        repository: String,
        /// The suite.
        suite: String,
        /// Each URL and what is wrong with it; empty when there are no mirrors.
        failures: Vec<(String, String)>,
    },
    /// A suite lacks a component or architecture.
    #[error("{repository} {suite}: {source}")]
    NotOffered {
        /// The manifest's name of the archive.
        repository: String,
        /// The suite.
        suite: String,
        /// What is missing.
        source: release::ReleaseError,
    },
    /// `Release` lists no `Packages` in a form that can be read.
    #[error("{index}: the Release file lists no Packages.xz, Packages.gz or Packages")]
    NoPackages {
        /// Archive, suite, component and architecture.
        index: String,
    },
    /// A `Packages` file with the right digest cannot be read.
    #[error("{index}: {source}")]
    Packages {
        /// Archive, suite, component and architecture.
        index: String,
        /// What is wrong.
        source: packages::PackagesError,
    },
    /// A locked package is on no mirror any more, or on none that can be reached.
    #[error("package {} {} ({}) is {}", package.name, package.version, package.path, gone(&package.repository, now, failures))]
    Gone {
        /// The package as it is locked.
        package: Box<Pinned>,
        /// The versions there now, with their suites.
        now: Vec<String>,
        /// Each URL and why it failed, when not every mirror could be asked.
        failures: Vec<(String, String)>,
    },
}

fn list(failures: &[(String, String)]) -> String {
    if failures.is_empty() {
        return " it has no mirror".to_owned();
    }
    failures.iter().map(|(url, why)| format!("\n  {url}: {why}")).collect()
}

fn gone(repository: &str, now: &[String], failures: &[(String, String)]) -> String {
    let now = match now {
        [] => "its index has no version of it now".to_owned(),
        versions => format!("there is {} now", versions.join(", ")),
    };
    if failures.is_empty() {
        return format!("gone from every mirror of {repository}; {now}");
    }
    format!("no longer in the index of {repository}, and no mirror that answers has it; {now}:{}", list(failures))
}
