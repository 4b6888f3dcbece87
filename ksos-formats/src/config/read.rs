//! Reads values by what their keys expect. All faults are collected; no fault shows the value of a secret.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Place, nearest};
use super::forms::Form;
use super::keys::{Kind, Table};
use super::yaml::{Node, NodeValue, shown};
use super::{network, tables};

/// A value that is as its key expects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Boolean(bool),
    Integer(u64),
    Text(String),
    List(Vec<Item>),
    Fields(Fields),
    Map(Vec<(String, Item)>),
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// The entries of a mapping, by the names of the table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Fields {
    pub(super) entries: BTreeMap<&'static str, Item>,
    /// Places of the keys.
    pub(super) keys: BTreeMap<&'static str, Place>,
}

impl Item {
    pub(super) fn text(&self) -> &str {
        match &self.value {
            Value::Text(text) => text,
            _ => "",
        }
    }

    /// Returns the texts of a list.
    pub(super) fn texts(&self) -> Vec<String> {
        self.items().iter().map(|item| item.text().to_owned()).collect()
    }

    pub(super) fn items(&self) -> &[Item] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// Returns the entries of a mapping with names of one's own.
    pub(super) fn map(&self) -> &[(String, Item)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(super) fn fields(&self) -> Fields {
        match &self.value {
            Value::Fields(fields) => fields.clone(),
            _ => Fields::default(),
        }
    }
}

impl Fields {
    pub(super) fn get(&self, name: &str) -> Option<&Item> {
        self.entries.get(name)
    }

    pub(super) fn boolean(&self, name: &str) -> Option<bool> {
        match self.get(name)?.value {
            Value::Boolean(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn integer<T: TryFrom<u64>>(&self, name: &str) -> Option<T> {
        match self.get(name)?.value {
            Value::Integer(value) => T::try_from(value).ok(),
            _ => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|item| item.text().to_owned())
    }

    pub(super) fn texts(&self, name: &str) -> Option<Vec<String>> {
        self.get(name).map(Item::texts)
    }

    /// Parses a text whose form has been checked.
    pub(super) fn parsed<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.text().parse().ok()
    }

    /// Parses texts whose form has been checked.
    pub(super) fn all_parsed<T: std::str::FromStr>(&self, name: &str) -> Option<Vec<T>> {
        Some(self.get(name)?.items().iter().filter_map(|item| item.text().parse().ok()).collect())
    }

    pub(super) fn section(&self, name: &str) -> Fields {
        self.get(name).map(Item::fields).unwrap_or_default()
    }

    /// Returns the place of a key.
    pub(super) fn key(&self, name: &str) -> Place {
        self.keys.get(name).copied().unwrap_or_default()
    }
}

/// Where a scalar stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// In YAML, without quotes.
    Plain,
    /// In YAML, with quotes, or as a block.
    Quoted,
    /// On the kernel command line.
    Parameter,
}

/// Why a scalar is not what is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What is expected.
    pub(super) expected: String,
    pub(super) hint: Option<String>,
}

impl Wrong {
    fn new(expected: impl Into<String>) -> Self {
        Wrong { expected: expected.into(), hint: None }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Wrong { hint: Some(hint.into()), ..self }
    }
}

/// Reads a boolean as YAML 1.1 has it (<https://yaml.org/type/bool.html>), because that is what cloud-init's users know.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// Reads a scalar, or a parameter of the kernel command line, as `kind` expects it.
pub(super) fn scalar(kind: &Kind, text: &str, source: Source) -> Result<Value, Wrong> {
    match kind {
        Kind::Boolean => match (boolean(text), source) {
            (Some(_), Source::Quoted) => Err(Wrong::new("true or false").hint("remove the quotes")),
            (Some(value), _) => Ok(Value::Boolean(value)),
            (None, Source::Parameter) if matches!(text, "0" | "1") => Ok(Value::Boolean(text == "1")),
            (None, _) => Err(Wrong::new("true or false")),
        },
        Kind::Integer { min, max } => {
            let wrong = Wrong::new(format!("a number from {min} to {max}"));
            let value = number(text).filter(|value| (min..=max).contains(&value)).ok_or(wrong.clone())?;
            if source == Source::Quoted { Err(wrong.hint("remove the quotes")) } else { Ok(Value::Integer(value)) }
        }
        Kind::Text(form) | Kind::Secret(form) => checked(*form, text, source),
        Kind::Choice(choices) => match choices.contains(&text) {
            true => Ok(Value::Text(text.to_owned())),
            false => {
                let wrong = Wrong::new(format!("one of {}", choices.join(", ")));
                let near = nearest(text, choices.iter().copied());
                Err(near.into_iter().fold(wrong, |wrong, near| wrong.hint(format!("did you mean {near}?"))))
            }
        },
        Kind::Duration => {
            duration(text).map(Value::Integer).ok_or(Wrong::new("seconds, or a number with s, m, h or d"))
        }
        Kind::Rate => rate(text).map(Value::Integer).ok_or(Wrong::new(
            "bytes per second, at least 1024, or a number with kB/s, KiB/s, MB/s, MiB/s, GB/s or GiB/s",
        )),
        Kind::Permissions => permissions(text, source).map(Value::Integer),
        Kind::Texts(form) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            let items = parts.map(|part| Ok(Item { value: checked(*form, part, source)?, place: Place::default() }));
            Ok(Value::List(items.collect::<Result<_, _>>()?))
        }
        Kind::Map(form, inner) if source == Source::Parameter => pairs(*form, inner, text),
        Kind::List(_) => Err(Wrong::new("a list")),
        Kind::Section(_) | Kind::Map(..) | Kind::Network => Err(Wrong::new("a mapping")),
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| digits)
}

