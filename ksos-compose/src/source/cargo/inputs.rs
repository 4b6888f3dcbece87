//! Digest of what a binary is made from: the workspace's manifest and lock, and the sources of the package and of the packages
//! of the workspace that it depends on. While it stays the same, cargo need not be called.
//!
//! Everything in a package's directory counts, but for hidden names and `target`: what a build script reads is not known.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;

use super::{Build, CargoError};
use crate::effects::fs;

/// The largest source file read, in bytes.
const FILE_LIMIT: u64 = 256 << 20;

/// Bumped when the way of building changes what comes out.
const VERSION: &str = "cargo-3";

/// Files of the workspace that count whatever the package.
const SHARED: [&str; 6] =
    ["Cargo.toml", "Cargo.lock", "rust-toolchain", "rust-toolchain.toml", ".cargo/config", ".cargo/config.toml"];

/// Returns the digest of everything that decides what `build` gives, but for the toolchain.
///
/// # Errors
/// When a file cannot be read, or no member of the workspace has the package's name.
pub fn digest(build: &Build<'_>) -> Result<Digest, CargoError> {
    let Build { workspace, package, profile, bin, arch, cache: _, environment: _, epoch, offline: _ } = *build;
    let mut hasher = Hasher::new();
    for field in [VERSION, package, profile, bin, arch.name(), &epoch.to_string()] {
        hasher.field(field.as_bytes());
    }
    for file in files(workspace, package)? {
        let path = workspace.join(&file);
        hasher.field(file.as_os_str().as_encoded_bytes());
        hasher.field(&fs::read(&path, FILE_LIMIT)?);
    }
    Ok(hasher.finish())
}

/// Returns the files that decide what `package` is built to, relative to the workspace, in order.
///
/// # Errors
/// As [`digest`].
pub fn files(workspace: &Path, package: &str) -> Result<BTreeSet<PathBuf>, CargoError> {
    let mut files = BTreeSet::new();
    for name in SHARED {
        if workspace.join(name).is_file() {
            files.insert(PathBuf::from(name));
        }
    }
    let members = members(workspace)?;
    let all: BTreeSet<PathBuf> = members.values().cloned().collect();
    for directory in closure(workspace, &members, package)? {
        collect(workspace, &directory, &all, &mut files)?;
    }
    Ok(files)
}

fn read_toml(path: &Path) -> Result<toml::Table, CargoError> {
    let text = fs::read_to_string(path, FILE_LIMIT)?;
    text.parse().map_err(|error: toml::de::Error| malformed(path, error.message()))
}

fn malformed(path: &Path, cause: impl Into<String>) -> CargoError {
    CargoError::CargoToml { path: path.to_owned(), cause: cause.into() }
}

/// Returns the directories of the workspace's packages, relative to it, by package name.
fn members(workspace: &Path) -> Result<BTreeMap<String, PathBuf>, CargoError> {
    let root = read_toml(&workspace.join("Cargo.toml"))?;
    let listed = root.get("workspace").and_then(|table| table.get("members")).and_then(toml::Value::as_array);
    let mut directories = vec![PathBuf::new()];
    for member in listed.into_iter().flatten().filter_map(toml::Value::as_str) {
        match member.strip_suffix("/*") {
            Some(parent) => {
                let names = fs::list(&workspace.join(parent))?;
                directories.extend(names.into_iter().map(|name| Path::new(parent).join(name)));
            }
            None => directories.push(PathBuf::from(member)),
        }
    }
    let mut members = BTreeMap::new();
    for directory in directories {
        let path = workspace.join(&directory).join("Cargo.toml");
        if !path.is_file() {
            continue;
        }
        let table = read_toml(&path)?;
        if let Some(name) = table.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str) {
            members.insert(name.to_owned(), directory);
        }
    }
    Ok(members)
}

