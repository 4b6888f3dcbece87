//! What is wrong with a manifest, and where: collected, then rendered as a report with the line and a caret, or as
//! JSON.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, SourceCode, SourceSpan,
    SpanContents,
};
use serde::Serialize;

/// A manifest file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The path as it is shown: relative when the path on the command line is.
    pub shown: PathBuf,
    /// The absolute path.
    pub path: PathBuf,
    /// Its content; invalid UTF-8 replaced.
    pub text: String,
}

/// A range of bytes in one of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Span {
    /// Index into [`Diagnostics::sources`].
    pub(super) file: usize,
    /// First byte.
    pub(super) start: usize,
    /// One past the last byte.
    pub(super) end: usize,
}

/// Kind of a diagnostic: stable names for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// A manifest file cannot be read.
    Unreadable,
    /// A manifest file is larger than the limit.
    TooLarge,
    /// A manifest file is not UTF-8.
    NotUtf8,
    /// A manifest file is not TOML.
    Syntax,
    /// A manifest file extends itself, directly or through others.
    ExtendsCycle,
    /// More manifest files than the limit.
    ExtendsLimit,
    /// `add` or `remove` do not fit the inherited list.
    ListChange,
    /// A key that does not exist.
    UnknownKey,
    /// A required key is not there.
    MissingKey,
    /// A value of another type than expected.
    WrongType,
    /// A value that is none of those that can be chosen.
    UnknownValue,
    /// A number or a length outside its range.
    OutOfRange,
    /// A text that is not in the expected form.
    InvalidValue,
    /// Keys that exclude each other, or none of those of which one is needed.
    Conflict,
    /// A name that is not defined in the manifest.
    UnknownReference,
    /// A name of something that is disabled.
    DisabledReference,
    /// The same thing stated twice.
    Duplicate,
    /// Services that wait for each other.
    ServiceCycle,
    /// A partition layout that cannot work.
    PartitionLayout,
    /// A path on the build host that does not exist or is of another kind.
    PathNotFound,
    /// A kernel parameter that the boot loader or the runtime sets, or that does nothing.
    KernelParameter,
    /// The manifest passed validation and its types refuse it.
    Internal,
    /// A node's configuration is not as it should be.
    Configuration,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The manifest cannot be used.
    Error,
    /// The manifest can be used.
    Warning,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub source: Arc<SourceFile>,
    /// The bytes of it.
    pub range: Range<usize>,
}

impl Place {
    /// Returns line and column, both from 1; the column counts characters.
    pub fn line_column(&self) -> (usize, usize) {
        let start = floor_boundary(&self.source.text, self.range.start);
        let before = &self.source.text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (line, column) = self.line_column();
        write!(f, "{}:{line}:{column}", self.source.shown.display())
    }
}

/// Returns the largest character boundary of `text` that is not above `index`.
fn floor_boundary(text: &str, index: usize) -> usize {
    (0..=index.min(text.len())).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(0)
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Kind.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// The fact, in one line.
    pub message: String,
    /// What was expected, shown at the caret.
    pub label: String,
    /// A suggestion.
    pub hint: Option<String>,
    /// Where. `None` when the file named in the message could not be read.
    pub place: Option<Place>,
    /// Another place that matters, with what is there.
    pub other: Option<(Place, String)>,
}

/// JSON form of a diagnostic (`--json`).
#[derive(Debug, Serialize)]
struct JsonDiagnostic<'a> {
    severity: Severity,
    code: Code,
    file: Option<String>,
    line: Option<usize>,
    column: Option<usize>,
    message: &'a str,
    expected: Option<&'a str>,
    hint: Option<&'a str>,
}

/// How a report is drawn. The binary decides (terminal, `NO_COLOR`, locale).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// ANSI colours.
    pub color: bool,
    /// Box-drawing characters.
    pub unicode: bool,
    /// Width in columns.
    pub width: usize,
}

impl Default for Style {
    fn default() -> Self {
        Style { color: false, unicode: true, width: 100 }
    }
}

