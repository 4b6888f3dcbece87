//! The lock file: what each component of a manifest was resolved to, so that every build uses the same bytes.
//!
//! `format` reads and writes it, `reconcile` holds it against what the manifest asks for now, `changes` says what an
//! update did. A component is kept as long as the digest of its request is the locked one. The lock has every
//! architecture that was ever resolved; a build looks at its own alone.

mod changes;
mod format;
mod reconcile;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ksos_formats::{Arch, Digest};

pub use self::changes::{Change, changes};
pub use self::format::{LockError, path_for, read, write};
pub use self::reconcile::{Decision, Mode, Reason, ReconcileError, Reconciled, Update, Wanted, WouldChange, reconcile};
pub use crate::source::http::{Pinned, PinnedBy};
pub use crate::source::oci::PinnedImage;
pub use crate::source::tinycore::PinnedFile;

/// The version of the format that is written.
pub const VERSION: u64 = 1;

/// What the lock's name of a container image begins with. No component's name has a space.
const IMAGE_PREFIX: &str = "container-image ";

/// Returns what a container image of the manifest is called in the lock.
pub fn image_key(name: &str) -> String {
    format!("{IMAGE_PREFIX}{name}")
}

/// Returns the manifest's name of a container image, or nothing for a component.
pub fn image_name(key: &str) -> Option<&str> {
    key.strip_prefix(IMAGE_PREFIX)
}

/// Returns what to call an entry of the lock in messages.
fn title(key: &str) -> String {
    match image_name(key) {
        Some(name) => format!("container image {name}"),
        None => format!("component {key}"),
    }
}

/// The whole lock. Two equal locks have equal bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    /// Components by name, and container images by [`image_key`], for each architecture.
    pub arches: BTreeMap<Arch, BTreeMap<String, Component>>,
}

/// What one component was resolved to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Digest of what the manifest asked for.
    pub request: Digest,
    /// What it got.
    pub resolved: Resolved,
}

/// What a component was resolved to, by the kind of its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// Packages, in the order of their names. See [`Resolved::apt`].
    Apt(Vec<Package>),
    /// One file.
    Http(Pinned),
    /// A container image.
    Oci(PinnedImage),
    /// A Tiny Core base and extensions, in merge order.
    TinyCore(Vec<PinnedFile>),
}

/// A Debian package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// `Package`.
    pub name: String,
    /// `Architecture`: the image's, or `all`.
    pub architecture: String,
    /// `Version`.
    pub version: String,
    /// The `[apt.NAME]` table of the manifest that it comes from.
    pub repository: String,
    /// `Filename`: its path below the repository's root, e.g. `pool/main/…`.
    pub path: String,
    /// Size of the `.deb` in bytes.
    pub size: u64,
    /// SHA-256 of the `.deb`.
    pub sha256: Digest,
    /// `Source`, when it is not the same as the name.
    pub source: Option<String>,
    /// Its licence, when it is known.
    pub license: Option<String>,
}

impl Resolved {
    /// Returns packages in the order that the lock has them.
    pub fn apt(mut packages: Vec<Package>) -> Self {
        packages.sort();
        Resolved::Apt(packages)
    }
}

impl Lock {
    /// Returns what a component was resolved to.
    pub fn get(&self, arch: Arch, component: &str) -> Option<&Component> {
        self.arches.get(&arch)?.get(component)
    }

    /// Locks a component.
    pub fn insert(&mut self, arch: Arch, component: &str, value: Component) {
        self.arches.entry(arch).or_default().insert(component.to_owned(), value);
    }

    /// Forgets a component.
    pub fn remove(&mut self, arch: Arch, component: &str) {
        if let Some(components) = self.arches.get_mut(&arch) {
            components.remove(component);
            if components.is_empty() {
                self.arches.remove(&arch);
            }
        }
    }
}
