//! Paths: on the build host they exist; in the image they do not collide.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::check::{HostPathUse, shown_path};
use super::super::diagnostic::{Code, Span};
use super::super::files::{Files, PathKind};
use super::super::layers::normalize;
use super::Context;

/// Files and links: one for a path, and none inside another.
pub(super) fn check_image_paths(context: &mut Context<'_>) {
    let tree = context.tree;
    let mut places: BTreeMap<&str, Span> = BTreeMap::new();
    for (path, entry) in tree.entries("files").chain(tree.entries("links")) {
        if let Some(first) = places.insert(path, entry.key) {
            let message = format!("{path} is both a file and a link");
            context.clash(Code::Conflict, entry.key, message, "link", (first, "file"));
        }
    }
    for (path, span) in &places {
        let parents = path.match_indices('/').skip(1).map(|(slash, _)| &path[..slash]);
        let parent = parents.filter_map(|parent| Some((parent, places.get(parent)?))).next();
        if let Some((parent, place)) = parent {
            let message = format!("{path} cannot be in {parent}, which is not a directory");
            context.clash(Code::Conflict, *span, message, "inside a file", (*place, "not a directory"));
        }
    }
}

/// What a stated path must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    File,
    Directory,
    Workspace,
    Any,
}

/// Every stated path on the build host exists and is what it should be.
pub(super) fn check_host_paths(context: &mut Context<'_>, uses: &[HostPathUse], files: &dyn Files) {
    for path in uses {
        let replaced = match &path.keys[..] {
            [group, name, ..] if group == "components" => files.is_replaced(name),
            [group, name, ..] if group == "container-images" => {
                let by_name = || files.is_replaced(name) && context.tree.at(&["components", name]).is_none();
                files.is_replaced(&format!("{group}.{name}")) || by_name()
            }
            _ => false,
        };
        if replaced || context.diagnostics.has_error_at(path.span) {
            continue;
        }
        let resolved = normalize(&context.diagnostics.directory(path.span.file).join(&path.text));
        let expected = expected(context, &path.keys);
        let word = match (expected, files.kind(&resolved)) {
            (_, None) => "does not exist",
            (Expected::File, Some(kind)) if kind != PathKind::File => "is not a file",
            (Expected::Directory | Expected::Workspace, Some(kind)) if kind != PathKind::Directory => {
                "is not a directory"
            }
            (Expected::Any, Some(PathKind::Other)) => "is neither a file nor a directory",
            (Expected::Workspace, _) if files.kind(&resolved.join("Cargo.toml")) != Some(PathKind::File) => {
                "has no Cargo.toml"
            }
            _ => continue,
        };
        let label = match expected {
            Expected::File => "expected a file",
            Expected::Directory => "expected a directory",
            Expected::Workspace => "expected the directory of a Cargo workspace",
            Expected::Any => "expected a file or a directory",
        };
        let shown = shown(context, path);
        let message = format!("`{}`: {} {word}", shown_path(&path.keys), shown.display());
        let error = context.error(Code::PathNotFound, path.span, message, label);
        error.hint = Some("paths are relative to the file that states them".to_owned());
    }
}

fn expected(context: &Context<'_>, keys: &[String]) -> Expected {
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    match keys[..] {
        ["components", name, "path"] => {
            let source = context.tree.at(&["components", name, "source"]).and_then(|node| node.text());
            if source == Some("cargo") { Expected::Workspace } else { Expected::Any }
        }
        ["overlays", _, "source"] | ["container-images", _, "layout"] => Expected::Directory,
        _ => Expected::File,
    }
}

/// Returns the path as it is shown: relative to where the command runs when the manifest's path is.
fn shown(context: &Context<'_>, path: &HostPathUse) -> PathBuf {
    let source = &context.diagnostics.sources[path.span.file];
    normalize(&source.shown.parent().map(|directory| directory.join(&path.text)).unwrap_or_default())
}
