//! `run` as the command line asks for it.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use ksos_formats::Arch;

use super::seed::{Seed, complete};
use super::{Forward, KubeconfigRequest, Medium, Outcome, RunError, RunOptions, Until, kubeconfig, run, set_up};
use crate::artifact::disk::copy_sparse;
use crate::effects::fs::{self, AtomicFile, Context};
use crate::effects::random;
use crate::manifest::Size;
use crate::ops::OpError;

/// Largest configuration, in bytes.
const CONFIG_LIMIT: u64 = 1 << 20;

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Architecture; else it is read off the image's name.
    pub arch: Option<Arch>,
    /// When to end.
    pub until: Until,
    /// Seconds until it gives up.
    pub timeout: Option<u64>,
    /// Enforce Secure Boot.
    pub secure_boot: bool,
    /// Boot by BIOS.
    pub bios: bool,
    /// An ISO image is a USB stick and not a CD.
    pub usb: bool,
    /// Memory: bytes, or with a unit (`512M`, `1GiB`).
    pub memory: &'a str,
    /// Disk size, in the same form.
    pub disk_size: &'a str,
    /// `HOST:GUEST` each.
    pub forwards: &'a [String],
    /// A disk that keeps its changes; made from the image when it does not exist. With an ISO image: the machine's disk,
    /// made blank; there is none without it.
    pub persist: Option<&'a Path>,
    /// Whether the guest has a network card.
    pub network: bool,
    /// A configuration as a site writes it.
    pub config: Option<&'a Path>,
    /// NoCloud network configuration.
    pub network_config: Option<&'a Path>,
    /// Portainer Edge.
    pub edge: EdgeOptions<'a>,
    /// File that the node's kubeconfig is written to.
    pub kubeconfig: Option<&'a Path>,
    /// Further arguments of QEMU.
    pub extra: &'a [String],
    /// Standard input is a terminal.
    pub interactive: bool,
    /// `PATH`.
    pub search_path: OsString,
}

/// Portainer Edge, as KubeSolo takes it.
#[derive(Debug, Clone, Copy, Default)]
pub struct EdgeOptions<'a> {
    /// Edge id.
    pub id: Option<&'a str>,
    /// Edge key.
    pub key: Option<&'a str>,
    /// Whether the agent works asynchronously.
    pub asynchronous: bool,
}

/// Boots `image`. What the guest writes goes to `serial`, what the user should know to `note`.
///
/// # Errors
/// Missing programs or firmware, unusable values, an unreadable image.
pub fn boot(
    image: &Path,
    request: &Request<'_>,
    serial: &mut dyn Write,
    note: &dyn Fn(&str),
) -> Result<Outcome, OpError> {
    let name = image.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let from_name = || Arch::ALL.into_iter().find(|arch| name.contains(arch.name()));
    let arch = request.arch.or_else(from_name).ok_or_else(|| OpError::UnknownArch { path: image.to_owned() })?;
    let mut options = RunOptions::new(arch, request.search_path.clone());
    options.until = request.until.clone();
    options.timeout = request.timeout.map(Duration::from_secs);
    options.secure_boot = request.secure_boot;
    options.bios = request.bios;
    options.medium = is_iso(image)?.then_some(if request.usb { Medium::Usb } else { Medium::Cd });
    options.memory = size(request.memory)?;
    options.disk_size = size(request.disk_size)?;
    options.forwards = request.forwards.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    options.interactive = request.interactive;
    options.network = request.network;
    options.extra = request.extra.to_vec();
    if let Some(path) = request.kubeconfig {
        options.kubeconfig = Some(kubeconfig_request(path, &mut options.forwards)?);
    }
    options.seed = seed(request, options.kubeconfig.as_ref())?;
    let disk = match request.persist {
        disk if options.medium.is_some() => {
            options.persist = disk.is_some();
            options.disk = disk.map(Path::to_owned);
            image
        }
        Some(disk) => {
            options.persist = true;
            if !disk.exists() {
                copy(image, disk)?;
            }
            disk
        }
        None => image,
    };
    let setup = set_up(&options)?;
    if let Some(reason) = &setup.reason {
        note(&format!("{}: {reason}", setup.accelerator.name()));
    }
    Ok(run(disk, &options, &setup, serial)?)
}

