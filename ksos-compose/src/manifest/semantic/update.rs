//! Updates: keys that can be used, times that fit each other, versions that can be reached.

use ksos_formats::update::keys::{MAX_KEYS, PublicKey};
use ksos_formats::update::{Version, is_name, window};

use super::super::diagnostic::{Code, Span};
use super::super::files::Files;
use super::super::keys::{KEY_FILE_LIMIT, KeyFile, KeyFileError, cosign_key};
use super::super::layers::normalize;
use super::super::node::Node;
use super::super::types::{Duration, OutputFormat, Update};
use super::Context;

const MINUTE: u64 = 60_000;

pub(super) fn check(context: &mut Context<'_>, files: &dyn Files) {
    let tree = context.tree;
    check_outputs(context);
    let Some(update) = tree.get("update").filter(|node| node.table().is_some()) else { return };
    check_times(context, update);
    check_windows(context, update);
    context.repeated(update.get("keys"), "update.keys");
    context.repeated(update.get("cosign-keys"), "update.cosign-keys");
    check_cosign_keys(context, update, files);
    let keys = update.get("keys").map_or(0, |keys| keys.items().len());
    if keys == 0 {
        return check_without_keys(context, update);
    }
    check_keys(context, update, files);
    check_image(context, update);
}

/// A release is for nodes that have keys.
fn check_outputs(context: &mut Context<'_>) {
    let tree = context.tree;
    let formats = tree.at(&["outputs", "formats"]);
    context.repeated(formats, "outputs.formats");
    let keys = tree.at(&["update", "keys"]).map_or(0, |keys| keys.items().len());
    let mut texts = formats.into_iter().flat_map(Node::texts);
    if let Some((_, span)) = texts.find(|(text, _)| *text == OutputFormat::Update.name() && keys == 0) {
        let message = "`outputs.formats` has \"update\" and there are no `update.keys`".to_owned();
        context.error(Code::Conflict, span, message, "no node would take this release");
    }
}

/// What is stated for updates while there are none.
fn check_without_keys(context: &mut Context<'_>, update: &Node) {
    // `board` and the like are what one manifest says for those that extend it.
    for key in ["threshold", "source", "windows", "cosign-keys", "minimum-version", "valid-for"] {
        let Some(node) = update.get(key) else { continue };
        let message = format!("`update.{key}` is stated and there are no `update.keys`");
        context.warning(Code::Conflict, node.span, message, "the node takes no updates");
    }
}

/// Reads the file that `path` names; nothing when it cannot be read, which is reported then.
fn read(context: &mut Context<'_>, path: (&str, Span), files: &dyn Files) -> Option<Vec<u8>> {
    let (text, span) = path;
    if context.diagnostics.has_error_at(span) {
        return None;
    }
    let resolved = normalize(&context.diagnostics.directory(span.file).join(text));
    match files.read(&resolved, KEY_FILE_LIMIT) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            context.error(Code::Unreadable, span, format!("{text}: {}", error.source), "expected a file with a key");
            None
        }
    }
}

fn wrong_key(context: &mut Context<'_>, (text, span): (&str, Span), error: &KeyFileError, label: &str) {
    let hint = match error {
        KeyFileError::Private => Some(format!("openssl pkey -in {text} -pubout writes the public key")),
        _ => None,
    };
    context.error(Code::InvalidValue, span, format!("{text}: {error}"), label).hint = hint;
}

fn check_keys(context: &mut Context<'_>, update: &Node, files: &dyn Files) {
    let list = update.get("keys");
    let paths: Vec<(&str, Span)> = list.into_iter().flat_map(Node::texts).collect();
    let mut keys: Vec<(PublicKey, Span)> = Vec::new();
    let mut whole = true;
    for path in &paths {
        let Some(bytes) = read(context, *path, files) else {
            whole = false;
            continue;
        };
        match KeyFile::parse(&bytes) {
            Ok(KeyFile::Key(key)) => match keys.iter().find(|(other, _)| *other == key) {
                Some((_, first)) => {
                    let message = format!("{}: the key is in `update.keys` already", path.0);
                    context.clash(Code::Duplicate, path.1, message, "second", (*first, "first"));
                }
                None => keys.push((key, path.1)),
            },
            Ok(KeyFile::Set(_)) => {
                whole = false;
                check_key_set(context, update, *path, paths.len());
            }
            Err(error) => {
                whole = false;
                wrong_key(context, *path, &error, "expected an Ed25519 public key (PEM) or a key set (JSON)");
            }
        }
    }
    if whole {
        check_threshold(context, update, keys.len());
    }
}

fn check_key_set(context: &mut Context<'_>, update: &Node, (text, span): (&str, Span), count: usize) {
    if count > 1 {
        let message = format!("{text} is a key set, and not the only file in `update.keys`");
        context.error(Code::Conflict, span, message, "expected one key set, or keys");
    }
    if let Some(threshold) = update.get("threshold") {
        let message = "`update.threshold` is stated for a key set, which has its own".to_owned();
        context.clash(Code::Conflict, threshold.span, message, "expected only with keys", (span, "the key set"));
    }
}

