//! Which compiler and linker build a static binary for an architecture.
//!
//! In this order: the installed Rust if it has the target's standard library and a linker for it is there (glibc with a
//! cross gcc, or musl, which brings its own start files, with `rust-lld`); else Debian's packages: see [`super::debian`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ksos_formats::Arch;
use ksos_formats::digest::Hasher;

use super::{Build, CargoError, command};

/// A way to build for a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    target: String,
    sysroot: PathBuf,
    variables: Vec<(OsString, OsString)>,
    flags: Vec<String>,
    identity: String,
}

impl Toolchain {
    /// Returns a toolchain. `identity` names the compiler and its target: another identity gets another target directory.
    pub(super) fn new(
        target: String,
        sysroot: PathBuf,
        variables: Vec<(OsString, OsString)>,
        flags: Vec<String>,
        identity: &str,
    ) -> Self {
        let mut hasher = Hasher::new();
        for field in [target.as_str(), identity] {
            hasher.field(field.as_bytes());
        }
        for flag in &flags {
            hasher.field(flag.as_bytes());
        }
        let identity = format!("{target}-{}", &hasher.finish().hex()[..16]);
        Toolchain { target, sysroot, variables, flags, identity }
    }

    /// Returns Rust's name of the target, e.g. `aarch64-unknown-linux-gnu`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Returns the compiler's own directory.
    pub fn sysroot(&self) -> &Path {
        &self.sysroot
    }

    /// Returns what cargo's environment needs more.
    pub fn variables(&self) -> Vec<(OsString, OsString)> {
        self.variables.clone()
    }

    /// Returns more compiler flags for the target.
    pub fn flags(&self) -> &[String] {
        &self.flags
    }

    /// Returns a name that changes with the compiler, the target and the way of linking; usable as a file name.
    pub fn identity(&self) -> &str {
        &self.identity
    }
}

/// Returns Rust's name of the glibc target.
pub fn gnu_target(arch: Arch) -> String {
    format!("{}-unknown-linux-gnu", arch.machine())
}

/// Returns the installed toolchain that can build for `build.arch`; none when it lacks the target.
///
/// # Errors
/// When rustc is not installed or fails.
pub fn installed(build: &Build<'_>) -> Result<Option<Toolchain>, CargoError> {
    let variables = super::environment(build.environment);
    if command::find("cargo", &variables).is_none() {
        return Err(CargoError::MissingTool {
            program: "cargo".to_owned(),
            needed_for: format!("building {} from source", build.package),
        });
    }
    // Run where cargo runs: a rust-toolchain.toml there counts.
    let version = command::output("rustc", &["-vV"], &variables, build.workspace)?;
    let sysroot = PathBuf::from(command::output("rustc", &["--print", "sysroot"], &variables, build.workspace)?);
    let find = |program: &str| command::find(program, &variables);
    Ok(choose(build.arch, &version, &sysroot, find))
}

/// Returns this machine's architecture as `rustc -vV` states it.
pub(super) fn host(version: &str) -> Option<&str> {
    version.lines().find_map(|line| line.strip_prefix("host: "))
}

fn choose(arch: Arch, version: &str, sysroot: &Path, find: impl Fn(&str) -> Option<PathBuf>) -> Option<Toolchain> {
    let gnu = gnu_target(arch);
    let has_std = |target: &str| sysroot.join("lib/rustlib").join(target).join("lib").is_dir();
    let make = |target: &str, variables, flags| {
        Toolchain::new(target.to_owned(), sysroot.to_owned(), variables, flags, version)
    };
    if host(version) == Some(gnu.as_str()) && has_std(&gnu) {
        return Some(make(&gnu, Vec::new(), Vec::new()));
    }
    let gcc = format!("{}-linux-gnu-gcc", arch.machine());
    if let Some(linker) = has_std(&gnu).then(|| find(&gcc)).flatten() {
        let variables = vec![
            (linker_variable(&gnu), linker.clone().into_os_string()),
            (format!("CC_{}", gnu.replace('-', "_")).into(), linker.into_os_string()),
        ];
        return Some(make(&gnu, variables, Vec::new()));
    }
    let musl = format!("{}-unknown-linux-musl", arch.machine());
    let lld = host(version).map(|host| sysroot.join("lib/rustlib").join(host).join("bin/rust-lld"));
    let lld = lld.filter(|path| path.is_file());
    if let Some(lld) = has_std(&musl).then_some(lld).flatten() {
        let flags = vec!["-Clinker-flavor=gnu-lld".to_owned(), "-Clink-self-contained=yes".to_owned()];
        return Some(make(&musl, vec![(linker_variable(&musl), lld.into_os_string())], flags));
    }
    None
}

/// Returns the variable that names a target's linker (The Cargo Book, "Environment Variables").
pub(super) fn linker_variable(target: &str) -> OsString {
    format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::fs;

    const VERSION: &str = "rustc 1.95.0\nhost: x86_64-unknown-linux-gnu\nrelease: 1.95.0";

    fn sysroot(parts: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for part in parts {
            let path = directory.path().join("lib/rustlib").join(part);
            if part.ends_with("rust-lld") {
                fs::write_atomic(&path, b"").unwrap();
            } else {
                fs::create_dir_all(&path).unwrap();
            }
        }
        directory
    }

    #[test]
    fn the_installed_toolchain_is_used_when_it_can_link() {
        let host = "x86_64-unknown-linux-gnu/lib";
        let lld = "x86_64-unknown-linux-gnu/bin/rust-lld";
        let gnu = "aarch64-unknown-linux-gnu/lib";
        let musl = "aarch64-unknown-linux-musl/lib";
        let none = |_: &str| None;
        let gcc = |program: &str| (program == "aarch64-linux-gnu-gcc").then(|| PathBuf::from("/bin/gcc"));
        let target = |arch, parts: &[&str], find: &dyn Fn(&str) -> Option<PathBuf>| {
            choose(arch, VERSION, sysroot(parts).path(), find).map(|toolchain| toolchain.target().to_owned())
        };
        let (x86, arm) = (Arch::X86_64, Arch::Arm64);
        assert_eq!(target(x86, &[host], &none).as_deref(), Some("x86_64-unknown-linux-gnu"));
        assert_eq!(target(x86, &[], &none), None);
        assert_eq!(target(arm, &[host, lld], &gcc), None);
        assert_eq!(target(arm, &[host, gnu], &gcc).as_deref(), Some("aarch64-unknown-linux-gnu"));
        assert_eq!(target(arm, &[host, lld, gnu], &none), None);
        assert_eq!(target(arm, &[host, lld, gnu, musl], &none).as_deref(), Some("aarch64-unknown-linux-musl"));
        assert_eq!(target(arm, &[host, musl], &none), None);
    }

    #[test]
    fn the_identity_follows_compiler_target_and_flags() {
        let make = |target: &str, flags: &[&str], identity: &str| {
            let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
            Toolchain::new(target.to_owned(), "/x".into(), Vec::new(), flags, identity).identity().to_owned()
        };
        let base = make("a", &[], "1");
        assert_eq!(base, make("a", &[], "1"));
        for other in [make("b", &[], "1"), make("a", &["f"], "1"), make("a", &[], "2")] {
            assert_ne!(base, other);
        }
    }
}