fn checked(form: Form, text: &str, source: Source) -> Result<Value, Wrong> {
    if source == Source::Plain && boolean(text).is_some() {
        return Err(Wrong::new(form.expected).hint("without quotes this is true or false; put it in quotes"));
    }
    match (form.check)(text) {
        true => Ok(Value::Text(text.to_owned())),
        false => Err(Wrong::new(form.expected)),
    }
}

/// The longest time that can be stated: ten years, so that no sum of times overflows.
const LONGEST_DURATION_S: u64 = 10 * 366 * 86_400;

fn duration(text: &str) -> Option<u64> {
    let (digits, unit) = match text.bytes().last()? {
        b's' => (&text[..text.len() - 1], 1),
        b'm' => (&text[..text.len() - 1], 60),
        b'h' => (&text[..text.len() - 1], 3600),
        b'd' => (&text[..text.len() - 1], 86_400),
        _ => (text, 1),
    };
    number(digits)?.checked_mul(unit).filter(|seconds| *seconds <= LONGEST_DURATION_S)
}

/// Reads bytes per second, with a unit of powers of 1000 or 1024 or without one; `/s` may be left out.
fn rate(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 6] =
        [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("kB", 1000), ("MB", 1_000_000), ("GB", 1_000_000_000)];
    let amount = text.strip_suffix("/s").unwrap_or(text);
    let unit = UNITS.iter().find_map(|(name, unit)| Some((amount.strip_suffix(name)?, *unit)));
    let (digits, unit) = unit.or((amount == text).then_some((text, 1)))?;
    let limits = 1 << 10..=1 << 40;
    number(digits.trim_end())?.checked_mul(unit).filter(|rate| limits.contains(rate))
}

/// Reads permission bits. cloud-init reads quoted ones as octal and unquoted ones as YAML 1.1 does: octal with a zero
/// in front, else decimal, which nobody means: that is refused.
fn permissions(text: &str, source: Source) -> Result<u64, Wrong> {
    let wrong = Wrong::new("permission bits in octal, as in \"0644\"");
    let octal = |digits: &str| u64::from_str_radix(digits, 8).ok().filter(|bits| *bits <= 0o7777);
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let bits = octal(digits).filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit())).ok_or(wrong.clone())?;
    if source == Source::Plain && !text.starts_with('0') {
        return Err(wrong.hint(format!("without quotes this is a decimal number; write \"0{digits}\"")));
    }
    Ok(bits)
}

/// Reads `key=value,key=value`.
fn pairs(form: Form, inner: &Kind, text: &str) -> Result<Value, Wrong> {
    let mut entries = Vec::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or(Wrong::new("key=value, with commas between"))?;
        if !(form.check)(name) {
            return Err(Wrong::new(form.expected));
        }
        let value = scalar(inner, value, Source::Parameter)?;
        entries.push((name.to_owned(), Item { value, place: Place::default() }));
    }
    Ok(Value::Map(entries))
}

/// Reads trees; collects what is wrong.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) errors: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
}

impl Reader {
    pub(super) fn error(&mut self, place: Place, message: impl Into<String>) -> &mut Diagnostic {
        self.errors.push(Diagnostic::new(place, message));
        self.errors.last_mut().expect("one was pushed")
    }

    pub(super) fn warn(&mut self, place: Place, message: impl Into<String>) {
        self.warnings.push(Diagnostic::new(place, message));
    }

    /// Returns what is wrong, else what has no effect, in the order of the places.
    pub(super) fn finish(mut self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        self.errors.sort_unstable();
        self.warnings.sort_unstable();
        if self.errors.is_empty() { Ok(self.warnings) } else { Err(self.errors) }
    }

    /// Reads a mapping. `path` is how messages name it; empty for the whole document.
    pub(super) fn table(&mut self, node: &Node, table: &'static Table, path: &str) -> Fields {
        let mut fields = Fields::default();
        let Some(entries) = node.entries() else {
            self.structure(node, path, "a mapping");
            return fields;
        };
        for entry in entries {
            let inner = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
            let Some(key) = table.find(&entry.key) else {
                self.unknown(entry.place, &entry.key, &inner, table);
                continue;
            };
            if let Some(first) = fields.keys.insert(key.name, entry.place) {
                let message = format!("{inner} is another spelling of what line {} states", first.line);
                self.error(entry.place, message);
            } else if let Some(item) = self.value(&entry.value, &key.kind, &inner, entry.place) {
                fields.entries.insert(key.name, item);
            }
        }
        for name in table.required.iter().filter(|name| !fields.keys.contains_key(*name)) {
            let path = if path.is_empty() { table.what } else { path };
            self.error(node.place, format!("{path}: the key {name} is missing"));
        }
        fields
    }

