//! Validates a tree against the JSON Schema that is generated from the types, and reports every deviation with its
//! place. It knows the keywords that the schemas of this crate use, and no others.

pub(super) mod formats;
pub(super) mod suggest;

use ksos_formats::Arch;
use serde_json::{Map, Value as Json};

use super::diagnostic::{Code, Diagnostics, Span};
use super::merge::is_list_change;
use super::node::{Node, Table, Value};

/// Longest list of names that a hint spells out.
const MAX_LISTED: usize = 24;

/// A path on the build host that the manifest states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPathUse {
    /// Where it stands.
    pub(super) span: Span,
    /// The text.
    pub(super) text: String,
    /// Path of keys, `*` for items of lists.
    pub(super) keys: Vec<String>,
}

/// One walk over a tree.
pub(super) struct Checker<'a> {
    /// The schema document, for `$ref`.
    root: &'a Json,
    diagnostics: &'a mut Diagnostics,
    keys: Vec<String>,
    /// Host paths seen on the way.
    pub(super) host_paths: Vec<HostPathUse>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(root: &'a Json, diagnostics: &'a mut Diagnostics) -> Self {
        Checker { root, diagnostics, keys: Vec::new(), host_paths: Vec::new() }
    }

    /// Validates a whole document.
    pub(super) fn document(&mut self, node: &Node) {
        let root = self.root;
        self.check(root, node, node.span);
    }

    /// Adds an error, unless there is one at this place.
    fn fail(&mut self, code: Code, span: Span, message: String, label: String, hint: Option<String>) {
        if !self.diagnostics.has_error_at(span) {
            self.diagnostics.error(code, span, message, label).hint = hint;
        }
    }

    /// Returns the path of the current value as TOML writes it.
    fn shown(&self) -> String {
        shown_path(&self.keys)
    }

    /// Validates `node`; `key` is the place of the key that it belongs to.
    fn check(&mut self, schema: &'a Json, node: &Node, key: Span) {
        let schema = self.resolve(schema);
        let Some(object) = schema.as_object() else { return };
        if let Some(branches) = alternatives(object) {
            return self.check_alternatives(object, branches, node, key);
        }
        if !self.check_type(object, node) {
            return;
        }
        match &node.value {
            Value::Table(table) => self.check_table(object, table, node, key),
            Value::Array(items) => self.check_items(object, items, node),
            Value::String(text) => self.check_text(object, text, node),
            Value::Integer(number) => self.check_number(object, *number, node),
            Value::Boolean(_) => self.check_choice(object, node),
            Value::Float(_) | Value::Datetime => {}
        }
    }

    fn resolve(&self, schema: &'a Json) -> &'a Json {
        let mut schema = schema;
        while let Some(reference) = schema["$ref"].as_str() {
            schema = self.root.pointer(reference.trim_start_matches('#')).expect("schemas refer to themselves only");
        }
        schema
    }

    fn check_type(&mut self, schema: &Map<String, Json>, node: &Node) -> bool {
        let Some(expected) = schema.get("type") else { return true };
        if type_matches(expected, node) {
            return true;
        }
        let path = self.shown();
        if is_list_change(node) && expected == "array" {
            let message = format!("`{path}` changes a list that is not inherited");
            let label = "expected a list".to_owned();
            let hint = Some("no file that this one extends states the list; write it whole".to_owned());
            self.fail(Code::ListChange, node.span, message, label, hint);
            return false;
        }
        let message = format!("`{path}` is {}", node.kind());
        if self.diagnostics.has_error_within(node.span) {
            return false;
        }
        let hint = self.type_hint(expected, node);
        self.fail(Code::WrongType, node.span, message, format!("expected {}", type_words(expected)), hint);
        false
    }

    fn type_hint(&self, expected: &Json, node: &Node) -> Option<String> {
        let text = |kind: &str| expected == kind;
        match &node.value {
            Value::Table(_) if self.keys.first().is_some_and(|key| key == "sysctl") => {
                let mut key = self.keys[1..].join(".");
                let mut inner = node;
                while let Some((name, entry)) = inner.table().and_then(Table::first_key_value) {
                    key = format!("{key}.{name}");
                    inner = &entry.node;
                }
                Some(format!("a key with dots needs quotes: \"{key}\" = ..."))
            }
            Value::String(text_value) if text("array") => Some(format!("write [\"{text_value}\"]")),
            Value::String(value) if text("boolean") && (value == "true" || value == "false") => {
                Some(format!("write {value} without quotes"))
            }
            Value::String(value) if text("integer") && value.parse::<i64>().is_ok() => {
                Some(format!("write {value} without quotes"))
            }
            Value::Integer(_) | Value::Float(_) | Value::Datetime if text("string") => {
                let raw = self.diagnostics.raw(node.span);
                let raw = raw.strip_prefix("0o").map_or_else(|| raw.to_owned(), |digits| format!("0{digits}"));
                Some(format!("write \"{raw}\" with quotes"))
            }
            _ => None,
        }
    }

    fn check_alternatives(&mut self, schema: &'a Map<String, Json>, branches: &'a [Json], node: &Node, key: Span) {
        if branches.iter().all(|branch| branch.get("const").is_some()) {
            let names: Vec<&str> = branches.iter().filter_map(|branch| branch["const"].as_str()).collect();
            return self.check_name(&names, node);
        }
        if let Some(tag) = tag_of(branches) {
            return self.check_tagged(schema.contains_key("oneOf"), tag, branches, node, key);
        }
        // A list, or a change of one: told apart by type.
        let branch = branches.iter().find(|branch| type_matches(&branch["type"], node));
        match branch {
            Some(branch) if node.table().is_some() && !is_list_change(node) => self.check_change_keys(branch, node),
            Some(branch) => self.check(branch, node, key),
            None => {
                let words: Vec<String> = branches.iter().map(|branch| type_words(&branch["type"])).collect();
                let words = words.join(" or ").replace("a table", "{ add = [...], remove = [...] }");
                let message = format!("`{}` is {}", self.shown(), node.kind());
                let hint = self.type_hint(&branches[0]["type"], node);
                let hint = hint.or_else(|| self.type_hint(&Json::from("array"), node));
                self.fail(Code::WrongType, node.span, message, format!("expected {words}"), hint);
            }
        }
    }

    /// A table where a list is expected, and not `{ add, remove }`.
    fn check_change_keys(&mut self, branch: &'a Json, node: &Node) {
        if node.table().is_some_and(Table::is_empty) {
            let message = format!("`{}` is an empty table", self.shown());
            let label = "expected a list, or { add = [...], remove = [...] }".to_owned();
            return self.fail(Code::WrongType, node.span, message, label, None);
        }
        self.check(branch, node, node.span);
    }

    fn check_tagged(&mut self, whole: bool, tag: &str, branches: &'a [Json], node: &Node, key: Span) {
        let Some(table) = node.table() else {
            let message = format!("`{}` is {}", self.shown(), node.kind());
            return self.fail(Code::WrongType, node.span, message, "expected a table".to_owned(), None);
        };
        let constant = |branch: &'a Json| branch["properties"][tag]["const"].as_str().unwrap_or_default();
        match table.get(tag) {
            Some(entry) => {
                let names: Vec<&str> = branches.iter().map(constant).collect();
                match branches.iter().find(|branch| entry.node.text() == Some(constant(branch))) {
                    Some(branch) => self.check(branch, node, key),
                    None => {
                        self.keys.push(tag.to_owned());
                        self.check_name(&names, &entry.node);
                        self.keys.pop();
                    }
                }
            }
            None if whole => {
                let names: Vec<String> = branches.iter().map(|branch| format!("\"{}\"", constant(branch))).collect();
                let message = format!("`{}` has no `{tag}`", self.shown());
                let label = format!("expected `{tag}`: {}", names.join(", "));
                self.fail(Code::MissingKey, key, message, label, None);
            }
            None => self.check_partial(branches, table),
        }
    }

    /// A part of a tagged table whose tag is in a file that this one extends: each key must be one of any branch.
    fn check_partial(&mut self, branches: &'a [Json], table: &Table) {
        let known: Vec<&str> = branches
            .iter()
            .filter_map(|branch| branch["properties"].as_object())
            .flat_map(Map::keys)
            .map(String::as_str)
            .collect();
        for (name, entry) in table {
            let schema = branches.iter().find_map(|branch| branch["properties"].get(name));
            match schema {
                Some(schema) => self.nested(name, |checker| checker.check(schema, &entry.node, entry.key)),
                None => self.unknown_key(name, entry.key, &known),
            }
        }
    }

    fn nested(&mut self, name: &str, check: impl FnOnce(&mut Self)) {
        self.keys.push(name.to_owned());
        check(self);
        self.keys.pop();
    }

    fn check_table(&mut self, schema: &'a Map<String, Json>, table: &Table, node: &Node, key: Span) {
        let properties = schema.get("properties").and_then(Json::as_object);
        let known: Vec<&str> = properties.into_iter().flat_map(Map::keys).map(String::as_str).collect();
        let mut suggested = Vec::new();
        for (name, entry) in table {
            let schema_of_key = properties.and_then(|properties| properties.get(name));
            match schema_of_key.or_else(|| schema.get("additionalProperties").filter(|other| !other.is_boolean())) {
                Some(value_schema) => {
                    // A setting whose key lacks quotes is a table: that is what to say.
                    if !(self.keys == ["sysctl"] && entry.node.table().is_some()) {
                        self.check_property_name(schema, name, entry.key);
                    }
                    self.nested(name, |checker| checker.check(value_schema, &entry.node, entry.key));
                }
                None => {
                    suggested.extend(suggest::nearest(name, known.iter().copied()));
                    self.unknown_key(name, entry.key, &known);
                }
            }
        }
        self.check_required(schema, table, key, &suggested);
        self.check_key_count(schema, table, &known, node);
    }

    fn check_property_name(&mut self, schema: &Map<String, Json>, name: &str, key: Span) {
        let Some(format) = schema.get("propertyNames").and_then(|names| names["format"].as_str()) else { return };
        if let Err(wrong) = formats::check(format, name) {
            let inside = self.shown();
            let message = format!("`{name}` cannot be a key of `{inside}`");
            self.fail(Code::InvalidValue, key, message, format!("expected {}", wrong.expected), wrong.hint);
        }
    }

    fn unknown_key(&mut self, name: &str, key: Span, known: &[&str]) {
        let place = match self.keys.is_empty() {
            true => "a manifest".to_owned(),
            false => format!("`{}`", self.shown()),
        };
        let name_shown: String = name.chars().take(100).collect();
        let message = format!("`{name_shown}` is not a key of {place}");
        let near = suggest::nearest(name, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
        let hint = self.special_home(name).or(near).or_else(|| self.home_of(name)).or_else(|| list_of(known));
        self.fail(Code::UnknownKey, key, message, "unknown key".to_owned(), hint);
    }

    /// Says where a key is that is easily sought where it was found.
    fn special_home(&self, name: &str) -> Option<String> {
        let keys: Vec<&str> = self.keys.iter().map(String::as_str).collect();
        match keys[..] {
            ["arch"] => name.parse::<Arch>().ok().map(|arch| format!("did you mean `{arch}`?")),
            ["arch", _, "image"] if name == "arch" => {
                Some("the overlay is for one architecture; --arch or the manifest's own image.arch picks it".to_owned())
            }
            ["components", _] => {
                let component = &self.root["$defs"]["Component"];
                let branches = component["oneOf"].as_array().or(component["anyOf"].as_array())?;
                let with_key = branches.iter().filter(|branch| branch["properties"].get(name).is_some());
                let kinds: Vec<String> =
                    with_key.map(|branch| format!("source = {}", branch["properties"]["source"]["const"])).collect();
                (!kinds.is_empty()).then(|| format!("`{name}` is a key of components with {}", kinds.join(" or ")))
            }
            _ => None,
        }
    }

    /// Says in which section a key is that stands in the wrong one.
    fn home_of(&self, name: &str) -> Option<String> {
        let sections = self.root["properties"].as_object()?;
        if sections.contains_key(name) && !self.keys.is_empty() {
            return Some(format!("`{name}` is a section: [{name}]"));
        }
        let has = |schema: &&Json| self.resolve(schema)["properties"].get(name).is_some();
        let (section, _) = sections.iter().find(|(section, schema)| *section != "arch" && has(schema))?;
        Some(format!("`{name}` is a key of [{section}]"))
    }

    fn check_required(&mut self, schema: &Map<String, Json>, table: &Table, key: Span, suggested: &[&str]) {
        let required = schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
        let missing: Vec<&str> =
            required.filter(|name| !table.contains_key(*name) && !suggested.contains(name)).collect();
        if missing.is_empty() {
            return;
        }
        let place = match self.keys.is_empty() {
            true => "the manifest".to_owned(),
            false => format!("`{}`", self.shown()),
        };
        let names: Vec<String> = missing.iter().map(|name| format!("`{name}`")).collect();
        let message = format!("{place} has no {}", names.join(", no "));
        let describe = |name: &str| self.resolve(&schema["properties"][name])["description"].as_str();
        let hint = describe(missing[0]).map(|text| format!("{}: {}", missing[0], first_sentence(text)));
        self.fail(Code::MissingKey, key, message, format!("expected {}", names.join(", ")), hint);
    }

    fn check_key_count(&mut self, schema: &Map<String, Json>, table: &Table, known: &[&str], node: &Node) {
        let bound = |keyword: &str| schema.get(keyword).and_then(Json::as_u64);
        let below = bound("minProperties").is_some_and(|minimum| (table.len() as u64) < minimum);
        let above = bound("maxProperties").is_some_and(|maximum| table.len() as u64 > maximum);
        if below || above {
            let message = format!("`{}` has {} keys", self.shown(), table.len());
            let label = format!("expected exactly one of {}", known.join(", "));
            self.fail(Code::Conflict, node.span, message, label, None);
        }
    }

    fn check_items(&mut self, schema: &'a Map<String, Json>, items: &[Node], node: &Node) {
        let minimum = schema.get("minItems").and_then(Json::as_u64).unwrap_or(0);
        if (items.len() as u64) < minimum {
            let message = format!("`{}` is an empty list", self.shown());
            self.fail(Code::OutOfRange, node.span, message, "expected at least one item".to_owned(), None);
        }
        let Some(schema) = schema.get("items") else { return };
        for item in items {
            self.nested("*", |checker| checker.check(schema, item, item.span));
        }
    }

    fn check_text(&mut self, schema: &Map<String, Json>, text: &str, node: &Node) {
        if schema.contains_key("enum") || schema.contains_key("const") {
            return self.check_choice(schema, node);
        }
        let minimum = schema.get("minLength").and_then(Json::as_u64).unwrap_or(0);
        if (text.chars().count() as u64) < minimum {
            let message = format!("`{}` is empty", self.shown());
            return self.fail(Code::InvalidValue, node.span, message, "expected a text".to_owned(), None);
        }
        let Some(format) = schema.get("format").and_then(Json::as_str) else { return };
        if format == "ksos-host-path" {
            self.host_paths.push(HostPathUse { span: node.span, text: text.to_owned(), keys: self.keys.clone() });
        }
        if let Err(wrong) = formats::check(format, text) {
            let message = format!("`{}` is not valid: {}", self.shown(), formats::quote(text));
            self.fail(Code::InvalidValue, node.span, message, format!("expected {}", wrong.expected), wrong.hint);
        }
    }

    fn check_number(&mut self, schema: &Map<String, Json>, number: i64, node: &Node) {
        let (low, high) = integer_range(schema);
        if number < low || number > high {
            let message = format!("`{}` is {number}", self.shown());
            let label = match (low, high) {
                (i64::MIN, high) => format!("expected at most {high}"),
                (low, i64::MAX) => format!("expected at least {low}"),
                (low, high) => format!("expected {low} to {high}"),
            };
            self.fail(Code::OutOfRange, node.span, message, label, None);
        }
    }

    fn check_choice(&mut self, schema: &Map<String, Json>, node: &Node) {
        if let (Some(constant), Some(value)) = (schema.get("const").and_then(Json::as_bool), node.boolean()) {
            if constant != value {
                let message = format!("`{}` is {value}", self.shown());
                self.fail(Code::UnknownValue, node.span, message, format!("expected {constant}"), None);
            }
            return;
        }
        let names = schema.get("enum").and_then(Json::as_array).cloned();
        let names = names.or_else(|| schema.get("const").map(|constant| vec![constant.clone()]));
        let names: Option<Vec<String>> =
            names.map(|names| names.iter().filter_map(Json::as_str).map(str::to_owned).collect());
        if let Some(names) = names {
            self.check_name(&names.iter().map(String::as_str).collect::<Vec<_>>(), node);
        }
    }

    /// Checks that a value is one of `names`.
    fn check_name(&mut self, names: &[&str], node: &Node) {
        let listed: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let label = match listed.len() {
            1 => format!("expected {}", listed[0]),
            _ => format!("expected one of {}", listed.join(", ")),
        };
        match node.text() {
            Some(text) if names.contains(&text) => {}
            Some(text) => {
                let message = format!("`{}` is {}", self.shown(), formats::quote(text));
                let alias = text.parse::<Arch>().ok().and_then(|arch| names.iter().find(|name| **name == arch.name()));
                let hint = alias.copied().or_else(|| suggest::nearest(text, names.iter().copied()));
                let hint = hint.map(|near| format!("did you mean \"{near}\"?"));
                self.fail(Code::UnknownValue, node.span, message, label, hint);
            }
            None => {
                let message = format!("`{}` is {}", self.shown(), node.kind());
                self.fail(Code::WrongType, node.span, message, label, None);
            }
        }
    }
}

/// Returns `oneOf` or `anyOf`.
fn alternatives(schema: &Map<String, Json>) -> Option<&[Json]> {
    let branches = schema.get("oneOf").or_else(|| schema.get("anyOf"))?;
    branches.as_array().map(Vec::as_slice)
}

/// Returns the property that is a constant in every branch.
fn tag_of(branches: &[Json]) -> Option<&str> {
    let constant = |branch: &Json, name: &str| branch["properties"][name].get("const").is_some();
    let names = branches.first()?["properties"].as_object()?.keys();
    names.map(String::as_str).find(|name| branches.iter().all(|branch| constant(branch, name)))
}

/// Returns the smallest and the largest integer that a schema admits.
fn integer_range(schema: &Map<String, Json>) -> (i64, i64) {
    let bound =
        |keyword: &str| schema.get(keyword).and_then(|bound| bound.as_i64().or(bound.as_f64().map(|f| f as i64)));
    let (low, high) = match schema.get("format").and_then(Json::as_str) {
        Some("uint8") => (0, i64::from(u8::MAX)),
        Some("uint16") => (0, i64::from(u16::MAX)),
        Some("uint32") => (0, i64::from(u32::MAX)),
        Some("uint64" | "uint" | "ksos-size") => (0, i64::MAX),
        Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    (bound("minimum").unwrap_or(low).max(low), bound("maximum").unwrap_or(high).min(high))
}

fn type_matches(expected: &Json, node: &Node) -> bool {
    let matches = |name: &str| match name {
        "string" => node.text().is_some(),
        "integer" => node.integer().is_some(),
        "number" => matches!(node.value, Value::Integer(_) | Value::Float(_)),
        "boolean" => node.boolean().is_some(),
        "array" => matches!(node.value, Value::Array(_)),
        "object" => node.table().is_some(),
        _ => false,
    };
    match expected {
        Json::String(name) => matches(name),
        Json::Array(names) => names.iter().filter_map(Json::as_str).any(matches),
        _ => true,
    }
}

fn type_words(expected: &Json) -> String {
    let word = |name: &str| match name {
        "string" => "a string",
        "integer" => "an integer",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a table",
        _ => "a value",
    };
    match expected {
        Json::String(name) => word(name).to_owned(),
        Json::Array(names) => names.iter().filter_map(Json::as_str).map(word).collect::<Vec<_>>().join(" or "),
        _ => "a value".to_owned(),
    }
}

/// Returns a path of keys as TOML writes it; items of lists are `[]`.
pub(super) fn shown_path(keys: &[String]) -> String {
    let mut path = String::new();
    for key in keys {
        let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        match key.as_str() {
            "*" => path.push_str("[]"),
            _ => {
                path.push_str(if path.is_empty() { "" } else { "." });
                path.push_str(&if bare { key.clone() } else { formats::quote(key) });
            }
        }
    }
    path
}

fn list_of(names: &[&str]) -> Option<String> {
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    (1..=MAX_LISTED).contains(&names.len()).then(|| format!("keys: {}", names.join(", ")))
}

fn first_sentence(text: &str) -> String {
    let text = text.replace('\n', " ");
    text.split(". ").next().unwrap_or_default().trim_end_matches('.').to_owned()
}