impl Diagnostic {
    /// Draws the diagnostic: message, `file:line:column`, the line with a caret, and the hint.
    pub fn render(&self, style: Style) -> String {
        let theme = match (style.color, style.unicode) {
            (true, true) => GraphicalTheme::unicode(),
            (true, false) => GraphicalTheme::ascii(),
            (false, true) => GraphicalTheme::unicode_nocolor(),
            (false, false) => GraphicalTheme::none(),
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(style.width.clamp(40, 200))
            .with_context_lines(0)
            .with_links(false);
        let mut text = String::new();
        if handler.render_report(&mut text, &Rendered::new(self)).is_err() {
            text = format!("{self}\n");
        }
        text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    /// Returns the object that `--json` prints.
    pub fn to_json(&self) -> serde_json::Value {
        let position = self.place.as_ref().map(Place::line_column);
        let json = JsonDiagnostic {
            severity: self.severity,
            code: self.code,
            file: self.place.as_ref().map(|place| place.source.shown.display().to_string()),
            line: position.map(|(line, _)| line),
            column: position.map(|(_, column)| column),
            message: &self.message,
            expected: Some(self.label.as_str()).filter(|label| !label.is_empty()),
            hint: self.hint.as_deref(),
        };
        serde_json::to_value(json).expect("strings and numbers are JSON")
    }
}

/// One line: `file:line:column: message`.
impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// The view of a [`Diagnostic`] that miette draws.
#[derive(Debug)]
struct Rendered<'a> {
    diagnostic: &'a Diagnostic,
    source: Option<WholeLines>,
    help: Option<String>,
}

impl<'a> Rendered<'a> {
    fn new(diagnostic: &'a Diagnostic) -> Self {
        let source = diagnostic.place.as_ref().filter(|_| is_drawable(diagnostic)).map(|place| WholeLines {
            name: place.source.shown.display().to_string(),
            // The added line end gives a place at the end of the text a line to be on.
            text: place.source.text.clone() + "\n",
        });
        let elsewhere = diagnostic.other.as_ref().filter(|(other, _)| !same_file(diagnostic.place.as_ref(), other));
        let elsewhere = elsewhere.map(|(other, label)| format!("{label}: {other}"));
        let lines: Vec<String> = diagnostic.hint.iter().cloned().chain(elsewhere).collect();
        Rendered { diagnostic, source, help: Some(lines.join("\n")).filter(|help| !help.is_empty()) }
    }
}

/// Gives miette the lines that a place is in, whole, and no others.
#[derive(Debug)]
struct WholeLines {
    name: String,
    text: String,
}

impl SourceCode for WholeLines {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        _: usize,
        _: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let text = &self.text;
        let first = floor_boundary(text, span.offset());
        let last = floor_boundary(text, span.offset() + span.len()).max(first);
        let start = text[..first].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[last..].find('\n').map_or(text.len(), |newline| last + newline + 1);
        let line = text[..start].matches('\n').count();
        let column = text[start..first].chars().count();
        let count = text[start..end].matches('\n').count();
        let bytes = &text.as_bytes()[start..end];
        let range = (start, end - start).into();
        Ok(Box::new(MietteSpanContents::new_named(self.name.clone(), bytes, range, line, column, count)))
    }
}

fn same_file(place: Option<&Place>, other: &Place) -> bool {
    place.is_some_and(|place| place.source.path == other.source.path)
}

/// Longest line that is drawn; miette cannot format columns above 65535.
const MAX_DRAWN: usize = 1000;

/// Says whether all lines from one place of a diagnostic to the other are short enough to be drawn.
fn is_drawable(diagnostic: &Diagnostic) -> bool {
    let Some(place) = &diagnostic.place else { return false };
    let other = diagnostic.other.as_ref().map(|(other, _)| other).filter(|other| same_file(Some(place), other));
    let starts = [place.range.start, other.unwrap_or(place).range.start];
    let text = &place.source.text;
    let first = floor_boundary(text, starts[0].min(starts[1]));
    let last = floor_boundary(text, starts[0].max(starts[1]));
    let start = text[..first].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[last..].find('\n').map_or(text.len(), |newline| last + newline);
    text[start..end].lines().all(|line| line.len() <= MAX_DRAWN)
}

impl std::fmt::Display for Rendered<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.source, &self.diagnostic.label) {
            (None, label) if !label.is_empty() => write!(f, "{}; {label}", self.diagnostic),
            (None, _) => self.diagnostic.fmt(f),
            (Some(_), _) => f.write_str(&self.diagnostic.message),
        }
    }
}

impl std::error::Error for Rendered<'_> {}

impl miette::Diagnostic for Rendered<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'b>(&'b self) -> Option<Box<dyn std::fmt::Display + 'b>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn std::fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.diagnostic.place.as_ref().filter(|_| self.source.is_some())?;
        let label = Some(self.diagnostic.label.clone()).filter(|label| !label.is_empty());
        let primary = LabeledSpan::new_primary_with_span(label, first_line(place));
        let other = self.diagnostic.other.as_ref().filter(|(other, _)| same_file(Some(place), other));
        let other = other.map(|(other, label)| LabeledSpan::new_with_span(Some(label.clone()), first_line(other)));
        Some(Box::new(std::iter::once(primary).chain(other)))
    }
}

