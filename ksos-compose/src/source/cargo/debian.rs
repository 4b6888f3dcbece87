//! A cross toolchain out of Debian's packages, for machines whose Rust lacks the target. Nothing is installed.
//!
//! ```text
//! CACHE/toolchain/HOST-TARGET        name of the current one
//! CACHE/toolchain/ID/bin/            wrappers: rustc, cc (this machine's linker), TARGET-gcc
//! CACHE/toolchain/ID/usr/, lib/      the packages' files
//! CACHE/toolchain/ID/complete        written last
//! ```
//!
//! Debian 12 carries a recent compiler as `rustc-web`, in its security archive; it runs where glibc is 2.36 or newer. The
//! compiler and the standard libraries of both architectures must be of one version, so the newest that all have is taken.
//! glibc and the machine's own C linker are used as they are.

use std::path::{Path, PathBuf};

use ksos_formats::Arch;
use ksos_formats::digest::Hasher;

use super::extract::{self, ExtractError};
use super::toolchain::{Toolchain, gnu_target, linker_variable};
use super::{Build, CargoError, command};
use crate::cache::Blob;
use crate::effects::fs::{self, Context};
use crate::effects::net::Fetch;
use crate::source::apt::index::in_parallel;
use crate::source::apt::{
    AptError, Archive, Keyring, Options, Pinned, Repository, Universe, deb, load, mirror, pool, version,
};

/// Debian 12's archive keys: see `manifests/keys/README.md`.
const KEYS: &[u8] = include_bytes!("../../../../manifests/keys/debian-archive-bookworm.asc");

/// What the machine has anyway, or what the linker does not need.
const LEFT_OUT: [&str; 5] = ["libc6", "libc-dev", "libgcc-s1", "gcc", "binutils"];

/// Where the packages come from.
#[derive(Clone, Copy)]
pub struct Packages<'a> {
    /// Downloads.
    pub fetch: &'a dyn Fetch,
    /// See [`repositories`].
    pub repositories: &'a [Repository],
    /// The time, in seconds since 1970.
    pub now: u64,
}

/// Returns Debian 12's archives. `environment` and `host` are as for [`mirror::order`].
///
/// # Errors
/// When the built-in keys cannot be read.
pub fn repositories(environment: Option<&str>, host: &[String]) -> Result<Vec<Repository>, AptError> {
    let keyring = Keyring::parse("debian-archive-bookworm.asc", KEYS)?;
    let repository = |path: &str, suites: &[&str]| Repository {
        name: path.to_owned(),
        mirrors: mirror::order(environment, host, path, &[mirror::public(path)]),
        suites: suites.iter().map(|suite| (*suite).to_owned()).collect(),
        components: vec!["main".to_owned()],
        keyring: keyring.clone(),
    };
    Ok(vec![
        repository("debian", &["bookworm", "bookworm-updates"]),
        repository("debian-security", &["bookworm-security"]),
    ])
}

/// Returns the toolchain that builds on this machine for `build.arch`: the one in the cache, or with `renew` the newest.
///
/// # Errors
/// [`CargoError`].
pub fn toolchain(build: &Build<'_>, packages: &Packages<'_>, renew: bool) -> Result<Toolchain, CargoError> {
    let host = host_arch(build.arch)?;
    let current = directory(build).join(format!("{}-{}", host.debian(), build.arch.debian()));
    if !renew {
        let name = fs::read_to_string(&current, 64).unwrap_or_default();
        let root = directory(build).join(&name);
        if !name.is_empty() && root.join("complete").is_file() {
            return assemble(build, host, &root, &name);
        }
    }
    let pinned = request(packages, host, build.arch)?;
    install(build, packages, &pinned)
}

/// Returns the packages of the toolchain that runs on `host` and builds for `target`.
///
/// # Errors
/// [`CargoError::Packages`] or [`CargoError::Unresolved`].
pub fn request(packages: &Packages<'_>, host: Arch, target: Arch) -> Result<Vec<Pinned>, CargoError> {
    let architectures = [host.debian(), target.debian()];
    let archive = load(packages.fetch, packages.repositories, &architectures, packages.now)
        .map_err(|source| CargoError::Packages { target: gnu_target(target), source: Box::new(source) })?;
    choose(&archive, host, target).map_err(|cause| CargoError::Unresolved { target: gnu_target(target), cause })
}

