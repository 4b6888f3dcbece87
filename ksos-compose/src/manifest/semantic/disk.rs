//! The disk, the root image and the budgets.

use std::collections::BTreeMap;

use super::super::diagnostic::{Code, Span};
use super::super::node::{Entry, Node};
use super::super::types::{ImagePath, Size};
use super::{Context, size_of};

const MIB: u64 = 1 << 20;
/// Space for the partition table at the start and its copy at the end, partitions aligned to 1 MiB.
const TABLES: u64 = 2 * MIB;
/// FAT32 has 65525 clusters or more (Microsoft FAT specification, "FAT Type Determination") of 512 bytes or more.
const MINIMUM_ESP: u64 = 34 * MIB;
/// Roles, each needed once, with the longest label of its file system.
const ROLES: [(&str, usize); 4] = [("esp", 11), ("slot-a", 16), ("slot-b", 16), ("data", 16)];

/// A partition as far as it is stated.
struct Row<'a> {
    name: &'a str,
    entry: &'a Entry,
    role: Option<&'a str>,
    order: Option<(i64, Span)>,
    size: Option<(u64, Span)>,
    label: Option<(&'a str, Span)>,
}

fn rows(tree: &Node) -> Vec<Row<'_>> {
    tree.entries("partitions").map(|(name, entry)| row(name, entry)).collect()
}

fn row<'a>(name: &'a str, entry: &'a Entry) -> Row<'a> {
    let node = &entry.node;
    Row {
        name,
        entry,
        role: node.get("role").and_then(Node::text),
        order: node.get("order").and_then(|node| Some((node.integer()?, node.span))),
        size: node.get("size").and_then(|node| Some((size_of(node)?, node.span))),
        label: node.get("label").and_then(|node| Some((node.text()?, node.span))),
    }
}

pub(super) fn check_partitions(context: &mut Context<'_>) {
    let tree = context.tree;
    let Some(section) = tree.get("partitions").filter(|section| section.table().is_some()) else { return };
    let rows = rows(tree);
    check_roles(context, &rows, section);
    check_labels(context, &rows);
    check_order(context, &rows);
    check_sizes(context, &rows, section);
}

fn check_roles(context: &mut Context<'_>, rows: &[Row<'_>], section: &Node) {
    for (role, _) in ROLES {
        let mut with_role = rows.iter().filter(|row| row.role == Some(role));
        let first = with_role.next();
        for second in with_role {
            let message = format!(
                "partitions `{}` and `{}` both have the role \"{role}\"",
                first.map_or("", |row| row.name),
                second.name
            );
            let other = first.map_or(second.entry.key, |row| row.entry.key);
            context.clash(Code::PartitionLayout, second.entry.key, message, "second", (other, "first"));
        }
        let known = rows.iter().all(|row| row.role.is_some());
        if first.is_none() && known {
            let span = context.tree.table().and_then(|table| table.get("partitions")).map_or(section.span, |e| e.key);
            let message = format!("no partition has the role \"{role}\"");
            context.error(Code::PartitionLayout, span, message, "expected esp, slot-a, slot-b and data, once each");
        }
    }
}

fn check_labels(context: &mut Context<'_>, rows: &[Row<'_>]) {
    let mut seen: BTreeMap<String, Span> = BTreeMap::new();
    for row in rows {
        let Some((label, span)) = row.label else { continue };
        if context.diagnostics.has_error_at(span) {
            continue;
        }
        if let Some(first) = seen.insert(label.to_ascii_uppercase(), span) {
            let message = format!("two partitions have the label \"{label}\"");
            context.clash(Code::Duplicate, span, message, "second", (first, "first"));
        }
        let longest = ROLES.iter().find(|(role, _)| row.role == Some(role)).map_or(36, |(_, longest)| *longest);
        if label.len() > longest {
            let system = if row.role == Some("esp") { "FAT" } else { "ext4" };
            let message = format!("label \"{label}\" has {} characters", label.len());
            context.error(Code::OutOfRange, span, message, format!("expected at most {longest} ({system})"));
        } else if row.role == Some("esp") && label.bytes().any(|byte| byte.is_ascii_lowercase()) {
            let message = format!("label \"{label}\" has lower-case letters");
            let error = context.error(Code::InvalidValue, span, message, "expected upper-case letters (FAT)");
            error.hint = Some(format!("did you mean \"{}\"?", label.to_ascii_uppercase()));
        }
    }
}

fn check_order(context: &mut Context<'_>, rows: &[Row<'_>]) {
    let mut seen: BTreeMap<i64, Span> = BTreeMap::new();
    for (order, span) in rows.iter().filter_map(|row| row.order) {
        if let Some(first) = seen.insert(order, span) {
            let message = format!("two partitions have the order {order}");
            context.clash(Code::Duplicate, span, message, "second", (first, "first"));
        }
    }
    let last = seen.last_key_value().map(|(order, _)| *order);
    for row in rows.iter().filter(|row| row.role == Some("data")) {
        let Some((order, span)) = row.order.filter(|(order, _)| Some(*order) != last) else { continue };
        let message = format!("data partition `{}` is not the last one: only the last can grow", row.name);
        let label = format!("expected more than {}", last.unwrap_or(order));
        context.error(Code::PartitionLayout, span, message, label);
    }
}

