//! The build-time proof: what would fail at boot fails the build.
//!
//! Every rule is a pure function over the finished file trees and plain inputs. All failures of all rules are
//! collected; each names the file, the rule and the way out. [`prove`] runs them all.
//!
//! Contents are looked at through positioned reads of their first bytes and, for ELF files, of the headers and the
//! dynamic section, never whole; what was found can be kept by digest ([`FactCache`]), so that an unchanged file is
//! not opened again.

pub mod budget;
pub mod cmdline;
mod configuration;
pub mod elf;
mod elf_reader;
pub mod facts;
pub mod files;
pub mod libraries;
pub mod modules;
mod paths;
pub mod services;
pub mod workloads;

use std::collections::BTreeMap;
use std::fmt;

use globset::{Glob, GlobSet, GlobSetBuilder};
use ksos_formats::Arch;
use ksos_formats::runtime::ServiceConfig;
use serde::Serialize;

pub use budget::Budgets;
pub use facts::{FactCache, FileFacts, MemoryFactCache};

use crate::kernel::{KernelConfig, Requirement};
use crate::tree::Tree;

/// A rule of the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The kernel was built with the required options.
    KernelOption,
    /// Modules asked for are there, with everything they depend on, and `modules.dep` agrees with the files.
    Module,
    /// No module lies in a directory that the image must not have.
    ModuleDenied,
    /// ELF files can be read and are of the image's architecture.
    ElfMachine,
    /// The program interpreter of an executable is in the image.
    ElfInterpreter,
    /// The libraries that an ELF file needs are found where the dynamic linker looks.
    ElfLibrary,
    /// The library found has the symbol versions that are needed.
    ElfVersion,
    /// There is one C library.
    OneLibc,
    /// The interpreter after `#!` is in the image.
    Script,
    /// Symbolic links lead to something, now or at run time.
    SymbolicLink,
    /// Executables and profiles of services are there.
    Service,
    /// What the node reads at boot is valid.
    Configuration,
    /// Contents fit where they go, with room to spare.
    Budget,
    /// The kernel command line makes sense.
    CommandLine,
    /// Files that the image must not have are absent.
    Absence,
    /// Container images that carried manifests name are carried, too, and can be imported.
    Workload,
    /// Files that run with more rights than their caller, and device nodes.
    Privilege,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The build fails.
    Failure,
    /// Listed only.
    Note,
}

/// Which tree a path is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The root file system.
    Root,
    /// The initramfs.
    Initramfs,
    /// The plan: manifest, partitions, command line, kernel.
    Plan,
}

/// One thing that the proof found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The rule.
    pub rule: Rule,
    /// Where it is.
    pub place: Place,
    /// The file, without a leading slash, or the thing of the plan that it is about.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would make it right.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.place {
            Place::Root => "/",
            Place::Initramfs => "initramfs:/",
            Place::Plan => "",
        };
        write!(f, "{place}{}: {} [{}]", self.path, self.message, self.rule)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, "\n  hint: {}", self.fix) }
    }
}

/// Everything that the proof looks at.
#[derive(Debug)]
pub struct Input<'a> {
    /// The image's architecture.
    pub arch: Arch,
    /// The root file system.
    pub root: &'a Tree,
    /// The initramfs.
    pub initramfs: &'a Tree,
    /// Release of the kernel.
    pub kernel_release: &'a str,
    /// Configuration of the kernel.
    pub kernel_config: &'a KernelConfig,
    /// Options that it must have.
    pub requirements: &'a [Requirement],
    /// Modules that must be in the root, by name; dependencies need not be listed.
    pub root_modules: &'a [String],
    /// Modules that must be in the initramfs, by name.
    pub initramfs_modules: &'a [String],
    /// Directories below `/lib/modules/R/kernel` that must have no module, e.g. `sound`.
    pub denied_modules: &'a [String],
    /// Services of the image.
    pub services: &'a BTreeMap<String, ServiceConfig>,
    /// Kernel parameters, one each.
    pub cmdline: &'a [String],
    /// Sizes; see [`Budgets`].
    pub budgets: Budgets,
    /// Absolute paths that exist at run time only: mount points, and what is created at boot or kept on the data
    /// partition. [`RUNTIME_PATHS`] is always among them.
    pub runtime_paths: &'a [String],
    /// Globs of root paths that must not exist, with the reason; usually [`ABSENT`].
    pub absent: &'a [(String, String)],
    /// Exemptions: a rule and a glob of paths where its failures become notes.
    pub exempt: &'a [(Rule, String)],
}

