//! Container images that the image carries: imported into containerd by a service of our own.
//!
//! When there are images and a service that runs containers, a one-shot service [`SERVICE`] is added, which runs this
//! binary as `import-images` after each start of that service (an engine may drop its images when it starts); every
//! service that is after the engine is after the import too. It waits for the engine's containerd, asks what it has,
//! and imports what is missing or is another image.
//!
//! All images are in one OCI layout in which every blob is there once. `ctr` reads archives: it gets one on its standard
//! input, made on the way of the blobs that the missing images need. Nothing is copied to a disk first.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use ksos_formats::layout;
use ksos_formats::runtime::{
    ContainerImage, EngineConfig, LogTarget, ReadyProbe, RestartPolicy, RuntimeConfig, ServiceConfig,
};
use serde::{Deserialize, Serialize};

use crate::sys::Sys;

use super::Error;
use super::data::find_program;
use super::handover::read_document;

/// Name of the service that imports images.
pub(super) const SERVICE: &str = "container-images";
/// containerd namespace (the one that Kubernetes uses).
const NAMESPACE: &str = "k8s.io";
/// Labels of an image that the kubelet manages and does not remove (containerd, `internal/cri/labels`).
const LABELS: [&str; 2] = ["io.cri-containerd.image=managed", "io.cri-containerd.pinned=pinned"];
/// Longest wait for containerd, and longest pause between two looks, in milliseconds.
const PATIENCE_MS: (u64, u64) = (60_000, 1000);
/// Largest manifest of an image, in bytes (as the composer's).
const MANIFEST_LIMIT: u64 = 4 << 20;
/// Images whose names fit into one command line.
const BATCH: usize = 64;

/// Returns what runs containers: what the image states, or Debian's containerd.
pub(super) fn engine(config: &RuntimeConfig) -> EngineConfig {
    config.engine.clone().unwrap_or_else(|| EngineConfig {
        service: "containerd".to_owned(),
        socket: "/run/containerd/containerd.sock".to_owned(),
    })
}

/// Returns the services with the importing one added where it belongs, and what is wrong.
pub(super) fn with_import(config: &RuntimeConfig) -> (BTreeMap<String, ServiceConfig>, Option<String>) {
    let mut services = config.services.clone();
    if config.container_images.is_empty() {
        return (services, None);
    }
    let engine = engine(config).service;
    if !services.contains_key(&engine) {
        let reason = format!("container images are not imported: there is no service named {engine}");
        return (services, Some(reason));
    }
    for (name, service) in &mut services {
        if *name != engine && service.after.contains(&engine) {
            service.after.push(SERVICE.to_owned());
        }
    }
    services.insert(SERVICE.to_owned(), import_service());
    (services, None)
}

fn import_service() -> ServiceConfig {
    ServiceConfig {
        command: vec![layout::RUNTIME_BINARY.to_owned(), "import-images".to_owned()],
        environment: BTreeMap::new(),
        // It follows the engine: see `Machine::follow`.
        after: Vec::new(),
        restart: RestartPolicy::OnFailure,
        restart_delay_ms: 1000,
        restart_delay_max_ms: 30_000,
        stop_timeout_ms: 5000,
        ready: ReadyProbe::Exited,
        required: true,
        oom_score_adjust: 0,
        limit_nofile: None,
        limit_nproc: None,
        limit_core: None,
        working_directory: None,
        pre_start: Vec::new(),
        log: LogTarget::Console,
        apparmor: None,
    }
}

/// The applet: imports what is missing. Returns its exit status.
pub fn import(sys: &dyn Sys, out: &mut dyn Write) -> i32 {
    match import_missing(sys, out) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(out, "{error}");
            1
        }
    }
}

fn import_missing(sys: &dyn Sys, out: &mut dyn Write) -> Result<(), Error> {
    let config: RuntimeConfig = read_document(sys, layout::RUNTIME_CONFIG)?;
    let EngineConfig { service: _, socket } = engine(&config);
    let ctr = Ctr { sys, program: find_program(sys, "ctr")?, socket };
    ctr.wait()?;
    ctr.bring(&config.container_images, out)
}

