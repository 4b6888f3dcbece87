//! What a schema cannot say: names that must be defined, values that must fit each other, paths that must exist.
//!
//! The checks read the merged tree, not the types, so that they run (and know every place) also when something else
//! is wrong; what is missing or of the wrong type was reported before and is skipped.

mod cache;
mod components;
mod disk;
mod kernel;
mod paths;
mod services;
mod update;
mod users;

use super::check::{HostPathUse, suggest};
use super::diagnostic::{Code, Diagnostic, Diagnostics, Span};
use super::files::Files;
use super::merge::{Disabled, SECTIONS};
use super::node::{Node, Value};

/// Checks the meaning of a merged manifest.
pub(super) fn check(
    tree: &Node,
    disabled: &Disabled,
    host_paths: &[HostPathUse],
    files: &dyn Files,
    diagnostics: &mut Diagnostics,
) {
    let mut context = Context { tree, disabled, diagnostics };
    components::check(&mut context);
    services::check(&mut context);
    services::check_container_images(&mut context);
    kernel::check(&mut context);
    disk::check_partitions(&mut context);
    disk::check_root(&mut context);
    disk::check_budgets(&mut context);
    users::check(&mut context);
    paths::check_image_paths(&mut context);
    paths::check_host_paths(&mut context, host_paths, files);
    update::check(&mut context, files);
    cache::check(&mut context, files);
}

/// What the checks read and where they report.
struct Context<'a> {
    tree: &'a Node,
    disabled: &'a Disabled,
    diagnostics: &'a mut Diagnostics,
}

impl<'a> Context<'a> {
    /// Adds an error.
    fn error(&mut self, code: Code, span: Span, message: String, label: impl Into<String>) -> &mut Diagnostic {
        self.diagnostics.error(code, span, message, label)
    }

    /// Adds a warning.
    fn warning(&mut self, code: Code, span: Span, message: String, label: impl Into<String>) -> &mut Diagnostic {
        self.diagnostics.warning(code, span, message, label)
    }

    /// Adds an error about `span` that is only one together with `other`.
    fn clash(&mut self, code: Code, span: Span, message: String, label: &str, other: (Span, &str)) {
        let place = self.diagnostics.place(other.0);
        self.error(code, span, message, label).other = Some((place, other.1.to_owned()));
    }

    /// Reports `name` when section `section` has no such entry.
    fn reference(&mut self, section: &'static str, name: &str, span: Span) {
        if self.diagnostics.has_error_at(span) || self.tree.at(&[section, name]).is_some() {
            return;
        }
        let word = SECTIONS.iter().find(|(known, _)| *known == section).map_or(section, |(_, word)| word);
        if let Some(disabled) = self.disabled.get(&(section, name.to_owned())) {
            let message = format!("{word} `{name}` is disabled");
            return self.clash(Code::DisabledReference, span, message, "needed here", (*disabled, "disabled here"));
        }
        let names: Vec<&str> = self.tree.entries(section).map(|(name, _)| name.as_str()).collect();
        let near = suggest::nearest(name, names.iter().copied()).map(|near| format!("did you mean \"{near}\"?"));
        let hint = near
            .or_else(|| Some(names.join(", ")).filter(|list| !list.is_empty()).map(|list| format!("defined: {list}")));
        let label = format!("expected the name of a table below [{section}]");
        self.error(Code::UnknownReference, span, format!("there is no {word} `{name}`"), label).hint = hint;
    }

    /// Warns about strings that are twice in a list.
    fn repeated(&mut self, list: Option<&Node>, path: &str) {
        let mut seen = std::collections::BTreeMap::new();
        for (text, span) in list.into_iter().flat_map(Node::texts) {
            let Some(first) = seen.insert(text, span) else { continue };
            seen.insert(text, first);
            let place = self.diagnostics.place(first);
            let warning = self.warning(Code::Duplicate, span, format!("\"{text}\" is in `{path}` twice"), "again");
            warning.other = Some((place, "first here".to_owned()));
        }
    }
}

/// Returns the number of bytes of a size, in either form.
fn size_of(node: &Node) -> Option<u64> {
    match &node.value {
        Value::Integer(bytes) => u64::try_from(*bytes).ok(),
        Value::String(text) => text.parse::<super::types::Size>().ok().map(super::types::Size::bytes),
        _ => None,
    }
}
