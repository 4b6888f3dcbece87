//! Services: executables, order, restart; container images.

use std::collections::{BTreeMap, BTreeSet};

use ksos_formats::runtime::INTERNAL_SERVICES;

use super::super::diagnostic::{Code, Span};
use super::super::node::{Entry, Node};
use super::super::types::Duration;
use super::Context;
use crate::oci::reference::{Reference, parse_digest};

pub(super) fn check(context: &mut Context<'_>) {
    let tree = context.tree;
    for (name, entry) in tree.entries("services") {
        let path = format!("services.{name}");
        let node = &entry.node;
        check_executables(context, &path, node);
        check_restart(context, &path, node);
        context.repeated(node.get("after"), &format!("{path}.after"));
        let after = node.get("after").into_iter().flat_map(Node::texts);
        for (other, span) in after.filter(|(other, _)| !INTERNAL_SERVICES.contains(other)) {
            context.reference("services", other, span);
        }
        // `init` is the cgroup of PID 1.
        if INTERNAL_SERVICES.contains(&name.as_str()) || name == "init" {
            let message = format!("`{name}` is a service of the runtime's own");
            context.error(Code::Conflict, entry.key, message, "expected another name");
        }
    }
    for role in ["engine", "kubernetes"] {
        if let Some((name, node)) = tree.at(&["node", role, "service"]).and_then(|node| Some((node.text()?, node))) {
            context.reference("services", name, node.span);
        }
    }
    check_cycles(context);
}

/// There is no shell and no search path: executables are named by absolute paths.
fn check_executables(context: &mut Context<'_>, path: &str, node: &Node) {
    let command = node.get("command").map(|command| ("command", command));
    let ready = node.at(&["ready", "command"]).map(|command| ("ready.command", command));
    let before = node.get("pre-start").into_iter().flat_map(Node::items).map(|command| ("pre-start", command));
    for (key, command) in command.into_iter().chain(ready).chain(before) {
        let Some((executable, span)) = command.texts().next() else { continue };
        if !executable.starts_with('/') {
            let message = format!("`{path}.{key}` starts \"{executable}\", which is not an absolute path");
            let error = context.error(Code::InvalidValue, span, message, "expected an absolute path");
            let name = executable.split_whitespace().next().unwrap_or_default();
            error.hint = Some(format!("for example \"/usr/bin/{name}\"")).filter(|_| !name.contains('/'));
        } else if executable.contains(char::is_whitespace) && command.items().len() == 1 {
            let parts: Vec<String> = executable.split_whitespace().map(|part| format!("{part:?}")).collect();
            let message = format!("`{path}.{key}` is one item with spaces");
            let error = context.error(Code::InvalidValue, span, message, "expected the path of the executable only");
            error.hint = Some(format!("there is no shell; write [{}]", parts.join(", ")));
        }
    }
}

fn check_restart(context: &mut Context<'_>, path: &str, node: &Node) {
    let restart = node.get("restart");
    let always = restart.is_none_or(|restart| restart.text() == Some("always"));
    if let Some(exited) = node.at(&["ready", "exited"]).filter(|_| always) {
        let message = format!("`{path}` is ready when it has ended, and is always restarted");
        let label = "expected restart = \"on-failure\" or \"never\"";
        match restart {
            Some(restart) => {
                context.clash(Code::Conflict, restart.span, message, label, (exited.span, "ready when ended"));
            }
            None => drop(
                context
                    .error(Code::Conflict, exited.span, message, label)
                    .hint
                    .insert("`restart` is \"always\" when it is not stated".to_owned()),
            ),
        }
    }
    let duration = |key: &str| Some((node.get(key)?.span, node.get(key)?.text()?.parse::<Duration>().ok()?));
    let (first, longest) = (duration("restart-delay"), duration("restart-delay-max"));
    if let (Some((span, first)), Some((other, longest))) = (first, longest)
        && first > longest
    {
        let message = format!("`{path}.restart-delay` is {first}, longer than restart-delay-max");
        let label = format!("expected at most {longest}");
        context.clash(Code::OutOfRange, span, message, &label, (other, "longest delay"));
    }
}

/// Reports each cycle of `after` once.
fn check_cycles(context: &mut Context<'_>) {
    let tree = context.tree;
    let edges = |entry: &'_ Entry| -> Vec<(String, Span)> {
        let after = entry.node.get("after").into_iter().flat_map(Node::texts);
        after.map(|(name, span)| (name.to_owned(), span)).collect()
    };
    let graph: BTreeMap<String, Vec<(String, Span)>> =
        tree.entries("services").map(|(name, entry)| (name.clone(), edges(entry))).collect();
    let mut done = BTreeSet::new();
    for start in graph.keys() {
        let mut stack = Vec::new();
        if let Some((span, cycle)) = find_cycle(&graph, start, &mut stack, &mut done) {
            let message = format!("services wait for each other: {}", cycle.join(" after "));
            context.error(Code::ServiceCycle, span, message, "closes the cycle");
        }
    }
}

