//! Services: executables, order, restart; container images.

use std::collections::{BTreeMap, BTreeSet};

use ksos_formats::runtime::INTERNAL_SERVICES;

use super::super::diagnostic::{Code, Span};
use super::super::node::{Entry, Node};
use super::super::types::Duration;
use super::Context;

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
        if INTERNAL_SERVICES.contains(&name.as_str()) {
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

/// Container images: one source each, and one image for a reference.
pub(super) fn check_container_images(context: &mut Context<'_>) {
    let tree = context.tree;
    let mut references = BTreeMap::new();
    for (name, entry) in tree.entries("container-images") {
        let node = &entry.node;
        check_content(context, name, entry);
        if let Some((component, text)) = node.get("component").and_then(|node| Some((node, node.text()?))) {
            context.reference("components", text, component.span);
        }
        let Some((place, text)) = node.get("reference").and_then(|node| Some((node, node.text()?))) else { continue };
        if let Some(first) = references.insert(text, place.span) {
            let message = format!("two container images are \"{text}\"");
            context.clash(Code::Duplicate, place.span, message, "second image", (first, "first image"));
        }
    }
}

fn check_content(context: &mut Context<'_>, name: &str, entry: &Entry) {
    let node = &entry.node;
    match (node.get("archive"), node.get("component")) {
        (Some(archive), Some(component)) => {
            let message = format!("`container-images.{name}` has both `archive` and `component`");
            let label = "expected one of them";
            context.clash(Code::Conflict, component.span, message, label, (archive.span, "archive"));
        }
        (None, None) if node.table().is_some() => {
            let message = format!("`container-images.{name}` has no content");
            context.error(Code::Conflict, entry.key, message, "expected `archive` or `component`");
        }
        (Some(archive), None) => {
            for key in ["entrypoint", "command", "environment", "files"] {
                let Some(extra) = node.get(key) else { continue };
                let message = format!("`container-images.{name}.{key}` is part of the archive");
                let label = "expected only with `component`";
                context.clash(Code::Conflict, extra.span, message, label, (archive.span, "archive"));
            }
        }
        _ => {}
    }
}
