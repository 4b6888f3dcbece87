//! The remote cache: keys that can be used.

use super::super::diagnostic::Code;
use super::super::files::Files;
use super::super::keys::KeyFile;
use super::Context;
use super::update::{read, wrong_key};

pub(super) fn check(context: &mut Context<'_>, files: &dyn Files) {
    let tree = context.tree;
    let Some(cache) = tree.get("cache").filter(|node| node.table().is_some()) else { return };
    context.repeated(cache.get("keys"), "cache.keys");
    let paths: Vec<_> = cache.get("keys").into_iter().flat_map(super::super::node::Node::texts).collect();
    for path in &paths {
        let Some(bytes) = read(context, *path, files) else { continue };
        match KeyFile::parse(&bytes) {
            Ok(KeyFile::Set(_)) if paths.len() > 1 => {
                let message = format!("{} is a key set, and not the only file in `cache.keys`", path.0);
                context.error(Code::Conflict, path.1, message, "expected one key set, or keys");
            }
            Ok(_) => {}
            Err(error) => {
                wrong_key(context, *path, &error, "expected an Ed25519 public key (PEM) or a key set (JSON)");
            }
        }
    }
}
