//! What a build of a kernel needs of this machine, and which compiler it is.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use ksos_formats::Arch;
use serde::Serialize;

use super::{KernelBuildError, command_output};
use crate::effects::process::{Invocation, find_program, run};
use crate::kernel::KernelConfig;
use crate::manifest::KernelCompiler;

/// Something that is not installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    /// The program or header.
    pub what: &'static str,
    /// Debian's package.
    pub debian: &'static str,
    /// Fedora's package.
    pub fedora: &'static str,
}

const fn tool(what: &'static str, debian: &'static str, fedora: &'static str) -> Missing {
    Missing { what, debian, fedora }
}

/// What every kernel needs (Linux `Documentation/process/changes.rst`).
const ALWAYS: [Missing; 5] = [
    tool("make", "make", "make"),
    tool("gcc", "gcc", "gcc"),
    tool("flex", "flex", "flex"),
    tool("bison", "bison", "bison"),
    tool("bc", "bc", "bc"),
];

/// Programs that options need: any of the options, the program.
const BY_OPTION: [(&[&str], Missing); 7] = [
    (&["KERNEL_XZ", "MODULE_COMPRESS_XZ"], tool("xz", "xz-utils", "xz")),
    (&["KERNEL_ZSTD", "MODULE_COMPRESS_ZSTD"], tool("zstd", "zstd", "zstd")),
    (&["KERNEL_LZ4"], tool("lz4", "lz4", "lz4")),
    (&["KERNEL_BZIP2"], tool("bzip2", "bzip2", "bzip2")),
    (&["DEBUG_INFO_BTF"], tool("pahole", "dwarves", "dwarves")),
    (&["CRYPTO"], tool("perl", "perl", "perl")),
    (&["IKHEADERS"], tool("cpio", "cpio", "cpio")),
];

/// Headers that options need.
const HEADERS: [(&[&str], Missing); 2] = [
    (&["OBJTOOL"], tool("libelf.h", "libelf-dev", "elfutils-libelf-devel")),
    (
        &["MODULE_SIG_FORMAT", "SYSTEM_TRUSTED_KEYRING", "SYSTEM_REVOCATION_LIST"],
        tool("openssl/opensslv.h", "libssl-dev", "openssl-devel"),
    ),
];

/// A compiler and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Toolchain {
    /// Arguments of make that choose it.
    pub arguments: Vec<String>,
    /// First lines of what compiler and linker say about themselves.
    pub identity: String,
}

/// Returns make's name of an architecture.
pub fn make_arch(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86_64",
        Arch::Arm64 => "arm64",
    }
}

/// Returns the compiler for `arch`: this machine's, or a cross compiler.
///
/// # Errors
/// [`KernelBuildError::Missing`] with everything that every kernel needs and that is not there.
pub fn toolchain(
    arch: Arch,
    compiler: KernelCompiler,
    environment: &[(OsString, OsString)],
) -> Result<Toolchain, KernelBuildError> {
    let native = std::env::consts::ARCH == arch.machine();
    let prefix = if native { "" } else { cross_prefix(arch) };
    let (cc, ld) = match compiler {
        KernelCompiler::Gcc => (format!("{prefix}gcc"), format!("{prefix}ld")),
        KernelCompiler::Llvm => ("clang".to_owned(), "ld.lld".to_owned()),
    };
    let path = path(environment);
    let find = |name: &str| find_program(name, &path);
    let mut missing: Vec<Missing> = ALWAYS.into_iter().filter(|tool| find(tool.what).is_none()).collect();
    let (cc_tool, ld_tool) = match compiler {
        KernelCompiler::Llvm => (tool("clang", "clang", "clang"), tool("ld.lld", "lld llvm", "lld llvm")),
        KernelCompiler::Gcc if native => (ALWAYS[1], tool("ld", "binutils", "binutils")),
        KernelCompiler::Gcc => cross_tools(arch),
    };
    missing.extend(find(&cc).is_none().then_some(cc_tool));
    missing.extend(find(&ld).is_none().then_some(ld_tool));
    missing.sort();
    missing.dedup();
    let (Some(cc), Some(ld), true) = (find(&cc), find(&ld), missing.is_empty()) else {
        return Err(KernelBuildError::Missing { missing });
    };
    let mut arguments = vec![format!("ARCH={}", make_arch(arch))];
    match compiler {
        KernelCompiler::Llvm => arguments.push("LLVM=1".to_owned()),
        KernelCompiler::Gcc if native => {}
        KernelCompiler::Gcc => arguments.push(format!("CROSS_COMPILE={prefix}")),
    }
    let identity = format!("{}; {}", version(cc, environment)?, version(ld, environment)?);
    Ok(Toolchain { arguments, identity })
}

fn cross_prefix(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86_64-linux-gnu-",
        Arch::Arm64 => "aarch64-linux-gnu-",
    }
}

fn cross_tools(arch: Arch) -> (Missing, Missing) {
    match arch {
        Arch::X86_64 => (
            tool("x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu", "gcc-x86_64-linux-gnu"),
            tool("x86_64-linux-gnu-ld", "binutils-x86-64-linux-gnu", "binutils-x86_64-linux-gnu"),
        ),
        Arch::Arm64 => (
            tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu", "gcc-aarch64-linux-gnu"),
            tool("aarch64-linux-gnu-ld", "binutils-aarch64-linux-gnu", "binutils-aarch64-linux-gnu"),
        ),
    }
}

fn version(program: PathBuf, environment: &[(OsString, OsString)]) -> Result<String, KernelBuildError> {
    Ok(command_output(program, &["--version"], environment)?.into_iter().next().unwrap_or_default())
}

/// Returns what the options of `config` need and is not there.
pub fn missing_for(config: &KernelConfig, environment: &[(OsString, OsString)]) -> Vec<Missing> {
    let path = path(environment);
    let set = |options: &[&str]| options.iter().any(|name| config.options.get(*name).is_some_and(|value| value == "y"));
    let programs = BY_OPTION.iter().filter(|(options, tool)| set(options) && find_program(tool.what, &path).is_none());
    let headers = HEADERS.iter().filter(|(options, tool)| set(options) && !has_header(tool.what, environment));
    let mut missing: Vec<Missing> = programs.chain(headers).map(|(_, tool)| *tool).collect();
    missing.sort();
    missing
}

/// Tells whether this machine's own compiler finds a header.
fn has_header(name: &str, environment: &[(OsString, OsString)]) -> bool {
    let Some(program) = find_program("gcc", &path(environment)) else { return false };
    let arguments = ["-E", "-x", "c", "-include", name, "/dev/null", "-o", "/dev/null"];
    let invocation = Invocation {
        program,
        arguments: arguments.map(OsString::from).into(),
        environment: environment.to_vec(),
        directory: "/".into(),
        interactive: false,
    };
    run(&invocation, |_, _| ()).is_ok()
}

/// Returns the value of `PATH`.
pub(super) fn path(environment: &[(OsString, OsString)]) -> OsString {
    let found = environment.iter().find(|(name, _)| name == OsStr::new("PATH"));
    found.map(|(_, value)| value.clone()).unwrap_or_default()
}
