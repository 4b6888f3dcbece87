//! Components: what the image is made of, and where it comes from.

use ksos_formats::{Arch, Digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{Glob, HostPath, ImagePath, Mode, PerArch, Size};
use super::{enabled, texts};

/// A package repository: an archive on one or several mirrors, with the suites and components to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AptRepository {
    /// Addresses of the archive, tried in order after `KSOS_APT_MIRROR` and the mirror that the host's own apt uses.
    #[serde(default)]
    #[schemars(with = "Vec<texts::Url>")]
    pub mirrors: Vec<String>,
    /// Last path component of the archive below a mirror's root: `debian` or `debian-security`.
    #[schemars(with = "texts::ArchiveName")]
    pub path: String,
    /// Suites to read; the newest version of a package in any of them wins.
    #[schemars(with = "Vec<texts::Suite>", length(min = 1))]
    pub suites: Vec<String>,
    /// Archive areas to read.
    #[serde(default = "default_areas")]
    #[schemars(with = "Vec<texts::Suite>", length(min = 1))]
    pub components: Vec<String>,
    /// OpenPGP keys that may sign the archive's index, armored or binary.
    pub keyring: HostPath,
    /// `false` drops an inherited repository.
    #[serde(default = "enabled", skip_serializing)]
    pub enabled: bool,
}

fn default_areas() -> Vec<String> {
    vec!["main".to_owned()]
}

/// A part of the image: packages, a download, local files, or a program built from a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Component {
    /// Where the component comes from.
    #[serde(flatten)]
    pub source: Source,
    /// Paths of the component's tree to keep. Everything when it is empty.
    #[serde(default)]
    pub include: Vec<Glob>,
    /// Paths of the component's tree to leave out, also when `include` names them.
    #[serde(default)]
    pub exclude: Vec<Glob>,
    /// Where the tree goes.
    #[serde(default)]
    pub into: Destination,
    /// `false` drops an inherited component.
    #[serde(default = "enabled", skip_serializing)]
    pub enabled: bool,
}

/// Where the tree of a component goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Destination {
    /// Merged into the root file system.
    #[default]
    Root,
    /// Nowhere: other parts of the manifest refer to files in it.
    None,
}

/// Where a component comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "source", rename_all = "kebab-case")]
pub enum Source {
    /// Packages of a Debian-style archive, with what they depend on.
    Apt(AptSource),
    /// A download.
    Http(HttpSource),
    /// A local file or directory.
    File(FileSource),
    /// A program built from a Cargo workspace.
    Cargo(CargoSource),
    /// A kernel built from its source.
    Kernel(KernelSource),
    /// A Tiny Core Linux base with extensions.
    #[serde(rename = "tinycore")]
    TinyCore(TinyCoreSource),
}

impl Source {
    /// Returns the value of the `source` key.
    pub fn kind(&self) -> &'static str {
        match self {
            Source::Apt(_) => "apt",
            Source::Http(_) => "http",
            Source::File(_) => "file",
            Source::Cargo(_) => "cargo",
            Source::Kernel(_) => "kernel",
            Source::TinyCore(_) => "tinycore",
        }
    }

    /// Tells whether the lock file has what it is resolved to; the others are files of this machine.
    pub fn is_locked(&self) -> bool {
        match self {
            Source::Apt(_) | Source::Http(_) => true,
            Source::TinyCore(source) => source.url.is_some(),
            Source::File(_) | Source::Cargo(_) | Source::Kernel(_) => false,
        }
    }
}

/// Packages of a Debian-style archive, with what they depend on. Maintainer scripts are not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct AptSource {
    /// Packages to take, by name.
    #[schemars(with = "Vec<texts::PackageName>", length(min = 1))]
    pub packages: Vec<String>,
    /// Names of the `[apt.*]` repositories to take them from. All of them when it is not stated.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub repositories: Option<Vec<String>>,
    /// Whether what the packages depend on is taken, too. `false` takes just the packages, e.g. for a signed boot loader.
    #[serde(default = "enabled")]
    pub dependencies: bool,
    /// Whether recommended packages are taken, too.
    #[serde(default)]
    pub recommends: bool,
    /// Packages left out of the closure, with what only they need.
    #[serde(default)]
    #[schemars(with = "Vec<texts::PackageName>")]
    pub exclude_packages: Vec<String>,
}

