//! The `kernel` source: a kernel built from its source by `make`, for this machine's architecture or another.
//!
//! ```text
//! config   fragments: merged, and held against the configuration that came out
//! tools    the compiler, and what is not installed
//! tree     the source onto disk; what was built into the cache
//! ```
//!
//! A build works in a directory of its own below `CACHE/kernel`, which goes with it; one that was left by a killed build
//! goes when the next build starts. Kernels are built one at a time: make uses every processor. Whoever looks for the
//! result finds all of it or nothing, since it is one pack in the cache.
//!
//! The same source, configuration and compiler give the same bytes in any directory, for any user, at any time: the
//! environment is a fixed list, paths are mapped away, and the time of the build is that of the newest file of the source,
//! not that of the image: an image with another epoch needs no other kernel.

pub mod config;
pub mod tools;
mod tree;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use ksos_formats::Arch;
use serde::Serialize;

pub use self::config::{Fragment, Lost};
pub use self::tools::{Missing, Toolchain};
use crate::cache::{Cache, CacheError};
use crate::effects::clock;
use crate::effects::fs::{self, AtomicFile, Context, FsError};
use crate::effects::process::{Invocation, ProcessError, Stream, find_program, run};
use crate::kernel::{KernelConfig, Requirement};
use crate::manifest::KernelCompiler;
use crate::source::archive::{ArchiveError, Unpacked};
use crate::source::cargo::extract::ExtractError;
use crate::tree::Tree;

/// The largest `.config`, in bytes.
const CONFIG_LIMIT: u64 = 8 << 20;
/// The time of a kernel whose source has none: 2026-01-01T00:00:00Z.
const DEFAULT_TIME: u64 = 1_767_225_600;

/// What the fragments are laid over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Base {
    /// A make target: `defconfig`, `tinyconfig`.
    Target(&'static str),
    /// A whole configuration.
    Text(Fragment),
}

/// What to build, and with what around it.
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    /// The tree of the component with the source.
    pub source: &'a Tree,
    /// What the fragments are laid over.
    pub base: &'a Base,
    /// Fragments, in order.
    pub fragments: &'a [Fragment],
    /// What the image requires of the configuration.
    pub required: &'a [Requirement],
    /// What it runs on.
    pub arch: Arch,
    /// The compiler.
    pub compiler: KernelCompiler,
    /// The component's name, for the log.
    pub component: &'a str,
    /// Where the result goes, and the work is done.
    pub cache: &'a Cache,
    /// This process' environment; [`environment`] chooses from it.
    pub environment: &'a [(OsString, OsString)],
    /// Compilers at once.
    pub jobs: usize,
}

