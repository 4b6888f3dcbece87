//! Failures of operations, and which exit code each kind has.

use crate::assemble::AssembleError;
use crate::cache::CacheError;
use crate::effects::fs::FsError;
use crate::effects::net::FetchError;
use crate::graph::GraphError;
use crate::lock::ReconcileError;
use crate::proof::Finding;
use crate::registry::RegistryError;
use crate::source::apt::AptError;
use crate::source::archive::ArchiveError;
use crate::source::cargo::CargoError;
use crate::source::http::HttpError;
use crate::source::kernel::KernelBuildError;
use crate::source::tinycore::TinyCoreError;

/// Where a failure belongs (DESIGN.md, section 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// The build or check failed: exit code 1.
    Build,
    /// Usage or manifest error: exit code 2.
    Manifest,
    /// A source could not be fetched or verified: exit code 3.
    Source,
}

impl Problem {
    /// Returns the exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Problem::Build => 1,
            Problem::Manifest => 2,
            Problem::Source => 3,
        }
    }
}

/// An operation failed.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// A file could not be used.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A component could not be fetched.
    #[error("component {component}: {source}")]
    Fetch {
        /// Component or package.
        component: String,
        /// The cause.
        source: FetchError,
    },
    /// A package of a component could not be fetched.
    #[error("component {component}: {source}")]
    Package {
        /// The component.
        component: String,
        /// The manifest.
        manifest: std::path::PathBuf,
        /// The cause.
        source: Box<AptError>,
    },
    /// An archive could not be unpacked.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The root file system could not be put together.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The root file system could not be put together.
    #[error(transparent)]
    Root(#[from] super::build::root::RootError),
    /// Manifest errors.
    #[error(transparent)]
    Manifest(#[from] crate::manifest::Errors),
    /// What a step gave is damaged; the next build makes it again.
    #[error("the cache lost {digest} while the build ran")]
    IndexLost {
        /// The blob.
        digest: ksos_formats::Digest,
    },
    /// Files of the cache are not what they were, and are removed.
    #[error("the cache was damaged: {}", paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
    Damaged {
        /// The files.
        paths: Vec<std::path::PathBuf>,
    },
    /// A file of `update.keys` or `update.cosign-keys` cannot be used.
    #[error("{}: {source}", path.display())]
    UpdateKey {
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        source: crate::manifest::keys::KeyFileError,
    },
    /// The release could not be written or read.
    #[error("{}: {source}", path.display())]
    Release {
        /// Its directory.
        path: std::path::PathBuf,
        /// The cause.
        source: crate::artifact::release::Error,
    },
    /// A file that should be the document of a release.
    #[error("{}: not the document of a release", path.display())]
    NoRelease {
        /// The file.
        path: std::path::PathBuf,
    },
    /// A file that is not the one that the document of its release names.
    #[error("{}: not the file that the release has", path.display())]
    OtherRelease {
        /// The file.
        path: std::path::PathBuf,
    },
    /// A chunk index that cannot be used.
    #[error("{}: {source}", path.display())]
    ChunkIndex {
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        source: ksos_formats::update::IndexError,
    },
    /// A disk image without a system.
    #[error("{}: no partition has a system", path.display())]
    NoSlot {
        /// The image.
        path: std::path::PathBuf,
    },
    /// A key cannot be had, or does not sign.
    #[error(transparent)]
    Sign(#[from] crate::sign::SignError),
    /// A file that is too large to be signed as a whole.
    #[error("{}: {size} bytes are too many to be signed as a whole; at most {} are", path.display(), super::sums::SIGNED_LIMIT)]
    TooLargeToSign {
        /// The file.
        path: std::path::PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// A registry cannot be asked or told.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Something cannot be pushed.
    #[error(transparent)]
    Push(Box<super::push::PushError>),
    /// A document cannot be signed, published or believed.
    #[error(transparent)]
    Publish(Box<super::publish::PublishError>),
    /// Something could not be fetched to be verified.
    #[error(transparent)]
    Artifact(#[from] FetchError),
    /// A Debian package cannot be read.
    #[error("package {name}: {source}")]
    Deb {
        /// The package.
        name: String,
        /// The cause.
        source: crate::source::apt::deb::DebError,
    },
    /// What a component's rules select does not exist.
    #[error("component {component}: {source}")]
    Select {
        /// The component.
        component: String,
        /// The cause.
        source: crate::source::archive::select::SelectError,
    },
    /// A component lacks a file.
    #[error("component {component} has no file {path}")]
    NoFile {
        /// The component.
        component: String,
        /// The path.
        path: String,
    },
    /// A component would replace the boot loader's own files.
    #[error("boot.files: component {component} has /{path}, which is the boot loader's own")]
    BootFile {
        /// The component.
        component: String,
        /// The path in the EFI system partition.
        path: String,
    },
    /// No component installs the runtime.
    #[error("no component installs {path}")]
    NoRuntime {
        /// Where it must be.
        path: &'static str,
    },
    /// The kernel package cannot be used.
    #[error(transparent)]
    Kernel(#[from] crate::kernel::KernelError),
    /// The SquashFS image could not be written.
    #[error("root file system: {0}")]
    Squashfs(#[from] crate::artifact::squashfs::Error),
    /// The hash tree could not be written.
    #[error("root file system: {0}")]
    Verity(#[from] crate::artifact::verity::Error),
    /// The initramfs could not be written.
    #[error("initramfs: {0}")]
    Cpio(#[from] crate::artifact::cpio::Error),
    /// The slot could not be written.
    #[error("system slot: {0}")]
    Ext4(#[from] crate::artifact::ext4::Error),
    /// The EFI system partition could not be written.
    #[error("EFI system partition: {0}")]
    Fat(#[from] crate::artifact::fat::FatError),
    /// The partition table could not be written.
    #[error("disk: {0}")]
    Disk(#[from] crate::artifact::disk::DiskError),
    /// A container image could not be written.
    #[error("container image: {0}")]
    Oci(#[from] crate::oci::OciError),
    /// The boot loader's configuration cannot be written.
    #[error("boot loader: {0}")]
    Boot(#[from] crate::boot::BootConfigError),
    /// The boot loader for BIOS cannot be put together.
    #[error(transparent)]
    Grub(#[from] crate::artifact::grub::GrubError),
    /// An ISO image cannot be written.
    #[error(transparent)]
    Iso(#[from] crate::artifact::iso::IsoError),
    /// The system slot of a finished disk image cannot be read.
    #[error("{}: system slot A: {reason}", path.display())]
    Slot {
        /// The disk image.
        path: std::path::PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A package archive cannot be used.
    #[error(transparent)]
    Apt(Box<AptError>),
    /// A keyring cannot be read.
    #[error(transparent)]
    Keyring(#[from] crate::source::apt::openpgp::OpenPgpError),
    /// A component's packages cannot be resolved.
    #[error("component {component}: {source}")]
    Resolve {
        /// The component.
        component: String,
        /// The cause.
        source: crate::source::apt::ResolveError,
    },
    /// A container image cannot be had.
    #[error("container image {name}: {source}")]
    ContainerImage {
        /// Its name in the manifest.
        name: String,
        /// The cause.
        source: Box<crate::source::oci::ImageError>,
    },
    /// A download cannot be resolved.
    #[error("component {component}: {source}")]
    Http {
        /// The component.
        component: String,
        /// The cause.
        source: Box<HttpError>,
    },
    /// The lock file cannot be used.
    #[error(transparent)]
    Lock(#[from] crate::lock::LockError),
    /// The lock file would change, or an update names an unknown component.
    #[error(transparent)]
    Reconcile(#[from] crate::lock::ReconcileError),
    /// The lock has another kind of source for a component than the manifest.
    #[error(
        "component {component}: the lock file has packages where the manifest has a download, or the other way round"
    )]
    LockKind {
        /// The component.
        component: String,
    },
    /// The lock names a package archive that the manifest does not have.
    #[error("component {component}: the lock file takes {name} from archive {repository}, which is not in [apt]")]
    LockRepository {
        /// The component.
        component: String,
        /// The package.
        name: String,
        /// The archive.
        repository: String,
    },
    /// `--component` names a component that there is not.
    #[error("there is no component {name} to replace; there are {}", known.join(", "))]
    UnknownComponent {
        /// The name.
        name: String,
        /// The components.
        known: Vec<String>,
    },
    /// A program could not be built.
    #[error("component {component}: {source}")]
    Cargo {
        /// The component.
        component: String,
        /// The cause.
        source: Box<CargoError>,
    },
    /// A kernel could not be built.
    #[error("component {component}: {source}")]
    KernelBuild {
        /// The component.
        component: String,
        /// The cause.
        source: Box<KernelBuildError>,
    },
    /// A Tiny Core base could not be had.
    #[error("component {component}: {source}")]
    TinyCore {
        /// The component.
        component: String,
        /// The cause.
        source: Box<TinyCoreError>,
    },
    /// `SOURCE_DATE_EPOCH` is not a number.
    #[error("SOURCE_DATE_EPOCH is {text:?}; expected seconds since 1970, below 2^32")]
    Epoch {
        /// Its text.
        text: String,
    },
    /// The remote cache lost what it had of a step while the build ran.
    #[error("the remote cache lost what it had of {step}")]
    RemoteLost {
        /// The step.
        step: String,
    },
    /// There is nothing to write to.
    #[error("there is no remote cache: neither --remote-cache nor cache.remote in the manifest")]
    NoRemoteCache,
    /// Not everything could be written to the remote cache.
    #[error("{steps} steps could not be written to the remote cache {place}")]
    Unwritten {
        /// How many.
        steps: u64,
        /// The repository.
        place: String,
    },
    /// The plan breaks its invariants: a fault of this program.
    #[error("the plan is not sound (a fault of ksos-compose): {}", broken.join("; "))]
    Plan {
        /// What is broken.
        broken: Vec<String>,
    },
    /// The image would not boot or run.
    #[error("the image would not work:\n{}", findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Proof {
        /// Place, message, rule and fix of each finding.
        findings: Vec<Finding>,
    },
    /// Nobody says what an artifact was built from.
    #[error("{}: no provenance beside it names its manifest", path.display())]
    NoManifest {
        /// The artifact.
        path: std::path::PathBuf,
    },
    /// A manifest makes no file of that name.
    #[error("{} does not make {name}", manifest.display())]
    NotBuilt {
        /// Name of the file.
        name: String,
        /// The manifest.
        manifest: std::path::PathBuf,
    },
    /// The manifest makes no disk image.
    #[error("{name} has no disk image among its outputs")]
    NoDisk {
        /// Image name.
        name: String,
    },
    /// An output that somebody replaced by something else.
    #[error("{}: not the container image that a build wrote", path.display())]
    OtherLayout {
        /// The file.
        path: std::path::PathBuf,
    },
    /// A format that cannot be written for this image.
    #[error("{file_name}: {format} is not for this image: {reason}")]
    NoWriter {
        /// Its file.
        file_name: String,
        /// The format.
        format: crate::manifest::OutputFormat,
        /// Why.
        reason: &'static str,
    },
    /// The manifest makes no release.
    #[error("{name} has no `update.keys`: there is no release")]
    NoUpdateKeys {
        /// Image name.
        name: String,
    },
    /// A size on the command line.
    #[error("{text:?} is not a size; expected {expected}")]
    Size {
        /// The text.
        text: String,
        /// What was expected.
        expected: String,
    },
    /// Another process uses the cache.
    #[error("the cache {} is in use; nothing was removed", path.display())]
    CacheInUse {
        /// The cache.
        path: std::path::PathBuf,
    },
    /// The image could not be proved because a file could not be read.
    #[error("proof: {0}")]
    ProofRead(#[from] crate::proof::ProofError),
    /// A kernel configuration or requirement list cannot be read.
    #[error(transparent)]
    KernelConfig(#[from] crate::kernel::config::ConfigError),
    /// The image could not be run.
    #[error(transparent)]
    Run(#[from] super::run::RunError),
    /// An image was not written to a disk.
    #[error(transparent)]
    Flash(Box<super::flash::FlashError>),
    /// A starter was not written.
    #[error(transparent)]
    Init(#[from] super::init::InitError),
    /// The test cannot be made.
    #[error(transparent)]
    Test(#[from] super::test::TestError),
    /// A port forward on the command line.
    #[error(transparent)]
    Forward(#[from] super::run::ParseForwardError),
    /// The architecture of an image is not known.
    #[error("cannot tell the architecture of {}: its name has neither x86_64 nor arm64; --arch says it", path.display())]
    UnknownArch {
        /// The image.
        path: std::path::PathBuf,
    },
    /// Two targets would write the same files.
    #[error("{} and {} both make {name}", first.display(), second.display())]
    SameImage {
        /// Image name, version and architecture.
        name: String,
        /// One manifest.
        first: std::path::PathBuf,
        /// The other.
        second: std::path::PathBuf,
    },
    /// A file that stands for a component does not exist.
    #[error("--component {component}={}: {source}", path.display())]
    Replacement {
        /// The component.
        component: String,
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        source: FsError,
    },
    /// A local file changed while the build read it.
    #[error("{} changed during the build", path.display())]
    Changed {
        /// The file.
        path: std::path::PathBuf,
    },
    /// The indexes that components need cannot be had.
    #[error("component {}: {source}", components.join(", "))]
    Indexes {
        /// The components that need them.
        components: Vec<String>,
        /// The cause.
        source: Box<AptError>,
    },
    /// A disk image to compare cannot be read.
    #[error(transparent)]
    Image(Box<crate::image::ImageError>),
    /// There is no place for the cache.
    #[error("there is no cache directory: neither --cache, KSOS_CACHE, XDG_CACHE_HOME nor HOME is set")]
    NoCacheDirectory,
    /// Steps of a build failed.
    #[error("{}", failures.iter().map(|(step, error)| format!("{step}: {error}")).collect::<Vec<_>>().join("\n"))]
    Steps {
        /// Step and cause.
        failures: Vec<(String, OpError)>,
    },
}

/// Returns where a failure at a registry belongs.
pub fn of_registry(error: &RegistryError) -> Problem {
    match error {
        RegistryError::Place { .. } | RegistryError::Sign(_) => Problem::Manifest,
        RegistryError::Fs(_) | RegistryError::Changed { .. } => Problem::Build,
        RegistryError::Fetch(_) | RegistryError::Document { .. } | RegistryError::Stored { .. } => Problem::Source,
    }
}

impl From<GraphError<OpError>> for OpError {
    fn from(error: GraphError<OpError>) -> Self {
        match error {
            GraphError::Steps(failures) => OpError::Steps { failures },
            GraphError::Plan(broken) => OpError::Plan { broken: vec![broken] },
            GraphError::Diverged { step } => OpError::RemoteLost { step },
        }
    }
}

impl From<crate::image::ImageError> for OpError {
    fn from(error: crate::image::ImageError) -> Self {
        OpError::Image(Box::new(error))
    }
}

impl From<AptError> for OpError {
    fn from(error: AptError) -> Self {
        OpError::Apt(Box::new(error))
    }
}

impl OpError {
    /// Returns where the failure belongs.
    pub fn problem(&self) -> Problem {
        match self {
            OpError::Fetch { .. }
            | OpError::Apt(_)
            | OpError::Package { .. }
            | OpError::Indexes { .. }
            | OpError::Keyring(_)
            | OpError::Resolve { .. }
            | OpError::ContainerImage { .. }
            | OpError::Artifact(_)
            | OpError::Http { .. } => Problem::Source,
            OpError::Sign(error) if error.is_external() => Problem::Source,
            OpError::Sign(_) => Problem::Manifest,
            OpError::Registry(error) => of_registry(error),
            OpError::Push(error) => error.problem(),
            OpError::Unwritten { .. } => Problem::Source,
            OpError::Publish(error) => error.problem(),
            OpError::Flash(error) => error.problem(),
            OpError::Manifest(_)
            | OpError::Init(_)
            | OpError::Epoch { .. }
            | OpError::NoCacheDirectory
            | OpError::NoRemoteCache
            | OpError::Size { .. }
            | OpError::Forward(_)
            | OpError::Test(_)
            | OpError::SameImage { .. }
            | OpError::NoUpdateKeys { .. }
            | OpError::NoWriter { .. }
            | OpError::Replacement { .. }
            | OpError::Lock(_)
            | OpError::LockKind { .. }
            | OpError::LockRepository { .. }
            | OpError::UnknownArch { .. }
            // Not 1, which says that images differ.
            | OpError::Image(_)
            | OpError::NoRelease { .. }
            | OpError::NoSlot { .. }
            | OpError::OtherRelease { .. }
            | OpError::TooLargeToSign { .. }
            | OpError::NoManifest { .. }
            | OpError::NotBuilt { .. }
            | OpError::ChunkIndex { .. }
            | OpError::Release { .. }
            | OpError::UnknownComponent { .. }
            | OpError::Reconcile(ReconcileError::Unknown { .. }) => Problem::Manifest,
            OpError::Cargo { source, .. } if source.is_download() => Problem::Source,
            OpError::TinyCore { source, .. } if matches!(**source, TinyCoreError::NoBase { .. }) => Problem::Manifest,
            OpError::TinyCore { .. } => Problem::Source,
            OpError::Steps { failures } => {
                failures.iter().map(|(_, error)| error.problem()).max().unwrap_or(Problem::Build)
            }
            _ => Problem::Build,
        }
    }
}

impl From<super::flash::FlashError> for OpError {
    fn from(error: super::flash::FlashError) -> Self {
        OpError::Flash(Box::new(error))
    }
}

impl From<super::publish::PublishError> for OpError {
    fn from(error: super::publish::PublishError) -> Self {
        OpError::Publish(Box::new(error))
    }
}

impl From<super::push::PushError> for OpError {
    fn from(error: super::push::PushError) -> Self {
        OpError::Push(Box::new(error))
    }
}