fn choose(archive: &Archive, host: Arch, target: Arch) -> Result<Vec<Pinned>, String> {
    let universe = Universe::new(archive, host.debian());
    let offered = [
        universe.versions("rustc-web", host.debian()),
        universe.versions("libstd-rust-web-dev", host.debian()),
        universe.versions("libstd-rust-web-dev", target.debian()),
    ];
    let [compiler, host_std, target_std] = &offered;
    let common = compiler.iter().filter(|version| host_std.contains(version) && target_std.contains(version));
    let newest = common.max_by(|a, b| version::compare(a, b));
    let newest = newest.ok_or_else(|| {
        let list = |versions: &[&str]| if versions.is_empty() { "none".to_owned() } else { versions.join(", ") };
        let [compiler, host_std, target_std] = offered.each_ref().map(|versions| list(versions));
        format!(
            "no version of rustc-web ({compiler}) is also one of libstd-rust-web-dev for {host} ({host_std}) and for \
             {target} ({target_std})"
        )
    })?;
    let machine = target.machine().replace('_', "-");
    let requests = [
        format!("rustc-web={newest}"),
        format!("gcc-{machine}-linux-gnu"),
        format!("libc6-dev-{}-cross", target.debian()),
    ];
    let exclude = LEFT_OUT.map(str::to_owned);
    let options = Options { recommends: false, exclude: &exclude };
    let mut pinned = universe.resolve(&requests, &options).map_err(|error| error.to_string())?;
    // Only its library files are wanted, not the compiler for the target that it depends on.
    let std = format!("libstd-rust-web-dev:{}={newest}", target.debian());
    pinned.push(universe.find(&std).map_err(|error| error.to_string())?);
    Ok(pinned)
}

/// Fetches and unpacks `pinned` unless that is done already, and makes it the current toolchain.
///
/// # Errors
/// [`CargoError`]; an interrupted call leaves nothing that a later one takes for finished.
pub fn install(build: &Build<'_>, packages: &Packages<'_>, pinned: &[Pinned]) -> Result<Toolchain, CargoError> {
    let host = host_arch(build.arch)?;
    let name = identity(pinned);
    let root = directory(build).join(&name);
    if !root.join("complete").is_file() {
        let blobs = fetch_all(build, packages, pinned)?;
        unpack(build, host, &blobs, &root)?;
    }
    let current = directory(build).join(format!("{}-{}", host.debian(), build.arch.debian()));
    fs::write_atomic(&current, name.as_bytes())?;
    assemble(build, host, &root, &name)
}

fn directory(build: &Build<'_>) -> PathBuf {
    build.cache.join("toolchain")
}

/// Returns this machine's architecture.
fn host_arch(target: Arch) -> Result<Arch, CargoError> {
    std::env::consts::ARCH.parse().map_err(|error: ksos_formats::arch::UnknownArch| CargoError::Unresolved {
        target: gnu_target(target),
        cause: format!("this machine has an {error}"),
    })
}

fn identity(pinned: &[Pinned]) -> String {
    let mut hasher = Hasher::new();
    hasher.field(b"toolchain-1");
    for package in pinned {
        hasher.field(&package.sha256.0);
    }
    hasher.finish().hex()[..16].to_owned()
}

fn fetch_all(build: &Build<'_>, packages: &Packages<'_>, pinned: &[Pinned]) -> Result<Vec<Blob>, CargoError> {
    let fetch = |package: &Pinned| {
        let repository = packages.repositories.iter().find(|repository| repository.name == package.repository);
        let unknown = || CargoError::Unresolved {
            target: gnu_target(build.arch),
            cause: format!("{} is from the unknown archive {}", package.name, package.repository),
        };
        let what = format!("the toolchain for {}", gnu_target(build.arch));
        pool::fetch(packages.fetch, package, repository.ok_or_else(unknown)?, &what, packages.now)
            .map_err(|source| CargoError::Packages { target: gnu_target(build.arch), source: Box::new(source) })
    };
    in_parallel(pinned, fetch).into_iter().collect()
}

/// Unpacks the packages next to `root` and renames the result when it is complete.
#[expect(clippy::disallowed_methods, reason = "renames a whole directory into place")]
fn unpack(build: &Build<'_>, host: Arch, blobs: &[Blob], root: &Path) -> Result<(), CargoError> {
    let parent = directory(build);
    fs::create_dir_all(&parent)?;
    let temporary = tempfile::Builder::new().prefix(".unpack-").tempdir_in(&parent).context("create", &parent)?;
    for blob in blobs {
        let file = fs::open(&blob.path)?;
        let unpacked = deb::open(file).map_err(ExtractError::from);
        let unpacked = unpacked.and_then(|package| extract::unpack(package.data, temporary.path()));
        unpacked.map_err(|source| CargoError::Unpack { package: blob.path.display().to_string(), source })?;
    }
    for (name, text) in wrappers(host, build.arch) {
        let mut file = fs::AtomicFile::create(&temporary.path().join("bin").join(&name))?;
        std::io::Write::write_all(&mut file, text.as_bytes()).context("write", &temporary.path().join(&name))?;
        file.commit(0o755)?;
    }
    fs::write_atomic(&temporary.path().join("complete"), b"")?;
    let temporary = temporary.keep();
    match std::fs::rename(&temporary, root) {
        Ok(()) => Ok(()),
        // Another build was quicker, or an older one was damaged.
        Err(error) => {
            let other = root.join("complete").is_file();
            if other {
                let _ = std::fs::remove_dir_all(&temporary);
                return Ok(());
            }
            let _ = std::fs::remove_dir_all(root);
            std::fs::rename(&temporary, root).map_err(|_| error).context("rename to", root).map_err(Into::into)
        }
    }
}