/// A built kernel, laid out as a packaged one: `boot/vmlinuz-R`, `boot/config-R`, `usr/lib/modules/R`.
#[derive(Debug)]
pub struct Built {
    /// The tree and its contents.
    pub unpacked: Unpacked,
    /// Release (`uname -r`).
    pub release: String,
    /// Seconds that make took.
    pub seconds: u64,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// A kernel cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum KernelBuildError {
    /// Programs or headers that are not installed.
    #[error("building a kernel needs what is not installed: {}", missing.iter().map(|tool| tool.what).collect::<Vec<_>>().join(", "))]
    Missing {
        /// All of them.
        missing: Vec<Missing>,
    },
    /// The component has no kernel source, or several.
    #[error("component {component} has no kernel source: {cause}")]
    NoSource {
        /// The component.
        component: String,
        /// What was found.
        cause: String,
    },
    /// The source cannot be unpacked.
    #[error("cannot unpack {path}: {source}")]
    Unpack {
        /// The tarball.
        path: String,
        /// The cause.
        source: ExtractError,
    },
    /// A line of a fragment that sets no option.
    #[error("{place}: {text:?} is not a kernel option; expected CONFIG_NAME=value or # CONFIG_NAME is not set")]
    Fragment {
        /// File and line.
        place: String,
        /// The line.
        text: String,
    },
    /// Options that did not come out as asked for.
    #[error("kernel {release} does not take every option:\n{}", lost.iter().map(|lost| format!("  {lost}")).collect::<Vec<_>>().join("\n"))]
    Lost {
        /// Version of the source.
        release: String,
        /// All of them.
        lost: Vec<Lost>,
    },
    /// Options that the image requires and the configuration has not.
    #[error("kernel {release} lacks options that the image requires:\n{}", misses.iter().map(|miss| format!("  {miss}")).collect::<Vec<_>>().join("\n"))]
    Required {
        /// Version of the source.
        release: String,
        /// Place, what was required, what was found.
        misses: Vec<String>,
    },
    /// `make` failed.
    #[error("make {target}: {source}\nthe whole log: {}", log.display())]
    Make {
        /// The target.
        target: String,
        /// The end of what it wrote.
        source: ProcessError,
        /// Where all of it is.
        log: PathBuf,
    },
    /// A program that tells about the compiler failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// `make` succeeded and something is not there.
    #[error("make gave no {path}")]
    NoResult {
        /// What is not there.
        path: String,
    },
    /// The configuration cannot be read.
    #[error(transparent)]
    Config(#[from] crate::kernel::config::ConfigError),
    /// A file cannot be used.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// What was built cannot be read.
    #[error(transparent)]
    Archive(#[from] Box<ArchiveError>),
    /// What was built cannot be put into the cache.
    #[error(transparent)]
    Pack(#[from] crate::tree::pack::PackError),
    /// What was built has a name that no image can have.
    #[error(transparent)]
    Tree(#[from] crate::tree::TreeError),
}

impl KernelBuildError {
    /// Returns what the user can do, given the component's name.
    pub fn hint(&self, component: &str) -> String {
        match self {
            KernelBuildError::Missing { missing } => {
                let list = |name: fn(&Missing) -> &'static str| missing.iter().map(name).collect::<Vec<_>>().join(" ");
                let (debian, fedora) = (list(|tool| tool.debian), list(|tool| tool.fedora));
                format!("Debian: apt-get install {debian}; Fedora: dnf install {fedora}")
            }
            _ => format!("`--component {component}=DIRECTORY` takes a kernel that was built elsewhere"),
        }
    }
}

/// Chooses from `variables` what make may see: where programs are, and where temporary files go.
pub fn environment(variables: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let kept = |name: &OsString| ["PATH", "HOME", "TMPDIR"].iter().any(|known| name == known);
    variables.iter().filter(|(name, _)| kept(name)).cloned().collect()
}

/// Builds the kernel; `progress` gets each line that make writes.
///
/// # Errors
/// [`KernelBuildError`].
pub fn build(build: &Build<'_>, progress: &mut dyn FnMut(&str)) -> Result<Built, KernelBuildError> {
    let variables = environment(build.environment);
    let toolchain = tools::toolchain(build.arch, build.compiler, &variables)?;
    let bucket = build.cache.bucket("kernel");
    let _one_at_a_time = build.cache.exclusive(&bucket)?;
    let work = tree::WorkDirectory::create(&bucket)?;
    let source = tree::unpack(build.source, build.component, work.path())?;
    let started = clock::now_seconds();
    let log_path = bucket.join(format!("{}-{}.log", build.component, build.arch));
    let mut make = Make {
        directory: &source.directory,
        program: find_program("make", &tools::path(&variables)).expect("the toolchain was found with make"),
        arguments: fixed_arguments(build, &toolchain),
        variables: make_variables(variables, &source),
        log: AtomicFile::create(&log_path)?,
        log_path,
        progress,
    };
    let config = configure(build, &mut make)?;
    let image = image_path(build.arch, &config);
    let mut targets = vec![image.rsplit('/').next().unwrap_or(image)];
    let modular = config.options.get("MODULES").is_some_and(|value| value == "y");
    if modular {
        targets.push("modules");
    }
    make.run(&targets, &[])?;
    let out = work.path().join("out");
    if modular {
        // Without depmod: the composer makes the index of what an image takes.
        let mut into = OsString::from("INSTALL_MOD_PATH=");
        into.push(&out);
        make.run(&["modules_install"], &[into, "INSTALL_MOD_STRIP=1".into(), "DEPMOD=true".into()])?;
    }
    let release = release(&source.directory)?;
    let unpacked = tree::collect(build.cache, &source, &out, image, &release)?;
    let seconds = clock::now_seconds().saturating_sub(started);
    Ok(Built { unpacked, seconds, notes: notes(&config), release })
}

/// Makes `.config` and checks that it is what was asked for.
fn configure(build: &Build<'_>, make: &mut Make<'_>) -> Result<KernelConfig, KernelBuildError> {
    let path = make.directory.join(".config");
    let base = match build.base {
        Base::Target(target) => {
            make.run(&[target], &[])?;
            fs::read_to_string(&path, CONFIG_LIMIT)?
        }
        Base::Text(Fragment { name, text }) => {
            KernelConfig::parse(name, text)?;
            text.clone()
        }
    };
    let (text, asked) = config::merge(&base, build.fragments)?;
    fs::write_atomic(&path, text.as_bytes())?;
    make.run(&["olddefconfig"], &[])?;
    let config = KernelConfig::parse(".config", &fs::read_to_string(&path, CONFIG_LIMIT)?)?;
    let lost = config::lost(&asked, &config, make.directory);
    let version = || version(make.directory);
    if !lost.is_empty() {
        return Err(KernelBuildError::Lost { release: version(), lost });
    }
    let misses = config.misses(build.required);
    if !misses.is_empty() {
        let misses = misses.iter().map(|miss| {
            let found = miss.found.as_deref().unwrap_or("not set");
            format!("{}: {}, found {found}", miss.requirement.place, miss.requirement)
        });
        return Err(KernelBuildError::Required { release: version(), misses: misses.collect() });
    }
    let missing = tools::missing_for(&config, &make.variables);
    if !missing.is_empty() {
        return Err(KernelBuildError::Missing { missing });
    }
    Ok(config)
}

/// Returns the kernel image that GRUB loads, below the source.
fn image_path(arch: Arch, config: &KernelConfig) -> &'static str {
    match arch {
        Arch::X86_64 => "arch/x86/boot/bzImage",
        Arch::Arm64 if config.options.contains_key("EFI_ZBOOT") => "arch/arm64/boot/vmlinuz.efi",
        Arch::Arm64 => "arch/arm64/boot/Image",
    }
}

fn fixed_arguments(build: &Build<'_>, toolchain: &Toolchain) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![format!("-j{}", build.jobs.max(1)).into()];
    arguments.extend(toolchain.arguments.iter().map(Into::into));
    arguments
}

/// Returns the environment of make: nothing of the machine, the user or the time gets into the kernel (Linux
/// `Documentation/kbuild/reproducible-builds.rst`).
fn make_variables(mut variables: Vec<(OsString, OsString)>, source: &tree::Source) -> Vec<(OsString, OsString)> {
    let mut map = OsString::from("-ffile-prefix-map=");
    map.push(&source.directory);
    map.push("=/usr/src/linux");
    let time = source.time.unwrap_or(DEFAULT_TIME);
    for (name, value) in [
        ("KBUILD_BUILD_TIMESTAMP", crate::oci::timestamp(time as i64).into()),
        ("KBUILD_BUILD_USER", "ksos".into()),
        ("KBUILD_BUILD_HOST", "ksos".into()),
        ("KBUILD_BUILD_VERSION", "1".into()),
        ("SOURCE_DATE_EPOCH", time.to_string().into()),
        ("KCFLAGS", map.clone()),
        ("KAFLAGS", map),
        // Set and empty: no `+` for a source without a git tag.
        ("LOCALVERSION", OsString::new()),
        ("LC_ALL", "C".into()),
        ("TZ", "UTC".into()),
    ] {
        variables.push((name.into(), value));
    }
    variables
}

fn notes(config: &KernelConfig) -> Vec<String> {
    let is = |name: &str, value: &str| config.options.get(name).is_some_and(|found| found == value);
    let mut notes = Vec::new();
    if is("MODULE_SIG", "y") && is("MODULE_SIG_KEY", "\"certs/signing_key.pem\"") {
        let note = "CONFIG_MODULE_SIG_KEY is certs/signing_key.pem: each build makes a key of its own, so no two builds \
                    of this kernel are equal; an empty one leaves modules unsigned";
        notes.push(note.to_owned());
    }
    notes
}

/// Calls of `make` in one directory, with one log.
struct Make<'a> {
    directory: &'a Path,
    program: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    log: AtomicFile,
    log_path: PathBuf,
    progress: &'a mut dyn FnMut(&str),
}

impl Make<'_> {
    fn run(&mut self, targets: &[&str], more: &[OsString]) -> Result<(), KernelBuildError> {
        let mut arguments = self.arguments.clone();
        arguments.extend(more.iter().cloned());
        arguments.extend(targets.iter().map(Into::into));
        let invocation = Invocation {
            program: self.program.clone(),
            arguments,
            environment: self.variables.clone(),
            directory: self.directory.to_owned(),
            interactive: false,
        };
        let (log, progress) = (&mut self.log, &mut self.progress);
        let mut written = Ok(());
        let result = run(&invocation, |_: Stream, line| {
            if written.is_ok() {
                written = writeln!(log, "{line}");
            }
            progress(line);
        });
        written.context("write", &self.log_path)?;
        let Err(source) = result else { return Ok(()) };
        // Kept for whoever looks for the cause.
        let log = std::mem::replace(&mut self.log, AtomicFile::create(&self.log_path)?);
        log.commit(0o644)?;
        Err(KernelBuildError::Make { target: targets.join(" "), source, log: self.log_path.clone() })
    }
}

/// Returns the release that make built.
fn release(directory: &Path) -> Result<String, KernelBuildError> {
    let path = "include/config/kernel.release";
    let text = fs::read_to_string(&directory.join(path), 256).unwrap_or_default();
    let release = text.trim();
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~-".contains(&byte);
    if release.is_empty() || release.starts_with('.') || !release.bytes().all(valid) {
        return Err(KernelBuildError::NoResult { path: path.to_owned() });
    }
    Ok(release.to_owned())
}

/// Returns the version that the source's `Makefile` states, for messages.
fn version(directory: &Path) -> String {
    let text = fs::read_to_string(&directory.join("Makefile"), 1 << 20).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='));
        line.map(|value| value.trim().to_owned()).unwrap_or_default()
    };
    format!("{}.{}.{}{}", field("VERSION"), field("PATCHLEVEL"), field("SUBLEVEL"), field("EXTRAVERSION"))
}

/// Runs a program and returns the lines of its standard output.
fn command_output(
    program: PathBuf,
    arguments: &[&str],
    environment: &[(OsString, OsString)],
) -> Result<Vec<String>, KernelBuildError> {
    let invocation = Invocation {
        program,
        arguments: arguments.iter().map(Into::into).collect(),
        environment: environment.to_vec(),
        directory: "/".into(),
        interactive: false,
    };
    let mut lines = Vec::new();
    run(&invocation, |stream, line| {
        if stream == Stream::Output {
            lines.push(line.to_owned());
        }
    })?;
    Ok(lines)
}
