//! What is in force: the image's settings ([`UpdateConfig`]), overlaid by the site's ([`Updates`]).
//!
//! [`UpdateConfig`]: ksos_formats::runtime::UpdateConfig
//! [`Updates`]: ksos_formats::config::Updates

use ksos_formats::boot::ImageId;
use ksos_formats::config::{NodeConfig, Updates};
use ksos_formats::layout;
use ksos_formats::runtime::{RuntimeConfig, UpdateConfig};
use ksos_formats::update::Window;
use ksos_formats::update::window::{self, Open, WindowError};
use serde::Deserialize;

use super::error::{Refusal, UpdateError};
use super::source::SourceSettings;
use super::store;
use crate::config::zone_file;
use crate::init::status;
use crate::sys::Sys;

/// Certificate authorities: the image's with those of the site, and both places for nodes that have only one.
const AUTHORITIES: [&str; 2] = ["/run/ksos/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt"];
/// Largest key of `cosign` in bytes.
const COSIGN_KEY_LIMIT: u64 = 64 << 10;
/// Shortest time between two looks in milliseconds.
const SHORTEST_INTERVAL_MS: u64 = 60_000;

/// What is in force on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The image that runs.
    pub image: ImageId,
    /// What kind of machine it is for.
    pub board: String,
    /// Channel that is followed.
    pub channel: String,
    /// Where releases come from; an empty URL: from nowhere.
    pub source: SourceSettings,
    /// Whether the node updates by itself.
    pub automatic: bool,
    /// Time between two looks in milliseconds.
    pub interval_ms: u64,
    /// Time that a new version has to become healthy and to hold, in milliseconds.
    pub gate_ms: u64,
    /// Time that it must stay healthy in milliseconds.
    pub hold_ms: u64,
    /// When the node may install and restart. Empty: always.
    pub windows: Vec<Window>,
    /// Where updates keep what they keep.
    pub directory: String,
    /// Whether that outlives a restart.
    pub persistent: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DataStatus {
    data: String,
    persistent: bool,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// [`Refusal::NoUpdates`] when the image takes no updates; documents that cannot be read.
    pub fn read(sys: &dyn Sys) -> Result<Self, UpdateError> {
        let missing = |path: &str| UpdateError::Document { path: path.to_owned(), reason: "is not there".to_owned() };
        let runtime: RuntimeConfig =
            store::read(sys, layout::RUNTIME_CONFIG)?.ok_or_else(|| missing(layout::RUNTIME_CONFIG))?;
        let node: NodeConfig = store::read(sys, layout::NODE_CONFIG)?.unwrap_or_default();
        let data: DataStatus = store::read(sys, status::PATH)?.unwrap_or_default();
        let update = runtime.update.clone().ok_or(Refusal::NoUpdates)?;
        let cosign_keys = cosign_keys(sys)?;
        Ok(Self::of(&runtime, update, node.updates, data, cosign_keys))
    }

    fn of(
        runtime: &RuntimeConfig,
        image: UpdateConfig,
        site: Updates,
        data: DataStatus,
        cosign_keys: Vec<String>,
    ) -> Self {
        let UpdateConfig { board, source, channel, automatic, interval_ms, gate_ms, hold_ms, windows } = image;
        let mount = if data.data.is_empty() { &runtime.data.mount } else { &data.data };
        let source = SourceSettings {
            url: site.source.or(source).unwrap_or_default(),
            username: site.username,
            password: site.password,
            proxy: site.proxy,
            bandwidth: site.bandwidth,
            ca_bundle: AUTHORITIES.map(str::to_owned).to_vec(),
            cosign_keys,
        };
        Settings {
            image: runtime.image.clone(),
            board,
            channel: site.channel.unwrap_or(channel),
            source,
            automatic: site.automatic.unwrap_or(automatic),
            interval_ms: site.interval_ms.unwrap_or(interval_ms).max(SHORTEST_INTERVAL_MS),
            gate_ms,
            hold_ms,
            windows: site.windows.unwrap_or(windows),
            directory: format!("{}/{}", mount.trim_end_matches('/'), layout::UPDATE_DATA),
            persistent: data.persistent,
        }
    }

    /// Takes another source. Credentials are for the configured one alone.
    pub fn use_source(&mut self, url: &str) {
        if self.source.url != url {
            url.clone_into(&mut self.source.url);
            self.source.username = None;
            self.source.password = None;
        }
    }

    /// Tells whether the node may install and restart now.
    ///
    /// # Errors
    /// A window that nobody can tell.
    pub fn open(&self, sys: &dyn Sys) -> Result<Open, WindowError> {
        window::is_open(&self.windows, sys.wall_clock(), &|name| zone_file(sys, name))
    }
}

/// Reads the keys of `cosign` that the image has. One that cannot be read is an error: leaving it out would ask for less.
fn cosign_keys(sys: &dyn Sys) -> Result<Vec<String>, UpdateError> {
    let names = match sys.list(layout::UPDATE_COSIGN_KEYS) {
        Ok(names) => names,
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut keys = Vec::new();
    for name in names {
        let bytes = sys.read(&format!("{}/{name}", layout::UPDATE_COSIGN_KEYS), COSIGN_KEY_LIMIT)?;
        keys.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(keys)
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
