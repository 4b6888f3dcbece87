//! Reads a manifest and the files it extends, each once, in the order in which they are merged.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::{Code, Diagnostics, SourceFile, Span};
use super::files::Files;
use super::node::{self, Entry, Node, Value};
use crate::effects::fs::FsError;

/// Largest manifest file in bytes.
pub const MAX_FILE_SIZE: u64 = 1 << 20;
/// Largest number of manifest files that one image is made of.
pub const MAX_FILES: usize = 64;

/// Reads files depth first: what a file extends comes before it. A file that is reached twice has its first place
/// only; otherwise a base that two files share would undo what the first of them changed.
pub(super) struct Loader<'a> {
    files: &'a dyn Files,
    diagnostics: &'a mut Diagnostics,
    /// The documents, base first; each is the document of the file that its span names.
    pub(super) layers: Vec<Node>,
    stack: Vec<PathBuf>,
    /// Whether something that the image is made of could not be read.
    pub(super) incomplete: bool,
}

impl<'a> Loader<'a> {
    pub(super) fn new(files: &'a dyn Files, diagnostics: &'a mut Diagnostics) -> Self {
        Loader { files, diagnostics, layers: Vec::new(), stack: Vec::new(), incomplete: false }
    }

    /// Reads `path`, shown as `shown`, and before it what it extends. `from` is the string that names it.
    pub(super) fn load(&mut self, shown: &Path, path: &Path, from: Option<Span>) {
        if self.stack.iter().any(|open| open == path) {
            let chain: Vec<String> = self.stack.iter().map(|open| file_name(open)).collect();
            let message = format!("{} extends itself: {} -> {0}", file_name(path), chain.join(" -> "));
            return self.fail(Code::ExtendsCycle, from, message, "closes the cycle");
        }
        if self.diagnostics.sources.iter().any(|source| source.path == path) {
            return;
        }
        if self.diagnostics.sources.len() >= MAX_FILES {
            let message = format!("more than {MAX_FILES} manifest files");
            return self.fail(Code::ExtendsLimit, from, message, "one too many");
        }
        let bytes = match self.files.read(path, MAX_FILE_SIZE) {
            Ok(bytes) => bytes,
            Err(error) => return self.unreadable(shown, from, &error),
        };
        let Some(document) = self.parse(shown, path, bytes) else {
            self.incomplete = true;
            return;
        };
        self.stack.push(path.to_owned());
        for (text, span) in extends(&document) {
            let directory = |path: &Path| path.parent().unwrap_or(Path::new("")).to_owned();
            let shown = normalize(&directory(shown).join(&text));
            let path = normalize(&directory(path).join(&text));
            self.load(&shown, &path, Some(span));
        }
        self.stack.pop();
        self.layers.push(document);
    }

    /// Returns the document, or nothing when it has a syntax error: what could be read of it would be reported for
    /// what is missing.
    fn parse(&mut self, shown: &Path, path: &Path, bytes: Vec<u8>) -> Option<Node> {
        let file = self.diagnostics.sources.len();
        let (text, invalid) = match String::from_utf8(bytes) {
            Ok(text) => (text, None),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                (String::from_utf8_lossy(error.as_bytes()).into_owned(), Some(at))
            }
        };
        // TOML 1.0, "Spec": "A TOML file must be a valid UTF-8 encoded Unicode document." A byte order mark is
        // skipped by the parser.
        let source = SourceFile { shown: shown.to_owned(), path: path.to_owned(), text };
        self.diagnostics.sources.push(Arc::new(source));
        if let Some(at) = invalid {
            let span = Span { file, start: at, end: at + '\u{fffd}'.len_utf8() };
            self.diagnostics.error(Code::NotUtf8, span, "the file is not UTF-8", "not a character in UTF-8");
            return None;
        }
        let source = self.diagnostics.sources[file].clone();
        node::parse(file, &source.text, self.diagnostics)
    }

    fn unreadable(&mut self, shown: &Path, from: Option<Span>, error: &FsError) {
        let reason = &error.source;
        if reason.kind() == std::io::ErrorKind::FileTooLarge {
            let message = format!("{} is larger than {MAX_FILE_SIZE} bytes", shown.display());
            return self.fail(Code::TooLarge, from, message, "too large for a manifest");
        }
        let message = format!("{} cannot be read: {reason}", shown.display());
        self.fail(Code::Unreadable, from, message, "relative to the directory of this file");
    }

    fn fail(&mut self, code: Code, from: Option<Span>, message: String, label: &str) {
        self.incomplete = true;
        match from {
            Some(span) => {
                self.diagnostics.error(code, span, message, label);
            }
            None => self.diagnostics.unplaced(code, message),
        }
    }
}

/// Returns the strings of `extends`, with their places. What is no string is for the validator.
fn extends(document: &Node) -> Vec<(String, Span)> {
    let Some(node) = document.get("extends") else { return Vec::new() };
    let single = node.text().map(|text| (text.to_owned(), node.span));
    single.into_iter().chain(node.texts().map(|(text, span)| (text.to_owned(), span))).collect()
}

/// Takes `extends` and the `[arch.*]` overlays out of a document.
pub(super) fn split(mut document: Node) -> (Node, Option<Entry>) {
    let Value::Table(table) = &mut document.value else { return (document, None) };
    table.remove("extends");
    let arch = table.remove("arch");
    (document, arch)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Removes `.` and resolves `name/..` without looking at the file system.
pub(super) fn normalize(path: &Path) -> PathBuf {
    let mut parts: Vec<Component<'_>> = Vec::new();
    for part in path.components() {
        match (part, parts.last()) {
            (Component::CurDir, _) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => drop(parts.pop()),
            (Component::ParentDir, Some(Component::RootDir)) => {}
            _ => parts.push(part),
        }
    }
    match parts.is_empty() {
        true => PathBuf::from("."),
        false => parts.iter().collect(),
    }
}
