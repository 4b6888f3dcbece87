//! Stage 45: the node's configuration.

use ksos_formats::config::NodeConfig;
use ksos_formats::layout;

use super::Error;
use super::node::Node;

/// Finds the configuration and applies it.
pub(super) fn set_up(node: &mut Node<'_>) -> Result<String, Error> {
    let config = NodeConfig::default();
    let text = serde_json::to_vec(&config);
    let text = text.map_err(|source| Error::Document { path: layout::NODE_CONFIG.to_owned(), source })?;
    node.sys.replace(layout::NODE_CONFIG, &text, 0o600)?;
    Ok("image's default".to_owned())
}
