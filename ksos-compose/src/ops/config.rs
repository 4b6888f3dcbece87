//! `check --config`: a node's configuration, by the code that the node uses, and its JSON Schema.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ksos_formats::config::{self, DOCUMENT_LIMIT, Document};
use serde_json::json;

use crate::effects::fs;
use crate::manifest::{Code, Diagnostic, Errors, Place, Severity, SourceFile};

/// Keys whose values are not shown, also not in the line that an error is in.
const SECRET_KEYS: &[&str] = &["portainer-edge-key", "token", "password", "proxy"];

/// What was found in one file.
#[derive(Debug)]
pub struct CheckedConfig {
    /// The file.
    pub path: PathBuf,
    /// Errors and warnings.
    pub found: Errors,
}

impl CheckedConfig {
    /// Tells whether the node would refuse it.
    pub fn is_bad(&self) -> bool {
        self.found.count() > 0
    }

    /// Returns the object that `--json` prints.
    pub fn to_json(&self) -> serde_json::Value {
        json!({ "config": self.path, "ok": !self.is_bad(), "diagnostics": self.found.to_json() })
    }
}

/// Returns the JSON Schema as the text that is published: `docs/schema/config.schema.json`, byte for byte.
pub fn schema_text() -> String {
    format!("{:#}\n", config::json_schema())
}

/// Checks files: `network-config` and `meta-data` by their names, everything else as the document itself.
pub fn check(paths: &[PathBuf]) -> Vec<CheckedConfig> {
    paths
        .iter()
        .map(|path| CheckedConfig { path: path.clone(), found: Errors { diagnostics: diagnostics(path) } })
        .collect()
}

fn diagnostics(path: &Path) -> Vec<Diagnostic> {
    match fs::read(path, DOCUMENT_LIMIT as u64) {
        Ok(bytes) => check_bytes(path, &bytes),
        Err(error) => {
            let code = match error.source.kind() {
                io::ErrorKind::FileTooLarge => Code::TooLarge,
                _ => Code::Unreadable,
            };
            vec![unplaced(Severity::Error, code, error.to_string())]
        }
    }
}

fn check_bytes(path: &Path, bytes: &[u8]) -> Vec<Diagnostic> {
    let text = String::from_utf8_lossy(bytes);
    let source = SourceFile { shown: path.to_owned(), path: path.to_owned(), text: masked(&text) };
    let source = Arc::new(source);
    let placed = |severity| {
        let source = source.clone();
        move |found: &config::Diagnostic| placed(&source, severity, found)
    };
    let name = path.file_name().and_then(|name| name.to_str());
    let parsed = config::document_text(bytes).and_then(|text| match name {
        Some("network-config") => Ok((config::parse_network_config(text)?.warnings, Vec::new())),
        Some("meta-data") => config::parse_meta_data(text).map(|_| (Vec::new(), Vec::new())),
        _ => {
            let parsed = config::parse_document(text)?;
            let merged = config::resolve(None, Some(&parsed.document), None, &Document::default());
            Ok((parsed.warnings, merged.warnings))
        }
    });
    match parsed {
        Err(errors) => errors.iter().map(placed(Severity::Error)).collect(),
        Ok((warnings, whole)) => {
            let of_whole =
                |text: String| unplaced(Severity::Warning, Code::Configuration, format!("{}: {text}", path.display()));
            warnings.iter().map(placed(Severity::Warning)).chain(whole.into_iter().map(of_whole)).collect()
        }
    }
}

fn unplaced(severity: Severity, code: Code, message: String) -> Diagnostic {
    Diagnostic { code, severity, message, label: String::new(), hint: None, place: None, other: None }
}

fn placed(source: &Arc<SourceFile>, severity: Severity, found: &config::Diagnostic) -> Diagnostic {
    let range = range(&source.text, found.line, found.column, found.length.unwrap_or(0));
    let place = Place { source: source.clone(), range };
    let (message, hint) = (found.message.clone(), found.hint.clone());
    let code = Code::Configuration;
    Diagnostic { code, severity, message, label: String::new(), hint, place: Some(place), other: None }
}

/// Returns the bytes of a place that is stated in lines and characters, both from 1.
fn range(text: &str, line: usize, column: usize, length: usize) -> std::ops::Range<usize> {
    let lines = text.split_inclusive('\n');
    let start: usize = lines.clone().take(line.saturating_sub(1)).map(str::len).sum();
    let content = lines.clone().nth(line.saturating_sub(1)).unwrap_or_default().trim_end_matches(['\n', '\r']);
    let byte = |count: usize| content.char_indices().nth(count).map_or(content.len(), |(index, _)| index);
    let first = column.saturating_sub(1);
    start + byte(first)..start + byte(first + length)
}

/// Replaces the values of secret keys by asterisks, one for each character, so that places stay.
fn masked(text: &str) -> String {
    let mut inside: Option<usize> = None;
    let mut masked = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start_matches([' ', '-']).len();
        // A value that goes on in the lines below is indented more than its key.
        if inside.is_some_and(|key| !line.trim().is_empty() && indent <= key) {
            inside = None;
        }
        let start = if inside.is_some() { Some(0) } else { secret_start(line) };
        if start.is_some() && inside.is_none() {
            inside = Some(indent);
        }
        let (open, secret) = line.split_at(start.unwrap_or(line.len()));
        masked.push_str(open);
        masked.extend(secret.chars().map(|char| if char.is_whitespace() { char } else { '*' }));
    }
    masked
}

/// Returns where the value of the first secret key of a line begins.
fn secret_start(line: &str) -> Option<usize> {
    let after = |key: &&str| {
        line.match_indices(*key).find_map(|(index, _)| {
            let rest = &line[index + key.len()..];
            let colon = rest.trim_start_matches(['"', '\'', ' ']).starts_with(':');
            colon.then(|| index + key.len() + rest.find(':').unwrap_or(0) + 1)
        })
    };
    SECRET_KEYS.iter().filter_map(after).min()
}

#[cfg(test)]
mod tests;
