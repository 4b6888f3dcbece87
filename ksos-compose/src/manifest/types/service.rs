//! Services and container images.

use std::collections::BTreeMap;

use ksos_formats::Digest;
use ksos_formats::runtime::{LogTarget, ReadyProbe, RestartPolicy};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::values::{Duration, Glob, HostPath};
use super::{enabled, texts};
use crate::oci::reference::{Reference, ReferenceError, parse_digest};

/// A supervised service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Service {
    /// Absolute path of the executable and its arguments. There is no shell.
    #[schemars(with = "Vec<texts::Argument>", length(min = 1))]
    pub command: Vec<String>,
    /// Environment, added to `PATH`, `HOME` and `TERM`.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "ksos-environment-name", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" }))]
    pub environment: BTreeMap<String, String>,
    /// Services that must be ready before this one starts.
    #[serde(default)]
    pub after: Vec<String>,
    /// What to do when it ends: `always`, `on-failure` or `never` restart it.
    #[serde(default = "restart")]
    #[schemars(schema_with = "restart_schema")]
    pub restart: RestartPolicy,
    /// Delay before the first restart; it doubles with each further one.
    #[serde(default = "restart_delay")]
    pub restart_delay: Duration,
    /// Longest delay before a restart.
    #[serde(default = "restart_delay_max")]
    pub restart_delay_max: Duration,
    /// Time from SIGTERM to SIGKILL.
    #[serde(default = "stop_timeout")]
    pub stop_timeout: Duration,
    /// When the service counts as ready; one key.
    #[serde(default = "ready", deserialize_with = "deserialize_ready", serialize_with = "serialize_ready")]
    #[schemars(with = "ReadyTable")]
    pub ready: ReadyProbe,
    /// Whether the node is not ready before this service is.
    #[serde(default = "enabled")]
    pub required: bool,
    /// The lower, the later the kernel ends it when memory is short: -1000 to 1000.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    pub oom_score_adjust: i32,
    /// Resource limits.
    #[serde(default)]
    pub limits: Limits,
    /// Directory that it starts in.
    #[serde(default)]
    #[schemars(with = "texts::AbsolutePath")]
    pub working_directory: Option<String>,
    /// Commands run before it, in order; each must end with status 0.
    #[serde(default)]
    #[schemars(with = "Vec<Vec<texts::Argument>>", inner(length(min = 1)))]
    pub pre_start: Vec<Vec<String>>,
    /// Where its output goes: `file` (`/var/log/ksos/NAME.log`) or `console`.
    #[serde(default = "log")]
    #[schemars(schema_with = "log_schema")]
    pub log: LogTarget,
    /// AppArmor profile that confines it; it does not start when the kernel cannot. Files directly in `/etc/apparmor.d`
    /// are loaded at boot.
    #[serde(default)]
    #[schemars(with = "texts::ProfileName")]
    pub apparmor: Option<String>,
    /// `false` drops an inherited service.
    #[serde(default = "enabled", skip_serializing)]
    pub enabled: bool,
}

fn restart() -> RestartPolicy {
    RestartPolicy::Always
}

fn restart_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["always", "on-failure", "never"] })
}

fn restart_delay() -> Duration {
    Duration::seconds(3)
}

fn restart_delay_max() -> Duration {
    Duration::seconds(60)
}

fn stop_timeout() -> Duration {
    Duration::seconds(10)
}

fn log() -> LogTarget {
    LogTarget::File
}

fn log_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["file", "console"] })
}

fn ready() -> ReadyProbe {
    ReadyProbe::Started
}

/// When a service counts as ready; exactly one key.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[schemars(rename = "Ready", extend("minProperties" = 1, "maxProperties" = 1), transform = super::super::schema::drop_defaults)]
struct ReadyTable {
    /// As soon as the process runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool", extend("const" = true))]
    started: Option<bool>,
    /// When the process has ended with status 0 (one-shot services).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool", extend("const" = true))]
    exited: Option<bool>,
    /// When this Unix socket accepts a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "texts::AbsolutePath")]
    socket: Option<String>,
    /// When this TCP port on 127.0.0.1 accepts a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u16", range(min = 1))]
    tcp: Option<u16>,
    /// When this command ends with status 0; it is tried once a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<texts::Argument>", length(min = 1))]
    command: Option<Vec<String>>,
}

fn deserialize_ready<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ReadyProbe, D::Error> {
    let ReadyTable { started, exited, socket, tcp, command } = ReadyTable::deserialize(deserializer)?;
    match (started, exited, socket, tcp, command) {
        (Some(true), None, None, None, None) => Ok(ReadyProbe::Started),
        (None, Some(true), None, None, None) => Ok(ReadyProbe::Exited),
        (None, None, Some(path), None, None) => Ok(ReadyProbe::Socket(path)),
        (None, None, None, Some(port), None) => Ok(ReadyProbe::Tcp(port)),
        (None, None, None, None, Some(command)) => Ok(ReadyProbe::Command(command)),
        _ => Err(de::Error::custom("exactly one of started, exited, socket, tcp and command is required")),
    }
}

fn serialize_ready<S: Serializer>(probe: &ReadyProbe, serializer: S) -> Result<S::Ok, S::Error> {
    let empty = ReadyTable::default();
    let table = match probe.clone() {
        ReadyProbe::Started => ReadyTable { started: Some(true), ..empty },
        ReadyProbe::Exited => ReadyTable { exited: Some(true), ..empty },
        ReadyProbe::Socket(path) => ReadyTable { socket: Some(path), ..empty },
        ReadyProbe::Tcp(port) => ReadyTable { tcp: Some(port), ..empty },
        ReadyProbe::Command(command) => ReadyTable { command: Some(command), ..empty },
    };
    table.serialize(serializer)
}