/// Returns the images that are not listed under their name with their digest.
fn missing<'a>(images: &'a [ContainerImage], listed: &BTreeMap<String, Listed>) -> Vec<&'a ContainerImage> {
    let is_there = |image: &&ContainerImage| {
        listed.get(&image.reference).is_some_and(|listed| listed.digest == format!("sha256:{}", image.manifest))
    };
    images.iter().filter(|image| !is_there(image)).collect()
}

/// An image as containerd lists it.
struct Listed {
    digest: String,
    labels: String,
}

/// containerd's own client, for one containerd.
struct Ctr<'a> {
    sys: &'a dyn Sys,
    program: String,
    socket: String,
}

impl Ctr<'_> {
    /// Waits until the socket accepts connections.
    fn wait(&self) -> Result<(), Error> {
        let (patience, longest) = PATIENCE_MS;
        let start = self.sys.uptime_ms();
        let mut pause = 50;
        while !self.sys.connect_socket(&self.socket) {
            if self.sys.uptime_ms().saturating_sub(start) >= patience {
                let reason = format!("{} does not accept connections for {} s", self.socket, patience / 1000);
                return Err(Error::Several(vec![reason]));
            }
            self.sys.sleep_ms(pause);
            pause = (pause * 2).min(longest);
        }
        Ok(())
    }

    /// Imports those of `images` that are missing, says so, and marks all.
    fn bring(&self, images: &[ContainerImage], out: &mut dyn Write) -> Result<(), Error> {
        let missing = missing(images, &self.list(images)?);
        if !missing.is_empty() {
            let start = self.sys.uptime_ms();
            self.import(&missing)?;
            let ms = self.sys.uptime_ms().saturating_sub(start);
            missing.iter().for_each(|image| drop(writeln!(out, "imported {} in {ms} ms", image.reference)));
        }
        let listed = self.list(images)?;
        if let Some(ContainerImage { reference, manifest, .. }) = self::missing(images, &listed).first() {
            return Err(Error::Several(vec![format!("{reference} (sha256:{manifest}) is not there after its import")]));
        }
        for image in images {
            let labels = listed.get(&image.reference).map_or("", |listed| &listed.labels);
            if !LABELS.iter().all(|label| labels.contains(label)) {
                self.run(&["label", &image.reference, LABELS[0], LABELS[1]])?;
            }
        }
        Ok(())
    }

    fn arguments<'b>(&'b self, more: &[&'b str]) -> Vec<&'b str> {
        let mut arguments = vec![self.program.as_str(), "-a", &self.socket, "-n", NAMESPACE, "images"];
        arguments.extend(more);
        arguments
    }

    fn run(&self, more: &[&str]) -> Result<String, Error> {
        let arguments = self.arguments(more);
        checked(&arguments, self.sys.run(&arguments)?)
    }

    /// Returns which of `images` there are, whatever they are.
    fn list(&self, images: &[ContainerImage]) -> Result<BTreeMap<String, Listed>, Error> {
        let mut listed = BTreeMap::new();
        for batch in images.chunks(BATCH) {
            let filters: Vec<String> = batch.iter().map(|image| format!("name==\"{}\"", image.reference)).collect();
            let mut more = vec!["ls"];
            more.extend(filters.iter().map(String::as_str));
            listed.extend(parse_list(&self.run(&more)?));
        }
        Ok(listed)
    }

    /// Imports `images` in one archive for each layout.
    fn import(&self, images: &[&ContainerImage]) -> Result<(), Error> {
        let mut left = images.to_vec();
        while let Some(layout) = left.first().map(|image| image.layout.as_str()) {
            let (of_layout, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|image| image.layout == layout);
            left = others;
            let archive = Archive::plan(self.sys, layout, &of_layout)?;
            let arguments = self.arguments(&["import", "-"]);
            let outcome = self.sys.run_fed(&arguments, &mut |output| archive.write(self.sys, output))?;
            checked(&arguments, outcome)?;
        }
        Ok(())
    }
}

fn checked(arguments: &[&str], (exit, output): (crate::sys::Exit, String)) -> Result<String, Error> {
    if exit.success() {
        return Ok(output);
    }
    Err(Error::Program { program: arguments.join(" "), exit, output })
}

