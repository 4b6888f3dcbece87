//! What PID 1 does after switch_root: mounts, modules, services. Written by the composer into the root file system.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::boot::ImageId;
use crate::update::Window;

/// The current value of [`RuntimeConfig::format`].
pub const FORMAT: u32 = 1;

/// Services that the runtime adds: an image's own have other names, and may be `after` them.
pub const INTERNAL_SERVICES: [&str; 4] = ["agent", "container-images", "network", "update"];

/// `/usr/lib/ksos/runtime.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeConfig {
    /// [`FORMAT`].
    pub format: u32,
    /// Image name, version and architecture.
    pub image: ImageId,
    /// Host name until configuration gives another (RFC 1123).
    pub hostname: String,
    /// Kernel modules to load before services start, by name.
    pub modules: Vec<String>,
    /// Kernel settings written below `/proc/sys`, key with dots or slashes.
    pub sysctl: BTreeMap<String, String>,
    /// The data partition.
    pub data: DataConfig,
    /// Directories created in tmpfs (`/run`, `/tmp`, ...) before services start.
    pub directories: Vec<DirectoryConfig>,
    /// Container images imported before services that need them start.
    pub container_images: Vec<ContainerImage>,
    /// Services in manifest order.
    pub services: BTreeMap<String, ServiceConfig>,
    /// Whether the console gets a root shell. Only in images that ask for it.
    pub console_shell: bool,
    /// What runs containers.
    #[serde(default)]
    pub engine: Option<EngineConfig>,
    /// What makes this a Kubernetes node.
    #[serde(default)]
    pub kubernetes: Option<KubernetesConfig>,
    /// Absolute path of the image's default configuration (YAML, as a site writes it).
    #[serde(default)]
    pub default_config: Option<String>,
    /// AppArmor profile files to load, by absolute path.
    #[serde(default)]
    pub apparmor_profiles: Vec<String>,
    /// Whether no kernel module can be loaded once the node was ready.
    #[serde(default)]
    pub lock_modules: bool,
    /// Timeout of the hardware watchdog in milliseconds; `None` leaves it alone.
    #[serde(default)]
    pub watchdog_ms: Option<u64>,
    /// Updates. Without this the node takes none.
    #[serde(default)]
    pub update: Option<UpdateConfig>,
}

/// What the image says about updates; a site's configuration may say otherwise ([`crate::config::Updates`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateConfig {
    /// What kind of machine the image is for ([`crate::update::Release::board`]).
    pub board: String,
    /// Where releases come from: `https://HOST/PATH`, `http://HOST/PATH` or `oci://HOST/REPOSITORY`.
    pub source: Option<String>,
    /// Channel that is followed.
    pub channel: String,
    /// Whether the node updates by itself. Otherwise it looks, and says what there is.
    pub automatic: bool,
    /// Time between two looks in milliseconds; up to a tenth more is added at random.
    pub interval_ms: u64,
    /// Time that a new version has to become healthy, in milliseconds from its first service on.
    pub gate_ms: u64,
    /// Time that it must stay healthy before it is kept, in milliseconds.
    pub hold_ms: u64,
    /// When a node may install and restart by itself. Empty: always.
    pub windows: Vec<Window>,
}

/// What runs containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineConfig {
    /// The service that it runs in.
    pub service: String,
    /// Its containerd socket.
    pub socket: String,
}

/// What makes this a Kubernetes node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesConfig {
    /// The service that the API server runs in.
    pub service: String,
    /// The administrator's kubeconfig, by absolute path.
    pub kubeconfig: String,
}

/// The data partition: label, and what of it appears where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataConfig {
    /// File system label, normally [`crate::layout::DATA_LABEL`].
    pub label: String,
    /// Where the data partition itself is mounted, e.g. `/data`.
    pub mount: String,
    /// Absolute paths that persist: each is bind-mounted from the same path below the data partition.
    pub persist: Vec<String>,
}

/// One directory to create at boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryConfig {
    /// Absolute path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
}

/// One container image that the root file system carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerImage {
    /// Reference it is imported as, e.g. `docker.io/library/hello:1`.
    pub reference: String,
    /// Absolute path of the OCI layout in the root file system that has its blobs.
    pub layout: String,
    /// SHA-256 of its manifest.
    pub manifest: Digest,
}

/// What to do when a service ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Restart whatever the exit status.
    Always,
    /// Restart unless it ended with status 0.
    OnFailure,
    /// Never restart.
    Never,
}

/// How a service counts as started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadyProbe {
    /// As soon as the process runs.
    Started,
    /// When the process has ended with status 0 (one-shot services).
    Exited,
    /// When this Unix socket accepts a connection.
    Socket(String),
    /// When this TCP port on 127.0.0.1 accepts a connection.
    Tcp(u16),
    /// When this command ends with status 0; it is tried once a second.
    Command(Vec<String>),
}

/// One supervised service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceConfig {
    /// Absolute executable path and its arguments.
    pub command: Vec<String>,
    /// Environment, added to `PATH`, `HOME=/root` and `TERM`.
    pub environment: BTreeMap<String, String>,
    /// Services that must be ready before this one starts.
    pub after: Vec<String>,
    /// What to do when it ends.
    pub restart: RestartPolicy,
    /// Delay before the first restart in milliseconds; doubled up to `restart_delay_max_ms`.
    pub restart_delay_ms: u64,
    /// Longest restart delay in milliseconds.
    pub restart_delay_max_ms: u64,
    /// Time from SIGTERM to SIGKILL in milliseconds.
    pub stop_timeout_ms: u64,
    /// When the service counts as ready.
    pub ready: ReadyProbe,
    /// The node is not ready before this service is.
    pub required: bool,
    /// `/proc/PID/oom_score_adj`, -1000..=1000.
    pub oom_score_adjust: i32,
    /// RLIMIT_NOFILE, soft and hard; `None` leaves the kernel's.
    pub limit_nofile: Option<u64>,
    /// RLIMIT_NPROC, soft and hard.
    pub limit_nproc: Option<u64>,
    /// RLIMIT_CORE, soft and hard.
    pub limit_core: Option<u64>,
    /// Working directory.
    pub working_directory: Option<String>,
    /// Run before the command, in order; each must end with status 0.
    pub pre_start: Vec<Vec<String>>,
    /// Where standard output and error go.
    pub log: LogTarget,
    /// AppArmor profile that it is confined by.
    #[serde(default)]
    pub apparmor: Option<String>,
}

/// Where a service's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogTarget {
    /// `/var/log/ksos/NAME.log`, rotated by size.
    File,
    /// The file and the console, each line with the service's name before it.
    Console,
}
