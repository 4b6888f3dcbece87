//! The command line: parse, call one operation, render, map to an exit code.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
pub use clap_complete::Shell;
use ksos_formats::Arch;
use ksos_formats::update::Version;

use crate::manifest::CacheMode;
use crate::manifest::types::{Duration, OutputFormat};
use crate::ops::build::part::PartKind;
use crate::ops::push::attach::Attachment;
use crate::sign::KeySource;

/// Composes KubeSolo OS images from a manifest: no root, loop devices, containers or host tools.
#[derive(Debug, Parser)]
#[command(name = "ksos-compose", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Says what is wrong with a command line, the program's name first; `None` when it can be run.
pub fn fault(words: &[String]) -> Option<String> {
    use clap::error::ErrorKind;
    match Cli::try_parse_from(words) {
        Err(error) if !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Some(error.to_string())
        }
        _ => None,
    }
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Cache directory [default: $XDG_CACHE_HOME/ksos or ~/.cache/ksos].
    #[arg(long, global = true, env = "KSOS_CACHE", value_name = "DIR", help_heading = "Global options")]
    pub cache: Option<PathBuf>,
    /// Processor steps at once [default: the number of processors].
    #[arg(long, short, global = true, value_name = "N", help_heading = "Global options")]
    pub jobs: Option<usize>,
    /// Print only errors and results.
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// The cache that machines share.
    #[command(flatten)]
    pub remote: RemoteArguments,
}

/// The cache that machines share. What is not given here, `[cache]` in the manifest says.
#[derive(Debug, Clone, Default, Args)]
pub struct RemoteArguments {
    /// Take finished steps from oci://HOST/REPOSITORY; `none`: whatever the manifest says, from nowhere.
    #[arg(long, global = true, env = "KSOS_REMOTE_CACHE", value_name = "PLACE", help_heading = REMOTE)]
    pub remote_cache: Option<String>,
    /// What to do with it: read, or read-write [default: read].
    #[arg(long, global = true, env = "KSOS_REMOTE_CACHE_MODE", value_name = "MODE", help_heading = REMOTE)]
    pub remote_cache_mode: Option<CacheMode>,
    /// A public key (PEM) that must have signed what is believed of it, or a key set (JSON); of several keys, one.
    #[arg(long = "remote-cache-key", global = true, env = "KSOS_REMOTE_CACHE_KEY", value_delimiter = ',',
        value_name = "FILE", help_heading = REMOTE)]
    pub remote_cache_keys: Vec<PathBuf>,
    /// The private key that signs what is written to it: a file, env:NAME, or exec:COMMAND.
    #[arg(long, global = true, env = "KSOS_CACHE_SIGN_KEY", hide_env_values = true, value_name = "KEY",
        help_heading = REMOTE)]
    pub cache_sign_key: Option<KeySource>,
}

/// Heading of the options about it.
const REMOTE: &str = "Remote cache";

/// Where locked sources may come from.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct LockOptions {
    /// Fail when the lock file would change.
    #[arg(long)]
    pub locked: bool,
    /// Do not use the network.
    #[arg(long)]
    pub offline: bool,
    /// Both --locked and --offline.
    #[arg(long)]
    pub frozen: bool,
}

/// Which manifests, and for which architecture.
#[derive(Debug, Clone, Args)]
pub struct Selection {
    /// Manifests [default: kubesolo-os.toml].
    #[arg(value_name = "MANIFEST")]
    pub manifests: Vec<PathBuf>,
    /// Architectures instead of the manifest's: x86_64, arm64.
    #[arg(long, value_delimiter = ',', value_parser = |text: &str| text.parse::<Arch>())]
    pub arch: Vec<Arch>,
    /// Use a local file or directory for a component.
    #[arg(long = "component", value_name = "NAME=PATH", value_parser = parse_component)]
    pub components: Vec<(String, PathBuf)>,
    /// Write these formats instead of the manifest's: disk, disk-zst, iso, oci-image, oci-artifact, qcow2, vmdk, vhd,
    /// update.
    #[arg(long = "format", value_name = "FORMAT", value_delimiter = ',', value_parser = |text: &str| text.parse::<OutputFormat>())]
    pub formats: Vec<OutputFormat>,
}

