//! The crates that a program is built with, from `Cargo.lock`.
//!
//! The lock has the crates of every platform, so the list is an upper bound: a crate may be there that is built for other
//! systems only. What the workspace's own packages take for tests and for building is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ksos_formats::Digest;
use serde::Deserialize;

use crate::effects::fs;
use crate::source::cargo::{CargoError, inputs};

/// The largest `Cargo.lock` that is read, in bytes.
const LIMIT: u64 = 16 << 20;

/// What the registry of crates.io is called in `Cargo.lock`.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// A crate, or a package of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crate {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SHA-256 of its archive.
    pub checksum: Option<Digest>,
    /// Whether crates.io has it.
    pub published: bool,
    /// Indexes of the crates that it is built with.
    pub uses: Vec<usize>,
}

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

/// Returns `package` of `workspace` and every crate that it is built with, the package first.
///
/// # Errors
/// When `Cargo.lock` or a `Cargo.toml` cannot be read, or the lock does not have the package.
pub fn of_package(workspace: &Path, package: &str) -> Result<Vec<Crate>, CargoError> {
    let path = workspace.join("Cargo.lock");
    let text = fs::read_to_string(&path, LIMIT)?;
    let malformed = |cause: String| CargoError::CargoToml { path: path.clone(), cause };
    let lock: Lock = toml::from_str(&text).map_err(|error| malformed(error.message().to_owned()))?;
    let own = inputs::normal_dependencies(workspace)?;
    let start = lock.package.iter().position(|locked| locked.name == package && locked.source.is_none());
    let start = start.ok_or_else(|| malformed(format!("there is no package {package:?}")))?;
    let mut order = vec![start];
    let mut edges: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut next = 0;
    while let Some(number) = order.get(next).copied() {
        next += 1;
        let found = dependencies(&lock.package, number, &own);
        for target in &found {
            if !order.contains(target) {
                order.push(*target);
            }
        }
        edges.insert(number, found);
    }
    let place = |number: &usize| order.iter().position(|other| other == number);
    let one = |number: &usize| {
        let locked = &lock.package[*number];
        Crate {
            name: locked.name.clone(),
            version: locked.version.clone(),
            checksum: locked.checksum.as_ref().and_then(|text| text.parse().ok()),
            published: locked.source.as_deref() == Some(CRATES_IO),
            uses: edges[number].iter().filter_map(place).collect(),
        }
    };
    Ok(order.iter().map(one).collect())
}

/// Returns what a package depends on. An entry is a name, with a version where there are several, and a source where that
/// is not enough.
fn dependencies(packages: &[Locked], number: usize, own: &BTreeMap<String, BTreeSet<String>>) -> Vec<usize> {
    let package = &packages[number];
    let wanted = own.get(&package.name).filter(|_| package.source.is_none());
    let find = |entry: &String| {
        let mut words = entry.split(' ');
        let (name, version) = (words.next()?, words.next());
        if wanted.is_some_and(|wanted| !wanted.contains(name)) {
            return None;
        }
        packages.iter().position(|other| other.name == name && version.is_none_or(|version| other.version == version))
    };
    let found: BTreeSet<usize> = package.dependencies.iter().filter_map(find).collect();
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_of_this_workspace_has_its_crates_and_none_of_its_tests() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let crates = of_package(workspace, "ksos-runtime").unwrap();
        assert_eq!((crates[0].name.as_str(), crates[0].checksum, crates[0].published), ("ksos-runtime", None, false));
        let has = |name: &str| crates.iter().any(|one| one.name == name);
        assert!(has("ksos-formats") && has("rustix") && has("linux-raw-sys"), "{crates:?}");
        assert!(!has("proptest") && !has("ksos-compose"));
        let rustix = crates.iter().find(|one| one.name == "rustix").unwrap();
        assert!(rustix.checksum.is_some() && rustix.published);
        assert!(rustix.uses.iter().any(|number| crates[*number].name == "linux-raw-sys"));
        let mut names: Vec<_> = crates.iter().map(|one| (&one.name, &one.version)).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), crates.len());
        assert!(of_package(workspace, "no-such-package").is_err());
    }
}