/// A download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct HttpSource {
    /// Version, put in place of `{version}` in `url`, `mirrors`, `checksums` and `install.from`.
    #[serde(default)]
    #[schemars(with = "texts::Version")]
    pub version: Option<String>,
    /// Address of the file. `{version}`, `{arch}` (x86_64, arm64), `{debian-arch}` (amd64, arm64) and `{machine}`
    /// (x86_64, aarch64) are replaced.
    #[schemars(with = "texts::UrlTemplate")]
    pub url: String,
    /// Other addresses of the same file, tried in order.
    #[serde(default)]
    #[schemars(with = "Vec<texts::UrlTemplate>")]
    pub mirrors: Vec<String>,
    /// Address of a file in the format of `sha256sum` that lists the download.
    #[serde(default)]
    #[schemars(with = "texts::UrlTemplate")]
    pub checksums: Option<String>,
    /// SHA-256 of the file for each architecture, when the manifest rather than the lock file pins it.
    #[serde(default)]
    #[schemars(with = "PerArch<texts::Sha256>")]
    pub sha256: PerArch<Digest>,
    /// Largest size of the download that is accepted.
    #[serde(default = "default_max_size")]
    pub max_size: Size,
    /// How the file becomes a tree.
    #[serde(flatten)]
    pub unpack: Unpack,
}

fn default_max_size() -> Size {
    Size(512 << 20)
}

impl HttpSource {
    /// Replaces `{version}` and the architecture's names in `template`.
    pub fn expand(&self, template: &str, arch: Arch) -> String {
        template
            .replace("{version}", self.version.as_deref().unwrap_or_default())
            .replace("{arch}", arch.name())
            .replace("{debian-arch}", arch.debian())
            .replace("{machine}", arch.machine())
    }

    /// Returns the addresses to try, in order.
    pub fn urls(&self, arch: Arch) -> Vec<String> {
        std::iter::once(&self.url).chain(&self.mirrors).map(|url| self.expand(url, arch)).collect()
    }

    /// Returns the address of the file with checksums.
    pub fn checksums_url(&self, arch: Arch) -> Option<String> {
        self.checksums.as_deref().map(|url| self.expand(url, arch))
    }
}

/// A local file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct FileSource {
    /// A file, a directory or an archive.
    pub path: HostPath,
    /// How the file becomes a tree.
    #[serde(flatten)]
    pub unpack: Unpack,
}

/// How a file becomes a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct Unpack {
    /// Format of the file. From the suffix of its name when it is not stated.
    #[serde(default)]
    #[schemars(with = "ArchiveFormat")]
    pub format: Option<ArchiveFormat>,
    /// Number of leading path components dropped from each name in the archive.
    #[serde(default)]
    #[schemars(range(min = 0, max = 64))]
    pub strip: u32,
    /// Files to take, with their place in the image. Not stated: the whole tree, below `prefix`.
    #[serde(default)]
    #[schemars(with = "Vec<Install>", length(min = 1))]
    pub install: Option<Vec<Install>>,
    /// Directory of the image that the tree is put in.
    #[serde(default)]
    #[schemars(with = "ImagePath")]
    pub prefix: Option<ImagePath>,
}

/// A file taken out of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Install {
    /// Path in the archive after `strip`; the file's name for `raw`. A downloaded component's `{version}`, `{arch}`,
    /// `{debian-arch}` and `{machine}` are replaced.
    #[schemars(with = "texts::InstallFrom")]
    pub from: String,
    /// Path in the image.
    pub to: ImagePath,
    /// Permission bits. Those in the archive when it is not stated.
    #[serde(default)]
    #[schemars(with = "Mode")]
    pub mode: Option<Mode>,
}

/// Format of a file that becomes a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ArchiveFormat {
    /// The file itself.
    #[serde(rename = "raw")]
    Raw,
    /// An uncompressed tar archive.
    #[serde(rename = "tar")]
    Tar,
    /// A tar archive compressed by gzip.
    #[serde(rename = "tar.gz")]
    TarGz,
    /// A tar archive compressed by xz.
    #[serde(rename = "tar.xz")]
    TarXz,
    /// A tar archive compressed by Zstandard.
    #[serde(rename = "tar.zst")]
    TarZst,
    /// An uncompressed cpio archive (newc).
    #[serde(rename = "cpio")]
    Cpio,
    /// A cpio archive (newc) compressed by gzip.
    #[serde(rename = "cpio.gz")]
    CpioGz,
    /// A zip archive.
    #[serde(rename = "zip")]
    Zip,
    /// A SquashFS image.
    #[serde(rename = "squashfs")]
    Squashfs,
    /// A Debian package; only its files are taken.
    #[serde(rename = "deb")]
    Deb,
}

