//! Image manifests: TOML files that extend each other, merged, validated and read into types.
//!
//! [`load`] reads a manifest and what it extends, merges the layers and the overlay of one architecture, and
//! validates the result. Every value keeps the file and bytes that it came from until the very end, so each error
//! names file, line and column, and all errors come in one run:
//!
//! 1. every file is parsed and validated by itself against [`schema`], the schema of files;
//! 2. the files are merged, base first (`merge`), then their `[arch.*]` overlays, then what is disabled goes;
//! 3. the merged tree is validated against the schema of whole manifests, then by meaning (`semantic`);
//! 4. only when nothing is wrong, serde reads the tree into [`Manifest`].
//!
//! Paths are resolved by their text: `name/..` is nothing, also where `name` is a symbolic link.
//! Limits: [`MAX_FILE_SIZE`] bytes a file, [`MAX_FILES`] files. Nothing here needs a download.

mod check;
pub mod cmdline;
mod diagnostic;
mod digest;
mod files;
pub mod keys;
mod layers;
mod merge;
mod node;
mod schema;
mod semantic;
#[cfg(test)]
mod tests;
pub mod types;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ksos_formats::Arch;
use serde_json::{Map, Value as Json, json};

pub(crate) use check::suggest::nearest;
pub use diagnostic::{Code, Diagnostic, Errors, Place, Severity, SourceFile, Style};
pub use files::{Disk as DiskFiles, DiskWithout, Files, Memory, PathKind};
pub use layers::{MAX_FILE_SIZE, MAX_FILES};
pub use schema::{schema, schema_text};
pub use types::*;

use check::{Checker, HostPathUse};
use diagnostic::{Diagnostics, Span};
use layers::Loader;
use merge::Disabled;
use node::{Entry, Node, Value};

/// A manifest that was read, merged for one architecture and found valid.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The manifest; `manifest.image.arch` is [`Loaded::arch`].
    pub manifest: Manifest,
    /// The architecture that it was resolved for.
    pub arch: Arch,
    /// The absolute path of the manifest.
    pub path: PathBuf,
    /// Absolute paths of every manifest file that was read, in the order in which they are merged from: for freshness.
    pub files: Vec<PathBuf>,
    /// What is odd and not wrong.
    pub warnings: Vec<Diagnostic>,
}

/// Reads the manifest at `path`, resolved for `arch` or else for the architecture that it names itself.
///
/// # Errors
/// Everything that is wrong with it and with the files that it extends.
pub fn load(path: &Path, arch: Option<Arch>, files: &dyn Files) -> Result<Loaded, Errors> {
    let mut diagnostics = Diagnostics::default();
    let absolute = std::path::absolute(path).map_or_else(|_| path.to_owned(), |path| layers::normalize(&path));
    let layers = read_layers(path, &absolute, files, &mut diagnostics);
    let merged = layers.and_then(|layers| merge_layers(layers, arch, &mut diagnostics));
    let result = merged.and_then(|merged| finish(merged, files, &mut diagnostics));
    let read = diagnostics.sources.iter().map(|source| source.path.clone()).collect();
    let failed = diagnostics.has_errors();
    match (result, diagnostics.finish()) {
        (Some(manifest), warnings) if !failed => {
            Ok(Loaded { arch: manifest.image.arch, manifest, path: absolute, files: read, warnings })
        }
        (_, diagnostics) => Err(Errors { diagnostics }),
    }
}

/// Reads and validates each file by itself. Nothing is returned when a file could not be read: what it may have
/// stated would be reported as missing.
fn read_layers(shown: &Path, path: &Path, files: &dyn Files, diagnostics: &mut Diagnostics) -> Option<Vec<Node>> {
    let mut loader = Loader::new(files, diagnostics);
    loader.load(&layers::normalize(shown), path, None);
    let (layers, incomplete) = (std::mem::take(&mut loader.layers), loader.incomplete);
    let (schema, _) = &*schema::SCHEMAS;
    layers.iter().for_each(|layer| Checker::new(schema, diagnostics).document(layer));
    let unread =
        layers.iter().filter_map(|layer| layer.get("extends")).any(|node| diagnostics.has_error_within(node.span));
    (!incomplete && !unread).then_some(layers)
}

