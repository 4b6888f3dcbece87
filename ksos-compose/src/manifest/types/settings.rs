//! What the runtime does on the node beside running services.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::texts;
use super::values::Duration;

/// What the runtime does on the node beside running services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct NodeSettings {
    /// Time after which the hardware watchdog restarts a node whose PID 1 makes no progress. Left alone when not stated.
    #[schemars(with = "Duration")]
    pub watchdog: Option<Duration>,
    /// Whether no kernel module can be loaded once the node was ready.
    pub lock_modules: bool,
    /// Shell of root, for logins over SSH. Without it nobody logs in, but at a console that has a shell.
    #[schemars(with = "texts::AbsolutePath")]
    pub root_shell: Option<String>,
    /// What runs containers.
    #[schemars(with = "Engine")]
    pub engine: Option<Engine>,
    /// What makes this a Kubernetes node.
    #[schemars(with = "Kubernetes")]
    pub kubernetes: Option<Kubernetes>,
}

/// What runs containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Engine {
    /// Service that containerd runs in.
    pub service: String,
    /// Its socket.
    #[schemars(with = "texts::AbsolutePath")]
    pub socket: String,
}

/// What makes this a Kubernetes node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Kubernetes {
    /// Service that the API server runs in.
    pub service: String,
    /// The administrator's kubeconfig.
    #[schemars(with = "texts::AbsolutePath")]
    pub kubeconfig: String,
}