fn check_threshold(context: &mut Context<'_>, update: &Node, keys: usize) {
    if keys > MAX_KEYS {
        let span = update.get("keys").map_or(update.span, |keys| keys.span);
        let message = format!("`update.keys` has {keys} keys");
        context.error(Code::OutOfRange, span, message, format!("expected at most {MAX_KEYS}"));
    }
    let Some((threshold, span)) = update.get("threshold").and_then(|node| Some((node.integer()?, node.span))) else {
        return;
    };
    if usize::try_from(threshold).is_ok_and(|threshold| threshold > keys) {
        let message = format!("`update.threshold` is {threshold} and there are {keys} keys: nothing could be signed");
        context.error(Code::OutOfRange, span, message, format!("expected at most {keys}"));
    }
}

fn check_cosign_keys(context: &mut Context<'_>, update: &Node, files: &dyn Files) {
    for path in update.get("cosign-keys").into_iter().flat_map(Node::texts) {
        let Some(bytes) = read(context, path, files) else { continue };
        if let Err(error) = cosign_key(&bytes) {
            wrong_key(context, path, &error, "expected a public key of cosign (PEM, ECDSA P-256 or Ed25519)");
        }
    }
}

/// Name and version of an image that is released, and the version that it can be reached from.
fn check_image(context: &mut Context<'_>, update: &Node) {
    let tree = context.tree;
    let text = |path: &[&str]| tree.at(path).and_then(|node| Some((node.text()?, node.span)));
    if let Some((name, span)) = text(&["image", "name"]).filter(|(name, _)| !is_name(name))
        && !context.diagnostics.has_error_at(span)
    {
        let message = format!("`image.name` is \"{name}\", and `update.keys` are stated");
        context.error(Code::InvalidValue, span, message, "expected at most 63 characters");
    }
    let mut version = |found: Option<(&str, Span)>| {
        let (text, span) = found.filter(|(_, span)| !context.diagnostics.has_error_at(*span))?;
        match text.parse::<Version>() {
            Ok(version) => Some((version, span)),
            Err(error) => {
                context.error(Code::InvalidValue, span, error.to_string(), "expected a semantic version: \"1.2.3\"");
                None
            }
        }
    };
    let image = version(text(&["image", "version"]));
    let minimum = version(update.get("minimum-version").and_then(|node| Some((node.text()?, node.span))));
    if let (Some((image, place)), Some((minimum, span))) = (image, minimum)
        && !minimum.is_older_than(&image)
    {
        let message = format!("`update.minimum-version` is {minimum}: no node could update to {image}");
        context.clash(Code::OutOfRange, span, message, "expected an older version", (place, "the image's version"));
    }
}

/// Returns a time as it is stated or by default, in milliseconds, and where.
fn time(update: &Node, key: &str, default: Option<Duration>) -> Option<(u64, Option<Span>)> {
    match update.get(key) {
        Some(node) => Some((node.text()?.parse::<Duration>().ok()?.milliseconds, Some(node.span))),
        None => Some((default?.milliseconds, None)),
    }
}

fn check_times(context: &mut Context<'_>, update: &Node) {
    let defaults = Update::default();
    let limits =
        [("interval", MINUTE, "1m"), ("gate", MINUTE, "1m"), ("hold", 1000, "1s"), ("valid-for", 60 * MINUTE, "1h")];
    for (key, minimum, shown) in limits {
        if let Some((_, Some(span))) = time(update, key, None).filter(|(time, _)| *time < minimum) {
            let message = format!("`update.{key}` is below {shown}");
            context.error(Code::OutOfRange, span, message, format!("expected at least {shown}"));
        }
    }
    let (gate, hold) = (time(update, "gate", Some(defaults.gate)), time(update, "hold", Some(defaults.hold)));
    if let (Some((gate, gate_span)), Some((hold, hold_span))) = (gate, hold)
        && hold >= gate
        && let Some(span) = hold_span.or(gate_span)
    {
        let message = "`update.hold` is not below `update.gate`: no version could stay healthy long enough".to_owned();
        match (hold_span, gate_span) {
            (Some(_), Some(gate)) => {
                context.clash(Code::OutOfRange, span, message, "expected less than the gate", (gate, "the gate"));
            }
            _ => {
                let default = if hold_span.is_some() { defaults.gate } else { defaults.hold };
                context.error(Code::OutOfRange, span, message, format!("the other is {default} by default"));
            }
        }
    }
}

fn check_windows(context: &mut Context<'_>, update: &Node) {
    let Some(windows) = update.get("windows") else { return };
    let count = windows.items().len();
    if count > window::MAX_WINDOWS {
        let message = format!("`update.windows` has {count} windows");
        context.error(Code::OutOfRange, windows.span, message, format!("expected at most {}", window::MAX_WINDOWS));
    }
}