/// A merged tree.
struct Merged {
    tree: Node,
    disabled: Disabled,
}

/// Merges the layers, then their overlays for the architecture. `None` when there is no layer or no architecture.
fn merge_layers(layers: Vec<Node>, arch: Option<Arch>, diagnostics: &mut Diagnostics) -> Option<Merged> {
    let mut overlays = Vec::new();
    let mut tree: Option<Node> = None;
    for layer in layers {
        let (layer, overlay) = layers::split(layer);
        overlays.extend(overlay);
        match &mut tree {
            Some(tree) => merge::merge(tree, layer, &mut Vec::new(), diagnostics),
            None => tree = Some(layer),
        }
    }
    let mut tree = tree?;
    let arch = choose_arch(&mut tree, arch)?;
    for overlay in overlays {
        let Value::Table(mut table) = overlay.node.value else { continue };
        if let Some(Entry { node, .. }) = table.remove(arch.name()) {
            let span = tree.span;
            merge::merge(&mut tree, node, &mut Vec::new(), diagnostics);
            tree.span = span;
        }
    }
    let disabled = merge::drop_disabled(&mut tree, diagnostics);
    Some(Merged { tree, disabled })
}

/// Puts the chosen architecture into `image.arch`, or reads it from there. Without any, the merged tree is validated
/// as for x86_64, and says that `image.arch` is missing.
fn choose_arch(tree: &mut Node, arch: Option<Arch>) -> Option<Arch> {
    let Some(arch) = arch else {
        let named = tree.at(&["image", "arch"]).and_then(Node::text).and_then(|text| text.parse().ok());
        return Some(named.unwrap_or(Arch::X86_64));
    };
    let Value::Table(table) = &mut tree.value else { return Some(arch) };
    if let Some(Entry { key, node: Node { value: Value::Table(image), .. } }) = table.get_mut("image") {
        let key = *key;
        let place = image.get("arch").map_or(key, |entry| entry.node.span);
        let node = Node { span: place, value: Value::String(arch.name().to_owned()) };
        image.insert("arch".to_owned(), Entry { key: place, node });
    }
    Some(arch)
}

/// Validates the merged tree and reads it into types.
fn finish(merged: Merged, files: &dyn Files, diagnostics: &mut Diagnostics) -> Option<Manifest> {
    let Merged { tree, disabled } = merged;
    let (_, schema) = &*schema::SCHEMAS;
    let mut checker = Checker::new(schema, diagnostics);
    checker.document(&tree);
    let host_paths = std::mem::take(&mut checker.host_paths);
    semantic::check(&tree, &disabled, &host_paths, files, diagnostics);
    if diagnostics.has_errors() {
        return None;
    }
    let resolved = resolve_paths(&host_paths, diagnostics);
    match serde_json::from_value(to_json(&tree, &resolved)) {
        Ok(manifest) => Some(manifest),
        Err(error) => {
            let message = format!("the manifest is valid and cannot be read: {error}");
            diagnostics.error(Code::Internal, tree.span, message, "an error in ksos-compose");
            None
        }
    }
}

/// Returns the absolute path for each place that states a path on the build host.
fn resolve_paths(uses: &[HostPathUse], diagnostics: &Diagnostics) -> BTreeMap<Span, PathBuf> {
    let resolve = |path: &HostPathUse| layers::normalize(&diagnostics.directory(path.span.file).join(&path.text));
    uses.iter().map(|path| (path.span, resolve(path))).collect()
}

/// Turns the tree into JSON, for serde. A path on the build host becomes an object with its text and its place.
fn to_json(node: &Node, paths: &BTreeMap<Span, PathBuf>) -> Json {
    match &node.value {
        Value::String(text) => match paths.get(&node.span) {
            Some(path) => json!({ "text": text, "resolved": path }),
            None => json!(text),
        },
        Value::Integer(number) => json!(number),
        Value::Float(number) => json!(number),
        Value::Boolean(value) => json!(value),
        Value::Datetime => Json::Null,
        Value::Array(items) => items.iter().map(|item| to_json(item, paths)).collect(),
        Value::Table(table) => {
            let pairs = table.iter().map(|(key, entry)| (key.clone(), to_json(&entry.node, paths)));
            Json::Object(pairs.collect::<Map<_, _>>())
        }
    }
}
