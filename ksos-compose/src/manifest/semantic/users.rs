//! Users: numbers and what `/etc/passwd` can hold.

use std::collections::BTreeMap;

use super::super::diagnostic::{Code, Span};
use super::super::node::Entry;
use super::Context;

/// `(uid_t) -1` in 16 bits: programs take it for "unchanged".
const NO_USER: i64 = 65535;

pub(super) fn check(context: &mut Context<'_>) {
    let tree = context.tree;
    let mut users: BTreeMap<i64, Span> = BTreeMap::new();
    let mut groups: BTreeMap<i64, Span> = BTreeMap::new();
    for (name, entry) in tree.entries("users") {
        if name == "root" {
            let message = "user `root` is always there".to_owned();
            context.error(Code::Duplicate, entry.key, message, "cannot be stated");
        }
        check_fields(context, name, entry);
        let number = |key: &str| entry.node.get(key).and_then(|node| Some((node.integer()?, node.span)));
        let uid = number("uid");
        check_number(context, "user", uid, &mut users);
        check_number(context, "group", number("gid").or(uid), &mut groups);
    }
}

fn check_number(context: &mut Context<'_>, word: &str, number: Option<(i64, Span)>, seen: &mut BTreeMap<i64, Span>) {
    let Some((number, span)) = number else { return };
    if number == NO_USER && !context.diagnostics.has_error_at(span) {
        let message = format!("{word} number {NO_USER} stands for no {word}");
        context.error(Code::OutOfRange, span, message, "expected another number");
    }
    if let Some(first) = seen.insert(number, span)
        && !context.diagnostics.has_error_at(span)
    {
        let message = format!("two {word}s have the number {number}");
        context.clash(Code::Duplicate, span, message, "second", (first, "first"));
    }
}

/// passwd(5): fields are separated by colons.
fn check_fields(context: &mut Context<'_>, name: &str, entry: &Entry) {
    for key in ["home", "shell"] {
        let field = entry.node.get(key).and_then(|node| Some((node.text()?, node.span)));
        let Some((_, span)) = field.filter(|(text, _)| text.contains(':')) else { continue };
        let message = format!("`users.{name}.{key}` has a colon, which separates fields in /etc/passwd");
        context.error(Code::InvalidValue, span, message, "expected a path without colons");
    }
}
