//! The `cargo` source: builds a static binary, for this machine's architecture or another.
//!
//! ```text
//! inputs     digest of what the binary is made from, so that an unchanged one needs no cargo
//! toolchain  which compiler and linker: the installed ones, or Debian's cross packages unpacked into the cache
//! debian     which packages those are, and unpacking them
//! extract    a package's files onto disk
//! command    runs cargo and rustc
//! ```
//!
//! The same sources and toolchain give the same bytes in any directory, for any user: source, registry and target paths are
//! remapped, the environment is a fixed list, and the target is always named, so that flags for it never reach build scripts.

pub mod debian;
pub mod extract;
pub mod inputs;
pub mod toolchain;

mod command;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ksos_formats::{Arch, Digest};
use object::Object;

use crate::cache::gc;
use crate::effects::fs::{self, FsError};
use toolchain::Toolchain;

/// The largest binary accepted, in bytes.
const BINARY_LIMIT: u64 = 256 << 20;

/// What to build, and with what around it.
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    /// The workspace directory.
    pub workspace: &'a Path,
    /// The package in it.
    pub package: &'a str,
    /// Cargo profile, e.g. `release`.
    pub profile: &'a str,
    /// The binary target.
    pub bin: &'a str,
    /// What it runs on.
    pub arch: Arch,
    /// Directory for toolchains and target directories.
    pub cache: &'a Path,
    /// This process' environment; [`environment`] chooses from it.
    pub environment: &'a [(OsString, OsString)],
    /// `SOURCE_DATE_EPOCH`, in seconds since 1970.
    pub epoch: u64,
    /// Whether cargo may not use the network.
    pub offline: bool,
}

/// A built binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Where cargo put it. The next build of the same profile replaces it.
    pub path: PathBuf,
    /// SHA-256 of its content.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
}

/// The binary cannot be built. Every way out ends with `--component NAME=FILE`, which takes a finished binary.
#[derive(Debug, thiserror::Error)]
pub enum CargoError {
    /// A program is not installed.
    #[error("{program} is not in PATH, and {needed_for} needs it")]
    MissingTool {
        /// The program.
        program: String,
        /// What for.
        needed_for: String,
    },
    /// A program cannot be started.
    #[error("cannot run {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A program failed.
    #[error("{program} failed ({status}):\n{output}")]
    Failed {
        /// The program and its arguments.
        program: String,
        /// Exit status.
        status: String,
        /// The last lines it wrote.
        output: String,
    },
    /// The result is not what an image can run.
    #[error("{} is not a static {arch} program: {cause}", path.display())]
    Unsuitable {
        /// The binary.
        path: PathBuf,
        /// What it must run on.
        arch: Arch,
        /// What is wrong.
        cause: String,
    },
    /// A file cannot be used.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A `Cargo.toml` cannot be understood.
    #[error("{}: {cause}", path.display())]
    CargoToml {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The cross toolchain's packages cannot be had.
    #[error("no Rust toolchain for {target} is installed, and Debian's cannot be had: {source}")]
    Packages {
        /// Rust's name of the target.
        target: String,
        /// What is wrong.
        source: Box<crate::source::apt::AptError>,
    },
    /// The cross toolchain's packages do not fit together.
    #[error("no Rust toolchain for {target} is installed, and Debian's cannot be put together: {cause}")]
    Unresolved {
        /// Rust's name of the target.
        target: String,
        /// What is wrong.
        cause: String,
    },
    /// A package of the cross toolchain cannot be unpacked.
    #[error("cannot unpack {package}: {source}")]
    Unpack {
        /// The package file.
        package: String,
        /// What is wrong.
        source: extract::ExtractError,
    },
}

impl CargoError {
    /// Tells whether something could not be downloaded.
    pub fn is_download(&self) -> bool {
        matches!(self, CargoError::Packages { .. })
    }