/// Walks depth first from `name`; returns the first cycle with the place that closes it. Services below are done.
fn find_cycle(
    graph: &BTreeMap<String, Vec<(String, Span)>>,
    start: &str,
    stack: &mut Vec<(String, usize)>,
    done: &mut BTreeSet<String>,
) -> Option<(Span, Vec<String>)> {
    let mut found = None;
    stack.push((start.to_owned(), 0));
    while let Some((name, next)) = stack.pop() {
        if done.contains(&name) {
            continue;
        }
        let Some((other, span)) = graph.get(&name).and_then(|edges| edges.get(next)) else {
            done.insert(name);
            continue;
        };
        stack.push((name, next + 1));
        if let Some(position) = stack.iter().position(|(open, _)| open == other) {
            let names = stack[position..].iter().map(|(name, _)| name.clone()).chain([other.clone()]);
            found = found.or_else(|| Some((*span, names.collect())));
        } else {
            stack.push((other.clone(), 0));
        }
    }
    found
}

/// Container images: at most one source each, and one image for a reference.
pub(super) fn check_container_images(context: &mut Context<'_>) {
    let tree = context.tree;
    let mut references = BTreeMap::new();
    for (name, entry) in tree.entries("container-images") {
        let node = &entry.node;
        check_content(context, name, node);
        check_digest(context, name, node);
        if let Some((component, text)) = node.get("component").and_then(|node| Some((node, node.text()?))) {
            context.reference("components", text, component.span);
        }
        let Some((place, text)) = node.get("reference").and_then(|node| Some((node, node.text()?))) else { continue };
        let Ok(parsed) = text.parse::<Reference>() else { continue };
        // Another digest of the same name and tag would be imported under the same name.
        let name = Reference { digest: parsed.digest.filter(|_| parsed.tag.is_none()), ..parsed };
        if let Some(first) = references.insert(name.to_string(), place.span) {
            let message = format!("two container images are \"{text}\"");
            context.clash(Code::Duplicate, place.span, message, "second image", (first, "first image"));
        }
    }
}

/// Keys that say where an image comes from; without any, it is pulled.
const SOURCES: [&str; 3] = ["archive", "layout", "component"];

fn check_content(context: &mut Context<'_>, name: &str, node: &Node) {
    let mut stated = SOURCES.iter().filter_map(|key| Some((*key, node.get(key)?)));
    let Some((source, first)) = stated.next() else {
        // `component` alone makes these mean something.
        return refuse(
            context,
            name,
            node,
            &["entrypoint", "command", "environment", "files"],
            "the image that is pulled",
        );
    };
    for (key, second) in stated {
        let message = format!("`container-images.{name}` has both `{source}` and `{key}`");
        let label = "expected one of them";
        context.clash(Code::Conflict, second.span, message, label, (first.span, source));
    }
    match source {
        "component" => refuse(context, name, node, &["plain-http", "digest"], "an image that is pulled or given"),
        _ => {
            refuse(context, name, node, &["entrypoint", "command", "environment", "files"], &format!("the {source}"));
            refuse(context, name, node, &["plain-http"], "an image that is pulled");
        }
    }
}

/// Reports keys that belong to another kind of image.
fn refuse(context: &mut Context<'_>, name: &str, node: &Node, keys: &[&str], whose: &str) {
    for key in keys {
        let Some(extra) = node.get(key) else { continue };
        let message = format!("`container-images.{name}.{key}` is part of {whose}");
        let only = match *key {
            "plain-http" => "expected only without `archive`, `layout` and `component`",
            "digest" => "expected only without `component`",
            _ => "expected only with `component`",
        };
        context.error(Code::Conflict, extra.span, message, only);
    }
}

/// A digest may stand in the reference or beside it, not two different ones.
fn check_digest(context: &mut Context<'_>, name: &str, node: &Node) {
    let text = |key: &str| node.get(key).and_then(|node| Some((node.span, node.text()?)));
    let (Some((place, reference)), Some((span, digest))) = (text("reference"), text("digest")) else { return };
    let Some(inside) = reference.parse::<Reference>().ok().and_then(|reference| reference.digest) else { return };
    if parse_digest(digest).is_ok_and(|digest| digest != inside) {
        let message = format!("`container-images.{name}` has two digests");
        context.clash(Code::Conflict, span, message, "expected the same one", (place, "another digest"));
    }
}
