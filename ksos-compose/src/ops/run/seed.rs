//! The node's configuration for one run: a NoCloud volume (cloud-init documentation, "NoCloud") beside the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use ksos_formats::Digest;

use super::RunError;
use crate::artifact::fat::{self, FatKind, FatSpec};
use crate::effects::fs::Context;
use crate::tree::{Content, Entry, Meta, Node, Tree};

/// Size of the volume in bytes; the file is sparse.
const VOLUME_SIZE: u64 = 64 << 20;
/// Time of everything on the volume: FAT's first day.
const EPOCH: i64 = 315_532_800;

/// What the volume holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// `user-data`.
    pub user_data: String,
    /// `network-config`.
    pub network_config: Option<String>,
}

/// A configuration cannot be completed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// It is not a mapping.
    #[error("the configuration is no YAML mapping: {0}")]
    Syntax(String),
    /// An option and the file say the same key.
    #[error("{option} sets `{key}`, which the configuration has already")]
    Stated {
        /// The option.
        option: &'static str,
        /// The key.
        key: &'static str,
    },
}

/// Adds top-level keys to a configuration; each comes from an option and must not be stated yet.
///
/// # Errors
/// [`SeedError`].
pub fn complete(
    configuration: Option<&str>,
    additions: &[(&'static str, &'static str, serde_json::Value)],
) -> Result<String, SeedError> {
    let mut text = configuration.unwrap_or("#cloud-config\n").to_owned();
    if additions.is_empty() {
        return Ok(text);
    }
    let stated: Option<BTreeMap<String, serde_json::Value>> = match text.lines().all(is_comment) {
        true => None,
        false => serde_saphyr::from_str(&text).map_err(|error| SeedError::Syntax(error.to_string()))?,
    };
    let stated = stated.unwrap_or_default();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for (option, key, value) in additions {
        if stated.contains_key(*key) {
            return Err(SeedError::Stated { option, key });
        }
        // JSON is YAML.
        text.push_str(&format!("{key}: {value}\n"));
    }
    Ok(text)
}

fn is_comment(line: &str) -> bool {
    line.trim().is_empty() || line.trim_start().starts_with('#')
}

impl Seed {
    /// Writes the volume. Its instance-id is that of its content: another configuration is another instance.
    pub(super) fn write(&self, path: &Path) -> Result<(), RunError> {
        let network_config = self.network_config.as_deref();
        let digest = Digest::of(format!("{}\0{}", self.user_data, network_config.unwrap_or_default()).as_bytes());
        let meta_data = format!("instance-id: run-{}\n", &digest.to_string()[..16]);
        let mut tree = Tree::new(EPOCH);
        let files = [("user-data", Some(self.user_data.as_str())), ("network-config", network_config)];
        for (name, text) in files.into_iter().chain([("meta-data", Some(meta_data.as_str()))]) {
            let Some(text) = text else { continue };
            let entry = Entry { meta: Meta::root(0o600, EPOCH), node: Node::File(Content::inline(text.as_bytes())) };
            tree.insert(name, entry).expect("a plain name is a valid path");
        }
        let mut file = File::create(path).context("create", path)?;
        file.set_len(VOLUME_SIZE).context("grow", path)?;
        let kind = FatKind::Fat32;
        let spec =
            FatSpec { size: VOLUME_SIZE, kind, label: "CIDATA".to_owned(), volume_id: 0x6b73_6f73, epoch: EPOCH };
        fat::write(&tree, &spec, &mut file).map_err(|source| RunError::Seed { path: path.to_owned(), source })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_add_keys_that_the_file_does_not_have() {
        let edge = [("--edge-id", "kubesolo", json!({ "portainer-edge-id": "a\"b" }))];
        let text = complete(None, &edge).expect("fits");
        assert_eq!(text, "#cloud-config\nkubesolo: {\"portainer-edge-id\":\"a\\\"b\"}\n");
        let text = complete(Some("hostname: x"), &edge).expect("fits");
        assert_eq!(text.lines().collect::<Vec<_>>(), ["hostname: x", "kubesolo: {\"portainer-edge-id\":\"a\\\"b\"}"]);
        let error = complete(Some("kubesolo: {debug: true}\n"), &edge).expect_err("stated twice");
        assert_eq!(error.to_string(), "--edge-id sets `kubesolo`, which the configuration has already");
        assert!(matches!(complete(Some("- a\n"), &edge), Err(SeedError::Syntax(_))));
    }

    #[test]
    fn the_volume_is_what_mtools_and_the_firmware_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("seed.img");
        let seed = Seed { user_data: "hostname: x\n".to_owned(), network_config: Some("version: 2\n".to_owned()) };
        seed.write(&path).expect("written");
        if !crate::testing::has_tool("mtype") {
            return;
        }
        let read = |name: &str| {
            let output = std::process::Command::new("mtype").args(["-i"]).arg(&path).arg(format!("::{name}")).output();
            String::from_utf8(output.expect("mtype runs").stdout).expect("text")
        };
        assert_eq!(read("user-data"), "hostname: x\n");
        assert_eq!(read("network-config"), "version: 2\n");
        assert!(read("meta-data").starts_with("instance-id: run-"));
    }
}