/// Resource limits of a service, soft and hard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Open files.
    #[schemars(with = "u32")]
    pub nofile: Option<u64>,
    /// Processes of its user.
    #[schemars(with = "u32")]
    pub nproc: Option<u64>,
    /// Size of a core dump in bytes.
    #[schemars(with = "u64")]
    pub core: Option<u64>,
}

/// A container image that the image carries: pulled from its registry, from an archive or a layout, or built from a
/// component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "ContainerImageTable")]
#[schemars(with = "ContainerImageTable")]
pub struct ContainerImage {
    /// Reference that it is imported as, as it stands in the manifest.
    pub reference: String,
    /// The reference, written out.
    #[serde(skip_serializing)]
    pub parsed: Reference,
    /// Digest that it must have: of the index or of the image.
    pub digest: Option<Digest>,
    /// What is in it.
    pub content: ImageContent,
}

/// What is in a container image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ImageContent {
    /// What the registry of its reference has.
    Registry {
        /// Whether it is spoken to by http; not stated: only a registry on this machine is.
        plain_http: Option<bool>,
    },
    /// An OCI or `docker save` archive on the build host.
    Archive(HostPath),
    /// An OCI layout directory on the build host.
    Layout(HostPath),
    /// One layer with files of a component.
    Built(BuiltImage),
}

/// A container image with one layer that holds files of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuiltImage {
    /// Component with the files.
    pub component: String,
    /// Files of the component to take; all of them when it is empty.
    pub files: Vec<Glob>,
    /// Command that the container runs.
    pub entrypoint: Vec<String>,
    /// Its default arguments.
    pub command: Vec<String>,
    /// Its environment.
    pub environment: BTreeMap<String, String>,
}

/// A container image that the image carries: pulled from its registry, from an archive or a layout, or built from a
/// component.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "ContainerImage")]
struct ContainerImageTable {
    /// Reference that it is imported as, e.g. `docker.io/library/hello:1`. Without `archive`, `layout` and
    /// `component`, it is pulled from there.
    #[schemars(with = "texts::ImageReference")]
    reference: String,
    /// Digest that the image, or the index with its architectures, must have: `sha256:...`. Not with `component`.
    #[serde(default)]
    #[schemars(with = "texts::ImageDigest")]
    digest: Option<String>,
    /// Speak http with the registry. Not stated: only a registry on this machine is spoken to without encryption.
    #[serde(default)]
    #[schemars(with = "bool")]
    plain_http: Option<bool>,
    /// An archive (tar, tar.gz) that `docker save`, `podman save` or `skopeo copy` wrote.
    #[serde(default)]
    #[schemars(with = "HostPath")]
    archive: Option<HostPath>,
    /// A directory with an OCI image layout.
    #[serde(default)]
    #[schemars(with = "HostPath")]
    layout: Option<HostPath>,
    /// Component whose files become the image's only layer.
    #[serde(default)]
    #[schemars(with = "String")]
    component: Option<String>,
    /// Files of the component to take; all of them when it is empty.
    #[serde(default)]
    files: Vec<Glob>,
    /// Command that the container runs.
    #[serde(default)]
    #[schemars(with = "Vec<texts::Argument>")]
    entrypoint: Vec<String>,
    /// Default arguments of the command.
    #[serde(default)]
    #[schemars(with = "Vec<texts::Argument>")]
    command: Vec<String>,
    /// Environment of the container.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "ksos-environment-name", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" }))]
    environment: BTreeMap<String, String>,
    /// `false` drops an inherited container image.
    #[serde(default = "enabled", skip_serializing)]
    #[expect(dead_code, reason = "read in the tree, before the types are")]
    enabled: bool,
}

impl TryFrom<ContainerImageTable> for ContainerImage {
    type Error = String;

    fn try_from(table: ContainerImageTable) -> Result<Self, Self::Error> {
        let ContainerImageTable { reference, digest, plain_http, archive, layout, component, .. } = table;
        let ContainerImageTable { files, entrypoint, command, environment, .. } = table;
        let parsed: Reference = reference.parse().map_err(|error: ReferenceError| error.to_string())?;
        let digest = digest.map(|text| parse_digest(&text)).transpose()?.or(parsed.digest);
        let content = match (archive, layout, component) {
            (None, None, None) => ImageContent::Registry { plain_http },
            (Some(archive), None, None) => ImageContent::Archive(archive),
            (None, Some(layout), None) => ImageContent::Layout(layout),
            (None, None, Some(component)) => {
                ImageContent::Built(BuiltImage { component, files, entrypoint, command, environment })
            }
            _ => return Err("at most one of archive, layout and component is allowed".to_owned()),
        };
        Ok(ContainerImage { reference, parsed: parsed.or_latest(), digest, content })
    }
}

/// What workloads may need that the image does not carry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Workloads {
    /// Kubernetes manifests among the image's files, by path. Without any: every `.yaml`, `.yml` and `.json` file of
    /// the overlays and `[files]` whose documents have `apiVersion` and `kind`.
    #[serde(default)]
    pub manifests: Vec<Glob>,
    /// Container images that may be pulled on the node: globs over references with registry and tag, e.g.
    /// `registry.example/team/**`.
    #[serde(default)]
    pub allow_pull: Vec<Glob>,
}