/// Returns the directories of `package` and of the packages of the workspace that it depends on, in any way but for tests.
fn closure(
    workspace: &Path,
    members: &BTreeMap<String, PathBuf>,
    package: &str,
) -> Result<BTreeSet<PathBuf>, CargoError> {
    let unknown = || malformed(&workspace.join("Cargo.toml"), format!("no member is called {package:?}"));
    let mut todo = vec![members.get(package).ok_or_else(unknown)?.clone()];
    let mut done = BTreeSet::new();
    while let Some(directory) = todo.pop() {
        if !done.insert(directory.clone()) {
            continue;
        }
        let table = read_toml(&workspace.join(&directory).join("Cargo.toml"))?;
        for (name, dependency) in dependencies(&table) {
            let real = dependency.get("package").and_then(toml::Value::as_str).unwrap_or(name);
            let local = dependency.get("path").is_some() || dependency.get("workspace").is_some();
            // A path outside of the workspace's members is a package that Cargo.lock does not pin: it cannot be overlooked.
            match members.get(real) {
                Some(member) if local => todo.push(member.clone()),
                _ if dependency.get("path").is_some() => {
                    let path = workspace.join(&directory).join("Cargo.toml");
                    return Err(malformed(&path, format!("dependency {name} is not a member of the workspace")));
                }
                _ => {}
            }
        }
    }
    Ok(done)
}

/// Returns, for each of the workspace's packages, the names of the packages that its programs are built with: without those
/// for tests and for building.
///
/// # Errors
/// As [`digest`].
pub fn normal_dependencies(workspace: &Path) -> Result<BTreeMap<String, BTreeSet<String>>, CargoError> {
    let mut all = BTreeMap::new();
    for (package, directory) in members(workspace)? {
        let table = read_toml(&workspace.join(directory).join("Cargo.toml"))?;
        let real = |(name, dependency): (&str, &toml::Value)| {
            dependency.get("package").and_then(toml::Value::as_str).unwrap_or(name).to_owned()
        };
        all.insert(package, listed(&table, &["dependencies"]).into_iter().map(real).collect());
    }
    Ok(all)
}

fn dependencies(table: &toml::Table) -> Vec<(&str, &toml::Value)> {
    // A dependency that is only a version is none of the workspace.
    let mut all = listed(table, &["dependencies", "build-dependencies"]);
    all.retain(|(_, dependency)| dependency.is_table());
    all
}

/// Returns the entries of tables with these names, those of targets included.
fn listed<'a>(table: &'a toml::Table, names: &[&str]) -> Vec<(&'a str, &'a toml::Value)> {
    let mut tables = vec![table];
    let targets = table.get("target").and_then(toml::Value::as_table);
    tables.extend(targets.into_iter().flat_map(toml::Table::values).filter_map(toml::Value::as_table));
    let lists = tables.into_iter().flat_map(|table| names.iter().map(move |key| table.get(*key)));
    let entries = lists.flatten().filter_map(toml::Value::as_table).flatten();
    entries.map(|(name, dependency)| (name.as_str(), dependency)).collect()
}

