//! YAML as a tree with places, on top of the event parser.
//!
//! A scalar keeps the text that was written and whether it was quoted, because what a YAML reader guesses from plain
//! text (`0644`, `on`, `1e3`) is decided here by the key that it stands for. Limits: nesting, and what aliases may
//! expand to. YAML 1.2.2 (<https://yaml.org/spec/1.2.2/>), and merge keys of YAML 1.1 (`<<`).

use std::collections::BTreeMap;

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::diagnostic::{Diagnostic, Place};

/// Collections inside each other.
const NESTING_LIMIT: usize = 32;
/// What aliases may expand to: bytes of text, and [`NODE_WEIGHT`] for each node.
const EXPANSION_LIMIT: usize = 4 << 20;
/// What a node weighs beside its text.
const NODE_WEIGHT: usize = 64;

/// A value of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) value: NodeValue,
    pub(super) place: Place,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NodeValue {
    /// Text; plain when it stands without quotes.
    Scalar { text: String, plain: bool },
    /// A list.
    Sequence(Vec<Node>),
    /// Keys and values in their order, each key once.
    Mapping(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Node,
}

impl Node {
    /// Tells whether nothing stands there, or `null` (YAML 1.2.2, section 10.3.2).
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, NodeValue::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Returns the entries of a mapping.
    pub(super) fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            NodeValue::Mapping(entries) => Some(entries),
            _ => None,
        }
    }

    fn into_texts(self) -> serde_json::Value {
        if self.is_null() {
            return serde_json::Value::Null;
        }
        match self.value {
            NodeValue::Scalar { text, plain: true } if text == "true" || text == "false" => (text == "true").into(),
            NodeValue::Scalar { text, .. } => text.into(),
            NodeValue::Sequence(items) => items.into_iter().map(Node::into_texts).collect(),
            NodeValue::Mapping(entries) => {
                entries.into_iter().map(|entry| (entry.key, entry.value.into_texts())).collect()
            }
        }
    }

    fn weight(&self) -> usize {
        NODE_WEIGHT
            + match &self.value {
                NodeValue::Scalar { text, .. } => text.len(),
                NodeValue::Sequence(items) => items.iter().map(Node::weight).sum(),
                NodeValue::Mapping(entries) => entries.iter().map(|entry| entry.key.len() + entry.value.weight()).sum(),
            }
    }
}

/// Reads a document of another program's format whose scalars are all text, such as a kubeconfig: Booleans and null are
/// what they are, everything else that is no list or mapping is a string.
///
/// # Errors
/// What is no YAML, or more than the limits allow. Messages may quote the text.
pub fn read_texts(text: &str) -> Result<serde_json::Value, Vec<Diagnostic>> {
    Ok(parse(text)?.map_or(serde_json::Value::Null, Node::into_texts))
}

/// Parses a text of one document; `None` when it holds nothing.
///
/// # Errors
/// The syntax error, at which reading ends, after the duplicate keys and other faults before it.
pub(super) fn parse(text: &str) -> Result<Option<Node>, Vec<Diagnostic>> {
    let options = granit_parser::options! {
        emit_comments: false,
        disallow_directives: true,
        flow_nesting_limit: NESTING_LIMIT,
        block_nesting_limit: NESTING_LIMIT,
    };
    let parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder { parser, anchors: BTreeMap::new(), expanded: 0, faults: Vec::new() };
    let root = builder.document();
    let mut faults = builder.faults;
    match root {
        Ok(root) if faults.is_empty() => Ok(root),
        Ok(_) => Err(faults),
        Err(fault) => {
            faults.push(*fault);
            Err(faults)
        }
    }
}

fn place(span: Span) -> Place {
    let length = span.end.index().saturating_sub(span.start.index());
    Place { length: (span.start.line() == span.end.line()).then_some(length), ..at(&span.start) }
}

fn at(marker: &Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1, length: None }
}

fn syntax(error: &ScanError) -> Box<Diagnostic> {
    let fault = Diagnostic::new(at(error.marker()), format!("not valid YAML: {}", error.info()));
    Box::new(match error.kind() {
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation => fault.hint("indent with spaces, not with tabs"),
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey | ErrorKind::MappingValueNotAllowed => {
            fault.hint("a key is followed by a colon and a space, and keys that belong together begin in one column")
        }
        ErrorKind::DirectiveDisallowed => fault.hint("lines that begin with % are directives of YAML, and not taken"),
        _ => fault,
    })
}