    fn unknown(&mut self, place: Place, name: &str, path: &str, table: &Table) {
        if table.unsupported.contains(&name) {
            return self.warn(place, format!("{path} is not supported, ignored"));
        }
        let names = table.keys.iter().map(|key| key.name);
        let near = nearest(name, names.chain(table.unsupported.iter().copied()));
        let hint = near.map(|near| format!("did you mean {near}?")).or_else(|| tables::elsewhere(name, table));
        self.error(place, format!("unknown key {} in {}", shown(name), table.what)).hint = hint;
    }

    /// Reads what stands behind a key, or an item of a list; `key` is the key's place.
    pub(super) fn value(&mut self, node: &Node, kind: &Kind, path: &str, key: Place) -> Option<Item> {
        let empty = node.is_null();
        match kind {
            Kind::List(_) | Kind::Texts(_) | Kind::Section(_) | Kind::Map(..) | Kind::Network if empty => {
                self.warn(key, format!("{path} has no value, ignored"));
                return None;
            }
            _ if empty => {
                self.error(key, format!("{path} has no value")).hint =
                    Some("state a value, or remove the key".to_owned());
                return None;
            }
            _ => {}
        }
        let value = match (&node.value, kind) {
            (NodeValue::Scalar { text, plain }, _) => {
                let source = if *plain { Source::Plain } else { Source::Quoted };
                self.scalar(node.place, key, path, kind, text, source)?
            }
            (NodeValue::Sequence(items), Kind::List(inner)) => Value::List(self.items(items, inner, path)),
            (NodeValue::Sequence(items), Kind::Texts(form)) => Value::List(self.items(items, &Kind::Text(*form), path)),
            (NodeValue::Mapping(_), Kind::Section(table)) => Value::Fields(self.table(node, table, path)),
            (NodeValue::Mapping(_), Kind::Network) => Value::Fields(network::read(self, node, path)),
            (NodeValue::Mapping(_), Kind::Map(form, inner)) => Value::Map(self.map(node, *form, inner, path)),
            (_, kind) => {
                self.structure(node, path, expected(kind));
                return None;
            }
        };
        Some(Item { value, place: node.place })
    }

    fn scalar(
        &mut self,
        place: Place,
        key: Place,
        path: &str,
        kind: &Kind,
        text: &str,
        source: Source,
    ) -> Option<Value> {
        let wrong = match scalar(kind, text, source) {
            Ok(value) => return Some(value),
            Err(wrong) => wrong,
        };
        // Under a key that holds a mapping or a list, a text may be anything, a secret among it.
        let silent = matches!(kind, Kind::Secret(_) | Kind::Section(_) | Kind::Map(..) | Kind::List(_) | Kind::Network);
        let (place, found) = match (kind, silent) {
            (Kind::Secret(_), _) => (key, String::new()),
            (_, true) => (place, ", found a text".to_owned()),
            _ => (place, format!(", found {}", shown(text))),
        };
        self.error(place, format!("{path}: expected {}{found}", wrong.expected)).hint = wrong.hint;
        None
    }

    fn items(&mut self, items: &[Node], kind: &Kind, path: &str) -> Vec<Item> {
        let read = |(index, item): (usize, &Node)| self.value(item, kind, &format!("{path}[{index}]"), item.place);
        items.iter().enumerate().filter_map(read).collect()
    }

    fn map(&mut self, node: &Node, form: Form, kind: &Kind, path: &str) -> Vec<(String, Item)> {
        let mut map = Vec::new();
        for entry in node.entries().unwrap_or_default() {
            if !(form.check)(&entry.key) {
                let message = format!("{path}: expected {}, found {}", form.expected, shown(&entry.key));
                self.error(entry.place, message);
            }
            let item = self.value(&entry.value, kind, &format!("{path}.{}", entry.key), entry.place);
            map.extend(item.map(|item| (entry.key.clone(), item)));
        }
        map
    }

    /// Says that there is something of another structure than expected.
    fn structure(&mut self, node: &Node, path: &str, expected: &str) {
        let found = match node.value {
            NodeValue::Scalar { .. } => "a text",
            NodeValue::Sequence(_) => "a list",
            NodeValue::Mapping(_) => "a mapping",
        };
        let path = if path.is_empty() { "the document" } else { path };
        self.error(node.place, format!("{path}: expected {expected}, found {found}"));
    }
}

/// Says what a key expects, for what is of another structure.
fn expected(kind: &Kind) -> &'static str {
    match kind {
        Kind::Boolean => "true or false",
        Kind::Integer { .. } | Kind::Duration | Kind::Rate => "a number",
        Kind::Text(form) | Kind::Secret(form) => form.expected,
        Kind::Choice(_) | Kind::Permissions => "a text",
        Kind::Texts(_) | Kind::List(_) => "a list",
        Kind::Section(_) | Kind::Map(..) | Kind::Network => "a mapping",
    }
}
