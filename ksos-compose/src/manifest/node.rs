//! A TOML document as a tree in which every key and value knows the file and bytes it came from.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Code, Diagnostics, Span};

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) span: Span,
    pub(super) value: Value,
}

/// A TOML value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// A date or time; no key of a manifest is one.
    Datetime,
    Array(Vec<Node>),
    Table(Table),
}

/// A table: key to entry, in the order of the keys.
pub(super) type Table = BTreeMap<String, Entry>;

/// A key's place and its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: Span,
    pub(super) node: Node,
}

impl Node {
    /// Returns the entries of a table.
    pub(super) fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// Returns the text of a string.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the value of a Boolean.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value {
            Value::Boolean(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the value of an integer.
    pub(super) fn integer(&self) -> Option<i64> {
        match self.value {
            Value::Integer(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the items of an array; of anything else, none.
    pub(super) fn items(&self) -> &[Node] {
        match &self.value {
            Value::Array(items) => items,
            _ => &[],
        }
    }

    /// Returns the strings of an array, each with its place.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, Span)> {
        self.items().iter().filter_map(|item| Some((item.text()?, item.span)))
    }

    /// Returns the value of `key` when this is a table that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        Some(&self.table()?.get(key)?.node)
    }

    /// Returns the value at a path of keys.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    /// Returns the entries of the table `key`; none when there is no such table.
    pub(super) fn entries(&self, key: &str) -> impl Iterator<Item = (&String, &Entry)> {
        self.get(key).and_then(Node::table).into_iter().flatten()
    }

    /// Returns what kind of value this is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::String(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Boolean(_) => "a Boolean",
            Value::Datetime => "a date or time",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// Parses the text of file number `file`. Every syntax error is reported; nothing is returned when there is one.
pub(super) fn parse(file: usize, text: &str, diagnostics: &mut Diagnostics) -> Option<Node> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let valid = errors.is_empty();
    for error in errors {
        let range = error.span().unwrap_or(0..0);
        let span = Span { file, start: range.start.min(text.len()), end: range.end.min(text.len()) };
        let message = match error.message() {
            "duplicate key" => format!("`{}` is stated twice", &text[span.start..span.end]),
            message => message.replace('\n', "; "),
        };
        diagnostics.error(Code::Syntax, span, message, "not valid TOML");
    }
    let start = Span { file, start: 0, end: 0 };
    valid.then(|| Node { span: start, value: Value::Table(table(file, document.get_ref(), diagnostics)) })
}

fn table(file: usize, table: &DeTable<'_>, diagnostics: &mut Diagnostics) -> Table {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>), diagnostics: &mut Diagnostics| {
        let name: &std::borrow::Cow<'_, str> = key.get_ref();
        (name.to_string(), Entry { key: span(file, key), node: node(file, value, diagnostics) })
    };
    table.iter().map(|pair| entry(pair, diagnostics)).collect()
}

fn node(file: usize, value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Node {
    let span = span(file, value);
    let value = match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(integer) => integer_value(integer, span, diagnostics),
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(_) => Value::Datetime,
        DeValue::Array(items) => Value::Array(items.iter().map(|item| node(file, item, diagnostics)).collect()),
        DeValue::Table(entries) => Value::Table(table(file, entries, diagnostics)),
    };
    Node { span, value }
}

fn integer_value(integer: &toml::de::DeInteger<'_>, span: Span, diagnostics: &mut Diagnostics) -> Value {
    let parsed = i64::from_str_radix(integer.as_str(), integer.radix());
    if parsed.is_err() {
        // TOML 1.0, "Integer": "If an integer cannot be represented losslessly, an error must be thrown."
        diagnostics.error(Code::OutOfRange, span, "the integer does not fit into 64 bits", "too large");
    }
    Value::Integer(parsed.unwrap_or(0))
}

fn span<T>(file: usize, spanned: &Spanned<T>) -> Span {
    let range = spanned.span();
    Span { file, start: range.start, end: range.end }
}
