//! Override rules. Tables merge key by key, everything else replaces what is there; a list of strings can be changed
//! by `{ add = [...], remove = [...] }`. Where keys exclude each other, stating one drops the inherited others.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::check::suggest;
use super::diagnostic::{Code, Diagnostics, Span};
use super::layers::normalize;
use super::node::{Entry, Node, Table, Value};

/// Sections whose entries `enabled = false` drops, with the word for one entry.
pub(super) const SECTIONS: [(&str, &str); 8] = [
    ("apt", "repository"),
    ("components", "component"),
    ("overlays", "overlay"),
    ("files", "file"),
    ("links", "link"),
    ("users", "user"),
    ("services", "service"),
    ("container-images", "container image"),
];

/// Keys of a container image built from a component; `archive` and `layout` exclude them.
const BUILT_KEYS: [&str; 5] = ["component", "files", "entrypoint", "command", "environment"];

/// Merges `overlay` over `base`; `path` is where both stand.
pub(super) fn merge(base: &mut Node, overlay: Node, path: &mut Vec<String>, diagnostics: &mut Diagnostics) {
    if matches!(base.value, Value::Array(_)) && overlay.table().is_some() {
        // A table that is no change was reported when its file was validated.
        if is_list_change(&overlay) {
            change_list(base, &overlay, &path.join("."), diagnostics);
        }
        return;
    }
    let Value::Table(changes) = overlay.value else {
        *base = overlay;
        return;
    };
    let Value::Table(table) = &mut base.value else {
        *base = Node { span: overlay.span, value: Value::Table(changes) };
        return;
    };
    base.span = overlay.span;
    drop_excluded(table, &changes, path);
    for (key, entry) in changes {
        let Some(existing) = table.get_mut(&key) else {
            table.insert(key, entry);
            continue;
        };
        existing.key = entry.key;
        path.push(key);
        merge(&mut existing.node, entry.node, path, diagnostics);
        path.pop();
    }
}

/// Removes inherited keys that cannot stand beside what `changes` states.
fn drop_excluded(table: &mut Table, changes: &Table, path: &[String]) {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match path[..] {
        ["components", _] => {
            let source = |table: &Table| table.get("source").and_then(|entry| entry.node.text()).map(str::to_owned);
            if source(changes).is_some_and(|new| source(table).is_some_and(|old| old != new)) {
                table.clear();
            }
        }
        ["services", _, "ready"] => table.clear(),
        ["container-images", _] => {
            let states = |key: &str| changes.contains_key(key);
            let built = states("component");
            let local = states("archive") || states("layout");
            table.retain(|key, _| match key.as_str() {
                // The digest of another image.
                "digest" => !states("reference") && !built,
                "plain-http" => !built && !local,
                "archive" => !states("layout") && !built,
                "layout" => !states("archive") && !built,
                key => !local || !BUILT_KEYS.contains(&key),
            });
        }
        _ => {}
    }
}

/// Says whether a node is a table with `add` or `remove` and nothing else.
pub(super) fn is_list_change(node: &Node) -> bool {
    let only_changes = |table: &Table| table.keys().all(|key| key == "add" || key == "remove");
    node.table().is_some_and(|table| !table.is_empty() && only_changes(table))
}

fn change_list(base: &mut Node, change: &Node, path: &str, diagnostics: &mut Diagnostics) {
    let Value::Array(items) = &mut base.value else { return };
    if let Some(item) = items.iter().find(|item| item.text().is_none()) {
        let place = diagnostics.place(item.span);
        let message = format!("`{path}` cannot be changed by add and remove: it is not a list of strings");
        let error = diagnostics.error(Code::ListChange, change.span, message, "expected a whole list");
        error.other = Some((place, "inherited item".to_owned()));
        return;
    }
    for removed in change.get("remove").map(Node::items).unwrap_or_default() {
        let Some(text) = removed.text() else { continue };
        let before = items.len();
        let identity = identity(removed, path, diagnostics);
        items.retain(|item| self::identity(item, path, diagnostics) != identity);
        if items.len() == before {
            let span = removed.span;
            let names = items.iter().filter_map(Node::text);
            let hint = suggest::nearest(text, names);
            let message = format!("\"{text}\" is not in the inherited list `{path}`");
            let error = diagnostics.error(Code::ListChange, span, message, "nothing to remove");
            error.hint = hint.map(|name| format!("did you mean \"{name}\"?"));
        }
    }
    for item in change.get("add").map(Node::items).unwrap_or_default() {
        let present = identity(item, path, diagnostics);
        if present.is_some() && items.iter().any(|item| identity(item, path, diagnostics) == present) {
            let message = format!("\"{}\" is in the inherited list `{path}` already", item.text().unwrap_or_default());
            diagnostics.warning(Code::ListChange, item.span, message, "adds nothing");
            continue;
        }
        items.push(item.clone());
    }
}

/// Returns what makes two items of the list at `path` the same: the text, or for files, which file it is.
fn identity(item: &Node, path: &str, diagnostics: &Diagnostics) -> Option<PathBuf> {
    let text = item.text()?;
    match path {
        "kernel.required-options-files" => Some(normalize(&diagnostics.directory(item.span.file).join(text))),
        _ => Some(PathBuf::from(text)),
    }
}

/// Names of what was dropped, by section, with the place of `enabled = false`.
pub(super) type Disabled = BTreeMap<(&'static str, String), Span>;

/// Removes the entries with `enabled = false`.
pub(super) fn drop_disabled(root: &mut Node, diagnostics: &mut Diagnostics) -> Disabled {
    let mut disabled = Disabled::new();
    let Value::Table(sections) = &mut root.value else { return disabled };
    for (section, word) in SECTIONS {
        let Some(Entry { node: Node { value: Value::Table(table), .. }, .. }) = sections.get_mut(section) else {
            continue;
        };
        let dropped = |entry: &Entry| {
            let enabled = entry.node.get("enabled")?;
            (enabled.boolean() == Some(false)).then_some(enabled.span)
        };
        let names: Vec<String> = table.keys().cloned().collect();
        for name in names {
            let Some(span) = dropped(&table[&name]) else { continue };
            let Some(entry) = table.remove(&name) else { continue };
            if entry.node.table().is_some_and(|keys| keys.len() == 1) {
                let message = format!("there is no {word} `{name}` to disable");
                let error = diagnostics.error(Code::UnknownReference, entry.key, message, "not inherited");
                let names = table.keys().map(String::as_str);
                error.hint = suggest::nearest(&name, names).map(|near| format!("did you mean `{near}`?"));
            }
            disabled.insert((section, name), span);
        }
    }
    disabled
}
