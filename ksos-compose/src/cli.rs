//! The command line: parse, call one operation, render, map to an exit code.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ksos_formats::Arch;

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
}

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
        /// Redo every step; downloads are kept.
        #[arg(long)]
        fresh: bool,
        /// List the artifacts as JSON, with SHA-256.
        #[arg(long)]
        json: bool,
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
    /// Build a manifest again and compare the result with an image, byte by byte; exit code 1 when they differ.
    Verify {
        /// The manifest.
        #[arg(value_name = "MANIFEST")]
        manifest: PathBuf,
        /// The image [default: out/NAME-VERSION-ARCH.img].
        #[arg(value_name = "IMAGE")]
        image: Option<PathBuf>,
        /// Architecture [default: the manifest's].
        #[arg(long, value_parser = |text: &str| text.parse::<Arch>())]
        arch: Option<Arch>,
        /// Use a local file or directory for a component, as the build of the image did.
        #[arg(long = "component", value_name = "NAME=PATH", value_parser = parse_component)]
        components: Vec<(String, PathBuf)>,
        /// Lock mode.
        #[command(flatten)]
        lock: LockOptions,
    },
    /// Boot an image in QEMU.
    Run(Box<RunArguments>),
    /// Test an image in QEMU: it boots, installs an update, keeps it, and falls back from it; exit code 1 when a case fails.
    Test(Box<TestArguments>),
    /// Look after the cache.
    Cache {
        /// What to do.
        #[command(subcommand)]
        command: CacheCommand,
    },
}

/// Options of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArguments {
    /// An image, or a manifest that is built first [default: kubesolo-os.toml].
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
    /// Keep the disk's changes in this file; it is made from the image when it does not exist.
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
    /// Sign the release and the channel that the node sees: FILE, env:NAME or exec:COMMAND; repeat it for several.
    #[arg(long, value_name = "SOURCE", requires = "update")]
    pub key: Vec<String>,
    /// Public key of an exec: key, in the order of these.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub public_key: Vec<PathBuf>,
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
}