/// Reads the table of `ctr images ls`: REF TYPE DIGEST SIZE PLATFORMS LABELS, with a space within SIZE.
fn parse_list(text: &str) -> BTreeMap<String, Listed> {
    let row = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let digest = columns.get(2).filter(|digest| digest.starts_with("sha256:"))?;
        let listed = Listed { digest: (*digest).to_owned(), labels: (*columns.last()?).to_owned() };
        Some(((*columns.first()?).to_owned(), listed))
    };
    text.lines().filter_map(row).collect()
}

/// A descriptor of the OCI image specification, as far as it is needed here.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// What of a layout goes to `ctr`.
struct Archive {
    layout: String,
    index: Vec<u8>,
    /// Files of blobs below the layout, with their sizes.
    blobs: BTreeMap<String, u64>,
}

impl Archive {
    /// Finds the entries of `images` in the layout's index, and the blobs that they need.
    fn plan(sys: &dyn Sys, layout: &str, images: &[&ContainerImage]) -> Result<Self, Error> {
        let mut index: Index = read_document(sys, &format!("{layout}/index.json"))?;
        let wanted = |entry: &Descriptor| {
            let name = entry.annotations.get("io.containerd.image.name");
            images.iter().any(|image| Some(&image.reference) == name)
        };
        index.manifests.retain(wanted);
        let mut blobs = BTreeMap::new();
        for entry in &index.manifests {
            let path = blob_path(&entry.digest)?;
            let whole = format!("{layout}/{path}");
            let text = sys.read(&whole, MANIFEST_LIMIT)?;
            let manifest: Manifest =
                serde_json::from_slice(&text).map_err(|source| Error::Several(vec![format!("{whole}: {source}")]))?;
            for part in [&manifest.config].into_iter().chain(&manifest.layers) {
                blobs.insert(blob_path(&part.digest)?, part.size);
            }
            blobs.insert(path, text.len() as u64);
        }
        let index = serde_json::to_vec(&index).map_err(|error| Error::Several(vec![error.to_string()]))?;
        Ok(Archive { layout: layout.to_owned(), index, blobs })
    }

    /// Writes the archive.
    fn write(&self, sys: &dyn Sys, output: &mut dyn Write) -> io::Result<()> {
        for (name, bytes) in [("oci-layout", &br#"{"imageLayoutVersion":"1.0.0"}"#[..]), ("index.json", &self.index)] {
            output.write_all(&header(name, bytes.len() as u64))?;
            output.write_all(bytes)?;
            pad(output, bytes.len() as u64)?;
        }
        for (name, size) in &self.blobs {
            let mut file = sys.open_read(&format!("{}/{name}", self.layout)).map_err(io::Error::other)?;
            output.write_all(&header(name, *size))?;
            let copied = io::copy(&mut (&mut file).take(*size), output)?;
            if copied != *size {
                return Err(io::Error::other(format!("{name} has {copied} bytes, expected {size}")));
            }
            pad(output, *size)?;
        }
        output.write_all(&[0; 1024])
    }
}

/// Returns where a blob is below its layout. Only SHA-256 digests are paths.
fn blob_path(digest: &str) -> Result<String, Error> {
    let hex = digest.strip_prefix("sha256:").filter(|hex| hex.parse::<ksos_formats::Digest>().is_ok());
    let hex = hex.ok_or_else(|| Error::Several(vec![format!("{digest:?} is not a SHA-256 digest")]))?;
    Ok(format!("blobs/sha256/{hex}"))
}

/// Returns the header of a regular file (POSIX.1-2017, `pax`, "ustar Interchange Format"). Names are those of this
/// module, all shorter than its 100 bytes, and sizes below 8 GiB: the composer takes no larger layer.
fn header(name: &str, size: u64) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, text: &str| {
        if let Some(field) = block.get_mut(at..at + text.len()) {
            field.copy_from_slice(text.as_bytes());
        }
    };
    put(0, name);
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar");
    put(263, "00");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let text = format!("{sum:06o}\0");
    if let Some(field) = block.get_mut(148..155) {
        field.copy_from_slice(text.as_bytes());
    }
    block
}

fn pad(output: &mut dyn Write, size: u64) -> io::Result<()> {
    let count = (512 - size % 512) % 512;
    output.write_all([0; 512].get(..count as usize).unwrap_or(&[]))
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