/// Tells whether the file at `path` is an ISO 9660 image (ECMA-119, section 8.4: a descriptor in sector 16).
fn is_iso(path: &Path) -> Result<bool, OpError> {
    use std::os::unix::fs::FileExt;
    let mut identifier = [0; 6];
    let read = fs::open(path)?.read_exact_at(&mut identifier, 16 * 2048);
    Ok(read.is_ok() && identifier == *b"\x01CD001")
}

/// Forwards the node's port that serves the kubeconfig, and that of its API server unless it is forwarded already.
fn kubeconfig_request(path: &Path, forwards: &mut Vec<Forward>) -> Result<KubeconfigRequest, OpError> {
    let mut leads_to = |guest: u16| {
        if let Some(forward) = forwards.iter().find(|forward| forward.guest == guest) {
            return Ok(forward.host);
        }
        let host = kubeconfig::free_port().context("find a free port on", Path::new("127.0.0.1"))?;
        forwards.push(Forward { host, guest });
        Ok::<_, OpError>(host)
    };
    let (port, api_port) = (leads_to(kubeconfig::PORT)?, leads_to(kubeconfig::API_PORT)?);
    let mut bytes = [0; 16];
    random::fill(&mut bytes).context("make a token for", path)?;
    let token = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(KubeconfigRequest { path: path.to_owned(), port, api_port, token })
}

/// Returns the volume with the configuration, when anything asks for one.
fn seed(request: &Request<'_>, kubeconfig: Option<&KubeconfigRequest>) -> Result<Option<Seed>, OpError> {
    let read = |path: Option<&Path>| path.map(|path| fs::read_to_string(path, CONFIG_LIMIT)).transpose();
    let (config, network_config) = (read(request.config)?, read(request.network_config)?);
    let mut additions = Vec::new();
    let EdgeOptions { id, key, asynchronous } = request.edge;
    if id.is_some() || key.is_some() || asynchronous {
        let mut flags = serde_json::Map::new();
        flags.extend(id.map(|id| ("portainer-edge-id".to_owned(), id.into())));
        flags.extend(key.map(|key| ("portainer-edge-key".to_owned(), key.into())));
        flags.extend(asynchronous.then(|| ("portainer-edge-async".to_owned(), true.into())));
        additions.push(("--edge-id", "kubesolo", flags.into()));
    }
    if let Some(KubeconfigRequest { token, .. }) = kubeconfig {
        additions.push(("--kubeconfig", "kubeconfig", serde_json::json!({ "enabled": true, "token": token })));
    }
    if config.is_none() && network_config.is_none() && additions.is_empty() {
        return Ok(None);
    }
    let user_data = complete(config.as_deref(), &additions).map_err(RunError::from)?;
    Ok(Some(Seed { user_data, network_config }))
}

/// Copies an image, all or nothing; holes stay holes.
pub(in crate::ops) fn copy(image: &Path, disk: &Path) -> Result<(), OpError> {
    let source = fs::open(image)?;
    let size = source.metadata().context("stat", image)?.len();
    let mut target = AtomicFile::create(disk)?;
    target.file().set_len(size).context("grow", disk)?;
    copy_sparse(&source, size, target.file(), 0).context("copy to", disk)?;
    Ok(target.commit(0o644)?)
}

/// Parses a size with the short units that QEMU users write, too: `512M` is 512 MiB.
pub(in crate::ops) fn size(text: &str) -> Result<u64, OpError> {
    let short = ["K", "M", "G", "T"].iter().any(|unit| text.ends_with(unit));
    let long = if short { format!("{text}iB") } else { text.to_owned() };
    let parsed = long.parse::<Size>();
    parsed.map(Size::bytes).map_err(|error| OpError::Size { text: text.to_owned(), expected: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_short_and_long_units() {
        assert_eq!(size("512M").unwrap(), 512 << 20);
        assert_eq!(size("1GiB").unwrap(), 1 << 30);
        assert_eq!(size("4096").unwrap(), 4096);
        assert!(size("lots").is_err());
    }
}