/// Returns the wrapper scripts: name and text. They find the toolchain from where they are.
fn wrappers(host: Arch, target: Arch) -> Vec<(String, String)> {
    let triplet = format!("{}-linux-gnu", host.machine());
    let libraries = format!("$root/usr/lib/{triplet}:$root/lib/{triplet}");
    let gcc = format!("{}-linux-gnu-gcc", target.machine());
    let start = "#!/bin/sh\nroot=${0%/bin/*}\n";
    vec![
        ("rustc".to_owned(), format!("{start}LD_LIBRARY_PATH=\"{libraries}\" exec \"$root/usr/bin/rustc\" \"$@\"\n")),
        (
            gcc.clone(),
            format!(
                "{start}PATH=\"$root/usr/bin:$PATH\" LD_LIBRARY_PATH=\"{libraries}\" exec \"$root/usr/bin/{gcc}\" \"$@\"\n"
            ),
        ),
        // Build scripts are linked by the machine's own compiler, which must not see the toolchain's libraries.
        ("cc".to_owned(), "#!/bin/sh\nunset LD_LIBRARY_PATH\nexec cc \"$@\"\n".to_owned()),
    ]
}

fn assemble(build: &Build<'_>, host: Arch, root: &Path, identity: &str) -> Result<Toolchain, CargoError> {
    if command::find("cc", &super::environment(build.environment)).is_none() {
        return Err(CargoError::MissingTool {
            program: "cc".to_owned(),
            needed_for: format!("linking the build scripts of {}", build.package),
        });
    }
    fs::metadata(root).iter().for_each(|metadata| crate::cache::gc::mark_used(root, metadata));
    let target = gnu_target(build.arch);
    let gcc = root.join("bin").join(format!("{}-linux-gnu-gcc", build.arch.machine())).into_os_string();
    let variables = vec![
        ("RUSTC".into(), root.join("bin/rustc").into_os_string()),
        (linker_variable(&target), gcc.clone()),
        (format!("CC_{}", target.replace('-', "_")).into(), gcc),
        (linker_variable(&gnu_target(host)), root.join("bin/cc").into_os_string()),
    ];
    Ok(Toolchain::new(target, root.to_owned(), variables, Vec::new(), identity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::apt::index::Index;
    use crate::source::apt::packages::Packages as Table;
    use crate::source::apt::testing::stanza;

    fn archive(versions: [&[&str]; 3]) -> Archive {
        let [compiler, host_std, target_std] = versions;
        let mut text = String::new();
        for version in compiler {
            let fields = format!("Depends: libstd-rust-web-dev (= {version}), gcc, libc6, libllvm\n");
            text += &stanza("rustc-web", version, "amd64", &fields);
        }
        for version in host_std {
            text += &stanza("libstd-rust-web-dev", version, "amd64", "");
        }
        for version in target_std {
            text += &stanza("libstd-rust-web-dev", version, "arm64", "Depends: libllvm\n");
        }
        text += &stanza("gcc-aarch64-linux-gnu", "12", "amd64", "Depends: binutils, libc6 (>= 2)\n");
        text += &stanza("libc6-dev-arm64-cross", "2.36", "all", "");
        text += &stanza("libllvm", "22", "amd64", "");
        text += &stanza("libllvm", "22", "arm64", "");
        let packages = Table::read(text.as_bytes()).unwrap();
        Archive { indexes: vec![Index { repository: "debian".to_owned(), suite: "bookworm".to_owned(), packages }] }
    }

    #[test]
    fn the_newest_common_version_is_taken() {
        let archive = archive([&["1.97", "1.96", "1.85"], &["1.97", "1.96"], &["1.96", "1.85"]]);
        let pinned = choose(&archive, Arch::X86_64, Arch::Arm64).unwrap();
        let shown: Vec<String> = pinned
            .iter()
            .map(|package| format!("{}:{}={}", package.name, package.architecture, package.version))
            .collect();
        assert_eq!(
            shown,
            [
                "gcc-aarch64-linux-gnu:amd64=12",
                "libc6-dev-arm64-cross:all=2.36",
                "libllvm:amd64=22",
                "libstd-rust-web-dev:amd64=1.96",
                "rustc-web:amd64=1.96",
                "libstd-rust-web-dev:arm64=1.96"
            ]
        );
    }

    #[test]
    fn no_common_version_is_said() {
        let error = choose(&archive([&["1.97"], &["1.97"], &[]]), Arch::X86_64, Arch::Arm64).unwrap_err();
        assert_eq!(
            error,
            "no version of rustc-web (1.97) is also one of libstd-rust-web-dev for x86_64 (1.97) and for arm64 (none)"
        );
    }

    #[test]
    fn the_built_in_keys_are_readable() {
        let repositories = repositories(Some("http://m.test"), &[]).unwrap();
        assert_eq!(
            repositories[1].mirrors,
            ["http://m.test/debian-security", "http://security.debian.org/debian-security"]
        );
        assert_eq!(repositories[0].keyring.fingerprints().len(), 3);
    }
}
