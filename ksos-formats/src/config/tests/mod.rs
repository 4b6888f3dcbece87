//! Tests of the configuration.

mod documents;
mod hostile;
mod kubesolo;
mod networks;
mod sources;
mod updates;

use super::*;

/// Parses a document that must be good and have no warnings.
#[track_caller]
fn good(text: &str) -> Document {
    match parse_document(text) {
        Ok(Parsed { document, warnings }) => {
            assert_eq!(warnings, [], "{text}");
            document
        }
        Err(errors) => panic!("{text}\n{errors:#?}"),
    }
}

/// Returns the errors of a document that must be bad, one line each.
#[track_caller]
fn errors(text: &str) -> Vec<String> {
    match parse_document(text) {
        Ok(parsed) => panic!("{text}\nis good: {parsed:?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// Returns the effective network of a document alone.
fn network_of(text: &str) -> Network {
    let resolved = resolve(None, Some(&good(text)), None, &Document::default());
    assert_eq!(resolved.warnings, Vec::<String>::new());
    resolved.config.network
}
