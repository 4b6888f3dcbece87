//! Components: repositories exist, downloads have what their addresses ask for, and files get places.

use std::collections::BTreeMap;

use super::super::diagnostic::Code;
use super::super::node::{Entry, Node};
use super::super::types::ImagePath;
use super::Context;

/// Keys that name components.
const FIXED: [&[&str]; 4] = [
    &["kernel", "component"],
    &["boot", "shim", "component"],
    &["boot", "grub", "component"],
    &["boot", "bios", "component"],
];

pub(super) fn check(context: &mut Context<'_>) {
    let tree = context.tree;
    for (name, entry) in tree.entries("components") {
        let path = format!("components.{name}");
        let node = &entry.node;
        match node.get("source").and_then(Node::text) {
            Some("apt") => check_apt(context, &path, entry),
            Some("http") => check_http(context, &path, entry),
            Some("kernel") => check_kernel(context, &path, node),
            Some("tinycore") => check_tinycore(context, &path, entry),
            _ => {}
        }
        check_unpack(context, &path, node);
        if let Some(place) = node.get("install-to") {
            check_target(context, place);
        }
    }
    for keys in FIXED {
        if let Some((node, name)) = tree.at(keys).and_then(|node| Some((node, node.text()?))) {
            context.reference("components", name, node.span);
        }
    }
    for (name, span) in tree.at(&["boot", "files"]).into_iter().flat_map(Node::texts) {
        context.reference("components", name, span);
    }
    context.repeated(tree.at(&["boot", "files"]), "boot.files");
    check_unused(context);
}

fn check_apt(context: &mut Context<'_>, path: &str, entry: &Entry) {
    let node = &entry.node;
    let repositories = node.get("repositories");
    for (name, span) in repositories.into_iter().flat_map(Node::texts) {
        context.reference("apt", name, span);
    }
    if repositories.is_none() && context.tree.entries("apt").next().is_none() {
        let message = format!("`{path}` takes packages and the manifest has no package repository");
        let label = "expected a table below [apt]";
        context.error(Code::UnknownReference, entry.key, message, label);
    }
    if let Some(list) = repositories.filter(|list| list.table().is_none() && list.items().is_empty()) {
        let message = format!("`{path}.repositories` is an empty list");
        let error = context.error(Code::OutOfRange, list.span, message, "expected at least one item");
        error.hint = Some("without the key, all repositories are read".to_owned());
    }
    for key in ["packages", "repositories", "exclude-packages"] {
        context.repeated(node.get(key), &format!("{path}.{key}"));
    }
    let packages: BTreeMap<_, _> = node.get("packages").into_iter().flat_map(Node::texts).collect();
    for (name, span) in node.get("exclude-packages").into_iter().flat_map(Node::texts) {
        if let Some(wanted) = packages.get(name) {
            let message = format!("`{path}` asks for package \"{name}\" and excludes it");
            context.clash(Code::Conflict, span, message, "excluded here", (*wanted, "asked for here"));
        }
    }
}

fn check_http(context: &mut Context<'_>, path: &str, entry: &Entry) {
    let node = &entry.node;
    let single = ["url", "checksums"].into_iter().filter_map(|key| node.get(key));
    let several = node.get("mirrors").into_iter().flat_map(Node::items);
    let install = node.get("install").into_iter().flat_map(Node::items).filter_map(|item| item.get("from"));
    let mut used = false;
    for template in single.chain(several).chain(install) {
        let Some(text) = template.text().filter(|text| text.contains("{version}")) else { continue };
        used = true;
        if node.get("version").is_none() && !context.diagnostics.has_error_at(template.span) {
            let message = format!("`{path}` has no `version` to put in place of {{version}}");
            let error = context.error(Code::MissingKey, template.span, message, "expected `version` beside it");
            error.hint = Some(format!("in {text}"));
        }
    }
    if let Some(version) = node.get("version").filter(|_| !used && node.get("url").is_some()) {
        let message = format!("`{path}.version` is not used: no address has {{version}}");
        context.warning(Code::Conflict, version.span, message, "has no effect");
    }
}