/// Cuts a place to its first line, at character boundaries: a caret under a whole table says nothing.
fn first_line(place: &Place) -> SourceSpan {
    let text = &place.source.text;
    let start = floor_boundary(text, place.range.start);
    let end = floor_boundary(text, place.range.end).max(start);
    let length = text[start..end].split(['\n', '\r']).next().unwrap_or_default().len();
    (start, length).into()
}

/// Everything that is wrong with a manifest, in the order of the files and of the places in them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.summary())]
pub struct Errors {
    /// At least one error; warnings among them.
    pub diagnostics: Vec<Diagnostic>,
}

impl Errors {
    /// Draws all diagnostics, an empty line between two.
    pub fn render(&self, style: Style) -> String {
        let reports: Vec<String> = self.diagnostics.iter().map(|diagnostic| diagnostic.render(style)).collect();
        reports.join("\n")
    }

    /// Returns the array that `--json` prints.
    pub fn to_json(&self) -> serde_json::Value {
        self.diagnostics.iter().map(Diagnostic::to_json).collect()
    }

    /// Returns the number of errors; warnings do not count.
    pub fn count(&self) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }

    fn summary(&self) -> String {
        match (self.count(), self.diagnostics.first()) {
            (1, Some(first)) => first.to_string(),
            (count, Some(first)) => format!("{first} (and {} more)", count.saturating_sub(1)),
            (_, None) => "the manifest is not valid".to_owned(),
        }
    }
}

/// Collects diagnostics while a manifest is read.
#[derive(Debug, Default)]
pub(super) struct Diagnostics {
    /// The files that spans point into.
    pub(super) sources: Vec<Arc<SourceFile>>,
    list: Vec<Diagnostic>,
    spans: std::collections::BTreeSet<Span>,
}

impl Diagnostics {
    /// Adds an error at `span` and returns it for further detail. `label` says what was expected.
    pub(super) fn error(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> &mut Diagnostic {
        self.spans.insert(span);
        self.push(Severity::Error, code, Some(span), message.into(), label.into())
    }

    /// Adds a warning at `span`.
    pub(super) fn warning(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> &mut Diagnostic {
        self.push(Severity::Warning, code, Some(span), message.into(), label.into())
    }

    /// Adds an error about the first file, which could not be read.
    pub(super) fn unplaced(&mut self, code: Code, message: String) {
        self.push(Severity::Error, code, None, message, String::new());
    }

    fn push(
        &mut self,
        severity: Severity,
        code: Code,
        span: Option<Span>,
        message: String,
        label: String,
    ) -> &mut Diagnostic {
        let place = span.map(|span| self.place(span));
        self.list.push(Diagnostic { code, severity, message, label, hint: None, place, other: None });
        self.list.last_mut().expect("one was pushed")
    }

    /// Returns the place of a span.
    pub(super) fn place(&self, span: Span) -> Place {
        Place { source: self.sources[span.file].clone(), range: span.start..span.end }
    }

    /// Returns the text of a span as it stands in its file.
    pub(super) fn raw(&self, span: Span) -> &str {
        self.sources[span.file].text.get(span.start..span.end).unwrap_or_default()
    }

    /// Says whether there is an error at exactly this place already.
    pub(super) fn has_error_at(&self, span: Span) -> bool {
        self.spans.contains(&span)
    }

    /// Says whether there is an error at a place or inside it.
    pub(super) fn has_error_within(&self, span: Span) -> bool {
        let from = Span { end: 0, ..span };
        let inside = |found: &&Span| found.file == span.file && found.start <= span.end;
        self.spans.range(from..).take_while(inside).any(|found| found.end <= span.end)
    }

    /// Says whether there is any error.
    pub(super) fn has_errors(&self) -> bool {
        self.list.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Returns the directory of a file, to resolve paths in it.
    pub(super) fn directory(&self, file: usize) -> &Path {
        self.sources[file].path.parent().unwrap_or(Path::new("/"))
    }

    /// Returns all diagnostics in the order of the files and of the places in them, each once.
    pub(super) fn finish(mut self) -> Vec<Diagnostic> {
        let index = |place: &Place| self.sources.iter().position(|source| Arc::ptr_eq(source, &place.source));
        let key = |diagnostic: &Diagnostic| {
            diagnostic.place.as_ref().map(|place| (index(place), place.range.start, place.range.end))
        };
        self.list.sort_by_cached_key(key);
        self.list.dedup();
        self.list
    }
}