/// A program built from a Cargo workspace, cross-compiled when it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct CargoSource {
    /// Directory of the workspace.
    pub path: HostPath,
    /// Package in the workspace.
    #[schemars(with = "texts::CrateName")]
    pub package: String,
    /// Build profile.
    #[serde(default = "default_profile")]
    #[schemars(with = "texts::CrateName")]
    pub profile: String,
    /// Binary of the package. The package's name when it is not stated.
    #[serde(default)]
    #[schemars(with = "texts::CrateName")]
    pub bin: Option<String>,
    /// Path of the binary in the image.
    pub install_to: ImagePath,
}

fn default_profile() -> String {
    "release".to_owned()
}

impl CargoSource {
    /// Returns the name of the binary.
    pub fn binary(&self) -> &str {
        self.bin.as_deref().unwrap_or(&self.package)
    }
}

/// A kernel built from its source by make, a C compiler and the tools that it asks for; cross-compiled when it must be.
/// It is not signed: it does not start under Secure Boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct KernelSource {
    /// Component with the source: one `linux-*.tar.*` (as in Debian's `linux-source-6.12`, or a download with
    /// `format = "raw"`), or the tree itself.
    pub from: String,
    /// The kernel's own configuration that the fragments are laid over. `defconfig` when nothing is stated.
    #[serde(default)]
    #[schemars(with = "KernelBase")]
    pub base: Option<KernelBase>,
    /// A whole configuration to lay the fragments over, instead of `base`.
    #[serde(default)]
    #[schemars(with = "HostPath")]
    pub base_file: Option<HostPath>,
    /// Component of a packaged kernel whose `boot/config-R` the fragments are laid over, instead of `base`.
    #[serde(default)]
    #[schemars(with = "String")]
    pub base_component: Option<String>,
    /// Fragments: files of `CONFIG_NAME=value` and `# CONFIG_NAME is not set`, in order; a later one wins. An option that
    /// does not come out as asked for fails the build.
    #[serde(default)]
    pub config: Vec<HostPath>,
    /// The compiler.
    #[serde(default)]
    pub compiler: KernelCompiler,
}

/// A configuration that every kernel source has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum KernelBase {
    /// What the architecture's maintainers suggest.
    #[default]
    Defconfig,
    /// The smallest kernel.
    Tinyconfig,
}

impl KernelBase {
    /// Returns the make target.
    pub fn target(self) -> &'static str {
        match self {
            KernelBase::Defconfig => "defconfig",
            KernelBase::Tinyconfig => "tinyconfig",
        }
    }
}

/// What compiles a kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum KernelCompiler {
    /// gcc and binutils, with the prefix of the target (`aarch64-linux-gnu-`) when that is another architecture.
    #[default]
    Gcc,
    /// clang and lld.
    Llvm,
}

/// A Tiny Core Linux base (`corepure64.gz`) with extensions (`.tcz`) and what these depend on. Scripts of extensions are
/// not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct TinyCoreSource {
    /// Address of a release on a mirror: `http://tinycorelinux.net/15.x/x86_64`, with `tcz/` below.
    #[serde(default)]
    #[schemars(with = "texts::Url")]
    pub url: Option<String>,
    /// Other addresses of the same release, tried in order.
    #[serde(default)]
    #[schemars(with = "Vec<texts::Url>")]
    pub mirrors: Vec<String>,
    /// A directory of this machine instead of a mirror: laid out like one, or with all files in it.
    #[serde(default)]
    #[schemars(with = "HostPath")]
    pub path: Option<HostPath>,
    /// The base, below `url` or `path`: `release/distribution_files/corepure64.gz` when it is not stated, on x86_64.
    #[serde(default)]
    #[schemars(with = "texts::InstallFrom")]
    pub base: Option<String>,
    /// Extensions to take, by name: `iptables`.
    #[serde(default)]
    #[schemars(with = "Vec<texts::ExtensionName>")]
    pub extensions: Vec<String>,
    /// What `KERNEL` in names of extensions stands for. The release of the base's own modules when it is not stated.
    #[serde(default)]
    #[schemars(with = "texts::Version")]
    pub kernel_release: Option<String>,
}

impl TinyCoreSource {
    /// Returns the path of the base below the release, where it is known for `arch`.
    pub fn base(&self, arch: Arch) -> Option<&str> {
        match (&self.base, arch) {
            (Some(base), _) => Some(base),
            (None, Arch::X86_64) => Some("release/distribution_files/corepure64.gz"),
            (None, Arch::Arm64) => None,
        }
    }
}