fn check_sizes(context: &mut Context<'_>, rows: &[Row<'_>], section: &Node) {
    for row in rows {
        let Some((size, span)) = row.size else { continue };
        let minimum = if row.role == Some("esp") { MINIMUM_ESP } else { MIB };
        if size < minimum {
            let message = format!("partition `{}` is {} long", row.name, Size(size));
            context.error(Code::OutOfRange, span, message, format!("expected at least {}", Size(minimum)));
        } else if !size.is_multiple_of(MIB) {
            let message = format!("partition `{}` is {size} bytes long", row.name);
            context.error(Code::OutOfRange, span, message, "expected a multiple of 1MiB");
        }
    }
    let slot = |role| rows.iter().find(|row| row.role == Some(role)).and_then(|row| row.size);
    if let (Some((first, other)), Some((second, span))) = (slot("slot-a"), slot("slot-b"))
        && first != second
    {
        let message = "the system slots have different sizes: an update must fit into either".to_owned();
        let label = format!("expected {}", Size(first));
        context.clash(Code::PartitionLayout, span, message, &label, (other, "the other slot"));
    }
    check_sum(context, rows, section);
}

fn check_sum(context: &mut Context<'_>, rows: &[Row<'_>], section: &Node) {
    let sizes = rows.iter().filter_map(|row| row.size);
    let sum = sizes.fold(TABLES, |sum, (size, _)| sum.saturating_add(size));
    let minimum = context.tree.at(&["disk", "minimum-size"]);
    let (limit, span) = match minimum.map(|node| (size_of(node), node.span)) {
        Some((Some(size), span)) => (size, span),
        Some((None, _)) => return,
        None => (8 << 30, section.span),
    };
    if sum > limit {
        let message = format!("the partitions take {} MiB and the smallest disk has {} MiB", sum / MIB, limit / MIB);
        let error = context.error(Code::PartitionLayout, span, message, "expected a disk that holds them");
        error.hint = Some(format!("the sum includes {} MiB for the partition tables", TABLES / MIB));
    }
}

/// The root image and what of the running system persists.
pub(super) fn check_root(context: &mut Context<'_>) {
    let Some(root) = context.tree.get("root") else { return };
    if let Some((size, span)) = root.get("block-size").and_then(|node| Some((size_of(node)?, node.span)))
        && (!size.is_power_of_two() || !(4 << 10..=MIB).contains(&size))
    {
        let message = format!("`root.block-size` is {size} bytes");
        context.error(Code::OutOfRange, span, message, "expected a power of two from 4KiB to 1MiB");
    }
    check_level(context, root);
    check_persist(context, root);
}

fn check_level(context: &mut Context<'_>, root: &Node) {
    let Some((level, span)) = root.get("compression-level").and_then(|node| Some((node.integer()?, node.span))) else {
        return;
    };
    let (kind, range) = match root.get("compression").and_then(Node::text).unwrap_or("zstd") {
        "zstd" => ("zstd", 1..=22),
        "xz" => ("xz", 0..=9),
        "gzip" => ("gzip", 1..=9),
        "none" => {
            let message = "`root.compression-level` is stated for a root that is not compressed".to_owned();
            context.error(Code::Conflict, span, message, "expected only with a compression");
            return;
        }
        _ => return,
    };
    if !range.contains(&level) && !context.diagnostics.has_error_at(span) {
        let message = format!("`root.compression-level` is {level}");
        let label = format!("expected {} to {} for {kind}", range.start(), range.end());
        context.error(Code::OutOfRange, span, message, label);
    }
}

fn check_persist(context: &mut Context<'_>, root: &Node) {
    let parse = |text: &str| text.parse::<ImagePath>().ok().map(|path| path.absolute());
    let paths: Vec<(String, Span)> = root
        .get("persist")
        .into_iter()
        .flat_map(Node::texts)
        .filter_map(|(text, span)| Some((parse(text)?, span)))
        .collect();
    for (index, (path, span)) in paths.iter().enumerate() {
        let first = path.split('/').nth(1).unwrap_or_default();
        if ["", "proc", "sys", "dev", "run", "tmp"].contains(&first) {
            let message = format!("{path} cannot persist");
            context.error(Code::InvalidValue, *span, message, "expected a directory that is not in RAM by design");
        }
        let inside = |other: &str| path == other || path.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
        let outer = paths.iter().enumerate().find(|(at, (other, _))| inside(other) && (other != path || *at < index));
        if let Some((_, (other, place))) = outer {
            let message = format!("{path} persists already, with {other}");
            context.clash(Code::Duplicate, *span, message, "inside a persistent directory", (*place, "persists"));
        }
    }
}

/// Budgets that no machine can meet, or that mean nothing.
pub(super) fn check_budgets(context: &mut Context<'_>) {
    let Some(memory) = context.tree.at(&["budgets", "memory"]) else { return };
    let Some(bytes) = size_of(memory) else { return };
    if !(64 * MIB..=1 << 44).contains(&bytes) {
        let message = format!("`budgets.memory` is {}", Size(bytes));
        context.error(Code::OutOfRange, memory.span, message, "expected 64MiB to 16TiB");
    }
}