/// One place for each thing that can be stated in several ways.
fn check_kernel(context: &mut Context<'_>, path: &str, node: &Node) {
    for key in ["from", "base-component"] {
        if let Some((node, name)) = node.get(key).and_then(|node| Some((node, node.text()?))) {
            context.reference("components", name, node.span);
        }
    }
    let bases = ["base", "base-file", "base-component"].map(|key| Some((key, node.get(key)?)));
    let mut bases = bases.into_iter().flatten();
    if let (Some((one, first)), Some((two, second))) = (bases.next(), bases.next()) {
        let message = format!("`{path}` has both `{one}` and `{two}`");
        context.clash(Code::Conflict, second.span, message, "expected one of them", (first.span, "the other"));
    }
    context.repeated(node.get("config"), &format!("{path}.config"));
    // A component made from this one would need itself.
    for key in ["from", "base-component"] {
        let Some(reference) = node.get(key) else { continue };
        let other = reference.text().and_then(|name| context.tree.at(&["components", name, "source"]));
        if other.and_then(Node::text) == Some("kernel") {
            let message = format!("`{path}.{key}` is a kernel that is built here");
            context.error(Code::Conflict, reference.span, message, "expected a component that is not built");
        }
    }
}

fn check_tinycore(context: &mut Context<'_>, path: &str, entry: &Entry) {
    let node = &entry.node;
    match (node.get("url"), node.get("path")) {
        (None, None) => {
            let message = format!("`{path}` has neither `url` nor `path`");
            context.error(Code::MissingKey, entry.key, message, "expected one of them");
        }
        (Some(url), Some(local)) => {
            let message = format!("`{path}` has both `url` and `path`");
            context.clash(Code::Conflict, local.span, message, "expected one of them", (url.span, "the other"));
        }
        _ => {}
    }
    if let (None, Some(mirrors)) = (node.get("url"), node.get("mirrors")) {
        let message = format!("`{path}.mirrors` are other places of `url`, which is not stated");
        context.warning(Code::Conflict, mirrors.span, message, "has no effect");
    }
    context.repeated(node.get("extensions"), &format!("{path}.extensions"));
}

fn check_unpack(context: &mut Context<'_>, path: &str, node: &Node) {
    if let (Some(install), Some(prefix)) = (node.get("install"), node.get("prefix")) {
        let message = format!("`{path}` has both `install` and `prefix`");
        let label = "expected one of them: `prefix` is for whole trees";
        context.clash(Code::Conflict, prefix.span, message, label, (install.span, "files chosen here"));
    }
    let raw = node.get("format").filter(|format| format.text() == Some("raw"));
    let strip = node.get("strip").filter(|strip| strip.integer().is_some_and(|count| count > 0));
    if let (Some(raw), Some(strip)) = (raw, strip) {
        let message = format!("`{path}.strip` drops path components of a file that is taken as it is");
        context.clash(Code::Conflict, strip.span, message, "expected 0", (raw.span, "format"));
    }
    let mut targets = BTreeMap::new();
    for place in node.get("install").into_iter().flat_map(Node::items).filter_map(|item| item.get("to")) {
        check_target(context, place);
        let Some(target) = place.text().and_then(|text| text.parse::<ImagePath>().ok()) else { continue };
        if let Some(first) = targets.insert(target.clone(), place.span) {
            let message = format!("`{path}` installs two files as {target}");
            context.clash(Code::Duplicate, place.span, message, "second file", (first, "first file"));
        }
    }
}

/// A file cannot be put in place of the root.
fn check_target(context: &mut Context<'_>, place: &Node) {
    let target = place.text().and_then(|text| text.parse::<ImagePath>().ok());
    if target.is_some_and(|target| target.relative().is_empty()) {
        let message = "a file cannot be installed as the root directory".to_owned();
        context.error(Code::InvalidValue, place.span, message, "expected the path of a file");
    }
}

/// Warns about components that go nowhere and that nothing refers to.
fn check_unused(context: &mut Context<'_>) {
    let tree = context.tree;
    let fixed = FIXED.into_iter().filter_map(|keys| tree.at(keys));
    let images = tree.entries("container-images").filter_map(|(_, entry)| entry.node.get("component"));
    let kernels = tree.entries("components").flat_map(|(_, entry)| {
        let node = &entry.node;
        let kernel = node.get("source").and_then(Node::text) == Some("kernel");
        ["from", "base-component"].into_iter().filter_map(move |key| node.get(key).filter(|_| kernel))
    });
    let files = tree.at(&["boot", "files"]).into_iter().flat_map(Node::texts).map(|(name, _)| name);
    let used: Vec<&str> = fixed.chain(images).chain(kernels).filter_map(Node::text).chain(files).collect();
    for (name, entry) in tree.entries("components") {
        let Some(into) = entry.node.get("into").filter(|into| into.text() == Some("none")) else { continue };
        if !used.contains(&name.as_str()) {
            let message = format!("component `{name}` goes nowhere and nothing refers to it");
            context.warning(Code::Conflict, into.span, message, "not part of the image");
        }
    }
}