type Fallible<T> = Result<T, Box<Diagnostic>>;

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: BTreeMap<usize, Node>,
    expanded: usize,
    faults: Vec<Diagnostic>,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Fallible<(Event<'a>, Span)> {
        match self.parser.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Fallible<Option<Node>> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(Box::new(Diagnostic::new(place(span), "a second document begins; one is expected")));
                }
                Event::DocumentStart(..) => {}
                event => root = Some(self.node(event, span)?).filter(|node| !node.is_null()),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Fallible<Node> {
        let place = place(span);
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !self.is_text(tag.as_deref(), place);
                (NodeValue::Scalar { text: text.into_owned(), plain }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.is_text(tag.as_deref(), place);
                (NodeValue::Sequence(self.items()?), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.is_text(tag.as_deref(), place);
                (NodeValue::Mapping(self.entries()?), anchor)
            }
            Event::Alias(anchor) => return self.alias(anchor, place),
            _ => return Err(Box::new(Diagnostic::new(place, "not valid YAML: a value is expected"))),
        };
        let node = Node { value, place };
        if anchor != 0 {
            self.expand(&node, place)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// Tells whether a tag makes a scalar a text; a tag of another kind is a fault.
    fn is_text(&mut self, tag: Option<&Tag>, place: Place) -> bool {
        match tag.map(Tag::core_suffix) {
            None | Some(Some("map" | "seq")) => false,
            Some(Some("str")) => true,
            Some(_) => {
                self.faults.push(Diagnostic::new(place, "tags other than !!str are not supported"));
                true
            }
        }
    }

    fn items(&mut self) -> Fallible<Vec<Node>> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span)?),
            }
        }
    }

    fn entries(&mut self) -> Fallible<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut lines: BTreeMap<String, usize> = BTreeMap::new();
        let mut merged = Vec::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => break,
                (event, span) => self.node(event, span)?,
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span)?;
            let place = key.place;
            let NodeValue::Scalar { text, plain } = key.value else {
                self.faults.push(Diagnostic::new(place, "a key must be a text"));
                continue;
            };
            if plain && text == "<<" {
                merged.push(value);
            } else if let Some(first) = lines.get(&text) {
                let message = format!("the key {} is stated twice, first in line {first}", shown(&text));
                self.faults.push(Diagnostic::new(place, message));
            } else {
                lines.insert(text.clone(), place.line);
                entries.push(Entry { key: text, place, value });
            }
        }
        merged.into_iter().for_each(|value| self.merge(&mut entries, &mut lines, value));
        Ok(entries)
    }

    /// Adds the entries of a merge key's value that are not stated (<https://yaml.org/type/merge.html>).
    fn merge(&mut self, entries: &mut Vec<Entry>, lines: &mut BTreeMap<String, usize>, value: Node) {
        match value.value {
            NodeValue::Sequence(items) => items.into_iter().for_each(|item| self.merge(entries, lines, item)),
            NodeValue::Mapping(others) => {
                for entry in others {
                    if lines.insert(entry.key.clone(), entry.place.line).is_none() {
                        entries.push(entry);
                    }
                }
            }
            NodeValue::Scalar { .. } => {
                self.faults.push(Diagnostic::new(value.place, "<< merges mappings, and this is none"));
            }
        }
    }

    /// Returns a copy of what an anchor names, at the place of the alias.
    fn alias(&mut self, anchor: usize, place: Place) -> Fallible<Node> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return Err(Box::new(Diagnostic::new(place, "the alias is inside of what it stands for")));
        };
        self.expand(&node, place)?;
        Ok(node)
    }

    fn expand(&mut self, node: &Node, place: Place) -> Fallible<()> {
        self.expanded = self.expanded.saturating_add(node.weight());
        if self.expanded <= EXPANSION_LIMIT {
            return Ok(());
        }
        Err(Box::new(Diagnostic::new(place, format!("aliases expand to more than {EXPANSION_LIMIT} bytes"))))
    }
}