/// Paths that exist on every node at run time only.
pub const RUNTIME_PATHS: [&str; 8] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/var", "/data", "/mnt"];

/// Why an SSH server is not in an image.
pub const SSH_SERVER: &str = "SSH server";

/// Files that a sealed image does not have: a package manager, and remote access. An image that chooses SSH leaves
/// out the lines of that reason.
pub const ABSENT: [(&str, &str); 12] = [
    ("usr/{bin,sbin}/{dpkg,dpkg-*}", "package manager"),
    ("usr/{bin,sbin}/{apt,apt-*,aptitude}", "package manager"),
    ("usr/{bin,sbin}/{rpm,dnf,yum,zypper,apk,pacman}", "package manager"),
    ("{bin,sbin}/{dpkg,apt,apt-get,rpm,apk}", "package manager"),
    ("usr/lib/apt/**", "package manager"),
    ("var/lib/{dpkg,apt,rpm}/**", "package manager"),
    ("etc/apt/**", "package manager"),
    ("usr/{bin,sbin}/sshd", SSH_SERVER),
    ("{bin,sbin}/sshd", SSH_SERVER),
    ("usr/{bin,sbin}/dropbear", SSH_SERVER),
    ("etc/ssh/sshd_config", SSH_SERVER),
    ("etc/ssh/ssh_host_*_key", "private key in an image"),
];

/// The proof itself could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// A file of the tree could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A glob of the input is malformed.
    #[error(transparent)]
    Glob(#[from] globset::Error),
}

/// Runs every rule and returns all findings, failures first, in a fixed order.
///
/// # Errors
/// [`ProofError`] when a file cannot be read; what is wrong with the image is a finding, not an error.
pub fn prove(input: &Input<'_>, cache: &dyn FactCache) -> Result<Vec<Finding>, ProofError> {
    let mut findings = Vec::new();
    findings.extend(modules::kernel_options(input.kernel_config, input.requirements));
    for (place, tree, wanted) in
        [(Place::Root, input.root, input.root_modules), (Place::Initramfs, input.initramfs, input.initramfs_modules)]
    {
        findings.extend(modules::modules(place, tree, input.kernel_release, wanted, input.denied_modules)?);
        let facts = facts::collect(tree, cache)?;
        findings.extend(libraries::libraries(place, tree, input.arch, &facts)?);
        findings.extend(files::scripts(place, tree, &facts, input.runtime_paths));
        findings.extend(files::links(place, tree, input.runtime_paths));
        findings.extend(files::privileges(place, tree));
    }
    findings.extend(files::absence(input.root, input.absent)?);
    findings.extend(services::services(input.root, input.services, input.runtime_paths));
    findings.extend(configuration::profiles(input.root, input.services)?);
    findings.extend(configuration::configuration(input.root)?);
    findings.extend(budget::budgets(&input.budgets));
    findings.extend(cmdline::cmdline(input.arch, input.cmdline));
    let exempt = input
        .exempt
        .iter()
        .map(|(rule, pattern)| Ok((*rule, globs([pattern.as_str()])?)))
        .collect::<Result<Vec<_>, ProofError>>()?;
    for finding in &mut findings {
        if exempt.iter().any(|(rule, globs)| *rule == finding.rule && globs.is_match(&finding.path)) {
            finding.severity = Severity::Note;
        }
    }
    findings.sort();
    findings.dedup();
    Ok(findings)
}

fn globs<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<GlobSet, globset::Error> {
    let mut builder = GlobSetBuilder::new();
    for pattern in patterns {
        builder.add(Glob::new(pattern.trim_start_matches('/'))?);
    }
    builder.build()
}

/// Shorthand for the rules.
fn failure(rule: Rule, place: Place, path: &str, message: String, fix: impl Into<String>) -> Finding {
    Finding { severity: Severity::Failure, rule, place, path: path.to_owned(), message, fix: fix.into() }
}

#[cfg(test)]
mod tests;