fn parse_component(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), PathBuf::from(path))),
        _ => Err("expected NAME=PATH".to_owned()),
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a manifest to start from.
    Init(InitArguments),
    /// Build images.
    Build {
        /// Manifests.
        #[command(flatten)]
        selection: Selection,
        /// Lock mode.
        #[command(flatten)]
        lock: LockOptions,
        /// Directory for the images.
        #[arg(long, short, default_value = "out", value_name = "DIR")]
        out: PathBuf,
        /// Write this part of the image alone, and run only the steps that it needs; repeat it for several.
        #[arg(long, value_enum, value_delimiter = ',', value_name = "PART", conflicts_with = "formats")]
        only: Vec<PartKind>,
        /// Redo every step; downloads are kept.
        #[arg(long)]
        fresh: bool,
        /// List the artifacts as JSON, with SHA-256.
        #[arg(long)]
        json: bool,
        /// Sign releases (Ed25519), provenance and SHA256SUMS (ECDSA P-256, too) with this private key: a file, env:NAME,
        /// or exec:COMMAND; repeat it for several.
        #[arg(long = "sign-key", value_name = "KEY", env = "KSOS_SIGN_KEY", hide_env_values = true)]
        sign_keys: Vec<KeySource>,
        /// The public key (PEM) of an exec: key; one for each of them, in order.
        #[arg(long = "public-key", value_name = "FILE")]
        public_keys: Vec<PathBuf>,
        /// What the provenance calls this run, e.g. its address in CI [default: nothing].
        #[arg(long, value_name = "ID", env = "KSOS_INVOCATION_ID")]
        invocation_id: Option<String>,
    },
    /// Check manifests without downloading anything, or configurations of nodes.
    Check {
        /// Manifests.
        #[command(flatten)]
        selection: Selection,
        /// Check configurations of nodes instead: cloud-init.yaml, user-data, network-config, meta-data.
        #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "manifests")]
        config: Vec<PathBuf>,
        /// List problems as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of manifests.
    Schema {
        /// Print the one of nodes' configurations instead.
        #[arg(long)]
        config: bool,
    },
    /// Print what a build would do.
    Plan {
        /// Manifests.
        #[command(flatten)]
        selection: Selection,
        /// Lock mode.
        #[command(flatten)]
        lock: LockOptions,
        /// Print the whole plan as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say why steps of the next build would run.
    Explain {
        /// Manifests.
        #[command(flatten)]
        selection: Selection,
        /// Lock mode.
        #[command(flatten)]
        lock: LockOptions,
        /// Directory for the images.
        #[arg(long, short, default_value = "out", value_name = "DIR")]
        out: PathBuf,
        /// Fresh steps too.
        #[arg(long)]
        all: bool,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Download every component without building.
    Fetch {
        /// Manifests.
        #[command(flatten)]
        selection: Selection,
        /// Lock mode.
        #[command(flatten)]
        lock: LockOptions,
    },
    /// Take new versions of components into the lock file.
    Update {
        /// Manifest [default: kubesolo-os.toml].
        #[arg(long, short, value_name = "MANIFEST")]
        manifest: Option<PathBuf>,
        /// Architectures [default: those that the lock has, or the manifest's].
        #[arg(long, value_parser = |text: &str| text.parse::<Arch>())]
        arch: Vec<Arch>,
        /// Components [default: all].
        #[arg(value_name = "COMPONENT")]
        components: Vec<String>,
        /// Say what would change and write nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Compare two disk images or releases (.update): partitions, kernel, command line, files, and what an update from
    /// the first to the second fetches; exit code 1 when they differ.
    Diff {
        /// The first image or release.
        #[arg(value_name = "A")]
        a: PathBuf,
        /// The second image or release.
        #[arg(value_name = "B")]
        b: PathBuf,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what is in an image, an ISO, a release, or behind a reference to a registry: partitions, versions, kernel,
    /// packages, sizes by component, signatures.
    Inspect {
        /// A file, a release's directory, or oci://HOST/REPOSITORY:TAG.
        #[arg(value_name = "PATH|oci://...")]
        target: String,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Verify what a build wrote, or what is published: a file by SHA256SUMS, provenance and what is inside, a release's
    /// directory, a channel, an artifact in a registry; or, of a manifest, build it again and compare the result with an
    /// image, byte by byte. Exit code 1 when something is wrong or differs.
    Verify(Box<VerifyArguments>),
    /// Make a pair of keys that sign releases and channels: PREFIX.key and PREFIX.pub.
    Keygen {
        /// Beginning of the names of both files.
        #[arg(long, default_value = "update", value_name = "PREFIX")]
        out: PathBuf,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Add signatures to a release, a channel, a key set or provenance; of any other file write FILE.sig and
    /// FILE.sigstore.json, which `cosign verify-blob` takes.
    Sign {
        /// A release's directory, the file of a signed document, or any other file.
        #[arg(value_name = "RELEASE_DIR|FILE")]
        target: PathBuf,
        /// Keys.
        #[command(flatten)]
        keys: SigningKeys,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make sets of public keys, and change them.
    Keys {
        /// What to do.
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Copy releases into a directory that any HTTP server can serve, and lead a channel to them.
    Publish {
        /// Directories of releases.
        #[arg(value_name = "RELEASE_DIR")]
        releases: Vec<PathBuf>,
        /// The directory; it is made when it is missing.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// How.
        #[command(flatten)]
        options: PublishOptions,
    },
    /// Push to an OCI registry what a build wrote: images, OCI layouts and archives under a tag, with their SBOM, provenance
    /// and signatures; releases (.update) under tags of their own, and lead a channel to them.
    Push(Box<PushArguments>),
    /// Boot an image in QEMU.
    Run(Box<RunArguments>),
    /// Test an image in QEMU: it boots, installs an update, keeps it, and falls back from it; exit code 1 when a case fails.
    Test(Box<TestArguments>),
    /// Write an image to a disk, e.g. a USB stick, and read it back; without a disk, or with --list, show the disks.
    Flash(FlashArguments),
    /// Look after the cache.
    Cache {
        /// What to do.
        #[command(subcommand)]
        command: CacheCommand,
    },
    /// Print what completes commands in a shell.
    Completions {
        /// The shell.
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Write manual pages, one for each command.
    Man {
        /// Directory; it is made when it is missing.
        #[arg(long, short, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Options of `init`.
#[derive(Debug, Clone, Args)]
pub struct InitArguments {
    /// A file, or a directory that gets kubesolo-os.toml.
    #[arg(value_name = "DIR|FILE", default_value = ".")]
    pub to: PathBuf,
    /// What the image is for.
    #[arg(long, value_enum, default_value_t = Template::Kubesolo)]
    pub template: Template,
    /// Name of the image.
    #[arg(long, value_name = "NAME", default_value = "my-node")]
    pub name: String,
    /// Architecture.
    #[arg(long, default_value = "x86_64", value_parser = |text: &str| text.parse::<Arch>())]
    pub arch: Arch,
    /// Directory with base.toml and the other manifests of KubeSolo OS [default: manifests/ in the directory of the new
    /// manifest, or the nearest above it].
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Also write a workflow that checks, builds and publishes.
    #[arg(long, value_enum)]
    pub ci: Option<CiSystem>,
}

/// What an image that `init` starts is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Template {
    /// KubeSolo on servers, small boxes and virtual machines.
    Kubesolo,
    /// KubeSolo in clouds and virtual machines: a smaller kernel.
    Cloud,
    /// Debian's containerd and a service of your own.
    Containerd,
}

/// Where a workflow runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CiSystem {
    /// GitHub Actions.
    Github,
    /// GitLab CI/CD.
    Gitlab,
    /// Gitea or Forgejo Actions.
    Gitea,
}

/// Options of `flash`.
#[derive(Debug, Clone, Args)]
pub struct FlashArguments {
    /// The image: .img or .iso, as it is or compressed (.zst, .xz, .gz).
    #[arg(value_name = "IMAGE")]
    pub image: Option<PathBuf>,
    /// The disk, e.g. /dev/sdb or /dev/disk/by-id/...
    #[arg(value_name = "DISK")]
    pub disk: Option<PathBuf>,
    /// Show the disks, and why one is not written to.
    #[arg(long, conflicts_with_all = ["image", "disk"])]
    pub list: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
    /// Write to a built-in disk, too. One that is in use is never written to.
    #[arg(long)]
    pub force: bool,
    /// Do not read back and compare.
    #[arg(long)]
    pub no_verify: bool,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Where private keys are.
#[derive(Debug, Clone, Default, Args)]
pub struct SigningKeys {
    /// A private key: FILE (PKCS#8 in PEM), env:NAME (the same, or base64 of a seed), or exec:COMMAND, which gets the
    /// bytes to sign on standard input and answers with the signature. Repeat it for several.
    #[arg(long = "key", value_name = "SOURCE")]
    pub keys: Vec<KeySource>,
    /// The public key (PEM) of an exec: key, one for each in their order.
    #[arg(long = "public-key", value_name = "FILE")]
    pub public_keys: Vec<PathBuf>,
}

/// What `keys` does.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make the first key set.
    New {
        /// Public keys (PEM).
        #[arg(value_name = "PUBLIC_KEY", required = true)]
        members: Vec<PathBuf>,
        /// How many different keys must sign.
        #[arg(long, default_value_t = 1, value_name = "N")]
        threshold: u32,
        /// For how long it is valid, e.g. 365d [default: for ever].
        #[arg(long, value_name = "TIME")]
        valid_for: Option<Duration>,
        /// Keys that sign it; without any it is a plain document, which is what an image carries.
        #[command(flatten)]
        keys: SigningKeys,
        /// The file, which must not exist.
        #[arg(long, short, default_value = "keys-1.json", value_name = "FILE")]
        out: PathBuf,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make the key set that follows another, signed by the keys of both.
    Rotate {
        /// The key set in use.
        #[arg(value_name = "KEYSET")]
        old: PathBuf,
        /// A public key (PEM) that comes.
        #[arg(long, value_name = "FILE")]
        add: Vec<PathBuf>,
        /// A key that goes: its public key (PEM), or the first 8 or more digits of its name.
        #[arg(long, value_name = "FILE|ID")]
        remove: Vec<String>,
        /// How many different keys must sign from then on [default: as before].
        #[arg(long, value_name = "N")]
        threshold: Option<u32>,
        /// For how long it is valid, e.g. 365d [default: for ever].
        #[arg(long, value_name = "TIME")]
        valid_for: Option<Duration>,
        /// Keys that sign it; others can be added with `sign`.
        #[command(flatten)]
        keys: SigningKeys,
        /// The file, which must not exist [default: keys-VERSION.json].
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// How releases are published.
#[derive(Debug, Clone, Args)]
pub struct PublishOptions {
    /// Name of the channel that leads to the releases.
    #[arg(long, value_name = "NAME")]
    pub channel: Option<String>,
    /// Keys that sign the channel.
    #[command(flatten)]
    pub keys: SigningKeys,
    /// A key set (JSON) or public key (PEM) that is trusted; of several key sets the newest is the one in use, and older
    /// ones may have signed the channel before. Signed key sets are published, too [default: the keys that sign].
    #[arg(long = "keys", value_name = "FILE")]
    pub trusted: Vec<PathBuf>,
    /// For how long the channel is valid, e.g. 30d [default: for ever].
    #[arg(long, value_name = "TIME")]
    pub valid_for: Option<Duration>,
    /// Take a version out of the channel.
    #[arg(long, value_name = "VERSION")]
    pub remove: Vec<Version>,
    /// Put releases in the place of others of the same version, and what is pushed in the place of what its tag names.
    #[arg(long)]
    pub replace: bool,
    /// Sign the channel anew even when its list stays as it is, for a later end.
    #[arg(long)]
    pub refresh: bool,
    /// Number of the channel's document [default: the next]; nodes take none that is lower than one they have seen.
    #[arg(long, value_name = "N")]
    pub sequence: Option<u64>,
    /// Image, when there is no release.
    #[arg(long, value_name = "NAME", requires = "arch")]
    pub image: Option<String>,
    /// Architecture, when there is no release.
    #[arg(long, value_parser = |text: &str| text.parse::<Arch>(), requires = "image")]
    pub arch: Option<Arch>,
    /// Publish the releases, and write the channel to FILE instead, for others to sign.
    #[arg(long, value_name = "FILE", conflicts_with = "from_draft")]
    pub draft: Option<PathBuf>,
    /// Publish the channel in FILE, which was written by --draft and is signed by now.
    #[arg(long, value_name = "FILE")]
    pub from_draft: Option<PathBuf>,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `push`.
#[derive(Debug, Clone, Args)]
pub struct PushArguments {
    /// Images (.img, .img.zst, .iso, .qcow2, .vmdk, .vhd), OCI layouts and archives (.oci.tar), directories of releases
    /// (.update); and oci://HOST/REPOSITORY[:TAG]. Several images become one index [default tag: VERSION-ARCH, or VERSION].
    #[arg(value_name = "ARTIFACT... oci://HOST/REPOSITORY[:TAG]", required = true)]
    pub arguments: Vec<String>,
    /// Also sign as `cosign` does: a private key, ECDSA P-256 or Ed25519 (PKCS#8 in PEM): FILE or env:NAME.
    #[arg(long = "cosign-key", value_name = "SOURCE")]
    pub cosign_keys: Vec<KeySource>,
    /// Attach a file to what the tag names; repeat it for several.
    #[arg(long = "attach", value_name = "FILE:TYPE", value_parser = Attachment::parse)]
    pub attachments: Vec<Attachment>,
    /// Attach nothing that lies beside the artifacts (NAME-VERSION-ARCH.spdx.json, .cdx.json, .provenance.json).
    #[arg(long)]
    pub no_referrers: bool,
    /// Annotate the manifests that are made of files.
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = parse_annotation)]
    pub annotations: Vec<(String, String)>,
    /// Send raw disk images (.img) as they are; they are compressed with Zstandard otherwise.
    #[arg(long)]
    pub no_compress: bool,
    /// Take blobs that another repository of the registry has from there; repeat it for several.
    #[arg(long = "mount-from", value_name = "REPOSITORY")]
    pub mounts: Vec<String>,
    /// Speak http: to a registry on this machine alone (which is the default for one), to any registry with `force`, which
    /// `oci+http://` needs, too; `never` speaks https to one on this machine.
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "loopback")]
    pub plain_http: Option<PlainHttp>,
    /// How releases are published, and what is common.
    #[command(flatten)]
    pub options: PublishOptions,
}

/// When a registry is spoken to without encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PlainHttp {
    /// When it is on this machine.
    Loopback,
    /// Always.
    Force,
    /// Never.
    Never,
}

fn parse_annotation(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// Options of `verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArguments {
    /// A file that a build wrote, a release's directory, .../channels/CHANNEL/NAME-ARCH.json, oci://HOST/REPOSITORY:TAG;
    /// or a manifest.
    #[arg(value_name = "ARTIFACT|MANIFEST")]
    pub target: String,
    /// Of a manifest: the image [default: out/NAME-VERSION-ARCH.img].
    #[arg(value_name = "IMAGE")]
    pub image: Option<PathBuf>,
    /// A public key (PEM) that must have signed the artifact; of several, all.
    #[arg(long = "key", value_name = "FILE")]
    pub keys: Vec<PathBuf>,
    /// A key set (JSON) that must have signed the artifact.
    #[arg(long = "keys", value_name = "FILE")]
    pub key_sets: Vec<PathBuf>,
    /// A public key (PEM) of cosign: a release in a registry must be signed by one of them, too.
    #[arg(long = "cosign-key", value_name = "FILE")]
    pub cosign_keys: Vec<PathBuf>,
    /// Of an artifact: print as JSON.
    #[arg(long)]
    pub json: bool,
    /// Of a file: build it again from nothing but its inputs, and compare.
    #[arg(long, conflicts_with_all = ["image", "keys", "key_sets", "cosign_keys", "json"])]
    pub rebuild: bool,
    /// The manifest to build again [default: the one that the provenance beside the file names].
    #[arg(long, value_name = "MANIFEST", requires = "rebuild")]
    pub manifest: Option<PathBuf>,
    /// Of a manifest: architecture [default: the manifest's].
    #[arg(long, value_parser = |text: &str| text.parse::<Arch>())]
    pub arch: Option<Arch>,
    /// Of a manifest: use a local file or directory for a component, as the build of the image did.
    #[arg(long = "component", value_name = "NAME=PATH", value_parser = parse_component)]
    pub components: Vec<(String, PathBuf)>,
    /// Lock mode.
    #[command(flatten)]
    pub lock: LockOptions,
}

/// Options of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArguments {
    /// A disk or ISO image, or a manifest whose disk image is built first [default: kubesolo-os.toml].
    #[arg(value_name = "IMAGE|MANIFEST")]
    pub target: Option<PathBuf>,
    /// Architecture of the image [default: from the manifest, or from the image's name].
    #[arg(long, value_parser = |text: &str| text.parse::<Arch>())]
    pub arch: Option<Arch>,
    /// Stop at this state: `ready`.
    #[arg(long, value_name = "STATE", value_parser = ["ready"])]
    pub until: Option<String>,
    /// Give up after this many seconds.
    #[arg(long, value_name = "S")]
    pub timeout: Option<u64>,
    /// Enforce Secure Boot with Microsoft's keys enrolled.
    #[arg(long)]
    pub secure_boot: bool,
    /// Boot by BIOS instead of UEFI (x86_64).
    #[arg(long, conflicts_with = "secure_boot")]
    pub bios: bool,
    /// Attach an ISO image as a USB stick instead of a CD.
    #[arg(long)]
    pub usb: bool,
    /// Memory, e.g. 512M or 2G.
    #[arg(long, value_name = "M", default_value = "1G")]
    pub memory: String,
    /// Virtual disk size; the image is grown to it.
    #[arg(long, value_name = "S", default_value = "8G")]
    pub disk_size: String,
    /// Forward a TCP port of this host to the guest.
    #[arg(long, value_name = "HOST:GUEST")]
    pub forward: Vec<String>,
    /// Boot without a network card.
    #[arg(long)]
    pub no_network: bool,
    /// Give the node this configuration (YAML, docs/cloud-init.md) on a NoCloud volume.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Put this network configuration (version 2) on the NoCloud volume.
    #[arg(long, value_name = "FILE")]
    pub network_config: Option<PathBuf>,
    /// Portainer Edge id for KubeSolo.
    #[arg(long, value_name = "ID")]
    pub edge_id: Option<String>,
    /// Portainer Edge key for KubeSolo.
    #[arg(long, value_name = "KEY", env = "KSOS_EDGE_KEY", hide_env_values = true)]
    pub edge_key: Option<String>,
    /// Run the Portainer Edge agent asynchronously.
    #[arg(long)]
    pub edge_async: bool,
    /// Fetch the node's kubeconfig into this file, for use from this host.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Stop at the first console line that holds this text.
    #[arg(long, value_name = "TEXT", conflicts_with = "until")]
    pub until_line: Option<String>,
    /// Give QEMU a further argument; repeat it for several.
    #[arg(long = "qemu-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub qemu_arguments: Vec<String>,
    /// Keep the disk's changes in this file; it is made from the image when it does not exist. With an ISO image: the
    /// machine's disk, made blank when it does not exist; without this the machine has no disk.
    #[arg(long, value_name = "DISK")]
    pub persist: Option<PathBuf>,
    /// Lock mode, when a manifest is built.
    #[command(flatten)]
    pub lock: LockOptions,
    /// Use a local file or directory for a component, when a manifest is built.
    #[arg(long = "component", value_name = "NAME=PATH", value_parser = parse_component)]
    pub components: Vec<(String, PathBuf)>,
}

/// Options of `test`.
#[derive(Debug, Clone, Args)]
pub struct TestArguments {
    /// The disk image.
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,
    /// Update to this release, or to the release of this manifest, which is built first.
    #[arg(long, value_name = "NEXT.update|MANIFEST", conflicts_with = "source")]
    pub update: Option<PathBuf>,
    /// Keys that sign the release and the channel that the node sees.
    #[command(flatten)]
    pub keys: SigningKeys,
    /// Update to the newest release of a published tree.
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
    /// The channel of that tree.
    #[arg(long, value_name = "NAME", default_value = "stable", requires = "source")]
    pub channel: String,
    /// Give the node this configuration (YAML, docs/cloud-init.md) beside the update source.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write the report as JUnit XML.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// Directory for the consoles' logs of what failed [default: that of the JUnit report, or the working directory].
    #[arg(long, value_name = "DIR")]
    pub logs: Option<PathBuf>,
    /// Seconds for each step.
    #[arg(long, value_name = "S", default_value_t = 900)]
    pub timeout: u64,
    /// Memory, e.g. 512M or 2G.
    #[arg(long, value_name = "M", default_value = "1G")]
    pub memory: String,
    /// Enforce Secure Boot with Microsoft's keys enrolled.
    #[arg(long)]
    pub secure_boot: bool,
    /// Give QEMU a further argument; repeat it for several.
    #[arg(long = "qemu-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub qemu_arguments: Vec<String>,
    /// Lock mode, when a manifest is built.
    #[command(flatten)]
    pub lock: LockOptions,
    /// Use a local file or directory for a component, when a manifest is built.
    #[arg(long = "component", value_name = "NAME=PATH", value_parser = parse_component)]
    pub components: Vec<(String, PathBuf)>,
}

/// What `cache` does.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List what the cache holds by kind.
    Ls {
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove what was not used lately.
    Gc {
        /// Remove what was not used for this many days.
        #[arg(long, default_value_t = 30, value_name = "DAYS")]
        max_age: u64,
        /// Then remove the longest unused until the cache is no larger, e.g. 10GiB.
        #[arg(long, value_name = "SIZE")]
        max_size: Option<String>,
    },
    /// Hash everything again and remove what is damaged.
    Verify,
    /// Write what the cache has of the manifests' builds to the remote cache.
    Push {
        /// Manifests.
        #[command(flatten)]
        selection: Selection,
        /// Lock mode.
        #[command(flatten)]
        lock: LockOptions,
    },
    /// Bring what the manifests' builds would take from the remote cache into the cache.
    Pull {
        /// Manifests.
        #[command(flatten)]
        selection: Selection,
        /// Lock mode.
        #[command(flatten)]
        lock: LockOptions,
    },
}