    /// Returns what the user can do, given the component's name.
    pub fn hint(&self, component: &str) -> String {
        format!("`--component {component}=FILE` takes a static binary that was built elsewhere")
    }
}

/// Chooses from `variables` what cargo may see: where its tools and caches are, and how to reach the network.
pub fn environment(variables: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    const NAMES: [&str; 12] = [
        "PATH",
        "HOME",
        "CARGO_HOME",
        "RUSTUP_HOME",
        "RUSTUP_TOOLCHAIN",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "TMPDIR",
    ];
    const PREFIXES: [&str; 3] = ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_"];
    let kept = |name: &str| {
        NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
            || PREFIXES.iter().any(|known| name.starts_with(known))
    };
    variables.iter().filter(|(name, _)| name.to_str().is_some_and(kept)).cloned().collect()
}

/// Fetches what the build needs from registries, for a later build without the network.
///
/// # Errors
/// [`CargoError`].
pub fn fetch(build: &Build<'_>, toolchain: &Toolchain) -> Result<(), CargoError> {
    let arguments: Vec<OsString> = ["fetch", "--locked", "--target", toolchain.target()].map(Into::into).into();
    let mut variables = environment(build.environment);
    variables.extend(toolchain.variables());
    command::run("cargo", &arguments, &variables, build.workspace, &|_| {})
}

/// Builds the binary with `toolchain`. `progress` gets each line that cargo writes.
///
/// # Errors
/// [`CargoError`].
pub fn build(build: &Build<'_>, toolchain: &Toolchain, progress: &dyn Fn(&str)) -> Result<Built, CargoError> {
    // One for each checkout: cargo's lock ends before its result is taken away.
    let checkout = &Digest::of(build.workspace.as_os_str().as_encoded_bytes()).hex()[..16];
    let target_directory = build.cache.join("target").join(format!("{}-{checkout}", toolchain.identity()));
    fs::create_dir_all(&target_directory)?;
    let target = toolchain.target();
    let mut arguments: Vec<OsString> =
        ["build", "--locked", "--message-format", "short", "--color", "never"].map(Into::into).into();
    for (option, value) in
        [("--package", build.package), ("--bin", build.bin), ("--profile", build.profile), ("--target", target)]
    {
        arguments.extend([option.into(), value.into()]);
    }
    arguments.extend(["--target-dir".into(), target_directory.clone().into_os_string()]);
    if build.offline {
        arguments.push("--offline".into());
    }
    let mut variables = environment(build.environment);
    variables.extend(toolchain.variables());
    variables.push(("CARGO_ENCODED_RUSTFLAGS".into(), rust_flags(build, toolchain, &target_directory)));
    variables.push(("SOURCE_DATE_EPOCH".into(), build.epoch.to_string().into()));
    variables.push(("CARGO_INCREMENTAL".into(), "0".into()));
    command::run("cargo", &arguments, &variables, build.workspace, progress)?;
    fs::metadata(&target_directory).iter().for_each(|metadata| gc::mark_used(&target_directory, metadata));
    // Cargo's two oldest profiles have directories of other names.
    let directory = if matches!(build.profile, "dev" | "test") { "debug" } else { build.profile };
    let directory = if directory == "bench" { "release" } else { directory };
    inspect(target_directory.join(target).join(directory).join(build.bin), build.arch)
}

/// Returns the compiler flags for the target, separated as `CARGO_ENCODED_RUSTFLAGS` wants them.
fn rust_flags(build: &Build<'_>, toolchain: &Toolchain, target_directory: &Path) -> OsString {
    let mut flags: Vec<OsString> = vec!["-Ctarget-feature=+crt-static".into()];
    flags.extend(toolchain.flags().iter().map(Into::into));
    let cargo_home = lookup(build.environment, "CARGO_HOME").map(PathBuf::from);
    let home = lookup(build.environment, "HOME").map(|home| Path::new(&home).join(".cargo"));
    let mut remapped = vec![(build.workspace.to_owned(), "/source")];
    remapped.extend(cargo_home.or(home).map(|path| (path, "/cargo")));
    remapped.push((toolchain.sysroot().to_owned(), "/rust"));
    // Last wins: the target directory may be inside one of the others.
    remapped.push((target_directory.to_owned(), "/target"));
    for (path, name) in remapped {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(path);
        flag.push("=");
        flag.push(name);
        flags.push(flag);
    }
    flags.join(std::ffi::OsStr::new("\u{1f}"))
}

fn lookup(variables: &[(OsString, OsString)], name: &str) -> Option<OsString> {
    variables.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.clone())
}

/// Checks that `path` is a program that needs nothing but a kernel of `arch`.
///
/// # Errors
/// [`CargoError::Unsuitable`] or [`CargoError::Fs`].
pub fn inspect(path: PathBuf, arch: Arch) -> Result<Built, CargoError> {
    let bytes = fs::read(&path, BINARY_LIMIT)?;
    let unsuitable = |cause: String| CargoError::Unsuitable { path: path.clone(), arch, cause };
    let file = object::File::parse(bytes.as_slice()).map_err(|error| unsuitable(error.to_string()))?;
    let expected = match arch {
        Arch::X86_64 => object::Architecture::X86_64,
        Arch::Arm64 => object::Architecture::Aarch64,
    };
    if file.architecture() != expected {
        return Err(unsuitable(format!("it is for {:?}", file.architecture())));
    }
    if let Some(library) = needed_library(&bytes).map_err(unsuitable)? {
        return Err(unsuitable(format!("it needs {library}")));
    }
    Ok(Built { digest: Digest::of(&bytes), size: bytes.len() as u64, path })
}

/// Returns an interpreter or shared library that the ELF file in `bytes` needs (System V ABI, "Program Header").
fn needed_library(bytes: &[u8]) -> Result<Option<String>, String> {
    use object::elf::{DT_NEEDED, FileHeader64, PT_INTERP};
    use object::read::elf::{Dyn, FileHeader, ProgramHeader};
    let text = |error: object::Error| error.to_string();
    let header = FileHeader64::<object::Endianness>::parse(bytes).map_err(text)?;
    let endian = header.endian().map_err(text)?;
    for segment in header.program_headers(endian, bytes).map_err(text)? {
        if segment.p_type(endian) == PT_INTERP {
            let name = segment.data(endian, bytes).map_err(|()| "its interpreter lies outside of it".to_owned())?;
            return Ok(Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()));
        }
        let dynamic = segment.dynamic(endian, bytes).map_err(text)?.unwrap_or_default();
        if dynamic.iter().any(|entry| entry.d_tag(endian) == DT_NEEDED) {
            return Ok(Some("shared libraries".to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