/// Returns a text as it is shown in a message: escaped, and cut when it is long.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 48;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push_str("...");
    }
    format!("\"{shown}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        parse(text).expect_err("it is not valid").iter().map(ToString::to_string).collect()
    }

    fn scalar(node: &Node, key: &str) -> (String, bool) {
        let entry = node.entries().unwrap().iter().find(|entry| entry.key == key).expect("the key");
        match &entry.value.value {
            NodeValue::Scalar { text, plain } => (text.clone(), *plain),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn places_count_from_one_and_in_characters() {
        let root = parse("# one\nä: 'ö'\nnested:\n  - x\n  -   yes\n").unwrap().unwrap();
        let entries = root.entries().unwrap();
        assert_eq!(entries[0].place, Place { line: 2, column: 1, length: Some(1) });
        assert_eq!(entries[0].value.place, Place { line: 2, column: 4, length: Some(3) });
        let NodeValue::Sequence(items) = &entries[1].value.value else { panic!("a list") };
        assert_eq!(items[1].place, Place { line: 5, column: 7, length: Some(3) });
    }

    #[test]
    fn scalars_keep_their_text_and_quotes() {
        let root = parse("a: 0644\nb: \"0644\"\nc: |\n  one\n  two\nd: !!str on\ne: ~\nf:\n").unwrap().unwrap();
        assert_eq!(scalar(&root, "a"), ("0644".to_owned(), true));
        assert_eq!(scalar(&root, "b"), ("0644".to_owned(), false));
        assert_eq!(scalar(&root, "c"), ("one\ntwo\n".to_owned(), false));
        assert_eq!(scalar(&root, "d"), ("on".to_owned(), false));
        assert!(root.entries().unwrap()[4].value.is_null() && root.entries().unwrap()[5].value.is_null());
    }

    #[test]
    fn nothing_is_no_document() {
        for text in ["", "# only a comment\n", "---\n", "---\n...\n", "null\n", "\u{feff}"] {
            assert_eq!(parse(text), Ok(None), "{text:?}");
        }
    }

    #[test]
    fn anchors_and_merge_keys_are_followed() {
        let text = "base: &b {x: 1, y: 2}\nuse:\n  y: 3\n  <<: *b\nlist: [*b]\n";
        let root = parse(text).unwrap().unwrap();
        let used = &root.entries().unwrap()[1].value;
        assert_eq!((scalar(used, "x").0.as_str(), scalar(used, "y").0.as_str()), ("1", "3"));
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
        for level in 1..24 {
            let alias = format!("*a{},", level - 1).repeat(9);
            text.push_str(&format!("a{level}: &a{level} [{alias}]\n"));
        }
        assert!(faults(&text)[0].contains("aliases expand to more than"), "{:?}", faults(&text));
        assert!(faults("a: &a [*a]\n")[0].contains("inside of what it stands for"));
        assert!(faults("a: *nowhere\n")[0].contains("unknown anchor"));
    }

    #[test]
    fn deep_nesting_is_refused() {
        for text in [format!("a: {}", "[".repeat(100_000)), "- ".repeat(100_000), format!("{}x", "{a: ".repeat(5000))] {
            assert!(!faults(&text).is_empty());
        }
    }

    #[test]
    fn every_duplicate_key_is_named_with_its_place() {
        let found = faults("a: 1\nb: {c: 1, c: 2}\na: 3\n");
        assert_eq!(
            found,
            [
                "line 2, column 11: the key \"c\" is stated twice, first in line 2",
                "line 3, column 1: the key \"a\" is stated twice, first in line 1",
            ]
        );
    }

    #[test]
    fn faults_of_the_syntax_have_a_place() {
        for (text, expected) in [
            ("a: [1, 2\nb: 3\n", "line 2"),
            ("a:\n\tb: 1\n", "tab"),
            ("hostname:edge\nb: 1\n", "a colon and a space"),
            ("a: 1\n---\nb: 2\n", "a second document"),
            ("? [a]\n: 1\n", "a key must be a text"),
            ("a: !!python/object:os.system x\n", "tags other than !!str"),
            ("%TAG ! tag:x,2000:\n---\na: 1\n", "directives"),
            ("<<: 5\n", "merges mappings"),
        ] {
            assert!(faults(text).iter().any(|fault| fault.contains(expected)), "{text:?}: {:?}", faults(text));
        }
    }
}