/// Adds the files below `directory` of the workspace, without those of other members.
fn collect(
    workspace: &Path,
    directory: &Path,
    members: &BTreeSet<PathBuf>,
    files: &mut BTreeSet<PathBuf>,
) -> Result<(), CargoError> {
    for name in fs::list(&workspace.join(directory))? {
        let path = directory.join(&name);
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if hidden || name == "target" || members.contains(&path) {
            continue;
        }
        // A link counts as what it leads to.
        let full = workspace.join(&path);
        if full.is_dir() {
            collect(workspace, &path, members, files)?;
        } else if full.is_file() {
            files.insert(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ksos_formats::Arch;

    use super::*;

    fn workspace() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in [
            (
                "Cargo.toml",
                "[workspace]\nmembers = [\"app\", \"libs/*\"]\n[workspace.dependencies]\nlib-a = { path = \"libs/a\" }\n",
            ),
            ("Cargo.lock", "version = 4\n"),
            (
                "app/Cargo.toml",
                "[package]\nname = \"app\"\n[target.'cfg(unix)'.dependencies]\nlib-a.workspace = true\n[dependencies]\nserde = \"1\"\n[dev-dependencies]\nlib-c = { path = \"../libs/c\" }\n",
            ),
            ("app/src/main.rs", "fn main() {}"),
            (
                "libs/a/Cargo.toml",
                "[package]\nname = \"lib-a\"\n[build-dependencies]\nother = { path = \"../b\", package = \"lib-b\" }\n",
            ),
            ("libs/b/Cargo.toml", "[package]\nname = \"lib-b\"\n"),
            ("libs/b/src/lib.rs", ""),
            ("libs/c/Cargo.toml", "[package]\nname = \"lib-c\"\n"),
            ("libs/README.md", ""),
        ] {
            fs::write_atomic(&directory.path().join(path), text.as_bytes()).unwrap();
        }
        directory
    }

    fn build(workspace: &Path) -> Build<'_> {
        let (package, bin, arch, profile, cache) = ("app", "app", Arch::Arm64, "release", Path::new("/"));
        Build { workspace, package, profile, bin, arch, cache, environment: &[], epoch: 0, offline: false }
    }

    #[test]
    fn only_what_the_binary_is_made_from_counts() {
        let directory = workspace();
        let change = |path: &str| {
            fs::write_atomic(&directory.path().join(path), b"# changed\n[package]\nname = \"lib-c\"\n").unwrap()
        };
        let compute = || digest(&build(directory.path())).unwrap();
        let first = compute();
        for path in ["libs/c/Cargo.toml", "libs/c/src/lib.rs", "target/x", "app/target/x", "app/.git/x", "README.md"] {
            change(path);
            assert_eq!(compute(), first, "{path} does not count");
        }
        let mut last = first;
        for path in [
            "Cargo.lock",
            "app/src/main.rs",
            "app/data.bin",
            "libs/b/src/lib.rs",
            ".cargo/config.toml",
            "rust-toolchain.toml",
        ] {
            change(path);
            let next = compute();
            assert_ne!(next, last, "{path} counts");
            last = next;
        }
        for other in [
            Build { arch: Arch::X86_64, ..build(directory.path()) },
            Build { profile: "dev", ..build(directory.path()) },
            Build { package: "lib-a", ..build(directory.path()) },
            Build { bin: "other", ..build(directory.path()) },
            Build { epoch: 1, ..build(directory.path()) },
        ] {
            assert_ne!(digest(&other).unwrap(), last);
        }
        let same = Build { cache: Path::new("/else"), offline: true, ..build(directory.path()) };
        assert_eq!(digest(&same).unwrap(), last);
    }

    #[test]
    fn the_digest_does_not_depend_on_the_directory() {
        let (one, two) = (workspace(), workspace());
        assert_eq!(digest(&build(one.path())).unwrap(), digest(&build(two.path())).unwrap());
    }

    #[test]
    fn an_unknown_package_and_a_stray_dependency_are_errors() {
        let directory = workspace();
        let unknown = Build { package: "nope", ..build(directory.path()) };
        assert!(digest(&unknown).unwrap_err().to_string().ends_with("Cargo.toml: no member is called \"nope\""));
        let stray = b"[package]\nname = \"app\"\n[dependencies]\nx = { path = \"../../x\" }\n";
        fs::write_atomic(&directory.path().join("app/Cargo.toml"), stray).unwrap();
        let error = digest(&build(directory.path())).unwrap_err().to_string();
        assert!(error.ends_with("app/Cargo.toml: dependency x is not a member of the workspace"), "{error}");
        fs::write_atomic(&directory.path().join("app/Cargo.toml"), b"[package\n").unwrap();
        assert!(matches!(digest(&build(directory.path())), Err(CargoError::CargoToml { .. })));
    }
}
