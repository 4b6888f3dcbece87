//! What differs between two locks, for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ksos_formats::Arch;
use serde::Serialize;

use super::{Lock, Package, PinnedFile, Resolved};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The architecture.
    pub arch: Arch,
    /// The component.
    pub component: String,
    /// The package; none for the file of an http component.
    pub package: Option<String>,
    /// What it was: a version, or a digest where there is none; none when it is new.
    pub from: Option<String>,
    /// What it is now; none when it is gone.
    pub to: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.arch, self.component)?;
        if let Some(package) = &self.package {
            write!(f, " {package}")?;
        }
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, ": {from} -> {to}"),
            (None, Some(to)) => write!(f, ": added {to}"),
            (Some(from), None) => write!(f, ": removed {from}"),
            (None, None) => Ok(()),
        }
    }
}

/// Returns every difference between `old` and `new`, in order.
pub fn changes(old: &Lock, new: &Lock) -> Vec<Change> {
    let (old, new) = (items(old), items(new));
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let changed = keys.into_iter().filter(|key| old.get(key) != new.get(key));
    changed
        .map(|key| Change {
            arch: key.0,
            component: key.1.to_owned(),
            package: key.2.clone(),
            from: old.get(key).cloned(),
            to: new.get(key).cloned(),
        })
        .collect()
}

type Key<'a> = (Arch, &'a str, Option<String>);

fn items(lock: &Lock) -> BTreeMap<Key<'_>, String> {
    let mut items = BTreeMap::new();
    for (arch, components) in &lock.arches {
        for (name, component) in components {
            match &component.resolved {
                Resolved::Apt(packages) => {
                    let seen =
                        |package: &Package| packages.iter().filter(|other| other.name == package.name).count() > 1;
                    items.extend(packages.iter().map(|package| {
                        let suffix = if seen(package) { format!(":{}", package.architecture) } else { String::new() };
                        let key = (*arch, name.as_str(), Some(format!("{}{suffix}", package.name)));
                        (key, package.version.clone())
                    }));
                }
                Resolved::Http(pinned) => {
                    items.insert((*arch, name.as_str(), None), pinned.sha256.hex());
                }
                Resolved::TinyCore(files) => {
                    let item = |file: &PinnedFile| {
                        let version = file.version.clone().unwrap_or_else(|| file.sha256.hex());
                        ((*arch, name.as_str(), Some(file.name.clone())), version)
                    };
                    items.extend(files.iter().map(item));
                }
                Resolved::Oci(image) => {
                    items.insert((*arch, name.as_str(), None), image.manifest.digest.hex());
                }
            }
        }
    }
    items
}
